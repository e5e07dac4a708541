//! The planner as a whole: requests and what they come to.

use super::*;
use crate::api::CommandContext;
use crate::planner::Turn;
use proptest::prelude::*;

/// Requests, each followed by what it comes to, indented: intent, confidence, calls or questions.
const REQUESTS: &str = include_str!("requests.txt");

fn input(request: &str) -> PlanningInput {
    let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect();
    PlanningInput {
        request: request.to_owned(),
        language: None,
        context: CommandContext::default(),
        default_namespace: "default".to_owned(),
        namespaces: words(&["default", "demo", "kube-system", "staging", "team-a"]),
        kinds: words(&[
            "certificate",
            "certificates",
            "cert",
            "certs",
            "configmap",
            "configmaps",
            "cm",
            "deploy",
            "deployment",
            "deployments",
            "namespace",
            "namespaces",
            "no",
            "node",
            "nodes",
            "ns",
            "po",
            "pod",
            "pods",
            "service",
            "services",
            "statefulset",
            "statefulsets",
            "sts",
            "svc",
        ]),
        turns: Vec::new(),
    }
}

/// The draft for the last of several requests of one session.
fn session(requests: &[&str]) -> Draft {
    let mut turns: Vec<Turn> = Vec::new();
    let mut last = None;
    for request in requests {
        let draft = propose(&PlanningInput { turns: turns.clone(), ..input(request) });
        turns.push(Turn { request: (*request).to_owned(), reply: String::new(), draft: Some(draft.clone()) });
        last = Some(draft);
    }
    last.unwrap()
}

/// Intent and calls, or intent and question, in one line.
fn short(draft: &Draft) -> String {
    let call = |call: &ToolCall| {
        let after =
            if call.depends_on.is_empty() { String::new() } else { format!(" after {}", call.depends_on.join(",")) };
        format!("{} {}{after}", call.tool, serde_json::to_string(&call.parameters).unwrap())
    };
    let calls: Vec<String> = draft.tool_calls.iter().map(call).collect();
    let said = if calls.is_empty() { draft.clarifying_questions.join(" | ") } else { calls.join(" + ") };
    format!("{:?} {:.2}: {said}", draft.intent, draft.confidence)
}

fn requests() -> Vec<(&'static str, &'static str)> {
    let lines: Vec<&str> = REQUESTS.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    lines.chunks(2).map(|pair| (pair[0], pair[1].trim())).collect()
}

