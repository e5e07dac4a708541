use super::effect::{After, StepEffect};
use super::powers::{Power, gained_powers};
use crate::api::{FieldChange, OperationKind, Risk, RiskLevel, Step};
use crate::cluster::ResourceKind;
use crate::tools::{glob, kind_group, namespace_environment};
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

/// The risk of a step with its reversibility, for summing up.
pub type Assessed<'s> = &'s Step;

/// Weighs one step by the table in `risk.yaml`: the highest level of all rules that match, with every reason.
#[must_use]
pub fn assess_step(step: &StepEffect, reversible: bool) -> Risk {
    if step.after == After::Unknown {
        let reason = format!("What {} will be like is known only once earlier steps ran.", step.target);
        return Risk { level: RiskLevel::Critical, reasons: vec![reason] };
    }
    let facts = facts(step, reversible);
    let environment = if is_system(step) { "production" } else { step.environment.unwrap_or("unknown") };
    let mut risk = Risk::default();
    for rule in RULES.iter().filter(|rule| rule.matches(step, environment, &facts)) {
        risk.level = risk.level.max(rule.level);
        risk.reasons.push(rule.reason_for(step, environment));
    }
    if risk.reasons.is_empty() {
        // Nothing in the table speaks of it: a person looks.
        risk.level = RiskLevel::Medium;
        risk.reasons.push(format!("No rule knows {} on {}.", step.operation, step.target));
    }
    risk
}

/// The risk of a whole plan: the highest of its steps with the reasons at that level, and one for sheer size.
#[must_use]
pub fn overall<'s>(steps: impl Iterator<Item = Assessed<'s>> + Clone) -> Risk {
    let level = steps.clone().map(|step| step.risk.level).max().unwrap_or_default();
    let mut reasons: Vec<String> = Vec::new();
    for step in steps.clone().filter(|step| step.risk.level == level) {
        for reason in &step.risk.reasons {
            if !reasons.contains(reason) && reasons.len() < MAX_REASONS {
                reasons.push(reason.clone());
            }
        }
    }
    let objects = steps.filter(|step| step.operation.kind().is_ok_and(OperationKind::mutates)).count();
    let mut risk = Risk { level, reasons };
    if objects > WIDE && risk.level < RiskLevel::High {
        risk.level = RiskLevel::High;
        risk.reasons.push(format!("Changes {objects} objects at once."));
    }
    risk
}

/// Namespaces of the cluster itself.
const SYSTEM: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];
/// Groups whose objects route what comes from outside.
const ROUTERS: [&str; 5] = ["istio.io", "traefik.io", "traefik.containo.us", "route.openshift.io", "projectcontour.io"];
/// More changed objects than this make any plan `high`.
const WIDE: usize = 20;
/// How many reasons a plan lists; every step has its own in full.
const MAX_REASONS: usize = 20;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    #[serde(default)]
    operation: Vec<String>,
    #[serde(default)]
    kinds: Vec<String>,
    #[serde(default)]
    environment: Vec<String>,
    #[serde(default)]
    facts: Vec<Fact>,
    level: RiskLevel,
    reason: String,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "snake_case")]
enum Fact {
    Creates,
    ChangesPods,
    Scales,
    ScalesToZero,
    ScalesDownHalf,
    Database,
    HasVolumes,
    Irreversible,
    Privileged,
    Exposes,
    OtherChange,
    ClusterScoped,
    OtherAccount,
    DeletesOtherwise,
    Foreign,
    Takeover,
    Relabels,
}

#[expect(clippy::expect_used, reason = "the table is part of the program; a test reads it")]
static RULES: LazyLock<Vec<Rule>> =
    LazyLock::new(|| serde_yaml::from_str(include_str!("risk.yaml")).expect("risk.yaml is valid"));

