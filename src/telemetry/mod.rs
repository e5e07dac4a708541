//! What an operator of the operator sees: metrics, health, structured logs, and the audit trail.
//!
//! This room knows the types of [`crate::api`] for labels and nothing else; it decides nothing.

pub mod audit;
mod health;
pub mod logging;
mod metrics;
pub mod server;

pub use audit::{AuditAction, AuditEvent};
pub use health::{Health, HealthReport, PartReport};
pub use metrics::{Metrics, MetricsError, PlannerKind, PlannerResult};
