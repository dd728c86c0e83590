//! One bit a block.

/// Which of a run of blocks are taken.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Bitmap {
    words: Vec<u64>,
    len: u32,
    taken: u32,
    /// No block below this is clear.
    hint: u32,
}

impl Bitmap {
    /// `len` clear bits.
    #[must_use]
    pub fn new(len: u32) -> Self {
        Self { words: vec![0; len.div_ceil(64) as usize], len, taken: 0, hint: 0 }
    }

    /// From the form of a manifest: bit `b % 8` of byte `b / 8`.
    #[must_use]
    pub fn from_bytes(len: u32, bytes: &[u8]) -> Self {
        let mut bits = Self::new(len);
        for block in 0..len {
            let byte = bytes.get(block as usize / 8).copied().unwrap_or(0);
            if byte >> (block % 8) & 1 == 1 {
                bits.set(block, 1);
            }
        }
        bits
    }

    /// The form of a manifest.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.truncate(self.len.div_ceil(8) as usize);
        bytes
    }

    /// Blocks there are.
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.len
    }

    /// Whether there are no blocks.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Clear blocks.
    #[must_use]
    pub const fn clear_count(&self) -> u32 {
        self.len - self.taken
    }

    /// Adds clear blocks up to `len`.
    pub fn grow(&mut self, len: u32) {
        if len > self.len {
            self.len = len;
            self.words.resize(len.div_ceil(64) as usize, 0);
        }
    }

    fn get(&self, block: u32) -> bool {
        self.words[(block / 64) as usize] >> (block % 64) & 1 == 1
    }

    /// Whether all of a run are clear.
    #[must_use]
    pub fn is_clear(&self, block: u32, blocks: u32) -> bool {
        (block..block + blocks).all(|b| !self.get(b))
    }

    /// Sets a run.
    pub fn set(&mut self, block: u32, blocks: u32) {
        for b in block..block + blocks {
            let (word, bit) = ((b / 64) as usize, 1_u64 << (b % 64));
            self.taken += u32::from(self.words[word] & bit == 0);
            self.words[word] |= bit;
        }
    }

    /// Clears a run.
    pub fn clear(&mut self, block: u32, blocks: u32) {
        let end = (block + blocks).min(self.len);
        for b in block..end {
            let (word, bit) = ((b / 64) as usize, 1_u64 << (b % 64));
            self.taken -= u32::from(self.words[word] & bit != 0);
            self.words[word] &= !bit;
        }
        self.hint = self.hint.min(block);
    }

    /// The first clear run of `wanted` blocks, else the longest there is.
    pub fn find(&mut self, wanted: u32) -> Option<(u32, u32)> {
        if self.taken == self.len {
            return None;
        }
        let mut best: Option<(u32, u32)> = None;
        let mut at = self.next_clear(self.hint);
        self.hint = at;
        while at < self.len {
            let end = self.next_set(at, at.saturating_add(wanted));
            if best.is_none_or(|(_, longest)| longest < end - at) {
                best = Some((at, end - at));
            }
            if end - at == wanted {
                break;
            }
            at = self.next_clear(end);
        }
        best
    }

    /// The first clear block at or behind `from`; the length when there is none.
    fn next_clear(&self, from: u32) -> u32 {
        let mut at = from;
        while at < self.len {
            let word = !self.words[(at / 64) as usize] >> (at % 64);
            if word != 0 {
                return (at + word.trailing_zeros()).min(self.len);
            }
            at = (at / 64 + 1) * 64;
        }
        self.len
    }

    /// The first set block at or behind `from` and before `end`; `end` or the length otherwise.
    fn next_set(&self, from: u32, end: u32) -> u32 {
        let end = end.min(self.len);
        let mut at = from;
        while at < end {
            let word = self.words[(at / 64) as usize] >> (at % 64);
            if word != 0 {
                return (at + word.trailing_zeros()).min(end);
            }
            at = (at / 64 + 1) * 64;
        }
        end
    }

    /// Runs of set blocks, as (first, count).
    #[must_use]
    pub fn runs(&self) -> Vec<(u32, u32)> {
        let mut runs = Vec::new();
        let mut at = 0;
        while let Some((block, blocks)) = self.next_run(at) {
            runs.push((block, blocks));
            at = block + blocks;
        }
        runs
    }

    /// The first run of set blocks at or behind `from`, as (first, count).
    #[must_use]
    pub fn next_run(&self, from: u32) -> Option<(u32, u32)> {
        let at = self.next_set(from, self.len);
        (at < self.len).then(|| (at, self.next_clear(at) - at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: searches find what a plain scan finds, across word borders. Method: a few thousand
    /// pseudo-random changes against a vector of booleans.
    #[test]
    fn searches_agree_with_a_plain_scan() {
        let mut bits = Bitmap::new(200);
        let mut plain = [false; 200];
        let mut draw = 12345_u32;
        for _ in 0..3000 {
            draw = draw.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let (block, blocks) = ((draw >> 8) % 200, 1 + (draw >> 20) % 70);
            let blocks = blocks.min(200 - block);
            let set = draw & 0x40 != 0;
            if set {
                bits.set(block, blocks);
            } else {
                bits.clear(block, blocks);
            }
            plain[block as usize..(block + blocks) as usize].fill(set);
            assert_eq!(bits.clear_count() as usize, plain.iter().filter(|b| !**b).count());
            let wanted = 1 + (draw >> 12) % 80;
            let run_at =
                |at: usize| plain[at..].iter().take_while(|b| !**b).count().min(wanted as usize);
            let longest = (0..200).map(run_at).max().unwrap_or(0);
            let found = bits.find(wanted);
            assert_eq!(found.map_or(0, |(_, n)| n as usize), longest);
            if let Some((at, n)) = found {
                assert_eq!(run_at(at as usize), n as usize);
                assert!((0..at as usize).all(|b| run_at(b) < longest));
            }
            assert_eq!(Bitmap::from_bytes(200, &bits.to_bytes()).runs(), bits.runs());
        }
    }
}
