use super::expression::Expression;
use super::forbidden::forbidden;
use super::size::check_size;
use crate::api::{ExecutionPlanSpec, ObjectRef, Operation, Step, VerifyKind};
use std::collections::{BTreeMap, BTreeSet};

/// Why a plan is no plan.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidPlan {
    /// Two steps share an id.
    #[error("two steps are called '{0}': give every step its own id")]
    DoubleId(String),
    /// A step depends on one that is not there.
    #[error("step '{step}' depends on '{missing}', which the plan does not have")]
    UnknownDependency {
        /// The step.
        step: String,
        /// What it names.
        missing: String,
    },
    /// Steps wait for each other.
    #[error("these steps wait for each other in a circle: {0}")]
    Circle(String),
    /// A step is no operation, or several.
    #[error("step '{step}': {reason}")]
    Operation {
        /// The step.
        step: String,
        /// What is wrong.
        reason: String,
    },
    /// A Secret's values would stand in the plan for everybody to read.
    #[error(
        "step '{0}' carries the values of a Secret: a plan is read by many. Create the Secret another way and let the plan refer to it"
    )]
    SecretInPlan(String),
    /// The plan and its journal might not fit into one object.
    #[error(
        "the plan has {steps} steps and may take {bytes} bytes with its journal, and {most} fit into one object: split it into several plans"
    )]
    TooLarge {
        /// The most that it may take.
        bytes: usize,
        /// What fits.
        most: usize,
        /// How many steps it has.
        steps: usize,
    },
}

/// Checks what the API server's schema cannot: ids, dependencies, circles, operations that no plan does, Secrets in the
/// clear, and whether there is room for the journal.
///
/// # Errors
/// The first thing that is wrong.
pub fn validate(spec: &ExecutionPlanSpec) -> Result<(), InvalidPlan> {
    let mut steps: BTreeMap<&str, &Step> = BTreeMap::new();
    for step in &spec.steps {
        if steps.insert(&step.id, step).is_some() {
            return Err(InvalidPlan::DoubleId(step.id.clone()));
        }
    }
    for step in &spec.steps {
        if let Some(missing) = step.depends_on.iter().find(|id| !steps.contains_key(id.as_str())) {
            return Err(InvalidPlan::UnknownDependency { step: step.id.clone(), missing: missing.clone() });
        }
        let wrong = |reason: String| InvalidPlan::Operation { step: step.id.clone(), reason };
        if let Some(reason) = forbidden(&step.operation) {
            return Err(wrong(reason));
        }
        let target = step.operation.target().map_err(|error| wrong(error.to_string()))?;
        if let Some(reason) = unevaluable(step) {
            return Err(wrong(reason));
        }
        if let Some(reason) = claims_to_wait(step, target.as_ref(), &steps) {
            return Err(wrong(reason));
        }
        if carries_secret(&step.operation) {
            return Err(InvalidPlan::SecretInPlan(step.id.clone()));
        }
    }
    acyclic(&spec.steps)?;
    check_size(spec)
}

/// Why an expression of the step could never be evaluated.
fn unevaluable(step: &Step) -> Option<String> {
    let waited = step.operation.wait.as_ref().and_then(|wait| wait.expression.as_deref());
    let verify = step.verify.as_ref().filter(|verify| verify.kind == VerifyKind::Expression);
    let verified = verify.and_then(|verify| verify.expression.as_deref());
    let expressions =
        [("when", step.when.as_deref(), "steps"), ("wait", waited, "object"), ("verify", verified, "object")];
    expressions.into_iter().find_map(|(field, text, variable)| {
        let reason = Expression::compile(text?, &[variable]).err()?;
        Some(format!("the expression of '{field}' cannot be evaluated: {reason}"))
    })
}

/// Why the diff of the step is known before the steps that it names in `knownAfter`: only what an earlier step changes or
/// makes is unknown until then.
fn claims_to_wait(step: &Step, target: Option<&ObjectRef>, steps: &BTreeMap<&str, &Step>) -> Option<String> {
    let stray = step.known_after.iter().find(|id| {
        let earlier = steps.get(id.as_str()).and_then(|earlier| earlier.operation.target().ok().flatten());
        let is_base = earlier.is_some_and(|earlier| {
            let holds_target = earlier.kind == "Namespace" && earlier.group().is_empty();
            target.is_some_and(|target| {
                earlier == *target || (holds_target && target.namespace.as_ref() == Some(&earlier.name))
            })
        });
        **id == step.id || !is_base || !comes_before(id, step, steps)
    })?;
    Some(format!("its diff does not depend on '{stray}': leave that out of knownAfter"))
}

