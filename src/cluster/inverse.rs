//! Whether a diff still fits the live object, whether it landed, and how to take it back.

use super::diff::{is_metadata_map, list_key, member, same};
use crate::api::{FieldChange, FieldPath, ObjectRef, PathElement};
use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, PatchOperation, RemoveOperation, ReplaceOperation, TestOperation};
use serde_json::{Map, Value};
use std::cmp::Ordering;
use std::collections::BTreeSet;

mod one_way;

pub use one_way::one_way;

/// A field whose live value is not what it was taken for.
#[derive(Clone, Debug, PartialEq)]
pub struct Drift {
    /// Where.
    pub path: String,
    /// The value that was expected; `None` for absent.
    pub expected: Option<Value>,
    /// The live value; `None` for absent.
    pub found: Option<Value>,
}

/// How to take a diff back.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inverse {
    /// Puts the old values back. Each change is guarded by a `test`, so that the patch fails as a whole when the object
    /// moves between reading it and patching it.
    pub patch: json_patch::Patch,
    /// Fields that somebody changed since: they are left as they are. `expected` is the value that the diff gave them.
    pub kept: Vec<Drift>,
}

/// The fields of the diff whose live value is not the one that the diff starts from. Redacted fields cannot be compared
/// and are left out. What a diff adds to a map counts member by member, so that members which others added are no
/// drift.
#[must_use]
pub fn drift(changes: &[FieldChange], live: &Value) -> Vec<Drift> {
    let mut found = Vec::new();
    for change in changes.iter().filter(|change| !change.redacted) {
        match parsed(change) {
            Some(path) if path.0.is_empty() => {
                if !is_object_of_summary(change.from.as_ref(), live) {
                    found.push(drifted(&path, change.from.as_ref(), Some(live)));
                }
            }
            Some(path) => drift_of(&path, change.from.as_ref(), change.to.as_ref(), live, &mut found),
            None => found.push(Drift { path: change.path.clone(), expected: change.from.clone(), found: None }),
        }
    }
    found
}

fn drift_of(path: &FieldPath, from: Option<&Value>, to: Option<&Value>, live: &Value, found: &mut Vec<Drift>) {
    let now = value_at(path, live);
    if same(from, now, path) {
        return;
    }
    match (from, to, now) {
        (None, Some(Value::Object(added)), Some(Value::Object(_))) if !is_item(path) && !added.is_empty() => {
            for (key, value) in added {
                drift_of(&path.join(PathElement::Key(key.clone())), None, Some(value), live, found);
            }
        }
        _ => found.push(drifted(path, from, now)),
    }
}

/// Whether every field of the diff has the value that the diff gives it. Of redacted fields only the presence is known.
/// What was added may have got further members since; a deletion has landed when `live` is `null`.
#[must_use]
pub fn landed(changes: &[FieldChange], live: &Value) -> bool {
    changes.iter().all(|change| {
        let Some(path) = parsed(change) else { return false };
        if path.0.is_empty() {
            return live.is_null();
        }
        match (change.to.as_ref(), value_at(&path, live)) {
            (to, now) if change.redacted => to.is_some() == now.is_some(),
            (None, now) => now.is_none(),
            (Some(to), Some(now)) => covers(now, to, &path),
            (Some(_), None) => false,
        }
    })
}

/// Whether `live` has everything that `wanted` has.
fn covers(live: &Value, wanted: &Value, path: &FieldPath) -> bool {
    if let (Value::Array(live_items), Value::Array(items)) = (live, wanted)
        && let Some(key) = list_key(path, live_items, items)
    {
        let is_called_as = |a: &Value, b: &Value| same(a.get(key), b.get(key), &FieldPath::default());
        return items
            .iter()
            .all(|item| live_items.iter().any(|live| is_called_as(live, item) && covers(live, item, path)));
    }
    match (live, wanted) {
        (Value::Object(_), Value::Object(fields)) => {
            fields.iter().filter(|(_, value)| !value.is_null()).all(|(key, value)| {
                member(live, key).is_some_and(|live| covers(live, value, &path.join(PathElement::Key(key.clone()))))
            })
        }
        _ => same(Some(live), Some(wanted), path),
    }
}

