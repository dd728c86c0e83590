//! Shards under suspicion: a reader could not read them. The drive takes nobody's word. It reads the
//! shard itself, on an I/O thread, and records it as missing only when it does not verify: from then on
//! it does not count as a holder, and the healer restores its shard from the others.
//!
//! ```text
//! Verify -> queued -> tick: job reads every block --right--> Accepted(Present)
//!                                                 --rotten-> Lost logged -> Accepted(Missing)
//!                                                            (status Missing, repair record)
//! ```
//!
//! INV-ROT-1: what is left of a rotten shard stays until another copy of it is durable here: its good
//! blocks may be the last of their stripes.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use holdfast_register::{Held, ShardStatus};
use holdfast_types::{ErrorClass, Geometry, OperationId, RegisterKey};

use crate::{
    api::{DriveReply, Verify},
    gate::Completion,
    log::record::Record,
    value::{PlaceRecord, RegisterRecord},
    volume::read::ShardReader,
};

use super::{
    BackgroundJob, Decision, Drive, Stop,
    jobs::{Done, job},
    read::Reply,
};

/// Shards that wait to be looked at. Who comes when it is full is told so; the next reader tells again.
const SUSPECTS_MAX: usize = 1024;

/// Shards looked at at once: few, for each holds an I/O thread.
const LOOKS_MAX: usize = 2;

/// What is suspected.
#[derive(Default)]
pub(super) struct Suspects {
    queue: VecDeque<OperationId>,
    known: HashMap<OperationId, (Suspect, Vec<Completion>)>,
    running: usize,
}

/// A shard that is to be looked at.
pub(super) struct Suspect {
    operation: OperationId,
    /// The register that names it.
    register: Bytes,
    /// Its shape and where it lies, by the drive's own word.
    geometry: Geometry,
    record: PlaceRecord,
    /// It can be read once this batch is written.
    batch: u64,
}

/// What a look at a shard found.
pub(super) struct Verified {
    operation: OperationId,
    /// What is wrong with it.
    rot: Option<String>,
}

impl Suspects {
    /// Whether a shard waits to be looked at.
    pub(super) fn is_known(&self, operation: OperationId) -> bool {
        self.known.contains_key(&operation)
    }

    /// Whether no more should come.
    pub(super) fn is_full(&self) -> bool {
        self.known.len() >= SUSPECTS_MAX
    }
}

impl Drive {
    /// What is known of a suspected shard: enough to answer, or where to look.
    pub(super) fn verify(&mut self, verify: &Verify, gate: &mut u64) -> Result<Reply, Stop> {
        self.admit(&verify.scope, false, gate)?;
        let operation = verify.operation;
        let register = Bytes::from(verify.key.encode_register(verify.version));
        let (held, register_gate) = self.table.register(&register)?;
        *gate = (*gate).max(register_gate);
        let Some(geometry) = shape_of(&held.state.entries, operation) else {
            return Ok(Reply::Whole(DriveReply::Done));
        };
        let (record, place_gate) = self.table.place(operation)?;
        *gate = (*gate).max(place_gate);
        if !record.is_whole() && held.takes_loss_of_part(operation) {
            // Found while the entry was open, or by way of the part's own register.
            let lost = Record::Lost { register, operation, place: record.place };
            *gate = (*gate).max(self.record(&lost, true)?.batch);
            return Ok(Reply::Whole(DriveReply::Accepted(ShardStatus::Missing)));
        }
        if !record.is_whole() || record.shard != verify.shard {
            return Ok(Reply::Whole(DriveReply::Accepted(ShardStatus::Missing)));
        }
        if self.suspects.is_full() {
            let message = "verify: too many shards wait to be looked at";
            return Err(Stop::Failed(ErrorClass::Overloaded, message.to_owned()));
        }
        let suspect = Suspect { operation, register, geometry, record, batch: *gate };
        Ok(Reply::Suspected(Box::new(suspect)))
    }

    /// A shard that was found rotten on the way, to be looked at as if a reader had complained: `None`
    /// when no entry of these keys names it.
    pub(super) fn suspect(
        &self,
        keys: &[RegisterKey],
        operation: OperationId,
    ) -> Result<Option<Suspect>, Stop> {
        for key in keys {
            let found = self.table.key(key)?;
            for (version, state) in &found.state.registers {
                let register = Bytes::from(key.encode_register(*version));
                if shape_of(&state.entries, operation).is_some() {
                    return self.suspect_at(register, &state.entries, operation, found.gate);
                }
            }
        }
        Ok(None)
    }

    /// As [`Self::suspect`], for the sake of this register.
    pub(super) fn suspect_in(
        &self,
        register: Bytes,
        held: &RegisterRecord,
        operation: OperationId,
    ) -> Result<Option<Suspect>, Stop> {
        let (_, gate) = self.table.register(&register)?;
        self.suspect_at(register, &held.state.entries, operation, gate)
    }

    fn suspect_at(
        &self,
        register: Bytes,
        entries: &[Held],
        operation: OperationId,
        gate: u64,
    ) -> Result<Option<Suspect>, Stop> {
        let Some(geometry) = shape_of(entries, operation) else { return Ok(None) };
        let (record, place_gate) = self.table.place(operation)?;
        let batch = gate.max(place_gate);
        let takes = record.is_whole() && !self.suspects.is_full();
        Ok(takes.then_some(Suspect { operation, register, geometry, record, batch }))
    }

