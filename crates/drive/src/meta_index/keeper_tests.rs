//! The keeper against a model: index and runs answer alike, whatever happens to the index.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use holdfast_types::{
    Ballot, BucketId, DriveId, RegisterKey, VersionId,
    seam::{Random, SeededRandom},
};

use crate::rot::{RotRange, RotRanges, RotStanding};

use super::keeper::*;
use super::{sled::IndexDir, *};
use crate::{
    disk_sim::SimDisk,
    runs::{RunContent, RunItem, RunStore},
};

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// Every third is no object.
fn register(name: u64) -> RegisterKey {
    match name % 3 {
        0 => RegisterKey::bucket(&format!("bucket-{name}")),
        _ => RegisterKey::object(BucketId(1), name.to_string()),
    }
}

fn prefix(name: u64) -> Vec<u8> {
    register(name).encode()
}

/// Four versions of each name.
fn key(n: u64) -> Vec<u8> {
    register(n / 4).encode_register(VersionId((n % 4).into()))
}

fn memory(medium: &MemoryMedium, content: IndexContent) -> IndexKeeper {
    IndexKeeper::new(IndexBackend::Memory(medium.clone()), content)
}

const CONTENTS: [IndexContent; 2] = [IndexContent::Few, IndexContent::All];

struct Rig {
    random: SeededRandom,
    model: Model,
    store: Arc<RunStore>,
    lsn: u64,
}

impl Rig {
    fn new(seed: u64) -> Self {
        let disk = Arc::new(SimDisk::new(1 << 40));
        let store = RunStore::open(disk, DriveId(1), &[], |_| true, 1 << 20).unwrap();
        let random = SeededRandom::new(seed);
        Self { random, model: Model::new(), store: Arc::new(store), lsn: 0 }
    }

    /// One checkpoint: some changes become a run, the index is fed, the run answers.
    fn checkpoint(&mut self, keeper: &IndexKeeper) {
        self.lsn += 1;
        let mut changes = BTreeMap::new();
        for _ in 0..60 {
            let key = key(self.random.next_u64() % 200);
            let long = self.random.next_u64().is_multiple_of(20);
            let value = vec![self.random.next_u64() as u8; if long { 5_000 } else { 9 }];
            changes.insert(key, (!self.random.next_u64().is_multiple_of(3)).then_some(value));
        }
        let items = changes.iter().map(|(key, value)| RunItem {
            key: Bytes::copy_from_slice(key),
            lsn: Lsn(self.lsn),
            content: value.as_ref().map_or(RunContent::Removed, |value| RunContent::Value {
                highest: Ballot::ZERO,
                bytes: value.clone().into(),
            }),
        });
        let run = self.store.write(items, 60).unwrap().unwrap();
        keeper.apply(&run, Lsn(self.lsn));
        self.store.install_newest(run);
        for (key, value) in changes {
            match value {
                Some(value) => self.model.insert(key, value),
                None => self.model.remove(&key),
            };
        }
        while let Some((inputs, oldest)) = self.store.set().next_merge(&RotRanges::default()) {
            let merged = self.store.merge(&inputs, oldest, &RotRanges::default()).unwrap();
            assert!(self.store.install_merged(&inputs, merged));
        }
    }

    fn check(&self, keeper: &IndexKeeper) {
        let set = self.store.set();
        for n in 0..200 {
            let key = key(n);
            let found = keeper.get(&set, &key).unwrap();
            assert_eq!(found.as_deref(), self.model.get(&key).map(|value| &value[..]));
        }
        let (page, more) = keeper.scan(&set, b"", None, 1_000).unwrap();
        assert!(!more);
        let pairs = page.iter().map(|(key, value)| (&key[..], &value[..]));
        assert!(pairs.eq(self.model.iter().map(|(key, value)| (&key[..], &value[..]))));
        for space in [1, 4] {
            let (page, more) = keeper.scan(&set, &[space], Some(&[space + 1]), 1_000).unwrap();
            assert!(!more);
            let model = self.model.iter().filter(|(key, _)| key[0] == space);
            let pairs = page.iter().map(|(key, value)| (&key[..], &value[..]));
            assert!(pairs.eq(model.map(|(key, value)| (&key[..], &value[..]))));
        }
        for n in 0..50 {
            let prefix = prefix(n);
            let under = keeper.get_key(&set, &prefix).unwrap().len();
            assert_eq!(under, self.model.keys().filter(|k| k.starts_with(&prefix)).count());
        }
    }
}

