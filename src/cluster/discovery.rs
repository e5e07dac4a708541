//! What the API server serves, by aggregated discovery, and who answers it: three requests however many groups there are.

use super::delegation::delegation;
use super::request::Request;
use super::{Access, Catalog, ClusterError, ResourceKind};
use kube::client::{APIGroupDiscoveryList, APIResourceDiscovery};

const ACCEPT: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Groups in `trusted` count as answered by the API server itself.
pub(super) async fn discover(access: &Access, trusted: &[String]) -> Result<Catalog, ClusterError> {
    let attempt = access.attempt("ask the API server what it serves".to_owned());
    let mut catalog = Catalog::default();
    for path in ["/api", "/apis"] {
        let request = Request { accept: ACCEPT, ..Request::get(path.to_owned()) };
        let body = access.send(&attempt, request).await?;
        let groups: APIGroupDiscoveryList = serde_json::from_slice(&body).map_err(|error| ClusterError::Other {
            attempt: attempt.clone(),
            message: format!("the answer of {path} is not a discovery document: {error}"),
        })?;
        add(&mut catalog, groups);
    }
    if catalog.kinds.is_empty() {
        return Err(ClusterError::Other {
            attempt,
            message: "the answer names no kinds; aggregated discovery (Kubernetes 1.30 or newer) is needed".to_owned(),
        });
    }
    // After the kinds: a server that is registered in between has none of them.
    catalog.delegation = delegation(access, trusted).await?;
    Ok(catalog)
}

/// Adds the kinds of a discovery document, each in the first version that serves it: the server lists groups by
/// priority and versions by preference.
fn add(catalog: &mut Catalog, groups: APIGroupDiscoveryList) {
    for group in groups.items {
        let name = group.metadata.and_then(|metadata| metadata.name).unwrap_or_default();
        let first_of_group = catalog.kinds.len();
        for version in group.versions {
            let Some(version_name) = version.version else { continue };
            for resource in version.resources {
                let Some(kind) = kind_of(&name, &version_name, resource) else { continue };
                if !catalog.kinds[first_of_group..].iter().any(|known| known.plural == kind.plural) {
                    catalog.kinds.push(kind);
                }
            }
        }
    }
}

fn kind_of(group: &str, version: &str, resource: APIResourceDiscovery) -> Option<ResourceKind> {
    let plural = resource.resource?;
    let kind = resource.response_kind.and_then(|response| response.kind).filter(|kind| !kind.is_empty())?;
    Some(ResourceKind {
        group: group.to_owned(),
        version: version.to_owned(),
        singular: resource.singular_resource.filter(|name| !name.is_empty()).unwrap_or_else(|| kind.to_lowercase()),
        kind,
        plural,
        short_names: resource.short_names,
        namespaced: resource.scope.as_deref() == Some("Namespaced"),
        verbs: resource.verbs,
        subresources: resource.subresources.into_iter().filter_map(|sub| sub.subresource).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_kind_is_taken_in_its_preferred_version() {
        let resource = |plural: &str, kind: &str| {
            json!({ "resource": plural, "responseKind": { "kind": kind }, "scope": "Namespaced", "singularResource": "",
                    "verbs": ["get"], "shortNames": ["x"], "subresources": [{ "subresource": "status" }] })
        };
        let groups = json!({ "items": [{ "metadata": { "name": "autoscaling" }, "versions": [
            { "version": "v2", "resources": [resource("horizontalpodautoscalers", "HorizontalPodAutoscaler")] },
            { "version": "v1", "resources": [
                resource("horizontalpodautoscalers", "HorizontalPodAutoscaler"), resource("olds", "Old")] },
        ]}]});
        let mut catalog = Catalog::default();
        add(&mut catalog, serde_json::from_value(groups).unwrap());
        let found: Vec<_> =
            catalog.kinds.iter().map(|k| format!("{} {} {}", k.api_version(), k.plural, k.singular)).collect();
        assert_eq!(
            found,
            ["autoscaling/v2 horizontalpodautoscalers horizontalpodautoscaler", "autoscaling/v1 olds old"]
        );
        assert_eq!(catalog.kinds[0].subresources, ["status"]);
    }
}
