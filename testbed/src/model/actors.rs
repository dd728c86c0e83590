//! How operations begin: clients, the roll-forward, the healer and the rebuild of a drive.

use bytes::Bytes;
use holdfast_register::{
    Blind, Candidate, Conditional, Drives, HolderMask, Read, Resolve, Subject, Target,
    resolve::Reach,
};
use holdfast_types::{Ballot, Entry, EntryKind, Geometry, OperationId, VersionId};

use super::{
    bugs::Bug,
    config::Plan,
    drive::Stage,
    history::{Ask, Id},
    task::{AnyMachine, Task, Work},
    world::World,
};

/// Operation ids from here on are seals, not entries of the history.
const SEALS: u128 = 1 << 64;

/// What tells the shapes of one client operation apart: each has an operation id of its own.
const SHAPE: u128 = 1 << 32;

/// Shapes a client operation may take.
const SHAPES_MAX: u128 = 3;

/// The operation of a place in the history, in its first shape.
pub fn operation_of(id: Id) -> OperationId {
    OperationId(id as u128 + 1)
}

/// The operation in its next shape.
fn reshaped(operation: OperationId) -> OperationId {
    OperationId(operation.0 + SHAPE)
}

/// All operations that a place in the history may have written under.
pub fn shapes_of(id: Id) -> impl Iterator<Item = OperationId> {
    (0..SHAPES_MAX).map(move |shape| OperationId(operation_of(id).0 + shape * SHAPE))
}

/// The place in the history of an operation.
pub fn id_of(operation: OperationId) -> Id {
    (operation.0 % SHAPE).wrapping_sub(1) as usize
}

/// The value a candidate stands for.
pub fn value_of(candidate: &Candidate) -> Option<Id> {
    (candidate.entry.kind == EntryKind::Put).then(|| id_of(candidate.entry.operation))
}

/// Whether an operation is of a client, and no seal.
pub fn is_clients(operation: OperationId) -> bool {
    operation.0 < SEALS
}

impl World {
    /// A client begins the next operation of its script.
    pub fn start_client(&mut self, client: usize) {
        let plan = self.clients[client].script[self.clients[client].next];
        self.clients[client].next += 1;
        let Some(ask) = self.plan(plan) else { return };
        self.clients[client].busy = true;
        let id = self.history.ask(ask);
        let drives = self.known_drives();
        let machine = self.machine_for(id, ask, drives);
        if self.config.drawn && self.rng.chance(50) {
            self.clients[client].epoch = self.epoch;
        }
        let (skew, epoch) = (self.clients[client].skew, self.clients[client].epoch);
        self.say(|| format!("client {client} asks {id}: {ask:?} with {:016b}", drives.up.0));
        self.spawn(Work::Client { client, id }, machine, drives, skew, epoch);
    }

    fn plan(&mut self, plan: Plan) -> Option<Ask> {
        let writes = self
            .history
            .ops
            .iter()
            .enumerate()
            .filter(|(_, op)| matches!(op.ask, Ask::Put | Ask::Create | Ask::Replace(_)));
        let writes: Vec<Id> = writes.map(|(id, _)| id).collect();
        // Version ids are drawn at random: who asks for a version was told of it.
        let told: Vec<Id> =
            writes.iter().copied().filter(|id| self.history.is_known(*id)).collect();
        let some = |world: &mut Self, of: &[Id]| {
            let count = of.len() as u64;
            match count {
                0 => None,
                _ if !world.config.drawn => of.last().copied(),
                _ => Some(of[world.rng.below(count) as usize]),
            }
        };
        Some(match plan {
            Plan::Put => Ask::Put,
            Plan::Delete => Ask::Delete,
            Plan::Create => Ask::Create,
            Plan::Get => Ask::Get,
            Plan::DeleteVersion => Ask::DeleteVersion(some(self, &writes)?),
            Plan::Replace => Ask::Replace(some(self, &writes)?),
            Plan::GetVersion => Ask::GetVersion(some(self, &told)?),
        })
    }

    /// The set as a coordinator knows it: rarely all of the truth.
    pub fn known_drives(&mut self) -> Drives {
        let n = self.quorum.n();
        let mut up = HolderMask::full(n);
        if !self.config.drawn {
            return Drives { quorum: self.quorum, up };
        }
        for index in 0..n {
            let is_down = !self.drives[usize::from(index)].up;
            let guess = if is_down { 60 } else { 4 };
            if up.count() > n - self.quorum.away() && self.rng.chance(guess) {
                up = up.without(index);
            }
        }
        Drives { quorum: self.quorum, up }
    }

