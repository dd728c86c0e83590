//! Volumes: a few large pre-written files that hold the larger shards (docs/format/volume.md).
//!
//! Owns what is in `volumes/` and which blocks are taken in memory. What is durably taken follows
//! from the log and the manifests; free space never comes from an index.
//!
//! INV-VOL-1: blocks are handed out again only after the record that dropped them is durable and no
//! reader holds them. INV-VOL-2: an upload's blocks become a shard only by a log record; until then a
//! crash leaves nothing of it.
//!
//! | module | holds |
//! |---|---|
//! | [`bitmap`] | one bit a block, first-fit search |
//! | [`extent`] | the header an extent begins with |
//! | [`upload`] | [`upload::UploadPort`], how shards come in |
//! | [`plan`] | which volume goes back to the file system, and which is emptied for it |
//! | `room` | volumes that take no more, and volumes that go |
//! | [`read`] | [`read::ShardReader`], how they go out |

pub mod bitmap;
pub mod extent;
pub mod plan;
pub mod read;
mod room;
pub mod upload;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use parking_lot::{Condvar, Mutex};

use crate::{
    checkpoint::VolumeMap,
    disk::{BLOCK_U64, Disk, DiskError, DiskErrorKind, DiskFile},
    log::segment::{create_zeroed, open_numbered},
    value::Extent,
};
use bitmap::Bitmap;

/// The folder of the volumes.
pub const VOLUME_FOLDER: &str = "volumes";

/// Ends the name of a volume.
const SUFFIX: &str = ".vol";

/// The path of a volume.
#[must_use]
pub fn volume_path(volume: u32) -> String {
    format!("{VOLUME_FOLDER}/{volume:08}{SUFFIX}")
}

/// One open volume.
struct Volume {
    file: Arc<dyn DiskFile>,
    taken: Bitmap,
    /// Nothing is put there: it is being emptied.
    closed: bool,
    group: Arc<SyncGroup>,
}

#[derive(Default)]
struct Inner {
    volumes: BTreeMap<u32, Volume>,
    /// Readers of each extent, by its first block.
    readers: HashMap<(u32, u32), u32>,
    /// Extents that were dropped while they had readers.
    lingering: Vec<Extent>,
    growing: bool,
}

/// Sizes of volumes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VolumeSizes {
    /// Bytes of the first volume.
    pub first: u64,
    /// Each volume is twice as large as the one before, up to this.
    pub max: u64,
    /// Bytes of the file system that stay free (DRIVE.md, "full-drive reserve").
    pub reserve: u64,
}

/// The volumes of a drive; shared by its owner and by the threads that move bytes.
pub struct VolumeSet {
    disk: Arc<dyn Disk>,
    sizes: VolumeSizes,
    inner: Mutex<Inner>,
    grown: Condvar,
    /// What new volumes leave free.
    reserve: AtomicU64,
    /// Uploads are refused.
    full: AtomicBool,
    syncs: Arc<AtomicU64>,
}

impl VolumeSet {
    /// Opens the volumes there are, all blocks free, and removes unfinished ones.
    ///
    /// # Errors
    /// When the device fails.
    pub fn open(
        disk: Arc<dyn Disk>,
        sizes: VolumeSizes,
        syncs: Arc<AtomicU64>,
    ) -> Result<Self, DiskError> {
        let mut inner = Inner::default();
        for (id, file) in open_numbered(&*disk, VOLUME_FOLDER, SUFFIX)? {
            let blocks = u32::try_from(file.len()? / BLOCK_U64).unwrap_or(u32::MAX);
            inner.volumes.insert(id, Volume::new(file, blocks));
        }
        Ok(Self {
            disk,
            sizes,
            inner: Mutex::new(inner),
            grown: Condvar::new(),
            reserve: AtomicU64::new(sizes.reserve),
            full: AtomicBool::new(false),
            syncs,
        })
    }

    /// Takes up to `wanted` blocks in one run, at least `least`.
    pub fn allocate(&self, wanted: u32, least: u32) -> Option<Extent> {
        let mut inner = self.inner.lock();
        let mut found: Option<Extent> = None;
        for (id, volume) in inner.volumes.iter_mut().filter(|(_, volume)| !volume.closed) {
            let Some((block, blocks)) = volume.taken.find(wanted) else { continue };
            if found.is_none_or(|best| best.blocks < blocks) {
                found = Some(Extent { volume: *id, block, blocks });
            }
            if blocks == wanted {
                break;
            }
        }
        let extent = found.filter(|extent| extent.blocks >= least)?;
        inner.volume(extent.volume).taken.set(extent.block, extent.blocks);
        Some(extent)
    }

