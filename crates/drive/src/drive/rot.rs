//! Rot in runs (INV-RUN-1, ADR 0017): what a rotten block hid goes on record as a range of keys, so that
//! the block need not be read again, by merges least of all.
//!
//! ```text
//! look-up, walk, merge, replay --RottenRange--> met -> tick: Rot logged -> hidden; checkpoint; merges
//! ```

use holdfast_types::OperationId;

use crate::{
    log::record::Record,
    overlay::BaseError,
    rot::{RANGES_MAX, RotRange},
    table::Table,
    value::{PLACE_SPACE, PlaceRecord, Value},
    volume::VolumeSet,
};

use super::{Drive, Stop};

impl Drive {
    /// Logs the ranges of rot met since.
    pub(super) fn record_rot(&mut self) {
        for met in self.table.layers.take_met() {
            let range = RotRange::from(&met);
            let rot = self.table.layers.rot();
            if rot.knows(&range) || rot.all().len() >= RANGES_MAX {
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

    /// What an operator is told of it.
    pub(super) fn told_of_rot(&self) -> Option<String> {
        let count = self.table.layers.rot().all().len();
        (count > 0).then(|| {
            format!(
                "rot in its records hid what it knew of {count} ranges of keys, about which it answers \
                 nothing; once all others of its set are whole, put a blank drive in its place"
            )
        })
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
