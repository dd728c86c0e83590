//! [`RealDisk`]: a folder on a Linux file system. The home of `std::fs` in this crate.
//!
//! A [`Access::Direct`] file has two descriptors: one with `O_DIRECT` for aligned writes, one cached
//! with `POSIX_FADV_RANDOM` for reads. The kernel drops cached pages under a direct write, and the
//! drive reads only what was wholly written before, so both agree. Where the file system refuses
//! `O_DIRECT` (tmpfs of older kernels) everything goes through the cached descriptor; fdatasync
//! makes it durable all the same.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, IoSliceMut},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{Advice, OFlags},
    io::{Errno, ReadWriteFlags},
};

use crate::{
    disk::{Access, AlignedBuf, BLOCK, BLOCK_U64, Disk, DiskError, DiskErrorKind, DiskFile, Space},
    disk_claim::Claim,
};

/// Bytes of zeros written at once.
const ZEROS_BYTES: usize = 1 << 20;

/// A folder on a local file system.
#[derive(Debug)]
pub struct RealDisk {
    root: PathBuf,
    name: String,
    claim: Arc<Claim>,
}

impl RealDisk {
    /// The folder at `root`, which must exist. This process alone may use it while the value lives
    /// (INV-DISK-1).
    ///
    /// # Errors
    /// When it is not a folder, or another process uses it.
    pub fn new(root: impl Into<PathBuf>) -> Result<Self, DiskError> {
        let root = root.into();
        let name = root.display().to_string();
        let found = fs::metadata(&root).map_err(|e| failed("open", &name, &e))?;
        if !found.is_dir() {
            let message = "not a folder";
            return Err(DiskError::new(DiskErrorKind::Failed, "open", &name, message));
        }
        let claim = Claim::of(&root).map_err(|e| match e.kind() {
            ErrorKind::ResourceBusy => {
                let message =
                    "another process uses it; find it with `fuser -v` and stop one of them";
                DiskError::new(DiskErrorKind::Failed, "open", &name, message)
            }
            _ => failed("open", &name, &e),
        })?;
        Ok(Self { root, name, claim })
    }

    fn at(&self, path: &str) -> PathBuf {
        if path.is_empty() { self.root.clone() } else { self.root.join(path) }
    }

    fn open_with(
        &self,
        path: &str,
        access: Access,
        options: &OpenOptions,
        call: &'static str,
    ) -> Result<Arc<dyn DiskFile>, DiskError> {
        let full = self.at(path);
        let cached = options.open(&full).map_err(|e| not_opened(call, path, &e))?;
        let direct = match access {
            Access::Cached => None,
            Access::Direct => {
                // Advice is only advice: a file system without it still reads right.
                let _ = rustix::fs::fadvise(&cached, 0, None, Advice::Random);
                open_direct(&full).map_err(|e| not_opened(call, path, &e))?
            }
        };
        Ok(Arc::new(RealFile { cached, direct, path: path.to_owned() }))
    }
}

/// The descriptor for aligned writes; `None` where the file system refuses it. That there is none left is
/// no such refusal: the file would be written through the cache from then on.
fn open_direct(path: &Path) -> io::Result<Option<File>> {
    let flag = OFlags::DIRECT.bits().cast_signed();
    match OpenOptions::new().read(true).write(true).custom_flags(flag).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if is_exhausted(&error) => Err(error),
        Err(_) => Ok(None),
    }
}

/// Whether the process, or the machine, has no descriptor left.
fn is_exhausted(error: &io::Error) -> bool {
    [Errno::MFILE, Errno::NFILE]
        .iter()
        .any(|none| error.raw_os_error() == Some(none.raw_os_error()))
}

/// Why a file was not opened or created.
fn not_opened(call: &'static str, path: &str, error: &io::Error) -> DiskError {
    if is_exhausted(error) {
        let message = format!("{error}; raise the limit of open files (`ulimit -n`, LimitNOFILE)");
        return DiskError::new(DiskErrorKind::Exhausted, call, path, message);
    }
    failed(call, path, error)
}

fn failed(call: &'static str, path: &str, error: &io::Error) -> DiskError {
    let kind = match error.kind() {
        ErrorKind::NotFound => DiskErrorKind::NotFound,
        ErrorKind::AlreadyExists => DiskErrorKind::Exists,
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => DiskErrorKind::Full,
        ErrorKind::UnexpectedEof => DiskErrorKind::Short,
        _ => DiskErrorKind::Failed,
    };
    DiskError::new(kind, call, path, error.to_string())
}

