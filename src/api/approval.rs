use super::{Requester, rules, schema};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One person's word on exactly one plan.
#[derive(CustomResource, Clone, Debug, Deserialize, Serialize, KubeSchema, PartialEq)]
#[kube(
    group = "countersign.dev",
    version = "v1alpha1",
    kind = "PlanApproval",
    namespaced,
    shortname = "approval",
    category = "countersign",
    status = "PlanApprovalStatus",
    derive = "PartialEq",
    selectable = ".spec.plan",
    doc = "One person's word on exactly one plan. Deleting it before execution starts takes the word back.",
    printcolumn(name = "Plan", type_ = "string", json_path = ".spec.plan"),
    printcolumn(name = "Decision", type_ = "string", json_path = ".spec.decision"),
    printcolumn(name = "Approver", type_ = "string", json_path = ".spec.approver.username"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".spec.reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = rules::immutable_spec("the spec of a PlanApproval never changes: delete it to take the word back, and create another")
)]
#[serde(rename_all = "camelCase")]
pub struct PlanApprovalSpec {
    /// Name of the ExecutionPlan, in the same namespace.
    #[schemars(length(min = 1, max = 253))]
    pub plan: String,
    /// The digest of the plan that was read: `sha256:` and 64 hexadecimal digits.
    #[schemars(length(max = 71))]
    #[x_kube(validation = Rule::new("self.matches('^sha256:[0-9a-f]{64}$')").message("digest is no digest of a plan (sha256: and 64 hexadecimal digits): copy it from status.digest of the plan that you read"))]
    pub digest: String,
    /// Approve or Deny.
    #[serde(default)]
    pub decision: Decision,
    /// Why, for the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub reason: Option<String>,
    /// Who decided. Stamped at admission; what a client writes here is replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approver: Option<Requester>,
}

/// A decision on a plan.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum Decision {
    /// Carry it out.
    #[default]
    Approve,
    /// Do not carry it out.
    Deny,
}

/// What the controller made of an approval.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PlanApprovalStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Conditions: `Ready` is `True` when the approval counts, and says why when it does not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}
