//! A set's membership as a document of its own: the value of a register in that set, and what each of
//! its drives keeps of it (docs/format/layout.md).

use holdfast_types::{DriveId, Keyspace, NodeIndex, RegisterKey, SetEpoch, SetIndex};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::{DriveSlot, Layout, SetLayout};
use crate::error::PlacementError;

/// What the document says it is.
const FORMAT: &str = "holdfast-set";

/// The version written.
const VERSION: u64 = 1;

/// Bytes of a document at most: 16 drives with the longest paths.
const BYTES_MAX: usize = 128 << 10;

/// What the names of the documents begin with; the set's index follows.
const PREFIX: &[u8] = b"set/";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format: String,
    version: u64,
    checksum: String,
    set: SetLayout,
}

/// The set whose membership a document's key names.
pub(super) fn set_of_document(key: &RegisterKey) -> Option<SetIndex> {
    let digits = key.name.strip_prefix(PREFIX).filter(|_| key.space == Keyspace::Document)?;
    std::str::from_utf8(digits).ok()?.parse().ok().map(SetIndex)
}

impl SetLayout {
    /// The key of the register that holds a set's membership, in the set itself.
    #[must_use]
    pub fn register(set: SetIndex) -> RegisterKey {
        RegisterKey::document(&format!("set/{}", set.0))
    }

    /// The document.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let (format, version) = (FORMAT.to_owned(), VERSION);
        let document = Document { format, version, checksum: self.checksum(), set: self.clone() };
        serde_json::to_vec(&document).expect("numbers, strings and lists always serialize")
    }

    /// Reads a document and checks all of it.
    ///
    /// # Errors
    /// [`PlacementError`] when the bytes are not one, or contradict themselves.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PlacementError> {
        let syntax = |cause: String| PlacementError::DocumentSyntax { cause };
        if bytes.len() > BYTES_MAX {
            return Err(syntax(format!("longer than {BYTES_MAX} bytes")));
        }
        let document: Document =
            serde_json::from_slice(bytes).map_err(|error| syntax(error.to_string()))?;
        if document.format != FORMAT {
            return Err(syntax(format!("format is not {FORMAT}")));
        }
        if document.version != VERSION {
            return Err(PlacementError::DocumentVersion { found: document.version });
        }
        if document.checksum != document.set.checksum() {
            return Err(PlacementError::DocumentChecksum);
        }
        document.set.check()?;
        Ok(document.set)
    }

    fn checksum(&self) -> String {
        let compact = serde_json::to_vec(self);
        let compact = compact.expect("numbers, strings and lists always serialize");
        format!("{:032x}", xxh3_128(&compact))
    }

    /// The slot of a drive.
    #[must_use]
    pub fn slot_of(&self, drive: DriveId) -> Option<usize> {
        self.drives.iter().position(|slot| slot.drive == drive)
    }

    /// The slots whose drives are being rebuilt.
    pub fn rebuilding(&self) -> impl Iterator<Item = usize> {
        self.drives.iter().enumerate().filter(|(_, slot)| slot.rebuilding).map(|(at, _)| at)
    }

    /// The membership after `slot` went to `drive`, which is to be rebuilt: at the place of the one
    /// before it, under the next epoch.
    ///
    /// # Errors
    /// [`PlacementError::MemberRebuilding`] when `slot` counts and another drive of the set does not: with
    /// every drive that does not count one less may fail, so it is one after the other.
    pub fn with_replaced(&self, slot: usize, drive: DriveId) -> Result<Self, PlacementError> {
        let other = self.rebuilding().find(|other| *other != slot);
        if let Some(other) = other.filter(|_| !self.drives[slot].rebuilding) {
            let DriveSlot { drive, path, .. } = &self.drives[other];
            return Err(PlacementError::MemberRebuilding { drive: *drive, path: path.clone() });
        }
        Ok(self.changed(slot, |slot| {
            slot.drive = drive;
            slot.rebuilding = true;
        }))
    }

    /// The membership after all drives of `gone` (slot, and who has it from now on) were given up.
    #[must_use]
    pub fn with_given_up(&self, gone: &[(usize, DriveId)]) -> Self {
        let mut next = self.clone();
        next.epoch = SetEpoch(self.epoch.0 + 1);
        for (slot, drive) in gone {
            next.drives[*slot].drive = *drive;
            next.drives[*slot].rebuilding = true;
        }
        next
    }

    /// The same membership under the next epoch: a drive has forgotten some of what it accepted (ADR 0019).
    #[must_use]
    pub fn renewed(&self) -> Self {
        Self { epoch: SetEpoch(self.epoch.0 + 1), ..self.clone() }
    }

    /// Drives that count.
    #[must_use]
    pub fn counting(&self) -> usize {
        self.drives.len() - self.rebuilding().count()
    }

    /// The membership after the drive of `slot` was rebuilt.
    #[must_use]
    pub fn with_rebuilt(&self, slot: usize) -> Self {
        self.changed(slot, |slot| slot.rebuilding = false)
    }

    /// The membership after the drive of `slot` moved.
    #[must_use]
    pub fn with_moved(&self, slot: usize, node: NodeIndex, path: &str) -> Self {
        self.changed(slot, |slot| {
            slot.node = node;
            path.clone_into(&mut slot.path);
        })
    }

    fn changed(&self, slot: usize, change: impl FnOnce(&mut DriveSlot)) -> Self {
        let mut next = self.clone();
        next.epoch = SetEpoch(self.epoch.0 + 1);
        change(&mut next.drives[slot]);
        next
    }
}

