//! The plugin's screens: pure functions from objects to text.

mod changes;
mod history;
mod list;
mod plan;
#[cfg(test)]
mod samples;

pub use history::{Entry, entries, render as render_history};
pub use list::render as render_list;
pub use plan::{approvals_counted, approvals_required, render as render_plan};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// A moment, to the second, in UTC: the same text wherever it is read.
fn when(time: &Time) -> String {
    time.0.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}
