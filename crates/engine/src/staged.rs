//! A draft made ready for its drives: shaped, encoded, and turned into one Accept a shard.

use std::sync::Arc;

use bytes::Bytes;
use holdfast_drive::api::ShardSource;
use holdfast_erasure::{Salt, encode_body};
use holdfast_register::HolderMask;
use holdfast_types::{Ballot, BucketStamp, Entry, Geometry, OperationId, ShardIndex, limits};

use crate::{
    draft::{Data, Draft},
    error::StoreError,
    receive::Upload,
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
    /// Shapes a draft for the set as it stands now. A body whose shards are too large for Accept, as
    /// may be when drives are away, is uploaded.
    pub(crate) async fn new(
        set: &Arc<SetShared>,
        scope: BucketStamp,
        route: &Route,
        draft: Draft,
    ) -> Result<Self, StoreError> {
        let body = match &draft.data {
            Data::None => return Ok(Self { draft, geometry: Geometry::EMPTY, inline: Vec::new() }),
            Data::Uploaded(uploaded) => {
                let geometry = uploaded.geometry;
                return Ok(Self { draft, geometry, inline: Vec::new() });
            }
            Data::Inline(body) => body.clone(),
        };
        let geometry = set.geometry(body.len() as u64);
        if rides_inline(&geometry) {
            let salts = set.salts(route, draft.operation);
            let encode = || encode_body(&geometry, &body, &salts);
            let inline = if body.is_empty() { Vec::new() } else { encode() };
            return Ok(Self { draft, geometry, inline });
        }
        let upload = Upload::open(set, scope, route, draft.operation, geometry).await?;
        let uploaded = upload.send_whole(&body).await?;
        let geometry = uploaded.geometry;
        let draft = draft.with_data(Data::Uploaded(uploaded));
        Ok(Self { draft, geometry, inline: Vec::new() })
    }

    /// Shards that the writer has, of those whose drives are up.
    pub(crate) fn own(&self, up: HolderMask) -> HolderMask {
        let Data::Uploaded(uploaded) = &self.draft.data else { return up };
        let with = uploaded.handles.iter().enumerate().filter(|(_, handle)| handle.is_some());
        let there = with.fold(HolderMask::default(), |mask, (shard, _)| mask.with(shard as u8));
        there.intersection(up)
    }

    /// Bytes of each shard that travels inside Accept.
    pub(crate) fn inline_shard_bytes(&self) -> usize {
        self.inline.first().map_or(0, Bytes::len)
    }

    /// Whether it can be shaped anew for fewer drives.
    pub(crate) const fn is_reshapable(&self) -> bool {
        !matches!(self.draft.data, Data::Uploaded(_))
    }

    /// Whether the set as it stands now asks for another shape.
    pub(crate) fn is_misshaped(&self, set: &SetShared) -> bool {
        self.geometry.has_data() && set.width(self.geometry.size) != self.geometry.data_shards
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
}

impl SetShared {
    /// The salts of an operation's shards, by shard index.
    pub(crate) fn salts(&self, route: &Route, operation: OperationId) -> Vec<Salt> {
        (0..self.n()).map(|shard| self.salt(route, operation, shard)).collect()
    }

    /// The salt of one of an operation's shards.
    pub(crate) fn salt(&self, route: &Route, operation: OperationId, shard: u8) -> Salt {
        let drive = self.slot(route.slots[usize::from(shard)]).drive;
        Salt { operation, drive, shard: ShardIndex(shard) }
    }
}

/// Whether shards of this shape ride inside Accept.
pub(crate) const fn rides_inline(geometry: &Geometry) -> bool {
    geometry.size == 0
        || (geometry.stripe_count() == 1
            && geometry.payload_len(0) as u64 <= limits::INLINE_SHARD_BYTES_MAX)
}
