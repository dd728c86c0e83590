//! Ranges of rot that are filled again (ADR 0019, INV-FILL-1): what the drive does when the others bring back
//! what it lost. The engine's part is tested there.

use bytes::Bytes;
use holdfast_drive::{
    api::{
        Accept, DriveError, DriveReply, DriveRequest, DriveResult, Filled, Gap, Issue, MemberReply,
        MemberRequest, Prepare, Purge, Read, RotRange, RotStanding, ShardSource,
    },
    drive::run_jobs,
    meta_index::{MemoryMedium, keeper::IndexBackend},
};
use holdfast_register::{KeyView, Refusal};
use holdfast_types::{Ballot, EntryKind, ErrorClass, Geometry, SetEpoch, SetIndex, VersionId};

use super::{EPOCH, Object, Rig, SHARD, object, patient, scope};

/// Objects of a test: some ten blocks of registers.
const OBJECTS: u64 = 1500;

fn issue(epoch: u64) -> Issue {
    let membership = Bytes::from(format!("members {epoch}"));
    Issue { set: SetIndex(0), epoch: SetEpoch(epoch), membership }
}

/// Another object under the key of `n`, by a later operation.
fn newer(n: u64, by: u64) -> Object {
    Object { key: object(n, 100).key, ..object(n + by, 100) }
}

/// The tombstone of the key of `n`.
fn tombstone(n: u64, by: u64) -> Object {
    let bare = newer(n, by);
    let geometry = Geometry::EMPTY;
    let entry = holdfast_types::Entry { kind: EntryKind::Tombstone, geometry, ..bare.entry };
    Object { entry, ..bare }
}

impl Rig {
    pub(super) fn ranges(&mut self) -> Vec<RotRange> {
        match self.call(DriveRequest::Member(MemberRequest::Ranges)) {
            Ok(DriveReply::Member(MemberReply::Ranges(ranges))) => ranges,
            other => panic!("{other:?}"),
        }
    }

    /// As `call`, without anything that a tick would do.
    pub(super) fn only(&mut self, request: DriveRequest) -> Option<DriveResult> {
        let slot = std::sync::Arc::new(std::sync::Mutex::new(None));
        let filled = slot.clone();
        self.drive.handle(request, Box::new(move |r| *filled.lock().unwrap() = Some(r)));
        for job in self.drive.take_load_jobs() {
            let outcome = job.run();
            self.drive.loaded(outcome);
        }
        self.drive.flush();
        slot.lock().unwrap().take()
    }

    fn unfilled(&mut self) -> u32 {
        match self.call(DriveRequest::Member(MemberRequest::Membership)) {
            Ok(DriveReply::Member(MemberReply::Membership { unfilled, .. })) => unfilled,
            other => panic!("{other:?}"),
        }
    }

    /// The set has a new epoch, and the drive is told to open what it hides.
    pub(super) fn fill(&mut self, epoch: u64) -> DriveResult {
        EPOCH.set(epoch);
        self.call(DriveRequest::Member(MemberRequest::Fill(issue(epoch))))
    }

    pub(super) fn filled(&mut self, epoch: u64, ranges: Vec<RotRange>) -> DriveResult {
        let filled = Filled { epoch: SetEpoch(epoch), ranges };
        self.call(DriveRequest::Member(MemberRequest::Filled(filled)))
    }

    /// What is shown of a key; `None` when the drive is silent.
    fn view(&mut self, object: &Object) -> Option<KeyView> {
        let read = Read { scope: scope(), key: object.key.clone(), version: None, inline: false };
        match self.call(DriveRequest::Read(read)) {
            Ok(DriveReply::View { view, .. }) => Some(view),
            Err(DriveError::Failed { class: ErrorClass::Damaged, .. }) => None,
            other => panic!("{other:?}"),
        }
    }

    fn offer(&mut self, object: &Object) -> DriveResult {
        let source = self.source(object);
        self.call(DriveRequest::Accept(Accept {
            scope: scope(),
            key: object.key.clone(),
            version: VersionId::NULL,
            entry: object.entry.clone(),
            shard: SHARD,
            source,
            guard: None,
        }))
    }

