//! A drive under test, and what its threads would do.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use holdfast_drive::{
    Drive, DriveOptions, Identity,
    api::{
        Accept, DriveError, DriveReply, DriveRequest, DriveResult, Purge, Read, Scope, Settle,
        ShardRead, ShardSource, UploadTarget,
    },
    disk::Disk,
    disk_sim::SimDisk,
    volume::{VolumeSizes, read::ShardReader},
};
use holdfast_erasure::{Salt, encode_body};
use holdfast_register::HolderMask;
use holdfast_types::{
    Ballot, BucketEpoch, BucketId, BucketPhase, BucketStamp, ClusterId, DriveId, Entry, EntryKind,
    Geometry, HybridTime, OperationId, RegisterKey, SetEpoch, SetIndex, ShardIndex, VersionId,
    WriterId, seam::ManualClock,
};

/// Where a shard's reader comes to.
pub type Opened = Arc<Mutex<Option<Result<ShardReader, DriveError>>>>;

pub const START_MICROS: u64 = 1_700_000_000_000_000;
pub const DRIVE: DriveId = DriveId(0xd1);
pub const BUCKET: BucketStamp =
    BucketStamp { id: BucketId(0xb), epoch: BucketEpoch(1), phase: BucketPhase::Live };

pub fn identity() -> Identity {
    Identity { drive: DRIVE, cluster: ClusterId(0xc), set: Some(SetIndex(0)), formatted_at: 1 }
}

pub fn options() -> DriveOptions {
    DriveOptions {
        segment_bytes: 1 << 20,
        volumes: VolumeSizes { first: 1 << 20, max: 4 << 20, reserve: 0 },
        ..DriveOptions::default()
    }
}

pub fn scope() -> Scope {
    Scope { bucket: BUCKET, set: SetIndex(0), set_epoch: SetEpoch(0) }
}

pub fn ballot(n: u64) -> Ballot {
    Ballot { generation: 1, time: HybridTime::from_micros(START_MICROS + n), writer: WriterId(1) }
}

/// A drive under test and the disk below it.
pub struct Rig {
    pub disk: Arc<dyn Disk>,
    pub clock: ManualClock,
    pub options: DriveOptions,
    pub drive: Drive,
}

impl Rig {
    pub fn new(disk: Arc<dyn Disk>) -> Self {
        Self::with(disk, options())
    }

    pub fn with(disk: Arc<dyn Disk>, options: DriveOptions) -> Self {
        Drive::format(&disk, &identity(), &options).unwrap();
        let clock = ManualClock::at(START_MICROS);
        let drive = Drive::open(disk.clone(), options.clone(), Arc::new(clock.clone())).unwrap();
        Self { disk, clock, options, drive }
    }

    pub fn sim() -> (SimDisk, Self) {
        let disk = SimDisk::new(1 << 30);
        (disk.clone(), Self::new(Arc::new(disk)))
    }

    /// Hands a request in and runs what it takes until the answer comes.
    pub fn call(&mut self, request: DriveRequest) -> DriveResult {
        let slot = Arc::new(Mutex::new(None));
        let filled = slot.clone();
        self.drive.handle(request, Box::new(move |r| *filled.lock().unwrap() = Some(r)));
        self.look_up();
        for job in self.drive.take_read_jobs() {
            job.run();
        }
        while let Some(job) = self.drive.take_batch() {
            let outcome = job.run();
            self.drive.batch_done(outcome);
        }
        let answer = slot.lock().unwrap().take();
        answer.expect("every request is answered once its batch is durable")
    }

    /// What a drive's I/O threads do for requests that wait.
    pub fn look_up(&mut self) {
        while self.drive.waiting() > 0 {
            let loads = self.drive.take_load_jobs();
            let log = self.drive.log_jobs();
            assert!(!loads.is_empty() || log.is_some(), "whoever waits, waits for something");
            for job in loads {
                let outcome = job.run();
                self.drive.loaded(outcome);
            }
            if let Some(job) = log {
                let outcome = job.run();
                self.drive.job_done(outcome);
            }
        }
    }

