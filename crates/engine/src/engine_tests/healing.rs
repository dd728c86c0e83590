//! The way back to full width: settling, rolling forward, healing, purging.

use std::time::Duration;

use holdfast_types::{EntryKind, NodeIndex, ScrubOrder, VersionId};

use super::{World, register};
use crate::{
    Data, Draft, Knobs,
    testing::{Cluster, bucket_stamp, pattern},
};

const SIZES: [usize; 4] = [0, 10_240, 200_000, 2 << 20];

/// Whether every drive holds the key's entry settled, with all holders known and its shard there.
pub(super) async fn is_whole(world: &World, key: &str) -> bool {
    let operation = world.operation(key).await;
    let full = (1_u32 << world.drives().len()) - 1;
    world.drives().into_iter().all(|(node, drive)| {
        node.with_drive(drive, |d| {
            let state = d.state(&register(key));
            let head = state.registers.get(&VersionId::NULL).and_then(|r| r.head().cloned());
            head.is_some_and(|h| {
                let whole =
                    h.is_whole() && (!h.entry.geometry.has_data() || d.has_shard(operation));
                h.entry.operation == operation
                    && h.settled
                    && u32::from(h.holders.0) == full
                    && whole
            })
        })
    })
}

/// Goal: what was written while a node was away is brought to full width when it is back, and no
/// repair record is left. Method: write, let the node back, one pass of the workers.
#[tokio::test(start_paused = true)]
async fn a_node_that_comes_back_is_healed_to_full_width() {
    for (nodes, drives) in [(4, 1), (4, 4)] {
        let world = World::new(nodes, drives);
        world.nodes[2].set_all_down(true);
        let _ = world.put("finds out", &pattern(1, 10)).await;
        for size in SIZES {
            world.put(&format!("k/{size}"), &pattern(3, size)).await.unwrap();
        }
        world.settle().await;
        assert!(!is_whole(&world, "k/10240").await);
        world.nodes[2].set_all_down(false);
        tokio::time::sleep(Duration::from_secs(30)).await;
        let pass = world.engine.work_off(NodeIndex(0)).await;
        assert_eq!(pass.error, "");
        for size in SIZES {
            assert!(is_whole(&world, &format!("k/{size}")).await, "{nodes}x{drives} {size}");
        }
        // The write that found the node away left its entry unsettled: rolled forward in the first
        // pass, it was healed in the second.
        world.settle().await;
        world.engine.work_off(NodeIndex(0)).await;
        let again = world.engine.work_off(NodeIndex(0)).await;
        assert_eq!((again.done, again.left), (0, 0), "nothing is left to do");
    }
}

/// Goal: healed shards are real: they serve alone. Method: after healing, all other drives but one of
/// the old ones go away.
#[tokio::test(start_paused = true)]
async fn healed_shards_serve() {
    for size in SIZES {
        let world = World::new(4, 1);
        world.nodes[3].set_all_down(true);
        let _ = world.put("finds out", &pattern(1, 10)).await;
        world.put("k", &pattern(3, size)).await.unwrap();
        world.settle().await;
        world.nodes[3].set_all_down(false);
        tokio::time::sleep(Duration::from_secs(30)).await;
        world.engine.work_off(NodeIndex(0)).await;
        world.nodes[0].set_all_down(true);
        world.nodes[1].set_all_down(true);
        assert!(world.get("k").await.unwrap() == pattern(3, size), "{size}");
    }
}

