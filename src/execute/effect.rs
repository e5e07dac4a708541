use super::condition::{check_syntax, when_holds};
use super::evidence::{Doubt, Found, GONE_UNKNOWN, difference, moved, moved_since};
use super::fence::Fence;
use super::journal::{Action, Observation, is_done_once_stored};
use super::snapshot::{Snapshot, SnapshotError, SnapshotStore};
use super::writers::Writers;
use crate::api::{
    FieldChange, MAX_STEP_MESSAGE, ObjectRef, Operation, OperationKind, Patch, ResourceId, Step, StepStatus, Verify,
    VerifyKind, shortened,
};
use crate::cluster::{
    Access, Catalog, Cluster, ClusterError, Prometheus, Readiness, ResourceKind, WriteOptions, diff, readiness, redact,
    redact_text,
};
use crate::plan::{PlanError, Reassessment, Sees};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a mutation is tried when the step does not say: once and three times again.
const DEFAULT_ATTEMPTS: u32 = 4;
/// How long a step may take when it does not say.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);
/// How often a write that lost a race against an unrelated writer is repeated.
const MAX_CONFLICTS: u32 = 20;

/// Does what the state machine says, on the cluster, as the plan's service account.
#[derive(Clone)]
pub struct Effects {
    pub(super) cluster: Cluster,
    pub(super) access: Access,
    pub(super) snapshots: SnapshotStore,
    pub(super) plan_uid: Arc<str>,
    pub(super) watching: Option<Watching>,
    pub(super) fence: Fence,
    pub(super) writers: Writers,
    trusts_diffs: bool,
    /// What the steps would have done when the plan was judged, a moment ago.
    judged: Option<Arc<Reassessment>>,
    /// Where metrics are asked for, if anywhere.
    pub(super) prometheus: Option<Prometheus>,
}

/// The time of watching after the last step.
#[derive(Clone, Copy, Debug)]
pub struct Watching {
    /// How long.
    pub window: Duration,
    /// When it began, if it did before this process took the plan up.
    pub since: Option<jiff::Timestamp>,
    /// Whether everything is put back when something degrades.
    pub rolls_back: bool,
}

/// An effect that could not come to any observation.
#[derive(Debug, thiserror::Error)]
pub enum EffectError {
    /// The cluster could not be asked.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// A snapshot could not be stored or read.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
}

impl EffectError {
    /// Whether trying again may help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Cluster(error) => error.is_transient(),
            Self::Snapshot(error) => error.is_transient(),
        }
    }

    /// How long the server wants to be left alone, if it says so.
    pub(super) const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Cluster(error) => error.retry_after(),
            Self::Snapshot(_) => None,
        }
    }

    /// Whether a write that was answered like this may have landed all the same: the answer was lost, or is none of the
    /// API server's refusals.
    const fn leaves_open(&self) -> bool {
        matches!(self, Self::Cluster(ClusterError::Transient { .. } | ClusterError::Other { .. }))
    }
}

/// Everything about one step that an effect needs.
pub(super) struct Subject<'a> {
    pub step: &'a Step,
    pub entry: StepStatus,
    pub target: ObjectRef,
    pub kind: ResourceKind,
    pub catalog: Arc<Catalog>,
}

impl Subject<'_> {
    pub fn subresource(&self) -> Option<&str> {
        self.step.operation.patch.as_ref().and_then(|patch| patch.subresource.as_deref())
    }
}

impl Effects {
    /// The effects of one plan, carried out by `access`.
    #[must_use]
    pub fn new(
        cluster: Cluster,
        access: Access,
        snapshots: SnapshotStore,
        plan_uid: String,
        watching: Option<Watching>,
        fence: Fence,
        trusts_diffs: bool,
    ) -> Self {
        let plan_uid = plan_uid.into();
        let (writers, judged, prometheus) = (Writers::default(), None, None);
        Self { cluster, access, snapshots, plan_uid, watching, fence, writers, trusts_diffs, judged, prometheus }
    }

    /// The same effects, held to what the steps would have done when the plan was judged.
    #[must_use]
    pub fn knowing(self, judged: Option<Arc<Reassessment>>) -> Self {
        Self { judged, ..self }
    }

