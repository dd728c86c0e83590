//! Keys of a drive in memory that rot hides (ADR 0017): it is silent about them, and lists say so, until they are
//! filled again (ADR 0019).

use bytes::Bytes;
use holdfast_drive::{
    api::{
        DriveError, DriveReply, DriveRequest, DriveResult, Filled, Gap, ListIndex, MemberReply,
        MemberRequest, RotRange, RotStanding, Scan,
    },
    meta_index::Lsn,
};
use holdfast_register::Refusal;
use holdfast_types::{Ballot, ErrorClass, HybridTime, RegisterKey, SetEpoch};

use super::MemoryDrive;

/// A stretch of keys that is hidden: of one space and bucket, by whole keys.
#[derive(Clone, Debug)]
pub(super) struct Hole {
    first: RegisterKey,
    end: RegisterKey,
    epoch: SetEpoch,
    is_open: bool,
}

impl Hole {
    pub(super) fn holds(&self, key: &RegisterKey) -> bool {
        *key >= self.first && *key < self.end
    }
}

impl MemoryDrive {
    /// Rot hides what is known of the keys from `first` up to, not including, `end`.
    pub fn hide(&mut self, first: RegisterKey, end: RegisterKey) {
        self.holes.push(Hole { first, end, epoch: self.set_epoch, is_open: false });
    }

    pub(super) fn is_hidden(&self, key: &RegisterKey) -> bool {
        self.holes.iter().any(|hole| !hole.is_open && hole.holds(key))
    }

    /// Whether a key is hidden, or not filled yet: lists do not show it, and it counts as unknown.
    pub(super) fn is_unfilled(&self, key: &RegisterKey) -> bool {
        self.holes.iter().any(|hole| hole.holds(key))
    }

    /// Whether its answers about a key count.
    pub(super) fn counts_for(&self, key: &RegisterKey) -> bool {
        self.counts && !self.is_unfilled(key)
    }

    /// The ranges that rot hid and that are not filled.
    #[must_use]
    pub fn ranges(&self) -> Vec<RotRange> {
        let standing = |hole: &Hole| match hole.is_open {
            true => RotStanding::Open(Lsn(1)),
            false => RotStanding::Hidden,
        };
        let range = |hole: &Hole| RotRange {
            start: hole.first.encode().into(),
            end: hole.end.encode().into(),
            upto: Lsn(0),
            highest: Ballot::ZERO,
            epoch: hole.epoch,
            standing: standing(hole),
        };
        self.holes.iter().map(range).collect()
    }

    pub(super) fn told_ranges(&self) -> DriveReply {
        DriveReply::Member(MemberReply::Ranges(self.ranges()))
    }

    /// What was recorded under an older epoch is forgotten, and open above the floor from now on.
    pub(super) fn open_holes(&mut self, epoch: SetEpoch, now: HybridTime) {
        let opens = |hole: &Hole| !hole.is_open && hole.epoch < epoch;
        if !self.holes.iter().any(opens) {
            return;
        }
        self.floor = self.issued().floor;
        self.memory_since = now;
        self.keys.values_mut().for_each(|state| state.memory.clear());
        for hole in self.holes.iter_mut().filter(|hole| opens(hole)) {
            hole.is_open = true;
            self.keys.retain(|key, _| !hole.holds(key));
        }
    }

    /// Open ranges that are named are whole again.
    pub(super) fn fill_holes(&mut self, filled: &Filled) -> DriveResult {
        if filled.epoch < self.set_epoch {
            return Err(self.refused(Refusal::SetOutdated { current: self.set_epoch }));
        }
        let named = |hole: &Hole| {
            let start = hole.first.encode();
            filled.ranges.iter().any(|range| range.start == start)
        };
        self.holes.retain(|hole| !(hole.is_open && named(hole)));
        Ok(DriveReply::Done)
    }

    /// Nothing is said about a key that is hidden.
    pub(super) fn check_shown(&self, request: &DriveRequest) -> Result<(), DriveError> {
        let (key, guard) = match request {
            DriveRequest::Member(MemberRequest::Restock(restock)) => (Some(&restock.key), None),
            DriveRequest::Accept(accept) => {
                (Some(&accept.key), accept.guard.as_ref().map(|guard| &guard.key))
            }
            other => (other.key(), None),
        };
        if [key, guard].into_iter().flatten().any(|key| self.is_hidden(key)) {
            let message = "rot hid what is known of it";
            return Err(DriveError::failed(self.id, ErrorClass::Damaged, message));
        }
        Ok(())
    }

    /// The gaps on the way of a scan.
    pub(super) fn gaps_of_scan(&self, scan: &Scan) -> Vec<Gap> {
        let bucket = scan.scope.bucket.id;
        let mine = |hole: &&Hole| hole.first.space == scan.space && hole.first.bucket == bucket;
        let holes = self.holes.iter().filter(mine);
        let gap = |hole: &Hole| Gap {
            first: hole.first.name.clone().max(scan.start.clone()),
            end: Some(hole.end.name.clone()),
        };
        holes.map(gap).filter(|gap| gap.end.as_ref().is_some_and(|end| gap.first < *end)).collect()
    }

    /// The gaps on the way of a listed index.
    pub(super) fn gaps_of_index(&self, list: &ListIndex) -> Vec<Gap> {
        let gap = |hole: &Hole| Gap {
            first: Bytes::from(hole.first.encode()).max(list.start.clone()),
            end: Some(hole.end.encode().into()),
        };
        let gaps = self.holes.iter().map(gap);
        gaps.filter(|gap| gap.end.as_ref().is_some_and(|end| gap.first < *end)).collect()
    }
}
