//! A seat gets another drive, or loses the one it has, while the node runs.

use std::time::Duration;

use actix::prelude::*;
use holdfast_types::{DriveId, DriveState};

use super::{NodeSupervisor, OpenAgain, SeatView, Status};

/// Another drive is in a seat's folder now: it is opened. The one that serves is closed first.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Reseat {
    /// The seat.
    pub seat: usize,
    /// Who has to be there.
    pub expected: Option<DriveId>,
}

impl Handler<Reseat> for NodeSupervisor {
    type Result = ();

    fn handle(&mut self, reseat: Reseat, ctx: &mut Self::Context) {
        if self.closing.is_some() {
            return;
        }
        let at = reseat.seat;
        let state = &mut self.seats[at];
        state.seat.expected = reseat.expected;
        state.failures = 0;
        let serving = matches!(state.status, Status::Serving { .. });
        state.status = Status::Opening;
        // News of the drive that was there says nothing any more.
        state.incarnation += 1;
        let reason = "another drive is taking its place";
        let view = SeatView::down(&state.seat, DriveState::Faulty, reason);
        self.shared.set_seat(at, view);
        let again = OpenAgain { seat: at, back_off: Duration::ZERO };
        if serving {
            let address = ctx.address();
            self.close(at, move || address.do_send(again));
        } else {
            ctx.notify(again);
        }
    }
}

/// What a seat's drive lies on is not its own any more: it is closed, and does not serve.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Fail {
    /// The seat.
    pub seat: usize,
    /// Who served there: one that came later stays.
    pub drive: DriveId,
    /// What it is from then on: faulty, or offline by an operator's wish.
    pub state: DriveState,
    /// One line of cause and cure.
    pub reason: String,
}

impl Handler<Fail> for NodeSupervisor {
    type Result = ();

    fn handle(&mut self, fail: Fail, ctx: &mut Self::Context) {
        let Fail { seat: at, drive, state, reason } = fail;
        let Status::Serving { id } = self.seats[at].status else { return };
        if self.closing.is_some() || id != drive {
            return;
        }
        tracing::error!(path = self.seats[at].seat.path, %drive, reason, "a drive serves no more");
        self.seats[at].status = Status::Down;
        self.seats[at].incarnation += 1;
        let incarnation = self.seats[at].incarnation;
        self.claims.lock().retain(|_, seat| *seat != at);
        let view = SeatView::down(&self.seats[at].seat, state, &reason);
        self.shared.set_seat(at, view.closing());
        let address = ctx.address();
        self.close(at, move || address.do_send(Left { seat: at, incarnation, state, reason }));
    }
}

/// A drive that failed is closed: its folder is free.
#[derive(Message)]
#[rtype(result = "()")]
struct Left {
    seat: usize,
    incarnation: u64,
    state: DriveState,
    reason: String,
}

impl Handler<Left> for NodeSupervisor {
    type Result = ();

    fn handle(&mut self, left: Left, _: &mut Self::Context) {
        if self.seats[left.seat].incarnation == left.incarnation {
            let view = SeatView::down(&self.seats[left.seat].seat, left.state, &left.reason);
            self.shared.set_seat(left.seat, view);
        }
    }
}
