//! The state machine of a plan under execution: pure, without I/O.
//!
//! `docs/execution.md` draws it. The journal is the plan's `status.steps`; [`next`] reads it and says what to do, an
//! effect does it and reports an [`Observation`], [`Journal::apply`] writes the observation down, and only when that is
//! stored may the next action begin. After a crash the journal alone decides.

use crate::api::{
    ConditionType, ExecutionPlanStatus, PlanPhase, ResourceId, Step, StepState, StepStatus, UndoState, UndoStatus,
    condition_is_true,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::collections::{BTreeMap, BTreeSet};

/// What to do next for one step, or for the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Read the live object, check the precondition, store the snapshot. Writes nothing to the target.
    Prepare(String),
    /// Carry out the mutation whose intent is journalled. `recovering`: it may have landed before a crash, so look first.
    Mutate {
        /// The step.
        step: String,
        /// Whether to look first.
        recovering: bool,
    },
    /// Find out whether a journalled mutation landed, without carrying it out.
    Settle(String),
    /// Wait until the step's promise holds.
    Verify(String),
    /// Journal the intent to put the step back.
    BeginUndo(String),
    /// Put the step back.
    Undo(String),
    /// Watch the changed objects for a while.
    Observe,
}

impl Action {
    /// The step that the action is about; empty for [`Action::Observe`].
    #[must_use]
    pub fn step(&self) -> &str {
        match self {
            Self::Prepare(step)
            | Self::Mutate { step, .. }
            | Self::Settle(step)
            | Self::Verify(step)
            | Self::BeginUndo(step)
            | Self::Undo(step) => step,
            Self::Observe => "",
        }
    }

    /// Whether the action writes to the target, so that its intent has to be stored before it begins.
    #[must_use]
    pub const fn changes_cluster(&self) -> bool {
        matches!(self, Self::Mutate { .. } | Self::Undo(_))
    }

    /// Whether what the action would find out is of no use any more, so that nobody need wait for it.
    ///
    /// Only actions that leave no trace can be left: a preparation that stores a snapshot is waited for.
    #[must_use]
    pub fn can_be_left(&self, steps: &[Step], journal: &Journal, signals: &Signals) -> bool {
        let putting_back = journal.rollback_reason.is_some();
        match self {
            Self::Observe => putting_back || signals.cancel,
            Self::Verify(_) => putting_back,
            Self::Prepare(id) => {
                let reads = |step: &Step| step.operation.wait.is_some() || step.operation.query.is_some();
                (putting_back || signals.cancel) && steps.iter().any(|step| step.id == *id && reads(step))
            }
            Self::Mutate { .. } | Self::Settle(_) | Self::BeginUndo(_) | Self::Undo(_) => false,
        }
    }
}