impl Layout {
    /// Takes in a newer membership of a set. True when it was one, and fits the layout.
    pub fn absorb(&mut self, newer: &SetLayout) -> bool {
        let nodes = self.nodes.len();
        let mine = self.pools.iter_mut().flat_map(|pool| &mut pool.sets);
        let Some(set) = mine.into_iter().find(|set| set.index == newer.index) else { return false };
        let fits = newer.drives.len() == set.drives.len()
            && newer.drives.iter().all(|slot| slot.node.get() < nodes);
        if newer.epoch <= set.epoch || !fits {
            return false;
        }
        *set = newer.clone();
        true
    }

    /// What two documents of one cluster know together: the newer generation, and of each set the
    /// newer membership.
    #[must_use]
    pub fn merged(self, other: &Self) -> Self {
        if self.generation < other.generation {
            return other.clone().merged(&self);
        }
        let mut merged = self;
        if merged.generation == other.generation {
            for set in other.sets() {
                merged.absorb(set);
            }
        }
        merged
    }

    /// The set and slot of a drive.
    #[must_use]
    pub fn slot_of(&self, drive: DriveId) -> Option<(&SetLayout, usize)> {
        self.sets().find_map(|set| Some((set, set.slot_of(drive)?)))
    }

    /// The set and slot at a place.
    #[must_use]
    pub fn slot_at(&self, node: NodeIndex, path: &str) -> Option<(&SetLayout, usize)> {
        self.sets().find_map(|set| {
            let here = |slot: &DriveSlot| slot.node == node && slot.path == path;
            Some((set, set.drives.iter().position(here)?))
        })
    }
}

#[cfg(test)]
mod tests {
    use holdfast_types::{ClusterId, seam::SeededRandom};

    use super::*;
    use crate::volumes::parse_volumes;

    fn layout() -> Layout {
        let pools = parse_volumes(&["http://n{1...2}/d{1...2}".to_owned()]).unwrap();
        Layout::plan(ClusterId(7), &pools, "", &SeededRandom::new(1)).unwrap()
    }

    /// Goal: a document comes back as it was written, and a changed one is an error. Method: round
    /// trip; every byte flipped.
    #[test]
    fn a_membership_is_whole_or_an_error() {
        let set = layout().first_set().with_replaced(2, DriveId(9)).unwrap();
        let bytes = set.to_bytes();
        assert_eq!(SetLayout::from_bytes(&bytes), Ok(set.clone()));
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 4;
            assert_ne!(SetLayout::from_bytes(&bytes), Ok(set.clone()), "byte {at}");
        }
    }

    /// Goal: drives of a set are replaced one after the other, and every change has an epoch of its
    /// own.
    #[test]
    fn one_drive_after_the_other() {
        let before = layout().first_set().clone();
        let one = before.with_replaced(1, DriveId(9)).unwrap();
        assert_eq!((one.epoch, one.drives[1].drive), (SetEpoch(1), DriveId(9)));
        assert!(one.drives[1].rebuilding && one.drives[1].path == before.drives[1].path);
        let refused = one.with_replaced(2, DriveId(10)).unwrap_err();
        assert!(matches!(refused, PlacementError::MemberRebuilding { drive: DriveId(9), .. }));
        let again = one.with_replaced(1, DriveId(10)).unwrap();
        assert_eq!(again.epoch, SetEpoch(2));
        let done = again.with_rebuilt(1);
        assert!(done.rebuilding().next().is_none());
        assert_eq!(done.with_replaced(2, DriveId(11)).unwrap().epoch, SetEpoch(4));
    }

    /// Goal: of two documents each set's newer membership is kept, whichever is asked. Method: sets
    /// newer on either side, a newer generation, a membership that does not fit.
    #[test]
    fn documents_merge_by_set() {
        let old = layout();
        let mut newer = old.clone();
        let change = old.first_set().with_replaced(0, DriveId(9)).unwrap();
        assert!(newer.absorb(&change) && !newer.absorb(&change));
        assert_eq!(old.clone().merged(&newer), newer);
        assert_eq!(newer.clone().merged(&old), newer);
        let next = Layout { generation: 2, ..old.clone() };
        assert_eq!(newer.clone().merged(&next), next);
        let mut odd = change.with_rebuilt(0);
        odd.drives.pop();
        assert!(!newer.absorb(&odd));
    }

    #[test]
    fn a_membership_lives_in_its_own_set() {
        let pools = ["http://n{1...2}/d{1...2}", "http://n{1...2}/e{1...2}"].map(str::to_owned);
        let pools = parse_volumes(&pools).unwrap();
        let layout = Layout::plan(ClusterId(7), &pools, "", &SeededRandom::new(1)).unwrap();
        for set in layout.sets() {
            let key = SetLayout::register(set.index);
            assert_eq!(layout.set_of(&key).unwrap().index, set.index);
        }
        let key = RegisterKey::document("layout");
        assert_eq!(layout.set_of(&key).unwrap().index, SetIndex(0));
    }
}
