use super::context::{Context, Error, while_doing};
use super::namespaces::AsOf;
use super::notice::notice;
use crate::api::{
    ConditionType, ExecutionPlan, ExecutionPlanSpec, FINISHED_LABEL, PlanPhase, PlanPolicy, RiskLevel, condition,
    set_condition,
};
use crate::cluster::{WATCH_PAUSE, watch_backoff};
use crate::plan::policy::{Amount, CompiledPolicy, PlanFacts, Spending, Verdict, judge};
use crate::plan::{Namespace, StepEffect};
use futures::StreamExt;
use futures::channel::mpsc;
use k8s_openapi::jiff::{Timestamp, tz::TimeZone};
use kube::api::{Api, DynamicObject, ListParams, PostParams};
use kube::core::Selector;
use kube::core::discovery::ApiResource;
use kube::runtime::WatchStreamExt;
use kube::runtime::controller::Action;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, ResourceExt};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// How many finished plans are read at a time when a month is added up.
const PAGE: u32 = 500;

/// How long to wait before the policies are listed again after they were refused. Everything waits for them.
const PAUSE: Duration = Duration::from_secs(5);

/// How often a policy that selects no namespace is looked at again: namespaces are not watched.
const LOOK_FOR_NAMESPACES: Duration = Duration::from_secs(300);

/// The policies of the cluster, compiled once each time that one changes.
pub(super) struct Policies {
    known: RwLock<Known>,
}

enum Known {
    /// Not read yet, or not any more: the words say why, if there is a reason.
    Unread(Option<String>),
    Read(BTreeMap<String, Arc<CompiledPolicy>>),
}

/// What the policies say, or that nobody knows what they say: then nothing may run.
pub(super) enum Judged {
    Verdict(Box<Verdict>),
    /// The policies are being read for the first time.
    NotYet,
    /// They cannot be read.
    Unreadable(String),
}

impl Default for Policies {
    fn default() -> Self {
        Self { known: RwLock::new(Known::Unread(None)) }
    }
}

