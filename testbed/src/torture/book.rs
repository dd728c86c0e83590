//! What the clients did and saw, key by key, and what was wrong at first sight.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use super::checker::{
    Event,
    key::{KeyOp, Value},
};

/// Keys of one group; a LIST looks at one group.
pub const GROUP_KEYS: usize = 8;

/// Operations on one group before it is left alone: histories stay short enough to be searched.
const GROUP_OPS: usize = 480;

/// Violations that are told; more of the same help nobody.
const TOLD_MAX: usize = 50;

/// Characters of a violation that are kept: a bucket's whole life, a key's history around the spot.
const VIOLATION_CHARS: usize = 6_000;

/// What is kept of a cause: its beginning tells causes apart.
const CAUSE_CHARS: usize = 60;

/// One key.
#[derive(Debug, Default)]
pub struct KeyLog {
    /// Its history.
    pub events: Vec<Event<KeyOp>>,
    /// Bytes of each value; no two alike, so that a size names a value.
    pub sizes: Vec<u64>,
    /// The ETag of each value, once seen.
    pub etags: BTreeMap<Value, String>,
}

/// Counters of requests.
#[derive(Debug, Default, Clone, Copy)]
pub struct Counts {
    /// Requests that reached a server, or may have.
    pub operations: u64,
    /// Those whose answer says what happened.
    pub checked: u64,
    /// Those refused with 503 by a server that says why.
    pub refused: u64,
    /// Those without an answer, or with one that says that the outcome is unknown.
    pub unknown: u64,
}

#[derive(Default)]
struct Inner {
    keys: BTreeMap<(usize, usize), KeyLog>,
    /// Groups in use, and operations begun on each.
    active: Vec<(usize, usize)>,
    groups: usize,
    counts: Counts,
    violations: Vec<String>,
    /// Why there was no answer that says what happened: how often.
    causes: BTreeMap<String, u64>,
}

/// The book. Clients write into it from many tasks.
pub struct Book {
    inner: Mutex<Inner>,
    begin: Instant,
}

/// The name of a key.
pub fn key_name(group: usize, key: usize) -> String {
    format!("{}k{key}", group_prefix(group))
}

/// What the names of a group's keys begin with.
pub fn group_prefix(group: usize) -> String {
    format!("g{group:05}/")
}

impl Book {
    /// An empty book with `groups` groups in use at a time.
    pub fn new(groups: usize) -> Self {
        let active = (0..groups).map(|group| (group, 0)).collect();
        let inner = Inner { active, groups, ..Inner::default() };
        Self { inner: Mutex::new(inner), begin: Instant::now() }
    }

    /// Microseconds since the book was opened: the clock of all histories.
    pub fn now(&self) -> u64 {
        self.begin.elapsed().as_micros() as u64
    }

    /// No writer leaves it half changed.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The group at `place` of those in use. A group that was used enough makes room for a new one.
    pub fn group(&self, place: usize) -> usize {
        let mut inner = self.inner();
        let (groups, slots) = (inner.groups, inner.active.len());
        let slot = &mut inner.active[place % slots];
        if slot.1 >= GROUP_OPS {
            *slot = (groups, 0);
        }
        slot.1 += 1;
        let group = slot.0;
        inner.groups = groups.max(group + 1);
        group
    }

    /// Makes a value of about `size` bytes for a key; returns its number and true size.
    pub fn new_value(&self, group: usize, key: usize, mut size: u64) -> (Value, u64) {
        let mut inner = self.inner();
        let log = inner.keys.entry((group, key)).or_default();
        while log.sizes.contains(&size) {
            size += 1;
        }
        log.sizes.push(size);
        (log.sizes.len() as Value - 1, size)
    }

    /// The value of a key that has `size` bytes.
    pub fn value_of(&self, group: usize, key: usize, size: u64) -> Option<Value> {
        let inner = self.inner();
        let sizes = &inner.keys.get(&(group, key))?.sizes;
        sizes.iter().position(|known| *known == size).map(|place| place as Value)
    }

