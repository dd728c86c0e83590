//! Drives that come and go: replaced, taken in, rebuilt; coordinators that know an older membership.

use std::time::Duration;

use bytes::Bytes;
use holdfast_drive::{
    api::{DriveRequest, MemberRequest, Standing},
    node::Node,
};
use holdfast_types::{DriveId, NodeIndex, SetEpoch, SetIndex};

use super::{World, get, healing::is_whole, put};
use crate::{
    Knobs, StoreError,
    api::Wanted,
    testing::{Cluster, pattern},
};

const SIZES: [usize; 4] = [0, 10_240, 200_000, 2 << 20];
const SET: SetIndex = SetIndex(0);

fn name(at: usize, size: usize) -> String {
    format!("k/{at}/{size}")
}

/// Writes keys of all sizes, some of them twice, some deleted.
async fn fill(world: &World) -> Vec<(String, Bytes)> {
    let mut kept = Vec::new();
    for at in 0..6 {
        for size in SIZES {
            let key = name(at, size);
            world.put(&key, &pattern(1, size)).await.unwrap();
            if at % 3 == 1 {
                world.put(&key, &pattern(2, size + 7)).await.unwrap();
            }
            match at {
                5 => world.delete(&key).await.unwrap(),
                _ if at % 3 == 1 => kept.push((key, pattern(2, size + 7))),
                _ => kept.push((key, pattern(1, size))),
            }
        }
    }
    world.settle().await;
    kept
}

/// Goal: a wiped drive comes back under a new identity and with all it should hold: full width, proven,
/// and its shards serve. Method: sets of 2, 4, 5 and 16 drives, keys of all sizes overwritten and deleted
/// before and while the drive is joining; replace, take in, rebuild; then as many others go away as the
/// set survives.
#[tokio::test(start_paused = true)]
async fn a_wiped_drive_is_taken_in_and_rebuilt() {
    for (nodes, drives) in [(2, 1), (4, 1), (5, 1), (4, 4)] {
        let world = World::new(nodes, drives);
        let mut kept = fill(&world).await;
        let (node, old) = world.drives()[1].clone();
        let fresh = DriveId(0xf5e5);
        node.wipe(old, fresh);
        world.engine.replace_drive(SET, old, fresh).await.unwrap();
        assert_eq!(node.with_drive(fresh, |d| d.standing()), Standing::Joining);
        if nodes > 2 {
            world.put("joining", &pattern(3, 5_000)).await.unwrap();
            kept.push(("joining".to_owned(), pattern(3, 5_000)));
        }
        world.engine.take_in(SET, fresh).await.unwrap();
        assert_eq!(node.with_drive(fresh, |d| d.standing()), Standing::Rebuilding);
        world.put("rebuilding", &pattern(4, 5_000)).await.unwrap();
        kept.push(("rebuilding".to_owned(), pattern(4, 5_000)));
        world.settle().await;
        let proof = world.engine.rebuild_drive(SET, fresh).await.unwrap();
        assert_eq!(node.with_drive(fresh, |d| d.standing()), Standing::Counting);
        assert_eq!((proof.short_count, proof.phase.as_str()), (0, "done"), "{proof:?}");
        assert!(proof.whole >= kept.len() as u64 && proof.whole == proof.versions, "{proof:?}");
        world.settle().await;
        world.engine.work_off(NodeIndex(0)).await;
        for (key, _) in &kept {
            assert!(is_whole(&world, key).await, "{nodes}x{drives} {key}");
        }
        let membership = world.engine.sets()[0].membership();
        assert!(membership.epoch >= SetEpoch(3) && membership.rebuilding().next().is_none());
        let parity = usize::from(world.engine.sets()[0].quorum().away());
        for (other, drive) in world.drives().into_iter().filter(|(_, d)| *d != fresh).take(parity) {
            other.set_down(drive, true);
        }
        for (key, body) in &kept {
            assert!(world.get(key).await.unwrap() == *body, "{nodes}x{drives} {key}");
        }
        assert!(world.get(&name(5, 10_240)).await.is_err(), "what was deleted stays so");
    }
}

