use crate::api::{ActionType, Operation, ResourceCategory};
use crate::tools::{
    Expect, Found, KindQuery, ProposedStep, Scope, TargetQuery, Tool, ToolError, credentials, names,
    parameters::schema, parse,
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// A new ConfigMap.
pub(in crate::tools) struct CreateConfigMap;

const ROLE: &str = "configmap";
/// What the API server stores at most in one ConfigMap.
const MOST_BYTES: usize = 1024 * 1024;

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Parameters {
    /// The ConfigMap's name.
    name: Option<String>,
    /// The namespace, when the request names one.
    namespace: Option<String>,
    /// The environment, when the request names one: `production`, `staging`, `development`, `test`.
    environment: Option<String>,
    /// The settings. Nothing secret: they can be read by everybody who can read the ConfigMap.
    #[serde(default)]
    data: Vec<Setting>,
}

/// One setting.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Setting {
    /// Its key.
    key: String,
    /// Its value.
    value: String,
}

impl Parameters {
    fn check(&self) -> Result<&str, ToolError> {
        let Some(name) = self.name.as_deref().map(str::trim).filter(|name| !name.is_empty()) else {
            return Err(ToolError::ask("What should the ConfigMap be called?"));
        };
        names::check_subdomain("the ConfigMap's name", name)?;
        if self.data.is_empty() {
            return Err(ToolError::ask(format!(
                "Which settings should ConfigMap {name} hold? Say keys and values, such as LOG_LEVEL=debug."
            )));
        }
        for (index, setting) in self.data.iter().enumerate() {
            let key = &setting.key;
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            if key.is_empty() || key.len() > 253 || !key.chars().all(plain) || key == "." || key.starts_with("..") {
                return Err(ToolError::invalid(format!(
                    "a key of a ConfigMap consists of 1 to 253 letters, digits, '-', '_' and '.', got '{key}'"
                )));
            }
            if self.data[..index].iter().any(|earlier| earlier.key == *key) {
                return Err(ToolError::invalid(format!("the key {key} is given twice")));
            }
        }
        let bytes: usize = self.data.iter().map(|setting| setting.key.len() + setting.value.len()).sum();
        if bytes > MOST_BYTES {
            return Err(ToolError::invalid(format!("a ConfigMap holds at most 1 MiB, got {bytes} bytes")));
        }
        Ok(name)
    }
}

