//! What is left of the device, and who may have it; what the log and the volumes have too much of goes
//! back to the file system.
//!
//! ```text
//! free bytes of the file system, and those of free segments beyond the spare ones:
//!
//!   ... Puts, volumes | Puts: records, inline shards | deletes, moves, runs, manifests, spare segments |
//!              volume floor                      put floor                                             0
//!
//! put floor    = half of the reserve + what a merge of all runs would write
//! volume floor = the other half + put floor
//! ```
//!
//! INV-SPACE-1. The floors rise with the runs: the last merge, which is what turns deletes into space, has always
//! room. What is known of the device is a second old at most, and segments made since are taken off it.

use holdfast_types::{EntryKind, ErrorClass};

use crate::{
    disk::BLOCK_U64,
    log::segment::{LOG_FOLDER, segment_path},
    volume::plan,
};

use super::{
    BackgroundJob, Drive, Stop,
    jobs::{Done, job},
};

impl Drive {
    /// What volumes leave free.
    fn volume_floor(&self) -> u64 {
        self.put_floor() + self.options.volumes.reserve / 2
    }

    /// What Puts leave free; nothing on a drive without a reserve.
    fn put_floor(&self) -> u64 {
        match self.options.volumes.reserve {
            0 => 0,
            reserve => reserve.div_ceil(2) + self.background.run_bytes(),
        }
    }

    /// Whether Puts would take from what deletes and the log's own work need.
    fn is_full(&self) -> bool {
        let spare = self.options.segments_spare.max(1);
        let beyond = self.log.free_segments().saturating_sub(spare) as u64;
        let free = self.space.free_bytes + beyond * self.options.segment_bytes;
        // The device had no room for a spare segment: those there are belong to the deletes.
        let refused = self.jobs.segment_refused() && self.log.free_segments() < spare;
        free < self.put_floor() || refused
    }

    /// On a full drive only entries that take nothing away from the reserve pass: those without data,
    /// deletes first of all.
    pub(super) fn check_space(&self, kind: EntryKind) -> Result<(), Stop> {
        if kind == EntryKind::Put && self.is_full() {
            let message = "accept: only the drive's reserve is left; delete, or add drives";
            return Err(Stop::Failed(ErrorClass::Full, message.to_owned()));
        }
        Ok(())
    }

    /// Tells the threads that move bytes what they may have.
    pub(super) fn share_space(&mut self) {
        self.volumes.set_limits(self.volume_floor(), self.is_full());
    }

    /// Whether volumes cannot grow any more.
    pub(super) fn is_tight(&self) -> bool {
        self.space.free_bytes < self.volume_floor()
    }

    /// A segment beyond what the log keeps: it is free already, so that a crash on the way leaves it
    /// free (INV-LOG-5). Never while one is made, which might get its number.
    pub(super) fn segment_back_job(&mut self) -> Option<BackgroundJob> {
        let spare = self.options.segments_spare.max(1);
        let keep = if self.is_tight() { spare } else { spare.max(self.options.segments_soft_max) };
        if self.jobs.segment_coming || self.log.free_segments() <= keep {
            return None;
        }
        let id = self.log.take_free()?;
        self.jobs.segment_coming = true;
        let disk = self.disk.clone();
        Some(job("give segment back", move || {
            let removed = disk.remove(&segment_path(id));
            Done::SegmentGone(removed.and_then(|()| disk.sync_dir(LOG_FOLDER)))
        }))
    }

    /// A volume ahead of need, or one that holds nothing back; one of these is out at a time.
    pub(super) fn volume_job(&mut self) -> Option<BackgroundJob> {
        if self.jobs.volume_coming {
            return None;
        }
        let fills = self.volumes.fills();
        let volumes = self.volumes.clone();
        let waits = self.clock.monotonic_micros() < self.jobs.volume_after;
        if plan::wants_more(&fills) && !self.is_tight() && !waits {
            self.jobs.volume_coming = true;
            return Some(job("write volume", move || Done::Volume(volumes.grow())));
        }
        let surplus = plan::surplus(&fills, self.is_tight())?;
        if !self.volumes.take_out(surplus) {
            return None;
        }
        self.jobs.volume_coming = true;
        self.given_back.volumes += 1;
        Some(job("give volume back", move || Done::Volume(volumes.remove_file(surplus))))
    }

    /// What was given back, or moved for it, since the drive was opened.
    #[must_use]
    pub const fn given_back(&self) -> GivenBack {
        self.given_back
    }

    /// Bytes that Puts can still have.
    pub(super) fn puttable_bytes(&self) -> u64 {
        let spare = self.space.free_bytes.saturating_sub(self.volume_floor());
        spare + self.volumes.free_blocks() * BLOCK_U64
    }
}

/// What was given back to the file system, or moved for it, since the drive was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct GivenBack {
    /// Log segments removed.
    pub segments: u64,
    /// Volumes removed.
    pub volumes: u64,
    /// Shards moved out of fragmented volumes.
    pub shards: u64,
}
