//! (d) A release that fails, put back: by countersign, and by Helm.

use crate::latency::Course;
use crate::report::{Figure, Goal, Samples};
use crate::stage::{Stage, workload};
use crate::tape::Tape;
use crate::{Scale, progress};
use countersign::api::{AgentCommand, CommandPhase};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, PostParams};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Instant;

/// How long the Deployment may go without progress, and how long Helm waits at most. Both are ten minutes resp. five when
/// nobody says otherwise, and Helm notices nothing before.
const PATIENCE: u32 = 20;

fn deployment(image: &str) -> Value {
    let mut deployment = workload("Deployment", "checkout", image, 2);
    deployment["spec"]["progressDeadlineSeconds"] = json!(PATIENCE);
    deployment
}

pub async fn measure(scale: Scale) -> Vec<Figure> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for lap in 1..=scale.few {
        progress(&format!("(d) a failing release, lap {lap} of {}", scale.few));
        ours.push(countersign().await);
        theirs.push(helm().await);
    }
    let title = "a failing release put back, from when its failure can be seen / Helm with --rollback-on-failure";
    let figure = Figure::ratio(
        "d",
        title,
        Some(Goal::AtMost(0.5)),
        Samples::new("countersign", "s", ours),
        Samples::new("Helm", "s", theirs),
    );
    vec![figure.note(format!("Helm's --timeout and the Deployment's progressDeadlineSeconds are {PATIENCE} s each"))]
}

/// When the first pod said that it cannot run.
async fn failure(stage: &Stage) -> Instant {
    let mut pods = Tape::of(stage.api::<Pod>()).await;
    let waits = |pod: &Pod| {
        let status = pod.status.as_ref();
        let containers = status.and_then(|status| status.container_statuses.as_ref());
        containers.into_iter().flatten().any(|container| {
            let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
            let reason = waiting.and_then(|waiting| waiting.reason.as_deref()).unwrap_or_default();
            ["ErrImagePull", "ImagePullBackOff", "CrashLoopBackOff"].contains(&reason)
        })
    };
    pods.until("a pod that cannot run", |pods| pods.values().any(waits).then(Instant::now)).await
}

async fn countersign() -> f64 {
    let mut course = Course::set(Some("test")).await;
    course.stage.apply(&[deployment("nginx:1.27")]);
    course.stage.ready("checkout").await;
    let command: AgentCommand = serde_json::from_value(json!({
        "apiVersion": "countersign.dev/v1alpha1", "kind": "AgentCommand", "metadata": { "name": "release" },
        "spec": { "request": "set the image of checkout to nginx:broken", "serviceAccountName": "deployer" },
    }))
    .unwrap();
    let alice: Api<AgentCommand> = Api::namespaced(course.stage.cluster.client("alice").await, &course.stage.name);
    alice.create(&PostParams::default(), &command).await.unwrap();
    let visible = failure(&course.stage).await;
    let ended = course.commands.until("the release to be put back", |commands| {
        let status = commands.get("release")?.status.as_ref()?;
        let phase = status.phase.filter(|phase| phase.is_final())?;
        assert_eq!(phase, CommandPhase::RolledBack, "{:?}", status.reply);
        Some(())
    });
    ended.await;
    course.stage.ready("checkout").await;
    let took = visible.elapsed().as_secs_f64();
    assert_eq!(course.stage.field("deployment/checkout", "{..image}"), "nginx:1.27");
    took
}

async fn helm() -> f64 {
    let stage = Stage::for_tests().await;
    let chart = stage.cluster.kubeconfig.parent().unwrap().join(&stage.name);
    write_chart(&chart);
    let chart = chart.to_str().unwrap().to_owned();
    let place = ["--kube-context", "alice", "--namespace", &stage.name];
    let install = [&["install", "checkout", &chart, "--set", "image=nginx:1.27", "--wait"][..], &place].concat();
    stage.cluster.run("helm", &install, None).unwrap_or_else(|error| panic!("{error}"));
    let (cluster, namespace) = (stage.cluster.clone(), stage.name.clone());
    let upgrade = tokio::task::spawn_blocking(move || {
        let timeout = format!("{PATIENCE}s");
        let args = ["upgrade", "checkout", &chart, "--set", "image=nginx:broken", "--rollback-on-failure", "--wait"];
        let place = ["--timeout", &timeout, "--kube-context", "alice", "--namespace", &namespace];
        cluster.run("helm", &[&args[..], &place].concat(), None)
    });
    let visible = failure(&stage).await;
    let said = upgrade.await.unwrap().expect_err("the release fails");
    stage.ready("checkout").await;
    let took = visible.elapsed().as_secs_f64();
    assert_eq!(stage.field("deployment/checkout", "{..image}"), "nginx:1.27", "{said}");
    took
}

fn write_chart(folder: &Path) {
    std::fs::create_dir_all(folder.join("templates")).unwrap();
    std::fs::write(folder.join("Chart.yaml"), "apiVersion: v2\nname: checkout\nversion: 1.0.0\n").unwrap();
    let template = deployment("{{ .Values.image }}").to_string();
    std::fs::write(folder.join("templates/deployment.yaml"), template).unwrap();
}
