//! Shards up and down.

use std::{sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use futures::StreamExt;
use holdfast_drive::{
    api::{Scope, ShardRead, UploadHandle, UploadTarget},
    node::Node,
};
use holdfast_types::{
    BucketId, BucketStamp, DriveId, Geometry, OperationId, RegisterKey, SetEpoch, SetIndex,
    ShardIndex,
};

use crate::{
    double::{BROKEN, failure},
    rig::Server,
};

fn scope() -> Scope {
    Scope { bucket: BucketStamp::REGISTRY, set: SetIndex(0), set_epoch: SetEpoch(0) }
}

fn target(drive: DriveId, shard: u8) -> UploadTarget {
    UploadTarget {
        drive,
        scope: scope(),
        key: RegisterKey::object(BucketId(7), vec![b'k'; 1024]),
        operation: OperationId(3),
        shard: ShardIndex(shard),
        geometry: Geometry::new(3, 4, 64 << 20),
    }
}

fn read(drive: DriveId, first_block: u64, block_count: u64) -> ShardRead {
    ShardRead {
        drive,
        scope: scope(),
        operation: OperationId(3),
        shard: ShardIndex(0),
        geometry: Geometry::new(3, 4, 64 << 20),
        first_block,
        block_count,
    }
}

/// Goal: bytes arrive whole and in order, however long the pieces they are sent in; each target has
/// its own result. Method: three targets, one of which fails at the end.
#[tokio::test]
async fn an_upload_arrives_whole_for_every_target() {
    let server = Server::start().await;
    let client = server.client();
    let targets = vec![target(DriveId(1), 0), target(DriveId(2), 9), target(DriveId(3), 15)];
    let mut upload = client.upload(targets).await.expect("let in");
    let block = 128 << 10;
    let mut sent = vec![Vec::new(); 3];
    for round in 0..5_u8 {
        for (n, sent) in sent.iter_mut().enumerate() {
            let blocks = vec![round * 3 + n as u8; block * (1 + 11 * usize::from(round % 2))];
            sent.extend_from_slice(&blocks);
            upload.send(n, Bytes::from(blocks)).await.expect("taken");
        }
    }
    upload.send(1, Bytes::from_static(b"the last, shorter block")).await.expect("taken");
    sent[1].extend_from_slice(b"the last, shorter block");
    let results = upload.finish().await;
    let done = |upload| Ok(UploadHandle { open: 1, upload });
    assert_eq!(results, [done(0), Err(failure(DriveId(2))), done(2)]);
    for (n, (drive, bytes)) in server.node.shards.lock().iter().enumerate() {
        assert_eq!(*drive, DriveId(n as u128 + 1));
        assert!(*bytes == sent[n], "shard {n}");
    }
}

/// An upload that is dropped must not pass for a finished one.
#[tokio::test]
async fn a_dropped_upload_leaves_nothing() {
    let server = Server::start().await;
    let client = server.client();
    let mut upload = client.upload(vec![target(DriveId(1), 0)]).await.expect("let in");
    upload.send(0, Bytes::from(vec![1; 4096])).await.expect("taken");
    drop(upload);
    for _ in 0..200 {
        if server.node.uploads_dropped.load(Ordering::SeqCst) == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(server.node.uploads_dropped.load(Ordering::SeqCst), 1, "the node let go of it");
    assert!(server.node.shards.lock().is_empty());
}

#[tokio::test]
async fn refusals_of_streams_keep_their_type() {
    let server = Server::start().await;
    let client = server.client();
    let refused = client.upload(vec![target(BROKEN, 0)]).await.err();
    assert_eq!(refused, Some(failure(BROKEN)));
    let refused = client.read_shard(read(BROKEN, 0, 1)).await.err();
    assert_eq!(refused, Some(failure(BROKEN)));
}

/// Goal: blocks come in order and end with the range; an error in the midst keeps its type and ends the
/// stream. Method: 40 blocks; then a range over the block that fails.
#[tokio::test]
async fn a_shard_is_read_in_order_and_errors_come_in_the_stream() {
    let server = Server::start().await;
    let client = server.client();
    let mut blocks = client.read_shard(read(DriveId(1), 20, 40)).await.expect("opened");
    for n in 20..60_u8 {
        let block = blocks.next().await.expect("a block").expect("whole");
        assert!(block.len() == 128 << 10 && block.iter().all(|byte| *byte == n), "block {n}");
    }
    assert!(blocks.next().await.is_none());
    let mut blocks = client.read_shard(read(DriveId(1), 12, 40)).await.expect("opened");
    assert!(blocks.next().await.expect("a block").is_ok());
    assert_eq!(blocks.next().await.expect("an error"), Err(failure(DriveId(1))));
    assert!(blocks.next().await.is_none());
}

/// Streams given up midway give their windows back: twenty of them do not starve the next.
#[tokio::test]
async fn a_reader_may_stop_midway_and_the_connection_lives_on() {
    let server = Server::start().await;
    let client = server.client();
    for _ in 0..20 {
        let mut blocks = client.read_shard(read(DriveId(1), 100, 10_000)).await.expect("opened");
        assert!(blocks.next().await.expect("a block").is_ok());
    }
    let mut blocks = client.read_shard(read(DriveId(1), 14, 2)).await.expect("opened");
    assert!(blocks.next().await.expect("a block").is_ok());
    assert!(blocks.next().await.expect("a block").is_ok());
    assert!(blocks.next().await.is_none());
}
