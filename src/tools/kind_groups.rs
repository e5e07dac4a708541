//! Words that stand for several kinds, such as `database`; the words and kinds are data, in `kind_groups.yaml`.

use super::pod_template::PodTemplate;
use crate::cluster::{Catalog, ResourceKind, parse_image};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// A word for several kinds.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KindGroup {
    name: String,
    words: Vec<String>,
    members: Vec<String>,
    #[serde(default)]
    admit: Option<Admit>,
    #[serde(default)]
    unowned: bool,
    #[serde(default)]
    cluster_wide: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Admit {
    labels: BTreeMap<String, Vec<String>>,
    images: Vec<String>,
    except: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct KindGroups {
    groups: Vec<KindGroup>,
}

/// Empty when the embedded file does not parse, which a test rules out.
static GROUPS: LazyLock<KindGroups> =
    LazyLock::new(|| serde_yaml::from_str(include_str!("kind_groups.yaml")).unwrap_or_default());

/// The group of kinds that `word` stands for, in any case: `databases`, `db`, `infra`, `workload`.
#[must_use]
pub fn kind_group(word: &str) -> Option<&'static KindGroup> {
    let word = word.trim().to_lowercase();
    kind_groups().iter().find(|group| group.words.contains(&word))
}

/// All groups of kinds.
#[must_use]
pub fn kind_groups() -> &'static [KindGroup] {
    let groups: &'static KindGroups = &GROUPS;
    &groups.groups
}

impl KindGroup {
    /// The group's own word, for example `database`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All words that stand for the group, singular and plural, in lower case.
    #[must_use]
    pub fn words(&self) -> &[String] {
        &self.words
    }

    /// The member kinds that the cluster serves, in the group's order.
    #[must_use]
    pub fn members<'c>(&self, catalog: &'c Catalog) -> Vec<&'c ResourceKind> {
        let mut members: Vec<&ResourceKind> = Vec::new();
        for pattern in &self.members {
            for kind in catalog.kinds.iter().filter(|kind| names(pattern, kind)) {
                if !members.iter().any(|known| known.group == kind.group && known.plural == kind.plural) {
                    members.push(kind);
                }
            }
        }
        members
    }

    /// Whether the kind is a member of the group.
    #[must_use]
    pub fn contains_kind(&self, kind: &ResourceKind) -> bool {
        self.members.iter().any(|pattern| names(pattern, kind))
    }

    /// Whether the group is about the whole cluster where no namespace is named: infrastructure is, databases are not.
    #[must_use]
    pub fn is_cluster_wide(&self) -> bool {
        self.cluster_wide
    }

    /// Whether an object of a member kind belongs to the group: an nginx Deployment is no database, a postgres one is.
    #[must_use]
    pub fn admits(&self, object: &Value) -> bool {
        if self.unowned && is_controlled(object) {
            return false;
        }
        match (&self.admit, PodTemplate::of(object)) {
            (Some(admit), Some(template)) => admit.has_label(object, &template) || admit.has_image(&template),
            _ => true,
        }
    }

    /// Whether objects with a pod template belong by their images and labels rather than by their kind, so that a list
    /// of the kind would say too much.
    #[must_use]
    pub fn is_filtered(&self) -> bool {
        self.admit.is_some()
    }
}

impl Admit {
    fn has_label(&self, object: &Value, template: &PodTemplate<'_>) -> bool {
        [object.pointer("/metadata/labels"), template.value.pointer("/metadata/labels")].into_iter().flatten().any(
            |labels| {
                self.labels.iter().any(|(key, values)| {
                    labels.get(key).and_then(Value::as_str).is_some_and(|value| values.iter().any(|v| v == value))
                })
            },
        )
    }

    fn has_image(&self, template: &PodTemplate<'_>) -> bool {
        template.containers().iter().filter_map(|container| parse_image(container.image()).ok()).any(|image| {
            let name = image.short_name();
            self.images.iter().any(|pattern| glob(pattern, name))
                && !self.except.iter().any(|pattern| glob(pattern, name))
        })
    }
}

fn is_controlled(object: &Value) -> bool {
    object
        .pointer("/metadata/ownerReferences")
        .and_then(Value::as_array)
        .is_some_and(|owners| owners.iter().any(|owner| owner.get("controller").and_then(Value::as_bool) == Some(true)))
}

fn names(pattern: &str, kind: &ResourceKind) -> bool {
    let (plural, group) = pattern.split_once('.').unwrap_or((pattern, ""));
    glob(plural, &kind.plural) && glob(group, &kind.group)
}

