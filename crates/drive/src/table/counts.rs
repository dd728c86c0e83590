//! What is counted of places that come and go: bytes, shards, segments, blocks, and what the scrub owes.

use holdfast_types::OperationId;

use super::Table;
use crate::value::{Place, PlaceRecord};

impl Table {
    /// Counts a place that comes. One that was given back by what rot hides from replay may still seem
    /// taken: its new owner is remembered.
    pub(super) fn count_new(&mut self, operation: OperationId, place: &Place) {
        self.contested.note(operation, place, &self.recorded);
        self.count_place(operation, place, true);
    }

    /// A place that another owner has taken since is nobody's: it goes, and its blocks stay taken.
    pub fn disown(&mut self, operation: OperationId, record: &PlaceRecord) {
        self.facts.used_bytes -= record.place.len();
        self.facts.shards -= u64::from(!record.place.is_none());
        self.scrub.moved(|| PlaceRecord::key(operation), record.place.len(), false);
        self.layers.put(PlaceRecord::key(operation).into(), None, 0, false);
    }

    /// Adjusts what is counted of a place that comes or goes.
    pub(super) fn count_place(&mut self, operation: OperationId, place: &Place, comes: bool) {
        if place.is_none() {
            return;
        }
        let bytes = place.len();
        if let Some(tally) = &mut self.tally {
            tally.place(&PlaceRecord::key(operation), place, comes);
        }
        if comes {
            self.facts.used_bytes += bytes;
            self.facts.shards += 1;
        } else {
            self.facts.used_bytes -= bytes;
            self.facts.shards -= 1;
        }
        self.scrub.moved(|| PlaceRecord::key(operation), bytes, comes);
        match place {
            Place::None => {}
            Place::Inline { segment, .. } => {
                let used = self.segments.entry(*segment).or_default();
                used.segment = *segment;
                if comes {
                    used.live_shards += 1;
                    used.live_bytes += bytes;
                } else {
                    used.live_shards -= 1;
                    used.live_bytes -= bytes;
                    self.dropped_at.insert(*segment, self.batch);
                }
            }
            Place::Extents { extents, .. } => {
                for extent in extents {
                    if comes {
                        let free = self.recorded.take(*extent);
                        let hidden = !self.contested.is_empty();
                        debug_assert!(free || hidden, "INV-VOL-1: {extent:?} is taken twice");
                    } else {
                        self.recorded.give(*extent);
                    }
                }
            }
        }
    }
}
