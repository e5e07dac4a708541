//! Looking up words and phrases, longest first, and turning tokens into items with meanings.

use super::language::{FILES, KubernetesKind, Language, LanguageError, kubernetes_kinds, read};
use super::sense::{Act, Kind, Sense};
use super::tokens::{Mark, Token, tokenize};
use super::values::{Shape, shape};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock};

/// The languages that the built-in planner knows. A file that cannot be read is left out; a test keeps that from
/// happening.
pub(super) static GRAMMARS: LazyLock<Vec<Grammar>> =
    LazyLock::new(|| FILES.iter().filter_map(|(code, text)| Grammar::new(code, text).ok()).collect());

/// Longest verb (in characters) for which a slip of the keyboard is looked for.
const LONGEST_VERB: usize = 20;

/// One language, ready for use.
pub(super) struct Grammar {
    /// The language as its file has it.
    pub language: Language,
    /// Words for the kinds that every cluster has.
    pub kubernetes: Vec<KubernetesKind>,
    words: Phrases,
    verbs: Vec<(String, Act)>,
}

/// A word or phrase of the request with everything that it can mean.
#[derive(Clone, Debug)]
pub(super) struct Item {
    /// As it was written.
    pub text: String,
    /// For comparison.
    pub norm: String,
    /// What it can mean, likeliest first; empty for names and for words that the language does not list.
    pub senses: Vec<Sense>,
    /// What it looks like.
    pub shape: Shape,
    /// What kind of token it was.
    pub mark: Mark,
}

impl Item {
    /// Whether it can have a meaning.
    pub(super) fn can(&self, test: impl Fn(&Sense) -> bool) -> bool {
        self.senses.iter().any(test)
    }

    /// The verb that it can be.
    pub(super) fn act(&self) -> Option<Act> {
        self.senses.iter().find_map(|sense| if let Sense::Verb(act) = sense { Some(*act) } else { None })
    }

    /// The kind that it can be.
    pub(super) fn kind(&self) -> Option<&Kind> {
        self.senses.iter().find_map(|sense| if let Sense::Kind(kind) = sense { Some(kind) } else { None })
    }

    /// Whether it adds nothing: punctuation, or a filler and nothing else.
    pub(super) fn is_filler(&self) -> bool {
        self.is_nothing() || self.can(|sense| matches!(sense, Sense::Filler | Sense::FollowUp))
    }

    /// Whether it is punctuation and nothing else.
    pub(super) fn is_nothing(&self) -> bool {
        matches!(self.mark, Mark::Comma | Mark::Stop) || (self.shape == Shape::Sign && self.senses.is_empty())
    }

    /// Whether it is a word that the language does not list.
    pub(super) fn is_plain(&self) -> bool {
        self.senses.is_empty() && matches!(self.mark, Mark::Word | Mark::Quoted) && self.shape != Shape::Sign
    }
}

/// The words of a phrase after the first, and what it can mean.
type Entry = (Vec<String>, Vec<Sense>);

/// Phrases by their first word, longest first.
#[derive(Default)]
struct Phrases {
    by_first: HashMap<String, Vec<Entry>>,
}

impl Phrases {
    fn add(&mut self, phrase: &str, sense: Sense) {
        let mut tokens = tokenize(phrase).into_iter().map(|token| token.norm);
        let Some(first) = tokens.next() else { return };
        let rest: Vec<String> = tokens.collect();
        let entries = self.by_first.entry(first).or_default();
        if let Some((_, senses)) = entries.iter_mut().find(|(known, _)| *known == rest) {
            if !senses.contains(&sense) {
                senses.push(sense);
            }
        } else {
            let at = entries.partition_point(|(known, _)| known.len() >= rest.len());
            entries.insert(at, (rest, vec![sense]));
        }
    }

    /// Length in tokens and meanings of the longest phrase that begins here.
    fn longest(&self, tokens: &[Token]) -> Option<(usize, &[Sense])> {
        let first = tokens.first().filter(|token| token.mark == Mark::Word)?;
        let entries = self.by_first.get(&first.norm)?;
        entries.iter().find_map(|(rest, senses)| {
            let following = tokens.get(1..=rest.len())?;
            let same = following.iter().zip(rest).all(|(token, word)| token.mark == Mark::Word && token.norm == *word);
            same.then_some((rest.len() + 1, senses.as_slice()))
        })
    }
}

