//! The stage of one scenario: a namespace of its own, the people in it, and waiting for what happens there.

#[path = "../audit_log.rs"]
pub mod audit_log;

use audit_log::AuditLog;
use countersign::api::{
    AgentCommand, AgentCommandSpec, CommandPhase, ConditionType, Decision, ExecutionPlan, PlanApproval,
    PlanApprovalSpec, PlanPhase, Requester, condition_is_true,
};
use futures::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher::watch_object;
use kube::{Client, Config, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fmt::Debug;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// The operator's own namespace.
pub const OPERATOR_NAMESPACE: &str = "countersign-system";
/// Long enough for a machine that builds something else meanwhile; what takes longer does not happen at all.
const PATIENCE: Duration = Duration::from_secs(90);

/// A cluster with the operator.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Its name for `e2e/cluster --name`.
    pub name: String,
    /// Its kubeconfig with a context for everybody.
    pub kubeconfig: PathBuf,
    path: String,
}

impl Cluster {
    /// The cluster that `e2e/test` started for all scenarios.
    pub fn shared() -> Self {
        let variable = |name: &str| {
            std::env::var(name).unwrap_or_else(|_| {
                panic!("{name} is not set: scenarios need a cluster with the operator; run them by e2e/test --e2e")
            })
        };
        Self {
            name: variable("COUNTERSIGN_E2E_CLUSTER"),
            kubeconfig: variable("KUBECONFIG").into(),
            path: variable("PATH"),
        }
    }

    /// Starts a cluster with the operator for one scenario alone.
    pub fn start(purpose: &str) -> OwnCluster {
        Self::start_with(purpose, &["--operator", "--no-build"])
    }

    /// Starts a cluster for one scenario alone, with those options of `e2e/cluster up`.
    pub fn start_with(purpose: &str, options: &[&str]) -> OwnCluster {
        let name = format!("{purpose}-{}", random());
        let exports = run(launcher().args(["up", "--name", &name]).args(options), None);
        let exports = exports.unwrap_or_else(|error| panic!("cluster {name} does not start: {error}"));
        // The shell knows best how it wants this read.
        let print = format!("{exports}\nprintf '%s\\n%s' \"$KUBECONFIG\" \"$PATH\"");
        let values = run(Command::new("bash").args(["-c", &print]), None).unwrap();
        let (kubeconfig, path) = values.split_once('\n').unwrap();
        OwnCluster(Self { name, kubeconfig: kubeconfig.into(), path: path.to_owned() })
    }

    /// Runs `e2e/cluster` on this cluster.
    pub fn control(&self, args: &[&str]) -> Result<String, String> {
        run(launcher().args(args).args(["--name", &self.name]), None)
    }

    /// Runs a program with this cluster's kubeconfig.
    pub fn run(&self, program: &str, args: &[&str], input: Option<&str>) -> Result<String, String> {
        // The program is looked for on the PATH of this process otherwise.
        let found = self.path.split(':').map(|folder| Path::new(folder).join(program)).find(|file| file.exists());
        let mut command = Command::new(found.unwrap_or_else(|| program.into()));
        run(command.args(args).env("KUBECONFIG", &self.kubeconfig).env("PATH", &self.path), input)
    }

    /// A client that speaks as a user of the kubeconfig.
    pub async fn client(&self, user: &str) -> Client {
        let kubeconfig = Kubeconfig::read_from(&self.kubeconfig).unwrap();
        let options = KubeConfigOptions { context: Some(user.to_owned()), ..KubeConfigOptions::default() };
        Client::try_from(Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap()).unwrap()
    }

