//! A language model proposes; whatever it says, the same code decides, and without it the built-in planner serves.

use crate::model_server::{FakeModel, Reply};
use crate::stage::{Look, OPERATOR_NAMESPACE, Stage};
use countersign::api::{AgentCommand, AgentCommandStatus, CommandPhase, ModelProvider};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::{Value, json};

/// A provider whose server gives this answer, kept for one scenario.
struct Provider {
    server: FakeModel,
    name: String,
    providers: Api<ModelProvider>,
}

impl Provider {
    async fn that_says(stage: &Stage, reply: Reply) -> Self {
        let server = FakeModel::start([reply]).await;
        let name = format!("model-{}", stage.name);
        let key = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name, "namespace": OPERATOR_NAMESPACE }, "stringData": { "apiKey": "sk-of-this-scenario" } });
        stage.cluster.run("kubectl", &["apply", "-f", "-"], Some(&key.to_string())).unwrap();
        let provider: ModelProvider = serde_json::from_value(json!({
            "apiVersion": "countersign.dev/v1alpha1", "kind": "ModelProvider", "metadata": { "name": name },
            "spec": { "baseURL": server.url, "model": "small", "apiKeySecretRef": { "name": name }, "timeout": "1s", "retries": 0 }
        })).unwrap();
        let providers: Api<ModelProvider> = Api::all(stage.admin.clone());
        providers.create(&PostParams::default(), &provider).await.unwrap();
        // The operator knows a provider that has a status.
        stage
            .eventually("the provider is probed", async || {
                let status = providers.get(&name).await.unwrap().status;
                status.is_some_and(|status| status.last_probe.is_some())
            })
            .await;
        Self { server, name, providers }
    }

    /// What became of a request that names the provider.
    async fn ask(&self, stage: &Stage) -> AgentCommandStatus {
        stage.run("checkout", "nginx:1.27", 2).await;
        let command = stage.ask_with("scale checkout to 5", |spec| spec.model_ref = Some(self.name.clone())).await;
        // What a model proposed needs an approval, however harmless it is; what the built-in planner did runs by itself.
        let planned = |command: &AgentCommand| match command.status.as_ref().and_then(|status| status.phase) {
            Some(CommandPhase::AwaitingApproval | CommandPhase::Succeeded) => Look::There,
            Some(phase) if phase.is_final() => Look::Never,
            _ => Look::NotYet,
        };
        let seen: AgentCommand = stage.until("planned", &command, planned).await;
        if seen.status.as_ref().and_then(|status| status.phase) == Some(CommandPhase::AwaitingApproval) {
            let plan = stage.awaiting(&command).await;
            assert!(plan.spec.proposed_by.as_ref().is_some_and(|by| by.model.is_some()));
            stage.approve("bob", &plan).unwrap();
        }
        let status = stage.command(&command, CommandPhase::Succeeded).await.status.unwrap();
        self.providers.delete(&self.name, &DeleteParams::default()).await.unwrap();
        status
    }

    /// The provider says something useless: the built-in planner serves, and the command says why.
    async fn falls_back(self, stage: &Stage, why: &str) {
        let status = self.ask(stage).await;
        let interpretation = status.interpretation.unwrap();
        assert_eq!(interpretation.planner.as_deref(), Some("builtin"));
        let warnings = interpretation.warnings.join("\n");
        let prefix = format!("Model provider '{}' ", self.name);
        assert!(
            warnings.contains(&prefix) && warnings.contains(why) && warnings.contains("the built-in planner served"),
            "{warnings}"
        );
        assert!(!warnings.contains("sk-of-this-scenario"));
        let plan: countersign::api::ExecutionPlan = stage.api().get(&status.plan.unwrap().name).await.unwrap();
        assert_eq!(plan.spec.proposed_by.unwrap().planner, "builtin");
        assert_eq!(stage.field("deployment/checkout", "{.spec.replicas}"), "5");
    }
}

fn draft(calls: &Value) -> String {
    json!({ "intent": "scale", "confidence": 0.95, "interpretation": "Scale checkout to 4 replicas.", "toolCalls": calls,
            "clarifyingQuestions": [], "alternatives": [], "warnings": [], "language": "en" }).to_string()
}

