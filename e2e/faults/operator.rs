//! Operators that the tests run and mistreat themselves: as the cluster's service account, through a proxy.

use crate::stage::{Cluster, OPERATOR_NAMESPACE};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use kube::api::PostParams;
use serde_json::json;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot, watch};

/// What is done to a process.
#[derive(Clone, Copy, Debug)]
enum Order {
    Signal(&'static str),
    /// Ends it for good, or lets it come back.
    Revive(bool),
}

/// What is odd about a replica.
#[derive(Clone, Copy, Debug, Default)]
pub struct Oddities {
    /// How many hours its clock is ahead.
    pub clock: i64,
    /// The kernel does not end it when its lease runs out.
    pub endless: bool,
}

/// One replica; whenever it ends it is started again, the way a kubelet does, unless told otherwise.
#[derive(Clone)]
pub struct Operator {
    pub name: String,
    orders: mpsc::UnboundedSender<(Order, oneshot::Sender<()>)>,
    running: watch::Receiver<bool>,
    starts: Arc<AtomicU32>,
}

impl Operator {
    /// Starts a replica by that name, which finds the API server at `server`.
    pub async fn start(cluster: &Cluster, name: &str, server: &str) -> Self {
        Self::start_odd(cluster, name, server, Oddities::default()).await
    }

    /// As [`Operator::start`], with oddities.
    pub async fn start_odd(cluster: &Cluster, name: &str, server: &str, oddities: Oddities) -> Self {
        let folder = cluster.kubeconfig.parent().unwrap().to_owned();
        let kubeconfig = folder.join(format!("{name}.kubeconfig"));
        let accounts: Api<ServiceAccount> = Api::namespaced(cluster.client("admin").await, OPERATOR_NAMESPACE);
        let spec = TokenRequestSpec { expiration_seconds: Some(24 * 3600), ..TokenRequestSpec::default() };
        let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
        let token = accounts.create_token_request("countersign", &PostParams::default(), &request).await.unwrap();
        let token = token.status.unwrap().token;
        let content = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{ "name": "c", "cluster": { "server": server } }],
            "users": [{ "name": "c", "user": { "token": token } }],
            "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "c" } }],
        });
        std::fs::write(&kubeconfig, content.to_string()).unwrap();
        let log = folder.join(format!("logs/{name}.log"));
        let (orders, heard) = mpsc::unbounded_channel();
        let (state, running) = watch::channel(false);
        let starts = Arc::new(AtomicU32::new(0));
        let command = command(name, &kubeconfig, &log, oddities);
        tokio::spawn(supervise(command, heard, state, starts.clone()));
        let operator = Self { name: name.to_owned(), orders, running, starts };
        operator.runs(true).await;
        operator
    }

    /// SIGKILL; gone when this returns.
    pub async fn kill(&self) {
        self.order(Order::Signal("KILL")).await;
    }

    /// SIGTERM.
    pub async fn end(&self) {
        self.order(Order::Signal("TERM")).await;
    }

    /// SIGSTOP.
    pub async fn freeze(&self) {
        self.order(Order::Signal("STOP")).await;
    }

    /// SIGCONT.
    pub async fn thaw(&self) {
        self.order(Order::Signal("CONT")).await;
    }

    /// Whether it is started again when it ends.
    pub async fn revive(&self, revive: bool) {
        self.order(Order::Revive(revive)).await;
    }

    /// Waits until it runs, or does not.
    pub async fn runs(&self, wanted: bool) {
        let mut running = self.running.clone();
        let wait = running.wait_for(|running| *running == wanted);
        tokio::time::timeout(Duration::from_secs(60), wait).await.expect("the operator obeys in a minute").unwrap();
    }

    /// How often it was started.
    pub fn starts(&self) -> u32 {
        self.starts.load(Ordering::SeqCst)
    }

    async fn order(&self, order: Order) {
        let (done, wait) = oneshot::channel();
        self.orders.send((order, done)).unwrap();
        wait.await.unwrap();
    }
}

fn command(
    name: &str,
    kubeconfig: &Path,
    log: &Path,
    oddities: Oddities,
) -> impl Fn() -> Command + Send + use<> + 'static {
    let Oddities { clock, endless } = oddities;
    let target = std::env::var("CARGO_TARGET_DIR")
        .map_or_else(|_| Path::new(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from);
    let binary = target.join("release/countersign");
    let (name, kubeconfig, log) = (name.to_owned(), kubeconfig.to_owned(), log.to_owned());
    let clock = (clock != 0).then(|| (format!("{clock:+}h"), faketime()));
    move || {
        let file = File::options().create(true).append(true).open(&log).unwrap();
        let mut command = Command::new(&binary);
        command.arg("run").kill_on_drop(true).stdin(Stdio::null());
        command.stdout(file.try_clone().unwrap()).stderr(file);
        command.env("KUBECONFIG", &kubeconfig).env("POD_NAMESPACE", OPERATOR_NAMESPACE).env("POD_NAME", &name);
        command.env("COUNTERSIGN_LISTEN", "127.0.0.1:0").env("RUST_LOG", "info").env("RUST_BACKTRACE", "1");
        if endless {
            command.env("COUNTERSIGN_DEADLINE", "off");
        }
        if let Some((clock, library)) = &clock {
            // The time of day alone: how long something takes is the same by every clock.
            command.env("LD_PRELOAD", library).env("FAKETIME", clock).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        command
    }
}

/// Where `e2e/prepare.sh` put the library that gives a process another time.
fn faketime() -> PathBuf {
    let cache = std::env::var("COUNTERSIGN_E2E_CACHE").unwrap_or_else(|_| "target/e2e".to_owned());
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(cache).join("debian/usr/lib/faketime/libfaketimeMT.so.1");
    assert!(file.exists(), "{} is missing; run this by e2e/test --faults, which fetches it", file.display());
    file
}

async fn supervise(
    command: impl Fn() -> Command,
    mut orders: mpsc::UnboundedReceiver<(Order, oneshot::Sender<()>)>,
    state: watch::Sender<bool>,
    starts: Arc<AtomicU32>,
) {
    let mut revive = true;
    loop {
        let mut child = command().spawn().unwrap();
        starts.fetch_add(1, Ordering::SeqCst);
        state.send_replace(true);
        loop {
            tokio::select! {
                _ = child.wait() => break,
                order = orders.recv() => {
                    let Some((order, done)) = order else { return };
                    obey(order, &mut child, &mut revive).await;
                    if matches!(order, Order::Signal("KILL")) {
                        state.send_replace(false);
                    }
                    let _ = done.send(());
                }
            }
        }
        state.send_replace(false);
        while !revive {
            let Some((order, done)) = orders.recv().await else { return };
            if let Order::Revive(wanted) = order {
                revive = wanted;
            }
            let _ = done.send(());
        }
    }
}

async fn obey(order: Order, child: &mut Child, revive: &mut bool) {
    match order {
        Order::Revive(wanted) => *revive = wanted,
        Order::Signal("KILL") => child.kill().await.unwrap(),
        Order::Signal(name) => {
            // Its own child, not yet waited for: the number is still its.
            if let Some(pid) = child.id() {
                let sent = Command::new("kill").args([format!("-{name}"), pid.to_string()]).status().await;
                assert!(sent.unwrap().success());
            }
        }
    }
}
