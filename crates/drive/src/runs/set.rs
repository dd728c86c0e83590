//! [`RunSet`]: the runs of a drive as one ordered map, and the merge of several.

use std::sync::Arc;

use bytes::Bytes;

use super::{Patience, Run, RunContent, RunCursor, RunError, RunItem, RunMeta, plan::plan_merge};
use crate::{
    meta_index::prefix_end,
    rot::{RotRange, RotRanges},
};

/// The runs of a drive at one moment, newest first. Immutable: a new run or a merge makes a new set,
/// and readers keep the one they began with.
#[derive(Clone, Debug, Default)]
pub struct RunSet {
    runs: Vec<Arc<Run>>,
    /// What of the runs' items is void (INV-FILL-1).
    rot: Arc<RotRanges>,
}

impl RunSet {
    /// A set of `runs`, newest first.
    #[must_use]
    pub fn new(runs: Vec<Arc<Run>>) -> Self {
        Self { runs, rot: Arc::default() }
    }

    /// The set, passing by what is void by `rot`.
    #[must_use]
    pub fn beside(&self, rot: Arc<RotRanges>) -> Self {
        Self { runs: self.runs.clone(), rot }
    }

    /// What rot hides, or makes void.
    #[must_use]
    pub fn rot(&self) -> &RotRanges {
        &self.rot
    }

    /// The runs, newest first.
    #[must_use]
    pub fn runs(&self) -> &[Arc<Run>] {
        &self.runs
    }

    /// What the manifest has to name, newest first.
    #[must_use]
    pub fn metas(&self) -> Vec<RunMeta> {
        self.runs.iter().map(|run| run.meta().clone()).collect()
    }

    /// The set with `run` as its newest.
    #[must_use]
    pub fn with_newest(&self, run: Arc<Run>) -> Self {
        let mut runs = Vec::with_capacity(self.runs.len() + 1);
        runs.push(run);
        runs.extend(self.runs.iter().cloned());
        Self { runs, rot: self.rot.clone() }
    }

    /// The set with `merged` (`None` when nothing was left) in the place of `inputs`, which adjoin.
    /// `None` when they are no longer there side by side.
    #[must_use]
    pub fn with_merged(&self, inputs: &[Arc<Run>], merged: Option<Arc<Run>>) -> Option<Self> {
        let first = inputs.first()?;
        let at = self.runs.iter().position(|run| Arc::ptr_eq(run, first))?;
        let window = self.runs.get(at..at + inputs.len())?;
        if !window.iter().zip(inputs).all(|(a, b)| Arc::ptr_eq(a, b)) {
            return None;
        }
        let mut runs = self.runs.clone();
        runs.splice(at..at + inputs.len(), merged);
        Some(Self { runs, rot: self.rot.clone() })
    }

    /// The runs to merge next, if it is worth it, and whether they reach the oldest run, so that
    /// removals need not be kept. A run with rot that is not in `known` stays, and only the stretches
    /// between such runs merge.
    #[must_use]
    pub fn next_merge(&self, known: &RotRanges) -> Option<(Vec<Arc<Run>>, bool)> {
        let mut end = 0;
        for stretch in self.runs.split(|run| !run.can_merge(known)) {
            let start = end;
            end = start + stretch.len() + 1;
            let sizes: Vec<u64> = stretch.iter().map(|run| run.meta().bytes).collect();
            if let Some(window) = plan_merge(&sizes) {
                let reaches_oldest = start + window.end == self.runs.len();
                return Some((stretch[window].to_vec(), reaches_oldest));
            }
        }
        None
    }

