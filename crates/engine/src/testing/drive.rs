//! A drive in memory: the register rules of `holdfast-register` over ordered maps.

mod chores;
mod holes;
mod members;
mod rot;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use holdfast_drive::api::{
    Accept, DriveError, DriveFacts, DriveReply, DriveRequest, DriveResult, Guard, InlineShard,
    Install, Pin, Prepare, Purge, Read, Scope, Settle, ShardRead, ShardSource, Standing,
    UploadHandle, UploadTarget,
};
use holdfast_register::{
    AcceptVerdict, DriveView, Held, HolderMask, KeyState, KeyView, Refusal, RegisterState,
    Remembered, SettleVerdict, ShardStatus, decide,
};
use holdfast_types::{
    Ballot, BucketId, BucketPhase, BucketStamp, DriveId, DriveState, Entry, ErrorClass, HybridTime,
    OperationId, Quorum, RegisterKey, SetEpoch, ShardIndex, VersionId, limits,
};

/// A shard on the drive.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) shard: ShardIndex,
    pub(super) bytes: Bytes,
    inline: bool,
}

/// What one drive holds.
#[derive(Debug)]
pub struct MemoryDrive {
    id: DriveId,
    path: String,
    quorum: Quorum,
    // ---- durable ----
    keys: BTreeMap<RegisterKey, KeyState>,
    shards: HashMap<OperationId, Stored>,
    /// Shards found rotten or gone, and which they are: what is left of them stays, and does not count.
    rotten: HashMap<OperationId, ShardIndex>,
    accepted_at: HashMap<(OperationId, VersionId), u64>,
    buckets: HashMap<BucketId, BucketStamp>,
    purge_floor: Ballot,
    set_epoch: SetEpoch,
    membership: Bytes,
    standing: Standing,
    floor: Ballot,
    ceiling: Ballot,
    /// What rot hides.
    holes: Vec<holes::Hole>,
    open: u64,
    // ---- volatile ----
    memory_since: HybridTime,
    uploads: HashMap<u64, (OperationId, Stored)>,
    next_upload: u64,
    pins: HashMap<OperationId, BTreeSet<OperationId>>,
    // ---- faults ----
    pub(super) refuse_writes: Option<Refusal>,
    pub(super) counts: bool,
    pub(super) full: bool,
    pub(super) scrubbed: holdfast_drive::scrub::Book,
    /// Accepts done, for tests that count them.
    pub accepts: u64,
}

impl MemoryDrive {
    pub(super) fn new(id: DriveId, path: String, set_size: u8, set_epoch: SetEpoch) -> Self {
        Self {
            id,
            path,
            quorum: Quorum::of(set_size),
            keys: BTreeMap::new(),
            shards: HashMap::new(),
            rotten: HashMap::new(),
            accepted_at: HashMap::new(),
            buckets: HashMap::new(),
            purge_floor: Ballot::ZERO,
            set_epoch,
            membership: Bytes::new(),
            standing: Standing::Counting,
            floor: Ballot::ZERO,
            ceiling: Ballot::ZERO,
            holes: Vec::new(),
            open: 1,
            memory_since: HybridTime(0),
            uploads: HashMap::new(),
            next_upload: 1,
            pins: HashMap::new(),
            refuse_writes: None,
            counts: true,
            full: false,
            scrubbed: holdfast_drive::scrub::Book::default(),
            accepts: 0,
        }
    }

    /// Its identity.
    #[must_use]
    pub const fn id(&self) -> DriveId {
        self.id
    }

    /// What it holds for a key.
    #[must_use]
    pub fn state(&self, key: &RegisterKey) -> KeyState {
        self.keys.get(key).cloned().unwrap_or_default()
    }

    /// Keys held.
    #[must_use]
    pub fn key_count(&self) -> usize {
        self.keys.len()
    }

