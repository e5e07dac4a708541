//! What a reconciler works off: one watch of its kind, whose objects are kept, and what others ask to be looked at.
//!
//! Commands and plans wake each other. A watch of the other kind beside each one's own would do that as well, and have the
//! API server send, and this process read, every change twice.

use crate::execute::finished;
use futures::channel::mpsc;
use futures::stream::{BoxStream, SelectAll};
use futures::{FutureExt, Stream, StreamExt, future, stream};
use kube::Resource;
use kube::runtime::controller::{self, Action, Config, applier};
use kube::runtime::reflector::{self, Lookup, ObjectRef, Store};
use kube::runtime::watcher::{self, Event};
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

/// What a watch showed. The store has it by then.
pub(super) enum Seen<'a, K> {
    /// One object changed, or is gone from what is watched.
    One(&'a K),
    /// Everything was listed anew. What was deleted since the watch before is told by nothing else.
    All,
}

/// The objects of one kind, and which of them are to be reconciled.
pub(super) struct Queue<K: Resource<DynamicType = ()> + 'static> {
    store: Store<K>,
    items: SelectAll<BoxStream<'static, Item<K>>>,
}

type Item<K> = Result<ObjectRef<K>, watcher::Error>;

/// Brings objects to their reconciler without a word from the API server.
#[derive(Clone)]
pub(super) struct Trigger<K: Resource<DynamicType = ()>>(mpsc::UnboundedSender<ObjectRef<K>>);

/// A trigger, and what it is pulled for.
pub(super) fn trigger<K: Resource<DynamicType = ()>>() -> (Trigger<K>, mpsc::UnboundedReceiver<ObjectRef<K>>) {
    let (sender, receiver) = mpsc::unbounded();
    (Trigger(sender), receiver)
}

impl<K: Resource<DynamicType = ()>> Trigger<K> {
    /// Asks for an object to be reconciled. One that the store does not have is left alone.
    pub fn pull(&self, object: ObjectRef<K>) {
        // Nobody listens any more only while the operator stops.
        let _ = self.0.unbounded_send(object);
    }
}

impl<K> Queue<K>
where
    K: Resource<DynamicType = ()> + Lookup<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    /// Keeps what `events` show and reconciles every object that they touch, but for changes that are no `news`. `seen` hears
    /// of each change.
    pub fn of(
        events: impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static,
        news: impl Fn(&K) -> bool + Send + 'static,
        seen: impl Fn(Seen<'_, K>) + Send + 'static,
    ) -> Self {
        let (store, writer) = reflector::store();
        let listed = store.clone();
        let touched = reflector::reflector(writer, events).flat_map(move |event| {
            let event = match event {
                Ok(event) => event,
                Err(error) => return stream::once(future::ready(Err(error))).left_stream(),
            };
            let touched = match &event {
                Event::Apply(object) => {
                    seen(Seen::One(object));
                    Vec::from_iter(news(object).then(|| ObjectRef::from_obj(object)))
                }
                Event::Delete(object) => {
                    seen(Seen::One(object));
                    Vec::new()
                }
                Event::InitDone => {
                    seen(Seen::All);
                    references(&listed)
                }
                // The store takes in a list as a whole.
                Event::Init | Event::InitApply(_) => Vec::new(),
            };
            stream::iter(touched.into_iter().map(Ok)).right_stream()
        });
        Self { store, items: SelectAll::from_iter([touched.boxed()]) }
    }

    /// The objects as the watch showed them last.
    pub fn store(&self) -> Store<K> {
        self.store.clone()
    }

    /// Reconciles what `items` name as well.
    #[must_use]
    pub fn and(mut self, items: impl Stream<Item = Item<K>> + Send + 'static) -> Self {
        self.items.push(items.boxed());
        self
    }

    /// Reconciles every object whenever `changes` has one.
    #[must_use]
    pub fn all_on(self, changes: impl Stream<Item = ()> + Send + 'static) -> Self {
        let store = self.store();
        self.and(changes.flat_map(move |()| stream::iter(references(&store).into_iter().map(Ok))))
    }

    /// Reconciles, at most `workers` objects at once and none of them twice at the same time, until `stop` is cancelled and
    /// what was begun has ended.
    pub fn run<C, R, E>(
        self,
        reconcile: impl Fn(Arc<K>, Arc<C>) -> R,
        on_error: impl Fn(Arc<K>, &E, Arc<C>) -> Action,
        context: Arc<C>,
        workers: u16,
        stop: CancellationToken,
    ) -> impl Stream<Item = Result<(ObjectRef<K>, Action), controller::Error<E, watcher::Error>>>
    where
        R: Future<Output = Result<Action, E>> + Send + 'static,
        E: std::error::Error + Send + 'static,
    {
        applier(
            move |object, context| {
                // As tasks, so that they share all processors.
                AbortOnDropHandle::new(tokio::spawn(reconcile(object, context).in_current_span())).map(finished)
            },
            on_error,
            context,
            self.store,
            self.items.take_until(stop.cancelled_owned()),
            Config::default().concurrency(workers),
        )
    }
}

