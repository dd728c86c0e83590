//! [`Table`]: the durable state of a drive, and how each record changes it. The same code runs when a
//! request is decided and when the log is replayed (INV-DRIVE-REPLAY).

pub mod census;
mod counts;
mod facts;
mod naming;
pub mod tally;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use bytes::Bytes;
use holdfast_register::{Held, KeyState, ShardStatus};
use holdfast_types::{
    Ballot, BucketId, BucketStamp, Keyspace, OperationId, RegisterKey, ShardIndex, VersionId,
};

use crate::{
    checkpoint::{Checkpoint, DurableFacts, SegmentUse},
    log::record::{NewShard, Record},
    meta_index::Lsn,
    overlay::{Base, BaseError, Found, Layers},
    rot::Contested,
    scrub::Book,
    value::{Note, Place, PlaceRecord, REPAIR_SPACE, RegisterRecord, Value},
    volume::RecordedBlocks,
};
use census::Census;
use tally::Tally;

/// A bucket's stamp and the batch that records it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KnownBucket {
    /// The stamp.
    pub stamp: BucketStamp,
    /// Answers that rest on it wait for this batch.
    pub gate: u64,
}

/// A shard that no entry names any more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dropped {
    /// Whose it was.
    pub operation: OperationId,
    /// What it was, and where it lies.
    pub record: PlaceRecord,
}

/// What is held for a key.
#[derive(Clone, Debug, Default)]
pub struct KeyFound {
    /// Registers; promise and memory are the drive's and volatile.
    pub state: KeyState,
    /// Notes of each register.
    pub notes: BTreeMap<VersionId, Vec<Note>>,
    /// Answers that rest on it wait for this batch.
    pub gate: u64,
}

/// The durable state.
pub struct Table {
    /// Registers, places, chores.
    pub layers: Layers,
    /// Facts of the drive.
    pub facts: DurableFacts,
    /// The membership document last adopted.
    pub membership: Bytes,
    /// The highest ballot accepted for any key.
    pub highest: Ballot,
    /// The bucket table.
    pub buckets: HashMap<BucketId, KnownBucket>,
    /// Blocks of volumes that live places name.
    pub recorded: RecordedBlocks,
    /// Live inline shards, by segment.
    pub segments: BTreeMap<u32, SegmentUse>,
    /// The last batch that dropped a shard of a segment.
    pub dropped_at: HashMap<u32, u64>,
    /// Blocks that seemed taken when replay over rot met their new owner.
    pub contested: Contested,
    /// How the scrub stands.
    pub scrub: Book,
    /// Who names what is being counted,
    pub census: Option<Census>,
    /// and was.
    pub is_named_right: bool,
    /// All that is held is being counted.
    pub tally: Option<Tally>,
    /// The batch as of which all was counted, and is counted right since.
    pub tallied: Option<u64>,
    /// The batch being applied.
    batch: u64,
}

impl Table {
    /// The state above `base`, with nothing in the overlay.
    #[must_use]
    pub fn new(base: Arc<dyn Base>) -> Self {
        Self {
            layers: Layers::new(base),
            facts: DurableFacts::default(),
            membership: Bytes::new(),
            highest: Ballot::ZERO,
            buckets: HashMap::new(),
            recorded: RecordedBlocks::default(),
            segments: BTreeMap::new(),
            dropped_at: HashMap::new(),
            contested: Contested::default(),
            scrub: Book::default(),
            census: None,
            is_named_right: false,
            tally: None,
            tallied: None,
            batch: 0,
        }
    }

    /// The state that a checkpoint describes, above the runs it names.
    #[must_use]
    pub fn restore(checkpoint: &Checkpoint, base: Arc<dyn Base>) -> Self {
        let buckets = checkpoint.buckets.iter();
        let segments = checkpoint.segments.iter();
        let mut table = Self {
            facts: checkpoint.facts,
            membership: checkpoint.membership.clone(),
            highest: checkpoint.runs.iter().map(|run| run.highest).max().unwrap_or_default(),
            buckets: buckets.map(|s| (s.id, KnownBucket { stamp: *s, gate: 0 })).collect(),
            recorded: RecordedBlocks::from_maps(&checkpoint.volumes),
            segments: segments.map(|used| (used.segment, *used)).collect(),
            scrub: checkpoint.scrub.clone(),
            ..Self::new(base)
        };
        // The run whose highest ballot it is may be merged away.
        let rotten = checkpoint.rot.all().iter().map(|range| range.highest).max();
        // So may the runs be that held what is void: the floor is above it.
        table.highest = table.highest.max(rotten.unwrap_or_default());
        table.layers.restore_rot(checkpoint.rot.clone());
        table
    }

