//! Judging a plan that has not begun: what it is, how risky it is today, what the policies say to it, and who said yes.

use super::approvals::Given;
use super::context::{Context, Error, TRIED_AGAIN, while_doing};
use super::namespaces::AsOf;
use super::notice::notice;
use super::plan::{about, execute, finish, plans};
use super::policy::{Judged, verdict};
use super::recheck::{assess_by_now, rights_hold, still_suspended};
use crate::api::{
    ApprovalTerms, ConditionType, ExecutionPlan, ExecutionPlanStatus, MAX_PLAN_MESSAGE, PlanPhase, RiskLevel,
    request_by, set_condition, shortened,
};
use crate::approval::{ApprovedPlan, Judgement, Outcome as Approval, Terms};
use crate::execute::{Signals, check_promised_metrics};
use crate::plan::policy::{Ruling, Verdict, still_demanded, stricter, written};
use crate::plan::{Reassessment, StepEffect, digest, least_approvals, validate};
use crate::telemetry::{AuditAction, AuditEvent, audit};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use kube::api::PostParams;
use kube::runtime::controller::Action;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long to wait at most for a time to come: clocks are set, and machines sleep.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
/// How long until rights are asked about again that kept an approval from counting: nothing tells when they are given.
const RIGHTS_PAUSE: Duration = Duration::from_secs(300);
/// How long until policies are asked again that cannot be read.
const POLICIES_PAUSE: Duration = Duration::from_secs(10);

/// Judges a plan that has not begun by what is true now, and begins it once nothing stands in its way.
pub(super) async fn await_approval(
    plan: &ExecutionPlan,
    context: &Arc<Context>,
    status: ExecutionPlanStatus,
    signals: Signals,
) -> Result<Action, Error> {
    let digest = digest::digest(&plan.spec).map_err(|error| Error::Digest(error.to_string()))?;
    let mut case = Case::open(plan, context, &digest, status, signals);
    match case.judge().await {
        Ok(action) | Err(Halt::Later(action)) => Ok(action),
        Err(Halt::Stop { phase, reason, message }) => case.stop(phase, reason, &message).await,
        Err(Halt::Wait { message, again }) => {
            case.wait(&message).await?;
            Ok(again)
        }
        Err(Halt::Failed(error)) => Err(error),
    }
}

/// Writes on a plan that has not begun why it cannot be judged. It is tried again all the same.
pub(super) async fn stall(plan: &ExecutionPlan, context: &Context, error: &Error) -> Result<(), Error> {
    let before = plan.status.clone().unwrap_or_default();
    if ApprovedPlan::begun(plan).is_some() || before.phase.is_some_and(PlanPhase::is_final) {
        return Ok(());
    }
    let status = stalled(plan, before.clone(), error.reason(), &error.to_string());
    if status == before {
        return Ok(());
    }
    let message = status.message.clone().unwrap_or_default();
    write(plan, context, status).await?;
    notice(context, plan, true, error.reason(), "Judge", &message);
    Ok(())
}

/// The status of a plan that cannot be judged. Its digest is not shown before it was judged once.
fn stalled(plan: &ExecutionPlan, mut status: ExecutionPlanStatus, reason: &str, message: &str) -> ExecutionPlanStatus {
    let generation = plan.metadata.generation;
    let room = MAX_PLAN_MESSAGE - TRIED_AGAIN.len();
    let message = format!("{}{TRIED_AGAIN}", shortened(message, room));
    status.observed_generation = generation;
    status.phase = Some(PlanPhase::AwaitingApproval);
    status.progress.get_or_insert_with(|| format!("0/{}", plan.spec.steps.len()));
    set_condition(&mut status.conditions, ConditionType::Ready, false, reason, &message, generation);
    set_condition(&mut status.conditions, ConditionType::Reconciling, false, reason, &message, generation);
    set_condition(&mut status.conditions, ConditionType::Stalled, true, reason, &message, generation);
    status.message = Some(message);
    status
}

/// One plan while it is judged.
struct Case<'a> {
    plan: &'a ExecutionPlan,
    context: &'a Arc<Context>,
    digest: &'a str,
    signals: Signals,
    opened: Instant,
    /// Whether the plan has shown no digest yet.
    first_look: bool,
    /// What the steps do, where this process made the plan a moment ago.
    made: Option<Arc<Vec<StepEffect>>>,
    before: ExecutionPlanStatus,
    /// What is to be written.
    status: ExecutionPlanStatus,
}

/// Why judging ends before its last step.
enum Halt {
    /// The plan ends without having done anything.
    Stop {
        phase: PlanPhase,
        reason: &'static str,
        message: String,
    },
    /// It waits, for what the message says.
    Wait {
        message: String,
        again: Action,
    },
    /// Nothing can be said yet.
    Later(Action),
    Failed(Error),
}

