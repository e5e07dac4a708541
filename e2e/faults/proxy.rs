//! A proxy in front of the API server that misbehaves: plain HTTP on a loopback port for the operator, TLS to the server.
//!
//! What happens to a call follows from the seed, the call itself and how often it was made before, so that a run with the
//! same seed meets the same faults however its calls interleave.

use crate::watches::{Treatment, treated, version};
use axum::body::{Body, Bytes};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use kube::Client;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::io::{Error, ErrorKind};
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;

/// Marks the second of two equal requests in the API server's audit log.
pub const REPEATED: &str = "repeated-by-the-proxy";
/// How long a call stays without any answer before it is cut.
const SILENCE: Duration = Duration::from_secs(3);

/// What can happen to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    TooManyRequests,
    ServerError,
    Conflict,
    Silence,
    Cut,
    /// The write landed, the answer did not.
    AnswerLost,
    Repeated,
    Late,
    /// A watch broke in the middle of an event, or between two.
    WatchCut,
    /// A watch came to an end in order.
    WatchEnded,
    /// The server says that it cannot go on from where the watch is: all has to be listed again.
    WatchExpired,
    /// An event of a watch came late; one of each.
    WatchLags,
}

impl Fault {
    const ON_READS: [Self; 5] = [Self::TooManyRequests, Self::ServerError, Self::Silence, Self::Cut, Self::Late];
    const ON_WRITES: [Self; 8] = [
        Self::TooManyRequests,
        Self::ServerError,
        Self::Conflict,
        Self::Silence,
        Self::Cut,
        Self::AnswerLost,
        Self::Repeated,
        Self::Late,
    ];
    /// What becomes of watches that are open.
    const OF_WATCHES: [Self; 4] = [Self::WatchCut, Self::WatchEnded, Self::WatchExpired, Self::WatchLags];
    /// When they are opened; what becomes of them later is in `watches`.
    const ON_WATCHES: [Self; 3] = [Self::TooManyRequests, Self::ServerError, Self::Cut];

    /// All that there are.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::ON_WRITES.into_iter().chain(Self::OF_WATCHES)
    }
}

/// Which side of a write somebody acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Nothing of it was sent.
    Before,
    /// It landed, nobody heard of it yet.
    After,
}

/// Which write somebody waits for.
#[derive(Clone, Copy, Debug)]
pub enum At {
    /// The n-th of a namespace, from 1.
    Nth(u32),
    /// The first patch, and so the first apply, of an object: by its resource and name.
    Patch(&'static str, &'static str),
}

/// Acts when a namespace sees a write.
struct Trap {
    at: At,
    side: Side,
    act: Act,
}

type Act = Arc<dyn Fn() -> futures::future::BoxFuture<'static, ()> + Send + Sync>;

#[derive(Default)]
struct State {
    rate: f64,
    /// Every write is sent twice, and the second answer is the one that arrives.
    repeats: bool,
    /// Nothing gets through, not even what is under way.
    cut: bool,
    calls: u64,
    faults: BTreeMap<Fault, u64>,
    made: HashMap<String, u32>,
    writes: HashMap<String, u32>,
    traps: HashMap<String, Trap>,
    /// The namespaces of plans, by uid: their snapshots lie elsewhere.
    plans: HashMap<String, String>,
    /// Namespaces in which the second of two equal requests changed something, too.
    doubled: Vec<String>,
    /// The newest version of each plan that the operator wrote, by uid.
    written: HashMap<String, u64>,
    /// Events that told of a plan what the operator itself had overwritten by then.
    stale: u64,
}

struct Inner {
    seed: u64,
    server: Client,
    state: Mutex<State>,
    changed: tokio::sync::watch::Sender<bool>,
    treatment: tokio::sync::watch::Sender<Treatment>,
}

/// A running proxy; it ends with its last clone.
#[derive(Clone)]
pub struct Proxy {
    inner: Arc<Inner>,
    address: String,
    _serving: Arc<tokio_util::task::AbortOnDropHandle<()>>,
}

impl Proxy {
    /// Starts a proxy in front of the kubeconfig's server, which lets everything through until told otherwise.
    pub async fn start(kubeconfig: &Path, seed: u64) -> Self {
        let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
        let options = KubeConfigOptions { context: Some("admin".to_owned()), ..KubeConfigOptions::default() };
        let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
        // Who asks is in the request's own headers.
        config.auth_info = AuthInfo::default();
        config.default_retry = false;
        let (changed, _) = tokio::sync::watch::channel(false);
        let (treatment, _) = tokio::sync::watch::channel(Treatment::default());
        let server = Client::try_from(config).unwrap();
        let inner = Arc::new(Inner { seed, server, state: Mutex::default(), changed, treatment });
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let serving = tokio::spawn(serve(listener, inner.clone()));
        Self { inner, address, _serving: Arc::new(tokio_util::task::AbortOnDropHandle::new(serving)) }
    }

