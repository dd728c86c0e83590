//! [`RotRanges`]: keys of which a rotten run block hid what the drive knew (ADR 0017, ADR 0019).
//!
//! A drive that meets rot in a run logs the range of keys between the block's fences. From then on the
//! block itself is not needed: nothing is answered for keys of the range, whatever other layers hold of
//! them (INV-RUN-1), merges leave the block out, and replay goes on over it. Then it is filled again:
//!
//! ```text
//!            Fill: floor, void below                Filled: nothing is missing      no run holds
//! (met) -> Hidden ----------------> Open ----------------------------> Filled ------------------> (gone)
//!     silent       accepts, says what it has,      counts, and still passes by   what is void
//!                  counts as unknown               what is void
//!            ^------- rot in what was written since --|---------------|
//! ```
//!
//! *Void* is every item of an open or filled range that runs or index took from below the log position
//! since which it is open: it may be outdated by what the rotten block held (INV-FILL-1).
//!
//! Ranges of places and chores need no other drive: what they held follows from the registers (INV-FILL-2).
//! `Recount` opens them, they stay silent while every register is asked what it names there, and are filled
//! when all were.

mod contested;

use bytes::Bytes;
use holdfast_types::{
    Ballot, SetEpoch,
    codec::{CodecError, Reader, Writer},
};

pub use contested::Contested;

use crate::{
    member::Gap,
    meta_index::Lsn,
    runs::{RottenRange, RunId},
    value::{PLACE_SPACE, REPAIR_SPACE, TOMBSTONE_SPACE},
};

/// Ranges kept at most: 8 MiB of run blocks. Beyond it new rot is not recorded: requests about its keys
/// fail as well, but runs with it are not merged, and replay over it ends.
pub const RANGES_MAX: usize = 256;

/// The first key behind all chores.
const CHORES_END: [u8; 1] = [TOMBSTONE_SPACE + 1];

/// Ranges that one more may come to: it is cut where kinds of records meet, and cuts one it meets in two.
const PIECES_MAX: usize = 4;

/// How a range stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RotStanding {
    /// Nothing is said of its keys.
    #[default]
    Hidden,
    /// Of registers: it accepts above the drive's floor, and counts as unknown. Of places and chores: it is
    /// counted anew, and silent. Items from below the position are void.
    Open(Lsn),
    /// It has what it should have. Items from below the position are void.
    Filled(Lsn),
}

impl RotStanding {
    /// Below which log position items are void; `None` while it is hidden.
    #[must_use]
    pub const fn since(self) -> Option<Lsn> {
        match self {
            Self::Hidden => None,
            Self::Open(since) | Self::Filled(since) => Some(since),
        }
    }
}

/// One range. `run::RottenRange` is what a reader met; this is what the drive keeps of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RotRange {
    /// First key.
    pub start: Bytes,
    /// First key behind it; empty: none is.
    pub end: Bytes,
    /// What the block knew came at log positions up to here.
    pub upto: Lsn,
    /// The highest ballot that it held.
    pub highest: Ballot,
    /// The set epoch under which it was recorded: what is forgotten was accepted under none that is newer.
    pub epoch: SetEpoch,
    /// How it stands.
    pub standing: RotStanding,
}

impl RotRange {
    /// All chores, as known up to a log position.
    #[must_use]
    pub fn of_all_chores(upto: Lsn) -> Self {
        let (start, end) = (Bytes::from_static(&[REPAIR_SPACE]), Bytes::from_static(&CHORES_END));
        let (highest, epoch, standing) = (Ballot::ZERO, SetEpoch(0), RotStanding::Hidden);
        Self { start, end, upto, highest, epoch, standing }
    }

    fn is_behind(&self, key: &[u8]) -> bool {
        self.end.is_empty() || key < &self.end[..]
    }

    /// The first key behind it.
    #[must_use]
    pub fn behind(&self) -> Option<Bytes> {
        (!self.end.is_empty()).then(|| self.end.clone())
    }

    /// Whether the key lies in it.
    #[must_use]
    pub fn holds(&self, key: &[u8]) -> bool {
        key >= &self.start[..] && self.is_behind(key)
    }

