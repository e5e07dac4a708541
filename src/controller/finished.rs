//! Finished objects, which the reconcilers do not watch.
//!
//! Their metadata is listened to without keeping any of it: a finished plan that is deleted has snapshots to remove, one
//! that is to be put back returns to the active ones, and so does a finished command whose request was edited. The label
//! `countersign.dev/finished` holds the generation that it was set for; annotations beside it say when the object finished,
//! and when it is to go.

use super::command::{is_asked_anew, mark_finished};
use super::context::{Context, Error, while_doing};
use super::history::History;
use super::plan::clean_up;
use super::retention::{self, Archive, Kept, keep_in_bounds};
use crate::api::{
    AgentCommand, CommandPhase, EXPIRES_AT_ANNOTATION, ExecutionPlan, FINISHED_AT_ANNOTATION, FINISHED_LABEL,
    is_asked_back,
};
use crate::cluster::{WATCH_PAUSE, watch_backoff};
use crate::execute::can_be_put_back;
use futures::StreamExt;
use k8s_openapi::jiff::Timestamp;
use kube::Resource;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::InitialListStrategy::{ListWatch, StreamingList};
use kube::runtime::watcher::{self, Config, Event, watcher};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

/// How often one object is tried before the next event of it has to do.
const TRIES: u32 = 5;

/// Looks after finished plans for as long as it is polled. A namespace holds `limit` of those that belong to no command;
/// as many as there are when it is 0.
pub(super) async fn plans(context: Arc<Context>, limit: usize) {
    let archive = Archive::new(limit);
    let listening = listen::<ExecutionPlan, _>(&context, &archive, async |meta| plan(meta, &context).await);
    tokio::join!(listening, keep_in_bounds::<ExecutionPlan>(&archive, &context));
}

/// Looks after finished commands for as long as it is polled. A namespace holds `limit` of them; as many as there are when
/// it is 0.
pub(super) async fn commands(context: Arc<Context>, limit: usize) {
    let archive = Archive::new(limit);
    let listening = listen::<AgentCommand, _>(&context, &archive, async |meta| command(meta, &context).await);
    tokio::join!(listening, keep_in_bounds::<AgentCommand>(&archive, &context));
}

async fn listen<K, F>(context: &Context, archive: &Archive, handle: F)
where
    K: Kept,
    F: AsyncFn(&ObjectMeta) -> Result<(), Error>,
{
    // One after the other from the server's cache, so that what is stored is in memory neither here nor there.
    let mut config = Config::default().labels(FINISHED_LABEL).streaming_lists();
    loop {
        let objects: Api<PartialObjectMeta<K>> = Api::all(context.cluster.watching_client());
        let finished = watcher(objects, config.clone()).backoff(watch_backoff(WATCH_PAUSE));
        let mut finished = std::pin::pin!(finished);
        while let Some(seen) = finished.next().await {
            match seen {
                Ok(event) => {
                    note::<K>(&event, archive);
                    if let Event::Apply(object) | Event::InitApply(object) = event {
                        look_after(&object.metadata, &handle).await;
                    }
                }
                Err(error) if config.initial_list_strategy == StreamingList && knows_no_streaming(&error) => break,
                // The watcher has taken itself up again already; what failed was logged by it.
                Err(_) => {}
            }
        }
        config.initial_list_strategy = ListWatch;
    }
}

/// Keeps the history in line with what is stored.
fn note<K: Kept>(event: &Event<PartialObjectMeta<K>>, archive: &Archive) {
    match event {
        Event::Init => archive.change(History::restart),
        Event::InitDone => archive.change(History::complete),
        Event::Apply(object) | Event::InitApply(object) if K::counts(&object.metadata) => {
            archive.change(|history| history.add(&retention::finished(&object.metadata)));
        }
        Event::Delete(object) if K::counts(&object.metadata) => {
            archive.change(|history| history.remove(&retention::finished(&object.metadata)));
        }
        Event::Apply(_) | Event::InitApply(_) | Event::Delete(_) => {}
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
    if !is_asked_back(meta) {
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
    unmark(context, &plans, name).await
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
    unmark(context, &commands, command).await
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
    if is_asked_anew(&command) {
        unmark(context, &commands, name).await
    } else {
        mark_finished(&command, context).await
    }
}

/// Sets the label of finished objects for a generation, with the times when the object finished and when it is to go.
pub(super) async fn mark<K>(
    context: &Context,
    objects: &Api<K>,
    meta: &ObjectMeta,
    finished: Option<Timestamp>,
    expires: Option<Timestamp>,
) -> Result<(), Error>
where
    K: Resource + Clone + Debug + DeserializeOwned,
{
    let generation = meta.generation.unwrap_or(0).to_string();
    let body = json!({
        // Another one of that name has not finished.
        "uid": meta.uid,
        "labels": { FINISHED_LABEL: generation },
        "annotations": { FINISHED_AT_ANNOTATION: finished, EXPIRES_AT_ANNOTATION: expires },
    });
    label(context, objects, meta.name.as_deref().unwrap_or_default(), &body).await
}

/// Takes the label of finished objects off: the object is active again.
pub(super) async fn unmark<K>(context: &Context, objects: &Api<K>, name: &str) -> Result<(), Error>
where
    K: Resource + Clone + Debug + DeserializeOwned,
{
    let body = json!({
        "labels": { FINISHED_LABEL: null },
        "annotations": { FINISHED_AT_ANNOTATION: null, EXPIRES_AT_ANNOTATION: null },
    });
    label(context, objects, name, &body).await
}

async fn label<K>(context: &Context, objects: &Api<K>, name: &str, metadata: &Value) -> Result<(), Error>
where
    K: Resource + Clone + Debug + DeserializeOwned,
{
    let patch = json!({ "metadata": metadata });
    let patched = objects.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await;
    context.written.note(patched.map_err(while_doing("marking an object as finished"))?.meta());
    Ok(())
}

fn place(meta: &ObjectMeta) -> (&str, &str) {
    (meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
}
