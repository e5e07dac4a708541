//! The operator and its tools; everything it does lives in the library.

use std::process::ExitCode;

// Threads of their own cost memory on machines with many processors; the work is waiting for the API server.
#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    countersign::cli::operator::run(std::env::args_os()).await
}
