//! Requests and approvals that come from a repository: applied from files, again and again, by accounts of their own.

use crate::policies::Policy;
use crate::stage::{Look, Stage, digest};
use countersign::api::{AgentCommand, CommandPhase, ExecutionPlan, PlanApproval, PlanPhase};
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, ResourceExt};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Whether the operator has written on the approval what it makes of it, which it does after the plan.
pub fn told(approval: &PlanApproval) -> Look {
    let conditions = approval.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    if conditions.is_empty() { Look::NotYet } else { Look::There }
}

/// A service account as kustomize-controller acts as it: by impersonation and by server-side apply.
struct Reconciler {
    client: Client,
    namespace: String,
    /// The namespace that it lives in.
    home: String,
    /// How the API server calls it.
    username: String,
}

impl Reconciler {
    /// An account with those roles in the stage's namespace. It lives in another, where those who ask have no rights.
    async fn with(stage: &Stage, account: &str, roles: &[&str]) -> Self {
        let (name, home) = (&stage.name, format!("{}-git", stage.name));
        let kubectl = |args: &[&str]| stage.kubectl("admin", args, None).unwrap();
        let at_home = |args: &[&str]| {
            let place = [args[0], "--context", "admin", "--namespace", &home];
            stage.cluster.run("kubectl", &[&place, &args[1..]].concat(), None).unwrap()
        };
        if stage.kubectl("admin", &["get", "namespace", &home], None).is_err() {
            kubectl(&["create", "namespace", &home]);
            at_home(&["create", "serviceaccount", "kustomize-controller"]);
            at_home(&["create", "role", "impersonate", "--verb=impersonate", "--resource=serviceaccounts"]);
            let controller = format!("--serviceaccount={home}:kustomize-controller");
            at_home(&["create", "rolebinding", "impersonate", "--role=impersonate", &controller]);
        }
        at_home(&["create", "serviceaccount", account]);
        for role in roles {
            let (binding, role) = (format!("{account}-{role}"), format!("--clusterrole={role}"));
            kubectl(&["create", "rolebinding", &binding, &role, &format!("--serviceaccount={home}:{account}")]);
        }
        let token = at_home(&["create", "token", "kustomize-controller"]);
        let kubeconfig = Kubeconfig::read_from(&stage.cluster.kubeconfig).unwrap();
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        let username = format!("system:serviceaccount:{home}:{account}");
        config.auth_info = kube::config::AuthInfo {
            token: Some(token.trim().to_owned().into()),
            impersonate: Some(username.clone()),
            ..kube::config::AuthInfo::default()
        };
        Self { client: Client::try_from(config).unwrap(), namespace: name.clone(), home, username }
    }

    fn objects(&self, kind: &str) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk("countersign.dev", "v1alpha1", kind);
        Api::namespaced_with(self.client.clone(), &self.namespace, &ApiResource::from_gvk(&kind))
    }

    /// Applies a file as Flux does: first to see what would change, then in earnest.
    async fn apply(&self, file: &Value) -> Result<DynamicObject, kube::Error> {
        let objects = self.objects(file["kind"].as_str().unwrap());
        let (name, params) =
            (file["metadata"]["name"].as_str().unwrap(), PatchParams::apply("kustomize-controller").force());
        objects.patch(name, &params.clone().dry_run(), &Patch::Apply(file)).await?;
        objects.patch(name, &params, &Patch::Apply(file)).await
    }

    async fn prune(&self, file: &Value) {
        let objects = self.objects(file["kind"].as_str().unwrap());
        objects.delete(file["metadata"]["name"].as_str().unwrap(), &DeleteParams::default()).await.unwrap();
    }
}

fn request(words: &str) -> Value {
    json!({ "apiVersion": "countersign.dev/v1alpha1", "kind": "AgentCommand", "metadata": { "name": "more-checkout" },
            "spec": { "request": words, "serviceAccountName": "deployer" } })
}

fn approval(plan: &ExecutionPlan) -> Value {
    json!({ "apiVersion": "countersign.dev/v1alpha1", "kind": "PlanApproval", "metadata": { "name": "release" },
            "spec": { "plan": plan.name_any(), "digest": digest(plan), "decision": "Approve", "reason": "reviewed" } })
}

