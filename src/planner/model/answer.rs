use super::endpoint::cut;
use super::{ModelError, ToolCatalogue, ToolDescription};
use crate::api::StructuredOutput;
use crate::draft::{Draft, ToolCall};
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

const MOST_CALLS: usize = 50;
const MOST_TEXTS: usize = 20;
const LONGEST_TEXT: usize = 2_000;
const LONGEST_ID: usize = 63;
const LARGEST_PARAMETERS: usize = 64 * 1024;
/// How alike two names must be (Jaro-Winkler) for one to be offered in place of the other.
const ALIKE: f64 = 0.75;

/// A completion, as far as it matters. Compatible servers leave out a lot, and write `null` where nothing is.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Completion {
    #[serde(default)]
    pub(super) model: Option<String>,
    #[serde(default)]
    pub(super) choices: Option<Vec<Choice>>,
    #[serde(default)]
    pub(super) usage: Option<Value>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Choice {
    #[serde(default)]
    pub(super) finish_reason: Option<String>,
    #[serde(default)]
    pub(super) message: Option<Message>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Message {
    #[serde(default)]
    pub(super) content: Option<String>,
    #[serde(default)]
    pub(super) refusal: Option<String>,
}

impl Completion {
    /// Tokens sent and received; zero where the server does not count.
    pub(super) fn tokens(&self) -> (u64, u64) {
        let count = |name| self.usage.as_ref().and_then(|usage| usage.get(name)).and_then(Value::as_u64);
        (count("prompt_tokens").unwrap_or_default(), count("completion_tokens").unwrap_or_default())
    }

    /// What the model wrote.
    ///
    /// # Errors
    /// When it declined, was cut off or wrote nothing.
    pub(super) fn content(self, max_tokens: u32) -> Result<String, ModelError> {
        let Some(choice) = self.choices.into_iter().flatten().next() else {
            return Err(ModelError::NotTheApi { found: "an answer without choices".to_owned() });
        };
        let message = choice.message.unwrap_or_default();
        if let Some(words) = message.refusal.filter(|words| !words.trim().is_empty()) {
            return Err(ModelError::Refused { message: words });
        }
        match choice.finish_reason.as_deref() {
            Some("length") => return Err(ModelError::TooLong { max_tokens }),
            Some("content_filter") => {
                return Err(ModelError::Refused { message: "the provider's content filter stopped the answer".into() });
            }
            _ => {}
        }
        Ok(message.content.unwrap_or_default())
    }
}

/// The draft in an answer, checked: every later stage may rely on what is checked here.
///
/// # Errors
/// [`ModelError::Broken`] or [`ModelError::UnknownTool`] with what was wanted and what was found.
pub(super) fn draft(content: &str, mode: StructuredOutput, tools: &ToolCatalogue) -> Result<Draft, ModelError> {
    let content = content.trim();
    let json = if mode == StructuredOutput::Prompt { unfenced(content) } else { content };
    if json.is_empty() {
        return Err(ModelError::broken("wanted a JSON object, found an empty answer"));
    }
    let mut value: Value = serde_json::from_str(json)
        .map_err(|error| ModelError::broken(format!("wanted a JSON object, found '{}' ({error})", cut(json, 60))))?;
    if !value.is_object() {
        return Err(ModelError::broken(format!("wanted a JSON object, found '{}'", cut(json, 60))));
    }
    drop_nulls(&mut value);
    let mut draft: Draft = serde_json::from_value(value)
        .map_err(|error| ModelError::broken(format!("it does not fit the schema: {}", cut(&error.to_string(), 400))))?;
    tidy(&mut draft);
    check(&draft, tools)?;
    Ok(draft)
}

/// The inside of a ``` fence, if there is one: the last, since models think aloud before they answer.
fn unfenced(content: &str) -> &str {
    let Some(before_end) = content.rfind("```").map(|end| &content[..end]) else { return content };
    let Some(start) = before_end.rfind("```") else { return content };
    let inside = &before_end[start + 3..];
    inside.strip_prefix("json").or_else(|| inside.strip_prefix("JSON")).unwrap_or(inside).trim()
}

/// Strict schemas know no optional fields: what is absent comes as null.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// Control characters have no place in sentences, and could rewrite the terminal of whoever reads them.
fn tidy(draft: &mut Draft) {
    let plain = |text: &mut String| {
        if text.chars().any(char::is_control) {
            *text = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        }
    };
    plain(&mut draft.interpretation);
    draft.clarifying_questions.iter_mut().for_each(plain);
    draft.alternatives.iter_mut().for_each(plain);
    draft.warnings.iter_mut().for_each(plain);
    draft.tool_calls.iter_mut().for_each(|call| plain(&mut call.why));
}

fn check(draft: &Draft, tools: &ToolCatalogue) -> Result<(), ModelError> {
    if !(0.0..=1.0).contains(&draft.confidence) {
        let found = draft.confidence;
        return Err(ModelError::broken(format!("confidence must be a number from 0 to 1, found {found}")));
    }
    if draft.tool_calls.is_empty() && draft.clarifying_questions.is_empty() {
        return Err(ModelError::broken("wanted a tool call or a clarifying question, found neither"));
    }
    if draft.tool_calls.len() > MOST_CALLS {
        let found = draft.tool_calls.len();
        return Err(ModelError::broken(format!("wanted at most {MOST_CALLS} tool calls, found {found}")));
    }
    check_text("interpretation", &draft.interpretation)?;
    check_texts("clarifyingQuestions", &draft.clarifying_questions)?;
    check_texts("alternatives", &draft.alternatives)?;
    check_texts("warnings", &draft.warnings)?;
    if let Some(language) = &draft.language
        && !(language.len() <= 35 && language.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'))
    {
        return Err(ModelError::broken(format!("language must be a BCP 47 tag, found '{}'", cut(language, 60))));
    }
    for call in &draft.tool_calls {
        check_call(call, tools)?;
    }
    check_order(&draft.tool_calls)
}

fn check_call(call: &ToolCall, tools: &ToolCatalogue) -> Result<(), ModelError> {
    let id = &call.id;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if id.is_empty() || id.len() > LONGEST_ID || !id.bytes().all(plain) {
        let found = cut(id, 80);
        return Err(ModelError::broken(format!(
            "the id of a tool call must be a short word such as c1, found '{found}'"
        )));
    }
    let Some(tool) = tools.tools.iter().find(|tool| tool.name == call.tool) else {
        let nearest = nearest(&call.tool, tools.tools.iter().map(|tool| tool.name.as_str()));
        return Err(ModelError::UnknownTool { tool: cut(&call.tool, 80), nearest });
    };
    check_text(&format!("why of {id}"), &call.why)?;
    check_parameters(call, tool)
}

/// Only the names: whether values are possible is for the tool to judge, with a question rather than a failure.
fn check_parameters(call: &ToolCall, tool: &ToolDescription) -> Result<(), ModelError> {
    let size = call.parameters.values().map(|value| value.to_string().len()).sum::<usize>();
    if size > LARGEST_PARAMETERS {
        let id = &call.id;
        return Err(ModelError::broken(format!(
            "the parameters of {id} have {size} bytes, at most {LARGEST_PARAMETERS} may be"
        )));
    }
    let known = tool.parameters.get("properties").and_then(Value::as_object);
    let (Some(known), Some(Value::Bool(false))) = (known, tool.parameters.get("additionalProperties")) else {
        return Ok(());
    };
    let Some(unknown) = call.parameters.keys().find(|name| !known.contains_key(*name)) else { return Ok(()) };
    let hint = nearest(unknown, known.keys().map(String::as_str)).map(|name| format!(" (nearest: '{name}')"));
    Err(ModelError::broken(format!(
        "the tool '{}' has no parameter '{}'{}",
        tool.name,
        cut(unknown, 80),
        hint.unwrap_or_default()
    )))
}

fn check_order(calls: &[ToolCall]) -> Result<(), ModelError> {
    let mut waiting: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for call in calls {
        let before = call.depends_on.iter().map(String::as_str).collect();
        if waiting.insert(&call.id, before).is_some() {
            return Err(ModelError::broken(format!("each tool call must have its own id, found '{}' twice", call.id)));
        }
    }
    for call in calls {
        if let Some(unknown) = call.depends_on.iter().find(|id| !waiting.contains_key(id.as_str())) {
            let (id, unknown) = (&call.id, cut(unknown, 80));
            return Err(ModelError::broken(format!("dependsOn of {id} names '{unknown}', which is no call's id")));
        }
    }
    while !waiting.is_empty() {
        let free: Vec<&str> = waiting.iter().filter(|(_, before)| before.is_empty()).map(|(id, _)| *id).collect();
        if free.is_empty() {
            let circle = waiting.keys().copied().collect::<Vec<_>>().join(", ");
            return Err(ModelError::broken(format!("dependsOn must not go in a circle, found one within {circle}")));
        }
        for id in free {
            waiting.remove(id);
            waiting.values_mut().for_each(|before| {
                before.remove(id);
            });
        }
    }
    Ok(())
}

fn check_texts(field: &str, texts: &[String]) -> Result<(), ModelError> {
    if texts.len() > MOST_TEXTS {
        return Err(ModelError::broken(format!("wanted at most {MOST_TEXTS} {field}, found {}", texts.len())));
    }
    texts.iter().try_for_each(|text| check_text(field, text))
}

fn check_text(field: &str, text: &str) -> Result<(), ModelError> {
    let found = text.chars().count();
    if found > LONGEST_TEXT {
        return Err(ModelError::broken(format!("{field} must have at most {LONGEST_TEXT} characters, found {found}")));
    }
    Ok(())
}

fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<String> {
    let name = name.to_ascii_lowercase();
    names
        .map(|other| (strsim::jaro_winkler(&name, &other.to_ascii_lowercase()), other))
        .filter(|(alike, _)| *alike >= ALIKE)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, other)| other.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn tools() -> ToolCatalogue {
        let tool = |name: &str| ToolDescription {
            name: name.to_owned(),
            parameters: json!({ "properties": { "name": {}, "replicas": {} }, "additionalProperties": false }),
            ..ToolDescription::default()
        };
        ToolCatalogue { schema: Value::Null, tools: vec![tool("scale"), tool("restart")] }
    }

    fn call(id: &str, depends_on: &[&str]) -> Value {
        json!({ "id": id, "tool": "scale", "parameters": { "name": "web" }, "dependsOn": depends_on, "why": null })
    }

    fn answer(calls: &[Value]) -> Value {
        json!({ "intent": "scale", "confidence": 1, "interpretation": "Scale web.", "toolCalls": calls, "warnings": null })
    }

    fn read(answer: &Value) -> Result<Draft, ModelError> {
        draft(&answer.to_string(), StructuredOutput::JsonSchema, &tools())
    }

    #[test]
    fn flaws_are_named() {
        let changed = |change: fn(&mut Value)| {
            let mut value = answer(&[call("c1", &[])]);
            change(&mut value);
            value
        };
        let many: Vec<Value> = (0..51).map(|number| call(&format!("c{number}"), &[])).collect();
        let flawed = [
            json!([]),
            json!("scale"),
            changed(|it| it["confidence"] = json!(1.01)),
            changed(|it| it["confidence"] = json!(-0.1)),
            changed(|it| it["confidence"] = json!("high")),
            changed(|it| it["intent"] = json!("destroy")),
            changed(|it| it["intent"] = Value::Null),
            changed(|it| it["sudo"] = json!(true)),
            changed(|it| it["toolCalls"] = json!([])),
            changed(|it| it["language"] = json!("en\u{1b}[2J")),
            changed(|it| it["interpretation"] = json!("x".repeat(2001))),
            changed(|it| it["warnings"] = json!(vec!["careful"; 21])),
            changed(|it| it["toolCalls"][0]["parameters"] = json!([1])),
            changed(|it| it["toolCalls"][0]["parameters"] = json!({ "replica": 3 })),
            changed(|it| it["toolCalls"][0]["parameters"] = json!({ "name": "x".repeat(70_000) })),
            changed(|it| it["toolCalls"][0]["shell"] = json!("rm")),
            changed(|it| it["toolCalls"][0]["tool"] = json!("scael")),
            changed(|it| it["toolCalls"][0]["tool"] = json!("kubectl")),
            changed(|it| it["toolCalls"][0]["id"] = json!("")),
            changed(|it| it["toolCalls"][0]["id"] = json!("c 1")),
            answer(&[call("c1", &[]), call("c1", &[])]),
            answer(&[call("c1", &["c2"])]),
            answer(&[call("c1", &["c1"])]),
            answer(&[call("c0", &[]), call("c1", &["c3", "c0"]), call("c2", &["c1"]), call("c3", &["c2"])]),
            answer(&many),
        ];
        let told = flawed.iter().map(|it| read(it).unwrap_err().happened() + "\n").collect::<String>();
        insta::assert_snapshot!(told, @r#"
        answered with something that is not a draft: wanted a JSON object, found '[]'
        answered with something that is not a draft: wanted a JSON object, found '"scale"'
        answered with something that is not a draft: confidence must be a number from 0 to 1, found 1.01
        answered with something that is not a draft: confidence must be a number from 0 to 1, found -0.1
        answered with something that is not a draft: it does not fit the schema: invalid type: string "high", expected f64
        answered with something that is not a draft: it does not fit the schema: unknown variant `destroy`, expected one of `create`, `read`, `update`, `delete`, `scale`, `monitor`, `optimize`, `troubleshoot`, `query`
        answered with something that is not a draft: it does not fit the schema: missing field `intent`
        answered with something that is not a draft: it does not fit the schema: unknown field `sudo`, expected one of `intent`, `confidence`, `interpretation`, `toolCalls`, `clarifyingQuestions`, `alternatives`, `warnings`, `language`
        answered with something that is not a draft: wanted a tool call or a clarifying question, found neither
        answered with something that is not a draft: language must be a BCP 47 tag, found 'en[2J'
        answered with something that is not a draft: interpretation must have at most 2000 characters, found 2001
        answered with something that is not a draft: wanted at most 20 warnings, found 21
        answered with something that is not a draft: it does not fit the schema: invalid type: sequence, expected a map
        answered with something that is not a draft: the tool 'scale' has no parameter 'replica' (nearest: 'replicas')
        answered with something that is not a draft: the parameters of c1 have 70002 bytes, at most 65536 may be
        answered with something that is not a draft: it does not fit the schema: unknown field `shell`, expected one of `id`, `tool`, `parameters`, `dependsOn`, `why`
        used the tool 'scael', which does not exist (nearest: 'scale')
        used the tool 'kubectl', which does not exist
        answered with something that is not a draft: the id of a tool call must be a short word such as c1, found ''
        answered with something that is not a draft: the id of a tool call must be a short word such as c1, found 'c 1'
        answered with something that is not a draft: each tool call must have its own id, found 'c1' twice
        answered with something that is not a draft: dependsOn of c1 names 'c2', which is no call's id
        answered with something that is not a draft: dependsOn must not go in a circle, found one within c1
        answered with something that is not a draft: dependsOn must not go in a circle, found one within c1, c2, c3
        answered with something that is not a draft: wanted at most 50 tool calls, found 51
        "#);
    }

    #[test]
    fn a_question_alone_is_a_draft() {
        let mut value = answer(&[]);
        value["clarifyingQuestions"] = json!(["Which one?"]);
        assert_eq!(read(&value).unwrap().clarifying_questions, ["Which one?"]);
    }

    #[test]
    fn sentences_hold_no_control_characters() {
        let mut value = answer(&[call("c1", &[])]);
        value["interpretation"] = json!("Scale\u{1b}[31m web\u{7}");
        value["toolCalls"][0]["why"] = json!("a\nb");
        let draft = read(&value).unwrap();
        assert_eq!((draft.interpretation.as_str(), draft.tool_calls[0].why.as_str()), ("Scale [31m web ", "a b"));
    }

    #[test]
    fn nulls_are_dropped_at_any_depth_but_keep_their_place_in_lists() {
        let mut value = json!({ "a": null, "b": { "c": null, "d": [null, { "e": null, "f": 1 }] } });
        drop_nulls(&mut value);
        assert_eq!(value, json!({ "b": { "d": [null, { "f": 1 }] } }));
    }

    #[test]
    fn fences_are_taken_off_in_prompt_mode() {
        assert_eq!(unfenced("```json\n{\"a\": 1}\n```"), "{\"a\": 1}");
        assert_eq!(unfenced("```\n{}\n```"), "{}");
        assert_eq!(unfenced("first\n```\nno\n```\nthen\n```json\n{}\n``` done"), "{}");
        assert_eq!(unfenced("{}"), "{}");
        assert_eq!(unfenced("``` {}"), "``` {}");
    }

    proptest! {
        #[test]
        fn calls_in_an_order_without_circles_pass_in_any_sequence(
            edges in prop::collection::vec((0usize..20, 0usize..20), 0..60),
            order in Just((0usize..20).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let before = |number: usize| {
                edges.iter().filter(|(from, to)| *to == number && from < to).map(|(from, _)| format!("c{from}")).collect::<Vec<_>>()
            };
            let calls: Vec<Value> = order.iter().map(|number| {
                let before = before(*number);
                call(&format!("c{number}"), &before.iter().map(String::as_str).collect::<Vec<_>>())
            }).collect();
            prop_assert!(read(&answer(&calls)).is_ok());
        }

        #[test]
        fn a_circle_is_found_wherever_it_is(length in 1usize..20, tail in 0usize..10) {
            let mut calls: Vec<Value> = (0..length).map(|number| call(&format!("c{number}"), &[&format!("c{}", (number + 1) % length)])).collect();
            calls.extend((0..tail).map(|number| call(&format!("t{number}"), &["c0"])));
            prop_assert!(read(&answer(&calls)).unwrap_err().happened().contains("circle"));
        }

        #[test]
        fn no_text_brings_it_down(text in ".{0,400}") {
            for mode in [StructuredOutput::JsonSchema, StructuredOutput::Prompt] {
                prop_assert!(draft(&text, mode, &tools()).is_err());
            }
        }
    }
}
