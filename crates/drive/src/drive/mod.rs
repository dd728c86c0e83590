//! [`Drive`]: one drive's state machine. Synchronous, one owner, no threads inside.
//!
//! ```text
//! request -> handle: decide (holdfast-register) -> log record -> table -> answer waits at the gate
//!            (waits first when what it looks at is not in memory: see `waiting`)
//!            take_batch -> BatchJob on the log's thread: write, fdatasync, answers leave
//!            batch_done -> blocks of dropped shards become free
//!            tick       -> background jobs
//! ```
//!
//! INV-DRIVE-GATE: no answer leaves before every record it looked at is durable, but for what repeats the safe: Settle, Purge, Move.
//! INV-DRIVE-REPLAY: the state after a restart follows from the log by the code that made it.
//! INV-DRIVE-FENCE: after a failed sync nothing is answered but facts.
//!
//! | module | holds |
//! |---|---|
//! | `open` | formatting, recovery |
//! | `write` | Accept, Install, Settle, Purge, buckets |
//! | `read` | Prepare, Read, Scan, shards |
//! | `audit` | compares what is counted with what is held |
//! | `chores` | lists of work, pins |
//! | `erase` | what is left of deleted buckets goes |
//! | `member` | set epochs, floors, the index to compare |
//! | `volatile` | promises and memory, which a restart forgets |
//! | `jobs` | what happens in the background: spare segments and volumes |
//! | `checkpoint` | overlay to run, manifest, merges, the index |
//! | `cleanse` | filled ranges leave the record once nothing void is left of them |
//! | `rot` | run blocks that rotted: what they hid is on record, not answered, and filled again |
//! | `scrub` | every live byte read again, at a set rate |
//! | `culprits` | which registers name a shard that was found rotten |
//! | `recount` | places and chores that rot hid, found out from the registers |
//! | `recycle` | segments used again, live shards moved out of them |
//! | `space` | the reserve; segments and volumes given back |
//! | `evacuate` | shards moved out of fragmented volumes |
//! | `verify` | shards that are suspected of rot, read again and recorded as missing |
//! | `waiting` | requests that wait for a look-up below the overlay, or for room in the log |

mod audit;
mod checkpoint;
mod chores;
mod cleanse;
mod culprits;
mod erase;
mod evacuate;
mod jobs;
mod member;
mod open;
mod read;
mod recount;
mod recycle;
mod rot;
mod scrub;
mod space;
mod verify;
mod volatile;
mod waiting;
mod write;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use holdfast_register::{DriveView, Refusal};
use holdfast_types::{
    BucketPhase, ClusterId, DriveId, DriveState, ErrorClass, HybridTime, OperationId, SetEpoch,
    sabotage::{Bug, planted},
    seam::Clock,
};

use crate::{
    api::{DriveError, DriveFacts, DriveReply, DriveRequest, Scope, Standing},
    disk::{Disk, Space},
    gate::{Completion, Gate},
    identity::Identity,
    loaded::Want,
    log::{
        record::Record,
        writer::{Appended, BatchJob, BatchOutcome, LogWriter},
    },
    meta_index::keeper::{IndexBackend, IndexContent},
    overlay::BaseError,
    suspect::Meter,
    table::{Dropped, Table},
    value::Place,
    volume::{VolumeSet, VolumeSizes, upload::UploadPort},
};

pub use checkpoint::run_jobs;
pub use jobs::{BackgroundJob, JobOutcome};
pub use read::ReadJob;
pub use space::GivenBack;
pub use waiting::{LoadJob, LoadOutcome, ShardDone};

use chores::Pins;
use erase::Erasing;
use read::Reply;
use volatile::Volatile;
use waiting::Waits;

/// Sizes and bounds of a drive, for real ones and laptops: a first start writes two segments, the first large shard a small volume.
#[derive(Clone, Debug)]
pub struct DriveOptions {
    /// The cluster that opens it; a drive of another one is refused. `None` opens any.
    pub cluster: Option<ClusterId>,
    /// How often others know it was opened: an opening not behind those is of an older drive, its memory is lost (INV-MEMBER-3).
    pub opened_before: u64,
    /// Bytes of a log segment.
    pub segment_bytes: u64,
    /// Segments written when a drive is formatted.
    pub segments_first: u32,
    /// Segments kept ready, so that the log goes on while the next one is written.
    pub segments_spare: usize,
    /// Bytes of a log batch, unless one record is longer.
    pub batch_bytes_max: usize,
    /// Bytes that may wait for the log before requests are refused as overloaded.
    pub pending_bytes_max: usize,
    /// Bytes of the overlay at which it is written out as a run.
    pub overlay_bytes_max: u64,
    /// Segments behind the last checkpoint at which the next one is due: bounds replay.
    pub tail_segments_max: usize,
    /// Segments beyond which live shards are moved out of sparse ones.
    pub segments_soft_max: usize,
    /// Bytes a second that are moved out of fragmented volumes; none are when it is 0.
    pub move_bytes_per_second: u64,
    /// Bytes of the cache of run blocks.
    pub run_cache_bytes: usize,
    /// How long after the begin of a scrub the next one begins by itself; `None`: only when told to.
    pub scrub_every_micros: Option<u64>,
    /// What the index is kept in; without one the runs alone answer.
    pub index: IndexBackend,
    /// What the index holds.
    pub index_content: IndexContent,
    /// Sizes of volumes, and the reserve.
    pub volumes: VolumeSizes,
}