/// Goal: rot is found by a reader, recorded by the drive that has it, healed from the others, and the
/// client never notices. Method: the shard that a GET reads first rots, or is lost, time after time, on
/// 4 x 1 and 4 x 4; a GET, a moment, one pass of the workers of that drive's node, and all is whole.
#[tokio::test(start_paused = true)]
async fn rot_is_recorded_and_healed() {
    for (nodes, drives) in [(4, 1), (4, 4)] {
        for size in SIZES.into_iter().filter(|size| *size > 0) {
            let world = World::new(nodes, drives);
            let bytes = pattern(3, size);
            world.put("k", &bytes).await.unwrap();
            world.settle().await;
            let (key, operation) = (register("k"), world.operation("k").await);
            let set = world.engine.set_for(&key);
            let route = set.shared.route(&key).unwrap();
            for round in 0..4 {
                let found = set.read(bucket_stamp(), &key, None).await.unwrap().unwrap();
                let data = found.entry.geometry.data_shards;
                let inline = crate::staged::rides_inline(&found.entry.geometry);
                let read_first = if inline {
                    set.shared.nearest(&route)
                } else {
                    set.shared.sources(&route, &found, data)
                };
                let first = read_first[round % usize::from(data)];
                let slot = set.shared.slot(route.slots[usize::from(first)]);
                let (node, drive) = (&world.nodes[slot.node.get()], slot.drive);
                let harmed = if round % 2 == 1 {
                    node.with_drive(drive, |d| d.lose_shard(operation))
                } else {
                    node.rot(drive, operation)
                };
                assert!(harmed);
                assert!(world.get("k").await.unwrap() == bytes, "never noticed");
                world.settle().await;
                let recorded = |node: &crate::testing::MemoryNode| {
                    node.with_drive(drive, |d| d.rotten_count())
                };
                assert_eq!(recorded(node), 1, "{nodes}x{drives} {size} {round}");
                assert!(!is_whole(&world, "k").await);
                let pass = world.engine.work_off(slot.node).await;
                assert_eq!((pass.error.as_str(), pass.done, pass.left), ("", 1, 0));
                assert!(is_whole(&world, "k").await, "{nodes}x{drives} {size} {round}");
                assert_eq!(recorded(node), 0);
            }
        }
    }
}

/// Goal: a drive is not believed ill because a reader says so. Method: a block is damaged on its way
/// (a reader's report about a shard that is right).
#[tokio::test(start_paused = true)]
async fn a_false_report_costs_no_shard() {
    let world = World::new(4, 1);
    world.put("k", &pattern(3, 200_000)).await.unwrap();
    world.settle().await;
    let (key, operation) = (register("k"), world.operation("k").await);
    let set = world.engine.set_for(&key).shared;
    let route = set.route(&key).unwrap();
    for shard in 0..4 {
        let version = VersionId::NULL;
        set.report(bucket_stamp(), &route, crate::report::Suspected { version, operation, shard });
    }
    world.settle().await;
    assert!(is_whole(&world, "k").await);
    let pass = world.engine.work_off(NodeIndex(0)).await;
    assert_eq!((pass.done, pass.left), (0, 0));
}

