//! What is left of a deleted bucket goes: objects, uploads and parts, with their bytes (INV-BUCKET-4).
//!
//! ```text
//! Bucket record, phase Deleted --> queue --tick--> Erase records, some registers at a time --> nothing
//!                      open, every time ^
//! ```

use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
};

use bytes::Bytes;
use holdfast_types::{BucketId, BucketPhase, Keyspace, RegisterKey};

use crate::{
    log::record::Record,
    overlay::prefix_end,
    table::{KnownBucket, Table},
    value::{PlaceRecord, Value},
};

use super::{Drive, Stop};

/// Registers erased at one tick: some ms of work beside the requests of the drive.
const ERASED_AT_ONCE: usize = 256;

/// The keyspaces that belong to buckets.
const SPACES: [Keyspace; 3] = [Keyspace::Object, Keyspace::Upload, Keyspace::Part];

/// Deleted buckets whose registers are to go, and how far the first of them is.
#[derive(Default)]
pub(super) struct Erasing {
    buckets: VecDeque<BucketId>,
    /// Index into [`SPACES`], and where to go on in it.
    at: (usize, Option<Bytes>),
    /// Alive while a page is at work.
    at_work: Weak<()>,
}

impl Erasing {
    /// Every deleted bucket is looked at once an open: a crash may have left some of it.
    pub(super) fn of(table: &Table) -> Self {
        let deleted = |known: &&KnownBucket| known.stamp.phase == BucketPhase::Deleted;
        let buckets = table.buckets.values().filter(deleted).map(|known| known.stamp.id);
        Self { buckets: buckets.collect(), ..Self::default() }
    }

    /// Looks at all of them once more: what named a hidden place could not go. The first of the queue may be
    /// at work.
    pub(super) fn again(&mut self, table: &Table) {
        for bucket in Self::of(table).buckets {
            if !self.buckets.iter().skip(1).any(|waits| *waits == bucket) {
                self.buckets.push_back(bucket);
            }
        }
    }

    pub(super) fn add(&mut self, bucket: BucketId) {
        self.buckets.push_back(bucket);
    }
}

impl Drive {
    /// Erases some registers of a deleted bucket, when what was begun before is done and the log and the
    /// overlay have room.
    pub(super) fn erase_some(&mut self) {
        let is_busy = self.erasing.at_work.upgrade().is_some();
        let Some(bucket) = self.erasing.buckets.front().copied().filter(|_| !is_busy) else {
            return;
        };
        if self.check_room().is_err() {
            return;
        }
        // Whatever becomes of the work, it is not at work any more once it is dropped.
        let token = Arc::new(());
        self.erasing.at_work = Arc::downgrade(&token);
        self.work(move |drive| {
            let _token = &token;
            match drive.erase_page(bucket) {
                Err(Stop::Failed(_, cause)) => {
                    tracing::warn!(drive = %drive.id(), %bucket, cause, "deleted bucket left for later");
                    // The others have their turn; the next open comes back to this one.
                    drive.next_bucket();
                    Ok(())
                }
                other => other,
            }
        });
    }

    /// Called again when it has to wait; what was erased is not there any more then.
    fn erase_page(&mut self, bucket: BucketId) -> Result<(), Stop> {
        let (space, start) = self.erasing.at.clone();
        let key = RegisterKey { space: SPACES[space], bucket, name: Bytes::new() };
        // Space and bucket without a name: the prefix of all its keys.
        let prefix = Bytes::from(key.encode()).slice(..17);
        let start = start.unwrap_or_else(|| prefix.clone());
        let end = prefix_end(&prefix);
        let page = self.table.layers.scan(&start, end.as_deref(), ERASED_AT_ONCE)?;
        // All at once, so that they are brought up by one trip to the I/O threads.
        self.table
            .layers
            .ready(page.items.iter().flat_map(|(key, value)| looked_at(key, value)))?;
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

/// What is looked at when a register goes: itself, and the places of what its entries name.
fn looked_at(register: &Bytes, value: &Value) -> Vec<Bytes> {
    let Value::Register(record) = value else { return Vec::new() };
    let operations = record.state.entries.iter().flat_map(|held| held.entry.data_operations());
    let places = operations.map(|operation| PlaceRecord::key(operation).into());
    [register.clone()].into_iter().chain(places).collect()
}
