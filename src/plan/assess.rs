use super::effect::{After, StepEffect};
use crate::api::{FieldChange, OperationKind, Risk, RiskLevel, Step};
use crate::cluster::ResourceKind;
use crate::tools::{glob, kind_group};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeSet;
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
    let environment = step.environment.unwrap_or("unknown");
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
    let after = step.after.object();
    let sees_host = after.is_some_and(sees_host) && !step.before.as_ref().is_some_and(sees_host);
    note(Fact::Privileged, writes && sees_host);
    let reachable = after.is_some_and(|after| is_reachable(&step.resource, after));
    let was = step.before.as_ref().is_some_and(|live| is_reachable(&step.resource, live));
    note(Fact::Exposes, writes && reachable && !was);
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

/// Whether any pod that the object makes is privileged or sees its host (Pod Security Standards, baseline profile).
fn sees_host(object: &Value) -> bool {
    let spec = ["/spec/template/spec", "/spec/jobTemplate/spec/template/spec", "/spec"]
        .iter()
        .find_map(|pointer| object.pointer(pointer).filter(|spec| spec.get("containers").is_some()));
    let Some(spec) = spec else { return false };
    let is_true = |value: Option<&Value>| value.and_then(Value::as_bool) == Some(true);
    let lists = ["containers", "initContainers", "ephemeralContainers"];
    let mut containers = lists.iter().filter_map(|list| spec.get(list).and_then(Value::as_array)).flatten();
    let host = ["hostNetwork", "hostPID", "hostIPC"].iter().any(|field| is_true(spec.get(field)));
    let paths = spec
        .get("volumes")
        .and_then(Value::as_array)
        .is_some_and(|volumes| volumes.iter().any(|v| v.get("hostPath").is_some()));
    host || paths
        || containers.any(|container| {
            let adds = container.pointer("/securityContext/capabilities/add").and_then(Value::as_array);
            is_true(container.pointer("/securityContext/privileged")) || adds.is_some_and(|adds| !adds.is_empty())
        })
}

fn is_reachable(resource: &ResourceKind, object: &Value) -> bool {
    match (resource.group.as_str(), resource.kind.as_str()) {
        ("", "Service") => {
            let kind = object.pointer("/spec/type").and_then(Value::as_str);
            let external = object.pointer("/spec/externalIPs").and_then(Value::as_array);
            matches!(kind, Some("LoadBalancer" | "NodePort")) || external.is_some_and(|ips| !ips.is_empty())
        }
        ("networking.k8s.io", "Ingress") | ("gateway.networking.k8s.io", _) => true,
        _ => false,
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
