//! Ranges that rot hid are filled from the other drives (ADR 0019, INV-FILL-1).

use std::sync::Arc;

use bytes::Bytes;
use holdfast_drive::{
    api::{DriveReply, DriveRequest, Issue, MemberRequest},
    node::Node,
};
use holdfast_types::{DriveId, Keyspace, SetEpoch, SetIndex, VersionId};

use super::{World, register};
use crate::{
    Knobs, StoreError,
    testing::{Cluster, MemoryNode, pattern},
};

const SET: SetIndex = SetIndex(0);

type At = (Arc<MemoryNode>, DriveId);

fn name(at: usize) -> String {
    format!("k{at:02}")
}

fn body(at: usize) -> Bytes {
    pattern(at as u64, [100, 9_000, 300_000][at % 3])
}

/// Thirty keys: every fifth deleted, every fourth overwritten.
async fn filled_world(nodes: usize) -> World {
    let world = World::new(nodes, 1);
    for at in 0..30 {
        if at % 4 == 0 {
            world.put(&name(at), &pattern(99, 2_000)).await.unwrap();
        }
        world.put(&name(at), &body(at)).await.unwrap();
        if at % 5 == 0 {
            world.delete(&name(at)).await.unwrap();
        }
    }
    world.settle().await;
    world
}

fn hide((node, drive): &At, first: usize, end: usize) {
    node.with_drive(*drive, |d| d.hide(register(&name(first)), register(&name(end))));
}

fn unfilled((node, drive): &At) -> usize {
    node.with_drive(*drive, |d| d.ranges().len())
}

/// Everything is as it was written, from whoever is up.
async fn check(world: &World) {
    for at in 0..30 {
        let read = world.get(&name(at)).await;
        match at % 5 {
            0 => assert!(matches!(read, Err(StoreError::NoSuchKey { .. })), "{at}: {read:?}"),
            _ => assert!(read.unwrap() == body(at), "{at}"),
        }
    }
}

/// Goal: INV-FILL-1: a drive is whole again in a range that rot hid, without a drive being replaced: it holds
/// what was chosen, of what was deleted nothing comes back, and what only it holds no more is found at the
/// others; under a newer epoch that the others have adopted, and above a floor. Method: sets of 2 to 5 drives;
/// a range of deleted, overwritten and other keys; the count of index entries; then as many others down as a
/// set can do without.
#[tokio::test(start_paused = true)]
async fn a_range_is_filled_from_the_others() {
    for nodes in [2, 3, 4, 5] {
        let world = filled_world(nodes).await;
        let drives = world.drives();
        let objects = |d: &mut crate::testing::MemoryDrive| {
            let mut held = d.keys_held();
            held.retain(|key| key.space == Keyspace::Object);
            held
        };
        let before = drives[1].0.with_drive(drives[1].1, objects);
        hide(&drives[1], 5, 25);
        let proof = world.engine.fill_drive(SET, drives[1].1).await.unwrap();
        assert_eq!((proof.phase.as_str(), proof.short_count), ("done", 0), "{proof:?}");
        assert_eq!(proof.versions, 20, "of the range alone: {proof:?}");
        assert_eq!(unfilled(&drives[1]), 0);
        let (held, floor, epoch) =
            drives[1].0.with_drive(drives[1].1, |d| (objects(d), d.floor(), d.set_epoch()));
        assert_eq!(held, before, "{nodes}");
        for (node, drive) in &drives {
            let theirs =
                node.with_drive(*drive, |d| (d.set_epoch(), d.state(&register("k01")).highest()));
            assert!(theirs.0 == epoch && epoch == SetEpoch(2) && floor >= theirs.1);
        }
        world.settle().await;
        let away = usize::from(world.engine.sets()[0].quorum().away());
        for (node, drive) in drives.iter().filter(|(_, d)| *d != drives[1].1).take(away) {
            node.set_down(*drive, true);
        }
        check(&world).await;
        world.put(&name(7), &body(7)).await.unwrap();
        check(&world).await;
    }
}