    /// Where the operator finds it.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The part of all calls that something happens to, from 0 to 1.
    pub fn set_rate(&self, rate: f64) {
        self.inner.state.lock().unwrap().rate = rate;
    }

    /// Whether every write is sent twice from now on, with the second answer given.
    pub fn set_repeats(&self, repeats: bool) {
        self.inner.state.lock().unwrap().repeats = repeats;
    }

    /// What happens to watches from now on.
    pub fn set_watches(&self, treatment: Treatment) {
        self.inner.treatment.send_replace(treatment);
    }

    /// Cuts every connection and refuses new calls, or ends that.
    pub fn cut(&self, cut: bool) {
        self.inner.state.lock().unwrap().cut = cut;
        self.inner.changed.send_replace(cut);
    }

    /// Acts at a write that concerns a namespace, and drops the call.
    pub fn trap(
        &self,
        namespace: &str,
        at: At,
        side: Side,
        act: impl Fn() -> futures::future::BoxFuture<'static, ()> + Send + Sync + 'static,
    ) {
        let trap = Trap { at, side, act: Arc::new(act) };
        self.inner.state.lock().unwrap().traps.insert(namespace.to_owned(), trap);
    }

    /// Whether a namespace's trap is still set: it had fewer writes than that.
    pub fn is_trapped(&self, namespace: &str) -> bool {
        self.inner.state.lock().unwrap().traps.contains_key(namespace)
    }

    /// How many writes concerned a namespace.
    pub fn writes(&self, namespace: &str) -> u32 {
        self.inner.state.lock().unwrap().writes.get(namespace).copied().unwrap_or(0)
    }

    /// Namespaces in which the second of two equal requests changed something, too.
    pub fn doubled(&self) -> Vec<String> {
        self.inner.state.lock().unwrap().doubled.clone()
    }

    /// How often each fault happened.
    pub fn faults(&self) -> BTreeMap<Fault, u64> {
        self.inner.state.lock().unwrap().faults.clone()
    }

    /// Events of watches that told of a plan what the operator itself had overwritten by then.
    pub fn stale(&self) -> u64 {
        self.inner.state.lock().unwrap().stale
    }

    /// Calls, and what happened to them and to watches.
    pub fn tally(&self) -> String {
        let state = self.inner.state.lock().unwrap();
        let faults: Vec<String> = state.faults.iter().map(|(fault, count)| format!("{count} {fault:?}")).collect();
        format!("{} calls; {}; {} stale events of plans", state.calls, faults.join(", "), state.stale)
    }
}

async fn serve(listener: TcpListener, inner: Arc<Inner>) {
    loop {
        let Ok((socket, _)) = listener.accept().await else { return };
        let inner = inner.clone();
        tokio::spawn(async move {
            let mut cut = inner.changed.subscribe();
            let service = hyper::service::service_fn(|request| {
                let inner = inner.clone();
                // What was sent on is finished even when the operator dies meanwhile: the API server logs a request whose
                // client is gone as failed, although it may have landed.
                async move { tokio::spawn(answer(inner, request)).await.map_err(Error::other)? }
            });
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service);
            // Whoever was cut off finds out by itself.
            tokio::select! {
                _ = connection => {}
                _ = cut.wait_for(|cut| *cut) => {}
            }
        });
    }
}

/// A call as it came in, so that it can be sent more than once.
struct Call {
    method: Method,
    target: String,
    headers: HeaderMap,
    body: Bytes,
}