    /// All registers of a key.
    ///
    /// # Errors
    /// When the base cannot say.
    pub fn key(&self, key: &RegisterKey) -> Result<KeyFound, BaseError> {
        let page = self.layers.key(&key.encode())?;
        let mut found = KeyFound { gate: page.gate, ..KeyFound::default() };
        for (register, value) in page.items {
            let Some((version, record)) = as_register(&register, &value) else { continue };
            found.state.registers.insert(version, record.state.clone());
            found.notes.insert(version, record.notes.clone());
        }
        Ok(found)
    }

    /// One register.
    ///
    /// # Errors
    /// When the base cannot say.
    pub fn register(&self, register: &[u8]) -> Result<(RegisterRecord, u64), BaseError> {
        let Found { value, gate } = self.layers.get(register)?;
        let record = match value.as_deref() {
            Some(Value::Register(record)) => record.clone(),
            _ => RegisterRecord::default(),
        };
        Ok((record, gate))
    }

    /// Where an operation's shard lies.
    ///
    /// # Errors
    /// When the base cannot say.
    pub fn place(&self, operation: OperationId) -> Result<(PlaceRecord, u64), BaseError> {
        let Found { value, gate } = self.layers.get(&PlaceRecord::key(operation))?;
        let record = match value.as_deref() {
            Some(Value::Place(record)) => record.clone(),
            _ => PlaceRecord::default(),
        };
        Ok((record, gate))
    }

    /// Makes sure that all that [`Self::apply`] looks at for a record is there.
    ///
    /// # Errors
    /// [`BaseError::Waits`] with what has to be brought up; when the base cannot say.
    pub fn ready_for(&self, record: &Record) -> Result<(), BaseError> {
        let gone = |register: &Bytes, apply: &mut dyn FnMut(&mut RegisterRecord) -> Vec<Held>| {
            let (mut record, _) = self.register(register)?;
            let gone = apply(&mut record).into_iter();
            let operations = gone.flat_map(|held| held.entry.data_operations().collect::<Vec<_>>());
            Ok::<Vec<OperationId>, BaseError>(operations.collect())
        };
        let operations = match record {
            Record::Accept { register, held, note, .. } => {
                let mut operations = gone(register, &mut |r| r.accept(held.clone(), *note))?;
                operations.push(held.entry.operation);
                operations.extend(held.entry.data_operations());
                operations
            }
            Record::Settle { register, operation, holders, set_size, drop_below } => {
                gone(register, &mut |r| r.settle(*operation, *holders, *set_size, *drop_below))?
            }
            Record::Purge { register, ballot } => gone(register, &mut |r| r.purge(*ballot))?,
            Record::Erase { register } => gone(register, &mut |r| r.purge(r.highest()))?,
            Record::Move { operation, .. } | Record::References { operation, .. } => {
                vec![*operation]
            }
            Record::Lost { register, operation, .. } => {
                self.register(register)?;
                vec![*operation]
            }
            Record::Named { register } => {
                let (record, _) = self.register(register)?;
                return self.ready_to_name([&record].into_iter());
            }
            Record::Bucket(_)
            | Record::Ceiling(_)
            | Record::Open { .. }
            | Record::Member { .. }
            | Record::Stand { .. }
            | Record::Rot(_)
            | Record::Fill { .. }
            | Record::Filled(_)
            | Record::Healed(_)
            | Record::Recount { .. }
            | Record::Tally(_)
            | Record::Scrub(_) => Vec::new(),
        };
        self.layers.ready(operations.into_iter().map(|o| PlaceRecord::key(o).into()))
    }

    /// Applies a record of `batch`; `inline` is where its inline bytes lie. Returns the shards that
    /// no entry names any more.
    ///
    /// # Errors
    /// When the base cannot say: the state is then behind its log, and the drive must stop.
    pub fn apply(
        &mut self,
        batch: u64,
        record: &Record,
        inline: &Place,
    ) -> Result<Vec<Dropped>, BaseError> {
        self.batch = batch;
        match record {
            Record::Accept { register, held, note, shard } => {
                let place = placed(shard, inline);
                self.accept(batch, register, held, note, place)
            }
            Record::Settle { register, operation, holders, set_size, drop_below } => {
                self.change(register, None, |r| {
                    r.settle(*operation, *holders, *set_size, *drop_below)
                })
            }
            Record::Purge { register, ballot } => {
                self.facts.purge_floor = self.facts.purge_floor.max(*ballot);
                self.change(register, None, |record| record.purge(*ballot))
            }
            Record::Move { operation, old, new } => {
                self.relocate(*operation, old, placed(new, inline))
            }
            Record::Lost { register, operation, place } => {
                if !self.condemn(*operation, place)? {
                    return Ok(Vec::new());
                }
                self.change(register, Some(batch), |record| record.lose(*operation))
            }
            Record::Named { register } => self.name(register),
            Record::References { operation, count } => self.correct(*operation, *count),
            // Unlike a purge it raises no floor: nobody can ask for anything of the bucket any more.
            Record::Erase { register } => {
                self.change(register, None, |record| record.purge(record.highest()))
            }
            fact => {
                self.note(batch, fact);
                Ok(Vec::new())
            }
        }
    }

