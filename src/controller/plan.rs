use super::approvals;
use super::context::{Context, Error, is_owned_by, while_doing};
use super::finished::mark;
use super::judge::{await_approval, stall};
use super::namespaces::AsOf;
use super::notice::notice;
use super::policy::{Judged, verdict};
use super::recheck::{rights_hold, stored_command};
use super::run::key;
use crate::api::{
    AgentCommand, ExecutionPlan, ExecutionPlanStatus, FINISHED_LABEL, PlanPhase, REQUEST_ANNOTATION,
    REQUESTED_BY_ANNOTATION, SNAPSHOT_FINALIZER, Step, is_asked_back, request_by,
};
use crate::approval::ApprovedPlan;
use crate::execute::{Driver, Effects, Fence, Outcome, Signals, StepEvent, Watching, can_be_put_back};
use crate::plan::needs_record_dropped;
use crate::plan::policy::Ruling;
use crate::telemetry::{AuditAction, AuditEvent, audit, logging};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::api::{Api, ObjectMeta, Patch, PatchParams};
use kube::runtime::controller::Action;
use serde_json::json;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tracing::Instrument;

/// Moves a plan to its next phase. What keeps it from being judged is told on the plan itself, unless it passes at once.
pub(super) async fn reconcile(plan: Arc<ExecutionPlan>, context: Arc<Context>) -> Result<Action, Error> {
    let moved = advance(&plan, &context).await;
    if let Err(error) = &moved
        && !error.is_outdated()
        && context.failures.are_known(&key::<ExecutionPlan>(plan.namespace().as_deref(), &plan.name_any()))
        && let Err(unwritten) = stall(&plan, &context, error).await
    {
        tracing::debug!(error = %unwritten, plan = plan.name_any(), "what holds a plan up was not written down");
    }
    moved
}

async fn advance(plan: &ExecutionPlan, context: &Arc<Context>) -> Result<Action, Error> {
    // Above all what the cache still shows as under way when it has just ended.
    if context.written.is_ahead_of(&plan.metadata) {
        return Ok(context.once_shown(plan));
    }
    let uid = plan.uid().unwrap_or_default();
    let status = plan.status.clone().unwrap_or_default();
    let is_final = status.phase.is_some_and(PlanPhase::is_final);
    // Its execution has just ended, and looks at it once more by itself.
    if is_final && context.executions.is_running(&uid) {
        return Ok(Action::await_change());
    }
    let signals = signals(plan, command_of(plan, context).await?.as_deref());
    if context.executions.signal(&uid, &signals) {
        return Ok(Action::await_change());
    }
    if plan.metadata.deletion_timestamp.is_some() && (is_final || ApprovedPlan::begun(plan).is_none()) {
        clean_up(&plan.metadata, context).await?;
        return Ok(Action::await_change());
    }
    if is_final {
        let asked_back = signals.rollback.is_some() && can_be_put_back(&status);
        if !asked_back {
            return finish(plan, status.finished_at.as_ref(), context).await;
        }
        if let Some(reason) = rollback_refused(plan, &status, context).await? {
            let message = format!("the rollback is refused: {reason}");
            let actor = asking(plan);
            audit::record(AuditEvent { decision: &message, ..about(plan, AuditAction::Refused, &actor) });
            notice(context, plan, true, "RollbackRefused", "RollBack", &message);
            forget_request(plan, context).await;
            return finish(plan, status.finished_at.as_ref(), context).await;
        }
    }
    if let Some(approved) = ApprovedPlan::begun(plan) {
        if is_final {
            let actor = asking(plan);
            audit::record(AuditEvent { decision: "rollback requested", ..about(plan, AuditAction::Begun, &actor) });
        }
        execute(context, &approved, status, signals);
        return Ok(Action::await_change());
    }
    // Before the digest can be read, and approved: the finalizer sees to it that approvals go when the plan goes.
    if !is_prepared(plan) {
        prepare(plan, context).await?;
        return Ok(Action::await_change());
    }
    await_approval(plan, context, status, signals).await
}

/// Who asked for what the plan's annotation says, for the record.
fn asking(plan: &ExecutionPlan) -> String {
    request_by(&plan.metadata).map_or_else(|| "unknown".to_owned(), |requester| requester.username)
}

