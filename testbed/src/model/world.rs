//! The state of a run and what its events do.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_register::{Answer, Command, HolderMask, Reply, Round, Settlement};
use holdfast_types::{Ballot, HybridTime, OperationId, Quorum, SetEpoch, VersionId, WriterId};

use super::{
    bugs::Bug,
    config::{Budgets, Config, Plan, Swarm},
    drive::{Request, SimDrive, Stage},
    history::{History, Id, Told},
    rng::Rng,
    task::{AnyMachine, Task, Work, answered_once},
};

/// A message on its way.
#[derive(Clone, Debug, Hash)]
pub enum Message {
    /// To a drive of an identity; the reply goes to a task, its machine and round.
    Request {
        drive: u8,
        identity: u32,
        epoch: SetEpoch,
        request: Request,
        from: Option<(u32, u32, Round)>,
    },
    /// Back.
    Reply { task: u32, generation: u32, round: Round, drive: u8, reply: Reply },
}

/// One thing that may happen next.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Event {
    Start(usize),
    Deliver(usize),
    Drop(usize),
    Double(usize),
    Timeout(u32, Round, u8),
    Grace(u32),
    Finish(u32),
    Crash(u32),
    Restart(u8),
    Down(u8),
    Up(u8),
    Wipe(u8),
    Collect(u8, u8),
    Rebuild(u8),
    Sweep(u128),
    Heal(u128),
    Purge(u128),
    Rot(u8),
    /// What rot hid on a drive is given up: it is filled from the others, or replaced.
    Unhide(u8),
    Leap,
}

/// A client and how far it is in its script.
#[derive(Clone, Debug, Hash)]
pub struct Client {
    pub script: Vec<Plan>,
    pub next: usize,
    pub busy: bool,
    pub skew: i64,
    pub epoch: SetEpoch,
}

/// A run.
#[derive(Clone, Debug, Hash)]
pub struct World {
    pub config: Config,
    pub bug: Option<Bug>,
    pub rng: Rng,
    pub quorum: Quorum,
    pub now_micros: u64,
    pub drives: Vec<SimDrive>,
    pub net: Vec<Message>,
    pub tasks: Vec<Task>,
    pub clients: Vec<Client>,
    pub history: History,
    pub budgets: Budgets,
    pub epoch: SetEpoch,
    /// Read by a client, though perhaps never acknowledged.
    pub read: BTreeSet<Id>,
    /// What was acknowledged for a register under the highest ballot.
    pub acknowledged: BTreeMap<VersionId, (Ballot, OperationId)>,
    pub swarm: Swarm,
    pub next_task: u32,
    pub violation: Option<String>,
    /// Lost more than is promised: not judged.
    pub excused: bool,
    pub trace: Option<Vec<String>>,
}

/// Where the model's clock starts: memories that began at 0 are complete from here on.
const START_MICROS: u64 = 100_000_000;

impl World {
    /// A fresh set and idle clients.
    pub fn new(config: Config, bug: Option<Bug>, mut rng: Rng) -> Self {
        let swarm = if config.drawn { Swarm::draw(&mut rng) } else { Swarm::EVEN };
        let mut clients = Vec::new();
        for script in config.scripts.clone() {
            let skew = if config.drawn { rng.below(6_000_000) as i64 - 3_000_000 } else { 0 };
            clients.push(Client { script, next: 0, busy: false, skew, epoch: SetEpoch(0) });
        }
        Self {
            bug,
            rng,
            quorum: Quorum::of(config.drives),
            now_micros: START_MICROS,
            drives: (0..config.drives).map(|_| SimDrive::new()).collect(),
            net: Vec::new(),
            tasks: Vec::new(),
            clients,
            history: History::default(),
            budgets: config.budgets,
            epoch: SetEpoch(0),
            read: BTreeSet::new(),
            acknowledged: BTreeMap::new(),
            swarm,
            next_task: 0,
            violation: None,
            excused: false,
            trace: None,
            config,
        }
    }

