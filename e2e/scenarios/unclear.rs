//! Requests that are not clear get a question, never a guess.

use crate::stage::{Stage, workload};
use countersign::api::{CommandPhase, ExecutionPlan};
use serde_json::json;

#[tokio::test]
async fn a_missing_number_is_asked_for_and_the_answer_goes_on() {
    let stage = Stage::for_tests().await;
    stage.run("checkout", "nginx:1.27", 2).await;
    let command = stage.ask("scale checkout").await;
    let status = stage.command(&command, CommandPhase::NeedsClarification).await.status.unwrap();
    let questions = status.interpretation.unwrap().clarifying_questions;
    assert!(questions[0].contains("how many replicas"), "{questions:?}");
    assert!(stage.api::<ExecutionPlan>().list(&Default::default()).await.unwrap().items.is_empty());
    stage.event(&command, "NeedsClarification").await;

    stage.edit(&command, json!({ "request": "scale checkout to 4" })).await;
    let status = stage.command(&command, CommandPhase::Succeeded).await.status.unwrap();
    assert_eq!(status.observed_generation, Some(2));
    assert_eq!(stage.field("deployment/checkout", "{.spec.replicas}"), "4");
}

#[tokio::test]
async fn two_objects_of_one_name_are_both_offered() {
    let stage = Stage::for_tests().await;
    stage.run("checkout", "nginx:1.27", 2).await;
    stage.apply(&[workload("StatefulSet", "checkout", "nginx:1.27", 2)]);
    let command = stage.ask("scale checkout to 5").await;
    let status = stage.command(&command, CommandPhase::NeedsClarification).await.status.unwrap();
    let reply = status.reply.unwrap();
    assert!(reply.to_lowercase().contains("deployment") && reply.to_lowercase().contains("statefulset"), "{reply}");
    assert_eq!(stage.field("deployment/checkout", "{.spec.replicas}"), "2");
    stage.edit(&command, json!({ "request": "scale statefulset checkout to 5" })).await;
    stage.command(&command, CommandPhase::Succeeded).await;
    assert_eq!(stage.field("statefulset/checkout", "{.spec.replicas}"), "5");
}

#[tokio::test]
async fn gibberish_is_asked_back() {
    let stage = Stage::set().await;
    let command = stage.ask("florble the wizzbang").await;
    let reply = stage.reply(&command, CommandPhase::NeedsClarification).await;
    assert!(reply.contains('?'), "{reply}");
}
