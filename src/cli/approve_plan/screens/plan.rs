use super::{changes, duration, when};
use crate::api::{
    AgentCommand, ApprovalVerdict, Decision, Estimate, ExecutionPlan, ExecutionPlanSpec, IrreversibleStep, Operation,
    OperationKind, PlanPhase, Risk, RiskLevel, RollbackStrategy, Step, StepState, StepStatus, UndoState, VerifyKind,
    WaitUntil,
};
use crate::cli::approve_plan::standing::Standing;
use crate::cli::page::{Page, Span, Style, Tone, plain, span};
use std::collections::BTreeSet;

/// Column where the text of the head's rows starts.
const AT: usize = 13;

/// One plan, with everything that somebody should know before saying yes. `standing` is that of whoever looks, if the plan
/// waits for approval.
#[must_use]
pub fn render(
    plan: &ExecutionPlan,
    command: Option<&AgentCommand>,
    digest: &str,
    standing: Option<&Standing>,
    style: Style,
) -> String {
    let mut page = Page::new(style);
    head(&mut page, plan, command);
    steps(&mut page, plan);
    irreversible(&mut page, plan);
    approvals(&mut page, plan);
    if let Some(sentence) = standing.and_then(Standing::sentence) {
        page.field("You", AT, &[span(standing.map_or(Tone::Plain, Standing::tone), sentence)]);
    }
    page.verbatim(0, &format!("{:<AT$}{digest}", "Digest"));
    page.finish()
}

/// How many people must approve: the higher of what the plan says and what policy says now.
#[must_use]
pub fn approvals_required(plan: &ExecutionPlan) -> u32 {
    plan.spec.approvals_required.max(plan.status.as_ref().map_or(0, |status| status.approvals_required))
}

/// How many different people's approvals count.
#[must_use]
pub fn approvals_counted(plan: &ExecutionPlan) -> u32 {
    let approvals = plan.status.iter().flat_map(|status| &status.approvals);
    let people: BTreeSet<_> = approvals
        .filter(|one| one.verdict == ApprovalVerdict::Counted && one.decision == Decision::Approve)
        .map(|one| one.approver.as_str())
        .collect();
    u32::try_from(people.len()).unwrap_or(u32::MAX)
}

/// The risk that counts: the higher of what the plan says of itself and what the operator found.
#[must_use]
pub(super) fn risk_of(plan: &ExecutionPlan) -> &Risk {
    let found = plan.status.as_ref().and_then(|status| status.risk.as_ref());
    found.filter(|found| found.level >= plan.spec.risk.level).unwrap_or(&plan.spec.risk)
}

/// The tone of a phase.
pub(super) fn phase_tone(phase: Option<PlanPhase>) -> Tone {
    match phase {
        Some(PlanPhase::Succeeded) => Tone::Added,
        Some(PlanPhase::Failed | PlanPhase::RolledBack | PlanPhase::Denied | PlanPhase::Drifted) => Tone::Removed,
        Some(PlanPhase::RollbackFailed) => Tone::Alarm,
        Some(PlanPhase::Planned | PlanPhase::Expired | PlanPhase::Superseded | PlanPhase::Cancelled) => Tone::Faint,
        _ => Tone::Changed,
    }
}

/// The name of a phase; a plan that the operator has not seen yet has none.
pub(super) fn phase_name(phase: Option<PlanPhase>) -> String {
    phase.map_or_else(|| "not seen by the operator yet".to_owned(), |phase| phase.to_string())
}

/// The tone of a risk level.
pub(super) fn risk_tone(level: RiskLevel) -> Tone {
    match level {
        RiskLevel::Low => Tone::Added,
        RiskLevel::Medium => Tone::Changed,
        RiskLevel::High => Tone::Removed,
        RiskLevel::Critical => Tone::Alarm,
    }
}

