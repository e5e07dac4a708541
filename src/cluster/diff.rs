//! What changed between two states of an object, field by field.

use crate::api::{FieldChange, FieldPath, PathElement};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// Members of `metadata` that the API server keeps for itself.
const SERVER_METADATA: [&str; 8] = [
    "managedFields",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "uid",
    "selfLink",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
];
/// Annotations that clients and controllers keep for themselves.
const BOOKKEEPING_ANNOTATIONS: [&str; 2] =
    ["kubectl.kubernetes.io/last-applied-configuration", "deployment.kubernetes.io/revision"];
/// Members that name the items of a list, in the order in which they are tried.
const ITEM_KEYS: [&str; 11] =
    ["name", "containerPort", "key", "type", "ip", "mountPath", "port", "uid", "topologyKey", "host", "devicePath"];

/// The fields in which two states of an object differ, none within another. `None` stands for no object.
///
/// Items of lists are matched by a member that names them on both sides (`[name=web]`) whatever their order, by
/// position in lists of equal length, and a list is replaced whole otherwise. An object that is created gives all its
/// leaves, one that is deleted a single change with an empty path and a summary. Left out is what is no intent: status,
/// what the API server itself writes into `metadata`, and the bookkeeping annotations of kubectl and of deployments. A
/// member that is `null` counts as absent.
#[must_use]
pub fn diff(before: Option<&Value>, after: Option<&Value>) -> Vec<FieldChange> {
    let mut changes = Vec::new();
    let root = FieldPath::default();
    match (before, after) {
        (None, None) => {}
        (None, Some(after)) => leaves(&root, &intent(after), &mut changes),
        (Some(before), None) => {
            changes.push(FieldChange { from: Some(summary(before)), ..FieldChange::default() });
        }
        (Some(before), Some(after)) => {
            compare(&root, Some(&intent(before)), Some(&intent(after)), &mut changes);
        }
    }
    changes
}

/// Whether two values are the same in the sense of [`diff`].
pub(super) fn same(a: Option<&Value>, b: Option<&Value>, path: &FieldPath) -> bool {
    let mut changes = Vec::new();
    compare(path, a, b, &mut changes);
    changes.is_empty()
}

/// The member of an object, unless absent or `null`.
pub(super) fn member<'v>(value: &'v Value, key: &str) -> Option<&'v Value> {
    value.get(key).filter(|value| !value.is_null())
}

/// What a printed path element calls this value, if it can name an item.
fn as_name(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// The object without what is no intent.
fn intent(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
        if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
            for key in SERVER_METADATA {
                metadata.remove(key);
            }
            if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
                for key in BOOKKEEPING_ANNOTATIONS {
                    annotations.remove(key);
                }
            }
        }
    }
    object
}

fn compare(path: &FieldPath, before: Option<&Value>, after: Option<&Value>, changes: &mut Vec<FieldChange>) {
    let nothing = Value::Object(Map::new());
    match (before, after) {
        (None, None) => {}
        (Some(Value::Object(b)), Some(Value::Object(a))) => {
            let in_metadata = path.0.last() == Some(&PathElement::Key("metadata".to_owned()));
            let keys: BTreeSet<&String> = b.keys().chain(a.keys()).collect();
            for key in keys {
                let (mut before, mut after) = (b.get(key), a.get(key));
                // Absent and empty are the same here, and single labels read better than a whole map.
                let is_map = |value: Option<&Value>| value.is_none_or(|value| value.is_null() || value.is_object());
                if in_metadata && is_metadata_map(key) && is_map(before) && is_map(after) {
                    before = before.filter(|value| !value.is_null()).or(Some(&nothing));
                    after = after.filter(|value| !value.is_null()).or(Some(&nothing));
                }
                let present = |value: Option<&Value>| value.filter(|value| !value.is_null()).cloned();
                let (before, after) = (present(before), present(after));
                compare(&path.join(PathElement::Key(key.clone())), before.as_ref(), after.as_ref(), changes);
            }
        }
        (Some(Value::Array(b)), Some(Value::Array(a))) => compare_lists(path, b, a, changes),
        (Some(before), Some(after)) if scalars_equal(before, after) => {}
        (before, after) => changes.push(FieldChange {
            path: path.to_string(),
            from: before.cloned(),
            to: after.cloned(),
            redacted: false,
        }),
    }
}

