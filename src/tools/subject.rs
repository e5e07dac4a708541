//! What a call is about: the query for its target, and the objects that were found for it.

use super::{Expect, Found, FoundObject, Target, TargetQuery, ToolError};

/// The role under which every tool asks for its target.
pub(super) const ROLE: &str = "target";

/// The most choices that a question lists.
const MOST_CHOICES: usize = 10;

/// The query for `target`: one object when it is named, all that match when all are meant. When it says neither, what is
/// there is looked up for the question.
pub(super) fn query(target: &Target, default_kinds: &'static [&'static str], mutates: bool) -> TargetQuery {
    let expect = if target.name.is_some() {
        Expect::One
    } else if target.all || target.selector.is_some() {
        Expect::Some
    } else {
        Expect::Any
    };
    target.query(ROLE, default_kinds, expect, mutates)
}

/// The objects that the call is about.
///
/// # Errors
/// A question that names what is there, when the target says neither a name nor that all are meant.
pub(super) fn subjects<'f>(target: &Target, found: &'f Found, what: &str) -> Result<&'f [FoundObject], ToolError> {
    let objects = found.all(ROLE);
    let kind = target.kind.as_deref().unwrap_or("object");
    if target.name.is_none() && !target.all && target.selector.is_none() {
        return Err(which(kind, objects, what));
    }
    if objects.is_empty() {
        return Err(ToolError::invalid(format!("no {kind} was found to be {what}")));
    }
    Ok(objects)
}

/// The question which one is meant.
pub(super) fn which(kind: &str, objects: &[FoundObject], what: &str) -> ToolError {
    let namespaces: Vec<_> = objects.iter().map(|found| &found.reference.namespace).collect();
    let one_namespace = namespaces.windows(2).all(|pair| pair[0] == pair[1]);
    let mut choices: Vec<String> = objects
        .iter()
        .map(|found| match &found.reference.namespace {
            Some(namespace) if !one_namespace => format!("{} in {namespace}", found.reference.name),
            _ => found.reference.name.clone(),
        })
        .collect();
    let omitted = choices.len().saturating_sub(MOST_CHOICES);
    choices.truncate(MOST_CHOICES);
    let question = match (choices.as_slice(), omitted) {
        ([], _) => format!("Which {kind} should be {what}? Say its name; none was found there."),
        (_, 0) => format!("Which {kind} should be {what}: {}? Say \"all\" to mean all of them.", choices.join(", ")),
        (_, more) => format!("Which {kind} should be {what}: {}, or one of {more} more?", choices.join(", ")),
    };
    ToolError::Ask { question, choices }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::fixtures::{deployment, found};

    #[test]
    fn a_name_means_one_and_all_or_labels_mean_some() {
        let expect = |target: &Target| query(target, &["deployments.apps"], true).expect;
        let named = Target { name: Some("web".into()), ..Target::default() };
        assert_eq!(expect(&named), Expect::One);
        assert_eq!(expect(&Target { all: true, ..named }), Expect::One);
        assert_eq!(expect(&Target { all: true, ..Target::default() }), Expect::Some);
        assert_eq!(expect(&Target { selector: Some("a=b".into()), ..Target::default() }), Expect::Some);
        assert_eq!(expect(&Target::default()), Expect::Any);
    }

    #[test]
    fn without_a_name_the_question_names_what_is_there() {
        let target = Target { kind: Some("deployment".into()), ..Target::default() };
        let ask = |objects: &[serde_json::Value]| subjects(&target, &found(objects), "scaled").unwrap_err().to_string();
        insta::assert_snapshot!(ask(&[]), @"Which deployment should be scaled? Say its name; none was found there.");
        insta::assert_snapshot!(
            ask(&[deployment("a", "web", "x"), deployment("a", "api", "x")]),
            @r#"Which deployment should be scaled: web, api? Say "all" to mean all of them."#
        );
        insta::assert_snapshot!(
            ask(&[deployment("a", "web", "x"), deployment("b", "web", "x")]),
            @r#"Which deployment should be scaled: web in a, web in b? Say "all" to mean all of them."#
        );
        let many: Vec<_> = (0..12).map(|i| deployment("a", &format!("w{i}"), "x")).collect();
        assert!(ask(&many).ends_with("w9, or one of 2 more?"));
    }
}
