//! One ordered list out of the scans of all sets, rolled up by delimiter. Pure: the caller fetches what
//! [`Merger::step`] asks for and feeds it back.
//!
//! ```text
//! set 0 scan --+
//! set 1 scan --+--> smallest name --> key? emit / shares a prefix up to the delimiter? emit prefix, seek past it
//! set n scan --+
//! ```
//!
//! INV-LIST-1: nothing is emitted while any set's next name is unknown, so nothing beyond the smallest
//! page end is ever emitted. INV-LIST-2: a page is truncated only when one more key or prefix was seen,
//! so a truncated page is never followed by nothing, and is never empty itself.

use std::{borrow::Cow, collections::VecDeque};

use bytes::Bytes;
use holdfast_types::{OperationId, RegisterKey, limits};

/// Fewest names to ask a set for: below it the call costs more than the names.
const FETCH_NAMES_MIN: usize = 16;

/// Most names to ask a set for while rolling up: a fetch that is seeked past was wasted.
const FETCH_NAMES_ROLLUP_MAX: usize = 256;

/// How scanned names relate to the object keys that prefix, delimiter and markers are about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Names {
    /// A name is the key.
    Objects,
    /// A name is [`RegisterKey::upload_name`].
    Uploads,
}

impl Names {
    /// The first name that any key at or behind `key` can have.
    #[must_use]
    pub fn position(self, key: &[u8]) -> Bytes {
        match self {
            Self::Objects => Bytes::copy_from_slice(key),
            Self::Uploads => {
                // Without terminator and id: escaping keeps order, so this lies behind every name
                // of a smaller key and at or before every name of this one.
                let name = RegisterKey::upload_name(key, OperationId::NIL);
                name.slice(..name.len() - 18)
            }
        }
    }

    /// The object key of a scanned name; `None` when the name is malformed.
    fn key(self, name: &Bytes) -> Option<Cow<'_, [u8]>> {
        match self {
            Self::Objects => Some(Cow::Borrowed(name)),
            Self::Uploads => {
                let key = RegisterKey {
                    space: holdfast_types::Keyspace::Upload,
                    bucket: holdfast_types::BucketId::NIL,
                    name: name.clone(),
                };
                key.upload_parts().ok().map(|(key, _, _)| Cow::Owned(key.to_vec()))
            }
        }
    }
}

/// The first byte string behind everything that begins with `prefix`; `None` when there is none.
#[must_use]
pub fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let keep = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix[..=keep].to_vec();
    end[keep] += 1;
    Some(end)
}

/// What `key` is rolled up to: its bytes up to and with the first delimiter behind the prefix.
#[must_use]
pub fn roll_up<'k>(key: &'k [u8], prefix: &[u8], delimiter: &[u8]) -> Option<&'k [u8]> {
    if delimiter.is_empty() {
        return None;
    }
    let rest = key.strip_prefix(prefix)?;
    let at = rest.windows(delimiter.len()).position(|window| window == delimiter)?;
    Some(&key[..prefix.len() + at + delimiter.len()])
}

/// What to list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Query {
    /// How names and keys relate.
    pub names: Names,
    /// Only keys that begin with it.
    pub prefix: Bytes,
    /// Roll-up; none when empty.
    pub delimiter: Bytes,
    /// Only keys, and prefixes, behind it; from the beginning when empty.
    pub after: Bytes,
    /// Names of the key `after` itself behind this one are listed, too (uploads' second marker).
    pub after_name: Option<Bytes>,
    /// Most keys and prefixes together.
    pub limit: usize,
}

impl Query {
    /// The first name to look at; `None` when nothing can follow.
    fn first_position(&self) -> Option<Bytes> {
        let begin = self.names.position(&self.prefix);
        if self.after.is_empty() && self.after_name.is_none() {
            return Some(begin);
        }
        // A marker inside a rolled-up prefix has that prefix, and all keys in it, behind it: a
        // prefix is emitted only when it is itself behind the marker.
        let behind = match (roll_up(&self.after, &self.prefix, &self.delimiter), &self.after_name) {
            (Some(rolled), _) => self.names.position(&prefix_end(rolled)?),
            (None, Some(name)) => successor(name),
            (None, None) => self.names.position(&successor(&self.after)),
        };
        Some(begin.max(behind))
    }

    /// Where all keys with the prefix end.
    fn end_position(&self) -> Option<Bytes> {
        prefix_end(&self.prefix).map(|end| self.names.position(&end))
    }
}

/// The smallest byte string behind `bytes`.
fn successor(bytes: &[u8]) -> Bytes {
    [bytes, &[0]].concat().into()
}

