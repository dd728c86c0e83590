//! Drives that come and go while the node runs: every few seconds it is looked at what each folder holds,
//! and what is to be done about it. The decisions are pure; carrying them out is the engine's (set
//! epochs, rebuilding), the folders' (formatting) and the supervisor's (opening, closing).
//!
//! ```text
//! serves, its identity is gone or another's ----> closed
//! does not serve, blank or remains, or amnesic --> set aside, a new drive takes the slot over: joining
//! serves, joining ------------------------------> taken in by the others: rebuilding (the engine's work)
//! known to the layout elsewhere ----------------> taken over, unless it serves there
//! ```

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use holdfast_drive::{
    api::{DriveReply, DriveRequest, MemberReply, MemberRequest, Standing},
    fabric::RemoteNode,
    supervisor::{NodeHandle, SeatReport, Trouble},
};
use holdfast_engine::Engine;
use holdfast_placement::Layout;
use holdfast_types::{DriveId, DriveState, NodeIndex, SetIndex, seam::Random};

use crate::{
    folders::Folders,
    forming::{Document, Found},
    opens::{self, Opens},
    quarantine,
};

/// How often the folders are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Every so many looks the drives are asked who is in their sets: a node without traffic hears of a change
/// in no other way.
const HEAR_EVERY: u32 = 5;

/// A drive answers where it stands within this time.
const ASK_WAIT: Duration = Duration::from_secs(2);

/// Peers that are there say within this time what they know of drives; the folders are not looked at meanwhile.
const COMPARE_WAIT: Duration = Duration::from_secs(1);

/// What an operator wants of a drive, until it is done or the node restarts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wish {
    /// Out of service.
    Offline,
    /// Back in service.
    Online,
    /// Its files set aside, a new drive in its place.
    Replace,
}

/// The wishes about a node's drives.
#[derive(Default)]
pub struct Wishes(Mutex<BTreeMap<DriveId, Wish>>);

impl Wishes {
    /// The lock guards no value that a panic could leave half changed.
    fn all(&self) -> MutexGuard<'_, BTreeMap<DriveId, Wish>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is wished of a drive.
    #[must_use]
    pub fn of(&self, drive: DriveId) -> Option<Wish> {
        self.all().get(&drive).copied()
    }

    /// Wishes something of a drive, or (`None`) nothing any more.
    pub fn set(&self, drive: DriveId, wish: Option<Wish>) {
        match wish {
            Some(wish) => drop(self.all().insert(drive, wish)),
            None => drop(self.all().remove(&drive)),
        }
    }
}

/// What is to be done about a seat.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Act {
    /// Nothing.
    Nothing,
    /// Its drive was taken away from under it.
    Fail {
        /// Who served there.
        drive: DriveId,
        /// What it is from then on.
        state: DriveState,
        /// One line of cause and cure.
        reason: String,
    },
    /// A new drive takes the slot over.
    Replace {
        /// The set.
        set: SetIndex,
        /// Who has the slot.
        gone: DriveId,
        /// Whether files have to be moved aside first.
        set_aside: bool,
    },
    /// The drive that is there is the slot's: it is opened.
    Reseat(DriveId),
    /// The drive is joining: the others take it in.
    TakeIn(SetIndex, DriveId),
    /// The drive is known at another node.
    TakeOver(DriveId, NodeIndex),
}

/// Decides what is to be done about a seat of node `me`. `standing` is what a serving drive says of
/// itself, `wish` what an operator wants.
#[must_use]
pub fn next_act(
    layout: &Layout,
    me: NodeIndex,
    seat: &SeatReport,
    found: &Found,
    standing: Option<Standing>,
    wish: Option<Wish>,
) -> Act {
    if seat.is_busy {
        return Act::Nothing;
    }
    match (seat.serves, seat.drive, wish) {
        (true, Some(drive), Some(Wish::Offline)) => {
            let reason = "an operator took it out; put it back with `adminctl drive online`";
            Act::Fail { drive, state: DriveState::Offline, reason: reason.to_owned() }
        }
        (true, Some(drive), Some(Wish::Replace)) => {
            let reason = "an operator has it replaced by a new drive in its folder";
            Act::Fail { drive, state: DriveState::Faulty, reason: reason.to_owned() }
        }
        (true, Some(drive), _) => serving(layout, drive, found, standing),
        (_, _, Some(Wish::Offline)) => Act::Nothing,
        (_, Some(drive), Some(Wish::Online)) => Act::Reseat(drive),
        (_, Some(gone), Some(Wish::Replace)) => match layout.slot_of(gone) {
            Some((set, _)) => Act::Replace { set: set.index, gone, set_aside: true },
            None => Act::Nothing,
        },
        _ => silent(layout, me, seat, found),
    }
}

