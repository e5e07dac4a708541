//! Counting approvals: whether the people who may have said yes to exactly this plan.
//!
//! The admission policies refuse most of what does not count at the API server already. Everything is judged here again,
//! because policies can be removed and approvals can be older than they are.

use crate::api::{ApprovalRecord, ApprovalVerdict, Decision, ExecutionPlan, PlanApproval};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use std::collections::BTreeSet;

/// The verdict on all approvals of one plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// Every approval with whether it counts, and why not; oldest first.
    pub records: Vec<ApprovalRecord>,
    /// What follows.
    pub outcome: Outcome,
}

/// What the approvals amount to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Enough people said yes.
    Approved {
        /// Who, in the order of their approvals.
        by: Vec<String>,
    },
    /// More have to say yes.
    Waiting {
        /// How many did.
        have: u32,
        /// How many must.
        need: u32,
    },
    /// Somebody said no.
    Denied {
        /// Who.
        by: String,
        /// Why, in their words.
        reason: Option<String>,
    },
}

/// A plan that was approved. Only [`Judgement::approve`] makes one, and only the executor takes one: a plan nobody
/// countersigned cannot be carried out by mistake.
#[derive(Clone, Debug)]
pub struct ApprovedPlan {
    plan: ExecutionPlan,
}

impl ApprovedPlan {
    /// The plan.
    #[must_use]
    pub fn plan(&self) -> &ExecutionPlan {
        &self.plan
    }

    /// A plan whose journal shows that it was approved and begun: it has to be brought to its end, whatever became of
    /// the approvals since. `None` for a plan that has not begun.
    #[must_use]
    pub fn begun(plan: &ExecutionPlan) -> Option<Self> {
        plan.status.as_ref()?.started_at.as_ref()?;
        Some(Self { plan: plan.clone() })
    }
}

impl Judgement {
    /// How many approvals count.
    #[must_use]
    pub fn counted(&self) -> usize {
        let counts = |record: &&ApprovalRecord| {
            record.verdict == ApprovalVerdict::Counted && record.decision == Decision::Approve
        };
        self.records.iter().filter(counts).count()
    }

    /// The approved plan, if it is approved.
    #[must_use]
    pub fn approve(&self, plan: &ExecutionPlan) -> Option<ApprovedPlan> {
        matches!(self.outcome, Outcome::Approved { .. }).then(|| ApprovedPlan { plan: plan.clone() })
    }
}

/// Judges all approvals of `plan`, whose digest is `digest`, when `need` people must say yes.
///
/// One person counts once. Neither whoever asked nor the plan's own service account counts, and as long as it is unknown
/// who asked, nobody does. A denial by anybody who may approve ends the plan.
#[must_use]
pub fn judge(plan: &ExecutionPlan, digest: &str, need: u32, approvals: &[PlanApproval]) -> Judgement {
    let mut approvals: Vec<&PlanApproval> =
        approvals.iter().filter(|approval| approval.spec.plan == plan.name_any()).collect();
    approvals.sort_by_key(|approval| (created(approval).map(|time| time.0), approval.name_any()));
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    let mut by: Vec<String> = Vec::new();
    let mut denied = None;
    let mut records = Vec::new();
    for approval in approvals {
        let objection = objection(plan, digest, approval, &seen);
        let approver = approval.spec.approver.as_ref().map(|approver| approver.username.as_str()).unwrap_or_default();
        if objection.is_none() {
            match approval.spec.decision {
                Decision::Approve => {
                    seen.insert(approver);
                    by.push(approver.to_owned());
                }
                Decision::Deny if denied.is_none() => {
                    denied = Some((approver.to_owned(), approval.spec.reason.clone()));
                }
                Decision::Deny => {}
            }
        }
        records.push(ApprovalRecord {
            name: approval.name_any(),
            approver: approver.to_owned(),
            decision: approval.spec.decision,
            verdict: if objection.is_none() { ApprovalVerdict::Counted } else { ApprovalVerdict::Ignored },
            message: objection.or_else(|| approval.spec.reason.clone()),
            at: created(approval),
        });
    }
    let have = u32::try_from(by.len()).unwrap_or(u32::MAX);
    let outcome = match denied {
        Some((by, reason)) => Outcome::Denied { by, reason },
        None if have >= need => Outcome::Approved { by },
        None => Outcome::Waiting { have, need },
    };
    Judgement { records, outcome }
}

fn created(approval: &PlanApproval) -> Option<Time> {
    approval.metadata.creation_timestamp.clone()
}

