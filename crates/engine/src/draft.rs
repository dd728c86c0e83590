//! What a caller wants written, before a ballot is drawn for it.

use bytes::Bytes;
use holdfast_drive::api::{Guard, UploadHandle};
use holdfast_register::Candidate;
use holdfast_types::{EntryKind, Geometry, OperationId, PartRef, RegisterKey};

use crate::{admission::Permit, api::BodyDigest};

/// An entry to be: everything but its ballots.
#[derive(Clone, Debug)]
pub struct Draft {
    /// What it says.
    pub kind: EntryKind,
    /// The engine's record, encoded.
    pub metadata: Bytes,
    /// Parts of a completed multipart object.
    pub parts: Vec<PartRef>,
    /// Its own bytes.
    pub data: Data,
    /// The operation that names it. Drawn once by the caller, kept over repetitions.
    pub operation: OperationId,
    /// A condition on another register of the same drives, for this operation under every ballot; it
    /// goes before that of the key's route.
    pub guard: Option<Guard>,
}

impl Draft {
    /// An entry without data: registries, upload registers.
    #[must_use]
    pub const fn record(operation: OperationId, metadata: Bytes) -> Self {
        Self {
            kind: EntryKind::Put,
            metadata,
            parts: Vec::new(),
            data: Data::None,
            operation,
            guard: None,
        }
    }

    /// The version is gone.
    #[must_use]
    pub fn tombstone(operation: OperationId) -> Self {
        Self { kind: EntryKind::Tombstone, ..Self::record(operation, Bytes::new()) }
    }

    /// The same with data.
    #[must_use]
    pub fn with_data(self, data: Data) -> Self {
        Self { data, ..self }
    }

    /// The same under a condition on another register.
    #[must_use]
    pub fn with_guard(self, guard: Guard) -> Self {
        Self { guard: Some(guard), ..self }
    }

    /// The same, made up of parts.
    #[must_use]
    pub fn with_parts(self, parts: Vec<PartRef>) -> Self {
        Self { parts, ..self }
    }
}

/// Where the bytes of a draft are.
#[derive(Clone, Debug, Default)]
pub enum Data {
    /// There are none.
    #[default]
    None,
    /// The whole body; its shards travel inside Accept. At most what `SetHandle::inline_max` says.
    Inline(Bytes),
    /// Streamed to the drives and fsynced there under the draft's operation id.
    Uploaded(Uploaded),
}

impl Data {
    /// Bytes of the body.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self {
            Self::None => 0,
            Self::Inline(body) => body.len() as u64,
            Self::Uploaded(uploaded) => uploaded.geometry.size,
        }
    }
}

/// Shards that wait on their drives to be named by an entry.
#[derive(Clone, Debug)]
pub struct Uploaded {
    /// The shape; its size is what came.
    pub geometry: Geometry,
    /// By shard index: the handle, `None` where the shard could not be stored.
    pub handles: Vec<Option<UploadHandle>>,
}

/// A body that came in whole.
#[derive(Clone, Debug)]
pub struct Received {
    /// Its bytes, for a [`Draft`] of the same operation, key and set.
    pub data: Data,
    /// Bytes that came.
    pub size: u64,
    /// What the body's stream made of them.
    pub digest: BodyDigest,
    /// Room the bytes take in memory: to be kept until they are written.
    pub permit: Permit,
}

/// What a conditional write's caller decides on the current value.
#[derive(Debug)]
pub enum Decision<T> {
    /// Write this; once it is acknowledged the update answers `T`.
    Write(Draft, T),
    /// Write nothing and answer this.
    Keep(T),
}

/// A page of a keyspace of one set.
#[derive(Clone, Debug, Default)]
pub struct ScanResult {
    /// Keys in rising order, each with its latest version that is not gone. Under a bucket in phase
    /// `Deleting` nothing is resolved and open tombstones are shown, too.
    pub entries: Vec<(RegisterKey, Candidate)>,
    /// Continue with this name as `start`; `None` when the range is exhausted. A page may be empty
    /// and yet not the last one: everything in it was gone.
    pub next: Option<Bytes>,
}
