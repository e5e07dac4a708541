//! The third of the walk that takes objects and places: kinds, names, namespaces, environments.

use super::fill::{PlaceWord, Walk};
use super::language::VerbPosition;
use super::lexicon::Item;
use super::sense::{Act, Environment, Kind, Role, Sense};
use super::slots::{Named, Place};
use super::tokens::Mark;
use super::values::Shape;

/// The word of the kind whose objects are places.
const NAMESPACE: &str = "namespace";

impl Walk<'_> {
    pub(super) fn environment(&mut self, at: usize, environment: Environment) -> bool {
        let item = &self.items[at];
        if matches!(self.role(at), Some(Role::With | Role::By | Role::As | Role::Until | Role::Factor)) {
            return false;
        }
        let before_namespace =
            self.next(at).and_then(Item::kind).is_some_and(|kind| &*kind.word == NAMESPACE && !kind.plural);
        if before_namespace && self.takes_kind() && !matches!(self.role(at), Some(Role::In | Role::On | Role::From)) {
            return self.name(at);
        }
        let place = match self.place_word {
            Some(PlaceWord::Namespace) => Place::Namespace(self.name_text(item)),
            Some(PlaceWord::Environment) => Place::Environment(environment.as_str().to_owned()),
            None => self.environment_or_namespace(item, environment),
        };
        self.slots.places.push(place);
        true
    }

    /// A word for an environment is a namespace where one is called so, by the word or by one other word for the same.
    pub(super) fn environment_or_namespace(&self, item: &Item, environment: Environment) -> Place {
        let namespaces = &self.around.input.namespaces;
        if namespaces.contains(&item.norm) {
            return Place::Namespace(item.norm.clone());
        }
        let words = self.around.grammar.language.environments.get(&environment);
        let mut called_so = namespaces.iter().filter(|name| words.is_some_and(|words| words.contains(name)));
        match (called_so.next(), called_so.next()) {
            (Some(only), None) => Place::Namespace(only.clone()),
            _ => Place::Environment(environment.as_str().to_owned()),
        }
    }

    /// Whether a kind can be what the clause acts on, and none is named yet.
    pub(super) fn takes_kind(&self) -> bool {
        self.slots.targets.is_empty()
            && (self.creates()
                || self.act.is_none()
                || self.acts(&[Act::Delete, Act::Show, Act::List, Act::Describe, Act::Ask, Act::Wait, Act::Diagnose]))
    }

    pub(super) fn kind(&mut self, at: usize, kind: &Kind) -> bool {
        let role = self.role(at);
        let in_place = matches!(role, Some(Role::In | Role::On | Role::From));
        let behind_name = self.last_name.is_some() && self.last_name == self.before(at);
        if &*kind.word == NAMESPACE && !behind_name {
            if in_place || !self.takes_kind() || role == Some(Role::To) {
                if self.all_here || (kind.plural && self.slots.all && in_place) {
                    self.slots.all_namespaces = true;
                } else if self.last_place_is_here(at) {
                    let word = self.before(at).map(|before| self.name_text(&self.items[before]));
                    if let (Some(last), Some(word)) = (self.slots.places.last_mut(), word) {
                        *last = Place::Namespace(word);
                    }
                } else {
                    self.place_word = Some(PlaceWord::Namespace);
                }
                return true;
            }
        } else if in_place && role != Some(Role::On) {
            return false;
        }
        let receives = self.slots.targets.is_empty()
            && self.acts(&[Act::Set, Act::Update, Act::Roll, Act::RollOut, Act::Give, Act::ScaleUp]);
        match role {
            None => {}
            Some(Role::Of | Role::Until) if !self.is_relation(role) => {}
            Some(Role::To | Role::On) if receives => {}
            Some(Role::As) => return self.acts(&[Act::Expose]) || self.creates(),
            _ => {
                self.decisive.insert(at);
                return false;
            }
        }
        if behind_name && (!kind.plural || self.names_here.len() > 1) {
            for target in &self.names_here {
                self.slots.targets[*target].kind.get_or_insert_with(|| kind.clone());
            }
            return true;
        }
        if behind_name && let Some(name) = self.last_name {
            // "checkout pods": neither a pod of that name nor all pods.
            self.slots.targets.pop();
            self.used[name] = false;
            self.decisive.insert(name);
        }
        self.slots.targets.push(Named { kind: Some(kind.clone()), role, ..Named::default() });
        self.open_kind = true;
        self.last_name = None;
        true
    }

    /// The item with content before `at`.
    pub(super) fn before(&self, at: usize) -> Option<usize> {
        (0..at).rev().find(|index| !self.items[*index].is_filler())
    }

    /// A name as tools take it: lower case unless quoted, since the API knows no other.
    pub(super) fn name_text(&self, item: &Item) -> String {
        if item.mark == Mark::Quoted { item.text.trim().to_owned() } else { item.norm.clone() }
    }

    /// A name of an object.
    pub(super) fn name(&mut self, at: usize) -> bool {
        let item = &self.items[at];
        let role = self.role(at);
        let next_kind = self.next(at).and_then(Item::kind);
        let named = self.named(item, role);
        let first = self.around.grammar.language.verb_position == VerbPosition::First;
        if first && self.verb_at.is_some_and(|verb| at < verb) {
            return false;
        }
        if self.place_word == Some(PlaceWord::Namespace) {
            self.slots.places.push(Place::Namespace(self.name_text(item)));
            return true;
        }
        if next_kind.is_some_and(|kind| kind.plural)
            && self.names_here.is_empty()
            && self.around.input.namespaces.contains(&item.norm)
        {
            self.slots.places.push(Place::Namespace(item.norm.clone()));
            return true;
        }
        if self.open_kind && self.is_filter(at) {
            self.decisive.insert(at);
            return false;
        }
        if self.open_kind
            && let Some(last) = self.slots.targets.last_mut()
        {
            last.name = named.name;
            last.namespace = named.namespace;
        } else if self.is_relation(role) {
            self.decisive.insert(at);
            return false;
        } else if self.joined || self.names_here.is_empty() {
            let leading = self.joined.then(|| self.slots.targets.last().and_then(|last| last.kind.clone())).flatten();
            self.slots.targets.push(Named { kind: named.kind.or(leading), ..named });
        } else if next_kind.is_some_and(|kind| !kind.plural)
            && let Some(last) = self.slots.targets.last_mut()
        {
            if let Some(before) = self.last_name {
                self.used[before] = false;
            }
            last.name = named.name;
            last.namespace = named.namespace;
        } else {
            return false;
        }
        self.names_here.push(self.slots.targets.len() - 1);
        self.names_here.dedup();
        self.last_name = Some(at);
        self.open_kind = false;
        self.joined = false;
        true
    }

    /// "Which deployments use nginx": behind a plural and another word, a word in a question is no name.
    pub(super) fn is_filter(&self, at: usize) -> bool {
        let plural = self.slots.targets.last().and_then(|target| target.kind.as_ref()).is_some_and(|kind| kind.plural);
        let beside = at > 0 && self.items[at - 1].kind().is_some();
        self.acts(&[Act::Ask]) && plural && !beside
    }

    /// Whether an object of that role would not be what the verb acts on, but says more about it: "the pods of checkout".
    pub(super) fn is_relation(&self, role: Option<Role>) -> bool {
        let elsewhere = self.slots.targets.iter().any(|target| target.role != role);
        match role {
            Some(Role::Of) => !self.creates() && elsewhere,
            Some(Role::Until) => !self.acts(&[Act::Wait]),
            _ => false,
        }
    }

    /// A name with what is written into it: `kind/name` or `namespace/name`.
    pub(super) fn named(&self, item: &Item, role: Option<Role>) -> Named {
        let plain = Named { name: Some(self.name_text(item)), role, ..Named::default() };
        let Shape::Path(left, right) = &item.shape else { return plain };
        let (left, right) = (left.to_lowercase(), right.to_lowercase());
        match self.around.grammar.kind_of(&left, self.around.kinds) {
            Some(kind) => Named { kind: Some(Kind { plural: false, ..kind }), name: Some(right), ..plain },
            None => Named { name: Some(right), namespace: Some(left), ..plain },
        }
    }

    /// A place in the words of the request.
    pub(super) fn place(&mut self, at: usize) -> bool {
        let name = self.name_text(&self.items[at]);
        let place = match self.place_word {
            Some(PlaceWord::Environment) => Place::Environment(name),
            _ => Place::Namespace(name),
        };
        self.slots.places.push(place);
        true
    }

    /// Whether a kind stands right before, and waits for its name.
    pub(super) const fn kind_is_open(&self) -> bool {
        self.open_kind
    }

    /// Whether the word at hand is said to be a place.
    pub(super) const fn place_is_announced(&self) -> bool {
        self.place_word.is_some()
    }

    /// Whether the item before is a place of the same phrase.
    pub(super) fn last_place_is_here(&self, at: usize) -> bool {
        let before = self.items[..at].iter().enumerate().rev().find(|(_, item)| !item.is_filler());
        before.is_some_and(|(index, item)| {
            self.chunk(index) == self.chunk(at)
                && self.used[index]
                && !self.slots.places.is_empty()
                && (item.is_plain() || item.can(|sense| matches!(sense, Sense::Environment(_))))
                && self.last_name != Some(index)
        })
    }

    /// The canonical word of an environment, or the word itself.
    pub(super) fn plain_place(&self, item: &Item) -> String {
        let known = item.senses.iter().find_map(|sense| match sense {
            Sense::Environment(environment) => Some(environment.as_str().to_owned()),
            _ => None,
        });
        known.unwrap_or_else(|| self.name_text(item))
    }
}
