//! Shards are moved out of fragmented volumes, so that whole volumes go back to the file system.
//!
//! ```text
//! tick -> the sparsest volume that the others can do without is closed: nothing is put there any more
//!      -> job: whose is the next extent, by its header -> is it, by the table?
//!      -> job: copy: read, every block verified, written, synced  --rotten--> looked at, recorded as
//!      -> Move logged: applies only where the old place stands                missing (`verify`)
//!      -> when it is durable and nobody reads there, the old blocks are free (INV-VOL-1)
//!      -> nothing taken: the volume goes (`space`)
//! ```
//!
//! A crash leaves the old place, or, from the Move on, the new one; a copy that no Move names is free at
//! the next open (INV-VOL-2). One job of these is out at a time, on an I/O thread, as many bytes a second
//! as the options say. What an extent's header says is a hint: dead extents have headers, too.

use std::{collections::HashMap, sync::Arc};

use holdfast_types::{DriveId, ErrorClass, OperationId, RegisterKey};

use crate::{
    api::{DriveError, UploadHandle},
    disk::{BLOCK, BLOCK_U64, DiskError, DiskFile},
    log::record::{NewShard, Record},
    value::{Extent, Place},
    volume::{extent::ExtentHeader, plan, read::ShardReader, upload::Upload},
};

use super::{
    BackgroundJob, Drive, Stop,
    jobs::{Done, job},
};

/// Bytes read at once.
const COPY_BYTES: usize = 1 << 20;

/// A longer shard stays where it is: no small extent, and to move it would take an I/O thread too long.
const MOVE_BYTES_MAX: u64 = 64 << 20;

/// How long a volume waits for readers, pins and the log before it takes shards again.
const PATIENCE_MICROS: u64 = 120_000_000;

/// Between two looks at a volume that only waits.
const PAUSE_MICROS: u64 = 1_000_000;

/// How long a volume that could not be emptied is left alone.
const BARRED_MICROS: u64 = 3_600_000_000;

/// What is being emptied.
#[derive(Default)]
pub(super) struct Evacuation {
    victim: Option<Victim>,
    /// Volumes that could not be emptied, and until when they are left alone. Bounded by the volumes.
    barred: HashMap<u32, u64>,
    /// The next step is not taken before this time on the monotonic clock.
    not_before: u64,
    /// A copy that is to begin.
    ready: Option<BackgroundJob>,
    /// Held by the step under way, wherever it waits.
    step: Arc<()>,
}

/// The volume that is closed.
struct Victim {
    volume: u32,
    /// Blocks before this one were looked at.
    at: u32,
    /// Something was found that cannot be moved.
    skipped: bool,
    until: u64,
}

/// What a step found out.
pub(super) enum Step {
    /// Whose the first extent of a run is.
    Owner { run: Extent, found: Result<Option<Owner>, DiskError>, token: Arc<()> },
    /// What became of a copy.
    Copied { shard: Shard, copied: Result<UploadHandle, DriveError>, token: Arc<()> },
}

/// The header of an extent, and where it is.
#[derive(Clone)]
pub(super) struct Owner {
    block: u32,
    header: ExtentHeader,
}

/// A shard to be moved.
#[derive(Clone)]
pub(super) struct Shard {
    operation: OperationId,
    key: RegisterKey,
    place: Place,
}

impl Drive {
    /// The next step, if it is time.
    pub(super) fn evacuation_job(&mut self) -> Option<BackgroundJob> {
        if let Some(ready) = self.evacuation.ready.take() {
            return Some(ready);
        }
        let now = self.clock.monotonic_micros();
        let busy = Arc::strong_count(&self.evacuation.step) > 1;
        let off = self.options.move_bytes_per_second == 0;
        if busy || off || now < self.evacuation.not_before {
            return None;
        }
        let volume = self.victim(now)?;
        let victim = self.evacuation.victim.as_mut()?;
        let Some(run) = self.table.recorded.next_run(volume, victim.at) else {
            // What is still taken waits for the log, for readers, for pins; or it cannot be moved.
            victim.at = 0;
            if victim.skipped || now >= victim.until {
                self.bar_victim();
            }
            self.evacuation.not_before = now + PAUSE_MICROS;
            return None;
        };
        let file = self.noted(self.volumes.file(volume))?;
        let (token, drive) = (self.evacuation.step.clone(), self.id());
        Some(job("find the owner of an extent", move || {
            let found = first_header(&*file, drive, run);
            Done::Evacuated(Step::Owner { run, found, token })
        }))
    }

