//! Ten plans, the namespaces that they run in, and the two states of the cluster that are legal afterwards.

use crate::stage::{Cluster, workload};
use countersign::api::{AgentCommand, AgentCommandSpec, ExecutionPlan, PlanPhase, StepState};
use futures::future::join_all;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What is there, by name, as far as the plans speak of it.
pub type State = BTreeMap<String, String>;

/// The ten scenarios.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scenario {
    Apply,
    Patch,
    Scale,
    Delete,
    Evict,
    Mixed,
    FailingVerify,
    FailingUndo,
    Conditional,
    Fifty,
    /// Not one of the ten: its first step takes ten seconds to get ready.
    Slow,
}

impl Scenario {
    pub const ALL: [Self; 10] = [
        Self::Apply,
        Self::Patch,
        Self::Scale,
        Self::Delete,
        Self::Evict,
        Self::Mixed,
        Self::FailingVerify,
        Self::FailingUndo,
        Self::Conditional,
        Self::Fifty,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Apply => "apply",
            Self::Patch => "patch",
            Self::Scale => "scale",
            Self::Delete => "delete",
            Self::Evict => "evict",
            Self::Mixed => "mixed-order",
            Self::FailingVerify => "failing-verify",
            Self::FailingUndo => "failing-undo",
            Self::Conditional => "conditional",
            Self::Fifty => "fifty-steps",
            Self::Slow => "slow",
        }
    }

    /// Where the plan ends when nothing is in its way.
    pub const fn end(self) -> PlanPhase {
        match self {
            Self::FailingVerify => PlanPhase::RolledBack,
            Self::FailingUndo => PlanPhase::RollbackFailed,
            _ => PlanPhase::Succeeded,
        }
    }

    /// The objects that the plan changes: `configmaps/a`.
    fn changes(self) -> Vec<String> {
        let names: &[&str] = match self {
            Self::Apply => &["configmaps/new", "deployments/fresh"],
            Self::Patch | Self::Slow | Self::Delete => &["configmaps/a", "deployments/web"],
            Self::Scale => &["deployments/web"],
            Self::Evict => &["pods/eviction"],
            Self::Mixed => &["configmaps/new", "configmaps/a", "configmaps/b", "deployments/web"],
            Self::FailingVerify | Self::FailingUndo => &["configmaps/a", "configmaps/b", "deployments/web"],
            Self::Conditional => &["configmaps/a", "configmaps/b"],
            Self::Fifty => return (0..50).map(|n| format!("configmaps/n{n:02}")).collect(),
        };
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn steps(self, namespace: &str, pod: &str) -> Vec<Value> {
        let on = |kind: &str, name: &str| {
            let version = if kind == "Deployment" { "apps/v1" } else { "v1" };
            json!({ "apiVersion": version, "kind": kind, "namespace": namespace, "name": name })
        };
        let merge = |kind: &str, name: &str, body: Value| json!({ "patch": { "target": on(kind, name), "type": "merge", "body": body } });
        let data = |name: &str, value: &str| merge("ConfigMap", name, json!({ "data": { "value": value } }));
        let config = |name: &str| {
            json!({ "apply": { "manifest": { "apiVersion": "v1", "kind": "ConfigMap", "data": { "value": "new" },
                    "metadata": { "name": name, "namespace": namespace } } } })
        };
        let image = |image: &str| {
            json!({ "patch": { "target": on("Deployment", "web"), "type": "json", "body": [
                { "op": "replace", "path": "/spec/template/spec/containers/0/image", "value": image }] } })
        };
        let delete = |kind: &str, name: &str| json!({ "delete": { "target": on(kind, name) } });
        let step = |id: &str, after: &[&str], operation: Value| json!({ "id": id, "title": id, "dependsOn": after, "operation": operation });
        match self {
            Self::Apply => {
                let mut fresh = workload("Deployment", "fresh", "nginx:1.27", 1);
                fresh["metadata"]["namespace"] = json!(namespace);
                vec![step("a", &[], config("new")), step("b", &["a"], json!({ "apply": { "manifest": fresh } }))]
            }
            Self::Patch => vec![step("a", &[], data("a", "2")), step("b", &["a"], image("nginx:1.28"))],
            Self::Slow => vec![step("a", &[], image("nginx:slow")), step("b", &["a"], data("a", "2"))],
            // Asked for in words.
            Self::Scale => vec![],
            Self::Delete => {
                vec![step("a", &[], delete("ConfigMap", "a")), step("b", &["a"], delete("Deployment", "web"))]
            }
            Self::Evict => vec![step("a", &[], json!({ "evict": { "target": on("Pod", pod) } }))],
            Self::Mixed => vec![
                step("a", &[], config("new")),
                step("b", &[], data("b", "2")),
                step("c", &["a", "b"], image("nginx:1.28")),
                step("d", &["c"], delete("ConfigMap", "a")),
            ],
            // Of what is removed and deleted nothing tells who did it.
            Self::FailingVerify => vec![
                step("a", &[], merge("ConfigMap", "a", json!({ "data": { "value": null } }))),
                step("b", &[], delete("ConfigMap", "b")),
                step("c", &["a", "b"], image("nginx:broken")),
            ],
            // What became immutable does not go back; the others do.
            Self::FailingUndo => vec![
                step("a", &[], data("a", "2")),
                step("b", &["a"], merge("ConfigMap", "b", json!({ "immutable": true }))),
                step("c", &["b"], image("nginx:broken")),
            ],
            Self::Conditional => {
                let mut then = step("b", &["a"], data("b", "2"));
                then["when"] = json!("steps.a.object.data.value == '2'");
                let mut not = step("c", &["a"], delete("Deployment", "web"));
                not["when"] = json!("steps.a.object.data.value == '1'");
                vec![step("a", &[], data("a", "2")), then, not]
            }
            Self::Fifty => (0..50)
                .map(|n| {
                    let earlier = format!("s{:02}", n % 10);
                    let after: &[&str] = if n < 10 { &[] } else { &[&earlier] };
                    step(&format!("s{n:02}"), after, config(&format!("n{n:02}")))
                })
                .collect(),
        }
    }

    /// The state after all steps, from the one before.
    fn after(self, before: &State) -> State {
        let mut after = before.clone();
        let mut set = |name: &str, value: &str| after.insert(name.to_owned(), value.to_owned());
        match self {
            Self::Apply => {
                set("configmaps/new", "new");
                set("deployments/fresh", "1 nginx:1.27");
            }
            Self::Patch => {
                set("configmaps/a", "2");
                set("deployments/web", "2 nginx:1.28");
            }
            Self::Scale => {
                set("deployments/web", "3 nginx:1.27");
            }
            Self::Delete => after.retain(|name, _| name != "configmaps/a" && name != "deployments/web"),
            Self::Evict => {
                set("pod", "gone");
            }
            Self::Mixed => {
                set("configmaps/new", "new");
                set("configmaps/b", "2");
                set("deployments/web", "2 nginx:1.28");
                after.remove("configmaps/a");
            }
            Self::Slow => {
                set("configmaps/a", "2");
                set("deployments/web", "2 nginx:slow");
            }
            Self::FailingVerify => {}
            Self::FailingUndo => {
                set("configmaps/b", "1 immutable");
            }
            Self::Conditional => {
                set("configmaps/a", "2");
                set("configmaps/b", "2");
            }
            Self::Fifty => after.extend((0..50).map(|n| (format!("configmaps/n{n:02}"), "new".to_owned()))),
        }
        after
    }
}

