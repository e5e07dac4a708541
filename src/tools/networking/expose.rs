use crate::api::{ActionType, Operation, ResourceCategory};
use crate::tools::pod_template::PodTemplate;
use crate::tools::{
    Expect, Found, FoundObject, KindQuery, ProposedStep, Target, TargetQuery, Tool, ToolError, names,
    parameters::schema, parse, subject,
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// A Service in front of a workload.
pub(in crate::tools) struct Expose;

const DEFAULT_KINDS: &[&str] = &["deployments.apps", "statefulsets.apps", "daemonsets.apps"];
const SERVICE: &str = "service";

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Parameters {
    /// The workload that serves.
    #[serde(default)]
    target: Target,
    /// The port of the Service; the only port of the containers when absent.
    port: Option<i64>,
    /// The port that the containers listen on, when it differs.
    target_port: Option<i64>,
    /// Who reaches it: ClusterIP within the cluster (the default), NodePort and LoadBalancer from outside too.
    #[serde(rename = "type")]
    service_type: Option<ServiceType>,
    /// The Service's name; the workload's when absent.
    name: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
enum ServiceType {
    #[default]
    ClusterIP,
    NodePort,
    LoadBalancer,
}

impl ServiceType {
    const fn as_str(self) -> &'static str {
        match self {
            Self::ClusterIP => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
        }
    }
}

impl Parameters {
    fn check(&self) -> Result<(), ToolError> {
        for (parameter, port) in [("port", self.port), ("targetPort", self.target_port)] {
            if let Some(port) = port.filter(|port| !(1..=65_535).contains(port)) {
                return Err(ToolError::invalid(format!("{parameter} must be between 1 and 65535, got {port}")));
            }
        }
        self.name.as_deref().map_or(Ok(()), |name| names::check_service("the Service's name", name))
    }

    fn service_type(&self) -> ServiceType {
        self.service_type.unwrap_or_default()
    }

    /// Port of the Service and port of the containers.
    fn ports(&self, subject: &FoundObject, template: &PodTemplate<'_>) -> Result<(i64, i64), ToolError> {
        let mut declared: Vec<i64> = template.ports().into_iter().map(|(number, _)| number).collect();
        declared.dedup();
        let reference = &subject.reference;
        match (self.port, self.target_port, declared.as_slice()) {
            (Some(port), Some(target), _) => Ok((port, target)),
            (None, Some(target), _) => Ok((target, target)),
            (Some(port), None, declared) if declared.contains(&port) => Ok((port, port)),
            (Some(port), None, [only]) => Ok((port, *only)),
            (Some(port), None, []) => Ok((port, port)),
            (None, None, [only]) => Ok((*only, *only)),
            (None, None, []) => Err(ToolError::ask(format!(
                "{reference} does not say which port it listens on. Which port should be exposed?"
            ))),
            (_, None, several) => {
                let choices: Vec<_> = several.iter().map(ToString::to_string).collect();
                let question = format!("{reference} listens on the ports {}. Which one is meant?", choices.join(", "));
                Err(ToolError::Ask { question, choices })
            }
        }
    }
}

impl Tool for Expose {
    fn name(&self) -> &'static str {
        "expose"
    }

    fn category(&self) -> ResourceCategory {
        ResourceCategory::Networking
    }

    fn action(&self) -> ActionType {
        ActionType::Create
    }

    fn description(&self) -> &'static str {
        "Makes a workload reachable under one name by a Service in front of its pods: within the cluster, or from outside \
         by NodePort or LoadBalancer."
    }

    fn examples(&self) -> &'static [&'static str] {
        &["expose checkout on port 80 in staging", "make checkout reachable from outside with a load balancer"]
    }

    fn parameters(&self) -> schemars::Schema {
        schema::<Parameters>()
    }

    fn targets(&self, parameters: &Map<String, Value>) -> Result<Vec<TargetQuery>, ToolError> {
        let parameters: Parameters = parse(self.name(), parameters)?;
        parameters.check()?;
        let mut queries = vec![subject::query(&parameters.target, DEFAULT_KINDS, true)];
        // Services of that name are told apart by namespace in `compile`: the workload's decides.
        if let Some(name) = parameters.name.as_ref().or(parameters.target.name.as_ref()) {
            queries.push(TargetQuery {
                role: SERVICE,
                kind: KindQuery::AnyOf(&["services"]),
                name: Some(name.clone()),
                scope: parameters.target.scope(),
                selector: None,
                expect: Expect::Any,
                mutates: false,
            });
        }
        Ok(queries)
    }

    fn compile(&self, parameters: &Map<String, Value>, found: &Found) -> Result<Vec<ProposedStep>, ToolError> {
        let parameters: Parameters = parse(self.name(), parameters)?;
        parameters.check()?;
        let subjects = subject::subjects(&parameters.target, found, "exposed")?;
        if let (Some(name), true) = (&parameters.name, subjects.len() > 1) {
            return Err(ToolError::invalid(format!(
                "{} workloads cannot share the Service name '{name}': leave it out, or expose them one by one",
                subjects.len()
            )));
        }
        let steps: Result<Vec<_>, _> =
            subjects.iter().map(|subject| step(subject, &parameters, found.all(SERVICE))).collect();
        Ok(steps?.into_iter().flatten().collect())
    }
}

