//! What becomes of plans when the operator, the network, the API server or the store fail under them, with figures.
//!
//! `e2e/test` runs a sample of all this, `e2e/test --full` everything; docs/reliability.md says what is injected and what
//! must hold. `COUNTERSIGN_FAULTS=full` is the whole matrix, `COUNTERSIGN_FAULTS_SEED` another seed than 1.

// Functions of a test panic like the test itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod clocks;
mod failover;
mod ledger;
mod losses;
mod matrix;
mod operator;
mod plans;
mod proxy;
mod watches;

/// The same clusters as for the scenarios.
#[allow(dead_code)]
#[path = "../scenarios/stage.rs"]
mod stage;

/// Whether everything is to be run, not a sample.
fn full() -> bool {
    std::env::var("COUNTERSIGN_FAULTS").is_ok_and(|value| value == "full")
}

/// The seeds of this run.
fn seeds() -> Vec<u64> {
    let first = std::env::var("COUNTERSIGN_FAULTS_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    if full() { (first..first + 3).collect() } else { vec![first] }
}
