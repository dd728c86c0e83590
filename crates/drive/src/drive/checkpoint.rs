//! Overlay to run to manifest; merges of runs; the index. One job of these is out at a time.
//!
//! 1. Freeze, on the owner's thread: the pending batch is sealed; overlay, facts and bitmaps are as of
//!    its end. A crash leaves nothing.
//! 2. When that batch is durable, on an I/O thread: the run is written. A crash leaves a file that
//!    nobody names; the next open removes it.
//! 3. The run is fed to the index, which may thus be ahead of the manifest: replay never asks it.
//! 4. The manifest is stored: from here replay starts behind the batch.
//! 5. The run answers, then the frozen overlay goes, then segments are recycled.
//!
//! After each checkpoint and merge a stretch of the index is compared with the runs (INV-INDEX-1).

use std::sync::Arc;

use parking_lot::Mutex;

use crate::{
    base::IndexedBase,
    checkpoint::{Checkpoint, LogPosition, SegmentUse},
    disk::{DiskError, DiskErrorKind},
    manifest::{ManifestError, ManifestStore},
    meta_index::{Lsn, keeper::IndexKeeper},
    overlay::{Overlay, Slot},
    runs::{Run, RunContent, RunError, RunItem, RunStore},
};

use super::{
    BackgroundJob, Drive, JobOutcome,
    cleanse::Cleansing,
    jobs::{Done, job},
    recount::Recount,
};

/// What jobs work on, and what is under way.
pub(super) struct Background {
    manifests: Arc<Mutex<ManifestStore>>,
    runs: Arc<RunStore>,
    keeper: Arc<IndexKeeper>,
    /// What the last manifest says.
    pub(super) last: Checkpoint,
    /// Batches below this are needed for replay by neither manifest.
    pub oldest_batch: u64,
    /// Frozen, and its batch is not durable yet.
    waiting: Option<Frozen>,
    /// Ready to be written.
    ready: Option<Frozen>,
    /// A job on runs, manifest or index is out.
    busy: bool,
    index_opened: bool,
    rebuilding: bool,
    /// The index could not be built.
    rebuild_failed: bool,
    /// Filled ranges on their way out.
    pub(super) cleansing: Option<Cleansing>,
    /// What rot left to be counted anew.
    pub(super) recount: Recount,
}

/// An overlay set aside, and the checkpoint that it becomes.
pub(super) struct Frozen {
    overlay: Arc<Overlay>,
    checkpoint: Checkpoint,
}

impl Frozen {
    /// The last batch it covers.
    const fn last(&self) -> u64 {
        self.checkpoint.log.batch - 1
    }
}

/// What became of a checkpoint or a merge.
pub(super) enum Stored {
    /// The manifest says this now; batches below the number are not needed for replay.
    Yes(Checkpoint, u64),
    /// Nothing has changed; a frozen overlay is still to be written.
    No(Option<Frozen>, Failure),
}

/// Why nothing was stored.
pub(super) enum Failure {
    Disk(DiskError),
    Runs(RunError),
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        if let RunError::Disk(error) = error { Self::Disk(error) } else { Self::Runs(error) }
    }
}

impl From<ManifestError> for Failure {
    fn from(error: ManifestError) -> Self {
        match error {
            ManifestError::Disk(error) => Self::Disk(error),
            other => {
                let message = other.to_string();
                Self::Disk(DiskError::new(DiskErrorKind::Failed, "store", "manifest", message))
            }
        }
    }
}

impl Background {
    pub(super) fn new(
        manifests: ManifestStore,
        last: Checkpoint,
        runs: Arc<RunStore>,
        keeper: Arc<IndexKeeper>,
    ) -> Self {
        let oldest_batch = manifests.oldest_log().map_or(0, |log| log.batch);
        Self {
            manifests: Arc::new(Mutex::new(manifests)),
            runs,
            keeper,
            last,
            oldest_batch,
            waiting: None,
            ready: None,
            busy: false,
            index_opened: false,
            rebuilding: false,
            rebuild_failed: false,
            cleansing: None,
            recount: Recount::default(),
        }
    }