impl Tool for CreateConfigMap {
    fn name(&self) -> &'static str {
        "create_configmap"
    }

    fn category(&self) -> ResourceCategory {
        ResourceCategory::Deployment
    }

    fn action(&self) -> ActionType {
        ActionType::Create
    }

    fn description(&self) -> &'static str {
        "Creates a ConfigMap: settings by key and value that pods can read. Nothing secret belongs in it."
    }

    fn examples(&self) -> &'static [&'static str] {
        &["create a configmap app-settings with LOG_LEVEL=debug and REGION=eu in staging"]
    }

    fn parameters(&self) -> schemars::Schema {
        schema::<Parameters>()
    }

    fn targets(&self, parameters: &Map<String, Value>) -> Result<Vec<TargetQuery>, ToolError> {
        let parameters: Parameters = parse(self.name(), parameters)?;
        let name = parameters.check()?.to_owned();
        let scope = Scope {
            namespace: parameters.namespace.clone(),
            environment: parameters.environment.clone(),
            all_namespaces: false,
        };
        Ok(vec![TargetQuery {
            role: ROLE,
            kind: KindQuery::AnyOf(&["configmaps"]),
            name: Some(name),
            scope,
            selector: None,
            expect: Expect::Fresh,
            mutates: true,
        }])
    }

    fn compile(&self, parameters: &Map<String, Value>, found: &Found) -> Result<Vec<ProposedStep>, ToolError> {
        let parameters: Parameters = parse(self.name(), parameters)?;
        let name = parameters.check()?;
        let data: Map<String, Value> =
            parameters.data.iter().map(|setting| (setting.key.clone(), json!(setting.value))).collect();
        if let Some(existing) = found.one(ROLE) {
            if existing.object.get("data").and_then(Value::as_object) == Some(&data) {
                return Ok(Vec::new());
            }
            let choices = vec![format!("create configmap {name}-2"), format!("delete configmap {name}")];
            return Err(ToolError::Ask {
                question: format!(
                    "{} already exists with other settings: create one of another name, or delete this one first?",
                    existing.reference
                ),
                choices,
            });
        }
        let namespace = found.namespace(ROLE).or(parameters.namespace.as_deref());
        let mut metadata = json!({ "name": name });
        if let Some(namespace) = namespace {
            metadata["namespace"] = json!(namespace);
        }
        let warnings = parameters
            .data
            .iter()
            .filter(|setting| credentials::looks_like_credential(&setting.key, &setting.value))
            .map(|setting| {
                format!("The value of {} looks like a credential: a Secret is the place for it.", setting.key)
            })
            .collect();
        let place = namespace.map(|namespace| format!("{namespace}/")).unwrap_or_default();
        let keys: Vec<_> = parameters.data.iter().map(|setting| setting.key.as_str()).collect();
        Ok(vec![ProposedStep {
            title: format!("Create ConfigMap {place}{name} with {}", keys.join(", ")),
            operation: Operation::apply(
                json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data }),
            ),
            warnings,
            ..ProposedStep::default()
        }])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::fixtures::{compile, error, in_namespace, map, step, with};

    fn settings(data: &Value) -> Value {
        json!({ "name": "settings", "data": data })
    }

    fn debug() -> Value {
        settings(&json!([{ "key": "LOG_LEVEL", "value": "debug" }]))
    }

    #[test]
    fn the_settings_are_applied() {
        let step = step(&CreateConfigMap, debug(), &in_namespace(ROLE, "staging"));
        insta::assert_snapshot!(step.title, @"Create ConfigMap staging/settings with LOG_LEVEL");
        assert_eq!(
            step.operation,
            Operation::apply(json!({
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": { "name": "settings", "namespace": "staging" },
                "data": { "LOG_LEVEL": "debug" },
            }))
        );
        assert!(step.warnings.is_empty());
    }

    #[test]
    fn credentials_are_warned_about_without_showing_them() {
        let step = step(
            &CreateConfigMap,
            settings(&json!([{ "key": "password", "value": "hunter2" }])),
            &in_namespace(ROLE, "staging"),
        );
        insta::assert_snapshot!(step.warnings[0],
            @"The value of password looks like a credential: a Secret is the place for it.");
        assert!(!step.title.contains("hunter2"));
    }

    #[test]
    fn one_that_exists_needs_no_step_or_a_question() {
        let existing = |level: &str| {
            let object = json!({
                "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "settings", "namespace": "staging" },
                "data": { "LOG_LEVEL": level },
            });
            with(in_namespace(ROLE, "staging"), ROLE, &[object])
        };
        assert_eq!(compile(&CreateConfigMap, debug(), &existing("debug")), Ok(vec![]));
        insta::assert_snapshot!(error(&CreateConfigMap, debug(), &existing("info")),
            @"ConfigMap staging/settings already exists with other settings: create one of another name, or delete this one first?");
    }

    #[test]
    fn what_is_missing_or_wrong_is_told() {
        let error = |parameters| CreateConfigMap.targets(&map(parameters)).unwrap_err().to_string();
        insta::assert_snapshot!(error(json!({})), @"What should the ConfigMap be called?");
        insta::assert_snapshot!(error(settings(&json!([]))),
            @"Which settings should ConfigMap settings hold? Say keys and values, such as LOG_LEVEL=debug.");
        insta::assert_snapshot!(error(settings(&json!([{ "key": "a b", "value": "" }]))),
            @"a key of a ConfigMap consists of 1 to 253 letters, digits, '-', '_' and '.', got 'a b'");
        insta::assert_snapshot!(error(settings(&json!([{ "key": "a", "value": "" }, { "key": "a", "value": "" }]))),
            @"the key a is given twice");
        insta::assert_snapshot!(error(settings(&json!([{ "key": "a", "value": "x".repeat(MOST_BYTES) }]))),
            @"a ConfigMap holds at most 1 MiB, got 1048577 bytes");
        assert!(error(json!({ "name": "My Settings", "data": [] })).ends_with("('my-settings' would do)"));
    }
}
