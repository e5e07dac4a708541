//! The cluster's HTTP side against a server that gives the API server's own answers.

use super::*;
use crate::api::{Delete, Evict, ObjectRef, Operation, PatchType, PropagationPolicy, Query, QueryKind};
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::response::Response;
use futures::StreamExt;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

/// What reached the server.
#[derive(Clone, Debug)]
struct Seen {
    method: String,
    path: String,
    query: String,
    content_type: String,
    impersonated: String,
    body: Value,
}

struct Answer {
    code: u16,
    headers: Vec<(&'static str, &'static str)>,
    body: String,
}

impl From<(u16, Value)> for Answer {
    fn from((code, body): (u16, Value)) -> Self {
        Self { code, headers: vec![("content-type", "application/json")], body: body.to_string() }
    }
}

type Log = Arc<Mutex<Vec<Seen>>>;

async fn api<A: Into<Answer> + Send + 'static>(
    answer: impl Fn(&Seen) -> A + Clone + Send + Sync + 'static,
) -> (Cluster, Log) {
    let log = Log::default();
    let seen_by_server = Arc::clone(&log);
    let app = axum::Router::new().fallback(move |request: Request| {
        let (answer, log) = (answer.clone(), Arc::clone(&seen_by_server));
        async move {
            let (parts, body) = request.into_parts();
            let header =
                |name: &str| parts.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
            let mut seen = Seen {
                method: parts.method.to_string(),
                path: parts.uri.path().to_owned(),
                query: parts.uri.query().unwrap_or_default().to_owned(),
                content_type: header("content-type"),
                impersonated: header("impersonate-user"),
                body: Value::Null,
            };
            let bytes = to_bytes(body, 1 << 20).await.unwrap();
            seen.body = serde_json::from_slice(&bytes).unwrap_or_default();
            let answer: Answer = answer(&seen).into();
            log.lock().unwrap().push(seen);
            let response = Response::builder().status(answer.code);
            answer
                .headers
                .iter()
                .fold(response, |r, (name, value)| r.header(*name, *value))
                .body(Body::from(answer.body))
                .unwrap()
        }
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    (Cluster::new(kube::Config::new(format!("http://{address}").parse().unwrap())).unwrap(), log)
}

fn status(code: u16, reason: &str, message: &str) -> (u16, Value) {
    (
        code,
        json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message }),
    )
}

fn deployments() -> ResourceKind {
    ResourceKind {
        group: "apps".into(),
        version: "v1".into(),
        kind: "Deployment".into(),
        plural: "deployments".into(),
        singular: "deployment".into(),
        short_names: vec!["deploy".into()],
        namespaced: true,
        verbs: vec![],
        subresources: vec!["scale".into()],
    }
}

fn catalog() -> Catalog {
    Catalog { kinds: vec![catalog::core_kind("Pod", "pods"), deployments()], ..Catalog::default() }
}

fn checkout() -> ObjectRef {
    deployments().object(Some("staging"), "checkout")
}

#[tokio::test]
async fn what_does_not_exist_is_none_and_what_is_not_served_is_an_error() {
    let (cluster, log) = api(|seen: &Seen| {
        if seen.path.starts_with("/apis/apps/v1/") {
            status(404, "NotFound", "deployments.apps \"checkout\" not found")
        } else {
            status(404, "NotFound", "the server could not find the requested resource")
        }
    })
    .await;
    let access = cluster.service_account("staging", "deployer").unwrap();
    assert_eq!(access.get(&deployments(), &checkout()).await.unwrap(), None);
    let old = ObjectRef { api_version: "apps/v1beta1".into(), ..checkout() };
    assert!(access.get(&deployments(), &old).await.unwrap_err().is_not_found());
    let log = log.lock().unwrap();
    assert_eq!(log[0].impersonated, "system:serviceaccount:staging:deployer");
    assert_eq!(log[1].path, "/apis/apps/v1beta1/namespaces/staging/deployments/checkout");
}

#[tokio::test]
async fn the_operator_impersonates_nobody() {
    let (cluster, log) = api(|_: &Seen| (200, json!({ "kind": "Deployment" }))).await;
    cluster.operator().get(&deployments(), &checkout()).await.unwrap().unwrap();
    assert_eq!(log.lock().unwrap()[0].impersonated, "");
}