pub(super) fn is_metadata_map(key: &str) -> bool {
    matches!(key, "labels" | "annotations")
}

/// Stored numbers may come back in another form: 1.0 as 1.
fn scalars_equal(a: &Value, b: &Value) -> bool {
    a == b || matches!((a, b), (Value::Number(a), Value::Number(b)) if a.as_f64() == b.as_f64())
}

fn compare_lists(path: &FieldPath, before: &[Value], after: &[Value], changes: &mut Vec<FieldChange>) {
    if let Some(key) = list_key(path, before, after) {
        let item = |name: &str| path.join(PathElement::Item { key: key.to_owned(), value: name.to_owned() });
        for old in before {
            let name = name_of(old, key);
            let new = after.iter().find(|new| name_of(new, key) == name);
            compare(&item(&name), Some(old), new, changes);
        }
        for new in after {
            let name = name_of(new, key);
            if !before.iter().any(|old| name_of(old, key) == name) {
                compare(&item(&name), None, Some(new), changes);
            }
        }
        return;
    }
    // A change from or to `null` could not be told from one from or to nothing; a list of named items in another order
    // is easier to read whole.
    let whole = before.iter().chain(after).any(Value::is_null) || common_key(path, before, after).is_some();
    if before.len() == after.len() && (!whole || before == after) {
        for (position, (old, new)) in before.iter().zip(after).enumerate() {
            compare(&path.join(PathElement::Index(position)), Some(old), Some(new), changes);
        }
    } else {
        changes.push(FieldChange {
            path: path.to_string(),
            from: Some(Value::Array(before.to_vec())),
            to: Some(Value::Array(after.to_vec())),
            redacted: false,
        });
    }
}

fn name_of(item: &Value, key: &str) -> String {
    item.get(key).and_then(as_name).unwrap_or_default()
}

/// The member by which items of both sides are matched, if they can be.
pub(super) fn list_key(path: &FieldPath, before: &[Value], after: &[Value]) -> Option<&'static str> {
    let key = common_key(path, before, after)?;
    // Where the order has a meaning, a list in another order is another list.
    let same_order = || before.iter().map(|item| name_of(item, key)).eq(after.iter().map(|item| name_of(item, key)));
    (!order_matters(path, before, after) || same_order()).then_some(key)
}

/// The member that names the items on both sides, if there is one.
fn common_key(path: &FieldPath, before: &[Value], after: &[Value]) -> Option<&'static str> {
    if before.is_empty() && after.is_empty() {
        return None;
    }
    // The keys by which the API server itself merges these lists; their items may share a name.
    let first: &[&'static str] = match list_name(path) {
        "volumeMounts" => &["mountPath"],
        "ports" => &["containerPort"],
        "volumeDevices" => &["devicePath"],
        _ => &[],
    };
    let names_all = |items: &[Value], key: &str| {
        let names: BTreeSet<String> = items.iter().filter_map(|item| as_name(item.get(key)?)).collect();
        names.len() == items.len()
    };
    first.iter().chain(&ITEM_KEYS).find(|key| names_all(before, key) && names_all(after, key)).copied()
}

fn list_name(path: &FieldPath) -> &str {
    match path.0.last() {
        Some(PathElement::Key(key)) => key,
        _ => "",
    }
}

/// Init containers run one after the other; a variable sees only those before it.
fn order_matters(path: &FieldPath, before: &[Value], after: &[Value]) -> bool {
    let refers = |item: &Value| item.get("value").and_then(Value::as_str).is_some_and(|text| text.contains("$("));
    list_name(path) == "initContainers" || (list_name(path) == "env" && before.iter().chain(after).any(refers))
}

