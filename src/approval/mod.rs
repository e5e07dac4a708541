//! Counting approvals: whether the people who may have said yes to exactly this plan.
//!
//! The admission policies refuse most of what does not count at the API server already. Everything is judged here again,
//! because policies can be removed and approvals can be older than they are. What only the cluster knows, the rights of
//! those who decide, is asked by [`lost_right`] and [`borrowed_account`] and handed to [`judge`] as [`Terms::objections`].

mod rights;

pub use rights::{borrowed_account, lost_right};

use crate::api::{
    ApprovalRecord, ApprovalTerms, ApprovalVerdict, Decision, ExecutionPlan, GROUP, PlanApproval, is_deceptive,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use std::collections::{BTreeMap, BTreeSet};
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
    /// Approvals, by uid, that were there before the plan had a digest that could be approved.
    pub earlier: BTreeSet<String>,
    /// What the cluster has against an approval, by uid, in one sentence.
    pub objections: BTreeMap<String, String>,
}

impl Terms {
    /// The built-in terms: `need` people, none of whom asked, whatever their groups and the age of their word.
    #[must_use]
    pub const fn new(need: u32, now: Timestamp) -> Self {
        Self {
            need,
            approver_groups: Vec::new(),
            separation_of_duties: true,
            lifetime: None,
            now,
            earlier: BTreeSet::new(),
            objections: BTreeMap::new(),
        }
    }

    /// Those terms, to be judged at `now`.
    #[must_use]
    pub fn of(terms: &ApprovalTerms, now: Timestamp) -> Self {
        Self {
            approver_groups: terms.approver_groups.clone(),
            separation_of_duties: terms.separation_of_duties,
            lifetime: terms.approval_lifetime.map(Duration::from),
            ..Self::new(terms.approvals, now)
        }
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
            uid: approval.uid(),
            approver: approver.to_owned(),
            digest: Some(approval.spec.digest.clone()),
            decision: approval.spec.decision,
            verdict: if objection.is_none() { ApprovalVerdict::Counted } else { ApprovalVerdict::Ignored },
            message: objection.or_else(|| approval.spec.reason.clone()),
            at: created(approval),
            before_plan: is_earlier(plan, approval, terms),
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
    if is_of_another_plan(plan, approval) {
        return Some("it was given for another plan of that name: read this one and approve again".to_owned());
    }
    if is_earlier(plan, approval, terms) {
        return Some("it is older than the plan: read the plan and approve again".to_owned());
    }
    if spec.digest != digest {
        return Some(format!("it speaks of digest {}, this plan's is {digest}: read the plan again", spec.digest));
    }
    let Some(approver) =
        spec.approver.as_ref().map(|approver| approver.username.as_str()).filter(|name| !name.is_empty())
    else {
        return Some("it does not say who gave it: the admission policies are not installed".to_owned());
    };
    if approver.chars().any(is_invisible) {
        return Some(format!(
            "the name {approver:?} has characters that cannot be seen, so nobody can tell whose word it is"
        ));
    }
    if let Some(objection) = outside_groups(approval, terms) {
        return Some(objection);
    }
    let found_out = || approval.uid().and_then(|uid| terms.objections.get(&uid)).cloned();
    if spec.decision == Decision::Deny {
        return found_out();
    }
    if let Some(objection) = own_plan(plan, approver, terms) {
        return Some(objection);
    }
    let account = plan.spec.service_account_name.as_deref().unwrap_or("default");
    let namespace = plan.namespace().unwrap_or_default();
    if approver == format!("system:serviceaccount:{namespace}:{account}") {
        return Some(format!("{approver} is the account that the plan runs as"));
    }
    if let Some(objection) = found_out() {
        return Some(objection);
    }
    if let Some(expiry) = terms.expiry(approval).filter(|expiry| *expiry <= terms.now) {
        return Some(format!("it expired at {}: approve again", expiry.strftime("%F %T UTC")));
    }
    seen.contains(approver).then(|| format!("{approver} has approved already: one person counts once"))
}

/// It names a plan of another uid as its owner: the operator recorded it for that one.
fn is_of_another_plan(plan: &ExecutionPlan, approval: &PlanApproval) -> bool {
    let is_plan = |kind: &str, version: &str| kind == "ExecutionPlan" && version.split('/').next() == Some(GROUP);
    let mut owners = approval.owner_references().iter().filter(|owner| is_plan(&owner.kind, &owner.api_version));
    owners.any(|owner| Some(&owner.uid) != plan.metadata.uid.as_ref())
}

/// Nobody can have read the plan before they gave it. Times have seconds; whether it was there before the plan had a
/// digest has none.
fn is_earlier(plan: &ExecutionPlan, approval: &PlanApproval, terms: &Terms) -> bool {
    let times = (&plan.metadata.creation_timestamp, created(approval));
    let older = matches!(times, (Some(plan), Some(approval)) if approval.0 < plan.0);
    older || approval.uid().is_some_and(|uid| terms.earlier.contains(&uid))
}

/// What no name needs: control characters, and those that take no place or turn the order of what is read. The soft hyphen and
/// the joiners have a meaning in text, but not in a name.
fn is_invisible(character: char) -> bool {
    character.is_control() || is_deceptive(character) || matches!(character, '\u{ad}' | '\u{200c}' | '\u{200d}')
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
mod tests;
