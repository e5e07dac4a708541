//! Waiting until a promise holds: verification, waits, and the time of watching.

use super::condition::object_satisfies;
use super::effect::{EffectError, Effects, Subject, Watching, refused, timeout};
use super::journal::Observation;
use super::promql::promised_metric;
use crate::api::{ObjectRef, ResourceId, Step, StepStatus, Verify, VerifyKind, Wait, WaitUntil};
use crate::cluster::{ClusterError, Readiness, readiness, warnings, with_warnings, workload_failure};
use futures::stream::{self, BoxStream, FuturesUnordered};
use futures::{FutureExt, StreamExt};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// What a step that was carried out is given at least to get ready, however late it is.
const LAST_LOOK: Duration = Duration::from_secs(10);
/// What an object that is on its way when the time of watching ends is given to arrive: an autoscaler may just have begun.
const ARRIVAL: Duration = Duration::from_secs(30);

/// What is waited for.
enum Goal {
    Ready,
    Absent { uid: Option<String> },
    Condition(String),
    Expression(String),
}

/// Where the waiting stands after one look.
enum Look {
    There(String),
    NotYet(String),
    Never(String),
}

impl Effects {
    pub(super) async fn verify(&self, step: &Step, entry: &StepStatus) -> Observation {
        let id = step.id.clone();
        let failed = |message: String| Observation::VerifyFailed { step: id.clone(), message };
        let Verify { kind, expression } = Self::verification(step);
        let goal = match (kind, expression) {
            (VerifyKind::Ready, _) => Goal::Ready,
            (VerifyKind::Absent, _) => {
                Goal::Absent { uid: entry.before.as_ref().and_then(|before| before.uid.clone()) }
            }
            (VerifyKind::Expression, Some(expression)) => Goal::Expression(expression),
            (VerifyKind::Expression, None) => return failed("verify says Expression but has none".to_owned()),
            (VerifyKind::PromQL, _) => match Self::own_verification(step).kind {
                VerifyKind::Absent => Goal::Absent { uid: entry.before.as_ref().and_then(|before| before.uid.clone()) },
                _ => Goal::Ready,
            },
        };
        let subject = match self.patiently(step, || async { Ok(self.subject(step, entry.clone()).await?) }).await {
            Ok(subject) => subject,
            // The kind may go with the object: a deleted custom resource definition takes its kind along.
            Err(EffectError::Cluster(ClusterError::UnknownKind { .. })) if matches!(goal, Goal::Absent { .. }) => {
                return Observation::Verified { step: id, message: "gone".to_owned() };
            }
            Err(error) => return failed(error.to_string()),
        };
        let reached = self.reach(&subject, &goal, time_left(step, entry, self.cluster.now())).await;
        let reached = match (reached, promised_metric(step)) {
            // Metrics of what is not ready yet would say little.
            (Ok(_), Some(expression)) => {
                self.reach_metric(expression, time_left(step, entry, self.cluster.now())).await
            }
            (reached, _) => reached,
        };
        match reached {
            Ok(message) => Observation::Verified { step: id, message },
            Err(message) => failed(message),
        }
    }

    pub(super) async fn wait(&self, step: &Step) -> Observation {
        let Some(Wait { until, condition, expression, .. }) = step.operation.wait.clone() else {
            return refused(&step.id, "the step has no wait".to_owned());
        };
        let goal = match (until, condition, expression) {
            (WaitUntil::Ready, ..) => Goal::Ready,
            (WaitUntil::Absent, ..) => Goal::Absent { uid: None },
            (WaitUntil::Condition, Some(condition), _) => Goal::Condition(condition),
            (WaitUntil::Expression, _, Some(expression)) => Goal::Expression(expression),
            (WaitUntil::Condition, None, _) => {
                return refused(&step.id, "wait says until: Condition but names no condition".to_owned());
            }
            (WaitUntil::Expression, _, None) => {
                return refused(&step.id, "wait says until: Expression but has no expression".to_owned());
            }
        };
        let subject =
            match self.patiently(step, || async { Ok(self.subject(step, StepStatus::default()).await?) }).await {
                Ok(subject) => subject,
                Err(error) => return refused(&step.id, error.to_string()),
            };
        let begun = tokio::time::Instant::now();
        let reached = match (self.reach(&subject, &goal, timeout(step)).await, promised_metric(step)) {
            (Ok(_), Some(expression)) => {
                self.reach_metric(expression, timeout(step).saturating_sub(begun.elapsed()).max(LAST_LOOK)).await
            }
            (reached, _) => reached,
        };
        match reached {
            Ok(message) => Observation::Verified { step: step.id.clone(), message },
            Err(message) => refused(&step.id, message),
        }
    }

