//! Removing finished objects: commands when their time is over, and the oldest commands and plans of a namespace that holds
//! too many. The history only says what to look at; what is removed is decided by the object itself, as it is stored.

use super::command::{is_asked_anew, label_value, mark_finished as mark_command};
use super::context::{Context, Error, is_owned_by, while_doing};
use super::finished::unmark;
use super::history::{Due, Finished, History, Newest, Next};
use super::policy::counts_this_month;
use crate::api::{
    AgentCommand, COMMAND_LABEL, CommandPhase, EXPIRES_AT_ANNOTATION, ExecutionPlan, FINISHED_AT_ANNOTATION,
    FINISHED_LABEL, PlanPhase, is_asked_back,
};
use crate::execute::can_be_put_back;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, Preconditions};
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// How many finished objects are listed at a time.
const PAGE: u32 = 500;
/// How long to wait at most for a time to come: clocks are set, and machines sleep.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
/// How long after a failure to go on.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(10);
/// When to look again at a command whose plan is still at work.
const WHILE_AT_WORK: SignedDuration = SignedDuration::from_secs(60);

/// The history of one kind, shared by who listens and who removes.
pub(super) struct Archive {
    history: Mutex<History>,
    /// How many a namespace may hold; as many as there are when 0.
    limit: usize,
    changed: Notify,
}

impl Archive {
    pub fn new(limit: usize) -> Self {
        Self { history: Mutex::new(History::new(limit)), limit, changed: Notify::new() }
    }

    /// Changes what is remembered, and has it looked at.
    pub fn change(&self, change: impl FnOnce(&mut History)) {
        change(&mut self.history());
        self.changed.notify_one();
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for something to be done.
    async fn next(&self) -> Next {
        loop {
            let now = Timestamp::now();
            let next = self.history().next(now);
            match next {
                Next::WaitUntil(time) => {
                    let left = Duration::try_from(time.duration_since(now)).unwrap_or_default();
                    let _ = tokio::time::timeout(left.min(LONGEST_PAUSE), self.changed.notified()).await;
                }
                Next::Rest => self.changed.notified().await,
                next => return next,
            }
        }
    }
}

/// A kind whose finished objects are removed.
pub(super) trait Kept:
    Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
where
    Self: Resource<Scope = kube::core::NamespaceResourceScope>,
{
    /// Whether an object counts in its namespace, by its metadata.
    fn counts(meta: &ObjectMeta) -> bool;

    /// What keeps an object from being removed now, or is to be done first.
    async fn review(&self, why: Why, context: &Context) -> Result<Review, Error>;
}

/// Why an object is to be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// The time that its author gave it is over.
    Expired,
    /// Its namespace holds enough that are newer.
    TooMany,
}

/// What becomes of an object that is to be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Review {
    Remove,
    /// It stays, and comes back by itself if that changes.
    Keep,
    /// It stays as long as something is at work.
    AtWork,
}

/// What is known of a finished object from its metadata.
pub(super) fn finished(meta: &ObjectMeta) -> Finished {
    let time = |annotation: &str| meta.annotations.as_ref()?.get(annotation)?.parse::<Timestamp>().ok();
    let created = || meta.creation_timestamp.as_ref().map(|time| time.0);
    Finished {
        at: time(FINISHED_AT_ANNOTATION).or_else(created).unwrap_or(Timestamp::UNIX_EPOCH),
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        expires: time(EXPIRES_AT_ANNOTATION),
    }
}

/// Removes what is to go, for as long as it is polled.
pub(super) async fn keep_in_bounds<K: Kept>(archive: &Archive, context: &Context) {
    loop {
        let next = archive.next().await;
        let done = match &next {
            Next::Remove(due) => expire::<K>(due, archive, context).await,
            Next::TidyUp(namespace) => tidy_up::<K>(namespace, archive, context).await,
            Next::LookForMore => look_for_more::<K>(archive, context).await,
            Next::WaitUntil(_) | Next::Rest => Ok(()),
        };
        let Err(error) = done else { continue };
        tracing::warn!(%error, kind = K::kind(&()).as_ref(), "finished objects could not be removed, trying again");
        tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
        archive.change(|history| match next {
            Next::Remove(due) => history.postpone(due),
            Next::TidyUp(namespace) => history.come_back_to(namespace),
            Next::LookForMore => history.look_for_more(),
            Next::WaitUntil(_) | Next::Rest => {}
        });
    }
}

