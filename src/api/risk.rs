use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How much harm an operation could do, ordered from `low` to `critical`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[serde(rename_all = "lowercase")]
pub enum RiskLevel {
    /// Reads, or changes that nobody would notice and that undo fully.
    #[default]
    Low,
    /// Changes outside production that undo fully.
    Medium,
    /// Changes in production, or a loss that can be put back.
    High,
    /// Data is lost, or the security of the cluster changes.
    Critical,
}

impl RiskLevel {
    /// All levels, lowest first.
    pub const ALL: [Self; 4] = [Self::Low, Self::Medium, Self::High, Self::Critical];

    /// The name as it stands in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

impl fmt::Display for RiskLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A risk level with the reasons that led to it.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Risk {
    /// The level: the highest that any reason asks for.
    pub level: RiskLevel,
    /// Why, one sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
}