#[tokio::test]
async fn refusals_carry_the_servers_words() {
    let rbac = "deployments.apps \"checkout\" is forbidden: User \"system:serviceaccount:staging:deployer\" cannot get resource \"deployments\" in API group \"apps\" in the namespace \"staging\"";
    let (cluster, _) = api(move |_: &Seen| status(403, "Forbidden", rbac)).await;
    let access = cluster.service_account("staging", "deployer").unwrap();
    let error = access.get(&deployments(), &checkout()).await.unwrap_err();
    assert!(error.is_forbidden());
    insta::assert_snapshot!(error, @r#"cannot read Deployment staging/checkout as system:serviceaccount:staging:deployer: the right is missing: deployments.apps "checkout" is forbidden: User "system:serviceaccount:staging:deployer" cannot get resource "deployments" in API group "apps" in the namespace "staging"; grant it with RBAC, or use an account that has it"#);
    let (cluster, _) =
        api(|_: &Seen| status(403, "Forbidden", "pods \"x\" is forbidden: exceeded quota: small, used: pods=2")).await;
    let error = cluster.operator().get(&deployments(), &checkout()).await.unwrap_err();
    assert!(matches!(error, ClusterError::AdmissionRefused { .. }));
    insta::assert_snapshot!(error, @r#"cannot read Deployment staging/checkout as the operator: refused by admission: pods "x" is forbidden: exceeded quota: small, used: pods=2"#);
}

#[tokio::test]
async fn too_many_requests_says_when_to_come_back() {
    let (cluster, log) = api(|_: &Seen| Answer {
        code: 429,
        headers: vec![("retry-after", "7")],
        body: "Too many requests, please try again later.".into(),
    })
    .await;
    let error = cluster.operator().get(&deployments(), &checkout()).await.unwrap_err();
    assert!(error.is_transient());
    assert_eq!(error.retry_after(), Some(std::time::Duration::from_secs(7)));
    assert_eq!(error.server_message(), "Too many requests, please try again later.");
    assert_eq!(log.lock().unwrap().len(), 1, "whoever asked decides about retries");
}

#[tokio::test]
async fn servers_that_are_down_or_broken_are_transient() {
    let (cluster, _) = api(|_: &Seen| status(500, "InternalError", "etcdserver: leader changed")).await;
    assert!(cluster.operator().get(&deployments(), &checkout()).await.unwrap_err().is_transient());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let cluster = Cluster::new(kube::Config::new(format!("http://{address}").parse().unwrap())).unwrap();
    let error = cluster.operator().get(&deployments(), &checkout()).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn lists_are_read_page_by_page() {
    let (cluster, log) = api(|seen: &Seen| {
        let second = seen.query.contains("continue=a%2Bb");
        let items: Vec<Value> = (0..2).map(|n| json!({ "metadata": { "name": format!("{}{n}", if second { "b" } else { "a" }) } })).collect();
        (200, json!({ "kind": "DeploymentList", "metadata": { "continue": if second { "" } else { "a+b" } }, "items": items }))
    })
    .await;
    let options = ListOptions { label_selector: Some("app=web,tier!=x".into()), ..ListOptions::default() };
    let found = cluster.operator().list(&deployments(), None, &options).await.unwrap();
    let names: Vec<_> = found.iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["a0", "a1", "b0", "b1"]);
    assert_eq!((&found[0]["apiVersion"], &found[0]["kind"]), (&json!("apps/v1"), &json!("Deployment")));
    let limited = ListOptions { limit: Some(1), ..ListOptions::default() };
    assert_eq!(cluster.operator().list(&deployments(), Some("staging"), &limited).await.unwrap().len(), 1);
    let log = log.lock().unwrap();
    assert_eq!(log[0].query, "labelSelector=app%3Dweb%2Ctier%21%3Dx&limit=500");
    assert_eq!(
        (log[2].path.as_str(), log[2].query.as_str()),
        ("/apis/apps/v1/namespaces/staging/deployments", "limit=1")
    );
}

#[tokio::test]
async fn a_list_whose_place_was_forgotten_is_read_anew() {
    let (cluster, log) = api(|seen: &Seen| {
        if seen.query.contains("continue=") {
            return status(
                410,
                "Expired",
                "The provided continue parameter is too old to display a consistent list result.",
            );
        }
        let more = if seen.query.contains("limit=") { "x" } else { "" };
        (200, json!({ "metadata": { "continue": more }, "items": [{ "metadata": { "name": "a" } }] }))
    })
    .await;
    assert_eq!(cluster.operator().list(&deployments(), None, &ListOptions::default()).await.unwrap().len(), 1);
    assert_eq!(log.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn tables_have_the_servers_columns() {
    let (cluster, _) = api(|_: &Seen| {
        (200, json!({ "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {},
            "columnDefinitions": [{ "name": "Name", "priority": 0 }, { "name": "Images", "priority": 1 }, { "name": "Up-to-date", "priority": 0 }],
            "rows": [{ "cells": ["checkout", "web:1", 3], "object": { "metadata": { "namespace": "staging" } } },
                { "cells": ["x", null, null], "object": { "metadata": { "namespace": "b" } } }] }))
    })
    .await;
    let table = cluster.operator().table(&deployments(), None, &ListOptions::default()).await.unwrap();
    assert_eq!(table.columns, ["Namespace", "Name", "Up-to-date"]);
    assert_eq!(table.rows, [["staging", "checkout", "3"], ["b", "x", ""]]);
    let table = cluster.operator().table(&deployments(), Some("staging"), &ListOptions::default()).await.unwrap();
    assert_eq!(table.columns, ["Name", "Up-to-date"]);
}

#[tokio::test]
async fn servers_without_tables_are_shown_by_name() {
    let (cluster, _) = api(|_: &Seen| {
        (200, json!({ "kind": "ThingList", "metadata": {}, "items": [{ "metadata": { "name": "a", "namespace": "b", "creationTimestamp": "t" } }] }))
    })
    .await;
    let table = cluster.operator().table(&deployments(), None, &ListOptions::default()).await.unwrap();
    assert_eq!(
        table,
        Table {
            columns: vec!["Namespace".into(), "Name".into(), "Created".into()],
            rows: vec![vec!["b".into(), "a".into(), "t".into()]]
        }
    );
}

#[tokio::test]
async fn writes_name_their_manager_and_their_preconditions() {
    let (cluster, log) = api(|_: &Seen| (200, json!({ "kind": "Deployment" }))).await;
    let access = cluster.service_account("staging", "deployer").unwrap();
    let options =
        WriteOptions { dry_run: true, uid: Some("u".into()), resource_version: Some("7".into()), absent: false };
    let manifest = json!({ "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": "checkout", "namespace": "staging", "managedFields": [] }, "spec": {} });
    let pod =
        ObjectRef { api_version: "v1".into(), kind: "Pod".into(), namespace: Some("staging".into()), name: "p".into() };
    let mut delete = Operation::delete(checkout());
    delete.delete = Some(Delete { target: checkout(), propagation_policy: Some(PropagationPolicy::Orphan) });
    for operation in [
        Operation::apply(manifest),
        Operation::patch(checkout(), Some("scale"), PatchType::Merge, json!({ "spec": { "replicas": 5 } })),
        Operation::json_patch(checkout(), json!([{ "op": "replace", "path": "/spec/replicas", "value": 5 }])),
        delete,
        Operation { evict: Some(Evict { target: pod }), ..Operation::default() },
    ] {
        access.perform(&catalog(), &operation, &options).await.unwrap();
    }
    let shown: Vec<String> = log
        .lock()
        .unwrap()
        .iter()
        .map(|s| format!("{} {}?{}\n  {}: {}", s.method, s.path, s.query, s.content_type, s.body))
        .collect();
    insta::assert_snapshot!(shown.join("\n"), @r#"
    PATCH /apis/apps/v1/namespaces/staging/deployments/checkout?force=true&fieldManager=countersign&fieldValidation=Strict&dryRun=All
      application/apply-patch+yaml: {"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"checkout","namespace":"staging","resourceVersion":"7","uid":"u"},"spec":{}}
    PATCH /apis/apps/v1/namespaces/staging/deployments/checkout/scale?fieldManager=countersign&fieldValidation=Strict&dryRun=All
      application/merge-patch+json: {"metadata":{"resourceVersion":"7","uid":"u"},"spec":{"replicas":5}}
    PATCH /apis/apps/v1/namespaces/staging/deployments/checkout?fieldManager=countersign&fieldValidation=Strict&dryRun=All
      application/json-patch+json: [{"op":"test","path":"/metadata/uid","value":"u"},{"op":"test","path":"/metadata/resourceVersion","value":"7"},{"op":"replace","path":"/spec/replicas","value":5}]
    DELETE /apis/apps/v1/namespaces/staging/deployments/checkout?dryRun=All
      application/json: {"apiVersion":"v1","dryRun":["All"],"kind":"DeleteOptions","preconditions":{"resourceVersion":"7","uid":"u"},"propagationPolicy":"Orphan"}
    POST /api/v1/namespaces/staging/pods/p/eviction?dryRun=All
      application/json: {"apiVersion":"policy/v1","deleteOptions":{"preconditions":{"resourceVersion":"7","uid":"u"}},"kind":"Eviction","metadata":{"name":"p","namespace":"staging"}}
    "#);
}

#[tokio::test]
async fn an_apply_that_is_to_create_names_a_version_that_no_object_has() {
    let (cluster, log) = api(|_: &Seen| (200, json!({ "kind": "Deployment" }))).await;
    let access = cluster.service_account("staging", "deployer").unwrap();
    let options = WriteOptions { absent: true, ..WriteOptions::default() };
    let manifest = json!({ "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": "checkout", "namespace": "staging" }, "spec": {} });
    access.perform(&catalog(), &Operation::apply(manifest), &options).await.unwrap();
    assert_eq!(log.lock().unwrap()[0].body["metadata"]["resourceVersion"], "1");
    let patch = Operation::merge_patch(checkout(), json!({ "spec": { "replicas": 5 } }));
    assert!(access.perform(&catalog(), &patch, &options).await.is_err());
    assert_eq!(log.lock().unwrap().len(), 1, "what makes no sense is not sent");
}

#[tokio::test]
async fn a_failed_write_says_which_and_as_whom() {
    for (answer, check) in [
        (status(409, "Conflict", "the UID in the precondition (u) does not match"), "Conflict"),
        (status(409, "AlreadyExists", "deployments.apps \"checkout\" already exists"), "AlreadyExists"),
        (
            status(422, "Invalid", "Deployment.apps \"checkout\" is invalid: spec.replicas: Invalid value: -1"),
            "Invalid",
        ),
        (status(404, "NotFound", "namespaces \"staging\" not found"), "NotFound"),
        (status(413, "RequestEntityTooLarge", "limit is 3145728"), "TooLarge"),
        (status(401, "Unauthorized", "Unauthorized"), "Other"),
    ] {
        let words = answer.1["message"].as_str().unwrap().to_owned();
        let (cluster, _) = api(move |_: &Seen| answer.clone()).await;
        let operation = Operation::merge_patch(checkout(), json!({ "spec": { "replicas": -1 } }));
        let error = cluster.operator().perform(&catalog(), &operation, &WriteOptions::default()).await.unwrap_err();
        assert!(format!("{error:?}").starts_with(check), "{error:?}");
        assert_eq!(error.server_message(), words);
        assert!(error.to_string().contains("patch Deployment staging/checkout as the operator"), "{error}");
    }
}

#[tokio::test]
async fn what_does_not_write_or_is_unknown_is_refused_before_anything_is_sent() {
    let (cluster, log) = api(|_: &Seen| (200, json!({}))).await;
    let perform = async |operation: Operation| {
        cluster.operator().perform(&catalog(), &operation, &WriteOptions::default()).await.unwrap_err()
    };
    let query = Query {
        query_type: QueryKind::List,
        api_version: None,
        kind: None,
        namespace: None,
        name: None,
        label_selector: None,
        field_selector: None,
        expression: None,
    };
    assert!(matches!(perform(Operation::query(query)).await, ClusterError::Invalid { .. }));
    assert!(matches!(
        perform(Operation::wait(checkout(), crate::api::WaitUntil::Ready)).await,
        ClusterError::Invalid { .. }
    ));
    let unknown = ObjectRef { kind: "Deploymnt".into(), ..checkout() };
    assert_eq!(
        perform(Operation::delete(unknown)).await.to_string(),
        "the cluster has no kind 'Deploymnt.apps'; the nearest are deployments"
    );
    let elsewhere = ObjectRef { name: "../../secrets/x".into(), ..checkout() };
    assert!(matches!(perform(Operation::delete(elsewhere)).await, ClusterError::Invalid { .. }));
    let nowhere = ObjectRef { namespace: None, ..checkout() };
    assert!(matches!(perform(Operation::delete(nowhere)).await, ClusterError::Invalid { .. }));
    assert!(log.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_json_patch_that_does_not_fit_says_where() {
    let (cluster, _) = api(|seen: &Seen| {
        if seen.method == "GET" {
            return (200, json!({ "metadata": { "uid": "other" }, "spec": { "replicas": 5 } }));
        }
        status(422, "Invalid", "the server rejected our request due to an error in our request")
    })
    .await;
    let perform = async |body: Value, uid: Option<&str>| {
        let options = WriteOptions { uid: uid.map(str::to_owned), ..WriteOptions::default() };
        cluster.operator().perform(&catalog(), &Operation::json_patch(checkout(), body), &options).await.unwrap_err()
    };
    let error = perform(json!([{ "op": "test", "path": "/spec/replicas", "value": 3 }]), None).await;
    assert!(error.is_conflict());
    assert_eq!(error.server_message(), "/spec/replicas has another value than the one tested for");
    assert!(perform(json!([]), Some("u")).await.is_conflict());
    let error = perform(json!([{ "op": "remove", "path": "/spec/paused" }]), None).await;
    assert!(matches!(error, ClusterError::Invalid { .. }));
    assert!(error.server_message().contains("/spec/paused"), "{error}");
}

#[tokio::test]
async fn rights_are_asked_for_others() {
    let (cluster, log) = api(|seen: &Seen| {
        let allowed = seen.body.pointer("/spec/user") == Some(&json!("alice"));
        (201, json!({ "status": { "allowed": allowed, "reason": if allowed { "" } else { "no rule" } } }))
    })
    .await;
    let asked =
        Asked { verb: "patch".into(), group: "apps".into(), resource: "deployments".into(), ..Asked::default() };
    let alice = Subject { username: "alice".into(), groups: vec!["dev".into()] };
    assert_eq!(cluster.review(&alice, &asked).await.unwrap(), Review::Allowed);
    let denied = cluster.review(&Subject::service_account("a", "b"), &asked).await.unwrap();
    assert_eq!(denied, Review::Denied { reason: Some("no rule".into()) });
    insta::assert_snapshot!(log.lock().unwrap()[1].body["spec"], @r#"{"groups":["system:serviceaccounts","system:serviceaccounts:a","system:authenticated"],"resourceAttributes":{"group":"apps","resource":"deployments","verb":"patch"},"user":"system:serviceaccount:a:b"}"#);
}

#[tokio::test]
async fn discovery_is_asked_once_for_many() {
    let (cluster, log) = api(|seen: &Seen| {
        let items = if seen.path == "/api" {
            json!([{ "metadata": {}, "versions": [{ "version": "v1", "resources": [
                { "resource": "pods", "responseKind": { "kind": "Pod" }, "scope": "Namespaced", "singularResource": "pod", "shortNames": ["po"] }] }] }])
        } else {
            json!([])
        };
        (200, json!({ "kind": "APIGroupDiscoveryList", "items": items }))
    })
    .await;
    let (a, b, c) = tokio::join!(cluster.catalog(), cluster.catalog(), cluster.refresh_catalog());
    assert_eq!(a.unwrap().find("po")[0].api_version(), "v1");
    assert_eq!((b.unwrap().kinds.len(), c.unwrap().kinds.len()), (1, 1));
    assert_eq!(log.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn watching_begins_with_what_is_and_goes_on_with_what_changes() {
    let (cluster, log) = api(|seen: &Seen| {
        let object = |version: &str| json!({ "metadata": { "name": "checkout", "namespace": "staging", "resourceVersion": version } });
        if !seen.query.contains("watch=true") {
            return Answer::from((200, json!({ "apiVersion": "apps/v1", "kind": "DeploymentList", "metadata": { "resourceVersion": "1" }, "items": [object("1")] })));
        }
        let events = [("MODIFIED", object("2")), ("DELETED", object("3"))];
        let lines: Vec<String> = events.iter().map(|(kind, object)| json!({ "type": kind, "object": object }).to_string() + "\n").collect();
        Answer { code: 200, headers: vec![("content-type", "application/json")], body: lines.concat() }
    })
    .await;
    let stream = cluster.operator().watch(&deployments(), &checkout()).await;
    let states: Vec<Option<Value>> = stream.take(3).map(Result::unwrap).collect().await;
    assert_eq!(states[0].as_ref().unwrap()["metadata"]["resourceVersion"], "1");
    assert_eq!(states[0].as_ref().unwrap()["kind"], "Deployment");
    assert_eq!(states[1].as_ref().unwrap()["metadata"]["resourceVersion"], "2");
    assert_eq!(states[2], None);
    assert!(log.lock().unwrap()[0].query.contains("fieldSelector=metadata.name%3Dcheckout"));
}

#[tokio::test]
async fn watching_tells_absence_and_refusal() {
    let (cluster, _) = api(|seen: &Seen| {
        if seen.path.contains("/staging/") {
            (200, json!({ "metadata": { "resourceVersion": "1" }, "items": [] }))
        } else {
            status(403, "Forbidden", "deployments.apps is forbidden: User \"x\" cannot list resource \"deployments\"")
        }
    })
    .await;
    let operator = cluster.operator();
    assert_eq!(operator.watch(&deployments(), &checkout()).await.next().await.unwrap().unwrap(), None);
    let other = deployments().object(Some("other"), "checkout");
    assert!(operator.watch(&deployments(), &other).await.next().await.unwrap().unwrap_err().is_forbidden());
    let impossible = deployments().object(Some("other"), "a/b");
    assert!(operator.watch(&deployments(), &impossible).await.next().await.unwrap().is_err());
}

#[tokio::test]
async fn events_are_in_order_and_of_one_object() {
    let (cluster, log) = api(|_: &Seen| {
        (
            200,
            json!({ "metadata": {}, "items": [
            { "reason": "New", "message": "b", "type": "Warning", "lastTimestamp": "2026-01-02T00:00:00Z", "count": 3 },
            { "reason": "Old", "message": "a", "eventTime": "2026-01-01T00:00:00.000001Z", "lastTimestamp": null }] }),
        )
    })
    .await;
    let lines = cluster.operator().events_of(&checkout(), Some("u")).await.unwrap();
    assert_eq!(
        lines.iter().map(|line| (line.reason.as_str(), line.kind.as_str(), line.count)).collect::<Vec<_>>(),
        [("Old", "Normal", 1), ("New", "Warning", 3)]
    );
    let log = log.lock().unwrap();
    assert_eq!(log[0].path, "/api/v1/namespaces/staging/events");
    assert!(log[0].query.starts_with(
        "fieldSelector=involvedObject.kind%3DDeployment%2CinvolvedObject.name%3Dcheckout%2CinvolvedObject.uid%3Du"
    ));
}

#[tokio::test]
async fn a_failing_release_is_told_by_its_newest_pods() {
    let (cluster, log) = api(|seen: &Seen| {
        let owned = |uid: &str| json!([{ "uid": uid }]);
        let set = |uid: &str, revision: &str, hash: &str| json!({ "metadata": { "uid": uid, "ownerReferences": owned("d"),
            "annotations": { "deployment.kubernetes.io/revision": revision }, "labels": { "pod-template-hash": hash } } });
        let list = |items: Value| (200, json!({ "metadata": {}, "items": items }));
        let pod = json!({ "metadata": { "name": "checkout-new-1", "namespace": "staging", "ownerReferences": owned("new") },
            "status": { "phase": "Running", "containerStatuses": [{ "name": "web", "restartCount": 3,
                "state": { "waiting": { "reason": "CrashLoopBackOff", "message": "back-off 10s" } },
                "lastState": { "terminated": { "exitCode": 1, "reason": "Error" } } }] } });
        Answer::from(match seen.path.rsplit('/').next().unwrap() {
            "replicasets" => list(json!([set("new", "10", "n"), set("old", "9", "o")])),
            "pods" => list(json!([pod])),
            "log" => return Answer { code: 200, headers: vec![], body: "starting\ncannot reach postgres://app:hunter2@db\n".into() },
            other => panic!("{other}"),
        })
    })
    .await;
    let mut catalog = catalog();
    catalog.kinds.push(ResourceKind { kind: "ReplicaSet".into(), plural: "replicasets".into(), ..deployments() });
    let mut workload = json!({ "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": "checkout", "namespace": "staging", "uid": "d", "generation": 2 },
        "spec": { "selector": { "matchLabels": { "app": "checkout" } } }, "status": { "observedGeneration": 2 } });
    let failure = workload_failure(&cluster.operator(), &catalog, &workload).await.unwrap().unwrap();
    assert!(failure.terminal);
    insta::assert_snapshot!(failure.message, @r"
    Pod staging/checkout-new-1, container web: CrashLoopBackOff: back-off 10s; exit code 1; its last words:
      starting
      cannot reach postgres://app:‹redacted›@db
    ");
    let log = log.lock().unwrap().clone();
    assert!(log[1].query.contains("pod-template-hash%3Dn"), "{}", log[1].query);
    assert!(log[2].query.contains("container=web&previous=true"), "{}", log[2].query);
    workload["status"]["observedGeneration"] = json!(1);
    assert_eq!(workload_failure(&cluster.operator(), &catalog, &workload).await.unwrap(), None);
}

/// What the catalog says of delegation when the list of APIServices is answered like this.
async fn delegation_when(code: u16, services: Value) -> Result<Delegation, ClusterError> {
    let (cluster, _) = api(move |seen: &Seen| match seen.path.as_str() {
        "/apis/apiregistration.k8s.io/v1/apiservices" if code == 200 => (200, json!({ "items": services })),
        "/apis/apiregistration.k8s.io/v1/apiservices" => {
            status(code, "", "User \"x\" cannot list resource apiservices")
        }
        "/api" => (
            200,
            json!({ "items": [{ "metadata": {}, "versions": [{ "version": "v1", "resources": [
            { "resource": "pods", "responseKind": { "kind": "Pod" }, "scope": "Namespaced" }] }] }] }),
        ),
        _ => (200, json!({ "items": [] })),
    })
    .await;
    cluster.catalog().await.map(|catalog| catalog.delegation.clone())
}

#[tokio::test]
async fn who_answers_a_group_is_known_or_known_to_be_unknown() {
    let service = json!([{ "spec": { "group": "metrics.k8s.io", "service": { "namespace": "a", "name": "b" } } }]);
    let Delegation::Known(groups) = delegation_when(200, service).await.unwrap() else { panic!("it can be read") };
    assert_eq!(groups["metrics.k8s.io"], "a/b");
    assert!(matches!(delegation_when(403, Value::Null).await, Ok(Delegation::Unknown(_))));
    assert_eq!(delegation_when(404, Value::Null).await.unwrap(), Delegation::default());
    assert!(delegation_when(503, Value::Null).await.unwrap_err().is_transient());
}

#[tokio::test]
async fn an_identity_asks_for_its_own_rights() {
    let (cluster, log) = api(|_: &Seen| (201, json!({ "status": { "allowed": true } }))).await;
    let asked = Asked { verb: "delete".into(), resource: "pods".into(), ..Asked::default() };
    assert!(cluster.service_account("staging", "deployer").unwrap().may(&asked).await.unwrap());
    let seen = log.lock().unwrap()[0].clone();
    assert_eq!(seen.impersonated, "system:serviceaccount:staging:deployer");
    assert_eq!(seen.path, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews");
    assert_eq!(seen.body["spec"]["resourceAttributes"]["verb"], "delete");
}
