//! An idle log: rot of its last records is seen (DRIVE.md, "Log").

use std::sync::Arc;

use holdfast_drive::{
    Drive, DriveFault, DriveOptions,
    disk::{Access, Disk},
    disk_sim::SimDisk,
};

use holdfast_types::seam::ManualClock;

use crate::rig::*;

/// Where the batches of the log begin: file, offset, number.
fn batches(disk: &SimDisk) -> Vec<(String, u64, u64)> {
    let mut found = Vec::new();
    for path in disk.files().into_iter().filter(|path| path.starts_with("log/")) {
        let file = disk.open(&path, Access::Direct).unwrap();
        let mut block = [0; 48];
        for offset in (0..file.len().unwrap()).step_by(4096) {
            file.read_at(offset, &mut block).unwrap();
            if block.starts_with(b"HFBATCH") {
                let number = u64::from_be_bytes(block[32..40].try_into().unwrap());
                found.push((path.clone(), offset, number));
            }
        }
    }
    found.sort_by_key(|(.., number)| *number);
    found
}

/// Lets the drive be idle for `micros`, with a tick and what it wants written.
fn idle(rig: &mut Rig, micros: u64) {
    rig.clock.advance_micros(micros);
    drop(rig.drive.tick());
    while let Some(job) = rig.drive.take_batch() {
        let outcome = job.run();
        rig.drive.batch_done(outcome);
    }
}

/// Goal: rot of the batch that holds the last acknowledged record is lost memory, not the end of the
/// log, once the log has been idle for a while; an idle log does not grow. Method: a write, an idle
/// while, rot of each block of the last batches in turn, open.
#[test]
fn rot_of_the_last_records_is_lost_memory() {
    let (disk, mut rig) = Rig::sim();
    rig.put("a", 1, b"body").unwrap();
    let written = batches(&disk).len();
    idle(&mut rig, 500_000);
    assert_eq!(batches(&disk).len(), written, "it is not idle yet");
    idle(&mut rig, 600_000);
    assert_eq!(batches(&disk).len(), written + 1, "one batch without records");
    for _ in 0..5 {
        idle(&mut rig, 10_000_000);
    }
    let all = batches(&disk);
    assert_eq!(all.len(), written + 1, "one is enough");
    let open = |disk: &SimDisk| {
        let (options, clock) = (rig.options.clone(), Arc::new(rig.clock.clone()));
        Drive::open(Arc::new(disk.clone()), options, clock).map(|_| ())
    };
    let (path, offset, _) = &all[written - 1];
    // Header, records.
    for at in [20, 100] {
        let rotten = disk.fork();
        rotten.rot(path, offset + at, 1);
        assert!(matches!(open(&rotten), Err(DriveFault::Amnesic { .. })), "byte {at}");
    }
    let (path, offset, _) = &all[written];
    let rotten = disk.fork();
    rotten.rot(path, offset + 20, 1);
    assert_eq!(open(&rotten), Ok(()), "a batch without records loses nothing");
}

/// Goal: a drive that is older than others remember it is refused, and the refusal leaves no trace that would let it in the
/// next time (INV-MEMBER-3). Method: its last opening is known to others as the next one, then as the last; three tries.
#[test]
fn a_drive_that_is_older_than_it_was_is_refused() {
    let (disk, rig) = Rig::sim();
    let opens = rig.drive.facts().open_count;
    drop(rig);
    let open = |opened_before| {
        let options = DriveOptions { opened_before, ..options() };
        let clock = Arc::new(ManualClock::at(START_MICROS));
        Drive::open(Arc::new(disk.clone()), options, clock)
    };
    for _ in 0..3 {
        assert!(matches!(open(opens + 1), Err(DriveFault::Amnesic { .. })));
    }
    let drive = open(opens).expect("nobody knows of a later opening");
    assert_eq!(drive.facts().open_count, opens + 1);
}
