//! A bare client that makes the calls that a command cannot do without, one after the other, and nothing else.
//!
//! It writes the same kinds of objects as countersign does, marked as finished from the start, so that the operator leaves
//! them alone. docs/benchmarks.md lists the calls.

use crate::stage::{OPERATOR_NAMESPACE, Stage};
use countersign::api::{AgentCommand, ExecutionPlan, FIELD_MANAGER, FINISHED_LABEL, PlanApproval};
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, ResourceExt};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A client as the operator's own account, or as a service account that the operator impersonates.
pub async fn as_operator(stage: &Stage, impersonated: Option<&str>) -> Client {
    let file = stage.cluster.kubeconfig.parent().unwrap().join("operator/0.kubeconfig");
    let kubeconfig = Kubeconfig::read_from(file).unwrap();
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    config.auth_info.impersonate = impersonated.map(|name| format!("system:serviceaccount:{}:{name}", stage.name));
    Client::try_from(config).unwrap()
}

/// The bare client.
pub struct Bare {
    operator: Client,
    account: Client,
    bob: Client,
    namespace: String,
    command: AgentCommand,
    plan: ExecutionPlan,
}

impl Bare {
    /// A client for the stage's namespace, which writes what a real command and its plan look like when they are done.
    pub async fn new(stage: &Stage, command: &AgentCommand, plan: &ExecutionPlan) -> Self {
        let account = json!({ "kind": "ServiceAccount", "name": "countersign", "namespace": OPERATOR_NAMESPACE });
        // A bare client has no requester, so it writes the command itself.
        stage.apply(&[
            json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": { "name": "bare" },
                    "rules": [{ "apiGroups": ["countersign.dev"], "resources": ["agentcommands"], "verbs": ["create"] }] }),
            json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": { "name": "bare" },
                    "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "bare" }, "subjects": [account] }),
        ]);
        // Approvals are only let in where there are plans.
        let parked = json!({
            "apiVersion": "countersign.dev/v1alpha1", "kind": "ExecutionPlan", "metadata": { "name": "parked" },
            "spec": { "summary": "Nothing", "serviceAccountName": "deployer", "risk": { "level": "low", "reasons": [] }, "approvalsRequired": 1,
                      "steps": [{ "id": "look", "title": "Look", "tool": "manual",
                                  "operation": { "wait": { "target": { "apiVersion": "v1", "kind": "ServiceAccount",
                                      "namespace": stage.name, "name": "deployer" }, "until": "Ready" } } }] },
        });
        stage.apply(&[parked]);
        Self {
            operator: as_operator(stage, None).await,
            account: as_operator(stage, Some("deployer")).await,
            bob: stage.cluster.client("bob").await,
            namespace: stage.name.clone(),
            command: command.clone(),
            plan: plan.clone(),
        }
    }

    /// One command from its beginning to its end. Gives the milliseconds until its plan could be approved, and all of them.
    pub async fn carry_out(&self, name: &str) -> (f64, f64) {
        let namespace = self.namespace.as_str();
        let commands: Api<AgentCommand> = Api::namespaced(self.operator.clone(), namespace);
        let plans: Api<ExecutionPlan> = Api::namespaced(self.operator.clone(), namespace);
        let approvals: Api<PlanApproval> = Api::namespaced(self.bob.clone(), namespace);
        let secrets: Api<Secret> = Api::namespaced(self.operator.clone(), OPERATOR_NAMESPACE);
        let targets: Api<ConfigMap> = Api::namespaced(self.account.clone(), namespace);
        let (mut command, mut plan) = (self.command.clone(), self.plan.clone());
        let (command_status, plan_status) = (command.status.take(), plan.status.take());
        for metadata in [&mut command.metadata, &mut plan.metadata] {
            metadata.name = Some(name.to_owned());
            metadata.namespace = Some(namespace.to_owned());
            metadata.labels = Some(BTreeMap::from([(FINISHED_LABEL.to_owned(), "1".to_owned())]));
            metadata.resource_version = None;
            metadata.uid = None;
            metadata.owner_references = None;
            metadata.managed_fields = None;
            metadata.finalizers = None;
        }
        let target = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name },
                             "data": { "LOG_LEVEL": "debug" } });
        let digest = plan_status.as_ref().and_then(|status| status.digest.clone()).unwrap_or_default();
        let write = PostParams::default();
        let apply = PatchParams::apply(FIELD_MANAGER).force();

        let begun = std::time::Instant::now();
        let mut command = commands.create(&write, &command).await.unwrap();
        self.review(
            json!({ "verb": "use", "resource": "serviceaccounts", "namespace": namespace, "name": "deployer" }),
        )
        .await;
        self.review(json!({ "verb": "create", "resource": "configmaps", "namespace": namespace })).await;
        targets.get_opt(name).await.unwrap();
        targets.patch(name, &apply.clone().dry_run(), &Patch::Apply(&target)).await.unwrap();
        let mut plan = plans.create(&write, &plan).await.unwrap();
        plan.status.clone_from(&plan_status);
        let mut plan = plans.replace_status(name, &write, &plan).await.unwrap();
        command.status.clone_from(&command_status);
        let mut command = commands.replace_status(name, &write, &command).await.unwrap();
        let ready = begun.elapsed();
        let approval: PlanApproval = serde_json::from_value(json!({
            "apiVersion": "countersign.dev/v1alpha1", "kind": "PlanApproval", "metadata": { "name": name },
            "spec": { "plan": name, "digest": digest, "decision": "Approve" },
        }))
        .unwrap();
        approvals.create(&write, &approval).await.unwrap();
        targets.get_opt(name).await.unwrap();
        let snapshot = json!({ "apiVersion": "v1", "kind": "Secret", "type": "countersign.dev/snapshot",
                               "metadata": { "name": format!("bare-{}", plan.uid().unwrap()) },
                               "stringData": { "snapshot.json.zst": "x".repeat(200) } });
        let snapshot: Secret = serde_json::from_value(snapshot).unwrap();
        secrets.create(&write, &snapshot).await.unwrap();
        touch(&mut plan.status.as_mut().unwrap().message);
        let mut plan = plans.replace_status(name, &write, &plan).await.unwrap();
        targets.patch(name, &apply, &Patch::Apply(&target)).await.unwrap();
        touch(&mut plan.status.as_mut().unwrap().message);
        plans.replace_status(name, &write, &plan).await.unwrap();
        touch(&mut command.status.as_mut().unwrap().reply);
        commands.replace_status(name, &write, &command).await.unwrap();
        (ready.as_secs_f64() * 1000.0, begun.elapsed().as_secs_f64() * 1000.0)
    }

    async fn review(&self, attributes: Value) {
        let review: SubjectAccessReview = serde_json::from_value(
            json!({ "spec": { "user": "alice", "groups": ["developers"], "resourceAttributes": attributes } }),
        )
        .unwrap();
        Api::<SubjectAccessReview>::all(self.operator.clone()).create(&PostParams::default(), &review).await.unwrap();
    }
}

/// A status that is written as it was is not written at all.
fn touch(text: &mut Option<String>) {
    text.get_or_insert_default().push('.');
}
