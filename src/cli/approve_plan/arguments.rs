use crate::api::PlanPhase;
use crate::cli::output::{OutputFormat, When};
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// Show a plan of countersign, ask, and approve exactly what was shown.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "kubectl-approve_plan",
    bin_name = "kubectl approve-plan",
    version,
    override_usage = "kubectl approve-plan [-A]                      what waits for you\n       kubectl approve-plan NAME [flags]              show a plan, ask, approve it\n       kubectl approve-plan COMMAND [NAME] [flags]",
    after_help = "A plan that is named like a command is approved by `kubectl approve-plan approve NAME`.\n\n\
        Completion within kubectl: save what `kubectl approve-plan completion kubectl` prints as an executable file\n\
        named kubectl_complete-approve_plan on PATH, and kubectl's own completion offers plans by name."
)]
pub struct Arguments {
    /// The plan to approve; without one, the plans that wait for you are listed.
    pub name: Option<String>,
    /// Without a plan: those that wait for you in all namespaces.
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    #[command(flatten)]
    pub assent: Assent,
    #[command(flatten)]
    pub connection: Connection,
    #[command(flatten)]
    pub print: Print,
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// The commands.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Show a plan, ask, and approve it (what happens without a command, too).
    Approve {
        #[command(flatten)]
        plan: Named,
        #[command(flatten)]
        assent: Assent,
    },
    /// List the plans that wait for approval, and what you can do about each.
    List {
        /// Plans of all namespaces.
        #[arg(short = 'A', long)]
        all_namespaces: bool,
        /// Plans in every phase, finished ones too.
        #[arg(long, conflicts_with = "mine")]
        all: bool,
        /// Only what waits for you: what you may approve, did not ask for and have not decided on (what happens without
        /// any command, too).
        #[arg(long)]
        mine: bool,
    },
    /// Show a plan.
    Show {
        #[command(flatten)]
        plan: Named,
    },
    /// Say no to a plan.
    Deny {
        #[command(flatten)]
        plan: Named,
        /// Do not ask.
        #[arg(short, long)]
        yes: bool,
        /// Why; goes on record.
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// Deny only if the plan still has this digest.
        #[arg(long, value_name = "sha256:…")]
        digest: Option<String>,
    },
    /// Take your own word on a plan back, as long as the plan has not started.
    Revoke {
        #[command(flatten)]
        plan: Named,
    },
    /// Have what a plan did put back.
    Rollback {
        #[command(flatten)]
        plan: Named,
        /// Do not ask.
        #[arg(short, long)]
        yes: bool,
    },
    /// Stop a plan.
    Cancel {
        #[command(flatten)]
        plan: Named,
        /// Do not ask.
        #[arg(short, long)]
        yes: bool,
    },
    /// Tell who asked, proposed and approved, what was changed, and what was put back.
    History {
        #[command(flatten)]
        plan: Named,
    },
    /// Wait until a plan is done or in a phase; fails when it ends in another.
    Wait {
        #[command(flatten)]
        plan: Named,
        /// `done` (succeeded), or a phase such as Executing.
        #[arg(long = "for", value_name = "PHASE", default_value = "done", value_parser = goal)]
        goal: Goal,
        /// The longest to wait, for example 90s or 1h; 0 for ever.
        #[arg(long, default_value = "10m", value_parser = duration)]
        timeout: Duration,
    },
    /// Print a completion script.
    Completion {
        /// A shell, or `kubectl` for the script that serves kubectl's own completion.
        shell: CompletionTarget,
    },
    /// Answers kubectl's completion with candidates for the last of these words, those after the plugin's name.
    #[command(skip)]
    Complete(Vec<String>),
}

/// Which plan.
#[derive(Args, Clone, Debug)]
pub struct Named {
    /// The plan's name.
    #[arg(value_name = "PLAN")]
    pub plan: String,
}

impl Named {
    /// The name, without the kind that kubectl also takes in front of it.
    #[must_use]
    pub fn name(&self) -> &str {
        let (kind, name) = self.plan.split_once('/').unwrap_or(("plan", &self.plan));
        let kinds = ["plan", "executionplan", "executionplans", "executionplans.countersign.dev"];
        if kinds.contains(&kind.to_ascii_lowercase().as_str()) { name } else { &self.plan }
    }
}

