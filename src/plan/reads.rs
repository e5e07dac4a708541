use super::Actor;
use crate::api::ObjectRef;
use crate::cluster::{Access, Asked, Attempt, Cluster, ClusterError, ListOptions, ResourceKind, Review};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// How a plan sees the cluster: as its service account, and only what the requester may see as well. Nothing is read before
/// the requester's permission for it was asked (SubjectAccessReview), so that nobody learns by a plan, a question or a
/// refusal what they could not read themselves.
///
/// What was looked up by name is not read a second time for its diff. What was listed is: the right to list does not show the right to read, which carrying it out takes.
///
/// A foreign change between the look-up and the dry run shows up in the diff as if the plan made it. That was so before,
/// for a shorter moment; the step's precondition finds the object changed since, and nothing is done.
pub struct Reads<'a> {
    access: &'a Access,
    cluster: &'a Cluster,
    requester: &'a Actor,
    known: Known,
    /// What the requester may do, by permission.
    answers: tokio::sync::Mutex<BTreeMap<String, bool>>,
}

/// Objects by reference, which has their version; `None` for one that is not there.
#[derive(Default)]
struct Known(Mutex<BTreeMap<ObjectRef, Option<Value>>>);

impl<'a> Reads<'a> {
    /// Nothing was read yet.
    #[must_use]
    pub fn new(access: &'a Access, cluster: &'a Cluster, requester: &'a Actor) -> Self {
        Self { access, cluster, requester, known: Known::default(), answers: tokio::sync::Mutex::default() }
    }

    /// The identity that reads.
    #[must_use]
    pub fn access(&self) -> &'a Access {
        self.access
    }

    /// One object as it was when it was read first; `None` when there was none of that name.
    ///
    /// # Errors
    /// As [`Access::get`]; [`ClusterError::Forbidden`] where the requester may not get it.
    pub async fn get(&self, kind: &ResourceKind, object: &ObjectRef) -> Result<Option<Value>, ClusterError> {
        let asked = asked(kind, "get", object.namespace.as_deref());
        if !self.may(&asked).await? {
            self.require(&Asked { name: Some(object.name.clone()), ..asked }, &format!("read {object}")).await?;
        }
        self.known.or_read(object, async || self.access.get(kind, object).await).await
    }

    /// The objects of a kind in a namespace, or in all of them.
    ///
    /// # Errors
    /// As [`Access::list`]; [`ClusterError::Forbidden`] where the requester may not list them.
    pub async fn list(
        &self,
        kind: &ResourceKind,
        namespace: Option<&str>,
        options: &ListOptions,
    ) -> Result<Vec<Value>, ClusterError> {
        self.require(&asked(kind, "list", namespace), &format!("list {}", kind.plural)).await?;
        self.access.list(kind, namespace, options).await
    }

    /// Whether the requester may get that namespace, and so may be told its name.
    ///
    /// # Errors
    /// When it could not be asked.
    pub async fn may_see_namespace(&self, name: &str) -> Result<bool, ClusterError> {
        let kinds = Asked { verb: "get".to_owned(), resource: "namespaces".to_owned(), ..Asked::default() };
        if self.may(&kinds).await? {
            return Ok(true);
        }
        // A role in a namespace may name the namespace itself.
        self.may(&Asked { namespace: Some(name.to_owned()), name: Some(name.to_owned()), ..kinds }).await
    }

    async fn require(&self, asked: &Asked, action: &str) -> Result<(), ClusterError> {
        if self.may(asked).await? {
            return Ok(());
        }
        let called = &self.requester.called;
        Err(ClusterError::Forbidden {
            attempt: Attempt { action: action.to_owned(), identity: called.clone() },
            message: format!("{called} may not {asked}"),
        })
    }

    async fn may(&self, asked: &Asked) -> Result<bool, ClusterError> {
        // Held while asking, so that many who want to know the same ask once.
        let mut answers = self.answers.lock().await;
        if let Some(answer) = answers.get(&asked.to_string()) {
            return Ok(*answer);
        }
        let answer = self.cluster.review(&self.requester.subject, asked).await? == Review::Allowed;
        answers.insert(asked.to_string(), answer);
        Ok(answer)
    }
}

fn asked(kind: &ResourceKind, verb: &str, namespace: Option<&str>) -> Asked {
    Asked {
        verb: verb.to_owned(),
        group: kind.group.clone(),
        resource: kind.plural.clone(),
        subresource: None,
        namespace: namespace.filter(|_| kind.namespaced).map(str::to_owned),
        name: None,
    }
}

impl Known {
    async fn or_read(
        &self,
        object: &ObjectRef,
        read: impl AsyncFnOnce() -> Result<Option<Value>, ClusterError>,
    ) -> Result<Option<Value>, ClusterError> {
        if let Some(known) = self.lock().get(object) {
            return Ok(known.clone());
        }
        let found = read().await?;
        // The first answer stands, whoever else asked meanwhile.
        Ok(self.lock().entry(object.clone()).or_insert(found).clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<ObjectRef, Option<Value>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Attempt;
    use serde_json::json;

    fn object(name: &str, marked: u32) -> Value {
        let metadata = json!({ "name": name, "namespace": "shop", "generation": marked });
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata })
    }

    fn named(name: &str) -> ObjectRef {
        ObjectRef::of(&object(name, 0)).unwrap()
    }

    async fn read(known: &Known, name: &str, answer: Option<Value>) -> Option<Value> {
        known.or_read(&named(name), async || Ok(answer)).await.unwrap()
    }

    #[tokio::test]
    async fn the_first_answer_stands() {
        let known = Known::default();
        assert_eq!(read(&known, "a", Some(object("a", 1))).await, Some(object("a", 1)));
        assert_eq!(read(&known, "b", None).await, None);
        for (name, found) in [("a", Some(object("a", 1))), ("b", None)] {
            let again = async || panic!("{name} was read before");
            assert_eq!(known.or_read(&named(name), again).await.unwrap(), found);
        }
        let other = ObjectRef { api_version: "v2".into(), ..named("a") };
        let found = known.or_read(&other, async || Ok(None)).await.unwrap();
        assert_eq!(found, None, "another version of it shows other fields");
    }

    #[tokio::test]
    async fn a_read_that_failed_is_made_again() {
        let known = Known::default();
        let attempt = Attempt { action: "read a".into(), identity: "deployer".into() };
        let error = ClusterError::Forbidden { attempt, message: "no".into() };
        let failed = known.or_read(&named("a"), async || Err(error)).await;
        assert!(failed.is_err());
        assert_eq!(read(&known, "a", Some(object("a", 1))).await, Some(object("a", 1)));
    }
}
