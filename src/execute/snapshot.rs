use crate::api::FieldChange;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, PostParams};
use kube::{Client, ResourceExt};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Label on a snapshot with the uid of the plan that it belongs to.
const PLAN_UID_LABEL: &str = "countersign.dev/plan-uid";
/// How much of a snapshot one Secret holds (the API server's limit is 1 MiB for all data together).
const PART: usize = 1_000_000;
/// In how many Secrets a snapshot may be split. An object itself is at most 1.5 MiB; its changes hold it twice more.
const MAX_PARTS: usize = 8;
/// Annotation on the first part with the number of all.
const PARTS_ANNOTATION: &str = "countersign.dev/parts";
/// Key of the compressed snapshot within the Secret.
const KEY: &str = "snapshot.json.zst";

/// What has to be known to put one step back.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// The whole live object before the mutation; absent when there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    /// What the mutation changes, nothing redacted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<FieldChange>,
}

/// Why a snapshot could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The compressed object does not fit into the Secrets that it may take.
    #[error(
        "the snapshot of the object takes {bytes} bytes compressed, and {} fit: nothing was touched, because it could not be put back",
        PART * MAX_PARTS
    )]
    TooLarge {
        /// Size after compression.
        bytes: usize,
    },
    /// The API server refused.
    #[error("snapshot {name} could not be {doing}: {source}")]
    Cluster {
        /// The Secret.
        name: String,
        /// `stored`, `read`, `listed`, `removed`.
        doing: &'static str,
        /// The API server's answer.
        source: Box<kube::Error>,
    },
    /// The Secret is there, but it is no snapshot.
    #[error("snapshot {name} is damaged: {reason}")]
    Damaged {
        /// The Secret.
        name: String,
        /// What is wrong.
        reason: String,
    },
}

impl SnapshotError {
    fn of_plan(plan_uid: &str, doing: &'static str, source: kube::Error) -> Self {
        Self::Cluster { name: format!("of plan {plan_uid}"), doing, source: Box::new(source) }
    }

    /// Whether trying again may help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Cluster { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => status.code == 429 || status.code >= 500 || status.code == 409,
                _ => true,
            },
            _ => false,
        }
    }
}

/// Snapshots as Secrets in the operator's own namespace, so that they outlive the namespaces that they come from.
#[derive(Clone)]
pub struct SnapshotStore {
    secrets: Api<Secret>,
}

impl SnapshotStore {
    /// A store in `namespace`.
    #[must_use]
    pub fn new(client: Client, namespace: &str) -> Self {
        Self { secrets: Api::namespaced(client, namespace) }
    }

    /// A name for a snapshot of a step, another one at every try: whoever works from an outdated journal must not take away what
    /// the journal rests on by now. Only the one that the journal names is ever read; the others go with the plan.
    #[must_use]
    pub fn name(plan_uid: &str, step: &str) -> String {
        format!("snapshot-{plan_uid}-{step}-{:08x}", rand::random::<u32>())
    }

    /// Stores a snapshot and gives its name.
    ///
    /// # Errors
    /// [`SnapshotError::TooLarge`] before anything is written, or the API server's refusal.
    pub async fn store(&self, plan_uid: &str, step: &str, snapshot: &Snapshot) -> Result<String, SnapshotError> {
        let name = Self::name(plan_uid, step);
        let data = pack(&name, snapshot)?;
        let parts: Vec<&[u8]> = data.chunks(PART).collect();
        // The first part counts the others: where it is there, they are.
        for (number, part) in parts.iter().enumerate().rev() {
            let name = part_name(&name, number);
            let count = (number == 0).then(|| BTreeMap::from([(PARTS_ANNOTATION.to_owned(), parts.len().to_string())]));
            let secret = Secret {
                metadata: ObjectMeta {
                    name: Some(name.clone()),
                    labels: Some(BTreeMap::from([(PLAN_UID_LABEL.to_owned(), plan_uid.to_owned())])),
                    annotations: count,
                    ..ObjectMeta::default()
                },
                data: Some(BTreeMap::from([(KEY.to_owned(), ByteString(part.to_vec()))])),
                type_: Some("countersign.dev/snapshot".to_owned()),
                ..Secret::default()
            };
            self.put(&secret).await.map_err(|source| SnapshotError::Cluster {
                name: name.clone(),
                doing: "stored",
                source: Box::new(source),
            })?;
        }
        Ok(name)
    }

