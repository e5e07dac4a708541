use super::*;
use serde_json::json;

fn of(api_version: &str, kind: &str, generation: i64, spec: &Value, status: &Value) -> String {
    let object = json!({ "apiVersion": api_version, "kind": kind, "metadata": { "name": "x", "generation": generation },
        "spec": spec, "status": status });
    match readiness(Some(&object)) {
        Readiness::Current => "current".to_owned(),
        Readiness::InProgress(why) => format!("in progress: {why}"),
        Readiness::Failed(why) => format!("failed: {why}"),
        Readiness::Terminating(why) => format!("terminating: {why}"),
        Readiness::Absent => "absent".to_owned(),
    }
}

fn with(mut base: Value, changes: &Value) -> Value {
    json_patch::merge(&mut base, changes);
    base
}

#[test]
fn deployments() {
    let spec = json!({ "replicas": 3, "progressDeadlineSeconds": 600 });
    let conditions = |progressing: &str, available: &str| {
        json!([{ "type": "Progressing", "status": "True", "reason": progressing, "message": "m" },
            { "type": "Available", "status": available, "reason": "MinimumReplicasUnavailable" }])
    };
    let done = json!({ "observedGeneration": 2, "replicas": 3, "updatedReplicas": 3, "availableReplicas": 3,
        "readyReplicas": 3, "conditions": conditions("NewReplicaSetAvailable", "True") });
    for (changes, expected) in [
        (json!({}), "current"),
        (json!({ "observedGeneration": 1 }), "in progress: generation 2 has not been looked at yet, only 1"),
        (json!({ "observedGeneration": null }), "in progress: its controller has not looked at it yet"),
        (json!({ "replicas": 2 }), "in progress: replicas: 2/3"),
        (json!({ "updatedReplicas": 1 }), "in progress: updated: 1/3"),
        (json!({ "replicas": 4 }), "in progress: pending termination: 1"),
        (json!({ "availableReplicas": 2 }), "in progress: available: 2/3"),
        (json!({ "readyReplicas": 2 }), "in progress: ready: 2/3"),
        (
            json!({ "conditions": conditions("ReplicaSetUpdated", "True") }),
            "in progress: its new ReplicaSet is not available yet",
        ),
        (
            json!({ "conditions": conditions("NewReplicaSetAvailable", "False") }),
            "in progress: MinimumReplicasUnavailable",
        ),
        (
            json!({ "conditions": conditions("ProgressDeadlineExceeded", "False"), "updatedReplicas": 1 }),
            "failed: progress deadline exceeded: m",
        ),
    ] {
        assert_eq!(of("apps/v1", "Deployment", 2, &spec, &with(done.clone(), &changes)), expected, "{changes}");
    }
    assert_eq!(of("apps/v1", "Deployment", 2, &json!({ "paused": true }), &done), "in progress: its rollout is paused");
    let none = json!({ "observedGeneration": 1, "conditions": conditions("NewReplicaSetAvailable", "True") });
    assert_eq!(of("apps/v1", "Deployment", 1, &json!({ "replicas": 0 }), &none), "current");
}

#[test]
fn stateful_sets() {
    let spec =
        json!({ "replicas": 3, "updateStrategy": { "type": "RollingUpdate", "rollingUpdate": { "partition": 0 } } });
    let done = json!({ "observedGeneration": 1, "replicas": 3, "readyReplicas": 3, "updatedReplicas": 3,
        "currentReplicas": 3, "currentRevision": "a", "updateRevision": "a" });
    for (spec_changes, changes, expected) in [
        (json!({}), json!({}), "current"),
        (json!({}), json!({ "replicas": 1 }), "in progress: replicas: 1/3"),
        (json!({}), json!({ "readyReplicas": 1 }), "in progress: ready: 1/3"),
        (json!({}), json!({ "replicas": 5 }), "in progress: pending termination: 2"),
        (json!({}), json!({ "updatedReplicas": 1 }), "in progress: updated: 1/3"),
        (json!({}), json!({ "currentReplicas": 2 }), "in progress: current: 2/3"),
        (json!({}), json!({ "updateRevision": "b" }), "in progress: its updated revision is not the current one yet"),
        (
            json!({ "updateStrategy": { "rollingUpdate": { "partition": 2 } } }),
            json!({ "updatedReplicas": 1, "updateRevision": "b" }),
            "current",
        ),
        (json!({ "updateStrategy": { "type": "OnDelete" } }), json!({ "replicas": 0 }), "current"),
    ] {
        let shown = of("apps/v1", "StatefulSet", 1, &with(spec.clone(), &spec_changes), &with(done.clone(), &changes));
        assert_eq!(shown, expected, "{changes}");
    }
}

