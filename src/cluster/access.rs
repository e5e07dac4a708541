use super::again::{Line, client};
use super::error::Attempt;
use super::request::{Location, Request};
use super::{ClusterError, ResourceKind};
use crate::api::ObjectRef;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;
use std::fmt;
use std::sync::Arc;

const PAGE: u32 = 500;
/// The most that is read of a log, however long its lines are.
const LOG_BYTES: u32 = 1 << 20;

/// One identity acting on the cluster. Cheap to clone.
#[derive(Clone)]
pub struct Access {
    pub(super) client: kube::Client,
    identity: Arc<str>,
}

/// Which objects of a collection are meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListOptions {
    /// Label selector, for example `app=web,tier!=cache`.
    pub label_selector: Option<String>,
    /// Field selector, for example `status.phase=Running`.
    pub field_selector: Option<String>,
    /// The most objects wanted; all when absent.
    pub limit: Option<u32>,
}

/// One event about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventLine {
    /// The reason, for example `FailedScheduling`.
    pub reason: String,
    /// The message.
    pub message: String,
    /// `Normal` or `Warning`.
    pub kind: String,
    /// When it was seen last.
    pub last_seen: Option<Timestamp>,
    /// How often it was seen.
    pub count: i32,
}

impl Access {
    pub(super) fn connect(config: &kube::Config, identity: &str, line: &Line) -> Result<Self, ClusterError> {
        let client = client(config.clone(), line)
            .map_err(|error| ClusterError::setup("set up the connection to the cluster", identity, &error))?;
        Ok(Self { client, identity: identity.into() })
    }

    /// Who acts: `system:serviceaccount:staging:deployer`, or `the operator`.
    #[must_use]
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// One object; `None` when there is none of that name.
    ///
    /// # Errors
    /// [`ClusterError`]; [`ClusterError::NotFound`] only when the server does not serve that version of the kind.
    pub async fn get(&self, kind: &ResourceKind, object: &ObjectRef) -> Result<Option<Value>, ClusterError> {
        self.get_subresource(kind, object, None).await
    }

