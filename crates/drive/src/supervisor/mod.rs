//! [`NodeSupervisor`]: opens a node's drives, places their actors on few Arbiters, replaces those that
//! die, and tells [`crate::local::LocalNode`] where each drive is.
//!
//! ```text
//!            opened                    died
//!  Opening ---------> Serving -------------------> Opening again, after a back-off
//!     | cannot be opened                              | too often
//!     v                                               v
//!   Down (one line of cause and cure; answers Unavailable)
//! ```
//!
//! Drives are opened and closed on threads of their own: one that hangs keeps nobody waiting but
//! itself. The supervisor is never on the way of a request: routes are shared with the carrier.

mod opening;
mod reseat;
mod routes;
mod start;

use std::{collections::HashMap, sync::Arc, time::Duration};

use actix::prelude::*;
use holdfast_types::{ClusterId, DriveId, DriveState, limits, seam::Clock};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

pub(crate) use self::routes::{Bulk, NodeShared, Route, Routes, SeatView};
pub use self::{
    opening::{DiskFactory, OpenRefusal, Opened, Trouble},
    reseat::{Fail, Reseat},
    routes::NOT_HERE,
    start::{NodeHandle, SeatReport, StartError, arbiters_of, start_supervisor},
};
use crate::{
    actor::{Adopt, DriveEvent, DriveGroup, DriveParts, Place, Release},
    drive::DriveOptions,
    suspect::{self, Meter, Suspicion, WINDOW_MICROS},
};

/// A drive that died this often is faulty until its node restarts: opening it again does not help.
const FAILURES_MAX: u32 = 5;

/// The wait before a drive that died is opened again; doubles with each time.
const BACK_OFF: Duration = Duration::from_millis(200);

/// One place for a drive, as the layout names it.
#[derive(Clone)]
pub struct Seat {
    /// Its path, for people.
    pub path: String,
    /// Opens its device.
    pub disk: DiskFactory,
    /// The identity the layout expects there, when it says so.
    pub expected: Option<DriveId>,
}

/// Sizes of what each drive and the node as a whole may have under way.
#[derive(Clone, Copy, Debug)]
pub struct NodeLimits {
    /// Requests admitted at once, over all drives.
    pub operations: usize,
    /// Bytes of shards on their way into the log, over all drives.
    pub inline_bytes: usize,
    /// Bytes of shard streams in memory, over all drives.
    pub bulk_bytes: usize,
    /// One drive may have one such part of operations and stream bytes under way, so that one that
    /// hangs leaves the rest to the others.
    pub share: usize,
    /// Bulk I/O threads of each drive.
    pub io_threads: usize,
    /// Jobs that wait for each drive and priority.
    pub io_depth: usize,
    /// How long a drive's sled may make no progress before it is set aside; without it drives on real
    /// file systems keep no index, and their runs alone answer.
    pub index_patience: Option<Duration>,
}

impl Default for NodeLimits {
    /// Operations: two batches of a thousand keys on sixteen drives. Bytes: what a node of 8 GiB can
    /// spare. Threads: a drive's queue is kept busy by a few requests of half a megabyte.
    fn default() -> Self {
        Self {
            operations: 2 * holdfast_types::limits::BATCH_REQUESTS_MAX,
            inline_bytes: 256 << 20,
            bulk_bytes: 512 << 20,
            share: 4,
            io_threads: 4,
            io_depth: 4096,
            index_patience: Some(Duration::from_secs(30)),
        }
    }
}

/// All that a node's drives need.
#[derive(Clone)]
pub struct NodeConfig {
    /// The node's name in messages to people: `http://storage-node1:9000`.
    pub name: String,
    /// The cluster; drives of another one are refused.
    pub cluster: ClusterId,
    /// Its drives.
    pub seats: Vec<Seat>,
    /// Sizes of a drive.
    pub options: DriveOptions,
    /// How often a drive was opened by the word of others.
    pub remembered: Remembered,
    /// Sizes of the node.
    pub limits: NodeLimits,
    /// Arbiters for the drives; one for every four drives when `None`.
    pub arbiters: Option<usize>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// How often a drive was opened by the word of others: see [`DriveOptions::opened_before`].
pub type Remembered = Arc<dyn Fn(DriveId) -> u64 + Send + Sync>;

/// Where a seat's drive is in its life.
enum Status {
    Opening,
    Serving { id: DriveId },
    Down,
}

struct SeatState {
    seat: Seat,
    group: usize,
    slot: usize,
    status: Status,
    failures: u32,
    /// Rises whenever the drive is opened; late news of an earlier one is ignored.
    incarnation: u64,
    /// What is measured of the drive that serves, and whether it is slow against its siblings.
    judged: Option<(Arc<Meter>, Suspicion)>,
}

/// The parent of a node's drive actors.
pub struct NodeSupervisor {
    config: NodeConfig,
    shared: Arc<NodeShared>,
    groups: Vec<Addr<DriveGroup>>,
    seats: Vec<SeatState>,
    /// Which seat holds which identity: two paths must not serve the same drive.
    claims: Arc<Mutex<HashMap<DriveId, usize>>>,
    closing: Option<Closing>,
}

struct Closing {
    left: usize,
    done: Box<dyn FnOnce() + Send>,
}

impl NodeSupervisor {
    /// A supervisor whose groups live at `places`; seats are spread over them in order.
    #[must_use]
    pub fn new(config: NodeConfig, shared: Arc<NodeShared>, places: &[Place]) -> Self {
        let per_group = config.seats.len().div_ceil(places.len().max(1)).max(1);
        let start = |place| DriveGroup::start_at(place, per_group, config.clock.clone());
        let groups: Vec<_> = places.iter().map(start).collect();
        let seats = config.seats.iter().enumerate().map(|(at, seat)| SeatState {
            seat: seat.clone(),
            group: at / per_group,
            slot: at % per_group,
            status: Status::Opening,
            failures: 0,
            incarnation: 0,
            judged: None,
        });
        let seats = seats.collect();
        shared.set_groups(groups.clone());
        Self { config, shared, groups, seats, claims: Arc::default(), closing: None }
    }

