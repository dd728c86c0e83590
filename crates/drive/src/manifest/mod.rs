//! The manifest: which runs, which blocks, which facts are a drive's state up to a position of its
//! log (DRIVE.md, "Runs and manifest").
//!
//! Owns the manifest's files and bytes (docs/format/index.md). Never decides what they say: that is a
//! [`Checkpoint`] from the drive.
//!
//! ```text
//! manifest/0000000000000007.manifest    the older of the two kept
//! manifest/0000000000000008.manifest    the newest
//! manifest/new.tmp                      one being written, or left by a crash
//! manifest/pages                        bitmap pages, 32 KiB each, copied on write
//! ```
//!
//! Storing a checkpoint:
//! 1. Changed bitmap pages go to slots that neither kept manifest names; fdatasync. A crash leaves
//!    pages that nobody names.
//! 2. The new manifest is written beside the others; fdatasync. A crash leaves `new.tmp`.
//! 3. Rename to its number, fsync of the folder: from here on it counts.
//! 4. The manifest before the two newest is removed. A crash leaves three; the next open drops it.
//!
//! INV-MANIFEST-1: what either kept manifest names (runs, pages, log from its position on) is not
//! changed, so that rot in the newest costs nothing: the older one and a longer replay give the same
//! state.

mod format;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use holdfast_types::DriveId;

use self::format::{PAGE_BYTES, PageRef};
use crate::{
    checkpoint::{Checkpoint, LogPosition},
    disk::{Access, Disk, DiskError, DiskFile, read_file},
    runs::RunId,
};

/// The folder of a drive's manifests.
pub const MANIFEST_FOLDER: &str = "manifest";

const TEMPORARY: &str = "manifest/new.tmp";
const PAGES: &str = "manifest/pages";
const SUFFIX: &str = ".manifest";

/// No manifest is longer: a thousand runs, a million buckets, page references of a petabyte.
const MANIFEST_BYTES_MAX: u64 = 256 << 20;

/// How many are kept.
const KEPT: usize = 2;

/// Why there is no manifest to start from.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ManifestError {
    /// The device failed.
    #[error("use manifest: {0}")]
    Disk(#[from] DiskError),
    /// There has never been one: the folder is blank.
    #[error("open manifest: there is none")]
    Absent,
    /// There are some, and none can be read: the drive has lost its memory.
    #[error("open manifest: none of {found} can be read ({why})")]
    Unreadable {
        /// How many there are.
        found: usize,
        /// What is wrong with the newest.
        why: String,
    },
}

type Pages = BTreeMap<(u32, u32), PageRef>;

/// What a kept manifest holds on to.
#[derive(Debug)]
struct Kept {
    sequence: u64,
    log: LogPosition,
    runs: BTreeSet<RunId>,
    pages: Pages,
}

impl Kept {
    fn of(checkpoint: &Checkpoint, pages: Pages) -> Self {
        let runs = checkpoint.runs.iter().map(|run| run.id).collect();
        Self { sequence: checkpoint.sequence, log: checkpoint.log, runs, pages }
    }
}

/// The manifests of one drive.
pub struct ManifestStore {
    disk: Arc<dyn Disk>,
    pages: Arc<dyn DiskFile>,
    /// Oldest first, at most [`KEPT`].
    kept: Vec<Kept>,
    /// Files to remove with the next store: older ones, and ones that could not be read.
    stale: Vec<u64>,
}

impl ManifestStore {
    /// Makes the folder of a new drive, without a manifest yet: the first [`Self::store`] makes it
    /// one. What a crashed formatting left is replaced.
    ///
    /// # Errors
    /// [`ManifestError::Disk`].
    pub fn create(disk: Arc<dyn Disk>) -> Result<Self, ManifestError> {
        disk.create_dir(MANIFEST_FOLDER)?;
        let pages = match disk.open(PAGES, Access::Cached) {
            Err(error) if error.is_not_found() => disk.create(PAGES, Access::Cached)?,
            other => other?,
        };
        let stale = list(&*disk)?;
        Ok(Self { disk, pages, kept: Vec::new(), stale })
    }

