use super::{ApiKey, ModelError, Price};
use crate::api::{ModelProviderSpec, StructuredOutput};
use reqwest::Url;
use std::time::Duration;

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// Longer than any model takes; what is longer is a slip of the pen.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(3600);
const DEFAULT_RETRIES: u32 = 3;
const DEFAULT_MAX_TOKENS: u32 = 4096;
const FIRST_BACKOFF: Duration = Duration::from_millis(500);

/// Everything a [`ModelPlanner`](super::ModelPlanner) needs to know: a provider's spec with its defaults filled in, and
/// the key itself.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSettings {
    /// Where the API is, up to and including the version; without a trailing slash.
    pub base_url: String,
    /// The model's name at the provider.
    pub model: String,
    /// The API key; no `Authorization` header is sent when absent.
    pub key: Option<ApiKey>,
    /// The longest that one call may take.
    pub timeout: Duration,
    /// How often a failed call is tried again.
    pub retries: u32,
    /// The most that is waited before the first retry; doubles with each.
    pub first_backoff: Duration,
    /// The most tokens that an answer may have.
    pub max_tokens: u32,
    /// Price list.
    pub price: Option<Price>,
    /// How the model is held to the schema.
    pub structured_output: StructuredOutput,
    /// Calls a minute; without limit when absent.
    pub requests_per_minute: Option<u32>,
}

/// The settings of a provider, checked. `key` is what the Secret holds; surrounding white space is dropped.
///
/// # Errors
/// [`ModelError::Settings`] names the field that cannot be used, what was wanted and what was found.
pub fn settings(provider: &ModelProviderSpec, key: Option<String>) -> Result<ModelSettings, ModelError> {
    let model = provider.model.trim();
    if model.is_empty() {
        return Err(wrong("model", "must be the name of a model, found nothing".to_owned()));
    }
    Ok(ModelSettings {
        base_url: base_url(&provider.base_url)?,
        model: model.to_owned(),
        key: key.map(ApiKey::new).transpose()?,
        timeout: timeout(provider)?,
        retries: at_most("retries", provider.retries.unwrap_or(DEFAULT_RETRIES), 10)?,
        first_backoff: FIRST_BACKOFF,
        max_tokens: at_least_one("maxTokens", provider.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS))?,
        price: provider.price.as_ref().map(Price::parse).transpose()?,
        structured_output: provider.structured_output,
        requests_per_minute: provider
            .rate_limit
            .as_ref()
            .map(|limit| at_least_one("rateLimit.requestsPerMinute", limit.requests_per_minute))
            .transpose()?,
    })
}

