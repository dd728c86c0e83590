//! [`IndexKeeper`]: one drive's index over its runs: opened, fed, distrusted and built anew, while the
//! runs answer.
//!
//! ```text
//!            open: certified at or beyond the manifest
//!  Untrusted ------------------------------------------> Trusted
//!      ^  \___ rebuild: all runs, then what came since __^   |
//!      |___ any IndexError, or a sample that disagrees _____|
//! ```
//!
//! Order of a checkpoint: run durable -> [`IndexKeeper::apply`] -> manifest -> overlay dropped. So the
//! index is never behind the runs that answer, and what it is ahead of the manifest after a crash the
//! log's tail covers again.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

pub use super::span::IndexContent;
use super::{
    IndexError, IndexPage, Lookup, Lsn, MemoryIndex, MemoryMedium, MetaIndex, SledIndex,
    sample::{SAMPLE_RECORDS, Sampler, Stretch, disagreement},
    sled::with_patience,
};
use crate::{
    rot::RotRanges,
    runs::{
        Merge, MergeIter, Patience, Run, RunContent, RunCursor, RunError, RunItem, RunSet, RunStore,
    },
};

/// Items between two signs of progress.
const PROGRESS_ITEMS: usize = 256;

/// What the index is kept in.
#[derive(Clone, Debug)]
pub enum IndexBackend {
    /// No index: the runs alone answer.
    Off,
    /// sled, in the drive's folder.
    Sled {
        /// The drive's folder.
        root: PathBuf,
        /// How long sled may make no progress.
        patience: Duration,
    },
    /// The in-memory twin, for simulations.
    Memory(MemoryMedium),
}

impl IndexBackend {
    fn open(&self) -> Result<Arc<dyn MetaIndex>, IndexError> {
        Ok(match self {
            Self::Off => return Err(IndexError::Mismatch { what: "it is off".to_owned() }),
            Self::Sled { root, patience } => Arc::new(SledIndex::open(root, *patience)?),
            Self::Memory(medium) => Arc::new(MemoryIndex::open(medium)?),
        })
    }

    fn create(&self) -> Result<Arc<dyn MetaIndex>, IndexError> {
        Ok(match self {
            Self::Off => return Err(IndexError::Mismatch { what: "it is off".to_owned() }),
            Self::Sled { root, patience } => {
                let root = root.clone();
                with_patience("sled-create", *patience, move |_| SledIndex::create(&root))
                    .map(Arc::new)?
            }
            Self::Memory(medium) => Arc::new(MemoryIndex::create(medium)),
        })
    }

    /// Runs `work` where a hang does no harm: sled on a thread of its own, the twin right here.
    fn work(
        &self,
        name: &str,
        work: impl FnOnce(&AtomicU64) -> Result<(), IndexError> + Send + 'static,
    ) -> Result<(), IndexError> {
        match self {
            Self::Sled { patience, .. } => with_patience(name, *patience, work),
            Self::Off | Self::Memory(_) => work(&AtomicU64::new(0)),
        }
    }
}

/// The index of one drive.
pub struct IndexKeeper {
    backend: IndexBackend,
    content: IndexContent,
    trusted: RwLock<Option<Arc<dyn MetaIndex>>>,
    wants_rebuild: AtomicBool,
    /// Held by whoever feeds the index, or compares it with the runs.
    feeding: Mutex<Sampler>,
    /// How often it was set aside.
    faults: AtomicU64,
}

impl IndexKeeper {
    /// A keeper that trusts nothing yet: [`Self::open`] or [`Self::rebuild`] follow.
    #[must_use]
    pub fn new(backend: IndexBackend, content: IndexContent) -> Self {
        let wants_rebuild = AtomicBool::new(!matches!(backend, IndexBackend::Off));
        Self {
            backend,
            content,
            trusted: RwLock::new(None),
            wants_rebuild,
            feeding: Mutex::default(),
            faults: AtomicU64::new(0),
        }
    }

    /// The index, when its answers count.
    #[must_use]
    pub fn trusted(&self) -> Option<Arc<dyn MetaIndex>> {
        self.trusted.read().clone()
    }