    /// Opens the newest manifest that can be read.
    ///
    /// # Errors
    /// [`ManifestError::Absent`] on a blank drive, [`ManifestError::Unreadable`] on one that has
    /// lost its memory.
    pub fn open(disk: Arc<dyn Disk>, drive: DriveId) -> Result<(Self, Checkpoint), ManifestError> {
        let mut sequences = list(&*disk)?;
        if sequences.is_empty() {
            return Err(ManifestError::Absent);
        }
        let pages = match disk.open(PAGES, Access::Cached) {
            Err(error) if error.is_not_found() => disk.create(PAGES, Access::Cached)?,
            other => other?,
        };
        sequences.reverse();
        let found = sequences.len();
        let mut newest: Option<Checkpoint> = None;
        let mut kept = Vec::new();
        let mut stale = Vec::new();
        let mut why = String::new();
        for sequence in sequences {
            if kept.len() == KEPT {
                stale.push(sequence);
                continue;
            }
            match load(&*disk, &*pages, drive, sequence)? {
                Ok((checkpoint, refs)) => {
                    kept.push(Kept::of(&checkpoint, refs));
                    newest.get_or_insert(checkpoint);
                }
                Err(reason) => {
                    tracing::warn!(drive = %drive, sequence, reason, "a manifest is unreadable");
                    stale.push(sequence);
                    if why.is_empty() {
                        why = reason;
                    }
                }
            }
        }
        kept.reverse();
        let checkpoint = newest.ok_or(ManifestError::Unreadable { found, why })?;
        Ok((Self { disk, pages, kept, stale }, checkpoint))
    }

    /// The number the next checkpoint must have: above all there ever were.
    #[must_use]
    pub fn next_sequence(&self) -> u64 {
        let stale = self.stale.iter().copied().max().unwrap_or(0);
        let kept = self.kept.last().map_or(0, |kept| kept.sequence);
        stale.max(kept) + 1
    }

    /// Stores a checkpoint durably and drops the manifest before the last.
    ///
    /// # Errors
    /// [`ManifestError::Disk`]: the drive is to be fenced; what counts is the old or the new one.
    ///
    /// # Panics
    /// When its number is not [`Self::next_sequence`].
    pub fn store(&mut self, checkpoint: &Checkpoint) -> Result<(), ManifestError> {
        assert_eq!(checkpoint.sequence, self.next_sequence(), "manifests are numbered in order");
        let refs = self.write_pages(checkpoint)?;
        let bytes = format::encode(checkpoint, &refs);
        match self.disk.remove(TEMPORARY) {
            Err(error) if !error.is_not_found() => return Err(error.into()),
            _ => {}
        }
        let file = self.disk.create(TEMPORARY, Access::Cached)?;
        file.write_at(0, &bytes)?;
        file.sync()?;
        self.disk.rename(TEMPORARY, &path_of(checkpoint.sequence))?;
        self.disk.sync_dir(MANIFEST_FOLDER)?;
        self.kept.push(Kept::of(checkpoint, refs));
        while self.kept.len() > KEPT {
            self.stale.push(self.kept.remove(0).sequence);
        }
        for sequence in std::mem::take(&mut self.stale) {
            match self.disk.remove(&path_of(sequence)) {
                Err(error) if !error.is_not_found() => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }

    /// Writes the bitmap pages that the last manifest does not have; returns all references.
    fn write_pages(&self, checkpoint: &Checkpoint) -> Result<Pages, ManifestError> {
        let before = self.kept.last().map(|kept| &kept.pages);
        let mut taken: BTreeSet<u32> = self
            .kept
            .iter()
            .flat_map(|kept| kept.pages.values())
            .filter_map(PageRef::slot)
            .collect();
        let mut refs = Pages::new();
        let mut wrote = false;
        for volume in &checkpoint.volumes {
            for (number, page) in volume.bitmap.chunks(PAGE_BYTES).enumerate() {
                let place = (volume.volume, u32::try_from(number).expect("volumes are bounded"));
                let summed = format::PageSum::of(checkpoint.drive, page);
                let known = before.and_then(|pages| pages.get(&place));
                let page_ref = match (summed.uniform(), known) {
                    (Some(uniform), _) => uniform,
                    (None, Some(known)) if known.is(&summed) => *known,
                    (None, _) => {
                        let slot = free_slot(&mut taken);
                        let mut bytes = page.to_vec();
                        bytes.resize(PAGE_BYTES, 0);
                        self.pages.write_at(u64::from(slot) * PAGE_BYTES as u64, &bytes)?;
                        wrote = true;
                        PageRef::stored(slot, &summed)
                    }
                };
                refs.insert(place, page_ref);
            }
        }
        if wrote {
            self.pages.sync()?;
        }
        Ok(refs)
    }

    /// Log before this position is needed by neither kept manifest, but for its inline shards.
    #[must_use]
    pub fn oldest_log(&self) -> Option<LogPosition> {
        self.kept.first().map(|kept| kept.log)
    }

    /// Whether a kept manifest names `run`.
    #[must_use]
    pub fn names(&self, run: RunId) -> bool {
        self.kept.iter().any(|kept| kept.runs.contains(&run))
    }
}

impl std::fmt::Debug for ManifestStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kept: Vec<u64> = self.kept.iter().map(|kept| kept.sequence).collect();
        write!(f, "ManifestStore(kept {kept:?}, stale {:?})", self.stale)
    }
}

