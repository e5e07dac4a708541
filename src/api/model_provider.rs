use super::schema;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time};
use kube::core::Duration;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A language model behind an OpenAI-compatible API.
#[derive(CustomResource, Clone, Debug, Deserialize, Serialize, KubeSchema, PartialEq)]
#[kube(
    group = "countersign.dev",
    version = "v1alpha1",
    kind = "ModelProvider",
    shortname = "model",
    category = "countersign",
    status = "ModelProviderStatus",
    derive = "PartialEq",
    doc = "A language model behind an OpenAI-compatible API that proposes plans. Without one, the built-in planner serves.",
    printcolumn(name = "Model", type_ = "string", json_path = ".spec.model"),
    printcolumn(name = "Default", type_ = "boolean", json_path = ".spec.default"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "URL", type_ = "string", json_path = ".spec.baseURL", priority = "1"),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].message",
        priority = "1"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct ModelProviderSpec {
    /// Where the API is, up to and including the version: `https://api.example.com/v1`.
    #[serde(rename = "baseURL")]
    #[schemars(length(max = 2048))]
    #[x_kube(validation = Rule::new("self.matches('^https?://[^\\\\s/]+')").message("baseURL must start with http:// or https:// and a host"))]
    pub base_url: String,
    /// The model's name at the provider.
    #[schemars(length(min = 1, max = 253))]
    pub model: String,
    /// The API key: a Secret in the operator's namespace; none is sent when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_secret_ref: Option<SecretKeyRef>,
    /// Serves commands that name no provider. If several say so, the first by name does.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub default: bool,
    /// Namespaces whose commands may use the provider; all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// The longest that one call may take; 30 s when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub timeout: Option<Duration>,
    /// How often a failed call is tried again, with exponential backoff; 3 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 10))]
    pub retries: Option<u32>,
    /// The most tokens that an answer may have; 4096 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 64, max = 1_000_000))]
    pub max_tokens: Option<u32>,
    /// Price list, for the usage on each command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<ModelPrice>,
    /// How much may be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
    /// How the model is held to the draft's schema.
    #[serde(default)]
    pub structured_output: StructuredOutput,
    /// Who serves when this provider does not; the built-in planner when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Fallback>,
}

/// One key of a Secret in the operator's namespace.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key within it; `apiKey` when absent.
    #[serde(default = "default_key")]
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

fn default_key() -> String {
    "apiKey".to_owned()
}

/// Price per million tokens.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ModelPrice {
    /// Per million tokens sent, as a decimal number.
    #[schemars(pattern(r"^[0-9]+(\.[0-9]+)?$"), length(max = 32))]
    pub prompt: String,
    /// Per million tokens received, as a decimal number.
    #[schemars(pattern(r"^[0-9]+(\.[0-9]+)?$"), length(max = 32))]
    pub completion: String,
    /// ISO 4217 code.
    #[schemars(pattern("^[A-Z]{3}$"), length(max = 3))]
    pub currency: String,
}

/// How much may be asked.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RateLimit {
    /// Calls a minute.
    #[schemars(range(min = 1, max = 100_000))]
    pub requests_per_minute: u32,
}

/// How the model is held to the draft's schema.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum StructuredOutput {
    /// `response_format: json_schema` with `strict: true`.
    #[default]
    JsonSchema,
    /// `response_format: json_object`, the schema being part of the prompt.
    JsonObject,
    /// No response format; the schema is part of the prompt.
    Prompt,
}

/// Who serves when a provider does not: exactly one of both.
#[derive(Clone, Debug, Deserialize, Serialize, KubeSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.provider) != has(self.builtin)").message("fallback names either a provider or builtin: true"))]
pub struct Fallback {
    /// Another ModelProvider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub provider: Option<String>,
    /// The built-in planner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub builtin: Option<bool>,
}

/// How a provider does.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ModelProviderStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Conditions: `Ready`, `Stalled`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
    /// The last probe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_probe: Option<ProviderProbe>,
}

/// One probe of a provider.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ProviderProbe {
    /// When.
    pub at: Time,
    /// Whether the API answered.
    pub succeeded: bool,
    /// What it said.
    pub message: String,
}