    /// Creates the Secret. One with the same content is what an earlier request made whose answer was lost, or one that
    /// something on the way sent twice.
    async fn put(&self, secret: &Secret) -> Result<(), kube::Error> {
        let taken = match self.secrets.create(&PostParams::default(), secret).await {
            Err(kube::Error::Api(status)) if status.code == 409 && status.reason == "AlreadyExists" => status,
            done => return done.map(|_| ()),
        };
        let there = self.secrets.get_opt(&secret.name_any()).await?;
        let same = |there: &Secret| there.data == secret.data && there.annotations() == secret.annotations();
        if there.as_ref().is_some_and(same) { Ok(()) } else { Err(kube::Error::Api(taken)) }
    }

    /// Reads a snapshot.
    ///
    /// # Errors
    /// When it is missing, damaged, or the API server refuses.
    pub async fn load(&self, name: &str) -> Result<Snapshot, SnapshotError> {
        let (mut data, parts) = self.part(name, 0).await?;
        for number in 1..parts {
            data.extend(self.part(name, number).await?.0);
        }
        unpack(name, &data)
    }

    /// One part, and how many it says there are.
    async fn part(&self, name: &str, number: usize) -> Result<(Vec<u8>, usize), SnapshotError> {
        let name = part_name(name, number);
        let secret = self.secrets.get(&name).await.map_err(|source| SnapshotError::Cluster {
            name: name.clone(),
            doing: "read",
            source: Box::new(source),
        })?;
        let parts = secret.annotations().get(PARTS_ANNOTATION).map_or(Ok(1), |parts| parts.parse());
        let parts: usize = parts.map_err(|error| damaged(&name, format!("the number of its parts: {error}")))?;
        let data = secret.data.and_then(|mut data| data.remove(KEY));
        let data = data.ok_or_else(|| damaged(&name, format!("it has no key {KEY}")))?;
        Ok((data.0, parts.min(MAX_PARTS)))
    }

    /// Removes all snapshots of a plan.
    ///
    /// # Errors
    /// The API server's refusal.
    pub async fn remove(&self, plan_uid: &str) -> Result<(), SnapshotError> {
        self.remove_if(plan_uid, |_| true).await
    }

    /// Removes some snapshots of a plan, by name.
    ///
    /// # Errors
    /// The API server's refusal.
    pub async fn remove_some(&self, plan_uid: &str, names: &[String]) -> Result<(), SnapshotError> {
        let names: BTreeSet<&str> = names.iter().map(String::as_str).collect();
        self.remove_if(plan_uid, |name| names.contains(name)).await
    }

    async fn remove_if(&self, plan_uid: &str, wanted: impl Fn(&str) -> bool) -> Result<(), SnapshotError> {
        for part in self.parts(plan_uid).await?.into_iter().filter(|part| wanted(whole_name(part))) {
            match self.secrets.delete(&part, &DeleteParams::default()).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(source) => return Err(SnapshotError::of_plan(plan_uid, "removed", source)),
            }
        }
        Ok(())
    }

    /// The names of all snapshots of a plan, also of those that were not stored to their end.
    ///
    /// # Errors
    /// The API server's refusal.
    pub async fn names(&self, plan_uid: &str) -> Result<BTreeSet<String>, SnapshotError> {
        Ok(self.parts(plan_uid).await?.iter().map(|part| whole_name(part).to_owned()).collect())
    }

    async fn parts(&self, plan_uid: &str) -> Result<Vec<String>, SnapshotError> {
        let params = ListParams::default().labels(&format!("{PLAN_UID_LABEL}={plan_uid}"));
        let listed = self.secrets.list_metadata(&params).await;
        let listed = listed.map_err(|source| SnapshotError::of_plan(plan_uid, "listed", source))?;
        Ok(listed.items.iter().map(ResourceExt::name_any).collect())
    }
}

