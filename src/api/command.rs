use super::{Requester, Risk, RiskLevel, rules, schema};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::core::Duration;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;

/// A request in plain words: what somebody wants from the cluster.
#[derive(CustomResource, Clone, Debug, Default, Deserialize, Serialize, KubeSchema, PartialEq)]
#[kube(
    group = "countersign.dev",
    version = "v1alpha1",
    kind = "AgentCommand",
    namespaced,
    shortname = "agc",
    category = "countersign",
    status = "AgentCommandStatus",
    derive = "PartialEq",
    selectable = ".spec.session",
    doc = "A request in plain words: what somebody wants from the cluster. countersign answers it, or turns it into an ExecutionPlan.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Risk", type_ = "string", json_path = ".status.plan.risk"),
    printcolumn(name = "Plan", type_ = "string", json_path = ".status.plan.name"),
    printcolumn(name = "Request", type_ = "string", json_path = ".spec.request"),
    printcolumn(name = "Reply", type_ = "string", json_path = ".status.reply", priority = "1"),
    printcolumn(name = "By", type_ = "string", json_path = ".spec.requestedBy.username", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct AgentCommandSpec {
    /// What is wanted, in your own words: "scale checkout to 5 in staging", "why does payments crash?".
    #[schemars(length(max = 10_000))]
    #[x_kube(validation = rules::request_has_words())]
    #[x_kube(validation = rules::request_is_plain_text())]
    #[x_kube(validation = rules::request_is_no_shell())]
    pub request: String,

    /// Ties this request to earlier ones of the same session, so that "make it five instead" is understood.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub session: Option<String>,

    /// Language of the request and of the reply (BCP 47, for example `de`); detected when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 35))]
    pub language: Option<String>,

    /// The service account of this namespace that the steps run as, by impersonation; `default` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    #[x_kube(validation = rules::service_account_name())]
    pub service_account_name: Option<String>,

    /// Where the request belongs, when the words do not say so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<CommandContext>,

    /// How far to go.
    #[serde(default)]
    pub mode: Mode,

    /// The ModelProvider to ask; the default one, or else the built-in planner, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub model_ref: Option<String>,

    /// Order among waiting commands.
    #[serde(default)]
    pub priority: Priority,

    /// The longest that carrying out the plan may take, from its first step to its last; waiting for approval is not counted.
    /// When the time is over, what was done is put back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub timeout: Option<Duration>,

    /// Watch the changed workloads for a while after the last step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observe: Option<Observe>,

    /// Stops before the next step while true.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspend: bool,

    /// How long the command stays after it finished; for ever when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub ttl_after_finished: Option<Duration>,

    /// What you thought of the outcome.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feedback: Option<Feedback>,

    /// Who asked. Stamped at admission; what a client writes here is replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested_by: Option<Requester>,
}

/// Where a request belongs, when its words do not say so.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CommandContext {
    /// For example `production` or `staging`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub environment: Option<String>,
    /// The cloud provider to prefer: `aws`, `gcp`, `azure`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub provider: Option<String>,
    /// The cloud region to prefer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub region: Option<String>,
    /// The most that the plan may add to the monthly cost, as a number and a currency: `500 USD`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(pattern(r"^[0-9]+(\.[0-9]{1,2})?( [A-Z]{3})?$"), length(max = 32))]
    pub budget: Option<String>,
    /// Rules that the plan must respect, for example `pci-dss`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 63)))]
    pub compliance: Vec<String>,
}

/// How far a command goes.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum Mode {
    /// Plan, and carry out what policy allows or people approve.
    #[default]
    Auto,
    /// Plan and stop: the plan is never carried out.
    PlanOnly,
    /// Answer questions only; a request to change anything is denied.
    ReadOnly,
}

/// Order among waiting commands.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// After everything else.
    Low,
    /// The usual.
    #[default]
    Normal,
    /// Before the usual.
    High,
    /// First.
    Critical,
}

/// Watch the changed workloads after the last step.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Observe {
    /// How long to watch, for example `5m`.
    #[serde(rename = "for")]
    #[schemars(schema_with = "schema::required_duration")]
    pub duration: Duration,
    /// Put everything back when a workload degrades meanwhile.
    #[serde(default)]
    pub rollback_on_degraded: bool,
}

