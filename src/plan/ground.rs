use super::assess::{assess_step, overall};
use super::effect::{After, StepEffect};
use super::estimate::estimate;
use super::rights::{FEW, grants, in_general, rights_to_undo, unknown_kind};
use super::{CompiledStep, Environments, PlanError, Reads};
use crate::api::{
    ExecutionPlanSpec, FieldChange, IrreversibleStep, ObjectRef, Operation, OperationKind, Precondition, ResourceId,
    Risk, RollbackPlan, RollbackStrategy, Step, Verify, VerifyKind,
};
use crate::cluster::{Access, Asked, Catalog, Delegation, ResourceKind, WriteOptions, diff, one_way, redact};
use crate::tools::ProposedStep;
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use tokio::sync::Mutex;

/// How many dry runs are under way at once.
const PARALLEL: usize = 8;

/// A step together with what grounding found out about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Grounded {
    /// The step as it stands in the plan.
    pub step: Step,
    /// The object that it is about.
    pub target: Option<ObjectRef>,
    /// What somebody should know.
    pub warnings: Vec<String>,
    /// Whether the cluster already is as the step wants it.
    pub already_so: bool,
    /// What the dry run gave, if there was one.
    pub trial: Option<Trial>,
    /// What the step does to its object; absent for one that changes nothing.
    pub effect: Option<StepEffect>,
}

/// What a step would change, as it was tried.
#[derive(Clone, PartialEq)]
pub struct Trial {
    /// The resource version of the object that it was tried on; absent when there was none.
    pub version: Option<String>,
    /// Each field that would change, nothing redacted.
    pub changes: Vec<FieldChange>,
}

impl fmt::Debug for Trial {
    /// Without the values, which may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trial").field("version", &self.version).field("changes", &self.changes.len()).finish()
    }
}

/// Tries every step on the live cluster by server-side dry run, as the identity that will carry it out, and writes down
/// what each would change. Steps that would change nothing are marked, not dropped.
///
/// # Errors
/// A dry run that the API server refuses ends the plan with the server's own words.
pub async fn ground(
    reads: &Reads<'_>,
    catalog: &Catalog,
    environments: &Environments,
    steps: &[CompiledStep],
) -> Result<Vec<Grounded>, PlanError> {
    let grounder =
        Grounder { access: reads.access(), reads, catalog, environments, steps, in_general: Mutex::default() };
    let tries: Vec<_> = steps.iter().map(|step| grounder.ground(step)).collect();
    stream::iter(tries).buffered(PARALLEL).try_collect().await
}

/// What there is to know about a plan that somebody else wrote, or that was made a while ago.
#[derive(Clone, Debug, PartialEq)]
pub struct Reassessment {
    /// The risk of the whole.
    pub risk: Risk,
    /// What could not be put back as a whole.
    pub irreversible: Vec<IrreversibleStep>,
    /// What the steps would do, by id, of those that could be tried.
    pub trials: BTreeMap<String, Trial>,
    /// What each step that changes something does to its object.
    pub effects: Vec<StepEffect>,
}

/// Assesses a plan by today's cluster, whatever the plan says of itself.
///
/// # Errors
/// As [`ground`].
pub async fn reassess(
    reads: &Reads<'_>,
    catalog: &Catalog,
    environments: &Environments,
    spec: &ExecutionPlanSpec,
) -> Result<Reassessment, PlanError> {
    let compiled = |step: &Step| CompiledStep {
        id: step.id.clone(),
        tool: "manual",
        read_only: false,
        step: ProposedStep {
            title: step.title.clone(),
            operation: step.operation.clone(),
            verify: step.verify.clone(),
            timeout: step.timeout,
            ..ProposedStep::default()
        },
        depends_on: step.depends_on.iter().cloned().collect(),
    };
    let steps: Vec<CompiledStep> = spec.steps.iter().map(compiled).collect();
    let mut grounded = ground(reads, catalog, environments, &steps).await?;
    let trial = |grounded: &mut Grounded| Some((grounded.step.id.clone(), grounded.trial.take()?));
    let trials = grounded.iter_mut().filter_map(trial).collect();
    let effects = grounded.iter_mut().filter_map(|grounded| grounded.effect.take()).collect();
    let steps = || grounded.iter().map(|grounded| &grounded.step);
    let irreversible = steps()
        .filter(|step| step.operation.kind().is_ok_and(OperationKind::mutates) && !step.rollback.reversible)
        .map(|step| IrreversibleStep { id: step.id.clone(), reason: step.rollback.reason.clone() })
        .collect();
    Ok(Reassessment { risk: overall(steps()), irreversible, trials, effects })
}