/// One scenario in a namespace of its own.
pub struct Run {
    pub scenario: Scenario,
    pub namespace: String,
    pub before: State,
    pub pod: String,
    admin: Client,
    alice: Client,
    begun: Instant,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct End {
    /// `None` when it did not.
    pub phase: Option<PlanPhase>,
    pub message: String,
    pub state: State,
    /// From the request to the end.
    pub took: Duration,
}

impl Run {
    /// Sets a namespace up. The account and alice may do everything in it.
    pub async fn set_up(cluster: &Cluster, scenario: Scenario, namespace: String) -> Self {
        let (admin, alice) = (cluster.client("admin").await, cluster.client("alice").await);
        furnish(&admin, &namespace).await;
        let mut run =
            Self { scenario, namespace, before: State::new(), pod: String::new(), admin, alice, begun: Instant::now() };
        for name in ["a", "b"] {
            run.create("v1", "ConfigMap", json!({ "metadata": { "name": name }, "data": { "value": "1" } })).await;
        }
        if !matches!(scenario, Scenario::Fifty) {
            run.create("apps/v1", "Deployment", workload("Deployment", "web", "nginx:1.27", 2)).await;
            let deployments: Api<Deployment> = Api::namespaced(run.admin.clone(), &run.namespace);
            eventually("its deployment is ready", || async {
                let status = deployments.get("web").await.ok()?.status?;
                (status.ready_replicas == Some(2) && status.updated_replicas == Some(2)).then_some(())
            })
            .await;
            let pods: Api<Pod> = Api::namespaced(run.admin.clone(), &run.namespace);
            run.pod = pods.list(&ListParams::default()).await.unwrap().items[0].name_any();
        }
        run.before = run.state().await.expect("the API server answers");
        run
    }