    /// Registers held of a bucket, in whatever keyspace.
    #[must_use]
    pub fn registers_of(&self, bucket: BucketId) -> usize {
        let of = self.keys.iter().filter(|(key, _)| key.bucket == bucket);
        of.map(|(_, state)| state.registers.len()).sum()
    }

    /// Operations whose shard is here.
    #[must_use]
    pub fn shard_count(&self) -> usize {
        self.shards.len()
    }

    /// Whether the operation's shard is here.
    #[must_use]
    pub fn has_shard(&self, operation: OperationId) -> bool {
        self.shards.contains_key(&operation)
    }

    /// Leases held on an operation.
    #[must_use]
    pub fn pin_count(&self) -> usize {
        self.pins.values().map(BTreeSet::len).sum()
    }

    /// Loses what is volatile, as a process that is killed does.
    pub fn restart(&mut self, now: HybridTime) {
        for state in self.keys.values_mut() {
            state.promise = Ballot::ZERO;
            state.memory.clear();
            state.forgot = HybridTime(0);
        }
        self.keys.retain(|_, state| !state.is_blank());
        self.uploads.clear();
        self.pins.clear();
        self.open += 1;
        self.memory_since = now;
        self.floor = self.floor.max(self.ceiling);
    }

    fn view(&self, now: HybridTime) -> DriveView {
        DriveView {
            now,
            floor: self.floor,
            purge_floor: self.purge_floor,
            set_epoch: self.set_epoch,
            memory_since: self.memory_since,
        }
    }

    fn refused(&self, refusal: Refusal) -> DriveError {
        DriveError::Refused { drive: self.id, refusal }
    }

    /// Carries out one command.
    pub(super) fn handle(&mut self, now: HybridTime, request: DriveRequest) -> DriveResult {
        self.check_joined(&request)?;
        self.check_shown(&request)?;
        match request {
            DriveRequest::Accept(accept) => self.accept(now, accept),
            DriveRequest::Install(install) => self.install(now, install),
            DriveRequest::Prepare(prepare) => self.prepare(now, prepare),
            DriveRequest::Read(read) => self.read(now, read),
            DriveRequest::Settle(settle) => self.settle(now, settle),
            DriveRequest::Purge(purge) => self.purge(now, purge),
            DriveRequest::Scan(scan) => self.scan(now, scan),
            DriveRequest::ListChores(list) => Ok(DriveReply::Chores(self.chores(now, &list))),
            DriveRequest::InstallBucket(scope) => {
                self.learn_bucket(scope.bucket);
                Ok(DriveReply::Done)
            }
            DriveRequest::Pin(pin) => {
                self.pin(&pin);
                Ok(DriveReply::Done)
            }
            DriveRequest::Facts => Ok(DriveReply::Facts(self.facts())),
            DriveRequest::Scrub(order) => Ok(DriveReply::Scrub(self.scrub(now, order))),
            DriveRequest::Verify(verify) => self.verify(now, &verify),
            DriveRequest::Member(request) => self.member(now, request),
        }
    }

    fn learn_bucket(&mut self, asked: BucketStamp) {
        let known = self.buckets.get(&asked.id).copied();
        if let Some(newer) = decide::newer_stamp(known, asked) {
            self.buckets.insert(newer.id, newer);
            if newer.phase == BucketPhase::Deleted {
                self.erase(newer.id);
            }
        }
    }

    fn admit(&mut self, now: HybridTime, scope: Scope, write: bool) -> Result<(), DriveError> {
        self.set_epoch = self.set_epoch.max(scope.set_epoch);
        let known = self.buckets.get(&scope.bucket.id).copied();
        let view = self.view(now);
        let admitted = decide::admit(&view, known, scope.bucket, scope.set_epoch, write);
        if scope.set_epoch >= self.set_epoch {
            self.learn_bucket(scope.bucket);
        }
        admitted.map_err(|refusal| self.refused(refusal))?;
        match self.refuse_writes {
            Some(refusal) if write => Err(self.refused(refusal)),
            _ => Ok(()),
        }
    }

