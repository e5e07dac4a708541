//! (b) a thousand commands of one object each, and (c) one plan of a thousand steps.

use crate::bare::as_operator;
use crate::flux::Flux;
use crate::latency::{Course, command};
use crate::report::{Figure, Goal, Samples};
use crate::stage::{OPERATOR_NAMESPACE, Stage};
use crate::{Scale, progress};
use countersign::api::{AgentCommand, CommandPhase, ExecutionPlan, FIELD_MANAGER, PlanPhase};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::ResourceExt;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Instant;

/// How many calls a client has under way at once: as many as a plan has steps.
const PARALLEL: usize = 16;

/// The object that everybody makes.
pub fn object(number: usize) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": format!("settings-{number}") },
            "data": { "LOG_LEVEL": "debug" } })
}

/// How many Kustomizations of one object each Flux is given at most.
const FEW: usize = 100;

fn per_object(seconds: f64, objects: usize) -> f64 {
    seconds * 1000.0 / f64::from(u32::try_from(objects).unwrap())
}

fn seconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64()
}

async fn check(stage: &Stage, count: usize) {
    let made = stage.api::<ConfigMap>().list_metadata(&ListParams::default()).await.unwrap();
    let made = made.items.iter().filter(|object| object.name_any().starts_with("settings-")).count();
    assert_eq!(made, count, "objects in {}", stage.name);
}

pub async fn many_commands(scale: Scale) -> Vec<Figure> {
    let count = scale.objects;
    // Each Kustomization unpacks all that its source has: a thousand of them would take the better part of an hour.
    let few = count.min(FEW);
    let mut flux = Flux::start().await;
    let (mut ours, mut each, mut all) = (Vec::new(), Vec::new(), Vec::new());
    let (mut flux_all, mut flux_each) = (Vec::new(), Vec::new());
    for lap in 1..=scale.few {
        progress(&format!("(b) {count} commands, lap {lap} of {}", scale.few));
        ours.push(commands(count).await);
        each.push(kubectl(count, true).await);
        flux_all.push(flux.apply(&Stage::for_tests().await, count, false).await);
        all.push(kubectl(count, false).await);
        flux_each.push(per_object(flux.apply(&Stage::for_tests().await, few, true).await, few));
    }
    let ours_each = ours.iter().map(|took| per_object(*took, count)).collect();
    let ours = Samples::new("countersign", "s", ours);
    vec![
        Figure::ratio(
            "b1",
            &format!("{count} commands of one object each / kubectl apply of each object"),
            Some(Goal::Below(1.0)),
            ours.clone(),
            Samples::new("kubectl apply -f, one process an object", "s", each),
        ),
        Figure::ratio(
            "b2",
            &format!("{count} commands of one object each / Flux with one Kustomization of all objects"),
            Some(Goal::Below(0.5)),
            ours.clone(),
            Samples::new("Flux, one Kustomization", "s", flux_all),
        ),
        Figure::ratio(
            "b3",
            &format!("one of {count} commands of one object each / one of {few} Kustomizations of one object each"),
            None,
            Samples::new("countersign, for each object", "ms", ours_each),
            Samples::new("Flux, for each Kustomization", "ms", flux_each),
        ),
        Figure::ratio(
            "b4",
            &format!("{count} commands of one object each / one kubectl apply of all objects"),
            None,
            ours,
            Samples::new("kubectl apply -f, one process", "s", all),
        ),
    ]
}

async fn commands(count: usize) -> f64 {
    let mut course = Course::set(Some("test")).await;
    course.run("warm-up").await;
    let alice: Api<AgentCommand> = Api::namespaced(course.stage.cluster.client("alice").await, &course.stage.name);
    let begun = Instant::now();
    let asked = (0..count).map(|number| {
        let name = format!("settings-{number}");
        let (alice, command) = (alice.clone(), command(&name, &name));
        async move { drop(alice.create(&PostParams::default(), &command).await.unwrap()) }
    });
    futures::stream::iter(asked).buffer_unordered(PARALLEL).for_each(async |()| ()).await;
    let done = |command: &&AgentCommand| {
        let Some(status) = &command.status else { return false };
        let ended = status.phase.filter(|phase| phase.is_final());
        assert!(ended.is_none_or(|phase| phase == CommandPhase::Succeeded), "{:?}", status.reply);
        ended.is_some()
    };
    course
        .commands
        .until("the end of all commands", |commands| {
            (commands.values().filter(done).count() == count + 1).then_some(())
        })
        .await;
    let took = seconds(begun);
    check(&course.stage, count).await;
    took
}

/// As somebody's script does it, or in one go.
async fn kubectl(count: usize, each: bool) -> f64 {
    let stage = Stage::for_tests().await;
    let folder = stage.cluster.kubeconfig.parent().unwrap().join(&stage.name);
    write_objects(&folder, count);
    let (place, folder) = (format!("kubectl --context alice --namespace {} apply", stage.name), folder.display());
    let script = if each {
        format!("set -e; for file in {folder}/*/object.json; do {place} -f \"$file\"; done")
    } else {
        format!("{place} --recursive -f {folder}")
    };
    let cluster = stage.cluster.clone();
    let begun = Instant::now();
    let ran = tokio::task::spawn_blocking(move || cluster.run("bash", &["-c", &script], None)).await.unwrap();
    let took = seconds(begun);
    ran.unwrap_or_else(|error| panic!("{error}"));
    check(&stage, count).await;
    took
}

