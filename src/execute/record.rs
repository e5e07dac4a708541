//! Writing a running plan's status, and only on top of what was written last.

use super::drive::DriveError;
use super::fence::Fence;
use crate::api::{ExecutionPlan, ExecutionPlanStatus};
use http::HeaderValue;
use http::header::ACCEPT;
use kube::api::{Api, ObjectMeta, PartialObjectMeta, PostParams};
use kube::core::Request;
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde_json::Value;
use std::borrow::Cow;
use std::time::{Duration, Instant};

/// How often a status write that lost against an unrelated change of the object is repeated.
const MAX_CONFLICTS: u32 = 20;
/// What the API server takes to store a kilobyte of plan, roughly: the first write is thought to take as long.
const PER_KILOBYTE: Duration = Duration::from_micros(500);
/// Has the API server answer a write without the object, of which a plan has up to a megabyte.
const ONLY_METADATA: HeaderValue =
    HeaderValue::from_static("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1");

/// The stored status of a plan that is carried out. Nobody else writes it.
pub(super) struct Record {
    client: Client,
    plans: Api<ExecutionPlan>,
    name: String,
    /// As the API server gave it last.
    metadata: ObjectMeta,
    /// The status as it is stored.
    stored: Value,
    took: Duration,
}

impl Record {
    /// The record of `plan`, which has to be as it was read.
    pub fn new(client: Client, plan: &ExecutionPlan) -> Self {
        let bytes = serde_json::to_vec(plan).map_or(0, |json| json.len());
        Self {
            plans: Api::namespaced(client.clone(), plan.namespace().as_deref().unwrap_or_default()),
            client,
            name: plan.name_any(),
            metadata: plan.metadata.clone(),
            stored: plan.status.as_ref().map_or(Value::Null, plain),
            took: PER_KILOBYTE * u32::try_from(bytes / 1000).unwrap_or(u32::MAX),
        }
    }

    /// The plan's metadata with what was written last.
    pub fn metadata(&self) -> ObjectMeta {
        self.metadata.clone()
    }

    /// How long the last write took; before there was one, how long it may take.
    pub const fn took(&self) -> Duration {
        self.took
    }

    /// Writes the status. When the stored one is not what was written last, another replica has taken over, and this one
    /// must stop.
    pub async fn write(&mut self, status: &ExecutionPlanStatus, fence: &Fence) -> Result<(), DriveError> {
        fence.pass().await;
        let begun = Instant::now();
        let wanted = plain(status);
        for _ in 0..MAX_CONFLICTS {
            match self.send(&wanted).await {
                Ok(written) => {
                    self.metadata = written.metadata;
                    self.stored = wanted;
                    self.took = begun.elapsed();
                    return Ok(());
                }
                Err(kube::Error::Api(status)) if status.code == 404 => return Err(DriveError::Gone(self.name.clone())),
                Err(kube::Error::Api(status)) if status.code == 409 => {
                    let current = self.plans.get_opt(&self.name).await.map_err(|source| self.failed(source))?;
                    let Some(current) = current else { return Err(DriveError::Gone(self.name.clone())) };
                    if current.metadata.uid != self.metadata.uid {
                        return Err(DriveError::Gone(self.name.clone()));
                    }
                    if current.metadata.resource_version == self.metadata.resource_version {
                        return Err(self.failed(kube::Error::Api(status)));
                    }
                    let found = current.status.as_ref().map_or(Value::Null, plain);
                    // The answer to an earlier try was lost.
                    let landed = found == wanted;
                    if !landed && found != self.stored {
                        return Err(DriveError::Overtaken(self.name.clone()));
                    }
                    self.metadata = current.metadata;
                    self.stored = found;
                    if landed {
                        self.took = begun.elapsed();
                        return Ok(());
                    }
                }
                Err(source) => return Err(self.failed(source)),
            }
        }
        Err(DriveError::Overtaken(self.name.clone()))
    }

    /// One write, tried again while errors pass. One whose answer was lost shows up as a conflict next.
    async fn send(&self, wanted: &Value) -> Result<PartialObjectMeta<ExecutionPlan>, kube::Error> {
        let object = serde_json::to_vec(&Sent::new(&self.metadata, wanted)).map_err(kube::Error::SerdeError)?;
        let request = Request::new(self.plans.resource_url());
        let mut wait = Duration::from_millis(200);
        loop {
            let mut request = request
                .replace_subresource("status", &self.name, &PostParams::default(), object.clone())
                .map_err(kube::Error::BuildRequest)?;
            request.headers_mut().insert(ACCEPT, ONLY_METADATA);
            match self.client.request(request).await {
                Err(kube::Error::Api(status)) if status.code != 429 && status.code < 500 => {
                    return Err(kube::Error::Api(status));
                }
                Err(error) if wait < Duration::from_secs(60) => {
                    tracing::warn!(plan = self.name, %error, "journal not written, trying again");
                    tokio::time::sleep(wait.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
                    wait *= 2;
                }
                done => return done,
            }
        }
    }

    fn failed(&self, source: kube::Error) -> DriveError {
        DriveError::Journal { plan: self.name.clone(), source: Box::new(source) }
    }
}

/// The status as it is stored. Only what the types know is compared: times lose what is less than a second.
fn plain(status: &ExecutionPlanStatus) -> Value {
    serde_json::to_value(status).unwrap_or_default()
}

/// The plan as it is sent to be stored with a status. The API server takes everything but the status from what it has, so that
/// the spec, the larger part of most plans, stays at home. A patch would send less, and have the server encode and decode the
/// whole plan once more to apply it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Sent<'s> {
    api_version: Cow<'static, str>,
    kind: Cow<'static, str>,
    metadata: ObjectMeta,
    status: &'s Value,
}

impl<'s> Sent<'s> {
    /// What has owners of its own in `managedFields` goes along: older servers forget the owners of what is not sent.
    fn new(metadata: &ObjectMeta, status: &'s Value) -> Self {
        let metadata = ObjectMeta {
            name: metadata.name.clone(),
            namespace: metadata.namespace.clone(),
            uid: metadata.uid.clone(),
            resource_version: metadata.resource_version.clone(),
            labels: metadata.labels.clone(),
            annotations: metadata.annotations.clone(),
            finalizers: metadata.finalizers.clone(),
            owner_references: metadata.owner_references.clone(),
            ..ObjectMeta::default()
        };
        Self { api_version: ExecutionPlan::api_version(&()), kind: ExecutionPlan::kind(&()), metadata, status }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ExecutionPlanSpec;
    use serde_json::json;

    #[test]
    fn a_write_is_held_to_the_version_that_was_written_last_and_sends_no_spec() {
        let metadata = ObjectMeta {
            name: Some("p".into()),
            namespace: Some("shop".into()),
            uid: Some("u".into()),
            resource_version: Some("7".into()),
            finalizers: Some(vec!["a/b".into()]),
            ..ObjectMeta::default()
        };
        let status = json!({ "phase": "Executing" });
        let sent = serde_json::to_value(Sent::new(&metadata, &status)).unwrap();
        let names: Vec<&String> = sent.as_object().unwrap().keys().collect();
        assert_eq!(names, ["apiVersion", "kind", "metadata", "status"]);
        // Without it the write would be held to nothing.
        assert_eq!(sent.pointer("/metadata/resourceVersion"), Some(&json!("7")));
        let plan: ExecutionPlan = serde_json::from_value(json!({
            "apiVersion": sent["apiVersion"], "kind": sent["kind"], "metadata": sent["metadata"],
            "spec": ExecutionPlanSpec::default(),
        }))
        .unwrap();
        assert_eq!(plan.metadata, metadata);
    }
}
