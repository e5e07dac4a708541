//! From a draft to a plan: look up what is meant, compile tools to steps, try every step by dry run, weigh the risk,
//! check the rights.
//!
//! `resolve` and `ground` read the live cluster, by way of `reads`; everything else here takes values and gives values. Nothing in this
//! room writes to the cluster.

mod answer;
mod assess;
mod compile;
pub mod digest;
mod effect;
mod environment;
mod estimate;
mod expression;
mod forbidden;
mod ground;
pub mod policy;
mod powers;
mod reads;
mod resolve;
mod rights;
mod size;
mod validate;

pub use answer::{Sees, answer, merge_answers};
pub use assess::{Assessed, assess_step, deletes_otherwise, overall};
pub use compile::{CompiledCall, CompiledStep, compile};
pub use effect::{After, StepEffect};
pub use environment::{Environments, Namespace};
pub use estimate::estimate;
pub use expression::{Expression, NoAnswer, Subject};
pub use ground::{Grounded, Reassessment, Trial, ground, reassess};
pub use policy::{approvals_required, least_approvals};
pub use reads::Reads;
pub use resolve::Resolver;
pub use rights::{
    Actor, catalog_for, check_account_rights, check_plan_rights, check_requester_rights, check_use, needed_rights,
};
pub use size::{fit_messages, needs_record_dropped};
pub use validate::{InvalidPlan, validate};

use crate::cluster::ClusterError;

/// Why no plan was made.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// Something has to be asked first.
    #[error("{question}")]
    Ask {
        /// The question, naming the choices.
        question: String,
        /// The choices, as they could be typed.
        choices: Vec<String>,
    },
    /// It cannot be done, whatever the answer to any question; trying again would not help.
    #[error("{message}")]
    Refused {
        /// One word for conditions and events, in CamelCase.
        reason: &'static str,
        /// What was wanted, what was found, what to do.
        message: String,
    },
    /// The cluster could not be asked, or refused to answer; see [`PlanError::is_transient`].
    #[error(transparent)]
    Cluster(#[from] ClusterError),
}

impl PlanError {
    pub(crate) fn refused(reason: &'static str, message: impl Into<String>) -> Self {
        Self::Refused { reason, message: message.into() }
    }

    /// Whether trying again may help. An object that changed while it was looked at is looked at once more.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Cluster(error) if error.is_transient() || error.is_conflict())
    }

    /// One word for conditions and events.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Ask { .. } => "NeedsClarification",
            Self::Refused { reason, .. } => reason,
            Self::Cluster(error) if error.is_transient() => "ClusterUnavailable",
            Self::Cluster(error) if error.is_forbidden() => "Forbidden",
            Self::Cluster(_) => "ClusterRefused",
        }
    }
}
