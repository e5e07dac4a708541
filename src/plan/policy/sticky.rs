use super::Verdict;
use super::terms::PASSING;
use crate::api::{ApprovalTerms, PolicyDemand};
use std::collections::BTreeSet;

impl Verdict {
    /// The terms of approval that the policies ask for now.
    #[must_use]
    pub fn terms(&self) -> ApprovalTerms {
        let asked = ApprovalTerms {
            approvals: self.approvals_required,
            approver_groups: self.approver_groups.clone(),
            separation_of_duties: self.separation_of_duties,
            approval_lifetime: self.approval_lifetime.map(Into::into),
            approval_deadline: Some(self.approval_deadline.into()),
            observe: self.observe.map(Into::into),
            policies: self.matching.clone(),
        };
        stricter(&asked, &asked)
    }
}

/// Terms that ask for whatever either of two asks for.
///
/// The order does not matter, nor how often or in which groups terms are joined, and what comes out is never less strict
/// than what went in. So a plan that keeps the terms of every judgement keeps the strictest of them.
#[must_use]
pub fn stricter(one: &ApprovalTerms, other: &ApprovalTerms) -> ApprovalTerms {
    let deadlines = [one.approval_deadline, other.approval_deadline];
    let lifetimes = [one.approval_lifetime, other.approval_lifetime];
    let lists: BTreeSet<BTreeSet<&String>> =
        one.approver_groups.iter().chain(&other.approver_groups).map(|groups| groups.iter().collect()).collect();
    // Who is in a group of a list is in a group of every longer one that contains it.
    let implied = |list: &BTreeSet<&String>| lists.iter().any(|other| other != list && other.is_subset(list));
    let lists = lists.iter().filter(|list| !implied(list));
    let policies: BTreeSet<&String> = one.policies.iter().chain(&other.policies).collect();
    ApprovalTerms {
        approvals: one.approvals.max(other.approvals),
        approver_groups: lists.map(|list| list.iter().map(ToString::to_string).collect()).collect(),
        separation_of_duties: one.separation_of_duties || other.separation_of_duties,
        approval_lifetime: lifetimes.into_iter().flatten().min(),
        approval_deadline: deadlines.into_iter().flatten().min(),
        observe: one.observe.max(other.observe),
        policies: policies.into_iter().cloned().collect(),
    }
}

/// What is asked for `now`, and which terms of approval were asked for `before` and are not any more.
#[must_use]
pub fn still_demanded(before: &[PolicyDemand], now: &[PolicyDemand]) -> Vec<PolicyDemand> {
    let mut demands = now.to_vec();
    for old in before {
        let known = demands.iter().position(|demand| demand.name == old.name);
        let asks = known.map(|at| demands[at].asks.clone()).unwrap_or_default();
        let lasting = |ask: &&String| !PASSING.contains(&ask.as_str()) && !asks.contains(*ask);
        let asked: BTreeSet<String> = old.asked.iter().chain(&old.asks).filter(lasting).cloned().collect();
        let asked: Vec<String> = asked.into_iter().collect();
        match known {
            Some(at) => demands[at].asked = asked,
            None if asked.is_empty() => {}
            None => demands.push(PolicyDemand { name: old.name.clone(), asks: Vec::new(), asked }),
        }
    }
    demands
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn terms() -> impl Strategy<Value = ApprovalTerms> {
        let word = || prop::sample::select(vec!["a", "b", "c", "d"]).prop_map(str::to_owned);
        let groups = prop::collection::vec(prop::collection::vec(word(), 1..4), 0..4);
        let time = || prop::option::of((0_u64..5).prop_map(|hours| Duration::from_secs(hours * 3600).into()));
        let policies = prop::collection::vec(word(), 0..4);
        (0_u32..5, groups, any::<bool>(), time(), time(), time(), policies).prop_map(
            |(
                approvals,
                approver_groups,
                separation_of_duties,
                approval_lifetime,
                approval_deadline,
                observe,
                policies,
            )| {
                let drawn = ApprovalTerms {
                    approvals,
                    approver_groups,
                    separation_of_duties,
                    approval_lifetime,
                    approval_deadline,
                    observe,
                    policies,
                };
                stricter(&drawn, &drawn)
            },
        )
    }

    /// Whether somebody in those groups may decide.
    fn admits(terms: &ApprovalTerms, groups: &[&str]) -> bool {
        terms.approver_groups.iter().all(|list| list.iter().any(|group| groups.contains(&group.as_str())))
    }

    proptest! {
        #[test]
        fn joining_terms_is_a_semilattice(a in terms(), b in terms(), c in terms()) {
            prop_assert_eq!(stricter(&a, &b), stricter(&b, &a));
            prop_assert_eq!(stricter(&stricter(&a, &b), &c), stricter(&a, &stricter(&b, &c)));
            prop_assert_eq!(&stricter(&a, &a), &a);
        }

        #[test]
        fn joined_terms_admit_exactly_what_both_admit(a in terms(), b in terms(), member in prop::sample::subsequence(vec!["a", "b", "c", "d"], 0..=4)) {
            let joined = stricter(&a, &b);
            prop_assert_eq!(admits(&joined, &member), admits(&a, &member) && admits(&b, &member));
            for one in [&a, &b] {
                prop_assert!(joined.approvals >= one.approvals);
                prop_assert!(joined.separation_of_duties || !one.separation_of_duties);
                prop_assert!(joined.observe >= one.observe);
                prop_assert!(one.approval_lifetime.is_none_or(|asked| joined.approval_lifetime.is_some_and(|kept| kept <= asked)));
                prop_assert!(one.approval_deadline.is_none_or(|asked| joined.approval_deadline.is_some_and(|kept| kept <= asked)));
                prop_assert!(one.policies.iter().all(|name| joined.policies.contains(name)));
            }
        }

        #[test]
        fn terms_survive_being_stored(a in terms()) {
            let stored: ApprovalTerms = serde_json::from_value(serde_json::to_value(&a).unwrap()).unwrap();
            prop_assert_eq!(stored, a);
        }
    }

    #[test]
    fn what_is_no_longer_asked_for_stays_with_who_asked() {
        let demand = |name: &str, asks: &[&str]| PolicyDemand {
            name: name.into(),
            asks: asks.iter().map(ToString::to_string).collect(),
            ..PolicyDemand::default()
        };
        let first = [
            demand("production", &["3 approvals at high risk", PASSING[1]]),
            demand("gone", &["approvers in group sre"]),
        ];
        let now = still_demanded(&first, &[demand("production", &["1 approval at high risk"])]);
        assert_eq!(now[0].asks, ["1 approval at high risk"]);
        assert_eq!(now[0].asked, ["3 approvals at high risk"], "a window that was lifted is lifted");
        assert_eq!((now[1].name.as_str(), &now[1].asked[..]), ("gone", &["approvers in group sre".to_owned()][..]));
        assert_eq!(still_demanded(&now, &[demand("production", &["1 approval at high risk"])]), now);
        let back = still_demanded(&now, &[demand("production", &["3 approvals at high risk"])]);
        assert_eq!(
            (&back[0].asks[..], &back[0].asked[..]),
            (&["3 approvals at high risk".to_owned()][..], &["1 approval at high risk".to_owned()][..])
        );
    }
}
