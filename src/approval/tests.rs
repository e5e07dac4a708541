use super::*;
use crate::api::{ExecutionPlanSpec, PlanApprovalSpec, Requester};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

const DIGEST: &str = "sha256:aa";

fn plan(requester: Option<&str>) -> ExecutionPlan {
    let requested_by = requester.map(|name| Requester { username: name.into(), groups: vec![] });
    let mut plan = ExecutionPlan::new("p", ExecutionPlanSpec { requested_by, ..ExecutionPlanSpec::default() });
    plan.metadata.namespace = Some("shop".into());
    plan.metadata.uid = Some("this".into());
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
    approval.metadata.uid = Some(format!("uid-{name}"));
    approval
}

/// The approval with its record as another plan's.
fn owned_by(plan: &str, mut approval: PlanApproval) -> PlanApproval {
    approval.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "countersign.dev/v1alpha1".into(),
        kind: "ExecutionPlan".into(),
        name: "p".into(),
        uid: plan.into(),
        ..OwnerReference::default()
    }]);
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
        (owned_by("another", approval("a", "bob", 101)), "given for another plan of that name"),
        (approval("a", "bob\u{200b}", 101), "characters that cannot be seen"),
        (approval("a", "bob\nalice approved", 101), "characters that cannot be seen"),
        (approval("a", "\u{202e}bob", 101), "characters that cannot be seen"),
        (approval("a", "bob\u{e0041}", 101), "characters that cannot be seen"),
        (approval("a", "bo\u{200d}b", 101), "characters that cannot be seen"),
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

#[test]
fn an_approval_that_was_there_first_never_counts_even_within_the_same_second() {
    let plan = plan(Some("alice"));
    let there_first = approval("a", "bob", 100);
    assert!(matches!(outcome(&plan, 1, std::slice::from_ref(&there_first)), Outcome::Approved { .. }));
    let terms = Terms { earlier: BTreeSet::from(["uid-a".to_owned()]), ..terms(1) };
    // Somebody else's later word is not touched by it.
    let judgement = judge(&plan, DIGEST, &terms, &[there_first, approval("b", "carol", 100)]);
    assert_eq!(judgement.outcome, Outcome::Approved { by: vec!["carol".into()] });
    let said: Vec<_> = judgement.records.iter().map(|record| (record.before_plan, record.message.as_deref())).collect();
    assert_eq!(said, [(true, Some("it is older than the plan: read the plan and approve again")), (false, None)]);
}

#[test]
fn an_approval_recorded_for_this_plan_counts() {
    let own = owned_by("this", approval("a", "bob", 101));
    assert!(matches!(outcome(&plan(Some("alice")), 1, &[own]), Outcome::Approved { .. }));
}

#[test]
fn what_the_cluster_has_against_an_approval_is_about_that_approval_alone() {
    let objections = BTreeMap::from([("uid-a".to_owned(), "bob may not approve (any more)".to_owned())]);
    let terms = Terms { objections, ..terms(1) };
    let mut denial = approval("a", "bob", 101);
    denial.spec.decision = Decision::Deny;
    for objected in [approval("a", "bob", 101), denial] {
        let judgement = judge(&plan(Some("alice")), DIGEST, &terms, std::slice::from_ref(&objected));
        assert_eq!(judgement.outcome, Outcome::Waiting { have: 0, need: 1 });
        assert_eq!(judgement.records[0].message.as_deref(), Some("bob may not approve (any more)"));
        let again = judge(&plan(Some("alice")), DIGEST, &terms, &[objected, approval("b", "bob", 102)]);
        assert_eq!(again.outcome, Outcome::Approved { by: vec!["bob".into()] });
    }
}

#[test]
fn terms_that_a_plan_keeps_are_those_it_is_judged_by() {
    let kept = ApprovalTerms {
        approvals: 2,
        approver_groups: vec![vec!["sre".into()]],
        separation_of_duties: false,
        approval_lifetime: Some(Duration::from_secs(60).into()),
        approval_deadline: None,
        observe: None,
        policies: vec!["production".into()],
    };
    let terms = Terms::of(&kept, Timestamp::from_second(1000).unwrap());
    assert_eq!((terms.need, terms.separation_of_duties), (2, false));
    assert_eq!((terms.lifetime, &terms.approver_groups), (Some(Duration::from_secs(60)), &kept.approver_groups));
}

#[test]
fn the_record_names_digest_and_uid() {
    let judgement = judge(&plan(Some("alice")), DIGEST, &terms(1), &[approval("a", "bob", 101)]);
    let record = &judgement.records[0];
    assert_eq!((record.uid.as_deref(), record.digest.as_deref()), (Some("uid-a"), Some(DIGEST)));
}
