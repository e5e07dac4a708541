use super::approvals::Borrowed;
use super::assessments::Assessments;
use super::context::{Context, Error, Executions, Written, commands_of};
use super::ended::Ended;
use super::failures::Failures;
use super::leader::Elector;
use super::namespaces::Namespaces;
use super::policy::Policies;
use super::proposals::Proposals;
use super::provider::Providers;
use super::queue::{self, Queue, Seen};
use super::{command, finished, plan, policy, provider};
use crate::api::{
    AgentCommand, ExecutionPlan, FINISHED_LABEL, ModelProvider, OperationKind, PlanApproval, PlanPolicy, StepState,
    UndoState,
};
use crate::cluster::{Cluster, ClusterError, Prometheus, WATCH_PAUSE, watch_backoff};
use crate::execute::{SnapshotStore, Writers};
use crate::telemetry::server::{self, Served, ServerError};
use crate::telemetry::{Health, Metrics};
use futures::{Stream, StreamExt, TryStreamExt};
use kube::api::ListParams;
use kube::runtime::Controller;
use kube::runtime::WatchStreamExt;
use kube::runtime::controller::Action;
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::{self, watcher};
use kube::{Api, ResourceExt};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long reconciliations under way may take to end when the operator is told to stop.
const GRACE: Duration = Duration::from_secs(5);

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
    /// API groups whose servers behind the API server are trusted to carry out no dry run; `*` for every group.
    pub trusted_api_groups: Vec<String>,
    /// How many finished commands each namespace keeps, the newest; all of them when 0.
    pub keep_finished_commands: usize,
    /// How many finished plans without a command each namespace keeps, the newest; all of them when 0.
    pub keep_finished_plans: usize,
    /// The Prometheus that is asked about metrics, if there is one.
    pub prometheus: Option<Prometheus>,
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
    /// Another replica may lead now. Whatever was under way goes on there, by the journal.
    #[error("the lease was lost: another replica may lead now, so this one must not go on")]
    LeadershipLost,
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
    let health = Health::new(["commands", "plans", "policies", "providers"]);
    let served = Served { health: health.clone(), metrics: metrics.clone() };
    let listener = server::bind(options.listen).await?;
    let serving = tokio::spawn(server::serve_on(listener, served, stop.clone()));
    let name = options.instance.clone().unwrap_or_else(own_name);
    let cluster = Cluster::connect(&name, options.trusted_api_groups).await?;
    let (client, watching) = (cluster.client(), cluster.watching_client());
    let reporter = Reporter { controller: "countersign".to_owned(), instance: options.instance.clone() };
    let mut elector = Elector::new(client.clone(), &options.namespace, name);
    let leadership = elector.leadership();
    cluster.guard(move || leadership.holds());
    let (wake_command, woken_commands) = queue::trigger::<AgentCommand>();
    let (wake_plan, woken_plans) = queue::trigger::<ExecutionPlan>();
    let context = Arc::new(Context {
        snapshots: SnapshotStore::new(client.clone(), &options.namespace),
        writers: Writers::default(),
        recorder: Recorder::new(client.clone(), reporter),
        cluster,
        client: client.clone(),
        namespace: options.namespace,
        metrics: metrics.clone(),
        providers: Providers::default(),
        policies: Policies::default(),
        namespaces: Namespaces::default(),
        commands: OnceLock::new(),
        plans: OnceLock::new(),
        wake_command,
        ended: Ended::default(),
        model_providers: OnceLock::new(),
        executions: Executions::default(),
        tasks: TaskTracker::new(),
        leadership: elector.leadership(),
        written: Written::default(),
        assessments: Assessments::default(),
        failures: Failures::default(),
        prometheus: options.prometheus,
        borrowed: Borrowed::default(),
        proposals: Proposals::default(),
    });
    let backoff = || watch_backoff(WATCH_PAUSE);
    // Finished objects are not watched: memory follows what is active, not what is stored.
    let active = || watcher::Config::default().labels(&format!("!{FINISHED_LABEL}"));

    let shown = watcher(Api::<AgentCommand>::all(watching.clone()), active()).backoff(backoff());
    let commands = Queue::of(shown, |_| true, {
        let context = Arc::clone(&context);
        move |seen| match seen {
            Seen::One(command) => plan_of(command).into_iter().for_each(|plan| wake_plan.pull(plan)),
            Seen::All => all_of(&context.plans).for_each(|plan| wake_plan.pull(plan)),
        }
    })
    .and(woken_commands.map(Ok));
    let _ = context.commands.set(commands.store());
    announce(&health, "commands", Api::<AgentCommand>::all(client.clone()));

    let (policy_changed, policy_changes) = futures::channel::mpsc::channel(1);
    let policies = Controller::new(Api::<PlanPolicy>::all(watching.clone()), watcher::Config::default())
        .trigger_backoff(backoff())
        .graceful_shutdown_on(stop.clone().cancelled_owned());
    announce(&health, "policies", Api::<PlanPolicy>::all(client.clone()));
    let following = tokio::spawn({
        let (context, watching) = (context.clone(), watching.clone());
        async move { context.policies.follow(watching, policy_changed).await }
    });

    let shown = watcher(Api::<ExecutionPlan>::all(watching.clone()), active()).backoff(backoff());
    let news = {
        let context = Arc::clone(&context);
        move |plan: &ExecutionPlan| !context.written.is_settled(&plan.metadata)
    };
    let plans = Queue::of(shown, news, {
        let context = Arc::clone(&context);
        move |seen| match seen {
            Seen::One(plan) => commands_of(plan).for_each(|command| context.wake_command.pull(command)),
            Seen::All => all_of(&context.commands).for_each(|command| context.wake_command.pull(command)),
        }
    })
    .and(judged_plans(Api::all(watching.clone())).backoff(backoff()))
    .and(woken_plans.map(Ok))
    .all_on(policy_changes);
    let _ = context.plans.set(plans.store());
    announce(&health, "plans", Api::<ExecutionPlan>::all(client.clone()));

    let providers = Controller::new(Api::<ModelProvider>::all(watching.clone()), watcher::Config::default())
        .trigger_backoff(backoff())
        .graceful_shutdown_on(stop.clone().cancelled_owned());
    let _ = context.model_providers.set(providers.store());
    announce(&health, "providers", Api::<ModelProvider>::all(client.clone()));

    let watched = stop.clone();
    let gauges = tokio::spawn(count(context.clone(), watched));
    // Not `stop`: the lease is kept while what is under way ends, and given back after that.
    let ending = CancellationToken::new();
    let work = async {
        tokio::join!(
            commands
                .run(command::reconcile, on_error::<AgentCommand>, context.clone(), options.workers, stop.clone())
                .for_each(|done| async { note(&context, done) }),
            plans
                .run(plan::reconcile, on_error::<ExecutionPlan>, context.clone(), options.workers, stop.clone())
                .for_each(|done| async { note(&context, done) }),
            policies
                .run(policy::reconcile, on_error::<PlanPolicy>, context.clone())
                .for_each(|done| async { note(&context, done) }),
            providers
                .run(provider::reconcile, on_error::<ModelProvider>, context.clone())
                .for_each(|done| async { note(&context, done) }),
        );
    };
    let archive = async {
        let commands = finished::commands(context.clone(), options.keep_finished_commands);
        tokio::join!(commands, finished::plans(context.clone(), options.keep_finished_plans));
    };
    if !elector.acquire(&stop).await {
        return served_out(serving).await;
    }
    // What is under way may end; a controller that never got its first list would wait for ever.
    let patience = async {
        stop.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    let lost = tokio::select! {
        () = work => false,
        () = archive => false,
        lost = elector.keep(&ending) => lost,
        () = patience => false,
    };
    gauges.abort();
    following.abort();
    if lost {
        // Its deadline stands until the process has ended: what is under way is not waited for.
        std::mem::forget(elector);
        return Err(RunError::LeadershipLost);
    }
    context.executions.stop();
    context.tasks.close();
    if tokio::time::timeout(GRACE, context.tasks.wait()).await.is_ok() {
        elector.release().await;
    }
    served_out(serving).await
}