/// A seat whose drive serves.
fn serving(layout: &Layout, drive: DriveId, found: &Found, standing: Option<Standing>) -> Act {
    match found {
        Found::Formatted { drive: there, .. } if *there == drive => match layout.slot_of(drive) {
            Some((set, _)) if standing == Some(Standing::Joining) => Act::TakeIn(set.index, drive),
            Some(_) => Act::Nothing,
            None => {
                let reason = "it was replaced while it was away; empty its folder to have it taken in \
                              as a new drive";
                Act::Fail { drive, state: DriveState::Faulty, reason: reason.to_owned() }
            }
        },
        Found::Formatted { drive: there, .. } => {
            let reason = format!("drive {there} is in its folder now; mount the right file system");
            Act::Fail { drive, state: DriveState::Faulty, reason }
        }
        Found::Blank | Found::Proposed(_) | Found::Remains => {
            let reason = "it was wiped while it served; a new drive takes its place";
            Act::Fail { drive, state: DriveState::Faulty, reason: reason.to_owned() }
        }
        // The device fails: reads and writes will say so.
        Found::Unusable(_) => Act::Nothing,
    }
}

/// A seat where nobody serves.
fn silent(layout: &Layout, me: NodeIndex, seat: &SeatReport, found: &Found) -> Act {
    let slot = layout.slot_at(me, &seat.path);
    let replace = |set_aside| match slot {
        Some((set, at)) => Act::Replace { set: set.index, gone: set.drives[at].drive, set_aside },
        // Nobody said that a drive belongs here.
        None => Act::Nothing,
    };
    match found {
        Found::Blank => replace(false),
        Found::Remains => replace(true),
        Found::Formatted { drive, cluster, .. } if *cluster == layout.cluster => {
            let here = slot.is_some_and(|(set, at)| set.drives[at].drive == *drive);
            match layout.slot_of(*drive) {
                Some(_) if here && seat.trouble == Trouble::Amnesic => replace(true),
                Some(_) if here && seat.drive != Some(*drive) => Act::Reseat(*drive),
                Some((set, at)) if set.drives[at].node != me => {
                    Act::TakeOver(*drive, set.drives[at].node)
                }
                _ => Act::Nothing,
            }
        }
        Found::Formatted { .. } | Found::Proposed(_) | Found::Unusable(_) => Act::Nothing,
    }
}

/// Carries the decisions out, for as long as the node runs.
pub struct Keeper {
    /// The node's folders.
    pub folders: Arc<Folders>,
    /// Its drives.
    pub drives: NodeHandle,
    /// The sets.
    pub engine: Arc<Engine>,
    /// The node.
    pub me: NodeIndex,
    /// Draws identities.
    pub random: Arc<dyn Random>,
    /// What operators want.
    pub wishes: Arc<Wishes>,
    /// How often drives were opened.
    pub opens: Arc<Opens>,
    /// The other nodes.
    pub peers: Vec<Arc<RemoteNode>>,
    /// Whether enough nodes are there for every set to answer.
    pub is_ready: Box<dyn Fn() -> bool + Send + Sync>,
}

impl Keeper {
    /// Looks after the drives until it is dropped.
    pub async fn run(self) {
        self.engine.hear_memberships().await;
        self.engine.load_quarantine(self.blocking(quarantine::load).await);
        let (mut learnt, mut looks) = (false, 0_u32);
        let mut kept = self.engine.quarantine_changes();
        let mut changes = self.engine.membership_changes();
        let mut written: Option<Layout> = None;
        loop {
            let layout = self.engine.current_layout();
            if written.as_ref() != Some(&layout) {
                let document = Document::of(layout.clone());
                self.blocking(move |folders| folders.rewrite_layout(&document)).await;
                written = Some(layout.clone());
            }
            kept = self.keep_quarantine(kept).await;
            looks += 1;
            if looks.is_multiple_of(HEAR_EVERY) {
                self.engine.hear_memberships().await;
                self.compare_opens(&layout).await;
            }
            self.look(&layout).await;
            if !learnt && (self.is_ready)() {
                // Not before: asking sets whose nodes are still starting would count them as down.
                self.engine.learn_memberships().await;
                learnt = true;
            }
            // A change is written down at once: the file is what the next start begins with.
            let _ = tokio::time::timeout(LOOK_EVERY, changes.changed()).await;
        }
    }

    async fn look(&self, layout: &Layout) {
        let surveyed = self.blocking(Folders::survey).await;
        for (at, seat) in self.drives.seats().into_iter().enumerate() {
            let Some(there) = surveyed.iter().find(|there| there.path == seat.path) else {
                continue;
            };
            let standing = match seat.drive.filter(|_| seat.serves) {
                Some(drive) => self.standing(drive).await,
                None => None,
            };
            let wish = seat.drive.and_then(|drive| self.wishes.of(drive));
            let act = next_act(layout, self.me, &seat, &there.found, standing, wish);
            if let Err(why) = self.carry_out(at, &seat, act).await {
                tracing::warn!(path = seat.path, "look after a drive: {why}");
            }
        }
    }