/// The labels by which a Service finds the workload's pods: those of its selector, which every version of the pods
/// carries; those of the pods themselves where there is none.
fn pod_labels(object: &Value, template: &PodTemplate<'_>) -> Option<Map<String, Value>> {
    [object.pointer("/spec/selector/matchLabels"), template.value.pointer("/metadata/labels")]
        .into_iter()
        .filter_map(|labels| labels?.as_object().cloned())
        .find(|labels| !labels.is_empty())
}

fn step(
    subject: &FoundObject,
    parameters: &Parameters,
    services: &[FoundObject],
) -> Result<Option<ProposedStep>, ToolError> {
    let reference = &subject.reference;
    let template = PodTemplate::of(&subject.object)
        .ok_or_else(|| ToolError::invalid(format!("{reference} has no containers, so it cannot be exposed")))?;
    let labels = pod_labels(&subject.object, &template).ok_or_else(|| {
        ToolError::invalid(format!("{reference} cannot be exposed: its pods have no labels to find them by"))
    })?;
    let (port, target_port) = parameters.ports(subject, &template)?;
    let service_type = parameters.service_type();
    let name = parameters.name.as_deref().unwrap_or(&reference.name);
    names::check_service("the Service's name", name)?;

    let existing = services
        .iter()
        .find(|service| service.reference.name == name && service.reference.namespace == reference.namespace);
    if let Some(existing) = existing {
        if serves(&existing.object, &labels, port, target_port, service_type) {
            return Ok(None);
        }
        return Err(ToolError::Ask {
            question: format!(
                "{} already exists and serves something else. Under which other name should {reference} be exposed?",
                existing.reference
            ),
            choices: vec![format!("{name}-2")],
        });
    }

    let mut metadata = json!({ "name": name, "labels": { "app.kubernetes.io/name": name } });
    if let Some(namespace) = &reference.namespace {
        metadata["namespace"] = json!(namespace);
    }
    let manifest = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {
            "type": service_type.as_str(),
            "selector": labels,
            "ports": [{ "port": port, "targetPort": target_port, "protocol": "TCP" }],
        },
    });
    let mut warnings = Vec::new();
    if service_type != ServiceType::ClusterIP {
        warnings.push(format!("{reference} becomes reachable from outside the cluster ({}).", service_type.as_str()));
    }
    let place = reference.namespace.as_ref().map(|namespace| format!("{namespace}/")).unwrap_or_default();
    let onward = if port == target_port { String::new() } else { format!(" to {target_port}") };
    Ok(Some(ProposedStep {
        title: format!(
            "Expose {reference} as Service {place}{name} on port {port}{onward} ({})",
            service_type.as_str()
        ),
        operation: Operation::apply(manifest),
        warnings,
        ..ProposedStep::default()
    }))
}