/// A scan that the merger needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fetch {
    /// Which source.
    pub source: usize,
    /// First name, inclusive.
    pub start: Bytes,
    /// Names at or beyond it are of no interest.
    pub end: Option<Bytes>,
    /// Names worth fetching now.
    pub limit: usize,
}

/// What the merger needs next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// These scans, each answered by [`Merger::feed`]; they may run at the same time.
    Fetch(Vec<Fetch>),
    /// Nothing: the page is complete.
    Done,
}

/// A page of a list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page<T> {
    /// Names and what was found there, in order.
    pub items: Vec<(Bytes, T)>,
    /// Rolled-up prefixes, in order.
    pub prefixes: Vec<Bytes>,
    /// Whether at least one more key or prefix follows.
    pub truncated: bool,
    /// The name or prefix emitted last.
    pub last: Option<Bytes>,
}

/// One set's scan.
struct Source<T> {
    ready: VecDeque<(Bytes, T)>,
    /// Where the scan continues; `None` when it is exhausted.
    next: Option<Bytes>,
}

/// Builds one page out of several scans.
pub struct Merger<T> {
    query: Query,
    end: Option<Bytes>,
    sources: Vec<Source<T>>,
    page: Page<T>,
}

impl<T> Merger<T> {
    /// A merger of `sources` scans.
    #[must_use]
    pub fn new(query: Query, sources: usize) -> Self {
        let first = if query.limit == 0 { None } else { query.first_position() };
        let end = query.end_position();
        let first = first.filter(|first| end.as_ref().is_none_or(|end| first < end));
        let sources =
            (0..sources).map(|_| Source { ready: VecDeque::new(), next: first.clone() }).collect();
        let page = Page { items: Vec::new(), prefixes: Vec::new(), truncated: false, last: None };
        Self { query, end, sources, page }
    }

    /// Emits what can be emitted, then says what is missing.
    pub fn step(&mut self) -> Step {
        loop {
            let fetches = self.fetches();
            if !fetches.is_empty() {
                return Step::Fetch(fetches);
            }
            let heads = self.sources.iter().filter_map(|source| source.ready.front());
            let Some(name) = heads.map(|(name, _)| name).min().cloned() else {
                return Step::Done;
            };
            if self.emitted() == self.query.limit {
                self.page.truncated = true;
                return Step::Done;
            }
            self.emit(&name);
        }
    }

    /// Takes the answer to a [`Fetch`]: live names in rising order, and where the scan continues.
    ///
    /// # Panics
    /// When the source was not asked, or the names are not in order: the caller's mistake.
    pub fn feed(&mut self, source: usize, names: Vec<(Bytes, T)>, next: Option<Bytes>) {
        let slot = &mut self.sources[source];
        let asked = slot.next.take().expect("only sources that were asked are fed");
        assert!(slot.ready.is_empty() && names.first().is_none_or(|(name, _)| *name >= asked));
        assert!(names.windows(2).all(|pair| pair[0].0 < pair[1].0), "a scan is in order");
        let last = names.last().map(|(name, _)| name.clone());
        assert!(next.as_ref().is_none_or(|next| *next > asked && Some(next) > last.as_ref()));
        slot.ready = names.into();
        slot.next = next.filter(|next| self.end.as_ref().is_none_or(|end| next < end));
    }

    /// The page, once [`Step::Done`] was said.
    #[must_use]
    pub fn into_page(self) -> Page<T> {
        self.page
    }

    fn emitted(&self) -> usize {
        self.page.items.len() + self.page.prefixes.len()
    }

    /// Scans whose next name is unknown.
    fn fetches(&self) -> Vec<Fetch> {
        let missing = self.query.limit - self.emitted() + 1;
        // Keys spread evenly over the sets; an eighth more saves most second rounds.
        let share = missing.div_ceil(self.sources.len().max(1));
        let most = if self.query.delimiter.is_empty() {
            limits::PAGE_KEYS_MAX
        } else {
            FETCH_NAMES_ROLLUP_MAX
        };
        let limit = (share + share / 8).clamp(FETCH_NAMES_MIN, most);
        let wanting = |(source, slot): (usize, &Source<T>)| {
            let start = slot.next.clone().filter(|_| slot.ready.is_empty())?;
            Some(Fetch { source, start, end: self.end.clone(), limit })
        };
        self.sources.iter().enumerate().filter_map(wanting).collect()
    }

