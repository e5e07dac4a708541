//! What policies deny, hold back and ask for. Each holds for the namespace of its scenario alone.

use crate::stage::{Cluster, Look, Stage};
use countersign::api::{CommandPhase, ConditionType, ExecutionPlan, FINISHED_LABEL, PlanPhase, PlanPolicy, condition};
use jiff::{Timestamp, ToSpan, Unit, tz::TimeZone};
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, ListParams};
use kube::runtime::wait::await_condition;
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use std::time::Duration;

/// A policy for the namespace of one scenario. It goes when the scenario ends, in whatever way.
pub struct Policy {
    pub name: String,
    cluster: Cluster,
    admin: Client,
    namespace: String,
}

/// What the operator says of a policy.
#[derive(Debug)]
pub struct Said {
    pub ready: bool,
    pub reason: String,
    pub message: String,
}

impl Policy {
    /// Applies a policy that is in order.
    pub async fn set(stage: &Stage, what: &str, spec: Value) -> Self {
        let (policy, said) = Self::try_out(stage, what, spec).await;
        assert!(said.ready, "{what}: {said:?}");
        policy
    }

    /// Applies a policy, whatever the operator says of it.
    pub async fn try_out(stage: &Stage, what: &str, spec: Value) -> (Self, Said) {
        let policy = Self {
            name: format!("{}-{what}", stage.name),
            cluster: stage.cluster.clone(),
            admin: stage.admin.clone(),
            namespace: stage.name.clone(),
        };
        let said = policy.change(spec).await;
        (policy, said)
    }

    /// Puts another spec in its place and waits until the operator has read it.
    pub async fn change(&self, mut spec: Value) -> Said {
        let own = json!({ "matchLabels": { "kubernetes.io/metadata.name": self.namespace } });
        spec.as_object_mut().unwrap().entry("namespaceSelector").or_insert(own);
        let policy = json!({ "apiVersion": "countersign.dev/v1alpha1", "kind": "PlanPolicy",
                             "metadata": { "name": self.name }, "spec": spec });
        let apply = ["--context", "admin", "apply", "--validate=strict", "-f", "-"];
        self.cluster.run("kubectl", &apply, Some(&policy.to_string())).unwrap_or_else(|error| panic!("{error}"));
        let read = |policy: Option<&PlanPolicy>| {
            policy.is_some_and(|policy| {
                policy.status.as_ref().and_then(|status| status.observed_generation) == policy.metadata.generation
            })
        };
        let policies: Api<PlanPolicy> = Api::all(self.admin.clone());
        let waited = tokio::time::timeout(Duration::from_secs(90), await_condition(policies, &self.name, read)).await;
        let policy = waited.unwrap_or_else(|_| panic!("policy {} is read by nobody", self.name)).unwrap().unwrap();
        let conditions = policy.status.unwrap().conditions;
        let ready = condition(&conditions, ConditionType::Ready).unwrap();
        Said { ready: ready.status == "True", reason: ready.reason.clone(), message: ready.message.clone() }
    }

    /// Waits for an event on it. Those of objects without a namespace are in `default`.
    pub async fn event(&self, stage: &Stage, reason: &str, words: &str) {
        let events: Api<Event> = Api::namespaced(self.admin.clone(), "default");
        let about = ListParams::default().fields(&format!("regarding.name={},reason={reason}", self.name));
        stage
            .eventually(&format!("event '{words}' on policy {}", self.name), async || {
                let found = events.list(&about).await.unwrap().items;
                found.iter().any(|event| event.note.as_deref().is_some_and(|note| note.contains(words)))
            })
            .await;
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        let delete = ["--context", "admin", "delete", "planpolicy", &self.name, "--ignore-not-found", "--wait=false"];
        // It holds nobody else up; the scenario's own failure is the one to tell.
        let _ = self.cluster.run("kubectl", &delete, None);
    }
}

/// Waits until a plan says that.
pub async fn says(stage: &Stage, plan: &str, words: &str) -> ExecutionPlan {
    let look = |plan: &ExecutionPlan| {
        let status = plan.status.clone().unwrap_or_default();
        match status.message {
            Some(message) if message.contains(words) => Look::There,
            _ if status.phase.is_some_and(PlanPhase::is_final) => Look::Never,
            _ => Look::NotYet,
        }
    };
    stage.until(&format!("saying '{words}'"), plan, look).await
}

/// Asks for what is denied, and gives the sentence that alice reads.
async fn denied(stage: &Stage, request: &str) -> String {
    let command = stage.ask(request).await;
    stage.reply(&command, CommandPhase::Denied).await
}

