//! What becomes of what is under way when somebody deletes what asked for it, and of plans that lie.

use crate::stage::{Look, Stage};
use countersign::api::{CommandPhase, ExecutionPlan, PlanPhase, StepState};
use serde_json::json;

#[tokio::test]
async fn a_running_plan_that_is_deleted_ends_and_is_not_made_anew() {
    let stage = Stage::for_tests().await;
    stage.run("checkout", "nginx:1.27", 1).await;
    let command = stage.ask("set the image of checkout to nginx:slow and then scale checkout to 3").await;
    let name = stage.command(&command, CommandPhase::Executing).await.status.unwrap().plan.unwrap().name;
    let applied = |plan: &ExecutionPlan| {
        let steps = plan.status.as_ref().map(|status| status.steps.as_slice()).unwrap_or_default();
        if steps.iter().any(|step| step.state == StepState::Applied) { Look::There } else { Look::NotYet }
    };
    stage.until("checking its first step", &name, applied).await;
    stage.kubectl("admin", &["delete", "plan", &name, "--wait=false"], None).unwrap();
    stage.gone(&format!("executionplan/{name}")).await;
    stage.command(&command, CommandPhase::Cancelled).await;
    assert_eq!(stage.field("deployment/checkout", "{.spec.replicas} {..image}"), "1 nginx:slow");
    assert!(stage.api::<ExecutionPlan>().list(&Default::default()).await.unwrap().items.is_empty());
}

#[tokio::test]
async fn deleting_a_suspended_command_does_not_set_its_plan_free() {
    let stage = Stage::for_tests().await;
    stage.run("checkout", "nginx:1.27", 2).await;
    let command = stage.ask_with("scale checkout to 5", |spec| spec.suspend = true).await;
    let name = stage.command(&command, CommandPhase::AwaitingApproval).await.status.unwrap().plan.unwrap().name;
    // The plan stays, so that what becomes of it can be seen.
    stage.kubectl("admin", &["delete", "agentcommand", &command, "--cascade=orphan"], None).unwrap();
    let plan = stage.plan(&name, PlanPhase::Cancelled).await;
    assert!(plan.status.unwrap().started_at.is_none());
    assert_eq!(stage.field("deployment/checkout", "{.spec.replicas}"), "2");
}

#[tokio::test]
async fn a_plan_by_hand_whose_diff_hides_what_it_does_is_not_carried_out() {
    let stage = Stage::for_tests().await;
    stage.run("checkout", "nginx:1.27", 2).await;
    let plan = json!({
        "apiVersion": "countersign.dev/v1alpha1", "kind": "ExecutionPlan", "metadata": { "name": "harmless" },
        "spec": {
            "summary": "Scale checkout", "serviceAccountName": "deployer",
            "steps": [{
                "id": "scale", "title": "Scale checkout",
                "operation": { "patch": {
                    "target": { "apiVersion": "apps/v1", "kind": "Deployment", "namespace": stage.name, "name": "checkout" },
                    "type": "merge", "body": { "spec": { "replicas": 3, "minReadySeconds": 7 } }
                } },
                "diff": [{ "path": "spec.replicas", "from": 2, "to": 3 }]
            }]
        }
    });
    stage.kubectl("alice", &["create", "-f", "-"], Some(&plan.to_string())).unwrap();
    let plan = stage.plan("harmless", PlanPhase::Failed).await;
    let message = plan.status.unwrap().message.unwrap();
    assert!(message.contains("spec.minReadySeconds would go from absent to 7"), "{message}");
    assert_eq!(stage.field("deployment/checkout", "{.spec.replicas}"), "2");
}
