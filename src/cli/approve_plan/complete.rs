//! Completion: scripts for shells, and the answers that kubectl's own completion asks a plugin for.

use super::arguments::{Arguments, CompletionTarget, Connection, PHASES};
use super::session::Session;
use clap::CommandFactory;
use clap_complete::{Shell, generate};

/// The script that kubectl runs to complete the plugin's words.
const KUBECTL_SCRIPT: &str = "#!/bin/sh\n# Save as kubectl_complete-approve_plan, executable, on PATH.\nexec kubectl-approve_plan __complete \"$@\"\n";
/// Directive of kubectl's completion protocol: offer no file names.
const NO_FILES: &str = ":4\n";

/// A completion script.
#[must_use]
pub fn script(target: CompletionTarget) -> String {
    let shell = match target {
        CompletionTarget::Bash => Shell::Bash,
        CompletionTarget::Elvish => Shell::Elvish,
        CompletionTarget::Fish => Shell::Fish,
        CompletionTarget::Powershell => Shell::PowerShell,
        CompletionTarget::Zsh => Shell::Zsh,
        CompletionTarget::Kubectl => return KUBECTL_SCRIPT.to_owned(),
    };
    let mut script = Vec::new();
    generate(shell, &mut Arguments::command(), "kubectl-approve_plan", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// The answer to kubectl's completion: candidates for the last of `words`, one a line. A cluster that does not answer
/// only means fewer candidates.
pub async fn answer(words: &[String]) -> String {
    let mut candidates = match wanted(words) {
        Wanted::Words(words) => words,
        Wanted::Plans { commands } => {
            let mut candidates = commands;
            if let Ok(session) = Session::open(&connection(words), false).await
                && let Ok(plans) = session.list(false, true).await
            {
                candidates.extend(plans.into_iter().filter_map(|plan| {
                    Some(format!("{}\t{}", plan.metadata.name?, crate::cli::page::printable(&plan.spec.summary)))
                }));
            }
            candidates
        }
    };
    let prefix = words.last().map_or("", String::as_str);
    candidates.retain(|candidate| candidate.starts_with(prefix));
    candidates.iter().map(|candidate| format!("{candidate}\n")).collect::<String>() + NO_FILES
}

#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    /// These words.
    Words(Vec<String>),
    /// Names of plans, and these commands.
    Plans { commands: Vec<String> },
}

fn wanted(words: &[String]) -> Wanted {
    let (last, before) = words.split_last().map_or(("", &[][..]), |(last, before)| (last.as_str(), before));
    let definition = Arguments::command();
    match before.last().map(String::as_str) {
        Some("-o" | "--output") => return Wanted::Words(["table", "json", "yaml"].map(str::to_owned).into()),
        Some("--color") => return Wanted::Words(["auto", "always", "never"].map(str::to_owned).into()),
        Some("--for") => {
            return Wanted::Words(
                std::iter::once("done".to_owned()).chain(PHASES.map(|phase| phase.to_string())).collect(),
            );
        }
        Some(flag) if takes_value(&definition, flag) => return Wanted::Words(Vec::new()),
        _ => {}
    }
    let mut skip = false;
    let positional: Vec<_> = before
        .iter()
        .filter(|word| {
            let value = std::mem::replace(&mut skip, takes_value(&definition, word));
            !value && !word.starts_with('-')
        })
        .collect();
    let command = positional.first().and_then(|word| definition.find_subcommand(word.as_str()));
    if last.starts_with('-') {
        let flags = definition.get_arguments().chain(command.into_iter().flat_map(clap::Command::get_arguments));
        return Wanted::Words(flags.filter_map(|flag| Some(format!("--{}", flag.get_long()?))).collect());
    }
    match (command, positional.len()) {
        (None, 0) => Wanted::Plans {
            commands: definition
                .get_subcommands()
                .filter(|command| !command.is_hide_set())
                .map(|command| {
                    format!(
                        "{}\t{}",
                        command.get_name(),
                        command.get_about().map(ToString::to_string).unwrap_or_default()
                    )
                })
                .collect(),
        },
        (Some(command), 1) if command.get_name() == "completion" => {
            Wanted::Words(["bash", "elvish", "fish", "powershell", "zsh", "kubectl"].map(str::to_owned).into())
        }
        (Some(command), 1) if command.get_positionals().next().is_some() => Wanted::Plans { commands: Vec::new() },
        _ => Wanted::Words(Vec::new()),
    }
}

fn takes_value(definition: &clap::Command, flag: &str) -> bool {
    let is = |argument: &clap::Arg| {
        flag.strip_prefix("--").is_some_and(|long| argument.get_long() == Some(long))
            || flag
                .strip_prefix('-')
                .is_some_and(|short| argument.get_short().map(String::from).as_deref() == Some(short))
    };
    let arguments =
        definition.get_subcommands().flat_map(clap::Command::get_arguments).chain(definition.get_arguments());
    flag.starts_with('-')
        && arguments.filter(|argument| is(argument)).any(|argument| argument.get_action().takes_values())
}

/// The flags on the cluster among words that need not parse as a whole.
fn connection(words: &[String]) -> Connection {
    let value = |names: &[&str]| {
        words.iter().enumerate().find_map(|(at, word)| {
            let (name, inline) =
                word.split_once('=').map_or((word.as_str(), None), |(name, value)| (name, Some(value)));
            names.contains(&name).then(|| inline.map(str::to_owned).or_else(|| words.get(at + 1).cloned())).flatten()
        })
    };
    Connection {
        namespace: value(&["-n", "--namespace"]),
        context: value(&["--context"]),
        kubeconfig: value(&["--kubeconfig"]).map(Into::into),
        as_user: value(&["--as"]),
        as_groups: Vec::new(),
        request_timeout: std::time::Duration::from_secs(5),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted_after(line: &str) -> Wanted {
        wanted(&line.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn the_first_word_is_a_command_or_a_plan() {
        let Wanted::Plans { commands } = wanted_after("-n staging ") else { panic!("plans are wanted") };
        let names: Vec<_> = commands.iter().filter_map(|command| command.split('\t').next()).collect();
        assert_eq!(
            names,
            ["approve", "list", "show", "deny", "revoke", "rollback", "cancel", "history", "wait", "completion"]
        );
    }

    #[test]
    fn words_follow_from_what_stands_before() {
        assert_eq!(wanted_after("show "), Wanted::Plans { commands: Vec::new() });
        assert_eq!(wanted_after("--as bob history rel"), Wanted::Plans { commands: Vec::new() });
        assert_eq!(wanted_after("show release-1 "), Wanted::Words(Vec::new()));
        assert_eq!(wanted_after("release-1 "), Wanted::Words(Vec::new()));
        assert_eq!(wanted_after("show -n "), Wanted::Words(Vec::new()));
        assert_eq!(wanted_after("list -o "), Wanted::Words(["table", "json", "yaml"].map(str::to_owned).into()));
        let Wanted::Words(flags) = wanted_after("deny release-1 --") else { panic!("flags are wanted") };
        assert!(flags.contains(&"--reason".to_owned()) && flags.contains(&"--namespace".to_owned()), "{flags:?}");
    }

    #[test]
    fn the_cluster_is_read_from_an_unfinished_line() {
        let words = ["show", "--context=prod", "-n", "staging", "rel"].map(str::to_owned);
        let connection = connection(&words);
        assert_eq!(connection.context.as_deref(), Some("prod"));
        assert_eq!(connection.namespace.as_deref(), Some("staging"));
    }

    #[test]
    fn every_shell_has_a_script() {
        for shell in [
            CompletionTarget::Bash,
            CompletionTarget::Elvish,
            CompletionTarget::Fish,
            CompletionTarget::Powershell,
            CompletionTarget::Zsh,
        ] {
            assert!(script(shell).contains("approve_plan"), "{shell:?}");
        }
        assert!(script(CompletionTarget::Kubectl).starts_with("#!/bin/sh"));
    }
}