    /// The volume that is being emptied, or the one to begin with.
    fn victim(&mut self, now: u64) -> Option<u32> {
        let fills = self.volumes.fills();
        if let Some(volume) = self.evacuation.victim.as_ref().map(|victim| victim.volume) {
            let fill = fills.iter().find(|fill| fill.volume == volume);
            match fill {
                Some(fill) if fill.closed && fill.taken > 0 => return Some(volume),
                // Its room was needed after all.
                Some(fill) if !fill.closed => self.bar_victim(),
                _ => self.evacuation.victim = None,
            }
            return None;
        }
        self.evacuation.barred.retain(|_, until| now < *until);
        let barred = |volume| self.evacuation.barred.contains_key(&volume);
        let volume = plan::victim(&fills, self.is_tight(), barred)?;
        self.volumes.close(volume);
        let until = now + PATIENCE_MICROS;
        self.evacuation.victim = Some(Victim { volume, at: 0, skipped: false, until });
        Some(volume)
    }

    /// The victim takes shards again, and is left alone for a while.
    fn bar_victim(&mut self) {
        let Some(victim) = self.evacuation.victim.take() else { return };
        let until = self.clock.monotonic_micros() + BARRED_MICROS;
        self.evacuation.barred.insert(victim.volume, until);
        self.volumes.open_closed();
    }

    /// Goes on behind `block`; what is passed over unmoved keeps the volume.
    fn pass(&mut self, block: u32, skipped: bool) {
        if let Some(victim) = &mut self.evacuation.victim {
            victim.at = block;
            victim.skipped |= skipped;
        }
    }

    /// Takes the next step.
    pub(super) fn evacuated(&mut self, step: Step) {
        match step {
            Step::Owner { run, found, token } => match found {
                Ok(Some(owner)) => self.work(move |drive| {
                    let _step = &token;
                    drive.begin_move(run, &owner)
                }),
                // Nothing tells whose the run is: a rotten header, or a device that cannot be read.
                Ok(None) | Err(_) => self.pass(run.block + run.blocks, true),
            },
            Step::Copied { shard, copied, token } => match copied {
                Ok(handle) => self.work(move |drive| {
                    let _step = &token;
                    drive.end_move(&shard, handle)
                }),
                Err(error) if error.class() == ErrorClass::Damaged => self.work(move |drive| {
                    let _step = &token;
                    drive.rotten_on_the_way(&shard)
                }),
                Err(error) => {
                    tracing::info!(drive = %self.id(), %error, "a shard stays where it is");
                    self.bar_victim();
                }
            },
        }
    }

    /// Copies the shard that an extent belongs to, if the table says so, too.
    fn begin_move(&mut self, run: Extent, owner: &Owner) -> Result<(), Stop> {
        let Owner { block, header } = owner;
        let operation = header.operation;
        let (record, _) = self.table.place(operation)?;
        let named = |extents: &[Extent]| {
            let here = |extent: &&Extent| extent.volume == run.volume && extent.block == *block;
            extents.iter().find(here).copied()
        };
        let extent = match &record.place {
            Place::Extents { extents, .. } => named(extents),
            _ => None,
        };
        let Some(extent) = extent else {
            // Dropped meanwhile, or bytes that look like a header.
            let still = self.table.recorded.is_taken(run.volume, *block);
            self.pass(block + 1, still);
            return Ok(());
        };
        let end = extent.block + extent.blocks;
        if record.rotten || record.place.len() > MOVE_BYTES_MAX || record.shard != header.shard {
            self.pass(end, true);
            return Ok(());
        }
        let Some(source) = self.reader(operation, &record, header.geometry) else {
            self.pass(end, true);
            return Ok(());
        };
        let len = record.place.len();
        let upload = self.uploads.begin_copy(ExtentHeader { ordinal: 0, ..header.clone() }, len);
        let shard = Shard { operation, key: header.key.clone(), place: record.place };
        let micros = u128::from(len) * 1_000_000 / u128::from(self.options.move_bytes_per_second);
        self.evacuation.not_before =
            self.clock.monotonic_micros() + u64::try_from(micros).unwrap_or(u64::MAX);
        let (token, drive) = (self.evacuation.step.clone(), self.id());
        self.evacuation.ready = Some(job("move shard", move || {
            let copied = copy(&source, len, upload, drive);
            // What was dropped meanwhile is free from here on.
            drop(source);
            Done::Evacuated(Step::Copied { shard, copied, token })
        }));
        Ok(())
    }