fn head(page: &mut Page, plan: &ExecutionPlan, command: Option<&AgentCommand>) {
    let spec = &plan.spec;
    let name = plan.metadata.name.as_deref().unwrap_or_default();
    let namespace = plan.metadata.namespace.as_deref().unwrap_or_default();
    let phase = plan.status.as_ref().and_then(|status| status.phase);
    page.paragraph(
        0,
        2,
        &[
            span(Tone::Strong, format!("Plan {name}")),
            plain(format!(" in namespace {namespace}: ")),
            span(phase_tone(phase), phase_name(phase)),
        ],
    );
    if let Some(message) = plan.status.as_ref().and_then(|status| status.message.as_deref()) {
        page.paragraph(2, 2, &[span(phase_tone(phase), message)]);
    }
    page.gap();

    page.field("Asked by", AT, &[plain(asked_by(spec))]);
    match (command, &spec.command_ref) {
        (Some(command), _) => request(page, &command.spec.request),
        (None, Some(reference)) => {
            page.field("Request", AT, &[plain(format!("AgentCommand {}, which cannot be read", reference.name))]);
        }
        (None, None) => page.field("Request", AT, &[plain("none: the plan belongs to no AgentCommand")]),
    }
    page.field("Plan", AT, &[plain(&spec.summary)]);
    if spec.plan_only {
        page.field("", AT, &[span(Tone::Changed, "for reading only: it is never carried out")]);
    }
    page.field("Proposed by", AT, &[plain(proposed_by(spec))]);
    let account = spec.service_account_name.as_deref().unwrap_or("default");
    page.field("Runs as", AT, &[plain(format!("service account {namespace}/{account}"))]);
    risk(page, plan);
    if let Some(estimate) = spec.estimate.as_ref().and_then(estimate) {
        page.field("Estimate", AT, &[plain(estimate)]);
    }
    if let Some(observe) = &spec.observe {
        let then = if observe.rollback_on_degraded { "; put back if a workload degrades" } else { "" };
        page.field("Observed", AT, &[plain(format!("for {} after the last step{then}", duration(observe.duration)))]);
    }
    for (index, warning) in spec.warnings.iter().enumerate() {
        page.field(if index == 0 { "Warnings" } else { "" }, AT, &[span(Tone::Changed, format!("! {warning}"))]);
    }
}

fn asked_by(spec: &ExecutionPlanSpec) -> String {
    match &spec.requested_by {
        None => "nobody known".to_owned(),
        Some(who) if who.groups.is_empty() => who.username.clone(),
        Some(who) => format!("{} (groups {})", who.username, who.groups.join(", ")),
    }
}

fn request(page: &mut Page, request: &str) {
    let lines: Vec<_> = request.trim_end().lines().collect();
    if let [line] = lines.as_slice() {
        page.field("Request", AT, &[span(Tone::Strong, format!("\"{line}\""))]);
        return;
    }
    for (index, line) in lines.iter().enumerate() {
        page.field(if index == 0 { "Request" } else { "" }, AT, &[span(Tone::Strong, format!("│ {line}"))]);
    }
}

fn proposed_by(spec: &ExecutionPlanSpec) -> String {
    match &spec.proposed_by {
        None => "no planner: a person wrote it, and the differences shown are that person's".to_owned(),
        Some(proposer) if proposer.planner == "builtin" => "the built-in planner".to_owned(),
        Some(proposer) => match &proposer.model {
            Some(model) => format!("model {model} of provider {}", proposer.planner),
            None => format!("provider {}", proposer.planner),
        },
    }
}

fn estimate(estimate: &Estimate) -> Option<String> {
    let mut parts = Vec::new();
    if let Some(takes) = estimate.duration {
        parts.push(format!("about {}", duration(takes)));
    }
    if let Some(cost) = &estimate.monthly_cost {
        let currency = estimate.currency.as_deref().unwrap_or_default();
        let sign = if cost.starts_with('-') { "" } else { "+" };
        parts.push(format!("{sign}{cost} {currency} a month").replace("  ", " "));
    }
    let text = (!parts.is_empty()).then(|| parts.join(", "))?;
    Some(estimate.basis.as_ref().map_or(text.clone(), |basis| format!("{text} ({basis})")))
}