/// The lowest slot not taken; takes it.
fn free_slot(taken: &mut BTreeSet<u32>) -> u32 {
    let slot = (0..).find(|slot| !taken.contains(slot)).expect("fewer pages than numbers");
    taken.insert(slot);
    slot
}

fn path_of(sequence: u64) -> String {
    format!("{MANIFEST_FOLDER}/{sequence:016x}{SUFFIX}")
}

/// Numbers of the manifests there are, rising.
fn list(disk: &dyn Disk) -> Result<Vec<u64>, DiskError> {
    let names = match disk.list(MANIFEST_FOLDER) {
        Err(error) if error.is_not_found() => return Ok(Vec::new()),
        other => other?,
    };
    let number = |name: &String| u64::from_str_radix(name.strip_suffix(SUFFIX)?, 16).ok();
    let mut numbers: Vec<u64> = names.iter().filter_map(number).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Reads one manifest and its bitmaps; the inner error says why it cannot be used.
fn load(
    disk: &dyn Disk,
    pages: &dyn DiskFile,
    drive: DriveId,
    sequence: u64,
) -> Result<Result<(Checkpoint, Pages), String>, DiskError> {
    let bytes = match read_file(disk, &path_of(sequence), MANIFEST_BYTES_MAX) {
        Err(error) if disk_says_rot(&error) => return Ok(Err(error.to_string())),
        other => other?,
    };
    let (mut checkpoint, refs) = match format::decode(&bytes) {
        Err(error) => return Ok(Err(error.to_string())),
        Ok(decoded) => decoded,
    };
    if (checkpoint.drive, checkpoint.sequence) != (drive, sequence) {
        return Ok(Err(format!("it is manifest {} of {}", checkpoint.sequence, checkpoint.drive)));
    }
    for volume in &mut checkpoint.volumes {
        let len = volume.bitmap.len();
        for (number, page) in volume.bitmap.chunks_mut(PAGE_BYTES).enumerate() {
            let place = (volume.volume, number as u32);
            let Some(page_ref) = refs.get(&place) else {
                return Ok(Err(format!("page {number} of volume {} is not named", place.0)));
            };
            if !read_page(pages, drive, page_ref, page)? {
                return Ok(Err(format!("page {number} of volume {} of {len} bytes rots", place.0)));
            }
        }
    }
    Ok(Ok((checkpoint, refs)))
}

/// Fills `page`; `false` when what is stored is not what was written.
fn read_page(
    pages: &dyn DiskFile,
    drive: DriveId,
    page_ref: &PageRef,
    page: &mut [u8],
) -> Result<bool, DiskError> {
    let Some(slot) = page_ref.slot() else {
        page.fill(page_ref.fill());
        return Ok(true);
    };
    match pages.read_at(u64::from(slot) * PAGE_BYTES as u64, page) {
        Err(error) if disk_says_rot(&error) => return Ok(false),
        other => other?,
    }
    Ok(page_ref.is(&format::PageSum::of(drive, page)))
}

fn disk_says_rot(error: &DiskError) -> bool {
    use crate::disk::DiskErrorKind::{NotFound, Short};
    matches!(error.kind, NotFound | Short)
}
