//! The bytes of a run (docs/format/index.md).
//!
//! ```text
//! file   | block 0 | block 1 | ... | fences | filter | footer 160 |
//! block  | item ... | checksum 16 |
//! item   | shared varint | rest blob | lsn varint | form u8: 1 value, 2 removed
//!          | (form 1:) highest ballot 28 | value blob
//! fences | for each block: offset varint, length varint, first key blob, highest ballot 28 |
//!          last key blob | checksum 16
//! footer | magic 8 | drive 16 | run u64 | items u64 | removals u64 | blocks u64 | lsn min u64
//!          | lsn max u64 | fences offset u64, length u64 | filter offset u64, length u64
//!          | highest ballot 28 | zeros | checksum 16
//! ```
//!
//! `shared` bytes of a key are those of the item before it in the block. Every checksum is XXH3-128,
//! seeded by drive, run and place ([`RunSeal`]), so that another run's bytes never verify.

use std::ops::Range;

use bytes::Bytes;
use holdfast_types::{
    Ballot, DriveId,
    codec::{CodecError, Reader, Writer},
};
use xxhash_rust::xxh3::Xxh3;

use super::{RunContent, RunId, RunItem};
use crate::{checkpoint::VALUE_BYTES_MAX, meta_index::Lsn};

/// A block is closed when it has reached this. A look-up reads, verifies and walks one: at 32 KiB it cost
/// twice as much. The fences, one a block, take 2.4 bytes of memory an object more for it.
pub const BLOCK_BYTES_TARGET: usize = 8 << 10;

/// The longest key: an escaped part name of 1,024 zero bytes, twice over, and its frame.
pub const KEY_BYTES_MAX: usize = 8 << 10;

/// No block is longer: one item of the greatest length.
pub const BLOCK_BYTES_MAX: usize = BLOCK_BYTES_TARGET + VALUE_BYTES_MAX + KEY_BYTES_MAX + 128;

/// Bytes of the footer.
pub const FOOTER_BYTES: usize = 160;

/// Bytes of every checksum.
pub const CHECKSUM_BYTES: usize = 16;

const MAGIC: [u8; 8] = *b"HFRUN001";
const FORM_VALUE: u8 = 1;
const FORM_REMOVED: u8 = 2;

/// The place that is not a block, for the checksum of fences, filter and footer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// A data block.
    Block(u64),
    /// The fences.
    Fences,
    /// The filter.
    Filter,
    /// The footer.
    Footer,
}

/// Seals the parts of one run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RunSeal {
    /// The drive.
    pub drive: DriveId,
    /// The run.
    pub run: RunId,
}

impl RunSeal {
    fn checksum(self, place: Place, bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
        let (kind, number) = match place {
            Place::Block(number) => (0_u8, number),
            Place::Fences => (1, 0),
            Place::Filter => (2, 0),
            Place::Footer => (3, 0),
        };
        let mut hash = Xxh3::new();
        hash.update(&self.drive.to_bytes());
        hash.update(&self.run.0.to_be_bytes());
        hash.update(&[kind]);
        hash.update(&number.to_be_bytes());
        hash.update(bytes);
        hash.digest128().to_be_bytes()
    }

    /// Appends the checksum of `bytes` to them.
    pub fn seal(self, place: Place, bytes: &mut Vec<u8>) {
        let sum = self.checksum(place, bytes);
        bytes.extend_from_slice(&sum);
    }

    /// The bytes without their checksum, when it is right.
    #[must_use]
    pub fn open(self, place: Place, bytes: &[u8]) -> Option<&[u8]> {
        let (body, sum) = bytes.split_at_checked(bytes.len().checked_sub(CHECKSUM_BYTES)?)?;
        (self.checksum(place, body) == sum).then_some(body)
    }
}

/// Appends one item to a block; `before` is the key of the item before it, empty at the beginning.
pub fn push_item(out: &mut Writer, before: &[u8], item: &RunItem) {
    let shared = before.iter().zip(&item.key[..]).take_while(|(a, b)| a == b).count();
    out.varint(shared as u64);
    out.blob(&item.key[shared..]);
    out.varint(item.lsn.0);
    match &item.content {
        RunContent::Value { highest, bytes } => {
            out.u8(FORM_VALUE);
            highest.encode(out);
            out.blob(bytes);
        }
        RunContent::Removed => out.u8(FORM_REMOVED),
    }
}

/// The items of a verified block, in order.
#[derive(Clone, Debug)]
pub struct BlockItems {
    block: Bytes,
    at: usize,
    key: Vec<u8>,
}

impl BlockItems {
    /// The items of `block`, its checksum taken off.
    #[must_use]
    pub const fn new(block: Bytes) -> Self {
        Self { block, at: 0, key: Vec::new() }
    }

