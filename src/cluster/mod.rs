//! The live cluster: discovery, reads, dry run, writes, impersonation, readiness, diffs.
//!
//! Everything that talks to the API server about objects other than our own kinds goes through [`Access`], which acts
//! as one identity, most often an impersonated service account. What can be decided from values alone ([`diff`],
//! [`inverse`], [`readiness`], [`redact`]) is a pure function.

mod access;
mod again;
mod catalog;
mod clock;
mod connection;
mod delegation;
mod diff;
mod discovery;
mod error;
mod failure;
mod image;
mod inverse;
mod ownership;
mod pods;
mod prometheus;
mod readiness;
mod redact;
mod request;
mod table;
mod watch;
mod write;

#[cfg(test)]
mod api_tests;

pub use access::{Access, EventLine, ListOptions};
pub use catalog::{Catalog, ResourceKind};
pub use connection::{Asked, Cluster, Review, Subject};
pub use delegation::Delegation;
pub use diff::diff;
pub use error::{Attempt, ClusterError};
pub use failure::{Failure, PodFailure, pod_failure, warnings, with_warnings, workload_failure};
pub use image::{ImageError, ImageReference, parse_image};
pub use inverse::{Drift, Inverse, drift, inverse, landed, one_way};
pub use ownership::{SetBy, set_by};
pub use prometheus::{Prometheus, PrometheusError, Truth};
pub use readiness::{Readiness, is_ready_once_stored, readiness};
pub use redact::{redact, redact_parameters, redact_text};
pub use table::Table;
pub use watch::{WATCH_PAUSE, watch_backoff};
pub use write::WriteOptions;
