//! [`SledIndex`]: the index on a real disk, in sled, with nothing of sled trusted (DRIVE.md, "sled").
//!
//! What sled 0.34 does, and what is done about it here:
//! - Its flush is not an fsync, and `flush_async` deadlocks: [`MetaIndex::certify`] flushes and then
//!   syncs every file itself. Nothing is flushed in the background.
//! - A cut tail may open as an empty or an older database, a stale leaf passes its checksum: every
//!   record carries our checksum, and the certificate a digest over all records, verified in full
//!   before the index answers anything.
//! - A torn snapshot file makes open fail for ever, flipped bytes panic or spin: open and verify run
//!   on a thread of their own that is given up when it makes no progress; panics are caught; whatever
//!   goes wrong, the directory is set aside and built anew.
//! - Batches and transactions take a process-wide lock, `len()` walks the tree, values beyond ~128 KiB
//!   become unsynced files: single-key calls only, records of at most 4 KiB.
//!
//! ```text
//! index/sled/         sled's own files
//! index/certificate   the certificate; the same bytes are in sled under the key 00
//! index.aside/        the last one set aside, for whoever wants to know why
//! ```

mod dir;
#[cfg(test)]
mod faults;

use std::{
    ops::Bound,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{RecvTimeoutError, sync_channel},
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;

pub use dir::IndexDir;

use super::{
    IndexError, IndexPage, Lookup, Lsn, MetaIndex, SCAN_PAGE_MAX,
    record::{self, Certificate, Digest},
};

/// sled's own cache. Small: the operating system caches its file as well, and the budget of a drive
/// belongs to the block cache of its runs, which hold the truth.
const SLED_CACHE_BYTES: u64 = 24 << 20;

/// Where the certificate lies inside sled: below every key of a drive.
const CERTIFICATE_KEY: &[u8] = &[0];

/// No key of a drive begins with a byte below this.
const KEYS_START: &[u8] = &[1];

/// A call into sled: panics and errors become [`IndexError::Failed`].
fn guarded<T>(what: &str, call: impl FnOnce() -> ::sled::Result<T>) -> Result<T, IndexError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(IndexError::Failed { what: format!("{what}: {error}") }),
        Err(_) => Err(IndexError::Failed { what: format!("{what}: it panicked") }),
    }
}

/// An index in sled.
pub struct SledIndex {
    /// `None` only while it is dropped.
    db: Option<::sled::Db>,
    dir: IndexDir,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    digest: Digest,
    certified: Option<Lsn>,
}