    /// The same effects, beside those of other plans that write under the same name.
    #[must_use]
    pub fn beside(self, writers: Writers) -> Self {
        Self { writers, ..self }
    }

    /// The same effects, with a Prometheus to ask about the metrics that steps promise.
    #[must_use]
    pub fn asking(self, prometheus: Option<Prometheus>) -> Self {
        Self { prometheus, ..self }
    }

    /// Carries out one action and reports what it found. Whatever goes wrong becomes an observation: errors that pass
    /// are tried again until the step's attempts are used up.
    pub async fn perform(&self, action: &Action, steps: &[Step], entries: &[StepStatus]) -> Observation {
        let mut observation = self.carry_out(action, steps, entries).await;
        if let Some(message) = observation.message_mut() {
            *message = told(message);
        }
        observation
    }

    async fn carry_out(&self, action: &Action, steps: &[Step], entries: &[StepStatus]) -> Observation {
        if *action == Action::Observe {
            return self.observe(steps, entries).await;
        }
        let Some(step) = steps.iter().find(|step| step.id == action.step()) else {
            return refused(action.step(), "the plan has no such step".to_owned());
        };
        let entry = entries.iter().find(|entry| entry.id == step.id).cloned().unwrap_or_default();
        match action {
            Action::Prepare(_) => {
                let prepared = self.patiently(step, || self.prepare(step, steps, entries)).await;
                prepared.unwrap_or_else(|error| refused(&step.id, error.to_string()))
            }
            Action::Mutate { recovering, .. } => self.mutate(step, &entry, *recovering).await,
            Action::Settle(_) => self.settle(step, &entry, 0, None).await,
            Action::Verify(_) => self.verify(step, &entry).await,
            Action::BeginUndo(_) => Observation::UndoBegun { step: step.id.clone() },
            Action::Undo(_) => self.undo(step, &entry).await,
            Action::Observe => self.observe(steps, entries).await,
        }
    }

    /// Tries an effect that changes nothing at the target again while its errors pass.
    pub(super) async fn patiently<T, F>(&self, step: &Step, effect: impl Fn() -> F) -> Result<T, EffectError>
    where
        F: Future<Output = Result<T, EffectError>>,
    {
        let mut backoff = Backoff::new(step);
        loop {
            match effect().await {
                Err(error) if error.is_transient() && backoff.again() => backoff.wait(error.retry_after()).await,
                done => return done,
            }
        }
    }

    async fn prepare(&self, step: &Step, steps: &[Step], entries: &[StepStatus]) -> Result<Observation, EffectError> {
        let id = step.id.clone();
        if let Some(expression) = &step.when {
            let objects = self.results(step, steps).await?;
            match when_holds(expression, entries, &objects) {
                Ok(true) => {}
                Ok(false) => {
                    return Ok(Observation::Skipped {
                        step: id,
                        message: format!("its condition does not hold: {expression}"),
                    });
                }
                Err(error) => return Ok(refused(&id, error.to_string())),
            }
        }
        let kind = match step.operation.kind() {
            Ok(kind) => kind,
            Err(error) => return Ok(refused(&id, error.to_string())),
        };
        // What cannot be checked afterwards is not begun.
        if let Err(reason) = checkable(step) {
            return Ok(refused(&id, reason));
        }
        match kind {
            OperationKind::Wait => return Ok(self.wait(step).await),
            OperationKind::Query => return self.read(step).await,
            _ => {}
        }
        let subject = self.subject(step, StepStatus::default()).await?;
        let live = self.live(&subject).await?;
        if let Some(moved) = moved(step, live.as_ref()) {
            return Ok(Observation::Refused { step: id, message: moved, drifted: true });
        }
        if live.is_none() && matches!(kind, OperationKind::Delete | OperationKind::Evict) {
            return Ok(Observation::Skipped { step: id, message: format!("{} is gone already", subject.target) });
        }
        let trial = self.judged.as_ref().and_then(|judged| judged.trials.get(&step.id));
        let before = live.as_ref().map(ResourceId::of);
        let version = before.as_ref().and_then(|before| before.resource_version.clone());
        let changes = match trial {
            // It was tried on this very object.
            Some(trial) if trial.version == version => trial.changes.clone(),
            _ => self.changes(&subject, kind, live.as_ref()).await?,
        };
        if let Some(judged) = trial.filter(|trial| trial.changes != changes) {
            let (judged, now) =
                [&judged.changes, &changes].map(|changes| redact(&subject.target, changes.clone())).into();
            let what = difference(&judged, &now).unwrap_or_else(|| "values that are not shown".to_owned());
            let message = format!("{} moved since the plan was judged: {what}", subject.target);
            return Ok(Observation::Refused { step: id, message, drifted: true });
        }
        let shows_changes = !step.diff.is_empty() && step.known_after.is_empty() && kind != OperationKind::Delete;
        if !self.trusts_diffs && shows_changes {
            let shown = redact(&subject.target, changes.clone());
            if let Some(difference) = difference(&step.diff, &shown) {
                return Ok(refused(&id, format!("the plan does not say what the step would do: {difference}")));
            }
        }
        if changes.is_empty() {
            return Ok(Observation::Skipped { step: id, message: format!("{} already is as wanted", subject.target) });
        }
        let snapshot = Snapshot { before: live, changes };
        // Another replica may have taken the plan up, and its snapshot is the one that counts.
        self.fence.pass().await;
        let name = match self.snapshots.store(&self.plan_uid, &step.id, &snapshot).await {
            Err(error @ SnapshotError::TooLarge { .. }) => return Ok(refused(&id, error.to_string())),
            other => other?,
        };
        Ok(Observation::Prepared { step: id, snapshot: Some(name), before })
    }

