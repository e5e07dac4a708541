//! Which field manager gave fields their values, from `metadata.managedFields`.

use crate::api::{FieldChange, FieldPath, PathElement};
use serde_json::{Map, Value};

/// Who gave fields the values that they have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetBy {
    /// The manager in question.
    Manager,
    /// Somebody else.
    Another,
    /// Nothing tells: the object keeps no record, or the fields are gone and nobody owns what is not there.
    Unknown,
}

/// Whether `manager` gave any of the changed fields its present value, by a write to `subresource` or to the object itself.
///
/// Whoever gives a field another value takes it from all other managers, so a manager that owns a field whose value is
/// not the old one was the last to change it ([server-side apply][1]). Objects whose `scale` was written own what `scale`
/// stands for, wherever that is.
///
/// [1]: https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management
#[must_use]
pub fn set_by(object: &Value, manager: &str, subresource: Option<&str>, changes: &[FieldChange]) -> SetBy {
    let entries = object.pointer("/metadata/managedFields").and_then(Value::as_array);
    let Some(entries) = entries.filter(|entries| !entries.is_empty()) else { return SetBy::Unknown };
    let text = |entry: &Value, member: &str| entry.get(member).and_then(Value::as_str).map(str::to_owned);
    let own: Vec<&Map<String, Value>> = entries
        .iter()
        .filter(|entry| text(entry, "manager").as_deref() == Some(manager))
        .filter(|entry| text(entry, "subresource").filter(|name| !name.is_empty()).as_deref() == subresource)
        .filter_map(|entry| entry.get("fieldsV1")?.as_object())
        .collect();
    let by = |is_own: bool| if is_own { SetBy::Manager } else { SetBy::Another };
    if subresource == Some("scale") {
        return by(!own.is_empty());
    }
    let mut paths = changes
        .iter()
        .filter(|change| change.to.is_some())
        .filter_map(|change| change.path.parse::<FieldPath>().ok())
        .filter(|path| path.get(object).is_some())
        .peekable();
    if paths.peek().is_none() {
        return SetBy::Unknown;
    }
    by(paths.any(|path| own.iter().any(|fields| owns(fields, object, &path.0))))
}

/// Whether a set of fields in the notation `FieldsV1` holds what is at `path` below `value`, or part of it. Items of lists
/// stand in it by their keys (`k:`), by value (`v:`) or by position (`i:`); a list that is owned as a whole has no members.
fn owns(fields: &Map<String, Value>, value: &Value, path: &[PathElement]) -> bool {
    let Some((first, rest)) = path.split_first() else { return true };
    if fields.is_empty() {
        return true;
    }
    let below = |member: &Value, value: &Value| member.as_object().is_some_and(|fields| owns(fields, value, rest));
    let (index, item) = match first {
        PathElement::Key(key) => {
            let (Some(member), Some(value)) = (fields.get(&format!("f:{key}")), value.get(key)) else { return false };
            return below(member, value);
        }
        PathElement::Index(index) => (Some(*index), value.get(index)),
        PathElement::Item { .. } => {
            let item = FieldPath(vec![first.clone()]);
            let found = item.get(value);
            let is_found = |one: &Value| found.is_some_and(|found| std::ptr::eq(found, one));
            (value.as_array().and_then(|items| items.iter().position(is_found)), found)
        }
    };
    let Some(item) = item else { return false };
    fields.iter().any(|(name, member)| {
        let is_it = match name.split_once(':') {
            Some(("k", keys)) => has_members(item, keys),
            Some(("v", value)) => serde_json::from_str::<Value>(value).is_ok_and(|value| value == *item),
            Some(("i", position)) => position.parse().ok() == index,
            _ => false,
        };
        is_it && below(member, item)
    })
}

