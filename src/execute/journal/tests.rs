//! The state machine against a simulated cluster: tables for the ways a plan can go, and laws that hold on every way.

mod laws;
mod simulation;
mod tables;
