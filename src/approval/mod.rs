//! Counting approvals: whether the people who may have said yes to exactly this plan.
//!
//! The admission policies refuse most of what does not count at the API server already. Everything is judged here again,
//! because policies can be removed and approvals can be older than they are.

use crate::api::{ApprovalRecord, ApprovalVerdict, Decision, ExecutionPlan, PlanApproval};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use std::collections::BTreeSet;
use std::time::Duration;

/// What it takes to approve a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// How many people must say yes.
    pub need: u32,
    /// Whoever decides must be in at least one group of each of these lists.
    pub approver_groups: Vec<Vec<String>>,
    /// Whether the requester's own approval does not count.
    pub separation_of_duties: bool,
    /// How long an approval is good for; for ever when absent.
    pub lifetime: Option<Duration>,
    /// The time at which they are judged.
    pub now: Timestamp,
}

impl Terms {
    /// The built-in terms: `need` people, none of whom asked, whatever their groups and the age of their word.
    #[must_use]
    pub const fn new(need: u32, now: Timestamp) -> Self {
        Self { need, approver_groups: Vec::new(), separation_of_duties: true, lifetime: None, now }
    }

    /// When an approval stops to count.
    fn expiry(&self, approval: &PlanApproval) -> Option<Timestamp> {
        let lifetime = SignedDuration::try_from(self.lifetime?).unwrap_or(SignedDuration::MAX);
        created(approval)?.0.checked_add(lifetime).ok()
    }
}

/// The verdict on all approvals of one plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// Every approval with whether it counts, and why not; oldest first.
    pub records: Vec<ApprovalRecord>,
    /// What follows.
    pub outcome: Outcome,
    /// When the first of the approvals that count stops to count.
    pub expires: Option<Timestamp>,
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

