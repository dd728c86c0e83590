//! Runs against a model: an ordered map per run, merged newest first.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use holdfast_types::{
    Ballot, DriveId, HybridTime,
    seam::{Random, SeededRandom},
};

use crate::rot::RotRanges;

use super::{store::RunStore, *};
use crate::disk_sim::{Mishap, SimDisk};

const DRIVE: DriveId = DriveId(77);

type Model = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

fn ballot(n: u64) -> Ballot {
    Ballot { time: HybridTime(n), ..Ballot::ZERO }
}

fn item(key: &[u8], lsn: u64, value: Option<&[u8]>) -> RunItem {
    let content = value.map_or(RunContent::Removed, |bytes| RunContent::Value {
        highest: ballot(lsn),
        bytes: Bytes::copy_from_slice(bytes),
    });
    RunItem { key: Bytes::copy_from_slice(key), lsn: Lsn(lsn), content }
}

/// Some changes with keys from a small space, so that runs overlap; a long value now and then.
fn changes(random: &SeededRandom, count: u64) -> Model {
    let mut model = Model::new();
    for _ in 0..count {
        let n = random.next_u64() % 3_000;
        let mut key = format!("\u{1}{:032}/{}", n % 7, n).into_bytes();
        key.truncate(20 + (n % 23) as usize);
        let value = match random.next_u64() % 8 {
            0 => None,
            1 => Some(vec![n as u8; 9_000]),
            _ => Some(format!("value {n} {}", random.next_u64()).into_bytes()),
        };
        model.insert(key, value);
    }
    model
}

fn store(disk: &SimDisk) -> RunStore {
    RunStore::open(Arc::new(disk.clone()), DRIVE, &[], |_| false, 1 << 20).unwrap()
}

fn add(store: &RunStore, lsn: u64, changes: &Model) -> Arc<Run> {
    let items = changes.iter().map(|(key, value)| item(key, lsn, value.as_deref()));
    let run = store.write(items, changes.len() as u64).unwrap().expect("there are changes");
    store.install_newest(Arc::clone(&run));
    run
}

fn value_of(item: RunItem) -> Vec<u8> {
    match item.content {
        RunContent::Value { bytes, .. } => bytes.to_vec(),
        RunContent::Removed => panic!("a removal was answered"),
    }
}

fn all(set: &RunSet, start: &[u8], end: Option<&[u8]>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut iter = set.iter(start, end);
    let mut found = Vec::new();
    while let Some(item) = iter.next_item().unwrap() {
        found.push((item.key.to_vec(), value_of(item)));
    }
    found
}

fn live(model: &Model) -> Vec<(Vec<u8>, Vec<u8>)> {
    model.iter().filter_map(|(k, v)| Some((k.clone(), v.clone()?))).collect()
}

/// Goal: gets, ranges and merges of runs answer like one map. Method: random changes in several
/// runs, then every key, random ranges, then merges as planned and again, then reopened.
#[test]
fn runs_answer_like_one_map() {
    let random = SeededRandom::new(11);
    let disk = SimDisk::new(1 << 40);
    let store = store(&disk);
    let mut model = Model::new();
    for lsn in 1..=9 {
        let changes = changes(&random, 700);
        add(&store, lsn, &changes);
        model.extend(changes);
    }
    check(&store.set(), &model, &random);
    while let Some((inputs, oldest)) = store.set().next_merge(&RotRanges::default()) {
        let merged = store.merge(&inputs, oldest, &RotRanges::default()).unwrap();
        assert!(store.install_merged(&inputs, merged));
        check(&store.set(), &model, &random);
        drop(inputs);
    }
    let set = store.set();
    let named = |id| set.metas().iter().any(|meta| meta.id == id);
    assert_eq!(store.collect(named), Ok(0));
    assert_eq!(disk.files().len(), set.runs().len());
    assert!(store.resident_bytes() > 0);
    let again = RunStore::open(Arc::new(disk), DRIVE, &set.metas(), |_| false, 0).unwrap();
    check(&again.set(), &model, &random);
}

