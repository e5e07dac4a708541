use super::condition::{check_syntax, when_holds};
use super::fence::Fence;
use super::journal::{Action, Observation};
use super::snapshot::{Snapshot, SnapshotError, SnapshotStore};
use crate::api::{
    FIELD_MANAGER, FieldChange, MAX_STEP_MESSAGE, ObjectRef, Operation, OperationKind, Precondition, ResourceId, Step,
    StepStatus, Verify, VerifyKind, shortened,
};
use crate::cluster::{
    Access, Catalog, Cluster, ClusterError, ResourceKind, WriteOptions, diff, drift, landed, redact, redact_text,
};
use crate::plan::PlanError;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How often a mutation is tried when the step does not say: once and three times again.
const DEFAULT_ATTEMPTS: u32 = 4;
/// How long a step may take when it does not say.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);
/// How often a write that lost a race against an unrelated writer is repeated.
const MAX_CONFLICTS: u32 = 20;

/// Why a step that was prepared and not carried out failed.
const NOT_BEGUN: &str = "stopped before it was carried out";

/// Does what the state machine says, on the cluster, as the plan's service account.
#[derive(Clone)]
pub struct Effects {
    pub(super) cluster: Cluster,
    pub(super) access: Access,
    pub(super) snapshots: SnapshotStore,
    pub(super) plan_uid: String,
    pub(super) watching: Option<Watching>,
    pub(super) fence: Fence,
    trusts_diffs: bool,
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
        Self { cluster, access, snapshots, plan_uid, watching, fence, trusts_diffs }
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
            Action::Settle(_) => self.settle(step, &entry, 0, NOT_BEGUN.to_owned()).await,
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
        let changes = self.changes(&subject, kind, live.as_ref()).await?;
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
        let before = live.as_ref().map(ResourceId::of);
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
        let mut look_first = recovering;
        // Whether an earlier try may have landed without our knowing it.
        let mut open = recovering;
        let mut version = entry.before.as_ref().and_then(|before| before.resource_version.clone());
        let (mut attempts, mut conflicts) = (0, 0);
        let failure = loop {
            let sent = attempts;
            let tried = self.try_mutation(step, entry, &mut version, &mut look_first, &mut attempts).await;
            match tried {
                Ok(Tried::Landed(result)) => return Observation::Mutated { step: id, result, attempts },
                Ok(Tried::Unsettled(message)) => return Observation::Unsettled { step: id, message, attempts },
                Ok(Tried::Moved(message)) => return Observation::MutationFailed { step: id, message, attempts },
                Err(error) => {
                    // What was sent after a look that found nothing, and was refused, has not landed.
                    open = if attempts > sent { error.leaves_open() } else { open };
                    match error {
                        EffectError::Cluster(error) if error.is_conflict() && conflicts < MAX_CONFLICTS => {
                            conflicts += 1;
                            look_first = true;
                        }
                        error if error.is_transient() && backoff.again() => {
                            look_first = true;
                            backoff.wait(error.retry_after()).await;
                        }
                        error => break error.to_string(),
                    }
                }
            }
        };
        if open {
            return self.settle(step, entry, attempts, failure).await;
        }
        Observation::MutationFailed { step: id, message: failure, attempts }
    }

    async fn try_mutation(
        &self,
        step: &Step,
        entry: &StepStatus,
        version: &mut Option<String>,
        look_first: &mut bool,
        attempts: &mut u32,
    ) -> Result<Tried, EffectError> {
        let subject = self.subject(step, entry.clone()).await?;
        if *look_first {
            let live = self.live(&subject).await?;
            let changes = self.snapshot_of(entry).await?.changes;
            match found(&subject, &changes, live.as_ref()) {
                Found::Landed(result) => return Ok(Tried::Landed(result)),
                Found::InPart(message) => return Ok(Tried::Unsettled(message)),
                Found::Nothing => {}
            }
            if let Some(moved) = moved_since(&subject, &changes, live.as_ref()) {
                return Ok(Tried::Moved(moved));
            }
            *version = live.as_ref().and_then(|live| ResourceId::of(live).resource_version);
            *look_first = false;
        }
        *attempts += 1;
        // What goes is told by its identity: a status that keeps moving must not keep it from going.
        let goes = step.operation.delete.is_some() || step.operation.evict.is_some();
        let options = WriteOptions {
            dry_run: false,
            uid: entry.before.as_ref().and_then(|before| before.uid.clone()),
            resource_version: version.clone().filter(|_| !goes),
        };
        self.fence.pass().await;
        let object = self.access.perform(&subject.catalog, &step.operation, &options).await?;
        let result = ResourceId::of(&object);
        // A deletion answers with a Status that has no identity of its own.
        let result = if result.uid.is_some() { result } else { entry.before.clone().unwrap_or_default() };
        Ok(Tried::Landed(result))
    }

    /// Whether a mutation that was under way landed, without carrying it out. If it did not, it failed for `reason`.
    async fn settle(&self, step: &Step, entry: &StepStatus, attempts: u32, reason: String) -> Observation {
        let id = step.id.clone();
        let looked = self.patiently(step, || async {
            let subject = self.subject(step, entry.clone()).await?;
            let live = self.live(&subject).await?;
            let changes = self.snapshot_of(entry).await?.changes;
            Ok(found(&subject, &changes, live.as_ref()))
        });
        match looked.await {
            Ok(Found::Landed(result)) => Observation::Mutated { step: id, result, attempts },
            Ok(Found::Nothing) => Observation::MutationFailed { step: id, message: reason, attempts },
            Ok(Found::InPart(message)) => Observation::Unsettled { step: id, message, attempts },
            Err(error) => {
                let message = format!("{reason}; whether it was carried out cannot be found out: {error}");
                Observation::Unsettled { step: id, message, attempts }
            }
        }
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
        let table = crate::plan::answer(&self.access, &catalog, query).await;
        Ok(match table {
            Ok(table) => Observation::Verified { step: id, message: table.text },
            Err(PlanError::Cluster(error)) => return Err(error.into()),
            Err(error) => refused(&id, error.to_string()),
        })
    }

    pub(super) fn verification(step: &Step) -> Verify {
        step.verify.clone().unwrap_or_else(|| {
            let gone = step.operation.delete.is_some() || step.operation.evict.is_some();
            Verify { kind: if gone { VerifyKind::Absent } else { VerifyKind::Ready }, expression: None }
        })
    }
}

