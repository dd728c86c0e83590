//! The device seam: everything a drive does to its disk goes through [`Disk`] and [`DiskFile`].
//!
//! Two implementations: [`crate::disk_real::RealDisk`] on a folder, and [`crate::disk_sim::SimDisk`]
//! in memory, which can crash, tear, rot, fail, fill up and hang.
//!
//! Guarantees, no more than POSIX gives:
//! - Bytes written by [`DiskFile::write_at`] are on stable media once a later [`DiskFile::sync`]
//!   returned `Ok`. Until then each aligned [`BLOCK`] of them may be old, new or torn after a crash.
//! - A created, renamed or removed name is durable once [`Disk::sync_dir`] of its folder returned `Ok`.
//! - A failed sync says nothing about what is on the media, ever after: the caller fences the drive
//!   (INV-DRIVE-FENCE).
//!
//! Paths are relative to the drive's root, with `/` between folder and file. Calls block; they belong
//! on I/O threads.

use std::{
    ops::{Deref, DerefMut},
    path::Path,
    sync::Arc,
};

use parking_lot::Mutex;

/// Bytes of the unit of alignment and of atomic writes: the page, and the sector of today's drives.
pub const BLOCK: usize = 4096;

/// [`BLOCK`] for offsets.
pub const BLOCK_U64: u64 = BLOCK as u64;

/// Why a call to a disk failed, by what the caller does about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskErrorKind {
    /// There is no such file.
    NotFound,
    /// There is one already.
    Exists,
    /// No space left.
    Full,
    /// The bytes asked for lie beyond the end of the file.
    Short,
    /// The process has no descriptor left for a file that was to be opened or created: nothing was done,
    /// and the device is not to blame.
    Exhausted,
    /// The device failed, or the simulated one is switched off.
    Failed,
}

/// A failed call to a disk.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{call} {path}: {message}")]
pub struct DiskError {
    /// What the caller does about it.
    pub kind: DiskErrorKind,
    /// The call.
    pub call: &'static str,
    /// The file or folder, relative to the drive's root.
    pub path: String,
    /// What the system said.
    pub message: String,
}

impl DiskError {
    /// An error of `kind` in `call` on `path`.
    pub fn new(
        kind: DiskErrorKind,
        call: &'static str,
        path: &str,
        message: impl Into<String>,
    ) -> Self {
        Self { kind, call, path: path.to_owned(), message: message.into() }
    }

    /// Whether the name was not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.kind == DiskErrorKind::NotFound
    }
}

/// Space of the file system a drive is on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Space {
    /// All of it.
    pub capacity_bytes: u64,
    /// What can still be allocated.
    pub free_bytes: u64,
}

/// How a file is going to be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Aligned writes that go past the page cache where the file system allows it, exact reads
    /// without read-ahead: log segments and volumes.
    Direct,
    /// Through the page cache: runs, manifests, identity.
    Cached,
}

/// One open file. Shared between threads; calls on disjoint ranges may overlap.
pub trait DiskFile: Send + Sync {
    /// Its length in bytes.
    ///
    /// # Errors
    /// When the device fails.
    fn len(&self) -> Result<u64, DiskError>;

    /// Whether it has no bytes.
    ///
    /// # Errors
    /// When the device fails.
    fn is_empty(&self) -> Result<bool, DiskError> {
        Ok(self.len()? == 0)
    }

    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// [`DiskErrorKind::Short`] when the file ends before; [`DiskErrorKind::Failed`].
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError>;

