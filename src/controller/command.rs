use super::context::{Context, Error, KnownPlan, TRIED_AGAIN, is_owned_by, while_doing};
use super::finished::mark;
use super::interpret::{Made, interpret};
use super::notice::notice;
use super::retention::expiry;
use super::run::key;
use crate::api::{
    AgentCommand, AgentCommandSpec, AgentCommandStatus, COMMAND_GENERATION_ANNOTATION, COMMAND_LABEL, CommandPhase,
    ConditionType, ExecutionPlan, FINISHED_LABEL, PlanPhase, PlanReference, SNAPSHOT_FINALIZER, condition,
    is_asked_back, set_condition,
};
use crate::execute::can_be_put_back;
use crate::plan::{StepEffect, digest};
use crate::telemetry::{AuditAction, AuditEvent, audit};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, PostParams};
use kube::runtime::controller::Action;
use kube::{Resource, ResourceExt};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How often a plan is made anew because the cluster had moved before it began.
const MAX_REPLANS: u32 = 3;

/// Moves a command to its next phase. What keeps it from going on is told on the command itself, unless it passes at once.
pub(super) async fn reconcile(command: Arc<AgentCommand>, context: Arc<Context>) -> Result<Action, Error> {
    if command.metadata.deletion_timestamp.is_some() {
        context.proposals.close(&command.uid().unwrap_or_default());
        return Ok(Action::await_change());
    }
    // A new plan, say, brings the command back before the write of its status is seen; planning anew would cost, and tell,
    // everything twice.
    if context.written.is_ahead_of(&command.metadata) {
        return Ok(Action::await_change());
    }
    let moved = advance(&command, &context).await;
    if let Err(error) = &moved
        && !error.is_outdated()
        && context.failures.are_known(&key::<AgentCommand>(command.namespace().as_deref(), &command.name_any()))
        && let Err(unwritten) = stall(&command, &context, error).await
    {
        tracing::debug!(error = %unwritten, command = command.name_any(), "what holds a command up was not written down");
    }
    moved
}

async fn advance(command: &AgentCommand, context: &Context) -> Result<Action, Error> {
    let status = command.status.clone().unwrap_or_default();
    let asked = request_digest(&command.spec);
    let is_new = is_asked_anew(command);
    let plan = match current_plan(command, &status, context).await? {
        Current::Is(plan) => Some(plan),
        Current::None => None,
        Current::Outdated => return Ok(Action::await_change()),
    };
    match (is_new, status.phase, plan) {
        // While a plan is being carried out, a change of the request waits for its end.
        (true, _, Some(plan)) if has_begun(&plan) && !is_final(&plan) => follow(command, status, &plan, context).await,
        (true, _, Some(plan)) if !is_final(&plan) => {
            supersede(&plan, context).await?;
            begin(command, context, asked, 0).await
        }
        (true, _, _) => begin(command, context, asked, 0).await,
        (false, Some(phase), _) if phase.is_final() => finish(command, context).await,
        (false, Some(CommandPhase::NeedsClarification), _) => Ok(Action::await_change()),
        (false, _, Some(plan)) if phase_of(&plan) == PlanPhase::Drifted => {
            replan(command, status, context, asked).await
        }
        (false, _, Some(plan)) => follow(command, status, &plan, context).await,
        // Whoever deletes a plan does not want it made, and carried out, once more.
        (false, _, None) if status.plan.is_some() => {
            let message = "The plan was deleted. Change the request to ask again.".to_owned();
            let status = AgentCommandStatus { reply: Some(message.clone()), ..status };
            end(command, context, status, CommandPhase::Cancelled, "PlanDeleted", &message).await
        }
        (false, _, None) => begin(command, context, asked, status.replans.unwrap_or(0)).await,
    }
}

/// What makes another plan when it changes: all of the spec but what people say about the outcome, how long the command
/// is kept, and whether it pauses.
fn request_digest(spec: &AgentCommandSpec) -> String {
    let asked = AgentCommandSpec {
        feedback: None,
        suspend: false,
        ttl_after_finished: None,
        priority: crate::api::Priority::default(),
        ..spec.clone()
    };
    let text = serde_json::to_vec(&asked).unwrap_or_default();
    let hash: String = Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hash}")
}

/// Whether a command asks for something else than what was answered.
pub(super) fn is_asked_anew(command: &AgentCommand) -> bool {
    let answered = command.status.as_ref().and_then(|status| status.request_digest.as_deref());
    answered != Some(request_digest(&command.spec).as_str())
}

