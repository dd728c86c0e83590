//! Formatting and recovery.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use holdfast_types::{HybridTime, seam::Clock};

use crate::{
    base::RunsBase,
    checkpoint::{Checkpoint, DurableFacts, LogPosition},
    disk::Disk,
    error::DriveFault,
    gate::Gate,
    identity::Identity,
    log::{
        record::{NewShard, Record},
        replay::{Replay, Replayed, replay},
        segment::{LOG_FOLDER, create_segment},
        writer::{LogWriter, Segment},
    },
    manifest::{ManifestError, ManifestStore},
    member::Standing,
    meta_index::keeper::IndexKeeper,
    overlay::BaseError,
    runs::{RUNS_FOLDER, RunStore},
    table::Table,
    value::Place,
    volume::{
        VOLUME_FOLDER, VolumeSet,
        upload::{PortShared, UploadPort},
    },
};

use super::{
    Drive, DriveOptions, checkpoint::Background, chores::Pins, erase::Erasing, jobs::Jobs,
    volatile::Volatile, waiting::Waits,
};

/// Where the log of a drive without a manifest begins.
const BEGINNING: LogPosition = LogPosition { segment: 0, offset: 0, batch: 1, chain: 0 };

impl Drive {
    /// Makes a blank folder a drive of a fresh cluster.
    ///
    /// 1. Folders, segments, an empty manifest: a crash leaves files that the next attempt replaces.
    /// 2. The identity, last: from here the drive is formatted, and is never formatted again.
    ///
    /// # Errors
    /// [`DriveFault::Formatted`]; when the device fails.
    pub fn format(
        disk: &Arc<dyn Disk>,
        identity: &Identity,
        options: &DriveOptions,
    ) -> Result<(), DriveFault> {
        Self::format_as(disk, identity, options, Standing::Counting)
    }

    /// As [`Self::format`], for a drive that is to stand elsewhere: joining a set that has a past.
    ///
    /// # Errors
    /// [`DriveFault::Formatted`]; when the device fails.
    pub fn format_as(
        disk: &Arc<dyn Disk>,
        identity: &Identity,
        options: &DriveOptions,
        standing: Standing,
    ) -> Result<(), DriveFault> {
        if let Some(found) = Identity::load(&**disk)? {
            let path = disk.name().to_owned();
            return Err(DriveFault::Formatted { path, drive: found.drive });
        }
        for folder in [LOG_FOLDER, VOLUME_FOLDER, RUNS_FOLDER] {
            disk.create_dir(folder)?;
        }
        for name in disk.list(LOG_FOLDER)? {
            disk.remove(&format!("{LOG_FOLDER}/{name}"))?;
        }
        for segment in 1..=options.segments_first.max(1) {
            create_segment(&**disk, segment, options.segment_bytes)?;
        }
        let mut manifests =
            ManifestStore::create(disk.clone()).map_err(|e| manifest_fault(&**disk, e))?;
        let first = Checkpoint {
            drive: identity.drive,
            sequence: manifests.next_sequence(),
            log: BEGINNING,
            facts: DurableFacts { standing, ..DurableFacts::default() },
            membership: bytes::Bytes::new(),
            buckets: Vec::new(),
            volumes: Vec::new(),
            segments: Vec::new(),
            runs: Vec::new(),
            rot: crate::rot::RotRanges::default(),
            scrub: crate::scrub::Book::default(),
        };
        manifests.store(&first).map_err(|e| manifest_fault(&**disk, e))?;
        disk.sync_dir("")?;
        identity.store(&**disk)
    }

