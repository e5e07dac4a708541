//! Requests to the API server as they go over the wire: paths, queries, and what the answers mean.

use super::error::{Attempt, ClusterError};
use super::{Access, ResourceKind};
use http::{Method, header};
use kube::client::Body;
use serde_json::Value;
use std::time::Duration;

/// The API server itself gives up on a request after a minute; admission webhooks may use up most of it.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(65);
pub(super) const JSON: &str = "application/json";

/// One request. The query is encoded here, so that no value can change what is asked for.
pub(super) struct Request {
    pub method: Method,
    pub path: String,
    pub query: Vec<(&'static str, String)>,
    pub accept: &'static str,
    pub content_type: &'static str,
    pub body: Option<Value>,
}

impl Request {
    pub fn get(path: String) -> Self {
        Self { method: Method::GET, path, query: Vec::new(), accept: JSON, content_type: JSON, body: None }
    }

    pub fn with_body(method: Method, path: String, content_type: &'static str, body: Value) -> Self {
        Self { method, content_type, body: Some(body), ..Self::get(path) }
    }

    fn uri(&self) -> String {
        let mut uri = self.path.clone();
        for (position, (name, value)) in self.query.iter().enumerate() {
            uri.push(if position == 0 { '?' } else { '&' });
            uri.push_str(name);
            uri.push('=');
            encode(value, &mut uri);
        }
        uri
    }
}

/// Where an object or a collection of `kind` lives below the server's address.
pub(super) struct Location<'l> {
    pub kind: &'l ResourceKind,
    /// The version to speak; that of the catalog unless the object names another one of the same group.
    pub version: &'l str,
    pub namespace: Option<&'l str>,
    pub name: Option<&'l str>,
    pub subresource: Option<&'l str>,
}

impl Location<'_> {
    /// The path, or what is wrong with one of its parts. Names come from requests in plain words: one that holds a
    /// slash would address something else than what was approved.
    pub fn path(&self) -> Result<String, String> {
        let kind = self.kind;
        let mut path = if kind.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", kind.group) };
        let mut push = |what: &str, segment: &str| -> Result<(), String> {
            if segment.is_empty() || segment == "." || segment == ".." || segment.contains(['/', '%']) {
                return Err(format!("'{segment}' is not a possible {what}"));
            }
            path.push('/');
            encode(segment, &mut path);
            Ok(())
        };
        push("version", self.version)?;
        if kind.namespaced {
            if let Some(namespace) = self.namespace {
                push("kind of path", "namespaces")?;
                push("namespace", namespace)?;
            } else if self.name.is_some() {
                return Err(format!("a {} lives in a namespace, and none is given", kind.kind));
            }
        }
        push("resource", &kind.plural)?;
        if let Some(name) = self.name {
            push("name", name)?;
        }
        if let Some(subresource) = self.subresource {
            push("subresource", subresource)?;
        }
        Ok(path)
    }
}

fn encode(text: &str, into: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            into.push(char::from(byte));
        } else {
            into.push_str(&format!("%{byte:02X}"));
        }
    }
}

impl Access {
    /// What is being tried, for errors.
    pub(super) fn attempt(&self, action: String) -> Attempt {
        Attempt { action, identity: self.identity().to_owned() }
    }

    /// Sends a request and gives the body of a 2xx answer.
    pub(super) async fn send(&self, attempt: &Attempt, request: Request) -> Result<Vec<u8>, ClusterError> {
        let http_request = http::Request::builder()
            .method(request.method.clone())
            .uri(request.uri())
            .header(header::ACCEPT, request.accept)
            .header(header::CONTENT_TYPE, request.content_type)
            .body(Body::from(request.body.map(|body| body.to_string().into_bytes()).unwrap_or_default()))
            .map_err(|error| ClusterError::Other { attempt: attempt.clone(), message: error.to_string() })?;
        let exchange = async {
            let response = self.client.send(http_request).await?;
            let code = response.status();
            let retry_after = response
                .headers()
                .get(header::RETRY_AFTER)
                .and_then(|value| value.to_str().ok()?.parse().ok())
                .map(Duration::from_secs);
            let body = response.into_body().collect_bytes().await?;
            Ok::<_, kube::Error>((code, retry_after, body))
        };
        let (code, retry_after, body) = tokio::time::timeout(REQUEST_TIMEOUT, exchange)
            .await
            .map_err(|_| ClusterError::Transient {
                attempt: attempt.clone(),
                message: format!("the API server did not answer within {} s", REQUEST_TIMEOUT.as_secs()),
                retry_after: None,
            })?
            .map_err(|error| ClusterError::of_client(attempt.clone(), &error))?;
        if code.is_success() {
            return Ok(body.to_vec());
        }
        Err(ClusterError::of_answer(attempt.clone(), code.as_u16(), retry_after, &String::from_utf8_lossy(&body)))
    }

    /// Sends a request and gives the JSON of a 2xx answer.
    pub(super) async fn send_json(&self, attempt: &Attempt, request: Request) -> Result<Value, ClusterError> {
        let body = self.send(attempt, request).await?;
        serde_json::from_slice(&body).map_err(|error| ClusterError::Other {
            attempt: attempt.clone(),
            message: format!("the answer is not JSON: {error}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployments() -> ResourceKind {
        ResourceKind::sample("apps", "Deployment", "deployments", true)
    }

    fn path(namespace: Option<&str>, name: Option<&str>) -> Result<String, String> {
        Location { kind: &deployments(), version: "v1", namespace, name, subresource: None }.path()
    }

    #[test]
    fn paths_are_those_of_the_api_server() {
        assert_eq!(path(Some("a"), Some("b")).unwrap(), "/apis/apps/v1/namespaces/a/deployments/b");
        assert_eq!(path(None, None).unwrap(), "/apis/apps/v1/deployments");
        assert_eq!(path(Some("a"), Some("b:c?x")).unwrap(), "/apis/apps/v1/namespaces/a/deployments/b%3Ac%3Fx");
    }

    #[test]
    fn no_name_leads_elsewhere() {
        for name in ["../secrets/x", "b/scale", "..", ".", "", "b%2Fscale"] {
            assert!(path(Some("a"), Some(name)).is_err(), "{name}");
            assert!(path(Some(name), Some("b")).is_err(), "{name}");
        }
        assert!(path(None, Some("b")).is_err());
    }
}