    /// Whether a rebuild should be run on an I/O thread: the drive is reindexing.
    #[must_use]
    pub fn wants_rebuild(&self) -> bool {
        self.wants_rebuild.load(Ordering::Acquire)
    }

    /// Opens the index there is. `false`, and [`Self::wants_rebuild`], when it is not whole or lies
    /// behind `position`, up to which the manifest's runs reach. Takes as long as reading it.
    pub fn open(&self, position: Lsn) -> bool {
        let _feeding = self.feeding.lock();
        let opened = self.backend.open().and_then(|index| match index.certified() {
            Some(certified) if certified >= position => Ok(index),
            certified => Err(IndexError::Mismatch {
                what: format!("certified {certified:?}, but the runs reach {position:?}"),
            }),
        });
        match opened {
            Ok(index) => {
                self.trust(index);
                true
            }
            Err(error) => {
                let fresh = position == Lsn::default();
                if self.wants_rebuild() && !fresh {
                    tracing::warn!(%error, "the index is built anew from the runs");
                }
                false
            }
        }
    }

    fn trust(&self, index: Arc<dyn MetaIndex>) {
        *self.trusted.write() = Some(index);
        self.wants_rebuild.store(false, Ordering::Release);
    }

    /// How often the index was set aside since the drive was opened: it failed, or said something else
    /// than the runs.
    #[must_use]
    pub fn faults(&self) -> u64 {
        self.faults.load(Ordering::Relaxed)
    }

    /// Stops asking the index, because of `error`; a rebuild is wanted.
    pub fn distrust(&self, error: &IndexError) {
        let Some(index) = self.trusted.write().take() else { return };
        self.faults.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(%error, "the index is set aside: the runs answer while it is built anew");
        self.wants_rebuild.store(true, Ordering::Release);
        self.close(index);
    }

    /// Stops asking the index, for it may hold what is void, and wants it built anew from the runs. `false` when
    /// there is none.
    pub fn begin_anew(&self) -> bool {
        let Some(index) = self.trusted.write().take() else { return false };
        self.wants_rebuild.store(true, Ordering::Release);
        self.close(index);
        true
    }

    fn close(&self, index: Arc<dyn MetaIndex>) {
        if matches!(self.backend, IndexBackend::Sled { .. }) {
            // Closing a sled that met rot may hang: not on a thread that anybody needs.
            let closing = std::thread::Builder::new().name("sled-close".to_owned());
            drop(closing.spawn(move || drop(index)));
        }
    }

    /// Feeds a durable run into the index and certifies `position`, the last it covers. Does nothing
    /// while the index is not trusted. Failures are the index's, never the caller's.
    pub fn apply(&self, run: &Arc<Run>, position: Lsn) {
        let _feeding = self.feeding.lock();
        let Some(index) = self.trusted() else { return };
        let (run, content) = (Arc::clone(run), self.content);
        let done = self.backend.work("sled-apply", move |progress| {
            for span in content.spans() {
                let run = Arc::clone(&run);
                let mut cursor = RunCursor::new(run, span.start, span.end, false, Patience::Waits);
                feed(&*index, Lsn(0), || cursor.next_item(), progress)?;
            }
            index.certify(position)
        });
        if let Err(error) = done {
            self.distrust(&error);
        }
    }

    /// Builds the index anew from the runs, beside the running drive, and trusts it. What comes while
    /// it builds is added at the end. `false` when it could not be done; the runs go on answering.
    pub fn rebuild(&self, store: &Arc<RunStore>) -> bool {
        if matches!(self.backend, IndexBackend::Off) {
            return false;
        }
        store.keep_removals(true);
        let built = self.build(store);
        store.keep_removals(false);
        if let Err(error) = &built {
            tracing::warn!(%error, "the index could not be built: the runs answer");
        }
        built.is_ok()
    }