impl Policies {
    /// Keeps the policies up to date for as long as it is polled. Each change is told to `changed`.
    pub async fn follow(&self, client: Client, mut changed: mpsc::Sender<()>) {
        // Not by type: one policy that cannot be read must not hide the others.
        let policies: Api<DynamicObject> = Api::all_with(client, &ApiResource::erase::<PlanPolicy>(&()));
        loop {
            let mut events =
                watcher(policies.clone(), watcher::Config::default()).backoff(watch_backoff(WATCH_PAUSE)).boxed();
            let mut listed = BTreeMap::new();
            while let Some(event) = events.next().await {
                match event {
                    Ok(event) => self.note(event, &mut listed, &mut changed),
                    Err(error) => {
                        tracing::warn!(%error, "the policies cannot be watched, trying again");
                        match &error {
                            // Taken up where it was.
                            watcher::Error::WatchError(_) | watcher::Error::WatchFailed(_) => {}
                            // What changes meanwhile is not seen. A watch that comes back would not say so; a list does.
                            watcher::Error::InitialListFailed(_)
                            | watcher::Error::WatchStartFailed(_)
                            | watcher::Error::NoResourceVersion => {
                                self.forget(&error);
                                break;
                            }
                        }
                    }
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn note(
        &self,
        event: Event<DynamicObject>,
        listed: &mut BTreeMap<String, Arc<CompiledPolicy>>,
        changed: &mut mpsc::Sender<()>,
    ) {
        if let Event::InitApply(object) = event {
            listed.insert(object.name_any(), compiled(object));
            return;
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        match (event, &mut *known) {
            (Event::Init, _) => {
                listed.clear();
                return;
            }
            (Event::InitDone, known) => *known = Known::Read(std::mem::take(listed)),
            (Event::Apply(object), Known::Read(policies)) => {
                policies.insert(object.name_any(), compiled(object));
            }
            (Event::Delete(object), Known::Read(policies)) => {
                policies.remove(&object.name_any());
            }
            (Event::Apply(_) | Event::Delete(_) | Event::InitApply(_), _) => {}
        }
        drop(known);
        // A message that is already waiting serves: whoever reads it judges by the newest.
        let _ = changed.try_send(());
    }

    fn forget(&self, error: &watcher::Error) {
        let reason = match error {
            watcher::Error::InitialListFailed(kube::Error::Api(status))
            | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.message.clone(),
            other => other.to_string(),
        };
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = Known::Unread(Some(reason));
    }

    /// Whether the policies are known; if not, why.
    pub fn read(&self) -> Result<(), String> {
        let unread = |reason: Option<String>| reason.unwrap_or_else(|| "they are being read".to_owned());
        self.current().map(|_| ()).map_err(unread)
    }

    /// Whether some policy has a budget for each month, as far as is known.
    pub fn count_months(&self) -> bool {
        self.current().map_or(true, |known| known.iter().any(|policy| policy.counts_months()))
    }

    fn current(&self) -> Result<Vec<Arc<CompiledPolicy>>, Option<String>> {
        match &*self.known.read().unwrap_or_else(PoisonError::into_inner) {
            Known::Read(policies) => Ok(policies.values().cloned().collect()),
            Known::Unread(reason) => Err(reason.clone()),
        }
    }
}

fn compiled(object: DynamicObject) -> Arc<CompiledPolicy> {
    let name = object.name_any();
    Arc::new(match object.try_parse::<PlanPolicy>() {
        Ok(policy) => CompiledPolicy::new(&policy),
        Err(error) => CompiledPolicy::unreadable(&name, &error.to_string()),
    })
}

/// What the policies say to a plan of `namespace` now, by namespaces as new as `as_of`. Those of `held_by` matched it before,
/// and still do if they exist.
pub(super) async fn verdict(
    spec: &ExecutionPlanSpec,
    namespace: &str,
    risk: RiskLevel,
    effects: &[StepEffect],
    held_by: &[String],
    as_of: AsOf<'_>,
    context: &Context,
) -> Result<Judged, Error> {
    let policies = match context.policies.current() {
        Ok(policies) => policies,
        Err(None) => return Ok(Judged::NotYet),
        Err(Some(reason)) => return Ok(Judged::Unreadable(reason)),
    };
    let namespaces = if policies.is_empty() { Arc::default() } else { context.namespaces(as_of).await? };
    let costs = spec.estimate.as_ref().is_some_and(|estimate| estimate.monthly_cost.is_some());
    let spent = if costs && policies.iter().any(|policy| policy.counts_months()) {
        spent_this_month(&namespaces, context).await?
    } else {
        Vec::new()
    };
    let facts = PlanFacts::new(spec, risk, namespace, &namespaces, &spent).with_effects(effects).held_by(held_by);
    Ok(Judged::Verdict(Box::new(judge(&policies, &facts, Some(context.cluster.now())))))
}

/// What the plans cost that were carried out since the first of the month (UTC).
async fn spent_this_month(namespaces: &[Namespace], context: &Context) -> Result<Vec<Spending>, Error> {
    let plans: Api<ExecutionPlan> = Api::all(context.client.clone());
    let mut spent = Vec::new();
    let mut page = ListParams::default().labels(FINISHED_LABEL).limit(PAGE);
    loop {
        let list = plans.list(&page).await.map_err(while_doing("adding up what the plans of this month cost"))?;
        for plan in &list.items {
            if !counts_this_month(plan, context.cluster.now()) {
                continue;
            }
            let Some(estimate) = &plan.spec.estimate else { continue };
            let (Some(cost), Some(currency)) = (&estimate.monthly_cost, &estimate.currency) else { continue };
            let Some(amount) = Amount::parse(cost) else { continue };
            let name = plan.namespace().unwrap_or_default();
            let known = namespaces.iter().find(|namespace| namespace.name == name).cloned();
            let namespace = known.unwrap_or(Namespace { name, labels: BTreeMap::new() });
            spent.push(Spending { namespace, amount, currency: currency.clone() });
        }
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(spent),
        }
    }
}

/// Whether what a plan costs is part of what was spent since the first of the month (UTC).
pub(super) fn counts_this_month(plan: &ExecutionPlan, now: Timestamp) -> bool {
    let month = |at: Timestamp| at.to_zoned(TimeZone::UTC).date().first_of_month();
    let costs = plan.spec.estimate.as_ref().is_some_and(|estimate| estimate.monthly_cost.is_some());
    let Some(status) = plan.status.as_ref().filter(|_| costs) else { return false };
    let finished = status.finished_at.as_ref().map(|time| month(time.0));
    status.phase == Some(PlanPhase::Succeeded) && finished == Some(month(now))
}

/// Compiles a policy, tries its examples and writes down whether it can be used.
pub(super) async fn reconcile(policy: Arc<PlanPolicy>, context: Arc<Context>) -> Result<Action, Error> {
    if policy.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let compiled = CompiledPolicy::new(&policy);
    let faults: Vec<String> = compiled.faults().iter().map(ToString::to_string).collect();
    let ready = faults.is_empty();
    let idle = ready && selects_nothing(&policy, &context).await?;
    let (reason, mut message) = match (ready, compiled.examples().len()) {
        (false, _) => (compiled.faults()[0].reason(), faults.join("; ")),
        (true, 0) => ("Compiled", "in force; it has no examples".to_owned()),
        (true, 1) => ("ExamplesPass", "in force; its example passes".to_owned()),
        (true, count) => ("ExamplesPass", format!("in force; all {count} examples pass")),
    };
    if idle {
        message.push_str("; no namespace has the labels that it selects");
    }
    let next = if idle { Action::requeue(LOOK_FOR_NAMESPACES) } else { Action::await_change() };
    let generation = policy.metadata.generation;
    let before = policy.status.clone().unwrap_or_default();
    let mut status = before.clone();
    status.observed_generation = generation;
    set_condition(&mut status.conditions, ConditionType::Ready, ready, reason, &message, generation);
    set_condition(&mut status.conditions, ConditionType::Stalled, !ready, reason, &message, generation);
    if status == before {
        return Ok(next);
    }
    let said = condition(&before.conditions, ConditionType::Ready).map(|known| known.message.clone());
    let policies: Api<PlanPolicy> = Api::all(context.client.clone());
    let mut updated = (*policy).clone();
    updated.status = Some(status);
    policies
        .replace_status(&policy.name_any(), &PostParams::default(), &updated)
        .await
        .map_err(while_doing("writing a policy's status"))?;
    if said.as_deref() != Some(message.as_str()) {
        notice(&context, policy.as_ref(), !ready, reason, "Compile", &message);
    }
    Ok(next)
}

/// Whether no namespace is selected today: more often a slip than a precaution, and nothing else would tell.
async fn selects_nothing(policy: &PlanPolicy, context: &Context) -> Result<bool, Error> {
    let selector = policy.spec.namespace_selector.clone().and_then(|selector| Selector::try_from(selector).ok());
    let Some(selector) = selector else { return Ok(false) };
    let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(context.client.clone());
    let first = ListParams::default().labels_from(&selector).limit(1);
    let found = namespaces.list_metadata(&first).await.map_err(while_doing("looking for a policy's namespaces"))?;
    Ok(found.items.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(name: &str, spec: &serde_json::Value) -> DynamicObject {
        let object = json!({ "apiVersion": "countersign.dev/v1alpha1", "kind": "PlanPolicy", "metadata": { "name": name }, "spec": spec });
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn policies_are_known_from_a_whole_list_on_and_forgotten_with_the_right_to_read_them() {
        let policies = Policies::default();
        let (mut changed, mut told) = mpsc::channel(1);
        let mut listed = BTreeMap::new();
        let mut note = |event| policies.note(event, &mut listed, &mut changed);
        let names = || policies.current().map(|known| known.iter().map(|p| p.name().to_owned()).collect::<Vec<_>>());
        note(Event::Init);
        note(Event::InitApply(object("a", &json!({}))));
        assert_eq!(names(), Err(None));
        assert!(told.try_recv().is_err());
        note(Event::InitDone);
        note(Event::Apply(object("b", &json!({ "automation": "Sometimes" }))));
        assert_eq!(names(), Ok(vec!["a".to_owned(), "b".to_owned()]));
        assert!(told.try_recv().is_ok());
        let unreadable = &policies.current().unwrap()[1];
        assert_eq!(unreadable.faults()[0].reason(), "Unreadable");
        note(Event::Delete(object("a", &json!({}))));
        assert_eq!(names(), Ok(vec!["b".to_owned()]));
        policies.forget(&watcher::Error::NoResourceVersion);
        assert!(policies.read().unwrap_err().contains("resourceVersion"));
        // What comes late does not stand for the whole.
        note(Event::Apply(object("c", &json!({}))));
        assert!(policies.read().is_err());
    }
}