impl Default for DriveOptions {
    fn default() -> Self {
        Self {
            cluster: None,
            opened_before: 0,
            segment_bytes: 16 << 20,
            segments_first: 2,
            segments_spare: 2,
            batch_bytes_max: 1 << 20,
            pending_bytes_max: 16 << 20,
            overlay_bytes_max: 32 << 20,
            tail_segments_max: 4,
            segments_soft_max: 12,
            // A quarter of what one hard disk writes.
            move_bytes_per_second: 32 << 20,
            run_cache_bytes: 16 << 20,
            scrub_every_micros: None,
            index: IndexBackend::Off,
            index_content: IndexContent::default(),
            volumes: VolumeSizes { first: 64 << 20, max: 1 << 30, reserve: 256 << 20 },
        }
    }
}

/// One drive.
pub struct Drive {
    disk: Arc<dyn Disk>,
    identity: Identity,
    options: DriveOptions,
    clock: Arc<dyn Clock>,
    gate: Arc<Gate>,
    syncs: Arc<AtomicU64>,
    log: LogWriter,
    table: Table,
    volatile: Volatile,
    volumes: Arc<VolumeSet>,
    uploads: UploadPort,
    pins: Pins,
    erasing: Erasing,
    /// Dropped shards by the batch that drops them; theirs is free when it is durable.
    freeing: BTreeMap<u64, Vec<Dropped>>,
    /// Keeps segments with readers from being recycled.
    segment_leases: HashMap<u32, Arc<()>>,
    /// Promises up to the ceiling wait for this batch.
    ceiling_gate: u64,
    /// Answers under the adopted set epoch wait for this batch.
    epoch_gate: u64,
    /// The epoch of the membership document adopted in this open: another document of the same epoch is
    /// refused, for two deciders may have met.
    document_epoch: SetEpoch,
    read_jobs: Vec<ReadJob>,
    waits: Waits,
    /// Inline shards of batches that are not durable yet, by operation, with their batch: they are
    /// read from here, for they may not be written yet.
    fresh: HashMap<OperationId, (u64, Bytes)>,
    space: Space,
    jobs: jobs::Jobs,
    suspects: verify::Suspects,
    scrub: scrub::Scrub,
    evacuation: evacuate::Evacuation,
    given_back: GivenBack,
    background: checkpoint::Background,
    /// Tells whether it is slow against its siblings; set by who judges them all.
    meter: Option<Arc<Meter>>,
}

/// Why a request is not carried out, before it becomes an error with the drive's name.
enum Stop {
    Refused(Refusal),
    Failed(ErrorClass, String),
    /// Not yet: this has to be brought up first.
    Waits(Want),
    /// Not yet: the log has no room until the next segment comes.
    NoRoom,
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<BaseError> for Stop {
    fn from(error: BaseError) -> Self {
        match error {
            BaseError::Waits(want) => Self::Waits(want),
            failed @ (BaseError::Failed { .. } | BaseError::Rotten(_)) => {
                Self::Failed(ErrorClass::Damaged, failed.to_string())
            }
        }
    }
}

impl Stop {
    fn invalid(message: impl Into<String>) -> Self {
        Self::Failed(ErrorClass::Invalid, message.into())
    }
}

/// What a drive says of itself before the others have taken it in.
const JOINING: &str =
    "it is new here and waits for the other drives of its set to take it in; bring them back";

/// A decision: the batch that the answer rests on is gathered in `gate` on the way, so that refusals
/// wait for what they looked at, too.
type Decision = Result<DriveReply, Stop>;

impl Drive {
    /// Who it is.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Decides a request and answers it; gives `done` back when it cannot be decided yet.
    fn request(&mut self, request: &DriveRequest, done: Completion) -> Option<(Completion, Stop)> {
        if let (Some(cause), false) = (self.gate.fenced(), *request == DriveRequest::Facts) {
            done(Err(self.gate.fence_error(&cause)));
            return None;
        }
        let mut gate = 0;
        match self.decide(request, &mut gate) {
            Err(stop @ (Stop::Waits(_) | Stop::NoRoom)) => return Some((done, stop)),
            Ok(Reply::View(view)) => self.send_view(*view, gate, done),
            Ok(Reply::Now(reply)) => done(Ok(reply)),
            Ok(Reply::Whole(reply)) => self.answer(gate, Ok(reply), done),
            Ok(Reply::Suspected(suspect)) => self.look_at(*suspect, done),
            Err(stop) => self.answer(gate, Err(stop), done),
        }
        None
    }