    async fn create(&self, api_version: &str, kind: &str, object: Value) {
        create(&self.admin, Some(&self.namespace), api_version, kind, object).await;
    }

    /// Alice asks for it, in words or by a plan.
    pub async fn begin(&mut self) {
        self.begun = Instant::now();
        if self.scenario == Scenario::Scale {
            let spec = AgentCommandSpec {
                request: "scale web to 3".to_owned(),
                service_account_name: Some("deployer".to_owned()),
                ..AgentCommandSpec::default()
            };
            let commands: Api<AgentCommand> = Api::namespaced(self.alice.clone(), &self.namespace);
            commands.create(&PostParams::default(), &AgentCommand::new("ask", spec)).await.unwrap();
        } else {
            self.plan(self.scenario.steps(&self.namespace, &self.pod)).await;
        }
    }

    /// Alice writes a plan by hand.
    pub async fn plan(&mut self, steps: Vec<Value>) {
        self.begun = Instant::now();
        let plan: ExecutionPlan = serde_json::from_value(json!({
            "apiVersion": "countersign.dev/v1alpha1", "kind": "ExecutionPlan", "metadata": { "name": "ask" },
            "spec": { "summary": self.scenario.name(), "serviceAccountName": "deployer", "steps": steps },
        }))
        .unwrap();
        let plans: Api<ExecutionPlan> = Api::namespaced(self.alice.clone(), &self.namespace);
        plans.create(&PostParams::default(), &plan).await.unwrap();
    }

    /// Waits until the plan, and the command where there is one, ended; at most for `patience`.
    pub async fn ended(&self, patience: Duration) -> End {
        let wait = async {
            let mut ticks = tokio::time::interval(Duration::from_millis(250));
            loop {
                ticks.tick().await;
                if let Some(end) = self.look().await {
                    return end;
                }
            }
        };
        let (phase, message) = match tokio::time::timeout(patience.saturating_sub(self.begun.elapsed()), wait).await {
            Ok((phase, message)) => (Some(phase), message),
            Err(_) => (None, self.story().await),
        };
        let took = self.begun.elapsed();
        // The controllers may still be at it: what a deployment is made of goes after it.
        let state = eventually("the API server answers", || self.state()).await;
        End { phase, message, state, took }
    }

    async fn look(&self) -> Option<(PlanPhase, String)> {
        let plans: Api<ExecutionPlan> = Api::namespaced(self.admin.clone(), &self.namespace);
        let mut name = "ask".to_owned();
        if self.scenario == Scenario::Scale {
            let commands: Api<AgentCommand> = Api::namespaced(self.admin.clone(), &self.namespace);
            let status = commands.get("ask").await.ok()?.status?;
            let phase = status.phase.filter(|phase| phase.is_final())?;
            let Some(plan) = status.plan else {
                return Some((PlanPhase::Failed, format!("command {phase}: {}", status.reply.unwrap_or_default())));
            };
            name = plan.name;
        }
        let status = plans.get(&name).await.ok()?.status?;
        Some((status.phase.filter(|phase| phase.is_final())?, status.message.unwrap_or_default()))
    }

