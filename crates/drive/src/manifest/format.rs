//! The bytes of a manifest (docs/format/index.md).
//!
//! ```text
//! magic 8 = "HFMANIF5" | drive 16 | sequence u64
//!   | log: segment varint, offset varint, batch varint, chain 16
//!   | facts: open count varint, set epoch varint, standing u8, floor 28, ceiling 28, purge floor 28,
//!            registers varint, repairs varint, used bytes varint,
//!            shards varint
//!   | membership blob
//!   | buckets: count varint, each a bucket stamp
//!   | volumes: count varint, each: volume varint, blocks varint, bitmap bytes varint, page refs
//!   | segments: count varint, each: segment, live shards, live bytes, last batch varint
//!   | runs: count varint, newest first, each: id, items, removals, bytes, lsn min, lsn max varint,
//!           first key blob, last key blob, highest ballot 28
//!   | rot: count varint, each: first key blob, end blob, log position varint, highest ballot 28,
//!          set epoch varint, standing u8: 0 hidden, 1 open, 2 filled; since log position varint
//!   | scrub: book, as in scrub.rs
//!   | checksum 16 (XXH3-128 over all before it)
//! page ref | form u8: 0 all free, 1 all taken, 2 stored: slot varint, checksum 16
//! ```
//!
//! A page is 32 KiB of a volume's bitmap, which is 1 GiB of blocks; the last is shorter and padded
//! with zeros in its slot. Its checksum is XXH3-128 over drive and the page's own bytes.

use holdfast_types::{
    Ballot, BucketStamp, DriveId, SetEpoch,
    codec::{CodecError, Reader, Writer},
};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use super::Pages;
use crate::{
    checkpoint::{Checkpoint, DurableFacts, LogPosition, SegmentUse, VolumeMap},
    member::Standing,
    meta_index::Lsn,
    rot::{RotRange, RotRanges},
    runs::{RunId, RunMeta},
    scrub::Book,
};

const MAGIC: [u8; 8] = *b"HFMANIF5";

/// The form before it: ranges of rot had no epoch and no standing.
const MAGIC_BEFORE: [u8; 8] = *b"HFMANIF4";
const CHECKSUM_BYTES: usize = 16;

/// Bytes of a bitmap page.
pub const PAGE_BYTES: usize = 32 << 10;

/// Blocks of a volume: 16 TiB. Bounds the bitmap that a reader allocates.
const BITMAP_BYTES_MAX: usize = 512 << 20;

/// What a page holds, summed up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageSum {
    checksum: u128,
    uniform: Option<u8>,
}

impl PageSum {
    /// Sums up a page of `drive`.
    pub fn of(drive: DriveId, page: &[u8]) -> Self {
        let first = page.first().copied().unwrap_or(0);
        let uniform = (first == 0 || first == 0xff) && page.iter().all(|byte| *byte == first);
        let mut hash = Xxh3::new();
        hash.update(&drive.to_bytes());
        hash.update(page);
        Self { checksum: hash.digest128(), uniform: uniform.then_some(first) }
    }

    /// The reference of a page that is all free or all taken.
    pub fn uniform(&self) -> Option<PageRef> {
        self.uniform.map(|fill| if fill == 0 { PageRef::Free } else { PageRef::Taken })
    }
}

/// Where a page of a bitmap is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageRef {
    /// Nowhere: all its blocks are free.
    Free,
    /// Nowhere: all its blocks are taken.
    Taken,
    /// In a slot of the pages file.
    Stored {
        /// The slot.
        slot: u32,
        /// The checksum of its bytes.
        checksum: u128,
    },
}

impl PageRef {
    /// A page in `slot`.
    pub const fn stored(slot: u32, sum: &PageSum) -> Self {
        Self::Stored { slot, checksum: sum.checksum }
    }

    /// Its slot, when it has one.
    pub const fn slot(&self) -> Option<u32> {
        match self {
            Self::Stored { slot, .. } => Some(*slot),
            Self::Free | Self::Taken => None,
        }
    }

    /// The byte that a page without a slot is full of.
    pub const fn fill(&self) -> u8 {
        if matches!(self, Self::Taken) { 0xff } else { 0 }
    }