/// Goal: who knows an older membership learns the newer one from the drives that refuse, and nothing it
/// does fails for it. Method: an engine that saw nothing of a replacement reads, writes, writes on a
/// condition and lists.
#[tokio::test(start_paused = true)]
async fn coordinators_of_an_older_epoch_start_again() {
    let cluster = Cluster::new(4, 1);
    let engine = |seed| cluster.engine(None, seed, Knobs { background: false, ..Knobs::default() });
    let (here, there) = (engine(1), engine(2));
    put(&here, "k", &pattern(1, 90_000)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let old = cluster.nodes[2].drives()[0];
    cluster.nodes[2].wipe(old, DriveId(7));
    here.replace_drive(SET, old, DriveId(7)).await.unwrap();
    here.take_in(SET, DriveId(7)).await.unwrap();
    here.rebuild_drive(SET, DriveId(7)).await.unwrap();
    assert_eq!(there.sets()[0].membership().epoch, SetEpoch(1));
    assert!(get(&there, "k", Wanted::Whole).await.unwrap() == pattern(1, 90_000));
    assert_eq!(there.sets()[0].membership(), here.sets()[0].membership());

    let again = engine(3);
    put(&again, "k", &pattern(2, 10)).await.unwrap();
    put(&again, "large", &pattern(2, 3 << 20)).await.unwrap();
    assert!(get(&here, "k", Wanted::Whole).await.unwrap() == pattern(2, 10));
    let third = engine(4);
    let key = super::register("k");
    let set = third.set_for(&key);
    let scope = crate::testing::bucket_stamp();
    let decide = |current: Option<&holdfast_register::Candidate>| {
        let operation = third.draw_operation();
        assert!(current.is_some());
        Ok(crate::Decision::Write(crate::Draft::tombstone(operation), ()))
    };
    set.update(scope, key, holdfast_types::VersionId::NULL, decide).await.unwrap();
    assert!(get(&here, "k", Wanted::Whole).await.is_err());
    let fourth = engine(5);
    let (space, start) = (holdfast_types::Keyspace::Object, Bytes::new());
    let page = fourth.sets()[0].scan(scope, space, start, None, 10).await.unwrap();
    assert_eq!(page.entries.len(), 1);
}

/// Goal: drives of a set are replaced one after the other, and a drive that died while it was rebuilt
/// may be replaced again. Method: a second replacement while the first is rebuilding; then the first one
/// again, and both to the end.
#[tokio::test(start_paused = true)]
async fn one_after_the_other() {
    let world = World::new(5, 1);
    let kept = fill(&world).await;
    let [first, second] = [1, 2].map(|at| world.drives()[at].clone());
    first.0.wipe(first.1, DriveId(71));
    world.engine.replace_drive(SET, first.1, DriveId(71)).await.unwrap();
    second.0.wipe(second.1, DriveId(72));
    let refused = world.engine.replace_drive(SET, second.1, DriveId(72)).await.unwrap_err();
    assert!(
        matches!(&refused, StoreError::InvalidArgument { message } if message.contains("rebuilt"))
    );
    first.0.wipe(DriveId(71), DriveId(73));
    world.engine.replace_drive(SET, DriveId(71), DriveId(73)).await.unwrap();
    world.engine.take_in(SET, DriveId(73)).await.unwrap();
    let proof = world.engine.rebuild_drive(SET, DriveId(73)).await.unwrap();
    assert!(proof.short_count > 0 && proof.short[0].why.contains("/mnt/drive"), "{proof:?}");
    world.engine.replace_drive(SET, second.1, DriveId(72)).await.unwrap();
    world.engine.take_in(SET, DriveId(72)).await.unwrap();
    let proof = world.engine.rebuild_drive(SET, DriveId(72)).await.unwrap();
    assert_eq!(proof.short_count, 0, "{proof:?}");
    for (key, body) in &kept {
        assert!(world.get(key).await.unwrap() == *body, "{key}");
    }
}

/// Goal: INV-MEMBER-1: before the new drive accepts, enough others refuse the older epoch, and its floor
/// is at or above all they promised or accepted. Method: look at the drives after the steps; requests of
/// the old epoch to each.
#[tokio::test(start_paused = true)]
async fn the_others_adopt_the_epoch_before_the_drive_accepts() {
    let world = World::new(5, 1);
    fill(&world).await;
    let (node, old) = world.drives()[4].clone();
    node.wipe(old, DriveId(7));
    world.nodes[0].set_all_down(true);
    world.engine.replace_drive(SET, old, DriveId(7)).await.unwrap();
    world.nodes[1].set_all_down(true);
    let short = world.engine.take_in(SET, DriveId(7)).await.unwrap_err();
    assert!(matches!(short, StoreError::BelowQuorum { need: 3, have: 2, .. }), "{short}");
    assert_eq!(node.with_drive(DriveId(7), |d| d.standing()), Standing::Joining);
    world.nodes[1].set_all_down(false);
    world.engine.take_in(SET, DriveId(7)).await.unwrap();
    let floor = node.with_drive(DriveId(7), |d| d.floor());
    for (other, drive) in &world.drives()[1..4] {
        let (highest, epoch) = other.with_drive(*drive, |d| {
            let highest = d.keys_held().iter().map(|key| d.state(key).highest()).max();
            (highest.unwrap_or_default(), d.set_epoch())
        });
        assert!(floor >= highest && epoch == SetEpoch(2));
        let read = holdfast_drive::api::Read {
            scope: holdfast_drive::api::Scope {
                bucket: crate::testing::bucket_stamp(),
                set: SET,
                set_epoch: SetEpoch(1),
            },
            key: super::register("k/0/0"),
            version: None,
            inline: false,
        };
        let answer = other.call(Duration::from_secs(1), vec![(*drive, DriveRequest::Read(read))]);
        assert!(format!("{:?}", answer.await).contains("SetOutdated"));
    }
    let ask = vec![(DriveId(7), DriveRequest::Member(MemberRequest::Membership))];
    assert!(node.call(Duration::from_secs(1), ask).await[0].is_ok());
}

/// Goal: with more than f drives gone for good a set goes on by an operator's word: what has enough shards
/// left comes back to full width, and what has not is listed. Method: a set of 5 (f = 2, parity 2) that
/// loses 2 keeps everything by itself; one that loses 3 after R = 3 is refused, so a set of 8 (f = 3,
/// parity 4, R = 4) loses 4: tiny and full-width objects come back. Before, nothing may be given up that
/// serves, and no survivor may be missing.
#[tokio::test(start_paused = true)]
async fn a_set_is_recovered_by_an_operators_word() {
    let world = World::new(4, 2);
    let kept = fill(&world).await;
    let lost: Vec<_> = world.drives().into_iter().take(4).collect();
    let ids: Vec<DriveId> = lost.iter().map(|(_, drive)| *drive).collect();
    let refused = world.engine.recover_set(SET, &ids[..1]).await.unwrap_err();
    assert!(
        matches!(&refused, StoreError::InvalidArgument { message } if message.contains("serves"))
    );
    for (node, drive) in &lost {
        node.set_down(*drive, true);
    }
    let refused = world.engine.recover_set(SET, &ids[..3]).await.unwrap_err();
    assert!(matches!(refused, StoreError::BelowQuorum { .. }), "{refused}");
    let before = world.engine.sets()[0].membership().epoch;
    let after = world.engine.recover_set(SET, &ids).await.unwrap();
    assert!(after.epoch > before && after.rebuilding().count() == 4 && after.counting() == 4);
    // Their nodes find blank folders, and take the slots over one by one.
    for (n, (node, old)) in lost.iter().enumerate() {
        let slot = world.engine.sets()[0].membership();
        let slot = slot.drives.iter().find(|slot| {
            slot.rebuilding
                && slot.node == NodeIndex((n / 2) as u16)
                && !ids.contains(&slot.drive)
                && slot.drive.0 > 1000
        });
        let holder = slot.expect("a slot to be taken over").drive;
        let fresh = DriveId(500 + n as u128);
        node.wipe(*old, fresh);
        world.engine.replace_drive(SET, holder, fresh).await.unwrap();
        world.engine.take_in(SET, fresh).await.unwrap();
    }
    for n in 0..4 {
        let proof = world.engine.rebuild_drive(SET, DriveId(500 + n)).await.unwrap();
        assert_eq!(proof.phase, "done", "{proof:?}");
    }
    world.settle().await;
    for (key, body) in &kept {
        assert!(world.get(key).await.unwrap() == *body, "{key}");
    }
    world.put("after", &pattern(5, 70_000)).await.unwrap();
    assert!(world.engine.sets()[0].membership().rebuilding().next().is_none());
}
