//! The arithmetic that places a key: integers only, for its results are part of the on-disk format
//! (INV-PLACE-1) and logarithms of floating point differ between machines.
//!
//! ```text
//! base  = XXH3-128(bucket id 16 | placing name), seed = XXH3-64("holdfast placement" | cluster id)
//! draw  = XXH3-64(base 16 | purpose u8 | index u16)             one 64-bit draw a purpose and index
//! pool  = the one of least -log2((draw + 1) / 2^64) / weight    weighted rendezvous
//! set   = draw * sets / 2^64                                    within the pool
//! order = Fisher-Yates over the set's slots, SplitMix64 from draw
//! ```
//!
//! Numbers within the hashed bytes are big-endian.

use holdfast_types::{BucketId, ClusterId};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128_with_seed};

/// What a draw is for: draws of different purposes are independent.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Purpose {
    Pool = 1,
    Set = 2,
    Order = 3,
}

/// The hash of one key, from which all draws come.
pub(crate) struct KeyHash(u128);

impl KeyHash {
    pub(crate) fn new(cluster: ClusterId, bucket: BucketId, name: &[u8]) -> Self {
        const TAG: &[u8; 18] = b"holdfast placement";
        let mut tagged = [0; 34];
        tagged[..18].copy_from_slice(TAG);
        tagged[18..].copy_from_slice(&cluster.to_bytes());
        Self(xxh3_128_with_seed(&[&bucket.to_bytes(), name].concat(), xxh3_64(&tagged)))
    }

    fn draw(&self, purpose: Purpose, index: u16) -> u64 {
        let mut bytes = [0; 19];
        bytes[..16].copy_from_slice(&self.0.to_be_bytes());
        bytes[16] = purpose as u8;
        bytes[17..].copy_from_slice(&index.to_be_bytes());
        xxh3_64(&bytes)
    }

    /// The pool of a key: each pool's chance is its weight's share, and a pool's score depends on
    /// nothing but the key, its own index and its own weight (INV-PLACE-2). Pools of weight 0 get no
    /// keys; `None` when there are no others.
    pub(crate) fn pool(&self, weights: impl Iterator<Item = u64>) -> Option<usize> {
        let mut best: Option<(usize, u64, u64)> = None;
        for (index, weight) in (0_u16..).zip(weights).filter(|(_, weight)| *weight > 0) {
            let cost = negative_log2(self.draw(Purpose::Pool, index));
            // cost / weight < best cost / best weight, without dividing; ties stay with the first.
            let better = best.is_none_or(|(_, best_cost, best_weight)| {
                u128::from(cost) * u128::from(best_weight)
                    < u128::from(best_cost) * u128::from(weight)
            });
            if better {
                best = Some((usize::from(index), cost, weight));
            }
        }
        best.map(|(index, ..)| index)
    }

    /// The set of a key among the `count` sets of pool `pool`.
    pub(crate) fn set(&self, pool: u16, count: usize) -> usize {
        scale(self.draw(Purpose::Set, pool), count)
    }

    /// The order of a set's `count` slots for a key.
    pub(crate) fn order(&self, count: usize) -> Vec<usize> {
        let mut state = self.draw(Purpose::Order, 0);
        let mut order: Vec<usize> = (0..count).collect();
        for last in (1..count).rev() {
            order.swap(last, scale(split_mix(&mut state), last + 1));
        }
        order
    }
}

/// Maps a draw to `0..count` evenly.
fn scale(draw: u64, count: usize) -> usize {
    ((u128::from(draw) * count as u128) >> 64) as usize
}

/// The next draw of `SplitMix64`.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// `-log2((draw + 1) / 2^64)` in units of 2^-32, rounded up to a unit: 0 to 64, never more.
fn negative_log2(draw: u64) -> u64 {
    const FRACTION_BITS: u32 = 32;
    let value = u128::from(draw) + 1;
    let whole = value.ilog2();
    // The value scaled to [1, 2) with 63 bits behind the point; squaring it doubles its logarithm,
    // and each time it reaches 2 the next bit of the logarithm is one.
    let mut scaled = (value << (127 - whole)) >> 64;
    let mut log = u64::from(whole);
    for _ in 0..FRACTION_BITS {
        scaled = (scaled * scaled) >> 63;
        let bit = scaled >> 64;
        scaled >>= bit;
        log = log << 1 | bit as u64;
    }
    (64 << FRACTION_BITS) - log
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the integer logarithm is one. Method: compare with the floating-point one over the whole
    /// range of draws, and at the edges exactly.
    #[test]
    fn the_logarithm_is_right() {
        assert_eq!(negative_log2(u64::MAX), 0);
        assert_eq!(negative_log2(u64::MAX >> 1), 1 << 32);
        assert_eq!(negative_log2(0), 64 << 32);
        let mut state = 5;
        for i in 0..10_000 {
            let draw = split_mix(&mut state) >> (i % 60);
            let expected = 64.0 - (draw as f64 + 1.0).log2();
            let got = negative_log2(draw) as f64 / f64::from(u32::MAX);
            assert!((got - expected).abs() < 1e-6, "{draw}: {got} {expected}");
        }
    }

    /// Goal: permutations are permutations, and each slot comes first equally often. Method: 16,000
    /// keys, every slot's count within 15 % of the mean (5 sigma of a count of 1,000).
    #[test]
    fn orders_are_uniform_permutations() {
        let mut first = [0_u32; 16];
        let mut last = [0_u32; 16];
        for i in 0..16_000_u32 {
            let order = KeyHash::new(ClusterId(1), BucketId(2), &i.to_be_bytes()).order(16);
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert!(sorted.into_iter().eq(0..16));
            first[order[0]] += 1;
            last[order[15]] += 1;
        }
        let even = |count: &u32| (850..=1150).contains(count);
        assert!(first.iter().all(even) && last.iter().all(even), "{first:?} {last:?}");
        assert_eq!(KeyHash::new(ClusterId(1), BucketId(2), b"x").order(1), [0]);
        // INV-PLACE-1: pinned for ever.
        let pinned = [13, 6, 8, 12, 15, 0, 11, 2, 10, 7, 14, 9, 4, 5, 3, 1];
        assert_eq!(KeyHash::new(ClusterId(1), BucketId(2), b"x").order(16), pinned);
    }
}