    /// As [`Self::read_at`], from the medium and not from a cache, where the system allows it: finds
    /// rot that a cache hides.
    ///
    /// # Errors
    /// As [`Self::read_at`].
    fn read_medium(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError>;

    /// Fills `buf` from `offset` only if that needs no wait for the device; `false` when it would.
    ///
    /// # Errors
    /// As [`Self::read_at`].
    fn try_read_at(&self, offset: u64, buf: &mut [u8]) -> Result<bool, DiskError>;

    /// Writes all of `bytes` at `offset`, extending the file when needed. A [`Access::Direct`] file
    /// bypasses the page cache when address, offset and length are multiples of [`BLOCK`].
    ///
    /// # Errors
    /// [`DiskErrorKind::Full`], [`DiskErrorKind::Failed`]; part of the bytes may have been written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError>;

    /// Writes zeros over a range of whole blocks, so that later writes into it are overwrites of
    /// allocated, written blocks (DRIVE.md, "Files"). Durable after [`Self::sync`].
    ///
    /// # Errors
    /// As [`Self::write_at`].
    fn write_zeros(&self, offset: u64, len: u64) -> Result<(), DiskError>;

    /// fdatasync: the bytes written before, and the length needed to read them, are on stable media.
    ///
    /// # Errors
    /// Any error is final for the drive: never retry (INV-DRIVE-FENCE).
    fn sync(&self) -> Result<(), DiskError>;
}

/// The folder of one drive on one device.
pub trait Disk: Send + Sync + 'static {
    /// For messages to people.
    fn name(&self) -> &str;

    /// The folder on a real file system, for sled, which opens its files itself; `None` when simulated.
    fn local_path(&self) -> Option<&Path>;

    /// Opens an existing file for reading and writing.
    ///
    /// # Errors
    /// [`DiskErrorKind::NotFound`], [`DiskErrorKind::Exhausted`], [`DiskErrorKind::Failed`].
    fn open(&self, path: &str, access: Access) -> Result<Arc<dyn DiskFile>, DiskError>;

    /// Creates a file that must not exist. Its name is durable after [`Self::sync_dir`].
    ///
    /// # Errors
    /// [`DiskErrorKind::Exists`], [`DiskErrorKind::Full`], [`DiskErrorKind::Exhausted`],
    /// [`DiskErrorKind::Failed`].
    fn create(&self, path: &str, access: Access) -> Result<Arc<dyn DiskFile>, DiskError>;

    /// Gives a file another name, replacing what had it.
    ///
    /// # Errors
    /// [`DiskErrorKind::NotFound`], [`DiskErrorKind::Failed`].
    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError>;

    /// Removes a file.
    ///
    /// # Errors
    /// [`DiskErrorKind::NotFound`], [`DiskErrorKind::Failed`].
    fn remove(&self, path: &str) -> Result<(), DiskError>;

    /// Names in a folder (`""` is the root), files and folders, sorted. A folder that is not there is
    /// an error of kind `NotFound`.
    ///
    /// # Errors
    /// [`DiskErrorKind::NotFound`], [`DiskErrorKind::Failed`].
    fn list(&self, folder: &str) -> Result<Vec<String>, DiskError>;

    /// Creates a folder and those above it; one that exists is fine.
    ///
    /// # Errors
    /// [`DiskErrorKind::Full`], [`DiskErrorKind::Failed`].
    fn create_dir(&self, folder: &str) -> Result<(), DiskError>;

    /// fsync of a folder: the names in it are durable.
    ///
    /// # Errors
    /// Any error is final for the drive.
    fn sync_dir(&self, folder: &str) -> Result<(), DiskError>;

    /// Space of the file system.
    ///
    /// # Errors
    /// [`DiskErrorKind::Failed`].
    fn space(&self) -> Result<Space, DiskError>;
}

/// Reads a whole file of at most `limit` bytes.
///
/// # Errors
/// As [`Disk::open`] and [`DiskFile::read_at`]; [`DiskErrorKind::Failed`] when it is longer.
pub fn read_file(disk: &dyn Disk, path: &str, limit: u64) -> Result<Vec<u8>, DiskError> {
    let file = disk.open(path, Access::Cached)?;
    let len = file.len()?;
    if len > limit {
        let message = format!("{len} bytes where at most {limit} are expected");
        return Err(DiskError::new(DiskErrorKind::Failed, "read", path, message));
    }
    let mut bytes = vec![0; usize::try_from(len).expect("bounded by the limit above")];
    file.read_at(0, &mut bytes)?;
    Ok(bytes)
}

