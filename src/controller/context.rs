use super::approvals::Borrowed;
use super::assessments::Assessments;
use super::ended::Ended;
use super::failures::Failures;
use super::leader::Leadership;
use super::namespaces::{AsOf, Namespaces};
use super::policy::Policies;
use super::proposals::Proposals;
use super::provider::Providers;
use super::queue::Trigger;
use crate::api::{AgentCommand, ExecutionPlan, ModelProvider};
use crate::cluster::{Cluster, ClusterError, Prometheus};
use crate::execute::{Signals, SnapshotError, SnapshotStore, Writers};
use crate::plan::{Namespace, PlanError};
use crate::telemetry::Metrics;
use kube::api::ObjectMeta;
use kube::runtime::controller::Action;
use kube::runtime::events::Recorder;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, ResourceExt};
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
    /// Which plan wrote which object lately.
    pub writers: Writers,
    pub recorder: Recorder,
    pub metrics: Metrics,
    pub providers: Providers,
    pub policies: Policies,
    pub namespaces: Namespaces,
    pub commands: OnceLock<Store<AgentCommand>>,
    pub plans: OnceLock<Store<ExecutionPlan>>,
    /// Wakes commands whose plans moved.
    pub wake_command: Trigger<AgentCommand>,
    /// Plans that ended just now.
    pub ended: Ended,
    pub model_providers: OnceLock<Store<ModelProvider>>,
    pub executions: Executions,
    /// Plans under execution, so that the lease is not given back before they have stopped.
    pub tasks: TaskTracker,
    /// The word that this replica leads.
    pub leadership: Leadership,
    /// What this process wrote of commands and plans, and a watch may not have shown yet.
    pub written: Written,
    pub assessments: Assessments,
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

    /// Whether the plan is marked as being carried out.
    pub fn is_running(&self, uid: &str) -> bool {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).contains_key(uid)
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
    known: Mutex<HashMap<String, Write>>,
}

/// The newest that is known of an object.
struct Write {
    version: u64,
    at: Instant,
    /// Whether all that follows from that version was done when it was written.
    settled: bool,
}

impl Written {
    /// Remembers what the API server answered to a write, or to a read.
    pub fn note(&self, meta: &ObjectMeta) {
        self.keep(meta, false);
    }

    /// Remembers a write after which nothing is left to do until something else changes.
    pub fn note_settled(&self, meta: &ObjectMeta) {
        self.keep(meta, true);
    }

    /// Whether an object from a cache is older than what this process knows to be stored.
    pub fn is_ahead_of(&self, meta: &ObjectMeta) -> bool {
        self.compare(meta, |known, version| version < known.version)
    }

    /// Something else came: what settled an object is to be looked at all the same.
    pub fn unsettle(&self, meta: &ObjectMeta) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(write) = meta.uid.as_ref().and_then(|uid| known.get_mut(uid)) {
            write.settled = false;
        }
    }

    /// Whether a watch shows no more than what this process wrote and left settled.
    pub fn is_settled(&self, meta: &ObjectMeta) -> bool {
        self.compare(meta, |known, version| version == known.version && known.settled)
    }

    fn keep(&self, meta: &ObjectMeta, settled: bool) {
        let (Some(uid), Some(version)) = (&meta.uid, version(meta)) else { return };
        let at = Instant::now();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= WRITTEN_KEPT {
            known.retain(|_, write| write.at.elapsed() < WRITTEN_LIFETIME);
        }
        match known.get_mut(uid) {
            Some(write) if write.version > version => write.at = at,
            _ => drop(known.insert(uid.clone(), Write { version, at, settled })),
        }
    }

    fn compare(&self, meta: &ObjectMeta, holds: impl FnOnce(&Write, u64) -> bool) -> bool {
        let (Some(uid), Some(version)) = (&meta.uid, version(meta)) else { return false };
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(uid).is_some_and(|known| known.at.elapsed() < WRITTEN_LIFETIME && holds(known, version))
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
    pub async fn namespaces(&self, as_of: AsOf<'_>) -> Result<Arc<Vec<Namespace>>, Error> {
        self.namespaces.get(as_of, &self.client).await
    }

    /// The command that a plan answers, from the cache.
    pub fn command_of(&self, plan: &ExecutionPlan) -> Option<Arc<AgentCommand>> {
        let reference = plan.spec.command_ref.as_ref()?;
        let namespace = plan.metadata.namespace.as_deref()?;
        self.commands.get()?.get(&ObjectRef::new(&reference.name).within(namespace))
    }

    /// A plan without asking for it.
    pub fn known_plan(&self, namespace: &str, name: &str) -> KnownPlan {
        let watched = self.plans.get().and_then(|plans| plans.get(&ObjectRef::new(name).within(namespace)));
        newest(watched, self.ended.get(namespace, name), &self.written)
    }

    /// When to look again at a plan that is outdated in the store. What brought it here must not be lost because what the
    /// watch shows next is no news by itself.
    pub fn once_shown(&self, plan: &ExecutionPlan) -> Action {
        self.written.unsettle(&plan.metadata);
        // In this order: the watch keeps an object before it asks whether that is news.
        match self.plans.get().and_then(|plans| plans.get(&ObjectRef::from_obj(plan))) {
            Some(shown) if !self.written.is_ahead_of(&shown.metadata) => Action::requeue(Duration::ZERO),
            _ => Action::await_change(),
        }
    }

    /// Takes note of a plan that this process brought to its end, and has its command see it.
    pub fn hand_over(&self, plan: &ExecutionPlan) {
        let mut commands = commands_of(plan).peekable();
        if commands.peek().is_none() {
            return;
        }
        self.ended.note(plan.clone());
        commands.for_each(|command| self.wake_command.pull(command));
    }
}

