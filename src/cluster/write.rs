use super::access::{invalid, object_path, told_zero};
use super::error::Attempt;
use super::request::{JSON, Request};
use super::{Access, Catalog, ClusterError, ResourceKind};
use crate::api::{
    Apply, Delete, Evict, FIELD_MANAGER, ObjectRef, Operation, OperationKind, Patch, PatchType, PropagationPolicy,
};
use http::Method;
use json_patch::{PatchErrorKind, PatchOperation};
use serde_json::{Value, json};

/// How a write is made, and on what condition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// Ask for everything, admission included, but store nothing.
    pub dry_run: bool,
    /// The object must have this uid.
    pub uid: Option<String>,
    /// The object must have this resource version.
    pub resource_version: Option<String>,
    /// There must be no such object yet; only an apply can ask for that.
    pub absent: bool,
}

/// A resource version that no object has: etcd counts from 1, and the first write makes it 2. An apply that names it creates
/// an object and never changes one: where there is none, the server compares nothing; where there is one, the versions differ.
/// Unlike a creation by POST it leaves the fields with the manager as applied ones, so that a later apply can drop some.
const NO_RESOURCE_VERSION: &str = "1";

impl Access {
    /// Carries out one of the four operations that write, and gives the object as it is then; a deletion gives the
    /// last state of the object or the server's `Status`.
    ///
    /// # Errors
    /// [`ClusterError`]; [`ClusterError::Conflict`] when the object is not the one of [`WriteOptions`] or when a `test`
    /// of a JSON patch fails; [`ClusterError::Invalid`] for an operation that does not write.
    pub async fn perform(
        &self,
        catalog: &Catalog,
        operation: &Operation,
        options: &WriteOptions,
    ) -> Result<Value, ClusterError> {
        let refused = |message: String| invalid(&self.attempt("carry out a step".to_owned()), message);
        let operation_kind = operation.kind().map_err(|error| refused(error.to_string()))?;
        let target = operation.target().map_err(|error| refused(error.to_string()))?;
        let target = target
            .filter(|_| operation_kind.mutates())
            .ok_or_else(|| refused(format!("a {operation_kind} does not write to the cluster")))?;
        if options.absent && operation.apply.is_none() {
            return Err(refused(format!("a {operation_kind} cannot ask for an object that does not exist")));
        }
        let kind = catalog.of(&target).ok_or_else(|| unknown_kind(catalog, &target))?;
        let dry = if options.dry_run { " (dry run)" } else { "" };
        let attempt = self.attempt(format!("{operation_kind} {target}{dry}"));
        match (operation_kind, &operation.apply, &operation.patch, &operation.delete, &operation.evict) {
            (OperationKind::Apply, Some(apply), ..) => self.apply(&attempt, kind, &target, apply, options).await,
            (OperationKind::Patch, _, Some(patch), ..) => self.patch(&attempt, kind, patch, options).await,
            (OperationKind::Delete, _, _, Some(delete), _) => self.delete(&attempt, kind, delete, options).await,
            (OperationKind::Evict, .., Some(evict)) => self.evict(&attempt, kind, evict, options).await,
            _ => Err(refused(format!("a {operation_kind} does not write to the cluster"))),
        }
    }

    async fn apply(
        &self,
        attempt: &Attempt,
        kind: &ResourceKind,
        target: &ObjectRef,
        apply: &Apply,
        options: &WriteOptions,
    ) -> Result<Value, ClusterError> {
        let mut manifest = apply.manifest.clone();
        if let Some(metadata) = manifest.get_mut("metadata").and_then(Value::as_object_mut) {
            // The server takes no manifest that says who manages which field: that is its own business.
            metadata.remove("managedFields");
            set_preconditions(metadata, options);
            if options.absent {
                metadata.insert("resourceVersion".to_owned(), Value::from(NO_RESOURCE_VERSION));
            }
        }
        let path = object_path(kind, target, None, attempt)?;
        let mut request = Request::with_body(Method::PATCH, path, "application/apply-patch+yaml", manifest);
        request.query.push(("force", "true".to_owned()));
        self.send_json(attempt, written(request, options)).await
    }

    async fn patch(
        &self,
        attempt: &Attempt,
        kind: &ResourceKind,
        patch: &Patch,
        options: &WriteOptions,
    ) -> Result<Value, ClusterError> {
        let subresource = patch.subresource.as_deref();
        let path = object_path(kind, &patch.target, subresource, attempt)?;
        let mut body = patch.body.clone();
        let content_type = match (patch.patch_type, &mut body) {
            (PatchType::Json, Value::Array(operations)) => {
                let tests = [("/metadata/uid", &options.uid), ("/metadata/resourceVersion", &options.resource_version)];
                let tests = tests
                    .into_iter()
                    .filter_map(|(path, value)| Some(json!({ "op": "test", "path": path, "value": value.as_ref()? })));
                operations.splice(0..0, tests);
                "application/json-patch+json"
            }
            (PatchType::Merge, Value::Object(fields)) => {
                if options.uid.is_some() || options.resource_version.is_some() {
                    let metadata = fields.entry("metadata").or_insert_with(|| json!({}));
                    let metadata = metadata
                        .as_object_mut()
                        .ok_or_else(|| invalid(attempt, "metadata of a merge patch must be an object".to_owned()))?;
                    set_preconditions(metadata, options);
                }
                "application/merge-patch+json"
            }
            (PatchType::Json, _) => {
                return Err(invalid(attempt, "a JSON patch must be a list of operations".to_owned()));
            }
            (PatchType::Merge, _) => return Err(invalid(attempt, "a merge patch must be an object".to_owned())),
        };
        let request = Request::with_body(Method::PATCH, path, content_type, body.clone());
        match self.send_json(attempt, written(request, options)).await {
            Err(ClusterError::Invalid { message, .. }) if patch.patch_type == PatchType::Json => {
                Err(self.why_invalid(attempt, kind, patch, body, message).await)
            }
            outcome => outcome.map(|object| told_zero(subresource, object)),
        }
    }

