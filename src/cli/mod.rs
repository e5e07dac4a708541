//! The two programs: `countersign`, and the kubectl plugin `kubectl approve-plan`.

pub mod approve_plan;
pub mod operator;
mod output;
mod page;

pub use output::{OutputError, OutputFormat};
