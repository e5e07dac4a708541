//! Environments by the words that mean them; the words are data, in `environments.yaml`.

use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::LazyLock;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Environments {
    labels: Vec<String>,
    environments: Vec<Environment>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Environment {
    name: String,
    aliases: Vec<String>,
}

/// Empty when the embedded file does not parse, which a test rules out.
static ENVIRONMENTS: LazyLock<Environments> =
    LazyLock::new(|| serde_yaml::from_str(include_str!("environments.yaml")).unwrap_or_default());

/// The canonical name of the environment that `word` means, in any case: `production` for `prod`.
#[must_use]
pub fn environment(word: &str) -> Option<&'static str> {
    let word = word.trim().to_lowercase();
    let environments: &'static Environments = &ENVIRONMENTS;
    environments.environments.iter().find(|known| known.aliases.contains(&word)).map(|known| known.name.as_str())
}

/// The canonical names of all environments.
pub fn environments() -> impl Iterator<Item = &'static str> {
    let environments: &'static Environments = &ENVIRONMENTS;
    environments.environments.iter().map(|known| known.name.as_str())
}

/// The environment that a namespace belongs to, by its labels, or else by its name.
///
/// The labels `environment`, `env`, `app.kubernetes.io/environment` and `tier` count, in this order, where their value
/// means an environment. A name counts when it is such a word, or begins or ends with one set off by `-`
/// (`payments-prod`); a name that speaks of two environments (`test-prod`) belongs to neither.
#[must_use]
pub fn namespace_environment(name: &str, labels: &BTreeMap<String, String>) -> Option<&'static str> {
    if let Some(labelled) = ENVIRONMENTS.labels.iter().find_map(|key| environment(labels.get(key)?)) {
        return Some(labelled);
    }
    if let Some(named) = environment(name) {
        return Some(named);
    }
    let prefix = name.split_once('-').and_then(|(prefix, _)| environment(prefix));
    let suffix = name.rsplit_once('-').and_then(|(_, suffix)| environment(suffix));
    match (prefix, suffix) {
        (Some(prefix), Some(suffix)) if prefix != suffix => None,
        (prefix, suffix) => prefix.or(suffix),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn of(name: &str, labels: &[(&str, &str)]) -> Option<&'static str> {
        namespace_environment(name, &labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn the_embedded_file_parses_and_no_word_means_two_environments() {
        let parsed: Environments = serde_yaml::from_str(include_str!("environments.yaml")).unwrap();
        let words: Vec<_> = parsed.environments.iter().flat_map(|known| &known.aliases).collect();
        assert_eq!(words.len(), words.iter().collect::<BTreeSet<_>>().len());
        assert!(parsed.environments.iter().all(|known| known.aliases.contains(&known.name)));
        assert_eq!(environments().collect::<Vec<_>>(), ["production", "staging", "development", "test"]);
    }

    #[test]
    fn words_mean_environments_in_any_case() {
        assert_eq!(environment("Prod"), Some("production"));
        assert_eq!(environment(" uat "), Some("staging"));
        assert_eq!(environment("qa"), Some("test"));
        assert_eq!(environment("checkout"), None);
    }

    #[test]
    fn namespaces_belong_by_label_before_name() {
        assert_eq!(of("payments", &[("env", "live")]), Some("production"));
        assert_eq!(of("staging", &[("environment", "Production"), ("env", "dev")]), Some("production"));
        assert_eq!(of("staging", &[("tier", "frontend")]), Some("staging"));
    }

    #[test]
    fn names_count_whole_or_at_either_end() {
        assert_eq!(of("prod", &[]), Some("production"));
        assert_eq!(of("payments-prod", &[]), Some("production"));
        assert_eq!(of("dev-payments-eu", &[]), Some("development"));
        assert_eq!(of("products", &[]), None);
        assert_eq!(of("a-prod-b", &[]), None);
        assert_eq!(of("test-prod", &[]), None);
        assert_eq!(of("test-qa", &[]), Some("test"));
    }
}
