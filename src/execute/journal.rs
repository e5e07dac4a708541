//! The state machine of a plan under execution: pure, without I/O.
//!
//! `docs/execution.md` draws it. The journal is the plan's `status.steps`; [`next`] reads it and says what to do, an
//! effect does it and reports an [`Observation`], [`Journal::apply`] writes the observation down. What changes the cluster
//! begins only when the entry that announces it is stored. After a crash the journal alone decides.

mod action;
#[cfg(test)]
mod tests;
pub use action::{Action, Bounds, Decision, Observation, Outcome, Signals};

use crate::api::{
    ConditionType, ExecutionPlanStatus, PlanPhase, Step, StepState, StepStatus, UndoState, UndoStatus, VerifyKind,
    condition_is_true,
};
use crate::cluster::is_ready_once_stored;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// The journal with what is needed to read it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Journal {
    /// One entry a step, in the order of the plan.
    pub entries: Vec<StepStatus>,
    /// Whether the time of watching is over.
    pub observed: bool,
    /// Why everything is put back, once it is.
    pub rollback_reason: Option<String>,
    /// Whether the cluster had moved, and that is why the plan ends.
    pub drifted: bool,
    /// Whether the plan's time was over, and that is why it ends.
    pub timed_out: bool,
    /// The steps that this very process prepared: as long as it does not carry them out, their mutation was never sent.
    pub prepared_here: HashSet<String>,
    /// The steps whose entry changed since the journal was stored; all of them before it is for the first time.
    pub unstored: HashSet<String>,
    /// Snapshots that an entry named and does not name any more.
    pub unnamed: Vec<String>,
    outline: Arc<Outline>,
}

/// What of a plan's steps never changes, worked out once: the state machine is asked after every single effect.
#[derive(Debug, Default, PartialEq)]
struct Outline {
    /// Where each step stands in the plan.
    positions: HashMap<String, usize>,
    /// The positions so that each step comes after those that it depends on.
    order: Vec<usize>,
    /// Whether each is done once it is carried out.
    done_once_stored: Vec<bool>,
}

impl Outline {
    fn of(steps: &[Step]) -> Self {
        let positions: HashMap<String, usize> =
            steps.iter().enumerate().map(|(position, step)| (step.id.clone(), position)).collect();
        let order = order(steps).into_iter().filter_map(|id| positions.get(id).copied()).collect();
        Self { order, done_once_stored: steps.iter().map(is_done_once_stored).collect(), positions }
    }
}

impl Journal {
    /// The journal as the plan's status left it. Steps without an entry get one.
    #[must_use]
    pub fn new(steps: &[Step], status: &ExecutionPlanStatus) -> Self {
        let stored: BTreeMap<&str, &StepStatus> = status.steps.iter().map(|entry| (entry.id.as_str(), entry)).collect();
        let mut entries: Vec<StepStatus> = steps
            .iter()
            .map(|step| match stored.get(step.id.as_str()) {
                Some(entry) => (*entry).clone(),
                None => StepStatus { id: step.id.clone(), ..StepStatus::default() },
            })
            .collect();
        // Whoever takes up a plan that could not be put back tries what was refused once more.
        let refused = |undo: &&mut UndoStatus| undo.state == UndoState::Failed;
        if status.phase == Some(PlanPhase::RollbackFailed) {
            for undo in entries.iter_mut().filter_map(|entry| entry.undo.as_mut()).filter(refused) {
                undo.state = UndoState::Running;
            }
        }
        let failed = entries.iter().find(|entry| entry.state == StepState::Failed).map(failure);
        let was_putting_back = status.phase == Some(PlanPhase::RollingBack);
        // What set the rollback off is in the message; steps that failed meanwhile only tell what came of it.
        let stored_reason = status.message.clone().filter(|_| was_putting_back);
        let rollback_reason = stored_reason.or(failed).or_else(|| was_putting_back.then(String::new));
        let drifted = condition_is_true(&status.conditions, ConditionType::Drifted);
        let timed_out = was_putting_back
            && status.conditions.iter().any(|condition| condition.type_ == "Ready" && condition.reason == TIMED_OUT);
        let unstored = entries.iter().map(|entry| entry.id.clone()).collect();
        let outline = Arc::new(Outline::of(steps));
        Self { entries, rollback_reason, drifted, timed_out, unstored, outline, ..Self::default() }
    }

