use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The pause after the first failure; each further one doubles it.
const FIRST: Duration = Duration::from_secs(1);
/// The longest pause: a lasting fault must cost next to nothing, and its end be noticed within minutes.
const LONGEST: Duration = Duration::from_secs(300);
/// The longest pause after what passes by itself, such as an API server that is not there: its end is noticed in seconds.
const LONGEST_PASSING: Duration = Duration::from_secs(10);
/// How long after its last failure an object starts from the beginning again. Longer than [`LONGEST`], or no pause could
/// ever grow that far.
const FORGOTTEN: Duration = Duration::from_secs(900);

/// How often the reconciliation of each object failed in a row.
#[derive(Default)]
pub(super) struct Failures {
    recent: Mutex<HashMap<String, (u32, Instant)>>,
}

impl Failures {
    /// Whether the reconciliation of an object failed a short while ago.
    pub fn are_known(&self, object: &str) -> bool {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.get(object).is_some_and(|(_, last)| last.elapsed() < FORGOTTEN)
    }

    /// Notes a failure of an object, and gives how long to leave it alone: 1 s, 2 s, 4 s … up to 5 min, or up to 10 s when
    /// the failure `passes` by itself.
    pub fn pause(&self, object: &str, passes: bool) -> Duration {
        let now = Instant::now();
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.retain(|_, (_, last)| now.duration_since(*last) < FORGOTTEN);
        let (count, last) = recent.entry(object.to_owned()).or_insert((0, now));
        let pause =
            FIRST.saturating_mul(2_u32.saturating_pow(*count)).min(if passes { LONGEST_PASSING } else { LONGEST });
        *count = count.saturating_add(1);
        *last = now;
        pause
    }

    /// Notes that an object was reconciled: its next failure is a first one.
    pub fn forget(&self, object: &str) {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).remove(object);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_for_each_object_on_its_own() {
        let failures = Failures::default();
        let pauses: Vec<u64> = (0..12).map(|_| failures.pause("a", false).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        assert!(!failures.are_known("b"));
        assert_eq!(failures.pause("b", false), FIRST);
        assert!(failures.are_known("b"));
    }

    #[test]
    fn what_passes_by_itself_is_looked_at_again_soon() {
        let failures = Failures::default();
        let pauses: Vec<u64> = (0..6).map(|_| failures.pause("a", true).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 10, 10]);
        failures.forget("a");
        assert_eq!(failures.pause("a", true), FIRST);
    }
}