    /// The successful writes that a plan's account made to an object, as the API server's audit log has them.
    pub fn writes(&self, namespace: &str, resource: &str, name: &str) -> Vec<String> {
        let account = format!("system:serviceaccount:{namespace}:deployer");
        let is_write = |entry: &Value| {
            entry["impersonatedUser"]["username"] == account.as_str()
                && entry["objectRef"]["resource"] == resource
                && entry["objectRef"]["name"] == name
                && entry["responseStatus"]["code"].as_u64().is_some_and(|code| code < 300)
                && !entry["requestURI"].as_str().unwrap_or_default().contains("dryRun")
                && ["patch", "update", "create", "delete"].iter().any(|verb| entry["verb"] == *verb)
        };
        let mut verbs = Vec::new();
        AuditLog::of(&self.kubeconfig).read(0, |line| {
            let entry = serde_json::from_slice::<Value>(line).ok().filter(&is_write);
            verbs.extend(entry.map(|entry| entry["verb"].as_str().unwrap_or_default().to_owned()));
        });
        verbs
    }
}

/// A cluster that goes with the scenario.
#[derive(Debug)]
pub struct OwnCluster(pub Cluster);

impl Drop for OwnCluster {
    fn drop(&mut self) {
        let keep: &[&str] = if std::thread::panicking() { &["down", "--keep-logs"] } else { &["down"] };
        // The scenario's own failure is the one to tell.
        let _ = self.0.control(keep);
    }
}

fn launcher() -> Command {
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/cluster"))
}

/// Runs a command to its end; standard output, or all that it said.
fn run(command: &mut Command, input: Option<&str>) -> Result<String, String> {
    let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    let mut child = command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    if let (Some(mut pipe), Some(input)) = (child.stdin.take(), input) {
        // Who has heard enough hangs up; what it said tells why.
        let _ = pipe.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stdout) + &text(&output.stderr)) }
}

pub fn random() -> String {
    format!("{:05x}", rand::random::<u32>() & 0xf_ffff)
}

/// What to make of an object while waiting.
pub enum Look {
    There,
    NotYet,
    Never,
}

/// The stage of one scenario.
pub struct Stage {
    pub cluster: Cluster,
    /// The namespace.
    pub name: String,
    pub admin: Client,
    alice: Client,
}

impl Stage {
    /// A namespace of no known environment, where every change needs one approval.
    pub async fn set() -> Self {
        Self::on(Cluster::shared(), None).await
    }

    /// A namespace where scaling, releasing and creating is of low risk.
    pub async fn for_tests() -> Self {
        Self::on(Cluster::shared(), Some("test")).await
    }

