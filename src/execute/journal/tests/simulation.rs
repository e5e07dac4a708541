//! A cluster of one object a step, and an operator that may stop between any two moments.
//!
//! [`Simulation`] follows the loop of `drive.rs`: the same calls in the same order, with the write-ahead rule, but each
//! write, each effect and each answer is a moment of its own, and [`Choices`] say what happens in it.

use crate::api::{
    ExecutionPlan, ExecutionPlanSpec, ExecutionPlanStatus, ObjectRef, Observe, Operation, PatchType, ResourceId, Step,
    StepState, WaitUntil,
};
use crate::execute::journal::{Action, Bounds, Decision, Journal, Observation, Outcome, Signals, next, order};
use crate::execute::status::settle_status;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// What becomes of a step, whenever it is tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Fate {
    #[default]
    Fine,
    /// Its `when` is false, or what it wants already is so.
    Skipped,
    Refused,
    Drifted,
    /// The server refuses the mutation.
    NotCarriedOut,
    /// Somebody else changes, between preparation and mutation, what it is to change.
    Overtaken,
    /// Somebody else does the same, between preparation and mutation.
    Needless,
    /// It lands, the answer is lost, and the object cannot be read.
    LandedUnknown,
    /// It does not land, and that cannot be found out.
    NotLandedUnknown,
    /// It lands, and the object does not get ready.
    NeverReady,
    /// A wait that is over at once.
    Wait,
    /// A wait that fails.
    WaitFails,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Script {
    pub depends_on: Vec<usize>,
    pub fate: Fate,
    pub undo_refused: bool,
    /// Whether it is done as soon as it is carried out, so that it may be prepared ahead.
    pub quick: bool,
}

/// What happens in the next moment. A tape that has run out lets everything take its course.
#[derive(Clone, Debug, Default)]
pub(super) struct Choices {
    tape: Vec<u8>,
    at: usize,
}

impl Choices {
    pub fn new(tape: Vec<u8>) -> Self {
        Self { tape, at: 0 }
    }

    fn quiet(&self) -> bool {
        self.at >= self.tape.len()
    }

    fn take(&mut self) -> u8 {
        let choice = self.tape.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        choice
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::from(self.take()) % bound.max(1)
    }
}

/// An action that was begun: its effect takes place at one moment, and its answer arrives at a later one.
#[derive(Clone, Debug)]
struct Begun {
    action: Action,
    answer: Option<Observation>,
}

/// What may come from outside.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Weather {
    pub crashes: bool,
    pub signals: bool,
    /// The operator stops right after this write or effect, counted from 1.
    pub crash_at: Option<usize>,
}

pub(super) struct Simulation {
    plan: ExecutionPlan,
    steps: Vec<Step>,
    scripts: BTreeMap<String, Script>,
    bounds: Bounds,
    /// Whether a watched workload degrades, and whether everything is put back for it.
    pub degrades: Option<bool>,
    pub signals: Signals,
    weather: Weather,
    choices: Choices,
    /// What is stored: it outlives the operator, as the cluster does.
    pub status: ExecutionPlanStatus,
    /// What was stored before that, and whether the operator works from it.
    previous: ExecutionPlanStatus,
    outdated: bool,
    snapshots: BTreeSet<String>,
    pub landed: Vec<String>,
    pub undone: Vec<String>,
    pub undo_refused: BTreeSet<String>,
    /// How many writes and effects there were.
    pub moments: usize,
    pub lives: usize,
    /// What happened, a line each.
    pub log: Vec<String>,
}

/// The operator stopped.
struct Crash;

impl Simulation {
    pub fn new(scripts: Vec<Script>, choices: Choices, weather: Weather, bounds: Bounds) -> Self {
        let id = |at: usize| format!("s{}", at + 1);
        let step = |(at, script): (usize, &Script)| {
            let target =
                ObjectRef { api_version: "v1".into(), kind: "ConfigMap".into(), namespace: None, name: id(at) };
            let operation = match script.fate {
                Fate::Wait | Fate::WaitFails => Operation::wait(target, WaitUntil::Ready),
                _ if script.quick => Operation::patch(target, None, PatchType::Merge, json!({})),
                _ => Operation::delete(target),
            };
            let depends_on = script.depends_on.iter().map(|at| id(*at)).collect();
            Step { id: id(at), depends_on, operation, ..Step::default() }
        };
        let steps: Vec<Step> = scripts.iter().enumerate().map(step).collect();
        let window = std::time::Duration::from_secs(60);
        let observe = bounds.observe.then(|| Observe { duration: window.into(), rollback_on_degraded: true });
        let spec = ExecutionPlanSpec { steps: steps.clone(), observe, ..ExecutionPlanSpec::default() };
        Self {
            plan: ExecutionPlan::new("p", spec),
            scripts: scripts.into_iter().enumerate().map(|(at, script)| (id(at), script)).collect(),
            steps,
            bounds,
            degrades: None,
            signals: Signals::default(),
            weather,
            choices,
            status: ExecutionPlanStatus::default(),
            previous: ExecutionPlanStatus::default(),
            outdated: false,
            snapshots: BTreeSet::new(),
            landed: Vec::new(),
            undone: Vec::new(),
            undo_refused: BTreeSet::new(),
            moments: 0,
            lives: 0,
            log: Vec::new(),
        }
    }

