use super::{Access, Catalog, WATCH_PAUSE, watch_backoff};
use crate::api::ObjectRef;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{Config, watcher};

/// Kinds whose pods tell more than the object itself does.
const WORKLOADS: [(&str, &str); 5] =
    [("apps", "Deployment"), ("apps", "StatefulSet"), ("apps", "DaemonSet"), ("apps", "ReplicaSet"), ("batch", "Job")];

impl Access {
    /// An item for every change of a pod in the namespace of a workload; never an item for other kinds. It tells only
    /// that it is time to look again: which pods belong to the workload is decided by whoever looks.
    pub async fn watch_pods(&self, catalog: &Catalog, workload: &ObjectRef) -> BoxStream<'static, ()> {
        let is_workload = WORKLOADS.contains(&(workload.group(), workload.kind.as_str()));
        let Some(namespace) = workload.namespace.as_deref().filter(|_| is_workload && catalog.of(workload).is_some())
        else {
            return stream::pending().boxed();
        };
        let pods: Api<PartialObjectMeta<Pod>> = Api::namespaced(self.client.clone(), namespace);
        watcher(pods, Config::default())
            .backoff(watch_backoff(WATCH_PAUSE))
            .touched_objects()
            .filter_map(|seen| async move { seen.is_ok().then_some(()) })
            .boxed()
    }
}
