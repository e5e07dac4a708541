//! A server on the loopback interface that speaks the chat-completions API and answers from a script.

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, Response, Uri, header};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// One answer of the server.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// A response with this status, these headers and this body.
    Whole { status: u16, headers: Vec<(&'static str, String)>, body: String },
    /// Takes the call and never answers.
    Hang,
    /// Sends the head of a good answer and then nothing.
    HangInBody,
    /// A body that does not end.
    Endless,
}

impl Reply {
    /// A completion with this content.
    pub(crate) fn content(content: impl Into<String>) -> Self {
        Self::choice(&json!({ "finish_reason": "stop", "message": { "role": "assistant", "content": content.into() } }))
    }

    /// A completion with this one choice.
    pub(crate) fn choice(choice: &Value) -> Self {
        Self::json(
            200,
            &json!({
                "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "small-2026-01",
                "choices": [choice],
                "usage": { "prompt_tokens": 1000, "completion_tokens": 200, "total_tokens": 1200 }
            }),
        )
    }

    /// The API's error object.
    pub(crate) fn error(status: u16, message: &str) -> Self {
        Self::json(status, &json!({ "error": { "message": message, "type": "error", "param": null, "code": null } }))
    }

    pub(crate) fn json(status: u16, body: &Value) -> Self {
        Self::text(status, "application/json", &body.to_string())
    }

    pub(crate) fn text(status: u16, content_type: &str, body: &str) -> Self {
        let headers = vec![("content-type", content_type.to_owned())];
        Self::Whole { status, headers, body: body.to_owned() }
    }

    pub(crate) fn with_header(mut self, name: &'static str, value: &str) -> Self {
        if let Self::Whole { headers, .. } = &mut self {
            headers.push((name, value.to_owned()));
        }
        self
    }
}

/// One call that the server received.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
    pub(crate) body: Value,
}

impl Received {
    /// The text of all messages of that role, one after the other.
    pub(crate) fn said_by(&self, role: &str) -> String {
        let messages = self.body["messages"].as_array().unwrap().iter();
        messages.filter(|message| message["role"] == role).map(|message| message["content"].as_str().unwrap()).collect()
    }
}

/// The server; it ends when it is dropped.
pub(crate) struct FakeModel {
    /// Base URL, with the version.
    pub(crate) url: String,
    received: Arc<Mutex<Vec<Received>>>,
    task: JoinHandle<()>,
}

#[derive(Clone)]
struct Script {
    replies: Arc<Mutex<VecDeque<Reply>>>,
    received: Arc<Mutex<Vec<Received>>>,
}

impl FakeModel {
    /// Starts a server that gives these replies in order; the last one answers every further call.
    pub(crate) async fn start(replies: impl IntoIterator<Item = Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let received = Arc::new(Mutex::new(Vec::new()));
        let script =
            Script { replies: Arc::new(Mutex::new(replies.into_iter().collect())), received: received.clone() };
        let app = axum::Router::new().fallback(answer).with_state(script);
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { url, received, task }
    }

    /// The calls so far.
    pub(crate) fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }
}

impl Drop for FakeModel {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(
    State(script): State<Script>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    script.received.lock().unwrap().push(Received {
        method,
        path: uri.to_string(),
        authorization: headers.get(header::AUTHORIZATION).map(|value| value.to_str().unwrap().to_owned()),
        body: serde_json::from_slice(&body).unwrap_or_default(),
    });
    let reply = {
        let mut replies = script.replies.lock().unwrap();
        if replies.len() > 1 { replies.pop_front().unwrap() } else { replies[0].clone() }
    };
    match reply {
        Reply::Whole { status, headers, body } => {
            let response = headers
                .iter()
                .fold(Response::builder().status(status), |response, (name, value)| response.header(*name, value));
            response.body(Body::from(body)).unwrap()
        }
        Reply::Hang => std::future::pending().await,
        Reply::HangInBody => Response::new(Body::from_stream(futures::stream::pending::<Result<Bytes, Infallible>>())),
        Reply::Endless => {
            let blank = Bytes::from(vec![b' '; 64 * 1024]);
            Response::new(Body::from_stream(futures::stream::repeat_with(move || Ok::<_, Infallible>(blank.clone()))))
        }
    }
}
