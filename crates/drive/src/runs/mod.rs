//! Runs: immutable sorted files that, with the log's tail, are the state of a drive (DRIVE.md, "Runs
//! and manifest").
//!
//! Owns the run format (docs/format/index.md), its writer, its readers and the merge of runs. Never
//! changes a run once it is written, and never answers from a block that fails its checksum: rot is
//! reported as the range of keys between the block's fences ([`RunError::Rotten`]).
//!
//! ```text
//! overlay -> RunWriter -> file, fsync, folder fsync -> manifest names it -> RunSet answers
//!            MergeIter over a window of runs -> RunWriter -> manifest swaps them -> old files go
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`format`](mod@format) | bytes of blocks, fences and footer |
//! | [`filter`] | the filter that spares a look into runs that do not hold a key |
//! | [`cache`] | blocks in memory, within a byte budget |
//! | [`writer`] | [`RunWriter`]: a run from items in key order |
//! | [`reader`] | [`Run`], one open run: get and cursor |
//! | [`set`] | [`RunSet`]: the runs of a drive, newest first, as one ordered map |
//! | [`store`] | [`RunStore`]: the files: write, merge, swap, remove |
//! | [`plan`] | which runs to merge, a pure function |

pub mod cache;
pub mod filter;
pub mod format;
pub mod plan;
pub mod reader;
pub mod set;
pub mod store;
pub mod writer;

#[cfg(test)]
mod tests;

use bytes::Bytes;
use holdfast_types::Ballot;

pub use cache::BlockCache;
pub use plan::plan_merge;
pub use reader::{Run, RunCursor};
pub use set::{Merge, MergeIter, RunSet};
pub use store::RunStore;
pub use writer::RunWriter;

use crate::{disk::DiskError, meta_index::Lsn};

/// The folder of a drive's runs.
pub const RUNS_FOLDER: &str = "runs";

/// A run of one drive; numbers rise and are never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct RunId(pub u64);

impl RunId {
    /// Where the run lies on its drive.
    #[must_use]
    pub fn path(self) -> String {
        format!("{RUNS_FOLDER}/{:016x}.run", self.0)
    }
}

/// What a run says about a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RunContent {
    /// It is held.
    Value {
        /// The highest ballot in the value; a rotten block refuses up to the highest of its values.
        highest: Ballot,
        /// The value.
        bytes: Bytes,
    },
    /// It was removed, whatever older runs say.
    Removed,
}

/// One key of a run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RunItem {
    /// The key; its byte order is the run's order.
    pub key: Bytes,
    /// The log position of the last change.
    pub lsn: Lsn,
    /// What it was changed to.
    pub content: RunContent,
}

/// What the manifest knows of a run: enough to refuse for its whole range when the file is lost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RunMeta {
    /// Its number.
    pub id: RunId,
    /// Items, removals included.
    pub items: u64,
    /// Removals among them.
    pub removals: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// The log positions of its items lie between this one
    pub lsn_min: Lsn,
    /// and this one.
    pub lsn_max: Lsn,
    /// Its first key.
    pub first: Bytes,
    /// Its last key.
    pub last: Bytes,
    /// The highest ballot of its values.
    pub highest: Ballot,
}

/// Keys a drive cannot answer for, because the block that held them is rotten.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RottenRange {
    /// The run.
    pub run: RunId,
    /// First key that may be affected.
    pub start: Bytes,
    /// First key that is not, `None` when all that follow are.
    pub end: Option<Bytes>,
    /// The highest ballot the block held.
    pub highest: Ballot,
    /// What it held came at log positions up to here.
    pub upto: Lsn,
}

/// Whether a look-up may wait for the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Patience {
    /// It may: on I/O threads, and before a drive serves.
    Waits,
    /// Only what is in memory answers; the rest is [`RunError::NotInMemory`]. For the thread that
    /// drives share (INV-ACTOR-1).
    InMemory,
}

/// Why a run does not answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RunError {
    /// The device failed.
    #[error("use run: {0}")]
    Disk(#[from] DiskError),
    /// Bytes are not what was written: nothing is known of the keys of this range.
    #[error("read run {run}: rotten between its fences", run = .0.run.0)]
    Rotten(RottenRange),
    /// Nothing is wrong, but the answer has to be read from the device, and the look-up was not to
    /// wait for it.
    #[error("read run: it is not in memory")]
    NotInMemory,
    /// Items came out of order, or are beyond a limit: a defect of the caller.
    #[error("write run: {what}")]
    Unwritable {
        /// What was wrong.
        what: &'static str,
    },
}

/// Removes run files that no manifest names: what crashed writers and finished merges left.
///
/// # Errors
/// When the device fails.
pub fn sweep(
    disk: &dyn crate::disk::Disk,
    is_named: impl Fn(RunId) -> bool,
) -> Result<Vec<RunId>, DiskError> {
    let names = match disk.list(RUNS_FOLDER) {
        Err(error) if error.is_not_found() => return Ok(Vec::new()),
        other => other?,
    };
    let mut removed = Vec::new();
    for name in names {
        let number = name.strip_suffix(".run").and_then(|hex| u64::from_str_radix(hex, 16).ok());
        let Some(id) = number.map(RunId).filter(|id| !is_named(*id)) else { continue };
        disk.remove(&id.path())?;
        removed.push(id);
    }
    Ok(removed)
}