async fn expire<K: Kept>(due: &Due, archive: &Archive, context: &Context) -> Result<(), Error> {
    let review = remove::<K>(&due.namespace, &due.name, None, Why::Expired, archive, context).await?;
    if review == Review::AtWork {
        let later = Timestamp::now().saturating_add(WHILE_AT_WORK).unwrap_or(Timestamp::MAX);
        archive.change(|history| history.postpone(Due { at: later, ..due.clone() }));
    }
    Ok(())
}

async fn tidy_up<K: Kept>(namespace: &str, archive: &Archive, context: &Context) -> Result<(), Error> {
    let objects: Api<K> = Api::namespaced(context.client.clone(), namespace);
    let mut newest = Newest::new(archive.limit);
    let mut count = 0;
    let mut too_many = Vec::new();
    let mut page = ListParams::default().labels(FINISHED_LABEL).limit(PAGE);
    archive.change(|history| history.list(namespace));
    loop {
        let list = objects.list_metadata(&page).await.map_err(while_doing("listing finished objects"))?;
        for object in list.items.iter().filter(|object| object.metadata.deletion_timestamp.is_none()) {
            if K::counts(&object.metadata) {
                count += 1;
                too_many.extend(newest.add(finished(&object.metadata)));
            }
        }
        for object in too_many.drain(..) {
            let uid = Some(object.uid.as_str());
            if remove::<K>(namespace, &object.name, uid, Why::TooMany, archive, context).await? == Review::Remove {
                count -= 1;
            }
        }
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => break,
        }
    }
    archive.change(|history| history.recount(count));
    Ok(())
}

async fn look_for_more<K: Kept>(archive: &Archive, context: &Context) -> Result<(), Error> {
    let objects: Api<K> = Api::all(context.client.clone());
    let mut page = ListParams::default().labels(FINISHED_LABEL).limit(PAGE);
    loop {
        let list = objects.list_metadata(&page).await.map_err(while_doing("listing finished objects"))?;
        let found = list.items.iter().filter(|object| object.metadata.deletion_timestamp.is_none());
        archive.change(|history| found.for_each(|object| history.remember(&finished(&object.metadata))));
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(()),
        }
    }
}

/// Removes one object, if nothing is against it. What changes while it is looked at is left alone.
async fn remove<K: Kept>(
    namespace: &str,
    name: &str,
    uid: Option<&str>,
    why: Why,
    archive: &Archive,
    context: &Context,
) -> Result<Review, Error> {
    let objects: Api<K> = Api::namespaced(context.client.clone(), namespace);
    let found = objects.get_opt(name).await.map_err(while_doing("reading a finished object"))?;
    let Some(object) = found.filter(|object| uid.is_none_or(|uid| object.meta().uid.as_deref() == Some(uid))) else {
        return Ok(Review::Keep);
    };
    if object.meta().deletion_timestamp.is_some() {
        return Ok(Review::Keep);
    }
    let review = match object.review(why, context).await {
        Err(error) if error.is_outdated() || error.is_gone() => return Ok(Review::Keep),
        review => review?,
    };
    if review != Review::Remove {
        return Ok(review);
    }
    let preconditions = Preconditions { uid: object.uid(), resource_version: object.resource_version() };
    match objects.delete(name, &DeleteParams::background().preconditions(preconditions)).await {
        Ok(_) => {
            if K::counts(object.meta()) {
                archive.change(|history| history.let_go(&finished(object.meta())));
            }
            let kind = K::kind(&());
            tracing::info!(kind = kind.as_ref(), namespace, name, why = ?why, "removed a finished object");
            Ok(Review::Remove)
        }
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(Review::Keep),
        Err(error) => Err(while_doing("removing a finished object")(error)),
    }
}

impl Kept for AgentCommand {
    fn counts(_: &ObjectMeta) -> bool {
        true
    }

    async fn review(&self, why: Why, context: &Context) -> Result<Review, Error> {
        let namespace = self.namespace().unwrap_or_default();
        let commands: Api<Self> = Api::namespaced(context.client.clone(), &namespace);
        let status = self.status.clone().unwrap_or_default();
        if !status.phase.is_some_and(CommandPhase::is_final) || is_asked_anew(self) {
            // It belongs to the active ones.
            unmark(context, &commands, &self.name_any()).await?;
            return Ok(Review::Keep);
        }
        if why == Why::Expired && expiry(self).is_none_or(|time| time > Timestamp::now()) {
            mark_command(self, context).await?;
            return Ok(Review::Keep);
        }
        let plans: Api<ExecutionPlan> = Api::namespaced(context.client.clone(), &namespace);
        let label = format!("{COMMAND_LABEL}={}", label_value(&self.name_any()));
        let list = plans.list(&ListParams::default().labels(&label)).await;
        let list = list.map_err(while_doing("reading the plans of a finished command"))?;
        let own: Vec<_> = list.items.iter().filter(|plan| is_owned_by(*plan, self)).collect();
        Ok(review(&own, why, context))
    }
}

