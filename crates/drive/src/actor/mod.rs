//! The actors that own drives: [`DriveActor`] one drive, [`DriveGroup`] the drives that share an
//! Arbiter (DESIGN section 5).
//!
//! ```text
//! LocalNode -- one Batch a group --> DriveGroup --calls--> DriveCell (Drive, log thread, I/O pool)
//!                                                            |  ^ BatchWritten, JobDone
//!                                                            v  |
//!                                              log thread, I/O threads --> completions straight to
//!                                                                          the waiting caller
//! ```
//!
//! The group reaches its drives' cells without a message of its own, for all live on one thread: a
//! request costs one thread hop a group however many of its drives it names. Handlers decide in
//! memory; whatever waits for a device runs on the drive's own threads.
//!
//! A panic in a drive is caught: its actor stops, the callers get errors, and the supervisor opens the
//! drive again from disk.

mod cell;
mod log_thread;

use std::{cell::RefCell, rc::Rc, sync::Arc, time::Duration};

use actix::prelude::*;
use holdfast_types::{DriveId, seam::Clock};

pub use self::cell::{DriveCell, DriveParts};
use crate::{
    api::{DriveError, DriveRequest, ShardRead},
    drive::{JobOutcome, LoadOutcome, ShardDone},
    gate::Completion,
    log::writer::BatchOutcome,
};

/// How often a drive looks after itself: leases, spare segments, batches that are due.
const TICK: Duration = Duration::from_millis(200);

/// What a drive's actor and threads report to whoever supervises it.
pub type Report = Arc<dyn Fn(DriveEvent) + Send + Sync>;

/// What happened to a drive.
#[derive(Debug)]
pub enum DriveEvent {
    /// It panicked, or its log thread did: it is to be closed and opened again.
    Died {
        /// What was said.
        cause: String,
    },
}

/// Where an actor lives: the one start function serves simulation and product.
#[derive(Debug, Clone)]
pub enum Place {
    /// In the Arbiter that starts it.
    Here,
    /// In another one.
    On(ArbiterHandle),
}

/// Requests for drives of one group, by slot. Each is answered through its completion.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Batch {
    /// Slot, request, completion: requests to one drive in order.
    pub items: Vec<(usize, DriveRequest, Completion)>,
    /// On the monotonic clock: requests met later than this are dropped, which answers them.
    pub deadline_micros: u64,
    /// What they are traced under.
    pub span: tracing::Span,
}

/// Opens a shard on the drive in a slot.
#[derive(Message)]
#[rtype(result = "()")]
pub struct OpenShard {
    /// The slot.
    pub slot: usize,
    /// What to open.
    pub read: ShardRead,
    /// Gets the reader, for use on the drive's I/O threads.
    pub done: ShardDone,
}

/// Gives a slot an opened drive.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Adopt {
    /// The slot, free until now.
    pub slot: usize,
    /// The drive and its threads.
    pub parts: DriveParts,
}

/// Takes the drive out of a slot once no batch is under way; answers with it so that it can be closed
/// where that may block.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Release {
    /// The slot.
    pub slot: usize,
    /// Gets the parts; nothing when the slot is free.
    pub done: Box<dyn FnOnce(Option<DriveParts>) + Send>,
}

/// The drives of one Arbiter.
pub struct DriveGroup {
    clock: Arc<dyn Clock>,
    slots: Vec<Option<(Rc<RefCell<DriveCell>>, Addr<DriveActor>)>>,
}

impl DriveGroup {
    /// Starts a group of `slots` free slots at `place`.
    #[must_use]
    pub fn start_at(place: &Place, slots: usize, clock: Arc<dyn Clock>) -> Addr<Self> {
        let make = move || Self { clock, slots: (0..slots).map(|_| None).collect() };
        match place {
            Place::Here => make().start(),
            Place::On(arbiter) => Self::start_in_arbiter(arbiter, move |_| make()),
        }
    }

    fn cell(&self, slot: usize) -> Option<&Rc<RefCell<DriveCell>>> {
        self.slots.get(slot)?.as_ref().map(|(cell, _)| cell)
    }
}

impl Actor for DriveGroup {
    type Context = Context<Self>;
}

impl Handler<Batch> for DriveGroup {
    type Result = ();

    fn handle(&mut self, batch: Batch, _: &mut Self::Context) {
        if self.clock.monotonic_micros() > batch.deadline_micros {
            return;
        }
        let mut touched = Vec::new();
        let _within = batch.span.enter();
        for (slot, request, done) in batch.items {
            // A completion that is dropped answers by itself.
            let Some(cell) = self.cell(slot) else { continue };
            let (span, done) = traced(&request, done);
            span.in_scope(|| cell.borrow_mut().handle(request, batch.deadline_micros, done));
            if !touched.contains(&slot) {
                touched.push(slot);
            }
        }
        for slot in touched {
            if let Some(cell) = self.cell(slot) {
                cell.borrow_mut().pump();
            }
        }
    }
}

