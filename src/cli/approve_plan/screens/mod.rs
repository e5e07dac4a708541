//! The plugin's screens: pure functions from objects to text.

mod changes;
mod history;
mod list;
mod plan;
#[cfg(test)]
mod samples;

pub use history::{entries, render as render_history};
pub use list::{Columns, render as render_list};
pub use plan::render as render_plan;

use crate::api::hours_minutes_seconds;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::core::Duration;

/// A moment, to the second, in UTC: the same text wherever it is read.
fn when(time: &Time) -> String {
    time.0.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// A duration as one would write it: `5m`, `1h30m`, `1.5s`.
fn duration(duration: Duration) -> String {
    let duration = std::time::Duration::from(duration);
    let seconds = duration.as_secs();
    if duration.subsec_nanos() != 0 || seconds == 0 {
        return format!("{duration:?}");
    }
    hours_minutes_seconds(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_in_their_largest_units() {
        let texts = [0, 500, 1_500, 30_000, 300_000, 5_400_000, 7_201_000]
            .map(|ms| duration(std::time::Duration::from_millis(ms).into()));
        assert_eq!(texts, ["0ns", "500ms", "1.5s", "30s", "5m", "1h30m", "2h1s"]);
    }
}