    /// Whether the first step landed and is not verified yet.
    pub async fn waits(&self) -> bool {
        let plans: Api<ExecutionPlan> = Api::namespaced(self.admin.clone(), &self.namespace);
        let plan = plans.get("ask").await.ok();
        let step = plan.and_then(|plan| plan.status?.steps.into_iter().next());
        step.is_some_and(|step| step.state == StepState::Applied)
    }

    async fn story(&self) -> String {
        let plans: Api<ExecutionPlan> = Api::namespaced(self.admin.clone(), &self.namespace);
        let commands: Api<AgentCommand> = Api::namespaced(self.admin.clone(), &self.namespace);
        let plans = plans.list(&ListParams::default()).await.map(|list| {
            list.items.into_iter().map(|plan| json!(plan.status).to_string()).collect::<Vec<_>>().join("; ")
        });
        let commands = commands.list(&ListParams::default()).await.map(|list| {
            list.items.into_iter().map(|command| json!(command.status).to_string()).collect::<Vec<_>>().join("; ")
        });
        format!("plans: {plans:?}; commands: {commands:?}")
    }

    /// What is there now; `None` when the API server does not answer.
    async fn state(&self) -> Option<State> {
        let (admin, namespace) = (&self.admin, self.namespace.as_str());
        let all = ListParams::default();
        let configs = Api::<ConfigMap>::namespaced(admin.clone(), namespace).list(&all).await.ok()?;
        let deployments = Api::<Deployment>::namespaced(admin.clone(), namespace).list(&all).await.ok()?;
        let mut state = State::new();
        for config in configs.items.into_iter().filter(|config| config.name_any() != "kube-root-ca.crt") {
            let value = config.data.clone().unwrap_or_default().remove("value").unwrap_or_default();
            let immutable = if config.immutable == Some(true) { " immutable" } else { "" };
            state.insert(format!("configmaps/{}", config.name_any()), format!("{value}{immutable}"));
        }
        for deployment in deployments.items.into_iter().filter(|d| d.metadata.deletion_timestamp.is_none()) {
            let name = deployment.name_any();
            let spec = deployment.spec?;
            let image = spec.template.spec?.containers.first()?.image.clone()?;
            state.insert(format!("deployments/{name}"), format!("{} {image}", spec.replicas?));
        }
        if self.scenario == Scenario::Evict {
            let pod = Api::<Pod>::namespaced(admin.clone(), namespace).get_opt(&self.pod).await.ok()?;
            let there = pod.is_some_and(|pod| pod.metadata.deletion_timestamp.is_none());
            state.insert("pod".to_owned(), if there { "there" } else { "gone" }.to_owned());
        }
        Some(state)
    }

