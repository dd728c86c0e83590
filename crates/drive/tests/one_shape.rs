//! An operation has one shape, and its bytes are where an entry says they are. A conditional write
//! that evaluated again used to encode its body anew under the same operation; drives that had taken
//! the first attempt then answered for shards of the old shape, and the acknowledged object could not
//! be read. Method: a drive on the simulated disk is asked to accept one operation in two shapes, and
//! to adopt an operation whose shard it does not have.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use holdfast_drive::{
    Drive, DriveOptions, Identity,
    api::{Accept, DriveError, DriveReply, DriveRequest, DriveResult, Scope, ShardSource},
    disk::Disk,
    disk_sim::SimDisk,
};
use holdfast_erasure::{Salt, encode_body};
use holdfast_register::{Refusal, ShardStatus};
use holdfast_types::{
    Ballot, BucketEpoch, BucketId, BucketPhase, BucketStamp, ClusterId, DriveId, Entry, EntryKind,
    Geometry, HybridTime, OperationId, RegisterKey, SetEpoch, SetIndex, ShardIndex, VersionId,
    WriterId, seam::ManualClock,
};

const START_MICROS: u64 = 1_700_000_000_000_000;
const DRIVE: DriveId = DriveId(0xd1);
const OPERATION: OperationId = OperationId(7);

fn open() -> Drive {
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(1 << 30));
    let identity =
        Identity { drive: DRIVE, cluster: ClusterId(1), set: Some(SetIndex(0)), formatted_at: 1 };
    let options = DriveOptions { segment_bytes: 1 << 20, ..DriveOptions::default() };
    Drive::format(&disk, &identity, &options).unwrap();
    Drive::open(disk, options, Arc::new(ManualClock::at(START_MICROS))).unwrap()
}

/// The same body in a code of `data_shards` of 16, under the n-th ballot.
fn accept(n: u64, data_shards: u8, held: bool) -> DriveRequest {
    let body = vec![5; 40_000];
    let geometry = Geometry::new(data_shards, 16, body.len() as u64);
    let salt = |shard| Salt { operation: OPERATION, drive: DRIVE, shard: ShardIndex(shard) };
    let salts: Vec<Salt> = (0..16).map(salt).collect();
    let shard = encode_body(&geometry, &body, &salts).swap_remove(0);
    let time = HybridTime::from_micros(START_MICROS + n);
    let ballot = Ballot { generation: 1, time, writer: WriterId(1) };
    let (id, epoch, phase) = (BucketId(0xb), BucketEpoch(1), BucketPhase::Live);
    DriveRequest::Accept(Accept {
        scope: Scope {
            bucket: BucketStamp { id, epoch, phase },
            set: SetIndex(0),
            set_epoch: SetEpoch(0),
        },
        key: RegisterKey::object(id, "key"),
        version: VersionId::NULL,
        entry: Entry {
            ballot,
            order: ballot,
            operation: OPERATION,
            kind: EntryKind::Put,
            geometry,
            metadata: Bytes::new(),
            parts: Vec::new(),
        },
        shard: ShardIndex(0),
        source: if held { ShardSource::Held } else { ShardSource::Inline(shard) },
        guard: None,
    })
}

fn call(drive: &mut Drive, request: DriveRequest) -> DriveResult {
    let slot = Arc::new(Mutex::new(None));
    let filled = slot.clone();
    drive.handle(request, Box::new(move |answer| *filled.lock().unwrap() = Some(answer)));
    while let Some(job) = drive.take_batch() {
        let outcome = job.run();
        drive.batch_done(outcome);
    }
    let answer = slot.lock().unwrap().take();
    answer.expect("an accept is answered once its batch is durable")
}

fn lost() -> DriveResult {
    Err(DriveError::Refused { drive: DRIVE, refusal: Refusal::UploadLost })
}

#[test]
fn bytes_of_another_shape_never_stand_in() {
    let mut drive = open();
    let present = Ok(DriveReply::Accepted(ShardStatus::Present));
    assert_eq!(call(&mut drive, accept(1, 12, false)), present);
    assert_eq!(call(&mut drive, accept(2, 8, false)), lost());
    assert_eq!(call(&mut drive, accept(3, 12, true)), present, "the same shape is adopted");
}

#[test]
fn a_shard_believed_held_must_be_there() {
    let mut drive = open();
    assert_eq!(call(&mut drive, accept(1, 12, true)), lost());
}