impl SledIndex {
    /// A new, empty index; what was there is set aside.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn create(root: &Path) -> Result<Self, IndexError> {
        let dir = IndexDir::new(root);
        dir.set_aside()?;
        dir.prepare()?;
        let db = open_sled(&dir)?;
        Ok(Self { db: Some(db), dir, state: Mutex::default() })
    }

    /// Opens the index and verifies all of it: certificate, records, digest. Runs on a thread of its
    /// own, which is given up when it makes no progress for `patience`; opening sled itself counts as
    /// one step.
    ///
    /// # Errors
    /// [`IndexError`]: build it anew with [`Self::create`].
    pub fn open(root: &Path, patience: Duration) -> Result<Self, IndexError> {
        let dir = IndexDir::new(root);
        with_patience("sled-open", patience, move |progress| Self::open_verified(dir, progress))
    }

    fn open_verified(dir: IndexDir, progress: &AtomicU64) -> Result<Self, IndexError> {
        let certificate = Certificate::from_bytes(&dir.read_certificate()?)?;
        let db = open_sled(&dir)?;
        progress.fetch_add(1, Ordering::Relaxed);
        let index = Self { db: Some(db), dir, state: Mutex::default() };
        let inside = guarded("get certificate", || index.db().get(CERTIFICATE_KEY))?;
        if inside.as_deref() != Some(&certificate.to_bytes()[..]) {
            let what = "the certificate inside sled is another one".to_owned();
            return Err(IndexError::Mismatch { what });
        }
        let digest = index.digest_of_all(progress)?;
        if digest != certificate.digest {
            let what = format!("certified {:?}, found {digest:?}", certificate.digest);
            return Err(IndexError::Mismatch { what });
        }
        *index.state.lock() = State { digest, certified: Some(certificate.lsn) };
        Ok(index)
    }

    /// Reads and verifies every record.
    fn digest_of_all(&self, progress: &AtomicU64) -> Result<Digest, IndexError> {
        let mut digest = Digest::default();
        let mut start = KEYS_START.to_vec();
        loop {
            let page = self.raw_page(&start, None, SCAN_PAGE_MAX)?;
            for (key, stored) in &page {
                record::open(key, stored)?;
                digest.add(stored);
            }
            progress.fetch_add(1, Ordering::Relaxed);
            match page.last() {
                Some((last, _)) if page.len() == SCAN_PAGE_MAX => {
                    start.clear();
                    start.extend_from_slice(last);
                    start.push(0);
                }
                _ => return Ok(digest),
            }
        }
    }

    /// At most `limit` records as stored, keys strictly rising and in range.
    fn raw_page(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(::sled::IVec, ::sled::IVec)>, IndexError> {
        let start = start.max(KEYS_START);
        if end.is_some_and(|end| end <= start) {
            return Ok(Vec::new());
        }
        let range = (Bound::Included(start), end.map_or(Bound::Unbounded, Bound::Excluded));
        let page: Vec<_> = guarded("scan", || {
            self.db().range::<&[u8], _>(range).take(limit).collect::<::sled::Result<_>>()
        })?;
        let rises = page.windows(2).all(|pair| pair[0].0 < pair[1].0);
        let inside = |key: &[u8]| key >= start && end.is_none_or(|end| key < end);
        let fits = |side: Option<&(::sled::IVec, _)>| side.is_none_or(|(key, _)| inside(key));
        if !rises || !fits(page.first()) || !fits(page.last()) {
            return Err(IndexError::damaged("a scan returned keys out of order"));
        }
        Ok(page)
    }

    fn db(&self) -> &::sled::Db {
        self.db.as_ref().expect("it is taken in drop alone")
    }

    /// Replaces the record of `key` unless a newer one is held.
    fn change(&self, key: &[u8], lsn: Lsn, new: Option<&[u8]>) -> Result<(), IndexError> {
        assert!(key >= KEYS_START, "keys of a drive begin with a keyspace");
        let mut state = self.state.lock();
        let held = guarded("get", || self.db().get(key))?;
        if let Some(held) = &held {
            if record::open(key, held)?.lsn() > Some(lsn) {
                return Ok(());
            }
        } else if new.is_none() {
            return Ok(());
        }
        let replaced = match new {
            Some(record) => guarded("insert", || self.db().insert(key, record))?,
            None => guarded("remove", || self.db().remove(key))?,
        };
        if replaced != held {
            return Err(IndexError::damaged("sled replaced another record than it had shown"));
        }
        if let Some(held) = &held {
            state.digest.subtract(held);
        }
        if let Some(record) = new {
            state.digest.add(record);
        }
        Ok(())
    }
}

impl MetaIndex for SledIndex {
    fn get(&self, key: &[u8]) -> Result<Lookup, IndexError> {
        match guarded("get", || self.db().get(key))? {
            Some(held) => record::open(key, &held),
            None => Ok(Lookup::Absent),
        }
    }

    fn put(&self, key: &[u8], lsn: Lsn, value: &[u8]) -> Result<(), IndexError> {
        self.change(key, lsn, Some(&record::seal(key, lsn, value)))
    }

    fn remove(&self, key: &[u8], lsn: Lsn) -> Result<(), IndexError> {
        self.change(key, lsn, None)
    }

    fn scan(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        limit: usize,
    ) -> Result<IndexPage, IndexError> {
        let limit = limit.min(SCAN_PAGE_MAX);
        let page = self.raw_page(start, end, limit + 1)?;
        let more = page.len() > limit;
        let mut items = Vec::with_capacity(page.len());
        for (key, stored) in page.iter().take(limit) {
            items.push((Bytes::copy_from_slice(key), record::open(key, stored)?));
        }
        Ok(IndexPage { items, more })
    }

