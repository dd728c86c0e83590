//! Shards on their way out. Runs on bulk I/O threads.

use std::sync::Arc;

use bytes::Bytes;
use holdfast_erasure::{Salt, open_block};
use holdfast_types::{DriveId, ErrorClass, Geometry, RegisterKey};

use crate::{
    api::DriveError,
    disk::{AlignedBuf, BLOCK, BLOCK_U64, DiskError, DiskFile},
    value::{Extent, Place},
    volume::{VolumeSet, extent::ExtentHeader},
};

/// Bytes read at once while a whole shard is verified; one block when that is longer.
const VERIFY_BYTES: u32 = 1 << 20;

/// Reads blocks of one shard. While it lives, the shard's bytes stay where they are.
pub struct ShardReader {
    pub(crate) drive: DriveId,
    pub(crate) salt: Salt,
    pub(crate) geometry: Geometry,
    pub(crate) source: Source,
}

/// Where bytes are read from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Medium {
    /// The system's cache, where it has them.
    Cache,
    /// The device itself, where the system allows it.
    Device,
}

impl Medium {
    fn fill(self, file: &dyn DiskFile, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        match self {
            Self::Cache => file.read_at(offset, buf),
            Self::Device => file.read_medium(offset, buf),
        }
    }
}

/// Where a shard lies, held against reuse.
pub(crate) enum Source {
    /// In a segment of the log; the lease counts in the drive's table.
    Inline { file: Arc<dyn DiskFile>, offset: u64, len: u64, lease: Arc<()> },
    /// In volumes.
    Extents { volumes: Arc<VolumeSet>, extents: Vec<Extent>, len: u64 },
}

impl Source {
    /// Holds the extents of a place.
    pub(crate) fn hold(volumes: &Arc<VolumeSet>, place: &Place) -> Option<Self> {
        let Place::Extents { len, extents } = place else { return None };
        volumes.hold(extents);
        Some(Self::Extents { volumes: volumes.clone(), extents: extents.clone(), len: *len })
    }

    fn len(&self) -> u64 {
        match self {
            Self::Inline { len, .. } | Self::Extents { len, .. } => *len,
        }
    }

    /// Fills `buf` from `offset` of the shard.
    fn read(&self, medium: Medium, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        match self {
            Self::Inline { file, offset: at, .. } => medium.fill(&**file, at + offset, buf),
            Self::Extents { volumes, extents, .. } => {
                read_extents(volumes, extents, medium, offset, buf)
            }
        }
    }

    /// What each extent says of itself, from the device; none inline. `None` for what cannot be read.
    fn headers(&self) -> impl Iterator<Item = Option<ExtentHeader>> {
        let (volumes, extents) = match self {
            Self::Inline { .. } => (None, &[][..]),
            Self::Extents { volumes, extents, .. } => (Some(volumes), &extents[..]),
        };
        extents.iter().map(move |extent| {
            let file = volumes?.file(extent.volume).ok()?;
            let mut block = vec![0; BLOCK];
            file.read_medium(u64::from(extent.block) * BLOCK_U64, &mut block).ok()?;
            ExtentHeader::decode(&block).ok()
        })
    }

    /// Writes the header of one extent anew, over the old one.
    fn write_header(&self, number: usize, header: &ExtentHeader) -> Result<(), DiskError> {
        let Self::Extents { volumes, extents, .. } = self else { return Ok(()) };
        let Some(extent) = extents.get(number) else { return Ok(()) };
        let mut block = AlignedBuf::zeroed(BLOCK);
        header.write_to(&mut block);
        volumes.file(extent.volume)?.write_at(u64::from(extent.block) * BLOCK_U64, &block)
    }
}

impl Source {
    /// Fills `buf` from the beginning, if that needs no wait for the device.
    fn try_read(&self, buf: &mut [u8]) -> bool {
        match self {
            Self::Inline { file, offset, .. } => file.try_read_at(*offset, buf) == Ok(true),
            Self::Extents { .. } => false,
        }
    }
}

/// Reads across extents; each begins with a block of header that is not part of the shard.
fn read_extents(
    volumes: &VolumeSet,
    extents: &[Extent],
    medium: Medium,
    offset: u64,
    buf: &mut [u8],
) -> Result<(), DiskError> {
    let mut skip = offset;
    let mut rest = buf;
    for extent in extents {
        if rest.is_empty() {
            break;
        }
        let holds = u64::from(extent.blocks - 1) * BLOCK_U64;
        if skip >= holds {
            skip -= holds;
            continue;
        }
        let step = (holds - skip).min(rest.len() as u64) as usize;
        let (head, tail) = rest.split_at_mut(step);
        let at = u64::from(extent.block + 1) * BLOCK_U64 + skip;
        medium.fill(&*volumes.file(extent.volume)?, at, head)?;
        skip = 0;
        rest = tail;
    }
    assert!(rest.is_empty(), "the extents of a place hold its whole length");
    Ok(())
}

impl ShardReader {
    /// Blocks of the shard.
    #[must_use]
    pub const fn block_count(&self) -> u64 {
        self.geometry.stripe_count()
    }

