//! A drive of the model: the real decisions on the real state, with restarts and wipes.

use holdfast_register::{
    AcceptVerdict, DriveView, Held, HolderMask, KeyState, Refusal, Remembered, Reply,
    SettleVerdict, ShardStatus, Source,
    decide::{raised_ceiling, remembers_since},
    decide_accept, decide_install, decide_prepare, decide_purge, decide_settle,
};
use holdfast_types::{Ballot, Entry, HybridTime, OperationId, Quorum, SetEpoch, VersionId, limits};

use super::bugs::Bug;

/// What a message asks of a drive.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub enum Request {
    /// The machines' Accept.
    Accept { version: VersionId, entry: Entry, source: Source },
    /// The machines' Prepare.
    Prepare { ballot: Ballot, since: HybridTime },
    /// The machines' Read.
    Read,
    /// A coordinator's Settle.
    Settle { version: VersionId, operation: OperationId, holders: HolderMask },
    /// The healer's Install.
    Install { version: VersionId, entry: Entry, holders: HolderMask },
    /// The sweeper's Purge.
    Purge { version: VersionId, ballot: Ballot },
}

/// Where a drive stands after a wipe, or after its records have rotted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Stage {
    /// Whole.
    Counting,
    /// Its records of the key have rotted: it says nothing of the key, nor takes anything (ADR 0017).
    Hidden,
    /// New identity: collects floors; these drives have given theirs.
    Collecting(HolderMask),
    /// Accepts above its floor, counts as unknown.
    Rebuilding,
}

/// One drive, with what it holds of the one key.
#[derive(Clone, Debug, Hash)]
pub struct SimDrive {
    pub state: KeyState,
    pub facts: DriveView,
    /// No promise beyond it is given before it is raised, durably.
    pub ceiling: HybridTime,
    pub stage: Stage,
    pub up: bool,
    /// Raised by a wipe: messages to the former identity are lost.
    pub identity: u32,
}

impl SimDrive {
    /// A fresh drive of a fresh set.
    pub fn new() -> Self {
        Self {
            state: KeyState::default(),
            facts: DriveView {
                now: HybridTime(0),
                floor: Ballot::ZERO,
                purge_floor: Ballot::ZERO,
                set_epoch: SetEpoch(0),
                memory_since: HybridTime(0),
            },
            ceiling: HybridTime(0),
            stage: Stage::Counting,
            up: true,
            identity: 0,
        }
    }

    /// Whether its answers count.
    pub fn counts(&self, bug: Option<Bug>) -> bool {
        self.stage == Stage::Counting
            || (bug == Some(Bug::RebuildingCounts) && self.stage == Stage::Rebuilding)
    }

    /// Carries out a request of `epoch`.
    pub fn handle(
        &mut self,
        request: Request,
        epoch: SetEpoch,
        quorum: Quorum,
        bug: Option<Bug>,
    ) -> Reply {
        if matches!(self.stage, Stage::Collecting(_) | Stage::Hidden) {
            return Reply::Silent;
        }
        if epoch < self.facts.set_epoch {
            return Reply::Refused(Refusal::SetOutdated { current: self.facts.set_epoch });
        }
        self.facts.set_epoch = epoch;
        match request {
            Request::Accept { version, entry, source } => self.accept(version, entry, source, bug),
            Request::Prepare { ballot, since } => self.prepare(ballot, since, bug),
            Request::Read => {
                Reply::View(self.state.view(self.facts.floor, self.counts(bug), false))
            }
            Request::Settle { version, operation, holders } => {
                self.settle(quorum, version, operation, holders, bug)
            }
            Request::Install { version, entry, holders } => self.install(version, entry, holders),
            Request::Purge { version, ballot } => {
                if decide_purge(&self.state, version, ballot) == Ok(true) {
                    self.state.apply_purge(version, ballot);
                    self.facts.purge_floor = self.facts.purge_floor.max(ballot);
                }
                Reply::Silent
            }
        }
    }

    fn accept(
        &mut self,
        version: VersionId,
        entry: Entry,
        source: Source,
        bug: Option<Bug>,
    ) -> Reply {
        let held = self.state.registers.get(&version).and_then(|r| r.of_operation(entry.operation));
        let shard = match source {
            Source::NoData => ShardStatus::NoData,
            Source::Own | Source::Restore => ShardStatus::Present,
            Source::Held => held.map_or(ShardStatus::Missing, |held| held.shard),
        };
        if source == Source::Held && shard == ShardStatus::Missing {
            // It was here when the coordinator looked; a Settle has dropped it since.
            return Reply::Refused(Refusal::UploadLost);
        }
        let mut verdict = decide_accept(&self.state, &self.facts, version, &entry, shard);
        if bug == Some(Bug::AcceptBelowHighest) && matches!(verdict, Err(Refusal::Stale { .. })) {
            verdict = Ok(AcceptVerdict::Record);
        }
        match verdict {
            Err(refusal) => return Reply::Refused(refusal),
            Ok(AcceptVerdict::Already) => {
                return Reply::Accepted(held.map_or(shard, |held| held.shard));
            }
            Ok(AcceptVerdict::Record | AcceptVerdict::AddShard) => {}
        }
        let (operation, ballot) = (entry.operation, entry.ballot);
        let held = Held { entry, shard, settled: false, holders: HolderMask::default() };
        self.state.apply_accept(version, held);
        let now = self.facts.now;
        let horizon = HybridTime::from_micros(now.micros().saturating_sub(limits::MEMORY_MICROS));
        if bug != Some(Bug::NoMemory) {
            self.state.remember(Remembered { operation, ballot, at: now }, horizon);
        }
        Reply::Accepted(shard)
    }

