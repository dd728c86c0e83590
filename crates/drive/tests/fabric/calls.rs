//! Batches.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use holdfast_drive::{
    api::{Accept, DriveReply, DriveRequest, Scope, ShardSource},
    node::Node,
};
use holdfast_types::{
    Ballot, BucketId, BucketStamp, DriveId, Entry, EntryKind, Geometry, OperationId, RegisterKey,
    SetEpoch, SetIndex, ShardIndex, VersionId,
};

use crate::{
    double::{BROKEN, facts, failure},
    rig::{SECOND, Server},
};

fn accept(n: u8, bytes: usize) -> DriveRequest {
    let bucket = BucketStamp::REGISTRY;
    DriveRequest::Accept(Accept {
        scope: Scope { bucket, set: SetIndex(0), set_epoch: SetEpoch(0) },
        key: RegisterKey::object(BucketId(7), &b"key"[..]),
        version: VersionId::NULL,
        entry: Entry {
            ballot: Ballot::ZERO,
            order: Ballot::ZERO,
            operation: OperationId(n.into()),
            kind: EntryKind::Put,
            geometry: Geometry::EMPTY,
            metadata: Bytes::new(),
            parts: Vec::new(),
        },
        shard: ShardIndex(n % 16),
        source: ShardSource::Inline(Bytes::from(vec![n; bytes])),
        guard: None,
    })
}

/// One drive's error is its own: the others' answers stand, each in its place.
#[tokio::test]
async fn every_request_gets_its_own_answer_in_order() {
    let server = Server::start().await;
    let client = server.client();
    let batch = vec![
        (DriveId(1), DriveRequest::Facts),
        (BROKEN, DriveRequest::Facts),
        (DriveId(2), accept(1, 5000)),
        (DriveId(2), DriveRequest::Facts),
    ];
    let results = client.call(SECOND, batch.clone()).await;
    let (first, last) = (Ok(facts(DriveId(1))), Ok(facts(DriveId(2))));
    assert_eq!(results, [first, Err(failure(BROKEN)), Ok(DriveReply::Done), last]);
    assert_eq!(*server.node.seen.lock(), batch);
    assert!(client.is_up());
    assert!(client.call(SECOND, Vec::new()).await.is_empty());
}

/// A batch beyond a message's limit goes in several, in order, and every request is answered.
#[tokio::test]
async fn a_batch_beyond_a_message_goes_in_several() {
    let server = Server::start().await;
    let client = server.client();
    let batch: Vec<_> = (0..48).map(|n| (DriveId(1), accept(n, 1 << 20))).collect();
    let results = client.call(10 * SECOND, batch.clone()).await;
    assert_eq!(results, vec![Ok(DriveReply::Done); 48]);
    assert!(*server.node.seen.lock() == batch, "requests arrive in order and whole");
    assert_eq!(server.node.calls.load(Ordering::SeqCst), 4, "16 MiB a message");
}

#[tokio::test]
async fn startup_calls_carry_documents_and_typed_errors() {
    let server = Server::start().await;
    let client = server.client();
    let opens =
        vec![holdfast_proto::v1::DriveOpens { drive: Bytes::from_static(&[7; 16]), opens: 3 }];
    let surveyed = client.survey(opens.clone()).await.expect("answered");
    assert_eq!((surveyed.node.as_str(), surveyed.opens), ("double", opens));
    client.propose(Bytes::from_static(b"layout")).await.expect("kept");
    assert_eq!(*server.papers.0.lock(), ["layout"]);
    let refused = client.commit(Bytes::new()).await.expect_err("refused");
    assert_eq!(refused.class(), holdfast_types::ErrorClass::Conflict);
    assert!(refused.to_string().contains("another layout was proposed"), "{refused}");
    assert_eq!(client.peer().await.expect("connected").name, "here");
}
