use super::{Decision, Operation, Requester, ResourceId, Risk, rules, schema};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::core::Duration;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;

/// Exactly what will happen: the steps, their diffs, their risk. The spec never changes.
#[derive(CustomResource, Clone, Debug, Default, Deserialize, Serialize, KubeSchema, PartialEq)]
#[kube(
    group = "countersign.dev",
    version = "v1alpha1",
    kind = "ExecutionPlan",
    namespaced,
    shortname = "plan",
    category = "countersign",
    status = "ExecutionPlanStatus",
    derive = "PartialEq",
    doc = "Exactly what will happen: the steps, their diffs, their risk. The spec never changes, and its digest is what people approve.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Risk", type_ = "string", json_path = ".status.risk.level"),
    printcolumn(name = "Approvals", type_ = "string", json_path = ".status.approvalCount"),
    printcolumn(name = "Progress", type_ = "string", json_path = ".status.progress"),
    printcolumn(name = "Summary", type_ = "string", json_path = ".spec.summary"),
    printcolumn(name = "Digest", type_ = "string", json_path = ".status.digest", priority = "1"),
    printcolumn(name = "By", type_ = "string", json_path = ".spec.requestedBy.username", priority = "1"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = rules::immutable_large_spec("the spec of an ExecutionPlan never changes: create a new plan")
)]
#[serde(rename_all = "camelCase")]
pub struct ExecutionPlanSpec {
    /// The AgentCommand of the same namespace that this plan answers; absent for a plan written by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command_ref: Option<CommandReference>,

    /// The service account of this namespace that the steps run as, by impersonation; `default` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    #[x_kube(validation = rules::service_account_name())]
    pub service_account_name: Option<String>,

    /// Who asked. Only the operator may claim another than the caller here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested_by: Option<Requester>,

    /// Which planner proposed the plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proposed_by: Option<Proposer>,

    /// The plan in one sentence.
    #[serde(default)]
    #[schemars(length(max = 4096))]
    pub summary: String,

    /// The highest risk of the steps, with all reasons. At execution the risk is assessed again, and the higher counts.
    #[serde(default)]
    pub risk: Risk,

    /// How many people must approve. At execution policy is judged again, and the higher number counts.
    #[serde(default)]
    #[schemars(range(max = 100))]
    pub approvals_required: u32,

    /// What it should take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimate: Option<Estimate>,

    /// What to bear in mind.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,

    /// The plan is for reading: it is never carried out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub plan_only: bool,

    /// Watch the changed workloads for this long after the last step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observe: Option<super::Observe>,

    /// The longest that carrying out the steps may take, from the first to the last; while the plan is suspended, the time
    /// goes on. When it is over, what is being changed is finished, what is waited for fails, and all is put back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub timeout: Option<Duration>,

    /// The steps.
    #[schemars(length(min = 1, max = 5000), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["id"]))]
    pub steps: Vec<Step>,
}

/// The command that a plan answers.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct CommandReference {
    /// Name of the AgentCommand, in the same namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Which planner proposed a plan.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Proposer {
    /// `builtin`, or the name of the ModelProvider.
    pub planner: String,
    /// The model that answered, as the provider named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

/// Duration and cost as far as they are known.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Estimate {
    /// How long it should take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub duration: Option<Duration>,
    /// Change of the monthly cost, as a decimal number; absent where no price is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monthly_cost: Option<String>,
    /// ISO 4217 code of `monthlyCost`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub currency: Option<String>,
    /// What the numbers rest on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basis: Option<String>,
}

/// One step of a plan.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// Identifier within the plan.
    #[schemars(length(min = 1, max = 63), pattern(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub id: String,
    /// In one line.
    #[serde(default)]
    #[schemars(length(max = 1024))]
    pub title: String,
    /// The tool that made the step; `manual` for steps written by hand.
    #[serde(default)]
    #[schemars(length(max = 63))]
    pub tool: String,
    /// Steps that must be completed first. Steps that do not depend on each other run in parallel.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 63)))]
    pub depends_on: Vec<String>,
    /// A CEL expression over `steps.<id>` (`state`, `object`) that decides whether the step runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub when: Option<String>,
    /// What is done.
    pub operation: Operation,
    /// What must still hold right before the step, or nothing is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precondition: Option<Precondition>,
    /// What changes, by the API server's dry run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub diff: Vec<FieldChange>,
    /// The diff is only known after these steps, because what they make does not exist yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub known_after: Vec<String>,
    /// What must hold after the step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<Verify>,
    /// How the step would be put back.
    #[serde(default)]
    pub rollback: RollbackPlan,
    /// How often to try again on errors that pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// The longest that the step may take, verification included; 10 minutes when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub timeout: Option<Duration>,
    /// The risk of this step.
    #[serde(default)]
    pub risk: Risk,
    /// What it should take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimate: Option<Estimate>,
}

