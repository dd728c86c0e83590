//! Space: the reserve, and what is given back (DRIVE.md, "Volumes"; INV-VOL-1, INV-VOL-3, INV-ROT-1).

use std::sync::Arc;

use bytes::Bytes;
use holdfast_drive::{
    BackgroundJob, DriveOptions,
    api::{
        ChoreKind, DriveReply, DriveRequest, DriveResult, ListChores, ShardSource, UploadTarget,
    },
    disk::{Access, Disk, DiskErrorKind},
    disk_sim::SimDisk,
    drive::run_jobs,
    volume::{VolumeSizes, read::ShardReader},
};
use holdfast_types::{
    DriveState, Entry, EntryKind, ErrorClass, Geometry, OperationId, ShardIndex, VersionId,
    seam::{Clock, SeededRandom},
};

use crate::rig::*;

/// What the background is given: enough ticks for all that follows from one another.
fn tend(rig: &mut Rig) {
    for _ in 0..40 {
        rig.clock.advance_micros(1_100_000);
        run_jobs(&mut rig.drive);
        rig.look_up();
    }
}

fn body(n: u64, len: usize) -> Vec<u8> {
    let mix = |at: usize| {
        let x = (at as u64 + (n << 20)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((x ^ x >> 31).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40) as u8
    };
    (0..len).map(mix).collect()
}

/// A put whose shard lies in volumes.
fn put_large(rig: &mut Rig, n: u64, len: usize) -> DriveResult {
    let name = format!("k{n}");
    let (geometry, shard) = shard_of(n, &body(n, len));
    let target = UploadTarget {
        drive: DRIVE,
        scope: scope(),
        key: key(&name),
        operation: OperationId(n.into()),
        shard: ShardIndex(0),
        geometry,
    };
    let mut upload = rig.drive.upload_port().begin(&target)?;
    upload.write(&shard)?;
    let source = ShardSource::Upload(upload.finish()?);
    let done = rig.call(DriveRequest::Accept(accept(&name, entry(n, geometry), source)))?;
    rig.settle(&name, n)?;
    Ok(done)
}

/// A number above all before it, for operation and ballot: by the clock.
fn fresh(rig: &Rig) -> u64 {
    rig.clock.advance_micros(1000);
    rig.clock.wall_micros() - START_MICROS
}

/// A delete of what operation `n` put, and what follows once all drives have it.
fn delete(rig: &mut Rig, n: u64) -> DriveResult {
    let (name, grave) = (format!("k{n}"), fresh(rig));
    let tombstone = Entry { kind: EntryKind::Tombstone, ..entry(grave, Geometry::EMPTY) };
    rig.call(DriveRequest::Accept(accept(&name, tombstone, ShardSource::NoData)))?;
    rig.settle(&name, grave)?;
    rig.call(purge(&name, grave))
}

/// A put whose shard rides in the log.
fn put_small(rig: &mut Rig, n: u64) -> DriveResult {
    let name = format!("k{n}");
    rig.put(&name, n, &body(n, 30_000))?;
    rig.settle(&name, n)
}

fn open(rig: &mut Rig, n: u64, len: usize) -> ShardReader {
    let (geometry, _) = shard_of(n, &body(n, len));
    let slot = rig.open_shard(n, geometry);
    rig.drive.flush();
    let reader = slot.lock().unwrap().take();
    reader.expect("what it rests on is durable").unwrap()
}

fn shard_of_reader(reader: &ShardReader) -> Bytes {
    reader.read(0, reader.block_count()).unwrap()
}

fn volume_bytes(disk: &SimDisk) -> u64 {
    let files = disk.files();
    let volumes = files.iter().filter(|path| path.ends_with(".vol"));
    volumes.map(|path| disk.len_of(path).unwrap()).sum()
}

fn repairs(rig: &mut Rig) -> Vec<OperationId> {
    let list = ListChores { kind: ChoreKind::Repairs, age_micros: 0, after: None, limit: 10 };
    let Ok(DriveReply::Chores(chores)) = rig.call(DriveRequest::ListChores(list)) else {
        panic!("no chores")
    };
    chores.into_iter().map(|chore| chore.operation).collect()
}

const LEN: usize = 90_000;

fn small_volumes() -> DriveOptions {
    let volumes = VolumeSizes { first: 1 << 20, max: 1 << 20, reserve: 0 };
    DriveOptions { segment_bytes: 256 << 10, volumes, ..options() }
}

/// Sixty shards over some seven volumes, and then every second one is deleted.
fn fragmented() -> (SimDisk, Rig) {
    let disk = SimDisk::new(1 << 30);
    let mut rig = Rig::with(Arc::new(disk.clone()), small_volumes());
    for n in 1..=60 {
        put_large(&mut rig, n, LEN).unwrap();
        run_jobs(&mut rig.drive);
    }
    for n in (1..=60).step_by(2) {
        delete(&mut rig, n).unwrap();
    }
    rig.drive.flush();
    (disk, rig)
}

fn check_survivors(rig: &mut Rig) {
    for n in (2..=60).step_by(2) {
        let reader = open(rig, n, LEN);
        assert_eq!(shard_of_reader(&reader), shard_of(n, &body(n, LEN)).1, "{n}");
    }
    rig.drive.audit().unwrap();
    rig.drive.audit_blocks().unwrap();
}

/// Goal: the reserve is the deletes' and the log's own. Puts are refused as `Full` well before the device
/// is, deletes, checkpoints, merges and compaction go on, and then Puts work again. Method: a device of
/// 24 MiB takes inline and large shards until it takes no more; then everything is deleted, with a
/// checkpoint now and then; no call of the drive ever meets a full device.
#[test]
fn a_full_drive_refuses_puts_and_goes_on() {
    let disk = SimDisk::new(24 << 20);
    let options = DriveOptions {
        volumes: VolumeSizes { reserve: 8 << 20, ..small_volumes().volumes },
        overlay_bytes_max: 64 << 10,
        ..small_volumes()
    };
    let mut rig = Rig::with(Arc::new(disk.clone()), options);
    for _ in 0..2 {
        let mut put = Vec::new();
        let mut full = 0;
        while full < 20 {
            let n = fresh(&rig);
            let is_large = (put.len() + full).is_multiple_of(2);
            match if is_large { put_large(&mut rig, n, LEN) } else { put_small(&mut rig, n) } {
                Ok(_) => {
                    full = 0;
                    put.push(n);
                }
                Err(error) => {
                    assert_eq!(error.class(), ErrorClass::Full, "{error}");
                    full += 1;
                }
            }
            rig.clock.advance_micros(300_000);
            run_jobs(&mut rig.drive);
            assert!(put.len() < 1_000, "it is never full");
        }
        let free = disk.space().unwrap().free_bytes;
        assert!(
            free > 3 << 20,
            "{free} bytes are left: half of the reserve, less a segment or two"
        );
        assert!(put.len() > 80, "it took {} puts", put.len());
        for (count, n) in put.into_iter().enumerate() {
            delete(&mut rig, n).unwrap();
            rig.clock.advance_micros(100_000);
            if count.is_multiple_of(40) {
                rig.drive.begin_checkpoint();
            }
            run_jobs(&mut rig.drive);
        }
        tend(&mut rig);
        assert_eq!(rig.drive.facts().state, DriveState::Healthy);
        assert_eq!(disk.refusals(), 0, "the device itself was never full");
        rig.drive.audit().unwrap();
        assert!(rig.drive.given_back().segments > 0 && rig.drive.given_back().volumes > 0);
    }
}

/// Goal: free log segments are no reason to let Puts through. Method: the file system is left with less
/// than half of the reserve while spare segments are ready.
#[test]
fn spare_segments_are_for_deletes() {
    let disk = SimDisk::new(1 << 30);
    let volumes = VolumeSizes { reserve: 16 << 20, ..options().volumes };
    let mut rig = Rig::with(Arc::new(disk.clone()), DriveOptions { volumes, ..options() });
    rig.put("k1", 1, &body(1, 1000)).unwrap();
    tend(&mut rig);
    let used = (1 << 30) - disk.space().unwrap().free_bytes;
    disk.set_capacity(used + (7 << 20));
    tend(&mut rig);
    let refused = rig.put("k2", 2, &body(2, 1000)).unwrap_err();
    assert_eq!(refused.class(), ErrorClass::Full, "{refused}");
    assert_eq!(put_large(&mut rig, 3, LEN).unwrap_err().class(), ErrorClass::Full);
    delete(&mut rig, 1).unwrap();
    disk.set_capacity(1 << 30);
    tend(&mut rig);
    let n = fresh(&rig);
    rig.put("k2", n, &body(n, 1000)).unwrap();
}

/// Goal: a segment with a rotten batch is read once, not with every tick. Method: sparse segments beyond
/// the soft limit, one live shard rots in place; reads of the device are counted while nothing happens.
#[test]
fn a_rotten_batch_is_not_read_again_and_again() {
    let disk = SimDisk::new(1 << 30);
    let options = DriveOptions { segments_soft_max: 2, ..small_volumes() };
    let mut rig = Rig::with(Arc::new(disk.clone()), options);
    for n in 1..=30 {
        rig.put(&format!("k{n}"), n, &body(n, 30_000)).unwrap();
        rig.settle(&format!("k{n}"), n).unwrap();
    }
    let (_, shard) = shard_of(1, &body(1, 30_000));
    let log: Vec<String> = disk.files().into_iter().filter(|f| f.ends_with(".seg")).collect();
    let (path, at) =
        log.iter().find_map(|path| find(&disk, path, &shard[..1024]).map(|at| (path, at))).unwrap();
    disk.rot(path, at + 100, 0x10);
    (2..=30).for_each(|n| drop(delete(&mut rig, n).unwrap()));
    for _ in 0..3 {
        let n = fresh(&rig);
        rig.drive.begin_checkpoint();
        rig.drive.flush();
        tend(&mut rig);
        rig.put(&format!("k{n}"), n, b"filler").unwrap();
    }
    rig.drive.begin_checkpoint();
    tend(&mut rig);
    let before = disk.reads();
    tend(&mut rig);
    assert_eq!(disk.reads() - before, 0, "nothing has changed since it was read");
}

/// Where on a file these bytes lie.
fn find(disk: &SimDisk, path: &str, sample: &[u8]) -> Option<u64> {
    let file = disk.open(path, Access::Cached).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(0, &mut bytes).unwrap();
    bytes.windows(sample.len()).position(|window| window == sample).map(|at| at as u64)
}

/// Goal: volumes that hold nothing go, and the last one stays, whose number the next one's follows.
/// Method: everything is deleted; then new shards come, also after a restart.
#[test]
fn empty_volumes_go() {
    let disk = SimDisk::new(1 << 30);
    let mut rig = Rig::with(Arc::new(disk.clone()), small_volumes());
    for n in 1..=60 {
        put_large(&mut rig, n, LEN).unwrap();
    }
    let (full, highest) = (volume_bytes(&disk), volumes(&disk).pop().unwrap());
    (1..=60).for_each(|n| drop(delete(&mut rig, n).unwrap()));
    rig.drive.flush();
    tend(&mut rig);
    assert_eq!((full >= 6 << 20, volume_bytes(&disk)), (true, 1 << 20), "{full}");
    assert_eq!(volumes(&disk), std::slice::from_ref(&highest));
    rig.reopen();
    let put: Vec<u64> = (0..30).map(|_| fresh(&rig)).collect();
    for n in &put {
        put_large(&mut rig, *n, LEN).unwrap();
    }
    assert_eq!(volumes(&disk)[0], highest, "no number comes twice");
    disk.crash(&SeededRandom::new(1));
    rig.reopen();
    for n in put {
        assert_eq!(shard_of_reader(&open(&mut rig, n, LEN)), shard_of(n, &body(n, LEN)).1);
    }
    rig.drive.audit_blocks().unwrap();
}

fn volumes(disk: &SimDisk) -> Vec<String> {
    let mut files = disk.files();
    files.retain(|path| path.ends_with(".vol"));
    files.sort();
    files
}

/// Goal: on a fragmented drive shards are moved together, and the volumes they leave go; all that is live
/// is right before and after a crash. Method: every second shard of all volumes is deleted; the bytes of
/// the volumes' files fall.
#[test]
fn fragmented_volumes_are_emptied_and_go() {
    let (disk, mut rig) = fragmented();
    let before = volume_bytes(&disk);
    let live: u64 = 30 * (LEN as u64 + 8192);
    tend(&mut rig);
    let after = volume_bytes(&disk);
    assert!(before >= 6 << 20 && after <= live + (2 << 20), "{before} -> {after}, live {live}");
    let given_back = rig.drive.given_back();
    assert!(given_back.shards >= 5 && given_back.volumes >= 2, "{given_back:?}");
    check_survivors(&mut rig);
    disk.crash(&SeededRandom::new(3));
    rig.reopen();
    check_survivors(&mut rig);
    println!("{before} bytes of volumes became {after}, {live} of them live; {given_back:?}");
}

/// Goal: moving is bounded in bytes a second. Method: a rate of one shard a second; after ten seconds of
/// many ticks about ten were moved.
#[test]
fn moves_keep_their_rate() {
    let (_, mut rig) = fragmented();
    rig.options.move_bytes_per_second = LEN as u64;
    rig.reopen();
    for _ in 0..100 {
        rig.clock.advance_micros(100_000);
        run_jobs(&mut rig.drive);
    }
    let moved = rig.drive.given_back().shards;
    assert!((5..=11).contains(&moved), "{moved} in ten seconds");
}

/// Goal: a reader in flight on the old place reads right bytes to its end, and the old place is not used
/// again before (INV-VOL-1). Method: readers are opened on all survivors before the moves, much is
/// written after them, then they read.
#[test]
fn readers_stay_on_the_old_place() {
    let (_, mut rig) = fragmented();
    let readers: Vec<(u64, ShardReader)> =
        (2..=60).step_by(2).map(|n| (n, open(&mut rig, n, LEN))).collect();
    tend(&mut rig);
    assert!(rig.drive.given_back().shards > 0);
    for _ in 0..40 {
        let n = fresh(&rig);
        put_large(&mut rig, n, LEN).unwrap();
    }
    tend(&mut rig);
    for (n, reader) in &readers {
        assert_eq!(shard_of_reader(reader), shard_of(*n, &body(*n, LEN)).1, "{n}");
    }
    assert!(rig.drive.audit_blocks().is_err(), "the old places are still taken");
    drop(readers);
    check_survivors(&mut rig);
}

/// Goal: a shard that is rotten when it is to be moved is recorded as missing and stays where it is; it
/// is never copied (INV-ROT-1). Method: each survivor in turn rots on the medium, before any move.
#[test]
fn a_rotten_shard_is_recorded_not_moved() {
    let (disk, mut rig) = fragmented();
    let mut rotten = Vec::new();
    for n in (2..=60).step_by(2) {
        let (_, shard) = shard_of(n, &body(n, LEN));
        let sample = &shard[70_000..71_000];
        let (path, at) = volumes(&disk)
            .into_iter()
            .find_map(|path| find(&disk, &path, sample).map(|at| (path, at)))
            .unwrap();
        disk.rot(&path, at + 1, 0x40);
        rotten.push(OperationId(n.into()));
    }
    tend(&mut rig);
    assert_eq!(rig.drive.given_back().shards, 0);
    let found = repairs(&mut rig);
    assert!(!found.is_empty() && found.iter().all(|operation| rotten.contains(operation)));
    rig.drive.audit().unwrap();
    rig.reopen();
    assert_eq!(repairs(&mut rig), found, "it is durable");
    let name = format!("k{}", found[0].0);
    let (view, _) = rig.read(&name);
    let register = &view.registers[&VersionId::NULL];
    let held = register.of_operation(found[0]).unwrap();
    assert_eq!(held.shard, holdfast_register::ShardStatus::Missing);
}

/// Goal: what is deleted while it is copied stays deleted, and its copy goes. Method: all survivors are
/// deleted between the job that copies and its outcome.
#[test]
fn what_is_deleted_while_it_moves_stays_deleted() {
    let (disk, mut rig) = fragmented();
    let mut copy = None;
    while copy.is_none() {
        rig.clock.advance_micros(1_100_000);
        let jobs: Vec<BackgroundJob> = rig.drive.tick();
        rig.drive.flush();
        for job in jobs {
            let is_copy = job.name == "move shard";
            let outcome = job.run();
            if is_copy {
                copy = Some(outcome);
            } else {
                rig.drive.job_done(outcome);
                rig.look_up();
            }
        }
    }
    (2..=60).step_by(2).for_each(|n| drop(delete(&mut rig, n).unwrap()));
    rig.drive.job_done(copy.unwrap());
    tend(&mut rig);
    assert_eq!(rig.drive.given_back().shards, 0);
    rig.drive.audit().unwrap();
    rig.drive.audit_blocks().unwrap();
    assert_eq!(volume_bytes(&disk), 1 << 20);
}

/// A device that is full says so in its own words; the tests above count them.
#[test]
fn the_simulated_device_counts_refusals() {
    let disk = SimDisk::new(1 << 20);
    let file = disk.create("f", Access::Direct).unwrap();
    assert_eq!(file.write_zeros(0, 2 << 20).unwrap_err().kind, DiskErrorKind::Full);
    assert_eq!(disk.refusals(), 1);
}