/// What is known of a plan without asking for it.
pub(super) enum KnownPlan {
    /// Nothing: it may have finished, be new, or be gone.
    Unknown,
    /// Less than this process wrote. The watch will show that, and wakes the plan's command then.
    Outdated,
    /// The newest that is known, here or by the watch.
    Is(Arc<ExecutionPlan>),
}

fn newest(watched: Option<Arc<ExecutionPlan>>, ended: Option<Arc<ExecutionPlan>>, written: &Written) -> KnownPlan {
    let is_newer = |watched: &ExecutionPlan, ended: &ExecutionPlan| match (&watched.metadata, &ended.metadata) {
        (watched, ended) if watched.uid != ended.uid => true,
        (watched, ended) => version(watched) > version(ended),
    };
    match (watched, ended) {
        (None, None) => KnownPlan::Unknown,
        (None, Some(ended)) => KnownPlan::Is(ended),
        (Some(watched), Some(ended)) if !is_newer(&watched, &ended) => KnownPlan::Is(ended),
        (Some(watched), _) if written.is_ahead_of(&watched.metadata) => KnownPlan::Outdated,
        (Some(watched), _) => KnownPlan::Is(watched),
    }
}

/// Whether one object has the other as an owner, and not only one of its name.
pub(super) fn is_owned_by(object: &impl ResourceExt, owner: &impl ResourceExt) -> bool {
    object.owner_references().iter().any(|reference| Some(&reference.uid) == owner.meta().uid.as_ref())
}

/// The commands that own a plan.
pub(super) fn commands_of(plan: &ExecutionPlan) -> impl Iterator<Item = ObjectRef<AgentCommand>> {
    let namespace = plan.metadata.namespace.as_deref();
    plan.owner_references().iter().filter_map(move |owner| ObjectRef::from_owner_ref(namespace, owner, ()))
}

/// How the message of a command or plan ends that something holds up.
pub(super) const TRIED_AGAIN: &str = "; it is tried again by itself";

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
            Self::Cluster(error) | Self::Plan(PlanError::Cluster(error)) if is_held_by_budget(error) => {
                "DisruptionBudget"
            }
            Self::Cluster(error) if error.is_forbidden() => "Forbidden",
            Self::Api { source, .. } if is_forbidden(source) => "Forbidden",
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

fn is_forbidden(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 403)
}

