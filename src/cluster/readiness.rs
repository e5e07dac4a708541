//! Whether an object got to where its spec wants it, by the rules of kstatus (`sigs.k8s.io/cli-utils`).

use super::failure::pod_failure;
use crate::api::ObjectRef;
use serde_json::Value;

/// Where an object stands between what is wanted and what is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It is as wanted.
    Current,
    /// It is on its way; the text says what it waits for.
    InProgress(String),
    /// It will not get there by itself; the text says why.
    Failed(String),
    /// It is being deleted; the text says what holds it.
    Terminating(String),
    /// There is no such object.
    Absent,
}

/// Where the object stands, from its own status alone. Kinds without rules of their own are judged by the conditions
/// `Reconciling`, `Stalled` and `Ready`, and are `Current` when they have none of these.
#[must_use]
pub fn readiness(object: Option<&Value>) -> Readiness {
    let Some(object) = object.filter(|object| !object.is_null()) else { return Readiness::Absent };
    let view = View(object);
    if let Some(general) = general(view) {
        return general;
    }
    let api_version = view.text("/apiVersion");
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    match (group, view.text("/kind")) {
        ("apps", "Deployment") => deployment(view),
        ("apps", "StatefulSet") => stateful_set(view),
        ("apps", "DaemonSet") => daemon_set(view),
        ("apps", "ReplicaSet") => replica_set(view),
        ("batch", "Job") => job(view),
        ("", "Pod") => pod(view),
        ("", "PersistentVolumeClaim") => volume_claim(view),
        ("", "Service") => service(view),
        ("", "Namespace") => namespace(view),
        ("policy", "PodDisruptionBudget") => disruption_budget(view),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => definition(view),
        _ => by_ready_condition(view),
    }
}

/// Kinds, as (group, kind), that are as wanted as soon as they are stored: no controller acts on them, and they have no status
/// that would say so.
const PLAIN: [(&str, &str); 15] = [
    ("", "ConfigMap"),
    ("", "Secret"),
    ("", "ServiceAccount"),
    ("", "LimitRange"),
    ("coordination.k8s.io", "Lease"),
    ("networking.k8s.io", "IngressClass"),
    ("networking.k8s.io", "NetworkPolicy"),
    ("node.k8s.io", "RuntimeClass"),
    ("rbac.authorization.k8s.io", "ClusterRole"),
    ("rbac.authorization.k8s.io", "ClusterRoleBinding"),
    ("rbac.authorization.k8s.io", "Role"),
    ("rbac.authorization.k8s.io", "RoleBinding"),
    ("scheduling.k8s.io", "PriorityClass"),
    ("storage.k8s.io", "CSIDriver"),
    ("storage.k8s.io", "StorageClass"),
];

/// Whether the API server's answer to a write already shows such an object as it is wanted, so that there is nothing to wait
/// for.
#[must_use]
pub fn is_ready_once_stored(target: &ObjectRef) -> bool {
    let group = target.api_version.split_once('/').map_or("", |(group, _)| group);
    PLAIN.contains(&(group, target.kind.as_str()))
}

#[derive(Clone, Copy)]
struct View<'v>(&'v Value);

struct Condition<'v> {
    /// Whether it speaks of an earlier generation of the object, by its own `observedGeneration`.
    outdated: bool,
    status: &'v str,
    reason: &'v str,
    message: &'v str,
}

impl<'v> View<'v> {
    fn text(self, pointer: &str) -> &'v str {
        self.0.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    fn number(self, pointer: &str) -> Option<i64> {
        self.0.pointer(pointer).and_then(Value::as_i64)
    }

    fn count(self, pointer: &str) -> i64 {
        self.number(pointer).unwrap_or(0)
    }

    fn condition(self, condition_type: &str) -> Option<Condition<'v>> {
        let conditions = self.0.pointer("/status/conditions")?.as_array()?;
        let text = |condition: &'v Value, key: &str| condition.get(key).and_then(Value::as_str).unwrap_or_default();
        let found = conditions.iter().find(|condition| text(condition, "type") == condition_type)?;
        let observed = found.get("observedGeneration").and_then(Value::as_i64);
        Some(Condition {
            outdated: observed.zip(self.number("/metadata/generation")).is_some_and(|(seen, now)| seen < now),
            status: text(found, "status"),
            reason: text(found, "reason"),
            message: text(found, "message"),
        })
    }
}

impl Condition<'_> {
    fn is_true(&self) -> bool {
        self.status == "True"
    }

    /// The message, or the reason when there is none.
    fn words(&self, otherwise: &str) -> String {
        [self.message, self.reason, otherwise].into_iter().find(|text| !text.is_empty()).unwrap_or_default().to_owned()
    }
}

fn waiting(text: impl Into<String>) -> Readiness {
    Readiness::InProgress(text.into())
}

