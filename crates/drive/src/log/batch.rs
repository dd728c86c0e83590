//! The header of a batch.
//!
//! ```text
//!  0 magic 8 "HFBATCH\x01" | 8 drive 16 | 24 generation u64 | 32 number u64 | 40 length u32
//! 44 records u32 | 48 chain of the batch before 16 | 64 XXH3-128 of the records 16
//! 80 XXH3-128 of bytes 0..80, 16: this batch's chain value
//! 96 the records, `length` bytes, then zeros up to a multiple of 4096
//! ```
//!
//! All numbers big-endian. The chain value covers everything: it is a checksum over the header, which
//! holds the checksum of the records and the chain value of the batch before.

use holdfast_types::{
    DriveId,
    codec::{CodecError, Reader},
};
use xxhash_rust::xxh3::xxh3_128;

/// Begins every batch; the last byte is the version of the format.
const MAGIC: [u8; 8] = *b"HFBATCH\x01";

/// Bytes of a header.
pub const HEADER_BYTES: usize = 96;

/// Bytes that the chain value covers.
const COVERED: usize = 80;

/// What a header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchHeader {
    /// The drive it was written for.
    pub drive: DriveId,
    /// The open count of the drive when it was written.
    pub generation: u64,
    /// Its number; the first ever is 1.
    pub number: u64,
    /// Bytes of its records.
    pub length: u32,
    /// How many they are.
    pub records: u32,
    /// The chain value of the batch before; 0 for batch 1.
    pub previous: u128,
    /// Checksum of the records.
    pub body: u128,
}

impl BatchHeader {
    /// Its bytes, and its chain value.
    #[must_use]
    pub fn encode(&self) -> ([u8; HEADER_BYTES], u128) {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..24].copy_from_slice(&self.drive.to_bytes());
        bytes[24..32].copy_from_slice(&self.generation.to_be_bytes());
        bytes[32..40].copy_from_slice(&self.number.to_be_bytes());
        bytes[40..44].copy_from_slice(&self.length.to_be_bytes());
        bytes[44..48].copy_from_slice(&self.records.to_be_bytes());
        bytes[48..64].copy_from_slice(&self.previous.to_be_bytes());
        bytes[64..80].copy_from_slice(&self.body.to_be_bytes());
        let chain = xxh3_128(&bytes[..COVERED]);
        bytes[COVERED..].copy_from_slice(&chain.to_be_bytes());
        (bytes, chain)
    }

    /// Reads a whole header; returns it with its chain value.
    ///
    /// # Errors
    /// [`CodecError`] when the bytes are not a header.
    pub fn decode(bytes: &[u8]) -> Result<(Self, u128), CodecError> {
        let mut input = Reader::new(bytes);
        if input.array()? != MAGIC {
            return Err(CodecError::Unknown("batch magic"));
        }
        let header = Self {
            drive: DriveId::from_bytes(input.array()?),
            generation: u64::from_be_bytes(input.array()?),
            number: u64::from_be_bytes(input.array()?),
            length: u32::from_be_bytes(input.array()?),
            records: u32::from_be_bytes(input.array()?),
            previous: u128::from_be_bytes(input.array()?),
            body: u128::from_be_bytes(input.array()?),
        };
        let chain = u128::from_be_bytes(input.array()?);
        if chain != xxh3_128(&bytes[..COVERED]) {
            return Err(CodecError::Unknown("batch checksum"));
        }
        Ok((header, chain))
    }

    /// Bytes of the whole batch on the media.
    #[must_use]
    pub const fn total_bytes(&self) -> u64 {
        crate::disk::whole_blocks(HEADER_BYTES as u64 + self.length as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: no header with a flipped bit is taken for a header. Method: flip every bit.
    #[test]
    fn a_flipped_bit_is_never_a_header() {
        let header = BatchHeader {
            drive: DriveId(1),
            generation: 2,
            number: 3,
            length: 4,
            records: 5,
            previous: 6,
            body: 7,
        };
        let (bytes, chain) = header.encode();
        assert_eq!(BatchHeader::decode(&bytes), Ok((header, chain)));
        for bit in 0..HEADER_BYTES * 8 {
            let mut rotten = bytes;
            rotten[bit / 8] ^= 1 << (bit % 8);
            assert!(BatchHeader::decode(&rotten).is_err(), "bit {bit}");
        }
    }
}
