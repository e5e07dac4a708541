use super::approvals::{self, Given};
use super::context::{Context, Error, while_doing};
use super::finished::mark;
use super::notice::notice;
use super::policy::{Judged, verdict};
use crate::api::{
    AgentCommand, ApprovalTerms, ConditionType, ExecutionPlan, ExecutionPlanStatus, FINISHED_LABEL, PlanPhase,
    REQUEST_ANNOTATION, Risk, RiskLevel, SNAPSHOT_FINALIZER, set_condition,
};
use crate::approval::{ApprovedPlan, Judgement, Outcome as Approval, Terms};
use crate::execute::{
    Driver, Effects, Fence, Outcome, Signals, StepEvent, Watching, can_be_put_back, check_promised_metrics,
};
use crate::plan::policy::{Ruling, Verdict, still_demanded, stricter};
use crate::plan::{
    Actor, Environments, PlanError, Reassessment, catalog_for, check_plan_rights, check_use, digest,
    needs_record_dropped, reassess, validate,
};
use crate::telemetry::{AuditAction, AuditEvent, audit, logging};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::controller::Action;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tracing::Instrument;

/// How long to wait at most for a time to come: clocks are set, and machines sleep.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
/// How long until rights are asked about again that kept an approval from counting: nothing tells when they are given.
const RIGHTS_PAUSE: Duration = Duration::from_secs(300);

/// Moves a plan to its next phase.
pub(super) async fn reconcile(plan: Arc<ExecutionPlan>, context: Arc<Context>) -> Result<Action, Error> {
    // Above all what the cache still shows as under way when it has just ended.
    if context.written.is_ahead_of(&plan.metadata) {
        return Ok(Action::await_change());
    }
    let uid = plan.uid().unwrap_or_default();
    let signals = signals(&plan, command_of(&plan, &context).await?.as_deref());
    if context.executions.signal(&uid, &signals) {
        return Ok(Action::await_change());
    }
    let status = plan.status.clone().unwrap_or_default();
    let is_final = status.phase.is_some_and(PlanPhase::is_final);
    if plan.metadata.deletion_timestamp.is_some() && (is_final || ApprovedPlan::begun(&plan).is_none()) {
        clean_up(&plan.metadata, &context).await?;
        return Ok(Action::await_change());
    }
    if is_final {
        let asked_back = signals.rollback.is_some() && can_be_put_back(&status);
        if !asked_back {
            return finish(&plan, &context).await;
        }
    }
    if let Some(approved) = ApprovedPlan::begun(&plan) {
        if is_final {
            let line = AuditEvent {
                decision: "putting back was asked for",
                ..about(&plan, AuditAction::Begun, "countersign")
            };
            audit::record(line);
        }
        execute(&context, &approved, status, signals);
        return Ok(Action::await_change());
    }
    await_approval(&plan, &context, status, signals).await
}

/// What people ask of a plan: by annotation on the plan, by `suspend` on its command, or by deleting either. A plan whose
/// command is gone begins nothing more, all the more if that command was suspended.
pub(super) fn signals(plan: &ExecutionPlan, command: Option<&AgentCommand>) -> Signals {
    let request = plan.annotations().get(REQUEST_ANNOTATION).map(String::as_str);
    let is_owner = |command: &&AgentCommand| {
        let owners = plan.owner_references();
        owners.is_empty() || owners.iter().any(|owner| Some(&owner.uid) == command.metadata.uid.as_ref())
    };
    let command = command.filter(|command| command.metadata.deletion_timestamp.is_none()).filter(is_owner);
    let orphaned = plan.spec.command_ref.is_some() && command.is_none();
    Signals {
        suspended: command.is_some_and(|command| command.spec.suspend),
        cancel: request == Some("cancel") || plan.metadata.deletion_timestamp.is_some() || orphaned,
        rollback: (request == Some("rollback")).then(|| "putting back was asked for".to_owned()),
    }
}