    /// Whether nothing is said of its keys.
    #[must_use]
    pub fn is_hidden(&self) -> bool {
        self.standing == RotStanding::Hidden
    }

    /// Whether its keys are not answered: nothing is known of them, or not all is counted yet.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.is_hidden() || self.is_counted_anew()
    }

    /// Whether what it held is being counted anew, from the registers.
    fn is_counted_anew(&self) -> bool {
        matches!(self.standing, RotStanding::Open(_)) && !self.is_of_registers()
    }

    /// Whether its keys count as unknown, or are not answered at all.
    #[must_use]
    pub const fn is_unfilled(&self) -> bool {
        !matches!(self.standing, RotStanding::Filled(_))
    }

    /// Whether it is one of registers.
    #[must_use]
    pub fn is_of_registers(&self) -> bool {
        self.start.first().is_none_or(|kind| *kind < PLACE_SPACE)
    }

    /// Whether it has keys from `start` (inclusive) to `end` (exclusive).
    fn meets(&self, start: &[u8], end: Option<&[u8]>) -> bool {
        self.is_behind(start) && end.is_none_or(|end| &self.start[..] < end)
    }

    fn meets_range(&self, other: &Self) -> bool {
        self.meets(&other.start, (!other.end.is_empty()).then_some(&other.end[..]))
    }

    /// Whether all of it lies in `other`.
    fn is_within(&self, other: &Self) -> bool {
        let ends = other.end.is_empty() || (!self.end.is_empty() && self.end <= other.end);
        other.start <= self.start && ends
    }

    /// What is left of it outside `other`, which it meets.
    fn without(&self, other: &Self) -> Vec<Self> {
        let mut left = Vec::new();
        if self.start < other.start {
            left.push(Self { end: other.start.clone(), ..self.clone() });
        }
        if !other.end.is_empty() && self.is_behind(&other.end) {
            left.push(Self { start: other.end.clone(), ..self.clone() });
        }
        left
    }

    /// Cut where one kind of records ends and the next begins: registers, places, chores.
    fn by_kind(self) -> Vec<Self> {
        let (mut pieces, mut rest) = (Vec::new(), self);
        for border in [PLACE_SPACE, REPAIR_SPACE] {
            let border = Bytes::copy_from_slice(&[border]);
            if rest.start < border && rest.is_behind(&border) {
                pieces.push(Self { end: border.clone(), ..rest.clone() });
                rest.start = border;
            }
        }
        pieces.push(rest);
        pieces
    }

    /// Appends what was met: the range, hidden.
    pub fn encode_met(&self, out: &mut Writer) {
        out.blob(&self.start);
        out.blob(&self.end);
        out.varint(self.upto.0);
        self.highest.encode(out);
    }

    /// Appends the range.
    pub fn encode(&self, out: &mut Writer) {
        self.encode_met(out);
        out.varint(self.epoch.0);
        let (standing, since) = match self.standing {
            RotStanding::Hidden => (0, 0),
            RotStanding::Open(since) => (1, since.0),
            RotStanding::Filled(since) => (2, since.0),
        };
        out.u8(standing);
        out.varint(since);
    }

    /// The inverse of [`Self::encode`].
    ///
    /// # Errors
    /// [`CodecError`] when the bytes are not such a form.
    pub fn decode(input: &mut Reader<'_>) -> Result<Self, CodecError> {
        let mut range = Self::decode_met(input)?;
        range.epoch = SetEpoch(input.varint()?);
        let (standing, since) = (input.u8()?, Lsn(input.varint()?));
        range.standing = match standing {
            0 => RotStanding::Hidden,
            1 => RotStanding::Open(since),
            2 => RotStanding::Filled(since),
            _ => return Err(CodecError::Unknown("standing of a range")),
        };
        Ok(range)
    }

    /// The inverse of [`Self::encode_met`]; the epoch is for the caller to say.
    ///
    /// # Errors
    /// [`CodecError`] when the bytes are not such a form.
    pub fn decode_met(input: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self {
            start: input.blob_bytes()?,
            end: input.blob_bytes()?,
            upto: Lsn(input.varint()?),
            highest: Ballot::decode(input)?,
            epoch: SetEpoch(0),
            standing: RotStanding::Hidden,
        })
    }
}