    /// A JSON patch that does not fit is refused without a word on which operation failed: the same patch is tried here
    /// on what is there now.
    async fn why_invalid(
        &self,
        attempt: &Attempt,
        kind: &ResourceKind,
        patch: &Patch,
        body: Value,
        message: String,
    ) -> ClusterError {
        let live = self.get_subresource(kind, &patch.target, patch.subresource.as_deref()).await;
        if let (Ok(Some(mut live)), Ok(operations)) = (live, serde_json::from_value::<json_patch::Patch>(body)) {
            for operation in operations.0 {
                let Err(error) = json_patch::patch(&mut live, std::slice::from_ref(&operation)) else { continue };
                let path = operation.path().to_string();
                return match (operation, &error.kind) {
                    // The value itself is not told: whoever wrote the patch may not be allowed to read it.
                    (PatchOperation::Test(_), PatchErrorKind::TestFailed) => ClusterError::Conflict {
                        attempt: attempt.clone(),
                        message: format!("{path} has another value than the one tested for"),
                    },
                    (PatchOperation::Test(_), _) => ClusterError::Conflict {
                        attempt: attempt.clone(),
                        message: format!("there is no {path} any more"),
                    },
                    _ => invalid(attempt, format!("{message} ({path}: {})", error.kind)),
                };
            }
        }
        invalid(attempt, message)
    }

    async fn delete(
        &self,
        attempt: &Attempt,
        kind: &ResourceKind,
        delete: &Delete,
        options: &WriteOptions,
    ) -> Result<Value, ClusterError> {
        let propagation = match delete.propagation_policy {
            None | Some(PropagationPolicy::Background) => "Background",
            Some(PropagationPolicy::Foreground) => "Foreground",
            Some(PropagationPolicy::Orphan) => "Orphan",
        };
        let mut body = json!({ "apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": propagation });
        body["preconditions"] = preconditions(options);
        if options.dry_run {
            body["dryRun"] = json!(["All"]);
        }
        let path = object_path(kind, &delete.target, None, attempt)?;
        let mut request = Request::with_body(Method::DELETE, path, JSON, body);
        if options.dry_run {
            // The body decides; this is for who reads the audit log, which need not have bodies.
            request.query.push(("dryRun", "All".to_owned()));
        }
        self.send_json(attempt, request).await
    }

    async fn evict(
        &self,
        attempt: &Attempt,
        kind: &ResourceKind,
        evict: &Evict,
        options: &WriteOptions,
    ) -> Result<Value, ClusterError> {
        let path = object_path(kind, &evict.target, Some("eviction"), attempt)?;
        let body = json!({
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": { "name": evict.target.name, "namespace": evict.target.namespace },
            "deleteOptions": { "preconditions": preconditions(options) },
        });
        let mut request = Request::with_body(Method::POST, path, JSON, body);
        if options.dry_run {
            request.query.push(("dryRun", "All".to_owned()));
        }
        self.send_json(attempt, request).await
    }
}

fn written(mut request: Request, options: &WriteOptions) -> Request {
    request.query.push(("fieldManager", FIELD_MANAGER.to_owned()));
    // A misspelt field would otherwise be dropped without a word.
    request.query.push(("fieldValidation", "Strict".to_owned()));
    if options.dry_run {
        request.query.push(("dryRun", "All".to_owned()));
    }
    request
}

fn set_preconditions(metadata: &mut serde_json::Map<String, Value>, options: &WriteOptions) {
    for (field, value) in [("uid", &options.uid), ("resourceVersion", &options.resource_version)] {
        if let Some(value) = value {
            metadata.insert(field.to_owned(), Value::from(value.as_str()));
        }
    }
}

fn preconditions(options: &WriteOptions) -> Value {
    let mut metadata = serde_json::Map::new();
    set_preconditions(&mut metadata, options);
    Value::Object(metadata)
}

fn unknown_kind(catalog: &Catalog, target: &ObjectRef) -> ClusterError {
    let group = target.group();
    let word = if group.is_empty() { target.kind.clone() } else { format!("{}.{group}", target.kind) };
    ClusterError::UnknownKind { word, nearest: catalog.nearest(&target.kind) }
}
