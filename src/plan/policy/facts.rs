use super::Spending;
use crate::api::{ExecutionPlanSpec, ObjectRef, OperationKind, RiskLevel, Step, Verb};
use crate::plan::{After, Namespace, StepEffect, deletes_otherwise};
use kube::core::{Selector, SelectorExt};
use serde_json::Value;
use std::collections::BTreeMap;

/// Label that the API server puts on every namespace.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";
/// Workloads that have a replica when nobody says how many.
const REPLICATED: [&str; 4] = ["Deployment", "StatefulSet", "ReplicaSet", "ReplicationController"];

/// What is known of a plan when it is judged.
#[derive(Clone, Debug)]
pub struct PlanFacts<'p> {
    /// The plan.
    pub spec: &'p ExecutionPlanSpec,
    /// Its risk as assessed now.
    pub risk: RiskLevel,
    /// The plan's own namespace.
    pub namespace: &'p str,
    /// What the steps do to their objects, as far as it was tried: examples of policies try nothing.
    pub effects: &'p [StepEffect],
    /// What other plans of this month cost, where that is known.
    pub spent: &'p [Spending],
    /// The namespaces that the plan lies in or touches. One whose labels the plan changes is there twice.
    namespaces: Vec<Namespace>,
    /// Every policy is taken to match.
    selected: bool,
    /// Policies that matched the plan before.
    held_by: Vec<String>,
}

/// One step as rules see it.
#[derive(Clone, Debug)]
pub(super) struct Touch<'p> {
    pub step: &'p Step,
    /// What it does to its object, if that was tried.
    pub effect: Option<&'p StepEffect>,
    pub kind: OperationKind,
    pub verb: Verb,
    /// `None` for queries of metrics.
    pub target: Option<ObjectRef>,
    /// Where the target may be: `""` is the whole cluster.
    pub namespaces: Vec<String>,
}

/// How a step changes the replicas of a workload; `None` stands for a number that the plan does not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scaling {
    pub from: Option<u64>,
    pub to: Option<u64>,
}

impl<'p> PlanFacts<'p> {
    /// The facts of a plan that lies in `namespace`; `known` are the namespaces of the cluster.
    #[must_use]
    pub fn new(
        spec: &'p ExecutionPlanSpec,
        risk: RiskLevel,
        namespace: &'p str,
        known: &[Namespace],
        spent: &'p [Spending],
    ) -> Self {
        let mut facts = Self {
            spec,
            risk,
            namespace,
            effects: &[],
            spent,
            namespaces: Vec::new(),
            selected: false,
            held_by: Vec::new(),
        };
        let mut names = vec![namespace.to_owned()];
        for touch in facts.touches() {
            names.extend(touch.namespaces.into_iter().filter(|name| !name.is_empty()));
        }
        names.sort();
        names.dedup();
        let labels = |name: &str| {
            let found = known.iter().find(|namespace| namespace.name == name);
            let own = || BTreeMap::from([(NAME_LABEL.to_owned(), name.to_owned())]);
            found.map_or_else(own, |namespace| namespace.labels.clone())
        };
        facts.namespaces.extend(names.into_iter().map(|name| Namespace { labels: labels(&name), name }));
        // A plan that labels a namespace must not slip out of a policy by it, nor into a looser one.
        for step in &spec.steps {
            let applied = step.operation.apply.as_ref().map(|apply| &apply.manifest);
            let patched = step.operation.patch.as_ref().filter(|patch| patch.target.kind == "Namespace");
            let (name, object) = match (applied, patched) {
                (Some(manifest), _) if manifest.get("kind").and_then(Value::as_str) == Some("Namespace") => {
                    (manifest.pointer("/metadata/name").and_then(Value::as_str), manifest)
                }
                (_, Some(patch)) => (Some(patch.target.name.as_str()), &patch.body),
                _ => continue,
            };
            let Some(name) = name else { continue };
            let mut after = labels(name);
            for (key, value) in object.pointer("/metadata/labels").and_then(Value::as_object).into_iter().flatten() {
                after.insert(key.clone(), value.as_str().unwrap_or_default().to_owned());
            }
            facts.namespaces.push(Namespace { name: name.to_owned(), labels: after });
        }
        facts
    }

    /// The same facts, with what the steps do to their objects.
    #[must_use]
    pub fn with_effects(self, effects: &'p [StepEffect]) -> Self {
        Self { effects, ..self }
    }

    /// The same facts, taken to match the policies of those names, too: whoever relabels a namespace does not get a plan
    /// out of a policy that held for it before.
    #[must_use]
    pub fn held_by(self, policies: &[String]) -> Self {
        Self { held_by: policies.to_vec(), ..self }
    }

    /// Whether the policy of that name matched before.
    pub(super) fn is_held_by(&self, policy: &str) -> bool {
        self.held_by.iter().any(|name| name == policy)
    }

    /// The same facts, taken to match every policy.
    #[must_use]
    pub(super) fn selected(self) -> Self {
        Self { selected: true, ..self }
    }

    /// Whether a policy with that selector is about this plan.
    pub(super) fn matches(&self, selector: &Selector) -> bool {
        self.selected || self.namespaces.iter().any(|namespace| selector.matches(&namespace.labels))
    }

    /// The namespaces that the plan lies in or touches, with their labels.
    #[must_use]
    pub fn namespaces(&self) -> &[Namespace] {
        &self.namespaces
    }

    /// Whether any step changes anything.
    #[must_use]
    pub fn mutates(&self) -> bool {
        self.spec.steps.iter().any(|step| step.operation.kind().map_or(true, OperationKind::mutates))
    }