#[test]
fn requests_come_to_what_they_say() {
    let cases = requests();
    assert!(cases.len() >= 120, "only {} requests", cases.len());
    let wrong: Vec<String> = cases
        .iter()
        .map(|(request, expected)| (request, expected, short(&propose(&input(request)))))
        .filter(|(_, expected, found)| *expected != found)
        .map(|(request, expected, found)| format!("{request}\n  expected {expected}\n  found    {found}"))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_draft_has_calls_or_questions_but_never_both_or_neither() {
    for (request, _) in requests() {
        let draft = propose(&input(request));
        assert_ne!(draft.tool_calls.is_empty(), draft.clarifying_questions.is_empty(), "{request}");
        assert!(!draft.interpretation.is_empty(), "{request}");
        assert_eq!(draft.language.as_deref(), Some("en"), "{request}");
    }
}

#[test]
fn every_call_fits_the_parameters_of_its_tool() {
    for (request, _) in requests() {
        for call in propose(&input(request)).tool_calls {
            let tool = crate::tools::tool(&call.tool).unwrap_or_else(|| panic!("{request}: no tool '{}'", call.tool));
            // What the tool refuses here is what the request itself got wrong.
            let refused = tool.targets(&call.parameters).err().map(|error| error.to_string());
            let nonsense = request.contains("-3") || request.contains("99999999999999999999");
            assert_eq!(refused.is_some(), nonsense, "{request}: {call:?}: {refused:?}");
        }
    }
}

#[test]
fn the_examples_of_every_tool_are_understood_as_that_tool() {
    for tool in crate::tools::registry() {
        for example in tool.examples() {
            let draft = propose(&input(example));
            let tools: Vec<&str> = draft.tool_calls.iter().map(|call| call.tool.as_str()).collect();
            assert_eq!(tools.first(), Some(&tool.name()), "{example}: {}", short(&draft));
            assert!(draft.confidence >= 0.85, "{example}: {}", short(&draft));
        }
    }
}

#[test]
fn every_example_of_every_language_is_understood() {
    for grammar in GRAMMARS.iter() {
        for example in &grammar.language.examples {
            let draft = propose(&input(example));
            assert!(!draft.tool_calls.is_empty() && draft.confidence >= 0.85, "{example}: {}", short(&draft));
        }
    }
}

#[test]
fn people_read_sentences() {
    let said: Vec<String> = [
        "scale checkout to 5 in staging",
        "scale checkout to 1",
        "delete all production databases",
        "remove all pods with label app=web in dev",
        "create namespace demo and deploy nginx:1.27 as web there with 2 replicas",
        "run acme/api:v1.2 with env TOKEN=secret and PORT=80",
        "give checkout 500m cpu",
        "roll back checkout to revision 3",
        "wait up to 5m until checkout is ready",
        "list certificates in all namespaces",
        "don't delete checkout",
        "create 3 AWS EC2 instances in us-east-1",
        "sclae checkout to 5 quickli",
        "qwertz",
    ]
    .iter()
    .map(|request| {
        let draft = propose(&input(request));
        let rest = [draft.clarifying_questions, draft.warnings, draft.alternatives].concat();
        format!(
            "{request}\n  {}\n{}",
            draft.interpretation,
            rest.iter().map(|line| format!("  - {line}\n")).collect::<String>()
        )
    })
    .collect();
    insta::assert_snapshot!(said.join(""));
}

#[test]
fn a_session_goes_on_where_it_was() {
    let said: Vec<String> = [
        &["scale checkout to 3 in staging", "make it five instead"][..],
        &["scale checkout to 3 in staging", "and in demo too"],
        &["scale checkout to 3", "no, make it 4"],
        &["scale checkout to 3", "what about payments?"],
        &["scale checkout up by 2", "5"],
        &["deploy nginx:1.27 as web", "make it 3 replicas"],
        &["set the image of checkout to nginx:1", "nginx:2"],
        &["restart checkout in staging", "then scale it to 4"],
        &["restart checkout in staging", "the same in production"],
        &["scale checkout", "to 5"],
        &["scale", "checkout", "5"],
        &["delete", "deployment checkout"],
        &["list pods in staging", "and services?"],
        &["scale checkout to 3", "undo that"],
        &["set the image of checkout to nginx:1", "undo that"],
        &["restart checkout", "make it five"],
        &["scale checkout to 3", "make it five unless it is busy"],
        &["scale checkout to 3", "delete it"],
        &["scale checkout to 3", "list pods"],
        &["don't delete checkout", "yes"],
        &["delete everything", "yes"],
    ]
    .iter()
    .map(|requests| {
        let draft = session(requests);
        format!("{}\n  {}\n  {}\n", requests.join(" / "), draft.interpretation, short(&draft))
    })
    .collect();
    insta::assert_snapshot!(said.join(""));
}

#[test]
fn custom_kinds_of_the_cluster_win_over_words_for_what_is_missing() {
    let mut input = input("list buckets in staging");
    assert!(propose(&input).tool_calls.is_empty());
    input.kinds.extend(["bucket".to_owned(), "buckets".to_owned()]);
    let draft = propose(&input);
    assert_eq!(short(&draft), r#"Read 0.97: list {"target":{"all":true,"kind":"bucket","namespace":"staging"}}"#);
    assert_eq!(draft.interpretation, "List all buckets in namespace staging.");
}

#[test]
fn environments_are_namespaces_where_a_namespace_is_called_so() {
    let place = |namespaces: &[&str], request: &str| {
        let namespaces = namespaces.iter().map(|name| (*name).to_owned()).collect();
        let draft = propose(&PlanningInput { namespaces, ..input(request) });
        let target = draft.tool_calls[0].parameters["target"].clone();
        (target["namespace"].as_str().map(str::to_owned), target["environment"].as_str().map(str::to_owned))
    };
    let namespace = |name: &str| (Some(name.to_owned()), None);
    let environment = |name: &str| (None, Some(name.to_owned()));
    assert_eq!(place(&["production"], "list pods in production"), namespace("production"));
    assert_eq!(place(&["production"], "list pods in prod"), namespace("production"));
    assert_eq!(place(&["prod"], "list pods in production"), namespace("prod"));
    assert_eq!(place(&["prod", "live"], "list pods in production"), environment("production"));
    assert_eq!(place(&[], "list pods in prod"), environment("production"));
    assert_eq!(place(&["qa"], "list pods in staging"), environment("staging"));
}

#[test]
fn a_wanted_language_that_is_not_there_falls_back() {
    let draft = propose(&PlanningInput { language: Some("tlh".into()), ..input("restart checkout") });
    assert_eq!(draft.language.as_deref(), Some("en"));
    assert_eq!(draft.tool_calls.len(), 1);
}

#[test]
fn too_many_clauses_or_calls_are_a_question() {
    for request in ["restart web; ".repeat(30), format!("restart {}", vec!["web"; 60].join(" and "))] {
        let draft = propose(&input(&request));
        assert!(draft.tool_calls.is_empty());
        assert_eq!(
            draft.clarifying_questions,
            ["That is too much for one request. Can you split it into smaller ones?"]
        );
    }
}

fn name() -> impl Strategy<Value = String> {
    // The letter z in front keeps made-up names out of the vocabulary.
    "z[a-z0-9]{1,12}(-[a-z0-9]{1,8})?".prop_filter("no word of the language", |name| name != "zero")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_text_gives_a_draft(request in "\\PC{0,400}") {
        let draft = propose(&input(&request));
        prop_assert!((0.0..=1.0).contains(&draft.confidence));
        prop_assert_eq!(&draft, &propose(&input(&request)));
        let _ = suggestions(&request);
    }

    #[test]
    fn any_salad_of_known_words_gives_a_draft(
        words in proptest::collection::vec(prop::sample::select(vec![
            "scale", "delete", "not", "all", "pods", "in", "staging", "to", "5", "and", "it", "there", "with", "app=web",
            "image", "nginx:1", "by", "%", "then", ",", ";", "deployment", "namespace", "called", "of", "checkout's", "env",
            "\"", "'", "wait", "until", "ready", "minutes", "twenty", "five", "dozen", "container", "from", "on", "port",
            "roll", "back", "make", "everything", "unless", "?", ".", "-3", "500m", "cpu", "ns/name", "deploy/web", "、", "扩",
        ]), 0..60),
    ) {
        let request = words.join(" ");
        let draft = propose(&input(&request));
        prop_assert_eq!(draft.tool_calls.is_empty(), !draft.clarifying_questions.is_empty());
        let turn = Turn { request: "scale web to 3".into(), reply: String::new(), draft: Some(propose(&input("scale web to 3"))) };
        let _ = propose(&PlanningInput { turns: vec![turn], ..input(&request) });
    }

    #[test]
    fn long_requests_give_a_draft(piece in "\\PC{1,12}", sign in "[ ,;\"'“a=]{1,3}") {
        let request: String = format!("{piece}{sign}").chars().cycle().take(10_000).collect();
        let draft = propose(&input(&request));
        prop_assert!((0.0..=1.0).contains(&draft.confidence));
    }

    #[test]
    fn names_and_numbers_come_through_unchanged(name in name(), number in 0u32..=u32::MAX, namespace in name()) {
        let draft = propose(&input(&format!("scale {name} to {number} in {namespace}")));
        let expected = serde_json::json!({"target": {"name": name, "namespace": namespace}, "to": number});
        prop_assert_eq!(serde_json::Value::Object(draft.tool_calls[0].parameters.clone()), expected);
        prop_assert!(draft.confidence >= 0.85);
    }

    #[test]
    fn quoted_names_are_never_words(word in prop::sample::select(vec!["all", "delete", "staging", "not", "five", "it", "pods"])) {
        let draft = propose(&input(&format!("restart \"{word}\"")));
        let expected = serde_json::json!({"target": {"name": word}});
        prop_assert_eq!(serde_json::Value::Object(draft.tool_calls[0].parameters.clone()), expected);
    }
}

/// Every request with a fixed choice of conditions: a random one would find what is wrong only now and then.
#[test]
fn nothing_is_planned_past_a_condition() {
    const CONDITIONS: [&str; 12] = [
        "unless it is busy",
        "except payments",
        "but not in prod",
        "if it is idle",
        "only when idle",
        "tomorrow",
        "at 5pm",
        "in 10 minutes",
        "every day",
        "after lunch",
        "without the old one",
        "or payments",
    ];
    for (position, (request, _)) in requests().into_iter().enumerate() {
        let lower = request.to_lowercase();
        // How long to wait, and when something crashes, is no condition.
        if lower.contains("wait") || lower.starts_with("why") {
            continue;
        }
        for condition in CONDITIONS.iter().skip(position % 4).step_by(4) {
            let request = format!("{} {condition}", request.trim_end_matches(['?', '!', '.']));
            let draft = propose(&input(&request));
            assert!(draft.tool_calls.is_empty(), "{}: {}", request, short(&draft));
            assert!(!draft.clarifying_questions.is_empty(), "{request}");
        }
    }
}
