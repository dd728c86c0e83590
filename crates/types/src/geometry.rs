//! How a body is cut: stripes of `data_shards` blocks, each block with its checksum, one block of
//! every stripe on every shard.
//!
//! ```text
//! body    | stripe 0: k * payload bytes | stripe 1 | ... | last stripe, shorter |
//! shard i | block 0 | block 1 | ... | last block |
//! block   | payload, at most block_bytes - 16 | checksum 16 |
//! ```
//!
//! Every block but the last has `block_bytes` bytes, checksum included, so that full blocks stay
//! aligned on the media and one read fetches a block with its checksum. The last stripe's payload
//! is `ceil(rest / k)` bytes a shard; what is past the end of the body is zero and not stored in
//! the body's size.

use crate::{
    codec::{CodecError, Reader, Writer},
    limits,
};

/// Bytes of the checksum that ends each block (XXH3-128).
pub const CHECKSUM_BYTES: u32 = 16;

/// The shape of one body on its drives. A body without bytes has no blocks at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub struct Geometry {
    /// Shards that suffice to restore the body, `k_v`; 0 for an entry without data.
    pub data_shards: u8,
    /// Shards there are, n: the size of the set.
    pub total_shards: u8,
    /// Bytes of a full block on the media, checksum included.
    pub block_bytes: u32,
    /// Bytes of the body.
    pub size: u64,
}

impl Geometry {
    /// The shape of an entry without data.
    pub const EMPTY: Self = Self { data_shards: 0, total_shards: 0, block_bytes: 0, size: 0 };

    /// Chooses the block size for a body of `size` bytes: [`limits::BLOCK_BYTES`], or
    /// [`limits::BLOCK_BYTES_LARGE`] from [`limits::LARGE_OBJECT_BYTES`] on.
    #[must_use]
    pub const fn new(data_shards: u8, total_shards: u8, size: u64) -> Self {
        assert!(data_shards >= 1 && data_shards <= total_shards && total_shards <= 16);
        let large = size >= limits::LARGE_OBJECT_BYTES;
        let block_bytes = if large { limits::BLOCK_BYTES_LARGE } else { limits::BLOCK_BYTES };
        Self { data_shards, total_shards, block_bytes, size }
    }

    /// Whether the entry has bytes at all.
    #[must_use]
    pub const fn has_data(&self) -> bool {
        self.size > 0
    }

    /// Payload bytes of a full block.
    #[must_use]
    pub const fn block_payload(&self) -> u32 {
        self.block_bytes - CHECKSUM_BYTES
    }

    /// Body bytes of a full stripe.
    #[must_use]
    pub const fn stripe_bytes(&self) -> u64 {
        self.block_payload() as u64 * self.data_shards as u64
    }

    /// Stripes there are, and so blocks of each shard.
    #[must_use]
    pub const fn stripe_count(&self) -> u64 {
        if self.size == 0 { 0 } else { self.size.div_ceil(self.stripe_bytes()) }
    }

    /// Body bytes of stripe `stripe`.
    #[must_use]
    pub const fn stripe_len(&self, stripe: u64) -> u64 {
        assert!(stripe < self.stripe_count());
        let start = stripe * self.stripe_bytes();
        let rest = self.size - start;
        if rest < self.stripe_bytes() { rest } else { self.stripe_bytes() }
    }

    /// Payload bytes of each block of stripe `stripe`.
    #[must_use]
    pub const fn payload_len(&self, stripe: u64) -> u32 {
        self.stripe_len(stripe).div_ceil(self.data_shards as u64) as u32
    }

    /// Bytes of each block of stripe `stripe` on the media, checksum included.
    #[must_use]
    pub const fn block_len(&self, stripe: u64) -> u32 {
        self.payload_len(stripe) + CHECKSUM_BYTES
    }

    /// Where block `stripe` begins within its shard.
    #[must_use]
    pub const fn block_offset(&self, stripe: u64) -> u64 {
        stripe * self.block_bytes as u64
    }

    /// Bytes of one whole shard on the media, checksums included.
    #[must_use]
    pub const fn shard_len(&self) -> u64 {
        match self.stripe_count() {
            0 => 0,
            count => self.block_offset(count - 1) + self.block_len(count - 1) as u64,
        }
    }

    /// Appends: data shards u8, total shards u8, block bytes varint, size varint.
    pub fn encode(&self, out: &mut Writer) {
        out.u8(self.data_shards);
        out.u8(self.total_shards);
        out.varint(self.block_bytes.into());
        out.varint(self.size);
    }

    /// The inverse of [`Self::encode`].
    ///
    /// # Errors
    /// [`CodecError`] when the bytes are not a shape that [`Self::new`] could have made.
    pub fn decode(input: &mut Reader<'_>) -> Result<Self, CodecError> {
        let shape = Self {
            data_shards: input.u8()?,
            total_shards: input.u8()?,
            block_bytes: input.narrow()?,
            size: input.varint()?,
        };
        let within = shape.data_shards >= 1
            && shape.data_shards <= shape.total_shards
            && shape.total_shards <= 16
            && shape.block_bytes > CHECKSUM_BYTES
            && shape.block_bytes <= limits::BLOCK_BYTES_MAX
            && shape.size <= limits::OBJECT_BYTES_MAX;
        let empty = shape.data_shards == 0 && shape.size == 0;
        if within || empty { Ok(shape) } else { Err(CodecError::Unknown("geometry")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_cover_the_body_exactly() {
        for k in [1_u8, 2, 5, 12] {
            for size in [1_u64, 15, 10_240, 1 << 20, 8 << 20, (64 << 20) + 7] {
                let shape = Geometry::new(k, 16, size);
                let covered: u64 = (0..shape.stripe_count()).map(|s| shape.stripe_len(s)).sum();
                assert_eq!(covered, size);
                let last = shape.stripe_count() - 1;
                assert!(
                    u64::from(shape.payload_len(last)) * u64::from(k) >= shape.stripe_len(last)
                );
                assert!(shape.block_len(last) <= shape.block_bytes);
                let mut out = Writer::new();
                shape.encode(&mut out);
                assert_eq!(Geometry::decode(&mut Reader::new(&out.into_bytes())), Ok(shape));
            }
        }
        assert_eq!(Geometry::new(3, 4, 0).shard_len(), 0);
    }
}
