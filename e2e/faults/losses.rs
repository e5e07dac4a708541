//! What a plan works on goes away under it, or is too large.

use crate::ledger::mutations;
use crate::matrix::Ground;
use crate::plans::{End, Run, Scenario, create, eventually, furnish};
use crate::proxy::{At, Side};
use countersign::api::{ExecutionPlan, PlanPhase};
use futures::FutureExt;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams};
use kube::core::GroupVersionKind;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(240);
/// 1.4 MiB: an object that the API server just takes, for its store takes 1.5 MiB.
const LARGE: usize = 14 * 1024 * 1024 / 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_away_or_is_too_large_ends_the_plan() {
    let ground = Ground::prepare("losses", 0).await;
    a_deleted_namespace_takes_its_plan_along(&ground).await;
    a_namespace_goes_that_a_plan_elsewhere_works_on(&ground).await;
    a_plan_is_deleted_while_it_runs(&ground).await;
    define_widgets(&ground).await;
    large_objects(&ground).await;
    large_objects_are_put_back(&ground).await;
    a_definition_goes_under_a_plan(&ground).await;
    let secrets: Api<Secret> = Api::namespaced(ground.admin().await, crate::stage::OPERATOR_NAMESPACE);
    eventually("snapshots of plans that are gone are gone, too", || async {
        let snapshots = secrets.list_metadata(&ListParams::default().labels("countersign.dev/plan-uid")).await.ok()?;
        let plans: Api<ExecutionPlan> = Api::all(ground.admin().await);
        let uids: Vec<_> =
            plans.list(&ListParams::default()).await.ok()?.items.into_iter().filter_map(|p| p.metadata.uid).collect();
        let owner = |labels: &BTreeMap<String, String>| labels.get("countersign.dev/plan-uid").cloned();
        let left =
            snapshots.items.iter().filter_map(|s| owner(s.metadata.labels.as_ref()?)).filter(|uid| !uids.contains(uid));
        (left.count() == 0).then_some(())
    })
    .await;
}

/// Does something at the n-th write of a plan, with its answer lost on top.
async fn at_write(
    ground: &Ground,
    run: &Run,
    nth: u32,
    act: impl Fn(kube::Client) -> futures::future::BoxFuture<'static, ()> + Send + Sync + 'static,
) {
    let admin = ground.admin().await;
    ground.proxy.trap(&run.namespace, At::Nth(nth), Side::After, move || act(admin.clone()));
}

async fn a_deleted_namespace_takes_its_plan_along(ground: &Ground) {
    let mut run = Run::set_up(&ground.cluster.0, Scenario::Mixed, "gone".to_owned()).await;
    at_write(ground, &run, 8, |admin| {
        async move {
            Api::<Namespace>::all(admin).delete("gone", &DeleteParams::background()).await.unwrap();
        }
        .boxed()
    })
    .await;
    run.begin().await;
    let namespaces: Api<Namespace> = Api::all(ground.admin().await);
    eventually("the deleted namespace is gone, with the plan in it", || async {
        (!ground.proxy.is_trapped("gone") && namespaces.get_opt("gone").await.ok()?.is_none()).then_some(())
    })
    .await;
    let writes = mutations(&ground.cluster.0).remove("gone").unwrap_or_default();
    assert!(!writes.is_empty() && writes.values().all(|count| *count == 1), "{writes:?}");
    report("its own namespace deleted", &format!("gone, after {} of 4 objects were written once", writes.len()));
}

async fn a_namespace_goes_that_a_plan_elsewhere_works_on(ground: &Ground) {
    let mut run = Run::set_up(&ground.cluster.0, Scenario::Patch, "elsewhere".to_owned()).await;
    let admin = ground.admin().await;
    furnish(&admin, "there").await;
    let subjects = json!([{ "kind": "ServiceAccount", "name": "deployer", "namespace": "elsewhere" }]);
    let edit = json!({ "kind": "ClusterRole", "name": "edit", "apiGroup": "rbac.authorization.k8s.io" });
    let binding = json!({ "metadata": { "name": "from-elsewhere" }, "roleRef": edit, "subjects": subjects });
    create(&admin, Some("there"), "rbac.authorization.k8s.io/v1", "RoleBinding", binding).await;
    at_write(ground, &run, 9, |admin| {
        async move {
            Api::<Namespace>::all(admin).delete("there", &DeleteParams::background()).await.unwrap();
        }
        .boxed()
    })
    .await;
    run.plan(chain("there", 8)).await;
    let end = run.ended(PATIENCE).await;
    assert!(!ground.proxy.is_trapped("elsewhere"), "the plan was done before the namespace was deleted");
    let terminated = end.message.contains("because it is being terminated");
    match end.phase {
        Some(PlanPhase::RolledBack) => {
            assert!(terminated && end.message.ends_with("everything done before was put back"), "{end:?}");
        }
        // The rights go with the namespace: when they went first, it says what could not be put back.
        Some(PlanPhase::RollbackFailed) => {
            let refused = end.message.contains("the right is missing");
            assert!(refused && end.message.contains("could not put back: step s"), "{end:?}");
        }
        _ => panic!("{end:?}"),
    }
    let writes = mutations(&ground.cluster.0).remove("elsewhere").unwrap_or_default();
    assert!(!writes.is_empty() && writes.values().all(|count| *count <= 2), "{writes:?}");
    tell("another namespace deleted", &end);
}

