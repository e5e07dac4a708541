//! The reconcilers: thin, they only move an object to its next phase.

mod approvals;
mod command;
mod context;
mod failures;
mod finished;
mod interpret;
mod leader;
mod notice;
mod plan;
mod policy;
mod proposals;
mod provider;
mod run;

pub use run::{RunError, RunOptions, run};