    /// From now on no undo is refused any more.
    pub fn allow_undo(&mut self) {
        self.scripts.values_mut().for_each(|script| script.undo_refused = false);
        self.undo_refused.clear();
    }

    /// Goes on after the end, on a new tape.
    pub fn take_up(&mut self, choices: Choices, weather: Weather) {
        self.choices = choices;
        self.weather = weather;
    }

    /// Runs one operator after the other until the plan has ended.
    pub fn run(&mut self) -> Outcome {
        loop {
            self.lives += 1;
            match self.live() {
                Ok(outcome) => return outcome,
                Err(Crash) => self.log.push("the operator stops".to_owned()),
            }
        }
    }

    pub fn fate(&self, step: &str) -> Fate {
        self.scripts.get(step).map(|script| script.fate).unwrap_or_default()
    }

    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    pub fn scripts(&self) -> impl Iterator<Item = &Script> {
        self.scripts.values()
    }

    /// One life of the operator: what `Driver::run` does.
    fn live(&mut self) -> Result<Outcome, Crash> {
        self.outdated = self.weather.crashes && self.previous != self.status && self.choices.take() >= 200;
        let known = if self.outdated { &self.previous } else { &self.status };
        let mut journal = Journal::new(&self.steps, known);
        let mut under_way: Vec<Begun> = Vec::new();
        journal.heed(&self.signals, &[]);
        let mut dirty = true;
        for _ in 0..20_000 {
            let signals = self.signals.clone();
            dirty |= journal.heed(&signals, &actions(&under_way));
            under_way.retain(|begun| !begun.action.can_be_left(&self.steps, &journal, &signals));
            let (begin, announce) = match self.decide(&journal, &under_way, &signals) {
                Decision::End(outcome) => {
                    self.store(&mut journal, Some(&outcome))?;
                    return Ok(outcome);
                }
                Decision::Act { begin, announce } => (begin, announce),
            };
            let idle = begin.is_empty() && under_way.is_empty();
            for action in begin {
                self.check_beginning(&action, &journal);
                under_way.push(Begun { action, answer: None });
            }
            assert!(under_way.len() <= self.bounds.parallel, "too many at once: {under_way:?}");
            self.check_ahead(&journal, &under_way);
            // Intents wait for company for a while that nobody knows.
            if announce && (idle || self.choices.quiet() || self.choices.below(2) == 0) {
                self.store(&mut journal, None)?;
                dirty = false;
                continue;
            }
            dirty = self.moment(&mut journal, &mut under_way, dirty)?;
        }
        panic!("no end was reached:\n{}", self.log.join("\n"));
    }

    fn decide(&self, journal: &Journal, under_way: &[Begun], signals: &Signals) -> Decision {
        let actions = actions(under_way);
        let decision = next(&self.steps, journal, &actions, signals, self.bounds);
        assert_eq!(decision, next(&self.steps, journal, &actions, signals, self.bounds), "not a function");
        decision
    }

    /// One thing happens: somebody asks for something, a write in passing, an effect, an answer, or the operator stops.
    /// Whether there is news then that is not stored.
    fn moment(&mut self, journal: &mut Journal, under_way: &mut Vec<Begun>, dirty: bool) -> Result<bool, Crash> {
        if self.choices.quiet() {
            self.signals.suspended = false;
        }
        match self.choices.take() {
            1..=20 if self.weather.signals => self.signals.suspended = !self.signals.suspended,
            21..=24 if self.weather.signals => self.signals.cancel = !self.signals.cancel,
            25..=28 if self.weather.signals => self.signals.rollback = Some("putting back was asked for".to_owned()),
            29..=31 if self.weather.signals => self.signals.rollback = None,
            81..=83 if self.weather.signals => {
                journal.time_is_up(&self.steps, &actions(under_way), "5m", &Time(Timestamp::UNIX_EPOCH));
                return Ok(true);
            }
            32..=60 if self.weather.crashes => return Err(Crash),
            61..=80 if dirty => {
                self.store(journal, None)?;
                return Ok(false);
            }
            _ if under_way.is_empty() => {}
            _ => {
                let at = self.choices.below(under_way.len());
                if let Some(observation) = under_way[at].answer.clone() {
                    under_way.remove(at);
                    self.log.push(format!("  {}", name(&observation)));
                    journal.apply(&observation, &Time(Timestamp::UNIX_EPOCH));
                    return Ok(true);
                }
                let action = under_way[at].action.clone();
                under_way[at].answer = Some(self.take_effect(&action)?);
            }
        }
        Ok(dirty)
    }

