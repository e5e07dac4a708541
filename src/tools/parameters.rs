//! Parameters of tool calls: their schemas, and how they are read.

use super::ToolError;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// Reads the parameters of a call of `tool`.
///
/// Models send `null` for what is absent, and may write whole numbers as `5.0`: both are understood. Empty texts within
/// `target` count as absent too, because an empty name or selector would mean everything.
///
/// # Errors
/// [`ToolError::Invalid`] that names the parameter, what was expected, and what was found.
pub fn parse<T: DeserializeOwned>(tool: &str, parameters: &Map<String, Value>) -> Result<T, ToolError> {
    let mut present = plain(Value::Object(parameters.clone()));
    if let Some(target) = present.get_mut("target").and_then(Value::as_object_mut) {
        target.retain(|_, value| value.as_str().is_none_or(|text| !text.trim().is_empty()));
    }
    serde_path_to_error::deserialize(present).map_err(|error| {
        let path = error.path().to_string();
        let reason = in_words(&error.into_inner().to_string());
        ToolError::Invalid(match path.as_str() {
            "." | "?" => format!("{tool}: {reason}"),
            path => format!("{tool}: parameter '{path}': {reason}"),
        })
    })
}

/// `value` without nulls, and with whole numbers written as such.
fn plain(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            Value::Object(members.into_iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k, plain(v))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(plain).collect()),
        Value::Number(number) => Value::Number(whole(&number).unwrap_or(number)),
        other => other,
    }
}

#[allow(clippy::cast_possible_truncation)]
fn whole(number: &serde_json::Number) -> Option<serde_json::Number> {
    // Beyond 2⁵³ a double no longer says which whole number was meant.
    let float =
        number.as_f64().filter(|float| number.is_f64() && float.fract() == 0.0 && float.abs() < 2f64.powi(53))?;
    Some((float as i64).into())
}

/// serde's message with the names of Rust's types put in words.
fn in_words(message: &str) -> String {
    const WORDS: [(&str, &str); 8] = [
        ("expected i64", "expected a whole number"),
        ("expected f64", "expected a number"),
        ("expected a string", "expected a text"),
        ("expected a sequence", "expected a list"),
        ("expected a boolean", "expected true or false"),
        ("sequence", "a list"),
        ("map", "an object"),
        ("string \"", "the text \""),
    ];
    let (problem, expected) = message.split_once(", expected ").unwrap_or((message, ""));
    let mut problem = problem.to_owned();
    for (rust, word) in &WORDS[5..] {
        if let Some(found) = problem.strip_prefix("invalid type: ").and_then(|found| found.strip_prefix(rust)) {
            problem = format!("invalid type: {word}{found}");
        }
    }
    let mut words = match expected.strip_prefix("struct ") {
        Some(_) => format!("{problem}, expected an object"),
        None if expected.is_empty() => problem,
        None => format!("{problem}, expected {expected}"),
    };
    for (rust, word) in &WORDS[..5] {
        words = words.replace(rust, word);
    }
    words
}

/// The JSON Schema of `T`, with no references to other places.
pub(super) fn schema<T: JsonSchema>() -> Schema {
    let mut settings = SchemaSettings::draft2020_12();
    settings.inline_subschemas = true;
    settings.meta_schema = None;
    settings.into_generator().into_root_schema_for::<T>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::Target;
    use serde::Deserialize;
    use serde_json::json;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Example {
        #[serde(default)]
        target: Target,
        to: Option<i64>,
        percent: Option<f64>,
        #[serde(default)]
        items: Vec<Item>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Item {
        key: String,
    }

    fn read(value: Value) -> Result<Example, ToolError> {
        let Value::Object(parameters) = value else { panic!("no object") };
        parse("example", &parameters)
    }

    #[test]
    fn nulls_and_empty_texts_in_a_target_are_absent() {
        let example = read(json!({
            "target": { "kind": null, "name": " ", "selector": "", "namespace": "staging", "all": false },
            "to": null,
            "items": [{ "key": "" }],
        }))
        .unwrap();
        assert_eq!(example.target, Target { namespace: Some("staging".into()), ..Target::default() });
        assert_eq!(example.to, None);
        assert_eq!(example.items, [Item { key: String::new() }]);
    }

    #[test]
    fn whole_numbers_may_be_written_as_decimals() {
        let example = read(json!({ "to": 5.0, "percent": 50 })).unwrap();
        assert_eq!((example.to, example.percent), (Some(5), Some(50.0)));
    }

    #[test]
    fn errors_name_the_parameter_what_was_expected_and_what_was_found() {
        let error = |value| read(value).unwrap_err().to_string();
        insta::assert_snapshot!(error(json!({ "to": "five" })), @r#"example: parameter 'to': invalid type: the text "five", expected a whole number"#);
        insta::assert_snapshot!(error(json!({ "to": 1e30 })), @"example: parameter 'to': invalid type: floating point `1e+30`, expected a whole number");
        insta::assert_snapshot!(error(json!({ "to": 1.5 })), @"example: parameter 'to': invalid type: floating point `1.5`, expected a whole number");
        insta::assert_snapshot!(error(json!({ "replicas": 5 })), @"example: parameter 'replicas': unknown field `replicas`, expected one of `target`, `to`, `percent`, `items`");
        insta::assert_snapshot!(error(json!({ "target": { "nmae": "web" } })), @"example: parameter 'target.nmae': unknown field `nmae`, expected one of `kind`, `name`, `namespace`, `environment`, `selector`, `all`, `allNamespaces`");
        insta::assert_snapshot!(error(json!({ "target": { "name": 5 } })), @"example: parameter 'target.name': invalid type: integer `5`, expected a text");
        insta::assert_snapshot!(error(json!({ "target": "web" })), @r#"example: parameter 'target': invalid type: the text "web", expected an object"#);
        insta::assert_snapshot!(error(json!({ "target": { "all": "yes" } })), @r#"example: parameter 'target.all': invalid type: the text "yes", expected true or false"#);
        insta::assert_snapshot!(error(json!({ "items": [{ "key": "a" }, {}] })), @"example: parameter 'items[1]': missing field `key`");
        insta::assert_snapshot!(error(json!({ "items": { "key": "a" } })), @"example: parameter 'items': invalid type: an object, expected a list");
        insta::assert_snapshot!(error(json!({ "items": ["a"] })), @r#"example: parameter 'items[0]': invalid type: the text "a", expected an object"#);
    }
}
