//! The MD5 block function over many lanes at once. Here in plain loops over arrays of words, one element
//! a lane; [`x86`] has them compiled for AVX2, and written for AVX-512, which rotates and chooses bits
//! in one instruction each.

#[cfg(target_arch = "x86_64")]
#[path = "x86.rs"]
mod x86;

/// Bytes of a block.
pub const BLOCK_BYTES: usize = 64;

/// MD5's chaining value: RFC 1321's A, B, C, D.
pub type Chain = [u32; 4];

/// Where every stream begins.
pub const START: Chain = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];

/// RFC 1321, section 3.4: floor(2^32 * |sin(i + 1)|).
const SINES: [u32; 64] = [
    0xd76a_a478,
    0xe8c7_b756,
    0x2420_70db,
    0xc1bd_ceee,
    0xf57c_0faf,
    0x4787_c62a,
    0xa830_4613,
    0xfd46_9501,
    0x6980_98d8,
    0x8b44_f7af,
    0xffff_5bb1,
    0x895c_d7be,
    0x6b90_1122,
    0xfd98_7193,
    0xa679_438e,
    0x49b4_0821,
    0xf61e_2562,
    0xc040_b340,
    0x265e_5a51,
    0xe9b6_c7aa,
    0xd62f_105d,
    0x0244_1453,
    0xd8a1_e681,
    0xe7d3_fbc8,
    0x21e1_cde6,
    0xc337_07d6,
    0xf4d5_0d87,
    0x455a_14ed,
    0xa9e3_e905,
    0xfcef_a3f8,
    0x676f_02d9,
    0x8d2a_4c8a,
    0xfffa_3942,
    0x8771_f681,
    0x6d9d_6122,
    0xfde5_380c,
    0xa4be_ea44,
    0x4bde_cfa9,
    0xf6bb_4b60,
    0xbebf_bc70,
    0x289b_7ec6,
    0xeaa1_27fa,
    0xd4ef_3085,
    0x0488_1d05,
    0xd9d4_d039,
    0xe6db_99e5,
    0x1fa2_7cf8,
    0xc4ac_5665,
    0xf429_2244,
    0x432a_ff97,
    0xab94_23a7,
    0xfc93_a039,
    0x655b_59c3,
    0x8f0c_cc92,
    0xffef_f47d,
    0x8584_5dd1,
    0x6fa8_7e4f,
    0xfe2c_e6e0,
    0xa301_4314,
    0x4e08_11a1,
    0xf753_7e82,
    0xbd3a_f235,
    0x2ad7_d2bb,
    0xeb86_d391,
];

/// RFC 1321: how far each step of a round rotates.
const TURNS: [[u32; 4]; 4] = [[7, 12, 17, 22], [5, 9, 14, 20], [4, 11, 16, 23], [6, 10, 15, 21]];

/// One word of every lane.
type Words<const N: usize> = [u32; N];

/// One block of each lane, word by word.
#[inline(always)]
fn words<const N: usize>(lanes: &[&[u8]; N], at: usize) -> [Words<N>; 16] {
    let mut words = [[0; N]; 16];
    for (lane, bytes) in lanes.iter().enumerate() {
        let block = &bytes[at..at + BLOCK_BYTES];
        for (word, bytes) in words.iter_mut().zip(block.as_chunks::<4>().0) {
            word[lane] = u32::from_le_bytes(*bytes);
        }
    }
    words
}

/// One step of all lanes: `a = b + rotl(a + f(b, c, d) + word + sine, turn)`.
#[inline(always)]
fn step<const N: usize, const ROUND: usize>(
    [a, b, c, d]: [&mut Words<N>; 4],
    word: &Words<N>,
    sine: u32,
    turn: u32,
) {
    for lane in 0..N {
        let (x, y, z) = (b[lane], c[lane], d[lane]);
        let f = match ROUND {
            0 => (x & y) | (!x & z),
            1 => (x & z) | (y & !z),
            2 => x ^ y ^ z,
            _ => y ^ (x | !z),
        };
        let sum = a[lane].wrapping_add(f).wrapping_add(word[lane]).wrapping_add(sine);
        a[lane] = sum.rotate_left(turn).wrapping_add(x);
    }
}

