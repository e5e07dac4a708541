use crate::api::ObjectRef;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a write counts as lately made: longer than most steps lie between the look at their object and their mutation.
const LATELY: Duration = Duration::from_secs(600);
/// How many objects are remembered at least before old ones are looked for.
const MANY: usize = 1024;

/// Which plans wrote which objects lately. All of them write under one name, so that an object does not tell one plan's
/// change from another's equal one.
#[derive(Clone, Debug, Default)]
pub struct Writers(Arc<Mutex<Lately>>);

#[derive(Debug, Default)]
struct Lately {
    writes: HashMap<Object, Writes>,
    /// With how many objects old ones are looked for next: twice as many as were left the last time.
    full: usize,
}

/// Group, kind, namespace and name: an object is the same in all its versions.
type Object = (String, String, Option<String>, String);
/// Plans by uid, and when each wrote last.
type Writes = Vec<(Arc<str>, Instant)>;

impl Writers {
    /// To be called before the write is sent.
    pub(super) fn note(&self, target: &ObjectRef, plan: &Arc<str>) {
        self.note_at(target, plan, Instant::now());
    }

    /// Whether no other plan wrote the object lately.
    pub(super) fn is_alone(&self, target: &ObjectRef, plan: &str) -> bool {
        self.is_alone_at(target, plan, Instant::now())
    }

    fn note_at(&self, target: &ObjectRef, plan: &Arc<str>, now: Instant) {
        let is_late = |write: &(Arc<str>, Instant)| now.duration_since(write.1) < LATELY;
        let mut lately = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lately.writes.len() >= lately.full.max(MANY) {
            lately.writes.retain(|_, writes| writes.iter().any(is_late));
            lately.full = lately.writes.len() * 2;
        }
        let writes = lately.writes.entry(object(target)).or_default();
        writes.retain(|write| write.0 != *plan && is_late(write));
        writes.push((Arc::clone(plan), now));
    }

    fn is_alone_at(&self, target: &ObjectRef, plan: &str, now: Instant) -> bool {
        let lately = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_others = |write: &(Arc<str>, Instant)| *write.0 != *plan && now.duration_since(write.1) < LATELY;
        !lately.writes.get(&object(target)).is_some_and(|writes| writes.iter().any(is_others))
    }
}

fn object(target: &ObjectRef) -> Object {
    (target.group().to_owned(), target.kind.clone(), target.namespace.clone(), target.name.clone())
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::target;
    use super::*;

    #[test]
    fn plans_that_write_the_same_object_are_not_alone() {
        let writers = Writers::default();
        let (mine, theirs): (Arc<str>, Arc<str>) = ("mine".into(), "theirs".into());
        assert!(writers.is_alone(&target(), &mine));
        writers.note(&target(), &mine);
        writers.note(&target(), &mine);
        assert!(writers.is_alone(&target(), &mine));
        assert!(!writers.is_alone(&target(), &theirs));
        let another = ObjectRef { name: "payments".into(), ..target() };
        assert!(writers.is_alone(&another, &theirs));
        let same = ObjectRef { api_version: "apps/v1beta1".into(), ..target() };
        writers.clone().note(&same, &theirs);
        assert!(!writers.is_alone(&target(), &mine), "in another version");
    }

    #[test]
    fn what_was_written_long_ago_is_forgotten() {
        let writers = Writers::default();
        let (mine, theirs): (Arc<str>, Arc<str>) = ("mine".into(), "theirs".into());
        let then = Instant::now();
        writers.note_at(&target(), &theirs, then);
        assert!(!writers.is_alone_at(&target(), &mine, then + LATELY / 2));
        let now = then + LATELY;
        assert!(writers.is_alone_at(&target(), &mine, now));
        for n in 0..=MANY {
            writers.note_at(&ObjectRef { name: format!("web-{n}"), ..target() }, &mine, now);
        }
        assert!(!writers.0.lock().unwrap().writes.contains_key(&object(&target())));
    }
}
