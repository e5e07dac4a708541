//! Why a workload does not become ready, in the words of the kubelet, the scheduler and the container itself.

use super::{Access, Catalog, ClusterError, EventLine, ListOptions, ResourceKind, redact_text};
use crate::api::ObjectRef;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;
use std::fmt;

/// Log lines quoted at most.
const LOG_LINES: usize = 10;
/// The longest log line quoted, in characters.
const LOG_LINE: usize = 300;
const LAST_WORDS: &str = "; its last words:";
/// Events quoted at most.
const EVENTS: usize = 3;

/// Why a workload does not become ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The reason in one word, for example `ImagePullBackOff`.
    pub reason: String,
    /// Pod, container, the words of the kubelet or scheduler, and the container's last log lines, redacted.
    pub message: String,
    /// Whether it will not pass by itself, so that waiting on is of no use.
    pub terminal: bool,
}

/// Why one pod does not become ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFailure {
    /// The container; absent when the pod as a whole is concerned.
    pub container: Option<String>,
    /// The reason in one word.
    pub reason: String,
    /// The words of the kubelet or scheduler.
    pub message: String,
    /// Whether it will not pass by itself.
    pub terminal: bool,
    /// Whether the container ran, so that its log may say more.
    pub ran: bool,
}

impl fmt::Display for PodFailure {
    /// `container web: ImagePullBackOff: Back-off pulling image …`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(container) = &self.container {
            write!(f, "container {container}: ")?;
        }
        f.write_str(&self.reason)?;
        if self.message.is_empty() { Ok(()) } else { write!(f, ": {}", self.message) }
    }
}

/// Why the pods of the newest revision of a workload do not become ready, if they do not; the one that is hardest to get
/// over where there are several. Pods of earlier revisions do not count, nor does anything before the workload's
/// controller has looked at its present generation.
///
/// `workload` is the live object: a Deployment, StatefulSet, DaemonSet, ReplicaSet, Job or Pod; other kinds have no
/// failures of this sort.
///
/// # Errors
/// [`ClusterError`] when the pods cannot be read. A log that cannot be read is left out.
pub async fn workload_failure(
    access: &Access,
    catalog: &Catalog,
    workload: &Value,
) -> Result<Option<Failure>, ClusterError> {
    let generation = |pointer: &str| workload.pointer(pointer).and_then(Value::as_i64);
    if let (Some(wanted), Some(observed)) =
        (generation("/metadata/generation"), generation("/status/observedGeneration"))
        && observed < wanted
    {
        return Ok(None);
    }
    let pods = newest_pods(access, catalog, workload).await?;
    let live = pods.iter().filter(|pod| pod.pointer("/metadata/deletionTimestamp").is_none());
    let mut failed: Vec<(&Value, PodFailure)> = live.filter_map(|pod| Some((pod, pod_failure(pod)?))).collect();
    failed.sort_by_key(|(_, failure)| (!failure.terminal, !failure.ran));
    let Some((pod, failure)) = failed.first() else { return Ok(replica_failure(workload)) };
    let Some(reference) = ObjectRef::of(pod) else { return Ok(None) };
    let mut message = format!("{reference}, {failure}");
    if failed.len() > 1 {
        message.push_str(&format!(" ({} of {} pods)", failed.len(), pods.len()));
    }
    if let Some(namespace) = reference.namespace.as_deref().filter(|_| failure.ran) {
        let container = failure.container.as_deref();
        let tail = LOG_LINES as i64;
        let log = match access.logs(namespace, &reference.name, container, tail, true).await {
            Ok(log) if !log.trim().is_empty() => log,
            _ => access.logs(namespace, &reference.name, container, tail, false).await.unwrap_or_default(),
        };
        append_log(&mut message, &log);
    }
    Ok(Some(Failure { reason: failure.reason.clone(), message: redact_text(&message), terminal: failure.terminal }))
}

