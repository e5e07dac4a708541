//! Requests that change something and get there.

use crate::stage::{Look, OPERATOR_NAMESPACE, Stage, digest};
use countersign::api::{
    AgentCommand, CommandPhase, ConditionType, ExecutionPlan, FINISHED_LABEL, PlanPhase, RiskLevel, SNAPSHOT_FINALIZER,
    StepState, condition_is_true,
};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, Service};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams};

/// Asks, has bob approve the plan if it waits, and sees it done.
async fn done(stage: &Stage, request: &str) -> ExecutionPlan {
    let command = stage.ask(request).await;
    let planned = |command: &AgentCommand| match command.status.as_ref().and_then(|status| status.phase) {
        Some(CommandPhase::AwaitingApproval | CommandPhase::Executing | CommandPhase::Succeeded) => Look::There,
        Some(phase) if phase.is_final() || phase == CommandPhase::NeedsClarification => Look::Never,
        _ => Look::NotYet,
    };
    let planned: AgentCommand = stage.until("planned", &command, planned).await;
    if planned.status.unwrap().phase == Some(CommandPhase::AwaitingApproval) {
        let plan = stage.awaiting(&command).await;
        stage.approve("bob", &plan).unwrap();
    }
    let status = stage.command(&command, CommandPhase::Succeeded).await.status.unwrap();
    stage.plan(&status.plan.unwrap().name, PlanPhase::Succeeded).await
}

#[tokio::test]
async fn scaling_in_a_test_environment_runs_by_itself() {
    let stage = Stage::for_tests().await;
    stage.run("checkout", "nginx:1.27", 2).await;
    let command = stage.ask("scale checkout to 5").await;
    let command = stage.command(&command, CommandPhase::Succeeded).await;
    let status = command.status.clone().unwrap();
    assert_eq!(status.observed_generation, Some(1));
    assert_eq!(
        status.reply.as_deref(),
        Some(
            format!("Scale Deployment {}/checkout from 2 to 5 replicas. The step is done and verified.", stage.name)
                .as_str()
        )
    );
    assert_eq!(command.spec.requested_by.as_ref().unwrap().username, "alice");

    let reference = status.plan.unwrap();
    let plan = stage.plan(&reference.name, PlanPhase::Succeeded).await;
    assert_eq!(plan.spec.risk.level, RiskLevel::Low);
    assert_eq!(reference.digest, digest(&plan));
    assert!(reference.digest.starts_with("sha256:") && reference.digest.len() == 71, "{}", reference.digest);
    assert_eq!(plan.owner_references()[0].uid, command.uid().unwrap());
    let stored = plan.status.as_ref().unwrap();
    for condition in [ConditionType::Approved, ConditionType::Executed, ConditionType::Verified, ConditionType::Ready] {
        assert!(condition_is_true(&stored.conditions, condition), "{condition:?}: {:?}", stored.conditions);
    }
    assert!(!condition_is_true(&stored.conditions, ConditionType::Reconciling));
    assert_eq!(stored.progress.as_deref(), Some("1/1"));
    assert_eq!(stored.steps[0].state, StepState::Completed);
    let deployment: Deployment = stage.api().get("checkout").await.unwrap();
    assert_eq!(deployment.spec.unwrap().replicas, Some(5));
    assert_eq!(deployment.status.unwrap().ready_replicas, Some(5));
    assert_eq!(stage.cluster.writes(&stage.name, "deployments", "checkout"), ["patch"]);
    // One plan, and no second attempt.
    assert_eq!(stage.api::<ExecutionPlan>().list(&Default::default()).await.unwrap().items.len(), 1);
    stage.event(&reference.name, "Normal StepCompleted").await;
    stage.event(&command.name_any(), "Normal Succeeded").await;

    // The snapshot is in the operator's namespace, and goes when the plan goes.
    stage
        .until("marked as finished", &reference.name, |plan: &ExecutionPlan| {
            if plan.labels().contains_key(FINISHED_LABEL) { Look::There } else { Look::NotYet }
        })
        .await;
    assert!(plan.finalizers().iter().any(|finalizer| finalizer == SNAPSHOT_FINALIZER));
    let snapshots: Api<Secret> = Api::namespaced(stage.admin.clone(), OPERATOR_NAMESPACE);
    let snapshot = stored.steps[0].snapshot.clone().unwrap();
    assert!(snapshots.get_opt(&snapshot).await.unwrap().is_some());
    stage.api::<ExecutionPlan>().delete(&reference.name, &DeleteParams::default()).await.unwrap();
    stage.gone(&format!("executionplan/{}", reference.name)).await;
    assert!(snapshots.get_opt(&snapshot).await.unwrap().is_none());
}

#[tokio::test]
async fn an_environment_is_as_good_as_the_name_of_its_namespace() {
    let stage = Stage::on(crate::stage::Cluster::shared(), Some("staging")).await;
    stage.run("checkout", "nginx:1.27", 2).await;
    let plan = done(&stage, "double checkout in staging").await;
    assert_eq!(plan.spec.risk.level, RiskLevel::Low);
    assert_eq!(stage.field("deployment/checkout", "{.spec.replicas}"), "4");
}

#[tokio::test]
async fn what_already_is_so_needs_no_plan() {
    let stage = Stage::for_tests().await;
    stage.run("checkout", "nginx:1.27", 2).await;
    let command = stage.ask("scale checkout to 2").await;
    let reply = stage.reply(&command, CommandPhase::Succeeded).await;
    assert!(reply.contains("It already is so"), "{reply}");
    assert!(stage.api::<ExecutionPlan>().list(&Default::default()).await.unwrap().items.is_empty());
}

