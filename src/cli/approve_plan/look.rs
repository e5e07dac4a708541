//! The commands that only read.

use super::act::equivalent;
use super::arguments::{Goal, Print};
use super::error::ApprovePlanError;
use super::screens::{Columns, entries, render_history, render_list, render_plan};
use super::session::Session;
use super::standing::Standing;
use crate::api::{ExecutionPlan, PlanPhase, is_asked_back};
use crate::cli::output::{OutputFormat, print, structured};
use crate::cli::page::{Page, Style, Tone, plain, span};
use futures::StreamExt;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watch_object};
use serde_json::json;
use std::pin::pin;
use std::time::Duration;

/// Which plans are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Those that wait for whoever asks.
    Mine,
    /// Those that wait for anybody.
    Waiting,
    /// All, finished ones too.
    All,
}

/// Prints plans as a table, or as a list object.
///
/// # Errors
/// The server's refusal.
pub async fn list(
    session: &Session,
    all_namespaces: bool,
    scope: Scope,
    output: &Print,
    style: Style,
) -> Result<(), ApprovePlanError> {
    let mut plans = session.list(all_namespaces, scope == Scope::All).await?;
    plans.sort_by(|a, b| a.metadata.creation_timestamp.cmp(&b.metadata.creation_timestamp));
    let waiting = plans.len();
    let for_people = output.output == OutputFormat::Table;
    let mut standings = match scope {
        Scope::Mine => session.standings(&plans).await,
        Scope::Waiting if for_people => session.standings(&plans).await,
        Scope::Waiting | Scope::All => Vec::new(),
    };
    if scope == Scope::Mine {
        let mut mine = standings.iter().map(|standing| *standing == Standing::MayApprove);
        plans.retain(|_| mine.next() == Some(true));
        standings.clear();
    }
    let as_list = json!({ "apiVersion": "v1", "kind": "List", "metadata": {}, "items": plans });
    if let Some(text) = structured(&as_list, output.output)? {
        return Ok(print(&text)?);
    }
    let place = if all_namespaces { "any namespace".to_owned() } else { format!("namespace {}", session.namespace) };
    let mut text = match (plans.is_empty(), scope) {
        (true, Scope::Mine) => format!("No plan in {place} waits for you.\n"),
        (true, Scope::Waiting) => format!("No plan that waits for approval in {place}.\n"),
        (true, Scope::All) => format!("No plan in {place}.\n"),
        (false, _) => {
            let now = k8s_openapi::jiff::Timestamp::now();
            let columns = Columns { namespace: all_namespaces, phase: scope == Scope::All };
            render_list(&plans, &standings, columns, now, style)
        }
    };
    let others = waiting - plans.len();
    if others > 0 {
        let everywhere = if all_namespaces { " -A" } else { "" };
        let list = session.kubectl.plugin(&format!("list{everywhere}"));
        let (count, verb) = if others == 1 { ("One", "waits") } else { (&*others.to_string(), "wait") };
        text.push_str(&format!("{count} {}{verb} for others: {list}\n", if plans.is_empty() { "" } else { "more " }));
    }
    if let [only] = plans.as_slice()
        && scope == Scope::Mine
    {
        let name = only.metadata.name.as_deref().unwrap_or_default();
        let place = only.metadata.namespace.as_deref().unwrap_or_default();
        text.push_str(&format!("Read and approve it: {}\n", session.kubectl.plugin_in(name, place)));
    }
    text.push_str(&equivalent(&session.kubectl.list(all_namespaces), style));
    Ok(print(&text)?)
}

/// Prints one plan.
///
/// # Errors
/// When it is not there, or has another digest than the operator says.
pub async fn show(session: &Session, name: &str, output: &Print, style: Style) -> Result<(), ApprovePlanError> {
    let plan = session.plan(name).await?;
    if let Some(text) = structured(&plan, output.output)? {
        return Ok(print(&text)?);
    }
    let digest = Session::digest(&plan);
    let command = session.command(&plan).await;
    let shown = digest.as_ref().map_or("none that holds", String::as_str);
    let standing = session.standing(&plan).await;
    let screen = render_plan(&plan, command.as_ref(), shown, standing.as_ref(), style);
    let screen = screen + &equivalent(&session.kubectl.get(name), style);
    print(&screen)?;
    digest.map(|_| ())
}

/// Prints what happened to one plan.
///
/// # Errors
/// When it is not there.
pub async fn history(session: &Session, name: &str, output: &Print, style: Style) -> Result<(), ApprovePlanError> {
    let plan = session.plan(name).await?;
    let command = session.command(&plan).await;
    let entries = entries(&plan, command.as_ref(), &session.events(&plan).await);
    if let Some(text) = structured(&entries, output.output)? {
        return Ok(print(&text)?);
    }
    let text = render_history(&plan, &entries, style) + &equivalent(&session.kubectl.history(name), style);
    Ok(print(&text)?)
}

