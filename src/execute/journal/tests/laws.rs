//! Laws that hold whatever happens. Those on the way are asserted by the simulation itself; here are those at the end.

use super::simulation::{Choices, Fate, Script, Simulation, Weather};
use crate::api::StepState;
use crate::execute::journal::{Bounds, Outcome, Signals, can_be_put_back};
use proptest::prelude::*;
use std::collections::BTreeSet;

/// At least so many; more where the environment asks for more.
fn cases(least: u32) -> ProptestConfig {
    let config = ProptestConfig::default();
    ProptestConfig { cases: config.cases.max(least), ..config }
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        40 => Just(Fate::Fine),
        4 => Just(Fate::Skipped),
        3 => Just(Fate::Wait),
        1 => Just(Fate::Refused),
        1 => Just(Fate::Drifted),
        1 => Just(Fate::NotCarriedOut),
        1 => Just(Fate::Overtaken),
        2 => Just(Fate::Needless),
        1 => Just(Fate::LandedUnknown),
        1 => Just(Fate::NotLandedUnknown),
        1 => Just(Fate::NeverReady),
        1 => Just(Fate::WaitFails),
    ]
}

/// Plans without circles whose steps stand in any order.
fn plan() -> impl Strategy<Value = Vec<Script>> {
    let step = (fate(), prop::bool::weighted(0.1), any::<bool>(), any::<u16>(), any::<u16>());
    (prop::collection::vec(step, 1..=12), any::<prop::sample::Index>()).prop_map(|(steps, turn)| {
        let count = steps.len();
        let by = turn.index(count);
        // Turning and mirroring the order puts steps before those that they depend on.
        let place = |at: usize| (count - 1 - at + by) % count;
        let mut scripts = vec![Script::default(); count];
        for (at, (fate, undo_refused, quick, some, others)) in steps.into_iter().enumerate() {
            let mask = some & others;
            let depends_on = (0..at).filter(|earlier| mask >> earlier & 1 == 1).map(place).collect();
            scripts[place(at)] = Script { depends_on, fate, undo_refused, quick };
        }
        scripts
    })
}

fn bounds() -> impl Strategy<Value = Bounds> {
    (1..=5_usize, 0..=4_usize, any::<bool>()).prop_map(|(parallel, ahead, observe)| Bounds { parallel, ahead, observe })
}

fn once_each(steps: &[String]) -> BTreeSet<&str> {
    let set: BTreeSet<&str> = steps.iter().map(String::as_str).collect();
    assert_eq!(set.len(), steps.len(), "twice in effect: {steps:?}");
    set
}

/// What must be true of a plan that has ended.
fn check_end(simulation: &Simulation, outcome: &Outcome) {
    let landed = once_each(&simulation.landed);
    let undone = once_each(&simulation.undone);
    let refused: BTreeSet<&str> = simulation.undo_refused.iter().map(String::as_str).collect();
    let entries = &simulation.status.steps;
    match outcome {
        Outcome::Succeeded => {
            let done = |state: StepState| matches!(state, StepState::Completed | StepState::Skipped);
            assert!(entries.iter().all(|entry| done(entry.state)), "{}", simulation.print());
            assert!(undone.is_empty());
        }
        Outcome::Cancelled(_) => assert!(undone.is_empty()),
        Outcome::Failed(_) | Outcome::Drifted(_) => assert!(landed.is_empty(), "{landed:?} stays as it is"),
        Outcome::RolledBack(_) => {
            assert_eq!(undone, landed);
            assert!(refused.is_empty());
        }
        Outcome::RollbackFailed(message) => {
            assert!(!refused.is_empty());
            for step in &refused {
                assert!(message.contains(&format!("step {step}: forbidden")), "{message}");
            }
            let left: BTreeSet<&str> = landed.difference(&undone).copied().collect();
            assert!(left.is_subset(&refused), "{left:?} were forgotten");
        }
    }
    // Nothing is left open, and what the journal says of a step is what happened to it.
    for entry in entries {
        assert!(!matches!(entry.state, StepState::Running | StepState::Applied), "{}", simulation.print());
        let there = landed.contains(entry.id.as_str());
        assert!(!entry.landed() || there, "{} did not land", entry.id);
        assert!(!there || entry.may_have_landed(), "{} landed, and the journal does not know", entry.id);
        if entry.state == StepState::Completed && simulation.fate(&entry.id) != Fate::Wait {
            let left = !undone.contains(entry.id.as_str());
            assert!(there && left, "{}", simulation.print());
        }
    }
}