    /// Queues a look; `done` hears what it found.
    pub(super) fn look_at(&mut self, suspect: Suspect, done: Completion) {
        let suspects = &mut self.suspects;
        let (_, waiting) = suspects.known.entry(suspect.operation).or_insert_with(|| {
            suspects.queue.push_back(suspect.operation);
            (suspect, Vec::new())
        });
        waiting.push(done);
    }

    /// Looks at the shards that wait, a few at a time.
    pub(super) fn verify_jobs(&mut self) -> Vec<BackgroundJob> {
        let mut jobs = Vec::new();
        for _ in 0..self.suspects.queue.len() {
            if self.suspects.running >= LOOKS_MAX {
                break;
            }
            let Some(operation) = self.suspects.queue.pop_front() else { break };
            let (suspect, _) = &self.suspects.known[&operation];
            if suspect.batch > self.gate.durable() {
                self.suspects.queue.push_back(operation);
                continue;
            }
            let (record, geometry) = (suspect.record.clone(), suspect.geometry);
            let key = RegisterKey::decode_register(&suspect.register).ok().map(|(key, _)| key);
            let Some(reader) = self.reader(operation, &record, geometry) else {
                // Moved or dropped since it was queued.
                self.conclude(operation, 0, &Ok(DriveReply::Done));
                continue;
            };
            self.suspects.running += 1;
            jobs.push(job("verify shard", move || {
                let rot = reader.verify_all().err().map(|error| error.to_string());
                if let (None, Some(key)) = (&rot, key) {
                    restore_headers(&reader, &key);
                }
                Done::Verified(Verified { operation, rot })
            }));
        }
        jobs
    }

    /// Takes note of a look: a rotten shard is missing from now on.
    pub(super) fn verified(&mut self, verified: Verified) {
        self.suspects.running -= 1;
        let Verified { operation, rot } = verified;
        let Some(rot) = rot else {
            return self.conclude(operation, 0, &Ok(DriveReply::Accepted(ShardStatus::Present)));
        };
        let Some((suspect, _)) = self.suspects.known.get(&operation) else { return };
        tracing::warn!(drive = %self.id(), %operation, rot, "a shard is rotten: missing from now on");
        let (register, place) = (suspect.register.clone(), suspect.record.place.clone());
        let lost = Record::Lost { register: register.clone(), operation, place };
        self.work(move |drive| {
            // Applies only where the place still stands: what was moved or dropped meanwhile, and its
            // blocks used again, is no rot.
            let forgotten = drive.forget_open(&register, operation);
            match forgotten.and_then(|()| drive.record(&lost, true)) {
                Err(stop @ (Stop::Waits(_) | Stop::NoRoom)) => return Err(stop),
                Err(Stop::Failed(class, message)) => {
                    drive.conclude(operation, 0, &Err((class, message)));
                }
                Err(Stop::Refused(_)) => drive.conclude(operation, 0, &Ok(DriveReply::Done)),
                Ok(appended) => {
                    let missing = Ok(DriveReply::Accepted(ShardStatus::Missing));
                    drive.conclude(operation, appended.batch, &missing);
                }
            }
            Ok(())
        });
    }

    /// An entry that loses its shard before it is settled may be taken for lost by those who judge
    /// (ADR 0003): the drive does not say from memory that it had accepted it (INV-REG-4).
    pub(super) fn forget_open(
        &mut self,
        register: &Bytes,
        operation: OperationId,
    ) -> Result<(), Stop> {
        let (held, _) = self.table.register(register)?;
        let open = held.state.of_operation(operation).is_some_and(|entry| !entry.settled);
        if let (true, Ok((key, _))) = (open, RegisterKey::decode_register(register)) {
            self.volatile.lost(&key.encode(), operation, self.now());
        }
        Ok(())
    }

    /// Tells all who wait for a verdict.
    fn conclude(
        &mut self,
        operation: OperationId,
        gate: u64,
        verdict: &Result<DriveReply, (ErrorClass, String)>,
    ) {
        let Some((_, waiting)) = self.suspects.known.remove(&operation) else { return };
        for done in waiting {
            let decision: Decision =
                verdict.clone().map_err(|(class, message)| Stop::Failed(class, message));
            self.answer(gate, decision, done);
        }
    }
}

/// A shard that is right gets its extents' headers back: without them it cannot be moved, and its volume is
/// never emptied. They are hints, so a device that refuses is told of by its next write that counts.
fn restore_headers(reader: &ShardReader, key: &RegisterKey) {
    match reader.restore_headers(key) {
        Ok(0) => {}
        Ok(count) => {
            tracing::warn!(drive = %reader.drive, count, "rotten headers of extents are written anew");
        }
        Err(error) => {
            tracing::warn!(drive = %reader.drive, %error, "the header of an extent is not written");
        }
    }
}

/// The shape of an operation's bytes, by the drive's own word: of an entry or of a part it names.
fn shape_of(entries: &[Held], operation: OperationId) -> Option<Geometry> {
    let of = |entry: &holdfast_types::Entry| {
        if entry.operation == operation {
            return entry.geometry.has_data().then_some(entry.geometry);
        }
        let part = entry.parts.iter().find(|part| part.operation == operation);
        part.map(|part| part.geometry)
    };
    entries.iter().find_map(|held| of(&held.entry))
}