/// The newest warnings about an object, and about a pod of its newest revision that is not ready, that say something
/// new: a volume that cannot be mounted, a StatefulSet whose pods a quota refuses. Newest last, redacted.
///
/// Those about the object itself count from `since` on; the pods are as new as the change. What is in `said` already is left
/// out, and so is what may not be read.
pub async fn warnings(
    access: &Access,
    catalog: &Catalog,
    object: &Value,
    since: Option<Timestamp>,
    said: &str,
) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(reference) = ObjectRef::of(object) {
        let uid = object.pointer("/metadata/uid").and_then(Value::as_str);
        let found = access.events_of(&reference, uid).await.unwrap_or_default();
        lines.extend(found.into_iter().filter(|line| since.is_none_or(|since| line.last_seen >= Some(since))));
    }
    let is_pod = object.get("kind").and_then(Value::as_str) == Some("Pod");
    let pods = if is_pod { Vec::new() } else { newest_pods(access, catalog, object).await.unwrap_or_default() };
    let mut unready: Vec<&Value> = pods.iter().filter(|pod| !is_pod_ready(pod)).collect();
    unready.sort_by_key(|pod| pod_failure(pod).map_or((true, true), |failure| (!failure.terminal, !failure.ran)));
    if let Some((pod, reference)) = unready.first().and_then(|pod| Some((pod, ObjectRef::of(pod)?))) {
        let uid = pod.pointer("/metadata/uid").and_then(Value::as_str);
        lines.extend(access.events_of(&reference, uid).await.unwrap_or_default());
    }
    told(lines, said)
}

fn told(mut lines: Vec<EventLine>, said: &str) -> Vec<String> {
    lines.sort_by_key(|line| line.last_seen);
    let mut told: Vec<String> = Vec::new();
    for line in lines.into_iter().rev().filter(|line| line.kind == "Warning" && !line.message.trim().is_empty()) {
        let message = line.message.split_whitespace().collect::<Vec<_>>().join(" ");
        let text = redact_text(&format!("{}: {message}", line.reason)).chars().take(LOG_LINE).collect();
        if !said.contains(&message) && !told.contains(&text) && told.len() < EVENTS {
            told.push(text);
        }
    }
    told.reverse();
    told
}

/// The message with these warnings, before the last words of a container, which may be long.
#[must_use]
pub fn with_warnings(mut message: String, warnings: &[String]) -> String {
    if !warnings.is_empty() {
        let place = message.find(LAST_WORDS).unwrap_or(message.len());
        message.insert_str(place, &format!("; events: {}", warnings.join("; ")));
    }
    message
}

fn is_pod_ready(pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    let is = |condition: &Value, key: &str, value: &str| condition.get(key).and_then(Value::as_str) == Some(value);
    conditions.into_iter().flatten().any(|condition| is(condition, "type", "Ready") && is(condition, "status", "True"))
}

fn append_log(message: &mut String, log: &str) {
    let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
    if last.is_empty() {
        return;
    }
    message.push_str(LAST_WORDS);
    for line in last {
        message.push_str("\n  ");
        message.extend(line.chars().filter(|c| !c.is_control() || *c == '\t').take(LOG_LINE));
    }
}

/// Why a pod does not become ready, if it says so.
#[must_use]
pub fn pod_failure(pod: &Value) -> Option<PodFailure> {
    let containers = ["/status/initContainerStatuses", "/status/containerStatuses"]
        .into_iter()
        .filter_map(|pointer| pod.pointer(pointer)?.as_array())
        .flatten();
    let mut failures: Vec<PodFailure> = containers.filter_map(container_failure).collect();
    failures.sort_by_key(|failure| !failure.terminal);
    failures.into_iter().next().or_else(|| whole_pod_failure(pod))
}

