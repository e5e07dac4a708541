use super::{CompiledPolicy, PlanFacts, Ruling, Verdict, approvals_required};
use crate::api::{Automation, PolicyDemand, RiskLevel, hours_minutes_seconds};
use std::time::Duration;

/// How long a plan waits for its approvals where no policy says so. What was shown a month ago is not what one would
/// approve today.
const DEADLINE: Duration = Duration::from_secs(720 * 3600);
/// Name under which the rules stand that hold where no policy says anything.
const BUILT_IN: &str = "built-in";
/// What is asked for that is no term of approval: who lifts it has lifted it.
pub(super) const PASSING: [&str; 2] = ["that nothing is changed", "beginning within its change windows"];

/// The strictest value of each field of all policies that match, and who asked for it.
pub(super) fn verdict(ruling: Ruling, policies: &[&CompiledPolicy], facts: &PlanFacts<'_>) -> Verdict {
    let risk = facts.risk;
    let specs = || policies.iter().map(|policy| policy.spec());
    let automation = specs().filter_map(|spec| spec.automation).min().unwrap_or(Automation::SemiAuto);
    let configured = specs().filter_map(|spec| spec.approvals.as_ref()?.of(risk)).max();
    let built_in = approvals_required(risk);
    let by_risk = match automation {
        Automation::Full => configured.unwrap_or(built_in),
        Automation::ReadOnly | Automation::Manual | Automation::SemiAuto => configured.unwrap_or(0).max(built_in),
    };
    let approvals = by_risk.max(u32::from(automation <= Automation::Manual));
    let separation = specs().filter_map(|spec| spec.separation_of_duties).max().unwrap_or(true);
    let deadline = specs().filter_map(|spec| spec.approval_deadline).map(Duration::from).min();
    let lifetime = specs().filter_map(|spec| spec.approval_lifetime).map(Duration::from).min();
    let watches = specs().filter_map(|spec| spec.observe.as_ref()).map(|observe| Duration::from(observe.duration));
    let observe = watches.max().filter(|_| facts.mutates());
    let groups = specs().map(|spec| spec.approver_groups.clone()).filter(|groups| !groups.is_empty()).collect();
    let mut demanded_by: Vec<PolicyDemand> = policies
        .iter()
        .map(|policy| PolicyDemand {
            name: policy.name().to_owned(),
            asks: asks(policy, risk),
            ..PolicyDemand::default()
        })
        .filter(|demand| !demand.asks.is_empty())
        .collect();
    let mut defaults = Vec::new();
    let met = configured.is_some_and(|configured| configured >= by_risk);
    if by_risk > 0 && !met {
        defaults.push(people(by_risk, risk));
    }
    if approvals > 0 && separation && specs().all(|spec| spec.separation_of_duties.is_none()) {
        defaults.push("approval by somebody else than the requester".to_owned());
    }
    if !defaults.is_empty() {
        demanded_by.push(PolicyDemand { name: BUILT_IN.to_owned(), asks: defaults, ..PolicyDemand::default() });
    }
    Verdict {
        ruling,
        approvals_required: approvals,
        approver_groups: groups,
        separation_of_duties: separation,
        approval_lifetime: lifetime,
        approval_deadline: deadline.unwrap_or(DEADLINE),
        observe,
        demanded_by,
        matching: policies.iter().filter(|policy| policy.selects()).map(|policy| policy.name().to_owned()).collect(),
    }
}

fn people(count: u32, risk: RiskLevel) -> String {
    format!("{count} {} at {risk} risk", if count == 1 { "approval" } else { "approvals" })
}

/// What one policy asks of a plan of that risk.
fn asks(policy: &CompiledPolicy, risk: RiskLevel) -> Vec<String> {
    let spec = policy.spec();
    let mut asks = Vec::new();
    match spec.automation {
        Some(Automation::ReadOnly) => asks.push(PASSING[0].to_owned()),
        Some(Automation::Manual) => asks.push("at least one approval".to_owned()),
        Some(Automation::SemiAuto | Automation::Full) | None => {}
    }
    let count = spec.approvals.as_ref().and_then(|approvals| approvals.of(risk));
    asks.extend(count.filter(|count| *count > 0).map(|count| people(count, risk)));
    if !spec.approver_groups.is_empty() {
        asks.push(format!("approvers in group {}", spec.approver_groups.join(" or ")));
    }
    if spec.separation_of_duties == Some(true) {
        asks.push("approval by somebody else than the requester".to_owned());
    }
    asks.extend(
        spec.approval_lifetime.map(|lifetime| format!("approvals not older than {}", written(lifetime.into()))),
    );
    asks.extend(spec.approval_deadline.map(|deadline| format!("its approvals within {}", written(deadline.into()))));
    let observe = spec.observe.as_ref().map(|observe| written(observe.duration.into()));
    asks.extend(observe.map(|duration| format!("watching the workloads for {duration}")));
    if !spec.windows.is_empty() {
        asks.push(PASSING[1].to_owned());
    }
    asks
}

/// A duration as people write it in the API: `1h30m`.
#[must_use]
pub fn written(duration: Duration) -> String {
    let text = hours_minutes_seconds(duration.as_secs());
    if text.is_empty() { format!("{duration:?}") } else { text }
}