struct Grounder<'a> {
    access: &'a Access,
    reads: &'a Reads<'a>,
    catalog: &'a Catalog,
    environments: &'a Environments,
    steps: &'a [CompiledStep],
    /// Whether the account has a right on all objects of a kind, by right.
    in_general: Mutex<BTreeMap<String, bool>>,
}

impl Grounder<'_> {
    async fn ground(&self, compiled: &CompiledStep) -> Result<Grounded, PlanError> {
        let operation = &compiled.step.operation;
        let kind = operation.kind().map_err(|error| PlanError::refused("InvalidPlan", error.to_string()))?;
        let target = operation.target().map_err(|error| PlanError::refused("InvalidPlan", error.to_string()))?;
        let mut step = Step {
            id: compiled.id.clone(),
            title: compiled.step.title.clone(),
            tool: compiled.tool.to_owned(),
            depends_on: compiled.depends_on.iter().cloned().collect(),
            operation: operation.clone(),
            timeout: compiled.step.timeout,
            ..Step::default()
        };
        let mut already_so = false;
        let mut trial = None;
        let mut effect = None;
        if let (true, Some(target)) = (kind.mutates(), &target) {
            let resource = self.resource(target)?;
            self.may_be_tried(operation, resource, target)?;
            let live = self.live(resource, target, operation).await?;
            let mut makers = self.makers(compiled, target);
            if makers.is_empty() && self.overlaps_earlier(compiled, target) {
                makers = self.same_object(compiled, target);
            }
            let after = if makers.is_empty() {
                self.try_out(operation, live.as_ref()).await?
            } else if live.is_some() && !operation.removes() {
                // What it does to the object as it is now says what it does by itself. Where that cannot be tried, nobody knows.
                match self.try_out(operation, live.as_ref()).await {
                    Err(error) if error.is_transient() => return Err(error),
                    tried => tried.ok().flatten(),
                }
            } else {
                None
            };
            let changes = match kind {
                OperationKind::Delete | OperationKind::Evict => diff(live.as_ref(), None),
                _ if makers.is_empty() || after.is_some() => diff(live.as_ref(), after.as_ref()),
                _ => operation.apply.as_ref().map(|apply| diff(None, Some(&apply.manifest))).unwrap_or_default(),
            };
            already_so = makers.is_empty() && kind != OperationKind::Delete && live.is_some() && changes.is_empty();
            let known = after.or_else(|| operation.apply.as_ref().map(|apply| apply.manifest.clone()));
            let facts = StepEffect {
                step: compiled.id.clone(),
                operation: kind,
                target: target.clone(),
                subresource: operation.patch.as_ref().and_then(|patch| patch.subresource.clone()),
                resource: resource.clone(),
                environment: self.environment(target),
                before: live.clone(),
                after: match known {
                    _ if operation.removes() => After::Gone,
                    Some(object) => After::Object(object),
                    None => After::Unknown,
                },
                changes: changes.clone(),
            };
            step.rollback = self.undoable(rollback(&facts), &facts).await?;
            step.risk = assess_step(&facts, step.rollback.reversible);
            if kind != OperationKind::Delete && kind != OperationKind::Evict && makers.is_empty() {
                let version = live.as_ref().and_then(|live| ResourceId::of(live).resource_version);
                trial = Some(Trial { version, changes: changes.clone() });
            }
            step.diff = redact(target, changes);
            step.known_after = makers;
            step.precondition = Some(precondition(live.as_ref(), &step));
            step.verify = Some(compiled.step.verify.clone().unwrap_or_else(|| default_verify(kind)));
            step.estimate = Some(estimate(&facts));
            effect = Some(facts);
        } else {
            step.verify.clone_from(&compiled.step.verify);
        }
        Ok(Grounded { step, target, warnings: compiled.step.warnings.clone(), already_so, trial, effect })
    }

    fn resource(&self, target: &ObjectRef) -> Result<&ResourceKind, PlanError> {
        self.catalog.of(target).ok_or_else(|| unknown_kind(target))
    }

    /// Whether the operation is one that a plan may contain here, and its dry run is one.
    fn may_be_tried(
        &self,
        operation: &Operation,
        resource: &ResourceKind,
        target: &ObjectRef,
    ) -> Result<(), PlanError> {
        if let Some(namespace) = target.namespace.as_ref().filter(|_| !resource.namespaced) {
            // Policies and environments would judge it by a namespace that it is not in.
            let message = format!(
                "{} {} belongs to the whole cluster and is in no namespace: leave out '{namespace}'.",
                target.kind, target.name
            );
            return Err(PlanError::refused("NotNamespaced", message));
        }
        let home = if resource.group.is_empty() && resource.kind == "Namespace" {
            Some(&target.name)
        } else {
            target.namespace.as_ref()
        };
        if let Some(home) = home.filter(|home| self.environments.is_own(home)) {
            let message = format!(
                "{target} is in {home}, countersign's own namespace: nothing there is changed by a plan. Do it yourself."
            );
            return Err(PlanError::refused("OwnNamespace", message));
        }
        let account = self.access.identity();
        if grants(operation, account) {
            let message = format!(
                "{target} would give rights to {account}, which carries the plan out: a plan does not widen what it may do itself."
            );
            return Err(PlanError::refused("GrantsItself", message));
        }
        foreign(&self.catalog.delegation, &resource.group).map_or(Ok(()), |message| {
            Err(PlanError::refused("DryRunNotTrusted", format!("Nothing is done to {target}: {message}")))
        })
    }

    /// The rollback as far as the service account may do it.
    async fn undoable(&self, planned: RollbackPlan, facts: &StepEffect) -> Result<RollbackPlan, PlanError> {
        if !planned.reversible {
            return Ok(planned);
        }
        for right in rights_to_undo(&facts.resource, &facts.target, planned.strategy) {
            if !self.may(&right).await? {
                let reason = format!("it cannot be put back: {} may not {right}", self.access.identity());
                return Ok(RollbackPlan { reversible: false, reason: Some(reason), ..planned });
            }
        }
        Ok(planned)
    }

    /// Whether the account has a right. In a plan of many steps it is asked about all objects of a kind at once, and about a
    /// single one only where that is denied.
    async fn may(&self, right: &Asked) -> Result<bool, PlanError> {
        if self.steps.len() > FEW && right.name.is_some() {
            let general = in_general(right);
            // Whoever comes second waits for the answer to the first.
            let mut known = self.in_general.lock().await;
            let answer = match known.get(&general.to_string()) {
                Some(answer) => *answer,
                None => {
                    let answer = self.access.may(&general).await?;
                    known.insert(general.to_string(), answer);
                    answer
                }
            };
            drop(known);
            if answer {
                return Ok(true);
            }
        }
        Ok(self.access.may(right).await?)
    }

    async fn live(
        &self,
        resource: &ResourceKind,
        target: &ObjectRef,
        operation: &Operation,
    ) -> Result<Option<Value>, PlanError> {
        Ok(match operation.patch.as_ref().and_then(|patch| patch.subresource.as_deref()) {
            Some(subresource) => self.access.get_subresource(resource, target, Some(subresource)).await?,
            None => self.reads.get(resource, target).await?,
        })
    }

    async fn try_out(&self, operation: &Operation, live: Option<&Value>) -> Result<Option<Value>, PlanError> {
        let uid = live.and_then(|object| object.pointer("/metadata/uid")).and_then(Value::as_str).map(str::to_owned);
        let options = WriteOptions { dry_run: true, uid, ..WriteOptions::default() };
        self.access.perform(self.catalog, operation, &options).await.map(Some).map_err(|error| {
            // Somebody may have changed, or replaced, the object since it was read.
            if error.is_transient() || error.is_conflict() {
                return PlanError::Cluster(error);
            }
            if error.server_message().contains(NO_DRY_RUN) {
                return PlanError::refused("DryRunUnsupported", no_dry_run(error.server_message()));
            }
            PlanError::refused("DryRunRefused", format!("The API server refused the dry run: {error}"))
        })
    }

    /// The steps that create what this one needs: its object, or the namespace that it is in.
    fn makers(&self, compiled: &CompiledStep, target: &ObjectRef) -> Vec<String> {
        let needed = |created: &ObjectRef| {
            created == target
                || (created.kind == "Namespace"
                    && Some(&created.name) == target.namespace.as_ref()
                    && !self.environments.has(&created.name))
        };
        self.before(compiled)
            .filter(|earlier| earlier.creates().is_some_and(|created| needed(&created)))
            .map(|earlier| earlier.id.clone())
            .collect()
    }

    /// Whether an earlier step changes the same object: then the dry run on today's object does not tell the truth.
    fn overlaps_earlier(&self, compiled: &CompiledStep, target: &ObjectRef) -> bool {
        !self.same_object(compiled, target).is_empty()
    }

    fn same_object(&self, compiled: &CompiledStep, target: &ObjectRef) -> Vec<String> {
        let earlier = self.before(compiled).filter(|step| {
            step.step.operation.kind().is_ok_and(OperationKind::mutates)
                && step.step.operation.target().ok().flatten().as_ref() == Some(target)
        });
        earlier.map(|step| step.id.clone()).collect()
    }

    fn before<'s>(&'s self, compiled: &'s CompiledStep) -> impl Iterator<Item = &'s CompiledStep> {
        let mut reached: BTreeSet<&str> = BTreeSet::new();
        let by_id: BTreeMap<&str, &CompiledStep> = self.steps.iter().map(|step| (step.id.as_str(), step)).collect();
        let mut open: Vec<&str> = compiled.depends_on.iter().map(String::as_str).collect();
        while let Some(id) = open.pop() {
            if reached.insert(id) {
                open.extend(by_id.get(id).into_iter().flat_map(|step| step.depends_on.iter().map(String::as_str)));
            }
        }
        self.steps.iter().filter(move |step| reached.contains(step.id.as_str()))
    }

    fn environment(&self, target: &ObjectRef) -> Option<&'static str> {
        match (&target.namespace, target.kind.as_str()) {
            (Some(namespace), _) => self.environments.of(namespace),
            (None, "Namespace") => self.environments.of(&target.name),
            (None, _) => None,
        }
    }
}

