//! The tools: everything that countersign can do, one file each.
//!
//! A tool turns typed parameters into steps, and a step is one of six operations: no tool has a way of its own to reach
//! the cluster. What a tool needs to know of the cluster it asks for in [`Tool::targets`]; the answers reach
//! [`Tool::compile`] as values, so that compiling is a pure function.

mod credentials;
mod draft_schema;
mod environments;
#[cfg(test)]
mod fixtures;
mod kind_groups;
mod names;
mod parameters;
mod pod_template;
mod quantity;
mod subject;
mod target;

mod deployment {
    pub(super) mod create_configmap;
    pub(super) mod create_deployment;
    pub(super) mod restart;
    pub(super) mod scale;
    pub(super) mod set_image;
    pub(super) mod set_resources;
    pub(super) mod undo_rollout;
}
mod diagnosis {
    pub(super) mod describe;
    pub(super) mod list;
    pub(super) mod wait;
}
mod infrastructure {
    pub(super) mod create_namespace;
    pub(super) mod delete;
}
mod networking {
    pub(super) mod expose;
}

pub use draft_schema::draft_schema;
pub use environments::{environment, environments, namespace_environment};
pub use kind_groups::{KindGroup, glob, kind_group, kind_groups};
pub use parameters::parse;
pub use target::{Expect, Found, FoundObject, KindQuery, Scope, Target, TargetQuery};

use crate::api::{ActionType, Operation, ResourceCategory, Verify};
use kube::core::Duration;
use serde_json::{Map, Value};

/// Every tool, in the order in which they are shown.
static REGISTRY: &[&dyn Tool] = &[
    &deployment::create_deployment::CreateDeployment,
    &deployment::scale::Scale,
    &deployment::set_image::SetImage,
    &deployment::set_resources::SetResources,
    &deployment::restart::Restart,
    &deployment::undo_rollout::UndoRollout,
    &deployment::create_configmap::CreateConfigMap,
    &networking::expose::Expose,
    &infrastructure::create_namespace::CreateNamespace,
    &infrastructure::delete::Delete,
    &diagnosis::list::List,
    &diagnosis::describe::Describe,
    &diagnosis::wait::Wait,
];

/// Every tool, in the order in which they are shown.
#[must_use]
pub fn registry() -> &'static [&'static dyn Tool] {
    REGISTRY
}

/// The tool of that name.
#[must_use]
pub fn tool(name: &str) -> Option<&'static dyn Tool> {
    registry().iter().copied().find(|tool| tool.name() == name)
}

/// The name of the tool that is most like `name`, if any is like it.
#[must_use]
pub fn nearest_tool(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    registry()
        .iter()
        .map(|tool| (strsim::jaro_winkler(&name, tool.name()), tool.name()))
        .filter(|(score, _)| *score > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

/// One thing that countersign can do.
pub trait Tool: Send + Sync {
    /// The name that drafts use, for example `scale`.
    fn name(&self) -> &'static str;
    /// What kind of thing it is about.
    fn category(&self) -> ResourceCategory;
    /// What kind of change it makes.
    fn action(&self) -> ActionType;
    /// One or two sentences for planners and people.
    fn description(&self) -> &'static str;
    /// Requests in plain words that this tool serves; shown as suggestions.
    fn examples(&self) -> &'static [&'static str];
    /// Whether it only reads.
    fn read_only(&self) -> bool {
        false
    }
    /// JSON Schema of the parameters.
    fn parameters(&self) -> schemars::Schema;
    /// What has to be looked up in the cluster before compiling.
    ///
    /// # Errors
    /// [`ToolError`] when the parameters do not fit the schema or contradict each other.
    fn targets(&self, parameters: &Map<String, Value>) -> Result<Vec<TargetQuery>, ToolError>;
    /// The steps, from the parameters and what was found. Pure: same input, same steps.
    ///
    /// No steps mean that nothing has to be done: what was asked already is so, or, for a tool that only reads, there is
    /// nothing of the kind.
    ///
    /// # Errors
    /// [`ToolError`] when something is missing, impossible or has to be asked.
    fn compile(&self, parameters: &Map<String, Value>, found: &Found) -> Result<Vec<ProposedStep>, ToolError>;
}

/// A step as a tool proposes it, before the cluster was asked what it would change.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProposedStep {
    /// In one line: `Scale Deployment staging/checkout from 3 to 5 replicas`.
    pub title: String,
    /// What is done.
    pub operation: Operation,
    /// What must hold after; the default for the operation and kind when absent.
    pub verify: Option<Verify>,
    /// The longest that it may take; the default when absent.
    pub timeout: Option<Duration>,
    /// Positions (within the same call's steps) of steps that come first.
    pub after: Vec<usize>,
    /// What somebody should know.
    pub warnings: Vec<String>,
}