    fn decide(&mut self, request: &DriveRequest, gate: &mut u64) -> Result<Reply, Stop> {
        self.check_joined(request)?;
        let reply = match request {
            DriveRequest::Prepare(prepare) => return self.prepare(prepare, gate),
            DriveRequest::Read(read) => return self.read(read, gate),
            DriveRequest::Facts => return Ok(Reply::Now(DriveReply::Facts(self.facts()))),
            DriveRequest::Accept(accept) => self.accept(accept, gate),
            DriveRequest::Install(install) => self.install(install, gate),
            DriveRequest::Settle(settle) => self.settle(settle),
            DriveRequest::Purge(purge) => self.purge(purge),
            DriveRequest::Scan(scan) => self.scan(scan, gate),
            DriveRequest::ListChores(list) => self.list_chores(list),
            DriveRequest::InstallBucket(scope) => self.install_bucket(scope, gate),
            DriveRequest::Pin(pin) => self.pin(pin.clone()),
            DriveRequest::Scrub(order) => self.scrub(*order),
            DriveRequest::Verify(verify) => return self.verify(verify, gate),
            DriveRequest::Member(request) => self.member(request, gate),
        };
        reply.map(Reply::Whole)
    }

    /// Lets a decision out once `gate` is durable.
    fn answer(&self, gate: u64, decision: Decision, done: Completion) {
        // A failure says nothing about what is stored, so it need not wait.
        let failed = matches!(decision, Err(Stop::Failed(..)));
        let result = self.named(decision);
        self.gate.answer(if failed { 0 } else { gate }, done, result);
    }

    /// Gives an error the drive's name.
    fn named<T>(&self, decision: Result<T, Stop>) -> Result<T, DriveError> {
        decision.map_err(|stop| match stop {
            Stop::Refused(refusal) => DriveError::Refused { drive: self.identity.drive, refusal },
            Stop::Failed(class, message) => DriveError::failed(self.identity.drive, class, message),
            // Both are parked, not answered; should one slip through, the caller repeats.
            Stop::Waits(_) | Stop::NoRoom => {
                debug_assert!(false, "a decision that waits is not answered");
                let message = "it waits for its device";
                DriveError::failed(self.identity.drive, ErrorClass::Overloaded, message)
            }
        })
    }

    /// The log batch to write next, if its time has come: run it on the log's thread, and hand its
    /// outcome to [`Self::batch_done`]. One is out at a time.
    pub fn take_batch(&mut self) -> Option<BatchJob> {
        if self.gate.fenced().is_some() {
            return None;
        }
        self.log.take(self.clock.monotonic_micros(), &self.gate, &self.syncs)
    }

    /// Takes note of a written batch: shards that it drops give their blocks back.
    pub fn batch_done(&mut self, outcome: BatchOutcome) {
        self.log.done(&outcome);
        if outcome.chain.is_err() {
            return;
        }
        self.fresh.retain(|_, (batch, _)| *batch > outcome.number);
        let later = self.freeing.split_off(&(outcome.number + 1));
        let durable = std::mem::replace(&mut self.freeing, later);
        for dropped in durable.into_values().flatten() {
            self.release(dropped);
        }
        self.checkpoint_may_begin(outcome.number);
    }

    /// Writes every pending batch here and now: for tests, and for a shutdown that leaves no Settle behind.
    pub fn flush(&mut self) {
        self.log.hurry();
        while let Some(job) = self.take_batch() {
            let outcome = job.run();
            self.batch_done(outcome);
        }
    }

    /// Reads that wait for the device: run each on an I/O thread.
    pub fn take_read_jobs(&mut self) -> Vec<ReadJob> {
        std::mem::take(&mut self.read_jobs)
    }

    /// Where shards come in; for bulk I/O threads.
    #[must_use]
    pub fn upload_port(&self) -> UploadPort {
        self.uploads.clone()
    }

    /// Whose verdict the drive tells when it is asked for its facts.
    pub fn judged_by(&mut self, meter: Arc<Meter>) {
        self.meter = Some(meter);
    }