/// The span of a request to a drive, which ends with its answer.
fn traced(request: &DriveRequest, done: Completion) -> (tracing::Span, Completion) {
    let span = holdfast_trace::span!("drive.request", request = request.name());
    if span.is_none() {
        return (span, done);
    }
    let within = span.clone();
    let done = move |result: crate::api::DriveResult| {
        if let Err(error) = &result {
            within.record("otel.status_description", tracing::field::display(error));
        }
        drop(within);
        done(result);
    };
    (span, Box::new(done))
}

impl Handler<OpenShard> for DriveGroup {
    type Result = ();

    fn handle(&mut self, open: OpenShard, _: &mut Self::Context) {
        if let Some(cell) = self.cell(open.slot) {
            let mut cell = cell.borrow_mut();
            cell.open_shard(&open.read, open.done);
            cell.pump();
        }
    }
}

impl Handler<Adopt> for DriveGroup {
    type Result = ();

    fn handle(&mut self, adopt: Adopt, _: &mut Self::Context) {
        let cell = Rc::new(RefCell::new(DriveCell::new(adopt.parts)));
        let addr = DriveActor { cell: Rc::clone(&cell), releasing: None }.start();
        cell.borrow_mut().attach(addr.clone());
        let slot = self.slots.get_mut(adopt.slot).expect("the supervisor knows the slots");
        assert!(slot.is_none(), "a slot is released before it is adopted again");
        *slot = Some((cell, addr));
    }
}

impl Handler<Release> for DriveGroup {
    type Result = ();

    fn handle(&mut self, release: Release, _: &mut Self::Context) {
        match self.slots.get_mut(release.slot).and_then(Option::take) {
            Some((_, addr)) => addr.do_send(Retire { done: release.done }),
            None => (release.done)(None),
        }
    }
}

/// A batch of the log was written; `None` when writing it panicked.
#[derive(Message)]
#[rtype(result = "()")]
struct BatchWritten(Option<BatchOutcome>);

/// A background job is done.
#[derive(Message)]
#[rtype(result = "()")]
struct JobDone(JobOutcome);

/// A look-up below the overlay is done.
#[derive(Message)]
#[rtype(result = "()")]
struct Loaded(LoadOutcome);

/// The drive leaves its actor.
#[derive(Message)]
#[rtype(result = "()")]
struct Retire {
    done: Box<dyn FnOnce(Option<DriveParts>) + Send>,
}

/// The owner of one drive: identity, health, log, index. Requests come through its group, which
/// shares its thread; what its own threads have done comes by message.
pub struct DriveActor {
    cell: Rc<RefCell<DriveCell>>,
    releasing: Option<Retire>,
}

impl DriveActor {
    /// Hands the drive out when nothing of it is under way, and stops.
    fn release_if_idle(&mut self, ctx: &mut Context<Self>) {
        let mut cell = self.cell.borrow_mut();
        if self.releasing.is_some() && !cell.is_batch_out() {
            let retire = self.releasing.take().expect("seen just above");
            (retire.done)(cell.take_parts());
            ctx.stop();
        }
    }
}

impl Actor for DriveActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(TICK, |actor, ctx| {
            actor.cell.borrow_mut().tick();
            actor.release_if_idle(ctx);
        });
    }
}

impl Handler<BatchWritten> for DriveActor {
    type Result = ();

    fn handle(&mut self, written: BatchWritten, ctx: &mut Self::Context) {
        {
            let mut cell = self.cell.borrow_mut();
            cell.batch_written(written.0);
            if self.releasing.is_none() {
                cell.pump();
            }
        }
        self.release_if_idle(ctx);
    }
}

impl Handler<JobDone> for DriveActor {
    type Result = ();

    fn handle(&mut self, done: JobDone, _: &mut Self::Context) {
        let mut cell = self.cell.borrow_mut();
        cell.job_done(done.0);
        if self.releasing.is_none() {
            cell.pump();
        }
    }
}

impl Handler<Loaded> for DriveActor {
    type Result = ();

    fn handle(&mut self, loaded: Loaded, _: &mut Self::Context) {
        let mut cell = self.cell.borrow_mut();
        cell.loaded(loaded.0);
        if self.releasing.is_none() {
            cell.pump();
        }
    }
}

impl Handler<Retire> for DriveActor {
    type Result = ();

    fn handle(&mut self, retire: Retire, ctx: &mut Self::Context) {
        self.releasing = Some(retire);
        self.release_if_idle(ctx);
    }
}

/// The drive a completion or error is about, when it has no drive any more.
pub(crate) fn gone(drive: DriveId) -> DriveError {
    let message = "it is being opened again after a failure; repeat the request";
    DriveError::failed(drive, holdfast_types::ErrorClass::Unavailable, message)
}