    /// One object as a subresource shows it, for example `scale`; the object itself when `subresource` is absent.
    ///
    /// # Errors
    /// As [`Access::get`].
    pub async fn get_subresource(
        &self,
        kind: &ResourceKind,
        object: &ObjectRef,
        subresource: Option<&str>,
    ) -> Result<Option<Value>, ClusterError> {
        let attempt = self.attempt(format!("read {object}"));
        let path = object_path(kind, object, subresource, &attempt)?;
        match self.send_json(&attempt, Request::get(path)).await {
            Ok(found) => Ok(Some(told_zero(subresource, found))),
            // An unknown path is answered with 404 as well, but without the name of an object.
            Err(ClusterError::NotFound { message, .. }) if message.contains(&format!("\"{}\"", object.name)) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The objects of a kind in a namespace, or in all of them, each with its `apiVersion` and `kind`.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn list(
        &self,
        kind: &ResourceKind,
        namespace: Option<&str>,
        options: &ListOptions,
    ) -> Result<Vec<Value>, ClusterError> {
        let attempt = self.list_attempt(kind, namespace);
        let path = collection_path(kind, namespace, &attempt)?;
        let pages = self.pages(&attempt, path, super::request::JSON, options).await?;
        let mut items = Vec::new();
        for mut page in pages {
            let Some(Value::Array(found)) = page.get_mut("items").map(Value::take) else { continue };
            items.extend(found);
        }
        for item in &mut items {
            item["apiVersion"] = Value::String(kind.api_version());
            item["kind"] = Value::String(kind.kind.clone());
        }
        if let Some(limit) = options.limit {
            items.truncate(limit as usize);
        }
        Ok(items)
    }

    pub(super) fn list_attempt(&self, kind: &ResourceKind, namespace: Option<&str>) -> Attempt {
        let place = match namespace {
            Some(namespace) if kind.namespaced => format!(" in namespace {namespace}"),
            None if kind.namespaced => " in all namespaces".to_owned(),
            _ => String::new(),
        };
        self.attempt(format!("list {}{place}", kind.plural))
    }

    /// The pages of a collection, up to the wanted number of items or rows.
    pub(super) async fn pages(
        &self,
        attempt: &Attempt,
        path: String,
        accept: &'static str,
        options: &ListOptions,
    ) -> Result<Vec<Value>, ClusterError> {
        let mut pages: Vec<Value> = Vec::new();
        let mut wanted = options.limit;
        let mut from: Option<String> = None;
        let mut paged = true;
        loop {
            let mut request = Request { accept, ..Request::get(path.clone()) };
            let mut add = |name: &'static str, value: Option<String>| {
                request.query.extend(value.map(|value| (name, value)));
            };
            add("labelSelector", options.label_selector.clone());
            add("fieldSelector", options.field_selector.clone());
            add("limit", wanted.or(paged.then_some(PAGE)).map(|left| left.min(PAGE).to_string()));
            add("continue", from.clone());
            let page = match self.send_json(attempt, request).await {
                Ok(page) => page,
                // Between two pages the server forgot the state that the first was read at: once more, in one go.
                Err(ClusterError::Other { message, .. }) if from.is_some() && paged && is_expired(&message) => {
                    (pages, wanted, from, paged) = (Vec::new(), options.limit, None, false);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let length = page.get("items").or_else(|| page.get("rows")).and_then(Value::as_array).map_or(0, Vec::len);
            wanted = wanted.map(|left| left.saturating_sub(u32::try_from(length).unwrap_or(u32::MAX)));
            from = page.pointer("/metadata/continue").and_then(Value::as_str).map(str::to_owned);
            pages.push(page);
            if from.as_deref().is_none_or(str::is_empty) || wanted == Some(0) {
                return Ok(pages);
            }
        }
    }

    /// The last `tail` lines of a container's log, or of its previous run's. What they say is not redacted: pass it
    /// through [`super::redact_text`] before anybody sees it.
    ///
    /// # Errors
    /// [`ClusterError`]; a container that has not started is [`ClusterError::Invalid`].
    pub async fn logs(
        &self,
        namespace: &str,
        pod: &str,
        container: Option<&str>,
        tail: i64,
        previous: bool,
    ) -> Result<String, ClusterError> {
        let attempt = self.attempt(format!("read the log of Pod {namespace}/{pod}"));
        let kind = super::catalog::core_kind("Pod", "pods");
        let location = Location {
            kind: &kind,
            version: "v1",
            namespace: Some(namespace),
            name: Some(pod),
            subresource: Some("log"),
        };
        let mut request = Request::get(location.path().map_err(|message| invalid(&attempt, message))?);
        request.accept = "text/plain, application/json, */*";
        request.query = vec![("tailLines", tail.max(0).to_string()), ("limitBytes", LOG_BYTES.to_string())];
        request.query.extend(container.map(|container| ("container", container.to_owned())));
        request.query.extend(previous.then(|| ("previous", "true".to_owned())));
        Ok(String::from_utf8_lossy(&self.send(&attempt, request).await?).into_owned())
    }

    /// The events about an object, newest last; with a uid, only those about that very object.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn events_of(&self, object: &ObjectRef, uid: Option<&str>) -> Result<Vec<EventLine>, ClusterError> {
        let mut fields = format!(
            "involvedObject.kind={},involvedObject.name={}",
            escape_field(&object.kind),
            escape_field(&object.name)
        );
        if let Some(uid) = uid {
            fields.push_str(&format!(",involvedObject.uid={}", escape_field(uid)));
        }
        let kind = super::catalog::core_kind("Event", "events");
        let options = ListOptions { field_selector: Some(fields), ..ListOptions::default() };
        // Events about cluster-scoped objects are kept in the namespace `default`.
        let namespace = object.namespace.as_deref().unwrap_or("default");
        let mut lines: Vec<_> = self.list(&kind, Some(namespace), &options).await?.iter().map(event_line).collect();
        lines.sort_by_key(|line| line.last_seen);
        Ok(lines)
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("identity", &self.identity).finish_non_exhaustive()
    }
}

pub(super) fn invalid(attempt: &Attempt, message: String) -> ClusterError {
    ClusterError::Invalid { attempt: attempt.clone(), message }
}

/// A `Scale` leaves `spec.replicas` out when it is 0, and absent must not look like a field that goes.
pub(super) fn told_zero(subresource: Option<&str>, mut object: Value) -> Value {
    let is_scale = subresource == Some("scale") && object.get("kind").and_then(Value::as_str) == Some("Scale");
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut).filter(|_| is_scale) {
        spec.entry("replicas").or_insert_with(|| Value::from(0));
    } else if is_scale {
        object["spec"] = serde_json::json!({ "replicas": 0 });
    }
    object
}

/// The path of an object, in the version that it names.
pub(super) fn object_path(
    kind: &ResourceKind,
    object: &ObjectRef,
    subresource: Option<&str>,
    attempt: &Attempt,
) -> Result<String, ClusterError> {
    Location {
        kind,
        version: version(kind, object),
        namespace: object.namespace.as_deref(),
        name: Some(&object.name),
        subresource,
    }
    .path()
    .map_err(|message| invalid(attempt, message))
}

fn collection_path(kind: &ResourceKind, namespace: Option<&str>, attempt: &Attempt) -> Result<String, ClusterError> {
    Location { kind, version: &kind.version, namespace, name: None, subresource: None }
        .path()
        .map_err(|message| invalid(attempt, message))
}

/// A manifest is read and written in its own version, so that its diff shows no conversion.
pub(super) fn version<'v>(kind: &'v ResourceKind, object: &'v ObjectRef) -> &'v str {
    if object.group() == kind.group && !object.version().is_empty() { object.version() } else { &kind.version }
}

pub(super) fn escape_field(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=")
}

fn is_expired(message: &str) -> bool {
    message.contains("continue") && (message.contains("too old") || message.contains("expired"))
}

fn event_line(event: &Value) -> EventLine {
    let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str);
    let times =
        ["/series/lastObservedTime", "/lastTimestamp", "/eventTime", "/firstTimestamp", "/metadata/creationTimestamp"];
    let count = event.pointer("/series/count").or_else(|| event.get("count")).and_then(Value::as_i64).unwrap_or(1);
    EventLine {
        reason: text("/reason").unwrap_or_default().to_owned(),
        message: text("/message").unwrap_or_default().to_owned(),
        kind: text("/type").unwrap_or("Normal").to_owned(),
        last_seen: times.into_iter().find_map(|pointer| text(pointer)?.parse().ok()),
        count: i32::try_from(count).unwrap_or(i32::MAX),
    }
}