    /// Marks an extent as taken (recovery). Whether the volume is there and the blocks were free.
    pub fn mark(&self, extent: Extent) -> bool {
        let mut inner = self.inner.lock();
        let Some(volume) = inner.volumes.get_mut(&extent.volume) else { return false };
        let fits = extent.block.checked_add(extent.blocks);
        let free = fits.is_some_and(|end| end <= volume.taken.len())
            && volume.taken.is_clear(extent.block, extent.blocks);
        if free {
            volume.taken.set(extent.block, extent.blocks);
        }
        free
    }

    /// Whether a volume was there once and was given back: the highest one never is (INV-VOL-3).
    #[must_use]
    pub fn gave_back(&self, volume: u32) -> bool {
        let inner = self.inner.lock();
        let highest = inner.volumes.last_key_value().map(|(id, _)| *id);
        !inner.volumes.contains_key(&volume) && highest.is_some_and(|highest| volume < highest)
    }

    /// Gives an extent's blocks back: at once, or when its last reader is gone (INV-VOL-1; the caller
    /// has seen to it that the record that dropped it is durable).
    pub fn free(&self, extent: Extent) {
        let mut inner = self.inner.lock();
        if inner.readers.contains_key(&(extent.volume, extent.block)) {
            inner.lingering.push(extent);
        } else {
            inner.clear(extent);
        }
    }

    /// Gives back blocks that no record names, unless somebody still reads there: these are free at the next
    /// open. Runs of them may be several extents that were.
    pub fn reclaim(&self, run: Extent) {
        let mut inner = self.inner.lock();
        let inside = |(volume, block): &(u32, u32)| {
            *volume == run.volume && (run.block..run.block + run.blocks).contains(block)
        };
        let is_read = inner.readers.keys().any(inside);
        if !is_read && inner.volumes.contains_key(&run.volume) {
            inner.clear(run);
        }
    }

    /// Gives back the end of an extent that turned out too long; nobody reads it yet.
    pub fn trim(&self, extent: &mut Extent, blocks: u32) {
        let mut inner = self.inner.lock();
        debug_assert!(blocks >= 1 && blocks <= extent.blocks);
        inner.clear(Extent {
            block: extent.block + blocks,
            blocks: extent.blocks - blocks,
            ..*extent
        });
        extent.blocks = blocks;
    }

    /// Adds a reader to each extent.
    pub fn hold(&self, extents: &[Extent]) {
        let mut inner = self.inner.lock();
        for extent in extents {
            *inner.readers.entry((extent.volume, extent.block)).or_default() += 1;
        }
    }

    /// Takes a reader off each extent.
    pub fn unhold(&self, extents: &[Extent]) {
        let mut inner = self.inner.lock();
        for extent in extents {
            let key = (extent.volume, extent.block);
            let left = inner.readers.get(&key).map_or(0, |count| count - 1);
            if left > 0 {
                inner.readers.insert(key, left);
                continue;
            }
            inner.readers.remove(&key);
            let lingering = std::mem::take(&mut inner.lingering);
            let same = |e: &Extent| (e.volume, e.block) == key;
            for extent in lingering {
                if same(&extent) { inner.clear(extent) } else { inner.lingering.push(extent) }
            }
        }
    }

    /// The file of a volume.
    ///
    /// # Errors
    /// When there is no such volume.
    pub fn file(&self, volume: u32) -> Result<Arc<dyn DiskFile>, DiskError> {
        let inner = self.inner.lock();
        let found = inner.volumes.get(&volume).map(|v| v.file.clone());
        found.ok_or_else(|| missing(volume))
    }

    /// fdatasync of a volume, one for all who wait.
    ///
    /// # Errors
    /// When the device fails: the drive is to be fenced.
    pub fn sync(&self, volume: u32) -> Result<(), DiskError> {
        let (file, group) = {
            let inner = self.inner.lock();
            let found = inner.volumes.get(&volume).ok_or_else(|| missing(volume))?;
            (found.file.clone(), found.group.clone())
        };
        group.sync(&*file, &self.syncs)
    }

