//! The built-in planner: a small grammar over words as data. It needs neither key nor network, and gives the same draft
//! for the same input.
//!
//! The way of a request: [`tokens`] cut it, [`lexicon`] gives words their meanings, [`clause`] cuts it into clauses with
//! a verb each, [`fill`] walks each clause and fills its slots (with [`objects`] and [`amounts`]), [`calls`] (with
//! [`creation`]) turns verb and slots into tool calls or into the question that is open, [`wording`] says it. What a word means is in `languages/`, one file a language.
//!
//! Nothing is planned past words that were not understood where they may turn the meaning round: negations, conditions,
//! times and numbers that no slot takes lead to a question.

mod amounts;
mod calls;
mod clause;
mod creation;
mod fill;
mod follow_up;
mod language;
mod lexicon;
mod objects;
mod sense;
mod slots;
mod suggest;
mod targets;
#[cfg(test)]
mod tests;
mod tokens;
mod values;
mod wording;

use crate::api::Intent;
use crate::draft::{Draft, ToolCall};
use crate::planner::PlanningInput;
use calls::{Case, Reading, effective, intent, want};
use clause::{Clause, split};
use fill::{Surroundings, fill};
use lexicon::{ClusterKinds, GRAMMARS, Grammar, Item};
use sense::Act;
use slots::Slots;
use targets::Referents;
use wording::{Wording, say};

pub use suggest::suggestions;

/// The most clauses that one request may have.
const MOST_CLAUSES: usize = 20;
/// Confidence where everything was explained.
const CERTAIN: f64 = 0.97;
/// The most confidence where a word was not used.
const NOT_QUITE: f64 = 0.8;
/// Confidence in a request that is understood but lacks something.
const OPEN: f64 = 0.5;
/// Confidence in a request that is not understood.
const UNCLEAR: f64 = 0.15;
/// Confidence for a verb with a slip of the keyboard.
const SLIP: f64 = 0.78;

/// Proposes a draft for a request. Pure, and total: every input gives a draft, if only one that asks.
#[must_use]
pub fn propose(input: &PlanningInput) -> Draft {
    let Some(grammar) = choose(input) else {
        return Draft { confidence: 0.0, ..Draft::question(Intent::Query, "", "") };
    };
    let reader = Reader::new(grammar, input);
    let mut draft = reader.draft();
    draft.language = Some(grammar.language.code.clone());
    draft
}

/// The language of a request: the one asked for where the words do not speak for another, else the one with most hits.
fn choose(input: &PlanningInput) -> Option<&'static Grammar> {
    let wanted = input.language.as_deref().map(|tag| tag.split('-').next().unwrap_or(tag).to_lowercase());
    let by_name = wanted.and_then(|code| GRAMMARS.iter().find(|grammar| grammar.language.code == code));
    if let [only] = GRAMMARS.as_slice() {
        return Some(only);
    }
    let none = ClusterKinds::default();
    let score = |grammar: &Grammar| suggest::fluency(grammar, &grammar.read(&input.request, &none), &input.request);
    by_name.or_else(|| {
        // The first of the best, so that the order of the files decides between equals.
        GRAMMARS
            .iter()
            .rev()
            .map(|grammar| (score(grammar), grammar))
            .max_by_key(|(hits, _)| *hits)
            .map(|(_, best)| best)
    })
}

/// Reads requests in one language against one cluster.
struct Reader<'a> {
    grammar: &'static Grammar,
    input: &'a PlanningInput,
    kinds: ClusterKinds,
}

/// One clause, read.
struct Read {
    act: Option<Act>,
    slots: Slots,
    reading: Reading,
    clause: Clause,
}

impl<'a> Reader<'a> {
    fn new(grammar: &'static Grammar, input: &'a PlanningInput) -> Self {
        Self { grammar, input, kinds: ClusterKinds::new(&input.kinds, &grammar.kubernetes) }
    }

