//! The digest of a plan: what an approval refers to.

use crate::api::ExecutionPlanSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fmt::Write;

/// The largest integer that every JSON reader takes for itself (RFC 7493, section 2.2).
const MAX_EXACT: u64 = (1 << 53) - 1;

/// A spec that has no digest.
#[derive(Debug, thiserror::Error)]
pub enum DigestError {
    /// The spec cannot be written as JSON and read back.
    #[error("the plan's spec cannot be written as JSON")]
    Json(#[from] serde_json::Error),
    /// An integer that RFC 8785 writes like its neighbours: two different plans would share a digest.
    #[error(
        "{path} is {number}: integers beyond ±{MAX_EXACT} have no exact form in canonical JSON; write it as a string"
    )]
    InexactInteger {
        /// JSON pointer within the spec.
        path: String,
        /// The integer.
        number: String,
    },
}

/// `sha256:` and the hexadecimal SHA-256 of the canonical JSON (RFC 8785) of the whole spec.
///
/// The spec is digested in the form that the API server gives back, so that a plan has the same digest before it is
/// created and after it is read. Fields that this version does not know are not part of it.
///
/// # Errors
/// [`DigestError`] when the spec holds an integer beyond 2^53 - 1, or a value that JSON cannot express.
pub fn digest(spec: &ExecutionPlanSpec) -> Result<String, DigestError> {
    let mut stored: ExecutionPlanSpec = serde_json::from_value(serde_json::to_value(spec)?)?;
    for apply in stored.steps.iter_mut().filter_map(|step| step.operation.apply.as_mut()) {
        normalize_metadata(&mut apply.manifest)?;
    }
    let value = serde_json::to_value(stored)?;
    refuse_inexact(&value, &mut String::new())?;
    let hash = Sha256::digest(serde_json_canonicalizer::to_vec(&value)?);
    Ok(hash.iter().fold("sha256:".to_owned(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

/// Does to the metadata of an embedded object what the API server does on storing it: fields that `ObjectMeta` does
/// not have and fields without content go. Metadata that it would refuse stays as it is.
fn normalize_metadata(manifest: &mut Value) -> Result<(), DigestError> {
    let Some(metadata) = manifest.get_mut("metadata") else { return Ok(()) };
    let Ok(known) = serde_json::from_value::<ObjectMeta>(metadata.clone()) else { return Ok(()) };
    let mut known = serde_json::to_value(known)?;
    if let Value::Object(fields) = &mut known {
        fields.retain(|name, field| match field {
            Value::Null => false,
            Value::String(text) => !text.is_empty(),
            Value::Array(items) => !items.is_empty(),
            Value::Object(members) => !members.is_empty(),
            Value::Number(number) => name != "generation" || number.as_i64() != Some(0),
            Value::Bool(_) => true,
        });
    }
    *metadata = known;
    Ok(())
}

fn refuse_inexact(value: &Value, path: &mut String) -> Result<(), DigestError> {
    let length = path.len();
    match value {
        Value::Number(number) => {
            let magnitude = number.as_u64().or_else(|| number.as_i64().map(i64::unsigned_abs));
            if magnitude.is_some_and(|magnitude| magnitude > MAX_EXACT) {
                return Err(DigestError::InexactInteger { path: path.clone(), number: number.to_string() });
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                let _ = write!(path, "/{index}");
                refuse_inexact(item, path)?;
                path.truncate(length);
            }
        }
        Value::Object(members) => {
            for (key, member) in members {
                let _ = write!(path, "/{}", key.replace('~', "~0").replace('/', "~1"));
                refuse_inexact(member, path)?;
                path.truncate(length);
            }
        }
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{FieldChange, Operation, Requester, Step};
    use proptest::prelude::*;
    use serde_json::json;
    use std::time::Duration;

    fn spec() -> ExecutionPlanSpec {
        serde_json::from_value(json!({
            "commandRef": { "name": "scale-checkout" },
            "requestedBy": { "username": "alice", "groups": ["developers"] },
            "summary": "Scale Deployment staging/checkout from 3 to 5 replicas",
            "risk": { "level": "medium", "reasons": ["changes a running workload"] },
            "approvalsRequired": 1,
            "steps": [{
                "id": "s1",
                "title": "Scale Deployment staging/checkout from 3 to 5 replicas",
                "tool": "scale",
                "operation": { "patch": {
                    "target": { "apiVersion": "apps/v1", "kind": "Deployment", "namespace": "staging", "name": "checkout" },
                    "subresource": "scale", "type": "merge", "body": { "spec": { "replicas": 5 } }
                } },
                "diff": [{ "path": "spec.replicas", "from": 3, "to": 5 }],
                "timeout": "5m"
            }]
        }))
        .unwrap()
    }

    #[test]
    fn a_known_plan_keeps_its_digest() {
        insta::assert_snapshot!(digest(&spec()).unwrap(), @"sha256:2442a747adefc8e2f4b1e60c8eb81cf8fe23995826c55ab5a7117af1032b20be");
    }

    #[test]
    fn an_empty_difference_and_an_absent_one_are_the_same() {
        let mut with_null = spec();
        with_null.steps[0].diff[0].to = Some(Value::Null);
        let mut without = spec();
        without.steps[0].diff[0].to = None;
        assert_eq!(digest(&with_null).unwrap(), digest(&without).unwrap());
    }

    #[test]
    fn integers_that_would_be_rounded_are_refused_with_their_place() {
        let mut spec = spec();
        let body = &mut spec.steps[0].operation.patch.as_mut().unwrap().body;
        *body = json!({ "spec": { "a/b": 9_007_199_254_740_993_u64 } });
        let error = digest(&spec).unwrap_err();
        insta::assert_snapshot!(error, @"/steps/0/operation/patch/body/spec/a~1b is 9007199254740993: integers beyond ±9007199254740991 have no exact form in canonical JSON; write it as a string");
        spec.steps[0].operation.patch.as_mut().unwrap().body = json!({ "spec": { "a/b": 9_007_199_254_740_991_u64 } });
        assert!(digest(&spec).is_ok());
        spec.steps[0].operation.patch.as_mut().unwrap().body = json!(i64::MIN);
        assert!(digest(&spec).is_err());
    }

    #[test]
    fn metadata_that_the_api_server_drops_is_not_part_of_it() {
        let of = |metadata: Value| {
            let manifest = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata });
            let step = Step { operation: Operation::apply(manifest), ..Step::default() };
            digest(&ExecutionPlanSpec { steps: vec![step], ..ExecutionPlanSpec::default() }).unwrap()
        };
        let stored = of(json!({ "name": "a", "labels": { "b": "" } }));
        let built = json!({ "name": "a", "labels": { "b": "" }, "annotations": {}, "creationTimestamp": null, "generation": 0, "x": 1 });
        assert_eq!(of(built), stored);
        assert_ne!(of(json!({ "name": "a", "labels": { "b": "c" } })), stored);
        assert_ne!(of(json!({ "name": "a" })), stored);
    }

    fn json_values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            (-1_000_000_000_000_i64..1_000_000_000_000).prop_map(Value::from),
            (-1.0e9..1.0e9_f64).prop_map(Value::from),
            ".{0,12}".prop_map(Value::from),
            Just(Value::Null),
        ];
        leaf.prop_recursive(3, 24, 5, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                proptest::collection::btree_map(".{0,8}", inner, 0..5)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    prop_compose! {
        fn steps()(
            title in ".{0,20}",
            manifest in json_values(),
            from in proptest::option::of(json_values()),
            milliseconds in proptest::option::of(0_u64..1_000_000_000),
            known_after in proptest::collection::vec("[a-z]{1,5}", 0..3),
        ) -> Step {
            Step {
                id: "s1".to_owned(),
                title,
                operation: Operation::apply(manifest),
                diff: vec![FieldChange { path: "spec".to_owned(), from, ..FieldChange::default() }],
                known_after,
                timeout: milliseconds.map(|ms| Duration::from_millis(ms).into()),
                ..Step::default()
            }
        }
    }

    prop_compose! {
        fn specs()(
            summary in ".{0,40}",
            username in proptest::option::of(".{0,10}"),
            approvals_required in 0_u32..100,
            warnings in proptest::collection::vec(".{0,10}", 0..3),
            steps in proptest::collection::vec(steps(), 0..4),
        ) -> ExecutionPlanSpec {
            ExecutionPlanSpec {
                summary,
                requested_by: username.map(|username| Requester { username, groups: Vec::new() }),
                approvals_required,
                warnings,
                steps,
                ..ExecutionPlanSpec::default()
            }
        }
    }

    /// The same JSON with the members of every object written in the opposite order.
    fn written_backwards(value: &Value) -> String {
        match value {
            Value::Object(members) => {
                let members: Vec<_> = members
                    .iter()
                    .rev()
                    .map(|(key, member)| format!("{}: {}", Value::from(key.as_str()), written_backwards(member)))
                    .collect();
                format!("{{ {} }}", members.join(" , "))
            }
            Value::Array(items) => {
                format!("[{}]", items.iter().map(written_backwards).collect::<Vec<_>>().join(","))
            }
            scalar => scalar.to_string(),
        }
    }

    /// Every place in a JSON value.
    fn pointers(value: &Value, at: &str, all: &mut Vec<String>) {
        all.push(at.to_owned());
        match value {
            Value::Object(members) => {
                for (key, member) in members {
                    pointers(member, &format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")), all);
                }
            }
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    pointers(item, &format!("{at}/{index}"), all);
                }
            }
            _ => {}
        }
    }

    proptest! {
        #[test]
        fn a_plan_read_back_has_the_digest_it_was_made_with(spec in specs()) {
            let text = serde_json::to_string(&spec).unwrap();
            let read: ExecutionPlanSpec = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(digest(&read).unwrap(), digest(&spec).unwrap());
        }

        #[test]
        fn the_order_of_fields_does_not_matter(spec in specs()) {
            let backwards = written_backwards(&serde_json::to_value(&spec).unwrap());
            let read: ExecutionPlanSpec = serde_json::from_str(&backwards).unwrap();
            prop_assert_eq!(digest(&read).unwrap(), digest(&spec).unwrap());
        }

        #[test]
        fn any_change_of_what_is_stored_changes_it(spec in specs(), place in any::<prop::sample::Index>()) {
            let before = serde_json::to_value(&spec).unwrap();
            let mut places = Vec::new();
            pointers(&before, "", &mut places);
            let mut after = before.clone();
            let changed = after.pointer_mut(places[place.index(places.len())].as_str()).unwrap();
            *changed = match changed.take() {
                Value::String(text) => Value::String(format!("{text}x")),
                Value::Number(number) => json!(number.as_f64().unwrap() + 1.0),
                Value::Bool(flag) => json!(!flag),
                Value::Null => json!("x"),
                Value::Array(mut items) => { items.pop(); Value::Array(items) },
                Value::Object(mut members) => { members.insert("extra".to_owned(), json!(1)); Value::Object(members) },
            };
            if let Ok(read) = serde_json::from_value::<ExecutionPlanSpec>(after)
                && read != serde_json::from_value::<ExecutionPlanSpec>(before).unwrap()
            {
                prop_assert_ne!(digest(&read).unwrap(), digest(&spec).unwrap());
            }
        }
    }
}
