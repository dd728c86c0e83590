//! [`Overlay`]: net changes by key, in order.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    ops::Bound,
    sync::Arc,
};

use bytes::Bytes;

use crate::value::Value;

/// Roughly the memory of a key and its place in the tree.
const SLOT_BYTES: u64 = 96;

/// One key of an overlay.
#[derive(Clone, Debug)]
pub struct Slot {
    /// The value; `None` when the key was removed.
    pub value: Option<Arc<Value>>,
    /// Answers that rest on it wait for this batch.
    pub gate: u64,
    /// Nothing below holds the key: when it is removed again, nothing need be remembered of it.
    pub fresh: bool,
}

/// Net changes, in key order.
#[derive(Default, Debug)]
pub struct Overlay {
    slots: BTreeMap<Bytes, Slot>,
    weight: u64,
}

impl Overlay {
    /// What was last put or removed.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&Slot> {
        self.slots.get(key)
    }

    /// Puts or removes a key. `was_absent` tells that nothing was held for it. One search of the tree,
    /// whatever is to be done: keys that begin alike make it dear.
    pub fn put(&mut self, key: Bytes, value: Option<Arc<Value>>, gate: u64, was_absent: bool) {
        let key_bytes = key.len() as u64;
        let weigh =
            |value: Option<&Arc<Value>>| SLOT_BYTES + key_bytes + value.map_or(0, |v| v.weight());
        match self.slots.entry(key) {
            Entry::Occupied(mut held) => {
                let fresh = held.get().fresh;
                self.weight -= weigh(held.get().value.as_ref());
                if value.is_some() || !fresh {
                    self.weight += weigh(value.as_ref());
                    held.insert(Slot { value, gate, fresh });
                } else {
                    held.remove();
                }
            }
            Entry::Vacant(place) => {
                if value.is_some() || !was_absent {
                    self.weight += weigh(value.as_ref());
                    place.insert(Slot { value, gate, fresh: was_absent });
                }
            }
        }
    }

    /// Drops the slots of a range of keys, as if they had never been put.
    pub(super) fn drop_range(&mut self, start: &[u8], end: Option<&[u8]>) {
        let keys: Vec<Bytes> = self.range(start, end).map(|(key, _)| key.clone()).collect();
        for key in keys {
            let gone = self.slots.remove(&key).and_then(|slot| slot.value);
            self.weight -= SLOT_BYTES + key.len() as u64 + gone.map_or(0, |value| value.weight());
        }
    }

    /// Slots in a range of keys.
    pub fn range<'a>(
        &'a self,
        start: &[u8],
        end: Option<&[u8]>,
    ) -> impl Iterator<Item = (&'a Bytes, &'a Slot)> {
        let end = end.map_or(Bound::Unbounded, Bound::Excluded);
        let empty = matches!(end, Bound::Excluded(end) if end <= start);
        let range = (!empty).then(|| self.slots.range::<[u8], _>((Bound::Included(start), end)));
        range.into_iter().flatten()
    }

    /// Roughly its memory in bytes.
    #[must_use]
    pub const fn weight(&self) -> u64 {
        self.weight
    }

    /// Keys in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Every slot, in key order.
    pub fn iter(&self) -> impl Iterator<Item = (&Bytes, &Slot)> {
        self.slots.iter()
    }
}
