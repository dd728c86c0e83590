//! The scrub as a caller sees it, and what a drive keeps of it: the [`Book`], in its log and manifests.
//!
//! ```text
//! Idle --start, or due--> Shards --every place read--> Runs --every run read--> Idle, a Pass on record
//! ```
//!
//! A pass proves itself by its [`Ledger`] (INV-SCRUB-1). It begins with what the drive's table counts as
//! live, and every place that comes or goes ahead of the pass changes it, by the code that changes the
//! table. What the pass reads is taken off. When the pass has come to the end and something is still owed,
//! it was not read, whatever the reason: such a pass is not called complete. What is written behind the
//! pass is not its business.
//!
//! ```text
//! book    phase u8 (0 idle, 1 shards, 2 runs) | paused u8 | rate, pass, started at varint
//!           | from blob | owed, read, missed: shards varint, bytes varint | found varint
//!           | next run, last run, run bytes, run bytes missed varint
//!           | last pass, last complete pass: there u8, then pass, started at, finished at varint,
//!             read, missed, found, run bytes, run bytes missed as above
//! ```

use bytes::Bytes;
use holdfast_types::codec::{CodecError, Reader, Writer};

use crate::value::PLACE_SPACE;

/// Bytes a second at which a drive is read when nobody set a rate: a drive of 8 TB in six days, at a
/// tenth of what the slowest of today's drives can do.
pub const RATE_DEFAULT: u64 = 16 << 20;

/// The highest rate: faster than any device.
pub const RATE_MAX: u64 = 64 << 30;

/// The first key behind all places.
pub const PLACES_END: [u8; 1] = [PLACE_SPACE + 1];

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

    fn encode(self, out: &mut Writer) {
        out.varint(self.shards);
        out.varint(self.bytes);
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, CodecError> {
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
    fn settled(&self) -> Self {
        let mut settled = self.clone();
        settled.reopen();
        settled
    }
}

/// What a drive does of its scrub.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Phase {
    /// Nothing: no pass is under way.
    #[default]
    Idle = 0,
    /// Reads shards, in the order of their operations.
    Shards = 1,
    /// Reads the blocks of the runs.
    Runs = 2,
}

impl Phase {
    /// Its number.
    ///
    /// # Errors
    /// [`CodecError`] when there is no such phase.
    pub const fn from_number(number: u8) -> Result<Self, CodecError> {
        Ok(match number {
            0 => Self::Idle,
            1 => Self::Shards,
            2 => Self::Runs,
            _ => return Err(CodecError::Unknown("scrub phase")),
        })
    }
}

/// A pass that came to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pass {
    /// Its number, from 1.
    pub pass: u64,
    /// When it began, by the drive's clock in microseconds.
    pub started_at: u64,
    /// When it ended.
    pub finished_at: u64,
    /// Shards read whole, rotten ones included.
    pub read: Count,
    /// Live shards that it owed at its end.
    pub missed: Count,
    /// Shards found rotten while it was under way, by it or by readers.
    pub found: u64,
    /// Bytes of runs read.
    pub run_bytes: u64,
    /// Bytes of runs that are not what was written, or could not be read.
    pub run_missed: u64,
}

impl Pass {
    /// Whether it read all that was live (INV-SCRUB-1).
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.missed.is_zero() && self.run_missed == 0
    }

    fn encode(&self, out: &mut Writer) {
        for number in [self.pass, self.started_at, self.finished_at] {
            out.varint(number);
        }
        self.read.encode(out);
        self.missed.encode(out);
        for number in [self.found, self.run_bytes, self.run_missed] {
            out.varint(number);
        }
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self {
            pass: input.varint()?,
            started_at: input.varint()?,
            finished_at: input.varint()?,
            read: Count::decode(input)?,
            missed: Count::decode(input)?,
            found: input.varint()?,
            run_bytes: input.varint()?,
            run_missed: input.varint()?,
        })
    }
}

/// What a drive keeps of its scrub.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Book {
    /// What it does.
    pub phase: Phase,
    /// Whether it is held.
    pub paused: bool,
    /// Bytes a second.
    pub rate: u64,
    /// The pass under way, as far as it is; `finished_at` is 0.
    pub pass: Pass,
    /// What the pass owes.
    pub ledger: Ledger,
    /// The next run to be read, by number.
    pub next_run: u64,
    /// The last run that the pass reads: later ones were written after it began.
    pub last_run: u64,
    /// The last pass.
    pub last: Option<Pass>,
    /// The last pass that was complete.
    pub complete: Option<Pass>,
}

impl Default for Book {
    fn default() -> Self {
        Self {
            phase: Phase::Idle,
            paused: false,
            rate: RATE_DEFAULT,
            pass: Pass::default(),
            ledger: Ledger::default(),
            next_run: 0,
            last_run: 0,
            last: None,
            complete: None,
        }
    }
}

impl Book {
    /// Begins the next pass over all that is live.
    pub fn begin(&mut self, live: Count, now: u64) {
        self.pass = Pass { pass: self.pass.pass + 1, started_at: now, ..Pass::default() };
        self.ledger = Ledger::begin(live);
        self.phase = Phase::Shards;
    }

    /// A place came or went.
    pub fn moved(&mut self, key: impl FnOnce() -> Vec<u8>, bytes: u64, comes: bool) {
        if self.phase != Phase::Shards || bytes == 0 {
            return;
        }
        if comes { self.ledger.came(&key(), bytes) } else { self.ledger.went(&key(), bytes) }
    }

