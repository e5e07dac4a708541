//! A language as data: which words mean what, and which sentences to answer with.
//!
//! One file in `languages/` is one language. Every word or phrase of it stands for one of the language-neutral meanings
//! of [`super::sense`]; the grammar knows only those. To add a language: write its file, add one line to [`FILES`].

use super::sense::{
    Act, Connector, Direction, Environment, Field, Pronoun, Quantifier, Role, ServiceType, State, Unit,
};
use crate::api::Intent;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Code and text of every language.
pub(super) const FILES: [(&str, &str); 1] = [("en", include_str!("languages/en.yaml"))];

const KUBERNETES: &str = include_str!("languages/kubernetes.yaml");

/// Why a language file is of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum LanguageError {
    /// The file does not have the form of [`Language`].
    #[error("language file '{code}' cannot be read: {source}; see src/planner/builtin/language.rs for its form")]
    Malformed {
        /// The language.
        code: String,
        /// What the parser found.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// One language.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Language {
    /// BCP 47.
    pub code: String,
    /// Its own name for itself.
    pub name: String,
    /// Scripts that it is written in.
    pub scripts: Vec<Script>,
    /// Where the verb of a clause stands.
    pub verb_position: VerbPosition,
    /// Whether role words come before or after what they mark.
    pub role_position: RolePosition,
    /// How nouns follow numbers.
    pub plural_rule: PluralRule,
    /// Endings of possessives, cut from names.
    pub possessives: Vec<String>,
    /// What can be asked for.
    pub verbs: BTreeMap<Act, Vec<String>>,
    /// Particles that turn a verb.
    pub directions: BTreeMap<Direction, Vec<String>>,
    /// Pre- or postpositions and the role that they give.
    pub roles: BTreeMap<Role, Vec<String>>,
    /// Things that have a value.
    pub fields: BTreeMap<Field, Vec<String>>,
    /// Units after numbers.
    pub units: BTreeMap<Unit, Vec<String>>,
    /// Numbers in words.
    pub numbers: BTreeMap<String, f64>,
    /// Words that multiply the number before them.
    pub multipliers: BTreeMap<String, f64>,
    /// Parts of a whole.
    pub fractions: BTreeMap<String, f64>,
    /// Words for environments.
    pub environments: BTreeMap<Environment, Vec<String>>,
    /// "All", "everything", "everywhere".
    pub quantifiers: BTreeMap<Quantifier, Vec<String>>,
    /// Words that point back.
    pub pronouns: BTreeMap<Pronoun, Vec<String>>,
    /// Words between clauses and between names.
    pub connectors: BTreeMap<Connector, Vec<String>>,
    /// The language's own words for kinds, by kubectl's word or the name of a group of kinds.
    pub kinds: BTreeMap<String, Noun>,
    /// States to wait for.
    pub states: BTreeMap<State, Vec<String>>,
    /// Types of services.
    pub service_types: BTreeMap<ServiceType, Vec<String>>,
    /// Nouns that add nothing to a name beside them.
    pub nouns: Vec<String>,
    /// Words without meaning of their own, in groups for reading.
    pub fillers: Vec<Vec<String>>,
    /// Words that deny.
    pub negations: Vec<String>,
    /// Words of conditions, exceptions, times and filters, in groups for reading: nothing may be planned past them.
    pub conditions: Vec<Vec<String>>,
    /// Words that stand for nothing in particular.
    pub vague: Vec<String>,
    /// What is understood but cannot be done yet.
    pub missing: Vec<Missing>,
    /// What a kind of request wants, as it stands in "You want to …".
    pub wants: Wants,
    /// Template of a target.
    pub target: String,
    /// The plural of namespace, for "in all namespaces".
    pub namespaces: String,
    /// Replicas with their number.
    pub replicas: Counted,
    /// Template of a revision.
    pub revisions: String,
    /// Sentences that say how a request was understood.
    pub sentences: Sentences,
    /// Questions.
    pub questions: Questions,
    /// Warnings.
    pub warnings: Warnings,
    /// Words that show that the request continues the one before.
    pub follow_up: Vec<String>,
    /// Requests that are understood, as people would type them.
    pub examples: Vec<String>,
}

/// A family of scripts.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub(super) enum Script {
    Latin,
    Cyrillic,
    Arabic,
    Devanagari,
    Han,
    Kana,
}

/// Where the verb of a clause stands.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum VerbPosition {
    /// A clause begins with it, fillers aside.
    First,
    /// Anywhere in the clause.
    Anywhere,
}

/// On which side of its noun a role word stands.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub(super) enum RolePosition {
    Before,
    After,
}

/// How nouns follow numbers (the part of CLDR's plural rules that is in use).
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum PluralRule {
    /// One form for 1, another for the rest.
    OneOther,
    /// One form for all.
    Invariant,
}