    fn purge(&mut self, object: &Object) {
        let purge = Purge {
            scope: scope(),
            key: object.key.clone(),
            version: VersionId::NULL,
            ballot: object.entry.ballot,
        };
        assert_eq!(self.call(DriveRequest::Purge(purge)), Ok(DriveReply::Done));
    }

    /// Three layers of registers, in two runs and the log: objects; every third of them deleted and purged,
    /// the others overwritten; a few overwritten once more. The second run rots in its second block.
    fn layered(options: holdfast_drive::DriveOptions) -> Self {
        let mut rig = Self::with(options);
        EPOCH.set(1);
        rig.call(DriveRequest::Member(MemberRequest::Issue(issue(1)))).unwrap();
        (1..=OBJECTS).for_each(|n| rig.put(&object(n, 100)));
        rig.checkpoint_twice();
        let before = rig.sim.files();
        for n in 1..=OBJECTS {
            if n % 3 == 0 {
                let gone = tombstone(n, 100_000);
                rig.put(&gone);
                rig.purge(&gone);
            } else {
                rig.put(&newer(n, 100_000));
            }
        }
        rig.checkpoint_twice();
        let fresh = rig.sim.files().into_iter().find(|path| {
            path.ends_with(".run")
                && !before.contains(path)
                && rig.sim.len_of(path).unwrap() > 100_000
        });
        (1..=OBJECTS).filter(|n| n % 50 == 1).for_each(|n| rig.put(&newer(n, 200_000)));
        rig.sim.rot(&fresh.expect("the second run"), 50_000, 0x10);
        rig.reopen();
        rig
    }
}

/// The object of number `n` in a rig of layers; `None`: deleted.
fn last(n: u64) -> Option<Object> {
    match n {
        n if n % 50 == 1 => Some(newer(n, 200_000)),
        n if n % 3 == 0 => None,
        n => Some(newer(n, 100_000)),
    }
}

fn holds(view: &KeyView, object: &Object) -> bool {
    let register = view.registers.get(&VersionId::NULL);
    register.is_some_and(|r| r.of_operation(object.entry.operation).is_some())
}

/// Goal: INV-FILL-1, the drive's part: a hidden range opens only under a newer epoch than it was recorded under;
/// from then on nothing of before is shown, whatever layers, index and replay hold of it, nothing is promised
/// or accepted at or below what was, the keys count as unknown, and walks say so; what is installed is shown;
/// once filled they count; and then the range leaves the record with every trace of what it hid, so that no
/// deleted key comes back. Over restarts at each step, with and without an index of all.
/// Method: three layers of 1,500 objects, the middle one rots; every second key is brought back.
#[test]
fn a_range_is_opened_filled_and_leaves_the_record() {
    let indexed = || holdfast_drive::DriveOptions {
        index: IndexBackend::Memory(MemoryMedium::new()),
        index_content: holdfast_drive::meta_index::keeper::IndexContent::All,
        ..patient()
    };
    for options in [patient(), indexed()] {
        let mut rig = Rig::layered(options);
        let (silent, border) = silent(&mut rig);
        assert!(silent.len() > 50 && silent.len() < 750, "{}", silent.len());
        assert_eq!(rig.fill(1), Ok(DriveReply::Done));
        assert_eq!(rig.ranges()[0].standing, RotStanding::Hidden, "of the same epoch");
        assert_eq!(rig.fill(2), Ok(DriveReply::Done));
        let opened = rig.ranges();
        assert!(matches!(opened[0].standing, RotStanding::Open(_)) && opened.len() == 1);
        for _ in 0..2 {
            assert_eq!(rig.unfilled(), 1);
            shows_nothing(&mut rig, &silent);
            rig.reopen();
        }
        run_jobs(&mut rig.drive);
        // Every second is brought back: as settled, or as a new write.
        let brought: Vec<u64> = silent.iter().copied().filter(|n| n % 2 == 0).collect();
        let back = |n: u64| last(n).unwrap_or_else(|| newer(n, 100_000));
        for n in &brought {
            bring(&mut rig, &back(*n));
        }
        for step in 0..3 {
            check(&mut rig, (&silent, &border), &brought, &back, false);
            if step == 1 {
                rig.checkpoint_twice();
            }
            rig.reopen();
        }
        let stale = rig.filled(1, opened.clone());
        let outdated = Refusal::SetOutdated { current: SetEpoch(2) };
        assert!(matches!(stale, Err(DriveError::Refused { refusal, .. }) if refusal == outdated));
        assert_eq!(rig.filled(2, opened.clone()), Ok(DriveReply::Done));
        for _ in 0..2 {
            check(&mut rig, (&silent, &border), &brought, &back, true);
            rig.reopen();
        }
        for _ in 0..4 {
            run_jobs(&mut rig.drive);
        }
        for _ in 0..2 {
            assert_eq!((rig.ranges(), rig.unfilled()), (Vec::new(), 0));
            assert_eq!(rig.drive.facts().reason, "");
            check(&mut rig, (&silent, &border), &brought, &back, true);
            rig.drive.audit().unwrap();
            rig.drive.audit_blocks().unwrap();
            rig.reopen();
        }
    }
}

