//! Shards on their way into volumes. Runs on bulk I/O threads.
//!
//! The steps of DRIVE.md, "Volumes", and what a crash after each leaves:
//!
//! 1. Allocate in memory: nothing.
//! 2. Write through O_DIRECT from pooled aligned buffers: nothing that anything names.
//! 3. fdatasync of the volumes, one for all who wait; the handle is known: nothing, handles are
//!    volatile.
//! 4. Log record of the Accept that names the handle, 5. its fdatasync: the shard.
//! 6. Overlay, 7. index: speed.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use holdfast_erasure::{Salt, open_block};
use holdfast_types::{DriveId, ErrorClass, Geometry, OperationId, ShardIndex};
use parking_lot::Mutex;

use crate::{
    api::{DriveError, UploadHandle, UploadTarget},
    disk::{AlignedBuf, BLOCK, BLOCK_U64, BufPool, DiskError, DiskErrorKind, whole_blocks},
    gate::Gate,
    value::Extent,
    volume::{VolumeSet, extent::ExtentHeader},
};

/// Bytes written at once: a chunk of the bulk plane, twice.
const BUFFER_BYTES: usize = 1 << 20;

/// Buffers kept for the next uploads.
const BUFFERS_KEPT: usize = 8;

/// Blocks of the first extent of a shard whose length is not known, 1 MiB; the next ones double.
const FIRST_EXTENT_BLOCKS: u32 = 256;

/// Blocks of the longest extent, 64 MiB: a longer shard is cut, so that a fragmented volume serves.
const EXTENT_BLOCKS_MAX: u32 = 16_384;

/// A finished upload that no Accept names within this time is dropped: longer than any request lives.
pub const UPLOAD_TTL_MICROS: u64 = 10 * holdfast_types::limits::REQUEST_MICROS_MAX;

/// A shard that is wholly written and synced, and that no record names yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Uploaded {
    /// Whose bytes.
    pub operation: OperationId,
    /// Which shard.
    pub shard: ShardIndex,
    /// Bytes.
    pub len: u64,
    /// Bytes of a full block.
    pub block_bytes: u32,
    /// Where.
    pub extents: Vec<Extent>,
    /// When it was finished, on the monotonic clock.
    pub at: u64,
}

/// Opens uploads and keeps finished ones for their Accepts. Cloned freely.
#[derive(Clone)]
pub struct UploadPort {
    pub(crate) shared: Arc<PortShared>,
}

/// What the port's clones share.
pub(crate) struct PortShared {
    pub(crate) drive: DriveId,
    pub(crate) open: u64,
    pub(crate) volumes: Arc<VolumeSet>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) clock: Arc<dyn holdfast_types::seam::Clock>,
    pub(crate) pool: BufPool,
    pub(crate) next: AtomicU64,
    pub(crate) finished: Mutex<HashMap<u64, Uploaded>>,
}

impl PortShared {
    pub(crate) fn new(
        drive: DriveId,
        open: u64,
        volumes: Arc<VolumeSet>,
        gate: Arc<Gate>,
        clock: Arc<dyn holdfast_types::seam::Clock>,
    ) -> Self {
        Self {
            drive,
            open,
            volumes,
            gate,
            clock,
            pool: BufPool::new(BUFFER_BYTES, BUFFERS_KEPT),
            next: AtomicU64::new(1),
            finished: Mutex::new(HashMap::new()),
        }
    }

    /// The error for a failed disk call; fences the drive when nothing is known any more.
    fn report(&self, error: &DiskError, fence: bool) -> DriveError {
        if fence {
            self.gate.fence(&error.to_string());
        }
        let class = match error.kind {
            DiskErrorKind::Full => ErrorClass::Full,
            _ => ErrorClass::Unavailable,
        };
        DriveError::failed(self.drive, class, error.to_string())
    }
}

impl UploadPort {
    /// Begins an upload. Nothing is written yet.
    ///
    /// # Errors
    /// When the drive is fenced or the target's shape is none.
    pub fn begin(&self, target: &UploadTarget) -> Result<Upload, DriveError> {
        if let Some(cause) = self.shared.gate.fenced() {
            return Err(self.shared.gate.fence_error(&cause));
        }
        if self.shared.volumes.is_full() {
            let message = "begin upload: only the drive's reserve is left; delete, or add drives";
            return Err(DriveError::failed(self.shared.drive, ErrorClass::Full, message));
        }
        let geometry = target.geometry;
        if geometry.block_bytes as usize <= BLOCK || geometry.data_shards == 0 {
            let message = "begin upload: the geometry has no blocks";
            return Err(DriveError::failed(self.shared.drive, ErrorClass::Invalid, message));
        }
        let header = ExtentHeader {
            operation: target.operation,
            drive: self.shared.drive,
            shard: target.shard,
            ordinal: 0,
            geometry,
            key: target.key.clone(),
        };
        Ok(Upload::new(self.shared.clone(), header, geometry.shard_len(), true))
    }