    fn check_guard(&self, guard: Option<&Guard>) -> Result<(), DriveError> {
        let Some(guard) = guard else { return Ok(()) };
        let register = self.keys.get(&guard.key).and_then(|k| k.registers.get(&VersionId::NULL));
        let head = register.and_then(RegisterState::head);
        let holds = head.is_some_and(|held| held.entry.metadata.starts_with(&guard.prefix));
        if holds { Ok(()) } else { Err(self.refused(Refusal::UploadNotOpen)) }
    }

    /// The shard a source names, and its status once stored.
    fn shard_from(
        &self,
        entry: &Entry,
        shard: ShardIndex,
        source: &ShardSource,
    ) -> Result<(ShardStatus, Option<Stored>), DriveError> {
        if !entry.geometry.has_data() {
            return Ok((ShardStatus::NoData, None));
        }
        match source {
            ShardSource::Inline(bytes) => {
                let stored = Stored { shard, bytes: bytes.clone(), inline: true };
                Ok((ShardStatus::Present, Some(stored)))
            }
            ShardSource::Upload(handle) => {
                let found = self.uploads.get(&handle.upload).filter(|_| handle.open == self.open);
                let found = found.filter(|(operation, _)| *operation == entry.operation);
                let (_, stored) = found.ok_or_else(|| self.refused(Refusal::UploadLost))?;
                Ok((ShardStatus::Present, Some(stored.clone())))
            }
            ShardSource::Held if self.is_whole(entry.operation) => Ok((ShardStatus::Present, None)),
            ShardSource::Held | ShardSource::Missing => Ok((ShardStatus::Missing, None)),
            ShardSource::NoData => {
                let message = "entry has data, its source names none";
                Err(DriveError::failed(self.id, ErrorClass::Invalid, message))
            }
        }
    }

    fn accept(&mut self, now: HybridTime, accept: Accept) -> DriveResult {
        self.admit(now, accept.scope, true)?;
        if self.full {
            return Err(DriveError::failed(self.id, ErrorClass::Full, "no space left"));
        }
        self.check_guard(accept.guard.as_ref())?;
        let (status, stored) = self.shard_from(&accept.entry, accept.shard, &accept.source)?;
        let status = self.with_parts(&accept.key, accept.version, &accept.entry, status);
        if accept.source == ShardSource::Held && status == ShardStatus::Missing {
            return Err(self.refused(Refusal::UploadLost));
        }
        let view = self.view(now);
        let state = self.keys.entry(accept.key.clone()).or_default();
        let verdict = decide::decide_accept(state, &view, accept.version, &accept.entry, status);
        let verdict = verdict.map_err(|refusal| self.refused(refusal))?;
        self.accepts += 1;
        if verdict == AcceptVerdict::Record {
            let horizon =
                HybridTime::from_micros(now.micros().saturating_sub(limits::MEMORY_MICROS));
            let state = self.keys.entry(accept.key.clone()).or_default();
            let Entry { operation, ballot, .. } = accept.entry;
            state.remember(Remembered { operation, ballot, at: now }, horizon);
        }
        let held = Held {
            entry: accept.entry,
            shard: status,
            settled: false,
            holders: HolderMask::default(),
        };
        Ok(self.store(now, &accept.key, accept.version, held, stored, verdict))
    }

    fn install(&mut self, now: HybridTime, install: Install) -> DriveResult {
        self.admit(now, install.scope, false)?;
        let (status, stored) = self.shard_from(&install.entry, install.shard, &install.source)?;
        let status = self.with_parts(&install.key, install.version, &install.entry, status);
        let view = self.view(now);
        let state = self.keys.entry(install.key.clone()).or_default();
        let verdict = decide::decide_install(state, &view, install.version, &install.entry, status);
        let verdict = verdict.map_err(|refusal| self.refused(refusal))?;
        let held =
            Held { entry: install.entry, shard: status, settled: true, holders: install.holders };
        Ok(self.store(now, &install.key, install.version, held, stored, verdict))
    }

