//! What the cluster says of a plan today, whatever it said when the plan was made.

use super::context::{Context, Error, while_doing};
use super::namespaces::AsOf;
use crate::api::{AgentCommand, ExecutionPlan, Risk, RiskLevel};
use crate::plan::{
    Actor, Environments, PlanError, Reads, Reassessment, catalog_for, check_plan_rights, check_use, reassess,
};
use kube::ResourceExt;
use kube::api::Api;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// What today's cluster says of a plan. What it said a moment ago still holds: what a step would change is held to that
/// when it is carried out.
pub(super) async fn assess_by_now(
    plan: &ExecutionPlan,
    digest: &str,
    since: Instant,
    context: &Context,
) -> Result<Arc<Reassessment>, Error> {
    if let Some(known) = context.assessments.of(plan, digest) {
        return Ok(known);
    }
    // Nothing is read or tried for somebody who may not do it themselves, and nobody is asked to approve it.
    rights_hold(plan, context).await?;
    let found = Arc::new(assess_again(plan, since, context).await?);
    context.assessments.note(plan, digest, &found);
    Ok(found)
}

/// The risk by today's cluster: environment, live objects, dry run. Nothing that was read before `since` counts.
async fn assess_again(plan: &ExecutionPlan, since: Instant, context: &Context) -> Result<Reassessment, Error> {
    let namespace = plan.namespace().unwrap_or_default();
    let account = plan.spec.service_account_name.as_deref().unwrap_or("default");
    let access = context.cluster.service_account(&namespace, account)?;
    let catalog = catalog_for(&context.cluster, &plan.spec).await?;
    let namespaces = context.namespaces(AsOf::Moment(since)).await?;
    if namespaces.is_empty() {
        // Without them no environment is known, and what is known of none must not look harmless.
        let reasons = vec!["The environment of its objects is not known: namespaces cannot be read.".to_owned()];
        let risk = Risk { level: RiskLevel::Critical, reasons };
        return Ok(Reassessment { risk, irreversible: Vec::new(), trials: BTreeMap::new(), effects: Vec::new() });
    }
    let environments = Environments::new(namespaces.to_vec(), context.namespace.clone());
    let requester = requester_of(plan)?;
    let reads = Reads::new(&access, &context.cluster, &requester);
    Ok(reassess(&reads, &catalog, &environments, &plan.spec).await?)
}

/// Effective rights are an intersection: everything that the plan does must be allowed to whoever asked and to its
/// service account, and whoever asked must be allowed to use that account.
pub(super) async fn rights_hold(plan: &ExecutionPlan, context: &Context) -> Result<(), Error> {
    let namespace = plan.namespace().unwrap_or_default();
    let account = plan.spec.service_account_name.as_deref().unwrap_or("default");
    let requester = requester_of(plan)?;
    let actor = Actor::service_account(&namespace, account);
    let rights = async {
        let catalog = catalog_for(&context.cluster, &plan.spec).await?;
        check_plan_rights(&context.cluster, &catalog, &requester, &actor, &plan.spec).await
    };
    let (may_use, hold) = tokio::join!(check_use(&context.cluster, &requester, &namespace, account), rights);
    may_use?;
    Ok(hold?)
}

fn requester_of(plan: &ExecutionPlan) -> Result<Actor, PlanError> {
    plan.spec.requested_by.as_ref().map(Actor::requester).ok_or_else(|| PlanError::Refused {
        reason: "UnknownRequester",
        message: "it is unknown who asked for the plan: spec.requestedBy is empty, and the admission policies that stamp it are not installed".to_owned(),
    })
}

/// Whether the plan of a command that the cache shows as suspended still has to pause. What brings the plan here may be the
/// command going on, before the cache shows it; nothing would come after that. A command that is gone, or going, sets nothing
/// free: the cache will show it, and that cancels the plan.
pub(super) async fn still_suspended(plan: &ExecutionPlan, context: &Context) -> Result<bool, Error> {
    let goes_on = |command: &AgentCommand| !command.spec.suspend && command.metadata.deletion_timestamp.is_none();
    Ok(!stored_command(plan, context).await?.as_ref().is_some_and(goes_on))
}

/// The command that a plan answers, as it is stored.
pub(super) async fn stored_command(plan: &ExecutionPlan, context: &Context) -> Result<Option<AgentCommand>, Error> {
    let Some(reference) = &plan.spec.command_ref else { return Ok(None) };
    let namespace = plan.namespace().unwrap_or_default();
    let commands: Api<AgentCommand> = Api::namespaced(context.client.clone(), &namespace);
    commands.get_opt(&reference.name).await.map_err(while_doing("reading the plan's command"))
}
