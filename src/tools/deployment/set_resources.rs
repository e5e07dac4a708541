use crate::api::{ActionType, Operation, ResourceCategory};
use crate::tools::pod_template::PodTemplate;
use crate::tools::quantity::{self, Quantity};
use crate::tools::{
    Found, FoundObject, ProposedStep, Target, TargetQuery, Tool, ToolError, parameters::schema, parse, subject,
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Other CPU and memory requests and limits for one container.
pub(in crate::tools) struct SetResources;

const DEFAULT_KINDS: &[&str] = &["deployments.apps", "statefulsets.apps", "daemonsets.apps", "cronjobs.batch"];

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Parameters {
    /// What runs the container.
    #[serde(default)]
    target: Target,
    /// Name of the container, when the request names one.
    container: Option<String>,
    /// CPU that is reserved: `250m` is a quarter of a core.
    cpu_request: Option<String>,
    /// The most CPU that may be used.
    cpu_limit: Option<String>,
    /// Memory that is reserved: `256Mi`.
    memory_request: Option<String>,
    /// The most memory that may be used.
    memory_limit: Option<String>,
}

/// CPU and memory requests and limits as a request gives them.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Resources {
    /// CPU that is reserved: `250m` is a quarter of a core.
    pub cpu_request: Option<String>,
    /// The most CPU that may be used.
    pub cpu_limit: Option<String>,
    /// Memory that is reserved: `256Mi`.
    pub memory_request: Option<String>,
    /// The most memory that may be used.
    pub memory_limit: Option<String>,
}

/// One of the four numbers.
struct Entry<'r> {
    parameter: &'static str,
    words: &'static str,
    /// `requests` or `limits`.
    section: &'static str,
    /// `cpu` or `memory`.
    resource: &'static str,
    value: &'r str,
}

impl Resources {
    fn entries(&self) -> Vec<Entry<'_>> {
        [
            ("cpuRequest", "CPU request", "requests", "cpu", &self.cpu_request),
            ("cpuLimit", "CPU limit", "limits", "cpu", &self.cpu_limit),
            ("memoryRequest", "memory request", "requests", "memory", &self.memory_request),
            ("memoryLimit", "memory limit", "limits", "memory", &self.memory_limit),
        ]
        .into_iter()
        .filter_map(|(parameter, words, section, resource, value)| {
            Some(Entry { parameter, words, section, resource, value: value.as_deref()? })
        })
        .collect()
    }

    /// Checks the quantities.
    ///
    /// # Errors
    /// [`ToolError::Invalid`] that names the parameter and what would be right.
    pub fn check(&self) -> Result<(), ToolError> {
        for entry in self.entries() {
            read(entry.resource, entry.parameter, entry.value)?;
        }
        check_limits(&self.over(&json!({})))
    }

    /// `resources` of a container with these numbers in place of its own.
    pub fn over(&self, resources: &Value) -> Value {
        let mut merged = if resources.is_object() { resources.clone() } else { json!({}) };
        for entry in self.entries() {
            merged[entry.section][entry.resource] = json!(entry.value);
        }
        merged
    }
}

fn read(resource: &str, parameter: &str, text: &str) -> Result<Quantity, ToolError> {
    if resource == "cpu" { quantity::cpu(parameter, text) } else { quantity::memory(parameter, text) }
}

/// Checks that no limit is below its request.
fn check_limits(resources: &Value) -> Result<(), ToolError> {
    for (resource, words) in [("cpu", "CPU"), ("memory", "memory")] {
        let text = |section: &str| Some(resources.get(section)?.get(resource)?.as_str()?.to_owned());
        let (Some(request), Some(limit)) = (text("requests"), text("limits")) else { continue };
        let pair = (Quantity::parse(&request), Quantity::parse(&limit));
        if matches!(pair, (Some(request), Some(limit)) if limit < request) {
            return Err(ToolError::invalid(format!(
                "the {words} limit ({limit}) must not be below the {words} request ({request})"
            )));
        }
    }
    Ok(())
}

impl Parameters {
    fn resources(&self) -> Result<Resources, ToolError> {
        let resources = Resources {
            cpu_request: self.cpu_request.clone(),
            cpu_limit: self.cpu_limit.clone(),
            memory_request: self.memory_request.clone(),
            memory_limit: self.memory_limit.clone(),
        };
        if resources == Resources::default() {
            return Err(ToolError::ask(format!(
                "How much CPU or memory should {} have? Say for example \"CPU request 250m, memory limit 512Mi\".",
                self.target.name.as_deref().unwrap_or("it")
            )));
        }
        resources.check()?;
        Ok(resources)
    }
}