/// Each object in a folder of its own.
pub fn write_objects(folder: &Path, count: usize) {
    for number in 0..count {
        let place = folder.join(format!("settings-{number}"));
        std::fs::create_dir_all(&place).unwrap();
        std::fs::write(place.join("object.json"), object(number).to_string()).unwrap();
    }
}

pub async fn one_plan(scale: Scale) -> Vec<Figure> {
    let count = scale.objects;
    let (mut judged, mut ours) = (Vec::new(), Vec::new());
    let (mut safe, mut alone) = (Vec::new(), Vec::new());
    for lap in 1..=scale.few {
        progress(&format!("(c) one plan of {count} steps, lap {lap} of {}", scale.few));
        let (first, then) = plan(count).await;
        judged.push(first);
        ours.push(then);
        safe.push(client(count, true).await);
        alone.push(client(count, false).await);
    }
    let ours = Samples::new("countersign, from approval to end", "s", ours);
    vec![
        Figure::ratio(
            "c1",
            &format!(
                "one plan of {count} independent steps / a bare client that reads, keeps and applies, {PARALLEL} at a time"
            ),
            Some(Goal::AtMost(1.25)),
            ours.clone(),
            Samples::new("read, snapshot and apply of each", "s", safe),
        )
        .part(Samples::new("before: from the plan to its approval, assessed by dry runs", "s", judged)),
        Figure::ratio(
            "c2",
            &format!("one plan of {count} independent steps / a bare client that only applies, {PARALLEL} at a time"),
            None,
            ours,
            Samples::new("apply of each", "s", alone),
        ),
    ]
}

/// Seconds until the plan could be approved, and from then on until it was done.
async fn plan(count: usize) -> (f64, f64) {
    let mut course = Course::set(Some("test")).await;
    course.run("warm-up").await;
    let step = |number: usize| {
        let mut manifest = object(number);
        manifest["metadata"]["namespace"] = json!(course.stage.name);
        json!({ "id": format!("s{number}"), "title": format!("Apply settings-{number}"), "tool": "manual",
                "operation": { "apply": { "manifest": manifest } } })
    };
    let plan: ExecutionPlan = serde_json::from_value(json!({
        "apiVersion": "countersign.dev/v1alpha1", "kind": "ExecutionPlan", "metadata": { "name": "many" },
        "spec": { "summary": "Apply settings", "serviceAccountName": "deployer", "risk": { "level": "low", "reasons": [] },
                  "approvalsRequired": 0, "steps": (0..count).map(step).collect::<Vec<_>>() },
    }))
    .unwrap();
    let alice: Api<ExecutionPlan> = Api::namespaced(course.stage.cluster.client("alice").await, &course.stage.name);
    let begun = Instant::now();
    alice.create(&PostParams::default(), &plan).await.unwrap();
    let judged = course.plans.until("the plan to be judged", |plans| {
        let status = plans.get("many")?.status.as_ref()?;
        let phase = status.phase?;
        assert!(!phase.is_final(), "{:?}", status.message);
        Some((phase, status.digest.clone()?))
    });
    let (phase, digest) = judged.await;
    let judged = seconds(begun);
    // So many new objects are more than somebody does by the way.
    let begun = Instant::now();
    if phase == PlanPhase::AwaitingApproval {
        course.approve("many", &digest).await;
    }
    let ended = course.plans.until("the end of the plan", |plans| {
        let status = plans.get("many")?.status.as_ref()?;
        let phase = status.phase.filter(|phase| phase.is_final())?;
        assert_eq!(phase, PlanPhase::Succeeded, "{:?}", status.message);
        Some(())
    });
    ended.await;
    let took = seconds(begun);
    check(&course.stage, count).await;
    (judged, took)
}

/// A client without any bookkeeping; as the service account, like the plan.
async fn client(count: usize, safe: bool) -> f64 {
    let stage = Stage::for_tests().await;
    let targets: Api<ConfigMap> = Api::namespaced(as_operator(&stage, Some("deployer")).await, &stage.name);
    let secrets: Api<Secret> = Api::namespaced(as_operator(&stage, None).await, OPERATOR_NAMESPACE);
    let apply = PatchParams::apply(FIELD_MANAGER).force();
    targets.get_opt("warm-up").await.unwrap();
    let begun = Instant::now();
    let steps = (0..count).map(|number| {
        let (targets, secrets, apply, object) = (targets.clone(), secrets.clone(), apply.clone(), object(number));
        let name = format!("settings-{number}");
        let kept = format!("bare-{}-{number}", stage.name);
        async move {
            if safe {
                targets.get_opt(&name).await.unwrap();
                let snapshot = json!({ "apiVersion": "v1", "kind": "Secret", "type": "countersign.dev/snapshot",
                                       "metadata": { "name": kept }, "stringData": { "snapshot.json.zst": "x".repeat(200) } });
                let snapshot: Secret = serde_json::from_value(snapshot).unwrap();
                secrets.create(&PostParams::default(), &snapshot).await.unwrap();
            }
            targets.patch(&name, &apply, &Patch::Apply(&object)).await.unwrap();
        }
    });
    futures::stream::iter(steps).buffer_unordered(PARALLEL).for_each(async |()| ()).await;
    let took = seconds(begun);
    check(&stage, count).await;
    took
}