/// The keys about which the drive is silent, by number: those of its range, and the one that ends it, whose
/// older versions may have lain in it.
fn silent(rig: &mut Rig) -> (Vec<u64>, Vec<u64>) {
    let silent = (1..=OBJECTS).filter(|n| rig.view(&object(*n, 100)).is_none());
    let silent: Vec<u64> = silent.collect();
    run_jobs(&mut rig.drive);
    let ranges = rig.ranges();
    let inside = |n: &u64| {
        let register = object(*n, 100).key.encode_register(VersionId::NULL);
        ranges.iter().any(|range| range.holds(&register))
    };
    silent.into_iter().partition(inside)
}

/// Brings an object back as the healer does: installed, or written anew.
fn bring(rig: &mut Rig, object: &Object) {
    let source = rig.source(object);
    match rig.install(object, source) {
        Ok(DriveReply::Accepted(_)) => {}
        // Below what was purged here: it comes as a new write of the same content.
        Err(DriveError::Refused { refusal: Refusal::Purged { .. }, .. }) => {
            let floor = rig.view(object).unwrap().promise;
            let mut anew = object.clone();
            anew.entry.ballot = Ballot { time: floor.time.tick(), ..object.entry.ballot };
            let accepted = rig.offer(&anew);
            assert!(matches!(accepted, Ok(DriveReply::Accepted(_))), "{accepted:?}");
            rig.settle(&anew);
        }
        other => panic!("{other:?}"),
    }
}

/// Of the silent keys nothing is shown or counts, and all of before is refused.
fn shows_nothing(rig: &mut Rig, silent: &[u64]) {
    for n in silent {
        let view = rig.view(&object(*n, 100)).expect("an open range answers");
        assert!(!view.counts && view.registers.is_empty(), "{n}: {view:?}");
        let late = newer(*n, 100_000);
        assert!(
            matches!(rig.offer(&late), Err(DriveError::Refused { .. })),
            "{n}: below the floor"
        );
        let (ballot, since) = (late.entry.ballot, holdfast_types::HybridTime(0));
        let (key, inline) = (late.key.clone(), false);
        let prepare = Prepare { scope: scope(), key, ballot, since, inline };
        let promised = rig.call(DriveRequest::Prepare(prepare));
        assert!(matches!(promised, Err(DriveError::Refused { .. })), "{n}: {promised:?}");
    }
    let (shown, gaps) = rig.index();
    let (names, named) = rig.names(100);
    assert!(!gaps.is_empty() && !named.is_empty());
    let in_gap = |gaps: &[Gap], what: &[u8]| gaps.iter().any(|gap| gap.holds(what));
    for n in silent {
        let key = object(*n, 100).key;
        assert!(!shown.contains(&key) && in_gap(&gaps, &key.encode_register(VersionId::NULL)));
        assert!(!names.contains(&key.name) && in_gap(&named, &key.name));
    }
}

