use super::context::{Context, Error, while_doing};
use super::notice::notice;
use crate::api::{ConditionType, ModelProvider, ModelProviderStatus, ProviderProbe, SecretKeyRef, set_condition};
use crate::cluster::redact_text;
use crate::plan::Namespace;
use crate::planner::model::{ModelPlanner, settings};
use crate::planner::{Planners, Provider, builtin};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::api::{Api, PostParams};
use kube::core::{Selector, SelectorExt};
use kube::runtime::controller::Action;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How often a provider is probed while nothing changes.
const PROBE_INTERVAL: Duration = Duration::from_secs(600);
/// How soon a provider that does not answer is probed again.
const RETRY_INTERVAL: Duration = Duration::from_secs(30);

/// The model planners of this process: kept as long as their settings stay the same, because they count their calls.
#[derive(Default)]
pub(super) struct Providers {
    planners: Mutex<HashMap<String, Arc<ModelPlanner>>>,
}

impl Providers {
    /// The planner of one provider, made anew when its settings changed.
    async fn planner(&self, provider: &ModelProvider, context: &Context) -> Result<Arc<ModelPlanner>, String> {
        let key = match &provider.spec.api_key_secret_ref {
            Some(reference) => Some(read_key(reference, context).await?),
            None => None,
        };
        let settings = settings(&provider.spec, key).map_err(|error| format!("cannot be used: {error}"))?;
        let name = provider.name_any();
        let known = self.planners.lock().unwrap_or_else(PoisonError::into_inner).get(&name).cloned();
        if let Some(planner) = known.filter(|planner| *planner.settings() == settings) {
            return Ok(planner);
        }
        let planner = ModelPlanner::new(settings, redact_text).map_err(|error| format!("cannot be used: {error}"))?;
        let planner = Arc::new(planner);
        self.planners.lock().unwrap_or_else(PoisonError::into_inner).insert(name, Arc::clone(&planner));
        Ok(planner)
    }

    /// Everybody who may plan for a command of `namespace`, and the provider to ask first: the one that the command
    /// names, or the default one.
    pub async fn planners(
        &self,
        context: &Context,
        namespace: &Namespace,
        named: Option<&str>,
    ) -> (Planners, Option<String>) {
        let mut known = context.model_providers.get().map(kube::runtime::reflector::Store::state).unwrap_or_default();
        known.sort_by_key(|provider| provider.name_any());
        let default = known.iter().find(|provider| provider.spec.default && admits(provider, namespace));
        let first = named.map(str::to_owned).or_else(|| default.map(|provider| provider.name_any()));
        let mut providers = BTreeMap::new();
        // Without a provider to ask first none is asked, and no Secret is read.
        for provider in known.iter().filter(|_| first.is_some()) {
            let planner = if admits(provider, namespace) {
                self.planner(provider, context).await
            } else {
                Err(format!("may not be used from namespace {}", namespace.name))
            };
            let fallback = provider.spec.fallback.as_ref().and_then(|fallback| fallback.provider.clone());
            providers.insert(provider.name_any(), Provider { planner, fallback });
        }
        (Planners { builtin: builtin::propose, providers }, first)
    }
}

fn admits(provider: &ModelProvider, namespace: &Namespace) -> bool {
    let Some(selector) = provider.spec.namespace_selector.clone() else { return true };
    // A selector that does not parse admits nobody: better no model than one that was not meant for the namespace.
    Selector::try_from(selector).is_ok_and(|selector| selector.matches(&namespace.labels))
}

async fn read_key(reference: &SecretKeyRef, context: &Context) -> Result<String, String> {
    let SecretKeyRef { name, key } = reference;
    let secrets: Api<Secret> = Api::namespaced(context.client.clone(), &context.namespace);
    let secret =
        secrets.get_opt(name).await.map_err(|error| format!("cannot be used: reading Secret {name}: {error}"))?;
    let Some(secret) = secret else {
        return Err(format!("cannot be used: Secret {}/{name} does not exist", context.namespace));
    };
    let value = secret.data.as_ref().and_then(|data| data.get(key));
    let value = value.ok_or_else(|| format!("cannot be used: Secret {}/{name} has no key {key}", context.namespace))?;
    let text = String::from_utf8(value.0.clone());
    text.map(|text| text.trim().to_owned())
        .map_err(|_| format!("cannot be used: key {key} of Secret {name} is not text"))
}

/// Probes a provider and writes down how it does.
pub(super) async fn reconcile(provider: Arc<ModelProvider>, context: Arc<Context>) -> Result<Action, Error> {
    if provider.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let generation = provider.metadata.generation;
    let status = provider.status.clone().unwrap_or_default();
    if let Some(left) = not_due(&status, generation) {
        return Ok(Action::requeue(left));
    }
    let outcome = match context.providers.planner(&provider, &context).await {
        Ok(planner) => planner.probe().await.map_err(|error| error.to_string()),
        Err(reason) => Err(format!("Model provider '{}' {reason}", provider.name_any())),
    };
    let (succeeded, message) = match outcome {
        Ok(message) => (true, message),
        Err(message) => (false, message),
    };
    let was = crate::api::condition_is_true(&status.conditions, ConditionType::Ready);
    let mut status = ModelProviderStatus {
        observed_generation: generation,
        last_probe: Some(ProviderProbe {
            at: Time(k8s_openapi::jiff::Timestamp::now()),
            succeeded,
            message: message.clone(),
        }),
        ..status
    };
    let reason = if succeeded { "Answers" } else { "ProbeFailed" };
    set_condition(&mut status.conditions, ConditionType::Ready, succeeded, reason, &message, generation);
    set_condition(&mut status.conditions, ConditionType::Stalled, !succeeded, reason, &message, generation);
    let providers: Api<ModelProvider> = Api::all(context.client.clone());
    let mut updated = (*provider).clone();
    updated.status = Some(status);
    providers
        .replace_status(&provider.name_any(), &PostParams::default(), &updated)
        .await
        .map_err(while_doing("writing a provider's status"))?;
    if was != succeeded {
        notice(&context, provider.as_ref(), !succeeded, reason, "Probe", &message);
    }
    Ok(Action::requeue(if succeeded { PROBE_INTERVAL } else { RETRY_INTERVAL }))
}

/// How long until the next probe; `None` when it is due. A changed spec is due at once.
fn not_due(status: &ModelProviderStatus, generation: Option<i64>) -> Option<Duration> {
    let probe = status.last_probe.as_ref().filter(|_| status.observed_generation == generation)?;
    let interval = if probe.succeeded { PROBE_INTERVAL } else { RETRY_INTERVAL };
    let age = Duration::try_from(k8s_openapi::jiff::Timestamp::now().duration_since(probe.at.0)).ok()?;
    interval.checked_sub(age).filter(|left| !left.is_zero())
}