fn risk(page: &mut Page, plan: &ExecutionPlan) {
    let counts = risk_of(plan);
    let mut line = vec![span(risk_tone(counts.level), counts.level.as_str().to_uppercase())];
    if plan.spec.proposed_by.is_none() {
        let claimed = plan.spec.risk.level;
        if claimed < counts.level {
            line.push(span(
                Tone::Changed,
                format!(" by the operator's own assessment; the plan calls itself {claimed}"),
            ));
        } else if plan.status.as_ref().is_none_or(|status| status.risk.is_none()) {
            line.push(span(Tone::Changed, " by its author's own word; the operator has not assessed it yet"));
        }
    }
    page.field("Risk", AT, &line);
    for reason in &counts.reasons {
        page.paragraph(AT, AT + 2, &[plain(format!("- {reason}"))]);
    }
}

fn steps(page: &mut Page, plan: &ExecutionPlan) {
    let spec = &plan.spec;
    page.gap();
    page.paragraph(0, 0, &[span(Tone::Strong, format!("Steps ({})", spec.steps.len()))]);
    let several = spec.steps.len() > 1;
    for step in &spec.steps {
        page.gap();
        self::step(page, plan, step, several);
    }
}

fn step(page: &mut Page, plan: &ExecutionPlan, step: &Step, several: bool) {
    let by_hand = plan.spec.proposed_by.is_none();
    let journal = plan.status.iter().flat_map(|status| &status.steps).find(|entry| entry.id == step.id);
    let irreversible = plan.status.iter().flat_map(|status| &status.irreversible).find(|found| found.id == step.id);
    page.paragraph(0, 4, &[span(Tone::Faint, format!("[{}] ", step.id)), span(Tone::Strong, &step.title)]);
    let mut line = vec![span(Tone::Faint, operation(&step.operation))];
    if !step.depends_on.is_empty() {
        line.push(span(Tone::Faint, format!(", after {}", step.depends_on.join(", "))));
    }
    page.paragraph(4, 6, &line);
    if let Some(when) = &step.when {
        page.paragraph(4, 6, &[span(Tone::Changed, format!("only when {when}"))]);
    }
    if !step.known_after.is_empty() {
        let steps = step.known_after.join(", ");
        page.paragraph(4, 6, &[span(Tone::Changed, format!("(known after step {steps})"))]);
    }
    changes::changes(page, 4, &step.diff);
    if step.diff.is_empty() || by_hand {
        changes::body(page, 4, &step.operation);
    }
    if several && (step.risk.level > RiskLevel::Low || !step.risk.reasons.is_empty()) {
        let reasons: Vec<&str> = step.risk.reasons.iter().map(|reason| reason.trim_end_matches('.')).collect();
        let reasons = reasons.join("; ");
        let colon = if reasons.is_empty() { "" } else { ": " };
        let level = span(risk_tone(step.risk.level), step.risk.level.as_str());
        page.paragraph(4, 10, &[span(Tone::Faint, "risk  "), level, plain(format!("{colon}{reasons}"))]);
    }
    if let Some(verify) = verify(step) {
        page.paragraph(4, 10, &[span(Tone::Faint, "check "), plain(verify)]);
    }
    if let Some(undo) = undo(step, irreversible) {
        page.paragraph(4, 10, &[span(Tone::Faint, "undo  "), undo]);
    }
    if let Some(entry) = journal.filter(|entry| entry.state != StepState::Pending) {
        state(page, entry);
    }
}