async fn served_out(serving: tokio::task::JoinHandle<Result<(), ServerError>>) -> Result<(), RunError> {
    match serving.await {
        Ok(result) => Ok(result?),
        // The server's task cannot be cancelled, and a panic in it was told already.
        Err(_) => Ok(()),
    }
}

/// Says what went wrong with a watch, and forgets the failures of what was reconciled. What a reconciliation ran into is
/// told by [`on_error`].
fn note<K>(
    context: &Context,
    done: Result<(ObjectRef<K>, Action), kube::runtime::controller::Error<Error, watcher::Error>>,
) where
    K: ResourceExt<DynamicType = ()>,
{
    match done {
        Ok((object, _)) => context.failures.forget(&key::<K>(object.namespace.as_deref(), &object.name)),
        Err(kube::runtime::controller::Error::QueueError(error)) => {
            tracing::warn!(%error, "a watch failed, trying again");
        }
        Err(_) => {}
    }
}

/// What failures of an object are remembered by.
pub(super) fn key<K: ResourceExt<DynamicType = ()>>(namespace: Option<&str>, name: &str) -> String {
    format!("{} {}/{name}", K::kind(&()), namespace.unwrap_or_default())
}

/// A name that no other replica has: the host's and the process's.
fn own_name() -> String {
    let host = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
    format!("{}-{}-{:08x}", host.trim(), std::process::id(), rand::random::<u32>())
}

