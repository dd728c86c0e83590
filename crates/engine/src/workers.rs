//! Background workers of one node: they work off what its drives list.
//!
//! | worker | works off | until |
//! |---|---|---|
//! | resolver | what its drives have held unsettled for `resolve_after` | it is settled, or sealed |
//! | healer | registers whose settled entry not all drives hold | all do |
//! | purger | settled tombstones, old enough, that every drive holds | they are gone |
//!
//! Every node lists the same work from its own drives. The node of the first drive that can do it
//! takes it; the others come in when it is left lying, so two may meet and neither does harm.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use holdfast_drive::api::{Chore, ChoreKind, DriveReply, DriveRequest, ListChores};
use holdfast_types::{
    BucketEpoch, BucketId, BucketPhase, BucketStamp, NodeIndex, RegisterKey,
    sabotage::{Bug, planted},
};
use parking_lot::Mutex;
use serde::Serialize;

use crate::{engine::Engine, error::StoreError, set::SetHandle, task};

/// Items asked for in one listing.
const PAGE: u32 = 256;

/// Stamps a worker remembers; beyond it all are forgotten.
const STAMPS_MAX: usize = 4096;

/// A node takes what lies this many times as long as it may before the responsible one has.
const PATIENCE: u32 = 3;

/// Every so many passes a worker takes all work that was left lying, not only its own.
const SWEEP_EVERY: u64 = 4;

/// What a worker is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkerState {
    /// Working.
    Busy,
    /// There is work that cannot be done now: drives are away.
    Throttled,
    /// Nothing to do.
    Idle,
}

/// A worker as operators see it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct WorkerStatus {
    /// `resolver`, `healer` or `purger`.
    pub name: &'static str,
    /// What it is doing.
    pub state: WorkerState,
    /// Items worked off since the start.
    pub done: u64,
    /// Items left for later in the last pass.
    pub left: u64,
    /// The last error, empty when the last pass had none.
    pub error: String,
}

/// Statuses of an engine's workers.
#[derive(Default)]
pub(crate) struct Workers {
    statuses: Mutex<BTreeMap<&'static str, WorkerStatus>>,
}

/// What came of one item.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Worked {
    /// It is done, or needs nothing.
    Done,
    /// Drives that it needs are away, or the time has not come.
    Later,
}

/// One worker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Job {
    Resolve,
    Heal,
    Purge,
}

impl Job {
    const ALL: [Self; 3] = [Self::Resolve, Self::Heal, Self::Purge];

    const fn name(self) -> &'static str {
        match self {
            Self::Resolve => "resolver",
            Self::Heal => "healer",
            Self::Purge => "purger",
        }
    }

    const fn kind(self) -> ChoreKind {
        match self {
            Self::Resolve => ChoreKind::Unsettled,
            Self::Heal => ChoreKind::Repairs,
            Self::Purge => ChoreKind::Tombstones,
        }
    }
}

/// What one pass over a node's drives came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pass {
    /// Items worked off.
    pub done: u64,
    /// Items left for later.
    pub left: u64,
    /// The last error.
    pub error: String,
}

impl Engine {
    /// What the background workers are doing.
    #[must_use]
    pub fn workers(&self) -> Vec<WorkerStatus> {
        self.workers.statuses.lock().values().cloned().collect()
    }

    /// Starts the workers of a node with drives. They end with the engine.
    pub(crate) fn start_workers(self: &Arc<Self>) {
        let Some(node) = self.local.filter(|_| self.knobs.background) else { return };
        for job in Job::ALL {
            task::detach(work(Arc::downgrade(self), job, node, self.knobs.chores_every));
        }
        crate::bucket_sweep::start(Arc::downgrade(self), node, self.knobs.buckets_every);
        let watch = crate::rebuild::watch(Arc::downgrade(self), node, self.knobs.chores_every);
        task::detach(watch);
        crate::sweep::start(Arc::downgrade(self), node, self.nodes.len());
    }

    /// One pass of all workers over the drives of `node`: for tests, and for an operator in a hurry.
    pub async fn work_off(&self, node: NodeIndex) -> Pass {
        let mut sum = Pass::default();
        for job in Job::ALL {
            let pass = self.pass(job, node, true).await;
            sum.done += pass.done;
            sum.left += pass.left;
            if !pass.error.is_empty() {
                sum.error = pass.error;
            }
        }
        self.sweep_quarantine().await;
        sum
    }

    async fn pass(&self, job: Job, node: NodeIndex, sweep: bool) -> Pass {
        let mut pass = Pass::default();
        let mut seen = HashSet::new();
        let mut stamps = BTreeMap::new();
        for set in &self.sets {
            for slot in set.shared.members.now().of_node(node) {
                let mut after = None;
                while let Some(page) = self.list(job, set, slot, after.take(), sweep).await {
                    after = page.last().map(|chore| chore.cursor.clone());
                    let full = page.len() == PAGE as usize;
                    for chore in page {
                        let new = seen.insert((chore.key.clone(), chore.version));
                        let mine = || {
                            is_of_slot(job, set, &chore, slot)
                                || self.is_mine(job, set, &chore, node)
                        };
                        if new && (sweep || mine()) {
                            self.do_one(job, set, &chore, &mut stamps, &mut pass).await;
                        }
                    }
                    if !full {
                        break;
                    }
                }
            }
        }
        pass
    }

