//! (e) memory and (f) processor time of an operator that has nothing to do, and (g) how soon it begins to work.

use crate::latency::Course;
use crate::process::Process;
use crate::report::{Figure, Goal, Samples};
use crate::stage::{Cluster, Stage};
use crate::{Scale, archive, progress};
use countersign::api::PlanPolicy;
use kube::api::{Api, DeleteParams, PostParams};
use kube::runtime::wait::await_condition;
use serde_json::json;
use std::time::{Duration, SystemTime};

fn control(cluster: &Cluster, args: &[&str]) {
    cluster.control(args).unwrap_or_else(|error| panic!("{args:?}: {error}"));
}

/// From the start of the process to the first thing that a reconciler wrote: the status of a policy that was waiting.
pub async fn start(scale: Scale) -> Vec<Figure> {
    progress("(g) from the start of the process to the first reconciliation");
    let stage = Stage::for_tests().await;
    let policies: Api<PlanPolicy> = Api::all(stage.admin.clone());
    let mut samples = Vec::new();
    for lap in 0..scale.many.min(10) {
        control(&stage.cluster, &["operator", "stop"]);
        let name = format!("waiting-{lap}");
        let policy = json!({ "apiVersion": "countersign.dev/v1alpha1", "kind": "PlanPolicy", "metadata": { "name": name },
                             "spec": { "namespaceSelector": { "matchLabels": { "there-is": "no-such-namespace" } } } });
        let policy: PlanPolicy = serde_json::from_value(policy).unwrap();
        policies.create(&PostParams::default(), &policy).await.unwrap();
        let seen = tokio::spawn({
            let (policies, name) = (policies.clone(), name.clone());
            async move {
                let judged = |policy: Option<&PlanPolicy>| policy.is_some_and(|policy| policy.status.is_some());
                await_condition(policies, &name, judged).await.unwrap();
                SystemTime::now()
            }
        });
        let cluster = stage.cluster.clone();
        tokio::task::spawn_blocking(move || control(&cluster, &["operator", "start"])).await.unwrap();
        let process = Process::operator(&stage.cluster);
        let began = process.started();
        let took = seen.await.unwrap().duration_since(began).unwrap_or_default();
        samples.push(took.as_secs_f64());
        policies.delete(&name, &DeleteParams::default()).await.unwrap();
    }
    let title = "from the start of the process until its first reconciliation is stored";
    vec![Figure::new("g", title, Some(Goal::AtMost(0.5)), Samples::new("start", "s", samples))]
}

/// Memory and processor time at rest, before and after so many finished commands are stored.
pub async fn measure(scale: Scale, memory: bool, processor: bool) -> Vec<Figure> {
    progress("(e) memory, (f) processor time at rest");
    let mut course = Course::set(Some("test")).await;
    course.run("settings-stored").await;
    let cluster = course.stage.cluster.clone();
    let laps = scale.few.min(3);
    let idle = fresh(&cluster, laps, memory).await;
    // The operator that runs meanwhile hears of every one of them.
    let process = Process::operator(&cluster);
    let before = process.memory("VmRSS");
    archive::fill(&course.stage, "settings-stored", scale.stored).await;
    process.rests().await;
    let heard = process.memory("VmRSS") - before;
    let stored = fresh(&cluster, laps, memory).await;
    let mut figures = Vec::new();
    if memory {
        figures.push(
            Figure::new("e1", "resident memory, idle", Some(Goal::AtMost(25.0)), idle.resident.clone())
                .part(idle.anonymous)
                .part(idle.file),
        );
        let more = stored.resident.samples.iter().zip(&idle.resident.samples).map(|(after, before)| after - before);
        let title = format!("resident memory, idle, more with {} finished commands stored", scale.stored);
        figures.push(
            Figure::new("e2", &title, Some(Goal::AtMost(2.0)), Samples::new("more", "MiB", more.collect()))
                .part(stored.resident)
                .part(Samples::new("more, in the process that saw them come", "MiB", vec![heard])),
        );
    }
    if processor {
        let process = Process::operator(&cluster);
        process.rests().await;
        let mut samples = Vec::new();
        for _ in 0..laps {
            let before = process.processor_time();
            tokio::time::sleep(Duration::from_secs(scale.rest)).await;
            let spent = process.processor_time().saturating_sub(before);
            samples.push(spent.as_secs_f64() / Duration::from_secs(scale.rest).as_secs_f64() * 100.0);
        }
        let title =
            format!("processor time at rest over {} s, with {} finished commands stored", scale.rest, scale.stored);
        figures.push(Figure::new(
            "f",
            &title,
            Some(Goal::AtMost(0.1)),
            Samples::new("of a core", "% of a core", samples),
        ));
    }
    figures
}

struct Memory {
    resident: Samples,
    anonymous: Samples,
    file: Samples,
}

/// The memory of operators that were started just now and came to rest.
async fn fresh(cluster: &Cluster, laps: usize, wanted: bool) -> Memory {
    let (mut resident, mut anonymous, mut file) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..if wanted { laps } else { 0 } {
        control(cluster, &["operator", "restart"]);
        let process = Process::operator(cluster);
        process.rests().await;
        resident.push(process.memory("VmRSS"));
        anonymous.push(process.memory("RssAnon"));
        file.push(process.memory("RssFile"));
    }
    Memory {
        resident: Samples::new("resident", "MiB", resident),
        anonymous: Samples::new("of it data", "MiB", anonymous),
        file: Samples::new("of it the program", "MiB", file),
    }
}