    /// What the step changes, nothing redacted: the plan's own diff where it says everything, a fresh dry run where it
    /// could not (made after an earlier step, secret values, plans written by hand).
    async fn changes(
        &self,
        subject: &Subject<'_>,
        kind: OperationKind,
        live: Option<&Value>,
    ) -> Result<Vec<FieldChange>, EffectError> {
        if matches!(kind, OperationKind::Delete | OperationKind::Evict) {
            return Ok(diff(live, None));
        }
        let step = subject.step;
        let complete = self.trusts_diffs
            && !step.diff.is_empty()
            && step.known_after.is_empty()
            && !step.diff.iter().any(|c| c.redacted);
        if complete {
            return Ok(step.diff.clone());
        }
        let options = WriteOptions { dry_run: true, ..WriteOptions::default() };
        let after = self.access.perform(&subject.catalog, &step.operation, &options).await?;
        Ok(diff(live, Some(&after)))
    }

    async fn mutate(&self, step: &Step, entry: &StepStatus, recovering: bool) -> Observation {
        let id = step.id.clone();
        let mut backoff = Backoff::new(step);
        let mut attempt = Attempt {
            look_first: recovering || leaves_no_trace(step),
            doubt: if recovering { Doubt::Open } else { Doubt::None },
            version: entry.before.as_ref().and_then(|before| before.resource_version.clone()),
            count: 0,
        };
        let mut conflicts = 0;
        let failure = loop {
            let (sent, looked) = (attempt.count, attempt.look_first);
            let tried = self.try_mutation(step, entry, &mut attempt).await;
            let attempts = attempt.count;
            match tried {
                Ok(Tried::Landed(result)) => return landed_as(step, result, attempts),
                Ok(Tried::Stored(object, result)) => return stored_as(step, &object, result, attempts),
                Ok(Tried::Unsettled(message)) => return Observation::Unsettled { step: id, message, attempts },
                Ok(Tried::Moved(message)) => {
                    return Observation::MutationFailed { step: id, message, attempts, drifted: true };
                }
                Ok(Tried::Needless(message)) => return Observation::Skipped { step: id, message },
                Err(error) => {
                    // Once an answer was lost, a later refusal may be due to that very try: it may have landed late.
                    if attempts > sent && error.leaves_open() {
                        attempt.doubt = Doubt::Open;
                    }
                    match error {
                        EffectError::Cluster(error) if moved_under_us(&error, entry) && conflicts < MAX_CONFLICTS => {
                            conflicts += 1;
                            attempt.look_first = true;
                            // Long after the last look it was more likely somebody else.
                            if looked && attempts > sent {
                                attempt.doubt = attempt.doubt.max(Doubt::Refused);
                            }
                        }
                        error if error.is_transient() && backoff.again() => {
                            attempt.look_first = true;
                            backoff.wait(error.retry_after()).await;
                        }
                        error => break error.to_string(),
                    }
                }
            }
        };
        if attempt.doubt == Doubt::Open {
            return self.settle(step, entry, attempt.count, Some(failure)).await;
        }
        Observation::MutationFailed { step: id, message: failure, attempts: attempt.count, drifted: false }
    }

