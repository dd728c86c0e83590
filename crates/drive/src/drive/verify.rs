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
use holdfast_register::ShardStatus;
use holdfast_types::{ErrorClass, Geometry, OperationId};

use crate::{
    api::{DriveReply, Verify},
    gate::Completion,
    log::record::Record,
    value::{Place, RegisterRecord},
};

use super::{
    BackgroundJob, Decision, Drive, Stop,
    jobs::{Done, job},
};

/// Shards that wait to be looked at. Who comes when it is full is told so; the next reader tells again.
const SUSPECTS_MAX: usize = 1024;

/// Shards looked at at once: few, for each holds an I/O thread.
const LOOKS_MAX: usize = 2;

/// What is suspected.
#[derive(Default)]
pub(super) struct Suspects {
    queue: VecDeque<OperationId>,
    known: HashMap<OperationId, Suspect>,
    running: usize,
}

/// A shard that is to be looked at, and who waits for the verdict.
struct Suspect {
    register: Bytes,
    geometry: Geometry,
    waiting: Vec<Completion>,
}

/// What a look at a shard found.
pub(super) struct Verified {
    operation: OperationId,
    place: Place,
    /// What is wrong with it.
    rot: Option<String>,
}

impl Drive {
    /// Queues a look at a shard; `done` hears what it found.
    pub(super) fn verify(&mut self, verify: Verify, done: Completion) {
        let mut gate = 0;
        match self.suspicion(&verify, &mut gate) {
            Ok(Suspicion::Settled(reply)) => self.answer(gate, Ok(reply), done),
            Ok(Suspicion::Open(register, geometry)) => {
                let suspects = &mut self.suspects;
                let suspect = suspects.known.entry(verify.operation).or_insert_with(|| {
                    suspects.queue.push_back(verify.operation);
                    Suspect { register, geometry, waiting: Vec::new() }
                });
                suspect.waiting.push(done);
            }
            Err(stop) => self.answer(gate, Err(stop), done),
        }
    }

    fn suspicion(&mut self, verify: &Verify, gate: &mut u64) -> Result<Suspicion, Stop> {
        self.admit(&verify.scope, false, gate)?;
        let register = Bytes::from(verify.key.encode_register(verify.version));
        let (record, register_gate) = self.table.register(&register)?;
        *gate = (*gate).max(register_gate);
        let Some(geometry) = shape_of(&record, verify.operation) else {
            return Ok(Suspicion::Settled(DriveReply::Done));
        };
        let (place, place_gate) = self.table.place(verify.operation)?;
        *gate = (*gate).max(place_gate);
        if !place.is_whole() || place.shard != verify.shard {
            return Ok(Suspicion::Settled(DriveReply::Accepted(ShardStatus::Missing)));
        }
        if self.suspects.known.len() >= SUSPECTS_MAX {
            let message = "verify: too many shards wait to be looked at";
            return Err(Stop::Failed(ErrorClass::Overloaded, message.to_owned()));
        }
        Ok(Suspicion::Open(register, geometry))
    }

    /// Looks at the shards that wait, a few at a time.
    pub(super) fn verify_jobs(&mut self) -> Vec<BackgroundJob> {
        let mut jobs = Vec::new();
        while self.suspects.running < LOOKS_MAX {
            let Some(operation) = self.suspects.queue.pop_front() else { break };
            let geometry = self.suspects.known[&operation].geometry;
            let reader = match self.table.place(operation) {
                Ok((record, _)) if record.is_whole() => {
                    let reader = self.reader(operation, &record, geometry);
                    reader.map(|reader| (reader, record.place))
                }
                _ => None,
            };
            let Some((reader, place)) = reader else {
                // Dropped, or found out by another look, since it was queued.
                self.conclude(operation, 0, &Ok(DriveReply::Done));
                continue;
            };
            self.suspects.running += 1;
            jobs.push(job("verify shard", move || {
                let rot = reader.verify_all().err().map(|error| error.to_string());
                Done::Verified(Verified { operation, place, rot })
            }));
        }
        jobs
    }

    /// Takes note of a look: a rotten shard is missing from now on.
    pub(super) fn verified(&mut self, verified: Verified) {
        self.suspects.running -= 1;
        let Verified { operation, place, rot } = verified;
        let Some(rot) = rot else {
            return self.conclude(operation, 0, &Ok(DriveReply::Accepted(ShardStatus::Present)));
        };
        let Some(suspect) = self.suspects.known.get(&operation) else { return };
        let register = suspect.register.clone();
        tracing::warn!(drive = %self.id(), %operation, rot, "a shard is rotten; it is missing from now on");
        match self.record(&Record::Lost { register, operation, place }, true) {
            Ok(appended) => {
                let missing = Ok(DriveReply::Accepted(ShardStatus::Missing));
                self.conclude(operation, appended.batch, &missing);
            }
            Err(Stop::Failed(class, message)) => {
                self.conclude(operation, 0, &Err((class, message)));
            }
            Err(Stop::Refused(_)) => self.conclude(operation, 0, &Ok(DriveReply::Done)),
        }
    }

    /// Tells all who wait for a verdict.
    fn conclude(
        &mut self,
        operation: OperationId,
        gate: u64,
        verdict: &Result<DriveReply, (ErrorClass, String)>,
    ) {
        let Some(suspect) = self.suspects.known.remove(&operation) else { return };
        for done in suspect.waiting {
            let decision: Decision =
                verdict.clone().map_err(|(class, message)| Stop::Failed(class, message));
            self.answer(gate, decision, done);
        }
    }
}

/// What is known of a suspicion before any byte is read.
enum Suspicion {
    /// Nothing is left to find out.
    Settled(DriveReply),
    /// To be looked at: the register that names the shard, and the shard's shape.
    Open(Bytes, Geometry),
}

/// The shape of an operation's bytes, by the drive's own word: of an entry or of a part it names.
fn shape_of(record: &RegisterRecord, operation: OperationId) -> Option<Geometry> {
    let of = |entry: &holdfast_types::Entry| {
        if entry.operation == operation {
            return entry.geometry.has_data().then_some(entry.geometry);
        }
        let part = entry.parts.iter().find(|part| part.operation == operation);
        part.map(|part| part.geometry)
    };
    record.state.entries.iter().find_map(|held| of(&held.entry))
}
