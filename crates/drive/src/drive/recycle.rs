//! Segments are used again; live inline shards are moved out of sparse ones first.

use std::sync::Arc;

use bytes::Bytes;
use holdfast_types::{DriveId, OperationId, codec::Reader};
use xxhash_rust::xxh3::xxh3_128;

use crate::{
    disk::{BLOCK, BLOCK_U64, DiskError, DiskFile},
    log::{
        batch::{BatchHeader, HEADER_BYTES},
        record::{NewShard, Record},
    },
    value::{Place, PlaceRecord},
};

use super::{
    BackgroundJob, Drive, Stop,
    jobs::{Done, job},
};

/// A segment is sparse when at most this share of it is live: moving costs no more than it gives.
const SPARSE_PERCENT: u64 = 50;

/// How long a segment is left alone whose shards had nowhere to go.
const COMPACT_AGAIN_MICROS: u64 = 10_000_000;

/// A shard found in a segment.
pub(super) struct Found {
    operation: OperationId,
    place: Place,
    bytes: Bytes,
}

impl Drive {
    /// Frees the segments that replay needs no more, that hold no live shard, and that nobody reads
    /// (INV-LOG-5).
    pub(super) fn recycle_segments(&mut self) {
        let durable = self.gate.durable();
        let oldest = self.background.oldest_batch;
        let current = self.log.current_segment();
        let idle = self.log.segments().iter().filter(|(id, segment)| {
            let live = self.table.segments.get(id).map_or(0, |used| used.live_shards);
            let dropped_at = self.table.dropped_at.get(id).copied().unwrap_or(0);
            let read =
                self.segment_leases.get(id).is_some_and(|lease| Arc::strong_count(lease) > 1);
            let old = segment.last_batch > 0 && segment.last_batch < oldest;
            // The log goes on in the current one, though a merge's manifest may cover all of it.
            **id != current
                && old
                && live == 0
                && dropped_at <= durable
                && !read
                && !self.pins.linger_in(**id)
        });
        let idle: Vec<u32> = idle.map(|(id, _)| *id).collect();
        for id in idle {
            self.segment_leases.remove(&id);
            self.jobs.read_out.remove(&id);
            self.table.segments.remove(&id);
            self.table.dropped_at.remove(&id);
            self.log.recycle(id);
        }
    }

    /// Reads the sparsest old segment, when there are more than there should be.
    pub(super) fn compaction_job(&mut self) -> Option<BackgroundJob> {
        let few = self.log.segments().len() <= self.options.segments_soft_max;
        let waits = self.clock.monotonic_micros() < self.jobs.compact_after;
        if self.jobs.compacting || few || waits {
            return None;
        }
        let oldest = self.background.oldest_batch;
        let sparse = self.log.segments().iter().filter_map(|(id, segment)| {
            let live = self.table.segments.get(id)?.live_bytes;
            let old = segment.last_batch > 0 && segment.last_batch < oldest;
            let sparse = live > 0 && live * 100 <= segment.bytes * SPARSE_PERCENT;
            let vain = self.jobs.read_out.contains(id);
            (old && sparse && !vain).then_some((live, *id))
        });
        let (_, id) = sparse.min()?;
        self.jobs.compacting = true;
        let (file, drive) = (self.log.segments()[&id].file.clone(), self.id());
        Some(job("read sparse segment", move || Done::Sparse(id, shards_in(&*file, drive, id))))
    }

    /// Moves what is still live.
    pub(super) fn compact(&mut self, segment: u32, found: Result<Vec<Found>, DiskError>) {
        self.jobs.compacting = false;
        let Some(found) = self.noted(found) else { return };
        // Until it is done with. What waits is moved soon, and what is left then cannot be read.
        self.jobs.read_out.insert(segment);
        self.work(move |drive| {
            let moved = drive.move_shards(&found);
            if let Err(Stop::Failed(..)) = moved {
                drive.jobs.read_out.remove(&segment);
                drive.jobs.compact_after = drive.clock.monotonic_micros() + COMPACT_AGAIN_MICROS;
            }
            moved
        });
    }

    /// Called again when it has to wait; what was moved is passed over then, for its place changed.
    fn move_shards(&mut self, found: &[Found]) -> Result<(), Stop> {
        // What rot hides may live and cannot be moved: this segment is not given back (ADR 0017).
        let hidden = |operation| self.table.layers.is_hidden(&PlaceRecord::key(operation));
        let shown: Vec<&Found> = found.iter().filter(|found| !hidden(found.operation)).collect();
        let keys = shown.iter().map(|found| PlaceRecord::key(found.operation).into());
        self.table.layers.ready(keys)?;
        for Found { operation, place, bytes } in shown {
            let (known, _) = self.table.place(*operation)?;
            // A rotten one is the healer's: its copy elsewhere would pass for a whole one.
            if known.place != *place || known.rotten {
                continue;
            }
            let new = NewShard::Inline(bytes.clone());
            let record = Record::Move { operation: *operation, old: place.clone(), new };
            // Urgent, for reads of the moved shards wait for it; a compaction is rare.
            self.record(&record, true)?;
        }
        Ok(())
    }
}

/// Every inline shard that a segment holds, live or not. Blocks that are not a batch are passed over:
/// a rotten batch loses its shards, which reads will find.
fn shards_in(file: &dyn DiskFile, drive: DriveId, segment: u32) -> Result<Vec<Found>, DiskError> {
    let mut bytes = vec![0; file.len()? as usize / BLOCK * BLOCK];
    file.read_at(0, &mut bytes)?;
    let mut found = Vec::new();
    let mut at = 0;
    while at + BLOCK <= bytes.len() {
        let Some(header) = whole_batch(&bytes[at..], drive) else {
            at += BLOCK;
            continue;
        };
        let end = at + HEADER_BYTES + header.length as usize;
        let mut input = Reader::new(&bytes[at + HEADER_BYTES..end]);
        for _ in 0..header.records {
            let Ok((record, inline_end)) = Record::decode(&mut input, end as u64) else { break };
            let (operation, shard) = match record {
                Record::Accept { held, shard, .. } => (held.entry.operation, shard),
                Record::Move { operation, new, .. } => (operation, new),
                _ => continue,
            };
            let NewShard::Inline(shard) = shard else { continue };
            let len = shard.len() as u32;
            let place = Place::Inline { segment, offset: inline_end - u64::from(len), len };
            found.push(Found { operation, place, bytes: shard });
        }
        at = (at as u64 + header.total_bytes()).next_multiple_of(BLOCK_U64) as usize;
    }
    Ok(found)
}

/// The header of the whole batch that `bytes` begin with.
fn whole_batch(bytes: &[u8], drive: DriveId) -> Option<BatchHeader> {
    let (header, _) = BatchHeader::decode(&bytes[..HEADER_BYTES]).ok()?;
    let body = bytes.get(HEADER_BYTES..HEADER_BYTES + header.length as usize)?;
    (header.drive == drive && xxh3_128(body) == header.body).then_some(header)
}
