//! The JSON Schema that language models fill in: a draft whose tool calls are those of the registry.

use super::{Tool, parameters::schema, registry};
use crate::draft::Draft;
use serde_json::{Map, Value, json};

/// The JSON Schema of [`Draft`] in the dialect of strict structured output: each tool call names its tool and has that
/// tool's parameters, every object has only known members, and all of them are required. What is optional may be null;
/// [`super::parse`] takes null for absent.
///
/// Source: <https://platform.openai.com/docs/guides/structured-outputs>, "Supported schemas".
#[must_use]
pub fn draft_schema() -> Value {
    let mut draft = schema::<Draft>().to_value();
    let calls: Vec<Value> = registry().iter().map(|tool| call_schema(draft.pointer(CALL), *tool)).collect();
    if let Some(call) = draft.pointer_mut(CALL) {
        *call = json!({ "anyOf": calls });
    }
    strict(&draft)
}

const CALL: &str = "/properties/toolCalls/items";

/// The schema of a call of `tool`, from that of any call.
fn call_schema(call: Option<&Value>, tool: &dyn Tool) -> Value {
    let mut call = call.cloned().unwrap_or_default();
    call["description"] = json!(tool.description());
    call["properties"]["tool"] = json!({ "type": "string", "enum": [tool.name()] });
    call["properties"]["parameters"] = tool.parameters().to_value();
    call
}

/// `schema` with only what the dialect knows.
fn strict(schema: &Value) -> Value {
    let Some(members) = schema.as_object() else {
        // `true`, any value: the dialect has no such thing, and no parameter is one.
        return json!({ "type": "string" });
    };
    if let Some(values) = enumeration(members) {
        return values;
    }
    let mut strict = Map::new();
    for (keyword, value) in members {
        match (keyword.as_str(), value) {
            ("type" | "enum" | "description", value) => {
                strict.insert(keyword.clone(), value.clone());
            }
            ("const", value) => {
                strict.insert("enum".to_owned(), json!([value]));
            }
            ("items", items) => {
                strict.insert(keyword.clone(), self::strict(items));
            }
            ("anyOf" | "oneOf", Value::Array(schemas)) => {
                strict.insert("anyOf".to_owned(), schemas.iter().map(self::strict).collect());
            }
            ("properties", Value::Object(properties)) => {
                let names: Vec<_> = properties.keys().cloned().collect();
                strict.insert("required".to_owned(), json!(names));
                strict.insert("additionalProperties".to_owned(), json!(false));
                let properties = properties.iter().map(|(name, schema)| (name.clone(), self::strict(schema))).collect();
                strict.insert(keyword.clone(), Value::Object(properties));
            }
            _ => {}
        }
    }
    Value::Object(strict)
}

