use crate::api::{ActionType, Operation, PatchType, ResourceCategory};
use crate::tools::{
    Found, FoundObject, ProposedStep, Target, TargetQuery, Tool, ToolError, parameters::schema, parse, subject,
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// More or fewer replicas of anything that has a `scale` subresource.
pub(in crate::tools) struct Scale;

/// The most replicas that one call asks for.
pub(super) const MOST_REPLICAS: i64 = 10_000;

const DEFAULT_KINDS: &[&str] = &["deployments.apps", "statefulsets.apps", "replicasets.apps"];

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Parameters {
    /// What to scale.
    #[serde(default)]
    target: Target,
    /// The number of replicas to have: "to 5". Exactly one of `to`, `by`, `percent` and `factor` is given.
    to: Option<i64>,
    /// How many replicas more (or fewer, when negative): "by 2", "two fewer" is -2.
    by: Option<i64>,
    /// How many percent more (or fewer, when negative): "by 50 %" is 50, "a quarter less" is -25.
    percent: Option<f64>,
    /// What to multiply the number with: "double" is 2, "halve" is 0.5.
    factor: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Change {
    To(i64),
    By(i64),
    Factor(f64),
}

impl Parameters {
    fn change(&self) -> Result<Change, ToolError> {
        let given = [
            self.to.map(|to| ("to", Change::To(to))),
            self.by.map(|by| ("by", Change::By(by))),
            self.percent.map(|percent| ("percent", Change::Factor((100.0 + percent) / 100.0))),
            self.factor.map(|factor| ("factor", Change::Factor(factor))),
        ];
        match given.into_iter().flatten().collect::<Vec<_>>().as_slice() {
            [] => Err(ToolError::ask(format!(
                "How many replicas should {} have? Say a number, such as \"to 5\" or \"by 2\".",
                self.target.name.as_deref().unwrap_or("it")
            ))),
            [("to", Change::To(to))] => within_bounds(*to).map(Change::To),
            [("percent", Change::Factor(factor))] if *factor < 0.0 => Err(ToolError::invalid(format!(
                "percent must be at least -100 (nothing left), got {}",
                self.percent.unwrap_or_default()
            ))),
            [("factor", Change::Factor(factor))] if *factor < 0.0 => {
                Err(ToolError::invalid(format!("factor must not be negative, got {factor}")))
            }
            [(_, change)] => Ok(*change),
            several => Err(ToolError::invalid(format!(
                "scale takes exactly one of to, by, percent and factor, got {}",
                several.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" and ")
            ))),
        }
    }
}

fn within_bounds(replicas: i64) -> Result<i64, ToolError> {
    if (0..=MOST_REPLICAS).contains(&replicas) {
        return Ok(replicas);
    }
    Err(ToolError::invalid(format!("replicas must be between 0 and {MOST_REPLICAS}, got {replicas}")))
}

impl Change {
    /// The number of replicas after the change. Where a factor gives no whole number, the change is rounded away from
    /// zero (half as many again of 3 is 5, a quarter less is 2); but only a factor of exactly 0 ends at 0: halving 1
    /// leaves 1, since nobody who halves means to switch off.
    fn apply(self, current: i64) -> Result<i64, ToolError> {
        match self {
            Self::To(to) => within_bounds(to),
            Self::By(by) => within_bounds(current.saturating_add(by)),
            Self::Factor(factor) => within_bounds(scaled(current, factor)),
        }
    }
}

#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
fn scaled(current: i64, factor: f64) -> i64 {
    // 10 × 1.1 is 11.000000000000002 in binary: what is whole to a millionth is meant to be whole.
    let exact = current as f64 * factor;
    let wanted = if (exact - exact.round()).abs() < 1e-6 { exact.round() } else { exact };
    let rounded = if wanted > current as f64 { wanted.ceil() } else { wanted.floor() };
    if exact > 0.0 { rounded.max(1.0) as i64 } else { rounded as i64 }
}

impl Tool for Scale {
    fn name(&self) -> &'static str {
        "scale"
    }

    fn category(&self) -> ResourceCategory {
        ResourceCategory::Deployment
    }

    fn action(&self) -> ActionType {
        ActionType::Scale
    }

    fn description(&self) -> &'static str {
        "Changes the number of replicas of a Deployment, StatefulSet, ReplicaSet or anything else with a scale \
         subresource: to a number, by a number, by percent, or by a factor."
    }

    fn examples(&self) -> &'static [&'static str] {
        &[
            "scale checkout to 5 in staging",
            "add two replicas to checkout",
            "increase the replicas of checkout by 50 %",
            "double all deployments in staging",
        ]
    }

    fn parameters(&self) -> schemars::Schema {
        schema::<Parameters>()
    }

    fn targets(&self, parameters: &Map<String, Value>) -> Result<Vec<TargetQuery>, ToolError> {
        let parameters: Parameters = parse(self.name(), parameters)?;
        parameters.change()?;
        Ok(vec![subject::query(&parameters.target, DEFAULT_KINDS, true)])
    }

    fn compile(&self, parameters: &Map<String, Value>, found: &Found) -> Result<Vec<ProposedStep>, ToolError> {
        let parameters: Parameters = parse(self.name(), parameters)?;
        let change = parameters.change()?;
        let subjects = subject::subjects(&parameters.target, found, "scaled")?;
        let (scalable, others): (Vec<_>, Vec<_>) =
            subjects.iter().partition(|object| object.kind.subresources.iter().any(|name| name == "scale"));
        if let (true, Some(other)) = (scalable.is_empty(), others.first()) {
            return Err(ToolError::invalid(format!(
                "{} cannot be scaled: {} has no scale subresource",
                other.reference, other.kind.plural
            )));
        }
        let steps: Result<Vec<_>, _> = scalable.into_iter().map(|object| step(object, change)).collect();
        let mut steps: Vec<_> = steps?.into_iter().flatten().collect();
        if let Some(first) = steps.first_mut().filter(|_| !others.is_empty()) {
            let names: Vec<_> = others.iter().map(|other| other.reference.to_string()).collect();
            first.warnings.push(format!("Left out, because they cannot be scaled: {}.", names.join(", ")));
        }
        Ok(steps)
    }
}