/// All that a store has.
pub(super) fn references<K>(store: &Store<K>) -> Vec<ObjectRef<K>>
where
    K: Resource<DynamicType = ()> + Lookup<DynamicType = ()> + Clone + 'static,
{
    store.state().iter().map(|object| ObjectRef::from_obj(object.as_ref())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{AgentCommand, AgentCommandSpec};
    use kube::ResourceExt;
    use std::sync::Mutex;

    fn command(name: &str) -> AgentCommand {
        let mut command = AgentCommand::new(name, AgentCommandSpec::default());
        command.metadata.namespace = Some("shop".into());
        command
    }

    fn named(name: &str) -> ObjectRef<AgentCommand> {
        ObjectRef::new(name).within("shop")
    }

    /// What is told of each event, with what the store has by then; and what is to be reconciled.
    async fn watched(events: Vec<Event<AgentCommand>>) -> (Vec<(String, Vec<String>)>, Vec<String>) {
        let told = Arc::new(Mutex::new(Vec::new()));
        let store = Arc::new(std::sync::OnceLock::<Store<AgentCommand>>::new());
        let queue = Queue::of(stream::iter(events.into_iter().map(Ok)), |command| !command.spec.suspend, {
            let (told, store) = (Arc::clone(&told), Arc::clone(&store));
            move |seen| {
                let seen = match seen {
                    Seen::One(object) => object.name_any(),
                    Seen::All => "*".to_owned(),
                };
                let mut known: Vec<_> = references(store.get().unwrap()).into_iter().map(|found| found.name).collect();
                known.sort();
                told.lock().unwrap().push((seen, known));
            }
        });
        store.set(queue.store()).ok().unwrap();
        let mut items: Vec<String> = queue.items.map(|item| item.unwrap().name).collect().await;
        items.sort();
        let told = told.lock().unwrap().clone();
        (told, items)
    }

    fn said(what: &str, known: &[&str]) -> (String, Vec<String>) {
        (what.to_owned(), known.iter().map(ToString::to_string).collect())
    }

    #[tokio::test]
    async fn changes_and_deletions_are_told_once_the_store_shows_them() {
        let (told, items) =
            watched(vec![Event::Apply(command("a")), Event::Apply(command("b")), Event::Delete(command("a"))]).await;
        assert_eq!(told, [said("a", &["a"]), said("b", &["a", "b"]), said("a", &["b"])]);
        assert_eq!(items, ["a", "b"], "what is gone is not reconciled itself");
    }

    #[tokio::test]
    async fn what_is_no_news_is_kept_and_told_and_not_reconciled() {
        let mut settled = command("a");
        settled.spec.suspend = true;
        let (told, items) = watched(vec![Event::Apply(settled)]).await;
        assert_eq!(told, [said("a", &["a"])]);
        assert!(items.is_empty());
    }

    #[tokio::test]
    async fn a_new_list_counts_as_a_whole_and_is_told_to_all() {
        let (told, items) = watched(vec![
            Event::Init,
            Event::InitApply(command("a")),
            Event::InitApply(command("b")),
            Event::InitDone,
            // The watch failed; `a` was deleted meanwhile.
            Event::Init,
            Event::InitApply(command("b")),
            Event::InitDone,
        ])
        .await;
        assert_eq!(told, [said("*", &["a", "b"]), said("*", &["b"])]);
        assert_eq!(items, ["a", "b", "b"]);
    }

    #[tokio::test]
    async fn what_a_trigger_names_is_reconciled_if_it_is_there() {
        let listed = [Event::Init, Event::InitApply(command("a")), Event::InitDone];
        let events = stream::iter(listed.into_iter().map(Ok)).chain(stream::pending());
        let (trigger, pulled) = trigger();
        let (done, mut reconciled) = mpsc::unbounded();
        let (change, changes) = mpsc::unbounded();
        let stop = CancellationToken::new();
        let queue = Queue::of(events, |_| true, |_| ()).and(pulled.map(Ok)).all_on(changes);
        let reconcile = |object: Arc<AgentCommand>, done: Arc<mpsc::UnboundedSender<String>>| async move {
            done.unbounded_send(object.name_any()).unwrap();
            Ok::<_, std::io::Error>(Action::await_change())
        };
        let on_error = |_, _: &std::io::Error, _| Action::await_change();
        let running = tokio::spawn(queue.run(reconcile, on_error, Arc::new(done), 2, stop.clone()).count());
        assert_eq!(reconciled.next().await.unwrap(), "a");
        trigger.pull(named("missing"));
        trigger.pull(named("a"));
        assert_eq!(reconciled.next().await.unwrap(), "a");
        change.unbounded_send(()).unwrap();
        assert_eq!(reconciled.next().await.unwrap(), "a");
        stop.cancel();
        assert_eq!(running.await.unwrap(), 4, "one of them was not there");
        assert!(reconciled.next().await.is_none());
    }
}
