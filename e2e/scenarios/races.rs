//! A second writer, between the snapshot and the mutation, and at any other time.

use crate::handmade::{approved, delete, ends, merge, put_back, step, target, undo_message, write};
use crate::stage::{Cluster, Look, OwnCluster, Stage, workload};
use countersign::api::{ConditionType, ExecutionPlan, PlanPhase, StepState, condition_is_true};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use rand::RngExt;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A cluster whose operator waits before each mutation and each undo until it is told to go on.
struct Arena {
    stage: Stage,
    folder: PathBuf,
    _cluster: OwnCluster,
}

impl Arena {
    async fn set(purpose: &str) -> Self {
        let cluster = Cluster::start(purpose);
        let folder = cluster.0.kubeconfig.parent().unwrap().join("pauses");
        std::fs::create_dir_all(&folder).unwrap();
        let pause = format!("COUNTERSIGN_PAUSE_AT=before-mutation,before-undo={}", folder.display());
        cluster.0.control(&["operator", "restart", "--env", &pause]).unwrap();
        let stage = Stage::on(cluster.0.clone(), None).await;
        Self { stage, folder, _cluster: cluster }
    }

    fn file(&self, plan: &ExecutionPlan, point: &str, word: &str) -> PathBuf {
        self.folder.join(format!("{}.s.{point}.{word}", plan.uid().unwrap()))
    }

    /// Begins a plan of one step `s` and waits until its mutation is about to be sent.
    async fn begun(&self, name: &str, operation: Value) -> ExecutionPlan {
        write(&self.stage, name, vec![step("s", operation, json!({}))], json!({}));
        approved(&self.stage, name).await;
        let plan = self.stage.api::<ExecutionPlan>().get(name).await.unwrap();
        self.waits(&plan, "before-mutation").await;
        plan
    }

    async fn waits(&self, plan: &ExecutionPlan, point: &str) {
        let file = self.file(plan, point, "waits");
        self.stage.eventually(&format!("{} waits {point}", plan.name_any()), async || file.exists()).await;
    }

    fn go(&self, plan: &ExecutionPlan, point: &str) {
        std::fs::write(self.file(plan, point, "goes"), "").unwrap();
    }

    /// Lets the mutation go, and sees the plan end like that with those writes.
    async fn ends(&self, plan: &ExecutionPlan, phase: PlanPhase, writes: &[&str]) -> ExecutionPlan {
        self.go(plan, "before-mutation");
        let ended = self.stage.plan(&plan.name_any(), phase).await;
        assert_eq!(
            self.stage.cluster.writes(&self.stage.name, "configmaps", &plan.name_any()),
            writes,
            "{}",
            plan.name_any()
        );
        let drifted = condition_is_true(&ended.status.as_ref().unwrap().conditions, ConditionType::Drifted);
        assert_eq!(drifted, phase == PlanPhase::Drifted);
        ended
    }

    fn set_both(&self, name: &str) -> Value {
        merge(&target(&self.stage, "v1", &format!("ConfigMap/{name}")), json!({ "data": { "ours": "2", "more": "2" } }))
    }

    fn second_writer(&self, name: &str, patch: &str) {
        self.stage.kubectl("admin", &["patch", "configmap", name, "--type=merge", "-p", patch], None).unwrap();
    }

    fn remove(&self, name: &str) {
        self.stage.kubectl("admin", &["delete", "configmap", name], None).unwrap();
    }
}

fn configmap(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": { "ours": "1" } })
}

fn message(plan: &ExecutionPlan) -> String {
    plan.status.as_ref().unwrap().message.clone().unwrap()
}