fn phase_of(plan: &ExecutionPlan) -> PlanPhase {
    plan.status.as_ref().and_then(|status| status.phase).unwrap_or(PlanPhase::AwaitingApproval)
}

fn is_final(plan: &ExecutionPlan) -> bool {
    phase_of(plan).is_final()
}

fn has_begun(plan: &ExecutionPlan) -> bool {
    plan.status.as_ref().is_some_and(|status| status.started_at.is_some())
}

fn plans(command: &AgentCommand, context: &Context) -> Api<ExecutionPlan> {
    Api::namespaced(context.client.clone(), command.namespace().as_deref().unwrap_or_default())
}

/// The plan that a command follows.
enum Current {
    None,
    Is(Arc<ExecutionPlan>),
    /// What is known of it is older than what this process wrote; the newer state wakes the command.
    Outdated,
}

/// Every change of a plan wakes its command, so what the watch shows serves. What it does not show is asked for: only the
/// API server can say that a plan is gone.
async fn current_plan(
    command: &AgentCommand,
    status: &AgentCommandStatus,
    context: &Context,
) -> Result<Current, Error> {
    let Some(reference) = status.plan.as_ref().filter(|_| !status.phase.is_some_and(CommandPhase::is_final)) else {
        return Ok(Current::None);
    };
    match context.known_plan(command.metadata.namespace.as_deref().unwrap_or_default(), &reference.name) {
        KnownPlan::Is(plan) => return Ok(Current::Is(plan)),
        KnownPlan::Outdated => return Ok(Current::Outdated),
        KnownPlan::Unknown => {}
    }
    let found = plans(command, context).get_opt(&reference.name).await;
    let found = found.map_err(while_doing("reading the command's plan"))?;
    Ok(found.map_or(Current::None, |plan| Current::Is(Arc::new(plan))))
}

/// Takes a plan that has not begun out of the way of a newer one.
async fn supersede(plan: &ExecutionPlan, context: &Context) -> Result<(), Error> {
    let plans: Api<ExecutionPlan> =
        Api::namespaced(context.client.clone(), plan.namespace().as_deref().unwrap_or_default());
    let mut superseded = plan.clone();
    let mut status = plan.status.clone().unwrap_or_default();
    let message = "the request changed: a newer plan took its place";
    status.phase = Some(PlanPhase::Superseded);
    status.message = Some(message.to_owned());
    let (generation, reason) = (plan.metadata.generation, "Superseded");
    set_condition(&mut status.conditions, ConditionType::Ready, false, reason, message, generation);
    set_condition(&mut status.conditions, ConditionType::Reconciling, false, reason, message, generation);
    set_condition(&mut status.conditions, ConditionType::Stalled, true, reason, message, generation);
    status.finished_at = Some(now());
    superseded.status = Some(status);
    // The resource version goes along: should the plan have begun meanwhile, the write fails and the change waits.
    plans
        .replace_status(&plan.name_any(), &PostParams::default(), &superseded)
        .await
        .map_err(while_doing("superseding an older plan"))?;
    notice(context, plan, false, "Superseded", "Replan", "the request changed: a newer plan takes its place");
    audit::record(AuditEvent {
        command: plan.spec.command_ref.as_ref().map(|command| command.name.as_str()),
        plan: plan.metadata.name.as_deref(),
        digest: plan.status.as_ref().and_then(|status| status.digest.as_deref()),
        decision: &PlanPhase::Superseded.to_string(),
        ..AuditEvent::new(AuditAction::Finished, "countersign", plan.namespace().as_deref().unwrap_or_default())
    });
    Ok(())
}

/// Writes on a command why it does not go on. It is tried again all the same.
async fn stall(command: &AgentCommand, context: &Context, error: &Error) -> Result<(), Error> {
    let generation = command.metadata.generation;
    let mut status = command.status.clone().unwrap_or_default();
    let message = format!("{error}{TRIED_AGAIN}");
    if is_asked_anew(command) && status.phase.is_none_or(CommandPhase::is_final) {
        status.phase = Some(CommandPhase::Interpreting);
    }
    status.observed_generation = generation;
    let reason = error.reason();
    set_condition(&mut status.conditions, ConditionType::Ready, false, reason, &message, generation);
    set_condition(&mut status.conditions, ConditionType::Stalled, true, reason, &message, generation);
    if command.status.as_ref() == Some(&status) {
        return Ok(());
    }
    let commands: Api<AgentCommand> =
        Api::namespaced(context.client.clone(), command.namespace().as_deref().unwrap_or_default());
    let mut updated = command.clone();
    updated.status = Some(status);
    let written = commands.replace_status(&command.name_any(), &PostParams::default(), &updated).await;
    context.written.note(&written.map_err(while_doing("writing what holds a command up"))?.metadata);
    notice(context, command, true, reason, "Reconcile", &message);
    Ok(())
}