/// Why an approval does not count, in one sentence; `None` when it does.
fn objection(plan: &ExecutionPlan, digest: &str, approval: &PlanApproval, seen: &BTreeSet<&str>) -> Option<String> {
    let spec = &approval.spec;
    if approval.metadata.deletion_timestamp.is_some() {
        return Some("it was taken back".to_owned());
    }
    if spec.digest != digest {
        return Some(format!("it speaks of digest {}, this plan's is {digest}: read the plan again", spec.digest));
    }
    if let (Some(plan_time), Some(time)) = (&plan.metadata.creation_timestamp, created(approval))
        && time.0 < plan_time.0
    {
        return Some("it is older than the plan".to_owned());
    }
    let Some(approver) =
        spec.approver.as_ref().map(|approver| approver.username.as_str()).filter(|name| !name.is_empty())
    else {
        return Some("it does not say who gave it: the admission policies are not installed".to_owned());
    };
    if spec.decision == Decision::Deny {
        return None;
    }
    let Some(requester) = plan.spec.requested_by.as_ref().filter(|requester| !requester.username.is_empty()) else {
        return Some("it is unknown who asked for the plan, so nobody else can be told apart".to_owned());
    };
    if requester.username == approver {
        return Some(format!("{approver} asked for the plan: somebody else has to approve it"));
    }
    let account = plan.spec.service_account_name.as_deref().unwrap_or("default");
    let namespace = plan.namespace().unwrap_or_default();
    if approver == format!("system:serviceaccount:{namespace}:{account}") {
        return Some(format!("{approver} is the account that the plan runs as"));
    }
    seen.contains(approver).then(|| format!("{approver} has approved already: one person counts once"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{ExecutionPlanSpec, PlanApprovalSpec, Requester};
    use k8s_openapi::jiff::Timestamp;

    const DIGEST: &str = "sha256:aa";

    fn plan(requester: Option<&str>) -> ExecutionPlan {
        let requested_by = requester.map(|name| Requester { username: name.into(), groups: vec![] });
        let mut plan = ExecutionPlan::new("p", ExecutionPlanSpec { requested_by, ..ExecutionPlanSpec::default() });
        plan.metadata.namespace = Some("shop".into());
        plan.metadata.creation_timestamp = Some(Time(Timestamp::from_second(100).unwrap()));
        plan
    }

    fn approval(name: &str, approver: &str, at: i64) -> PlanApproval {
        let mut approval = PlanApproval::new(
            name,
            PlanApprovalSpec {
                plan: "p".into(),
                digest: DIGEST.into(),
                decision: Decision::Approve,
                reason: None,
                approver: (!approver.is_empty()).then(|| Requester { username: approver.into(), groups: vec![] }),
            },
        );
        approval.metadata.creation_timestamp = Some(Time(Timestamp::from_second(at).unwrap()));
        approval
    }

    fn outcome(plan: &ExecutionPlan, need: u32, approvals: &[PlanApproval]) -> Outcome {
        judge(plan, DIGEST, need, approvals).outcome
    }

    #[test]
    fn two_people_are_two_one_person_is_one() {
        let plan = plan(Some("alice"));
        let twice = [approval("a", "bob", 101), approval("b", "bob", 102)];
        assert_eq!(outcome(&plan, 2, &twice), Outcome::Waiting { have: 1, need: 2 });
        let both = [approval("a", "bob", 101), approval("b", "carol", 102)];
        assert_eq!(outcome(&plan, 2, &both), Outcome::Approved { by: vec!["bob".into(), "carol".into()] });
    }

    #[test]
    fn what_does_not_count_says_why() {
        let wrong_digest = PlanApproval {
            spec: PlanApprovalSpec { digest: "sha256:bb".into(), ..approval("a", "bob", 101).spec },
            ..approval("a", "bob", 101)
        };
        let mut revoked = approval("a", "bob", 101);
        revoked.metadata.deletion_timestamp = Some(Time(Timestamp::from_second(102).unwrap()));
        for (approval, words) in [
            (approval("a", "alice", 101), "somebody else has to approve"),
            (approval("a", "bob", 99), "older than the plan"),
            (approval("a", "", 101), "does not say who gave it"),
            (approval("a", "system:serviceaccount:shop:default", 101), "the account that the plan runs as"),
            (wrong_digest, "read the plan again"),
            (revoked, "taken back"),
        ] {
            let judgement = judge(&plan(Some("alice")), DIGEST, 1, &[approval]);
            assert_eq!(judgement.outcome, Outcome::Waiting { have: 0, need: 1 });
            let message = judgement.records[0].message.clone().unwrap();
            assert!(message.contains(words), "{message}");
        }
    }

    #[test]
    fn an_unknown_requester_is_never_somebody_else() {
        assert_eq!(outcome(&plan(None), 1, &[approval("a", "bob", 101)]), Outcome::Waiting { have: 0, need: 1 });
    }

    #[test]
    fn a_denial_ends_it() {
        let mut no = approval("a", "bob", 101);
        no.spec.decision = Decision::Deny;
        no.spec.reason = Some("not today".into());
        let yes = approval("b", "carol", 102);
        assert_eq!(
            outcome(&plan(Some("alice")), 1, &[no, yes]),
            Outcome::Denied { by: "bob".into(), reason: Some("not today".into()) }
        );
    }

    #[test]
    fn only_an_approved_plan_becomes_an_approved_plan() {
        let plan = plan(Some("alice"));
        assert!(judge(&plan, DIGEST, 1, &[]).approve(&plan).is_none());
        assert!(judge(&plan, DIGEST, 0, &[]).approve(&plan).is_some());
        assert!(ApprovedPlan::begun(&plan).is_none());
    }
}
