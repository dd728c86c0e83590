//! Filled ranges go from the record once nothing of them is left that is void (INV-FILL-1).
//!
//! ```text
//! the manifest says Filled, and what was tallied since (`recount`) -> runs written before are written anew, one after the other, without what is void
//!   -> the index is built anew from them -> one manifest more: either names new runs only
//!   -> Healed logged; the next checkpoint says so
//! ```
//!
//! In memory alone: a restart begins again, and finds less to do.

use std::sync::Arc;

use crate::{
    log::record::Record,
    rot::{RotRange, RotStanding},
    runs::{Run, RunId},
};

use super::{
    BackgroundJob, Drive, Stop,
    checkpoint::Background,
    jobs::{Done, job},
};

/// Filled ranges on their way out.
pub(super) struct Cleansing {
    ranges: Vec<RotRange>,
    /// Runs below this number may hold what is void.
    below: RunId,
    /// The index was set aside since no such run is left.
    indexed: bool,
    /// The first manifest that names none.
    clean: Option<u64>,
    done: bool,
}

impl Cleansing {
    /// Whether a run may hold something of these ranges from before.
    fn concerns(&self, run: &Run) -> bool {
        let meta = run.meta();
        let meets = |range: &RotRange| {
            meta.last >= range.start && (range.end.is_empty() || meta.first < range.end)
        };
        meta.id < self.below && self.ranges.iter().any(meets)
    }
}

impl Background {
    /// The next step, when there is one. Nothing else is at work on runs and manifests.
    pub(super) fn cleanse_job(&mut self, is_tallied: bool) -> Option<BackgroundJob> {
        let mut cleansing = match self.cleansing.take() {
            Some(cleansing) => cleansing,
            None if is_tallied => self.begin_cleansing()?,
            None => return None,
        };
        if !self.runs().set().runs().iter().any(|run| cleansing.concerns(run)) {
            // Rot that was in the way of an index is not there any more.
            self.rebuild_again();
        }
        let step = self.cleanse_step(&mut cleansing);
        self.cleansing = Some(cleansing);
        step
    }

    /// From here on every run is written without what these ranges make void: the manifest names them.
    fn begin_cleansing(&self) -> Option<Cleansing> {
        let filled = |range: &&RotRange| matches!(range.standing, RotStanding::Filled(_));
        let ranges: Vec<RotRange> = self.last.rot.all().iter().filter(filled).cloned().collect();
        let below = self.runs().next_id();
        let begun = Cleansing { ranges, below, indexed: false, clean: None, done: false };
        (!begun.ranges.is_empty()).then_some(begun)
    }

    fn cleanse_step(&self, cleansing: &mut Cleansing) -> Option<BackgroundJob> {
        let set = self.runs().set();
        if let Some(at) = set.runs().iter().position(|run| cleansing.concerns(run)) {
            let run: &Arc<Run> = &set.runs()[at];
            // Rot in it that is not on record yet: the next manifest names it.
            return run.can_merge(&self.last.rot).then(|| {
                let reaches_oldest = at + 1 == set.runs().len();
                self.merge_job(vec![run.clone()], reaches_oldest)
            });
        }
        if self.is_rebuilding() {
            return None;
        }
        if !std::mem::replace(&mut cleansing.indexed, true) && self.keeper().begin_anew() {
            return None;
        }
        let clean = *cleansing.clean.get_or_insert(self.last.sequence);
        cleansing.done = self.last.sequence > clean && !self.keeper().wants_rebuild();
        if self.last.sequence > clean {
            return None;
        }
        let (store, last) = (self.store(), self.last.clone());
        Some(job("store manifest", move || Done::Stored(store.again(last))))
    }

    /// Ranges of which nothing void is left.
    fn take_cleansed(&mut self) -> Option<Vec<RotRange>> {
        let is_done = self.cleansing.as_ref().is_some_and(|cleansing| cleansing.done);
        let cleansed = is_done.then(|| self.cleansing.take()).flatten()?;
        Some(cleansed.ranges)
    }
}

impl Drive {
    /// Takes ranges off the record that are healed.
    pub(super) fn record_healed(&mut self) {
        let Some(ranges) = self.background.take_cleansed() else { return };
        tracing::info!(drive = %self.id(), ranges = ranges.len(), "ranges of rot are healed");
        self.work(move |drive| match drive.record(&Record::Healed(ranges.clone()), true) {
            Err(stop @ (Stop::Waits(_) | Stop::NoRoom)) => Err(stop),
            _ => Ok(()),
        });
    }
}