impl Grammar {
    fn new(code: &str, text: &str) -> Result<Self, LanguageError> {
        let language = read(code, text)?;
        let kubernetes = kubernetes_kinds()?;
        let mut words = Phrases::default();
        for (phrase, sense) in phrases(&language) {
            words.add(phrase, sense);
        }
        for kind in &kubernetes {
            let word: Arc<str> = Arc::from(kind.kind.as_str());
            words.add(&kind.plural, Sense::Kind(Kind { word: Arc::clone(&word), plural: true }));
            for one in kind.short.iter().chain([&kind.kind]) {
                words.add(one, Sense::Kind(Kind { word: Arc::clone(&word), plural: false }));
            }
        }
        let verbs = language
            .verbs
            .iter()
            .flat_map(|(act, phrases)| phrases.iter().map(|phrase| (phrase.clone(), *act)))
            .filter(|(phrase, _)| phrase.chars().count() > 3 && !phrase.contains(' '))
            .collect();
        Ok(Self { language, kubernetes, words, verbs })
    }

    /// Turns a request into items; `kinds` are the words for kinds of the cluster.
    pub(super) fn read(&self, request: &str, kinds: &ClusterKinds) -> Vec<Item> {
        let tokens = tokenize(request);
        let mut items = Vec::new();
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            let own = self.words.longest(&tokens[at..]);
            let cluster = kinds.phrases.longest(&tokens[at..]);
            let length = own.map_or(0, |(length, _)| length).max(cluster.map_or(0, |(length, _)| length));
            if length == 0 {
                items.push(self.unlisted(token));
                at += 1;
                continue;
            }
            let mut senses: Vec<Sense> = Vec::new();
            for (_, found) in [own, cluster].into_iter().flatten().filter(|(found, _)| *found == length) {
                senses.extend(found.iter().filter(|sense| !senses.contains(sense)).cloned().collect::<Vec<_>>());
            }
            items.push(phrase_item(&tokens[at..at + length], senses));
            at += length;
        }
        compose_numbers(items)
    }

    /// A token that no phrase begins with; a possessive ending is not part of a name.
    fn unlisted(&self, token: &Token) -> Item {
        let ending = self.language.possessives.iter().find(|ending| {
            token.mark == Mark::Word && token.norm.len() > ending.len() && token.norm.ends_with(ending.as_str())
        });
        let (text, norm) = ending.map_or((token.text.as_str(), token.norm.as_str()), |ending| {
            let norm = token.norm.strip_suffix(ending.as_str()).unwrap_or(&token.norm);
            let kept = token.text.chars().count().saturating_sub(ending.chars().count());
            let end = token.text.char_indices().nth(kept).map_or(token.text.len(), |(at, _)| at);
            (&token.text[..end], norm)
        });
        let spelled = self.hyphenated(norm).filter(|_| token.mark == Mark::Word);
        let plain = if token.mark == Mark::Word { shape(text) } else { Shape::Word };
        let shape = spelled.map_or(plain, |value| Shape::Number { value, plus: false });
        let senses = if ending.is_some() { self.senses_of(norm) } else { Vec::new() };
        Item { text: text.to_owned(), norm: norm.to_owned(), senses, shape, mark: token.mark }
    }

    /// A number of two words with a hyphen: `twenty-five`.
    fn hyphenated(&self, norm: &str) -> Option<f64> {
        let (tens, ones) = norm.split_once('-')?;
        let value = |word: &str| self.language.numbers.get(word).copied();
        let (tens, ones) = (value(tens)?, value(ones)?);
        (ones < 10.0 && tens >= 20.0).then_some(tens + ones)
    }

    fn senses_of(&self, word: &str) -> Vec<Sense> {
        let tokens = tokenize(word);
        self.words
            .longest(&tokens)
            .filter(|(length, _)| *length == tokens.len())
            .map_or(Vec::new(), |(_, s)| s.to_vec())
    }

    /// The kind that a single word names, with or without its API group.
    pub(super) fn kind_of(&self, word: &str, kinds: &ClusterKinds) -> Option<Kind> {
        let word = word.split('.').next().unwrap_or(word);
        let tokens = tokenize(word);
        let senses = [self.words.longest(&tokens), kinds.phrases.longest(&tokens)];
        let mut found = senses.into_iter().flatten().filter(|(length, _)| *length == tokens.len());
        found.find_map(|(_, senses)| {
            senses.iter().find_map(|sense| if let Sense::Kind(kind) = sense { Some(kind.clone()) } else { None })
        })
    }

    /// The verb that `word` was probably meant to be: one slip of the keyboard away, two in longer words.
    pub(super) fn nearest_verb(&self, word: &str) -> Option<(&str, Act)> {
        let length = word.chars().count();
        if !(4..=LONGEST_VERB).contains(&length) {
            return None;
        }
        let allowed = if length > 6 { 2 } else { 1 };
        self.verbs
            .iter()
            .map(|(verb, act)| (strsim::osa_distance(word, verb), verb.as_str(), *act))
            .filter(|(distance, ..)| *distance <= allowed)
            .min_by_key(|(distance, ..)| *distance)
            .map(|(_, verb, act)| (verb, act))
    }
}

