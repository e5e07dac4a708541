//! Which parts of the API other servers answer, behind the API server (aggregation). Whether such a server takes `dryRun`
//! for what it says is its own affair: it may carry the request out.

use super::{Access, ClusterError, ListOptions, ResourceKind};
use serde_json::Value;
use std::collections::BTreeMap;

/// Trusts every group.
const EVERY_GROUP: &str = "*";

/// The groups that other servers answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delegation {
    /// By group, the Service that answers (`namespace/name`); groups that the operator was told to trust are left out.
    Known(BTreeMap<String, String>),
    /// It could not be found out, for this reason.
    Unknown(String),
}

impl Default for Delegation {
    fn default() -> Self {
        Self::Known(BTreeMap::new())
    }
}

/// Reads the API server's own list of who answers what.
///
/// # Errors
/// What may pass when tried again; a list that may not be read makes [`Delegation::Unknown`].
pub(super) async fn delegation(access: &Access, trusted: &[String]) -> Result<Delegation, ClusterError> {
    if trusted.iter().any(|group| group == EVERY_GROUP) {
        return Ok(Delegation::default());
    }
    match access.list(&api_services(), None, &ListOptions::default()).await {
        Ok(services) => Ok(Delegation::Known(of(&services, trusted))),
        // An API server without aggregation answers everything itself.
        Err(error) if error.is_not_found() => Ok(Delegation::default()),
        Err(error) if error.is_transient() => Err(error),
        Err(error) => Ok(Delegation::Unknown(error.to_string())),
    }
}

fn of(services: &[Value], trusted: &[String]) -> BTreeMap<String, String> {
    let delegated = services.iter().filter_map(|service| {
        let text = |pointer: &str| service.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let group = text("/spec/group").to_owned();
        // Without a Service, the API server itself answers: its own kinds and those of definitions.
        service.pointer("/spec/service").filter(|service| !service.is_null())?;
        let answers = format!("{}/{}", text("/spec/service/namespace"), text("/spec/service/name"));
        (!trusted.contains(&group)).then_some((group, answers))
    });
    delegated.collect()
}

fn api_services() -> ResourceKind {
    ResourceKind {
        group: "apiregistration.k8s.io".to_owned(),
        plural: "apiservices".to_owned(),
        namespaced: false,
        ..super::catalog::core_kind("APIService", "apiservices")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_groups_with_a_service_are_answered_elsewhere() {
        let services = [
            json!({ "spec": { "version": "v1", "versionPriority": 1 } }),
            json!({ "spec": { "group": "apps", "version": "v1", "service": null } }),
            json!({ "spec": { "group": "metrics.k8s.io", "version": "v1beta1", "service": { "namespace": "kube-system", "name": "metrics" } } }),
            json!({ "spec": { "group": "sealed.example.com", "version": "v1", "service": { "namespace": "a", "name": "b" } } }),
        ];
        let found = of(&services, &["sealed.example.com".to_owned()]);
        assert_eq!(found, BTreeMap::from([("metrics.k8s.io".to_owned(), "kube-system/metrics".to_owned())]));
    }
}