    /// Whether it refers to a stored page of this content.
    pub fn is(&self, sum: &PageSum) -> bool {
        matches!(self, Self::Stored { checksum, .. } if *checksum == sum.checksum)
    }

    fn encode(&self, out: &mut Writer) {
        match self {
            Self::Free => out.u8(0),
            Self::Taken => out.u8(1),
            Self::Stored { slot, checksum } => {
                out.u8(2);
                out.varint((*slot).into());
                out.raw(&checksum.to_be_bytes());
            }
        }
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(match input.u8()? {
            0 => Self::Free,
            1 => Self::Taken,
            2 => Self::Stored {
                slot: input.narrow()?,
                checksum: u128::from_be_bytes(input.array()?),
            },
            _ => return Err(CodecError::Unknown("page reference")),
        })
    }
}

/// The manifest of a checkpoint whose bitmap pages are at `pages`.
pub fn encode(checkpoint: &Checkpoint, pages: &Pages) -> Vec<u8> {
    let mut out = Writer::with_capacity(1 << 16);
    out.raw(&MAGIC);
    out.id(checkpoint.drive.to_bytes());
    out.raw(&checkpoint.sequence.to_be_bytes());
    encode_log(&checkpoint.log, &mut out);
    encode_facts(&checkpoint.facts, &mut out);
    out.blob(&checkpoint.membership);
    out.varint(checkpoint.buckets.len() as u64);
    for bucket in &checkpoint.buckets {
        bucket.encode(&mut out);
    }
    out.varint(checkpoint.volumes.len() as u64);
    for volume in &checkpoint.volumes {
        out.varint(volume.volume.into());
        out.varint(volume.blocks.into());
        out.varint(volume.bitmap.len() as u64);
        for page in 0..volume.bitmap.len().div_ceil(PAGE_BYTES) {
            pages[&(volume.volume, page as u32)].encode(&mut out);
        }
    }
    out.varint(checkpoint.segments.len() as u64);
    for used in &checkpoint.segments {
        for number in [used.segment.into(), used.live_shards, used.live_bytes, used.last_batch] {
            out.varint(number);
        }
    }
    out.varint(checkpoint.runs.len() as u64);
    for run in &checkpoint.runs {
        encode_run(run, &mut out);
    }
    out.varint(checkpoint.rot.all().len() as u64);
    for range in checkpoint.rot.all() {
        range.encode(&mut out);
    }
    checkpoint.scrub.encode(&mut out);
    let mut bytes = out.into_bytes();
    let sum = xxh3_128(&bytes);
    bytes.extend_from_slice(&sum.to_be_bytes());
    bytes
}

/// The inverse of [`encode`]; bitmaps come back as zeros of the right length, to be filled from the
/// pages.
///
/// # Errors
/// [`CodecError`] when the bytes are not a manifest.
pub fn decode(bytes: &[u8]) -> Result<(Checkpoint, Pages), CodecError> {
    let split = bytes.len().checked_sub(CHECKSUM_BYTES).ok_or(CodecError::Truncated)?;
    let (body, sum) = bytes.split_at(split);
    if xxh3_128(body).to_be_bytes() != sum {
        return Err(CodecError::Unknown("manifest checksum"));
    }
    let mut input = Reader::new(body);
    let magic = input.array::<8>()?;
    if magic != MAGIC && magic != MAGIC_BEFORE {
        return Err(CodecError::Unknown("manifest format"));
    }
    let drive = DriveId::from_bytes(input.array()?);
    let sequence = u64::from_be_bytes(input.array()?);
    let log = decode_log(&mut input)?;
    let facts = decode_facts(&mut input)?;
    let membership = input.blob_bytes()?;
    let buckets = decode_list(&mut input, BucketStamp::decode)?;
    let mut pages = Pages::new();
    let volumes = decode_list(&mut input, |input| decode_volume(input, &mut pages))?;
    let segments = decode_list(&mut input, decode_segment)?;
    let runs = decode_list(&mut input, decode_run)?;
    let rot = if magic == MAGIC {
        RotRanges::new(decode_list(&mut input, RotRange::decode)?)
    } else {
        // Added one by one: they may meet, and cover several kinds.
        let mut rot = RotRanges::default();
        for range in decode_list(&mut input, RotRange::decode_met)? {
            rot.add(RotRange { epoch: facts.set_epoch, ..range });
        }
        rot
    };
    let scrub = Book::decode(&mut input)?;
    input.finish()?;
    let checkpoint = Checkpoint {
        drive,
        sequence,
        log,
        facts,
        membership,
        buckets,
        volumes,
        segments,
        runs,
        rot,
        scrub,
    };
    Ok((checkpoint, pages))
}

