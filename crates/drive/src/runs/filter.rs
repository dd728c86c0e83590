//! A blocked Bloom filter over what keys begin with: a look-up of a key that a run does not hold
//! costs one cache line instead of a block.
//!
//! Register keys are filtered without their version (the last 16 bytes), for drives look up all the
//! versions of a key at once; everything else is filtered whole.

use bytes::Bytes;
use holdfast_types::Keyspace;
use xxhash_rust::xxh3::xxh3_64;

/// Bits a key: about 1 % of absent keys pass.
const BITS_PER_KEY: u64 = 12;

/// Bytes of a line; all bits of a key lie in one.
const LINE_BYTES: u64 = 64;

/// Bits set a key: 9 bits of a 64-bit hash choose each.
const PROBES: u32 = 6;

/// Bytes of a version at the end of a register key.
const VERSION_BYTES: usize = 16;

/// Keyspace, bucket and the terminator of an empty name: no register key is shorter without its
/// version.
const REGISTER_PREFIX_BYTES_MIN: usize = 1 + 16 + 2;

/// The part of a key that is filtered.
#[must_use]
pub fn filtered_part(key: &[u8]) -> &[u8] {
    let is_register = key.first().is_some_and(|byte| Keyspace::try_from(*byte).is_ok());
    match key.len().checked_sub(VERSION_BYTES) {
        Some(at) if is_register && at >= REGISTER_PREFIX_BYTES_MIN => &key[..at],
        _ => key,
    }
}

/// The filter of a run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Filter {
    lines: Bytes,
}

/// A filter that is being filled.
#[derive(Debug)]
pub struct FilterBuilder {
    lines: Vec<u8>,
}

impl FilterBuilder {
    /// A filter for at most `keys` keys (more only make it less exact).
    #[must_use]
    pub fn for_keys(keys: u64) -> Self {
        let lines = (keys * BITS_PER_KEY).div_ceil(LINE_BYTES * 8).max(1);
        Self {
            lines: vec![0; usize::try_from(lines * LINE_BYTES).expect("fits the address space")],
        }
    }

    /// Adds a key by its [`filtered_part`].
    pub fn add(&mut self, key: &[u8]) {
        let hash = xxh3_64(filtered_part(key));
        let line = line_of(hash, self.lines.len());
        for bit in bits_of(hash) {
            self.lines[line + bit / 8] |= 1 << (bit % 8);
        }
    }

    /// Its bytes.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.lines
    }
}

impl Filter {
    /// A filter from its bytes; `None` when they are no whole lines.
    #[must_use]
    pub fn from_bytes(lines: Bytes) -> Option<Self> {
        let whole = !lines.is_empty() && (lines.len() as u64).is_multiple_of(LINE_BYTES);
        whole.then_some(Self { lines })
    }

    /// Whether a key whose [`filtered_part`] is `part` may be there.
    #[must_use]
    pub fn may_hold(&self, part: &[u8]) -> bool {
        let hash = xxh3_64(part);
        let line = line_of(hash, self.lines.len());
        bits_of(hash).all(|bit| self.lines[line + bit / 8] & (1 << (bit % 8)) != 0)
    }

    /// Bytes in memory.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.lines.len()
    }
}

/// Where the line of a hash begins: chosen by the upper half.
fn line_of(hash: u64, bytes: usize) -> usize {
    let lines = bytes as u64 / LINE_BYTES;
    ((((hash >> 32) * lines) >> 32) * LINE_BYTES) as usize
}

/// The bits within the line: chosen by the lower half, spread to 64 bits.
fn bits_of(hash: u64) -> impl Iterator<Item = usize> {
    let spread = (hash & 0xffff_ffff).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (0..PROBES).map(move |probe| ((spread >> (64 - 9 * (probe + 1))) & 511) as usize)
}

#[cfg(test)]
mod tests {
    use holdfast_types::{BucketId, RegisterKey, VersionId};

    use super::*;

    /// Goal: what was added always passes, what was not seldom does. Method: 10,000 of each.
    #[test]
    fn held_keys_pass_and_few_others_do() {
        let key = |n: u32| RegisterKey::object(BucketId(1), n.to_be_bytes().to_vec());
        let mut builder = FilterBuilder::for_keys(10_000);
        for n in 0..10_000 {
            builder.add(&key(n).encode_register(VersionId(n.into())));
        }
        let filter = Filter::from_bytes(builder.into_bytes().into()).unwrap();
        assert!((0..10_000).all(|n| filter.may_hold(&key(n).encode())));
        let wrong = (10_000..20_000).filter(|n| filter.may_hold(&key(*n).encode())).count();
        assert!(wrong < 300, "{wrong} of 10,000 absent keys pass");
    }

    /// Goal: only register keys lose their last bytes. Method: one of each kind.
    #[test]
    fn other_keys_are_filtered_whole() {
        let key = RegisterKey::object(BucketId(1), &b""[..]);
        assert_eq!(filtered_part(&key.encode_register(VersionId(7))), key.encode());
        assert_eq!(
            filtered_part(b"\x80something that is long enough to have a version"),
            b"\x80something that is long enough to have a version"
        );
        assert_eq!(filtered_part(b"\x01short"), b"\x01short");
    }
}