/// The first of the counts that falls short.
fn short_of(counts: &[(&str, i64, i64)]) -> Option<Readiness> {
    counts
        .iter()
        .find(|(_, have, want)| have < want)
        .map(|(what, have, want)| waiting(format!("{what}: {have}/{want}")))
}

/// What holds for every kind.
fn general(view: View<'_>) -> Option<Readiness> {
    if view.0.pointer("/metadata/deletionTimestamp").is_some_and(|at| !at.is_null()) {
        let finalizers: Vec<&str> = view
            .0
            .pointer("/metadata/finalizers")
            .and_then(Value::as_array)
            .map(|names| names.iter().filter_map(Value::as_str).collect())
            .unwrap_or_default();
        return Some(Readiness::Terminating(if finalizers.is_empty() {
            "being deleted".to_owned()
        } else {
            format!("being deleted, waits for {}", finalizers.join(", "))
        }));
    }
    if let (Some(generation), Some(observed)) =
        (view.number("/metadata/generation"), view.number("/status/observedGeneration"))
        && observed != generation
    {
        return Some(waiting(format!("generation {generation} has not been looked at yet, only {observed}")));
    }
    if let Some(condition) = view.condition("Reconciling").filter(Condition::is_true) {
        return Some(waiting(condition.words("reconciling")));
    }
    if let Some(condition) = view.condition("Stalled").filter(Condition::is_true) {
        if condition.outdated {
            return Some(waiting("its controller has not looked at the change yet"));
        }
        return Some(Readiness::Failed(condition.words("stalled")));
    }
    None
}

/// A controller that has not written a status yet has not seen the object.
fn unobserved(view: View<'_>) -> Option<Readiness> {
    view.number("/status/observedGeneration").is_none().then(|| waiting("its controller has not looked at it yet"))
}

fn by_ready_condition(view: View<'_>) -> Readiness {
    match view.condition("Ready") {
        Some(ready) if !ready.is_true() => waiting(ready.words("not ready")),
        Some(ready) if ready.outdated => waiting("its controller has not looked at the change yet"),
        _ => Readiness::Current,
    }
}

fn deployment(view: View<'_>) -> Readiness {
    if let Some(unobserved) = unobserved(view) {
        return unobserved;
    }
    let progressing = view.condition("Progressing");
    if let Some(condition) = progressing.as_ref().filter(|condition| condition.reason == "ProgressDeadlineExceeded") {
        return Readiness::Failed(format!("progress deadline exceeded: {}", condition.words("no progress")));
    }
    if view.0.pointer("/spec/paused").and_then(Value::as_bool) == Some(true) {
        return waiting("its rollout is paused");
    }
    let wanted = view.number("/spec/replicas").unwrap_or(1);
    let replicas = view.count("/status/replicas");
    let updated = view.count("/status/updatedReplicas");
    let available = view.count("/status/availableReplicas");
    let ready = view.count("/status/readyReplicas");
    if let Some(short) = short_of(&[("replicas", replicas, wanted), ("updated", updated, wanted)]) {
        return short;
    }
    if replicas > wanted {
        return waiting(format!("pending termination: {}", replicas - wanted));
    }
    if let Some(short) = short_of(&[("available", available, updated), ("ready", ready, wanted)]) {
        return short;
    }
    // Without a deadline the controller keeps no such condition.
    let has_deadline = view.number("/spec/progressDeadlineSeconds").is_some_and(|limit| limit != i64::from(i32::MAX));
    if has_deadline && !progressing.is_some_and(|c| c.is_true() && c.reason == "NewReplicaSetAvailable") {
        return waiting("its new ReplicaSet is not available yet");
    }
    match view.condition("Available") {
        Some(condition) if condition.is_true() => Readiness::Current,
        Some(condition) => waiting(condition.words("not available")),
        None => waiting("not available"),
    }
}

fn stateful_set(view: View<'_>) -> Readiness {
    if view.text("/spec/updateStrategy/type") == "OnDelete" {
        return Readiness::Current;
    }
    if let Some(unobserved) = unobserved(view) {
        return unobserved;
    }
    let wanted = view.number("/spec/replicas").unwrap_or(1);
    let replicas = view.count("/status/replicas");
    let counts = [("replicas", replicas, wanted), ("ready", view.count("/status/readyReplicas"), wanted)];
    if let Some(short) = short_of(&counts) {
        return short;
    }
    if replicas > wanted {
        return waiting(format!("pending termination: {}", replicas - wanted));
    }
    let partition = view.count("/spec/updateStrategy/rollingUpdate/partition");
    let updated = view.count("/status/updatedReplicas");
    if let Some(short) = short_of(&[("updated", updated, wanted - partition)]) {
        return short;
    }
    if partition > 0 {
        return Readiness::Current;
    }
    if let Some(short) = short_of(&[("current", view.count("/status/currentReplicas"), wanted)]) {
        return short;
    }
    if view.text("/status/currentRevision") != view.text("/status/updateRevision") {
        return waiting("its updated revision is not the current one yet");
    }
    Readiness::Current
}

