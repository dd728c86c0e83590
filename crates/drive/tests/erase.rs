//! Of a deleted bucket nothing stays (INV-BUCKET-4). Method: a drive on the simulated disk takes
//! objects, an upload and a part, inline and in volumes, settled and not; then the deletion's stamp. A
//! crash in between leaves the rest for the next open.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use holdfast_drive::{
    Drive, DriveOptions, Identity,
    api::{
        Accept, ChoreKind, DriveReply, DriveRequest, DriveResult, ListChores, Scope, ShardSource,
        UploadTarget,
    },
    disk::Disk,
    disk_sim::SimDisk,
    volume::VolumeSizes,
};
use holdfast_erasure::{Salt, encode_body};
use holdfast_types::{
    Ballot, BucketEpoch, BucketId, BucketPhase, BucketStamp, ClusterId, DriveId, Entry, EntryKind,
    Geometry, HybridTime, OperationId, RegisterKey, SetEpoch, SetIndex, ShardIndex, VersionId,
    WriterId, seam::ManualClock,
};

const START_MICROS: u64 = 1_700_000_000_000_000;
const DRIVE: DriveId = DriveId(0xd1);
const DELETED: BucketId = BucketId(0xb);
const KEPT: BucketId = BucketId(0xc);

/// Registers of the deleted bucket: more than one tick erases.
const OBJECTS: u64 = 700;

struct Rig {
    disk: Arc<dyn Disk>,
    drive: Drive,
    ballots: u64,
}

fn options() -> DriveOptions {
    let volumes = VolumeSizes { first: 1 << 20, max: 4 << 20, reserve: 0 };
    DriveOptions { segment_bytes: 1 << 20, volumes, ..DriveOptions::default() }
}

fn scope(bucket: BucketId) -> Scope {
    let stamp = BucketStamp { id: bucket, epoch: BucketEpoch(1), phase: BucketPhase::Live };
    Scope { bucket: stamp, set: SetIndex(0), set_epoch: SetEpoch(0) }
}

impl Rig {
    fn new() -> Self {
        let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(1 << 30));
        let set = Some(SetIndex(0));
        let identity = Identity { drive: DRIVE, cluster: ClusterId(1), set, formatted_at: 1 };
        Drive::format(&disk, &identity, &options()).unwrap();
        let drive = open(&disk);
        Self { disk, drive, ballots: 0 }
    }

    fn call(&mut self, request: DriveRequest) -> DriveResult {
        let slot = Arc::new(Mutex::new(None));
        let filled = slot.clone();
        self.drive.handle(request, Box::new(move |r| *filled.lock().unwrap() = Some(r)));
        self.look_up();
        self.drive.flush();
        let answer = slot.lock().unwrap().take();
        answer.expect("every request is answered once its batch is durable")
    }

    /// Accepts a body of one shard, streamed when `streams`.
    fn put(&mut self, key: RegisterKey, body: &[u8], streams: bool) {
        self.ballots += 1;
        let time = HybridTime::from_micros(START_MICROS + self.ballots);
        let ballot = Ballot { generation: 1, time, writer: WriterId(1) };
        let operation = OperationId(self.ballots.into());
        let geometry = Geometry::new(1, 1, body.len() as u64);
        let salts = [Salt { operation, drive: DRIVE, shard: ShardIndex(0) }];
        let shard = encode_body(&geometry, body, &salts).swap_remove(0);
        let scope = scope(key.bucket);
        let source = if streams {
            let (drive, key, shard_at) = (DRIVE, key.clone(), ShardIndex(0));
            let target = UploadTarget { drive, scope, key, operation, shard: shard_at, geometry };
            let mut upload = self.drive.upload_port().begin(&target).unwrap();
            upload.write(&shard).unwrap();
            ShardSource::Upload(upload.finish().unwrap())
        } else {
            ShardSource::Inline(shard)
        };
        let (kind, metadata, parts) = (EntryKind::Put, Bytes::new(), Vec::new());
        let entry = Entry { ballot, order: ballot, operation, kind, geometry, metadata, parts };
        let (version, shard, guard) = (VersionId::NULL, ShardIndex(0), None);
        let accept = Accept { scope, key, version, entry, shard, source, guard };
        let accepted = self.call(DriveRequest::Accept(accept));
        assert!(matches!(accepted, Ok(DriveReply::Accepted(_))), "{accepted:?}");
    }

    fn buckets(&mut self) -> Vec<BucketId> {
        let list = ListChores { kind: ChoreKind::Buckets, age_micros: 0, after: None, limit: 10 };
        match self.call(DriveRequest::ListChores(list)) {
            Ok(DriveReply::Chores(chores)) => chores.into_iter().map(|c| c.key.bucket).collect(),
            other => panic!("{other:?}"),
        }
    }

    fn tick(&mut self) {
        for job in self.drive.tick() {
            let outcome = job.run();
            self.drive.job_done(outcome);
        }
        self.look_up();
        self.drive.flush();
    }

    /// What a drive's I/O threads do for who waits.
    fn look_up(&mut self) {
        while self.drive.waiting() > 0 {
            for job in self.drive.take_load_jobs() {
                let outcome = job.run();
                self.drive.loaded(outcome);
            }
            if let Some(job) = self.drive.log_jobs() {
                let outcome = job.run();
                self.drive.job_done(outcome);
            }
        }
    }
}

fn open(disk: &Arc<dyn Disk>) -> Drive {
    let clock = Arc::new(ManualClock::at(START_MICROS));
    Drive::open(disk.clone(), options(), clock).unwrap()
}

#[test]
fn a_deleted_bucket_leaves_nothing_and_takes_nothing_else_along() {
    let mut rig = Rig::new();
    rig.put(RegisterKey::object(KEPT, "k"), &[1; 5000], false);
    let kept = rig.drive.facts();
    for at in 0..OBJECTS {
        rig.put(RegisterKey::object(DELETED, format!("k{at}")), &[2; 300], false);
    }
    rig.put(RegisterKey::upload(DELETED, b"u", OperationId(7)), &[3; 100], false);
    rig.put(RegisterKey::part(DELETED, b"u", OperationId(7), 1), &[4; 300_000], true);
    assert_eq!(rig.buckets(), [DELETED, KEPT]);
    let gone = Scope { bucket: BucketStamp::gone(DELETED), ..scope(DELETED) };
    assert_eq!(rig.call(DriveRequest::InstallBucket(gone)), Ok(DriveReply::Done));
    assert_eq!(rig.buckets(), [KEPT]);
    rig.tick();
    let some = rig.drive.facts().registers;
    assert!(kept.registers < some && some < OBJECTS, "{some} registers after one tick");
    // A crash in between.
    rig.drive = open(&rig.disk);
    for _ in 0..16 {
        rig.tick();
    }
    let left = rig.drive.facts();
    assert_eq!((left.registers, left.used_bytes), (kept.registers, kept.used_bytes));
    rig.drive.audit().unwrap();
    rig.drive.audit_blocks().unwrap();
    rig.drive = open(&rig.disk);
    assert_eq!(rig.drive.facts().used_bytes, kept.used_bytes);
}
