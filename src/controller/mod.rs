//! The reconcilers: thin, they only move an object to its next phase.

mod approvals;
mod assessments;
mod command;
mod context;
mod deadline;
mod ended;
mod failures;
mod finished;
mod history;
mod interpret;
mod judge;
mod leader;
mod namespaces;
mod notice;
mod plan;
mod policy;
mod proposals;
mod provider;
mod queue;
mod recheck;
mod retention;
mod run;

pub use run::{RunError, RunOptions, run};