/// An enumeration of texts whose values are documented one by one, as one `enum` with the documentation joined.
fn enumeration(members: &Map<String, Value>) -> Option<Value> {
    let variants = members.get("oneOf")?.as_array()?;
    let mut values = Vec::new();
    let mut lines: Vec<String> =
        members.get("description").and_then(Value::as_str).map(str::to_owned).into_iter().collect();
    for variant in variants {
        match (variant.get("const"), variant.get("enum").and_then(Value::as_array)) {
            (Some(Value::String(value)), _) => {
                if let Some(description) = variant.get("description").and_then(Value::as_str) {
                    lines.push(format!("{value}: {description}"));
                }
                values.push(value.clone());
            }
            (None, Some(several)) => {
                values.extend(several.iter().filter_map(|value| value.as_str().map(str::to_owned)));
            }
            _ => return None,
        }
    }
    Some(json!({ "type": "string", "enum": values, "description": lines.join("\n") }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::{Found, ToolError};

    const KEYWORDS: [&str; 8] =
        ["type", "enum", "description", "items", "anyOf", "properties", "required", "additionalProperties"];

    type Visit<'v> = &'v mut dyn FnMut(&Map<String, Value>, &str, usize);

    /// Calls `visit` with every schema within `schema`, and how many objects it lies within.
    fn walk(schema: &Value, path: &str, depth: usize, visit: Visit<'_>) {
        let members = schema.as_object().unwrap_or_else(|| panic!("{path} is no object: {schema}"));
        visit(members, path, depth);
        for (name, property) in members.get("properties").and_then(Value::as_object).into_iter().flatten() {
            walk(property, &format!("{path}.{name}"), depth + 1, visit);
        }
        if let Some(items) = members.get("items") {
            walk(items, &format!("{path}[]"), depth, visit);
        }
        for (index, branch) in members.get("anyOf").and_then(Value::as_array).into_iter().flatten().enumerate() {
            walk(branch, &format!("{path}|{index}"), depth, visit);
        }
    }

    #[test]
    fn every_schema_is_strict() {
        let schema = draft_schema();
        let (mut objects, mut properties) = (0, 0);
        walk(&schema, "draft", 0, &mut |members, path, depth| {
            assert!(depth <= 10, "{path} is nested too deeply");
            for keyword in members.keys() {
                assert!(KEYWORDS.contains(&keyword.as_str()), "{path}: {keyword}");
            }
            assert!(members.contains_key("type") || members.contains_key("anyOf"), "{path} has no type");
            if members.get("type").is_some_and(|kind| *kind == "object" || kind[0] == "object") {
                objects += 1;
                assert_eq!(members["additionalProperties"], false, "{path}");
                let names: Vec<_> = members["properties"].as_object().unwrap().keys().cloned().collect();
                assert_eq!(members["required"], json!(names), "{path}");
                properties += names.len();
            }
            if members.get("type").is_some_and(|kind| kind == "array") {
                assert!(members.contains_key("items"), "{path}");
            }
        });
        assert!(objects > registry().len() * 2, "{objects}");
        assert!(properties < 5000, "{properties}");
        assert_eq!(schema["type"], "object");
    }

    #[test]
    fn there_is_one_call_a_tool() {
        let schema = draft_schema();
        let calls = schema.pointer(CALL).unwrap()["anyOf"].as_array().unwrap();
        let named: Vec<_> = calls.iter().map(|call| call["properties"]["tool"]["enum"][0].as_str().unwrap()).collect();
        assert_eq!(named, registry().iter().map(|tool| tool.name()).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_optional_may_be_null_and_what_is_not_may_not() {
        let schema = draft_schema();
        let scale = registry().iter().position(|tool| tool.name() == "scale").unwrap();
        let parameters = &schema.pointer(CALL).unwrap()["anyOf"][scale]["properties"]["parameters"]["properties"];
        assert_eq!(parameters["to"]["type"], json!(["integer", "null"]));
        assert_eq!(parameters["target"]["properties"]["name"]["type"], json!(["string", "null"]));
        assert_eq!(parameters["target"]["properties"]["all"]["type"], "boolean");
        assert_eq!(schema["properties"]["confidence"]["type"], "number");
        assert_eq!(schema["properties"]["language"]["type"], json!(["string", "null"]));
    }

    #[test]
    fn every_optional_parameter_of_every_tool_takes_null_or_its_natural_emptiness() {
        for tool in registry() {
            let original = tool.parameters().to_value();
            walk(&strict(&original), tool.name(), 0, &mut |_, _, _| {});
            let required = original.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
            for (name, property) in original["properties"].as_object().unwrap() {
                if required.contains(&json!(name)) {
                    continue;
                }
                let text = property.to_string();
                let empty =
                    property["type"] == "array" || property["type"] == "object" || property["type"] == "boolean";
                assert!(empty || text.contains("\"null\""), "{}: {name}: {text}", tool.name());
            }
        }
    }

    #[test]
    fn enumerations_keep_their_words_and_documentation() {
        let intent = &draft_schema()["properties"]["intent"];
        assert_eq!(intent["enum"][0], "create");
        assert!(intent["description"].as_str().unwrap().contains("troubleshoot: Find out why something fails."));
    }

    /// The least that `schema` lets a model say.
    fn least(schema: &Value) -> Value {
        if let Some(branches) = schema.get("anyOf").and_then(Value::as_array) {
            let nullable = branches.iter().find(|branch| branch["type"] == "null");
            return least(nullable.unwrap_or(&branches[0]));
        }
        let kinds: Vec<&str> = match &schema["type"] {
            Value::String(one) => vec![one],
            several => several.as_array().unwrap().iter().filter_map(Value::as_str).collect(),
        };
        match kinds.as_slice() {
            kinds if kinds.contains(&"null") => Value::Null,
            ["object"] => {
                let properties = schema["properties"].as_object().unwrap();
                properties.iter().map(|(name, property)| (name.clone(), least(property))).collect()
            }
            ["array"] => json!([]),
            ["boolean"] => json!(false),
            ["number" | "integer"] => json!(0),
            ["string"] => schema.get("enum").map_or_else(|| json!(""), |values| values[0].clone()),
            other => panic!("no instance of {other:?}"),
        }
    }

    #[test]
    fn the_least_that_a_model_may_say_is_read_and_asked_about() {
        let schema = draft_schema();
        assert!(serde_json::from_value::<Draft>(least(&schema)).unwrap().tool_calls.is_empty());
        for (tool, call) in registry().iter().zip(schema.pointer(CALL).unwrap()["anyOf"].as_array().unwrap()) {
            let call: crate::draft::ToolCall = serde_json::from_value(least(call)).unwrap();
            assert_eq!(call.tool, tool.name());
            let asked = tool.targets(&call.parameters).and_then(|_| tool.compile(&call.parameters, &Found::default()));
            assert!(matches!(asked, Err(ToolError::Ask { .. })), "{}: {asked:?}", tool.name());
        }
    }
}
