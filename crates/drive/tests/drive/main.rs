//! A drive end to end on the simulated disk and on a real folder: answers, survival, cost in syncs.

mod idle;
mod index;
mod recycling;
mod rig;
mod space;
mod waiting;

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use holdfast_drive::{
    Drive, DriveFault, DriveOptions,
    api::{
        ChoreKind, DriveError, DriveReply, DriveRequest, DriveResult, ListChores, Pin, Prepare,
        Read, Scan, ShardSource,
    },
    disk::Disk,
    disk_real::RealDisk,
    disk_sim::{Mishap, SimDisk},
    drive::run_jobs,
    meta_index::{MemoryMedium, keeper::IndexBackend},
};
use holdfast_register::{Refusal, ShardStatus};
use holdfast_types::{
    ClusterId, Entry, EntryKind, Geometry, HybridTime, Keyspace, OperationId, VersionId,
    seam::{ManualClock, SeededRandom},
};

use rig::*;

/// Goal: what was answered is there after a restart, on a simulated disk that loses what was not
/// synced and on a real folder. Method: small and large bodies, settled and not, then reopen.
fn everything_answered_survives(mut rig: Rig, crash: impl Fn()) {
    let small = b"tiny body".repeat(50);
    let large: Vec<u8> = (0..900_000_u32).map(|i| ((i * 31) >> 3) as u8).collect();
    let accepted = Ok(DriveReply::Accepted(ShardStatus::Present));
    assert_eq!(rig.put("small", 1, &small), accepted);
    let (geometry, shard) = shard_of(2, &large);
    let source = rig.upload("large", 2, &shard, geometry);
    let request = accept("large", entry(2, geometry), source);
    assert_eq!(rig.call(DriveRequest::Accept(request.clone())), accepted);
    assert_eq!(rig.call(DriveRequest::Accept(request)), accepted, "a repeated Accept is the same");
    assert_eq!(rig.settle("small", 1), Ok(DriveReply::Done));
    for round in 0..3 {
        let (view, inline) = rig.read("small");
        let held = &view.registers[&VersionId::NULL].entries[0];
        assert_eq!(held.entry.operation, OperationId(1));
        assert_eq!(inline, [shard_of(1, &small).1]);
        assert_eq!(rig.read_shard(2, geometry), Ok(shard.clone()));
        assert_eq!(rig.drive.facts().registers, 2);
        assert_eq!(rig.drive.facts().open_count, round + 1);
        rig.drive.flush();
        crash();
        rig.reopen();
    }
}

#[test]
fn everything_answered_survives_a_simulated_crash() {
    let (disk, rig) = Rig::sim();
    everything_answered_survives(rig, || disk.crash(&SeededRandom::new(5)));
}

#[test]
fn everything_answered_survives_on_a_real_folder() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(RealDisk::new(folder.path()).unwrap());
    everything_answered_survives(Rig::new(disk), || {});
}

/// Goal: the log stays short under endless overwrites, runs and index take its place, long-lived
/// inline shards are moved out of old segments, and all of it is there after a crash. Method: some
/// keys that stay, others overwritten thousands of times, small segments, checkpoints in between.
#[test]
fn the_log_is_bounded_and_nothing_is_lost_by_it() {
    let disk = SimDisk::new(1 << 30);
    let small = DriveOptions {
        segment_bytes: 128 << 10,
        batch_bytes_max: 32 << 10,
        tail_segments_max: 2,
        segments_soft_max: 6,
        index: IndexBackend::Memory(MemoryMedium::default()),
        ..options()
    };
    let mut rig = Rig::with(Arc::new(disk.clone()), small);
    let body = |n: u64| format!("body {n} ").repeat(100).into_bytes();
    for n in 1..=2_000 {
        let stays = n % 50 == 0;
        let name = if stays { format!("stays{n}") } else { format!("changes{}", n % 5) };
        rig.put(&name, n, &body(n)).unwrap();
        rig.settle(&name, n).unwrap();
        if n % 20 == 0 {
            run_jobs(&mut rig.drive);
        }
        if n % 700 == 0 {
            rig.drive.flush();
            disk.crash(&SeededRandom::new(n));
            rig.reopen();
        }
    }
    rig.drive.flush();
    let segments = disk.files().iter().filter(|f| f.starts_with("log/")).count();
    assert!(segments <= 12, "{segments} segments");
    assert!(disk.files().iter().any(|f| f.starts_with("runs/")));
    disk.crash(&SeededRandom::new(1));
    rig.reopen();
    for n in (50..=2_000).step_by(50) {
        let (view, inline) = rig.read(&format!("stays{n}"));
        assert_eq!(view.registers.len(), 1, "key {n}");
        assert_eq!(inline, [shard_of(n, &body(n)).1], "key {n}");
    }
    assert_eq!(rig.drive.facts().registers, 40 + 5);
}

