//! Rebuilding a drive that took a slot over (PROTOCOL.md section 5): indexes are compared, what it lacks
//! is settled and installed, and when a last comparison shows nothing missing, it counts.
//!
//! ```text
//! urgent  registers with fewer good shards than the loss of this drive alone explains
//! all     the others
//! proof   everything once more: counts good shards, mends what came in between -> Rebuilt, or again
//! ```
//!
//! Resumable without notes: what is there already is not brought again.

mod fill;
mod mend;

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use holdfast_drive::api::{DriveReply, DriveRequest, DriveResult, Gap, MemberRequest, Standing};
use holdfast_types::{
    BucketId, BucketStamp, DriveId, NodeIndex, RegisterKey, SetEpoch, SetIndex,
    view::{RebuildView, ShortView},
};
use parking_lot::Mutex;

use crate::{
    census::Census,
    compare::{Compared, Comparison},
    engine::Engine,
    error::StoreError,
    membership::Stands,
    quarantine::Entry,
    round::outdated,
    set::{SetHandle, describe},
    task,
};

/// Registers worked on at once: enough to keep a dozen drives busy, few enough that clients hardly
/// notice.
const AT_ONCE: usize = 16;

/// Versions that a proof lists as short; the others it counts.
const SHORT_MAX: usize = 100;

/// The wait before a rebuild that could not be completed tries again.
const AGAIN: Duration = Duration::from_secs(2);

/// How often a paused rebuild looks whether it may go on.
const PAUSE_POLL: Duration = Duration::from_millis(200);

/// The rebuilds of a node's drives, and how fast they may go.
#[derive(Default)]
pub(crate) struct Rebuilds {
    running: Mutex<BTreeMap<DriveId, RebuildView>>,
    pace: Mutex<Pace>,
}

/// How fast rebuilding may go.
#[derive(Clone, Copy, Default, Debug)]
struct Pace {
    paused: bool,
    /// Bytes a second; 0: as fast as it goes.
    bytes_per_second: u64,
    /// On the monotonic clock: until then the bytes brought so far take.
    until_micros: u64,
}

/// Which registers a pass works on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pass {
    Urgent,
    All,
    Proof,
}

/// What a pass came to.
#[derive(Default)]
struct Tally {
    left: u64,
    error: String,
}

/// What came of one register.
enum Mended {
    /// It is whole on the drive; as many bytes were brought.
    Whole(u64),
    /// Every drive has answered, and together they cannot restore it: nobody can, now or later.
    Lost(Census, StoreError),
    /// Its bucket is going, or gone with all that was in it.
    Void,
}

/// One rebuild.
struct Rebuild {
    engine: Arc<Engine>,
    set: SetHandle,
    slot: usize,
    drive: DriveId,
    stamps: Mutex<BTreeMap<BucketId, BucketStamp>>,
    /// The registers that are brought: all, or the ranges that are filled.
    over: Vec<Gap>,
}

/// Looks after the drives of `node` for as long as the engine lives.
pub(crate) async fn watch(engine: Weak<Engine>, node: NodeIndex, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        let Some(engine) = engine.upgrade() else { return };
        for stands in engine.standings(node).await {
            engine.look_after(&stands).await;
        }
    }
}

impl Engine {
    /// Starts the rebuild of a drive that needs one, or the filling of its ranges of rot, and completes what a
    /// crash left undone.
    async fn look_after(self: &Arc<Self>, stands: &Stands) {
        let Stands { set, slot, standing, unfilled } = stands;
        let (slot, member) = (*slot, set.shared.slot(*slot));
        match standing {
            Standing::Rebuilding if self.rebuilds.begin(set, slot) => {
                let (engine, set) = (Arc::downgrade(self), set.clone());
                task::detach(async move { run(engine, set, slot).await });
            }
            Standing::Counting if member.rebuilding => {
                if let Err(error) = self.note_rebuilt(set, member.drive).await {
                    tracing::warn!(drive = %member.drive, %error, "note that a drive is rebuilt");
                }
            }
            // A set of one has nobody to fill it from.
            Standing::Counting
                if *unfilled > 0 && set.shared.n() > 1 && self.rebuilds.begin(set, slot) =>
            {
                let (engine, set) = (Arc::downgrade(self), set.clone());
                task::detach(async move { fill::run(engine, set, slot).await });
            }
            _ => {}
        }
    }