/// How to approve.
#[derive(Args, Clone, Debug, Default)]
pub struct Assent {
    /// Do not ask. Say with --digest which plan you read.
    #[arg(short, long)]
    pub yes: bool,
    /// Approve only if the plan still has this digest.
    #[arg(long, value_name = "sha256:…")]
    pub digest: Option<String>,
    /// Why; goes on record.
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

/// Which cluster, and as whom: as for kubectl.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Cluster")]
pub struct Connection {
    /// The namespace; the context's when absent.
    #[arg(short, long, global = true, value_name = "NAME")]
    pub namespace: Option<String>,
    /// The context of the kubeconfig; its current one when absent.
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// The kubeconfig file; $KUBECONFIG or ~/.kube/config when absent.
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Act as this user.
    #[arg(long = "as", global = true, value_name = "USER")]
    pub as_user: Option<String>,
    /// Act as a member of this group; may be given several times.
    #[arg(long = "as-group", global = true, value_name = "GROUP", requires = "as_user")]
    pub as_groups: Vec<String>,
    /// The longest to wait for one answer of the API server, for example 5s; 0 for ever.
    #[arg(long, global = true, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub request_timeout: Duration,
}

/// What is printed.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Output")]
pub struct Print {
    /// The form of the output.
    #[arg(short, long, global = true, value_enum, default_value_t)]
    pub output: OutputFormat,
    /// Whether to colour; automatic means on a terminal, unless NO_COLOR is set.
    #[arg(long, global = true, value_name = "WHEN", value_enum, default_value_t)]
    pub color: When,
    /// Do not colour.
    #[arg(long, global = true, conflicts_with = "color")]
    pub no_color: bool,
}

/// What to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// The plan succeeded.
    Done,
    /// The plan is in this phase.
    Phase(PlanPhase),
}

/// Who completes.
#[derive(Clone, Copy, Debug, clap::ValueEnum, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum CompletionTarget {
    Bash,
    Elvish,
    Fish,
    Powershell,
    Zsh,
    /// The script that serves kubectl's own completion.
    Kubectl,
}

/// All phases, for `--for`.
pub const PHASES: [PlanPhase; 15] = [
    PlanPhase::Planned,
    PlanPhase::AwaitingApproval,
    PlanPhase::Approved,
    PlanPhase::Executing,
    PlanPhase::Observing,
    PlanPhase::Succeeded,
    PlanPhase::Failed,
    PlanPhase::RollingBack,
    PlanPhase::RolledBack,
    PlanPhase::RollbackFailed,
    PlanPhase::Denied,
    PlanPhase::Expired,
    PlanPhase::Drifted,
    PlanPhase::Superseded,
    PlanPhase::Cancelled,
];

impl Arguments {
    /// The command to run; approving when none is named.
    ///
    /// # Errors
    /// What clap says: unknown flags, missing values, a plan before a command.
    pub fn read(words: impl IntoIterator<Item = OsString>) -> Result<(Command, Connection, Print), clap::Error> {
        let words: Vec<OsString> = words.into_iter().collect();
        // An unfinished line is not parsed: a flag in it is a word to complete, not one to obey.
        if words.get(1).is_some_and(|word| word == "__complete") {
            let words = words.into_iter().skip(2).map(|word| word.to_string_lossy().into_owned()).collect();
            return Ok((Command::Complete(words), Connection::default(), Print::default()));
        }
        let arguments = Self::try_parse_from(words)?;
        let Self { name, all_namespaces, assent, connection, print, command } = arguments;
        let fail = |kind, message: String| Err(Self::command().error(kind, message));
        let loose = assent.yes || assent.digest.is_some() || assent.reason.is_some();
        match (name, command) {
            (None, Some(_)) if loose || all_namespaces => {
                fail(ErrorKind::ArgumentConflict, "flags of a command come after it".to_owned())
            }
            (Some(plan), None) if all_namespaces => fail(
                ErrorKind::ArgumentConflict,
                format!("--all-namespaces lists plans, and '{plan}' is one plan: say where it is with --namespace"),
            ),
            (None, Some(command)) => Ok((command, connection, print)),
            (Some(plan), None) => Ok((Command::Approve { plan: Named { plan }, assent }, connection, print)),
            (Some(name), Some(_)) => fail(
                ErrorKind::ArgumentConflict,
                format!("'{name}' stands before a command; a plan's name comes after the command"),
            ),
            (None, None) if loose => fail(
                ErrorKind::MissingRequiredArgument,
                "which plan? `kubectl approve-plan` names those that wait for you".to_owned(),
            ),
            (None, None) => Ok((Command::List { all_namespaces, all: false, mine: true }, connection, print)),
        }
    }
}

fn goal(text: &str) -> Result<Goal, String> {
    if text.eq_ignore_ascii_case("done") {
        return Ok(Goal::Done);
    }
    PHASES
        .into_iter()
        .find(|phase| phase.to_string().eq_ignore_ascii_case(text))
        .map(Goal::Phase)
        .ok_or_else(|| format!("no such phase; one of done, {}", PHASES.map(|phase| phase.to_string()).join(", ")))
}

