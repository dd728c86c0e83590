//! Opening a drive, on a thread that may hang with it.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use actix::Message;
use holdfast_types::DriveId;
use parking_lot::Mutex;

use super::{NodeConfig, Seat};
use crate::{
    actor::{DriveParts, Report},
    disk::{Disk, DiskError},
    drive::{Drive, DriveOptions},
    error::DriveFault,
    identity::Identity,
    meta_index::IndexBackend,
};

/// Opens the device of a seat.
pub type DiskFactory = Arc<dyn Fn() -> Result<Arc<dyn Disk>, DiskError> + Send + Sync>;

/// Why a drive does not serve.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpenRefusal {
    /// One line of cause and cure.
    pub reason: String,
    /// What kind of trouble it is.
    pub trouble: Trouble,
}

/// What is the matter with a seat, as far as it decides what may be done about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Trouble {
    /// Nothing, or nothing that a new drive would cure.
    #[default]
    Other,
    /// Nothing is there: a blank drive.
    Blank,
    /// What was there is not what the others were promised: its memory is lost.
    Amnesic,
}

impl OpenRefusal {
    fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), trouble: Trouble::Other }
    }
}

impl From<DriveFault> for OpenRefusal {
    fn from(fault: DriveFault) -> Self {
        let trouble = match &fault {
            DriveFault::Blank { .. } => Trouble::Blank,
            DriveFault::Amnesic { .. } => Trouble::Amnesic,
            _ => Trouble::Other,
        };
        Self { reason: fault.to_string(), trouble }
    }
}

/// News of an opening.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Opened {
    /// The seat.
    pub seat: usize,
    /// Which opening it was.
    pub incarnation: u64,
    /// The drive, or why there is none.
    pub result: Result<DriveParts, OpenRefusal>,
}

/// One opening.
pub(super) struct Opening {
    pub seat: Seat,
    pub at: usize,
    pub claims: Arc<Mutex<HashMap<DriveId, usize>>>,
    pub config: NodeConfig,
    pub report: Report,
}

impl Opening {
    /// Opens the drive. Blocks.
    pub fn run(self) -> Result<DriveParts, OpenRefusal> {
        match catch_unwind(AssertUnwindSafe(|| self.try_run())) {
            Ok(result) => result,
            Err(_) => Err(OpenRefusal::new(format!(
                "open drive {}: it panicked; please report this with the node's log",
                self.seat.path
            ))),
        }
    }

    fn try_run(&self) -> Result<DriveParts, OpenRefusal> {
        let path = &self.seat.path;
        let refuse = |cause: &dyn std::fmt::Display| OpenRefusal::new(cause.to_string());
        let disk = (self.seat.disk)().map_err(|e| {
            refuse(&format_args!("open drive {path}: {e}; is its file system mounted?"))
        })?;
        let mut options = self.options(&*disk);
        // Before anything is written: a drive that is not ours stays as it is.
        if let Some(found) = Identity::load(&*disk)? {
            self.claim(found.drive)?;
            options.opened_before = (self.config.remembered)(found.drive);
        }
        let clock = self.config.clock.clone();
        let drive = Drive::open(disk, options, clock)?;
        let limits = &self.config.limits;
        DriveParts::start(
            drive,
            self.config.clock.clone(),
            limits.io_threads,
            limits.io_depth,
            self.report.clone(),
        )
        .map_err(|e| refuse(&format_args!("open drive {path}: no threads: {e}")))
    }

    /// The options of this drive: its cluster, and sled where there is a file system for it.
    fn options(&self, disk: &dyn Disk) -> DriveOptions {
        let mut options = self.config.options.clone();
        options.cluster = Some(self.config.cluster);
        let sled = disk.local_path().zip(self.config.limits.index_patience);
        if let (IndexBackend::Off, Some((root, patience))) = (&options.index, sled) {
            options.index = IndexBackend::Sled { root: root.to_owned(), patience };
        }
        options
    }

    /// Checks that the drive belongs here and nowhere else on this node.
    fn claim(&self, found: DriveId) -> Result<(), OpenRefusal> {
        let path = &self.seat.path;
        if let Some(expected) = self.seat.expected.filter(|expected| *expected != found) {
            return Err(OpenRefusal::new(format!(
                "open drive {path}: it is drive {found}, but the layout has {expected} here; mount the \
                 right file system, or empty the folder to have it taken in as a new drive"
            )));
        }
        let mut claims = self.claims.lock();
        let holder = *claims.entry(found).or_insert(self.at);
        if holder != self.at {
            let other = &self.config.seats[holder].path;
            return Err(OpenRefusal::new(format!(
                "open drive {path}: it is drive {found}, which {other} is, too; a copy of a drive must \
                 never serve: take one of them out"
            )));
        }
        Ok(())
    }
}

/// Starts a thread that nobody waits for.
pub(super) fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), String> {
    let started = std::thread::Builder::new().name(name.to_owned()).spawn(body);
    started.map(drop).map_err(|error| format!("start a thread: {error}"))
}
