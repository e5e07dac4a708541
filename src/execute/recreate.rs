//! Creating a deleted object again, from its snapshot.

use super::effect::{EffectError, Effects, Subject};
use super::evidence::{GONE_UNKNOWN, is_ours};
use super::snapshot::Snapshot;
use super::undo::Put;
use crate::api::{ObjectRef, Operation, ResourceId};
use crate::cluster::{ClusterError, WriteOptions};
use futures::StreamExt;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// How long a deletion that is under way is waited for before the object is created again.
const DELETION_WAIT: Duration = Duration::from_secs(120);

/// Values that the API server gave out to the old object. They are asked for again, and given up when somebody else has
/// them by now.
struct Allocated {
    kind: &'static str,
    /// How a refusal names the field.
    named: &'static str,
    /// Where the values are, below `spec`; `*` stands for every item of a list.
    fields: &'static [&'static [&'static str]],
}

const ALLOCATED: [Allocated; 3] = [
    Allocated { kind: "Service", named: "clusterIP", fields: &[&["clusterIP"], &["clusterIPs"]] },
    Allocated { kind: "Service", named: "nodePort", fields: &[&["ports", "*", "nodePort"]] },
    Allocated { kind: "Service", named: "healthCheckNodePort", fields: &[&["healthCheckNodePort"]] },
];

/// Annotations by which the controller of volumes remembers that a claim was bound. With them, a claim whose volume is gone
/// counts as lost and gets no other.
const BOUND_BEFORE: [&str; 3] =
    ["pv.kubernetes.io/bind-completed", "pv.kubernetes.io/bound-by-controller", "volume.kubernetes.io/selected-node"];

/// What stands in the way of the old volume of a claim.
#[derive(Debug, PartialEq, Eq)]
enum Volume {
    Free,
    /// Its data is kept, but somebody has to release it.
    Kept,
    Gone,
}

impl Effects {
    /// Creates a deleted object again, as it was before the step.
    pub(super) async fn recreate(&self, subject: &Subject<'_>, snapshot: &Snapshot) -> Result<Put, EffectError> {
        let target = &subject.target;
        let Some(before) = &snapshot.before else {
            return Ok(Put::Impossible(format!("there is no snapshot of {target}")));
        };
        if before.pointer("/metadata/deletionTimestamp").is_some() {
            return Ok(Put::Back(format!("{target} was being deleted by somebody else already, and stays deleted")));
        }
        if let Some(live) = self.live(subject).await? {
            if ResourceId::of(&live).uid != ResourceId::of(before).uid {
                let by = if is_ours(&live) { "" } else { ", created by somebody else, and stays" };
                return Ok(Put::Back(format!("{target} exists again already{by}")));
            }
            if live.pointer("/metadata/deletionTimestamp").is_none() {
                return Ok(Put::Back(format!("{target} was not deleted")));
            }
            if !self.is_gone_within(subject, DELETION_WAIT).await {
                let left = "its deletion is under way and does not end (finalizers), so it cannot be created again";
                return Ok(Put::Impossible(format!("{target}: {left}")));
            }
        }
        let mut notes = Vec::new();
        let owners = self.owners_alive(before, &mut notes).await?;
        let mut manifest = revived(before, &owners);
        self.free_claim(target, &mut manifest, &mut notes).await?;
        let options = WriteOptions { absent: true, ..WriteOptions::default() };
        loop {
            match self.write(subject, &Operation::apply(manifest.clone()), &options).await {
                Ok(_) => break,
                Err(error) if error.is_conflict() => return Ok(Put::Again),
                Err(error @ ClusterError::Invalid { .. }) => {
                    match give_up_allocated(&mut manifest, error.server_message()) {
                        Some(note) => notes.push(note),
                        None => return Err(error.into()),
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        if let Some(lost) = &subject.step.rollback.reason {
            notes.push(format!("what could not come back: {lost}"));
        }
        if subject.entry.result.is_none() {
            notes.push(GONE_UNKNOWN.to_owned());
        }
        let notes: String = notes.iter().map(|note| format!("; {note}")).collect();
        Ok(Put::Back(format!("created {target} again{notes}")))
    }

    async fn is_gone_within(&self, subject: &Subject<'_>, time: Duration) -> bool {
        let gone = async {
            let mut objects = self.access.watch(&subject.kind, &subject.target).await;
            while let Some(seen) = objects.next().await {
                if matches!(seen, Ok(None)) {
                    return true;
                }
            }
            false
        };
        tokio::time::timeout(time, gone).await.unwrap_or(false)
    }

    /// The owner references whose owners still exist: an object whose owners are gone would be collected at once. One that
    /// may not be read counts as gone.
    async fn owners_alive(&self, before: &Value, notes: &mut Vec<String>) -> Result<Vec<Value>, ClusterError> {
        let catalog = self.cluster.catalog().await?;
        let namespace = before.pointer("/metadata/namespace").and_then(Value::as_str);
        let owners = before.pointer("/metadata/ownerReferences").and_then(Value::as_array);
        let mut alive = Vec::new();
        for owner in owners.into_iter().flatten() {
            let text = |field: &str| owner.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
            let (kind_name, name) = (text("kind"), text("name"));
            let namespace = namespace.map(str::to_owned);
            let mut reference =
                ObjectRef { api_version: text("apiVersion"), kind: kind_name.clone(), namespace, name: name.clone() };
            let live = match catalog.of(&reference) {
                None => Ok(None),
                Some(kind) => {
                    reference.namespace = reference.namespace.filter(|_| kind.namespaced);
                    self.access.get(kind, &reference).await
                }
            };
            match live {
                Ok(Some(live)) if live.pointer("/metadata/uid") == owner.get("uid") => alive.push(owner.clone()),
                Ok(_) => notes.push(format!("without its owner {kind_name} {name}, which is gone")),
                Err(error) if error.is_forbidden() => {
                    notes.push(format!("without its owner {kind_name} {name}, which this account may not read"));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(alive)
    }

    /// A claim comes back bound to its volume only if that is still there for it.
    async fn free_claim(
        &self,
        target: &ObjectRef,
        manifest: &mut Value,
        notes: &mut Vec<String>,
    ) -> Result<(), ClusterError> {
        if target.kind != "PersistentVolumeClaim" || !target.group().is_empty() {
            return Ok(());
        }
        let Some(name) = manifest.pointer("/spec/volumeName").and_then(Value::as_str).map(str::to_owned) else {
            return Ok(());
        };
        let catalog = self.cluster.catalog().await?;
        let Some(kind) = catalog.by_group_kind("", "PersistentVolume") else { return Ok(()) };
        match self.access.get(kind, &kind.object(None, &name)).await {
            Ok(volume) => match state_of(volume.as_ref(), target) {
                Volume::Free => {}
                Volume::Kept => notes.push(format!(
                    "its volume {name} is Released and keeps the data, but binds again only once somebody removes spec.claimRef.uid from it"
                )),
                Volume::Gone => {
                    remove(manifest, &["spec", "volumeName"]);
                    notes.push(format!("its volume {name} is gone, so it gets a new, empty one"));
                }
            },
            Err(error) if error.is_forbidden() => notes.push(format!(
                "this account may not read its volume {name}: where that is gone or Released, the claim does not bind"
            )),
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

fn state_of(volume: Option<&Value>, claim: &ObjectRef) -> Volume {
    let Some(volume) = volume else { return Volume::Gone };
    let text = |pointer: &str| volume.pointer(pointer).and_then(Value::as_str);
    let is_ours = text("/spec/claimRef/name").is_none()
        || (text("/spec/claimRef/name") == Some(&claim.name)
            && text("/spec/claimRef/namespace") == claim.namespace.as_deref());
    let goes = text("/metadata/deletionTimestamp").is_some()
        || (text("/spec/persistentVolumeReclaimPolicy") == Some("Delete") && text("/spec/claimRef/uid").is_some());
    match (is_ours && !goes, text("/spec/claimRef/uid")) {
        (false, _) => Volume::Gone,
        (true, None) => Volume::Free,
        (true, Some(_)) => Volume::Kept,
    }
}

/// Takes the allocated values that a refusal speaks of out of the manifest, and says which.
fn give_up_allocated(manifest: &mut Value, refusal: &str) -> Option<String> {
    let kind = manifest.get("kind").and_then(Value::as_str)?.to_owned();
    let mut given_up = Vec::new();
    for allocated in ALLOCATED.iter().filter(|one| one.kind == kind && refusal.contains(one.named)) {
        let spec = manifest.get_mut("spec")?;
        let found = allocated.fields.iter().filter(|path| remove(spec, path)).count();
        if found > 0 {
            given_up.push(allocated.named);
        }
    }
    (!given_up.is_empty())
        .then(|| format!("with another {}, because somebody else has the old one", given_up.join(" and ")))
}

/// Removes a field; `*` stands for every item of a list. Whether there was one.
fn remove(value: &mut Value, path: &[&str]) -> bool {
    match path {
        [] => false,
        [last] => value.as_object_mut().is_some_and(|map| map.remove(*last).is_some()),
        ["*", rest @ ..] => {
            let items = value.as_array_mut().into_iter().flatten();
            items.map(|item| remove(item, rest)).fold(false, |any, one| any | one)
        }
        [first, rest @ ..] => value.get_mut(*first).is_some_and(|inner| remove(inner, rest)),
    }
}

/// The manifest that creates a deleted object again: without what the API server sets, and without status.
fn revived(before: &Value, owners: &[Value]) -> Value {
    const SERVER_SET: [&str; 9] = [
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "managedFields",
        "selfLink",
        "ownerReferences",
    ];
    let mut manifest = before.clone();
    if let Some(object) = manifest.as_object_mut() {
        object.remove("status");
    }
    let kind = manifest.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    if let Some(metadata) = manifest.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in SERVER_SET {
            metadata.remove(field);
        }
        if !owners.is_empty() {
            metadata.insert("ownerReferences".to_owned(), Value::Array(owners.to_vec()));
        }
        // These order how the old object was to go; all other finalizers are their controllers' and stay.
        if let Some(finalizers) = metadata.get_mut("finalizers").and_then(Value::as_array_mut) {
            finalizers.retain(|finalizer| finalizer != "foregroundDeletion" && finalizer != "orphan");
        }
        if kind == "PersistentVolumeClaim"
            && let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut)
        {
            annotations.retain(|key, _| !BOUND_BEFORE.contains(&key.as_str()));
        }
    }
    if let Some(spec) = manifest.get_mut("spec").and_then(Value::as_object_mut) {
        clean_spec(&kind, spec);
    }
    manifest
}

/// Fields of a spec that belong to the old object's life.
fn clean_spec(kind: &str, spec: &mut Map<String, Value>) {
    match kind {
        "Pod" => {
            spec.remove("nodeName");
        }
        "Namespace" => {
            spec.remove("finalizers");
        }
        "Job" if spec.get("manualSelector") != Some(&json!(true)) => {
            // The selector and the labels that go with it carry the old job's uid.
            spec.remove("selector");
            if let Some(labels) =
                spec.get_mut("template").and_then(|t| t.pointer_mut("/metadata/labels")).and_then(Value::as_object_mut)
            {
                labels.retain(|key, _| !key.ends_with("controller-uid") && !key.ends_with("job-name"));
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revived_object_leaves_its_old_life_behind() {
        let before = json!({
            "apiVersion": "batch/v1", "kind": "Job",
            "metadata": { "name": "j", "namespace": "n", "uid": "u", "resourceVersion": "5", "labels": { "a": "b" },
                          "finalizers": ["foregroundDeletion", "example.com/own"],
                          "ownerReferences": [{ "uid": "gone" }], "managedFields": [] },
            "spec": { "selector": { "matchLabels": { "batch.kubernetes.io/controller-uid": "u" } },
                      "template": { "metadata": { "labels": { "batch.kubernetes.io/controller-uid": "u", "app": "x" } } } },
            "status": { "succeeded": 1 }
        });
        assert_eq!(
            revived(&before, &[]),
            json!({
                "apiVersion": "batch/v1", "kind": "Job",
                "metadata": { "name": "j", "namespace": "n", "labels": { "a": "b" }, "finalizers": ["example.com/own"] },
                "spec": { "template": { "metadata": { "labels": { "app": "x" } } } }
            })
        );
    }

    #[test]
    fn a_job_that_names_its_own_pods_keeps_doing_so() {
        let before =
            json!({ "kind": "Job", "spec": { "manualSelector": true, "selector": { "matchLabels": { "a": "b" } } } });
        assert_eq!(revived(&before, &[]), before);
    }

    #[test]
    fn a_claim_forgets_that_it_was_bound() {
        let before = json!({ "kind": "PersistentVolumeClaim", "metadata": { "annotations": {
            "pv.kubernetes.io/bind-completed": "yes", "team": "shop" } } });
        assert_eq!(revived(&before, &[])["metadata"]["annotations"], json!({ "team": "shop" }));
    }

    #[test]
    fn only_what_somebody_else_has_by_now_is_given_up() {
        let service = || {
            json!({ "kind": "Service", "spec": { "clusterIP": "10.0.0.5", "clusterIPs": ["10.0.0.5"], "type": "NodePort",
                "ports": [{ "port": 80, "nodePort": 30080 }, { "port": 81, "nodePort": 30081 }] } })
        };
        let mut manifest = service();
        let refusal = r#"Service "web" is invalid: spec.clusterIPs: Invalid value: ["10.0.0.5"]: failed to allocate IP 10.0.0.5: provided IP is already allocated"#;
        let note = give_up_allocated(&mut manifest, refusal).unwrap();
        insta::assert_snapshot!(note, @"with another clusterIP, because somebody else has the old one");
        assert_eq!(manifest["spec"].get("clusterIPs"), None);
        assert_eq!(manifest["spec"]["ports"][0]["nodePort"], 30080);
        let refusal = r#"Service "web" is invalid: spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated"#;
        assert!(give_up_allocated(&mut manifest, refusal).is_some());
        assert_eq!(manifest["spec"]["ports"], json!([{ "port": 80 }, { "port": 81 }]));
        assert_eq!(give_up_allocated(&mut manifest, refusal), None, "once is enough");
        assert_eq!(give_up_allocated(&mut service(), "spec.type: Unsupported value"), None);
    }

    #[test]
    fn a_volume_is_there_for_its_claim_or_not() {
        let claim = ObjectRef {
            api_version: "v1".into(),
            kind: "PersistentVolumeClaim".into(),
            namespace: Some("shop".into()),
            name: "data".into(),
        };
        let volume = |policy: &str, claim: Value| json!({ "spec": { "persistentVolumeReclaimPolicy": policy, "claimRef": claim } });
        let ours = |uid: Value| json!({ "namespace": "shop", "name": "data", "uid": uid });
        let state = |volume: Value| state_of(Some(&volume), &claim);
        assert_eq!(state_of(None, &claim), Volume::Gone);
        assert_eq!(state(volume("Retain", Value::Null)), Volume::Free);
        assert_eq!(state(volume("Retain", ours(Value::Null))), Volume::Free);
        assert_eq!(state(volume("Retain", ours(json!("old")))), Volume::Kept);
        assert_eq!(state(volume("Delete", ours(json!("old")))), Volume::Gone, "it is about to be deleted");
        assert_eq!(state(volume("Retain", json!({ "namespace": "shop", "name": "other" }))), Volume::Gone);
    }
}