/// A rating of the outcome.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Feedback {
    /// From 1 (useless) to 5 (just right).
    #[schemars(range(min = 1, max = 5))]
    pub rating: u8,
    /// In your own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2000))]
    pub comment: Option<String>,
}

/// What came of a command.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AgentCommandStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Digest of what was asked for: everything in the spec that makes another plan when it changes. Feedback, for
    /// example, does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_digest: Option<String>,
    /// Where the command stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<CommandPhase>,
    /// Conditions: `Ready`, `Reconciling`, `Stalled`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
    /// How the request was understood.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interpretation: Option<Interpretation>,
    /// The plan made from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanReference>,
    /// One or two sentences to whoever asked, in the language of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<String>,
    /// For questions: the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Answer>,
    /// What the planner used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// How often the plan was made anew because the cluster had moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replans: Option<u32>,
    /// When work on this generation began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
}

/// Where a command stands.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq, Hash)]
pub enum CommandPhase {
    /// The words are being understood.
    Interpreting,
    /// A question waits for an answer: edit the request, or continue in the same session.
    NeedsClarification,
    /// The plan is being made and tried by dry run.
    Planning,
    /// The plan waits for approvals.
    AwaitingApproval,
    /// Steps are being carried out.
    Executing,
    /// All steps are done; the workloads are watched for a while.
    Observing,
    /// Done, or answered.
    Succeeded,
    /// Ended without reaching what was asked; nothing is left half done.
    Failed,
    /// What was done is being put back.
    RollingBack,
    /// A step failed and everything done before was put back.
    RolledBack,
    /// Putting back failed: somebody must look.
    RollbackFailed,
    /// Refused, by a person or by policy.
    Denied,
    /// Not approved in time.
    Expired,
    /// Taken back by whoever asked, or superseded.
    Cancelled,
}

impl CommandPhase {
    /// Whether nothing more will happen in this phase.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(
            self,
            Self::Succeeded
                | Self::Failed
                | Self::RolledBack
                | Self::RollbackFailed
                | Self::Denied
                | Self::Expired
                | Self::Cancelled
        )
    }
}

impl fmt::Display for CommandPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Interpreting => "Interpreting",
            Self::NeedsClarification => "NeedsClarification",
            Self::Planning => "Planning",
            Self::AwaitingApproval => "AwaitingApproval",
            Self::Executing => "Executing",
            Self::Observing => "Observing",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::RollingBack => "RollingBack",
            Self::RolledBack => "RolledBack",
            Self::RollbackFailed => "RollbackFailed",
            Self::Denied => "Denied",
            Self::Expired => "Expired",
            Self::Cancelled => "Cancelled",
        })
    }
}

/// What a request is after.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq, Hash)]
#[serde(rename_all = "lowercase")]
pub enum Intent {
    /// Something new.
    Create,
    /// Look at something.
    Read,
    /// Change something.
    Update,
    /// Remove something.
    Delete,
    /// More or fewer of something.
    Scale,
    /// Watch something.
    Monitor,
    /// Make something cheaper or faster.
    Optimize,
    /// Find out why something fails.
    Troubleshoot,
    /// A question.
    Query,
}

impl Intent {
    /// Whether a request of this intent may never change the cluster.
    #[must_use]
    pub const fn is_read_only(self) -> bool {
        matches!(self, Self::Read | Self::Query | Self::Troubleshoot)
    }
}

/// A confidence between 0 and 1 in words.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum ConfidenceLevel {
    /// 0.85 and above.
    High,
    /// 0.6 and above.
    Medium,
    /// 0.3 and above.
    Low,
    /// Below 0.3.
    #[default]
    Unclear,
}

impl ConfidenceLevel {
    /// The level of a confidence; anything outside 0 to 1 (a model's mistake) is `Unclear`.
    #[must_use]
    pub fn of(confidence: f64) -> Self {
        match confidence {
            c if !(0.0..=1.0).contains(&c) => Self::Unclear,
            c if c >= 0.85 => Self::High,
            c if c >= 0.6 => Self::Medium,
            c if c >= 0.3 => Self::Low,
            _ => Self::Unclear,
        }
    }
}

