use std::fmt;
use std::time::Duration;

/// Why a model gave no draft.
///
/// Every message says what happened and what to do next. What a server said stands in them cleaned of the API key and
/// of anything that looks like a credential, and cut to a readable length.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ModelError {
    /// A field of the provider cannot be used as it is.
    Settings {
        /// The field as it stands in the spec.
        field: &'static str,
        /// What was wanted and what was found.
        problem: String,
    },
    /// One call took longer than the timeout.
    Timeout {
        /// The timeout.
        after: Duration,
    },
    /// No connection, or it broke.
    Connection {
        /// Scheme, host and port.
        endpoint: String,
        /// What the network said.
        message: String,
    },
    /// The API key was not accepted (401, 403).
    Unauthorized {
        /// HTTP status.
        status: u16,
        /// What the server said.
        message: String,
    },
    /// The server wants fewer calls (429).
    RateLimited {
        /// How long the server wants to be left alone, if it said so.
        retry_after: Option<Duration>,
    },
    /// The account has nothing left to spend (429 or 402); trying again does not help.
    QuotaExhausted {
        /// What the server said.
        message: String,
    },
    /// The provider's own rate limit is used up, and the next turn comes after the timeout.
    OverOwnLimit {
        /// Calls a minute that the spec allows.
        per_minute: u32,
        /// When the next call could be made.
        next_in: Duration,
    },
    /// The server failed (5xx, or an error in place of an answer).
    Unavailable {
        /// HTTP status.
        status: u16,
        /// What the server said.
        message: String,
        /// How long the server wants to be left alone, if it said so.
        retry_after: Option<Duration>,
    },
    /// The server understood the call and turned it down (other 4xx), or sent us elsewhere (3xx).
    Rejected {
        /// HTTP status.
        status: u16,
        /// What the server said.
        message: String,
    },
    /// What answered does not speak the chat-completions API.
    NotTheApi {
        /// What was found instead.
        found: String,
    },
    /// The model declined.
    Refused {
        /// The model's words.
        message: String,
    },
    /// The answer was cut because it reached the token limit.
    TooLong {
        /// The limit.
        max_tokens: u32,
    },
    /// The answer is not a draft.
    Broken {
        /// What was wanted and what was found.
        what: String,
    },
    /// The answer uses a tool that does not exist.
    UnknownTool {
        /// The name in the answer.
        tool: String,
        /// The most similar tool, if one is similar.
        nearest: Option<String>,
    },
}

impl ModelError {
    /// What happened, to be read after a subject: `did not answer within 30s`.
    #[must_use]
    pub fn happened(&self) -> String {
        match self {
            Self::Settings { field, problem } => format!("cannot be used: {field} {problem}"),
            Self::Timeout { after } => format!("did not answer within {after:?}"),
            Self::Connection { endpoint, message } => format!("could not be reached at {endpoint} ({message})"),
            Self::Unauthorized { status, message } => format!("did not accept the API key (HTTP {status}: {message})"),
            Self::RateLimited { retry_after: Some(wait) } => {
                format!("wants fewer calls (HTTP 429, next one in {wait:?})")
            }
            Self::RateLimited { retry_after: None } => "wants fewer calls (HTTP 429)".to_owned(),
            Self::QuotaExhausted { message } => format!("has no quota left ({message})"),
            Self::OverOwnLimit { per_minute, next_in } => {
                format!("has used up its {per_minute} calls a minute (next one in {}s)", next_in.as_secs().max(1))
            }
            Self::Unavailable { status, message, .. } => format!("failed (HTTP {status}: {message})"),
            Self::Rejected { status, message } => format!("turned the call down (HTTP {status}: {message})"),
            Self::NotTheApi { found } => format!("did not speak the chat-completions API: {found}"),
            Self::Refused { message } => format!("declined: {}", message.trim_end_matches('.')),
            Self::TooLong { max_tokens } => format!("had its answer cut at {max_tokens} tokens"),
            Self::Broken { what } => format!("answered with something that is not a draft: {what}"),
            Self::UnknownTool { tool, nearest: None } => format!("used the tool '{tool}', which does not exist"),
            Self::UnknownTool { tool, nearest: Some(nearest) } => {
                format!("used the tool '{tool}', which does not exist (nearest: '{nearest}')")
            }
        }
    }