#[test]
fn daemon_sets_and_replica_sets() {
    let done = json!({ "observedGeneration": 1, "desiredNumberScheduled": 2, "currentNumberScheduled": 2,
        "updatedNumberScheduled": 2, "numberAvailable": 2, "numberReady": 2 });
    for (changes, expected) in [
        (json!({}), "current"),
        (json!({ "observedGeneration": null }), "in progress: its controller has not looked at it yet"),
        (json!({ "desiredNumberScheduled": null }), "in progress: its controller has not counted the nodes yet"),
        (json!({ "updatedNumberScheduled": 1 }), "in progress: updated: 1/2"),
        (json!({ "numberAvailable": 1 }), "in progress: available: 1/2"),
        (json!({ "numberReady": 0, "desiredNumberScheduled": 0 }), "current"),
    ] {
        assert_eq!(of("apps/v1", "DaemonSet", 1, &json!({}), &with(done.clone(), &changes)), expected, "{changes}");
    }
    let done = json!({ "replicas": 2, "fullyLabeledReplicas": 2, "availableReplicas": 2, "readyReplicas": 2 });
    for (changes, expected) in [
        (json!({}), "current"),
        (json!({ "availableReplicas": 1 }), "in progress: available: 1/2"),
        (json!({ "replicas": 3 }), "in progress: pending termination: 1"),
        (
            json!({ "conditions": [{ "type": "ReplicaFailure", "status": "True", "message": "exceeded quota" }] }),
            "in progress: exceeded quota",
        ),
    ] {
        assert_eq!(of("apps/v1", "ReplicaSet", 1, &json!({ "replicas": 2 }), &with(done.clone(), &changes)), expected);
    }
}

#[test]
fn pods() {
    let container = |state: Value| json!([{ "name": "web", "restartCount": 3, "state": state }]);
    let ready = |status: &str| json!([{ "type": "Ready", "status": status, "message": "containers not ready" }]);
    for (status, expected) in [
        (json!({}), "in progress: not scheduled yet"),
        (json!({ "phase": "Succeeded" }), "current"),
        (json!({ "phase": "Running", "conditions": ready("True") }), "current"),
        (json!({ "phase": "Running", "conditions": ready("False") }), "in progress: containers not ready"),
        (json!({ "phase": "Running" }), "in progress: running, but not ready"),
        (
            json!({ "phase": "Running", "conditions": ready("False"),
            "containerStatuses": container(json!({ "waiting": { "reason": "CrashLoopBackOff", "message": "back-off 5m0s" } })) }),
            "failed: container web: CrashLoopBackOff: back-off 5m0s",
        ),
        (
            json!({ "phase": "Pending", "containerStatuses": container(json!({ "waiting": { "reason": "ContainerCreating" } })) }),
            "in progress: pending",
        ),
        (
            json!({ "phase": "Pending", "conditions": [{ "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes" }] }),
            "in progress: Unschedulable: 0/3 nodes",
        ),
        (
            json!({ "phase": "Failed", "reason": "Evicted", "message": "low on memory" }),
            "failed: Evicted: low on memory",
        ),
    ] {
        assert_eq!(of("v1", "Pod", 1, &json!({}), &status), expected, "{status}");
    }
}

