//! Requests that go by themselves.

use crate::stage::Stage;
use countersign::api::CommandPhase;
use std::time::Duration;

#[tokio::test]
async fn a_finished_request_goes_with_its_plan_when_its_time_is_over() {
    let stage = Stage::for_tests().await;
    stage.run("checkout", "nginx:1.27", 2).await;
    let short = |spec: &mut countersign::api::AgentCommandSpec| {
        spec.ttl_after_finished = Some(Duration::from_secs(2).into());
    };
    let kept = stage.ask("scale checkout to 4").await;
    stage.command(&kept, CommandPhase::Succeeded).await;
    let command = stage.ask_with("scale checkout to 3", short).await;
    stage.gone(&format!("agentcommand/{command}")).await;
    stage.gone(&format!("executionplan/{command}-1")).await;
    stage.field(&format!("executionplan/{kept}-1"), "{.metadata.name}");
}