impl Rule {
    fn matches(&self, step: &StepEffect, environment: &str, facts: &BTreeSet<Fact>) -> bool {
        let operation = step.operation.to_string();
        let kind = if step.resource.group.is_empty() {
            step.resource.plural.clone()
        } else {
            format!("{}.{}", step.resource.plural, step.resource.group)
        };
        (self.operation.is_empty() || self.operation.contains(&operation))
            && (self.kinds.is_empty() || self.kinds.iter().any(|pattern| glob(pattern, &kind)))
            && (self.environment.is_empty() || self.environment.iter().any(|name| name == environment))
            && self.facts.iter().all(|fact| facts.contains(fact))
    }

    fn reason_for(&self, step: &StepEffect, environment: &str) -> String {
        let environment = match environment {
            "unknown" => "a namespace of no known environment",
            known => known,
        };
        self.reason
            .replace("{object}", &step.target.to_string())
            .replace("{name}", &step.target.name)
            .replace("{environment}", environment)
    }
}

fn facts(step: &StepEffect, reversible: bool) -> BTreeSet<Fact> {
    let mut facts = BTreeSet::new();
    let mut note = |fact: Fact, holds: bool| {
        if holds {
            facts.insert(fact);
        }
    };
    let writes = matches!(step.operation, OperationKind::Apply | OperationKind::Patch);
    let creates = writes && step.before.is_none();
    let touches = |prefix: &str| step.changes.iter().any(|change| change.path.starts_with(prefix));
    let is_replicas = |change: &FieldChange| change.path == "spec.replicas";
    let scales = writes && !creates && !step.changes.is_empty() && step.changes.iter().all(is_replicas);
    let pods = writes && !creates && touches("spec.template");
    note(Fact::Creates, creates);
    note(Fact::ChangesPods, pods);
    note(Fact::Scales, scales);
    if let Some(change) = step.changes.iter().find(|change| writes && !creates && is_replicas(change)) {
        let number = |value: &Option<Value>| value.as_ref().and_then(Value::as_u64);
        let (from, to) = (number(&change.from).unwrap_or(1), number(&change.to).unwrap_or(1));
        note(Fact::ScalesToZero, to == 0 && from > 0);
        note(Fact::ScalesDownHalf, to > 0 && from > 1 && to * 2 <= from);
    }
    note(Fact::OtherChange, writes && !creates && !scales && !pods);
    note(Fact::Irreversible, !reversible);
    note(Fact::ClusterScoped, !step.resource.namespaced);
    let object = step.before.as_ref().or(step.after.object());
    note(Fact::Database, object.is_some_and(|object| is_database(&step.resource, object)));
    note(Fact::HasVolumes, object.is_some_and(has_volumes));
    let after = step.after.object().filter(|_| writes);
    let gained = after.map(|after| gained_powers(step.before.as_ref(), after)).unwrap_or_default();
    note(Fact::Privileged, gained.iter().any(Power::reaches_the_host));
    note(Fact::OtherAccount, gained.iter().any(|power| matches!(power, Power::Account(_))));
    let reachable = after.is_some_and(|after| is_reachable(&step.resource, after));
    let was = step.before.as_ref().is_some_and(|live| is_reachable(&step.resource, live));
    let leads =
        |change: &FieldChange| change.path.starts_with("spec") || change.path.starts_with("metadata.annotations");
    note(Fact::Exposes, reachable && (!was || step.changes.iter().any(leads)));
    note(Fact::DeletesOtherwise, deletes_otherwise(step));
    note(Fact::Foreign, writes && is_foreign(&step.resource));
    note(Fact::Takeover, is_takeover(step));
    note(Fact::Relabels, relabels(step));
    facts
}

fn is_database(resource: &ResourceKind, object: &Value) -> bool {
    kind_group("database").is_some_and(|group| group.contains_kind(resource) && group.admits(object))
}

fn has_volumes(object: &Value) -> bool {
    let claims = object.pointer("/spec/volumeClaimTemplates").and_then(Value::as_array);
    let volumes = object.pointer("/spec/template/spec/volumes").and_then(Value::as_array);
    claims.is_some_and(|claims| !claims.is_empty())
        || volumes.is_some_and(|volumes| volumes.iter().any(|volume| volume.get("persistentVolumeClaim").is_some()))
}