/// Whether `step` waits for the step `id`, directly or through others.
fn comes_before(id: &str, step: &Step, steps: &BTreeMap<&str, &Step>) -> bool {
    let mut open: Vec<&str> = step.depends_on.iter().map(String::as_str).collect();
    let mut seen = BTreeSet::new();
    while let Some(next) = open.pop() {
        if next == id {
            return true;
        }
        if seen.insert(next) {
            open.extend(steps.get(next).into_iter().flat_map(|step| step.depends_on.iter().map(String::as_str)));
        }
    }
    false
}

fn carries_secret(operation: &Operation) -> bool {
    let annotated = |body: &serde_json::Value| {
        // What a client kept of the whole object, values and all.
        let annotations = body.pointer("/metadata/annotations").and_then(|annotations| annotations.as_object());
        annotations.is_some_and(|all| all.values().any(|value| value.as_str().is_some_and(holds_manifest)))
    };
    let has_values =
        |body: &serde_json::Value| body.get("data").is_some() || body.get("stringData").is_some() || annotated(body);
    let applied = operation.apply.as_ref().is_some_and(|apply| {
        apply.manifest.get("kind").and_then(|kind| kind.as_str()) == Some("Secret") && has_values(&apply.manifest)
    });
    let patched = operation.patch.as_ref().is_some_and(|patch| {
        let touches = |op: &serde_json::Value| {
            let speaks = |path: &str| path.is_empty() || path.starts_with("/data") || path.starts_with("/stringData");
            // `copy` and `move` would bring a value to where it is shown.
            let from = op.get("from").and_then(|from| from.as_str());
            speaks(op.get("path").and_then(|path| path.as_str()).unwrap_or_default()) || from.is_some_and(speaks)
        };
        patch.target.kind == "Secret"
            && (has_values(&patch.body) || patch.body.as_array().is_some_and(|ops| ops.iter().any(touches)))
    });
    applied || patched
}

fn holds_manifest(annotation: &str) -> bool {
    annotation.trim_start().starts_with('{')
        && (annotation.contains("\"data\"") || annotation.contains("\"stringData\""))
}

