//! Saying yes and no by the plugin. What must not count is in `attacks`.

use crate::stage::Stage;
use countersign::api::{CommandPhase, ExecutionPlan, PlanPhase};
use kube::ResourceExt;
use serde_json::Value;

async fn waiting(stage: &Stage) -> (String, ExecutionPlan) {
    stage.run("checkout", "nginx:1.27", 2).await;
    let command = stage.ask("scale checkout to 5").await;
    let plan = stage.awaiting(&command).await;
    (command, plan)
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