impl Kept for ExecutionPlan {
    /// The plans of commands go with their command.
    fn counts(meta: &ObjectMeta) -> bool {
        meta.owner_references.as_ref().is_none_or(Vec::is_empty)
    }

    async fn review(&self, why: Why, context: &Context) -> Result<Review, Error> {
        Ok(review(&[self], why, context))
    }
}

fn review(plans: &[&ExecutionPlan], why: Why, context: &Context) -> Review {
    if plans.iter().any(|plan| is_at_work(plan)) {
        return Review::AtWork;
    }
    // Nobody's budget grows because there is much to keep.
    if why == Why::TooMany
        && context.policies.count_months()
        && plans.iter().any(|plan| counts_this_month(plan, context.cluster.now()))
    {
        return Review::Keep;
    }
    Review::Remove
}

/// Whether a plan is being carried out, waits for that, or was asked to be put back.
fn is_at_work(plan: &ExecutionPlan) -> bool {
    let Some(status) = &plan.status else { return true };
    !status.phase.is_some_and(PlanPhase::is_final) || (is_asked_back(&plan.metadata) && can_be_put_back(status))
}

/// When a finished command goes by itself.
pub(super) fn expiry(command: &AgentCommand) -> Option<Timestamp> {
    let finished = command.status.as_ref()?.finished_at.as_ref()?.0;
    finished.checked_add(Duration::from(command.spec.ttl_after_finished?)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{ExecutionPlanSpec, ExecutionPlanStatus, REQUEST_ANNOTATION, StepStatus};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
    use std::collections::BTreeMap;

    fn plan(phase: Option<PlanPhase>, request: Option<&str>) -> ExecutionPlan {
        let mut plan = ExecutionPlan::new("p", ExecutionPlanSpec::default());
        let applied_at = Some(Time(Timestamp::UNIX_EPOCH));
        let step = StepStatus { id: "s".into(), applied_at, ..StepStatus::default() };
        plan.status = Some(ExecutionPlanStatus { phase, steps: vec![step], ..ExecutionPlanStatus::default() });
        plan.metadata.annotations = request.map(|word| BTreeMap::from([(REQUEST_ANNOTATION.into(), word.into())]));
        plan
    }

    #[test]
    fn a_plan_that_is_not_over_or_is_to_be_put_back_is_at_work() {
        use PlanPhase::{AwaitingApproval, Executing, RolledBack, RollingBack, Succeeded};
        for phase in [None, Some(AwaitingApproval), Some(Executing), Some(RollingBack)] {
            assert!(is_at_work(&plan(phase, None)), "{phase:?}");
        }
        assert!(!is_at_work(&plan(Some(Succeeded), None)));
        assert!(!is_at_work(&plan(Some(RolledBack), Some("cancel"))));
        assert!(is_at_work(&plan(Some(Succeeded), Some("rollback"))));
        assert!(is_at_work(&ExecutionPlan::new("new", ExecutionPlanSpec::default())), "nobody has looked at it");
    }

    #[test]
    fn metadata_tells_when_an_object_finished_and_when_it_goes() {
        let mut meta = ObjectMeta { creation_timestamp: Some(Time(Timestamp::UNIX_EPOCH)), ..ObjectMeta::default() };
        assert_eq!((finished(&meta).at, finished(&meta).expires), (Timestamp::UNIX_EPOCH, None));
        let times = [(FINISHED_AT_ANNOTATION, "2026-01-01T00:00:00Z"), (EXPIRES_AT_ANNOTATION, "soon")];
        meta.annotations = Some(times.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
        assert_eq!(finished(&meta).at.to_string(), "2026-01-01T00:00:00Z");
        assert_eq!(finished(&meta).expires, None, "somebody else's words");
        let mut command = AgentCommand::new("c", crate::api::AgentCommandSpec::default());
        command.spec.ttl_after_finished = Some(Duration::from_secs(60).into());
        assert_eq!(expiry(&command), None, "it is not over");
        let over = Some(Time(Timestamp::UNIX_EPOCH));
        command.status = Some(crate::api::AgentCommandStatus { finished_at: over, ..Default::default() });
        assert_eq!(expiry(&command).map(Timestamp::as_second), Some(60));
    }

    #[test]
    fn plans_of_commands_are_not_counted() {
        let mut meta = ObjectMeta::default();
        assert!(ExecutionPlan::counts(&meta));
        meta.owner_references = Some(vec![OwnerReference::default()]);
        assert!(!ExecutionPlan::counts(&meta));
    }
}