/// Understands the request and answers it, asks back, or makes a plan.
async fn begin(command: &AgentCommand, context: &Context, asked: String, replans: u32) -> Result<Action, Error> {
    let mut status = AgentCommandStatus {
        observed_generation: command.metadata.generation,
        request_digest: Some(asked),
        started_at: Some(now()),
        replans: (replans > 0).then_some(replans),
        ..AgentCommandStatus::default()
    };
    let (uid, generation) = (command.uid().unwrap_or_default(), command.metadata.generation.unwrap_or(0));
    if context.proposals.open(&uid, generation) {
        audit_command(command, AuditAction::Requested, &format!("generation {generation}"));
    }
    let made = interpret(command, context).await?;
    let (interpretation, usage) = (made.interpretation, made.usage);
    status.interpretation = Some(interpretation);
    status.usage = Some(usage);
    let made = match made.made {
        made @ Made::Plan { .. } => made,
        // The operator stopped between creating a plan and writing that down, and the plan went ahead: what the cluster
        // looks like by now is its doing, and the command's own.
        made => match planned_before(command, context, replans).await? {
            Some(plan) => return planned(command, context, status, &plan).await,
            None => made,
        },
    };
    match made {
        Made::Question { question, reason } => {
            status.reply = Some(question.clone());
            write(command, context, status, CommandPhase::NeedsClarification, reason, &question).await?;
            Ok(Action::await_change())
        }
        Made::Answer(answer) => {
            let text = answer.text.clone();
            status.reply = Some(text.clone());
            status.answer = Some(answer);
            end(command, context, status, CommandPhase::Succeeded, "Answered", &text).await
        }
        Made::NothingToDo(message) => {
            status.reply = Some(message.clone());
            end(command, context, status, CommandPhase::Succeeded, "NothingToDo", &message).await
        }
        Made::Refused { phase, reason, message } => {
            status.reply = Some(message.clone());
            audit_command(command, AuditAction::Refused, reason);
            end(command, context, status, phase, reason, &message).await
        }
        Made::Plan { spec, effects, answer } => {
            let plan = create_plan(command, context, *spec, effects, replans).await?;
            status.answer = answer;
            planned(command, context, status, &plan).await
        }
    }
}

/// Writes down which plan answers the command, and what it waits for.
async fn planned(
    command: &AgentCommand,
    context: &Context,
    mut status: AgentCommandStatus,
    plan: &ExecutionPlan,
) -> Result<Action, Error> {
    let digest = digest::digest(&plan.spec).map_err(|error| Error::Digest(error.to_string()))?;
    status.plan = Some(PlanReference { name: plan.name_any(), digest: digest.clone(), risk: plan.spec.risk.level });
    let (phase, message) = match plan.spec.approvals_required {
        _ if plan.spec.plan_only => (CommandPhase::Succeeded, "Planned; nothing is carried out.".to_owned()),
        0 => (CommandPhase::Executing, format!("Risk is {}: it runs by itself.", plan.spec.risk.level)),
        need => {
            let people = if need == 1 { "one approval".to_owned() } else { format!("{need} approvals") };
            (CommandPhase::AwaitingApproval, format!("Risk is {}: it waits for {people}.", plan.spec.risk.level))
        }
    };
    let reply = format!("{} {message}", plan.spec.summary);
    status.reply = Some(reply.clone());
    audit_proposal(command, plan, &digest);
    if phase.is_final() {
        return end(command, context, status, phase, "Planned", &reply).await;
    }
    let reason = if phase == CommandPhase::AwaitingApproval { "AwaitingApproval" } else { "Planned" };
    write(command, context, status, phase, reason, &reply).await?;
    Ok(Action::await_change())
}

