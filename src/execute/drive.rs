use super::effect::Effects;
use super::journal::{Action, Bounds, Decision, Journal, Observation, Outcome, Signals, next};
use super::readiness::spoken;
use super::status::settle_status;
use super::stop::{crash_point, pause_point};
use crate::api::{ExecutionPlan, ExecutionPlanStatus};
use crate::approval::ApprovedPlan;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tracing::Instrument;

/// How many steps are under way at once.
const PARALLEL: usize = 16;
/// How long news may wait for company before they are written for people to see.
const QUIET: Duration = Duration::from_millis(250);
/// How often a status write that lost against an unrelated change of the object is repeated.
const MAX_CONFLICTS: u32 = 20;

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
    plans: Api<ExecutionPlan>,
    plan: ExecutionPlan,
    status: ExecutionPlanStatus,
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
        let plans = Api::namespaced(client, plan.namespace().as_deref().unwrap_or_default());
        Self { plans, plan, status, effects, signals, events }
    }

    /// Runs to the end of the plan, and gives it as it was stored then. The write that journals an intent always precedes the effect.
    ///
    /// # Errors
    /// When the journal cannot be written: nothing more is done then, and driving can be taken up again later.
    pub async fn run(mut self) -> Result<(Outcome, ExecutionPlan), DriveError> {
        let steps = Arc::new(self.plan.spec.steps.clone());
        let mut journal = Journal::new(&steps, &self.status);
        let bounds = Bounds { parallel: PARALLEL, observe: self.plan.spec.observe.is_some() };
        let mut under_way: Vec<Action> = Vec::new();
        // As tasks, so that they go on while the journal is written; they end with this driver.
        let mut running = JoinSet::new();
        if self.status.started_at.is_none() {
            self.status.started_at = Some(now());
        }
        journal.heed(&self.signals.borrow_and_update());
        // Nothing begins on an outdated journal, not even a preparation, which replaces a snapshot: this write fails when
        // what this driver was given is not what is stored.
        self.store(&journal).await?;
        let mut dirty = false;
        loop {
            let signals = self.signals.borrow_and_update().clone();
            journal.heed(&signals);
            let time_left = self.time_left(&journal);
            if time_left == Some(Duration::ZERO) {
                journal.time_is_up(&steps, &under_way, &self.allowed(), &now());
                self.report("", "TimedOut", journal.rollback_reason.clone().unwrap_or_default(), true);
                dirty = true;
            }
            under_way.retain(|action| !action.can_be_left(&steps, &journal, &signals));
            let decision = next(&steps, &journal, &under_way, &signals, bounds);
            let actions = match &decision {
                Decision::Act(actions) => actions.clone(),
                Decision::End(outcome) => {
                    settle_status(&mut self.status, &self.plan, &journal, Some(outcome));
                    self.write().await?;
                    return Ok((outcome.clone(), self.plan));
                }
            };
            // Only what changes the cluster needs its intent stored first: should the operator stop before the next
            // write, the rest is found out again from the live objects.
            if dirty && actions.iter().any(Action::changes_cluster) {
                self.store(&journal).await?;
                dirty = false;
            }
            // Shared: a plan has thousands of steps, and each of them an entry.
            let entries = if actions.is_empty() { Arc::default() } else { Arc::new(journal.entries.clone()) };
            for action in actions {
                under_way.push(action.clone());
                let (effects, steps, entries) = (self.effects.clone(), Arc::clone(&steps), Arc::clone(&entries));
                let work = async move {
                    crash_point("before", &action);
                    pause_point("before", &action, &effects.plan_uid).await;
                    let observation = effects.perform(&action, &steps, &entries).await;
                    crash_point("after", &action);
                    (action, observation)
                };
                running.spawn(work.in_current_span());
            }
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
                () = tokio::time::sleep(QUIET), if dirty => {
                    self.store(&journal).await?;
                    dirty = false;
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
                journal.apply(&observation, &now());
                dirty = true;
                self.tell(&observation);
            }
        }
    }

    /// What is left of the plan's time, as long as it has to hurry.
    fn time_left(&self, journal: &Journal) -> Option<Duration> {
        let (done, all) = journal.progress();
        let allowed = Duration::from(self.plan.spec.timeout?);
        let begun = self.status.started_at.as_ref().filter(|_| done < all && journal.rollback_reason.is_none())?;
        let gone = Duration::try_from(now().0.duration_since(begun.0)).unwrap_or_default();
        Some(allowed.saturating_sub(gone))
    }

    fn allowed(&self) -> String {
        self.plan.spec.timeout.map(|timeout| spoken(timeout.into())).unwrap_or_default()
    }

    async fn store(&mut self, journal: &Journal) -> Result<(), DriveError> {
        settle_status(&mut self.status, &self.plan, journal, None);
        self.write().await
    }

    /// Writes the status. Nobody but the operator writes it: when the stored one is not what this driver wrote last,
    /// another replica has taken over, and this one must stop.
    async fn write(&mut self) -> Result<(), DriveError> {
        self.effects.fence.pass().await;
        let name = self.plan.name_any();
        let mut last = self.plan.status.clone();
        for _ in 0..MAX_CONFLICTS {
            self.plan.status = Some(self.status.clone());
            let written = self.replace(&name).await;
            match written {
                Ok(plan) => {
                    self.plan.metadata = plan.metadata;
                    self.status = plan.status.unwrap_or_default();
                    self.plan.status = Some(self.status.clone());
                    return Ok(());
                }
                Err(kube::Error::Api(status)) if status.code == 404 => return Err(DriveError::Gone(name)),
                Err(kube::Error::Api(status)) if status.code == 409 => {
                    let current = self.plans.get(&name).await.map_err(|source| self.failed(source))?;
                    if current.status != last && current.status.as_ref() != Some(&self.status) {
                        return Err(DriveError::Overtaken(name));
                    }
                    if current.uid() != self.plan.uid() {
                        return Err(DriveError::Gone(name));
                    }
                    last = current.status;
                    self.plan.metadata = current.metadata;
                }
                Err(source) => return Err(self.failed(source)),
            }
        }
        Err(DriveError::Overtaken(name))
    }

    /// One status write, tried again while errors pass. A write whose answer was lost shows up as a conflict next.
    async fn replace(&self, name: &str) -> Result<ExecutionPlan, kube::Error> {
        let mut wait = Duration::from_millis(200);
        loop {
            match self.plans.replace_status(name, &PostParams::default(), &self.plan).await {
                Err(kube::Error::Api(status)) if status.code != 429 && status.code < 500 => {
                    return Err(kube::Error::Api(status));
                }
                Err(error) if wait < Duration::from_secs(60) => {
                    tracing::warn!(plan = name, %error, "journal not written, trying again");
                    tokio::time::sleep(wait.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
                    wait *= 2;
                }
                done => return done,
            }
        }
    }

    fn failed(&self, source: kube::Error) -> DriveError {
        DriveError::Journal { plan: self.plan.name_any(), source: Box::new(source) }
    }

    fn tell(&self, observation: &Observation) {
        let (reason, message, warning) = match observation {
            Observation::Prepared { .. } => ("StepStarted", "snapshot stored; carrying it out".to_owned(), false),
            Observation::Skipped { message, .. } => ("StepSkipped", message.clone(), false),
            Observation::Refused { message, drifted: true, .. } => ("Drifted", message.clone(), true),
            Observation::Refused { message, .. } => ("StepRefused", message.clone(), true),
            Observation::Mutated { .. } => ("StepApplied", "carried out; checking the result".to_owned(), false),
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
    }

    fn report(&self, step: &str, reason: &'static str, message: String, warning: bool) {
        let event = StepEvent { step: step.to_owned(), reason, message, warning };
        // The receiver ends with the operator; then nobody needs to hear of it.
        let _ = self.events.send(event);
    }
}

/// What came of a task. One that panicked takes the driver along: the journal says how the plan goes on.
fn finished<T>(done: Result<T, JoinError>) -> T {
    done.unwrap_or_else(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        // Only dropping the set aborts them, and then nobody asks.
        Err(error) => unreachable!("an effect was aborted while its driver waits for it: {error}"),
    })
}

fn now() -> Time {
    Time(k8s_openapi::jiff::Timestamp::now())
}
