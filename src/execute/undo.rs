//! Putting one step back.

use super::effect::{Backoff, EffectError, Effects, Subject};
use super::evidence::is_ours;
use super::journal::Observation;
use super::snapshot::Snapshot;
use crate::api::{Operation, PatchType, ResourceId, Step, StepStatus};
use crate::cluster::{ClusterError, Inverse, WriteOptions, inverse};
use futures::StreamExt;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// How often the inverse is computed anew because the object changed while it was sent.
const MAX_CONFLICTS: u32 = 10;
/// How long a deletion that is under way is waited for before the object is created again.
const DELETION_WAIT: Duration = Duration::from_secs(120);

/// One try at putting back.
enum Put {
    /// Done, with what was put back and what stays.
    Back(String),
    /// Not possible, whatever one tries.
    Impossible(String),
    /// The object changed meanwhile: look again.
    Again,
}

impl Effects {
    pub(super) async fn undo(&self, step: &Step, entry: &StepStatus) -> Observation {
        let id = step.id.clone();
        let mut backoff = Backoff::new(step);
        let mut conflicts = 0;
        loop {
            match self.put_back(step, entry).await {
                Ok(Put::Back(message)) => return Observation::Undone { step: id, message },
                Ok(Put::Impossible(message)) => return Observation::UndoFailed { step: id, message },
                Ok(Put::Again) if conflicts < MAX_CONFLICTS => conflicts += 1,
                Ok(Put::Again) => {
                    let message = "somebody else keeps changing the object".to_owned();
                    return Observation::UndoFailed { step: id, message };
                }
                Err(error) if error.is_transient() && backoff.again() => {
                    backoff.wait(error.retry_after()).await;
                }
                Err(error) => return Observation::UndoFailed { step: id, message: error.to_string() },
            }
        }
    }

    async fn put_back(&self, step: &Step, entry: &StepStatus) -> Result<Put, EffectError> {
        let subject = self.subject(step, entry.clone()).await?;
        let snapshot = self.snapshot_of(entry).await?;
        if step.operation.evict.is_some() {
            return Ok(Put::Back(format!("{} was evicted; its controller replaced it", subject.target)));
        }
        if step.operation.delete.is_some() {
            return self.recreate(&subject, &snapshot).await;
        }
        match &snapshot.before {
            None => self.remove(&subject, entry).await,
            Some(_) => self.invert(&subject, &snapshot).await,
        }
    }