/// Of the keys that were silent those that were brought are shown, and no other; all the others as ever.
fn check(
    rig: &mut Rig,
    (silent, border): (&[u64], &[u64]),
    brought: &[u64],
    back: &dyn Fn(u64) -> Object,
    counts: bool,
) {
    for n in 1..=OBJECTS {
        let view = rig.view(&object(n, 100)).expect("it answers");
        if silent.contains(&n) {
            assert_eq!(view.counts, counts, "{n}");
            assert_eq!(holds(&view, &back(n)), brought.contains(&n), "{n}");
            assert_eq!(view.registers.is_empty(), !brought.contains(&n), "{n}: nothing comes back");
        } else {
            let held = last(n);
            assert_eq!(view.counts, counts || !border.contains(&n), "{n}");
            assert!(view.registers.is_empty() == held.is_none(), "{n}");
            assert!(held.is_none_or(|held| holds(&view, &held)), "{n}");
        }
    }
}

/// Goal: INV-REG-4 and the floor of INV-FILL-1: what the drive promised or accepted while its range was open
/// is kept, its memory of before is unknown, and a second rotten block in a run written since hides its keys
/// again without the others. Method: a promise and an acceptance; restarts; a checkpoint, and rot in it.
#[test]
fn what_came_since_is_kept_and_may_rot_again() {
    let mut rig = Rig::layered(patient());
    let (silent, _) = silent(&mut rig);
    // Long enough ago that a memory from before the range was opened would reach that far back.
    let skew = holdfast_types::limits::CLOCK_SKEW_MICROS_MAX;
    let since = holdfast_types::HybridTime::from_micros(super::START_MICROS + 2 * skew);
    rig.clock.advance_micros(4 * skew);
    assert_eq!(rig.fill(2), Ok(DriveReply::Done));
    let floor = rig.view(&object(silent[0], 100)).unwrap().promise;
    assert!(floor >= newer(OBJECTS, 100_000).entry.ballot, "{floor:?}");
    let above = |n: u64| {
        let mut new = newer(n, 500_000);
        new.entry.ballot = Ballot { time: floor.time.tick(), ..new.entry.ballot };
        new.entry.order = new.entry.ballot;
        new
    };
    for n in &silent {
        let accepted = rig.offer(&above(*n));
        assert!(matches!(accepted, Ok(DriveReply::Accepted(_))), "{n}: {accepted:?}");
        rig.settle(&above(*n));
    }
    let key = object(silent[0], 100).key;
    let ballot = Ballot { time: floor.time.tick().tick(), ..floor };
    let prepare = Prepare { scope: scope(), key, ballot, since, inline: false };
    match rig.call(DriveRequest::Prepare(prepare)) {
        Ok(DriveReply::View { view, .. }) => {
            assert!(!view.counts && !view.remembers && holds(&view, &above(silent[0])));
        }
        other => panic!("{other:?}"),
    }
    let before = rig.sim.files();
    rig.checkpoint_twice();
    for n in &silent {
        assert!(holds(&rig.view(&object(*n, 100)).unwrap(), &above(*n)));
    }
    let opened = rig.ranges();
    // The runs written since are rotten from their first block on.
    let files = rig.sim.files();
    let fresh = files.iter().filter(|path| path.ends_with(".run") && !before.contains(path));
    fresh.for_each(|path| rig.sim.rot(path, 1000, 0x10));
    rig.reopen();
    let hidden = silent.iter().filter(|n| rig.view(&object(**n, 100)).is_none()).count();
    assert!(hidden > 0, "what was written since rots like anything else");
    run_jobs(&mut rig.drive);
    assert_eq!(rig.filled(2, opened), Ok(DriveReply::Done));
    for _ in 0..2 {
        for n in &silent {
            let view = rig.view(&object(*n, 100));
            assert!(view.is_none_or(|view| holds(&view, &above(*n))), "{n}: hidden, not forgotten");
        }
        assert!(rig.unfilled() > 0);
        rig.reopen();
    }
}