fn daemon_set(view: View<'_>) -> Readiness {
    if let Some(unobserved) = unobserved(view) {
        return unobserved;
    }
    let Some(wanted) = view.number("/status/desiredNumberScheduled") else {
        return waiting("its controller has not counted the nodes yet");
    };
    let mut counts = vec![("scheduled", view.count("/status/currentNumberScheduled"), wanted)];
    if view.text("/spec/updateStrategy/type") != "OnDelete" {
        counts.push(("updated", view.count("/status/updatedNumberScheduled"), wanted));
    }
    counts.push(("available", view.count("/status/numberAvailable"), wanted));
    counts.push(("ready", view.count("/status/numberReady"), wanted));
    short_of(&counts).unwrap_or(Readiness::Current)
}

fn replica_set(view: View<'_>) -> Readiness {
    if let Some(failure) = view.condition("ReplicaFailure").filter(Condition::is_true) {
        return waiting(failure.words("its pods cannot be created"));
    }
    let wanted = view.number("/spec/replicas").unwrap_or(1);
    let counts = [
        ("labelled", view.count("/status/fullyLabeledReplicas"), wanted),
        ("available", view.count("/status/availableReplicas"), wanted),
        ("ready", view.count("/status/readyReplicas"), wanted),
    ];
    if let Some(short) = short_of(&counts) {
        return short;
    }
    let extra = view.count("/status/replicas") - wanted;
    if extra > 0 { waiting(format!("pending termination: {extra}")) } else { Readiness::Current }
}

fn job(view: View<'_>) -> Readiness {
    if let Some(failed) = view.condition("Failed").filter(Condition::is_true) {
        return Readiness::Failed(failed.words("the job failed"));
    }
    if ["Complete", "Suspended"].into_iter().any(|name| view.condition(name).is_some_and(|c| c.is_true())) {
        return Readiness::Current;
    }
    // A job that runs is as wanted; whoever needs its end waits for the condition `Complete`.
    if view.text("/status/startTime").is_empty() { waiting("not started") } else { Readiness::Current }
}

fn pod(view: View<'_>) -> Readiness {
    let failure = pod_failure(view.0);
    match view.text("/status/phase") {
        "Succeeded" => Readiness::Current,
        "Failed" => Readiness::Failed(failure.map_or_else(
            || {
                [view.text("/status/message"), "the pod failed"]
                    .into_iter()
                    .find(|t| !t.is_empty())
                    .unwrap_or_default()
                    .to_owned()
            },
            |failure| failure.to_string(),
        )),
        "Running" => {
            let ready = view.condition("Ready");
            match (ready, failure) {
                (Some(ready), _) if ready.is_true() || ready.reason == "PodCompleted" => Readiness::Current,
                (_, Some(failure)) if failure.terminal => Readiness::Failed(failure.to_string()),
                (Some(ready), _) => waiting(ready.words("running, but not ready")),
                (None, _) => waiting("running, but not ready"),
            }
        }
        phase => match failure {
            Some(failure) if failure.terminal => Readiness::Failed(failure.to_string()),
            Some(failure) => waiting(failure.to_string()),
            None if phase.is_empty() => waiting("not scheduled yet"),
            None => waiting(phase.to_lowercase()),
        },
    }
}

fn volume_claim(view: View<'_>) -> Readiness {
    match view.text("/status/phase") {
        "Bound" => Readiness::Current,
        "Lost" => Readiness::Failed("its volume is lost".to_owned()),
        phase => waiting(format!("not bound{}{}", if phase.is_empty() { "" } else { ": " }, phase.to_lowercase())),
    }
}

/// Whether a load balancer gets an address is the matter of the environment, not of the cluster.
fn service(view: View<'_>) -> Readiness {
    if view.text("/spec/type") == "LoadBalancer" && view.text("/spec/clusterIP").is_empty() {
        return waiting("no cluster IP yet");
    }
    Readiness::Current
}

fn namespace(view: View<'_>) -> Readiness {
    match view.text("/status/phase") {
        "Active" => Readiness::Current,
        "Terminating" => Readiness::Terminating("being deleted".to_owned()),
        _ => waiting("not active yet"),
    }
}

fn disruption_budget(view: View<'_>) -> Readiness {
    unobserved(view).unwrap_or(Readiness::Current)
}

fn definition(view: View<'_>) -> Readiness {
    if let Some(names) = view.condition("NamesAccepted").filter(|condition| condition.status == "False") {
        return Readiness::Failed(names.words("its names are taken"));
    }
    match view.condition("Established") {
        Some(established) if established.is_true() => Readiness::Current,
        Some(established) if established.status == "False" && established.reason != "Installing" => {
            Readiness::Failed(established.words("not established"))
        }
        _ => waiting("being installed"),
    }
}

#[cfg(test)]
mod tests;