fn container_failure(status: &Value) -> Option<PodFailure> {
    let text = |pointer: &str| status.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let failure = |reason: &str, message: String, terminal: bool, ran: bool| {
        Some(PodFailure {
            container: Some(text("/name").to_owned()),
            reason: reason.to_owned(),
            message,
            terminal,
            ran,
        })
    };
    let waiting = text("/state/waiting/reason");
    let message = text("/state/waiting/message").to_owned();
    match waiting {
        "ImagePullBackOff"
        | "InvalidImageName"
        | "ErrImageNeverPull"
        | "ImageInspectError"
        | "CreateContainerConfigError"
        | "CreateContainerError"
        | "SignatureValidationFailed" => {
            return failure(waiting, message, true, false);
        }
        // The kubelet is about to try again; it says so by ImagePullBackOff.
        "ErrImagePull" | "RegistryUnavailable" => return failure(waiting, message, false, false),
        "RunContainerError" | "PostStartHookError" | "StartError" => return failure(waiting, message, true, true),
        "CrashLoopBackOff" if text("/lastState/terminated/reason") == "OOMKilled" => {
            return failure("OOMKilled", out_of_memory(status, &message), true, true);
        }
        "CrashLoopBackOff" => return failure(waiting, join(&message, &exit(status, "/lastState")), true, true),
        _ => {}
    }
    let exit_code = status.pointer("/state/terminated/exitCode").and_then(Value::as_i64);
    let is_ready = status.get("ready").and_then(Value::as_bool) == Some(true);
    if text("/state/terminated/reason") == "OOMKilled"
        || (!is_ready && text("/lastState/terminated/reason") == "OOMKilled")
    {
        return failure("OOMKilled", out_of_memory(status, ""), false, true);
    }
    if exit_code.is_some_and(|code| code != 0) {
        let reason = [text("/state/terminated/reason"), "Error"].into_iter().find(|text| !text.is_empty())?;
        return failure(reason, exit(status, "/state"), false, true);
    }
    None
}

fn out_of_memory(status: &Value, message: &str) -> String {
    let restarts = status.get("restartCount").and_then(Value::as_i64).unwrap_or(0);
    join(&format!("it used more memory than its limit allows ({restarts} restarts)"), message)
}

/// How the container ended: `exit code 1`, and its termination message if it left one.
fn exit(status: &Value, state: &str) -> String {
    let terminated = status.pointer(state).and_then(|state| state.get("terminated"));
    let code = terminated.and_then(|terminated| terminated.get("exitCode")).and_then(Value::as_i64);
    let message = terminated.and_then(|terminated| terminated.get("message")).and_then(Value::as_str);
    join(&code.map(|code| format!("exit code {code}")).unwrap_or_default(), message.unwrap_or_default().trim())
}

fn join(first: &str, second: &str) -> String {
    if first.is_empty() || second.is_empty() { format!("{first}{second}") } else { format!("{first}; {second}") }
}