/// What an action found or did.
#[derive(Clone, Debug, PartialEq)]
pub enum Observation {
    /// The precondition holds and the snapshot is stored.
    Prepared {
        /// The step.
        step: String,
        /// Name of the snapshot.
        snapshot: Option<String>,
        /// The object before; absent when there is none.
        before: Option<ResourceId>,
    },
    /// The step is left out.
    Skipped {
        /// The step.
        step: String,
        /// Why.
        message: String,
    },
    /// The step cannot begin; nothing was changed.
    Refused {
        /// The step.
        step: String,
        /// Why.
        message: String,
        /// Whether the cluster moved away from what the diff was computed against.
        drifted: bool,
    },
    /// The mutation landed.
    Mutated {
        /// The step.
        step: String,
        /// The object after; without a uid for a deletion that was found done, but never acknowledged.
        result: ResourceId,
        /// How often it was tried.
        attempts: u32,
        /// What is not known about it.
        note: Option<String>,
    },
    /// The mutation did not land, and trying again would not help.
    MutationFailed {
        /// The step.
        step: String,
        /// The server's words.
        message: String,
        /// How often it was tried.
        attempts: u32,
        /// Whether somebody else changed what the mutation was to change.
        drifted: bool,
    },
    /// Whether the mutation landed cannot be found out, or it landed and was partly overwritten since. Whatever of it is
    /// there is put back.
    Unsettled {
        /// The step.
        step: String,
        /// Why.
        message: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// The step got where it promised.
    Verified {
        /// The step.
        step: String,
        /// What was seen.
        message: String,
    },
    /// The step did not get there.
    VerifyFailed {
        /// The step.
        step: String,
        /// Why.
        message: String,
    },
    /// The intent to put back is journalled.
    UndoBegun {
        /// The step.
        step: String,
    },
    /// The step was put back.
    Undone {
        /// The step.
        step: String,
        /// What was put back, what stays and why.
        message: String,
    },
    /// The step could not be put back.
    UndoFailed {
        /// The step.
        step: String,
        /// Why, and what is left in which state.
        message: String,
    },
    /// The time of watching is over; a reason when something degraded.
    Observed {
        /// What degraded, if anything did.
        degraded: Option<String>,
        /// Whether everything is put back for it.
        rolls_back: bool,
    },
}

/// How a plan ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every step is done.
    Succeeded,
    /// A step failed, and nothing was left to put back.
    Failed(String),
    /// The cluster had moved; nothing was done.
    Drifted(String),
    /// A step failed, and all that was done was put back.
    RolledBack(String),
    /// Putting back failed for these.
    RollbackFailed(String),
    /// Stopped on request; what was done stays.
    Cancelled(String),
}