    /// Deletes what the step created, if it is still the same object.
    async fn remove(&self, subject: &Subject<'_>, entry: &StepStatus) -> Result<Put, EffectError> {
        let mut uid = entry.result.as_ref().and_then(|result| result.uid.clone());
        if uid.is_none() {
            // It is not known whether the step created anything: only what bears our name may go.
            let Some(live) = self.live(subject).await? else {
                return Ok(Put::Back(format!("{} is not there: nothing to put back", subject.target)));
            };
            if !is_ours(&live) {
                return Ok(Put::Back(format!("{} was created by somebody else and stays", subject.target)));
            }
            uid = ResourceId::of(&live).uid;
        }
        let options = WriteOptions { uid, ..WriteOptions::default() };
        let operation = Operation::delete(subject.target.clone());
        self.fence.pass().await;
        match self.access.perform(&subject.catalog, &operation, &options).await {
            Ok(_) => Ok(Put::Back(format!("deleted {}, which the step had created", subject.target))),
            Err(error) if error.is_not_found() => Ok(Put::Back(format!("{} is gone already", subject.target))),
            Err(error) if error.is_conflict() => {
                Ok(Put::Back(format!("{} was replaced by somebody else since and stays", subject.target)))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Applies the inverse of our own changes; what others changed since stays.
    async fn invert(&self, subject: &Subject<'_>, snapshot: &Snapshot) -> Result<Put, EffectError> {
        let Some(live) = self.live(subject).await? else {
            return Ok(Put::Back(format!("{} is gone: nothing to put back", subject.target)));
        };
        let now = ResourceId::of(&live);
        let before = snapshot.before.as_ref().map(ResourceId::of).unwrap_or_default();
        if before.uid.is_some() && before.uid != now.uid {
            return Ok(Put::Back(format!("{} was deleted and created again since, and stays", subject.target)));
        }
        let Inverse { patch, kept } = inverse(&snapshot.changes, &live);
        // A field that already has its old value needs nothing and is nobody else's change.
        let origin = |path: &str| snapshot.changes.iter().find(|change| change.path == path).map(|change| &change.from);
        // Paths only: the values may be secret.
        let kept =
            kept.iter().filter(|drift| origin(&drift.path) != Some(&drift.found)).map(|drift| drift.path.clone());
        let kept: Vec<String> = kept.collect();
        let stays = if kept.is_empty() {
            String::new()
        } else {
            format!("; others changed since and stay: {}", kept.join(", "))
        };
        if patch.0.is_empty() {
            return Ok(Put::Back(format!("{} already is as before{stays}", subject.target)));
        }
        let body = serde_json::to_value(&patch).unwrap_or_default();
        let operation = Operation::patch(subject.target.clone(), subject.subresource(), PatchType::Json, body);
        let options = WriteOptions { uid: now.uid, ..WriteOptions::default() };
        self.fence.pass().await;
        match self.access.perform(&subject.catalog, &operation, &options).await {
            Ok(_) => {
                let paths: Vec<&str> = snapshot.changes.iter().map(|change| change.path.as_str()).collect();
                Ok(Put::Back(format!("put {} of {} back{stays}", listed(&paths), subject.target)))
            }
            Err(error) if error.is_conflict() => Ok(Put::Again),
            Err(error) => Err(error.into()),
        }
    }

    /// Creates a deleted object again.
    async fn recreate(&self, subject: &Subject<'_>, snapshot: &Snapshot) -> Result<Put, EffectError> {
        let Some(before) = &snapshot.before else {
            return Ok(Put::Impossible(format!("there is no snapshot of {}", subject.target)));
        };
        let before_uid = ResourceId::of(before).uid;
        if let Some(live) = self.live(subject).await? {
            if ResourceId::of(&live).uid != before_uid {
                return Ok(Put::Back(format!("{} exists again already", subject.target)));
            }
            if live.pointer("/metadata/deletionTimestamp").is_none() {
                return Ok(Put::Back(format!("{} was not deleted", subject.target)));
            }
            if !self.is_gone_within(subject, DELETION_WAIT).await {
                let left = "its deletion is under way and does not end (finalizers), so it cannot be created again";
                return Ok(Put::Impossible(format!("{}: {left}", subject.target)));
            }
        }
        let manifest = revived(before, &self.owners_alive(before).await?);
        self.fence.pass().await;
        match self.access.perform(&subject.catalog, &Operation::apply(manifest), &WriteOptions::default()).await {
            Ok(_) => {
                let lost = subject.step.rollback.reason.as_ref();
                let lost = lost.map(|lost| format!("; what could not come back: {lost}")).unwrap_or_default();
                Ok(Put::Back(format!("created {} again{lost}", subject.target)))
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn is_gone_within(&self, subject: &Subject<'_>, time: Duration) -> bool {
        let gone = async {
            let objects = self.access.watch(&subject.kind, &subject.target).await;
            let mut objects = std::pin::pin!(objects);
            while let Some(seen) = objects.next().await {
                if matches!(seen, Ok(None)) {
                    return true;
                }
            }
            false
        };
        tokio::time::timeout(time, gone).await.unwrap_or(false)
    }

    /// The owner references whose owners still exist: an object whose owners are gone would be collected at once.
    async fn owners_alive(&self, before: &Value) -> Result<Vec<Value>, ClusterError> {
        let catalog = self.cluster.catalog().await?;
        let namespace = before.pointer("/metadata/namespace").and_then(Value::as_str);
        let owners = before.pointer("/metadata/ownerReferences").and_then(Value::as_array);
        let mut alive = Vec::new();
        for owner in owners.into_iter().flatten() {
            let mut manifest = json!({ "metadata": { "namespace": namespace } });
            for (from, to) in [("apiVersion", "/apiVersion"), ("kind", "/kind")] {
                manifest[&to[1..]] = owner.get(from).cloned().unwrap_or_default();
            }
            manifest["metadata"]["name"] = owner.get("name").cloned().unwrap_or_default();
            let Some(mut reference) = crate::api::ObjectRef::of(&manifest) else { continue };
            let Some(kind) = catalog.of(&reference) else { continue };
            reference.namespace = reference.namespace.filter(|_| kind.namespaced);
            let live = self.access.get(kind, &reference).await?;
            if live.is_some_and(|live| live.pointer("/metadata/uid") == owner.get("uid")) {
                alive.push(owner.clone());
            }
        }
        Ok(alive)
    }
}

/// `spec.replicas`, or the first of many paths with the number of the others.
fn listed(paths: &[&str]) -> String {
    match paths {
        [] => "nothing".to_owned(),
        [only] => (*only).to_owned(),
        [first, second] => format!("{first} and {second}"),
        [first, rest @ ..] => format!("{first} and {} other fields", rest.len()),
    }
}

/// The manifest that creates a deleted object again: without what the API server sets, and without status.
fn revived(before: &Value, owners: &[Value]) -> Value {
    const SERVER_SET: [&str; 8] = [
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "managedFields",
        "selfLink",
    ];
    let mut manifest = before.clone();
    if let Some(object) = manifest.as_object_mut() {
        object.remove("status");
    }
    if let Some(metadata) = manifest.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in SERVER_SET {
            metadata.remove(field);
        }
        metadata.remove("ownerReferences");
        if !owners.is_empty() {
            metadata.insert("ownerReferences".to_owned(), Value::Array(owners.to_vec()));
        }
    }
    let kind = manifest.get("kind").and_then(Value::as_str).map(str::to_owned);
    if let Some(spec) = manifest.get_mut("spec").and_then(Value::as_object_mut) {
        clean_spec(kind.as_deref(), spec);
    }
    manifest
}

/// Fields of a spec that belong to the old object's life.
fn clean_spec(kind: Option<&str>, spec: &mut Map<String, Value>) {
    match kind {
        Some("Pod") => {
            spec.remove("nodeName");
        }
        Some("Namespace") => {
            spec.remove("finalizers");
        }
        Some("Job") => {
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
                          "ownerReferences": [{ "uid": "gone" }], "managedFields": [] },
            "spec": { "selector": { "matchLabels": { "batch.kubernetes.io/controller-uid": "u" } },
                      "template": { "metadata": { "labels": { "batch.kubernetes.io/controller-uid": "u", "app": "x" } } } },
            "status": { "succeeded": 1 }
        });
        assert_eq!(
            revived(&before, &[]),
            json!({
                "apiVersion": "batch/v1", "kind": "Job",
                "metadata": { "name": "j", "namespace": "n", "labels": { "a": "b" } },
                "spec": { "template": { "metadata": { "labels": { "app": "x" } } } }
            })
        );
    }
}
