//! From slots to `target` parameters, and from calls back to what a pronoun may point at.

use super::slots::{Named, Place, Slots};
use crate::draft::ToolCall;
use serde_json::{Map, Value};

/// Parameters of a tool, or a target among them.
pub(super) type Parameters = Map<String, Value>;

/// What the clauses before have spoken of, for "it" and "there".
#[derive(Clone, Debug, Default)]
pub(super) struct Referents {
    /// Targets of the last clause.
    pub targets: Vec<Parameters>,
    /// Where the last clause took place.
    pub place: Option<Place>,
    /// The tool of the last clause.
    pub tool: Option<String>,
}

impl Referents {
    /// From the calls of one clause or of the draft before.
    pub(super) fn of(calls: &[ToolCall]) -> Self {
        Self {
            targets: calls.iter().filter_map(object_of).collect(),
            place: calls.iter().rev().find_map(place_of),
            tool: calls.last().map(|call| call.tool.clone()),
        }
    }
}

/// The object that a call is about, as a target.
pub(super) fn object_of(call: &ToolCall) -> Option<Parameters> {
    if let Some(Value::Object(target)) = call.parameters.get("target") {
        return Some(target.clone());
    }
    let kind = call.tool.strip_prefix("create_")?;
    let mut target = Parameters::new();
    target.insert("kind".to_owned(), kind.into());
    for key in ["name", "namespace", "environment"] {
        let belongs = kind != "namespace" || key == "name";
        if let Some(value) = call.parameters.get(key).filter(|_| belongs) {
            target.insert(key.to_owned(), value.clone());
        }
    }
    Some(target)
}

/// Where a call takes place, when it says so; a new namespace is a place too.
fn place_of(call: &ToolCall) -> Option<Place> {
    let object = object_of(call)?;
    let text = |key: &str| object.get(key).and_then(Value::as_str).map(str::to_owned);
    if text("kind").as_deref() == Some("namespace") {
        return text("name").map(Place::Namespace);
    }
    text("namespace").map(Place::Namespace).or_else(|| text("environment").map(Place::Environment))
}

/// Puts a place into parameters, in the stead of any other.
pub(super) fn put_place(parameters: &mut Parameters, place: &Place) {
    for key in ["namespace", "environment", "allNamespaces"] {
        parameters.remove(key);
    }
    let (key, value) = match place {
        Place::Namespace(name) => ("namespace", name),
        Place::Environment(name) => ("environment", name),
    };
    parameters.insert(key.to_owned(), value.clone().into());
}

/// The targets of a clause: every object in every place; pronouns are looked up.
pub(super) fn targets(slots: &Slots, before: &Referents) -> Vec<Parameters> {
    let places = places(slots, before);
    let points_back = !slots.has_name() && slots.it || slots.targets.is_empty() && !slots.all && !slots.everything;
    let objects: Vec<Parameters> = if points_back && !before.targets.is_empty() {
        before.targets.clone()
    } else {
        slots.targets.iter().map(|named| object(named, slots)).collect()
    };
    let in_places = |object: &Parameters| -> Vec<Parameters> {
        let written = object.contains_key("namespace") && places.is_empty();
        if places.is_empty() || written {
            return vec![object.clone()];
        }
        let put = |place: &Place| {
            let mut object = object.clone();
            put_place(&mut object, place);
            object
        };
        places.iter().map(put).collect()
    };
    objects.iter().flat_map(in_places).collect()
}

/// The places of a clause; "there" is looked up.
pub(super) fn places(slots: &Slots, before: &Referents) -> Vec<Place> {
    let there = before.place.iter().filter(|_| slots.there);
    if slots.places.is_empty() { there.cloned().collect() } else { slots.places.clone() }
}

fn object(named: &Named, slots: &Slots) -> Parameters {
    let mut target = Parameters::new();
    let mut put = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            target.insert(key.to_owned(), value.into());
        }
    };
    put("kind", named.kind.as_ref().map(|kind| kind.word.to_string()));
    put("name", named.name.clone());
    put("namespace", named.namespace.clone());
    put("selector", selector(slots));
    if named.name.is_none() && (slots.all || named.kind.as_ref().is_some_and(|kind| kind.plural)) {
        target.insert("all".to_owned(), true.into());
    }
    if slots.all_namespaces {
        target.insert("allNamespaces".to_owned(), true.into());
    }
    target
}

fn selector(slots: &Slots) -> Option<String> {
    let equal = slots.pairs.iter().map(|pair| format!("{}={}", pair.key, pair.value));
    let parts: Vec<String> = equal.chain(slots.selector.iter().cloned()).collect();
    (!parts.is_empty()).then(|| parts.join(","))
}