/// The plan that was made for this generation of the command already.
async fn planned_before(
    command: &AgentCommand,
    context: &Context,
    replans: u32,
) -> Result<Option<ExecutionPlan>, Error> {
    let name = plan_name(command, replans);
    let found = plans(command, context).get_opt(&name).await.map_err(while_doing("reading an existing plan"))?;
    Ok(found.filter(|plan| is_owned_by(plan, command) && plan.metadata.deletion_timestamp.is_none()))
}

fn plan_name(command: &AgentCommand, replans: u32) -> String {
    let generation = command.metadata.generation.unwrap_or(0);
    let again = if replans > 0 { format!("-r{replans}") } else { String::new() };
    format!("{}-{generation}{again}", shortened_name(&command.name_any()))
}

async fn replan(
    command: &AgentCommand,
    mut status: AgentCommandStatus,
    context: &Context,
    asked: String,
) -> Result<Action, Error> {
    let replans = status.replans.unwrap_or(0) + 1;
    if replans > MAX_REPLANS {
        let message = format!(
            "The cluster moved away from the plan {replans} times before it began. Somebody else is changing the same fields; ask again when they are done."
        );
        status.reply = Some(message.clone());
        return end(command, context, status, CommandPhase::Failed, "Drifted", &message).await;
    }
    notice(context, command, false, "Replanning", "Replan", "the cluster had moved since the plan was made");
    begin(command, context, asked, replans).await
}

async fn create_plan(
    command: &AgentCommand,
    context: &Context,
    spec: crate::api::ExecutionPlanSpec,
    effects: Vec<StepEffect>,
    replans: u32,
) -> Result<ExecutionPlan, Error> {
    let generation = command.metadata.generation.unwrap_or(0);
    let name = plan_name(command, replans);
    let mut plan = ExecutionPlan::new(&name, spec);
    plan.metadata.namespace = command.namespace();
    plan.metadata.finalizers = Some(vec![SNAPSHOT_FINALIZER.to_owned()]);
    plan.metadata.owner_references = command.controller_owner_ref(&()).map(|owner| vec![owner]);
    plan.metadata.labels = Some(BTreeMap::from([(COMMAND_LABEL.to_owned(), label_value(&command.name_any()))]));
    plan.metadata.annotations =
        Some(BTreeMap::from([(COMMAND_GENERATION_ANNOTATION.to_owned(), generation.to_string())]));
    let digest = digest::digest(&plan.spec).map_err(|error| Error::Digest(error.to_string()))?;
    context.assessments.note_made(&plan, &digest, effects);
    let plans = plans(command, context);
    match store_plan(command, &plans, &plan).await? {
        Stored::New(plan) => {
            notice(context, &plan, false, "Planned", "Plan", &plan.spec.summary);
            Ok(plan)
        }
        Stored::Before(plan) => Ok(plan),
        Stored::NameTaken => {
            let uid = command.uid().unwrap_or_default();
            plan.metadata.name = Some(format!("{name}-{}", uid.get(..8).unwrap_or(&uid)));
            match store_plan(command, &plans, &plan).await? {
                Stored::New(plan) | Stored::Before(plan) => Ok(plan),
                Stored::NameTaken => Err(Error::NameTaken(plan.name_any())),
            }
        }
    }
}

/// What came of storing a plan.
enum Stored {
    /// It was created.
    New(ExecutionPlan),
    /// It was there already: the operator stopped between creating it and writing that down.
    Before(ExecutionPlan),
    /// Another command, or a person, has a plan of that name.
    NameTaken,
}

async fn store_plan(command: &AgentCommand, plans: &Api<ExecutionPlan>, plan: &ExecutionPlan) -> Result<Stored, Error> {
    let name = plan.name_any();
    match plans.create(&PostParams::default(), plan).await {
        Ok(plan) => return Ok(Stored::New(plan)),
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(error) => return Err(while_doing("creating the plan")(error)),
    }
    let existing = plans.get(&name).await.map_err(while_doing("reading an existing plan"))?;
    if !is_owned_by(&existing, command) {
        return Ok(Stored::NameTaken);
    }
    // The name says which generation it answers: however a planner puts it today, this is the plan that was made for it,
    // and it may have been approved or begun since.
    Ok(if existing.metadata.deletion_timestamp.is_none() { Stored::Before(existing) } else { Stored::NameTaken })
}