    /// Notes a line of the trace, when one is kept.
    pub fn say(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(line());
        }
    }

    /// Ends the run: a property does not hold.
    pub fn violate(&mut self, what: String) {
        self.say(|| format!("VIOLATION: {what}"));
        self.violation.get_or_insert(what);
    }

    /// Lets an event happen.
    pub fn apply(&mut self, event: Event) {
        // Without draws time is a matter of operations begun, so that different orders of the same
        // events meet in one state.
        if self.config.drawn || matches!(event, Event::Start(_)) {
            self.now_micros += 1_000;
        }
        let now = HybridTime::from_micros(self.now_micros);
        for drive in &mut self.drives {
            drive.facts.now = now;
        }
        if !matches!(event, Event::Deliver(_)) {
            self.say(|| format!("{event:?}"));
        }
        match event {
            Event::Start(client) => self.start_client(client),
            Event::Deliver(at) => {
                let message = self.net.swap_remove(at);
                self.deliver(message);
            }
            Event::Drop(at) => {
                self.budgets.drops -= 1;
                self.net.swap_remove(at);
            }
            Event::Double(at) => {
                self.budgets.doubles -= 1;
                self.net.push(self.net[at].clone());
            }
            Event::Timeout(task, round, drive) => {
                self.budgets.timeouts = self.budgets.timeouts.saturating_sub(1);
                self.time_out(task, round, drive);
            }
            Event::Grace(task) => self.grace(task),
            Event::Finish(task) => self.finish_task(task),
            Event::Crash(task) => {
                self.budgets.crashes -= 1;
                self.crash(task);
            }
            Event::Sweep(version) => self.start_sweep(VersionId(version)),
            Event::Heal(version) => self.start_heal(VersionId(version)),
            Event::Leap => {
                self.budgets.leaps -= 1;
                self.now_micros += 1_000_000 + self.rng.below(12_000_000);
            }
            Event::Restart(_)
            | Event::Down(_)
            | Event::Up(_)
            | Event::Wipe(_)
            | Event::Collect(..)
            | Event::Rebuild(_)
            | Event::Rot(_)
            | Event::Unhide(_)
            | Event::Purge(_) => self.apply_fault(event),
        }
    }

    fn apply_fault(&mut self, event: Event) {
        match event {
            Event::Restart(drive) => {
                self.budgets.restarts -= 1;
                self.drives[usize::from(drive)].restart(self.bug);
            }
            Event::Down(drive) => {
                self.budgets.outages -= 1;
                self.drives[usize::from(drive)].up = false;
            }
            Event::Up(drive) => {
                let bug = self.bug;
                let drive = &mut self.drives[usize::from(drive)];
                drive.up = true;
                drive.restart(bug);
            }
            Event::Wipe(drive) => {
                self.budgets.wipes -= 1;
                self.wipe(drive);
            }
            Event::Unhide(drive) => {
                if self.rng.chance(50) {
                    self.epoch.0 += 1;
                    self.drives[usize::from(drive)].fill(self.epoch);
                } else {
                    self.wipe(drive);
                }
            }
            Event::Rot(drive) => {
                self.budgets.rots -= 1;
                let shards = self.rng.chance(40);
                let rotten = &mut self.drives[usize::from(drive)];
                if shards {
                    rotten.rot_shards(self.bug);
                } else {
                    rotten.rot_records(self.bug);
                }
                self.check_durable();
            }
            Event::Collect(new, from) => self.collect(new, from),
            Event::Rebuild(drive) => self.start_rebuild(drive),
            Event::Purge(version) => self.purge(VersionId(version)),
            _ => {}
        }
    }

    /// A drive is replaced by a blank one.
    fn wipe(&mut self, drive: u8) {
        if self.bug != Some(Bug::NoSetEpoch) {
            self.epoch.0 += 1;
        }
        self.drives[usize::from(drive)].wipe(self.epoch, self.bug);
        self.check_durable();
    }

    fn deliver(&mut self, message: Message) {
        match message {
            Message::Request { drive, identity, epoch, request, from } => {
                let (bug, quorum) = (self.bug, self.quorum);
                let target = &mut self.drives[usize::from(drive)];
                if !target.up || target.identity != identity {
                    return;
                }
                let settles = matches!(request, Request::Settle { .. });
                let accepts = matches!(request, Request::Accept { .. });
                let asked = self.trace.is_some().then(|| format!("{request:?}"));
                let reply = target.handle(request, epoch, quorum, bug);
                if let Some(asked) = asked {
                    let short = summary(&reply);
                    self.say(|| format!("drive {drive} <- {from:?} {asked} -> {short}"));
                }
                if settles {
                    self.check_durable();
                }
                if accepts {
                    answered_once(&mut self.net, from, drive);
                }
                if let Some((task, generation, round)) = from {
                    self.net.push(Message::Reply { task, generation, round, drive, reply });
                }
            }
            Message::Reply { task, generation, round, drive, reply } => {
                self.reply(task, generation, round, drive, reply);
            }
        }
    }

    /// A new drive asks another for its floor.
    fn collect(&mut self, new: u8, from: u8) {
        let epoch = self.epoch;
        let (floor, purge_floor) = self.drives[usize::from(from)].give_floor(epoch);
        let need = self.quorum.write().min(self.quorum.n() - 1);
        let drive = &mut self.drives[usize::from(new)];
        let Stage::Collecting(given) = drive.stage else { return };
        drive.facts.floor = drive.facts.floor.max(floor);
        drive.facts.purge_floor = drive.facts.purge_floor.max(purge_floor);
        let given = given.with(from);
        let done = given.count() >= need;
        drive.stage = if done { Stage::Rebuilding } else { Stage::Collecting(given) };
    }

    /// Sends Purge to all drives. By then every older message and every request is long gone.
    fn purge(&mut self, version: VersionId) {
        self.budgets.purges -= 1;
        self.now_micros += 200_000_000;
        self.net.clear();
        let tasks: Vec<u32> = self.tasks.iter().map(|task| task.id).collect();
        for task in tasks {
            self.crash(task);
        }
        let heads = self.drives.iter().filter_map(|d| d.state.registers.get(&version)?.head());
        let Some(ballot) = heads.map(|held| held.entry.ballot).max() else { return };
        self.acknowledged.remove(&version);
        for drive in 0..self.quorum.n() {
            self.post(drive, self.epoch, Request::Purge { version, ballot }, None);
        }
    }

    /// Whether a version's tombstone may be purged: every drive holds it settled.
    pub fn is_purgeable(&self, version: VersionId) -> bool {
        let settled = self.drives.iter().filter(|drive| {
            let head = drive.state.registers.get(&version).and_then(|r| r.head());
            head.is_some_and(|held| {
                held.settled && held.entry.kind == holdfast_types::EntryKind::Tombstone
            })
        });
        let need =
            if self.bug == Some(Bug::EarlyPurge) { self.quorum.read() } else { self.quorum.n() };
        let counting = self.drives.iter().all(|d| d.up && d.stage == Stage::Counting);
        counting && settled.count() >= usize::from(need)
    }

    /// Puts a request into the net.
    pub fn post(
        &mut self,
        drive: u8,
        epoch: SetEpoch,
        request: Request,
        from: Option<(u32, u32, Round)>,
    ) {
        let identity = self.drives[usize::from(drive)].identity;
        self.net.push(Message::Request { drive, identity, epoch, request, from });
    }

    /// Sends a Settle to every drive that is up.
    pub fn send_settle(&mut self, settlement: Settlement, epoch: SetEpoch) {
        let Settlement { version, operation, holders } = settlement;
        for drive in 0..self.quorum.n() {
            let request = Request::Settle { version, operation, holders };
            self.post(drive, epoch, request, None);
        }
    }

    /// The versions that any drive holds.
    pub fn versions(&self) -> BTreeSet<VersionId> {
        self.drives.iter().flat_map(|drive| drive.state.registers.keys().copied()).collect()
    }

    /// Drives that hold an operation with its shard.
    pub fn whole(&self, operation: OperationId) -> HolderMask {
        let mut mask = HolderMask::default();
        for (index, drive) in self.drives.iter().enumerate() {
            if drive.is_whole(operation) {
                mask = mask.with(index as u8);
            }
        }
        mask
    }

    /// What all drives hold, as answers.
    pub fn all_answers(&self) -> Vec<Answer> {
        let view = |drive: &SimDrive| {
            let counts = drive.stage == Stage::Counting;
            Answer::View(drive.state.view(drive.facts.floor, counts, false))
        };
        self.drives.iter().map(view).collect()
    }

    /// Whether the loss of a drive is within what is promised: a version that was read but never
    /// acknowledged may have no spare shard yet (PROTOCOL.md section 1 promises none).
    pub fn may_wipe(&self, drive: u8) -> bool {
        let held = self.drives[usize::from(drive)].state.registers.values();
        held.flat_map(|register| &register.entries).all(|held| {
            let id = super::actors::id_of(held.entry.operation);
            let acknowledged = self.history.ops.get(id).is_some_and(|op| op.told == Told::Done);
            let left = self.whole(held.entry.operation).without(drive).count();
            acknowledged || left >= held.entry.data_shards() || !self.read.contains(&id)
        })
    }

    /// What was acknowledged, or something newer, can be restored from the shards there are.
    fn check_durable(&mut self) {
        for (version, (ballot, operation)) in self.acknowledged.clone() {
            let held = self.drives.iter().filter_map(|d| d.state.registers.get(&version));
            let entries = held.flat_map(|register| &register.entries);
            let safe = entries.map(|held| &held.entry).any(|entry| {
                (entry.ballot >= ballot || entry.operation == operation)
                    && self.whole(entry.operation).count() >= entry.data_shards()
            });
            if !safe {
                self.violate(format!("what {version} held acknowledged has too few shards left"));
            }
        }
    }

    /// Whether the clients are through with their scripts.
    pub fn is_idle(&self) -> bool {
        self.clients.iter().all(|client| !client.busy && client.next == client.script.len())
    }

    /// The task of an id.
    pub fn task(&mut self, id: u32) -> Option<usize> {
        self.tasks.iter().position(|task| task.id == id)
    }

    /// Ends a task without an answer: its coordinator is gone.
    pub fn crash(&mut self, id: u32) {
        let Some(at) = self.task(id) else { return };
        let task = self.tasks.swap_remove(at);
        if let (Work::Client { client, .. }, false) = (&task.work, task.over) {
            self.clients[*client].busy = false;
        }
    }

    /// Turns a machine's command into a drive's request.
    pub fn request(&self, task: &Task, command: Command) -> Option<Request> {
        match command {
            Command::Prepare { .. }
                if self.bug == Some(Bug::AdoptOldBallot)
                    && matches!(task.work, Work::Client { .. })
                    && matches!(task.machine, AnyMachine::Resolve(_)) =>
            {
                Some(Request::Read)
            }
            Command::Prepare { ballot, since } => Some(Request::Prepare { ballot, since }),
            Command::Read => Some(Request::Read),
            Command::Accept { version, mut entry, source } => {
                let restored = source == holdfast_register::Source::Restore;
                let up = self.drives.iter().filter(|d| d.up && d.is_whole(entry.operation));
                if restored && up.count() < usize::from(entry.data_shards()) {
                    return None;
                }
                let resolves = matches!(task.machine, AnyMachine::Resolve(_));
                let client = matches!(task.work, Work::Client { .. });
                if self.bug == Some(Bug::AdoptOldBallot) && resolves && client {
                    entry.ballot = self.highest_of(entry.operation).unwrap_or(entry.ballot);
                }
                // What a writer itself writes has its ballot as its order already.
                let replaced = self.bug == Some(Bug::WriterReorders)
                    && task.is_own(entry.operation)
                    && !self.was_chosen_by(task.id, entry.operation);
                if replaced || self.bug == Some(Bug::AdoptionReorders) {
                    entry.order = entry.ballot;
                }
                Some(Request::Accept { version, entry, source })
            }
        }
    }

    /// Whether a task's own ballot made an operation chosen.
    fn was_chosen_by(&self, task: u32, operation: OperationId) -> bool {
        let accepted = |ballot: Ballot| {
            let remembers = |drive: &&SimDrive| {
                let mut memory = drive.state.memory.iter();
                memory.any(|m| m.operation == operation && m.ballot == ballot)
            };
            self.drives.iter().filter(remembers).count() >= usize::from(self.quorum.write())
        };
        let memory = self.drives.iter().flat_map(|drive| &drive.state.memory);
        let own = memory.filter(|m| m.operation == operation);
        own.map(|m| m.ballot).any(|b| b.writer == WriterId(u128::from(task)) && accepted(b))
    }

    /// The highest ballot under which any drive holds an operation.
    pub fn highest_of(&self, operation: OperationId) -> Option<Ballot> {
        let registers = self.drives.iter().flat_map(|drive| drive.state.registers.values());
        registers.filter_map(|r| r.of_operation(operation)).map(|held| held.entry.ballot).max()
    }
}

fn summary(reply: &Reply) -> String {
    let Reply::View(view) = reply else { return format!("{reply:?}") };
    let held = view.registers.iter().flat_map(|(version, r)| {
        r.entries.iter().map(move |h| {
            let settled = if h.settled { "*" } else { "" };
            format!("{version}:{}@{:?}{settled}", h.entry.operation.0, h.entry.ballot.time)
        })
    });
    let held: Vec<String> = held.collect();
    format!("view {held:?} counts {} remembers {}", view.counts, view.remembers)
}
