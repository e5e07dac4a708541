//! CEL expressions: `when` of a step, and expressions over a live object.

use crate::api::StepStatus;
use crate::plan::{Expression, NoAnswer, Subject};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Why an expression gave no answer.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ExpressionError {
    /// It is not CEL, or beyond the bounds.
    #[error("'{expression}' cannot be evaluated: {reason}")]
    Syntax {
        /// The expression.
        expression: String,
        /// The parser's words.
        reason: String,
    },
    /// It failed on these values.
    #[error("'{expression}' could not be evaluated: {reason}")]
    Evaluation {
        /// The expression.
        expression: String,
        /// The interpreter's words.
        reason: String,
    },
    /// It gave something else than true or false. What it gave is not told: it may be secret.
    #[error("'{expression}' gives {found}, expected true or false")]
    NotBoolean {
        /// The expression.
        expression: String,
        /// The type of what it gave.
        found: String,
    },
}

/// Whether a step's `when` holds, over `steps.<id>.state`, `.message` and `.object` (the live object, where it was read).
///
/// # Errors
/// When the expression is wrong or gives no boolean.
pub fn when_holds(
    expression: &str,
    entries: &[StepStatus],
    objects: &BTreeMap<String, Value>,
) -> Result<bool, ExpressionError> {
    let steps: BTreeMap<&str, Value> = entries
        .iter()
        .map(|entry| {
            let object = objects.get(&entry.id).map_or(Value::Null, without_secrets);
            let state = entry.state.to_string();
            (entry.id.as_str(), json!({ "state": state, "message": entry.message, "object": object }))
        })
        .collect();
    evaluate(expression, "steps", &json!(steps))
}

/// Whether an expression over `object` holds.
///
/// # Errors
/// When the expression is wrong or gives no boolean.
pub fn object_satisfies(expression: &str, object: &Value) -> Result<bool, ExpressionError> {
    evaluate(expression, "object", &without_secrets(object))
}

/// Whether an expression over `object` can be evaluated at all.
///
/// # Errors
/// When it is not CEL, or beyond the bounds.
pub fn check_syntax(expression: &str) -> Result<(), ExpressionError> {
    compiled(expression, "object").map(|_| ())
}

fn compiled(expression: &str, variable: &str) -> Result<Expression, ExpressionError> {
    Expression::compile(expression, &[variable])
        .map_err(|reason| ExpressionError::Syntax { expression: expression.to_owned(), reason })
}

/// The object as expressions see it: what they find out is told to everybody who reads the plan.
fn without_secrets(object: &Value) -> Value {
    let mut object = object.clone();
    if object.get("kind").and_then(Value::as_str) == Some("Secret")
        && let Some(fields) = object.as_object_mut()
    {
        fields.remove("data");
        fields.remove("stringData");
        if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("annotations");
            metadata.remove("managedFields");
        }
    }
    object
}

fn evaluate(expression: &str, variable: &str, value: &Value) -> Result<bool, ExpressionError> {
    let text = expression.to_owned();
    compiled(expression, variable)?.holds(variable, &Subject::new(value)).map_err(|error| match error {
        NoAnswer::NotBoolean(found) => ExpressionError::NotBoolean { expression: text, found },
        NoAnswer::Failed(reason) => ExpressionError::Evaluation { expression: text, reason },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::StepState;

    #[test]
    fn when_reads_states_and_objects() {
        let entries = [StepStatus { id: "s1".into(), state: StepState::Completed, ..StepStatus::default() }];
        let objects = BTreeMap::from([("s1".to_owned(), json!({ "spec": { "replicas": 3 } }))]);
        let holds = |expression: &str| when_holds(expression, &entries, &objects);
        assert_eq!(holds("steps.s1.state == 'Completed'"), Ok(true));
        assert_eq!(holds("steps.s1.object.spec.replicas > 5"), Ok(false));
    }

    #[test]
    fn wrong_expressions_say_what_is_wrong() {
        let object = json!({});
        assert!(matches!(object_satisfies("object.", &object), Err(ExpressionError::Syntax { .. })));
        assert!(matches!(object_satisfies("object.spec.x == 1", &object), Err(ExpressionError::Evaluation { .. })));
        assert!(matches!(object_satisfies("1 + 1", &object), Err(ExpressionError::NotBoolean { .. })));
        assert!(check_syntax("object.spec.x == 1").is_ok() && check_syntax("object.").is_err());
    }

    #[test]
    fn no_expression_tells_the_value_of_a_secret() {
        let secret = json!({ "kind": "Secret", "data": { "password": "aHVudGVyMg==" },
                             "metadata": { "annotations": { "last-applied": "aHVudGVyMg==" } } });
        for expression in
            ["object.data.password", "object.data.password == 'x'", "object.metadata.annotations", "object"]
        {
            let error = object_satisfies(expression, &secret).unwrap_err().to_string();
            assert!(!error.contains("aHVudGVyMg"), "{error}");
        }
        let other = json!({ "kind": "ConfigMap", "data": { "word": "hunter2" } });
        let error = object_satisfies("object.data.word", &other).unwrap_err();
        insta::assert_snapshot!(error, @"'object.data.word' gives string, expected true or false");
    }
}
