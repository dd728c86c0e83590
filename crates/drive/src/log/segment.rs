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

/// Opens every numbered file with `suffix` in `folder`, makes their names durable, and removes
/// unfinished ones.
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
    // A process killed between rename and folder fsync leaves a name that is seen and not durable:
    // what is now written into the file must not go with it when the power fails.
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
