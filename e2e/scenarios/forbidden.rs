//! What no plan does, whoever asks and approves.

use crate::stage::{OPERATOR_NAMESPACE, Stage};
use countersign::api::{CommandPhase, PlanApproval, PlanPhase, RiskLevel};
use kube::api::ListParams;
use serde_json::{Value, json};

/// Alice writes a plan by hand, and it ends with a message that holds all of the words.
async fn ends(stage: &Stage, steps: &[Value], words: &[&str]) {
    let plan = json!({ "apiVersion": "countersign.dev/v1alpha1", "kind": "ExecutionPlan", "metadata": { "name": "reach" },
        "spec": { "summary": "Reach", "serviceAccountName": "deployer", "steps": steps } });
    stage.kubectl("alice", &["create", "-f", "-"], Some(&plan.to_string())).unwrap();
    let message = stage.plan("reach", PlanPhase::Failed).await.status.unwrap().message.unwrap();
    for word in words {
        assert!(message.contains(word), "'{word}' is not in: {message}");
    }
}

/// Lets alice and the account do that in the whole cluster, and waits until the API server knows.
async fn allowed(stage: &Stage, group: &str, resource: &str, verbs: &[&str]) {
    stage.allow(&json!([{ "apiGroups": [group], "resources": [resource], "verbs": verbs },
                        { "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"], "verbs": ["bind"] }]));
    let asked = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
    stage
        .eventually("alice may", async || {
            stage.kubectl("alice", &["auth", "can-i", verbs[0], &asked, "-n", OPERATOR_NAMESPACE], None).is_ok()
        })
        .await;
}

fn step(operation: Value) -> Value {
    json!({ "id": "reach", "operation": operation })
}

#[tokio::test]
async fn a_plan_that_approves_a_plan() {
    let stage = Stage::set().await;
    let approval = json!({ "apiVersion": "countersign.dev/v1alpha1", "kind": "PlanApproval",
        "metadata": { "name": "yes", "namespace": stage.name },
        "spec": { "plan": "reach", "digest": format!("sha256:{}", "0".repeat(64)), "decision": "Approve" } });
    ends(&stage, &[step(json!({ "apply": { "manifest": approval } }))], &["'reach'", "approvals", "do it yourself"])
        .await;
    assert!(stage.api::<PlanApproval>().list(&ListParams::default()).await.unwrap().items.is_empty());
}

#[tokio::test]
async fn a_plan_that_gives_its_own_account_more() {
    let stage = Stage::set().await;
    allowed(&stage, "rbac.authorization.k8s.io", "rolebindings", &["get", "patch", "create"]).await;
    let binding = json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": { "name": "more", "namespace": stage.name },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin" },
        "subjects": [{ "kind": "ServiceAccount", "name": "deployer", "namespace": stage.name }] });
    ends(&stage, &[step(json!({ "apply": { "manifest": binding } }))], &["deployer", "widen"]).await;
    assert!(stage.kubectl("admin", &["get", "rolebinding", "more"], None).is_err());
}

#[tokio::test]
async fn a_plan_in_the_operators_own_namespace() {
    let stage = Stage::set().await;
    allowed(&stage, "", "configmaps", &["get", "patch", "create"]).await;
    let target = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "x", "namespace": OPERATOR_NAMESPACE } });
    ends(&stage, &[step(json!({ "apply": { "manifest": target } }))], &[OPERATOR_NAMESPACE, "own namespace"]).await;
}

#[tokio::test]
async fn a_namespace_on_what_belongs_to_the_whole_cluster() {
    let stage = Stage::for_tests().await;
    let target = json!({ "apiVersion": "v1", "kind": "Namespace", "namespace": stage.name, "name": "kube-public" });
    ends(&stage, &[step(json!({ "delete": { "target": target } }))], &["kube-public", "in no namespace"]).await;
}

#[tokio::test]
async fn a_plan_too_large_for_its_journal() {
    let stage = Stage::set().await;
    let patch = |n: usize| {
        let target =
            json!({ "apiVersion": "v1", "kind": "ConfigMap", "namespace": stage.name, "name": format!("c{n}") });
        json!({ "id": format!("s{n}"), "operation": { "patch": { "target": target, "type": "merge", "body": { "data": { "a": "b" } } } } })
    };
    let steps: Vec<Value> = (0..2500).map(patch).collect();
    ends(&stage, &steps, &["2500 steps", "split it"]).await;
}