fn acyclic(steps: &[Step]) -> Result<(), InvalidPlan> {
    let mut done: BTreeSet<&str> = BTreeSet::new();
    loop {
        let before = done.len();
        for step in steps {
            if step.depends_on.iter().all(|id| done.contains(id.as_str())) {
                done.insert(&step.id);
            }
        }
        if done.len() == steps.len() {
            return Ok(());
        }
        if done.len() == before {
            let stuck: Vec<_> = steps.iter().map(|s| s.id.as_str()).filter(|id| !done.contains(id)).collect();
            return Err(InvalidPlan::Circle(stuck.join(", ")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{PatchType, WaitUntil};
    use serde_json::json;

    fn step(id: &str, depends_on: &[&str]) -> Step {
        let target = ObjectRef { api_version: "v1".into(), kind: "Pod".into(), namespace: None, name: "a".into() };
        Step {
            id: id.into(),
            depends_on: depends_on.iter().map(ToString::to_string).collect(),
            operation: Operation::wait(target, WaitUntil::Ready),
            ..Step::default()
        }
    }

    fn spec(steps: Vec<Step>) -> ExecutionPlanSpec {
        ExecutionPlanSpec { steps, ..ExecutionPlanSpec::default() }
    }

    #[test]
    fn ids_and_dependencies_are_checked() {
        assert_eq!(validate(&spec(vec![step("a", &[]), step("b", &["a"])])), Ok(()));
        assert_eq!(validate(&spec(vec![step("a", &[]), step("a", &[])])), Err(InvalidPlan::DoubleId("a".into())));
        assert!(matches!(validate(&spec(vec![step("a", &["x"])])), Err(InvalidPlan::UnknownDependency { .. })));
        assert_eq!(
            validate(&spec(vec![step("a", &["b"]), step("b", &["a"]), step("c", &[])])),
            Err(InvalidPlan::Circle("a, b".into()))
        );
        assert_eq!(validate(&spec(vec![step("a", &["a"])])), Err(InvalidPlan::Circle("a".into())));
    }

    #[test]
    fn secret_values_do_not_belong_into_a_plan() {
        let mut with_secret = step("a", &[]);
        with_secret.operation = Operation::apply(
            json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "s" }, "data": { "k": "dg==" } }),
        );
        assert_eq!(validate(&spec(vec![with_secret])), Err(InvalidPlan::SecretInPlan("a".into())));
        let secret = ObjectRef {
            api_version: "v1".into(),
            kind: "Secret".into(),
            namespace: Some("n".into()),
            name: "s".into(),
        };
        let body = json!([{ "op": "copy", "from": "/data/password", "path": "/metadata/annotations/shown" }]);
        let mut copies = step("a", &[]);
        copies.operation = Operation::patch(secret, None, PatchType::Json, body);
        assert!(validate(&spec(vec![copies])).unwrap_err().to_string().contains("does 'copy'"));
        let mut kept = step("a", &[]);
        let whole = r#"{"kind":"Secret","data":{"k":"dg=="}}"#;
        kept.operation = Operation::apply(json!({ "apiVersion": "v1", "kind": "Secret",
            "metadata": { "name": "s", "annotations": { "tool.example.com/applied": whole } } }));
        assert_eq!(validate(&spec(vec![kept])), Err(InvalidPlan::SecretInPlan("a".into())));
    }

    #[test]
    fn a_manifest_must_name_its_object() {
        let mut nameless = step("a", &[]);
        nameless.operation = Operation::apply(json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": {} }));
        insta::assert_snapshot!(validate(&spec(vec![nameless])).unwrap_err(), @"step 'a': the manifest to apply lacks apiVersion, kind or metadata.name");
        let mut generated = step("a", &[]);
        generated.operation =
            Operation::apply(json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "generateName": "web-" } }));
        insta::assert_snapshot!(validate(&spec(vec![generated])).unwrap_err(), @"step 'a': the manifest has generateName, so that nobody could tell which object is meant: give it a name");
    }

    #[test]
    fn what_no_plan_does_is_said_by_its_step() {
        let mut approves = step("a", &[]);
        approves.operation =
            Operation::apply(json!({ "apiVersion": "countersign.dev/v1alpha1", "kind": "PlanApproval",
            "metadata": { "name": "x", "namespace": "shop" }, "spec": { "plan": "p", "decision": "Approve" } }));
        insta::assert_snapshot!(validate(&spec(vec![approves])).unwrap_err(), @"step 'a': a plan does not write requests, plans or approvals, and this is PlanApproval shop/x: do it yourself");
    }

    #[test]
    fn a_diff_is_known_unless_an_earlier_step_makes_its_base() {
        let mut alone = step("a", &[]);
        alone.known_after = vec!["a".into()];
        insta::assert_snapshot!(validate(&spec(vec![alone])).unwrap_err(), @"step 'a': its diff does not depend on 'a': leave that out of knownAfter");
        let mut unrelated = step("b", &["a"]);
        unrelated.known_after = vec!["a".into()];
        let mut other = step("a", &[]);
        let namespace = ObjectRef { api_version: "v1".into(), kind: "Pod".into(), namespace: None, name: "b".into() };
        other.operation = Operation::wait(namespace, WaitUntil::Ready);
        assert!(validate(&spec(vec![other, unrelated.clone()])).is_err());
        assert_eq!(validate(&spec(vec![step("a", &[]), unrelated])), Ok(()), "both are about one object");
    }

    #[test]
    fn what_could_never_be_evaluated_is_refused() {
        let mut endless = step("a", &[]);
        endless.when = Some(format!("1{} > 0", "+1".repeat(900)));
        assert!(validate(&spec(vec![endless])).unwrap_err().to_string().contains("expression of 'when'"));
        let mut other = step("a", &[]);
        other.when = Some("object.spec.replicas > 1".into());
        assert!(validate(&spec(vec![other])).unwrap_err().to_string().contains("only 'steps' is known"));
    }
}