    /// Compares the drives that serve with each other (DRIVE.md, "States").
    fn judge(&mut self) {
        let serving = |state: &&mut SeatState| matches!(state.status, Status::Serving { .. });
        let mut seats: Vec<_> = self
            .seats
            .iter_mut()
            .filter(serving)
            .filter_map(|state| Some((&state.seat.path, state.judged.as_mut()?)))
            .collect();
        let seen: Vec<_> = seats.iter().map(|(_, (meter, _))| meter.window()).collect();
        for (at, (path, (meter, suspicion))) in seats.iter_mut().enumerate() {
            let others = seen.iter().enumerate().filter(|(other, _)| *other != at);
            let siblings: Vec<_> = others.map(|(_, latency)| *latency).collect();
            let next = suspicion.judge(seen[at], &siblings);
            if next.is_suspect != suspicion.is_suspect {
                tracing::warn!(path, suspect = next.is_suspect, seen = ?seen[at], "a drive is judged");
                meter.set_verdict(next.is_suspect.then(|| suspect::reason(seen[at])));
            }
            *suspicion = next;
        }
    }

    /// Opens a seat's drive on a thread of its own; the news comes as [`Opened`].
    fn open(&mut self, at: usize, ctx: &mut Context<Self>) {
        let state = &mut self.seats[at];
        state.incarnation += 1;
        state.status = Status::Opening;
        let view = SeatView::opening(&state.seat);
        self.shared.set_seat(at, view);
        let incarnation = state.incarnation;
        let (address, died) = (ctx.address(), ctx.address());
        let report = move |event| died.do_send(News { seat: at, incarnation, event });
        let opening = opening::Opening {
            seat: state.seat.clone(),
            at,
            claims: Arc::clone(&self.claims),
            config: self.config.clone(),
            report: Arc::new(report),
        };
        let done = move |result| address.do_send(Opened { seat: at, incarnation, result });
        if let Err(cause) = opening::spawn("hf-open", move || done(opening.run())) {
            self.give_up(at, &cause, Trouble::Other);
        }
    }

    /// The seat's drive does not serve, for this reason.
    fn give_up(&mut self, at: usize, reason: &str, trouble: Trouble) {
        let state = &mut self.seats[at];
        tracing::error!(path = state.seat.path, reason, "a drive does not serve");
        state.status = Status::Down;
        let view = SeatView::down(&state.seat, DriveState::Faulty, reason);
        self.shared.set_seat(at, view.with_trouble(trouble));
    }

    /// Takes a seat's drive out of its actor and closes it on a thread of its own, then calls `then`
    /// from there.
    fn close(&self, at: usize, then: impl FnOnce() + Send + 'static) {
        let state = &self.seats[at];
        let done = move |parts: Option<DriveParts>| {
            let close = move || {
                if let Some(parts) = parts {
                    parts.close();
                }
                then();
            };
            if let Err(cause) = opening::spawn("hf-close", close) {
                tracing::error!(cause, "a drive could not be closed");
            }
        };
        self.groups[state.group].do_send(Release { slot: state.slot, done: Box::new(done) });
    }

