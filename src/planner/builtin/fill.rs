//! Filling the slots of a clause: one walk over its words, steered by role words, field words and what values look like.

use super::language::RolePosition;
use super::lexicon::{ClusterKinds, Grammar, Item};
use super::sense::{Act, Direction, Field, Pronoun, Quantifier, Role, Sense, State};
use super::slots::{Named, Pair, Place, Slots, Unused};
use super::tokens::Mark;
use super::values::Shape;
use crate::planner::PlanningInput;
use std::collections::HashSet;

/// What the walk needs to know beside the words.
pub(super) struct Surroundings<'a> {
    pub grammar: &'a Grammar,
    pub kinds: &'a ClusterKinds,
    pub input: &'a PlanningInput,
    /// Whether the request has capital letters only, so that capitals mean nothing.
    pub shouted: bool,
}

/// Fills the slots of a clause with that verb at that place.
pub(super) fn fill(items: &[Item], act: Option<Act>, verb_at: Option<usize>, around: &Surroundings) -> Slots {
    let chunks = chunks(items, around.grammar.language.role_position);
    let mut walk = Walk {
        items,
        act,
        verb_at,
        around,
        chunks,
        used: vec![false; items.len()],
        decisive: HashSet::new(),
        slots: Slots::default(),
        field: None,
        open_kind: false,
        joined: false,
        place_word: None,
        all_here: false,
        names_here: Vec::new(),
        last_name: None,
        nouns: Vec::new(),
        states: Vec::new(),
    };
    walk.run();
    walk.finish()
}

/// Role and number of the phrase that each item belongs to.
fn chunks(items: &[Item], position: RolePosition) -> Vec<(Option<Role>, usize)> {
    let role_of = |item: &Item| {
        item.senses.iter().find_map(|sense| if let Sense::Role(role) = sense { Some(*role) } else { None })
    };
    let mut chunks = vec![(None, 0); items.len()];
    let (mut role, mut number) = (None, 0);
    let order: Box<dyn Iterator<Item = usize>> = match position {
        RolePosition::Before => Box::new(0..items.len()),
        RolePosition::After => Box::new((0..items.len()).rev()),
    };
    for at in order {
        if let Some(next) = role_of(&items[at]) {
            role = Some(next);
            number += 1;
        }
        chunks[at] = (role, number);
    }
    chunks
}

/// Which word said that a place follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PlaceWord {
    Namespace,
    Environment,
}

/// The walk at one word.
pub(super) struct Walk<'a> {
    pub(super) items: &'a [Item],
    pub(super) act: Option<Act>,
    pub(super) verb_at: Option<usize>,
    pub(super) around: &'a Surroundings<'a>,
    pub(super) chunks: Vec<(Option<Role>, usize)>,
    pub(super) used: Vec<bool>,
    pub(super) decisive: HashSet<usize>,
    pub(super) slots: Slots,
    /// The field that waits for its value, and the phrase that it stands in.
    pub(super) field: Option<(Field, usize)>,
    /// Whether the last thing was a kind that waits for a name.
    pub(super) open_kind: bool,
    /// Whether "and" or a comma stands before the word at hand.
    pub(super) joined: bool,
    pub(super) place_word: Option<PlaceWord>,
    /// "All" within the phrase at hand.
    pub(super) all_here: bool,
    /// Targets (by position) named in the phrase at hand.
    pub(super) names_here: Vec<usize>,
    /// The item that was the last name.
    pub(super) last_name: Option<usize>,
    pub(super) nouns: Vec<usize>,
    pub(super) states: Vec<usize>,
}

impl<'a> Walk<'a> {
    fn run(&mut self) {
        let mut chunk = 0;
        for at in 0..self.items.len() {
            if self.chunks[at].1 != chunk {
                chunk = self.chunks[at].1;
                self.open_kind = false;
                self.joined = false;
                self.place_word = None;
                self.all_here = false;
                self.names_here.clear();
                self.last_name = None;
            }
            if self.used[at] {
                continue;
            }
            if self.verb_at == Some(at) || self.step(at) {
                self.used[at] = true;
            }
        }
    }

    pub(super) fn role(&self, at: usize) -> Option<Role> {
        self.chunks[at].0
    }

    pub(super) fn chunk(&self, at: usize) -> usize {
        self.chunks[at].1
    }

    pub(super) fn acts(&self, acts: &[Act]) -> bool {
        self.act.is_some_and(|act| acts.contains(&act))
    }

    /// Whether the clause makes something new.
    pub(super) fn creates(&self) -> bool {
        self.acts(&[Act::Deploy, Act::Run, Act::Create, Act::Make])
    }

