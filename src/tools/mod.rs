//! The tools: everything that countersign can do, one file each.
//!
//! A tool turns typed parameters into steps, and a step is one of six operations: no tool has a way of its own to reach
//! the cluster. What a tool needs to know of the cluster it asks for in [`Tool::targets`]; the answers reach
//! [`Tool::compile`] as values, so that compiling is a pure function.

mod target;

pub use target::{Expect, Found, FoundObject, KindQuery, Scope, Target, TargetQuery};

use crate::api::{ActionType, Operation, ResourceCategory, Verify};
use kube::core::Duration;
use serde_json::{Map, Value};

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
