//! Questions are answered on the resource, without a plan.

use crate::stage::{Stage, random};
use countersign::api::{CommandPhase, ExecutionPlan, Mode};
use serde_json::json;

#[tokio::test]
async fn a_question_is_answered_with_a_table() {
    let stage = Stage::set().await;
    stage.run("checkout", "nginx:1.27", 2).await;
    stage.run("payments", "nginx:1.27", 1).await;
    let command = stage.ask("show deployments").await;
    let status = stage.command(&command, CommandPhase::Succeeded).await.status.unwrap();
    let answer = status.answer.unwrap();
    assert_eq!(answer.text, format!("There are 2 deployments in namespace {}.", stage.name));
    let names: Vec<_> =
        answer.rows.iter().map(|row| row.iter().any(|cell| cell == "checkout" || cell == "payments")).collect();
    assert_eq!(names, [true, true], "{answer:?}");
    assert_eq!(answer.columns.len(), answer.rows[0].len());
    assert!(status.plan.is_none());
    assert!(stage.api::<ExecutionPlan>().list(&Default::default()).await.unwrap().items.is_empty());
    assert_eq!(stage.cluster.writes(&stage.name, "deployments", "checkout"), Vec::<String>::new());
}

#[tokio::test]
async fn a_question_about_nothing_says_so() {
    let stage = Stage::set().await;
    let command = stage.ask("how many pods are there?").await;
    let reply = stage.reply(&command, CommandPhase::Succeeded).await;
    assert!(reply.contains("no pods") || reply.contains("0 pods"), "{reply}");
}

#[tokio::test]
async fn kinds_that_nobody_built_in_are_found_by_discovery() {
    let stage = Stage::set().await;
    // A kind of this scenario's own, so that scenarios do not meet.
    let word = format!("widget{}", random());
    let group = format!("{word}.example.com");
    let column = json!({ "name": "Colour", "type": "string", "jsonPath": ".spec.colour" });
    let schema = json!({ "type": "object", "properties": { "spec": { "type": "object", "properties": { "colour": { "type": "string" } } } } });
    stage.apply(&[json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": { "name": format!("{word}s.{group}") },
        "spec": { "group": group, "scope": "Namespaced",
                  "names": { "plural": format!("{word}s"), "singular": word, "kind": "Widget" },
                  "versions": [{ "name": "v1", "served": true, "storage": true, "additionalPrinterColumns": [column],
                                 "schema": { "openAPIV3Schema": schema } }] }
    })]);
    stage.allow(&json!([{ "apiGroups": [group], "resources": ["*"], "verbs": ["*"] }]));
    stage
        .kubectl(
            "admin",
            &["wait", "--for=condition=Established", "crd", &format!("{word}s.{group}"), "--timeout=60s"],
            None,
        )
        .unwrap();
    let widget = json!({ "apiVersion": format!("{group}/v1"), "kind": "Widget", "metadata": { "name": "left" }, "spec": { "colour": "green" } });
    stage
        .eventually("the kind is served", async || {
            stage.kubectl("admin", &["apply", "-f", "-"], Some(&widget.to_string())).is_ok()
        })
        .await;
    // Discovery of a new kind may lag behind by seconds; asking again is what people do.
    let mut answered = None;
    stage
        .eventually("the operator knows the kind", async || {
            let command = stage.ask(&format!("list {word}s")).await;
            let ended = |command: &countersign::api::AgentCommand| {
                let phase = command.status.as_ref().and_then(|status| status.phase);
                if phase.is_some_and(|phase| phase.is_final() || phase == CommandPhase::NeedsClarification) {
                    crate::stage::Look::There
                } else {
                    crate::stage::Look::NotYet
                }
            };
            let command: countersign::api::AgentCommand = stage.until("answered", &command, ended).await;
            answered = command.status.unwrap().answer;
            answered.is_some()
        })
        .await;
    let answer = answered.unwrap();
    assert!(answer.columns.iter().any(|column| column.eq_ignore_ascii_case("colour")), "{answer:?}");
    assert!(answer.rows[0].contains(&"green".to_owned()), "{answer:?}");

    // Deleting one takes the same way as everything else.
    let command = stage.ask(&format!("delete {word} left")).await;
    let plan = stage.awaiting(&command).await;
    stage.approve("bob", &plan).unwrap();
    stage.command(&command, CommandPhase::Succeeded).await;
    stage.kubectl("admin", &["delete", "crd", &format!("{word}s.{group}"), "--wait=false"], None).unwrap();
}

#[tokio::test]
async fn an_object_is_described_with_its_events() {
    let stage = Stage::set().await;
    stage.run("checkout", "nginx:1.27", 2).await;
    let command = stage.ask("describe deployment checkout").await;
    let status = stage.command(&command, CommandPhase::Succeeded).await.status.unwrap();
    let answer = status.answer.unwrap();
    let text = format!("{} {:?}", answer.text, answer.rows);
    assert!(text.contains("checkout") && text.contains("nginx:1.27"), "{text}");
}

#[tokio::test]
async fn infrastructures_are_those_of_the_whole_cluster() {
    let stage = Stage::set().await;
    stage.allow(&json!([{ "apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list"] }]));
    let command = stage.ask("show me all infrastructures").await;
    let status = stage.command(&command, CommandPhase::Succeeded).await.status.unwrap();
    let answer = status.answer.unwrap();
    assert_eq!(answer.rows.len(), 3, "{answer:?}");
}

#[tokio::test]
async fn a_read_only_command_never_changes_anything() {
    let stage = Stage::for_tests().await;
    stage.run("checkout", "nginx:1.27", 2).await;
    let read_only = |spec: &mut countersign::api::AgentCommandSpec| spec.mode = Mode::ReadOnly;
    let command = stage.ask_with("scale checkout to 5", read_only).await;
    let reply = stage.reply(&command, CommandPhase::Denied).await;
    assert!(reply.contains("read-only"), "{reply}");
    let question = stage.ask_with("show deployments", read_only).await;
    stage.command(&question, CommandPhase::Succeeded).await;
    assert_eq!(stage.field("deployment/checkout", "{.spec.replicas}"), "2");
}