/// Every leaf of an object that is about to be, apart from its identity.
fn leaves(path: &FieldPath, value: &Value, changes: &mut Vec<FieldChange>) {
    if let Value::Array(items) = value
        && let Some(key) = list_key(path, items, items)
    {
        for item in items {
            let element = PathElement::Item { key: key.to_owned(), value: name_of(item, key) };
            leaves(&path.join(element), item, changes);
        }
        return;
    }
    match value {
        Value::Null => {}
        Value::Object(fields) if !fields.is_empty() => {
            for (key, value) in fields {
                let identity = match path.0.as_slice() {
                    [] => matches!(key.as_str(), "apiVersion" | "kind"),
                    [PathElement::Key(parent)] => parent == "metadata" && matches!(key.as_str(), "name" | "namespace"),
                    [.., PathElement::Item { key: name, .. }] => name == key && fields.len() > 1,
                    _ => false,
                };
                if !identity {
                    leaves(&path.join(PathElement::Key(key.clone())), value, changes);
                }
            }
        }
        Value::Object(_) if path.0.is_empty() => {}
        leaf => {
            changes.push(FieldChange { path: path.to_string(), from: None, to: Some(leaf.clone()), redacted: false });
        }
    }
}

/// What an object that goes was, in short: its identity, and of a workload its size and images.
fn summary(object: &Value) -> Value {
    let mut summary = Map::new();
    for (name, pointer) in [
        ("apiVersion", "/apiVersion"),
        ("kind", "/kind"),
        ("name", "/metadata/name"),
        ("namespace", "/metadata/namespace"),
        ("replicas", "/spec/replicas"),
    ] {
        if let Some(value) = object.pointer(pointer) {
            summary.insert(name.to_owned(), value.clone());
        }
    }
    let pods = ["/spec", "/spec/template/spec", "/spec/jobTemplate/spec/template/spec"];
    let images: Vec<&Value> = pods
        .iter()
        .filter_map(|pointer| object.pointer(pointer)?.get("containers")?.as_array())
        .flatten()
        .filter_map(|container| container.get("image"))
        .collect();
    if !images.is_empty() {
        summary.insert("images".to_owned(), json!(images));
    }
    Value::Object(summary)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(before: &Value, after: &Value) -> Vec<String> {
        let text = |value: &Option<Value>| value.as_ref().map_or("–".to_owned(), Value::to_string);
        diff(Some(before), Some(after))
            .iter()
            .map(|change| format!("{}: {} → {}", change.path, text(&change.from), text(&change.to)))
            .collect()
    }

    #[test]
    fn a_release_is_a_few_lines() {
        let before = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": { "name": "checkout", "namespace": "staging", "uid": "u", "resourceVersion": "1", "generation": 1,
                "managedFields": [{}], "annotations": { "deployment.kubernetes.io/revision": "1" } },
            "spec": { "replicas": 2, "template": { "metadata": { "labels": { "app": "checkout" } }, "spec": { "containers": [
                { "name": "web", "image": "web:1", "ports": [{ "containerPort": 80, "protocol": "TCP" }], "args": ["-v", "a"] },
                { "name": "log", "image": "log:1" },
            ], "tolerations": [{ "key": "a" }, { "operator": "Exists" }] } } },
            "status": { "replicas": 2 },
        });
        let after = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": { "name": "checkout", "namespace": "staging", "uid": "u", "resourceVersion": "2", "generation": 2,
                "annotations": { "team/owner": "payments" } },
            "spec": { "replicas": 5, "template": { "metadata": { "labels": { "app": "checkout" },
                "annotations": { "kubectl.kubernetes.io/restartedAt": "now" } }, "spec": { "containers": [
                { "name": "log", "image": "log:1", "resources": { "limits": { "cpu": "1" } } },
                { "name": "web", "image": "web:2", "ports": [
                    { "containerPort": 80, "protocol": "TCP", "name": "http" }, { "containerPort": 443, "protocol": "TCP" }],
                  "args": ["-v", "b"] },
            ], "tolerations": [{ "operator": "Exists" }] } } },
            "status": { "replicas": 5 },
        });
        insta::assert_snapshot!(shown(&before, &after).join("\n"), @r#"
        metadata.annotations["team/owner"]: – → "payments"
        spec.replicas: 2 → 5
        spec.template.metadata.annotations["kubectl.kubernetes.io/restartedAt"]: – → "now"
        spec.template.spec.containers[name=web].args[1]: "a" → "b"
        spec.template.spec.containers[name=web].image: "web:1" → "web:2"
        spec.template.spec.containers[name=web].ports[containerPort=80].name: – → "http"
        spec.template.spec.containers[name=web].ports[containerPort=443]: – → {"containerPort":443,"protocol":"TCP"}
        spec.template.spec.containers[name=log].resources: – → {"limits":{"cpu":"1"}}
        spec.template.spec.tolerations: [{"key":"a"},{"operator":"Exists"}] → [{"operator":"Exists"}]
        "#);
    }

    #[test]
    fn order_counts_only_where_it_means_something() {
        let pod = |list: &str, names: [&str; 2]| json!({ "spec": { list: names.map(|name| json!({ "name": name })) } });
        assert!(shown(&pod("containers", ["a", "b"]), &pod("containers", ["b", "a"])).is_empty());
        assert_eq!(shown(&pod("initContainers", ["a", "b"]), &pod("initContainers", ["b", "a"])).len(), 1);
        let env = |first: &str, second: &str| json!({ "env": [{ "name": first, "value": "x" }, { "name": second, "value": "$(A)/y" }] });
        assert_eq!(shown(&env("A", "B"), &env("B", "A")).len(), 1);
    }

    #[test]
    fn ports_that_share_a_number_are_told_apart_by_name() {
        let ports = |target: u32| json!({ "ports": [{ "name": "dns", "containerPort": 53 }, { "name": "dns-tcp", "containerPort": target }] });
        assert_eq!(shown(&ports(53), &ports(5353)), ["ports[name=dns-tcp].containerPort: 53 → 5353"]);
    }

    #[test]
    fn what_is_created_is_shown_whole_and_what_is_deleted_in_short() {
        let object = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web", "namespace": "a", "uid": "u" },
            "spec": { "replicas": 2, "selector": {}, "template": { "spec": { "containers": [
                { "name": "web", "image": "web:1", "args": ["x", "y"] }] } } },
            "status": {},
        });
        insta::assert_json_snapshot!(diff(None, Some(&object)), @r#"
        [
          {
            "path": "spec.replicas",
            "to": 2
          },
          {
            "path": "spec.selector",
            "to": {}
          },
          {
            "path": "spec.template.spec.containers[name=web].args",
            "to": [
              "x",
              "y"
            ]
          },
          {
            "path": "spec.template.spec.containers[name=web].image",
            "to": "web:1"
          }
        ]
        "#);
        insta::assert_json_snapshot!(diff(Some(&object), None), @r#"
        [
          {
            "path": "",
            "from": {
              "apiVersion": "apps/v1",
              "images": [
                "web:1"
              ],
              "kind": "Deployment",
              "name": "web",
              "namespace": "a",
              "replicas": 2
            }
          }
        ]
        "#);
    }

    #[test]
    fn nothing_is_no_change() {
        assert!(shown(&json!({ "a": null, "metadata": { "labels": {} } }), &json!({ "metadata": {} })).is_empty());
        assert!(shown(&json!({ "a": 1.0 }), &json!({ "a": 1 })).is_empty());
        assert!(diff(None, None).is_empty());
        assert_eq!(shown(&json!({ "a": [null, 1] }), &json!({ "a": [2, 1] })), ["a: [null,1] → [2,1]"]);
    }
}
