use super::{Operation, RiskLevel, rules, schema};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time};
use kube::core::Duration;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;

/// What plans may do in the namespaces that it selects, and what they need before they may do it.
#[derive(CustomResource, Clone, Debug, Default, Deserialize, Serialize, KubeSchema, PartialEq)]
#[kube(
    group = "countersign.dev",
    version = "v1alpha1",
    kind = "PlanPolicy",
    plural = "planpolicies",
    shortname = "pp",
    category = "countersign",
    status = "PlanPolicyStatus",
    derive = "PartialEq",
    doc = "What plans may do in the namespaces that it selects, and what they need before they may do it. Where several policies match, the strictest value of each field holds.",
    printcolumn(name = "Automation", type_ = "string", json_path = ".spec.automation"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].message"),
    printcolumn(name = "Critical", type_ = "integer", json_path = ".spec.approvals.critical", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct PlanPolicySpec {
    /// Namespaces that the policy holds for: a plan that lies in one or changes anything in one. All when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// How many people must approve a plan, by its risk. A level left out keeps the built-in number: none for low, one
    /// for medium and high, two for critical.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approvals: Option<ApprovalsByRisk>,
    /// An approver is in at least one of these groups; anybody with the right to approve when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 1024)), extend("x-kubernetes-list-type" = "set"))]
    pub approver_groups: Vec<String>,
    /// Whether somebody else than the requester must approve; true when no policy says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub separation_of_duties: Option<bool>,
    /// How long an approval is good for until the plan begins, for example `24h`; for ever when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    #[x_kube(validation = rules::some_time("approvalLifetime"))]
    pub approval_lifetime: Option<Duration>,
    /// How long a plan may wait for its approvals, for example `72h`; 720h when no policy says otherwise. Then it expires,
    /// and what it does has to be asked for again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    #[x_kube(validation = rules::some_time("approvalDeadline"))]
    pub approval_deadline: Option<Duration>,
    /// How much may happen without a person; SemiAuto when no policy says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub automation: Option<Automation>,
    /// What may be done to what. Whatever a Deny matches is denied. If there is any Allow, every changing step must match
    /// one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    pub rules: Vec<PolicyRule>,
    /// How much one plan may change; a plan beyond it is denied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quotas: Option<Quotas>,
    /// What plans may cost; a plan beyond it is denied. A plan whose cost is not known is not held against it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// When plans may begin; at any time when empty. Outside of all windows a plan waits for the next.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub windows: Vec<TimeWindow>,
    /// When no plan may begin, windows or not. A plan waits for the end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub freezes: Vec<TimeWindow>,
    /// What must be true of a plan, in CEL; a plan of which it is false is denied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub constraints: Vec<Constraint>,
    /// How long the changed workloads must be watched after the last step, at least.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observe: Option<RequiredObservation>,
    /// Plans and what this policy alone must say to them, checked whenever the policy changes. One that fails makes the
    /// policy not Ready, and plans that it matches wait.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub examples: Vec<PolicyExample>,
}

/// How many people must approve, by risk.
#[derive(Clone, Debug, Default, Deserialize, Serialize, KubeSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::approvals_rise())]
pub struct ApprovalsByRisk {
    /// For plans of low risk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100))]
    pub low: Option<u32>,
    /// For plans of medium risk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100))]
    pub medium: Option<u32>,
    /// For plans of high risk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100))]
    pub high: Option<u32>,
    /// For plans of critical risk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100))]
    pub critical: Option<u32>,
}

impl ApprovalsByRisk {
    /// The number for one level, if it is given.
    #[must_use]
    pub const fn of(&self, risk: RiskLevel) -> Option<u32> {
        match risk {
            RiskLevel::Low => self.low,
            RiskLevel::Medium => self.medium,
            RiskLevel::High => self.high,
            RiskLevel::Critical => self.critical,
        }
    }
}

/// How much may happen without a person, from the strictest to the loosest.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq, PartialOrd, Ord)]
pub enum Automation {
    /// Nothing is changed: every plan that changes anything is denied.
    ReadOnly,
    /// Every plan needs at least one approval.
    Manual,
    /// At least the built-in number of approvals by risk.
    SemiAuto,
    /// The configured number of approvals, even where it is below the built-in one.
    Full,
}

impl fmt::Display for Automation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::ReadOnly => "ReadOnly",
            Self::Manual => "Manual",
            Self::SemiAuto => "SemiAuto",
            Self::Full => "Full",
        })
    }
}

/// What may, or may not, be done to what. A list left out stands for everything; all lists must match.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PolicyRule {
    /// Allow or Deny.
    pub effect: Effect,
    /// API groups; `""` is the core group, `*` stands for any text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 253)))]
    pub api_groups: Vec<String>,
    /// Kinds, for example `Deployment`; `*` stands for any text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 63)))]
    pub kinds: Vec<String>,
    /// Operations; when left out, the four that change something.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 6), extend("x-kubernetes-list-type" = "set"))]
    pub verbs: Vec<Verb>,
    /// Namespaces, for example `shop-*`; `*` stands for any text. A Namespace counts as being in itself; other
    /// cluster-scoped objects match `*` only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 63)))]
    pub namespaces: Vec<String>,
    /// Names of objects; `*` stands for any text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 253)))]
    pub names: Vec<String>,
    /// Why, shown to whoever is denied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub justification: Option<String>,
}