    /// Emits the smallest name, or the prefix it is rolled up to.
    fn emit(&mut self, name: &Bytes) {
        let mut found = None;
        for source in &mut self.sources {
            if source.ready.front().is_some_and(|(front, _)| front == name) {
                // With two generations of a layout a key may lie in two sets; the first one hides
                // the other (PROTOCOL.md section 9).
                found = found.or(source.ready.pop_front());
            }
        }
        let (name, value) = found.expect("the smallest name is some source's front");
        let Some(key) = self.query.names.key(&name) else { return };
        if let Some(rolled) = roll_up(&key, &self.query.prefix, &self.query.delimiter) {
            let prefix = Bytes::copy_from_slice(rolled);
            self.seek_past(&prefix);
            self.page.last = Some(prefix.clone());
            self.page.prefixes.push(prefix);
        } else {
            self.page.last = Some(name.clone());
            self.page.items.push((name, value));
        }
    }

    /// Skips all names whose key begins with `prefix`.
    fn seek_past(&mut self, prefix: &[u8]) {
        let bound = prefix_end(prefix).map(|end| self.query.names.position(&end));
        for source in &mut self.sources {
            let Some(bound) = &bound else {
                source.ready.clear();
                source.next = None;
                continue;
            };
            let skipped = source.ready.partition_point(|(name, _)| name < bound);
            source.ready.drain(..skipped);
            let within = |next: &Bytes| self.end.as_ref().is_none_or(|end| next < end);
            source.next = source.next.take().map(|next| next.max(bound.clone())).filter(within);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// The page that a reader of the whole list would cut: keys, prefixes, truncated.
    fn naive_page(keys: &BTreeSet<Bytes>, query: &Query) -> (Vec<Bytes>, Vec<Bytes>, bool) {
        let mut listed: Vec<(Bytes, bool)> = Vec::new();
        for key in keys.iter().filter(|key| key.starts_with(&query.prefix)) {
            let rolled = roll_up(key, &query.prefix, &query.delimiter);
            let item = rolled.map_or((key.clone(), false), |p| (Bytes::copy_from_slice(p), true));
            if (item.0 > query.after || query.after.is_empty()) && listed.last() != Some(&item) {
                listed.push(item);
            }
        }
        let truncated = query.limit > 0 && listed.len() > query.limit;
        listed.truncate(query.limit);
        let (prefixes, keys): (Vec<_>, Vec<_>) = listed.into_iter().partition(|item| item.1);
        let names = |list: Vec<(Bytes, bool)>| list.into_iter().map(|item| item.0).collect();
        (names(keys), names(prefixes), truncated)
    }

    /// Runs a merger over keys spread on `sets`, with scan pages of `page` raw names of which those
    /// in `dead` are judged away.
    fn merged_page(
        keys: &BTreeSet<Bytes>,
        dead: &BTreeSet<Bytes>,
        query: &Query,
        sets: usize,
        page: usize,
    ) -> Page<()> {
        let set_of = |key: &Bytes| key.iter().map(|b| usize::from(*b)).sum::<usize>() % sets;
        let raw: BTreeSet<Bytes> = keys.union(dead).cloned().collect();
        let mut merger = Merger::new(query.clone(), sets);
        while let Step::Fetch(fetches) = merger.step() {
            for fetch in fetches {
                let within = |key: &&Bytes| {
                    set_of(key) == fetch.source
                        && **key >= fetch.start
                        && fetch.end.as_ref().is_none_or(|end| *key < end)
                };
                let found: Vec<&Bytes> = raw.iter().filter(within).collect();
                let cut = page.min(fetch.limit);
                let next = found.get(cut).map(|_| successor(found[cut - 1]));
                let live = found.into_iter().take(cut).filter(|key| keys.contains(*key));
                merger.feed(fetch.source, live.map(|key| (key.clone(), ())).collect(), next);
            }
        }
        merger.into_page()
    }

    fn key() -> impl Strategy<Value = Bytes> {
        let alphabet = prop::sample::select(vec![b'a', b'b', b'/', b'-', 0, 0xff]);
        prop::collection::vec(alphabet, 1..7).prop_map(Bytes::from)
    }

    fn short() -> impl Strategy<Value = Bytes> {
        let choices = [&b""[..], b"a", b"a/", b"/", b"\xff", b"ab", b"b//"];
        prop::sample::select(choices.map(Bytes::from_static).to_vec())
    }

    fn delimiter() -> impl Strategy<Value = Bytes> {
        let choices = [&b""[..], b"/", b"//", b"a", b"/-", b"\xff"];
        prop::sample::select(choices.map(Bytes::from_static).to_vec())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(600))]

        /// Goal: any page of a merged list is the page a naive reader of the whole list cuts, and the
        /// pages chained by their tokens make up the whole list. Method: random keys with shared
        /// prefixes spread over sets, random dead keys between them, every kind of cut.
        #[test]
        fn pages_are_what_a_naive_reader_cuts(
            keys in prop::collection::btree_set(key(), 0..60),
            dead in prop::collection::btree_set(key(), 0..20),
            (prefix, delimiter) in (short(), delimiter()),
            after in prop::option::of(key()),
            (limit, sets, page) in (0_usize..8, 1_usize..5, 1_usize..6),
        ) {
            let dead: BTreeSet<Bytes> = dead.difference(&keys).cloned().collect();
            let after = after.unwrap_or_default();
            let names = Names::Objects;
            let mut query = Query { names, prefix, delimiter, after, after_name: None, limit };
            let whole = naive_page(&keys, &Query { limit: usize::MAX, ..query.clone() });
            let (mut all_keys, mut all_prefixes) = (Vec::new(), Vec::new());
            loop {
                let (want_keys, want_prefixes, truncated) = naive_page(&keys, &query);
                let got = merged_page(&keys, &dead, &query, sets, page);
                let got_keys: Vec<Bytes> = got.items.into_iter().map(|item| item.0).collect();
                prop_assert_eq!(&got_keys, &want_keys);
                prop_assert_eq!(&got.prefixes, &want_prefixes);
                prop_assert_eq!(got.truncated, truncated);
                all_keys.extend(got_keys);
                all_prefixes.extend(got.prefixes);
                if !truncated {
                    break;
                }
                query.after = got.last.expect("INV-LIST-2: a truncated page is never empty");
            }
            if limit > 0 {
                prop_assert_eq!((all_keys, all_prefixes), (whole.0, whole.1));
            }
        }

        /// Goal: positions of uploads keep the order of their keys, so that seeking by key works on
        /// encoded names. Method: compare every pair of random keys.
        #[test]
        fn upload_positions_keep_the_order_of_keys(a in key(), b in key()) {
            let lowest = RegisterKey::upload_name(&a, OperationId(0));
            let highest = RegisterKey::upload_name(&a, OperationId(u128::MAX));
            let bound = Names::Uploads.position(&b);
            prop_assert_eq!(lowest >= bound, a >= b);
            prop_assert_eq!(highest >= bound, a >= b);
        }
    }

