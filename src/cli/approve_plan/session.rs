use super::arguments::Connection;
use super::error::ApprovePlanError;
use super::kubectl::Kubectl;
use super::standing::Standing;
use crate::api::{AgentCommand, COMMAND_LABEL, ExecutionPlan, FINISHED_LABEL, GROUP, PlanApproval, PlanPhase};
use crate::plan::digest::digest;
use futures::{StreamExt, stream};
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use k8s_openapi::api::core::v1::Event;
use kube::api::{ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use std::collections::{BTreeMap, BTreeSet};

/// How many questions about rights are under way at once.
const PARALLEL: usize = 8;

/// A cluster, a namespace, and who one is there.
pub struct Session {
    client: Client,
    /// The namespace in use.
    pub namespace: String,
    /// The plain command that reaches the same.
    pub kubectl: Kubectl,
}

impl Session {
    /// Connects. With `streaming`, answers may take as long as they take.
    ///
    /// # Errors
    /// When there is no usable kubeconfig.
    pub async fn open(connection: &Connection, streaming: bool) -> Result<Self, ApprovePlanError> {
        let mut config = configuration(connection).await?;
        if let Some(user) = &connection.as_user {
            config.auth_info.impersonate = Some(user.clone());
            config.auth_info.impersonate_groups =
                (!connection.as_groups.is_empty()).then(|| connection.as_groups.clone());
        }
        let timeout = (!connection.request_timeout.is_zero()).then_some(connection.request_timeout);
        config.connect_timeout = timeout;
        config.read_timeout = timeout.filter(|_| !streaming);
        let namespace = connection.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).map_err(|error| ApprovePlanError::Client(Box::new(error)))?;
        Ok(Self { client, kubectl: Kubectl::new(connection, &namespace), namespace })
    }

    /// The plans of the namespace.
    #[must_use]
    pub fn plans(&self) -> Api<ExecutionPlan> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The approvals of the namespace.
    #[must_use]
    pub fn approvals(&self) -> Api<PlanApproval> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The plan of that name.
    ///
    /// # Errors
    /// [`ApprovePlanError::NoPlan`], naming the plans that wait, or the server's refusal.
    pub async fn plan(&self, name: &str) -> Result<ExecutionPlan, ApprovePlanError> {
        match self.plans().get_opt(name).await {
            Ok(Some(plan)) => Ok(plan),
            Ok(None) => Err(self.no_plan(name).await?),
            Err(error) => Err(ApprovePlanError::of(format!("read plan {name}"), error)),
        }
    }

    /// Plans; with `all`, finished ones too.
    ///
    /// # Errors
    /// The server's refusal.
    pub async fn list(&self, all_namespaces: bool, all: bool) -> Result<Vec<ExecutionPlan>, ApprovePlanError> {
        let plans = if all_namespaces { Api::all(self.client.clone()) } else { self.plans() };
        let unfinished = ListParams::default().labels(&format!("!{FINISHED_LABEL}"));
        let list = plans.list(&if all { ListParams::default() } else { unfinished }).await;
        let mut plans = list
            .map_err(|error| match ApprovePlanError::of("list plans", error) {
                ApprovePlanError::Refused { message } if all_namespaces => ApprovePlanError::Refused {
                    message: format!("{message}; leave out -A and name a namespace with -n"),
                },
                error => error,
            })?
            .items;
        plans.retain(|plan| all || waits(plan));
        Ok(plans)
    }

    /// The command that a plan came from, if it is still there and may be read.
    pub async fn command(&self, plan: &ExecutionPlan) -> Option<AgentCommand> {
        let name = &plan.spec.command_ref.as_ref()?.name;
        Api::namespaced(self.client.clone(), &self.namespace).get_opt(name).await.ok().flatten()
    }

    /// Events about a plan, as far as they may be read.
    pub async fn events(&self, plan: &ExecutionPlan) -> Vec<Event> {
        let uid = plan.metadata.uid.as_deref().unwrap_or_default();
        let about = ListParams::default().fields(&format!("involvedObject.uid={uid}"));
        let events = Api::<Event>::namespaced(self.client.clone(), &self.namespace).list(&about).await;
        events.map_or_else(|_| Vec::new(), |events| events.items)
    }

    /// Who one is to the API server. `None` where the server does not say (before Kubernetes 1.28, or forbidden).
    pub async fn whoami(&self) -> Option<crate::api::Requester> {
        let review = Api::<SelfSubjectReview>::all(self.client.clone())
            .create(&PostParams::default(), &SelfSubjectReview::default())
            .await
            .ok()?;
        let user = review.status?.user_info?;
        Some(crate::api::Requester { username: user.username?, groups: user.groups.unwrap_or_default() })
    }

    /// What each of these plans has to do with whoever asks, in their order.
    pub async fn standings(&self, plans: &[ExecutionPlan]) -> Vec<Standing> {
        if plans.is_empty() {
            return Vec::new();
        }
        let me = self.whoami().await;
        let place = |plan: &ExecutionPlan| plan.metadata.namespace.clone().unwrap_or_default();
        // Most roles speak of all plans of a namespace; only where they do not, each plan is asked about.
        let namespaces: BTreeSet<String> = plans.iter().map(place).collect();
        let wide: BTreeMap<String, bool> = stream::iter(namespaces)
            .map(async |namespace| {
                let allowed = self.may_approve(&namespace, None).await;
                (namespace, allowed)
            })
            .buffer_unordered(PARALLEL)
            .collect()
            .await;
        let (me, wide) = (me.as_ref(), &wide);
        stream::iter(plans)
            .map(async |plan| {
                let namespace = place(plan);
                let allowed = wide.get(&namespace) == Some(&true)
                    || self.may_approve(&namespace, plan.metadata.name.clone()).await;
                Standing::of(plan, me, allowed)
            })
            .buffered(PARALLEL)
            .collect()
            .await
    }

    /// What one plan has to do with whoever asks, as long as it waits for approval.
    pub async fn standing(&self, plan: &ExecutionPlan) -> Option<Standing> {
        if !waits(plan) {
            return None;
        }
        self.standings(std::slice::from_ref(plan)).await.pop()
    }

    /// Whether one holds the verb `approve` on a plan, or on all of a namespace.
    async fn may_approve(&self, namespace: &str, plan: Option<String>) -> bool {
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(ResourceAttributes {
                    verb: Some("approve".to_owned()),
                    group: Some(GROUP.to_owned()),
                    resource: Some("executionplans".to_owned()),
                    namespace: Some(namespace.to_owned()),
                    name: plan,
                    ..ResourceAttributes::default()
                }),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        };
        let reviews = Api::<SelfSubjectAccessReview>::all(self.client.clone());
        let answer = reviews.create(&PostParams::default(), &review).await;
        answer.ok().and_then(|review| review.status).is_some_and(|status| status.allowed)
    }

    /// The plan's digest, computed from the very spec that is shown.
    ///
    /// # Errors
    /// When it has none, or when the operator's differs.
    pub fn digest(plan: &ExecutionPlan) -> Result<String, ApprovePlanError> {
        let name = || plan.metadata.name.clone().unwrap_or_default();
        let shown = digest(&plan.spec).map_err(|source| ApprovePlanError::Digest { name: name(), source })?;
        match plan.status.as_ref().and_then(|status| status.digest.clone()) {
            Some(status) if status != shown => Err(ApprovePlanError::ForeignDigest { name: name(), shown, status }),
            _ => Ok(shown),
        }
    }

    async fn no_plan(&self, name: &str) -> Result<ApprovePlanError, ApprovePlanError> {
        let plans = self.list(false, true).await?;
        Ok(ApprovePlanError::NoPlan {
            name: name.to_owned(),
            namespace: self.namespace.clone(),
            hint: hint(name, &plans),
        })
    }
}

