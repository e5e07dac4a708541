//! The commands that change something: a word on a plan, or a request to the operator.

use super::arguments::{Assent, Print};
use super::error::ApprovePlanError;
use super::screens::render_plan;
use super::session::Session;
use crate::api::{
    Decision, ExecutionPlan, PlanApproval, PlanApprovalSpec, PlanPhase, REQUEST_ANNOTATION, REQUESTED_BY_ANNOTATION,
};
use crate::cli::output::{OutputFormat, print, structured};
use crate::cli::page::{Page, Style, Tone, plain, span};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::json;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// How the API server says that it does not see the plan yet, or its digest. It judges by a view of its own, which is a
/// moment behind what it has stored.
const NOT_SEEN_YET: [&str; 2] = ["no params found for policy binding", "has no digest yet"];
/// How long that is waited for. The plan was read with its digest, so that it can only be late.
const PATIENCE: Duration = Duration::from_secs(30);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
const FIELD_MANAGER: &str = "kubectl-approve-plan";

/// A request that the operator acts on, by annotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Put back what was done.
    Rollback,
    /// Stop.
    Cancel,
}

impl Action {
    const fn word(self) -> &'static str {
        match self {
            Self::Rollback => "rollback",
            Self::Cancel => "cancel",
        }
    }

    const fn asked(self) -> &'static str {
        match self {
            Self::Rollback => "Asked to put back",
            Self::Cancel => "Asked to stop",
        }
    }

    /// Why this makes no sense for a plan in `phase`, if it does not.
    const fn refusal(self, phase: PlanPhase) -> Option<&'static str> {
        match (self, phase) {
            (
                Self::Rollback,
                PlanPhase::Executing
                | PlanPhase::Observing
                | PlanPhase::Succeeded
                | PlanPhase::Cancelled
                | PlanPhase::RollbackFailed,
            )
            | (
                Self::Cancel,
                PlanPhase::AwaitingApproval | PlanPhase::Approved | PlanPhase::Executing | PlanPhase::Observing,
            ) => None,
            (Self::Rollback, PlanPhase::AwaitingApproval | PlanPhase::Approved) => {
                Some("nothing was done yet; `kubectl approve-plan cancel` stops it")
            }
            (Self::Rollback, PlanPhase::RollingBack) => Some("it is being put back already"),
            (Self::Rollback, _) => Some("nothing of it is left to put back"),
            (Self::Cancel, PlanPhase::RollingBack) => Some("putting back is not stopped halfway"),
            (Self::Cancel, PlanPhase::Succeeded) => Some("it is done; `kubectl approve-plan rollback` has it put back"),
            (Self::Cancel, _) => Some("it is over"),
        }
    }
}

/// Shows a plan, asks, and records the caller's word on exactly what was shown.
///
/// # Errors
/// When the plan is not there, changed, or does not wait; when nobody says yes; when the server refuses.
pub async fn decide(
    session: &Session,
    name: &str,
    assent: Assent,
    decision: Decision,
    output: &Print,
    style: Style,
) -> Result<(), ApprovePlanError> {
    let plan = session.plan(name).await?;
    let digest = Session::digest(&plan)?;
    if let Some(wanted) = assent.digest.as_ref().filter(|wanted| **wanted != digest) {
        let (name, wanted) = (name.to_owned(), wanted.clone());
        return Err(ApprovePlanError::DigestChanged { name, wanted, found: digest });
    }
    if let Some(phase) = phase(&plan).filter(|phase| *phase != PlanPhase::AwaitingApproval) {
        let advice = "only a plan that waits for approval takes a word";
        return Err(ApprovePlanError::WrongPhase { name: name.to_owned(), phase, advice });
    }
    let approver = session.whoami().await;
    let spec = PlanApprovalSpec { plan: name.to_owned(), digest, decision, reason: assent.reason, approver };
    let same_as = session.kubectl.approval(&spec);
    if !assent.yes {
        require_terminal(name, " --digest and the digest that it shows", output.output)?;
        let command = session.command(&plan).await;
        let standing = session.standing(&plan).await;
        let mut screen = render_plan(&plan, command.as_ref(), &spec.digest, standing.as_ref(), style);
        screen.push_str(&equivalent(&same_as, style));
        print(&screen)?;
        let question = match decision {
            Decision::Approve => "Approve this plan?",
            Decision::Deny => "Deny this plan?",
        };
        ask(question)?;
    }
    if let Some(given) = given_before(session, &spec).await {
        return report(session, &given, output.output, style, "was there already", None);
    }
    let mut approval = PlanApproval::new("", spec);
    approval.metadata.name = None;
    approval.metadata.generate_name = Some(format!("{name}-"));
    let by_us = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    let created = record(session, &by_us, &approval).await;
    let created = created.map_err(|error| ApprovePlanError::of(format!("record a word on plan {name}"), error))?;
    report(session, &created, output.output, style, "is on record", assent.yes.then_some(same_as))
}

