//! The audit trail in the log: one line for each word that somebody gave and each thing that was done about it.
//!
//! The lines have the target `audit`, so that they can be routed on their own (`RUST_LOG=audit=info`). They never hold
//! values of fields: what changed is in the plan that they name.

use std::fmt;

/// One line of the audit trail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditEvent<'a> {
    /// What happened.
    pub action: AuditAction,
    /// Who did it: the user name that the API server authenticated, or the service account that steps run as.
    pub actor: &'a str,
    /// Namespace of the command or plan.
    pub namespace: &'a str,
    /// Name of the command, where one is known.
    pub command: Option<&'a str>,
    /// Name of the plan, where one is known.
    pub plan: Option<&'a str>,
    /// The plan's digest.
    pub digest: Option<&'a str>,
    /// Name of the PlanApproval, where the line is about one.
    pub approval: Option<&'a str>,
    /// Who proposed the plan: `builtin`, the name of a ModelProvider, or `by hand`.
    pub planner: Option<&'a str>,
    /// The model that answered, as its provider named it.
    pub model: Option<&'a str>,
    /// What came of it, in a few words: `Counted`, `Ignored: not an approver`, `Deployment staging/checkout`.
    pub decision: &'a str,
}

impl<'a> AuditEvent<'a> {
    /// A line that says who did what, and in which namespace, to be completed.
    #[must_use]
    pub const fn new(action: AuditAction, actor: &'a str, namespace: &'a str) -> Self {
        Self {
            action,
            actor,
            namespace,
            command: None,
            plan: None,
            digest: None,
            approval: None,
            planner: None,
            model: None,
            decision: "",
        }
    }
}

/// What the audit trail records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditAction {
    /// A request was taken up.
    Requested,
    /// A plan was made.
    Proposed,
    /// Somebody approved.
    Approved,
    /// Somebody denied.
    Denied,
    /// Somebody approved or denied, and it does not count.
    Ignored,
    /// A word was taken back.
    Revoked,
    /// A plan began, or began to be put back.
    Begun,
    /// A step changed the cluster.
    Executed,
    /// A step did not get there, or could not be put back.
    Failed,
    /// A step was put back.
    RolledBack,
    /// The plan ended.
    Finished,
    /// Policy or rights refused something.
    Refused,
}

impl fmt::Display for AuditAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Requested => "requested",
            Self::Proposed => "proposed",
            Self::Approved => "approved",
            Self::Denied => "denied",
            Self::Ignored => "ignored",
            Self::Revoked => "revoked",
            Self::Begun => "begun",
            Self::Executed => "executed",
            Self::Failed => "failed",
            Self::RolledBack => "rolled-back",
            Self::Finished => "finished",
            Self::Refused => "refused",
        })
    }
}

/// Writes `event` to the log.
pub fn record(event: AuditEvent<'_>) {
    tracing::info!(
        target: "audit",
        action = %event.action,
        actor = event.actor,
        namespace = event.namespace,
        command = event.command,
        plan = event.plan,
        digest = event.digest,
        approval = event.approval,
        planner = event.planner,
        model = event.model,
        decision = event.decision,
        "{} {}", event.actor, event.action
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::logging::captured;

    #[test]
    fn a_line_says_who_did_what_about_which_plan() {
        let lines = captured(|| {
            record(AuditEvent {
                plan: Some("scale-checkout-1"),
                digest: Some("sha256:00"),
                approval: Some("scale-checkout-1-bob"),
                decision: "Counted",
                ..AuditEvent::new(AuditAction::Approved, "bob", "staging")
            });
        });
        let line: serde_json::Value = serde_json::from_str(&lines).unwrap();
        assert_eq!(line["target"], "audit");
        assert_eq!(line["message"], "bob approved");
        assert_eq!(line["plan"], "scale-checkout-1");
        assert_eq!(line["digest"], "sha256:00");
        assert_eq!(line["decision"], "Counted");
        assert_eq!(line["approval"], "scale-checkout-1-bob");
        assert_eq!((line.get("command"), line.get("model")), (None, None));
    }
}