/// The story: power went between the index's update and the manifest; replay put and purged a key,
/// kept no trace of it, and the index, ahead of the manifest, brought it back. Method: power off at
/// every call of the checkpoint.
#[test]
fn an_index_ahead_of_the_manifest_brings_nothing_back() {
    for call in 0..16 {
        let disk = SimDisk::new(1 << 30);
        let index = IndexBackend::Memory(MemoryMedium::default());
        let mut rig = Rig::with(Arc::new(disk.clone()), DriveOptions { index, ..options() });
        run_jobs(&mut rig.drive);
        let tombstone = Entry { kind: EntryKind::Tombstone, ..entry(5, Geometry::EMPTY) };
        rig.call(DriveRequest::Accept(accept("k", tombstone, ShardSource::NoData))).unwrap();
        rig.settle("k", 5).unwrap();
        rig.drive.begin_checkpoint();
        rig.drive.flush();
        rig.call(purge("k", 5)).unwrap();
        rig.drive.flush();
        disk.plan(call, Mishap::PowerOff);
        rig.drive.tick().into_iter().for_each(|job| drop(job.run()));
        disk.crash(&SeededRandom::new(call));
        rig.reopen();
        run_jobs(&mut rig.drive);
        assert!(rig.read("k").0.registers.is_empty(), "power off at call {call}");
        rig.drive.audit().unwrap();
    }
}

/// Goal: INV-DRIVE-GATE. Method: hand requests in without running the log, and look who is answered.
#[test]
fn no_answer_leaves_before_its_batch_is_durable() {
    let (_, mut rig) = Rig::sim();
    let answers = Arc::new(Mutex::new(Vec::new()));
    let slot = |name: &'static str| {
        let answers = answers.clone();
        Box::new(move |r: DriveResult| answers.lock().unwrap().push((name, r.is_ok())))
    };
    rig.drive.handle(DriveRequest::Accept(inline_put("a", 1, b"body")), slot("accept"));
    let read = Read { scope: scope(), key: key("a"), version: None, inline: false };
    rig.drive.handle(DriveRequest::Read(read), slot("read"));
    rig.drive.handle(DriveRequest::Accept(inline_put("a", 0, b"older")), slot("refused"));
    assert!(answers.lock().unwrap().is_empty());
    let job = rig.drive.take_batch().unwrap();
    assert!(rig.drive.take_batch().is_none(), "one batch is in flight");
    let outcome = job.run();
    let expected = [("accept", true), ("read", true), ("refused", false)];
    assert_eq!(*answers.lock().unwrap(), expected);
    rig.drive.batch_done(outcome);
}

