use super::plan::{approvals_counted, approvals_required, phase_tone, risk_of, risk_tone};
use crate::api::ExecutionPlan;
use crate::cli::approve_plan::standing::Standing;
use crate::cli::page::{Page, Style, Tone, plain, span};
use k8s_openapi::jiff::Timestamp;

/// Which columns a list has besides those that every list has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Columns {
    /// The namespace.
    pub namespace: bool,
    /// The phase; lists of plans that wait tell how much time is left for approvals instead.
    pub phase: bool,
}

/// Plans as a table, one a line. `now` is what ages are counted from; `standings` are those of whoever looks, one a plan,
/// or none.
#[must_use]
pub fn render(
    plans: &[ExecutionPlan],
    standings: &[Standing],
    columns: Columns,
    now: Timestamp,
    style: Style,
) -> String {
    let mut header = Vec::new();
    header.extend(columns.namespace.then_some("NAMESPACE"));
    header.push("NAME");
    header.extend(columns.phase.then_some("PHASE"));
    header.extend(["RISK", "APPROVALS", "BY", "AGE"]);
    header.extend((!columns.phase).then_some("LEFT"));
    header.extend((!standings.is_empty()).then_some("YOU"));
    header.push("SUMMARY");
    let row = |(index, plan): (usize, &ExecutionPlan)| {
        let phase = plan.status.as_ref().and_then(|status| status.phase);
        let level = risk_of(plan).level;
        let by = plan.spec.requested_by.as_ref().map_or("?", |who| who.username.as_str());
        let created = plan.metadata.creation_timestamp.as_ref();
        let mut row = Vec::new();
        row.extend(columns.namespace.then(|| plain(plan.metadata.namespace.as_deref().unwrap_or_default())));
        row.push(span(Tone::Strong, plan.metadata.name.as_deref().unwrap_or_default()));
        row.extend(
            columns
                .phase
                .then(|| span(phase_tone(phase), phase.map_or_else(|| "?".to_owned(), |phase| phase.to_string()))),
        );
        row.extend([
            span(risk_tone(level), level.as_str()),
            plain(format!("{}/{}", approvals_counted(plan), approvals_required(plan))),
            plain(by),
            plain(created.map_or_else(|| "?".to_owned(), |time| age(time.0, now))),
        ]);
        let expires = plan.status.as_ref().and_then(|status| status.expires_at.as_ref());
        row.extend((!columns.phase).then(|| plain(expires.map_or_else(|| "-".to_owned(), |time| age(now, time.0)))));
        row.extend(standings.get(index).map(|standing| span(standing.tone(), standing.word())));
        row.push(plain(&plan.spec.summary));
        row
    };
    let rows: Vec<_> = plans.iter().enumerate().map(row).collect();
    let mut page = Page::new(style);
    page.table(&header, &rows);
    page.finish()
}

/// An age the way kubectl writes it: its largest unit, two while the larger is small.
fn age(then: Timestamp, now: Timestamp) -> String {
    let seconds = (now.as_second() - then.as_second()).max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let pair = |large: i64, unit: &str, small: i64, small_unit: &str| {
        if small == 0 { format!("{large}{unit}") } else { format!("{large}{unit}{small}{small_unit}") }
    };
    match seconds {
        ..120 => format!("{seconds}s"),
        120..600 => pair(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => pair(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => pair(days, "d", hours % 24, "h"),
        691_200..63_072_000 => format!("{days}d"),
        _ => pair(days / 365, "y", days % 365, "d"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    const PLAIN: Style = Style { color: false, width: 80 };

    fn now() -> Timestamp {
        "2026-03-01T10:05:00Z".parse().unwrap()
    }

    #[test]
    fn plans_are_listed_with_what_is_missing() {
        let plans = [samples::scale(), samples::delete_critical(), samples::rolled_back()];
        let text = render(&plans, &[], Columns { namespace: true, phase: true }, now(), PLAIN);
        insta::assert_snapshot!(text, @r#"
        NAMESPACE    NAME                                PHASE              RISK       APPROVALS   BY      AGE    SUMMARY
        staging      scale-checkout-1                    AwaitingApproval   medium     1/2         alice   5m     Scale Deployment staging/checkout from 3 to 5 replicas
        production   delete-all-production-databases-1   AwaitingApproval   critical   0/2         alice   3h5m   Delete 1 StatefulSet and its volume in production
        staging      release-checkout-1                  RolledBack         medium     1/1         alice   5m     Release checkout 2.0
        "#);
    }

    #[test]
    fn what_waits_says_what_one_can_do_about_it() {
        let plans = [samples::scale(), samples::delete_critical(), samples::delete_critical()];
        let standings = [Standing::Asked, Standing::MayApprove, Standing::OutsideGroups(vec!["sre".to_owned()])];
        let text = render(&plans, &standings, Columns::default(), now(), PLAIN);
        insta::assert_snapshot!(text, @r#"
        NAME                                RISK       APPROVALS   BY      AGE    LEFT   YOU           SUMMARY
        scale-checkout-1                    medium     1/2         alice   5m     -      asked         Scale Deployment staging/checkout from 3 to 5 replicas
        delete-all-production-databases-1   critical   0/2         alice   3h5m   -      may approve   Delete 1 StatefulSet and its volume in production
        delete-all-production-databases-1   critical   0/2         alice   3h5m   -      not in sre    Delete 1 StatefulSet and its volume in production
        "#);
    }

    #[test]
    fn ages_are_written_as_kubectl_does() {
        let then = Timestamp::UNIX_EPOCH;
        let ages: Vec<_> = [0, 119, 120, 150, 600, 10_800, 12_000, 30_000, 172_800, 180_000, 700_000, 70_000_000]
            .map(|seconds| age(then, Timestamp::from_second(seconds).unwrap()))
            .into();
        insta::assert_snapshot!(ages.join(" "), @r#"0s 119s 2m 2m30s 10m 3h 3h20m 8h 2d 2d2h 8d 2y80d"#);
    }
}
