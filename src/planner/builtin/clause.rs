//! Cutting a request into clauses, and finding the verb of each.

use super::language::VerbPosition;
use super::lexicon::{Grammar, Item};
use super::sense::{Act, Connector, Role, Sense};
use super::tokens::Mark;
use super::values::Shape;

/// One clause.
#[derive(Clone, Debug, Default)]
pub(super) struct Clause {
    /// Its words, without the word that joins it to the one before.
    pub items: Vec<Item>,
    /// What it asks for.
    pub act: Option<Act>,
    /// Where the verb stands.
    pub verb_at: Option<usize>,
    /// A slip of the keyboard in the verb: the word, and what it was taken for.
    pub slip: Option<(String, String)>,
    /// Whether it comes after the clause before it in time ("then").
    pub then: bool,
    /// Whether its verb is denied.
    pub negated: bool,
}

impl Clause {
    /// The clause as it was written, as near as spaces allow.
    pub(super) fn words(&self) -> String {
        let words: Vec<&str> =
            self.items.iter().filter(|item| item.mark != Mark::Comma).map(|item| item.text.as_str()).collect();
        words.join(" ")
    }
}

/// Cuts items into clauses; empty ones are left out.
pub(super) fn split(items: Vec<Item>, grammar: &Grammar) -> Vec<Clause> {
    let mut clauses: Vec<Clause> = Vec::new();
    let mut current = Clause::default();
    let mut borrowed = false;
    let starts: Vec<Start> = (0..items.len()).map(|at| start(&items, at, grammar)).collect();
    for (item, start) in items.into_iter().zip(starts) {
        if start == Start::Within {
            current.items.push(item);
            continue;
        }
        let speaks = current.items.iter().any(|item| !item.is_filler() || item.act().is_some());
        let complete = match start {
            Start::Gap => speaks && gives_amount(&current.items),
            Start::Joined => current.items.iter().any(is_verb),
            _ => true,
        };
        if complete {
            finish(&mut clauses, std::mem::take(&mut current), borrowed, grammar);
            current.then = start == Start::Then;
            borrowed = start == Start::Gap;
        } else {
            current.items.push(item);
        }
    }
    finish(&mut clauses, current, borrowed, grammar);
    clauses
}

/// What an item does to the clause at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// Nothing: it is part of it.
    Within,
    /// It ends it.
    Stop,
    /// It ends it, and the next comes after in time.
    Then,
    /// A clause with its own verb follows.
    Joined,
    /// A clause without a verb but with its own object and amount follows: "… and payments to 3".
    Gap,
}

fn start(items: &[Item], at: usize, grammar: &Grammar) -> Start {
    let item = &items[at];
    if item.mark == Mark::Stop {
        return Start::Stop;
    }
    if item.can(|sense| *sense == Sense::Connector(Connector::Then)) {
        return Start::Then;
    }
    if !is_joint(item) {
        return Start::Within;
    }
    let rest = &items[at + 1..];
    let segment = rest.iter().take_while(|item| !is_joint(item) && item.mark != Mark::Stop);
    let mut content = segment.filter(|item| !item.is_filler()).peekable();
    let Some(&first) = content.peek() else { return Start::Within };
    let has_verb = match grammar.language.verb_position {
        VerbPosition::First => is_verb(first),
        VerbPosition::Anywhere => content.clone().any(is_verb),
    };
    if has_verb {
        return Start::Joined;
    }
    let words: Vec<&Item> = content.take(4).collect();
    match words.as_slice() {
        [name, to, amount] | [name, to, amount, _] if name.is_plain() && is_to(to) && is_amount(amount) => Start::Gap,
        _ => Start::Within,
    }
}

fn is_joint(item: &Item) -> bool {
    item.mark == Mark::Comma || item.can(|sense| matches!(sense, Sense::Connector(_)))
}

fn is_verb(item: &Item) -> bool {
    item.act().is_some() && !item.is_filler()
}

fn is_to(item: &Item) -> bool {
    item.can(|sense| *sense == Sense::Role(Role::To))
}

const fn is_amount(item: &Item) -> bool {
    matches!(item.shape, Shape::Number { .. })
}

fn gives_amount(items: &[Item]) -> bool {
    items.windows(2).any(|pair| is_to(&pair[0]) && is_amount(&pair[1]))
}

fn finish(clauses: &mut Vec<Clause>, mut clause: Clause, borrowed: bool, grammar: &Grammar) {
    if clause.items.iter().all(|item| item.is_filler() && item.act().is_none() && !follows_up(item)) {
        return;
    }
    if borrowed {
        clause.act = clauses.last().and_then(|before| before.act);
        clauses.push(clause);
        return;
    }
    let first = clause.items.iter().position(|item| !item.is_filler());
    let verb = clause.items.iter().position(is_verb);
    let opener = clause.items.first().is_some_and(|item| item.act().is_some()).then_some(0);
    clause.verb_at = verb.or(opener);
    clause.act = clause.verb_at.and_then(|at| clause.items[at].act());
    if clause.verb_at.is_none()
        && let Some(at) = first
        && clause.items[at].is_plain()
        && clause.items[at].mark == Mark::Word
        && clause.items[at].shape == Shape::Word
        && let Some((verb, act)) = grammar.nearest_verb(&clause.items[at].norm)
    {
        clause.slip = Some((clause.items[at].text.clone(), verb.to_owned()));
        clause.act = Some(act);
        clause.verb_at = Some(at);
    }
    let before_verb = clause.verb_at.map_or(&[] as &[Item], |at| &clause.items[..at]);
    clause.negated = before_verb.iter().any(|item| item.can(|sense| *sense == Sense::Negation));
    clauses.push(clause);
}

fn follows_up(item: &Item) -> bool {
    item.can(|sense| *sense == Sense::FollowUp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planner::builtin::lexicon::{ClusterKinds, GRAMMARS};

    fn clauses(request: &str) -> Vec<(Option<Act>, String)> {
        let items = GRAMMARS[0].read(request, &ClusterKinds::default());
        split(items, &GRAMMARS[0]).into_iter().map(|clause| (clause.act, clause.words())).collect()
    }

    #[test]
    fn clauses_have_their_own_verbs_and_lists_stay_together() {
        let read = clauses("Create namespace demo and deploy nginx with A=1 and B=2, then scale web and api to 3.");
        assert_eq!(
            read,
            [
                (Some(Act::Create), "Create namespace demo".to_owned()),
                (Some(Act::Deploy), "deploy nginx with A=1 and B=2".to_owned()),
                (Some(Act::Scale), "scale web and api to 3".to_owned()),
            ]
        );
    }

    #[test]
    fn a_clause_without_verb_borrows_it_when_it_has_its_own_amount() {
        let read = clauses("scale checkout to 3 and payments to 5");
        assert_eq!(read.len(), 2);
        assert_eq!(read[1], (Some(Act::Scale), "payments to 5".to_owned()));
    }
}
