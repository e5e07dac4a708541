//! An operator whose clock is hours off: the time of day is wrong, lengths of time are right.

use crate::matrix::Ground;
use crate::operator::{Oddities, Operator};
use crate::plans::{Run, Scenario, create, eventually};
use countersign::api::{
    ApprovalVerdict, ConditionType, Decision, ExecutionPlan, ExecutionPlanStatus, PlanApproval, PlanApprovalSpec,
    PlanPhase, PlanPolicy, condition_is_true,
};
use futures::future::join_all;
use k8s_openapi::jiff::tz::TimeZone;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(120);

/// What policy says about time, and what has to come of it by the API server's clock.
#[derive(Clone, Copy, Debug)]
enum Case {
    /// An approval that is good for an hour counts.
    LifetimeLasts,
    /// One that is good for three seconds ceases to.
    LifetimeEnds,
    /// A plan that nobody approves within three seconds expires.
    DeadlineEnds,
    /// It began ten minutes ago and lasts an hour.
    Freeze,
    Window,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn terms_of_time_go_by_the_clock_of_the_api_server() {
    let ground = Ground::prepare("terms", 0).await;
    ground.operator.revive(false).await;
    ground.operator.end().await;
    ground.operator.runs(false).await;
    for (name, clock) in [("ahead", 3), ("behind", -3)] {
        let oddities = Oddities { clock, ..Oddities::default() };
        let operator = Operator::start_odd(&ground.cluster.0, name, ground.proxy.address(), oddities).await;
        let cases = [Case::LifetimeLasts, Case::LifetimeEnds, Case::DeadlineEnds, Case::Freeze, Case::Window];
        let ends = join_all(cases.map(|case| case.play(&ground, name))).await;
        for (case, end) in cases.iter().zip(ends) {
            println!("| clock {clock:+} h | {case:?} | {end} |");
        }
        operator.revive(false).await;
        operator.end().await;
        operator.runs(false).await;
    }
}

impl Case {
    /// What the policy asks for beside nothing.
    fn policy(self) -> Value {
        let begun = (Timestamp::now() - SignedDuration::from_mins(10)).to_zoned(TimeZone::UTC);
        let open = json!([{ "schedule": begun.strftime("%-M %-H * * *").to_string(), "duration": "1h" }]);
        let need = |need: u32| json!({ "low": need, "medium": need, "high": need, "critical": need });
        match self {
            Self::LifetimeLasts => json!({ "approvals": need(1), "approvalLifetime": "1h", "approvalDeadline": "2h" }),
            Self::LifetimeEnds => json!({ "approvals": need(2), "approvalLifetime": "3s" }),
            Self::DeadlineEnds => json!({ "approvals": need(1), "approvalDeadline": "3s" }),
            Self::Freeze => json!({ "freezes": open }),
            Self::Window => json!({ "windows": open }),
        }
    }

    /// Runs a plan under it, and gives how that went.
    async fn play(self, ground: &Ground, prefix: &str) -> String {
        let admin = ground.admin().await;
        let namespace = format!("{prefix}-{self:?}").to_lowercase();
        let mut run = Run::set_up(&ground.cluster.0, Scenario::Fifty, namespace.clone()).await;
        let role =
            json!({ "kind": "ClusterRole", "name": "countersign-approver", "apiGroup": "rbac.authorization.k8s.io" });
        let approvers = json!({ "kind": "Group", "name": "approvers", "apiGroup": "rbac.authorization.k8s.io" });
        let binding = json!({ "metadata": { "name": "approve" }, "roleRef": role, "subjects": [approvers] });
        create(&admin, Some(&namespace), "rbac.authorization.k8s.io/v1", "RoleBinding", binding).await;
        let mut spec = self.policy();
        spec["automation"] = json!("Full");
        spec["namespaceSelector"] = json!({ "matchLabels": { "kubernetes.io/metadata.name": namespace } });
        let policy = json!({ "metadata": { "name": namespace }, "spec": spec });
        create(&admin, None, "countersign.dev/v1alpha1", "PlanPolicy", policy).await;
        let policies: Api<PlanPolicy> = Api::all(admin.clone());
        eventually("the policy is ready", || async {
            let status = policies.get(&namespace).await.ok()?.status?;
            condition_is_true(&status.conditions, ConditionType::Ready).then_some(())
        })
        .await;
        let change = json!({ "patch": { "type": "merge", "body": { "data": { "value": "2" } }, "target": {
            "apiVersion": "v1", "kind": "ConfigMap", "namespace": namespace, "name": "a" } } });
        run.plan(vec![json!({ "id": "a", "title": "a", "operation": change })]).await;
        match self {
            Self::LifetimeLasts => {
                approve(ground, &namespace).await;
                let end = run.ended(PATIENCE).await;
                assert_eq!(end.phase, Some(PlanPhase::Succeeded), "{self:?}: {}", end.message);
                "approved, Succeeded".to_owned()
            }
            Self::LifetimeEnds => {
                approve(ground, &namespace).await;
                let status = status(&admin, &namespace, "the approval of bob has expired", |status| {
                    let ignored = status.approvals.iter().find(|known| known.verdict == ApprovalVerdict::Ignored);
                    ignored.is_some_and(|known| known.message.as_ref().is_some_and(|text| text.contains("expired")))
                });
                status.await.message.unwrap_or_default()
            }
            Self::DeadlineEnds => {
                let end = run.ended(PATIENCE).await;
                assert_eq!(end.phase, Some(PlanPhase::Expired), "{self:?}: {}", end.message);
                format!("Expired: {}", end.message)
            }
            Self::Freeze => {
                let held = status(&admin, &namespace, "held back, or begun", |status| {
                    let told = status.message.as_ref().is_some_and(|message| message.contains("held back"));
                    told || status.started_at.is_some()
                })
                .await;
                assert!(held.started_at.is_none(), "begun within a freeze: {held:?}");
                policies.delete(&namespace, &DeleteParams::default()).await.unwrap();
                let end = run.ended(PATIENCE).await;
                assert_eq!(end.phase, Some(PlanPhase::Succeeded), "{self:?}: {}", end.message);
                format!("{}; lifted: Succeeded", held.message.unwrap_or_default())
            }
            Self::Window => {
                let end = run.ended(PATIENCE).await;
                assert_eq!(end.phase, Some(PlanPhase::Succeeded), "{self:?}: {}", end.message);
                "Succeeded".to_owned()
            }
        }
    }
}

/// Bob reads the plan and approves it.
async fn approve(ground: &Ground, namespace: &str) {
    let admin = ground.admin().await;
    let waits = status(&admin, namespace, "a digest to approve", |status| {
        status.phase == Some(PlanPhase::AwaitingApproval) && status.digest.is_some()
    });
    let digest = waits.await.digest.unwrap_or_default();
    let approvals: Api<PlanApproval> = Api::namespaced(ground.cluster.0.client("bob").await, namespace);
    let spec =
        PlanApprovalSpec { plan: "ask".to_owned(), digest, decision: Decision::Approve, reason: None, approver: None };
    approvals.create(&PostParams::default(), &PlanApproval::new("bob", spec)).await.unwrap();
}

/// The plan's status, once it looks like that.
async fn status(
    admin: &Client,
    namespace: &str,
    what: &str,
    look: impl Fn(&ExecutionPlanStatus) -> bool,
) -> ExecutionPlanStatus {
    let plans: Api<ExecutionPlan> = Api::namespaced(admin.clone(), namespace);
    eventually(&format!("{namespace}: {what}"), || async {
        plans.get("ask").await.ok()?.status.filter(|status| look(status))
    })
    .await
}
