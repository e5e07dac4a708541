//! Plans that the tests of the screens show.

use crate::api::{AgentCommand, ExecutionPlan};
use serde_json::{Value, json};

fn plan(value: Value) -> ExecutionPlan {
    serde_json::from_value(value).unwrap()
}

fn deployment(name: &str) -> Value {
    json!({ "apiVersion": "apps/v1", "kind": "Deployment", "namespace": "staging", "name": name })
}

pub(super) fn command() -> AgentCommand {
    serde_json::from_value(json!({
        "apiVersion": "countersign.dev/v1alpha1", "kind": "AgentCommand",
        "metadata": { "name": "scale-checkout", "namespace": "staging", "creationTimestamp": "2026-03-01T09:59:57Z" },
        "spec": { "request": "scale checkout to 5 in staging", "requestedBy": { "username": "alice" } }
    }))
    .unwrap()
}

pub(super) fn scale() -> ExecutionPlan {
    plan(json!({
        "metadata": { "name": "scale-checkout-1", "namespace": "staging", "creationTimestamp": "2026-03-01T10:00:00Z" },
        "spec": {
            "commandRef": { "name": "scale-checkout" },
            "serviceAccountName": "deployer",
            "requestedBy": { "username": "alice", "groups": ["developers", "system:authenticated"] },
            "proposedBy": { "planner": "builtin" },
            "summary": "Scale Deployment staging/checkout from 3 to 5 replicas",
            "risk": { "level": "medium", "reasons": ["changes a running workload"] },
            "approvalsRequired": 2,
            "estimate": { "duration": "30s", "monthlyCost": "12.00", "currency": "USD", "basis": "list prices" },
            "warnings": ["checkout has no PodDisruptionBudget"],
            "observe": { "for": "5m", "rollbackOnDegraded": true },
            "steps": [{
                "id": "s1", "title": "Scale Deployment staging/checkout from 3 to 5 replicas", "tool": "scale",
                "operation": { "patch": { "target": deployment("checkout"), "subresource": "scale", "type": "merge", "body": { "spec": { "replicas": 5 } } } },
                "diff": [{ "path": "spec.replicas", "from": 3, "to": 5 }],
                "verify": { "type": "Ready" }, "timeout": "5m",
                "rollback": { "strategy": "InversePatch", "reversible": true },
                "risk": { "level": "medium", "reasons": ["changes a running workload"] }
            }]
        },
        "status": {
            "phase": "AwaitingApproval", "approvalsRequired": 2, "message": "waits for 1 more approval",
            "approvals": [
                { "name": "a", "approver": "bob", "decision": "Approve", "verdict": "Counted", "message": "looks right", "at": "2026-03-01T10:01:00Z" },
                { "name": "b", "approver": "alice", "decision": "Approve", "verdict": "Ignored", "message": "alice asked for it", "at": "2026-03-01T10:01:30Z" }
            ]
        }
    }))
}

pub(super) fn delete_critical() -> ExecutionPlan {
    let delete = |id: &str, kind: &str, name: &str, reversible: bool, reason: &str| {
        json!({
            "id": id, "title": format!("Delete {kind} production/{name}"), "tool": "delete",
            "operation": { "delete": { "target": { "apiVersion": if kind == "StatefulSet" { "apps/v1" } else { "v1" }, "kind": kind, "namespace": "production", "name": name } } },
            "precondition": { "uid": "7f0f" },
            "diff": [{ "path": "", "from": { "kind": kind, "metadata": { "name": name } } }],
            "verify": { "type": "Absent" },
            "rollback": { "strategy": "Recreate", "reversible": reversible, "reason": reason },
            "risk": { "level": "critical", "reasons": ["deletes data", "is in production"] }
        })
    };
    plan(json!({
        "metadata": { "name": "delete-all-production-databases-1", "namespace": "production", "creationTimestamp": "2026-03-01T07:00:00Z" },
        "spec": {
            "requestedBy": { "username": "alice" },
            "proposedBy": { "planner": "main", "model": "example-1" },
            "summary": "Delete 1 StatefulSet and its volume in production",
            "risk": { "level": "critical", "reasons": ["deletes data", "is in production"] },
            "approvalsRequired": 2,
            "steps": [
                delete("s1", "StatefulSet", "orders-db", true, "pods come back with new identities"),
                delete("s2", "PersistentVolumeClaim", "data-orders-db-0", false, "the data on the volume is gone for good"),
            ]
        },
        "status": { "phase": "AwaitingApproval", "approvalsRequired": 2 }
    }))
}

