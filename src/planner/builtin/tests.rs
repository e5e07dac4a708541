use super::*;
use crate::api::CommandContext;

fn input(request: &str) -> PlanningInput {
    let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect();
    PlanningInput {
        request: request.to_owned(),
        language: None,
        context: CommandContext::default(),
        default_namespace: "default".to_owned(),
        namespaces: words(&["default", "demo", "kube-system", "staging", "team-a"]),
        kinds: words(&[
            "certificate", "certificates", "cert", "certs", "configmap", "configmaps", "cm", "deploy", "deployment",
            "deployments", "namespace", "namespaces", "no", "node", "nodes", "ns", "po", "pod", "pods", "service",
            "services", "statefulset", "statefulsets", "sts", "svc",
        ]),
        turns: Vec::new(),
    }
}

/// Intent and calls, or intent and question, in one line.
fn short(draft: &Draft) -> String {
    let calls = draft.tool_calls.iter().map(|call| {
        let after = if call.depends_on.is_empty() { String::new() } else { format!(" after {}", call.depends_on.join(",")) };
        format!("{} {}{after}", call.tool, serde_json::to_string(&call.parameters).unwrap())
    });
    let calls: Vec<String> = calls.collect();
    format!("{:?} {:.2}: {}{}", draft.intent, draft.confidence, calls.join(" + "), draft.clarifying_questions.join(" | "))
}

#[test]
fn show() {
    for request in include_str!("/tmp/phrases.txt").lines().filter(|l| !l.is_empty()) {
        let draft = propose(&input(request));
        println!("{request}\n    {}\n    = {} {:?}", short(&draft), draft.interpretation, draft.warnings);
    }
}