/// How the API server says that a webhook has side effects that no dry run may have.
const NO_DRY_RUN: &str = "does not support dry run";

fn no_dry_run(server: &str) -> String {
    format!(
        "What cannot be tried is not planned, and the API server says: {server}. If that webhook changes nothing by itself, set its sideEffects to None or NoneOnDryRun; otherwise leave these objects out of its rules."
    )
}

/// Why a dry run on a kind of this group may be carried out by whoever answers it; `None` when it is not.
fn foreign(delegation: &Delegation, group: &str) -> Option<String> {
    match delegation {
        Delegation::Known(groups) => groups.get(group).map(|service| {
            format!(
                "API group {group} is answered by another server, service {service}, and whether that one carries out what is only to be tried, nobody here knows. If it honours dryRun, add {group} to aggregatedApis.trustedGroups of the chart (--trusted-api-groups)."
            )
        }),
        Delegation::Unknown(reason) => Some(format!(
            "it cannot be found out which API groups are answered by other servers, which may carry out what is only to be tried: {reason}. Let the operator list apiservices.apiregistration.k8s.io."
        )),
    }
}

/// What has to hold right before the step. A step whose base an earlier step makes has no base of its own to compare.
fn precondition(live: Option<&Value>, step: &Step) -> Precondition {
    let text =
        |pointer: &str| live.and_then(|object| object.pointer(pointer)).and_then(Value::as_str).map(str::to_owned);
    if !step.known_after.is_empty() {
        return Precondition { uid: text("/metadata/uid"), ..Precondition::default() };
    }
    let redacted = step.diff.iter().any(|change| change.redacted);
    Precondition {
        uid: text("/metadata/uid"),
        resource_version: if redacted { text("/metadata/resourceVersion") } else { None },
        absent: live.is_none(),
        diff_base: live.is_some() && !step.operation.removes(),
    }
}

