//! The header an extent begins with: enough to tell, without log and runs, what its bytes were.
//!
//! ```text
//! magic 8 "HFEXTNT\x01" | operation 16 | drive 16 | shard u8 | ordinal u32 | geometry
//!   | register key blob (without version) | XXH3-128 of all before, 16 | zeros up to 4096
//! ```
//!
//! For salvage only: dead extents have headers too, so what they say never counts by itself.

use holdfast_types::{
    DriveId, Geometry, OperationId, RegisterKey, ShardIndex,
    codec::{CodecError, Reader, Writer},
};
use xxhash_rust::xxh3::xxh3_128;

use crate::disk::BLOCK;

/// Begins every extent; the last byte is the version of the format.
const MAGIC: [u8; 8] = *b"HFEXTNT\x01";

/// What a header says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExtentHeader {
    /// Whose bytes.
    pub operation: OperationId,
    /// Written by which drive.
    pub drive: DriveId,
    /// Which shard.
    pub shard: ShardIndex,
    /// Which extent of the shard, from 0.
    pub ordinal: u32,
    /// The shape, as announced.
    pub geometry: Geometry,
    /// The key whose body it is.
    pub key: RegisterKey,
}

impl ExtentHeader {
    /// Writes the header into the first block of an extent.
    pub fn write_to(&self, block: &mut [u8]) {
        let mut out = Writer::with_capacity(256);
        out.raw(&MAGIC);
        out.id(self.operation.to_bytes());
        out.id(self.drive.to_bytes());
        out.u8(self.shard.0);
        out.raw(&self.ordinal.to_be_bytes());
        self.geometry.encode(&mut out);
        out.blob(&self.key.encode());
        let mut bytes = out.into_bytes();
        let checksum = xxh3_128(&bytes);
        bytes.extend_from_slice(&checksum.to_be_bytes());
        assert!(bytes.len() <= BLOCK, "a key of at most 1 KiB, escaped, fits the block");
        block[..bytes.len()].copy_from_slice(&bytes);
        block[bytes.len()..BLOCK].fill(0);
    }

    /// Reads the header of the extent that begins with `block`.
    ///
    /// # Errors
    /// [`CodecError`] when there is none.
    pub fn decode(block: &[u8]) -> Result<Self, CodecError> {
        let mut input = Reader::new(block);
        if input.array()? != MAGIC {
            return Err(CodecError::Unknown("extent magic"));
        }
        let operation = OperationId::from_bytes(input.array()?);
        let drive = DriveId::from_bytes(input.array()?);
        let shard = ShardIndex(input.u8()?);
        let ordinal = u32::from_be_bytes(input.array()?);
        let geometry = Geometry::decode(&mut input)?;
        let mut key_bytes = Reader::new(input.blob()?);
        let key = RegisterKey::decode(&mut key_bytes)?;
        key_bytes.finish()?;
        let covered = block.len() - input.remaining();
        let checksum = u128::from_be_bytes(input.array()?);
        if checksum != xxh3_128(&block[..covered]) {
            return Err(CodecError::Unknown("extent checksum"));
        }
        Ok(Self { operation, drive, shard, ordinal, geometry, key })
    }
}
