use reqwest::{StatusCode, Url};
use serde::Deserialize;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The longest that one query may take; the server is told so, too.
const QUERY_TIMEOUT: Duration = Duration::from_secs(15);
/// No answer to a check comes near it; what is longer would only fill the memory.
const LARGEST_ANSWER: usize = 4 * 1024 * 1024;
/// Characters of a server's message that are passed on.
const LONGEST_MESSAGE: usize = 300;

/// A server of the Prometheus HTTP API, for instant queries (<https://prometheus.io/docs/prometheus/latest/querying/api/>).
#[derive(Clone, Debug)]
pub struct Prometheus {
    http: reqwest::Client,
    query: Url,
    token_file: Option<PathBuf>,
}

/// What an instant query amounts to as a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Truth {
    /// The result has series, or is a number other than zero. In words: what was found.
    Holds(String),
    /// The result is empty, zero or no number. In words: what was found.
    DoesNotHold(String),
}

/// Why an instant query has no result.
#[derive(Debug, thiserror::Error)]
pub enum PrometheusError {
    /// The address cannot be used.
    #[error(
        "the address of Prometheus must be an http or https URL such as http://prometheus.monitoring:9090, found '{found}'"
    )]
    Address {
        /// What was given.
        found: String,
    },
    /// No client can be made.
    #[error("no connection to Prometheus can be set up")]
    Client(#[source] reqwest::Error),
    /// The token cannot be read.
    #[error("cannot read the token for Prometheus from {}", file.display())]
    Token {
        /// The file.
        file: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The expression is wrong, or takes too much.
    #[error("Prometheus refuses the expression: {0}")]
    Expression(String),
    /// The server does not let us ask.
    #[error("Prometheus refuses the operator ({0}): check --prometheus-token-file")]
    Unauthorized(StatusCode),
    /// The server cannot answer now.
    #[error("Prometheus cannot be asked: {0}")]
    Unavailable(String),
    /// The answer is none of this API.
    #[error("what answers is not Prometheus: {0}; check --prometheus-url")]
    NotTheApi(String),
}

impl PrometheusError {
    /// Whether the same query may work a little later.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

impl Prometheus {
    /// The server at `url`, its path prefix included. `token_file` holds a bearer token and is read for each query, so
    /// that it may be renewed.
    ///
    /// # Errors
    /// When the URL is none, or when there can be no TLS.
    pub fn new(url: &str, token_file: Option<&Path>) -> Result<Self, PrometheusError> {
        let address = || PrometheusError::Address { found: url.to_owned() };
        let mut query = Url::parse(url).map_err(|_| address())?;
        if !matches!(query.scheme(), "http" | "https") || query.host_str().is_none() {
            return Err(address());
        }
        query.path_segments_mut().map_err(|()| address())?.pop_if_empty().extend(["api", "v1", "query"]);
        // reqwest is built without a TLS provider of its own; a second installation is refused, and the first is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .user_agent(concat!("countersign/", env!("CARGO_PKG_VERSION")))
            .timeout(QUERY_TIMEOUT)
            // A redirect would carry the token to an address that nobody configured.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(PrometheusError::Client)?;
        Ok(Self { http, query, token_file: token_file.map(Path::to_owned) })
    }

    /// Whether `expression` holds now: as in an alert, a vector holds when it has any series, whatever their values.
    ///
    /// # Errors
    /// When the expression is wrong, or the server does not answer.
    pub async fn check(&self, expression: &str) -> Result<Truth, PrometheusError> {
        let mut url = self.query.clone();
        let seconds = QUERY_TIMEOUT.as_secs().to_string();
        url.query_pairs_mut().append_pair("query", expression).append_pair("timeout", &format!("{seconds}s"));
        let mut request = self.http.get(url);
        if let Some(file) = &self.token_file {
            let token = std::fs::read_to_string(file)
                .map_err(|source| PrometheusError::Token { file: file.clone(), source })?;
            request = request.bearer_auth(token.trim());
        }
        // The URL has the expression, and nothing secret.
        let unavailable = |error: reqwest::Error| PrometheusError::Unavailable(brief(&causes(&error.without_url())));
        let mut response = request.send().await.map_err(unavailable)?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unavailable)? {
            if body.len() + chunk.len() > LARGEST_ANSWER {
                let found = format!("a result of more than {} MiB: aggregate it", LARGEST_ANSWER / 1024 / 1024);
                return Err(PrometheusError::Expression(found));
            }
            body.extend_from_slice(&chunk);
        }
        read(status, &body)
    }
}

#[derive(Deserialize)]
#[serde(tag = "status", rename_all = "lowercase")]
enum Envelope {
    Success {
        data: Data,
    },
    Error {
        error: String,
        #[serde(rename = "errorType")]
        kind: String,
    },
}

#[derive(Deserialize)]
struct Data {
    #[serde(rename = "resultType")]
    kind: String,
    result: Value,
}

fn read(status: StatusCode, body: &[u8]) -> Result<Truth, PrometheusError> {
    if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        return Err(PrometheusError::Unauthorized(status));
    }
    let envelope = serde_json::from_slice::<Envelope>(body);
    match envelope {
        Ok(Envelope::Error { error, kind }) if matches!(kind.as_str(), "bad_data" | "execution") => {
            Err(PrometheusError::Expression(brief(&error)))
        }
        Ok(Envelope::Error { error, .. }) => Err(PrometheusError::Unavailable(brief(&error))),
        Ok(Envelope::Success { data }) => truth(&data),
        Err(_) if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
            Err(PrometheusError::Unavailable(format!("it answers {status}")))
        }
        Err(_) => Err(PrometheusError::NotTheApi(format!("it answers {status} without a result"))),
    }
}

