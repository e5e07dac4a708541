//! Deleting what cannot come back.

use crate::stage::{Cluster, Stage, digest, workload};
use countersign::api::{CommandPhase, PlanPhase, RiskLevel};
use kube::ResourceExt;
use serde_json::json;

#[tokio::test]
async fn all_production_databases_go_only_when_two_others_say_so() {
    let stage = Stage::on(Cluster::shared(), Some("production")).await;
    let mut orders = workload("StatefulSet", "orders-db", "postgres:17", 1);
    orders["spec"]["volumeClaimTemplates"] = json!([{ "metadata": { "name": "data" },
        "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } } }]);
    stage.apply(&[
        orders,
        workload("StatefulSet", "users-db", "mysql:8.4", 1),
        workload("StatefulSet", "queue", "rabbitmq:4", 1),
    ]);
    stage.run("checkout", "nginx:1.27", 1).await;

    let command = stage.ask("delete all production databases").await;
    let plan = stage.awaiting(&command).await;
    assert_eq!(plan.spec.risk.level, RiskLevel::Critical);
    assert_eq!(plan.spec.steps.len(), 2, "{:?}", plan.spec.steps);
    assert_eq!(plan.status.as_ref().unwrap().approval_count.as_deref(), Some("0/2"));
    let screen = stage.plugin("bob", &["show", &plan.name_any()]).unwrap();
    assert!(screen.contains("CRITICAL") && screen.contains("delete all production databases"), "{screen}");

    let alice = stage.approve("alice", &plan).unwrap_err();
    assert!(alice.contains("forbidden"), "{alice}");
    // Not even with the right to approve.
    let grant = ["create", "rolebinding", "alice-too", "--clusterrole=countersign-approver", "--user=alice"];
    stage.kubectl("admin", &grant, None).unwrap();
    stage
        .eventually("refused because alice asked herself", async || {
            stage.approve("alice", &plan).unwrap_err().contains("somebody else has to approve it")
        })
        .await;
    let other = format!("sha256:{}", "0".repeat(64));
    let wrong = stage.plugin("bob", &["approve", &plan.name_any(), "--yes", "--digest", &other]).unwrap_err();
    assert!(wrong.contains(&digest(&plan)), "{wrong}");
    let forged = json!({ "apiVersion": "countersign.dev/v1alpha1", "kind": "PlanApproval", "metadata": { "name": "forged" },
        "spec": { "plan": plan.name_any(), "digest": other, "decision": "Approve" } });
    let forged = stage.kubectl("bob", &["create", "-f", "-"], Some(&forged.to_string())).unwrap_err();
    assert!(forged.contains("read the plan again"), "{forged}");

    stage.approve("bob", &plan).unwrap();
    stage
        .until("1/2", &plan.name_any(), |plan: &countersign::api::ExecutionPlan| {
            let count = plan.status.as_ref().and_then(|status| status.approval_count.clone());
            if count.as_deref() == Some("1/2") { crate::stage::Look::There } else { crate::stage::Look::NotYet }
        })
        .await;
    assert!(
        stage.approve("bob", &plan).is_err()
            || stage.field(&format!("plan/{}", plan.name_any()), "{.status.phase}") == "AwaitingApproval"
    );
    stage.field("statefulset/orders-db", "{.metadata.name}");

    stage.approve("carol", &plan).unwrap();
    stage.command(&command, CommandPhase::Succeeded).await;
    stage.plan(&plan.name_any(), PlanPhase::Succeeded).await;
    assert_eq!(
        stage.kubectl("admin", &["get", "statefulsets,deployments", "-o", "name"], None).unwrap(),
        "statefulset.apps/queue\ndeployment.apps/checkout\n"
    );
    let history = stage.plugin("bob", &["history", &plan.name_any()]).unwrap();
    assert!(history.contains("alice") && history.contains("bob") && history.contains("carol"), "{history}");
}

#[tokio::test]
async fn a_deletion_comes_back_when_a_later_step_fails() {
    let stage = Stage::set().await;
    stage.run("old", "nginx:1.27", 1).await;
    stage.run("checkout", "nginx:1.27", 1).await;
    let command = stage.ask("delete deployment old and then set the image of checkout to nginx:broken").await;
    let plan = stage.awaiting(&command).await;
    stage.approve("bob", &plan).unwrap();
    stage.command(&command, CommandPhase::RolledBack).await;
    stage.ready("old").await;
    assert_eq!(stage.field("deployment/checkout", "{..image}"), "nginx:1.27");
}