/// Whether a Service already is what was asked for.
fn serves(service: &Value, labels: &Map<String, Value>, port: i64, target_port: i64, wanted: ServiceType) -> bool {
    let number = |entry: &Value, field: &str| entry.get(field).and_then(Value::as_i64);
    let ports = service.pointer("/spec/ports").and_then(Value::as_array);
    let same_port = ports.is_some_and(|ports| {
        ports.iter().any(|entry| {
            number(entry, "port") == Some(port) && number(entry, "targetPort").unwrap_or(port) == target_port
        })
    });
    let service_type = service.pointer("/spec/type").and_then(Value::as_str).unwrap_or("ClusterIP");
    same_port
        && service.pointer("/spec/selector").and_then(Value::as_object) == Some(labels)
        && service_type == wanted.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::fixtures::{compile, deployment, error, found, map, step, with};

    fn checkout() -> Value {
        deployment("staging", "checkout", "nginx:1.27")
    }

    fn listening_on(ports: &Value) -> Value {
        let mut object = checkout();
        object["spec"]["template"]["spec"]["containers"][0]["ports"] = ports.clone();
        object
    }

    fn with_parameters(mut parameters: Value) -> Value {
        parameters["target"] = json!({ "name": "checkout" });
        parameters
    }

    #[test]
    fn the_service_selects_the_pods_by_labels_that_stay() {
        let step = step(&Expose, with_parameters(json!({})), &found(&[checkout()]));
        insta::assert_snapshot!(step.title,
            @"Expose Deployment staging/checkout as Service staging/checkout on port 8080 (ClusterIP)");
        insta::assert_json_snapshot!(step.operation.apply.unwrap().manifest);
        assert!(step.warnings.is_empty());
    }

    #[test]
    fn ports_are_those_asked_for_and_reach_the_only_one_that_listens() {
        let title = |parameters, object: Value| step(&Expose, with_parameters(parameters), &found(&[object])).title;
        insta::assert_snapshot!(title(json!({ "port": 80 }), checkout()),
            @"Expose Deployment staging/checkout as Service staging/checkout on port 80 to 8080 (ClusterIP)");
        let two = listening_on(&json!([{ "containerPort": 80 }, { "containerPort": 9090 }]));
        insta::assert_snapshot!(title(json!({ "port": 9090 }), two),
            @"Expose Deployment staging/checkout as Service staging/checkout on port 9090 (ClusterIP)");
        insta::assert_snapshot!(title(json!({ "port": 443, "targetPort": 8443, "name": "shop" }), checkout()),
            @"Expose Deployment staging/checkout as Service staging/shop on port 443 to 8443 (ClusterIP)");
    }

    #[test]
    fn an_unclear_port_is_a_question() {
        let two = listening_on(&json!([{ "containerPort": 80 }, { "containerPort": 9090 }]));
        insta::assert_snapshot!(error(&Expose, with_parameters(json!({})), &found(&[two])),
            @"Deployment staging/checkout listens on the ports 80, 9090. Which one is meant?");
        insta::assert_snapshot!(error(&Expose, with_parameters(json!({})), &found(&[listening_on(&json!([]))])),
            @"Deployment staging/checkout does not say which port it listens on. Which port should be exposed?");
    }

    #[test]
    fn reaching_it_from_outside_is_warned_about() {
        let step = step(&Expose, with_parameters(json!({ "type": "LoadBalancer" })), &found(&[checkout()]));
        insta::assert_snapshot!(step.warnings[0],
            @"Deployment staging/checkout becomes reachable from outside the cluster (LoadBalancer).");
    }

    #[test]
    fn a_service_that_exists_needs_no_step_or_another_name() {
        let own = step(&Expose, with_parameters(json!({})), &found(&[checkout()])).operation.apply.unwrap().manifest;
        let mut elsewhere = own.clone();
        elsewhere["metadata"]["namespace"] = json!("production");
        let mut other = own.clone();
        other["spec"]["selector"] = json!({ "app": "other" });
        let exposed = |service: &Value| {
            let found = with(found(&[checkout()]), SERVICE, std::slice::from_ref(service));
            compile(&Expose, with_parameters(json!({})), &found)
        };
        assert_eq!(exposed(&own), Ok(vec![]));
        assert_eq!(exposed(&elsewhere).unwrap().len(), 1);
        insta::assert_snapshot!(exposed(&other).unwrap_err(),
            @"Service staging/checkout already exists and serves something else. Under which other name should Deployment staging/checkout be exposed?");
    }

    #[test]
    fn what_is_wrong_is_refused() {
        let refused = |parameters| error(&Expose, with_parameters(parameters), &found(&[checkout()]));
        insta::assert_snapshot!(refused(json!({ "port": 0 })), @"port must be between 1 and 65535, got 0");
        insta::assert_snapshot!(refused(json!({ "targetPort": 65_536 })), @"targetPort must be between 1 and 65535, got 65536");
        insta::assert_snapshot!(refused(json!({ "type": "Public" })), @"expose: parameter 'type': unknown variant `Public`, expected one of `ClusterIP`, `NodePort`, `LoadBalancer`");
        insta::assert_snapshot!(refused(json!({ "name": "9lives" })), @"the Service's name must begin with a letter, got '9lives'");
        let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "checkout" } });
        insta::assert_snapshot!(error(&Expose, with_parameters(json!({})), &found(&[node])),
            @"Node checkout has no containers, so it cannot be exposed");
        let all = json!({ "target": { "kind": "deployment", "all": true }, "name": "shop" });
        insta::assert_snapshot!(error(&Expose, all, &found(&[checkout(), deployment("staging", "web", "x")])),
            @"2 workloads cannot share the Service name 'shop': leave it out, or expose them one by one");
    }

    #[test]
    fn services_of_that_name_are_looked_up() {
        let queries = Expose.targets(&map(with_parameters(json!({ "name": "shop" })))).unwrap();
        assert_eq!(
            (queries[1].role, queries[1].name.as_deref(), queries[1].expect),
            (SERVICE, Some("shop"), Expect::Any)
        );
        let all = map(json!({ "target": { "kind": "deployment", "all": true } }));
        assert_eq!(Expose.targets(&all).unwrap().len(), 1);
    }
}
