//! One sequence: a drive, its disk, its model, and what happens to them.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, OnceLock},
};

use bytes::Bytes;
use holdfast_drive::{
    BackgroundJob, Drive, DriveFault, DriveOptions, Identity, JobOutcome,
    api::{
        Accept, DriveError, DriveReply, DriveRequest, DriveResult, Install, Prepare, Purge, Read,
        Scope, Settle, ShardRead, ShardSource, UploadTarget,
    },
    disk::Disk,
    disk_sim::{Mishap, SimDisk},
    log::writer::{BatchJob, BatchOutcome},
    meta_index::{MemoryMedium, keeper::IndexBackend},
    volume::VolumeSizes,
};
use holdfast_erasure::{Salt, encode_body};
use holdfast_register::{HolderMask, Refusal, ShardStatus};
use holdfast_types::{
    Ballot, BucketEpoch, BucketId, BucketPhase, BucketStamp, ClusterId, DriveId, Entry, EntryKind,
    ErrorClass, Geometry, HybridTime, OperationId, PartRef, RegisterKey, SetEpoch, SetIndex,
    ShardIndex, VersionId, WriterId,
    seam::{Clock, ManualClock, Random, SeededRandom},
};

use crate::model::Model;

const START_MICROS: u64 = 1_700_000_000_000_000;
const DRIVE: DriveId = DriveId(0xd1);
const BUCKET: BucketId = BucketId(0xb);
const SHARD: ShardIndex = ShardIndex(0);

/// What goes wrong in a sequence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Plan {
    /// Power loss, failed calls, kills.
    Crashes,
    /// Flipped bits at the end.
    Rot,
}

/// What a request's answer has to be, and which prefix of the changes it acknowledges.
struct Expected {
    answer: Result<Option<ShardStatus>, Refusal>,
    acknowledges: usize,
}

type Answers = Arc<Mutex<Vec<(usize, DriveResult)>>>;

pub struct World {
    seed: u64,
    plan: Plan,
    random: SeededRandom,
    disk: SimDisk,
    clock: ManualClock,
    medium: MemoryMedium,
    drive: Option<Drive>,
    /// The model after each change; the first is the state at the last open.
    states: Vec<Model>,
    /// Changes that are acknowledged: `states[acknowledged]` must be reached.
    acknowledged: usize,
    /// The last change of each key that answers rest on.
    accepted_at: BTreeMap<RegisterKey, usize>,
    expected: Vec<Expected>,
    answers: Answers,
    batch: Option<BatchJob>,
    outcome: Option<BatchOutcome>,
    jobs: VecDeque<BackgroundJob>,
    job_outcomes: VecDeque<JobOutcome>,
    operations: u128,
    /// Finished uploads that no Accept has taken.
    uploads: BTreeMap<u64, Bytes>,
    /// Accepts of this sequence, to be repeated or adopted.
    past: Vec<Accept>,
}

fn options(medium: &MemoryMedium) -> DriveOptions {
    DriveOptions {
        segment_bytes: 64 << 10,
        segments_first: 2,
        batch_bytes_max: 24 << 10,
        overlay_bytes_max: 4 << 10,
        tail_segments_max: 2,
        segments_soft_max: 4,
        run_cache_bytes: 64 << 10,
        index: IndexBackend::Memory(medium.clone()),
        volumes: VolumeSizes { first: 256 << 10, max: 512 << 10, reserve: 0 },
        ..DriveOptions::default()
    }
}

/// A formatted disk, made once and forked for each sequence.
fn formatted() -> SimDisk {
    static DISK: OnceLock<SimDisk> = OnceLock::new();
    let disk = DISK.get_or_init(|| {
        let disk = SimDisk::new(64 << 20);
        let identity = Identity { drive: DRIVE, cluster: ClusterId(1), set: None, formatted_at: 1 };
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        Drive::format(&shared, &identity, &options(&MemoryMedium::default())).unwrap();
        disk
    });
    disk.fork()
}

