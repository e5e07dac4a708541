use super::context::Error;
use crate::plan::Namespace;
use k8s_openapi::api::core::v1;
use kube::api::{ListParams, ObjectMeta};
use kube::{Api, Client};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// How old a list may be that serves several commands.
const LIFETIME: Duration = Duration::from_secs(2);

/// The namespaces of the cluster with their labels, listed once for all commands that ask within a short moment.
///
/// A shared list is never older than the request that it serves: whoever makes a namespace, or gives it another label, and
/// asks after that is judged by it. What changes within the lifetime of a list after a request has come is as if it had
/// changed a moment later: no order of the two was promised. A plan that was approved, or has waited, is judged by a list
/// of its own.
#[derive(Default)]
pub(super) struct Namespaces {
    /// Locked while it is listed, so that those who ask meanwhile share the answer.
    last: Mutex<Option<Listed>>,
}

struct Listed {
    begun: Instant,
    /// As of which resource version.
    version: Option<u64>,
    namespaces: Arc<Vec<Namespace>>,
}

/// How new a list has to be.
#[derive(Clone, Copy)]
pub(super) enum AsOf<'a> {
    /// As new as that object, as far as resource versions tell. They count all writes to one etcd; where namespaces are
    /// kept in another, age alone decides.
    Request(&'a ObjectMeta),
    /// Whatever is shared.
    Lately,
    /// Read after that moment.
    Moment(Instant),
}

impl Namespaces {
    /// The namespaces, by a list of before or by a new one.
    pub async fn get(&self, as_of: AsOf<'_>, client: &Client) -> Result<Arc<Vec<Namespace>>, Error> {
        self.get_by(as_of, async || list(client).await).await
    }

    async fn get_by(
        &self,
        as_of: AsOf<'_>,
        list: impl AsyncFnOnce() -> Result<(Option<u64>, Vec<Namespace>), Error>,
    ) -> Result<Arc<Vec<Namespace>>, Error> {
        let mut last = self.last.lock().await;
        if let Some(known) = last.as_ref().filter(|known| known.serves(as_of)) {
            return Ok(Arc::clone(&known.namespaces));
        }
        let begun = Instant::now();
        let (version, namespaces) = list().await?;
        let namespaces = Arc::new(namespaces);
        *last = Some(Listed { begun, version, namespaces: Arc::clone(&namespaces) });
        Ok(namespaces)
    }
}

impl Listed {
    fn serves(&self, as_of: AsOf<'_>) -> bool {
        match as_of {
            AsOf::Request(meta) => {
                let asked = meta.resource_version.as_deref().and_then(|version| version.parse::<u64>().ok());
                self.is_recent() && asked.is_some() && self.version >= asked
            }
            AsOf::Lately => self.is_recent(),
            AsOf::Moment(moment) => self.begun >= moment,
        }
    }

    fn is_recent(&self) -> bool {
        self.begun.elapsed() < LIFETIME
    }
}

async fn list(client: &Client) -> Result<(Option<u64>, Vec<Namespace>), Error> {
    let namespaces: Api<v1::Namespace> = Api::all(client.clone());
    let list = namespaces.list_metadata(&ListParams::default()).await;
    let list = list.map_err(super::context::while_doing("reading the namespaces"))?;
    let version = list.metadata.resource_version.and_then(|version| version.parse().ok());
    let namespace = |meta: ObjectMeta| Some(Namespace { name: meta.name?, labels: meta.labels.unwrap_or_default() });
    Ok((version, list.items.into_iter().filter_map(|item| namespace(item.metadata)).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// A cluster whose every list is one version later, and says so by the name of its only namespace.
    #[derive(Default)]
    struct Lists {
        shared: Namespaces,
        made: AtomicU64,
    }

    impl Lists {
        async fn get(&self, as_of: AsOf<'_>) -> String {
            let list = async || {
                let version = self.made.fetch_add(1, Ordering::SeqCst) + 1;
                tokio::task::yield_now().await;
                Ok((Some(version), vec![Namespace { name: version.to_string(), labels: BTreeMap::new() }]))
            };
            self.shared.get_by(as_of, list).await.unwrap()[0].name.clone()
        }
    }

    fn written(version: &str) -> ObjectMeta {
        ObjectMeta { resource_version: Some(version.into()), ..ObjectMeta::default() }
    }

    #[tokio::test]
    async fn those_who_ask_at_once_share_a_list() {
        let lists = Lists::default();
        let request = written("1");
        let asked = (0..10).map(|_| lists.get(AsOf::Request(&request)));
        assert_eq!(futures::future::join_all(asked).await, vec!["1"; 10]);
        assert_eq!(lists.get(AsOf::Lately).await, "1");
    }

    #[tokio::test]
    async fn no_list_is_older_than_the_request_that_it_serves() {
        let lists = Lists::default();
        assert_eq!(lists.get(AsOf::Request(&written("1"))).await, "1");
        assert_eq!(lists.get(AsOf::Request(&written("2"))).await, "2");
        assert_eq!(lists.get(AsOf::Request(&written("1"))).await, "2");
        // A server that counts otherwise shares nothing.
        assert_eq!(lists.get(AsOf::Request(&written("x1"))).await, "3");
        assert_eq!(lists.get(AsOf::Request(&ObjectMeta::default())).await, "4");
    }

    #[tokio::test]
    async fn whoever_needs_a_new_list_waits_for_one_that_begins_after_that() {
        let lists = Lists::default();
        assert_eq!(lists.get(AsOf::Lately).await, "1");
        let now = Instant::now();
        assert_eq!(lists.get(AsOf::Moment(now)).await, "2");
        assert_eq!(lists.get(AsOf::Moment(now)).await, "2");
    }

    #[tokio::test]
    async fn an_old_list_serves_nobody() {
        let lists = Lists::default();
        assert_eq!(lists.get(AsOf::Lately).await, "1");
        let long_ago = Instant::now().checked_sub(LIFETIME).unwrap();
        lists.shared.last.lock().await.as_mut().unwrap().begun = long_ago;
        assert_eq!(lists.get(AsOf::Request(&written("1"))).await, "2");
        lists.shared.last.lock().await.as_mut().unwrap().begun = long_ago;
        assert_eq!(lists.get(AsOf::Lately).await, "3");
    }
}
