//! The scrub: re-reads every live byte of the drive at a set rate, from the medium, behind all other work.
//! Rot it finds goes the way of rot that a reader meets (ADR 0009, 0017, 0022).
//!
//! ```text
//! tick -> a page of places, in the order of their operations, from the drive's own table; the ledger's step
//!      -> job, once their records are durable: reads every block --rotten--> `culprits`: whose, told, `verify`
//!      -> step done: taken off what is owed; the next step when the rate allows
//! places at their end -> runs that were there then, block by block --rotten--> a range on record (`rot`)
//!      -> Pass: complete when nothing is owed (INV-SCRUB-1)
//! ```
//!
//! One step is out at a time. What it reads is held against reuse, like a client's read. Its book is logged
//! every few seconds, and with every checkpoint: a restart reads the steps since then again.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use holdfast_types::{Geometry, OperationId, ScrubOrder, limits};

use crate::{
    api::DriveReply,
    io_pool::Priority,
    log::record::Record,
    overlay::{BaseError, Page},
    runs::{RottenRange, Run, RunError},
    scrub::{Count, PLACES_END, Phase, RATE_MAX, ScrubStatus},
    value::{Place, PlaceRecord, Value},
    volume::read::{Medium, ShardReader},
};

use super::{
    BackgroundJob, Decision, Drive, Stop,
    culprits::Culprits,
    jobs::{Done, job_behind},
};

/// Steps a second that a rate is cut into; the drive's tick comes five times a second.
const STEPS_A_SECOND: u64 = 4;

/// Bytes of one step: at least one read, at most some tenths of a second of an I/O thread.
const STEP_BYTES: std::ops::RangeInclusive<u64> = 256 << 10..=64 << 20;

/// A shard costs no less than this against the rate, for a small one costs a seek: at the default rate 256
/// a second, of which a hard disk can do about as many.
const SHARD_BYTES_MIN: u64 = 64 << 10;

/// Bytes read at once.
const READ_BYTES: u64 = 1 << 20;

/// Places looked at for one step.
const PAGE: usize = 512;

/// How often the book is logged while a pass is under way: what a restart reads again.
const KEEP_MICROS: u64 = 10_000_000;

/// What is under way.
#[derive(Default)]
pub(super) struct Scrub {
    /// Held by the step under way, wherever it waits.
    out: Arc<()>,
    /// The step's shards, between two jobs.
    ready: Option<Box<Queue>>,
    run: RunAt,
    /// The next step is not taken before this time on the monotonic clock.
    due_at: u64,
    /// The book differs from what the log says.
    is_dirty: bool,
    kept_at: u64,
    pub culprits: Culprits,
}

/// Where it is in a run.
#[derive(Default)]
struct RunAt {
    block: usize,
    bytes: u64,
}

/// Shards of one step.
pub(super) struct Queue {
    /// It can be read once this batch is written.
    batch: u64,
    items: VecDeque<Item>,
    /// The first block of the first item that was not read yet.
    block: u64,
    taken: Count,
    read: Count,
}

/// A shard to be read.
struct Item {
    operation: OperationId,
    len: u64,
    reader: ShardReader,
}

/// What a step did.
pub(super) enum Step {
    Shards {
        begun: u64,
        cost: u64,
        queue: Box<Queue>,
        rotten: Vec<OperationId>,
        token: Arc<()>,
    },
    Run {
        begun: u64,
        at: usize,
        bytes: u64,
        met: Vec<RottenRange>,
        end: Option<u64>,
        token: Arc<()>,
    },
}

impl Drive {
    /// Carries out an order; answers how the scrub stands.
    pub(super) fn scrub(&mut self, order: ScrubOrder) -> Decision {
        match order {
            ScrubOrder::Status => {}
            ScrubOrder::Start => {
                self.table.scrub.paused = false;
                if self.table.scrub.phase == Phase::Idle {
                    self.start_scrub();
                }
            }
            ScrubOrder::Pause => self.table.scrub.paused = true,
            ScrubOrder::Resume => self.table.scrub.paused = false,
            ScrubOrder::Rate(rate) if (1..=RATE_MAX).contains(&rate) => {
                self.table.scrub.rate = rate;
                self.scrub.due_at = 0;
            }
            ScrubOrder::Rate(_) => {
                return Err(Stop::invalid(format!(
                    "scrub: a rate is 1 to {RATE_MAX} bytes a second"
                )));
            }
        }
        if order != ScrubOrder::Status {
            (self.scrub.is_dirty, self.scrub.kept_at) = (true, 0);
        }
        Ok(DriveReply::Scrub(self.scrub_status()))
    }

