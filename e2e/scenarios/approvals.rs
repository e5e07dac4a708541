//! Who may say yes and no, and to what.

use crate::stage::{Look, Stage, digest};
use countersign::api::{CommandPhase, ExecutionPlan, PlanApproval, PlanPhase};
use kube::ResourceExt;
use serde_json::{Value, json};

async fn waiting(stage: &Stage) -> (String, ExecutionPlan) {
    stage.run("checkout", "nginx:1.27", 2).await;
    let command = stage.ask("scale checkout to 5").await;
    let plan = stage.awaiting(&command).await;
    (command, plan)
}

fn approval(name: &str, plan: &ExecutionPlan) -> Value {
    json!({ "apiVersion": "countersign.dev/v1alpha1", "kind": "PlanApproval", "metadata": { "name": name },
            "spec": { "plan": plan.name_any(), "digest": digest(plan), "decision": "Approve", "reason": "by file" } })
}

#[tokio::test]
async fn a_denial_ends_the_plan_with_its_reason() {
    let stage = Stage::set().await;
    let (command, plan) = waiting(&stage).await;
    stage.plugin("carol", &["deny", &plan.name_any(), "--yes", "--reason", "not before the holidays"]).unwrap();
    let reply = stage.reply(&command, CommandPhase::Denied).await;
    assert!(reply.contains("carol") && reply.contains("not before the holidays"), "{reply}");
    stage.plan(&plan.name_any(), PlanPhase::Denied).await;
    assert!(stage.approve("bob", &plan).is_err());
    assert_eq!(stage.field("deployment/checkout", "{.spec.replicas}"), "2");
}

#[tokio::test]
async fn an_approval_taken_back_does_not_count() {
    let stage = Stage::set().await;
    stage.kubectl("admin", &["label", "namespace", &stage.name, "environment=production"], None).unwrap();
    stage.apply(&[crate::stage::workload("StatefulSet", "orders-db", "postgres:17", 1)]);
    let command = stage.ask("delete statefulset orders-db").await;
    let plan = stage.awaiting(&command).await;
    let count = |wanted: &'static str| {
        move |plan: &ExecutionPlan| {
            let found = plan.status.as_ref().and_then(|status| status.approval_count.clone());
            if found.as_deref() == Some(wanted) { Look::There } else { Look::NotYet }
        }
    };
    stage.approve("bob", &plan).unwrap();
    stage.until("approved once", &plan.name_any(), count("1/2")).await;
    stage.plugin("bob", &["revoke", &plan.name_any()]).unwrap();
    stage.until("approved by nobody", &plan.name_any(), count("0/2")).await;
    stage.approve("carol", &plan).unwrap();
    let plan = stage.until("approved once", &plan.name_any(), count("1/2")).await;
    assert_eq!(plan.status.unwrap().phase, Some(PlanPhase::AwaitingApproval));
    stage.field("statefulset/orders-db", "{.metadata.name}");
}

#[tokio::test]
async fn an_approval_is_by_whoever_creates_it() {
    let stage = Stage::set().await;
    let (command, plan) = waiting(&stage).await;
    let mut forged = approval("by-file", &plan);
    forged["spec"]["approver"] = json!({ "username": "carol", "groups": ["system:masters"] });
    stage.kubectl("bob", &["create", "-f", "-"], Some(&forged.to_string())).unwrap();
    let stored: PlanApproval = stage.api().get("by-file").await.unwrap();
    assert_eq!(stored.spec.approver.unwrap().username, "bob");
    stage.command(&command, CommandPhase::Succeeded).await;
    let plan = stage.plan(&plan.name_any(), PlanPhase::Succeeded).await;
    assert_eq!(plan.status.unwrap().approvals[0].approver, "bob");
}

#[tokio::test]
async fn without_the_verb_nobody_approves() {
    let stage = Stage::set().await;
    let (_, plan) = waiting(&stage).await;
    stage.kubectl("admin", &["delete", "rolebinding", "approve"], None).unwrap();
    let create = json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": { "name": "write" },
        "rules": [{ "apiGroups": ["countersign.dev"], "resources": ["planapprovals"], "verbs": ["create"] }] });
    stage.apply(&[create]);
    stage.kubectl("admin", &["create", "rolebinding", "write", "--role=write", "--user=bob"], None).unwrap();
    stage
        .eventually("refused for want of the verb", async || {
            let said = stage
                .kubectl("bob", &["create", "-f", "-"], Some(&approval("by-file", &plan).to_string()))
                .unwrap_err();
            said.contains("the verb \"approve\" on executionplans")
        })
        .await;
    assert_eq!(stage.field(&format!("plan/{}", plan.name_any()), "{.status.phase}"), "AwaitingApproval");
}

#[tokio::test]
async fn nobody_but_the_operator_writes_status() {
    let stage = Stage::set().await;
    let (_, plan) = waiting(&stage).await;
    let patch = json!({ "status": { "phase": "Succeeded" } }).to_string();
    let said = stage.kubectl(
        "admin",
        &["patch", "executionplan", &plan.name_any(), "--subresource=status", "--type=merge", "-p", &patch],
        None,
    );
    assert!(said.unwrap_err().contains("only countersign itself writes the status"));
    let hide =
        stage.kubectl("admin", &["label", "executionplan", &plan.name_any(), "countersign.dev/finished=true"], None);
    assert!(hide.unwrap_err().contains("only countersign itself sets or removes the label"));
}

#[tokio::test]
async fn nobody_asks_through_an_account_that_is_not_theirs_to_use() {
    let stage = Stage::set().await;
    stage
        .kubectl(
            "admin",
            &["create", "rolebinding", "bob-asks", "--clusterrole=countersign-requester", "--user=bob"],
            None,
        )
        .unwrap();
    let command = json!({ "apiVersion": "countersign.dev/v1alpha1", "kind": "AgentCommand", "metadata": { "name": "borrowed" },
        "spec": { "request": "show deployments", "serviceAccountName": "deployer" } });
    stage
        .eventually("refused for want of the right to use the account", async || {
            let said = stage.kubectl("bob", &["create", "-f", "-"], Some(&command.to_string())).unwrap_err();
            said.contains("may not let steps run as service account deployer")
        })
        .await;
}

#[tokio::test]
async fn the_plugin_lists_shows_and_waits() {
    let stage = Stage::set().await;
    let (_, plan) = waiting(&stage).await;
    let name = plan.name_any();
    let list = stage.plugin("bob", &["list"]).unwrap();
    assert!(list.contains(&name), "{list}");
    let shown = stage.plugin("bob", &["show", &name]).unwrap();
    assert!(
        shown.contains("alice") && shown.contains("scale checkout to 5") && shown.contains("spec.replicas"),
        "{shown}"
    );
    let json: Value = serde_json::from_str(&stage.plugin("bob", &["show", &name, "-o", "json"]).unwrap()).unwrap();
    assert_eq!(json["metadata"]["name"], name.as_str());
    stage.approve("bob", &plan).unwrap();
    stage.plugin("bob", &["wait", &name, "--timeout", "60s"]).unwrap();
    assert_eq!(stage.field("deployment/checkout", "{.spec.replicas}"), "5");
}
