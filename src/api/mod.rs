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
pub use message::{MAX_PLAN_MESSAGE, MAX_STEP_MESSAGE, shortened, stored_bytes};
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
/// Label on a plan with the name of the command that it came from.
pub const COMMAND_LABEL: &str = "countersign.dev/command";
/// Annotation on a plan with the generation of the command that it answers.
pub const COMMAND_GENERATION_ANNOTATION: &str = "countersign.dev/command-generation";
/// Annotation that asks for an action on a plan: `rollback` or `cancel`.
pub const REQUEST_ANNOTATION: &str = "countersign.dev/request";
/// Finalizer on plans, so that their snapshots go when they go.
pub const SNAPSHOT_FINALIZER: &str = "countersign.dev/snapshots";
/// Label on objects that a plan applied, with the plan's name.
pub const PLAN_LABEL: &str = "countersign.dev/plan";