    async fn try_mutation(&self, step: &Step, entry: &StepStatus, attempt: &mut Attempt) -> Result<Tried, EffectError> {
        let subject = self.subject(step, entry.clone()).await?;
        // What goes is told by its identity: a status that keeps moving must not keep it from going.
        let goes = step.operation.removes();
        if attempt.look_first {
            let live = self.live(&subject).await?;
            // What goes is told by its identity alone.
            let changes = if goes { Vec::new() } else { self.snapshot_of(entry).await?.changes };
            match self.find(&subject, &changes, live.as_ref(), attempt.doubt).await? {
                Found::Landed(result) => return Ok(Tried::Landed(result)),
                Found::InPart(message) => return Ok(Tried::Unsettled(message)),
                Found::Nothing if goes && live.is_none() => {
                    return Ok(Tried::Needless(format!("somebody else deleted {} meanwhile", subject.target)));
                }
                Found::Nothing => {}
            }
            if let Some(moved) = moved_since(&subject, &changes, live.as_ref()) {
                return Ok(Tried::Moved(moved));
            }
            attempt.version = live.as_ref().and_then(|live| ResourceId::of(live).resource_version);
            attempt.look_first = false;
        }
        attempt.count += 1;
        let options = WriteOptions {
            dry_run: false,
            uid: entry.before.as_ref().and_then(|before| before.uid.clone()),
            resource_version: attempt.version.clone().filter(|_| !goes),
            absent: entry.before.is_none() && step.operation.apply.is_some(),
        };
        let object = self.write(&subject, &step.operation, &options).await?;
        let result = ResourceId::of(&object);
        // A deletion answers with a Status that has no identity of its own.
        let result = if result.uid.is_some() { result } else { entry.before.clone().unwrap_or_default() };
        Ok(Tried::Stored(object, result))
    }

    /// Whether a mutation that was under way landed, without carrying it out. If it did not, it failed for `reason`, or, with
    /// none, has not begun.
    async fn settle(&self, step: &Step, entry: &StepStatus, attempts: u32, reason: Option<String>) -> Observation {
        let id = step.id.clone();
        let looked = self.patiently(step, || async {
            let subject = self.subject(step, entry.clone()).await?;
            let live = self.live(&subject).await?;
            let changes = self.snapshot_of(entry).await?.changes;
            self.find(&subject, &changes, live.as_ref(), Doubt::Open).await
        });
        match looked.await {
            Ok(Found::Landed(result)) => landed_as(step, result, attempts),
            Ok(Found::Nothing) => match reason {
                Some(message) => Observation::MutationFailed { step: id, message, attempts, drifted: false },
                None => Observation::Released { step: id },
            },
            Ok(Found::InPart(message)) => Observation::Unsettled { step: id, message, attempts },
            Err(error) => {
                let reason = reason.unwrap_or_else(|| "the operator stopped in the middle of it".to_owned());
                let message = format!("{reason}; whether it was carried out cannot be found out: {error}");
                Observation::Unsettled { step: id, message, attempts }
            }
        }
    }

    /// Every write to a target goes this way.
    pub(super) async fn write(
        &self,
        subject: &Subject<'_>,
        operation: &Operation,
        options: &WriteOptions,
    ) -> Result<Value, ClusterError> {
        self.fence.pass().await;
        self.writers.note(&subject.target, &self.plan_uid);
        self.access.perform(&subject.catalog, operation, options).await
    }

    pub(super) async fn snapshot_of(&self, entry: &StepStatus) -> Result<Snapshot, EffectError> {
        match &entry.snapshot {
            Some(name) => Ok(self.snapshots.load(name).await?),
            None => Ok(Snapshot::default()),
        }
    }