    fn machine_for(&mut self, id: Id, ask: Ask, drives: Drives) -> AnyMachine {
        match ask {
            Ask::Put | Ask::Delete | Ask::DeleteVersion(_) => {
                let (version, entry) = self.draft(id, ask, drives);
                AnyMachine::Blind(Blind::new(drives, version, entry, drives.up))
            }
            Ask::Create | Ask::Replace(_) => {
                let version = self.version_of(id);
                let seal = self.next_seal();
                AnyMachine::Conditional(Conditional::new(drives, version, Subject::Latest, seal))
            }
            Ask::Get => AnyMachine::Read(self.reader(Target::Latest, drives)),
            Ask::GetVersion(wanted) => {
                let target = Target::Version(self.version_of(wanted));
                AnyMachine::Read(self.reader(target, drives))
            }
        }
    }

    /// A write of unknown effect is begun again: for the drives that are known to be up by then,
    /// in another shape as often as not (ADR 0011). With the planted bug it forgets its earlier shapes.
    pub fn again(&mut self, at: usize, id: Id) -> Option<AnyMachine> {
        let machine = self.tasks[at].machine.clone();
        if !self.config.drawn || self.tasks[at].shape + 1 >= SHAPES_MAX || self.rng.chance(30) {
            return None;
        }
        let drives = self.known_drives();
        let (version, mut entry) = self.draft(id, self.history.ops[id].ask, drives);
        let shape = self.in_shape(at, entry.operation);
        entry.operation = shape;
        if entry.geometry.has_data() {
            self.tasks[at].shape += 1;
            entry.operation = reshaped(shape);
        }
        self.tasks[at].drives = drives;
        let up = drives.up;
        self.say(|| {
            format!("{id} is begun again as {:?} with {:016b}", entry.operation, drives.up.0)
        });
        Some(match (machine, self.bug) {
            (AnyMachine::Blind(_), Some(Bug::ForgetShapes)) => {
                AnyMachine::Blind(Blind::new(drives, version, entry, up))
            }
            // The planted bug forgets what its condition was decided for as well.
            (AnyMachine::Conditional(_), Some(Bug::ForgetShapes)) => {
                let seal = self.next_seal();
                AnyMachine::Conditional(Conditional::new(drives, version, Subject::Latest, seal))
            }
            (AnyMachine::Blind(machine), _) => AnyMachine::Blind(machine.again(drives, entry, up)),
            (AnyMachine::Conditional(machine), _) => {
                AnyMachine::Conditional(machine.again(drives, entry, up))
            }
            (AnyMachine::Read(_) | AnyMachine::Resolve(_), _) => return None,
        })
    }

    /// An operation in the shape that its task has come to.
    pub fn in_shape(&self, at: usize, operation: OperationId) -> OperationId {
        (0..self.tasks[at].shape).fold(operation, |op, _| reshaped(op))
    }

    /// A read that asks the drives in some order.
    pub fn reader(&mut self, target: Target, drives: Drives) -> Read {
        let mut order: Vec<u8> = drives.up.iter().collect();
        if self.config.drawn {
            let by = self.rng.below(order.len() as u64) as usize;
            order.rotate_left(by);
        }
        Read::new(drives, target, &order)
    }

    /// The register of a written value.
    pub fn version_of(&self, id: Id) -> VersionId {
        if self.config.versioned { VersionId(id as u128 + 1) } else { VersionId::NULL }
    }

    /// What an operation writes, and where.
    pub fn draft(&mut self, id: Id, ask: Ask, drives: Drives) -> (VersionId, Entry) {
        let n = self.quorum.n();
        let down = n - drives.up.count();
        let tiny = self.config.drawn && self.rng.chance(30);
        let k =
            if tiny { self.quorum.data_shards_tiny(down) } else { self.quorum.data_shards(down) };
        let removed = match ask {
            Ask::Delete => Some(VersionId::NULL),
            Ask::DeleteVersion(gone) => Some(self.version_of(gone)),
            _ => None,
        };
        let kind = if removed.is_some() { EntryKind::Tombstone } else { EntryKind::Put };
        let geometry = if removed.is_some() { Geometry::EMPTY } else { Geometry::new(k, n, 1) };
        let entry = Entry {
            ballot: Ballot::ZERO,
            order: Ballot::ZERO,
            operation: operation_of(id),
            kind,
            geometry,
            metadata: Bytes::new(),
            parts: Vec::new(),
        };
        (removed.unwrap_or_else(|| self.version_of(id)), entry)
    }