/// Goal: the budget of DRIVE.md: one fdatasync for a small PUT, two for a large one, none for a
/// Settle or Purge, one for a batch of Accepts.
#[test]
fn writes_cost_the_syncs_they_may() {
    let (_, mut rig) = Rig::sim();
    rig.put("warm", 1, b"bucket stamp").unwrap();
    let before = rig.syncs();
    rig.put("a", 2, b"small").unwrap();
    assert_eq!(rig.syncs() - before, 1, "a small PUT");
    let (geometry, shard) = shard_of(3, &[7; 300_000]);
    // The first volume is written ahead of need in real life.
    let source = rig.upload("b", 3, &shard, geometry);
    rig.call(DriveRequest::Accept(accept("b", entry(3, geometry), source))).unwrap();
    let before = rig.syncs();
    let (geometry, shard) = shard_of(4, &[8; 300_000]);
    let source = rig.upload("c", 4, &shard, geometry);
    rig.call(DriveRequest::Accept(accept("c", entry(4, geometry), source))).unwrap();
    assert_eq!(rig.syncs() - before, 2, "a large PUT");
    let before = rig.syncs();
    rig.settle("a", 2).unwrap();
    for n in 10..30 {
        let request = DriveRequest::Accept(inline_put(&format!("k{n}"), n, b"x"));
        rig.drive.handle(request, Box::new(|r| assert!(r.is_ok())));
    }
    rig.drive.flush();
    assert_eq!(rig.syncs() - before, 1, "a Settle and a batch of Accepts");
    rig.settle("k10", 10).unwrap();
    rig.clock.advance_micros(1_000_001);
    assert!(rig.drive.take_batch().is_some(), "a lone Settle leaves within a second");
}

/// Goal: overwriting and settling gives bytes back, but not while they are pinned or read, and the
/// blocks are used again. Method: fill one volume many times over.
#[test]
fn dropped_bytes_are_used_again_but_not_under_a_reader() {
    let (disk, mut rig) = Rig::sim();
    let body = vec![3; 300_000];
    for n in 1..20 {
        let (geometry, shard) = shard_of(n, &body);
        let source = rig.upload("k", n, &shard, geometry);
        rig.call(DriveRequest::Accept(accept("k", entry(n, geometry), source))).unwrap();
        rig.settle("k", n).unwrap();
        rig.drive.flush();
    }
    let volumes = disk.files().iter().filter(|f| f.starts_with("volumes/")).count();
    assert_eq!(volumes, 1, "blocks are used again");
    assert_eq!(rig.drive.facts().used_bytes, shard_of(1, &body).1.len() as u64);

    let (geometry, shard) = shard_of(19, &body);
    let lease = OperationId(99);
    let pin = |ttl_micros| Pin { operations: vec![OperationId(19)], lease, ttl_micros };
    rig.call(DriveRequest::Pin(pin(1_000_000))).unwrap();
    rig.put("k", 20, b"new").unwrap();
    rig.settle("k", 20).unwrap();
    rig.drive.flush();
    assert_eq!(rig.read_shard(19, geometry), Ok(shard), "pinned bytes stay readable");
    rig.call(DriveRequest::Pin(pin(0))).unwrap();
    assert!(rig.read_shard(19, geometry).is_err());
}

/// Goal: promises outlive restarts by the ceiling. Method: promise, restart, try lower ballots.
#[test]
fn a_promise_survives_a_restart() {
    let (_, mut rig) = Rig::sim();
    let prepare = |n| {
        DriveRequest::Prepare(Prepare {
            scope: scope(),
            key: key("k"),
            ballot: ballot(n),
            since: HybridTime(0),
            inline: false,
        })
    };
    rig.call(prepare(100)).unwrap();
    let lower = rig.put("k", 50, b"late");
    let promised = |r: &DriveResult| format!("{r:?}").contains("Promised");
    assert!(promised(&lower), "{lower:?}");
    rig.reopen();
    let lower = rig.put("k", 101, b"late");
    assert!(promised(&lower), "everything is promised at the ceiling: {lower:?}");
    rig.clock.advance_micros(6_000_000);
    rig.put("k", 6_000_000, b"later").unwrap();
}

