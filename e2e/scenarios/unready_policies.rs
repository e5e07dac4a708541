//! Policies that cannot be used, or not be read: nothing runs because of that.

use crate::policies::{Policy, says};
use crate::stage::{Cluster, Stage};
use countersign::api::{CommandPhase, PlanPolicy};
use kube::api::Api;
use serde_json::{Value, json};

/// Everything is held back by the first and goes on with the second.
async fn held_back_until_repaired(what: &str, broken: Value, reason: &str, sentence: &str, repaired: Value) {
    let stage = Stage::for_tests().await;
    stage.run("checkout", "nginx:1.27", 2).await;
    let (policy, said) = Policy::try_out(&stage, what, broken).await;
    assert!(!said.ready && said.reason == reason && said.message.contains(sentence), "{said:?}");
    policy.event(&stage, reason, sentence).await;
    let command = stage.ask("scale checkout to 5").await;
    let plan = stage.command(&command, CommandPhase::AwaitingApproval).await.status.unwrap().plan.unwrap().name;
    let held = format!(
        "held back by policy {}: it is not Ready and holds back every plan that it matches: {sentence}",
        policy.name
    );
    says(&stage, &plan, &held).await;
    assert_eq!(stage.field("deployment/checkout", "{.spec.replicas}"), "2");
    let said = policy.change(repaired).await;
    assert!(said.ready, "{said:?}");
    stage.command(&command, CommandPhase::Succeeded).await;
    assert_eq!(stage.field("deployment/checkout", "{.spec.replicas}"), "5");
}

#[tokio::test]
async fn a_wrong_expression_holds_back_what_it_would_judge() {
    let constraint = |expression: &str| json!({ "constraints": [{ "name": "few", "expression": expression, "message": "too many steps" }] });
    let broken = constraint("plan.steps.size( <= 3");
    let repaired = constraint("plan.steps.size() <= 3");
    held_back_until_repaired("expression", broken, "InvalidExpression", "constraint few: ", repaired).await;
}

#[tokio::test]
async fn an_example_that_fails_is_named() {
    let with_example = |verdict: &str| {
        json!({
            "quotas": { "replicasAdded": 10 },
            "examples": [{
                "name": "eleven are too many", "risk": "low", "expect": { "verdict": verdict },
                "operation": { "patch": {
                    "target": { "apiVersion": "apps/v1", "kind": "Deployment", "namespace": "shop", "name": "checkout" },
                    "type": "merge", "body": { "spec": { "replicas": 11 } } } },
            }]
        })
    };
    let sentence = "example eleven are too many: ";
    held_back_until_repaired("example", with_example("Allow"), "ExampleFailed", sentence, with_example("Deny")).await;
}

#[tokio::test]
async fn times_that_no_schema_can_judge_are_told_in_the_condition() {
    let freeze = |schedule: &str| json!({ "freezes": [{ "schedule": schedule, "duration": "1h" }] });
    let sentence = "freezes[0]: schedule '61 25 * * *' is no cron expression";
    // The 29th of February is years off, and it does come.
    held_back_until_repaired("times", freeze("61 25 * * *"), "InvalidTime", sentence, freeze("0 0 29 2 *")).await;
    let stage = Stage::for_tests().await;
    let never = json!({ "windows": [{ "schedule": "0 0 31 2 *", "duration": "1h" }] });
    let (_policy, said) = Policy::try_out(&stage, "never", never).await;
    assert!(!said.ready && said.message.contains("windows[0]: schedule '0 0 31 2 *' never comes"), "{said:?}");
}

#[tokio::test]
async fn an_expression_that_fails_on_a_plan_makes_that_plan_wait() {
    let stage = Stage::for_tests().await;
    stage.run("checkout", "nginx:1.27", 2).await;
    let constraint = |expression: &str| json!({ "constraints": [{ "name": "cheap", "expression": expression, "message": "too dear" }] });
    let policy = Policy::set(&stage, "absent", constraint("double(plan.estimate.monthlyCost) < 10.0")).await;
    let command = stage.ask("scale checkout to 5").await;
    let plan = stage.command(&command, CommandPhase::AwaitingApproval).await.status.unwrap().plan.unwrap().name;
    says(
        &stage,
        &plan,
        &format!("held back by policy {}: constraint cheap cannot be evaluated for this plan", policy.name),
    )
    .await;
    let guarded = "!has(plan.estimate.monthlyCost) || double(plan.estimate.monthlyCost) < 10.0";
    assert!(policy.change(constraint(guarded)).await.ready);
    stage.command(&command, CommandPhase::Succeeded).await;
}