/// The first part has the name of the snapshot itself. No step's name has a dot.
fn part_name(name: &str, number: usize) -> String {
    if number == 0 { name.to_owned() } else { format!("{name}.{number}") }
}

/// Of which snapshot a part is.
fn whole_name(part: &str) -> &str {
    part.split_once('.').map_or(part, |(name, _)| name)
}

fn damaged(name: &str, reason: impl std::fmt::Display) -> SnapshotError {
    SnapshotError::Damaged { name: name.to_owned(), reason: reason.to_string() }
}

fn pack(name: &str, snapshot: &Snapshot) -> Result<Vec<u8>, SnapshotError> {
    let json = serde_json::to_vec(snapshot).map_err(|error| damaged(name, error))?;
    let data = compress(&json).map_err(|error| damaged(name, error))?;
    if data.len() > PART * MAX_PARTS {
        return Err(SnapshotError::TooLarge { bytes: data.len() });
    }
    Ok(data)
}

/// With a checksum: parts of two tries do not make a snapshot.
fn compress(json: &[u8]) -> std::io::Result<Vec<u8>> {
    // Knowing the size beforehand, it takes no more memory than that: most objects are small.
    let mut compressor = zstd::bulk::Compressor::new(3)?;
    compressor.include_checksum(true)?;
    compressor.compress(json)
}

fn unpack(name: &str, data: &[u8]) -> Result<Snapshot, SnapshotError> {
    let json = zstd::decode_all(data).map_err(|error| damaged(name, error))?;
    serde_json::from_slice(&json).map_err(|error| damaged(name, error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn snapshots_come_back_as_they_were() {
        let snapshot = Snapshot {
            before: Some(json!({ "kind": "ConfigMap", "data": { "a": "b".repeat(10_000) } })),
            changes: vec![FieldChange { path: "data.a".into(), from: None, to: Some(json!("x")), redacted: false }],
        };
        let data = pack("s", &snapshot).unwrap();
        assert!(data.len() < 1000, "{} bytes", data.len());
        assert_eq!(unpack("s", &data).unwrap(), snapshot);
    }

    /// Text that does not compress well, by a linear congruential generator.
    fn noise(length: usize) -> String {
        let mut state: u64 = 1;
        let next = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(33 + u8::try_from((state >> 33) % 90).unwrap())
        };
        (0..length).map(next).collect()
    }

    #[test]
    fn what_does_not_fit_is_refused_before_anything_is_written() {
        let snapshot = |length: usize| Snapshot { before: Some(json!({ "data": noise(length) })), changes: vec![] };
        assert!(matches!(pack("s", &snapshot(11_000_000)), Err(SnapshotError::TooLarge { .. })));
        assert!(pack("s", &snapshot(1_500_000)).unwrap().len() > PART, "the largest object takes two parts");
    }

    #[test]
    fn parts_of_two_tries_are_no_snapshot() {
        let snapshot =
            |first: &str| Snapshot { before: Some(json!({ "a": first, "data": noise(1_500_000) })), changes: vec![] };
        let (one, other) = (pack("s", &snapshot("one")).unwrap(), pack("s", &snapshot("two")).unwrap());
        assert_eq!(one.len(), other.len());
        let torn = [&one[..PART], &other[PART..]].concat();
        assert!(unpack("s", &one).is_ok());
        assert!(matches!(unpack("s", &torn), Err(SnapshotError::Damaged { .. })));
        let mut bent = one;
        let middle = bent.len() / 2;
        bent[middle] ^= 1;
        assert!(matches!(unpack("s", &bent), Err(SnapshotError::Damaged { .. })));
    }

    #[test]
    fn damage_is_told_apart() {
        assert!(matches!(unpack("s", b"nonsense"), Err(SnapshotError::Damaged { .. })));
    }
}
