use super::ModelError;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// No wait between two attempts grows beyond this.
const LONGEST_BACKOFF: Duration = Duration::from_secs(20);
const MINUTE: Duration = Duration::from_secs(60);

/// How long to wait before attempt `retry + 1`: a random time up to `first`, doubled with each retry (full jitter), on
/// top of what the server asked for. None when the server wants to be left alone for longer than `longest`: then
/// somebody else had better serve.
pub(super) fn backoff(
    retry: u32,
    first: Duration,
    retry_after: Option<Duration>,
    longest: Duration,
) -> Option<Duration> {
    if retry_after.is_some_and(|wait| wait > longest) {
        return None;
    }
    let most = first.saturating_mul(2u32.saturating_pow(retry)).min(LONGEST_BACKOFF);
    Some(retry_after.unwrap_or_default() + most.mul_f64(rand::random()))
}

/// The wait that a `Retry-After` header asks for, which gives seconds or an HTTP date (RFC 9110, section 10.2.3).
pub(super) fn retry_after(header: &str, now: jiff::Timestamp) -> Option<Duration> {
    let header = header.trim();
    if !header.is_empty() && header.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(header.parse().unwrap_or(u64::MAX)));
    }
    let at = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(header).ok()?;
    Some(Duration::try_from(at.duration_since(now)).unwrap_or_default())
}

/// A token bucket that holds one minute's calls, so that a burst is served at once and the mean rate is kept.
///
/// It keeps only the time at which it would be full again (the generic cell rate algorithm); whoever has to wait has a
/// place in the queue.
#[derive(Debug)]
pub(super) struct Bucket {
    per_minute: u32,
    full_at: Mutex<Option<Instant>>,
}

impl Bucket {
    pub(super) fn new(per_minute: u32) -> Self {
        Self { per_minute: per_minute.max(1), full_at: Mutex::new(None) }
    }

    /// Takes the next turn, and says how long it is until then.
    ///
    /// # Errors
    /// [`ModelError::OverOwnLimit`] when that is longer than `longest`; then no turn is taken.
    pub(super) fn take(&self, now: Instant, longest: Duration) -> Result<Duration, ModelError> {
        let interval = MINUTE / self.per_minute;
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        let full_after = full_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now)) + interval;
        let wait = full_after.saturating_sub(interval * self.per_minute);
        if wait > longest {
            return Err(ModelError::OverOwnLimit { per_minute: self.per_minute, next_in: wait });
        }
        *full_at = Some(now + full_after);
        Ok(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_minutes_calls_are_served_at_once_and_the_next_waits_its_turn() {
        let bucket = Bucket::new(6);
        let start = Instant::now();
        for _ in 0..6 {
            assert_eq!(bucket.take(start, 30 * SECOND), Ok(Duration::ZERO));
        }
        assert_eq!(bucket.take(start, 30 * SECOND), Ok(10 * SECOND));
        assert_eq!(bucket.take(start, 30 * SECOND), Ok(20 * SECOND));
        assert_eq!(bucket.take(start, 30 * SECOND), Ok(30 * SECOND));
        let refused = ModelError::OverOwnLimit { per_minute: 6, next_in: 40 * SECOND };
        assert_eq!(bucket.take(start, 30 * SECOND), Err(refused.clone()));
        assert_eq!(bucket.take(start, 30 * SECOND), Err(refused), "a refusal takes no turn");
        assert_eq!(bucket.take(start + 10 * SECOND, 30 * SECOND), Ok(30 * SECOND));
        assert_eq!(bucket.take(start + 200 * SECOND, Duration::ZERO), Ok(Duration::ZERO));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now: jiff::Timestamp = "2026-03-01T10:00:00Z".parse().unwrap();
        assert_eq!(retry_after("120", now), Some(120 * SECOND));
        assert_eq!(retry_after(" 0 ", now), Some(Duration::ZERO));
        assert_eq!(retry_after("Sun, 01 Mar 2026 10:00:30 GMT", now), Some(30 * SECOND));
        assert_eq!(retry_after("Sun, 01 Mar 2026 09:00:00 GMT", now), Some(Duration::ZERO), "in the past: now");
        assert_eq!(retry_after("99999999999999999999999999", now), Some(Duration::from_secs(u64::MAX)));
        assert_eq!(retry_after("soon", now), None);
        assert_eq!(retry_after("-5", now), None);
        assert_eq!(retry_after("", now), None);
    }

    #[test]
    fn a_server_that_wants_a_longer_rest_than_the_timeout_is_not_asked_again() {
        assert_eq!(backoff(0, SECOND, Some(31 * SECOND), 30 * SECOND), None);
        assert!(backoff(0, SECOND, Some(30 * SECOND), 30 * SECOND).is_some());
    }

    proptest! {
        #[test]
        fn backoff_is_within_its_bounds(retry in 0u32..40, first in 0u64..5_000, asked in proptest::option::of(0u64..30_000)) {
            let (first, asked) = (Duration::from_millis(first), asked.map(Duration::from_millis));
            let wait = backoff(retry, first, asked, 30 * SECOND).unwrap();
            let least = asked.unwrap_or_default();
            prop_assert!(wait >= least);
            prop_assert!(wait <= least + LONGEST_BACKOFF);
            prop_assert!(wait <= least + first.saturating_mul(2u32.saturating_pow(retry)));
        }

        #[test]
        fn no_window_sees_more_than_the_burst_and_the_rate(per_minute in 1u32..200, gaps in prop::collection::vec(0u64..5_000, 1..200)) {
            let bucket = Bucket::new(per_minute);
            let start = Instant::now();
            let (mut now, mut served) = (start, 0u32);
            for gap in gaps {
                now += Duration::from_millis(gap);
                served += u32::from(bucket.take(now, Duration::ZERO).is_ok());
            }
            let minutes = now.duration_since(start).as_secs_f64() / 60.0;
            prop_assert!(f64::from(served) <= f64::from(per_minute) * (1.0 + minutes) + 1e-6);
        }
    }
}