fn operation(operation: &Operation) -> String {
    let Ok(kind) = operation.kind() else {
        return "not a valid operation: a step has exactly one".to_owned();
    };
    let target = operation.target().ok().flatten().map_or_else(|| "?".to_owned(), |target| target.to_string());
    if let Some(patch) = &operation.patch {
        return match &patch.subresource {
            Some(subresource) => format!("patch {target} ({subresource})"),
            None => format!("patch {target}"),
        };
    }
    if let Some(wait) = &operation.wait {
        return match wait.until {
            WaitUntil::Ready => format!("wait until {target} is ready"),
            WaitUntil::Absent => format!("wait until {target} is gone"),
            WaitUntil::Condition => {
                format!("wait until {target} has condition {}", wait.condition.as_deref().unwrap_or("?"))
            }
            WaitUntil::Expression => format!("wait until {} for {target}", wait.expression.as_deref().unwrap_or("?")),
        };
    }
    if let Some(query) = &operation.query {
        let what = query.kind.as_deref().or(query.expression.as_deref()).unwrap_or_default();
        let name = [query.namespace.as_deref(), query.name.as_deref()].into_iter().flatten().collect::<Vec<_>>();
        return format!("read {:?} {what} {}", query.query_type, name.join("/")).trim_end().to_owned();
    }
    format!("{kind} {target}")
}

fn verify(step: &Step) -> Option<String> {
    let within = step.timeout.map_or_else(String::new, |timeout| format!(", within {}", duration(timeout)));
    let verify = step.verify.as_ref()?;
    let expression = verify.expression.as_deref().unwrap_or("?");
    Some(match verify.kind {
        VerifyKind::Ready => format!("it is ready{within}"),
        VerifyKind::Absent => format!("it is gone{within}"),
        VerifyKind::Expression | VerifyKind::PromQL => format!("{expression}{within}"),
    })
}

fn mutates(step: &Step) -> bool {
    step.operation.kind().is_ok_and(OperationKind::mutates)
}

/// `found` is what the operator found, if it is not what the plan says of itself.
fn undo(step: &Step, found: Option<&IrreversibleStep>) -> Option<Span> {
    if !mutates(step) {
        return None;
    }
    if let Some(found) = found.filter(|_| step.rollback.reversible) {
        let reason = found.reason.as_deref().map_or_else(String::new, |reason| format!(": {reason}"));
        return Some(span(Tone::Removed, format!("CANNOT BE UNDONE, whatever the plan says{reason}")));
    }
    let how = match step.rollback.strategy {
        RollbackStrategy::None => "nothing is put back",
        RollbackStrategy::Delete => "the created object is deleted",
        RollbackStrategy::InversePatch => "the fields get their old values; what others change meanwhile stays",
        RollbackStrategy::Recreate => "the object is created again from its snapshot",
    };
    Some(match (step.rollback.reversible, &step.rollback.reason) {
        (true, None) => plain(how),
        (true, Some(reason)) => plain(format!("{how} ({reason})")),
        (false, reason) => {
            let reason = reason.as_deref().map_or_else(String::new, |reason| format!(": {reason}"));
            span(Tone::Removed, format!("CANNOT BE UNDONE{reason}"))
        }
    })
}

fn state(page: &mut Page, entry: &StepStatus) {
    let tone = match entry.state {
        StepState::Completed => Tone::Added,
        StepState::Failed | StepState::RolledBack => Tone::Removed,
        _ => Tone::Changed,
    };
    let mut line = vec![span(Tone::Faint, "now   "), span(tone, entry.state.to_string())];
    if let Some(at) = entry.finished_at.as_ref().or(entry.applied_at.as_ref()).or(entry.started_at.as_ref()) {
        line.push(span(Tone::Faint, format!(" {}", when(at))));
    }
    if entry.attempts > 1 {
        line.push(plain(format!(", {} attempts", entry.attempts)));
    }
    if let Some(message) = &entry.message {
        line.push(plain(format!(": {message}")));
    }
    page.paragraph(4, 10, &line);
    if let Some(undo) = &entry.undo {
        let (tone, word) = match undo.state {
            UndoState::Running => (Tone::Changed, "is being put back"),
            UndoState::Done => (Tone::Added, "was put back"),
            UndoState::Failed => (Tone::Alarm, "WAS NOT PUT BACK"),
        };
        let message = undo.message.as_ref().map_or_else(String::new, |message| format!(": {message}"));
        page.paragraph(10, 10, &[span(tone, word), plain(message)]);
    }
}