/// Judges all approvals of `plan`, whose digest is `digest`, by `terms`.
///
/// One person counts once. The plan's own service account does not count; nor, unless the terms say otherwise, does
/// whoever asked, and as long as it is unknown who asked, nobody does. A denial by anybody who may approve ends the plan.
#[must_use]
pub fn judge(plan: &ExecutionPlan, digest: &str, terms: &Terms, approvals: &[PlanApproval]) -> Judgement {
    let need = terms.need;
    let mut approvals: Vec<&PlanApproval> =
        approvals.iter().filter(|approval| approval.spec.plan == plan.name_any()).collect();
    approvals.sort_by_key(|approval| (created(approval).map(|time| time.0), approval.name_any()));
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    let mut by: Vec<String> = Vec::new();
    let mut denied = None;
    let mut expires: Option<Timestamp> = None;
    let mut records = Vec::new();
    for approval in approvals {
        let objection = objection(plan, digest, approval, &seen, terms);
        let approver = approval.spec.approver.as_ref().map(|approver| approver.username.as_str()).unwrap_or_default();
        if objection.is_none() {
            match approval.spec.decision {
                Decision::Approve => {
                    seen.insert(approver);
                    by.push(approver.to_owned());
                    let expiry = terms.expiry(approval);
                    expires = expires.map_or(expiry, |known| Some(expiry.map_or(known, |expiry| known.min(expiry))));
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
    Judgement { records, outcome, expires }
}

fn created(approval: &PlanApproval) -> Option<Time> {
    approval.metadata.creation_timestamp.clone()
}

/// Why an approval does not count, in one sentence; `None` when it does.
fn objection(
    plan: &ExecutionPlan,
    digest: &str,
    approval: &PlanApproval,
    seen: &BTreeSet<&str>,
    terms: &Terms,
) -> Option<String> {
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
    if let Some(objection) = outside_groups(approval, terms) {
        return Some(objection);
    }
    if spec.decision == Decision::Deny {
        return None;
    }
    if let Some(objection) = own_plan(plan, approver, terms) {
        return Some(objection);
    }
    let account = plan.spec.service_account_name.as_deref().unwrap_or("default");
    let namespace = plan.namespace().unwrap_or_default();
    if approver == format!("system:serviceaccount:{namespace}:{account}") {
        return Some(format!("{approver} is the account that the plan runs as"));
    }
    if let Some(expiry) = terms.expiry(approval).filter(|expiry| *expiry <= terms.now) {
        return Some(format!("it expired at {}: approve again", expiry.strftime("%F %T UTC")));
    }
    seen.contains(approver).then(|| format!("{approver} has approved already: one person counts once"))
}

/// Policy names the groups of those who decide, and this approver is in none of them.
fn outside_groups(approval: &PlanApproval, terms: &Terms) -> Option<String> {
    let approver = approval.spec.approver.as_ref()?;
    let outside =
        terms.approver_groups.iter().find(|groups| !groups.iter().any(|group| approver.groups.contains(group)))?;
    Some(format!("{} is in no group that policy asks for: {}", approver.username, outside.join(" or ")))
}

/// The approver asked for the plan, or may have.
fn own_plan(plan: &ExecutionPlan, approver: &str, terms: &Terms) -> Option<String> {
    if !terms.separation_of_duties {
        return None;
    }
    let Some(requester) = plan.spec.requested_by.as_ref().filter(|requester| !requester.username.is_empty()) else {
        return Some("it is unknown who asked for the plan, so nobody else can be told apart".to_owned());
    };
    (requester.username == approver).then(|| format!("{approver} asked for the plan: somebody else has to approve it"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{ExecutionPlanSpec, PlanApprovalSpec, Requester};

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

    fn terms(need: u32) -> Terms {
        Terms::new(need, Timestamp::from_second(1000).unwrap())
    }

    fn outcome(plan: &ExecutionPlan, need: u32, approvals: &[PlanApproval]) -> Outcome {
        judge(plan, DIGEST, &terms(need), approvals).outcome
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
            let judgement = judge(&plan(Some("alice")), DIGEST, &terms(1), &[approval]);
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
        assert!(judge(&plan, DIGEST, &terms(1), &[]).approve(&plan).is_none());
        assert!(judge(&plan, DIGEST, &terms(0), &[]).approve(&plan).is_some());
        assert!(ApprovedPlan::begun(&plan).is_none());
    }

    #[test]
    fn approvals_hold_for_their_lifetime_and_no_longer() {
        let plan = plan(Some("alice"));
        let both = [approval("a", "bob", 400), approval("b", "carol", 500)];
        for (lifetime, outcome, expires) in [
            (None, Outcome::Approved { by: vec!["bob".into(), "carol".into()] }, None),
            (Some(601), Outcome::Approved { by: vec!["bob".into(), "carol".into()] }, Some(1001)),
            (Some(600), Outcome::Waiting { have: 1, need: 2 }, Some(1100)),
            (Some(500), Outcome::Waiting { have: 0, need: 2 }, None),
        ] {
            let terms = Terms { lifetime: lifetime.map(Duration::from_secs), ..terms(2) };
            let judgement = judge(&plan, DIGEST, &terms, &both);
            assert_eq!(judgement.outcome, outcome);
            assert_eq!(judgement.expires.map(Timestamp::as_second), expires);
        }
        let terms = Terms { lifetime: Some(Duration::from_secs(60)), ..terms(1) };
        let judgement = judge(&plan, DIGEST, &terms, &both);
        let message = judgement.records[0].message.clone().unwrap();
        assert_eq!(message, "it expired at 1970-01-01 00:07:40 UTC: approve again");
    }

    #[test]
    fn only_members_of_the_asked_groups_decide() {
        let in_groups = |name: &str, groups: &[&str], decision| {
            let mut approval = approval(name, name, 101);
            approval.spec.decision = decision;
            approval.spec.approver =
                Some(Requester { username: name.into(), groups: groups.iter().map(ToString::to_string).collect() });
            approval
        };
        let groups = [vec!["sre".to_owned(), "leads".to_owned()], vec!["release".to_owned()]];
        let terms = Terms { approver_groups: groups.to_vec(), ..terms(1) };
        for (member_of, decision, outcome) in [
            (&["leads", "release"][..], Decision::Approve, Outcome::Approved { by: vec!["bob".into()] }),
            (&["leads"], Decision::Approve, Outcome::Waiting { have: 0, need: 1 }),
            (&[], Decision::Deny, Outcome::Waiting { have: 0, need: 1 }),
            (&["sre", "release"], Decision::Deny, Outcome::Denied { by: "bob".into(), reason: None }),
        ] {
            let approval = in_groups("bob", member_of, decision);
            assert_eq!(judge(&plan(Some("alice")), DIGEST, &terms, &[approval]).outcome, outcome);
        }
        let outside = judge(&plan(Some("alice")), DIGEST, &terms, &[in_groups("bob", &["sre"], Decision::Approve)]);
        assert_eq!(outside.records[0].message.as_deref(), Some("bob is in no group that policy asks for: release"));
    }

    #[test]
    fn without_separation_of_duties_ones_own_word_counts() {
        let terms = Terms { separation_of_duties: false, ..terms(1) };
        for requester in [Some("alice"), None] {
            let own = judge(&plan(requester), DIGEST, &terms, &[approval("a", "alice", 101)]);
            assert_eq!(own.outcome, Outcome::Approved { by: vec!["alice".into()] });
        }
        let account = approval("a", "system:serviceaccount:shop:default", 101);
        let judged = judge(&plan(Some("alice")), DIGEST, &terms, &[account]);
        assert_eq!(judged.outcome, Outcome::Waiting { have: 0, need: 1 });
    }
}