    /// Takes note that the journal as it is now is stored.
    pub fn stored(&mut self) {
        self.unstored.clear();
    }

    /// Ends a plan whose time is over: the steps that are waited for fail, and all is put back. What is being changed is
    /// finished first. A plan whose steps are all done, or that is being put back already, has all the time it needs.
    pub fn time_is_up(&mut self, steps: &[Step], under_way: &[Action], within: &str, now: &Time) {
        let (done, all) = self.progress();
        if done == all || self.rollback_reason.is_some() {
            return;
        }
        self.timed_out = true;
        self.rollback_reason = Some(format!("the plan was not done within {within}: {done} of {all} steps were"));
        let signals = Signals::default();
        let left: Vec<&Action> = under_way.iter().filter(|action| action.can_be_left(steps, self, &signals)).collect();
        for action in left {
            let step = action.step().to_owned();
            let message = "stopped, because the time of the plan was over".to_owned();
            if let Some(entry) = self.entry_mut(&step) {
                entry.note(&Observation::VerifyFailed { step, message }, now);
            }
        }
    }

    /// Takes note of what people asked for. A rollback that was asked for once is not taken back. Where nothing more is to
    /// begin, the steps that are prepared and not under way are not begun: whether there are any.
    pub fn heed(&mut self, signals: &Signals, under_way: &[Action]) -> bool {
        if let Some(reason) = &signals.rollback {
            self.rollback_reason.get_or_insert_with(|| reason.clone());
        }
        if !(signals.holds() || self.rollback_reason.is_some()) {
            return false;
        }
        let waits = |entry: &&mut StepStatus| {
            entry.state == StepState::Running
                && self.prepared_here.contains(&entry.id)
                && !under_way.iter().any(|action| action.step() == entry.id)
        };
        let mut released = Vec::new();
        for entry in self.entries.iter_mut().filter(waits) {
            self.unnamed.extend(entry.snapshot.take());
            entry.release();
            released.push(entry.id.clone());
        }
        let any = !released.is_empty();
        for id in released {
            self.prepared_here.remove(&id);
            self.unstored.insert(id);
        }
        any
    }

    /// The entry of a step.
    #[must_use]
    pub fn entry(&self, step: &str) -> Option<&StepStatus> {
        self.entries.get(*self.outline.positions.get(step)?)
    }

    fn step<'s>(&self, steps: &'s [Step], id: &str) -> Option<&'s Step> {
        steps.get(*self.outline.positions.get(id)?)
    }

    fn entry_mut(&mut self, step: &str) -> Option<&mut StepStatus> {
        self.entries.get_mut(*self.outline.positions.get(step)?)
    }

    /// The entries that `action` has to know: its own, and all of them only where it asks what came of other steps.
    #[must_use]
    pub fn entries_for(&self, action: &Action, steps: &[Step]) -> Vec<StepStatus> {
        let is_conditional = self.step(steps, action.step()).is_some_and(|step| step.when.is_some());
        if *action == Action::Observe || is_conditional {
            return self.entries.clone();
        }
        self.entry(action.step()).cloned().into_iter().collect()
    }

    /// How many steps are done, and how many there are.
    #[must_use]
    pub fn progress(&self) -> (usize, usize) {
        let done = |entry: &&StepStatus| matches!(entry.state, StepState::Completed | StepState::Skipped);
        (self.entries.iter().filter(done).count(), self.entries.len())
    }

    /// Writes an observation down.
    pub fn apply(&mut self, observation: &Observation, now: &Time) {
        if let Observation::Observed { degraded, rolls_back } = observation {
            self.observed = true;
            if let Some(reason) = degraded.as_ref().filter(|_| *rolls_back) {
                self.rollback_reason.get_or_insert_with(|| reason.clone());
            }
            return;
        }
        let drifted = matches!(
            observation,
            Observation::Refused { drifted: true, .. } | Observation::MutationFailed { drifted: true, .. }
        );
        // What else goes wrong once the plan is being put back is not why it ends.
        self.drifted |= drifted && self.rollback_reason.is_none();
        if let Observation::Prepared { step, .. } = observation {
            self.prepared_here.insert(step.clone());
        }
        self.unstored.insert(observation.step().to_owned());
        let Some(entry) = self.entry_mut(observation.step()) else { return };
        let unnamed = matches!(observation, Observation::Released { .. }).then(|| entry.snapshot.take()).flatten();
        entry.note(observation, now);
        if entry.state == StepState::Failed {
            let reason = failure(entry);
            self.rollback_reason.get_or_insert(reason);
        }
        self.unnamed.extend(unnamed);
    }
}

