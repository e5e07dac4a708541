//! What counts as being there, what never will be, and what is looked at afterwards.

use crate::handmade::{approved, ends, merge, step, target, write};
use crate::stage::{Look, Stage, workload};
use countersign::api::{ExecutionPlan, PlanPhase, StepState};
use serde_json::{Value, json};

/// A kind of the scenario's own, with a status.
fn definition(stage: &Stage) -> Value {
    let group = format!("{}.example.com", stage.name);
    let schema = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    let version = json!({ "name": "v1", "served": true, "storage": true, "subresources": { "status": {} },
                          "schema": { "openAPIV3Schema": schema } });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("databases.{group}") },
        "spec": { "group": group, "scope": "Namespaced", "versions": [version],
                  "names": { "kind": "Database", "plural": "databases", "singular": "database" } }
    })
}

/// A scenario whose controller of databases is the test.
async fn with_databases() -> (Stage, String) {
    let stage = Stage::set().await;
    let group = format!("{}.example.com", stage.name);
    stage.allow(&json!([{ "apiGroups": [group], "resources": ["databases"], "verbs": ["*"] }]));
    stage.apply(&[definition(&stage)]);
    let name = format!("crd/databases.{group}");
    stage.kubectl("admin", &["wait", "--for=condition=Established", &name, "--timeout=60s"], None).unwrap();
    (stage, format!("{group}/v1"))
}

fn database(api_version: &str, name: &str) -> Value {
    json!({ "apiVersion": api_version, "kind": "Database", "metadata": { "name": name }, "spec": { "size": 1 } })
}

fn report(stage: &Stage, name: &str, kind: &str, status: &str, message: &str) {
    let condition = json!({ "type": kind, "status": status, "reason": "Told", "message": message,
                            "lastTransitionTime": "2026-01-01T00:00:00Z" });
    let patch = json!({ "status": { "phase": message, "conditions": [condition] } }).to_string();
    let object = format!("databases.{}.example.com", stage.name);
    let args = ["patch", &object, name, "--subresource=status", "--type=merge", "-p", &patch];
    stage.kubectl("admin", &args, None).unwrap();
}

fn message(plan: &ExecutionPlan, step: &str) -> String {
    let steps = &plan.status.as_ref().unwrap().steps;
    steps.iter().find(|entry| entry.id == step).unwrap().message.clone().unwrap_or_default()
}

async fn applied(stage: &Stage, plan: &str) {
    let is_applied = |plan: &ExecutionPlan| match plan.status.as_ref().and_then(|status| status.steps.first()) {
        Some(step) if step.state == StepState::Applied => Look::There,
        Some(step) if !matches!(step.state, StepState::Pending | StepState::Running) => Look::Never,
        _ => Look::NotYet,
    };
    stage.until("applied", plan, is_applied).await;
}

fn grow(stage: &Stage, api_version: &str, name: &str, more: Value) -> Value {
    let target = target(stage, api_version, &format!("Database/{name}"));
    step("s", merge(&target, json!({ "spec": { "size": 2 } })), more)
}