    /// Begins a copy of a shard of `len` bytes that is here: into what is free, never into a new volume.
    pub(crate) fn begin_copy(&self, header: ExtentHeader, len: u64) -> Upload {
        Upload::new(self.shared.clone(), header, len, false)
    }

    /// Gives a finished upload's blocks back.
    pub(crate) fn discard(&self, handle: UploadHandle) {
        for extent in self.take(handle).into_iter().flat_map(|uploaded| uploaded.extents) {
            self.shared.volumes.free(extent);
        }
    }

    /// Looks a finished upload up.
    #[must_use]
    pub(crate) fn find(&self, handle: UploadHandle) -> Option<Uploaded> {
        let shared = &self.shared;
        (handle.open == shared.open).then(|| shared.finished.lock().get(&handle.upload).cloned())?
    }

    /// Takes a finished upload out: its extents are the caller's.
    pub(crate) fn take(&self, handle: UploadHandle) -> Option<Uploaded> {
        self.shared.finished.lock().remove(&handle.upload)
    }

    /// Drops finished uploads that no Accept has named in time.
    pub(crate) fn expire(&self, now: u64) {
        let mut finished = self.shared.finished.lock();
        let old = finished.iter().filter(|(_, up)| now.saturating_sub(up.at) > UPLOAD_TTL_MICROS);
        let old: Vec<u64> = old.map(|(id, _)| *id).collect();
        for id in old {
            let uploaded = finished.remove(&id).expect("listed just above");
            for extent in uploaded.extents {
                self.shared.volumes.free(extent);
            }
        }
    }
}

/// One shard being written. Dropped unfinished, it leaves nothing.
pub struct Upload {
    shared: Arc<PortShared>,
    header: ExtentHeader,
    extents: Vec<Extent>,
    buf: Option<AlignedBuf>,
    /// Bytes in `buf`.
    filled: usize,
    /// Where in the last extent `buf` goes, in bytes.
    at: u64,
    /// Bytes of the shard so far.
    len: u64,
    /// The begin of a block whose end has not come.
    partial: Vec<u8>,
    /// Whole blocks verified.
    blocks: u64,
    /// Bytes of the shard as announced; 0 when they are not known.
    announced: u64,
    /// Whether a volume may be added for it.
    grows: bool,
}

impl Upload {
    const fn new(
        shared: Arc<PortShared>,
        header: ExtentHeader,
        announced: u64,
        grows: bool,
    ) -> Self {
        Self {
            shared,
            header,
            extents: Vec::new(),
            buf: None,
            filled: 0,
            at: 0,
            len: 0,
            partial: Vec::new(),
            blocks: 0,
            announced,
            grows,
        }
    }

