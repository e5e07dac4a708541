use super::context::{Context, Error, Executions, while_doing};
use super::provider::Providers;
use super::{command, plan, provider};
use crate::api::{
    AgentCommand, ExecutionPlan, FINISHED_LABEL, ModelProvider, OperationKind, PlanApproval, REQUEST_ANNOTATION,
    StepState, UndoState,
};
use crate::cluster::{Cluster, ClusterError};
use crate::execute::SnapshotStore;
use crate::telemetry::server::{self, Served, ServerError};
use crate::telemetry::{Health, Metrics};
use futures::StreamExt;
use kube::core::PartialObjectMeta;
use kube::runtime::Controller;
use kube::runtime::controller::Action;
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How many finished plans are revisited at the same time.
const REVISITED_AT_ONCE: usize = 8;

/// How the operator runs.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Where `/health`, `/ready` and `/metrics` are served.
    pub listen: SocketAddr,
    /// The operator's own namespace: snapshots and model keys are Secrets there.
    pub namespace: String,
    /// Name of this replica, for events.
    pub instance: Option<String>,
    /// How many commands and how many plans are worked on at the same time.
    pub workers: u16,
}

/// Why the operator stopped.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The cluster cannot be reached.
    #[error("the cluster cannot be reached")]
    Cluster(#[from] ClusterError),
    /// Nothing can be served.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// Metrics cannot be registered.
    #[error("metrics cannot be registered: {0}")]
    Metrics(String),
}

/// Runs the operator until `stop` is cancelled.
///
/// # Errors
/// When the cluster cannot be reached at the start, or the listen address is taken.
pub async fn run(options: RunOptions, stop: CancellationToken) -> Result<(), RunError> {
    let metrics = Metrics::new().map_err(|error| RunError::Metrics(error.to_string()))?;
    let health = Health::new(["commands", "plans", "providers"]);
    let served = Served { health: health.clone(), metrics: metrics.clone() };
    let listener = server::bind(options.listen).await?;
    let serving = tokio::spawn(server::serve_on(listener, served, stop.clone()));
    let cluster = Cluster::connect().await?;
    let client = cluster.client();
    let reporter = Reporter { controller: "countersign".to_owned(), instance: options.instance.clone() };
    let context = Arc::new(Context {
        snapshots: SnapshotStore::new(client.clone(), &options.namespace),
        recorder: Recorder::new(client.clone(), reporter),
        cluster,
        client: client.clone(),
        namespace: options.namespace,
        metrics: metrics.clone(),
        providers: Providers::default(),
        commands: OnceLock::new(),
        model_providers: OnceLock::new(),
        executions: Executions::default(),
        assessed: Mutex::new(HashMap::new()),
    });
    let workers = || kube::runtime::controller::Config::default().concurrency(options.workers);
    // Finished objects are not watched: memory follows what is active, not what is stored.
    let active = || watcher::Config::default().labels(&format!("!{FINISHED_LABEL}"));

    let commands = Controller::new(Api::<AgentCommand>::all(client.clone()), active())
        .with_config(workers())
        .owns(Api::<ExecutionPlan>::all(client.clone()), active())
        .graceful_shutdown_on(stop.clone().cancelled_owned());
    let _ = context.commands.set(commands.store());
    let commands_known = announce(&health, "commands", commands.store());

    let plans = Controller::new(Api::<ExecutionPlan>::all(client.clone()), active())
        .with_config(workers())
        .watches(Api::<PlanApproval>::all(client.clone()), watcher::Config::default(), |approval| {
            let namespace = approval.namespace().unwrap_or_default();
            Some(ObjectRef::new(&approval.spec.plan).within(&namespace))
        })
        .watches(Api::<AgentCommand>::all(client.clone()), active(), plan_of)
        .graceful_shutdown_on(stop.clone().cancelled_owned());
    let plans_known = announce(&health, "plans", plans.store());

    let providers = Controller::new(Api::<ModelProvider>::all(client), watcher::Config::default())
        .graceful_shutdown_on(stop.clone().cancelled_owned());
    let _ = context.model_providers.set(providers.store());
    let providers_known = announce(&health, "providers", providers.store());

    let watched = stop.clone();
    let gauges = tokio::spawn(count(context.clone(), watched));
    let revisiting = tokio::spawn(revisit_finished(context.clone()));
    // In one task: a store wakes only the last of those who wait for its first list, and its controller is one of them.
    tokio::join!(
        commands_known,
        plans_known,
        providers_known,
        commands
            .run(command::reconcile, on_error::<AgentCommand>, context.clone())
            .for_each(|done| async { note(done) }),
        plans.run(plan::reconcile, on_error::<ExecutionPlan>, context.clone()).for_each(|done| async { note(done) }),
        providers
            .run(provider::reconcile, on_error::<ModelProvider>, context.clone())
            .for_each(|done| async { note(done) }),
    );
    gauges.abort();
    revisiting.abort();
    match serving.await {
        Ok(result) => Ok(result?),
        Err(_) => Ok(()),
    }
}

