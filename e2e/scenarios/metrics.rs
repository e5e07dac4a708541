//! Promises about metrics, with Prometheus itself: it collects from a server of the scenario, and the operator asks it.

use crate::handmade::{approved, ends, merge, step, target, write};
use crate::stage::{Cluster, Look, OwnCluster, Stage};
use axum::extract::State;
use countersign::api::{ConditionType, ExecutionPlan, PlanPhase, StepState, condition};
use countersign::cluster::{Prometheus, Truth};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;

/// Stands in the address of Prometheus, and must stand nowhere else.
const PASSWORD: &str = "hunter2-is-secret";

/// What the shop counts, by the label `case`.
type Counts = Arc<Mutex<BTreeMap<&'static str, u32>>>;

async fn exposed(State(counts): State<Counts>) -> String {
    let mut text = "# TYPE checkout_errors gauge\n".to_owned();
    for (case, count) in counts.lock().unwrap().iter() {
        writeln!(text, "checkout_errors{{case=\"{case}\"}} {count}").unwrap();
    }
    text
}

/// Prometheus, collecting every second; ended with the scenario.
struct Server {
    process: Option<Child>,
    folder: PathBuf,
    address: String,
    counts: Counts,
    client: Prometheus,
}

impl Server {
    async fn start(folder: PathBuf) -> Self {
        let counts = Counts::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let shop = listener.local_addr().unwrap();
        let router = axum::Router::new().route("/metrics", axum::routing::get(exposed)).with_state(Arc::clone(&counts));
        tokio::spawn(async move { axum::serve(listener, router).await });
        std::fs::create_dir_all(&folder).unwrap();
        let scraped = json!({ "job_name": "shop", "static_configs": [{ "targets": [shop.to_string()] }] });
        let config = json!({ "global": { "scrape_interval": "1s" }, "scrape_configs": [scraped] });
        // JSON is YAML.
        std::fs::write(folder.join("prometheus.yml"), config.to_string()).unwrap();
        let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
        let client = Prometheus::new(&format!("http://{address}"), None).unwrap();
        let mut server = Self { process: None, folder, address, counts, client };
        server.resume();
        server
    }