#[tokio::test]
async fn a_second_writer_between_snapshot_and_mutation_is_never_overwritten() {
    let arena = Arena::set("races").await;
    let stage = &arena.stage;
    let data = |name: &str| stage.field(&format!("configmap/{name}"), "{.data}");
    let there = ["same", "equal", "unset", "other", "gone", "again", "dropped", "dropped-again"];
    stage.apply(&there.map(configmap));

    let plan = arena.begun("same", arena.set_both("same")).await;
    arena.second_writer("same", r#"{"data":{"ours":"3"}}"#);
    let ended = arena.ends(&plan, PlanPhase::Drifted, &[]).await;
    assert!(message(&ended).contains("was changed by somebody else in data.ours"), "{}", message(&ended));
    assert_eq!(data("same"), r#"{"ours":"3"}"#);

    let plan = arena.begun("equal", arena.set_both("equal")).await;
    arena.second_writer("equal", r#"{"data":{"ours":"2","more":"2"}}"#);
    arena.ends(&plan, PlanPhase::Drifted, &[]).await;

    // What is not there any more bears nobody's name.
    let unset = json!({ "data": { "ours": null } });
    let plan = arena.begun("unset", merge(&target(stage, "v1", "ConfigMap/unset"), unset.clone())).await;
    arena.second_writer("unset", &unset.to_string());
    arena.ends(&plan, PlanPhase::Drifted, &[]).await;

    let plan = arena.begun("other", arena.set_both("other")).await;
    arena.second_writer("other", r#"{"data":{"theirs":"3"}}"#);
    arena.ends(&plan, PlanPhase::Succeeded, &["patch"]).await;
    assert_eq!(data("other"), r#"{"more":"2","ours":"2","theirs":"3"}"#);

    let plan = arena.begun("gone", arena.set_both("gone")).await;
    arena.remove("gone");
    let ended = arena.ends(&plan, PlanPhase::Drifted, &[]).await;
    assert!(message(&ended).contains("is gone"), "{}", message(&ended));

    let plan = arena.begun("again", arena.set_both("again")).await;
    arena.remove("again");
    stage.apply(&[configmap("again")]);
    let ended = arena.ends(&plan, PlanPhase::Drifted, &[]).await;
    assert!(message(&ended).contains("deleted and created again"), "{}", message(&ended));
    assert_eq!(data("again"), r#"{"ours":"1"}"#);

    let mut made = configmap("made");
    made["metadata"]["namespace"] = json!(stage.name);
    let plan = arena.begun("made", json!({ "apply": { "manifest": made } })).await;
    let theirs = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "made" }, "data": { "ours": "theirs", "theirs": "3" } });
    stage.apply(&[theirs]);
    let ended = arena.ends(&plan, PlanPhase::Drifted, &[]).await;
    assert!(message(&ended).contains("was created by somebody else meanwhile"), "{}", message(&ended));
    assert_eq!(data("made"), r#"{"ours":"theirs","theirs":"3"}"#);

    let drop = |name: &str| delete(&target(stage, "v1", &format!("ConfigMap/{name}")));
    let plan = arena.begun("dropped", drop("dropped")).await;
    arena.remove("dropped");
    let ended = arena.ends(&plan, PlanPhase::Succeeded, &[]).await;
    let entry = &ended.status.as_ref().unwrap().steps[0];
    assert_eq!(entry.state, StepState::Skipped);
    assert!(entry.message.as_ref().unwrap().starts_with("somebody else deleted"), "{entry:?}");

    let plan = arena.begun("dropped-again", drop("dropped-again")).await;
    arena.remove("dropped-again");
    stage.apply(&[configmap("dropped-again")]);
    arena.ends(&plan, PlanPhase::Drifted, &[]).await;
    assert_eq!(data("dropped-again"), r#"{"ours":"1"}"#);
}

#[tokio::test]
async fn of_two_plans_that_do_the_same_only_one_did_it() {
    let arena = Arena::set("twins").await;
    let stage = &arena.stage;
    stage.apply(&[configmap("there")]);
    let mut made = configmap("made");
    made["metadata"]["namespace"] = json!(stage.name);
    for (name, operation) in [("set", arena.set_both("there")), ("made", json!({ "apply": { "manifest": made } }))] {
        let [first, second] = ["first", "second"].map(|which| format!("{name}-{which}"));
        let first = arena.begun(&first, operation.clone()).await;
        let second = arena.begun(&second, operation).await;
        arena.go(&first, "before-mutation");
        stage.plan(&first.name_any(), PlanPhase::Succeeded).await;
        arena.go(&second, "before-mutation");
        let ended = stage.plan(&second.name_any(), PlanPhase::Drifted).await;
        assert!(message(&ended).contains("by somebody else"), "{}", message(&ended));
    }
}

#[tokio::test]
async fn a_second_writer_before_an_undo_is_never_overwritten() {
    let arena = Arena::set("undos").await;
    let stage = &arena.stage;
    stage.apply(&["changed", "dropped"].map(configmap));
    let succeeded = async |name: &str, operation: Value, writes: &[&str]| {
        let plan = arena.begun(name, operation).await;
        arena.ends(&plan, PlanPhase::Succeeded, writes).await
    };
    let put_back_after = async |plan: &ExecutionPlan, meddle: &dyn Fn()| {
        let name = plan.name_any();
        let (back, ()) = tokio::join!(put_back(stage, &name, PlanPhase::RolledBack), async {
            arena.waits(plan, "before-undo").await;
            meddle();
            arena.go(plan, "before-undo");
        });
        undo_message(&back, "s")
    };

    let plan = succeeded("changed", arena.set_both("changed"), &["patch"]).await;
    let told = put_back_after(&plan, &|| arena.second_writer("changed", r#"{"data":{"ours":"9","theirs":"9"}}"#)).await;
    assert!(told.contains(r#"data.ours (set to "2" by the step, "9" now, "1" before)"#), "{told}");
    assert_eq!(stage.field("configmap/changed", "{.data}"), r#"{"ours":"9","theirs":"9"}"#);

    let plan = succeeded("dropped", delete(&target(stage, "v1", "ConfigMap/dropped")), &["delete"]).await;
    let told = put_back_after(&plan, &|| {
        stage.apply(&[json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "dropped" }, "data": { "ours": "theirs" } })]);
    })
    .await;
    assert!(told.contains("exists again already, created by somebody else, and stays"), "{told}");
    assert_eq!(stage.field("configmap/dropped", "{.data}"), r#"{"ours":"theirs"}"#);

    let mut made = configmap("made");
    made["metadata"]["namespace"] = json!(stage.name);
    let plan = succeeded("made", json!({ "apply": { "manifest": made.clone() } }), &["patch"]).await;
    let told = put_back_after(&plan, &|| {
        arena.remove("made");
        stage.apply(&[configmap("made")]);
    })
    .await;
    assert!(told.contains("was replaced by somebody else since and stays"), "{told}");
    assert_eq!(stage.field("configmap/made", "{.data}"), r#"{"ours":"1"}"#);
}

/// A writer who does anything to any of the objects, until it is told to stop.
async fn meddle(admin: Client, namespace: String, names: Vec<String>, stop: Arc<AtomicBool>) {
    let configs: Api<ConfigMap> = Api::namespaced(admin, &namespace);
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        count += 1;
        let (name, what) = {
            let mut random = rand::rng();
            (names[random.random_range(0..names.len())].clone(), random.random_range(0..20))
        };
        let patch = match what {
            0 => {
                configs.delete(&name, &DeleteParams::default()).await.unwrap();
                let again: ConfigMap = serde_json::from_value(configmap(&name)).unwrap();
                configs.create(&PostParams::default(), &again).await.unwrap();
                continue;
            }
            1..=3 => json!({ "data": { "ours": format!("theirs-{count}") } }),
            _ => json!({ "data": { "theirs": count.to_string() } }),
        };
        configs.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }
}

#[tokio::test]
async fn whatever_a_second_writer_does_a_plan_happens_once_or_not_at_all() {
    let stage = Stage::for_tests().await;
    let names: Vec<String> = (0..20).map(|n| format!("c{n}")).collect();
    let objects: Vec<Value> = names.iter().map(|name| configmap(name)).collect();
    stage.apply(&objects);
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(meddle(stage.admin.clone(), stage.name.clone(), names.clone(), Arc::clone(&stop)));
    for name in &names {
        let body = json!({ "data": { "ours": "2" } });
        write(
            &stage,
            name,
            vec![step("s", merge(&target(&stage, "v1", &format!("ConfigMap/{name}")), body), json!({}))],
            json!({}),
        );
    }
    let mut ends = Vec::new();
    for name in &names {
        let ended = |plan: &ExecutionPlan| match plan.status.as_ref().and_then(|status| status.phase) {
            Some(phase) if phase.is_final() => Look::There,
            _ => Look::NotYet,
        };
        ends.push(stage.until("ended", name, ended).await);
    }
    stop.store(true, Ordering::Relaxed);
    writer.await.unwrap();
    for plan in &ends {
        let writes = stage.cluster.writes(&stage.name, "configmaps", &plan.name_any()).len();
        let phase = plan.status.as_ref().unwrap().phase.unwrap();
        let skipped = plan.status.as_ref().unwrap().steps.iter().any(|step| step.state == StepState::Skipped);
        let expected = match phase {
            PlanPhase::Succeeded if skipped => 0..=0,
            PlanPhase::Succeeded => 1..=1,
            PlanPhase::Drifted | PlanPhase::Failed => 0..=0,
            // It landed, the object went before it was checked, and there was something or nothing left to put back.
            PlanPhase::RolledBack => 1..=2,
            other => panic!("{} ended {other}: {}", plan.name_any(), message(plan)),
        };
        assert!(expected.contains(&writes), "{} is {phase} after {writes} writes: {}", plan.name_any(), message(plan));
    }
    let done = ends.iter().filter(|plan| plan.status.as_ref().unwrap().phase == Some(PlanPhase::Succeeded)).count();
    assert!(done > 0, "the writer kept everybody from everything");
}

#[tokio::test]
async fn who_deleted_what_went_while_the_operator_was_away_is_said_to_be_unknown() {
    let cluster = Cluster::start("away");
    let stage = Stage::on(cluster.0.clone(), None).await;
    stage.apply(&[configmap("lost")]);
    let control = |args: &[&str]| cluster.0.control(args);
    control(&["operator", "restart", "--env", "COUNTERSIGN_CRASH_AT=before-mutation"]).unwrap();
    let drop = delete(&target(&stage, "v1", "ConfigMap/lost"));
    write(&stage, "lost", vec![step("s", drop, json!({}))], json!({}));
    approved(&stage, "lost").await;
    stage.eventually("dead before the mutation", async || control(&["operator", "pid"]).is_err()).await;
    stage.kubectl("admin", &["delete", "configmap", "lost"], None).unwrap();
    control(&["operator", "restart", "--env", "COUNTERSIGN_CRASH_AT="]).unwrap();
    let plan = stage.plan("lost", PlanPhase::Succeeded).await;
    let told = plan.status.as_ref().unwrap().steps[0].message.clone().unwrap();
    assert!(told.ends_with("not known who deleted it"), "{told}");
    assert!(cluster.0.writes(&stage.name, "configmaps", "lost").is_empty());
    let back = put_back(&stage, "lost", PlanPhase::RolledBack).await;
    assert!(undo_message(&back, "s").ends_with("not known who deleted it"), "{}", undo_message(&back, "s"));
    assert_eq!(stage.field("configmap/lost", "{.data.ours}"), "1");
}

#[tokio::test]
async fn what_somebody_else_set_to_the_same_while_the_operator_was_away_is_not_taken_for_ours() {
    let cluster = Cluster::start("equals");
    let stage = Stage::on(cluster.0.clone(), None).await;
    stage.apply(&[configmap("set"), configmap("partly"), workload("Deployment", "scaled", "nginx:1.27", 2)]);
    let control = |args: &[&str]| cluster.0.control(args);
    let set = merge(&target(&stage, "v1", "ConfigMap/set"), json!({ "data": { "ours": "2" } }));
    let mut scaled = merge(&target(&stage, "apps/v1", "Deployment/scaled"), json!({ "spec": { "replicas": 3 } }));
    scaled["patch"]["subresource"] = json!("scale");
    // Both fields bear our name, from an earlier plan.
    let partly = |value: &str| {
        merge(&target(&stage, "v1", "ConfigMap/partly"), json!({ "data": { "ours": value, "more": value } }))
    };
    ends(&stage, "earlier", vec![step("s", partly("2"), json!({}))], PlanPhase::Succeeded).await;
    let by_hand: [(&str, Value, &[&str]); 3] = [
        ("set", set, &["patch", "configmap", "set", "--type=merge", "-p", r#"{"data":{"ours":"2"}}"#]),
        ("scaled", scaled, &["scale", "deployment", "scaled", "--replicas=3"]),
        ("partly", partly("3"), &["patch", "configmap", "partly", "--type=merge", "-p", r#"{"data":{"ours":"3"}}"#]),
    ];
    for (name, operation, by_somebody_else) in by_hand {
        control(&["operator", "restart", "--env", "COUNTERSIGN_CRASH_AT=before-mutation"]).unwrap();
        write(&stage, name, vec![step("s", operation, json!({}))], json!({}));
        approved(&stage, name).await;
        stage.eventually("dead before the mutation", async || control(&["operator", "pid"]).is_err()).await;
        stage.kubectl("admin", by_somebody_else, None).unwrap();
        control(&["operator", "restart", "--env", "COUNTERSIGN_CRASH_AT="]).unwrap();
        let ended = stage.plan(name, PlanPhase::Drifted).await;
        assert!(message(&ended).contains("was changed by somebody else"), "{}", message(&ended));
    }
    assert_eq!(stage.field("configmap/set", "{.data.ours}"), "2");
    assert_eq!(stage.field("deployment/scaled", "{.spec.replicas}"), "3");
    assert_eq!(stage.field("configmap/partly", "{.data}"), r#"{"more":"2","ours":"3"}"#);
}
