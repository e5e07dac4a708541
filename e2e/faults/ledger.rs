//! What the API server's audit log says about who changed what, and the table of what came of it.

use crate::plans::{End, Judgement, Run, Scenario};
use crate::proxy::REPEATED;
use crate::stage::Cluster;
use crate::stage::audit_log::AuditLog;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

/// The writes of the audit log from that byte on, and up to which byte they go. A log of hours has gigabytes, most of it
/// reads: only writes are parsed.
pub fn writes_from(cluster: &Cluster, begin: u64) -> (Vec<Value>, u64) {
    let mut writes = Vec::new();
    let end = AuditLog::of(&cluster.kubeconfig).read(begin, |line| {
        let entry = VERBS.is_match(line).then(|| serde_json::from_slice::<Value>(line).ok()).flatten();
        writes.extend(entry.filter(is_write));
    });
    (writes, end)
}

/// All writes of the audit log.
pub fn writes(cluster: &Cluster) -> Vec<Value> {
    writes_from(cluster, 0).0
}

/// What the API server writes without spaces.
static VERBS: LazyLock<regex::bytes::Regex> =
    LazyLock::new(|| regex::bytes::Regex::new(r#""verb":"(create|update|patch|delete)""#).unwrap());

/// Whether an entry is a write that took effect, other than an exact repetition by the proxy.
fn is_write(entry: &Value) -> bool {
    let text = |pointer: &str| entry.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let code = entry.pointer("/responseStatus/code").and_then(Value::as_u64).unwrap_or(0);
    ["create", "update", "patch", "delete"].contains(&text("/verb"))
        && (200..300).contains(&code)
        && !text("/requestURI").contains("dryRun")
        // A question that is posted stores nothing.
        && text("/objectRef/apiGroup") != "authorization.k8s.io"
        && text("/userAgent") != REPEATED
}

/// How often accounts wrote to objects, by namespace and name.
type Counts = BTreeMap<String, BTreeMap<String, u32>>;

/// How often the plans' accounts wrote to each object, by namespace.
pub fn mutations(cluster: &Cluster) -> Counts {
    static COUNTED: Mutex<BTreeMap<String, (u64, Counts)>> = Mutex::new(BTreeMap::new());
    let mut counted = COUNTED.lock().unwrap();
    let (end, counts) = counted.entry(cluster.name.clone()).or_default();
    let (writes, now) = writes_from(cluster, *end);
    *end = now;
    for entry in &writes {
        let text = |pointer: &str| entry.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let Some(account) = text("/impersonatedUser/username").strip_prefix("system:serviceaccount:") else { continue };
        let Some((namespace, _)) = account.split_once(':') else { continue };
        let (resource, sub, name) =
            (text("/objectRef/resource"), text("/objectRef/subresource"), text("/objectRef/name"));
        let object = match sub {
            "eviction" => format!("{resource}/{sub} {name}"),
            // A change through a subresource is one of the object.
            _ => format!("{resource}/{name}"),
        };
        *counts.entry(namespace.to_owned()).or_default().entry(object).or_insert(0) += 1;
    }
    counts.clone()
}

/// The fault that may cost the audit log its last lines.
pub const SERVER_KILLED: &str = "API server killed";

/// One line of the table.
#[derive(Clone, Debug, Default)]
struct Line {
    runs: usize,
    as_planned: usize,
    lost: usize,
    doubled: usize,
    not_terminal: usize,
    illegal: usize,
    took: Vec<Duration>,
}

/// What came of all runs, by fault and scenario.
#[derive(Debug, Default)]
pub struct Table {
    lines: BTreeMap<(String, Scenario), Line>,
    bad: Vec<String>,
}

impl Table {
    /// Judges a run and enters it.
    pub fn enter(&mut self, fault: &str, run: &Run, end: &End, writes: &BTreeMap<String, BTreeMap<String, u32>>) {
        let none = BTreeMap::new();
        let writes = writes.get(&run.namespace).unwrap_or(&none);
        let mut judgement = run.judge(end, writes);
        // The server's own end can take the last lines of its audit log along; then the objects themselves tell.
        if fault == SERVER_KILLED && judgement.legal {
            judgement.lost = 0;
        }
        let Judgement { lost, doubled, terminal, legal, as_planned } = judgement;
        let line = self.lines.entry((fault.to_owned(), run.scenario)).or_default();
        line.runs += 1;
        line.as_planned += usize::from(as_planned);
        line.lost += lost;
        line.doubled += doubled;
        line.not_terminal += usize::from(!terminal);
        line.illegal += usize::from(!legal);
        line.took.push(end.took);
        if judgement.is_fine() && !as_planned {
            println!("{fault}, namespace {}: ended {:?}: {}", run.namespace, end.phase, end.message);
        }
        if !judgement.is_fine() {
            let bad = format!(
                "{fault}, namespace {}: {judgement:?}, ended {:?}: {}\n    before {:?}\n    now    {:?}\n    writes {writes:?}",
                run.namespace, end.phase, end.message, run.before, end.state
            );
            // A whole matrix takes an hour: whoever watches need not wait for its end.
            println!("{bad}");
            self.bad.push(bad);
        }
    }

    /// Prints the table, and fails unless everything ended as it does when nothing is in its way.
    pub fn conclude_as_planned(&self) {
        self.conclude();
        let others: Vec<_> =
            self.lines.iter().filter(|(_, line)| line.as_planned < line.runs).map(|(key, _)| key).collect();
        assert!(others.is_empty(), "did not end as planned: {others:?}");
    }

    /// Prints the table, and fails if anything was lost, doubled, without end or illegal.
    pub fn conclude(&self) {
        println!("{self}");
        assert!(self.bad.is_empty(), "{} runs went wrong:\n{}", self.bad.len(), self.bad.join("\n"));
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = String::from(
            "| fault | scenario | runs | as planned | lost | doubled | not terminal | illegal | median time |\n|---|---|--:|--:|--:|--:|--:|--:|--:|\n",
        );
        for ((fault, scenario), line) in &self.lines {
            let mut took = line.took.clone();
            took.sort();
            let Line { runs, as_planned, lost, doubled, not_terminal, illegal, .. } = line;
            let median = took[took.len() / 2].as_secs_f64();
            let scenario = scenario.name();
            writeln!(
                text,
                "| {fault} | {scenario} | {runs} | {as_planned} | {lost} | {doubled} | {not_terminal} | {illegal} | {median:.1} s |"
            )?;
        }
        f.write_str(&text)
    }
}

#[test]
fn a_log_that_was_put_aside_is_read_on() {
    let folder = std::env::temp_dir().join(format!("countersign-audit-{}", std::process::id()));
    let (logs, log) = (folder.join("logs"), AuditLog::of(&folder.join("kubeconfig")));
    std::fs::create_dir_all(&logs).unwrap();
    let write = |name: &str, text: &str| std::fs::write(logs.join(name), text).unwrap();
    let read = |begin: u64| {
        let mut lines = Vec::new();
        let end = log.read(begin, |line| lines.push(String::from_utf8(line.to_vec()).unwrap()));
        (lines.concat(), end)
    };
    write("audit.log", "one\ntwo\nthr");
    assert_eq!(read(0), ("one\ntwo\n".to_owned(), 8));
    write("audit-2026-01-02T00-00-00.000.log", "one\ntwo\nthree\n");
    write("audit.log", "four\n");
    assert_eq!(read(8), ("three\nfour\n".to_owned(), 19));
    write("audit-2026-01-03T00-00-00.000.log", "four\nfive\n");
    write("audit.log", "");
    assert_eq!(read(19), ("five\n".to_owned(), 24));
    assert_eq!((read(24), log.length()), ((String::new(), 24), 24));
    std::fs::remove_dir_all(folder).unwrap();
}
