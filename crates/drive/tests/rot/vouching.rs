//! INV-REG-4 on the drive: what it lost before it was settled it does not remember.

use holdfast_drive::api::Prepare;
use holdfast_drive::value::PLACE_SPACE;
use holdfast_register::KeyView;

use super::*;

const LATER_MICROS: u64 = 60_000_000;

fn prepared(rig: &mut Rig, object: &Object, tick: u64) -> KeyView {
    let time = HybridTime::from_micros(START_MICROS + LATER_MICROS + tick);
    let prepare = Prepare {
        scope: scope(),
        key: object.key.clone(),
        ballot: Ballot { generation: 1, time, writer: WriterId(2) },
        since: HybridTime::from_micros(START_MICROS + LATER_MICROS),
        inline: false,
    };
    match rig.call(DriveRequest::Prepare(prepare)) {
        Ok(DriveReply::View { view, .. }) => view,
        other => panic!("{other:?}"),
    }
}

/// Goal: a shard that rots before its entry is settled takes the drive's memory of it along: whoever finishes
/// that write is not told that it was accepted here (ADR 0021). What was settled is remembered on.
/// Method: one object accepted, one settled; the shard of each rots and is found out.
#[test]
fn what_rotted_before_it_was_settled_is_not_remembered() {
    for (n, settled) in [(1, false), (2, true)] {
        let mut rig = Rig::new();
        let object = object(n, 9_000);
        rig.accept(&object);
        if settled {
            rig.settle(&object);
        }
        rig.drive.flush();
        rig.clock.advance_micros(LATER_MICROS);
        let before = prepared(&mut rig, &object, 1);
        assert!(before.remembers && before.memory.len() == 1, "{before:?}");
        rig.checkpoint_twice();
        assert!(rig.rot(&object, object.shard.len() - 30));
        assert_eq!(rig.verify(&object), Ok(DriveReply::Accepted(ShardStatus::Missing)));
        let after = prepared(&mut rig, &object, 2);
        let register = after.registers.values().next().expect("the entry stays");
        assert_eq!(register.entries[0].shard, ShardStatus::Missing);
        assert_eq!((after.remembers, after.memory.len()), (settled, usize::from(settled)));
    }
}

/// Goal: the same for shards whose places rot hid (INV-FILL-2). Method: objects accepted and not settled; a block of
/// places rots while the drive serves, and is met.
#[test]
fn what_lost_its_place_before_it_was_settled_is_not_remembered() {
    let mut rig = Rig::with(DriveOptions { run_cache_bytes: 8 << 10, ..patient() });
    let objects: Vec<Object> = (1..=800).map(|n| object(n, 100)).collect();
    objects.iter().for_each(|object| rig.accept(object));
    rig.clock.advance_micros(LATER_MICROS);
    rig.checkpoint_twice();
    places::rot_block(&rig.sim, PLACE_SPACE..=PLACE_SPACE, 1);
    for object in &objects {
        rig.whole(object);
    }
    run_jobs(&mut rig.drive);
    let lost: Vec<bool> = objects.iter().map(|object| !rig.whole(object)).collect();
    assert!(lost.contains(&true) && lost.contains(&false));
    for (object, lost) in objects.iter().zip(lost).step_by(10) {
        let view = prepared(&mut rig, object, 1);
        assert_eq!((view.memory.is_empty(), view.remembers), (lost, false), "{:?}", object.key);
    }
}