/// Whether an item has the members that a key (`{"containerPort":80,"protocol":"TCP"}`) names.
fn has_members(item: &Value, keys: &str) -> bool {
    let keys: Option<Map<String, Value>> = serde_json::from_str(keys).ok();
    keys.is_some_and(|keys| keys.iter().all(|(name, value)| item.get(name) == Some(value)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// As the API server keeps it of a Deployment that one applied, another patched and a third scaled.
    fn deployment() -> Value {
        json!({
            "metadata": {
                "labels": { "app": "web" },
                "finalizers": ["a/b", "c/d"],
                "managedFields": [
                    { "manager": "kubectl", "operation": "Apply", "apiVersion": "apps/v1", "fieldsV1": {
                        "f:metadata": { "f:labels": { "f:app": {} }, "f:finalizers": { "v:\"a/b\"": {} } },
                        "f:spec": { "f:template": { "f:spec": { "f:containers": { "k:{\"name\":\"web\"}": {
                            ".": {}, "f:name": {}, "f:args": {}, "f:ports": {
                                "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": { ".": {}, "f:containerPort": {} } } } } } } } } },
                    { "manager": "countersign", "operation": "Update", "apiVersion": "apps/v1", "fieldsV1": {
                        "f:metadata": { "f:finalizers": { "v:\"c/d\"": {} } },
                        "f:spec": { "f:template": { "f:spec": { "f:containers": { "k:{\"name\":\"web\"}": { "f:image": {} } } } } } } },
                    { "manager": "countersign", "operation": "Update", "apiVersion": "apps/v1", "subresource": "status", "fieldsV1": {
                        "f:status": { "f:replicas": {} } } },
                    { "manager": "autoscaler", "operation": "Update", "apiVersion": "apps/v1", "subresource": "scale", "fieldsV1": {
                        "f:spec": { "f:replicas": {} } } },
                ],
            },
            "spec": { "replicas": 3, "paused": true, "template": { "spec": { "containers": [
                { "name": "log", "image": "log:1" },
                { "name": "web", "image": "web:2", "args": ["-v", "a"], "ports": [{ "containerPort": 80, "protocol": "TCP" }] },
            ] } } },
            "status": { "replicas": 3 },
        })
    }

    fn asked(manager: &str, subresource: Option<&str>, paths: &[&str]) -> SetBy {
        let set = |path: &&str| FieldChange { path: (*path).into(), to: Some(json!("?")), ..FieldChange::default() };
        let changes: Vec<FieldChange> = paths.iter().map(set).collect();
        set_by(&deployment(), manager, subresource, &changes)
    }

    #[test]
    fn whoever_owns_a_field_set_it() {
        let image = "spec.template.spec.containers[name=web].image";
        assert_eq!(asked("countersign", None, &[image]), SetBy::Manager);
        assert_eq!(asked("kubectl", None, &[image]), SetBy::Another);
        assert_eq!(asked("countersign", None, &["spec.paused", image]), SetBy::Manager, "a write lands as a whole");
        assert_eq!(asked("countersign", None, &["spec.template.spec.containers[name=log].image"]), SetBy::Another);
        assert_eq!(asked("countersign", None, &["spec.template"]), SetBy::Manager, "a part of it");
        assert_eq!(asked("kubectl", None, &["metadata.labels.app"]), SetBy::Manager);
    }

    #[test]
    fn items_of_lists_are_known_by_key_by_value_or_with_the_list() {
        let container = "spec.template.spec.containers[1]";
        for path in [format!("{container}.args[1]"), format!("{container}.ports[containerPort=80].containerPort")] {
            assert_eq!(asked("kubectl", None, &[&path]), SetBy::Manager, "{path}");
            assert_eq!(asked("countersign", None, &[&path]), SetBy::Another, "{path}");
        }
        assert_eq!(asked("countersign", None, &["metadata.finalizers[1]"]), SetBy::Manager);
        assert_eq!(asked("countersign", None, &["metadata.finalizers[0]"]), SetBy::Another);
    }

    #[test]
    fn a_subresource_has_owners_of_its_own() {
        assert_eq!(asked("autoscaler", Some("scale"), &["spec.replicas"]), SetBy::Manager);
        assert_eq!(asked("countersign", Some("scale"), &["spec.replicas"]), SetBy::Another);
        assert_eq!(asked("autoscaler", None, &["spec.replicas"]), SetBy::Another);
        assert_eq!(asked("countersign", Some("status"), &["status.replicas"]), SetBy::Manager);
    }

    #[test]
    fn nobody_owns_what_is_not_there() {
        let removed = FieldChange { path: "spec.paused".into(), from: Some(json!(true)), ..FieldChange::default() };
        assert_eq!(set_by(&deployment(), "countersign", None, &[removed]), SetBy::Unknown);
        assert_eq!(asked("countersign", None, &["spec.gone"]), SetBy::Unknown);
        let label = FieldChange { path: "metadata.name".into(), to: Some(json!("web")), ..FieldChange::default() };
        assert_eq!(set_by(&json!({ "metadata": { "name": "web" } }), "countersign", None, &[label]), SetBy::Unknown);
    }
}