impl World {
    pub fn new(seed: u64, plan: Plan) -> Self {
        let mut world = Self {
            seed,
            plan,
            random: SeededRandom::new(seed.wrapping_mul(0x9e37_79b9)),
            disk: formatted(),
            clock: ManualClock::at(START_MICROS),
            medium: MemoryMedium::default(),
            drive: None,
            states: vec![Model::default()],
            acknowledged: 0,
            accepted_at: BTreeMap::new(),
            expected: Vec::new(),
            answers: Arc::default(),
            batch: None,
            outcome: None,
            jobs: VecDeque::new(),
            job_outcomes: VecDeque::new(),
            operations: u128::from(seed) << 64,
            uploads: BTreeMap::new(),
            past: Vec::new(),
        };
        world.states[0].bucket_epoch = 1;
        world.recover();
        world
    }

    pub fn run(mut self) {
        for _ in 0..1 + self.below(2) {
            if self.plan == Plan::Crashes {
                let mishap = if self.one_in(4) { Mishap::Fail } else { Mishap::PowerOff };
                self.disk.plan(self.below(90), mishap);
            }
            let steps = 10 + self.below(50);
            for _ in 0..steps {
                self.step();
                self.check_answers();
            }
            self.fall();
            self.recover();
        }
        if self.plan == Plan::Rot {
            self.rot();
        }
    }

    fn below(&self, bound: u64) -> u64 {
        self.random.next_u64() % bound
    }

    fn one_in(&self, bound: u64) -> bool {
        self.below(bound) == 0
    }

    fn drive(&mut self) -> &mut Drive {
        self.drive.as_mut().expect("the drive is open between recoveries")
    }

    fn model(&self) -> &Model {
        self.states.last().expect("there is always a state")
    }

    fn now(&self) -> HybridTime {
        HybridTime::from_micros(self.clock.wall_micros())
    }

    fn scope(&self, epoch: u64) -> Scope {
        let bucket =
            BucketStamp { id: BUCKET, epoch: BucketEpoch(epoch), phase: BucketPhase::Live };
        Scope { bucket, set: SetIndex(0), set_epoch: SetEpoch(0) }
    }

    fn current_scope(&self) -> Scope {
        self.scope(self.model().bucket_epoch)
    }

    fn keys() -> Vec<RegisterKey> {
        let mut keys: Vec<RegisterKey> =
            ["a", "a/b", "b"].iter().map(|k| RegisterKey::object(BUCKET, k.as_bytes())).collect();
        keys.push(RegisterKey::part(BUCKET, b"a", OperationId(5), 1));
        keys
    }

    fn any_key(&self) -> RegisterKey {
        let keys = Self::keys();
        keys[self.below(keys.len() as u64) as usize].clone()
    }

    fn any_version(&self) -> VersionId {
        VersionId(u128::from(self.one_in(4)))
    }

    fn step(&mut self) {
        match self.below(100) {
            0..=29 => self.accept_new(),
            30..=37 => self.repeat_or_adopt(),
            38..=52 => self.settle(),
            53..=57 => self.purge(),
            58..=61 => self.prepare(),
            62..=65 => self.install(),
            66..=69 => self.read(),
            70 => self.raise_epoch(),
            71..=84 => self.log_work(),
            85..=94 => self.background_work(),
            95 => self.drive().begin_checkpoint(),
            96 => self.abandon_upload(),
            _ => self.clock.advance_micros(self.below(2_000_000)),
        }
    }

    // Requests.

