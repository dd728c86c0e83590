//! [`RunStore`]: the runs of one drive as files: written, merged, swapped, and removed when nothing
//! needs them.
//!
//! Writing and merging take time and belong on I/O threads; swapping sets is quick. A new run answers
//! from the moment it is installed, and its inputs' files go once no kept manifest names them and no
//! reader holds them ([`RunStore::collect`]).

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use holdfast_types::DriveId;
use parking_lot::{Mutex, RwLock};

use super::{
    BlockCache, MergeIter, Patience, RUNS_FOLDER, Run, RunError, RunId, RunItem, RunMeta, RunSet,
    RunWriter, set::Merge, sweep,
};
use crate::{
    disk::{Disk, DiskError},
    rot::RotRanges,
};

/// The runs of a drive.
pub struct RunStore {
    disk: Arc<dyn Disk>,
    drive: DriveId,
    cache: Arc<BlockCache>,
    set: RwLock<Arc<RunSet>>,
    next: AtomicU64,
    keep_removals: AtomicBool,
    /// Merged away, waiting to be removed.
    retired: Mutex<Vec<Arc<Run>>>,
}

impl RunStore {
    /// Opens the runs a manifest names (newest first) and removes the files that `is_named` by no
    /// kept manifest. `cache_bytes` bounds the blocks kept in memory.
    ///
    /// # Errors
    /// [`RunError::Disk`]. Rotten or missing runs are no error here: they refuse for their range.
    pub fn open(
        disk: Arc<dyn Disk>,
        drive: DriveId,
        metas: &[RunMeta],
        is_named: impl Fn(RunId) -> bool,
        cache_bytes: usize,
    ) -> Result<Self, RunError> {
        disk.create_dir(RUNS_FOLDER)?;
        let named = metas.iter().map(|meta| meta.id).max();
        let swept = sweep(&*disk, |id| is_named(id) || metas.iter().any(|meta| meta.id == id))?;
        let found = highest_file(&*disk)?;
        let last = [named, swept.into_iter().max(), found].into_iter().flatten().max();
        let cache = Arc::new(BlockCache::new(cache_bytes));
        let mut runs = Vec::with_capacity(metas.len());
        for meta in metas {
            let run = Run::open(&*disk, drive, meta.clone(), Arc::clone(&cache))?;
            if !run.is_readable() {
                tracing::error!(%drive, run = meta.id.0, "a run is lost: its keys are unknown here");
            }
            runs.push(Arc::new(run));
        }
        Ok(Self {
            disk,
            drive,
            cache,
            set: RwLock::new(Arc::new(RunSet::new(runs))),
            keep_removals: AtomicBool::new(false),
            next: AtomicU64::new(last.map_or(1, |id| id.0 + 1)),
            retired: Mutex::default(),
        })
    }

    /// The runs as they are now.
    #[must_use]
    pub fn set(&self) -> Arc<RunSet> {
        Arc::clone(&self.set.read())
    }

    /// What rot hides, or makes void, from now on: answers pass by what is void.
    pub fn pass_by(&self, rot: &RotRanges) {
        let mut set = self.set.write();
        if set.rot() != rot {
            *set = Arc::new(set.beside(Arc::new(rot.clone())));
        }
    }

    /// The number that the next run gets, or one below it.
    #[must_use]
    pub fn next_id(&self) -> RunId {
        RunId(self.next.load(Ordering::Acquire))
    }