    fn store(
        &mut self,
        now: HybridTime,
        key: &RegisterKey,
        version: VersionId,
        held: Held,
        stored: Option<Stored>,
        verdict: AcceptVerdict,
    ) -> DriveReply {
        let operation = held.entry.operation;
        let status = held.shard;
        if verdict != AcceptVerdict::Already {
            if let Some(stored) = stored {
                self.shards.insert(operation, stored);
                self.rotten.remove(&operation);
            }
            self.accepted_at.insert((operation, version), now.micros());
            let state = self.keys.entry(key.clone()).or_default();
            state.apply_accept(version, held);
            return DriveReply::Accepted(status);
        }
        let register = self.keys.get(key).and_then(|state| state.registers.get(&version));
        let known = register.and_then(|r| r.of_operation(operation)).map(|held| held.shard);
        DriveReply::Accepted(known.unwrap_or(status))
    }

    fn prepare(&mut self, now: HybridTime, prepare: Prepare) -> DriveResult {
        self.admit(now, prepare.scope, false)?;
        let view = self.view(now);
        let (floor, counts) = (self.floor, self.counts_for(&prepare.key));
        let state = self.keys.entry(prepare.key.clone()).or_default();
        let remembers = decide::remembers_since(state, &view, prepare.since);
        let decided = decide::decide_prepare(state, &view, prepare.ballot);
        if let Err(refusal) = decided {
            return Err(self.refused(refusal));
        }
        state.promise = state.promise.max(prepare.ballot);
        let answer = state.view(floor, counts, remembers);
        self.ceiling =
            self.ceiling.max(Ballot::ceiling(prepare.ballot.generation, prepare.ballot.time));
        let inline = self.inline_of(&answer, prepare.inline);
        Ok(DriveReply::View { view: answer, inline })
    }

    fn read(&mut self, now: HybridTime, read: Read) -> DriveResult {
        self.admit(now, read.scope, false)?;
        let mut view = self.state(&read.key).view(self.floor, self.counts_for(&read.key), true);
        view.memory.clear();
        if let Some(version) = read.version {
            view.registers.retain(|held, _| *held == version);
        }
        let inline = self.inline_of(&view, read.inline);
        Ok(DriveReply::View { view, inline })
    }

    fn inline_of(&self, view: &KeyView, wanted: bool) -> Vec<InlineShard> {
        let operations =
            view.registers.values().flat_map(|r| &r.entries).map(|h| h.entry.operation);
        let stored = operations.filter_map(|op| self.shards.get(&op).map(|stored| (op, stored)));
        stored
            .filter(|(operation, stored)| {
                wanted && stored.inline && !self.rotten.contains_key(operation)
            })
            .map(|(operation, stored)| InlineShard {
                operation,
                shard: stored.shard,
                bytes: stored.bytes.clone(),
            })
            .collect()
    }

    fn settle(&mut self, now: HybridTime, settle: Settle) -> DriveResult {
        self.admit(now, settle.scope, false)?;
        let Settle { key, version, operation, holders, .. } = settle;
        let Some(state) = self.keys.get_mut(&key) else { return Ok(DriveReply::Done) };
        let verdict = decide::decide_settle(state, self.quorum, version, operation, holders);
        if let SettleVerdict::Mark { drop_below } = verdict {
            let dropped = state.apply_settle(version, operation, holders, drop_below);
            self.free(&dropped);
        }
        Ok(DriveReply::Done)
    }

    fn purge(&mut self, now: HybridTime, purge: Purge) -> DriveResult {
        self.admit(now, purge.scope, false)?;
        let Some(state) = self.keys.get_mut(&purge.key) else { return Ok(DriveReply::Done) };
        let decided = decide::decide_purge(state, purge.version, purge.ballot);
        if decided.map_err(|refusal| DriveError::Refused { drive: self.id, refusal })? {
            let dropped = state.apply_purge(purge.version, purge.ballot);
            if state.is_blank() {
                self.keys.remove(&purge.key);
            }
            self.purge_floor = self.purge_floor.max(purge.ballot);
            self.free(&dropped);
        }
        Ok(DriveReply::Done)
    }

