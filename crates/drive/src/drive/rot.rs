//! Rot in runs (INV-RUN-1, ADR 0017): what a rotten block hid goes on record as a range of keys, so that
//! the block need not be read again, by merges least of all.
//!
//! ```text
//! look-up, walk, merge, replay --RottenRange--> met -> tick: Rot logged -> hidden; checkpoint; merges
//! ```

use holdfast_register::Refusal;
use holdfast_types::{ErrorClass, OperationId};

use crate::{
    api::{DriveReply, Filled, Issue},
    log::record::Record,
    overlay::BaseError,
    rot::{RANGES_MAX, RotRange},
    table::Table,
    value::{PLACE_SPACE, PlaceRecord, Value},
    volume::VolumeSet,
};

use super::{Decision, Drive, Stop};

impl Drive {
    /// Logs the ranges of rot met since.
    pub(super) fn record_rot(&mut self) {
        for met in self.table.layers.take_met() {
            let range = RotRange::from(&met);
            let rot = self.table.layers.rot();
            if rot.knows(&range) || !rot.has_room() {
                continue;
            }
            tracing::error!(
                drive = %self.id(), run = met.run.0, keys = ?range.start,
                "a run is rotten: nothing is known here of keys from there on"
            );
            self.work(move |drive| match drive.record(&Record::Rot(range.clone()), true) {
                Err(stop @ (Stop::Waits(_) | Stop::NoRoom)) => Err(stop),
                _ => Ok(()),
            });
        }
    }

    /// Ranges of registers that are hidden or open.
    pub(super) fn unfilled(&self) -> usize {
        let ranges = self.table.layers.rot().all().iter();
        ranges.filter(|range| range.is_of_registers() && range.is_unfilled()).count()
    }

    /// What an operator is told of it.
    pub(super) fn told_of_rot(&self) -> Option<String> {
        let ranges = self.table.layers.rot().all();
        let count = ranges.iter().filter(|range| range.is_unfilled()).count();
        if count > 0 {
            return Some(format!(
                "rot in its records hid what it knew of {count} ranges of keys, about which it answers \
                 nothing until they are filled from the other drives of its set"
            ));
        }
        let filled = ranges.len();
        (filled > 0).then(|| {
            format!(
                "rot in its records hid what it knew of {filled} ranges of keys; it knows them again, and \
                 what is missing is brought; if that goes on, replace it"
            )
        })
    }

    /// Opens hidden ranges of registers (INV-FILL-1). One record: with the floor at which all is refused that
    /// was ever accepted or promised here, and with the position below which all is void.
    pub(super) fn fill(&mut self, issue: &Issue, gate: &mut u64) -> Decision {
        self.take_membership(issue)?;
        *gate = (*gate).max(self.epoch_gate);
        if self.table.layers.rot().to_open(issue.epoch).next().is_none() {
            return Ok(DriveReply::Done);
        }
        if self.table.layers.is_frozen() {
            // It holds slots of before, which are read without their position.
            let message = "fill: an overlay is being written; ask again";
            return Err(Stop::Failed(ErrorClass::Overloaded, message.to_owned()));
        }
        let known = self.table.highest.max(self.table.facts.floor);
        let floor = self.volatile.highest().max(known);
        let appended = self.record(&Record::Fill { epoch: issue.epoch, floor }, true)?;
        self.volatile.floor = self.volatile.floor.max(floor);
        // What it accepted in these ranges it does not have any more (INV-REG-4).
        self.volatile.forget_all(self.now());
        *gate = (*gate).max(appended.batch);
        Ok(DriveReply::Done)
    }

    /// Open ranges count from now on.
    pub(super) fn filled(&mut self, filled: &Filled, gate: &mut u64) -> Decision {
        let current = self.table.facts.set_epoch;
        if filled.epoch < current {
            // The set has changed since the proof was begun: it may have missed something.
            return Err(Refusal::SetOutdated { current }.into());
        }
        if filled.ranges.len() > RANGES_MAX {
            return Err(Stop::invalid("filled: there are not so many ranges"));
        }
        // Of the others the drive finds out by itself.
        let ranges =
            filled.ranges.iter().filter(|range| range.is_of_registers()).cloned().collect();
        let appended = self.record(&Record::Filled(ranges), true)?;
        *gate = (*gate).max(appended.batch);
        Ok(DriveReply::Done)
    }
}

/// Ends the claims that replay over rot left standing: a record was hidden that let a place go, and its
/// blocks had a new owner later in the log. Were the old claim kept, moving or dropping it would give
/// away blocks that are in use (INV-VOL-1). The same goes for claims in a volume that was given back since:
/// nothing was left in it (INV-VOL-3), but what said so is hidden.
pub(super) fn disown(table: &mut Table, volumes: &VolumeSet) -> Result<(), BaseError> {
    if table.layers.is_rotten() {
        for volume in table.recorded.volumes().filter(|volume| volumes.gave_back(*volume)) {
            table.contested.gone(volume);
        }
    }
    if table.contested.is_empty() {
        return Ok(());
    }
    let contested = std::mem::take(&mut table.contested);
    contested.volumes_gone().for_each(|volume| table.recorded.forget(volume));
    let mut void: Vec<(OperationId, PlaceRecord)> = Vec::new();
    let mut start = bytes::Bytes::from(vec![PLACE_SPACE]);
    let end = [PLACE_SPACE + 1];
    loop {
        let page = table.layers.scan_patiently(&start, Some(&end))?;
        for (key, value) in &page.items {
            let Value::Place(record) = &**value else { continue };
            let Some(id) = key.get(1..).and_then(|id| id.try_into().ok()) else { continue };
            let operation = OperationId::from_bytes(id);
            if contested.voids(operation, &record.place) {
                void.push((operation, record.clone()));
            }
        }
        match page.next {
            Some(next) => start = next,
            None => break,
        }
    }
    for (operation, record) in void {
        tracing::warn!(%operation, "a place that rot left standing has another owner since");
        table.disown(operation, &record);
    }
    Ok(())
}
