//! Merges look whether index and runs still say the same (DRIVE.md, "Index"): [`Sampler`] chooses a
//! stretch of keys, [`disagreement`] compares what both say of it. No I/O here.
//!
//! The digest of an index is verified when it is opened. What sled loses or takes back afterwards, a stale
//! leaf say, has a sound checksum and shows only against the runs.

use bytes::Bytes;

use super::{INDEX_VALUE_BYTES_MAX, IndexPage, Lookup, span::IndexContent};
use crate::runs::{RunContent, RunItem};

/// Records compared at a time: some milliseconds beside a merge that takes seconds.
pub const SAMPLE_RECORDS: usize = 512;

/// Goes through all that an index holds, a stretch at a time, and begins again at the end.
#[derive(Debug, Default)]
pub struct Sampler {
    /// The span that is at work.
    span: usize,
    /// Where the next stretch begins; the beginning of the span when empty.
    next: Bytes,
}

/// A stretch to compare: [`SAMPLE_RECORDS`] records from `start` on, below `end`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stretch {
    /// First key.
    pub start: Bytes,
    /// First key that is not of it.
    pub end: Option<&'static [u8]>,
}

impl Sampler {
    /// What to compare next.
    #[must_use]
    pub fn stretch(&self, content: IndexContent) -> Stretch {
        let spans = content.spans();
        let span = spans[self.span % spans.len()];
        let start = self.next.clone();
        let start = if start.is_empty() { Bytes::from_static(span.start) } else { start };
        Stretch { start, end: span.end }
    }

    /// Goes on behind `last`, the last key compared, or to the next span when it was the last there.
    pub fn advance(&mut self, last: Option<&[u8]>) {
        if let Some(last) = last {
            self.next = crate::runs::set::behind(last);
        } else {
            self.span = self.span.wrapping_add(1);
            self.next = Bytes::new();
        }
    }

    /// Whether the next stretch begins a span.
    #[must_use]
    pub fn is_at_start(&self) -> bool {
        self.next.is_empty()
    }
}

/// The first key of which index and runs say different things, when there is one among those that both
/// pages reach. Both begin at the same key and have the same limit.
#[must_use]
pub fn disagreement<'a>(
    index: &'a IndexPage,
    (runs, runs_more): (&'a [RunItem], bool),
) -> Option<&'a Bytes> {
    let mut held = index.items.iter();
    let mut right = runs.iter();
    loop {
        match (held.next(), right.next()) {
            (None, None) => return None,
            // The longer page goes on where the other was cut off.
            (Some((key, _)), None) => return (!runs_more).then_some(key),
            (None, Some(item)) => return (!index.more).then_some(&item.key),
            (Some((key, lookup)), Some(item)) => {
                if *key != item.key {
                    return Some(key.min(&item.key));
                }
                if !says(lookup, item) {
                    return Some(key);
                }
            }
        }
    }
}

/// Whether a record says what the runs say.
fn says(lookup: &Lookup, item: &RunItem) -> bool {
    let RunContent::Value { bytes: right, .. } = &item.content else { return false };
    let same = match lookup {
        Lookup::Value { bytes, .. } => bytes == right,
        Lookup::InRuns { .. } => right.len() > INDEX_VALUE_BYTES_MAX,
        Lookup::Absent => false,
    };
    same && lookup.lsn() == Some(item.lsn)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use holdfast_types::{
        Ballot,
        seam::{Random, SeededRandom},
    };

    use super::*;
    use crate::meta_index::Lsn;

    type Model = BTreeMap<Vec<u8>, (u64, Vec<u8>)>;

    fn index_page(model: &Model, limit: usize) -> IndexPage {
        let items = model.iter().take(limit).map(|(key, (lsn, value))| {
            let (lsn, long) = (Lsn(*lsn), value.len() > INDEX_VALUE_BYTES_MAX);
            let value = || Lookup::Value { lsn, bytes: value.clone().into() };
            (key.clone().into(), if long { Lookup::InRuns { lsn } } else { value() })
        });
        IndexPage { items: items.collect(), more: model.len() > limit }
    }

    fn run_page(model: &Model, limit: usize) -> (Vec<RunItem>, bool) {
        let items = model.iter().take(limit).map(|(key, (lsn, value))| RunItem {
            key: key.clone().into(),
            lsn: Lsn(*lsn),
            content: RunContent::Value { highest: Ballot::ZERO, bytes: value.clone().into() },
        });
        (items.collect(), model.len() > limit)
    }

    fn model(random: &SeededRandom, count: u64) -> Model {
        let value = |n: u64| vec![n as u8; if n.is_multiple_of(9) { 5_000 } else { 8 }];
        let key = |n: u64| (n % 1_000).to_be_bytes().to_vec();
        let random = || random.next_u64();
        (0..count).map(|_| (key(random()), (random() % 50, value(random())))).collect()
    }

    /// Goal: what agrees is never accused, and one lost, added, stale or other record always is, when it
    /// lies within what both pages show. Method: random models, the pages cut at random, one change.
    #[test]
    fn one_change_is_found_and_none_is_not() {
        for seed in 0..2_000 {
            let random = SeededRandom::new(seed);
            let right = model(&random, 40);
            let limit = 1 + (random.next_u64() % 60) as usize;
            let (runs, more) = run_page(&right, limit);
            assert_eq!(disagreement(&index_page(&right, limit), (&runs, more)), None);
            let mut wrong = right.clone();
            let at = (random.next_u64() % right.len() as u64) as usize;
            let key = right.keys().nth(at).expect("within").clone();
            let changed = match seed % 4 {
                0 => wrong.remove(&key).map(|_| key),
                1 => {
                    let added = [&key[..], b"x"].concat();
                    wrong.insert(added.clone(), (1, vec![1])).is_none().then_some(added)
                }
                2 => {
                    wrong.get_mut(&key).expect("there").0 += 1;
                    Some(key)
                }
                _ => {
                    // Of a value that lies in the runs the index knows no more than the position.
                    wrong.get_mut(&key).expect("there").1 = vec![7; 9];
                    Some(key)
                }
            };
            let changed = changed.expect("something was changed");
            let index = index_page(&wrong, limit);
            let (found, shown) = (disagreement(&index, (&runs, more)), at < limit - 1);
            assert!(found.is_none_or(|found| found[..] == changed[..]), "seed {seed}");
            assert!(found.is_some() || !shown, "seed {seed}: {changed:?} was not found");
        }
    }

    /// Goal: the stretches go through all spans, and begin again. Method: a walk of a few.
    #[test]
    fn stretches_go_round() {
        let mut sampler = Sampler::default();
        let few = IndexContent::Few;
        assert_eq!((&sampler.stretch(few).start[..], sampler.is_at_start()), (&[2][..], true));
        sampler.advance(Some(b"\x03k"));
        let stretch = sampler.stretch(few);
        assert_eq!((&stretch.start[..], stretch.end), (&b"\x03k\0"[..], Some(&[6][..])));
        sampler.advance(None);
        assert_eq!(&sampler.stretch(few).start[..], &[0x82]);
        sampler.advance(None);
        assert_eq!(&sampler.stretch(few).start[..], &[2]);
        assert_eq!(
            &Sampler { span: 5, ..Sampler::default() }.stretch(IndexContent::All).start[..],
            &[1]
        );
    }
}
