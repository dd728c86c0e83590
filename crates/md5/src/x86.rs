//! The block function for processors with wider registers.
#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m512i, _mm512_add_epi32, _mm512_loadu_si512, _mm512_rolv_epi32, _mm512_set1_epi32,
    _mm512_setzero_si512, _mm512_shuffle_i32x4, _mm512_ternarylogic_epi32, _mm512_unpackhi_epi32,
    _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};

use super::{BLOCK_BYTES, Chain, SINES, TURNS, Width, filled};

pub fn has_sixteen() -> bool {
    is_x86_feature_detected!("avx512f")
}

pub fn has_eight() -> bool {
    is_x86_feature_detected!("avx2")
}

pub fn compress(width: Width, chains: &mut [Chain], lanes: &[&[u8]], blocks: usize) {
    if width == Width::Sixteen {
        assert!(has_sixteen(), "the width was detected");
        // SAFETY: the processor has what the function was compiled for, as was just checked.
        unsafe { sixteen(chains, lanes, blocks) }
    } else {
        assert!(has_eight(), "the width was detected");
        // SAFETY: as above.
        unsafe { eight(chains, lanes, blocks) }
    }
}

#[target_feature(enable = "avx2")]
fn eight(chains: &mut [Chain], lanes: &[&[u8]], blocks: usize) {
    super::compress::<8>(chains, lanes, blocks);
}

/// One register: a word of each of sixteen lanes.
type Words = __m512i;

#[target_feature(enable = "avx512f")]
fn sixteen(chains: &mut [Chain], lanes: &[&[u8]], blocks: usize) {
    let lanes: [&[u8]; 16] = filled(lanes);
    let mut columns = [[0_u32; 16]; 4];
    for (lane, chain) in chains.iter().enumerate() {
        (0..4).for_each(|word| columns[word][lane] = chain[word]);
    }
    // SAFETY: each column is 64 bytes, and the load needs no alignment.
    let mut state = columns.map(|column| unsafe { _mm512_loadu_si512(column.as_ptr().cast()) });
    for block in 0..blocks {
        let words = transposed(&lanes, block * BLOCK_BYTES);
        let before = state;
        round::<0, 0xca, 1, 0>(&mut state, &words);
        round::<1, 0xe4, 5, 1>(&mut state, &words);
        round::<2, 0x96, 3, 5>(&mut state, &words);
        round::<3, 0x39, 7, 0>(&mut state, &words);
        for (word, before) in state.iter_mut().zip(before) {
            *word = _mm512_add_epi32(*word, before);
        }
    }
    // SAFETY: both are 64 bytes of integers.
    let columns = state.map(|word| unsafe { std::mem::transmute::<Words, [u32; 16]>(word) });
    for (lane, chain) in chains.iter_mut().enumerate() {
        (0..4).for_each(|word| chain[word] = columns[word][lane]);
    }
}

/// A round of sixteen steps. `LOGIC` is the truth table of RFC 1321's F, G, H or I over b, c, d; `MUL`
/// and `ADD` choose the words.
#[inline]
#[target_feature(enable = "avx512f")]
fn round<const ROUND: usize, const LOGIC: i32, const MUL: usize, const ADD: usize>(
    state: &mut [Words; 4],
    words: &[Words; 16],
) {
    let [mut a, mut b, mut c, mut d] = *state;
    let turns = TURNS[ROUND].map(|turn| _mm512_set1_epi32(turn as i32));
    for i in 0..16 {
        let sine = _mm512_set1_epi32(SINES[16 * ROUND + i] as i32);
        let chosen = _mm512_ternarylogic_epi32::<LOGIC>(b, c, d);
        // What does not wait for the step before is added first.
        let known = _mm512_add_epi32(_mm512_add_epi32(a, sine), words[(MUL * i + ADD) % 16]);
        let turned = _mm512_rolv_epi32(_mm512_add_epi32(known, chosen), turns[i % 4]);
        (a, d, c, b) = (d, c, b, _mm512_add_epi32(turned, b));
    }
    *state = [a, b, c, d];
}

/// A block of each lane, word by word: sixteen rows of sixteen words are loaded whole and turned in
/// registers, in four steps of sixteen shuffles.
#[inline]
#[target_feature(enable = "avx512f")]
fn transposed(lanes: &[&[u8]; 16], at: usize) -> [Words; 16] {
    let row = |lane: usize| {
        let block: &[u8; BLOCK_BYTES] =
            lanes[lane][at..].first_chunk().expect("every lane is as long as the call says");
        // SAFETY: a block is 64 bytes, and the load needs no alignment.
        unsafe { _mm512_loadu_si512(block.as_ptr().cast()) }
    };
    let mut pairs = [_mm512_setzero_si512(); 16];
    for pair in (0..16).step_by(2) {
        let (x, y) = (row(pair), row(pair + 1));
        pairs[pair] = _mm512_unpacklo_epi32(x, y);
        pairs[pair + 1] = _mm512_unpackhi_epi32(x, y);
    }
    // `fours[4 g + c]` has in its quarter q the words 4 q + c of rows 4 g to 4 g + 3.
    let mut fours = [_mm512_setzero_si512(); 16];
    for group in (0..16).step_by(4) {
        let [a, b, c, d] = [0, 1, 2, 3].map(|row| pairs[group + row]);
        fours[group] = _mm512_unpacklo_epi64(a, c);
        fours[group + 1] = _mm512_unpackhi_epi64(a, c);
        fours[group + 2] = _mm512_unpacklo_epi64(b, d);
        fours[group + 3] = _mm512_unpackhi_epi64(b, d);
    }
    let mut words = [_mm512_setzero_si512(); 16];
    for c in 0..4 {
        let [a, b, d, e] = [0, 4, 8, 12].map(|group| fours[group + c]);
        let even = [_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0x88>(d, e)];
        let odd = [_mm512_shuffle_i32x4::<0xdd>(a, b), _mm512_shuffle_i32x4::<0xdd>(d, e)];
        words[c] = _mm512_shuffle_i32x4::<0x88>(even[0], even[1]);
        words[4 + c] = _mm512_shuffle_i32x4::<0x88>(odd[0], odd[1]);
        words[8 + c] = _mm512_shuffle_i32x4::<0xdd>(even[0], even[1]);
        words[12 + c] = _mm512_shuffle_i32x4::<0xdd>(odd[0], odd[1]);
    }
    words
}