    /// Goal: a rolled-up prefix costs one fetch, however many keys it has. Method: count fetches.
    #[test]
    fn a_prefix_is_sought_past_after_one_live_key() {
        let mut keys: BTreeSet<Bytes> =
            (0..5_000).map(|i| Bytes::from(format!("dir/{i:05}"))).collect();
        keys.insert(Bytes::from_static(b"zz"));
        let query = Query {
            names: Names::Objects,
            prefix: Bytes::new(),
            delimiter: Bytes::from_static(b"/"),
            after: Bytes::new(),
            after_name: None,
            limit: 10,
        };
        let mut merger = Merger::new(query, 1);
        let mut fetches = 0;
        while let Step::Fetch(wanted) = merger.step() {
            fetches += 1;
            let start = wanted[0].start.clone();
            let found: Vec<_> = keys.range(start..).take(20).map(|key| (key.clone(), ())).collect();
            let next = (found.len() == 20).then(|| successor(&found[19].0));
            merger.feed(0, found, next);
        }
        let page = merger.into_page();
        assert_eq!((page.items.len(), page.prefixes.len(), page.truncated), (1, 1, false));
        assert_eq!(fetches, 2);
    }

    /// Goal: the second marker of an upload list continues within one key. Method: two uploads of a
    /// key, the first one named as marker.
    #[test]
    fn uploads_of_one_key_continue_behind_the_upload_marker() {
        let name = |key: &[u8], id| RegisterKey::upload_name(key, OperationId(id));
        let all = [(name(b"a", 1), ()), (name(b"a", 2), ()), (name(b"b", 1), ())];
        let query = |after_name| Query {
            names: Names::Uploads,
            prefix: Bytes::new(),
            delimiter: Bytes::new(),
            after: Bytes::from_static(b"a"),
            after_name,
            limit: 10,
        };
        for (after_name, expected) in [(None, 1), (Some(name(b"a", 1)), 2)] {
            let mut merger = Merger::new(query(after_name), 1);
            while let Step::Fetch(wanted) = merger.step() {
                let found = all.iter().filter(|item| item.0 >= wanted[0].start).cloned().collect();
                merger.feed(0, found, None);
            }
            assert_eq!(merger.into_page().items.len(), expected);
        }
    }
}
