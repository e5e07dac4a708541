use super::effect::Effects;
use super::journal::{Action, Bounds, Decision, Journal, Observation, Outcome, Signals, next};
use super::readiness::spoken;
use super::record::Record;
use super::status::settle_status;
use super::stop::{crash_point, pause_point};
use crate::api::{ExecutionPlan, ExecutionPlanStatus};
use crate::approval::ApprovedPlan;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Client, ResourceExt};
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tracing::Instrument;

/// How many steps are under way at once.
const PARALLEL: usize = 16;
/// How many more are prepared meanwhile, where the ones before them cannot hold them up: all of a plan, whose every write of the
/// journal takes the API server the longer the more steps it has, up to a second.
const AHEAD: usize = 1000;
/// How long news may wait for company before they are written for people to see.
const QUIET: Duration = Duration::from_millis(250);
/// For how many times as long as the last write of the journal took news wait, too: writing takes a tenth of the time at most.
const NEWS: u32 = 10;
/// The same for intents, which hold up what they announce.
const COMPANY: u32 = 4;
/// How long after a plan was begun that is written down at the latest, or as long as the writing may take.
const FIRST: Duration = Duration::from_millis(100);

/// Something happened to a step, for events and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepEvent {
    /// The step; empty for the plan as a whole.
    pub step: String,
    /// `Applied`, `Completed`, `Failed`, `RolledBack` …
    pub reason: &'static str,
    /// In one sentence.
    pub message: String,
    /// Whether it is bad news.
    pub warning: bool,
}

/// Why driving stopped without an end of the plan.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    /// The status could not be written, so nothing more may be done.
    #[error("the journal of plan {plan} could not be written: {source}")]
    Journal {
        /// The plan.
        plan: String,
        /// The API server's answer.
        source: Box<kube::Error>,
    },
    /// Somebody else wrote the status: another replica carries the plan out.
    #[error("the journal of plan {0} was written by somebody else meanwhile")]
    Overtaken(String),
    /// The plan is gone.
    #[error("plan {0} is gone")]
    Gone(String),
}

/// Carries one approved plan out, from wherever its journal stands to its end.
pub struct Driver {
    plan: ExecutionPlan,
    status: ExecutionPlanStatus,
    record: Record,
    effects: Effects,
    signals: watch::Receiver<Signals>,
    events: mpsc::UnboundedSender<StepEvent>,
}

impl Driver {
    /// A driver for `approved`, whose next status write starts from `status`. `signals` tells what people ask for
    /// meanwhile; `events` hears of every transition.
    #[must_use]
    pub fn new(
        client: Client,
        approved: &ApprovedPlan,
        status: ExecutionPlanStatus,
        effects: Effects,
        signals: watch::Receiver<Signals>,
        events: mpsc::UnboundedSender<StepEvent>,
    ) -> Self {
        let plan = approved.plan().clone();
        let record = Record::new(client, &plan);
        Self { plan, status, record, effects, signals, events }
    }