    /// Looks at the object until the goal is reached, cannot be reached any more, or the time is over.
    async fn reach(&self, subject: &Subject<'_>, goal: &Goal, within: Duration) -> Result<String, String> {
        let mut last = "nothing was seen".to_owned();
        let watched = async {
            let mut looks = self.looks(subject).await;
            while let Some(seen) = looks.next().await {
                let live = seen.map_err(|error| error.to_string())?;
                match self.look(subject, goal, live.as_ref().as_ref()).await {
                    Look::There(message) => return Ok(message),
                    Look::NotYet(message) => last = message,
                    Look::Never(message) => return Err(message),
                }
            }
            Err(format!("watching {} ended", subject.target))
        };
        match tokio::time::timeout(within, watched).await {
            Ok(Ok(message)) => Ok(message),
            Ok(Err(message)) => Err(self.with_warnings(subject, message).await),
            Err(_) => {
                let message = format!("not reached within {}: {last}", spoken(within));
                Err(self.with_warnings(subject, message).await)
            }
        }
    }

    /// The message with what the cluster's events say beyond it. They are asked for only when something went wrong.
    async fn with_warnings(&self, subject: &Subject<'_>, message: String) -> String {
        let Ok(Some(live)) = self.access.get(&subject.kind, &subject.target).await else { return message };
        let since = subject.entry.started_at.as_ref().map(|time| time.0);
        let events = warnings(&self.access, &subject.catalog, &live, since, &message).await;
        with_warnings(message, &events)
    }

