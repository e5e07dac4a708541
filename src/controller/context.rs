use super::approvals::Borrowed;
use super::failures::Failures;
use super::leader::Leadership;
use super::policy::Policies;
use super::proposals::Proposals;
use super::provider::Providers;
use crate::api::{AgentCommand, ExecutionPlan, ModelProvider};
use crate::cluster::{Cluster, ClusterError, ListOptions, Prometheus};
use crate::execute::{Signals, SnapshotError, SnapshotStore};
use crate::plan::{Namespace, PlanError};
use crate::telemetry::Metrics;
use kube::{Client, ResourceExt};
use kube::api::ObjectMeta;
use kube::runtime::events::Recorder;
use kube::runtime::reflector::Store;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
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
    /// What this process wrote of commands and plans, and a watch may not have shown yet.
    pub written: Written,
    /// Plans that this process assessed when it made them, so that they need no second look.
    pub assessed: Mutex<HashMap<String, Instant>>,
    pub failures: Failures,
    /// Where metrics are asked for, if anywhere.
    pub prometheus: Option<Prometheus>,
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

/// The resource versions that this process wrote last, by uid. A reconciliation that is called with something older would do
/// once more what was just done; the newer object brings the work back by itself.
#[derive(Default)]
pub(super) struct Written {
    versions: Mutex<HashMap<String, (u64, Instant)>>,
}

impl Written {
    /// Remembers what the API server answered to a write, or to a read.
    pub fn note(&self, meta: &ObjectMeta) {
        let (Some(uid), Some(version)) = (&meta.uid, version(meta)) else { return };
        let mut versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        if versions.len() >= WRITTEN_KEPT {
            versions.retain(|_, (_, at)| at.elapsed() < WRITTEN_LIFETIME);
        }
        let newest = versions.get(uid).map_or(version, |(known, _)| version.max(*known));
        versions.insert(uid.clone(), (newest, Instant::now()));
    }

    /// Whether an object from a cache is older than what this process knows to be stored.
    pub fn is_ahead_of(&self, meta: &ObjectMeta) -> bool {
        let (Some(uid), Some(version)) = (&meta.uid, version(meta)) else { return false };
        let versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        versions.get(uid).is_some_and(|(known, at)| version < *known && at.elapsed() < WRITTEN_LIFETIME)
    }
}

/// Resource versions of one kind can be compared (Kubernetes' KEP-5504): later is larger.
fn version(meta: &ObjectMeta) -> Option<u64> {
    meta.resource_version.as_deref()?.parse().ok()
}

/// How long a watch may lag behind; after that an object is taken for what it says.
const WRITTEN_LIFETIME: Duration = Duration::from_secs(60);
/// How many writes are remembered before those that are too old are looked for.
const WRITTEN_KEPT: usize = 256;

impl Context {
    /// The namespaces of the cluster with their labels, read as the operator.
    pub async fn namespaces(&self) -> Result<Vec<Namespace>, Error> {
        let catalog = self.cluster.catalog().await?;
        let Some(kind) = catalog.by_group_kind("", "Namespace") else { return Ok(Vec::new()) };
        let objects = self.cluster.operator().list(kind, None, &ListOptions::default()).await?;
        Ok(objects.iter().filter_map(Namespace::of).collect())
    }

    /// Remembers that a plan was assessed just now.
    pub fn note_assessed(&self, plan: &ExecutionPlan, digest: &str) {
        let mut assessed = self.assessed.lock().unwrap_or_else(PoisonError::into_inner);
        assessed.retain(|_, at| at.elapsed() < ASSESSMENT_LIFETIME);
        assessed.insert(assessment(plan, digest), Instant::now());
    }

    /// Whether a plan was assessed a moment ago.
    pub fn was_assessed(&self, plan: &ExecutionPlan, digest: &str) -> bool {
        let assessed = self.assessed.lock().unwrap_or_else(PoisonError::into_inner);
        assessed.get(&assessment(plan, digest)).is_some_and(|at| at.elapsed() < ASSESSMENT_LIFETIME)
    }

    /// The command that a plan answers, from the cache.
    pub fn command_of(&self, plan: &ExecutionPlan) -> Option<Arc<AgentCommand>> {
        let reference = plan.spec.command_ref.as_ref()?;
        let namespace = plan.metadata.namespace.as_deref()?;
        let key = kube::runtime::reflector::ObjectRef::new(&reference.name).within(namespace);
        self.commands.get()?.get(&key)
    }
}

/// What an assessment is remembered by: another plan of the same digest was not tried.
fn assessment(plan: &ExecutionPlan, digest: &str) -> String {
    format!("{}/{} {digest}", plan.namespace().unwrap_or_default(), plan.name_any())
}

/// How long an assessment made at planning is good for without another look.
const ASSESSMENT_LIFETIME: Duration = Duration::from_secs(60);

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

    /// Whether it passes by itself, as far as one can tell: the API server was not reached, or was not able to answer.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Api { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => status.code == 429 || status.code >= 500,
                kube::Error::Service(_) | kube::Error::HyperError(_) | kube::Error::ReadEvents(_) => true,
                _ => false,
            },
            Self::Cluster(error) => error.is_transient(),
            Self::Plan(error) => error.is_transient(),
            Self::Snapshot(error) => error.is_transient(),
            Self::PoliciesUnread(_) | Self::Digest(_) | Self::NameTaken(_) => false,
        }
    }

    /// Whether the API server says that the object changed meanwhile: then a newer event is on its way.
    pub fn is_outdated(&self) -> bool {
        matches!(self, Self::Api { source, .. } if matches!(source.as_ref(), kube::Error::Api(status) if status.code == 409))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(uid: &str, version: &str) -> ObjectMeta {
        ObjectMeta { uid: Some(uid.into()), resource_version: Some(version.into()), ..ObjectMeta::default() }
    }

    #[test]
    fn only_what_is_older_than_the_last_write_is_outdated() {
        let written = Written::default();
        assert!(!written.is_ahead_of(&meta("a", "9")));
        written.note(&meta("a", "10"));
        written.note(&meta("a", "8"));
        assert!(written.is_ahead_of(&meta("a", "9")));
        assert!(!written.is_ahead_of(&meta("a", "10")));
        assert!(!written.is_ahead_of(&meta("a", "11")));
        assert!(!written.is_ahead_of(&meta("b", "9")));
        // A server that counts otherwise is believed as it is.
        assert!(!written.is_ahead_of(&meta("a", "x9")));
    }
}