    fn build(&self, store: &Arc<RunStore>) -> Result<(), IndexError> {
        let (index, content) = (self.backend.create()?, self.content);
        let set = store.set();
        let first = reach(&set);
        let target = Arc::clone(&index);
        self.backend.work("sled-rebuild", move |progress| {
            let feed = (Merge::DropRemovals, Lsn(0));
            feed_all(&*target, content, set.runs(), set.rot(), feed, progress)
        })?;
        // From here on no run is applied by others until this index is trusted.
        let _feeding = self.feeding.lock();
        let set = store.set();
        let last = reach(&set);
        let target = Arc::clone(&index);
        self.backend.work("sled-catch-up", move |progress| {
            let newer = set.runs().iter().filter(|run| run.meta().lsn_max > first).cloned();
            let newer: Vec<_> = newer.collect();
            let feed = (Merge::KeepRemovals, first);
            feed_all(&*target, content, &newer, set.rot(), feed, progress)?;
            target.certify(last)
        })?;
        self.trust(index);
        Ok(())
    }

    /// Compares the next stretch of what the index holds with what the runs say of it, and distrusts an
    /// index that says something else: for merges and checkpoints, on I/O threads. What is `hidden` by
    /// rot is passed by.
    pub fn sample(&self, store: &RunStore, hidden: &RotRanges) {
        let mut sampler = self.feeding.lock();
        let Some(index) = self.trusted() else { return };
        let set = store.set();
        // After a crash the index may be ahead of the runs, by what the next checkpoint covers again.
        if index.certified() != Some(reach(&set)) {
            return;
        }
        // One round: from where the last sample ended to there again, at most.
        for _ in 0..=self.content.spans().len() {
            let stretch = sampler.stretch(self.content);
            let at_start = sampler.is_at_start();
            match self.compare(&index, &set, &stretch, hidden) {
                Ok(Some(last)) => return sampler.advance(Some(&last)),
                Ok(None) => sampler.advance(None),
                Err(error) => return self.distrust(&error),
            }
            if !at_start {
                return;
            }
        }
    }

    /// Compares one stretch; its last key, or `None` when nothing is behind it.
    fn compare(
        &self,
        index: &Arc<dyn MetaIndex>,
        set: &RunSet,
        stretch: &Stretch,
        hidden: &RotRanges,
    ) -> Result<Option<Bytes>, IndexError> {
        let passed = |rot: &RotRanges| rot.touches(&stretch.start, stretch.end);
        if passed(hidden) || passed(set.rot()) {
            return Ok(None);
        }
        let shown = Arc::new(Mutex::new(IndexPage::default()));
        let (target, index, at) = (Arc::clone(&shown), Arc::clone(index), stretch.clone());
        self.backend.work("sled-sample", move |_| {
            *target.lock() = index.scan(&at.start, at.end, SAMPLE_RECORDS)?;
            Ok(())
        })?;
        let shown = std::mem::take(&mut *shown.lock());
        let mut items = set.iter(&stretch.start, stretch.end);
        // Rot is met and recorded by whoever answers from it; nothing is said of the index by it.
        let Ok((runs, more)) = crate::runs::set::page(&mut items, SAMPLE_RECORDS) else {
            return Ok(None);
        };
        if let Some(key) = disagreement(&shown, (&runs, more)) {
            let what = format!("the runs say something else of {}", key.escape_ascii());
            return Err(IndexError::Mismatch { what });
        }
        let last = runs.last().map(|item| item.key.clone());
        Ok(last.filter(|_| more))
    }

    /// What is held for `key` in index or runs.
    ///
    /// # Errors
    /// [`RunError`], from the runs; an index that fails is distrusted and not asked.
    pub fn get(&self, runs: &RunSet, key: &[u8]) -> Result<Option<Bytes>, RunError> {
        // The index may hold what is void: there the runs alone answer.
        let is_void = runs.rot().touches(key, Some(&crate::runs::set::behind(key)));
        if let Some(index) = self.trusted().filter(|_| self.content.holds(key) && !is_void) {
            match index.get(key) {
                Ok(Lookup::Absent) => return Ok(None),
                Ok(Lookup::Value { bytes, .. }) => return Ok(Some(bytes)),
                Ok(Lookup::InRuns { .. }) => {}
                Err(error) => self.distrust(&error),
            }
        }
        Ok(runs.get(key, Patience::Waits)?.and_then(value_of))
    }

