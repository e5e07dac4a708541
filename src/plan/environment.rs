use crate::tools::{environment, namespace_environment};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Namespaces that "all" never means when something is changed.
const SYSTEM: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];

/// One namespace, as far as planning needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

impl Namespace {
    /// Reads a Namespace object.
    #[must_use]
    pub fn of(object: &Value) -> Option<Self> {
        let labels = object.pointer("/metadata/labels").and_then(Value::as_object);
        Some(Self {
            name: object.pointer("/metadata/name")?.as_str()?.to_owned(),
            labels: labels
                .into_iter()
                .flatten()
                .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
                .collect(),
        })
    }
}

/// Which namespace belongs to which environment: by label (`environment`, `env` …) or by name.
#[derive(Clone, Debug, Default)]
pub struct Environments {
    namespaces: Vec<Namespace>,
    own: String,
}

impl Environments {
    /// From all namespaces of the cluster; `own` is the operator's, which "all" never means.
    #[must_use]
    pub fn new(mut namespaces: Vec<Namespace>, own: impl Into<String>) -> Self {
        namespaces.sort_by(|a, b| a.name.cmp(&b.name));
        Self { namespaces, own: own.into() }
    }

    /// Whether there is a namespace of that name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.namespaces.iter().any(|namespace| namespace.name == name)
    }

    /// All names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.namespaces.iter().map(|namespace| namespace.name.as_str())
    }

    /// The environment of a namespace: `production`, `staging`, `development`, `test`.
    #[must_use]
    pub fn of(&self, name: &str) -> Option<&'static str> {
        let namespace = self.namespaces.iter().find(|namespace| namespace.name == name);
        match namespace {
            Some(namespace) => namespace_environment(name, &namespace.labels),
            None => namespace_environment(name, &BTreeMap::new()),
        }
    }

    /// The namespaces of an environment given by any of its names, in order.
    #[must_use]
    pub fn namespaces_of(&self, word: &str) -> Vec<String> {
        let wanted = environment(word);
        self.namespaces
            .iter()
            .filter(|namespace| {
                namespace_environment(&namespace.name, &namespace.labels).is_some_and(|found| Some(found) == wanted)
            })
            .map(|namespace| namespace.name.clone())
            .collect()
    }

    /// Names of environments that have at least one namespace.
    #[must_use]
    pub fn known(&self) -> Vec<&'static str> {
        let known: BTreeSet<_> =
            self.namespaces.iter().filter_map(|n| namespace_environment(&n.name, &n.labels)).collect();
        known.into_iter().collect()
    }

    /// Whether the namespace is the operator's own.
    #[must_use]
    pub fn is_own(&self, name: &str) -> bool {
        name == self.own
    }

    /// Whether the namespace belongs to the cluster itself or to the operator.
    #[must_use]
    pub fn is_system(&self, name: &str) -> bool {
        SYSTEM.contains(&name) || name == self.own
    }
}