    /// How it stands.
    #[must_use]
    pub fn scrub_status(&self) -> ScrubStatus {
        let book = &self.table.scrub;
        let set = self.background.runs().set();
        let left = set.runs().iter().map(|run| run.meta()).filter(|meta| match book.phase {
            Phase::Runs => meta.id.0 >= book.next_run && meta.id.0 <= book.last_run,
            _ => true,
        });
        book.status(left.map(|meta| meta.bytes).sum())
    }

    fn start_scrub(&mut self) {
        let live = Count { shards: self.table.facts.shards, bytes: self.table.facts.used_bytes };
        self.table.scrub.begin(live, self.clock.wall_micros());
        (self.scrub.due_at, self.scrub.run) = (0, RunAt::default());
        self.scrub.is_dirty = true;
    }

    /// Begins a pass when one is due: so long after the begin of the last, or after the formatting.
    fn scrub_when_due(&mut self) {
        let Some(every) = self.options.scrub_every_micros else { return };
        let book = &self.table.scrub;
        let last = book.pass.started_at.max(self.identity.formatted_at);
        let is_due = self.clock.wall_micros() >= last.saturating_add(every);
        if book.phase == Phase::Idle && !book.paused && is_due {
            self.start_scrub();
        }
    }

    /// What is to be done for it now.
    pub(super) fn scrub_jobs(&mut self) -> Vec<BackgroundJob> {
        self.scrub_when_due();
        let mut jobs: Vec<_> = self.culprit_job().into_iter().collect();
        jobs.extend(self.scrub_step());
        self.keep_book();
        jobs
    }

    /// The next step, if it is time.
    fn scrub_step(&mut self) -> Option<BackgroundJob> {
        let now = self.clock.monotonic_micros();
        let is_out = Arc::strong_count(&self.scrub.out) > 1;
        let book = &self.table.scrub;
        if is_out || book.phase == Phase::Idle || now < self.scrub.due_at {
            return None;
        }
        if book.paused {
            // What it holds is not held for as long as an operator likes.
            self.scrub.ready = None;
            self.table.scrub.ledger.reopen();
            return None;
        }
        if self.scrub.culprits.is_full() {
            return None;
        }
        if book.phase == Phase::Runs {
            return self.scrub_run(now);
        }
        if self.scrub.ready.is_none() {
            let token = self.scrub.out.clone();
            self.work(move |drive| {
                let _step = &token;
                drive.plan_step()
            });
        }
        let ready = self.scrub.ready.take()?;
        if ready.batch > self.gate.durable() {
            self.scrub.ready = Some(ready);
            return None;
        }
        let (token, budget) = (self.scrub.out.clone(), self.step_budget());
        Some(job_behind(Priority::Scrub, "scrub shards", move || {
            Done::Scrubbed(read_shards(now, budget, ready, token))
        }))
    }

    fn step_budget(&self) -> u64 {
        (self.table.scrub.rate / STEPS_A_SECOND).clamp(*STEP_BYTES.start(), *STEP_BYTES.end())
    }

