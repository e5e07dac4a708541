//! Requests that continue the one before: "make it five instead", "and in staging too", or the answer to a question.

use super::Reader;
use super::clause::Clause;
use super::lexicon::Item;
use super::sense::{Act, Sense};
use super::slots::{AmountUnit, Slots};
use super::suggest;
use super::targets::{Parameters, object_of, put_place};
use super::tokens::Mark;
use super::values::json_number;
use super::wording::say;
use crate::api::Intent;
use crate::draft::{Draft, ToolCall};
use crate::planner::Turn;
use serde_json::{Value, json};

/// How many earlier turns may belong to one question and its answers.
const LONGEST_EXCHANGE: usize = 5;

/// "No, make it three": the "no" speaks of the answer before, not of what follows.
pub(super) fn drop_leading_no(items: &mut Vec<Item>) {
    let denies = items.first().is_some_and(|item| item.can(|sense| *sense == Sense::Negation));
    if denies && items.get(1).is_some_and(|item| item.mark == Mark::Comma) {
        items.drain(..2);
    }
}

/// Whether a call has to wait for an earlier one: the namespace or the object that it needs is made or changed there.
pub(super) fn needs(call: &ToolCall, before: &ToolCall) -> bool {
    let (Some(own), Some(other)) = (object_of(call), object_of(before)) else { return false };
    let same = |key: &str| own.get(key) == other.get(key);
    let made_namespace = before.tool == "create_namespace" && own.get("namespace") == other.get("name");
    let compatible_kind = same("kind") || !own.contains_key("kind") || !other.contains_key("kind");
    let same_object =
        own.contains_key("name") && same("name") && same("namespace") && same("environment") && compatible_kind;
    made_namespace || same_object
}

/// The draft of a request that only makes sense after the turn before; nothing when it stands on its own.
pub(super) fn continue_from(
    reader: &Reader,
    last: &Turn,
    request: &str,
    clause: &Clause,
    slots: &Slots,
) -> Option<Draft> {
    if !is_fragment(clause, slots) {
        return None;
    }
    let calls = last.draft.as_ref().map_or(&[] as &[ToolCall], |draft| draft.tool_calls.as_slice());
    match (&last.draft, calls) {
        (Some(draft), [_, ..]) => Some(changed(reader, draft, request, clause, slots)),
        _ => answered(reader, request),
    }
}

fn is_fragment(clause: &Clause, slots: &Slots) -> bool {
    let own_object = !slots.targets.is_empty() && !slots.follow_up;
    match clause.act {
        _ if clause.slip.is_some() || clause.negated => false,
        None => true,
        Some(Act::Make) => {
            slots.direction.is_none()
                && slots.alias.is_none()
                && slots.targets.iter().all(|target| target.kind.is_none())
        }
        Some(Act::Set | Act::Update) => slots.follow_up && !own_object && slots.targets.is_empty(),
        Some(_) => false,
    }
}

/// The answer to a question: read together with the request that led to it.
fn answered(reader: &Reader, request: &str) -> Option<Draft> {
    let mut text = request.to_owned();
    for turn in reader.input.turns.iter().rev().take(LONGEST_EXCHANGE) {
        if turn.draft.as_ref().is_some_and(|draft| !draft.tool_calls.is_empty()) {
            break;
        }
        let before = turn.request.trim_end_matches(|c: char| c.is_whitespace() || c.is_ascii_punctuation());
        text = format!("{before} {text}");
        let draft = reader.understand(&text, false);
        if !draft.tool_calls.is_empty() {
            return Some(draft);
        }
    }
    None
}

/// The draft before with the slots that the request names changed.
fn changed(reader: &Reader, draft: &Draft, request: &str, clause: &Clause, slots: &Slots) -> Draft {
    let language = &reader.grammar.language;
    let question = |text: String| {
        let interpretation = language.sentences.unclear.clone();
        let alternatives = suggest::alternatives(reader.grammar, request, Some(draft.intent));
        Draft { alternatives, ..Draft::question(Intent::Query, interpretation, text) }
    };
    if slots.unused.iter().any(|word| word.decisive) || slots.conflict.is_some() || slots.everything {
        return question(say(&language.questions.not_used, &[("words", &clause.words())]));
    }
    let mut calls: Vec<ToolCall> = Vec::new();
    let mut change = Change { slots, alone: draft.tool_calls.len() == 1, taken: 0 };
    for place in 0..slots.places.len().max(1) {
        for call in &draft.tool_calls {
            let mut call = call.clone();
            change.apply(&mut call, place);
            call.id = format!("c{}", calls.len() + 1);
            call.depends_on = if slots.places.len() > 1 { Vec::new() } else { call.depends_on };
            call.why = say(&language.sentences.why, &[("words", &clause.words())]);
            calls.push(call);
        }
    }
    if change.taken < change.asked() || change.asked() == 0 || !slots.unused.is_empty() {
        return question(say(&language.questions.follow_up, &[("words", &clause.words())]));
    }
    let wording = reader.wording();
    let sentences: Vec<String> = calls.iter().map(|call| wording.call(call)).collect();
    Draft {
        intent: draft.intent,
        confidence: super::CERTAIN * 0.95,
        interpretation: sentences.join(" "),
        tool_calls: calls,
        clarifying_questions: Vec::new(),
        alternatives: Vec::new(),
        warnings: Vec::new(),
        language: None,
    }
}

