use super::*;
use crate::api::{ExecutionPlanSpec, PlanPolicy};
use crate::plan::Namespace;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;

fn policy(name: &str, spec: &str) -> Arc<CompiledPolicy> {
    let spec = serde_yaml::from_str(spec).unwrap_or_else(|error| panic!("{name}: {error}"));
    Arc::new(CompiledPolicy::new(&PlanPolicy::new(name, spec)))
}

fn plan(steps: &str) -> ExecutionPlanSpec {
    let steps: Vec<serde_json::Value> = serde_yaml::from_str(steps).unwrap();
    let steps: Vec<_> = steps
        .into_iter()
        .enumerate()
        .map(|(index, mut step)| {
            step["id"] = json!(format!("s{index}"));
            step
        })
        .collect();
    serde_json::from_value(json!({ "steps": steps })).unwrap()
}

const DELETE: &str =
    "[{ operation: { delete: { target: { apiVersion: apps/v1, kind: Deployment, namespace: shop, name: web } } } }]";
const WAIT: &str =
    "[{ operation: { wait: { target: { apiVersion: v1, kind: Pod, namespace: shop, name: a }, until: Ready } } }]";

fn scale(from: u64, to: u64) -> String {
    format!(
        "[{{ precondition: {{ diffBase: true }}, diff: [{{ path: spec.replicas, from: {from}, to: {to} }}], operation: {{ patch: \
         {{ target: {{ apiVersion: apps/v1, kind: Deployment, namespace: shop, name: web }}, type: merge, body: {{ spec: {{ replicas: {to} }} }} }} }} }}]"
    )
}

fn judged(policies: &[Arc<CompiledPolicy>], steps: &str, risk: RiskLevel) -> Verdict {
    let plan = plan(steps);
    judge(policies, &PlanFacts::new(&plan, risk, "shop", &[], &[]), None)
}

/// `allow`, or the word and the reasons.
fn ruling(verdict: &Verdict) -> String {
    match &verdict.ruling {
        Ruling::Allow => "allow".to_owned(),
        Ruling::Deny { reasons } => format!("deny: {}", reasons.join("; ")),
        Ruling::Wait { reasons, until } => {
            format!("wait{}: {}", until.map(|until| format!(" until {until}")).unwrap_or_default(), reasons.join("; "))
        }
    }
}

#[test]
fn without_a_policy_the_built_in_numbers_hold() {
    for (risk, need) in [(RiskLevel::Low, 0), (RiskLevel::Medium, 1), (RiskLevel::High, 1), (RiskLevel::Critical, 2)] {
        let verdict = judged(&[], DELETE, risk);
        assert_eq!((verdict.approvals_required, &verdict.ruling), (need, &Ruling::Allow));
        assert!(verdict.separation_of_duties);
        assert_eq!((verdict.approval_lifetime, verdict.observe), (None, None));
        assert_eq!(verdict.approval_deadline, Duration::from_secs(30 * 24 * 3600));
    }
}

