use crate::api::{ActionType, Operation, ResourceCategory};
use crate::tools::{
    Expect, Found, KindQuery, ProposedStep, Scope, TargetQuery, Tool, ToolError, environment, names,
    parameters::schema, parse,
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// A new Namespace.
pub(in crate::tools) struct CreateNamespace;

const ROLE: &str = "namespace";
/// The label that says which environment a namespace belongs to.
const LABEL: &str = "environment";

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Parameters {
    /// The namespace's name.
    name: Option<String>,
    /// The environment that it belongs to: `production`, `staging`, `development`, `test`.
    environment: Option<String>,
}

impl Parameters {
    fn check(&self) -> Result<&str, ToolError> {
        let Some(name) = self.name.as_deref().map(str::trim).filter(|name| !name.is_empty()) else {
            return Err(ToolError::ask("What should the namespace be called?"));
        };
        names::check_label("the namespace's name", name)?;
        if let Some(environment) = self.environment() {
            names::check_label("the environment", environment)?;
        }
        Ok(name)
    }

    fn environment(&self) -> Option<&str> {
        let word = self.environment.as_deref().map(str::trim).filter(|word| !word.is_empty())?;
        Some(environment(word).unwrap_or(word))
    }
}

impl Tool for CreateNamespace {
    fn name(&self) -> &'static str {
        "create_namespace"
    }

    fn category(&self) -> ResourceCategory {
        ResourceCategory::Infrastructure
    }

    fn action(&self) -> ActionType {
        ActionType::Create
    }

    fn description(&self) -> &'static str {
        "Creates a namespace, with a label for the environment that it belongs to."
    }

    fn examples(&self) -> &'static [&'static str] {
        &["create a namespace payments", "create namespace payments-qa for testing"]
    }

    fn parameters(&self) -> schemars::Schema {
        schema::<Parameters>()
    }

    fn targets(&self, parameters: &Map<String, Value>) -> Result<Vec<TargetQuery>, ToolError> {
        let parameters: Parameters = parse(self.name(), parameters)?;
        let name = parameters.check()?.to_owned();
        Ok(vec![TargetQuery {
            role: ROLE,
            kind: KindQuery::AnyOf(&["namespaces"]),
            name: Some(name),
            scope: Scope::default(),
            selector: None,
            expect: Expect::Fresh,
            mutates: true,
        }])
    }

    fn compile(&self, parameters: &Map<String, Value>, found: &Found) -> Result<Vec<ProposedStep>, ToolError> {
        let parameters: Parameters = parse(self.name(), parameters)?;
        let name = parameters.check()?;
        let environment = parameters.environment();
        if let Some(existing) = found.one(ROLE) {
            let labels = existing.object.pointer("/metadata/labels");
            let current = labels.and_then(|labels| labels.get(LABEL)).and_then(Value::as_str);
            if environment.is_none() || environment == current {
                return Ok(Vec::new());
            }
            return Err(ToolError::ask(format!(
                "Namespace {name} already exists, and its environment is {}, not {}. Should it be another name?",
                current.unwrap_or("not labelled"),
                environment.unwrap_or_default()
            )));
        }
        let mut metadata = json!({ "name": name });
        if let Some(environment) = environment {
            metadata["labels"] = json!({ LABEL: environment });
        }
        let purpose = environment.map(|environment| format!(" (environment {environment})")).unwrap_or_default();
        Ok(vec![ProposedStep {
            title: format!("Create Namespace {name}{purpose}"),
            operation: Operation::apply(json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": metadata })),
            ..ProposedStep::default()
        }])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::fixtures::{compile, error, map, step, with};

    #[test]
    fn the_namespace_is_applied_with_its_environment() {
        let step = step(&CreateNamespace, json!({ "name": "payments-qa", "environment": "QA" }), &Found::default());
        insta::assert_snapshot!(step.title, @"Create Namespace payments-qa (environment test)");
        assert_eq!(
            step.operation,
            Operation::apply(json!({
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": { "name": "payments-qa", "labels": { "environment": "test" } },
            }))
        );
    }

    #[test]
    fn one_that_exists_needs_no_step_unless_it_belongs_elsewhere() {
        let existing = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": { "name": "payments", "labels": { "environment": "staging" } },
        });
        let found = with(Found::default(), ROLE, &[existing]);
        assert_eq!(compile(&CreateNamespace, json!({ "name": "payments" }), &found), Ok(vec![]));
        let same = json!({ "name": "payments", "environment": "stg" });
        assert_eq!(compile(&CreateNamespace, same, &found), Ok(vec![]));
        insta::assert_snapshot!(
            error(&CreateNamespace, json!({ "name": "payments", "environment": "prod" }), &found),
            @"Namespace payments already exists, and its environment is staging, not production. Should it be another name?");
    }

    #[test]
    fn what_is_missing_or_wrong_is_told() {
        let error = |parameters| CreateNamespace.targets(&map(parameters)).unwrap_err().to_string();
        insta::assert_snapshot!(error(json!({})), @"What should the namespace be called?");
        assert!(error(json!({ "name": "My Team" })).ends_with("('my-team' would do)"));
        assert!(error(json!({ "name": "a", "environment": "a/b" })).starts_with("the environment must consist of"));
    }
}
