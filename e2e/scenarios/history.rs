//! What is left of what is over, and what a plan says that cannot be judged.

use crate::handmade::{approved, put_back, step, target, write};
use crate::stage::{Cluster, Look, OwnCluster, Stage, digest};
use countersign::api::{
    AgentCommand, CommandPhase, ConditionType, EXPIRES_AT_ANNOTATION, ExecutionPlan, FINISHED_LABEL, PlanPhase,
    condition, condition_is_true,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::json;
use std::collections::BTreeSet;
use std::time::Duration;

/// A stage whose namespace keeps three finished commands and two finished plans without one.
async fn stage() -> (OwnCluster, Stage) {
    let cluster = Cluster::start("history");
    let few = ["COUNTERSIGN_KEEP_FINISHED_COMMANDS=3", "COUNTERSIGN_KEEP_FINISHED_PLANS=2"];
    cluster.0.control(&["operator", "restart", "--env", few[0], "--env", few[1]]).unwrap();
    let stage = Stage::on(cluster.0.clone(), Some("test")).await;
    stage.run("checkout", "nginx:1.27", 1).await;
    (cluster, stage)
}

fn names(stage: &Stage, kind: &str) -> BTreeSet<String> {
    let found = stage.kubectl("admin", &["get", kind, "-o", "name"], None).unwrap();
    found.lines().filter_map(|line| line.split_once('/')).map(|(_, name)| name.to_owned()).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test]
async fn a_namespace_keeps_the_newest_of_what_is_finished() {
    let (_cluster, stage) = stage().await;
    stage.ask_as("waits", "delete deployment checkout", |_| ()).await;
    stage.awaiting("waits").await;
    for number in 2..=6 {
        let name = format!("c{number}");
        stage.ask_as(&name, &format!("scale checkout to {number}"), |_| ()).await;
        stage.command(&name, CommandPhase::Succeeded).await;
    }
    let left = set(&["c4", "c5", "c6", "waits"]);
    stage.eventually("three are left", async || names(&stage, "agentcommands") == left).await;
    let plans = set(&["c4-1", "c5-1", "c6-1", "waits-1"]);
    stage.eventually("with their plans", async || names(&stage, "executionplans") == plans).await;

    for name in ["p1", "p2", "p3", "p4"] {
        let manifest =
            json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name, "namespace": stage.name } });
        let apply = json!({ "apply": { "manifest": manifest } });
        write(&stage, name, vec![step("s", apply, json!({}))], json!({ "planOnly": true }));
        stage.plan(name, PlanPhase::Planned).await;
    }
    let plans = set(&["c4-1", "c5-1", "c6-1", "waits-1", "p3", "p4"]);
    stage.eventually("two plans without a command", async || names(&stage, "executionplans") == plans).await;

    // What is put back is active again, and none of the finished ones.
    let cluster = &stage.cluster;
    cluster.control(&["operator", "restart", "--env", "COUNTERSIGN_KEEP_FINISHED_COMMANDS=1"]).unwrap();
    let left = set(&["c6", "waits"]);
    stage.eventually("one is left after a restart", async || names(&stage, "agentcommands") == left).await;
    put_back(&stage, "c6-1", PlanPhase::RolledBack).await;
    assert_eq!(stage.field("deployment/checkout", "{.spec.replicas}"), "5");
    assert_eq!(names(&stage, "agentcommands"), left);
}

#[tokio::test]
async fn a_time_to_live_holds_over_a_restart() {
    let (_cluster, stage) = stage().await;
    let live = |seconds: u64| {
        move |spec: &mut countersign::api::AgentCommandSpec| {
            spec.ttl_after_finished = Some(Duration::from_secs(seconds).into());
        }
    };
    stage.ask_as("short", "scale checkout to 2", live(20)).await;
    stage.command("short", CommandPhase::Succeeded).await;
    stage.ask_as("long", "scale checkout to 3", live(3600)).await;
    stage.command("long", CommandPhase::Succeeded).await;
    let is_marked = |command: &AgentCommand| {
        if command.labels().contains_key(FINISHED_LABEL) { Look::There } else { Look::NotYet }
    };
    stage.until::<AgentCommand>("left out of watches", "long", is_marked).await;
    let short: AgentCommand = stage.until("left out of watches", "short", is_marked).await;
    let expires: Timestamp = short.annotations()[EXPIRES_AT_ANNOTATION].parse().unwrap();
    stage.cluster.control(&["operator", "stop"]).unwrap();
    stage.eventually("its time is over", async || Timestamp::now() > expires).await;
    assert_eq!(names(&stage, "agentcommands"), set(&["short", "long"]));
    stage.cluster.control(&["operator", "start"]).unwrap();
    stage.gone("agentcommand/short").await;
    stage.gone("executionplan/short-1").await;
    assert_eq!(names(&stage, "agentcommands"), set(&["long"]));
    // A time that is given, or changed, later holds as well.
    stage.edit("long", json!({ "ttlAfterFinished": "1s" })).await;
    stage.gone("agentcommand/long").await;
}

#[tokio::test]
async fn a_plan_that_cannot_be_judged_says_why_and_goes_on_when_it_can() {
    let stage = Stage::set().await;
    stage.allow(&json!([{ "apiGroups": [""], "resources": ["pods/eviction"], "verbs": ["create"] }]));
    stage.run("guarded", "nginx:1.27", 1).await;
    stage
        .apply(&[json!({ "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": { "name": "guarded" },
        "spec": { "minAvailable": 1, "selector": { "matchLabels": { "app": "guarded" } } } })]);
    stage.eventually("guarded", async || stage.field("pdb/guarded", "{.status.currentHealthy}") == "1").await;
    let pod = stage.api::<Pod>().list(&ListParams::default()).await.unwrap().items[0].name_any();
    let evict = json!({ "evict": { "target": target(&stage, "v1", &format!("Pod/{pod}")) } });
    write(&stage, "evict", vec![step("s", evict, json!({}))], json!({}));
    let is_told = |plan: &ExecutionPlan| match &plan.status {
        Some(status) if condition_is_true(&status.conditions, ConditionType::Stalled) => Look::There,
        _ => Look::NotYet,
    };
    let held = stage.until("told what holds it up", "evict", is_told).await;
    let status = held.status.as_ref().unwrap();
    let stalled = condition(&status.conditions, ConditionType::Stalled).unwrap();
    assert_eq!((stalled.reason.as_str(), status.phase), ("DisruptionBudget", Some(PlanPhase::AwaitingApproval)));
    assert!(stalled.message.contains("disruption budget"), "{stalled:?}");
    assert_eq!(status.message.as_ref(), Some(&stalled.message));
    assert_eq!(digest(&held), "", "nobody approves what was not judged");
    stage.event("evict", "Warning DisruptionBudget").await;

    let loosen = ["patch", "pdb", "guarded", "--type=merge", "-p", r#"{"spec":{"minAvailable":0}}"#];
    stage.kubectl("admin", &loosen, None).unwrap();
    let is_judged = |plan: &ExecutionPlan| if digest(plan).is_empty() { Look::NotYet } else { Look::There };
    let judged = stage.until("judged", "evict", is_judged).await.status.unwrap();
    let waits = condition(&judged.conditions, ConditionType::Reconciling).unwrap();
    assert_eq!((waits.status.as_str(), waits.reason.as_str()), ("True", "AwaitingApproval"));
    assert!(!condition_is_true(&judged.conditions, ConditionType::Stalled));
    assert!(!judged.message.unwrap().contains("disruption budget"));
    approved(&stage, "evict").await;
    stage.plan("evict", PlanPhase::Succeeded).await;
}