/// Namespaces of the cluster itself: what is there weighs as much as production.
fn is_system(step: &StepEffect) -> bool {
    let home = if step.target.kind == "Namespace" { Some(&step.target.name) } else { step.target.namespace.as_ref() };
    home.is_some_and(|home| SYSTEM.contains(&home.as_str()))
}

/// Whether the step brings about that the object, or data that belongs to it, is deleted by somebody else: by the garbage
/// collector, by the controller of a StatefulSet, by the provider of a volume.
#[must_use]
pub fn deletes_otherwise(step: &StepEffect) -> bool {
    let Some(after) = step.after.object() else { return false };
    let before = step.before.as_ref();
    let list = |object: Option<&Value>, pointer: &str| {
        object.and_then(|object| object.pointer(pointer)).and_then(Value::as_array).cloned().unwrap_or_default()
    };
    let differs = |pointer: &str, value: &str| {
        let at = |object: Option<&Value>| {
            object.and_then(|object| object.pointer(pointer)).and_then(Value::as_str) == Some(value)
        };
        at(Some(after)) && !at(before)
    };
    let owners = list(before, "/metadata/ownerReferences");
    let owned = list(Some(after), "/metadata/ownerReferences").iter().any(|owner| !owners.contains(owner));
    let finalizers = list(Some(after), "/metadata/finalizers");
    let released = list(before, "/metadata/finalizers").iter().any(|finalizer| !finalizers.contains(finalizer));
    let claims = "/spec/persistentVolumeClaimRetentionPolicy";
    let scaled = before.and_then(|before| before.pointer(&format!("{claims}/whenScaled"))).and_then(Value::as_str);
    let replicas = |object: &Value| object.pointer("/spec/replicas").and_then(Value::as_u64).unwrap_or(1);
    let loses_claims = scaled == Some("Delete") && before.is_some_and(|before| replicas(after) < replicas(before));
    owned
        || released
        || loses_claims
        || differs(&format!("{claims}/whenScaled"), "Delete")
        || differs(&format!("{claims}/whenDeleted"), "Delete")
        || (step.target.kind == "PersistentVolume" && differs("/spec/persistentVolumeReclaimPolicy", "Delete"))
}

/// Whether the kind belongs to some operator: what that does because of the object, nobody here knows.
fn is_foreign(resource: &ResourceKind) -> bool {
    let group = resource.group.as_str();
    group.contains('.') && !group.ends_with(".k8s.io")
}

/// Objects by which the API server, or what every pod relies on, is taken over.
fn is_takeover(step: &StepEffect) -> bool {
    const CONFIG: [&str; 5] =
        ["aws-auth", "extension-apiserver-authentication", "coredns", "kube-proxy", "kubeadm-config"];
    let target = &step.target;
    target.namespace.as_deref() == Some("kube-system")
        && matches!(target.kind.as_str(), "ConfigMap" | "Deployment" | "DaemonSet" | "Service")
        && (CONFIG.contains(&target.name.as_str()) || target.name == "kube-dns")
}

/// Whether labels of a namespace change by which it is judged: pod security, and which environment it is.
fn relabels(step: &StepEffect) -> bool {
    if step.target.kind != "Namespace" || !step.changes_existing() {
        return false;
    }
    let labels = |object: Option<&Value>| object.and_then(|object| object.pointer("/metadata/labels")).cloned();
    let (before, after) = (labels(step.before.as_ref()), labels(step.after.object()));
    let strings = |labels: &Option<Value>| -> BTreeMap<String, String> {
        let members = labels.iter().filter_map(Value::as_object).flatten();
        members.map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned())).collect()
    };
    let (before, after) = (strings(&before), strings(&after));
    let secures = |labels: &BTreeMap<String, String>| -> Vec<(String, String)> {
        labels
            .iter()
            .filter(|(key, _)| key.starts_with("pod-security.kubernetes.io/"))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect()
    };
    let name = &step.target.name;
    secures(&before) != secures(&after) || namespace_environment(name, &before) != namespace_environment(name, &after)
}