/// The reason of conditions of a plan whose time was over.
pub(super) const TIMED_OUT: &str = "TimedOut";

/// Whether a plan that has ended did something that is still there, so that it can be asked to put it back.
#[must_use]
pub fn can_be_put_back(status: &ExecutionPlanStatus) -> bool {
    let put_back = |entry: &StepStatus| entry.undo.as_ref().is_some_and(|undo| undo.state == UndoState::Done);
    status.phase.is_some_and(PlanPhase::is_final)
        && status.steps.iter().any(|entry| entry.may_have_landed() && !put_back(entry))
}

fn failure(entry: &StepStatus) -> String {
    format!("step {} failed: {}", entry.id, entry.message.as_deref().unwrap_or("no reason given"))
}

impl StepStatus {
    /// Whether the step's mutation landed.
    #[must_use]
    pub fn landed(&self) -> bool {
        self.applied_at.is_some()
    }

    /// Whether there may be something to put back: the mutation landed, or nobody knows.
    #[must_use]
    pub fn may_have_landed(&self) -> bool {
        self.landed() || self.undo.is_some()
    }

    fn note(&mut self, observation: &Observation, now: &Time) {
        let end = |entry: &mut Self, state: StepState, message: &str| {
            entry.state = state;
            entry.message = Some(message.to_owned());
            entry.finished_at = Some(now.clone());
        };
        match observation {
            Observation::Prepared { snapshot, before, .. } => {
                self.state = StepState::Running;
                self.started_at = Some(now.clone());
                self.snapshot.clone_from(snapshot);
                self.before.clone_from(before);
            }
            Observation::Skipped { message, .. } => end(self, StepState::Skipped, message),
            Observation::Refused { message, .. } => end(self, StepState::Failed, message),
            Observation::VerifyFailed { message, .. } => {
                let message = self.with_note(message);
                end(self, StepState::Failed, &message);
            }
            Observation::Mutated { result, attempts, note, verified, .. } => {
                self.state = StepState::Applied;
                self.applied_at = Some(now.clone());
                self.result = Some(result.clone()).filter(|result| result.uid.is_some());
                self.attempts += attempts;
                self.message.clone_from(note);
                if let Some(message) = verified {
                    let message = self.with_note(message);
                    end(self, StepState::Completed, &message);
                }
            }
            Observation::Released { .. } => self.release(),
            Observation::MutationFailed { message, attempts, .. } => {
                self.attempts += attempts;
                end(self, StepState::Failed, message);
            }
            Observation::Unsettled { message, attempts, .. } => {
                self.attempts += attempts;
                end(self, StepState::Failed, message);
                self.undo = Some(UndoStatus::default());
            }
            Observation::Verified { message, .. } => {
                let message = self.with_note(message);
                end(self, StepState::Completed, &message);
            }
            Observation::UndoBegun { .. } => {
                let undo = self.undo.get_or_insert_with(UndoStatus::default);
                undo.state = UndoState::Running;
            }
            Observation::Undone { message, .. } => {
                self.end_undo(UndoState::Done, message, now);
                self.state = StepState::RolledBack;
            }
            Observation::UndoFailed { message, .. } => {
                self.end_undo(UndoState::Failed, message, now);
                if self.state == StepState::Applied {
                    end(self, StepState::Failed, "it was not checked any more, because the plan was being put back");
                }
            }
            Observation::Observed { .. } => {}
        }
    }

    /// Back to where it was before it was prepared.
    fn release(&mut self) {
        *self = Self { id: std::mem::take(&mut self.id), ..Self::default() };
    }

    /// What is not known about the mutation goes with what came of it.
    fn with_note(&self, message: &str) -> String {
        self.message.as_ref().map_or_else(|| message.to_owned(), |note| format!("{message}; {note}"))
    }

