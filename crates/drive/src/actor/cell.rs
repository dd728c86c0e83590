//! [`DriveCell`]: one drive with its threads, on the thread of its actor.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use actix::Addr;
use holdfast_types::{DriveId, seam::Clock};

use super::{
    BatchWritten, DriveActor, DriveEvent, JobDone, Loaded, Report, gone, log_thread::LogThread,
};
use crate::{
    api::{DriveRequest, ShardRead},
    drive::{BackgroundJob, Drive, JobOutcome, LoadOutcome, ShardDone},
    gate::Completion,
    io_pool::{IoPool, Priority},
    log::writer::BatchOutcome,
    suspect::Meter,
};

/// A drive and what works for it. Sendable: drives are opened and closed where that may block.
pub struct DriveParts {
    /// The drive; `None` after a panic inside it.
    pub drive: Option<Drive>,
    /// Its identity.
    pub id: DriveId,
    /// Its bulk I/O threads.
    pub io: IoPool,
    /// What its threads wait for its device.
    pub meter: Arc<Meter>,
    /// Its log thread.
    log: LogThread,
    /// Whom to tell when it dies.
    report: Report,
}

impl DriveParts {
    /// Starts the threads of an opened drive.
    ///
    /// # Errors
    /// When the system gives no threads.
    pub fn start(
        mut drive: Drive,
        clock: Arc<dyn Clock>,
        io_threads: usize,
        io_depth: usize,
        report: Report,
    ) -> io::Result<Self> {
        let id = drive.identity().drive;
        let io = IoPool::start("hf-io", io_threads, io_depth)?;
        let log = LogThread::start("hf-log")?;
        let meter = Meter::new(clock);
        drive.judged_by(Arc::clone(&meter));
        Ok(Self { drive: Some(drive), id, io, meter, log, report })
    }

    /// Ends the threads and writes what waits for the log. Blocks, for ever on a hung device.
    pub fn close(self) {
        self.io.close_and_join();
        self.log.close_and_join();
        if let Some(drive) = self.drive
            && catch_unwind(AssertUnwindSafe(|| settle(drive))).is_err()
        {
            tracing::error!(drive = %self.id, "the drive panicked while it was closed");
        }
    }
}

/// Writes what waits for the log, Settles too, and a checkpoint, so that the next open has little to
/// replay. Whatever fails here costs nothing but that.
fn settle(mut drive: Drive) {
    drive.flush();
    drive.begin_checkpoint();
    drive.flush();
    for job in drive.tick() {
        if job.name == Drive::CHECKPOINT_JOB {
            let outcome = job.run();
            drive.job_done(outcome);
        }
    }
}

/// The parts at work.
pub struct DriveCell {
    parts: Option<DriveParts>,
    id: DriveId,
    actor: Option<Addr<DriveActor>>,
    batch_out: bool,
}

impl DriveCell {
    pub(super) fn new(parts: DriveParts) -> Self {
        Self { id: parts.id, parts: Some(parts), actor: None, batch_out: false }
    }

    pub(super) fn attach(&mut self, actor: Addr<DriveActor>) {
        self.actor = Some(actor);
    }

    /// Whether the log thread has a batch of this drive.
    pub(super) const fn is_batch_out(&self) -> bool {
        self.batch_out
    }

    /// Hands everything out; the cell answers no more.
    pub(super) fn take_parts(&mut self) -> Option<DriveParts> {
        self.parts.take()
    }

    /// Calls into the drive. A panic ends it: its state in memory may be anything, the truth is on
    /// its device. `None` when there is no drive.
    fn with_drive<T>(&mut self, what: &str, call: impl FnOnce(&mut Drive) -> T) -> Option<T> {
        let parts = self.parts.as_mut()?;
        let drive = parts.drive.as_mut()?;
        let Ok(value) = catch_unwind(AssertUnwindSafe(|| call(drive))) else {
            self.die(&format!("it panicked in {what}"));
            return None;
        };
        Some(value)
    }

    fn die(&mut self, cause: &str) {
        let Some(parts) = self.parts.as_mut() else { return };
        if let Some(drive) = parts.drive.take() {
            tracing::error!(drive = %self.id, cause, "the drive is opened again from disk");
            // Its answers that wait for the log are dropped, which answers them.
            drop(catch_unwind(AssertUnwindSafe(move || drop(drive))));
            (parts.report)(DriveEvent::Died { cause: cause.to_owned() });
        }
    }