/// Why a finished plan is not rolled back for who asks now. A rollback changes the cluster as the plan did: who asks needs
/// every permission that the plan needed, also the one to use its account, and policies are asked as they are today.
async fn rollback_refused(
    plan: &ExecutionPlan,
    status: &ExecutionPlanStatus,
    context: &Context,
) -> Result<Option<String>, Error> {
    let Some(requester) = request_by(&plan.metadata) else {
        return Ok(Some("it is unknown who asked for it (annotation countersign.dev/requested-by)".to_owned()));
    };
    let mut asked = plan.clone();
    asked.spec.requested_by = Some(requester.clone());
    match rights_hold(&asked, context).await {
        Ok(()) => {}
        Err(Error::Plan(error)) if !error.is_transient() => return Ok(Some(error.to_string())),
        Err(error) => return Err(error),
    }
    let namespace = plan.namespace().unwrap_or_default();
    let risk = status.risk.as_ref().map_or(plan.spec.risk.level, |risk| risk.level);
    let held_by = status.terms.as_ref().map(|terms| terms.policies.as_slice()).unwrap_or_default();
    let as_of = AsOf::Moment(std::time::Instant::now());
    Ok(match verdict(&plan.spec, &namespace, risk, &[], held_by, as_of, context).await? {
        Judged::Verdict(verdict) => match verdict.ruling {
            Ruling::Allow => None,
            Ruling::Deny { reasons } | Ruling::Wait { reasons, .. } => {
                Some(format!("blocked by {}; ask again when that allows it", reasons.join("; ")))
            }
        },
        Judged::NotYet | Judged::Unreadable(_) => Some("the policies cannot be read; ask again later".to_owned()),
    })
}

/// What people ask of a plan: by annotation on the plan, by `suspend` on its command, or by deleting either. A plan whose
/// command is gone begins nothing more, all the more if that command was suspended.
pub(super) fn signals(plan: &ExecutionPlan, command: Option<&AgentCommand>) -> Signals {
    let request = plan.annotations().get(REQUEST_ANNOTATION).map(String::as_str);
    let is_owner = |command: &&AgentCommand| plan.owner_references().is_empty() || is_owned_by(plan, *command);
    let command = command.filter(|command| command.metadata.deletion_timestamp.is_none()).filter(is_owner);
    let orphaned = plan.spec.command_ref.is_some() && command.is_none();
    Signals {
        suspended: command.is_some_and(|command| command.spec.suspend),
        cancel: request == Some("cancel") || plan.metadata.deletion_timestamp.is_some() || orphaned,
        rollback: is_asked_back(&plan.metadata).then(|| format!("rollback requested by {}", asking(plan))),
    }
}

/// The command that a plan answers. The cache knows neither finished commands nor, right after the start, any at all: what
/// it does not know is asked for, because a suspended command must not be taken for none.
async fn command_of(plan: &ExecutionPlan, context: &Context) -> Result<Option<Arc<AgentCommand>>, Error> {
    if let Some(command) = context.command_of(plan) {
        return Ok(Some(command));
    }
    Ok(stored_command(plan, context).await?.map(Arc::new))
}