async fn a_plan_is_deleted_while_it_runs(ground: &Ground) {
    let mut run = Run::set_up(&ground.cluster.0, Scenario::Fifty, "withdrawn".to_owned()).await;
    at_write(ground, &run, 40, |admin| {
        async move {
            let plans: Api<ExecutionPlan> = Api::namespaced(admin, "withdrawn");
            plans.delete("ask", &DeleteParams::default()).await.unwrap();
        }
        .boxed()
    })
    .await;
    // One after the other, so that there is something left to stop.
    run.plan(chain("withdrawn", 50)).await;
    let plans: Api<ExecutionPlan> = Api::namespaced(ground.admin().await, "withdrawn");
    eventually("the deleted plan is gone", || async {
        (!ground.proxy.is_trapped("withdrawn") && plans.get_opt("ask").await.ok()?.is_none()).then_some(())
    })
    .await;
    let writes = mutations(&ground.cluster.0).remove("withdrawn").unwrap_or_default();
    assert!(writes.values().all(|count| *count == 1), "{writes:?}");
    assert!(writes.len() < 50, "nothing was stopped");
    let configs: Api<ConfigMap> = Api::namespaced(ground.admin().await, "withdrawn");
    let there = configs.list_metadata(&ListParams::default()).await.unwrap().items;
    let there: Vec<String> = there.iter().map(|config| format!("configmaps/{}", config.name_any())).collect();
    assert!(writes.keys().all(|object| there.contains(object)), "what was done stays: {writes:?}, {there:?}");
    report("plan deleted while running", &format!("gone, {} of 50 steps done, each once", writes.len()));
}

/// Steps that apply a ConfigMap each, every one after the one before.
fn chain(namespace: &str, count: usize) -> Vec<Value> {
    let step = |n: usize| {
        let after: Vec<String> = (n > 0).then(|| format!("s{}", n - 1)).into_iter().collect();
        let config = json!({ "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": format!("c{n}"), "namespace": namespace }, "data": { "value": "new" } });
        json!({ "id": format!("s{n}"), "title": "apply", "dependsOn": after, "operation": { "apply": { "manifest": config } } })
    };
    (0..count).map(step).collect()
}

async fn define_widgets(ground: &Ground) {
    let schema = json!({ "type": "object", "properties": { "spec": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } } });
    let version = json!({ "name": "v1", "served": true, "storage": true, "schema": { "openAPIV3Schema": schema } });
    let spec = json!({ "group": "faults.example", "scope": "Namespaced", "versions": [version],
                       "names": { "kind": "Widget", "plural": "widgets", "singular": "widget" } });
    let admin = ground.admin().await;
    let definition = json!({ "metadata": { "name": "widgets.faults.example" }, "spec": spec });
    create(&admin, None, "apiextensions.k8s.io/v1", "CustomResourceDefinition", definition).await;
    let definitions: Api<CustomResourceDefinition> = Api::all(admin);
    eventually("widgets are served", || async {
        let conditions = definitions.get("widgets.faults.example").await.ok()?.status?.conditions?;
        conditions.iter().any(|condition| condition.type_ == "Established" && condition.status == "True").then_some(())
    })
    .await;
}

fn widget_patch(namespace: &str, name: &str) -> Value {
    json!({ "patch": { "type": "merge", "body": { "spec": { "size": 2 } }, "target": {
        "apiVersion": "faults.example/v1", "kind": "Widget", "namespace": namespace, "name": name } } })
}

/// Text that does not compress: a linear congruential generator, of letters that JSON need not escape.
fn noise(seed: u64) -> String {
    const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-";
    let mut state = seed;
    (0..LARGE)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(LETTERS[usize::try_from(state >> 33).unwrap() % LETTERS.len()])
        })
        .collect()
}

async fn large_objects(ground: &Ground) {
    for (name, text) in [("even", "x".repeat(LARGE)), ("noisy", noise(1))] {
        let namespace = format!("large-{name}");
        let mut run = Run::set_up(&ground.cluster.0, Scenario::Patch, namespace.clone()).await;
        let widget = json!({ "metadata": { "name": "w" }, "spec": { "size": 1, "text": text } });
        create(&ground.admin().await, Some(&namespace), "faults.example/v1", "Widget", widget).await;
        run.plan(vec![json!({ "id": "a", "title": "a", "operation": widget_patch(&namespace, "w") })]).await;
        let end = run.ended(PATIENCE).await;
        assert_eq!(end.phase, Some(PlanPhase::Succeeded), "{end:?}");
        let writes = mutations(&ground.cluster.0).remove(&namespace).unwrap_or_default();
        assert_eq!(writes.values().sum::<u32>(), 1, "{writes:?}");
        tell(&format!("object of 1.4 MiB, {name}"), &end);
    }
}

