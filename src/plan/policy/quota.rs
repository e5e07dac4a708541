use super::facts::Touch;
use super::{Evaluate, Objection, PlanFacts};
use crate::api::{OperationKind, Quotas};
use k8s_openapi::jiff::Timestamp;

/// Deleting one of these takes pods away.
const WORKLOADS: [&str; 8] =
    ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController", "Job", "CronJob", "Namespace"];

impl Evaluate for Quotas {
    fn evaluate(&self, facts: &PlanFacts<'_>, _: Option<Timestamp>) -> Vec<Objection> {
        let mut objections = Vec::new();
        let mut exceeds = |what: &str, found: u64, bound: Option<u32>, unit: &str| {
            if let Some(bound) = bound.filter(|bound| found > u64::from(*bound)) {
                let text = format!("{what} {found}{unit}, at most {bound}{unit} are allowed in one plan");
                objections.push(Objection::Deny(text));
            }
        };
        let touches: Vec<_> = facts.touches().collect();
        exceeds("the number of steps is", facts.spec.steps.len() as u64, self.steps, "");
        let deleted = touches.iter().filter(|touch| touch.deletes()).count() as u64;
        exceeds("the number of deleted objects is", deleted, self.objects_deleted, "");
        let added = touches.iter().filter_map(Touch::scaling).map(|scaling| {
            // Replicas that nobody knows were all added.
            scaling.to.map_or(u64::from(u32::MAX), |to| to.saturating_sub(scaling.from.unwrap_or(0)))
        });
        let added = added.fold(0, u64::saturating_add);
        exceeds("the number of added replicas is", added, self.replicas_added, "");
        if let Some((share, touch)) = touches.iter().map(|touch| (taken_away(touch), touch)).max_by_key(|(s, _)| *s) {
            let what = format!("the share of the workload that {} takes away is", touch.describe());
            exceeds(&what, share, self.blast_radius_percent, " %");
        }
        objections
    }
}

/// The share of a workload that a step takes away at once, in percent, rounded up.
fn taken_away(touch: &Touch<'_>) -> u64 {
    let kind = touch.target.as_ref().map_or("", |target| target.kind.as_str());
    match touch.kind {
        // The plan does not tell which workload a pod belongs to, and it may be its only one.
        OperationKind::Evict => 100,
        OperationKind::Delete if kind == "Pod" || WORKLOADS.contains(&kind) => 100,
        OperationKind::Apply | OperationKind::Patch => match touch.scaling() {
            None => 0,
            Some(scaling) => match (scaling.from, scaling.to) {
                (Some(0), Some(_)) => 0,
                (Some(from), Some(to)) => (from.saturating_sub(to) * 100).div_ceil(from),
                _ => 100,
            },
        },
        _ => 0,
    }
}