/// Plan names leave room for the generation within the 253 characters of a name.
fn shortened_name(name: &str) -> &str {
    name.get(..220).unwrap_or(name).trim_end_matches(['-', '.'])
}

/// Label values take 63 characters.
pub(super) fn label_value(name: &str) -> String {
    name.get(..63).unwrap_or(name).trim_end_matches(['-', '.']).to_owned()
}

/// Mirrors where the plan stands.
async fn follow(
    command: &AgentCommand,
    mut status: AgentCommandStatus,
    plan: &ExecutionPlan,
    context: &Context,
) -> Result<Action, Error> {
    let signals = super::plan::signals(plan, Some(command));
    context.executions.signal(plan.uid().as_deref().unwrap_or_default(), &signals);
    let plan_phase = phase_of(plan);
    let phase = match plan_phase {
        PlanPhase::AwaitingApproval => CommandPhase::AwaitingApproval,
        PlanPhase::Approved | PlanPhase::Executing => CommandPhase::Executing,
        PlanPhase::Observing => CommandPhase::Observing,
        PlanPhase::Succeeded | PlanPhase::Planned => CommandPhase::Succeeded,
        PlanPhase::RollingBack => CommandPhase::RollingBack,
        PlanPhase::RolledBack => CommandPhase::RolledBack,
        PlanPhase::RollbackFailed => CommandPhase::RollbackFailed,
        PlanPhase::Failed | PlanPhase::Drifted => CommandPhase::Failed,
        PlanPhase::Denied => CommandPhase::Denied,
        PlanPhase::Expired => CommandPhase::Expired,
        PlanPhase::Cancelled | PlanPhase::Superseded => CommandPhase::Cancelled,
    };
    let not_looked_at = plan.status.as_ref().and_then(|status| status.phase).is_none() && status.phase.is_some();
    // Whoever asked had the command taken up again, and the plan has not begun with it.
    let about_to_be_put_back = status.phase == Some(CommandPhase::RollingBack)
        && is_asked_back(&plan.metadata)
        && plan.status.as_ref().is_some_and(can_be_put_back);
    if not_looked_at || about_to_be_put_back {
        return Ok(Action::await_change());
    }
    let said = plan.status.as_ref().and_then(|status| status.message.clone()).unwrap_or_default();
    let message = format!("{} {}", plan.spec.summary, sentence(&said));
    if phase.is_final() {
        status.reply = Some(message.clone());
        let ended = end(command, context, status, phase, &format!("{plan_phase:?}"), &message).await?;
        context.ended.forget(plan.metadata.namespace.as_deref().unwrap_or_default(), &plan.name_any());
        return Ok(ended);
    }
    if status.phase != Some(phase) || was_held_up(&status) {
        status.reply = Some(message.clone());
        write(command, context, status, phase, &format!("{plan_phase:?}"), &message).await?;
    }
    Ok(Action::await_change())
}

/// Whether the conditions still tell what held the command up.
fn was_held_up(status: &AgentCommandStatus) -> bool {
    condition(&status.conditions, ConditionType::Stalled).is_some_and(|told| told.message.ends_with(TRIED_AGAIN))
}

fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let Some(first) = letters.next() else { return String::new() };
    let end = if text.ends_with(['.', '!', '?', '…']) { "" } else { "." };
    format!("{}{}{end}", first.to_uppercase(), letters.as_str())
}

/// Writes a final phase and marks the command as finished.
async fn end(
    command: &AgentCommand,
    context: &Context,
    mut status: AgentCommandStatus,
    phase: CommandPhase,
    reason: &str,
    message: &str,
) -> Result<Action, Error> {
    status.finished_at = Some(now());
    let intent = status.interpretation.as_ref().and_then(|interpretation| interpretation.intent);
    let begun = status.started_at.as_ref().map(|time| time.0);
    let mut ended = command.clone();
    ended.status = Some(write(command, context, status, phase, reason, message).await?);
    let took = begun.map(|begun| k8s_openapi::jiff::Timestamp::now().duration_since(begun));
    let took = took.and_then(|took| Duration::try_from(took).ok()).unwrap_or_default();
    context.metrics.request_finished(phase, intent, took);
    audit_command(command, AuditAction::Finished, &phase.to_string());
    finish(&ended, context).await
}

/// Marks a finished command, so that watches leave it out.
async fn finish(command: &AgentCommand, context: &Context) -> Result<Action, Error> {
    if !command.labels().contains_key(FINISHED_LABEL) {
        mark_finished(command, context).await?;
    }
    Ok(Action::await_change())
}

