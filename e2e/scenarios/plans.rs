//! What becomes of plans that wait, and of plans written by hand.

use crate::stage::{Look, Stage, digest};
use countersign::api::{AgentCommand, CommandPhase, ConditionType, ExecutionPlan, Mode, PlanPhase, condition_is_true};
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use serde_json::{Value, json};

/// A plan by hand that sets the number of replicas, and says of itself that it is harmless.
fn by_hand(name: &str, namespace: &str, replicas: u32) -> Value {
    json!({
        "apiVersion": "countersign.dev/v1alpha1", "kind": "ExecutionPlan", "metadata": { "name": name },
        "spec": {
            "summary": "Scale checkout", "serviceAccountName": "deployer", "risk": { "level": "low", "reasons": [] }, "approvalsRequired": 0,
            "steps": [{
                "id": "scale", "title": "Scale checkout", "tool": "manual",
                "operation": { "patch": { "target": { "apiVersion": "apps/v1", "kind": "Deployment", "namespace": namespace, "name": "checkout" },
                                          "type": "merge", "body": { "spec": { "replicas": replicas } } } },
                "verify": { "type": "Ready" }
            }]
        }
    })
}

#[tokio::test]
async fn a_plan_that_is_only_asked_for_is_never_carried_out() {
    let stage = Stage::for_tests().await;
    stage.run("checkout", "nginx:1.27", 2).await;
    let command = stage.ask_with("scale checkout to 5", |spec| spec.mode = Mode::PlanOnly).await;
    let status = stage.command(&command, CommandPhase::Succeeded).await.status.unwrap();
    assert!(status.reply.unwrap().contains("nothing is carried out"));
    let plan = stage.plan(&status.plan.unwrap().name, PlanPhase::Planned).await;
    assert!(!plan.spec.steps[0].diff.is_empty());
    assert!(stage.approve("bob", &plan).is_err());
    assert_eq!(stage.field("deployment/checkout", "{.spec.replicas}"), "2");
}

#[tokio::test]
async fn a_changed_request_supersedes_the_plan_that_waits() {
    let stage = Stage::set().await;
    stage.run("checkout", "nginx:1.27", 2).await;
    let command = stage.ask("scale checkout to 5").await;
    let first = stage.awaiting(&command).await;
    stage.edit(&command, json!({ "request": "scale checkout to 6" })).await;
    let superseded = stage.plan(&first.name_any(), PlanPhase::Superseded).await;
    let second = stage.awaiting(&command).await;
    assert_ne!(first.name_any(), second.name_any());
    assert_ne!(digest(&first), digest(&second));
    assert!(stage.approve("bob", &superseded).is_err());
    stage.approve("bob", &second).unwrap();
    stage.command(&command, CommandPhase::Succeeded).await;
    assert_eq!(stage.field("deployment/checkout", "{.spec.replicas}"), "6");
    assert_eq!(stage.cluster.writes(&stage.name, "deployments", "checkout"), ["patch"]);
}

#[tokio::test]
async fn feedback_asks_for_nothing_new() {
    let stage = Stage::for_tests().await;
    stage.run("checkout", "nginx:1.27", 2).await;
    let command = stage.ask("scale checkout to 5").await;
    stage.command(&command, CommandPhase::Succeeded).await;
    stage.edit(&command, json!({ "feedback": { "rating": 5, "comment": "quick" } })).await;
    // Whoever rates does not become who asked, and the next request shows that the operator has moved on.
    let other = stage.ask("scale checkout to 6").await;
    stage.command(&other, CommandPhase::Succeeded).await;
    let rated: AgentCommand = stage.api().get(&command).await.unwrap();
    assert_eq!(rated.status.unwrap().phase, Some(CommandPhase::Succeeded));
    assert_eq!(stage.api::<ExecutionPlan>().list(&ListParams::default()).await.unwrap().items.len(), 2);
    assert_eq!(stage.field("deployment/checkout", "{.spec.replicas}"), "6");
}

#[tokio::test]
async fn a_suspended_command_waits_until_it_may_go_on() {
    let stage = Stage::for_tests().await;
    stage.run("checkout", "nginx:1.27", 2).await;
    let command = stage.ask_with("scale checkout to 5", |spec| spec.suspend = true).await;
    let plan = stage.command(&command, CommandPhase::AwaitingApproval).await.status.unwrap().plan.unwrap().name;
    let suspended = |plan: &ExecutionPlan| {
        let message = plan.status.as_ref().and_then(|status| status.message.clone()).unwrap_or_default();
        if message.contains("suspended") { Look::There } else { Look::NotYet }
    };
    stage.until("suspended", &plan, suspended).await;
    assert_eq!(stage.field("deployment/checkout", "{.spec.replicas}"), "2");
    stage.edit(&command, json!({ "suspend": false })).await;
    stage.command(&command, CommandPhase::Succeeded).await;
    assert_eq!(stage.field("deployment/checkout", "{.spec.replicas}"), "5");
}