    fn resume(&mut self) {
        let cache = std::env::var_os("COUNTERSIGN_E2E_CACHE").map_or_else(|| "target/e2e".into(), PathBuf::from);
        let fetched = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(cache).join("debian/usr/bin/prometheus");
        let program = if fetched.exists() { fetched } else { "prometheus".into() };
        let log = std::fs::File::options().create(true).append(true).open(self.folder.join("log")).unwrap();
        let started = Command::new(&program)
            .arg(format!("--config.file={}", self.folder.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", self.folder.join("data").display()))
            .arg(format!("--web.listen-address={}", self.address))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        let started = started.unwrap_or_else(|error| {
            panic!("{} does not start: {error}; e2e/test --e2e metrics fetches it", program.display())
        });
        self.process = Some(started);
    }

    fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    fn count(&self, case: &'static str, count: u32) {
        self.counts.lock().unwrap().insert(case, count);
    }

    /// Waits until Prometheus has collected that count.
    async fn collected(&self, stage: &Stage, case: &'static str, count: u32) {
        self.count(case, count);
        let expression = format!("checkout_errors{{case=\"{case}\"}} == {count}");
        let log = self.folder.join("log");
        stage
            .eventually(&format!("collected {expression}, see {}", log.display()), async || {
                matches!(self.client.check(&expression).await, Ok(Truth::Holds(_)))
            })
            .await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A cluster whose operator asks Prometheus.
struct Shop {
    stage: Stage,
    server: Server,
    _cluster: OwnCluster,
}

impl Shop {
    async fn open() -> Self {
        let cluster = Cluster::start("metrics");
        let server = Server::start(cluster.0.kubeconfig.parent().unwrap().join("prometheus")).await;
        let url = format!("COUNTERSIGN_PROMETHEUS_URL=http://operator:{PASSWORD}@{}", server.address);
        // With everything that the client of HTTP has to tell.
        let log = "RUST_LOG=info,countersign=trace,reqwest=trace,hyper_util=trace";
        cluster.0.control(&["operator", "restart", "--env", &url, "--env", log]).unwrap();
        let stage = Stage::on(cluster.0.clone(), None).await;
        Self { stage, server, _cluster: cluster }
    }

    /// A step that changes the ConfigMap of the case, and promises that nothing goes wrong by it.
    fn change(&self, case: &str, timeout: &str) -> Value {
        let object =
            json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": case }, "data": { "a": "1" } });
        self.stage.apply(&[object]);
        let target = target(&self.stage, "v1", &format!("ConfigMap/{case}"));
        step("s", merge(&target, json!({ "data": { "a": "2" } })), promise(&no_errors(case), timeout))
    }

    fn value(&self, case: &str) -> String {
        self.stage.field(&format!("configmap/{case}"), "{.data.a}")
    }

    async fn applied(&self, plan: &str) {
        let is_applied = |plan: &ExecutionPlan| match plan.status.as_ref().and_then(|status| status.steps.first()) {
            Some(step) if step.state == StepState::Applied => Look::There,
            Some(step) if !matches!(step.state, StepState::Pending | StepState::Running) => Look::Never,
            _ => Look::NotYet,
        };
        self.stage.until("applied", plan, is_applied).await;
    }
}

fn no_errors(case: &str) -> String {
    format!("checkout_errors{{case=\"{case}\"}} == 0")
}

fn promise(expression: &str, timeout: &str) -> Value {
    json!({ "verify": { "type": "PromQL", "expression": expression }, "timeout": timeout })
}

/// What the only step of a plan says of itself.
fn said(plan: &ExecutionPlan) -> String {
    plan.status.as_ref().unwrap().steps[0].message.clone().unwrap_or_default()
}

/// What the plan says of itself.
fn told(plan: &ExecutionPlan) -> String {
    plan.status.as_ref().unwrap().message.clone().unwrap_or_default()
}

#[tokio::test]
async fn a_step_is_held_to_what_it_promises_of_metrics() {
    let mut shop = Shop::open().await;
    let stage = &shop.stage;

    shop.server.collected(stage, "holds", 0).await;
    let plan = ends(stage, "holds", vec![shop.change("holds", "60s")], PlanPhase::Succeeded).await;
    assert_eq!(said(&plan), format!("{} holds: 0", no_errors("holds")));
    assert_eq!(shop.value("holds"), "2");

    shop.server.collected(stage, "errors", 7).await;
    let plan = ends(stage, "errors", vec![shop.change("errors", "6s")], PlanPhase::RolledBack).await;
    let sentence = format!(": {} does not hold: no series", no_errors("errors"));
    assert!(said(&plan).starts_with("not reached within ") && said(&plan).ends_with(&sentence), "{}", said(&plan));
    assert!(told(&plan).contains(&sentence), "{}", told(&plan));
    assert_eq!(shop.value("errors"), "1");

    let patience = json!({ "wait": { "target": target(stage, "v1", "ConfigMap/holds"), "until": "Ready" } });
    let waits = vec![step("s", patience, promise(&no_errors("errors"), "5s"))];
    let plan = ends(stage, "waits", waits, PlanPhase::Failed).await;
    assert!(said(&plan).contains(&sentence), "{}", said(&plan));

    shop.server.collected(stage, "breaks", 0).await;
    write(
        stage,
        "breaks",
        vec![shop.change("breaks", "60s")],
        json!({ "observe": { "for": "10m", "rollbackOnDegraded": true } }),
    );
    approved(stage, "breaks").await;
    stage.plan("breaks", PlanPhase::Observing).await;
    shop.server.count("breaks", 3);
    let plan = stage.plan("breaks", PlanPhase::RolledBack).await;
    let sentence = format!("{} does not hold any more: no series", no_errors("breaks"));
    assert!(told(&plan).contains(&sentence), "{}", told(&plan));
    assert_eq!(shop.value("breaks"), "1");

    // It breaks before the plan is watched, and that for less time than lies between two questions: there is one at the end.
    shop.server.collected(stage, "short", 0).await;
    let until = json!({ "target": target(stage, "v1", "ConfigMap/short"), "until": "Expression",
                        "expression": "has(object.data.go)" });
    let steps =
        vec![shop.change("short", "60s"), step("later", json!({ "wait": until }), json!({ "dependsOn": ["s"] }))];
    write(stage, "short", steps, json!({ "observe": { "for": "1s", "rollbackOnDegraded": true } }));
    approved(stage, "short").await;
    let completed = |plan: &ExecutionPlan| match plan.status.as_ref().and_then(|status| status.steps.first()) {
        Some(step) if step.state == StepState::Completed => Look::There,
        _ => Look::NotYet,
    };
    stage.until("verified", "short", completed).await;
    shop.server.collected(stage, "short", 1).await;
    let go = json!({ "data": { "go": "1" } }).to_string();
    stage.kubectl("admin", &["patch", "configmap", "short", "--type=merge", "-p", &go], None).unwrap();
    let plan = stage.plan("short", PlanPhase::RolledBack).await;
    let sentence = format!("{} does not hold any more: no series", no_errors("short"));
    assert!(told(&plan).contains(&sentence), "{}", told(&plan));
    assert_eq!(shop.value("short"), "1");

    let mut wrong = shop.change("wrong", "60s");
    wrong["verify"]["expression"] = json!("sum(checkout_errors");
    write(stage, "wrong", vec![wrong], json!({}));
    let plan = stage.plan("wrong", PlanPhase::Failed).await;
    assert!(told(&plan).starts_with("step 's': Prometheus refuses the expression: "), "{}", told(&plan));
    assert!(told(&plan).contains("unclosed left parenthesis"), "{}", told(&plan));
    let stalled = condition(&plan.status.as_ref().unwrap().conditions, ConditionType::Stalled).cloned().unwrap();
    assert_eq!((stalled.status.as_str(), stalled.reason.as_str()), ("True", "InvalidPlan"), "{stalled:?}");
    assert_eq!(shop.value("wrong"), "1");

    shop.server.collected(stage, "away", 1).await;
    write(stage, "away", vec![shop.change("away", "85s")], json!({}));
    approved(stage, "away").await;
    shop.applied("away").await;
    shop.server.stop();
    // In its place somebody who hangs up: so it is seen that the operator did ask meanwhile.
    let silent = TcpListener::bind(&shop.server.address).await.unwrap();
    drop(silent.accept().await.unwrap());
    let gone = ends(&shop.stage, "gone", vec![shop.change("gone", "1s")], PlanPhase::RolledBack);
    let hang_up = async {
        loop {
            drop(silent.accept().await);
        }
    };
    let plan = tokio::select! {
        plan = gone => plan,
        () = hang_up => unreachable!(),
    };
    assert!(said(&plan).contains("Prometheus cannot be asked: "), "{}", said(&plan));
    drop(silent);
    shop.server.count("away", 0);
    shop.server.resume();
    let plan = shop.stage.plan("away", PlanPhase::Succeeded).await;
    assert_eq!(said(&plan), format!("{} holds: 0", no_errors("away")));

    let everything = shop.stage.kubectl("admin", &["get", "plan,events,agc", "-o", "json"], None).unwrap();
    let log = shop.stage.cluster.control(&["operator", "logs", "--tail", "100000"]).unwrap();
    assert!(everything.contains("checkout_errors"), "nothing tells of the metrics");
    for (what, text) in [("an object", everything), ("the log", log)] {
        let shown = text.lines().find(|line| line.contains(PASSWORD) || line.contains("aHVudGVyMi1pcy1zZWNyZXQ"));
        assert_eq!(shown, None, "{what} has the password");
    }
}

#[tokio::test]
async fn without_a_prometheus_a_plan_that_promises_metrics_is_refused() {
    let stage = Stage::set().await;
    let target = target(&stage, "v1", "ConfigMap/settings");
    let steps = vec![step("s", merge(&target, json!({ "data": { "a": "2" } })), promise("up == 1", "60s"))];
    write(&stage, "metrics", steps, json!({}));
    let plan = stage.plan("metrics", PlanPhase::Failed).await;
    assert_eq!(
        told(&plan),
        "step 's': verification by PromQL needs a Prometheus, and none is configured: set prometheus.url of the chart (--prometheus-url)"
    );
}
