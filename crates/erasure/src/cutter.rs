//! Cutting a stream of chunks, whose total length nobody knows yet, into stripes.

use bytes::{Bytes, BytesMut};
use holdfast_types::Geometry;

/// Chunks below this size are copied together: a piece costs 32 bytes and may keep a whole receive
/// buffer alive, so many tiny ones would cost more memory than the copy costs time.
const SMALL_CHUNK_BYTES: usize = 4 << 10;

/// The body bytes of one stripe, in pieces as they came.
#[derive(Debug, Clone, Default)]
pub struct StripeBody {
    pieces: Vec<Bytes>,
    len: usize,
}

impl StripeBody {
    /// Bytes of the stripe.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The pieces, none of them empty.
    #[must_use]
    pub fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }

    fn push(&mut self, piece: Bytes) {
        self.len += piece.len();
        self.pieces.push(piece);
    }
}

/// Takes chunks in, gives full stripes out, and at the end the short rest. Copies only tiny chunks.
///
/// ```text
/// loop { push(chunk); while let Some(stripe) = next_stripe() { encode, send } }
/// if let Some(stripe) = finish() { encode, send }
/// ```
///
/// Holds what was pushed and not yet taken: take full stripes before the next push, and that is less
/// than one stripe and one chunk.
#[derive(Debug)]
pub struct StripeCutter {
    stripe_bytes: usize,
    full: std::collections::VecDeque<StripeBody>,
    open: StripeBody,
    /// Tiny chunks behind the open stripe's pieces, not yet a piece.
    tiny: BytesMut,
    total: u64,
}

impl StripeCutter {
    /// A cutter for the code and block size of `geometry`, whose `size` does not count.
    #[must_use]
    pub fn new(geometry: &Geometry) -> Self {
        let stripe_bytes = geometry.stripe_bytes() as usize;
        assert!(stripe_bytes > 0, "a geometry with data has stripes");
        Self {
            stripe_bytes,
            full: std::collections::VecDeque::new(),
            open: StripeBody::default(),
            tiny: BytesMut::new(),
            total: 0,
        }
    }

    /// Bytes pushed so far: the body's size, at the end.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// Adds the next bytes of the body.
    pub fn push(&mut self, mut chunk: Bytes) {
        self.total += chunk.len() as u64;
        while !chunk.is_empty() {
            let room = self.stripe_bytes - self.open.len - self.tiny.len();
            let part = chunk.split_to(room.min(chunk.len()));
            let fills = part.len() == room;
            if part.len() < SMALL_CHUNK_BYTES {
                self.tiny.extend_from_slice(&part);
            } else {
                self.close_tiny();
                self.open.push(part);
            }
            if fills {
                self.close_tiny();
                self.full.push_back(std::mem::take(&mut self.open));
            }
        }
    }

    /// The next full stripe, if there is one.
    pub fn next_stripe(&mut self) -> Option<StripeBody> {
        self.full.pop_front()
    }

    /// The rest of the body behind its full stripes; `None` when nothing is left.
    ///
    /// # Panics
    /// When full stripes have not been taken.
    #[must_use]
    pub fn finish(mut self) -> Option<StripeBody> {
        assert!(self.full.is_empty(), "full stripes are taken before the rest");
        self.close_tiny();
        (!self.open.is_empty()).then_some(self.open)
    }

    fn close_tiny(&mut self) {
        if !self.tiny.is_empty() {
            self.open.push(self.tiny.split().freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: stripes are full but the last, and together they are the body. Method: one body cut with
    /// chunk sizes from one byte to several stripes, at sizes around the edges of a stripe.
    #[test]
    fn stripes_are_full_and_in_order() {
        let geometry = Geometry { data_shards: 3, total_shards: 4, block_bytes: 8208, size: 0 };
        let stripe = geometry.stripe_bytes() as usize;
        for size in [0, 1, stripe - 1, stripe, stripe + 1, 3 * stripe, 3 * stripe + 5000] {
            let body: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
            for chunk in [1, 7, 4095, 4096, 10_000, stripe, 2 * stripe + 1] {
                let mut cutter = StripeCutter::new(&geometry);
                let mut stripes = Vec::new();
                for part in body.chunks(chunk) {
                    cutter.push(Bytes::copy_from_slice(part));
                    stripes.extend(std::iter::from_fn(|| cutter.next_stripe()));
                }
                assert!(stripes.iter().all(|full| full.len() == stripe));
                assert_eq!(cutter.total(), size as u64);
                stripes.extend(cutter.finish());
                assert_eq!(stripes.len(), size.div_ceil(stripe));
                let joined: Vec<u8> =
                    stripes.iter().flat_map(StripeBody::pieces).flatten().copied().collect();
                assert!(joined == body, "size {size} chunk {chunk}");
            }
        }
    }

    /// Goal: large chunks are not copied, tiny ones do not pile up as pieces. Method: compare
    /// addresses, count pieces.
    #[test]
    fn large_chunks_are_shared_and_tiny_ones_joined() {
        let geometry = Geometry { data_shards: 1, total_shards: 1, block_bytes: 65_552, size: 0 };
        let mut cutter = StripeCutter::new(&geometry);
        let large = Bytes::from(vec![1; 10_000]);
        cutter.push(large.clone());
        for _ in 0..1000 {
            cutter.push(Bytes::from_static(b"x"));
        }
        let rest = cutter.finish().expect("bytes are left");
        assert_eq!(rest.pieces().len(), 2);
        assert_eq!(rest.pieces()[0].as_ptr(), large.as_ptr());
    }
}