    pub fn reopen(&mut self) {
        let clock = Arc::new(self.clock.clone());
        self.drive = Drive::open(self.disk.clone(), self.options.clone(), clock).unwrap();
    }

    pub fn syncs(&self) -> u64 {
        self.drive.facts().syncs
    }

    pub fn put(&mut self, name: &str, n: u64, body: &[u8]) -> DriveResult {
        self.call(DriveRequest::Accept(inline_put(name, n, body)))
    }

    pub fn settle(&mut self, name: &str, n: u64) -> DriveResult {
        self.call(DriveRequest::Settle(Settle {
            scope: scope(),
            key: key(name),
            version: VersionId::NULL,
            operation: OperationId(n.into()),
            holders: HolderMask::full(1),
            set_size: 1,
        }))
    }

    pub fn read(&mut self, name: &str) -> (holdfast_register::KeyView, Vec<Bytes>) {
        let read = Read { scope: scope(), key: key(name), version: None, inline: true };
        match self.call(DriveRequest::Read(read)).unwrap() {
            DriveReply::View { view, inline } => {
                (view, inline.into_iter().map(|shard| shard.bytes).collect())
            }
            other => panic!("{other:?}"),
        }
    }

    pub fn upload(&self, name: &str, n: u64, shard: &[u8], geometry: Geometry) -> ShardSource {
        let target = UploadTarget {
            drive: DRIVE,
            scope: scope(),
            key: key(name),
            operation: OperationId(n.into()),
            shard: ShardIndex(0),
            geometry,
        };
        let mut upload = self.drive.upload_port().begin(&target).unwrap();
        for piece in shard.chunks(100_000) {
            upload.write(piece).unwrap();
        }
        ShardSource::Upload(upload.finish().unwrap())
    }

    /// Asks for a shard's reader; where it comes to once what it rests on is durable.
    pub fn open_shard(&mut self, n: u64, geometry: Geometry) -> Opened {
        let read = ShardRead {
            drive: DRIVE,
            scope: scope(),
            operation: OperationId(n.into()),
            shard: ShardIndex(0),
            geometry,
            first_block: 0,
            block_count: geometry.stripe_count(),
        };
        let slot = Arc::new(Mutex::new(None));
        let filled = slot.clone();
        self.drive.open_shard(&read, Box::new(move |r| *filled.lock().unwrap() = Some(r)));
        self.look_up();
        slot
    }

    pub fn read_shard(&mut self, n: u64, geometry: Geometry) -> Result<Bytes, DriveError> {
        let opened = self.open_shard(n, geometry).lock().unwrap().take();
        let reader = opened.expect("what it rests on is durable")?;
        reader.read(0, geometry.stripe_count())
    }
}

pub fn key(name: &str) -> RegisterKey {
    RegisterKey::object(BUCKET.id, name.as_bytes().to_vec())
}

pub fn entry(n: u64, geometry: Geometry) -> Entry {
    Entry {
        ballot: ballot(n),
        order: ballot(n),
        operation: OperationId(n.into()),
        kind: EntryKind::Put,
        geometry,
        metadata: Bytes::from_static(b"meta"),
        parts: Vec::new(),
    }
}

pub fn shard_of(n: u64, body: &[u8]) -> (Geometry, Bytes) {
    let geometry = Geometry::new(1, 1, body.len() as u64);
    let salt = Salt { operation: OperationId(n.into()), drive: DRIVE, shard: ShardIndex(0) };
    (geometry, encode_body(&geometry, body, &[salt]).remove(0))
}

pub fn accept(name: &str, entry: Entry, source: ShardSource) -> Accept {
    Accept {
        scope: scope(),
        key: key(name),
        version: VersionId::NULL,
        entry,
        shard: ShardIndex(0),
        source,
        guard: None,
    }
}

pub fn purge(name: &str, n: u64) -> DriveRequest {
    let (scope, version) = (scope(), VersionId::NULL);
    DriveRequest::Purge(Purge { scope, key: key(name), version, ballot: ballot(n) })
}

pub fn inline_put(name: &str, n: u64, body: &[u8]) -> Accept {
    let (geometry, shard) = shard_of(n, body);
    accept(name, entry(n, geometry), ShardSource::Inline(shard))
}