/// Goal: INV-FILL-1 in memory: a range is not opened while an overlay with slots of before is being written, and
/// what the overlay holds of it goes when it is. Method: rot is met and recorded, and the checkpoint that this
/// asks for never ends; a restart, whose replay brings the third layer back, and the order before any tick.
#[test]
fn the_overlay_forgets_what_is_void() {
    let mut rig = Rig::layered(patient());
    for n in 1..=OBJECTS {
        let read = Read { scope: scope(), key: object(n, 100).key, version: None, inline: false };
        rig.only(DriveRequest::Read(read));
    }
    drop(rig.drive.tick());
    rig.drive.flush();
    let order = || DriveRequest::Member(MemberRequest::Fill(issue(2)));
    let busy = rig.only(order());
    assert!(
        matches!(busy, Some(Err(DriveError::Failed { class: ErrorClass::Overloaded, .. }))),
        "{busy:?}"
    );
    EPOCH.set(2);
    rig.reopen();
    assert_eq!(rig.only(order()), Some(Ok(DriveReply::Done)));
    let ranges = rig.ranges();
    let opened = |n: &u64| {
        let register = object(*n, 100).key.encode_register(VersionId::NULL);
        ranges.iter().any(|range| range.holds(&register))
    };
    let third: Vec<u64> = (1..=OBJECTS).filter(|n| n % 50 == 1 && opened(n)).collect();
    assert!(!third.is_empty(), "some of the third layer lie in the range");
    for n in third {
        let view = rig.view(&object(n, 100)).unwrap();
        assert!(view.registers.is_empty() && !view.counts, "{n}: {view:?}");
    }
}

/// Goal: the bytes of an object whose register came back are counted once, so that they are given back when
/// it goes (INV-PLACE-1 is never undercut: see the table). Method: the range is filled from what the drive
/// itself still has of shards; then all goes.
#[test]
fn shards_that_were_there_are_named_once() {
    EPOCH.set(0);
    let mut rig = Rig::with(patient());
    let objects: Vec<Object> = (1..=OBJECTS).map(|n| object(n, 100)).collect();
    objects.iter().for_each(|object| rig.put(object));
    rig.checkpoint_twice();
    rig.rot_run();
    rig.reopen();
    let silent: Vec<&Object> = objects.iter().filter(|o| rig.view(o).is_none()).collect();
    run_jobs(&mut rig.drive);
    assert_eq!(rig.fill(1), Ok(DriveReply::Done));
    let used = rig.drive.facts().used_bytes;
    for object in &silent {
        let brought = rig.install(object, ShardSource::Held);
        assert!(matches!(brought, Ok(DriveReply::Accepted(_))), "{brought:?}");
        assert!(rig.whole(object), "it was here all the time");
    }
    assert_eq!(rig.drive.facts().used_bytes, used);
    let opened = rig.ranges();
    assert_eq!(rig.filled(1, opened), Ok(DriveReply::Done));
    for (n, object) in objects.iter().enumerate() {
        let gone = Object { key: object.key.clone(), ..tombstone(n as u64, 2_000_000) };
        let gone = above_floor(&mut rig, gone);
        rig.accept(&gone);
        rig.settle(&gone);
    }
    let left = rig.drive.facts().used_bytes;
    let filler = object(9001, 100).shard.len() as u64;
    assert!(left <= 2 * filler, "{left} of {used} bytes");
    rig.drive.audit().unwrap();
}

fn above_floor(rig: &mut Rig, mut object: Object) -> Object {
    let floor = rig.view(&object).unwrap().promise;
    object.entry.ballot.time = object.entry.ballot.time.max(floor.time.tick());
    object
}
