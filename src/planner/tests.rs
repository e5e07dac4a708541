use super::model::testing::{FakeModel, Reply};
use super::model::tests::{good_answer, input, planner_at, tools};
use super::*;
use crate::api::Intent;
use std::time::Duration;

fn builtin(input: &PlanningInput) -> Draft {
    Draft::question(Intent::Query, input.request.clone(), "Which one?")
}

fn provider(url: &str, fallback: Option<&str>) -> Provider {
    let planner = planner_at(url, |settings| settings.retries = 0);
    Provider { planner: Ok(Arc::new(planner)), fallback: fallback.map(str::to_owned) }
}

fn planners<const N: usize>(providers: [(&str, Provider); N]) -> Planners {
    Planners { builtin, providers: providers.map(|(name, provider)| (name.to_owned(), provider)).into() }
}

async fn proposed(planners: &Planners, first: Option<&str>) -> Proposal {
    propose(&input(), planners, first, &tools()).await
}

#[tokio::test]
async fn without_a_provider_the_builtin_planner_serves() {
    let proposal = proposed(&planners([]), None).await;
    assert_eq!(proposal.draft, builtin(&input()));
    assert_eq!(proposal.proposed_by, Proposer { planner: "builtin".to_owned(), model: None });
    assert_eq!((proposal.usage.model.as_str(), proposal.usage.cost), ("builtin", None));
    assert!(proposal.notes.is_empty());
}

#[tokio::test]
async fn a_provider_that_answers_serves() {
    let server = FakeModel::start([Reply::content(good_answer())]).await;
    let proposal = proposed(&planners([("main", provider(&server.url, None))]), Some("main")).await;
    assert_eq!(proposal.draft.tool_calls.len(), 2);
    let model = Some("small-2026-01".to_owned());
    assert_eq!(proposal.proposed_by, Proposer { planner: "main".to_owned(), model });
    assert_eq!(proposal.usage.prompt_tokens, 1000);
    assert!(proposal.notes.is_empty());
}

#[tokio::test]
async fn who_fails_is_followed_by_its_fallback() {
    let hanging = FakeModel::start([Reply::Hang]).await;
    let server = FakeModel::start([Reply::content(good_answer())]).await;
    let impatient = planner_at(&hanging.url, |settings| {
        (settings.retries, settings.timeout) = (0, Duration::from_millis(50));
    });
    let impatient = Provider { planner: Ok(Arc::new(impatient)), fallback: Some("second".to_owned()) };
    let unusable = Provider {
        planner: Err("cannot be used: Secret 'key' does not exist".to_owned()),
        fallback: Some("spare".to_owned()),
    };
    let planners = planners([("main", impatient), ("second", unusable), ("spare", provider(&server.url, None))]);
    let proposal = proposed(&planners, Some("main")).await;
    assert_eq!(proposal.proposed_by.planner, "spare");
    insta::assert_snapshot!(proposal.notes.join("\n"), @r#"
    Model provider 'main' did not answer within 50ms; model provider 'spare' served.
    Model provider 'second' cannot be used: Secret 'key' does not exist; model provider 'spare' served.
    "#);
}

#[tokio::test]
async fn a_circle_of_fallbacks_ends_at_the_builtin_planner() {
    let server = FakeModel::start([Reply::error(500, "The engine is overloaded")]).await;
    let planners = planners([("one", provider(&server.url, Some("two"))), ("two", provider(&server.url, Some("one")))]);
    let proposal = proposed(&planners, Some("one")).await;
    assert_eq!(proposal.draft, builtin(&input()));
    assert_eq!(server.received().len(), 2);
    insta::assert_snapshot!(proposal.notes.join("\n"), @r#"
    Model provider 'one' failed (HTTP 500: The engine is overloaded); the built-in planner served.
    Model provider 'two' failed (HTTP 500: The engine is overloaded); the built-in planner served.
    "#);
}

#[tokio::test]
async fn a_long_chain_of_fallbacks_ends_at_the_builtin_planner() {
    let names: Vec<String> = (0..20).map(|number| format!("p{number:02}")).collect();
    let chain = names.windows(2).map(|pair| {
        let unusable = Provider { planner: Err("is out of order".to_owned()), fallback: Some(pair[1].clone()) };
        (pair[0].clone(), unusable)
    });
    let planners = Planners { builtin, providers: chain.collect() };
    let proposal = proposed(&planners, Some("p00")).await;
    assert_eq!((proposal.notes.len(), proposal.proposed_by.planner.as_str()), (LONGEST_CHAIN, "builtin"));
}

#[tokio::test]
async fn a_provider_that_does_not_exist_is_named() {
    let proposal = proposed(&planners([]), Some("main")).await;
    assert_eq!(proposal.notes, ["Model provider 'main' does not exist; the built-in planner served."]);
    assert_eq!(proposal.proposed_by.planner, "builtin");
}