/// A plan by alice's own hand that scales checkout, with more in its spec.
pub fn by_hand(stage: &Stage, name: &str, replicas: u32, more: &Value) -> Value {
    let target = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "namespace": stage.name, "name": "checkout" });
    let mut spec = json!({
        "summary": "Scale checkout", "serviceAccountName": "deployer",
        "steps": [{
            "id": "scale", "title": "Scale checkout", "verify": { "type": "Ready" },
            "operation": { "patch": { "target": target, "type": "merge", "body": { "spec": { "replicas": replicas } } } },
        }]
    });
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    json!({ "apiVersion": "countersign.dev/v1alpha1", "kind": "ExecutionPlan", "metadata": { "name": name }, "spec": spec })
}

fn create(stage: &Stage, object: &Value) {
    stage.kubectl("alice", &["create", "-f", "-"], Some(&object.to_string())).unwrap_or_else(|error| panic!("{error}"));
}

fn replicas(stage: &Stage) -> String {
    stage.field("deployment/checkout", "{.spec.replicas}")
}

#[tokio::test]
async fn where_nothing_may_be_changed_questions_are_answered_and_changes_denied() {
    let stage = Stage::for_tests().await;
    stage.run("checkout", "nginx:1.27", 2).await;
    let policy = Policy::set(&stage, "read-only", json!({ "automation": "ReadOnly" })).await;
    let question = stage.ask("show deployments").await;
    stage.command(&question, CommandPhase::Succeeded).await;
    let reply = denied(&stage, "scale checkout to 5").await;
    let sentence = format!("Denied by policy {}: automation is ReadOnly here: nothing may be changed", policy.name);
    assert!(reply.contains(&sentence), "{reply}");
    assert_eq!(replicas(&stage), "2");
}

#[tokio::test]
async fn of_two_policies_the_strictest_value_of_each_field_holds() {
    let stage = Stage::for_tests().await;
    stage.run("checkout", "nginx:1.27", 2).await;
    let many = Policy::set(&stage, "many", json!({ "approvals": { "low": 2 }, "approvalLifetime": "24h" })).await;
    let few = Policy::set(
        &stage,
        "some",
        json!({ "automation": "Manual", "approvals": { "low": 1 }, "approverGroups": ["approvers"], "approvalLifetime": "1h30m" }),
    )
    .await;
    let command = stage.ask("scale checkout to 5").await;
    let plan = stage.awaiting(&command).await;
    let status = plan.status.clone().unwrap();
    assert_eq!(status.approvals_required, 2);
    let demands: Vec<(&str, Vec<&str>)> = status
        .policies
        .iter()
        .map(|demand| (demand.name.as_str(), demand.asks.iter().map(String::as_str).collect()))
        .collect();
    let wanted = [
        (many.name.as_str(), vec!["2 approvals at low risk", "approvals not older than 24h"]),
        (
            few.name.as_str(),
            vec![
                "at least one approval",
                "1 approval at low risk",
                "approvers in group approvers",
                "approvals not older than 1h30m",
            ],
        ),
        ("built-in", vec!["approval by somebody else than the requester"]),
    ];
    assert_eq!(demands, wanted);
    stage.approve("bob", &plan).unwrap();
    says(&stage, &plan.name_any(), "waits for 1 more approval (1 of 2)").await;
    stage.approve("carol", &plan).unwrap();
    stage.command(&command, CommandPhase::Succeeded).await;
    assert_eq!(replicas(&stage), "5");
}

#[tokio::test]
async fn a_freeze_holds_a_plan_until_the_last_one_is_lifted() {
    let stage = Stage::set().await;
    stage.run("checkout", "nginx:1.27", 2).await;
    let always = json!({ "schedule": "0 * * * *", "duration": "2h", "reason": "inventory" });
    let overlapping = json!({ "schedule": "30 */2 * * *", "duration": "5h", "timeZone": "Europe/Berlin" });
    let policy = Policy::set(&stage, "freeze", json!({ "freezes": [always, overlapping] })).await;
    let command = stage.ask("scale checkout to 5").await;
    let plan = stage.awaiting(&command).await;
    stage.approve("bob", &plan).unwrap();
    let held = format!(
        "approved by bob; held back by policy {0}: changes are frozen (inventory) without end; policy {0}: changes are \
         frozen without end",
        policy.name
    );
    says(&stage, &plan.name_any(), &held).await;
    assert!(policy.change(json!({ "freezes": [overlapping] })).await.ready);
    says(&stage, &plan.name_any(), &format!("held back by policy {}: changes are frozen without end", policy.name))
        .await;
    assert_eq!(replicas(&stage), "2");
    drop(policy);
    stage.command(&command, CommandPhase::Succeeded).await;
    assert_eq!(replicas(&stage), "5");
}

