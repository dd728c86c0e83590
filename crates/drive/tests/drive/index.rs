//! The index under a drive: found out when it lies, and asked no more than it takes.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use holdfast_drive::{
    Drive, DriveOptions,
    api::{Chore, ChoreKind, DriveReply, DriveRequest, ListChores, Settle},
    base::{Base, BaseError, BasePage},
    disk_sim::SimDisk,
    drive::run_jobs,
    log::record::{NewShard, Record},
    meta_index::{MemoryMedium, keeper::IndexBackend},
    table::Table,
    value::{Note, Place, PlaceRecord, RegisterRecord},
};
use holdfast_register::{Held, HolderMask, ShardStatus};
use holdfast_types::{DriveState, Entry, EntryKind, Geometry, OperationId, ShardIndex, VersionId};

use super::rig::*;

/// Records a repair: another drive of the set does not hold its shard.
fn put_short(rig: &mut Rig, n: u64) {
    let name = format!("k{n}");
    rig.put(&name, n, b"body").unwrap();
    let (key, version) = (key(&name), VersionId::NULL);
    let (operation, holders) = (OperationId(n.into()), HolderMask::full(1));
    let settle = Settle { scope: scope(), key, version, operation, holders, set_size: 2 };
    rig.call(DriveRequest::Settle(settle)).unwrap();
}

fn repairs(rig: &mut Rig) -> Vec<Chore> {
    let kind = ChoreKind::Repairs;
    let list = ListChores { kind, age_micros: 0, after: None, limit: 1_000 };
    match rig.call(DriveRequest::ListChores(list)).unwrap() {
        DriveReply::Chores(chores) => chores,
        other => panic!("{other:?}"),
    }
}

/// Goal: an index that says something else than the runs, under a sound certificate, is noticed by the next
/// checkpoint or merge, told in the facts and built anew; one that is right is left alone. Method: repair
/// records, checkpoints and merges; then one record of the index becomes another sound one.
#[test]
fn the_next_merge_notices_an_index_that_lies() {
    let medium = MemoryMedium::default();
    let index = IndexBackend::Memory(medium.clone());
    let disk = Arc::new(SimDisk::new(1 << 30));
    let mut rig = Rig::with(disk, DriveOptions { index, ..options() });
    run_jobs(&mut rig.drive);
    for n in 1..=60 {
        put_short(&mut rig, n);
        if n % 10 == 0 {
            rig.drive.flush();
            rig.drive.begin_checkpoint();
            run_jobs(&mut rig.drive);
        }
    }
    let right = repairs(&mut rig);
    assert_eq!((right.len(), medium.count()), (60, 60));
    assert_eq!((rig.drive.facts().index_faults, rig.drive.facts().state), (0, DriveState::Healthy));
    medium.falsify(7).unwrap();
    put_short(&mut rig, 61);
    rig.drive.flush();
    rig.drive.begin_checkpoint();
    for job in rig.drive.tick().into_iter().filter(|job| job.name == Drive::CHECKPOINT_JOB) {
        let outcome = job.run();
        rig.drive.job_done(outcome);
    }
    let facts = rig.drive.facts();
    assert_eq!((facts.index_faults, facts.state), (1, DriveState::Reindexing));
    assert_eq!(repairs(&mut rig).len(), 61, "the runs answer");
    run_jobs(&mut rig.drive);
    let facts = rig.drive.facts();
    assert_eq!((facts.index_faults, facts.state), (1, DriveState::Healthy));
    assert_eq!((repairs(&mut rig).len(), medium.count()), (61, 61));
}

/// Holds one settled object and its place, and counts how often it is asked.
struct Counting {
    register: (Bytes, Bytes),
    place: (Bytes, Bytes),
    asked: AtomicUsize,
}

impl Base for Counting {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, BaseError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let held = [&self.register, &self.place].into_iter().find(|(held, _)| held == key);
        Ok(held.map(|(_, value)| value.clone()))
    }

    fn scan(&self, _: &[u8], _: Option<&[u8]>, _: usize) -> Result<BasePage, BaseError> {
        unreachable!("nobody scans")
    }

    fn key(&self, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, BaseError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let held = self.register.0.starts_with(prefix).then(|| self.register.clone());
        Ok(held.into_iter().collect())
    }

    fn try_get(&self, key: &[u8]) -> Result<Option<Option<Bytes>>, BaseError> {
        self.get(key).map(Some)
    }

    fn try_key(&self, prefix: &[u8]) -> Result<Option<Vec<(Bytes, Bytes)>>, BaseError> {
        self.key(prefix).map(Some)
    }

    fn is_empty(&self) -> bool {
        false
    }
}

/// The story: a delete looked up the register twice and the place of its bytes twice below the overlay,
/// each time through runs; two thirds of a drive's thread went there. Method: what a drive does for a
/// delete, over a base that counts: one look-up for the key, one for the place.
#[test]
fn a_delete_looks_up_each_key_once() {
    let register = Bytes::from(key("k").encode_register(VersionId::NULL));
    let note = Note { shard: ShardIndex(0), set_size: 1, at: 1 };
    let held =
        |entry: Entry, shard| Held { entry, shard, settled: false, holders: HolderMask::default() };
    let mut record = RegisterRecord::default();
    record.accept(held(entry(1, Geometry::new(1, 1, 9)), ShardStatus::Present), note);
    record.settle(OperationId(1), HolderMask::full(1), 1, true);
    let place = Place::Inline { segment: 1, offset: 512, len: 25 };
    let place = PlaceRecord { references: 1, place, ..PlaceRecord::default() };
    let base = Arc::new(Counting {
        register: (register.clone(), record.encode().into()),
        place: (PlaceRecord::key(OperationId(1)).into(), place.encode().into()),
        asked: AtomicUsize::new(0),
    });
    let mut table = Table::new(base.clone());
    table.layers.set_base(base.clone());
    table.facts.registers = 1;
    // As its checkpoint would say.
    let used = table.segments.entry(1).or_default();
    (used.live_shards, used.live_bytes) = (1, 25);
    table.facts.used_bytes = 25;

    table.key(&key("k")).unwrap();
    let tombstone = Entry { kind: EntryKind::Tombstone, ..entry(2, Geometry::EMPTY) };
    let (held, shard) = (held(tombstone, ShardStatus::NoData), NewShard::None);
    let accept = Record::Accept { register: register.clone(), held, note, shard };
    table.ready_for(&accept).unwrap();
    table.apply(1, &accept, &Place::None).unwrap();
    table.register(&register).unwrap();
    let (operation, holders) = (OperationId(2), HolderMask::full(1));
    let settle = Record::Settle { register, operation, holders, set_size: 1, drop_below: true };
    table.ready_for(&settle).unwrap();
    let dropped = table.apply(2, &settle, &Place::None).unwrap();
    assert_eq!(dropped.len(), 1, "the old shard goes");
    // The tombstone's own operation is looked up, too: nothing is known of a place for it.
    assert_eq!(base.asked.load(Ordering::Relaxed), 3);
}
