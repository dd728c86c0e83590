//! Filling the ranges of a drive that rot hid (ADR 0019, INV-FILL-1): a rebuild of these registers alone, while
//! the drive counts for all others.
//!
//! ```text
//! 1 renew   the set's epoch, newer than all the drive forgot; the others adopt it    crash: done again
//! 2 open    the drive voids what it holds there, and accepts above its floor         crash: it is open
//! 3 all     what the others hold is settled and installed                            crash: what is there is there
//! 4 proof   everything once more, R counting others showing every register           crash: again from 3
//! 5 filled  the drive counts there, too
//! ```

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use holdfast_drive::api::{
    DriveReply, DriveRequest, Filled, Gap, Issue, MemberReply, MemberRequest, RotRange,
};
use holdfast_types::{DriveId, SetEpoch, SetIndex, view::RebuildView};

use super::{Pass, Rebuild};
use crate::{
    engine::Engine,
    error::StoreError,
    round::outdated,
    set::{SetHandle, describe},
};

/// The first wait before ranges that could not be filled are tried again: other drives have to come back, or to
/// be filled first. It doubles with each try.
const AGAIN: Duration = Duration::from_secs(2);

/// The longest wait: each try reads and compares the ranges anew.
const AGAIN_MAX: Duration = Duration::from_secs(60);

/// Fills until nothing is hidden, or the drive is no member any more.
pub(super) async fn run(engine: Weak<Engine>, set: SetHandle, slot: usize) {
    let drive = set.shared.slot(slot).drive;
    tracing::info!(set = %set.index(), %drive, "filling ranges of rot");
    let mut wait = AGAIN;
    loop {
        let Some(engine) = engine.upgrade() else { return };
        if set.shared.slot(slot).drive != drive {
            engine.rebuilds.running.lock().remove(&drive);
            return;
        }
        let rebuild = Rebuild::new(engine, set.clone(), slot, drive);
        match rebuild.fill().await {
            Ok(0) => return,
            // Rot that was met since.
            Ok(_) => {}
            Err(why) => {
                tracing::debug!(%drive, why, "fill: again later");
                rebuild.note(|view| view.error = why);
            }
        }
        drop(rebuild);
        tokio::time::sleep(wait).await;
        wait = (2 * wait).min(AGAIN_MAX);
    }
}

impl Engine {
    /// Fills the ranges of rot of a drive here and now, in one go: for tests, and for an operator in a hurry.
    ///
    /// # Errors
    /// Why they are not filled yet.
    pub async fn fill_drive(
        self: &Arc<Self>,
        set: SetIndex,
        drive: DriveId,
    ) -> Result<RebuildView, String> {
        let set = self.sets.get(set.get()).ok_or("there is no such set")?.clone();
        let slot = set.membership().slot_of(drive).ok_or("the drive is no member of the set")?;
        self.rebuilds.begin(&set, slot);
        Rebuild::new(self.clone(), set, slot, drive).fill().await?;
        let running = self.rebuilds.running.lock();
        running.get(&drive).cloned().ok_or_else(|| "the work was forgotten".to_owned())
    }
}

impl Rebuild {
    /// All steps; the number of ranges that are still to be filled.
    async fn fill(&self) -> Result<usize, String> {
        let told = |error: StoreError| error.to_string();
        if self.set.shared.n() == 1 {
            return Err("a set of one drive has nothing to be filled from".to_owned());
        }
        let open = self.open().await.map_err(told)?;
        let gap = |range: &RotRange| Gap { first: range.start.clone(), end: range.behind() };
        let all = Self::new(self.engine.clone(), self.set.clone(), self.slot, self.drive);
        let filling = Self { over: open.iter().map(gap).collect(), ..all };
        filling.pass(Pass::All).await.map_err(told)?;
        let epoch = filling.set.shared.members.epoch();
        let proof = filling.pass(Pass::Proof).await.map_err(told)?;
        if proof.left > 0 {
            return Err(format!("{} versions are not whole yet: {}", proof.left, proof.error));
        }
        let count = open.len();
        let filled = MemberRequest::Filled(Filled { epoch, ranges: open });
        filling.ask(filled).await.map_err(told)?;
        let left = filling.ranges().await.map_err(told)?;
        let left = left.iter().filter(|range| range.is_unfilled()).count();
        tracing::info!(drive = %filling.drive, ranges = count, left, "ranges of rot are filled");
        filling.note(|view| {
            if left == 0 {
                "done".clone_into(&mut view.phase);
            }
        });
        Ok(left)
    }

    /// The open ranges, after those that were hidden have been opened (steps 1 and 2).
    async fn open(&self) -> Result<Vec<RotRange>, StoreError> {
        self.note(|view| "opening ranges of rot".clone_into(&mut view.phase));
        let mut ranges = self.ranges().await?;
        let hidden = ranges.iter().filter(|range| range.is_hidden());
        if let Some(older) = hidden.map(|range| range.epoch).max() {
            self.order(older).await?;
            ranges = self.ranges().await?;
        }
        Ok(ranges.into_iter().filter(|range| !range.is_hidden() && range.is_unfilled()).collect())
    }

    /// An epoch newer than `older`, adopted by min(W, n - 1) others before the drive opens anything: who holds
    /// an acceptance that the drive forgot does not complete a quorum with it any more.
    async fn order(&self, older: SetEpoch) -> Result<(), StoreError> {
        let membership = self.set.renew(older, self.slot).await?;
        let (epoch, bytes) = (membership.epoch, membership.to_bytes().into());
        let issue = Issue { set: self.set.index(), epoch, membership: bytes };
        self.ask(MemberRequest::Fill(issue)).await.map(drop)
    }

    /// The drive's ranges of registers.
    async fn ranges(&self) -> Result<Vec<RotRange>, StoreError> {
        match self.ask(MemberRequest::Ranges).await? {
            DriveReply::Member(MemberReply::Ranges(mut ranges)) => {
                ranges.retain(RotRange::is_of_registers);
                Ok(ranges)
            }
            _ => {
                Err(StoreError::Internal { message: "ranges of rot: unexpected reply".to_owned() })
            }
        }
    }

    async fn ask(&self, request: MemberRequest) -> Result<DriveReply, StoreError> {
        let shared: &Arc<_> = &self.set.shared;
        let asked = vec![(self.slot, DriveRequest::Member(request))];
        let silent = || shared.below_quorum(1, 0, &[(self.slot, "no answer".to_owned())]);
        let (slot, result) = shared.ask_slots(asked).await.into_iter().next().ok_or_else(silent)?;
        if let Some(current) = outdated(&result) {
            return Err(StoreError::SetChanged { current });
        }
        result.map_err(|error| shared.below_quorum(1, 0, &[(slot, describe(&error))]))
    }
}
