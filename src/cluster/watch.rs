use super::access::{escape_field, invalid, object_path, version};
use super::{Access, ClusterError, ResourceKind};
use crate::api::ObjectRef;
use futures::StreamExt;
use futures::future::ready;
use futures::stream::{self, BoxStream};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::ApiResource;
use kube::core::DynamicResourceScope;
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Config, Event, watcher};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::borrow::Cow;
use std::time::{Duration, Instant};

/// The first pause of a watch that failed.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// How long a watch must do without failing until its pauses begin small again.
const RECOVERED: Duration = Duration::from_secs(30);

/// The pauses of a watch that fails: 0.5 s, 1 s, 2 s … up to `longest`, each shortened by up to a half at random. The
/// client's own go up to a minute and stay there for two: that is how long the end of an outage went unnoticed.
#[must_use]
pub fn watch_backoff(longest: Duration) -> impl Backoff + 'static {
    Pauses { next: FIRST_PAUSE, longest, ends: None }
}

/// The longest pause of a watch.
pub const WATCH_PAUSE: Duration = Duration::from_secs(5);

struct Pauses {
    next: Duration,
    longest: Duration,
    /// When the last pause ends or ended.
    ends: Option<Instant>,
}

impl Pauses {
    fn at(&mut self, now: Instant) -> Duration {
        if self.ends.is_some_and(|ends| now.saturating_duration_since(ends) > RECOVERED) {
            self.next = FIRST_PAUSE;
        }
        let pause = self.next.min(self.longest).mul_f64(0.5 + rand::random::<f64>() / 2.0);
        self.next = (self.next * 2).min(self.longest);
        self.ends = now.checked_add(pause);
        pause
    }
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.at(Instant::now()))
    }
}

impl Backoff for Pauses {
    // Called at every success, and a watcher counts the beginning of every try as one.
    fn reset(&mut self) {}
}

/// An object as it came over the wire. The client's own dynamic type would lose what its metadata type does not know.
#[derive(Clone, Debug)]
struct Live {
    meta: ObjectMeta,
    value: Value,
}

impl Access {
    /// The object as it is now, then again after every change; `None` when there is none. Never ends: a broken watch is
    /// taken up again, with growing pauses, and every failure is an item, so that whoever waits can give up on one that
    /// will not pass (see [`ClusterError::is_transient`]).
    pub async fn watch(
        &self,
        kind: &ResourceKind,
        object: &ObjectRef,
    ) -> BoxStream<'static, Result<Option<Value>, ClusterError>> {
        let attempt = self.attempt(format!("watch {object}"));
        if let Err(error) = object_path(kind, object, None, &attempt) {
            return stream::once(ready(Err(invalid(&attempt, error.server_message().to_owned())))).boxed();
        }
        let version = version(kind, object).to_owned();
        let resource = ApiResource {
            group: kind.group.clone(),
            api_version: if kind.group.is_empty() { version.clone() } else { format!("{}/{version}", kind.group) },
            version,
            kind: kind.kind.clone(),
            plural: kind.plural.clone(),
        };
        let types = (Value::from(resource.api_version.as_str()), Value::from(kind.kind.as_str()));
        let api: kube::Api<Live> = match &object.namespace {
            Some(namespace) if kind.namespaced => kube::Api::namespaced_with(self.client.clone(), namespace, &resource),
            _ => kube::Api::all_with(self.client.clone(), &resource),
        };
        let config = Config::default().fields(&format!("metadata.name={}", escape_field(&object.name)));
        watcher(api, config)
            .backoff(watch_backoff(WATCH_PAUSE))
            .scan(false, |seen, event| {
                // A relist that does not name the object says that it went while nobody listened.
                let state = match event {
                    Ok(Event::Init) => {
                        *seen = false;
                        None
                    }
                    Ok(Event::InitApply(live)) => {
                        *seen = true;
                        Some(Ok(Some(live.value)))
                    }
                    Ok(Event::Apply(live)) => Some(Ok(Some(live.value))),
                    Ok(Event::Delete(_)) => Some(Ok(None)),
                    Ok(Event::InitDone) => (!*seen).then_some(Ok(None)),
                    Err(error) => Some(Err(error)),
                };
                ready(Some(state))
            })
            .filter_map(ready)
            .map(move |state| match state {
                Ok(Some(mut value)) => {
                    // Items of lists come without their type.
                    value["apiVersion"] = types.0.clone();
                    value["kind"] = types.1.clone();
                    Ok(Some(value))
                }
                Ok(None) => Ok(None),
                Err(error) => Err(match error {
                    watcher::Error::InitialListFailed(error)
                    | watcher::Error::WatchStartFailed(error)
                    | watcher::Error::WatchFailed(error) => ClusterError::of_client(attempt.clone(), &error),
                    // The server closed a watch whose place in history it forgot; the watcher lists again.
                    watcher::Error::WatchError(status) if status.code == 410 => ClusterError::Transient {
                        attempt: attempt.clone(),
                        message: status.message.clone(),
                        retry_after: None,
                    },
                    watcher::Error::WatchError(status) => {
                        ClusterError::of_status(attempt.clone(), status.code, None, &status)
                    }
                    error @ watcher::Error::NoResourceVersion => {
                        ClusterError::Other { attempt: attempt.clone(), message: error.to_string() }
                    }
                }),
            })
            .boxed()
    }
}

impl<'de> Deserialize<'de> for Live {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let meta = value.get("metadata").map(ObjectMeta::deserialize).transpose().map_err(serde::de::Error::custom)?;
        Ok(Self { meta: meta.unwrap_or_default(), value })
    }
}

impl kube::Resource for Live {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(resource: &ApiResource) -> Cow<'_, str> {
        resource.kind.as_str().into()
    }

    fn group(resource: &ApiResource) -> Cow<'_, str> {
        resource.group.as_str().into()
    }

    fn version(resource: &ApiResource) -> Cow<'_, str> {
        resource.version.as_str().into()
    }

    fn plural(resource: &ApiResource) -> Cow<'_, str> {
        resource.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_of_a_watch_stay_short_and_begin_small_again() {
        let mut pauses = Pauses { next: FIRST_PAUSE, longest: WATCH_PAUSE, ends: None };
        let mut now = Instant::now();
        let taken: Vec<Duration> = (0..20)
            .map(|_| {
                pauses.reset();
                let pause = pauses.at(now);
                now += pause;
                pause
            })
            .collect();
        assert!(taken[0] <= FIRST_PAUSE && taken.iter().all(|pause| *pause <= WATCH_PAUSE), "{taken:?}");
        assert!(taken[10..].iter().all(|pause| *pause >= WATCH_PAUSE / 2), "{taken:?}");
        assert!(pauses.at(now + RECOVERED) > FIRST_PAUSE);
        assert!(pauses.at(now + RECOVERED * 3) <= FIRST_PAUSE);
    }

    #[test]
    fn a_watch_is_never_given_up() {
        assert_eq!(watch_backoff(WATCH_PAUSE).take(100).count(), 100);
    }
}