    /// What is left of a deleted bucket goes (INV-BUCKET-4).
    fn erase(&mut self, bucket: BucketId) {
        let of = |key: &RegisterKey| key.bucket == bucket;
        let erased: Vec<KeyState> =
            self.keys.extract_if(.., |key, _| of(key)).map(|(_, state)| state).collect();
        let registers = erased.into_iter().flat_map(|state| state.registers.into_values());
        let dropped: Vec<Held> = registers.flat_map(|register| register.entries).collect();
        self.free(&dropped);
    }

    /// Drops the bytes of operations that no entry names any more and nobody reads.
    fn free(&mut self, dropped: &[Held]) {
        for operation in dropped.iter().flat_map(|held| held.entry.data_operations()) {
            let entries = self.keys.values().flat_map(|k| k.registers.values());
            let mut named =
                entries.flat_map(|r| &r.entries).flat_map(|h| h.entry.data_operations());
            let pinned = self.pins.get(&operation).is_some_and(|leases| !leases.is_empty());
            if !pinned && !named.any(|op| op == operation) {
                self.rotten.remove(&operation);
                self.shards.remove(&operation);
            }
        }
    }

    fn pin(&mut self, pin: &Pin) {
        for operation in &pin.operations {
            let leases = self.pins.entry(*operation).or_default();
            if pin.ttl_micros == 0 {
                leases.remove(&pin.lease);
            } else {
                leases.insert(pin.lease);
            }
        }
        self.pins.retain(|_, leases| !leases.is_empty());
    }

    fn facts(&self) -> DriveFacts {
        DriveFacts {
            drive: self.id,
            path: self.path.clone(),
            state: if self.counts { DriveState::Healthy } else { DriveState::Rebuilding },
            reason: String::new(),
            capacity_bytes: 1 << 40,
            free_bytes: 1 << 39,
            used_bytes: self.shards.values().map(|s| s.bytes.len() as u64).sum(),
            registers: self.keys.values().map(|k| k.registers.len() as u64).sum(),
            repairs: 0,
            open_count: self.open,
            syncs: self.accepts,
            index_faults: 0,
        }
    }

    /// Takes a finished upload in.
    pub(super) fn uploaded(
        &mut self,
        target: &UploadTarget,
        bytes: Bytes,
    ) -> Result<UploadHandle, DriveError> {
        if self.full {
            return Err(DriveError::failed(self.id, ErrorClass::Full, "no space left"));
        }
        let upload = self.next_upload;
        self.next_upload += 1;
        let stored = Stored { shard: target.shard, bytes, inline: false };
        self.uploads.insert(upload, (target.operation, stored));
        Ok(UploadHandle { open: self.open, upload })
    }

    /// The blocks asked for, one by one.
    pub(super) fn blocks(&self, read: &ShardRead) -> Result<Vec<Bytes>, DriveError> {
        let found = self.shards.get(&read.operation).filter(|stored| stored.shard == read.shard);
        let missing = || DriveError::failed(self.id, ErrorClass::NotFound, "shard is not here");
        let stored = found.ok_or_else(missing)?;
        let end = (read.first_block + read.block_count).min(read.geometry.stripe_count());
        let cut = |block: u64| {
            let from = read.geometry.block_offset(block) as usize;
            let to = from + read.geometry.block_len(block) as usize;
            let damaged = || DriveError::failed(self.id, ErrorClass::Damaged, "shard is short");
            if to > stored.bytes.len() { Err(damaged()) } else { Ok(stored.bytes.slice(from..to)) }
        };
        (read.first_block..end).map(cut).collect()
    }
}
