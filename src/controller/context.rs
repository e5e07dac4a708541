use super::approvals::Borrowed;
use super::failures::Failures;
use super::leader::Leadership;
use super::policy::Policies;
use super::proposals::Proposals;
use super::provider::Providers;
use crate::api::{AgentCommand, ExecutionPlan, ModelProvider};
use crate::cluster::{Cluster, ClusterError, ListOptions};
use crate::execute::{Signals, SnapshotError, SnapshotStore};
use crate::plan::{Namespace, PlanError};
use crate::telemetry::Metrics;
use kube::Client;
use kube::runtime::events::Recorder;
use kube::runtime::reflector::Store;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

/// What every reconciler shares.
pub(super) struct Context {
    pub cluster: Cluster,
    pub client: Client,
    /// The operator's own namespace.
    pub namespace: String,
    pub snapshots: SnapshotStore,
    pub recorder: Recorder,
    pub metrics: Metrics,
    pub providers: Providers,
    pub policies: Policies,
    pub commands: OnceLock<Store<AgentCommand>>,
    pub model_providers: OnceLock<Store<ModelProvider>>,
    pub executions: Executions,
    /// Plans under execution, so that the lease is not given back before they have stopped.
    pub tasks: TaskTracker,
    /// The word that this replica leads.
    pub leadership: Leadership,
    /// Digests of plans that this process assessed when it made them, so that they need no second look.
    pub assessed: Mutex<HashMap<String, std::time::Instant>>,
    pub failures: Failures,
    pub borrowed: Borrowed,
    pub proposals: Proposals,
}

/// The plans that this process is carrying out, by uid.
#[derive(Default)]
pub(super) struct Executions {
    running: Mutex<HashMap<String, watch::Sender<Signals>>>,
}

impl Executions {
    /// Marks a plan as being carried out and gives the receiving end of its signals; `None` when it already is.
    pub fn begin(&self, uid: &str, signals: Signals) -> Option<watch::Receiver<Signals>> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.contains_key(uid) {
            return None;
        }
        let (sender, receiver) = watch::channel(signals);
        running.insert(uid.to_owned(), sender);
        Some(receiver)
    }

    /// Hands new signals to a running plan. Whether it is running.
    pub fn signal(&self, uid: &str, signals: &Signals) -> bool {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(sender) = running.get(uid) else { return false };
        sender.send_if_modified(|current| {
            let changed = current != signals;
            current.clone_from(signals);
            changed
        });
        true
    }

    /// Stops all executions where they are; their journals say how they go on.
    pub fn stop(&self) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Whether the plan was still marked as being carried out; it is not any more.
    pub fn end(&self, uid: &str) -> bool {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(uid).is_some()
    }
}

impl Context {
    /// The namespaces of the cluster with their labels, read as the operator.
    pub async fn namespaces(&self) -> Result<Vec<Namespace>, Error> {
        let catalog = self.cluster.catalog().await?;
        let Some(kind) = catalog.by_group_kind("", "Namespace") else { return Ok(Vec::new()) };
        let objects = self.cluster.operator().list(kind, None, &ListOptions::default()).await?;
        Ok(objects.iter().filter_map(Namespace::of).collect())
    }

    /// Remembers that a plan was assessed just now.
    pub fn note_assessed(&self, digest: &str) {
        let mut assessed = self.assessed.lock().unwrap_or_else(PoisonError::into_inner);
        assessed.retain(|_, at| at.elapsed() < ASSESSMENT_LIFETIME);
        assessed.insert(digest.to_owned(), std::time::Instant::now());
    }

    /// Whether a plan was assessed a moment ago.
    pub fn was_assessed(&self, digest: &str) -> bool {
        let assessed = self.assessed.lock().unwrap_or_else(PoisonError::into_inner);
        assessed.get(digest).is_some_and(|at| at.elapsed() < ASSESSMENT_LIFETIME)
    }

    /// The command that a plan answers, from the cache.
    pub fn command_of(&self, plan: &ExecutionPlan) -> Option<Arc<AgentCommand>> {
        let reference = plan.spec.command_ref.as_ref()?;
        let namespace = plan.metadata.namespace.as_deref()?;
        let key = kube::runtime::reflector::ObjectRef::new(&reference.name).within(namespace);
        self.commands.get()?.get(&key)
    }
}

/// How long an assessment made at planning is good for without another look.
const ASSESSMENT_LIFETIME: std::time::Duration = std::time::Duration::from_secs(60);

/// Why a reconciliation has to be tried again.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The API server could not be asked, or refused.
    #[error("{doing}: {source}")]
    Api { doing: &'static str, source: Box<kube::Error> },
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error("the policies cannot be read, and nothing is planned without them: {0}")]
    PoliciesUnread(String),
    #[error("the digest could not be computed: {0}")]
    Digest(String),
    /// The name of a plan belongs to somebody else's.
    #[error(
        "plan {0} exists already and belongs to another request; delete it, or make the request under another name"
    )]
    NameTaken(String),
}

/// Gives a Kubernetes error the story of what was being done.
pub(super) fn while_doing(doing: &'static str) -> impl FnOnce(kube::Error) -> Error {
    move |source| Error::Api { doing, source: Box::new(source) }
}

impl Error {
    /// Whether the API server says that the object is gone.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Api { source, .. } if matches!(source.as_ref(), kube::Error::Api(status) if status.code == 404))
    }

    /// One word for conditions and events.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Cluster(error) if error.is_forbidden() => "Forbidden",
            Self::Api { .. } | Self::Cluster(_) => "ClusterUnavailable",
            Self::Plan(error) => error.reason(),
            Self::Snapshot(_) => "SnapshotFailed",
            Self::PoliciesUnread(_) => "PoliciesUnread",
            Self::Digest(_) => "NoDigest",
            Self::NameTaken(_) => "NameTaken",
        }
    }

    /// Whether the API server says that the object changed meanwhile: then a newer event is on its way.
    pub fn is_outdated(&self) -> bool {
        matches!(self, Self::Api { source, .. } if matches!(source.as_ref(), kube::Error::Api(status) if status.code == 409))
    }
}