    /// Where replay starts.
    pub(super) const fn position(&self) -> LogPosition {
        self.last.log
    }

    /// What answers below the overlay once replay is over.
    pub(super) fn base(&self) -> Arc<IndexedBase> {
        Arc::new(IndexedBase::new(self.runs.clone(), self.keeper.clone()))
    }

    /// The runs.
    pub(super) const fn runs(&self) -> &Arc<RunStore> {
        &self.runs
    }

    /// Bytes of all runs: what a merge of them writes at most.
    pub(super) fn run_bytes(&self) -> u64 {
        self.last.runs.iter().map(|run| run.bytes).sum()
    }

    /// Whether the runs answer because the index is not to be trusted.
    pub(super) fn is_reindexing(&self) -> bool {
        self.index_opened && self.keeper.wants_rebuild()
    }

    /// How often the index was set aside.
    pub(super) fn index_faults(&self) -> u64 {
        self.keeper.faults()
    }

    /// The keeper of the index.
    pub(super) const fn keeper(&self) -> &Arc<IndexKeeper> {
        &self.keeper
    }

    /// Whether the index is being built anew.
    pub(super) const fn is_rebuilding(&self) -> bool {
        self.rebuilding
    }

    /// Lets an index be built that could not be.
    pub(super) fn rebuild_again(&mut self) {
        if std::mem::take(&mut self.rebuild_failed) {
            self.rebuilding = false;
        }
    }

    pub(super) fn store(&self) -> Store {
        Store {
            manifests: self.manifests.clone(),
            runs: self.runs.clone(),
            keeper: self.keeper.clone(),
        }
    }
}

/// What a job takes along.
pub(super) struct Store {
    manifests: Arc<Mutex<ManifestStore>>,
    runs: Arc<RunStore>,
    keeper: Arc<IndexKeeper>,
}

impl Store {
    /// Steps 2 to 5.
    fn write(&self, frozen: Frozen) -> Stored {
        match self.try_write(&frozen) {
            Ok((checkpoint, oldest)) => Stored::Yes(checkpoint, oldest),
            Err(failure) => Stored::No(Some(frozen), failure),
        }
    }

    fn try_write(&self, frozen: &Frozen) -> Result<(Checkpoint, u64), Failure> {
        let lsn = Lsn(frozen.last());
        let items = frozen.overlay.iter().map(|(key, slot)| item(key, slot, lsn));
        let run = self.runs.write(items, frozen.overlay.len() as u64)?;
        if let Some(run) = &run {
            self.keeper.apply(run, lsn);
        }
        let runs = run.iter().map(|run| run.meta().clone()).chain(self.runs.set().metas());
        let checkpoint = Checkpoint { runs: runs.collect(), ..frozen.checkpoint.clone() };
        let stored = self.put(checkpoint, |runs| {
            if let Some(run) = run {
                runs.install_newest(run);
            }
        })?;
        self.keeper.sample(&self.runs, &frozen.checkpoint.rot);
        Ok(stored)
    }

    /// Merges runs, and lets a manifest name the outcome at the same position.
    fn merge(&self, inputs: &[Arc<Run>], reaches_oldest: bool, last: Checkpoint) -> Stored {
        let merged = self.runs.merge(inputs, reaches_oldest, &last.rot).map_err(Failure::from);
        let stored = merged.and_then(|merged| {
            if !self.runs.install_merged(inputs, merged) {
                tracing::warn!("runs to be merged are no longer side by side");
            }
            let checkpoint = Checkpoint { runs: self.runs.set().metas(), ..last };
            let stored = self.put(checkpoint, |_| ())?;
            self.keeper.sample(&self.runs, &stored.0.rot);
            Ok(stored)
        });
        match stored {
            Ok((checkpoint, oldest)) => Stored::Yes(checkpoint, oldest),
            Err(failure) => Stored::No(None, failure),
        }
    }

    /// Stores the last manifest once more, so that the one before it goes.
    pub(super) fn again(&self, last: Checkpoint) -> Stored {
        match self.put(Checkpoint { runs: self.runs.set().metas(), ..last }, |_| ()) {
            Ok((checkpoint, oldest)) => Stored::Yes(checkpoint, oldest),
            Err(failure) => Stored::No(None, failure),
        }
    }