fn check(set: &RunSet, model: &Model, random: &SeededRandom) {
    assert_eq!(all(set, b"", None), live(model));
    for (key, value) in model {
        let found = set.get(key, Patience::Waits).unwrap().map(value_of);
        assert_eq!(&found, value, "{}", key.escape_ascii());
    }
    assert_eq!(set.get(b"\x02absent", Patience::Waits).unwrap(), None);
    let keys: Vec<&Vec<u8>> = model.keys().collect();
    for _ in 0..20 {
        let pick = || keys[(random.next_u64() % keys.len() as u64) as usize].clone();
        let (start, end) = (pick(), pick());
        let (start, end) = if start <= end { (start, end) } else { (end, start) };
        let expected: Vec<_> =
            live(model).into_iter().filter(|(key, _)| *key >= start && *key < end).collect();
        assert_eq!(all(set, &start, Some(&end)), expected);
    }
}

/// Goal: all versions of a key come back from several runs, those of no other key with them.
/// Method: versions of three neighbouring keys spread over runs, one removed.
#[test]
fn a_key_is_found_with_all_its_versions() {
    use holdfast_types::{BucketId, RegisterKey, VersionId};
    let disk = SimDisk::new(1 << 40);
    let store = store(&disk);
    let key = |name: &'static [u8]| RegisterKey::object(BucketId(3), name);
    for lsn in 1..=6_u64 {
        let mut changes = Model::new();
        for name in [&b"a"[..], b"a\0", b"b"] {
            let version = VersionId(u128::from(lsn) % 4);
            changes.insert(key(name).encode_register(version), Some(vec![lsn as u8]));
        }
        add(&store, lsn, &changes);
    }
    let gone = Model::from([(key(b"a").encode_register(VersionId(3)), None)]);
    add(&store, 7, &gone);
    let found = store.set().get_key(&key(b"a").encode(), Patience::Waits).unwrap();
    let found: Vec<_> = found
        .into_iter()
        .map(|item| (RegisterKey::decode_register(&item.key).unwrap(), value_of(item)))
        .map(|((key, version), value)| (key.name, version.0, value[0]))
        .collect();
    let a = Bytes::from_static(b"a");
    assert_eq!(found, [(a.clone(), 0, 4), (a.clone(), 1, 5), (a, 2, 6)]);
}

/// Goal: INV-INDEX-1 for runs: with any byte of a file rotten every answer is right or an error that
/// names a range in which the key lies and the ballots it held. Method: rot bytes all over the file.
#[test]
fn a_rotten_byte_is_never_an_answer() {
    let disk = SimDisk::new(1 << 40);
    let random = SeededRandom::new(5);
    let model = changes(&random, 2_000);
    let meta = add(&store(&disk), 3, &model).meta().clone();
    let mut ranges = std::collections::BTreeSet::new();
    for n in 0..400 {
        // The last bytes are the footer, which a random offset would seldom hit.
        let back = if n % 4 == 0 { n % 160 } else { random.next_u64() % meta.bytes };
        let offset = meta.bytes - 1 - back;
        disk.rot(&meta.id.path(), offset, 0x10);
        let dynamic: Arc<dyn crate::disk::Disk> = Arc::new(disk.clone());
        let metas = [meta.clone()];
        let store = RunStore::open(dynamic, DRIVE, &metas, |_| false, 1 << 20).unwrap();
        for (key, value) in model.iter().skip((n % 16) as usize).step_by(16) {
            match store.set().get(key, Patience::Waits) {
                Ok(found) => assert_eq!(&found.map(value_of), value),
                Err(RunError::Rotten(range)) => {
                    assert!(range.start <= key && range.end.as_ref().is_none_or(|end| key < end));
                    assert_eq!(range.highest, ballot(3));
                    ranges.insert(range.start);
                }
                Err(other) => panic!("{other}"),
            }
        }
        disk.rot(&meta.id.path(), offset, 0x10);
    }
    assert!(ranges.len() > 5, "rot in blocks is reported by block: {}", ranges.len());
}

