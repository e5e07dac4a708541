//! The two programs: `countersign`, and the kubectl plugin `kubectl approve-plan`.

pub mod approve_plan;
mod output;
mod page;

pub use output::{OutputError, OutputFormat};