    /// Runs to the end of the plan, and gives it as it was stored then. The write that journals an intent always precedes
    /// the effect.
    ///
    /// # Errors
    /// When the journal cannot be written: nothing more is done then, and driving can be taken up again later.
    pub async fn run(mut self) -> Result<(Outcome, ExecutionPlan), DriveError> {
        let steps = Arc::new(self.plan.spec.steps.clone());
        let mut journal = Journal::new(&steps, &self.status);
        let bounds = Bounds { parallel: PARALLEL, ahead: AHEAD, observe: self.plan.spec.observe.is_some() };
        let mut under_way: Vec<Action> = Vec::new();
        // As tasks, so that they go on while the journal is written; they end with this driver.
        let mut running = JoinSet::new();
        journal.heed(&self.signals.borrow_and_update(), &under_way);
        if self.status.started_at.is_some() {
            let leftovers = self.leftovers(&journal).await;
            journal.unnamed.extend(leftovers);
        } else {
            self.status.started_at = Some(self.now());
        }
        // The first write takes the plan up, together with the first intents: it fails when what this driver was given is not
        // what is stored. Until then it only looks, and stores snapshots that nothing rests on.
        let mut first = Some(Instant::now() + FIRST.max(self.record.took()));
        let mut dirty = true;
        let mut announcing: Option<Instant> = None;
        loop {
            let signals = self.signals.borrow_and_update().clone();
            let time_left = self.time_left(&journal);
            if time_left == Some(Duration::ZERO) {
                journal.time_is_up(&steps, &under_way, &self.allowed(), &self.now());
                self.report("", "TimedOut", journal.rollback_reason.clone().unwrap_or_default(), true);
                dirty = true;
            }
            dirty |= journal.heed(&signals, &under_way);
            under_way.retain(|action| !action.can_be_left(&steps, &journal, &signals));
            let (begin, announce) = match next(&steps, &journal, &under_way, &signals, bounds) {
                Decision::Act { begin, announce } => (begin, announce),
                Decision::End(outcome) => {
                    let now = self.now();
                    settle_status(&mut self.status, &self.plan, &journal, Some(&outcome), &now);
                    self.record.write(&self.status, &self.effects.fence).await?;
                    self.tidy(&mut journal);
                    self.plan.metadata = self.record.metadata();
                    self.plan.status = Some(self.status);
                    return Ok((outcome, self.plan));
                }
            };
            let idle = begin.is_empty() && under_way.is_empty();
            for action in begin {
                under_way.push(action.clone());
                let (effects, steps) = (self.effects.clone(), Arc::clone(&steps));
                let entries = journal.entries_for(&action, &steps);
                let work = async move {
                    crash_point("before", &action);
                    pause_point("before", &action, &effects.plan_uid).await;
                    let observation = effects.perform(&action, &steps, &entries).await;
                    crash_point("after", &action);
                    (action, observation)
                };
                running.spawn(work.in_current_span());
            }
            // Only what changes the cluster needs its intent stored first: should the operator stop before the next
            // write, the rest is found out again from the live objects. Intents wait for company for as long as others are
            // at work, but not for long.
            let patience = (self.record.took() * COMPANY).min(QUIET);
            let announced = announce.then(|| *announcing.get_or_insert_with(Instant::now) + patience);
            let due = [announced, first].into_iter().flatten().min();
            let due = due.map(|due| due.saturating_duration_since(Instant::now()));
            if due == Some(Duration::ZERO) || (announce && idle) {
                self.store(&mut journal).await?;
                (dirty, announcing, first) = (false, None, None);
                continue;
            }
            let quiet = QUIET.max(self.record.took() * NEWS);
            let (action, observation) = tokio::select! {
                Some(done) = running.join_next() => finished(done),
                changed = self.signals.changed() => {
                    if changed.is_err() {
                        // Nobody listens any more: the operator is shutting down.
                        return Err(DriveError::Overtaken(self.plan.name_any()));
                    }
                    continue;
                }
                () = tokio::time::sleep(time_left.unwrap_or_default()), if time_left.is_some_and(|left| !left.is_zero()) => {
                    continue;
                }
                () = tokio::time::sleep(due.unwrap_or_default()), if due.is_some() => {
                    continue;
                }
                () = tokio::time::sleep(quiet), if dirty => {
                    self.store(&mut journal).await?;
                    (dirty, announcing, first) = (false, None, None);
                    continue;
                }
            };
            let mut seen = vec![(action, observation)];
            // Entries that are ready together share one write.
            while let Some(done) = running.try_join_next() {
                seen.push(finished(done));
            }
            for (action, observation) in seen {
                let Some(position) = under_way.iter().position(|known| *known == action) else { continue };
                under_way.remove(position);
                journal.apply(&observation, &self.now());
                dirty = true;
                self.tell(&observation);
            }
        }
    }

    /// What is left of the plan's time, as long as it has to hurry.
    fn time_left(&self, journal: &Journal) -> Option<Duration> {
        let allowed = Duration::from(self.plan.spec.timeout?);
        let (done, all) = journal.progress();
        let begun = self.status.started_at.as_ref().filter(|_| done < all && journal.rollback_reason.is_none())?;
        let gone = Duration::try_from(self.now().0.duration_since(begun.0)).unwrap_or_default();
        Some(allowed.saturating_sub(gone))
    }

