//! Releases that fail, and what is left afterwards.

use crate::stage::{Look, Stage};
use countersign::api::{
    CommandPhase, ConditionType, ExecutionPlan, PlanPhase, StepState, UndoState, condition_is_true,
};
use kube::ResourceExt;
use serde_json::json;

#[tokio::test]
async fn a_release_whose_image_does_not_exist_is_put_back_with_the_reason() {
    let stage = Stage::set().await;
    stage.run("checkout", "nginx:1.27", 2).await;
    let command = stage.ask("set the image of checkout to nginx:broken").await;
    let plan = stage.awaiting(&command).await;
    assert_eq!(plan.spec.approvals_required, 1);
    stage.approve("bob", &plan).unwrap();
    // Somebody else's change meanwhile stays.
    let applied = |plan: &ExecutionPlan| {
        let state = plan.status.as_ref().and_then(|status| status.steps.first()).map(|step| step.state);
        if state.is_some_and(|state| !matches!(state, StepState::Pending | StepState::Running)) {
            Look::There
        } else {
            Look::NotYet
        }
    };
    stage.until("applied", &plan.name_any(), applied).await;
    let patch = json!({ "metadata": { "annotations": { "team": "payments" } } }).to_string();
    stage.kubectl("alice", &["patch", "deployment", "checkout", "-p", &patch], None).unwrap();

    let status = stage.command(&command, CommandPhase::RolledBack).await.status.unwrap();
    let reply = status.reply.unwrap();
    assert!(reply.contains("ImagePull"), "{reply}");
    assert!(reply.contains("nginx:broken"), "{reply}");
    let plan = stage.plan(&plan.name_any(), PlanPhase::RolledBack).await;
    let journal = plan.status.unwrap();
    assert!(condition_is_true(&journal.conditions, ConditionType::RolledBack), "{:?}", journal.conditions);
    assert!(condition_is_true(&journal.conditions, ConditionType::Stalled), "{:?}", journal.conditions);
    assert_eq!(journal.steps[0].undo.as_ref().unwrap().state, UndoState::Done);
    assert_eq!(stage.field("deployment/checkout", "{..image} {.metadata.annotations.team}"), "nginx:1.27 payments");
    stage.ready("checkout").await;
    stage.event(&plan.metadata.name.unwrap(), "Warning StepFailed").await;
    stage.event(&command, "Warning RolledBack").await;
}

#[tokio::test]
async fn a_release_that_crashes_tells_its_last_words() {
    let stage = Stage::for_tests().await;
    stage.run("checkout", "nginx:1.27", 2).await;
    let command = stage.ask("set the image of checkout to nginx:crash").await;
    let reply = stage.reply(&command, CommandPhase::RolledBack).await;
    assert!(reply.contains("CrashLoopBackOff") || reply.contains("exit code 1"), "{reply}");
    assert!(reply.contains("connection refused"), "the last log lines are missing: {reply}");
    assert_eq!(stage.field("deployment/checkout", "{..image}"), "nginx:1.27");
}

#[tokio::test]
async fn secrets_in_the_last_words_are_hidden() {
    let stage = Stage::for_tests().await;
    let mut chatty = crate::stage::workload("Deployment", "chatty", "nginx:1.27", 1);
    chatty["spec"]["template"]["metadata"]["annotations"] =
        json!({ "e2e.countersign.dev/logs": "login as admin password=hunter2-is-secret failed\n" });
    stage.apply(&[chatty]);
    stage.ready("chatty").await;
    let command = stage.ask("set the image of chatty to nginx:crash").await;
    let reply = stage.reply(&command, CommandPhase::RolledBack).await;
    assert!(reply.contains("login as admin"), "{reply}");
    assert!(!reply.contains("hunter2"), "{reply}");
    assert!(!stage.events(&command).await.join("\n").contains("hunter2"));
}

#[tokio::test]
async fn what_was_created_before_a_failure_goes_again() {
    let stage = Stage::for_tests().await;
    stage.run("checkout", "nginx:1.27", 1).await;
    let request = "create configmap settings with color=blue and then set the image of checkout to nginx:broken";
    let command = stage.ask(request).await;
    stage.command(&command, CommandPhase::RolledBack).await;
    assert!(stage.kubectl("admin", &["get", "configmap", "settings"], None).unwrap_err().contains("not found"));
    assert_eq!(stage.field("deployment/checkout", "{..image}"), "nginx:1.27");
}

#[tokio::test]
async fn a_workload_that_degrades_while_it_is_watched_is_put_back() {
    let stage = Stage::for_tests().await;
    stage.run("checkout", "nginx:1.27", 1).await;
    let command = stage
        .ask_with("set the image of checkout to nginx:flaky", |spec| {
            let duration = "60s".parse().unwrap();
            spec.observe = Some(countersign::api::Observe { duration, rollback_on_degraded: true });
        })
        .await;
    let reply = stage.reply(&command, CommandPhase::RolledBack).await;
    assert!(reply.contains("degraded"), "{reply}");
    assert_eq!(stage.field("deployment/checkout", "{..image}"), "nginx:1.27");
}
