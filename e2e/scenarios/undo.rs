//! What is put back, what stays because somebody else changed it, and what cannot come back.

use crate::handmade::{approved, delete, ends, merge, put_back, snapshots, step, target, undo_message, write};
use crate::stage::{Look, OPERATOR_NAMESPACE, Stage};
use countersign::api::{ExecutionPlan, PlanPhase, StepState};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, DynamicObject, ListParams, PostParams};
use kube::{ResourceExt, core::GroupVersionKind};
use rand::RngExt;
use serde_json::{Value, json};

fn configmap(name: &str, data: &Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": data })
}

/// A kind of its own for one scenario.
fn define(stage: &Stage, kind: &str) -> String {
    let plural = format!("{}s", kind.to_lowercase());
    let group = format!("{}.example.com", stage.name);
    let schema = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    stage.apply(&[json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": { "name": format!("{plural}.{group}") },
        "spec": { "group": group, "scope": "Namespaced", "names": { "plural": plural, "kind": kind },
                  "versions": [{ "name": "v1", "served": true, "storage": true, "schema": { "openAPIV3Schema": schema } }] } })]);
    let args = ["wait", &format!("crd/{plural}.{group}"), "--for=condition=Established", "--timeout=30s"];
    stage.kubectl("admin", &args, None).unwrap();
    stage.allow(&json!([{ "apiGroups": [group], "resources": ["*"], "verbs": ["*"] }]));
    group
}

/// Text that does not get smaller than six bits a character.
fn noise(length: usize) -> String {
    const SYMBOLS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut random = rand::rng();
    (0..length).map(|_| char::from(SYMBOLS[random.random_range(0..SYMBOLS.len())])).collect()
}

#[tokio::test]
async fn replicas_set_through_the_scale_subresource_go_back() {
    let stage = Stage::set().await;
    stage.run("checkout", "nginx:1.27", 2).await;
    let scale = json!({ "patch": { "target": target(&stage, "apps/v1", "Deployment/checkout"), "subresource": "scale",
        "type": "merge", "body": { "spec": { "replicas": 5 } } } });
    ends(&stage, "scale", vec![step("s", scale, json!({}))], PlanPhase::Succeeded).await;
    assert_eq!(stage.field("deployment/checkout", "{.spec.replicas}"), "5");
    let plan = put_back(&stage, "scale", PlanPhase::RolledBack).await;
    assert_eq!(stage.field("deployment/checkout", "{.spec.replicas}"), "2");
    assert!(undo_message(&plan, "s").contains("put spec.replicas"), "{}", undo_message(&plan, "s"));
}

