//! Whose a rotten shard is. A place knows its operation alone: which registers name that, a walk over all
//! of them tells. Rot is rare, and one walk looks for all that was found by then.
//!
//! ```text
//! want -> job: walk over the registers -> named -> told: looked at again by the entry's own shape (`verify`),
//!                                         |        recorded as lost, the healer's
//!                                         +------> nameless: nobody's, told in the log
//! ```

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use holdfast_types::OperationId;

use crate::{
    io_pool::Priority,
    log::record::Record,
    overlay::{Base, BaseError},
    value::{PLACE_SPACE, RegisterRecord, Value},
};

use super::{
    BackgroundJob, Drive, Stop,
    jobs::{Done, job_behind},
};

/// Rotten shards that wait to be looked for; the scrub waits while there are more.
const WANTED_MAX: usize = 4096;

/// Registers asked for at once.
const PAGE: usize = 1024;

/// Shards told of in one tick.
const TOLD_MAX: usize = 64;

/// Rotten shards, and who names them.
#[derive(Default)]
pub(super) struct Culprits {
    wanted: BTreeSet<OperationId>,
    /// What a walk looks for now.
    sought: BTreeSet<OperationId>,
    named: VecDeque<Named>,
    /// Held by the looks under way.
    looks: Arc<()>,
}

/// A register that names an operation.
type Named = (Bytes, OperationId);

impl Culprits {
    /// Takes note of a rotten shard.
    pub(super) fn want(&mut self, operation: OperationId) {
        self.wanted.insert(operation);
    }

    /// Whether no more should come.
    pub(super) fn is_full(&self) -> bool {
        self.wanted.len() >= WANTED_MAX
    }

    /// Whether all that was found is told, and looked at.
    pub(super) fn is_idle(&self) -> bool {
        let looks = Arc::strong_count(&self.looks) > 1;
        !looks && self.wanted.is_empty() && self.sought.is_empty() && self.named.is_empty()
    }
}

impl Drive {
    /// Tells of shards whose registers were found, and begins the next walk.
    pub(super) fn culprit_job(&mut self) -> Option<BackgroundJob> {
        self.tell_some();
        let culprits = &mut self.scrub.culprits;
        if culprits.wanted.is_empty() || !culprits.sought.is_empty() || !culprits.named.is_empty() {
            return None;
        }
        culprits.sought = std::mem::take(&mut culprits.wanted);
        let (sought, (base, _)) = (culprits.sought.clone(), self.table.layers.base());
        Some(job_behind(Priority::Scrub, "find whose shards are rotten", move || {
            Done::Named(who_names(&*base, &sought))
        }))
    }

    /// Takes note of a walk over what lies below the overlay; what came since is looked for here.
    pub(super) fn culprits_found(&mut self, found: Result<Vec<Named>, BaseError>) {
        let sought = std::mem::take(&mut self.scrub.culprits.sought);
        let mut found = match found {
            Ok(found) => found,
            Err(error) => {
                if let BaseError::Rotten(met) = &error {
                    self.table.layers.meet(met.clone());
                }
                tracing::warn!(drive = %self.id(), %error, "cannot find whose shards are rotten");
                self.scrub.culprits.wanted.extend(sought);
                return;
            }
        };
        for (key, value) in self.table.layers.above_base(&[1], &[PLACE_SPACE]) {
            if let Some(Value::Register(record)) = value {
                names(key, record, &sought, &mut found);
            }
        }
        found.sort_unstable();
        found.dedup();
        let named: BTreeSet<_> = found.iter().map(|(_, operation)| *operation).collect();
        for operation in sought.difference(&named) {
            tracing::error!(drive = %self.id(), %operation, "a rotten shard is nobody's");
        }
        self.scrub.culprits.named.extend(found);
    }

    fn tell_some(&mut self) {
        for _ in 0..self.scrub.culprits.named.len().min(TOLD_MAX) {
            let Some((register, operation)) = self.scrub.culprits.named.pop_front() else { break };
            if self.suspects.is_known(operation) || self.suspects.is_full() {
                // Another register that names it waits for the verdict, too; it is told of it then.
                self.scrub.culprits.named.push_back((register, operation));
                continue;
            }
            self.work(move |drive| drive.tell_of_rot(&register, operation));
        }
    }

    /// As if a reader had complained, who read the shard for the sake of this register.
    fn tell_of_rot(&mut self, register: &Bytes, operation: OperationId) -> Result<(), Stop> {
        let (held, _) = self.table.register(register)?;
        let (record, _) = self.table.place(operation)?;
        if !record.is_whole() {
            if held.takes_loss_of_part(operation) {
                let place = record.place;
                self.record(&Record::Lost { register: register.clone(), operation, place }, true)?;
            }
            return Ok(());
        }
        let Some(suspect) = self.suspect_in(register.clone(), &held, operation)? else {
            return Ok(());
        };
        let look = self.scrub.culprits.looks.clone();
        self.look_at(suspect, Box::new(move |_| drop(look)));
        Ok(())
    }
}

/// All registers below the overlay that name one of the operations.
fn who_names(base: &dyn Base, sought: &BTreeSet<OperationId>) -> Result<Vec<Named>, BaseError> {
    let (mut found, mut start) = (Vec::new(), vec![1]);
    loop {
        let page = base.scan(&start, Some(&[PLACE_SPACE]), PAGE)?;
        for (key, bytes) in &page.items {
            if let Ok(Value::Register(record)) = Value::decode(key, bytes) {
                names(key, &record, sought, &mut found);
            }
        }
        match page.items.last().filter(|_| page.more) {
            Some((last, _)) => start = [last, &[0_u8][..]].concat(),
            None => return Ok(found),
        }
    }
}

fn names(
    register: &Bytes,
    record: &RegisterRecord,
    sought: &BTreeSet<OperationId>,
    found: &mut Vec<Named>,
) {
    for operation in record.state.entries.iter().flat_map(|held| held.entry.data_operations()) {
        if sought.contains(&operation) {
            found.push((register.clone(), operation));
        }
    }
}