proptest! {
    #![proptest_config(cases(1000))]

    #[test]
    fn every_plan_ends_well_in_all_weathers(
        scripts in plan(),
        tape in prop::collection::vec(any::<u8>(), 0..250),
        bounds in bounds(),
        degrades in prop::option::weighted(0.3, any::<bool>()),
        crashes: bool,
        signals: bool,
    ) {
        let weather = Weather { crashes, signals, crash_at: None };
        let mut simulation = Simulation::new(scripts, Choices::new(tape), weather, bounds);
        simulation.degrades = degrades;
        let outcome = simulation.run();
        check_end(&simulation, &outcome);
        if !signals {
            prop_assert!(!matches!(outcome, Outcome::Cancelled(_)));
            let good = simulation.scripts().all(|script| matches!(script.fate, Fate::Fine | Fate::Skipped | Fate::Needless | Fate::Wait));
            let degraded = bounds.observe && degrades == Some(true);
            prop_assert_eq!(outcome == Outcome::Succeeded, good && !degraded);
        }
    }

    #[test]
    fn what_succeeded_can_be_put_back_later(
        scripts in plan(),
        tape in prop::collection::vec(any::<u8>(), 0..80),
        bounds in bounds(),
    ) {
        let fine = scripts.into_iter().map(|script| Script { fate: Fate::Fine, ..script }).collect();
        let mut simulation = Simulation::new(fine, Choices::default(), Weather::default(), bounds);
        prop_assert_eq!(simulation.run(), Outcome::Succeeded);
        simulation.take_up(Choices::new(tape), Weather { crashes: true, ..Weather::default() });
        simulation.signals = Signals { rollback: Some("putting back was asked for".into()), ..Signals::default() };
        let outcome = simulation.run();
        check_end(&simulation, &outcome);
        let refused = simulation.scripts().any(|script| script.undo_refused);
        prop_assert_eq!(matches!(outcome, Outcome::RollbackFailed(_)), refused);
        prop_assert_eq!(matches!(outcome, Outcome::RolledBack(_)), !refused);
        prop_assert_eq!(simulation.undone.len() + simulation.undo_refused.len(), simulation.landed.len());
    }

    #[test]
    fn whatever_is_left_at_the_end_can_be_put_back_on_request_until_nothing_is(
        scripts in plan(),
        tape in prop::collection::vec(any::<u8>(), 0..250),
        again in prop::collection::vec(any::<u8>(), 0..80),
        bounds in bounds(),
    ) {
        let weather = Weather { crashes: true, signals: true, crash_at: None };
        let mut simulation = Simulation::new(scripts, Choices::new(tape), weather, bounds);
        let outcome = simulation.run();
        let left = simulation.landed.iter().any(|step| !simulation.undone.contains(step));
        if !can_be_put_back(&simulation.status) {
            prop_assert!(!left, "{outcome:?} leaves {:?}", simulation.landed);
            return Ok(());
        }
        simulation.allow_undo();
        simulation.take_up(Choices::new(again), Weather { crashes: true, ..Weather::default() });
        simulation.signals = Signals { rollback: Some("putting back was asked for".into()), ..Signals::default() };
        let outcome = simulation.run();
        check_end(&simulation, &outcome);
        prop_assert!(matches!(outcome, Outcome::RolledBack(_)), "{outcome:?}");
        prop_assert!(!can_be_put_back(&simulation.status));
    }
}

proptest! {
    #![proptest_config(cases(100))]

    /// One step at a time, so that the way without a crash is the only way.
    #[test]
    fn a_crash_after_any_write_or_effect_changes_nothing_about_the_end(
        scripts in plan(),
        observe: bool,
        degrades in prop::option::weighted(0.3, any::<bool>()),
    ) {
        let run = |crash_at: Option<usize>| {
            let weather = Weather { crash_at, ..Weather::default() };
            let bounds = Bounds { parallel: 1, ahead: 0, observe };
            let mut simulation = Simulation::new(scripts.clone(), Choices::default(), weather, bounds);
            simulation.degrades = degrades;
            let outcome = simulation.run();
            check_end(&simulation, &outcome);
            (simulation, outcome)
        };
        let (undisturbed, outcome) = run(None);
        for moment in 1..=undisturbed.moments {
            let (disturbed, other) = run(Some(moment));
            prop_assert_eq!(disturbed.lives, 2);
            prop_assert_eq!(&outcome, &other);
            prop_assert_eq!(&undisturbed.landed, &disturbed.landed);
            prop_assert_eq!(&undisturbed.undone, &disturbed.undone);
        }
    }
}
