//! The model planner: a language model behind any OpenAI-compatible API fills in the draft.
//!
//! What is sent is redacted and delimited (`prompt`), what comes back is checked before anybody else sees it
//! (`answer`), and one call is ended at its timeout and made again as the settings allow (`endpoint`, `pace`).

mod answer;
mod endpoint;
mod error;
mod key;
mod pace;
mod price;
mod prompt;
mod settings;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
pub(in crate::planner) mod tests;

pub use error::ModelError;
pub use key::ApiKey;
pub use price::Price;
pub use settings::{ModelSettings, settings};

use crate::api::{StructuredOutput, Usage};
use crate::draft::Draft;
use crate::planner::PlanningInput;
use answer::Completion;
use async_openai::types::chat::{
    ChatCompletionRequestMessage, ChatCompletionRequestUserMessage, CreateChatCompletionRequest, ResponseFormat,
    ResponseFormatJsonSchema,
};
use endpoint::Endpoint;
use pace::Bucket;
use serde_json::Value;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Takes out of a text everything that looks like a credential.
pub type Redact = fn(&str) -> String;

/// The tools that a draft may use, as a model is told of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ToolCatalogue {
    /// JSON Schema of the whole draft, in the form that strict structured output takes.
    pub schema: Value,
    /// Each tool.
    pub tools: Vec<ToolDescription>,
}

/// One tool, as a model is told of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ToolDescription {
    /// The name that drafts use.
    pub name: String,
    /// What it does, in one or two sentences.
    pub description: String,
    /// Whether it only reads.
    pub read_only: bool,
    /// JSON Schema of its parameters.
    pub parameters: Value,
}

/// A planner that asks a language model.
///
/// It keeps count of its calls for the rate limit: keep one planner for as long as its settings stay the same
/// ([`ModelPlanner::settings`] tells), rather than making one for each request.
pub struct ModelPlanner {
    settings: ModelSettings,
    endpoint: Endpoint,
    bucket: Option<Bucket>,
    redact: Redact,
    dialect: Dialect,
}

/// What newer models want otherwise. The API names the parameter it does not take, and is then asked again without it.
#[derive(Debug, Default)]
struct Dialect {
    max_completion_tokens: AtomicBool,
    no_temperature: AtomicBool,
}

impl ModelPlanner {
    /// A planner for these settings. `redact` is applied to everything that goes into a prompt and to every message of
    /// the server.
    ///
    /// # Errors
    /// [`ModelError::Settings`] when no HTTP client can be made for the address.
    pub fn new(settings: ModelSettings, redact: Redact) -> Result<Self, ModelError> {
        Ok(Self {
            endpoint: Endpoint::new(&settings, redact)?,
            bucket: settings.requests_per_minute.map(Bucket::new),
            settings,
            redact,
            dialect: Dialect::default(),
        })
    }

    /// What the planner was made for.
    #[must_use]
    pub fn settings(&self) -> &ModelSettings {
        &self.settings
    }

