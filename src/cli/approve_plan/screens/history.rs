use super::plan::{phase_name, phase_tone, risk_of};
use super::{changes, when};
use crate::api::{
    AgentCommand, ApprovalRecord, ApprovalVerdict, Decision, ExecutionPlan, FieldChange, PlanPhase, Proposer, Step,
    StepState, StepStatus, UndoState,
};
use crate::cli::page::{Page, Style, Tone, plain, span};
use k8s_openapi::api::core::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use serde::Serialize;

/// One thing that happened.
#[derive(Clone, Debug, Serialize, PartialEq)]
pub struct Entry {
    /// When, if that is recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Time>,
    /// Who did it.
    pub who: String,
    /// What happened.
    pub what: String,
    /// What was changed, field by field; the values of secrets left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<FieldChange>,
    #[serde(skip)]
    tone: Tone,
}

impl Entry {
    fn new(at: Option<&Time>, who: impl Into<String>, what: String, tone: Tone) -> Self {
        Self { at: at.cloned(), who: who.into(), what, changes: Vec::new(), tone }
    }
}

/// Everything that is recorded about a plan, oldest first: its command, its approvals, its journal, its events.
#[must_use]
pub fn entries(plan: &ExecutionPlan, command: Option<&AgentCommand>, events: &[Event]) -> Vec<Entry> {
    let mut entries = Vec::new();
    let requester = plan.spec.requested_by.as_ref().map_or("nobody known", |who| who.username.as_str());
    if let Some(command) = command {
        let what = format!("asked \"{}\"", command.spec.request);
        entries.push(Entry::new(command.metadata.creation_timestamp.as_ref(), requester, what, Tone::Strong));
    }
    let proposer = match &plan.spec.proposed_by {
        None => requester.to_owned(),
        Some(Proposer { model: Some(model), planner }) => format!("model {model} of provider {planner}"),
        Some(Proposer { planner, .. }) if planner == "builtin" => "the built-in planner".to_owned(),
        Some(Proposer { planner, .. }) => format!("provider {planner}"),
    };
    let digest = plan.status.as_ref().and_then(|status| status.digest.as_deref());
    let as_digest = digest.map_or_else(String::new, |digest| format!(", as {digest}"));
    let proposed = format!(
        "proposed {} {}, risk {}: {}{as_digest}",
        plan.spec.steps.len(),
        if plan.spec.steps.len() == 1 { "step" } else { "steps" },
        risk_of(plan).level,
        plan.spec.summary.trim_end_matches('.')
    );
    entries.push(Entry::new(plan.metadata.creation_timestamp.as_ref(), proposer, proposed, Tone::Plain));
    let Some(status) = &plan.status else { return entries };
    entries.extend(status.approvals.iter().map(approval));
    let account = plan.spec.service_account_name.as_deref().unwrap_or("default");
    for entry in &status.steps {
        let step = plan.spec.steps.iter().find(|one| one.id == entry.id);
        journal(&mut entries, account, step, entry);
    }
    entries.extend(events.iter().filter_map(event));
    if let Some(phase) = status.phase.filter(|phase| phase.is_final()) {
        let message = status.message.as_ref().map_or_else(String::new, |message| format!(": {message}"));
        let what = format!("{}{message}", phase_name(Some(phase)));
        entries.push(Entry::new(status.finished_at.as_ref(), "countersign", what, phase_tone(Some(phase))));
    }
    // Stable: what happened in the same second, or has no time, keeps the order of the saga.
    let mut last = None;
    let mut keyed: Vec<_> = entries
        .into_iter()
        .map(|entry| {
            last = entry.at.as_ref().map(|at| at.0).or(last);
            (last, entry)
        })
        .collect();
    keyed.sort_by_key(|(at, _)| *at);
    keyed.into_iter().map(|(_, entry)| entry).collect()
}

/// The history as text.
#[must_use]
pub fn render(plan: &ExecutionPlan, entries: &[Entry], style: Style) -> String {
    let mut page = Page::new(style);
    let name = plan.metadata.name.as_deref().unwrap_or_default();
    let phase: Option<PlanPhase> = plan.status.as_ref().and_then(|status| status.phase);
    page.paragraph(
        0,
        2,
        &[
            span(Tone::Strong, format!("History of plan {name}")),
            plain(": "),
            span(phase_tone(phase), phase_name(phase)),
        ],
    );
    page.gap();
    for entry in entries {
        let at = entry.at.as_ref().map_or_else(|| " ".repeat(23), when);
        page.paragraph(
            0,
            25,
            &[
                span(Tone::Faint, format!("{at}  ")),
                span(Tone::Strong, format!("{} ", entry.who)),
                span(entry.tone, &entry.what),
            ],
        );
        changes::changes(&mut page, 27, &entry.changes);
    }
    page.finish()
}

