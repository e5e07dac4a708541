use crate::api::{ActionType, Operation, Query, QueryKind, ResourceCategory};
use crate::tools::{
    Found, FoundObject, ProposedStep, Target, TargetQuery, Tool, ToolError, parameters::schema, parse, subject,
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

/// One object in detail.
pub(in crate::tools) struct Describe;

const DEFAULT_KINDS: &[&str] = &[
    "deployments.apps",
    "statefulsets.apps",
    "daemonsets.apps",
    "pods",
    "services",
    "configmaps",
    "jobs.batch",
    "cronjobs.batch",
    "ingresses.networking.k8s.io",
    "persistentvolumeclaims",
    "nodes",
    "namespaces",
];

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Parameters {
    /// What to describe.
    #[serde(default)]
    target: Target,
}

impl Parameters {
    fn check(&self) -> Result<(), ToolError> {
        match (&self.target.kind, &self.target.name) {
            (None, None) => {
                Err(ToolError::ask("What should be described? Say its kind and name, such as \"pod web-1\"."))
            }
            _ => Ok(()),
        }
    }
}

impl Tool for Describe {
    fn name(&self) -> &'static str {
        "describe"
    }

    fn category(&self) -> ResourceCategory {
        ResourceCategory::Diagnosis
    }

    fn action(&self) -> ActionType {
        ActionType::Read
    }

    fn description(&self) -> &'static str {
        "Shows one object of any kind in detail: what it should be, what state it is in, and why."
    }

    fn examples(&self) -> &'static [&'static str] {
        &["describe deployment checkout in staging", "what is the status of checkout?"]
    }

    fn read_only(&self) -> bool {
        true
    }

    fn parameters(&self) -> schemars::Schema {
        schema::<Parameters>()
    }

    fn targets(&self, parameters: &Map<String, Value>) -> Result<Vec<TargetQuery>, ToolError> {
        let parameters: Parameters = parse(self.name(), parameters)?;
        parameters.check()?;
        Ok(vec![subject::query(&parameters.target, DEFAULT_KINDS, false)])
    }

    fn compile(&self, parameters: &Map<String, Value>, found: &Found) -> Result<Vec<ProposedStep>, ToolError> {
        let parameters: Parameters = parse(self.name(), parameters)?;
        parameters.check()?;
        Ok(subject::subjects(&parameters.target, found, "described")?.iter().map(step).collect())
    }
}

fn step(subject: &FoundObject) -> ProposedStep {
    let reference = &subject.reference;
    let query = Query {
        query_type: QueryKind::Get,
        api_version: Some(reference.api_version.clone()),
        kind: Some(reference.kind.clone()),
        namespace: reference.namespace.clone(),
        name: Some(reference.name.clone()),
        label_selector: None,
        field_selector: None,
        expression: None,
    };
    ProposedStep {
        title: format!("Describe {reference}"),
        operation: Operation::query(query),
        ..ProposedStep::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::fixtures::{deployment, error, found, map, step};
    use serde_json::json;

    #[test]
    fn one_object_is_read() {
        let objects = found(&[deployment("staging", "checkout", "nginx:1.27")]);
        let step = step(&Describe, json!({ "target": { "name": "checkout" } }), &objects);
        insta::assert_snapshot!(step.title, @"Describe Deployment staging/checkout");
        let query = step.operation.query.unwrap();
        assert_eq!(query.query_type, QueryKind::Get);
        assert_eq!((query.namespace.as_deref(), query.name.as_deref()), (Some("staging"), Some("checkout")));
    }

    #[test]
    fn without_a_name_it_is_asked_which() {
        let objects = found(&[deployment("staging", "checkout", "nginx:1.27")]);
        let asked = error(&Describe, json!({ "target": { "kind": "deployment" } }), &objects);
        assert!(asked.starts_with("Which deployment should be described: checkout?"), "{asked}");
        insta::assert_snapshot!(Describe.targets(&map(json!({}))).unwrap_err(),
            @r#"What should be described? Say its kind and name, such as "pod web-1"."#);
    }
}