    fn passes(&mut self) -> Result<(), Crash> {
        self.moments += 1;
        if self.weather.crash_at == Some(self.moments) { Err(Crash) } else { Ok(()) }
    }

    fn store(&mut self, journal: &mut Journal, outcome: Option<&Outcome>) -> Result<(), Crash> {
        if self.outdated {
            self.log.push("  overtaken".to_owned());
            return Err(Crash);
        }
        self.previous.clone_from(&self.status);
        settle_status(&mut self.status, &self.plan, journal, outcome, &Time(Timestamp::UNIX_EPOCH));
        journal.stored();
        self.log.push("  stored".to_owned());
        if outcome.is_some() {
            // There is nothing left to take up.
            return Ok(());
        }
        self.passes()
    }

    /// Steps that may be long on their way are not prepared before there is room for them.
    fn check_ahead(&self, journal: &Journal, under_way: &[Begun]) {
        let preparing = |id: &str| under_way.iter().any(|begun| begun.action == Action::Prepare(id.to_owned()));
        let begun = |state: StepState| matches!(state, StepState::Running | StepState::Applied);
        let open: Vec<&str> = journal
            .entries
            .iter()
            .filter(|entry| begun(entry.state) || preparing(&entry.id))
            .map(|entry| entry.id.as_str())
            .collect();
        assert!(open.len() <= self.bounds.parallel + self.bounds.ahead, "too many are open: {open:?}");
        let slow = open.iter().filter(|id| !self.scripts[**id].quick).count();
        assert!(slow <= self.bounds.parallel, "too many are open that may take long: {open:?}");
    }

    /// What may never happen, checked as an action begins.
    fn check_beginning(&mut self, action: &Action, journal: &Journal) {
        self.log.push(format!("{action:?}"));
        if journal.rollback_reason.is_some() {
            let puts_back = matches!(action, Action::Settle(_) | Action::BeginUndo(_) | Action::Undo(_));
            assert!(puts_back, "{action:?} began while the plan was being put back");
        }
        if let Action::Prepare(id) = action {
            let step = self.steps.iter().find(|step| step.id == *id).unwrap();
            for earlier in &step.depends_on {
                let state = journal.entry(earlier).unwrap().state;
                assert!(matches!(state, StepState::Completed | StepState::Skipped), "{id} began, {earlier} is {state}");
            }
            assert!(!self.signals.holds(), "{id} began although it was to wait");
        }
        if let Action::Mutate { step, .. } = action {
            assert!(!self.signals.holds(), "{step} was sent although it was to wait");
        }
        if *action == Action::Observe {
            let (done, all) = journal.progress();
            assert_eq!(done, all, "watching began too early");
        }
    }

