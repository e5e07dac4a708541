//! The draft: the one form in which every planner, built in or a language model, says what it would do.
//!
//! A draft is only data. It names tools and their parameters; what those mean for the live cluster is decided by
//! deterministic code further down.

use crate::api::Intent;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What a planner proposes for one request.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Draft {
    /// What the request is after.
    pub intent: Intent,
    /// How sure the planner is, from 0 to 1.
    pub confidence: f64,
    /// The request in one sentence, as it was understood, in the language of the request.
    pub interpretation: String,
    /// The tools to use, in the order of the request.
    #[serde(default)]
    pub tool_calls: Vec<ToolCall>,
    /// What must be asked before anything can be planned.
    #[serde(default)]
    pub clarifying_questions: Vec<String>,
    /// Requests like this one that would be understood.
    #[serde(default)]
    pub alternatives: Vec<String>,
    /// What whoever asked should bear in mind.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Language of the request (BCP 47), for example `en`.
    #[serde(default)]
    pub language: Option<String>,
}

/// One use of one tool.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ToolCall {
    /// Identifier within the draft, for example `c1`.
    pub id: String,
    /// Name of a registered tool.
    pub tool: String,
    /// The tool's parameters, by its schema.
    #[serde(default)]
    pub parameters: Map<String, Value>,
    /// Identifiers of calls that must be completed first.
    #[serde(default)]
    pub depends_on: Vec<String>,
    /// Why this call serves the request, in one sentence.
    #[serde(default)]
    pub why: String,
}

impl Draft {
    /// A draft that only asks.
    #[must_use]
    pub fn question(intent: Intent, interpretation: impl Into<String>, question: impl Into<String>) -> Self {
        Self {
            intent,
            confidence: 0.4,
            interpretation: interpretation.into(),
            tool_calls: Vec::new(),
            clarifying_questions: vec![question.into()],
            alternatives: Vec::new(),
            warnings: Vec::new(),
            language: None,
        }
    }
}
