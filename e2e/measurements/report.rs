//! Figures with their goals and their spread, as a table and as JSON.

use serde::Serialize;
use serde_json::{Value, json};
use std::fmt::Write;

/// Samples of one thing, in the order in which they were taken.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Samples {
    pub name: String,
    pub unit: &'static str,
    pub samples: Vec<f64>,
}

impl Samples {
    pub fn new(name: impl Into<String>, unit: &'static str, samples: Vec<f64>) -> Self {
        Self { name: name.into(), unit, samples }
    }

    /// The value below which that share of the samples is, between two of them by their distance.
    pub fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.samples.clone();
        sorted.sort_by(f64::total_cmp);
        if sorted.is_empty() {
            return f64::NAN;
        }
        #[expect(clippy::cast_precision_loss, reason = "there are not that many samples")]
        let place = share * (sorted.len() - 1) as f64;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within the samples")]
        let (low, high) = (place.floor() as usize, place.ceil() as usize);
        sorted[low] + (sorted[high] - sorted[low]) * place.fract()
    }

    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    fn shown(&self) -> String {
        let unit = if self.unit.is_empty() { String::new() } else { format!(" {}", self.unit) };
        let count = self.samples.len();
        if count == 1 {
            return format!("{}{unit} (once)", short(self.median()));
        }
        let (low, high) = (short(self.quantile(0.25)), short(self.quantile(0.75)));
        format!("{}{unit} ({low} to {high}, n = {count})", short(self.median()))
    }

    fn facts(&self) -> Value {
        json!({ "name": self.name, "unit": self.unit, "median": self.median(), "q1": self.quantile(0.25),
                "q3": self.quantile(0.75), "samples": self.samples })
    }
}

/// What a figure should be.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    AtMost(f64),
    Below(f64),
}

impl Goal {
    fn limit(self) -> f64 {
        match self {
            Self::AtMost(limit) | Self::Below(limit) => limit,
        }
    }

    fn met(self, value: f64) -> bool {
        match self {
            Self::AtMost(limit) => value <= limit,
            Self::Below(limit) => value < limit,
        }
    }

    fn sign(self) -> &'static str {
        match self {
            Self::AtMost(_) => "≤",
            Self::Below(_) => "<",
        }
    }
}

/// One figure, what it was made of, and what it should be.
#[derive(Clone, Debug)]
pub struct Figure {
    pub id: String,
    pub title: String,
    pub goal: Option<Goal>,
    pub value: Samples,
    pub parts: Vec<Samples>,
    pub notes: Vec<String>,
}

impl Figure {
    pub fn new(id: &str, title: &str, goal: Option<Goal>, value: Samples) -> Self {
        Self { id: id.to_owned(), title: title.to_owned(), goal, value, parts: Vec::new(), notes: Vec::new() }
    }

    /// The ratio of two contenders, repetition by repetition, so that what slows the machine down slows both.
    pub fn ratio(id: &str, title: &str, goal: Option<Goal>, ours: Samples, theirs: Samples) -> Self {
        let ratios = ours.samples.iter().zip(&theirs.samples).map(|(ours, theirs)| ours / theirs).collect();
        Self { parts: vec![ours, theirs], ..Self::new(id, title, goal, Samples::new("ratio", "", ratios)) }
    }

    pub fn part(mut self, samples: Samples) -> Self {
        self.parts.push(samples);
        self
    }

    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    fn verdict(&self) -> String {
        let Some(goal) = self.goal else { return String::new() };
        let value = self.value.median();
        if goal.met(value) {
            return "met".to_owned();
        }
        let unit = if self.value.unit.is_empty() { String::new() } else { format!(" {}", self.value.unit) };
        let more = value - goal.limit();
        format!("missed by {}{unit} ({:.0} %)", short(more), more / goal.limit() * 100.0)
    }

    fn facts(&self) -> Value {
        let goal = self.goal.map(|goal| json!({ "is": goal.sign(), "value": goal.limit() }));
        json!({
            "id": self.id, "title": self.title, "goal": goal, "figure": self.value.facts(),
            "met": self.goal.map(|goal| goal.met(self.value.median())),
            "missedBy": self.goal.filter(|goal| !goal.met(self.value.median())).map(|goal| self.value.median() - goal.limit()),
            "parts": self.parts.iter().map(Samples::facts).collect::<Vec<_>>(), "notes": self.notes,
        })
    }
}

/// Everything that one run found, and where.
#[derive(Clone, Debug)]
pub struct Report {
    quick: bool,
    machine: Value,
    figures: Vec<Figure>,
}

impl Report {
    pub fn new(quick: bool, figures: Vec<Figure>) -> Self {
        Self { quick, machine: machine(), figures }
    }

    pub fn json(&self) -> String {
        let facts = json!({
            "version": 1, "quick": self.quick, "machine": self.machine,
            "figures": self.figures.iter().map(Figure::facts).collect::<Vec<_>>(),
        });
        serde_json::to_string_pretty(&facts).unwrap()
    }

    pub fn table(&self) -> String {
        let mut text = String::new();
        let word = |key: &str| self.machine[key].as_str().unwrap_or_default().to_owned();
        let _ = writeln!(
            text,
            "{}: {} processors ({}), {} GiB, Linux {}; commit {}{}",
            word("date"),
            self.machine["processors"],
            word("model"),
            self.machine["memoryGiB"],
            word("kernel"),
            word("commit"),
            if self.quick { "; small counts, for a look only" } else { "" }
        );
        for figure in &self.figures {
            let goal = figure.goal.map(|goal| {
                let unit = if figure.value.unit.is_empty() { String::new() } else { format!(" {}", figure.value.unit) };
                format!("   goal {} {}{unit}: {}", goal.sign(), short(goal.limit()), figure.verdict())
            });
            let _ = writeln!(text, "\n{}  {}", figure.id, figure.title);
            let _ = writeln!(text, "   {}{}", figure.value.shown(), goal.unwrap_or_default());
            let width = figure.parts.iter().map(|part| part.name.chars().count()).max().unwrap_or(0);
            for part in &figure.parts {
                let _ = writeln!(text, "     {:width$}  {}", part.name, part.shown());
            }
            for note in &figure.notes {
                let _ = writeln!(text, "     {note}");
            }
        }
        text
    }
}

fn short(value: f64) -> String {
    let digits = match value.abs() {
        value if value >= 100.0 => 0,
        value if value >= 10.0 => 1,
        value if value >= 0.1 || value == 0.0 => 2,
        _ => 4,
    };
    format!("{value:.digits$}")
}

fn machine() -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let kibibytes: u64 =
        field(&read("/proc/meminfo"), "MemTotal").trim_end_matches(" kB").trim().parse().unwrap_or_default();
    let said = |program: &str, args: &[&str]| {
        let output = std::process::Command::new(program).args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output();
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
    };
    json!({
        "date": k8s_openapi::jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string(),
        "processors": std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        "model": field(&read("/proc/cpuinfo"), "model name"),
        "memoryGiB": kibibytes.div_ceil(1 << 20),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "commit": said("git", &["rev-parse", "--short", "HEAD"]),
    })
}
