//! [`Run`]: one open run, and [`RunCursor`] over its items.

use std::sync::Arc;

use bytes::Bytes;
use holdfast_types::DriveId;
use parking_lot::Mutex;

use super::{
    BlockCache, Patience, RottenRange, RunError, RunItem, RunMeta,
    filter::{Filter, filtered_part},
    format::{BlockItems, FOOTER_BYTES, Fences, Footer, Place, RunSeal},
};
use crate::{
    disk::{Access, Disk, DiskError, DiskErrorKind, DiskFile},
    rot::RotRanges,
};

/// Fences and filter of one run may not take more memory than this: 100 million items.
const SECTION_BYTES_MAX: u64 = 1 << 30;

/// An open run. Answers from verified blocks only; a run whose frame is unreadable answers
/// [`RunError::Rotten`] for the whole range that the manifest knows of it.
pub struct Run {
    meta: RunMeta,
    seal: RunSeal,
    body: Option<Body>,
    cache: Arc<BlockCache>,
    /// Rot that was met, each range once.
    rotten: Mutex<Vec<RottenRange>>,
}

struct Body {
    file: Arc<dyn DiskFile>,
    fences: Fences,
    filter: Option<Filter>,
}

impl Run {
    /// Opens the run that the manifest describes as `meta`. One that is missing or whose footer or
    /// fences are rotten is still a run: it refuses for its whole range.
    ///
    /// # Errors
    /// [`RunError::Disk`] when the device fails.
    pub fn open(
        disk: &dyn Disk,
        drive: DriveId,
        meta: RunMeta,
        cache: Arc<BlockCache>,
    ) -> Result<Self, RunError> {
        let seal = RunSeal { drive, run: meta.id };
        let body = match open_body(disk, seal, &meta) {
            Err(error) if means_rot(&error) => None,
            other => other?,
        };
        let run = Self { meta, seal, body, cache, rotten: Mutex::default() };
        if !run.is_readable() {
            run.note(run.whole_range());
        }
        Ok(run)
    }

    /// What the manifest knows of it.
    #[must_use]
    pub const fn meta(&self) -> &RunMeta {
        &self.meta
    }

    /// Whether footer and fences could be read.
    #[must_use]
    pub const fn is_readable(&self) -> bool {
        self.body.is_some()
    }

