use super::{ObjectRef, schema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;

/// What one step does to the cluster: exactly one of the six fields is set.
#[derive(Clone, Debug, Default, Deserialize, Serialize, kube::KubeSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = kube::core::Rule::new(
    "[has(self.apply), has(self.patch), has(self.delete), has(self.evict), has(self.wait), has(self.query)].filter(x, x).size() == 1"
).message("a step has exactly one operation: apply, patch, delete, evict, wait or query"))]
pub struct Operation {
    /// Server-side apply of one manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apply: Option<Apply>,
    /// A JSON patch or merge patch of one object or of one of its subresources.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patch: Option<Patch>,
    /// Deletion of one object, of exactly that uid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delete: Option<Delete>,
    /// Eviction of one pod, with respect to disruption budgets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evict: Option<Evict>,
    /// Waits until an object is as wanted; changes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<Wait>,
    /// Reads; changes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<Query>,
}

/// Server-side apply with the field manager `countersign`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Apply {
    /// The whole manifest to apply. Secrets with values are refused: a plan is read by many.
    #[schemars(schema_with = "schema::embedded_object")]
    pub manifest: Value,
}

/// A patch of one object.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Patch {
    /// The object to patch.
    pub target: ObjectRef,
    /// The subresource to patch, `scale` or `resize`; the object itself when absent. Plans with others are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub subresource: Option<String>,
    /// How `body` is to be read.
    #[serde(rename = "type")]
    pub patch_type: PatchType,
    /// The patch: a list of operations (RFC 6902) or an object (RFC 7386).
    #[schemars(schema_with = "schema::any_value")]
    pub body: Value,
}

impl Patch {
    /// Whether it takes fields away and gives none a value.
    #[must_use]
    pub fn only_removes(&self) -> bool {
        fn is_empty(value: &Value) -> bool {
            value.as_object().map_or(value.is_null(), |members| members.values().all(is_empty))
        }
        let takes = |operation: &Value| matches!(operation.get("op").and_then(Value::as_str), Some("remove" | "test"));
        match self.patch_type {
            PatchType::Json => self.body.as_array().is_some_and(|operations| operations.iter().all(takes)),
            PatchType::Merge => is_empty(&self.body),
        }
    }
}

/// The two patch formats that every kind understands.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum PatchType {
    /// JSON Patch, RFC 6902.
    #[serde(rename = "json")]
    Json,
    /// JSON Merge Patch, RFC 7386.
    #[serde(rename = "merge")]
    Merge,
}

/// Deletion of one object. The step's precondition holds the uid.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Delete {
    /// The object to delete.
    pub target: ObjectRef,
    /// What happens to the objects that it owns; `Background` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub propagation_policy: Option<PropagationPolicy>,
}

/// What happens to dependents of a deleted object.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum PropagationPolicy {
    /// Dependents go after the object, by the garbage collector.
    Background,
    /// Dependents go first.
    Foreground,
    /// Dependents stay.
    Orphan,
}

/// Eviction of one pod.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Evict {
    /// The pod.
    pub target: ObjectRef,
}

/// Waits for a state; the step's `timeout` bounds it.
#[derive(Clone, Debug, Deserialize, Serialize, kube::KubeSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = kube::core::Rule::new("self.until != 'Condition' || has(self.condition)").message("a wait until Condition names the condition"))]
#[x_kube(validation = kube::core::Rule::new("self.until != 'Expression' || has(self.expression)").message("a wait until Expression needs an expression"))]
pub struct Wait {
    /// The object to watch.
    pub target: ObjectRef,
    /// The state to wait for.
    pub until: WaitUntil,
    /// With `until: Condition`, the condition type that must be `True`, for example `Available`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    /// With `until: Expression`, a CEL expression over `object` that must be true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expression: Option<String>,
}

/// What a wait waits for.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum WaitUntil {
    /// The object is ready in the sense of kstatus.
    Ready,
    /// The condition named in `condition` is `True`.
    Condition,
    /// The CEL expression in `expression` is true.
    Expression,
    /// The object is gone.
    Absent,
}

/// A read of the cluster.
#[derive(Clone, Debug, Deserialize, Serialize, kube::KubeSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = kube::core::Rule::new("self.type == 'PromQL' || (has(self.apiVersion) && has(self.kind))").message("a query of objects names apiVersion and kind"))]
#[x_kube(validation = kube::core::Rule::new("!(self.type in ['Get', 'Logs']) || has(self.name)").message("a Get or Logs query names one object"))]
#[x_kube(validation = kube::core::Rule::new("self.type != 'PromQL' || has(self.expression)").message("a PromQL query needs an expression"))]
pub struct Query {
    /// What is read.
    #[serde(rename = "type")]
    pub query_type: QueryKind,
    /// Group and version of what is read, for `List`, `Get` and `Logs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,
    /// Kind of what is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The namespace; absent for all namespaces or cluster-scoped kinds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The name, for `Get` and `Logs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Label selector, for `List`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_selector: Option<String>,
    /// Field selector, for `List`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field_selector: Option<String>,
    /// The expression, for `PromQL`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expression: Option<String>,
}

/// The kinds of reads.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum QueryKind {
    /// Objects of a kind as the API server's own table.
    List,
    /// One object, described.
    Get,
    /// The last log lines of a pod.
    Logs,
    /// An instant query of the metrics store.
    PromQL,
}

/// The six operations by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OperationKind {
    /// See [`Apply`].
    Apply,
    /// See [`Patch`].
    Patch,
    /// See [`Delete`].
    Delete,
    /// See [`Evict`].
    Evict,
    /// See [`Wait`].
    Wait,
    /// See [`Query`].
    Query,
}

