use http::{HeaderMap, Uri, header};
use jiff::{SignedDuration, Timestamp};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// The header gives whole seconds, and answers take a while: what differs by less tells nothing new.
const TOLERANCE: SignedDuration = SignedDuration::from_secs(2);

/// The API server's time of day, as its answers tell it. What objects say about time, such as when an approval was given, is
/// said by that clock, and only that one is the same for every replica. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct ServerClock {
    /// A time that the server told, and when that was by this process's monotonic clock.
    told: Arc<Mutex<Option<(Timestamp, Instant)>>>,
}

impl ServerClock {
    /// The time by the server's clock, at most two seconds and the way of an answer late, never early; by this machine's
    /// as long as the server has not told it.
    pub fn now(&self) -> Timestamp {
        let told = *self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.map_or_else(Timestamp::now, |told| later(told, Instant::now()))
    }

    /// Takes the time from an answer that just arrived.
    pub fn note(&self, uri: &Uri, headers: &HeaderMap) {
        // Others may answer behind the API server, with clocks of their own, but not for these.
        if !["/apis/coordination.k8s.io/", "/apis/countersign.dev/"].iter().any(|own| uri.path().starts_with(own)) {
            return;
        }
        let date = headers.get(header::DATE).and_then(|date| date.to_str().ok());
        let date = date.and_then(|date| jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(date).ok());
        if let Some(date) = date {
            self.tell(date, Instant::now());
        }
    }

    fn tell(&self, date: Timestamp, at: Instant) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let off = told.map(|told| later(told, at).duration_since(date));
        // The date is rounded down: a later one is nearer to the truth, an earlier one may mean the same moment.
        if off.is_none_or(|off| off.is_negative() || off > TOLERANCE) {
            *told = Some((date, at));
        }
    }
}

fn later((date, at): (Timestamp, Instant), now: Instant) -> Timestamp {
    date.saturating_add(now.saturating_duration_since(at)).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use std::time::Duration;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn shows(clock: &ServerClock, now: Instant) -> f64 {
        later(clock.told.lock().unwrap().unwrap(), now).duration_since(at(0)).as_secs_f64()
    }

    #[test]
    fn the_time_comes_as_near_as_whole_seconds_let_it() {
        let (clock, begun) = (ServerClock::default(), Instant::now());
        let after = |millis: u64| begun + Duration::from_millis(millis);
        // The server's clock shows 100.9 when this begins.
        for (millis, date) in [(0, 100), (150, 101), (300, 101), (1000, 101), (1500, 102)] {
            clock.tell(at(date), after(millis));
        }
        let shown = shows(&clock, after(2000));
        assert!((102.8..=102.9).contains(&shown), "{shown}");
    }

    #[test]
    fn a_server_whose_clock_is_put_right_is_followed_both_ways() {
        let (clock, begun) = (ServerClock::default(), Instant::now());
        for date in [1000, 5000, 2000] {
            clock.tell(at(date), begun);
            assert!((shows(&clock, begun) - f64::from(i32::try_from(date).unwrap())).abs() < f64::EPSILON);
        }
    }

    #[test]
    fn only_the_api_server_itself_is_asked_for_the_time() {
        let clock = ServerClock::default();
        let mut headers = HeaderMap::new();
        let note = |path: &'static str, headers: &HeaderMap| clock.note(&Uri::from_static(path), headers);
        note("/apis/coordination.k8s.io/v1/namespaces/a/leases/b", &headers);
        headers.insert(header::DATE, HeaderValue::from_static("Sun, 01 Mar 1970 10:00:30 GMT"));
        note("/apis/metrics.k8s.io/v1beta1/nodes", &headers);
        assert!(clock.now() > at(1_700_000_000), "this machine's");
        note("/apis/coordination.k8s.io/v1/namespaces/a/leases/b", &headers);
        assert!(clock.now() >= at(5_133_630) && clock.now() < at(5_133_690));
        headers.insert(header::DATE, HeaderValue::from_static("soon"));
        note("/apis/countersign.dev/v1alpha1/planpolicies", &headers);
        assert!(clock.now() < at(5_133_690));
    }
}