#[tokio::test]
async fn a_plan_begins_by_itself_when_a_window_opens() {
    let stage = Stage::for_tests().await;
    stage.run("checkout", "nginx:1.27", 2).await;
    // The next minute that leaves time to see the plan wait, in a zone whose clock is not on the hour.
    let opens = (Timestamp::now() + 25.seconds()).round(Unit::Minute).unwrap();
    let opens = if opens < Timestamp::now() + 25.seconds() { opens + 1.minute() } else { opens };
    let local = opens.to_zoned(TimeZone::get("Asia/Kolkata").unwrap());
    let soon = json!({ "schedule": local.strftime("%-M %-H %-d %-m *").to_string(), "duration": "1h",
                       "timeZone": "Asia/Kolkata", "reason": "the quiet hour" });
    let half_a_year_off = (Timestamp::now() + (24 * 182).hours()).to_zoned(TimeZone::UTC);
    let far = json!({ "schedule": half_a_year_off.strftime("0 0 %-d %-m *").to_string(), "duration": "4h" });
    let policy = Policy::set(&stage, "window", json!({ "windows": [far, soon] })).await;
    let command = stage.ask("scale checkout to 5").await;
    let plan = stage.command(&command, CommandPhase::AwaitingApproval).await.status.unwrap().plan.unwrap().name;
    let when = local.strftime("%F %R %Z");
    let message = format!(
        "held back by policy {}: outside of its change windows; the next opens at {when} (the quiet hour)",
        policy.name
    );
    says(&stage, &plan, &message).await;
    assert_eq!(replicas(&stage), "2");
    stage.command(&command, CommandPhase::Succeeded).await;
    let plan = stage.plan(&plan, PlanPhase::Succeeded).await;
    let began = plan.status.unwrap().started_at.unwrap().0;
    assert!(began.as_second() >= opens.as_second(), "began at {began}, before {opens}");
    assert_eq!(replicas(&stage), "5");
}

#[tokio::test]
async fn overlapping_windows_are_one() {
    let stage = Stage::for_tests().await;
    stage.run("checkout", "nginx:1.27", 2).await;
    // The hours of Kolkata begin at half past those of UTC: one of the two is always open.
    let windows = json!([
        { "schedule": "0 * * * *", "duration": "45m" },
        { "schedule": "0 * * * *", "duration": "45m", "timeZone": "Asia/Kolkata" },
    ]);
    let _policy = Policy::set(&stage, "windows", json!({ "windows": windows })).await;
    let command = stage.ask("scale checkout to 5").await;
    stage.command(&command, CommandPhase::Succeeded).await;
}

#[tokio::test]
async fn rules_deny_with_their_justification() {
    let stage = Stage::for_tests().await;
    stage.run("checkout", "nginx:1.27", 2).await;
    stage.apply(&[json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "settings" } })]);
    let deny = json!({ "effect": "Deny", "kinds": ["configmap"], "verbs": ["delete"], "names": ["set*"],
                       "justification": "settings are deleted by hand" });
    let policy = Policy::set(&stage, "rules", json!({ "rules": [deny] })).await;
    let reply = denied(&stage, "delete configmap settings").await;
    let sentence = format!(
        "Denied by policy {}: a rule denies delete ConfigMap {}/settings: settings are deleted by hand",
        policy.name, stage.name
    );
    assert!(reply.contains(&sentence), "{reply}");

    let allow =
        json!({ "effect": "Allow", "apiGroups": ["apps"], "kinds": ["Deployment"], "namespaces": [stage.name] });
    assert!(policy.change(json!({ "rules": [allow] })).await.ready);
    let reply = denied(&stage, "delete configmap settings").await;
    assert!(reply.contains(&format!("no rule allows delete ConfigMap {}/settings", stage.name)), "{reply}");
    stage.field("configmap/settings", "{.metadata.name}");
    let command = stage.ask("scale checkout to 3").await;
    stage.command(&command, CommandPhase::Succeeded).await;
}