    /// Whether all that was read of it so far was whole.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.rotten.lock().is_empty()
    }

    /// Whether it can be merged: all rot met in it so far is in `known`, so that it may go.
    #[must_use]
    pub fn can_merge(&self, known: &RotRanges) -> bool {
        self.rotten.lock().iter().all(|met| known.knows(&met.into()))
    }

    fn note(&self, met: RottenRange) -> RottenRange {
        let mut rotten = self.rotten.lock();
        if !rotten.contains(&met) {
            rotten.push(met.clone());
        }
        met
    }

    /// Bytes of fences and filter in memory.
    #[must_use]
    pub fn resident_bytes(&self) -> usize {
        let Some(body) = &self.body else { return 0 };
        let fences = body.fences.blocks.iter().map(|f| f.first.len() + size_of_val(f));
        fences.sum::<usize>() + body.filter.as_ref().map_or(0, Filter::bytes)
    }

    /// Whether keys that begin with `part`, a [`filtered_part`], may be held.
    #[must_use]
    pub fn may_hold(&self, part: &[u8]) -> bool {
        let filter = self.body.as_ref().and_then(|body| body.filter.as_ref());
        filter.is_none_or(|filter| filter.may_hold(part))
    }

    /// What the run says about `key`; `None` when nothing.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn get(&self, key: &[u8], patience: Patience) -> Result<Option<RunItem>, RunError> {
        if key < &self.meta.first[..] || key > &self.meta.last[..] {
            return Ok(None);
        }
        let body = self.body()?;
        if !self.may_hold(filtered_part(key)) {
            return Ok(None);
        }
        let number = body.fences.blocks.partition_point(|fence| fence.first <= key);
        let Some(number) = number.checked_sub(1) else { return Ok(None) };
        let mut items = BlockItems::new(self.block(number, true, patience)?);
        loop {
            let passed = items.advance().map_err(|_| RunError::Rotten(self.range_of(number)))?;
            let Some(passed) = passed else { return Ok(None) };
            match items.key().cmp(key) {
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Greater => return Ok(None),
                std::cmp::Ordering::Equal => {
                    let (key, content) = (Bytes::copy_from_slice(key), items.content(&passed));
                    return Ok(Some(RunItem { key, lsn: passed.lsn, content }));
                }
            }
        }
    }

    /// Blocks it has; 0 when its frame cannot be read.
    #[must_use]
    pub fn block_count(&self) -> usize {
        self.body.as_ref().map_or(0, |body| body.fences.blocks.len())
    }

    /// Reads block `number` from the medium, past all caches, and verifies it; its length.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn verify_block(&self, number: usize) -> Result<u64, RunError> {
        let body = self.body()?;
        let fence = &body.fences.blocks[number];
        let mut bytes = vec![0; fence.len as usize];
        match body.file.read_medium(fence.offset, &mut bytes) {
            Err(error) if error.kind == DiskErrorKind::Short => {
                return Err(RunError::Rotten(self.range_of(number)));
            }
            other => other?,
        }
        let right = self.seal.open(Place::Block(number as u64), &bytes).is_some();
        if right { Ok(fence.len.into()) } else { Err(RunError::Rotten(self.range_of(number))) }
    }

    /// Reads what is not a block, fences, filter and footer, from the medium; its length when all of it
    /// is whole. In memory it is whole, or the run would refuse.
    ///
    /// # Errors
    /// When the device fails.
    pub fn verify_frame(&self) -> Result<Option<u64>, DiskError> {
        let Some(body) = &self.body else { return Ok(None) };
        let blocks = body.fences.blocks.last().map_or(0, |last| last.offset + u64::from(last.len));
        let len = self.meta.bytes.saturating_sub(blocks);
        let mut bytes = vec![0; len.min(SECTION_BYTES_MAX) as usize];
        match body.file.read_medium(blocks, &mut bytes) {
            Err(error) if error.kind == DiskErrorKind::Short => return Ok(None),
            other => other?,
        }
        Ok(frame_is_whole(self.seal, blocks, &bytes).then_some(len))
    }

    fn body(&self) -> Result<&Body, RunError> {
        self.body.as_ref().ok_or_else(|| RunError::Rotten(self.whole_range()))
    }

    /// Block `number`, verified, without its checksum.
    fn block(&self, number: usize, keep: bool, patience: Patience) -> Result<Bytes, RunError> {
        if let Some(block) = self.cache.get(self.meta.id, number as u64) {
            return Ok(block);
        }
        let body = self.body()?;
        let fence = &body.fences.blocks[number];
        let mut bytes = vec![0; fence.len as usize];
        let read = match patience {
            Patience::Waits => body.file.read_at(fence.offset, &mut bytes).map(|()| true),
            Patience::InMemory => body.file.try_read_at(fence.offset, &mut bytes),
        };
        match read {
            Err(error) if error.kind == DiskErrorKind::Short => {
                return Err(RunError::Rotten(self.range_of(number)));
            }
            Ok(false) => return Err(RunError::NotInMemory),
            other => other?,
        };
        let len = self.seal.open(Place::Block(number as u64), &bytes).map(<[u8]>::len);
        let len = len.ok_or_else(|| RunError::Rotten(self.range_of(number)))?;
        bytes.truncate(len);
        let block = Bytes::from(bytes);
        if keep {
            self.cache.put(self.meta.id, number as u64, block.clone());
        }
        Ok(block)
    }

    /// The keys between the fences of block `number`, which is rotten.
    fn range_of(&self, number: usize) -> RottenRange {
        let Some(body) = &self.body else { return self.whole_range() };
        let fence = &body.fences.blocks[number];
        let next = body.fences.blocks.get(number + 1).map(|next| next.first.clone());
        self.note(RottenRange {
            run: self.meta.id,
            start: fence.first.clone(),
            end: Some(next.unwrap_or_else(|| just_after(&self.meta.last))),
            highest: fence.highest,
            upto: self.meta.lsn_max,
        })
    }

    fn whole_range(&self) -> RottenRange {
        RottenRange {
            run: self.meta.id,
            start: self.meta.first.clone(),
            end: Some(just_after(&self.meta.last)),
            highest: self.meta.highest,
            upto: self.meta.lsn_max,
        }
    }
}

impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Run({:?}, readable: {})", self.meta, self.is_readable())
    }
}

/// The first key after `key`.
fn just_after(key: &[u8]) -> Bytes {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next.into()
}

const fn means_rot(error: &DiskError) -> bool {
    matches!(error.kind, DiskErrorKind::NotFound | DiskErrorKind::Short)
}

/// Reads footer, fences and filter; `None` when footer or fences are rotten. A rotten filter is
/// done without.
fn open_body(disk: &dyn Disk, seal: RunSeal, meta: &RunMeta) -> Result<Option<Body>, DiskError> {
    let file = disk.open(&meta.id.path(), Access::Cached)?;
    let Some(at) = meta.bytes.checked_sub(FOOTER_BYTES as u64) else { return Ok(None) };
    let mut bytes = vec![0; FOOTER_BYTES];
    file.read_at(at, &mut bytes)?;
    let Ok(footer) = Footer::from_bytes(&bytes, seal) else { return Ok(None) };
    let fences = read_section(&*file, seal, Place::Fences, footer.fences)?;
    let parsed = fences.map(|bytes| Fences::from_bytes(&bytes, footer.blocks, footer.fences.0));
    let Some(Ok(fences)) = parsed else { return Ok(None) };
    let filter = read_section(&*file, seal, Place::Filter, footer.filter)?;
    Ok(Some(Body { file, fences, filter: filter.and_then(Filter::from_bytes) }))
}