impl From<&RottenRange> for RotRange {
    fn from(met: &RottenRange) -> Self {
        let end = met.end.clone().unwrap_or_default();
        Self {
            start: met.start.clone(),
            end,
            upto: met.upto,
            highest: met.highest,
            epoch: SetEpoch(0),
            standing: RotStanding::Hidden,
        }
    }
}

impl From<&RotRange> for RottenRange {
    fn from(kept: &RotRange) -> Self {
        let (start, upto, highest) = (kept.start.clone(), kept.upto, kept.highest);
        Self { run: RunId(0), start, end: kept.behind(), highest, upto }
    }
}

/// All ranges of a drive, in key order; none meets another.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RotRanges {
    ranges: Vec<RotRange>,
}

impl RotRanges {
    /// The ranges, which do not meet, in any order.
    #[must_use]
    pub fn new(mut ranges: Vec<RotRange>) -> Self {
        ranges.sort_by(|a, b| a.start.cmp(&b.start));
        Self { ranges }
    }

    /// The ranges, in key order.
    #[must_use]
    pub fn all(&self) -> &[RotRange] {
        &self.ranges
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether one more may be put on record.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.ranges.len() + PIECES_MAX <= RANGES_MAX
    }

    /// Hides a range. What is hidden already is raised to what this one knew; what is open or filled stays
    /// so, if all that this block held of it is void.
    pub fn add(&mut self, range: RotRange) {
        let mut left = RotRange { standing: RotStanding::Hidden, ..range.clone() }.by_kind();
        let mut ranges = Vec::with_capacity(self.ranges.len() + PIECES_MAX);
        for mut known in std::mem::take(&mut self.ranges) {
            if !known.meets_range(&range) {
                ranges.push(known);
                continue;
            }
            if known.standing.since().is_some_and(|since| since <= range.upto) {
                // It may have held what was written since.
                ranges.extend(known.without(&range));
                continue;
            }
            if known.is_hidden() {
                known.upto = known.upto.max(range.upto);
                known.highest = known.highest.max(range.highest);
                known.epoch = known.epoch.max(range.epoch);
            }
            let outside = |piece: RotRange| match piece.meets_range(&known) {
                true => piece.without(&known),
                false => vec![piece],
            };
            left = left.into_iter().flat_map(outside).collect();
            ranges.push(known);
        }
        ranges.extend(left);
        *self = Self::new(ranges);
    }

    /// Whether nothing new would come of adding a range: all its keys are hidden by what was as high and as
    /// late, or all it held is void.
    #[must_use]
    pub fn knows(&self, range: &RotRange) -> bool {
        let end = range.behind();
        self.are_all(&range.start, end.as_deref(), |known| match known.standing.since() {
            Some(since) => since > range.upto,
            None => known.highest >= range.highest && known.upto >= range.upto,
        })
    }

    /// The silent range of `key`.
    #[must_use]
    pub fn of(&self, key: &[u8]) -> Option<&RotRange> {
        self.ranges.iter().find(|range| range.is_silent() && range.holds(key))
    }

    /// Whether a range hides `key`, and it is not being counted anew either.
    #[must_use]
    pub fn hides(&self, key: &[u8]) -> bool {
        self.ranges.iter().any(|range| range.is_hidden() && range.holds(key))
    }

    /// Whether `key` lies in a range that is being counted anew.
    #[must_use]
    pub fn counts_anew(&self, key: &[u8]) -> bool {
        self.ranges.iter().any(|range| range.is_counted_anew() && range.holds(key))
    }

    /// The first silent range with keys from `start` (inclusive) to `end` (exclusive).
    #[must_use]
    pub fn first_in(&self, start: &[u8], end: Option<&[u8]>) -> Option<&RotRange> {
        self.ranges.iter().find(|range| range.is_silent() && range.meets(start, end))
    }

    /// As [`Self::first_in`], of those that are open, too.
    #[must_use]
    pub fn first_unfilled_in(&self, start: &[u8], end: Option<&[u8]>) -> Option<&RotRange> {
        self.ranges.iter().find(|range| range.is_unfilled() && range.meets(start, end))
    }

