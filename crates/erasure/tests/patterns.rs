//! Any `k` of `n` sealed blocks restore a stripe, whatever happened to the others.

use bytes::Bytes;
use holdfast_erasure::{
    BlockError, ErasureError, Salt, StripeCutter, decode_stripe, encode_body, encode_pieces,
    encode_stripe, open_block, restore_payload, seal_owned,
};
use holdfast_types::{DriveId, Geometry, OperationId, ShardIndex};
use proptest::prelude::*;

fn salts(n: u8) -> Vec<Salt> {
    let salt = |i: u8| Salt {
        operation: OperationId(0xbeef),
        drive: DriveId(1000 + u128::from(i)),
        shard: ShardIndex(i),
    };
    (0..n).map(salt).collect()
}

fn body(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i.wrapping_mul(31) ^ (i >> 8)) as u8).collect()
}

/// Opens the blocks of one stripe, rotten ones as lost.
fn open_all(salts: &[Salt], stripe: u64, blocks: &[Bytes]) -> Vec<Option<Bytes>> {
    let open = |(salt, block): (&Salt, &Bytes)| {
        let payload: Result<&[u8], BlockError> = open_block(salt, stripe, block);
        payload.ok().map(|payload| block.slice_ref(payload))
    };
    salts.iter().zip(blocks).map(open).collect()
}

fn joined(pieces: &[Bytes]) -> Vec<u8> {
    pieces.concat()
}

/// Goal: INV-CODE-1 for every code there is. Method: for all 136 pairs k <= n <= 16 and every pattern
/// of up to n - k damaged shards (a million patterns) decode a small stripe whose length leaves
/// padding; damaged shards are lost or rotten in turn. The first lost shard is restored, too.
#[test]
fn every_pattern_of_lost_and_rotten_shards_is_restored() {
    for n in 1..=16_u8 {
        for k in 1..=n {
            let size = 2 * u64::from(k) + 1;
            let geometry = Geometry::new(k, n, size);
            let (body, salts) = (body(size as usize), salts(n));
            let blocks = encode_stripe(&geometry, 0, &body, &salts);
            let whole = open_all(&salts, 0, &blocks);
            assert!(whole.iter().all(Option::is_some));
            let rotten = rot(&blocks);
            let seen_rot = open_all(&salts, 0, &rotten);
            assert!(seen_rot.iter().all(Option::is_none), "rot of every block is detected");
            for damage in 0..1_u32 << n {
                if damage.count_ones() <= u32::from(n - k) {
                    check_pattern(&geometry, &body, &whole, damage);
                }
            }
        }
    }
}

/// The same blocks, each with another byte flipped.
fn rot(blocks: &[Bytes]) -> Vec<Bytes> {
    let flip = |(i, block): (usize, &Bytes)| {
        let mut bytes = block.to_vec();
        let at = i * 5 % bytes.len();
        bytes[at] ^= 1 << (i % 8);
        Bytes::from(bytes)
    };
    blocks.iter().enumerate().map(flip).collect()
}

fn check_pattern(geometry: &Geometry, body: &[u8], whole: &[Option<Bytes>], damage: u32) {
    let mut payloads = whole.to_vec();
    for (shard, payload) in payloads.iter_mut().enumerate() {
        if damage >> shard & 1 == 1 {
            *payload = None;
        }
    }
    let pieces = decode_stripe(geometry, 0, &payloads).expect("k payloads are left");
    assert!(joined(&pieces) == body, "{geometry:?} damage {damage:b}");
    if damage != 0 {
        let lost = damage.trailing_zeros() as u8;
        let wanted = ShardIndex(lost);
        let restored = restore_payload(geometry, 0, &payloads, wanted).expect("as above");
        let expected = whole[wanted.get()].as_deref();
        assert_eq!(Some(&restored[..]), expected, "{geometry:?} damage {damage:b}");
    }
}

/// Goal: one loss more than the code bears is an error, never wrong bytes. Method: for every code
/// lose n - k + 1 shards.
#[test]
fn one_loss_too_many_is_an_error() {
    for n in 1..=16_u8 {
        for k in 1..=n {
            let geometry = Geometry::new(k, n, 1000);
            let blocks = encode_stripe(&geometry, 0, &body(1000), &salts(n));
            let mut payloads = open_all(&salts(n), 0, &blocks);
            payloads[..usize::from(n - k) + 1].fill(None);
            let expected = ErasureError::TooFewShards { stripe: 0, need: k, have: k - 1 };
            assert_eq!(decode_stripe(&geometry, 0, &payloads), Err(expected.clone()));
            let restored = restore_payload(&geometry, 0, &payloads, ShardIndex(0));
            assert_eq!(restored, Err(expected));
        }
    }
}

/// Goal: payloads that are not the geometry's are refused, not misread. Method: wrong counts, wrong
/// lengths, stripes and shards beyond the end, an empty geometry.
#[test]
fn payloads_of_another_shape_are_refused() {
    let geometry = Geometry::new(2, 3, 10);
    let good = vec![Some(Bytes::from_static(b"12345")); 3];
    assert!(decode_stripe(&geometry, 0, &good).is_ok());
    let outside = Err(ErasureError::OutOfRange { stripe: 0 });
    assert_eq!(decode_stripe(&geometry, 0, &good[..2]), outside);
    assert_eq!(decode_stripe(&Geometry::EMPTY, 0, &[]), outside);
    assert_eq!(decode_stripe(&geometry, 1, &good), Err(ErasureError::OutOfRange { stripe: 1 }));
    assert!(restore_payload(&geometry, 0, &good, ShardIndex(3)).is_err());
    let mut long = good;
    long[1] = Some(Bytes::from_static(b"123456"));
    let shard = ShardIndex(1);
    let expected = ErasureError::WrongLength { stripe: 0, shard, need: 5, have: 6 };
    assert_eq!(decode_stripe(&geometry, 0, &long), Err(expected));
}