    /// The whole shard, verified, if that needs no wait for the device.
    #[must_use]
    pub fn try_whole(&self) -> Option<Bytes> {
        let len = self.geometry.shard_len();
        if len > self.source.len() {
            return None;
        }
        let mut bytes = vec![0; len as usize];
        let ready = self.source.try_read(&mut bytes);
        (ready && self.verify(0, self.block_count(), &bytes).is_ok()).then(|| bytes.into())
    }

    fn verify(&self, first: u64, end: u64, bytes: &[u8]) -> Result<(), DriveError> {
        let mut at = 0;
        for block in first..end {
            let len = self.geometry.block_len(block) as usize;
            open_block(&self.salt, block, &bytes[at..at + len])
                .map_err(|e| DriveError::failed(self.drive, e.class(), e.to_string()))?;
            at += len;
        }
        Ok(())
    }

    /// Reads the whole shard and verifies every block, with bounded memory.
    ///
    /// # Errors
    /// As [`Self::read`]: the first block that is not right.
    pub fn verify_all(&self) -> Result<(), DriveError> {
        let step = (VERIFY_BYTES / self.geometry.block_bytes.max(1)).max(1);
        let mut first = 0;
        while first < self.block_count() {
            let count = u64::from(step).min(self.block_count() - first);
            self.read_from(Medium::Device, first, count)?;
            first += count;
        }
        Ok(())
    }

    /// Bytes as they lie there, for a copy that verifies them itself.
    pub(crate) fn read_raw(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        self.source.read(Medium::Cache, offset, buf)
    }

    /// The first header of its extents that reads as one of this shard, from the device, and whether all of them
    /// do; inline shards have none, and none that is wrong.
    pub(crate) fn headers(&self) -> (Option<ExtentHeader>, bool) {
        let (mut found, mut all_right) = (None, true);
        for (number, header) in self.source.headers().enumerate() {
            match header.filter(|header| self.owns(number, header)) {
                Some(header) => found = found.or(Some(header)),
                None => all_right = false,
            }
        }
        (found, all_right)
    }

    /// Whether a header is what the extent of this number begins with.
    fn owns(&self, number: usize, header: &ExtentHeader) -> bool {
        let Salt { operation, drive, shard } = self.salt;
        (header.operation, header.drive, header.shard) == (operation, drive, shard)
            && usize::try_from(header.ordinal) == Ok(number)
    }

    /// Writes headers anew that do not read as those of this shard; returns how many. To be called for a shard that
    /// verified. Nothing rests on a header, so none of it is synced: one that is lost is found and written again.
    ///
    /// # Errors
    /// When the device fails.
    pub(crate) fn restore_headers(&self, key: &RegisterKey) -> Result<usize, DiskError> {
        let wrong = |(number, header): (usize, Option<ExtentHeader>)| {
            let is_right = header.is_some_and(|header| self.owns(number, &header));
            (!is_right).then_some(number)
        };
        let wrong: Vec<usize> = self.source.headers().enumerate().filter_map(wrong).collect();
        for number in &wrong {
            let Salt { operation, drive, shard } = self.salt;
            let (ordinal, geometry, key) = (*number as u32, self.geometry, key.clone());
            let header = ExtentHeader { operation, drive, shard, ordinal, geometry, key };
            self.source.write_header(*number, &header)?;
        }
        Ok(wrong.len())
    }

    /// Reads whole blocks with their checksums, each verified.
    ///
    /// # Errors
    /// `Damaged` when a block is rotten or is not there; `Invalid` when there are no such blocks.
    pub fn read(&self, first: u64, count: u64) -> Result<Bytes, DriveError> {
        self.read_from(Medium::Cache, first, count)
    }

    /// As [`Self::read`], from where it is told.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_from(&self, medium: Medium, first: u64, count: u64) -> Result<Bytes, DriveError> {
        let last = first.checked_add(count).and_then(|end| end.checked_sub(1));
        let Some(last) = last.filter(|last| count > 0 && *last < self.block_count()) else {
            let message = format!("read shard: no blocks {first}+{count}");
            return Err(DriveError::failed(self.drive, ErrorClass::Invalid, message));
        };
        let offset = self.geometry.block_offset(first);
        let end = self.geometry.block_offset(last) + u64::from(self.geometry.block_len(last));
        if end > self.source.len() {
            let message = format!("read shard: {end} bytes wanted, {} there", self.source.len());
            return Err(DriveError::failed(self.drive, ErrorClass::Damaged, message));
        }
        let mut bytes = vec![0; (end - offset) as usize];
        let failed =
            |e: DiskError| DriveError::failed(self.drive, ErrorClass::Damaged, e.to_string());
        self.source.read(medium, offset, &mut bytes).map_err(failed)?;
        self.verify(first, last + 1, &bytes)?;
        Ok(bytes.into())
    }
}

impl Drop for ShardReader {
    fn drop(&mut self) {
        match &self.source {
            Source::Extents { volumes, extents, .. } => volumes.unhold(extents),
            Source::Inline { lease, .. } => debug_assert!(Arc::strong_count(lease) > 0),
        }
    }
}