    /// The open ranges with keys from `start` to `end`, as gaps.
    pub fn open_in<'a>(&'a self, start: &'a [u8], end: &'a [u8]) -> impl Iterator<Item = Gap> + 'a {
        let is_open = |range: &&RotRange| matches!(range.standing, RotStanding::Open(_));
        let open = self.ranges.iter().filter(is_open);
        let met = open.filter(move |range| range.meets(start, Some(end)));
        met.map(|range| Gap { first: range.start.clone(), end: range.behind() })
    }

    /// Whether any range, however it stands, has keys from `start` (inclusive) to `end` (exclusive).
    #[must_use]
    pub fn touches(&self, start: &[u8], end: Option<&[u8]>) -> bool {
        self.ranges.iter().any(|range| range.meets(start, end))
    }

    /// Whether what was known of a key up to a log position is void.
    #[must_use]
    pub fn voids(&self, key: &[u8], upto: Lsn) -> bool {
        self.ranges
            .iter()
            .any(|range| range.standing.since().is_some_and(|s| s > upto) && range.holds(key))
    }

    /// Whether what was known up to a log position of all keys from `start` (inclusive) to `end`
    /// (exclusive) is void.
    #[must_use]
    pub fn voids_all(&self, start: &[u8], end: Option<&[u8]>, upto: Lsn) -> bool {
        self.are_all(start, end, |range| range.standing.since().is_some_and(|s| s > upto))
    }

    /// Whether all keys from `start` (inclusive) to `end` (exclusive) lie in ranges that are `right`.
    fn are_all(&self, start: &[u8], end: Option<&[u8]>, right: impl Fn(&RotRange) -> bool) -> bool {
        let mut at = start;
        for range in &self.ranges {
            if end.is_some_and(|end| at >= end) {
                return true;
            }
            if range.holds(at) {
                if !right(range) {
                    return false;
                }
                if range.end.is_empty() {
                    return true;
                }
                at = &range.end;
            }
        }
        end.is_some_and(|end| at >= end)
    }

    /// The hidden ranges of registers that were recorded under an older epoch: what `Fill` opens.
    pub fn to_open(&self, epoch: SetEpoch) -> impl Iterator<Item = &RotRange> {
        let opens = move |range: &&RotRange| {
            range.is_hidden() && range.is_of_registers() && range.epoch < epoch
        };
        self.ranges.iter().filter(opens)
    }

    /// Opens what [`Self::to_open`] names; returns it as it is now.
    pub fn open(&mut self, epoch: SetEpoch, since: Lsn) -> Vec<RotRange> {
        let names: Vec<Bytes> = self.to_open(epoch).map(|range| range.start.clone()).collect();
        self.open_named(&names, since)
    }

    /// The ranges of places and chores that are hidden, or whose count was begun and not ended.
    pub fn to_recount(&self) -> impl Iterator<Item = &RotRange> {
        self.ranges.iter().filter(|range| range.is_silent() && !range.is_of_registers())
    }

    /// Begins to count what [`Self::to_recount`] names; returns it as it is now.
    pub fn recount(&mut self, since: Lsn) -> Vec<RotRange> {
        let names: Vec<Bytes> = self.to_recount().map(|range| range.start.clone()).collect();
        self.open_named(&names, since)
    }

    fn open_named(&mut self, names: &[Bytes], since: Lsn) -> Vec<RotRange> {
        let opened = self.ranges.iter_mut().filter(|range| names.contains(&range.start));
        opened
            .map(|range| {
                range.standing = RotStanding::Open(since);
                range.clone()
            })
            .collect()
    }

    /// The open ranges that lie in those named, and stand as these do, are filled.
    pub fn fill(&mut self, named: &[RotRange]) {
        for range in &mut self.ranges {
            let RotStanding::Open(since) = range.standing else { continue };
            if named.iter().any(|n| n.standing == range.standing && range.is_within(n)) {
                range.standing = RotStanding::Filled(since);
            }
        }
    }

    /// Filled ranges that are named go: nothing of them is left that is void.
    pub fn forget(&mut self, named: &[RotRange]) {
        let is_named = |range: &RotRange| {
            named.iter().any(|n| n.standing == range.standing && range.is_within(n))
        };
        self.ranges.retain(|range| range.is_unfilled() || !is_named(range));
    }
}

#[cfg(test)]
mod tests;