fn whole_pod_failure(pod: &Value) -> Option<PodFailure> {
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let status = pod.get("status")?;
    let scheduled = status
        .get("conditions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .find(|condition| text(condition, "type") == "PodScheduled" && text(condition, "status") == "False");
    if let Some(condition) = scheduled {
        let reason = text(condition, "reason");
        let reason = if reason.is_empty() { "Unschedulable".to_owned() } else { reason };
        // Nodes come and other pods go, also without anybody's doing.
        let message = text(condition, "message");
        return Some(PodFailure { container: None, reason, message, terminal: false, ran: false });
    }
    if text(status, "phase") != "Failed" {
        return None;
    }
    let reason = text(status, "reason");
    let reason = if reason.is_empty() { "Failed".to_owned() } else { reason };
    // The workload makes another pod in its place.
    Some(PodFailure { container: None, reason, message: text(status, "message"), terminal: false, ran: true })
}

/// Pods that could not even be created: quota, pod security, a missing service account.
fn replica_failure(workload: &Value) -> Option<Failure> {
    let conditions = workload.pointer("/status/conditions")?.as_array()?;
    let text = |condition: &Value, key: &str| condition.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let found = conditions
        .iter()
        .find(|condition| text(condition, "type") == "ReplicaFailure" && text(condition, "status") == "True")?;
    let message = redact_text(&text(found, "message"));
    // A quota may be free again once old pods are gone; a policy will refuse for ever.
    let terminal = message.contains("violates PodSecurity") || message.contains("denied request");
    Some(Failure { reason: text(found, "reason"), message, terminal })
}

/// The pods of the newest revision of a workload.
async fn newest_pods(access: &Access, catalog: &Catalog, workload: &Value) -> Result<Vec<Value>, ClusterError> {
    let Some(reference) = ObjectRef::of(workload) else { return Ok(Vec::new()) };
    let text = |pointer: &str| workload.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let uid = text("/metadata/uid");
    let namespace = reference.namespace.as_deref();
    let selector = selector(workload);
    let list = |kind: ResourceKind, selector: String| async move {
        let options = ListOptions { label_selector: Some(selector), ..ListOptions::default() };
        access.list(&kind, namespace, &options).await
    };
    let pods = super::catalog::core_kind("Pod", "pods");
    let with = |more: String| if selector.is_empty() { more } else { format!("{selector},{more}") };
    let (owner, wanted) = match (reference.group(), reference.kind.as_str()) {
        ("", "Pod") => return Ok(vec![workload.clone()]),
        ("apps", "Deployment") => {
            let kind = catalog
                .by_group_kind("apps", "ReplicaSet")
                .cloned()
                .ok_or_else(|| ClusterError::UnknownKind { word: "ReplicaSet.apps".to_owned(), nearest: Vec::new() })?;
            let sets = list(kind, selector.clone()).await?;
            let newest = sets.iter().filter(|set| is_owned_by(set, &uid)).max_by_key(|set| revision(set));
            let Some(newest) = newest else { return Ok(Vec::new()) };
            let label = |name: &str| newest.pointer(name).and_then(Value::as_str).unwrap_or_default().to_owned();
            (label("/metadata/uid"), with(format!("pod-template-hash={}", label("/metadata/labels/pod-template-hash"))))
        }
        ("apps", "StatefulSet") => (uid, with(format!("controller-revision-hash={}", text("/status/updateRevision")))),
        ("apps", "DaemonSet") => {
            let generation = text("/metadata/annotations/deprecated.daemonset.template.generation");
            (uid, with(format!("pod-template-generation={generation}")))
        }
        ("apps", "ReplicaSet") | ("batch", "Job") => (uid, selector.clone()),
        _ => return Ok(Vec::new()),
    };
    let found = list(pods, wanted).await?;
    Ok(found.into_iter().filter(|pod| is_owned_by(pod, &owner)).collect())
}

/// The label selector of a workload as text.
fn selector(workload: &Value) -> String {
    let labels = workload.pointer("/spec/selector/matchLabels").and_then(Value::as_object);
    let terms = labels.into_iter().flatten().filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?)));
    terms.collect::<Vec<_>>().join(",")
}

fn is_owned_by(object: &Value, uid: &str) -> bool {
    let owners = object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    owners.into_iter().flatten().any(|owner| owner.get("uid").and_then(Value::as_str) == Some(uid))
}