impl Tool for SetResources {
    fn name(&self) -> &'static str {
        "set_resources"
    }

    fn category(&self) -> ResourceCategory {
        ResourceCategory::Deployment
    }

    fn action(&self) -> ActionType {
        ActionType::Update
    }

    fn description(&self) -> &'static str {
        "Changes how much CPU and memory a container of a workload reserves (request) and may use (limit)."
    }

    fn examples(&self) -> &'static [&'static str] {
        &[
            "set the memory limit of checkout to 512Mi",
            "give checkout a CPU request of 250m and a limit of 1 in staging",
        ]
    }

    fn parameters(&self) -> schemars::Schema {
        schema::<Parameters>()
    }

    fn targets(&self, parameters: &Map<String, Value>) -> Result<Vec<TargetQuery>, ToolError> {
        let parameters: Parameters = parse(self.name(), parameters)?;
        parameters.resources()?;
        Ok(vec![subject::query(&parameters.target, DEFAULT_KINDS, true)])
    }

    fn compile(&self, parameters: &Map<String, Value>, found: &Found) -> Result<Vec<ProposedStep>, ToolError> {
        let parameters: Parameters = parse(self.name(), parameters)?;
        let resources = parameters.resources()?;
        let subjects = subject::subjects(&parameters.target, found, "given other resources")?;
        let steps: Result<Vec<_>, _> =
            subjects.iter().map(|subject| step(subject, &resources, parameters.container.as_deref())).collect();
        Ok(steps?.into_iter().flatten().collect())
    }
}