/// What people asked for meanwhile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signals {
    /// Begin no further step.
    pub suspended: bool,
    /// Begin no further step, and end.
    pub cancel: bool,
    /// Put everything back, for this reason.
    pub rollback: Option<String>,
}

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Begin these actions; with none, wait for those under way or for a signal.
    Act(Vec<Action>),
    /// The plan has ended.
    End(Outcome),
}

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
    /// The steps that this very process prepared: their mutation cannot have been sent before.
    pub prepared_here: BTreeSet<String>,
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
        Self { entries, observed: false, rollback_reason, drifted, timed_out, prepared_here: BTreeSet::new() }
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
            if let Some(entry) = self.entries.iter_mut().find(|entry| entry.id == step) {
                entry.note(&Observation::VerifyFailed { step, message }, now);
            }
        }
    }

    /// Takes note of what people asked for. A rollback that was asked for once is not taken back.
    pub fn heed(&mut self, signals: &Signals) {
        if let Some(reason) = &signals.rollback {
            self.rollback_reason.get_or_insert_with(|| reason.clone());
        }
    }

    /// The entry of a step.
    #[must_use]
    pub fn entry(&self, step: &str) -> Option<&StepStatus> {
        self.entries.iter().find(|entry| entry.id == step)
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
        let Some(entry) = self.entries.iter_mut().find(|entry| entry.id == observation.step()) else { return };
        entry.note(observation, now);
        if entry.state == StepState::Failed {
            let reason = failure(entry);
            self.rollback_reason.get_or_insert(reason);
        }
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

impl Observation {
    /// The sentence that tells what happened, if it has one.
    pub(super) fn message_mut(&mut self) -> Option<&mut String> {
        match self {
            Self::Skipped { message, .. }
            | Self::Refused { message, .. }
            | Self::MutationFailed { message, .. }
            | Self::Unsettled { message, .. }
            | Self::Verified { message, .. }
            | Self::VerifyFailed { message, .. }
            | Self::Undone { message, .. }
            | Self::UndoFailed { message, .. } => Some(message),
            Self::Observed { degraded, .. } => degraded.as_mut(),
            Self::Prepared { .. } | Self::Mutated { .. } | Self::UndoBegun { .. } => None,
        }
    }

    /// The step that was observed; empty for [`Observation::Observed`].
    #[must_use]
    pub fn step(&self) -> &str {
        match self {
            Self::Prepared { step, .. }
            | Self::Skipped { step, .. }
            | Self::Refused { step, .. }
            | Self::Mutated { step, .. }
            | Self::MutationFailed { step, .. }
            | Self::Unsettled { step, .. }
            | Self::Verified { step, .. }
            | Self::VerifyFailed { step, .. }
            | Self::UndoBegun { step }
            | Self::Undone { step, .. }
            | Self::UndoFailed { step, .. } => step,
            Self::Observed { .. } => "",
        }
    }
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
            Observation::Mutated { result, attempts, note, .. } => {
                self.state = StepState::Applied;
                self.applied_at = Some(now.clone());
                self.result = Some(result.clone()).filter(|result| result.uid.is_some());
                self.attempts += attempts;
                self.message.clone_from(note);
            }
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

/// What the plan asks of the state machine besides its steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// How many steps may be under way at once.
    pub parallel: usize,
    /// Whether the changed objects are watched after the last step.
    pub observe: bool,
}

/// Decides what to do, from the journal, the actions under way and what people asked for. Pure.
#[must_use]
pub fn next(steps: &[Step], journal: &Journal, under_way: &[Action], signals: &Signals, bounds: Bounds) -> Decision {
    let busy: BTreeSet<&str> = under_way.iter().map(Action::step).collect();
    let putting_back = journal.rollback_reason.is_some() || signals.rollback.is_some();
    if putting_back {
        return put_back(steps, journal, &busy, signals);
    }
    let mut actions = Vec::new();
    let state: BTreeMap<&str, StepState> =
        journal.entries.iter().map(|entry| (entry.id.as_str(), entry.state)).collect();
    let done = |id: &String| matches!(state.get(id.as_str()), Some(StepState::Completed | StepState::Skipped));
    let holds = signals.cancel || signals.suspended;
    let mut room = bounds.parallel.saturating_sub(busy.len());
    // What is journalled as begun goes on before anything new begins.
    for entry in journal.entries.iter().filter(|entry| !busy.contains(entry.id.as_str())) {
        let id = entry.id.clone();
        match entry.state {
            StepState::Running if room > 0 => {
                let recovering = !journal.prepared_here.contains(&id);
                actions.push(Action::Mutate { step: id, recovering });
            }
            StepState::Applied if room > 0 => actions.push(Action::Verify(id)),
            _ => continue,
        }
        room -= 1;
    }
    if !holds {
        for step in steps.iter().filter(|step| !busy.contains(step.id.as_str())) {
            if room > 0 && state.get(step.id.as_str()) == Some(&StepState::Pending) && step.depends_on.iter().all(done)
            {
                actions.push(Action::Prepare(step.id.clone()));
                room -= 1;
            }
        }
    }
    if !actions.is_empty() || !under_way.is_empty() {
        return Decision::Act(actions);
    }
    let all_done = steps.iter().all(|step| done(&step.id));
    if all_done && bounds.observe && !journal.observed && !signals.cancel {
        return Decision::Act(vec![Action::Observe]);
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
        return Decision::Act(Vec::new());
    }
    // Cannot happen with a validated plan: dependencies are known and free of circles.
    Decision::End(Outcome::Failed("no step can begin: the dependencies of the plan cannot be met".to_owned()))
}

fn put_back(steps: &[Step], journal: &Journal, busy: &BTreeSet<&str>, signals: &Signals) -> Decision {
    // Whether a mutation landed has to be known before anything is put back.
    let open: Vec<Action> = journal
        .entries
        .iter()
        .filter(|entry| entry.state == StepState::Running && !busy.contains(entry.id.as_str()))
        .map(|entry| Action::Settle(entry.id.clone()))
        .collect();
    if !open.is_empty() || !busy.is_empty() {
        return Decision::Act(open);
    }
    for id in order(steps).into_iter().rev() {
        let Some(entry) = journal.entry(id) else { continue };
        if !entry.may_have_landed() {
            continue;
        }
        match entry.undo.as_ref().map(|undo| undo.state) {
            None => return Decision::Act(vec![Action::BeginUndo(id.to_owned())]),
            Some(UndoState::Running) => return Decision::Act(vec![Action::Undo(id.to_owned())]),
            Some(UndoState::Done | UndoState::Failed) => {}
        }
    }
    Decision::End(ended_back(journal, signals))
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

#[cfg(test)]
mod tests;