/// A group that another server answers, for as long as this lives: nothing else should wait for that server.
struct Foreign<'s>(&'s Stage, String);

impl Drop for Foreign<'_> {
    fn drop(&mut self) {
        let service = format!("apiservice/v1beta1.{}", self.1);
        let definition = format!("crd/plants.{}", self.1);
        let _ = self.0.kubectl("admin", &["delete", &service, &definition, "--wait=false"], None);
    }
}

#[tokio::test]
async fn a_kind_that_another_server_answers() {
    let stage = Stage::set().await;
    let foreign = Foreign(&stage, format!("{}.example.com", stage.name));
    let group = foreign.1.as_str();
    let schema = json!({ "openAPIV3Schema": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } });
    stage.apply(&[
        json!({ "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": { "name": format!("plants.{group}") },
            "spec": { "group": group, "scope": "Namespaced", "names": { "plural": "plants", "kind": "Plant" },
                      "versions": [{ "name": "v1", "served": true, "storage": true, "schema": schema }] } }),
        json!({ "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": { "name": format!("v1beta1.{group}") },
            "spec": { "group": group, "version": "v1beta1", "groupPriorityMinimum": 100, "versionPriority": 1, "insecureSkipTLSVerify": true,
                      "service": { "namespace": stage.name, "name": "nobody" } } }),
    ]);
    stage.kubectl("admin", &["wait", "--for=condition=Established", &format!("crd/plants.{group}")], None).unwrap();
    allowed(&stage, group, "plants", &["get", "patch"]).await;
    let plant = json!({ "apiVersion": format!("{group}/v1"), "kind": "Plant", "metadata": { "name": "fern", "namespace": stage.name }, "spec": {} });
    stage
        .eventually("plants are served", async || {
            stage.kubectl("admin", &["apply", "-f", "-"], Some(&plant.to_string())).is_ok()
        })
        .await;
    let target =
        json!({ "apiVersion": format!("{group}/v1"), "kind": "Plant", "namespace": stage.name, "name": "fern" });
    let patch = json!({ "patch": { "target": target, "type": "merge", "body": { "spec": { "watered": true } } } });
    let service = format!("{}/nobody", stage.name);
    ends(&stage, &[step(patch)], &["answered by another server", &service, "trustedGroups"]).await;
    drop(foreign);
}

#[tokio::test]
async fn what_the_account_cannot_put_back_is_said() {
    let stage = Stage::for_tests().await;
    stage.kubectl("admin", &["delete", "rolebinding", "work"], None).unwrap();
    stage.kubectl("admin", &["create", "rolebinding", "alice", "--clusterrole=edit", "--user=alice"], None).unwrap();
    let account = format!("--serviceaccount={}:deployer", stage.name);
    stage
        .kubectl(
            "admin",
            &["create", "role", "add", "--verb=get,list,watch,create,patch", "--resource=configmaps"],
            None,
        )
        .unwrap();
    stage.kubectl("admin", &["create", "rolebinding", "add", "--role=add", &account], None).unwrap();
    let command = stage.ask("create configmap settings with mode=fast").await;
    let plan = stage.awaiting(&command).await;
    let step = &plan.spec.steps[0];
    let reason = step.rollback.reason.clone().unwrap_or_default();
    assert!(!step.rollback.reversible && reason.contains("may not delete configmaps"), "{reason}");
    assert!(plan.spec.risk.level >= RiskLevel::Medium, "{:?}", plan.spec.risk);
}

#[tokio::test]
async fn who_may_impersonate_an_account_may_use_it() {
    let stage = Stage::for_tests().await;
    stage.run("checkout", "nginx:1.27", 1).await;
    // The edit role holds "impersonate" on service accounts.
    stage.kubectl("admin", &["delete", "rolebinding", "use"], None).unwrap();
    let command = stage.ask("scale checkout to 2").await;
    stage.command(&command, CommandPhase::Succeeded).await;
}
