//! Sentences from templates: how calls, targets and numbers are put into the words of a language.

use super::language::{Counted, Language, PluralRule};
use super::lexicon::{ClusterKinds, Grammar};
use crate::draft::ToolCall;
use serde_json::{Map, Value};

/// Fills a template. `{name}` stands for a value; a part in brackets is left out when a value in it is absent.
pub(super) fn render(template: &str, value: &dyn Fn(&str) -> Option<String>) -> String {
    let mut out = String::new();
    let mut rest = template;
    while let Some(open) = rest.find('[') {
        let Some(close) = rest[open..].find(']').map(|at| at + open) else { break };
        out.push_str(&fill(&rest[..open], value).unwrap_or_default());
        if let Some(part) = fill(&rest[open + 1..close], value) {
            out.push_str(&part);
        }
        rest = &rest[close + 1..];
    }
    out.push_str(&fill(rest, value).unwrap_or_default());
    out
}

/// Fills a part; nothing when a value is absent.
fn fill(part: &str, value: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    let mut out = String::new();
    let mut rest = part;
    while let Some(open) = rest.find('{') {
        let close = rest[open..].find('}')? + open;
        out.push_str(&rest[..open]);
        out.push_str(&value(&rest[open + 1..close])?);
        rest = &rest[close + 1..];
    }
    out.push_str(rest);
    Some(out)
}

/// Fills a template whose values are all at hand; a name that is not gives nothing.
pub(super) fn say(template: &str, values: &[(&str, &str)]) -> String {
    let find = |name: &str| values.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
    render(template, &|name| Some(find(name).unwrap_or_default()))
}

/// Says calls and targets in one language.
pub(super) struct Wording<'a> {
    pub grammar: &'a Grammar,
    pub kinds: &'a ClusterKinds,
}

impl Wording<'_> {
    const fn language(&self) -> &Language {
        &self.grammar.language
    }

    /// A target in words: `deployment checkout in namespace staging`.
    pub(super) fn target(&self, target: &Map<String, Value>) -> String {
        let text = |key: &str| target.get(key).map(plain);
        let flag = |key: &str| target.get(key).and_then(Value::as_bool).unwrap_or_default();
        let all = flag("all");
        render(&self.language().target, &|name| match name {
            "kinds" => text("kind").filter(|_| all).map(|kind| self.plural(&kind)),
            "kind" => text("kind").filter(|_| !all),
            "gap" => Some(if target.contains_key("kind") { " ".to_owned() } else { String::new() }),
            "namespaces" => flag("allNamespaces").then(|| self.language().namespaces.clone()),
            other => text(other),
        })
    }

    fn plural(&self, kind: &str) -> String {
        let own = self.language().kinds.get(kind).and_then(|noun| noun.many.first()).map(String::as_str);
        let every =
            || self.grammar.kubernetes.iter().find(|known| known.kind == kind).map(|known| known.plural.as_str());
        let known = every().or(own).or_else(|| self.kinds.plural(kind));
        known.unwrap_or(kind).to_owned()
    }

    fn counted(&self, forms: &Counted, number: &str) -> String {
        let one = self.language().plural_rule == PluralRule::OneOther && number == "1";
        say(if one { &forms.one } else { &forms.other }, &[("n", number)])
    }

    /// What a call does, in one sentence.
    pub(super) fn call(&self, call: &ToolCall) -> String {
        let sentences = &self.language().sentences;
        let given = |key: &str| call.parameters.get(key);
        let number = |key: &str| given(key).and_then(Value::as_f64);
        let template = match call.tool.as_str() {
            "scale" if given("to").is_some() => &sentences.scale_to,
            "scale" if given("factor").is_some() => &sentences.scale_factor,
            "scale" => match (number("by"), number("percent")) {
                (Some(by), _) if by < 0.0 => &sentences.scale_down,
                (Some(_), _) => &sentences.scale_up,
                (None, Some(percent)) if percent < 0.0 => &sentences.scale_percent_down,
                _ => &sentences.scale_percent_up,
            },
            "wait" => match given("until").and_then(Value::as_str) {
                Some("Absent") => &sentences.wait_absent,
                Some("Condition") => &sentences.wait_condition,
                _ => &sentences.wait_ready,
            },
            "create_deployment" => &sentences.create_deployment,
            "create_namespace" => &sentences.create_namespace,
            "create_configmap" => &sentences.create_configmap,
            "set_image" => &sentences.set_image,
            "set_resources" => &sentences.set_resources,
            "restart" => &sentences.restart,
            "undo_rollout" => &sentences.undo_rollout,
            "expose" => &sentences.expose,
            "delete" => &sentences.delete,
            "list" => &sentences.list,
            _ => &sentences.describe,
        };
        render(template, &|name| self.value(name, &call.parameters))
    }

    /// The value of a placeholder in the sentence of a call.
    fn value(&self, name: &str, parameters: &Map<String, Value>) -> Option<String> {
        let given = |key: &str| parameters.get(key);
        let size = |key: &str| given(key).map(|value| plain(value).trim_start_matches('-').to_owned());
        match name {
            "target" => given("target").and_then(Value::as_object).map(|target| self.target(target)),
            "replicas" => {
                let number = given("to").or_else(|| given("replicas")).map(plain).or_else(|| size("by"))?;
                Some(self.counted(&self.language().replicas, &number))
            }
            "percent" => size("percent"),
            "revision" => given("revision").map(|n| say(&self.language().revisions, &[("n", &plain(n))])),
            "before" => given("revision").is_none().then(|| self.language().sentences.before.clone()),
            "target_port" => given("targetPort").map(plain),
            "env" => given("env").map(|pairs| self.keys(pairs, "name")),
            "data" => given("data").map(|pairs| self.keys(pairs, "key")),
            "resources" => {
                let holder = given("resources").and_then(Value::as_object).unwrap_or(parameters);
                let known = &self.language().sentences.resources;
                let parts = known
                    .iter()
                    .filter_map(|(key, template)| holder.get(key).map(|value| say(template, &[("n", &plain(value))])));
                let parts: Vec<String> = parts.collect();
                (!parts.is_empty()).then(|| parts.join(", "))
            }
            other => given(other).map(plain),
        }
    }

    /// Only the keys: values may be secrets.
    fn keys(&self, pairs: &Value, key: &str) -> String {
        let keys = pairs.as_array().into_iter().flatten().filter_map(|pair| pair.get(key)).map(plain);
        keys.collect::<Vec<_>>().join(", ")
    }
}

/// A JSON value as it would be written in a sentence.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_without_a_value_are_left_out() {
        let values = |name: &str| (name != "b").then(|| name.to_uppercase());
        assert_eq!(render("x {a}[ and {b}][ or {c}].", &values), "x A or C.");
        assert_eq!(render("[{b}", &values), "");
        assert_eq!(say("{words}?", &[("words", "{a} [b]")]), "{a} [b]?");
    }
}