    /// Rebuilds a drive here and now, in one go: for tests, and for an operator in a hurry.
    ///
    /// # Errors
    /// Why it does not count yet.
    pub async fn rebuild_drive(
        self: &Arc<Self>,
        set: SetIndex,
        drive: DriveId,
    ) -> Result<RebuildView, String> {
        let set = self.sets.get(set.get()).ok_or("there is no such set")?.clone();
        let slot = set.membership().slot_of(drive).ok_or("the drive is no member of the set")?;
        self.rebuilds.begin(&set, slot);
        Rebuild::new(self.clone(), set, slot, drive).attempt().await?;
        let running = self.rebuilds.running.lock();
        running.get(&drive).cloned().ok_or_else(|| "the rebuild was forgotten".to_owned())
    }

    /// The rebuilds of this node's drives since it was started.
    #[must_use]
    pub fn rebuilds(&self) -> Vec<RebuildView> {
        self.rebuilds.running.lock().values().cloned().collect()
    }

    /// Holds rebuilding, or lets it go on.
    pub fn pause_rebuilds(&self, paused: bool) {
        self.rebuilds.pace.lock().paused = paused;
    }

    /// Bounds what rebuilding brings, over all drives of this node; 0: no bound.
    pub fn limit_rebuilds(&self, bytes_per_second: u64) {
        self.rebuilds.pace.lock().bytes_per_second = bytes_per_second;
    }

    /// Whether rebuilding is held, and its bound in bytes a second.
    #[must_use]
    pub fn rebuild_pace(&self) -> (bool, u64) {
        let pace = *self.rebuilds.pace.lock();
        (pace.paused, pace.bytes_per_second)
    }
}

impl Rebuilds {
    /// True when no rebuild of the slot's drive is under way.
    fn begin(&self, set: &SetHandle, slot: usize) -> bool {
        let member = set.shared.slot(slot);
        let mut running = self.running.lock();
        if running.get(&member.drive).is_some_and(|view| view.phase != "done") {
            return false;
        }
        let view = RebuildView {
            set: set.index().0.into(),
            drive: member.drive.to_string(),
            node: set.shared.node_of(slot).name().to_owned(),
            path: member.path.to_string(),
            phase: "starting".to_owned(),
            ..RebuildView::default()
        };
        running.insert(member.drive, view);
        true
    }
}

/// Rebuilds until the drive counts, or is no member any more.
async fn run(engine: Weak<Engine>, set: SetHandle, slot: usize) {
    let drive = set.shared.slot(slot).drive;
    tracing::info!(set = %set.index(), %drive, "rebuilding a drive");
    loop {
        let Some(engine) = engine.upgrade() else { return };
        let member = set.shared.slot(slot).drive == drive;
        if !member {
            engine.rebuilds.running.lock().remove(&drive);
            return;
        }
        let rebuild = Rebuild::new(engine, set.clone(), slot, drive);
        match rebuild.attempt().await {
            Ok(()) => return,
            Err(why) => {
                tracing::debug!(%drive, why, "rebuild: again later");
                rebuild.note(|view| view.error = why);
            }
        }
        drop(rebuild);
        tokio::time::sleep(AGAIN).await;
    }
}

impl Rebuild {
    /// Of all registers.
    fn new(engine: Arc<Engine>, set: SetHandle, slot: usize, drive: DriveId) -> Self {
        let over = vec![Gap { first: Bytes::new(), end: None }];
        Self { engine, set, slot, drive, stamps: Mutex::default(), over }
    }

    fn note(&self, change: impl FnOnce(&mut RebuildView)) {
        let now = self.engine.clock.monotonic_micros();
        if let Some(view) = self.engine.rebuilds.running.lock().get_mut(&self.drive) {
            change(view);
            view.progressed(now);
        }
    }