#[test]
fn other_kinds() {
    let condition = |name: &str, status: &str, reason: &str| json!({ "conditions": [{ "type": name, "status": status, "reason": reason }] });
    for (api_version, kind, spec, status, expected) in [
        ("v1", "PersistentVolumeClaim", json!({}), json!({ "phase": "Pending" }), "in progress: not bound: pending"),
        ("v1", "PersistentVolumeClaim", json!({}), json!({ "phase": "Bound" }), "current"),
        ("v1", "PersistentVolumeClaim", json!({}), json!({ "phase": "Lost" }), "failed: its volume is lost"),
        ("v1", "Service", json!({ "type": "LoadBalancer" }), json!({}), "in progress: no cluster IP yet"),
        ("v1", "Service", json!({ "type": "ClusterIP" }), json!({}), "current"),
        ("v1", "Namespace", json!({}), json!({ "phase": "Active" }), "current"),
        ("v1", "Namespace", json!({}), json!({ "phase": "Terminating" }), "terminating: being deleted"),
        ("v1", "ConfigMap", json!({}), json!({}), "current"),
        (
            "policy/v1",
            "PodDisruptionBudget",
            json!({}),
            json!({}),
            "in progress: its controller has not looked at it yet",
        ),
        ("policy/v1", "PodDisruptionBudget", json!({}), json!({ "observedGeneration": 1 }), "current"),
        ("batch/v1", "Job", json!({}), json!({}), "in progress: not started"),
        ("batch/v1", "Job", json!({}), json!({ "startTime": "now" }), "current"),
        ("batch/v1", "Job", json!({}), condition("Complete", "True", ""), "current"),
        (
            "batch/v1",
            "Job",
            json!({}),
            condition("Failed", "True", "BackoffLimitExceeded"),
            "failed: BackoffLimitExceeded",
        ),
        (
            "apiextensions.k8s.io/v1",
            "CustomResourceDefinition",
            json!({}),
            condition("Established", "True", ""),
            "current",
        ),
        (
            "apiextensions.k8s.io/v1",
            "CustomResourceDefinition",
            json!({}),
            condition("Established", "False", "Installing"),
            "in progress: being installed",
        ),
        (
            "apiextensions.k8s.io/v1",
            "CustomResourceDefinition",
            json!({}),
            condition("NamesAccepted", "False", "PluralConflict"),
            "failed: PluralConflict",
        ),
        ("example.com/v1", "Thing", json!({}), json!({}), "current"),
        ("example.com/v1", "Thing", json!({}), condition("Ready", "False", "Waiting"), "in progress: Waiting"),
        ("example.com/v1", "Thing", json!({}), condition("Ready", "Unknown", ""), "in progress: not ready"),
        ("example.com/v1", "Thing", json!({}), condition("Reconciling", "True", "Busy"), "in progress: Busy"),
        ("example.com/v1", "Thing", json!({}), condition("Stalled", "True", "Broken"), "failed: Broken"),
        ("example.com/v1", "Deployment", json!({ "replicas": 3 }), json!({}), "current"),
    ] {
        assert_eq!(of(api_version, kind, 1, &spec, &status), expected, "{kind} {status}");
    }
}

#[test]
fn conditions_of_an_earlier_generation_say_nothing() {
    let condition = |name: &str, observed: i64| json!({ "conditions": [{ "type": name, "status": "True", "reason": "Told", "observedGeneration": observed }] });
    for (name, observed, expected) in [
        ("Ready", 1, "in progress: its controller has not looked at the change yet"),
        ("Ready", 2, "current"),
        ("Stalled", 1, "in progress: its controller has not looked at the change yet"),
        ("Stalled", 2, "failed: Told"),
    ] {
        assert_eq!(
            of("example.com/v1", "Thing", 2, &json!({}), &condition(name, observed)),
            expected,
            "{name} {observed}"
        );
    }
}

#[test]
fn deletion_comes_first_and_nothing_is_absent() {
    let object = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "deletionTimestamp": "now", "finalizers": ["a/b"] },
        "status": { "phase": "Succeeded" } });
    assert_eq!(readiness(Some(&object)), Readiness::Terminating("being deleted, waits for a/b".into()));
    assert_eq!(readiness(None), Readiness::Absent);
}
