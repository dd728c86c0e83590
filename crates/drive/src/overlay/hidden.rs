//! What rot hides from look-ups (ADR 0017).

use bytes::Bytes;
use holdfast_types::SetEpoch;

use super::{BaseError, Layers};
use crate::{
    meta_index::Lsn,
    rot::{RANGES_MAX, RotRange, RotRanges},
    runs::RottenRange,
};

impl Layers {
    /// What rot hides.
    #[must_use]
    pub const fn rot(&self) -> &RotRanges {
        &self.rot
    }

    /// Hides a range, which is on record now.
    pub fn hide(&mut self, range: RotRange) {
        self.rot.add(range);
        self.rot_changed();
    }

    /// What is on record of rot.
    pub fn restore_rot(&mut self, rot: RotRanges) {
        self.rot = rot;
        self.rot_changed();
    }

    /// Hidden ranges of registers are open from a log position on. Whatever lies below is void, in memory,
    /// runs and index alike.
    ///
    /// # Panics
    /// When an overlay is set aside: its slots would be void, and are read without their position.
    pub fn open(&mut self, epoch: SetEpoch, since: Lsn) {
        let opened = self.rot.open(epoch, since);
        self.opened(&opened);
    }

    /// Ranges of places and chores are counted anew from a log position on. Whatever lies below is void.
    ///
    /// # Panics
    /// As [`Self::open`].
    pub fn recount(&mut self, since: Lsn, chores: bool) {
        if chores {
            self.rot.add(RotRange::of_all_chores(Lsn(since.0 - 1)));
        }
        let opened = self.rot.recount(since);
        self.opened(&opened);
    }

    fn opened(&mut self, ranges: &[RotRange]) {
        assert!(self.frozen.is_none(), "a range is opened while no overlay is written");
        for range in ranges {
            self.overlay.drop_range(&range.start, range.behind().as_deref());
        }
        self.rot_changed();
    }

    /// Open ranges are filled.
    pub fn fill(&mut self, ranges: &[RotRange]) {
        self.rot.fill(ranges);
        self.rot_changed();
    }

    /// Of filled ranges nothing is left that is void.
    pub fn forget_rot(&mut self, ranges: &[RotRange]) {
        self.rot.forget(ranges);
        self.rot_changed();
    }

    pub(super) fn rot_changed(&mut self) {
        self.base.pass_by(&self.rot);
        self.base_changed();
    }

    /// Whether rot hides what is known of a key: rot on record or, in replay, met on the way.
    #[must_use]
    pub fn is_hidden(&self, key: &[u8]) -> bool {
        self.rot.of(key).is_some() || (self.replaying && self.is_met(key))
    }

    fn is_met(&self, key: &[u8]) -> bool {
        let hides =
            |met: &RottenRange| RotRange::from(met).holds(key) && !self.rot.voids(key, met.upto);
        self.met.lock().iter().any(hides)
    }

    /// Takes note of rot.
    pub fn meet(&self, met: RottenRange) {
        let mut all = self.met.lock();
        if all.len() < RANGES_MAX && !all.contains(&met) && !self.rot.knows(&(&met).into()) {
            all.push(met);
        }
    }

    /// Whether rot hides anything from look-ups.
    #[must_use]
    pub fn is_rotten(&self) -> bool {
        !self.rot.is_empty() || !self.met.lock().is_empty()
    }

    /// Rot met that is not on record.
    pub fn take_met(&mut self) -> Vec<RottenRange> {
        std::mem::take(self.met.get_mut())
    }

    /// Fails when rot hides keys from `start` to `end`.
    pub(super) fn check_shown(&self, start: &[u8], end: Option<&[u8]>) -> Result<(), BaseError> {
        match self.rot.first_in(start, end) {
            Some(range) if !self.replaying => Err(BaseError::Rotten(range.into())),
            _ => Ok(()),
        }
    }

    /// Replay goes on over rot: what it hides is taken as absent. Nobody is ever answered from what comes
    /// of it, and `Table::refer` gives nothing back on its word.
    pub(super) fn replayed_get(&self, key: &[u8]) -> Result<Option<Bytes>, BaseError> {
        // What is counted anew is looked up by the count alone.
        let is_hidden = || self.rot.hides(key) || self.is_met(key);
        if is_hidden() {
            return Ok(None);
        }
        match self.met_in(self.base.get(key)) {
            Err(BaseError::Rotten(_)) if is_hidden() => Ok(None),
            other => other,
        }
    }

    pub(super) fn met_in<T>(&self, answer: Result<T, BaseError>) -> Result<T, BaseError> {
        if let Err(BaseError::Rotten(met)) = &answer {
            self.meet(met.clone());
        }
        answer
    }
}