    /// The object, `None` where there is none, whenever it is time to look at it: at first, and after every change of it or
    /// of its pods. What happens while somebody looks gives one more look, not many. Errors that pass give none.
    async fn looks(&self, subject: &Subject<'_>) -> BoxStream<'static, Result<Arc<Option<Value>>, ClusterError>> {
        let objects = self.access.watch(&subject.kind, &subject.target).await;
        let pods = self.access.watch_pods(&subject.catalog, &subject.target).await;
        let pods = pods.chain(stream::pending()).boxed().fuse();
        stream::unfold((objects, pods, None), |(mut objects, mut pods, mut live)| async move {
            loop {
                tokio::select! {
                    seen = objects.next() => match seen? {
                        Ok(object) => live = Some(Arc::new(object)),
                        Err(error) if error.is_transient() => continue,
                        Err(error) => return Some((Err(error), (objects, pods, live))),
                    },
                    _ = pods.next() => {}
                }
                while pods.next().now_or_never().flatten().is_some() {}
                // Pods may be heard of before the object itself is: then it is not known yet whether there is one.
                if let Some(known) = &live {
                    return Some((Ok(Arc::clone(known)), (objects, pods, live)));
                }
            }
        })
        .boxed()
    }

    async fn look(&self, subject: &Subject<'_>, goal: &Goal, live: Option<&Value>) -> Look {
        match goal {
            Goal::Absent { uid } => match live {
                None => Look::There(format!("{} is gone", subject.target)),
                Some(live) if uid.is_some() && *uid != ResourceId::of(live).uid => {
                    Look::There(format!("{} is gone; another of that name exists", subject.target))
                }
                Some(_) => Look::NotYet(format!("{} is still being deleted", subject.target)),
            },
            Goal::Ready => self.look_ready(subject, live).await,
            Goal::Condition(wanted) => {
                let conditions = live.and_then(|live| live.pointer("/status/conditions")).and_then(Value::as_array);
                let found =
                    conditions.into_iter().flatten().find(|c| c.get("type").and_then(Value::as_str) == Some(wanted));
                match found.and_then(|condition| condition.get("status")).and_then(Value::as_str) {
                    Some("True") => Look::There(format!("{} is {wanted}", subject.target)),
                    Some(status) => self.look_hopeful(subject, live, format!("condition {wanted} is {status}")).await,
                    None => {
                        let missing = format!("{} has no condition {wanted}", subject.target);
                        self.look_hopeful(subject, live, missing).await
                    }
                }
            }
            Goal::Expression(expression) => match live.map(|live| object_satisfies(expression, live)) {
                Some(Ok(true)) => Look::There(format!("{expression} holds")),
                Some(Ok(false)) => self.look_hopeful(subject, live, format!("{expression} does not hold")).await,
                Some(Err(error)) => self.look_hopeful(subject, live, error.to_string()).await,
                None => Look::NotYet(format!("{} does not exist", subject.target)),
            },
        }
    }

    /// What is missing, and whether it may still come: an object that has failed, by its own status or its pods', will
    /// hardly do what is waited for.
    async fn look_hopeful(&self, subject: &Subject<'_>, live: Option<&Value>, missing: String) -> Look {
        match readiness(live) {
            Readiness::Failed(_) | Readiness::InProgress(_) => match self.look_ready(subject, live).await {
                Look::Never(why) => Look::Never(format!("{missing}: {why}")),
                _ => Look::NotYet(missing),
            },
            _ => Look::NotYet(missing),
        }
    }

    async fn look_ready(&self, subject: &Subject<'_>, live: Option<&Value>) -> Look {
        match readiness(live) {
            Readiness::Current => Look::There(format!("{} is ready", subject.target)),
            Readiness::Absent => Look::Never(format!("{} is gone", subject.target)),
            Readiness::Terminating(message) => Look::Never(format!("{} is being deleted: {message}", subject.target)),
            Readiness::Failed(message) => {
                let why = self.why(subject, live).await.map(|(_, why)| format!(". {why}")).unwrap_or_default();
                Look::Never(format!("{message}{why}"))
            }
            Readiness::InProgress(message) => match self.why(subject, live).await {
                Some((true, why)) => Look::Never(why),
                Some((false, why)) => Look::NotYet(format!("{message}. {why}")),
                None => Look::NotYet(message),
            },
        }
    }

    /// The pods' own reason why a workload does not become ready, and whether it never will.
    async fn why(&self, subject: &Subject<'_>, live: Option<&Value>) -> Option<(bool, String)> {
        let failure = workload_failure(&self.access, &subject.catalog, live?).await.ok().flatten()?;
        Some((failure.terminal, format!("{}: {}", failure.reason, failure.message)))
    }

    /// Watches what the plan changed until the time is over, or something degrades.
    pub(super) async fn observe(&self, steps: &[Step], entries: &[StepStatus]) -> Observation {
        let Some(Watching { window, since, rolls_back }) = self.watching else {
            return Observation::Observed { degraded: None, rolls_back: false };
        };
        let gone = since.map_or(Duration::ZERO, |since| {
            Duration::try_from(self.cluster.now().duration_since(since)).unwrap_or(Duration::ZERO)
        });
        let watched = watched(steps, entries);
        let metrics: Vec<&str> = landed(steps, entries).filter_map(promised_metric).collect();
        let mut watches = FuturesUnordered::new();
        watches.extend(watched.iter().map(|step| self.degradation(step).boxed()));
        watches.extend(metrics.iter().map(|expression| self.metric_degradation(expression).map(Some).boxed()));
        let degraded = async {
            while let Some(found) = watches.next().await {
                if found.is_some() {
                    return found;
                }
            }
            std::future::pending().await
        };
        let mut degraded = tokio::time::timeout(window.saturating_sub(gone), degraded).await.ok().flatten();
        if degraded.is_none() {
            let mut ends = FuturesUnordered::new();
            ends.extend(watched.iter().map(|step| self.lost(step, &watched).boxed()));
            ends.extend(metrics.iter().map(|expression| self.metric_degraded(expression).boxed()));
            while let Some(found) = ends.next().await {
                degraded = degraded.or(found);
            }
        }
        Observation::Observed { degraded, rolls_back }
    }

    /// What is missing of the step's promise at the end of the time of watching: also what happened while the operator was
    /// away. That nobody can tell is no degradation.
    async fn lost(&self, step: &Step, watched: &[&Step]) -> Option<String> {
        let goal = match Self::verification(step) {
            Verify { kind: VerifyKind::Ready | VerifyKind::PromQL, .. } => Goal::Ready,
            // Another step may have meant to change it.
            Verify { kind: VerifyKind::Expression, expression: Some(expression) } if alone(step, watched) => {
                Goal::Expression(expression)
            }
            _ => return None,
        };
        let subject = self.subject(step, StepStatus::default()).await.ok()?;
        let mut missing = None;
        let looked = async {
            let mut looks = self.looks(&subject).await;
            while let Some(Ok(live)) = looks.next().await {
                match self.look(&subject, &goal, live.as_ref().as_ref()).await {
                    Look::There(_) => return None,
                    Look::NotYet(message) => missing = Some(message),
                    Look::Never(message) => return Some(message),
                }
            }
            None
        };
        let found = match tokio::time::timeout(ARRIVAL, looked).await {
            Ok(found) => found,
            Err(_) => missing,
        };
        Some(self.degraded(&subject, found?).await)
    }

    async fn degraded(&self, subject: &Subject<'_>, message: String) -> String {
        self.with_warnings(subject, format!("{} degraded: {message}", subject.target)).await
    }

    /// Resolves when the object of the step degrades.
    async fn degradation(&self, step: &Step) -> Option<String> {
        let subject =
            match self.patiently(step, || async { Ok(self.subject(step, StepStatus::default()).await?) }).await {
                Ok(subject) => subject,
                Err(error) => {
                    tracing::warn!(step = step.id, %error, "cannot be watched");
                    return None;
                }
            };
        let mut looks = self.looks(&subject).await;
        while let Some(seen) = looks.next().await {
            let live = match seen {
                Ok(live) => live,
                Err(error) => {
                    tracing::warn!(step = step.id, %error, "cannot be watched any more");
                    return None;
                }
            };
            if live.is_none() {
                return Some(format!("{} degraded: it is gone", subject.target));
            }
            if let Look::Never(message) = self.look_ready(&subject, live.as_ref().as_ref()).await {
                return Some(self.degraded(&subject, message).await);
            }
        }
        None
    }
}

/// The steps that were carried out.
fn landed<'s>(steps: &'s [Step], entries: &[StepStatus]) -> impl Iterator<Item = &'s Step> {
    steps.iter().filter(|step| entries.iter().any(|entry| entry.id == step.id && entry.landed()))
}

