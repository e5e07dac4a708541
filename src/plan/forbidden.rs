//! What no plan does, whoever asks, whoever approves, and whatever their rights: because it could not be tried, shown or put
//! back, or because it would let a plan decide about plans.

use crate::api::{GROUP, ObjectRef, Operation, OperationKind, Patch, PatchType};
use serde_json::Value;

/// Subresources that are a part of what an object should be like. Behind others, a request connects to a workload
/// (`exec`), hands out a credential (`token`, `approval`), cannot be undone (`ephemeralcontainers`), or sets what a
/// controller reports (`status`), which no diff shows.
const SUBRESOURCES: [&str; 2] = ["scale", "resize"];
/// Kinds of our own that decide what is carried out.
const OWN_KINDS: [&str; 3] = ["AgentCommand", "ExecutionPlan", "PlanApproval"];
/// Annotations that diffs leave out, because clients and controllers keep them for themselves.
const BOOKKEEPING: [&str; 2] =
    ["kubectl.kubernetes.io/last-applied-configuration", "deployment.kubernetes.io/revision"];
/// Types of Secrets that controllers fill with, or take for, credentials of somebody.
const TOKEN_TYPES: [&str; 2] = ["kubernetes.io/service-account-token", "bootstrap.kubernetes.io/token"];
const TOKEN_ANNOTATION: &str = "kubernetes.io/service-account.name";

/// Why no plan may do this, as a clause that says what to do instead; `None` when it may be tried.
pub(super) fn forbidden(operation: &Operation) -> Option<String> {
    if let Some(apply) = &operation.apply
        && let Some(reason) = no_object(&apply.manifest)
    {
        return Some(reason);
    }
    let target = operation.target().ok().flatten()?;
    if !operation.kind().is_ok_and(OperationKind::mutates) {
        return None;
    }
    if let Some(reason) = own_kind(&target) {
        return Some(reason);
    }
    if operation.evict.is_some() && !(target.group().is_empty() && target.kind == "Pod") {
        return Some(format!("only pods are evicted, and this is a {}: delete it", target.kind));
    }
    if let Some(patch) = &operation.patch {
        if let Some(name) = patch.subresource.as_deref().filter(|name| !SUBRESOURCES.contains(name)) {
            let known = SUBRESOURCES.join(" and ");
            return Some(format!(
                "subresource '{name}' cannot be tried, shown and put back: of subresources, only {known} are patched"
            ));
        }
        if let Some(reason) = beyond_bounds(patch) {
            return Some(reason);
        }
        let hidden = hidden_by_patch(patch);
        if let Some(field) = hidden {
            return Some(unseen(&field));
        }
    }
    if let Some(apply) = &operation.apply
        && let Some(field) = hidden_in(&apply.manifest)
    {
        return Some(unseen(field));
    }
    (target.group().is_empty() && target.kind == "Secret").then(|| token(operation)).flatten()
}

/// The most operations of a JSON patch: the API server takes no more (`maxJSONPatchOperations`).
const MAX_OPERATIONS: usize = 10_000;

/// What makes a patch larger or less clear than what it says. What `copy` and `move` write depends on the object that they
/// meet, and a few doublings of a value fill any memory.
fn beyond_bounds(patch: &Patch) -> Option<String> {
    let operations = patch.body.as_array().filter(|_| patch.patch_type == PatchType::Json)?;
    if operations.len() > MAX_OPERATIONS {
        return Some(format!("its patch has {} operations, at most {MAX_OPERATIONS} are allowed", operations.len()));
    }
    let is_known =
        |op: &&Value| matches!(op.get("op").and_then(Value::as_str), Some("add" | "remove" | "replace" | "test"));
    let unknown = operations.iter().find(|op| !is_known(op))?;
    let op = unknown.get("op").and_then(Value::as_str).unwrap_or("nothing");
    Some(format!(
        "its patch does '{op}'; a plan says what it writes, so only add, remove, replace and test are allowed"
    ))
}