fn irreversible(page: &mut Page, plan: &ExecutionPlan) {
    let title = |id: &str| plan.spec.steps.iter().find(|step| step.id == id).map_or("", |step| step.title.as_str());
    let line = |id: &str, reason: Option<&str>| {
        let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
        format!("✗ [{id}] {}{reason}", title(id))
    };
    let said = plan.spec.steps.iter().filter(|step| mutates(step) && !step.rollback.reversible);
    let mut lost: Vec<String> = said.map(|step| line(&step.id, step.rollback.reason.as_deref())).collect();
    for found in plan.status.iter().flat_map(|status| &status.irreversible) {
        let known =
            plan.spec.steps.iter().any(|step| step.id == found.id && mutates(step) && !step.rollback.reversible);
        if !known {
            lost.push(line(&found.id, found.reason.as_deref()));
        }
    }
    if lost.is_empty() {
        return;
    }
    page.gap();
    page.paragraph(0, 0, &[span(Tone::Alarm, " CANNOT BE UNDONE ")]);
    for text in lost {
        page.paragraph(2, 4, &[span(Tone::Removed, text)]);
    }
}

fn approvals(page: &mut Page, plan: &ExecutionPlan) {
    page.gap();
    let (counted, required) = (approvals_counted(plan), approvals_required(plan));
    let over = plan.status.as_ref().and_then(|status| status.phase).is_some_and(PlanPhase::is_final);
    let verdict = match required.saturating_sub(counted) {
        _ if plan.spec.plan_only => "none taken: the plan is for reading only".to_owned(),
        _ if required == 0 => "none needed".to_owned(),
        0 => format!("{counted} of {required}: enough"),
        _ if over => format!("{counted} of {required}"),
        more => format!("{counted} of {required}: {more} more needed"),
    };
    page.field("Approvals", AT, &[plain(verdict)]);
    if let Some(at) = plan.status.as_ref().and_then(|status| status.expires_at.as_ref()).filter(|_| !over) {
        page.field("", AT, &[plain(format!("expires {} unless it has them by then", when(at)))]);
    }
    for one in plan.status.iter().flat_map(|status| &status.approvals) {
        let counts = one.verdict == ApprovalVerdict::Counted;
        let (sign, tone) = match (one.decision, counts) {
            (_, false) => ("–", Tone::Faint),
            (Decision::Approve, true) => ("✓", Tone::Added),
            (Decision::Deny, true) => ("✗", Tone::Removed),
        };
        let word = if one.decision == Decision::Deny { "denied" } else { "approved" };
        let at = one.at.as_ref().map_or_else(String::new, |at| format!(" {}", when(at)));
        let but = if counts { "" } else { ", but it does not count" };
        let why = one.message.as_ref().map_or_else(String::new, |why| format!(": {why}"));
        page.paragraph(AT, AT + 2, &[span(tone, format!("{sign} {} {word}{at}{but}", one.approver)), plain(why)]);
    }
    for (index, demand) in plan.status.iter().flat_map(|status| &status.policies).enumerate() {
        let label = if index == 0 { "Asked for by" } else { "" };
        page.field(label, AT, &[span(Tone::Strong, &demand.name), plain(format!(": {}", demand.asks.join("; ")))]);
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    const PLAIN: Style = Style { color: false, width: 80 };
    const COLORED: Style = Style { color: true, width: 80 };
    const DIGEST: &str = "sha256:2442a747adefc8e2f4b1e60c8eb81cf8fe23995826c55ab5a7117af1032b20be";

    fn escaped(text: &str) -> String {
        text.replace('\u{1b}', "␛")
    }

    #[test]
    fn scale_waits_for_a_second_approval() {
        let (plan, command) = (samples::scale(), samples::command());
        insta::assert_snapshot!("scale", render(&plan, Some(&command), DIGEST, None, PLAIN));
        insta::assert_snapshot!("scale_colored", escaped(&render(&plan, Some(&command), DIGEST, None, COLORED)));
    }

    #[test]
    fn a_critical_deletion_says_loudly_what_is_lost() {
        let plan = samples::delete_critical();
        insta::assert_snapshot!("delete_critical", render(&plan, None, DIGEST, None, PLAIN));
        insta::assert_snapshot!("delete_critical_colored", escaped(&render(&plan, None, DIGEST, None, COLORED)));
    }

    #[test]
    fn steps_known_later_and_redacted_values() {
        insta::assert_snapshot!("several_steps", render(&samples::several_steps(), None, DIGEST, None, PLAIN));
    }

    #[test]
    fn a_plan_by_hand_is_shown_as_the_operator_found_it() {
        let plan = samples::by_hand();
        insta::assert_snapshot!("by_hand", render(&plan, None, DIGEST, Some(&Standing::MayApprove), PLAIN));
    }

    #[test]
    fn a_denied_plan_names_who_and_why() {
        insta::assert_snapshot!("denied", render(&samples::denied(), Some(&samples::command()), DIGEST, None, PLAIN));
    }

    #[test]
    fn a_plan_put_back_tells_why_and_what() {
        let plan = samples::rolled_back();
        insta::assert_snapshot!("rolled_back", render(&plan, None, DIGEST, None, PLAIN));
        insta::assert_snapshot!("rolled_back_colored", escaped(&render(&plan, None, DIGEST, None, COLORED)));
    }

    #[test]
    fn only_what_is_for_copying_is_wider_than_the_terminal() {
        let plan = samples::rolled_back();
        let text = render(&plan, None, DIGEST, None, Style { color: false, width: 60 });
        let wide: Vec<_> = text.lines().filter(|line| line.chars().count() > 60).collect();
        assert_eq!(wide, [format!("Digest       {DIGEST}")]);
    }

    #[test]
    fn a_plan_cannot_hide_steps_from_the_reader() {
        let mut plan = samples::scale();
        plan.spec.steps[0].title = "Scale\u{1b}[2J\nRisk         LOW".to_owned();
        let text = render(&plan, None, DIGEST, None, PLAIN);
        assert!(text.contains("Scale\\u{1b}[2J⏎Risk"), "{text}");
    }

    #[test]
    fn a_plan_written_by_hand_shows_what_is_really_sent() {
        let mut plan = samples::scale();
        plan.spec.proposed_by = None;
        plan.spec.steps[0].diff[0].to = Some(serde_json::json!(4));
        let text = render(&plan, None, DIGEST, None, PLAIN);
        assert!(text.contains("replicas: 5"), "{text}");
        assert!(text.contains("a person wrote it"), "{text}");
    }

    #[test]
    fn a_plan_for_reading_asks_for_no_approval() {
        let mut plan = samples::scale();
        plan.spec.plan_only = true;
        plan.status = None;
        let text = render(&plan, None, DIGEST, None, PLAIN);
        assert!(text.contains("for reading only: it is never carried out"), "{text}");
        assert!(!text.contains("needed"), "{text}");
    }

    #[test]
    fn one_person_counts_once() {
        let mut plan = samples::scale();
        let status = plan.status.as_mut().unwrap();
        let again = status.approvals[0].clone();
        status.approvals.push(again);
        assert_eq!((approvals_counted(&plan), approvals_required(&plan)), (1, 2));
    }
}