    /// What is held for `key`.
    ///
    /// # Errors
    /// [`RunError`]; on rot in a newer run older ones are not asked, for they may be outdated
    /// (INV-RUN-1).
    pub fn get(&self, key: &[u8], patience: Patience) -> Result<Option<RunItem>, RunError> {
        for run in &self.runs {
            match run.get(key, patience) {
                Ok(Some(item)) => {
                    // What is below a void item is older, and void, too.
                    let holds = is_live(&item) && !self.rot.voids(key, item.lsn);
                    return Ok(holds.then_some(item));
                }
                Ok(None) => {}
                Err(RunError::Rotten(met)) if self.rot.voids(key, met.upto) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Everything held under the key with encoded prefix `prefix` (`RegisterKey::encode`): all its
    /// versions. Filters spare the runs that hold none.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn get_key(&self, prefix: &[u8], patience: Patience) -> Result<Vec<RunItem>, RunError> {
        let mut found = Vec::new();
        let holders: Vec<_> =
            self.runs.iter().filter(|run| run.may_hold(prefix)).cloned().collect();
        if holders.is_empty() {
            return Ok(found);
        }
        let end = prefix_end(prefix);
        let items = MergeIter::new(holders, prefix, end.as_deref(), Merge::Read, patience);
        let mut items = items.around(self.rot.clone());
        while let Some(item) = items.next_item()? {
            found.push(item);
        }
        Ok(found)
    }

    /// What is held from `start` (inclusive) to `end` (exclusive), in key order.
    #[must_use]
    pub fn iter(&self, start: &[u8], end: Option<&[u8]>) -> MergeIter {
        let items = MergeIter::new(self.runs.clone(), start, end, Merge::Read, Patience::Waits);
        items.around(self.rot.clone())
    }
}

/// What a merged iteration is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Merge {
    /// Answers: removals are left out, blocks enter the cache.
    Read,
    /// A merge that reaches the oldest run, or an index built anew: removals are left out.
    DropRemovals,
    /// A merge above older runs: removals stay.
    KeepRemovals,
}

/// The items of several runs in key order, the newest item of each key.
pub struct MergeIter {
    heads: Vec<Head>,
    merge: Merge,
    started: bool,
    start: Bytes,
    end: Option<Bytes>,
    /// Rot that is gone round, and what is void by it.
    known: Arc<RotRanges>,
}

struct Head {
    cursor: RunCursor,
    item: Option<RunItem>,
}

impl Head {
    fn next_item(
        &mut self,
        passes: impl Fn(&RotRange) -> bool,
    ) -> Result<Option<RunItem>, RunError> {
        loop {
            match self.cursor.next_item() {
                Err(RunError::Rotten(met)) if passes(&(&met).into()) => {}
                other => return other,
            }
        }
    }
}

/// Whether an iteration from `start` to `end` may go round a rotten block. A merge may, once it is on record;
/// an answer only where all that the block held is void.
fn passes_by(
    merge: Merge,
    (start, end): (&[u8], Option<&[u8]>),
    known: &RotRanges,
    met: &RotRange,
) -> bool {
    if known.is_empty() {
        return false;
    }
    if merge != Merge::Read {
        return known.knows(met);
    }
    let behind = (!met.end.is_empty()).then_some(&met.end[..]);
    let end = match (behind, end) {
        (Some(behind), Some(end)) => Some(behind.min(end)),
        (one, other) => one.or(other),
    };
    known.voids_all(start.max(&met.start), end, met.upto)
}

impl MergeIter {
    /// Merges `runs`, newest first, from `start` (inclusive) to `end` (exclusive).
    #[must_use]
    pub fn new(
        runs: Vec<Arc<Run>>,
        start: &[u8],
        end: Option<&[u8]>,
        merge: Merge,
        patience: Patience,
    ) -> Self {
        let keep = merge == Merge::Read;
        let cursor = |run| RunCursor::new(run, start, end, keep, patience);
        let heads = runs.into_iter().map(|run| Head { cursor: cursor(run), item: None }).collect();
        let (start, end) = (Bytes::copy_from_slice(start), end.map(Bytes::copy_from_slice));
        Self { heads, merge, started: false, start, end, known: Arc::default() }
    }

    /// Leaves out what is void by ranges that are `known`, and goes round rotten blocks: those that held
    /// nothing else and, in a merge, all that are known, for whoever asks is not answered in these ranges.
    #[must_use]
    pub fn around(self, known: Arc<RotRanges>) -> Self {
        Self { known, ..self }
    }

    /// The next item.
    ///
    /// # Errors
    /// [`RunError`]. The iteration is over then: what follows may be missing newer items.
    pub fn next_item(&mut self) -> Result<Option<RunItem>, RunError> {
        if !self.started {
            self.started = true;
            let Self { heads, merge, known, start, end, .. } = self;
            for head in heads {
                let span = (&start[..], end.as_deref());
                head.item = head.next_item(|met| passes_by(*merge, span, known, met))?;
            }
        }
        loop {
            let Some(item) = self.pop_least()? else { return Ok(None) };
            // The newest of its key: what is older is void, too.
            if self.known.voids(&item.key, item.lsn) {
                continue;
            }
            if self.merge == Merge::KeepRemovals || is_live(&item) {
                return Ok(Some(item));
            }
        }
    }

    /// Takes the least key off all heads that show it; the newest run's item is the answer.
    fn pop_least(&mut self) -> Result<Option<RunItem>, RunError> {
        let least = self.heads.iter().filter_map(|head| head.item.as_ref()).map(|item| &item.key);
        let Some(least) = least.min().cloned() else { return Ok(None) };
        let mut newest: Option<RunItem> = None;
        let Self { heads, merge, known, start, end, .. } = self;
        for head in heads {
            if head.item.as_ref().is_none_or(|item| item.key != least) {
                continue;
            }
            let span = (&start[..], end.as_deref());
            let next = head.next_item(|met| passes_by(*merge, span, known, met))?;
            let item = std::mem::replace(&mut head.item, next);
            newest = newest.or(item);
        }
        Ok(newest)
    }
}

const fn is_live(item: &RunItem) -> bool {
    matches!(item.content, RunContent::Value { .. })
}

/// A page of [`RunSet::iter`]: items, and whether more follow.
///
/// # Errors
/// As [`MergeIter::next_item`].
pub fn page(iter: &mut MergeIter, limit: usize) -> Result<(Vec<RunItem>, bool), RunError> {
    let mut items = Vec::new();
    while items.len() < limit {
        match iter.next_item()? {
            Some(item) => items.push(item),
            None => return Ok((items, false)),
        }
    }
    let more = iter.next_item()?.is_some();
    Ok((items, more))
}

/// Where a scan continues behind `key`.
#[must_use]
pub fn behind(key: &[u8]) -> Bytes {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next.into()
}
