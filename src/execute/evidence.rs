//! What the live object tells: whether the plan still fits it, and what of a mutation is there.

use super::effect::{EffectError, Effects, Subject};
use crate::api::{FIELD_MANAGER, FieldChange, Operation, Precondition, ResourceId, Step};
use crate::cluster::{ClusterError, SetBy, drift, landed, set_by};
use serde_json::Value;

/// What of a mutation that the journal speaks of is there.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Found {
    /// All of it. Without an identity where the object is gone: then nobody knows who deleted it.
    Landed(ResourceId),
    /// Some of it, and why not all.
    InPart(String),
    Nothing,
}

/// Why an earlier try of a mutation may have landed without our knowing it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Doubt {
    /// No try was sent, or each was turned away.
    None,
    /// One was refused because the object had moved, although it had not a moment before. That was its own doing where
    /// something on the way sent it twice.
    Refused,
    /// Of one there is no answer that says whether it was carried out.
    Open,
}

impl Effects {
    /// What of the mutation is there that may have landed, or that was refused.
    ///
    /// Equal values alone do not tell whose they are. What another field manager set is not ours; what was refused is ours
    /// where the fields bear our name and no other plan can have set them: then something on the way sent it twice. Who
    /// deleted what, and who took a field away, is on record nowhere, nor is who had a value filled in: that counts as ours
    /// where it may have landed, because what we did and do not know of is never put back.
    pub(super) async fn find(
        &self,
        subject: &Subject<'_>,
        changes: &[FieldChange],
        live: Option<&Value>,
        doubt: Doubt,
    ) -> Result<Found, EffectError> {
        let there = found(subject, changes, live);
        let by = match live {
            _ if there == Found::Nothing => return Ok(Found::Nothing),
            Some(live) if !subject.step.operation.removes() => self.author(subject, changes, live).await?,
            _ => SetBy::Unknown,
        };
        let alone = || self.writers.is_alone(&subject.target, &self.plan_uid);
        let is_ours = counts_as_ours(by, doubt, alone);
        Ok(if is_ours { there } else { Found::Nothing })
    }

    /// Who set the changed fields.
    async fn author(
        &self,
        subject: &Subject<'_>,
        changes: &[FieldChange],
        live: &Value,
    ) -> Result<SetBy, ClusterError> {
        if subject.entry.before.is_none() {
            // Of an object that was to be created it is enough that it bears our name.
            return Ok(if is_ours(live) { SetBy::Manager } else { SetBy::Another });
        }
        let subresource = subject.subresource();
        // A field that has its old value is whose it was before.
        let new: Vec<FieldChange> = changes.iter().filter(|change| has_new_value(change, live)).cloned().collect();
        if live.pointer("/metadata/managedFields").is_some() {
            return Ok(set_by(live, FIELD_MANAGER, subresource, &new));
        }
        // A scale shows nothing of the kind: it stands on the object itself.
        match self.access.get(&subject.kind, &subject.target).await {
            Ok(Some(whole)) => Ok(set_by(&whole, FIELD_MANAGER, subresource, &new)),
            Ok(None) => Ok(SetBy::Unknown),
            Err(error) if error.is_forbidden() => Ok(SetBy::Unknown),
            Err(error) => Err(error),
        }
    }
}

/// Whether what is there counts as done by the plan; `alone` tells whether no other plan wrote the object lately.
fn counts_as_ours(by: SetBy, doubt: Doubt, alone: impl FnOnce() -> bool) -> bool {
    match (by, doubt) {
        (SetBy::Another, _) | (SetBy::Unknown, Doubt::None) => false,
        (_, Doubt::Open) => true,
        (SetBy::Manager, _) | (SetBy::Unknown, Doubt::Refused) => alone(),
    }
}

/// Why the live object is not what the plan was made against; `None` when it is.
pub(super) fn moved(step: &Step, live: Option<&Value>) -> Option<String> {
    let Precondition { uid, resource_version, absent, diff_base } = step.precondition.as_ref()?;
    let now = live.map(ResourceId::of);
    if *absent {
        return live.map(|_| "the object did not exist when the plan was made, and does now".to_owned());
    }
    if let Some(uid) = uid {
        match now.as_ref().and_then(|now| now.uid.as_ref()) {
            None => return Some("the object is gone since the plan was made".to_owned()),
            Some(found) if found != uid => {
                return Some("the object was deleted and created again since the plan was made".to_owned());
            }
            Some(_) => {}
        }
    }
    if resource_version.is_some() && now.and_then(|now| now.resource_version) != *resource_version {
        return Some("the object changed since the plan was made".to_owned());
    }
    let live = live.filter(|_| *diff_base)?;
    let drifts = drift(&step.diff, live);
    let first = drifts.first()?;
    let more = if drifts.len() > 1 { format!(" (and {} more fields)", drifts.len() - 1) } else { String::new() };
    let value = |value: &Option<Value>| value.as_ref().map_or_else(|| "absent".to_owned(), ToString::to_string);
    let (path, expected, found) = (&first.path, value(&first.expected), value(&first.found));
    Some(format!("{path} was {expected} when the plan was made and is {found} now{more}"))
}