    pub(super) async fn subject<'s>(&self, step: &'s Step, entry: StepStatus) -> Result<Subject<'s>, ClusterError> {
        let target = step.operation.target().ok().flatten().unwrap_or_default();
        let mut catalog = self.cluster.catalog().await?;
        if catalog.of(&target).is_none() {
            catalog = self.cluster.refresh_catalog().await?;
        }
        let kind = catalog.require(&target)?.clone();
        Ok(Subject { step, entry, target, kind, catalog })
    }

    pub(super) async fn live(&self, subject: &Subject<'_>) -> Result<Option<Value>, ClusterError> {
        self.access.get_subresource(&subject.kind, &subject.target, subject.subresource()).await
    }

    /// The live objects of the steps that `step` depends on, for its `when`.
    async fn results(&self, step: &Step, steps: &[Step]) -> Result<BTreeMap<String, Value>, EffectError> {
        let mut objects = BTreeMap::new();
        for earlier in steps.iter().filter(|earlier| step.depends_on.contains(&earlier.id)) {
            if !matches!(earlier.operation.target(), Ok(Some(_))) {
                continue;
            }
            let subject = self.subject(earlier, StepStatus::default()).await?;
            if let Some(object) = self.access.get(&subject.kind, &subject.target).await? {
                objects.insert(earlier.id.clone(), object);
            }
        }
        Ok(objects)
    }

    async fn read(&self, step: &Step) -> Result<Observation, EffectError> {
        let id = step.id.clone();
        let Some(query) = &step.operation.query else { return Ok(refused(&id, "the step has no query".to_owned())) };
        let catalog = self.cluster.catalog().await?;
        let table = crate::plan::answer(&self.access, &catalog, query, Sees::default()).await;
        Ok(match table {
            Ok(table) => Observation::Verified { step: id, message: table.text },
            Err(PlanError::Cluster(error)) => return Err(error.into()),
            Err(error) => refused(&id, error.to_string()),
        })
    }

    pub(super) fn verification(step: &Step) -> Verify {
        step.verify.clone().unwrap_or_else(|| Self::own_verification(step))
    }

    /// What is waited for where a step does not say.
    pub(super) fn own_verification(step: &Step) -> Verify {
        Verify { kind: if step.operation.removes() { VerifyKind::Absent } else { VerifyKind::Ready }, expression: None }
    }
}

/// Where the tries of one mutation stand.
struct Attempt {
    look_first: bool,
    doubt: Doubt,
    version: Option<String>,
    count: u32,
}

enum Tried {
    /// The server said so: the object as it is stored, and its identity.
    Stored(Value, ResourceId),
    /// It was found to have landed before.
    Landed(ResourceId),
    /// It landed, and somebody changed part of it since.
    Unsettled(String),
    /// It has not landed, and somebody changed what it was to change.
    Moved(String),
    /// It has not landed, and somebody else did the same.
    Needless(String),
}

/// Whether the object is looked at right before the mutation is sent, because afterwards nothing tells whose doing it is: the
/// shorter the time between, the less likely it was somebody else.
fn leaves_no_trace(step: &Step) -> bool {
    step.operation.delete.is_some() || step.operation.patch.as_ref().is_some_and(Patch::only_removes)
}

/// Whether the object is not what it was taken for, so that it has to be looked at before anything else is tried.
fn moved_under_us(error: &ClusterError, entry: &StepStatus) -> bool {
    let is_taken = matches!(error, ClusterError::AlreadyExists { .. });
    error.is_conflict() || (is_taken && entry.before.is_none()) || (error.is_not_found() && entry.before.is_some())
}

fn landed_as(step: &Step, result: ResourceId, attempts: u32) -> Observation {
    let note = (step.operation.removes() && result.uid.is_none()).then(|| GONE_UNKNOWN.to_owned());
    Observation::Mutated { step: step.id.clone(), result, attempts, note, verified: None }
}

/// With the server's own answer, which for some kinds says all that there is to verify.
fn stored_as(step: &Step, object: &Value, result: ResourceId, attempts: u32) -> Observation {
    let mut observation = landed_as(step, result, attempts);
    if let Observation::Mutated { verified, .. } = &mut observation
        && is_done_once_stored(step)
        && readiness(Some(object)) == Readiness::Current
    {
        *verified = step.operation.target().ok().flatten().map(|target| format!("{target} is ready"));
    }
    observation
}

pub(super) fn refused(step: &str, message: String) -> Observation {
    Observation::Refused { step: step.to_owned(), message, drifted: false }
}

