//! A disk whose calls wait while it hangs.

use std::{path::Path, sync::Arc};

use holdfast_drive::disk::{Access, Disk, DiskError, DiskFile, Space};

use super::Switch;

/// Wraps a disk; sled's own files below [`Disk::local_path`] are not covered.
pub(super) struct HangingDisk {
    inner: Arc<dyn Disk>,
    hang: Arc<Switch>,
}

impl HangingDisk {
    pub(super) const fn new(inner: Arc<dyn Disk>, hang: Arc<Switch>) -> Self {
        Self { inner, hang }
    }

    fn now(&self) -> &dyn Disk {
        self.hang.wait();
        &*self.inner
    }

    fn wrap(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(HangingFile { inner: file, hang: self.hang.clone() })
    }
}

impl Disk for HangingDisk {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn local_path(&self) -> Option<&Path> {
        self.inner.local_path()
    }

    fn open(&self, path: &str, access: Access) -> Result<Arc<dyn DiskFile>, DiskError> {
        self.now().open(path, access).map(|file| self.wrap(file))
    }

    fn create(&self, path: &str, access: Access) -> Result<Arc<dyn DiskFile>, DiskError> {
        self.now().create(path, access).map(|file| self.wrap(file))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        self.now().rename(from, to)
    }

    fn remove(&self, path: &str) -> Result<(), DiskError> {
        self.now().remove(path)
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, DiskError> {
        self.now().list(folder)
    }

    fn create_dir(&self, folder: &str) -> Result<(), DiskError> {
        self.now().create_dir(folder)
    }

    fn sync_dir(&self, folder: &str) -> Result<(), DiskError> {
        self.now().sync_dir(folder)
    }

    fn space(&self) -> Result<Space, DiskError> {
        self.now().space()
    }
}

struct HangingFile {
    inner: Arc<dyn DiskFile>,
    hang: Arc<Switch>,
}

impl HangingFile {
    fn now(&self) -> &dyn DiskFile {
        self.hang.wait();
        &*self.inner
    }
}

impl DiskFile for HangingFile {
    fn len(&self) -> Result<u64, DiskError> {
        self.now().len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        self.now().read_at(offset, buf)
    }

    fn read_medium(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        self.now().read_medium(offset, buf)
    }

    fn try_read_at(&self, offset: u64, buf: &mut [u8]) -> Result<bool, DiskError> {
        // Never waits, by its contract: what hangs cannot be read without.
        if self.hang.is_on() { Ok(false) } else { self.inner.try_read_at(offset, buf) }
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.now().write_at(offset, bytes)
    }

    fn write_zeros(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        self.now().write_zeros(offset, len)
    }

    fn sync(&self) -> Result<(), DiskError> {
        self.now().sync()
    }
}