async fn answer(inner: Arc<Inner>, request: Request<Incoming>) -> Result<Response<Body>, Error> {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(Body::new(body), 16 << 20).await.map_err(Error::other)?;
    let target = parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let call = Call { method: parts.method, target, headers: parts.headers, body };
    if inner.state.lock().unwrap().cut {
        return Err(cut());
    }
    let met = inner.met(&call);
    let fault = inner.fate(&call, met);
    let trap = inner.sprung(&call);
    if let Some((Side::Before, act)) = &trap {
        act().await;
        return Err(cut());
    }
    let given = match fault {
        None => inner.forward(&call, false).await?,
        Some(Fault::TooManyRequests) => refusal(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests"),
        Some(Fault::ServerError) => refusal(StatusCode::INTERNAL_SERVER_ERROR, "InternalError"),
        Some(Fault::Conflict) => refusal(StatusCode::CONFLICT, "Conflict"),
        Some(Fault::Silence) => {
            tokio::time::sleep(SILENCE).await;
            return Err(cut());
        }
        // What becomes of watches is drawn when they are open.
        Some(Fault::Cut | Fault::WatchCut | Fault::WatchEnded | Fault::WatchExpired | Fault::WatchLags) => {
            return Err(cut());
        }
        Some(Fault::AnswerLost) => {
            whole(inner.forward(&call, false).await?).await?;
            return Err(cut());
        }
        Some(Fault::Repeated) => inner.twice(&call).await?,
        Some(Fault::Late) => {
            tokio::time::sleep(inner.between(&call, 100, 1500)).await;
            inner.forward(&call, false).await?
        }
    };
    if let Some((Side::After, act)) = &trap {
        whole(given).await?;
        act().await;
        return Err(cut());
    }
    if is_watch(&call) && given.status().is_success() {
        let (counts, looks) = (inner.clone(), inner.clone());
        let happened = move |fault| *counts.state.lock().unwrap().faults.entry(fault).or_insert(0) += 1;
        let arrives = move |event: &[u8]| looks.compare(event);
        let treatment = inner.treatment.subscribe();
        return Ok(given.map(|body| treated(body, met, treatment, happened, arrives)));
    }
    if is_of_plan(&call) && is_write(&call) && given.status().is_success() {
        let (parts, body) = whole(given).await?;
        if let Some((uid, version)) = version(&body) {
            inner.state.lock().unwrap().written.insert(uid, version);
        }
        return Ok(Response::from_parts(parts, Body::from(body)));
    }
    Ok(given)
}

impl Inner {
    /// Counts a call, and gives the number that decides about it.
    fn met(&self, call: &Call) -> u64 {
        let mut state = self.state.lock().unwrap();
        state.calls += 1;
        let times = state.made.entry(key(call)).or_insert(0);
        *times += 1;
        self.hash(call, *times)
    }

    /// What happens to a call.
    fn fate(&self, call: &Call, met: u64) -> Option<Fault> {
        let roll = f64::from(u32::try_from(met >> 32).unwrap()) / f64::from(u32::MAX);
        let (rate, repeats) = {
            let state = self.state.lock().unwrap();
            (state.rate, state.repeats)
        };
        if repeats && is_write(call) {
            *self.state.lock().unwrap().faults.entry(Fault::Repeated).or_insert(0) += 1;
            return Some(Fault::Repeated);
        }
        if roll >= rate {
            return None;
        }
        let choice = met & 0xffff_ffff;
        let faults: &[Fault] = if is_watch(call) {
            &Fault::ON_WATCHES
        } else if is_write(call) {
            &Fault::ON_WRITES
        } else {
            &Fault::ON_READS
        };
        let fault = faults[usize::try_from(choice).unwrap() % faults.len()];
        tracing::trace!(roll, ?fault, call.target);
        *self.state.lock().unwrap().faults.entry(fault).or_insert(0) += 1;
        Some(fault)
    }

    /// Looks whether an event tells what is known to be over.
    fn compare(&self, event: &[u8]) {
        let Some((uid, version)) = version(event) else { return };
        let mut state = self.state.lock().unwrap();
        state.stale += u64::from(state.written.get(&uid).is_some_and(|written| *written > version));
    }

    fn hash(&self, call: &Call, times: u32) -> u64 {
        let digest = Sha256::digest(format!("{} {times} {}", self.seed, key(call)));
        u64::from_be_bytes(digest[..8].try_into().unwrap())
    }

    /// A time of so many milliseconds.
    fn between(&self, call: &Call, least: u64, most: u64) -> Duration {
        Duration::from_millis(least + self.hash(call, u32::MAX) % (most - least))
    }

    /// Counts a write, and springs the trap that waits for it.
    fn sprung(&self, call: &Call) -> Option<(Side, Act)> {
        if !is_write(call) {
            return None;
        }
        let mut state = self.state.lock().unwrap();
        let path = call.target.split('?').next().unwrap_or_default();
        let mut parts = path.split('/').skip_while(|part| *part != "namespaces").skip(1);
        let mut namespace = parts.next()?.to_owned();
        let (resource, name) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        if resource == "executionplans"
            && let Ok(plan) = serde_json::from_slice::<Value>(&call.body)
            && let Some(uid) = plan.pointer("/metadata/uid").and_then(Value::as_str)
        {
            state.plans.insert(uid.to_owned(), namespace.clone());
        }
        if resource == "secrets"
            && let Ok(secret) = serde_json::from_slice::<Value>(&call.body)
            && let Some(plan) = secret.pointer("/metadata/labels/countersign.dev~1plan-uid").and_then(Value::as_str)
        {
            namespace = state.plans.get(plan)?.clone();
        }
        let count = state.writes.entry(namespace.clone()).or_insert(0);
        *count += 1;
        let count = *count;
        let is_it = |trap: &Trap| match trap.at {
            At::Nth(nth) => nth == count,
            At::Patch(of, wanted) => call.method == Method::PATCH && resource == of && name == wanted,
        };
        if state.traps.get(&namespace).is_some_and(is_it) {
            let trap = state.traps.remove(&namespace)?;
            return Some((trap.side, trap.act));
        }
        None
    }

    async fn forward(&self, call: &Call, again: bool) -> Result<Response<Body>, Error> {
        let mut request = Request::builder().method(call.method.clone()).uri(&call.target);
        for (name, value) in &call.headers {
            let hop = [header::HOST, header::CONNECTION, header::CONTENT_LENGTH, header::TRANSFER_ENCODING];
            if !hop.contains(name) && name != header::ACCEPT_ENCODING && !(again && name == header::USER_AGENT) {
                request = request.header(name, value);
            }
        }
        if again {
            request = request.header(header::USER_AGENT, REPEATED);
        }
        let request = request.body(kube::client::Body::from(call.body.to_vec())).unwrap();
        let (mut parts, body) = self.server.send(request).await.map_err(Error::other)?.into_parts();
        for name in [header::CONNECTION, header::CONTENT_LENGTH, header::TRANSFER_ENCODING] {
            parts.headers.remove(name);
        }
        Ok(Response::from_parts(parts, Body::new(body)))
    }

    /// Sends a request twice, and gives one of the answers.
    async fn twice(&self, call: &Call) -> Result<Response<Body>, Error> {
        let first = whole(self.forward(call, false).await?).await?;
        let second = whole(self.forward(call, true).await?).await?;
        let version = |answer: &(http::response::Parts, Bytes)| {
            let object: Value = serde_json::from_slice(&answer.1).ok()?;
            let version = object.pointer("/metadata/resourceVersion")?.as_str()?.to_owned();
            answer.0.status.is_success().then_some(version)
        };
        let is_effect = call.headers.contains_key("impersonate-user");
        if is_effect && version(&first).is_some() && version(&second).is_some() && version(&first) != version(&second) {
            self.state.lock().unwrap().doubled.push(call.target.clone());
        }
        let first_arrives = !self.state.lock().unwrap().repeats && self.hash(call, u32::MAX).is_multiple_of(2);
        let (parts, body) = if first_arrives { first } else { second };
        Ok(Response::from_parts(parts, Body::from(body)))
    }
}

/// The call without what is different in every run.
fn key(call: &Call) -> String {
    static UID: LazyLock<regex::Regex> = LazyLock::new(|| {
        regex::Regex::new("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|resourceVersion=[0-9]+").unwrap()
    });
    format!("{} {}", call.method, UID.replace_all(&call.target, "*"))
}

fn is_watch(call: &Call) -> bool {
    call.target.contains("watch=true")
}

fn is_of_plan(call: &Call) -> bool {
    call.target.contains("/executionplans/")
}

/// Whether a call changes anything but what the operator writes about itself.
fn is_write(call: &Call) -> bool {
    let reads = call.method == Method::GET || call.target.contains("accessreviews") || call.target.contains("dryRun");
    let about_itself = call.target.contains("/leases") || call.target.contains("/events");
    !reads && !about_itself
}

fn cut() -> Error {
    Error::new(ErrorKind::ConnectionReset, "cut by the proxy")
}

async fn whole(answer: Response<Body>) -> Result<(http::response::Parts, Bytes), Error> {
    let (parts, body) = answer.into_parts();
    Ok((parts, axum::body::to_bytes(body, 64 << 20).await.map_err(Error::other)?))
}

fn refusal(code: StatusCode, reason: &str) -> Response<Body> {
    let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason,
                         "message": "a fault that the proxy made up", "code": code.as_u16() });
    let mut answer = Response::new(Body::from(status.to_string()));
    *answer.status_mut() = code;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if code == StatusCode::TOO_MANY_REQUESTS {
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    answer
}
