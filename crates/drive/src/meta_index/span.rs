//! [`IndexContent`]: which keys an index holds.

use crate::value::REPAIR_SPACE;

/// What the index holds. The runs hold everything, whatever this says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum IndexContent {
    /// Uploads, parts, buckets, documents and repair records: queues and small tables, whose net state
    /// is a few records and whose runs are full of what was removed since (ADR 0020).
    #[default]
    Few,
    /// Object entries and places, too: for measuring that they do not pay, and for tests.
    All,
}

/// Keys from a first one (inclusive) to another (exclusive; unbounded when `None`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// The first.
    pub start: &'static [u8],
    /// The first that is not held.
    pub end: Option<&'static [u8]>,
}

impl Span {
    fn holds(&self, key: &[u8]) -> bool {
        self.start <= key && self.end.is_none_or(|end| key < end)
    }

    fn holds_range(&self, start: &[u8], end: Option<&[u8]>) -> bool {
        let ends = self.end.is_none_or(|own| end.is_some_and(|end| end <= own));
        self.start <= start && ends
    }
}

/// All keyspaces behind that of objects, and the repair records.
const FEW: [Span; 2] = [
    Span { start: &[2], end: Some(&[6]) },
    Span { start: &[REPAIR_SPACE], end: Some(&[REPAIR_SPACE + 1]) },
];

/// Every key of a drive.
const ALL: [Span; 1] = [Span { start: &[1], end: None }];

impl IndexContent {
    /// The keys that are held, in order.
    #[must_use]
    pub const fn spans(self) -> &'static [Span] {
        match self {
            Self::Few => &FEW,
            Self::All => &ALL,
        }
    }

    /// Whether `key` is held, and so keys that begin like it.
    #[must_use]
    pub fn holds(self, key: &[u8]) -> bool {
        self.spans().iter().any(|span| span.holds(key))
    }

    /// Whether all keys from `start` to `end` are held.
    #[must_use]
    pub fn holds_range(self, start: &[u8], end: Option<&[u8]>) -> bool {
        self.spans().iter().any(|span| span.holds_range(start, end))
    }
}

#[cfg(test)]
mod tests {
    use holdfast_types::Keyspace;

    use super::*;
    use crate::value::{PLACE_SPACE, TOMBSTONE_SPACE, UNSETTLED_SPACE};

    /// Goal: few holds every keyspace but that of objects, and of a drive's own records the repairs
    /// alone. Method: every first byte.
    #[test]
    fn few_holds_queues_and_tables() {
        for byte in 0..=u8::MAX {
            let space = Keyspace::try_from(byte);
            let held = space.is_ok_and(|space| space != Keyspace::Object) || byte == REPAIR_SPACE;
            assert_eq!(IndexContent::Few.holds(&[byte, 7]), held, "{byte}");
            assert_eq!(IndexContent::All.holds(&[byte, 7]), byte >= 1, "{byte}");
        }
        for other in [PLACE_SPACE, UNSETTLED_SPACE, TOMBSTONE_SPACE] {
            assert!(!IndexContent::Few.holds_range(&[other], Some(&[other + 1])));
        }
    }

    /// Goal: a range is held only as a whole. Method: ranges on either side of each border.
    #[test]
    fn ranges_are_held_whole() {
        let few = IndexContent::Few;
        assert!(few.holds_range(&[2], Some(&[6])) && few.holds_range(&[3, 1], Some(&[3, 2])));
        assert!(!few.holds_range(&[2], Some(&[6, 0])) && !few.holds_range(&[1, 9], Some(&[3])));
        assert!(!few.holds_range(&[3], None) && !few.holds_range(&[5], Some(&[REPAIR_SPACE])));
        assert!(few.holds_range(&[REPAIR_SPACE, 1], Some(&[REPAIR_SPACE + 1])));
        assert!(IndexContent::All.holds_range(&[1], None));
    }
}
