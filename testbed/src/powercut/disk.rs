//! Disks of builds that are wrong on purpose: the positive controls of the test of power cuts.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use holdfast_drive::disk::{Access, Disk, DiskError, DiskFile, Space};

/// Whose fdatasync is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skipped {
    /// The log's.
    Log,
    /// The volumes'. Their writes go through the page cache, too: what goes past it into a device
    /// together with the log is flushed by the log's own flush, for a device has one cache.
    Volumes,
}

impl Skipped {
    fn covers(self, path: &str) -> bool {
        let folder = match self {
            Self::Log => "log/",
            Self::Volumes => "volumes/",
        };
        path.starts_with(folder)
    }
}

/// A disk that forgets to sync some files.
pub struct Forgetful {
    inner: Arc<dyn Disk>,
    skipped: Skipped,
}

impl Forgetful {
    /// `inner`, without the syncs of `skipped`.
    pub const fn new(inner: Arc<dyn Disk>, skipped: Skipped) -> Self {
        Self { inner, skipped }
    }

    fn access(&self, path: &str, access: Access) -> Access {
        let cached = self.skipped == Skipped::Volumes && self.skipped.covers(path);
        if cached { Access::Cached } else { access }
    }

    fn wrap(&self, path: &str, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        self.wrap_with(path, file, 0)
    }

    fn wrap_with(&self, path: &str, file: Arc<dyn DiskFile>, kept: u8) -> Arc<dyn DiskFile> {
        match self.skipped.covers(path) {
            true => Arc::new(Unsynced { file, kept: AtomicU8::new(kept) }),
            false => file,
        }
    }
}

impl Disk for Forgetful {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn local_path(&self) -> Option<&Path> {
        self.inner.local_path()
    }

    fn open(&self, path: &str, access: Access) -> Result<Arc<dyn DiskFile>, DiskError> {
        let file = self.inner.open(path, self.access(path, access))?;
        Ok(self.wrap(path, file))
    }

    fn create(&self, path: &str, access: Access) -> Result<Arc<dyn DiskFile>, DiskError> {
        let file = self.inner.create(path, self.access(path, access))?;
        // The sync that ends its pre-writing is kept: what is left out is that of shards and records.
        Ok(self.wrap_with(path, file, 1))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        self.inner.rename(from, to)
    }

    fn remove(&self, path: &str) -> Result<(), DiskError> {
        self.inner.remove(path)
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, DiskError> {
        self.inner.list(folder)
    }

    fn create_dir(&self, folder: &str) -> Result<(), DiskError> {
        self.inner.create_dir(folder)
    }

    fn sync_dir(&self, folder: &str) -> Result<(), DiskError> {
        self.inner.sync_dir(folder)
    }

    fn space(&self) -> Result<Space, DiskError> {
        self.inner.space()
    }
}

struct Unsynced {
    file: Arc<dyn DiskFile>,
    /// Syncs that are still carried out.
    kept: AtomicU8,
}

impl DiskFile for Unsynced {
    fn len(&self) -> Result<u64, DiskError> {
        self.file.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        self.file.read_at(offset, buf)
    }

    fn read_medium(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        self.file.read_medium(offset, buf)
    }

    fn try_read_at(&self, offset: u64, buf: &mut [u8]) -> Result<bool, DiskError> {
        self.file.try_read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.file.write_at(offset, bytes)
    }

    fn write_zeros(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        self.file.write_zeros(offset, len)
    }

    fn sync(&self) -> Result<(), DiskError> {
        let less = |kept: u8| kept.checked_sub(1);
        match self.kept.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less) {
            Ok(_) => self.file.sync(),
            Err(_) => Ok(()),
        }
    }
}