/// A round of sixteen steps. `MUL` and `ADD` choose the words: RFC 1321's tables are linear.
#[inline(always)]
fn round<const N: usize, const ROUND: usize, const MUL: usize, const ADD: usize>(
    [a, b, c, d]: [&mut Words<N>; 4],
    words: &[Words<N>; 16],
) {
    let word = |i: usize| &words[(MUL * i + ADD) % 16];
    let sine = |i: usize| SINES[16 * ROUND + i];
    let turn = TURNS[ROUND];
    for i in [0, 4, 8, 12] {
        step::<N, ROUND>([a, b, c, d], word(i), sine(i), turn[0]);
        step::<N, ROUND>([d, a, b, c], word(i + 1), sine(i + 1), turn[1]);
        step::<N, ROUND>([c, d, a, b], word(i + 2), sine(i + 2), turn[2]);
        step::<N, ROUND>([b, c, d, a], word(i + 3), sine(i + 3), turn[3]);
    }
}

/// `N` lanes; the first again in the place of those that are missing.
#[inline(always)]
fn filled<'l, const N: usize>(lanes: &[&'l [u8]]) -> [&'l [u8]; N] {
    std::array::from_fn(|lane| lanes[if lane < lanes.len() { lane } else { 0 }])
}

/// Takes the first `blocks` blocks of every lane in.
#[inline(always)]
fn compress<const N: usize>(chains: &mut [Chain], lanes: &[&[u8]], blocks: usize) {
    let lanes: [&[u8]; N] = filled(lanes);
    let mut state = [[0; N]; 4];
    for (lane, chain) in chains.iter().take(N).enumerate() {
        (0..4).for_each(|word| state[word][lane] = chain[word]);
    }
    for block in 0..blocks {
        let words = words(&lanes, block * BLOCK_BYTES);
        let before = state;
        let [a, b, c, d] = &mut state;
        round::<N, 0, 1, 0>([a, b, c, d], &words);
        round::<N, 1, 5, 1>([a, b, c, d], &words);
        round::<N, 2, 3, 5>([a, b, c, d], &words);
        round::<N, 3, 7, 0>([a, b, c, d], &words);
        for (word, before) in state.iter_mut().zip(&before) {
            (0..N).for_each(|lane| word[lane] = word[lane].wrapping_add(before[lane]));
        }
    }
    for (lane, chain) in chains.iter_mut().take(N).enumerate() {
        (0..4).for_each(|word| chain[word] = state[word][lane]);
    }
}

/// What the processor can do at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// One lane after the other.
    One,
    /// Eight lanes.
    Eight,
    /// Sixteen lanes.
    Sixteen,
}

impl Width {
    /// The widest there is here.
    #[must_use]
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if x86::has_sixteen() {
                return Self::Sixteen;
            }
            if x86::has_eight() {
                return Self::Eight;
            }
        }
        Self::One
    }

    /// Lanes of one call.
    #[must_use]
    pub const fn lanes(self) -> usize {
        match self {
            Self::One => 1,
            Self::Eight => 8,
            Self::Sixteen => 16,
        }
    }

    /// From so many lanes on a call for all is faster than one for each.
    const fn worth(self) -> usize {
        match self {
            Self::One => 2,
            Self::Eight => 5,
            Self::Sixteen => 2,
        }
    }

    /// Takes the first `blocks` blocks of each lane into its chain.
    ///
    /// # Panics
    /// When there are more lanes than [`Self::lanes`], or one is shorter.
    pub fn compress(self, chains: &mut [Chain], lanes: &[&[u8]], blocks: usize) {
        assert!(chains.len() == lanes.len() && lanes.len() <= self.lanes());
        assert!(lanes.iter().all(|lane| lane.len() >= blocks * BLOCK_BYTES));
        match self {
            _ if lanes.len() < self.worth() => {
                for (chain, lane) in chains.iter_mut().zip(lanes) {
                    compress::<1>(std::slice::from_mut(chain), &[*lane], blocks);
                }
            }
            #[cfg(target_arch = "x86_64")]
            Self::Eight | Self::Sixteen => x86::compress(self, chains, lanes, blocks),
            _ => unreachable!("one lane is below what is worth it"),
        }
    }
}