/// One is changed and one deleted; then a step fails, and the operator dies while both are put back.
async fn large_objects_are_put_back(ground: &Ground) {
    let namespace = "large-undone";
    let mut run = Run::set_up(&ground.cluster.0, Scenario::Patch, namespace.to_owned()).await;
    for (seed, name) in [(2, "changed"), (3, "deleted")] {
        let widget = json!({ "metadata": { "name": name }, "spec": { "size": 1, "text": noise(seed) } });
        create(&ground.admin().await, Some(namespace), "faults.example/v1", "Widget", widget).await;
    }
    let target = |version: &str, kind: &str, name: &str| json!({ "apiVersion": version, "kind": kind, "namespace": namespace, "name": name });
    let delete = json!({ "delete": { "target": target("faults.example/v1", "Widget", "deleted") } });
    let broken =
        json!([{ "op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "nginx:broken" }]);
    let breaks =
        json!({ "patch": { "target": target("apps/v1", "Deployment", "web"), "type": "json", "body": broken } });
    let (operator, starts) = (ground.operator.clone(), ground.operator.starts());
    let killed = operator.clone();
    // The deleted one is there again by an apply, and the operator has not heard of it.
    ground.proxy.trap(namespace, At::Patch("widgets", "deleted"), Side::After, move || {
        let operator = killed.clone();
        async move { operator.kill().await }.boxed()
    });
    run.plan(vec![
        json!({ "id": "a", "title": "a", "operation": widget_patch(namespace, "changed") }),
        json!({ "id": "b", "title": "b", "dependsOn": ["a"], "operation": delete }),
        json!({ "id": "c", "title": "c", "dependsOn": ["b"], "operation": breaks }),
    ])
    .await;
    let end = run.ended(PATIENCE).await;
    assert_eq!(end.phase, Some(PlanPhase::RolledBack), "{end:?}");
    assert_eq!(end.state, run.before, "{end:?}");
    assert!(operator.starts() > starts, "the operator was not killed");
    let writes = mutations(&ground.cluster.0).remove(namespace).unwrap_or_default();
    assert!(writes.values().all(|count| *count == 2), "{writes:?}");
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("faults.example", "v1", "Widget"));
    let widgets: Api<DynamicObject> = Api::namespaced_with(ground.admin().await, namespace, &resource);
    for (seed, name) in [(2, "changed"), (3, "deleted")] {
        let spec = widgets.get(name).await.unwrap().data["spec"].take();
        assert!(spec == json!({ "size": 1, "text": noise(seed) }), "{name} is not as before: size {}", spec["size"]);
    }
    tell("objects of 1.4 MiB put back, the operator killed meanwhile", &end);
}

async fn a_definition_goes_under_a_plan(ground: &Ground) {
    let mut run = Run::set_up(&ground.cluster.0, Scenario::Patch, "undefined".to_owned()).await;
    for name in ["one", "two"] {
        let widget = json!({ "metadata": { "name": name }, "spec": { "size": 1 } });
        create(&ground.admin().await, Some("undefined"), "faults.example/v1", "Widget", widget).await;
    }
    let admin = ground.admin().await;
    ground.proxy.trap("undefined", At::Patch("widgets", "one"), Side::After, move || {
        let admin = admin.clone();
        async move {
            let definitions: Api<CustomResourceDefinition> = Api::all(admin);
            definitions.delete("widgets.faults.example", &DeleteParams::foreground()).await.unwrap();
            // It goes after its objects; the plan, which waits here, must not be quicker.
            eventually("the definition is gone", || async {
                definitions.get_opt("widgets.faults.example").await.ok()?.is_none().then_some(())
            })
            .await;
        }
        .boxed()
    });
    run.plan(vec![
        json!({ "id": "a", "title": "a", "operation": widget_patch("undefined", "one") }),
        json!({ "id": "b", "title": "b", "dependsOn": ["a"], "operation": widget_patch("undefined", "two") }),
    ])
    .await;
    let end = run.ended(PATIENCE).await;
    assert!(!ground.proxy.is_trapped("undefined"), "the plan was done before the definition was deleted");
    // The change landed, and nobody can put it back: there is nothing left of that kind. Whether that is found out while it
    // is verified or by the next step is a matter of who is quicker.
    assert_eq!(end.phase, Some(PlanPhase::RollbackFailed), "{end:?}");
    assert!(end.message.contains("could not put back: step a: cannot read Widget undefined/one"), "{end:?}");
    let writes = mutations(&ground.cluster.0).remove("undefined").unwrap_or_default();
    assert_eq!(writes, BTreeMap::from([("widgets/one".to_owned(), 1)]));
    tell("definition deleted", &end);
}

fn tell(fault: &str, end: &End) {
    let phase = end.phase.map(|phase| phase.to_string()).unwrap_or_default();
    report(fault, &format!("{phase} after {:.1} s: {}", end.took.as_secs_f64(), end.message));
}

fn report(fault: &str, end: &str) {
    println!("| {fault} | {end} |");
}