/// How a request was understood.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Interpretation {
    /// What the request is after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent: Option<Intent>,
    /// From 0 (no idea) to 1 (certain).
    #[serde(default)]
    pub confidence: f64,
    /// The confidence in words.
    #[serde(default)]
    pub level: ConfidenceLevel,
    /// The request in one sentence, as it was understood.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub summary: String,
    /// What would be done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub actions: Vec<Action>,
    /// Whether somebody has to approve.
    #[serde(default)]
    pub confirmation_required: bool,
    /// The risk of the whole.
    #[serde(default)]
    pub risk: RiskLevel,
    /// Change of the monthly cost, where it is known: `120.00 USD`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_cost: Option<String>,
    /// How long it should take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub total_duration: Option<Duration>,
    /// Questions to answer before a plan can be made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clarifying_questions: Vec<String>,
    /// Requests like this one that would be understood.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub suggested_alternatives: Vec<String>,
    /// What to bear in mind.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// The objects that would change, as `Deployment staging/checkout`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub affected_resources: Vec<String>,
    /// The language of the request (BCP 47).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// Who understood it so: `builtin`, or the model provider and its model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub planner: Option<String>,
}

/// One thing that would be done.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Action {
    /// Identifier within the request.
    pub id: String,
    /// What kind of change it is.
    #[serde(rename = "type")]
    pub action_type: ActionType,
    /// What kind of thing it is about.
    pub resource: ResourceCategory,
    /// The tool that does it.
    pub tool: String,
    /// The tool's parameters.
    #[serde(default)]
    #[schemars(schema_with = "schema::any_value")]
    pub parameters: Map<String, Value>,
    /// In one sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// How long it should take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub duration: Option<Duration>,
    /// Change of the monthly cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<String>,
    /// Actions that come first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<String>,
    /// What must hold before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prerequisites: Vec<String>,
    /// How it would be put back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback_strategy: Option<String>,
    /// Its own risk.
    #[serde(default)]
    pub risk: Risk,
}

/// Kinds of change.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq, Hash)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum ActionType {
    Create,
    Read,
    Update,
    Delete,
    Scale,
    Restart,
    Backup,
    Restore,
    Monitor,
    Optimize,
    Migrate,
    Rollback,
}

/// Kinds of things; a tool's category.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum ResourceCategory {
    Infrastructure,
    Deployment,
    Database,
    Storage,
    Monitoring,
    Cost,
    Security,
    Networking,
    Diagnosis,
}

/// The plan made from a command.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PlanReference {
    /// Name of the ExecutionPlan, in the same namespace.
    pub name: String,
    /// Its digest.
    pub digest: String,
    /// Its risk.
    pub risk: RiskLevel,
}

/// The answer to a question.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// The answer in a sentence or two.
    #[serde(default)]
    pub text: String,
    /// Column titles of the table; empty when there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
    /// Rows of the table.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rows: Vec<Vec<String>>,
    /// Rows left out because the table was too long to store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub omitted_rows: Option<u64>,
}

/// What the planner used.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// The model, or `builtin`.
    pub model: String,
    /// Tokens sent.
    #[serde(default)]
    pub prompt_tokens: u64,
    /// Tokens received.
    #[serde(default)]
    pub completion_tokens: u64,
    /// Price of both by the provider's price list, where one is set: `0.0123 USD`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confidence_levels_have_their_thresholds() {
        let levels = [(1.0, ConfidenceLevel::High), (0.85, ConfidenceLevel::High), (0.6, ConfidenceLevel::Medium)];
        for (confidence, level) in levels {
            assert_eq!(ConfidenceLevel::of(confidence), level);
        }
        assert_eq!(ConfidenceLevel::of(0.3), ConfidenceLevel::Low);
        for nonsense in [0.29, -1.0, 1.01, f64::NAN] {
            assert_eq!(ConfidenceLevel::of(nonsense), ConfidenceLevel::Unclear);
        }
    }
}
