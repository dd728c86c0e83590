//! Records that change what the drive knows of itself, its set, its buckets and of rot, but no register.

use super::{KnownBucket, Table};
use crate::{log::record::Record, meta_index::Lsn, rot::RotRange};

impl Table {
    /// Takes note of a fact that `batch` records.
    pub(super) fn note(&mut self, batch: u64, record: &Record) {
        if record.changes_rot() {
            // Some of what was counted is not there any more, or comes.
            (self.tally, self.tallied) = (None, None);
            (self.census, self.is_named_right) = (None, false);
        }
        match record {
            Record::Bucket(stamp) => {
                self.buckets.insert(stamp.id, KnownBucket { stamp: *stamp, gate: batch });
            }
            Record::Ceiling(ballot) => {
                self.facts.ceiling = self.facts.ceiling.max(*ballot);
            }
            Record::Open { open_count, .. } => {
                self.facts.open_count = self.facts.open_count.max(*open_count);
            }
            Record::Member { epoch, membership } => {
                self.facts.set_epoch = self.facts.set_epoch.max(*epoch);
                if !membership.is_empty() {
                    self.membership = membership.clone();
                }
            }
            Record::Stand { standing, floor, purge_floor } => {
                self.facts.standing = *standing;
                self.facts.floor = self.facts.floor.max(*floor);
                self.facts.purge_floor = self.facts.purge_floor.max(*purge_floor);
            }
            Record::Rot(range) => {
                self.highest = self.highest.max(range.highest);
                self.layers.hide(RotRange { epoch: self.facts.set_epoch, ..range.clone() });
            }
            Record::Fill { epoch, floor } => {
                self.facts.floor = self.facts.floor.max(*floor);
                self.layers.open(*epoch, Lsn(batch));
            }
            Record::Filled(ranges) => {
                self.layers.fill(ranges);
            }
            Record::Healed(ranges) => {
                self.layers.forget_rot(ranges);
            }
            Record::Recount { chores } => {
                self.layers.recount(Lsn(batch), *chores);
            }
            Record::Tally(counted) => {
                counted.tell(&mut self.facts);
                self.tallied = Some(batch);
            }
            Record::Scrub(book) => {
                self.scrub.adopt(book);
            }
            _ => unreachable!("records of registers and shards are applied where they come in"),
        }
    }
}