    fn prepare(&mut self, ballot: Ballot, since: HybridTime, bug: Option<Bug>) -> Reply {
        if let Err(refusal) = decide_prepare(&self.state, &self.facts, ballot) {
            return Reply::Refused(refusal);
        }
        self.state.promise = self.state.promise.max(ballot);
        if let Some(ceiling) = raised_ceiling(self.facts.now, self.ceiling, ballot) {
            self.ceiling = ceiling;
        }
        let sure = matches!(bug, Some(Bug::NoMemory | Bug::RestartSaysNo));
        let remembers = sure || remembers_since(&self.state, &self.facts, since);
        Reply::View(self.state.view(self.facts.floor, self.counts(bug), remembers))
    }

    fn settle(
        &mut self,
        quorum: Quorum,
        version: VersionId,
        operation: OperationId,
        holders: HolderMask,
        bug: Option<Bug>,
    ) -> Reply {
        let verdict = decide_settle(&self.state, quorum, version, operation, holders);
        if let SettleVerdict::Mark { drop_below } = verdict {
            let drop_below = drop_below || bug == Some(Bug::ThinSettle);
            self.state.apply_settle(version, operation, holders, drop_below);
        }
        Reply::Silent
    }

    fn install(&mut self, version: VersionId, entry: Entry, holders: HolderMask) -> Reply {
        let has_data = entry.data_shards() > 0;
        let shard = if has_data { ShardStatus::Present } else { ShardStatus::NoData };
        match decide_install(&self.state, &self.facts, version, &entry, shard) {
            Err(refusal) => Reply::Refused(refusal),
            Ok(AcceptVerdict::Already) => Reply::Accepted(shard),
            Ok(AcceptVerdict::Record | AcceptVerdict::AddShard) => {
                let held = Held { entry, shard, settled: true, holders };
                self.state.apply_accept(version, held);
                Reply::Accepted(shard)
            }
        }
    }

    /// Power off and on: what is volatile is gone, and every key is promised at the ceiling.
    pub fn restart(&mut self, bug: Option<Bug>) {
        self.state.promise = Ballot::ZERO;
        self.state.memory.clear();
        self.state.forgot = HybridTime(0);
        self.facts.memory_since = self.facts.now;
        if bug != Some(Bug::VolatilePromises) {
            self.facts.floor = self.facts.floor.max(Ballot::ceiling(1, self.ceiling));
        }
    }

    /// Replaced by a blank drive of a new identity.
    pub fn wipe(&mut self, epoch: SetEpoch, bug: Option<Bug>) {
        let mut fresh = Self::new();
        fresh.facts.now = self.facts.now;
        fresh.facts.memory_since = self.facts.now;
        fresh.facts.set_epoch = epoch;
        fresh.identity = self.identity + 1;
        fresh.up = self.up;
        fresh.stage = Stage::Collecting(HolderMask::default());
        if bug == Some(Bug::NoFloor) {
            fresh.stage = Stage::Rebuilding;
        }
        *self = fresh;
    }

    /// Its shards of the key rot: it finds out, says that they are missing, and does not vouch for what was
    /// not settled yet (INV-REG-4).
    pub fn rot_shards(&mut self, bug: Option<Bug>) {
        let held = || self.state.registers.values().flat_map(|register| &register.entries);
        let memory = self.state.memory.clone();
        for operation in held().map(|held| held.entry.operation).collect::<Vec<_>>() {
            if self.state.apply_loss(operation) {
                self.facts.memory_since = self.facts.now;
            }
        }
        if bug == Some(Bug::RottenVouches) {
            self.state.memory = memory;
        }
    }

    /// Its records of the key rot: it is silent about the key, whatever its memory says.
    pub fn rot_records(&mut self, bug: Option<Bug>) {
        let highest = self.state.highest();
        self.state.registers.clear();
        self.facts.floor = self.facts.floor.max(highest);
        match bug {
            Some(Bug::RottenCounts) => {}
            Some(Bug::RottenVouches) => self.stage = Stage::Rebuilding,
            _ => self.stage = Stage::Hidden,
        }
    }

    /// What rot hid is to be filled again from the other drives: it refuses at or below all that it ever
    /// accepted or promised, has forgotten what it accepted, and counts as unknown until it is filled. The set
    /// has a new epoch, as if it were another drive: a coordinator that holds an acceptance of before must
    /// not complete a quorum with it once it counts (ADR 0017).
    pub fn fill(&mut self, epoch: SetEpoch) {
        self.state.memory.clear();
        self.facts.memory_since = self.facts.now;
        self.facts.set_epoch = epoch;
        self.stage = Stage::Collecting(HolderMask::default());
    }

    /// What it gives a new drive: the highest ballots it accepted, promised and purged. Adopts the new
    /// set epoch in the same step.
    pub fn give_floor(&mut self, epoch: SetEpoch) -> (Ballot, Ballot) {
        self.facts.set_epoch = self.facts.set_epoch.max(epoch);
        let floor = self.state.highest().max(self.state.promise).max(self.facts.floor);
        (floor, self.facts.purge_floor)
    }

    /// Whether it holds an operation with its shard.
    pub fn is_whole(&self, operation: OperationId) -> bool {
        let held = self.state.registers.values().find_map(|r| r.of_operation(operation));
        held.is_some_and(Held::is_whole)
    }
}