/// Creates an approval, as soon as the API server sees the plan that it is for.
async fn record(session: &Session, by_us: &PostParams, approval: &PlanApproval) -> Result<PlanApproval, kube::Error> {
    let begun = Instant::now();
    let mut pause = Duration::from_millis(100);
    loop {
        match session.approvals().create(by_us, approval).await {
            Err(kube::Error::Api(status)) if is_not_seen_yet(&status.message) && begun.elapsed() < PATIENCE => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            done => return done,
        }
    }
}

fn is_not_seen_yet(message: &str) -> bool {
    NOT_SEEN_YET.iter().any(|words| message.contains(words))
}

/// Deletes the caller's own words on a plan that has not started.
///
/// # Errors
/// When it has started, when there is no word, or when the server refuses.
pub async fn revoke(session: &Session, name: &str, style: Style) -> Result<(), ApprovePlanError> {
    let plan = session.plan(name).await?;
    let started = |phase: &PlanPhase| !matches!(phase, PlanPhase::AwaitingApproval | PlanPhase::Approved);
    if let Some(phase) = phase(&plan).filter(started) {
        let advice = "a word is taken back before the plan starts; `kubectl approve-plan cancel` stops a running one";
        return Err(ApprovePlanError::WrongPhase { name: name.to_owned(), phase, advice });
    }
    let user = session.whoami().await.map_or_else(|| "an unknown user".to_owned(), |who| who.username);
    let list = session.approvals().list(&ListParams::default()).await;
    let list = list.map_err(|error| ApprovePlanError::of("list approvals", error))?;
    let mine: Vec<_> = list
        .into_iter()
        .filter(|one| one.spec.plan == name && one.spec.approver.as_ref().is_some_and(|who| who.username == user))
        .collect();
    if mine.is_empty() {
        return Err(ApprovePlanError::NothingToRevoke { user, name: name.to_owned() });
    }
    let mut names = Vec::new();
    for approval in mine {
        let approval_name = approval.metadata.name.unwrap_or_default();
        let exactly = Preconditions { uid: approval.metadata.uid, resource_version: None };
        let parameters = DeleteParams { preconditions: Some(exactly), ..DeleteParams::default() };
        let deleted = session.approvals().delete(&approval_name, &parameters).await;
        deleted.map_err(|error| ApprovePlanError::of(format!("delete planapproval {approval_name}"), error))?;
        names.push(approval_name);
    }
    let mut page = Page::new(style);
    page.paragraph(0, 2, &[span(Tone::Changed, "Taken back"), plain(format!(": {user}'s word on plan {name}"))]);
    print(&(page.finish() + &equivalent(&session.kubectl.revoke(&names), style)))?;
    Ok(())
}

/// Asks the operator to act on a plan.
///
/// # Errors
/// When the plan's phase does not allow it, when nobody says yes, or when the server refuses.
pub async fn request(
    session: &Session,
    name: &str,
    action: Action,
    yes: bool,
    output: &Print,
    style: Style,
) -> Result<(), ApprovePlanError> {
    let plan = session.plan(name).await?;
    if let Some((phase, advice)) = phase(&plan).and_then(|phase| Some((phase, action.refusal(phase)?))) {
        return Err(ApprovePlanError::WrongPhase { name: name.to_owned(), phase, advice });
    }
    if !yes {
        require_terminal(name, "", output.output)?;
        let command = session.command(&plan).await;
        let digest = Session::digest(&plan).unwrap_or_else(|_| "unknown".to_owned());
        print(&render_plan(&plan, command.as_ref(), &digest, None, style))?;
        ask(match action {
            Action::Rollback => "Put back what this plan did?",
            Action::Cancel => "Stop this plan?",
        })?;
    }
    // The API server writes down who asks; where it cannot, it demands that the caller says so.
    let by = session.whoami().await.and_then(|who| serde_json::to_string(&who).ok());
    let patch = json!({ "metadata": { "annotations": {
        REQUEST_ANNOTATION: action.word(), REQUESTED_BY_ANNOTATION: by,
    } } });
    let by_us = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let patched = session.plans().patch(name, &by_us, &Patch::Merge(&patch)).await;
    let patched = patched.map_err(|error| ApprovePlanError::of(format!("annotate plan {name}"), error))?;
    if let Some(text) = structured(&patched, output.output)? {
        return Ok(print(&text)?);
    }
    let mut page = Page::new(style);
    let follow = format!("follow it: {}", session.kubectl.plugin(&format!("history {name}")));
    page.paragraph(0, 2, &[span(Tone::Changed, action.asked()), plain(format!(" plan {name}; {follow}"))]);
    print(&(page.finish() + &equivalent(&session.kubectl.request(name, action.word()), style)))?;
    Ok(())
}