/// Goal: drives with different ranges are filled side by side, for neither gives up anything; where their ranges
/// meet so that fewer than R others show it, filling waits and says so, and neither ever takes silence for
/// absence. Method: 4 drives (R = 2): two ranges that meet on two, a third on a third drive that meets both.
#[tokio::test(start_paused = true)]
async fn ranges_on_several_drives() {
    let world = filled_world(4).await;
    let drives = world.drives();
    hide(&drives[0], 2, 12);
    hide(&drives[1], 8, 20);
    let fill = |at: usize| world.engine.fill_drive(SET, drives[at].1);
    let (first, second) = tokio::join!(fill(0), fill(1));
    // Whoever met the other's change of the epoch on the way tries again, as it does by itself.
    for (at, outcome) in [first, second].into_iter().enumerate() {
        if outcome.is_err() {
            fill(at).await.unwrap();
        }
    }
    assert_eq!(unfilled(&drives[0]) + unfilled(&drives[1]), 0);
    check(&world).await;
    for (at, first, end) in [(0, 2, 12), (1, 8, 20), (2, 10, 11)] {
        hide(&drives[at], first, end);
    }
    let short = fill(0).await.unwrap_err();
    assert!(short.contains("rot") && unfilled(&drives[0]) == 1, "{short}");
    assert!(fill(1).await.is_err() && fill(2).await.is_err(), "three of four have lost k10");
    check_but(&world, 10).await;
}

/// Everything else is as it was; of `lost` too few say anything, so nothing is.
async fn check_but(world: &World, lost: usize) {
    for at in (0..30).filter(|at| *at != lost) {
        let read = world.get(&name(at)).await;
        assert!(at % 5 == 0 || read.unwrap() == body(at), "{at}");
    }
    let read = world.get(&name(lost)).await.unwrap_err();
    assert!(
        matches!(read, StoreError::BelowQuorum { .. } | StoreError::NoSuchKey { .. }),
        "{read}"
    );
}

/// Goal: what is begun is taken up by whoever comes next: no second epoch, no second opening. A drive that is
/// away keeps it from being done, for enough others have to adopt the epoch; nothing is opened before. Method:
/// one of 4 down; the membership is renewed; it comes back; the drive is told to open its range by a process that
/// dies; another one fills it.
#[tokio::test(start_paused = true)]
async fn what_is_begun_is_taken_up() {
    let cluster = Cluster::new(4, 1);
    let engine = |seed| cluster.engine(None, seed, Knobs { background: false, ..Knobs::default() });
    let (here, there) = (engine(1), engine(2));
    for at in 0..10 {
        super::put(&here, &name(at), &body(at)).await.unwrap();
    }
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let at: At = (cluster.nodes[2].clone(), cluster.nodes[2].drives()[0]);
    hide(&at, 2, 8);
    cluster.nodes[0].set_all_down(true);
    assert!(here.fill_drive(SET, at.1).await.is_err());
    let hidden = at.0.with_drive(at.1, |d| d.ranges()[0].is_hidden());
    assert!(hidden, "two of the three others that have to are not enough");
    cluster.nodes[0].set_all_down(false);
    let membership = here.sets()[0].membership();
    assert_eq!(membership.epoch, SetEpoch(2));
    let issue =
        Issue { set: SET, epoch: membership.epoch, membership: membership.to_bytes().into() };
    let order = vec![(at.1, DriveRequest::Member(MemberRequest::Fill(issue)))];
    let wait = std::time::Duration::from_secs(1);
    assert_eq!(at.0.call(wait, order).await, [Ok(DriveReply::Done)]);
    assert!(!at.0.with_drive(at.1, |d| d.ranges()[0].is_hidden()));
    let proof = there.fill_drive(SET, at.1).await.or(there.fill_drive(SET, at.1).await).unwrap();
    assert_eq!((proof.versions, unfilled(&at)), (6, 0));
    assert_eq!(there.sets()[0].membership().epoch, SetEpoch(2));
    for key in 2..8 {
        let state = at.0.with_drive(at.1, |d| d.state(&register(&name(key))));
        assert!(state.registers[&VersionId::NULL].settled().is_some(), "{key}");
    }
}

/// Goal: the node of the drive does it unasked. Method: an engine with its background at work.
#[tokio::test(start_paused = true)]
async fn it_is_done_unasked() {
    let cluster = Cluster::new(4, 1);
    let engine = cluster.engine(Some(holdfast_types::NodeIndex(2)), 1, Knobs::default());
    for at in 0..10 {
        super::put(&engine, &name(at), &body(at)).await.unwrap();
    }
    let at: At = (cluster.nodes[2].clone(), cluster.nodes[2].drives()[0]);
    hide(&at, 2, 8);
    for _ in 0..600 {
        if unfilled(&at) == 0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert_eq!(unfilled(&at), 0, "{:?}", engine.rebuilds());
}
