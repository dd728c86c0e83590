//! How a sequence falls and rises, and the comparison with the model.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use holdfast_drive::{
    Drive, DriveFault,
    api::{
        DriveReply, DriveRequest, DriveResult, Filled, Issue, MemberReply, MemberRequest, Read,
        RotRange, ShardRead, ShardSource,
    },
    disk_sim::Mishap,
    meta_index::MemoryMedium,
    scrub::Phase,
};
use holdfast_register::ShardStatus;
use holdfast_types::{DriveState, Geometry, OperationId, RegisterKey, SetEpoch, SetIndex};

use crate::{
    model::Model,
    world::{BUCKET, DRIVE, Plan, SHARD, World, options},
};

/// Shards moved between volumes by all sequences,
pub static MOVED: AtomicU64 = AtomicU64::new(0);
/// volumes removed,
pub static VOLUMES_GONE: AtomicU64 = AtomicU64::new(0);
/// log segments,
pub static SEGMENTS_GONE: AtomicU64 = AtomicU64::new(0);
/// passes of the scrub that crashes found on their way,
pub static SCRUBS: AtomicU64 = AtomicU64::new(0);
/// and audits after rot in a run: so that the test can tell that it meets these.
pub static RECOUNTED: AtomicU64 = AtomicU64::new(0);

