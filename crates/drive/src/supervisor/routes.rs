//! What the supervisor tells the carrier: where each drive is, and what may be under way.

use std::{collections::HashMap, sync::Arc};

use actix::Addr;
use holdfast_types::{DriveId, DriveState, ErrorClass, limits, seam::Clock};
use parking_lot::RwLock;
use tokio::sync::{Notify, Semaphore};

use super::{NodeLimits, Seat, Trouble};
use crate::{
    actor::DriveGroup,
    api::{DriveError, DriveFacts},
    io_pool::IoPool,
    suspect::Meter,
    volume::upload::UploadPort,
};

/// What a node says of a drive that none of its seats has.
pub const NOT_HERE: &str = "it is not of this node";

/// How shards get to a drive and from it, past its actor.
#[derive(Clone)]
pub struct Bulk {
    /// Where they come in.
    pub uploads: UploadPort,
    /// Whose threads move them.
    pub io: IoPool,
    /// Measures what they wait for.
    pub meter: Arc<Meter>,
    /// Admits bytes of streams to this drive: its share of the node's.
    pub bytes: Arc<Semaphore>,
}

/// Where a serving drive is.
#[derive(Clone)]
pub struct Route {
    /// Its group.
    pub group: usize,
    /// Its slot there.
    pub slot: usize,
    /// Its bulk side.
    pub bulk: Bulk,
    /// Admits requests to this drive: its share of the node's. A permit is given back when the drive
    /// has answered or dropped the request, whether anybody waits for that or not.
    pub under_way: Arc<Semaphore>,
}

impl Route {
    pub(super) const fn new(
        group: usize,
        slot: usize,
        bulk: Bulk,
        under_way: Arc<Semaphore>,
    ) -> Self {
        Self { group, slot, bulk, under_way }
    }
}

/// A seat as operators and the carrier see it.
#[derive(Clone)]
pub struct SeatView {
    /// The path.
    pub path: String,
    /// Who is there, as far as known.
    pub drive: Option<DriveId>,
    /// The state, when it is not serving.
    pub state: DriveState,
    /// Why it does not serve.
    pub reason: String,
    /// What kind of trouble that is.
    pub trouble: Trouble,
    /// Whether the drive that was there is still being closed: its folder is not free.
    pub is_closing: bool,
    /// Whether it is still being opened for the first time.
    pub is_opening: bool,
    /// The way there, when it serves.
    pub route: Option<Route>,
}

impl SeatView {
    pub(super) fn opening(seat: &Seat) -> Self {
        let reason = "it is being opened; if that takes long, its device may hang";
        Self { is_opening: true, ..Self::down(seat, DriveState::Offline, reason) }
    }

    pub(super) fn down(seat: &Seat, state: DriveState, reason: &str) -> Self {
        Self {
            path: seat.path.clone(),
            drive: seat.expected,
            state,
            reason: reason.to_owned(),
            trouble: Trouble::Other,
            is_closing: false,
            is_opening: false,
            route: None,
        }
    }

    pub(super) fn serving(seat: &Seat, drive: DriveId, route: Route) -> Self {
        Self { route: Some(route), drive: Some(drive), ..Self::down(seat, DriveState::Healthy, "") }
    }

    pub(super) fn with_trouble(self, trouble: Trouble) -> Self {
        Self { trouble, ..self }
    }

    pub(super) fn closing(self) -> Self {
        Self { is_closing: true, ..self }
    }

    pub(super) fn with_drive(self, drive: DriveId) -> Self {
        Self { drive: Some(drive), ..self }
    }

    /// What is known of a drive that does not serve.
    pub fn facts(&self) -> DriveFacts {
        DriveFacts {
            drive: self.drive.unwrap_or(DriveId::NIL),
            path: self.path.clone(),
            state: self.state,
            reason: self.reason.clone(),
            capacity_bytes: 0,
            free_bytes: 0,
            used_bytes: 0,
            registers: 0,
            repairs: 0,
            open_count: 0,
            syncs: 0,
            index_faults: 0,
        }
    }
}