fn base_url(text: &str) -> Result<String, ModelError> {
    let url = Url::parse(text.trim()).map_err(|error| wrong("baseURL", format!("must be a URL: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong("baseURL", format!("must begin with http:// or https://, found {}://", url.scheme())));
    }
    // What stands in a URL ends up in logs and proxies; the message must not repeat it either.
    if !url.username().is_empty() || url.password().is_some() {
        let problem = "must not hold a user name or password: put the key into a Secret and name it in apiKeySecretRef";
        return Err(wrong("baseURL", problem.to_owned()));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("baseURL", "must end with its path, found a query or fragment".to_owned()));
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

fn timeout(provider: &ModelProviderSpec) -> Result<Duration, ModelError> {
    let Some(wanted) = provider.timeout else { return Ok(DEFAULT_TIMEOUT) };
    let timeout = Duration::from(wanted);
    if wanted.is_negative() || timeout.is_zero() || timeout > LONGEST_TIMEOUT {
        return Err(wrong("timeout", format!("must be more than 0s and at most 1h, found {wanted}")));
    }
    Ok(timeout)
}

fn at_most(field: &'static str, found: u32, most: u32) -> Result<u32, ModelError> {
    if found > most { Err(wrong(field, format!("must be at most {most}, found {found}"))) } else { Ok(found) }
}

fn at_least_one(field: &'static str, found: u32) -> Result<u32, ModelError> {
    if found == 0 { Err(wrong(field, "must be at least 1, found 0".to_owned())) } else { Ok(found) }
}

fn wrong(field: &'static str, problem: String) -> ModelError {
    ModelError::Settings { field, problem }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec(changes: &Value) -> ModelProviderSpec {
        let mut spec = json!({ "baseURL": "https://llm.example.com/openai/v1/", "model": "small" });
        for (name, value) in changes.as_object().unwrap() {
            spec[name] = value.clone();
        }
        serde_json::from_value(spec).unwrap()
    }

    #[test]
    fn defaults_are_those_of_the_documentation() {
        let settings = settings(&spec(&json!({})), None).unwrap();
        assert_eq!(settings.base_url, "https://llm.example.com/openai/v1");
        assert_eq!((settings.timeout, settings.retries, settings.max_tokens), (Duration::from_secs(30), 3, 4096));
        assert_eq!(settings.structured_output, StructuredOutput::JsonSchema);
        assert!(settings.key.is_none() && settings.price.is_none() && settings.requests_per_minute.is_none());
    }

    #[test]
    fn what_the_spec_says_is_taken() {
        let settings = settings(
            &spec(&json!({
                "timeout": "1m30s", "retries": 0, "maxTokens": 100, "structuredOutput": "Prompt",
                "rateLimit": { "requestsPerMinute": 6 },
                "price": { "prompt": "0.15", "completion": "0.60", "currency": "USD" }
            })),
            Some("  sk-abc\n".to_owned()),
        )
        .unwrap();
        assert_eq!((settings.timeout, settings.retries, settings.max_tokens), (Duration::from_secs(90), 0, 100));
        assert_eq!(settings.key, Some(ApiKey::new("sk-abc".to_owned()).unwrap()));
        assert_eq!(settings.requests_per_minute, Some(6));
        assert!(settings.price.is_some());
        assert!(!format!("{settings:?}").contains("sk-abc"));
    }

    #[test]
    fn settings_differ_when_only_the_key_does() {
        let with = |key: &str| settings(&spec(&json!({})), Some(key.to_owned())).unwrap();
        assert_eq!(with("a"), with("a"));
        assert_ne!(with("a"), with("b"));
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let cases = [
            (json!({ "baseURL": "llm.example.com/v1" }), None),
            (json!({ "baseURL": "ftp://llm.example.com" }), None),
            (json!({ "baseURL": "https://joe:hunter2@llm.example.com/v1" }), None),
            (json!({ "baseURL": "https://llm.example.com/v1?key=hunter2" }), None),
            (json!({ "model": " " }), None),
            (json!({ "timeout": "0s" }), None),
            (json!({ "timeout": "-5s" }), None),
            (json!({ "timeout": "61m" }), None),
            (json!({ "retries": 11 }), None),
            (json!({ "maxTokens": 0 }), None),
            (json!({ "rateLimit": { "requestsPerMinute": 0 } }), None),
            (json!({ "price": { "prompt": "1,5", "completion": "1", "currency": "USD" } }), None),
            (json!({ "price": { "prompt": "1", "completion": "1", "currency": "dollars" } }), None),
            (json!({}), Some("  ")),
            (json!({}), Some("hunter2\nhunter2")),
        ];
        let text = cases
            .into_iter()
            .map(|(changes, key)| settings(&spec(&changes), key.map(str::to_owned)).unwrap_err().to_string() + "\n")
            .collect::<String>();
        assert!(!text.contains("hunter2"));
        insta::assert_snapshot!(text, @r#"
        the model endpoint cannot be used: baseURL must be a URL: relative URL without a base; correct the ModelProvider
        the model endpoint cannot be used: baseURL must begin with http:// or https://, found ftp://; correct the ModelProvider
        the model endpoint cannot be used: baseURL must not hold a user name or password: put the key into a Secret and name it in apiKeySecretRef; correct the ModelProvider
        the model endpoint cannot be used: baseURL must end with its path, found a query or fragment; correct the ModelProvider
        the model endpoint cannot be used: model must be the name of a model, found nothing; correct the ModelProvider
        the model endpoint cannot be used: timeout must be more than 0s and at most 1h, found 0ns; correct the ModelProvider
        the model endpoint cannot be used: timeout must be more than 0s and at most 1h, found -5s; correct the ModelProvider
        the model endpoint cannot be used: timeout must be more than 0s and at most 1h, found 3660s; correct the ModelProvider
        the model endpoint cannot be used: retries must be at most 10, found 11; correct the ModelProvider
        the model endpoint cannot be used: maxTokens must be at least 1, found 0; correct the ModelProvider
        the model endpoint cannot be used: rateLimit.requestsPerMinute must be at least 1, found 0; correct the ModelProvider
        the model endpoint cannot be used: price.prompt must be a decimal number such as 0.15, found '1,5'; correct the ModelProvider
        the model endpoint cannot be used: price.currency must be an ISO 4217 code such as USD, found 'dollars'; correct the ModelProvider
        the model endpoint cannot be used: apiKeySecretRef must name a key of a Secret with a value, found an empty one; correct the ModelProvider
        the model endpoint cannot be used: apiKeySecretRef must name an API key, found a value with characters that cannot stand in an HTTP header; correct the ModelProvider
        "#);
    }
}
