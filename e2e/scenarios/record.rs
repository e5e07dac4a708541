//! What can be read afterwards about one plan: on the plan, as events, and in the operator's log.

use crate::stage::{Look, Stage, digest};
use countersign::api::{CommandPhase, ExecutionPlan, PlanPhase, UndoState};
use kube::ResourceExt;
use serde_json::Value;

/// The audit lines about one plan or its command, oldest first.
fn trail(stage: &Stage, command: &str, plan: &str) -> Vec<Value> {
    let log = stage.cluster.control(&["operator", "logs", "--tail", "20000"]).unwrap();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(&line[line.find('{')?..]).ok());
    let is_about =
        |line: &Value| line["namespace"] == stage.name.as_str() && (line["command"] == command || line["plan"] == plan);
    lines.filter(|line| line["target"] == "audit").filter(is_about).collect()
}

#[tokio::test]
async fn one_plan_from_the_request_to_its_rollback() {
    let stage = Stage::set().await;
    stage.run("checkout", "nginx:1.27", 2).await;
    let command = stage.ask("scale checkout to 5").await;
    let plan = stage.awaiting(&command).await;
    let (name, digest) = (plan.name_any(), digest(&plan));
    stage.approve("bob", &plan).unwrap();
    stage.command(&command, CommandPhase::Succeeded).await;
    stage.plugin("alice", &["rollback", &name, "--yes"]).unwrap();
    let put_back = |plan: &ExecutionPlan| match plan.status.as_ref().and_then(|status| status.phase) {
        Some(PlanPhase::RolledBack) => Look::There,
        _ => Look::NotYet,
    };
    let plan = stage.until("put back", &name, put_back).await;

    // On the plan.
    assert_eq!(plan.spec.requested_by.as_ref().unwrap().username, "alice");
    assert_eq!(plan.spec.proposed_by.as_ref().unwrap().planner, "builtin");
    let status = plan.status.unwrap();
    let word = &status.approvals[0];
    assert_eq!((word.approver.as_str(), word.digest.as_deref()), ("bob", Some(digest.as_str())));
    assert!(word.uid.is_some() && word.at.is_some());
    assert_eq!(status.steps[0].undo.as_ref().unwrap().state, UndoState::Done);
    assert!(!plan.spec.steps[0].diff.is_empty());

    // As events.
    for event in [
        "Planned",
        "AwaitingApproval",
        "ApprovalCounted",
        "Approved",
        "StepCompleted",
        "Succeeded",
        "StepRolledBack",
        "RolledBack",
    ] {
        stage.event(&name, &format!(" {event}: ")).await;
    }

    // In the log.
    let told = |line: &Value| {
        let text = |field: &str| line[field].as_str().unwrap_or_default().replace(&stage.name, "NAMESPACE");
        format!("{} {}: {}", text("actor"), text("action"), text("decision"))
    };
    stage
        .eventually("the last line is written", async || {
            let last = ["countersign finished: RolledBack", "alice finished: RolledBack"];
            let read: Vec<String> = trail(&stage, &command, &name).iter().map(told).collect();
            last.iter().all(|last| read.iter().any(|line| line == last))
        })
        .await;
    let lines = trail(&stage, &command, &name);
    // Plan and command end side by side.
    let (plans, commands): (Vec<&Value>, Vec<&Value>) = lines.iter().partition(|line| line["plan"] == name.as_str());
    let read = |lines: &[&Value]| lines.iter().map(|line| told(line)).collect::<Vec<_>>().join("\n");
    insta::assert_snapshot!(read(&commands), @r"
    alice requested: generation 1
    alice finished: Succeeded
    alice finished: RolledBack
    ");
    insta::assert_snapshot!(read(&plans), @r"
    alice proposed: medium
    bob approved: Counted: read and agreed
    countersign begun: approved by bob
    system:serviceaccount:NAMESPACE:deployer executed: Deployment NAMESPACE/checkout
    countersign finished: Succeeded
    alice begun: rollback requested
    system:serviceaccount:NAMESPACE:deployer rolled-back: Deployment NAMESPACE/checkout
    countersign finished: RolledBack
    ");
    let of = |action: &str| lines.iter().find(|line| line["action"] == action).unwrap();
    assert_eq!(
        (&of("proposed")["planner"], &of("proposed")["digest"]),
        (&Value::from("builtin"), &Value::from(digest.as_str()))
    );
    assert_eq!(
        (&of("approved")["digest"], &of("approved")["approval"]),
        (&Value::from(digest.as_str()), &Value::from(word.name.as_str()))
    );
    assert!(plans.iter().all(|line| line["digest"] == digest.as_str()), "{plans:?}");
}
