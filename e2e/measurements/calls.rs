//! (h) The calls that one command takes, by the API server's own audit log.

use crate::audit::{Call, Log};
use crate::latency::Course;
use crate::report::{Figure, Samples};
use crate::{Scale, progress};
use countersign::api::{AgentCommand, FINISHED_LABEL};
use kube::ResourceExt;
use std::collections::BTreeMap;

/// What each call is for. What is not in here shows up as unexplained.
const WHY: &[(&str, &str, &str)] = &[
    ("get", "configmaps", "is the name free, and the diff's base; the precondition, right before the mutation"),
    ("patch dry-run", "configmaps", "what would change, as the API server sees it; refused where the account may not"),
    ("patch", "configmaps", "the change itself"),
    ("list", "configmaps", "verify: the object alone, and a watch from there on where it is not ready yet"),
    (
        "create",
        "subjectaccessreviews",
        "may whoever asked use the account, and do this; with an approval once more before it begins, and may whoever approved",
    ),
    ("create", "selfsubjectaccessreviews", "may the account put it back"),
    ("create", "executionplans", "the plan"),
    ("update", "executionplans/status", "the digest; the journal: approved, running, done"),
    ("patch", "executionplans", "the label of finished plans, so that watches leave them out"),
    ("update", "agentcommands/status", "where the command stands, for whoever asked"),
    ("patch", "agentcommands", "the label of finished commands"),
    ("create", "secrets", "the snapshot, before the mutation"),
    ("create", "events", "an event for a transition"),
    ("patch", "events", "an event that repeats"),
    ("list", "planapprovals", "what was there before the digest was shown; what decides, as it is stored"),
    ("patch", "planapprovals", "the plan becomes the owner of what counts; fails where that was taken back"),
    ("patch", "planapprovals/status", "whether it counts, for whoever approved"),
    ("list", "namespaces", "the environments, not older than the request"),
    ("get", "agentcommands", "the command of a plan, where the watch does not show it"),
    ("get", "executionplans", "the plan of a command, where the watch does not show it"),
];

pub async fn measure(scale: Scale) -> Vec<Figure> {
    progress("(h) calls per command");
    let kinds = [("h1", "test", "a command of low risk"), ("h2", "production", "a command that somebody approves")];
    let mut figures = Vec::new();
    for (id, environment, title) in kinds {
        let mut course = Course::set(Some(environment)).await;
        course.run("warm-up").await;
        settled(&mut course, 1).await;
        let mut counts: Vec<BTreeMap<Call, usize>> = Vec::new();
        for lap in 0..scale.many.min(10) {
            let log = Log::from_now(&course.stage.cluster);
            course.run(&format!("settings-{lap}")).await;
            settled(&mut course, lap + 2).await;
            let mut count = BTreeMap::new();
            for call in log.calls() {
                *count.entry(call).or_default() += 1;
            }
            counts.push(count);
        }
        figures.push(figure(id, title, &counts));
    }
    figures
}

/// Waits until all has been written that is written after a command's end.
async fn settled(course: &mut Course, count: usize) {
    let finished = |labels: &BTreeMap<String, String>| labels.contains_key(FINISHED_LABEL);
    let commands = |commands: &BTreeMap<String, AgentCommand>| {
        (commands.values().filter(|command| finished(command.labels())).count() >= count).then_some(())
    };
    course.commands.until("finished commands", commands).await;
    course
        .plans
        .until("finished plans", |plans| {
            (plans.values().filter(|plan| finished(plan.labels())).count() >= count).then_some(())
        })
        .await;
    // Events are told after the fact, and the audit log is written after the answer.
    tokio::time::sleep(std::time::Duration::from_millis(700)).await;
}

#[expect(clippy::cast_precision_loss, reason = "there are not that many calls")]
fn figure(id: &str, title: &str, counts: &[BTreeMap<Call, usize>]) -> Figure {
    let total = counts.iter().map(|count| count.values().sum::<usize>() as f64).collect();
    let mut figure = Figure::new(id, &format!("calls for {title}"), None, Samples::new("calls", "", total));
    let mut known: Vec<&Call> = counts.iter().flat_map(BTreeMap::keys).collect();
    known.sort();
    known.dedup();
    for call in known {
        let samples = counts.iter().map(|count| count.get(call).copied().unwrap_or(0) as f64).collect();
        let verb = if call.dry_run { format!("{} dry-run", call.verb) } else { call.verb.clone() };
        let why = WHY.iter().find(|(known, resource, _)| *known == verb && *resource == call.resource);
        let why = why.map_or("unexplained", |(_, _, why)| *why);
        let who = if call.impersonated { "account" } else { "operator" };
        figure = figure.part(Samples::new(format!("{verb} {} ({who}): {why}", call.resource), "", samples));
    }
    figure
}