/// What of the mutation that the journal speaks of is there.
fn found(subject: &Subject<'_>, changes: &[FieldChange], live: Option<&Value>) -> Found {
    let before = subject.entry.before.as_ref();
    let operation: &Operation = &subject.step.operation;
    let Some(live) = live else {
        return if operation.removes() { Found::Landed(ResourceId::default()) } else { Found::Nothing };
    };
    let same = before.is_none_or(|before| before.uid.is_none() || before.uid == ResourceId::of(live).uid);
    if operation.removes() {
        let gone = !same || live.pointer("/metadata/deletionTimestamp").is_some();
        return if gone { Found::Landed(ResourceId::default()) } else { Found::Nothing };
    }
    // An object that was to be created and does not bear our name in its managed fields was created by somebody else,
    // even where it looks the same.
    if !same || (before.is_none() && !is_ours(live)) {
        return Found::Nothing;
    }
    if landed(changes, live) {
        return Found::Landed(ResourceId::of(live));
    }
    // A mutation lands as a whole: where one field has its new value, the others had theirs.
    let (there, others): (Vec<&FieldChange>, Vec<&FieldChange>) =
        changes.iter().partition(|change| has_new_value(change, live));
    if there.is_empty() && before.is_some() {
        return Found::Nothing;
    }
    // Paths only: the values may be secret.
    let paths = others.iter().take(5).map(|change| change.path.as_str()).collect::<Vec<_>>().join(", ");
    Found::InPart(format!("{} was changed by somebody else since, in {paths}", subject.target))
}

fn has_new_value(change: &FieldChange, live: &Value) -> bool {
    let change = std::slice::from_ref(change);
    !change[0].redacted && landed(change, live) && !drift(change, live).is_empty()
}

/// Whether we wrote any of the object.
pub(super) fn is_ours(live: &Value) -> bool {
    let managers = live.pointer("/metadata/managedFields").and_then(Value::as_array);
    let names_us = |entry: &Value| entry.get("manager").and_then(Value::as_str) == Some(FIELD_MANAGER);
    managers.is_some_and(|managers| managers.iter().any(names_us))
}

/// Said of a deletion that was found done: the API keeps no record of who asked for it.
pub(super) const GONE_UNKNOWN: &str = "it was gone when it was looked at again; not known who deleted it";

/// Why a mutation that has not landed may no longer be carried out.
pub(super) fn moved_since(subject: &Subject<'_>, changes: &[FieldChange], live: Option<&Value>) -> Option<String> {
    match (&subject.entry.before, live) {
        (None, Some(_)) => Some(format!("{} was created by somebody else meanwhile", subject.target)),
        (Some(_), None) => Some(format!("{} is gone", subject.target)),
        (Some(before), Some(live)) if before.uid.is_some() && before.uid != ResourceId::of(live).uid => {
            Some(format!("{} was deleted and created again meanwhile", subject.target))
        }
        (Some(_), Some(live)) if !subject.step.operation.removes() => {
            // The path only: unlike the plan's own diff, these values may be secret.
            drift(changes, live)
                .first()
                .map(|first| format!("{} was changed by somebody else in {}", subject.target, first.path))
        }
        _ => None,
    }
}