#[tokio::test]
async fn custom_resources_are_judged_by_their_conditions() {
    let (stage, api_version) = with_databases().await;
    let names = ["ready", "stalled", "cel", "fails", "lost"];
    stage.apply(&names.map(|name| database(&api_version, name)));
    for name in names {
        report(&stage, name, "Ready", "False", "growing");
    }

    write(&stage, "ready", vec![grow(&stage, &api_version, "ready", json!({}))], json!({}));
    approved(&stage, "ready").await;
    applied(&stage, "ready").await;
    report(&stage, "ready", "Ready", "True", "grown");
    stage.plan("ready", PlanPhase::Succeeded).await;

    write(&stage, "stalled", vec![grow(&stage, &api_version, "stalled", json!({}))], json!({}));
    approved(&stage, "stalled").await;
    applied(&stage, "stalled").await;
    report(&stage, "stalled", "Stalled", "True", "the disk is full");
    let plan = stage.plan("stalled", PlanPhase::RolledBack).await;
    assert_eq!(message(&plan, "s"), "the disk is full");

    let verify = json!({ "verify": { "type": "Expression", "expression": "object.status.phase == 'Serving'" } });
    write(&stage, "cel", vec![grow(&stage, &api_version, "cel", verify.clone())], json!({}));
    approved(&stage, "cel").await;
    applied(&stage, "cel").await;
    report(&stage, "cel", "Ready", "False", "Serving");
    let plan = stage.plan("cel", PlanPhase::Succeeded).await;
    assert_eq!(message(&plan, "s"), "object.status.phase == 'Serving' holds");

    // What has failed is not waited for until the time is over.
    write(&stage, "fails", vec![grow(&stage, &api_version, "fails", verify)], json!({}));
    approved(&stage, "fails").await;
    applied(&stage, "fails").await;
    report(&stage, "fails", "Stalled", "True", "no such size");
    let plan = stage.plan("fails", PlanPhase::RolledBack).await;
    assert_eq!(message(&plan, "s"), "object.status.phase == 'Serving' does not hold: no such size");

    // It ceases to be ready while it is watched, without saying that it failed.
    report(&stage, "lost", "Ready", "True", "fine");
    let watched = json!({ "observe": { "for": "3s", "rollbackOnDegraded": true } });
    let expression = json!({ "target": target(&stage, &api_version, "Database/lost"), "until": "Expression",
                             "expression": "object.status.phase == 'unreachable'" });
    let steps = vec![
        grow(&stage, &api_version, "lost", json!({})),
        step("later", json!({ "wait": expression }), json!({ "dependsOn": ["s"] })),
    ];
    write(&stage, "lost", steps, watched);
    approved(&stage, "lost").await;
    let verified = |plan: &ExecutionPlan| match plan.status.as_ref().and_then(|status| status.steps.first()) {
        Some(step) if step.state == StepState::Completed => Look::There,
        _ => Look::NotYet,
    };
    stage.until("verified", "lost", verified).await;
    report(&stage, "lost", "Ready", "False", "unreachable");
    let plan = stage.plan("lost", PlanPhase::RolledBack).await;
    let told = plan.status.unwrap().message.unwrap();
    assert!(told.contains(&format!("Database {}/lost degraded: unreachable", stage.name)), "{told}");
    for name in ["stalled", "fails", "lost"] {
        let object = format!("databases.{}.example.com/{name}", stage.name);
        assert_eq!(stage.field(&object, "{.spec.size}"), "1", "{name}");
    }
}

#[tokio::test]
async fn built_in_kinds_are_there_when_their_status_says_so() {
    let stage = Stage::set().await;
    stage.allow(&json!([
        { "apiGroups": ["apiextensions.k8s.io"], "resources": ["customresourcedefinitions"], "verbs": ["*"] },
        { "apiGroups": ["policy"], "resources": ["poddisruptionbudgets"], "verbs": ["*"] },
    ]));
    let named = |mut object: Value| {
        object["metadata"]["namespace"] = json!(stage.name);
        object
    };
    let mut daemon = workload("DaemonSet", "agent", "nginx:slow", 1);
    daemon["spec"].as_object_mut().unwrap().remove("replicas");
    let pod = json!({ "restartPolicy": "Never", "containers": [{ "name": "main", "image": "nginx:1.27" }] });
    let objects = [
        named(workload("Deployment", "web", "nginx:slow", 2)),
        named(workload("StatefulSet", "queue", "nginx:slow", 1)),
        named(daemon),
        named(json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "once" },
                "spec": { "template": { "spec": pod } } })),
        named(json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "disk" },
                "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } } })),
        named(json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "front" },
                "spec": { "type": "LoadBalancer", "selector": { "app": "web" }, "ports": [{ "port": 80 }] } })),
        named(json!({ "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": { "name": "web" },
                "spec": { "minAvailable": 1, "selector": { "matchLabels": { "app": "web" } } } })),
        definition(&stage),
    ];
    let apply = |object: &Value| {
        let id = object["kind"].as_str().unwrap().to_lowercase();
        step(&id, json!({ "apply": { "manifest": object } }), json!({}))
    };
    let mut steps: Vec<Value> = objects.iter().map(apply).collect();
    let done =
        json!({ "target": target(&stage, "batch/v1", "Job/once"), "until": "Condition", "condition": "Complete" });
    steps.push(step("done", json!({ "wait": done }), json!({ "dependsOn": ["job"] })));
    let plan = ends(&stage, "everything", steps, PlanPhase::Succeeded).await;
    for (object, path, expected) in [
        ("deployment/web", "{.status.readyReplicas}", "2"),
        ("statefulset/queue", "{.status.readyReplicas}", "1"),
        ("persistentvolumeclaim/disk", "{.status.phase}", "Bound"),
        ("job/once", "{.status.succeeded}", "1"),
        ("daemonset/agent", "{.status.numberUnavailable}", ""),
    ] {
        assert_eq!(stage.field(object, path), expected, "{object}");
    }
    // Not earlier than the pods, which take ten seconds.
    let steps = plan.status.unwrap().steps;
    for slow in ["deployment", "statefulset", "daemonset"] {
        let entry = steps.iter().find(|entry| entry.id == slow).unwrap();
        let took = entry.finished_at.as_ref().unwrap().0.as_second() - entry.applied_at.as_ref().unwrap().0.as_second();
        assert!(took >= 9, "{slow} took {took} s");
    }
}

