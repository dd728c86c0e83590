//! Manifests on the simulated disk.

use bytes::Bytes;
use holdfast_types::{
    Ballot, BucketStamp, HybridTime, SetEpoch,
    seam::{Random, SeededRandom},
};

use super::*;
use crate::{
    checkpoint::{DurableFacts, SegmentUse, VolumeMap},
    disk_sim::{Mishap, SimDisk},
    member::Standing,
    meta_index::Lsn,
    rot::{RotRange, RotRanges},
    runs::RunMeta,
};

const DRIVE: DriveId = DriveId(5);

/// A checkpoint with something in every field, drawn from `random`; large bitmaps of which little
/// changes from one to the next.
fn checkpoint(sequence: u64, random: &SeededRandom) -> Checkpoint {
    let mut bitmap = vec![0; PAGE_BYTES * 3 + 100];
    bitmap[PAGE_BYTES..2 * PAGE_BYTES].fill(0xff);
    bitmap[0] = sequence as u8 | 1;
    bitmap[3 * PAGE_BYTES + 7] = 1;
    let ballot = |n| Ballot { time: HybridTime(n), ..Ballot::ZERO };
    let run = |n: u64| RunMeta {
        id: RunId(sequence + n),
        items: n,
        removals: 1,
        bytes: 7_000 * n,
        lsn_min: Lsn(1),
        lsn_max: Lsn(n),
        first: Bytes::from_static(b"a"),
        last: Bytes::from_static(b"z"),
        highest: ballot(n),
    };
    Checkpoint {
        drive: DRIVE,
        sequence,
        log: LogPosition { segment: 3, offset: 4096, batch: sequence * 10, chain: 1 << 99 },
        facts: DurableFacts {
            open_count: random.next_u64(),
            set_epoch: SetEpoch(2),
            standing: Standing::Rebuilding,
            floor: ballot(1),
            ceiling: ballot(2),
            purge_floor: ballot(3),
            registers: 4,
            repairs: 5,
            used_bytes: 6,
            shards: 2,
        },
        membership: Bytes::from_static(b"who"),
        buckets: vec![BucketStamp::REGISTRY; 3],
        volumes: vec![
            VolumeMap { volume: 1, blocks: bitmap.len() as u32 * 8, bitmap },
            VolumeMap { volume: 9, blocks: 8, bitmap: vec![5] },
        ],
        segments: vec![SegmentUse { segment: 8, live_shards: 1, live_bytes: 2, last_batch: 3 }],
        scrub: crate::scrub::Book { rate: 7, ..crate::scrub::Book::default() },
        rot: RotRanges::new(vec![RotRange {
            start: Bytes::copy_from_slice(&[1, sequence as u8]),
            end: Bytes::copy_from_slice(&[2]),
            upto: Lsn(sequence),
            highest: ballot(sequence),
            epoch: SetEpoch(sequence),
            standing: crate::rot::RotStanding::Open(Lsn(sequence + 1)),
        }]),
        runs: vec![run(2), run(1)],
    }
}

fn shared(disk: &SimDisk) -> Arc<dyn Disk> {
    Arc::new(disk.clone())
}

/// Goal: what is stored comes back whole, two are kept, few pages are written. Method: five stores,
/// reopened after each.
#[test]
fn the_newest_comes_back_and_two_are_kept() {
    let disk = SimDisk::new(1 << 40);
    let random = SeededRandom::new(1);
    assert_eq!(ManifestStore::open(shared(&disk), DRIVE).unwrap_err(), ManifestError::Absent);
    let mut store = ManifestStore::create(shared(&disk)).unwrap();
    for sequence in 1..=5 {
        assert_eq!(store.next_sequence(), sequence);
        let stored = checkpoint(sequence, &random);
        store.store(&stored).unwrap();
        let (reopened, found) = ManifestStore::open(shared(&disk), DRIVE).unwrap();
        assert_eq!(found, stored);
        assert_eq!(reopened.oldest_log().unwrap().batch, sequence.saturating_sub(1).max(1) * 10);
        assert!(reopened.names(RunId(sequence + 2)) && reopened.names(RunId(sequence + 1)));
        assert!(!reopened.names(RunId(sequence - 1)));
        let manifests = disk.files().iter().filter(|name| name.ends_with(SUFFIX)).count();
        assert_eq!(manifests, 2.min(sequence as usize));
        store = reopened;
    }
    let pages = disk.len_of(PAGES).unwrap() / PAGE_BYTES as u64;
    assert!(pages <= 7, "one changed page a store, two kept, and unchanged ones: {pages}");
    assert!(ManifestStore::open(shared(&disk), DriveId(6)).is_err(), "a foreign drive's");
}