/// Whether a plan waits for approval.
#[must_use]
pub fn waits(plan: &ExecutionPlan) -> bool {
    plan.status.as_ref().and_then(|status| status.phase) == Some(PlanPhase::AwaitingApproval)
}

/// What there is instead of the plan that was asked for.
fn hint(name: &str, plans: &[ExecutionPlan]) -> String {
    let named = |plan: &ExecutionPlan| plan.metadata.name.clone().unwrap_or_default();
    let of_command: Vec<_> = plans
        .iter()
        .filter(|plan| {
            plan.metadata.labels.as_ref().and_then(|labels| labels.get(COMMAND_LABEL)).is_some_and(|c| c == name)
        })
        .map(named)
        .collect();
    if !of_command.is_empty() {
        return format!("{name} is an AgentCommand, whose plan is {}", of_command.join(", "));
    }
    let waiting: Vec<_> = plans.iter().filter(|plan| waits(plan)).map(named).collect();
    if waiting.is_empty() {
        "no plan waits there".to_owned()
    } else {
        format!("plans waiting there: {}", waiting.join(", "))
    }
}

async fn configuration(connection: &Connection) -> Result<Config, ApprovePlanError> {
    let wrong = |error| ApprovePlanError::Kubeconfig(Box::new(error));
    let file = match &connection.kubeconfig {
        Some(file) => Kubeconfig::read_from(file),
        None => Kubeconfig::read(),
    };
    let options = KubeConfigOptions { context: connection.context.clone(), ..KubeConfigOptions::default() };
    let config = match file {
        Ok(kubeconfig) => Config::from_custom_kubeconfig(kubeconfig, &options).await,
        Err(error) => Err(error),
    };
    // Within a pod there is no kubeconfig, and kubectl works nevertheless.
    let asked_for_one = connection.kubeconfig.is_some() || connection.context.is_some();
    match config {
        Err(_) if !asked_for_one && let Ok(incluster) = Config::incluster() => Ok(incluster),
        config => config.map_err(wrong),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn plan(name: &str, phase: &str) -> ExecutionPlan {
        serde_json::from_value(json!({
            "metadata": { "name": name, "labels": { COMMAND_LABEL: format!("{name}-command") } },
            "spec": { "steps": [] },
            "status": { "phase": phase }
        }))
        .unwrap()
    }

    #[test]
    fn a_wrong_name_is_answered_with_what_is_there() {
        let plans = [plan("a", "AwaitingApproval"), plan("b", "Succeeded"), plan("c", "AwaitingApproval")];
        assert_eq!(hint("x", &plans), "plans waiting there: a, c");
        assert_eq!(hint("b-command", &plans), "b-command is an AgentCommand, whose plan is b");
        assert_eq!(hint("x", &[]), "no plan waits there");
    }

    #[test]
    fn a_status_that_speaks_of_another_spec_is_refused() {
        let mut plan = plan("a", "AwaitingApproval");
        let digest = Session::digest(&plan).unwrap();
        plan.status.as_mut().unwrap().digest = Some(digest.clone());
        assert_eq!(Session::digest(&plan).unwrap(), digest);
        plan.spec.summary = "something else".to_owned();
        assert!(matches!(Session::digest(&plan), Err(ApprovePlanError::ForeignDigest { .. })));
    }
}