/// What a rule says.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum Effect {
    /// It may be done.
    Allow,
    /// It may not be done.
    Deny,
}

/// The six operations as rules name them.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// Create or change by server-side apply.
    Apply,
    /// Change by a patch.
    Patch,
    /// Delete.
    Delete,
    /// Evict a pod.
    Evict,
    /// Wait for a state.
    Wait,
    /// Read.
    Query,
}

/// How much one plan may change.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Quotas {
    /// Steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 5000))]
    pub steps: Option<u32>,
    /// Objects that are deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 5000))]
    pub objects_deleted: Option<u32>,
    /// Replicas that are added, over all workloads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1_000_000))]
    pub replicas_added: Option<u32>,
    /// The share of any one workload that is taken away at once, by scaling it down, deleting it or evicting its pods, in
    /// percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100))]
    pub blast_radius_percent: Option<u32>,
}

/// What plans may add to the monthly cost.
#[derive(Clone, Debug, Deserialize, Serialize, KubeSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::budget_says_something(), validation = rules::budget_fits())]
pub struct Budget {
    /// The most that one plan may add, as a decimal number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::amount")]
    pub per_command: Option<String>,
    /// The most that all plans of a calendar month (UTC) may add together, as a decimal number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::amount")]
    pub per_month: Option<String>,
    /// ISO 4217 code.
    #[schemars(pattern("^[A-Z]{3}$"), length(max = 3))]
    pub currency: String,
}

/// A recurring stretch of time.
#[derive(Clone, Debug, Deserialize, Serialize, KubeSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct TimeWindow {
    /// When it begins, as a cron expression of five fields: minute, hour, day of month, month, day of week.
    #[schemars(length(min = 9, max = 128))]
    #[x_kube(validation = rules::cron_has_five_fields())]
    pub schedule: String,
    /// How long it lasts, for example `8h`.
    #[schemars(schema_with = "schema::required_duration")]
    #[x_kube(validation = rules::some_time("duration"))]
    pub duration: Duration,
    /// The IANA time zone of `schedule`, for example `Europe/Berlin`; UTC when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = rules::known_time_zone())]
    pub time_zone: Option<String>,
    /// Why, shown to whoever waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub reason: Option<String>,
}

/// Something that must be true of a plan.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Constraint {
    /// Name within the policy.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// A CEL expression over `plan`, the spec of the ExecutionPlan, with `plan.namespace` besides. At most eight
    /// comprehensions (`all`, `exists`, `map`, `filter` …), two within each other.
    #[schemars(length(min = 1, max = 2048))]
    pub expression: String,
    /// What is told when it is false.
    #[schemars(length(min = 1, max = 1024))]
    pub message: String,
}

/// How long changed workloads must be watched.
#[derive(Clone, Debug, Deserialize, Serialize, KubeSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RequiredObservation {
    /// How long, for example `5m`.
    #[serde(rename = "for")]
    #[schemars(schema_with = "schema::required_duration")]
    #[x_kube(validation = rules::some_time("observe.for"))]
    pub duration: Duration,
}

/// A plan and what the policy must say to it.
#[derive(Clone, Debug, Deserialize, Serialize, KubeSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::example_has_one_subject())]
pub struct PolicyExample {
    /// Name within the policy.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The spec of an ExecutionPlan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::any_object")]
    pub plan: Option<Value>,
    /// Instead of a plan: the operation of its only step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Operation>,
    /// The risk of that operation; medium when absent. A plan says its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub risk: Option<RiskLevel>,
    /// The groups of whoever asks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 1024)))]
    pub requester_groups: Vec<String>,
    /// The namespace of the plan; that of the operation, or `default`, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// Labels of that namespace, to try the selector; when absent the policy is taken to match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_labels: Option<BTreeMap<String, String>>,
    /// When it is judged; without a time, windows and freezes are left out of the judgement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Time>,
    /// What must come of it.
    pub expect: Expectation,
}

/// What must come of an example.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Expectation {
    /// Allow, Deny or Wait.
    pub verdict: ExpectedVerdict,
    /// How many people must approve it; not looked at when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100))]
    pub approvals: Option<u32>,
}

/// What a policy says to a plan, approvals aside.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum ExpectedVerdict {
    /// It may run once it has its approvals.
    Allow,
    /// It may never run.
    Deny,
    /// It may not run now.
    Wait,
}

impl fmt::Display for ExpectedVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Allow => "Allow",
            Self::Deny => "Deny",
            Self::Wait => "Wait",
        })
    }
}

/// Whether a policy can be used.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PlanPolicyStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Conditions: `Ready`, `Stalled`. A policy that is not Ready holds back every plan that it matches.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}
