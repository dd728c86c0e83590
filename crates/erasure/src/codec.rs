//! The code itself: systematic Reed-Solomon over GF(2^8), from `reed-solomon-erasure`, whose
//! matrices and inner loops (SIMD) are used for encoding.
//!
//! Restoring does not use that crate's `reconstruct`, which wants every present shard mutable and so
//! would copy all of them: the rows that give the wanted shards are computed here, from the same
//! matrix, and applied to borrowed payloads with the crate's SIMD loops.

use std::sync::OnceLock;

use holdfast_types::quorum::DRIVES_MAX;
use reed_solomon_erasure::galois_8::{self, ReedSolomon};

/// Shards of a stripe at most.
pub(crate) const SHARDS_MAX: usize = DRIVES_MAX as usize;

/// Bytes of each payload that are worked on before going on to the next: the inputs and outputs of
/// 16 shards at this length stay within a core's second-level cache.
const SLICE_BYTES: usize = 16 << 10;

/// One row of a matrix with at most [`SHARDS_MAX`] columns.
type Row = [u8; SHARDS_MAX];

/// The code of k data shards among n.
pub(crate) struct Codec {
    k: usize,
    n: usize,
    /// Computes parity; absent when there is none.
    encoder: Option<ReedSolomon>,
    /// Row i gives shard i from the data shards; the first k rows are the identity.
    rows: [Row; SHARDS_MAX],
}

impl Codec {
    /// The code for `1 <= k <= n <= 16`, built once per process.
    pub(crate) fn of(k: u8, n: u8) -> &'static Self {
        static CODECS: [[OnceLock<Codec>; SHARDS_MAX]; SHARDS_MAX] =
            [const { [const { OnceLock::new() }; SHARDS_MAX] }; SHARDS_MAX];
        assert!(k >= 1 && k <= n && n <= DRIVES_MAX, "a code has 1 <= k <= n <= 16");
        let (k, n) = (usize::from(k), usize::from(n));
        CODECS[k - 1][n - 1].get_or_init(|| Self::new(k, n))
    }

    fn new(k: usize, n: usize) -> Self {
        let mut rows = [[0; SHARDS_MAX]; SHARDS_MAX];
        for (i, row) in rows.iter_mut().enumerate().take(k) {
            row[i] = 1;
        }
        let encoder =
            (n > k).then(|| ReedSolomon::new(k, n - k).expect("1 <= k < n <= 16 is a valid code"));
        if let Some(encoder) = &encoder {
            read_matrix(encoder, k, &mut rows[..n]);
        }
        Self { k, n, encoder, rows }
    }

    /// Computes the parity payloads, each as long as the data payloads, which must not be empty.
    pub(crate) fn encode(&self, data: &[&[u8]], parity: &mut [&mut [u8]]) {
        assert!(data.len() == self.k && parity.len() == self.n - self.k);
        let Some(encoder) = &self.encoder else { return };
        let len = data[0].len();
        for start in (0..len).step_by(SLICE_BYTES) {
            let range = start..len.min(start + SLICE_BYTES);
            let mut input: [&[u8]; SHARDS_MAX] = [&[]; SHARDS_MAX];
            let mut output: [&mut [u8]; SHARDS_MAX] = std::array::from_fn(|_| &mut [][..]);
            for (slot, payload) in input.iter_mut().zip(data) {
                *slot = &payload[range.clone()];
            }
            for (slot, payload) in output.iter_mut().zip(parity.iter_mut()) {
                *slot = &mut payload[range.clone()];
            }
            encoder
                .encode_sep(&input[..self.k], &mut output[..self.n - self.k])
                .expect("payloads of one stripe have one length, and there are k + m of them");
        }
    }

    /// Computes shard `wanted` from exactly k payloads and the shards they are of. Appends to `out`,
    /// which must be empty.
    pub(crate) fn restore(&self, present: &[(usize, &[u8])], wanted: usize, out: &mut Vec<u8>) {
        assert!(present.len() == self.k && wanted < self.n && out.is_empty());
        let len = present[0].1.len();
        let row = self.row_from(present, wanted);
        out.resize(len, 0);
        for start in (0..len).step_by(SLICE_BYTES) {
            let range = start..len.min(start + SLICE_BYTES);
            for (factor, (_, payload)) in row.iter().zip(present).filter(|(f, _)| **f != 0) {
                galois_8::mul_slice_xor(*factor, &payload[range.clone()], &mut out[range.clone()]);
            }
        }
    }

    /// The row that gives shard `wanted` from the present ones: its row over the data shards times
    /// the inverse of the present shards' rows.
    fn row_from(&self, present: &[(usize, &[u8])], wanted: usize) -> Row {
        let mut matrix = [[0; SHARDS_MAX]; SHARDS_MAX];
        for (row, (shard, _)) in matrix.iter_mut().zip(present) {
            *row = self.rows[*shard];
        }
        let inverse = invert(matrix, self.k);
        let mut result = [0; SHARDS_MAX];
        for (factor, row) in self.rows[wanted].iter().zip(&inverse).take(self.k) {
            add_multiple(&mut result, row, *factor);
        }
        result
    }
}

