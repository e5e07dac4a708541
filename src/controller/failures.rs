use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The pause after the first failure; each further one doubles it.
const FIRST: Duration = Duration::from_secs(1);
/// The longest pause: a lasting fault must cost next to nothing, and its end be noticed within minutes.
const LONGEST: Duration = Duration::from_secs(300);
/// How long after its last failure an object starts from the beginning again. Longer than [`LONGEST`], or no pause could
/// ever grow that far.
const FORGOTTEN: Duration = Duration::from_secs(900);

/// How often the reconciliation of each object failed in a row.
#[derive(Default)]
pub(super) struct Failures {
    recent: Mutex<HashMap<String, (u32, Instant)>>,
}

impl Failures {
    /// Whether the reconciliation of the object with that uid failed a short while ago.
    pub fn are_known(&self, uid: &str) -> bool {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.get(uid).is_some_and(|(_, last)| last.elapsed() < FORGOTTEN)
    }

    /// Notes a failure of the object with that uid, and gives how long to leave it alone: 1 s, 2 s, 4 s … up to 5 min.
    pub fn pause(&self, uid: &str) -> Duration {
        let now = Instant::now();
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.retain(|_, (_, last)| now.duration_since(*last) < FORGOTTEN);
        let (count, last) = recent.entry(uid.to_owned()).or_insert((0, now));
        let pause = FIRST.saturating_mul(2_u32.saturating_pow(*count)).min(LONGEST);
        *count = count.saturating_add(1);
        *last = now;
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_for_each_object_on_its_own() {
        let failures = Failures::default();
        let pauses: Vec<u64> = (0..12).map(|_| failures.pause("a").as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        assert!(!failures.are_known("b"));
        assert_eq!(failures.pause("b"), FIRST);
        assert!(failures.are_known("b"));
    }
}