/// A duration as kubectl takes it: a number of seconds, or 90s, 5m, 1h30m.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "expected a duration such as 30s, 5m or 1h30m".to_owned();
    if let Ok(seconds) = text.parse::<u32>() {
        return Ok(Duration::from_secs(seconds.into()));
    }
    let duration: jiff::SignedDuration = text.parse().map_err(|_| wrong())?;
    Duration::try_from(duration).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<(Command, Connection, Print), clap::Error> {
        Arguments::read(std::iter::once("kubectl-approve_plan").chain(line.split_whitespace()).map(OsString::from))
    }

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_bare_name_is_approved() {
        let (command, connection, _) =
            read("scale-1 -n staging --yes --digest sha256:00 --as bob --as-group sre").unwrap();
        let Command::Approve { plan, assent } = command else { panic!("{command:?}") };
        assert_eq!((plan.plan.as_str(), assent.yes, assent.digest.as_deref()), ("scale-1", true, Some("sha256:00")));
        assert_eq!(connection.namespace.as_deref(), Some("staging"));
        assert_eq!((connection.as_user.as_deref(), connection.as_groups), (Some("bob"), vec!["sre".to_owned()]));
    }

    #[test]
    fn nothing_at_all_asks_for_what_waits_for_oneself() {
        for (line, everywhere) in [("", false), ("-n staging", false), ("-A", true), ("list --mine -A", true)] {
            let (command, ..) = read(line).unwrap();
            assert!(
                matches!(command, Command::List { all_namespaces, all: false, mine: true } if all_namespaces == everywhere),
                "{line}: {command:?}"
            );
        }
    }

    #[test]
    fn a_plan_may_be_named_with_its_kind() {
        let name = |plan: &str| Named { plan: plan.to_owned() }.name().to_owned();
        assert_eq!([name("plan/a"), name("ExecutionPlan/a"), name("a"), name("pod/a")], ["a", "a", "a", "pod/a"]);
    }

    #[test]
    fn a_plan_named_like_a_command_can_be_approved() {
        let (command, ..) = read("approve list --reason fine").unwrap();
        assert!(matches!(command, Command::Approve { plan, .. } if plan.plan == "list"));
    }

    #[test]
    fn flags_of_the_cluster_stand_anywhere() {
        for line in ["-n staging list", "list -n staging", "--context=x list --namespace=staging"] {
            let (command, connection, _) = read(line).unwrap();
            assert!(matches!(command, Command::List { .. }), "{line}");
            assert_eq!(connection.namespace.as_deref(), Some("staging"), "{line}");
        }
    }

    #[test]
    fn an_unfinished_line_is_completed_as_it_is() {
        let (command, connection, _) = read("__complete -n staging show rel").unwrap();
        assert!(matches!(command, Command::Complete(words) if words == ["-n", "staging", "show", "rel"]));
        assert_eq!(connection.namespace, None);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (line, says) in [
            ("--yes", "which plan?"),
            ("scale-1 -A", "say where it is with --namespace"),
            ("-A show scale-1", "come after it"),
            ("list --mine --all", "--all"),
            ("scale-1 list", "stands before a command"),
            ("--yes list", "come after it"),
            ("deny scale-1", "--reason"),
            ("wait scale-1 --for Dancing", "one of done, Planned, AwaitingApproval"),
            ("wait scale-1 --timeout soon", "expected a duration"),
            ("scale-1 --as-group sre", "--as"),
        ] {
            let error = read(line).unwrap_err().to_string();
            assert!(error.contains(says), "{line}: {error}");
        }
    }

    #[test]
    fn every_phase_of_the_definition_can_be_waited_for() {
        let crds = serde_json::to_value(crate::api::crds()).unwrap();
        let plan = crds.as_array().unwrap().iter().find(|crd| crd["spec"]["names"]["kind"] == "ExecutionPlan").unwrap();
        let status = &plan["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"];
        let defined = status["properties"]["phase"]["enum"].as_array().unwrap();
        let defined: Vec<_> = defined.iter().filter_map(|phase| phase.as_str()).collect();
        assert_eq!(PHASES.map(|phase| phase.to_string()).to_vec(), defined);
    }

    #[test]
    fn durations_and_phases_are_read_as_people_write_them() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert!(duration("-5s").is_err());
        assert!(duration("99999999999999999999h").is_err());
        assert_eq!(goal("rolledback"), Ok(Goal::Phase(PlanPhase::RolledBack)));
    }
}