    fn opened(&mut self, at: usize, parts: DriveParts) {
        let state = &mut self.seats[at];
        let Some(drive) = parts.drive.as_ref() else { return };
        let limits = &self.config.limits;
        let share = |count: usize| {
            let permits = (count / limits.share.max(1)).clamp(1, Semaphore::MAX_PERMITS);
            Arc::new(Semaphore::new(permits))
        };
        let bytes = share(limits.bulk_bytes.max(4 * limits.share * limits::CHUNK_BYTES));
        let meter = Arc::clone(&parts.meter);
        let bulk = Bulk {
            uploads: drive.upload_port(),
            io: parts.io.clone(),
            meter: meter.clone(),
            bytes,
        };
        state.judged = Some((meter, Suspicion::default()));
        state.status = Status::Serving { id: parts.id };
        tracing::info!(path = state.seat.path, drive = %parts.id, "a drive serves");
        let view = SeatView::serving(
            &state.seat,
            parts.id,
            Route::new(state.group, state.slot, bulk, share(limits.operations)),
        );
        self.groups[state.group].do_send(Adopt { slot: state.slot, parts });
        // After the adoption is on its way: a request that follows the route finds the drive.
        self.shared.set_seat(at, view);
    }
}

impl Actor for NodeSupervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        for at in 0..self.seats.len() {
            self.open(at, ctx);
        }
        ctx.run_interval(Duration::from_micros(WINDOW_MICROS), |supervisor, _| supervisor.judge());
    }
}

impl Handler<Opened> for NodeSupervisor {
    type Result = ();

    fn handle(&mut self, opened: Opened, _: &mut Self::Context) {
        let current = self.seats[opened.seat].incarnation == opened.incarnation;
        match opened.result {
            Ok(parts) if current && self.closing.is_none() => self.opened(opened.seat, parts),
            Ok(parts) => {
                // Opened too late for anybody: close it where that may block.
                let _ = opening::spawn("hf-close", move || parts.close());
            }
            Err(OpenRefusal { reason, trouble }) if current => {
                self.give_up(opened.seat, &reason, trouble);
            }
            Err(_) => {}
        }
    }
}

/// News from a seat's drive.
#[derive(Message)]
#[rtype(result = "()")]
struct News {
    seat: usize,
    incarnation: u64,
    event: DriveEvent,
}

impl Handler<News> for NodeSupervisor {
    type Result = ();

    fn handle(&mut self, news: News, ctx: &mut Self::Context) {
        let state = &mut self.seats[news.seat];
        let Status::Serving { id } = state.status else { return };
        if state.incarnation != news.incarnation || self.closing.is_some() {
            return;
        }
        let DriveEvent::Died { cause } = news.event;
        state.failures += 1;
        let failures = state.failures;
        if failures >= FAILURES_MAX {
            let cure = "restart its node after a look at the log, or replace it";
            let reason = format!("it failed {failures} times ({cause}); {cure}");
            self.give_up(news.seat, &reason, Trouble::Other);
            self.close(news.seat, || ());
            return;
        }
        state.status = Status::Opening;
        let reason = format!("it failed ({cause}) and is being opened again");
        let view = SeatView::down(&state.seat, DriveState::Suspect, &reason).with_drive(id);
        self.shared.set_seat(news.seat, view);
        let back_off = BACK_OFF * 2_u32.pow(failures - 1);
        let (address, seat) = (ctx.address(), news.seat);
        self.close(seat, move || address.do_send(OpenAgain { seat, back_off }));
    }
}

/// A drive that died is closed; it is opened again after the back-off.
#[derive(Message)]
#[rtype(result = "()")]
struct OpenAgain {
    seat: usize,
    back_off: Duration,
}

impl Handler<OpenAgain> for NodeSupervisor {
    type Result = ();

    fn handle(&mut self, again: OpenAgain, ctx: &mut Self::Context) {
        ctx.run_later(again.back_off, move |supervisor, ctx| {
            if supervisor.closing.is_none() {
                supervisor.claims.lock().retain(|_, seat| *seat != again.seat);
                supervisor.open(again.seat, ctx);
            }
        });
    }
}

/// Closes every drive, with a last flush of its log; `done` is called when all are closed.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Shutdown {
    /// Called once.
    pub done: Box<dyn FnOnce() + Send>,
}

/// One drive is closed.
#[derive(Message)]
#[rtype(result = "()")]
struct Closed;

impl Handler<Shutdown> for NodeSupervisor {
    type Result = ();

    fn handle(&mut self, shutdown: Shutdown, ctx: &mut Self::Context) {
        if self.closing.is_some() {
            return (shutdown.done)();
        }
        let serving = |state: &SeatState| matches!(state.status, Status::Serving { .. });
        let open: Vec<usize> =
            (0..self.seats.len()).filter(|at| serving(&self.seats[*at])).collect();
        if open.is_empty() {
            self.closing = Some(Closing { left: 0, done: Box::new(|| ()) });
            return (shutdown.done)();
        }
        self.closing = Some(Closing { left: open.len(), done: shutdown.done });
        for at in open {
            let address = ctx.address();
            self.close(at, move || address.do_send(Closed));
        }
    }
}

impl Handler<Closed> for NodeSupervisor {
    type Result = ();

    fn handle(&mut self, _: Closed, _: &mut Self::Context) {
        let Some(closing) = &mut self.closing else { return };
        closing.left -= 1;
        if closing.left == 0 {
            std::mem::replace(&mut closing.done, Box::new(|| ()))();
        }
    }
}
