//! [`Contested`]: claims to blocks that replay over rot cannot decide at once.

use std::collections::BTreeSet;

use holdfast_types::OperationId;

use crate::{
    value::{Extent, Place},
    volume::RecordedBlocks,
};

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
