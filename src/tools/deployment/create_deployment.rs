use super::scale::MOST_REPLICAS;
use super::set_resources::Resources;
use crate::api::{ActionType, Operation, ResourceCategory};
use crate::cluster::{ImageReference, parse_image};
use crate::tools::pod_template::PodTemplate;
use crate::tools::{
    Expect, Found, FoundObject, KindQuery, ProposedStep, Scope, TargetQuery, Tool, ToolError, credentials, names,
    parameters::schema, parse,
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// A new Deployment.
pub(in crate::tools) struct CreateDeployment;

const ROLE: &str = "deployment";

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Parameters {
    /// The Deployment's name.
    name: Option<String>,
    /// The image to run: `nginx:1.27`.
    image: Option<String>,
    /// How many replicas; 1 when absent.
    replicas: Option<i64>,
    /// The port that the container listens on.
    port: Option<i64>,
    /// Environment variables. Nothing secret: they can be read by everybody who can read the Deployment.
    #[serde(default)]
    env: Vec<Variable>,
    /// CPU and memory.
    resources: Option<Resources>,
    /// The namespace, when the request names one.
    namespace: Option<String>,
    /// The environment, when the request names one: `production`, `staging`, `development`, `test`.
    environment: Option<String>,
}

/// An environment variable.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Variable {
    /// The variable's name.
    name: String,
    /// Its value.
    value: String,
}

/// Parameters that were checked.
struct Wanted<'p> {
    name: &'p str,
    image: ImageReference,
    replicas: i64,
}

impl Parameters {
    fn check(&self) -> Result<Wanted<'_>, ToolError> {
        let Some(name) = self.name.as_deref().map(str::trim).filter(|name| !name.is_empty()) else {
            return Err(ToolError::ask("What should the Deployment be called?"));
        };
        // A label takes the name too, and labels are shorter than names of Deployments may be.
        names::check_label("the Deployment's name", name)?;
        let Some(image) = self.image.as_deref().map(str::trim).filter(|image| !image.is_empty()) else {
            return Err(ToolError::ask(format!("Which image should {name} run? Say for example nginx:1.27.")));
        };
        let image = parse_image(image).map_err(|error| ToolError::invalid(error.to_string()))?;
        let replicas = self.replicas.unwrap_or(1);
        if !(0..=MOST_REPLICAS).contains(&replicas) {
            return Err(ToolError::invalid(format!("replicas must be between 0 and {MOST_REPLICAS}, got {replicas}")));
        }
        if let Some(port) = self.port.filter(|port| !(1..=65_535).contains(port)) {
            return Err(ToolError::invalid(format!("port must be between 1 and 65535, got {port}")));
        }
        for (index, variable) in self.env.iter().enumerate() {
            if variable.name.is_empty()
                || variable.name.contains('=')
                || variable.name.chars().any(|c| !c.is_ascii_graphic())
            {
                return Err(ToolError::invalid(format!(
                    "'{}' cannot be the name of an environment variable: write letters, digits and '_', as in LOG_LEVEL",
                    variable.name
                )));
            }
            if self.env[..index].iter().any(|earlier| earlier.name == variable.name) {
                return Err(ToolError::invalid(format!("the environment variable {} is given twice", variable.name)));
            }
        }
        if let Some(resources) = &self.resources {
            resources.check()?;
        }
        Ok(Wanted { name, image, replicas })
    }

    fn manifest(&self, wanted: &Wanted<'_>, namespace: Option<&str>) -> Value {
        let labels = json!({ "app.kubernetes.io/name": wanted.name });
        let mut metadata = json!({ "name": wanted.name, "labels": labels });
        if let Some(namespace) = namespace {
            metadata["namespace"] = json!(namespace);
        }
        let mut container = json!({
            "name": wanted.name,
            "image": wanted.image.to_string(),
            "securityContext": { "allowPrivilegeEscalation": false },
        });
        if let Some(port) = self.port {
            container["ports"] = json!([{ "containerPort": port, "protocol": "TCP" }]);
        }
        if !self.env.is_empty() {
            container["env"] = self.env.iter().map(|v| json!({ "name": v.name, "value": v.value })).collect();
        }
        if let Some(resources) = self.resources.as_ref().filter(|resources| **resources != Resources::default()) {
            container["resources"] = resources.over(&json!({}));
        }
        json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": metadata,
            "spec": {
                "replicas": wanted.replicas,
                "selector": { "matchLabels": labels },
                "template": {
                    "metadata": { "labels": labels },
                    "spec": {
                        "securityContext": { "seccompProfile": { "type": "RuntimeDefault" } },
                        "containers": [container],
                    },
                },
            },
        })
    }
}