/// May an account with the right roles do it yet? The API server learns of them a moment later.
async fn applied(stage: &Stage, by: &Reconciler, file: &Value) -> DynamicObject {
    let mut done = None;
    let mut said = String::new();
    stage
        .eventually("applied", async || match by.apply(file).await {
            Ok(object) => {
                done = Some(object);
                true
            }
            Err(error) => {
                said = error.to_string();
                assert!(said.contains("cannot") || said.contains("may not"), "{said}");
                false
            }
        })
        .await;
    done.unwrap()
}

#[tokio::test]
async fn a_committed_approval_is_the_word_of_the_account_that_applies_it() {
    let stage = Stage::set().await;
    stage.run("checkout", "nginx:1.27", 2).await;
    // Two words are needed, so that the first can be taken back.
    let _two = Policy::set(&stage, "two", json!({ "approvals": { "medium": 2, "high": 2, "critical": 2 } })).await;
    let command = stage.ask("scale checkout to 5").await;
    let plan = stage.awaiting(&command).await;
    let reconciler = Reconciler::with(&stage, "approvals", &["countersign-approver"]).await;
    let file = approval(&plan);
    let count = |wanted: &'static str| {
        move |plan: &ExecutionPlan| {
            let found = plan.status.as_ref().and_then(|status| status.approval_count.clone());
            if found.as_deref() == Some(wanted) { Look::There } else { Look::NotYet }
        }
    };
    applied(&stage, &reconciler, &file).await;
    stage.until("approved once", &plan.name_any(), count("1/2")).await;
    let first: PlanApproval = stage.until("told that it counts", "release", told).await;
    assert_eq!(first.spec.approver.as_ref().unwrap().username, reconciler.username);

    // Every interval the same file is applied again.
    for _ in 0..3 {
        reconciler.apply(&file).await.unwrap();
    }
    let again: PlanApproval = stage.api().get("release").await.unwrap();
    assert_eq!((first.uid(), first.resource_version()), (again.uid(), again.resource_version()));

    // Taken out of the repository before the plan begins, it is taken back.
    reconciler.prune(&file).await;
    stage.until("approved by nobody", &plan.name_any(), count("0/2")).await;
    reconciler.apply(&file).await.unwrap();
    stage.until("approved once", &plan.name_any(), count("1/2")).await;
    stage.approve("bob", &plan).unwrap();
    stage.command(&command, CommandPhase::Succeeded).await;
    let done = stage.plan(&plan.name_any(), PlanPhase::Succeeded).await.status.unwrap();
    // Creation times count seconds, so the order of two approvals in one second is that of their names.
    let approvers: BTreeSet<&str> = done.approvals.iter().map(|record| record.approver.as_str()).collect();
    assert_eq!(approvers, BTreeSet::from([reconciler.username.as_str(), "bob"]));

    // What is over stays over, whether the file stays or goes.
    reconciler.apply(&file).await.unwrap();
    reconciler.prune(&file).await;
    let after = stage.plan(&plan.name_any(), PlanPhase::Succeeded).await.status.unwrap();
    assert_eq!(after.approvals, done.approvals);
    assert_eq!(stage.field("deployment/checkout", "{.spec.replicas}"), "5");
}

#[tokio::test]
async fn one_account_does_not_apply_both_the_request_and_its_approval() {
    let stage = Stage::set().await;
    stage.run("checkout", "nginx:1.27", 2).await;
    let one = Reconciler::with(&stage, "one", &["edit", "countersign-approver"]).await;
    let uses = format!("--serviceaccount={}:one", one.home);
    stage.kubectl("admin", &["create", "rolebinding", "one-uses", "--role=use", &uses], None).unwrap();
    applied(&stage, &one, &request("scale checkout to 5")).await;
    let plan = stage.awaiting("more-checkout").await;
    assert_eq!(plan.spec.requested_by.as_ref().unwrap().username, one.username);
    let said = one.apply(&approval(&plan)).await.unwrap_err().to_string();
    let sentence = format!("you ({}) asked for plan {} yourself", one.username, plan.name_any());
    assert!(said.contains(&sentence), "{said}");
    // The digest of yesterday's plan is refused with today's.
    let other = Reconciler::with(&stage, "other", &["countersign-approver"]).await;
    let mut stale = approval(&plan);
    stale["spec"]["digest"] = json!(format!("sha256:{}", "0".repeat(64)));
    stage
        .eventually("refused with the digest", async || {
            let said = other.apply(&stale).await.unwrap_err().to_string();
            said.contains(&format!("plan {} has digest {}", plan.name_any(), digest(&plan)))
        })
        .await;
    other.apply(&approval(&plan)).await.unwrap();
    stage.command("more-checkout", CommandPhase::Succeeded).await;
}

