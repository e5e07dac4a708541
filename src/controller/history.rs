//! What is remembered of finished objects, none of which is kept in memory: how many of them each namespace has, and a
//! few of those that go next. Pure.

use k8s_openapi::jiff::Timestamp;
use std::collections::{BTreeSet, HashMap, HashSet};

/// How many objects that are to go are remembered at a time, those that go first. What comes after them is looked for when
/// they are gone.
const REMEMBERED: usize = 2048;

/// A namespace is tidied up when it is a tenth over its limit, so that a list of it serves many removals.
const SLACK: usize = 10;

/// A finished object, as its metadata tells of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Finished {
    /// When it finished.
    pub at: Timestamp,
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// When it goes by itself, if it does.
    pub expires: Option<Timestamp>,
}

/// A finished object whose time comes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Due {
    pub at: Timestamp,
    pub namespace: String,
    pub name: String,
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The time of one object is over.
    Remove(Due),
    /// A namespace may hold more than it should.
    TidyUp(String),
    /// There are more objects to go than are remembered: they are to be listed.
    LookForMore,
    /// Nothing before that time.
    WaitUntil(Timestamp),
    /// Nothing until something happens.
    Rest,
}

/// What is remembered of the finished objects of one kind.
#[derive(Debug)]
pub(super) struct History {
    /// How many a namespace may hold; as many as there are when 0.
    limit: usize,
    /// Not fewer than there are, but for what others remove while a namespace is listed: an object that changes counts once
    /// more.
    counts: HashMap<String, usize>,
    /// The uids of objects that were removed and whose end was not told yet.
    gone: HashSet<String>,
    /// The namespace that is being listed, and how many objects were told there since.
    listing: Option<(String, usize)>,
    crowded: BTreeSet<String>,
    agenda: Agenda,
    listed: bool,
}

impl History {
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            counts: HashMap::new(),
            gone: HashSet::new(),
            listing: None,
            crowded: BTreeSet::new(),
            agenda: Agenda::new(REMEMBERED),
            listed: false,
        }
    }

    /// Forgets everything: all objects are told anew, until [`History::complete`].
    pub fn restart(&mut self) {
        *self = Self::new(self.limit);
    }

    /// All objects were told.
    pub fn complete(&mut self) {
        self.listed = true;
        let crowded = self.counts.keys().filter(|namespace| self.is_crowded(namespace)).cloned().collect();
        self.crowded = crowded;
    }

    /// There is this object, or it changed.
    pub fn add(&mut self, object: &Finished) {
        if self.gone.contains(&object.uid) {
            return;
        }
        self.remember(object);
        if self.limit == 0 {
            return;
        }
        if let Some((namespace, told)) = &mut self.listing
            && *namespace == object.namespace
        {
            *told += 1;
        }
        match self.counts.get_mut(&object.namespace) {
            Some(count) => *count += 1,
            None => {
                self.counts.insert(object.namespace.clone(), 1);
            }
        }
        if self.listed && self.is_crowded(&object.namespace) {
            self.crowded.insert(object.namespace.clone());
        }
    }

    /// This object is gone, or not finished any more.
    pub fn remove(&mut self, object: &Finished) {
        if !self.gone.remove(&object.uid) {
            self.take_out(object);
        }
    }

    /// This object was removed just now, which will be told.
    pub fn let_go(&mut self, object: &Finished) {
        self.take_out(object);
        self.gone.insert(object.uid.clone());
    }

    fn take_out(&mut self, object: &Finished) {
        if let Some(at) = object.expires {
            self.agenda.forget(&Due { at, namespace: object.namespace.clone(), name: object.name.clone() });
        }
        if let Some(count) = self.counts.get_mut(&object.namespace) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.counts.remove(&object.namespace);
            }
        }
    }

    /// Remembers when an object goes, without counting it.
    pub fn remember(&mut self, object: &Finished) {
        if let Some(at) = object.expires {
            self.postpone(Due { at, namespace: object.namespace.clone(), name: object.name.clone() });
        }
    }

    /// Remembers that an object goes at that time.
    pub fn postpone(&mut self, due: Due) {
        self.agenda.note(due);
    }

    /// A namespace begins to be listed.
    pub fn list(&mut self, namespace: &str) {
        self.listing = Some((namespace.to_owned(), 0));
    }

    /// The namespace was listed, and so many objects are left there.
    pub fn recount(&mut self, count: usize) {
        if let Some((namespace, told)) = self.listing.take() {
            self.counts.insert(namespace, count + told);
        }
    }

    /// Whatever is to go was not listed to the end.
    pub fn look_for_more(&mut self) {
        self.agenda.horizon = Some(Timestamp::MIN);
    }

    /// A namespace was not tidied up to the end.
    pub fn come_back_to(&mut self, namespace: String) {
        self.crowded.insert(namespace);
    }

    /// What is to be done now. What is given out is not given out again.
    pub fn next(&mut self, now: Timestamp) -> Next {
        if !self.listed {
            return Next::Rest;
        }
        if let Some(due) = self.agenda.pop(now) {
            return Next::Remove(due);
        }
        if let Some(namespace) = self.crowded.pop_first() {
            return Next::TidyUp(namespace);
        }
        if self.agenda.is_used_up() {
            self.agenda = Agenda::new(REMEMBERED);
            return Next::LookForMore;
        }
        self.agenda.first().map_or(Next::Rest, Next::WaitUntil)
    }

    fn is_crowded(&self, namespace: &str) -> bool {
        let count = self.counts.get(namespace).copied().unwrap_or_default();
        self.limit > 0 && count > self.limit + self.limit / SLACK
    }
}