fn truth(data: &Data) -> Result<Truth, PrometheusError> {
    let none = || PrometheusError::NotTheApi(format!("a {} without values", brief(&data.kind)));
    match data.kind.as_str() {
        "vector" => {
            let series = data.result.as_array().ok_or_else(none)?;
            let Some(first) = series.first() else {
                return Ok(Truth::DoesNotHold("no series".to_owned()));
            };
            let value = first["value"][1].as_str().unwrap_or("?");
            let more = if series.len() > 1 { format!(" and {} more series", series.len() - 1) } else { String::new() };
            Ok(Truth::Holds(format!("{}{more}", brief(value))))
        }
        "scalar" => {
            let value = data.result[1].as_str().ok_or_else(none)?;
            let number: f64 = value.parse().map_err(|_| none())?;
            let found = brief(value);
            Ok(if number == 0.0 || number.is_nan() { Truth::DoesNotHold(found) } else { Truth::Holds(found) })
        }
        kind => Err(PrometheusError::Expression(format!(
            "its result is a {}, wanted an instant vector or a scalar",
            brief(kind)
        ))),
    }
}

/// An error and all that caused it.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Text from the other side: on one line of readable length.
fn brief(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LONGEST_MESSAGE) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::{HeaderMap, Uri};
    use serde_json::json;

    fn answered(status: u16, body: &Value) -> Result<Truth, String> {
        let status = StatusCode::from_u16(status).unwrap();
        read(status, body.to_string().as_bytes()).map_err(|error| error.to_string())
    }

    fn result(kind: &str, result: &Value) -> Value {
        json!({ "status": "success", "data": { "resultType": kind, "result": result } })
    }

    #[test]
    fn a_vector_holds_when_it_has_series() {
        let one = json!({ "metric": {}, "value": [1.0, "0"] });
        assert_eq!(answered(200, &result("vector", &json!([]))), Ok(Truth::DoesNotHold("no series".into())));
        assert_eq!(answered(200, &result("vector", &json!([one]))), Ok(Truth::Holds("0".into())));
        let three = answered(200, &result("vector", &json!([one, one, one])));
        assert_eq!(three, Ok(Truth::Holds("0 and 2 more series".into())));
    }

    #[test]
    fn a_scalar_holds_when_it_is_a_number_other_than_zero() {
        for (value, holds) in [("1", true), ("-0.5", true), ("+Inf", true), ("0", false), ("NaN", false)] {
            let found = answered(200, &result("scalar", &json!([1.0, value]))).unwrap();
            assert_eq!(matches!(found, Truth::Holds(_)), holds, "{value}");
        }
    }

    #[test]
    fn failures_say_what_to_do() {
        let error =
            |kind: &str| json!({ "status": "error", "errorType": kind, "error": "parse error:\n unexpected x" });
        for (status, body, says) in [
            (400, error("bad_data"), "Prometheus refuses the expression: parse error: unexpected x"),
            (422, error("execution"), "Prometheus refuses the expression"),
            (503, error("timeout"), "Prometheus cannot be asked: parse error"),
            (502, json!("<html>"), "Prometheus cannot be asked: it answers 502 Bad Gateway"),
            (401, json!(""), "check --prometheus-token-file"),
            (404, json!("not found"), "what answers is not Prometheus"),
            (200, json!({ "hello": 1 }), "check --prometheus-url"),
            (200, result("matrix", &json!([])), "wanted an instant vector or a scalar"),
            (200, result("scalar", &json!([1.0, "many"])), "a scalar without values"),
        ] {
            let found = answered(status, &body).unwrap_err();
            assert!(found.contains(says), "{status} {body}: {found}");
        }
    }

    #[test]
    fn an_address_must_be_one() {
        for wrong in ["prometheus:9090", "ftp://prometheus", "", "http://"] {
            assert!(matches!(Prometheus::new(wrong, None), Err(PrometheusError::Address { .. })), "{wrong}");
        }
        for right in ["http://prometheus:9090", "https://metrics.example/prometheus/"] {
            let query = Prometheus::new(right, None).unwrap().query;
            assert!(query.path().ends_with("/api/v1/query") && !query.path().contains("//"), "{query}");
        }
    }

    #[tokio::test]
    async fn the_expression_and_the_token_arrive() {
        let answer = async |headers: HeaderMap, uri: Uri| {
            let token = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
            let url = Url::parse(&format!("http://prometheus{uri}")).unwrap();
            let asked = url.query_pairs().find(|(name, _)| name == "query").map(|(_, value)| value.into_owned());
            let right = token == "Bearer abc" && asked.as_deref() == Some("up{job=\"a b\"} > 0 & 1");
            let series = if right { json!([{ "metric": {}, "value": [1.0, "7"] }]) } else { json!([]) };
            axum::Json(json!({ "status": "success", "data": { "resultType": "vector", "result": series } }))
        };
        let app = axum::Router::new().route("/p/api/v1/query", axum::routing::get(answer));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move { axum::serve(listener, app).await });
        let token = std::env::temp_dir().join(format!("countersign-token-{}", std::process::id()));
        std::fs::write(&token, "abc\n").unwrap();
        let prometheus = Prometheus::new(&format!("http://{address}/p/"), Some(&token)).unwrap();
        assert_eq!(prometheus.check("up{job=\"a b\"} > 0 & 1").await.unwrap(), Truth::Holds("7".into()));
        std::fs::remove_file(&token).unwrap();
        server.abort();
        let _ = server.await;
        let missing = prometheus.check("up").await.unwrap_err();
        assert!(matches!(missing, PrometheusError::Token { .. }), "{missing}");
        let gone = Prometheus::new(&format!("http://{address}"), None).unwrap().check("up").await.unwrap_err();
        assert!(gone.is_transient(), "{gone}");
    }
}
