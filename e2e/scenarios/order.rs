//! What runs beside what, what waits, how often something is tried, and what stops a plan.

use crate::handmade::{approved, ends, merge, put_back, step, target, write};
use crate::stage::{Look, Stage, workload};
use countersign::api::{
    AgentCommand, CommandPhase, ConditionType, ExecutionPlan, PlanPhase, StepState, StepStatus, condition_is_true,
};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::{Value, json};

fn configmap(name: &str, data: &Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": data })
}

fn image(stage: &Stage, deployment: &str, image: &str) -> Value {
    let containers = json!([{ "op": "replace", "path": "/spec/template/spec/containers/0/image", "value": image }]);
    let target = target(stage, "apps/v1", &format!("Deployment/{deployment}"));
    json!({ "patch": { "target": target, "type": "json", "body": containers } })
}

fn set(stage: &Stage, name: &str, value: &str) -> Value {
    merge(&target(stage, "v1", &format!("ConfigMap/{name}")), json!({ "data": { "a": value } }))
}

fn states(plan: &ExecutionPlan) -> Vec<StepState> {
    plan.status.as_ref().map(|status| status.steps.iter().map(|step| step.state).collect()).unwrap_or_default()
}

fn entry<'p>(plan: &'p ExecutionPlan, step: &str) -> &'p StepStatus {
    plan.status.as_ref().unwrap().steps.iter().find(|entry| entry.id == step).unwrap()
}

#[tokio::test]
async fn independent_steps_run_side_by_side_and_dependents_wait_for_them() {
    let stage = Stage::set().await;
    stage.apply(&[workload("Deployment", "one", "nginx:1.27", 1), workload("Deployment", "two", "nginx:1.27", 1)]);
    stage.apply(&[configmap("after", &json!({ "a": "1" }))]);
    stage.ready("one").await;
    stage.ready("two").await;
    let steps = vec![
        step("last", set(&stage, "after", "2"), json!({ "dependsOn": ["one", "two"] })),
        step("one", image(&stage, "one", "nginx:slow"), json!({ "verify": { "type": "Ready" } })),
        step("two", image(&stage, "two", "nginx:slow"), json!({ "verify": { "type": "Ready" } })),
    ];
    write(&stage, "both", steps, json!({}));
    approved(&stage, "both").await;
    // Getting ready takes ten seconds, so that both are seen waiting only if neither waits for the other.
    let side_by_side = |plan: &ExecutionPlan| match states(plan).as_slice() {
        [StepState::Pending, StepState::Applied, StepState::Applied] => Look::There,
        [last, ..] if *last != StepState::Pending => Look::Never,
        _ => Look::NotYet,
    };
    stage.until("side by side", "both", side_by_side).await;
    let plan = stage.plan("both", PlanPhase::Succeeded).await;
    let time = |step: &str, of: fn(&StepStatus) -> Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>| {
        of(entry(&plan, step)).unwrap().0
    };
    let begun = time("last", |entry| entry.started_at.clone());
    assert!(["one", "two"].iter().all(|step| time(step, |entry| entry.finished_at.clone()) <= begun));
}

#[tokio::test]
async fn more_steps_than_may_run_at_once_all_come_to_their_turn() {
    let stage = Stage::set().await;
    let name = |n: usize| format!("c{n}");
    let configs: Vec<Value> = (0..40).map(|n| configmap(&name(n), &json!({ "a": "1" }))).collect();
    stage.apply(&configs);
    let steps = (0..40).map(|n| step(&name(n), set(&stage, &name(n), "2"), json!({}))).collect();
    let plan = ends(&stage, "many", steps, PlanPhase::Succeeded).await;
    assert!(states(&plan).iter().all(|state| *state == StepState::Completed));
    for n in [0, 17, 39] {
        assert_eq!(stage.cluster.writes(&stage.name, "configmaps", &name(n)), ["patch"]);
    }
}

#[tokio::test]
async fn a_step_runs_when_the_results_of_earlier_ones_say_so() {
    let stage = Stage::set().await;
    let names = ["base", "yes", "no", "after"];
    stage.apply(&names.map(|name| configmap(name, &json!({ "a": "1" }))));
    let when = |expression: &str, step: &str| json!({ "dependsOn": [step], "when": expression });
    let steps = vec![
        step("base", set(&stage, "base", "2"), json!({})),
        step("yes", set(&stage, "yes", "2"), when("steps.base.object.data.a == '2'", "base")),
        step("no", set(&stage, "no", "2"), when("steps.base.object.data.a == '1'", "base")),
        step("after", set(&stage, "after", "2"), when("steps.no.state == 'Skipped'", "no")),
    ];
    let plan = ends(&stage, "when", steps, PlanPhase::Succeeded).await;
    assert_eq!(entry(&plan, "no").state, StepState::Skipped);
    assert!(entry(&plan, "no").message.as_ref().unwrap().contains("steps.base.object.data.a == '1'"));
    let values = names.map(|name| stage.field(&format!("configmap/{name}"), "{.data.a}"));
    assert_eq!(values, ["2", "2", "1", "2"]);
}

