//! The index fault suite (DRIVE.md, "Index"): over sled, the in-memory twin and the runs, each fault
//! ends as "detected, and right after a rebuild" or as "right answers": never as a wrong answer, and
//! never as a panic that escapes.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use holdfast_types::{
    Ballot, DriveId,
    seam::{Random, SeededRandom},
};

use super::*;
use crate::{
    disk_sim::SimDisk,
    meta_index::{MemoryIndex, MemoryMedium},
    runs::{Patience, RunContent, RunError, RunItem, RunStore},
};

const PATIENCE: Duration = Duration::from_secs(5);

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// Keys as a drive has them, values of a few sizes; some are too long for the index.
fn model(count: u64) -> Model {
    let random = SeededRandom::new(count);
    let key = |n: u64| [&[1_u8][..], format!("{:04}/{n}", n % 97).as_bytes()].concat();
    let value =
        |n: u64| vec![n as u8; if n.is_multiple_of(50) { 5_000 } else { 20 + (n % 400) as usize }];
    (0..count).map(|n| (key(n), value(random.next_u64()))).collect()
}

fn fill(index: &dyn MetaIndex, model: &Model, lsn: Lsn) {
    for (key, value) in model {
        index.put(key, lsn, value).unwrap();
    }
    index.certify(lsn).unwrap();
}

fn matches(held: &Lookup, value: &[u8]) -> bool {
    match held {
        Lookup::Value { bytes, .. } => bytes == value,
        Lookup::InRuns { .. } => value.len() > super::super::INDEX_VALUE_BYTES_MAX,
        Lookup::Absent => false,
    }
}

/// Every answer is right, or an error. Returns whether there was an error.
fn check(index: &dyn MetaIndex, model: &Model) -> bool {
    for (key, value) in model {
        match index.get(key) {
            Ok(held) => assert!(matches(&held, value), "{} is {held:?}", key.escape_ascii()),
            Err(_) => return true,
        }
    }
    let mut expected = model.iter();
    let mut start = Vec::new();
    loop {
        let Ok(page) = index.scan(&start, None, 100) else { return true };
        for (key, held) in &page.items {
            let (right, value) = expected.next().expect("no more than there are");
            assert!(key == right && matches(held, value));
        }
        match page.items.last() {
            Some((last, _)) if page.more => start = [last, &b"\0"[..]].concat(),
            _ => break,
        }
    }
    assert!(expected.next().is_none(), "no fewer than there are");
    false
}

