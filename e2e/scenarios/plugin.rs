//! `kubectl approve-plan` as people use it: what waits for whom, and the record of what happened.

use crate::stage::{Look, Stage, digest, workload};
use countersign::api::{CommandPhase, ExecutionPlan, PlanPhase};
use kube::ResourceExt;
use serde_json::{Value, json};

/// A plan that takes two approvals.
async fn critical(stage: &Stage) -> (String, ExecutionPlan) {
    stage.kubectl("admin", &["label", "namespace", &stage.name, "environment=production"], None).unwrap();
    stage.apply(&[workload("StatefulSet", "orders-db", "postgres:17", 1)]);
    let command = stage.ask("delete statefulset orders-db").await;
    let plan = stage.awaiting(&command).await;
    (command, plan)
}

#[tokio::test]
async fn everybody_sees_what_waits_for_them() {
    let stage = Stage::set().await;
    let (_, plan) = critical(&stage).await;
    let name = plan.name_any();
    for approver in ["bob", "carol"] {
        let mine = stage.plugin(approver, &[]).unwrap();
        assert!(mine.contains(&name) && mine.contains("Read and approve it:"), "{mine}");
    }
    let requester = stage.plugin("alice", &[]).unwrap();
    assert!(requester.contains("waits for you") && requester.contains("One waits for others"), "{requester}");
    let all = stage.plugin("alice", &["list"]).unwrap();
    assert!(all.contains(&name) && all.contains("may not"), "{all}");

    stage.approve("bob", &plan).unwrap();
    let once = |plan: &ExecutionPlan| {
        let found = plan.status.as_ref().and_then(|status| status.approval_count.clone());
        if found.as_deref() == Some("1/2") { Look::There } else { Look::NotYet }
    };
    stage.until("approved once", &name, once).await;
    let bob = stage.plugin("bob", &[]).unwrap();
    assert!(!bob.contains("AGE") && bob.contains("One waits for others"), "{bob}");
    let all = stage.plugin("bob", &["list"]).unwrap();
    assert!(all.contains("1/2") && all.contains("approved"), "{all}");
    let carol: Value =
        serde_json::from_str(&stage.plugin("carol", &["list", "--mine", "-o", "json"]).unwrap()).unwrap();
    assert_eq!(carol["items"][0]["metadata"]["name"], name.as_str());
    let shown = stage.plugin("carol", &["show", &name]).unwrap();
    assert!(shown.contains("1 of 2: 1 more needed") && shown.contains("may approve this plan"), "{shown}");
    assert!(shown.contains("Asked for by") && shown.contains("2 approvals at critical risk"), "{shown}");
}

#[tokio::test]
async fn whoever_asked_is_told_why_they_cannot_approve() {
    let stage = Stage::set().await;
    let alice = ["create", "rolebinding", "alice-approves", "--clusterrole=countersign-approver", "--user=alice"];
    stage.kubectl("admin", &alice, None).unwrap();
    let (_, plan) = critical(&stage).await;
    let shown = stage.plugin("alice", &["show", &plan.name_any()]).unwrap();
    assert!(shown.contains("asked for this plan, so somebody else has to approve it"), "{shown}");
    let mine = stage.plugin("alice", &[]).unwrap();
    assert!(mine.contains("No plan in namespace") && mine.contains("One waits for others"), "{mine}");
}

#[tokio::test]
async fn a_plan_by_hand_is_shown_as_the_operator_found_it() {
    let stage = Stage::set().await;
    stage.kubectl("admin", &["label", "namespace", &stage.name, "environment=production"], None).unwrap();
    stage.apply(&[workload("StatefulSet", "orders-db", "postgres:17", 1)]);
    let plan = json!({
        "apiVersion": "countersign.dev/v1alpha1", "kind": "ExecutionPlan", "metadata": { "name": "tidy-up" },
        "spec": { "summary": "Tidy up", "serviceAccountName": "deployer", "risk": { "level": "low", "reasons": [] },
            "steps": [{ "id": "s1", "title": "Remove a leftover", "tool": "manual",
                "operation": { "delete": { "target": { "apiVersion": "apps/v1", "kind": "StatefulSet", "namespace": stage.name, "name": "orders-db" } } },
                "rollback": { "strategy": "Recreate", "reversible": true } }] }
    });
    stage.kubectl("alice", &["create", "-f", "-"], Some(&plan.to_string())).unwrap();
    stage.plan("tidy-up", PlanPhase::AwaitingApproval).await;
    let shown = stage.plugin("bob", &["show", "tidy-up"]).unwrap();
    assert!(shown.contains("CRITICAL by the operator's own assessment; the plan calls itself"), "{shown}");
    assert_eq!(stage.field("plan/tidy-up", "{.status.risk.level}"), "critical");
    let listed = stage.kubectl("bob", &["get", "plan", "tidy-up"], None).unwrap();
    assert!(listed.contains("critical"), "{listed}");
}

#[tokio::test]
async fn the_history_answers_who_what_and_when() {
    let stage = Stage::set().await;
    stage.run("checkout", "nginx:1.27", 2).await;
    let command = stage.ask("scale checkout to 5").await;
    let plan = stage.awaiting(&command).await;
    let name = plan.name_any();
    stage.approve("bob", &plan).unwrap();
    stage.command(&command, CommandPhase::Succeeded).await;
    stage.plugin("alice", &["rollback", &name, "--yes"]).unwrap();
    stage.plugin("bob", &["wait", &name, "--for", "RolledBack", "--timeout", "90s"]).unwrap();
    let history: Value =
        serde_json::from_str(&stage.plugin("bob", &["history", &name, "-o", "json"]).unwrap()).unwrap();
    let entries = history.as_array().unwrap();
    let entry = |who: &str, what: &str| {
        entries
            .iter()
            .find(|entry| entry["who"] == who && entry["what"].as_str().unwrap().contains(what))
            .unwrap_or_else(|| panic!("nothing by {who} about '{what}' in {history:#}"))
    };
    entry("alice", "scale checkout to 5");
    entry("the built-in planner", &digest(&plan));
    entry("bob", "approved");
    let changed = &entry("service account deployer", "changed the cluster")["changes"][0];
    assert_eq!((&changed["path"], &changed["from"], &changed["to"]), (&json!("spec.replicas"), &json!(2), &json!(5)));
    entry("service account deployer", "put back");
    entry("countersign", "RolledBack");
    assert_eq!(stage.field("deployment/checkout", "{.spec.replicas}"), "2");
}
