//! Segments used again (INV-LOG-1, INV-LOG-5).

use std::sync::Arc;

use holdfast_drive::{
    DriveOptions,
    api::{DriveRequest, ShardSource},
    disk_sim::SimDisk,
    drive::run_jobs,
};
use holdfast_types::{Geometry, VersionId, seam::SeededRandom};

use crate::rig::*;

/// An entry without data: no inline shard keeps a segment of the log.
fn put(rig: &mut Rig, n: u64) {
    let put = accept(&format!("k{n}"), entry(n, Geometry::EMPTY), ShardSource::NoData);
    rig.call(DriveRequest::Accept(put)).unwrap();
}

/// The story: a merge stores a second manifest at the log position of the checkpoint before it. The
/// segment that the log goes on in then lay before the older of the two manifests, held no inline shard
/// (those of large objects are in volumes), and was called free: the log came round to it, and wrote it
/// anew from its beginning over batches that replay still needed.
///
/// Method: entries without data, a checkpoint after each few until runs merge; then more of them than the
/// free segments take, so that what was called free is used; a crash and a new open; all are there.
#[test]
fn the_segment_that_the_log_goes_on_in_is_not_free() {
    let disk = SimDisk::new(1 << 30);
    let options = DriveOptions { segment_bytes: 256 << 10, ..options() };
    let mut rig = Rig::with(Arc::new(disk.clone()), options);
    let mut written = 0;
    for round in 0..4 {
        for _ in 0..6 {
            (0..3).for_each(|n| put(&mut rig, written + n + 1));
            written += 3;
            rig.drive.begin_checkpoint();
            rig.drive.flush();
            run_jobs(&mut rig.drive);
        }
        (0..300).for_each(|n| put(&mut rig, written + n + 1));
        written += 300;
        disk.crash(&SeededRandom::new(round));
        rig.reopen();
        for n in 1..=written {
            let (view, _) = rig.read(&format!("k{n}"));
            assert!(view.registers.contains_key(&VersionId::NULL), "k{n} in round {round}");
        }
    }
    rig.drive.audit().unwrap();
}