/// The steps whose objects are to stay well: those that were carried out, unless another step deleted the object after.
fn watched<'s>(steps: &'s [Step], entries: &[StepStatus]) -> Vec<&'s Step> {
    let deleted: Vec<_> = landed(steps, entries).filter(|step| step.operation.delete.is_some()).map(target).collect();
    let changes = |step: &&Step| step.operation.apply.is_some() || step.operation.patch.is_some();
    landed(steps, entries).filter(changes).filter(|step| !deleted.contains(&target(step))).collect()
}

/// Whether no other of the steps changes the same object.
fn alone(step: &Step, others: &[&Step]) -> bool {
    others.iter().all(|other| other.id == step.id || target(other) != target(step))
}

fn target(step: &Step) -> Option<ObjectRef> {
    step.operation.target().ok().flatten()
}

/// What is left of the step's time, which began with its preparation: also after a crash.
fn time_left(step: &Step, entry: &StepStatus, now: jiff::Timestamp) -> Duration {
    let begun = entry.started_at.as_ref().map_or(now, |time| time.0);
    let gone = Duration::try_from(now.duration_since(begun)).unwrap_or_default();
    timeout(step).saturating_sub(gone).max(LAST_LOOK.min(timeout(step)))
}

/// `90s` as `1m30s`.
pub(super) fn spoken(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 60, seconds % 60) {
        (0, seconds) => format!("{seconds}s"),
        (minutes, 0) => format!("{minutes}m"),
        (minutes, seconds) => format!("{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Operation, PatchType};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use serde_json::json;

    #[test]
    fn the_time_of_a_step_begins_with_its_preparation() {
        let step = |seconds: u64| Step { timeout: Some(Duration::from_secs(seconds).into()), ..Step::default() };
        let at = |second: i64| k8s_openapi::jiff::Timestamp::from_second(second).unwrap();
        let begun = StepStatus { started_at: Some(Time(at(1000))), ..StepStatus::default() };
        let left = |timeout: u64, now: i64| time_left(&step(timeout), &begun, at(now)).as_secs();
        assert_eq!(left(300, 1000), 300);
        assert_eq!(left(300, 1100), 200);
        assert_eq!(left(300, 5000), 10, "one more look, however late");
        assert_eq!(left(3, 5000), 3);
        assert_eq!(left(300, 900), 300, "a clock that was set back");
        assert_eq!(time_left(&step(300), &StepStatus::default(), at(0)).as_secs(), 300);
    }

    #[test]
    fn only_what_was_carried_out_and_still_is_to_be_there_is_watched() {
        let target = |name: &str| ObjectRef {
            api_version: "v1".into(),
            kind: "ConfigMap".into(),
            namespace: Some("shop".into()),
            name: name.into(),
        };
        let step = |id: &str, operation: Operation| Step { id: id.into(), operation, ..Step::default() };
        let patch = |name: &str| Operation::patch(target(name), None, PatchType::Merge, json!({}));
        let steps = [
            step("stays", patch("a")),
            step("left-out", patch("b")),
            step("goes", patch("c")),
            step("deletes", Operation::delete(target("c"))),
        ];
        let entry = |id: &str| StepStatus {
            id: id.into(),
            applied_at: Some(Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH)),
            ..StepStatus::default()
        };
        let skipped = StepStatus { id: "left-out".into(), ..StepStatus::default() };
        let entries = [entry("stays"), skipped, entry("goes"), entry("deletes")];
        let watched = watched(&steps, &entries);
        let ids: Vec<_> = watched.iter().map(|step| step.id.as_str()).collect();
        assert_eq!(ids, ["stays"]);
        assert!(alone(&steps[0], &watched));
        let again = step("again", patch("a"));
        assert!(!alone(&steps[0], &[watched, vec![&again]].concat()));
    }
}
