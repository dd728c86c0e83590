//! Rot in runs: ranges about which the drive is silent, and nothing worse (ADR 0017).

use holdfast_drive::{disk::Disk, drive::run_jobs};

use super::{Object, Rig, object, patient};

/// Goal: INV-RUN-1: a rotten run block is never an answer, and an operator is told. Keys between its
/// fences fail, all others are answered and written, the index names no whole walk, and the drive says
/// so. Method: 1,500 objects in runs, a bit of one register block flipped; reads of all,
/// before and after a restart.
#[test]
fn a_rotten_run_block_is_silence_for_its_keys_and_is_told() {
    let mut rig = Rig::new();
    let objects: Vec<Object> = (1..=1500).map(|n| object(n, 100)).collect();
    for object in &objects {
        rig.put(object);
    }
    rig.checkpoint_twice();
    rig.reopen();
    assert!(rig.index_is_whole());
    assert_eq!(rig.drive.facts().reason, "");
    rig.rot_run();
    for n in 0..2 {
        rig.reopen();
        let held: Vec<Option<bool>> = objects.iter().map(|object| rig.held(object)).collect();
        let lost = held.iter().filter(|held| held.is_none()).count();
        assert!(lost > 0 && lost < objects.len() / 2, "{lost} of {}", objects.len());
        assert!(!held.contains(&Some(false)), "rot is never the answer that nothing is held");
        assert!(!rig.index_is_whole(), "a walk that leaves keys out says so");
        let facts = rig.drive.facts();
        assert!(
            facts.state.serves() && facts.reason.contains("rot in its records"),
            "{}",
            facts.reason
        );
        rig.put(&object(5001 + n, 100));
    }
}

/// Another object under the key of `n`, by a later operation.
fn newer(n: u64, by: u64) -> Object {
    Object { key: object(n, 100).key, ..object(n + by, 100) }
}

/// Goal: INV-RUN-1 while a drive opens, and INV-VOL-1: replay goes on over rot; what it hides is refused,
/// over restarts, too, all else is right, in particular every shard whose blocks replay met as taken, for
/// their former owner was let go by a record that rot hides; such an owner has no claim any more.
/// Then merges go on without the block, and chores are listed. Method: 1,500 objects in volumes, in runs;
/// all overwritten in the tail of the log, so that each takes the blocks of one before; a register block
/// rots; restart, more objects, merges.
#[test]
fn replay_and_merges_go_on_over_rot() {
    let mut rig = Rig::with(patient());
    rig.uploads_all = true;
    (1..=1500).for_each(|n| rig.put(&object(n, 100)));
    rig.checkpoint_twice();
    rig.reopen();
    let objects: Vec<Object> = (1..=1500).map(|n| newer(n, 100_000)).collect();
    objects.iter().for_each(|object| rig.put(object));
    let run = rig.rot_run();
    let mut lost = Vec::new();
    for _ in 0..3 {
        rig.reopen();
        let held: Vec<Option<bool>> = objects.iter().map(|object| rig.held(object)).collect();
        assert!(!held.contains(&Some(false)), "what was overwritten is no answer");
        let hidden = (0..objects.len()).filter(|at| held[*at].is_none());
        let hidden: Vec<usize> = hidden.collect();
        assert!(!hidden.is_empty() && hidden.len() < 750, "{}", hidden.len());
        assert!(lost.is_empty() || lost == hidden, "it does not spread");
        lost = hidden;
        assert!(objects.iter().all(|object| rig.whole(object)), "INV-VOL-1");
        assert!(rig.repairs().is_empty(), "a list of chores passes by");
    }
    // Enough of the same size that the old run merges.
    for round in 2..6 {
        (1..=1500).filter(|n| !lost.contains(&(*n as usize - 1))).for_each(|n| {
            rig.put(&newer(n, round * 100_000));
        });
        rig.drive.begin_checkpoint();
        rig.drive.flush();
        run_jobs(&mut rig.drive);
    }
    (1..=3).for_each(|n| rig.put(&object(9500 + n, 100)));
    rig.checkpoint_twice();
    rig.checkpoint_twice();
    assert!(!rig.sim.files().contains(&run), "merged without the block: {:?}", rig.sim.files());
    for _ in 0..2 {
        rig.drive.audit_claims().unwrap();
        for n in 1..=1500 {
            let expected = (!lost.contains(&(n as usize - 1))).then_some(true);
            assert_eq!(rig.held(&newer(n, 500_000)), expected, "{n}: the range is on record");
        }
        assert!(rig.drive.facts().reason.contains("1 ranges"), "{}", rig.drive.facts().reason);
        rig.reopen();
    }
}

/// Goal: a run that is lost whole blocks no opening either: everything it may have held is refused, and
/// nothing else. Method: a run's file is cut to nothing; a newer one and the tail hold other keys.
#[test]
fn a_lost_run_is_a_range() {
    let mut rig = Rig::with(patient());
    (1..=1500).for_each(|n| rig.put(&object(n, 100)));
    rig.checkpoint_twice();
    let run = rig.rot_run();
    rig.sim.remove(&run).unwrap();
    for _ in 0..2 {
        rig.reopen();
        let held: Vec<Option<bool>> = (1..=1500).map(|n| rig.held(&object(n, 100))).collect();
        assert!(held.iter().all(Option::is_none), "all of them were in it");
        assert!(rig.drive.facts().state.serves());
    }
}