/// A noun in its forms; a language may list inflected forms on either side.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub(super) struct Noun {
    pub one: Vec<String>,
    pub many: Vec<String>,
}

/// A noun with its number, by plural category.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub(super) struct Counted {
    pub one: String,
    pub other: String,
}

/// Something that is understood but cannot be done yet.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub(super) struct Missing {
    pub words: Vec<String>,
    /// What a request with such a word is after, where no verb says it.
    #[serde(default)]
    pub intent: Option<Intent>,
    pub question: String,
}

macro_rules! texts {
    ($(#[$doc:meta])* $name:ident { $($field:ident),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        #[allow(missing_docs)]
        pub(super) struct $name { $(pub $field: String),* }
    };
}

texts!(
    /// What a kind of request wants.
    Wants { scale, create, update, delete, restart, undo, expose, look, wait, diagnose, monitor, optimize }
);

texts!(
    /// Questions; `{target}`, `{words}`, `{kind}`, `{name}` are filled in.
    Questions {
        unclear, empty, target, delete_target, everything, replicas, replicas_by, scale_target, image, image_for, change,
        name, create_what, create_kind, data, list_kind, resources, not_used, negated, twice, many, referent, undo_other,
        follow_up, create_only, update_pairs, missing_monitor, missing_optimize, object, language,
    }
);

texts!(
    /// Warnings; `{words}`, `{word}`, `{meant}`, `{name}`, `{n}` are filled in.
    Warnings { not_used, near, assumed_verb, assumed_image, assumed_replicas, no_diagnosis }
);

/// Sentences that say how a request was understood. A part in brackets is left out when a placeholder in it has no value.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub(super) struct Sentences {
    pub create_deployment: String,
    pub create_namespace: String,
    pub create_configmap: String,
    pub scale_to: String,
    pub scale_up: String,
    pub scale_down: String,
    pub scale_percent_up: String,
    pub scale_percent_down: String,
    pub scale_factor: String,
    pub set_image: String,
    pub set_resources: String,
    pub restart: String,
    pub undo_rollout: String,
    pub before: String,
    pub expose: String,
    pub delete: String,
    pub list: String,
    pub describe: String,
    pub wait_ready: String,
    pub wait_absent: String,
    pub wait_condition: String,
    pub resources: BTreeMap<String, String>,
    pub why: String,
    pub open: String,
    pub unclear: String,
    pub nothing: String,
    pub missing: String,
}

/// A kind that every cluster has.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub(super) struct KubernetesKind {
    pub kind: String,
    pub plural: String,
    #[serde(default)]
    pub short: Vec<String>,
}

/// Reads one language.
///
/// # Errors
/// [`LanguageError::Malformed`] when a section is missing, unknown or of the wrong form.
pub(super) fn read(code: &str, text: &str) -> Result<Language, LanguageError> {
    serde_yaml::from_str(text)
        .map_err(|error| LanguageError::Malformed { code: code.to_owned(), source: Box::new(error) })
}

/// The kinds that every cluster has.
///
/// # Errors
/// [`LanguageError::Malformed`] when the file is not of the expected form.
pub(super) fn kubernetes_kinds() -> Result<Vec<KubernetesKind>, LanguageError> {
    serde_yaml::from_str(KUBERNETES)
        .map_err(|error| LanguageError::Malformed { code: "kubernetes".to_owned(), source: Box::new(error) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planner::builtin::tokens::{Mark, tokenize};
    use std::collections::HashMap;

    #[test]
    fn every_language_can_be_read_and_is_complete() {
        kubernetes_kinds().unwrap();
        for (code, text) in FILES {
            let language = read(code, text).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(language.code, code);
            let acts = Act::ALL.iter().filter(|act| !language.verbs.contains_key(act)).collect::<Vec<_>>();
            assert!(acts.is_empty(), "{code} has no words for {acts:?}");
            assert_eq!(language.fields.len(), Field::COUNT, "{code}: fields");
            assert!(language.examples.len() >= 20, "{code}: examples");
        }
    }

    #[test]
    fn no_phrase_is_listed_twice_for_one_section_or_has_punctuation() {
        for (code, text) in FILES {
            let language = read(code, text).unwrap();
            let mut seen: HashMap<String, Act> = HashMap::new();
            for (act, phrases) in &language.verbs {
                for phrase in phrases {
                    assert!(tokenize(phrase).iter().all(|token| token.mark == Mark::Word), "{code}: {phrase}");
                    let before = seen.insert(phrase.clone(), *act);
                    assert_eq!(before, None, "{code}: '{phrase}' is a verb of two acts");
                }
            }
        }
    }

    #[test]
    fn an_unknown_section_is_refused() {
        let error = read("xx", "code: xx\nwords: []\n").unwrap_err().to_string();
        assert!(error.starts_with("language file 'xx' cannot be read"), "{error}");
    }
}
