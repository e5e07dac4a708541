//! The custom resources of group `countersign.dev`: types and their validation, nothing else.
//!
//! This room knows no client and no other room. The CRDs in `crds/` are generated from these types
//! (`countersign crds`); every doc comment on a field is what `kubectl explain` shows.

// Columns of a table repeat their types, which clippy takes for the same attribute twice.
#![allow(clippy::duplicated_attributes)]

mod approval;
mod command;
mod conditions;
mod crds;
mod field_path;
mod message;
mod model_provider;
mod object_ref;
mod operation;
mod plan;
mod policy;
mod requester;
mod risk;
mod rules;
mod schema;

pub use approval::{Decision, PlanApproval, PlanApprovalSpec, PlanApprovalStatus};
pub use command::{
    Action, ActionType, AgentCommand, AgentCommandSpec, AgentCommandStatus, Answer, CommandContext, CommandPhase,
    ConfidenceLevel, Feedback, Intent, Interpretation, Mode, Observe, PlanReference, Priority, ResourceCategory, Usage,
};
pub use conditions::{ConditionType, condition, condition_is_true, set_condition};
pub use crds::{crds, unknown_fields};
pub use field_path::{FieldPath, ParseFieldPathError, PathElement};
pub use message::{MAX_PLAN_MESSAGE, MAX_STEP_MESSAGE, hours_minutes_seconds, is_deceptive, shortened, stored_bytes};
pub use model_provider::{
    Fallback, ModelPrice, ModelProvider, ModelProviderSpec, ModelProviderStatus, ProviderProbe, RateLimit,
    SecretKeyRef, StructuredOutput,
};
pub use object_ref::{ObjectRef, ResourceId};
pub use operation::{
    Apply, Delete, Evict, Operation, OperationError, OperationKind, Patch, PatchType, PropagationPolicy, Query,
    QueryKind, Wait, WaitUntil,
};
pub use plan::{
    ApprovalRecord, ApprovalTerms, ApprovalVerdict, CommandReference, Estimate, ExecutionPlan, ExecutionPlanSpec,
    ExecutionPlanStatus, FieldChange, IrreversibleStep, PlanPhase, PolicyDemand, Precondition, Proposer, Retry,
    RollbackPlan, RollbackStrategy, Step, StepState, StepStatus, UndoState, UndoStatus, Verify, VerifyKind,
};
pub use policy::{
    ApprovalsByRisk, Automation, Budget, Constraint, Effect, Expectation, ExpectedVerdict, PlanPolicy, PlanPolicySpec,
    PlanPolicyStatus, PolicyExample, PolicyRule, Quotas, RequiredObservation, TimeWindow, Verb,
};
pub use requester::Requester;
pub use risk::{Risk, RiskLevel};

/// API group of every kind.
pub const GROUP: &str = "countersign.dev";
/// The one served and stored version.
pub const VERSION: &str = "v1alpha1";
/// Field manager of every server-side apply and patch that the operator makes.
pub const FIELD_MANAGER: &str = "countersign";
/// Label that finished commands and plans carry, so that watches can leave them out
/// (`!countersign.dev/finished`).
pub const FINISHED_LABEL: &str = "countersign.dev/finished";
/// Annotation on finished commands and plans with the time when they finished (RFC 3339). The oldest go first.
pub const FINISHED_AT_ANNOTATION: &str = "countersign.dev/finished-at";
/// Annotation on finished commands that have a time to live, with the time when it is over (RFC 3339).
pub const EXPIRES_AT_ANNOTATION: &str = "countersign.dev/expires-at";
/// Label on a plan with the name of the command that it came from.
pub const COMMAND_LABEL: &str = "countersign.dev/command";
/// Annotation on a plan with the generation of the command that it answers.
pub const COMMAND_GENERATION_ANNOTATION: &str = "countersign.dev/command-generation";
/// Annotation that asks for an action on a plan: `rollback` or `cancel`.
pub const REQUEST_ANNOTATION: &str = "countersign.dev/request";
/// Annotation that says who set [`REQUEST_ANNOTATION`]: a [`Requester`] as JSON. Stamped at admission.
pub const REQUESTED_BY_ANNOTATION: &str = "countersign.dev/requested-by";
/// What [`REQUEST_ANNOTATION`] says to have a plan put back.
const ROLLBACK_REQUEST: &str = "rollback";

/// Whether somebody asks to have the plan with this metadata put back.
#[must_use]
pub fn is_asked_back(meta: &kube::core::ObjectMeta) -> bool {
    let request = meta.annotations.as_ref().and_then(|annotations| annotations.get(REQUEST_ANNOTATION));
    request.is_some_and(|request| request == ROLLBACK_REQUEST)
}

/// Who set [`REQUEST_ANNOTATION`] on the object with this metadata; `None` where nothing was stamped.
#[must_use]
pub fn request_by(meta: &kube::core::ObjectMeta) -> Option<Requester> {
    let text = meta.annotations.as_ref()?.get(REQUESTED_BY_ANNOTATION)?;
    serde_json::from_str(text).ok()
}

/// Finalizer on plans, so that their snapshots go when they go.
pub const SNAPSHOT_FINALIZER: &str = "countersign.dev/snapshots";
/// Label on objects that a plan applied, with the plan's name.
pub const PLAN_LABEL: &str = "countersign.dev/plan";
