//! The object with a number: its name, its operations, its entry.

use bytes::Bytes;
use holdfast_types::{
    Ballot, BucketEpoch, BucketId, BucketPhase, BucketStamp, Entry, EntryKind, Geometry,
    HybridTime, OperationId, PartRef, RegisterKey, SetEpoch, SetIndex, WriterId,
};
use xxhash_rust::xxh3::xxh3_128_with_seed;

use holdfast_drive::api::Scope;

/// The bucket of them all.
pub const BUCKET: BucketId = BucketId(0xb);

/// Bytes of the engine's record of an object: size, tag, type, times, a checksum.
const METADATA_BYTES: usize = 96;

/// Bits of the number in a name.
const NAME_BITS: u32 = 40;

/// Odd, and near the golden section of 2^40: what comes one after the other lies far apart in key order.
const STRIDE: u64 = 679_590_120_347;

/// Where object `n` lies among the names: a bijection of 40 bits, so that any first `n` objects are spread
/// over all names.
const fn scattered(n: u64) -> u64 {
    n.wrapping_mul(STRIDE) & ((1 << NAME_BITS) - 1)
}

/// What requests carry.
pub fn scope() -> Scope {
    let bucket = BucketStamp { id: BUCKET, epoch: BucketEpoch(1), phase: BucketPhase::Live };
    Scope { bucket, set: SetIndex(0), set_epoch: SetEpoch(0) }
}

/// The name of object `n`.
pub fn key(n: u64) -> RegisterKey {
    RegisterKey::object(BUCKET, name(n, "jpg"))
}

/// A name beside that of object `n` that nothing is stored under.
pub fn absent(n: u64) -> RegisterKey {
    RegisterKey::object(BUCKET, name(n, "png"))
}

fn name(n: u64, kind: &str) -> String {
    let at = scattered(n);
    format!("photos/{:03x}/{:07x}.{kind}", at >> 28, at & 0x0fff_ffff)
}

/// The operation that wrote object `n`.
pub fn operation(n: u64) -> OperationId {
    OperationId(xxh3_128_with_seed(&n.to_be_bytes(), 1))
}

/// The operation whose bytes object `n` has.
pub fn body(n: u64) -> OperationId {
    OperationId(xxh3_128_with_seed(&n.to_be_bytes(), 2))
}

/// A ballot of this time.
pub const fn ballot(time: HybridTime) -> Ballot {
    Ballot { generation: 1, time, writer: WriterId(7) }
}

/// The entry of object `n`: completed from one part, so that a drive keeps what it keeps of any object,
/// a register and the place of its bytes, and no bytes: those of tens of millions of inline shards would
/// keep their log segments.
pub fn entry(n: u64, time: HybridTime) -> Entry {
    let part = PartRef { number: 1, operation: body(n), geometry: Geometry::new(12, 16, 10 << 10) };
    let random = xxh3_128_with_seed(&n.to_be_bytes(), 3).to_be_bytes();
    let metadata: Vec<u8> = random.into_iter().cycle().take(METADATA_BYTES).collect();
    Entry {
        ballot: ballot(time),
        order: ballot(time),
        operation: operation(n),
        kind: EntryKind::Put,
        geometry: Geometry::EMPTY,
        metadata: metadata.into(),
        parts: vec![part],
    }
}

/// The entry that deletes object `n`.
pub fn tombstone(n: u64, time: HybridTime) -> Entry {
    Entry {
        ballot: ballot(time),
        order: ballot(time),
        operation: OperationId(xxh3_128_with_seed(&n.to_be_bytes(), 4)),
        kind: EntryKind::Tombstone,
        geometry: Geometry::EMPTY,
        metadata: Bytes::new(),
        parts: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Goal: every object has a name of its own, and the first objects are spread over all names. Method:
    /// a hundred thousand names, counted by their first three digits.
    #[test]
    fn names_are_distinct_and_spread() {
        let names: BTreeSet<u64> = (0..100_000).map(scattered).collect();
        assert_eq!(names.len(), 100_000);
        let mut of_folder = vec![0_u32; 4096];
        for at in &names {
            of_folder[(at >> 28) as usize] += 1;
        }
        assert!(of_folder.iter().all(|count| (20..=30).contains(count)), "100,000 / 4,096 each");
        assert_ne!(key(7), absent(7));
    }
}
