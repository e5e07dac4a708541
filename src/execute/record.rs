//! Writing a running plan's status: only what changed, and only on top of what was written last.

use super::drive::DriveError;
use super::fence::Fence;
use crate::api::{ExecutionPlan, ExecutionPlanStatus};
use http::HeaderValue;
use http::header::ACCEPT;
use kube::api::{Api, ObjectMeta, PartialObjectMeta, Patch, PatchParams};
use kube::core::Request;
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
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
                // 422 where the patch no longer fits.
                Err(kube::Error::Api(status)) if [409, 422].contains(&status.code) => {
                    let current = self.plans.get(&self.name).await.map_err(|source| self.failed(source))?;
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
        let mut operations = vec![
            json!({ "op": "replace", "path": "/metadata/resourceVersion", "value": self.metadata.resource_version }),
        ];
        operations.extend(changes(&self.stored, wanted));
        let patch: Patch<()> =
            Patch::Json(serde_json::from_value(Value::Array(operations)).map_err(kube::Error::SerdeError)?);
        let request = Request::new(self.plans.resource_url());
        let mut wait = Duration::from_millis(200);
        loop {
            let mut request = request
                .patch_subresource("status", &self.name, &PatchParams::default(), &patch)
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

/// A JSON patch (RFC 6902) of a plan from one status to another. Each step's entry is replaced as a whole.
fn changes(from: &Value, to: &Value) -> Vec<Value> {
    let (Value::Object(before), Value::Object(after)) = (from, to) else {
        return vec![json!({ "op": "add", "path": "/status", "value": to })];
    };
    let gone = before.keys().filter(|key| !after.contains_key(*key));
    let mut operations: Vec<Value> =
        gone.map(|key| json!({ "op": "remove", "path": format!("/status/{key}") })).collect();
    for (key, value) in after {
        match (before.get(key), value) {
            (Some(known), value) if known == value => {}
            (Some(Value::Array(known)), Value::Array(entries)) if known.len() == entries.len() => {
                let changed = entries.iter().enumerate().filter(|(at, entry)| known[*at] != **entry);
                operations.extend(changed.map(
                    |(at, entry)| json!({ "op": "replace", "path": format!("/status/{key}/{at}"), "value": entry }),
                ));
            }
            _ => operations.push(json!({ "op": "add", "path": format!("/status/{key}"), "value": value })),
        }
    }
    operations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{PlanPhase, StepState, StepStatus};
    use proptest::prelude::*;

    fn status() -> impl Strategy<Value = ExecutionPlanStatus> {
        let state = prop_oneof![
            Just(StepState::Pending),
            Just(StepState::Running),
            Just(StepState::Applied),
            Just(StepState::Completed)
        ];
        let entry = (state, prop::option::of("[a-z]{1,4}"));
        let phase = prop::option::of(prop_oneof![Just(PlanPhase::Executing), Just(PlanPhase::Succeeded)]);
        (prop::collection::vec(entry, 0..4), phase, prop::option::of("[a-z]{1,4}")).prop_map(
            |(entries, phase, message)| {
                let entry = |(at, (state, message)): (usize, (StepState, Option<String>))| StepStatus {
                    id: format!("s{at}"),
                    state,
                    message,
                    ..StepStatus::default()
                };
                let steps = entries.into_iter().enumerate().map(entry).collect();
                ExecutionPlanStatus { steps, phase, message, ..ExecutionPlanStatus::default() }
            },
        )
    }

    proptest! {
        #[test]
        fn the_changes_lead_from_one_status_to_the_other(from in prop::option::of(status()), to in status()) {
            let mut object = json!({ "spec": {} });
            let from = from.as_ref().map_or(Value::Null, plain);
            if !from.is_null() {
                object["status"] = from.clone();
            }
            let patch: json_patch::Patch = serde_json::from_value(Value::Array(changes(&from, &plain(&to)))).unwrap();
            json_patch::patch(&mut object, &patch).unwrap();
            prop_assert_eq!(&object["status"], &plain(&to));
        }
    }

    #[test]
    fn one_step_that_moves_on_is_one_change() {
        let entry = |id: &str, state| StepStatus { id: id.into(), state, ..StepStatus::default() };
        let status = |state| ExecutionPlanStatus {
            steps: vec![entry("s1", StepState::Completed), entry("s2", state), entry("s3", StepState::Pending)],
            ..ExecutionPlanStatus::default()
        };
        let changes = changes(&plain(&status(StepState::Pending)), &plain(&status(StepState::Running)));
        let paths: Vec<_> = changes.iter().map(|change| change["path"].as_str().unwrap()).collect();
        assert_eq!(paths, ["/status/steps/1"]);
    }
}