#[tokio::test]
async fn a_policy_that_selects_nothing_says_so_and_holds_for_nothing() {
    let stage = Stage::for_tests().await;
    stage.run("checkout", "nginx:1.27", 2).await;
    let selector = json!({ "matchLabels": { "kubernetes.io/metadata.name": format!("{}-elsewhere", stage.name) } });
    let spec = json!({ "automation": "ReadOnly", "namespaceSelector": selector });
    let (_policy, said) = Policy::try_out(&stage, "nothing", spec).await;
    assert!(said.ready && said.message.contains("no namespace has the labels that it selects"), "{said:?}");
    let command = stage.ask("scale checkout to 5").await;
    stage.command(&command, CommandPhase::Succeeded).await;
}

/// What a policy that matches everything does is not for a cluster that others use.
#[tokio::test]
async fn as_long_as_the_policies_cannot_be_read_nothing_runs() {
    let cluster = Cluster::start("blind");
    let stage = Stage::on(cluster.0.clone(), Some("test")).await;
    stage.run("checkout", "nginx:1.27", 2).await;

    // A selector that the API server takes and that is none: whom it would spare is unknown, so it spares nobody.
    let spec = json!({ "namespaceSelector": { "matchExpressions": [{ "key": "team", "operator": "Within" }] } });
    let (policy, said) = Policy::try_out(&stage, "selector", spec).await;
    assert!(!said.ready && said.reason == "InvalidSelector", "{said:?}");
    let first = stage.ask("scale checkout to 3").await;
    let plan = stage.command(&first, CommandPhase::AwaitingApproval).await.status.unwrap().plan.unwrap().name;
    says(&stage, &plan, &format!("held back by policy {}: it is not Ready", policy.name)).await;
    let freeze = json!({ "freezes": [{ "schedule": "0 * * * *", "duration": "2h" }] });
    assert!(policy.change(freeze).await.ready);
    says(&stage, &plan, "changes are frozen").await;

    // The operator loses the right to read policies, and its watch is cut: the API server ends the watches of a kind
    // whose definition changes.
    let role = stage.field("clusterrole/countersign-operator", "{.rules}");
    let rules: Vec<Value> = serde_json::from_str(&role).unwrap();
    let blind: Vec<Value> = rules.iter().cloned().map(without_policies).collect();
    let set = |rules: &[Value]| {
        let patch = json!({ "rules": rules }).to_string();
        stage.kubectl("admin", &["patch", "clusterrole", "countersign-operator", "--type=merge", "-p", &patch], None)
    };
    set(&blind).unwrap();
    let operator = "--as=system:serviceaccount:countersign-system:countersign";
    let may = || stage.kubectl("admin", &["auth", "can-i", "list", "planpolicies", "-A", operator], None).is_ok();
    stage.eventually("the operator may not read policies", async || !may()).await;
    let column = json!([{ "op": "add", "path": "/spec/versions/0/additionalPrinterColumns/-",
                          "value": { "name": "Cut", "type": "string", "jsonPath": ".metadata.uid" } }]);
    let cut = ["patch", "crd", "planpolicies.countersign.dev", "--type=json", "-p", &column.to_string()];
    stage.kubectl("admin", &cut, None).unwrap();
    // Each mark on the plan has it judged again.
    let mut round = 0;
    stage
        .eventually("the plan waits because the policies cannot be read", async || {
            round += 1;
            let mark = format!("round={round}");
            stage.kubectl("admin", &["annotate", "--overwrite", "executionplan", &plan, &mark], None).unwrap();
            let message = stage.field(&format!("executionplan/{plan}"), "{.status.message}");
            message.contains(
                "nothing runs as long as the policies cannot be read: planpolicies.countersign.dev is forbidden",
            )
        })
        .await;
    // Nothing that is in force would stop either of them now.
    let policies: Api<PlanPolicy> = Api::all(stage.admin.clone());
    policies.delete(&policy.name, &Default::default()).await.unwrap();
    let second = stage.ask("restart checkout").await;
    stage.kubectl("admin", &["annotate", "--overwrite", "executionplan", &plan, "round=last"], None).unwrap();
    stage
        .eventually("the operator says why the second one is not planned", async || {
            let log = stage.cluster.control(&["operator", "logs", "--tail", "400"]).unwrap();
            log.lines().any(|line| line.contains(&second) && line.contains("policies"))
        })
        .await;
    says(&stage, &plan, "nothing runs as long as the policies cannot be read").await;
    assert_eq!(stage.field("deployment/checkout", "{.spec.replicas} {.metadata.generation}"), "2 1");
    let log = stage.cluster.writes(&stage.name, "deployments", "checkout");
    assert!(log.is_empty(), "{log:?}");

    set(&rules).unwrap();
    stage.command(&first, CommandPhase::Succeeded).await;
    stage.command(&second, CommandPhase::Succeeded).await;
    assert_eq!(stage.field("deployment/checkout", "{.spec.replicas}"), "3");
}

/// A rule of the operator's role without the policies.
fn without_policies(mut rule: Value) -> Value {
    if let Some(resources) = rule["resources"].as_array_mut() {
        resources.retain(|resource| resource != "planpolicies");
    }
    rule
}