#[tokio::test]
async fn custom_resources_go_back_changed_or_deleted() {
    let stage = Stage::set().await;
    let group = define(&stage, "Widget");
    let version = format!("{group}/v1");
    let widget = |name: &str| json!({ "apiVersion": version, "kind": "Widget", "metadata": { "name": name, "labels": { "team": "shop" } }, "spec": { "size": 1, "parts": ["a", "b"] } });
    stage.apply(&[widget("kept"), widget("gone")]);
    let uid = stage.field("widget/gone", "{.metadata.uid}");
    let steps = vec![
        step(
            "grow",
            merge(&target(&stage, &version, "Widget/kept"), json!({ "spec": { "size": 3, "parts": ["c"] } })),
            json!({}),
        ),
        step("drop", delete(&target(&stage, &version, "Widget/gone")), json!({})),
    ];
    ends(&stage, "widgets", steps, PlanPhase::Succeeded).await;
    assert_eq!(stage.field("widget/kept", "{.spec}"), r#"{"parts":["c"],"size":3}"#);
    put_back(&stage, "widgets", PlanPhase::RolledBack).await;
    for name in ["kept", "gone"] {
        let found = stage.field(&format!("widget/{name}"), "{.spec} {.metadata.labels.team}");
        assert_eq!(found, r#"{"parts":["a","b"],"size":1} shop"#, "{name}");
    }
    assert_ne!(stage.field("widget/gone", "{.metadata.uid}"), uid);
}

#[tokio::test]
async fn cluster_scoped_objects_go_back() {
    let stage = Stage::set().await;
    stage.allow(&json!([{ "apiGroups": ["scheduling.k8s.io"], "resources": ["priorityclasses"], "verbs": ["*"] }]));
    let class = |name: &str| json!({ "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": { "name": name }, "value": 42, "description": "before" });
    let (made, gone) = (format!("{}-made", stage.name), format!("{}-gone", stage.name));
    stage.apply(&[class(&gone)]);
    let reference = json!({ "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "name": gone });
    let steps = vec![
        step("make", json!({ "apply": { "manifest": class(&made) } }), json!({})),
        step("drop", delete(&reference), json!({})),
    ];
    ends(&stage, "classes", steps, PlanPhase::Succeeded).await;
    assert!(stage.kubectl("admin", &["get", "priorityclass", &gone], None).is_err());
    put_back(&stage, "classes", PlanPhase::RolledBack).await;
    assert_eq!(stage.field(&format!("priorityclass/{gone}"), "{.value} {.description}"), "42 before");
    stage.gone(&format!("priorityclass/{made}")).await;
    stage.kubectl("admin", &["delete", "priorityclass", &gone], None).unwrap();
}

#[tokio::test]
async fn secrets_go_back_and_nothing_tells_their_values() {
    let stage = Stage::set().await;
    let secret = |name: &str| json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name, "labels": { "tier": "one" } }, "stringData": { "password": "correct-horse-7" } });
    // Created, not applied: kubectl would note the values in an annotation.
    for name in ["kept", "gone"] {
        stage.kubectl("admin", &["create", "-f", "-"], Some(&secret(name).to_string())).unwrap();
    }
    let steps = vec![
        step(
            "label",
            merge(&target(&stage, "v1", "Secret/kept"), json!({ "metadata": { "labels": { "tier": "two" } } })),
            json!({}),
        ),
        step("drop", delete(&target(&stage, "v1", "Secret/gone")), json!({})),
    ];
    ends(&stage, "secrets", steps, PlanPhase::Succeeded).await;
    assert_eq!(stage.field("secret/kept", "{.metadata.labels.tier}"), "two");
    let plan = put_back(&stage, "secrets", PlanPhase::RolledBack).await;
    for name in ["kept", "gone"] {
        let found = stage.field(&format!("secret/{name}"), "{.data.password} {.metadata.labels.tier}");
        assert_eq!(found, "Y29ycmVjdC1ob3JzZS03 one", "{name}");
    }
    let told = serde_json::to_string(&plan).unwrap() + &stage.events("secrets").await.join("\n");
    assert!(!told.contains("correct-horse") && !told.contains("Y29ycmVjdC1ob3Jz"), "{told}");
}

#[tokio::test]
async fn objects_as_large_as_they_get_go_back_from_more_than_one_secret() {
    let stage = Stage::set().await;
    let group = define(&stage, "Blob");
    let version = format!("{group}/v1");
    let (small, large) = (noise(1_000_000), noise(1_400_000));
    let configs: Api<ConfigMap> = stage.api();
    let config: ConfigMap = serde_json::from_value(configmap("large", &json!({ "noise": small }))).unwrap();
    configs.create(&PostParams::default(), &config).await.unwrap();
    let resource = kube::core::ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(&group, "v1", "Blob"), "blobs");
    let blobs: Api<DynamicObject> = Api::namespaced_with(stage.admin.clone(), &stage.name, &resource);
    let blob = DynamicObject::new("larger", &resource).data(json!({ "spec": { "noise": large } }));
    blobs.create(&PostParams::default(), &blob).await.unwrap();
    let steps = vec![
        step("config", delete(&target(&stage, "v1", "ConfigMap/large")), json!({})),
        step("blob", delete(&target(&stage, &version, "Blob/larger")), json!({})),
    ];
    let plan = ends(&stage, "large", steps, PlanPhase::Succeeded).await;
    assert_eq!(snapshots(&stage, &plan).await, 3, "one for the ConfigMap, two for the blob");
    put_back(&stage, "large", PlanPhase::RolledBack).await;
    assert!(configs.get("large").await.unwrap().data.unwrap()["noise"] == small);
    assert!(blobs.get("larger").await.unwrap().data["spec"]["noise"] == large.as_str());
    stage.kubectl("admin", &["delete", "plan", "large"], None).unwrap();
    assert_eq!(snapshots(&stage, &plan).await, 0, "snapshots go with their plan");
}