fn default_verify(kind: OperationKind) -> Verify {
    let kind = match kind {
        OperationKind::Delete | OperationKind::Evict => VerifyKind::Absent,
        _ => VerifyKind::Ready,
    };
    Verify { kind, expression: None }
}

/// How a step would be put back, and what would not come back.
fn rollback(facts: &StepEffect) -> RollbackPlan {
    let (strategy, lost) = match facts.operation {
        OperationKind::Apply | OperationKind::Patch if facts.before.is_none() => (RollbackStrategy::Delete, None),
        OperationKind::Apply | OperationKind::Patch => (RollbackStrategy::InversePatch, kept_for_ever(facts)),
        OperationKind::Delete => (RollbackStrategy::Recreate, lost_on_deletion(facts)),
        OperationKind::Evict => {
            (RollbackStrategy::None, Some("an evicted pod is replaced by its controller, not put back".to_owned()))
        }
        OperationKind::Wait | OperationKind::Query => (RollbackStrategy::None, None),
    };
    RollbackPlan { strategy, reversible: lost.is_none(), reason: lost }
}

/// What the API server would not let be changed back.
fn kept_for_ever(facts: &StepEffect) -> Option<String> {
    let live = facts.before.as_ref()?;
    facts.changes.iter().find_map(|change| {
        let why = one_way(&facts.target.kind, live, change)?;
        Some(format!("{} cannot be changed back: {why}", change.path))
    })
}

