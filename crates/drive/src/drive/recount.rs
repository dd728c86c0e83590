//! What rot hid and the drive can find out by itself: places and chores follow from its registers (INV-FILL-2,
//! ADR 0019).
//!
//! ```text
//! hidden places, chores --Recount: void below--> silent still; every register is asked, a page at a time:
//!                                                Named: it counts what it names, its shards are missing
//!   --all were: Filled--> answered; the healer brings the shards
//!   --registers came back: a walk over them: References--> what nobody names any more goes
//!   --a walk over all that is left: Tally--> counters, blocks and segments are what there is
//!   --a manifest says so--> the ranges leave the record (`cleanse`)
//! ```
//!
//! Where a walk is stands in memory alone: a restart begins it again, and what was counted before is void.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use holdfast_types::OperationId;

use crate::{
    log::record::Record,
    rot::{RotRange, RotStanding},
    table::{
        census::Census,
        tally::{Counted, END, Tally},
    },
    value::{Extent, PLACE_SPACE, PlaceRecord, RegisterRecord, Value},
};

use super::{Drive, Stop};

/// Records of a page.
const PAGE: usize = 256;

/// Pages at one tick: some thousand registers, between which the drive does other things.
const PAGES_AT_ONCE: usize = 24;

/// What is under way.
#[derive(Default)]
pub(super) struct Recount {
    walk: Option<Walk>,
    /// Filled ranges of registers since whose chores were counted anew; in this open.
    chores_of: Vec<RotRange>,
    /// Blocks that nothing names, and the batch that says so.
    leaked: Option<(u64, Vec<Extent>)>,
    /// Alive while a page is at work.
    at_work: Weak<()>,
}

/// A walk over all registers, for ranges that are counted anew.
struct Walk {
    at: Bytes,
    ranges: Vec<RotRange>,
}

impl Drive {
    /// Goes on with what rot left to be counted, when the log and the overlay have room.
    pub(super) fn recount_some(&mut self) {
        self.reclaim();
        let is_busy = self.background.recount.at_work.upgrade().is_some();
        if is_busy || self.table.layers.rot().is_empty() || self.check_room().is_err() {
            return;
        }
        // Whatever becomes of the work, it is not at work any more once it is dropped.
        let token = Arc::new(());
        self.background.recount.at_work = Arc::downgrade(&token);
        self.work(move |drive| {
            let _token = &token;
            drive.recount()
        });
    }

    /// Called again when it has to wait: each step stands for itself.
    fn recount(&mut self) -> Result<(), Stop> {
        for _ in 0..PAGES_AT_ONCE {
            let goes_on = if self.background.recount.walk.is_some() {
                self.ask_registers()?
            } else if self.table.census.is_some() {
                self.census_page()?
            } else if self.table.tally.is_some() {
                self.tally_page()?
            } else {
                self.begin_recount()?
            };
            if !goes_on {
                break;
            }
        }
        Ok(())
    }

    /// Begins what is due. `false`: nothing is, or not yet.
    fn begin_recount(&mut self) -> Result<bool, Stop> {
        let rot = self.table.layers.rot();
        let filled = |range: &&RotRange| matches!(range.standing, RotStanding::Filled(_));
        let filled: Vec<RotRange> = rot.all().iter().filter(filled).cloned().collect();
        let mut of_registers = filled.iter().filter(|range| range.is_of_registers());
        // Chores of registers that were void and did not come back are left over.
        let known = &self.background.recount.chores_of;
        let chores = of_registers.any(|range| !known.contains(range)) && rot.has_room();
        if chores || rot.to_recount().next().is_some() {
            if self.table.layers.is_frozen() {
                // It holds slots of before, which are read without their position.
                return Ok(false);
            }
            self.record(&Record::Recount { chores }, true)?;
            let ranges: Vec<RotRange> = self.table.layers.rot().to_recount().cloned().collect();
            let count = ranges.len();
            tracing::info!(drive = %self.id(), ranges = count, "places and chores that rot hid are counted anew");
            let recount = &mut self.background.recount;
            recount.walk = Some(Walk { at: Bytes::from_static(&[1]), ranges });
            recount.chores_of = filled;
            return Ok(true);
        }
        if filled.is_empty() || self.table.tallied.is_some() {
            return Ok(false);
        }
        if filled.iter().any(RotRange::is_of_registers) && !self.table.is_named_right {
            // What may come back finds its shards here, and is who keeps them until then.
            let rot = self.table.layers.rot().all().iter();
            let is_whole = !rot.clone().any(|range| range.is_of_registers() && range.is_unfilled());
            self.table.census = is_whole.then(|| Census::new(self.table.facts.shards));
            return Ok(is_whole);
        }
        self.table.tally = Some(Tally::default());
        Ok(true)
    }