/// Goal: index and runs answer alike, through merges, faults, rebuilds and reopening; a sample never
/// accuses an index that is right, and always one that lies. Method: checkpoints with the twin, each with
/// its sample; now and then the medium rots, lies, crashes or is wiped, and the keeper is opened anew;
/// after each step all keys and a scan are compared with the model.
#[test]
fn index_and_runs_answer_alike_whatever_happens_to_the_index() {
    let mut lies = 0;
    for (seed, content) in (0..20).zip(CONTENTS.into_iter().cycle()) {
        let medium = MemoryMedium::new();
        let mut rotten = false;
        let mut rig = Rig::new(seed);
        let mut keeper = memory(&medium, content);
        assert!(!keeper.open(Lsn(0)) && keeper.rebuild(&rig.store));
        for step in 0..30 {
            rig.checkpoint(&keeper);
            let faults = keeper.faults();
            keeper.sample(&rig.store, &RotRanges::default());
            if !rotten {
                assert_eq!(keeper.faults(), faults, "seed {seed} step {step}");
            }
            rig.check(&keeper);
            match rig.random.next_u64() % 7 {
                0 => {
                    medium.flip_bit(rig.random.next_u64());
                    rotten = true;
                }
                3 if keeper.trusted().is_some() && !rotten => {
                    medium.falsify(rig.random.next_u64()).expect("there are records");
                    keeper.sample(&rig.store, &RotRanges::default());
                    assert!(keeper.wants_rebuild(), "seed {seed} step {step}: it lies unnoticed");
                    lies += 1;
                }
                1 => {
                    let index = keeper.trusted();
                    if let Some(index) = index {
                        index.put(b"\x01lost", Lsn(rig.lsn), b"half applied").unwrap();
                    }
                    let keep = rig.random.next_u64().is_multiple_of(2);
                    medium.crash(|| keep);
                    keeper = memory(&medium, content);
                    let opened = keeper.open(Lsn(rig.lsn));
                    rotten &= !opened;
                    assert_eq!(opened, keeper.trusted().is_some(), "step {step}");
                }
                2 if keeper.wants_rebuild() => {
                    assert!(keeper.rebuild(&rig.store));
                    rotten = false;
                }
                _ => {}
            }
            rig.check(&keeper);
        }
    }
    assert!(lies > 20, "{lies} lies");
}

/// Goal: an index behind the runs is refused. Method: a run that was not applied.
#[test]
fn an_index_behind_the_runs_is_built_anew() {
    let content = IndexContent::All;
    let medium = MemoryMedium::new();
    let mut rig = Rig::new(1);
    let keeper = memory(&medium, content);
    assert!(keeper.rebuild(&rig.store));
    rig.checkpoint(&keeper);
    rig.checkpoint(&IndexKeeper::new(IndexBackend::Off, content));
    let keeper = memory(&medium, content);
    assert!(!keeper.open(Lsn(2)) && keeper.wants_rebuild());
    rig.check(&keeper);
    assert!(keeper.rebuild(&rig.store) && !keeper.wants_rebuild());
    rig.check(&keeper);
}

/// The story it prevents: power goes after a run was fed to the index and before the manifest names it; the
/// next merge finds records in the index that no run has, and must not accuse it. Method: a run that is fed
/// and not installed; then it is, and the sample counts again.
#[test]
fn an_index_ahead_of_the_runs_is_not_accused() {
    let medium = MemoryMedium::new();
    let mut rig = Rig::new(5);
    let keeper = memory(&medium, IndexContent::All);
    assert!(keeper.rebuild(&rig.store));
    rig.checkpoint(&keeper);
    let content = RunContent::Value { highest: Ballot::ZERO, bytes: Bytes::from_static(b"new") };
    let item = RunItem { key: key(1).into(), lsn: Lsn(2), content };
    let run = rig.store.write([item], 1).unwrap().unwrap();
    keeper.apply(&run, Lsn(2));
    keeper.sample(&rig.store, &RotRanges::default());
    assert_eq!(keeper.faults(), 0, "it is ahead, not wrong");
    rig.store.install_newest(run);
    keeper.sample(&rig.store, &RotRanges::default());
    assert_eq!(keeper.faults(), 0);
    medium.falsify(3).unwrap();
    keeper.sample(&rig.store, &RotRanges::default());
    assert_eq!(keeper.faults(), 1);
}

