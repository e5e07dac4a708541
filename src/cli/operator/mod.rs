//! `countersign`: the operator itself, and what one needs around it.

mod crds;
mod digest_file;
mod policy_test;
mod run;
mod tool_list;

pub use run::RunOptions;

use super::output::{OutputError, OutputFormat, When, print, story, structured, style};
use crate::api::{GROUP, VERSION};
use crate::plan::digest::DigestError;
use crate::telemetry::logging::LoggingError;
use clap::{CommandFactory, Parser, Subcommand};
use serde_json::json;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

/// Turns requests in plain words into reviewable plans, and runs only what somebody countersigned.
#[derive(Debug, Parser)]
#[command(name = "countersign", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the operator.
    Run(RunOptions),
    /// Print the custom resource definitions: countersign crds | kubectl apply --server-side -f -
    Crds {
        /// Write one YAML file a kind into this directory instead.
        #[arg(long, value_name = "DIR", conflicts_with = "output")]
        output_dir: Option<PathBuf>,
        /// The form of the output.
        #[arg(short, long, value_enum, default_value = "yaml")]
        output: Structured,
    },
    /// List what countersign can do.
    Tools {
        /// The form of the output; json and yaml show the parameters' schemas.
        #[arg(short, long, value_enum, default_value_t)]
        output: OutputFormat,
    },
    /// Print the digest of an ExecutionPlan: what an approval of it refers to.
    Digest {
        /// A YAML or JSON file with one ExecutionPlan; `-` for standard input.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Try PlanPolicies without a cluster.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Print a completion script.
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the version.
    Version {
        /// The form of the output.
        #[arg(short, long, value_enum, default_value_t)]
        output: OutputFormat,
    },
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Compile policies and check their examples. Fails when a policy would not be Ready.
    Test {
        /// YAML or JSON files with PlanPolicies, other objects besides; `-` for standard input.
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
        /// The form of the output.
        #[arg(short, long, value_enum, default_value_t)]
        output: OutputFormat,
    },
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Structured {
    /// JSON: one List object.
    Json,
    /// YAML: one document a definition.
    Yaml,
}

/// Why `countersign` did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// A file cannot be read.
    #[error("cannot read {file}")]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {file}")]
    Write {
        /// The file.
        file: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file holds no plan.
    #[error("{file} holds no ExecutionPlan of {GROUP}/{VERSION}: {reason}")]
    NoPlan {
        /// The file.
        file: PathBuf,
        /// What is there instead.
        reason: String,
    },
    /// The plan has no digest.
    #[error("the plan in {file} has no digest")]
    Digest {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: DigestError,
    },
    /// A file holds no policy, or one that cannot be read.
    #[error("{file} holds no PlanPolicy that can be tested: {reason}")]
    NoPolicy {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Policies would not be Ready.
    #[error("{failed} of {total} policies fail")]
    PoliciesFail {
        /// How many.
        failed: usize,
        /// Of how many.
        total: usize,
    },
    /// Logging cannot be set up.
    #[error(transparent)]
    Logging(#[from] LoggingError),
    /// The operator stopped.
    #[error("the operator stopped: {0}")]
    Run(String),
    /// The result cannot be printed.
    #[error(transparent)]
    Output(#[from] OutputError),
}

/// Runs `countersign` with these words, the program's own name first.
///
/// Exit codes: 0 when it did what was asked, 1 when not, 2 when the words make no sense.
pub async fn run(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(words) {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match execute(arguments.command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", story(&error));
            ExitCode::FAILURE
        }
    }
}

async fn execute(command: Command) -> Result<(), OperatorError> {
    match command {
        Command::Run(options) => run::run(options).await?,
        Command::Crds { output_dir: Some(directory), .. } => crds::write(&directory)?,
        Command::Crds { output: Structured::Json, .. } => print(&crds::json()?)?,
        Command::Crds { output: Structured::Yaml, .. } => print(&crds::yaml()?)?,
        Command::Tools { output } => print(&tool_list::render(crate::tools::registry(), output, style(When::Auto))?)?,
        Command::Digest { file } => print(&format!("{}\n", digest_file::digest(&file)?))?,
        Command::Policy(PolicyCommand::Test { files, output }) => {
            let tested = policy_test::test(&files)?;
            print(&policy_test::render(&tested, output, style(When::Auto))?)?;
            let failed = tested.iter().filter(|policy| !policy.passed()).count();
            if failed > 0 {
                return Err(OperatorError::PoliciesFail { failed, total: tested.len() });
            }
        }
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "countersign", &mut script);
            print(&String::from_utf8_lossy(&script))?;
        }
        Command::Version { output } => {
            let version = env!("CARGO_PKG_VERSION");
            let facts = json!({ "version": version, "apiVersion": format!("{GROUP}/{VERSION}") });
            print(&structured(&facts, output)?.unwrap_or_else(|| format!("countersign {version}\n")))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_operator_runs_without_any_flag() {
        let arguments = Arguments::try_parse_from(["countersign", "run"]).unwrap();
        let Command::Run(options) = arguments.command else { panic!("run is wanted") };
        assert_eq!(options.workers, 16);
        assert!(Arguments::try_parse_from(["countersign", "run", "--workers", "0"]).is_err());
        assert!(Arguments::try_parse_from(["countersign", "run", "--listen", "8080"]).is_err());
    }
}
