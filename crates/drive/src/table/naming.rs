//! Places and chores that rot hid, counted anew from the registers that name them (INV-FILL-2, ADR 0019).

use bytes::Bytes;
use holdfast_types::{OperationId, ShardIndex};

use super::{Dropped, Table};
use crate::{
    overlay::{BaseError, Found},
    value::{PlaceRecord, RegisterRecord, Value},
};

impl Table {
    /// Whether a register names something in a range that is being counted anew.
    #[must_use]
    pub fn names_counted(&self, register: &[u8], record: &RegisterRecord) -> bool {
        !self.counted_names(record).is_empty() || !self.counted_chores(register, record).is_empty()
    }

    /// The operations that entries name whose places are counted anew, once for each entry that does; with the
    /// shard that the drive should hold.
    fn counted_names(&self, record: &RegisterRecord) -> Vec<(OperationId, ShardIndex)> {
        let rot = self.layers.rot();
        let entries = record.state.entries.iter().zip(&record.notes);
        let named = entries.flat_map(|(held, note)| {
            held.entry.data_operations().map(|operation| (operation, note.shard))
        });
        named.filter(|(operation, _)| rot.counts_anew(&PlaceRecord::key(*operation))).collect()
    }

    fn counted_chores(&self, register: &[u8], record: &RegisterRecord) -> Vec<Vec<u8>> {
        let mut chores = record.chores(register);
        chores.retain(|key| self.layers.rot().counts_anew(key));
        chores
    }

    /// The operations of entries whose own shard goes missing by [`Self::name`].
    #[must_use]
    pub fn loses_own(&self, record: &RegisterRecord) -> Vec<OperationId> {
        let own = |operation: &OperationId| record.state.of_operation(*operation).is_some();
        let named = self.counted_names(record).into_iter().map(|(operation, _)| operation);
        named.filter(own).collect()
    }

    /// Makes sure that all that [`Self::name`] looks at for these registers is there.
    ///
    /// # Errors
    /// As [`Self::ready_for`].
    pub fn ready_to_name<'a>(
        &self,
        records: impl Iterator<Item = &'a RegisterRecord>,
    ) -> Result<(), BaseError> {
        let named = records.flat_map(|record| self.counted_names(record));
        self.layers.ready_counted(named.map(|(operation, _)| PlaceRecord::key(operation).into()))
    }

    /// Counts what a register names in ranges that are counted anew. Where the bytes lie is not known any more:
    /// the shards are missing, and the healer's. Nobody can have come to name such an operation, or have ceased
    /// to, since the count began, for both look at its place.
    pub(super) fn name(&mut self, register: &Bytes) -> Result<Vec<Dropped>, BaseError> {
        let (record, _) = self.register(register)?;
        let named = self.counted_names(&record);
        for (operation, shard) in &named {
            let key: Bytes = PlaceRecord::key(*operation).into();
            let Found { value, .. } = self.layers.get_counted(&key)?;
            let mut place = match value.as_deref() {
                Some(Value::Place(place)) => place.clone(),
                _ => PlaceRecord { shard: *shard, ..PlaceRecord::default() },
            };
            place.references += 1;
            self.layers.put(key, Some(Value::Place(place)), self.batch, false);
        }
        if !named.is_empty() {
            let lose = |record: &mut RegisterRecord| {
                named.iter().flat_map(|(operation, _)| record.lose(*operation)).collect()
            };
            self.change(register, Some(self.batch), lose)?;
        }
        let (record, _) = self.register(register)?;
        for key in self.counted_chores(register, &record) {
            // Whether it was there is not known, so it is not counted: the tally counts.
            self.layers.put(key.into(), Some(Value::Chore), 0, false);
        }
        Ok(Vec::new())
    }
}