    /// The effect takes place at the cluster; the operator may stop before it hears of it.
    fn take_effect(&mut self, action: &Action) -> Result<Observation, Crash> {
        let step = action.step().to_owned();
        let fate = self.fate(&step);
        let stored = self.status.steps.iter().find(|entry| entry.id == step).cloned().unwrap_or_default();
        let result = ResourceId { uid: Some(step.clone()), resource_version: None };
        let message = format!("{fate:?}");
        if self.outdated {
            return Ok(self.look_from_the_past(action));
        }
        let there = self.landed.contains(&step);
        let unknown = matches!(fate, Fate::LandedUnknown | Fate::NotLandedUnknown);
        let observation = match action {
            Action::Prepare(_) => {
                assert!(!there, "the snapshot of {step} would be taken after its mutation");
                match fate {
                    Fate::Skipped => Observation::Skipped { step, message },
                    Fate::Refused | Fate::WaitFails => Observation::Refused { step, message, drifted: false },
                    Fate::Drifted => Observation::Refused { step, message, drifted: true },
                    Fate::Wait => Observation::Verified { step, message },
                    _ => {
                        self.snapshots.insert(step.clone());
                        Observation::Prepared { step: step.clone(), snapshot: Some(step), before: None }
                    }
                }
            }
            Action::Mutate { recovering, .. } => {
                assert!(self.snapshots.contains(&step), "{step} was changed without a snapshot");
                assert_eq!(stored.state, StepState::Running, "{step} was changed before its intent was stored");
                assert!(*recovering || !there, "{step} would be changed twice");
                let lands =
                    !matches!(fate, Fate::NotCarriedOut | Fate::NotLandedUnknown | Fate::Overtaken | Fate::Needless);
                if lands && !there {
                    self.landed.push(step.clone());
                }
                if unknown {
                    Observation::Unsettled { step, message, attempts: 4 }
                } else if fate == Fate::Needless {
                    Observation::Skipped { step, message }
                } else if lands {
                    let verified = self.scripts[&step].quick && fate == Fate::Fine && !there;
                    let verified = verified.then_some(message);
                    Observation::Mutated { step, result, attempts: u32::from(!there), note: None, verified }
                } else {
                    Observation::MutationFailed { step, message, attempts: 1, drifted: fate == Fate::Overtaken }
                }
            }
            Action::Settle(_) if unknown => Observation::Unsettled { step, message, attempts: 0 },
            Action::Settle(_) if there => {
                Observation::Mutated { step, result, attempts: 0, note: None, verified: None }
            }
            Action::Settle(_) => Observation::Released { step },
            Action::Verify(_) if fate == Fate::NeverReady => Observation::VerifyFailed { step, message },
            Action::Verify(_) => {
                assert!(there, "{step} was verified, and had not landed");
                Observation::Verified { step, message }
            }
            Action::BeginUndo(_) => Observation::UndoBegun { step },
            Action::Undo(_) => {
                assert!(stored.undo.is_some(), "{step} was put back before the intent was stored");
                self.put_back(step)
            }
            Action::Observe => {
                let degraded = self.degrades.map(|_| "web degraded".to_owned());
                Observation::Observed { degraded, rolls_back: self.degrades == Some(true) }
            }
        };
        self.passes()?;
        Ok(observation)
    }

    /// Whoever works from an outdated journal only looks, and finds the cluster moved.
    fn look_from_the_past(&self, action: &Action) -> Observation {
        let step = action.step().to_owned();
        let message = "moved".to_owned();
        match action {
            Action::Mutate { .. } | Action::Undo(_) => panic!("{action:?} began from an outdated journal"),
            Action::Prepare(_) if self.landed.contains(&step) => Observation::Refused { step, message, drifted: true },
            Action::Prepare(_) => Observation::Prepared { step, snapshot: Some("unread".to_owned()), before: None },
            Action::Settle(_) => Observation::Released { step },
            Action::Verify(_) => Observation::VerifyFailed { step, message },
            Action::BeginUndo(_) => Observation::UndoBegun { step },
            Action::Observe => Observation::Observed { degraded: Some(message), rolls_back: true },
        }
    }

    fn put_back(&mut self, step: String) -> Observation {
        if self.scripts[&step].undo_refused {
            self.undo_refused.insert(step.clone());
            return Observation::UndoFailed { step, message: "forbidden".to_owned() };
        }
        if self.landed.contains(&step) && !self.undone.contains(&step) {
            for later in self.dependents(&step) {
                let settled = !self.landed.contains(&later) || self.undone.contains(&later);
                assert!(settled || self.undo_refused.contains(&later), "{step} was put back before {later}");
            }
            self.undone.push(step.clone());
        }
        Observation::Undone { step, message: "put back".to_owned() }
    }

    /// All steps that come after `step`, directly or not.
    fn dependents(&self, step: &str) -> BTreeSet<String> {
        let mut found: BTreeSet<String> = BTreeSet::new();
        for id in order(&self.steps) {
            let known = self.steps.iter().find(|known| known.id == id).unwrap();
            if known.depends_on.iter().any(|earlier| earlier == step || found.contains(earlier)) {
                found.insert(id.to_owned());
            }
        }
        found
    }

    /// The stored journal as people would read it.
    pub fn print(&self) -> String {
        let entries = self.status.steps.iter().map(|entry| {
            let message = entry.message.as_ref().map(|message| format!(" ({message})")).unwrap_or_default();
            let undo = entry.undo.as_ref().map(|undo| format!(", undo {:?}", undo.state)).unwrap_or_default();
            format!("{} {}{message}{undo}", entry.id, entry.state)
        });
        let phase = self.status.phase.unwrap();
        let message = self.status.message.clone().unwrap();
        entries.chain([format!("{phase}: {message}")]).collect::<Vec<_>>().join("\n")
    }
}

fn actions(under_way: &[Begun]) -> Vec<Action> {
    under_way.iter().map(|begun| begun.action.clone()).collect()
}

fn name(observation: &Observation) -> String {
    let text = format!("{observation:?}");
    let name = text.split([' ', '{']).next().unwrap_or_default();
    format!("{name} {}", observation.step()).trim_end().to_owned()
}