    /// Asks the model for a draft, and checks the answer. An answer that is no draft is sent back once with what was
    /// wrong with it.
    ///
    /// # Errors
    /// [`ModelError`] when the endpoint fails more often than may be retried, the model declines, or the second answer
    /// is no draft either.
    pub async fn propose(&self, input: &PlanningInput, tools: &ToolCatalogue) -> Result<(Draft, Usage), ModelError> {
        let mode = self.settings.structured_output;
        let mut messages = prompt::messages(input, tools, mode, self.redact);
        let mut spent = Spent::default();
        let mut repaired = false;
        loop {
            let completion = self.ask(&messages, tools).await?;
            spent.add(&completion);
            let content = completion.content(self.settings.max_tokens).map_err(|error| self.readable(error))?;
            let content = self.endpoint.without_key(&content);
            match answer::draft(&content, mode, tools).map_err(|error| self.readable(error)) {
                Ok(draft) => return Ok((draft, self.usage(spent))),
                Err(error) if error.is_repairable() && !repaired => {
                    tracing::debug!(%error, "asking the model to correct its answer");
                    messages.extend(prompt::repair(&(self.redact)(&content), &error.flaw()));
                    repaired = true;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Asks the endpoint whether it is there and accepts the key, at next to no cost, and once: says what it found.
    ///
    /// # Errors
    /// [`ModelError`] as for [`ModelPlanner::propose`].
    pub async fn probe(&self) -> Result<String, ModelError> {
        let model = &self.settings.model;
        match self.endpoint.models().await {
            Ok(list) => {
                let offered = list.get("data").and_then(Value::as_array);
                let named = |entry: &Value| entry.get("id").and_then(Value::as_str) == Some(model);
                Ok(match offered {
                    Some(offered) if offered.iter().any(named) => format!("the endpoint answers and offers '{model}'"),
                    Some(offered) => format!(
                        "the endpoint answers; '{model}' is not among the {} models that it lists, which may be an alias",
                        offered.len()
                    ),
                    None => "the endpoint answers, with no list of models".to_owned(),
                })
            }
            // Not every compatible server lists its models.
            Err(ModelError::Rejected { status: 404 | 405, .. }) => {
                let request = self.request(&[ChatCompletionRequestUserMessage::from("ping").into()], None, 1);
                self.complete(request).await?;
                Ok(format!("the endpoint answers and '{model}' completes"))
            }
            Err(error) => Err(error),
        }
    }

    /// One answer, with as many attempts as the settings allow.
    async fn ask(
        &self,
        messages: &[ChatCompletionRequestMessage],
        tools: &ToolCatalogue,
    ) -> Result<Completion, ModelError> {
        let format = match self.settings.structured_output {
            StructuredOutput::JsonSchema => Some(ResponseFormat::JsonSchema {
                json_schema: ResponseFormatJsonSchema {
                    description: None,
                    name: "draft".to_owned(),
                    schema: tools.schema.clone(),
                    strict: Some(true),
                },
            }),
            StructuredOutput::JsonObject => Some(ResponseFormat::JsonObject),
            StructuredOutput::Prompt => None,
        };
        let mut retry = 0;
        loop {
            let request = self.request(messages, format.clone(), self.settings.max_tokens);
            let error = match self.complete(request).await {
                Ok(completion) => return Ok(completion),
                Err(error) => error,
            };
            if retry >= self.settings.retries || !error.is_transient() {
                return Err(error);
            }
            let (first, longest) = (self.settings.first_backoff, self.settings.timeout);
            let Some(wait) = pace::backoff(retry, first, error.retry_after(), longest) else { return Err(error) };
            tracing::debug!(%error, ?wait, retry, "asking the model again");
            tokio::time::sleep(wait).await;
            retry += 1;
        }
    }

    /// One call within the rate limit, spoken in the endpoint's dialect.
    async fn complete(&self, mut request: CreateChatCompletionRequest) -> Result<Completion, ModelError> {
        loop {
            if let Some(bucket) = &self.bucket {
                tokio::time::sleep(bucket.take(Instant::now(), self.settings.timeout)?).await;
            }
            match self.endpoint.complete(&request).await {
                Ok(answer) => return self.completion(answer),
                Err(ModelError::Rejected { status: 400, message }) if self.dialect.learn(&message, &request) => {
                    self.dialect.apply(&mut request);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn completion(&self, answer: Value) -> Result<Completion, ModelError> {
        // Some gateways report the failure of the model behind them as a success of their own.
        if let Some(error) = answer.get("error").filter(|error| !error.is_null()) {
            let words = error.get("message").and_then(Value::as_str).map_or_else(|| error.to_string(), str::to_owned);
            return Err(ModelError::Unavailable {
                status: 200,
                message: self.endpoint.brief(&words),
                retry_after: None,
            });
        }
        serde_json::from_value(answer).map_err(|error| {
            let found = format!("JSON that is no chat completion ({error})");
            ModelError::NotTheApi { found: self.endpoint.brief(&found) }
        })
    }

    fn request(
        &self,
        messages: &[ChatCompletionRequestMessage],
        response_format: Option<ResponseFormat>,
        max_tokens: u32,
    ) -> CreateChatCompletionRequest {
        let mut request = CreateChatCompletionRequest {
            model: self.settings.model.clone(),
            messages: messages.to_vec(),
            response_format,
            // The same request should give the same plan, as far as the model allows.
            temperature: Some(0.0),
            ..CreateChatCompletionRequest::default()
        };
        set_limit(&mut request, Some(max_tokens));
        self.dialect.apply(&mut request);
        request
    }

    fn usage(&self, spent: Spent) -> Usage {
        let model = spent.model.map(|name| self.endpoint.brief(&name)).filter(|name| !name.is_empty());
        let counted = spent.prompt > 0 || spent.completion > 0;
        Usage {
            model: model.unwrap_or_else(|| self.settings.model.clone()),
            prompt_tokens: spent.prompt,
            completion_tokens: spent.completion,
            cost: match &self.settings.price {
                Some(price) if counted => price.of(spent.prompt, spent.completion),
                _ => None,
            },
        }
    }

    /// An error that holds words of the model, fit to be shown.
    fn readable(&self, error: ModelError) -> ModelError {
        let brief = |text: String| self.endpoint.brief(&text);
        match error {
            ModelError::Refused { message } => ModelError::Refused { message: brief(message) },
            ModelError::Broken { what } => ModelError::Broken { what: brief(what) },
            ModelError::UnknownTool { tool, nearest } => ModelError::UnknownTool { tool: brief(tool), nearest },
            other => other,
        }
    }
}

impl fmt::Debug for ModelPlanner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelPlanner").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Dialect {
    /// Whether the message asks for something that the request can still do without.
    fn learn(&self, message: &str, request: &CreateChatCompletionRequest) -> bool {
        if limit(request).is_some() && message.contains("max_completion_tokens") {
            self.max_completion_tokens.store(true, Ordering::Relaxed);
            return true;
        }
        if request.temperature.is_some() && message.contains("temperature") {
            self.no_temperature.store(true, Ordering::Relaxed);
            return true;
        }
        false
    }

    fn apply(&self, request: &mut CreateChatCompletionRequest) {
        if self.max_completion_tokens.load(Ordering::Relaxed)
            && let Some(most) = limit(request)
        {
            set_limit(request, None);
            request.max_completion_tokens = Some(most);
        }
        if self.no_temperature.load(Ordering::Relaxed) {
            request.temperature = None;
        }
    }
}

/// The one name for the limit that every compatible server knows.
#[expect(deprecated, reason = "its successor is unknown to many compatible servers")]
fn limit(request: &CreateChatCompletionRequest) -> Option<u32> {
    request.max_tokens
}

#[expect(deprecated, reason = "its successor is unknown to many compatible servers")]
fn set_limit(request: &mut CreateChatCompletionRequest, most: Option<u32>) {
    request.max_tokens = most;
}

/// What the answers to one request took, together.
#[derive(Debug, Default)]
struct Spent {
    model: Option<String>,
    prompt: u64,
    completion: u64,
}

impl Spent {
    fn add(&mut self, completion: &Completion) {
        let (prompt, received) = completion.tokens();
        self.prompt = self.prompt.saturating_add(prompt);
        self.completion = self.completion.saturating_add(received);
        self.model = completion.model.clone().or_else(|| self.model.take());
    }
}