fn phrase_item(tokens: &[Token], senses: Vec<Sense>) -> Item {
    let join = |part: fn(&Token) -> &str| tokens.iter().map(part).collect::<Vec<_>>().join(" ");
    let text = join(|token| &token.text);
    let shape = shape(&text);
    Item { norm: join(|token| &token.norm), text, senses, shape, mark: Mark::Word }
}

/// Every phrase of a language with its meaning, in the order in which meanings are preferred.
fn phrases(language: &Language) -> Vec<(&str, Sense)> {
    let mut all: Vec<(&str, Sense)> = Vec::new();
    macro_rules! section {
        ($map:expr, $sense:expr) => {
            for (meaning, phrases) in $map {
                all.extend(phrases.iter().map(|phrase| (phrase.as_str(), $sense(*meaning))));
            }
        };
    }
    macro_rules! list {
        ($phrases:expr, $sense:expr) => {
            all.extend($phrases.map(|phrase| (phrase.as_str(), $sense)))
        };
    }
    list!(language.negations.iter(), Sense::Negation);
    list!(language.conditions.iter().flatten(), Sense::Condition);
    section!(&language.quantifiers, Sense::Quantifier);
    section!(&language.pronouns, Sense::Pronoun);
    section!(&language.connectors, Sense::Connector);
    section!(&language.verbs, Sense::Verb);
    section!(&language.directions, Sense::Direction);
    section!(&language.roles, Sense::Role);
    section!(&language.fields, Sense::Field);
    section!(&language.units, Sense::Unit);
    all.extend(language.numbers.iter().map(|(word, value)| (word.as_str(), Sense::Number(*value))));
    all.extend(language.multipliers.iter().map(|(word, value)| (word.as_str(), Sense::Multiplier(*value))));
    all.extend(language.fractions.iter().map(|(word, value)| (word.as_str(), Sense::Fraction(*value))));
    section!(&language.environments, Sense::Environment);
    section!(&language.states, Sense::State);
    section!(&language.service_types, Sense::ServiceType);
    for (kind, noun) in &language.kinds {
        let word: Arc<str> = Arc::from(kind.as_str());
        for (plural, forms) in [(false, &noun.one), (true, &noun.many)] {
            let kind = Kind { word: Arc::clone(&word), plural };
            all.extend(forms.iter().map(|form| (form.as_str(), Sense::Kind(kind.clone()))));
        }
    }
    for (index, missing) in language.missing.iter().enumerate() {
        all.extend(missing.words.iter().map(|word| (word.as_str(), Sense::Missing(index))));
    }
    list!(language.vague.iter(), Sense::Vague);
    list!(language.nouns.iter(), Sense::Noun);
    list!(language.follow_up.iter(), Sense::FollowUp);
    list!(language.fillers.iter().flatten(), Sense::Filler);
    all
}

