//! What the state machine says and hears: actions, what came of them, and how a plan ends.

use super::Journal;
use crate::api::{ResourceId, Step};

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
    /// Find out whether a mutation that another life of the operator journalled landed, without carrying it out.
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
        /// What the server's answer says of the promise, where it is kept with that: nothing else acts on objects of the kind.
        verified: Option<String>,
    },
    /// The mutation was not sent, and is not going to be for now.
    Released {
        /// The step.
        step: String,
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

impl Signals {
    /// Whether nothing more is to begin.
    #[must_use]
    pub const fn holds(&self) -> bool {
        self.suspended || self.cancel
    }
}

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Go on.
    Act {
        /// Begin these; with none, wait for those under way or for a signal.
        begin: Vec<Action>,
        /// Whether there is room for mutations that only wait for their intents to be stored.
        announce: bool,
    },
    /// The plan has ended.
    End(Outcome),
}

/// What the plan asks of the state machine besides its steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// How many steps may be under way at once.
    pub parallel: usize,
    /// How many more may be prepared, so that their intents share one write, of those that are done as soon as they are
    /// carried out. The others would wait for as long as it takes those before them to get ready.
    pub ahead: usize,
    /// Whether the changed objects are watched after the last step.
    pub observe: bool,
}

impl Observation {
    /// The sentence that tells what happened, if it has one.
    pub(in crate::execute) fn message_mut(&mut self) -> Option<&mut String> {
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
            Self::Prepared { .. } | Self::Mutated { .. } | Self::Released { .. } | Self::UndoBegun { .. } => None,
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
            | Self::Released { step }
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
