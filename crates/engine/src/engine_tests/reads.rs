//! Reads when shards are rotten, gone or late, and while writes go on.

use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, future::join_all};

use super::{World, open};
use crate::{
    StoreError,
    api::Wanted,
    testing::{MemoryNode, pattern},
};

const SIZES: [usize; 3] = [10_240, 200_000, 3 << 20];

/// Goal: up to m rotten or lost shards cost nothing but time; more are an error, never wrong bytes.
/// Method: rot shards one by one on 4 x 1 (k = 2, m = 2).
#[tokio::test(start_paused = true)]
async fn rotten_shards_are_read_around() {
    for size in SIZES {
        for lost in [false, true] {
            let world = World::new(4, 1);
            let bytes = pattern(5, size);
            world.put("k", &bytes).await.unwrap();
            world.settle().await;
            let operation = world.operation("k").await;
            for (harmed, (node, drive)) in world.drives().into_iter().enumerate() {
                let read = world.get("k").await;
                if harmed <= 2 {
                    assert!(read.unwrap() == bytes, "{size} {harmed}");
                } else {
                    assert!(matches!(read, Err(StoreError::BelowQuorum { .. })), "{read:?}");
                }
                let done = if lost {
                    node.with_drive(drive, |d| d.lose_shard(operation))
                } else {
                    node.rot(drive, operation)
                };
                assert!(done);
            }
        }
    }
}

/// Goal: a node that vanishes in the middle of a stream is replaced by spares. Method: read half, take
/// a node away, read on.
#[tokio::test(start_paused = true)]
async fn a_node_lost_in_midstream_is_replaced() {
    let world = World::new(4, 4);
    let bytes = pattern(5, 12 << 20);
    world.put("k", &bytes).await.unwrap();
    let mut read = open(&world.engine, "k", Wanted::Whole).await.unwrap();
    let mut got = read.body.next().await.unwrap().unwrap().to_vec();
    world.nodes[1].set_all_down(true);
    while let Some(chunk) = read.body.next().await {
        got.extend_from_slice(&chunk.unwrap());
    }
    assert!(got == bytes);
}