/// Why a tool cannot make steps.
#[derive(Clone, Debug, thiserror::Error, PartialEq)]
pub enum ToolError {
    /// A parameter is missing or has to be chosen: whoever asked can answer.
    #[error("{question}")]
    Ask {
        /// The question, naming the choices.
        question: String,
        /// The choices, as they could be typed.
        choices: Vec<String>,
    },
    /// The parameters are wrong in themselves.
    #[error("{0}")]
    Invalid(String),
}

impl ToolError {
    /// A question without fixed choices.
    #[must_use]
    pub fn ask(question: impl Into<String>) -> Self {
        Self::Ask { question: question.into(), choices: Vec::new() }
    }

    /// Parameters that are wrong in themselves.
    #[must_use]
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid(message.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_plain() {
        let names: BTreeSet<_> = registry().iter().map(|tool| tool.name()).collect();
        assert_eq!(names.len(), registry().len());
        let plain = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        assert!(names.iter().all(|name| plain(name)), "{names:?}");
    }

    #[test]
    fn every_tool_says_what_it_is_for() {
        for tool in registry() {
            assert!(tool.description().ends_with('.'), "{}", tool.name());
            assert!(!tool.examples().is_empty(), "{}", tool.name());
            assert!(tool.examples().iter().all(|example| !example.trim().is_empty()), "{}", tool.name());
        }
    }

    #[test]
    fn every_parameter_is_documented() {
        for tool in registry() {
            let schema = tool.parameters().to_value();
            assert_eq!(schema["additionalProperties"], false, "{}", tool.name());
            for (name, property) in schema["properties"].as_object().unwrap() {
                assert!(property.get("description").is_some(), "{}: {name}", tool.name());
            }
        }
    }

    #[test]
    fn calls_without_parameters_ask_and_unknown_parameters_are_refused_by_every_tool() {
        let unknown = fixtures::map(serde_json::json!({ "colour": "blue" }));
        for tool in registry() {
            let asked = tool.targets(&Map::new()).and_then(|_| tool.compile(&Map::new(), &Found::default()));
            assert!(matches!(asked, Err(ToolError::Ask { .. })), "{}: {asked:?}", tool.name());
            let refused = tool.targets(&unknown).unwrap_err();
            assert!(matches!(&refused, ToolError::Invalid(reason) if reason.contains("colour")), "{refused}");
        }
    }

    #[test]
    fn tools_are_found_by_name_and_nearly() {
        assert_eq!(tool("scale").map(Tool::name), Some("scale"));
        assert!(tool("scal").is_none());
        assert_eq!(nearest_tool("scale_deployment"), Some("scale"));
        assert_eq!(nearest_tool("set-image"), Some("set_image"));
        assert_eq!(nearest_tool("bake_cake"), None);
    }

    #[test]
    fn only_reads_are_marked_so() {
        let reading: Vec<_> = registry().iter().filter(|tool| tool.read_only()).map(|tool| tool.name()).collect();
        assert_eq!(reading, ["list", "describe"]);
    }
}
