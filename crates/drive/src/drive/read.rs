//! Prepare, Read, Scan, and the shards they name.

use std::sync::Arc;

use bytes::Bytes;
use holdfast_erasure::Salt;
use holdfast_register::{KeyState, KeyView, decide::remembers_since, decide_prepare};
use holdfast_types::{
    Ballot, ErrorClass, Geometry, HybridTime, OperationId, RegisterKey, ShardIndex, VersionId,
    codec::Reader, limits,
};

use crate::{
    api::{DriveReply, Gap, InlineShard, Prepare, Read, Scan, ScanPage, ScannedKey, ShardRead},
    disk::DiskFile,
    gate::{Completion, Gate},
    log::record::Record,
    overlay::{BaseError, prefix_end},
    table::KeyFound,
    value::{Place, PlaceRecord, Value},
    volume::read::{ShardReader, Source},
};

use super::{Drive, ShardDone, Stop, verify::Suspect};

/// Keys of the longest scan page.
const SCAN_KEYS_MAX: u32 = 4096;

/// How far the promise ceiling leads the clock: half the skew bound, so that after a restart writers
/// with good clocks get above it within their retries.
const CEILING_LEAD_MICROS: u64 = limits::CLOCK_SKEW_MICROS_MAX / 2;

/// Bytes of a version at the end of a register's key.
const VERSION_BYTES: usize = 16;

/// What a decision answers with.
pub(super) enum Reply {
    /// This, once what it rests on is durable.
    Whole(DriveReply),
    /// This, at once: it rests on nothing.
    Now(DriveReply),
    /// A view, and the inline shards that go with it.
    View(Box<ViewReply>),
    /// What a look at this shard finds.
    Suspected(Box<Suspect>),
}

/// A view, and where its inline shards are.
pub(super) struct ViewReply {
    view: KeyView,
    ready: Vec<InlineShard>,
    wanted: Vec<WantedShard>,
}

/// A view whose inline shards have to be read from the log first: on an I/O thread.
pub struct ReadJob {
    gate: Arc<Gate>,
    batch: u64,
    view: KeyView,
    inline: Vec<InlineShard>,
    wanted: Vec<WantedShard>,
    done: Completion,
}

/// An inline shard to be read. The batch that holds it is durable.
struct WantedShard {
    reader: ShardReader,
    operation: OperationId,
    shard: ShardIndex,
}

impl ReadJob {
    /// Reads, and answers when what it rests on is durable. A shard that does not verify is left out:
    /// the reader takes it from another drive.
    pub fn run(self) {
        let Self { gate, batch, view, mut inline, wanted, done } = self;
        inline.extend(wanted.iter().filter_map(WantedShard::read));
        gate.answer(batch, done, Ok(DriveReply::View { view, inline }));
    }
}

impl WantedShard {
    fn read(&self) -> Option<InlineShard> {
        let blocks = self.reader.block_count();
        match self.reader.read(0, blocks) {
            Ok(bytes) => Some(InlineShard { operation: self.operation, shard: self.shard, bytes }),
            Err(error) => {
                tracing::warn!(%error, "leave an inline shard out");
                None
            }
        }
    }
}

impl Drive {
    pub(super) fn prepare(&mut self, prepare: &Prepare, gate: &mut u64) -> Result<Reply, Stop> {
        self.admit(&prepare.scope, true, gate)?;
        let key = prepare.key.encode();
        let mut found = self.table.key(&prepare.key)?;
        *gate = (*gate).max(found.gate);
        self.volatile.complete(&key, &mut found.state);
        let drive = self.view();
        decide_prepare(&found.state, &drive, prepare.ballot)?;
        // Looked up before the promise is given: a promise that waits for a shard is none yet.
        let shards = self.inline_shards(&found, prepare.inline, gate)?;
        *gate = (*gate).max(self.raise_ceiling(prepare.ballot)?);
        self.volatile.promise(key, prepare.ballot);
        found.state.promise = prepare.ballot;
        let remembers = remembers_since(&found.state, &drive, prepare.since);
        let counts = self.counts_for(&prepare.key.encode());
        Ok(view_reply(found.state.into_view(drive.floor, counts, remembers), shards))
    }

    /// Makes sure that the ceiling covers a promise; returns the batch that the promise waits for.
    fn raise_ceiling(&mut self, ballot: Ballot) -> Result<u64, Stop> {
        if ballot > self.table.facts.ceiling {
            let lead = self.clock.wall_micros() + CEILING_LEAD_MICROS;
            let time = HybridTime::from_micros(lead).max(ballot.time);
            let ceiling = Ballot::ceiling(ballot.generation, time);
            self.ceiling_gate = self.record(&Record::Ceiling(ceiling), true)?.batch;
        }
        Ok(self.ceiling_gate)
    }

