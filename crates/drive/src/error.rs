//! [`DriveFault`]: why a drive cannot be formatted, opened or used, by what an operator does next.

use holdfast_types::{ClusterId, DriveId, codec::CodecError};

use crate::disk::DiskError;

/// Why a drive does not serve.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DriveFault {
    /// The device failed.
    #[error("use drive: {0}")]
    Disk(#[from] DiskError),
    /// There is no identity: the drive was never formatted, or was wiped.
    #[error(
        "open drive {path}: it is blank; if it replaces a lost drive, its set takes it in by itself, else \
         check that the right file system is mounted"
    )]
    Blank {
        /// Its folder.
        path: String,
    },
    /// It is formatted already.
    #[error("format drive {path}: it is formatted already, as {drive}")]
    Formatted {
        /// Its folder.
        path: String,
        /// Its identity.
        drive: DriveId,
    },
    /// It belongs to another cluster.
    #[error(
        "open drive {path}: it belongs to cluster {found}, not {expected}; take it out, and wipe it only if nothing on it is needed"
    )]
    Foreign {
        /// Its folder.
        path: String,
        /// The cluster it says it belongs to.
        found: ClusterId,
        /// The cluster that opened it.
        expected: ClusterId,
    },
    /// What it remembers is incomplete: an acknowledged record may be gone.
    #[error(
        "open drive {path}: its memory is lost ({cause}); its files are left as they are, the set goes \
         on without it until it is taken in anew"
    )]
    Amnesic {
        /// Its folder.
        path: String,
        /// What shows it.
        cause: String,
    },
    /// Bytes on it are of a format this version does not know, or contradict each other.
    #[error("read {what} of drive {path}: {cause}; was it written by a newer version?")]
    Unreadable {
        /// Its folder.
        path: String,
        /// What was read.
        what: &'static str,
        /// What was wrong.
        cause: String,
    },
    /// A sync failed: nothing is known of the media any more.
    #[error("drive {path} is fenced: {cause}; replace it or restart its node after a check")]
    Fenced {
        /// Its folder.
        path: String,
        /// The failed call.
        cause: String,
    },
}

impl DriveFault {
    /// Unreadable bytes of `what`.
    pub(crate) fn unreadable(path: &str, what: &'static str, cause: CodecError) -> Self {
        Self::Unreadable { path: path.to_owned(), what, cause: cause.to_string() }
    }
}