#[tokio::test]
async fn a_deployment_is_created_exposed_and_given_a_configmap() {
    let stage = Stage::set().await;
    let plan = done(&stage, "deploy nginx:1.27 as web with 2 replicas on port 8080").await;
    assert_eq!(plan.spec.risk.level, RiskLevel::Medium);
    stage.ready("web").await;
    assert_eq!(stage.field("deployment/web", "{.spec.replicas} {..image} {..containerPort}"), "2 nginx:1.27 8080");

    done(&stage, "expose web on port 80").await;
    let service: Service = stage.api().get("web").await.unwrap();
    assert_eq!(service.spec.unwrap().ports.unwrap()[0].port, 80);

    done(&stage, "create configmap settings with color=blue and size=10").await;
    let settings: ConfigMap = stage.api().get("settings").await.unwrap();
    let data = settings.data.unwrap();
    assert_eq!((data["color"].as_str(), data["size"].as_str()), ("blue", "10"));
}

#[tokio::test]
async fn what_an_earlier_step_makes_is_known_after_it() {
    let stage = Stage::set().await;
    stage.allow(&serde_json::json!([
        { "apiGroups": [""], "resources": ["namespaces"], "verbs": ["get", "list", "watch", "create", "patch", "delete"] },
        { "apiGroups": ["apps"], "resources": ["deployments", "replicasets"], "verbs": ["get", "list", "watch", "create", "patch", "delete"] },
        { "apiGroups": [""], "resources": ["pods", "events"], "verbs": ["get", "list", "watch"] },
    ]));
    let new = format!("{}-more", stage.name);
    let command =
        stage.ask(&format!("create namespace {new} and then deploy nginx:1.27 as web in namespace {new}")).await;
    let plan = stage.awaiting(&command).await;
    let [first, second] = plan.spec.steps.as_slice() else { panic!("{:?}", plan.spec.steps) };
    assert_eq!(second.known_after, [first.id.clone()]);
    assert_eq!(second.depends_on, [first.id.clone()]);
    let screen = stage.plugin("bob", &["show", &plan.name_any()]).unwrap();
    assert!(screen.contains(&format!("(known after step {})", first.id)), "{screen}");
    stage.approve("bob", &plan).unwrap();
    stage.command(&command, CommandPhase::Succeeded).await;
    let namespaces: Api<Namespace> = Api::all(stage.admin.clone());
    namespaces.get(&new).await.unwrap();
    let deployments: Api<Deployment> = Api::namespaced(stage.admin.clone(), &new);
    assert_eq!(deployments.get("web").await.unwrap().status.unwrap().ready_replicas, Some(1));
    namespaces.delete(&new, &DeleteParams::default()).await.unwrap();
}

#[tokio::test]
async fn images_resources_and_restarts_reach_the_pods_and_can_be_undone() {
    let stage = Stage::for_tests().await;
    stage.run("checkout", "nginx:1.27", 2).await;
    let plan = done(&stage, "update checkout to image nginx:1.28").await;
    assert_eq!(plan.spec.steps[0].diff.len(), 1);
    assert_eq!(stage.field("deployment/checkout", "{..image}"), "nginx:1.28");

    done(&stage, "give checkout 500m cpu and 256Mi memory").await;
    let resources = stage.field("deployment/checkout", "{..resources}");
    assert!(resources.contains("500m") && resources.contains("256Mi"), "{resources}");

    done(&stage, "restart checkout").await;
    assert!(stage.field("deployment/checkout", "{.spec.template.metadata.annotations}").contains("restartedAt"));

    done(&stage, "roll back checkout to revision 1").await;
    stage.ready("checkout").await;
    assert_eq!(stage.field("deployment/checkout", "{..image}"), "nginx:1.27");
}

#[tokio::test]
async fn two_requests_of_one_session_are_read_together() {
    let stage = Stage::for_tests().await;
    stage.run("checkout", "nginx:1.27", 1).await;
    let session = |spec: &mut countersign::api::AgentCommandSpec| spec.session = Some("monday".into());
    let first = stage.ask_with("scale checkout to 3", session).await;
    stage.command(&first, CommandPhase::Succeeded).await;
    // Turns are ordered by creation, which the API server notes to the second.
    let second = stage.ask_with("make it 5 instead", session).await;
    stage.command(&second, CommandPhase::Succeeded).await;
    assert_eq!(stage.field("deployment/checkout", "{.spec.replicas}"), "5");
}

#[tokio::test]
async fn the_same_request_of_the_same_cluster_has_the_same_digest() {
    let stage = Stage::set().await;
    stage.run("checkout", "nginx:1.27", 2).await;
    stage.ask_as("same", "scale checkout to 5", |_| ()).await;
    let first = stage.awaiting("same").await;
    stage.api::<AgentCommand>().delete("same", &DeleteParams::default()).await.unwrap();
    stage.gone("agentcommand/same").await;
    stage.ask_as("same", "scale checkout to 5", |_| ()).await;
    let second = stage.awaiting("same").await;
    assert_ne!(first.uid(), second.uid());
    assert_eq!(digest(&first), digest(&second));
}

#[tokio::test]
async fn a_finished_plan_is_put_back_on_request() {
    let stage = Stage::for_tests().await;
    stage.run("checkout", "nginx:1.27", 2).await;
    let plan = done(&stage, "scale checkout to 5").await;
    stage.plugin("alice", &["rollback", &plan.name_any(), "--yes"]).unwrap();
    let rolled_back = |plan: &ExecutionPlan| match plan.status.as_ref().and_then(|status| status.phase) {
        Some(PlanPhase::RolledBack) => Look::There,
        Some(PlanPhase::RollbackFailed) => Look::Never,
        _ => Look::NotYet,
    };
    stage.until("put back", &plan.name_any(), rolled_back).await;
    assert_eq!(stage.field("deployment/checkout", "{.spec.replicas}"), "2");
}
