//! What cannot be done is said, once, and nothing is changed.

use crate::stage::{Stage, workload};
use countersign::api::{AgentCommand, CommandPhase, ConditionType, ExecutionPlan, condition};
use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::json;

/// The API server itself refuses to take the request.
async fn not_taken(request: &str, sentence: &str) {
    let stage = Stage::set().await;
    let command = json!({ "apiVersion": "countersign.dev/v1alpha1", "kind": "AgentCommand", "metadata": { "name": "bad" },
        "spec": { "request": request, "serviceAccountName": "deployer" } });
    let said = stage.kubectl("alice", &["create", "-f", "-"], Some(&command.to_string())).unwrap_err();
    assert!(said.contains(sentence), "{said}");
}

/// The request ends in that phase with a reply that holds all of the words, a warning where it failed, no plan, and
/// nobody works on it any more.
async fn refused(stage: &Stage, request: &str, phase: CommandPhase, words: &[&str]) -> AgentCommand {
    let name = stage.ask(request).await;
    ends(stage, &name, phase, words).await
}

async fn ends(stage: &Stage, name: &str, phase: CommandPhase, words: &[&str]) -> AgentCommand {
    let command = stage.command(name, phase).await;
    let status = command.status.clone().unwrap();
    let reply = status.reply.clone().unwrap_or_default();
    for word in words {
        assert!(reply.contains(word), "'{word}' is not in: {reply}");
    }
    let stalled = condition(&status.conditions, ConditionType::Stalled).unwrap();
    assert_eq!((stalled.status.as_str(), stalled.message.as_str()), ("True", reply.as_str()));
    assert!(status.plan.is_none());
    assert!(stage.api::<ExecutionPlan>().list(&ListParams::default()).await.unwrap().items.is_empty());
    let kind = if phase == CommandPhase::NeedsClarification { "Normal" } else { "Warning" };
    stage.event(name, &format!("{kind} {phase}")).await;
    // Another request goes all the way meanwhile; the refused one has not been touched since.
    let marked = |command: &AgentCommand| {
        let finished = command.labels().contains_key(countersign::api::FINISHED_LABEL) || !phase.is_final();
        if finished { crate::stage::Look::There } else { crate::stage::Look::NotYet }
    };
    let settled: AgentCommand = stage.until("settled", name, marked).await;
    let question = stage.ask("list configmaps").await;
    stage.command(&question, CommandPhase::Succeeded).await;
    let later: AgentCommand = stage.api().get(name).await.unwrap();
    assert_eq!(settled.resource_version(), later.resource_version(), "somebody still works on it");
    assert_eq!(stage.events(name).await.len(), 1);
    later
}

#[tokio::test]
async fn an_empty_request() {
    not_taken("  \n ", "request is empty").await;
}

#[tokio::test]
async fn ten_thousand_and_one_characters() {
    not_taken(&"scale checkout to 5 ".repeat(501)[..10_001], "10000").await;
}

#[tokio::test]
async fn control_characters() {
    not_taken("scale checkout\u{1b}[2K to 5", "control characters").await;
}

#[tokio::test]
async fn shell_commands() {
    not_taken("list pods; rm -rf /", "countersign runs no shell").await;
}

#[tokio::test]
async fn an_unknown_kind() {
    let stage = Stage::set().await;
    let name = stage.ask("delete deploymnet/checkout").await;
    let ended = |command: &AgentCommand| match command.status.as_ref().and_then(|status| status.phase) {
        Some(CommandPhase::Failed | CommandPhase::NeedsClarification) => crate::stage::Look::There,
        Some(phase) if phase.is_final() => crate::stage::Look::Never,
        _ => crate::stage::Look::NotYet,
    };
    let phase = stage.until("refused", &name, ended).await.status.unwrap().phase.unwrap();
    ends(&stage, &name, phase, &["deploy"]).await;
}