/// The command that a plan answers. The cache knows neither finished commands nor, right after the start, any at all: what
/// it does not know is asked for, because a suspended command must not be taken for none.
async fn command_of(plan: &ExecutionPlan, context: &Context) -> Result<Option<Arc<AgentCommand>>, Error> {
    let Some(reference) = &plan.spec.command_ref else { return Ok(None) };
    if let Some(command) = context.command_of(plan) {
        return Ok(Some(command));
    }
    let commands: Api<AgentCommand> =
        Api::namespaced(context.client.clone(), plan.namespace().as_deref().unwrap_or_default());
    let found = commands.get_opt(&reference.name).await.map_err(while_doing("reading the plan's command"))?;
    Ok(found.map(Arc::new))
}

fn plans(plan: &ExecutionPlan, context: &Context) -> Api<ExecutionPlan> {
    Api::namespaced(context.client.clone(), plan.namespace().as_deref().unwrap_or_default())
}

async fn await_approval(
    plan: &ExecutionPlan,
    context: &Arc<Context>,
    mut status: ExecutionPlanStatus,
    signals: Signals,
) -> Result<Action, Error> {
    // Before the digest can be read, and approved: the finalizer sees to it that approvals go when the plan goes.
    if !is_prepared(plan) {
        prepare(plan, context).await?;
        return Ok(Action::await_change());
    }
    let before = status.clone();
    let digest = digest::digest(&plan.spec).map_err(|error| Error::Digest(error.to_string()))?;
    let first_look = status.digest.is_none();
    status.digest = Some(digest.clone());
    status.observed_generation = plan.metadata.generation;
    if plan.spec.proposed_by.is_some() {
        status.risk.get_or_insert_with(|| plan.spec.risk.clone());
    }
    if first_look && plan.spec.command_ref.is_none() {
        let author = plan.spec.requested_by.as_ref().map_or("unknown", |requester| requester.username.as_str());
        let risk = plan.spec.risk.level.to_string();
        let line = about(plan, AuditAction::Proposed, author);
        audit::record(AuditEvent { digest: Some(&digest), planner: Some("by hand"), decision: &risk, ..line });
    }
    if signals.cancel {
        return stop(plan, context, status, PlanPhase::Cancelled, "Cancelled", "cancelled before it began").await;
    }
    if plan.spec.plan_only {
        return stop(
            plan,
            context,
            status,
            PlanPhase::Planned,
            "PlanOnly",
            "for reading only: it is never carried out",
        )
        .await;
    }
    if let Err(invalid) = validate(&plan.spec) {
        return stop(plan, context, status, PlanPhase::Failed, "InvalidPlan", &invalid.to_string()).await;
    }
    if first_look && let Some(wrong) = check_promised_metrics(&plan.spec.steps, context.prometheus.as_ref()).await {
        return stop(plan, context, status, PlanPhase::Failed, "InvalidPlan", &wrong).await;
    }
    // What somebody else wrote by hand, or what was made a while ago, is weighed afresh: a plan cannot call itself harmless.
    let fresh = context.was_assessed(plan, &digest);
    let risk = if fresh {
        status.risk = Some(plan.spec.risk.clone());
        plan.spec.risk.level
    } else {
        match assess_again(plan, context).await {
            Ok(found) => {
                // What the author says may raise it.
                let risk = if plan.spec.risk.level > found.risk.level { plan.spec.risk.clone() } else { found.risk };
                let level = risk.level;
                status.risk = Some(risk);
                status.irreversible = found.irreversible;
                level
            }
            Err(Error::Plan(error)) if !error.is_transient() => {
                return stop(plan, context, status, PlanPhase::Failed, error.reason(), &error.to_string()).await;
            }
            Err(error) => return Err(error),
        }
    };
    let held_by = status.terms.as_ref().map(|terms| terms.policies.as_slice()).unwrap_or_default();
    let verdict = match verdict(&plan.spec, &plan.namespace().unwrap_or_default(), risk, held_by, context).await? {
        Judged::Verdict(verdict) => *verdict,
        // Their arrival brings every plan back here.
        Judged::NotYet => return Ok(Action::requeue(Duration::from_secs(1))),
        Judged::Unreadable(reason) => {
            // Its digest is not shown yet: approvals are for plans that were judged.
            status.digest.clone_from(&before.digest);
            let message = format!("nothing runs as long as the policies cannot be read: {reason}");
            wait(plan, context, &before, status, &message).await?;
            return Ok(Action::requeue(Duration::from_secs(10)));
        }
    };
    let terms = terms_of(plan, &status, &verdict);
    let need = terms.approvals;
    status.approvals_required = need;
    status.policies = still_demanded(&before.policies, &verdict.demanded_by);
    let denial = denial(plan, &verdict, &terms);
    status.terms = Some(terms.clone());
    if let Some(denial) = denial {
        let generation = plan.metadata.generation;
        set_condition(&mut status.conditions, ConditionType::Denied, true, "DeniedByPolicy", &denial, generation);
        let line = about(plan, AuditAction::Denied, "policy");
        audit::record(AuditEvent { digest: Some(&digest), decision: &denial, ..line });
        return stop(plan, context, status, PlanPhase::Denied, "DeniedByPolicy", &denial).await;
    }
    let held = held_back(&verdict);
    let terms = Terms::of(&terms, Timestamp::now());
    let now = terms.now;
    // Where nobody has to say yes, somebody may still say no as long as the plan waits for something else.
    let mut given = if need > 0 || held.is_some() || signals.suspended {
        Given::read(plan, &digest, terms, first_look, context).await?
    } else {
        Given::nothing(plan, &digest, terms)
    };
    let mut judgement = given.judge(context).await?;
    let approved = matches!(judgement.outcome, Approval::Approved { .. });
    let suspended = signals.suspended && approved && held.is_none() && still_suspended(plan, context).await?;
    let decides = match judgement.outcome {
        Approval::Approved { .. } => held.is_none() && !suspended,
        Approval::Denied { .. } => true,
        Approval::Waiting { .. } => false,
    };
    let mut again = next_judgement(&verdict, &judgement, now);
    if decides {
        judgement = given.confirm(judgement, context).await?;
        if matches!(judgement.outcome, Approval::Waiting { .. }) {
            again = Action::requeue(RIGHTS_PAUSE);
        }
    }
    given.adopt(&judgement, context).await?;
    status.approvals.clone_from(&judgement.records);
    status.approval_count = Some(format!("{}/{need}", judgement.counted()));
    match &judgement.outcome {
        Approval::Denied { by, reason } => {
            let reason = reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
            let message = format!("denied by {by}{reason}");
            set_condition(
                &mut status.conditions,
                ConditionType::Denied,
                true,
                "Denied",
                &message,
                plan.metadata.generation,
            );
            let stopped = stop(plan, context, status, PlanPhase::Denied, "Denied", &message).await?;
            given.tell(&before.approvals, &judgement, context).await;
            Ok(stopped)
        }
        Approval::Waiting { have, need } => {
            let missing = need - have;
            let approvals = if missing == 1 { "approval" } else { "approvals" };
            let message = format!("risk is {risk}: waits for {missing} more {approvals} ({have} of {need})");
            let message = held.map_or(message.clone(), |held| format!("{message}; {held}"));
            wait(plan, context, &before, status, &message).await?;
            given.tell(&before.approvals, &judgement, context).await;
            Ok(again)
        }
        Approval::Approved { by } if held.is_some() || suspended => {
            let message = match held {
                Some(held) if by.is_empty() => held,
                Some(held) => format!("approved by {}; {held}", by.join(", ")),
                None => "approved; suspended by its command".to_owned(),
            };
            wait(plan, context, &before, status, &message).await?;
            given.tell(&before.approvals, &judgement, context).await;
            Ok(again)
        }
        Approval::Approved { by } => {
            // A plan that this process made a moment ago, and that nobody had to approve, had its rights checked then.
            if (!fresh || need > 0) && let Err(error) = rights_hold(plan, context).await {
                return match error {
                    Error::Plan(error) if !error.is_transient() => {
                        stop(plan, context, status, PlanPhase::Failed, error.reason(), &error.to_string()).await
                    }
                    error => Err(error),
                };
            }
            let message = if by.is_empty() {
                format!("risk is {risk}: no approval needed")
            } else {
                format!("approved by {}", by.join(", "))
            };
            set_condition(
                &mut status.conditions,
                ConditionType::Approved,
                true,
                "Approved",
                &message,
                plan.metadata.generation,
            );
            status.message = Some(message.clone());
            status.phase = Some(PlanPhase::Approved);
            given.tell(&before.approvals, &judgement, context).await;
            notice(context, plan, false, "Approved", "Approve", &message);
            let line = about(plan, AuditAction::Begun, "countersign");
            audit::record(AuditEvent { digest: Some(&digest), decision: &message, ..line });
            if let Some(approved) = judgement.approve(plan) {
                execute(context, &approved, status, Signals { suspended: false, ..signals });
            }
            Ok(Action::await_change())
        }
    }
}

