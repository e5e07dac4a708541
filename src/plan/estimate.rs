use super::StepEffect;
use crate::api::{Estimate, OperationKind};
use kube::core::Duration;
use serde_json::Value;
use std::time::Duration as StdDuration;

/// Seconds that one wave of pods is taken to need, from scheduling to ready. A rule of thumb until past executions of the
/// same workload say better; `basis` says so on every plan.
const WAVE_SECONDS: u64 = 20;
/// The default `maxSurge` of a Deployment: a quarter of the replicas at a time.
const DEFAULT_WAVES: u64 = 4;

/// How long a step should take. Money is left open: without a price list any figure would be invented.
#[must_use]
pub fn estimate(facts: &StepEffect) -> Estimate {
    let replicas =
        |object: Option<&Value>| object.and_then(|o| o.pointer("/spec/replicas")).and_then(Value::as_u64).unwrap_or(1);
    let rolls_pods = facts.changes.iter().any(|change| change.path.starts_with("spec.template"));
    let after = replicas(facts.after.object().or(facts.before.as_ref()));
    let before = facts.before.as_ref().map_or(0, |live| replicas(Some(live)));
    let (seconds, basis) = match (facts.operation, facts.resource.kind.as_str()) {
        (OperationKind::Apply | OperationKind::Patch, "Deployment") if rolls_pods && facts.before.is_some() => {
            (WAVE_SECONDS * after.clamp(1, DEFAULT_WAVES), "rolling update in waves of a quarter, 20 s a wave")
        }
        (OperationKind::Apply | OperationKind::Patch, "StatefulSet") if rolls_pods => {
            (WAVE_SECONDS * after.max(1), "one pod after the other, 20 s each")
        }
        (OperationKind::Apply | OperationKind::Patch, "Deployment" | "StatefulSet" | "ReplicaSet" | "Scale")
            if after > before =>
        {
            (WAVE_SECONDS, "new pods start together in about 20 s")
        }
        (OperationKind::Delete, "Namespace") => (60, "a namespace is emptied in about a minute"),
        (OperationKind::Delete, _) => (10, "graceful deletion"),
        (OperationKind::Evict, _) => (30, "graceful termination of one pod"),
        _ => (2, "one API call"),
    };
    let minimum = facts.before.as_ref().and_then(|o| o.pointer("/spec/minReadySeconds")).and_then(Value::as_u64);
    let seconds = seconds + minimum.unwrap_or(0);
    Estimate {
        duration: Some(Duration::from(StdDuration::from_secs(seconds))),
        monthly_cost: None,
        currency: None,
        basis: Some(basis.to_owned()),
    }
}
