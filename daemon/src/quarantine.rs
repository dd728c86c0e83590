//! What the engine has on record of versions that cannot be restored, kept on every drive of the node: the file
//! `quarantine` in each drive's folder (ADR 0022), so that since when they are short outlives a restart.

use holdfast_drive::{disk::read_file, disk_real::RealDisk};
use holdfast_types::view::QuarantineRow;

use crate::folders::Folders;

/// The file in each drive's folder.
pub const FILE: &str = "quarantine";

/// Bytes of it at most: a thousand rows with the longest keys and reasons.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// What the folders' files say, all together: what is whole or gone by now is tried again and leaves. Blocks.
#[must_use]
pub fn load(folders: &Folders) -> Vec<QuarantineRow> {
    let read = |path: &String| {
        let disk = RealDisk::new(path).ok()?;
        let bytes = read_file(&disk, FILE, FILE_BYTES_MAX).ok()?;
        // One that is not readable says nothing: the others have it, too.
        serde_json::from_slice::<Vec<QuarantineRow>>(&bytes).ok()
    };
    folders.paths().iter().filter_map(read).flatten().collect()
}

/// Writes the record to every drive of this node. Blocks.
///
/// # Errors
/// When no drive could keep it.
pub fn keep(folders: &Folders, rows: &[QuarantineRow]) -> Result<(), String> {
    let bytes = serde_json::to_vec(rows).map_err(|error| error.to_string())?;
    match folders.keep(FILE, &bytes) {
        (0, Some(why)) => Err(format!("keep the record of what cannot be restored: {why}")),
        _ => Ok(()),
    }
}