    /// Hands a request in. `changed` is the model after it, if it is another one.
    fn ask(
        &mut self,
        request: DriveRequest,
        answer: Result<Option<ShardStatus>, Refusal>,
        changed: Option<Model>,
        rests_on: Option<RegisterKey>,
    ) {
        let before = self.states.len();
        let accepts = matches!(request, DriveRequest::Accept(_) | DriveRequest::Install(_));
        let waits = !matches!(request, DriveRequest::Settle(_) | DriveRequest::Purge(_));
        let raises = matches!(request, DriveRequest::InstallBucket(_));
        let is_change = changed.is_some();
        self.states.extend(changed);
        let rested = rests_on.as_ref().and_then(|key| self.accepted_at.get(key).copied());
        let mut acknowledges = rested.unwrap_or(0);
        if is_change && waits {
            acknowledges = before;
        }
        if is_change && raises {
            for key in Self::keys() {
                self.accepted_at.insert(key, before);
            }
        }
        let number = self.expected.len();
        if std::env::var_os("HOLDFAST_TRACE").is_some() {
            eprintln!("{number} {}: {request:?} -> {answer:?}", self.clock.wall_micros());
        }
        self.expected.push(Expected { answer, acknowledges });
        let answers = self.answers.clone();
        let done = Box::new(move |result| answers.lock().unwrap().push((number, result)));
        self.drive().handle(request, done);
        for job in self.drive().take_read_jobs() {
            job.run();
        }
        let failed = |(n, result): &(usize, DriveResult)| {
            *n == number && matches!(result, Err(DriveError::Failed { .. }))
        };
        if self.answers.lock().unwrap().iter().any(failed) {
            // Refused on the spot: nothing was recorded.
            self.states.truncate(before);
        } else if is_change && accepts {
            let key = rests_on.expect("an Accept is of a key");
            self.accepted_at.insert(key, before);
        }
    }

    fn check_answers(&mut self) {
        for (number, result) in std::mem::take(&mut *self.answers.lock().unwrap()) {
            let expected = &self.expected[number];
            match (&result, &expected.answer) {
                (Err(DriveError::Failed { class, .. }), _) => {
                    use ErrorClass::{Damaged, Full, Overloaded, Unavailable};
                    // Damaged: a run that cannot be read, for the power is off.
                    let fits = matches!(class, Unavailable | Full | Overloaded)
                        || (*class == Damaged && self.disk.is_off());
                    assert!(fits, "seed {}: {result:?}", self.seed);
                    continue;
                }
                (Ok(DriveReply::Accepted(status)), Ok(Some(predicted))) => {
                    assert_eq!(status, predicted, "seed {}", self.seed);
                }
                (Ok(_), Ok(None)) => {}
                (Err(DriveError::Refused { refusal, .. }), Err(predicted)) => {
                    assert_eq!(refusal, predicted, "seed {}", self.seed);
                }
                other => panic!("seed {}: answered and predicted {other:?}", self.seed),
            }
            self.acknowledged = self.acknowledged.max(expected.acknowledges);
        }
    }

    fn fresh_ballot(&self) -> Ballot {
        let micros = self.clock.wall_micros();
        let time = if self.one_in(6) { micros - self.below(5_000_000) } else { micros };
        let time = HybridTime(HybridTime::from_micros(time).0 + self.below(4000));
        Ballot { generation: 1, time, writer: WriterId(u128::from(1 + self.below(3))) }
    }

    fn fresh_operation(&mut self) -> OperationId {
        self.operations += 1;
        OperationId(self.operations)
    }