    /// Stores a manifest, then removes what no manifest names.
    fn put(
        &self,
        checkpoint: Checkpoint,
        install: impl FnOnce(&RunStore),
    ) -> Result<(Checkpoint, u64), Failure> {
        let mut manifests = self.manifests.lock();
        let checkpoint = Checkpoint { sequence: manifests.next_sequence(), ..checkpoint };
        manifests.store(&checkpoint)?;
        install(&self.runs);
        let named = |id| manifests.names(id);
        self.runs.collect(named).map_err(Failure::Disk)?;
        let oldest = manifests.oldest_log().map_or(0, |log| log.batch);
        Ok((checkpoint, oldest))
    }
}

fn item(key: &bytes::Bytes, slot: &Slot, lsn: Lsn) -> RunItem {
    let content = slot.value.as_ref().map_or(RunContent::Removed, |value| RunContent::Value {
        highest: value.highest(),
        bytes: value.encode(),
    });
    RunItem { key: key.clone(), lsn, content }
}

impl Drive {
    /// The name of the job that writes a checkpoint, for a shutdown that does this alone.
    pub const CHECKPOINT_JOB: &'static str = "checkpoint";

    /// Sets the overlay aside to become a run. Nothing happens while one is under way. Called when
    /// it is due; tests and shutdowns may call it any time.
    pub fn begin_checkpoint(&mut self) {
        let nothing = self.log.next_batch() == self.background.last.log.batch;
        if self.table.layers.is_frozen() || nothing {
            return;
        }
        let log = self.log.seal();
        let frozen = Frozen {
            checkpoint: Checkpoint {
                drive: self.id(),
                sequence: 0,
                log,
                facts: self.table.facts,
                membership: self.table.membership.clone(),
                buckets: self.table.buckets.values().map(|known| known.stamp).collect(),
                volumes: self.table.recorded.to_maps(),
                segments: self.segment_uses(log.batch - 1),
                runs: Vec::new(),
                rot: self.table.layers.rot().clone(),
                scrub: self.table.scrub.settled(),
            },
            overlay: self.table.layers.freeze(),
        };
        // Not the gate's word: the chain value comes with the batch's outcome.
        if self.log.is_idle() {
            self.background.ready = Some(frozen);
        } else {
            self.background.waiting = Some(frozen);
            self.log.hurry();
        }
    }

    /// Live shards and last batch of every segment in use, up to a batch.
    fn segment_uses(&self, last: u64) -> Vec<SegmentUse> {
        let used = self.log.segments().iter().filter(|(_, segment)| segment.last_batch > 0);
        let uses = used.map(|(id, segment)| {
            let live = self.table.segments.get(id).copied().unwrap_or_default();
            SegmentUse { segment: *id, last_batch: segment.last_batch.min(last), ..live }
        });
        uses.collect()
    }

    /// The checkpoint that waited for this batch can be written.
    pub(super) fn checkpoint_may_begin(&mut self, durable: u64) {
        if self.background.waiting.as_ref().is_some_and(|frozen| frozen.last() == durable) {
            let mut frozen = self.background.waiting.take().expect("just seen");
            frozen.checkpoint.log.chain = self.log.chain();
            self.background.ready = Some(frozen);
        }
    }

    /// Whether overlay or tail are long enough to be written out.
    fn checkpoint_is_due(&self) -> bool {
        let covered = self.background.last.log.batch;
        let tail = self.log.segments().values().filter(|segment| segment.last_batch >= covered);
        self.table.layers.overlay().weight() >= self.options.overlay_bytes_max
            || tail.count() > self.options.tail_segments_max
            || self.background.last.rot != *self.table.layers.rot()
            || self.tally_is_due(covered)
    }

    /// What was tallied is to be stored: filled ranges wait for that.
    fn tally_is_due(&self, covered: u64) -> bool {
        !self.background.last.rot.is_empty() && self.table.tallied.is_some_and(|at| at >= covered)
    }