/// Goal: a write whose coordinator died after some Accepts is concluded by the resolver, either way.
/// Method: a write reaches one, two or three of four drives, all answers are lost.
#[tokio::test(start_paused = true)]
async fn what_a_dead_writer_left_is_concluded() {
    for reached in 1..=3 {
        let world = World::new(4, 1);
        let old = pattern(1, 20_000);
        world.put("k", &old).await.unwrap();
        world.settle().await;
        for (at, (node, drive)) in world.drives().into_iter().enumerate() {
            if at < reached {
                node.drop_answers(drive, usize::MAX);
            } else {
                node.set_down(drive, true);
            }
        }
        let new = pattern(2, 20_000);
        assert!(world.put("k", &new).await.is_err());
        for (node, drive) in world.drives() {
            node.set_down(drive, false);
            node.drop_answers(drive, 0);
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
        world.engine.work_off(NodeIndex(0)).await;
        world.settle().await;
        world.engine.work_off(NodeIndex(0)).await;
        let read = world.get("k").await.unwrap();
        assert!(read == old || read == new);
        assert!(is_whole(&world, "k").await, "reached {reached}");
    }
}

/// Goal: tombstones go once every drive holds them and they are old; before that they stay. Method: a
/// delete while a drive is away, then time, then the drive is back.
#[tokio::test(start_paused = true)]
async fn tombstones_go_when_every_drive_holds_them() {
    let world = World::new(4, 1);
    world.put("k", &pattern(1, 5000)).await.unwrap();
    world.settle().await;
    world.nodes[1].set_all_down(true);
    let _ = world.delete("k").await;
    world.delete("k").await.unwrap();
    tokio::time::sleep(Duration::from_secs(600)).await;
    world.engine.work_off(NodeIndex(0)).await;
    let held = |node: usize| {
        let drive = world.nodes[node].drives()[0];
        world.nodes[node].with_drive(drive, |d| d.state(&register("k")))
    };
    let head = held(0).registers[&VersionId::NULL].head().cloned().unwrap();
    assert_eq!(head.entry.kind, EntryKind::Tombstone, "kept while a drive is away");
    world.nodes[1].set_all_down(false);
    tokio::time::sleep(Duration::from_secs(60)).await;
    world.engine.work_off(NodeIndex(0)).await;
    world.engine.work_off(NodeIndex(0)).await;
    assert!((0..4).all(|node| held(node).registers.is_empty()));
    assert!(world.get("k").await.is_err());
}

/// Goal: the workers do all that by themselves. Method: three engines with workers, one node away and
/// back, time passes.
#[tokio::test(start_paused = true)]
async fn a_cluster_catches_up_by_itself() {
    let cluster = Cluster::new(4, 1);
    let engines: Vec<_> = (0..4)
        .map(|node| cluster.engine(Some(NodeIndex(node)), u64::from(node) + 1, Knobs::default()))
        .collect();
    let world = World { engine: engines[0].clone(), nodes: cluster.nodes.clone() };
    world.nodes[3].set_all_down(true);
    let _ = world.put("finds out", &pattern(1, 10)).await;
    let key = register("by primitives");
    let draft = Draft::record(world.engine.draw_operation(), bytes::Bytes::new());
    let draft = draft.with_data(Data::Inline(pattern(1, 30_000)));
    let set = world.engine.set_for(&key);
    set.write(bucket_stamp(), key.clone(), VersionId::NULL, draft).await.unwrap();
    world.put("k", &pattern(3, 300_000)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    world.nodes[3].set_all_down(false);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(is_whole(&world, "k").await);
    assert!(is_whole(&world, "by primitives").await);
    let status = engines[0].workers();
    assert_eq!(status.len(), 3);
    assert!(status.iter().all(|worker| worker.error.is_empty()), "{status:?}");
}

/// Goal: rot that nobody reads is found by the scrub of every drive of every node, told of by one of them,
/// and healed; a node that is away is named, and the others are told. Method: objects of every kind, one
/// shard of each rots on another node; a scrub; one pass of the workers of each node.
#[tokio::test(start_paused = true)]
async fn what_nobody_reads_is_scrubbed_and_healed() {
    let world = World::new(4, 2);
    for size in SIZES {
        world.put(&format!("k/{size}"), &pattern(3, size)).await.unwrap();
    }
    world.settle().await;
    for (n, size) in SIZES.into_iter().enumerate().skip(1) {
        let operation = world.operation(&format!("k/{size}")).await;
        let (node, drive) = world.drives()[2 * n + 1].clone();
        assert!(node.rot(drive, operation), "{size}");
    }
    let view = world.engine.scrub(ScrubOrder::Rate(123)).await;
    assert!(view.drives.len() == 8 && view.drives.iter().all(|row| row.bytes_per_second == 123));
    let view = world.engine.scrub(ScrubOrder::Start).await;
    let found: u64 = view.drives.iter().map(|row| row.found).sum();
    assert_eq!(found as usize, SIZES.len() - 1);
    assert!(view.drives.iter().all(|row| row.last_complete.as_ref().is_some_and(|p| p.complete)));
    assert!(!is_whole(&world, "k/10240").await);
    for node in 0..4 {
        world.engine.work_off(NodeIndex(node)).await;
    }
    for size in SIZES {
        assert!(is_whole(&world, &format!("k/{size}")).await, "{size}");
    }
    world.nodes[1].set_all_down(true);
    let view = world.engine.scrub(ScrubOrder::Status).await;
    let silent: Vec<_> = view.drives.iter().filter(|row| !row.error.is_empty()).collect();
    assert!(silent.len() == 2 && silent.iter().all(|row| row.node == "http://node2:9000"));
}

/// Goal: a drive that was asked before its node was up counts as up once it is, though nobody sends anything.
/// The story: nodes ask for memberships while they start. One that started first took the drives of the others
/// to be down, nobody probed them, and its healer found too few drives to restore from, until a client came by. Method:
/// ask while a node is away; let it back; no traffic.
#[tokio::test(start_paused = true)]
async fn drives_that_were_asked_too_early_are_probed() {
    let world = World::new(4, 1);
    world.nodes[2].set_all_down(true);
    assert_eq!(world.engine.short_set().await, None);
    let health = || world.engine.set_for(&register("k")).shared.health.down_count();
    assert_eq!(health(), 1);
    world.nodes[2].set_all_down(false);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(health(), 0);
}
