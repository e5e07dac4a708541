//! What a running plan's status says, as its journal stands. Pure but for the times of its conditions.

use super::journal::{Journal, Outcome, TIMED_OUT};
use crate::api::{
    ConditionType, ExecutionPlan, ExecutionPlanStatus, MAX_PLAN_MESSAGE, PlanPhase, set_condition, shortened,
};
use crate::plan::fit_messages;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Brings journal, phase, progress and conditions of `status` in line with the journal of `plan`.
pub(super) fn settle_status(
    status: &mut ExecutionPlanStatus,
    plan: &ExecutionPlan,
    journal: &Journal,
    outcome: Option<&Outcome>,
    now: &Time,
) {
    let generation = plan.metadata.generation;
    let (done, all) = journal.progress();
    status.steps.clone_from(&journal.entries);
    status.progress = Some(format!("{done}/{all}"));
    let phase = phase(journal, outcome, plan.spec.observe.is_some());
    status.phase = Some(phase);
    let message = match outcome {
        Some(outcome) => describe(outcome, all),
        None => match (&journal.rollback_reason, phase) {
            (Some(reason), _) => reason.clone(),
            (None, PlanPhase::Observing) => "all steps are done; watching".to_owned(),
            (None, _) => format!("{done} of {all} steps done"),
        },
    };
    let message = shortened(&message, MAX_PLAN_MESSAGE).into_owned();
    status.message = Some(message.clone());
    if done == all && plan.spec.observe.is_some() && journal.rollback_reason.is_none() && status.verified_at.is_none() {
        // The time of watching begins with the last step, not with whenever that is written down; it may be over by then.
        let last = journal.entries.iter().filter_map(|entry| entry.finished_at.clone()).max();
        status.verified_at = Some(last.unwrap_or_else(|| now.clone()));
    }
    let reason = if journal.timed_out { TIMED_OUT.to_owned() } else { format!("{phase:?}") };
    let conditions = &mut status.conditions;
    let mut set = |kind, value, message: &str| set_condition(conditions, kind, value, &reason, message, generation);
    let executed = done == all;
    set(ConditionType::Executed, executed, &message);
    set(
        ConditionType::Verified,
        executed && !matches!(phase, PlanPhase::RollingBack | PlanPhase::RolledBack),
        &message,
    );
    if journal.drifted {
        set(ConditionType::Drifted, true, &message);
    }
    if journal.rollback_reason.is_some() && phase != PlanPhase::Failed && phase != PlanPhase::Drifted {
        set(ConditionType::RolledBack, phase == PlanPhase::RolledBack, &message);
    }
    set(ConditionType::Ready, phase == PlanPhase::Succeeded, &message);
    set(ConditionType::Reconciling, outcome.is_none(), &message);
    set(ConditionType::Stalled, outcome.is_some() && phase != PlanPhase::Succeeded, &message);
    status.finished_at = outcome.map(|_| now.clone());
    fit_messages(&plan.spec, status);
}

fn phase(journal: &Journal, outcome: Option<&Outcome>, observes: bool) -> PlanPhase {
    match outcome {
        Some(Outcome::Succeeded) => PlanPhase::Succeeded,
        Some(Outcome::Failed(_)) => PlanPhase::Failed,
        Some(Outcome::Drifted(_)) => PlanPhase::Drifted,
        Some(Outcome::RolledBack(_)) => PlanPhase::RolledBack,
        Some(Outcome::RollbackFailed(_)) => PlanPhase::RollbackFailed,
        Some(Outcome::Cancelled(_)) => PlanPhase::Cancelled,
        None if journal.rollback_reason.is_some() => PlanPhase::RollingBack,
        None => {
            let (done, all) = journal.progress();
            if observes && done == all { PlanPhase::Observing } else { PlanPhase::Executing }
        }
    }
}

fn describe(outcome: &Outcome, steps: usize) -> String {
    match outcome {
        Outcome::Succeeded if steps == 1 => "the step is done and verified".to_owned(),
        Outcome::Succeeded => format!("all {steps} steps are done and verified"),
        Outcome::Failed(reason) => format!("{reason}; nothing was left to put back"),
        Outcome::Drifted(reason) => format!("nothing was done: {reason}"),
        Outcome::RolledBack(reason) => format!("{reason}; everything done before was put back"),
        Outcome::RollbackFailed(reason) | Outcome::Cancelled(reason) => reason.clone(),
    }
}
