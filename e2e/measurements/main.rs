//! What countersign costs, side by side with what it is measured against, on one cluster and in one run.
//!
//! `e2e/bench` builds the operator, starts the cluster and runs this; docs/benchmarks.md says what the figures mean.
//! Nothing here asserts a time: a figure is printed beside its goal.

// What goes wrong here ends the run, like in a test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod archive;
mod audit;
mod bare;
mod calls;
mod flux;
mod latency;
mod process;
mod releases;
mod report;
mod rest;
mod tape;
mod throughput;

/// The same stage as the scenarios have.
#[allow(dead_code)]
#[path = "../scenarios/stage.rs"]
mod stage;

use clap::Parser;
use report::{Figure, Report};

/// Measures a cluster with the operator that `e2e/bench` started.
#[derive(Parser, Debug)]
#[command(name = "e2e/bench")]
struct Arguments {
    /// Small counts: shows that everything runs, in about three minutes.
    #[arg(long)]
    quick: bool,
    /// Only these measurements, for example a,h.
    #[arg(long, value_delimiter = ',', value_name = "LETTERS")]
    only: Vec<String>,
    /// What is printed on standard output; progress goes to standard error.
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
    /// What cargo says to every program of its kind.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Table,
    Json,
}

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Repetitions of what takes a second.
    pub many: usize,
    /// Repetitions of what takes half a minute.
    pub few: usize,
    /// Objects that are made at once.
    pub objects: usize,
    /// Finished commands that are stored.
    pub stored: usize,
    /// Seconds of rest over which the processor time is counted.
    pub rest: u64,
}

impl Scale {
    const FULL: Self = Self { many: 30, few: 3, objects: 1000, stored: 100_000, rest: 60 };
    const QUICK: Self = Self { many: 5, few: 1, objects: 50, stored: 10_000, rest: 10 };
}

#[tokio::main]
async fn main() {
    let arguments = Arguments::parse();
    let scale = if arguments.quick { Scale::QUICK } else { Scale::FULL };
    let wanted = |letter: &str| arguments.only.is_empty() || arguments.only.iter().any(|only| only == letter);
    let mut figures: Vec<Figure> = Vec::new();
    if wanted("a") {
        figures.extend(latency::measure(scale).await);
    }
    if wanted("h") {
        figures.extend(calls::measure(scale).await);
    }
    if wanted("d") {
        figures.extend(releases::measure(scale).await);
    }
    if wanted("c") {
        figures.extend(throughput::one_plan(scale).await);
    }
    if wanted("b") {
        figures.extend(throughput::many_commands(scale).await);
    }
    // What fills the cluster comes last.
    if wanted("g") {
        figures.extend(rest::start(scale).await);
    }
    if wanted("e") || wanted("f") {
        let measured = rest::measure(scale, wanted("e"), wanted("f")).await;
        figures.extend(measured);
    }
    figures.sort_by(|a, b| a.id.cmp(&b.id));
    let report = Report::new(arguments.quick, figures);
    match arguments.output {
        Output::Table => print!("{}", report.table()),
        Output::Json => println!("{}", report.json()),
    }
}

/// Says how far it is, where it is in nobody's way.
pub fn progress(text: &str) {
    eprintln!("bench: {text}");
}