    fn end_undo(&mut self, state: UndoState, message: &str, now: &Time) {
        let undo = self.undo.get_or_insert_with(UndoStatus::default);
        undo.state = state;
        undo.attempts += 1;
        undo.message = Some(message.to_owned());
        undo.finished_at = Some(now.clone());
    }
}

/// Decides what to do, from the journal, the actions under way and what people asked for. Pure.
#[must_use]
pub fn next(steps: &[Step], journal: &Journal, under_way: &[Action], signals: &Signals, bounds: Bounds) -> Decision {
    let busy: BTreeSet<&str> = under_way.iter().map(Action::step).collect();
    let putting_back = journal.rollback_reason.is_some() || signals.rollback.is_some();
    if putting_back {
        return put_back(steps, journal, &busy, signals, bounds);
    }
    let mut room = bounds.parallel.saturating_sub(busy.len());
    let mut begin = Vec::new();
    let mut unannounced = false;
    // What is journalled as begun goes on before anything new begins.
    for entry in &journal.entries {
        if room == 0 {
            return Decision::Act { begin, announce: false };
        }
        let id = &entry.id;
        if !matches!(entry.state, StepState::Running | StepState::Applied) || busy.contains(id.as_str()) {
            continue;
        }
        if entry.state == StepState::Running && !signals.holds() && journal.unstored.contains(id) {
            unannounced = true;
            continue;
        }
        begin.push(match entry.state {
            StepState::Applied => Action::Verify(id.clone()),
            // What is prepared here was released. What another life began may have landed: not even that is tried again.
            _ if signals.holds() => Action::Settle(id.clone()),
            _ => Action::Mutate { step: id.clone(), recovering: !journal.prepared_here.contains(id) },
        });
        room -= 1;
    }
    let is_done = |state: StepState| matches!(state, StepState::Completed | StepState::Skipped);
    if !signals.holds() {
        let done: LazyCell<HashSet<&str>, _> = LazyCell::new(|| {
            journal.entries.iter().filter(|entry| is_done(entry.state)).map(|entry| entry.id.as_str()).collect()
        });
        let begun =
            journal.entries.iter().filter(|entry| matches!(entry.state, StepState::Running | StepState::Applied));
        let preparing = under_way.iter().filter(|action| matches!(action, Action::Prepare(_)));
        let mut open = begun.count() + preparing.count();
        let pending = (steps.iter().zip(&journal.entries).zip(&journal.outline.done_once_stored))
            .filter(|((_, entry), _)| entry.state == StepState::Pending);
        for ((step, _), done_once_stored) in pending {
            let limit = bounds.parallel + if *done_once_stored { bounds.ahead } else { 0 };
            let may_begin = room > 0 && open < limit && !busy.contains(step.id.as_str());
            if may_begin && step.depends_on.iter().all(|id| done.contains(id.as_str())) {
                begin.push(Action::Prepare(step.id.clone()));
                room -= 1;
                open += 1;
            }
        }
    }
    if !begin.is_empty() || !under_way.is_empty() || unannounced {
        return Decision::Act { begin, announce: unannounced && room > 0 };
    }
    let all_done = journal.entries.iter().all(|entry| is_done(entry.state));
    if all_done && bounds.observe && !journal.observed && !signals.cancel {
        return Decision::Act { begin: vec![Action::Observe], announce: false };
    }
    if all_done {
        return Decision::End(Outcome::Succeeded);
    }
    if signals.cancel {
        let (done, all) = journal.progress();
        return Decision::End(Outcome::Cancelled(format!(
            "cancelled after {done} of {all} steps; what was done stays"
        )));
    }
    if signals.suspended {
        return Decision::Act { begin: Vec::new(), announce: false };
    }
    // Cannot happen with a validated plan: dependencies are known and free of circles.
    Decision::End(Outcome::Failed("no step can begin: the dependencies of the plan cannot be met".to_owned()))
}