fn step(subject: &FoundObject, resources: &Resources, named: Option<&str>) -> Result<Option<ProposedStep>, ToolError> {
    let reference = &subject.reference;
    let template = PodTemplate::of(&subject.object).ok_or_else(|| {
        ToolError::invalid(format!("{reference} has no containers, so there are no resources to change"))
    })?;
    let container = match named {
        Some(name) => template.container(name, reference)?,
        None => template.only_container(reference)?,
    };
    let current = container.value.get("resources").cloned().unwrap_or(Value::Null);
    check_limits(&resources.over(&current))
        .map_err(|error| ToolError::invalid(format!("container {} of {reference}: {error}", container.name())))?;

    let pointer = format!("{}/resources", container.pointer);
    let mut patch =
        vec![json!({ "op": "test", "path": format!("{}/name", container.pointer), "value": container.name() })];
    let mut after = current.clone();
    if !after.is_object() {
        patch.push(json!({ "op": "add", "path": pointer, "value": {} }));
        after = json!({});
    }
    let mut changes = Vec::new();
    for entry in resources.entries() {
        let before = current.get(entry.section).and_then(|section| section.get(entry.resource)).and_then(Value::as_str);
        if before.is_some_and(|before| Quantity::parse(before) == Quantity::parse(entry.value)) {
            continue;
        }
        if after.get(entry.section).is_none_or(|section| !section.is_object()) {
            patch.push(json!({ "op": "add", "path": format!("{pointer}/{}", entry.section), "value": {} }));
            after[entry.section] = json!({});
        }
        let path = format!("{pointer}/{}/{}", entry.section, entry.resource);
        patch.push(json!({ "op": "add", "path": path, "value": entry.value }));
        changes.push(format!("{} {} (was {})", entry.words, entry.value, before.unwrap_or("none")));
    }
    if changes.is_empty() {
        return Ok(None);
    }
    Ok(Some(ProposedStep {
        title: format!("Set {} of container {} in {reference}", changes.join(", "), container.name()),
        operation: Operation::json_patch(reference.clone(), Value::Array(patch)),
        ..ProposedStep::default()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::fixtures::{compile, deployment, error, found, map, patched, step};
    use proptest::prelude::*;

    const RESOURCES: &str = "/spec/template/spec/containers/0/resources";

    fn checkout(resources: &Value) -> Value {
        let mut object = deployment("staging", "checkout", "nginx:1.27");
        if !resources.is_null() {
            object["spec"]["template"]["spec"]["containers"][0]["resources"] = resources.clone();
        }
        object
    }

    fn named(mut parameters: Value) -> Value {
        parameters["target"] = json!({ "name": "checkout" });
        parameters
    }

    #[test]
    fn what_is_named_changes_and_the_rest_stays() {
        let before = json!({ "requests": { "cpu": "100m", "memory": "128Mi" }, "claims": [] });
        let object = checkout(&before);
        let parameters = named(json!({ "cpuRequest": "250m", "memoryLimit": "256Mi" }));
        let step = step(&SetResources, parameters, &found(std::slice::from_ref(&object)));
        insta::assert_snapshot!(step.title,
            @"Set CPU request 250m (was 100m), memory limit 256Mi (was none) of container web in Deployment staging/checkout");
        assert_eq!(
            patched(&object, &step).pointer(RESOURCES),
            Some(
                &json!({ "requests": { "cpu": "250m", "memory": "128Mi" }, "limits": { "memory": "256Mi" }, "claims": [] })
            )
        );
    }

    #[test]
    fn the_same_amount_in_other_words_needs_no_step() {
        let object = checkout(&json!({ "requests": { "cpu": "250m" } }));
        assert_eq!(compile(&SetResources, named(json!({ "cpuRequest": "0.25" })), &found(&[object])), Ok(vec![]));
    }

    #[test]
    fn limits_below_requests_are_refused_with_what_is_live_in_mind() {
        let object = checkout(&json!({ "requests": { "memory": "512Mi" } }));
        insta::assert_snapshot!(error(&SetResources, named(json!({ "memoryLimit": "256Mi" })), &found(&[object])),
            @"container web of Deployment staging/checkout: the memory limit (256Mi) must not be below the memory request (512Mi)");
        let both = map(named(json!({ "cpuRequest": "1", "cpuLimit": "500m" })));
        insta::assert_snapshot!(SetResources.targets(&both).unwrap_err(),
            @"the CPU limit (500m) must not be below the CPU request (1)");
    }

    #[test]
    fn missing_and_malformed_amounts_are_told() {
        let error = |parameters| SetResources.targets(&map(named(parameters))).unwrap_err().to_string();
        insta::assert_snapshot!(error(json!({})),
            @r#"How much CPU or memory should checkout have? Say for example "CPU request 250m, memory limit 512Mi"."#);
        insta::assert_snapshot!(error(json!({ "cpuLimit": "lots" })),
            @"cpuLimit must be an amount of CPU such as 250m (a quarter of a core) or 1.5, got 'lots'");
    }

    #[test]
    fn several_containers_are_a_question() {
        let mut object = checkout(&Value::Null);
        object["spec"]["template"]["spec"]["containers"] = json!([{ "name": "web" }, { "name": "proxy" }]);
        let mut parameters = named(json!({ "cpuLimit": "1" }));
        insta::assert_snapshot!(error(&SetResources, parameters.clone(), &found(std::slice::from_ref(&object))),
            @"Deployment staging/checkout has the containers web, proxy. Which one is meant?");
        parameters["container"] = json!("proxy");
        let step = step(&SetResources, parameters, &found(std::slice::from_ref(&object)));
        let after = patched(&object, &step);
        assert_eq!(
            after.pointer("/spec/template/spec/containers/1/resources"),
            Some(&json!({ "limits": { "cpu": "1" } }))
        );
    }

    proptest! {
        #[test]
        fn the_patch_gives_what_was_asked_whatever_was_there(
            before in prop_oneof![
                Just(Value::Null), Just(json!({})), Just(json!({ "limits": {} })),
                Just(json!({ "requests": { "cpu": "10m" }, "limits": { "memory": "900Gi" } })),
            ],
            request in 1u32..1000, extra in 0u32..1000,
        ) {
            let object = checkout(&before);
            let limit = format!("{}m", request + extra);
            let asked = json!({ "cpuRequest": format!("{request}m"), "cpuLimit": limit });
            for step in compile(&SetResources, named(asked.clone()), &found(std::slice::from_ref(&object))).unwrap() {
                let after = patched(&object, &step);
                let after = after.pointer(RESOURCES).unwrap();
                prop_assert_eq!(Quantity::parse(after["requests"]["cpu"].as_str().unwrap()), Quantity::parse(asked["cpuRequest"].as_str().unwrap()));
                prop_assert_eq!(&after["limits"]["cpu"], &asked["cpuLimit"]);
                prop_assert_eq!(after["limits"].get("memory"), before.get("limits").and_then(|l| l.get("memory")));
            }
        }
    }
}
