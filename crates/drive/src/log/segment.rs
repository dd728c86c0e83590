//! The files of the log: `log/00000001.seg` and so on, written with zeros before they are used.

use std::sync::Arc;

use crate::disk::{Access, Disk, DiskError, DiskFile};

/// The folder of the log.
pub const LOG_FOLDER: &str = "log";

/// Ends the name of a segment.
const SUFFIX: &str = ".seg";

/// The path of a segment.
#[must_use]
pub fn segment_path(segment: u32) -> String {
    format!("{LOG_FOLDER}/{segment:08}{SUFFIX}")
}

/// Creates a segment of `bytes` zeros.
///
/// 1. Zeros under a temporary name: a crash leaves a file that the next open removes.
/// 2. fdatasync: every later write is an overwrite.
/// 3. Rename and folder fsync: from here the segment exists, whole.
///
/// # Errors
/// When the device fails or is full.
pub fn create_segment(
    disk: &dyn Disk,
    segment: u32,
    bytes: u64,
) -> Result<Arc<dyn DiskFile>, DiskError> {
    create_zeroed(disk, &segment_path(segment), bytes)
}

/// Creates a file of zeros that exists under its name only when it is whole.
///
/// # Errors
/// When the device fails or is full.
pub fn create_zeroed(
    disk: &dyn Disk,
    path: &str,
    bytes: u64,
) -> Result<Arc<dyn DiskFile>, DiskError> {
    let temporary = format!("{path}.tmp");
    match disk.remove(&temporary) {
        Err(error) if !error.is_not_found() => return Err(error),
        _ => {}
    }
    let file = disk.create(&temporary, Access::Direct)?;
    let written = file.write_zeros(0, bytes).and_then(|()| file.sync());
    if let Err(error) = written {
        // Gives the space back on a full disk; the first error is the one to tell.
        let _ = disk.remove(&temporary);
        return Err(error);
    }
    disk.rename(&temporary, path)?;
    disk.sync_dir(crate::disk::folder_of(path))?;
    Ok(file)
}

/// Opens every numbered file with `suffix` in `folder`, and removes unfinished ones.
///
/// The names found are made durable first: a process that died between the rename and the sync of the
/// folder leaves a file that is seen and not safe, and what is synced into it goes with its name when
/// the power does.
///
/// # Errors
/// When the device fails.
pub fn open_numbered(
    disk: &dyn Disk,
    folder: &str,
    suffix: &str,
) -> Result<Vec<(u32, Arc<dyn DiskFile>)>, DiskError> {
    let mut files = Vec::new();
    for name in disk.list(folder)? {
        let path = format!("{folder}/{name}");
        if name.ends_with(".tmp") {
            disk.remove(&path)?;
        } else if let Some(number) = name.strip_suffix(suffix).and_then(|n| n.parse().ok()) {
            files.push((number, disk.open(&path, Access::Direct)?));
        }
    }
    disk.sync_dir(folder)?;
    Ok(files)
}

/// Opens every segment.
///
/// # Errors
/// When the device fails.
pub fn open_segments(disk: &dyn Disk) -> Result<Vec<(u32, Arc<dyn DiskFile>)>, DiskError> {
    open_numbered(disk, LOG_FOLDER, SUFFIX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use holdfast_types::seam::SeededRandom;

    use super::*;
    use crate::{
        disk::BLOCK_U64,
        disk_sim::{Mishap, SimDisk},
    };

    /// Goal: a file that an open finds is safe before anything relies on it. The crash test found a
    /// volume that was renamed by a process that died before it synced the folder: the next one put
    /// acknowledged bytes into it, and then the power went, and the volume with it.
    ///
    /// Method: the creation fails at each of its calls; what the next open finds is written and synced;
    /// then the power goes, in many ways.
    #[test]
    fn a_file_found_is_safe() {
        let mut found_once = false;
        for call in 0..8 {
            for seed in 0..8 {
                let disk = SimDisk::new(1 << 20);
                disk.create_dir("volumes").unwrap();
                disk.sync_dir("").unwrap();
                disk.plan(call, Mishap::Fail);
                let _ = create_zeroed(&disk, "volumes/1.vol", BLOCK_U64);
                disk.plan_nothing();
                let Some((_, file)) = open_numbered(&disk, "volumes", ".vol").unwrap().pop() else {
                    continue;
                };
                found_once = true;
                file.write_at(0, &crate::disk::AlignedBuf::zeroed(crate::disk::BLOCK)).unwrap();
                file.sync().unwrap();
                let random: Arc<dyn holdfast_types::seam::Random> =
                    Arc::new(SeededRandom::new(seed));
                disk.crash(&*random);
                assert_eq!(disk.list("volumes").unwrap(), ["1.vol"], "call {call}, seed {seed}");
            }
        }
        assert!(found_once);
    }
}