/// Whether `text` matches `pattern`, in which `*` stands for any characters.
#[must_use]
pub fn glob(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return text.ends_with(part);
        }
        match text.find(part) {
            Some(position) => text = &text[position + part.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::fixtures::{catalog, deployment, kind};
    use proptest::prelude::*;
    use serde_json::json;
    use std::collections::BTreeSet;

    #[test]
    fn the_embedded_file_parses_and_no_word_means_two_groups() {
        let parsed: KindGroups = serde_yaml::from_str(include_str!("kind_groups.yaml")).unwrap();
        let words: Vec<_> = parsed.groups.iter().flat_map(|group| &group.words).collect();
        assert_eq!(words.len(), words.iter().collect::<BTreeSet<_>>().len());
        for group in &parsed.groups {
            assert!(group.words.contains(&group.name));
            assert!(group.members.iter().all(|member| !member.is_empty()));
        }
    }

    #[test]
    fn every_word_finds_its_group() {
        let group = |word: &str| kind_group(word).map(KindGroup::name);
        for (word, name) in [
            ("database", "database"),
            ("Databases", "database"),
            ("db", "database"),
            ("workloads", "workload"),
            ("infra", "infrastructure"),
            ("infrastructures", "infrastructure"),
            ("storage", "storage"),
            ("everything", "everything"),
        ] {
            assert_eq!(group(word), Some(name), "{word}");
        }
        assert_eq!(group("deployment"), None);
    }

    #[test]
    fn members_are_what_the_cluster_serves() {
        let mut catalog = catalog();
        catalog.kinds.extend([
            kind("rds.services.k8s.aws", "DBInstance", "dbinstances"),
            kind("rds.aws.upbound.io", "Instance", "instances"),
            kind("aws.upbound.io", "ProviderConfig", "providerconfigs"),
            kind("postgresql.cnpg.io", "Cluster", "clusters"),
            kind("ec2.services.k8s.aws", "Instance", "instances"),
        ]);
        let members = |word: &str| -> Vec<String> {
            let members = kind_group(word).unwrap().members(&catalog);
            members.iter().map(|kind| format!("{}.{}", kind.plural, kind.group)).collect()
        };
        assert_eq!(
            members("database"),
            [
                "statefulsets.apps",
                "deployments.apps",
                "clusters.postgresql.cnpg.io",
                "dbinstances.rds.services.k8s.aws",
                "instances.rds.aws.upbound.io"
            ]
        );
        assert_eq!(
            members("infra"),
            [
                "nodes.",
                "dbinstances.rds.services.k8s.aws",
                "instances.ec2.services.k8s.aws",
                "instances.rds.aws.upbound.io"
            ]
        );
    }

    #[test]
    fn membership_of_one_kind_agrees_with_the_members() {
        let catalog = catalog();
        for group in kind_groups() {
            let members = group.members(&catalog);
            for kind in &catalog.kinds {
                assert_eq!(group.contains_kind(kind), members.contains(&kind), "{} {}", group.name(), kind.plural);
            }
        }
        let wide: Vec<_> = kind_groups().iter().filter(|group| group.is_cluster_wide()).map(KindGroup::name).collect();
        assert_eq!(wide, ["infrastructure"]);
    }

    #[test]
    fn a_workload_is_a_database_by_image_or_label() {
        let group = kind_group("database").unwrap();
        for image in [
            "postgres:17",
            "docker.io/bitnami/postgresql:16",
            "mysql:8",
            "mariadb:11",
            "mongo:7",
            "redis:7-alpine",
            "valkey/valkey:8",
            "cassandra:5",
            "docker.elastic.co/elasticsearch/elasticsearch:8.1.0",
            "timescale/timescaledb-ha:pg16",
        ] {
            assert!(group.admits(&deployment("staging", "x", image)), "{image}");
        }
        for image in ["nginx:1.27", "prom/postgres-exporter:v1", "team/mysqlish:1", "mongo-express:1", "Not An Image"] {
            assert!(!group.admits(&deployment("staging", "x", image)), "{image}");
        }
        let mut labelled = deployment("staging", "x", "team/own-store:1");
        labelled["metadata"]["labels"] = json!({ "app.kubernetes.io/component": "database" });
        assert!(group.admits(&labelled));
        let custom = json!({ "kind": "Cluster", "spec": { "instances": 3 } });
        assert!(group.admits(&custom));
    }

    #[test]
    fn what_a_controller_made_is_no_workload_of_its_own() {
        let group = kind_group("workload").unwrap();
        let mut job = deployment("staging", "x", "nginx:1");
        assert!(group.admits(&job));
        job["metadata"]["ownerReferences"] = json!([{ "kind": "CronJob", "name": "nightly", "controller": true }]);
        assert!(!group.admits(&job));
    }

    proptest! {
        #[test]
        fn a_glob_without_stars_is_equality(pattern in "[a-c]{0,3}", text in "[a-c]{0,3}") {
            prop_assert_eq!(glob(&pattern, &text), pattern == text);
        }

        #[test]
        fn globs_agree_with_regular_expressions(pattern in "[ab*]{0,5}", text in "[ab]{0,6}") {
            let regex = regex::Regex::new(&format!("^{}$", pattern.replace('*', ".*"))).unwrap();
            prop_assert_eq!(glob(&pattern, &text), regex.is_match(&text));
        }
    }
}
