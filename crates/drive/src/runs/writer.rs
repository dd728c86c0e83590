//! [`RunWriter`]: writes a run from items in key order.

use std::sync::Arc;

use bytes::Bytes;
use holdfast_types::{Ballot, DriveId, codec::Writer};

use super::{
    RUNS_FOLDER, RunContent, RunError, RunId, RunItem, RunMeta,
    filter::FilterBuilder,
    format::{
        BLOCK_BYTES_TARGET, Fence, FencesWriter, Footer, KEY_BYTES_MAX, Place, RunSeal, push_item,
    },
};
use crate::{
    checkpoint::VALUE_BYTES_MAX,
    disk::{Access, Disk, DiskFile},
    meta_index::Lsn,
};

/// Blocks gather to this before they go to the file: few system calls, bounded memory.
const WRITE_BYTES: usize = 1 << 20;

/// A run that is being written. Dropped unfinished it leaves a file that no manifest names, which
/// [`super::sweep`] removes.
pub struct RunWriter {
    file: Arc<dyn DiskFile>,
    seal: RunSeal,
    filter: FilterBuilder,
    fences: FencesWriter,
    block: Writer,
    block_highest: Ballot,
    block_first: Bytes,
    buffer: Vec<u8>,
    /// Bytes handed to the file.
    written: u64,
    meta: RunMeta,
}

impl RunWriter {
    /// Begins run `id` of `drive`, which will have at most about `items_max` items.
    ///
    /// # Errors
    /// [`RunError::Disk`], also when the file is there already.
    pub fn create(
        disk: &dyn Disk,
        drive: DriveId,
        id: RunId,
        items_max: u64,
    ) -> Result<Self, RunError> {
        disk.create_dir(RUNS_FOLDER)?;
        let file = disk.create(&id.path(), Access::Cached)?;
        let meta = RunMeta {
            id,
            items: 0,
            removals: 0,
            bytes: 0,
            lsn_min: Lsn(u64::MAX),
            lsn_max: Lsn(0),
            first: Bytes::new(),
            last: Bytes::new(),
            highest: Ballot::ZERO,
        };
        Ok(Self {
            file,
            seal: RunSeal { drive, run: id },
            filter: FilterBuilder::for_keys(items_max),
            fences: FencesWriter::default(),
            block: Writer::new(),
            block_highest: Ballot::ZERO,
            block_first: Bytes::new(),
            buffer: Vec::with_capacity(WRITE_BYTES + 2 * BLOCK_BYTES_TARGET),
            written: 0,
            meta,
        })
    }

    /// Adds an item; keys must rise.
    ///
    /// # Errors
    /// [`RunError::Unwritable`] when they do not or a limit is broken; [`RunError::Disk`].
    pub fn add(&mut self, item: &RunItem) -> Result<(), RunError> {
        if self.meta.items > 0 && item.key <= self.meta.last {
            return Err(RunError::Unwritable { what: "keys do not rise" });
        }
        if item.key.len() > KEY_BYTES_MAX {
            return Err(RunError::Unwritable { what: "a key is too long" });
        }
        match &item.content {
            RunContent::Removed => self.meta.removals += 1,
            RunContent::Value { highest, bytes } => {
                if bytes.len() > VALUE_BYTES_MAX {
                    return Err(RunError::Unwritable { what: "a value is too long" });
                }
                self.block_highest = self.block_highest.max(*highest);
            }
        }
        let before: &[u8] = if self.block.is_empty() { &[] } else { &self.meta.last };
        push_item(&mut self.block, before, item);
        if before.is_empty() {
            self.block_first = item.key.clone();
        }
        if self.meta.items == 0 {
            self.meta.first = item.key.clone();
        }
        self.filter.add(&item.key);
        self.meta.items += 1;
        self.meta.lsn_min = self.meta.lsn_min.min(item.lsn);
        self.meta.lsn_max = self.meta.lsn_max.max(item.lsn);
        self.meta.last = item.key.clone();
        if self.block.len() >= BLOCK_BYTES_TARGET { self.end_block() } else { Ok(()) }
    }

    /// Items so far.
    #[must_use]
    pub const fn items(&self) -> u64 {
        self.meta.items
    }

    fn end_block(&mut self) -> Result<(), RunError> {
        let mut bytes = std::mem::take(&mut self.block).into_bytes();
        let number = self.fences.blocks();
        self.seal.seal(Place::Block(number), &mut bytes);
        let highest = std::mem::take(&mut self.block_highest);
        self.fences.push(&Fence {
            offset: self.written + self.buffer.len() as u64,
            len: u32::try_from(bytes.len()).expect("bounded by BLOCK_BYTES_MAX"),
            first: std::mem::take(&mut self.block_first),
            highest,
        });
        self.meta.highest = self.meta.highest.max(highest);
        self.buffer.extend_from_slice(&bytes);
        if self.buffer.len() >= WRITE_BYTES { self.flush_buffer() } else { Ok(()) }
    }

    fn flush_buffer(&mut self) -> Result<(), RunError> {
        self.file.write_at(self.written, &self.buffer)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Ends the run and makes it durable. `None`, and no file, when nothing was added.
    ///
    /// 1. Blocks, fences, filter and footer are written: a crash leaves a file that nobody names.
    /// 2. fdatasync of the file.
    /// 3. fsync of the folder. From here on a manifest may name it.
    ///
    /// # Errors
    /// [`RunError::Disk`].
    pub fn finish(mut self, disk: &dyn Disk) -> Result<Option<RunMeta>, RunError> {
        if self.meta.items == 0 {
            disk.remove(&self.meta.id.path())?;
            return Ok(None);
        }
        if !self.block.is_empty() {
            self.end_block()?;
        }
        let blocks = self.fences.blocks();
        let fences = std::mem::take(&mut self.fences).finish(&self.meta.last);
        let fences = self.append(Place::Fences, fences);
        let filter = std::mem::replace(&mut self.filter, FilterBuilder::for_keys(0));
        let filter = self.append(Place::Filter, filter.into_bytes());
        let footer = Footer {
            items: self.meta.items,
            removals: self.meta.removals,
            blocks,
            lsn_min: self.meta.lsn_min,
            lsn_max: self.meta.lsn_max,
            fences,
            filter,
            highest: self.meta.highest,
        };
        let footer = footer.to_bytes(self.seal);
        self.buffer.extend_from_slice(&footer);
        self.flush_buffer()?;
        self.file.sync()?;
        disk.sync_dir(RUNS_FOLDER)?;
        self.meta.bytes = self.written;
        Ok(Some(self.meta))
    }

    /// Seals a section and appends it; returns its place.
    fn append(&mut self, place: Place, mut bytes: Vec<u8>) -> (u64, u64) {
        self.seal.seal(place, &mut bytes);
        let offset = self.written + self.buffer.len() as u64;
        self.buffer.extend_from_slice(&bytes);
        (offset, bytes.len() as u64)
    }
}