    /// A value of the key whose ETag is known, the newest.
    pub fn known_etag(&self, group: usize, key: usize) -> Option<(Value, String)> {
        let inner = self.inner();
        let etags = &inner.keys.get(&(group, key))?.etags;
        etags.iter().next_back().map(|(value, etag)| (*value, etag.clone()))
    }

    /// A value was seen under `etag`: always the same.
    pub fn saw_etag(&self, group: usize, key: usize, value: Value, etag: &str) {
        let mut inner = self.inner();
        let log = inner.keys.entry((group, key)).or_default();
        let first = log.etags.entry(value).or_insert_with(|| etag.to_owned()).clone();
        drop(inner);
        if first != etag {
            let name = key_name(group, key);
            self.violation(format!("{name}: value {value} had ETag {first}, now {etag}"));
        }
    }

    /// Records what happened to a key.
    pub fn record(&self, group: usize, key: usize, event: Event<KeyOp>) {
        self.inner().keys.entry((group, key)).or_default().events.push(event);
    }

    /// Counts a request.
    pub fn count(&self, with: impl FnOnce(&mut Counts)) {
        let mut inner = self.inner();
        inner.counts.operations += 1;
        with(&mut inner.counts);
    }

    /// Notes why there was no answer that says what happened.
    pub fn cause(&self, why: &str) {
        let short: String = why.chars().take(CAUSE_CHARS).collect();
        let mut inner = self.inner();
        if inner.causes.len() < TOLD_MAX || inner.causes.contains_key(&short) {
            *inner.causes.entry(short).or_default() += 1;
        }
    }

    /// Why there was no answer that says what happened.
    pub fn causes(&self) -> BTreeMap<String, u64> {
        self.inner().causes.clone()
    }

    /// Something that must not be.
    pub fn violation(&self, mut what: String) {
        if let Some((end, _)) = what.char_indices().nth(VIOLATION_CHARS) {
            what.truncate(end);
        }
        let mut inner = self.inner();
        if inner.violations.len() < TOLD_MAX {
            eprintln!("testbed: VIOLATION {what}");
            inner.violations.push(what);
        }
    }

    /// Counters so far.
    pub fn counts(&self) -> Counts {
        self.inner().counts
    }

    /// Violations so far.
    pub fn violations(&self) -> Vec<String> {
        self.inner().violations.clone()
    }

    /// Every key that was touched.
    pub fn keys(&self) -> Vec<(usize, usize)> {
        self.inner().keys.keys().copied().collect()
    }

    /// The keys of the groups in use.
    pub fn recent_keys(&self) -> Vec<(usize, usize)> {
        let inner = self.inner();
        let in_use = |group: usize| inner.active.iter().any(|(active, _)| *active == group);
        inner.keys.keys().filter(|(group, _)| in_use(*group)).copied().collect()
    }

    /// Lends the histories. Whoever writes waits meanwhile.
    pub fn with_histories<T>(
        &self,
        look: impl FnOnce(&BTreeMap<(usize, usize), KeyLog>) -> T,
    ) -> T {
        look(&self.inner().keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a size names a value, and groups make room. Method: equal wishes; many operations.
    #[test]
    fn sizes_name_values_and_groups_make_room() {
        let book = Book::new(2);
        let made: Vec<_> = (0..3).map(|_| book.new_value(0, 1, 100)).collect();
        assert_eq!(made, [(0, 100), (1, 101), (2, 102)]);
        assert_eq!(book.value_of(0, 1, 101), Some(1));
        assert_eq!(book.value_of(0, 1, 99), None);
        for _ in 0..GROUP_OPS {
            assert_eq!(book.group(0), 0);
        }
        assert_eq!((book.group(0), book.group(1), book.group(2)), (2, 1, 2));
        book.saw_etag(0, 1, 2, "a");
        book.saw_etag(0, 1, 2, "a");
        assert!(book.violations().is_empty());
        book.saw_etag(0, 1, 2, "b");
        assert_eq!(book.violations().len(), 1);
        assert_eq!(book.known_etag(0, 1), Some((2, "a".to_owned())));
    }
}