    fn wording(&self) -> Wording<'_> {
        Wording { grammar: self.grammar, kinds: &self.kinds }
    }

    fn draft(&self) -> Draft {
        self.understand(&self.input.request, true)
    }

    /// The draft for a text; earlier turns count only when `in_session`.
    fn understand(&self, request: &str, in_session: bool) -> Draft {
        let language = &self.grammar.language;
        let mut items = self.grammar.read(request, &self.kinds);
        let turns = if in_session { self.input.turns.as_slice() } else { &[] };
        if !turns.is_empty() {
            follow_up::drop_leading_no(&mut items);
        }
        if items.iter().all(Item::is_nothing) {
            return self.unclear(&items, request, language.questions.empty.clone());
        }
        let foreign = items.iter().all(|item| item.senses.is_empty() || item.is_filler());
        let shouted = request.chars().any(char::is_uppercase) && !request.chars().any(char::is_lowercase);
        let around = Surroundings { grammar: self.grammar, kinds: &self.kinds, input: self.input, shouted };
        let clauses = split(items.clone(), self.grammar);
        if clauses.len() > MOST_CLAUSES {
            return self.unclear(&items, request, language.questions.many.clone());
        }
        if let ([clause], Some(last)) = (clauses.as_slice(), turns.last()) {
            let slots = fill(&clause.items, clause.act, clause.verb_at, &around);
            if let Some(draft) = follow_up::continue_from(self, last, request, clause, &slots) {
                return draft;
            }
        }
        if clauses.is_empty() || (foreign && clauses.iter().all(|clause| clause.act.is_none())) {
            return self.unclear(&items, request, self.what_is_meant(request, foreign));
        }
        let before = turns.last().and_then(|turn| turn.draft.as_ref()).map(|draft| Referents::of(&draft.tool_calls));
        self.compose(clauses, before.unwrap_or_default(), &around, request)
    }

    /// One draft from all clauses: all of them, or none.
    fn compose(&self, clauses: Vec<Clause>, mut before: Referents, around: &Surroundings, request: &str) -> Draft {
        let mut calls: Vec<ToolCall> = Vec::new();
        let mut reads: Vec<Read> = Vec::new();
        let mut last: Vec<String> = Vec::new();
        for clause in clauses {
            let read = self.read(clause, &before, around, request);
            let made = number_calls(&read, &calls, &last, &self.grammar.language.sentences.why);
            if !made.is_empty() {
                before = Referents::of(&made);
                last = made.iter().map(|call| call.id.clone()).collect();
            }
            calls.extend(made);
            reads.push(read);
        }
        self.conclude(&reads, calls, request)
    }

    fn read(&self, clause: Clause, before: &Referents, around: &Surroundings, request: &str) -> Read {
        let language = &self.grammar.language;
        let slots = fill(&clause.items, clause.act, clause.verb_at, around);
        let act = clause.act.or_else(|| asks_by_kind(&slots)).map(|act| effective(act, &slots));
        let mut warnings = Vec::new();
        let mut certainty = 1.0;
        if let Some((word, meant)) = &clause.slip {
            warnings.push(say(&language.warnings.near, &[("word", word), ("meant", meant)]));
            certainty = SLIP;
        } else if clause.act.is_none() && act.is_some() {
            warnings.push(language.warnings.assumed_verb.clone());
            certainty = SLIP;
        }
        let wording = self.wording();
        let reading = match act {
            Some(act) if clause.negated => Reading {
                intent: intent(act),
                calls: Vec::new(),
                question: Some(language.questions.negated.clone()),
                warnings,
                certainty,
            },
            Some(act) => {
                Case { act, clause: &clause, slots: &slots, before, wording: &wording, warnings, certainty }.read()
            }
            None => {
                let missing = slots.missing.and_then(|which| language.missing.get(which));
                let question = missing
                    .map_or_else(|| self.what_is_meant(&clause_words(&clause, request), false), |m| m.question.clone());
                let intent = missing.and_then(|missing| missing.intent).unwrap_or(Intent::Query);
                Reading { intent, calls: Vec::new(), question: Some(question), warnings, certainty: 0.0 }
            }
        };
        Read { act, slots, reading, clause }
    }

    fn conclude(&self, reads: &[Read], calls: Vec<ToolCall>, request: &str) -> Draft {
        let language = &self.grammar.language;
        // One change makes the whole a change, whatever it begins with.
        let intents = || reads.iter().map(|read| read.reading.intent);
        let intent =
            intents().find(|intent| !intent.is_read_only()).or_else(|| intents().next()).unwrap_or(Intent::Query);
        let mut warnings: Vec<String> = Vec::new();
        for read in reads {
            warnings.extend(read.reading.warnings.iter().cloned());
            if !read.slots.unused.is_empty() && read.reading.question.is_none() {
                warnings.push(say(&language.warnings.not_used, &[("words", &read.slots.unused_words())]));
            }
        }
        let mut questions: Vec<String> = Vec::new();
        for question in reads.iter().filter_map(|read| read.reading.question.clone()) {
            if !questions.contains(&question) {
                questions.push(question);
            }
        }
        if let Some(open) = reads.iter().find(|read| read.reading.question.is_some()) {
            let confidence = reads.iter().map(confidence).fold(1.0, f64::min);
            let interpretation = self.open(open);
            let clarifying_questions = questions;
            let alternatives = if open.clause.negated {
                Vec::new()
            } else {
                suggest::alternatives(self.grammar, request, open.act.map(calls::intent))
            };
            return Draft {
                intent: open.reading.intent,
                confidence,
                clarifying_questions,
                alternatives,
                warnings,
                ..Draft::question(intent, interpretation, "")
            };
        }
        let confidence = reads.iter().map(confidence).fold(1.0, f64::min);
        let wording = self.wording();
        let sentences: Vec<String> = calls.iter().map(|call| wording.call(call)).collect();
        Draft {
            intent,
            confidence,
            interpretation: sentences.join(" "),
            tool_calls: calls,
            clarifying_questions: Vec::new(),
            alternatives: Vec::new(),
            warnings,
            language: None,
        }
    }

    /// What an open clause was understood to want.
    fn open(&self, read: &Read) -> String {
        let language = &self.grammar.language;
        let sentences = &language.sentences;
        let missing = read.slots.missing.is_some() || matches!(read.act, Some(Act::Monitor | Act::Optimize));
        match read.act {
            Some(act) if read.clause.negated => say(&sentences.nothing, &[("want", want(act, language))]),
            Some(act) if missing => say(&sentences.missing, &[("want", want(act, language))]),
            Some(_) if read.slots.vague && read.slots.targets.is_empty() => sentences.unclear.clone(),
            Some(act) => say(&sentences.open, &[("want", want(act, language))]),
            None if missing => say(&sentences.missing, &[("want", &language.wants.update)]),
            None => sentences.unclear.clone(),
        }
    }

    fn what_is_meant(&self, words: &str, foreign: bool) -> String {
        let questions = &self.grammar.language.questions;
        let words: String = words.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(200).collect();
        let mut question = say(&questions.unclear, &[("words", &words)]);
        if foreign {
            let names: Vec<&str> = GRAMMARS.iter().map(|grammar| grammar.language.name.as_str()).collect();
            question = format!("{question} {}", say(&questions.language, &[("languages", &names.join(", "))]));
        }
        question
    }

    fn unclear(&self, items: &[Item], request: &str, question: String) -> Draft {
        let confidence = if items.iter().any(|item| !item.senses.is_empty()) { UNCLEAR } else { UNCLEAR / 3.0 };
        let alternatives = suggest::alternatives(self.grammar, request, None);
        let interpretation = self.grammar.language.sentences.unclear.clone();
        Draft { confidence, alternatives, ..Draft::question(Intent::Query, interpretation, question) }
    }
}