#[tokio::test]
async fn a_name_that_does_not_exist() {
    let stage = Stage::set().await;
    stage.apply(&[workload("Deployment", "checkout", "nginx:1.27", 2)]);
    refused(&stage, "scale deployment chekout to 5", CommandPhase::Failed, &["chekout", "Did you mean", "checkout"])
        .await;
    assert_eq!(stage.field("deployment/checkout", "{.spec.replicas}"), "2");
}

#[tokio::test]
async fn two_that_match() {
    let stage = Stage::set().await;
    stage.apply(&[
        workload("Deployment", "checkout", "nginx:1.27", 2),
        workload("StatefulSet", "checkout", "nginx:1.27", 2),
    ]);
    refused(&stage, "restart checkout", CommandPhase::NeedsClarification, &["deployment", "statefulset"]).await;
}

#[tokio::test]
async fn a_namespace_that_does_not_exist() {
    let stage = Stage::set().await;
    let near = format!("{}x", stage.name);
    let request = format!("scale deployment checkout to 5 in namespace {near}");
    refused(&stage, &request, CommandPhase::Failed, &[&near, "Did you mean", &stage.name]).await;
}

#[tokio::test]
async fn an_account_without_the_right() {
    let stage = Stage::set().await;
    stage.apply(&[workload("Deployment", "checkout", "nginx:1.27", 2)]);
    stage.kubectl("admin", &["delete", "rolebinding", "work"], None).unwrap();
    stage.kubectl("admin", &["create", "rolebinding", "alice", "--clusterrole=edit", "--user=alice"], None).unwrap();
    stage
        .kubectl(
            "admin",
            &[
                "create",
                "rolebinding",
                "look",
                "--clusterrole=view",
                &format!("--serviceaccount={}:deployer", stage.name),
            ],
            None,
        )
        .unwrap();
    refused(
        &stage,
        "scale deployment checkout to 5",
        CommandPhase::Failed,
        &["patch", "deployments", "deployer", &stage.name],
    )
    .await;
    assert_eq!(stage.field("deployment/checkout", "{.spec.replicas}"), "2");
}

#[tokio::test]
async fn a_requester_without_the_right() {
    let stage = Stage::set().await;
    stage.apply(&[workload("Deployment", "checkout", "nginx:1.27", 2)]);
    stage.kubectl("admin", &["delete", "rolebinding", "work"], None).unwrap();
    stage
        .kubectl(
            "admin",
            &["create", "rolebinding", "alice", "--clusterrole=countersign-requester", "--user=alice"],
            None,
        )
        .unwrap();
    stage
        .kubectl(
            "admin",
            &[
                "create",
                "rolebinding",
                "work",
                "--clusterrole=edit",
                &format!("--serviceaccount={}:deployer", stage.name),
            ],
            None,
        )
        .unwrap();
    let name = stage.ask("scale deployment checkout to 5").await;
    let reply = stage.reply(&name, CommandPhase::Failed).await;
    assert!(
        reply.contains("alice may not list deployments") || reply.contains("alice may not get deployments"),
        "{reply}"
    );
    assert_eq!(stage.field("deployment/checkout", "{.spec.replicas}"), "2");
}

#[tokio::test]
async fn an_image_that_does_not_parse() {
    let stage = Stage::set().await;
    stage.apply(&[workload("Deployment", "checkout", "nginx:1.27", 2)]);
    let name = stage.ask("set the image of checkout to nginx:1.27:latest").await;
    let ended = |command: &AgentCommand| match command.status.as_ref().and_then(|status| status.phase) {
        Some(CommandPhase::Failed | CommandPhase::NeedsClarification) => crate::stage::Look::There,
        Some(phase) if phase.is_final() => crate::stage::Look::Never,
        _ => crate::stage::Look::NotYet,
    };
    let phase = stage.until("refused", &name, ended).await.status.unwrap().phase.unwrap();
    ends(&stage, &name, phase, &["nginx:1.27:latest"]).await;
    assert_eq!(stage.field("deployment/checkout", "{..image}"), "nginx:1.27");
}