    /// All passes; the drive counts when they have shown that nothing is missing.
    async fn attempt(&self) -> Result<(), String> {
        for pass in [Pass::Urgent, Pass::All] {
            self.pass(pass).await.map_err(|error| error.to_string())?;
        }
        let epoch = self.set.shared.members.epoch();
        let proof = self.pass(Pass::Proof).await.map_err(|error| error.to_string())?;
        if proof.left > 0 {
            return Err(format!("{} versions are not whole yet: {}", proof.left, proof.error));
        }
        self.conclude(epoch).await.map_err(|error| error.to_string())
    }

    /// The proof is there: the drive counts, then the register says so.
    async fn conclude(&self, epoch: SetEpoch) -> Result<(), StoreError> {
        let shared = &self.set.shared;
        let rebuilt = DriveRequest::Member(MemberRequest::Rebuilt(epoch));
        for (slot, result) in shared.ask_slots(vec![(self.slot, rebuilt)]).await {
            if let Some(current) = outdated(&result) {
                return Err(StoreError::SetChanged { current });
            }
            if let Err(error) = result {
                return Err(shared.below_quorum(1, 0, &[(slot, describe(&error))]));
            }
        }
        self.note(|view| "done".clone_into(&mut view.phase));
        let views = self.engine.rebuilds();
        let drive = self.drive.to_string();
        if let Some(view) = views.into_iter().find(|view| view.drive == drive) {
            tracing::info!(
                set = view.set,
                drive,
                versions = view.versions,
                whole = view.whole,
                short = view.short_count,
                bytes = view.bytes,
                seconds = view.seconds,
                "a drive is rebuilt"
            );
        }
        self.engine.note_rebuilt(&self.set, self.drive).await
    }

    /// One comparison of all indexes, and what it asks for.
    async fn pass(&self, pass: Pass) -> Result<Tally, StoreError> {
        let registers = self.registers().await;
        self.note(|view| {
            let phase = match pass {
                Pass::Urgent => "urgent",
                Pass::All => "all",
                Pass::Proof => "proof",
            };
            phase.clone_into(&mut view.phase);
            (view.seen, view.registers) = (0, registers);
            (view.versions, view.whole, view.short_count) = (0, 0, 0);
            view.short.clear();
            view.error.clear();
        });
        let mut tally = Tally::default();
        for over in &self.over {
            self.pass_over(pass, over.clone(), &mut tally).await?;
        }
        Ok(tally)
    }

    async fn pass_over(&self, pass: Pass, over: Gap, tally: &mut Tally) -> Result<(), StoreError> {
        let mut comparison = Comparison::new(&self.set, over);
        loop {
            let batch = comparison.next().await;
            if batch.is_empty() {
                break;
            }
            let seen = batch.len() as u64;
            let usual = self.usual_margin();
            let due: Vec<Compared> = match pass {
                Pass::Urgent => batch
                    .into_iter()
                    .filter(|c| c.is_lacking(self.slot) && c.margin() < usual)
                    .collect(),
                Pass::All => batch.into_iter().filter(|c| c.is_lacking(self.slot)).collect(),
                Pass::Proof => batch,
            };
            let shown = due.into_iter().map(|c| (comparison.is_shown(&c), c)).collect::<Vec<_>>();
            let work = stream::iter(shown).map(|(is_shown, compared)| async move {
                let mended = match compared.is_lacking(self.slot) {
                    true => self.mend(&compared).await,
                    false => Ok(Mended::Whole(0)),
                };
                let mended = match mended {
                    Err(error) if is_shown => self.judge_failed(&compared, error).await,
                    mended => mended,
                };
                (compared, mended)
            });
            let mut work = Box::pin(work.buffer_unordered(AT_ONCE));
            while let Some((compared, mended)) = work.next().await {
                self.tell(pass, &comparison, &compared, mended, tally);
            }
            self.note(|view| view.seen += seen);
        }
        comparison.check(self.slot)
    }

    /// What the loss of this drive alone leaves a version of full width.
    fn usual_margin(&self) -> i32 {
        let quorum = self.set.shared.quorum;
        i32::from(quorum.n()) - 1 - i32::from(quorum.data_shards(0))
    }

    /// Registers of the fullest drive: about how many there are.
    async fn registers(&self) -> u64 {
        let all = (0..usize::from(self.set.shared.n())).map(|slot| (slot, DriveRequest::Facts));
        let answers = self.set.shared.ask_slots(all.collect()).await;
        let count = |result: DriveResult| match result {
            Ok(DriveReply::Facts(facts)) => facts.registers,
            _ => 0,
        };
        answers.into_iter().map(|(_, result)| count(result)).max().unwrap_or(0)
    }