/// What a request changes in the calls before; `taken` has a bit for every kind of change that found its call.
struct Change<'a> {
    slots: &'a Slots,
    alone: bool,
    taken: u8,
}

const AMOUNT: u8 = 1;
const IMAGE: u8 = 2;
const PLACE: u8 = 4;
const NAME: u8 = 8;
const RESOURCES: u8 = 16;
const PORT: u8 = 32;
const REVISION: u8 = 64;
const OTHER: u8 = 128;

impl Change<'_> {
    /// A bit for every kind of change that the request names.
    fn asked(&self) -> u8 {
        let slots = self.slots;
        let other = slots.alias.is_some()
            || slots.container.is_some()
            || !slots.pairs.is_empty()
            || !slots.selector.is_empty()
            || slots.relative_resources
            || slots.target_port.is_some()
            || slots.all;
        [
            (AMOUNT, !slots.amounts.is_empty()),
            (IMAGE, slots.image.is_some()),
            (PLACE, !slots.places.is_empty() || slots.all_namespaces),
            (NAME, !slots.targets.is_empty()),
            (RESOURCES, !slots.resources.is_empty()),
            (PORT, slots.port.is_some()),
            (REVISION, slots.revision.is_some()),
            (OTHER, other),
        ]
        .iter()
        .filter(|(_, asked)| *asked)
        .fold(0, |bits, (bit, _)| bits | bit)
    }

    fn apply(&mut self, call: &mut ToolCall, place: usize) {
        let tool = call.tool.clone();
        let creates = tool == "create_deployment";
        let slots = self.slots;
        if let [amount] = slots.amounts.as_slice() {
            let count = amount.unit == AmountUnit::Count;
            if tool == "scale" {
                let key = match amount.unit {
                    AmountUnit::Count => "to",
                    AmountUnit::Percent => "percent",
                    AmountUnit::Times => "factor",
                };
                let turned = call.parameters.get("by").or_else(|| call.parameters.get("percent"));
                let down = turned.and_then(Value::as_f64).is_some_and(|before| before < 0.0);
                let relative = call.parameters.contains_key("by") && count && !amount.replicas;
                let key = if relative { "by" } else { key };
                let sign = if down && key != "to" && key != "factor" { -1.0 } else { 1.0 };
                for old in ["to", "by", "percent", "factor"] {
                    call.parameters.remove(old);
                }
                self.put(&mut call.parameters, AMOUNT, key, json_number(sign * amount.value));
            } else if creates && count {
                self.put(&mut call.parameters, AMOUNT, "replicas", json_number(amount.value));
            }
        }
        if let Some(image) = slots.image.as_ref().filter(|_| creates || tool == "set_image") {
            self.put(&mut call.parameters, IMAGE, "image", image.clone().into());
        }
        if let Some(port) = slots.port.filter(|_| creates || tool == "expose") {
            self.put(&mut call.parameters, PORT, "port", json_number(port));
        }
        if let Some(revision) = slots.revision.filter(|_| tool == "undo_rollout") {
            self.put(&mut call.parameters, REVISION, "revision", json_number(revision));
        }
        for (key, value) in &slots.resources {
            if tool == "set_resources" {
                self.put(&mut call.parameters, RESOURCES, key, value.clone().into());
            } else if creates {
                let resources = call.parameters.entry("resources").or_insert_with(|| json!({}));
                resources[*key] = value.clone().into();
                self.taken |= RESOURCES;
            }
        }
        self.apply_object(call, place);
    }

    /// Another object, another place.
    fn apply_object(&mut self, call: &mut ToolCall, place: usize) {
        let slots = self.slots;
        let namespace = call.tool == "create_namespace";
        let object = match call.parameters.get_mut("target") {
            Some(Value::Object(target)) => target,
            _ => &mut call.parameters,
        };
        if let Some(place) = slots.places.get(place).filter(|_| !namespace) {
            put_place(object, place);
            self.taken |= PLACE;
        } else if slots.all_namespaces && !namespace {
            object.remove("namespace");
            object.remove("environment");
            object.insert("allNamespaces".to_owned(), true.into());
            self.taken |= PLACE;
        }
        if let ([named], true) = (slots.targets.as_slice(), self.alone) {
            if let Some(kind) = &named.kind {
                object.insert("kind".to_owned(), kind.word.to_string().into());
                object.insert("all".to_owned(), (named.name.is_none() && kind.plural).into());
            }
            if let Some(name) = &named.name {
                object.insert("name".to_owned(), name.clone().into());
                object.remove("all");
                object.remove("selector");
            }
            if let Some(namespace) = &named.namespace {
                object.insert("namespace".to_owned(), namespace.clone().into());
            }
            self.taken |= NAME;
        }
    }

    fn put(&mut self, parameters: &mut Parameters, bit: u8, key: &str, value: Value) {
        parameters.insert(key.to_owned(), value);
        self.taken |= bit;
    }
}
