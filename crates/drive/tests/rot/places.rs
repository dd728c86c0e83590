//! Ranges of places and chores that rot hid, found out anew from the registers (INV-FILL-2, ADR 0019).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use holdfast_drive::{
    BackgroundJob, DriveOptions,
    api::{ChoreKind, DriveReply, DriveRequest, ListChores},
    disk::{Access, Disk},
    disk_sim::SimDisk,
    drive::{LoadOutcome, run_jobs},
    meta_index::{
        MemoryMedium,
        keeper::{IndexBackend, IndexContent},
    },
    value::{PLACE_SPACE, REPAIR_SPACE},
};
use holdfast_register::{HolderMask, ShardStatus};
use holdfast_types::{Entry, EntryKind, Geometry, OperationId, codec::Reader};

use super::{Object, Rig, SHARD, made_of, object, patient};

thread_local! {
    /// Plain objects of this test.
    static OBJECTS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Some ten blocks of places.
const MANY: u64 = 1500;

/// Objects of two parts each.
const MADE: u64 = 60;

/// First numbers of what a rig of layers holds beside plain objects.
const OPEN: u64 = 20_000;
const PARTS: u64 = 30_000;
const COMPOSED: u64 = 40_000;
const LATER: u64 = 100_000;

fn newer(n: u64) -> Object {
    Object { key: object(n, 100).key, ..object(n + LATER, 100) }
}

fn tombstone(of: &Object, n: u64) -> Object {
    let bare = object(n, 0);
    let (kind, geometry) = (EntryKind::Tombstone, Geometry::EMPTY);
    Object { key: of.key.clone(), entry: Entry { kind, geometry, ..bare.entry }, ..bare }
}

fn parts_of(n: u64) -> [Object; 2] {
    [object(PARTS + 2 * n, 100), object(PARTS + 2 * n + 1, 100)]
}

pub(super) fn indexed() -> DriveOptions {
    DriveOptions {
        index: IndexBackend::Memory(MemoryMedium::new()),
        index_content: IndexContent::All,
        ..patient()
    }
}

/// The blocks of a run's file: offset and first key.
fn blocks_of(sim: &SimDisk, path: &str) -> Vec<(u64, Bytes)> {
    let file = sim.open(path, Access::Cached).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(0, &mut bytes).unwrap();
    let footer = &bytes[bytes.len() - 160..];
    let number = |at: usize| u64::from_be_bytes(footer[at..at + 8].try_into().unwrap());
    let (blocks, fences) = (number(48), number(72) as usize);
    let mut input = Reader::new(&bytes[fences..]);
    let fence = |_| {
        let (offset, _) = (input.varint().unwrap(), input.varint().unwrap());
        let key = input.blob_bytes().unwrap();
        input.array::<28>().unwrap();
        (offset, key)
    };
    (0..blocks).map(fence).collect()
}

/// Flips a bit of a block that holds keys of one kind alone: the `nth` such block of the newest run that
/// has so many.
pub(super) fn rot_block(sim: &SimDisk, kinds: std::ops::RangeInclusive<u8>, nth: usize) {
    let files = sim.files();
    for path in files.iter().rev().filter(|path| path.ends_with(".run")) {
        let blocks = blocks_of(sim, path);
        let of_kind = |at: &usize| {
            let inside = |at: usize| blocks.get(at).is_none_or(|b| kinds.contains(&b.1[0]));
            inside(*at) && inside(at + 1)
        };
        let found: Vec<usize> = (0..blocks.len()).filter(of_kind).collect();
        if let Some(at) = found.get(nth) {
            return sim.rot(path, blocks[*at].0 + 40, 0x10);
        }
    }
    panic!("no block of {kinds:?}");
}

impl Rig {
    fn all_chores(&mut self, kind: ChoreKind) -> BTreeMap<OperationId, HolderMask> {
        let list = ListChores { kind, age_micros: 0, after: None, limit: 1 << 20 };
        match self.call(DriveRequest::ListChores(list)) {
            Ok(DriveReply::Chores(chores)) => {
                chores.into_iter().map(|chore| (chore.operation, chore.missing)).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    /// Objects in two layers: all, some of two parts, some not settled; then every third overwritten and every
    /// seventh deleted. Half of the shards lie in the log, half in volumes.
    fn two_layers(options: DriveOptions, objects: u64) -> Self {
        let mut rig = Self::with(options);
        super::EPOCH.set(0);
        OBJECTS.set(objects);
        for n in 1..=objects {
            rig.uploads_all = n % 2 == 0;
            rig.put(&object(n, 100));
        }
        for n in 1..=MADE {
            rig.uploads_all = n % 2 == 0;
            parts_of(n).iter().for_each(|part| rig.put(part));
            rig.put(&made_of(COMPOSED + n, &parts_of(n)));
            rig.accept(&object(OPEN + n, 100));
        }
        rig.checkpoint_twice();
        for n in 1..=objects {
            rig.uploads_all = n % 4 == 0;
            if n % 7 == 0 {
                rig.put(&tombstone(&object(n, 100), n + LATER));
            } else if n % 3 == 0 {
                rig.put(&newer(n));
            }
        }
        rig.checkpoint_twice();
        rig.reopen();
        rig.drive.audit().unwrap();
        rig.drive.audit_blocks().unwrap();
        rig
    }
}

/// What a key of a rig of layers holds: `None`: deleted.
fn last(n: u64) -> Option<Object> {
    match n {
        n if n % 7 == 0 => None,
        n if n % 3 == 0 => Some(newer(n)),
        n => Some(object(n, 100)),
    }
}

/// All objects with bytes of a rig of layers, parts among them.
fn all() -> Vec<Object> {
    let plain = (1..=OBJECTS.get()).filter_map(last);
    let parts = (1..=MADE).flat_map(parts_of);
    let open = (1..=MADE).map(|n| object(OPEN + n, 100));
    plain.chain(parts).chain(open).collect()
}

/// The operations whose shards are not here; that every other one is whole.
fn lost(rig: &mut Rig) -> BTreeSet<OperationId> {
    let lost = all().into_iter().filter(|object| !rig.whole(object));
    lost.map(|object| object.entry.operation).collect()
}

/// Brings what is missing, as the healer does, and looks at all of it.
fn heal(rig: &mut Rig, lost: &BTreeSet<OperationId>) {
    let is_lost = |object: &Object| lost.contains(&object.entry.operation);
    for n in 1..=MADE {
        let whole = made_of(COMPOSED + n, &parts_of(n));
        let short = parts_of(n).iter().any(is_lost);
        let expected = if short { ShardStatus::Missing } else { ShardStatus::NoData };
        assert_eq!(rig.shown(&whole).0, expected, "{n}");
        for part in parts_of(n).iter().filter(|part| is_lost(part)) {
            let source = rig.source(part);
            let brought = rig.restock(&whole, part, source);
            assert_eq!(brought, Ok(DriveReply::Accepted(ShardStatus::Present)));
        }
        if short {
            let healed = rig.install(&whole, super::ShardSource::NoData);
            assert_eq!(healed, Ok(DriveReply::Accepted(ShardStatus::NoData)));
        }
    }
    for object in all().iter().filter(|object| is_lost(object)) {
        assert_eq!(rig.shown(object).0, ShardStatus::Missing, "{:?}", object.key);
        let source = rig.source(object);
        let brought = rig.install(object, source);
        assert_eq!(brought, Ok(DriveReply::Accepted(ShardStatus::Present)));
    }
}

/// Everything is there, and what is counted is what there is.
fn check_whole(rig: &mut Rig) {
    assert_eq!(rig.ranges(), []);
    assert_eq!(rig.drive.facts().reason, "");
    for object in all() {
        assert!(rig.whole(&object) && rig.shown(&object).0 == ShardStatus::Present);
    }
    for n in (1..=OBJECTS.get()).filter(|n| last(*n).is_none()) {
        assert_eq!(rig.held(&object(n, 100)), Some(false), "{n}");
    }
    assert_eq!(rig.all_chores(ChoreKind::Repairs), BTreeMap::new());
    let tombstones = (1..=OBJECTS.get()).filter(|n| last(*n).is_none()).count();
    assert_eq!(rig.all_chores(ChoreKind::Tombstones).len(), tombstones);
    rig.drive.audit().unwrap();
    rig.drive.audit_blocks().unwrap();
}

/// Goal: INV-FILL-2: a hidden range of places is known again from the registers, by the drive alone: what was
/// named in it is missing and listed for repair, for parts of objects and open entries, too; nothing else is;
/// what had been overwritten or deleted stays so; and once the shards are brought all counters, references,
/// chores and blocks are what there is, so that nothing leaks. Over restarts, with an index of all and none.
/// Method: two layers of objects in log and volumes; a block of places rots, in the newer run or the older.
#[test]
fn a_range_of_places_is_known_again() {
    for (options, nth) in [(patient(), 1), (patient(), 4), (indexed(), 1)] {
        let mut rig = Rig::two_layers(options, MANY);
        rot_block(&rig.sim, PLACE_SPACE..=PLACE_SPACE, nth);
        rig.reopen();
        for object in all() {
            rig.whole(&object);
        }
        run_jobs(&mut rig.drive);
        let missing = lost(&mut rig);
        assert!(missing.len() > 50 && missing.len() < all().len() / 2, "{}", missing.len());
        for restarted in [false, true] {
            assert_eq!(lost(&mut rig), missing, "{restarted}");
            let mask = HolderMask::default().with(SHARD.0);
            let repairs = rig.all_chores(ChoreKind::Repairs);
            let listed = |object: &Object| {
                let operation = object.entry.operation;
                assert_eq!(repairs.contains_key(&operation), missing.contains(&operation));
            };
            (1..=OBJECTS.get()).filter_map(last).for_each(|object| listed(&object));
            assert!(repairs.values().all(|missing| *missing == mask));
            rig.drive.audit().unwrap();
            rig.drive.audit_blocks().unwrap();
            rig.reopen();
        }
        for n in 1..=MADE {
            let open = object(OPEN + n, 100);
            let expected = match missing.contains(&open.entry.operation) {
                true => ShardStatus::Missing,
                false => ShardStatus::Present,
            };
            assert_eq!(rig.shown(&open).0, expected, "an open entry, too");
            rig.settle(&open);
        }
        heal(&mut rig, &missing);
        for _ in 0..2 {
            run_jobs(&mut rig.drive);
            check_whole(&mut rig);
            rig.reopen();
        }
    }
}

/// Goal: as above for chores: every chore follows from its register. Method: a block of chores rots; all
/// tombstones are listed again, and no repair is.
#[test]
fn a_range_of_chores_is_known_again() {
    let mut rig = Rig::with(patient());
    super::EPOCH.set(0);
    let objects: Vec<Object> = (1..=MANY).map(|n| object(n, 100)).collect();
    for (n, object) in objects.iter().enumerate() {
        rig.put(object);
        if n % 2 == 0 {
            rig.put(&tombstone(object, n as u64 + LATER));
        }
    }
    rig.checkpoint_twice();
    rot_block(&rig.sim, REPAIR_SPACE..=REPAIR_SPACE + 2, 2);
    rig.reopen();
    let all = MANY as usize / 2;
    let list =
        ListChores { kind: ChoreKind::Tombstones, age_micros: 0, after: None, limit: 1 << 20 };
    let met = rig.only(DriveRequest::ListChores(list));
    assert!(matches!(met, Some(Err(_))), "rot is met: {met:?}");
    run_jobs(&mut rig.drive);
    for _ in 0..2 {
        assert_eq!(rig.all_chores(ChoreKind::Tombstones).len(), all);
        assert_eq!(rig.ranges(), []);
        rig.drive.audit().unwrap();
        rig.reopen();
    }
}

/// Goal: after a range of registers is filled, what nobody names any more goes, parts of objects among them, and
/// chores of registers that did not come back; whatever is written meanwhile. Method: objects of parts whose own
/// registers are purged, some open; a block of registers rots; every second object comes back; the audit.
#[test]
fn what_nobody_names_after_a_fill_goes() {
    let mut rig = Rig::with(patient());
    super::EPOCH.set(0);
    let made = |n: u64| made_of(COMPOSED + n, &parts_of(n));
    for n in 1..=MANY / 3 {
        rig.uploads_all = n % 2 == 0;
        for part in parts_of(n) {
            rig.put(&part);
            let gone = tombstone(&part, n + LATER);
            if n % 3 == 0 {
                rig.put(&made(n));
                rig.put(&gone);
            }
        }
        rig.accept(&made(n));
        if n % 5 > 0 {
            rig.settle(&made(n));
        }
    }
    rig.checkpoint_twice();
    let before = rig.drive.facts();
    rot_block(&rig.sim, 1..=5, 20);
    rig.reopen();
    let silent: Vec<u64> = (1..=MANY / 3).filter(|n| rig.held(&made(*n)).is_none()).collect();
    assert!(silent.len() > 5, "{silent:?}");
    run_jobs(&mut rig.drive);
    assert_eq!(rig.fill(1), Ok(DriveReply::Done));
    for n in silent.iter().filter(|n| *n % 2 == 0) {
        let brought = rig.install(&made(*n), super::ShardSource::NoData);
        assert_eq!(brought, Ok(DriveReply::Accepted(ShardStatus::NoData)));
    }
    // Chores of registers that are void end no list.
    let open = (1..=MANY / 3).filter(|n| n % 5 == 0 && n % 3 > 0 && !silent.contains(n)).count();
    assert!(rig.all_chores(ChoreKind::Unsettled).len() >= open);
    let opened = rig.ranges();
    assert_eq!(rig.filled(1, opened), Ok(DriveReply::Done));
    for restarted in [false, true] {
        rig.put(&object(500_000 + u64::from(restarted), 100));
        run_jobs(&mut rig.drive);
        assert_eq!(rig.ranges(), []);
        rig.drive.audit().unwrap();
        rig.drive.audit_blocks().unwrap();
        rig.reopen();
    }
    let facts = rig.drive.facts();
    assert!(facts.used_bytes < before.used_bytes && facts.registers < before.registers);
    for n in (1..=MANY / 3).filter(|n| !silent.contains(n)) {
        assert!(parts_of(n).iter().all(|part| rig.whole(part)), "{n}");
    }
}

/// Goal: INV-BUCKET-4: what of a deleted bucket names a hidden place goes once the place is known again. Method: a
/// block of places rots, is met, and the bucket is deleted before anything is counted.
#[test]
fn a_deleted_bucket_is_erased_once_its_places_are_known() {
    let mut rig = Rig::with(patient());
    super::EPOCH.set(0);
    let objects: Vec<Object> = (1..=MANY).map(|n| object(n, 100)).collect();
    for (n, object) in objects.iter().enumerate() {
        rig.uploads_all = n % 2 == 0;
        rig.put(object);
    }
    rig.checkpoint_twice();
    rot_block(&rig.sim, PLACE_SPACE..=PLACE_SPACE, 1);
    rig.reopen();
    for object in &objects {
        let (scope, key) = (super::scope(), object.key.clone());
        rig.only(DriveRequest::Read(super::Read { scope, key, version: None, inline: true }));
    }
    let bucket = super::BucketStamp {
        epoch: super::BucketEpoch(9),
        phase: super::BucketPhase::Deleted,
        ..super::BUCKET
    };
    let deleted = super::Scope { bucket, ..super::scope() };
    assert_eq!(rig.only(DriveRequest::InstallBucket(deleted)), Some(Ok(DriveReply::Done)));
    for _ in 0..50 {
        run_jobs(&mut rig.drive);
        rig.clock.advance_micros(100_000);
    }
    assert_eq!(rig.ranges(), []);
    let facts = rig.drive.facts();
    assert_eq!((facts.registers, facts.used_bytes, facts.repairs), (0, 0, 0));
    rig.drive.audit().unwrap();
    rig.drive.audit_blocks().unwrap();
}

/// Goal: INV-FILL-2 over crashes: whatever step the power goes after, the drive goes on from there, to the same end.
/// Method: a disk with a rotten block of places, copied; power goes after so many steps, log batches, look-ups
/// and jobs being one each, for every number of them until all is done; new objects are written behind each.
#[test]
fn a_crash_at_any_step_of_a_count_is_gone_on_from() {
    let rig = Rig::two_layers(patient(), 500);
    rot_block(&rig.sim, PLACE_SPACE..=PLACE_SPACE, 1);
    let random = holdfast_types::seam::SeededRandom::new(7);
    let mut expected: Option<BTreeSet<OperationId>> = None;
    let mut ends = 0;
    for (steps, jobs_first) in (0..).flat_map(|steps| [(steps, false), (steps, true)]) {
        let mut rig = Rig { sim: rig.sim.fork(), clock: rig.clock.clone(), ..Rig::new() };
        rig.options = patient();
        rig.reopen();
        for object in all() {
            rig.only(DriveRequest::Read(super::Read {
                scope: super::scope(),
                key: object.key.clone(),
                version: None,
                inline: true,
            }));
        }
        let is_done = !some_steps(&mut rig, steps, jobs_first);
        rig.sim.crash(&random);
        rig.reopen();
        // They take the blocks that are free.
        for n in 0..20 {
            rig.uploads_all = n % 2 == 0;
            rig.put(&object(60_000 + n, 100));
        }
        for object in all() {
            rig.whole(&object);
        }
        run_jobs(&mut rig.drive);
        let missing = lost(&mut rig);
        assert!((0..20).all(|n| rig.whole(&object(60_000 + n, 100))), "{steps}");
        assert_eq!(*expected.get_or_insert_with(|| missing.clone()), missing, "{steps}");
        for n in 1..=MADE {
            rig.settle(&object(OPEN + n, 100));
        }
        heal(&mut rig, &missing);
        run_jobs(&mut rig.drive);
        check_whole(&mut rig);
        ends += u32::from(is_done);
        if ends > 4 {
            assert!(steps > 10, "{steps} are few");
            return;
        }
    }
}

/// Does so many things that a drive's threads would do; false when there was nothing left to be done.
fn some_steps(rig: &mut Rig, steps: u32, jobs_first: bool) -> bool {
    let mut jobs = std::collections::VecDeque::new();
    let mut loads = std::collections::VecDeque::new();
    for _ in 0..steps {
        // Long enough that a batch is written for which nobody waits.
        rig.clock.advance_micros(600_000);
        if let Some(batch) = rig.drive.take_batch() {
            let outcome = batch.run();
            rig.drive.batch_done(outcome);
            continue;
        }
        if jobs.is_empty() {
            let named: Vec<BackgroundJob> = rig.drive.tick();
            jobs.extend(named.into_iter().filter(|job| job.name != "ask for space"));
        }
        loads.extend(rig.drive.take_load_jobs());
        let job = (jobs_first || loads.is_empty()).then(|| jobs.pop_front()).flatten();
        if let Some(job) = job {
            let outcome = job.run();
            rig.drive.job_done(outcome);
        } else if let Some(load) = loads.pop_front() {
            let outcome: LoadOutcome = load.run();
            rig.drive.loaded(outcome);
        } else if rig.drive.waiting() == 0 {
            return false;
        }
    }
    true
}