/// Says what went wrong with a watch. What a reconciliation ran into is told by [`on_error`].
fn note<K>(done: Result<(ObjectRef<K>, Action), kube::runtime::controller::Error<Error, watcher::Error>>)
where
    K: kube::runtime::reflector::Lookup,
    K::DynamicType: std::fmt::Debug + Eq + std::hash::Hash + Clone,
{
    if let Err(kube::runtime::controller::Error::QueueError(error)) = done {
        tracing::warn!(%error, "a watch failed, trying again");
    }
}

/// The plan that a command's `suspend` is about.
fn plan_of(command: AgentCommand) -> Option<ObjectRef<ExecutionPlan>> {
    let reference = command.status.as_ref()?.plan.as_ref()?;
    Some(ObjectRef::new(&reference.name).within(command.metadata.namespace.as_deref().unwrap_or_default()))
}

/// Reports a part as ready once its first list is in the cache.
async fn announce<K>(health: &Health, part: &'static str, store: Store<K>)
where
    K: kube::runtime::reflector::Lookup + Clone + 'static,
    K::DynamicType: Eq + std::hash::Hash + Clone,
{
    match store.wait_until_ready().await {
        Ok(()) => health.ready(part),
        Err(error) => health.unready(part, error),
    }
}

/// Finished plans are out of the controllers' sight. Two things are still to do for them: letting those go that somebody
/// deletes, which their finalizer would hold for ever, and putting back what somebody wants put back. Nothing is kept in
/// memory.
async fn revisit_finished(context: Arc<Context>) {
    let plans = Api::<PartialObjectMeta<ExecutionPlan>>::all(context.client.clone());
    let finished = watcher::Config::default().labels(FINISHED_LABEL);
    let seen = watcher(plans, finished).default_backoff().applied_objects();
    seen.for_each_concurrent(REVISITED_AT_ONCE, |seen| {
        let context = Arc::clone(&context);
        async move {
            match seen {
                Ok(plan) if is_wanted_again(&plan) => revisit(&plan, &context).await,
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "the watch on finished plans failed, trying again"),
            }
        }
    })
    .await;
}

fn is_wanted_again(plan: &PartialObjectMeta<ExecutionPlan>) -> bool {
    plan.metadata.deletion_timestamp.is_some() || plan.annotations().contains_key(REQUEST_ANNOTATION)
}

/// Reconciles one finished plan, until that works.
async fn revisit(seen: &PartialObjectMeta<ExecutionPlan>, context: &Arc<Context>) {
    let namespace = seen.namespace().unwrap_or_default();
    let plans = Api::<ExecutionPlan>::namespaced(context.client.clone(), &namespace);
    let mut pause = Duration::from_millis(500);
    loop {
        let revisited = match plans.get_opt(&seen.name_any()).await {
            Ok(Some(plan)) if plan.uid() == seen.uid() => {
                plan::reconcile(Arc::new(plan), Arc::clone(context)).await.map(|_| ())
            }
            Ok(_) => Ok(()),
            Err(error) => Err(while_doing("reading a finished plan")(error)),
        };
        let Err(error) = revisited else { return };
        if !error.is_outdated() {
            tracing::warn!(namespace, name = seen.name_any(), %error, "a finished plan cannot be revisited, trying again");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(60));
    }
}

/// Keeps the gauge of active commands.
async fn count(context: Arc<Context>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        if let Some(store) = context.commands.get() {
            context.metrics.active_commands(store.len());
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
}

/// What to do when a reconciliation failed: outdated objects come again by themselves, everything else is tried again
/// with a growing pause.
fn on_error<K: ResourceExt<DynamicType = ()>>(object: Arc<K>, error: &Error, context: Arc<Context>) -> Action {
    if error.is_outdated() {
        return Action::requeue(Duration::from_millis(200));
    }
    let kind = K::kind(&());
    tracing::warn!(kind = kind.as_ref(), namespace = object.namespace(), name = object.name_any(), %error, "reconciliation failed, trying again");
    context.metrics.reconcile_failed(match kind.as_ref() {
        "AgentCommand" => "AgentCommand",
        "ExecutionPlan" => "ExecutionPlan",
        _ => "ModelProvider",
    });
    Action::requeue(Duration::from_secs(5))
}

/// Counts what came of a step.
pub(super) fn count_step(metrics: &Metrics, operation: OperationKind, reason: &str) {
    match reason {
        "StepCompleted" => metrics.step_finished(operation, StepState::Completed),
        "StepSkipped" => metrics.step_finished(operation, StepState::Skipped),
        "StepFailed" | "StepRefused" | "Drifted" => metrics.step_finished(operation, StepState::Failed),
        "StepRolledBack" => metrics.step_undone(UndoState::Done),
        "UndoFailed" => metrics.step_undone(UndoState::Failed),
        _ => {}
    }
}
