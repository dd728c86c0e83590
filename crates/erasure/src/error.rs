//! What can be wrong with bytes from a drive.

use holdfast_types::{DriveId, ErrorClass, OperationId, ShardIndex};

/// A block that is not what its place says. The reader treats the block as lost and heals it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// Fewer bytes than a checksum and one byte of payload.
    #[error(
        "open block {block} of operation {operation}, shard {shard} on drive {drive}: only {len} bytes"
    )]
    TooShort {
        /// Whose bytes.
        operation: OperationId,
        /// Where they were read.
        drive: DriveId,
        /// Which shard.
        shard: ShardIndex,
        /// Which block of it.
        block: u64,
        /// How many bytes there were.
        len: usize,
    },
    /// The bytes are rotten, or belong to another operation, drive, shard or block.
    #[error(
        "open block {block} of operation {operation}, shard {shard} on drive {drive}: checksum differs"
    )]
    Checksum {
        /// Whose bytes.
        operation: OperationId,
        /// Where they were read.
        drive: DriveId,
        /// Which shard.
        shard: ShardIndex,
        /// Which block of it.
        block: u64,
    },
}

impl BlockError {
    /// What a caller can do: read the other shards and heal this one.
    #[must_use]
    pub const fn class(&self) -> ErrorClass {
        ErrorClass::Damaged
    }
}

/// Payloads from which a stripe cannot be restored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ErasureError {
    /// More blocks are lost than the code bears. Ask other drives, then give up.
    #[error("restore stripe {stripe}: need {need} of its payloads, have {have}")]
    TooFewShards {
        /// The stripe.
        stripe: u64,
        /// Payloads that suffice.
        need: u8,
        /// Payloads there are.
        have: u8,
    },
    /// The payloads are not those of one stripe of this geometry: a verified block has another
    /// length than its entry says.
    #[error("restore stripe {stripe}: shard {shard} has {have} bytes of payload, expected {need}")]
    WrongLength {
        /// The stripe.
        stripe: u64,
        /// The shard.
        shard: ShardIndex,
        /// Bytes of payload that the geometry gives.
        need: u32,
        /// Bytes there are.
        have: usize,
    },
    /// The stripe or the shard does not exist in this geometry, or the number of payloads differs
    /// from the number of shards.
    #[error("restore stripe {stripe}: outside the geometry")]
    OutOfRange {
        /// The stripe.
        stripe: u64,
    },
}

impl ErasureError {
    /// What a caller can do.
    #[must_use]
    pub const fn class(&self) -> ErrorClass {
        match self {
            Self::TooFewShards { .. } => ErrorClass::Unavailable,
            Self::WrongLength { .. } => ErrorClass::Damaged,
            Self::OutOfRange { .. } => ErrorClass::Invalid,
        }
    }
}
