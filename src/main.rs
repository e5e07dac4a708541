//! The operator and its tools; everything it does lives in the library.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    countersign::cli::operator::run(std::env::args_os()).await
}