    /// Blocks that are not taken.
    #[must_use]
    pub fn free_blocks(&self) -> u64 {
        self.inner.lock().volumes.values().map(|v| u64::from(v.taken.clear_count())).sum()
    }

    /// Bytes of all volumes.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        let inner = self.inner.lock();
        inner.volumes.values().map(|v| u64::from(v.taken.len()) * BLOCK_U64).sum()
    }

    /// The length of each volume in blocks.
    #[must_use]
    pub fn lengths(&self) -> Vec<(u32, u32)> {
        self.inner.lock().volumes.iter().map(|(id, v)| (*id, v.taken.len())).collect()
    }

    /// Adds a volume, twice as large as the largest; one that was being emptied serves first. Blocks until
    /// it is written; of several callers at a time one writes, the others wait for it.
    ///
    /// # Errors
    /// [`DiskErrorKind::Full`] when the reserve would be touched; when the device fails.
    pub fn grow(&self) -> Result<(), DiskError> {
        if self.open_closed() {
            return Ok(());
        }
        let (id, bytes) = {
            let mut inner = self.inner.lock();
            if inner.growing {
                while inner.growing {
                    self.grown.wait(&mut inner);
                }
                return Ok(());
            }
            inner.growing = true;
            let id = inner.volumes.keys().next_back().map_or(1, |last| last + 1);
            let largest = inner.volumes.values().map(|volume| volume.taken.len()).max();
            let bytes = largest.map_or(0, |blocks| u64::from(blocks) * BLOCK_U64 * 2);
            (id, bytes.max(self.sizes.first).min(self.sizes.max))
        };
        let created = self.create(id, bytes);
        let mut inner = self.inner.lock();
        inner.growing = false;
        self.grown.notify_all();
        let (file, blocks) = created?;
        inner.volumes.insert(id, Volume::new(file, blocks));
        Ok(())
    }

    /// Creates a volume of `bytes`, or of what the reserve leaves.
    fn create(&self, id: u32, bytes: u64) -> Result<(Arc<dyn DiskFile>, u32), DiskError> {
        let path = volume_path(id);
        let spare =
            self.disk.space()?.free_bytes.saturating_sub(self.reserve.load(Ordering::Relaxed));
        let bytes = bytes.min(spare) / BLOCK_U64 * BLOCK_U64;
        if bytes < (self.sizes.first / 4).max(BLOCK_U64) {
            let message = "only the reserve is left";
            return Err(DiskError::new(DiskErrorKind::Full, "create", &path, message));
        }
        let file = create_zeroed(&*self.disk, &path, bytes)?;
        self.syncs.fetch_add(1, Ordering::Relaxed);
        Ok((file, (bytes / BLOCK_U64) as u32))
    }
}

fn missing(volume: u32) -> DiskError {
    let path = volume_path(volume);
    DiskError::new(DiskErrorKind::NotFound, "open", &path, "no such volume")
}

impl Volume {
    fn new(file: Arc<dyn DiskFile>, blocks: u32) -> Self {
        Self { file, taken: Bitmap::new(blocks), closed: false, group: Arc::default() }
    }
}

impl Inner {
    fn volume(&mut self, id: u32) -> &mut Volume {
        self.volumes.get_mut(&id).expect("extents name volumes that are there")
    }

    fn clear(&mut self, extent: Extent) {
        self.volume(extent.volume).taken.clear(extent.block, extent.blocks);
    }
}

/// Lets one fdatasync serve all who wait for one: a caller is served by a sync that began after it
/// asked.
#[derive(Default)]
struct SyncGroup {
    state: Mutex<SyncState>,
    done: Condvar,
}

#[derive(Default)]
struct SyncState {
    started: u64,
    finished: u64,
    running: bool,
    failed: Option<DiskError>,
}

impl SyncGroup {
    fn sync(&self, file: &dyn DiskFile, syncs: &AtomicU64) -> Result<(), DiskError> {
        let mut state = self.state.lock();
        let mine = state.started + 1;
        loop {
            if let Some(error) = &state.failed {
                return Err(error.clone());
            }
            if state.finished >= mine {
                return Ok(());
            }
            if state.running {
                self.done.wait(&mut state);
                continue;
            }
            state.running = true;
            state.started += 1;
            let number = state.started;
            drop(state);
            let result = file.sync();
            syncs.fetch_add(1, Ordering::Relaxed);
            state = self.state.lock();
            state.running = false;
            match result {
                Ok(()) => state.finished = number,
                Err(error) => state.failed = Some(error),
            }
            self.done.notify_all();
        }
    }
}

