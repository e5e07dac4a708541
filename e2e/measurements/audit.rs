//! What the API server's audit log says of the operator.

use crate::stage::{Cluster, OPERATOR_NAMESPACE};
use serde_json::Value;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

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
    file: PathBuf,
    from: u64,
}

impl Log {
    pub fn from_now(cluster: &Cluster) -> Self {
        let file = cluster.kubeconfig.parent().unwrap().join("logs/audit.log");
        let from = std::fs::metadata(&file).unwrap().len();
        Self { file, from }
    }

    /// The operator's calls since then, but for its lease.
    pub fn calls(&self) -> Vec<Call> {
        let mut file = std::fs::File::open(&self.file).unwrap();
        file.seek(SeekFrom::Start(self.from)).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        let account = format!("system:serviceaccount:{OPERATOR_NAMESPACE}:countersign");
        let entries = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let ours = entries.filter(|entry| entry["user"]["username"] == account.as_str());
        ours.filter(|entry| entry["stage"] == "ResponseComplete").filter_map(|entry| call(&entry)).collect()
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