    /// A shard was recorded as rotten, whoever found it; `is_new`: it was not yet.
    pub fn found(&mut self, is_new: bool) {
        self.pass.found += u64::from(is_new && self.phase != Phase::Idle);
    }

    /// The shards are behind it; what is owed now was missed. Runs up to `last_run` are next.
    pub fn begin_runs(&mut self, last_run: u64) {
        self.pass.missed.add(self.ledger.owed());
        self.ledger = Ledger::default();
        self.phase = Phase::Runs;
        (self.next_run, self.last_run) = (0, last_run);
    }

    /// The pass is at its end.
    pub fn finish(&mut self, now: u64) -> Pass {
        let pass = Pass { finished_at: now, ..self.pass };
        self.phase = Phase::Idle;
        self.last = Some(pass);
        if pass.is_complete() {
            self.complete = Some(pass);
        }
        pass
    }

    /// As a restart is to find it.
    #[must_use]
    pub fn settled(&self) -> Self {
        Self { ledger: self.ledger.settled(), ..self.clone() }
    }

    /// Takes over what the log says; while the drive runs that is what it just logged of itself.
    pub fn adopt(&mut self, told: &Self) {
        if self.settled() != *told {
            *self = told.clone();
        }
    }

    /// Appends the book.
    pub fn encode(&self, out: &mut Writer) {
        let ledger = self.ledger.settled();
        out.u8(self.phase as u8);
        out.u8(u8::from(self.paused));
        out.varint(self.rate);
        self.pass.encode(out);
        out.blob(&ledger.from);
        ledger.owed.encode(out);
        out.varint(self.next_run);
        out.varint(self.last_run);
        for pass in [&self.last, &self.complete] {
            out.u8(u8::from(pass.is_some()));
            if let Some(pass) = pass {
                pass.encode(out);
            }
        }
    }

    /// The inverse of [`Self::encode`].
    ///
    /// # Errors
    /// [`CodecError`] when the bytes are not a book.
    pub fn decode(input: &mut Reader<'_>) -> Result<Self, CodecError> {
        let phase = Phase::from_number(input.u8()?)?;
        let paused = input.u8()? != 0;
        let rate = input.varint()?;
        let pass = Pass::decode(input)?;
        let from = input.blob_bytes()?;
        let owed = Count::decode(input)?;
        let ledger = Ledger { ahead: from.clone(), from, step: Count::default(), owed };
        let (next_run, last_run) = (input.varint()?, input.varint()?);
        let mut passes = [None, None];
        for pass in &mut passes {
            if input.u8()? != 0 {
                *pass = Some(Pass::decode(input)?);
            }
        }
        let [last, complete] = passes;
        Ok(Self { phase, paused, rate, pass, ledger, next_run, last_run, last, complete })
    }

    /// What a caller is told; `runs_left` are the bytes of the runs that are still to be read.
    #[must_use]
    pub fn status(&self, runs_left: u64) -> ScrubStatus {
        let under_way = self.phase != Phase::Idle;
        ScrubStatus {
            phase: self.phase,
            paused: self.paused,
            rate: self.rate,
            pass: self.pass,
            owed: self.ledger.owed(),
            runs_left: if under_way { runs_left } else { 0 },
            last: self.last,
            complete: self.complete,
        }
    }
}

/// How a drive's scrub stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ScrubStatus {
    /// What it does.
    pub phase: Phase,
    /// Whether it is held.
    pub paused: bool,
    /// Bytes a second.
    pub rate: u64,
    /// The pass under way, or the last; `finished_at` is 0.
    pub pass: Pass,
    /// Live shards that the pass has not read yet.
    pub owed: Count,
    /// Bytes of runs that the pass has not read yet.
    pub runs_left: u64,
    /// The last pass that came to its end.
    pub last: Option<Pass>,
    /// The last pass that was complete.
    pub complete: Option<Pass>,
}

#[cfg(test)]
mod tests {
    use super::*;

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

    /// Goal: a book is what was written, or an error. Method: round trip and every cut.
    #[test]
    fn books_round_trip() {
        let mut book = Book { rate: 5, paused: true, ..Book::default() };
        book.begin(Count { shards: 9, bytes: 900 }, 77);
        book.ledger.step(key(3), Count::one(100));
        book.pass.read = Count::one(100);
        book.last = Some(Pass { pass: 4, run_missed: 1, ..book.pass });
        let mut out = Writer::new();
        book.encode(&mut out);
        let bytes = out.into_bytes();
        let mut input = Reader::new(&bytes);
        assert_eq!(Book::decode(&mut input), Ok(book.settled()));
        assert!(input.finish().is_ok() && !book.last.unwrap().is_complete());
        for at in 0..bytes.len() {
            assert!(Book::decode(&mut Reader::new(&bytes[..at])).is_err(), "cut at {at}");
        }
    }

    /// Goal: what the log tells does not disturb a step under way, and replaces what a restart forgot.
    #[test]
    fn a_book_is_adopted() {
        let mut book = Book::default();
        book.begin(Count { shards: 2, bytes: 20 }, 1);
        book.ledger.step(key(1), Count::one(10));
        let (told, before) = (book.settled(), book.clone());
        book.adopt(&told);
        assert_eq!(book, before);
        let mut fresh = Book::default();
        fresh.adopt(&told);
        assert_eq!(fresh, told);
    }
}