/// Goal: scans and chores show what is there, page by page. Method: keys with awkward names.
#[test]
fn scans_and_chores_page_in_order() {
    let (_, mut rig) = Rig::sim();
    let names = ["a", "a/b", "a//", "b", "c"];
    for (n, name) in names.iter().enumerate() {
        rig.put(name, n as u64 + 1, b"x").unwrap();
    }
    let mut sorted = names;
    sorted.sort_unstable();
    let mut start = Bytes::new();
    let mut seen = Vec::new();
    loop {
        let scan = Scan {
            scope: scope(),
            space: Keyspace::Object,
            start: start.clone(),
            end: None,
            limit: 2,
            metadata: false,
        };
        let Ok(DriveReply::Page(page)) = rig.call(DriveRequest::Scan(scan)) else { panic!() };
        seen.extend(page.keys.iter().map(|k| String::from_utf8(k.name.to_vec()).unwrap()));
        let Some(last) = page.keys.last().filter(|_| page.more) else { break };
        start = [&last.name[..], &[0]].concat().into();
    }
    assert_eq!(seen, sorted);
    rig.settle("b", 4).unwrap();
    let list = ListChores { kind: ChoreKind::Unsettled, age_micros: 0, after: None, limit: 3 };
    let Ok(DriveReply::Chores(first)) = rig.call(DriveRequest::ListChores(list.clone())) else {
        panic!()
    };
    assert_eq!(first.len(), 3);
    let list = ListChores { after: Some(first[2].cursor.clone()), ..list };
    let Ok(DriveReply::Chores(rest)) = rig.call(DriveRequest::ListChores(list)) else { panic!() };
    assert_eq!(rest.len(), 1);
}

/// Goal: a purged register stays away. Method: tombstone, settle, purge, an older write, a restart.
#[test]
fn a_purged_register_refuses_what_is_older() {
    let (_, mut rig) = Rig::sim();
    let tombstone = Entry { kind: EntryKind::Tombstone, ..entry(5, Geometry::EMPTY) };
    rig.call(DriveRequest::Accept(accept("k", tombstone, ShardSource::NoData))).unwrap();
    assert!(rig.call(purge("k", 5)).is_err(), "not settled yet");
    rig.settle("k", 5).unwrap();
    rig.call(purge("k", 5)).unwrap();
    rig.drive.flush();
    assert_eq!(rig.drive.facts().registers, 0);
    rig.reopen();
    let late = rig.put("k", 4, b"late");
    let purged =
        Err(DriveError::Refused { drive: DRIVE, refusal: Refusal::Purged { floor: ballot(5) } });
    assert_eq!(late, purged);
}

/// Goal: a drive whose sync failed answers nothing more; a blank or foreign one is refused.
#[test]
fn failed_and_foreign_drives_do_not_serve() {
    let (disk, mut rig) = Rig::sim();
    rig.put("a", 1, b"x").unwrap();
    disk.plan(1, Mishap::Fail);
    assert!(rig.put("b", 2, b"y").is_err());
    assert!(rig.put("c", 3, b"z").is_err(), "fenced for good");
    let Ok(DriveReply::Facts(facts)) = rig.call(DriveRequest::Facts) else { panic!() };
    assert!(!facts.state.serves() && !facts.reason.is_empty());

    let clock = || Arc::new(ManualClock::at(START_MICROS));
    let foreign = DriveOptions { cluster: Some(ClusterId(0xbad)), ..options() };
    let opened = Drive::open(Arc::new(disk.clone()), foreign, clock()).map(|_| ());
    assert!(matches!(opened, Err(DriveFault::Foreign { .. })));
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let formatted = Drive::format(&disk, &identity(), &options());
    assert!(matches!(formatted, Err(DriveFault::Formatted { .. })));
    let blank = Drive::open(Arc::new(SimDisk::new(1 << 20)), options(), clock()).map(|_| ());
    assert!(matches!(blank, Err(DriveFault::Blank { .. })));
}
