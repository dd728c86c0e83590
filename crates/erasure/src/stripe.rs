//! Stripes: body bytes to sealed blocks, and verified payloads back to body bytes.
//!
//! Of a stripe of `len` bytes, data shard `i` holds bytes `i * p .. (i + 1) * p` where
//! `p = ceil(len / k)`; what lies past the end is zero. Encoding copies each body byte once, into its
//! block, and computes parity in place; decoding copies nothing as long as the data shards are there.

use bytes::Bytes;
use holdfast_types::{Geometry, ShardIndex};

use crate::{
    block::{CHECKSUM_LEN, Salt},
    codec::{Codec, SHARDS_MAX},
    cutter::StripeBody,
    error::ErasureError,
};

/// Blocks (payload and checksum) of one stripe for all n shards, in shard order.
///
/// Of `geometry` only the code and the block size count, so that a body of unknown length can be
/// encoded as it comes: the stripe is as long as `body`.
///
/// # Panics
/// When `body` is empty or longer than a stripe, or there are not n salts.
#[must_use]
pub fn encode_stripe(geometry: &Geometry, stripe: u64, body: &[u8], salts: &[Salt]) -> Vec<Bytes> {
    let mut shards = buffers(geometry, block_len(geometry, body.len()));
    append_stripe(geometry, stripe, &mut Slices::one(body), salts, &mut shards);
    shards.into_iter().map(Bytes::from).collect()
}

/// As [`encode_stripe`], from the pieces that [`crate::StripeCutter`] collected.
#[must_use]
pub fn encode_pieces(
    geometry: &Geometry,
    stripe: u64,
    body: &StripeBody,
    salts: &[Salt],
) -> Vec<Bytes> {
    let mut shards = buffers(geometry, block_len(geometry, body.len()));
    append_stripe(geometry, stripe, &mut Slices::of(body.pieces()), salts, &mut shards);
    shards.into_iter().map(Bytes::from).collect()
}

/// All stripes of a whole small body: one buffer a shard, its blocks one after the other. Shards of
/// an empty body are empty.
///
/// # Panics
/// When `body` is not as long as the geometry says, or there are not n salts.
#[must_use]
pub fn encode_body(geometry: &Geometry, body: &[u8], salts: &[Salt]) -> Vec<Bytes> {
    assert_eq!(body.len() as u64, geometry.size, "the body is the geometry's");
    let mut shards = buffers(geometry, geometry.shard_len() as usize);
    let stripe_bytes = geometry.stripe_bytes() as usize;
    for (stripe, part) in (0_u64..).zip(body.chunks(stripe_bytes)) {
        append_stripe(geometry, stripe, &mut Slices::one(part), salts, &mut shards);
    }
    debug_assert!(shards.iter().all(|shard| shard.len() as u64 == geometry.shard_len()));
    shards.into_iter().map(Bytes::from).collect()
}

/// Body bytes of one stripe from verified payloads, as pieces in order. Index = shard; at least k are
/// there. Pieces are slices of the data shards' payloads, lost ones restored.
///
/// # Errors
/// [`ErasureError`] when too few payloads are there or one has not the geometry's length.
pub fn decode_stripe(
    geometry: &Geometry,
    stripe: u64,
    payloads: &[Option<Bytes>],
) -> Result<Vec<Bytes>, ErasureError> {
    let len = check(geometry, stripe, payloads)?;
    let mut rest = geometry.stripe_len(stripe) as usize;
    let mut pieces = Vec::with_capacity(usize::from(geometry.data_shards));
    for (shard, payload) in payloads.iter().enumerate().take(geometry.data_shards.into()) {
        // Data shards wholly past the end of the body are padding: not needed, so not restored.
        if rest == 0 {
            break;
        }
        let mut piece = match payload {
            Some(payload) => payload.clone(),
            None => restore(geometry, payloads, shard, len).into(),
        };
        piece.truncate(rest);
        rest -= piece.len();
        pieces.push(piece);
    }
    assert_eq!(rest, 0, "k payloads cover a stripe");
    Ok(pieces)
}

/// The payload of one missing shard of one stripe, with room for its checksum behind it. A payload
/// that is there is copied.
///
/// # Errors
/// [`ErasureError`] when too few payloads are there or one has not the geometry's length.
pub fn restore_payload(
    geometry: &Geometry,
    stripe: u64,
    payloads: &[Option<Bytes>],
    wanted: ShardIndex,
) -> Result<Vec<u8>, ErasureError> {
    if wanted.0 >= geometry.total_shards {
        return Err(ErasureError::OutOfRange { stripe });
    }
    let len = check(geometry, stripe, payloads)?;
    Ok(restore(geometry, payloads, wanted.get(), len))
}

/// Length of a block of a stripe of `body_len` bytes.
fn block_len(geometry: &Geometry, body_len: usize) -> usize {
    body_len.div_ceil(geometry.data_shards.into()) + CHECKSUM_LEN
}