fn is_reachable(resource: &ResourceKind, object: &Value) -> bool {
    match (resource.group.as_str(), resource.kind.as_str()) {
        ("", "Service") => {
            let kind = object.pointer("/spec/type").and_then(Value::as_str);
            let external = object.pointer("/spec/externalIPs").and_then(Value::as_array);
            matches!(kind, Some("LoadBalancer" | "NodePort")) || external.is_some_and(|ips| !ips.is_empty())
        }
        ("networking.k8s.io", "Ingress") | ("gateway.networking.k8s.io", _) => true,
        (group, _) => ROUTERS.iter().any(|router| group == *router || group.ends_with(&format!(".{router}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn step(operation: OperationKind, resource: ResourceKind, environment: Option<&'static str>) -> StepEffect {
        StepEffect {
            step: "s1".into(),
            operation,
            target: resource.object(Some("shop"), "checkout"),
            subresource: None,
            resource,
            environment,
            before: Some(json!({ "spec": { "replicas": 4 } })),
            after: After::Object(json!({ "spec": { "replicas": 4 } })),
            changes: vec![],
        }
    }

    fn scaled(from: u64, to: u64, environment: Option<&'static str>) -> StepEffect {
        let mut facts =
            step(OperationKind::Patch, ResourceKind::sample("apps", "Deployment", "deployments", true), environment);
        facts.changes = vec![FieldChange {
            path: "spec.replicas".into(),
            from: Some(json!(from)),
            to: Some(json!(to)),
            redacted: false,
        }];
        facts
    }

    #[test]
    fn every_rule_is_readable() {
        assert!(RULES.len() > 20);
        for rule in RULES.iter() {
            assert!(rule.reason.ends_with('.'), "{}", rule.reason);
        }
    }

    #[test]
    fn scaling_is_weighed_by_where_and_how_far() {
        for (from, to, environment, level) in [
            (3, 5, Some("staging"), RiskLevel::Low),
            (3, 5, Some("production"), RiskLevel::Medium),
            (3, 5, None, RiskLevel::Medium),
            (4, 2, Some("production"), RiskLevel::High),
            (4, 0, Some("staging"), RiskLevel::Medium),
            (4, 0, Some("production"), RiskLevel::High),
        ] {
            let risk = assess_step(&scaled(from, to, environment), true);
            assert_eq!(risk.level, level, "{from} → {to} in {environment:?}: {:?}", risk.reasons);
        }
    }

    #[test]
    fn losing_data_is_critical_wherever_it_is() {
        for environment in [Some("development"), Some("production"), None] {
            for (plural, group, name, namespaced) in [
                ("namespaces", "", "Namespace", false),
                ("persistentvolumeclaims", "", "PersistentVolumeClaim", true),
                ("customresourcedefinitions", "apiextensions.k8s.io", "CustomResourceDefinition", false),
                ("clusterroles", "rbac.authorization.k8s.io", "ClusterRole", false),
            ] {
                let facts =
                    step(OperationKind::Delete, ResourceKind::sample(group, name, plural, namespaced), environment);
                assert_eq!(assess_step(&facts, false).level, RiskLevel::Critical, "{name}");
            }
        }
    }

    #[test]
    fn becoming_privileged_is_critical_staying_so_is_not() {
        let privileged = json!({ "spec": { "template": { "spec": { "containers": [
            { "name": "web", "securityContext": { "privileged": true } }
        ] } } } });
        let mut facts = step(
            OperationKind::Apply,
            ResourceKind::sample("apps", "Deployment", "deployments", true),
            Some("development"),
        );
        facts.after = After::Object(privileged.clone());
        assert_eq!(assess_step(&facts, true).level, RiskLevel::Critical);
        facts.before = Some(privileged);
        assert_eq!(assess_step(&facts, true).level, RiskLevel::Low);
    }

    #[test]
    fn what_is_known_only_later_is_critical() {
        let mut facts = scaled(3, 5, Some("test"));
        facts.after = After::Unknown;
        assert_eq!(assess_step(&facts, true).level, RiskLevel::Critical);
    }

    #[test]
    fn an_effect_is_rated_whatever_verb_brings_it_about() {
        let object = |more: Value| {
            let mut object = json!({ "metadata": { "name": "checkout" }, "spec": {} });
            json_patch::merge(&mut object, &more);
            object
        };
        let claims = |when: &str| json!({ "spec": { "persistentVolumeClaimRetentionPolicy": { "whenScaled": when } } });
        let owner = json!({ "metadata": { "ownerReferences": [{ "uid": "x", "kind": "ConfigMap", "name": "gone" }] } });
        let sample = ResourceKind::sample;
        for (resource, before, after, path, level) in [
            (
                sample("", "PersistentVolumeClaim", "persistentvolumeclaims", true),
                json!({}),
                owner,
                "metadata.ownerReferences",
                RiskLevel::Critical,
            ),
            (
                sample("apps", "StatefulSet", "statefulsets", true),
                claims("Retain"),
                claims("Delete"),
                "spec.persistentVolumeClaimRetentionPolicy.whenScaled",
                RiskLevel::Critical,
            ),
            (
                sample("networking.k8s.io", "NetworkPolicy", "networkpolicies", true),
                json!({}),
                json!({ "spec": { "ingress": [{}] } }),
                "spec.ingress",
                RiskLevel::High,
            ),
            (
                sample("policy", "PodDisruptionBudget", "poddisruptionbudgets", true),
                json!({ "spec": { "minAvailable": 1 } }),
                json!({ "spec": { "minAvailable": 0 } }),
                "spec.minAvailable",
                RiskLevel::High,
            ),
            (
                sample("", "Service", "services", true),
                json!({ "spec": { "type": "LoadBalancer" } }),
                json!({ "spec": { "type": "LoadBalancer", "selector": { "app": "db" } } }),
                "spec.selector",
                RiskLevel::High,
            ),
            (
                sample("tekton.example", "TaskRun", "taskruns", true),
                json!({}),
                json!({ "spec": { "steps": [] } }),
                "spec.steps",
                RiskLevel::Medium,
            ),
        ] {
            for operation in [OperationKind::Apply, OperationKind::Patch] {
                let mut facts = step(operation, resource.clone(), Some("development"));
                facts.before = Some(object(before.clone()));
                facts.after = After::Object(object(after.clone()));
                facts.changes = vec![FieldChange { path: path.into(), ..FieldChange::default() }];
                let risk = assess_step(&facts, true);
                assert_eq!(risk.level, level, "{operation} {}: {:?}", resource.kind, risk.reasons);
            }
        }
    }

    #[test]
    fn what_decides_over_a_namespace_is_critical_to_change() {
        let mut facts =
            step(OperationKind::Patch, ResourceKind::sample("", "Namespace", "namespaces", false), Some("production"));
        facts.before = Some(json!({ "metadata": { "labels": { "environment": "production" } } }));
        facts.after = After::Object(json!({ "metadata": { "labels": { "environment": "development" } } }));
        assert_eq!(assess_step(&facts, true).level, RiskLevel::Critical);
        facts.after = After::Object(json!({ "metadata": { "labels": { "environment": "production", "team": "a" } } }));
        assert!(assess_step(&facts, true).level < RiskLevel::Critical);
    }

    #[test]
    fn what_no_rule_knows_is_not_low() {
        let facts = step(OperationKind::Wait, ResourceKind::sample("", "Pod", "pods", true), Some("production"));
        assert_eq!(assess_step(&facts, true).level, RiskLevel::Medium);
    }

    #[test]
    fn a_star_stands_for_any_text() {
        assert!(glob("*.rbac.authorization.k8s.io", "roles.rbac.authorization.k8s.io"));
        assert!(!glob("*.rbac.authorization.k8s.io", "rbac.authorization.k8s.io"));
        assert!(glob("nodes", "nodes"));
    }
}