/// Puts number words together ("twenty five", "two hundred", "a dozen"), so that every number is one item.
fn compose_numbers(items: Vec<Item>) -> Vec<Item> {
    let mut out: Vec<Item> = Vec::new();
    let mut open: Option<f64> = None;
    for mut item in items {
        let number = item.senses.iter().find_map(|sense| match sense {
            Sense::Number(value) => Some((*value, false)),
            Sense::Multiplier(value) => Some((*value, true)),
            _ => None,
        });
        let before = match item.shape {
            Shape::Number { value, .. } => Some(value),
            _ => None,
        };
        let Some((value, multiplies)) = number else {
            open = before;
            out.push(item);
            continue;
        };
        let combined = match open {
            Some(sum) if multiplies => Some(sum * value),
            Some(sum) if sum > value && sum % 10.0 == 0.0 && value < 100.0 && sum > 0.0 => Some(sum + value),
            _ => None,
        };
        let total = combined.unwrap_or(value);
        item.shape = Shape::Number { value: total, plus: false };
        item.senses.clear();
        open = Some(total);
        match (combined, out.last_mut()) {
            (Some(_), Some(last)) => {
                item.text = format!("{} {}", last.text, item.text);
                item.norm = format!("{} {}", last.norm, item.norm);
                *last = item;
            }
            _ => out.push(item),
        }
    }
    out
}

/// The words for kinds that the cluster at hand serves.
#[derive(Default)]
pub(super) struct ClusterKinds {
    phrases: Phrases,
    plurals: HashMap<String, String>,
}

impl ClusterKinds {
    /// From the words that discovery gave, in lower case. The API's own plurals follow English rules in every cluster.
    pub(super) fn new(words: &[String], known: &[KubernetesKind]) -> Self {
        let listed: HashSet<&str> = words.iter().map(String::as_str).collect();
        let built_in: HashSet<&str> = known
            .iter()
            .flat_map(|kind| kind.short.iter().chain([&kind.kind, &kind.plural]).map(String::as_str))
            .collect();
        let mut kinds = Self::default();
        for word in words.iter().filter(|word| !built_in.contains(word.as_str())) {
            let singular = singulars(word).find(|singular| listed.contains(singular.as_str()));
            let plural = singular.is_some();
            if let Some(singular) = &singular {
                kinds.plurals.insert(singular.clone(), word.clone());
            }
            let kind = Kind { word: Arc::from(singular.as_ref().unwrap_or(word).as_str()), plural };
            kinds.phrases.add(word, Sense::Kind(kind));
        }
        kinds
    }

    /// The plural of a kind of the cluster, as the API spells it.
    pub(super) fn plural(&self, kind: &str) -> Option<&str> {
        self.plurals.get(kind).map(String::as_str)
    }
}

fn singulars(word: &str) -> impl Iterator<Item = String> {
    let ies = word.strip_suffix("ies").map(|stem| format!("{stem}y"));
    let es = word.strip_suffix("es").map(str::to_owned);
    let s = word.strip_suffix('s').filter(|stem| !stem.is_empty()).map(str::to_owned);
    [ies, s, es].into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(request: &str) -> Vec<Item> {
        let kinds = ClusterKinds::new(&["certificate".into(), "certificates".into(), "cert".into()], &[]);
        GRAMMARS[0].read(request, &kinds)
    }

    #[test]
    fn the_longest_phrase_wins() {
        let read = items("get rid of stateful sets");
        assert_eq!(read.len(), 2);
        assert_eq!(read[0].act(), Some(Act::Delete));
        assert!(read[1].kind().is_some_and(|kind| kind.plural && &*kind.word == "statefulset"));
    }

    #[test]
    fn number_words_make_one_number() {
        for (words, expected) in [("twenty five", 25.0), ("two hundred", 200.0), ("a dozen", 12.0), ("3 dozen", 36.0)] {
            let read = items(words);
            assert_eq!(read.len(), 1, "{words}");
            assert_eq!(read[0].shape, Shape::Number { value: expected, plus: false }, "{words}");
        }
        assert_eq!(items("five 5").len(), 2);
    }

    #[test]
    fn words_of_the_cluster_are_kinds_and_plurals_are_seen() {
        let read = items("certificates Checkout's cert");
        assert!(read[0].kind().is_some_and(|kind| kind.plural && &*kind.word == "certificate"));
        assert_eq!(read[1].text, "Checkout");
        assert!(read[2].kind().is_some_and(|kind| !kind.plural && &*kind.word == "cert"));
    }

    #[test]
    fn verbs_are_found_in_spite_of_a_slip() {
        let near = |word| GRAMMARS[0].nearest_verb(word).map(|(_, act)| act);
        assert_eq!(near("sclae"), Some(Act::Scale));
        assert_eq!(near("delte"), Some(Act::Delete));
        assert_eq!(near("asdf"), None);
        assert_eq!(near("web"), None);
    }
}
