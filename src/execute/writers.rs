use crate::api::ObjectRef;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a write counts as lately made: longer than any step lies between the look at its object and its mutation.
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
        let mut lately = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lately.writes.len() >= lately.full.max(MANY) {
            lately.writes.retain(|_, writes| writes.iter().any(is_late));
            lately.full = lately.writes.len() * 2;
        }
        let writes = lately.writes.entry(object(target)).or_default();
        writes.retain(|write| write.0 != *plan && is_late(write));
        writes.push((Arc::clone(plan), Instant::now()));
    }

    /// Whether no other plan wrote the object lately.
    pub(super) fn is_alone(&self, target: &ObjectRef, plan: &str) -> bool {
        let lately = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let others = |write: &(Arc<str>, Instant)| *write.0 != *plan && is_late(write);
        !lately.writes.get(&object(target)).is_some_and(|writes| writes.iter().any(others))
    }
}

fn is_late(write: &(Arc<str>, Instant)) -> bool {
    write.1.elapsed() < LATELY
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
        writers.note(&target(), &theirs);
        let Some(long_ago) = Instant::now().checked_sub(LATELY) else { return };
        for writes in writers.0.lock().unwrap().writes.values_mut() {
            writes[0].1 = long_ago;
        }
        assert!(writers.is_alone(&target(), &mine));
        for n in 0..=MANY {
            writers.note(&ObjectRef { name: format!("web-{n}"), ..target() }, &mine);
        }
        assert!(!writers.0.lock().unwrap().writes.contains_key(&object(&target())));
    }
}
