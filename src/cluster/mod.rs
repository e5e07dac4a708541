//! The live cluster: discovery, reads, dry run, writes, impersonation, readiness, diffs.
//!
//! Everything that talks to the API server about objects other than our own kinds goes through [`Access`], which acts
//! as one identity, most often an impersonated service account.

mod catalog;

pub use catalog::{Catalog, ResourceKind};
