//! Keys of a drive in memory that rot hides (ADR 0017): it is silent about them, and lists say so.

use bytes::Bytes;
use holdfast_drive::api::{DriveError, DriveRequest, Gap, ListIndex, MemberRequest, Scan};
use holdfast_types::{ErrorClass, RegisterKey};

use super::MemoryDrive;

/// A stretch of keys that is hidden: of one space and bucket, by whole keys.
#[derive(Clone, Debug)]
pub(super) struct Hole {
    first: RegisterKey,
    end: RegisterKey,
}

impl Hole {
    pub(super) fn holds(&self, key: &RegisterKey) -> bool {
        *key >= self.first && *key < self.end
    }
}

impl MemoryDrive {
    /// Rot hides what is known of the keys from `first` up to, not including, `end`.
    pub fn hide(&mut self, first: RegisterKey, end: RegisterKey) {
        self.holes.push(Hole { first, end });
    }

    pub(super) fn is_hidden(&self, key: &RegisterKey) -> bool {
        self.holes.iter().any(|hole| hole.holds(key))
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
