//! CEL expressions: `when` of a step, and expressions over a live object.

use crate::api::StepStatus;
use cel::{Context, Program, Value as CelValue};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Why an expression gave no answer.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ExpressionError {
    /// It is not CEL.
    #[error("'{expression}' is not a CEL expression: {reason}")]
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
    /// It gave something else than true or false.
    #[error("'{expression}' gives {found}, expected true or false")]
    NotBoolean {
        /// The expression.
        expression: String,
        /// What it gave.
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
            let object = objects.get(&entry.id).cloned().unwrap_or(Value::Null);
            let state = entry.state.to_string();
            (entry.id.as_str(), json!({ "state": state, "message": entry.message, "object": object }))
        })
        .collect();
    evaluate(expression, &[("steps", json!(steps))])
}

/// Whether an expression over `object` holds.
///
/// # Errors
/// When the expression is wrong or gives no boolean.
pub fn object_satisfies(expression: &str, object: &Value) -> Result<bool, ExpressionError> {
    evaluate(expression, &[("object", object.clone())])
}

fn evaluate(expression: &str, variables: &[(&str, Value)]) -> Result<bool, ExpressionError> {
    let failed = |reason: String| ExpressionError::Evaluation { expression: expression.to_owned(), reason };
    let program = Program::compile(expression)
        .map_err(|error| ExpressionError::Syntax { expression: expression.to_owned(), reason: error.to_string() })?;
    let mut context = Context::default();
    for (name, value) in variables {
        context.add_variable(*name, value.clone()).map_err(|error| failed(error.to_string()))?;
    }
    match program.execute(&context) {
        Ok(CelValue::Bool(holds)) => Ok(holds),
        Ok(other) => {
            Err(ExpressionError::NotBoolean { expression: expression.to_owned(), found: format!("{other:?}") })
        }
        Err(error) => Err(failed(error.to_string())),
    }
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
    }
}
