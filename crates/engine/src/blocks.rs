//! One shard's blocks from its drive: opened, cut, verified.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream};
use holdfast_drive::{
    api::{DriveError, ShardRead},
    node::BlockStream,
};
use holdfast_erasure::open_block;
use holdfast_register::Refusal;
use holdfast_types::{BucketStamp, ErrorClass, Geometry, OperationId, ShardIndex, VersionId};

use crate::{
    report::{Suspected, tells_of_rot},
    set::{Route, SetShared},
};

/// What is read, shared by all sources.
pub(crate) struct Target {
    pub(crate) set: Arc<SetShared>,
    pub(crate) route: Route,
    pub(crate) scope: BucketStamp,
    /// The register that names the bytes.
    pub(crate) version: VersionId,
    pub(crate) operation: OperationId,
    pub(crate) geometry: Geometry,
    /// The last stripe wanted.
    pub(crate) last: u64,
}

impl Target {
    /// The error of a shard whose block did not come in time.
    pub(crate) fn late(&self, shard: u8) -> DriveError {
        let drive = self.set.slot(self.route.slots[usize::from(shard)]).drive;
        DriveError::failed(drive, ErrorClass::TimedOut, "no block in time")
    }

    /// Takes note that a shard could not be read: its drive is told, when it may be the shard's fault.
    pub(crate) fn unreadable(&self, shard: u8, error: &DriveError) {
        if tells_of_rot(error) {
            let (version, operation) = (self.version, self.operation);
            self.set.report(self.scope, &self.route, Suspected { version, operation, shard });
        }
    }
}

/// Whether a failure may be one block's alone, so that the shard's other blocks are worth a try. Whoever
/// is silent or gone is silent for the next block, too.
pub(crate) fn is_of_block(error: &DriveError) -> bool {
    error.class() == ErrorClass::Damaged
}

/// Opens a stream of single blocks of a shard.
pub(crate) async fn open_blocks(
    target: &Target,
    shard: u8,
    first_block: u64,
    block_count: u64,
) -> Result<BlockStream, DriveError> {
    let slot = target.route.slots[usize::from(shard)];
    let read = || ShardRead {
        drive: target.set.slot(slot).drive,
        scope: target.set.scope(target.scope),
        operation: target.operation,
        shard: ShardIndex(shard),
        geometry: target.geometry,
        first_block,
        block_count,
    };
    let drive = target.set.slot(slot).drive;
    let opened = target.set.node_of(slot).read_shard(read()).await;
    let mut chunks = match opened {
        Err(DriveError::Refused { refusal: Refusal::SetOutdated { current }, .. }) => {
            target.set.refresh(current).await;
            target.set.node_of(slot).read_shard(read()).await?
        }
        opened => opened?,
    };
    let geometry = target.geometry;
    // A chunk may hold several blocks, or a part of one: cut them anew.
    let mut rest = BytesMut::new();
    let mut block = first_block;
    let single = stream::poll_fn(move |cx| {
        loop {
            if block >= first_block + block_count || block >= geometry.stripe_count() {
                return std::task::Poll::Ready(None);
            }
            let len = geometry.block_len(block) as usize;
            if rest.len() >= len {
                block += 1;
                return std::task::Poll::Ready(Some(Ok(rest.split_to(len).freeze())));
            }
            match std::task::ready!(chunks.poll_next_unpin(cx)) {
                // The usual case: one block a chunk, not copied.
                Some(Ok(chunk)) if rest.is_empty() && chunk.len() == len => {
                    block += 1;
                    return std::task::Poll::Ready(Some(Ok(chunk)));
                }
                Some(Ok(chunk)) => rest.extend_from_slice(&chunk),
                Some(Err(error)) => return std::task::Poll::Ready(Some(Err(error))),
                None => {
                    let short = "the shard's stream ended early";
                    let error = DriveError::failed(drive, ErrorClass::Damaged, short);
                    return std::task::Poll::Ready(Some(Err(error)));
                }
            }
        }
    });
    Ok(single.boxed())
}

/// The payload of the next block of a stream, verified (INV-BLOCK-1).
pub(crate) async fn next_block(
    target: &Target,
    shard: u8,
    block: u64,
    blocks: &mut BlockStream,
) -> Result<Bytes, DriveError> {
    let slot = target.route.slots[usize::from(shard)];
    let drive = target.set.slot(slot).drive;
    let ended = || DriveError::failed(drive, ErrorClass::Damaged, "the shard's stream ended early");
    let sealed = blocks.next().await.ok_or_else(ended)??;
    let salt = target.set.salt(&target.route, target.operation, shard);
    let payload = open_block(&salt, block, &sealed);
    let rotten = |e: holdfast_erasure::BlockError| {
        DriveError::failed(drive, ErrorClass::Damaged, e.to_string())
    };
    let len = payload.map_err(rotten)?.len();
    Ok(sealed.slice(..len))
}