/// What must still hold right before a step.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Precondition {
    /// The object has this uid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// The object has this resource version: for objects whose values must not be shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
    /// The object does not exist.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub absent: bool,
    /// The fields of the diff still have the values that it starts from.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub diff_base: bool,
}

/// One changed field.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct FieldChange {
    /// Where, for example `spec.template.spec.containers[name=web].image`.
    pub path: String,
    /// The value before; absent when the field is new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::any_value")]
    pub from: Option<Value>,
    /// The value after; absent when the field goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::any_value")]
    pub to: Option<Value>,
    /// The values are secret and are not shown; `from` and `to` then say only whether there is one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub redacted: bool,
}

/// What must hold after a step, within its timeout.
#[derive(Clone, Debug, Deserialize, Serialize, KubeSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(self.type in ['Expression', 'PromQL']) || has(self.expression)").message("verify by Expression or PromQL needs an expression"))]
pub struct Verify {
    /// How it is checked.
    #[serde(rename = "type")]
    pub kind: VerifyKind,
    /// The CEL or PromQL expression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub expression: Option<String>,
}

/// Ways to check that a step got there.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum VerifyKind {
    /// kstatus: the object is ready.
    Ready,
    /// The object is gone.
    Absent,
    /// A CEL expression over `object` is true.
    Expression,
    /// A PromQL expression gives a non-empty result.
    PromQL,
}

/// How a step would be put back.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RollbackPlan {
    /// What putting back means here.
    #[serde(default)]
    pub strategy: RollbackStrategy,
    /// Whether everything comes back.
    #[serde(default)]
    pub reversible: bool,
    /// If not: what would be lost, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What putting back means.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum RollbackStrategy {
    /// Nothing was changed.
    #[default]
    None,
    /// The created object is deleted, if it is still the same one.
    Delete,
    /// The inverse of our own change; what others changed since stays.
    InversePatch,
    /// The deleted object is created again from its snapshot.
    Recreate,
}

/// How often to try again on errors that pass (429, 5xx, conflicts, timeouts).
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Retry {
    /// How often at most, the first try included.
    #[schemars(range(min = 1, max = 20))]
    pub attempts: u32,
}

/// What came of a plan.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ExecutionPlanStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where the plan stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<PlanPhase>,
    /// Conditions: `Approved`, `Denied`, `Executed`, `Verified`, `RolledBack`, `Drifted`, `Ready`, `Reconciling`, `Stalled`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
    /// `sha256:` and the hexadecimal SHA-256 of the canonical JSON (RFC 8785) of the spec.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The risk as the operator assessed it on the live cluster, whatever the plan says of itself: the one that counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub risk: Option<Risk>,
    /// Steps that could not be put back as a whole, as the operator found them. Said of plans that it did not make itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub irreversible: Vec<IrreversibleStep>,
    /// How many approvals are needed: the most that was asked for since the plan was first judged.
    #[serde(default)]
    pub approvals_required: u32,
    /// The strictest terms of approval that were asked for since the plan was first judged. They only ever get stricter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terms: Option<ApprovalTerms>,
    /// When the plan expires unless it has its approvals by then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,
    /// Approvals that count and approvals needed: `1/2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval_count: Option<String>,
    /// Every approval seen, with whether it counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvals: Vec<ApprovalRecord>,
    /// Which policy asks for what, as judged now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<PolicyDemand>,
    /// The journal: what is under way and what was done, one entry a step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepStatus>,
    /// Steps done and steps in all: `3/7`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<String>,
    /// What happened last, in one sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When the first step began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When all steps were verified, for the observation window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified_at: Option<Time>,
    /// When the plan ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
}

/// A step that could not be put back as a whole.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct IrreversibleStep {
    /// The step.
    pub id: String,
    /// What would be lost, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Terms of approval: who must say yes, how many of them, and how long their word is good for.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ApprovalTerms {
    /// How many people must approve.
    pub approvals: u32,
    /// An approver is in at least one group of each of these lists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approver_groups: Vec<Vec<String>>,
    /// Whether the requester's own approval does not count.
    pub separation_of_duties: bool,
    /// How long an approval counts; for ever when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub approval_lifetime: Option<Duration>,
    /// How long the plan may wait for its approvals; for ever when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub approval_deadline: Option<Duration>,
    /// How long the changed workloads must be watched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub observe: Option<Duration>,
    /// The policies that matched the plan at any time. As long as they exist they hold for it, whatever the labels of its
    /// namespaces say by now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<String>,
}

