use super::*;
use crate::cluster::diff;
use proptest::prelude::*;
use serde_json::json;

fn undone(before: &Value, after: &Value, live: &Value) -> (Value, Inverse) {
    let inverse = inverse(&diff(Some(before), Some(after)), live);
    let mut object = live.clone();
    json_patch::patch(&mut object, &inverse.patch).unwrap();
    (object, inverse)
}

#[test]
fn only_our_own_fields_go_back() {
    let object = |image: &str, replicas: u32, extra: Value| {
        json!({ "metadata": { "name": "web", "annotations": extra }, "spec": { "replicas": replicas, "containers": [
            { "name": "side", "image": "side:1" }, { "name": "web", "image": image }] } })
    };
    let before = object("web:1", 2, json!({}));
    let after = object("web:2", 5, json!({ "ours": "1" }));
    let live = object("web:2", 7, json!({ "ours": "1", "theirs": "2" }));
    let (object_after, inverse) = undone(&before, &after, &live);
    assert_eq!(object_after, object("web:1", 7, json!({ "theirs": "2" })));
    assert_eq!(inverse.kept, [Drift { path: "spec.replicas".into(), expected: Some(json!(5)), found: Some(json!(7)) }]);
    let operations: Vec<String> = inverse.patch.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(operations.join("\n"), @r#"
    {"op":"test","path":"/metadata/annotations/ours","value":"1"}
    {"op":"test","path":"/spec/containers/1/name","value":"web"}
    {"op":"test","path":"/spec/containers/1/image","value":"web:2"}
    {"op":"replace","path":"/spec/containers/1/image","value":"web:1"}
    {"op":"remove","path":"/metadata/annotations/ours"}
    "#);
}

#[test]
fn items_come_and_go_without_moving_each_other() {
    let list =
        |names: &[&str]| json!({ "env": names.iter().map(|n| json!({ "name": n, "v": [n] })).collect::<Vec<_>>() });
    for (before, after) in [
        (list(&["a", "b", "c", "d"]), list(&["x", "a", "y", "d", "z"])),
        (list(&["a"]), list(&[])),
        (list(&[]), list(&["a", "b", "c"])),
    ] {
        let (object, inverse) = undone(&before, &after, &after);
        assert!(diff(Some(&before), Some(&object)).is_empty(), "{object}");
        assert!(inverse.kept.is_empty());
    }
}

#[test]
fn what_the_server_dropped_as_empty_is_made_again() {
    let before =
        json!({ "metadata": { "labels": { "a/b": "1" } }, "spec": { "list": [{ "name": "x" }, { "name": "y" }] } });
    let after = json!({ "metadata": { "labels": {} }, "spec": { "list": [] } });
    let live = json!({ "metadata": {}, "spec": {} });
    let (object, inverse) = undone(&before, &after, &live);
    assert_eq!(object, before);
    assert!(inverse.kept.is_empty());
}

#[test]
fn a_map_that_was_added_may_hold_what_others_added() {
    let before = json!({ "spec": { "template": {} } });
    let after = json!({ "spec": { "template": { "nodeSelector": { "disk": "ssd" } } } });
    let changes = diff(Some(&before), Some(&after));
    let live = json!({ "spec": { "template": { "nodeSelector": { "disk": "ssd", "zone": "a" } } } });
    assert!(landed(&changes, &live));
    let (object, inverse) = undone(&before, &after, &live);
    assert_eq!(object, json!({ "spec": { "template": { "nodeSelector": { "zone": "a" } } } }));
    assert!(inverse.kept.is_empty());
    let others = json!({ "spec": { "template": { "nodeSelector": { "zone": "a" } } } });
    assert!(drift(&changes, &others).is_empty());
    let same_key = json!({ "spec": { "template": { "nodeSelector": { "disk": "hdd" } } } });
    assert_eq!(drift(&changes, &same_key)[0].path, "spec.template.nodeSelector.disk");
}

#[test]
fn drift_is_about_the_fields_of_the_diff_only() {
    let before = json!({ "spec": { "replicas": 2, "image": "a" } });
    let after = json!({ "spec": { "replicas": 5, "image": "a" } });
    let changes = diff(Some(&before), Some(&after));
    assert!(drift(&changes, &json!({ "spec": { "replicas": 2, "image": "b" } })).is_empty());
    assert_eq!(drift(&changes, &json!({ "spec": { "replicas": 3 } }))[0].found, Some(json!(3)));
    assert_eq!(drift(&changes, &json!({}))[0].found, None);
    let nonsense = FieldChange { path: "a..b".into(), ..FieldChange::default() };
    assert_eq!(drift(std::slice::from_ref(&nonsense), &before).len(), 1);
    assert!(!landed(std::slice::from_ref(&nonsense), &before));
    let secret =
        FieldChange { path: "spec.image".into(), from: Some(json!("‹redacted›")), redacted: true, ..nonsense };
    assert!(drift(std::slice::from_ref(&secret), &before).is_empty());
    assert_eq!(inverse(&[secret], &before).kept.len(), 1);
}

#[test]
fn a_deletion_is_about_the_object_itself() {
    let object =
        json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "a", "namespace": "b" }, "spec": { "x": 1 } });
    let changes = diff(Some(&object), None);
    assert!(drift(&changes, &object).is_empty());
    assert_eq!(drift(&changes, &json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "z" } })).len(), 1);
    assert!(!landed(&changes, &object));
    assert!(landed(&changes, &Value::Null));
}

