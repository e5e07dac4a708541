use super::{ApiKey, ModelError, ModelSettings, Redact, pace};
use async_openai::Client;
use async_openai::config::Config;
use async_openai::error::OpenAIError;
use async_openai::middleware::HttpRequestFactory;
use async_openai::types::chat::CreateChatCompletionRequest;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::{Response, StatusCode, Url};
use secrecy::SecretString;
use serde::de::IgnoredAny;
use serde_json::Value;
use std::time::Duration;

/// No draft comes near it; what is longer would only fill the memory.
pub(super) const LARGEST_BODY: usize = 8 * 1024 * 1024;
/// As much of a failure as is read, to find its message.
const LARGEST_FAILURE: usize = 64 * 1024;
/// Characters of a server's message that are passed on.
const LONGEST_MESSAGE: usize = 300;

/// One API at one address: each method is one call, made once, ended at the timeout.
pub(super) struct Endpoint {
    client: Client<Address>,
    cleaner: Cleaner,
}

impl Endpoint {
    pub(super) fn new(settings: &ModelSettings, redact: Redact) -> Result<Self, ModelError> {
        // reqwest is built without a TLS provider of its own; a second installation is refused, and the first is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let unusable = |problem: String| ModelError::Settings { field: "baseURL", problem };
        let url = Url::parse(&settings.base_url).map_err(|error| unusable(format!("must be a URL: {error}")))?;
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("countersign/", env!("CARGO_PKG_VERSION")))
            // A redirect would carry the prompt to an address that nobody configured.
            .redirect(reqwest::redirect::Policy::none());
        if is_loopback(&url) {
            builder = builder.no_proxy();
        }
        let http = builder.build().map_err(|error| unusable(format!("cannot be served: {error}")))?;
        let cleaner = Cleaner { key: settings.key.clone(), redact };
        let transport = Transport {
            http: http.clone(),
            timeout: settings.timeout,
            origin: url.origin().ascii_serialization(),
            cleaner: cleaner.clone(),
        };
        // The library's own service tries again by itself; ours makes one call, and the planner alone decides on retries.
        let service = tower::service_fn(move |request: HttpRequestFactory| {
            let transport = transport.clone();
            async move { transport.exchange(request).await.map_err(Failed) }
        });
        let client = Client::build(http, Address::new(settings)?).with_http_service(service);
        Ok(Self { client, cleaner })
    }

    /// `POST /chat/completions`.
    pub(super) async fn complete(&self, request: &CreateChatCompletionRequest) -> Result<Value, ModelError> {
        self.client.chat().create_byot(request).await.map_err(|error| self.ours(error))
    }

    /// `GET /models`.
    pub(super) async fn models(&self) -> Result<Value, ModelError> {
        self.client.models().list_byot().await.map_err(|error| self.ours(error))
    }

    /// Text from the other side as it is, but for our key.
    pub(super) fn without_key(&self, text: &str) -> String {
        self.cleaner.without_key(text)
    }

    /// Text from the other side for people: without credentials, on one line of readable length.
    pub(super) fn brief(&self, text: &str) -> String {
        self.cleaner.brief(text)
    }

    fn ours(&self, error: OpenAIError) -> ModelError {
        let error = match error {
            OpenAIError::Boxed(error) => match error.downcast::<Failed>() {
                Ok(failed) => return failed.0,
                Err(other) => other.to_string(),
            },
            other => other.to_string(),
        };
        ModelError::NotTheApi { found: self.brief(&error) }
    }
}

/// Makes the HTTP exchange for the library, and judges it.
#[derive(Clone)]
struct Transport {
    http: reqwest::Client,
    timeout: Duration,
    origin: String,
    cleaner: Cleaner,
}

impl Transport {
    async fn exchange(&self, request: HttpRequestFactory) -> Result<Response, ModelError> {
        let exchange = self.send(request);
        tokio::time::timeout(self.timeout, exchange).await.unwrap_or(Err(ModelError::Timeout { after: self.timeout }))
    }

    async fn send(&self, request: HttpRequestFactory) -> Result<Response, ModelError> {
        let request = request.build().await.map_err(|error| ModelError::Settings {
            field: "baseURL",
            problem: format!("cannot be called: {}", self.cleaner.brief(&error.to_string())),
        })?;
        let response = self.http.execute(request).await.map_err(|error| self.broken_off(error))?;
        let status = response.status();
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let content_type = header(CONTENT_TYPE).unwrap_or_else(|| "no content type".to_owned());
        let wait = header(RETRY_AFTER).and_then(|value| pace::retry_after(&value, jiff::Timestamp::now()));

        if !status.is_success() {
            // The status says what matters; a failure whose words break off is still that failure.
            let (body, _) = self.read(response, LARGEST_FAILURE).await.unwrap_or_default();
            return Err(self.failure(status, wait, &body));
        }
        let (body, whole) = self.read(response, LARGEST_BODY).await?;
        if !whole {
            let found = format!("an answer of more than {} MiB", LARGEST_BODY / 1024 / 1024);
            return Err(ModelError::NotTheApi { found });
        }
        if serde_json::from_slice::<IgnoredAny>(&body).is_err() {
            let start = self.cleaner.brief(&String::from_utf8_lossy(&body[..body.len().min(1024)]));
            let found = format!("{content_type} that is not JSON, beginning '{}'", cut(&start, 80));
            return Err(ModelError::NotTheApi { found: self.cleaner.brief(&found) });
        }
        Ok(Response::from(http::Response::new(body)))
    }