    /// A namespace of that environment. The account `deployer` and alice have the same rights, bob and carol approve.
    pub async fn on(cluster: Cluster, environment: Option<&str>) -> Self {
        let name = format!("shop-{}", random());
        let labels = environment.map(|environment| json!({ "environment": environment }));
        let (admin, alice) = (cluster.client("admin").await, cluster.client("alice").await);
        let stage = Self { cluster, name, admin, alice };
        let namespace =
            json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": stage.name, "labels": labels } });
        let account = json!({ "kind": "ServiceAccount", "name": "deployer", "namespace": stage.name });
        let alice = json!({ "kind": "User", "name": "alice", "apiGroup": "rbac.authorization.k8s.io" });
        let approvers = json!({ "kind": "Group", "name": "approvers", "apiGroup": "rbac.authorization.k8s.io" });
        stage.apply(&[
            namespace,
            json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "deployer" } }),
            rbac("RoleBinding", "work", "ClusterRole", "edit", &[&account, &alice]),
            json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": { "name": "use" },
                    "rules": [{ "apiGroups": [""], "resources": ["serviceaccounts"], "resourceNames": ["deployer"], "verbs": ["use"] }] }),
            rbac("RoleBinding", "use", "Role", "use", &[&alice]),
            rbac("RoleBinding", "approve", "ClusterRole", "countersign-approver", &[&approvers]),
        ]);
        stage
    }

    /// Lets the account and alice do more in the whole cluster.
    pub fn allow(&self, rules: &Value) {
        let account = json!({ "kind": "ServiceAccount", "name": "deployer", "namespace": self.name });
        let alice = json!({ "kind": "User", "name": "alice", "apiGroup": "rbac.authorization.k8s.io" });
        self.apply(&[
            json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": { "name": self.name }, "rules": rules }),
            rbac("ClusterRoleBinding", &self.name, "ClusterRole", &self.name, &[&account, &alice]),
        ]);
    }

    /// Applies objects as admin, in this namespace unless they name another.
    pub fn apply(&self, objects: &[Value]) {
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects }).to_string();
        self.kubectl("admin", &["apply", "-f", "-"], Some(&list))
            .unwrap_or_else(|error| panic!("cannot set the stage: {error}"));
    }

    /// Runs a deployment with that image until it is ready.
    pub async fn run(&self, name: &str, image: &str, replicas: u32) {
        self.apply(&[workload("Deployment", name, image, replicas)]);
        self.ready(name).await;
    }

    pub async fn ready(&self, name: &str) {
        let ready = |deployment: &Deployment| {
            let status = deployment.status.clone().unwrap_or_default();
            let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas);
            let seen = status.observed_generation == deployment.metadata.generation;
            if seen && status.ready_replicas == wanted && status.updated_replicas == wanted && status.replicas == wanted
            {
                Look::There
            } else {
                Look::NotYet
            }
        };
        self.until("ready", name, ready).await;
    }

    /// Runs kubectl, or a plugin of it, in this namespace as one of the users.
    pub fn kubectl(&self, user: &str, args: &[&str], input: Option<&str>) -> Result<String, String> {
        let place = [args[0], "--context", user, "--namespace", &self.name];
        self.cluster.run("kubectl", &[&place, &args[1..]].concat(), input)
    }

    /// A field of an object, by JSONPath.
    pub fn field(&self, object: &str, path: &str) -> String {
        self.kubectl("admin", &["get", object, "-o", &format!("jsonpath={path}")], None)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.admin.clone(), &self.name)
    }

    /// Alice asks, and gets the name of her command.
    pub async fn ask(&self, request: &str) -> String {
        self.ask_with(request, |_| ()).await
    }

    /// Alice asks in more detail.
    pub async fn ask_with(&self, request: &str, more: impl FnOnce(&mut AgentCommandSpec)) -> String {
        let name = format!("ask-{}", random());
        self.ask_as(&name, request, more).await;
        name
    }

    /// Alice asks under that name.
    pub async fn ask_as(&self, name: &str, request: &str, more: impl FnOnce(&mut AgentCommandSpec)) {
        let account = Some("deployer".to_owned());
        let mut spec = AgentCommandSpec {
            request: request.to_owned(),
            service_account_name: account,
            ..AgentCommandSpec::default()
        };
        more(&mut spec);
        let commands: Api<AgentCommand> = Api::namespaced(self.alice.clone(), &self.name);
        let created = commands.create(&PostParams::default(), &AgentCommand::new(name, spec)).await;
        created.unwrap_or_else(|error| panic!("alice may not ask '{request}': {error}"));
    }

    /// Alice changes her command.
    pub async fn edit(&self, command: &str, spec: Value) {
        let commands: Api<AgentCommand> = Api::namespaced(self.alice.clone(), &self.name);
        commands.patch(command, &PatchParams::default(), &Patch::Merge(json!({ "spec": spec }))).await.unwrap();
    }

    /// Waits until a command is in that phase; any other end fails at once.
    pub async fn command(&self, name: &str, phase: CommandPhase) -> AgentCommand {
        let look = |command: &AgentCommand| {
            let status = command.status.clone().unwrap_or_default();
            if status.observed_generation != command.metadata.generation {
                return Look::NotYet;
            }
            let rests = |phase: CommandPhase| phase.is_final() || phase == CommandPhase::NeedsClarification;
            match status.phase {
                Some(found) if found == phase => Look::There,
                Some(found) if rests(found) => Look::Never,
                _ => Look::NotYet,
            }
        };
        let command: AgentCommand = self.until(&phase.to_string(), name, look).await;
        // kstatus and the phase say the same.
        let conditions = &command.status.as_ref().unwrap().conditions;
        let is = |kind| condition_is_true(conditions, kind);
        assert_eq!(is(ConditionType::Ready), phase == CommandPhase::Succeeded, "{conditions:?}");
        command
    }

    /// What the operator said to a command that ended in that phase.
    pub async fn reply(&self, name: &str, phase: CommandPhase) -> String {
        self.command(name, phase).await.status.unwrap().reply.unwrap_or_default()
    }

    /// The plan of a command that waits for approval.
    pub async fn awaiting(&self, command: &str) -> ExecutionPlan {
        let command = self.command(command, CommandPhase::AwaitingApproval).await;
        let plan = self.plan(&command.status.unwrap().plan.unwrap().name, PlanPhase::AwaitingApproval).await;
        self.admission_sees(&plan).await;
        plan
    }

    /// Waits until the API server judges approvals by what the plan says now: its view of plans is a moment behind what it
    /// has stored, and until then it refuses every approval, or lets it pass unjudged.
    pub async fn admission_sees(&self, plan: &ExecutionPlan) {
        // Where nothing is stamped, whoever approves has to name themselves.
        let reviews: Api<SelfSubjectReview> = Api::all(self.admin.clone());
        let myself = reviews.create(&PostParams::default(), &SelfSubjectReview::default()).await.unwrap();
        let user = myself.status.unwrap().user_info.unwrap();
        let approver = Requester { username: user.username.unwrap(), groups: user.groups.unwrap_or_default() };
        let spec = PlanApprovalSpec {
            plan: plan.name_any(),
            digest: format!("sha256:{}", "0".repeat(64)),
            decision: Decision::Deny,
            reason: None,
            approver: Some(approver),
        };
        let approval = PlanApproval::new("admission-sees", spec);
        let dry_run = PostParams { dry_run: true, ..PostParams::default() };
        let seen = format!("has digest {}", digest(plan));
        self.eventually("the API server judges approvals of the plan", async || {
            let judged = self.api::<PlanApproval>().create(&dry_run, &approval).await;
            judged.is_err_and(|error| error.to_string().contains(&seen))
        })
        .await;
    }

    /// Waits until a plan is in that phase; any other end fails at once.
    pub async fn plan(&self, name: &str, phase: PlanPhase) -> ExecutionPlan {
        let look = |plan: &ExecutionPlan| match plan.status.as_ref().and_then(|status| status.phase) {
            Some(found) if found == phase => Look::There,
            Some(found) if found.is_final() => Look::Never,
            _ => Look::NotYet,
        };
        self.until(&phase.to_string(), name, look).await
    }

    /// One of the people says yes to what a plan says now.
    pub fn approve(&self, user: &str, plan: &ExecutionPlan) -> Result<String, String> {
        let (name, digest) = (plan.name_any(), digest(plan));
        self.plugin(user, &[&name, "--yes", "--digest", &digest, "--reason", "read and agreed"])
    }

    /// `kubectl approve-plan` as one of the people.
    pub fn plugin(&self, user: &str, args: &[&str]) -> Result<String, String> {
        let place = ["--context", user, "--namespace", &self.name];
        self.cluster.run("kubectl", &[&["approve-plan"], args, &place].concat(), None)
    }

    /// Waits for an object to look right.
    pub async fn until<K>(&self, what: &str, name: &str, look: impl Fn(&K) -> Look) -> K
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + 'static,
    {
        let mut seen = std::pin::pin!(watch_object(self.api::<K>(), name));
        let kind = K::kind(&());
        let wait = async {
            while let Some(object) = seen.next().await {
                let Ok(Some(object)) = object else { continue };
                match look(&object) {
                    Look::There => return Some(object),
                    Look::Never => return None,
                    Look::NotYet => {}
                }
            }
            None
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(Some(object)) => object,
            Ok(None) => panic!("{kind} {name} will not be {what} any more\n{}", self.story()),
            Err(_) => panic!("{kind} {name} is not {what} after {PATIENCE:?}\n{}", self.story()),
        }
    }

    /// Waits until something holds that no single object tells.
    pub async fn eventually(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let wait = async {
            let mut ticks = tokio::time::interval(Duration::from_millis(200));
            while !holds().await {
                ticks.tick().await;
            }
        };
        if tokio::time::timeout(PATIENCE, wait).await.is_err() {
            panic!("after {PATIENCE:?} still not: {what}\n{}", self.story());
        }
    }

    /// Waits until an object is gone.
    pub async fn gone(&self, object: &str) {
        let args = ["wait", "--for=delete", object, "--timeout=90s"];
        self.kubectl("admin", &args, None).unwrap_or_else(|error| panic!("{error}\n{}", self.story()));
    }

    /// Events on an object: `type reason: note`.
    pub async fn events(&self, name: &str) -> Vec<String> {
        let events: Api<k8s_openapi::api::events::v1::Event> = self.api();
        let found = events.list(&ListParams::default().fields(&format!("regarding.name={name}"))).await.unwrap();
        let text = |event: k8s_openapi::api::events::v1::Event| {
            let (kind, reason, note) = (event.type_, event.reason, event.note);
            format!("{} {}: {}", kind.unwrap_or_default(), reason.unwrap_or_default(), note.unwrap_or_default())
        };
        found.items.into_iter().map(text).collect()
    }

    /// Waits for an event on an object; events come a little after the status.
    pub async fn event(&self, name: &str, text: &str) {
        self.eventually(&format!("event '{text}' on {name}"), async || {
            self.events(name).await.iter().any(|event| event.contains(text))
        })
        .await;
    }

    /// Everything that helps to understand why a scenario failed.
    pub fn story(&self) -> String {
        let show = |args: &[&str]| self.kubectl("admin", args, None).unwrap_or_else(|error| error);
        let log = self.cluster.control(&["operator", "logs", "--tail", "400"]).unwrap_or_else(|error| error);
        let log: Vec<&str> = log.lines().filter(|line| line.contains(&self.name)).collect();
        let last = log.len().saturating_sub(15);
        format!(
            "--- objects\n{}--- their status\n{}\n--- events\n{}--- operator\n{}\n",
            show(&["get", "agc,plan,planapprovals,deployments,statefulsets,pods", "-o", "wide"]),
            show(&[
                "get",
                "agc,plan",
                "-o",
                "jsonpath={range .items[*]}{.kind} {.metadata.name}: {.status}{\"\\n\"}{end}"
            ]),
            show(&["get", "events", "--sort-by=.metadata.creationTimestamp"]),
            log[last..].join("\n"),
        )
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // Other scenarios ask for environments.
            let _ = self.cluster.run("kubectl", &["label", "namespace", &self.name, "environment-"], None);
        }
    }
}

/// The digest of a plan as its status has it.
pub fn digest(plan: &ExecutionPlan) -> String {
    plan.status.as_ref().and_then(|status| status.digest.clone()).unwrap_or_default()
}

/// A Deployment or StatefulSet that runs one image.
pub fn workload(kind: &str, name: &str, image: &str, replicas: u32) -> Value {
    let mut object = json!({
        "apiVersion": "apps/v1", "kind": kind, "metadata": { "name": name },
        "spec": { "replicas": replicas, "selector": { "matchLabels": { "app": name } },
                  "template": { "metadata": { "labels": { "app": name } },
                                "spec": { "containers": [{ "name": "main", "image": image }] } } }
    });
    if kind == "StatefulSet" {
        object["spec"]["serviceName"] = json!(name);
    }
    object
}

fn rbac(kind: &str, name: &str, role_kind: &str, role: &str, subjects: &[&Value]) -> Value {
    json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": { "name": name },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": role_kind, "name": role }, "subjects": subjects })
}