impl Tool for CreateDeployment {
    fn name(&self) -> &'static str {
        "create_deployment"
    }

    fn category(&self) -> ResourceCategory {
        ResourceCategory::Deployment
    }

    fn action(&self) -> ActionType {
        ActionType::Create
    }

    fn description(&self) -> &'static str {
        "Creates a Deployment that runs an image, with replicas, a port, environment variables and resources. To make it \
         reachable, use expose after it."
    }

    fn examples(&self) -> &'static [&'static str] {
        &[
            "deploy nginx:1.27 as web with 3 replicas in staging",
            "create a deployment api with image registry.example/api:v1 on port 8080",
        ]
    }

    fn parameters(&self) -> schemars::Schema {
        schema::<Parameters>()
    }

    fn targets(&self, parameters: &Map<String, Value>) -> Result<Vec<TargetQuery>, ToolError> {
        let parameters: Parameters = parse(self.name(), parameters)?;
        let name = parameters.check()?.name.to_owned();
        let scope = Scope {
            namespace: parameters.namespace.clone(),
            environment: parameters.environment.clone(),
            all_namespaces: false,
        };
        Ok(vec![TargetQuery {
            role: ROLE,
            kind: KindQuery::AnyOf(&["deployments.apps"]),
            name: Some(name),
            scope,
            selector: None,
            expect: Expect::Fresh,
            mutates: true,
        }])
    }

    fn compile(&self, parameters: &Map<String, Value>, found: &Found) -> Result<Vec<ProposedStep>, ToolError> {
        let parameters: Parameters = parse(self.name(), parameters)?;
        let wanted = parameters.check()?;
        if let Some(existing) = found.one(ROLE) {
            return Err(already_exists(existing, &wanted));
        }
        let namespace = found.namespace(ROLE).or(parameters.namespace.as_deref());
        let mut warnings = Vec::new();
        if wanted.image.is_floating() {
            let image = &wanted.image;
            warnings.push(format!("{image} names no fixed version: what runs may change whenever a pod starts."));
        }
        for variable in parameters.env.iter().filter(|v| credentials::looks_like_credential(&v.name, &v.value)) {
            warnings.push(format!(
                "The variable {} looks like a credential and would be readable by many: put it in a Secret.",
                variable.name
            ));
        }
        let place = namespace.map(|namespace| format!("{namespace}/")).unwrap_or_default();
        let replicas = if wanted.replicas == 1 { "replica" } else { "replicas" };
        Ok(vec![ProposedStep {
            title: format!(
                "Create Deployment {place}{} with {} {replicas} of {}",
                wanted.name, wanted.replicas, wanted.image
            ),
            operation: Operation::apply(parameters.manifest(&wanted, namespace)),
            warnings,
            ..ProposedStep::default()
        }])
    }
}