fn step(subject: &FoundObject, change: Change) -> Result<Option<ProposedStep>, ToolError> {
    let reference = &subject.reference;
    let current = subject.object.pointer("/spec/replicas").and_then(Value::as_i64);
    // The built-in kinds mean one replica when they say nothing; what others mean is theirs to say.
    let current = current.or_else(|| (reference.group() == "apps").then_some(1));
    let wanted = match (change, current) {
        (Change::To(to), _) => within_bounds(to)?,
        (change, Some(current)) => change
            .apply(current)
            .map_err(|error| ToolError::invalid(format!("{reference} has {current} replicas now: {error}")))?,
        (_, None) => {
            return Err(ToolError::ask(format!(
                "{reference} does not say how many replicas it has now. How many should it have?"
            )));
        }
    };
    if current == Some(wanted) {
        return Ok(None);
    }
    let from = current.map(|current| format!(" from {current}")).unwrap_or_default();
    let replicas = if wanted == 1 { "replica" } else { "replicas" };
    let mut warnings = Vec::new();
    if wanted == 0 {
        warnings.push(format!("{reference} will have no pods: whatever it serves stops."));
    }
    Ok(Some(ProposedStep {
        title: format!("Scale {reference}{from} to {wanted} {replicas}"),
        operation: Operation::patch(
            reference.clone(),
            Some("scale"),
            PatchType::Merge,
            json!({ "spec": { "replicas": wanted } }),
        ),
        warnings,
        ..ProposedStep::default()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::fixtures::{as_kind, compile, deployment, error, found, map, patched, step};
    use proptest::prelude::*;

    fn checkout() -> Value {
        deployment("staging", "checkout", "nginx:1.27")
    }

    fn named(mut parameters: Value) -> Value {
        parameters["target"] = json!({ "name": "checkout" });
        parameters
    }

    fn replicas(parameters: Value) -> i64 {
        let step = step(&Scale, named(parameters), &found(&[checkout()]));
        assert_eq!(step.operation.patch.as_ref().unwrap().subresource.as_deref(), Some("scale"));
        patched(&checkout(), &step)["spec"]["replicas"].as_i64().unwrap()
    }

    #[test]
    fn replicas_are_set_added_and_multiplied() {
        assert_eq!(replicas(json!({ "to": 5 })), 5);
        assert_eq!(replicas(json!({ "by": 2 })), 5);
        assert_eq!(replicas(json!({ "by": -2 })), 1);
        assert_eq!(replicas(json!({ "percent": 50 })), 5);
        assert_eq!(replicas(json!({ "percent": -25 })), 2);
        assert_eq!(replicas(json!({ "percent": -100 })), 0);
        assert_eq!(replicas(json!({ "factor": 2 })), 6);
        assert_eq!(replicas(json!({ "factor": 0.5 })), 1);
        let step = step(&Scale, named(json!({ "to": 5 })), &found(&[checkout()]));
        insta::assert_snapshot!(step.title, @"Scale Deployment staging/checkout from 3 to 5 replicas");
    }

    #[test]
    fn the_number_that_is_there_already_needs_no_step() {
        assert_eq!(compile(&Scale, named(json!({ "to": 3 })), &found(&[checkout()])), Ok(vec![]));
    }

    #[test]
    fn nothing_left_is_warned_about() {
        let step = step(&Scale, named(json!({ "to": 0 })), &found(&[checkout()]));
        insta::assert_snapshot!(step.warnings[0], @"Deployment staging/checkout will have no pods: whatever it serves stops.");
    }

    #[test]
    fn numbers_out_of_bounds_and_contradictions_are_refused() {
        let error = |parameters| error(&Scale, named(parameters), &found(&[checkout()]));
        insta::assert_snapshot!(error(json!({ "to": -3 })), @"replicas must be between 0 and 10000, got -3");
        insta::assert_snapshot!(error(json!({ "to": 10_001 })), @"replicas must be between 0 and 10000, got 10001");
        insta::assert_snapshot!(error(json!({ "by": -6 })),
            @"Deployment staging/checkout has 3 replicas now: replicas must be between 0 and 10000, got -3");
        insta::assert_snapshot!(error(json!({ "factor": 1e9 })),
            @"Deployment staging/checkout has 3 replicas now: replicas must be between 0 and 10000, got 3000000000");
        insta::assert_snapshot!(error(json!({ "factor": -1 })), @"factor must not be negative, got -1");
        insta::assert_snapshot!(error(json!({ "percent": -101 })), @"percent must be at least -100 (nothing left), got -101");
        insta::assert_snapshot!(error(json!({ "to": 5, "by": 2 })),
            @"scale takes exactly one of to, by, percent and factor, got to and by");
        insta::assert_snapshot!(error(json!({})),
            @r#"How many replicas should checkout have? Say a number, such as "to 5" or "by 2"."#);
        assert!(Scale.targets(&map(named(json!({ "to": -3 })))).is_err());
    }

    #[test]
    fn all_that_match_are_scaled_each_in_a_step_and_the_rest_is_named() {
        let daemons = as_kind(deployment("staging", "logs", "x"), "apps/v1", "DaemonSet");
        let objects = [checkout(), daemons.clone(), deployment("staging", "web", "x")];
        let all = json!({ "target": { "kind": "workload", "all": true }, "to": 1 });
        let steps = compile(&Scale, all.clone(), &found(&objects)).unwrap();
        assert_eq!(steps.len(), 2);
        insta::assert_snapshot!(steps[1].title, @"Scale Deployment staging/web from 3 to 1 replica");
        insta::assert_snapshot!(steps[0].warnings[0], @"Left out, because they cannot be scaled: DaemonSet staging/logs.");
        insta::assert_snapshot!(error(&Scale, all, &found(&[daemons])),
            @"DaemonSet staging/logs cannot be scaled: daemonsets has no scale subresource");
    }

    #[test]
    fn a_kind_that_keeps_its_replicas_elsewhere_can_only_be_set() {
        let mut found = found(&[as_kind(checkout(), "example.dev/v1", "Gadget")]);
        let object = &mut found.objects.get_mut("target").unwrap()[0];
        object.kind.subresources.push("scale".into());
        object.object["spec"] = json!({ "size": 3 });
        let set = step(&Scale, named(json!({ "to": 2 })), &found);
        insta::assert_snapshot!(set.title, @"Scale Gadget staging/checkout to 2 replicas");
        insta::assert_snapshot!(error(&Scale, named(json!({ "by": 2 })), &found),
            @"Gadget staging/checkout does not say how many replicas it has now. How many should it have?");
    }

    #[test]
    fn without_a_name_the_question_names_what_is_there() {
        let asked = error(&Scale, json!({ "target": { "kind": "deployment" }, "to": 2 }), &found(&[checkout()]));
        assert!(asked.starts_with("Which deployment should be scaled: checkout?"), "{asked}");
    }

    #[test]
    fn what_is_whole_in_decimals_is_whole() {
        assert_eq!(scaled(10, 1.1), 11);
        assert_eq!(scaled(100, 1.07), 107);
        assert_eq!(scaled(1, 0.5), 1);
        assert_eq!(scaled(0, 2.0), 0);
    }

    proptest! {
        #[test]
        fn replicas_stay_within_bounds(current in 0i64..=10_000, by in any::<i64>(), factor in 0.0f64..1e12) {
            for change in [Change::By(by), Change::Factor(factor)] {
                if let Ok(wanted) = change.apply(current) {
                    prop_assert!((0..=MOST_REPLICAS).contains(&wanted));
                }
            }
        }

        #[test]
        fn more_gives_no_less(current in 0i64..=10_000, more in 0i64..=100, a in 0.0f64..20.0, b in 0.0f64..20.0) {
            let (low, high) = if a <= b { (a, b) } else { (b, a) };
            prop_assert!(scaled(current, low) <= scaled(current, high));
            prop_assert!(scaled(current, low) <= scaled(current + more, low));
        }

        #[test]
        fn growing_grows_shrinking_shrinks_and_only_nothing_is_nothing(current in 1i64..=10_000, factor in 0.001f64..20.0) {
            let wanted = scaled(current, factor);
            prop_assert!(wanted >= 1);
            prop_assert_eq!(wanted.max(current), if factor >= 1.0 { wanted } else { current });
        }
    }
}
