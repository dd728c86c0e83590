//! The index beside ranges of rot: it may hold what is void (INV-FILL-1).

use holdfast_drive::{api::DriveReply, drive::run_jobs};
use holdfast_types::{DriveState, VersionId};

use super::{
    Object, Rig, object,
    places::{indexed, rot_block},
};

/// Goal: INV-FILL-1: the index, which held all that is void, is built anew before a range leaves the record.
/// Method: a list asks it when the range is gone; nothing was brought back, so none of its names may be there.
/// Once with an index that is trusted all the while, once with one that has to be built while rot is in the runs.
#[test]
fn the_index_forgets_what_is_void_before_a_range_goes() {
    for wiped in [false, true] {
        let options = indexed();
        let mut rig = Rig::with(options);
        super::EPOCH.set(0);
        let objects: Vec<Object> = (1..=1500).map(|n| object(n, 100)).collect();
        objects.iter().for_each(|object| rig.put(object));
        rig.checkpoint_twice();
        rot_block(&rig.sim, 1..=1, 3);
        if wiped {
            rig.options.index = indexed().index;
        }
        rig.reopen();
        let met = objects.iter().filter(|object| rig.held(object).is_none()).count();
        run_jobs(&mut rig.drive);
        let state = rig.drive.facts().state;
        assert!(met > 10 && (wiped || state == DriveState::Healthy), "{met} {state:?}");
        assert_eq!(rig.fill(1), Ok(DriveReply::Done));
        let opened = rig.ranges();
        let is_void = |object: &Object| {
            let register = object.key.encode_register(VersionId::NULL);
            opened.iter().any(|range| range.holds(&register))
        };
        assert_eq!(rig.filled(1, opened.clone()), Ok(DriveReply::Done));
        // A step of the count may name no job.
        let is_gone = (0..20).any(|_| rig.ranges().is_empty());
        assert!(is_gone, "{wiped} {:?}", rig.drive.facts().state);
        let (names, gaps) = rig.names(100);
        assert!(gaps.is_empty());
        for object in &objects {
            assert_eq!(names.contains(&object.key.name), !is_void(object), "{:?}", object.key);
        }
        let facts = rig.drive.facts();
        assert_eq!((facts.state, facts.index_faults), (DriveState::Healthy, 0));
        rig.drive.audit().unwrap();
    }
}