/// What recreating from the snapshot would not bring back.
fn lost_on_deletion(facts: &StepEffect) -> Option<String> {
    let resource = &facts.resource;
    let name = &facts.target.name;
    match (resource.group.as_str(), resource.kind.as_str()) {
        ("", "Namespace") => Some(format!("everything in namespace {name} is deleted with it and does not come back")),
        ("", "PersistentVolumeClaim" | "PersistentVolume") => Some("the data on the volume is lost".to_owned()),
        ("", "Pod") => Some("a pod comes back as a new one, without the state that it held".to_owned()),
        ("batch", "Job") => Some("a recreated job starts from the beginning".to_owned()),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => {
            Some("every object of the kind is deleted with it and does not come back".to_owned())
        }
        ("apps", "StatefulSet") if deletes_its_volumes(facts.before.as_ref()) => {
            Some("its volumes are deleted with it, by its persistentVolumeClaimRetentionPolicy".to_owned())
        }
        (group, _) if group.contains('.') && !group.ends_with(".k8s.io") => {
            Some("its controller may delete what the object stands for, with its data".to_owned())
        }
        _ => None,
    }
}

fn deletes_its_volumes(live: Option<&Value>) -> bool {
    live.and_then(|object| object.pointer("/spec/persistentVolumeClaimRetentionPolicy/whenDeleted"))
        == Some(&json!("Delete"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_other_servers_answer_is_not_tried() {
        let groups = BTreeMap::from([("metrics.k8s.io".to_owned(), "kube-system/metrics".to_owned())]);
        let known = Delegation::Known(groups);
        assert_eq!(foreign(&known, "apps"), None);
        insta::assert_snapshot!(foreign(&known, "metrics.k8s.io").unwrap(), @"API group metrics.k8s.io is answered by another server, service kube-system/metrics, and whether that one carries out what is only to be tried, nobody here knows. If it honours dryRun, add metrics.k8s.io to aggregatedApis.trustedGroups of the chart (--trusted-api-groups).");
        insta::assert_snapshot!(foreign(&Delegation::Unknown("the right is missing".into()), "apps").unwrap(), @"it cannot be found out which API groups are answered by other servers, which may carry out what is only to be tried: the right is missing. Let the operator list apiservices.apiregistration.k8s.io.");
    }

    #[test]
    fn a_webhook_with_side_effects_is_named_with_what_to_do() {
        insta::assert_snapshot!(no_dry_run(r#"admission webhook "audit.example.com" does not support dry run"#), @r#"What cannot be tried is not planned, and the API server says: admission webhook "audit.example.com" does not support dry run. If that webhook changes nothing by itself, set its sideEffects to None or NoneOnDryRun; otherwise leave these objects out of its rules."#);
    }
}