impl OperationKind {
    /// Whether the operation writes to the cluster.
    #[must_use]
    pub const fn mutates(self) -> bool {
        matches!(self, Self::Apply | Self::Patch | Self::Delete | Self::Evict)
    }
}

impl fmt::Display for OperationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Apply => "apply",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::Evict => "evict",
            Self::Wait => "wait",
            Self::Query => "query",
        })
    }
}

/// An operation that is none of the six, or more than one, or incomplete.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum OperationError {
    /// None or several of the six fields are set.
    #[error("a step has exactly one operation (apply, patch, delete, evict, wait or query), this one has {0}")]
    NotOne(usize),
    /// The manifest of an apply names no object.
    #[error("the manifest to apply lacks apiVersion, kind or metadata.name")]
    NamelessManifest,
}

impl Operation {
    /// Which of the six it is.
    ///
    /// # Errors
    /// [`OperationError::NotOne`] unless exactly one field is set.
    pub fn kind(&self) -> Result<OperationKind, OperationError> {
        let set: Vec<_> = [
            self.apply.as_ref().map(|_| OperationKind::Apply),
            self.patch.as_ref().map(|_| OperationKind::Patch),
            self.delete.as_ref().map(|_| OperationKind::Delete),
            self.evict.as_ref().map(|_| OperationKind::Evict),
            self.wait.as_ref().map(|_| OperationKind::Wait),
            self.query.as_ref().map(|_| OperationKind::Query),
        ]
        .into_iter()
        .flatten()
        .collect();
        match set.as_slice() {
            [one] => Ok(*one),
            several => Err(OperationError::NotOne(several.len())),
        }
    }

    /// Whether the object goes by it: a deletion or an eviction.
    #[must_use]
    pub const fn removes(&self) -> bool {
        self.delete.is_some() || self.evict.is_some()
    }

    /// The object that the operation is about; `None` for queries.
    ///
    /// # Errors
    /// When the operation is not exactly one, or its manifest names no object.
    pub fn target(&self) -> Result<Option<ObjectRef>, OperationError> {
        self.kind()?;
        if let Some(apply) = &self.apply {
            return ObjectRef::of(&apply.manifest).map(Some).ok_or(OperationError::NamelessManifest);
        }
        Ok(self
            .patch
            .as_ref()
            .map(|o| &o.target)
            .or_else(|| self.delete.as_ref().map(|o| &o.target))
            .or_else(|| self.evict.as_ref().map(|o| &o.target))
            .or_else(|| self.wait.as_ref().map(|o| &o.target))
            .cloned())
    }

    /// An apply of `manifest`.
    #[must_use]
    pub fn apply(manifest: Value) -> Self {
        Self { apply: Some(Apply { manifest }), ..Self::default() }
    }

    /// A merge patch (RFC 7386) of `target`.
    #[must_use]
    pub fn merge_patch(target: ObjectRef, body: Value) -> Self {
        Self::patch(target, None, PatchType::Merge, body)
    }

    /// A JSON patch (RFC 6902) of `target`.
    #[must_use]
    pub fn json_patch(target: ObjectRef, body: Value) -> Self {
        Self::patch(target, None, PatchType::Json, body)
    }

    /// A patch of `target` or one of its subresources.
    #[must_use]
    pub fn patch(target: ObjectRef, subresource: Option<&str>, patch_type: PatchType, body: Value) -> Self {
        let subresource = subresource.map(str::to_owned);
        Self { patch: Some(Patch { target, subresource, patch_type, body }), ..Self::default() }
    }

    /// A deletion of `target`.
    #[must_use]
    pub fn delete(target: ObjectRef) -> Self {
        Self { delete: Some(Delete { target, propagation_policy: None }), ..Self::default() }
    }

    /// A wait for `target`.
    #[must_use]
    pub fn wait(target: ObjectRef, until: WaitUntil) -> Self {
        Self { wait: Some(Wait { target, until, condition: None, expression: None }), ..Self::default() }
    }

    /// A read.
    #[must_use]
    pub fn query(query: Query) -> Self {
        Self { query: Some(query), ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_operation_is_exactly_one_of_six() {
        assert_eq!(Operation::default().kind(), Err(OperationError::NotOne(0)));
        let target = ObjectRef { api_version: "v1".into(), kind: "Pod".into(), namespace: None, name: "a".into() };
        let mut two = Operation::delete(target.clone());
        two.wait = Operation::wait(target.clone(), WaitUntil::Ready).wait;
        assert_eq!(two.kind(), Err(OperationError::NotOne(2)));
        assert_eq!(Operation::delete(target.clone()).target(), Ok(Some(target)));
    }

    #[test]
    fn a_patch_that_gives_any_field_a_value_does_more_than_remove() {
        let target = ObjectRef { api_version: "v1".into(), kind: "Pod".into(), namespace: None, name: "a".into() };
        let removes = |patch_type: PatchType, body: Value| {
            Patch { target: target.clone(), subresource: None, patch_type, body }.only_removes()
        };
        assert!(removes(PatchType::Merge, json!({ "data": { "a": null, "b": null } })));
        assert!(!removes(PatchType::Merge, json!({ "data": { "a": null, "b": "1" } })));
        assert!(!removes(PatchType::Merge, json!({ "data": { "a": [] } })));
        let remove = json!({ "op": "remove", "path": "/data/a" });
        assert!(removes(PatchType::Json, json!([{ "op": "test", "path": "/data/a", "value": "1" }, remove])));
        assert!(!removes(PatchType::Json, json!([remove, { "op": "add", "path": "/data/b", "value": "1" }])));
    }

    #[test]
    fn an_apply_without_a_name_is_refused() {
        let nameless = Operation::apply(json!({ "apiVersion": "v1", "kind": "Pod", "metadata": {} }));
        assert_eq!(nameless.target(), Err(OperationError::NamelessManifest));
    }
}