    /// Counts what came of a register.
    fn tell(
        &self,
        pass: Pass,
        comparison: &Comparison,
        compared: &Compared,
        mended: Result<Mended, StoreError>,
        tally: &mut Tally,
    ) {
        match mended {
            Ok(Mended::Void) => {}
            Ok(Mended::Whole(bytes)) => {
                let short = (pass == Pass::Proof).then(|| self.short(comparison, compared));
                self.note(|view| {
                    view.bytes += bytes;
                    view.restored += u64::from(bytes > 0);
                    match short {
                        Some(Some(short)) => {
                            view.versions += 1;
                            view.short_count += 1;
                            if view.short.len() < SHORT_MAX {
                                view.short.push(short);
                            }
                        }
                        Some(None) => {
                            view.versions += 1;
                            view.whole += 1;
                        }
                        None => {}
                    }
                });
            }
            Ok(Mended::Lost(census, error)) => self.tell_lost(pass, compared, &census, &error),
            Err(error) => {
                tracing::debug!(key = ?compared.key, %error, "rebuild: left for later");
                tally.left += 1;
                tally.error = error.to_string();
            }
        }
    }

    /// A version that nobody can restore does not keep the drive from counting: it is on record instead.
    fn tell_lost(&self, pass: Pass, compared: &Compared, census: &Census, error: &StoreError) {
        let key = told(&compared.key);
        let why = format!("too few shards are left to restore it: {error}");
        if let Some(head) = compared.head().filter(|_| pass == Pass::Proof) {
            let now = self.engine.clock.wall_micros();
            let entry = Entry::new(head.operation, now, census, why.clone());
            self.engine.quarantine.enter(compared.key.clone(), compared.version, entry);
        }
        self.note(|view| {
            view.versions += 1;
            view.short_count += 1;
            if pass == Pass::Proof && view.short.len() < SHORT_MAX {
                view.short.push(ShortView { key, good: u32::from(census.good), why });
            }
        });
    }

    /// What a version still lacks on other drives, and why.
    fn short(&self, comparison: &Comparison, compared: &Compared) -> Option<ShortView> {
        let head = compared.head()?;
        let whole = compared.whole(head.operation);
        let lacking = (0..usize::from(self.set.shared.n()))
            .filter(|slot| *slot != self.slot && !whole.contains(slot));
        let why: Vec<String> = lacking
            .map(|slot| {
                let cause =
                    comparison.silence(slot, compared).unwrap_or("its shard is not there yet");
                format!("{}: {cause}", self.set.shared.place(slot))
            })
            .collect();
        if why.is_empty() {
            return None;
        }
        let key = told(&compared.key);
        let good = u32::from(self.set.shared.n()) - why.len() as u32;
        Some(ShortView { key, good, why: why.join("; ") })
    }

    /// Waits for as long as rebuilding is held, or ahead of its bound.
    async fn keep_pace(&self, bytes: u64) {
        loop {
            let now = self.engine.clock.monotonic_micros();
            let wait = {
                let mut pace = self.engine.rebuilds.pace.lock();
                match (pace.paused, pace.bytes_per_second) {
                    (true, _) => PAUSE_POLL,
                    (false, 0) => return,
                    (false, _) if pace.until_micros > now => {
                        Duration::from_micros(pace.until_micros - now)
                    }
                    (false, rate) => {
                        pace.until_micros = now + bytes.saturating_mul(1_000_000) / rate;
                        return;
                    }
                }
            };
            tokio::time::sleep(wait).await;
        }
    }
}

/// A register as an operator knows it.
fn told(key: &RegisterKey) -> String {
    match key.upload_parts() {
        Ok((name, _, Some(part))) => {
            format!("{}, part {part} of an upload", String::from_utf8_lossy(&name))
        }
        Ok((name, _, None)) => format!("{}, an upload", String::from_utf8_lossy(&name)),
        Err(_) => String::from_utf8_lossy(&key.name).into_owned(),
    }
}