    /// By the API server's clock: the replica that goes on with the plan may have another one of its own.
    fn now(&self) -> Time {
        Time(self.effects.cluster.now())
    }

    fn allowed(&self) -> String {
        self.plan.spec.timeout.map(|timeout| spoken(timeout.into())).unwrap_or_default()
    }

    async fn store(&mut self, journal: &mut Journal) -> Result<(), DriveError> {
        let now = self.now();
        settle_status(&mut self.status, &self.plan, journal, None, &now);
        self.record.write(&self.status, &self.effects.fence).await?;
        journal.stored();
        self.tidy(journal);
        Ok(())
    }

    /// Removes the snapshots that the journal, as it is stored now, does not name any more.
    fn tidy(&self, journal: &mut Journal) {
        let unnamed = std::mem::take(&mut journal.unnamed);
        if unnamed.is_empty() {
            return;
        }
        let effects = self.effects.clone();
        let work = async move {
            if let Err(error) = effects.snapshots.remove_some(&effects.plan_uid, &unnamed).await {
                tracing::warn!(%error, "snapshots that nothing rests on stay until the plan goes");
            }
        };
        tokio::spawn(work.in_current_span());
    }

    /// Snapshots of this plan that its journal does not name. They are in nobody's way: where they cannot be listed they stay
    /// until the plan goes.
    async fn leftovers(&self, journal: &Journal) -> Vec<String> {
        let named: HashSet<&str> = journal.entries.iter().filter_map(|entry| entry.snapshot.as_deref()).collect();
        let stored = self.effects.snapshots.names(&self.effects.plan_uid).await.unwrap_or_else(|error| {
            tracing::warn!(%error, plan = self.plan.name_any(), "its snapshots were not looked through");
            BTreeSet::new()
        });
        stored.into_iter().filter(|name| !named.contains(name.as_str())).collect()
    }

    fn tell(&self, observation: &Observation) {
        let (reason, message, warning) = match observation {
            Observation::Prepared { .. } => ("StepStarted", "snapshot stored; carrying it out".to_owned(), false),
            Observation::Skipped { message, .. } => ("StepSkipped", message.clone(), false),
            Observation::Refused { message, drifted: true, .. } => ("Drifted", message.clone(), true),
            Observation::Refused { message, .. } => ("StepRefused", message.clone(), true),
            Observation::Mutated { .. } => ("StepApplied", "carried out; checking the result".to_owned(), false),
            Observation::Released { .. } => ("StepReleased", "not begun after all".to_owned(), false),
            Observation::MutationFailed { message, .. }
            | Observation::Unsettled { message, .. }
            | Observation::VerifyFailed { message, .. } => ("StepFailed", message.clone(), true),
            Observation::Verified { message, .. } => ("StepCompleted", message.clone(), false),
            Observation::UndoBegun { .. } => ("UndoStarted", "putting the step back".to_owned(), false),
            Observation::Undone { message, .. } => ("StepRolledBack", message.clone(), false),
            Observation::UndoFailed { message, .. } => ("UndoFailed", message.clone(), true),
            Observation::Observed { degraded: None, .. } => ("Observed", "nothing degraded".to_owned(), false),
            Observation::Observed { degraded: Some(message), .. } => ("Degraded", message.clone(), true),
        };
        self.report(observation.step(), reason, message, warning);
        if let Observation::Mutated { verified: Some(message), .. } = observation {
            self.report(observation.step(), "StepCompleted", message.clone(), false);
        }
    }

    fn report(&self, step: &str, reason: &'static str, message: String, warning: bool) {
        let event = StepEvent { step: step.to_owned(), reason, message, warning };
        // The receiver ends with the operator; then nobody needs to hear of it.
        let _ = self.events.send(event);
    }
}

/// What came of a task. One that panicked takes along whoever waits for it: the journal says how a plan goes on.
pub(crate) fn finished<T>(done: Result<T, JoinError>) -> T {
    done.unwrap_or_else(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        // Only dropping its handle, or set, aborts it, and then nobody asks.
        Err(error) => unreachable!("a task was aborted while it is waited for: {error}"),
    })
}