#[tokio::test]
async fn quotas_bound_what_one_plan_changes() {
    let stage = Stage::for_tests().await;
    stage.run("checkout", "nginx:1.27", 4).await;
    stage.apply(&[json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "settings" } })]);
    let quotas = json!({ "steps": 1, "objectsDeleted": 0, "replicasAdded": 2, "blastRadiusPercent": 50 });
    let policy = Policy::set(&stage, "quotas", json!({ "quotas": quotas })).await;
    let share = format!("the share of the workload that patch Deployment {}/checkout takes away is 75 %", stage.name);
    for (request, sentence) in [
        ("set the image of checkout to nginx:1.28 and then scale checkout to 5", "the number of steps is 2, at most 1"),
        ("delete configmap settings", "the number of deleted objects is 1, at most 0"),
        ("scale checkout to 7", "the number of added replicas is 3, at most 2"),
        ("scale checkout to 1", share.as_str()),
    ] {
        let reply = denied(&stage, request).await;
        assert!(reply.contains(&format!("Denied by policy {}: {sentence}", policy.name)), "{request}: {reply}");
    }
    assert_eq!(replicas(&stage), "4");
    // A plan that says itself from how many it starts is not believed.
    let invented = json!([{ "path": "spec.replicas", "from": 6, "to": 7 }]);
    let mut plan = by_hand(&stage, "invented", 7, &json!({}));
    plan["spec"]["steps"][0]["diff"] = invented;
    create(&stage, &plan);
    let message = stage.plan("invented", PlanPhase::Denied).await.status.unwrap().message.unwrap();
    assert!(message.contains("the number of added replicas is 3, at most 2"), "{message}");
    for (request, left) in [("scale checkout to 6", "6"), ("scale checkout to 3", "3")] {
        let command = stage.ask(request).await;
        stage.command(&command, CommandPhase::Succeeded).await;
        assert_eq!(replicas(&stage), left);
    }
}

#[tokio::test]
async fn budgets_hold_for_each_plan_and_for_the_month() {
    let stage = Stage::for_tests().await;
    stage.run("checkout", "nginx:1.27", 2).await;
    let budget = json!({ "perCommand": "40", "perMonth": "50.50", "currency": "EUR" });
    let policy = Policy::set(&stage, "budget", json!({ "budget": budget })).await;
    let costs = |cost: &str, currency: &str| json!({ "estimate": { "monthlyCost": cost, "currency": currency } });
    let ends = async |name: &str, replicas: u32, cost: &Value, phase: PlanPhase| {
        create(&stage, &by_hand(&stage, name, replicas, cost));
        stage.plan(name, phase).await.status.unwrap().message.unwrap_or_default()
    };
    let message = ends("dear", 9, &costs("40.01", "EUR"), PlanPhase::Denied).await;
    let sentence = format!(
        "denied by policy {}: the plan adds 40.01 EUR a month, one plan may add at most 40.00 EUR",
        policy.name
    );
    assert_eq!(message, sentence);
    ends("fair", 3, &costs("30", "EUR"), PlanPhase::Succeeded).await;
    let counted = |plan: &ExecutionPlan| {
        if plan.labels().contains_key(FINISHED_LABEL) { Look::There } else { Look::NotYet }
    };
    stage.until("counted", "fair", counted).await;
    let message = ends("one-too-many", 4, &costs("20.51", "EUR"), PlanPhase::Denied).await;
    assert!(
        message.contains("the plan adds 20.51 EUR a month, and of the month's 50.50 EUR 30.00 are spent"),
        "{message}"
    );
    ends("last", 4, &costs("20.50", "EUR"), PlanPhase::Succeeded).await;
    // What is saved is always welcome, what cannot be compared waits, and what nobody knows passes.
    ends("less", 3, &costs("-5", "EUR"), PlanPhase::Succeeded).await;
    create(&stage, &by_hand(&stage, "foreign", 9, &costs("1", "USD")));
    says(&stage, "foreign", "held back by policy").await;
    says(&stage, "foreign", "the budget is in EUR, the plan's cost in USD").await;
    ends("unknown", 4, &json!({}), PlanPhase::Succeeded).await;
    assert_eq!(replicas(&stage), "4");
}