enum Tried {
    Landed(ResourceId),
    /// It landed, and somebody changed part of it since.
    Unsettled(String),
    Moved(String),
}

/// What of a mutation that the journal speaks of is there.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Found {
    /// All of it.
    Landed(ResourceId),
    /// Some of it, and why not all.
    InPart(String),
    Nothing,
}

pub(super) fn refused(step: &str, message: String) -> Observation {
    Observation::Refused { step: step.to_owned(), message, drifted: false }
}

/// Why nobody could tell whether the step got where it promised.
fn checkable(step: &Step) -> Result<(), String> {
    let waits = step.operation.wait.as_ref().and_then(|wait| wait.expression.as_deref());
    let verify = step.verify.as_ref();
    if verify.is_some_and(|verify| verify.kind == VerifyKind::PromQL) {
        return Err("verification by PromQL needs a metrics store, and none is configured".to_owned());
    }
    let promised = verify.and_then(|verify| verify.expression.as_deref());
    for expression in waits.into_iter().chain(promised) {
        check_syntax(expression).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// What a diff hides or makes up, where it is not what would change.
fn difference(said: &[FieldChange], shown: &[FieldChange]) -> Option<String> {
    let value = |value: &Option<Value>| value.as_ref().map_or_else(|| "absent".to_owned(), ToString::to_string);
    if let Some(change) = shown.iter().find(|change| !said.contains(change)) {
        return Some(format!("{} would go from {} to {}", change.path, value(&change.from), value(&change.to)));
    }
    said.iter().find(|change| !shown.contains(change)).map(|change| format!("{} would not change", change.path))
}

/// A message fit for status, events and logs: without what looks like a credential, and of bounded length, because all of
/// a plan's messages share one object with it.
fn told(message: &str) -> String {
    shortened(&redact_text(message), MAX_STEP_MESSAGE).into_owned()
}

pub(super) fn timeout(step: &Step) -> Duration {
    step.timeout.map_or(DEFAULT_TIMEOUT, std::time::Duration::from)
}

/// Why the live object is not what the plan was made against; `None` when it is.
fn moved(step: &Step, live: Option<&Value>) -> Option<String> {
    let Precondition { uid, resource_version, absent, diff_base } = step.precondition.as_ref()?;
    let now = live.map(ResourceId::of);
    if *absent {
        return live.map(|_| "the object did not exist when the plan was made, and does now".to_owned());
    }
    if let Some(uid) = uid {
        match now.as_ref().and_then(|now| now.uid.as_ref()) {
            None => return Some("the object is gone since the plan was made".to_owned()),
            Some(found) if found != uid => {
                return Some("the object was deleted and created again since the plan was made".to_owned());
            }
            Some(_) => {}
        }
    }
    if resource_version.is_some() && now.and_then(|now| now.resource_version) != *resource_version {
        return Some("the object changed since the plan was made".to_owned());
    }
    let live = live.filter(|_| *diff_base)?;
    let drifts = drift(&step.diff, live);
    let first = drifts.first()?;
    let more = if drifts.len() > 1 { format!(" (and {} more fields)", drifts.len() - 1) } else { String::new() };
    let value = |value: &Option<Value>| value.as_ref().map_or_else(|| "absent".to_owned(), ToString::to_string);
    let (path, expected, found) = (&first.path, value(&first.expected), value(&first.found));
    Some(format!("{path} was {expected} when the plan was made and is {found} now{more}"))
}

/// What of the mutation that the journal speaks of is there.
pub(super) fn found(subject: &Subject<'_>, changes: &[FieldChange], live: Option<&Value>) -> Found {
    let before = subject.entry.before.as_ref();
    let operation: &Operation = &subject.step.operation;
    let Some(live) = live else {
        let removes = operation.delete.is_some() || operation.evict.is_some();
        return if removes { Found::Landed(before.cloned().unwrap_or_default()) } else { Found::Nothing };
    };
    let same = before.is_none_or(|before| before.uid.is_none() || before.uid == ResourceId::of(live).uid);
    if operation.delete.is_some() || operation.evict.is_some() {
        let gone = !same || live.pointer("/metadata/deletionTimestamp").is_some();
        return if gone { Found::Landed(before.cloned().unwrap_or_default()) } else { Found::Nothing };
    }
    // An object that was to be created and does not bear our name in its managed fields was created by somebody else,
    // even where it looks the same.
    if !same || (before.is_none() && !is_ours(live)) {
        return Found::Nothing;
    }
    if landed(changes, live) {
        return Found::Landed(ResourceId::of(live));
    }
    // A mutation lands as a whole: where one field has its new value, the others had theirs.
    let (there, others): (Vec<&FieldChange>, Vec<&FieldChange>) =
        changes.iter().partition(|change| has_new_value(change, live));
    if there.is_empty() && before.is_some() {
        return Found::Nothing;
    }
    // Paths only: the values may be secret.
    let paths = others.iter().take(5).map(|change| change.path.as_str()).collect::<Vec<_>>().join(", ");
    Found::InPart(format!("{} was changed by somebody else since, in {paths}", subject.target))
}

fn has_new_value(change: &FieldChange, live: &Value) -> bool {
    let change = std::slice::from_ref(change);
    !change[0].redacted && landed(change, live) && !drift(change, live).is_empty()
}

/// Whether we wrote any of the object.
pub(super) fn is_ours(live: &Value) -> bool {
    let managers = live.pointer("/metadata/managedFields").and_then(Value::as_array);
    let names_us = |entry: &Value| entry.get("manager").and_then(Value::as_str) == Some(FIELD_MANAGER);
    managers.is_some_and(|managers| managers.iter().any(names_us))
}

/// Why a mutation that has not landed may no longer be carried out.
fn moved_since(subject: &Subject<'_>, changes: &[FieldChange], live: Option<&Value>) -> Option<String> {
    match (&subject.entry.before, live) {
        (None, Some(_)) => Some(format!("{} was created by somebody else meanwhile", subject.target)),
        (Some(_), None) => Some(format!("{} is gone", subject.target)),
        (Some(before), Some(live)) if before.uid.is_some() && before.uid != ResourceId::of(live).uid => {
            Some(format!("{} was deleted and created again meanwhile", subject.target))
        }
        (Some(_), Some(live)) if subject.step.operation.delete.is_none() && subject.step.operation.evict.is_none() => {
            // The path only: unlike the plan's own diff, these values may be secret.
            drift(changes, live)
                .first()
                .map(|first| format!("{} was changed by somebody else in {}", subject.target, first.path))
        }
        _ => None,
    }
}

/// Exponential backoff with full jitter: 0.5 s, 1 s, 2 s … up to 30 s, each time a random part of it.
pub(super) struct Backoff {
    left: u32,
    ceiling: Duration,
}

impl Backoff {
    pub fn new(step: &Step) -> Self {
        let attempts = step.retry.as_ref().map_or(DEFAULT_ATTEMPTS, |retry| retry.attempts);
        Self { left: attempts.saturating_sub(1), ceiling: Duration::from_millis(500) }
    }

    /// Whether another try is left; takes it.
    pub fn again(&mut self) -> bool {
        let again = self.left > 0;
        self.left = self.left.saturating_sub(1);
        again
    }

    /// Waits as long as the server asked, or for a random part of the ceiling.
    pub async fn wait(&mut self, server: Option<Duration>) {
        let wait = server.unwrap_or_else(|| self.ceiling.mul_f64(rand::random::<f64>()));
        self.ceiling = (self.ceiling * 2).min(Duration::from_secs(30));
        tokio::time::sleep(wait).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn change(path: &str, from: Value, to: Value) -> FieldChange {
        let present = |value: Value| Some(value).filter(|value| !value.is_null());
        FieldChange { path: path.into(), from: present(from), to: present(to), redacted: false }
    }

    fn step(operation: Operation) -> Step {
        Step { id: "s1".into(), operation, ..Step::default() }
    }

    fn target() -> ObjectRef {
        ObjectRef {
            api_version: "apps/v1".into(),
            kind: "Deployment".into(),
            namespace: Some("shop".into()),
            name: "checkout".into(),
        }
    }

    /// What is found of a step's mutation, when `before` is the uid of the object before it.
    fn find(step: &Step, before: Option<&str>, changes: &[FieldChange], live: Option<&Value>) -> Found {
        let before = before.map(|uid| ResourceId { uid: Some(uid.into()), resource_version: None });
        let kind = ResourceKind {
            group: "apps".into(),
            version: "v1".into(),
            kind: "Deployment".into(),
            plural: "deployments".into(),
            singular: "deployment".into(),
            short_names: vec![],
            namespaced: true,
            verbs: vec![],
            subresources: vec![],
        };
        let entry = StepStatus { before, ..StepStatus::default() };
        let subject = Subject { step, entry, target: target(), kind, catalog: Arc::new(Catalog::default()) };
        found(&subject, changes, live)
    }

    fn live(uid: &str, replicas: u32, image: &str, manager: &str) -> Value {
        json!({ "metadata": { "uid": uid, "resourceVersion": "7", "managedFields": [{ "manager": manager }] },
                "spec": { "replicas": replicas, "image": image } })
    }

    #[test]
    fn a_mutation_that_was_overwritten_in_part_is_not_taken_for_one_that_never_landed() {
        let patch = step(Operation::patch(target(), None, crate::api::PatchType::Merge, json!({})));
        let changes =
            [change("spec.replicas", json!(3), json!(5)), change("spec.image", json!("web:1"), json!("web:2"))];
        let find = |live: &Value| find(&patch, Some("u"), &changes, Some(live));
        assert!(matches!(find(&live("u", 5, "web:2", "x")), Found::Landed(_)));
        assert_eq!(find(&live("u", 3, "web:1", "x")), Found::Nothing);
        assert_eq!(find(&live("u", 4, "web:1", "x")), Found::Nothing, "somebody else changed one field");
        assert_eq!(find(&live("another", 5, "web:2", "x")), Found::Nothing);
        let Found::InPart(message) = find(&live("u", 9, "web:2", "x")) else { panic!("it landed in part") };
        insta::assert_snapshot!(message, @"Deployment shop/checkout was changed by somebody else since, in spec.replicas");
    }

    #[test]
    fn what_somebody_else_created_meanwhile_is_not_ours_however_equal() {
        let apply = step(Operation::apply(json!({})));
        let changes = [change("spec.replicas", Value::Null, json!(3))];
        let find = |live: Option<&Value>| find(&apply, None, &changes, live);
        assert_eq!(find(None), Found::Nothing);
        assert!(matches!(find(Some(&live("u", 3, "web:1", FIELD_MANAGER))), Found::Landed(_)));
        assert!(matches!(find(Some(&live("u", 4, "web:1", FIELD_MANAGER))), Found::InPart(_)));
        assert_eq!(find(Some(&live("u", 3, "web:1", "kubectl"))), Found::Nothing);
    }

    #[test]
    fn a_diff_that_hides_or_makes_up_something_is_told() {
        let replicas = change("spec.replicas", json!(3), json!(5));
        let image = change("spec.image", json!("web:1"), json!("evil:1"));
        assert_eq!(difference(&[replicas.clone(), image.clone()], &[image.clone(), replicas.clone()]), None);
        insta::assert_snapshot!(difference(std::slice::from_ref(&replicas), &[replicas.clone(), image.clone()]).unwrap(),
            @r#"spec.image would go from "web:1" to "evil:1""#);
        insta::assert_snapshot!(difference(&[replicas, image.clone()], &[image]).unwrap(), @"spec.replicas would not change");
    }

    #[test]
    fn what_cannot_be_checked_afterwards_is_not_begun() {
        let verified = |kind: VerifyKind, expression: &str| Step {
            verify: Some(Verify { kind, expression: Some(expression.into()) }),
            ..step(Operation::delete(target()))
        };
        assert_eq!(checkable(&verified(VerifyKind::Expression, "object.status.ready == true")), Ok(()));
        assert!(checkable(&verified(VerifyKind::Expression, "object.status.")).is_err());
        assert!(checkable(&verified(VerifyKind::PromQL, "up")).is_err());
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