/// Which blocks the state of a drive says are taken, by volume: kept by the drive's tables alone, so
/// that a checkpoint never holds an upload that no record names.
#[derive(Default, Clone)]
pub struct RecordedBlocks {
    volumes: BTreeMap<u32, Bitmap>,
}

impl RecordedBlocks {
    /// What a manifest says.
    #[must_use]
    pub fn from_maps(maps: &[VolumeMap]) -> Self {
        let volumes = maps.iter().map(|m| (m.volume, Bitmap::from_bytes(m.blocks, &m.bitmap)));
        Self { volumes: volumes.collect() }
    }

    /// For a manifest: the volumes that hold something.
    #[must_use]
    pub fn to_maps(&self) -> Vec<VolumeMap> {
        let map = |(id, bits): (&u32, &Bitmap)| VolumeMap {
            volume: *id,
            blocks: bits.len(),
            bitmap: bits.to_bytes(),
        };
        let used = self.volumes.iter().filter(|(_, bits)| bits.clear_count() < bits.len());
        used.map(map).collect()
    }

    /// A record names the extent from now on. `false` when a block of it was taken already, or lies
    /// beyond what a volume can hold.
    pub fn take(&mut self, extent: Extent) -> bool {
        let Some(end) = extent.block.checked_add(extent.blocks) else { return false };
        let bits = self.volumes.entry(extent.volume).or_insert_with(|| Bitmap::new(0));
        bits.grow(end);
        let free = bits.is_clear(extent.block, extent.blocks);
        bits.set(extent.block, extent.blocks);
        free
    }

    /// Whether no block of the extent is taken.
    #[must_use]
    pub fn is_free(&self, extent: &Extent) -> bool {
        let Some(bits) = self.volumes.get(&extent.volume) else { return true };
        let end = extent.block.saturating_add(extent.blocks).min(bits.len());
        end <= extent.block || bits.is_clear(extent.block, end - extent.block)
    }

    /// No record names the extent any more.
    pub fn give(&mut self, extent: Extent) {
        if let Some(bits) = self.volumes.get_mut(&extent.volume) {
            bits.clear(extent.block, extent.blocks);
        }
    }

    /// The first run of taken blocks of a volume at or behind `from`.
    #[must_use]
    pub fn next_run(&self, volume: u32, from: u32) -> Option<Extent> {
        let (block, blocks) = self.volumes.get(&volume)?.next_run(from)?;
        Some(Extent { volume, block, blocks })
    }

    /// Whether a record names a block.
    #[must_use]
    pub fn is_taken(&self, volume: u32, block: u32) -> bool {
        self.next_run(volume, block).is_some_and(|run| run.block == block)
    }

    /// The volumes that blocks were named of.
    pub fn volumes(&self) -> impl Iterator<Item = u32> {
        self.volumes.keys().copied()
    }

    /// A volume is not there any more.
    pub fn forget(&mut self, volume: u32) {
        self.volumes.remove(&volume);
    }

    /// Runs of blocks that are taken, and that `other` does not take.
    #[must_use]
    pub fn without(&self, other: &Self) -> Vec<Extent> {
        let mut left = Vec::new();
        for run in self.runs() {
            let (mut at, end) = (run.block, run.block + run.blocks);
            while at < end {
                let taken = other.next_run(run.volume, at).filter(|taken| taken.block < end);
                let until = taken.map_or(end, |taken| taken.block);
                if until > at {
                    left.push(Extent { volume: run.volume, block: at, blocks: until - at });
                }
                at = taken.map_or(end, |taken| taken.block + taken.blocks);
            }
        }
        left
    }

    /// Every run of taken blocks.
    #[must_use]
    pub fn runs(&self) -> Vec<Extent> {
        let of = |(id, bits): (&u32, &Bitmap)| {
            let volume = *id;
            let runs = bits.runs();
            runs.into_iter().map(move |(block, blocks)| Extent { volume, block, blocks })
        };
        self.volumes.iter().flat_map(of).collect()
    }
}