    /// A page of registers, or of the places that these name.
    fn census_page(&mut self) -> Result<bool, Stop> {
        let Some(census) = self.table.census.as_ref() else { return Ok(false) };
        if !census.is_asked() {
            let page = self.table.layers.scan(census.at(), Some(&[PLACE_SPACE]), PAGE)?;
            let next = page.next.clone();
            let next = next.unwrap_or_else(|| Bytes::from_static(&[PLACE_SPACE]));
            if let Some(census) = &mut self.table.census {
                census.take(&page, next);
            }
            return Ok(true);
        }
        self.check_room()?;
        let (start, end) = census.places();
        let page = self.table.layers.scan(&start, Some(&end), PAGE)?;
        let wrong = self.table.miscounted(&page);
        let key = |(operation, _): &(OperationId, u64)| PlaceRecord::key(*operation).into();
        self.table.layers.ready(wrong.iter().map(key))?;
        for (operation, count) in wrong {
            self.record(&Record::References { operation, count }, false)?;
        }
        let goes_on = self.table.census.as_mut().is_some_and(|census| census.go_on(page.next));
        if !goes_on {
            (self.table.census, self.table.is_named_right) = (None, true);
        }
        Ok(true)
    }

    /// A page of registers.
    fn ask_registers(&mut self) -> Result<bool, Stop> {
        let Some(at) = self.background.recount.walk.as_ref().map(|walk| walk.at.clone()) else {
            return Ok(false);
        };
        self.check_room()?;
        // What is hidden or void names nothing: it comes back, and counts then, or does not.
        let page = self.table.layers.scan(&at, Some(&[PLACE_SPACE]), PAGE)?;
        let asked = |(key, value): &(Bytes, Arc<Value>)| match &**value {
            Value::Register(record) if self.table.names_counted(key, record) => {
                Some((key.clone(), record.clone()))
            }
            _ => None,
        };
        let asked: Vec<(Bytes, RegisterRecord)> = page.items.iter().filter_map(asked).collect();
        self.table.ready_to_name(asked.iter().map(|(_, record)| record))?;
        for (register, record) in asked {
            for operation in self.table.loses_own(&record) {
                self.forget_open(&register, operation)?;
            }
            self.record(&Record::Named { register: register.clone() }, false)?;
            // It is counted: whoever goes on from here does not count it twice.
            self.go_on([&register[..], &[0]].concat().into());
        }
        match page.next {
            Some(next) => self.go_on(next),
            None => self.end_walk()?,
        }
        Ok(true)
    }

    fn go_on(&mut self, at: Bytes) {
        if let Some(walk) = &mut self.background.recount.walk {
            walk.at = at;
        }
    }

    /// All registers were asked: the ranges, as far as they stand as they did, are answered again.
    fn end_walk(&mut self) -> Result<(), Stop> {
        let recount = &mut self.background.recount;
        let Some(walk) = recount.walk.take() else { return Ok(()) };
        let count = walk.ranges.len();
        if let Err(stop) = self.record(&Record::Filled(walk.ranges.clone()), true) {
            self.background.recount.walk = Some(walk);
            return Err(stop);
        }
        tracing::info!(
            drive = %self.id(), ranges = count, "places and chores that rot hid are known again"
        );
        // What of deleted buckets named a hidden place could not go.
        self.erasing.again(&self.table);
        Ok(())
    }

    /// A page of all there is.
    fn tally_page(&mut self) -> Result<bool, Stop> {
        let Some(at) = self.table.tally.as_ref().map(|tally| tally.at().clone()) else {
            return Ok(false);
        };
        if at[..] >= END[..] {
            return self.end_tally();
        }
        let page = self.table.layers.scan(&at, Some(&END), PAGE)?;
        let next = page.next.unwrap_or_else(|| Bytes::from_static(&END));
        if let Some(tally) = &mut self.table.tally {
            tally.take(&page.items, next);
        }
        Ok(true)
    }

    fn end_tally(&mut self) -> Result<bool, Stop> {
        let Some(counted) = self.table.tally.as_ref().map(|tally| *tally.counted()) else {
            return Ok(false);
        };
        let before = self.table.facts;
        let batch = self.record(&Record::Tally(counted), true)?.batch;
        let leaked = self.table.end_tally();
        let blocks: u64 = leaked.iter().map(|run| u64::from(run.blocks)).sum();
        let Counted { registers, repairs, shards, used_bytes } = counted;
        tracing::info!(
            drive = %self.id(), blocks, registers, repairs, shards, used_bytes, ?before,
            "all that is held was counted anew: blocks that nothing names are free"
        );
        let waits = self.background.recount.leaked.take();
        let mut runs = waits.map(|(_, runs)| runs).unwrap_or_default();
        runs.extend(leaked);
        self.background.recount.leaked = Some((batch, runs));
        Ok(true)
    }

    /// Gives blocks back once it is durable that nothing names them.
    fn reclaim(&mut self) {
        let durable = self.gate.durable();
        let leaked = &mut self.background.recount.leaked;
        if let Some((_, runs)) = leaked.take_if(|(batch, _)| *batch <= durable) {
            runs.into_iter().for_each(|run| self.volumes.reclaim(run));
        }
    }
}