    /// Logs the move. It rides the next batch, for both places hold the bytes.
    fn end_move(&mut self, shard: &Shard, handle: UploadHandle) -> Result<(), Stop> {
        let operation = shard.operation;
        let (known, _) = self.table.place(operation)?;
        let Some(uploaded) = self.uploads.find(handle) else { return Ok(()) };
        // A rotten one is the healer's: what was copied of it would pass for whole.
        if known.place != shard.place || known.rotten || known.references == 0 {
            self.uploads.discard(handle);
            return Ok(());
        }
        let new = Place::Extents { len: uploaded.len, extents: uploaded.extents };
        let record = Record::Move { operation, old: shard.place.clone(), new: NewShard::At(new) };
        match self.record(&record, false) {
            Ok(_) => {
                self.uploads.take(handle);
                self.given_back.shards += 1;
                Ok(())
            }
            Err(stop @ (Stop::Waits(_) | Stop::NoRoom)) => Err(stop),
            Err(stop) => {
                self.uploads.discard(handle);
                self.bar_victim();
                Err(stop)
            }
        }
    }

    /// A shard that did not verify is looked at again and recorded as missing; it stays where it is until
    /// another copy is here (INV-ROT-1).
    fn rotten_on_the_way(&mut self, shard: &Shard) -> Result<(), Stop> {
        let mut keys = vec![shard.key.clone()];
        // A part belongs to the object once its upload is complete.
        if let Ok(name) = shard.key.placing_name() {
            keys.push(RegisterKey::object(shard.key.bucket, name));
        }
        let suspect = self.suspect(&keys, shard.operation)?;
        match suspect {
            Some(suspect) => self.look_at(suspect, Box::new(|_| ())),
            None => {
                let operation = shard.operation;
                tracing::warn!(drive = %self.id(), %operation, "a rotten shard is not moved");
            }
        }
        let volume = self.evacuation.victim.as_ref().map(|victim| victim.volume);
        if let Place::Extents { extents, .. } = &shard.place {
            let here = extents.iter().filter(|extent| Some(extent.volume) == volume);
            let end = here.map(|extent| extent.block + extent.blocks).max();
            self.pass(end.unwrap_or(u32::MAX), true);
        }
        Ok(())
    }
}

/// The first block of a run that reads as a header of this drive.
fn first_header(
    file: &dyn DiskFile,
    drive: DriveId,
    run: Extent,
) -> Result<Option<Owner>, DiskError> {
    let end = u64::from(run.block + run.blocks) * BLOCK_U64;
    let mut at = u64::from(run.block) * BLOCK_U64;
    // Nearly always it is the very first.
    let mut step = BLOCK;
    while at < end {
        let mut bytes = vec![0; step.min((end - at) as usize)];
        file.read_at(at, &mut bytes)?;
        for (n, block) in bytes.chunks_exact(BLOCK).enumerate() {
            if let Ok(header) = ExtentHeader::decode(block)
                && header.drive == drive
            {
                let block = (at / BLOCK_U64) as u32 + n as u32;
                return Ok(Some(Owner { block, header }));
            }
        }
        at += bytes.len() as u64;
        step = COPY_BYTES;
    }
    Ok(None)
}

/// Copies a whole shard: every block is verified before it is written, and all is synced at the end.
fn copy(
    source: &ShardReader,
    len: u64,
    mut upload: Upload,
    drive: DriveId,
) -> Result<UploadHandle, DriveError> {
    let mut at = 0;
    while at < len {
        let mut bytes = vec![0; (len - at).min(COPY_BYTES as u64) as usize];
        let read = source.read_raw(at, &mut bytes);
        read.map_err(|e| DriveError::failed(drive, ErrorClass::Damaged, e.to_string()))?;
        upload.write(&bytes)?;
        at += bytes.len() as u64;
    }
    upload.finish()
}
