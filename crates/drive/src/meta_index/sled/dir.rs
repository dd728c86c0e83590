//! The folder of a sled index: sled opens its files itself, so this is one of the two homes of
//! `std::fs` in the crate.

use std::{
    fmt,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use crate::meta_index::IndexError;

/// The index folder of one drive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexDir {
    root: PathBuf,
}

/// A certificate file is 56 bytes; one that is longer is none.
const CERTIFICATE_BYTES_MAX: u64 = 4096;

impl IndexDir {
    /// The index folder of the drive at `root`.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    fn folder(&self) -> PathBuf {
        self.root.join("index")
    }

    fn aside(&self) -> PathBuf {
        self.root.join("index.aside")
    }

    fn certificate(&self) -> PathBuf {
        self.folder().join("certificate")
    }

    /// Where sled's files are.
    #[must_use]
    pub fn sled(&self) -> PathBuf {
        self.folder().join("sled")
    }

    /// Whether there is an index at all.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.folder().exists()
    }

    /// Makes the folder.
    pub(super) fn prepare(&self) -> Result<(), IndexError> {
        fs::create_dir_all(self.folder()).map_err(|e| failed("create folder", &e))
    }

    /// Renames the index out of the way; the one set aside before is removed.
    ///
    /// # Errors
    /// [`IndexError::Failed`]: then no index can be made here.
    pub fn set_aside(&self) -> Result<(), IndexError> {
        if !self.exists() {
            return Ok(());
        }
        match fs::remove_dir_all(self.aside()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed("remove", &e)),
            _ => {}
        }
        fs::rename(self.folder(), self.aside()).map_err(|e| failed("rename", &e))
    }

    /// Reads the certificate file.
    pub(super) fn read_certificate(&self) -> Result<Vec<u8>, IndexError> {
        let path = self.certificate();
        let mismatch = |e: &io::Error| IndexError::Mismatch { what: format!("certificate: {e}") };
        let found = fs::metadata(&path).map_err(|e| mismatch(&e))?;
        if found.len() > CERTIFICATE_BYTES_MAX {
            let what = format!("a certificate of {} bytes", found.len());
            return Err(IndexError::Mismatch { what });
        }
        fs::read(&path).map_err(|e| mismatch(&e))
    }

    /// Replaces the certificate file durably.
    pub(super) fn write_certificate(&self, bytes: &[u8]) -> Result<(), IndexError> {
        let temporary = self.folder().join("certificate.tmp");
        let write = || -> io::Result<()> {
            let mut file = File::create(&temporary)?;
            file.write_all(bytes)?;
            file.sync_data()?;
            fs::rename(&temporary, self.certificate())?;
            File::open(self.folder())?.sync_all()?;
            File::open(&self.root)?.sync_all()
        };
        write().map_err(|e| failed("write certificate", &e))
    }

    /// fdatasync of each file of sled, fsync of its folders.
    pub(super) fn sync_files(&self) -> Result<(), IndexError> {
        sync_tree(&self.sled()).map_err(|e| failed("sync", &e))
    }
}

impl fmt::Display for IndexDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.folder().display().fmt(f)
    }
}

fn sync_tree(folder: &Path) -> io::Result<()> {
    for item in fs::read_dir(folder)? {
        let item = item?;
        let synced = match item.file_type()? {
            kind if kind.is_dir() => sync_tree(&item.path()),
            _ => File::open(item.path()).and_then(|file| file.sync_data()),
        };
        match synced {
            // sled removes old snapshots as it goes.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    File::open(folder)?.sync_all()
}

fn failed(call: &str, error: &io::Error) -> IndexError {
    IndexError::Failed { what: format!("{call}: {error}") }
}