#[tokio::test]
async fn a_negative_number_of_replicas() {
    let stage = Stage::set().await;
    stage.apply(&[workload("Deployment", "checkout", "nginx:1.27", 2)]);
    let name = stage.ask("scale checkout to -3").await;
    let ended = |command: &AgentCommand| match command.status.as_ref().and_then(|status| status.phase) {
        Some(CommandPhase::Failed | CommandPhase::NeedsClarification) => crate::stage::Look::There,
        Some(phase) if phase.is_final() => crate::stage::Look::Never,
        _ => crate::stage::Look::NotYet,
    };
    let phase = stage.until("refused", &name, ended).await.status.unwrap().phase.unwrap();
    ends(&stage, &name, phase, &["-3"]).await;
    assert_eq!(stage.field("deployment/checkout", "{.spec.replicas}"), "2");
}

#[tokio::test]
async fn a_huge_number_of_replicas() {
    let stage = Stage::set().await;
    stage.apply(&[workload("Deployment", "checkout", "nginx:1.27", 2)]);
    let name = stage.ask("scale checkout to 5000000").await;
    let ended = |command: &AgentCommand| match command.status.as_ref().and_then(|status| status.phase) {
        Some(CommandPhase::Failed | CommandPhase::NeedsClarification) => crate::stage::Look::There,
        Some(phase) if phase.is_final() => crate::stage::Look::Never,
        _ => crate::stage::Look::NotYet,
    };
    let phase = stage.until("refused", &name, ended).await.status.unwrap().phase.unwrap();
    ends(&stage, &name, phase, &["5000000"]).await;
    assert_eq!(stage.field("deployment/checkout", "{.spec.replicas}"), "2");
}

#[tokio::test]
async fn a_quota_that_is_used_up() {
    let stage = Stage::set().await;
    let quota = json!({ "apiVersion": "v1", "kind": "ResourceQuota", "metadata": { "name": "small" }, "spec": { "hard": { "count/deployments.apps": "1" } } });
    stage.apply(&[quota]);
    stage.run("checkout", "nginx:1.27", 1).await;
    let used = |quota: &k8s_openapi::api::core::v1::ResourceQuota| {
        let used = quota.status.as_ref().and_then(|status| status.used.clone()).unwrap_or_default();
        if used.get("count/deployments.apps").is_some_and(|used| used.0 == "1") {
            crate::stage::Look::There
        } else {
            crate::stage::Look::NotYet
        }
    };
    stage.until("used up", "small", used).await;
    refused(
        &stage,
        "deploy nginx:1.27 as web",
        CommandPhase::Failed,
        &["exceeded quota: small", "count/deployments.apps"],
    )
    .await;
}

#[tokio::test]
async fn a_policy_that_says_no() {
    let stage = Stage::set().await;
    let policy = |kind: &str, spec: serde_json::Value| json!({ "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": { "name": stage.name }, "spec": spec });
    let rule =
        json!({ "apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["deployments"] });
    stage.apply(&[
        policy("ValidatingAdmissionPolicy", json!({
            "matchConstraints": { "resourceRules": [rule] },
            "validations": [{ "expression": "has(object.metadata.labels) && 'team' in object.metadata.labels", "message": "every deployment names its team" }],
        })),
        policy("ValidatingAdmissionPolicyBinding", json!({
            "policyName": stage.name, "validationActions": ["Deny"],
            "matchResources": { "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": stage.name } } },
        })),
    ]);
    stage
        .eventually("the policy is in force", async || {
            stage
                .kubectl("admin", &["create", "deployment", "probe", "--image=nginx", "--dry-run=server"], None)
                .is_err()
        })
        .await;
    refused(&stage, "deploy nginx:1.27 as web", CommandPhase::Failed, &["every deployment names its team"]).await;
}