fn approval(one: &ApprovalRecord) -> Entry {
    let verb = if one.decision == Decision::Deny { "denied" } else { "approved" };
    let counted = one.verdict == ApprovalVerdict::Counted;
    let not = if counted { "" } else { ", which does not count" };
    let why = one.message.as_ref().map_or_else(String::new, |why| format!(": {why}"));
    let tone = match one.decision {
        _ if !counted => Tone::Faint,
        Decision::Approve => Tone::Added,
        Decision::Deny => Tone::Removed,
    };
    Entry::new(one.at.as_ref(), &one.approver, format!("{verb}{not}{why}"), tone)
}

fn journal(entries: &mut Vec<Entry>, account: &str, step: Option<&Step>, entry: &StepStatus) {
    let who = format!("service account {account}");
    let message = entry.message.as_ref().map_or_else(String::new, |message| format!(": {message}"));
    let id = &entry.id;
    if entry.applied_at.is_some() {
        let title = step.map_or("", |step| step.title.as_str());
        let what = format!("changed the cluster, step {id}: {title}");
        let changes = step.map_or_else(Vec::new, |step| step.diff.clone());
        entries.push(Entry { changes, ..Entry::new(entry.applied_at.as_ref(), &who, what, Tone::Changed) });
    }
    let ended = match entry.state {
        StepState::Completed => Some(("verified", Tone::Added)),
        StepState::Skipped => Some(("left out", Tone::Faint)),
        StepState::Failed => Some(("gave up on", Tone::Removed)),
        StepState::RolledBack | StepState::Pending | StepState::Running | StepState::Applied => None,
    };
    if let Some((word, tone)) = ended {
        let what = format!("{word} step {id}{message}");
        entries.push(Entry::new(entry.finished_at.as_ref(), "countersign", what, tone));
    }
    if let Some(undo) = &entry.undo {
        let (word, tone) = match undo.state {
            UndoState::Running => ("is putting back", Tone::Changed),
            UndoState::Done => ("put back", Tone::Added),
            UndoState::Failed => ("could not put back", Tone::Alarm),
        };
        let message = undo.message.as_ref().map_or_else(String::new, |message| format!(": {message}"));
        entries.push(Entry::new(undo.finished_at.as_ref(), who, format!("{word} step {id}{message}"), tone));
    }
}

fn event(event: &Event) -> Option<Entry> {
    let message = event.message.as_deref()?;
    let at = event.event_time.as_ref().map(|MicroTime(at)| Time(*at));
    let at = event.last_timestamp.clone().or(at).or_else(|| event.metadata.creation_timestamp.clone());
    let what = format!("{}: {message}", event.reason.as_deref().unwrap_or("?"));
    let tone = if event.type_.as_deref() == Some("Warning") { Tone::Removed } else { Tone::Faint };
    Some(Entry::new(at.as_ref(), "event", what, tone))
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;
    use serde_json::json;

    #[test]
    fn the_story_of_a_plan_that_was_put_back() {
        let plan = samples::rolled_back();
        let event: Event = serde_json::from_value(json!({
            "metadata": {}, "involvedObject": {}, "type": "Warning", "reason": "StepFailed",
            "message": "step s2 failed", "eventTime": "2026-03-01T10:02:30.500000Z"
        }))
        .unwrap();
        let entries = entries(&plan, Some(&samples::command()), &[event]);
        let text = render(&plan, &entries, Style { color: false, width: 100 });
        insta::assert_snapshot!(text, @r#"
        History of plan release-checkout-1: RolledBack

        2026-03-01 09:59:57 UTC  alice asked "scale checkout to 5 in staging"
        2026-03-01 10:00:00 UTC  the built-in planner proposed 2 steps, risk medium: Release checkout 2.0
        2026-03-01 10:01:00 UTC  bob approved
        2026-03-01 10:01:05 UTC  service account default changed the cluster, step s1: Set flag in ConfigMap
                                 staging/flags
                                   + data.new: "yes"
        2026-03-01 10:01:08 UTC  service account default changed the cluster, step s2: Set image of
                                 Deployment staging/checkout to checkout:broken
                                   ~ spec.template.spec.containers[name=checkout].image:
                                       "registry.example.com/shop/checkout:1.9" →
                                       "registry.example.com/shop/checkout:broken"
        2026-03-01 10:02:30 UTC  countersign gave up on step s2: ImagePullBackOff: Back-off pulling image
                                 "registry.example.com/shop/checkout:broken"
        2026-03-01 10:02:30 UTC  event StepFailed: step s2 failed
        2026-03-01 10:02:38 UTC  service account default put back step s2: image set back
        2026-03-01 10:02:39 UTC  service account default put back step s1: data.new removed
        2026-03-01 10:02:40 UTC  countersign RolledBack: step s2 failed: pod checkout-7d9 cannot pull its
                                 image; everything was put back
        "#);
    }

    #[test]
    fn a_new_plan_has_a_short_story() {
        let mut plan = samples::scale();
        plan.status = None;
        assert_eq!(entries(&plan, None, &[]).len(), 1);
    }
}
