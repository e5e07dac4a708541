//! `kubectl approve-plan`: the kubectl plugin with which people read plans and give their word on them.

mod act;
mod arguments;
mod complete;
mod error;
mod kubectl;
mod look;
mod screens;
mod session;
mod standing;

pub use error::ApprovePlanError;

use super::output::{When, print, story, style};
use super::page::{Page, Style, Tone, plain, span};
use crate::api::Decision;
use arguments::{Arguments, Assent, Command, Connection, Print};
use session::Session;
use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

/// Runs the plugin with these words, the program's own name first.
///
/// Exit codes: 0 when it did what was asked, 1 when not, 2 when the words make no sense.
pub async fn run(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let (command, connection, output) = match Arguments::read(words) {
        Ok(read) => read,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let style = style(if output.no_color { When::Never } else { output.color });
    match execute(command, &connection, &output, style).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not wrapped: people copy digests and commands out of it.
            let color = style.color && (output.color == When::Always || std::io::stderr().is_terminal());
            let mut page = Page::new(Style { color, width: usize::MAX });
            page.paragraph(0, 0, &[span(Tone::Removed, "error: "), plain(story(&error))]);
            let _ = std::io::stderr().write_all(page.finish().as_bytes());
            ExitCode::FAILURE
        }
    }
}

async fn execute(
    command: Command,
    connection: &Connection,
    output: &Print,
    style: Style,
) -> Result<(), ApprovePlanError> {
    match command {
        Command::Completion { shell } => return Ok(print(&complete::script(shell))?),
        Command::Complete(words) => return Ok(print(&complete::answer(&words).await)?),
        _ => {}
    }
    let session = Session::open(connection, matches!(command, Command::Wait { .. })).await?;
    match command {
        Command::Approve { plan, assent } => {
            act::decide(&session, plan.name(), assent, Decision::Approve, output, style).await
        }
        Command::Deny { plan, yes, reason, digest } => {
            let assent = Assent { yes, digest, reason: Some(reason) };
            act::decide(&session, plan.name(), assent, Decision::Deny, output, style).await
        }
        Command::Revoke { plan } => act::revoke(&session, plan.name(), style).await,
        Command::Rollback { plan, yes } => {
            act::request(&session, plan.name(), act::Action::Rollback, yes, output, style).await
        }
        Command::Cancel { plan, yes } => {
            act::request(&session, plan.name(), act::Action::Cancel, yes, output, style).await
        }
        Command::List { all_namespaces, all, mine } => {
            let scope = match (all, mine) {
                (true, _) => look::Scope::All,
                (false, true) => look::Scope::Mine,
                (false, false) => look::Scope::Waiting,
            };
            look::list(&session, all_namespaces, scope, output, style).await
        }
        Command::Show { plan } => look::show(&session, plan.name(), output, style).await,
        Command::History { plan } => look::history(&session, plan.name(), output, style).await,
        Command::Wait { plan, goal, timeout } => look::wait(&session, plan.name(), goal, timeout, output, style).await,
        Command::Completion { .. } | Command::Complete(_) => Ok(()),
    }
}