/// The objects that go first, as many as there is room for. Whatever was noted is either among them, or not before the
/// horizon.
#[derive(Debug)]
struct Agenda {
    room: usize,
    dues: BTreeSet<Due>,
    horizon: Option<Timestamp>,
}

impl Agenda {
    fn new(room: usize) -> Self {
        Self { room, dues: BTreeSet::new(), horizon: None }
    }

    fn note(&mut self, due: Due) {
        if self.horizon.is_some_and(|horizon| due.at >= horizon) {
            return;
        }
        self.dues.insert(due);
        if self.dues.len() > self.room
            && let Some(last) = self.dues.pop_last()
        {
            self.horizon = Some(last.at);
        }
    }

    fn forget(&mut self, due: &Due) {
        self.dues.remove(due);
    }

    fn pop(&mut self, now: Timestamp) -> Option<Due> {
        if self.first()? > now { None } else { self.dues.pop_first() }
    }

    fn first(&self) -> Option<Timestamp> {
        self.dues.first().map(|due| due.at)
    }

    /// Whether there is nothing left of it although there was more than there was room for.
    fn is_used_up(&self) -> bool {
        self.dues.is_empty() && self.horizon.is_some()
    }
}

/// The newest objects of a namespace, as many as it may hold. Needs no more room than these.
#[derive(Debug)]
pub(super) struct Newest {
    limit: usize,
    kept: BTreeSet<Finished>,
}

impl Newest {
    pub fn new(limit: usize) -> Self {
        Self { limit, kept: BTreeSet::new() }
    }

