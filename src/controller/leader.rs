//! Leader election by a Lease: of several replicas one works, the others wait.
//!
//! The rules are those of client-go's leader election: whoever waits judges the lease by its own clock, from the moment at
//! which it last saw it renewed, so that clocks need not agree; whoever leads stops well before anybody else may start.
//! Beyond those rules the kernel ends a leader that cannot stop by itself.

use super::deadline::{Deadline, Moment};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Name of the Lease in the operator's namespace.
const LEASE: &str = "countersign";
/// How long a lease that is not renewed keeps others out.
const DURATION: Duration = Duration::from_secs(15);
/// How long a leader that cannot renew goes on. The rest of [`DURATION`] is for writes that are under way.
const DEADLINE: Duration = Duration::from_secs(10);
/// How often a leader renews.
const RENEWAL: Duration = Duration::from_secs(4);
/// How often whoever waits looks.
const RETRY: Duration = Duration::from_secs(2);
/// How soon a leader tries again after a failed renewal.
const RENEWAL_RETRY: Duration = Duration::from_secs(1);
/// How long one try may take: a single answer that does not come must not cost the lead.
const TRY: Duration = Duration::from_millis(2500);

/// The word that this process may work. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Leadership {
    renewed: Arc<Mutex<Option<Instant>>>,
}

impl Leadership {
    /// Whether this process still leads, by its own clock. A process that was frozen finds out here before it does
    /// anything else.
    #[must_use]
    pub fn holds(&self) -> bool {
        let renewed = self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        renewed.is_some_and(|at| at.elapsed() < DEADLINE)
    }

    fn renew(&self, at: Instant) {
        *self.renewed.lock().unwrap_or_else(PoisonError::into_inner) = Some(at);
    }

    fn lose(&self) {
        *self.renewed.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// One replica's part in the election.
pub(super) struct Elector {
    leases: Api<Lease>,
    identity: String,
    leadership: Leadership,
    deadline: Deadline,
    /// The lease as this replica wrote it last, for renewing without reading.
    held: Option<Lease>,
    /// The lease as it was last seen to change, and when that was by this process's clock.
    seen: Option<(LeaseSpec, Instant)>,
}

/// What a try is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Aim {
    /// To lead from now on.
    Acquire,
    /// To go on leading, without anybody else in between.
    Renew,
}

/// What to do about a lease.
#[derive(Debug, PartialEq)]
enum Move {
    /// Write this: it is ours, free, or no longer renewed.
    Take(LeaseSpec),
    /// Somebody else holds it.
    Wait,
}

impl Elector {
    /// An elector for the lease of `namespace`, under a name that no other replica has.
    pub fn new(client: Client, namespace: &str, identity: String) -> Self {
        let leases = Api::namespaced(client, namespace);
        let (leadership, deadline) = (Leadership::default(), Deadline::new());
        Self { leases, identity, leadership, deadline, held: None, seen: None }
    }

    /// The word that is kept up to date.
    pub fn leadership(&self) -> Leadership {
        self.leadership.clone()
    }

