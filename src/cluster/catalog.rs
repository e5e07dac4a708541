use super::{ClusterError, Delegation};
use crate::api::ObjectRef;

/// One kind that the API server serves, as discovery tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceKind {
    /// API group; empty for the core group.
    pub group: String,
    /// Preferred version of the group that serves the kind.
    pub version: String,
    /// The kind, for example `Deployment`.
    pub kind: String,
    /// Plural name as it stands in URLs and RBAC, for example `deployments`.
    pub plural: String,
    /// Singular name, for example `deployment`.
    pub singular: String,
    /// Short names, for example `deploy`.
    pub short_names: Vec<String>,
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// Verbs, for example `get`, `list`, `patch`.
    pub verbs: Vec<String>,
    /// Subresources, for example `status`, `scale`.
    pub subresources: Vec<String>,
}

impl ResourceKind {
    /// `apps/v1`, or `v1` for the core group.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// A reference to an object of this kind; the namespace is dropped for cluster-scoped kinds.
    #[must_use]
    pub fn object(&self, namespace: Option<&str>, name: &str) -> ObjectRef {
        ObjectRef {
            api_version: self.api_version(),
            kind: self.kind.clone(),
            namespace: namespace.filter(|_| self.namespaced).map(str::to_owned),
            name: name.to_owned(),
        }
    }

    /// Whether `word` names this kind the way kubectl would accept it (kind, plural, singular or short name, with or
    /// without `.group`, in any case).
    #[must_use]
    pub fn is_called(&self, word: &str) -> bool {
        let word = word.to_ascii_lowercase();
        let (name, group) = word.split_once('.').map_or((word.as_str(), None), |(name, group)| (name, Some(group)));
        if group.is_some_and(|group| group != self.group.to_ascii_lowercase()) {
            return false;
        }
        self.kind.to_ascii_lowercase() == name
            || self.plural == name
            || self.singular == name
            || self.short_names.iter().any(|short| short == name)
    }
}

/// Everything that the API server serves, at one moment. Pure data: lookups only.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    /// All kinds, the core group first, then as the server prefers them.
    pub kinds: Vec<ResourceKind>,
    /// Which of them other servers answer.
    pub delegation: Delegation,
}

impl Catalog {
    /// The kinds that `word` may mean, best first. Several groups may serve one word; built-in groups come first.
    #[must_use]
    pub fn find(&self, word: &str) -> Vec<&ResourceKind> {
        self.kinds.iter().filter(|kind| kind.is_called(word)).collect()
    }

    /// The kind of a reference, by group and kind; any served version will do.
    #[must_use]
    pub fn of(&self, object: &ObjectRef) -> Option<&ResourceKind> {
        self.by_group_kind(object.group(), &object.kind)
    }

    /// As [`Catalog::of`], for kinds that must be there.
    ///
    /// # Errors
    /// [`ClusterError::UnknownKind`] with the nearest names.
    pub fn require(&self, object: &ObjectRef) -> Result<&ResourceKind, ClusterError> {
        self.of(object).ok_or_else(|| ClusterError::UnknownKind {
            word: if object.group().is_empty() {
                object.kind.clone()
            } else {
                format!("{}.{}", object.kind, object.group())
            },
            nearest: self.nearest(&object.kind),
        })
    }

    /// The kind of that group and name.
    #[must_use]
    pub fn by_group_kind(&self, group: &str, kind: &str) -> Option<&ResourceKind> {
        self.kinds.iter().find(|known| known.group == group && known.kind == kind)
    }

    /// Plural names that look like `word`, nearest first, at most three.
    #[must_use]
    pub fn nearest(&self, word: &str) -> Vec<String> {
        let word = word.to_ascii_lowercase();
        let mut scored: Vec<_> = self
            .kinds
            .iter()
            .flat_map(|kind| {
                [&kind.plural, &kind.singular].map(|name| (strsim::jaro_winkler(&word, name), &kind.plural))
            })
            .filter(|(score, _)| *score > 0.85)
            .collect();
        scored.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut names: Vec<String> = Vec::new();
        for (_, name) in scored {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        names.truncate(3);
        names
    }
}

#[cfg(test)]
impl ResourceKind {
    /// A kind for tests, of version `v1`, without verbs and subresources.
    pub(crate) fn sample(group: &str, kind: &str, plural: &str, namespaced: bool) -> Self {
        Self { group: group.to_owned(), namespaced, ..core_kind(kind, plural) }
    }
}

/// A namespaced kind of the core group that every cluster serves.
pub(super) fn core_kind(kind: &str, plural: &str) -> ResourceKind {
    ResourceKind {
        group: String::new(),
        version: "v1".to_owned(),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
        singular: kind.to_ascii_lowercase(),
        short_names: Vec::new(),
        namespaced: true,
        verbs: Vec::new(),
        subresources: Vec::new(),
    }
}