/// Goal: a cursor goes on behind a rotten block, and a lost file refuses for its whole range.
/// Method: rot one block of several, then remove the file.
#[test]
fn rot_is_bounded_by_its_fences() {
    let disk = SimDisk::new(1 << 40);
    let random = SeededRandom::new(5);
    let model = changes(&random, 2_000);
    let run = add(&store(&disk), 3, &model);
    disk.rot(&run.meta().id.path(), 50_000, 1);
    let mut cursor = RunCursor::new(Arc::clone(&run), b"", None, false, Patience::Waits);
    let (mut seen, mut rotten) = (Vec::new(), Vec::new());
    loop {
        match cursor.next_item() {
            Ok(None) => break,
            Ok(Some(item)) => seen.push(item.key),
            Err(RunError::Rotten(range)) => rotten.push(range),
            Err(other) => panic!("{other}"),
        }
    }
    let [range] = &rotten[..] else { panic!("{rotten:?}") };
    let within = |key: &[u8]| key >= &range.start[..] && key < &range.end.as_ref().unwrap()[..];
    let expected: Vec<&Vec<u8>> = model.keys().filter(|key| !within(key)).collect();
    assert!(expected.len() < model.len() && expected.len() > model.len() / 2);
    assert!(seen.iter().eq(expected));
    let meta = run.meta().clone();
    disk.plan_nothing();
    crate::disk::Disk::remove(&disk, &meta.id.path()).unwrap();
    let lost =
        RunStore::open(Arc::new(disk), DRIVE, std::slice::from_ref(&meta), |_| true, 0).unwrap();
    assert!(matches!(lost.set().get(&meta.last, Patience::Waits), Err(RunError::Rotten(_))));
    assert!(matches!(lost.set().iter(b"", None).next_item(), Err(RunError::Rotten(_))));
    assert_eq!(lost.set().get(b"\xff", Patience::Waits), Ok(None));
    assert_eq!(all(&lost.set(), b"\xfe", None), []);
}

/// Goal: rot in one run neither loses bytes in a merge nor stops the others from merging, nor is the
/// merge tried for ever. Method: nine equal runs, the fifth rotten; merge as planned.
#[test]
fn merges_go_around_rot() {
    let disk = SimDisk::new(1 << 40);
    let store = store(&disk);
    let random = SeededRandom::new(8);
    for lsn in 1..=9 {
        add(&store, lsn, &changes(&random, 300));
    }
    let rotten = store.set().runs()[4].meta().id;
    disk.rot(&rotten.path(), 700, 1);
    let (mut merges, mut refused) = (0, 0);
    while let Some((inputs, oldest)) = store.set().next_merge(&RotRanges::default()) {
        match store.merge(&inputs, oldest, &RotRanges::default()) {
            Ok(merged) => {
                assert!(store.install_merged(&inputs, merged));
                merges += 1;
            }
            Err(RunError::Rotten(range)) => {
                assert_eq!(range.run, rotten);
                refused += 1;
            }
            Err(other) => panic!("{other}"),
        }
        assert!(merges + refused < 10, "it ends");
    }
    assert_eq!((merges, refused), (2, 1));
    let left: Vec<_> = store.set().runs().iter().map(|run| run.meta().id).collect();
    assert!(left.len() == 3 && left[1] == rotten, "{left:?}");
}

/// Goal: a crash at any call leaves either no run or a whole one, and files that nobody names are
/// swept and their numbers not used again. Method: power off at each call of writing a run.
#[test]
fn a_crash_while_writing_leaves_nothing_that_counts() {
    let random = SeededRandom::new(9);
    let model = changes(&random, 600);
    let mut calls = 0;
    loop {
        let disk = SimDisk::new(1 << 40);
        let store = store(&disk);
        disk.plan(calls, Mishap::PowerOff);
        let items = model.iter().map(|(key, value)| item(key, 1, value.as_deref()));
        let done = store.write(items, 10);
        disk.crash(&random);
        match done {
            Ok(Some(run)) => {
                let metas = [run.meta().clone()];
                let dynamic = Arc::new(disk.clone());
                let again = RunStore::open(dynamic, DRIVE, &metas, |_| true, 0).unwrap();
                assert_eq!(all(&again.set(), b"", None), live(&model));
                break;
            }
            Ok(None) => panic!("there are items"),
            Err(_) => {
                let left = disk.files().len() as u64;
                let again =
                    RunStore::open(Arc::new(disk.clone()), DRIVE, &[], |_| false, 0).unwrap();
                assert_eq!(disk.files().len(), 0);
                assert_eq!(add(&again, 1, &model).meta().id, RunId(1 + left));
            }
        }
        calls += 1;
    }
    assert!(calls >= 4, "create, write, sync, folder sync: {calls}");
}

/// Goal: what cannot be read back is not written. Method: falling keys, no items.
#[test]
fn the_writer_checks_its_items() {
    let disk = SimDisk::new(1 << 40);
    let store = store(&disk);
    let falling = [item(b"b", 1, None), item(b"a", 1, None)];
    assert!(matches!(store.write(falling, 2), Err(RunError::Unwritable { .. })));
    assert!(store.write([], 0).unwrap().is_none());
}
