//! A draft made ready for its drives: shaped, encoded, and turned into one Accept a shard.

use bytes::Bytes;
use holdfast_drive::api::{Accept, DriveRequest, ShardSource};
use holdfast_erasure::{Salt, encode_body};
use holdfast_types::{
    Ballot, BucketStamp, Entry, Geometry, OperationId, ShardIndex, VersionId, limits,
};

use crate::{
    draft::{Data, Draft},
    set::{Route, SetShared},
};

/// A draft in the shape in which its drives will hold it.
pub(crate) struct Staged {
    pub(crate) draft: Draft,
    pub(crate) geometry: Geometry,
    /// Shards that travel inside Accept, by shard index; empty when none do.
    inline: Vec<Bytes>,
}

impl Staged {
    /// Shapes a draft for the set as it stands now.
    pub(crate) fn new(set: &SetShared, route: &Route, draft: Draft) -> Self {
        let (geometry, inline) = match &draft.data {
            Data::None => (Geometry::EMPTY, Vec::new()),
            Data::Uploaded(uploaded) => (uploaded.geometry, Vec::new()),
            Data::Inline(body) => {
                let geometry = set.geometry(body.len() as u64);
                let salts = set.salts(route, draft.operation);
                let encode = || encode_body(&geometry, body, &salts);
                (geometry, if body.is_empty() { Vec::new() } else { encode() })
            }
        };
        Self { draft, geometry, inline }
    }

    /// Whether it can be shaped anew for fewer drives.
    pub(crate) const fn is_reshapable(&self) -> bool {
        !matches!(self.draft.data, Data::Uploaded(_))
    }

    /// Data shards: `k_v`.
    pub(crate) const fn data_shards(&self) -> u8 {
        if self.geometry.has_data() { self.geometry.data_shards } else { 0 }
    }

    /// The entry under a ballot the writer draws for it.
    pub(crate) fn entry(&self, ballot: Ballot) -> Entry {
        Entry {
            ballot,
            order: ballot,
            operation: self.draft.operation,
            kind: self.draft.kind,
            geometry: self.geometry,
            metadata: self.draft.metadata.clone(),
            parts: self.draft.parts.clone(),
        }
    }

    /// Where the drive of a shard finds its bytes.
    pub(crate) fn source(&self, shard: u8) -> ShardSource {
        let at = usize::from(shard);
        match &self.draft.data {
            _ if !self.geometry.has_data() => ShardSource::NoData,
            Data::None => ShardSource::NoData,
            Data::Inline(_) => ShardSource::Inline(self.inline[at].clone()),
            Data::Uploaded(uploaded) => {
                uploaded.handles[at].map_or(ShardSource::Missing, ShardSource::Upload)
            }
        }
    }

    /// The command to the drive of a shard.
    pub(crate) fn accept(
        &self,
        set: &SetShared,
        scope: BucketStamp,
        route: &Route,
        version: VersionId,
        entry: &Entry,
        shard: u8,
        absorbed: Option<OperationId>,
    ) -> DriveRequest {
        DriveRequest::Accept(Accept {
            scope: set.scope(scope),
            key: route.key.clone(),
            version,
            entry: entry.clone(),
            shard: ShardIndex(shard),
            source: self.source(shard),
            absorbed,
            guard: self.draft.guard.clone(),
        })
    }
}

impl SetShared {
    /// The salts of an operation's shards, by shard index.
    pub(crate) fn salts(&self, route: &Route, operation: OperationId) -> Vec<Salt> {
        (0..self.n()).map(|shard| self.salt(route, operation, shard)).collect()
    }

    /// The salt of one of an operation's shards.
    pub(crate) fn salt(&self, route: &Route, operation: OperationId, shard: u8) -> Salt {
        let drive = self.slots[route.slots[usize::from(shard)]].drive;
        Salt { operation, drive, shard: ShardIndex(shard) }
    }
}

/// Whether shards of this shape ride inside Accept.
pub(crate) const fn rides_inline(geometry: &Geometry) -> bool {
    geometry.size == 0
        || (geometry.stripe_count() == 1
            && geometry.payload_len(0) as u64 <= limits::INLINE_SHARD_BYTES_MAX)
}
