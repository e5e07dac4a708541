//! Calls that change nothing are made again when they fail in passing: whatever they are part of, such as the dry runs of a
//! plan of fifty steps, would otherwise have to begin from the start, and on a bad day never end.

use super::clock::ServerClock;
use http::{Method, Request, Response, StatusCode, header};
use kube::client::Body;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tower::retry::{Policy, Retry};

/// How often one call is made at most.
const TRIES: u32 = 6;
/// The first pause between two tries; each further one doubles it, and a random part of it is waited.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest that a server may ask for; whoever asked decides about more.
const LONGEST_WISH: Duration = Duration::from_secs(3);
/// No try begins later than this after the first failed: whoever asks has patience of their own.
const WINDOW: Duration = Duration::from_secs(15);

/// How often a write that may not be sent is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// How long after it could not be reached the API server is not believed when it says that a right is missing: when it
/// starts, it answers before it has read all roles and bindings.
const WARMING_UP: Duration = Duration::from_secs(30);

/// What all clients of a process know together. Clones share it: one identity meets an outage, another what follows.
#[derive(Clone, Default)]
pub(super) struct Line {
    /// When the API server could not be reached last.
    last: Arc<Mutex<Option<Instant>>>,
    may_write: Arc<OnceLock<Box<dyn Fn() -> bool + Send + Sync>>>,
    /// What time it is by the API server.
    pub(super) clock: ServerClock,
}