    pub(super) fn read(&mut self, read: &Read, gate: &mut u64) -> Result<Reply, Stop> {
        self.admit(&read.scope, false, gate)?;
        let mut found = self.table.key(&read.key)?;
        *gate = (*gate).max(found.gate);
        let highest = found.state.highest();
        if let Some(version) = read.version {
            found.state.registers.retain(|other, _| *other == version);
        }
        let shards = self.inline_shards(&found, read.inline, gate)?;
        let view =
            found.state.into_view(self.volatile.floor, self.counts_for(&read.key.encode()), false);
        Ok(view_reply(KeyView { highest, ..view }, shards))
    }

    /// Answers with a view: at once when its inline shards are in memory, else by a [`ReadJob`].
    pub(super) fn send_view(&mut self, reply: ViewReply, gate: u64, done: Completion) {
        let ViewReply { view, ready, wanted } = reply;
        if wanted.is_empty() {
            return self.answer(gate, Ok(DriveReply::View { view, inline: ready }), done);
        }
        let gate_of = self.gate.clone();
        let job = ReadJob { gate: gate_of, batch: gate, view, inline: ready, wanted, done };
        self.read_jobs.push(job);
    }

    /// The inline shards of the entries found: those in memory, and readers for the others.
    fn inline_shards(
        &mut self,
        found: &KeyFound,
        asked: bool,
        gate: &mut u64,
    ) -> Result<(Vec<InlineShard>, Vec<WantedShard>), Stop> {
        let registers = found.state.registers.values().flat_map(|register| &register.entries);
        let shapes: Vec<(OperationId, Geometry)> = registers
            .filter(|held| asked && held.entry.geometry.has_data())
            .map(|held| (held.entry.operation, held.entry.geometry))
            .collect();
        let (mut ready, mut wanted) = (Vec::new(), Vec::new());
        for (operation, geometry) in shapes {
            let (record, place_gate) = match self.table.place(operation) {
                Ok(found) => found,
                Err(BaseError::Waits(want)) => return Err(Stop::Waits(want)),
                Err(_) => continue,
            };
            // A rotten inline shard is one rotten block: there is nothing to send.
            if record.rotten || !matches!(record.place, Place::Inline { .. }) {
                continue;
            }
            *gate = (*gate).max(place_gate);
            let shard = record.shard;
            // What is not durable yet may not be written yet: it is still in memory.
            if let Some((_, bytes)) = self.fresh.get(&operation) {
                ready.push(InlineShard { operation, shard, bytes: bytes.clone() });
                continue;
            }
            let Some(reader) = self.reader(operation, &record, geometry) else { continue };
            match reader.try_whole() {
                Some(bytes) => ready.push(InlineShard { operation, shard, bytes }),
                None => wanted.push(WantedShard { reader, operation, shard }),
            }
        }
        Ok((ready, wanted))
    }

    /// Opens a shard; gives `done` back when that has to wait.
    pub(super) fn shard(&mut self, read: &ShardRead, done: ShardDone) -> Option<(ShardDone, Stop)> {
        let mut batch = 0;
        match self.find_shard(read, &mut batch) {
            Err(stop @ (Stop::Waits(_) | Stop::NoRoom)) => return Some((done, stop)),
            opened => {
                let opened = self.named(opened);
                self.gate.when(batch, Box::new(move |durable| done(durable.and(opened))));
            }
        }
        None
    }

    fn find_shard(&mut self, read: &ShardRead, gate: &mut u64) -> Result<ShardReader, Stop> {
        self.admit(&read.scope, false, gate)?;
        let (mut record, place_gate) = self.table.place(read.operation)?;
        *gate = (*gate).max(place_gate);
        if record.place.is_none() {
            record = self.dropped_place(read.operation).unwrap_or_default();
        }
        let there = !record.place.is_none() && record.shard == read.shard;
        let reader = there.then(|| self.reader(read.operation, &record, read.geometry)).flatten();
        reader.ok_or_else(|| {
            let (operation, shard) = (read.operation, read.shard);
            let message = format!("read shard {shard} of operation {operation}: it is not here");
            Stop::Failed(ErrorClass::Damaged, message)
        })
    }

    /// A reader of a place; `None` when there is nothing or the shape has no blocks.
    pub(super) fn reader(
        &mut self,
        operation: OperationId,
        record: &PlaceRecord,
        geometry: Geometry,
    ) -> Option<ShardReader> {
        if geometry.block_bytes <= 16 || geometry.data_shards == 0 {
            return None;
        }
        let source = match &record.place {
            Place::None => return None,
            Place::Inline { segment, offset, len } => Source::Inline {
                file: self.segment_file(*segment)?,
                offset: *offset,
                len: u64::from(*len),
                lease: self.segment_leases.entry(*segment).or_default().clone(),
            },
            place @ Place::Extents { .. } => Source::hold(&self.volumes, place)?,
        };
        let salt = Salt { operation, drive: self.id(), shard: record.shard };
        Some(ShardReader { drive: self.id(), salt, geometry, source })
    }

    fn segment_file(&self, segment: u32) -> Option<Arc<dyn DiskFile>> {
        self.log.segments().get(&segment).map(|segment| segment.file.clone())
    }