    /// The next job on runs, manifest and index, one at a time; a rebuild of the index runs beside.
    pub(super) fn state_jobs(&mut self) -> Vec<BackgroundJob> {
        let mut jobs = Vec::new();
        if self.checkpoint_is_due() {
            self.begin_checkpoint();
        }
        let tallied = self.table.tallied;
        let background = &mut self.background;
        if !background.busy {
            jobs.extend(background.next_job(tallied));
            background.busy = !jobs.is_empty();
        }
        self.record_healed();
        let background = &mut self.background;
        let wanted = background.index_opened && background.keeper.wants_rebuild();
        if wanted && !background.rebuilding {
            background.rebuilding = true;
            let store = background.store();
            jobs.push(job("rebuild index", move || {
                store.keeper.rebuild(&store.runs);
                Done::Rebuilt
            }));
        }
        jobs
    }

    /// Takes note of a checkpoint or merge.
    pub(super) fn stored(&mut self, stored: Stored) {
        self.background.busy = false;
        match stored {
            Stored::Yes(checkpoint, oldest) => {
                let is_checkpoint = checkpoint.log.batch != self.background.last.log.batch;
                self.background.last = checkpoint;
                self.background.oldest_batch = oldest;
                if is_checkpoint {
                    self.table.layers.thaw();
                }
            }
            Stored::No(frozen, failure) => {
                self.background.ready = frozen;
                match failure {
                    Failure::Disk(error) => {
                        self.noted::<()>(Err(error));
                    }
                    Failure::Runs(error) => {
                        if let RunError::Rotten(met) = &error {
                            self.table.layers.meet(met.clone());
                        }
                        tracing::error!(drive = %self.id(), %error, "a run was not written");
                    }
                }
            }
        }
    }

    /// The index was looked at.
    pub(super) fn index_opened(&mut self) {
        self.background.busy = false;
        self.background.index_opened = true;
    }

    /// The index was built anew, or could not be: it is tried again at the next open, or when rot is gone.
    pub(super) fn index_rebuilt(&mut self) {
        let failed = self.background.keeper.wants_rebuild();
        (self.background.rebuilding, self.background.rebuild_failed) = (failed, failed);
    }
}

impl Background {
    fn next_job(&mut self, tallied: Option<u64>) -> Option<BackgroundJob> {
        let store = self.store();
        if let Some(frozen) = self.ready.take() {
            return Some(job(Drive::CHECKPOINT_JOB, move || Done::Stored(store.write(frozen))));
        }
        if !self.index_opened {
            let reach = self.last.runs.iter().map(|run| run.lsn_max).max().unwrap_or_default();
            return Some(job("open index", move || {
                let opened = store.keeper.open(reach);
                // Without a run there is nothing to go through: a fresh drive has its index at once.
                if !opened && store.runs.set().runs().is_empty() {
                    store.keeper.rebuild(&store.runs);
                }
                Done::IndexOpened
            }));
        }
        // What the manifest says of rot is durable: blocks that it names may go.
        match self.runs.set().next_merge(&self.last.rot) {
            Some((inputs, reaches_oldest)) => Some(self.merge_job(inputs, reaches_oldest)),
            // Once gone from the record, nothing says any more that there is something to be counted.
            None => self.cleanse_job(tallied.is_some_and(|at| at < self.last.log.batch)),
        }
    }

    /// Merges adjoining runs, or writes one anew.
    pub(super) fn merge_job(&self, inputs: Vec<Arc<Run>>, reaches_oldest: bool) -> BackgroundJob {
        let (store, last) = (self.store(), self.last.clone());
        let work = move || Done::Stored(store.merge(&inputs, reaches_oldest, last));
        job("merge runs", work)
    }
}

/// Runs every job a drive names until there is none: for tests and shutdowns.
pub fn run_jobs(drive: &mut Drive) {
    loop {
        let jobs = drive.tick();
        drive.flush();
        let loads = drive.take_load_jobs();
        if jobs.is_empty() && loads.is_empty() {
            return;
        }
        for load in loads {
            let outcome = load.run();
            drive.loaded(outcome);
        }
        for job in jobs {
            let outcome: JobOutcome = job.run();
            drive.job_done(outcome);
        }
    }
}
