//! [`Census`]: how many entries name each operation, counted anew by a walk over all registers (INV-FILL-2).
//!
//! ```text
//! registers:  asked; what comes and goes here changes the census, too  |  not asked yet   |  places
//!                                                                      at                    compared at the end
//! ```
//!
//! What a register that rot hid had named stays counted when the register is void. When no register is hidden or
//! void that may come back, a reference that no entry holds is nobody's, and so is what only such keep.
//! Operations are counted a stretch at a time, for there may be more than memory should hold.

use std::collections::HashMap;

use bytes::Bytes;
use holdfast_types::OperationId;

use super::{Dropped, Table};
use crate::{
    overlay::{BaseError, Page},
    value::{PLACE_SPACE, PlaceRecord, RegisterRecord, Value},
};

/// Operations of one stretch, about: some 40 MB.
const STRETCH: u64 = 500_000;

/// A walk under way.
pub struct Census {
    /// The stretch: operations from the first to the last.
    first: u128,
    last: u128,
    /// How many operations a stretch covers.
    step: u128,
    at: Bytes,
    /// Where the comparison of the stretch's places goes on.
    compared: Bytes,
    names: HashMap<OperationId, u64>,
}

impl Census {
    /// The first stretch, on a drive with about so many shards.
    #[must_use]
    pub fn new(shards: u64) -> Self {
        let stretches = shards / STRETCH + 1;
        Self::of(0, u128::MAX / u128::from(stretches))
    }

    fn of(first: u128, step: u128) -> Self {
        let last = first.saturating_add(step);
        let compared = PlaceRecord::key(OperationId(first)).into();
        Self { first, last, step, at: Bytes::from_static(&[1]), compared, names: HashMap::new() }
    }

    /// Where the walk over registers goes on.
    #[must_use]
    pub const fn at(&self) -> &Bytes {
        &self.at
    }

    /// Whether all registers were asked: the places of the stretch are to be compared.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.at[..] >= [PLACE_SPACE][..]
    }

    /// The keys of the stretch's places that were not compared yet: the first, and the one behind the last.
    #[must_use]
    pub fn places(&self) -> (Bytes, Vec<u8>) {
        let last = PlaceRecord::key(OperationId(self.last));
        (self.compared.clone(), [&last[..], &[0]].concat())
    }

    /// The places up to `next` are compared, or all of the stretch. `false` when there is nothing behind it.
    pub fn go_on(&mut self, next: Option<Bytes>) -> bool {
        match (next, self.last.checked_add(1)) {
            (Some(next), _) => self.compared = next,
            (None, Some(first)) => *self = Self::of(first, self.step),
            (None, None) => return false,
        }
        true
    }

    /// Counts a page: all registers up to `next`.
    ///
    /// # Panics
    /// When the walk goes back.
    pub fn take(&mut self, page: &Page, next: Bytes) {
        assert!(next > self.at, "a walk goes on");
        self.at = next;
        for (key, value) in &page.items {
            let Value::Register(record) = &**value else { continue };
            for operation in named_by(record) {
                self.name(key, operation, true);
            }
        }
    }

    /// An entry of a register comes to name an operation, or ceases to.
    pub fn name(&mut self, register: &[u8], operation: OperationId, comes: bool) {
        let is_inside = (self.first..=self.last).contains(&operation.0);
        if !is_inside || register >= &self.at[..] {
            return;
        }
        let count = self.names.entry(operation).or_default();
        *count = if comes { *count + 1 } else { count.saturating_sub(1) };
        if *count == 0 {
            self.names.remove(&operation);
        }
    }

    /// How many entries name an operation of the stretch, once all registers were asked.
    #[must_use]
    pub fn count(&self, operation: OperationId) -> u64 {
        self.names.get(&operation).copied().unwrap_or(0)
    }
}

impl Table {
    /// An entry of a register comes to name operations, or ceases to.
    pub(super) fn tell_census(
        &mut self,
        register: &[u8],
        operations: impl Iterator<Item = OperationId>,
        comes: bool,
    ) {
        if let Some(census) = &mut self.census {
            operations.for_each(|operation| census.name(register, operation, comes));
        }
    }

    /// The places of a page that count other references than there are, with how many there are.
    #[must_use]
    pub fn miscounted(&self, page: &Page) -> Vec<(OperationId, u64)> {
        let Some(census) = &self.census else { return Vec::new() };
        let wrong = page.items.iter().filter_map(|(key, value)| {
            let (Value::Place(record), Ok(id)) = (&**value, key.get(1..)?.try_into()) else {
                return None;
            };
            let operation = OperationId::from_bytes(id);
            let count = census.count(operation);
            (record.references != count).then_some((operation, count))
        });
        wrong.collect()
    }

    /// So many entries name an operation.
    pub(super) fn correct(
        &mut self,
        operation: OperationId,
        references: u64,
    ) -> Result<Vec<Dropped>, BaseError> {
        let (record, _) = self.place(operation)?;
        let by = references.wrapping_sub(record.references).cast_signed();
        let dropped = if by == 0 { None } else { self.refer(operation, by, record.shard)? };
        Ok(dropped.into_iter().collect())
    }
}

fn named_by(record: &RegisterRecord) -> impl Iterator<Item = OperationId> + '_ {
    record.state.entries.iter().flat_map(|held| held.entry.data_operations())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the stretches cover every operation once. Method: drives of all sizes; borders of stretches.
    #[test]
    fn stretches_cover_all_operations_once() {
        for shards in [0, 1, STRETCH, 3 * STRETCH + 1, 1000 * STRETCH] {
            let mut census = Census::new(shards);
            assert_eq!(census.first, 0);
            let mut count = 1_u64;
            loop {
                let last = census.last;
                if !census.go_on(None) {
                    break;
                }
                assert_eq!(census.first, last + 1);
                count += 1;
            }
            assert_eq!(census.last, u128::MAX);
            assert!(
                count >= shards / STRETCH && count <= shards / STRETCH + 2,
                "{shards}: {count}"
            );
        }
    }

    /// Goal: what comes and goes behind the walk changes the count, what does ahead of it does not.
    #[test]
    fn what_changes_behind_the_walk_is_counted() {
        let mut census = Census::new(1);
        let operation = OperationId(7);
        census.name(&[1, 5], operation, true);
        assert_eq!(census.count(operation), 0, "it is asked when the walk comes by");
        census.take(&Page::default(), Bytes::from_static(&[2]));
        for comes in [true, true, false] {
            census.name(&[1, 5], operation, comes);
        }
        assert_eq!(census.count(operation), 1);
        census.name(&[1, 6], operation, false);
        assert_eq!((census.count(operation), census.names.len()), (0, 0));
    }
}