#[tokio::test]
async fn finalizers_hold_a_deletion_and_come_back_with_the_object() {
    let stage = Stage::set().await;
    let mut held = configmap("held", &json!({ "a": "1" }));
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    stage.apply(&[held]);
    write(&stage, "held", vec![step("drop", delete(&target(&stage, "v1", "ConfigMap/held")), json!({}))], json!({}));
    approved(&stage, "held").await;
    let going =
        |object: &ConfigMap| if object.metadata.deletion_timestamp.is_some() { Look::There } else { Look::NotYet };
    stage.until("going", "held", going).await;
    let waits = |plan: &ExecutionPlan| match plan.status.as_ref().unwrap().steps.first().map(|step| step.state) {
        Some(StepState::Applied) => Look::There,
        _ => Look::NotYet,
    };
    stage.until("waiting for the finalizer", "held", waits).await;
    let release = ["patch", "configmap", "held", "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#];
    stage.kubectl("admin", &release, None).unwrap();
    stage.plan("held", PlanPhase::Succeeded).await;
    put_back(&stage, "held", PlanPhase::RolledBack).await;
    assert_eq!(stage.field("configmap/held", "{.data.a} {.metadata.finalizers}"), r#"1 ["example.com/hold"]"#);
    stage.kubectl("admin", &release, None).unwrap();
}

#[tokio::test]
async fn an_object_comes_back_without_the_owners_that_are_gone() {
    let stage = Stage::set().await;
    stage.apply(&[configmap("stays", &json!({})), configmap("goes", &json!({}))]);
    let owner = |name: &str| {
        let uid = stage.field(&format!("configmap/{name}"), "{.metadata.uid}");
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": uid })
    };
    let child = |name: &str, owner: Value| {
        let mut child = configmap(name, &json!({ "a": "1" }));
        child["metadata"]["ownerReferences"] = json!([owner]);
        child
    };
    stage.apply(&[child("child", owner("stays")), child("orphan", owner("goes"))]);
    let drop = |name: &str| step(name, delete(&target(&stage, "v1", &format!("ConfigMap/{name}"))), json!({}));
    ends(&stage, "children", vec![drop("child"), drop("orphan")], PlanPhase::Succeeded).await;
    stage.kubectl("admin", &["delete", "configmap", "goes"], None).unwrap();
    let plan = put_back(&stage, "children", PlanPhase::RolledBack).await;
    let message = undo_message(&plan, "orphan");
    assert!(message.ends_with("without its owner ConfigMap goes, which is gone"), "{message}");
    assert_eq!(stage.field("configmap/child", "{.metadata.ownerReferences[*].name}"), "stays");
    // The collector takes the child once it sees its owner gone; by then it has seen the orphan, too.
    stage.kubectl("admin", &["delete", "configmap", "stays"], None).unwrap();
    stage.gone("configmap/child").await;
    assert_eq!(stage.field("configmap/orphan", "{.data.a} {.metadata.ownerReferences}"), "1 ");
}

#[tokio::test]
async fn what_others_changed_since_stays_and_is_told_field_by_field() {
    let stage = Stage::set().await;
    stage.run("checkout", "nginx:1.27", 2).await;
    let change =
        json!({ "metadata": { "labels": { "tier": "web" } }, "spec": { "replicas": 5, "minReadySeconds": 1 } });
    let change = merge(&target(&stage, "apps/v1", "Deployment/checkout"), change);
    ends(&stage, "change", vec![step("s", change, json!({}))], PlanPhase::Succeeded).await;
    let theirs = r#"{"metadata":{"labels":{"tier":"shop"},"annotations":{"theirs":"1"}},"spec":{"replicas":7}}"#;
    stage.kubectl("admin", &["patch", "deployment", "checkout", "--type=merge", "-p", theirs], None).unwrap();
    let plan = put_back(&stage, "change", PlanPhase::RolledBack).await;
    let message = undo_message(&plan, "s");
    assert!(message.contains("spec.replicas (set to 5 by the step, 7 now, 2 before)"), "{message}");
    assert!(
        message.contains(r#"metadata.labels.tier (set to "web" by the step, "shop" now, absent before)"#),
        "{message}"
    );
    let fields = "{.spec.replicas} {.metadata.labels.tier} {.metadata.annotations.theirs} {.spec.minReadySeconds}";
    assert_eq!(stage.field("deployment/checkout", fields), "7 shop 1 ");
}

#[tokio::test]
async fn what_can_never_be_changed_back_is_of_high_risk_and_named_at_the_end() {
    let stage = Stage::for_tests().await;
    stage.apply(&[configmap("settings", &json!({ "a": "1" }))]);
    let reference = target(&stage, "v1", "ConfigMap/settings");
    let never = json!({ "wait": { "target": reference, "until": "Expression", "expression": "object.data.a == '2'" } });
    let steps = vec![
        step("freeze", merge(&reference, json!({ "immutable": true })), json!({})),
        step("never", never, json!({ "dependsOn": ["freeze"], "timeout": "1s" })),
    ];
    write(&stage, "freeze", steps, json!({}));
    let waits = stage.plan("freeze", PlanPhase::AwaitingApproval).await.status.unwrap();
    assert!(waits.message.unwrap().starts_with("risk is high"), "it cannot be put back, even in a test environment");
    approved(&stage, "freeze").await;
    let plan = stage.plan("freeze", PlanPhase::RollbackFailed).await;
    let message = plan.status.unwrap().message.unwrap();
    assert!(message.contains("could not put back: step freeze") && message.contains("immutable"), "{message}");
}

#[tokio::test]
async fn a_rollback_that_was_refused_is_tried_again_on_request() {
    let stage = Stage::set().await;
    stage.apply(&[configmap("one", &json!({ "a": "1" })), configmap("two", &json!({ "a": "1" }))]);
    let change = |name: &str| {
        step(
            name,
            merge(&target(&stage, "v1", &format!("ConfigMap/{name}")), json!({ "data": { "a": "2" } })),
            json!({}),
        )
    };
    ends(&stage, "both", vec![change("one"), change("two")], PlanPhase::Succeeded).await;
    let account = json!({ "kind": "ServiceAccount", "name": "deployer", "namespace": stage.name });
    let alice = json!({ "kind": "User", "name": "alice", "apiGroup": "rbac.authorization.k8s.io" });
    let may_work = |subjects: Value| {
        let patch = json!({ "subjects": subjects }).to_string();
        stage.kubectl("admin", &["patch", "rolebinding", "work", "--type=merge", "-p", &patch], None).unwrap();
    };
    may_work(json!([alice]));
    let refused = put_back(&stage, "both", PlanPhase::RollbackFailed).await.status.unwrap();
    assert!(refused.message.unwrap().contains("could not put back: step one"), "both are named");
    may_work(json!([alice, account]));
    let request = || stage.field("plan/both", r"{.metadata.annotations.countersign\.dev/request}");
    stage.eventually("taken off, because it was met", async || request().is_empty()).await;
    let plan = put_back(&stage, "both", PlanPhase::RolledBack).await;
    assert!(plan.status.unwrap().steps.iter().all(|step| step.undo.as_ref().unwrap().attempts == 2));
    for name in ["one", "two"] {
        assert_eq!(stage.field(&format!("configmap/{name}"), "{.data.a}"), "1");
        assert_eq!(stage.cluster.writes(&stage.name, "configmaps", name).len(), 2, "there and back");
    }
}

#[tokio::test]
async fn a_service_gives_up_the_port_that_somebody_else_has_by_now() {
    let stage = Stage::set().await;
    let service = |name: &str| {
        json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
        "spec": { "type": "NodePort", "selector": { "app": "web" }, "ports": [{ "port": 80 }] } })
    };
    stage.apply(&[service("web")]);
    let ours = stage.field("service/web", "{.spec.ports[0].nodePort} {.spec.clusterIP}");
    let (port, address) = ours.split_once(' ').unwrap();
    ends(
        &stage,
        "drop",
        vec![step("s", delete(&target(&stage, "v1", "Service/web")), json!({}))],
        PlanPhase::Succeeded,
    )
    .await;
    let mut taken = service("taken");
    taken["spec"]["ports"][0]["nodePort"] = json!(port.parse::<u32>().unwrap());
    stage.apply(&[taken]);
    let plan = put_back(&stage, "drop", PlanPhase::RolledBack).await;
    let message = undo_message(&plan, "s");
    assert!(message.contains("with another nodePort, because somebody else has the old one"), "{message}");
    let now = stage.field("service/web", "{.spec.ports[0].nodePort} {.spec.clusterIP}");
    let (new_port, new_address) = now.split_once(' ').unwrap();
    assert_ne!(new_port, port);
    assert_eq!(new_address, address, "what nobody has taken is kept");
}

#[tokio::test]
async fn a_claim_whose_volume_is_kept_waits_for_it_and_says_so() {
    let stage = Stage::set().await;
    stage.allow(&json!([{ "apiGroups": [""], "resources": ["persistentvolumes"], "verbs": ["get"] }]));
    let claim = json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "data" },
        "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } } });
    stage.apply(&[claim]);
    stage.eventually("bound", async || stage.field("pvc/data", "{.status.phase}") == "Bound").await;
    let volume = stage.field("pvc/data", "{.spec.volumeName}");
    let keep = ["patch", "pv", &volume, "--type=merge", "-p", r#"{"spec":{"persistentVolumeReclaimPolicy":"Retain"}}"#];
    stage.kubectl("admin", &keep, None).unwrap();
    let steps = vec![step("s", delete(&target(&stage, "v1", "PersistentVolumeClaim/data")), json!({}))];
    ends(&stage, "drop", steps, PlanPhase::Succeeded).await;
    let plan = put_back(&stage, "drop", PlanPhase::RolledBack).await;
    let message = undo_message(&plan, "s");
    assert!(message.contains(&format!("its volume {volume} is Released and keeps the data")), "{message}");
    let release =
        ["patch", "pv", &volume, "--type=merge", "-p", r#"{"spec":{"claimRef":{"uid":null,"resourceVersion":null}}}"#];
    stage.kubectl("admin", &release, None).unwrap();
    stage.eventually("bound again", async || stage.field("pvc/data", "{.status.phase}") == "Bound").await;
    assert_eq!(stage.field("pvc/data", "{.spec.volumeName}"), volume);
}