/// What a drive does: open, or else build anew from the truth. Returns whether it had to.
fn open_or_rebuild(root: &Path, model: &Model) -> bool {
    if SledIndex::open(root, PATIENCE).is_ok_and(|index| !check(&index, model)) {
        return false;
    }
    let index = SledIndex::create(root).unwrap();
    fill(&index, model, Lsn(9));
    assert!(!check(&index, model));
    drop(index);
    let reopened = SledIndex::open(root, PATIENCE).unwrap();
    assert!(!check(&reopened, model), "what was rebuilt opens again");
    true
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for item in fs::read_dir(from).unwrap() {
        let item = item.unwrap();
        let target = to.join(item.file_name());
        if item.file_type().unwrap().is_dir() {
            copy_tree(&item.path(), &target);
        } else {
            fs::copy(item.path(), target).unwrap();
        }
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for item in fs::read_dir(folder).unwrap() {
        let path = item.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// A folder with a certified index of `model`, to be copied and hurt.
fn certified(model: &Model) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let index = SledIndex::create(folder.path()).unwrap();
    fill(&index, model, Lsn(3));
    drop(index);
    folder
}

fn hurt_copy(original: &Path, hurt: impl FnOnce(&Path)) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    copy_tree(original, copy.path());
    hurt(copy.path());
    copy
}

fn largest(root: &Path) -> PathBuf {
    let size = |path: &PathBuf| fs::metadata(path).unwrap().len();
    files(&root.join("index")).into_iter().max_by_key(size).unwrap()
}

/// sled keeps what it was told, over reopening, replay and removal. Method: the trait's contract.
#[test]
fn sled_keeps_the_contract() {
    let model = model(800);
    let folder = certified(&model);
    let index = SledIndex::open(folder.path(), PATIENCE).unwrap();
    assert_eq!(index.certified(), Some(Lsn(3)));
    assert!(!check(&index, &model));
    index.put(b"\x01k", Lsn(9), b"new").unwrap();
    index.put(b"\x01k", Lsn(8), b"old").unwrap();
    index.remove(b"\x01k", Lsn(8)).unwrap();
    assert_eq!(index.get(b"\x01k").unwrap().lsn(), Some(Lsn(9)));
    drop(index);
    let uncertified = SledIndex::open(folder.path(), PATIENCE);
    assert!(uncertified.is_err(), "content behind the certificate is refused: {uncertified:?}");
    assert!(open_or_rebuild(folder.path(), &model));
    let index = SledIndex::open(folder.path(), PATIENCE).unwrap();
    index.put(b"\x01k", Lsn(10), b"new").unwrap();
    index.remove(b"\x01k", Lsn(11)).unwrap();
    assert!(!check(&index, &model));
    index.certify(Lsn(11)).unwrap();
    drop(index);
    assert_eq!(SledIndex::open(folder.path(), PATIENCE).unwrap().certified(), Some(Lsn(11)));
}

/// Goal: a cut tail is found, though sled may open it as an older or empty database. Method: cut the
/// file of pages at many lengths.
#[test]
fn a_cut_tail() {
    let model = model(1_200);
    let original = certified(&model);
    let len = fs::metadata(largest(original.path())).unwrap().len();
    let mut rebuilt = 0;
    for step in 0..8 {
        let kept = len * step / 8;
        let copy = hurt_copy(original.path(), |root| {
            let file = fs::OpenOptions::new().write(true).open(largest(root)).unwrap();
            file.set_len(kept).unwrap();
        });
        rebuilt += u32::from(open_or_rebuild(copy.path(), &model));
    }
    assert!(rebuilt >= 5, "{rebuilt} of 8 cuts were noticed");
}

/// Goal: flipped bytes are found or harmless. Method: flip some in every file, many places.
#[test]
fn flipped_bytes() {
    let model = model(600);
    let original = certified(&model);
    let random = SeededRandom::new(21);
    let mut rebuilt = 0;
    for round in 0..12 {
        let copy = hurt_copy(original.path(), |root| {
            let files = files(&root.join("index"));
            let path = if round < 6 { largest(root) } else { files[round % files.len()].clone() };
            let mut bytes = fs::read(&path).unwrap();
            for _ in 0..=round % 4 {
                let at = (random.next_u64() % bytes.len() as u64) as usize;
                bytes[at] ^= 1 << (random.next_u64() % 8);
            }
            fs::write(&path, bytes).unwrap();
        });
        rebuilt += u32::from(open_or_rebuild(copy.path(), &model));
    }
    assert!(rebuilt > 0, "no flip was noticed");
}

/// Goal: whatever lies in the folder, the drive gets a right index. Method: no folder, no
/// certificate, the certificate of another time, a torn snapshot, a file where the folder should be,
/// zeros for pages.
#[test]
fn scribbled_folders() {
    let model = model(300);
    let original = certified(&model);
    let faults: [(&str, fn(&Path)); 6] = [
        ("deleted", |root| fs::remove_dir_all(root.join("index")).unwrap()),
        ("no certificate", |root| fs::remove_file(root.join("index/certificate")).unwrap()),
        ("another certificate", |root| {
            let other = Certificate { lsn: Lsn(2), digest: Digest::default() };
            fs::write(root.join("index/certificate"), other.to_bytes()).unwrap();
        }),
        ("no sled", |root| fs::remove_dir_all(root.join("index/sled")).unwrap()),
        ("a file", |root| {
            fs::remove_dir_all(root.join("index/sled")).unwrap();
            fs::write(root.join("index/sled"), b"scribble").unwrap();
        }),
        ("zeros", |root| {
            let path = largest(root);
            let len = fs::metadata(&path).unwrap().len();
            fs::write(path, vec![0; len as usize]).unwrap();
        }),
    ];
    for (name, fault) in faults {
        let copy = hurt_copy(original.path(), fault);
        assert!(open_or_rebuild(copy.path(), &model), "{name} was not noticed");
    }
    let copy = hurt_copy(original.path(), |root| {
        fs::write(root.join("index/sled/snap.00000000000000FF.generating"), b"torn").unwrap();
        fs::write(root.join("index/sled/snap.00000000000000FE"), b"torn").unwrap();
    });
    open_or_rebuild(copy.path(), &model);
}

/// Goal: a store that makes no progress is given up, one that makes some is waited for. Method: work
/// that never ends, and work of many steps, each within patience.
#[test]
fn a_hang_is_given_up() {
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let patience = Duration::from_millis(40);
    let hung = with_patience("hang", patience, move |_| {
        let _ = held.recv();
        Ok(())
    });
    assert_eq!(hung, Err(IndexError::Stalled { waited_ms: 40 }));
    drop(hold);
    let slow = with_patience("slow", Duration::from_secs(1), |progress| {
        for _ in 0..8 {
            std::thread::sleep(Duration::from_millis(150));
            progress.fetch_add(1, Ordering::Relaxed);
        }
        Ok(7)
    });
    assert_eq!(slow, Ok(7));
    let panicked: Result<(), _> = with_patience("panic", PATIENCE, |_| panic!("as sled does"));
    assert!(matches!(panicked, Err(IndexError::Failed { .. })));
}

/// Goal: the twin is hurt by the same faults and found out the same way. Method: each fault, then
/// either an error or right answers.
#[test]
fn the_twin_under_the_same_faults() {
    let model = model(300);
    for seed in 0..300_u64 {
        let medium = MemoryMedium::new();
        fill(&MemoryIndex::create(&medium), &model, Lsn(1));
        match seed % 3 {
            0 => medium.flip_bit(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            1 => medium.cut_tail(1 + seed as usize % 400),
            _ => medium.wipe(),
        }
        if let Ok(index) = MemoryIndex::open(&medium) {
            panic!("fault {seed} was not noticed: {}", check(&index, &model));
        }
    }
}

/// Goal: the runs answer the same questions under rot and cuts: right, or an error that names the
/// range. Method: rot and cut a run of the same model; lost directories are a lost run.
#[test]
fn the_runs_under_the_same_faults() {
    let model = model(1_500);
    let disk = SimDisk::new(1 << 40);
    let open = |metas: &[_]| {
        RunStore::open(Arc::new(disk.clone()), DriveId(1), metas, |_| true, 1 << 20).unwrap()
    };
    let items = model.iter().map(|(key, value)| RunItem {
        key: Bytes::copy_from_slice(key),
        lsn: Lsn(1),
        content: RunContent::Value { highest: Ballot::ZERO, bytes: value.clone().into() },
    });
    let run = open(&[]).write(items, 1_500).unwrap().unwrap();
    let meta = run.meta().clone();
    let random = SeededRandom::new(4);
    let mut noticed = 0;
    for _ in 0..60 {
        let at = random.next_u64() % meta.bytes;
        disk.rot(&meta.id.path(), at, 0xff);
        let set = open(std::slice::from_ref(&meta)).set();
        for (key, value) in &model {
            match set.get(key, Patience::Waits) {
                Ok(Some(RunItem { content: RunContent::Value { bytes, .. }, .. })) => {
                    assert_eq!(bytes, value);
                }
                Err(RunError::Rotten(range)) => {
                    assert!(range.start <= key && range.end.is_none_or(|end| key < &end));
                    noticed += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        disk.rot(&meta.id.path(), at, 0xff);
    }
    assert!(noticed > 0);
}
