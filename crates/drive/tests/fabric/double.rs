//! A node that remembers what it was asked and answers what it is told to.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream};
use holdfast_drive::{
    api::{
        DriveError, DriveFacts, DriveReply, DriveRequest, DriveResult, ShardRead, UploadHandle,
        UploadTarget,
    },
    node::{BlockStream, Node, ShardUpload},
};
use holdfast_types::{DriveId, DriveState, ErrorClass};
use parking_lot::Mutex;

/// The drive that refuses everything.
pub const BROKEN: DriveId = DriveId(0xbad);

#[derive(Default)]
pub struct Double {
    pub calls: AtomicUsize,
    pub hang: AtomicBool,
    pub seen: Mutex<Vec<(DriveId, DriveRequest)>>,
    /// Finished uploads: all bytes of each target.
    pub shards: Arc<Mutex<Vec<(DriveId, Bytes)>>>,
    pub uploads_dropped: Arc<AtomicUsize>,
}

pub fn failure(drive: DriveId) -> DriveError {
    DriveError::failed(drive, ErrorClass::Damaged, "read block 3: checksum does not match")
}

pub fn facts(drive: DriveId) -> DriveReply {
    DriveReply::Facts(DriveFacts {
        drive,
        path: "/mnt/holdfast1".to_owned(),
        state: DriveState::Healthy,
        reason: String::new(),
        capacity_bytes: 1,
        free_bytes: 2,
        used_bytes: 3,
        registers: 4,
        repairs: 5,
        open_count: 6,
        syncs: 7,
        index_faults: 2,
    })
}

#[async_trait]
impl Node for Double {
    fn name(&self) -> &str {
        "double"
    }

    async fn call(&self, _: Duration, batch: Vec<(DriveId, DriveRequest)>) -> Vec<DriveResult> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if self.hang.load(Ordering::SeqCst) {
            futures::future::pending::<()>().await;
        }
        let answer = |(drive, request): &(DriveId, DriveRequest)| match request {
            _ if *drive == BROKEN => Err(failure(*drive)),
            DriveRequest::Facts => Ok(facts(*drive)),
            _ => Ok(DriveReply::Done),
        };
        let results = batch.iter().map(answer).collect();
        self.seen.lock().extend(batch);
        results
    }

    async fn upload(&self, targets: Vec<UploadTarget>) -> Result<Box<dyn ShardUpload>, DriveError> {
        if targets.iter().any(|target| target.drive == BROKEN) {
            return Err(failure(BROKEN));
        }
        let bytes = vec![BytesMut::new(); targets.len()];
        let drops = DropCount(self.uploads_dropped.clone());
        let shards = self.shards.clone();
        Ok(Box::new(DoubleUpload { shards, targets, bytes, _drops: drops }))
    }

    async fn read_shard(&self, read: ShardRead) -> Result<BlockStream, DriveError> {
        if read.drive == BROKEN {
            return Err(failure(BROKEN));
        }
        let block = usize::try_from(read.geometry.block_bytes).expect("a block fits memory");
        let fill = move |n: u64| Bytes::from(vec![n as u8; block]);
        let blocks = (read.first_block..read.first_block + read.block_count)
            .map(move |n| if n == 13 { Err(failure(read.drive)) } else { Ok(fill(n)) });
        Ok(stream::iter(blocks).boxed())
    }
}

struct DropCount(Arc<AtomicUsize>);

impl Drop for DropCount {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

struct DoubleUpload {
    shards: Arc<Mutex<Vec<(DriveId, Bytes)>>>,
    targets: Vec<UploadTarget>,
    bytes: Vec<BytesMut>,
    _drops: DropCount,
}

#[async_trait]
impl ShardUpload for DoubleUpload {
    async fn send(&mut self, target: usize, blocks: Bytes) -> Result<(), DriveError> {
        self.bytes[target].extend_from_slice(&blocks);
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Vec<Result<UploadHandle, DriveError>> {
        let mut shards = self.shards.lock();
        let each = self.targets.iter().zip(self.bytes).enumerate();
        let results = each.map(|(n, (target, bytes))| {
            shards.push((target.drive, bytes.freeze()));
            match target.shard.0 {
                9 => Err(failure(target.drive)),
                _ => Ok(UploadHandle { open: 1, upload: n as u64 }),
            }
        });
        results.collect()
    }
}