impl World {
    /// The process ends, with or without the power.
    pub fn fall(&mut self) {
        if let Some(drive) = self.drive.take() {
            let given_back = drive.given_back();
            MOVED.fetch_add(given_back.shards, Ordering::Relaxed);
            VOLUMES_GONE.fetch_add(given_back.volumes, Ordering::Relaxed);
            SEGMENTS_GONE.fetch_add(given_back.segments, Ordering::Relaxed);
            let facts = drive.facts();
            // Nobody touches the index while it is open: what merges say of it is true (INV-INDEX-1).
            let hurt = self.plan == Plan::Rot || self.disk.is_off();
            let hurt = hurt || facts.state == DriveState::Faulty;
            assert!(hurt || facts.index_faults == 0, "seed {}: the index is accused", self.seed);
        }
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

    pub fn open(&self) -> Result<Drive, DriveFault> {
        let disk = Arc::new(self.disk.clone());
        Drive::open(disk, options(&self.medium), Arc::new(self.clock.clone()))
    }

    /// Opens the drive, through crashes on the way, and compares it with the model.
    pub fn recover(&mut self) {
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

    pub fn settle_in(&mut self) {
        self.acknowledged = 0;
        self.accepted_at.clear();
        self.expected.clear();
        self.uploads.clear();
        self.past.retain(|accept| !matches!(accept.source, ShardSource::Upload(_)));
        let seed = self.seed;
        let drive = self.drive();
        let audit = drive.audit().and_then(|()| drive.audit_blocks());
        audit.unwrap_or_else(|cause| panic!("seed {seed}: audit: {cause}"));
        let scrub = drive.scrub_status();
        let whole = scrub.last.is_none_or(|last| last.is_complete());
        assert!(whole && scrub.pass.found == 0, "seed {seed}: nothing is rotten: {scrub:?}");
        SCRUBS.fetch_add(u64::from(scrub.phase != Phase::Idle), Ordering::Relaxed);
        let view = self.call_read(&RegisterKey::object(BUCKET, &b"untouched"[..]));
        let now = self.now();
        self.states[0].restart(view.expect("the epoch is the drive's").promise, now);
    }

    pub fn call_read(&mut self, key: &RegisterKey) -> Result<holdfast_register::KeyView, String> {
        let scope = self.current_scope();
        let read = Read { scope, key: key.clone(), version: None, inline: false };
        let slot = Arc::new(Mutex::new(None));
        let filled = slot.clone();
        let done = Box::new(move |result| *filled.lock().unwrap() = Some(result));
        self.drive().handle(DriveRequest::Read(read), done);
        self.look_up();
        self.drive().flush();
        let answer = slot.lock().unwrap().take();
        match answer {
            Some(Ok(DriveReply::View { view, .. })) => Ok(view),
            other => Err(format!("{other:?}")),
        }
    }

    /// Whether the drive shows exactly the state of the model.
    pub fn compare(&mut self) -> Result<(), String> {
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

    pub fn read_shard(&mut self, operation: OperationId, len: usize) -> Result<Bytes, String> {
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
        self.look_up();
        // What a count said of the place may not be durable yet.
        self.drive().flush();
        let reader = slot.lock().unwrap().take().expect("nothing waits after recovery");
        let reader = reader.map_err(|e| e.to_string())?;
        reader.read(0, read.block_count).map_err(|e| e.to_string())
    }

    /// Flips bits in files of a drive that was closed in order, and looks at what it says: right answers
    /// or none, over restarts, checkpoints and merges; and rot of runs keeps no drive from opening.
    pub fn rot(&mut self) {
        self.drive().flush();
        self.drive = None;
        let truth = self.model().clone();
        // One at a time: rot of the last batch alone cannot be told from a torn one, and the last batch
        // of a drive that was just opened changes nothing.
        let all = self.disk.files();
        let runs: Vec<String> = all.iter().filter(|path| path.ends_with(".run")).cloned().collect();
        let in_runs = !runs.is_empty() && self.one_in(2);
        let files = if in_runs { runs } else { all };
        let path = &files[self.below(files.len() as u64) as usize];
        let len = self.disk.len_of(path).unwrap_or(0);
        if len > 0 {
            // Most files are mostly zeros; their beginnings are where something is.
            let reach = if self.one_in(2) { len } else { len.min(8192) };
            self.disk.rot(path, self.below(reach), 1 << self.below(8));
        }
        for last in [false, false, true] {
            self.clock.advance_micros(11_000_000);
            let opened = self.open();
            if let (Err(fault), true) = (&opened, in_runs) {
                panic!("seed {}: a rotten run keeps the drive from opening: {fault}", self.seed);
            }
            let Ok(drive) = opened else { return };
            self.drive = Some(drive);
            for _ in 0..2 {
                self.compare_what_is_answered(&truth, !in_runs);
                self.drive().begin_checkpoint();
                self.background();
            }
            if in_runs && last {
                self.is_known_again();
            }
            self.drive = None;
        }
    }

    /// What the drive can find out by itself is found out (INV-FILL-2). Then the ranges of registers are filled by
    /// others that hold nothing: what is counted is what there is, for rot leaves nothing behind.
    fn is_known_again(&mut self) {
        let seed = self.seed;
        let ranges = self.ranges();
        let silent = ranges.iter().any(|range| range.is_silent() && !range.is_of_registers());
        assert!(!silent, "seed {seed}: {ranges:?}");
        if ranges.iter().any(RotRange::is_hidden) {
            let (epoch, membership) = (SetEpoch(1), Bytes::from_static(b"members"));
            let issue = Issue { set: SetIndex(0), epoch, membership };
            let filled = self.ask_member(MemberRequest::Fill(issue));
            assert_eq!(filled, Ok(DriveReply::Done), "seed {seed}");
            let ranges = self.ranges();
            let filled = self.ask_member(MemberRequest::Filled(Filled { epoch, ranges }));
            assert_eq!(filled, Ok(DriveReply::Done), "seed {seed}");
        }
        for _ in 0..2 {
            self.background();
            let audit = self.drive().audit().and_then(|()| self.drive().audit_blocks());
            audit.unwrap_or_else(|cause| panic!("seed {seed}: after rot: {cause}"));
            assert_eq!(self.ranges(), [], "seed {seed}");
            self.drive = None;
            self.drive = Some(self.open().unwrap_or_else(|error| panic!("seed {seed}: {error}")));
        }
        RECOUNTED.fetch_add(1, Ordering::Relaxed);
    }

    fn ranges(&mut self) -> Vec<RotRange> {
        match self.ask_member(MemberRequest::Ranges) {
            Ok(DriveReply::Member(MemberReply::Ranges(ranges))) => ranges,
            other => panic!("seed {}: {other:?}", self.seed),
        }
    }

    fn ask_member(&mut self, request: MemberRequest) -> DriveResult {
        let slot = Arc::new(Mutex::new(None));
        let filled = slot.clone();
        let done = Box::new(move |result| *filled.lock().unwrap() = Some(result));
        self.drive().handle(DriveRequest::Member(request), done);
        self.look_up();
        self.drive().flush();
        let answer = slot.lock().unwrap().take();
        answer.expect("what it rests on is durable")
    }

    /// Some ticks, and what they name. Not until nothing is left: a look-up is beside the jobs.
    fn background(&mut self) {
        for _ in 0..12 {
            let jobs = self.drive().tick();
            self.drive().flush();
            for job in jobs {
                let outcome = job.run();
                self.drive().job_done(outcome);
            }
            self.look_up();
        }
    }

    /// A shard may be `Missing` that was there when `shards_rot`, for moving it has found it out, and when its
    /// place was lost, so that it cannot be read.
    fn compare_what_is_answered(&mut self, truth: &Model, shards_rot: bool) {
        let read = |(operation, shard): (&OperationId, &Bytes)| {
            self.read_shard(*operation, shard.len()).is_err().then_some(*operation)
        };
        let unread: Vec<OperationId> = truth.shards.iter().filter_map(read).collect();
        for key in Self::keys() {
            if let Ok(view) = self.call_read(&key) {
                let mut known = truth.registers_of(&key);
                for (version, register) in &view.registers {
                    let held = known.get_mut(version).into_iter().flat_map(|r| &mut r.entries);
                    for (known, said) in held.zip(&register.entries) {
                        let named = known.entry.data_operations();
                        let may = shards_rot || named.into_iter().any(|op| unread.contains(&op));
                        if may && said.shard == ShardStatus::Missing {
                            known.shard = ShardStatus::Missing;
                        }
                    }
                }
                assert_eq!(view.registers, known, "seed {}", self.seed);
            }
        }
        for (operation, shard) in &truth.shards {
            if let Ok(bytes) = self.read_shard(*operation, shard.len()) {
                assert_eq!(bytes, *shard, "seed {}", self.seed);
            }
        }
    }
}