/// Reads the parity rows out of an encoder by encoding the unit vectors, all at once: byte c of data
/// shard d is 1 where c = d, so byte c of a parity shard is its row's column c.
fn read_matrix(encoder: &ReedSolomon, k: usize, rows: &mut [Row]) {
    let (units, parity) = rows.split_at_mut(k);
    encoder.encode_sep(units, parity).expect("k rows in, n - k rows out, all of one length");
}

/// `target += factor * row`.
fn add_multiple(target: &mut Row, row: &Row, factor: u8) {
    for (sum, value) in target.iter_mut().zip(row) {
        *sum ^= galois_8::mul(factor, *value);
    }
}

/// The inverse of the upper left k x k of `matrix`, by Gauss-Jordan elimination.
fn invert(mut matrix: [Row; SHARDS_MAX], k: usize) -> [Row; SHARDS_MAX] {
    let mut inverse = [[0; SHARDS_MAX]; SHARDS_MAX];
    for (i, row) in inverse.iter_mut().enumerate() {
        row[i] = 1;
    }
    for column in 0..k {
        // INV-CODE-1: any k rows of the code's matrix are independent.
        let pivot = (column..k)
            .find(|row| matrix[*row][column] != 0)
            .expect("any k rows of a Reed-Solomon matrix are independent");
        matrix.swap(column, pivot);
        inverse.swap(column, pivot);
        let scale = galois_8::div(1, matrix[column][column]);
        matrix[column] = matrix[column].map(|value| galois_8::mul(scale, value));
        inverse[column] = inverse[column].map(|value| galois_8::mul(scale, value));
        for row in (0..k).filter(|row| *row != column) {
            let factor = matrix[row][column];
            let (from, inverse_from) = (matrix[column], inverse[column]);
            add_multiple(&mut matrix[row], &from, factor);
            add_multiple(&mut inverse[row], &inverse_from, factor);
        }
    }
    inverse
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the code is an on-disk format (INV-CODE-2). Method: the parity rows of two codes are
    /// pinned; if this test fails, shards written before the change cannot be restored after it.
    #[test]
    fn the_matrix_is_pinned() {
        assert_eq!(Codec::of(2, 4).rows[2][..2], [3, 2]);
        assert_eq!(Codec::of(2, 4).rows[3][..2], [2, 3]);
        let first = [175, 180, 150, 140, 245, 232, 196, 216, 27, 28, 18, 20];
        assert_eq!(Codec::of(12, 16).rows[12][..12], first);
        let last = [140, 150, 180, 175, 216, 196, 232, 245, 20, 18, 28, 27];
        assert_eq!(Codec::of(12, 16).rows[15][..12], last);
    }

    /// Goal: one data shard means replicas, all data shards mean no parity. Method: look at the rows.
    #[test]
    fn the_edges_of_the_table() {
        for n in 1..=DRIVES_MAX {
            let replicas = Codec::of(1, n);
            assert!(replicas.rows[..usize::from(n)].iter().all(|row| row[0] == 1));
            assert!(Codec::of(n, n).encoder.is_none());
        }
    }
}
