//! Disks of builds that are wrong on purpose: the positive controls of the test of power cuts.

use std::{path::Path, sync::Arc};

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
        if self.skipped.covers(path) { Arc::new(Unsynced(file)) } else { file }
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
        Ok(self.wrap(path, file))
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

struct Unsynced(Arc<dyn DiskFile>);

impl DiskFile for Unsynced {
    fn len(&self) -> Result<u64, DiskError> {
        self.0.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        self.0.read_at(offset, buf)
    }

    fn try_read_at(&self, offset: u64, buf: &mut [u8]) -> Result<bool, DiskError> {
        self.0.try_read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.0.write_at(offset, bytes)
    }

    fn write_zeros(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        self.0.write_zeros(offset, len)
    }

    fn sync(&self) -> Result<(), DiskError> {
        Ok(())
    }
}
