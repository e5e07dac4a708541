//! Finished objects, which the reconcilers do not watch.
//!
//! Their metadata is listened to without keeping any of it: a finished plan that is deleted has snapshots to remove, one
//! that is to be put back returns to the active ones, and so does a finished command whose request was edited. The label
//! `countersign.dev/finished` holds the generation that it was set for.

use super::command::request_digest;
use super::context::{Context, Error, while_doing};
use super::plan::clean_up;
use crate::api::{AgentCommand, CommandPhase, ExecutionPlan, FINISHED_LABEL, REQUEST_ANNOTATION};
use crate::cluster::{WATCH_PAUSE, watch_backoff};
use crate::execute::can_be_put_back;
use futures::StreamExt;
use kube::Resource;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::InitialListStrategy::{ListWatch, StreamingList};
use kube::runtime::watcher::{self, Config, watcher};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

/// How often one object is tried before the next event of it has to do.
const TRIES: u32 = 5;

/// Listens to finished plans for as long as it is polled.
pub(super) async fn plans(context: Arc<Context>) {
    listen::<ExecutionPlan, _>(&context, async |meta| plan(meta, &context).await).await;
}

/// Listens to finished commands for as long as it is polled.
pub(super) async fn commands(context: Arc<Context>) {
    listen::<AgentCommand, _>(&context, async |meta| command(meta, &context).await).await;
}

async fn listen<K, F>(context: &Context, handle: F)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    F: AsyncFn(&ObjectMeta) -> Result<(), Error>,
{
    // One after the other from the server's cache, so that what is stored is in memory neither here nor there.
    let mut config = Config::default().labels(FINISHED_LABEL).streaming_lists();
    loop {
        let objects: Api<PartialObjectMeta<K>> = Api::all(context.cluster.watching_client());
        let finished = watcher(objects, config.clone()).backoff(watch_backoff(WATCH_PAUSE));
        let mut finished = std::pin::pin!(finished.applied_objects());
        while let Some(seen) = finished.next().await {
            match seen {
                Ok(object) => look_after(&object.metadata, &handle).await,
                Err(error) if config.initial_list_strategy == StreamingList && knows_no_streaming(&error) => break,
                // The watcher has taken itself up again already; what failed was logged by it.
                Err(_) => {}
            }
        }
        config.initial_list_strategy = ListWatch;
    }
}

/// Whether the API server is one that does not stream lists (before Kubernetes 1.34, or by configuration).
fn knows_no_streaming(error: &watcher::Error) -> bool {
    let (watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error)) = error else {
        return false;
    };
    matches!(error, kube::Error::Api(status) if status.code == 422)
}

async fn look_after(meta: &ObjectMeta, handle: impl AsyncFn(&ObjectMeta) -> Result<(), Error>) {
    let mut pause = Duration::from_millis(200);
    for attempt in 1..=TRIES {
        match handle(meta).await {
            Ok(()) => break,
            Err(error) if error.is_outdated() || error.is_gone() => break,
            Err(error) if attempt == TRIES => {
                tracing::warn!(name = meta.name, %error, "a finished object could not be looked after");
            }
            Err(_) => {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
        }
    }
}

async fn plan(meta: &ObjectMeta, context: &Context) -> Result<(), Error> {
    if meta.deletion_timestamp.is_some() {
        return clean_up(meta, context).await;
    }
    let request = meta.annotations.as_ref().and_then(|annotations| annotations.get(REQUEST_ANNOTATION));
    if request.map(String::as_str) != Some("rollback") {
        return Ok(());
    }
    let (namespace, name) = place(meta);
    let plans: Api<ExecutionPlan> = Api::namespaced(context.client.clone(), namespace);
    let Some(plan) = plans.get_opt(name).await.map_err(while_doing("reading a finished plan"))? else { return Ok(()) };
    if !plan.status.as_ref().is_some_and(can_be_put_back) {
        return Ok(());
    }
    if let Some(reference) = &plan.spec.command_ref {
        reopen(context, namespace, &reference.name, name).await?;
    }
    mark(context, &plans, name, &Value::Null).await
}

/// Lets the command of a plan that is put back follow it again.
async fn reopen(context: &Context, namespace: &str, command: &str, plan: &str) -> Result<(), Error> {
    let commands: Api<AgentCommand> = Api::namespaced(context.client.clone(), namespace);
    let found = commands.get_opt(command).await.map_err(while_doing("reading a finished command"))?;
    let Some(mut found) = found else { return Ok(()) };
    let Some(status) = found.status.as_mut() else { return Ok(()) };
    if status.plan.as_ref().is_none_or(|current| current.name != plan) {
        return Ok(());
    }
    status.phase = Some(CommandPhase::RollingBack);
    status.finished_at = None;
    let written = commands.replace_status(command, &PostParams::default(), &found).await;
    written.map_err(while_doing("taking a finished command up again"))?;
    mark(context, &commands, command, &Value::Null).await
}

async fn command(meta: &ObjectMeta, context: &Context) -> Result<(), Error> {
    let generation = meta.generation.unwrap_or(0).to_string();
    let marked = meta.labels.as_ref().and_then(|labels| labels.get(FINISHED_LABEL));
    if meta.deletion_timestamp.is_some() || marked == Some(&generation) {
        return Ok(());
    }
    let (namespace, name) = place(meta);
    let commands: Api<AgentCommand> = Api::namespaced(context.client.clone(), namespace);
    let command = commands.get_opt(name).await.map_err(while_doing("reading a finished command"))?;
    let Some(command) = command else { return Ok(()) };
    let answered = command.status.as_ref().and_then(|status| status.request_digest.clone());
    let asks_again = answered.as_deref() != Some(request_digest(&command.spec).as_str());
    let is_to_go = command.spec.ttl_after_finished.is_some();
    let value = if asks_again || is_to_go { Value::Null } else { json!(generation) };
    mark(context, &commands, name, &value).await
}

/// Sets the label of finished objects, or takes it off (`null`).
pub(super) async fn mark<K>(context: &Context, objects: &Api<K>, name: &str, value: &Value) -> Result<(), Error>
where
    K: Resource + Clone + Debug + DeserializeOwned,
{
    let patch = json!({ "metadata": { "labels": { FINISHED_LABEL: value } } });
    let patched = objects.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await;
    context.written.note(patched.map_err(while_doing("marking an object as finished"))?.meta());
    Ok(())
}

fn place(meta: &ObjectMeta) -> (&str, &str) {
    (meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
}