/// Goal: a late shard is hedged. Method: one drive takes 10 s a block; the read takes far less.
#[tokio::test(start_paused = true)]
async fn a_late_shard_is_hedged() {
    let world = World::new(4, 1);
    let bytes = pattern(5, 2 << 20);
    world.put("k", &bytes).await.unwrap();
    for (node, drive) in world.drives().into_iter().take(2) {
        node.set_block_delay(drive, Duration::from_secs(10));
    }
    let begun = crate::task::after(Duration::ZERO);
    assert!(world.get("k").await.unwrap() == bytes);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

/// Goal: a GET that began before an overwrite ends with the old bytes: its pins hold them. Method: read
/// the first chunk, overwrite and settle, read on; then the pins are gone and so are the bytes.
#[tokio::test(start_paused = true)]
async fn a_get_keeps_its_entry_while_it_is_overwritten() {
    let world = World::new(4, 1);
    let (old, new) = (pattern(1, 4 << 20), pattern(2, 100));
    world.put("k", &old).await.unwrap();
    let mut read = open(&world.engine, "k", Wanted::Whole).await.unwrap();
    let mut got = read.body.next().await.unwrap().unwrap().to_vec();
    world.put("k", &new).await.unwrap();
    world.settle().await;
    while let Some(chunk) = read.body.next().await {
        got.extend_from_slice(&chunk.unwrap());
    }
    assert!(got == old);
    drop(read);
    world.settle().await;
    assert!(world.get("k").await.unwrap() == new);
    let pins = |(node, drive): &(_, _)| {
        let node: &std::sync::Arc<crate::testing::MemoryNode> = node;
        node.with_drive(*drive, |d| d.pin_count())
    };
    assert_eq!(world.drives().iter().map(pins).sum::<usize>(), 0);
}

/// Goal: reads never go back while writes, restarts and lost answers go on. Method: a writer counts up
/// by the body's length, readers on two engines see it only grow.
#[tokio::test(start_paused = true)]
async fn reads_never_go_back() {
    let world = World::new(4, 1);
    world.put("k", &Bytes::from(vec![1; 1])).await.unwrap();
    let writer = async {
        for len in 2..60_usize {
            let (node, drive) = world.drives()[len % 4].clone();
            match len % 5 {
                0 => node.drop_answers(drive, 2),
                1 => node.restart(drive),
                2 => node.set_delay(drive, Duration::from_millis(30)),
                _ => world.drives().iter().for_each(|(n, d)| n.set_delay(*d, Duration::ZERO)),
            }
            while world.put("k", &Bytes::from(vec![1; len])).await.is_err() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            tokio::time::sleep(Duration::from_millis(7)).await;
        }
    };
    let reader = || async {
        let mut last = 0;
        while last < 59 {
            match world.get("k").await {
                Ok(read) => {
                    assert!(read.len() >= last, "{} after {last}", read.len());
                    last = read.len();
                }
                Err(error) => assert!(!matches!(error, StoreError::NoSuchKey { .. }), "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    };
    tokio::join!(writer, join_all([reader(), reader(), reader()]));
}

/// Goal: a healthy GET costs one round and its streams, and moves what it serves: of a stripe wanted in
/// part only the blocks with wanted bytes. Method: messages, streams and blocks are counted at the
/// nodes of 4 x 4 (k = 12, blocks of 128 KiB) for bodies and ranges.
#[tokio::test(start_paused = true)]
async fn a_healthy_get_costs_one_round_and_the_blocks_it_wants() {
    let world = World::new(4, 4);
    let size = 8_u64 << 20;
    let bytes = pattern(5, size as usize);
    world.put("k", &bytes).await.unwrap();
    world.settle().await;
    let payload = u64::from(holdfast_types::Geometry::new(12, 16, size).block_payload());
    let stripe = 12 * payload;
    let count = |world: &World| {
        let of = |f: fn(&MemoryNode) -> u64| world.nodes.iter().map(|n| f(n)).sum::<u64>();
        (of(MemoryNode::calls), of(MemoryNode::streams), of(MemoryNode::blocks_read))
    };
    let range = |first, len| Wanted::Range { first, last: Some(first + len - 1) };
    // What is wanted, the streams and the blocks it may cost.
    let rows = [
        (Wanted::Whole, 12, 6 * 12),
        (range(100, 4096), 1, 1),
        (range(payload - 10, 20), 2, 2),
        (range(stripe - 10, 20), 2, 2),
        (range(stripe - 10, stripe + 20), 12, 14),
        (Wanted::Suffix(1), 1, 1),
    ];
    for (wanted, streams, blocks) in rows {
        let before = count(&world);
        let read = open(&world.engine, "k", wanted).await.unwrap();
        let (from, to) = (read.range.start as usize, read.range.end as usize);
        let chunks: Vec<Bytes> = read.body.map(|chunk| chunk.unwrap()).collect().await;
        assert!(chunks.concat() == bytes[from..to], "{wanted:?}");
        world.settle().await;
        let after = count(&world);
        let cost = (after.0 - before.0, after.1 - before.1, after.2 - before.2);
        let moved = cost.2 as f64 * payload as f64 / (to - from) as f64;
        println!("{wanted:?}: {cost:?} messages, streams, blocks; {moved:.2} bytes moved per byte");
        assert!(cost.0 <= 2, "R = 5 drives are on two nodes: {wanted:?} {cost:?}");
        assert!(cost.1 <= streams + 2 && cost.2 <= blocks, "{wanted:?} {cost:?}");
    }
}

/// Goal: a range is read around what is rotten, gone or late, as a whole body is. Method: the same ranges
/// with each data shard of 4 x 1 harmed in turn.
#[tokio::test(start_paused = true)]
async fn ranges_are_read_around_harm() {
    for harm in 0..3 {
        for at in 0..4 {
            let world = World::new(4, 1);
            let bytes = pattern(5, 3 << 20);
            world.put("k", &bytes).await.unwrap();
            world.settle().await;
            let operation = world.operation("k").await;
            let (node, drive) = world.drives()[at].clone();
            match harm {
                0 => assert!(node.rot(drive, operation)),
                1 => assert!(node.with_drive(drive, |d| d.lose_shard(operation))),
                _ => node.set_block_delay(drive, Duration::from_secs(10)),
            }
            for first in (0..(3 << 20) - 300_000).step_by(99_991) {
                let wanted = Wanted::Range { first, last: Some(first + 299_999) };
                let got = super::get(&world.engine, "k", wanted).await.unwrap();
                let first = first as usize;
                assert!(got == bytes[first..first + 300_000], "{harm} {at} {first}");
            }
        }
    }
}

/// Goal: a rotten block costs its shard that block alone: a body of whose every stripe k blocks are good
/// is read, in whole and in ranges, and the healer restores every shard of it, from the one it restores,
/// too (INV-ROT-1). Method: 4 x 1 (k = 2): two blocks of each stripe rot, in rising order of drives, so
/// that no drive keeps a whole shard.
#[tokio::test(start_paused = true)]
async fn shards_rotten_in_different_stripes_are_read_and_heal() {
    let world = World::new(4, 1);
    let bytes = pattern(5, 3 << 20);
    world.put("k", &bytes).await.unwrap();
    world.settle().await;
    let (key, operation) = (super::register("k"), world.operation("k").await);
    let set = world.engine.set_for(&key);
    let found = set.read(super::bucket_stamp(), &key, None).await.unwrap().unwrap();
    let geometry = found.entry.geometry;
    let stripes = geometry.stripe_count();
    assert!(stripes >= 4, "each drive is rotten somewhere: {geometry:?}");
    for (at, (node, drive)) in world.drives().into_iter().enumerate() {
        for stripe in 0..stripes {
            if [stripe as usize % 4, (stripe as usize + 1) % 4].contains(&at) {
                let offset = geometry.block_offset(stripe) as usize + 5;
                assert!(node.with_drive(drive, |d| d.rot_at(operation, offset)));
            }
        }
    }
    assert!(world.get("k").await.unwrap() == bytes);
    for first in (0..(3 << 20) - 300_000).step_by(399_991) {
        let wanted = Wanted::Range { first, last: Some(first + 299_999) };
        let got = super::get(&world.engine, "k", wanted).await.unwrap();
        assert!(got == bytes[first as usize..first as usize + 300_000], "{first}");
    }
    for _ in 0..4 {
        world.settle().await;
        for node in 0..4 {
            world.engine.work_off(holdfast_types::NodeIndex(node)).await;
        }
        assert!(world.get("k").await.unwrap() == bytes);
    }
    assert!(super::healing::is_whole(&world, "k").await);
    let rotten = |(node, drive): &(_, _)| {
        let node: &std::sync::Arc<MemoryNode> = node;
        node.with_drive(*drive, |d| d.rotten_count())
    };
    assert_eq!(world.drives().iter().map(rotten).sum::<usize>(), 0);
}
