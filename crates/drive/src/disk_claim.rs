//! One process at a time uses a folder: two that append to one log destroy each other's records.
//!
//! The claim is a lock (flock) on the folder itself, so that it leaves no file behind, outlives the
//! removal of what is in the folder, and ends with the process however that ends.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use rustix::fs::FlockOperation;

/// A folder that this process uses. Held by whoever reads or writes in it.
#[derive(Debug)]
pub(crate) struct Claim {
    folder: File,
}

/// The claims of this process by device and inode: a drive that is opened again while threads of its
/// former self still end does not lock itself out.
static HELD: Mutex<BTreeMap<(u64, u64), Weak<Claim>>> = Mutex::new(BTreeMap::new());

impl Claim {
    /// # Errors
    /// [`io::ErrorKind::ResourceBusy`] when another process has it; what the system says else.
    pub(crate) fn of(folder: &Path) -> io::Result<Arc<Self>> {
        let mut held = HELD.lock();
        let file = File::open(folder)?;
        let found = file.metadata()?;
        let id = (found.dev(), found.ino());
        if let Some(claim) = held.get(&id).and_then(Weak::upgrade) {
            return Ok(claim);
        }
        if let Err(error) = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            return Err(match error {
                rustix::io::Errno::WOULDBLOCK => io::Error::from(io::ErrorKind::ResourceBusy),
                error => error.into(),
            });
        }
        let claim = Arc::new(Self { folder: file });
        held.retain(|_, claim| claim.strong_count() > 0);
        held.insert(id, Arc::downgrade(&claim));
        Ok(claim)
    }

    /// Syncs all of the folder's file system, and needs no descriptor for it.
    pub(crate) fn sync_file_system(&self) -> io::Result<()> {
        rustix::fs::syncfs(&self.folder).map_err(io::Error::from)
    }
}

/// Whether another process uses the folder.
#[must_use]
pub fn is_taken(folder: &str) -> bool {
    Claim::of(Path::new(folder)).is_err_and(|e| e.kind() == io::ErrorKind::ResourceBusy)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a folder is one process's; within it, it may be opened again; the claim ends with its last
    /// holder. Method: a lock on a descriptor of its own stands for the other process.
    #[test]
    fn a_folder_belongs_to_one_process() {
        let folder = tempfile::tempdir().expect("a folder");
        let one = Claim::of(folder.path()).expect("free");
        let two = Claim::of(folder.path()).expect("ours");
        let other = File::open(folder.path()).expect("a folder");
        let lock = || rustix::fs::flock(&other, FlockOperation::NonBlockingLockExclusive);
        drop(one);
        lock().expect_err("held");
        drop(two);
        lock().expect("free again");
        let path = folder.path().display().to_string();
        assert!(is_taken(&path));
        drop(other);
        assert!(!is_taken(&path) && !is_taken("/no/such/folder"));
    }
}