    /// The key of the item read last.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// Goes to the next item, whose key [`Self::key`] shows; `None` at the end. Copies and counts no
    /// references: a look-up passes by most of a block.
    ///
    /// # Errors
    /// [`CodecError`] when the bytes are not items in rising order.
    pub fn advance(&mut self) -> Result<Option<Passed>, CodecError> {
        let rest = &self.block[self.at..];
        if rest.is_empty() {
            return Ok(None);
        }
        let mut input = Reader::new(rest);
        let shared = input.narrow::<usize>()?;
        let tail = input.blob()?;
        let rises = self.key.get(shared..).is_some_and(|old| old < tail);
        let is_first = self.at == 0 && shared == 0;
        if !(rises || is_first) {
            return Err(CodecError::Unknown("key order"));
        }
        self.key.truncate(shared);
        self.key.extend_from_slice(tail);
        let lsn = Lsn(input.varint()?);
        let value = match input.u8()? {
            FORM_VALUE => {
                let highest = Ballot::decode(&mut input)?;
                let len = input.blob()?.len();
                let end = self.block.len() - input.remaining();
                Some((highest, end - len..end))
            }
            FORM_REMOVED => None,
            _ => return Err(CodecError::Unknown("run item form")),
        };
        self.at = self.block.len() - input.remaining();
        Ok(Some(Passed { lsn, value }))
    }

    /// What the item holds that was passed.
    #[must_use]
    pub fn content(&self, passed: &Passed) -> RunContent {
        match &passed.value {
            Some((highest, at)) => {
                RunContent::Value { highest: *highest, bytes: self.block.slice(at.clone()) }
            }
            None => RunContent::Removed,
        }
    }

    /// Reads the next item whole whose key is not below `start`; passes by those before it.
    ///
    /// # Errors
    /// As [`Self::advance`].
    pub fn next_from(&mut self, start: &[u8]) -> Result<Option<RunItem>, CodecError> {
        while let Some(passed) = self.advance()? {
            if &self.key[..] >= start {
                let key = Bytes::copy_from_slice(&self.key);
                return Ok(Some(RunItem { key, lsn: passed.lsn, content: self.content(&passed) }));
            }
        }
        Ok(None)
    }
}

/// An item of a block that was passed: where what it holds lies.
#[derive(Clone, Debug)]
pub struct Passed {
    /// Where its record stands.
    pub lsn: Lsn,
    /// Highest ballot and place in the block; `None` when the key was removed.
    value: Option<(Ballot, Range<usize>)>,
}

/// Where a block lies and what lies in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fence {
    /// Offset in the file.
    pub offset: u64,
    /// Length, checksum included.
    pub len: u32,
    /// First key.
    pub first: Bytes,
    /// Highest ballot of its values.
    pub highest: Ballot,
}

/// Fences as they are written: one a block, by rising key.
#[derive(Debug, Default)]
pub struct FencesWriter {
    out: Writer,
    blocks: u64,
}

impl FencesWriter {
    /// Adds the next block.
    pub fn push(&mut self, fence: &Fence) {
        self.out.varint(fence.offset);
        self.out.varint(fence.len.into());
        self.out.blob(&fence.first);
        fence.highest.encode(&mut self.out);
        self.blocks += 1;
    }

    /// Blocks so far.
    #[must_use]
    pub const fn blocks(&self) -> u64 {
        self.blocks
    }

    /// The form of the file, without its checksum; `last` is the last key of the run.
    #[must_use]
    pub fn finish(mut self, last: &[u8]) -> Vec<u8> {
        self.out.blob(last);
        self.out.into_bytes()
    }
}

/// The fences of an open run: as they lie in the file, and where each begins. Tens of millions of items
/// have a million of them, so that what one costs in memory counts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fences {
    bytes: Bytes,
    begins: Vec<u32>,
}

impl Fences {
    /// The inverse of [`FencesWriter::finish`] for `count` blocks in a file whose blocks end at `end`.
    ///
    /// # Errors
    /// [`CodecError`] when the bytes are not fences of adjoining blocks by rising key.
    pub fn from_bytes(bytes: Bytes, count: u64, end: u64) -> Result<Self, CodecError> {
        let mut input = Reader::new(&bytes);
        let mut begins = Vec::new();
        let mut expected = 0_u64;
        let mut before: Option<&[u8]> = None;
        for _ in 0..count {
            let begin = u32::try_from(bytes.len() - input.remaining());
            begins.push(begin.map_err(|_| CodecError::Unknown("fence"))?);
            let (offset, len, first, _) = read_fence(&mut input)?;
            let rises = before.is_none_or(|before| before < first);
            let sane = (CHECKSUM_BYTES..=BLOCK_BYTES_MAX).contains(&(len as usize));
            if offset != expected || !rises || !sane {
                return Err(CodecError::Unknown("fence"));
            }
            expected = offset + u64::from(len);
            before = Some(first);
        }
        input.blob()?;
        input.finish()?;
        if expected != end {
            return Err(CodecError::Unknown("end of blocks"));
        }
        begins.shrink_to_fit();
        Ok(Self { bytes, begins })
    }