    fn accept(
        &mut self,
        batch: u64,
        register: &Bytes,
        held: &Held,
        note: &Note,
        place: Place,
    ) -> Result<Vec<Dropped>, BaseError> {
        let operation = held.entry.operation;
        self.highest = self.highest.max(held.entry.ballot);
        let mut dropped = Vec::new();
        if !place.is_none() {
            dropped.extend(self.put_place(batch, operation, note, place)?);
        }
        self.tell_census(register, held.entry.data_operations(), true);
        let counted = self.counts_already(register, held)?;
        for operation in held.entry.data_operations() {
            if !(counted && operation == held.entry.operation) {
                self.refer(operation, 1, note.shard)?;
            }
        }
        let mut gone =
            self.change(register, Some(batch), |record| record.accept(held.clone(), *note))?;
        dropped.append(&mut gone);
        Ok(dropped)
    }

    /// Whether the place of an entry's own bytes counts this register, which rot made the drive forget
    /// (ADR 0019): the bytes of an object that is no part are named by its register alone, so who counts them
    /// is this one.
    fn counts_already(&self, register: &Bytes, held: &Held) -> Result<bool, BaseError> {
        let operation = held.entry.operation;
        let is_object = register.first() == Some(&(Keyspace::Object as u8));
        let refilled = self.layers.rot().voids(register, Lsn(0));
        if !(is_object && refilled && held.entry.geometry.has_data()) {
            return Ok(false);
        }
        let known = self.register(register)?.0.state.of_operation(operation).is_some();
        Ok(!known && self.place(operation)?.0.references > 0)
    }

    /// Notes where a shard lies, unless it is held whole already: then the new copy is dropped. A
    /// rotten one goes now that another stands in for it (INV-ROT-1).
    fn put_place(
        &mut self,
        batch: u64,
        operation: OperationId,
        note: &Note,
        place: Place,
    ) -> Result<Option<Dropped>, BaseError> {
        let (mut record, _) = self.place(operation)?;
        if record.is_whole() {
            let record = PlaceRecord { shard: note.shard, place, ..PlaceRecord::default() };
            return Ok(Some(Dropped { operation, record }));
        }
        let was_absent = record.references == 0;
        let key = PlaceRecord::key(operation).into();
        let was = std::mem::replace(&mut record.place, place);
        let old = PlaceRecord { shard: record.shard, place: was, ..PlaceRecord::default() };
        self.count_place(operation, &old.place, false);
        self.count_new(operation, &record.place);
        record.shard = note.shard;
        record.rotten = false;
        self.layers.put(key, Some(Value::Place(record)), batch, was_absent);
        Ok((!old.place.is_none()).then_some(Dropped { operation, record: old }))
    }

    /// Notes that a shard is rotten where it lies; false when it lies elsewhere by now. Its bytes stay
    /// (INV-ROT-1).
    fn condemn(&mut self, operation: OperationId, place: &Place) -> Result<bool, BaseError> {
        let (mut record, gate) = self.place(operation)?;
        if record.place != *place || record.references == 0 {
            return Ok(false);
        }
        self.scrub.found(!record.rotten);
        record.rotten = true;
        let key = PlaceRecord::key(operation).into();
        self.layers.put(key, Some(Value::Place(record)), gate.max(self.batch), false);
        Ok(true)
    }

    /// Changes a register, its chores and the references of what goes. `gate` is the batch that
    /// answers wait for from now on; a Settle or Purge leaves it as it was.
    fn change(
        &mut self,
        register: &Bytes,
        gate: Option<u64>,
        apply: impl FnOnce(&mut RegisterRecord) -> Vec<Held>,
    ) -> Result<Vec<Dropped>, BaseError> {
        let (mut record, known_gate) = self.register(register)?;
        let chores_before = record.chores(register);
        let was_held = !record.notes.is_empty();
        let gone = apply(&mut record);
        let chores_after = record.chores(register);
        let is_held = !record.notes.is_empty();
        self.facts.registers += u64::from(is_held);
        self.facts.registers -= u64::from(was_held);
        if let Some(tally) = &mut self.tally {
            tally.register(register, was_held, is_held);
        }
        let value = is_held.then_some(Value::Register(record));
        self.layers.put(register.clone(), value, gate.unwrap_or(known_gate), !was_held);
        self.change_chores(&chores_before, &chores_after);
        let mut dropped = Vec::new();
        for held in gone {
            self.tell_census(register, held.entry.data_operations(), false);
            for operation in held.entry.data_operations() {
                dropped.extend(self.refer(operation, -1, ShardIndex(0))?);
            }
        }
        Ok(dropped)
    }