/// The drives of the node at one moment.
#[derive(Clone, Default)]
pub struct Routes {
    /// Groups, by number.
    pub groups: Vec<Addr<DriveGroup>>,
    /// Seats, in the order of the configuration.
    pub seats: Vec<Option<SeatView>>,
    by_drive: HashMap<DriveId, usize>,
}

impl Routes {
    /// The seat of a drive.
    pub fn seat_of(&self, drive: DriveId) -> Option<&SeatView> {
        self.seats.get(*self.by_drive.get(&drive)?)?.as_ref()
    }

    /// The way to a drive that serves.
    ///
    /// # Errors
    /// Class `Unavailable`, with the reason.
    pub fn route_to(&self, drive: DriveId) -> Result<&Route, DriveError> {
        let seat = self.seat_of(drive);
        seat.and_then(|seat| seat.route.as_ref()).ok_or_else(|| {
            let reason = seat.map_or(NOT_HERE, |seat| &seat.reason);
            DriveError::failed(drive, ErrorClass::Unavailable, reason)
        })
    }

    fn index(&mut self) {
        let seats = self.seats.iter().enumerate();
        // A serving seat comes last, so that it wins over one that only expects the same drive.
        let mut named: Vec<_> = seats
            .filter_map(|(at, seat)| {
                seat.as_ref().map(|seat| (seat.route.is_some(), at, seat.drive))
            })
            .collect();
        named.sort_unstable_by_key(|(serves, at, _)| (*serves, std::cmp::Reverse(*at)));
        self.by_drive = named.into_iter().filter_map(|(_, at, drive)| Some((drive?, at))).collect();
    }
}

/// What supervisor and carrier share.
pub struct NodeShared {
    /// The node's name.
    pub name: String,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Admits requests.
    pub operations: Arc<Semaphore>,
    /// Admits bytes into the log.
    pub inline_bytes: Arc<Semaphore>,
    /// Admits bytes of streams.
    pub bulk_bytes: Arc<Semaphore>,
    /// The sizes of these.
    pub limits: NodeLimits,
    /// Woken whenever a seat changes.
    pub changed: Notify,
    routes: RwLock<Arc<Routes>>,
}

impl NodeShared {
    /// A node whose seats are not known yet.
    pub fn new(name: String, clock: Arc<dyn Clock>, limits: NodeLimits, seats: usize) -> Self {
        let permits = |count: usize| Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS)));
        assert!(limits.inline_bytes >= limits::CONTROL_MESSAGE_BYTES_MAX);
        Self {
            name,
            clock,
            operations: permits(limits.operations),
            inline_bytes: permits(limits.inline_bytes),
            bulk_bytes: permits(limits.bulk_bytes),
            limits,
            changed: Notify::new(),
            routes: RwLock::new(Arc::new(Routes { seats: vec![None; seats], ..Routes::default() })),
        }
    }

    /// The drives as they are now.
    pub fn routes(&self) -> Arc<Routes> {
        Arc::clone(&self.routes.read())
    }

    /// Whether no seat is being opened for the first time.
    pub fn is_settled(&self) -> bool {
        let settled = |seat: &Option<SeatView>| seat.as_ref().is_some_and(|seat| !seat.is_opening);
        self.routes().seats.iter().all(settled)
    }

    pub(super) fn set_groups(&self, groups: Vec<Addr<DriveGroup>>) {
        self.change(|routes| routes.groups = groups);
    }

    pub(super) fn set_seat(&self, at: usize, view: SeatView) {
        self.change(|routes| {
            routes.seats[at] = Some(view);
            routes.index();
        });
        self.changed.notify_waiters();
    }

    /// No drive is reached any more; what is under way goes on.
    pub(super) fn close(&self) {
        self.change(|routes| {
            for seat in routes.seats.iter_mut().flatten() {
                seat.route = None;
                "its node is shutting down".clone_into(&mut seat.reason);
                seat.state = DriveState::Offline;
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut Routes)) {
        let mut current = self.routes.write();
        let mut next = Routes::clone(&current);
        change(&mut next);
        *current = Arc::new(next);
    }
}
