use super::context::{Context, Error, while_doing};
use super::finished::mark;
use super::notice::notice;
use super::policy::{Judged, verdict};
use crate::api::{
    AgentCommand, ConditionType, ExecutionPlan, ExecutionPlanStatus, FINISHED_LABEL, PlanApproval, PlanPhase,
    REQUEST_ANNOTATION, RiskLevel, SNAPSHOT_FINALIZER, set_condition,
};
use crate::approval::{ApprovedPlan, Judgement, Outcome as Approval, Terms, judge};
use crate::cluster::Catalog;
use crate::execute::{Driver, Effects, Fence, Outcome, Signals, StepEvent, Watching};
use crate::plan::policy::{Ruling, Verdict};
use crate::plan::{
    Actor, Environments, PlanError, check_rights, digest, needed_rights, regrounded_risk, right_to_use, validate,
};
use crate::telemetry::{AuditAction, AuditEvent, audit, logging};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{Api, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::controller::Action;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tracing::Instrument;

/// How long to wait at most for a time to come: clocks are set, and machines sleep.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// Moves a plan to its next phase.
pub(super) async fn reconcile(plan: Arc<ExecutionPlan>, context: Arc<Context>) -> Result<Action, Error> {
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
        let asked_back = signals.rollback.is_some() && status.phase == Some(PlanPhase::Succeeded);
        if !asked_back {
            return finish(&plan, &context).await;
        }
    }
    if let Some(approved) = ApprovedPlan::begun(&plan) {
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
    let before = status.clone();
    let digest = digest::digest(&plan.spec).map_err(|error| Error::Digest(error.to_string()))?;
    status.digest = Some(digest.clone());
    status.observed_generation = plan.metadata.generation;
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
    // What somebody else wrote by hand, or what was made a while ago, is weighed afresh: a plan cannot call itself harmless.
    let fresh = context.was_assessed(&digest);
    let risk = if fresh {
        plan.spec.risk.level
    } else {
        match assess_again(plan, context).await {
            Ok(risk) => risk.max(plan.spec.risk.level),
            Err(Error::Plan(error)) if !error.is_transient() => {
                return stop(plan, context, status, PlanPhase::Failed, error.reason(), &error.to_string()).await;
            }
            Err(error) => return Err(error),
        }
    };
    let verdict = match verdict(&plan.spec, &plan.namespace().unwrap_or_default(), risk, context).await? {
        Judged::Verdict(verdict) => *verdict,
        // Their arrival brings every plan back here.
        Judged::NotYet => return Ok(Action::requeue(Duration::from_secs(1))),
        Judged::Unreadable(reason) => {
            let message = format!("nothing runs as long as the policies cannot be read: {reason}");
            wait(plan, context, &before, status, &message).await?;
            return Ok(Action::requeue(Duration::from_secs(10)));
        }
    };
    let need = verdict.approvals_required.max(plan.spec.approvals_required);
    status.approvals_required = need;
    status.policies.clone_from(&verdict.demanded_by);
    if let Some(denial) = denial(plan, &verdict) {
        let generation = plan.metadata.generation;
        set_condition(&mut status.conditions, ConditionType::Denied, true, "DeniedByPolicy", &denial, generation);
        audit_plan(plan, Some(&digest), AuditAction::Denied, "policy", &denial);
        return stop(plan, context, status, PlanPhase::Denied, "DeniedByPolicy", &denial).await;
    }
    let terms = Terms {
        need,
        approver_groups: verdict.approver_groups.clone(),
        separation_of_duties: verdict.separation_of_duties,
        lifetime: verdict.approval_lifetime,
        now: Timestamp::now(),
    };
    let approvals = if need > 0 { approvals_of(plan, context).await? } else { Vec::new() };
    let judgement = judge(plan, &digest, &terms, &approvals);
    let held = held_back(&verdict);
    let again = next_judgement(&verdict, &judgement, terms.now);
    note_approvals(plan, context, &mut status, &judgement, need);
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
            stop(plan, context, status, PlanPhase::Denied, "Denied", &message).await
        }
        Approval::Waiting { have, need } => {
            let missing = need - have;
            let approvals = if missing == 1 { "approval" } else { "approvals" };
            let message = format!("risk is {risk}: waits for {missing} more {approvals} ({have} of {need})");
            let message = held.map_or(message.clone(), |held| format!("{message}; {held}"));
            wait(plan, context, &before, status, &message).await?;
            Ok(again)
        }
        Approval::Approved { by } if held.is_some() => {
            let held = held.unwrap_or_default();
            let message = if by.is_empty() { held } else { format!("approved by {}; {held}", by.join(", ")) };
            wait(plan, context, &before, status, &message).await?;
            Ok(again)
        }
        Approval::Approved { by } => {
            if signals.suspended && still_suspended(plan, context).await? {
                wait(plan, context, &before, status, "approved; suspended by its command").await?;
                return Ok(again);
            }
            // A plan that this process made a moment ago had its rights checked then.
            if !fresh && let Err(error) = rights_hold(plan, context).await {
                return match error {
                    Error::Plan(error) if !error.is_transient() => {
                        stop(plan, context, status, PlanPhase::Failed, error.reason(), &error.to_string()).await
                    }
                    error => Err(error),
                };
            }
            let message = if by.is_empty() {
                "risk is low: no approval needed".to_owned()
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
            ensure_finalizer(plan, context).await?;
            notice(context, plan, false, "Approved", "Approve", &message).await;
            if let Some(approved) = judgement.approve(plan) {
                execute(context, &approved, status, Signals { suspended: false, ..signals });
            }
            Ok(Action::await_change())
        }
    }
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
fn denial(plan: &ExecutionPlan, verdict: &Verdict) -> Option<String> {
    if let Ruling::Deny { reasons } = &verdict.ruling {
        return Some(format!("denied by {}", reasons.join("; ")));
    }
    // The spec never changes: a plan that was made for a shorter watch cannot be watched for longer.
    let wanted = verdict.observe?;
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

async fn approvals_of(plan: &ExecutionPlan, context: &Context) -> Result<Vec<PlanApproval>, Error> {
    let approvals: Api<PlanApproval> =
        Api::namespaced(context.client.clone(), plan.namespace().as_deref().unwrap_or_default());
    let list = approvals.list(&ListParams::default().fields(&format!("spec.plan={}", plan.name_any()))).await;
    Ok(list.map_err(while_doing("reading approvals"))?.items)
}

/// What the API server serves; asked for anew where a step speaks of a kind that was not there a moment ago.
async fn catalog_for(plan: &ExecutionPlan, context: &Context) -> Result<Arc<Catalog>, Error> {
    let catalog = context.cluster.catalog().await?;
    let mut targets = plan.spec.steps.iter().filter_map(|step| step.operation.target().ok().flatten());
    if targets.all(|target| catalog.of(&target).is_some()) {
        return Ok(catalog);
    }
    Ok(context.cluster.refresh_catalog().await?)
}

/// The risk by today's cluster: environment, live objects, dry run.
async fn assess_again(plan: &ExecutionPlan, context: &Context) -> Result<RiskLevel, Error> {
    let namespace = plan.namespace().unwrap_or_default();
    let account = plan.spec.service_account_name.as_deref().unwrap_or("default");
    let access = context.cluster.service_account(&namespace, account)?;
    let catalog = catalog_for(plan, context).await?;
    let namespaces = context.namespaces().await?;
    if namespaces.is_empty() {
        // Without them no environment is known, and what is known of none must not look harmless.
        return Ok(RiskLevel::Critical);
    }
    let environments = Environments::new(namespaces, context.namespace.clone());
    Ok(regrounded_risk(&access, &catalog, &environments, &plan.spec).await?)
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
    let catalog = catalog_for(plan, context).await?;
    let needed = needed_rights(&catalog, &plan.spec);
    check_rights(&context.cluster, std::slice::from_ref(&requester), &[right_to_use(&namespace, account)]).await?;
    Ok(check_rights(&context.cluster, &[requester, Actor::service_account(&namespace, account)], &needed).await?)
}

fn note_approvals(
    plan: &ExecutionPlan,
    context: &Context,
    status: &mut ExecutionPlanStatus,
    judgement: &Judgement,
    need: u32,
) {
    for record in &judgement.records {
        let known = status.approvals.iter().any(|known| known.name == record.name && known.verdict == record.verdict);
        if known {
            continue;
        }
        context.metrics.approval_judged(record.decision, record.verdict);
        let action = match record.decision {
            crate::api::Decision::Approve => AuditAction::Approved,
            crate::api::Decision::Deny => AuditAction::Denied,
        };
        let said = record.message.as_deref().map(|message| format!(": {message}")).unwrap_or_default();
        audit_plan(plan, status.digest.as_deref(), action, &record.approver, &format!("{:?}{said}", record.verdict));
    }
    status.approvals.clone_from(&judgement.records);
    status.approval_count = Some(format!("{}/{need}", judgement.counted()));
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
        notice(context, plan, false, "AwaitingApproval", "Judge", message).await;
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
    notice(context, plan, !fine, reason, "Judge", message).await;
    finish(plan, context).await
}

async fn write(plan: &ExecutionPlan, context: &Context, status: ExecutionPlanStatus) -> Result<(), Error> {
    let mut updated = plan.clone();
    updated.status = Some(status);
    let written = plans(plan, context).replace_status(&plan.name_any(), &PostParams::default(), &updated).await;
    written.map(|_| ()).map_err(while_doing("writing the plan's status"))
}

async fn ensure_finalizer(plan: &ExecutionPlan, context: &Context) -> Result<(), Error> {
    if plan.finalizers().iter().any(|finalizer| finalizer == SNAPSHOT_FINALIZER) {
        return Ok(());
    }
    let mut finalizers = plan.finalizers().to_vec();
    finalizers.push(SNAPSHOT_FINALIZER.to_owned());
    let patch = json!({ "metadata": { "finalizers": finalizers, "resourceVersion": plan.resource_version() } });
    let patched = plans(plan, context).patch(&plan.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await;
    patched.map(|_| ()).map_err(while_doing("setting the plan's finalizer"))
}

/// Starts carrying a plan out in the background; its own events bring it back to [`reconcile`].
fn execute(context: &Arc<Context>, approved: &ApprovedPlan, status: ExecutionPlanStatus, signals: Signals) {
    let plan = approved.plan().clone();
    let uid = plan.uid().unwrap_or_default();
    let Some(receiver) = context.executions.begin(&uid, signals) else { return };
    let correlation = plan.owner_references().first().map_or(uid.clone(), |owner| owner.uid.clone());
    let context = Arc::clone(context);
    let tasks = context.tasks.clone();
    let approved = approved.clone();
    let work = async move {
        match drive(&context, &approved, status, receiver).await {
            Ok(outcome) => {
                audit_plan(&plan, None, AuditAction::Finished, "countersign", &format!("{outcome:?}"));
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

/// How long after its execution stopped without an end a plan is taken up again.
const RESUME: Duration = Duration::from_secs(30);

/// Does for a plan that was just carried out what its next event would do: the events of the last writes came while it
/// still ran, and nothing else would bring it back. Until `pause` is over it counts as running, so that nothing else takes
/// it up; where it does not any more, the operator is stopping.
async fn take_up_again(plan: ExecutionPlan, context: Arc<Context>, pause: Duration) {
    tokio::time::sleep(pause).await;
    if !context.executions.end(plan.uid().as_deref().unwrap_or_default()) {
        return;
    }
    let mut pause = Duration::from_secs(1);
    while let Err(error) = look_again(&plan, &context).await {
        tracing::warn!(%error, plan = plan.name_any(), "a plan could not be looked at after its execution");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RESUME);
    }
}

async fn look_again(plan: &ExecutionPlan, context: &Arc<Context>) -> Result<(), Error> {
    let current = plans(plan, context).get_opt(&plan.name_any()).await.map_err(while_doing("reading a plan again"))?;
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
    );
    let (sender, receiver) = mpsc::unbounded_channel();
    let teller = tokio::spawn(tell(Arc::clone(context), plan.clone(), receiver));
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
            _ => None,
        };
        if let Some(action) = action {
            let account = plan.spec.service_account_name.as_deref().unwrap_or("default");
            let target = title.and_then(|known| known.operation.target().ok().flatten());
            let target = target.map(|target| target.to_string()).unwrap_or_default();
            audit_plan(&plan, None, action, account, &target);
        }
        // Beginnings are in the journal; events are for what came of them.
        if !matches!(reason, "StepStarted" | "UndoStarted" | "StepApplied") {
            notice(&context, &plan, warning, reason, "Execute", &format!("{name}{message}")).await;
        }
    }
}

fn audit_plan(plan: &ExecutionPlan, digest: Option<&str>, action: AuditAction, actor: &str, decision: &str) {
    let stored = plan.status.as_ref().and_then(|status| status.digest.as_deref());
    audit::record(AuditEvent {
        action,
        actor,
        namespace: plan.metadata.namespace.as_deref().unwrap_or_default(),
        command: plan.spec.command_ref.as_ref().map(|command| command.name.as_str()),
        plan: plan.metadata.name.as_deref(),
        digest: digest.or(stored),
        decision,
    });
}

/// Marks a finished plan, so that watches leave it out.
async fn finish(plan: &ExecutionPlan, context: &Context) -> Result<Action, Error> {
    if !plan.labels().contains_key(FINISHED_LABEL) && plan.metadata.deletion_timestamp.is_none() {
        let generation = plan.metadata.generation.unwrap_or(0).to_string();
        mark(&plans(plan, context), &plan.name_any(), &json!(generation)).await?;
    }
    Ok(Action::await_change())
}

/// Removes the snapshots of a deleted plan, then lets it go.
pub(super) async fn clean_up(meta: &ObjectMeta, context: &Context) -> Result<(), Error> {
    let finalizers = meta.finalizers.as_deref().unwrap_or_default();
    if !finalizers.iter().any(|finalizer| finalizer == SNAPSHOT_FINALIZER) {
        return Ok(());
    }
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
