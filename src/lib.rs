//! countersign turns a request in plain words into a plan of concrete Kubernetes operations, holds every risky plan
//! until somebody else approves exactly that plan, carries it out step by step, and puts it back when it fails.
//!
//! Each module is a room that knows only the rooms above it; `docs/ARCHITECTURE.md` is their map.

pub mod api;
pub mod approval;
pub mod cli;
pub mod cluster;
pub mod controller;
pub mod draft;
pub mod execute;
pub mod plan;
pub mod planner;
pub mod telemetry;
pub mod tools;
