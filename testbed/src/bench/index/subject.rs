//! The drive, and what its threads would do.

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use anyhow::{Result, anyhow, bail};
use holdfast_drive::{
    Drive, DriveOptions, Identity,
    api::{DriveReply, DriveRequest, DriveResult},
    disk::Disk,
    disk_real::RealDisk,
    drive::run_jobs,
};
use holdfast_types::{ClusterId, DriveId, SetIndex, seam::Clock};

use super::Kept;
use crate::clock::RealClock;

const CLUSTER: ClusterId = ClusterId(1);

/// Which drive it is.
pub const DRIVE: DriveId = DriveId(0xd1);

/// The options of the product, but for what is measured.
pub fn options(root: &Path, kept: Kept) -> DriveOptions {
    let (index, index_content) = kept.backend(root);
    DriveOptions { index, index_content, ..DriveOptions::default() }
}

/// The device.
pub fn disk(root: &Path) -> Result<Arc<dyn Disk>> {
    Ok(Arc::new(RealDisk::new(root)?))
}

/// A drive that one thread runs.
pub struct Subject {
    drive: Drive,
    clock: Arc<RealClock>,
    /// CPU and runs of each background job by name: called around each of them.
    jobs: Box<dyn FnMut(&'static str, &mut dyn FnMut())>,
}

impl Subject {
    /// Makes the folder a drive.
    pub fn format(root: &Path, kept: Kept) -> Result<()> {
        let clock = RealClock::new();
        let (set, formatted_at) = (Some(SetIndex(0)), clock.wall_micros());
        let identity = Identity { drive: DRIVE, cluster: CLUSTER, set, formatted_at };
        Drive::format(&disk(root)?, &identity, &options(root, kept)).map_err(|e| anyhow!("{e}"))
    }

    /// Opens it.
    pub fn open(root: &Path, kept: Kept) -> Result<Self> {
        let clock = Arc::new(RealClock::new());
        let drive = Drive::open(disk(root)?, options(root, kept), clock.clone())
            .map_err(|e| anyhow!("{e}"))?;
        Ok(Self { drive, clock, jobs: Box::new(|_, job| job()) })
    }

    /// Has `around` called for each background job.
    pub fn watch_jobs(&mut self, around: impl FnMut(&'static str, &mut dyn FnMut()) + 'static) {
        self.jobs = Box::new(around);
    }

    /// The machine's time.
    pub fn wall_micros(&self) -> u64 {
        self.clock.wall_micros()
    }

    /// Hands a request in. The answer comes at once, or with the batch it rests on; whether it waited for
    /// the device.
    pub fn ask(&mut self, request: DriveRequest) -> (Arc<Mutex<Option<DriveResult>>>, bool) {
        let slot = Arc::new(Mutex::new(None));
        let filled = Arc::clone(&slot);
        let done = move |answer| *filled.lock().expect("nobody panics with it") = Some(answer);
        self.drive.handle(request, Box::new(done));
        let waits = self.drive.waiting() > 0;
        self.look_up();
        (slot, waits)
    }

    /// The answer of a request that rests on nothing that is not durable.
    pub fn answer(&mut self, request: DriveRequest) -> Result<(DriveReply, bool)> {
        let (slot, waited) = self.ask(request);
        let answer = slot.lock().expect("nobody panics with it").take();
        match answer {
            Some(Ok(reply)) => Ok((reply, waited)),
            Some(Err(error)) => Err(error.into()),
            None => bail!("the drive gave no answer"),
        }
    }

    /// What a drive's I/O threads do for requests that wait.
    fn look_up(&mut self) {
        while self.drive.waiting() > 0 {
            let loads = self.drive.take_load_jobs();
            let log = self.drive.log_jobs();
            if loads.is_empty() && log.is_none() {
                return;
            }
            for job in loads {
                let outcome = job.run();
                self.drive.loaded(outcome);
            }
            if let Some(job) = log {
                let outcome = job.run();
                self.drive.job_done(outcome);
            }
        }
    }

    /// Writes what waits for the log.
    pub fn flush(&mut self) {
        self.drive.flush();
    }

    /// One tick, and what it asks for.
    pub fn tick(&mut self) {
        for job in self.drive.tick() {
            let (name, mut job, mut outcome) = (job.name, Some(job), None);
            let mut run = || outcome = job.take().map(holdfast_drive::BackgroundJob::run);
            (self.jobs)(name, &mut run);
            if let Some(outcome) = outcome {
                self.drive.job_done(outcome);
            }
        }
        self.drive.flush();
    }

    /// Ticks until nothing is left to do.
    pub fn settle(&mut self) {
        run_jobs(&mut self.drive);
    }

    /// Everything becomes runs, and they are merged as far as they want to be.
    pub fn checkpoint(&mut self) {
        // A batch that is not durable yet would put it off.
        self.drive.flush();
        self.drive.begin_checkpoint();
        self.drive.flush();
        self.settle();
    }

    /// What it says of itself.
    pub fn facts(&self) -> holdfast_drive::api::DriveFacts {
        self.drive.facts()
    }
}