    /// The next item with content.
    pub(super) fn next(&self, at: usize) -> Option<&'a Item> {
        self.items[at + 1..].iter().find(|item| !item.is_filler() || item.mark == Mark::Comma)
    }

    /// One word: whether something took it.
    fn step(&mut self, at: usize) -> bool {
        let item = &self.items[at];
        if item.mark == Mark::Comma {
            self.joined = true;
            return true;
        }
        let is_role = item.can(|sense| matches!(sense, Sense::Role(_)));
        if self.role(at) == Some(Role::Called) && !is_role && !item.is_filler() && self.slots.alias.is_none() {
            self.slots.alias = Some(self.name_text(item));
            return true;
        }
        let literal = self.field.is_some_and(|(field, _)| matches!(field, Field::Container | Field::Name))
            && at > 0
            && item.senses.iter().all(|sense| matches!(sense, Sense::Noun | Sense::Environment(_) | Sense::Verb(_)))
            && self.items[at - 1].can(|sense| matches!(sense, Sense::Field(_)));
        if item.mark == Mark::Quoted || literal {
            return self.value(at);
        }
        if self.is_name_after_kind(at) {
            return self.name(at);
        }
        if let Some(kind) = item.kind()
            && item.senses.iter().all(|s| {
                matches!(
                    s,
                    Sense::Kind(_) | Sense::Noun | Sense::Missing(_) | Sense::Verb(_) | Sense::State(_) | Sense::Vague
                )
            })
            && self.kind(at, &kind.clone())
        {
            return true;
        }
        for sense in &item.senses {
            if self.sense(at, sense) {
                return true;
            }
        }
        (item.senses.is_empty() || !matches!(item.shape, Shape::Word | Shape::Sign)) && self.value(at)
    }

    /// A listed word right behind a kind in the singular, with no better name following, is a name.
    fn is_name_after_kind(&self, at: usize) -> bool {
        let item = &self.items[at];
        let weak = |sense: &Sense| {
            matches!(sense, Sense::Environment(_) | Sense::State(_) | Sense::Verb(_) | Sense::Missing(_))
        };
        let singular =
            self.slots.targets.last().and_then(|target| target.kind.as_ref()).is_some_and(|kind| !kind.plural);
        self.open_kind
            && singular
            && !item.senses.is_empty()
            && item.senses.iter().all(weak)
            && !self.next(at).is_some_and(Item::is_plain)
    }

    fn sense(&mut self, at: usize, sense: &Sense) -> bool {
        let role = self.role(at);
        match sense {
            Sense::Role(_) | Sense::Filler => true,
            Sense::Direction(direction) => self.direction(*direction),
            Sense::Field(field) => self.name_field(at, *field),
            Sense::Fraction(part) => self.fraction(role, *part),
            Sense::Environment(environment) => self.environment(at, *environment),
            Sense::Quantifier(quantifier) => {
                match quantifier {
                    Quantifier::All if matches!(role, Some(Role::In | Role::On | Role::From)) => self.all_here = true,
                    Quantifier::All => self.slots.all = true,
                    Quantifier::Everything => self.slots.everything = true,
                    Quantifier::Everywhere => self.slots.all_namespaces = true,
                }
                true
            }
            Sense::Pronoun(Pronoun::There) => {
                self.slots.there = true;
                true
            }
            Sense::Pronoun(Pronoun::It) => {
                // "this deployment": the noun behind it says what is meant.
                let place = matches!(role, Some(Role::In | Role::On));
                self.slots.there |= place;
                self.slots.it |= !place;
                true
            }
            Sense::Connector(_) => {
                self.joined = true;
                self.open_kind = false;
                true
            }
            Sense::Kind(kind) => self.kind(at, kind),
            Sense::State(state) if self.acts(&[Act::Wait]) => {
                self.slots.until = Some(*state);
                true
            }
            Sense::State(State::Running) => self.acts(&[Act::Ask, Act::Diagnose]),
            Sense::State(_) => {
                self.states.push(at);
                self.acts(&[Act::Ask, Act::Show, Act::Describe, Act::Diagnose])
            }
            Sense::ServiceType(kind) if self.creates() || self.acts(&[Act::Expose]) => {
                self.slots.service_type = Some(*kind);
                true
            }
            Sense::Noun => {
                self.nouns.push(at);
                true
            }
            Sense::FollowUp => {
                self.slots.follow_up = true;
                true
            }
            Sense::Negation | Sense::Condition => {
                self.decisive.insert(at);
                // "Why is checkout not ready": what is said of the object describes the trouble.
                self.acts(&[Act::Diagnose]) && self.slots.has_name()
            }
            Sense::Vague => {
                self.slots.vague = true;
                true
            }
            Sense::Missing(which) => {
                self.slots.missing.get_or_insert(*which);
                true
            }
            Sense::Verb(_) | Sense::Unit(_) | Sense::Number(_) | Sense::Multiplier(_) | Sense::ServiceType(_) => false,
        }
    }

    fn direction(&mut self, direction: Direction) -> bool {
        let turns = self.acts(&[
            Act::Scale,
            Act::ScaleUp,
            Act::ScaleDown,
            Act::Set,
            Act::Make,
            Act::Update,
            Act::Roll,
            Act::RollOut,
            Act::Undo,
        ]);
        if turns {
            self.slots.direction = Some(direction);
        }
        turns
    }

    fn name_field(&mut self, at: usize, field: Field) -> bool {
        let in_place = matches!(self.role(at), Some(Role::In | Role::On | Role::From));
        if field == Field::Environment {
            let after_place = self.last_place_is_here(at);
            if after_place {
                let word =
                    self.items[..at].iter().rev().find(|item| !item.is_filler()).map(|item| self.plain_place(item));
                if let (Some(last), Some(word)) = (self.slots.places.last_mut(), word) {
                    *last = Place::Environment(word);
                }
            }
            self.place_word = (!after_place).then_some(PlaceWord::Environment);
            return true;
        }
        if field == Field::Env && in_place && self.items[at].can(|sense| *sense == Sense::Field(Field::Environment)) {
            return false;
        }
        let Some(field) = self.of_resource(field) else { return false };
        self.field = Some((field, self.chunk(at)));
        self.slots.fields.push(field);
        true
    }

    /// "… and a limit of 1": of the resource named last.
    fn of_resource(&self, field: Field) -> Option<Field> {
        if !matches!(field, Field::Request | Field::Limit) {
            return Some(field);
        }
        let last = self.slots.fields.iter().rev().find(|before| before.family() == Field::Cpu)?;
        Some(match (last.is_memory(), field) {
            (true, Field::Request) => Field::MemoryRequest,
            (true, _) => Field::MemoryLimit,
            (false, Field::Request) => Field::CpuRequest,
            (false, _) => Field::CpuLimit,
        })
    }

    /// Takes note that a word may turn the meaning round.
    pub(super) fn is_decisive(&mut self, at: usize) {
        self.decisive.insert(at);
    }

    fn finish(mut self) -> Slots {
        self.name_from_what_is_left();
        if !self.slots.has_name() {
            for at in std::mem::take(&mut self.states) {
                if !self.acts(&[Act::Wait, Act::Diagnose]) {
                    self.used[at] = false;
                    self.decisive.insert(at);
                }
            }
        }
        let mut content = 0u32;
        let mut explained = 0u32;
        for (at, item) in self.items.iter().enumerate() {
            if item.is_filler() && !self.used[at] || item.is_filler() && item.act().is_none() {
                continue;
            }
            content += 1;
            if self.used[at] {
                explained += 1;
                continue;
            }
            let number = !matches!(item.shape, Shape::Word | Shape::Sign);
            let time = item.can(|sense| matches!(sense, Sense::Unit(unit) if unit.is_time()));
            let decisive = number || time || self.decisive.contains(&at);
            self.slots.unused.push(Unused { text: item.text.clone(), decisive });
        }
        self.slots.coverage = if content == 0 { 1.0 } else { f64::from(explained) / f64::from(content) };
        self.slots
    }

    /// Where no name was found, a word that usually means something else may be it: "restart app", "scale release to 3".
    fn name_from_what_is_left(&mut self) {
        let asks = self.acts(&[Act::Ask, Act::Show, Act::Describe, Act::List]) || self.act.is_none();
        let open = self.slots.targets.iter().all(|target| {
            target.name.is_none() && target.kind.as_ref().is_none_or(|kind| !kind.plural) && !self.slots.all
        });
        let pointed = self.slots.it || self.slots.vague || self.slots.everything || self.slots.alias.is_some();
        if asks || !open || pointed || self.slots.image.is_some() || self.slots.missing.is_some() {
            return;
        }
        let verbs = (0..self.items.len()).filter(|at| !self.used[*at] && self.items[*at].act().is_some());
        let mut spare = verbs.chain(self.nouns.iter().copied());
        if let (Some(only), None) = (spare.next(), spare.next())
            && matches!(self.role(only), None | Some(Role::Of | Role::Until))
        {
            let name = Some(self.name_text(&self.items[only]));
            self.used[only] = true;
            match self.slots.targets.last_mut() {
                Some(target) => target.name = name,
                None => self.slots.targets.push(Named { name, role: self.role(only), ..Named::default() }),
            }
        }
    }

    /// Puts a key and a value, or a part of a selector, where the last field word says.
    pub(super) fn pair(&mut self, text: &str) -> bool {
        let field = self.field.map(|(field, _)| field).filter(|f| matches!(f, Field::Env | Field::Data | Field::Label));
        let parts: Vec<&str> = text.split(',').collect();
        let parts = if parts.iter().all(|part| part.contains('=')) { parts } else { vec![text] };
        for part in parts {
            let Some((key, value)) = part.split_once('=') else { return false };
            if key.ends_with('!') || value.starts_with('=') {
                self.slots.selector.push(part.to_owned());
            } else {
                self.slots.pairs.push(Pair { field, key: key.to_owned(), value: value.to_owned() });
            }
        }
        true
    }
}

/// Sets a slot once; a second, different value is a contradiction.
pub(super) fn set<T: PartialEq>(slot: &mut Option<T>, value: T, conflict: &mut Option<String>, text: &str) -> bool {
    if slot.as_ref().is_some_and(|before| *before != value) {
        conflict.get_or_insert_with(|| text.to_owned());
    }
    *slot = Some(value);
    true
}