#[tokio::test]
async fn what_is_refused_for_now_is_tried_again() {
    let stage = Stage::set().await;
    stage.allow(&json!([{ "apiGroups": [""], "resources": ["pods/eviction"], "verbs": ["create"] }]));
    stage.run("web", "nginx:1.27", 1).await;
    stage.apply(&[json!({ "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": { "name": "web" },
        "spec": { "minAvailable": 1, "selector": { "matchLabels": { "app": "web" } } } })]);
    stage.eventually("guarded", async || stage.field("pdb/web", "{.status.currentHealthy}") == "1").await;
    let pod = stage.api::<Pod>().list(&ListParams::default()).await.unwrap().items[0].name_any();
    let evict = json!({ "evict": { "target": target(&stage, "v1", &format!("Pod/{pod}")) } });
    let loosen = ["patch", "pdb", "web", "--type=merge", "-p", r#"{"spec":{"minAvailable":0}}"#];
    let tighten = ["patch", "pdb", "web", "--type=merge", "-p", r#"{"spec":{"minAvailable":1}}"#];
    let allowed = || stage.field("pdb/web", "{.status.disruptionsAllowed}");
    stage.kubectl("admin", &loosen, None).unwrap();
    stage.eventually("loose", async || allowed() == "1").await;
    // The dry run of an eviction is refused, too, so that the budget may only guard anything once the plan has begun.
    stage.apply(&[configmap("gate", &json!({ "a": "shut" }))]);
    let gate = json!({ "wait": { "target": target(&stage, "v1", "ConfigMap/gate"), "until": "Expression", "expression": "object.data.a == 'open'" } });
    let steps = vec![
        step("gate", gate, json!({})),
        step("s", evict, json!({ "dependsOn": ["gate"], "retry": { "attempts": 20 }, "timeout": "80s" })),
    ];
    write(&stage, "evict", steps, json!({}));
    approved(&stage, "evict").await;
    stage.plan("evict", PlanPhase::Executing).await;
    stage.kubectl("admin", &tighten, None).unwrap();
    stage.eventually("tight", async || allowed() == "0").await;
    stage.apply(&[configmap("gate", &json!({ "a": "open" }))]);
    let refused = || {
        let log = std::fs::read_to_string(stage.cluster.kubeconfig.parent().unwrap().join("logs/audit.log")).unwrap();
        let entries = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        entries
            .filter(|entry| entry["objectRef"]["name"] == pod.as_str() && entry["responseStatus"]["code"] == 429)
            .count()
    };
    stage.eventually("refused twice", async || refused() >= 2).await;
    stage.kubectl("admin", &loosen, None).unwrap();
    let plan = stage.plan("evict", PlanPhase::Succeeded).await;
    assert!(entry(&plan, "s").attempts >= 3, "{:?}", entry(&plan, "s"));
}

#[tokio::test]
async fn a_step_whose_time_is_over_fails_and_is_put_back() {
    let stage = Stage::set().await;
    stage.run("checkout", "nginx:1.27", 1).await;
    let more = json!({ "verify": { "type": "Ready" }, "timeout": "2s" });
    let steps = vec![step("s", image(&stage, "checkout", "nginx:slow"), more)];
    let plan = ends(&stage, "slow", steps, PlanPhase::RolledBack).await;
    assert!(plan.status.unwrap().message.unwrap().contains("not reached within 2s"));
    assert_eq!(stage.field("deployment/checkout", "{..image}"), "nginx:1.27");
}

#[tokio::test]
async fn a_plan_whose_time_is_over_is_put_back() {
    let stage = Stage::for_tests().await;
    stage.run("checkout", "nginx:1.27", 1).await;
    let timeout = Some(std::time::Duration::from_secs(3).into());
    let request = "set the image of checkout to nginx:slow and then scale checkout to 3";
    let command = stage.ask_with(request, |spec| spec.timeout = timeout).await;
    let command = stage.command(&command, CommandPhase::RolledBack).await;
    let plan = stage.plan(&command.status.unwrap().plan.unwrap().name, PlanPhase::RolledBack).await;
    let status = plan.status.clone().unwrap();
    assert!(status.message.unwrap().contains("the plan was not done within 3s: 0 of 2 steps were"));
    let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready").unwrap();
    assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("False", "TimedOut"));
    assert!(condition_is_true(&status.conditions, ConditionType::RolledBack));
    assert_eq!(states(&plan), [StepState::RolledBack, StepState::Pending]);
    assert_eq!(stage.field("deployment/checkout", "{.spec.replicas} {..image}"), "1 nginx:1.27");
    stage.event(&plan.name_any(), "TimedOut").await;
}

/// A plan of two steps whose first is being checked for some seconds.
async fn halfway(stage: &Stage) -> (String, String) {
    stage.run("checkout", "nginx:1.27", 1).await;
    let command = stage.ask("set the image of checkout to nginx:slow and then scale checkout to 3").await;
    let planned = |command: &AgentCommand| match command.status.as_ref().and_then(|status| status.phase) {
        Some(CommandPhase::Executing) => Look::There,
        Some(phase) if phase.is_final() => Look::Never,
        _ => Look::NotYet,
    };
    let plan = stage.until("executing", &command, planned).await.status.unwrap().plan.unwrap().name;
    let checking = |plan: &ExecutionPlan| match states(plan).first() {
        Some(StepState::Applied) => Look::There,
        Some(StepState::Completed | StepState::Failed) => Look::Never,
        _ => Look::NotYet,
    };
    stage.until("checking its first step", &plan, checking).await;
    (command, plan)
}

#[tokio::test]
async fn a_suspended_plan_finishes_its_step_and_goes_on_when_it_may() {
    let stage = Stage::for_tests().await;
    let (command, plan) = halfway(&stage).await;
    stage.edit(&command, json!({ "suspend": true })).await;
    let rests = |plan: &ExecutionPlan| match states(plan).as_slice() {
        [StepState::Completed, StepState::Pending] => Look::There,
        [_, StepState::Pending] => Look::NotYet,
        _ => Look::Never,
    };
    let resting = stage.until("resting", &plan, rests).await;
    assert_eq!(resting.status.unwrap().phase, Some(PlanPhase::Executing));
    // Whatever else the operator does meanwhile, it leaves this plan alone.
    let other = stage.ask("create a configmap called other with a=1").await;
    stage.command(&other, CommandPhase::Succeeded).await;
    assert_eq!(stage.field("deployment/checkout", "{.spec.replicas}"), "1");
    stage.edit(&command, json!({ "suspend": false })).await;
    stage.plan(&plan, PlanPhase::Succeeded).await;
    assert_eq!(stage.field("deployment/checkout", "{.spec.replicas}"), "3");
}

#[tokio::test]
async fn a_cancelled_plan_finishes_its_step_and_is_put_back_when_asked() {
    let stage = Stage::for_tests().await;
    let (command, plan) = halfway(&stage).await;
    stage.plugin("alice", &["cancel", &plan, "--yes"]).unwrap();
    let cancelled = stage.plan(&plan, PlanPhase::Cancelled).await;
    stage.command(&command, CommandPhase::Cancelled).await;
    assert_eq!(states(&cancelled), [StepState::Completed, StepState::Pending]);
    assert_eq!(stage.field("deployment/checkout", "{.spec.replicas} {..image}"), "1 nginx:slow");
    let back = put_back(&stage, &plan, PlanPhase::RolledBack).await;
    assert_eq!(states(&back), [StepState::RolledBack, StepState::Pending]);
    assert_eq!(stage.field("deployment/checkout", "{.spec.replicas} {..image}"), "1 nginx:1.27");
    let followed = |command: &AgentCommand| {
        let phase = command.status.as_ref().and_then(|status| status.phase);
        if phase == Some(CommandPhase::RolledBack) { Look::There } else { Look::NotYet }
    };
    stage.until("its command says so, too", &command, followed).await;
}

#[tokio::test]
async fn a_running_plan_is_put_back_at_once_when_asked() {
    let stage = Stage::for_tests().await;
    let (_, plan) = halfway(&stage).await;
    let back = put_back(&stage, &plan, PlanPhase::RolledBack).await;
    assert_eq!(states(&back), [StepState::RolledBack, StepState::Pending]);
    assert_eq!(stage.field("deployment/checkout", "{..image}"), "nginx:1.27");
}
