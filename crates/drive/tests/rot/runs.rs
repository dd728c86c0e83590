//! Rot in runs: ranges about which the drive is silent, and nothing worse (ADR 0017).

use bytes::Bytes;
use holdfast_drive::{
    api::{
        DriveError, DriveReply, DriveRequest, Gap, ListIndex, MemberReply, MemberRequest, Read,
        Scan,
    },
    disk::Disk,
    drive::run_jobs,
};
use holdfast_types::{ErrorClass, Keyspace, RegisterKey, VersionId};

use super::{Object, Rig, object, patient, scope};

impl Rig {
    /// Walks the index; the keys it shows, and the gaps.
    pub(super) fn index(&mut self) -> (Vec<RegisterKey>, Vec<Gap>) {
        let (mut start, mut keys, mut gaps) = (Bytes::new(), Vec::new(), Vec::new());
        loop {
            let list = ListIndex { scope: scope(), start: start.clone(), end: None, limit: 16 };
            match self.call(DriveRequest::Member(MemberRequest::ListIndex(list))) {
                Ok(DriveReply::Member(MemberReply::Index(page))) => {
                    keys.extend(page.lines.into_iter().map(|line| line.key));
                    gaps.extend(page.gaps);
                    match page.next {
                        Some(next) => start = next,
                        None => return (keys, gaps),
                    }
                }
                // Rot that is met for the first time: on record from then on.
                Err(DriveError::Failed { class: ErrorClass::Damaged, .. }) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Scans the bucket; the names it shows, and the gaps.
    pub(super) fn names(&mut self, limit: u32) -> (Vec<Bytes>, Vec<Gap>) {
        let (mut start, mut names, mut gaps) = (Bytes::new(), Vec::<Bytes>::new(), Vec::new());
        loop {
            let scan = Scan {
                scope: scope(),
                space: Keyspace::Object,
                start: start.clone(),
                end: None,
                limit,
                metadata: false,
            };
            let Ok(DriveReply::Page(page)) = self.call(DriveRequest::Scan(scan)) else { panic!() };
            names.extend(page.keys.into_iter().map(|key| key.name));
            gaps.extend(page.gaps);
            match names.last().filter(|_| page.more) {
                Some(last) => start = [&last[..], &[0]].concat().into(),
                None => return (names, gaps),
            }
        }
    }
}

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
    assert!(rig.index().1.is_empty());
    assert_eq!(rig.drive.facts().reason, "");
    rig.rot_run();
    for n in 0..2 {
        rig.reopen();
        let held: Vec<Option<bool>> = objects.iter().map(|object| rig.held(object)).collect();
        let lost = held.iter().filter(|held| held.is_none()).count();
        assert!(lost > 0 && lost < objects.len() / 2, "{lost} of {}", objects.len());
        assert!(!held.contains(&Some(false)), "rot is never the answer that nothing is held");
        assert!(!rig.index().1.is_empty(), "a walk that leaves keys out says so");
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

/// Goal: walks go past a range and say so: every key is either shown or in a gap, and none is both
/// (INV-MEMBER-1, INV-LIST-1). Method: 1,500 objects, a rotten block of registers; the index in pages of 16, scans in pages of every size from one on.
#[test]
fn walks_go_past_a_range_and_say_so() {
    let mut rig = Rig::with(patient());
    let objects: Vec<Object> = (1..=1500).map(|n| object(n, 100)).collect();
    objects.iter().for_each(|object| rig.put(object));
    rig.checkpoint_twice();
    rig.rot_run();
    rig.reopen();
    let (shown, gaps) = rig.index();
    assert!(!gaps.is_empty() && shown.windows(2).all(|two| two[0] < two[1]));
    for object in &objects {
        let register = object.key.encode_register(VersionId::NULL);
        let hidden = gaps.iter().any(|gap| gap.holds(&register));
        assert_eq!(shown.contains(&object.key), !hidden);
        // A key that ends the range may have older versions in it.
        let cut = gaps.iter().any(|gap| gap.end.as_deref() == Some(&register[..]));
        assert_eq!(rig.held(object), (!hidden && !cut).then_some(true));
    }
    let lost: Vec<&Object> = objects.iter().filter(|o| !shown.contains(&o.key)).collect();
    assert!(!lost.is_empty() && lost.len() < 750);
    for limit in [1, 2, 7, 100, 4096] {
        let (names, gaps) = rig.names(limit);
        for object in &objects {
            let hidden = gaps.iter().any(|gap| gap.holds(&object.key.name));
            assert_eq!(names.contains(&object.key.name), !hidden, "{limit}");
        }
        // The fences are keys themselves: the first behind the gap is cut by it.
        let unshown = objects.iter().filter(|o| !names.contains(&o.key.name)).count();
        assert!((lost.len()..=lost.len() + 1).contains(&unshown), "{limit}: {unshown}");
    }
}

/// Goal: a range is on record at once: power that goes before the next manifest costs nothing, and keeps no
/// drive from opening. Method: rot is met and logged, and the drive falls before a checkpoint.
#[test]
fn a_range_is_replayed() {
    let mut rig = Rig::with(patient());
    let objects: Vec<Object> = (1..=1500).map(|n| object(n, 100)).collect();
    objects.iter().for_each(|object| rig.put(object));
    rig.checkpoint_twice();
    rig.reopen();
    rig.rot_run();
    for object in &objects {
        let read = Read { scope: scope(), key: object.key.clone(), version: None, inline: false };
        rig.drive.handle(DriveRequest::Read(read), Box::new(|_| ()));
        for job in rig.drive.take_load_jobs() {
            let outcome = job.run();
            rig.drive.loaded(outcome);
        }
    }
    // The jobs of this tick, the checkpoint among them, are never run.
    drop(rig.drive.tick());
    rig.drive.flush();
    rig.reopen();
    let lost = objects.iter().filter(|object| rig.held(object).is_none()).count();
    assert!(lost > 0 && rig.drive.facts().reason.contains("1 ranges"), "{lost}");
}
