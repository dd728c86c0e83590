//! A block: payload and a checksum that is salted with where the block belongs.
//!
//! ```text
//! | payload, 1 or more bytes | XXH3-128, big-endian, 16 bytes |
//! ```
//!
//! The checksum's 64-bit seed is the XXH3-64 of the salt's canonical form
//! `operation 16 | drive 16 | shard u8 | block u64`, numbers big-endian. So a former owner's bytes, a
//! block read from the wrong place, or one that reached the wrong drive never verify (DRIVE.md,
//! "Volumes"), although the same bytes may be stored many times.

use bytes::Bytes;
use holdfast_types::{DriveId, OperationId, ShardIndex, geometry::CHECKSUM_BYTES};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128_with_seed};

use crate::error::BlockError;

/// [`CHECKSUM_BYTES`] as a length of slices.
pub(crate) const CHECKSUM_LEN: usize = CHECKSUM_BYTES as usize;

/// Bytes of the salt's canonical form.
const SALT_LEN: usize = 16 + 16 + 1 + 8;

/// Salts a block's checksum; former owners' bytes and misdirected reads never verify.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Salt {
    /// The operation that wrote the body.
    pub operation: OperationId,
    /// The drive the shard is for.
    pub drive: DriveId,
    /// The shard.
    pub shard: ShardIndex,
}

impl Salt {
    /// The seed of block `block`'s checksum.
    fn seed(&self, block: u64) -> u64 {
        let mut form = [0_u8; SALT_LEN];
        form[..16].copy_from_slice(&self.operation.to_bytes());
        form[16..32].copy_from_slice(&self.drive.to_bytes());
        form[32] = self.shard.0;
        form[33..].copy_from_slice(&block.to_be_bytes());
        xxh3_64(&form)
    }

    /// The checksum that ends block `block`.
    pub(crate) fn checksum(&self, block: u64, payload: &[u8]) -> [u8; CHECKSUM_LEN] {
        xxh3_128_with_seed(payload, self.seed(block)).to_be_bytes()
    }
}

/// Appends `payload` and its checksum to `out`.
pub fn seal_block(salt: &Salt, block: u64, payload: &[u8], out: &mut Vec<u8>) {
    assert!(!payload.is_empty(), "a block has at least one byte of payload");
    out.reserve(payload.len() + CHECKSUM_LEN);
    out.extend_from_slice(payload);
    out.extend_from_slice(&salt.checksum(block, payload));
}

/// Turns an owned payload into a block. Copies nothing when the payload has room for the checksum,
/// as those of [`crate::restore_payload`] do.
#[must_use]
pub fn seal_owned(salt: &Salt, block: u64, mut payload: Vec<u8>) -> Bytes {
    assert!(!payload.is_empty(), "a block has at least one byte of payload");
    let checksum = salt.checksum(block, &payload);
    payload.extend_from_slice(&checksum);
    payload.into()
}

/// The payload of a block, verified (INV-BLOCK-1).
///
/// # Errors
/// [`BlockError`] when the bytes are rotten, too short, or another block's.
pub fn open_block<'a>(salt: &Salt, block: u64, bytes: &'a [u8]) -> Result<&'a [u8], BlockError> {
    let Salt { operation, drive, shard } = *salt;
    let len = bytes.len();
    if len <= CHECKSUM_LEN {
        return Err(BlockError::TooShort { operation, drive, shard, block, len });
    }
    let (payload, checksum) = bytes.split_at(len - CHECKSUM_LEN);
    if checksum != salt.checksum(block, payload) {
        return Err(BlockError::Checksum { operation, drive, shard, block });
    }
    Ok(payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: Salt = Salt { operation: OperationId(1), drive: DriveId(2), shard: ShardIndex(3) };

    fn sealed(payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        seal_block(&SALT, 4, payload, &mut out);
        out
    }

    /// Goal: rot of any byte is seen. Method: flip each bit pattern of a small set at each byte of
    /// blocks of all lengths around XXH3's internal thresholds (3, 8, 16, 128, 240, 1024).
    #[test]
    fn a_flipped_byte_anywhere_is_detected() {
        for len in [1, 2, 3, 4, 8, 9, 16, 17, 128, 129, 240, 241, 1024, 1025] {
            let payload: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
            let block = sealed(&payload);
            assert_eq!(open_block(&SALT, 4, &block), Ok(&payload[..]));
            for at in 0..block.len() {
                for flip in [0x01, 0x80, 0xff] {
                    let mut rotten = block.clone();
                    rotten[at] ^= flip;
                    let opened = open_block(&SALT, 4, &rotten);
                    assert!(matches!(opened, Err(BlockError::Checksum { .. })), "{len} {at}");
                }
            }
        }
    }

    /// Goal: a block that reached the wrong place never verifies. Method: open it under salts that
    /// differ in one field each, zero payload included (what a fresh file holds).
    #[test]
    fn misdirected_blocks_are_refused() {
        for payload in [&b"some payload"[..], &[0; 4096]] {
            let block = sealed(payload);
            let others = [
                (Salt { operation: OperationId(9), ..SALT }, 4),
                (Salt { drive: DriveId(9), ..SALT }, 4),
                (Salt { shard: ShardIndex(9), ..SALT }, 4),
                (SALT, 5),
            ];
            for (salt, number) in others {
                assert!(open_block(&salt, number, &block).is_err(), "{salt:?} {number}");
            }
        }
    }

    /// Goal: no slice panics and no truncation passes. Method: every prefix of a block.
    #[test]
    fn truncated_blocks_are_refused() {
        let block = sealed(b"0123456789abcdef0123456789");
        for len in 0..block.len() {
            assert!(open_block(&SALT, 4, &block[..len]).is_err(), "{len}");
        }
    }

    /// Goal: the checksum is an on-disk format. Method: one pinned value; if this test fails, blocks
    /// written before the change cannot be read after it.
    #[test]
    fn the_checksum_is_pinned() {
        let block = sealed(b"holdfast");
        assert_eq!(hex(&block[8..]), "2262331538b9aad690eec1f9aea4219c");
        assert_eq!(&seal_owned(&SALT, 4, b"holdfast".to_vec())[..], &block[..]);
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
