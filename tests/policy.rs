//! What the API server refuses of a PlanPolicy, with the sentence that the author reads.

// Functions of a test panic like the test itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod cluster;

use cluster::Cluster;

fn policy(spec: &str) -> String {
    format!("apiVersion: countersign.dev/v1alpha1\nkind: PlanPolicy\nmetadata: {{ name: tried }}\nspec: {spec}\n")
}

#[test]
#[ignore = "starts a control plane: cargo test --test policy -- --ignored"]
fn slips_in_a_policy_are_refused_with_a_reason() {
    let cluster = Cluster::start("policy");
    cluster.admin(&["apply", "--server-side", "--validate=strict", "-f", "crds"], None).unwrap();
    cluster.admin(&["wait", "--for=condition=Established", "crd", "--all"], None).unwrap();
    let create = |spec: &str| {
        cluster
            .admin(&["create", "--dry-run=server", "--validate=strict", "-o", "name", "-f", "-"], Some(&policy(spec)))
    };
    for (spec, words) in [
        ("{ quotas: { steps: -1 } }", "spec.quotas.steps"),
        ("{ quotas: { blastRadiusPercent: 101 } }", "less than or equal to 100"),
        ("{ approvals: { low: 2, high: 1 } }", "a higher risk cannot need fewer approvals than a lower one"),
        ("{ approvals: { low: -1 } }", "spec.approvals.low"),
        ("{ automation: Readonly }", "supported values: \"ReadOnly\""),
        ("{ automatic: ReadOnly }", "unknown field \"spec.automatic\""),
        ("{ rules: [{ effect: Deny, kind: Pod }] }", "unknown field \"spec.rules[0].kind\""),
        ("{ rules: [{ effect: Deny, verbs: [create] }] }", "supported values: \"apply\""),
        ("{ windows: [{ schedule: '0 22 * *', duration: 1h }] }", "no cron expression of five fields"),
        ("{ windows: [{ schedule: '@daily   ', duration: 1h }] }", "no cron expression of five fields"),
        ("{ windows: [{ schedule: '0 22 * * *', duration: 0s }] }", "duration must be longer than nothing"),
        ("{ windows: [{ schedule: '0 22 * * *', duration: a day }] }", "spec.windows[0].duration"),
        ("{ freezes: [{ schedule: '0 22 * * *', duration: 1h, timeZone: Mars/Phobos }] }", "Mars/Phobos"),
        ("{ budget: { currency: EUR } }", "a budget names perCommand, perMonth or both"),
        ("{ budget: { perCommand: '20', perMonth: '10', currency: EUR } }", "no month could pay for it"),
        ("{ budget: { perCommand: '-20', currency: EUR } }", "spec.budget.perCommand"),
        ("{ quotas: { objectsDeleted: -1 } }", "spec.quotas.objectsDeleted"),
        ("{ quotas: { replicasAdded: -5 } }", "greater than or equal to 0"),
        ("{ quotas: { step: 3 } }", "unknown field \"spec.quotas.step\""),
        (
            "{ windows: [{ schedule: '0 22 * * *', duration: 1h, timezone: UTC }] }",
            "unknown field \"spec.windows[0].timezone\"",
        ),
        ("{ windows: [{ schedule: '0 22 * * *', duration: 1h, timeZone: '' }] }", "spec.windows[0].timeZone"),
        ("{ freezes: [{ schedule: '0 22 * * * *', duration: 1h }] }", "no cron expression of five fields"),
        ("{ freezes: [{ schedule: '0 22 * * *', duration: -1h }] }", "spec.freezes[0].duration"),
        ("{ freezes: [{ schedule: '0 22 * * *' }] }", "spec.freezes[0].duration: Required value"),
        ("{ observe: { for: 0s } }", "observe.for must be longer than nothing"),
        ("{ approverGroups: [''] }", "spec.approverGroups[0]"),
        ("{ budget: { perCommand: '1,50', currency: EUR } }", "spec.budget.perCommand"),
        ("{ budget: { perCommand: '1', currency: Euro } }", "spec.budget.currency"),
        ("{ namespaceSelector: { matchlabels: { a: b } } }", "unknown field \"spec.namespaceSelector.matchlabels\""),
        ("{ approvalLifetime: 0h }", "approvalLifetime must be longer than nothing"),
        ("{ approvalDeadline: 0s }", "approvalDeadline must be longer than nothing"),
        ("{ examples: [{ name: a, expect: { verdict: Allow } }] }", "either a plan or an operation"),
        (
            "{ constraints: [{ name: a, expression: 'true', message: m }, { name: a, expression: 'true', message: m }] }",
            "Duplicate value",
        ),
    ] {
        let error = create(spec).expect_err(spec);
        assert!(error.contains(words), "{spec}: {error}");
    }
    for spec in [
        "{}",
        "{ approvals: { low: 0, critical: 3 }, quotas: { steps: 0 } }",
        "{ windows: [{ schedule: '0 22 * JAN-MAR,DEC MON-FRI', duration: 1h30m, timeZone: America/Argentina/Buenos_Aires }] }",
        "{ freezes: [{ schedule: '*/5 0-6 L * 5#2', duration: 90s, timeZone: UTC }] }",
        "{ budget: { perCommand: '20.50', perMonth: '100', currency: EUR } }",
    ] {
        create(spec).unwrap_or_else(|error| panic!("{spec}: {error}"));
    }
    // kubectl is strict without being asked to.
    let default = cluster.admin(&["apply", "--dry-run=server", "-f", "-"], Some(&policy("{ automatic: ReadOnly }")));
    assert!(default.unwrap_err().contains("unknown field \"spec.automatic\""));
}
