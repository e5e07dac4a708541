use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A user as the API server authenticated it. Stamped at admission: what a client writes here is replaced.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct Requester {
    /// The user name, for example `alice` or `system:serviceaccount:flux-system:kustomize-controller`.
    #[schemars(length(max = 1024))]
    pub username: String,
    /// The groups that the user was in at that moment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 512), inner(length(max = 1024)))]
    pub groups: Vec<String>,
}