/// Objects much like those of Kubernetes: maps, lists of named items, plain lists, bookkeeping.
fn object() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(Value::from),
        (0..4i32).prop_map(Value::from),
        "[a-c]{0,2}".prop_map(Value::from),
    ];
    let value = leaf.prop_recursive(4, 40, 4, |inner| {
        let key = prop_oneof![
            "[a-c]",
            Just("containers".into()),
            Just("env".into()),
            Just("initContainers".into()),
            Just("metadata".into()),
            Just("labels".into()),
            Just("a/b~c".into()),
            Just("0".into())
        ];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(key, inner.clone(), 0..4).prop_map(|map| json!(map)),
            proptest::collection::btree_map("[a-d]", inner.clone(), 0..4).prop_flat_map(|map| {
                let items: Vec<Value> =
                    map.into_iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
                Just(items).prop_shuffle().prop_map(Value::from)
            }),
            proptest::collection::btree_map(0..3u8, inner, 0..3)
                .prop_map(|map| { map.into_iter().map(|(port, value)| json!({ "port": port, "x": value })).collect() }),
        ]
    });
    (proptest::collection::btree_map("[a-c]", value.clone(), 0..4), value.clone(), 0..3u8).prop_map(|(spec, more, version)| {
        json!({ "apiVersion": "v1", "kind": "Thing", "spec": spec, "more": more, "status": { "seen": version },
            "metadata": { "name": "x", "resourceVersion": version.to_string(), "labels": { "v": version.to_string() } } })
    })
}

/// The same object in one form, by rules written down a second time: no bookkeeping, no nulls, no empty label maps,
/// named items in the order of their names unless it matters.
fn plain(value: &Value, key: &str, root: bool) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields
                .iter()
                .filter(|(name, value)| {
                    !(value.is_null()
                        || root && *name == "status"
                        || *name == "resourceVersion"
                        || key == "metadata"
                            && *name == "labels"
                            && value.as_object().is_some_and(|map| map.values().all(Value::is_null)))
                })
                .map(|(name, value)| (name.clone(), plain(value, name, false)))
                .collect(),
        ),
        Value::Array(items) => {
            let mut items: Vec<Value> = items.iter().map(|item| plain(item, "", false)).collect();
            let named = |items: &[Value], by: &str| {
                let names: Vec<_> =
                    items.iter().filter_map(|item| item.get(by)).filter(|v| v.is_string() || v.is_number()).collect();
                names.len() == items.len()
                    && names.iter().map(ToString::to_string).collect::<BTreeSet<_>>().len() == names.len()
            };
            let by = ["name", "port"].into_iter().find(|by| named(&items, by));
            if let Some(by) = by
                && key != "initContainers"
            {
                items.sort_by_key(|item| item[by].to_string());
            }
            Value::Array(items)
        }
        other => other.clone(),
    }
}

/// `object` with a new member that no generated object has, somewhere in it.
fn with_foreign_changes(object: &mut Value) {
    object["spec"]["foreign"] = json!({ "by": "others" });
    object["metadata"]["labels"]["foreign"] = json!("others");
}

proptest! {
    #[test]
    fn a_diff_is_empty_exactly_for_equal_objects(a in object(), b in object()) {
        let equal = plain(&a, "", true) == plain(&b, "", true);
        prop_assert_eq!(diff(Some(&a), Some(&b)).is_empty(), equal);
        prop_assert!(diff(Some(&a), Some(&a)).is_empty());
    }

    #[test]
    fn no_change_lies_within_another(a in object(), b in object()) {
        for (before, after) in [(Some(&a), Some(&b)), (None, Some(&b))] {
            let paths: Vec<FieldPath> = diff(before, after).iter().map(|change| change.path.parse().unwrap()).collect();
            for (i, one) in paths.iter().enumerate() {
                for (j, other) in paths.iter().enumerate() {
                    prop_assert!(i == j || !one.starts_with(other), "{one} and {other}");
                }
            }
        }
    }

    #[test]
    fn a_diff_has_landed_in_the_object_that_it_leads_to(a in object(), b in object()) {
        let changes = diff(Some(&a), Some(&b));
        prop_assert!(landed(&changes, &b));
        prop_assert!(landed(&diff(None, Some(&b)), &b));
        prop_assert!(drift(&changes, &a).is_empty());
        prop_assert_eq!(changes.is_empty(), drift(&changes, &b).is_empty());
    }

    #[test]
    fn the_inverse_leads_back(a in object(), b in object()) {
        let (result, inverse) = undone(&a, &b, &b);
        prop_assert!(inverse.kept.is_empty(), "{:?}", inverse.kept);
        let rest = diff(Some(&a), Some(&result));
        prop_assert!(rest.is_empty(), "{rest:?} after {}", inverse.patch);
    }

    #[test]
    fn the_inverse_leaves_foreign_changes_alone(a in object(), b in object()) {
        let mut live = b.clone();
        with_foreign_changes(&mut live);
        let (result, inverse) = undone(&a, &b, &live);
        prop_assert!(inverse.kept.is_empty(), "{:?}", inverse.kept);
        let mut wanted = a.clone();
        with_foreign_changes(&mut wanted);
        prop_assert!(diff(Some(&wanted), Some(&result)).is_empty(), "{result}");
    }

    #[test]
    fn the_inverse_on_any_object_applies(a in object(), b in object(), live in object()) {
        undone(&a, &b, &live);
    }
}