    /// Opens a formatted drive: replays its log, and raises its open count durably before anything is
    /// answered.
    ///
    /// # Errors
    /// [`DriveFault`], by what an operator does next.
    pub fn open(
        disk: Arc<dyn Disk>,
        options: DriveOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, DriveFault> {
        let identity = identify(&*disk, &options)?;
        let syncs = Arc::new(AtomicU64::new(0));
        let (mut table, background) = load(&disk, &identity, &options)?;
        let start = background.position();
        let replayed =
            replay(&*disk, identity.drive, start, |item| apply(&mut table, &*disk, item))?;
        let volumes = VolumeSet::open(disk.clone(), options.volumes, syncs.clone())?;
        super::rot::disown(&mut table, &volumes).map_err(|e| runs_fault(&*disk, &e))?;
        table.layers.set_base(background.base());
        // Blocks and segments are as the manifest has them: they are to be counted again.
        (table.tallied, table.is_named_right) = (None, false);
        syncs.fetch_add(replayed.visited.len() as u64, Ordering::Relaxed);
        mark_volumes(&table, &volumes, &*disk)?;
        let volumes = Arc::new(volumes);
        let open_count = table.facts.open_count.max(replayed.generation) + 1;
        check_age(&*disk, open_count, options.opened_before)?;
        let gate = Arc::new(Gate::new(identity.drive, replayed.end.batch - 1));
        let facts = table.facts;
        let log = writer(&identity, &options, &background, &table, replayed, open_count);
        let now = HybridTime::from_micros(clock.wall_micros());
        let space = disk.space()?;
        let erasing = Erasing::of(&table);
        let mut drive = Self {
            uploads: port(&identity, open_count, &volumes, &gate, &clock),
            volatile: Volatile::new(facts.floor.max(facts.ceiling), now),
            disk,
            identity,
            options,
            clock,
            gate,
            syncs,
            log,
            table,
            volumes,
            pins: Pins::default(),
            freeing: BTreeMap::new(),
            segment_leases: HashMap::new(),
            ceiling_gate: 0,
            erasing,
            epoch_gate: 0,
            document_epoch: holdfast_types::SetEpoch(0),
            read_jobs: Vec::new(),
            waits: Waits::default(),
            fresh: HashMap::new(),
            space,
            jobs: Jobs::default(),
            suspects: super::verify::Suspects::default(),
            scrub: super::scrub::Scrub::default(),
            evacuation: super::evacuate::Evacuation::default(),
            given_back: super::GivenBack::default(),
            background,
            meter: None,
        };
        drive.share_space();
        drive.raise_open_count(open_count)?;
        drive.record_rot();
        drive.flush();
        Ok(drive)
    }

    /// The first batch of this open: its generation was never used before.
    fn raise_open_count(&mut self, open_count: u64) -> Result<(), DriveFault> {
        let record = Record::Open { open_count, at: self.clock.wall_micros() };
        let path = self.disk.name().to_owned();
        if self.log.free_segments() == 0 {
            self.add_segment_now()?;
        }
        if self.record(&record, true).is_err() {
            let cause = "no log segment for the first batch; is the disk full?".to_owned();
            return Err(DriveFault::Fenced { path, cause });
        }
        self.flush();
        self.gate.fenced().map_or(Ok(()), |cause| Err(DriveFault::Fenced { path, cause }))
    }
}

/// Refuses a drive that is older than others remember it, before anything is written: an opening that counted
/// would hide it from the next one.
fn check_age(disk: &dyn Disk, open_count: u64, opened_before: u64) -> Result<(), DriveFault> {
    if open_count > opened_before {
        return Ok(());
    }
    let path = disk.name().to_owned();
    let cause = format!(
        "it is older than the others remember it: this is its opening {open_count}, they know of \
         {opened_before}; was a copy put back?"
    );
    Err(DriveFault::Amnesic { path, cause })
}

/// Reads and checks the identity.
fn identify(disk: &dyn Disk, options: &DriveOptions) -> Result<Identity, DriveFault> {
    let path = || disk.name().to_owned();
    let identity = Identity::load(disk)?.ok_or_else(|| DriveFault::Blank { path: path() })?;
    match options.cluster {
        Some(expected) if expected != identity.cluster => {
            Err(DriveFault::Foreign { path: path(), found: identity.cluster, expected })
        }
        _ => Ok(identity),
    }
}

/// The state of the newest manifest that can be read, above the runs it names.
fn load(
    disk: &Arc<dyn Disk>,
    identity: &Identity,
    options: &DriveOptions,
) -> Result<(Table, Background), DriveFault> {
    let (manifests, checkpoint) = ManifestStore::open(disk.clone(), identity.drive)
        .map_err(|e| manifest_fault(&**disk, e))?;
    let cache = options.run_cache_bytes;
    let named = |id| manifests.names(id);
    let runs = RunStore::open(disk.clone(), identity.drive, &checkpoint.runs, named, cache)
        .map_err(|e| runs_fault(&**disk, &e.into()))?;
    let runs = Arc::new(runs);
    let keeper = Arc::new(IndexKeeper::new(options.index.clone(), options.index_content));
    let table = Table::restore(&checkpoint, Arc::new(RunsBase::new(runs.clone())));
    Ok((table, Background::new(manifests, checkpoint, runs, keeper)))
}

/// Applies one record of the log. What it drops is free at once: there are no readers yet.
fn apply(table: &mut Table, disk: &dyn Disk, item: Replay<'_>) -> Result<(), DriveFault> {
    let inline = match item.record {
        Record::Accept { shard: NewShard::Inline(bytes), .. }
        | Record::Move { new: NewShard::Inline(bytes), .. } => Place::Inline {
            segment: item.segment,
            offset: item.inline_end - bytes.len() as u64,
            len: bytes.len() as u32,
        },
        _ => Place::None,
    };
    let applied = table.apply(item.batch, item.record, &inline);
    applied.map(|_| ()).map_err(|e| runs_fault(disk, &e))
}

fn runs_fault(disk: &dyn Disk, error: &BaseError) -> DriveFault {
    DriveFault::Unreadable {
        path: disk.name().to_owned(),
        what: "the runs",
        cause: error.to_string(),
    }
}

/// Without a manifest nothing is known of what the drive held.
fn manifest_fault(disk: &dyn Disk, error: ManifestError) -> DriveFault {
    match error {
        ManifestError::Disk(error) => error.into(),
        lost => DriveFault::Amnesic { path: disk.name().to_owned(), cause: lost.to_string() },
    }
}

/// Takes the blocks that live places name.
fn mark_volumes(table: &Table, volumes: &VolumeSet, disk: &dyn Disk) -> Result<(), DriveFault> {
    let missing = table.recorded.runs().into_iter().find(|extent| !volumes.mark(*extent));
    missing.map_or(Ok(()), |extent| {
        Err(DriveFault::Amnesic {
            path: disk.name().to_owned(),
            cause: format!("volume {} does not hold block {}", extent.volume, extent.block),
        })
    })
}

/// The log goes on behind what was replayed, in a fresh segment.
fn writer(
    identity: &Identity,
    options: &DriveOptions,
    background: &Background,
    table: &Table,
    replayed: Replayed,
    open_count: u64,
) -> LogWriter {
    let mut segments = BTreeMap::new();
    let mut free = VecDeque::new();
    for (id, (file, bytes)) in replayed.segments {
        let used = table.segments.get(&id).copied().unwrap_or_default();
        let mut last_batch = replayed.visited.get(&id).copied().unwrap_or(used.last_batch);
        if last_batch < background.oldest_batch && used.live_shards == 0 {
            last_batch = 0;
            free.push_back(id);
        }
        segments.insert(id, Segment { file, bytes, last_batch });
    }
    let drive = identity.drive;
    LogWriter::new(drive, open_count, options.batch_bytes_max, segments, free, replayed.end)
}

/// The ports that a drive hands out share this.
fn port(
    identity: &Identity,
    open: u64,
    volumes: &Arc<VolumeSet>,
    gate: &Arc<Gate>,
    clock: &Arc<dyn Clock>,
) -> UploadPort {
    let shared =
        PortShared::new(identity.drive, open, volumes.clone(), gate.clone(), clock.clone());
    UploadPort { shared: Arc::new(shared) }
}