#[tokio::test]
async fn a_request_applied_again_stays_that_of_whoever_asked() {
    let stage = Stage::for_tests().await;
    stage.run("checkout", "nginx:1.27", 2).await;
    let file = request("scale checkout to 5");
    stage.kubectl("alice", &["create", "-f", "-"], Some(&file.to_string())).unwrap();
    let asked = stage.command("more-checkout", CommandPhase::Succeeded).await;
    let reconciler = Reconciler::with(&stage, "requests", &["edit"]).await;
    let uses = format!("--serviceaccount={}:requests", reconciler.home);
    stage.kubectl("admin", &["create", "rolebinding", "requests-uses", "--role=use", &uses], None).unwrap();
    // Whoever gives somebody else's request other words ends what waits for it: that takes a verb of its own.
    let subject = json!({ "kind": "ServiceAccount", "name": "requests", "namespace": reconciler.home });
    stage.apply(&[
        json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": { "name": "change" },
                "rules": [{ "apiGroups": ["countersign.dev"], "resources": ["agentcommands"], "verbs": ["cancel"] }] }),
        json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": { "name": "change" },
                "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "change" }, "subjects": [subject] }),
    ]);
    for _ in 0..2 {
        applied(&stage, &reconciler, &file).await;
    }
    let again: AgentCommand = stage.api().get("more-checkout").await.unwrap();
    assert_eq!(again.spec.requested_by.unwrap().username, "alice");
    assert_eq!(again.metadata.generation, asked.metadata.generation);
    // Other words are the word of whoever applies them.
    applied(&stage, &reconciler, &request("scale checkout to 3")).await;
    let answered = |command: &AgentCommand| {
        let seen = command.status.as_ref().and_then(|status| status.observed_generation);
        let done = command.status.as_ref().and_then(|status| status.phase) == Some(CommandPhase::Succeeded);
        if done && seen == command.metadata.generation && seen > asked.metadata.generation {
            Look::There
        } else {
            Look::NotYet
        }
    };
    let changed: AgentCommand = stage.until("answered anew", "more-checkout", answered).await;
    assert_eq!(changed.spec.requested_by.unwrap().username, reconciler.username);
    assert_eq!(stage.field("deployment/checkout", "{.spec.replicas}"), "3");
}

#[tokio::test]
async fn the_same_request_on_the_same_cluster_has_the_same_digest() {
    let stage = Stage::set().await;
    stage.run("checkout", "nginx:1.27", 2).await;
    let mut digests = Vec::new();
    for _ in 0..2 {
        stage.ask_as("more-checkout", "scale checkout to 5", |_| ()).await;
        let plan = stage.awaiting("more-checkout").await;
        digests.push(digest(&plan));
        // What the cluster says of the plan is what its text says.
        let text = stage.kubectl("admin", &["get", "executionplan", &plan.name_any(), "-o", "yaml"], None).unwrap();
        let said = stage.cluster.run("countersign", &["digest", "-"], Some(&text)).unwrap();
        assert_eq!(said.trim(), digest(&plan));
        stage.kubectl("admin", &["delete", "agentcommand", "more-checkout", "--wait"], None).unwrap();
        stage.gone(&format!("executionplan/{}", plan.name_any())).await;
    }
    assert_eq!(digests[0], digests[1]);
    stage.ask_as("more-checkout", "scale checkout to 6", |_| ()).await;
    assert_ne!(digest(&stage.awaiting("more-checkout").await), digests[0]);
}