impl Halt {
    fn stop(phase: PlanPhase, reason: &'static str, message: impl Into<String>) -> Self {
        Self::Stop { phase, reason, message: message.into() }
    }

    /// What is wrong with the plan itself ends it; anything else is tried again.
    fn wrong(error: Error) -> Self {
        match error {
            Error::Plan(error) if !error.is_transient() => {
                Self::stop(PlanPhase::Failed, error.reason(), error.to_string())
            }
            error => Self::Failed(error),
        }
    }
}

impl From<Error> for Halt {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// What was made of the approvals.
struct Count<'a> {
    given: Given<'a>,
    judgement: Judgement,
    suspended: bool,
    /// When the plan expires unless it has its approvals by then.
    expires: Option<Timestamp>,
    /// When to look again.
    again: Action,
}

impl<'a> Case<'a> {
    fn open(
        plan: &'a ExecutionPlan,
        context: &'a Arc<Context>,
        digest: &'a str,
        mut status: ExecutionPlanStatus,
        signals: Signals,
    ) -> Self {
        let before = status.clone();
        let first_look = status.digest.is_none();
        status.digest = Some(digest.to_owned());
        status.observed_generation = plan.metadata.generation;
        if plan.spec.proposed_by.is_some() {
            status.risk.get_or_insert_with(|| plan.spec.risk.clone());
        }
        let made = context.assessments.made(plan, digest);
        Self { plan, context, digest, signals, opened: Instant::now(), first_look, made, before, status }
    }

    async fn judge(&mut self) -> Result<Action, Halt> {
        self.record_author();
        self.check_spec().await?;
        let (risk, found) = self.weigh().await?;
        let verdict = self.ask_policies(risk, found.as_deref()).await?;
        let terms = self.settle_terms(&verdict)?;
        let held = held_back(&verdict);
        let need = terms.approvals;
        let (count, rights) = self.count_approvals(&verdict, &terms, held.is_some()).await?;
        self.status.expires_at = count.expires.map(Time);
        self.status.approvals.clone_from(&count.judgement.records);
        self.status.approval_count = Some(format!("{}/{need}", count.judgement.counted()));
        match &count.judgement.outcome {
            Approval::Denied { by, reason } => {
                let reason = reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
                Ok(self.deny(&count, &format!("denied by {by}{reason}")).await?)
            }
            Approval::Waiting { .. } if self.is_overdue(&terms) => {
                let waited = terms.approval_deadline.map(Duration::from).unwrap_or_default();
                let message = format!("not approved within {}: make the request again", written(waited));
                Err(Halt::stop(PlanPhase::Expired, "ApprovalDeadline", message))
            }
            Approval::Waiting { have, need } => {
                let missing = need - have;
                let approvals = if missing == 1 { "approval" } else { "approvals" };
                let message = format!("risk is {risk}: waits for {missing} more {approvals} ({have} of {need})");
                let message = held.map_or(message.clone(), |held| format!("{message}; {held}"));
                Ok(self.hold(&count, &message).await?)
            }
            Approval::Approved { by } if held.is_some() || count.suspended => {
                let message = match held {
                    Some(held) if by.is_empty() => held,
                    Some(held) => format!("approved by {}; {held}", by.join(", ")),
                    None => "approved; suspended by its command".to_owned(),
                };
                Ok(self.hold(&count, &message).await?)
            }
            Approval::Approved { by } => {
                rights.map_err(Halt::wrong)?;
                let message = if by.is_empty() {
                    format!("risk is {risk}: no approval needed")
                } else {
                    format!("approved by {}", by.join(", "))
                };
                Ok(self.begin(&count, &message).await)
            }
        }
    }

    /// Tells the audit trail of a plan that somebody wrote.
    fn record_author(&self) {
        let plan = self.plan;
        if !self.first_look || plan.spec.command_ref.is_some() {
            return;
        }
        let author = plan.spec.requested_by.as_ref().map_or("unknown", |requester| requester.username.as_str());
        let risk = plan.spec.risk.level.to_string();
        let line = about(plan, AuditAction::Proposed, author);
        audit::record(AuditEvent { digest: Some(self.digest), planner: Some("by hand"), decision: &risk, ..line });
    }