    /// 1. The certificate goes into sled, sled writes what it has to its files.
    /// 2. fdatasync of each of its files, fsync of its folder. A crash leaves content newer than the
    ///    certificate file: refused when opened.
    /// 3. The certificate file is replaced: from here on the content can be opened.
    fn certify(&self, lsn: Lsn) -> Result<(), IndexError> {
        let mut state = self.state.lock();
        let certificate = Certificate { lsn, digest: state.digest }.to_bytes();
        guarded("insert certificate", || self.db().insert(CERTIFICATE_KEY, &certificate[..]))?;
        guarded("flush", || self.db().flush())?;
        self.dir.sync_files()?;
        self.dir.write_certificate(&certificate)?;
        state.certified = Some(lsn);
        Ok(())
    }

    fn certified(&self) -> Option<Lsn> {
        self.state.lock().certified
    }
}

impl Drop for SledIndex {
    fn drop(&mut self) {
        let db = self.db.take();
        // A sled that met rot may panic once more when it goes.
        if catch_unwind(AssertUnwindSafe(|| drop(db))).is_err() {
            tracing::warn!(index = %self.dir, "sled panicked while it was closed");
        }
    }
}

impl std::fmt::Debug for SledIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SledIndex({}, {:?})", self.dir, self.state.lock())
    }
}

/// Opens sled's files. A sled that was closed just now may hold its lock a moment longer, for a
/// thread of its own ends after it.
fn open_sled(dir: &IndexDir) -> Result<::sled::Db, IndexError> {
    let config = ::sled::Config::new()
        .path(dir.sled())
        .cache_capacity(SLED_CACHE_BYTES)
        .flush_every_ms(None)
        .mode(::sled::Mode::HighThroughput);
    let mut tries = 1;
    loop {
        match guarded("open", || config.open()) {
            Err(IndexError::Failed { what }) if is_locked(&what) && tries < LOCK_TRIES => {
                tries += 1;
                std::thread::sleep(LOCK_WAIT);
            }
            other => return other,
        }
    }
}

/// How often, and how long apart, the lock is asked for: two seconds in all.
const LOCK_TRIES: u32 = 40;
const LOCK_WAIT: Duration = Duration::from_millis(50);

fn is_locked(what: &str) -> bool {
    what.contains("could not acquire lock")
}

/// Runs `work` on a thread of its own. When its progress counter stands still for `patience` the
/// thread is given up: it may hang in sled for ever, and holds nothing that anybody waits for.
///
/// # Errors
/// What `work` says; [`IndexError::Stalled`]; [`IndexError::Failed`] when it panics.
pub fn with_patience<T: Send + 'static>(
    name: &str,
    patience: Duration,
    work: impl FnOnce(&AtomicU64) -> Result<T, IndexError> + Send + 'static,
) -> Result<T, IndexError> {
    let progress = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&progress);
    let (answer, answered) = sync_channel(1);
    let body = move || {
        let done = catch_unwind(AssertUnwindSafe(|| work(&counter)));
        let panicked = || IndexError::Failed { what: "it panicked".to_owned() };
        // Nobody listens when the work was given up.
        let _ = answer.send(done.unwrap_or_else(|_| Err(panicked())));
    };
    let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(body);
    spawned.map_err(|error| IndexError::Failed { what: format!("start a thread: {error}") })?;
    let mut seen = 0;
    loop {
        match answered.recv_timeout(patience) {
            Ok(done) => return done,
            Err(RecvTimeoutError::Disconnected) => {
                return Err(IndexError::Failed { what: "its thread ended".to_owned() });
            }
            Err(RecvTimeoutError::Timeout) => {
                let now = progress.load(Ordering::Relaxed);
                if now == seen {
                    let waited_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
                    return Err(IndexError::Stalled { waited_ms });
                }
                seen = now;
            }
        }
    }
}