fn revision(replica_set: &Value) -> u64 {
    let annotations = replica_set.pointer("/metadata/annotations");
    let revision = annotations.and_then(|annotations| annotations.get("deployment.kubernetes.io/revision"));
    revision.and_then(|revision| revision.as_str()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pods_say_why_they_fail() {
        let waiting = |reason: &str| json!({ "state": { "waiting": { "reason": reason, "message": "m" } } });
        let ended = |state: &str, reason: &str, code: i64| json!({ state: { "terminated": { "reason": reason, "exitCode": code } } });
        let mut oom = waiting("CrashLoopBackOff");
        json_patch::merge(&mut oom, &ended("lastState", "OOMKilled", 137));
        let mut crash = waiting("CrashLoopBackOff");
        json_patch::merge(&mut crash, &ended("lastState", "Error", 2));
        let shown: Vec<String> = [
            waiting("ContainerCreating"),
            waiting("ErrImagePull"),
            waiting("ImagePullBackOff"),
            waiting("InvalidImageName"),
            waiting("CreateContainerConfigError"),
            crash,
            oom,
            ended("state", "Error", 1),
            ended("state", "Completed", 0),
            ended("state", "OOMKilled", 137),
            json!({ "ready": true, "lastState": { "terminated": { "reason": "OOMKilled" } } }),
        ]
        .into_iter()
        .map(|mut status| {
            status["name"] = json!("web");
            let failure = pod_failure(
                &json!({ "status": { "phase": "Pending", "containerStatuses": [{ "name": "ok" }, status] } }),
            );
            failure.map_or("–".to_owned(), |failure| format!("{failure} terminal={}", failure.terminal))
        })
        .collect();
        insta::assert_snapshot!(shown.join("\n"), @r"
        –
        container web: ErrImagePull: m terminal=false
        container web: ImagePullBackOff: m terminal=true
        container web: InvalidImageName: m terminal=true
        container web: CreateContainerConfigError: m terminal=true
        container web: CrashLoopBackOff: m; exit code 2 terminal=true
        container web: OOMKilled: it used more memory than its limit allows (0 restarts); m terminal=true
        container web: Error: exit code 1 terminal=false
        –
        container web: OOMKilled: it used more memory than its limit allows (0 restarts) terminal=false
        –
        ");
    }

    #[test]
    fn logs_are_quoted_in_part() {
        let mut message = "x".to_owned();
        let log: String = (0..30).map(|n| format!("line {n}\u{1b}[0m\n\n")).collect();
        append_log(&mut message, &log);
        assert_eq!(message.lines().count(), 1 + LOG_LINES);
        assert!(message.ends_with("line 29[0m"));
        append_log(&mut message, "  \n");
        assert_eq!(message.lines().count(), 1 + LOG_LINES);
    }

    #[test]
    fn warnings_are_told_once_and_before_the_log() {
        let line = |second: i64, kind: &str, message: &str| EventLine {
            reason: "FailedMount".into(),
            message: message.into(),
            kind: kind.into(),
            last_seen: Timestamp::from_second(second).ok(),
            count: 1,
        };
        let lines = vec![
            line(4, "Warning", "secret \"web\"\nnot found"),
            line(1, "Warning", "oldest"),
            line(2, "Warning", "token=hunter2-is-secret"),
            line(3, "Warning", "secret \"web\" not found"),
            line(5, "Normal", "Pulled"),
            line(6, "Warning", "0/3 nodes"),
            line(0, "Warning", "older still"),
        ];
        let told = told(lines, "Unschedulable: 0/3 nodes");
        let message = with_warnings("Pod a/b, Error; its last words:\n  bye".into(), &told);
        insta::assert_snapshot!(message, @r#"
        Pod a/b, Error; events: FailedMount: oldest; FailedMount: token=‹redacted›; FailedMount: secret "web" not found; its last words:
          bye
        "#);
        assert_eq!(with_warnings("x".into(), &[]), "x");
    }

    #[test]
    fn pods_that_cannot_be_created_are_a_failure_too() {
        let workload = |message: &str| {
            json!({ "status": { "conditions": [
            { "type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": message }] } })
        };
        assert!(!replica_failure(&workload("exceeded quota: small")).unwrap().terminal);
        assert!(replica_failure(&workload("pods is forbidden: violates PodSecurity \"restricted\"")).unwrap().terminal);
        assert_eq!(replica_failure(&json!({ "status": { "conditions": [] } })), None);
    }
}