fn already_exists(existing: &FoundObject, wanted: &Wanted<'_>) -> ToolError {
    let images: Vec<_> = PodTemplate::of(&existing.object)
        .map(|template| template.containers().iter().map(|container| container.image().to_owned()).collect())
        .unwrap_or_default();
    ToolError::Ask {
        question: format!(
            "{} already exists and runs {}: update its image to {} instead, or create one of another name?",
            existing.reference,
            images.join(", "),
            wanted.image
        ),
        choices: vec![
            format!("set the image of {} to {}", wanted.name, wanted.image),
            format!("create deployment {}-2 with image {}", wanted.name, wanted.image),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::fixtures::{compile, deployment, error, in_namespace, map, step, with};

    fn web() -> Value {
        json!({ "name": "web", "image": "nginx:1.27" })
    }

    fn but(field: &str, value: Value) -> Value {
        let mut parameters = web();
        parameters[field] = value;
        parameters
    }

    #[test]
    fn the_whole_deployment_is_applied() {
        let parameters = json!({
            "name": "web", "image": "nginx:1.27", "replicas": 3, "port": 8080,
            "env": [{ "name": "LOG_LEVEL", "value": "debug" }],
            "resources": { "cpuRequest": "100m", "memoryLimit": "256Mi" },
        });
        let step = step(&CreateDeployment, parameters, &in_namespace(ROLE, "staging"));
        insta::assert_snapshot!(step.title, @"Create Deployment staging/web with 3 replicas of nginx:1.27");
        assert!(step.warnings.is_empty());
        insta::assert_json_snapshot!(step.operation.apply.unwrap().manifest);
    }

    #[test]
    fn little_is_needed_and_little_is_claimed() {
        let step = step(&CreateDeployment, web(), &in_namespace(ROLE, "staging"));
        let manifest = step.operation.apply.unwrap().manifest;
        assert_eq!(manifest["spec"]["replicas"], 1);
        let container = &manifest["spec"]["template"]["spec"]["containers"][0];
        for absent in ["ports", "env", "resources"] {
            assert_eq!(container.get(absent), None, "{absent}");
        }
    }

    #[test]
    fn one_that_exists_is_a_question_with_what_could_be_meant() {
        let existing = with(in_namespace(ROLE, "staging"), ROLE, &[deployment("staging", "web", "nginx:1.25")]);
        let ToolError::Ask { question, choices } = compile(&CreateDeployment, web(), &existing).unwrap_err() else {
            panic!("no question")
        };
        insta::assert_snapshot!(question,
            @"Deployment staging/web already exists and runs nginx:1.25: update its image to nginx:1.27 instead, or create one of another name?");
        assert_eq!(choices, ["set the image of web to nginx:1.27", "create deployment web-2 with image nginx:1.27"]);
    }

    #[test]
    fn what_is_missing_is_asked_for() {
        let error = |parameters| CreateDeployment.targets(&map(parameters)).unwrap_err().to_string();
        insta::assert_snapshot!(error(json!({ "image": "nginx:1.27" })), @"What should the Deployment be called?");
        insta::assert_snapshot!(error(json!({ "name": "web" })), @"Which image should web run? Say for example nginx:1.27.");
    }

    #[test]
    fn what_is_wrong_is_refused() {
        let error = |field, value| error(&CreateDeployment, but(field, value), &in_namespace(ROLE, "staging"));
        insta::assert_snapshot!(error("image", json!("NGINX")), @"'NGINX' is not an image: the repository must be in lower case, 'nginx' instead of 'NGINX'");
        insta::assert_snapshot!(error("replicas", json!(-1)), @"replicas must be between 0 and 10000, got -1");
        insta::assert_snapshot!(error("port", json!(70000)), @"port must be between 1 and 65535, got 70000");
        insta::assert_snapshot!(error("env", json!([{ "name": "A=B", "value": "" }])),
            @"'A=B' cannot be the name of an environment variable: write letters, digits and '_', as in LOG_LEVEL");
        insta::assert_snapshot!(error("env", json!([{ "name": "A", "value": "1" }, { "name": "A", "value": "2" }])),
            @"the environment variable A is given twice");
        assert!(error("name", json!("Web")).ends_with("('web' would do)"));
        assert!(error("resources", json!({ "cpuLimit": "x" })).starts_with("cpuLimit must be"));
    }

    #[test]
    fn floating_images_and_credentials_are_warned_about_without_showing_them() {
        let parameters = json!({
            "name": "web", "image": "nginx", "env": [{ "name": "DB_PASSWORD", "value": "hunter2" }]
        });
        let warnings = step(&CreateDeployment, parameters, &in_namespace(ROLE, "staging")).warnings;
        assert_eq!(warnings.len(), 2);
        insta::assert_snapshot!(warnings[1],
            @"The variable DB_PASSWORD looks like a credential and would be readable by many: put it in a Secret.");
    }

    #[test]
    fn the_place_is_looked_up_as_free() {
        let queries = CreateDeployment.targets(&map(but("environment", json!("staging")))).unwrap();
        assert_eq!(queries[0].expect, Expect::Fresh);
        assert_eq!(queries[0].scope.environment.as_deref(), Some("staging"));
    }
}