/// A manifest that stands for no single object with a name.
fn no_object(manifest: &Value) -> Option<String> {
    let kind = manifest.get("kind").and_then(Value::as_str).unwrap_or_default();
    if let Some(items) = manifest.get("items").and_then(Value::as_array).filter(|_| kind.ends_with("List")) {
        return Some(format!("a step applies one object, and this is a list of {}: make a step of each", items.len()));
    }
    let named = manifest.pointer("/metadata/name").is_some();
    (!named && manifest.pointer("/metadata/generateName").is_some()).then(|| {
        "the manifest has generateName, so that nobody could tell which object is meant: give it a name".to_owned()
    })
}

fn own_kind(target: &ObjectRef) -> Option<String> {
    if target.group() == GROUP && OWN_KINDS.contains(&target.kind.as_str()) {
        return Some(format!(
            "a plan does not write requests, plans or approvals, and this is {target}: do it yourself"
        ));
    }
    let defines = target.group() == "apiextensions.k8s.io" && target.name.ends_with(&format!(".{GROUP}"));
    defines.then(|| {
        format!("{target} is part of countersign itself and comes with its installation: change it by upgrading that")
    })
}

fn unseen(field: &str) -> String {
    format!("it writes {field}, which no diff shows: leave that out")
}

/// What a manifest or a merge patch writes without any diff showing it.
fn hidden_in(body: &Value) -> Option<&'static str> {
    if body.get("status").is_some() {
        return Some("status");
    }
    let metadata = body.get("metadata")?;
    if metadata.get("managedFields").is_some_and(|fields| !fields.is_null()) {
        return Some("metadata.managedFields");
    }
    let annotations = metadata.get("annotations")?;
    BOOKKEEPING.into_iter().find(|name| annotations.get(name).is_some())
}

fn hidden_by_patch(patch: &Patch) -> Option<String> {
    if patch.patch_type == PatchType::Merge {
        return hidden_in(&patch.body).map(str::to_owned);
    }
    let operations = patch.body.as_array()?;
    let writes = operations.iter().filter(|op| op.get("op").and_then(Value::as_str) != Some("test"));
    writes.filter_map(hidden_by_operation).next()
}