    /// Writes down what the engine has on record, if that is another than what was written last.
    async fn keep_quarantine(&self, kept: u64) -> u64 {
        let changes = self.engine.quarantine_changes();
        if changes == kept {
            return kept;
        }
        let rows = self.engine.quarantine_rows();
        match self.blocking(move |folders| quarantine::keep(folders, &rows)).await {
            Ok(()) => changes,
            Err(why) => {
                tracing::warn!("{why}");
                kept
            }
        }
    }

    /// Tells how often drives of this node were opened, also to peers that were away when they were, and hears what those
    /// know: a drive that is older than that is replaced, though it served.
    async fn compare_opens(&self, layout: &Layout) {
        let own = opens::of_facts(&self.drives.drives(ASK_WAIT).await);
        self.opens.learn(own.iter().copied());
        opens::exchange(&self.opens, &self.peers, &own, COMPARE_WAIT).await;
        self.opens.retain(layout);
        let known = self.opens.clone();
        if let Err(why) = self.blocking(move |folders| known.keep(folders)).await {
            tracing::warn!("{why}");
        }
        for (drive, count) in own {
            let remembered = self.opens.of(drive);
            if remembered > count {
                tracing::error!(
                    %drive, count, remembered, "a drive is older than the others remember it: it is replaced"
                );
                self.wishes.set(drive, Some(Wish::Replace));
            }
        }
    }

    async fn standing(&self, drive: DriveId) -> Option<Standing> {
        use holdfast_drive::node::Node as _;
        let ask = DriveRequest::Member(MemberRequest::Membership);
        let answers = self.drives.node().call(ASK_WAIT, vec![(drive, ask)]).await;
        match answers.into_iter().next() {
            Some(Ok(DriveReply::Member(MemberReply::Membership { standing, .. }))) => {
                Some(standing)
            }
            _ => None,
        }
    }

    async fn carry_out(&self, at: usize, seat: &SeatReport, act: Act) -> Result<(), String> {
        match act {
            Act::Nothing => Ok(()),
            Act::Fail { drive, state, reason } => {
                self.drives.fail(at, drive, state, reason);
                Ok(())
            }
            Act::Reseat(drive) => {
                self.wishes.set(drive, None);
                self.drives.reseat(at, drive);
                Ok(())
            }
            Act::TakeIn(set, drive) => {
                self.engine.take_in(set, drive).await.map_err(|error| error.to_string())?;
                tracing::info!(path = seat.path, %drive, "the others took a new drive in");
                Ok(())
            }
            Act::Replace { set, gone, set_aside } => {
                self.replace(at, seat, set, gone, set_aside).await
            }
            Act::TakeOver(drive, node) => self.take_over(at, seat, drive, node).await,
        }
    }

    async fn replace(
        &self,
        at: usize,
        seat: &SeatReport,
        set: SetIndex,
        gone: DriveId,
        set_aside: bool,
    ) -> Result<(), String> {
        let path = seat.path.clone();
        let prepare = move |folders: &Folders| {
            folders.check_place(&path)?;
            if set_aside { folders.set_aside(&path) } else { Ok(()) }
        };
        self.blocking(prepare).await?;
        let fresh = DriveId::draw(self.random.as_ref());
        let replaced = self.engine.replace_drive(set, gone, fresh).await;
        if let Err(error) = replaced
            && self.engine.current_layout().slot_of(fresh).is_none()
        {
            return Err(error.to_string());
        }
        let document = Document::of(self.engine.current_layout());
        let path = seat.path.clone();
        let format = move |folders: &Folders| folders.format_joining(&path, fresh, set, &document);
        self.blocking(format).await?;
        tracing::info!(path = seat.path, %gone, %fresh, "a new drive takes a slot over");
        self.wishes.set(gone, None);
        self.drives.reseat(at, fresh);
        Ok(())
    }

    /// A drive of another node is mounted here now. It must not serve at both.
    async fn take_over(
        &self,
        at: usize,
        seat: &SeatReport,
        drive: DriveId,
        node: NodeIndex,
    ) -> Result<(), String> {
        let serves = self.engine.serves_at(node, drive).await.ok_or_else(|| {
            format!("drive {drive} is known at node {node}, which does not answer whether it serves there")
        })?;
        if serves {
            return Err(format!(
                "drive {drive} serves at node {node}, too; a copy of a drive must never serve: take one out"
            ));
        }
        let moved = self.engine.move_drive(drive, self.me, &seat.path).await;
        moved.map_err(|error| error.to_string())?;
        tracing::info!(path = seat.path, %drive, from = %node, "a drive moved here");
        self.drives.reseat(at, drive);
        Ok(())
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Folders) -> T + Send + 'static,
    ) -> T {
        let folders = self.folders.clone();
        let done = tokio::task::spawn_blocking(move || work(&folders)).await;
        done.expect("looking at folders does not panic")
    }
}