    /// Takes one more object in, and gives out the one that is too many for sure: as many newer ones are there as may be.
    pub fn add(&mut self, object: Finished) -> Option<Finished> {
        self.kept.insert(object);
        if self.kept.len() > self.limit { self.kept.pop_first() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn object(namespace: &str, name: usize, finished: i64, expires: Option<i64>) -> Finished {
        let name = format!("o{name}");
        let uid = format!("{namespace}/{name}");
        Finished { at: at(finished), namespace: namespace.into(), name, uid, expires: expires.map(at) }
    }

    #[test]
    fn a_namespace_is_tidied_up_when_it_is_a_tenth_over_its_limit() {
        let mut history = History::new(20);
        for number in 0..30 {
            history.add(&object("busy", number, 0, None));
        }
        history.add(&object("calm", 0, 0, None));
        assert_eq!(history.next(at(1)), Next::Rest, "not all is told yet");
        history.complete();
        assert_eq!(history.next(at(1)), Next::TidyUp("busy".into()));
        assert_eq!(history.next(at(1)), Next::Rest);
        history.list("busy");
        history.recount(20);
        history.add(&object("busy", 30, 0, None));
        history.add(&object("busy", 31, 0, None));
        assert_eq!(history.next(at(1)), Next::Rest, "22 are a tenth over 20, not more");
        history.remove(&object("busy", 0, 0, None));
        history.add(&object("busy", 32, 0, None));
        assert_eq!(history.next(at(1)), Next::Rest);
        history.add(&object("busy", 33, 0, None));
        assert_eq!(history.next(at(1)), Next::TidyUp("busy".into()));
    }

    #[test]
    fn what_is_removed_counts_no_more_however_late_that_is_told() {
        let mut history = History::new(2);
        history.complete();
        let objects: Vec<Finished> = (1..=4).map(|number| object("shop", number, 0, None)).collect();
        let crowded = Next::TidyUp("shop".into());
        objects[..3].iter().for_each(|object| history.add(object));
        assert_eq!(history.next(at(9)), crowded);
        history.list("shop");
        history.let_go(&objects[0]);
        history.recount(2);
        // It waits for its finalizer, and goes.
        history.add(&objects[0]);
        history.remove(&objects[0]);
        assert_eq!(history.next(at(9)), Next::Rest);
        history.add(&objects[3]);
        assert_eq!(history.next(at(9)), crowded);
        // What is told while the list is read may not be on it.
        history.list("shop");
        history.add(&object("shop", 5, 5, None));
        history.let_go(&objects[1]);
        history.recount(2);
        assert_eq!(history.next(at(9)), crowded);
    }

    #[test]
    fn without_a_limit_nothing_is_counted() {
        let mut history = History::new(0);
        history.complete();
        (0..10_000).for_each(|number| history.add(&object("busy", number, 0, None)));
        assert_eq!(history.next(at(1)), Next::Rest);
        assert!(history.counts.is_empty());
    }

    #[test]
    fn what_expires_is_removed_in_time_and_not_before() {
        let mut history = History::new(0);
        history.complete();
        history.add(&object("shop", 2, 0, Some(20)));
        history.add(&object("shop", 1, 0, Some(10)));
        history.add(&object("shop", 3, 0, None));
        assert_eq!(history.next(at(9)), Next::WaitUntil(at(10)));
        assert_eq!(history.next(at(10)), Next::Remove(Due { at: at(10), namespace: "shop".into(), name: "o1".into() }));
        history.remove(&object("shop", 2, 0, Some(20)));
        assert_eq!(history.next(at(30)), Next::Rest);
    }

    #[test]
    fn a_new_list_forgets_what_the_old_one_told() {
        let mut history = History::new(1);
        history.add(&object("shop", 1, 0, Some(1)));
        history.add(&object("shop", 2, 0, None));
        history.restart();
        history.complete();
        assert_eq!(history.next(at(9)), Next::Rest);
    }

    proptest! {
        /// With room for a few, all are removed all the same, each when its time is over and in the order of their times.
        #[test]
        fn everything_that_expires_goes_in_time(times in proptest::collection::vec(0_i64..50, 0..60), room in 1_usize..8) {
            let mut stored: BTreeMap<usize, i64> = times.iter().copied().enumerate().collect();
            let due = |(name, time): (&usize, &i64)| Due { at: at(*time), namespace: "shop".into(), name: name.to_string() };
            let mut agenda = Agenda::new(room);
            // Told over time: what is told late may be due before what was told first.
            let mut told = BTreeSet::new();
            for now in 0..60 {
                for (name, time) in times.iter().enumerate().skip(usize::try_from(now).unwrap()).take(1) {
                    told.insert(name);
                    agenda.note(due((&name, time)));
                }
                loop {
                    while let Some(gone) = agenda.pop(at(now)) {
                        prop_assert!(gone.at <= at(now));
                        prop_assert!(stored.remove(&gone.name.parse().unwrap()).is_some());
                    }
                    prop_assert!(agenda.dues.len() <= room);
                    if !agenda.is_used_up() {
                        break;
                    }
                    agenda = Agenda::new(room);
                    stored.iter().filter(|(name, _)| told.contains(name)).for_each(|entry| agenda.note(due(entry)));
                }
                let late = stored.iter().filter(|(name, time)| told.contains(name) && **time <= now).count();
                prop_assert_eq!(late, 0);
            }
            prop_assert!(stored.is_empty());
        }

        /// Whatever the order in which they are listed, exactly the newest are left.
        #[test]
        fn exactly_the_newest_are_left(times in proptest::collection::vec(0_i64..20, 0..60), limit in 1_usize..30) {
            let objects: Vec<Finished> =
                times.iter().enumerate().map(|(name, time)| object("shop", name, *time, None)).collect();
            let mut newest = Newest::new(limit);
            let gone: BTreeSet<Finished> = objects.iter().cloned().filter_map(|object| newest.add(object)).collect();
            let left: BTreeSet<&Finished> = objects.iter().filter(|object| !gone.contains(object)).collect();
            prop_assert_eq!(left.len(), objects.len().min(limit));
            let oldest_left = left.iter().map(|object| object.at).min();
            prop_assert!(gone.iter().all(|gone| oldest_left.is_some_and(|oldest| gone.at <= oldest)));
        }
    }
}