/// Whether footer, fences and filter verify in `bytes`, which a run ends with from `start` on.
fn frame_is_whole(seal: RunSeal, start: u64, bytes: &[u8]) -> bool {
    let section = |(offset, len): (u64, u64)| {
        let from = usize::try_from(offset.checked_sub(start)?).ok()?;
        bytes.get(from..from.checked_add(usize::try_from(len).ok()?)?)
    };
    let footer = bytes.len().checked_sub(FOOTER_BYTES).map(|at| &bytes[at..]);
    let Some(Ok(footer)) = footer.map(|footer| Footer::from_bytes(footer, seal)) else {
        return false;
    };
    let sealed = |place, at| section(at).is_some_and(|bytes| seal.open(place, bytes).is_some());
    sealed(Place::Fences, footer.fences) && sealed(Place::Filter, footer.filter)
}

/// A sealed section, verified; `None` when it is rotten.
fn read_section(
    file: &dyn DiskFile,
    seal: RunSeal,
    place: Place,
    (offset, len): (u64, u64),
) -> Result<Option<Bytes>, DiskError> {
    if len > SECTION_BYTES_MAX {
        return Ok(None);
    }
    let mut bytes = vec![0; len as usize];
    match file.read_at(offset, &mut bytes) {
        Err(error) if error.kind == DiskErrorKind::Short => return Ok(None),
        other => other?,
    }
    let kept = seal.open(place, &bytes).map(<[u8]>::len);
    Ok(kept.map(|len| {
        bytes.truncate(len);
        Bytes::from(bytes)
    }))
}

/// Walks a run's items in key order.
pub struct RunCursor {
    run: Arc<Run>,
    block: usize,
    items: Option<BlockItems>,
    start: Bytes,
    end: Option<Bytes>,
    keep: bool,
    patience: Patience,
}

impl RunCursor {
    /// Items from `start` (inclusive) to `end` (exclusive). `keep` puts blocks into the cache: for
    /// scans, not for merges.
    #[must_use]
    pub fn new(
        run: Arc<Run>,
        start: &[u8],
        end: Option<&[u8]>,
        keep: bool,
        patience: Patience,
    ) -> Self {
        let after = run.body.as_ref().map_or(0, |body| {
            body.fences.blocks.partition_point(|fence| &fence.first[..] <= start)
        });
        let start = Bytes::copy_from_slice(start);
        let end = end.map(Bytes::copy_from_slice);
        Self { run, block: after.saturating_sub(1), items: None, start, end, keep, patience }
    }

    /// The next item. After [`RunError::Rotten`] the cursor stands behind the rotten range and can go
    /// on.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn next_item(&mut self) -> Result<Option<RunItem>, RunError> {
        loop {
            if self.items.is_none() && !self.enter_block()? {
                return Ok(None);
            }
            let Some(items) = &mut self.items else { return Ok(None) };
            let read = items.next_item();
            match read {
                Err(_) => {
                    let range = self.run.range_of(self.block);
                    self.leave_block();
                    return Err(RunError::Rotten(range));
                }
                Ok(None) => self.leave_block(),
                Ok(Some(item)) if item.key < self.start => {}
                Ok(Some(item)) if self.is_past(&item.key) => {
                    self.block = usize::MAX;
                    self.items = None;
                    return Ok(None);
                }
                Ok(Some(item)) => return Ok(Some(item)),
            }
        }
    }

    fn is_past(&self, key: &[u8]) -> bool {
        self.end.as_ref().is_some_and(|end| key >= &end[..])
    }

    /// Loads the block the cursor stands before; `false` at the end of the range.
    fn enter_block(&mut self) -> Result<bool, RunError> {
        let first = match &self.run.body {
            Some(body) => body.fences.blocks.get(self.block).map(|fence| fence.first.clone()),
            None if self.block == 0 => Some(self.run.meta.first.clone()),
            None => None,
        };
        let Some(first) = first.filter(|first| !self.is_past(first)) else { return Ok(false) };
        let run = Arc::clone(&self.run);
        if self.run.body.is_none() && self.start > run.meta.last {
            return Ok(false);
        }
        debug_assert!(self.block > 0 || first == run.meta.first);
        match run.block(self.block, self.keep, self.patience) {
            Ok(block) => {
                self.items = Some(BlockItems::new(block));
                Ok(true)
            }
            Err(error) => {
                self.leave_block();
                Err(error)
            }
        }
    }

    fn leave_block(&mut self) {
        self.items = None;
        self.block = self.block.saturating_add(1);
    }
}