    fn advice(&self) -> &'static str {
        match self {
            Self::Settings { .. } => "correct the ModelProvider",
            Self::Timeout { .. } => "check that baseURL answers from where the operator runs, or raise timeout",
            Self::Connection { .. } => "check baseURL, DNS, network policies and the server's certificate",
            Self::Unauthorized { .. } => {
                "check the Secret that apiKeySecretRef names, and that its key may use the model"
            }
            Self::RateLimited { .. } => "set rateLimit below what the endpoint allows, or ask again later",
            Self::QuotaExhausted { .. } => "top up the account at the endpoint, or name a fallback",
            Self::OverOwnLimit { .. } => "ask again later, raise rateLimit, or name a fallback",
            Self::Unavailable { .. } => "ask again later, or name a fallback",
            Self::Rejected { .. } => "check model, baseURL, maxTokens and structuredOutput against what it offers",
            Self::NotTheApi { .. } => "check that baseURL ends with the version of an OpenAI-compatible API",
            Self::Refused { .. } => "put the request in other words",
            Self::TooLong { .. } => "raise maxTokens, or ask for less at once",
            Self::Broken { .. } | Self::UnknownTool { .. } => {
                "ask again, or choose a model that follows JSON schemas better"
            }
        }
    }

    /// Whether the same call may succeed when it is made again.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Timeout { .. } | Self::Connection { .. } | Self::RateLimited { .. } | Self::Unavailable { .. }
        )
    }

    /// How long the server wants to be left alone, if it said so.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after } | Self::Unavailable { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether telling the model what was wrong with its answer may help.
    pub(super) fn is_repairable(&self) -> bool {
        matches!(self, Self::Broken { .. } | Self::UnknownTool { .. })
    }

    /// What was wrong with an answer, for the model that gave it.
    pub(super) fn flaw(&self) -> String {
        match self {
            Self::Broken { what } => what.clone(),
            other => format!("it {}", other.happened()),
        }
    }

    pub(super) fn broken(what: impl Into<String>) -> Self {
        Self::Broken { what: what.into() }
    }
}

impl fmt::Display for ModelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the model endpoint {}; {}", self.happened(), self.advice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_says_what_happened_and_what_to_do() {
        let wait = Some(Duration::from_secs(7));
        let message = || "overloaded".to_owned();
        let all = [
            ModelError::Settings { field: "timeout", problem: "must be more than 0s, found 0s".into() },
            ModelError::Timeout { after: Duration::from_secs(30) },
            ModelError::Connection { endpoint: "http://127.0.0.1:9".into(), message: "connection refused".into() },
            ModelError::Unauthorized { status: 401, message: message() },
            ModelError::RateLimited { retry_after: wait },
            ModelError::RateLimited { retry_after: None },
            ModelError::QuotaExhausted { message: message() },
            ModelError::OverOwnLimit { per_minute: 3, next_in: Duration::from_secs(20) },
            ModelError::Unavailable { status: 503, message: message(), retry_after: wait },
            ModelError::Rejected { status: 400, message: message() },
            ModelError::NotTheApi { found: "text/html".into() },
            ModelError::Refused { message: "I cannot help with that.".into() },
            ModelError::TooLong { max_tokens: 4096 },
            ModelError::Broken { what: "confidence must be from 0 to 1, found 7".into() },
            ModelError::UnknownTool { tool: "scal".into(), nearest: Some("scale".into()) },
            ModelError::UnknownTool { tool: "rm".into(), nearest: None },
        ];
        let text = all.iter().map(|error| format!("{error}\n")).collect::<String>();
        insta::assert_snapshot!(text, @r#"
        the model endpoint cannot be used: timeout must be more than 0s, found 0s; correct the ModelProvider
        the model endpoint did not answer within 30s; check that baseURL answers from where the operator runs, or raise timeout
        the model endpoint could not be reached at http://127.0.0.1:9 (connection refused); check baseURL, DNS, network policies and the server's certificate
        the model endpoint did not accept the API key (HTTP 401: overloaded); check the Secret that apiKeySecretRef names, and that its key may use the model
        the model endpoint wants fewer calls (HTTP 429, next one in 7s); set rateLimit below what the endpoint allows, or ask again later
        the model endpoint wants fewer calls (HTTP 429); set rateLimit below what the endpoint allows, or ask again later
        the model endpoint has no quota left (overloaded); top up the account at the endpoint, or name a fallback
        the model endpoint has used up its 3 calls a minute (next one in 20s); ask again later, raise rateLimit, or name a fallback
        the model endpoint failed (HTTP 503: overloaded); ask again later, or name a fallback
        the model endpoint turned the call down (HTTP 400: overloaded); check model, baseURL, maxTokens and structuredOutput against what it offers
        the model endpoint did not speak the chat-completions API: text/html; check that baseURL ends with the version of an OpenAI-compatible API
        the model endpoint declined: I cannot help with that; put the request in other words
        the model endpoint had its answer cut at 4096 tokens; raise maxTokens, or ask for less at once
        the model endpoint answered with something that is not a draft: confidence must be from 0 to 1, found 7; ask again, or choose a model that follows JSON schemas better
        the model endpoint used the tool 'scal', which does not exist (nearest: 'scale'); ask again, or choose a model that follows JSON schemas better
        the model endpoint used the tool 'rm', which does not exist; ask again, or choose a model that follows JSON schemas better
        "#);
    }
}