    fn change_chores(&mut self, before: &[Vec<u8>], after: &[Vec<u8>]) {
        for key in before.iter().filter(|key| !after.contains(key)) {
            self.facts.repairs -= u64::from(key[0] == REPAIR_SPACE);
            self.count_chore(key, false);
            self.layers.put(Bytes::copy_from_slice(key), None, 0, false);
        }
        for key in after.iter().filter(|key| !before.contains(key)) {
            self.facts.repairs += u64::from(key[0] == REPAIR_SPACE);
            self.count_chore(key, true);
            self.layers.put(Bytes::copy_from_slice(key), Some(Value::Chore), 0, true);
        }
    }

    fn count_chore(&mut self, key: &[u8], comes: bool) {
        if let Some(tally) = &mut self.tally {
            tally.chore(key, comes);
        }
    }

    /// Counts one more or one less entry that names an operation (INV-PLACE-1). `shard` is the one
    /// that the drive should hold, should its bytes come later.
    fn refer(
        &mut self,
        operation: OperationId,
        by: i64,
        shard: ShardIndex,
    ) -> Result<Option<Dropped>, BaseError> {
        let (mut record, gate) = self.place(operation)?;
        let was_absent = record.references == 0 && record.place.is_none();
        if was_absent {
            record.shard = shard;
        }
        record.references = record.references.saturating_add_signed(by);
        let key: Bytes = PlaceRecord::key(operation).into();
        if record.references > 0 {
            self.layers.put(key, Some(Value::Place(record)), gate, was_absent);
            return Ok(None);
        }
        if self.layers.is_hidden(&key) {
            // More entries may name it than are known of: nothing of it is given back (ADR 0017).
            return Ok(None);
        }
        self.layers.put(key, None, gate, was_absent);
        self.count_place(operation, &record.place, false);
        Ok((!record.place.is_none()).then_some(Dropped { operation, record }))
    }

    /// A shard, whole, lies elsewhere now; applies only where the old place still stands.
    fn relocate(
        &mut self,
        operation: OperationId,
        old: &Place,
        new: Place,
    ) -> Result<Vec<Dropped>, BaseError> {
        let (mut record, gate) = self.place(operation)?;
        // The bytes can be read at the new place once the batch that carries them is written, or names
        // them at all. From volume to volume they are at both places: nothing waits for such a Move.
        let copied = matches!(old, Place::Extents { .. }) && matches!(new, Place::Extents { .. });
        let gate = if copied && !record.rotten { gate } else { gate.max(self.batch) };
        if record.place != *old || record.references == 0 {
            let record = PlaceRecord { shard: record.shard, place: new, ..PlaceRecord::default() };
            let lost = (!record.place.is_none()).then_some(Dropped { operation, record });
            return Ok(lost.into_iter().collect());
        }
        self.count_place(operation, old, false);
        self.count_new(operation, &new);
        let was = PlaceRecord { shard: record.shard, place: old.clone(), ..PlaceRecord::default() };
        record.place = new;
        record.rotten = false;
        let key = PlaceRecord::key(operation).into();
        self.layers.put(key, Some(Value::Place(record)), gate, false);
        Ok((!old.is_none()).then_some(Dropped { operation, record: was }).into_iter().collect())
    }
}

/// A register's version and record.
fn as_register<'a>(key: &[u8], value: &'a Value) -> Option<(VersionId, &'a RegisterRecord)> {
    let Value::Register(record) = value else { return None };
    let version: [u8; 16] = key.get(key.len().checked_sub(16)?..)?.try_into().ok()?;
    Some((VersionId(u128::from_be_bytes(version)), record))
}

/// Where a record's shard lies.
fn placed(shard: &NewShard, inline: &Place) -> Place {
    match shard {
        NewShard::None => Place::None,
        NewShard::Inline(_) => inline.clone(),
        NewShard::At(place) => place.clone(),
    }
}

/// The status of a shard that may be needed and may be there.
#[must_use]
pub const fn status(needed: bool, there: bool) -> ShardStatus {
    match (needed, there) {
        (false, _) => ShardStatus::NoData,
        (true, true) => ShardStatus::Present,
        (true, false) => ShardStatus::Missing,
    }
}