#[tokio::test]
async fn a_good_draft_is_carried_out_and_says_whose_it_is() {
    let stage = Stage::for_tests().await;
    let parameters = json!({ "target": { "name": "checkout" }, "to": 4 });
    let call = json!([{ "id": "c1", "tool": "scale", "parameters": parameters, "dependsOn": [], "why": "asked for" }]);
    let provider = Provider::that_says(&stage, Reply::content(draft(&call))).await;
    let status = provider.ask(&stage).await;
    let usage = status.usage.clone().unwrap();
    assert_eq!((usage.model.as_str(), usage.prompt_tokens, usage.completion_tokens), ("small-2026-01", 1000, 200));
    let plan: countersign::api::ExecutionPlan = stage.api().get(&status.plan.unwrap().name).await.unwrap();
    let proposer = plan.spec.proposed_by.clone().unwrap();
    assert_eq!(
        (proposer.planner.as_str(), proposer.model.as_deref()),
        (provider.name.as_str(), Some("small-2026-01")),
        "{}",
        plan.name_any()
    );
    // The model says 4 where the words say 5: what it proposes is what is planned, and people see that.
    assert_eq!(stage.field("deployment/checkout", "{.spec.replicas}"), "4");
    let calls = provider.server.received();
    let asked = calls.iter().find(|call| call.path.ends_with("/chat/completions")).unwrap();
    assert_eq!(asked.authorization.as_deref(), Some("Bearer sk-of-this-scenario"));
    assert!(asked.said_by("user").contains("scale checkout to 5"));
    assert_eq!(asked.body["response_format"]["type"], "json_schema");
}

#[tokio::test]
async fn a_model_cannot_lower_the_risk_of_what_it_proposes() {
    let stage = Stage::set().await;
    stage.apply(&[crate::stage::workload("StatefulSet", "orders-db", "postgres:17", 1)]);
    let parameters = json!({ "target": { "kind": "statefulset", "name": "orders-db" } });
    let call = json!([{ "id": "c1", "tool": "delete", "parameters": parameters, "dependsOn": [], "why": "harmless" }]);
    let provider = Provider::that_says(&stage, Reply::content(draft(&call))).await;
    let command = stage.ask_with("scale checkout to 5", |spec| spec.model_ref = Some(provider.name.clone())).await;
    let plan = stage.awaiting(&command).await;
    assert_eq!(plan.spec.risk.level, countersign::api::RiskLevel::Critical);
    assert_eq!(plan.spec.approvals_required, 2);
    provider.providers.delete(&provider.name, &DeleteParams::default()).await.unwrap();
}

#[tokio::test]
async fn a_model_that_declines() {
    let stage = Stage::for_tests().await;
    let refusal = json!({ "finish_reason": "stop", "message": { "role": "assistant", "content": null, "refusal": "I will not." } });
    Provider::that_says(&stage, Reply::choice(&refusal)).await.falls_back(&stage, "declined: I will not").await;
}

#[tokio::test]
async fn a_model_that_breaks_off_its_json() {
    let stage = Stage::for_tests().await;
    Provider::that_says(&stage, Reply::content("{\"intent\": \"scale\", "))
        .await
        .falls_back(&stage, "not a draft")
        .await;
}

#[tokio::test]
async fn a_model_that_invents_a_tool() {
    let stage = Stage::for_tests().await;
    let call =
        json!([{ "id": "c1", "tool": "run_shell", "parameters": { "command": "ls" }, "dependsOn": [], "why": "" }]);
    Provider::that_says(&stage, Reply::content(draft(&call)))
        .await
        .falls_back(&stage, "'run_shell', which does not exist")
        .await;
}

#[tokio::test]
async fn a_model_that_never_answers() {
    let stage = Stage::for_tests().await;
    Provider::that_says(&stage, Reply::Hang).await.falls_back(&stage, "did not answer within 1s").await;
}

#[tokio::test]
async fn a_model_that_wants_fewer_calls() {
    let stage = Stage::for_tests().await;
    Provider::that_says(&stage, Reply::error(429, "slow down")).await.falls_back(&stage, "HTTP 429").await;
}

#[tokio::test]
async fn a_model_that_is_not_there() {
    let stage = Stage::for_tests().await;
    stage.run("checkout", "nginx:1.27", 2).await;
    let command = stage.ask_with("scale checkout to 5", |spec| spec.model_ref = Some("nobody".into())).await;
    let status = stage.command(&command, CommandPhase::Succeeded).await.status.unwrap();
    let warnings = status.interpretation.unwrap().warnings.join("\n");
    assert!(warnings.contains("Model provider 'nobody' does not exist; the built-in planner served."), "{warnings}");
}
