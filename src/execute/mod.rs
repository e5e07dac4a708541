//! Carrying out an approved plan: a saga with a journal.
//!
//! [`journal`] is the state machine, pure; `effect` does what it says, as the plan's service account; [`drive`] is the
//! loop between both, and the only writer of a running plan's status.

mod condition;
mod drive;
mod effect;
mod evidence;
mod fence;
#[cfg(test)]
mod fixtures;
pub mod journal;
mod promql;
mod readiness;
mod record;
mod recreate;
mod snapshot;
mod status;
mod stop;
mod undo;
mod writers;

pub use condition::{ExpressionError, object_satisfies, when_holds};
pub(crate) use drive::finished;
pub use drive::{DriveError, Driver, StepEvent};
pub use effect::{Effects, Watching};
pub use fence::Fence;
pub use journal::{Outcome, Signals, can_be_put_back};
pub use promql::check_promised_metrics;
pub use snapshot::{Snapshot, SnapshotError, SnapshotStore};
pub use writers::Writers;