    /// A fresh operation id for a tombstone that seals.
    pub fn next_seal(&mut self) -> OperationId {
        self.next_task += 1;
        OperationId(SEALS + u128::from(self.next_task))
    }

    /// A machine begins its work.
    pub fn spawn(
        &mut self,
        work: Work,
        machine: AnyMachine,
        drives: Drives,
        skew: i64,
        epoch: holdfast_types::SetEpoch,
    ) {
        self.next_task += 1;
        let id = self.next_task;
        self.tasks.push(Task {
            id,
            work,
            machine,
            generation: 0,
            drives,
            epoch,
            heard: epoch,
            calls: Vec::new(),
            grace: false,
            over: false,
            skew,
            saw: None,
            whole: HolderMask::default(),
            needed: 0,
            tries: 0,
            shape: 0,
        });
        let at = self.tasks.len() - 1;
        let step = self.tasks[at].machine.start();
        self.carry_out(id, step);
    }

    /// The roll-forward of a version.
    pub fn start_sweep(&mut self, version: VersionId) {
        self.budgets.sweeps = self.budgets.sweeps.saturating_sub(1);
        let drives = self.known_drives();
        let seal = self.next_seal();
        let reach = if self.rng.chance(30) { Reach::Rewrite(seal) } else { Reach::Sweep(seal) };
        let machine = AnyMachine::Resolve(Resolve::new(drives, Target::Version(version), reach));
        self.spawn(Work::Sweep, machine, drives, 0, self.epoch);
    }

    /// The healer looks at a version.
    pub fn start_heal(&mut self, version: VersionId) {
        self.budgets.heals = self.budgets.heals.saturating_sub(1);
        let drives = self.known_drives();
        let machine = AnyMachine::Read(self.reader(Target::Version(version), drives));
        self.spawn(Work::Heal, machine, drives, 0, self.epoch);
    }

    /// A drive that has its floor rebuilds.
    pub fn start_rebuild(&mut self, drive: u8) {
        let identity = self.drives[usize::from(drive)].identity;
        let drives = Drives { quorum: self.quorum, up: HolderMask::full(self.quorum.n()) };
        let machine = AnyMachine::Read(self.reader(Target::Latest, drives));
        // Not drawn: the seeds of the walks are older than the choice.
        let installs = self.swarm.salt > 3;
        let work = Work::Rebuild { drive, identity, left: None, installs };
        self.spawn(work, machine, drives, 0, self.epoch);
    }

    /// The next step of a rebuild: the next register, or the drive counts.
    pub fn rebuild_next(&mut self, id: u32) {
        let Some(at) = self.task(id) else { return };
        let Work::Rebuild { drive, identity, left, installs } = &mut self.tasks[at].work else {
            return;
        };
        let (drive, identity, installs) = (usize::from(*drive), *identity, *installs);
        let Some(version) = left.as_mut().and_then(Vec::pop) else {
            let target = &mut self.drives[drive];
            if target.identity == identity && target.stage == Stage::Rebuilding {
                target.stage = Stage::Counting;
                self.say(|| format!("drive {drive} is rebuilt"));
            }
            self.tasks.swap_remove(at);
            return;
        };
        let drives = self.tasks[at].drives;
        if installs {
            let reader = self.reader(Target::Version(version), drives);
            return self.replace(at, AnyMachine::Read(reader));
        }
        self.rewrite(at, version);
    }

    /// A rebuild brings a register by writing what it holds anew.
    pub fn rewrite(&mut self, at: usize, version: VersionId) {
        let seal = self.next_seal();
        let drives = self.tasks[at].drives;
        let machine = Resolve::new(drives, Target::Version(version), Reach::Rewrite(seal));
        self.replace(at, AnyMachine::Resolve(machine));
    }

    /// A task goes on with another machine.
    pub fn replace(&mut self, at: usize, machine: AnyMachine) {
        let task = &mut self.tasks[at];
        task.machine = machine;
        task.generation += 1;
        task.calls.clear();
        task.grace = false;
        let id = task.id;
        let step = task.machine.start();
        self.carry_out(id, step);
    }

    /// Whether a planted bug changes what a task's success needs, and to how many drives.
    pub fn early_success(&self, at: usize) -> bool {
        let task = &self.tasks[at];
        let have = task.whole.count();
        match self.bug {
            Some(Bug::EarlyAck) => task.needed > 0 && have + 1 >= self.quorum.write(),
            Some(Bug::ThinAck) => task.needed > 0 && have + 1 >= task.needed,
            _ => false,
        }
    }
}
