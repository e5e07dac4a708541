//! The live cluster: discovery, reads, dry run, writes, impersonation, readiness, diffs.
//!
//! Everything that talks to the API server about objects other than our own kinds goes through [`Access`], which acts
//! as one identity, most often an impersonated service account.

mod catalog;
mod image;

pub use catalog::{Catalog, ResourceKind};
pub use image::{ImageError, ImageReference, parse_image};
