//! `kubectl approve-plan`; everything it does lives in the library.

use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    countersign::cli::approve_plan::run(std::env::args_os()).await
}