    /// Blocks there are.
    #[must_use]
    pub const fn blocks(&self) -> usize {
        self.begins.len()
    }

    fn read(&self, block: usize) -> Option<(u64, u32, &[u8], Ballot)> {
        let begin = *self.begins.get(block)? as usize;
        let read = read_fence(&mut Reader::new(&self.bytes[begin..]));
        Some(read.expect("it was read when the run was opened"))
    }

    /// The fence of a block; `None` behind the last.
    #[must_use]
    pub fn get(&self, block: usize) -> Option<Fence> {
        let (offset, len, first, highest) = self.read(block)?;
        Some(Fence { offset, len, first: self.bytes.slice_ref(first), highest })
    }

    /// Where the blocks end in the file.
    #[must_use]
    pub fn end(&self) -> u64 {
        let last = self.blocks().checked_sub(1).and_then(|last| self.read(last));
        last.map_or(0, |(offset, len, ..)| offset + u64::from(len))
    }

    /// The first key of a block; `None` behind the last.
    #[must_use]
    pub fn first(&self, block: usize) -> Option<&[u8]> {
        self.read(block).map(|(_, _, first, _)| first)
    }

    /// Blocks whose first key is not above `key`: the last of them holds `key`, if any does.
    #[must_use]
    pub fn upto(&self, key: &[u8]) -> usize {
        let first_of = |begin: &u32| {
            let mut input = Reader::new(&self.bytes[*begin as usize..]);
            let first = input.varint().and_then(|_| input.varint()).and_then(|_| input.blob());
            first.expect("it was read when the run was opened")
        };
        self.begins.partition_point(|begin| first_of(begin) <= key)
    }

    /// Bytes in memory.
    #[must_use]
    pub const fn memory_bytes(&self) -> usize {
        self.bytes.len() + self.begins.len() * size_of::<u32>()
    }
}

fn read_fence<'a>(input: &mut Reader<'a>) -> Result<(u64, u32, &'a [u8], Ballot), CodecError> {
    Ok((input.varint()?, input.narrow::<u32>()?, input.blob()?, Ballot::decode(input)?))
}

/// The end of a run file, from which it is opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Footer {
    /// Items, removals included.
    pub items: u64,
    /// Removals.
    pub removals: u64,
    /// Blocks.
    pub blocks: u64,
    /// Lowest log position.
    pub lsn_min: Lsn,
    /// Highest log position.
    pub lsn_max: Lsn,
    /// Where the fences begin, and their length with checksum.
    pub fences: (u64, u64),
    /// Where the filter begins, and its length with checksum.
    pub filter: (u64, u64),
    /// Highest ballot.
    pub highest: Ballot,
}

impl Footer {
    /// The sealed form: [`FOOTER_BYTES`].
    #[must_use]
    pub fn to_bytes(&self, seal: RunSeal) -> Vec<u8> {
        let mut out = Writer::with_capacity(FOOTER_BYTES);
        out.raw(&MAGIC);
        out.id(seal.drive.to_bytes());
        let numbers = [
            seal.run.0,
            self.items,
            self.removals,
            self.blocks,
            self.lsn_min.0,
            self.lsn_max.0,
            self.fences.0,
            self.fences.1,
            self.filter.0,
            self.filter.1,
        ];
        for number in numbers {
            out.raw(&number.to_be_bytes());
        }
        self.highest.encode(&mut out);
        let mut bytes = out.into_bytes();
        assert!(bytes.len() <= FOOTER_BYTES - CHECKSUM_BYTES);
        bytes.resize(FOOTER_BYTES - CHECKSUM_BYTES, 0);
        seal.seal(Place::Footer, &mut bytes);
        bytes
    }

    /// The inverse of [`Self::to_bytes`].
    ///
    /// # Errors
    /// [`CodecError`] when the bytes are not the footer of this run of this drive.
    pub fn from_bytes(bytes: &[u8], seal: RunSeal) -> Result<Self, CodecError> {
        let body = seal.open(Place::Footer, bytes).ok_or(CodecError::Unknown("footer"))?;
        let mut input = Reader::new(body);
        if input.array::<8>()? != MAGIC {
            return Err(CodecError::Unknown("run format"));
        }
        let drive = DriveId::from_bytes(input.array()?);
        let mut number = || input.array().map(u64::from_be_bytes);
        let run = RunId(number()?);
        let (items, removals, blocks) = (number()?, number()?, number()?);
        let (lsn_min, lsn_max) = (Lsn(number()?), Lsn(number()?));
        let fences = (number()?, number()?);
        let filter = (number()?, number()?);
        let highest = Ballot::decode(&mut input)?;
        if (drive, run) != (seal.drive, seal.run) {
            return Err(CodecError::Unknown("run"));
        }
        Ok(Self { items, removals, blocks, lsn_min, lsn_max, fences, filter, highest })
    }
}