    /// Decides a request; [`Self::pump`] follows once for all requests of a message.
    pub(super) fn handle(&mut self, request: DriveRequest, deadline: u64, done: Completion) {
        if self.parts.as_ref().is_none_or(|parts| parts.drive.is_none()) {
            return done(Err(gone(self.id)));
        }
        self.with_drive("a request", |drive| drive.handle_by(request, deadline, done));
    }

    pub(super) fn open_shard(&mut self, read: &ShardRead, done: ShardDone) {
        if self.parts.as_ref().is_none_or(|parts| parts.drive.is_none()) {
            return done(Err(gone(self.id)));
        }
        self.with_drive("opening a shard", |drive| drive.open_shard(read, done));
    }

    /// Sends off what the drive has made ready: its next batch, look-ups and reads that wait for the
    /// device, the next segment.
    pub(super) fn pump(&mut self) {
        self.send_loads();
        self.send_reads();
        if let Some(Some(job)) = self.with_drive("its log", Drive::log_jobs) {
            self.send_job(job);
        }
        if self.batch_out {
            return;
        }
        let Some(Some(job)) = self.with_drive("making a batch", Drive::take_batch) else { return };
        let (Some(parts), Some(actor)) = (&self.parts, &self.actor) else { return };
        let actor = actor.clone();
        self.batch_out = true;
        parts.log.write(
            job,
            parts.meter.begin(),
            Box::new(move |outcome| actor.do_send(BatchWritten(outcome))),
        );
    }

    fn send_loads(&mut self) {
        let Some(loads) = self.with_drive("look-ups", Drive::take_load_jobs) else { return };
        let (Some(parts), Some(actor)) = (&self.parts, &self.actor) else { return };
        let mut refused = Vec::new();
        for load in loads {
            let (number, actor, report) = (load.number(), actor.clone(), parts.report.clone());
            let meter = Arc::clone(&parts.meter);
            let measured = move || {
                let _call = meter.begin();
                load.run()
            };
            let work = move || match catch_unwind(AssertUnwindSafe(measured)) {
                Ok(outcome) => actor.do_send(Loaded(outcome)),
                Err(_) => report(DriveEvent::Died { cause: "a look-up panicked".to_owned() }),
            };
            if parts.io.submit(Priority::Foreground, work).is_err() {
                refused.push(number);
            }
        }
        for number in refused {
            self.with_drive("a refused look-up", |drive| drive.load_refused(number));
        }
    }

    pub(super) fn loaded(&mut self, outcome: LoadOutcome) {
        self.with_drive("a look-up", |drive| drive.loaded(outcome));
    }

    fn send_reads(&mut self) {
        let Some(reads) = self.with_drive("reads", Drive::take_read_jobs) else { return };
        let Some(parts) = &self.parts else { return };
        for read in reads {
            // A refused job is dropped, which answers it.
            let meter = Arc::clone(&parts.meter);
            let work = move || {
                let _call = meter.begin();
                read.run();
            };
            if parts.io.submit(Priority::Foreground, work).is_err() {
                tracing::debug!(drive = %self.id, "a read was refused: too much waits");
            }
        }
    }

    pub(super) fn batch_written(&mut self, outcome: Option<BatchOutcome>) {
        self.batch_out = false;
        match outcome {
            Some(outcome) => {
                self.with_drive("a written batch", |drive| drive.batch_done(outcome));
            }
            None => self.die("its log thread panicked"),
        }
    }

    pub(super) fn job_done(&mut self, outcome: JobOutcome) {
        self.with_drive("a finished job", |drive| drive.job_done(outcome));
    }

    /// Lets the drive look after itself.
    pub(super) fn tick(&mut self) {
        if let Some(jobs) = self.with_drive("its tick", Drive::tick) {
            for job in jobs {
                self.send_job(job);
            }
        }
        self.pump();
    }

    fn send_job(&self, job: BackgroundJob) {
        let (Some(parts), Some(actor)) = (&self.parts, &self.actor) else { return };
        let (actor, report, name) = (actor.clone(), parts.report.clone(), job.name);
        let priority = job.priority;
        let work = move || match catch_unwind(AssertUnwindSafe(|| job.run())) {
            Ok(outcome) => actor.do_send(JobDone(outcome)),
            Err(_) => report(DriveEvent::Died { cause: format!("{name} panicked") }),
        };
        if parts.io.submit(priority, work).is_err() {
            tracing::warn!(drive = %self.id, job = name, "a job was refused");
        }
    }
}
