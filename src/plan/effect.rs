use crate::api::{FieldChange, ObjectRef, OperationKind};
use crate::cluster::ResourceKind;
use serde_json::Value;
use std::fmt;

/// What one step does to its object: the object before and the object after, as the API server's dry run shows them. Risk,
/// policies and estimates judge this, never the verb or the words of an author: the same change by apply, merge patch or JSON
/// patch has the same effect.
#[derive(Clone, PartialEq)]
pub struct StepEffect {
    /// Id of the step within its plan.
    pub step: String,
    /// What is done.
    pub operation: OperationKind,
    /// To which object.
    pub target: ObjectRef,
    /// The subresource that is patched, for example `scale`; `before` and `after` are then what the subresource shows.
    pub subresource: Option<String>,
    /// Its kind by discovery.
    pub resource: ResourceKind,
    /// The environment of its namespace, if known.
    pub environment: Option<&'static str>,
    /// The object before the step: as it is now, or as earlier steps of the plan leave it; absent when there is none.
    pub before: Option<Value>,
    /// The object after the step.
    pub after: After,
    /// What changes, field by field, nothing redacted.
    pub changes: Vec<FieldChange>,
}

/// The object after a step.
#[derive(Clone, PartialEq)]
pub enum After {
    /// The object as it will be.
    Object(Value),
    /// There is none: it was deleted or evicted.
    Gone,
    /// Nobody can say before the step runs. That is the highest risk, and no policy lets it pass.
    Unknown,
}

impl After {
    /// The object, where there is one and it is known.
    #[must_use]
    pub const fn object(&self) -> Option<&Value> {
        match self {
            Self::Object(object) => Some(object),
            Self::Gone | Self::Unknown => None,
        }
    }
}

impl StepEffect {
    /// Whether the object does not exist before the step and does afterwards.
    #[must_use]
    pub fn creates(&self) -> bool {
        self.before.is_none() && !matches!(self.after, After::Gone)
    }

    /// Whether an object that exists before the step is changed by it.
    #[must_use]
    pub fn changes_existing(&self) -> bool {
        self.before.is_some() && matches!(self.operation, OperationKind::Apply | OperationKind::Patch)
    }
}

impl fmt::Debug for StepEffect {
    /// Without the values, which may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StepEffect")
            .field("step", &self.step)
            .field("operation", &self.operation)
            .field("target", &self.target)
            .field("environment", &self.environment)
            .field("after", &self.after)
            .field("changes", &self.changes.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for After {
    /// Without the values, which may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Object(_) => "Object",
            Self::Gone => "Gone",
            Self::Unknown => "Unknown",
        })
    }
}