impl Line {
    fn note(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// From now on nothing is written unless `may_write` says so at that moment. The first caller decides.
    pub fn guard(&self, may_write: impl Fn() -> bool + Send + Sync + 'static) {
        let _ = self.may_write.set(Box::new(may_write));
    }

    /// Whether a call may be sent now. A lease is how one comes to write at all.
    fn lets_through(&self, method: &Method, uri: &http::Uri) -> bool {
        let is_lease = uri.path().starts_with("/apis/coordination.k8s.io/");
        *method == Method::GET
            || is_lease
            || changes_nothing(method, uri)
            || self.may_write.get().is_none_or(|may_write| may_write())
    }

    fn was_cut_recently(&self) -> bool {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.is_some_and(|at| at.elapsed() < WARMING_UP)
    }
}

/// A client that makes calls again.
pub(super) fn client(mut config: kube::Config, line: &Line) -> Result<kube::Client, kube::Error> {
    // The client's own would go on for a quarter of an hour.
    config.default_retry = false;
    let namespace = config.default_namespace.clone();
    let once = kube::Client::try_from(config)?;
    let guard = line.clone();
    let once = tower::service_fn(move |request: Request<Body>| {
        let (once, guard) = (once.clone(), guard.clone());
        async move {
            if !guard.lets_through(request.method(), request.uri()) {
                tracing::warn!(method = %request.method(), path = request.uri().path(), "not sure to lead: not sent");
            }
            // A process that lost the lead ends while this waits: no answer, for one would be acted upon. One that was only
            // late to renew, and found that nobody else had led meanwhile, goes on.
            while !guard.lets_through(request.method(), request.uri()) {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            let uri = request.uri().clone();
            let answer = once.send(request).await?;
            // What stands between may answer for a server that does not.
            if answer.status().is_success() {
                guard.clock.note(&uri, answer.headers());
            }
            Ok(answer)
        }
    });
    Ok(kube::Client::new(Retry::new(Again::new(line), once), namespace))
}

/// Decides about one call.
#[derive(Clone)]
struct Again {
    begun: Option<Instant>,
    made: u32,
    line: Line,
}

impl Again {
    fn new(line: &Line) -> Self {
        Self { begun: None, made: 0, line: line.clone() }
    }

    /// How long to wait until the call is made once more; `None` when its outcome stands.
    fn pause(&mut self, harmless: bool, code: Option<StatusCode>, server: Option<Duration>) -> Option<Duration> {
        let passes = match code {
            // Refused before anything was done, so that this holds for writes, too.
            Some(StatusCode::TOO_MANY_REQUESTS) => true,
            Some(StatusCode::FORBIDDEN) => self.line.was_cut_recently(),
            Some(code) => harmless && code.is_server_error(),
            None => harmless,
        };
        self.made += 1;
        let begun = *self.begun.get_or_insert_with(Instant::now);
        let own = FIRST_PAUSE.saturating_mul(1 << self.made.min(8)).mul_f64(0.5 + rand::random::<f64>() / 2.0);
        let pause = server.unwrap_or(own);
        let asks_much = server.is_some_and(|wish| wish > LONGEST_WISH);
        (passes && !asks_much && self.made < TRIES && begun.elapsed() + pause < WINDOW).then_some(pause)
    }
}

impl<B> Policy<Request<Body>, Response<B>, kube::Error> for Again {
    type Future = tokio::time::Sleep;

    fn retry(
        &mut self,
        request: &mut Request<Body>,
        result: &mut Result<Response<B>, kube::Error>,
    ) -> Option<Self::Future> {
        let (code, server) = match result {
            Ok(answer) if answer.status().is_success() => return None,
            Ok(answer) => (Some(answer.status()), retry_after(answer)),
            Err(_) => {
                self.line.note();
                (None, None)
            }
        };
        if code == Some(StatusCode::TOO_MANY_REQUESTS) && request.uri().path().ends_with("/eviction") {
            // So a disruption budget says no. Whoever evicts decides how often to ask.
            return None;
        }
        self.pause(changes_nothing(request.method(), request.uri()), code, server).map(tokio::time::sleep)
    }

    fn clone_request(&mut self, request: &Request<Body>) -> Option<Request<Body>> {
        let mut copy = Request::new(request.body().try_clone()?);
        *copy.method_mut() = request.method().clone();
        *copy.uri_mut() = request.uri().clone();
        *copy.headers_mut() = request.headers().clone();
        *copy.extensions_mut() = request.extensions().clone();
        Some(copy)
    }
}

/// Whether a call may be made any number of times. Watches have pauses of their own.
fn changes_nothing(method: &Method, uri: &http::Uri) -> bool {
    let query = uri.query().unwrap_or_default();
    let is_set = |wanted: &str| query.split('&').any(|pair| pair == wanted);
    if *method == Method::GET {
        return !is_set("watch=true");
    }
    is_set("dryRun=All") || uri.path().starts_with("/apis/authorization.k8s.io/")
}

fn retry_after<B>(answer: &Response<B>) -> Option<Duration> {
    let seconds = answer.headers().get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::SeqCst;

    #[test]
    fn only_what_changes_nothing_is_made_again() {
        let harmless = |method: &str, uri: &str| changes_nothing(&method.parse().unwrap(), &uri.parse().unwrap());
        assert!(harmless("GET", "/api/v1/namespaces/a/pods?limit=500"));
        assert!(harmless("PATCH", "/api/v1/namespaces/a/pods/b?fieldManager=x&dryRun=All"));
        assert!(harmless("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews"));
        assert!(!harmless("PATCH", "/api/v1/namespaces/a/pods/dryRun=All?fieldManager=x"));
        assert!(!harmless("DELETE", "/api/v1/namespaces/a/pods/b"));
        assert!(!harmless("GET", "/api/v1/pods?watch=true&timeoutSeconds=290"));
    }

    #[test]
    fn a_write_is_made_again_only_when_it_was_turned_away() {
        let again = |harmless, code: u16| {
            Again::new(&Line::default()).pause(harmless, StatusCode::from_u16(code).ok(), None).is_some()
        };
        assert!(again(false, 429) && again(true, 429) && again(true, 500) && again(true, 503));
        assert!(!again(false, 500) && !again(false, 503) && !again(false, 504));
        assert!(!again(true, 403) && !again(true, 404) && !again(true, 409));
        assert!(Again::new(&Line::default()).pause(true, None, None).is_some(), "the connection broke");
        assert!(Again::new(&Line::default()).pause(false, None, None).is_none(), "it may have landed");
    }

    #[tokio::test]
    async fn the_word_of_a_disruption_budget_stands() {
        let tried = |uri: &str| {
            let mut request = Request::post(uri).body(Body::empty()).unwrap();
            let mut answer = Ok(Response::builder().status(429).body(Body::empty()).unwrap());
            Again::new(&Line::default()).retry(&mut request, &mut answer).is_some()
        };
        assert!(!tried("/api/v1/namespaces/a/pods/b/eviction"));
        assert!(tried("/api/v1/namespaces/a/pods"));
    }

    #[tokio::test]
    async fn every_call_has_its_own_patience() {
        let left = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
        let server = {
            let left = left.clone();
            tower::service_fn(move |_: Request<Body>| {
                let fails = left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok();
                let answer = Response::builder().status(if fails { 500 } else { 200 }).body(Body::empty());
                async move { Ok::<_, kube::Error>(answer.unwrap()) }
            })
        };
        let mut calls = Retry::new(Again::new(&Line::default()), server);
        for _ in 0..TRIES {
            left.store(2, SeqCst);
            let answer = tower::Service::call(&mut calls, Request::new(Body::empty())).await.unwrap();
            assert_eq!(answer.status(), 200);
        }
        let mut policy = Again::new(&Line::default());
        let _ = Policy::<Request<Body>, Response<Body>, kube::Error>::clone_request(
            &mut policy,
            &Request::new(Body::empty()),
        );
        assert!(policy.begun.is_none(), "the policy that all calls are copied from keeps no time");
    }

    #[test]
    fn a_right_is_not_missing_because_the_server_has_just_started() {
        let line = Line::default();
        let again = || Again::new(&line).pause(false, Some(StatusCode::FORBIDDEN), None).is_some();
        assert!(!again());
        line.clone().note();
        assert!(again());
    }

    #[test]
    fn who_does_not_lead_only_reads_and_asks_for_the_lead() {
        let line = Line::default();
        let through = |method: &str, uri: &str| line.lets_through(&method.parse().unwrap(), &uri.parse().unwrap());
        assert!(through("PATCH", "/api/v1/namespaces/a/pods/b"), "nobody guards it yet");
        line.guard(|| false);
        assert!(!through("PATCH", "/api/v1/namespaces/a/pods/b") && !through("POST", "/api/v1/namespaces/a/events"));
        assert!(
            through("GET", "/api/v1/pods?watch=true") && through("PATCH", "/api/v1/namespaces/a/pods/b?dryRun=All")
        );
        assert!(through("PUT", "/apis/coordination.k8s.io/v1/namespaces/a/leases/countersign"));
    }

    #[test]
    fn patience_has_an_end() {
        let mut call = Again::new(&Line::default());
        let pauses: Vec<Duration> = std::iter::from_fn(|| call.pause(true, None, None)).collect();
        assert_eq!(pauses.len() + 1, TRIES as usize);
        assert!(pauses.iter().sum::<Duration>() < WINDOW, "{pauses:?}");
        let long = Some(LONGEST_WISH * 2);
        assert!(Again::new(&Line::default()).pause(true, Some(StatusCode::TOO_MANY_REQUESTS), long).is_none());
    }

    #[tokio::test]
    async fn a_write_that_waits_goes_on_when_the_lead_is_sure_again() {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let server = axum::Router::new().fallback(|| async { "{}" });
        let _serving =
            tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move { axum::serve(listener, server).await }));
        let (line, looks) = (Line::default(), Arc::new(std::sync::atomic::AtomicU32::new(0)));
        let looked = looks.clone();
        line.guard(move || looked.fetch_add(1, SeqCst) > 2);
        let client = client(kube::Config::new(address.parse().unwrap()), &line).unwrap();
        let request = Request::patch("/api/v1/namespaces/a/pods/b").body(Body::empty()).unwrap();
        assert_eq!(client.send(request).await.unwrap().status(), 200);
        assert!(looks.load(SeqCst) > 2);
    }
}