    /// What is wrong with how it ended, given the writes to each object: lost, doubled, illegal.
    pub fn judge(&self, end: &End, writes: &BTreeMap<String, u32>) -> Judgement {
        let done = end.phase == Some(self.scenario.end());
        let legal = match end.phase {
            Some(PlanPhase::Succeeded) => Some(self.scenario.after(&self.before)),
            Some(PlanPhase::RollbackFailed) => {
                (self.scenario == Scenario::FailingUndo).then(|| self.scenario.after(&self.before))
            }
            _ => Some(self.before.clone()),
        };
        let mut allowed = self.scenario.changes();
        if self.scenario == Scenario::Evict {
            allowed = vec![format!("pods/eviction {}", self.pod)];
        }
        let most = match end.phase {
            Some(PlanPhase::Failed | PlanPhase::Drifted) => 0,
            Some(PlanPhase::Succeeded) => 1,
            _ => 2,
        };
        let count = |object: &String| writes.get(object).copied().unwrap_or(0);
        let doubled = writes.iter().filter(|(object, count)| **count > most || !allowed.contains(object)).count();
        let lost = if done && most == 1 { allowed.iter().filter(|object| count(object) == 0).count() } else { 0 };
        // A pod that was evicted does not come back; its controller replaces it.
        let put_back = self.scenario == Scenario::Evict && end.phase == Some(PlanPhase::RolledBack);
        let is_legal = put_back || legal.as_ref() == Some(&end.state);
        Judgement { lost, doubled, terminal: end.phase.is_some(), legal: is_legal, as_planned: done }
    }
}

/// What was found of one run.
#[derive(Clone, Copy, Debug)]
pub struct Judgement {
    pub lost: usize,
    pub doubled: usize,
    pub terminal: bool,
    pub legal: bool,
    /// It ended the way it does when nothing is in its way.
    pub as_planned: bool,
}

impl Judgement {
    pub const fn is_fine(&self) -> bool {
        self.lost == 0 && self.doubled == 0 && self.terminal && self.legal
    }
}

/// Sets up many namespaces at once.
pub async fn set_up(cluster: &Cluster, round: &str, scenarios: &[Scenario]) -> Vec<Run> {
    let one = |scenario: &Scenario| Run::set_up(cluster, *scenario, format!("{round}-{}", scenario.name()));
    join_all(scenarios.iter().map(one)).await
}

/// A policy that needs no approval where something is to fail in other ways.
pub async fn allow_everything(cluster: &Cluster) {
    let admin = cluster.client("admin").await;
    let policy = json!({ "metadata": { "name": "faults" }, "spec": {
        "namespaceSelector": { "matchLabels": { "faults": "true" } }, "automation": "Full",
        "approvals": { "low": 0, "medium": 0, "high": 0, "critical": 0 } } });
    create(&admin, None, "countersign.dev/v1alpha1", "PlanPolicy", policy).await;
}

/// A namespace with an account and the rights of both who ask and who do.
pub async fn furnish(admin: &Client, namespace: &str) {
    let labels = json!({ "faults": "true", "environment": "test" });
    create(admin, None, "v1", "Namespace", json!({ "metadata": { "name": namespace, "labels": labels } })).await;
    let group = "rbac.authorization.k8s.io";
    let rbac = "rbac.authorization.k8s.io/v1";
    let account = json!({ "kind": "ServiceAccount", "name": "deployer", "namespace": namespace });
    let alice = json!({ "kind": "User", "name": "alice", "apiGroup": group });
    let within = Some(namespace);
    create(admin, within, "v1", "ServiceAccount", json!({ "metadata": { "name": "deployer" } })).await;
    let edit = json!({ "kind": "ClusterRole", "name": "edit", "apiGroup": group });
    create(
        admin,
        within,
        rbac,
        "RoleBinding",
        json!({ "metadata": { "name": "work" }, "roleRef": edit, "subjects": [account, alice] }),
    )
    .await;
    let rules = json!([
        { "apiGroups": [""], "resources": ["serviceaccounts"], "resourceNames": ["deployer"], "verbs": ["use"] },
        { "apiGroups": ["faults.example"], "resources": ["*"], "verbs": ["*"] },
    ]);
    create(admin, within, rbac, "Role", json!({ "metadata": { "name": "use" }, "rules": rules })).await;
    let role = json!({ "kind": "Role", "name": "use", "apiGroup": group });
    create(
        admin,
        within,
        rbac,
        "RoleBinding",
        json!({ "metadata": { "name": "use" }, "roleRef": role, "subjects": [account, alice] }),
    )
    .await;
}

/// Applies an object as admin.
pub async fn create(admin: &Client, namespace: Option<&str>, api_version: &str, kind: &str, mut object: Value) {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let resource = ApiResource::from_gvk(&kube::core::GroupVersionKind::gvk(group, version, kind));
    let resource =
        if kind == "PlanPolicy" { ApiResource { plural: "planpolicies".into(), ..resource } } else { resource };
    object["apiVersion"] = json!(api_version);
    object["kind"] = json!(kind);
    let name = object["metadata"]["name"].as_str().unwrap().to_owned();
    let api: Api<DynamicObject> = match namespace {
        Some(namespace) => Api::namespaced_with(admin.clone(), namespace, &resource),
        None => Api::all_with(admin.clone(), &resource),
    };
    let applied = api.patch(&name, &PatchParams::apply("set-up").force(), &Patch::Apply(&object)).await;
    applied.unwrap_or_else(|error| panic!("cannot set up {kind} {name}: {error}"));
}

/// Waits for something that no single object tells, and gives it.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, look: impl Fn() -> F) -> T {
    let wait = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(200));
        loop {
            ticks.tick().await;
            if let Some(found) = look().await {
                return found;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(120), wait)
        .await
        .unwrap_or_else(|_| panic!("after two minutes still not: {what}"))
}