/// The plan that a command's `suspend` is about.
fn plan_of(command: &AgentCommand) -> Option<ObjectRef<ExecutionPlan>> {
    let reference = command.status.as_ref()?.plan.as_ref()?;
    Some(ObjectRef::new(&reference.name).within(command.metadata.namespace.as_deref().unwrap_or_default()))
}

/// The plans that approvals are about, as these come, change and go.
fn judged_plans(
    approvals: Api<PlanApproval>,
) -> impl Stream<Item = Result<ObjectRef<ExecutionPlan>, watcher::Error>> + Send + 'static {
    let touched = watcher(approvals, watcher::Config::default()).touched_objects();
    touched.map_ok(|approval| ObjectRef::new(&approval.spec.plan).within(&approval.namespace().unwrap_or_default()))
}

fn all_of<K>(store: &OnceLock<Store<K>>) -> impl Iterator<Item = ObjectRef<K>>
where
    K: kube::Resource<DynamicType = ()> + Clone + 'static,
{
    store.get().map(queue::references).into_iter().flatten()
}

/// Reports a part as ready once its kind can be listed: the definition is installed and the rights are there.
///
/// The cache's own `wait_until_ready` serves a single waiter, which is the controller.
fn announce<K>(health: &Health, part: &'static str, objects: Api<K>)
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
{
    let health = health.clone();
    tokio::spawn(async move {
        let mut pause = Duration::from_millis(200);
        while let Err(error) = objects.list_metadata(&ListParams::default().limit(1)).await {
            health.unready(part, error);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(10));
        }
        health.ready(part);
    });
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
#[expect(clippy::needless_pass_by_value, reason = "the form that an error policy has")]
fn on_error<K: ResourceExt<DynamicType = ()>>(object: Arc<K>, error: &Error, context: Arc<Context>) -> Action {
    if error.is_outdated() {
        return Action::requeue(Duration::from_millis(200));
    }
    let kind = K::kind(&());
    tracing::warn!(kind = kind.as_ref(), namespace = object.namespace(), name = object.name_any(), %error, "reconciliation failed, trying again");
    context.metrics.reconcile_failed(match kind.as_ref() {
        "AgentCommand" => "AgentCommand",
        "ExecutionPlan" => "ExecutionPlan",
        "PlanPolicy" => "PlanPolicy",
        _ => "ModelProvider",
    });
    let key = key::<K>(object.meta().namespace.as_deref(), &object.name_any());
    Action::requeue(context.failures.pause(&key, error.is_passing()))
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