/// The closing lines of a screen.
pub fn equivalent(command: &str, style: Style) -> String {
    let mut page = Page::new(style);
    page.paragraph(0, 0, &[span(Tone::Faint, "With plain kubectl:")]);
    page.verbatim(0, command);
    format!("\n{}", page.finish())
}

fn phase(plan: &ExecutionPlan) -> Option<PlanPhase> {
    plan.status.as_ref().and_then(|status| status.phase)
}

/// The same word by the same person on the same digest, if it is there and may be read.
async fn given_before(session: &Session, spec: &PlanApprovalSpec) -> Option<PlanApproval> {
    let me = &spec.approver.as_ref()?.username;
    let approvals = session.approvals().list(&ListParams::default()).await.ok()?;
    approvals.into_iter().find(|one| {
        one.spec.plan == spec.plan
            && one.spec.digest == spec.digest
            && one.spec.decision == spec.decision
            && one.spec.approver.as_ref().is_some_and(|who| &who.username == me)
    })
}

fn report(
    session: &Session,
    approval: &PlanApproval,
    format: OutputFormat,
    style: Style,
    what: &str,
    same_as: Option<String>,
) -> Result<(), ApprovePlanError> {
    if let Some(text) = structured(approval, format)? {
        return Ok(print(&text)?);
    }
    let spec = &approval.spec;
    let (word, tone) = match spec.decision {
        Decision::Approve => ("Approved", Tone::Added),
        Decision::Deny => ("Denied", Tone::Removed),
    };
    let who = spec.approver.as_ref().map_or_else(String::new, |who| format!(" by {}", who.username));
    let name = approval.metadata.name.as_deref().unwrap_or_default();
    let mut page = Page::new(style);
    page.paragraph(
        0,
        2,
        &[span(tone, format!("{word}{who}")), plain(format!(": plan {}; planapproval/{name} {what}", spec.plan))],
    );
    page.paragraph(
        0,
        2,
        &[span(Tone::Faint, format!("Follow it: {}", session.kubectl.plugin(&format!("wait {}", spec.plan))))],
    );
    let closing = same_as.map_or_else(String::new, |command| equivalent(&command, style));
    print(&(page.finish() + &closing))?;
    Ok(())
}

fn require_terminal(name: &str, and: &'static str, format: OutputFormat) -> Result<(), ApprovePlanError> {
    if io::stdin().is_terminal() && format == OutputFormat::Table {
        return Ok(());
    }
    Err(ApprovePlanError::NoTerminal { name: name.to_owned(), and })
}

fn ask(question: &str) -> Result<(), ApprovePlanError> {
    let mut stderr = io::stderr();
    let mut answer = String::new();
    write!(stderr, "\n{question} [y/N] ")
        .and_then(|()| stderr.flush())
        .and_then(|()| io::stdin().read_line(&mut answer))
        .map_err(ApprovePlanError::Answer)?;
    if is_yes(&answer) { Ok(()) } else { Err(ApprovePlanError::Declined) }
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::super::arguments::PHASES;
    use super::*;

    #[test]
    fn only_yes_is_yes() {
        for yes in ["y\n", "Y", " yes \n", "YES"] {
            assert!(is_yes(yes), "{yes:?}");
        }
        for no in ["", "\n", "n", "yeah", "yy", "no yes"] {
            assert!(!is_yes(no), "{no:?}");
        }
    }

    #[test]
    fn what_can_be_asked_follows_from_the_phase() {
        let allowed = |action: Action| {
            PHASES
                .into_iter()
                .filter(|phase| action.refusal(*phase).is_none())
                .map(|p| p.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(allowed(Action::Rollback), ["Executing", "Observing", "Succeeded", "RollbackFailed", "Cancelled"]);
        assert_eq!(allowed(Action::Cancel), ["AwaitingApproval", "Approved", "Executing", "Observing"]);
    }
}