    /// What can be said of the plan by itself.
    async fn check_spec(&self) -> Result<(), Halt> {
        let plan = self.plan;
        if self.signals.cancel {
            return Err(Halt::stop(
                PlanPhase::Cancelled,
                "Cancelled",
                format!("cancelled by {} before it started", self.cancelled_by()),
            ));
        }
        if plan.spec.plan_only {
            return Err(Halt::stop(PlanPhase::Planned, "PlanOnly", "for reading only: it is never carried out"));
        }
        if let Err(invalid) = validate(&plan.spec) {
            return Err(Halt::stop(PlanPhase::Failed, "InvalidPlan", invalid.to_string()));
        }
        if self.first_look
            && let Some(wrong) = check_promised_metrics(&plan.spec.steps, self.context.prometheus.as_ref()).await
        {
            return Err(Halt::stop(PlanPhase::Failed, "InvalidPlan", wrong));
        }
        Ok(())
    }

    /// Who had the plan cancelled, as far as the plan itself tells.
    fn cancelled_by(&self) -> String {
        request_by(&self.plan.metadata).map_or_else(|| "its command".to_owned(), |requester| requester.username)
    }

    /// The risk. What somebody else wrote by hand, or what was made a while ago, is weighed afresh: a plan cannot call itself
    /// harmless.
    async fn weigh(&mut self) -> Result<(RiskLevel, Option<Arc<Reassessment>>), Halt> {
        let said = &self.plan.spec.risk;
        let mut risk = said.clone();
        let mut reassessed = None;
        if self.made.is_none() {
            let found = assess_by_now(self.plan, self.digest, self.opened, self.context).await.map_err(Halt::wrong)?;
            self.status.irreversible.clone_from(&found.irreversible);
            // What the author says may raise it.
            if said.level <= found.risk.level {
                risk.clone_from(&found.risk);
            }
            reassessed = Some(found);
        }
        let level = risk.level;
        self.status.risk = Some(risk);
        Ok((level, reassessed))
    }

    async fn ask_policies(&mut self, risk: RiskLevel, found: Option<&Reassessment>) -> Result<Verdict, Halt> {
        let held_by = self.status.terms.as_ref().map(|terms| terms.policies.as_slice()).unwrap_or_default();
        let namespace = self.plan.namespace().unwrap_or_default();
        // A plan is seen first in the moment after it was made.
        let as_of = if self.made.is_some() && self.first_look { AsOf::Lately } else { AsOf::Moment(self.opened) };
        let made = self.made.as_deref().map(Vec::as_slice);
        let effects = found.map(|found| found.effects.as_slice()).or(made).unwrap_or_default();
        match verdict(&self.plan.spec, &namespace, risk, effects, held_by, as_of, self.context).await? {
            Judged::Verdict(verdict) => Ok(*verdict),
            // Their arrival brings every plan back here.
            Judged::NotYet => Err(Halt::Later(Action::requeue(Duration::from_secs(1)))),
            Judged::Unreadable(reason) => {
                // Its digest is not shown yet: approvals are for plans that were judged.
                self.status.digest.clone_from(&self.before.digest);
                let message = format!("nothing runs as long as the policies cannot be read: {reason}");
                Err(Halt::Wait { message, again: Action::requeue(POLICIES_PAUSE) })
            }
        }
    }

    /// The strictest terms of approval that the plan was ever judged by, those of now and of its own spec included. Policy
    /// that denies the plan ends it.
    fn settle_terms(&mut self, verdict: &Verdict) -> Result<ApprovalTerms, Halt> {
        let mut terms = verdict.terms();
        terms.approvals = terms.approvals.max(self.plan.spec.approvals_required).max(least_approvals(&self.plan.spec));
        let terms = self.status.terms.as_ref().map_or(terms.clone(), |before| stricter(before, &terms));
        self.status.approvals_required = terms.approvals;
        self.status.policies = still_demanded(&self.before.policies, &verdict.demanded_by);
        self.status.terms = Some(terms.clone());
        let Some(denial) = denial(self.plan, verdict, &terms) else { return Ok(terms) };
        self.set(ConditionType::Denied, true, "DeniedByPolicy", &denial);
        let line = about(self.plan, AuditAction::Denied, "policy");
        audit::record(AuditEvent { digest: Some(self.digest), decision: &denial, ..line });
        Err(Halt::stop(PlanPhase::Denied, "DeniedByPolicy", denial))
    }