/// A count and as many items. Every item has at least one byte, which bounds the allocation.
fn decode_list<T>(
    input: &mut Reader<'_>,
    mut item: impl FnMut(&mut Reader<'_>) -> Result<T, CodecError>,
) -> Result<Vec<T>, CodecError> {
    let count = input.narrow::<usize>()?;
    if count > input.remaining() {
        return Err(CodecError::Truncated);
    }
    (0..count).map(|_| item(input)).collect()
}

fn encode_log(log: &LogPosition, out: &mut Writer) {
    out.varint(log.segment.into());
    out.varint(log.offset);
    out.varint(log.batch);
    out.raw(&log.chain.to_be_bytes());
}

fn decode_log(input: &mut Reader<'_>) -> Result<LogPosition, CodecError> {
    Ok(LogPosition {
        segment: input.narrow()?,
        offset: input.varint()?,
        batch: input.varint()?,
        chain: u128::from_be_bytes(input.array()?),
    })
}

fn encode_facts(facts: &DurableFacts, out: &mut Writer) {
    out.varint(facts.open_count);
    out.varint(facts.set_epoch.0);
    out.u8(facts.standing as u8);
    for ballot in [&facts.floor, &facts.ceiling, &facts.purge_floor] {
        ballot.encode(out);
    }
    for number in [facts.registers, facts.repairs, facts.used_bytes, facts.shards] {
        out.varint(number);
    }
}

fn decode_facts(input: &mut Reader<'_>) -> Result<DurableFacts, CodecError> {
    Ok(DurableFacts {
        open_count: input.varint()?,
        set_epoch: SetEpoch(input.varint()?),
        standing: Standing::try_from(input.u8()?)?,
        floor: Ballot::decode(input)?,
        ceiling: Ballot::decode(input)?,
        purge_floor: Ballot::decode(input)?,
        registers: input.varint()?,
        repairs: input.varint()?,
        used_bytes: input.varint()?,
        shards: input.varint()?,
    })
}

fn decode_volume(input: &mut Reader<'_>, pages: &mut Pages) -> Result<VolumeMap, CodecError> {
    let volume = input.narrow()?;
    let blocks = input.narrow()?;
    let len = input.narrow::<usize>()?;
    if len > BITMAP_BYTES_MAX || len.div_ceil(PAGE_BYTES) > input.remaining() {
        return Err(CodecError::TooLong("bitmap"));
    }
    for page in 0..len.div_ceil(PAGE_BYTES) {
        pages.insert((volume, page as u32), PageRef::decode(input)?);
    }
    Ok(VolumeMap { volume, blocks, bitmap: vec![0; len] })
}

fn decode_segment(input: &mut Reader<'_>) -> Result<SegmentUse, CodecError> {
    Ok(SegmentUse {
        segment: input.narrow()?,
        live_shards: input.varint()?,
        live_bytes: input.varint()?,
        last_batch: input.varint()?,
    })
}

fn encode_run(run: &RunMeta, out: &mut Writer) {
    let numbers = [run.id.0, run.items, run.removals, run.bytes, run.lsn_min.0, run.lsn_max.0];
    for number in numbers {
        out.varint(number);
    }
    out.blob(&run.first);
    out.blob(&run.last);
    run.highest.encode(out);
}

fn decode_run(input: &mut Reader<'_>) -> Result<RunMeta, CodecError> {
    Ok(RunMeta {
        id: RunId(input.varint()?),
        items: input.varint()?,
        removals: input.varint()?,
        bytes: input.varint()?,
        lsn_min: Lsn(input.varint()?),
        lsn_max: Lsn(input.varint()?),
        first: input.blob_bytes()?,
        last: input.blob_bytes()?,
        highest: Ballot::decode(input)?,
    })
}