#[tokio::test]
async fn a_plan_whose_ground_moved_is_not_carried_out_but_made_anew() {
    let stage = Stage::set().await;
    stage.run("checkout", "nginx:1.27", 2).await;
    let command = stage.ask("scale checkout to 5").await;
    let first = stage.awaiting(&command).await;
    stage.kubectl("alice", &["scale", "deployment", "checkout", "--replicas=3"], None).unwrap();
    stage.approve("bob", &first).unwrap();
    let drifted = stage.plan(&first.name_any(), PlanPhase::Drifted).await.status.unwrap();
    assert!(condition_is_true(&drifted.conditions, ConditionType::Drifted), "{:?}", drifted.conditions);
    assert!(drifted.message.unwrap().contains("spec.replicas was 2"));
    let replanned = |command: &AgentCommand| {
        let status = command.status.clone().unwrap_or_default();
        let waits = status.phase == Some(CommandPhase::AwaitingApproval);
        if waits && status.plan.is_some_and(|plan| plan.name != first.name_any()) { Look::There } else { Look::NotYet }
    };
    stage.until("planned anew", &command, replanned).await;
    let second = stage.awaiting(&command).await;
    assert_ne!(digest(&first), digest(&second));
    assert_eq!(stage.field("deployment/checkout", "{.spec.replicas}"), "3");
    stage.approve("carol", &second).unwrap();
    stage.command(&command, CommandPhase::Succeeded).await;
    assert_eq!(stage.field("deployment/checkout", "{.spec.replicas}"), "5");
}

#[tokio::test]
async fn a_plan_by_hand_cannot_call_itself_harmless() {
    let stage = Stage::set().await;
    stage.run("checkout", "nginx:1.27", 2).await;
    stage.kubectl("alice", &["create", "-f", "-"], Some(&by_hand("release", &stage.name, 5).to_string())).unwrap();
    let plan = stage.plan("release", PlanPhase::AwaitingApproval).await;
    assert_eq!(plan.spec.requested_by.as_ref().unwrap().username, "alice");
    assert_eq!(plan.status.as_ref().unwrap().approval_count.as_deref(), Some("0/1"));
    assert_eq!(stage.field("deployment/checkout", "{.spec.replicas}"), "2");
    let bob: Api<ExecutionPlan> = Api::namespaced(stage.cluster.client("bob").await, &stage.name);
    assert!(bob.get("release").await.is_ok());
    stage.approve("bob", &plan).unwrap();
    stage.plan("release", PlanPhase::Succeeded).await;
    assert_eq!(stage.field("deployment/checkout", "{.spec.replicas}"), "5");
}

#[tokio::test]
async fn a_plan_by_hand_that_takes_what_its_account_may_not_is_refused() {
    let stage = Stage::set().await;
    let mut plan = by_hand("reach", &stage.name, 5);
    plan["spec"]["steps"][0]["operation"] =
        json!({ "delete": { "target": { "apiVersion": "v1", "kind": "Namespace", "name": "kube-public" } } });
    plan["spec"]["steps"][0]["verify"] = json!({ "type": "Absent" });
    stage.kubectl("alice", &["create", "-f", "-"], Some(&plan.to_string())).unwrap();
    let refused = stage.plan("reach", PlanPhase::Failed).await.status.unwrap();
    let message = refused.message.unwrap();
    assert!(message.contains("namespaces") && message.contains("deployer"), "{message}");
}

#[tokio::test]
async fn a_running_plan_is_cancelled_between_its_steps() {
    let stage = Stage::for_tests().await;
    stage.run("checkout", "nginx:1.27", 1).await;
    let command = stage.ask("set the image of checkout to nginx:slow and then scale checkout to 3").await;
    let running = |command: &AgentCommand| match command.status.as_ref().and_then(|status| status.phase) {
        Some(CommandPhase::Executing) => Look::There,
        Some(phase) if phase.is_final() => Look::Never,
        _ => Look::NotYet,
    };
    let status = stage.until("running", &command, running).await.status.unwrap();
    let plan = status.plan.unwrap().name;
    stage.plugin("alice", &["cancel", &plan, "--yes"]).unwrap();
    stage.plan(&plan, PlanPhase::Cancelled).await;
    assert_eq!(stage.field("deployment/checkout", "{.spec.replicas}"), "1");
}