#[test]
fn the_strictest_of_all_holds_field_by_field_and_says_who_asked() {
    let strict = policy(
        "strict",
        "{ approvals: { high: 3 }, approverGroups: [sre, leads], approvalLifetime: 1h, approvalDeadline: 48h, automation: SemiAuto }",
    );
    let loose = policy(
        "loose",
        "{ approvals: { high: 0 }, approverGroups: [release], separationOfDuties: false, approvalLifetime: 24h, approvalDeadline: 72h, automation: Full, observe: { for: 5m } }",
    );
    let verdict = judged(&[loose, strict], DELETE, RiskLevel::High);
    assert_eq!(verdict.approvals_required, 3);
    assert_eq!(verdict.approver_groups, [vec!["release".to_owned()], vec!["sre".to_owned(), "leads".to_owned()]]);
    assert_eq!(verdict.approval_lifetime, Some(Duration::from_secs(3600)));
    assert_eq!(verdict.approval_deadline, Duration::from_secs(48 * 3600));
    assert_eq!(verdict.observe, Some(Duration::from_secs(300)));
    let asks: Vec<String> =
        verdict.demanded_by.iter().map(|demand| format!("{}: {}", demand.name, demand.asks.join(", "))).collect();
    insta::assert_snapshot!(asks.join("\n"), @r#"
    loose: approvers in group release, approvals not older than 24h, its approvals within 72h, watching the workloads for 5m
    strict: 3 approvals at high risk, approvers in group sre or leads, approvals not older than 1h, its approvals within 48h
    "#);
}

#[test]
fn automation_sets_the_floor_of_approvals() {
    for (automation, low, high) in [("ReadOnly", 1, 1), ("Manual", 1, 1), ("SemiAuto", 0, 1), ("Full", 0, 0)] {
        let policy = policy("p", &format!("{{ automation: {automation}, approvals: {{ low: 0, high: 0 }} }}"));
        let need = |risk| judged(std::slice::from_ref(&policy), WAIT, risk).approvals_required;
        assert_eq!((need(RiskLevel::Low), need(RiskLevel::High)), (low, high), "{automation}");
    }
    // Numbers alone loosen nothing, and what one policy leaves open another may still close.
    let zero = policy("zero", "{ approvals: { critical: 0 } }");
    assert_eq!(judged(&[zero], DELETE, RiskLevel::Critical).approvals_required, 2);
    let full = policy("full", "{ automation: Full, approvals: { critical: 0 } }");
    assert_eq!(judged(std::slice::from_ref(&full), DELETE, RiskLevel::Critical).approvals_required, 0);
    let manual = policy("manual", "{ automation: Manual }");
    assert_eq!(judged(&[full, manual], DELETE, RiskLevel::Critical).approvals_required, 2);
}

#[test]
fn nothing_is_watched_where_nothing_changes() {
    let policy = policy("p", "{ observe: { for: 90s } }");
    let observe = |steps: &str| judged(std::slice::from_ref(&policy), steps, RiskLevel::Low).observe;
    assert_eq!((observe(DELETE), observe(WAIT)), (Some(Duration::from_secs(90)), None));
}

#[test]
fn read_only_denies_changes_and_lets_reads_be() {
    let policy = policy("look", "{ automation: ReadOnly }");
    let of = |steps: &str| ruling(&judged(std::slice::from_ref(&policy), steps, RiskLevel::Low));
    assert_eq!(of(DELETE), "deny: policy look: automation is ReadOnly here: nothing may be changed");
    assert_eq!(of(WAIT), "allow");
}

#[test]
fn rules_allow_and_deny() {
    let scale = scale(1, 2);
    let namespace = "[{ operation: { delete: { target: { apiVersion: v1, kind: Namespace, name: shop } } } }]";
    let cluster_role = "[{ operation: { delete: { target: { apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, name: r } } } }]";
    for (rules, steps, want) in [
        (
            "[{ effect: Deny, kinds: [deployment], justification: not these }]",
            DELETE,
            "deny: policy p: a rule denies delete Deployment shop/web: not these",
        ),
        ("[{ effect: Deny, apiGroups: [''] }]", DELETE, "allow"),
        (
            "[{ effect: Deny, verbs: [delete], names: ['w*'] }]",
            DELETE,
            "deny: policy p: a rule denies delete Deployment shop/web",
        ),
        ("[{ effect: Deny, verbs: [delete] }]", &scale, "allow"),
        ("[{ effect: Deny, namespaces: ['sh?p', 's*d'] }]", DELETE, "allow"),
        ("[{ effect: Deny, namespaces: ['s*p'] }]", DELETE, "deny: policy p: a rule denies delete Deployment shop/web"),
        ("[{ effect: Deny, namespaces: [shop] }]", namespace, "deny: policy p: a rule denies delete Namespace shop"),
        ("[{ effect: Deny }]", WAIT, "allow"),
        ("[{ effect: Deny, verbs: [wait] }]", WAIT, "deny: policy p: a rule denies wait Pod shop/a"),
        (
            "[{ effect: Allow, kinds: [Deployment], verbs: [patch] }]",
            DELETE,
            "deny: policy p: no rule allows delete Deployment shop/web",
        ),
        ("[{ effect: Allow, kinds: [Deployment], verbs: [patch] }]", &scale, "allow"),
        ("[{ effect: Allow, kinds: [Deployment], verbs: [patch] }]", WAIT, "allow"),
        (
            "[{ effect: Allow }, { effect: Deny, kinds: [Deployment] }]",
            &scale,
            "deny: policy p: a rule denies patch Deployment shop/web",
        ),
        (
            "[{ effect: Allow, namespaces: [shop] }]",
            cluster_role,
            "deny: policy p: no rule allows delete ClusterRole r",
        ),
        ("[{ effect: Allow, namespaces: ['*'] }]", cluster_role, "allow"),
        ("[{ effect: Deny, namespaces: [shop] }]", cluster_role, "deny: policy p: a rule denies delete ClusterRole r"),
    ] {
        let verdict = judged(&[policy("p", &format!("{{ rules: {rules} }}"))], steps, RiskLevel::Low);
        assert_eq!(ruling(&verdict), want, "{rules} on {steps}");
    }
}

#[test]
fn quotas_bound_what_one_plan_does() {
    let two = format!("{}{}", DELETE.trim_end_matches(']'), ", ") + DELETE.trim_start_matches('[');
    let unheld = scale(4, 5).replace("diffBase: true", "uid: a");
    let tested = "[{ operation: { patch: { target: { apiVersion: apps/v1, kind: Deployment, namespace: shop, name: web }, type: json, body: \
                  [{ op: test, path: /spec/replicas, value: 4 }, { op: replace, path: /spec/replicas, value: 6 }] } } }]";
    let copied = "[{ operation: { patch: { target: { apiVersion: apps/v1, kind: Deployment, namespace: shop, name: web }, type: json, body: \
                  [{ op: copy, from: /spec/x, path: /spec/replicas }] } } }]";
    let image = "[{ operation: { patch: { target: { apiVersion: apps/v1, kind: Deployment, namespace: shop, name: web }, type: merge, body: { spec: { template: {} } } } } }]";
    let created = "[{ precondition: { absent: true }, operation: { apply: { manifest: { apiVersion: apps/v1, kind: Deployment, metadata: { namespace: shop, name: web }, spec: {} } } } }]";
    let evict = "[{ operation: { evict: { target: { apiVersion: v1, kind: Pod, namespace: shop, name: a } } } }]";
    let (up, down) = (scale(3, 5), scale(3, 2));
    for (quotas, steps, words) in [
        ("steps: 1", DELETE, None),
        ("steps: 1", two.as_str(), Some("the number of steps is 2, at most 1 are allowed")),
        ("objectsDeleted: 1", &two, Some("deleted objects is 2")),
        ("objectsDeleted: 0", WAIT, None),
        ("replicasAdded: 2", &up, None),
        ("replicasAdded: 1", &up, Some("added replicas is 2")),
        ("replicasAdded: 0", &down, None),
        // Without a precondition the number before is only claimed.
        ("replicasAdded: 1", &unheld, Some("added replicas is 5")),
        ("replicasAdded: 1", tested, Some("added replicas is 2")),
        ("replicasAdded: 2", tested, None),
        ("replicasAdded: 1000000", copied, Some("added replicas")),
        ("replicasAdded: 0", image, None),
        ("replicasAdded: 0", created, Some("added replicas is 1")),
        ("blastRadiusPercent: 34", &down, None),
        ("blastRadiusPercent: 33", &down, Some("patch Deployment shop/web takes away is 34 %, at most 33 %")),
        ("blastRadiusPercent: 99", DELETE, Some("takes away is 100 %")),
        ("blastRadiusPercent: 50", evict, Some("100 %")),
        ("blastRadiusPercent: 0", &up, None),
        ("blastRadiusPercent: 50", image, None),
        ("blastRadiusPercent: 0", created, None),
    ] {
        let verdict = judged(&[policy("p", &format!("{{ quotas: {{ {quotas} }} }}"))], steps, RiskLevel::Low);
        let found = ruling(&verdict);
        match words {
            None => assert_eq!(found, "allow", "{quotas} on {steps}"),
            Some(words) => assert!(found.starts_with("deny") && found.contains(words), "{quotas} on {steps}: {found}"),
        }
    }
}

#[test]
fn a_budget_holds_what_is_known_of_the_cost() {
    let shop = Namespace { name: "shop".into(), labels: BTreeMap::from([("env".into(), "prod".into())]) };
    let lab = Namespace { name: "lab".into(), labels: BTreeMap::new() };
    let spent = |namespace: &Namespace, amount: &str, currency: &str| Spending {
        namespace: namespace.clone(),
        amount: Amount::parse(amount).unwrap(),
        currency: currency.into(),
    };
    let spent = [
        spent(&shop, "80.10", "EUR"),
        spent(&shop, "-50", "EUR"),
        spent(&lab, "500", "EUR"),
        spent(&shop, "90", "USD"),
    ];
    let purse = policy(
        "purse",
        "{ namespaceSelector: { matchLabels: { env: prod } }, budget: { perCommand: '20', perMonth: '100', currency: EUR } }",
    );
    for (estimate, want) in [
        (json!(null), "allow"),
        (json!({ "duration": "5s" }), "allow"),
        (json!({ "monthlyCost": "19.90", "currency": "EUR" }), "allow"),
        (json!({ "monthlyCost": "-70", "currency": "EUR" }), "allow"),
        (
            json!({ "monthlyCost": "19.91", "currency": "EUR" }),
            "deny: policy purse: the plan adds 19.91 EUR a month, and of the month's 100.00 EUR 80.10 are spent",
        ),
        (
            json!({ "monthlyCost": "20.000001", "currency": "EUR" }),
            "deny: policy purse: the plan adds 20.00 EUR a month, one plan may add at most 20.00 EUR; policy purse: the plan adds 20.00 EUR a month, and of the month's 100.00 EUR 80.10 are spent",
        ),
        (
            json!({ "monthlyCost": "1", "currency": "USD" }),
            "wait: policy purse: the budget is in EUR, the plan's cost in USD",
        ),
        (
            json!({ "monthlyCost": "much", "currency": "EUR" }),
            "wait: policy purse: the plan's monthly cost 'much' is no decimal number",
        ),
    ] {
        let mut plan = plan(DELETE);
        plan.estimate = serde_json::from_value(estimate.clone()).unwrap();
        let known = [shop.clone(), lab.clone()];
        let facts = PlanFacts::new(&plan, RiskLevel::Low, "shop", &known, &spent);
        assert_eq!(ruling(&judge(std::slice::from_ref(&purse), &facts, None)), want, "{estimate}");
    }
}

#[test]
fn amounts_are_exact() {
    for text in ["", "-", "1.", ".5", "1e3", "1.1234567", "0x1", "1,5", "9999999999999999999"] {
        assert_eq!(Amount::parse(text), None, "{text}");
    }
    assert_eq!(Amount::parse("0.1").unwrap().to_string(), "0.10");
    assert_eq!(Amount::parse("-12.345").unwrap().to_string(), "-12.35");
    assert!(Amount::parse("-1") < Amount::parse("0.000001"));
}

#[test]
fn windows_and_freezes_follow_the_clock_of_their_zone() {
    const NIGHTS: &str =
        "windows: [{ schedule: '0 22 * * 1-5', duration: 4h, timeZone: Europe/Berlin, reason: at night }]";
    // Clocks go forward on 29 March 2026 from 02:00 to 03:00 and back on 25 October 2026 from 03:00 to 02:00.
    const GAP: &str = "windows: [{ schedule: '30 2 * * *', duration: 1h, timeZone: Europe/Berlin }]";
    const WEEKEND: &str =
        "freezes: [{ schedule: '0 18 * * 5', duration: 62h, timeZone: Europe/Berlin, reason: weekend }]";
    const ALWAYS: &str = "freezes: [{ schedule: '0 0 * * *', duration: 24h }]";
    const YEAR_END: &str = "freezes: [{ schedule: '0 0 20 12 *', duration: 336h }]";
    const LEAP: &str = "freezes: [{ schedule: '0 0 29 2 *', duration: 24h }]";
    for (spec, at, want) in [
        // Monday to Tuesday across midnight, in winter (UTC+1) and summer (UTC+2).
        (
            NIGHTS,
            "2026-01-05T20:59:59Z",
            "wait until 2026-01-05T21:00:00Z: policy p: outside of its change windows; the next opens at 2026-01-05 22:00 CET (at night)",
        ),
        (NIGHTS, "2026-01-05T21:00:00Z", "allow"),
        (NIGHTS, "2026-01-06T00:59:59Z", "allow"),
        (
            NIGHTS,
            "2026-01-06T01:00:00.5Z",
            "wait until 2026-01-06T21:00:00Z: policy p: outside of its change windows; the next opens at 2026-01-06 22:00 CET (at night)",
        ),
        (NIGHTS, "2026-07-06T20:00:00Z", "allow"),
        (
            NIGHTS,
            "2026-07-04T12:00:00Z",
            "wait until 2026-07-06T20:00:00Z: policy p: outside of its change windows; the next opens at 2026-07-06 22:00 CEST (at night)",
        ),
        // 02:30 does not exist on that day: the window opens with the first minute that does, and lasts its hour.
        (
            GAP,
            "2026-03-29T00:59:59Z",
            "wait until 2026-03-29T01:00:00Z: policy p: outside of its change windows; the next opens at 2026-03-29 03:00 CEST",
        ),
        (GAP, "2026-03-29T01:00:00Z", "allow"),
        (GAP, "2026-03-29T01:59:59Z", "allow"),
        (
            GAP,
            "2026-03-29T02:00:00Z",
            "wait until 2026-03-30T00:30:00Z: policy p: outside of its change windows; the next opens at 2026-03-30 02:30 CEST",
        ),
        // 02:30 comes twice: the window opens once, the first time.
        (GAP, "2026-10-25T00:30:00Z", "allow"),
        (GAP, "2026-10-25T01:29:59Z", "allow"),
        (
            GAP,
            "2026-10-25T01:30:00Z",
            "wait until 2026-10-26T01:30:00Z: policy p: outside of its change windows; the next opens at 2026-10-26 02:30 CET",
        ),
        // 62 hours from Friday 18:00; by the clock an hour more or less when it is changed meanwhile.
        (
            WEEKEND,
            "2026-01-10T12:00:00Z",
            "wait until 2026-01-12T07:00:00Z: policy p: changes are frozen (weekend) until 2026-01-12 08:00 CET",
        ),
        (
            WEEKEND,
            "2026-03-28T12:00:00Z",
            "wait until 2026-03-30T07:00:00Z: policy p: changes are frozen (weekend) until 2026-03-30 09:00 CEST",
        ),
        (WEEKEND, "2026-01-12T07:00:00Z", "allow"),
        (
            YEAR_END,
            "2026-12-31T23:59:59Z",
            "wait until 2027-01-03T00:00:00Z: policy p: changes are frozen until 2027-01-03 00:00 UTC",
        ),
        (YEAR_END, "2027-01-03T00:00:00Z", "allow"),
        (LEAP, "2027-06-01T00:00:00Z", "allow"),
        (
            LEAP,
            "2028-02-29T23:59:59Z",
            "wait until 2028-03-01T00:00:00Z: policy p: changes are frozen until 2028-03-01 00:00 UTC",
        ),
    ] {
        let policy = policy("p", &format!("{{ {spec} }}"));
        assert_eq!(policy.faults(), [], "{spec}");
        let plan = plan(DELETE);
        let facts = PlanFacts::new(&plan, RiskLevel::Low, "shop", &[], &[]);
        let verdict = judge(&[policy], &facts, Some(at.parse().unwrap()));
        assert_eq!(ruling(&verdict), want, "{spec} at {at}");
    }
    // A freeze without end is asked for again, not followed for ever.
    let plan = plan(DELETE);
    let facts = PlanFacts::new(&plan, RiskLevel::Low, "shop", &[], &[]);
    let verdict =
        judge(&[policy("p", &format!("{{ {ALWAYS} }}"))], &facts, Some("2026-01-01T00:00:00Z".parse().unwrap()));
    assert!(ruling(&verdict).ends_with("policy p: changes are frozen without end"), "{}", ruling(&verdict));
    assert!(matches!(verdict.ruling, Ruling::Wait { until: Some(_), .. }));
}

#[test]
fn constraints_speak_in_their_own_words() {
    let constraint = |expression: &str| {
        policy(
            "p",
            &format!("{{ constraints: [{{ name: c, expression: \"{expression}\", message: no such thing }}] }}"),
        )
    };
    for (expression, want) in [
        ("plan.namespace == 'shop' && plan.risk.level == 'high'", "allow"),
        ("plan.steps.all(s, !has(s.operation.delete))", "deny: policy p: no such thing"),
        ("'admins' in plan.requestedBy.groups", "deny: policy p: no such thing"),
        (
            "plan.estimate.monthlyCost == '0'",
            "wait: policy p: constraint c cannot be evaluated for this plan: No such key: estimate",
        ),
    ] {
        assert_eq!(ruling(&judged(&[constraint(expression)], DELETE, RiskLevel::High)), want, "{expression}");
    }
}

#[test]
fn a_policy_that_cannot_be_read_holds_back_what_it_matches() {
    for (spec, fault) in [
        ("constraints: [{ name: c, expression: 'plan.', message: m }]", "constraint c: it is not CEL"),
        (
            "windows: [{ schedule: '0 25 * * *', duration: 1h }]",
            "windows[0]: schedule '0 25 * * *' is no cron expression",
        ),
        ("windows: [{ schedule: '0 0 30 2 *', duration: 1h }]", "windows[0]: schedule '0 0 30 2 *' never comes"),
        (
            "freezes: [{ schedule: '0 0 * * *', duration: 1h, timeZone: Mars/Phobos }]",
            "freezes[0]: timeZone 'Mars/Phobos' is no IANA",
        ),
        ("freezes: [{ schedule: '0 0 * * *', duration: 0s }]", "freezes[0]: duration must be longer"),
        ("budget: { perMonth: lots, currency: EUR }", "budget.perMonth: 'lots' is no amount"),
        (
            "examples: [{ name: e, operation: { delete: { target: { apiVersion: v1, kind: Pod, name: a } } }, expect: { verdict: Deny } }]",
            "example e: expected Deny, found Allow",
        ),
        ("namespaceSelector: { matchExpressions: [{ key: a, operator: Near, values: [b] }] }", "namespaceSelector: "),
    ] {
        let policy = policy("broken", &format!("{{ {spec} }}"));
        assert_eq!(policy.faults().len(), 1, "{spec}");
        assert!(policy.faults()[0].to_string().contains(fault), "{}", policy.faults()[0]);
        let found = ruling(&judged(&[policy], DELETE, RiskLevel::Low));
        assert!(found.starts_with("wait: policy broken: it is not Ready") && found.contains(fault), "{found}");
    }
    // It does not hold back what it does not match, and a denial by another policy is still a denial.
    let elsewhere = "namespaceSelector: { matchLabels: { a: b } }, windows: [{ schedule: x, duration: 1h }]";
    assert_eq!(ruling(&judged(&[policy("broken", &format!("{{ {elsewhere} }}"))], DELETE, RiskLevel::Low)), "allow");
    let both =
        [policy("broken", "{ windows: [{ schedule: x, duration: 1h }] }"), policy("look", "{ automation: ReadOnly }")];
    assert!(ruling(&judged(&both, DELETE, RiskLevel::Low)).starts_with("deny"));
}

#[test]
fn a_policy_holds_wherever_the_plan_reaches() {
    let namespaces = ["shop", "prod"].map(|name| Namespace {
        name: name.into(),
        labels: BTreeMap::from([("env".into(), if name == "prod" { "prod" } else { "test" }.into())]),
    });
    let policy = policy("prod", "{ namespaceSelector: { matchLabels: { env: prod } }, automation: ReadOnly }");
    let namespace = |labels: &str| {
        format!(
            "[{{ operation: {{ apply: {{ manifest: {{ apiVersion: v1, kind: Namespace, metadata: {{ name: prod, labels: {{ {labels} }} }} }} }} }} }}]"
        )
    };
    let born = "[{ operation: { apply: { manifest: { apiVersion: v1, kind: Namespace, metadata: { name: new, labels: { env: prod } } } } } }]";
    for (steps, denied) in [
        (DELETE.to_owned(), false),
        (DELETE.replace("namespace: shop", "namespace: prod"), true),
        ("[{ operation: { delete: { target: { apiVersion: v1, kind: Namespace, name: prod } } } }]".to_owned(), true),
        // A plan that takes a namespace out of a policy, or puts one in, is judged by the policy.
        (namespace("env: test"), true),
        (born.to_owned(), true),
    ] {
        let plan = plan(&steps);
        let facts = PlanFacts::new(&plan, RiskLevel::Low, "shop", &namespaces, &[]);
        let verdict = judge(std::slice::from_ref(&policy), &facts, None);
        assert_eq!(matches!(verdict.ruling, Ruling::Deny { .. }), denied, "{steps}");
    }
}

#[test]
fn examples_are_tried_by_the_policy_alone() {
    let policy = policy(
        "p",
        r"
        namespaceSelector: { matchLabels: { env: prod } }
        approvals: { medium: 2 }
        freezes: [{ schedule: '0 0 24 12 *', duration: 72h }]
        constraints: [{ name: c, expression: '!plan.requestedBy.groups.exists(g, g == ''interns'')', message: not by interns }]
        examples:
          - { name: medium, operation: { delete: { target: { apiVersion: v1, kind: Pod, name: a } } }, expect: { verdict: Allow, approvals: 2 } }
          - { name: intern, requesterGroups: [interns], operation: { delete: { target: { apiVersion: v1, kind: Pod, name: a } } }, expect: { verdict: Deny } }
          - { name: holidays, at: 2026-12-25T12:00:00Z, operation: { delete: { target: { apiVersion: v1, kind: Pod, name: a } } }, expect: { verdict: Wait } }
          - { name: elsewhere, namespaceLabels: { env: test }, requesterGroups: [interns], operation: { delete: { target: { apiVersion: v1, kind: Pod, name: a } } }, expect: { verdict: Allow, approvals: 1 } }
          - name: a whole plan
            plan: { risk: { level: critical }, steps: [{ id: a, operation: { delete: { target: { apiVersion: v1, kind: Pod, name: a } } } }] }
            expect: { verdict: Allow, approvals: 2 }
          - { name: another field, plan: { step: [], steps: [] }, expect: { verdict: Allow } }
          - { name: nothing in it, plan: { steps: [] }, expect: { verdict: Allow } }
          - { name: half a step, plan: { steps: [{ id: a }] }, expect: { verdict: Allow } }
          - { name: wrong number, risk: low, operation: { delete: { target: { apiVersion: v1, kind: Pod, name: a } } }, expect: { verdict: Allow, approvals: 3 } }
        ",
    );
    let outcomes: Vec<String> = policy
        .examples()
        .iter()
        .map(|outcome| match outcome.passed() {
            true => format!("{}: ok", outcome.name),
            false => format!("{}: {}", outcome.name, outcome.difference()),
        })
        .collect();
    insta::assert_snapshot!(outcomes.join("\n"), @r"
    medium: ok
    intern: ok
    holidays: ok
    elsewhere: ok
    a whole plan: ok
    another field: its plan has a field that plans do not have: spec.step
    nothing in it: its plan has no steps
    half a step: its plan is not the spec of an ExecutionPlan: steps[0]: missing field `operation`
    wrong number: expected Allow with 3 approvals, found Allow with 0 approvals
    ");
    assert_eq!(policy.faults().len(), 4);
}

#[test]
fn two_hundred_policies_are_judged_by_the_strictest() {
    let policies: Vec<_> =
        (0..200).map(|n| policy(&format!("p{n}"), &format!("{{ approvals: {{ high: {} }} }}", n % 7))).collect();
    let verdict = judged(&policies, DELETE, RiskLevel::High);
    assert_eq!(verdict.approvals_required, 6);
}

#[test]
fn globs() {
    for (pattern, text, matches) in [
        ("*", "", true),
        ("", "", true),
        ("", "a", false),
        ("a", "A", true),
        ("a*", "ab", true),
        ("*a", "ba", true),
        ("a*a", "a", false),
        ("a*b*c", "aXbXc", true),
        ("a*b*c", "acb", false),
        ("**", "x", true),
    ] {
        assert_eq!(matches_glob(pattern, text), matches, "{pattern} {text}");
    }
}

#[test]
fn a_policy_that_matched_once_goes_on_matching_as_long_as_it_exists() {
    let selects = "{ namespaceSelector: { matchLabels: { tier: gold } }, approvals: { high: 3 } }";
    let policies = [policy("gold", selects), policy("silver", &selects.replace("gold", "silver"))];
    let plan = plan(DELETE);
    let facts = |held_by: &[&str]| {
        let held_by: Vec<String> = held_by.iter().map(ToString::to_string).collect();
        PlanFacts::new(&plan, RiskLevel::High, "shop", &[], &[]).held_by(&held_by)
    };
    assert_eq!(judge(&policies, &facts(&[]), None).matching, Vec::<String>::new());
    let verdict = judge(&policies, &facts(&["gold", "gone"]), None);
    assert_eq!((verdict.matching, verdict.approvals_required), (vec!["gold".to_owned()], 3));
}

#[test]
fn a_policy_that_matches_only_because_it_cannot_be_read_is_not_remembered() {
    let broken = Arc::new(CompiledPolicy::unreadable("broken", "unknown field"));
    let bent = policy("bent", "{ namespaceSelector: { matchExpressions: [{ key: a, operator: Like }] } }");
    let late = policy("late", "{ windows: [{ schedule: never, duration: 1h }] }");
    let verdict = judged(&[broken, bent, late], DELETE, RiskLevel::High);
    assert!(matches!(verdict.ruling, Ruling::Wait { .. }));
    assert_eq!(verdict.matching, ["late"]);
}