/// Sets the mark of a finished command, with the times when it finished and when it goes.
pub(super) async fn mark_finished(command: &AgentCommand, context: &Context) -> Result<(), Error> {
    let commands: Api<AgentCommand> =
        Api::namespaced(context.client.clone(), command.namespace().as_deref().unwrap_or_default());
    let finished = command.status.as_ref().and_then(|status| status.finished_at.as_ref()).map(|time| time.0);
    mark(context, &commands, &command.metadata, finished, expiry(command)).await
}

/// Writes the status with its conditions, and an event for the transition.
async fn write(
    command: &AgentCommand,
    context: &Context,
    mut status: AgentCommandStatus,
    phase: CommandPhase,
    reason: &str,
    message: &str,
) -> Result<AgentCommandStatus, Error> {
    let generation = command.metadata.generation;
    status.observed_generation = generation;
    status.phase = Some(phase);
    if let Some(previous) = &command.status
        && status.conditions.is_empty()
    {
        status.conditions.clone_from(&previous.conditions);
    }
    let fine = phase == CommandPhase::Succeeded;
    set_condition(&mut status.conditions, ConditionType::Ready, fine, reason, message, generation);
    // Approvals come; an answer takes somebody who edits the request.
    let asks_back = phase == CommandPhase::NeedsClarification;
    let goes_on = !phase.is_final() && !asks_back;
    set_condition(&mut status.conditions, ConditionType::Reconciling, goes_on, reason, message, generation);
    let stalled = asks_back || (phase.is_final() && !fine);
    set_condition(&mut status.conditions, ConditionType::Stalled, stalled, reason, message, generation);
    let commands: Api<AgentCommand> =
        Api::namespaced(context.client.clone(), command.namespace().as_deref().unwrap_or_default());
    let mut updated = command.clone();
    updated.status = Some(status.clone());
    let written = commands.replace_status(&command.name_any(), &PostParams::default(), &updated).await;
    context.written.note(&written.map_err(while_doing("writing the command's status"))?.metadata);
    context.proposals.close(&command.uid().unwrap_or_default());
    let warning = phase.is_final() && !fine;
    notice(context, command, warning, &phase.to_string(), "Reconcile", message);
    Ok(status)
}

fn audit_command(command: &AgentCommand, action: AuditAction, decision: &str) {
    audit::record(AuditEvent { decision, ..about(command, action) });
}

fn audit_proposal(command: &AgentCommand, plan: &ExecutionPlan, digest: &str) {
    let proposer = plan.spec.proposed_by.as_ref();
    audit::record(AuditEvent {
        plan: plan.metadata.name.as_deref(),
        digest: Some(digest),
        planner: proposer.map(|proposer| proposer.planner.as_str()),
        model: proposer.and_then(|proposer| proposer.model.as_deref()),
        decision: &plan.spec.risk.level.to_string(),
        ..about(command, AuditAction::Proposed)
    });
}

/// An audit line about a command, to be completed.
fn about(command: &AgentCommand, action: AuditAction) -> AuditEvent<'_> {
    let requester = command.spec.requested_by.as_ref().map_or("unknown", |requester| requester.username.as_str());
    AuditEvent {
        command: command.metadata.name.as_deref(),
        ..AuditEvent::new(action, requester, command.metadata.namespace.as_deref().unwrap_or_default())
    }
}

fn now() -> Time {
    Time(k8s_openapi::jiff::Timestamp::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(request: &str) -> AgentCommandSpec {
        AgentCommandSpec { request: request.into(), ..AgentCommandSpec::default() }
    }

    #[test]
    fn feedback_and_pausing_ask_for_nothing_new() {
        let first = request_digest(&spec("scale checkout to 5"));
        let mut again = spec("scale checkout to 5");
        again.suspend = true;
        again.feedback = Some(crate::api::Feedback { rating: 5, comment: None });
        assert_eq!(request_digest(&again), first);
        assert_ne!(request_digest(&spec("scale checkout to 6")), first);
    }

    #[test]
    fn names_and_labels_stay_within_their_limits() {
        let long = "a".repeat(253);
        assert_eq!(shortened_name(&long).len(), 220);
        assert_eq!(label_value(&long).len(), 63);
        assert_eq!(sentence("all is done"), "All is done.");
    }
}
