use crate::api::{ActionType, Operation, ResourceCategory};
use crate::tools::{
    Found, FoundObject, ProposedStep, Target, TargetQuery, Tool, ToolError, parameters::schema, parse, subject,
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

/// Deletion of objects of any kind.
pub(in crate::tools) struct Delete;

const DEFAULT_KINDS: &[&str] = &[
    "deployments.apps",
    "statefulsets.apps",
    "daemonsets.apps",
    "services",
    "configmaps",
    "jobs.batch",
    "cronjobs.batch",
    "ingresses.networking.k8s.io",
    "persistentvolumeclaims",
    "namespaces",
];

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Parameters {
    /// What to delete. A kind is needed unless a name is given.
    #[serde(default)]
    target: Target,
}

impl Parameters {
    fn check(&self) -> Result<(), ToolError> {
        match (&self.target.kind, &self.target.name) {
            (None, None) => Err(ToolError::ask(
                "What should be deleted? Say a kind and a name, such as \"deployment web\", or \"all jobs\".",
            )),
            _ => Ok(()),
        }
    }
}

impl Tool for Delete {
    fn name(&self) -> &'static str {
        "delete"
    }

    fn category(&self) -> ResourceCategory {
        ResourceCategory::Infrastructure
    }

    fn action(&self) -> ActionType {
        ActionType::Delete
    }

    fn description(&self) -> &'static str {
        "Deletes objects of any kind that the cluster serves: one by name, those with a label, or all of a kind or group \
         of kinds."
    }

    fn examples(&self) -> &'static [&'static str] {
        &[
            "delete deployment web in staging",
            "delete all jobs in staging",
            "delete all configmaps with label app=web",
            "delete all production databases",
        ]
    }

    fn parameters(&self) -> schemars::Schema {
        schema::<Parameters>()
    }

    fn targets(&self, parameters: &Map<String, Value>) -> Result<Vec<TargetQuery>, ToolError> {
        let parameters: Parameters = parse(self.name(), parameters)?;
        parameters.check()?;
        Ok(vec![subject::query(&parameters.target, DEFAULT_KINDS, true)])
    }

    fn compile(&self, parameters: &Map<String, Value>, found: &Found) -> Result<Vec<ProposedStep>, ToolError> {
        let parameters: Parameters = parse(self.name(), parameters)?;
        parameters.check()?;
        Ok(subject::subjects(&parameters.target, found, "deleted")?.iter().map(step).collect())
    }
}

fn step(subject: &FoundObject) -> ProposedStep {
    let owners = subject.object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    let controller =
        owners.and_then(|owners| owners.iter().find(|owner| owner.get("controller") == Some(&Value::Bool(true))));
    let warnings = controller.map(|owner| {
        let text = |field: &str| owner.get(field).and_then(Value::as_str).unwrap_or("?");
        format!("{} belongs to {} {}, which may make it again.", subject.reference, text("kind"), text("name"))
    });
    ProposedStep {
        title: format!("Delete {}", subject.reference),
        operation: Operation::delete(subject.reference.clone()),
        warnings: warnings.into_iter().collect(),
        ..ProposedStep::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ObjectRef;
    use crate::tools::fixtures::{as_kind, compile, deployment, error, found, map, step};
    use crate::tools::{Expect, KindQuery};
    use serde_json::json;

    fn database() -> Value {
        as_kind(deployment("production", "orders-db", "postgres:17"), "apps/v1", "StatefulSet")
    }

    #[test]
    fn one_object_by_name() {
        let step = step(&Delete, json!({ "target": { "name": "orders-db" } }), &found(&[database()]));
        insta::assert_snapshot!(step.title, @"Delete StatefulSet production/orders-db");
        assert_eq!(step.operation, Operation::delete(ObjectRef::of(&database()).unwrap()));
        assert!(step.warnings.is_empty());
    }

    #[test]
    fn all_that_were_found_each_in_a_step() {
        let objects = [database(), deployment("production", "cache", "redis:7")];
        let all = json!({ "target": { "kind": "database", "environment": "production", "all": true } });
        let queries = Delete.targets(&map(all.clone())).unwrap();
        assert_eq!((&queries[0].kind, queries[0].expect), (&KindQuery::Word("database".into()), Expect::Some));
        let steps = compile(&Delete, all, &found(&objects)).unwrap();
        let titles: Vec<_> = steps.iter().map(|step| step.title.as_str()).collect();
        assert_eq!(titles, ["Delete StatefulSet production/orders-db", "Delete Deployment production/cache"]);
    }

    #[test]
    fn a_kind_without_a_name_or_neither_is_a_question() {
        insta::assert_snapshot!(
            error(&Delete, json!({ "target": { "kind": "statefulset" } }), &found(&[database()])),
            @r#"Which statefulset should be deleted: orders-db? Say "all" to mean all of them."#);
        for target in [json!({}), json!({ "all": true }), json!({ "selector": "app=web" })] {
            let asked = Delete.targets(&map(json!({ "target": target }))).unwrap_err().to_string();
            insta::allow_duplicates! {
                insta::assert_snapshot!(asked,
                    @r#"What should be deleted? Say a kind and a name, such as "deployment web", or "all jobs"."#);
            }
        }
    }

    #[test]
    fn what_a_controller_would_make_again_is_warned_about() {
        let mut pod = as_kind(deployment("staging", "web-1", "nginx"), "v1", "Pod");
        pod["metadata"]["ownerReferences"] = json!([{ "kind": "ReplicaSet", "name": "web", "controller": true }]);
        let step = step(&Delete, json!({ "target": { "kind": "pod", "name": "web-1" } }), &found(&[pod]));
        insta::assert_snapshot!(step.warnings[0], @"Pod staging/web-1 belongs to ReplicaSet web, which may make it again.");
    }
}