impl Disk for RealDisk {
    fn name(&self) -> &str {
        &self.name
    }

    fn local_path(&self) -> Option<&Path> {
        Some(&self.root)
    }

    fn open(&self, path: &str, access: Access) -> Result<Arc<dyn DiskFile>, DiskError> {
        self.open_with(path, access, OpenOptions::new().read(true).write(true), "open")
    }

    fn create(&self, path: &str, access: Access) -> Result<Arc<dyn DiskFile>, DiskError> {
        let mut options = OpenOptions::new();
        self.open_with(path, access, options.read(true).write(true).create_new(true), "create")
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        fs::rename(self.at(from), self.at(to)).map_err(|e| failed("rename", from, &e))
    }

    fn remove(&self, path: &str) -> Result<(), DiskError> {
        fs::remove_file(self.at(path)).map_err(|e| failed("remove", path, &e))
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, DiskError> {
        let report = |e: &io::Error| failed("list", folder, e);
        let mut names = Vec::new();
        for item in fs::read_dir(self.at(folder)).map_err(|e| report(&e))? {
            let name = item.map_err(|e| report(&e))?.file_name();
            names.push(name.to_string_lossy().into_owned());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn create_dir(&self, folder: &str) -> Result<(), DiskError> {
        fs::create_dir_all(self.at(folder)).map_err(|e| failed("create folder", folder, &e))
    }

    fn sync_dir(&self, folder: &str) -> Result<(), DiskError> {
        let synced = match File::open(self.at(folder)) {
            Ok(dir) => dir.sync_all(),
            // What was renamed is to be known as durable all the same; the claim has a descriptor.
            Err(error) if is_exhausted(&error) => self.claim.sync_file_system(),
            Err(error) => Err(error),
        };
        synced.map_err(|e| failed("sync folder", folder, &e))
    }

    fn space(&self) -> Result<Space, DiskError> {
        let stat = rustix::fs::statvfs(&self.root)
            .map_err(|e| failed("statvfs", &self.name, &io::Error::from(e)))?;
        Ok(Space {
            capacity_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
            free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    }
}

/// One open file.
#[derive(Debug)]
struct RealFile {
    cached: File,
    direct: Option<File>,
    path: String,
}

impl DiskFile for RealFile {
    fn len(&self) -> Result<u64, DiskError> {
        let found = self.cached.metadata().map_err(|e| failed("stat", &self.path, &e))?;
        Ok(found.len())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        self.cached.read_exact_at(buf, offset).map_err(|e| failed("read", &self.path, &e))
    }

    fn read_medium(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        let Some(direct) = &self.direct else {
            // A file that is not written any more: its clean pages go, and are read anew.
            let len = std::num::NonZeroU64::new(buf.len() as u64);
            let _ = rustix::fs::fadvise(&self.cached, offset, len, Advice::DontNeed);
            return self.read_at(offset, buf);
        };
        let start = offset / BLOCK_U64 * BLOCK_U64;
        let end = (offset + buf.len() as u64).next_multiple_of(BLOCK_U64);
        let mut aligned = AlignedBuf::zeroed((end - start) as usize);
        match direct.read_exact_at(&mut aligned, start) {
            Ok(()) => {
                let from = (offset - start) as usize;
                buf.copy_from_slice(&aligned[from..from + buf.len()]);
                Ok(())
            }
            // Some file systems open with O_DIRECT and refuse at the read.
            Err(e) if e.kind() == ErrorKind::InvalidInput => self.read_at(offset, buf),
            Err(e) => Err(failed("read", &self.path, &e)),
        }
    }

    fn try_read_at(&self, offset: u64, buf: &mut [u8]) -> Result<bool, DiskError> {
        let want = buf.len();
        let mut slices = [IoSliceMut::new(buf)];
        // Any refusal, short or unsupported, means no more than: ask again in a way that may wait.
        let read = rustix::io::preadv2(&self.cached, &mut slices, offset, ReadWriteFlags::NOWAIT);
        Ok(read == Ok(want))
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let aligned = offset.is_multiple_of(BLOCK_U64)
            && bytes.len().is_multiple_of(BLOCK)
            && (bytes.as_ptr() as usize).is_multiple_of(BLOCK);
        let file = self.direct.as_ref().filter(|_| aligned).unwrap_or(&self.cached);
        match file.write_all_at(bytes, offset) {
            // Some file systems open with O_DIRECT and refuse at the write.
            Err(e) if aligned && e.kind() == ErrorKind::InvalidInput => {
                self.cached.write_all_at(bytes, offset)
            }
            other => other,
        }
        .map_err(|e| failed("write", &self.path, &e))
    }

    fn write_zeros(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        let zeros = AlignedBuf::zeroed(ZEROS_BYTES.min(len as usize));
        let mut at = offset;
        while at < offset + len {
            let step = (offset + len - at).min(zeros.len() as u64);
            self.write_at(at, &zeros[..step as usize])?;
            at += step;
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), DiskError> {
        self.cached.sync_data().map_err(|e| failed("fdatasync", &self.path, &e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{read_file, replace_file};

    /// Goal: a process without descriptors is told so, by a kind that fences no drive, and names that were
    /// made before become durable. Method: this test again, as a process with a limit of its own.
    #[test]
    fn a_process_without_descriptors_blames_no_device() {
        const CHILD: &str = "HOLDFAST_TEST_WITHOUT_DESCRIPTORS";
        if std::env::var_os(CHILD).is_none() {
            let name = "disk_real::tests::a_process_without_descriptors_blames_no_device";
            let me = std::env::current_exe().unwrap();
            let limited = "ulimit -n 64 && exec \"$0\" --exact \"$1\"";
            let mut child = std::process::Command::new("sh");
            child.args(["-c", limited]).arg(me).arg(name).env(CHILD, "1");
            let output = child.output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && said.contains("1 passed"), "{said}");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let disk = RealDisk::new(folder.path()).unwrap();
        disk.create("a", Access::Direct).unwrap();
        let mut taken: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
        let kind =
            |outcome: Result<Arc<dyn DiskFile>, DiskError>| outcome.map(|_| ()).unwrap_err().kind;
        assert_eq!(kind(disk.create("b", Access::Cached)), DiskErrorKind::Exhausted);
        assert_eq!(kind(disk.open("a", Access::Direct)), DiskErrorKind::Exhausted);
        disk.sync_dir("").unwrap();
        taken.pop();
        // Enough for one of the two: not taken for a file system without direct writes.
        assert_eq!(kind(disk.open("a", Access::Direct)), DiskErrorKind::Exhausted);
        taken.pop();
        disk.open("a", Access::Direct).unwrap();
    }

    /// The real disk keeps its contract on whatever file system the temporary folder is on: names,
    /// direct and cached writes read back, replacement of files.
    #[test]
    fn a_folder_keeps_what_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let disk = RealDisk::new(folder.path()).unwrap();
        disk.create_dir("log").unwrap();
        let file = disk.create("log/a", Access::Direct).unwrap();
        assert_eq!(
            disk.create("log/a", Access::Direct).map(|_| ()).unwrap_err().kind,
            DiskErrorKind::Exists
        );
        file.write_zeros(0, 3 * BLOCK_U64).unwrap();
        let mut buf = AlignedBuf::zeroed(BLOCK);
        buf.fill(9);
        file.write_at(BLOCK_U64, &buf).unwrap();
        file.sync().unwrap();
        let mut back = vec![1; 2 * BLOCK];
        file.read_at(0, &mut back).unwrap();
        assert_eq!((back[0], back[BLOCK], back[2 * BLOCK - 1]), (0, 9, 9));
        assert_eq!(file.read_at(3 * BLOCK_U64, &mut back).unwrap_err().kind, DiskErrorKind::Short);
        let mut unaligned = [0; 100];
        file.read_medium(BLOCK_U64 + 50, &mut unaligned).unwrap();
        assert_eq!(unaligned, [9; 100]);
        assert!(file.read_medium(3 * BLOCK_U64 - 50, &mut unaligned).is_err());
        replace_file(&disk, "id", b"one").unwrap();
        replace_file(&disk, "id", b"two").unwrap();
        assert_eq!(read_file(&disk, "id", 10).unwrap(), b"two");
        assert_eq!(disk.list("").unwrap(), ["id", "log"]);
        disk.remove("log/a").unwrap();
        assert!(disk.open("log/a", Access::Cached).map(|_| ()).unwrap_err().is_not_found());
        assert!(disk.space().unwrap().capacity_bytes > 0);
    }
}
