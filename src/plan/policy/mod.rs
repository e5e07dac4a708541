//! What the policies say to a plan: whether it may run, and what it needs first.
//!
//! Everything here is pure: policies, plan and time go in, a [`Verdict`] comes out. Of all policies that match, the
//! strictest value of each field holds, and the verdict tells which policy asked for what. What cannot be judged makes
//! the plan wait; it never lets it through.

mod budget;
mod calendar;
mod compiled;
mod constraint;
mod examples;
mod facts;
mod quota;
mod rules;
mod sticky;
mod terms;

pub use budget::{Amount, Spending};
pub use compiled::{CompiledPolicy, PolicyFault};
pub use examples::ExampleOutcome;
pub use facts::PlanFacts;
pub use sticky::{still_demanded, stricter};
pub use terms::written;

use crate::api::{ExecutionPlanSpec, PolicyDemand, RiskLevel};
use crate::tools::glob;
use k8s_openapi::jiff::Timestamp;
use std::borrow::Borrow;
use std::fmt;
use std::time::Duration;

/// How many people must approve a plan of that risk when no policy says otherwise: none for `low`, one for `medium` and
/// `high`, two for `critical`.
#[must_use]
pub const fn approvals_required(risk: RiskLevel) -> u32 {
    match risk {
        RiskLevel::Low => 0,
        RiskLevel::Medium | RiskLevel::High => 1,
        RiskLevel::Critical => 2,
    }
}

/// How many people must approve a plan whatever the policies say: one where a model proposed it. Nothing that a model makes
/// of a request is executed before a person read it.
#[must_use]
pub fn least_approvals(spec: &ExecutionPlanSpec) -> u32 {
    u32::from(spec.proposed_by.as_ref().is_some_and(|proposer| proposer.model.is_some()))
}

/// What all policies together say to a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it may run.
    pub ruling: Ruling,
    /// How many people must approve.
    pub approvals_required: u32,
    /// An approver must be in at least one group of each of these lists.
    pub approver_groups: Vec<Vec<String>>,
    /// Whether the requester's own approval does not count.
    pub separation_of_duties: bool,
    /// How long an approval is good for; for ever when absent.
    pub approval_lifetime: Option<Duration>,
    /// How long a plan may wait for its approvals.
    pub approval_deadline: Duration,
    /// How long the changed workloads must be watched.
    pub observe: Option<Duration>,
    /// Which policy asks for what, by name.
    pub demanded_by: Vec<PolicyDemand>,
    /// The policies that match.
    pub matching: Vec<String>,
}

/// Whether a plan may run, approvals aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// It may, once it has its approvals.
    Allow,
    /// It never may.
    Deny {
        /// Why, one sentence a policy.
        reasons: Vec<String>,
    },
    /// Not now.
    Wait {
        /// Why, one sentence a policy.
        reasons: Vec<String>,
        /// When to ask again; when a policy changes if absent.
        until: Option<Timestamp>,
    },
}

/// What one rule of a policy has against a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Objection {
    Deny(String),
    Wait { reason: String, until: Option<Timestamp> },
}

/// One kind of rule.
trait Evaluate: fmt::Debug + Send + Sync {
    /// What it has against the plan. `now` is absent where time is not to be judged.
    fn evaluate(&self, facts: &PlanFacts<'_>, now: Option<Timestamp>) -> Vec<Objection>;
}

/// Judges a plan by all policies that match it. Without a time, windows and freezes are left out.
#[must_use]
pub fn judge<P>(policies: &[P], facts: &PlanFacts<'_>, now: Option<Timestamp>) -> Verdict
where
    P: Borrow<CompiledPolicy>,
{
    let matching: Vec<&CompiledPolicy> =
        policies.iter().map(Borrow::borrow).filter(|policy: &&CompiledPolicy| policy.matches(facts)).collect();
    let mut denials = Vec::new();
    let mut waits = Vec::new();
    let mut until: Option<Timestamp> = None;
    for policy in &matching {
        for objection in policy.objections(facts, now) {
            match objection {
                Objection::Deny(reason) => denials.push(format!("policy {}: {reason}", policy.name())),
                Objection::Wait { reason, until: end } => {
                    waits.push(format!("policy {}: {reason}", policy.name()));
                    until = until.max(end);
                }
            }
        }
    }
    let ruling = if !denials.is_empty() {
        Ruling::Deny { reasons: denials }
    } else if waits.is_empty() {
        Ruling::Allow
    } else {
        Ruling::Wait { reasons: waits, until }
    };
    terms::verdict(ruling, &matching, facts)
}

/// `text` in the sense of `pattern`, in which `*` stands for any text; letters are compared without regard to case, for a
/// rule that never matches because of a capital protects nothing.
fn matches_glob(pattern: &str, text: &str) -> bool {
    glob(&pattern.to_lowercase(), &text.to_lowercase())
}

#[cfg(test)]
mod tests;
