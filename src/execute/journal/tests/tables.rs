//! The ways that a plan can go, as people would read them in its status.

use super::simulation::{Choices, Fate, Script, Simulation, Weather};
use crate::api::{
    ExecutionPlan, ExecutionPlanSpec, ExecutionPlanStatus, PlanPhase, ResourceId, Step, StepState, StepStatus,
};
use crate::execute::journal::{Action, Bounds, Decision, Journal, Observation, Outcome, Signals, next};
use crate::execute::status::settle_status;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

const ONE_AT_A_TIME: Bounds = Bounds { parallel: 1, ahead: 0, observe: false };

/// Each step depends on the one before.
fn chain(fates: &[Fate]) -> Vec<Script> {
    let before = |at: usize| (0..at).rev().take(1).collect();
    let step = |(at, fate): (usize, &Fate)| Script { depends_on: before(at), fate: *fate, ..Script::default() };
    fates.iter().enumerate().map(step).collect()
}

fn simulation(scripts: Vec<Script>, bounds: Bounds) -> Simulation {
    Simulation::new(scripts, Choices::default(), Weather::default(), bounds)
}

fn ended(scripts: Vec<Script>) -> Simulation {
    let mut simulation = simulation(scripts, ONE_AT_A_TIME);
    simulation.run();
    simulation
}