/// The patch that puts the `from` of each change back where the live value is still its `to`.
///
/// What others changed since is kept and reported. Redacted changes cannot be taken back from the diff alone and are
/// reported as kept: compute the diff from the snapshot. A creation is taken back by deleting the object and a deletion
/// by creating it again; the latter is reported as kept.
#[must_use]
pub fn inverse(changes: &[FieldChange], live: &Value) -> Inverse {
    let mut undo = Undo::new(live);
    for change in changes {
        match parsed(change).filter(|path| !path.0.is_empty() && !change.redacted) {
            Some(path) => undo.change(&path, change.from.as_ref(), change.to.as_ref()),
            None => undo.kept.push(Drift { path: change.path.clone(), expected: change.to.clone(), found: None }),
        }
    }
    undo.finish()
}

struct Undo<'v> {
    live: &'v Value,
    guards: Vec<(String, Value)>,
    guarded: BTreeSet<String>,
    /// Parents made anew, members set and items appended, in this order: none of these moves an item of a list.
    sets: Vec<PatchOperation>,
    made: BTreeSet<String>,
    removals: Vec<String>,
    kept: Vec<Drift>,
}

impl<'v> Undo<'v> {
    fn new(live: &'v Value) -> Self {
        Self {
            live,
            guards: Vec::new(),
            guarded: BTreeSet::new(),
            sets: Vec::new(),
            made: BTreeSet::new(),
            removals: Vec::new(),
            kept: Vec::new(),
        }
    }

    fn change(&mut self, path: &FieldPath, from: Option<&Value>, to: Option<&Value>) {
        let now = value_at(path, self.live);
        if same(from, now, path) {
            return;
        }
        if same(to, now, path) {
            if self.restore(path, from, now).is_none() {
                self.kept.push(drifted(path, to, now));
            }
            return;
        }
        match (from, to, now) {
            (None, Some(Value::Object(added)), Some(Value::Object(_))) if !is_item(path) && !added.is_empty() => {
                for (key, value) in added {
                    self.change(&path.join(PathElement::Key(key.clone())), None, Some(value));
                }
            }
            _ => self.kept.push(drifted(path, to, now)),
        }
    }

    /// `None` when there is no place left to put the value.
    fn restore(&mut self, path: &FieldPath, from: Option<&Value>, now: Option<&Value>) -> Option<()> {
        match (from, now) {
            (Some(old), Some(now)) => {
                let pointer = path.pointer(self.live)?;
                self.guard_items(path);
                self.guard(&pointer, now);
                self.sets.push(PatchOperation::Replace(ReplaceOperation {
                    path: pointer_buf(&pointer),
                    value: old.clone(),
                }));
            }
            (None, Some(now)) => {
                let pointer = path.pointer(self.live)?;
                self.guard_items(path);
                self.guard(&pointer, now);
                self.removals.push(pointer);
            }
            (Some(old), None) => {
                let pointer = match path.pointer(self.live) {
                    Some(pointer) if self.has_parent(path) => pointer,
                    _ => self.make_parent(path)?,
                };
                self.guard_items(path);
                self.sets.push(add(&pointer, old.clone()));
            }
            (None, None) => {}
        }
        Some(())
    }

    /// Whether there is something that the last element of `path` can be put into.
    fn has_parent(&self, path: &FieldPath) -> bool {
        let parent = path.parent().and_then(|parent| parent.get(self.live));
        match (path.0.last(), parent) {
            (Some(PathElement::Key(_)), Some(parent)) => parent.is_object(),
            (Some(PathElement::Item { .. }), Some(parent)) => parent.is_array(),
            _ => false,
        }
    }

