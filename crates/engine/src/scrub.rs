//! The scrub of every drive, as an operator sees and orders it. The drives of all nodes are told by the
//! node that is asked; each keeps its orders itself.

use holdfast_drive::{
    api::{DriveReply, DriveRequest},
    scrub::{Pass, Phase, ScrubStatus},
};
use holdfast_types::{
    ScrubOrder,
    view::{ScrubPassView, ScrubRow, ScrubView},
};

use crate::{engine::Engine, set::Slot};

const MICROS: u64 = 1_000_000;

impl Engine {
    /// Tells every drive, and how each stands then.
    pub async fn scrub(&self, order: ScrubOrder) -> ScrubView {
        self.hear_memberships().await;
        let answers = self.ask_every_drive(&DriveRequest::Scrub(order)).await;
        let row = |slot: &Slot, node: &str| {
            let seat = ScrubRow {
                node: node.to_owned(),
                path: slot.path.to_string(),
                drive: slot.drive.to_string(),
                ..ScrubRow::default()
            };
            let silent = |error| ScrubRow { error, ..seat.clone() };
            match answers.get(&slot.drive) {
                Some(Ok(DriveReply::Scrub(status))) => row(status, seat),
                Some(Ok(_)) => silent("unexpected reply".to_owned()),
                Some(Err(error)) => silent(error.clone()),
                None => silent("it is not asked".to_owned()),
            }
        };
        let mut drives = Vec::new();
        for set in &self.sets {
            let slots = &set.shared.members.now().slots;
            let node = |slot: &Slot| set.shared.nodes[slot.node.get()].name().to_owned();
            drives.extend(slots.iter().map(|slot| row(slot, &node(slot))));
        }
        ScrubView { drives }
    }
}

fn row(status: &ScrubStatus, seat: ScrubRow) -> ScrubRow {
    let left = status.owed.bytes + status.runs_left;
    let state = match status.phase {
        _ if status.paused => "paused",
        Phase::Idle => "idle",
        Phase::Shards => "shards",
        Phase::Runs => "runs",
    };
    let runs = status.phase != Phase::Idle && !status.paused;
    ScrubRow {
        state: state.to_owned(),
        bytes_per_second: status.rate,
        pass: status.pass.pass,
        started_at: status.pass.started_at / MICROS,
        shards_read: status.pass.read.shards,
        bytes_read: status.pass.read.bytes + status.pass.run_bytes,
        shards_left: status.owed.shards,
        bytes_left: left,
        found: status.pass.found,
        seconds_left: runs.then(|| left / status.rate.max(1)),
        last: status.last.as_ref().map(pass),
        last_complete: status.complete.as_ref().map(pass),
        ..seat
    }
}

fn pass(pass: &Pass) -> ScrubPassView {
    ScrubPassView {
        pass: pass.pass,
        started_at: pass.started_at / MICROS,
        finished_at: pass.finished_at / MICROS,
        complete: pass.is_complete(),
        shards: pass.read.shards,
        bytes: pass.read.bytes,
        run_bytes: pass.run_bytes,
        found: pass.found,
        shards_missed: pass.missed.shards,
        bytes_missed: pass.missed.bytes + pass.run_missed,
    }
}
