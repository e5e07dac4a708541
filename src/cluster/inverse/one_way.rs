use crate::api::{FieldChange, FieldPath};
use serde_json::{Value, json};

/// Why the API server would refuse to take this change of `live` back, if it is one of those that go one way only. `live` is
/// the object before the change.
///
/// The rules are those of the API server's own validation; what a custom resource or a webhook forbids is found out only
/// when it is tried.
#[must_use]
pub fn one_way(kind: &str, live: &Value, change: &FieldChange) -> Option<String> {
    let path: FieldPath = change.path.parse().ok()?;
    let at = |wanted: &str| wanted.parse::<FieldPath>().is_ok_and(|wanted| path == wanted);
    let within = |wanted: &str| wanted.parse::<FieldPath>().is_ok_and(|wanted| path.starts_with(&wanted));
    let is_going = live.pointer("/metadata/deletionTimestamp").is_some();
    match kind {
        _ if is_going && within("metadata.finalizers") => {
            Some("it is being deleted, and goes for good once its finalizers are taken off".to_owned())
        }
        "ConfigMap" | "Secret" if at("immutable") && change.to == Some(json!(true)) => {
            Some("what is immutable once stays so".to_owned())
        }
        "PersistentVolumeClaim" if within("spec.resources.requests") => Some("a volume does not shrink".to_owned()),
        "PersistentVolumeClaim" if at("spec.volumeName") => Some("a claim keeps the volume it is bound to".to_owned()),
        "Pod" if within("spec.ephemeralContainers") => Some("ephemeral containers cannot be removed".to_owned()),
        "Pod" if within("spec.tolerations") => Some("tolerations can only be added to a pod".to_owned()),
        "Pod" if within("spec.schedulingGates") => Some("scheduling gates can only be taken off".to_owned()),
        "Pod" if at("spec.activeDeadlineSeconds") => Some("a pod's deadline can only come nearer".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(path: &str, from: Value, to: Value) -> FieldChange {
        FieldChange { path: path.into(), from: Some(from), to: Some(to), redacted: false }
    }

    #[test]
    fn what_goes_one_way_is_told() {
        let plain = json!({});
        let going = json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" } });
        let grow = change("spec.resources.requests.storage", json!("1Gi"), json!("2Gi"));
        for (kind, live, change, one_way_only) in [
            ("ConfigMap", &plain, change("immutable", Value::Null, json!(true)), true),
            ("ConfigMap", &plain, change("data.immutable", Value::Null, json!(true)), false),
            ("ConfigMap", &plain, change("data.a", json!("1"), json!("2")), false),
            ("PersistentVolumeClaim", &plain, grow.clone(), true),
            ("StatefulSet", &plain, grow, false),
            ("Pod", &plain, change("spec.tolerations", json!([]), json!([{ "key": "a" }])), true),
            ("Widget", &plain, change("metadata.finalizers", json!(["a"]), json!([])), false),
            ("Widget", &going, change("metadata.finalizers", json!(["a"]), json!([])), true),
        ] {
            assert_eq!(one_way(kind, live, &change).is_some(), one_way_only, "{kind} {change:?}");
        }
    }
}