/// What one operation of a JSON patch writes without any diff showing it.
fn hidden_by_operation(operation: &Value) -> Option<String> {
    let text = |key: &str| operation.get(key).and_then(Value::as_str);
    let path = text("path").unwrap_or_default();
    let moved = text("from").filter(|_| text("op") == Some("move"));
    for path in [Some(path), moved].into_iter().flatten() {
        let names: Vec<String> =
            path.split('/').skip(1).map(|name| name.replace("~1", "/").replace("~0", "~")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        match names.as_slice() {
            [] | [""] => return Some("the whole object".to_owned()),
            ["metadata"] => return Some("all of metadata".to_owned()),
            ["status", ..] => return Some("status".to_owned()),
            ["metadata", "managedFields", ..] => return Some("metadata.managedFields".to_owned()),
            ["metadata", "annotations", name, ..] if BOOKKEEPING.contains(name) => return Some((*name).to_owned()),
            ["metadata", "annotations"] => {
                let value = operation.get("value").unwrap_or(&Value::Null);
                if let Some(name) = BOOKKEEPING.into_iter().find(|name| value.get(name).is_some()) {
                    return Some(name.to_owned());
                }
            }
            _ => {}
        }
    }
    None
}

/// A Secret that a controller would fill with a credential, or take for one.
fn token(operation: &Operation) -> Option<String> {
    let mints = |body: &Value| {
        let kind = body.get("type").and_then(Value::as_str).is_some_and(|kind| TOKEN_TYPES.contains(&kind));
        kind || body
            .pointer("/metadata/annotations")
            .is_some_and(|annotations| annotations.get(TOKEN_ANNOTATION).is_some())
    };
    let patched = |patch: &Patch| match &patch.body {
        Value::Array(operations) => operations.iter().any(|operation| {
            let text = |key: &str| operation.get(key).and_then(Value::as_str).unwrap_or_default();
            let escaped = TOKEN_ANNOTATION.replace('/', "~1");
            text("path").ends_with(&escaped)
                || (text("path") == "/type" && TOKEN_TYPES.contains(&text("value")))
                || operation.get("value").is_some_and(|value| value.get(TOKEN_ANNOTATION).is_some())
        }),
        body => mints(body),
    };
    let mints = operation.apply.as_ref().is_some_and(|apply| mints(&apply.manifest))
        || operation.patch.as_ref().is_some_and(patched);
    mints.then(|| {
        "it would make a credential of somebody, which nothing takes back: let the workload that needs it run as that account"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(api_version: &str, kind: &str, name: &str) -> ObjectRef {
        ObjectRef {
            api_version: api_version.into(),
            kind: kind.into(),
            namespace: Some("shop".into()),
            name: name.into(),
        }
    }

    fn deployment() -> ObjectRef {
        object("apps/v1", "Deployment", "checkout")
    }

    #[expect(clippy::needless_pass_by_value, reason = "rows of a table read better without references")]
    fn json_patch(target: ObjectRef, operation: Value) -> Operation {
        Operation::json_patch(target, json!([operation]))
    }

    fn on_subresource(target: ObjectRef, name: &str) -> Operation {
        Operation::patch(target, Some(name), PatchType::Merge, json!({ "spec": {} }))
    }

    #[expect(clippy::needless_pass_by_value, reason = "rows of a table read better without references")]
    fn manifest(api_version: &str, kind: &str, more: Value) -> Operation {
        let mut manifest =
            json!({ "apiVersion": api_version, "kind": kind, "metadata": { "name": "x", "namespace": "shop" } });
        json_patch::merge(&mut manifest, &more);
        Operation::apply(manifest)
    }

    #[test]
    fn what_no_plan_does() {
        let pod = || object("v1", "Pod", "web");
        let secret = || object("v1", "Secret", "s");
        let last_applied = "kubectl.kubernetes.io/last-applied-configuration";
        let own = "countersign.dev/v1alpha1";
        for (operation, words) in [
            // Not an object.
            (Operation::apply(json!({ "apiVersion": "v1", "kind": "List", "items": [{}, {}] })), "a list of 2"),
            (
                Operation::apply(json!({ "apiVersion": "apps/v1", "kind": "DeploymentList", "items": [] })),
                "a list of 0",
            ),
            (
                Operation::apply(json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "generateName": "a-" } })),
                "generateName",
            ),
            // Connections, credentials, reports.
            (on_subresource(pod(), "exec"), "'exec'"),
            (on_subresource(pod(), "attach"), "'attach'"),
            (on_subresource(pod(), "portforward"), "'portforward'"),
            (on_subresource(pod(), "ephemeralcontainers"), "'ephemeralcontainers'"),
            (on_subresource(object("v1", "Service", "web"), "proxy"), "'proxy'"),
            (on_subresource(object("v1", "ServiceAccount", "admin"), "token"), "'token'"),
            (
                on_subresource(object("certificates.k8s.io/v1", "CertificateSigningRequest", "x"), "approval"),
                "'approval'",
            ),
            (on_subresource(deployment(), "status"), "'status'"),
            (on_subresource(object("v1", "Namespace", "x"), "finalize"), "'finalize'"),
            // Plans about plans.
            (manifest(own, "PlanApproval", json!({ "spec": { "decision": "Approve" } })), "approvals"),
            (manifest("countersign.dev/v9", "PlanApproval", json!({})), "approvals"),
            (Operation::delete(object(own, "PlanApproval", "x")), "approvals"),
            (
                Operation::merge_patch(
                    object(own, "ExecutionPlan", "x"),
                    json!({ "metadata": { "annotations": { "countersign.dev/request": "cancel" } } }),
                ),
                "plans",
            ),
            (manifest(own, "AgentCommand", json!({ "spec": { "request": "scale" } })), "requests"),
            (
                Operation::delete(object(
                    "apiextensions.k8s.io/v1",
                    "CustomResourceDefinition",
                    "planapprovals.countersign.dev",
                )),
                "countersign itself",
            ),
            // What no diff shows.
            (manifest("apps/v1", "Deployment", json!({ "status": { "replicas": 3 } })), "writes status"),
            (
                manifest("v1", "ConfigMap", json!({ "metadata": { "annotations": { last_applied: "{}" } } })),
                last_applied,
            ),
            (Operation::merge_patch(deployment(), json!({ "status": null })), "writes status"),
            (Operation::merge_patch(deployment(), json!({ "metadata": { "managedFields": [{}] } })), "managedFields"),
            (
                Operation::merge_patch(
                    deployment(),
                    json!({ "metadata": { "annotations": { "deployment.kubernetes.io/revision": "1" } } }),
                ),
                "revision",
            ),
            (json_patch(deployment(), json!({ "op": "add", "path": "/status/replicas", "value": 1 })), "writes status"),
            (
                json_patch(deployment(), json!({ "op": "move", "from": "/status/conditions", "path": "/spec/x" })),
                "does 'move'",
            ),
            (
                json_patch(
                    deployment(),
                    json!({ "op": "remove", "path": "/metadata/annotations/kubectl.kubernetes.io~1last-applied-configuration" }),
                ),
                last_applied,
            ),
            (
                json_patch(
                    deployment(),
                    json!({ "op": "add", "path": "/metadata/annotations", "value": { last_applied: "{}" } }),
                ),
                last_applied,
            ),
            (json_patch(deployment(), json!({ "op": "replace", "path": "", "value": {} })), "whole object"),
            (json_patch(deployment(), json!({ "op": "replace", "path": "/metadata", "value": {} })), "all of metadata"),
            // Credentials of somebody.
            (manifest("v1", "Secret", json!({ "type": "kubernetes.io/service-account-token" })), "credential"),
            (
                manifest("v1", "Secret", json!({ "metadata": { "annotations": { TOKEN_ANNOTATION: "admin" } } })),
                "credential",
            ),
            (manifest("v1", "Secret", json!({ "type": "bootstrap.kubernetes.io/token" })), "credential"),
            (
                Operation::merge_patch(
                    secret(),
                    json!({ "metadata": { "annotations": { TOKEN_ANNOTATION: "admin" } } }),
                ),
                "credential",
            ),
            (
                json_patch(
                    secret(),
                    json!({ "op": "add", "path": "/metadata/annotations/kubernetes.io~1service-account.name", "value": "admin" }),
                ),
                "credential",
            ),
            // Evictions.
            (
                Operation { evict: Some(crate::api::Evict { target: deployment() }), ..Operation::default() },
                "only pods",
            ),
        ] {
            let reason = forbidden(&operation);
            assert!(reason.as_ref().is_some_and(|reason| reason.contains(words)), "{words}: {reason:?}");
        }
    }

    #[test]
    fn everything_else_may_be_tried() {
        let own = "countersign.dev/v1alpha1";
        for operation in [
            on_subresource(deployment(), "scale"),
            on_subresource(object("v1", "Pod", "web"), "resize"),
            Operation::merge_patch(
                deployment(),
                json!({ "spec": { "template": { "metadata": { "annotations": { "a": "b" } } } } }),
            ),
            json_patch(deployment(), json!({ "op": "test", "path": "/status/replicas", "value": 1 })),
            json_patch(deployment(), json!({ "op": "add", "path": "/metadata/annotations/a", "value": "b" })),
            manifest("v1", "Secret", json!({ "type": "Opaque" })),
            manifest(own, "PlanPolicy", json!({ "spec": {} })),
            Operation::wait(object(own, "ExecutionPlan", "x"), crate::api::WaitUntil::Ready),
            Operation::delete(object("v1", "Pod", "web")),
            Operation { evict: Some(crate::api::Evict { target: object("v1", "Pod", "web") }), ..Operation::default() },
        ] {
            assert_eq!(forbidden(&operation), None, "{operation:?}");
        }
    }
}