    /// The API server drops lists and label maps that became empty; they are made again to hold what comes back.
    fn make_parent(&mut self, path: &FieldPath) -> Option<String> {
        let parent = path.parent()?;
        let (empty, last) = match path.0.last()? {
            PathElement::Item { .. } => (Value::Array(Vec::new()), "-".to_owned()),
            PathElement::Key(key) => {
                let [.., PathElement::Key(metadata), PathElement::Key(map)] = parent.0.as_slice() else { return None };
                if metadata != "metadata" || !is_metadata_map(map) {
                    return None;
                }
                (Value::Object(Map::new()), escape(key))
            }
            PathElement::Index(_) => return None,
        };
        if !self.has_parent(&parent) || value_at(&parent, self.live).is_some() {
            return None;
        }
        let pointer = parent.pointer(self.live)?;
        if self.made.insert(pointer.clone()) {
            self.sets.push(add(&pointer, empty));
        }
        Some(format!("{pointer}/{last}"))
    }

    /// Pointers go by position: makes sure that each named item on the way is still at its own.
    fn guard_items(&mut self, path: &FieldPath) {
        for (depth, element) in path.0.iter().enumerate() {
            let PathElement::Item { key, .. } = element else { continue };
            let item = FieldPath(path.0[..=depth].to_vec());
            if let (Some(value), Some(pointer)) = (item.get(self.live), item.pointer(self.live))
                && let Some(name) = value.get(key)
            {
                self.guard(&format!("{pointer}/{}", escape(key)), name);
            }
        }
    }

    fn guard(&mut self, pointer: &str, value: &Value) {
        if self.guarded.insert(pointer.to_owned()) {
            self.guards.push((pointer.to_owned(), value.clone()));
        }
    }

    fn finish(mut self) -> Inverse {
        // From the back: what is removed must not move what is still to be removed.
        self.removals.sort_by(|a, b| by_position(b, a));
        let guards = self
            .guards
            .into_iter()
            .map(|(path, value)| PatchOperation::Test(TestOperation { path: pointer_buf(&path), value }));
        let removals =
            self.removals.iter().map(|path| PatchOperation::Remove(RemoveOperation { path: pointer_buf(path) }));
        let operations = guards.chain(self.sets).chain(removals).collect();
        Inverse { patch: json_patch::Patch(operations), kept: self.kept }
    }
}

fn by_position(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.split('/'), b.split('/'));
    loop {
        let (a, b) = match (a.next(), b.next()) {
            (Some(a), Some(b)) => (a, b),
            (a, b) => return a.cmp(&b),
        };
        let order = match (a.parse::<usize>(), b.parse::<usize>()) {
            (Ok(a), Ok(b)) => a.cmp(&b),
            _ => a.cmp(b),
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

fn add(pointer: &str, value: Value) -> PatchOperation {
    PatchOperation::Add(AddOperation { path: pointer_buf(pointer), value })
}

fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// Pointers made here are well-formed: each element is escaped.
fn pointer_buf(pointer: &str) -> PointerBuf {
    PointerBuf::parse(pointer).unwrap_or_default()
}

fn parsed(change: &FieldChange) -> Option<FieldPath> {
    change.path.parse().ok()
}

fn is_item(path: &FieldPath) -> bool {
    matches!(path.0.last(), Some(PathElement::Item { .. }))
}

fn value_at<'v>(path: &FieldPath, live: &'v Value) -> Option<&'v Value> {
    path.get(live).filter(|value| !value.is_null())
}

fn drifted(path: &FieldPath, expected: Option<&Value>, found: Option<&Value>) -> Drift {
    Drift { path: path.to_string(), expected: expected.cloned(), found: found.cloned() }
}

/// What an approved deletion deletes is told by its identity: a workload that scaled meanwhile is still the one meant.
fn is_object_of_summary(summary: Option<&Value>, live: &Value) -> bool {
    let (Some(summary), Some(object)) = (summary, ObjectRef::of(live)) else { return false };
    let text = |key: &str| summary.get(key).and_then(Value::as_str);
    text("apiVersion") == Some(object.api_version.as_str())
        && text("kind") == Some(object.kind.as_str())
        && text("name") == Some(object.name.as_str())
        && text("namespace") == object.namespace.as_deref()
}

#[cfg(test)]
mod tests;
