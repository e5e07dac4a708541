//! Plans written by hand, where a scenario needs exactly those steps.

use crate::stage::{Look, OPERATOR_NAMESPACE, Stage};
use countersign::api::{ExecutionPlan, PlanPhase};
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use serde_json::{Value, json};

/// A step of one operation; what else it has is in `more`.
pub fn step(id: &str, operation: Value, more: Value) -> Value {
    let mut step = json!({ "id": id, "title": id, "operation": operation });
    for (key, value) in more.as_object().into_iter().flatten() {
        step[key] = value.clone();
    }
    step
}

/// What an operation is about: `ConfigMap/x` of `v1`.
pub fn target(stage: &Stage, api_version: &str, object: &str) -> Value {
    let (kind, name) = object.split_once('/').unwrap();
    json!({ "apiVersion": api_version, "kind": kind, "namespace": stage.name, "name": name })
}

pub fn merge(target: &Value, body: Value) -> Value {
    json!({ "patch": { "target": target, "type": "merge", "body": body } })
}

pub fn delete(target: &Value) -> Value {
    json!({ "delete": { "target": target } })
}

/// Alice writes a plan with these steps.
pub fn write(stage: &Stage, name: &str, steps: Vec<Value>, more: Value) {
    let mut spec = json!({ "summary": name, "serviceAccountName": "deployer", "steps": steps });
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    let plan = json!({ "apiVersion": "countersign.dev/v1alpha1", "kind": "ExecutionPlan", "metadata": { "name": name }, "spec": spec });
    stage
        .kubectl("alice", &["create", "-f", "-"], Some(&plan.to_string()))
        .unwrap_or_else(|error| panic!("alice may not write plan {name}: {error}"));
}

/// How many Secrets the snapshots of a plan take.
pub async fn snapshots(stage: &Stage, plan: &ExecutionPlan) -> usize {
    let secrets: Api<Secret> = Api::namespaced(stage.admin.clone(), OPERATOR_NAMESPACE);
    let label = format!("countersign.dev/plan-uid={}", plan.uid().unwrap());
    secrets.list(&ListParams::default().labels(&label)).await.unwrap().items.len()
}

/// Bob and carol approve the plan as far as it needs it.
pub async fn approved(stage: &Stage, name: &str) {
    for user in ["bob", "carol"] {
        let judged = |plan: &ExecutionPlan| match plan.status.as_ref().and_then(|status| status.phase) {
            None => Look::NotYet,
            Some(_) => Look::There,
        };
        let plan = stage.until("judged", name, judged).await;
        if plan.status.as_ref().unwrap().phase != Some(PlanPhase::AwaitingApproval) {
            return;
        }
        stage.approve(user, &plan).unwrap_or_else(|error| panic!("{user} may not approve: {error}"));
        let counted = |now: &ExecutionPlan| {
            let count = |plan: &ExecutionPlan| plan.status.as_ref().and_then(|status| status.approval_count.clone());
            if count(now) == count(&plan) { Look::NotYet } else { Look::There }
        };
        stage.until("counted", name, counted).await;
    }
}

/// Writes the plan, has it approved, and sees it end like that.
pub async fn ends(stage: &Stage, name: &str, steps: Vec<Value>, phase: PlanPhase) -> ExecutionPlan {
    write(stage, name, steps, json!({}));
    approved(stage, name).await;
    stage.plan(name, phase).await
}

/// Has a plan that has ended put back, and sees that end like that.
pub async fn put_back(stage: &Stage, name: &str, phase: PlanPhase) -> ExecutionPlan {
    let before = stage.api::<ExecutionPlan>().get(name).await.unwrap().status.unwrap();
    stage.plugin("alice", &["rollback", name, "--yes"]).unwrap();
    let ended = |plan: &ExecutionPlan| match &plan.status {
        Some(status) if status.finished_at.is_none() || status.steps == before.steps => Look::NotYet,
        Some(status) if status.phase == Some(phase) => Look::There,
        Some(status) if status.phase.is_some_and(PlanPhase::is_final) => Look::Never,
        _ => Look::NotYet,
    };
    stage.until(&phase.to_string(), name, ended).await
}

/// What a plan says of putting a step back.
pub fn undo_message(plan: &ExecutionPlan, step: &str) -> String {
    let entry = plan.status.as_ref().unwrap().steps.iter().find(|entry| entry.id == step).unwrap();
    entry.undo.as_ref().and_then(|undo| undo.message.clone()).unwrap_or_else(|| panic!("{} {entry:?}", plan.name_any()))
}
