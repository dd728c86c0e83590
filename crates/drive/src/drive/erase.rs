//! What is left of a deleted bucket goes: objects, uploads and parts, with their bytes (INV-BUCKET-4).
//!
//! ```text
//! Bucket record, phase Deleted --> queue --tick--> Erase records, some registers at a time --> nothing
//!                      open, every time ^
//! ```

use std::collections::VecDeque;

use bytes::Bytes;
use holdfast_types::{BucketId, BucketPhase, Keyspace, RegisterKey};

use crate::{
    log::record::Record,
    overlay::prefix_end,
    table::{KnownBucket, Table},
    value::Value,
};

use super::{Drive, Stop};

/// Registers erased at one tick: some ms of work beside the requests of the drive.
const ERASED_AT_ONCE: usize = 512;

/// The keyspaces that belong to buckets.
const SPACES: [Keyspace; 3] = [Keyspace::Object, Keyspace::Upload, Keyspace::Part];

/// Deleted buckets whose registers are to go, and how far the first of them is.
#[derive(Default)]
pub(super) struct Erasing {
    buckets: VecDeque<BucketId>,
    /// Index into [`SPACES`], and where to go on in it.
    at: (usize, Option<Bytes>),
}

impl Erasing {
    /// Every deleted bucket is looked at once an open: a crash may have left some of it.
    pub(super) fn of(table: &Table) -> Self {
        let deleted = |known: &&KnownBucket| known.stamp.phase == BucketPhase::Deleted;
        let buckets = table.buckets.values().filter(deleted).map(|known| known.stamp.id);
        Self { buckets: buckets.collect(), ..Self::default() }
    }

    pub(super) fn add(&mut self, bucket: BucketId) {
        self.buckets.push_back(bucket);
    }
}

impl Drive {
    /// Erases some registers of a deleted bucket. When the log or the overlay has no room, later.
    pub(super) fn erase_some(&mut self) {
        let Some(bucket) = self.erasing.buckets.front().copied() else { return };
        if self.check_room().is_err() {
            return;
        }
        match self.erase_page(bucket) {
            Ok(()) => {}
            Err(Stop::Failed(_, cause)) => {
                tracing::warn!(drive = %self.id(), ?bucket, cause, "deleted bucket is left for later");
                // The others have their turn; the next open comes back to this one.
                self.next_bucket();
            }
            Err(Stop::Refused(_)) => unreachable!("nobody is asked"),
        }
    }

    fn erase_page(&mut self, bucket: BucketId) -> Result<(), Stop> {
        let (space, start) = self.erasing.at.clone();
        let key = RegisterKey { space: SPACES[space], bucket, name: Bytes::new() };
        // Space and bucket without a name: the prefix of all its keys.
        let prefix = Bytes::from(key.encode()).slice(..17);
        let start = start.unwrap_or_else(|| prefix.clone());
        let end = prefix_end(&prefix);
        let page = self.table.layers.scan(&start, end.as_deref(), ERASED_AT_ONCE)?;
        for (register, value) in page.items {
            if matches!(*value, Value::Register(_)) {
                self.record(&Record::Erase { register }, false)?;
            }
        }
        match page.next {
            Some(next) => self.erasing.at.1 = Some(next),
            None if space + 1 < SPACES.len() => self.erasing.at = (space + 1, None),
            None => self.next_bucket(),
        }
        Ok(())
    }

    fn next_bucket(&mut self) {
        self.erasing.buckets.pop_front();
        self.erasing.at = (0, None);
    }
}
