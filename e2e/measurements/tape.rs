//! What a collection looks like now, kept by one watch, so that waiting for several objects costs no more than for one.

use futures::StreamExt;
use kube::api::Api;
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;
use tokio::sync::watch;

/// What takes longer does not happen at all.
const PATIENCE: Duration = Duration::from_secs(900);

/// The objects of a collection by name, as a watch tells them.
pub struct Tape<K> {
    seen: watch::Receiver<BTreeMap<String, K>>,
    task: tokio::task::JoinHandle<()>,
}

impl<K> Tape<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    /// Begins to watch; comes back when the first list is there.
    pub async fn of(objects: Api<K>) -> Self {
        let (sender, seen) = watch::channel(BTreeMap::new());
        let (listed, ready) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(async move {
            let mut listed = Some(listed);
            let mut events = std::pin::pin!(watcher(objects, Config::default()));
            while let Some(event) = events.next().await {
                match event {
                    Ok(Event::Apply(object) | Event::InitApply(object)) => {
                        sender.send_modify(|objects| drop(objects.insert(object.name_any(), object)));
                    }
                    Ok(Event::Delete(object)) => sender.send_modify(|objects| drop(objects.remove(&object.name_any()))),
                    Ok(Event::InitDone) => drop(listed.take().map(|listed| listed.send(()))),
                    Ok(Event::Init) | Err(_) => {}
                }
            }
        });
        ready.await.unwrap();
        Self { seen, task }
    }

    /// Waits until `look` finds what it looks for.
    pub async fn until<T>(&mut self, what: &str, mut look: impl FnMut(&BTreeMap<String, K>) -> Option<T>) -> T {
        let wait = async {
            loop {
                if let Some(found) = look(&self.seen.borrow_and_update()) {
                    return found;
                }
                self.seen.changed().await.unwrap();
            }
        };
        let found = tokio::time::timeout(PATIENCE, wait).await;
        found.unwrap_or_else(|_| panic!("after {PATIENCE:?} still not: {what}"))
    }
}

impl<K> Drop for Tape<K> {
    fn drop(&mut self) {
        self.task.abort();
    }
}
