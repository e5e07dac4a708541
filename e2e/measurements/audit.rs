//! What the API server's audit log says of the operator.

use crate::stage::audit_log::AuditLog;
use crate::stage::{Cluster, OPERATOR_NAMESPACE};
use serde_json::Value;

/// One call, as it is counted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call {
    /// `get`, `create`, `update`, `patch`, `list`, `watch` …
    pub verb: String,
    /// Plural and subresource.
    pub resource: String,
    /// Whether it was made as the plan's service account.
    pub impersonated: bool,
    pub dry_run: bool,
}

/// The log from a moment on.
pub struct Log {
    log: AuditLog,
    from: u64,
}

impl Log {
    pub fn from_now(cluster: &Cluster) -> Self {
        let log = AuditLog::of(&cluster.kubeconfig);
        let from = log.length();
        Self { log, from }
    }

    /// The operator's calls since then, but for its lease.
    pub fn calls(&self) -> Vec<Call> {
        let account = format!("system:serviceaccount:{OPERATOR_NAMESPACE}:countersign");
        let mut calls = Vec::new();
        self.log.read(self.from, |line| {
            let Ok(entry) = serde_json::from_slice::<Value>(line) else { return };
            if entry["user"]["username"] == account.as_str() && entry["stage"] == "ResponseComplete" {
                calls.extend(call(&entry));
            }
        });
        calls
    }
}

fn call(entry: &Value) -> Option<Call> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let object = &entry["objectRef"];
    let uri = text(&entry["requestURI"]);
    let mut resource = text(&object["resource"]);
    if resource == "leases" {
        return None;
    }
    if resource.is_empty() {
        resource = uri.split('?').next().unwrap_or_default().to_owned();
    }
    if let Some(subresource) = object["subresource"].as_str() {
        resource = format!("{resource}/{subresource}");
    }
    Some(Call {
        verb: text(&entry["verb"]),
        resource,
        impersonated: entry["impersonatedUser"].is_object(),
        dry_run: uri.contains("dryRun="),
    })
}
