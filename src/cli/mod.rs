//! The two programs: `countersign`, and the kubectl plugin `kubectl approve-plan`.

pub mod approve_plan;
mod page;
