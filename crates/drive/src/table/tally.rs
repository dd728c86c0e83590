//! [`Tally`]: all that is held, counted by a walk beside the running drive (INV-FILL-2).
//!
//! ```text
//! keys:   counted; what changes here changes the tally, too  |  not looked at yet
//!                                                            at
//! ```
//!
//! What rot hid and what was void was counted when it came, and was not taken off when it went. When the walk is
//! at its end the tally says what there is, and takes the place of the counters: blocks and segments that
//! nothing names are free again.

use std::collections::BTreeMap;

use bytes::Bytes;
use holdfast_types::codec::{CodecError, Reader, Writer};

use super::Table;
use crate::{
    checkpoint::DurableFacts,
    value::{Extent, Place, REPAIR_SPACE, TOMBSTONE_SPACE, Value},
    volume::RecordedBlocks,
};

/// The first key behind all there are.
pub const END: [u8; 1] = [TOMBSTONE_SPACE + 1];

/// What there is of each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counted {
    /// Registers.
    pub registers: u64,
    /// Repair records.
    pub repairs: u64,
    /// Live shards.
    pub shards: u64,
    /// Their bytes.
    pub used_bytes: u64,
}

impl Counted {
    /// Takes the place of the counters.
    pub fn tell(&self, facts: &mut DurableFacts) {
        let Self { registers, repairs, shards, used_bytes } = *self;
        *facts = DurableFacts { registers, repairs, shards, used_bytes, ..*facts };
    }

    /// Appends them.
    pub fn encode(&self, out: &mut Writer) {
        for number in [self.registers, self.repairs, self.shards, self.used_bytes] {
            out.varint(number);
        }
    }

    /// The inverse of [`Self::encode`].
    ///
    /// # Errors
    /// [`CodecError`] when the bytes are not such a form.
    pub fn decode(input: &mut Reader<'_>) -> Result<Self, CodecError> {
        let (registers, repairs) = (input.varint()?, input.varint()?);
        let (shards, used_bytes) = (input.varint()?, input.varint()?);
        Ok(Self { registers, repairs, shards, used_bytes })
    }
}

/// A walk under way.
#[derive(Default)]
pub struct Tally {
    at: Bytes,
    counted: Counted,
    /// Live inline shards, and their bytes, by segment.
    segments: BTreeMap<u32, (u64, u64)>,
    blocks: RecordedBlocks,
}

impl Tally {
    /// Where the walk goes on.
    #[must_use]
    pub const fn at(&self) -> &Bytes {
        &self.at
    }

    /// What it has come to.
    #[must_use]
    pub const fn counted(&self) -> &Counted {
        &self.counted
    }

    /// Counts a page: all that is held up to `next`.
    ///
    /// # Panics
    /// When the walk goes back.
    pub fn take(&mut self, items: &[(Bytes, std::sync::Arc<Value>)], next: Bytes) {
        assert!(next > self.at, "a walk goes on");
        self.at = next;
        for (key, value) in items {
            match &**value {
                Value::Register(_) => self.register(key, false, true),
                Value::Place(record) => self.place(key, &record.place, true),
                Value::Chore => self.chore(key, true),
            }
        }
    }

    fn is_behind(&self, key: &[u8]) -> bool {
        key < &self.at[..]
    }

    /// A register comes, goes or stays.
    pub(super) fn register(&mut self, key: &[u8], was: bool, is: bool) {
        if self.is_behind(key) {
            let registers = &mut self.counted.registers;
            *registers = (*registers + u64::from(is)).saturating_sub(u64::from(was));
        }
    }

    /// A chore comes or goes.
    pub(super) fn chore(&mut self, key: &[u8], comes: bool) {
        if self.is_behind(key) && key[0] == REPAIR_SPACE {
            step(&mut self.counted.repairs, 1, comes);
        }
    }

    /// A place comes or goes.
    pub(super) fn place(&mut self, key: &[u8], place: &Place, comes: bool) {
        if !self.is_behind(key) || place.is_none() {
            return;
        }
        step(&mut self.counted.shards, 1, comes);
        step(&mut self.counted.used_bytes, place.len(), comes);
        match place {
            Place::None => {}
            Place::Inline { segment, len, .. } => {
                let live = self.segments.entry(*segment).or_default();
                step(&mut live.0, 1, comes);
                step(&mut live.1, u64::from(*len), comes);
            }
            Place::Extents { extents, .. } => {
                for extent in extents {
                    let free = if comes { self.blocks.take(*extent) } else { true };
                    debug_assert!(free, "INV-VOL-1: {extent:?} belongs to two shards");
                    if !comes {
                        self.blocks.give(*extent);
                    }
                }
            }
        }
    }
}

/// Never below nothing: a tally that did would say more than there is.
fn step(count: &mut u64, by: u64, comes: bool) {
    *count = if comes { *count + by } else { count.saturating_sub(by) };
}

impl Table {
    /// The walk is at its end, and its record is applied: what is taken is what it came to. Returns the blocks
    /// that nothing names.
    pub fn end_tally(&mut self) -> Vec<Extent> {
        let Some(tally) = self.tally.take() else { return Vec::new() };
        for (segment, used) in &mut self.segments {
            let (shards, bytes) = tally.segments.get(segment).copied().unwrap_or_default();
            if (used.live_shards, used.live_bytes) != (shards, bytes) {
                (used.live_shards, used.live_bytes) = (shards, bytes);
                self.dropped_at.insert(*segment, self.batch);
            }
        }
        let leaked = self.recorded.without(&tally.blocks);
        leaked.iter().for_each(|extent| self.recorded.give(*extent));
        leaked
    }
}
