//! Reading the chain of batches back.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use holdfast_types::{DriveId, codec::Reader};
use xxhash_rust::xxh3::xxh3_128;

use crate::{
    checkpoint::LogPosition,
    disk::{BLOCK, BLOCK_U64, Disk, DiskError, DiskFile},
    error::DriveFault,
    log::{
        batch::{BatchHeader, HEADER_BYTES},
        record::Record,
        segment::open_segments,
    },
};

/// Bytes read ahead while walking a segment.
const WINDOW_BYTES: u64 = 1 << 20;

/// What the chain held.
pub struct Replayed {
    /// The position and chain value of the batch that comes next.
    pub end: LogPosition,
    /// The highest generation that any batch header shows.
    pub generation: u64,
    /// Every segment, with its length.
    pub segments: BTreeMap<u32, (Arc<dyn DiskFile>, u64)>,
    /// The highest batch of the chain in each segment it runs through.
    pub visited: BTreeMap<u32, u64>,
}

/// One record of the chain, and where.
pub struct Replay<'a> {
    /// Its batch.
    pub batch: u64,
    /// Its segment.
    pub segment: u32,
    /// Where its inline bytes end in the segment.
    pub inline_end: u64,
    /// The record.
    pub record: &'a Record,
}

/// Reads every record from `start` to the end of the chain, makes durable what was read, and makes
/// sure that nothing follows.
///
/// # Errors
/// [`DriveFault::Amnesic`] when batches are missing; [`DriveFault::Unreadable`] when a whole batch
/// holds what is not a record; [`DriveFault::Disk`].
pub fn replay(
    disk: &dyn Disk,
    drive: DriveId,
    start: LogPosition,
    mut apply: impl FnMut(Replay<'_>) -> Result<(), DriveFault>,
) -> Result<Replayed, DriveFault> {
    let mut walk = Walk::new(disk, drive, start)?;
    while let Some(batch) = walk.next_batch()? {
        apply_batch(disk, &batch, &mut apply)?;
    }
    walk.finish(disk)
}

/// A whole batch, verified.
struct Batch {
    header: BatchHeader,
    segment: u32,
    offset: u64,
    records: Vec<u8>,
}

fn apply_batch(
    disk: &dyn Disk,
    batch: &Batch,
    apply: &mut impl FnMut(Replay<'_>) -> Result<(), DriveFault>,
) -> Result<(), DriveFault> {
    let unreadable = |cause| DriveFault::unreadable(disk.name(), "the log", cause);
    let end = batch.offset + (HEADER_BYTES + batch.records.len()) as u64;
    let mut input = Reader::new(&batch.records);
    for _ in 0..batch.header.records {
        let (record, inline_end) = Record::decode(&mut input, end).map_err(unreadable)?;
        let number = batch.header.number;
        apply(Replay { batch: number, segment: batch.segment, inline_end, record: &record })?;
    }
    input.finish().map_err(unreadable)
}

struct Walk {
    drive: DriveId,
    files: BTreeMap<u32, SegmentReader>,
    /// The first header of each segment that has one.
    first: BTreeMap<u32, BatchHeader>,
    /// Segments that begin with something else than zeros or a header of ours.
    unclear: BTreeSet<u32>,
    at: LogPosition,
    visited: BTreeMap<u32, u64>,
    start: u64,
}

impl Walk {
    fn new(disk: &dyn Disk, drive: DriveId, start: LogPosition) -> Result<Self, DriveFault> {
        let mut walk = Self {
            drive,
            files: BTreeMap::new(),
            first: BTreeMap::new(),
            unclear: BTreeSet::new(),
            at: start,
            visited: BTreeMap::new(),
            start: start.batch,
        };
        for (id, file) in open_segments(disk)? {
            let mut reader = SegmentReader::new(file)?;
            let block = reader.bytes(0, BLOCK_U64.min(reader.len))?;
            match BatchHeader::decode(block) {
                Ok((header, _)) if header.drive == drive => {
                    walk.first.insert(id, header);
                }
                _ if block.iter().all(|byte| *byte == 0) => {}
                _ => {
                    walk.unclear.insert(id);
                }
            }
            walk.files.insert(id, reader);
        }
        Ok(walk)
    }

    /// The next batch of the chain: where it would lie, or at the beginning of another segment.
    fn next_batch(&mut self) -> Result<Option<Batch>, DriveFault> {
        let here = (self.at.segment, self.at.offset);
        let begins = self.first.iter().filter(|(_, header)| header.number == self.at.batch);
        let elsewhere: Vec<(u32, u64)> = begins.map(|(id, _)| (*id, 0)).collect();
        for (segment, offset) in std::iter::once(here).chain(elsewhere) {
            if let Some((batch, chain)) = self.batch_at(segment, offset)? {
                self.visited.insert(segment, batch.header.number);
                self.at = LogPosition {
                    segment,
                    offset: offset + batch.header.total_bytes(),
                    batch: batch.header.number + 1,
                    chain,
                };
                return Ok(Some(batch));
            }
        }
        Ok(None)
    }

    /// The continuation of the chain at this place, if a whole one is there.
    fn batch_at(&mut self, segment: u32, offset: u64) -> Result<Option<(Batch, u128)>, DiskError> {
        let at = self.at;
        let Some(file) = self.files.get_mut(&segment) else { return Ok(None) };
        let Some((header, chain)) = file.header(offset)? else { return Ok(None) };
        let follows = header.drive == self.drive
            && header.number == at.batch
            && header.previous == at.chain
            && offset + header.total_bytes() <= file.len;
        if !follows {
            return Ok(None);
        }
        let records = file.bytes(offset + HEADER_BYTES as u64, header.length.into())?;
        if xxh3_128(records) != header.body {
            return Ok(None);
        }
        let records = records.to_vec();
        Ok(Some((Batch { header, segment, offset, records }, chain)))
    }

    /// The chain has ended: nothing may follow it (INV-LOG-4), and what was read becomes durable.
    fn finish(mut self, disk: &dyn Disk) -> Result<Replayed, DriveFault> {
        let end = self.at;
        let amnesic = |segment: u32, number: u64| DriveFault::Amnesic {
            path: disk.name().to_owned(),
            cause: format!(
                "the log ends before batch {}, but segment {segment} holds batch {number}",
                end.batch
            ),
        };
        if let Some((id, header)) = self.first.iter().find(|(_, header)| header.number > end.batch)
        {
            return Err(amnesic(*id, header.number));
        }
        let mut suspects: BTreeMap<u32, u64> = self.unclear.iter().map(|id| (*id, 0)).collect();
        suspects.insert(end.segment, end.offset);
        for (id, from) in suspects {
            let Some(file) = self.files.get_mut(&id) else { continue };
            if let Some(number) = file.header_above(self.drive, from, end.batch)? {
                return Err(amnesic(id, number));
            }
        }
        if end.batch == self.start && self.start > 1 {
            // A manifest is stored after its batches: the first one behind it may well be missing.
            tracing::debug!(batch = end.batch, "the log holds nothing behind the checkpoint");
        }
        for id in self.visited.keys() {
            self.files[id].file.sync()?;
        }
        let generation = self.first.values().map(|header| header.generation).max().unwrap_or(0);
        let segments = self.files.into_iter().map(|(id, file)| (id, (file.file, file.len)));
        Ok(Replayed { end, generation, segments: segments.collect(), visited: self.visited })
    }
}

/// Reads a segment through a window.
struct SegmentReader {
    file: Arc<dyn DiskFile>,
    len: u64,
    window: Vec<u8>,
    window_at: u64,
}

impl SegmentReader {
    fn new(file: Arc<dyn DiskFile>) -> Result<Self, DiskError> {
        let len = file.len()? / BLOCK_U64 * BLOCK_U64;
        Ok(Self { file, len, window: Vec::new(), window_at: 0 })
    }

    /// `len` bytes at `offset`, which lie within the file.
    fn bytes(&mut self, offset: u64, len: u64) -> Result<&[u8], DiskError> {
        debug_assert!(offset + len <= self.len);
        let inside =
            offset >= self.window_at && offset + len <= self.window_at + self.window.len() as u64;
        if !inside {
            // The first look at a segment is at its first block only.
            let ahead = if offset == 0 && len == BLOCK_U64 { len } else { len.max(WINDOW_BYTES) };
            self.window.resize(ahead.min(self.len - offset) as usize, 0);
            self.file.read_at(offset, &mut self.window)?;
            self.window_at = offset;
        }
        let from = (offset - self.window_at) as usize;
        Ok(&self.window[from..from + len as usize])
    }

    /// The header at `offset`, if there is one.
    fn header(&mut self, offset: u64) -> Result<Option<(BatchHeader, u128)>, DiskError> {
        if offset.saturating_add(BLOCK_U64) > self.len {
            return Ok(None);
        }
        Ok(BatchHeader::decode(&self.bytes(offset, BLOCK as u64)?[..HEADER_BYTES]).ok())
    }

    /// The number of a batch above `above`, whose header lies at or behind `from`.
    fn header_above(
        &mut self,
        drive: DriveId,
        from: u64,
        above: u64,
    ) -> Result<Option<u64>, DiskError> {
        let mut at = from;
        while let Some(next) = at.checked_add(BLOCK_U64).filter(|next| *next <= self.len) {
            if let Some((header, _)) = self.header(at)?
                && header.drive == drive
                && header.number > above
            {
                return Ok(Some(header.number));
            }
            at = next;
        }
        Ok(None)
    }
}