fn put_back(steps: &[Step], journal: &Journal, busy: &BTreeSet<&str>, signals: &Signals, bounds: Bounds) -> Decision {
    // Whether a mutation landed has to be known before anything is put back.
    let open = |entry: &&StepStatus| entry.state == StepState::Running && !busy.contains(entry.id.as_str());
    let room = bounds.parallel.saturating_sub(busy.len());
    let begin: Vec<Action> =
        journal.entries.iter().filter(open).take(room).map(|entry| Action::Settle(entry.id.clone())).collect();
    if !begin.is_empty() || !busy.is_empty() {
        return Decision::Act { begin, announce: false };
    }
    // All intents at once: they share a write. What is announced and not done yet is put back after a crash, as it would be now.
    let entries = journal.outline.order.iter().rev().filter_map(|position| journal.entries.get(*position));
    let landed: Vec<&StepStatus> = entries.filter(|entry| entry.may_have_landed()).collect();
    let open = landed.iter().filter(|entry| entry.undo.is_none());
    let begin: Vec<Action> = open.take(room).map(|entry| Action::BeginUndo(entry.id.clone())).collect();
    if !begin.is_empty() {
        return Decision::Act { begin, announce: false };
    }
    let is_open = |entry: &&&StepStatus| entry.undo.as_ref().is_some_and(|undo| undo.state == UndoState::Running);
    // One after the other. What was put back on the same object is stored before: were it put back once more after a crash, it
    // would find the work of an earlier step undone, and take that for somebody else's.
    if let Some(entry) = landed.iter().find(is_open) {
        let object = |id: &str| journal.step(steps, id)?.operation.target().ok().flatten();
        let target = object(&entry.id);
        let same = |id: &String| target.is_some() && object(id) == target;
        let announce = journal.unstored.contains(&entry.id) || journal.unstored.iter().any(same);
        let begin = if announce { Vec::new() } else { vec![Action::Undo(entry.id.clone())] };
        return Decision::Act { begin, announce };
    }
    Decision::End(ended_back(journal, signals))
}

/// Whether the step is done as soon as it is carried out: nothing else acts on what it changes, and it promises no more.
#[must_use]
pub fn is_done_once_stored(step: &Step) -> bool {
    let writes = step.operation.apply.is_some()
        || step.operation.patch.as_ref().is_some_and(|patch| patch.subresource.is_none());
    let promises = step.verify.as_ref().is_some_and(|verify| verify.kind != VerifyKind::Ready);
    writes && !promises && step.operation.target().ok().flatten().is_some_and(|target| is_ready_once_stored(&target))
}

fn ended_back(journal: &Journal, signals: &Signals) -> Outcome {
    let reason = journal.rollback_reason.clone().or_else(|| signals.rollback.clone()).unwrap_or_default();
    let failed: Vec<String> = journal
        .entries
        .iter()
        .filter_map(|entry| {
            let undo = entry.undo.as_ref().filter(|undo| undo.state == UndoState::Failed)?;
            Some(format!("step {}: {}", entry.id, undo.message.as_deref().unwrap_or("no reason given")))
        })
        .collect();
    if !failed.is_empty() {
        return Outcome::RollbackFailed(format!("{reason}; could not put back: {}", failed.join("; ")));
    }
    match (journal.entries.iter().any(StepStatus::may_have_landed), journal.drifted) {
        (true, _) => Outcome::RolledBack(reason),
        // Drift makes the command plan anew, which is not what somebody who cancels wants.
        (false, true) if signals.cancel => Outcome::Cancelled(format!("cancelled before anything was done; {reason}")),
        (false, true) => Outcome::Drifted(reason),
        (false, false) => Outcome::Failed(reason),
    }
}

/// The steps so that each comes after those that it depends on; otherwise in the plan's own order.
#[must_use]
pub fn order(steps: &[Step]) -> Vec<&str> {
    let mut ordered: Vec<&str> = Vec::with_capacity(steps.len());
    let mut placed: BTreeSet<&str> = BTreeSet::new();
    while ordered.len() < steps.len() {
        let before = ordered.len();
        for step in steps {
            if !placed.contains(step.id.as_str()) && step.depends_on.iter().all(|id| placed.contains(id.as_str())) {
                placed.insert(&step.id);
                ordered.push(&step.id);
            }
        }
        if ordered.len() == before {
            // A circle: validated plans have none; what is left keeps its order.
            ordered.extend(steps.iter().map(|step| step.id.as_str()).filter(|id| !placed.contains(id)));
            break;
        }
    }
    ordered
}
