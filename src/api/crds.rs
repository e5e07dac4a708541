use super::{AgentCommand, ExecutionPlan, ModelProvider, PlanApproval, PlanPolicy};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use kube::CustomResourceExt;
use serde_json::Value;

/// The definitions of all kinds of this group as they are installed in a cluster, in alphabetical order.
#[must_use]
pub fn crds() -> Vec<CustomResourceDefinition> {
    let mut crds =
        vec![AgentCommand::crd(), ExecutionPlan::crd(), ModelProvider::crd(), PlanApproval::crd(), PlanPolicy::crd()];
    for version in crds.iter_mut().flat_map(|crd| &mut crd.spec.versions) {
        if let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            drop_unsigned_formats(schema);
        }
    }
    crds
}

/// The fields of an object of kind `K` that the kind does not have, as paths such as `spec.approval`. The API server drops
/// or refuses them; whoever reads files without it has to ask.
#[must_use]
pub fn unknown_fields<K: CustomResourceExt>(object: &Value) -> Vec<String> {
    let mut unknown = Vec::new();
    let crd = K::crd();
    let schema = crd.spec.versions.first().and_then(|version| version.schema.as_ref()?.open_api_v3_schema.as_ref());
    if let Some(properties) = schema.and_then(|schema| schema.properties.as_ref()) {
        for part in ["spec", "status"] {
            if let (Some(schema), Some(value)) = (properties.get(part), object.get(part)) {
                find_unknown(schema, value, part, &mut unknown);
            }
        }
    }
    unknown
}

fn find_unknown(schema: &JSONSchemaProps, value: &Value, path: &str, unknown: &mut Vec<String>) {
    match (value, &schema.items, &schema.properties) {
        (Value::Array(items), Some(JSONSchemaPropsOrArray::Schema(schema)), _) => {
            for (index, item) in items.iter().enumerate() {
                find_unknown(schema, item, &format!("{path}[{index}]"), unknown);
            }
        }
        (Value::Object(members), _, Some(properties)) => {
            for (name, value) in members {
                let path = format!("{path}.{name}");
                match properties.get(name) {
                    Some(schema) => find_unknown(schema, value, &path, unknown),
                    None => unknown.push(path),
                }
            }
        }
        _ => {}
    }
}

/// `uint32` and its kin are no formats of OpenAPI: the API server warns of each on every installation. The bounds that
/// they stand for are in the schema as numbers.
fn drop_unsigned_formats(schema: &mut JSONSchemaProps) {
    schema.format.take_if(|format| format.starts_with("uint"));
    schema.properties.iter_mut().flat_map(|properties| properties.values_mut()).for_each(drop_unsigned_formats);
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => drop_unsigned_formats(items),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => items.iter_mut().for_each(drop_unsigned_formats),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// The API server would store a null that the types cannot read, and one such object ends the watch on all.
    #[test]
    fn what_must_be_there_is_never_null() {
        fn check(schema: &JSONSchemaProps, path: &str) {
            for (name, field) in schema.properties.iter().flatten() {
                let required = schema.required.iter().flatten().any(|required| required == name);
                assert!(!(required && field.nullable == Some(true)), "{path}.{name} is required and may be null");
                check(field, &format!("{path}.{name}"));
            }
            if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
                check(items, &format!("{path}[]"));
            }
        }
        for crd in crds() {
            let schema = crd.spec.versions[0].schema.clone().unwrap().open_api_v3_schema.unwrap();
            check(&schema, &crd.spec.names.kind);
        }
    }

    #[test]
    fn fields_that_a_kind_does_not_have_are_named() {
        let policy = serde_json::json!({ "spec": {
            "approval": {},
            "namespaceSelector": { "matchLabels": { "any": "label" } },
            "rules": [{ "effect": "Deny" }, { "effect": "Deny", "kind": "Pod" }],
            "examples": [{ "plan": { "what": "ever" } }]
        } });
        assert_eq!(unknown_fields::<PlanPolicy>(&policy), ["spec.approval", "spec.rules[1].kind"]);
    }

    /// `UPDATE_CRDS=1 cargo test crds` writes the files anew. The chart has a copy, for a chart is packed without
    /// what lies outside of it.
    #[test]
    fn the_checked_in_definitions_are_those_of_the_types() {
        for (crd, folder) in crds().iter().flat_map(|crd| ["crds", "charts/countersign/files/crds"].map(|f| (crd, f))) {
            let file = format!("{folder}/{}.yaml", crd.spec.names.plural);
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(&file);
            let generated = serde_yaml::to_string(crd).unwrap();
            if std::env::var_os("UPDATE_CRDS").is_some() {
                std::fs::write(&path, &generated).unwrap();
            }
            let stored = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(stored == generated, "{file} is not what the types say: run UPDATE_CRDS=1 cargo test crds");
        }
    }
}