    fn body(&self, max: u64) -> Vec<u8> {
        let mut body = vec![0; 1 + self.below(max) as usize];
        for chunk in body.chunks_mut(8) {
            let bytes = self.random.next_u64().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
        body
    }

    fn encode(operation: OperationId, body: &[u8]) -> (Geometry, Bytes) {
        let geometry = Geometry {
            data_shards: 1,
            total_shards: 1,
            block_bytes: 8192,
            size: body.len() as u64,
        };
        let salt = Salt { operation, drive: DRIVE, shard: SHARD };
        (geometry, encode_body(&geometry, body, &[salt]).remove(0))
    }

    fn entry(&mut self, kind: EntryKind, geometry: Geometry, operation: OperationId) -> Entry {
        let ballot = self.fresh_ballot();
        let metadata = self.body(300).into();
        Entry { ballot, order: ballot, operation, kind, geometry, metadata, parts: Vec::new() }
    }

    fn accept_new(&mut self) {
        let operation = self.fresh_operation();
        let key = self.any_key();
        let (entry, source) = match self.below(8) {
            0 => (self.entry(EntryKind::Tombstone, Geometry::EMPTY, operation), None),
            1 => {
                let mut entry = self.entry(EntryKind::Put, Geometry::EMPTY, operation);
                entry.parts = self.some_parts();
                (entry, None)
            }
            2..=4 => {
                let body = self.body(6000);
                let (geometry, shard) = Self::encode(operation, &body);
                let entry = self.entry(EntryKind::Put, geometry, operation);
                (entry, Some(ShardSource::Inline(shard)))
            }
            5 => {
                let (geometry, _) = Self::encode(operation, b"never comes");
                (self.entry(EntryKind::Put, geometry, operation), Some(ShardSource::Missing))
            }
            _ => {
                let body = self.body(60_000);
                let (geometry, shard) = Self::encode(operation, &body);
                let Some(source) = self.upload(&key, operation, geometry, &shard) else { return };
                (self.entry(EntryKind::Put, geometry, operation), Some(source))
            }
        };
        let accept = Accept {
            scope: self.current_scope(),
            key,
            version: self.any_version(),
            entry,
            shard: SHARD,
            source: source.unwrap_or(ShardSource::NoData),
            absorbed: self.one_in(5).then_some(OperationId(77)),
            guard: None,
        };
        self.past.push(accept.clone());
        self.send_accept(accept);
    }

    /// Operations that the part register's entries wrote.
    fn some_parts(&self) -> Vec<PartRef> {
        let registers = self.model().registers_of(&Self::keys()[3]);
        let entries = registers.values().flat_map(|register| &register.entries);
        let with_data = entries.filter(|held| held.entry.geometry.has_data());
        let part = |(n, held): (usize, &holdfast_register::Held)| PartRef {
            number: n as u16 + 1,
            operation: held.entry.operation,
            geometry: held.entry.geometry,
        };
        with_data.enumerate().map(part).collect()
    }

    fn send_accept(&mut self, accept: Accept) {
        let (shard, handle) = match &accept.source {
            ShardSource::Inline(bytes) => (Some(bytes.clone()), None),
            ShardSource::Upload(handle) => {
                (self.uploads.get(&handle.upload).cloned(), Some(handle.upload))
            }
            _ => (None, None),
        };
        let mut next = self.model().clone();
        let before = next.clone();
        let answer = next.accept(&accept, shard, self.now());
        let changed = answer.is_ok() && differs(&before, &next);
        let operation = accept.entry.operation;
        let takes = next.shards.contains_key(&operation) && !before.shards.contains_key(&operation);
        let key = accept.key.clone();
        let states = self.states.len();
        self.ask(DriveRequest::Accept(accept), answer, changed.then_some(next), Some(key));
        if let Some(handle) = handle.filter(|_| takes && self.states.len() > states) {
            self.uploads.remove(&handle);
        }
    }

    /// The same again, or under a higher ballot with the shard that is held.
    fn repeat_or_adopt(&mut self) {
        if self.past.is_empty() {
            return;
        }
        let mut accept = self.past[self.below(self.past.len() as u64) as usize].clone();
        accept.scope = self.current_scope();
        if self.one_in(2) {
            accept.entry.ballot = self.fresh_ballot();
            accept.source = ShardSource::Held;
        }
        if !accept.entry.geometry.has_data() {
            accept.source = ShardSource::NoData;
        }
        self.send_accept(accept);
    }

    fn upload(
        &mut self,
        key: &RegisterKey,
        operation: OperationId,
        geometry: Geometry,
        shard: &Bytes,
    ) -> Option<ShardSource> {
        let announced = if self.one_in(2) { geometry.size } else { 0 };
        let target = UploadTarget {
            drive: DRIVE,
            scope: self.current_scope(),
            key: key.clone(),
            operation,
            shard: SHARD,
            geometry: Geometry { size: announced, ..geometry },
        };
        let piece = 1 + self.below(20_000) as usize;
        let mut upload = self.drive().upload_port().begin(&target).ok()?;
        for bytes in shard.chunks(piece) {
            upload.write(bytes).ok()?;
        }
        let handle = upload.finish().ok()?;
        self.uploads.insert(handle.upload, shard.clone());
        Some(ShardSource::Upload(handle))
    }

    fn abandon_upload(&mut self) {
        let operation = self.fresh_operation();
        let body = self.body(60_000);
        let (geometry, shard) = Self::encode(operation, &body);
        let key = self.any_key();
        let target = UploadTarget {
            drive: DRIVE,
            scope: self.current_scope(),
            key,
            operation,
            shard: SHARD,
            geometry,
        };
        if let Ok(mut upload) = self.drive().upload_port().begin(&target) {
            let _ = upload.write(&shard[..shard.len() / 2]);
        }
    }

    /// An operation that is held, of any register.
    fn any_held(&self) -> Option<(RegisterKey, VersionId, Entry)> {
        let model = self.model();
        let all: Vec<(RegisterKey, VersionId, Entry)> = model
            .keys
            .iter()
            .flat_map(|(key, state)| {
                state.registers.iter().flat_map(move |(version, register)| {
                    let held = register.entries.iter();
                    held.map(move |held| (key.clone(), *version, held.entry.clone()))
                })
            })
            .collect();
        (!all.is_empty()).then(|| all[self.below(all.len() as u64) as usize].clone())
    }

    fn settle(&mut self) {
        let Some((key, version, entry)) = self.any_held() else { return };
        let holders = HolderMask(1 + 2 * self.below(4) as u16);
        let scope = self.current_scope();
        let operation = entry.operation;
        let settle = Settle { scope, key, version, operation, holders, set_size: 3 };
        let mut next = self.model().clone();
        let changed = next.settle(&settle);
        self.ask(DriveRequest::Settle(settle), Ok(None), changed.then_some(next), None);
    }

    fn purge(&mut self) {
        let Some((key, version, entry)) = self.any_held() else { return };
        let purge = Purge { scope: self.current_scope(), key, version, ballot: entry.ballot };
        let mut next = self.model().clone();
        let answer = next.purge(&purge);
        let changed = answer == Ok(true);
        if changed {
            // A Purge is answered, and looked at, without a wait; so is what it removed.
            self.accepted_at.remove(&purge.key);
        }
        let answer = answer.map(|_| None);
        self.ask(DriveRequest::Purge(purge), answer, changed.then_some(next), None);
    }

    fn prepare(&mut self) {
        let prepare = Prepare {
            scope: self.current_scope(),
            key: self.any_key(),
            ballot: self.fresh_ballot(),
            since: HybridTime(0),
            inline: self.one_in(2),
        };
        let now = self.now();
        let last = self.states.last_mut().expect("there is always a state");
        // A promise changes nothing that a restart keeps per key.
        let answer = last.prepare(&prepare, now).map(|()| None);
        let key = prepare.key.clone();
        self.ask(DriveRequest::Prepare(prepare), answer, None, Some(key));
    }

    fn install(&mut self) {
        let operation = self.fresh_operation();
        let body = self.body(3000);
        let (geometry, shard) = Self::encode(operation, &body);
        let install = Install {
            scope: self.current_scope(),
            key: self.any_key(),
            version: self.any_version(),
            entry: self.entry(EntryKind::Put, geometry, operation),
            shard: SHARD,
            source: ShardSource::Inline(shard),
            holders: HolderMask(1),
        };
        let mut next = self.model().clone();
        let before = next.clone();
        let answer = next.install(&install, self.now());
        let changed = answer.is_ok() && differs(&before, &next);
        let key = install.key.clone();
        self.ask(DriveRequest::Install(install), answer, changed.then_some(next), Some(key));
    }

    fn read(&mut self) {
        let key = self.any_key();
        let scope = self.current_scope();
        let read = Read { scope, key: key.clone(), version: None, inline: self.one_in(2) };
        self.ask(DriveRequest::Read(read), Ok(None), None, Some(key));
    }

    fn raise_epoch(&mut self) {
        let mut next = self.model().clone();
        next.bucket_epoch += 1;
        let scope = self.scope(next.bucket_epoch);
        self.ask(DriveRequest::InstallBucket(scope), Ok(None), Some(next), None);
    }

    // Work.

    fn log_work(&mut self) {
        if let Some(outcome) = self.outcome.take() {
            self.drive().batch_done(outcome);
        }
        if self.batch.is_none() {
            self.batch = self.drive().take_batch();
        }
        if self.one_in(4) {
            return;
        }
        if let Some(job) = self.batch.take() {
            self.outcome = Some(job.run());
        }
    }

    fn background_work(&mut self) {
        if let Some(outcome) = self.job_outcomes.pop_front() {
            self.drive().job_done(outcome);
        }
        let jobs = self.drive().tick();
        self.jobs.extend(jobs);
        if let Some(job) = self.jobs.pop_front() {
            self.job_outcomes.push_back(job.run());
        }
    }

    // Falling and rising.

    /// The process ends, with or without the power.
    fn fall(&mut self) {
        self.drive = None;
        self.batch = None;
        self.outcome = None;
        self.jobs.clear();
        self.job_outcomes.clear();
        self.check_answers();
        self.answers = Arc::default();
        let killed_only = !self.disk.is_off() && self.one_in(3);
        if !killed_only {
            self.disk.crash(&self.random);
        }
        self.disk.plan_nothing();
        if self.one_in(5) {
            self.medium = MemoryMedium::default();
        }
    }

    fn open(&self) -> Result<Drive, DriveFault> {
        let disk = Arc::new(self.disk.clone());
        Drive::open(disk, options(&self.medium), Arc::new(self.clock.clone()))
    }

    /// Opens the drive, through crashes on the way, and compares it with the model.
    fn recover(&mut self) {
        // Beyond the promise ceiling of the last life.
        self.clock.advance_micros(11_000_000);
        if self.plan == Plan::Crashes && self.one_in(4) {
            self.disk.plan(self.below(12), Mishap::PowerOff);
        }
        let drive = loop {
            match self.open() {
                Ok(drive) => break drive,
                Err(_) if self.disk.is_off() => self.disk.crash(&self.random),
                Err(error) => panic!("seed {}: {error}", self.seed),
            }
        };
        self.disk.plan_nothing();
        self.drive = Some(drive);
        let states = std::mem::take(&mut self.states);
        let mut differences = Vec::new();
        // Rising, for a request of a newer bucket epoch would install it.
        for (at, state) in states.into_iter().enumerate().skip(self.acknowledged) {
            self.states = vec![state];
            match self.compare() {
                Ok(()) => return self.settle_in(),
                Err(difference) => differences.push(format!("{at}: {difference}")),
            }
        }
        let (seed, acknowledged) = (self.seed, self.acknowledged);
        panic!("seed {seed}: acknowledged {acknowledged}, but: {differences:#?}");
    }

    fn settle_in(&mut self) {
        self.acknowledged = 0;
        self.accepted_at.clear();
        self.expected.clear();
        self.uploads.clear();
        self.past.retain(|accept| !matches!(accept.source, ShardSource::Upload(_)));
        let seed = self.seed;
        let drive = self.drive();
        let audit = drive.audit().and_then(|()| drive.audit_blocks());
        audit.unwrap_or_else(|cause| panic!("seed {seed}: audit: {cause}"));
        let view = self.call_read(&RegisterKey::object(BUCKET, &b"untouched"[..]));
        let now = self.now();
        self.states[0].restart(view.expect("the epoch is the drive's").promise, now);
    }

    fn call_read(&mut self, key: &RegisterKey) -> Result<holdfast_register::KeyView, String> {
        let scope = self.current_scope();
        let read = Read { scope, key: key.clone(), version: None, inline: false };
        let slot = Arc::new(Mutex::new(None));
        let filled = slot.clone();
        let done = Box::new(move |result| *filled.lock().unwrap() = Some(result));
        self.drive().handle(DriveRequest::Read(read), done);
        self.drive().flush();
        let answer = slot.lock().unwrap().take();
        match answer {
            Some(Ok(DriveReply::View { view, .. })) => Ok(view),
            other => Err(format!("{other:?}")),
        }
    }

    /// Whether the drive shows exactly the state of the model.
    fn compare(&mut self) -> Result<(), String> {
        let state = self.model().clone();
        let facts = self.drive().durable_facts();
        let used: u64 = state.shards.values().map(|shard| shard.len() as u64).sum();
        let have = (facts.registers, facts.used_bytes, facts.purge_floor);
        let want = (state.registers(), used, state.purge_floor);
        if have != want {
            return Err(format!("registers, bytes, purge floor: {have:?}, not {want:?}"));
        }
        for key in Self::keys() {
            let view = self.call_read(&key)?;
            if view.registers != state.registers_of(&key) {
                return Err(format!("{key:?}: {:?}", view.registers));
            }
        }
        for (operation, shard) in &state.shards {
            match self.read_shard(*operation, shard.len()) {
                Ok(bytes) if bytes == *shard => {}
                other => return Err(format!("shard of {operation}: {:?}", other.err())),
            }
        }
        Ok(())
    }

    fn read_shard(&mut self, operation: OperationId, len: usize) -> Result<Bytes, String> {
        // The inverse of `encode`: every block has 16 bytes of checksum.
        let size = len as u64 - (len as u64).div_ceil(8192) * 16;
        let geometry = Geometry { data_shards: 1, total_shards: 1, block_bytes: 8192, size };
        let read = ShardRead {
            drive: DRIVE,
            scope: self.current_scope(),
            operation,
            shard: SHARD,
            geometry,
            first_block: 0,
            block_count: geometry.stripe_count(),
        };
        let slot = Arc::new(Mutex::new(None));
        let filled = slot.clone();
        let done = Box::new(move |reader| *filled.lock().unwrap() = Some(reader));
        self.drive().open_shard(&read, done);
        let reader = slot.lock().unwrap().take().expect("nothing waits after recovery");
        let reader = reader.map_err(|e| e.to_string())?;
        reader.read(0, read.block_count).map_err(|e| e.to_string())
    }

    /// Flips bits in files of a drive that was closed in order, and looks at what it says.
    fn rot(&mut self) {
        self.drive().flush();
        self.drive = None;
        let truth = self.model().clone();
        // One at a time: rot of the last batch alone cannot be told from a torn one, and the last batch
        // of a drive that was just opened changes nothing.
        let files = self.disk.files();
        let path = &files[self.below(files.len() as u64) as usize];
        let len = self.disk.len_of(path).unwrap_or(0);
        if len > 0 {
            // Most files are mostly zeros; their beginnings are where something is.
            let reach = if self.one_in(2) { len } else { len.min(8192) };
            self.disk.rot(path, self.below(reach), 1 << self.below(8));
        }
        self.clock.advance_micros(11_000_000);
        let Ok(drive) = self.open() else { return };
        self.drive = Some(drive);
        for key in Self::keys() {
            if let Ok(view) = self.call_read(&key) {
                assert_eq!(view.registers, truth.registers_of(&key), "seed {}", self.seed);
            }
        }
        for (operation, shard) in &truth.shards {
            if let Ok(bytes) = self.read_shard(*operation, shard.len()) {
                assert_eq!(bytes, *shard, "seed {}", self.seed);
            }
        }
    }
}

/// Whether two models differ in what a restart keeps.
fn differs(a: &Model, b: &Model) -> bool {
    let registers = |model: &Model| {
        let held = model.keys.iter().filter(|(_, state)| !state.registers.is_empty());
        held.map(|(key, state)| (key.clone(), state.registers.clone())).collect::<Vec<_>>()
    };
    registers(a) != registers(b) || a.shards != b.shards
}