/// Goal: with the data shards there nothing is copied. Method: compare addresses.
#[test]
fn decoding_whole_data_is_zero_copy() {
    let geometry = Geometry::new(4, 6, 100_000);
    let blocks = encode_stripe(&geometry, 0, &body(100_000), &salts(6));
    let payloads = open_all(&salts(6), 0, &blocks);
    let pieces = decode_stripe(&geometry, 0, &payloads).expect("all are there");
    for (piece, block) in pieces.iter().zip(&blocks) {
        assert_eq!(piece.as_ptr(), block.as_ptr());
    }
}

/// Goal: bodies of any length around the edges of blocks and stripes come back. Method: with a small
/// block size, every size of 1 to 3 stripes and a bit; whole encoding and stripe by stripe agree, a
/// shard's blocks lie where the geometry says, and the stripes decode with all parity in use.
#[test]
fn sizes_around_the_edges_come_back() {
    for (k, n) in [(1, 1), (1, 3), (2, 2), (3, 5), (4, 8)] {
        let shape = |size| Geometry { data_shards: k, total_shards: n, block_bytes: 32, size };
        let salts = salts(n);
        for size in 0..=3 * shape(1).stripe_bytes() + 2 {
            let geometry = shape(size);
            let body = body(size as usize);
            let shards = encode_body(&geometry, &body, &salts);
            assert!(shards.iter().all(|shard| shard.len() as u64 == geometry.shard_len()));
            let mut decoded = Vec::new();
            for stripe in 0..geometry.stripe_count() {
                let at = geometry.block_offset(stripe) as usize;
                let range = at..at + geometry.block_len(stripe) as usize;
                let blocks: Vec<Bytes> = shards.iter().map(|s| s.slice(range.clone())).collect();
                let start = (stripe * geometry.stripe_bytes()) as usize;
                let part = &body[start..start + geometry.stripe_len(stripe) as usize];
                assert_eq!(encode_stripe(&geometry, stripe, part, &salts), blocks);
                let mut payloads = open_all(&salts, stripe, &blocks);
                payloads[..usize::from(n - k)].fill(None);
                let pieces = decode_stripe(&geometry, stripe, &payloads).expect("k are left");
                decoded.extend_from_slice(&joined(&pieces));
            }
            assert!(decoded == body, "{geometry:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Goal: the whole way of a streamed body. Method: random code, size and chunking; cut, encode,
    /// lose or rot random shards of each stripe within the code's means, restore and seal one of
    /// them, decode.
    #[test]
    fn a_streamed_body_survives(
        n in 1..=16_u8,
        k_seed in any::<u8>(),
        size in 1..300_000_usize,
        chunk in 1..100_000_usize,
        damage_seed in any::<u64>(),
    ) {
        let k = 1 + k_seed % n;
        let open = Geometry { data_shards: k, total_shards: n, block_bytes: 20_000, size: 0 };
        let (body, salts) = (body(size), salts(n));
        let mut cutter = StripeCutter::new(&open);
        let mut stripes = Vec::new();
        for part in body.chunks(chunk.max(size / 1000)) {
            cutter.push(Bytes::copy_from_slice(part));
            stripes.extend(std::iter::from_fn(|| cutter.next_stripe()));
        }
        stripes.extend(cutter.finish());
        let geometry = Geometry { size: size as u64, ..open };
        let mut decoded = Vec::new();
        for (stripe, content) in (0_u64..).zip(&stripes) {
            let mut blocks = encode_pieces(&geometry, stripe, content, &salts);
            let first_lost = damage(&mut blocks, damage_seed ^ stripe, n - k);
            let payloads = open_all(&salts, stripe, &blocks);
            prop_assert_eq!(payloads.iter().flatten().count(), usize::from(k));
            if let Some(lost) = first_lost {
                let payload =
                    restore_payload(&geometry, stripe, &payloads, ShardIndex(lost as u8)).unwrap();
                let again = encode_pieces(&geometry, stripe, content, &salts);
                prop_assert_eq!(seal_owned(&salts[lost], stripe, payload), again[lost].clone());
            }
            for piece in decode_stripe(&geometry, stripe, &payloads).unwrap() {
                decoded.extend_from_slice(&piece);
            }
        }
        prop_assert!(decoded == body);
    }
}

/// Empties or rots `count` distinct blocks, and names one of them.
fn damage(blocks: &mut [Bytes], seed: u64, count: u8) -> Option<usize> {
    let n = blocks.len();
    let start = (seed % n as u64) as usize;
    // Steps coprime to n visit every shard once.
    let step = (1..=n).filter(|step| gcd(*step, n) == 1).nth((seed >> 8) as usize % 2).unwrap_or(1);
    let chosen: Vec<usize> = (0..usize::from(count)).map(|i| (start + i * step) % n).collect();
    for (i, shard) in chosen.iter().enumerate() {
        let mut bytes = blocks[*shard].to_vec();
        if i % 2 == 0 {
            bytes.clear();
        } else {
            let at = (seed >> 16) as usize % bytes.len();
            bytes[at] ^= 0x10;
        }
        blocks[*shard] = bytes.into();
    }
    chosen.first().copied()
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}