    /// Weighs the approvals. Those that decide are confirmed first. Where the plan is about to begin, also whether everybody
    /// still has the rights that it takes.
    async fn count_approvals(
        &self,
        verdict: &Verdict,
        terms: &ApprovalTerms,
        held: bool,
    ) -> Result<(Count<'a>, Result<(), Error>), Error> {
        let (plan, context) = (self.plan, self.context);
        let need = terms.approvals;
        let last = deadline(plan, terms);
        let terms = Terms::of(terms, context.cluster.now());
        let now = terms.now;
        // Where nobody has to say yes, somebody may still say no as long as the plan waits for something else.
        let mut given = if need > 0 || held || self.signals.suspended {
            Given::read(plan, self.digest, terms, self.first_look, context).await?
        } else {
            Given::nothing(plan, self.digest, terms)
        };
        let mut judgement = given.judge(context).await?;
        let approved = matches!(judgement.outcome, Approval::Approved { .. });
        let suspended = self.signals.suspended && approved && !held && still_suspended(plan, context).await?;
        let decides = match judgement.outcome {
            Approval::Approved { .. } => !held && !suspended,
            Approval::Denied { .. } => true,
            Approval::Waiting { .. } => false,
        };
        let expires = last.filter(|_| matches!(judgement.outcome, Approval::Waiting { .. }));
        let mut again = next_judgement(verdict, &judgement, expires, now);
        // A plan that this process made a moment ago, and that nobody had to approve, had its rights checked then.
        let asks = decides && approved && !(self.made.is_some() && need == 0);
        let adopted = given.adopt(&judgement, context);
        let rights = async { if asks { rights_hold(plan, context).await } else { Ok(()) } };
        let confirmed = async {
            if decides {
                judgement = given.confirm(judgement, context).await?;
                if matches!(judgement.outcome, Approval::Waiting { .. }) {
                    again = Action::requeue(RIGHTS_PAUSE);
                }
            }
            Ok::<_, Error>(judgement)
        };
        // Side by side, and right before the plan begins: the last fails where an approval was taken back meanwhile. One that
        // turns out not to count belongs to the plan, too.
        let (judgement, rights, adopted) = tokio::join!(confirmed, rights, adopted);
        let judgement = judgement?;
        adopted?;
        Ok((Count { judgement, given, suspended, expires, again }, rights))
    }

    async fn deny(&mut self, count: &Count<'_>, message: &str) -> Result<Action, Error> {
        self.set(ConditionType::Denied, true, "Denied", message);
        let stopped = self.stop(PlanPhase::Denied, "Denied", message).await?;
        let news = count.given.tell(&self.before.approvals, &count.judgement, self.context);
        count.given.show(&news, self.context).await;
        Ok(stopped)
    }

    async fn hold(&mut self, count: &Count<'_>, message: &str) -> Result<Action, Error> {
        self.wait(message).await?;
        let news = count.given.tell(&self.before.approvals, &count.judgement, self.context);
        count.given.show(&news, self.context).await;
        Ok(count.again.clone())
    }

    async fn begin(&mut self, count: &Count<'_>, message: &str) -> Action {
        let (plan, context) = (self.plan, self.context);
        self.set(ConditionType::Approved, true, "Approved", message);
        self.status.message = Some(message.to_owned());
        self.status.phase = Some(PlanPhase::Approved);
        let news = count.given.tell(&self.before.approvals, &count.judgement, context);
        notice(context, plan, false, "Approved", "Approve", message);
        let line = about(plan, AuditAction::Begun, "countersign");
        audit::record(AuditEvent { digest: Some(self.digest), decision: message, ..line });
        if let Some(approved) = count.judgement.approve(plan) {
            execute(context, &approved, self.status.clone(), Signals { suspended: false, ..self.signals.clone() });
        }
        // Beside the execution: the plan's own record is what decides.
        count.given.show(&news, context).await;
        Action::await_change()
    }

    /// Writes that the plan waits, if that is news.
    async fn wait(&mut self, message: &str) -> Result<(), Error> {
        self.status.phase = Some(PlanPhase::AwaitingApproval);
        self.status.message = Some(message.to_owned());
        self.status.progress.get_or_insert_with(|| format!("0/{}", self.plan.spec.steps.len()));
        self.set(ConditionType::Approved, false, "AwaitingApproval", message);
        self.set(ConditionType::Ready, false, "AwaitingApproval", message);
        self.set(ConditionType::Reconciling, true, "AwaitingApproval", message);
        self.set(ConditionType::Stalled, false, "AwaitingApproval", message);
        if self.before != self.status {
            let written = write(self.plan, self.context, self.status.clone()).await?;
            // What is waited for brings the plan back by itself; this write says nothing that was not judged.
            self.context.written.note_settled(&written.metadata);
            notice(self.context, self.plan, false, "AwaitingApproval", "Judge", message);
        }
        Ok(())
    }