#[cfg(test)]
mod tests {
    use holdfast_placement::parse_volumes;
    use holdfast_types::{ClusterId, seam::SeededRandom};

    use super::*;

    const ME: NodeIndex = NodeIndex(0);

    fn layout() -> Layout {
        let pools = parse_volumes(&["http://n{1...2}/d{1...2}".to_owned()]).expect("valid");
        Layout::plan(ClusterId(7), &pools, "", &SeededRandom::new(1)).expect("planned")
    }

    fn seat(drive: Option<DriveId>, serves: bool, trouble: Trouble) -> SeatReport {
        let (path, reason) = ("/d1".to_owned(), String::new());
        SeatReport { path, drive, serves, is_busy: false, trouble, reason }
    }

    fn formatted(drive: DriveId) -> Found {
        Found::Formatted { drive, cluster: ClusterId(7), document: None }
    }

    /// Goal: the table of the module's drawing. Method: every kind of folder under a seat that serves and
    /// one that does not.
    #[test]
    fn what_is_done_about_a_seat() {
        let layout = layout();
        let (set, at) = layout.slot_at(ME, "/d1").expect("planned");
        let (set, mine) = (set.index, set.drives[at].drive);
        let elsewhere = layout.slot_at(NodeIndex(1), "/d1").expect("planned");
        let theirs = elsewhere.0.drives[elsewhere.1].drive;
        let act = |seat: &SeatReport, found: &Found, standing| {
            next_act(&layout, ME, seat, found, standing, None)
        };
        let up = seat(Some(mine), true, Trouble::Other);
        let fails = |act: Act| matches!(act, Act::Fail { drive, .. } if drive == mine);
        assert_eq!(act(&up, &formatted(mine), Some(Standing::Counting)), Act::Nothing);
        assert_eq!(act(&up, &formatted(mine), Some(Standing::Joining)), Act::TakeIn(set, mine));
        assert!(fails(act(&up, &formatted(DriveId(9)), None)));
        assert!(fails(act(&up, &Found::Blank, None)));
        assert!(fails(act(&up, &Found::Remains, None)));
        assert_eq!(act(&up, &Found::Unusable("I/O error".to_owned()), None), Act::Nothing);

        let down = seat(Some(mine), false, Trouble::Other);
        let replace = |set_aside| Act::Replace { set, gone: mine, set_aside };
        assert_eq!(act(&down, &Found::Blank, None), replace(false));
        assert_eq!(act(&down, &Found::Remains, None), replace(true));
        assert_eq!(act(&down, &formatted(mine), None), Act::Nothing);
        let amnesic = seat(Some(mine), false, Trouble::Amnesic);
        assert_eq!(act(&amnesic, &formatted(mine), None), replace(true));
        assert_eq!(act(&amnesic, &formatted(DriveId(9)), None), Act::Nothing, "a stale drive");
        let before = seat(Some(DriveId(9)), false, Trouble::Other);
        assert_eq!(act(&before, &formatted(mine), None), Act::Reseat(mine));
        assert_eq!(act(&down, &formatted(theirs), None), Act::TakeOver(theirs, NodeIndex(1)));
        let foreign = Found::Formatted { drive: DriveId(9), cluster: ClusterId(8), document: None };
        assert_eq!(act(&down, &foreign, None), Act::Nothing);
        assert_eq!(act(&down, &Found::Unusable("thesis.tex".to_owned()), None), Act::Nothing);

        let wished = |seat: &SeatReport, wish| {
            next_act(&layout, ME, seat, &formatted(mine), Some(Standing::Counting), Some(wish))
        };
        assert!(fails(wished(&up, Wish::Offline)) && fails(wished(&up, Wish::Replace)));
        assert_eq!(wished(&up, Wish::Online), Act::Nothing);
        assert_eq!(wished(&down, Wish::Offline), Act::Nothing);
        assert_eq!(wished(&down, Wish::Online), Act::Reseat(mine));
        assert_eq!(wished(&down, Wish::Replace), replace(true));

        let busy = SeatReport { is_busy: true, ..down };
        assert_eq!(act(&busy, &Found::Blank, None), Act::Nothing, "its folder is not free");
        let unnamed = SeatReport { path: "/elsewhere".to_owned(), ..amnesic };
        assert_eq!(act(&unnamed, &Found::Blank, None), Act::Nothing, "no slot is there");
    }
}