/// Goal: INV-MANIFEST-1: after a crash at any call the old or the new checkpoint stands, and the one
/// before it as well. Method: power off at every call of the third store; rot the newest after it.
#[test]
fn a_crash_at_any_call_leaves_one_that_counts() {
    let random = SeededRandom::new(2);
    for seed in 0..8 {
        for call in 0.. {
            let disk = SimDisk::new(1 << 40);
            let mut store = ManifestStore::create(shared(&disk)).unwrap();
            let written: Vec<_> = (1..=3).map(|n| checkpoint(n, &random)).collect();
            store.store(&written[0]).unwrap();
            store.store(&written[1]).unwrap();
            disk.plan(call, Mishap::PowerOff);
            let done = store.store(&written[2]).is_ok();
            disk.crash(&SeededRandom::new(seed));
            let (mut store, found) = ManifestStore::open(shared(&disk), DRIVE).unwrap();
            assert!(found == written[2] || (!done && found == written[1]), "call {call}");
            let next = checkpoint(store.next_sequence(), &random);
            store.store(&next).unwrap();
            let (_, again) = ManifestStore::open(shared(&disk), DRIVE).unwrap();
            assert_eq!(again, next);
            disk.rot(&path_of(next.sequence), 40, 1);
            let (mut store, older) = ManifestStore::open(shared(&disk), DRIVE).unwrap();
            assert_eq!(older, found, "the one before the newest, call {call}");
            let last = checkpoint(store.next_sequence(), &random);
            store.store(&last).unwrap();
            assert_eq!(ManifestStore::open(shared(&disk), DRIVE).unwrap().1, last);
            if done {
                break;
            }
        }
    }
}

/// Goal: rot anywhere is found; with both rotten the drive knows that it lost its memory. Method: rot
/// every byte of the newest manifest and of its pages in turn; then both manifests.
#[test]
fn rot_falls_back_to_the_older_one() {
    let disk = SimDisk::new(1 << 40);
    let random = SeededRandom::new(3);
    let mut store = ManifestStore::create(shared(&disk)).unwrap();
    let written: Vec<_> = (1..=2).map(|n| checkpoint(n, &random)).collect();
    store.store(&written[0]).unwrap();
    store.store(&written[1]).unwrap();
    let path = path_of(2);
    for offset in 0..disk.len_of(&path).unwrap() {
        disk.rot(&path, offset, 0x80);
        assert_eq!(ManifestStore::open(shared(&disk), DRIVE).unwrap().1, written[0]);
        disk.rot(&path, offset, 0x80);
    }
    let mut fallen = 0;
    for offset in (0..disk.len_of(PAGES).unwrap()).step_by(4099) {
        disk.rot(PAGES, offset, 4);
        match ManifestStore::open(shared(&disk), DRIVE) {
            Ok((_, found)) if found == written[1] => {}
            Ok((_, found)) => {
                assert_eq!(found, written[0]);
                fallen += 1;
            }
            Err(error) => assert!(matches!(error, ManifestError::Unreadable { found: 2, .. })),
        }
        disk.rot(PAGES, offset, 4);
    }
    assert!(fallen > 0, "a page that only the newest names was hit");
    disk.rot(&path, 9, 1);
    disk.rot(&path_of(1), 9, 1);
    let error = ManifestStore::open(shared(&disk), DRIVE).unwrap_err();
    assert!(matches!(error, ManifestError::Unreadable { found: 2, .. }));
}