    /// Ends a plan that did nothing.
    async fn stop(&mut self, phase: PlanPhase, reason: &str, message: &str) -> Result<Action, Error> {
        let (plan, context) = (self.plan, self.context);
        self.status.phase = Some(phase);
        self.status.message = Some(message.to_owned());
        self.status.finished_at = Some(Time(self.context.cluster.now()));
        let fine = phase == PlanPhase::Planned;
        self.set(ConditionType::Ready, fine, reason, message);
        self.set(ConditionType::Reconciling, false, reason, message);
        self.set(ConditionType::Stalled, !fine, reason, message);
        context.hand_over(&write(plan, context, self.status.clone()).await?);
        notice(context, plan, !fine, reason, "Judge", message);
        audit::record(AuditEvent { decision: &phase.to_string(), ..about(plan, AuditAction::Finished, "countersign") });
        finish(plan, self.status.finished_at.as_ref(), context).await
    }

    fn is_overdue(&self, terms: &ApprovalTerms) -> bool {
        deadline(self.plan, terms).is_some_and(|deadline| deadline <= self.context.cluster.now())
    }

    fn set(&mut self, kind: ConditionType, holds: bool, reason: &str, message: &str) {
        set_condition(&mut self.status.conditions, kind, holds, reason, message, self.plan.metadata.generation);
    }
}

/// Until when the plan may wait for its approvals.
fn deadline(plan: &ExecutionPlan, terms: &ApprovalTerms) -> Option<Timestamp> {
    let waits = SignedDuration::try_from(Duration::from(terms.approval_deadline?)).ok()?;
    plan.metadata.creation_timestamp.as_ref()?.0.checked_add(waits).ok()
}

/// Why policy ends the plan here, in one sentence.
fn denial(plan: &ExecutionPlan, verdict: &Verdict, terms: &ApprovalTerms) -> Option<String> {
    if let Ruling::Deny { reasons } = &verdict.ruling {
        return Some(format!("denied by {}", reasons.join("; ")));
    }
    // The spec never changes: a plan that was made for a shorter watch cannot be watched for longer.
    let wanted = Duration::from(terms.observe?);
    let watched = plan.spec.observe.as_ref().map(|observe| Duration::from(observe.duration)).unwrap_or_default();
    (watched < wanted).then(|| {
        format!(
            "policy asks to watch the workloads for {wanted:?} after the last step, the plan for {watched:?}: ask again, or set spec.observe.for"
        )
    })
}

/// What policy waits for, in one clause.
fn held_back(verdict: &Verdict) -> Option<String> {
    match &verdict.ruling {
        Ruling::Wait { reasons, .. } => Some(format!("held back by {}", reasons.join("; "))),
        Ruling::Allow | Ruling::Deny { .. } => None,
    }
}

/// When time alone may change what was judged.
fn next_judgement(verdict: &Verdict, judgement: &Judgement, expires: Option<Timestamp>, now: Timestamp) -> Action {
    let opens = match &verdict.ruling {
        Ruling::Wait { until, .. } => *until,
        Ruling::Allow | Ruling::Deny { .. } => None,
    };
    let next = [opens, judgement.expires, expires].into_iter().flatten().min();
    next.map_or_else(Action::await_change, |next| {
        let left = Duration::try_from(next.duration_since(now)).unwrap_or_default();
        Action::requeue(left.clamp(Duration::from_secs(1), LONGEST_PAUSE))
    })
}

async fn write(plan: &ExecutionPlan, context: &Context, status: ExecutionPlanStatus) -> Result<ExecutionPlan, Error> {
    let mut updated = plan.clone();
    updated.status = Some(status);
    let written = plans(plan, context).replace_status(&plan.name_any(), &PostParams::default(), &updated).await;
    let written = written.map_err(while_doing("writing the plan's status"))?;
    context.written.note(&written.metadata);
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{ExecutionPlanSpec, condition};

    #[test]
    fn a_plan_that_cannot_be_judged_says_why_and_shows_no_digest() {
        let plan = ExecutionPlan::new("p", ExecutionPlanSpec::default());
        let status = stalled(&plan, ExecutionPlanStatus::default(), "DisruptionBudget", &"no ".repeat(2_000));
        let told = condition(&status.conditions, ConditionType::Stalled).unwrap();
        assert_eq!((told.status.as_str(), told.reason.as_str()), ("True", "DisruptionBudget"));
        let message = status.message.clone().unwrap();
        assert!(message.ends_with(TRIED_AGAIN) && message.len() <= MAX_PLAN_MESSAGE, "{}", message.len());
        assert_eq!((status.phase, status.digest.as_deref()), (Some(PlanPhase::AwaitingApproval), None));
        // Said once, it is not written again.
        assert_eq!(stalled(&plan, status.clone(), "DisruptionBudget", &"no ".repeat(2_000)), status);
    }
}