    /// What is held from `start` (inclusive) to `end` (exclusive), at most `limit` keys, and whether
    /// more follow.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn scan(
        &self,
        runs: &RunSet,
        start: &[u8],
        end: Option<&[u8]>,
        limit: usize,
    ) -> Result<(Vec<(Bytes, Bytes)>, bool), RunError> {
        let held = self.content.holds_range(start, end) && !runs.rot().touches(start, end);
        if let Some(index) = self.trusted().filter(|_| held) {
            match index.scan(start, end, limit) {
                Ok(page) => {
                    let mut found = Vec::with_capacity(page.items.len());
                    for (key, held) in page.items {
                        let value = match held {
                            Lookup::Value { bytes, .. } => Some(bytes),
                            Lookup::Absent => None,
                            Lookup::InRuns { .. } => {
                                runs.get(&key, Patience::Waits)?.and_then(value_of)
                            }
                        };
                        found.extend(value.map(|value| (key, value)));
                    }
                    return Ok((found, page.more));
                }
                Err(error) => self.distrust(&error),
            }
        }
        let mut items = runs.iter(start, end);
        let (items, more) = crate::runs::set::page(&mut items, limit)?;
        let pair = |item: RunItem| Some((item.key.clone(), value_of(item)?));
        Ok((items.into_iter().filter_map(pair).collect(), more))
    }

    /// Everything under a key's encoded prefix, all its versions.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn get_key(&self, runs: &RunSet, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, RunError> {
        if self.trusted().is_none() || !self.content.holds(prefix) {
            let items = runs.get_key(prefix, Patience::Waits)?.into_iter();
            let pair = |item: RunItem| Some((item.key.clone(), value_of(item)?));
            return Ok(items.filter_map(pair).collect());
        }
        let end = super::prefix_end(prefix);
        let mut start = Bytes::copy_from_slice(prefix);
        let mut found: Vec<(Bytes, Bytes)> = Vec::new();
        loop {
            let (page, more) = self.scan(runs, &start, end.as_deref(), super::SCAN_PAGE_MAX)?;
            let last = page.last().map(|(key, _)| crate::runs::set::behind(key));
            found.extend(page);
            match last {
                Some(next) if more => start = next,
                _ => return Ok(found),
            }
        }
    }
}

impl std::fmt::Debug for IndexKeeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let trusted = self.trusted().is_some();
        write!(f, "IndexKeeper({:?}, trusted: {trusted})", self.backend)
    }
}

/// The last position that runs cover.
fn reach(set: &RunSet) -> Lsn {
    set.runs().iter().map(|run| run.meta().lsn_max).max().unwrap_or_default()
}

fn value_of(item: RunItem) -> Option<Bytes> {
    match item.content {
        RunContent::Value { bytes, .. } => Some(bytes),
        RunContent::Removed => None,
    }
}

/// Feeds what these runs hold together of what the index is to hold, as far as it is newer than `after`. It goes
/// round rot on record: the index is not asked there, and is built anew before a range leaves the record.
fn feed_all(
    index: &dyn MetaIndex,
    content: IndexContent,
    runs: &[Arc<Run>],
    rot: &RotRanges,
    (merge, after): (Merge, Lsn),
    progress: &AtomicU64,
) -> Result<(), IndexError> {
    let rot = Arc::new(rot.clone());
    for span in content.spans() {
        let runs = runs.to_vec();
        let items = MergeIter::new(runs, span.start, span.end, merge, Patience::Waits);
        let mut items = items.around(Arc::clone(&rot));
        feed(index, after, || items.next_item(), progress)?;
    }
    Ok(())
}

/// Puts and removes what `next` yields, as far as it is newer than `after`.
fn feed(
    index: &dyn MetaIndex,
    after: Lsn,
    mut next: impl FnMut() -> Result<Option<RunItem>, RunError>,
    progress: &AtomicU64,
) -> Result<(), IndexError> {
    let mut fed = 0_usize;
    loop {
        let item = next().map_err(|error| IndexError::Failed { what: error.to_string() })?;
        let Some(item) = item else { return Ok(()) };
        fed += 1;
        if fed.is_multiple_of(PROGRESS_ITEMS) {
            progress.fetch_add(1, Ordering::Relaxed);
        }
        if after > Lsn(0) && item.lsn <= after {
            continue;
        }
        match &item.content {
            RunContent::Value { bytes, .. } => index.put(&item.key, item.lsn, bytes)?,
            RunContent::Removed => index.remove(&item.key, item.lsn)?,
        }
    }
}