/// The strictest terms of approval that the plan was ever judged by, those of now and of its own spec included.
fn terms_of(plan: &ExecutionPlan, status: &ExecutionPlanStatus, verdict: &Verdict) -> ApprovalTerms {
    let mut terms = verdict.terms();
    terms.approvals = terms.approvals.max(plan.spec.approvals_required);
    status.terms.as_ref().map_or(terms.clone(), |before| stricter(before, &terms))
}

/// Whether the plan's command pauses right now. What brings the plan here may be the command going on, before the cache of
/// commands shows it; nothing would come after that.
async fn still_suspended(plan: &ExecutionPlan, context: &Context) -> Result<bool, Error> {
    let Some(reference) = &plan.spec.command_ref else { return Ok(false) };
    let namespace = plan.namespace().unwrap_or_default();
    let commands: Api<AgentCommand> = Api::namespaced(context.client.clone(), &namespace);
    let command = commands.get_opt(&reference.name).await.map_err(while_doing("reading the plan's command"))?;
    Ok(command.is_some_and(|command| command.spec.suspend))
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
fn next_judgement(verdict: &Verdict, judgement: &Judgement, now: Timestamp) -> Action {
    let opens = match &verdict.ruling {
        Ruling::Wait { until, .. } => *until,
        Ruling::Allow | Ruling::Deny { .. } => None,
    };
    let next = [opens, judgement.expires].into_iter().flatten().min();
    next.map_or_else(Action::await_change, |next| {
        let left = Duration::try_from(next.duration_since(now)).unwrap_or_default();
        Action::requeue(left.clamp(Duration::from_secs(1), LONGEST_PAUSE))
    })
}

/// The risk by today's cluster: environment, live objects, dry run.
async fn assess_again(plan: &ExecutionPlan, context: &Context) -> Result<Reassessment, Error> {
    let namespace = plan.namespace().unwrap_or_default();
    let account = plan.spec.service_account_name.as_deref().unwrap_or("default");
    let access = context.cluster.service_account(&namespace, account)?;
    let catalog = catalog_for(&context.cluster, &plan.spec).await?;
    let namespaces = context.namespaces().await?;
    if namespaces.is_empty() {
        // Without them no environment is known, and what is known of none must not look harmless.
        let reasons = vec!["The environment of its objects is not known: namespaces cannot be read.".to_owned()];
        let risk = Risk { level: RiskLevel::Critical, reasons };
        return Ok(Reassessment { risk, irreversible: Vec::new() });
    }
    let environments = Environments::new(namespaces, context.namespace.clone());
    Ok(reassess(&access, &catalog, &environments, &plan.spec).await?)
}

/// Effective rights are an intersection: everything that the plan does must be allowed to whoever asked and to its
/// service account, and whoever asked must be allowed to use that account.
async fn rights_hold(plan: &ExecutionPlan, context: &Context) -> Result<(), Error> {
    let namespace = plan.namespace().unwrap_or_default();
    let account = plan.spec.service_account_name.as_deref().unwrap_or("default");
    let Some(requester) = plan.spec.requested_by.as_ref().map(Actor::requester) else {
        return Err(PlanError::Refused {
            reason: "UnknownRequester",
            message: "it is unknown who asked for the plan: spec.requestedBy is empty, and the admission policies that stamp it are not installed".to_owned(),
        }
        .into());
    };
    check_use(&context.cluster, &requester, &namespace, account).await?;
    let catalog = catalog_for(&context.cluster, &plan.spec).await?;
    let account = Actor::service_account(&namespace, account);
    Ok(check_plan_rights(&context.cluster, &catalog, &requester, &account, &plan.spec).await?)
}

/// Writes that the plan waits, if that is news.
async fn wait(
    plan: &ExecutionPlan,
    context: &Context,
    before: &ExecutionPlanStatus,
    mut status: ExecutionPlanStatus,
    message: &str,
) -> Result<Action, Error> {
    let generation = plan.metadata.generation;
    status.phase = Some(PlanPhase::AwaitingApproval);
    status.message = Some(message.to_owned());
    status.progress.get_or_insert_with(|| format!("0/{}", plan.spec.steps.len()));
    set_condition(&mut status.conditions, ConditionType::Approved, false, "AwaitingApproval", message, generation);
    set_condition(&mut status.conditions, ConditionType::Ready, false, "AwaitingApproval", message, generation);
    set_condition(&mut status.conditions, ConditionType::Reconciling, false, "AwaitingApproval", message, generation);
    if *before != status {
        write(plan, context, status).await?;
        notice(context, plan, false, "AwaitingApproval", "Judge", message);
    }
    Ok(Action::await_change())
}

/// Ends a plan that did nothing.
async fn stop(
    plan: &ExecutionPlan,
    context: &Context,
    mut status: ExecutionPlanStatus,
    phase: PlanPhase,
    reason: &str,
    message: &str,
) -> Result<Action, Error> {
    let generation = plan.metadata.generation;
    status.phase = Some(phase);
    status.message = Some(message.to_owned());
    status.finished_at = Some(Time(k8s_openapi::jiff::Timestamp::now()));
    let fine = phase == PlanPhase::Planned;
    set_condition(&mut status.conditions, ConditionType::Ready, fine, reason, message, generation);
    set_condition(&mut status.conditions, ConditionType::Reconciling, false, reason, message, generation);
    set_condition(&mut status.conditions, ConditionType::Stalled, !fine, reason, message, generation);
    write(plan, context, status).await?;
    notice(context, plan, !fine, reason, "Judge", message);
    audit::record(AuditEvent { decision: &phase.to_string(), ..about(plan, AuditAction::Finished, "countersign") });
    finish(plan, context).await
}

async fn write(plan: &ExecutionPlan, context: &Context, status: ExecutionPlanStatus) -> Result<(), Error> {
    let mut updated = plan.clone();
    updated.status = Some(status);
    let written = plans(plan, context).replace_status(&plan.name_any(), &PostParams::default(), &updated).await;
    context.written.note(&written.map_err(while_doing("writing the plan's status"))?.metadata);
    Ok(())
}

/// Whether the plan has what it needs before anybody may approve it: the finalizer, and room for its journal.
fn is_prepared(plan: &ExecutionPlan) -> bool {
    has_finalizer(plan) && !holds_record(plan)
}

fn has_finalizer(plan: &ExecutionPlan) -> bool {
    plan.finalizers().iter().any(|finalizer| finalizer == SNAPSHOT_FINALIZER)
}

/// Who wrote which field says nothing about a spec that never changes, and would take the room of a large journal.
fn holds_record(plan: &ExecutionPlan) -> bool {
    !plan.managed_fields().is_empty() && needs_record_dropped(&plan.spec)
}

async fn prepare(plan: &ExecutionPlan, context: &Context) -> Result<(), Error> {
    let (has_it, drops_record) = (has_finalizer(plan), holds_record(plan));
    let mut finalizers = plan.finalizers().to_vec();
    if !has_it {
        finalizers.push(SNAPSHOT_FINALIZER.to_owned());
    }
    let mut patch = json!({ "metadata": { "finalizers": finalizers, "resourceVersion": plan.resource_version() } });
    if drops_record {
        // The form in which the API server takes it.
        patch["metadata"]["managedFields"] = json!([{}]);
    }
    let patched = plans(plan, context).patch(&plan.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await;
    patched.map(|_| ()).map_err(while_doing("setting the plan's finalizer"))
}

/// Starts carrying a plan out in the background; its own events bring it back to [`reconcile`].
fn execute(context: &Arc<Context>, approved: &ApprovedPlan, status: ExecutionPlanStatus, signals: Signals) {
    let mut plan = approved.plan().clone();
    // What is told of it names the digest, also when the plan begins at first sight.
    plan.status = Some(status.clone());
    let uid = plan.uid().unwrap_or_default();
    let Some(receiver) = context.executions.begin(&uid, signals) else { return };
    let correlation = plan.owner_references().first().map_or(uid.clone(), |owner| owner.uid.clone());
    let context = Arc::clone(context);
    let tasks = context.tasks.clone();
    let approved = approved.clone();
    let work = async move {
        match drive(&context, &approved, status, receiver).await {
            Ok(outcome) => {
                tell_end(&plan, &outcome, &context).await;
                if matches!(outcome, Outcome::RolledBack(_) | Outcome::RollbackFailed(_)) {
                    forget_request(&plan, &context).await;
                }
                tokio::spawn(take_up_again(plan, context, Duration::ZERO));
            }
            Err(error) => {
                tracing::warn!(%error, plan = plan.name_any(), "execution stopped; the journal decides how it goes on");
                tokio::spawn(take_up_again(plan, context, RESUME));
            }
        }
    };
    tasks.spawn(work.instrument(logging::correlation(&correlation)));
}

/// Says how a plan ended that was carried out.
async fn tell_end(plan: &ExecutionPlan, outcome: &Outcome, context: &Context) {
    let (phase, note) = match outcome {
        Outcome::Succeeded => (PlanPhase::Succeeded, "every step is done and verified"),
        Outcome::Failed(reason) => (PlanPhase::Failed, reason.as_str()),
        Outcome::Drifted(reason) => (PlanPhase::Drifted, reason.as_str()),
        Outcome::RolledBack(reason) => (PlanPhase::RolledBack, reason.as_str()),
        Outcome::RollbackFailed(reason) => (PlanPhase::RollbackFailed, reason.as_str()),
        Outcome::Cancelled(reason) => (PlanPhase::Cancelled, reason.as_str()),
    };
    let word = phase.to_string();
    audit::record(AuditEvent { decision: &word, ..about(plan, AuditAction::Finished, "countersign") });
    notice(context, plan, phase != PlanPhase::Succeeded, &word, "Execute", note);
}

/// A request to put back that was met is taken off the plan, so that the next one is seen as another.
async fn forget_request(plan: &ExecutionPlan, context: &Context) {
    let body = json!([
        { "op": "test", "path": REQUEST_POINTER, "value": "rollback" },
        { "op": "remove", "path": REQUEST_POINTER },
    ]);
    let Ok(patch) = serde_json::from_value(body) else { return };
    let patched =
        plans(plan, context).patch(&plan.name_any(), &PatchParams::default(), &Patch::<()>::Json(patch)).await;
    match patched {
        Ok(_) => {}
        // There was none, or somebody asks for something else by now.
        Err(kube::Error::Api(status)) if [400, 404, 409, 422].contains(&status.code) => {}
        // At worst what was refused is tried once more.
        Err(error) => tracing::warn!(%error, plan = plan.name_any(), "a request that was met is still on the plan"),
    }
}

/// [`REQUEST_ANNOTATION`] as a JSON pointer.
const REQUEST_POINTER: &str = "/metadata/annotations/countersign.dev~1request";

/// How long after its execution stopped without an end a plan is taken up again.
const RESUME: Duration = Duration::from_secs(30);

/// Does for a plan that was just carried out what its next event would do: the events of the last writes came while it
/// still ran, and nothing else would bring it back. Until `pause` is over it counts as running, so that nothing else takes
/// it up; where it does not any more, the operator is stopping.
async fn take_up_again(plan: ExecutionPlan, context: Arc<Context>, pause: Duration) {
    tokio::time::sleep(pause).await;
    let mut pause = Duration::from_secs(1);
    let mut running = true;
    while let Err(error) = look_again(&plan, &context, &mut running).await {
        tracing::warn!(%error, plan = plan.name_any(), "a plan could not be looked at after its execution");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RESUME);
    }
}

async fn look_again(plan: &ExecutionPlan, context: &Arc<Context>, running: &mut bool) -> Result<(), Error> {
    let current = plans(plan, context).get_opt(&plan.name_any()).await.map_err(while_doing("reading a plan again"))?;
    // While it counts as running: an older state from the cache would start it once more.
    if let Some(current) = &current {
        context.written.note(&current.metadata);
    }
    if std::mem::take(running) && !context.executions.end(plan.uid().as_deref().unwrap_or_default()) {
        return Ok(());
    }
    let Some(current) = current.filter(|current| current.uid() == plan.uid()) else { return Ok(()) };
    match Box::pin(reconcile(Arc::new(current), Arc::clone(context))).await {
        // Somebody else changed it, and that brings it back.
        Err(error) if error.is_outdated() || error.is_gone() => Ok(()),
        done => done.map(|_| ()),
    }
}

async fn drive(
    context: &Arc<Context>,
    approved: &ApprovedPlan,
    status: ExecutionPlanStatus,
    signals: watch::Receiver<Signals>,
) -> Result<Outcome, String> {
    let plan = approved.plan();
    let namespace = plan.namespace().unwrap_or_default();
    let account = plan.spec.service_account_name.as_deref().unwrap_or("default");
    let access = context.cluster.service_account(&namespace, account).map_err(|error| error.to_string())?;
    let watching = plan.spec.observe.as_ref().map(|observe| Watching {
        window: Duration::from(observe.duration),
        since: status.verified_at.as_ref().map(|time| time.0),
        rolls_back: observe.rollback_on_degraded,
    });
    let leadership = context.leadership.clone();
    let effects = Effects::new(
        context.cluster.clone(),
        access,
        context.snapshots.clone(),
        plan.uid().unwrap_or_default(),
        watching,
        Fence::new(move || leadership.holds()),
        // Only the operator's own plans say who proposed them: the admission policies see to it.
        plan.spec.proposed_by.is_some(),
    )
    .asking(context.prometheus.clone());
    let (sender, receiver) = mpsc::unbounded_channel();
    let mut told = plan.clone();
    told.status = Some(status.clone());
    let teller = tokio::spawn(tell(Arc::clone(context), told, receiver));
    let outcome = Driver::new(context.client.clone(), approved, status, effects, signals, sender).run().await;
    // The driver has dropped its sender: the teller ends when everything is told.
    let _ = teller.await;
    outcome.map_err(|error| error.to_string())
}

/// Publishes what happens to the steps, as events, metrics and audit lines.
async fn tell(context: Arc<Context>, plan: ExecutionPlan, mut events: mpsc::UnboundedReceiver<StepEvent>) {
    while let Some(StepEvent { step, reason, message, warning }) = events.recv().await {
        let title = plan.spec.steps.iter().find(|known| known.id == step);
        let name = title.map_or_else(String::new, |known| format!("{} ({step}): ", known.title));
        let operation = title.and_then(|known| known.operation.kind().ok());
        if let Some(operation) = operation {
            super::run::count_step(&context.metrics, operation, reason);
        }
        let action = match reason {
            "StepApplied" => Some(AuditAction::Executed),
            "StepRolledBack" => Some(AuditAction::RolledBack),
            "StepFailed" | "StepRefused" | "Drifted" | "UndoFailed" | "Degraded" => Some(AuditAction::Failed),
            _ => None,
        };
        if let Some(action) = action {
            let account = plan.spec.service_account_name.as_deref().unwrap_or("default");
            let account = format!("system:serviceaccount:{}:{account}", plan.namespace().unwrap_or_default());
            let target = title.and_then(|known| known.operation.target().ok().flatten());
            let target = target.map(|target| target.to_string()).unwrap_or_default();
            let decision = if action == AuditAction::Failed { format!("{reason}: {target}") } else { target };
            audit::record(AuditEvent { decision: &decision, ..about(&plan, action, &account) });
        }
        // Beginnings are in the journal; events are for what came of them.
        if !matches!(reason, "StepStarted" | "UndoStarted" | "StepApplied") {
            notice(&context, &plan, warning, reason, "Execute", &format!("{name}{message}"));
        }
    }
}

/// An audit line about a plan, to be completed.
fn about<'a>(plan: &'a ExecutionPlan, action: AuditAction, actor: &'a str) -> AuditEvent<'a> {
    AuditEvent {
        command: plan.spec.command_ref.as_ref().map(|command| command.name.as_str()),
        plan: plan.metadata.name.as_deref(),
        digest: plan.status.as_ref().and_then(|status| status.digest.as_deref()),
        ..AuditEvent::new(action, actor, plan.metadata.namespace.as_deref().unwrap_or_default())
    }
}

/// Marks a finished plan, so that watches leave it out.
async fn finish(plan: &ExecutionPlan, context: &Context) -> Result<Action, Error> {
    if !plan.labels().contains_key(FINISHED_LABEL) && plan.metadata.deletion_timestamp.is_none() {
        let generation = plan.metadata.generation.unwrap_or(0).to_string();
        mark(context, &plans(plan, context), &plan.name_any(), &json!(generation)).await?;
    }
    Ok(Action::await_change())
}

/// Removes the approvals and the snapshots of a deleted plan, then lets it go.
pub(super) async fn clean_up(meta: &ObjectMeta, context: &Context) -> Result<(), Error> {
    let finalizers = meta.finalizers.as_deref().unwrap_or_default();
    if !finalizers.iter().any(|finalizer| finalizer == SNAPSHOT_FINALIZER) {
        return Ok(());
    }
    approvals::remove(meta, context).await?;
    context.snapshots.remove(meta.uid.as_deref().unwrap_or_default()).await?;
    let rest: Vec<&String> = finalizers.iter().filter(|finalizer| *finalizer != SNAPSHOT_FINALIZER).collect();
    let patch = json!({ "metadata": { "finalizers": rest, "resourceVersion": meta.resource_version } });
    let plans: Api<ExecutionPlan> =
        Api::namespaced(context.client.clone(), meta.namespace.as_deref().unwrap_or_default());
    let name = meta.name.as_deref().unwrap_or_default();
    match plans.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(while_doing("removing the plan's finalizer")(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{AgentCommandSpec, CommandReference, ExecutionPlanSpec};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

    fn plan_of(command_uid: &str) -> ExecutionPlan {
        let command_ref = Some(CommandReference { name: "scale-checkout".into() });
        let mut plan = ExecutionPlan::new("p", ExecutionPlanSpec { command_ref, ..ExecutionPlanSpec::default() });
        plan.metadata.owner_references =
            Some(vec![OwnerReference { uid: command_uid.into(), ..OwnerReference::default() }]);
        plan
    }

    fn command(uid: &str, suspend: bool) -> AgentCommand {
        let mut command =
            AgentCommand::new("scale-checkout", AgentCommandSpec { suspend, ..AgentCommandSpec::default() });
        command.metadata.uid = Some(uid.into());
        command
    }

    #[test]
    fn a_plan_whose_command_is_gone_begins_nothing_more() {
        let plan = plan_of("u1");
        assert_eq!(signals(&plan, Some(&command("u1", false))), Signals::default());
        assert!(signals(&plan, Some(&command("u1", true))).suspended);
        assert!(signals(&plan, None).cancel, "the suspended command was deleted");
        assert!(signals(&plan, Some(&command("u2", false))).cancel, "another command of that name");
        let mut going = command("u1", false);
        going.metadata.deletion_timestamp = Some(Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH));
        assert!(signals(&plan, Some(&going)).cancel);
    }

    #[test]
    fn a_plan_written_by_hand_has_no_command_to_miss() {
        let by_hand = ExecutionPlan::new("p", ExecutionPlanSpec::default());
        assert_eq!(signals(&by_hand, None), Signals::default());
    }
}