#[tokio::test]
async fn what_never_will_be_there_says_why_at_once() {
    let stage = Stage::set().await;
    let image = |deployment: &str, tag: &str| {
        stage.apply(&[workload("Deployment", deployment, "nginx:1.27", 1)]);
        let path = "/spec/template/spec/containers/0/image";
        let body = json!([{ "op": "replace", "path": path, "value": format!("nginx:{tag}") }]);
        let target = target(&stage, "apps/v1", &format!("Deployment/{deployment}"));
        step("s", json!({ "patch": { "target": target, "type": "json", "body": body } }), json!({}))
    };
    let oom = ends(&stage, "oom", vec![image("oom", "oom")], PlanPhase::RolledBack).await;
    let said = message(&oom, "s");
    for part in
        ["OOMKilled: Pod ", "container main: ", "it used more memory than its limit allows", "; its last words:\n"]
    {
        assert!(said.contains(part), "'{part}' is not in: {said}");
    }
    let crash = ends(&stage, "crash", vec![image("crash", "crash")], PlanPhase::RolledBack).await;
    let said = message(&crash, "s");
    for part in [
        "CrashLoopBackOff: Pod ",
        "container main: ",
        "exit code 1",
        "; events: BackOff: Back-off restarting failed container; its last words:\n",
        "connection refused",
    ] {
        assert!(said.contains(part), "'{part}' is not in: {said}");
    }
    // By any other promise, too.
    let mut cel = image("cel", "broken");
    cel["verify"] = json!({ "type": "Expression", "expression": "object.status.readyReplicas == 3" });
    let cel = ends(&stage, "cel", vec![cel], PlanPhase::RolledBack).await;
    let said = message(&cel, "s");
    assert!(said.starts_with("object.status.readyReplicas == 3 does not hold: ImagePullBackOff: Pod "), "{said}");

    // A job that has failed is not waited for, either.
    let pod = json!({ "restartPolicy": "Never", "containers": [{ "name": "main", "image": "nginx:crash" }] });
    stage.apply(&[json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "once" },
                          "spec": { "backoffLimit": 0, "template": { "spec": pod } } })]);
    let done =
        json!({ "target": target(&stage, "batch/v1", "Job/once"), "until": "Condition", "condition": "Complete" });
    let job = ends(&stage, "job", vec![step("s", json!({ "wait": done }), json!({}))], PlanPhase::Failed).await;
    let said = message(&job, "s");
    assert!(said.starts_with("Job ") || said.starts_with("condition Complete is "), "{said}");
    assert!(said.contains("backoff limit") && said.contains("connection refused"), "{said}");
}

#[tokio::test]
async fn what_only_events_tell_is_told_when_the_time_is_over() {
    let stage = Stage::set().await;
    // No pod of a StatefulSet that a quota refuses ever exists, and its status says nothing.
    stage.apply(&[
        workload("StatefulSet", "queue", "nginx:1.27", 0),
        json!({ "apiVersion": "v1", "kind": "ResourceQuota", "metadata": { "name": "none" }, "spec": { "hard": { "pods": "0" } } }),
    ]);
    stage
        .eventually("the quota is counted", async || stage.field("resourcequota/none", "{.status.hard.pods}") == "0")
        .await;
    let target = target(&stage, "apps/v1", "StatefulSet/queue");
    let scale = merge(&target, json!({ "spec": { "replicas": 1 } }));
    let steps = vec![step("s", scale, json!({ "timeout": "8s" }))];
    let plan = ends(&stage, "scale", steps, PlanPhase::RolledBack).await;
    let said = message(&plan, "s");
    assert!(said.contains("replicas: 0/1; events: FailedCreate: "), "{said}");
    assert!(said.contains("exceeded quota: none"), "{said}");
}
