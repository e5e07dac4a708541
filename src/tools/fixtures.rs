//! Objects and kinds for the tests of tools.

use super::{Found, FoundObject, ProposedStep, Tool, ToolError, subject};
use crate::api::ObjectRef;
use crate::cluster::{Catalog, ResourceKind};
use serde_json::{Map, Value, json};

pub(super) fn kind(group: &str, kind: &str, plural: &str) -> ResourceKind {
    let scale = matches!(kind, "Deployment" | "StatefulSet" | "ReplicaSet");
    ResourceKind {
        group: group.into(),
        version: "v1".into(),
        kind: kind.into(),
        plural: plural.into(),
        singular: kind.to_lowercase(),
        short_names: Vec::new(),
        namespaced: !matches!(kind, "Node" | "Namespace"),
        verbs: ["get", "list", "patch", "delete"].map(str::to_owned).to_vec(),
        subresources: if scale { vec!["scale".into(), "status".into()] } else { vec!["status".into()] },
    }
}

pub(super) fn catalog() -> Catalog {
    Catalog {
        kinds: vec![
            kind("", "Node", "nodes"),
            kind("", "Namespace", "namespaces"),
            kind("", "Pod", "pods"),
            kind("", "Service", "services"),
            kind("", "ConfigMap", "configmaps"),
            kind("", "PersistentVolumeClaim", "persistentvolumeclaims"),
            kind("apps", "Deployment", "deployments"),
            kind("apps", "StatefulSet", "statefulsets"),
            kind("apps", "DaemonSet", "daemonsets"),
            kind("apps", "ReplicaSet", "replicasets"),
            kind("batch", "Job", "jobs"),
            kind("batch", "CronJob", "cronjobs"),
            kind("example.dev", "Gadget", "gadgets"),
        ],
        ..Catalog::default()
    }
}

/// A Deployment with 3 replicas of one container `web` that listens on 8080.
pub(super) fn deployment(namespace: &str, name: &str, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "name": name, "namespace": namespace, "uid": format!("uid-{name}"), "generation": 7 },
        "spec": {
            "replicas": 3,
            "selector": { "matchLabels": { "app": name } },
            "template": {
                "metadata": { "labels": { "app": name, "version": "1" } },
                "spec": { "containers": [{ "name": "web", "image": image, "ports": [{ "containerPort": 8080 }] }] }
            }
        }
    })
}

/// The same as another kind.
pub(super) fn as_kind(mut object: Value, api_version: &str, kind: &str) -> Value {
    object["apiVersion"] = json!(api_version);
    object["kind"] = json!(kind);
    object
}

/// An answer with `objects` for the target.
pub(super) fn found(objects: &[Value]) -> Found {
    with(Found::default(), subject::ROLE, objects)
}

/// `found` with `objects` for `role` too.
pub(super) fn with(mut found: Found, role: &'static str, objects: &[Value]) -> Found {
    let objects = objects.iter().map(|object| {
        let reference = ObjectRef::of(object).unwrap();
        let kind = catalog().of(&reference).unwrap().clone();
        FoundObject { reference, kind, object: object.clone(), planned: false }
    });
    found.objects.insert(role, objects.collect());
    found
}

/// An empty answer in which `role` is in `namespace`.
pub(super) fn in_namespace(role: &'static str, namespace: &str) -> Found {
    let mut found = Found::default();
    found.namespaces.insert(role, vec![namespace.to_owned()]);
    found
}

pub(super) fn map(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => panic!("no object: {other}"),
    }
}

pub(super) fn compile(tool: &dyn Tool, parameters: Value, found: &Found) -> Result<Vec<ProposedStep>, ToolError> {
    tool.compile(&map(parameters), found)
}

/// The only step.
pub(super) fn step(tool: &dyn Tool, parameters: Value, found: &Found) -> ProposedStep {
    let mut steps = compile(tool, parameters, found).unwrap();
    assert_eq!(steps.len(), 1, "{steps:#?}");
    steps.remove(0)
}

/// The error in words.
pub(super) fn error(tool: &dyn Tool, parameters: Value, found: &Found) -> String {
    compile(tool, parameters, found).unwrap_err().to_string()
}

/// The object after the step's patch.
pub(super) fn patched(object: &Value, step: &ProposedStep) -> Value {
    let patch = step.operation.patch.as_ref().unwrap();
    let mut object = object.clone();
    match patch.patch_type {
        crate::api::PatchType::Merge => json_patch::merge(&mut object, &patch.body),
        crate::api::PatchType::Json => {
            let operations: json_patch::Patch = serde_json::from_value(patch.body.clone()).unwrap();
            json_patch::patch(&mut object, &operations).unwrap();
        }
    }
    object
}
