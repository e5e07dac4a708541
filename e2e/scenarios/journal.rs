//! An operator that is killed in the middle goes on where it was, and does nothing twice.

use crate::handmade::{merge, snapshots, step, target, write};
use crate::stage::{Cluster, Look, OPERATOR_NAMESPACE, Stage};
use countersign::api::{CommandPhase, ExecutionPlan, PlanPhase, StepState};
use kube::ResourceExt;
use serde_json::json;

/// Restarts the operator so that it dies at that point, asks for a release of `image`, and starts it again after its
/// death. The plan is low risk, so that nothing but the operator is needed.
async fn dies(stage: &Stage, point: &str, image: &str) -> String {
    let cluster = &stage.cluster;
    stage.run("checkout", "nginx:1.27", 2).await;
    cluster.control(&["operator", "restart", "--env", &format!("COUNTERSIGN_CRASH_AT={point}")]).unwrap();
    let command = stage.ask(&format!("set the image of checkout to {image}")).await;
    stage.eventually(&format!("dead at {point}"), async || cluster.control(&["operator", "pid"]).is_err()).await;
    let journal = stage.kubectl("admin", &["get", "plan", "-o", "jsonpath={.items[*].status.phase}"], None).unwrap();
    assert!(
        journal == "Executing" || journal == "RollingBack" || journal == "Approved",
        "at {point} the journal says {journal}"
    );
    cluster.control(&["operator", "restart", "--env", "COUNTERSIGN_CRASH_AT="]).unwrap();
    command
}

async fn stage() -> (crate::stage::OwnCluster, Stage) {
    let cluster = Cluster::start("journal");
    let stage = Stage::on(cluster.0.clone(), Some("test")).await;
    (cluster, stage)
}

#[tokio::test]
async fn an_operator_that_dies_before_a_mutation_carries_it_out_once() {
    let (_cluster, stage) = stage().await;
    let command = dies(&stage, "before-mutation", "nginx:1.28").await;
    stage.command(&command, CommandPhase::Succeeded).await;
    assert_eq!(stage.field("deployment/checkout", "{..image} {.metadata.generation}"), "nginx:1.28 2");
    assert_eq!(stage.cluster.writes(&stage.name, "deployments", "checkout"), ["patch"]);
}

#[tokio::test]
async fn an_operator_that_dies_after_a_mutation_does_not_repeat_it() {
    let (_cluster, stage) = stage().await;
    let command = dies(&stage, "after-mutation", "nginx:1.28").await;
    stage.command(&command, CommandPhase::Succeeded).await;
    assert_eq!(stage.field("deployment/checkout", "{..image} {.metadata.generation}"), "nginx:1.28 2");
    assert_eq!(stage.cluster.writes(&stage.name, "deployments", "checkout"), ["patch"]);
}

#[tokio::test]
async fn an_operator_killed_while_it_waits_goes_on_waiting() {
    let (_cluster, stage) = stage().await;
    stage.run("checkout", "nginx:1.27", 2).await;
    let command = stage.ask("set the image of checkout to nginx:slow").await;
    let executing =
        |command: &countersign::api::AgentCommand| match command.status.as_ref().and_then(|status| status.phase) {
            Some(CommandPhase::Executing) => Look::There,
            Some(phase) if phase.is_final() => Look::Never,
            _ => Look::NotYet,
        };
    let status = stage.until("executing", &command, executing).await.status.unwrap();
    let plan = status.plan.unwrap().name;
    let waiting = |plan: &ExecutionPlan| match plan
        .status
        .as_ref()
        .and_then(|status| status.steps.first())
        .map(|step| step.state)
    {
        Some(StepState::Applied) => Look::There,
        Some(StepState::Completed | StepState::Failed) => Look::Never,
        _ => Look::NotYet,
    };
    stage.until("applied", &plan, waiting).await;
    stage.cluster.control(&["operator", "kill"]).unwrap();
    assert_eq!(stage.field(&format!("plan/{plan}"), "{.status.steps[0].state}"), "Applied");
    stage.cluster.control(&["operator", "start"]).unwrap();
    stage.command(&command, CommandPhase::Succeeded).await;
    assert_eq!(stage.cluster.writes(&stage.name, "deployments", "checkout"), ["patch"]);
}

#[tokio::test]
async fn an_operator_that_dies_while_it_puts_back_puts_back_once() {
    let (_cluster, stage) = stage().await;
    for (point, count) in [("before-undo", 2), ("after-undo", 4)] {
        let command = dies(&stage, point, "nginx:broken").await;
        stage.command(&command, CommandPhase::RolledBack).await;
        assert_eq!(stage.field("deployment/checkout", "{..image}"), "nginx:1.27");
        // One for the release, one for its inverse, each time.
        assert_eq!(stage.cluster.writes(&stage.name, "deployments", "checkout").len(), count, "{point}");
        let plans = stage.api::<ExecutionPlan>().list(&Default::default()).await.unwrap().items;
        for plan in plans {
            stage.plan(&plan.name_any(), PlanPhase::RolledBack).await;
            stage.kubectl("admin", &["delete", "plan", &plan.name_any()], None).unwrap();
        }
        stage.ready("checkout").await;
    }
}

#[tokio::test]
async fn snapshots_that_an_earlier_life_did_not_come_to_name_are_removed() {
    let (_cluster, stage) = stage().await;
    let config = |name: &str| json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": { "value": "1" } });
    stage.apply(&["a", "b"].map(config));
    let set =
        |name: &str| merge(&target(&stage, "v1", &format!("ConfigMap/{name}")), json!({ "data": { "value": "2" } }));
    let control = |args: &[&str]| stage.cluster.control(args);
    control(&["operator", "restart", "--env", "COUNTERSIGN_CRASH_AT=after-preparation:b"]).unwrap();
    let steps = vec![step("a", set("a"), json!({})), step("b", set("b"), json!({ "dependsOn": ["a"] }))];
    write(&stage, "twice", steps, json!({}));
    let plan: ExecutionPlan = stage.api().get("twice").await.unwrap();
    stage.eventually("dead after it stored a snapshot", async || control(&["operator", "pid"]).is_err()).await;
    assert_eq!(snapshots(&stage, &plan).await, 2, "one of each step");
    control(&["operator", "restart", "--env", "COUNTERSIGN_CRASH_AT="]).unwrap();
    let done = stage.plan("twice", PlanPhase::Succeeded).await;
    stage.eventually("only what the journal names is left", async || snapshots(&stage, &done).await == 2).await;
    let named: Vec<String> = done.status.unwrap().steps.into_iter().filter_map(|step| step.snapshot).collect();
    for name in named {
        let there = stage.cluster.run(
            "kubectl",
            &["--context", "admin", "-n", OPERATOR_NAMESPACE, "get", "secret", &name],
            None,
        );
        assert!(there.is_ok(), "{there:?}");
    }
}