/// Replaces a small file atomically and durably.
///
/// 1. A temporary file beside it is written: a crash leaves it, the next replacement removes it.
/// 2. fdatasync of the temporary file: its bytes are safe under the wrong name.
/// 3. Rename: after a crash the name shows the old or the new bytes, whole.
/// 4. fsync of the folder: the new bytes stay.
///
/// # Errors
/// When any step fails; the old file still stands unless step 3 was reached.
pub fn replace_file(disk: &dyn Disk, path: &str, bytes: &[u8]) -> Result<(), DiskError> {
    let temporary = format!("{path}.tmp");
    match disk.remove(&temporary) {
        Err(error) if !error.is_not_found() => return Err(error),
        _ => {}
    }
    let file = disk.create(&temporary, Access::Cached)?;
    file.write_at(0, bytes)?;
    file.sync()?;
    disk.rename(&temporary, path)?;
    disk.sync_dir(folder_of(path))
}

/// The folder a path lies in; `""` for the root.
#[must_use]
pub fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// `len` rounded up to whole blocks.
#[must_use]
pub const fn whole_blocks(len: u64) -> u64 {
    len.next_multiple_of(BLOCK_U64)
}

/// Bytes whose first one lies at an address that is a multiple of [`BLOCK`], as direct writes need.
///
/// Safe code all through: the allocation is one block longer, and the view begins at the first
/// aligned address in it. The allocation never moves, for its length never changes.
pub struct AlignedBuf {
    store: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuf {
    /// `len` zero bytes.
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        let store = vec![0; len + BLOCK];
        let start = store.as_ptr().align_offset(BLOCK);
        // `align_offset` may decline to compute by its contract; direct writes then fall back.
        let start = if start > BLOCK { 0 } else { start };
        Self { store, start, len }
    }

    /// Makes it show its first `len` bytes.
    ///
    /// # Panics
    /// When `len` exceeds [`Self::capacity`].
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity());
        self.len = len;
    }

    /// The most bytes it can show.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.store.len() - BLOCK
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.store[self.start..self.start + self.len]
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.store[self.start..self.start + self.len]
    }
}

impl std::fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AlignedBuf({} of {} bytes)", self.len, self.capacity())
    }
}

/// Aligned buffers that are used again: a log batch or an upload chunk costs no page faults.
#[derive(Debug)]
pub struct BufPool {
    capacity: usize,
    kept_max: usize,
    free: Mutex<Vec<AlignedBuf>>,
}

impl BufPool {
    /// A pool of buffers of `capacity` bytes that keeps at most `kept_max` unused.
    #[must_use]
    pub const fn new(capacity: usize, kept_max: usize) -> Self {
        Self { capacity, kept_max, free: Mutex::new(Vec::new()) }
    }

    /// A buffer that shows `len` bytes of unspecified content; longer ones than the pool's are made
    /// to measure.
    #[must_use]
    pub fn take(&self, len: usize) -> AlignedBuf {
        if len > self.capacity {
            return AlignedBuf::zeroed(len);
        }
        let mut buf = self.free.lock().pop().unwrap_or_else(|| AlignedBuf::zeroed(self.capacity));
        buf.set_len(len);
        buf
    }

    /// Gives a buffer back.
    pub fn give(&self, buf: AlignedBuf) {
        let mut free = self.free.lock();
        if buf.capacity() == self.capacity && free.len() < self.kept_max {
            free.push(buf);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_pooled() {
        let pool = BufPool::new(3 * BLOCK, 1);
        let mut buf = pool.take(BLOCK);
        assert_eq!(buf.as_ptr() as usize % BLOCK, 0);
        assert_eq!(buf.len(), BLOCK);
        buf[0] = 7;
        let address = buf.as_ptr();
        pool.give(buf);
        let again = pool.take(2 * BLOCK);
        assert_eq!((again.as_ptr(), again[0]), (address, 7));
        assert_eq!(pool.take(4 * BLOCK).len(), 4 * BLOCK);
    }
}