/// What a diff hides or makes up, where it is not what would change.
pub(super) fn difference(said: &[FieldChange], shown: &[FieldChange]) -> Option<String> {
    let value = |value: &Option<Value>| value.as_ref().map_or_else(|| "absent".to_owned(), ToString::to_string);
    if let Some(change) = shown.iter().find(|change| !said.contains(change)) {
        return Some(format!("{} would go from {} to {}", change.path, value(&change.from), value(&change.to)));
    }
    said.iter().find(|change| !shown.contains(change)).map(|change| format!("{} would not change", change.path))
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{step, target};
    use super::*;
    use crate::api::StepStatus;
    use crate::cluster::{Catalog, ResourceKind};
    use serde_json::json;
    use std::sync::Arc;

    fn change(path: &str, from: Value, to: Value) -> FieldChange {
        let present = |value: Value| Some(value).filter(|value| !value.is_null());
        FieldChange { path: path.into(), from: present(from), to: present(to), redacted: false }
    }

    /// What is found of a step's mutation, when `before` is the uid of the object before it.
    fn find(step: &Step, before: Option<&str>, changes: &[FieldChange], live: Option<&Value>) -> Found {
        let before = before.map(|uid| ResourceId { uid: Some(uid.into()), resource_version: None });
        let kind = ResourceKind::sample("apps", "Deployment", "deployments", true);
        let entry = StepStatus { before, ..StepStatus::default() };
        let subject = Subject { step, entry, target: target(), kind, catalog: Arc::new(Catalog::default()) };
        found(&subject, changes, live)
    }

    fn live(uid: &str, replicas: u32, image: &str, manager: &str) -> Value {
        json!({ "metadata": { "uid": uid, "resourceVersion": "7", "managedFields": [{ "manager": manager }] },
                "spec": { "replicas": replicas, "image": image } })
    }

    #[test]
    fn a_mutation_that_was_overwritten_in_part_is_not_taken_for_one_that_never_landed() {
        let patch = step(Operation::patch(target(), None, crate::api::PatchType::Merge, json!({})));
        let changes =
            [change("spec.replicas", json!(3), json!(5)), change("spec.image", json!("web:1"), json!("web:2"))];
        let find = |live: &Value| find(&patch, Some("u"), &changes, Some(live));
        assert!(matches!(find(&live("u", 5, "web:2", "x")), Found::Landed(_)));
        assert_eq!(find(&live("u", 3, "web:1", "x")), Found::Nothing);
        assert_eq!(find(&live("u", 4, "web:1", "x")), Found::Nothing, "somebody else changed one field");
        assert_eq!(find(&live("another", 5, "web:2", "x")), Found::Nothing);
        let Found::InPart(message) = find(&live("u", 9, "web:2", "x")) else { panic!("it landed in part") };
        insta::assert_snapshot!(message, @"Deployment shop/checkout was changed by somebody else since, in spec.replicas");
    }

    #[test]
    fn what_nobody_is_known_to_have_done_counts_as_ours_only_where_we_tried_it() {
        let ours = |by, doubt| counts_as_ours(by, doubt, || true);
        assert!(!ours(SetBy::Unknown, Doubt::None), "another did it between preparation and mutation");
        assert!(ours(SetBy::Unknown, Doubt::Refused) && ours(SetBy::Unknown, Doubt::Open));
        assert!(!counts_as_ours(SetBy::Unknown, Doubt::Refused, || false), "another plan did it");
        assert!(ours(SetBy::Manager, Doubt::None), "it was sent twice");
        assert!(!counts_as_ours(SetBy::Manager, Doubt::None, || false));
        assert!(counts_as_ours(SetBy::Manager, Doubt::Open, || false));
        assert!([Doubt::None, Doubt::Refused, Doubt::Open].iter().all(|doubt| !ours(SetBy::Another, *doubt)));
    }

    #[test]
    fn what_somebody_else_created_meanwhile_is_not_ours_however_equal() {
        let apply = step(Operation::apply(json!({})));
        let changes = [change("spec.replicas", Value::Null, json!(3))];
        let find = |live: Option<&Value>| find(&apply, None, &changes, live);
        assert_eq!(find(None), Found::Nothing);
        assert!(matches!(find(Some(&live("u", 3, "web:1", FIELD_MANAGER))), Found::Landed(_)));
        assert!(matches!(find(Some(&live("u", 4, "web:1", FIELD_MANAGER))), Found::InPart(_)));
        assert_eq!(find(Some(&live("u", 3, "web:1", "kubectl"))), Found::Nothing);
    }

    #[test]
    fn a_diff_that_hides_or_makes_up_something_is_told() {
        let replicas = change("spec.replicas", json!(3), json!(5));
        let image = change("spec.image", json!("web:1"), json!("evil:1"));
        assert_eq!(difference(&[replicas.clone(), image.clone()], &[image.clone(), replicas.clone()]), None);
        insta::assert_snapshot!(difference(std::slice::from_ref(&replicas), &[replicas.clone(), image.clone()]).unwrap(),
            @r#"spec.image would go from "web:1" to "evil:1""#);
        insta::assert_snapshot!(difference(&[replicas, image.clone()], &[image]).unwrap(), @"spec.replicas would not change");
    }
}
