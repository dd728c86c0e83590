//! What happens in the background: spare segments are written ahead of need, and whatever other modules
//! name.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use holdfast_types::{ErrorClass, OperationId};

use crate::{
    disk::{BLOCK_U64, DiskError, DiskErrorKind, DiskFile, Space},
    io_pool::Priority,
    log::{record::Record, segment::create_segment},
    overlay::BaseError,
};

use super::{
    Drive, Stop, checkpoint::Stored, evacuate::Step, recycle::Found, scrub, verify::Verified,
};

/// What is under way.
#[derive(Default)]
pub(super) struct Jobs {
    /// A segment is being made or removed.
    pub segment_coming: bool,
    /// The last segment could not be written: the disk is full. It is tried again with each tick.
    segment_refused: bool,
    /// A volume is being made or removed.
    pub volume_coming: bool,
    /// No volume is made before this time on the monotonic clock: there was no room.
    pub volume_after: u64,
    pub compacting: bool,
    /// Segments out of which everything was moved that could be read: what is left of them is rotten,
    /// and to read them again is vain. Bounded by the segments there are.
    pub read_out: BTreeSet<u32>,
    /// No segment is read before this time on the monotonic clock: nothing could be moved.
    pub compact_after: u64,
    space_coming: bool,
    /// Space was asked for at this time on the monotonic clock.
    space_asked_at: u64,
}

/// Work for an I/O thread; its outcome goes to [`Drive::job_done`].
pub struct BackgroundJob {
    /// What it does, for the list of workers.
    pub name: &'static str,
    /// What it waits behind.
    pub priority: Priority,
    work: Box<dyn FnOnce() -> JobOutcome + Send>,
}

impl BackgroundJob {
    /// Does the work. Blocks.
    #[must_use]
    pub fn run(self) -> JobOutcome {
        (self.work)()
    }
}

/// What became of a job.
pub struct JobOutcome(Done);

/// The outcomes there are.
pub(super) enum Done {
    Segment { id: u32, bytes: u64, created: Result<Arc<dyn DiskFile>, DiskError> },
    SegmentGone(Result<(), DiskError>),
    Volume(Result<(), DiskError>),
    Space(Result<Space, DiskError>),
    Stored(Stored),
    IndexOpened,
    Rebuilt,
    Sparse(u32, Result<Vec<Found>, DiskError>),
    Evacuated(Step),
    Verified(Verified),
    Scrubbed(scrub::Step),
    Named(Result<Vec<(Bytes, OperationId)>, BaseError>),
}

/// A job that does `work`.
pub(super) fn job(
    name: &'static str,
    work: impl FnOnce() -> Done + Send + 'static,
) -> BackgroundJob {
    job_behind(Priority::Heal, name, work)
}

/// As [`job`], of another priority.
pub(super) fn job_behind(
    priority: Priority,
    name: &'static str,
    work: impl FnOnce() -> Done + Send + 'static,
) -> BackgroundJob {
    BackgroundJob { name, priority, work: Box::new(move || JobOutcome(work())) }
}

/// How often space is asked for.
const SPACE_MICROS: u64 = 1_000_000;

impl Drive {
    /// To be called some times a second: ends leases, forgets what is old, and names work to be done
    /// on I/O threads. Call [`Self::take_batch`] afterwards.
    pub fn tick(&mut self) -> Vec<BackgroundJob> {
        self.volatile.forget(self.now());
        self.expire_pins();
        self.uploads.expire(self.clock.monotonic_micros());
        self.expire_waiting();
        let mut jobs: Vec<_> = self.space_job().into_iter().collect();
        if self.gate.fenced().is_none() {
            self.record_rot();
            self.recount_some();
            self.recycle_segments();
            self.erase_some();
            self.log.append_idle(self.clock.monotonic_micros());
            jobs.extend(self.state_jobs());
            self.share_space();
            jobs.extend(self.segment_job());
            jobs.extend(self.segment_back_job());
            jobs.extend(self.volume_job());
            jobs.extend(self.evacuation_job());
            jobs.extend(self.compaction_job());
            jobs.extend(self.verify_jobs());
            jobs.extend(self.scrub_jobs());
        }
        jobs
    }