#[tokio::test]
async fn a_constraint_denies_with_its_own_message() {
    let stage = Stage::for_tests().await;
    stage.run("checkout", "nginx:1.27", 2).await;
    let constraint = json!({
        "name": "small-steps",
        "expression": "plan.steps.all(s, !has(s.operation.patch) || !has(s.operation.patch.body.spec) \
                       || s.operation.patch.body.spec.replicas <= 4) && plan.requestedBy.username == 'alice'",
        "message": "more than four replicas take a word with the people who pay for them",
    });
    let policy = Policy::set(&stage, "constraint", json!({ "constraints": [constraint] })).await;
    let reply = denied(&stage, "scale checkout to 5").await;
    let sentence = "more than four replicas take a word with the people who pay for them";
    assert!(reply.contains(&format!("Denied by policy {}: {sentence}", policy.name)), "{reply}");
    let command = stage.ask("scale checkout to 4").await;
    stage.command(&command, CommandPhase::Succeeded).await;
    assert_eq!(replicas(&stage), "4");
}

#[tokio::test]
async fn plans_from_requests_are_watched_as_long_as_policy_asks() {
    let stage = Stage::for_tests().await;
    stage.run("checkout", "nginx:1.27", 2).await;
    let _policy = Policy::set(&stage, "observe", json!({ "observe": { "for": "2s" } })).await;
    let command = stage.ask("scale checkout to 3").await;
    let status = stage.command(&command, CommandPhase::Succeeded).await.status.unwrap();
    let plan = stage.plan(&status.plan.unwrap().name, PlanPhase::Succeeded).await;
    assert_eq!(Duration::from(plan.spec.observe.unwrap().duration), Duration::from_secs(2));
    let status = plan.status.unwrap();
    let watched = status.finished_at.unwrap().0.as_second() - status.verified_at.unwrap().0.as_second();
    assert!(watched >= 2, "watched for {watched} s");
    create(&stage, &by_hand(&stage, "unwatched", 4, &json!({})));
    let message = stage.plan("unwatched", PlanPhase::Denied).await.status.unwrap().message.unwrap();
    assert!(message.contains("policy asks to watch the workloads for 2s after the last step"), "{message}");
    create(&stage, &by_hand(&stage, "watched", 4, &json!({ "observe": { "for": "3s" } })));
    stage.plan("watched", PlanPhase::Succeeded).await;
}

#[tokio::test]
async fn two_hundred_policies_are_judged_together() {
    /// Takes them all away again.
    struct Away<'s>(&'s Stage);
    impl Drop for Away<'_> {
        fn drop(&mut self) {
            let label = format!("scenario={}", self.0.name);
            let _ = self.0.kubectl("admin", &["delete", "planpolicies", "-l", &label, "--wait=false"], None);
        }
    }
    let stage = Stage::for_tests().await;
    stage.run("checkout", "nginx:1.27", 2).await;
    let operator = stage.cluster.control(&["operator", "pid"]).unwrap();
    let policies: Vec<Value> = (0..200)
        .map(|number| {
            json!({
                "apiVersion": "countersign.dev/v1alpha1", "kind": "PlanPolicy",
                "metadata": { "name": format!("{}-{number}", stage.name), "labels": { "scenario": stage.name } },
                "spec": {
                    "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": stage.name } },
                    "approvals": { "low": number % 3 },
                    "windows": [{ "schedule": format!("{} * * * *", number % 60), "duration": "61m" }],
                    "rules": [{ "effect": "Deny", "names": [format!("forbidden-{number}-*")] }],
                    "quotas": { "steps": 1 + number },
                    "constraints": [{ "name": "few", "expression": format!("plan.steps.size() < {}", 2 + number), "message": "too many" }],
                }
            })
        })
        .collect();
    let away = Away(&stage);
    stage.apply(&policies);
    let all: Api<PlanPolicy> = Api::all(stage.admin.clone());
    let label = format!("scenario={}", stage.name);
    stage
        .eventually("all of them ready", async || {
            let found = all.list(&ListParams::default().labels(&label)).await.unwrap().items;
            let is_ready = |policy: &&PlanPolicy| {
                let conditions = policy.status.as_ref().map(|status| &status.conditions);
                conditions.and_then(|known| condition(known, ConditionType::Ready)).is_some_and(|c| c.status == "True")
            };
            found.iter().filter(is_ready).count() == 200
        })
        .await;
    let command = stage.ask("scale checkout to 5").await;
    let plan = stage.awaiting(&command).await;
    let status = plan.status.clone().unwrap();
    assert_eq!(status.approvals_required, 2);
    assert_eq!(status.policies.iter().filter(|demand| demand.name.starts_with(&stage.name)).count(), 200);
    stage.approve("bob", &plan).unwrap();
    stage.approve("carol", &plan).unwrap();
    stage.command(&command, CommandPhase::Succeeded).await;
    assert_eq!(stage.cluster.control(&["operator", "pid"]).unwrap(), operator);
    drop(away);
}