/// What one policy asks of a plan.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PolicyDemand {
    /// Name of the PlanPolicy; `built-in` where none says anything.
    pub name: String,
    /// What it asks for now, one sentence each.
    #[serde(default)]
    pub asks: Vec<String>,
    /// What it asked for earlier and no longer does. Terms of approval hold on for the plan.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub asked: Vec<String>,
}

/// Where a plan stands.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq, Hash)]
pub enum PlanPhase {
    /// For reading only (`planOnly`).
    Planned,
    /// Waits for approvals.
    AwaitingApproval,
    /// Approved; starts as soon as it may.
    Approved,
    /// Steps are being carried out.
    Executing,
    /// All steps are done; the workloads are watched for a while.
    Observing,
    /// Done.
    Succeeded,
    /// Ended with nothing done, or with nothing left to put back.
    Failed,
    /// What was done is being put back.
    RollingBack,
    /// What was done was put back.
    RolledBack,
    /// Putting back failed: somebody must look.
    RollbackFailed,
    /// Refused by a person or by policy.
    Denied,
    /// Not approved in time.
    Expired,
    /// The cluster moved away from what the diff was computed against; nothing (more) was done.
    Drifted,
    /// A newer plan took its place before it began.
    Superseded,
    /// Taken back.
    Cancelled,
}

impl PlanPhase {
    /// Whether nothing more will happen in this phase.
    #[must_use]
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::AwaitingApproval | Self::Approved | Self::Executing | Self::Observing | Self::RollingBack)
    }
}

impl fmt::Display for PlanPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Planned => "Planned",
            Self::AwaitingApproval => "AwaitingApproval",
            Self::Approved => "Approved",
            Self::Executing => "Executing",
            Self::Observing => "Observing",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::RollingBack => "RollingBack",
            Self::RolledBack => "RolledBack",
            Self::RollbackFailed => "RollbackFailed",
            Self::Denied => "Denied",
            Self::Expired => "Expired",
            Self::Drifted => "Drifted",
            Self::Superseded => "Superseded",
            Self::Cancelled => "Cancelled",
        })
    }
}

/// One approval as the controller judged it.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ApprovalRecord {
    /// Name of the PlanApproval.
    pub name: String,
    /// Its uid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Who gave it.
    pub approver: String,
    /// The digest that it speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Approve or Deny.
    pub decision: Decision,
    /// Whether it counts.
    pub verdict: ApprovalVerdict,
    /// Why it does not count, or the approver's own reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When it was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Time>,
    /// It was there before the plan had a digest to approve, so it never counts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub before_plan: bool,
}

/// Whether an approval counts.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum ApprovalVerdict {
    /// It counts.
    Counted,
    /// It does not.
    Ignored,
}

/// The journal entry of one step.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct StepStatus {
    /// The step.
    pub id: String,
    /// Where it stands.
    #[serde(default)]
    pub state: StepState,
    /// How often its mutation was tried.
    #[serde(default)]
    pub attempts: u32,
    /// When it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When its mutation was acknowledged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied_at: Option<Time>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
    /// What happened, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Name of the Secret in the operator's namespace with the snapshot taken before the mutation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// Identity of the object before the mutation; absent when there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<ResourceId>,
    /// Identity of the object after the mutation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<ResourceId>,
    /// What came of putting the step back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo: Option<UndoStatus>,
}

/// Where a step stands.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq, Hash)]
pub enum StepState {
    /// Not begun.
    #[default]
    Pending,
    /// Its intent is recorded and its snapshot stored; the mutation may or may not have landed.
    Running,
    /// The mutation landed; verification is under way.
    Applied,
    /// Done and verified.
    Completed,
    /// Left out because its `when` was false, or because what it wanted already was so.
    Skipped,
    /// Did not get there.
    Failed,
    /// Put back.
    RolledBack,
}

impl fmt::Display for StepState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Applied => "Applied",
            Self::Completed => "Completed",
            Self::Skipped => "Skipped",
            Self::Failed => "Failed",
            Self::RolledBack => "RolledBack",
        })
    }
}

/// What came of putting one step back.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct UndoStatus {
    /// Where it stands.
    pub state: UndoState,
    /// How often it was tried.
    #[serde(default)]
    pub attempts: u32,
    /// What was put back, what stays and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
}

/// Where putting back stands.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum UndoState {
    /// Its intent is recorded.
    #[default]
    Running,
    /// Put back.
    Done,
    /// Refused by the cluster, or not possible.
    Failed,
}