/// One empty buffer a shard, with room for `capacity` bytes.
fn buffers(geometry: &Geometry, capacity: usize) -> Vec<Vec<u8>> {
    (0..geometry.total_shards).map(|_| Vec::with_capacity(capacity)).collect()
}

/// Appends the blocks of one stripe to its shards' buffers.
fn append_stripe(
    geometry: &Geometry,
    stripe: u64,
    body: &mut Slices<'_>,
    salts: &[Salt],
    shards: &mut [Vec<u8>],
) {
    let (k, n) = (usize::from(geometry.data_shards), usize::from(geometry.total_shards));
    assert!(salts.len() == n && shards.len() == n, "one salt and one buffer a shard");
    assert!(body.left >= 1 && body.left as u64 <= geometry.stripe_bytes(), "1 stripe at most");
    let start = shards[0].len();
    let len = body.left.div_ceil(k);
    let (data, parity) = shards.split_at_mut(k);
    for shard in data.iter_mut() {
        body.take(len, shard);
        shard.resize(start + len, 0);
    }
    append_parity(Codec::of(geometry.data_shards, geometry.total_shards), data, parity, start);
    for (salt, shard) in salts.iter().zip(shards) {
        let checksum = salt.checksum(stripe, &shard[start..]);
        shard.extend_from_slice(&checksum);
    }
}

/// Appends the parity of what the data shards hold from `start` on.
fn append_parity(codec: &Codec, data: &[Vec<u8>], parity: &mut [Vec<u8>], start: usize) {
    let end = data[0].len();
    let mut input: [&[u8]; SHARDS_MAX] = [&[]; SHARDS_MAX];
    for (slot, shard) in input.iter_mut().zip(data) {
        *slot = &shard[start..];
    }
    let count = parity.len();
    let mut output: [&mut [u8]; SHARDS_MAX] = std::array::from_fn(|_| &mut [][..]);
    for (slot, shard) in output.iter_mut().zip(parity) {
        shard.resize(end, 0);
        *slot = &mut shard[start..];
    }
    codec.encode(&input[..data.len()], &mut output[..count]);
}

/// Checks that `payloads` can restore the stripe, and gives the length of each.
fn check(
    geometry: &Geometry,
    stripe: u64,
    payloads: &[Option<Bytes>],
) -> Result<usize, ErasureError> {
    let inside = geometry.has_data() && stripe < geometry.stripe_count();
    if !inside || payloads.len() != usize::from(geometry.total_shards) {
        return Err(ErasureError::OutOfRange { stripe });
    }
    let need = geometry.payload_len(stripe);
    let mut have = 0;
    for (shard, payload) in (0_u8..).zip(payloads) {
        let Some(payload) = payload else { continue };
        if payload.len() != need as usize {
            let (shard, have) = (ShardIndex(shard), payload.len());
            return Err(ErasureError::WrongLength { stripe, shard, need, have });
        }
        have += 1;
    }
    if have < geometry.data_shards {
        return Err(ErasureError::TooFewShards { stripe, need: geometry.data_shards, have });
    }
    Ok(need as usize)
}

/// The payload of shard `wanted`, from the first k payloads that are there: `check` has seen them.
fn restore(geometry: &Geometry, payloads: &[Option<Bytes>], wanted: usize, len: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(len + CHECKSUM_LEN);
    if let Some(payload) = &payloads[wanted] {
        out.extend_from_slice(payload);
        return out;
    }
    let mut present: [(usize, &[u8]); SHARDS_MAX] = [(0, &[]); SHARDS_MAX];
    let there = payloads.iter().enumerate().filter_map(|(i, p)| Some((i, p.as_deref()?)));
    for (slot, payload) in present.iter_mut().zip(there) {
        *slot = payload;
    }
    let codec = Codec::of(geometry.data_shards, geometry.total_shards);
    codec.restore(&present[..geometry.data_shards.into()], wanted, &mut out);
    out
}

/// A cursor over the pieces of one stripe's body.
struct Slices<'a> {
    head: &'a [u8],
    tail: std::slice::Iter<'a, Bytes>,
    left: usize,
}

impl<'a> Slices<'a> {
    fn one(body: &'a [u8]) -> Self {
        Self { head: body, tail: [].iter(), left: body.len() }
    }

    fn of(pieces: &'a [Bytes]) -> Self {
        let left = pieces.iter().map(Bytes::len).sum();
        Self { head: &[], tail: pieces.iter(), left }
    }

    /// Moves the next `len` bytes, or what is left, to the end of `out`.
    fn take(&mut self, len: usize, out: &mut Vec<u8>) {
        let mut want = len.min(self.left);
        self.left -= want;
        while want > 0 {
            if self.head.is_empty() {
                self.head = self.tail.next().expect("`left` counts all the pieces' bytes");
            }
            let (now, later) = self.head.split_at(want.min(self.head.len()));
            out.extend_from_slice(now);
            want -= now.len();
            self.head = later;
        }
    }
}