    /// What an operator sees.
    #[must_use]
    pub fn facts(&self) -> DriveFacts {
        let fenced = self.gate.fenced();
        let suspicion = self.meter.as_ref().and_then(|meter| meter.verdict());
        let state = match &fenced {
            Some(_) => DriveState::Faulty,
            None => match self.table.facts.standing {
                Standing::Joining => DriveState::Faulty,
                Standing::Rebuilding => DriveState::Rebuilding,
                Standing::Counting if suspicion.is_some() => DriveState::Suspect,
                Standing::Counting if self.background.is_reindexing() => DriveState::Reindexing,
                Standing::Counting => DriveState::Healthy,
            },
        };
        let facts = &self.table.facts;
        DriveFacts {
            drive: self.identity.drive,
            path: self.disk.name().to_owned(),
            state,
            reason: match fenced {
                Some(cause) => {
                    format!(
                        "a write or sync failed ({cause}); restart its node after a check, or replace it"
                    )
                }
                None if self.table.facts.standing == Standing::Joining => JOINING.to_owned(),
                None => suspicion.or_else(|| self.told_of_rot()).unwrap_or_default(),
            },
            capacity_bytes: self.space.capacity_bytes,
            free_bytes: self.puttable_bytes(),
            used_bytes: facts.used_bytes,
            registers: facts.registers,
            repairs: facts.repairs,
            open_count: facts.open_count,
            syncs: self.syncs.load(Ordering::Relaxed),
            index_faults: self.background.index_faults(),
        }
    }

    /// The drive's clock.
    fn now(&self) -> HybridTime {
        HybridTime::from_micros(self.clock.wall_micros())
    }

    /// The facts that decisions rest on.
    fn view(&self) -> DriveView {
        DriveView {
            now: self.now(),
            floor: self.volatile.floor,
            purge_floor: self.table.facts.purge_floor,
            set_epoch: self.table.facts.set_epoch,
            memory_since: self.volatile.since,
        }
    }

    /// Checks the scope of a request, and installs its bucket stamp first when it is newer.
    fn admit(&mut self, scope: &Scope, write: bool, gate: &mut u64) -> Result<(), Stop> {
        self.meet_epoch(scope.set_epoch, gate)?;
        let known = self.table.buckets.get(&scope.bucket.id).copied();
        *gate = (*gate).max(known.map_or(0, |known| known.gate));
        let stamp = known.map(|known| known.stamp);
        if let Some(newer) = holdfast_register::decide::newer_stamp(stamp, scope.bucket) {
            let appended = self.record(&Record::Bucket(newer), true)?;
            if newer.phase == BucketPhase::Deleted {
                self.erasing.add(newer.id);
            }
            *gate = (*gate).max(appended.batch);
        }
        let asked = (scope.bucket, scope.set_epoch);
        Ok(holdfast_register::decide::admit(&self.view(), stamp, asked.0, asked.1, write)?)
    }

    /// Bounded admission: what waits for the log or for a run has its limit.
    fn check_room(&self) -> Result<(), Stop> {
        let crowded = self.log.pending_bytes() > self.options.pending_bytes_max
            || self.table.layers.overlay().weight() > 2 * self.options.overlay_bytes_max;
        if crowded {
            let message = "too much waits for the log, or for a run";
            return Err(Stop::Failed(ErrorClass::Overloaded, message.to_owned()));
        }
        Ok(())
    }

    /// Logs an event and applies it. What applying it looks at is in memory, or nothing is logged.
    fn record(&mut self, record: &Record, urgent: bool) -> Result<Appended, Stop> {
        self.table.ready_for(record)?;
        let appended = self.append(record, urgent)?;
        if let Some((operation, bytes)) = record.inline() {
            self.fresh.insert(operation, (appended.batch, bytes.clone()));
        }
        match self.table.apply(appended.batch, record, &appended.inline) {
            Ok(dropped) if planted(Bug::ExtentReusedEarly) => {
                dropped.into_iter().for_each(|dropped| self.release(dropped));
                Ok(appended)
            }
            Ok(dropped) => {
                self.freeing.entry(appended.batch).or_default().extend(dropped);
                Ok(appended)
            }
            Err(error) => {
                // The log is ahead of the state now: only a restart brings them together.
                self.gate.fence(&error.to_string());
                Err(Stop::Failed(ErrorClass::Damaged, error.to_string()))
            }
        }
    }

    /// Logs an event.
    fn append(&mut self, record: &Record, urgent: bool) -> Result<Appended, Stop> {
        let now = self.clock.monotonic_micros();
        self.log.append(record, urgent, now).map_err(|_| self.no_room(record))
    }

    /// Gives a dropped shard's blocks back, or keeps them while it is pinned. The record that dropped
    /// it is durable.
    fn release(&mut self, dropped: Dropped) {
        if self.pins.holds(dropped.operation) {
            self.pins.linger(dropped);
            return;
        }
        if let Place::Extents { extents, .. } = dropped.record.place {
            for extent in extents {
                self.volumes.free(extent);
            }
        }
    }

    /// The drive's identity on the wire.
    const fn id(&self) -> DriveId {
        self.identity.drive
    }
}