pub(super) fn several_steps() -> ExecutionPlan {
    plan(json!({
        "metadata": { "name": "new-shop-1", "namespace": "default" },
        "spec": {
            "requestedBy": { "username": "alice" },
            "proposedBy": { "planner": "builtin" },
            "summary": "Create Namespace shop with Deployment web and its password",
            "risk": { "level": "medium", "reasons": ["creates a workload"] },
            "approvalsRequired": 1,
            "steps": [
                {
                    "id": "ns", "title": "Create Namespace shop", "tool": "create_namespace",
                    "operation": { "apply": { "manifest": { "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "shop" } } } },
                    "precondition": { "absent": true },
                    "diff": [{ "path": "metadata.name", "to": "shop" }],
                    "rollback": { "strategy": "Delete", "reversible": true }
                },
                {
                    "id": "web", "title": "Create Deployment shop/web", "tool": "create_deployment", "dependsOn": ["ns"],
                    "when": "steps.ns.state == 'Completed'", "knownAfter": ["ns"],
                    "operation": { "apply": { "manifest": {
                        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web", "namespace": "shop" },
                        "spec": { "replicas": 2, "template": { "spec": { "containers": [{ "name": "web", "image": "nginx:1.29", "args": ["-g", "daemon off;"] }] } } }
                    } } },
                    "rollback": { "strategy": "Delete", "reversible": true },
                    "risk": { "level": "medium", "reasons": ["creates a workload"] }
                },
                {
                    "id": "secret", "title": "Change the password of Secret default/db", "tool": "manual",
                    "operation": { "patch": { "target": { "apiVersion": "v1", "kind": "Secret", "namespace": "default", "name": "db" }, "type": "merge", "body": {} } },
                    "diff": [{ "path": "data.password", "from": "x", "to": "x", "redacted": true }, { "path": "data.user", "to": "x", "redacted": true }],
                    "rollback": { "strategy": "InversePatch", "reversible": true }
                }
            ]
        }
    }))
}

/// Written by somebody who calls a deletion harmless.
pub(super) fn by_hand() -> ExecutionPlan {
    plan(json!({
        "metadata": { "name": "tidy-up", "namespace": "production" },
        "spec": {
            "serviceAccountName": "deployer",
            "requestedBy": { "username": "alice" },
            "summary": "Tidy up",
            "risk": { "level": "low" },
            "steps": [{
                "id": "s1", "title": "Remove a leftover", "tool": "manual",
                "operation": { "delete": { "target": { "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": "production", "name": "data-orders-db-0" } } },
                "rollback": { "strategy": "Recreate", "reversible": true },
                "risk": { "level": "low" }
            }]
        },
        "status": {
            "phase": "AwaitingApproval", "approvalsRequired": 2, "message": "risk is critical: waits for 2 more approvals (0 of 2)",
            "expiresAt": "2026-03-03T10:00:00Z",
            "risk": { "level": "critical", "reasons": ["Deletes data."] },
            "irreversible": [{ "id": "s1", "reason": "the data on the volume is gone for good" }],
            "policies": [
                { "name": "production", "asks": ["2 approvals at critical risk", "approvers in group sre or leads"] },
                { "name": "built-in", "asks": ["approval by somebody else than the requester"] }
            ]
        }
    }))
}

pub(super) fn denied() -> ExecutionPlan {
    let mut plan = scale();
    plan.status = serde_json::from_value(json!({
        "phase": "Denied", "approvalsRequired": 2, "message": "denied by carol: not during the sale",
        "finishedAt": "2026-03-01T10:03:00Z",
        "approvals": [{ "name": "c", "approver": "carol", "decision": "Deny", "verdict": "Counted", "message": "not during the sale", "at": "2026-03-01T10:03:00Z" }]
    }))
    .unwrap();
    plan
}

pub(super) fn rolled_back() -> ExecutionPlan {
    plan(json!({
        "metadata": { "name": "release-checkout-1", "namespace": "staging", "creationTimestamp": "2026-03-01T10:00:00Z" },
        "spec": {
            "commandRef": { "name": "release-checkout" },
            "requestedBy": { "username": "alice" },
            "proposedBy": { "planner": "builtin" },
            "summary": "Release checkout 2.0",
            "risk": { "level": "medium", "reasons": [] },
            "approvalsRequired": 1,
            "steps": [
                {
                    "id": "s1", "title": "Set flag in ConfigMap staging/flags", "tool": "manual",
                    "operation": { "patch": { "target": { "apiVersion": "v1", "kind": "ConfigMap", "namespace": "staging", "name": "flags" }, "type": "merge", "body": { "data": { "new": "yes" } } } },
                    "diff": [{ "path": "data.new", "to": "yes" }],
                    "rollback": { "strategy": "InversePatch", "reversible": true }
                },
                {
                    "id": "s2", "title": "Set image of Deployment staging/checkout to checkout:broken", "tool": "set_image", "dependsOn": ["s1"],
                    "operation": { "patch": { "target": deployment("checkout"), "type": "merge", "body": {} } },
                    "diff": [{ "path": "spec.template.spec.containers[name=checkout].image", "from": "registry.example.com/shop/checkout:1.9", "to": "registry.example.com/shop/checkout:broken" }],
                    "verify": { "type": "Ready" },
                    "rollback": { "strategy": "InversePatch", "reversible": true }
                }
            ]
        },
        "status": {
            "phase": "RolledBack", "approvalsRequired": 1, "finishedAt": "2026-03-01T10:02:40Z",
            "message": "step s2 failed: pod checkout-7d9 cannot pull its image; everything was put back",
            "approvals": [{ "name": "a", "approver": "bob", "decision": "Approve", "verdict": "Counted", "at": "2026-03-01T10:01:00Z" }],
            "steps": [
                { "id": "s1", "state": "RolledBack", "attempts": 1, "appliedAt": "2026-03-01T10:01:05Z", "finishedAt": "2026-03-01T10:01:06Z",
                  "undo": { "state": "Done", "message": "data.new removed", "finishedAt": "2026-03-01T10:02:39Z" } },
                { "id": "s2", "state": "Failed", "attempts": 2, "appliedAt": "2026-03-01T10:01:08Z", "finishedAt": "2026-03-01T10:02:30Z",
                  "message": "ImagePullBackOff: Back-off pulling image \"registry.example.com/shop/checkout:broken\"",
                  "undo": { "state": "Done", "message": "image set back", "finishedAt": "2026-03-01T10:02:38Z" } }
            ]
        }
    }))
}
