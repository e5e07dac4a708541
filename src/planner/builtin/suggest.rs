//! Requests like the one at hand, and which language it is in.

use super::calls::intent;
use super::clause::split;
use super::language::Script;
use super::lexicon::{ClusterKinds, GRAMMARS, Grammar, Item};
use super::tokens::normalize;
use crate::api::Intent;

/// How many suggestions are made.
const MOST: usize = 5;
/// How much of a request is compared, in characters.
const COMPARED: usize = 160;
/// The least likeness of a suggestion, from 0 to 1.
const ALIKE: f64 = 0.35;

/// Requests that begin like `partial`, then such that are like it; the first examples for nothing at all.
#[must_use]
pub fn suggestions(partial: &str) -> Vec<String> {
    let wanted = normalize(partial.trim());
    let examples = || GRAMMARS.iter().flat_map(|grammar| &grammar.language.examples);
    let mut found: Vec<String> =
        examples().filter(|example| normalize(example).starts_with(&wanted)).cloned().collect();
    for grammar in GRAMMARS.iter() {
        found.extend(similar(grammar, partial));
    }
    let mut unique: Vec<String> = Vec::new();
    for suggestion in found {
        if !unique.contains(&suggestion) {
            unique.push(suggestion);
        }
    }
    unique.truncate(MOST);
    unique
}

/// Requests in that language that are like this one, then such that are after the same; some examples where none is.
pub(super) fn alternatives(grammar: &Grammar, request: &str, after: Option<Intent>) -> Vec<String> {
    let mut found = similar(grammar, request);
    let examples = &grammar.language.examples;
    for example in examples.iter().filter(|example| after.is_some() && intent_of(grammar, example) == after) {
        if !found.contains(example) {
            found.push(example.clone());
        }
    }
    if found.is_empty() {
        found = examples.iter().step_by(6).cloned().collect();
    }
    found.truncate(3);
    found
}

/// What an example is after, by its verb.
fn intent_of(grammar: &Grammar, example: &str) -> Option<Intent> {
    let clauses = split(grammar.read(example, &ClusterKinds::default()), grammar);
    clauses.first().and_then(|clause| clause.act).map(intent)
}

fn similar(grammar: &Grammar, request: &str) -> Vec<String> {
    let request: String = normalize(request.trim()).chars().take(COMPARED).collect();
    let words: Vec<&str> = request.split_whitespace().collect();
    if words.is_empty() {
        return Vec::new();
    }
    let scored = grammar.language.examples.iter().map(|example| (likeness(&words, &normalize(example)), example));
    let mut scored: Vec<(f64, &String)> = scored.filter(|(score, _)| *score >= ALIKE).collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    scored.into_iter().take(MOST).map(|(_, example)| example.clone()).collect()
}

/// How alike two requests are by their words, the first one twice: it is usually the verb.
fn likeness(words: &[&str], example: &str) -> f64 {
    let others: Vec<&str> = example.split_whitespace().collect();
    let best = |word: &str| {
        let scores = others.iter().map(|other| strsim::normalized_damerau_levenshtein(word, other));
        scores.fold(0.0_f64, |best, score| if score > 0.7 && score > best { score } else { best })
    };
    let first = words.first().map_or(0.0, |word| {
        let score = strsim::normalized_damerau_levenshtein(word, others.first().unwrap_or(&""));
        if score > 0.6 { score } else { 0.0 }
    });
    let sum: f64 = words.iter().map(|word| best(word)).sum();
    let size = u32::try_from(words.len().max(others.len())).unwrap_or(u32::MAX);
    (sum + 2.0 * first) / (f64::from(size) + 2.0)
}

/// How well a request speaks a language: words of it, plus one when its letters are of the language's scripts.
pub(super) fn fluency(grammar: &Grammar, items: &[Item], request: &str) -> usize {
    let hits = items.iter().filter(|item| !item.senses.is_empty()).count();
    let script = request.chars().filter_map(script_of).any(|script| grammar.language.scripts.contains(&script));
    hits * 2 + usize::from(script)
}

const fn script_of(c: char) -> Option<Script> {
    Some(match c {
        'a'..='z' | 'A'..='Z' | '\u{00c0}'..='\u{024f}' => Script::Latin,
        '\u{0400}'..='\u{052f}' => Script::Cyrillic,
        '\u{0600}'..='\u{06ff}' | '\u{0750}'..='\u{077f}' => Script::Arabic,
        '\u{0900}'..='\u{097f}' => Script::Devanagari,
        '\u{4e00}'..='\u{9fff}' | '\u{3400}'..='\u{4dbf}' => Script::Han,
        '\u{3040}'..='\u{30ff}' => Script::Kana,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggestions_begin_with_what_was_typed() {
        let found = suggestions("roll");
        assert_eq!(found[..2], ["roll back checkout", "roll back checkout to revision 3"]);
        assert!(suggestions("sclae checkout to 9")[0].starts_with("scale checkout"));
        assert_eq!(suggestions("").len(), MOST);
    }
}