/// Watches one plan until it is where it should be.
///
/// # Errors
/// When it ends elsewhere, is deleted, or takes longer than `timeout` (zero: for ever).
pub async fn wait(
    session: &Session,
    name: &str,
    goal: Goal,
    timeout: Duration,
    output: &Print,
    style: Style,
) -> Result<(), ApprovePlanError> {
    let mut last = session.plan(name).await?;
    let watched = watch(session, name, goal, &mut last);
    let waited = if timeout.is_zero() { Ok(watched.await) } else { tokio::time::timeout(timeout, watched).await };
    let Ok(reached) = waited else {
        let phase = phase_of(&last).map_or_else(|| "not seen by the operator".to_owned(), |phase| phase.to_string());
        return Err(ApprovePlanError::Timeout { name: name.to_owned(), phase, seconds: timeout.as_secs() });
    };
    reached?;
    if let Some(text) = structured(&last, output.output)? {
        return Ok(print(&text)?);
    }
    let phase = phase_of(&last).map_or_else(String::new, |phase| phase.to_string());
    let message = last.status.as_ref().and_then(|status| status.message.as_deref()).unwrap_or_default();
    let mut page = Page::new(style);
    page.paragraph(
        0,
        2,
        &[plain(format!("Plan {name} is ")), span(Tone::Strong, &phase), plain(format!(": {message}"))],
    );
    let same_as = session.kubectl.wait(name, &phase, timeout.as_secs());
    Ok(print(&(page.finish() + &equivalent(&same_as, style)))?)
}

async fn watch(session: &Session, name: &str, goal: Goal, last: &mut ExecutionPlan) -> Result<(), ApprovePlanError> {
    if verdict(last, goal)? {
        return Ok(());
    }
    let mut stream = pin!(watch_object(session.plans(), name).default_backoff());
    while let Some(seen) = stream.next().await {
        match seen {
            Ok(Some(plan)) => *last = plan,
            Ok(None) => break,
            // Errors of a watch pass (a restarted server, a lost connection); a refusal does not.
            Err(watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error)) if matches!(&error, kube::Error::Api(status) if matches!(status.code, 401 | 403 | 404)) =>
            {
                return Err(ApprovePlanError::of(format!("watch plan {name}"), error));
            }
            Err(_) => continue,
        }
        if verdict(last, goal)? {
            return Ok(());
        }
    }
    Err(ApprovePlanError::Gone(name.to_owned()))
}

fn phase_of(plan: &ExecutionPlan) -> Option<PlanPhase> {
    plan.status.as_ref().and_then(|status| status.phase)
}

/// Whether the plan is where it should be; an error when it never will be.
fn verdict(plan: &ExecutionPlan, goal: Goal) -> Result<bool, ApprovePlanError> {
    let Some(phase) = phase_of(plan) else { return Ok(false) };
    let wanted = match goal {
        Goal::Done => PlanPhase::Succeeded,
        Goal::Phase(wanted) => wanted,
    };
    if phase == wanted {
        return Ok(true);
    }
    // A rollback that was asked for takes up a plan that had ended.
    let goes_on = is_asked_back(&plan.metadata) && matches!(phase, PlanPhase::Succeeded | PlanPhase::Cancelled);
    if phase.is_final() && !goes_on {
        let message = plan.status.as_ref().and_then(|status| status.message.as_ref());
        return Err(ApprovePlanError::EndedOtherwise {
            name: plan.metadata.name.clone().unwrap_or_default(),
            phase,
            message: message.map_or_else(String::new, |message| format!(": {message}")),
        });
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{ExecutionPlanStatus, REQUEST_ANNOTATION};
    use kube::ResourceExt;

    fn plan(phase: Option<PlanPhase>) -> ExecutionPlan {
        let mut plan = ExecutionPlan::new("a", crate::api::ExecutionPlanSpec::default());
        plan.status = Some(ExecutionPlanStatus {
            phase,
            message: Some("step s1 failed".to_owned()),
            ..ExecutionPlanStatus::default()
        });
        plan
    }

    #[test]
    fn waiting_ends_where_it_should_or_where_it_never_will() {
        assert!(!verdict(&plan(None), Goal::Done).unwrap());
        assert!(!verdict(&plan(Some(PlanPhase::Observing)), Goal::Done).unwrap());
        assert!(verdict(&plan(Some(PlanPhase::Succeeded)), Goal::Done).unwrap());
        assert!(verdict(&plan(Some(PlanPhase::RolledBack)), Goal::Phase(PlanPhase::RolledBack)).unwrap());
        let error = verdict(&plan(Some(PlanPhase::RolledBack)), Goal::Done).unwrap_err();
        assert_eq!(error.to_string(), "plan a ended as RolledBack: step s1 failed");
        let rolled_back = Goal::Phase(PlanPhase::RolledBack);
        let mut done = plan(Some(PlanPhase::Succeeded));
        assert!(verdict(&done, rolled_back).is_err());
        done.annotations_mut().insert(REQUEST_ANNOTATION.to_owned(), "rollback".to_owned());
        assert!(!verdict(&done, rolled_back).unwrap(), "it is about to be put back");
    }
}