    pub(super) fn scan(&mut self, scan: &Scan, gate: &mut u64) -> super::Decision {
        self.admit(&scan.scope, false, gate)?;
        let limit = scan.limit.clamp(1, SCAN_KEYS_MAX) as usize;
        let key =
            |name: Bytes| RegisterKey { space: scan.space, bucket: scan.scope.bucket.id, name };
        let mut start = Bytes::from(key(scan.start.clone()).encode());
        let end = match &scan.end {
            Some(end) => Some(key(end.clone()).encode()),
            // Space and bucket without a name: the prefix of all their keys.
            None => prefix_end(&key(Bytes::new()).encode()[..17]),
        };
        // By a register of each: registers come in order, those of a key together.
        let mut keys: Vec<(Bytes, KeyState)> = Vec::with_capacity(limit + 1);
        let mut gaps = Vec::new();
        loop {
            let page = self.table.layers.scan_counting(&start, end.as_deref(), limit + 1)?;
            *gate = (*gate).max(page.gate);
            if let Some(gap) = &page.gap {
                gaps.push(gap_of_names(scan, gap));
                // Of a key that it cuts some registers are hidden: it is not shown at all.
                keys.retain(|(register, _)| !is_hidden(&gaps, register));
            }
            for (register, value) in page.items {
                let known = keys.last().is_some_and(|(last, _)| key_of(last) == key_of(&register));
                if keys.len() > limit && !known {
                    break;
                }
                if is_hidden(&gaps, &register) {
                    continue;
                }
                add_register(&mut keys, known, register, value);
            }
            // One key more than asked for shows that there is more, and that the last one is whole.
            match page.next {
                Some(next) if keys.len() <= limit => start = next,
                _ => break,
            }
        }
        let more = keys.len() > limit;
        let (floor, counts) = (self.volatile.floor, self.counts());
        let page = keys
            .into_iter()
            .take(limit)
            .map(|(register, state)| scanned(&register, state, (floor, counts), scan.metadata));
        let keys = page.collect::<Result<Vec<_>, Stop>>()?;
        Ok(DriveReply::Page(ScanPage { keys, gaps, more, counts }))
    }
}

/// A register's key without its version.
fn key_of(register: &[u8]) -> &[u8] {
    &register[..register.len().saturating_sub(VERSION_BYTES)]
}

/// Whether the name of a register's key lies in a gap.
fn is_hidden(gaps: &[Gap], register: &[u8]) -> bool {
    let name = || RegisterKey::decode(&mut Reader::new(register)).map(|key| key.name);
    !gaps.is_empty() && name().is_ok_and(|name| gaps.iter().any(|gap| gap.holds(&name)))
}

/// The names that a gap in the registers touches.
fn gap_of_names(scan: &Scan, gap: &Gap) -> Gap {
    let prefix =
        RegisterKey { space: scan.space, bucket: scan.scope.bucket.id, name: Bytes::new() };
    let prefix = &prefix.encode()[..17];
    let name = |register: &[u8]| {
        let inside = register.starts_with(prefix);
        let key = inside.then(|| RegisterKey::decode(&mut Reader::new(register)).ok());
        key.flatten().map(|key| key.name)
    };
    let first = name(&gap.first).unwrap_or_else(|| scan.start.clone());
    // Registers of the name at its end may lie in it, too.
    let last = gap.end.as_ref().and_then(|end| name(end));
    let end = last.map(|last| [&last[..], &[0]].concat().into());
    Gap { first, end: end.or_else(|| scan.end.clone()) }
}

fn view_reply(view: KeyView, shards: (Vec<InlineShard>, Vec<WantedShard>)) -> Reply {
    let (ready, wanted) = shards;
    Reply::View(Box::new(ViewReply { view, ready, wanted }))
}

/// Adds a register to the last key when it is one of it (`known`), else as that of another key.
fn add_register(
    keys: &mut Vec<(Bytes, KeyState)>,
    known: bool,
    register: Bytes,
    value: Arc<Value>,
) {
    let Value::Register(record) = &*value else { return };
    let version = &register[key_of(&register).len()..];
    let Ok(version) = <[u8; VERSION_BYTES]>::try_from(version) else { return };
    let version = VersionId(u128::from_be_bytes(version));
    if !known {
        keys.push((register, KeyState::default()));
    }
    if let Some((_, key)) = keys.last_mut() {
        key.registers.insert(version, record.state.clone());
    }
}

/// One key of a page: part lists are never carried, metadata on demand.
fn scanned(
    register: &[u8],
    mut state: KeyState,
    (floor, counts): (Ballot, bool),
    metadata: bool,
) -> Result<ScannedKey, Stop> {
    let unreadable =
        |e: holdfast_types::codec::CodecError| Stop::Failed(ErrorClass::Damaged, e.to_string());
    let key = RegisterKey::decode(&mut Reader::new(register));
    let name = key.map_err(unreadable)?.name;
    for held in state.registers.values_mut().flat_map(|register| &mut register.entries) {
        held.entry.parts = Vec::new();
        if !metadata {
            held.entry.metadata = Bytes::new();
        }
    }
    Ok(ScannedKey { name, view: state.into_view(floor, counts, false) })
}
