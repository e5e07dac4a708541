use crate::api::{ActionType, Operation, ResourceCategory};
use crate::tools::{
    Found, FoundObject, ProposedStep, Target, TargetQuery, Tool, ToolError, parameters::schema, parse, subject,
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// New pods for a workload, one after the other.
pub(in crate::tools) struct Restart;

const DEFAULT_KINDS: &[&str] = &["deployments.apps", "statefulsets.apps", "daemonsets.apps"];

/// The annotation that `kubectl rollout restart` sets too.
const ANNOTATION: &str = "kubectl.kubernetes.io/restartedAt";

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Parameters {
    /// What to restart.
    #[serde(default)]
    target: Target,
}

impl Tool for Restart {
    fn name(&self) -> &'static str {
        "restart"
    }

    fn category(&self) -> ResourceCategory {
        ResourceCategory::Deployment
    }

    fn action(&self) -> ActionType {
        ActionType::Restart
    }

    fn description(&self) -> &'static str {
        "Replaces the pods of a Deployment, StatefulSet or DaemonSet by new ones of the same template, by the workload's \
         own update strategy."
    }

    fn examples(&self) -> &'static [&'static str] {
        &["restart checkout in staging", "restart all deployments in staging"]
    }

    fn parameters(&self) -> schemars::Schema {
        schema::<Parameters>()
    }

    fn targets(&self, parameters: &Map<String, Value>) -> Result<Vec<TargetQuery>, ToolError> {
        let parameters: Parameters = parse(self.name(), parameters)?;
        Ok(vec![subject::query(&parameters.target, DEFAULT_KINDS, true)])
    }

    fn compile(&self, parameters: &Map<String, Value>, found: &Found) -> Result<Vec<ProposedStep>, ToolError> {
        let parameters: Parameters = parse(self.name(), parameters)?;
        let subjects = subject::subjects(&parameters.target, found, "restarted")?;
        let (restartable, others): (Vec<_>, Vec<_>) = subjects.iter().partition(|object| replaces_pods(object));
        if let (true, Some(other)) = (restartable.is_empty(), others.first()) {
            return Err(ToolError::invalid(format!(
                "{} cannot be restarted: only Deployments, StatefulSets and DaemonSets replace their pods",
                other.reference
            )));
        }
        let mut steps: Vec<_> = restartable.into_iter().map(step).collect();
        if let Some(first) = steps.first_mut().filter(|_| !others.is_empty()) {
            let names: Vec<_> = others.iter().map(|other| other.reference.to_string()).collect();
            first.warnings.push(format!("Left out, because they cannot be restarted: {}.", names.join(", ")));
        }
        Ok(steps)
    }
}

fn replaces_pods(subject: &FoundObject) -> bool {
    subject.reference.group() == "apps"
        && matches!(subject.reference.kind.as_str(), "Deployment" | "StatefulSet" | "DaemonSet")
}

fn step(subject: &FoundObject) -> ProposedStep {
    let reference = &subject.reference;
    // The clock would make the plan's digest another each time; the generation changes with every restart as well.
    let generation = subject.object.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or_default();
    let mut warnings = Vec::new();
    if subject.object.pointer("/spec/paused").and_then(Value::as_bool) == Some(true) {
        warnings.push(format!("{reference} is paused: it restarts when it is resumed."));
    }
    if subject.object.pointer("/spec/updateStrategy/type").and_then(Value::as_str) == Some("OnDelete") {
        warnings.push(format!("{reference} replaces its pods only when somebody deletes them (OnDelete)."));
    }
    let annotations = json!({ ANNOTATION: format!("after-generation-{generation}") });
    ProposedStep {
        title: format!("Restart {reference}"),
        operation: Operation::merge_patch(
            reference.clone(),
            json!({ "spec": { "template": { "metadata": { "annotations": annotations } } } }),
        ),
        warnings,
        ..ProposedStep::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::fixtures::{as_kind, compile, deployment, error, found, patched, step};

    fn checkout() -> Value {
        deployment("staging", "checkout", "nginx:1.27")
    }

    fn named() -> Value {
        json!({ "target": { "name": "checkout" } })
    }

    #[test]
    fn only_the_annotation_of_the_template_changes_and_by_the_generation() {
        let step = step(&Restart, named(), &found(&[checkout()]));
        insta::assert_snapshot!(step.title, @"Restart Deployment staging/checkout");
        let mut expected = checkout();
        expected["spec"]["template"]["metadata"]["annotations"] = json!({ ANNOTATION: "after-generation-7" });
        assert_eq!(patched(&checkout(), &step), expected);
    }

    #[test]
    fn all_that_match_are_restarted_and_the_rest_is_named() {
        let job = as_kind(checkout(), "batch/v1", "Job");
        let all = json!({ "target": { "kind": "workload", "all": true } });
        let steps = compile(&Restart, all, &found(&[checkout(), job.clone()])).unwrap();
        assert_eq!(steps.len(), 1);
        insta::assert_snapshot!(steps[0].warnings[0], @"Left out, because they cannot be restarted: Job staging/checkout.");
        insta::assert_snapshot!(error(&Restart, named(), &found(&[job])),
            @"Job staging/checkout cannot be restarted: only Deployments, StatefulSets and DaemonSets replace their pods");
    }

    #[test]
    fn workloads_that_will_not_act_on_it_are_warned_about() {
        let mut paused = checkout();
        paused["spec"]["paused"] = json!(true);
        let warning = step(&Restart, named(), &found(&[paused])).warnings.remove(0);
        insta::assert_snapshot!(warning, @"Deployment staging/checkout is paused: it restarts when it is resumed.");
        let mut on_delete = as_kind(checkout(), "apps/v1", "DaemonSet");
        on_delete["spec"]["updateStrategy"] = json!({ "type": "OnDelete" });
        assert_eq!(step(&Restart, named(), &found(&[on_delete])).warnings.len(), 1);
    }

    #[test]
    fn without_a_name_it_is_asked_which() {
        let asked = error(&Restart, json!({ "target": { "kind": "deployment" } }), &found(&[checkout()]));
        assert!(asked.starts_with("Which deployment should be restarted: checkout?"), "{asked}");
    }
}