/// Whether a PodDisruptionBudget keeps a pod from being evicted. The API server says so with the code of an overload.
fn is_held_by_budget(error: &ClusterError) -> bool {
    error.is_transient() && error.server_message().contains("disruption budget")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ExecutionPlanSpec;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
    use kube::Resource;

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

    #[test]
    fn only_the_very_write_that_settled_an_object_is_no_news() {
        let written = Written::default();
        written.note_settled(&meta("a", "10"));
        assert!(written.is_settled(&meta("a", "10")));
        assert!(!written.is_settled(&meta("a", "9")) && !written.is_settled(&meta("a", "11")));
        assert!(!written.is_settled(&meta("b", "10")) && !written.is_settled(&meta("a", "x10")));
        written.note(&meta("a", "9"));
        assert!(written.is_settled(&meta("a", "10")), "what came late says nothing new");
        written.note(&meta("a", "10"));
        assert!(!written.is_settled(&meta("a", "10")), "somebody else looks at it");
        written.note_settled(&meta("a", "11"));
        written.unsettle(&meta("a", "9"));
        assert!(!written.is_settled(&meta("a", "11")), "something else came before the watch showed it");
        written.note_settled(&meta("a", "11"));
        written.note(&meta("a", "12"));
        assert!(!written.is_settled(&meta("a", "11")) && !written.is_settled(&meta("a", "12")));
    }

    fn plan(uid: &str, version: &str) -> Arc<ExecutionPlan> {
        let mut plan = ExecutionPlan::new("p", ExecutionPlanSpec::default());
        plan.metadata = ObjectMeta { name: Some("p".into()), namespace: Some("shop".into()), ..meta(uid, version) };
        Arc::new(plan)
    }

    /// What is known of a plan: its uid and version, or how it is not.
    fn known(watched: Option<(&str, &str)>, ended: Option<(&str, &str)>, written: &Written) -> String {
        let of = |known: Option<(&str, &str)>| known.map(|(uid, version)| plan(uid, version));
        match newest(of(watched), of(ended), written) {
            KnownPlan::Unknown => "unknown".to_owned(),
            KnownPlan::Outdated => "outdated".to_owned(),
            KnownPlan::Is(plan) => {
                format!("{}@{}", plan.uid().unwrap_or_default(), plan.resource_version().unwrap_or_default())
            }
        }
    }

    #[test]
    fn a_command_never_sees_less_of_its_plan_than_this_process_wrote() {
        let written = Written::default();
        assert_eq!(known(None, None, &written), "unknown");
        assert_eq!(known(Some(("a", "9")), None, &written), "a@9");
        written.note(&meta("a", "10"));
        assert_eq!(known(Some(("a", "9")), None, &written), "outdated");
        assert_eq!(known(Some(("a", "10")), None, &written), "a@10");
    }

    #[test]
    fn the_end_of_a_plan_counts_until_the_watch_shows_something_newer() {
        let written = Written::default();
        written.note(&meta("a", "10"));
        // Its mark as finished, which takes it out of what is watched.
        written.note(&meta("a", "11"));
        assert_eq!(known(Some(("a", "9")), Some(("a", "10")), &written), "a@10");
        assert_eq!(known(Some(("a", "10")), Some(("a", "10")), &written), "a@10");
        assert_eq!(known(None, Some(("a", "10")), &written), "a@10");
        assert_eq!(known(Some(("a", "12")), Some(("a", "10")), &written), "a@12", "it is put back");
        assert_eq!(known(Some(("b", "9")), Some(("a", "10")), &written), "b@9", "another one of that name");
    }

    #[test]
    fn an_end_is_kept_until_its_command_took_note_of_it() {
        let ended = Ended::default();
        ended.note((*plan("a", "10")).clone());
        assert_eq!(ended.get("shop", "p").unwrap().uid().unwrap(), "a");
        assert!(ended.get("shop", "q").is_none() && ended.get("other", "p").is_none());
        ended.forget("shop", "p");
        assert!(ended.get("shop", "p").is_none());
    }

    #[test]
    fn only_the_commands_that_own_a_plan_are_woken() {
        let owner = |kind: &str, name: &str| OwnerReference {
            api_version: AgentCommand::api_version(&()).into_owned(),
            kind: kind.into(),
            name: name.into(),
            ..OwnerReference::default()
        };
        let mut plan = (*plan("a", "1")).clone();
        assert_eq!(commands_of(&plan).count(), 0);
        plan.metadata.owner_references = Some(vec![owner("PlanPolicy", "x"), owner("AgentCommand", "scale")]);
        let woken: Vec<_> = commands_of(&plan).collect();
        assert_eq!(woken, [ObjectRef::new("scale").within("shop")]);
    }
}