/// Why nobody could tell whether the step got where it promised.
fn checkable(step: &Step) -> Result<(), String> {
    let waits = step.operation.wait.as_ref().and_then(|wait| wait.expression.as_deref());
    let verify = step.verify.as_ref().filter(|verify| verify.kind == VerifyKind::Expression);
    let promised = verify.and_then(|verify| verify.expression.as_deref());
    for expression in waits.into_iter().chain(promised) {
        check_syntax(expression).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// A message fit for status, events and logs: without what looks like a credential, and of bounded length, because all of
/// a plan's messages share one object with it.
fn told(message: &str) -> String {
    shortened(&redact_text(message), MAX_STEP_MESSAGE).into_owned()
}

pub(super) fn timeout(step: &Step) -> Duration {
    step.timeout.map_or(DEFAULT_TIMEOUT, std::time::Duration::from)
}

/// Exponential backoff with full jitter: 0.5 s, 1 s, 2 s … up to 30 s, each time a random part of it. It ends with the tries
/// of the step, or with its time.
pub(super) struct Backoff {
    left: u32,
    ceiling: Duration,
    until: Instant,
}

impl Backoff {
    pub fn new(step: &Step) -> Self {
        let attempts = step.retry.as_ref().map_or(DEFAULT_ATTEMPTS, |retry| retry.attempts);
        let ceiling = Duration::from_millis(500);
        Self { left: attempts.saturating_sub(1), ceiling, until: Instant::now() + timeout(step) }
    }

    /// Whether another try is left; takes it.
    pub fn again(&mut self) -> bool {
        let again = self.left > 0 && Instant::now() < self.until;
        self.left = self.left.saturating_sub(1);
        again
    }

    /// Waits as long as the server asked, or for a random part of the ceiling; never beyond the step's time.
    pub async fn wait(&mut self, server: Option<Duration>) {
        let pause = self.pause(server, rand::random());
        tokio::time::sleep(pause).await;
    }

    fn pause(&mut self, server: Option<Duration>, chance: f64) -> Duration {
        let pause = server.unwrap_or_else(|| self.ceiling.mul_f64(chance));
        self.ceiling = (self.ceiling * 2).min(Duration::from_secs(30));
        pause.min(self.until.saturating_duration_since(Instant::now()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{step, target};
    use super::*;
    use crate::api::Retry;

    #[test]
    fn what_cannot_be_checked_afterwards_is_not_begun() {
        let verified = |kind: VerifyKind, expression: &str| Step {
            verify: Some(Verify { kind, expression: Some(expression.into()) }),
            ..step(Operation::delete(target()))
        };
        assert_eq!(checkable(&verified(VerifyKind::Expression, "object.status.ready == true")), Ok(()));
        assert!(checkable(&verified(VerifyKind::Expression, "object.status.")).is_err());
        assert_eq!(checkable(&verified(VerifyKind::PromQL, "sum by (job) (up)")), Ok(()), "not CEL");
    }

    #[test]
    fn pauses_grow_and_end_with_the_tries_or_the_time_of_the_step() {
        let step = |attempts: u32, timeout: u64| Step {
            retry: Some(Retry { attempts }),
            timeout: Some(Duration::from_secs(timeout).into()),
            ..Step::default()
        };
        let mut tries = Backoff::new(&step(3, 600));
        assert_eq!([tries.again(), tries.again(), tries.again()], [true, true, false]);
        let pauses: Vec<u128> = (0..8).map(|_| tries.pause(None, 1.0).as_millis()).collect();
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000]);
        assert_eq!(tries.pause(None, 0.1), Duration::from_secs(3), "a part of the ceiling");
        assert_eq!(tries.pause(Some(Duration::from_secs(7)), 0.1), Duration::from_secs(7), "as the server asks");
        assert!(tries.pause(Some(Duration::from_secs(3600)), 0.1) <= Duration::from_secs(600));
        assert!(!Backoff::new(&step(3, 0)).again(), "the time of the step is over");
    }

    #[test]
    fn messages_are_short_and_hold_no_credentials() {
        let message = told(&format!("password=hunter2 {}", "ä".repeat(5000)));
        assert!(
            !message.contains("hunter2") && message.len() <= MAX_STEP_MESSAGE && message.ends_with('…'),
            "{message}"
        );
    }
}
