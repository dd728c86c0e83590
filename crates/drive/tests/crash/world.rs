//! One sequence: a drive, its disk, its model, and what happens to them.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, OnceLock},
};

use bytes::Bytes;
use holdfast_drive::{
    BackgroundJob, Drive, DriveOptions, Identity, JobOutcome,
    api::{Accept, DriveResult, Scope},
    disk::Disk,
    disk_sim::{Mishap, SimDisk},
    log::writer::{BatchJob, BatchOutcome},
    meta_index::{
        MemoryMedium,
        keeper::{IndexBackend, IndexContent},
    },
    volume::VolumeSizes,
};
use holdfast_register::{Refusal, ShardStatus};
use holdfast_types::{
    BucketEpoch, BucketId, BucketPhase, BucketStamp, ClusterId, DriveId, HybridTime, OperationId,
    RegisterKey, SetEpoch, SetIndex, ShardIndex, VersionId,
    seam::{Clock, ManualClock, Random, SeededRandom},
};

use crate::model::Model;

const START_MICROS: u64 = 1_700_000_000_000_000;
pub const DRIVE: DriveId = DriveId(0xd1);
pub const BUCKET: BucketId = BucketId(0xb);
pub const SHARD: ShardIndex = ShardIndex(0);

/// What goes wrong in a sequence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Plan {
    /// Power loss, failed calls, kills.
    Crashes,
    /// Flipped bits at the end.
    Rot,
}

/// What a request's answer has to be, and which prefix of the changes it acknowledges.
pub struct Expected {
    pub answer: Result<Option<ShardStatus>, Refusal>,
    pub acknowledges: usize,
}

pub type Answers = Arc<Mutex<Vec<(usize, DriveResult)>>>;

pub struct World {
    pub seed: u64,
    pub plan: Plan,
    pub random: SeededRandom,
    pub disk: SimDisk,
    pub clock: ManualClock,
    pub medium: MemoryMedium,
    pub drive: Option<Drive>,
    /// The model after each change; the first is the state at the last open.
    pub states: Vec<Model>,
    /// Changes that are acknowledged: `states[acknowledged]` must be reached.
    pub acknowledged: usize,
    /// The last change of each key that answers rest on.
    pub accepted_at: BTreeMap<RegisterKey, usize>,
    pub expected: Vec<Expected>,
    pub answers: Answers,
    pub batch: Option<BatchJob>,
    pub outcome: Option<BatchOutcome>,
    pub jobs: VecDeque<BackgroundJob>,
    pub job_outcomes: VecDeque<JobOutcome>,
    pub operations: u128,
    /// Finished uploads that no Accept has taken.
    pub uploads: BTreeMap<u64, Bytes>,
    /// Accepts of this sequence, to be repeated or adopted.
    pub past: Vec<Accept>,
}

pub fn options(medium: &MemoryMedium) -> DriveOptions {
    DriveOptions {
        segment_bytes: 64 << 10,
        segments_first: 2,
        batch_bytes_max: 24 << 10,
        overlay_bytes_max: 4 << 10,
        tail_segments_max: 2,
        segments_spare: 1,
        segments_soft_max: 1,
        run_cache_bytes: 64 << 10,
        index: IndexBackend::Memory(medium.clone()),
        // The index under most stress.
        index_content: IndexContent::All,
        // Small, so that there are several, and as fast as can be, so that they come and go.
        volumes: VolumeSizes { first: 256 << 10, max: 256 << 10, reserve: 0 },
        move_bytes_per_second: u64::MAX,
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
            self.stretch();
        }
        if self.plan == Plan::Rot {
            self.rot();
        }
    }

    /// The first stretch of the sequence with `mishap` at its `call`-th changing call; false when it has
    /// fewer calls.
    pub fn run_to(mut self, call: u64, mishap: Mishap) -> bool {
        let end = self.disk.calls() + call;
        self.disk.plan(call, mishap);
        self.stretch() > end
    }

    /// Requests and background work, then the end of the process, and what comes after it. How many changing
    /// calls there were up to that end.
    fn stretch(&mut self) -> u64 {
        let steps = 10 + self.below(50);
        for _ in 0..steps {
            self.step();
            self.check_answers();
        }
        let calls = self.disk.calls();
        self.fall();
        self.recover();
        calls
    }

    pub fn below(&self, bound: u64) -> u64 {
        self.random.next_u64() % bound
    }

    pub fn one_in(&self, bound: u64) -> bool {
        self.below(bound) == 0
    }

    pub fn drive(&mut self) -> &mut Drive {
        self.drive.as_mut().expect("the drive is open between recoveries")
    }

    pub fn model(&self) -> &Model {
        self.states.last().expect("there is always a state")
    }

    pub fn now(&self) -> HybridTime {
        HybridTime::from_micros(self.clock.wall_micros())
    }

    pub fn scope(&self, epoch: u64) -> Scope {
        let bucket =
            BucketStamp { id: BUCKET, epoch: BucketEpoch(epoch), phase: BucketPhase::Live };
        Scope { bucket, set: SetIndex(0), set_epoch: SetEpoch(0) }
    }

    pub fn current_scope(&self) -> Scope {
        self.scope(self.model().bucket_epoch)
    }

    pub fn keys() -> Vec<RegisterKey> {
        let mut keys: Vec<RegisterKey> =
            ["a", "a/b", "b"].iter().map(|k| RegisterKey::object(BUCKET, k.as_bytes())).collect();
        keys.push(RegisterKey::part(BUCKET, b"a", OperationId(5), 1));
        keys
    }

    pub fn any_key(&self) -> RegisterKey {
        let keys = Self::keys();
        keys[self.below(keys.len() as u64) as usize].clone()
    }

    pub fn any_version(&self) -> VersionId {
        VersionId(u128::from(self.one_in(4)))
    }

    pub fn step(&mut self) {
        self.disk.set_cold(self.one_in(2));
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
            85..=92 => self.background_work(),
            93..=94 => self.tend(),
            95 if self.one_in(2) => self.drive().begin_checkpoint(),
            95 => self.order_scrub(),
            96 => self.abandon_upload(),
            _ => self.clock.advance_micros(self.below(2_000_000)),
        }
    }

    pub fn log_work(&mut self) {
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

    /// What I/O threads do for a request that waits: the model has decided it, so it has to be decided
    /// before the next one. Whatever else the threads do may come later.
    pub fn look_up(&mut self) {
        while self.drive().waiting() > 0 {
            let loads = self.drive().take_load_jobs();
            if !loads.is_empty() {
                for job in loads {
                    let outcome = job.run();
                    self.drive().loaded(outcome);
                }
                continue;
            }
            let job = self.drive().log_jobs().or_else(|| self.jobs.pop_front());
            let outcome = match job {
                Some(job) => job.run(),
                // It ran, and nobody was told yet.
                None => self.job_outcomes.pop_front().expect("whoever waits, waits for something"),
            };
            self.drive().job_done(outcome);
        }
    }

    /// All that wants to be done in the background, for a while: volumes are emptied and given back.
    pub fn tend(&mut self) {
        for _ in 0..self.below(30) {
            self.background_work();
            self.log_work();
        }
    }

    pub fn background_work(&mut self) {
        if let Some(outcome) = self.job_outcomes.pop_front() {
            self.drive().job_done(outcome);
        }
        let jobs = self.drive().tick();
        self.jobs.extend(jobs);
        if let Some(job) = self.jobs.pop_front() {
            self.job_outcomes.push_back(job.run());
        }
    }
}