#[test]
fn a_step_that_does_not_get_ready_takes_those_before_it_back() {
    let simulation = ended(chain(&[Fate::Fine, Fate::Skipped, Fate::NeverReady, Fate::Fine]));
    insta::assert_snapshot!(simulation.print(), @"
    s1 RolledBack (Fine), undo Done
    s2 Skipped (Skipped)
    s3 RolledBack (NeverReady), undo Done
    s4 Pending
    RolledBack: step s3 failed: NeverReady; everything done before was put back
    ");
}

#[test]
fn the_whole_way_of_two_steps_of_which_the_second_fails() {
    let simulation = ended(chain(&[Fate::Fine, Fate::NeverReady]));
    insta::assert_snapshot!(simulation.log.join("\n"), @r#"
    Prepare("s1")
      Prepared s1
      stored
    Mutate { step: "s1", recovering: false }
      Mutated s1
    Verify("s1")
      Verified s1
    Prepare("s2")
      Prepared s2
      stored
    Mutate { step: "s2", recovering: false }
      Mutated s2
    Verify("s2")
      VerifyFailed s2
    BeginUndo("s2")
      UndoBegun s2
    BeginUndo("s1")
      UndoBegun s1
      stored
    Undo("s2")
      Undone s2
    Undo("s1")
      Undone s1
      stored
    "#);
}

#[test]
fn each_failure_ends_in_its_own_way() {
    let ways = [
        Fate::Refused,
        Fate::Drifted,
        Fate::NotCarriedOut,
        Fate::Overtaken,
        Fate::LandedUnknown,
        Fate::NotLandedUnknown,
        Fate::WaitFails,
    ];
    let alone = ways.map(|fate| ended(chain(&[fate])).print());
    insta::assert_snapshot!(alone.join("\n\n"), @"
    s1 Failed (Refused)
    Failed: step s1 failed: Refused; nothing was left to put back

    s1 Failed (Drifted)
    Drifted: nothing was done: step s1 failed: Drifted

    s1 Failed (NotCarriedOut)
    Failed: step s1 failed: NotCarriedOut; nothing was left to put back

    s1 Failed (Overtaken)
    Drifted: nothing was done: step s1 failed: Overtaken

    s1 RolledBack (LandedUnknown), undo Done
    RolledBack: step s1 failed: LandedUnknown; everything done before was put back

    s1 RolledBack (NotLandedUnknown), undo Done
    RolledBack: step s1 failed: NotLandedUnknown; everything done before was put back

    s1 Failed (WaitFails)
    Failed: step s1 failed: WaitFails; nothing was left to put back
    ");
    let after_another = ways.map(|fate| ended(chain(&[Fate::Fine, fate])).print());
    insta::assert_snapshot!(after_another.join("\n\n"), @"
    s1 RolledBack (Fine), undo Done
    s2 Failed (Refused)
    RolledBack: step s2 failed: Refused; everything done before was put back

    s1 RolledBack (Fine), undo Done
    s2 Failed (Drifted)
    RolledBack: step s2 failed: Drifted; everything done before was put back

    s1 RolledBack (Fine), undo Done
    s2 Failed (NotCarriedOut)
    RolledBack: step s2 failed: NotCarriedOut; everything done before was put back

    s1 RolledBack (Fine), undo Done
    s2 Failed (Overtaken)
    RolledBack: step s2 failed: Overtaken; everything done before was put back

    s1 RolledBack (Fine), undo Done
    s2 RolledBack (LandedUnknown), undo Done
    RolledBack: step s2 failed: LandedUnknown; everything done before was put back

    s1 RolledBack (Fine), undo Done
    s2 RolledBack (NotLandedUnknown), undo Done
    RolledBack: step s2 failed: NotLandedUnknown; everything done before was put back

    s1 RolledBack (Fine), undo Done
    s2 Failed (WaitFails)
    RolledBack: step s2 failed: WaitFails; everything done before was put back
    ");
}

#[test]
fn a_refused_undo_does_not_keep_the_others_from_being_put_back() {
    let mut scripts = chain(&[Fate::Fine, Fate::Fine, Fate::NeverReady]);
    scripts[1].undo_refused = true;
    insta::assert_snapshot!(ended(scripts).print(), @"
    s1 RolledBack (Fine), undo Done
    s2 Completed (Fine), undo Failed
    s3 RolledBack (NeverReady), undo Done
    RollbackFailed: step s3 failed: NeverReady; could not put back: step s2: forbidden
    ");
}

#[test]
fn the_operator_stops_after_every_write_and_effect() {
    let mut lines = Vec::new();
    for moment in 1.. {
        let weather = Weather { crash_at: Some(moment), ..Weather::default() };
        let scripts = chain(&[Fate::Fine, Fate::NeverReady]);
        let mut simulation = Simulation::new(scripts, Choices::default(), weather, ONE_AT_A_TIME);
        simulation.run();
        let Some(stop) = simulation.log.iter().position(|line| line == "the operator stops") else { break };
        let before = simulation.log[..stop].last().unwrap().trim();
        let after: Vec<&str> =
            simulation.log[stop + 1..].iter().filter(|line| !line.starts_with(' ')).map(String::as_str).collect();
        lines.push(format!("stopped after {before}: {}", after.join(", ")));
        assert_eq!((simulation.landed.len(), simulation.undone.len()), (2, 2));
    }
    insta::assert_snapshot!(lines.join("\n"), @r#"
    stopped after Prepare("s1"): Prepare("s1"), Mutate { step: "s1", recovering: false }, Verify("s1"), Prepare("s2"), Mutate { step: "s2", recovering: false }, Verify("s2"), BeginUndo("s2"), BeginUndo("s1"), Undo("s2"), Undo("s1")
    stopped after stored: Mutate { step: "s1", recovering: true }, Verify("s1"), Prepare("s2"), Mutate { step: "s2", recovering: false }, Verify("s2"), BeginUndo("s2"), BeginUndo("s1"), Undo("s2"), Undo("s1")
    stopped after Mutate { step: "s1", recovering: false }: Mutate { step: "s1", recovering: true }, Verify("s1"), Prepare("s2"), Mutate { step: "s2", recovering: false }, Verify("s2"), BeginUndo("s2"), BeginUndo("s1"), Undo("s2"), Undo("s1")
    stopped after Verify("s1"): Mutate { step: "s1", recovering: true }, Verify("s1"), Prepare("s2"), Mutate { step: "s2", recovering: false }, Verify("s2"), BeginUndo("s2"), BeginUndo("s1"), Undo("s2"), Undo("s1")
    stopped after Prepare("s2"): Mutate { step: "s1", recovering: true }, Verify("s1"), Prepare("s2"), Mutate { step: "s2", recovering: false }, Verify("s2"), BeginUndo("s2"), BeginUndo("s1"), Undo("s2"), Undo("s1")
    stopped after stored: Mutate { step: "s2", recovering: true }, Verify("s2"), BeginUndo("s2"), BeginUndo("s1"), Undo("s2"), Undo("s1")
    stopped after Mutate { step: "s2", recovering: false }: Mutate { step: "s2", recovering: true }, Verify("s2"), BeginUndo("s2"), BeginUndo("s1"), Undo("s2"), Undo("s1")
    stopped after Verify("s2"): Mutate { step: "s2", recovering: true }, Verify("s2"), BeginUndo("s2"), BeginUndo("s1"), Undo("s2"), Undo("s1")
    stopped after BeginUndo("s2"): Mutate { step: "s2", recovering: true }, Verify("s2"), BeginUndo("s2"), BeginUndo("s1"), Undo("s2"), Undo("s1")
    stopped after BeginUndo("s1"): Mutate { step: "s2", recovering: true }, Verify("s2"), BeginUndo("s2"), BeginUndo("s1"), Undo("s2"), Undo("s1")
    stopped after stored: Undo("s2"), Undo("s1")
    stopped after Undo("s2"): Undo("s2"), Undo("s1")
    stopped after Undo("s1"): Undo("s2"), Undo("s1")
    "#);
}

#[test]
fn what_degrades_while_it_is_watched_is_put_back() {
    let observed = |degrades: Option<bool>| {
        let mut simulation = simulation(chain(&[Fate::Fine]), Bounds { observe: true, ..ONE_AT_A_TIME });
        simulation.degrades = degrades;
        simulation.run();
        simulation.print()
    };
    insta::assert_snapshot!([None, Some(false), Some(true)].map(observed).join("\n\n"), @"
    s1 Completed (Fine)
    Succeeded: the step is done and verified

    s1 Completed (Fine)
    Succeeded: the step is done and verified

    s1 RolledBack (Fine), undo Done
    RolledBack: web degraded; everything done before was put back
    ");
}

fn begin(actions: Vec<Action>) -> Decision {
    Decision::Act { begin: actions, announce: false }
}

/// A journal of two steps of which the first is done.
fn half_done() -> (Vec<Step>, Journal) {
    let steps = simulation(chain(&[Fate::Fine, Fate::Fine]), ONE_AT_A_TIME).steps().to_vec();
    let mut journal = Journal::new(&steps, &ExecutionPlanStatus::default());
    journal.entries[0].state = StepState::Completed;
    (steps, journal)
}

#[test]
fn signals_hold_cancel_or_turn_a_plan() {
    let (steps, journal) = half_done();
    let decide = |signals: Signals| next(&steps, &journal, &[], &signals, ONE_AT_A_TIME);
    assert_eq!(decide(Signals::default()), begin(vec![Action::Prepare("s2".into())]));
    assert_eq!(decide(Signals { suspended: true, ..Signals::default() }), begin(vec![]));
    assert_eq!(
        decide(Signals { cancel: true, suspended: true, rollback: None }),
        Decision::End(Outcome::Cancelled("cancelled after 1 of 2 steps; what was done stays".into()))
    );
    assert_eq!(
        decide(Signals { rollback: Some("asked".into()), suspended: true, cancel: false }),
        Decision::End(Outcome::Failed("asked".into())),
        "the first step did nothing that could be put back"
    );
}

#[test]
fn who_only_watches_is_not_waited_for() {
    let (steps, mut journal) = half_done();
    let leaves = |action: Action, journal: &Journal, signals: &Signals| action.can_be_left(&steps, journal, signals);
    let cancel = Signals { cancel: true, ..Signals::default() };
    assert!(!leaves(Action::Observe, &journal, &Signals::default()));
    assert!(leaves(Action::Observe, &journal, &cancel), "a deleted plan would stay as long as it is watched");
    assert!(!leaves(Action::Verify("s2".into()), &journal, &cancel));
    journal.rollback_reason = Some("because".into());
    assert!(leaves(Action::Verify("s2".into()), &journal, &Signals::default()));
    assert!(!leaves(Action::Prepare("s2".into()), &journal, &Signals::default()), "its snapshot may still be written");
    assert!(!leaves(Action::Mutate { step: "s2".into(), recovering: false }, &journal, &cancel));
}

#[test]
fn only_a_mutation_that_may_have_been_sent_is_looked_for_first() {
    let (steps, mut journal) = half_done();
    let prepared = Observation::Prepared { step: "s2".into(), snapshot: None, before: None };
    journal.apply(&prepared, &Time(Timestamp::UNIX_EPOCH));
    let decide = |journal: &Journal| next(&steps, journal, &[], &Signals::default(), ONE_AT_A_TIME);
    let mutate = |recovering: bool| begin(vec![Action::Mutate { step: "s2".into(), recovering }]);
    let announce = Decision::Act { begin: vec![], announce: true };
    assert_eq!(decide(&journal), announce, "its intent is not stored");
    journal.stored();
    assert_eq!(decide(&journal), mutate(false));
    let status = ExecutionPlanStatus { steps: journal.entries, ..Default::default() };
    let mut taken_up = Journal::new(&steps, &status);
    assert_eq!(decide(&taken_up), announce, "what is stored may be newer");
    taken_up.stored();
    assert_eq!(decide(&taken_up), mutate(true));
}

#[test]
fn what_was_prepared_and_not_sent_does_not_begin_once_the_plan_holds() {
    let (steps, mut journal) = half_done();
    let prepared = Observation::Prepared { step: "s2".into(), snapshot: Some("kept".into()), before: None };
    journal.apply(&prepared, &Time(Timestamp::UNIX_EPOCH));
    journal.stored();
    let sent = Action::Mutate { step: "s2".into(), recovering: false };
    let suspended = Signals { suspended: true, ..Signals::default() };
    assert!(!journal.clone().heed(&suspended, std::slice::from_ref(&sent)), "it is under way");
    assert!(!journal.clone().heed(&Signals::default(), &[]));
    for holds in [suspended.clone(), Signals { rollback: Some("asked".into()), ..Signals::default() }] {
        let mut journal = journal.clone();
        assert!(journal.heed(&holds, &[]));
        assert_eq!(journal.entries[1], StepStatus { id: "s2".into(), ..StepStatus::default() });
        assert_eq!(journal.unnamed, ["kept"]);
    }
    // Another life of the operator may have sent it.
    let status = ExecutionPlanStatus { steps: journal.entries, ..Default::default() };
    let mut taken_up = Journal::new(&steps, &status);
    assert!(!taken_up.heed(&suspended, &[]));
    let decision = next(&steps, &taken_up, &[], &suspended, ONE_AT_A_TIME);
    assert_eq!(decision, begin(vec![Action::Settle("s2".into())]));
    assert!(taken_up.unnamed.is_empty());
    taken_up.apply(&Observation::Released { step: "s2".into() }, &Time(Timestamp::UNIX_EPOCH));
    assert_eq!(taken_up.unnamed, ["kept"]);
    assert_eq!(next(&steps, &taken_up, &[], &suspended, ONE_AT_A_TIME), begin(vec![]));
    assert_eq!(
        next(&steps, &taken_up, &[], &Signals::default(), ONE_AT_A_TIME),
        begin(vec![Action::Prepare("s2".into())])
    );
}

#[test]
fn what_was_put_back_is_stored_before_the_same_object_is_put_back_further() {
    let (mut steps, _) = half_done();
    let ended = |steps: &[Step]| {
        let mut journal = Journal::new(steps, &ExecutionPlanStatus::default());
        for entry in &mut journal.entries {
            entry.state = StepState::Completed;
            entry.applied_at = Some(Time(Timestamp::UNIX_EPOCH));
        }
        journal.rollback_reason = Some("asked".into());
        for step in ["s1", "s2"] {
            journal.apply(&Observation::UndoBegun { step: step.into() }, &Time(Timestamp::UNIX_EPOCH));
        }
        journal.stored();
        let undone = Observation::Undone { step: "s2".into(), message: "put back".into() };
        journal.apply(&undone, &Time(Timestamp::UNIX_EPOCH));
        journal
    };
    let decide = |steps: &[Step], journal: &Journal| next(steps, journal, &[], &Signals::default(), ONE_AT_A_TIME);
    assert_eq!(decide(&steps, &ended(&steps)), begin(vec![Action::Undo("s1".into())]));
    steps[1].operation = steps[0].operation.clone();
    let mut journal = ended(&steps);
    assert_eq!(decide(&steps, &journal), Decision::Act { begin: vec![], announce: true });
    journal.stored();
    assert_eq!(decide(&steps, &journal), begin(vec![Action::Undo("s1".into())]));
}

#[test]
fn only_what_cannot_be_held_up_is_prepared_ahead() {
    let script = |quick: bool| Script { quick, ..Script::default() };
    let bounds = Bounds { parallel: 2, ahead: 3, observe: false };
    let decide = |quick: bool| {
        let steps = simulation(vec![script(quick); 9], bounds).steps().to_vec();
        let mut journal = Journal::new(&steps, &ExecutionPlanStatus::default());
        let mut prepared = 0;
        loop {
            let Decision::Act { begin, announce } = next(&steps, &journal, &[], &Signals::default(), bounds) else {
                panic!("the plan ended");
            };
            if begin.is_empty() {
                assert!(announce);
                return prepared;
            }
            for action in begin {
                let Action::Prepare(step) = action else { panic!("{action:?} was not announced") };
                let observation = Observation::Prepared { step, snapshot: None, before: None };
                journal.apply(&observation, &Time(Timestamp::UNIX_EPOCH));
                prepared += 1;
            }
        }
    };
    assert_eq!((decide(true), decide(false)), (5, 2));
}

#[test]
fn what_set_a_rollback_off_stays_its_reason_after_a_crash() {
    let (steps, _) = half_done();
    let failed = StepStatus {
        id: "s2".into(),
        state: StepState::Failed,
        message: Some("stopped before it was carried out".into()),
        ..StepStatus::default()
    };
    let status = ExecutionPlanStatus {
        phase: Some(PlanPhase::RollingBack),
        message: Some("putting back was asked for".into()),
        steps: vec![failed],
        ..Default::default()
    };
    assert_eq!(Journal::new(&steps, &status).rollback_reason.as_deref(), Some("putting back was asked for"));
}

#[test]
fn a_cancelled_plan_is_not_made_anew_because_it_drifted() {
    let mut simulation = simulation(chain(&[Fate::Drifted]), ONE_AT_A_TIME);
    simulation.signals.cancel = true;
    // The step was being prepared when somebody cancelled.
    let mut journal = Journal::new(simulation.steps(), &simulation.status);
    let drifted = Observation::Refused { step: "s1".into(), message: "it moved".into(), drifted: true };
    journal.apply(&drifted, &Time(Timestamp::UNIX_EPOCH));
    let decision = next(simulation.steps(), &journal, &[], &simulation.signals, ONE_AT_A_TIME);
    assert!(matches!(decision, Decision::End(Outcome::Cancelled(_))), "{decision:?}");
}

#[test]
fn a_plan_whose_time_is_over_stops_waiting_and_is_put_back() {
    let (steps, mut journal) = half_done();
    let now = Time(Timestamp::UNIX_EPOCH);
    journal.entries[0].applied_at = Some(now.clone());
    journal.entries[1].state = StepState::Applied;
    journal.entries[1].applied_at = Some(now.clone());
    let verify = Action::Verify("s2".into());
    journal.time_is_up(&steps, std::slice::from_ref(&verify), "5m", &now);
    assert_eq!(journal.rollback_reason.as_deref(), Some("the plan was not done within 5m: 1 of 2 steps were"));
    assert_eq!(journal.entries[1].state, StepState::Failed);
    assert!(verify.can_be_left(&steps, &journal, &Signals::default()));
    let next = next(&steps, &journal, &[], &Signals::default(), ONE_AT_A_TIME);
    assert_eq!(next, begin(vec![Action::BeginUndo("s2".into())]));

    let mut status = ExecutionPlanStatus::default();
    let plan = ExecutionPlan::new("p", ExecutionPlanSpec { steps: steps.clone(), ..Default::default() });
    settle_status(&mut status, &plan, &journal, None, &now);
    let reason = |status: &ExecutionPlanStatus| {
        status.conditions.iter().find(|condition| condition.type_ == "Ready").unwrap().reason.clone()
    };
    assert_eq!(reason(&status), "TimedOut");
    let after_a_crash = Journal::new(&steps, &status);
    assert!(after_a_crash.timed_out);
    settle_status(&mut status, &plan, &after_a_crash, Some(&Outcome::RolledBack("time".into())), &now);
    assert_eq!(reason(&status), "TimedOut");
}

#[test]
fn a_plan_that_is_done_or_is_being_put_back_has_all_the_time_it_needs() {
    let (steps, mut journal) = half_done();
    journal.entries[1].state = StepState::Completed;
    let mut being_put_back = half_done().1;
    being_put_back.rollback_reason = Some("asked".into());
    for journal in [&mut journal, &mut being_put_back] {
        let before = journal.clone();
        journal.time_is_up(&steps, &[], "5m", &Time(Timestamp::UNIX_EPOCH));
        assert_eq!(*journal, before);
    }
}

#[test]
fn a_deletion_that_was_found_done_says_that_nobody_knows_by_whom() {
    let (_, mut journal) = half_done();
    let now = Time(Timestamp::UNIX_EPOCH);
    let note = Some("not known who deleted it".to_owned());
    journal.apply(
        &Observation::Mutated { step: "s2".into(), result: ResourceId::default(), attempts: 0, note, verified: None },
        &now,
    );
    assert_eq!(journal.entries[1].result, None);
    journal.apply(&Observation::Verified { step: "s2".into(), message: "x is gone".into() }, &now);
    assert_eq!(journal.entries[1].message.as_deref(), Some("x is gone; not known who deleted it"));
}
