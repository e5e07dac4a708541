//! What a clause says, apart from its verb: the slots that [`super::fill`] fills.

use super::sense::{Direction, Field, Kind, Role, ServiceType, State};
use std::collections::BTreeMap;

/// The slots of one clause.
#[derive(Clone, Debug, Default)]
pub(super) struct Slots {
    /// The objects named, in order.
    pub targets: Vec<Named>,
    /// "All", "every".
    pub all: bool,
    /// "Everything".
    pub everything: bool,
    /// "In all namespaces", "everywhere".
    pub all_namespaces: bool,
    /// Namespaces and environments, in order.
    pub places: Vec<Place>,
    /// Numbers that speak of replicas.
    pub amounts: Vec<Amount>,
    /// An image or only its tag.
    pub image: Option<String>,
    /// The name of something new.
    pub alias: Option<String>,
    /// The container meant.
    pub container: Option<String>,
    /// A port.
    pub port: Option<f64>,
    /// The port behind it.
    pub target_port: Option<f64>,
    /// The type of a service.
    pub service_type: Option<ServiceType>,
    /// The revision to go back to.
    pub revision: Option<f64>,
    /// The state to wait for.
    pub until: Option<State>,
    /// How long to wait.
    pub timeout: Option<String>,
    /// CPU and memory by parameter name.
    pub resources: BTreeMap<&'static str, String>,
    /// Whether CPU or memory is to change by an amount, not to one.
    pub relative_resources: bool,
    /// Keys and values, and what they were called.
    pub pairs: Vec<Pair>,
    /// Parts of a label selector.
    pub selector: Vec<String>,
    /// Things with a value that were named, with or without the value.
    pub fields: Vec<Field>,
    /// Where the verb is turned to.
    pub direction: Option<Direction>,
    /// "It", "them": the object of the clause before.
    pub it: bool,
    /// "There": the place of the clause before.
    pub there: bool,
    /// "Something".
    pub vague: bool,
    /// Something that cannot be done yet, by its place in the language's list.
    pub missing: Option<usize>,
    /// Words that say that the request continues the one before.
    pub follow_up: bool,
    /// Two different values for one slot, in the words of the request.
    pub conflict: Option<String>,
    /// Words that no slot took.
    pub unused: Vec<Unused>,
    /// Share of the words with content that a slot took, from 0 to 1.
    pub coverage: f64,
}

/// An object as it is named.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Named {
    /// Its kind.
    pub kind: Option<Kind>,
    /// Its name.
    pub name: Option<String>,
    /// Its namespace, when written as `namespace/name`.
    pub namespace: Option<String>,
    /// The role under which it stands.
    pub role: Option<Role>,
}

/// Where something is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A namespace by name.
    Namespace(String),
    /// An environment, in the form that tools take.
    Environment(String),
}

/// A number that speaks of replicas.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Amount {
    /// Its value.
    pub value: f64,
    /// What it counts.
    pub unit: AmountUnit,
    /// Whether it is a goal or a difference.
    pub way: Way,
    /// Whether replicas were named beside it.
    pub replicas: bool,
}

/// What an amount counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub(super) enum AmountUnit {
    Count,
    Percent,
    Times,
}

/// Whether an amount is a goal or a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub(super) enum Way {
    To,
    By,
    Bare,
}

/// A key and a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    /// What the request called it: `Env`, `Data`, `Label` or nothing.
    pub field: Option<Field>,
    /// The key.
    pub key: String,
    /// The value.
    pub value: String,
}

/// A word that no slot took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unused {
    /// As it was written.
    pub text: String,
    /// Whether it may turn the meaning round: a negation, a condition, a number, a relation.
    pub decisive: bool,
}

impl Slots {
    /// Whether one of these was named.
    pub(super) fn mentions(&self, fields: &[Field]) -> bool {
        self.fields.iter().any(|field| fields.contains(field))
    }

    /// Whether the clause names an object by its name.
    pub(super) fn has_name(&self) -> bool {
        self.targets.iter().any(|target| target.name.is_some())
    }

    /// Whether a set of objects is meant rather than named ones.
    pub(super) fn is_set(&self) -> bool {
        self.everything || self.all || self.targets.iter().any(|t| t.name.is_none() && t.kind.is_some())
    }

    /// The unused words as they were written.
    pub(super) fn unused_words(&self) -> String {
        self.unused.iter().map(|word| word.text.as_str()).collect::<Vec<_>>().join(", ")
    }
}
