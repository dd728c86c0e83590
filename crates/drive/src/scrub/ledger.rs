//! [`Ledger`]: what a pass of the scrub still owes, exact at each moment (INV-SCRUB-1).

use bytes::Bytes;
use holdfast_types::codec::{CodecError, Reader, Writer};

use crate::value::PLACE_SPACE;

/// Shards and their bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Count {
    /// Shards.
    pub shards: u64,
    /// Bytes, checksums of blocks included.
    pub bytes: u64,
}

impl Count {
    /// One shard of so many bytes.
    #[must_use]
    pub const fn one(bytes: u64) -> Self {
        Self { shards: 1, bytes }
    }

    /// Counts more.
    pub const fn add(&mut self, more: Self) {
        self.shards += more.shards;
        self.bytes += more.bytes;
    }

    /// Counts less, never below nothing: where rot hid records the table itself may count wrong, and a
    /// ledger that went below would owe more than there is.
    pub const fn take(&mut self, less: Self) {
        self.shards = self.shards.saturating_sub(less.shards);
        self.bytes = self.bytes.saturating_sub(less.bytes);
    }

    /// Whether it is nothing.
    #[must_use]
    pub const fn is_zero(&self) -> bool {
        self.shards == 0 && self.bytes == 0
    }

    pub(super) fn encode(self, out: &mut Writer) {
        out.varint(self.shards);
        out.varint(self.bytes);
    }

    pub(super) fn decode(input: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self { shards: input.varint()?, bytes: input.varint()? })
    }
}

/// What a pass still owes: exact at each moment, for whatever changes a place changes it, too.
///
/// ```text
/// places by key:   covered   |  step under way  |  owed
///                          from               ahead
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ledger {
    from: Bytes,
    ahead: Bytes,
    step: Count,
    owed: Count,
}

impl Ledger {
    /// A pass that owes all that is live.
    #[must_use]
    pub fn begin(live: Count) -> Self {
        let from = Bytes::from_static(&[PLACE_SPACE]);
        Self { ahead: from.clone(), from, step: Count::default(), owed: live }
    }

    /// As a restart finds it: nothing is under way.
    pub(super) fn at(from: Bytes, owed: Count) -> Self {
        Self { ahead: from.clone(), from, step: Count::default(), owed }
    }

    /// The first place that is not covered.
    #[must_use]
    pub const fn from(&self) -> &Bytes {
        &self.from
    }

    /// All that is not covered.
    #[must_use]
    pub const fn owed(&self) -> Count {
        let mut all = self.owed;
        all.add(self.step);
        all
    }

    /// A place came.
    pub fn came(&mut self, key: &[u8], bytes: u64) {
        if key >= &self.ahead[..] {
            self.owed.add(Count::one(bytes));
        } else if key >= &self.from[..] {
            self.step.add(Count::one(bytes));
        }
    }

    /// A place went.
    pub fn went(&mut self, key: &[u8], bytes: u64) {
        if key >= &self.ahead[..] {
            self.owed.take(Count::one(bytes));
        } else if key >= &self.from[..] {
            self.step.take(Count::one(bytes));
        }
    }

    /// Begins a step over the places up to `to`, which are `taken` now.
    ///
    /// # Panics
    /// When a step is under way.
    pub fn step(&mut self, to: Bytes, taken: Count) {
        assert!(self.from == self.ahead && to >= self.ahead, "one step is under way at a time");
        self.ahead = to;
        self.owed.take(taken);
        self.step = taken;
    }

    /// The step is done: what came within it meanwhile came behind the pass.
    pub fn close(&mut self) {
        self.from = self.ahead.clone();
        self.step = Count::default();
    }

    /// The step is given up: its places are owed again.
    pub fn reopen(&mut self) {
        self.ahead = self.from.clone();
        self.owed.add(std::mem::take(&mut self.step));
    }

    /// As a restart finds it, which begins with the step under way anew.
    #[must_use]
    pub(super) fn settled(&self) -> Self {
        let mut settled = self.clone();
        settled.reopen();
        settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scrub::{Book, PLACES_END};

    fn key(n: u8) -> Bytes {
        Bytes::copy_from_slice(&[PLACE_SPACE, n])
    }

    /// Goal: whatever comes and goes while a pass is under way, at its end exactly the live places are owed
    /// that it passed by, and none when it passed by none (INV-SCRUB-1). Method: random changes of a set of places
    /// between and within the steps of a pass that skips some of them, restarts included.
    #[test]
    fn what_is_passed_by_is_owed() {
        let mut state = 7_u64;
        let mut draw = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % below
        };
        for round in 0..2_000 {
            let mut live: std::collections::BTreeMap<Bytes, u64> =
                std::collections::BTreeMap::new();
            for _ in 0..draw(20) {
                live.insert(key(draw(64) as u8), 1 + draw(100));
            }
            let mut owed = Count::default();
            live.values().for_each(|bytes| owed.add(Count::one(*bytes)));
            let mut ledger = Ledger::begin(owed);
            let mut skipped = std::collections::BTreeMap::new();
            while ledger.from()[..] < PLACES_END[..] {
                let from = ledger.from().clone();
                let to =
                    key((from.get(1).copied().unwrap_or(0)).saturating_add(1 + draw(20) as u8));
                let to = if to[1] >= 64 { Bytes::from_static(&PLACES_END) } else { to };
                let mut taken = Count::default();
                for (key, bytes) in live.range(from..to.clone()) {
                    if round % 2 == 1 && draw(4) == 0 {
                        skipped.insert(key.clone(), *bytes);
                    } else {
                        taken.add(Count::one(*bytes));
                    }
                }
                let whole: u64 =
                    live.range(ledger.from().clone()..to.clone()).map(|(_, b)| b).sum();
                ledger.step(to, taken);
                assert!(whole >= taken.bytes);
                for _ in 0..draw(4) {
                    let at = key(draw(64) as u8);
                    match live.remove(&at) {
                        // What was passed by cannot be told from what was read once it goes.
                        Some(bytes) if !skipped.contains_key(&at) => ledger.went(&at, bytes),
                        Some(bytes) => drop(live.insert(at, bytes)),
                        None => {
                            ledger.came(&at, 5);
                            live.insert(at, 5);
                        }
                    }
                }
                if draw(5) == 0 {
                    let mut out = Writer::new();
                    let book = Book { ledger: ledger.clone(), ..Book::default() };
                    book.encode(&mut out);
                    let back = Book::decode(&mut Reader::new(&out.into_bytes())).unwrap();
                    assert_eq!(back, book.settled());
                    assert_eq!(back.ledger.owed(), ledger.owed());
                }
                ledger.close();
            }
            let mut missed = Count::default();
            skipped.values().for_each(|bytes| missed.add(Count::one(*bytes)));
            assert_eq!(ledger.owed(), missed, "round {round}");
        }
    }
}