    /// Writes `items`, which rise by key, as a run, durably. It does not answer before
    /// [`Self::install_newest`]. `None` when there are no items.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn write(
        &self,
        items: impl IntoIterator<Item = RunItem>,
        items_max: u64,
    ) -> Result<Option<Arc<Run>>, RunError> {
        let mut writer = self.writer(items_max)?;
        for item in items {
            writer.add(&item)?;
        }
        self.finish(writer)
    }

    /// Merges adjoining runs of the set into one, durably; see [`RunSet::next_merge`]. Rot that is `known`,
    /// durably, is left out. `None` when nothing is left of them.
    ///
    /// # Errors
    /// [`RunError`]; on rot in an input nothing has changed.
    pub fn merge(
        &self,
        inputs: &[Arc<Run>],
        reaches_oldest: bool,
        known: &RotRanges,
    ) -> Result<Option<Arc<Run>>, RunError> {
        let items_max = inputs.iter().map(|run| run.meta().items).sum();
        let drops = reaches_oldest && !self.keep_removals.load(Ordering::Acquire);
        let merge = if drops { Merge::DropRemovals } else { Merge::KeepRemovals };
        let items = MergeIter::new(inputs.to_vec(), &[], None, merge, Patience::Waits);
        let mut items = items.around(Arc::new(known.clone()));
        let mut writer = self.writer(items_max)?;
        while let Some(item) = items.next_item()? {
            writer.add(&item)?;
        }
        self.finish(writer)
    }

    /// While an index is built from a set of runs, merges keep the removals that came since: the
    /// builder has to learn of them.
    pub fn keep_removals(&self, keep: bool) {
        self.keep_removals.store(keep, Ordering::Release);
    }

    fn writer(&self, items_max: u64) -> Result<RunWriter, RunError> {
        let id = RunId(self.next.fetch_add(1, Ordering::AcqRel));
        RunWriter::create(&*self.disk, self.drive, id, items_max)
    }

    fn finish(&self, writer: RunWriter) -> Result<Option<Arc<Run>>, RunError> {
        let Some(meta) = writer.finish(&*self.disk)? else { return Ok(None) };
        let run = Run::open(&*self.disk, self.drive, meta, Arc::clone(&self.cache))?;
        Ok(Some(Arc::new(run)))
    }

    /// Lets `run` answer, before all others.
    pub fn install_newest(&self, run: Arc<Run>) {
        let mut set = self.set.write();
        *set = Arc::new(set.with_newest(run));
    }

    /// Puts `merged` in the place of `inputs`. `false`, and nothing changed, when they are no longer
    /// side by side in the set.
    #[must_use]
    pub fn install_merged(&self, inputs: &[Arc<Run>], merged: Option<Arc<Run>>) -> bool {
        let mut set = self.set.write();
        let Some(next) = set.with_merged(inputs, merged) else { return false };
        *set = Arc::new(next);
        self.retired.lock().extend(inputs.iter().cloned());
        true
    }

    /// Removes the files of merged runs that `is_named` by no kept manifest and that no reader holds.
    /// Call it after a manifest was stored. Returns how many wait on.
    ///
    /// # Errors
    /// When the device fails; the files are swept at the next open.
    pub fn collect(&self, is_named: impl Fn(RunId) -> bool) -> Result<usize, DiskError> {
        let mut retired = self.retired.lock();
        let all = std::mem::take(&mut *retired);
        let mut removed = Ok(());
        for run in all {
            let id = run.meta().id;
            let free = Arc::strong_count(&run) == 1 && !is_named(id);
            if removed.is_err() || !free {
                retired.push(run);
                continue;
            }
            drop(run);
            self.cache.forget(id);
            removed = match self.disk.remove(&id.path()) {
                // A run that was lost whole.
                Err(error) if error.is_not_found() => Ok(()),
                other => other,
            };
        }
        removed.map(|()| retired.len())
    }

    /// Bytes in memory: fences, filters, cached blocks.
    #[must_use]
    pub fn resident_bytes(&self) -> usize {
        let runs: usize = self.set().runs().iter().map(|run| run.resident_bytes()).sum();
        runs + self.cache.bytes()
    }
}

/// The highest number of a run file there is.
fn highest_file(disk: &dyn Disk) -> Result<Option<RunId>, DiskError> {
    let names = disk.list(RUNS_FOLDER)?;
    let number = |name: &String| u64::from_str_radix(name.strip_suffix(".run")?, 16).ok();
    Ok(names.iter().filter_map(number).max().map(RunId))
}
