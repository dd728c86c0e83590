//! The index of a drive: ordered keys to opaque values, and it may be lost at any time.
//!
//! Owns nothing that counts: state is sorted runs and log tail (DRIVE.md); an index only answers the
//! same questions faster. Never is an acknowledgement or a free extent derived from one.
//!
//! Keys are encoded register keys ([`holdfast_types::RegisterKey::encode_register`]) or whatever else
//! the drive keeps in order; they are opaque here, only their byte order matters.
//!
//! ```text
//! log tail -> overlay -> run (durable, in the manifest) -> index: put / remove, then certify(P)
//!                                                          open: certificate and content agree, or
//!                                                          the index is set aside and built anew
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`keeper`] | [`IndexKeeper`]: opens, feeds, distrusts and rebuilds the index of a drive |
//! | [`span`] | [`IndexContent`]: which keys an index holds |
//! | [`sample`] | what merges compare, and whether it agrees |
//! | [`record`] | the checksummed form of a value, and the digest of a whole index |
//! | [`sled`](mod@sled) | the index on a real disk, with nothing of sled trusted |
//! | [`memory`] | the in-memory twin, with a medium that can lose and rot |

pub mod keeper;
#[cfg(test)]
mod keeper_tests;
pub mod memory;
pub mod record;
pub mod sample;
pub mod sled;
pub mod span;

use bytes::Bytes;

pub use self::{
    keeper::{IndexBackend, IndexKeeper},
    memory::{MemoryIndex, MemoryMedium},
    sled::SledIndex,
};

/// A position in the drive's log: the number of a batch. Rises over all opens of the drive.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Lsn(pub u64);

/// Values up to this size are kept in the index itself. sled turns values beyond ~128 KiB into
/// unsynced files, and a leaf should hold many; beyond this the index keeps a pointer to the runs.
pub const INDEX_VALUE_BYTES_MAX: usize = 4 << 10;

/// Records of one page of a guarded scan. Bounds what is looked at between two checks of progress.
pub const SCAN_PAGE_MAX: usize = 1024;

/// What an index says about a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Lookup {
    /// The key is not held.
    Absent,
    /// It is held with this value.
    Value {
        /// The log position the value was written at.
        lsn: Lsn,
        /// What was put.
        bytes: Bytes,
    },
    /// It is held, but its value is beyond [`INDEX_VALUE_BYTES_MAX`]: ask the runs.
    InRuns {
        /// The log position the value was written at.
        lsn: Lsn,
    },
}

impl Lookup {
    /// The log position of what is held.
    #[must_use]
    pub const fn lsn(&self) -> Option<Lsn> {
        match self {
            Self::Absent => None,
            Self::Value { lsn, .. } | Self::InRuns { lsn } => Some(*lsn),
        }
    }
}

/// One page of a scan, keys strictly rising.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct IndexPage {
    /// Keys and what is held for them; never [`Lookup::Absent`].
    pub items: Vec<(Bytes, Lookup)>,
    /// Whether keys of the range may follow the last item.
    pub more: bool,
}

/// Why an index cannot be relied on. The remedy is the same for all: set it aside, answer from the
/// runs, build it anew.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// A record or page is not what was written.
    #[error("read index: {what}")]
    Damaged {
        /// What was found.
        what: String,
    },
    /// The certificate and the content disagree, or there is no certificate.
    #[error("open index: {what}")]
    Mismatch {
        /// What was found.
        what: String,
    },
    /// The store under the index failed or panicked.
    #[error("use index: {what}")]
    Failed {
        /// What it said.
        what: String,
    },
    /// The store under the index makes no progress.
    #[error("use index: no progress within {waited_ms} ms")]
    Stalled {
        /// How long was waited.
        waited_ms: u64,
    },
}

impl IndexError {
    /// Damage, described.
    pub fn damaged(what: impl Into<String>) -> Self {
        Self::Damaged { what: what.into() }
    }
}

/// An ordered map from keys to values that may be lost, but never lies unnoticed.
///
/// INV-INDEX-1: an answer is either what was last put (by log position) or an error. Values carry a
/// checksum over key and value; a whole index carries a digest over its records, certified by
/// [`Self::certify`] and verified when it is opened.
///
/// Handles are shared between threads; one thread at a time writes.
pub trait MetaIndex: Send + Sync {
    /// What is held for `key`.
    ///
    /// # Errors
    /// [`IndexError`]: the index is to be set aside.
    fn get(&self, key: &[u8]) -> Result<Lookup, IndexError>;

    /// Puts `value`, written at `lsn`. Does nothing when a value of a higher position is held, so
    /// that replaying the log is idempotent. Values beyond [`INDEX_VALUE_BYTES_MAX`] are kept as
    /// [`Lookup::InRuns`]: put them only after a run holds them.
    ///
    /// # Errors
    /// As [`Self::get`].
    fn put(&self, key: &[u8], lsn: Lsn, value: &[u8]) -> Result<(), IndexError>;

    /// Removes `key` unless a value of a higher position is held.
    ///
    /// # Errors
    /// As [`Self::get`].
    fn remove(&self, key: &[u8], lsn: Lsn) -> Result<(), IndexError>;

    /// Records from `start` (inclusive) to `end` (exclusive, unbounded when `None`), at most
    /// `limit.min(SCAN_PAGE_MAX)`, in key order.
    ///
    /// # Errors
    /// As [`Self::get`], also when the store returns keys out of order or out of range.
    fn scan(&self, start: &[u8], end: Option<&[u8]>, limit: usize)
    -> Result<IndexPage, IndexError>;

    /// States that everything up to `lsn` has been put and removed, and makes the content durable.
    /// Only a certified index can be opened again. A crash between two certificates leaves an index
    /// that is refused when opened, unless nothing was put in between.
    ///
    /// # Errors
    /// As [`Self::get`].
    fn certify(&self, lsn: Lsn) -> Result<(), IndexError>;

    /// The position of the last certificate.
    fn certified(&self) -> Option<Lsn>;
}

/// The first key after all keys that begin with `prefix`: the `end` of a scan over the prefix.
/// `None` when there is none.
#[must_use]
pub fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a prefix's end excludes nothing that begins with it and includes nothing else.
    /// Method: the corner bytes.
    #[test]
    fn prefix_end_is_the_next_key_without_the_prefix() {
        assert_eq!(prefix_end(b"a"), Some(b"b".to_vec()));
        assert_eq!(prefix_end(b"a\xff\xff"), Some(b"b".to_vec()));
        assert_eq!(prefix_end(b"\xff"), None);
        assert_eq!(prefix_end(b""), None);
    }
}
