//! [`RotRanges`]: keys of which a rotten run block hid what the drive knew (ADR 0017).
//!
//! A drive that meets rot in a run logs the range of keys between the block's fences. From then on the
//! block itself is not needed: nothing is answered for keys of the range, whatever other layers hold of
//! them (INV-RUN-1), merges leave the block out, and replay goes on over it.

use std::collections::BTreeSet;

use bytes::Bytes;
use holdfast_types::{
    Ballot, OperationId,
    codec::{CodecError, Reader, Writer},
};

use crate::{
    meta_index::Lsn,
    runs::{RottenRange, RunId},
    value::{Extent, Place},
    volume::RecordedBlocks,
};

/// Ranges kept at most: 8 MiB of run blocks. Beyond it new rot is not recorded: requests about its keys
/// fail as well, but runs with it are not merged, and replay over it ends.
pub const RANGES_MAX: usize = 256;

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
}

impl RotRange {
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

    /// Appends the range.
    pub fn encode(&self, out: &mut Writer) {
        out.blob(&self.start);
        out.blob(&self.end);
        out.varint(self.upto.0);
        self.highest.encode(out);
    }

    /// The inverse of [`Self::encode`].
    ///
    /// # Errors
    /// [`CodecError`] when the bytes are not such a form.
    pub fn decode(input: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self {
            start: input.blob_bytes()?,
            end: input.blob_bytes()?,
            upto: Lsn(input.varint()?),
            highest: Ballot::decode(input)?,
        })
    }
}

impl From<&RottenRange> for RotRange {
    fn from(met: &RottenRange) -> Self {
        let end = met.end.clone().unwrap_or_default();
        Self { start: met.start.clone(), end, upto: met.upto, highest: met.highest }
    }
}

impl From<&RotRange> for RottenRange {
    fn from(kept: &RotRange) -> Self {
        let end = (!kept.end.is_empty()).then(|| kept.end.clone());
        let (start, upto, highest) = (kept.start.clone(), kept.upto, kept.highest);
        Self { run: RunId(0), start, end, highest, upto }
    }
}

/// All ranges of a drive, in key order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RotRanges {
    ranges: Vec<RotRange>,
}

impl RotRanges {
    /// The ranges.
    #[must_use]
    pub const fn new(ranges: Vec<RotRange>) -> Self {
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

    /// Adds a range, unless it is known or there are too many; whether it is known now.
    pub fn add(&mut self, range: RotRange) -> bool {
        if self.knows(&range) {
            return true;
        }
        if self.ranges.len() >= RANGES_MAX {
            return false;
        }
        let at = self.ranges.partition_point(|known| known.start <= range.start);
        self.ranges.insert(at, range);
        true
    }

    /// Whether the range lies in one that is known.
    #[must_use]
    pub fn knows(&self, range: &RotRange) -> bool {
        self.ranges.iter().any(|known| {
            let ends = known.end.is_empty() || (!range.end.is_empty() && range.end <= known.end);
            known.start <= range.start && ends
        })
    }

    /// The range that holds `key`.
    #[must_use]
    pub fn of(&self, key: &[u8]) -> Option<&RotRange> {
        self.ranges.iter().find(|range| range.holds(key))
    }

    /// The first range with keys from `start` (inclusive) to `end` (exclusive).
    #[must_use]
    pub fn first_in(&self, start: &[u8], end: Option<&[u8]>) -> Option<&RotRange> {
        let meets = |range: &&RotRange| {
            range.is_behind(start) && end.is_none_or(|end| &range.start[..] < end)
        };
        self.ranges.iter().find(meets)
    }
}

/// Blocks that seemed taken when replay met a record that takes them: rot hid from it what gave them
/// back. Whoever took them last has them; nobody else's place with such a block is one any more. Nor is
/// one in a volume that was given back since, which no block of was taken then.
#[derive(Clone, Default, Debug)]
pub struct Contested {
    taken: Vec<(Extent, OperationId)>,
    gone: BTreeSet<u32>,
}

impl Contested {
    /// Takes note of a place that comes, before its blocks are taken.
    pub fn note(&mut self, operation: OperationId, place: &Place, recorded: &RecordedBlocks) {
        let Place::Extents { extents, .. } = place else { return };
        for extent in extents {
            if !recorded.is_free(extent) || self.last(extent).is_some() {
                self.taken.push((*extent, operation));
            }
        }
    }

    /// Takes note of a volume that is not there any more.
    pub fn gone(&mut self, volume: u32) {
        self.gone.insert(volume);
    }

    /// The volumes that are not there any more.
    pub fn volumes_gone(&self) -> impl Iterator<Item = u32> {
        self.gone.iter().copied()
    }

    /// Whether nothing is contested.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.taken.is_empty() && self.gone.is_empty()
    }

    /// Whether a block of the operation's place was taken by another one since, or went with its volume.
    #[must_use]
    pub fn voids(&self, operation: OperationId, place: &Place) -> bool {
        let Place::Extents { extents, .. } = place else { return false };
        let other = |extent| self.last(extent).is_some_and(|owner| owner != operation);
        let is_gone = |extent: &Extent| self.gone.contains(&extent.volume);
        extents.iter().any(|extent| is_gone(extent) || other(extent))
    }

    /// Who took a block of the extent last.
    fn last(&self, extent: &Extent) -> Option<OperationId> {
        let meets = |other: &Extent| {
            other.volume == extent.volume
                && other.block < extent.block.saturating_add(extent.blocks)
                && extent.block < other.block.saturating_add(other.blocks)
        };
        self.taken.iter().rev().find(|(taken, _)| meets(taken)).map(|(_, owner)| *owner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: &str, end: &str) -> RotRange {
        let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        RotRange { start: bytes(start), end: bytes(end), upto: Lsn(7), highest: Ballot::ZERO }
    }

    /// Goal: a range holds its keys and no others, walks meet it, a known one is not added again, and
    /// their number is bounded. Method: tables over three ranges, two of which overlap.
    #[test]
    fn ranges_hold_their_keys_and_no_others() {
        let mut ranges = RotRanges::default();
        assert!(ranges.add(range("m", "p")) && ranges.add(range("b", "d")));
        assert!(ranges.add(range("c", "f")) && ranges.add(range("n", "o")));
        assert_eq!(ranges.all().len(), 3, "the last lies in the first");
        for (key, held) in [("a", false), ("b", true), ("d", true), ("f", false), ("p", false)] {
            assert_eq!(ranges.of(key.as_bytes()).is_some(), held, "{key}");
        }
        let met = |start: &str, end: Option<&str>| {
            let range = ranges.first_in(start.as_bytes(), end.map(str::as_bytes));
            range.map(|range| range.start.clone())
        };
        assert_eq!(met("a", Some("b")), None);
        assert_eq!(met("a", Some("bb")), Some("b".into()));
        assert_eq!(met("d", None), Some("c".into()));
        assert_eq!(met("f", None), Some("m".into()));
        assert_eq!(met("p", None), None);
        let last = range("x", "");
        assert!(!ranges.knows(&last) && ranges.add(last));
        assert!(ranges.of(b"zzz").is_some() && ranges.knows(&range("y", "")));
        let mut many = RotRanges::default();
        let keys: Vec<String> = (0..=RANGES_MAX).map(|n| format!("{n:04}")).collect();
        let added = keys.iter().filter(|key| many.add(range(key, &format!("{key}1")))).count();
        assert_eq!(added, RANGES_MAX);
    }
}
