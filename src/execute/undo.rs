//! Putting one step back.

use super::effect::{Backoff, EffectError, Effects, Subject};
use super::evidence::is_ours;
use super::journal::Observation;
use super::snapshot::Snapshot;
use crate::api::{FieldChange, ObjectRef, Operation, PatchType, ResourceId, Step, StepStatus};
use crate::cluster::{Drift, Inverse, WriteOptions, inverse, redact};
use serde_json::Value;

/// How often the inverse is computed anew because the object changed while it was sent.
const MAX_CONFLICTS: u32 = 10;

/// One try at putting back.
pub(super) enum Put {
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
        match self.write(subject, &operation, &options).await {
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
        let stays = conflicts(&subject.target, &snapshot.changes, &kept);
        let stays = stays.map(|list| format!("; others changed since and stay: {list}")).unwrap_or_default();
        if patch.0.is_empty() {
            return Ok(Put::Back(format!("{} already is as before{stays}", subject.target)));
        }
        let body = serde_json::to_value(&patch).unwrap_or_default();
        let operation = Operation::patch(subject.target.clone(), subject.subresource(), PatchType::Json, body);
        let options = WriteOptions { uid: now.uid, ..WriteOptions::default() };
        match self.write(subject, &operation, &options).await {
            Ok(_) => {
                let paths: Vec<&str> = snapshot.changes.iter().map(|change| change.path.as_str()).collect();
                Ok(Put::Back(format!("put {} of {} back{stays}", listed(&paths), subject.target)))
            }
            Err(error) if error.is_conflict() => Ok(Put::Again),
            Err(error) => Err(error.into()),
        }
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

/// What others changed since, field by field: `spec.replicas (set to 5 by the step, 7 now, 2 before)`. Secret values are left
/// out.
fn conflicts(target: &ObjectRef, changes: &[FieldChange], kept: &[Drift]) -> Option<String> {
    const MOST: usize = 8;
    // A field that already has its old value needs nothing and is nobody else's change.
    let origin = |path: &str| changes.iter().find(|change| change.path == path).and_then(|change| change.from.clone());
    let conflicts: Vec<&Drift> = kept.iter().filter(|drift| origin(&drift.path) != drift.found).collect();
    if conflicts.is_empty() {
        return None;
    }
    let told = |drift: &&Drift| {
        let value = |from: Option<Value>, to: Option<Value>| {
            redact(target, vec![FieldChange { path: drift.path.clone(), from, to, redacted: false }])
        };
        let shown: Vec<FieldChange> =
            [value(drift.expected.clone(), drift.found.clone()), value(origin(&drift.path), None)].concat();
        match shown.as_slice() {
            [now, before] if !now.redacted && !before.redacted => format!(
                "{} (set to {} by the step, {} now, {} before)",
                drift.path,
                short(now.from.as_ref()),
                short(now.to.as_ref()),
                short(before.from.as_ref())
            ),
            _ => format!("{} (secret, not shown)", drift.path),
        }
    };
    let mut list: Vec<String> = conflicts.iter().take(MOST).map(told).collect();
    if conflicts.len() > MOST {
        list.push(format!("{} more fields", conflicts.len() - MOST));
    }
    Some(list.join(", "))
}

fn short(value: Option<&Value>) -> String {
    const MOST: usize = 60;
    let text = value.map_or_else(|| "absent".to_owned(), ToString::to_string);
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(kind: &str) -> ObjectRef {
        ObjectRef { api_version: "v1".into(), kind: kind.into(), namespace: Some("shop".into()), name: "x".into() }
    }

    fn change(path: &str, from: Option<Value>, to: Option<Value>) -> FieldChange {
        FieldChange { path: path.into(), from, to, redacted: false }
    }

    fn drift(path: &str, expected: Option<Value>, found: Option<Value>) -> Drift {
        Drift { path: path.into(), expected, found }
    }

    #[test]
    fn conflicts_are_told_field_by_field() {
        let changes = [
            change("spec.replicas", Some(json!(2)), Some(json!(5))),
            change("metadata.labels.tier", None, Some(json!("web"))),
            change("spec.paused", Some(json!(true)), None),
        ];
        let kept = [
            drift("spec.replicas", Some(json!(5)), Some(json!(7))),
            drift("metadata.labels.tier", Some(json!("web")), Some(json!("w".repeat(100)))),
            drift("spec.paused", None, Some(json!(true))),
        ];
        insta::assert_snapshot!(conflicts(&object("Deployment"), &changes, &kept).unwrap(), @r#"spec.replicas (set to 5 by the step, 7 now, 2 before), metadata.labels.tier (set to "web" by the step, "wwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwww… now, absent before)"#);
        assert_eq!(conflicts(&object("Deployment"), &changes, &kept[2..]), None, "it is as before");
    }

    #[test]
    fn conflicts_do_not_tell_secrets() {
        let changes = [change("data.password", Some(json!("b2xk")), Some(json!("b3Vycw==")))];
        let kept = [drift("data.password", Some(json!("b3Vycw==")), Some(json!("dGhlaXJz")))];
        insta::assert_snapshot!(conflicts(&object("Secret"), &changes, &kept).unwrap(), @"data.password (secret, not shown)");
    }

    #[test]
    fn many_conflicts_are_counted() {
        let path = |n: usize| format!("data.k{n}");
        let changes: Vec<FieldChange> = (0..20).map(|n| change(&path(n), None, Some(json!("a")))).collect();
        let kept: Vec<Drift> = (0..20).map(|n| drift(&path(n), Some(json!("a")), Some(json!("b")))).collect();
        let told = conflicts(&object("ConfigMap"), &changes, &kept).unwrap();
        assert!(told.ends_with(", 12 more fields"), "{told}");
    }
}
