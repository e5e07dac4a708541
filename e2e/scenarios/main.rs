//! The whole way, on a real API server: somebody asks, and what the cluster looks like afterwards.
//!
//! `e2e/test` builds the operator, starts a cluster and runs these. Every scenario has a namespace of its own and runs
//! beside the others; those that stop the operator have a cluster of their own.

// Functions of a test panic like the test itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod approvals;
mod attacks;
mod bad_input;
mod changes;
mod deletions;
mod flux;
mod forbidden;
mod gitops;
mod handmade;
mod history;
mod journal;
mod metrics;
mod models;
mod observe;
mod order;
mod plans;
mod plugin;
mod policies;
mod questions;
mod races;
mod record;
mod releases;
mod roles;
mod stage;
mod ttl;
mod unclear;
mod undo;
mod unready_policies;
mod unstamped;
mod withdrawn;

/// Speaks the chat-completions API; the model planner's own tests use it, too.
#[allow(dead_code)]
#[path = "../../src/planner/model/testing.rs"]
mod model_server;