    /// Takes note of what a job did.
    pub fn job_done(&mut self, outcome: JobOutcome) {
        match outcome.0 {
            Done::Segment { id, bytes, created } => {
                self.jobs.segment_coming = false;
                let file = self.noted(created);
                self.jobs.segment_refused = file.is_none();
                if let Some(file) = file {
                    self.space.free_bytes = self.space.free_bytes.saturating_sub(bytes);
                    self.log.add_segment(id, file, bytes);
                }
                self.room_may_be();
            }
            Done::SegmentGone(removed) => {
                self.jobs.segment_coming = false;
                if self.noted(removed).is_some() {
                    self.space.free_bytes += self.options.segment_bytes;
                    self.given_back.segments += 1;
                }
                self.room_may_be();
            }
            Done::Volume(created) => {
                self.jobs.volume_coming = false;
                if self.noted(created).is_none() {
                    self.jobs.volume_after = self.clock.monotonic_micros() + SPACE_MICROS;
                }
            }
            Done::Space(space) => {
                self.jobs.space_coming = false;
                // What was known stands: a device that cannot tell fails its writes, too.
                self.space = space.unwrap_or(self.space);
            }
            Done::Stored(stored) => self.stored(stored),
            Done::IndexOpened => self.index_opened(),
            Done::Rebuilt => self.index_rebuilt(),
            Done::Sparse(segment, found) => self.compact(segment, found),
            Done::Evacuated(step) => self.evacuated(step),
            Done::Verified(verified) => self.verified(verified),
            Done::Scrubbed(step) => self.scrubbed(step),
            Done::Named(found) => self.culprits_found(found),
        }
    }

    /// A full disk is no fault of the drive, and a process without descriptors none of its device; any
    /// other failed write or sync fences it.
    pub(super) fn noted<T>(&self, result: Result<T, DiskError>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                tracing::warn!(drive = %self.id(), %error, "background job failed");
                if !matches!(error.kind, DiskErrorKind::Full | DiskErrorKind::Exhausted) {
                    self.gate.fence(&error.to_string());
                }
                None
            }
        }
    }

    /// Asks for the file system's space. Not here: on a hung device even that hangs, and the thread
    /// of a tick serves other drives, too (INV-ACTOR-1).
    fn space_job(&mut self) -> Option<BackgroundJob> {
        let now = self.clock.monotonic_micros();
        let is_due = now.saturating_sub(self.jobs.space_asked_at) >= SPACE_MICROS;
        if self.jobs.space_coming || !is_due {
            return None;
        }
        self.jobs.space_coming = true;
        self.jobs.space_asked_at = now;
        let disk = self.disk.clone();
        Some(job("ask for space", move || Done::Space(disk.space())))
    }

    fn segment_job(&mut self) -> Option<BackgroundJob> {
        let enough = self.log.free_segments() >= self.options.segments_spare.max(1);
        if self.jobs.segment_coming || enough {
            return None;
        }
        self.jobs.segment_coming = true;
        let (disk, id, bytes) =
            (self.disk.clone(), self.next_segment(), self.options.segment_bytes);
        Some(job("write log segment", move || {
            let created = create_segment(&*disk, id, bytes);
            Done::Segment { id, bytes, created }
        }))
    }

    fn next_segment(&self) -> u32 {
        self.log.segments().keys().next_back().map_or(1, |last| last + 1)
    }

    /// What the log needs at once, not only with the next tick: a fast writer fills a segment in
    /// less time than lies between two ticks. On a full disk a tick is soon enough.
    pub fn log_jobs(&mut self) -> Option<BackgroundJob> {
        let wanted = self.gate.fenced().is_none() && !self.jobs.segment_refused;
        if wanted { self.segment_job() } else { None }
    }

    /// Why a record has nowhere to go: who asked waits for the segment that is being written, unless
    /// that is vain.
    pub(super) fn no_room(&self, record: &Record) -> Stop {
        let bytes = record.encoded_bytes() as u64 + BLOCK_U64;
        if bytes > self.options.segment_bytes {
            let message = "the record is longer than a log segment";
            return Stop::Failed(ErrorClass::Invalid, message.to_owned());
        }
        if self.jobs.segment_refused {
            let message =
                "no room for another log segment (the node's log says why); delete, or add drives";
            return Stop::Failed(ErrorClass::Full, message.to_owned());
        }
        Stop::NoRoom
    }

    /// Adds a segment while the drive is opened, when none is free. Blocks.
    pub(super) fn add_segment_now(&mut self) -> Result<(), DiskError> {
        let (id, bytes) = (self.next_segment(), self.options.segment_bytes);
        let file = create_segment(&*self.disk, id, bytes)?;
        self.log.add_segment(id, file, bytes);
        Ok(())
    }
}

impl Jobs {
    /// Whether the device had no room for the last segment.
    pub const fn segment_refused(&self) -> bool {
        self.segment_refused
    }
}