/// Goal: INV-FILL-1: of what is void nothing comes from the index, which holds it, nor from the runs, and what
/// came since does; an index that is begun anew is not asked any more. Method: checkpoints; all registers are
/// hidden and opened; checkpoints of the same keys; every look-up there is.
#[test]
fn what_is_void_is_not_answered() {
    for content in CONTENTS {
        let medium = MemoryMedium::new();
        let mut rig = Rig::new(7);
        let keeper = memory(&medium, content);
        assert!(keeper.rebuild(&rig.store));
        (0..3).for_each(|_| rig.checkpoint(&keeper));
        let mut rot = RotRanges::default();
        rot.add(RotRange {
            start: Bytes::from_static(&[1]),
            end: Bytes::from_static(&[6]),
            upto: Lsn(rig.lsn),
            highest: Ballot::ZERO,
            epoch: holdfast_types::SetEpoch(1),
            standing: RotStanding::Hidden,
        });
        assert_eq!(rot.open(holdfast_types::SetEpoch(2), Lsn(rig.lsn + 1)).len(), 1);
        rig.store.pass_by(&rot);
        rig.model.clear();
        rig.check(&keeper);
        for _ in 0..3 {
            rig.checkpoint(&keeper);
            rig.check(&keeper);
            keeper.sample(&rig.store, &RotRanges::default());
        }
        assert_eq!(keeper.faults(), 0);
        assert!(keeper.begin_anew() && keeper.wants_rebuild() && !keeper.begin_anew());
        rig.check(&keeper);
        assert!(keeper.rebuild(&rig.store));
        rig.check(&keeper);
    }
}

/// Goal: the same with sled on a real folder: fed, deleted under it, rebuilt, opened again.
#[test]
fn sled_is_fed_and_rebuilt() {
    CONTENTS.into_iter().for_each(fed_and_rebuilt);
}

fn fed_and_rebuilt(content: IndexContent) {
    let folder = tempfile::tempdir().unwrap();
    let patience = Duration::from_secs(10);
    let backend = IndexBackend::Sled { root: folder.path().to_owned(), patience };
    let mut rig = Rig::new(2);
    let keeper = IndexKeeper::new(backend.clone(), content);
    assert!(!keeper.open(Lsn(0)) && keeper.rebuild(&rig.store));
    for _ in 0..6 {
        rig.checkpoint(&keeper);
        rig.check(&keeper);
    }
    assert!(keeper.trusted().is_some());
    drop(keeper);
    let keeper = IndexKeeper::new(backend.clone(), content);
    assert!(keeper.open(Lsn(6)));
    rig.check(&keeper);
    drop(keeper);
    IndexDir::new(folder.path()).set_aside().unwrap();
    let keeper = IndexKeeper::new(backend, content);
    assert!(!keeper.open(Lsn(6)));
    rig.check(&keeper);
    assert!(keeper.rebuild(&rig.store));
    rig.checkpoint(&keeper);
    rig.check(&keeper);
}

/// Goal: what it is not to hold never gets into the index, and what it is to hold does. Method: a
/// checkpoint of both, and the index asked for every key itself.
#[test]
fn few_holds_no_objects() {
    let medium = MemoryMedium::new();
    let mut rig = Rig::new(3);
    let keeper = memory(&medium, IndexContent::Few);
    assert!(keeper.rebuild(&rig.store));
    rig.checkpoint(&keeper);
    let index = keeper.trusted().unwrap();
    for key in rig.model.keys() {
        let held = index.get(key).unwrap() != Lookup::Absent;
        assert_eq!(held, key[0] != 1, "{key:?}");
    }
    assert!(rig.model.keys().any(|key| key[0] == 1) && rig.model.keys().any(|key| key[0] != 1));
}