    /// Takes the next places into a step.
    fn plan_step(&mut self) -> Result<(), Stop> {
        let from = self.table.scrub.ledger.from().clone();
        if from[..] >= PLACES_END[..] {
            self.end_of_shards();
            return Ok(());
        }
        match self.table.layers.scan(&from, Some(&PLACES_END), PAGE) {
            Ok(page) => self.take_step(&page),
            Err(BaseError::Rotten(met)) => self.pass_hidden(&from, &met),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn take_step(&mut self, page: &Page) {
        let budget = self.step_budget();
        let mut to = page.next.clone().unwrap_or_else(|| Bytes::from_static(&PLACES_END));
        let (mut taken, mut read) = (Count::default(), Count::default());
        let mut cost = 0;
        let mut items = VecDeque::new();
        for (key, value) in &page.items {
            if cost >= budget {
                to = key.clone();
                break;
            }
            let (Value::Place(record), Some(operation)) = (&**value, operation_of(key)) else {
                continue;
            };
            let len = record.place.len();
            if record.place.is_none() {
                continue;
            }
            taken.add(Count::one(len));
            if record.rotten {
                // On record; an object that names it may not have been told.
                read.add(Count::one(len));
                self.scrub.culprits.want(operation);
                continue;
            }
            cost += len.max(SHARD_BYTES_MIN);
            if let Some(reader) = self.reader(operation, record, plain(len, block_guess(record))) {
                items.push_back(Item { operation, len, reader });
            }
        }
        self.table.scrub.ledger.step(to, taken);
        self.scrub.ready = Some(Box::new(Queue { batch: page.gate, items, block: 0, taken, read }));
    }

    /// Passes what rot hides: it stays owed, for nobody knows where it lies.
    fn pass_hidden(&mut self, from: &Bytes, met: &RottenRange) {
        self.table.layers.meet(met.clone());
        let rot = self.table.layers.rot();
        let is_known = rot.knows(&met.into()) || !rot.has_room();
        let starts_here = met.start <= *from;
        if !(is_known && starts_here) {
            // The next tick puts it on record, and the scan then ends before it.
            return;
        }
        let end = met.end.clone().filter(|end| end[..] < PLACES_END[..] && end > from);
        let end = end.unwrap_or_else(|| Bytes::from_static(&PLACES_END));
        self.table.scrub.ledger.step(end, Count::default());
        self.table.scrub.ledger.close();
        self.scrub.is_dirty = true;
    }

    fn end_of_shards(&mut self) {
        let set = self.background.runs().set();
        let last = set.runs().iter().map(|run| run.meta().id.0).max();
        self.table.scrub.begin_runs(last.unwrap_or(0));
        self.scrub.run = RunAt::default();
        self.scrub.is_dirty = true;
    }

    /// The next blocks of the runs that were there when the shards were behind it.
    fn scrub_run(&mut self, now: u64) -> Option<BackgroundJob> {
        let book = &self.table.scrub;
        let set = self.background.runs().set();
        let left = set.runs().iter().filter(|run| {
            let id = run.meta().id.0;
            id >= book.next_run && id <= book.last_run
        });
        let Some(run) = left.min_by_key(|run| run.meta().id.0).cloned() else {
            self.end_of_pass();
            return None;
        };
        if run.meta().id.0 != book.next_run {
            self.table.scrub.next_run = run.meta().id.0;
            self.scrub.run = RunAt::default();
        }
        let (token, at, budget) =
            (self.scrub.out.clone(), self.scrub.run.block, self.step_budget());
        Some(job_behind(Priority::Scrub, "scrub a run", move || {
            Done::Scrubbed(read_run(now, budget, at, &run, token))
        }))
    }

    /// Takes note of a step.
    pub(super) fn scrubbed(&mut self, step: Step) {
        let (begun, cost) = match step {
            Step::Shards { begun, cost, queue, rotten, token } => {
                drop(token);
                rotten.into_iter().for_each(|operation| self.scrub.culprits.want(operation));
                self.shards_read(queue);
                (begun, cost)
            }
            Step::Run { begun, at, bytes, met, end, token } => {
                drop(token);
                met.into_iter().for_each(|met| self.table.layers.meet(met));
                self.run_read(at, bytes, end);
                (begun, bytes)
            }
        };
        // A rate is kept over time: a step that read more makes the next one wait longer.
        let micros = u128::from(cost) * 1_000_000 / u128::from(self.table.scrub.rate.max(1));
        self.scrub.due_at = begun.saturating_add(u64::try_from(micros).unwrap_or(u64::MAX));
        self.scrub.is_dirty = true;
    }

    fn shards_read(&mut self, queue: Box<Queue>) {
        if self.table.scrub.phase != Phase::Shards {
            return;
        }
        if !queue.items.is_empty() {
            self.scrub.ready = Some(queue);
            return;
        }
        let book = &mut self.table.scrub;
        let mut missed = queue.taken;
        missed.take(queue.read);
        book.pass.read.add(queue.read);
        book.pass.missed.add(missed);
        book.ledger.close();
    }

    fn run_read(&mut self, at: usize, bytes: u64, end: Option<u64>) {
        let run = &mut self.scrub.run;
        (run.block, run.bytes) = (at, run.bytes + bytes);
        let Some(whole) = end else { return };
        let book = &mut self.table.scrub;
        book.pass.run_bytes += run.bytes;
        book.pass.run_missed += whole.saturating_sub(run.bytes);
        book.next_run += 1;
        self.scrub.run = RunAt::default();
    }

    /// The pass is over once all that it found is dealt with.
    fn end_of_pass(&mut self) {
        if !self.scrub.culprits.is_idle() {
            return;
        }
        let pass = self.table.scrub.finish(self.clock.wall_micros());
        (self.scrub.is_dirty, self.scrub.kept_at) = (true, 0);
        if pass.is_complete() {
            tracing::info!(drive = %self.id(), ?pass, "the scrub has read every live byte");
        } else {
            tracing::error!(
                drive = %self.id(), ?pass,
                "the scrub came to its end and has not read every live byte"
            );
        }
    }

    /// Logs the book, now and then. It rides a batch of others, and when there is none it is one.
    fn keep_book(&mut self) {
        let now = self.clock.monotonic_micros();
        let since = now.saturating_sub(self.scrub.kept_at);
        if !self.scrub.is_dirty || (self.scrub.kept_at > 0 && since < KEEP_MICROS) {
            return;
        }
        let book = Box::new(self.table.scrub.settled());
        // Without room in the log it is tried again with the next tick.
        if self.record(&Record::Scrub(book), false).is_ok() {
            (self.scrub.is_dirty, self.scrub.kept_at) = (false, now.max(1));
        }
    }
}

/// Reads shards until the budget is spent: the first block that is not right ends a shard.
fn read_shards(begun: u64, budget: u64, mut queue: Box<Queue>, token: Arc<()>) -> Step {
    let (mut cost, mut rotten) = (0, Vec::new());
    while let Some(item) = queue.items.front_mut() {
        if cost >= budget {
            break;
        }
        if queue.block == 0 {
            let (header, all_right) = item.reader.headers();
            if let Some(header) = header {
                item.reader.geometry = plain(item.len, header.geometry.block_bytes);
            }
            // Looked at like a rotten shard: that writes the headers anew when it is right.
            rotten.extend((!all_right).then_some(item.operation));
        }
        let geometry = item.reader.geometry;
        let count = (READ_BYTES / u64::from(geometry.block_bytes)).max(1);
        let count = count.min(geometry.stripe_count() - queue.block);
        let read = item.reader.read_from(Medium::Device, queue.block, count);
        cost += (count * u64::from(geometry.block_bytes)).min(item.len).max(SHARD_BYTES_MIN);
        queue.block += count;
        if read.is_err() {
            rotten.push(item.operation);
        } else if queue.block < geometry.stripe_count() {
            continue;
        }
        queue.read.add(Count::one(item.len));
        queue.block = 0;
        queue.items.pop_front();
    }
    Step::Shards { begun, cost, queue, rotten, token }
}

/// Reads blocks of a run from block `at` on, and behind the last what frames them.
fn read_run(begun: u64, budget: u64, mut at: usize, run: &Run, token: Arc<()>) -> Step {
    let (mut bytes, mut met, mut end) = (0, Vec::new(), None);
    while bytes < budget {
        if at < run.block_count() {
            match run.verify_block(at) {
                Ok(len) => bytes += len,
                Err(RunError::Rotten(range)) => met.push(range),
                Err(error) => tracing::warn!(%error, block = at, "the scrub cannot read a run"),
            }
            at += 1;
            continue;
        }
        match run.verify_frame() {
            Ok(Some(len)) => bytes += len,
            // In memory it is whole: the next merge writes it anew.
            rotten => tracing::error!(run = run.meta().id.0, ?rotten, "a run's frame is rotten"),
        }
        end = Some(run.meta().bytes);
        break;
    }
    Step::Run { begun, at, bytes, met, end, token }
}

/// The operation that a place's key names.
fn operation_of(key: &[u8]) -> Option<OperationId> {
    Some(OperationId::from_bytes(key.get(1..)?.try_into().ok()?))
}

/// A shape whose shards are as long, cut into such blocks: enough to verify them. The entry's own may lie
/// anywhere in the index.
const fn plain(len: u64, block_bytes: u32) -> Geometry {
    let size = len - len.div_ceil(block_bytes as u64) * CHECKSUM;
    Geometry { data_shards: 1, total_shards: 1, block_bytes, size }
}

const CHECKSUM: u64 = holdfast_types::geometry::CHECKSUM_BYTES as u64;

/// What a shard's blocks are as long as, before its header says.
fn block_guess(record: &PlaceRecord) -> u32 {
    let inline = matches!(record.place, Place::Inline { .. });
    // An inline shard is one block, however long.
    let len = u32::try_from(record.place.len()).unwrap_or(u32::MAX);
    if inline { len.max(limits::BLOCK_BYTES) } else { limits::BLOCK_BYTES }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the plain shape has shards of the given length. Method: lengths of shards of real shapes.
    #[test]
    fn a_plain_shape_is_as_long() {
        for size in [1_u64, 100, 128 << 10, (128 << 10) - 16, 3 << 20, (700 << 20) + 5] {
            for k in [1, 2, 5, 12] {
                let shape = Geometry::new(k, 16, size);
                let plain = plain(shape.shard_len(), shape.block_bytes);
                assert_eq!(plain.shard_len(), shape.shard_len());
                assert_eq!(plain.stripe_count(), shape.stripe_count());
            }
        }
    }
}
