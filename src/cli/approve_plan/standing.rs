//! What a plan that waits has to do with whoever looks at it.

use crate::api::{ApprovalVerdict, Decision, ExecutionPlan, Requester};
use crate::cli::page::Tone;

/// Whether somebody may say yes to a plan, and if not, why.
///
/// It is a hint that saves a refusal: the API server and the operator judge for themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It waits for them.
    MayApprove,
    /// They asked for it.
    Asked,
    /// Its steps run as them.
    RunsAs,
    /// They gave their word, and it counts.
    Decided(Decision),
    /// They do not hold the verb `approve` on it.
    NotAllowed,
    /// They are in none of these groups, and policy asks for one.
    OutsideGroups(Vec<String>),
    /// The API server does not say who they are.
    Unknown,
}

impl Standing {
    /// The standing of `me` towards `plan`; `allowed` says whether they hold the verb `approve` on it.
    #[must_use]
    pub fn of(plan: &ExecutionPlan, me: Option<&Requester>, allowed: bool) -> Self {
        let Some(me) = me else { return Self::Unknown };
        let status = plan.status.as_ref();
        let given = status.into_iter().flat_map(|status| &status.approvals);
        let counted = |record: &&crate::api::ApprovalRecord| {
            record.approver == me.username && record.verdict == ApprovalVerdict::Counted
        };
        if let Some(record) = given.clone().find(counted) {
            return Self::Decided(record.decision);
        }
        if !allowed {
            return Self::NotAllowed;
        }
        let terms = status.and_then(|status| status.terms.as_ref());
        let separated = terms.is_none_or(|terms| terms.separation_of_duties);
        if separated && plan.spec.requested_by.as_ref().is_some_and(|who| who.username == me.username) {
            return Self::Asked;
        }
        let namespace = plan.metadata.namespace.as_deref().unwrap_or_default();
        let account = plan.spec.service_account_name.as_deref().unwrap_or("default");
        if me.username == format!("system:serviceaccount:{namespace}:{account}") {
            return Self::RunsAs;
        }
        let lists = terms.map(|terms| terms.approver_groups.as_slice()).unwrap_or_default();
        match lists.iter().find(|list| !list.iter().any(|group| me.groups.contains(group))) {
            Some(list) => Self::OutsideGroups(list.clone()),
            None => Self::MayApprove,
        }
    }

    /// For a column of a table.
    #[must_use]
    pub fn word(&self) -> String {
        match self {
            Self::MayApprove => "may approve".to_owned(),
            Self::Asked => "asked".to_owned(),
            Self::RunsAs => "runs as you".to_owned(),
            Self::Decided(Decision::Approve) => "approved".to_owned(),
            Self::Decided(Decision::Deny) => "denied".to_owned(),
            Self::NotAllowed => "may not".to_owned(),
            Self::OutsideGroups(groups) => format!("not in {}", groups.join("|")),
            Self::Unknown => "?".to_owned(),
        }
    }

    /// For the screen of one plan.
    #[must_use]
    pub fn sentence(&self) -> Option<String> {
        Some(match self {
            Self::MayApprove => "may approve this plan".to_owned(),
            Self::Asked => "asked for this plan, so somebody else has to approve it".to_owned(),
            Self::RunsAs => "are the account that its steps run as, so somebody else has to approve it".to_owned(),
            Self::Decided(Decision::Approve) => "approved it; `revoke` takes that back until it starts".to_owned(),
            Self::Decided(Decision::Deny) => "denied it".to_owned(),
            Self::NotAllowed => "may not approve it: that takes the verb \"approve\" on it".to_owned(),
            Self::OutsideGroups(groups) => {
                format!("may not approve it: policy asks for members of {}", groups.join(" or "))
            }
            Self::Unknown => return None,
        })
    }

    /// How it is shown.
    #[must_use]
    pub const fn tone(&self) -> Tone {
        match self {
            Self::MayApprove => Tone::Changed,
            Self::Decided(Decision::Approve) => Tone::Added,
            Self::Decided(Decision::Deny) => Tone::Removed,
            _ => Tone::Faint,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn standing(name: &str, groups: &[&str], allowed: bool, status: &Value) -> Standing {
        let plan: ExecutionPlan = serde_json::from_value(json!({
            "metadata": { "name": "p", "namespace": "shop" },
            "spec": { "steps": [], "requestedBy": { "username": "alice" }, "serviceAccountName": "deployer" },
            "status": status
        }))
        .unwrap();
        let me = Requester { username: name.to_owned(), groups: groups.iter().map(ToString::to_string).collect() };
        Standing::of(&plan, Some(&me), allowed)
    }

    fn terms(separation: bool, groups: &[&[&str]]) -> Value {
        json!({ "terms": { "approvals": 1, "separationOfDuties": separation, "approverGroups": groups } })
    }

    #[test]
    fn a_plan_waits_for_those_who_may_and_did_not_ask() {
        assert_eq!(standing("bob", &[], true, &json!({})), Standing::MayApprove);
        assert_eq!(standing("bob", &[], false, &json!({})), Standing::NotAllowed);
        assert_eq!(standing("alice", &[], true, &json!({})), Standing::Asked);
        assert_eq!(standing("alice", &[], true, &terms(false, &[])), Standing::MayApprove);
        assert_eq!(standing("system:serviceaccount:shop:deployer", &[], true, &json!({})), Standing::RunsAs);
    }

    #[test]
    fn groups_are_asked_for_list_by_list() {
        let both = terms(true, &[&["sre", "leads"], &["release"]]);
        assert_eq!(standing("bob", &["leads", "release"], true, &both), Standing::MayApprove);
        assert_eq!(standing("bob", &["leads"], true, &both), Standing::OutsideGroups(vec!["release".to_owned()]));
    }

    #[test]
    fn a_word_that_counts_is_given_one_that_does_not_may_be_given_again() {
        let given = |verdict: &str| json!({ "approvals": [{ "name": "a", "approver": "bob", "decision": "Approve", "verdict": verdict }] });
        assert_eq!(standing("bob", &[], true, &given("Counted")), Standing::Decided(Decision::Approve));
        assert_eq!(standing("bob", &[], true, &given("Ignored")), Standing::MayApprove);
    }

    #[test]
    fn whoever_is_not_known_gets_no_promise() {
        assert_eq!(Standing::of(&ExecutionPlan::new("p", Default::default()), None, true), Standing::Unknown);
    }
}
