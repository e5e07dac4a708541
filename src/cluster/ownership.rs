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
    /// Nothing tells: the object keeps no record, or nobody owns the fields, because they are gone or were filled in.
    Unknown,
}

/// The manager to which the API server gives the fields of the oldest of more than ten.
const ANCIENT: &str = "ancient-changes";

/// Whether `manager` gave any of the changed fields its present value, by a write to `subresource` or to the object itself.
/// Only changes whose new value is there say anything.
///
/// Whoever gives a field another value takes it from all other managers, so a manager that owns a field whose value is
/// not the old one was the last to change it ([server-side apply][1]). What nobody owns was filled in by the API server.
/// Objects whose `scale` was written own what `scale` stands for, wherever that is.
///
/// [1]: https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management
#[must_use]
pub fn set_by(object: &Value, manager: &str, subresource: Option<&str>, changes: &[FieldChange]) -> SetBy {
    let entries = object.pointer("/metadata/managedFields").and_then(Value::as_array);
    let Some(entries) = entries.filter(|entries| !entries.is_empty()) else { return SetBy::Unknown };
    let is_own = |entry: &Value| {
        text(entry, "manager") == manager && text(entry, "subresource") == subresource.unwrap_or_default()
    };
    let (own, others): (Vec<&Value>, Vec<&Value>) = entries.iter().partition(|entry| is_own(entry));
    if subresource == Some("scale") {
        let is_ancient = others.iter().any(|entry| text(entry, "manager") == ANCIENT);
        return match (own.is_empty(), is_ancient) {
            (false, _) => SetBy::Manager,
            (true, true) => SetBy::Unknown,
            (true, false) => SetBy::Another,
        };
    }
    let deepest = |entries: &[&Value], path: &FieldPath| {
        let fields = entries.iter().filter_map(|entry| entry.get("fieldsV1")?.as_object());
        fields.filter_map(|fields| owned(fields, object, &path.0)).max()
    };
    let (known, ancient): (Vec<&Value>, Vec<&Value>) =
        others.iter().partition(|entry| text(entry, "manager") != ANCIENT);
    let mut found = SetBy::Unknown;
    for path in changes.iter().flat_map(|change| places(change, object)) {
        let (mine, theirs) = (deepest(&own, &path), deepest(&known, &path));
        // An empty map that somebody owns stays theirs when another fills it.
        if mine.is_some() && mine >= theirs {
            return SetBy::Manager;
        }
        if theirs.is_some() && deepest(&ancient, &path).is_none() {
            found = SetBy::Another;
        }
    }
    found
}

fn text<'e>(entry: &'e Value, member: &str) -> &'e str {
    entry.get(member).and_then(Value::as_str).unwrap_or_default()
}

/// Where the new values of a change are in the object. Of a list that is given whole, only what is new in it.
fn places(change: &FieldChange, object: &Value) -> Vec<FieldPath> {
    let Ok(path) = change.path.parse::<FieldPath>() else { return Vec::new() };
    let Some(there) = path.get(object).filter(|_| change.to.is_some()) else { return Vec::new() };
    let (Some(Value::Array(before)), Value::Array(items)) = (&change.from, there) else { return vec![path] };
    let is_new = |(_, item): &(usize, &Value)| !before.contains(item);
    items.iter().enumerate().filter(is_new).map(|(index, _)| path.join(PathElement::Index(index))).collect()
}

/// How far down a set of fields in the notation `FieldsV1` holds `path` below `value`, or part of it; `None` where it does not.
/// Items of lists stand in it by their keys (`k:`), by value (`v:`) or by position (`i:`); what is owned as a whole has no
/// members.
fn owned(fields: &Map<String, Value>, value: &Value, path: &[PathElement]) -> Option<usize> {
    let Some((first, rest)) = path.split_first() else { return Some(0) };
    if fields.is_empty() {
        return Some(0);
    }
    let below = |member: &Value, value: &Value| Some(owned(member.as_object()?, value, rest)? + 1);
    let (index, item) = match first {
        PathElement::Key(key) => return below(fields.get(&format!("f:{key}"))?, value.get(key)?),
        PathElement::Index(index) => (Some(*index), value.get(index)?),
        PathElement::Item { .. } => {
            let found = FieldPath(vec![first.clone()]).get(value)?;
            (value.as_array()?.iter().position(|item| std::ptr::eq(found, item)), found)
        }
    };
    let is_it = |name: &str| match name.split_once(':') {
        Some(("k", keys)) => has_members(item, keys),
        Some(("v", value)) => serde_json::from_str::<Value>(value).is_ok_and(|value| value == *item),
        Some(("i", position)) => position.parse().ok() == index,
        _ => false,
    };
    fields.iter().filter(|(name, _)| is_it(name)).filter_map(|(_, member)| below(member, item)).max()
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
        assert_eq!(asked("countersign", None, &["spec.template.spec.containers[name=web].args"]), SetBy::Another);
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
    fn of_a_list_that_is_given_whole_only_what_is_new_counts() {
        let finalizers = |from: Value| FieldChange {
            path: "metadata.finalizers".into(),
            from: Some(from),
            to: Some(json!(["a/b", "c/d"])),
            ..FieldChange::default()
        };
        let asked = |manager: &str, from: Value| set_by(&deployment(), manager, None, &[finalizers(from)]);
        assert_eq!(asked("countersign", json!(["a/b"])), SetBy::Manager);
        assert_eq!(asked("kubectl", json!(["a/b"])), SetBy::Another);
        assert_eq!(asked("kubectl", json!(["c/d"])), SetBy::Manager);
        assert_eq!(asked("kubectl", json!(["c/d", "a/b"])), SetBy::Unknown, "only their order");
    }

    #[test]
    fn whoever_fills_an_empty_map_that_another_set_is_who_set_it() {
        let managed = |manager: &str, fields: Value| json!({ "manager": manager, "fieldsV1": { "f:spec": { "f:resources": fields } } });
        let object = json!({
            "metadata": { "managedFields": [managed("countersign", json!({})), managed("kubectl", json!({ "f:limits": { ".": {}, "f:cpu": {} } }))] },
            "spec": { "resources": { "limits": { "cpu": "1" } } },
        });
        let limits = FieldChange {
            path: "spec.resources.limits".into(),
            to: Some(json!({ "cpu": "1" })),
            ..FieldChange::default()
        };
        assert_eq!(set_by(&object, "countersign", None, std::slice::from_ref(&limits)), SetBy::Another);
        assert_eq!(set_by(&object, "kubectl", None, &[limits]), SetBy::Manager);
    }

    #[test]
    fn what_nobody_or_nobody_known_owns_tells_nothing() {
        let defaulted = "spec.template.spec.containers[name=log].image";
        assert_eq!(asked("countersign", None, &[defaulted]), SetBy::Unknown);
        let image = "spec.template.spec.containers[name=web].image";
        assert_eq!(asked("kubectl", None, &[defaulted, image]), SetBy::Another);
        let mut object = deployment();
        object["metadata"]["managedFields"][1]["manager"] = json!(ANCIENT);
        let change = FieldChange { path: image.into(), to: Some(json!("web:2")), ..FieldChange::default() };
        assert_eq!(set_by(&object, "kubectl", None, std::slice::from_ref(&change)), SetBy::Unknown);
        object["metadata"]["managedFields"].as_array_mut().unwrap().truncate(2);
        assert_eq!(set_by(&object, "countersign", Some("scale"), &[change]), SetBy::Unknown);
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
