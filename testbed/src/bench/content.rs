//! What objects hold: windows of one pad of random bytes.
//!
//! The pad comes from the seed, the window's beginning from the key, so that any client can tell the
//! right bytes of any object, sends them without copying, and checks them at the speed of memcmp. The
//! pad's length is prime: no two blocks or stripes of an object hold the same bytes, and swapped or
//! repeated ones are seen.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use rand::{RngCore as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Bytes of the pad: the first prime above 4 MiB.
const PAD_BYTES: usize = (4 << 20) + 15;

/// Bytes handed to a connection at once.
const PIECE_BYTES: usize = 256 << 10;

/// The content of all objects of one seed.
#[derive(Clone)]
pub struct Content {
    pad: Bytes,
    seed: u64,
}

impl Content {
    /// The content that belongs to `seed`.
    pub fn new(seed: u64) -> Arc<Self> {
        let mut pad = vec![0; PAD_BYTES];
        ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut pad);
        Arc::new(Self { pad: pad.into(), seed })
    }

    /// The bytes of object `key`, `size` of them.
    pub fn of(&self, key: &str, size: u64) -> Window {
        let start = xxh3_64_with_seed(key.as_bytes(), self.seed) % PAD_BYTES as u64;
        Window { pad: self.pad.clone(), at: start as usize, left: size }
    }
}

/// Bytes between two places of the pad that [`Pieces`] knows.
const STRIDE: usize = 64;

/// Bytes by which it knows them.
const SAMPLE: usize = 8;

/// Tells whether bytes that were found somewhere are a piece of some object, and which piece of the pad.
pub struct Pieces {
    pad: Bytes,
    places: HashMap<[u8; SAMPLE], usize>,
}

impl Pieces {
    /// Pieces of the objects of `content`.
    pub fn of(content: &Content) -> Self {
        let pad = content.pad.clone();
        let known = (0..pad.len() - SAMPLE).step_by(STRIDE);
        let places = known.map(|at| (sample(&pad[at..]), at)).collect();
        Self { pad, places }
    }

    /// Where in the pad `bytes` are, all of them; `None` when they are not there, or beyond its end.
    pub fn find(&self, bytes: &[u8]) -> Option<usize> {
        let offsets = 0..STRIDE.min(bytes.len().saturating_sub(SAMPLE));
        let begins = offsets
            .filter_map(|offset| self.places.get(&sample(&bytes[offset..]))?.checked_sub(offset));
        begins.into_iter().find(|begin| self.pad.get(*begin..begin + bytes.len()) == Some(bytes))
    }
}

fn sample(bytes: &[u8]) -> [u8; SAMPLE] {
    bytes[..SAMPLE].try_into().expect("whoever samples has as many bytes")
}

/// The rest of one object's bytes.
#[derive(Clone, Debug)]
pub struct Window {
    pad: Bytes,
    at: usize,
    left: u64,
}

impl Window {
    /// Bytes left.
    pub const fn left(&self) -> u64 {
        self.left
    }

    /// The next piece; `None` at the end. Pieces share the pad.
    pub fn next_piece(&mut self) -> Option<Bytes> {
        let len = self.step(PIECE_BYTES)?;
        let piece = self.pad.slice(self.at..self.at + len);
        self.advance(len);
        Some(piece)
    }

    /// Whether `bytes` are the next ones; they are then behind us.
    pub fn matches(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let Some(len) = self.step(bytes.len()) else { return false };
            let (now, later) = bytes.split_at(len);
            if now != &self.pad[self.at..self.at + len] {
                return false;
            }
            self.advance(len);
            bytes = later;
        }
        true
    }

    /// How many of the next `want` bytes lie before the pad's end; `None` when none are left.
    fn step(&self, want: usize) -> Option<usize> {
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        let len = want.min(self.pad.len() - self.at).min(left);
        (len > 0).then_some(len)
    }

    fn advance(&mut self, len: usize) {
        self.left -= len as u64;
        self.at = (self.at + len) % self.pad.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(mut window: Window) -> Vec<u8> {
        let mut out = Vec::new();
        while let Some(piece) = window.next_piece() {
            out.extend_from_slice(&piece);
        }
        out
    }

    /// Goal: an object's bytes are reproducible, of the right length, and its own. Method: compare
    /// two makers of one seed, two keys, two seeds; sizes around the pad's end.
    #[test]
    fn content_belongs_to_key_and_seed() {
        let (one, again, other) = (Content::new(1), Content::new(1), Content::new(2));
        for size in [0, 1, 10_240, PAD_BYTES as u64, 2 * PAD_BYTES as u64 + 3] {
            let bytes = whole(one.of("k", size));
            assert_eq!(bytes.len() as u64, size);
            assert!(bytes == whole(again.of("k", size)));
        }
        let bytes = whole(one.of("k", 1000));
        assert!(bytes != whole(one.of("l", 1000)) && bytes != whole(other.of("k", 1000)));
        assert!(!one.of("l", 1000).matches(&bytes));
    }

    /// Goal: a piece of an object is told from anything else, at any offset. Method: pieces of an object; one
    /// with a byte changed at its end; zeros.
    #[test]
    fn pieces_of_objects_are_found() {
        let content = Content::new(3);
        let pieces = Pieces::of(&content);
        let bytes = whole(content.of("k", 100_000));
        for at in [0, 1, 63, 64, 65, 50_001] {
            let mut piece = bytes[at..at + 4096].to_vec();
            let found = pieces.find(&piece).expect("it is one");
            assert!(content.pad[found..found + 4096] == piece);
            piece[4095] ^= 1;
            assert_eq!(pieces.find(&piece), None);
        }
        assert_eq!(pieces.find(&[0; 4096]), None);
        assert_eq!(pieces.find(&[0; 3]), None);
    }

    /// Goal: every wrong byte, missing byte and byte too many is seen, however the bytes arrive.
    /// Method: chunks of several sizes over an object longer than the pad; then damage.
    #[test]
    fn wrong_bytes_are_seen() {
        let content = Content::new(7);
        let size = PAD_BYTES as u64 + 100_000;
        let mut bytes = whole(content.of("k", size));
        for chunk in [1000, 16_384, 5_000_000] {
            let mut window = content.of("k", size);
            assert!(bytes.chunks(chunk).all(|part| window.matches(part)));
            assert_eq!(window.left(), 0);
            assert!(!window.matches(b"x"), "a byte too many");
        }
        for at in [0, PAD_BYTES - 1, PAD_BYTES, bytes.len() - 1] {
            bytes[at] ^= 1;
            let mut window = content.of("k", size);
            assert!(!bytes.chunks(16_384).all(|part| window.matches(part)), "{at}");
            bytes[at] ^= 1;
        }
        let block = 131_056;
        let swapped = [&bytes[block..2 * block], &bytes[..block]].concat();
        assert!(!content.of("k", size).matches(&swapped), "swapped blocks");
    }
}