/// "Pods in staging?": a kind in the plural and nothing else is a question for them.
fn asks_by_kind(slots: &Slots) -> Option<Act> {
    let only_kinds = slots.targets.iter().all(|t| t.name.is_none() && t.kind.as_ref().is_some_and(|kind| kind.plural));
    let plain =
        slots.unused.is_empty() && slots.missing.is_none() && slots.amounts.is_empty() && slots.fields.is_empty();
    (!slots.targets.is_empty() && only_kinds && plain).then_some(Act::Ask)
}

fn clause_words(clause: &Clause, request: &str) -> String {
    let words = clause.words();
    if words.is_empty() { request.to_owned() } else { words }
}

/// How sure one clause is.
fn confidence(read: &Read) -> f64 {
    let open = read.reading.question.is_some();
    let missing = read.slots.missing.is_some() || matches!(read.act, Some(Act::Monitor | Act::Optimize));
    let base = match read.act {
        Some(_) if read.clause.negated || missing => CERTAIN,
        None if missing => CERTAIN,
        None => return UNCLEAR,
        Some(_) if open && read.slots.coverage < 0.5 => return UNCLEAR * 2.0,
        Some(_) if open => OPEN,
        Some(_) if read.slots.unused.is_empty() => CERTAIN,
        Some(_) => NOT_QUITE * read.slots.coverage,
    };
    base * if read.reading.certainty > 0.0 { read.reading.certainty } else { 1.0 }
}

/// Gives the calls of a clause their identifiers and what they wait for.
fn number_calls(read: &Read, earlier: &[ToolCall], last: &[String], why: &str) -> Vec<ToolCall> {
    let why = say(why, &[("words", &read.clause.words())]);
    let calls = read.reading.calls.iter().enumerate();
    calls
        .map(|(index, (tool, parameters))| {
            let id = format!("c{}", earlier.len() + index + 1);
            let mut call = ToolCall {
                id,
                tool: (*tool).to_owned(),
                parameters: parameters.clone(),
                depends_on: Vec::new(),
                why: why.clone(),
            };
            let waits =
                |before: &&ToolCall| (read.clause.then && last.contains(&before.id)) || follow_up::needs(&call, before);
            call.depends_on = earlier.iter().filter(waits).map(|before| before.id.clone()).collect();
            call
        })
        .collect()
}