    /// The steps as rules see them.
    pub(super) fn touches(&self) -> impl Iterator<Item = Touch<'p>> + use<'p> {
        let (own, effects) = (self.namespace, self.effects);
        self.spec.steps.iter().filter_map(move |step| {
            let kind = step.operation.kind().ok()?;
            let verb = match kind {
                OperationKind::Apply => Verb::Apply,
                OperationKind::Patch => Verb::Patch,
                OperationKind::Delete => Verb::Delete,
                OperationKind::Evict => Verb::Evict,
                OperationKind::Wait => Verb::Wait,
                OperationKind::Query => Verb::Query,
            };
            let target = match &step.operation.query {
                Some(query) => query.kind.as_ref().map(|kind| ObjectRef {
                    api_version: query.api_version.clone().unwrap_or_default(),
                    kind: kind.clone(),
                    namespace: query.namespace.clone(),
                    name: query.name.clone().unwrap_or_default(),
                }),
                None => step.operation.target().ok().flatten(),
            };
            let namespaces = match &target {
                Some(target) if target.kind == "Namespace" && target.group().is_empty() => vec![target.name.clone()],
                Some(ObjectRef { namespace: Some(namespace), .. }) => vec![namespace.clone()],
                // Cluster-scoped, or in the plan's own namespace: the reference alone does not tell.
                _ => vec![String::new(), own.to_owned()],
            };
            let effect = effects.iter().find(|effect| effect.step == step.id);
            Some(Touch { step, effect, kind, verb, target, namespaces })
        })
    }
}

impl Touch<'_> {
    /// Whether the object goes: by a deletion, or because somebody else deletes it for what the step changes.
    pub fn deletes(&self) -> bool {
        self.kind == OperationKind::Delete || self.effect.is_some_and(deletes_otherwise)
    }

    /// `delete Deployment shop/web`.
    pub fn describe(&self) -> String {
        match &self.target {
            Some(target) => format!("{} {target}", self.kind),
            None => self.kind.to_string(),
        }
    }

    /// How the step changes the replicas of its target; `None` when it does not touch them.
    ///
    /// The numbers before are only taken from what the executor verifies: the diff of a step whose precondition holds it
    /// to the diff, or a `test` within the patch. Whatever else a plan claims could be invented.
    pub fn scaling(&self) -> Option<Scaling> {
        let target = self.target.as_ref()?;
        if let Some(effect) = self.effect {
            return scaling_of(effect);
        }
        let precondition = self.step.precondition.as_ref();
        let absent = precondition.is_some_and(|precondition| precondition.absent);
        let (tested, to) = if let Some(apply) = &self.step.operation.apply {
            match apply.manifest.pointer("/spec/replicas") {
                Some(replicas) => (None, replicas.as_u64()),
                None if absent && REPLICATED.contains(&target.kind.as_str()) => (None, Some(1)),
                None => return None,
            }
        } else {
            let patch = self.step.operation.patch.as_ref()?;
            match patch.body.as_array() {
                Some(operations) => json_patch_replicas(operations)?,
                None => (None, patch.body.pointer("/spec/replicas").map(|replicas| replicas.as_u64().unwrap_or(1))),
            }
        };
        if self.step.operation.patch.is_some() && to.is_none() && tested.is_none() {
            let merge = self.step.operation.patch.as_ref().is_some_and(|patch| patch.body.is_object());
            if merge {
                return None;
            }
        }
        let held = precondition.is_some_and(|precondition| precondition.diff_base);
        let base = self.step.diff.iter().find(|change| change.path == "spec.replicas").filter(|_| held);
        let from = match (absent, tested, base) {
            (true, ..) => Some(0),
            (_, Some(tested), _) => Some(tested),
            (_, None, Some(change)) => change.from.as_ref().map_or(Some(1), Value::as_u64),
            (_, None, None) => None,
        };
        Some(Scaling { from, to })
    }
}

/// How a step changes the replicas of its object by the object before and after, however it was written.
fn scaling_of(effect: &StepEffect) -> Option<Scaling> {
    let counted = REPLICATED.contains(&effect.target.kind.as_str()) || effect.subresource.as_deref() == Some("scale");
    let replicas = |object: &Value| match object.pointer("/spec/replicas") {
        Some(replicas) => replicas.as_u64(),
        None => counted.then_some(1),
    };
    let (before, after) = (effect.before.as_ref(), effect.after.object());
    if matches!(effect.after, After::Unknown) && counted {
        return Some(Scaling { from: None, to: None });
    }
    let from = before.map_or(Some(0), replicas);
    let to = replicas(after?);
    (from != to && (to.is_some() || counted)).then_some(Scaling { from, to })
}

/// The replicas that a JSON patch tests for and those that it leaves, if it touches them.
fn json_patch_replicas(operations: &[Value]) -> Option<(Option<u64>, Option<u64>)> {
    let mut touched = false;
    let (mut tested, mut to) = (None, None);
    for operation in operations {
        let text = |name: &str| operation.get(name).and_then(Value::as_str).unwrap_or_default();
        let value = operation.get("value");
        let inside = match text("path") {
            "/spec/replicas" => Some(value),
            "/spec" => Some(value.and_then(|value| value.get("replicas"))),
            "" => Some(value.and_then(|value| value.pointer("/spec/replicas"))),
            _ => None,
        };
        let Some(replicas) = inside else { continue };
        match text("op") {
            // What is tested later was made by the patch itself.
            "test" if !touched => tested = replicas.and_then(Value::as_u64),
            "test" => {}
            "remove" => (touched, to) = (true, Some(1)),
            "add" | "replace" => (touched, to) = (true, replicas.map_or(Some(1), Value::as_u64)),
            _ => (touched, to) = (true, None),
        }
    }
    touched.then_some((tested, to))
}