    /// Up to `limit` bytes of the body, and whether that is the whole.
    async fn read(&self, mut response: Response, limit: usize) -> Result<(Vec<u8>, bool), ModelError> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.broken_off(error))? {
            let room = limit - body.len();
            body.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if chunk.len() > room {
                return Ok((body, false));
            }
        }
        Ok((body, true))
    }

    fn failure(&self, status: StatusCode, retry_after: Option<Duration>, body: &[u8]) -> ModelError {
        let said = said(body);
        let message = match said.as_deref().map(|text| self.cleaner.brief(text)) {
            Some(text) if !text.is_empty() => text,
            _ => status.canonical_reason().unwrap_or("no message").to_owned(),
        };
        let number = status.as_u16();
        match number {
            401 | 403 => ModelError::Unauthorized { status: number, message },
            402 => ModelError::QuotaExhausted { message },
            429 if is_quota(body) => ModelError::QuotaExhausted { message },
            429 => ModelError::RateLimited { retry_after },
            408 | 500..=599 => ModelError::Unavailable { status: number, message, retry_after },
            _ => ModelError::Rejected { status: number, message },
        }
    }

    fn broken_off(&self, error: reqwest::Error) -> ModelError {
        let error = error.without_url();
        let mut innermost: &dyn std::error::Error = &error;
        while let Some(source) = innermost.source() {
            innermost = source;
        }
        ModelError::Connection { endpoint: self.origin.clone(), message: self.cleaner.brief(&innermost.to_string()) }
    }
}

/// The words of a failure: the `message` of the API's error object, of similar objects, or the text itself.
pub(super) fn said(body: &[u8]) -> Option<String> {
    let Ok(value) = serde_json::from_slice::<Value>(body) else {
        return Some(String::from_utf8_lossy(body).into_owned());
    };
    let places = ["/error/message", "/error", "/message", "/detail"];
    places.iter().find_map(|place| value.pointer(place)?.as_str()).map(str::to_owned)
}

/// An exhausted account answers 429 like a hurried one, but no wait will help it.
fn is_quota(body: &[u8]) -> bool {
    let Ok(value) = serde_json::from_slice::<Value>(body) else { return false };
    ["/error/code", "/error/type"]
        .iter()
        .any(|place| value.pointer(place).and_then(Value::as_str) == Some("insufficient_quota"))
}

/// Takes out of a text what must not be shown.
#[derive(Clone)]
struct Cleaner {
    key: Option<ApiKey>,
    redact: Redact,
}

impl Cleaner {
    fn without_key(&self, text: &str) -> String {
        self.key.as_ref().map_or_else(|| text.to_owned(), |key| key.taken_out_of(text))
    }

    fn brief(&self, text: &str) -> String {
        let text = (self.redact)(&self.without_key(text));
        let line = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
        cut(&line.collect::<Vec<_>>().join(" "), LONGEST_MESSAGE)
    }
}

/// At most `most` characters, the last of them an ellipsis where something was cut.
pub(super) fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

fn is_loopback(url: &Url) -> bool {
    match url.host_str() {
        Some("localhost") => true,
        Some(host) => {
            host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        }
        None => false,
    }
}

/// Carries our error through the library's.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct Failed(ModelError);

impl From<Failed> for OpenAIError {
    fn from(failed: Failed) -> Self {
        Self::Boxed(Box::new(failed))
    }
}

/// Where the API is and who calls. The library's own configuration reads addresses and keys from the environment.
struct Address {
    base_url: String,
    key: SecretString,
    headers: HeaderMap,
}

impl Address {
    fn new(settings: &ModelSettings) -> Result<Self, ModelError> {
        let mut headers = HeaderMap::new();
        if let Some(key) = &settings.key {
            headers.insert(AUTHORIZATION, key.authorization()?);
        }
        let key = settings.key.as_ref().map_or_else(|| SecretString::from(""), |key| key.secret().clone());
        Ok(Self { base_url: settings.base_url.clone(), key, headers })
    }
}

impl Config for Address {
    fn headers(&self) -> HeaderMap {
        self.headers.clone()
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base_url)
    }

    fn query(&self) -> Vec<(&str, &str)> {
        Vec::new()
    }

    fn api_base(&self) -> &str {
        &self.base_url
    }

    fn api_key(&self) -> &SecretString {
        &self.key
    }
}