    /// Writes the next bytes of the shard, of any length. Each block's checksum is verified as it
    /// becomes whole.
    ///
    /// # Errors
    /// A block that does not verify (`Damaged`), no space (`Full`), a failed device.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), DriveError> {
        self.verify(bytes)?;
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = self.room()?;
            let step = room.min(rest.len());
            let buf = self.buf.as_mut().expect("room makes a buffer");
            buf[self.filled..self.filled + step].copy_from_slice(&rest[..step]);
            self.filled += step;
            self.len += step as u64;
            rest = &rest[step..];
        }
        Ok(())
    }

    /// Ends the shard and makes it durable.
    ///
    /// # Errors
    /// As [`Self::write`]; an upload without bytes.
    pub fn finish(mut self) -> Result<UploadHandle, DriveError> {
        if self.len == 0 {
            let message = "finish upload: the shard has no bytes";
            return Err(DriveError::failed(self.shared.drive, ErrorClass::Invalid, message));
        }
        self.verify_last()?;
        self.flush()?;
        let last = self.extents.last_mut().expect("a shard with bytes has an extent");
        let used = u32::try_from(self.at / BLOCK_U64).expect("extents are short");
        self.shared.volumes.trim(last, used);
        let mut volumes: Vec<u32> = self.extents.iter().map(|extent| extent.volume).collect();
        volumes.sort_unstable();
        volumes.dedup();
        for volume in volumes {
            self.shared.volumes.sync(volume).map_err(|e| self.shared.report(&e, true))?;
        }
        let upload = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let uploaded = Uploaded {
            operation: self.header.operation,
            shard: self.header.shard,
            len: self.len,
            block_bytes: self.header.geometry.block_bytes,
            extents: std::mem::take(&mut self.extents),
            at: self.shared.clock.monotonic_micros(),
        };
        self.shared.finished.lock().insert(upload, uploaded);
        Ok(UploadHandle { open: self.shared.open, upload })
    }

    /// Verifies the blocks that `bytes` make whole, and keeps the begin of the next one.
    fn verify(&mut self, bytes: &[u8]) -> Result<(), DriveError> {
        let block_bytes = self.header.geometry.block_bytes as usize;
        let mut rest = bytes;
        while self.partial.len() + rest.len() >= block_bytes {
            let (head, tail) = rest.split_at(block_bytes - self.partial.len());
            if self.partial.is_empty() {
                self.verify_block(head)?;
            } else {
                let mut block = std::mem::take(&mut self.partial);
                block.extend_from_slice(head);
                self.verify_block(&block)?;
                block.clear();
                self.partial = block;
            }
            rest = tail;
        }
        self.partial.extend_from_slice(rest);
        Ok(())
    }

    /// The last block may be shorter.
    fn verify_last(&mut self) -> Result<(), DriveError> {
        let block = std::mem::take(&mut self.partial);
        if block.is_empty() { Ok(()) } else { self.verify_block(&block) }
    }

    fn verify_block(&mut self, block: &[u8]) -> Result<(), DriveError> {
        let ExtentHeader { operation, drive, shard, .. } = self.header;
        let salt = Salt { operation, drive, shard };
        let opened = open_block(&salt, self.blocks, block);
        self.blocks += 1;
        let failed =
            |e: holdfast_erasure::BlockError| DriveError::failed(drive, e.class(), e.to_string());
        opened.map(|_| ()).map_err(failed)
    }

    /// Bytes that fit the buffer and the extent; makes both when there are none.
    fn room(&mut self) -> Result<usize, DriveError> {
        let in_extent = |upload: &Self| {
            let bytes = upload.extents.last().map_or(0, |e| u64::from(e.blocks) * BLOCK_U64);
            bytes - upload.at - upload.filled as u64
        };
        if self.filled == BUFFER_BYTES || (in_extent(self) == 0 && self.filled > 0) {
            self.flush()?;
        }
        if in_extent(self) == 0 {
            self.add_extent()?;
        }
        if self.buf.is_none() {
            self.buf = Some(self.shared.pool.take(BUFFER_BYTES));
        }
        let left = usize::try_from(in_extent(self)).unwrap_or(usize::MAX);
        Ok((BUFFER_BYTES - self.filled).min(left))
    }

    /// Step 1: blocks for what comes next; a volume is added when none has room.
    fn add_extent(&mut self) -> Result<(), DriveError> {
        let announced = self.announced.saturating_sub(self.len);
        let blocks = if announced > 0 {
            u32::try_from(whole_blocks(announced) / BLOCK_U64 + 1).unwrap_or(u32::MAX)
        } else {
            FIRST_EXTENT_BLOCKS << self.extents.len().min(6)
        };
        let wanted = blocks.min(EXTENT_BLOCKS_MAX);
        // A piece below 256 KiB is not worth a header and a seek, unless all fits it.
        let least = wanted.min(64);
        let extent = loop {
            if let Some(extent) = self.shared.volumes.allocate(wanted, least) {
                break extent;
            }
            if !self.grows {
                let message = "no room for a copy";
                return Err(DriveError::failed(self.shared.drive, ErrorClass::Full, message));
            }
            self.shared.volumes.grow().map_err(|e| self.shared.report(&e, false))?;
        };
        self.header.ordinal = self.extents.len() as u32;
        self.extents.push(extent);
        self.at = 0;
        let buf = self.buf.get_or_insert_with(|| self.shared.pool.take(BUFFER_BYTES));
        buf.set_len(BUFFER_BYTES);
        self.header.write_to(&mut buf[..BLOCK]);
        self.filled = BLOCK;
        Ok(())
    }

    /// Step 2: writes the buffer, zeros up to the block.
    fn flush(&mut self) -> Result<(), DriveError> {
        let Some(mut buf) = self.buf.take() else { return Ok(()) };
        let total = self.filled.next_multiple_of(BLOCK);
        buf[self.filled..total].fill(0);
        buf.set_len(total);
        let extent = self.extents.last().expect("bytes are buffered behind an extent");
        let offset = u64::from(extent.block) * BLOCK_U64 + self.at;
        let file = self.shared.volumes.file(extent.volume);
        let written = file.and_then(|file| file.write_at(offset, &buf));
        buf.set_len(BUFFER_BYTES);
        self.shared.pool.give(buf);
        self.at += total as u64;
        self.filled = 0;
        written.map_err(|e| self.shared.report(&e, false))
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        for extent in self.extents.drain(..) {
            self.shared.volumes.free(extent);
        }
        if let Some(buf) = self.buf.take() {
            self.shared.pool.give(buf);
        }
    }
}

/// Whether an upload is the shard that an entry of this shape needs.
#[must_use]
pub(crate) fn fits(
    uploaded: &Uploaded,
    operation: OperationId,
    shard: ShardIndex,
    geometry: &Geometry,
) -> bool {
    uploaded.operation == operation
        && uploaded.shard == shard
        && uploaded.len == geometry.shard_len()
        && uploaded.block_bytes == geometry.block_bytes
}
