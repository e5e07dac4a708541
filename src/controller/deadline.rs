//! The end that the kernel puts to a replica that does not learn in time that it leads no longer.
//!
//! Whoever leads looks at its lease before it sends a write. A process that is frozen between the two would send it when it
//! wakes up, whatever happened meanwhile, and no precondition keeps it from creating what another replica has removed
//! again. So the kernel is told beforehand to kill the process when its lease runs out: it does so while the process is
//! stopped, or before it executes another instruction.

use std::time::Duration;

/// When the process ends, unless it puts that off.
#[derive(Debug)]
pub(super) struct Deadline {
    #[cfg(target_os = "linux")]
    timer: Option<nix::sys::timer::Timer>,
}

/// A point in time by a clock that goes on while the machine sleeps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment(#[cfg(target_os = "linux")] Duration);

const UNAVAILABLE: &str = "the kernel cannot end this replica when its lease runs out: frozen, it may write once more after another took over";

#[cfg(target_os = "linux")]
mod linux {
    use super::{Deadline, Duration, Moment, UNAVAILABLE};
    use nix::sys::signal::{SigEvent, SigevNotify, Signal};
    use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
    use nix::time::{ClockId, clock_gettime};

    /// Unlike the monotonic clock it counts the time for which the machine sleeps.
    const CLOCK: ClockId = ClockId::CLOCK_BOOTTIME;
    /// As a remaining time, zero would mean never.
    const AT_ONCE: Duration = Duration::from_nanos(1);
    /// The process that the kernel spares, whatever signal comes from within its namespace.
    const INIT: u32 = 1;

    impl Moment {
        pub fn now() -> Self {
            Self(clock_gettime(CLOCK).map(Duration::from).unwrap_or_default())
        }
    }

    impl Deadline {
        /// None so far. With `COUNTERSIGN_DEADLINE=off`, which nobody but tests sets, there never is one.
        pub fn new() -> Self {
            if std::env::var_os("COUNTERSIGN_DEADLINE").is_some_and(|value| value == "off") {
                return Self { timer: None };
            }
            if std::process::id() == INIT {
                tracing::warn!(
                    "{UNAVAILABLE}; give the pod shareProcessNamespace, so that this is not the first process of its namespace"
                );
                return Self { timer: None };
            }
            // What is stopped is woken by this signal alone, and ends by it without executing anything.
            let kill = SigEvent::new(SigevNotify::SigevSignal { signal: Signal::SIGKILL, si_value: 0 });
            let timer = Timer::new(CLOCK, kill);
            if let Err(error) = &timer {
                tracing::warn!(%error, "{UNAVAILABLE}");
            }
            Self { timer: timer.ok() }
        }

        /// Ends the process so long after `since`, instead of when it was to end before.
        pub fn put_off(&mut self, since: Moment, time: Duration) {
            let Some(timer) = &mut self.timer else { return };
            // What is left, not the moment itself: frozen right here, the process ends by the deadline that still stands.
            let left = (since.0 + time).saturating_sub(Moment::now().0).max(AT_ONCE);
            if let Err(error) = timer.set(Expiration::OneShot(left.into()), TimerSetTimeFlags::empty()) {
                tracing::warn!(%error, "{UNAVAILABLE}");
            }
        }

        /// The process ends when it likes.
        pub fn lift(&mut self) {
            if let Some(timer) = &mut self.timer {
                let _ = timer.set(Expiration::OneShot(Duration::ZERO.into()), TimerSetTimeFlags::empty());
            }
        }

        /// What is left.
        #[cfg(test)]
        pub fn left(&self) -> Option<Duration> {
            match self.timer.as_ref()?.get().ok()?? {
                Expiration::OneShot(left) => Some(left.into()),
                _ => None,
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
impl Moment {
    pub fn now() -> Self {
        Self()
    }
}

/// Operators run on Linux. Elsewhere they are tried out, and only their own looks at the lease keep them from writing.
#[cfg(not(target_os = "linux"))]
impl Deadline {
    pub fn new() -> Self {
        tracing::warn!("{UNAVAILABLE}");
        Self {}
    }

    pub fn put_off(&mut self, _: Moment, _: Duration) {}

    pub fn lift(&mut self) {}
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn a_deadline_counts_from_a_moment_that_is_over() {
        let mut deadline = Deadline::new();
        assert_eq!(deadline.left(), None);
        // The machine may have been started a moment ago.
        let ago = (Moment::now().0 / 2).min(LONG / 2);
        deadline.put_off(Moment(Moment::now().0 - ago), LONG);
        let left = deadline.left().unwrap();
        assert!(left <= LONG - ago && left > LONG / 4, "{left:?}");
        deadline.put_off(Moment::now(), LONG);
        assert!(deadline.left().unwrap() > LONG / 2, "put off");
        deadline.lift();
        assert_eq!(deadline.left(), None);
    }
}