    /// Waits until this replica leads, or `stop` is cancelled. Whether it leads.
    pub async fn acquire(&mut self, stop: &CancellationToken) -> bool {
        let mut told = false;
        loop {
            if self.attempt(Aim::Acquire).await {
                tracing::info!(identity = self.identity, "leading");
                return true;
            }
            if !told {
                let holder = self.seen.as_ref().and_then(|(lease, _)| lease.holder_identity.clone());
                tracing::info!(identity = self.identity, holder, "waiting: another replica leads");
                told = true;
            }
            tokio::select! {
                () = stop.cancelled() => return false,
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }

    /// Keeps the lease until it is lost, or `stop` is cancelled. Whether it was lost.
    pub async fn keep(&mut self, stop: &CancellationToken) -> bool {
        loop {
            let pause = if self.leadership.holds() { RENEWAL } else { Duration::ZERO };
            tokio::select! {
                () = stop.cancelled() => return false,
                () = tokio::time::sleep(pause) => {}
            }
            while !self.attempt(Aim::Renew).await {
                if !self.leadership.holds() {
                    self.leadership.lose();
                    return true;
                }
                tokio::time::sleep(RENEWAL_RETRY).await;
            }
        }
    }

    /// Gives the lease back, so that the next replica need not wait for it to run out.
    pub async fn release(&mut self) {
        self.leadership.lose();
        // Nothing is under way any more.
        self.deadline.lift();
        let Ok(Some(mut lease)) = self.leases.get_opt(LEASE).await else { return };
        let Some(spec) = lease.spec.as_mut().filter(|spec| spec.holder_identity.as_ref() == Some(&self.identity))
        else {
            return;
        };
        spec.holder_identity = None;
        spec.lease_duration_seconds = Some(1);
        if let Err(error) = self.leases.replace(LEASE, &PostParams::default(), &lease).await {
            tracing::info!(%error, "the lease was not given back; it runs out by itself");
        }
    }

    /// Takes or renews the lease if that is possible now. Whether this replica leads.
    async fn attempt(&mut self, aim: Aim) -> bool {
        let (begun, moment) = (Instant::now(), Moment::now());
        match tokio::time::timeout(TRY, self.write(aim)).await {
            Ok(Ok(true)) => {
                // From before the request: the server may have stored it at any moment since.
                self.deadline.put_off(moment, DURATION);
                self.leadership.renew(begun);
                true
            }
            Ok(Ok(false)) => {
                self.leadership.lose();
                false
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "the lease could not be read or written");
                false
            }
            Err(_) => {
                tracing::warn!("the lease could not be read or written in time");
                false
            }
        }
    }

    async fn write(&mut self, aim: Aim) -> Result<bool, kube::Error> {
        if let Some(mut lease) = self.held.take() {
            let current = lease.spec.clone().unwrap_or_default();
            if let Move::Take(spec) = decide(&current, &self.identity, Duration::ZERO, Timestamp::now()) {
                lease.spec = Some(spec);
                match self.leases.replace(LEASE, &PostParams::default(), &lease).await {
                    Ok(written) => {
                        self.hold(written);
                        return Ok(true);
                    }
                    // Somebody else wrote it, or an earlier renewal whose answer was lost: reading tells.
                    Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        let stored = self.leases.get_opt(LEASE).await?;
        let current = stored.as_ref().and_then(|lease| lease.spec.clone()).unwrap_or_default();
        if self.seen.as_ref().is_none_or(|(seen, _)| *seen != current) {
            self.seen = Some((current.clone(), Instant::now()));
        }
        if aim == Aim::Renew && current.holder_identity.as_ref() != Some(&self.identity) {
            // Somebody else led, or may have: what this process knows of its work is old, even where the lease is free.
            return Ok(false);
        }
        let unchanged = self.seen.as_ref().map_or(Duration::ZERO, |(_, since)| since.elapsed());
        let Move::Take(spec) = decide(&current, &self.identity, unchanged, Timestamp::now()) else { return Ok(false) };
        let written = match stored {
            Some(mut lease) => {
                lease.spec = Some(spec);
                self.leases.replace(LEASE, &PostParams::default(), &lease).await
            }
            None => {
                let metadata = ObjectMeta { name: Some(LEASE.to_owned()), ..ObjectMeta::default() };
                let lease = Lease { metadata, spec: Some(spec) };
                self.leases.create(&PostParams::default(), &lease).await
            }
        };
        match written {
            Ok(written) => {
                self.hold(written);
                Ok(true)
            }
            // Somebody else was quicker; or was not, where this replica leads: until it is read again, the lease that it
            // renewed in time stands.
            Err(kube::Error::Api(status)) if status.code == 409 && !self.leadership.holds() => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn hold(&mut self, written: Lease) {
        self.seen = written.spec.clone().map(|spec| (spec, Instant::now()));
        self.held = Some(written);
    }
}

/// Whether the lease can be taken, and what it says then. `unchanged` is for how long it has looked like this.
fn decide(lease: &LeaseSpec, identity: &str, unchanged: Duration, now: Timestamp) -> Move {
    let holder = lease.holder_identity.as_deref().filter(|holder| !holder.is_empty());
    let ours = holder == Some(identity);
    // No replica writes a longer one: what somebody else wrote keeps nobody out for longer than a replica that died does.
    let lasts = lease.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    let lasts = lasts.map_or(DURATION, Duration::from_secs).min(DURATION);
    if holder.is_some() && !ours && unchanged < lasts {
        return Move::Wait;
    }
    let now = MicroTime(now);
    let transitions = lease.lease_transitions.unwrap_or(0);
    Move::Take(LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
        acquire_time: if ours { lease.acquire_time.clone() } else { Some(now.clone()) },
        renew_time: Some(now),
        lease_transitions: Some(if ours { transitions } else { transitions.saturating_add(1) }),
        ..LeaseSpec::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held_by(holder: &str) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(15),
            lease_transitions: Some(3),
            ..LeaseSpec::default()
        }
    }

    fn taken(lease: &LeaseSpec, unchanged: u64) -> Option<LeaseSpec> {
        match decide(lease, "me", Duration::from_secs(unchanged), Timestamp::UNIX_EPOCH) {
            Move::Take(spec) => Some(spec),
            Move::Wait => None,
        }
    }

    #[test]
    fn a_lease_that_is_renewed_keeps_others_out() {
        assert_eq!(taken(&held_by("you"), 14), None);
        assert!(taken(&held_by("you"), 15).is_some());
    }

    #[test]
    fn a_lease_that_claims_a_day_lasts_no_longer_than_a_replicas() {
        for seconds in [86_400, i32::MAX, 16, -1] {
            let claimed = LeaseSpec { lease_duration_seconds: Some(seconds), ..held_by("attacker") };
            assert_eq!(taken(&claimed, 14), None, "{seconds}");
            assert!(taken(&claimed, 15).is_some(), "{seconds}");
        }
    }

    #[test]
    fn a_free_lease_is_taken_at_once() {
        assert!(taken(&LeaseSpec::default(), 0).is_some());
        assert!(taken(&held_by(""), 0).is_some());
    }

    #[test]
    fn changing_hands_is_counted_renewing_is_not() {
        assert_eq!(taken(&held_by("me"), 0).and_then(|spec| spec.lease_transitions), Some(3));
        assert_eq!(taken(&held_by("you"), 20).and_then(|spec| spec.lease_transitions), Some(4));
    }

    #[test]
    fn a_word_that_is_not_renewed_does_not_hold() {
        let word = Leadership::default();
        assert!(!word.holds());
        word.renew(Instant::now());
        assert!(word.holds());
        word.lose();
        assert!(!word.holds());
        if let Some(long_ago) = Instant::now().checked_sub(DEADLINE) {
            word.renew(long_ago);
            assert!(!word.holds());
        }
    }
}
