//! What is put is got, whole and in ranges, at every size class and set size.

use bytes::Bytes;
use futures::stream;

use super::{World, get, open, register};
use crate::{
    StoreError,
    api::{PutObject, Wanted},
    testing::{body_from, bucket_stamp, pattern},
};

/// Bytes of each size class: none, tiny, around the tiny bound, inline, streamed, several stripes.
const SIZES: [usize; 9] =
    [0, 1, 10_240, 16_384, 16_385, 200_000, 1 << 20, 5 << 20, (3 << 20) + 12_345];

/// Goal: bodies of every size class come back as they went, from sets of every shape. Method: put and
/// get on 1, 2, 4, 6 and 16 drives.
#[tokio::test]
async fn bodies_come_back_as_they_went() {
    for (nodes, drives) in [(1, 1), (1, 2), (1, 4), (2, 3), (4, 4)] {
        let world = World::new(nodes, drives);
        for size in SIZES {
            let (key, bytes) = (format!("k/{size}"), pattern(size as u64, size));
            let info = world.put(&key, &bytes).await.unwrap();
            assert_eq!(info.meta.size, size as u64);
            assert!(world.get(&key).await.unwrap() == bytes, "{nodes}x{drives} {size}");
        }
    }
}

/// Goal: ranges give their bytes, around every stripe boundary. Method: compare with slices.
#[tokio::test]
async fn ranges_give_their_bytes() {
    let world = World::new(4, 1);
    let bytes = pattern(3, 1_000_000);
    world.put("k", &bytes).await.unwrap();
    let stripe = 2 * (131_072 - 16);
    for at in [0, 1, stripe - 1, stripe, stripe + 1, 2 * stripe - 1, 999_999] {
        for len in [1, 2, 1000, stripe, 1_000_000] {
            let last = Some((at + len - 1) as u64);
            let wanted = Wanted::Range { first: at as u64, last };
            let expected = bytes.slice(at..(at + len).min(1_000_000));
            assert!(get(&world.engine, "k", wanted).await.unwrap() == expected, "{at}+{len}");
        }
    }
    assert_eq!(get(&world.engine, "k", Wanted::Suffix(10)).await.unwrap(), bytes.slice(999_990..));
}

/// Goal: a range touches only the blocks it needs. Method: count the blocks sent.
#[tokio::test]
async fn a_range_touches_only_its_blocks() {
    let world = World::new(4, 1);
    world.put("k", &pattern(3, 4 << 20)).await.unwrap();
    let before: u64 = world.nodes.iter().map(|node| node.blocks_read()).sum();
    let wanted = Wanted::Range { first: 2 << 20, last: Some((2 << 20) + 10) };
    get(&world.engine, "k", wanted).await.unwrap();
    let after: u64 = world.nodes.iter().map(|node| node.blocks_read()).sum();
    assert_eq!(after - before, 1, "one block of one of two data shards");
}

/// Goal: an overwrite replaces, a delete removes, a delete of nothing succeeds. Method: in turn.
#[tokio::test(start_paused = true)]
async fn overwrites_replace_and_deletes_remove() {
    let world = World::new(4, 4);
    world.delete("k").await.unwrap();
    for size in [100, 300_000, 2 << 20, 50] {
        let bytes = pattern(size as u64, size);
        world.put("k", &bytes).await.unwrap();
        assert!(world.get("k").await.unwrap() == bytes);
    }
    world.delete("k").await.unwrap();
    let gone = StoreError::NoSuchKey { delete_marker: false };
    assert_eq!(world.get("k").await, Err(gone));
    world.settle().await;
    // Nothing but the tombstone is left: the bytes of all overwritten bodies were freed.
    for (node, drive) in world.drives() {
        assert_eq!(node.with_drive(drive, |d| d.shard_count()), 0);
        assert_eq!(node.with_drive(drive, |d| d.state(&register("k")).registers.len()), 1);
    }
}

/// Goal: a small PUT is one message a node, a GET of a tiny object asks one remote node besides its
/// own. Method: count messages on 4 x 4.
#[tokio::test(start_paused = true)]
async fn small_requests_cost_one_message_a_node() {
    let world = World::new(4, 4);
    let calls = || world.nodes.iter().map(|node| node.calls()).sum::<u64>();
    let before = calls();
    world.put("k", &pattern(1, 10_240)).await.unwrap();
    assert_eq!(calls() - before, 4);
    world.settle().await;
    let before = calls();
    world.get("k").await.unwrap();
    assert_eq!(calls() - before, 2, "four local drives and one more are a read quorum");
}

/// Goal: a body that fails on its way leaves nothing. Method: a stream that ends with an error, small
/// and large.
#[tokio::test(start_paused = true)]
async fn a_body_that_fails_leaves_nothing() {
    let world = World::new(4, 1);
    for size in [1000, 3 << 20] {
        let error =
            StoreError::BodyRejected { code: "BadDigest", message: "does not match".to_owned() };
        let chunks = vec![Ok(pattern(1, size)), Err(error.clone())];
        let put = PutObject { key: Bytes::from_static(b"k"), ..PutObject::default() };
        let body = body_from(stream::iter(chunks));
        let outcome = world.engine.put_under(bucket_stamp(), put, body).await;
        assert_eq!(outcome, Err(error));
    }
    let missing = open(&world.engine, "k", Wanted::Whole).await.err();
    assert_eq!(missing, Some(StoreError::NoSuchKey { delete_marker: false }));
    assert!(
        world.drives().iter().all(|(node, drive)| node.with_drive(*drive, |d| d.key_count() == 0))
    );
}

/// Goal: memory stays bounded however long the body is. Method: 256 MiB through an engine that may hold
/// 24 MiB; more than a stripe's share would be refused.
#[tokio::test]
async fn a_long_stream_needs_little_memory() {
    let knobs = crate::Knobs { body_bytes_max: 4 << 20, background: false, ..Default::default() };
    let (engine, nodes) = crate::testing::cluster_with(4, 1, knobs);
    let chunk = pattern(9, 1 << 20);
    let chunks = std::iter::repeat_n(chunk.clone(), 32).map(Ok);
    let put = PutObject { key: Bytes::from_static(b"k"), ..PutObject::default() };
    let info =
        engine.put_under(bucket_stamp(), put, body_from(stream::iter(chunks))).await.unwrap();
    assert_eq!(info.meta.size, 32 << 20);
    let read = open(&engine, "k", Wanted::Whole).await.unwrap();
    // A reader that takes one chunk and waits: the engine reads ahead no further than its bound.
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    let ahead: u64 = nodes.iter().map(|node| node.blocks_read()).sum();
    assert!(ahead <= 2 * 4, "{ahead} blocks read for a reader that took none");
    drop(read);
    assert!(get(&engine, "k", Wanted::Suffix(1 << 20)).await.unwrap() == chunk);
}