pub(super) fn plans(plan: &ExecutionPlan, context: &Context) -> Api<ExecutionPlan> {
    Api::namespaced(context.client.clone(), plan.namespace().as_deref().unwrap_or_default())
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
pub(super) fn execute(context: &Arc<Context>, approved: &ApprovedPlan, status: ExecutionPlanStatus, signals: Signals) {
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
            Ok((outcome, mut last)) => {
                let put_back = matches!(outcome, Outcome::RolledBack(_) | Outcome::RollbackFailed(_));
                if put_back {
                    // It was met; to the command it must not look like one that is still to come.
                    last.annotations_mut().remove(REQUEST_ANNOTATION);
                }
                context.hand_over(&last);
                tell_end(&plan, &outcome, &context).await;
                if put_back {
                    forget_request(&plan, &context).await;
                }
                tokio::spawn(take_up_again(plan, Some(last).filter(|_| !put_back), context, Duration::ZERO));
            }
            Err(error) => {
                tracing::warn!(%error, plan = plan.name_any(), "execution stopped; the journal decides how it goes on");
                tokio::spawn(take_up_again(plan, None, context, RESUME));
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
    let mut body = json!([
        { "op": "test", "path": REQUEST_POINTER, "value": "rollback" },
        { "op": "remove", "path": REQUEST_POINTER },
    ]);
    if plan.annotations().contains_key(REQUESTED_BY_ANNOTATION)
        && let Some(operations) = body.as_array_mut()
    {
        operations.push(json!({ "op": "remove", "path": "/metadata/annotations/countersign.dev~1requested-by" }));
    }
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
/// still ran, and nothing else would bring it back. `last` is how its execution left it, if nothing was written since. Until
/// `pause` is over it counts as running, so that nothing else takes it up; where it does not any more, the operator is
/// stopping.
async fn take_up_again(plan: ExecutionPlan, mut last: Option<ExecutionPlan>, context: Arc<Context>, pause: Duration) {
    tokio::time::sleep(pause).await;
    let mut pause = Duration::from_secs(1);
    let mut running = true;
    while let Err(error) = look_again(&plan, last.take(), &context, &mut running).await {
        tracing::warn!(%error, plan = plan.name_any(), "a plan could not be looked at after its execution");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RESUME);
    }
}

async fn look_again(
    plan: &ExecutionPlan,
    last: Option<ExecutionPlan>,
    context: &Arc<Context>,
    running: &mut bool,
) -> Result<(), Error> {
    let name = plan.name_any();
    let read = async || plans(plan, context).get_opt(&name).await.map_err(while_doing("reading a plan again"));
    let mut current = match last {
        Some(last) => Some(last),
        None => read().await?.filter(|current| current.uid() == plan.uid()),
    };
    if *running {
        let end = || context.executions.end(plan.uid().as_deref().unwrap_or_default());
        let Some(found) = &current else {
            end();
            return Ok(());
        };
        // While it counts as running: an older state from the cache would start it once more, and the newest would have it
        // marked twice. What people ask of a marked plan, or asked between its last write and the mark, is heard by those
        // who listen to finished ones.
        context.written.note(&found.metadata);
        let ended = found.status.as_ref().and_then(|status| status.phase).is_some_and(PlanPhase::is_final);
        let rests = ended && found.metadata.deletion_timestamp.is_none() && !is_asked_back(&found.metadata);
        if rests {
            let at = found.status.as_ref().and_then(|status| status.finished_at.as_ref());
            finish(found, at, context).await?;
        }
        *running = false;
        if !end() || rests {
            return Ok(());
        }
        // What came while it counted as running was only told to the execution.
        current = read().await?.filter(|current| current.uid() == plan.uid());
    }
    let Some(current) = current else { return Ok(()) };
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
) -> Result<(Outcome, ExecutionPlan), String> {
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
    // Only the operator's own plans say who proposed them: the admission policies see to it.
    let by_hand = plan.spec.proposed_by.is_none();
    let judged = status.digest.as_ref().filter(|_| by_hand).and_then(|digest| context.assessments.of(plan, digest));
    let effects = Effects::new(
        context.cluster.clone(),
        access,
        context.snapshots.clone(),
        plan.uid().unwrap_or_default(),
        watching,
        Fence::new(move || leadership.holds()),
        !by_hand,
    )
    .beside(context.writers.clone())
    .asking(context.prometheus.clone())
    .knowing(judged);
    let (sender, receiver) = mpsc::unbounded_channel();
    let mut told = plan.clone();
    told.status = Some(status.clone());
    let teller = tokio::spawn(tell(Arc::clone(context), told, receiver));
    let outcome = Driver::new(context.client.clone(), approved, status, effects, signals, sender).run().await;
    // The driver has dropped its sender: the teller ends when everything is told.
    let _ = teller.await;
    outcome.map_err(|error| error.to_string())
}

/// How many events a plan publishes of steps that went well: as many as the API server's own clients publish of one object at
/// once (client-go, `EventSourceObjectSpamFilter`). What goes wrong is always told; the rest is in the journal.
const MAX_EVENTS: u32 = 25;

/// Publishes what happens to the steps, as events, metrics and audit lines.
async fn tell(context: Arc<Context>, plan: ExecutionPlan, mut events: mpsc::UnboundedReceiver<StepEvent>) {
    let mut published = 0;
    let steps: HashMap<&str, &Step> = plan.spec.steps.iter().map(|step| (step.id.as_str(), step)).collect();
    while let Some(StepEvent { step, reason, message, warning }) = events.recv().await {
        let known = steps.get(step.as_str());
        let name = known.map_or_else(String::new, |known| format!("{} ({step}): ", known.title));
        let operation = known.and_then(|known| known.operation.kind().ok());
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
            let target = known.and_then(|known| known.operation.target().ok().flatten());
            let target = target.map(|target| target.to_string()).unwrap_or_default();
            let decision = if action == AuditAction::Failed { format!("{reason}: {target}") } else { target };
            audit::record(AuditEvent { decision: &decision, ..about(&plan, action, &account) });
        }
        // Beginnings are in the journal; events are for what came of them.
        let beginning = matches!(reason, "StepStarted" | "StepReleased" | "UndoStarted" | "StepApplied");
        if !beginning && (warning || published < MAX_EVENTS) {
            published += u32::from(!warning);
            notice(&context, &plan, warning, reason, "Execute", &format!("{name}{message}"));
        }
    }
}

/// An audit line about a plan, to be completed.
pub(super) fn about<'a>(plan: &'a ExecutionPlan, action: AuditAction, actor: &'a str) -> AuditEvent<'a> {
    AuditEvent {
        command: plan.spec.command_ref.as_ref().map(|command| command.name.as_str()),
        plan: plan.metadata.name.as_deref(),
        digest: plan.status.as_ref().and_then(|status| status.digest.as_deref()),
        ..AuditEvent::new(action, actor, plan.metadata.namespace.as_deref().unwrap_or_default())
    }
}

/// Marks a finished plan, so that watches leave it out.
pub(super) async fn finish(plan: &ExecutionPlan, at: Option<&Time>, context: &Context) -> Result<Action, Error> {
    if !plan.labels().contains_key(FINISHED_LABEL) && plan.metadata.deletion_timestamp.is_none() {
        mark(context, &plans(plan, context), &plan.metadata, at.map(|at| at.0), None).await?;
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
