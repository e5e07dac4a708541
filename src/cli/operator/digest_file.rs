use super::OperatorError;
use crate::api::{ExecutionPlanSpec, GROUP};
use serde_json::Value;
use std::io::Read;
use std::path::Path;

/// The digest of the plan in `file`.
pub(super) fn digest(file: &Path) -> Result<String, OperatorError> {
    let read = |source| OperatorError::Read { file: file.to_owned(), source };
    let text = if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map_err(read)?;
        text
    } else {
        std::fs::read_to_string(file).map_err(read)?
    };
    let spec = parse(&text).map_err(|reason| OperatorError::NoPlan { file: file.to_owned(), reason })?;
    crate::plan::digest::digest(&spec).map_err(|source| OperatorError::Digest { file: file.to_owned(), source })
}

fn parse(text: &str) -> Result<ExecutionPlanSpec, String> {
    let mut object: Value = serde_yaml::from_str(text).map_err(|error| error.to_string())?;
    let field = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or("none").to_owned();
    let (kind, version) = (field("kind"), field("apiVersion"));
    if kind != "ExecutionPlan" || !version.starts_with(&format!("{GROUP}/")) {
        return Err(format!("its kind is {kind} of {version}"));
    }
    serde_json::from_value(object["spec"].take()).map_err(|error| format!("its spec is not valid: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: &str = "apiVersion: countersign.dev/v1alpha1\nkind: ExecutionPlan\nmetadata: { name: a }\nspec:\n  summary: nothing\n  steps: []\n";

    #[test]
    fn yaml_and_json_of_one_plan_have_one_digest() {
        let json = r#"{"kind":"ExecutionPlan","apiVersion":"countersign.dev/v1alpha1","spec":{"steps":[],"summary":"nothing"}}"#;
        let of = |text: &str| crate::plan::digest::digest(&parse(text).unwrap()).unwrap();
        assert_eq!(of(PLAN), of(json));
        assert_ne!(of(PLAN), of(&PLAN.replace("nothing", "something")));
    }

    #[test]
    fn another_object_is_named() {
        assert_eq!(parse("apiVersion: v1\nkind: Pod").unwrap_err(), "its kind is Pod of v1");
        assert_eq!(parse("[1]").unwrap_err(), "its kind is none of none");
        let error = parse(&PLAN.replace("steps: []", "steps: 3")).unwrap_err();
        assert!(error.starts_with("its spec is not valid"), "{error}");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = digest(Path::new("/no/such/plan.yaml")).unwrap_err();
        assert_eq!(error.to_string(), "cannot read /no/such/plan.yaml");
    }
}