    async fn list(
        &self,
        job: Job,
        set: &SetHandle,
        slot: usize,
        after: Option<Bytes>,
        sweep: bool,
    ) -> Option<Vec<Chore>> {
        if job == Job::Heal && planted(Bug::RepairsDropped) {
            return None;
        }
        let age = match job {
            Job::Resolve if sweep => self.knobs.resolve_after * PATIENCE,
            Job::Resolve => self.knobs.resolve_after,
            Job::Heal => Duration::ZERO,
            Job::Purge => self.knobs.tombstone_age,
        };
        let age_micros = age.as_micros() as u64;
        let list = ListChores { kind: job.kind(), age_micros, after, limit: PAGE };
        let answers = set.shared.ask_slots(vec![(slot, DriveRequest::ListChores(list))]).await;
        match answers.into_iter().next() {
            Some((_, Ok(DriveReply::Chores(chores)))) if !chores.is_empty() => Some(chores),
            _ => None,
        }
    }

    /// Whether the first drive that can do the work is on `node`.
    fn is_mine(&self, job: Job, set: &SetHandle, chore: &Chore, node: NodeIndex) -> bool {
        let Ok(route) = set.shared.route(&chore.key) else { return false };
        let up = set.shared.up(&route).into_iter();
        let mut able = up.filter(|shard| job != Job::Heal || !chore.missing.has(*shard));
        able.next()
            .is_some_and(|first| set.shared.slot(route.slots[usize::from(first)]).node == node)
    }

    async fn do_one(
        &self,
        job: Job,
        set: &SetHandle,
        chore: &Chore,
        stamps: &mut BTreeMap<BucketId, BucketStamp>,
        pass: &mut Pass,
    ) {
        let mut outcome = Ok(Worked::Later);
        // The second round is under the stamp that the drives named in the first.
        for _ in 0..2 {
            let stamp = stamp_of(stamps, &chore.key);
            if stamp.phase != BucketPhase::Live {
                // Nothing is written under a bucket that is going, or gone with all that was in it.
                outcome = Ok(Worked::Done);
                break;
            }
            outcome = match job {
                Job::Resolve => self.roll_forward(set, stamp, chore).await,
                Job::Heal => self.heal(set, stamp, chore).await,
                Job::Purge => self.purge(set, stamp, chore).await,
            };
            if matches!(outcome, Err(StoreError::SetChanged { .. })) {
                continue;
            }
            let Err(StoreError::BucketChanged { current }) = &outcome else { break };
            if stamps.len() >= STAMPS_MAX {
                stamps.clear();
            }
            stamps.insert(current.id, *current);
        }
        if let (Job::Heal, Err(error @ StoreError::BelowQuorum { .. })) = (job, &outcome) {
            let (stamp, place) = (stamp_of(stamps, &chore.key), (&chore.key, chore.version));
            self.suspect_lost(set, stamp, place, chore.operation, error).await;
        }
        match outcome {
            Ok(Worked::Done) => pass.done += 1,
            Ok(Worked::Later) => pass.left += 1,
            Err(error) => {
                tracing::debug!(job = job.name(), key = ?chore.key, %error, "chore left for later");
                pass.left += 1;
                pass.error = error.to_string();
            }
        }
    }
}

/// Whether the chore is about the shard of the very drive that lists it: it found that it lacks it, and
/// no other drive may know.
fn is_of_slot(job: Job, set: &SetHandle, chore: &Chore, slot: usize) -> bool {
    let route = (job == Job::Heal).then(|| set.shared.route(&chore.key)).and_then(Result::ok);
    route.is_some_and(|route| chore.missing.has(route.shard_of(slot)))
}

/// The stamp under which a chore's requests go out. A worker knows keys, not buckets: it begins below
/// every epoch, and drives that know the bucket name the current one.
pub(crate) fn stamp_of(stamps: &BTreeMap<BucketId, BucketStamp>, key: &RegisterKey) -> BucketStamp {
    if key.bucket == BucketId::NIL {
        return BucketStamp::REGISTRY;
    }
    let unknown = BucketStamp { id: key.bucket, epoch: BucketEpoch(0), phase: BucketPhase::Live };
    stamps.get(&key.bucket).copied().unwrap_or(unknown)
}

async fn work(engine: Weak<Engine>, job: Job, node: NodeIndex, every: Duration) {
    let mut passes = 0_u64;
    let mut done = 0;
    loop {
        tokio::time::sleep(every).await;
        let Some(engine) = engine.upgrade() else { return };
        passes += 1;
        let sweep = passes.is_multiple_of(SWEEP_EVERY);
        let report = |state, pass: &Pass, done| {
            let (left, error) = (pass.left, pass.error.clone());
            let status = WorkerStatus { name: job.name(), state, done, left, error };
            engine.workers.statuses.lock().insert(job.name(), status);
        };
        report(WorkerState::Busy, &Pass::default(), done);
        let pass = engine.pass(job, node, sweep).await;
        if job == Job::Heal && sweep {
            engine.sweep_quarantine().await;
        }
        done += pass.done;
        let state = if pass.left > 0 { WorkerState::Throttled } else { WorkerState::Idle };
        report(state, &pass, done);
    }
}
