//! How machines are driven: their steps are carried out, replies and timers given to them, and their
//! outcomes told to clients.

use holdfast_register::{
    Basis, Candidate, Command, Decided, Decision, Failure, Judgement, Refusal, Reply, Resolve,
    Round, Seen, Settlement, Step, Target, Verdict,
    judge::{judge, judge_latest_without, versions_held},
    resolve::Reach,
};
use holdfast_types::{Ballot, EntryKind, HybridTime, OperationId, WriterId};

use super::{
    actors::{id_of, is_clients, operation_of, shapes_of, value_of},
    bugs::Bug,
    config::Settles,
    drive::Request,
    history::{Ask, Id, Told},
    task::{AnyMachine, Ended, Work},
    world::World,
};

impl World {
    /// Carries out a step of a task, and those that follow from it at once.
    pub fn carry_out(&mut self, id: u32, mut step: Step<Ended>) {
        loop {
            let Some(at) = self.task(id) else { return };
            step = match step {
                Step::Ballot { attempt, .. } if attempt > 1 && self.budgets.redraws == 0 => {
                    self.crash(id);
                    return;
                }
                Step::Ballot { above, attempt } => {
                    self.budgets.redraws -= u32::from(attempt > 1);
                    let ballot = self.draw(at, above);
                    self.tasks[at].machine.on_ballot(ballot)
                }
                Step::Send { round, commands } => {
                    if let Some(machine) = self.retry_instead(at, &commands) {
                        self.replace(at, machine);
                        return;
                    }
                    self.send(at, round, commands);
                    return;
                }
                Step::Wait => return,
                Step::Grace => {
                    self.tasks[at].grace = true;
                    return;
                }
                Step::Evaluate(current) => self.decide(at, current),
                Step::Done(ended) => {
                    self.end(at, ended);
                    return;
                }
            };
        }
    }

    fn draw(&mut self, at: usize, above: Ballot) -> Ballot {
        // All commands under a ballot carry the epoch known when it was drawn: a promise of an older
        // epoch must not back an Accept of a newer one.
        let task = &mut self.tasks[at];
        let heard = match task.work {
            Work::Client { client, .. } => self.clients[client].epoch,
            _ => task.heard,
        };
        task.epoch = task.epoch.max(heard);
        let wall = self.now_micros.saturating_add_signed(task.skew);
        let time = HybridTime::from_micros(wall).max(above.time.tick());
        Ballot { generation: 1, time, writer: WriterId(u128::from(task.id)) }
    }

    fn send(&mut self, at: usize, round: Round, commands: Vec<(u8, Command)>) {
        let (id, generation, epoch) = {
            let task = &mut self.tasks[at];
            task.grace = false;
            if !matches!(task.machine, AnyMachine::Read(_)) {
                task.calls.clear();
            }
            task.whole = holdfast_register::HolderMask::default();
            task.needed = match commands.first() {
                Some((_, Command::Accept { entry, .. })) if task.is_own(entry.operation) => {
                    self.quorum.acknowledged(entry.data_shards())
                }
                _ => 0,
            };
            (task.id, task.generation, task.epoch)
        };
        for (drive, command) in commands {
            self.tasks[at].calls.push((round, drive));
            let request = self.request(&self.tasks[at], command);
            if let Some(request) = request {
                self.post(drive, epoch, request, Some((id, generation, round)));
            }
        }
    }

    /// A client decides on its condition.
    fn decide(&mut self, at: usize, current: Option<Candidate>) -> Step<Ended> {
        let Work::Client { id, .. } = self.tasks[at].work else { return Step::Wait };
        let value = current.as_ref().and_then(value_of);
        self.tasks[at].saw = value;
        if let Some(value) = value {
            self.read.insert(value);
            self.excuse(value);
        }
        let ask = self.history.ops[id].ask;
        let holds = match ask {
            Ask::Create => value.is_none(),
            Ask::Replace(wanted) => value == Some(wanted),
            _ => false,
        };
        if !holds {
            let step = self.tasks[at].machine.on_decision(Decision::Keep);
            let seals = matches!(step, Step::Send { .. });
            if seals && self.bug == Some(Bug::NoSeal) {
                return Step::Done(Ended::Decide(Ok(Decided::Kept)));
            }
            return step;
        }
        let drives = self.tasks[at].drives;
        let (_, mut entry) = self.draft(id, ask, drives);
        entry.operation = self.in_shape(at, entry.operation);
        let write = Decision::Write { entry, own: drives.up, keeps_order: false };
        self.tasks[at].machine.on_decision(write)
    }

    /// A reply arrives.
    pub fn reply(&mut self, id: u32, generation: u32, round: Round, drive: u8, reply: Reply) {
        let Some(at) = self.task(id) else { return };
        if self.tasks[at].generation != generation {
            return;
        }
        self.tasks[at].calls.retain(|call| *call != (round, drive));
        if let Reply::Refused(Refusal::SetOutdated { current }) = reply {
            match self.tasks[at].work {
                Work::Client { client, .. } => {
                    let known = &mut self.clients[client].epoch;
                    *known = (*known).max(current);
                }
                _ => self.tasks[at].heard = self.tasks[at].heard.max(current),
            }
        }
        if matches!(reply, Reply::Accepted(shard) if shard != holdfast_register::ShardStatus::Missing)
        {
            self.tasks[at].whole = self.tasks[at].whole.with(drive);
        }
        if !self.tasks[at].over && self.early_success(at) {
            self.tell_done(at);
            return;
        }
        let reply = self.distort(at, reply);
        let step = self.tasks[at].machine.on_reply(round, drive, reply);
        self.carry_out(id, step);
    }

    /// What planted bugs make of a reply.
    fn distort(&self, at: usize, reply: Reply) -> Reply {
        let Reply::View(mut view) = reply else { return reply };
        let conditional = matches!(self.tasks[at].machine, AnyMachine::Conditional(_));
        for held in view.registers.values_mut().flat_map(|register| &mut register.entries) {
            if self.bug == Some(Bug::SettledAcrossBallots) {
                let highest = self.highest_of(held.entry.operation);
                held.entry.ballot = highest.unwrap_or(held.entry.ballot);
            }
            if self.bug == Some(Bug::DecideOnOpen) && conditional {
                held.settled = true;
            }
        }
        Reply::View(view)
    }

    /// A call's deadline passes.
    pub fn time_out(&mut self, id: u32, round: Round, drive: u8) {
        let Some(at) = self.task(id) else { return };
        self.tasks[at].calls.retain(|call| *call != (round, drive));
        let reading = matches!(self.tasks[at].machine, AnyMachine::Read(_));
        let reply = if self.bug == Some(Bug::SilenceAsAbsence) && reading {
            let counts = true;
            Reply::View(holdfast_register::KeyView { counts, ..Default::default() })
        } else {
            Reply::Silent
        };
        let step = self.tasks[at].machine.on_reply(round, drive, reply);
        self.carry_out(id, step);
    }

    /// A grace time passes.
    pub fn grace(&mut self, id: u32) {
        let Some(at) = self.task(id) else { return };
        self.tasks[at].grace = false;
        let step = self.tasks[at].machine.on_grace();
        self.carry_out(id, step);
    }

    /// A blind write that meets a mix starts over: the planted bug.
    fn retry_instead(&self, at: usize, commands: &[(u8, Command)]) -> Option<AnyMachine> {
        let task = &self.tasks[at];
        let finishing = matches!(commands.first(), Some((_, Command::Prepare { .. })));
        let Work::Client { id, .. } = task.work else { return None };
        if self.bug != Some(Bug::RetryAfterRefusal) || !finishing {
            return None;
        }
        let AnyMachine::Blind(_) = task.machine else { return None };
        let ask = self.history.ops[id].ask;
        let (version, entry) = self.clone().draft(id, ask, task.drives);
        let up = task.drives.up;
        Some(AnyMachine::Blind(holdfast_register::Blind::new(task.drives, version, entry, up)))
    }

    // ---- outcomes --------------------------------------------------------------------------------

    fn end(&mut self, at: usize, ended: Ended) {
        match self.tasks[at].work.clone() {
            Work::Client { id, .. } => self.end_client(at, id, ended),
            Work::Sweep => self.tasks[at].over = true,
            Work::Heal => self.end_heal(at, ended),
            Work::Rebuild { drive, installs, .. } => self.end_rebuild(at, (drive, installs), ended),
        }
    }

    fn end_client(&mut self, at: usize, id: Id, ended: Ended) {
        let told = match ended {
            Ended::Write(Err(Failure::Unknown { .. })) if self.bug == Some(Bug::ThinSettle) => {
                self.thin_settle(at, id);
                Told::Open
            }
            Ended::Write(Err(Failure::Unknown { .. }))
            | Ended::Decide(Err(Failure::Unknown { .. })) => {
                if let Some(machine) = self.again(at, id) {
                    return self.replace(at, machine);
                }
                Told::Open
            }
            Ended::Write(outcome) => write_told(outcome.map(|_| Told::Done)),
            Ended::Decide(Ok(Decided::Kept)) => Told::Kept(self.tasks[at].saw),
            Ended::Decide(outcome) => write_told(outcome.map(|_| Told::Done)),
            Ended::Read(Ok(Seen::Open(head))) if self.bug == Some(Bug::SkipOpen) => {
                Told::Value(self.below(at, &head))
            }
            Ended::Read(Ok(Seen::Open(_))) => return self.resolve(at, id),
            Ended::Read(Ok(Seen::Found(head))) => Told::Value(head.as_ref().and_then(value_of)),
            Ended::Resolve(Ok(head)) => match self.resolved(at, id, head) {
                Some(told) => told,
                None => return,
            },
            Ended::Read(Err(_)) | Ended::Resolve(Err(_)) => Told::Void,
        };
        self.tell(at, id, told);
    }

    fn tell_done(&mut self, at: usize) {
        if let Work::Client { id, .. } = self.tasks[at].work {
            self.tell(at, id, Told::Done);
        }
    }

    fn tell(&mut self, at: usize, id: Id, told: Told) {
        let Work::Client { client, .. } = self.tasks[at].work else { return };
        self.tasks[at].over = true;
        self.clients[client].busy = false;
        self.history.tell(id, told);
        let chosen = self.tasks[at].machine.settlement().map(|settlement| settlement.operation);
        // What was overtaken before it was answered, after it took several shapes, has none to look at.
        let only = (self.tasks[at].shape == 0).then(|| operation_of(id));
        if let Some(operation) =
            chosen.filter(|chosen| is_clients(*chosen) && id_of(*chosen) == id).or(only)
        {
            self.note_acknowledged(id, operation, told);
        }
        self.say(|| format!("client {client} is told {id}: {told:?}"));
        if let Told::Value(Some(value)) | Told::Kept(Some(value)) = told {
            self.read.insert(value);
            self.check_shards(value);
        }
    }

    fn note_acknowledged(&mut self, id: Id, operation: OperationId, told: Told) {
        let version = match self.history.ops[id].ask {
            Ask::DeleteVersion(gone) => self.version_of(gone),
            Ask::Delete => holdfast_types::VersionId::NULL,
            _ => self.version_of(id),
        };
        if let (Told::Done, Some(ballot)) = (told, self.highest_of(operation)) {
            let highest = self.acknowledged.entry(version).or_default();
            *highest = (ballot, operation).max(*highest);
        }
    }

    /// What heads its register must be readable, in one of the shapes it has taken. (What was overtaken
    /// meanwhile may be gone: readers pin the bytes and start over when they come too late.)
    fn check_shards(&mut self, value: Id) {
        self.excuse(value);
        let judgement =
            judge(Basis::Reads, self.quorum, &self.all_answers(), self.version_of(value));
        let Judgement::Found(head) = judgement else { return };
        let operation = head.entry.operation;
        if id_of(operation) == value && self.is_short(value) && !self.excused {
            let (need, have) = (head.entry.data_shards(), self.whole(operation).count());
            self.violate(format!("{value} was read, but {have} of its {need} shards are left"));
        }
    }

    /// A version that was never acknowledged has no spare shard by promise: when a drive was replaced or rotted
    /// while a client read it, its loss is beyond what the store stands for, and the run is not judged.
    fn excuse(&mut self, value: Id) {
        let rotten = self.budgets.rots < self.config.budgets.rots;
        let replaced = rotten || self.drives.iter().any(|drive| drive.identity > 0);
        let acknowledged = self.history.ops[value].told == Told::Done;
        self.excused |= replaced && !acknowledged && self.is_short(value);
    }

    /// Whether too few shards are left of a value, whatever shape it is taken in.
    fn is_short(&self, value: Id) -> bool {
        let held = || self.drives.iter().flat_map(|drive| drive.state.registers.values());
        shapes_of(value).all(|shape| {
            let need = held().find_map(|r| r.of_operation(shape));
            self.whole(shape).count() < need.map_or(1, |held| held.entry.data_shards())
        })
    }

    /// A reader goes on: it resolves what is open.
    fn resolve(&mut self, at: usize, id: Id) {
        let target = match self.history.ops[id].ask {
            Ask::GetVersion(wanted) => Target::Version(self.version_of(wanted)),
            _ => Target::Latest,
        };
        let drives = self.tasks[at].drives;
        self.replace(at, AnyMachine::Resolve(Resolve::new(drives, target, Reach::Open)));
    }

    /// What a resolved head means for a reader: under a tombstone another version may be the latest.
    fn resolved(&mut self, at: usize, id: Id, head: Option<Candidate>) -> Option<Told> {
        let gone = head.as_ref().is_some_and(|h| h.entry.kind == EntryKind::Tombstone);
        let latest = self.history.ops[id].ask == Ask::Get && self.config.versioned;
        let settles = match self.config.settles {
            Settles::Drawn => self.rng.chance(50),
            Settles::Never => false,
            Settles::Always => true,
        };
        if let (true, Some(settlement)) = (settles, self.tasks[at].machine.settlement()) {
            let epoch = self.tasks[at].epoch;
            self.send_settle(settlement, epoch);
        }
        if !(gone && latest) {
            return Some(Told::Value(head.as_ref().and_then(value_of)));
        }
        self.tasks[at].tries += 1;
        if self.tasks[at].tries > 8 {
            return Some(Told::Void);
        }
        let drives = self.tasks[at].drives;
        let reader = self.reader(Target::Latest, drives);
        self.replace(at, AnyMachine::Read(reader));
        None
    }

    /// The value below an open head (a planted bug reads it).
    fn below(&self, at: usize, head: &Candidate) -> Option<Id> {
        let AnyMachine::Read(read) = &self.tasks[at].machine else { return None };
        let ignored = [head.entry.operation];
        match judge_latest_without(Basis::Reads, self.quorum, read.answers(), &ignored) {
            Judgement::Found(below) if below.verdict == Verdict::Settled => value_of(&below),
            _ => None,
        }
    }

    /// A settle of what was chosen on too few drives (a planted bug sends it).
    fn thin_settle(&mut self, at: usize, id: Id) {
        let holders = self.tasks[at].whole;
        if self.tasks[at].needed == 0 || holders.count() < self.quorum.write() {
            return;
        }
        let operation = super::actors::operation_of(id);
        let settlement = Settlement { version: self.version_of(id), operation, holders };
        let epoch = self.tasks[at].epoch;
        self.send_settle(settlement, epoch);
    }

    /// The healer has read a register: what is settled is installed where it is missing.
    fn end_heal(&mut self, at: usize, ended: Ended) {
        let epoch = self.tasks[at].epoch;
        self.tasks.swap_remove(at);
        let Ended::Read(Ok(Seen::Found(Some(head)))) = ended else { return };
        if !head.is_firm(self.quorum) {
            return;
        }
        let up = self.drives.iter().filter(|d| d.up && d.is_whole(head.entry.operation));
        if up.count() < usize::from(head.entry.data_shards()) {
            return;
        }
        for drive in 0..self.quorum.n() {
            if !head.shards.has(drive) {
                let (version, entry) = (head.version, head.entry.clone());
                let holders = head.shards.with(drive);
                self.post(drive, epoch, Request::Install { version, entry, holders }, None);
            }
        }
    }

    fn end_rebuild(&mut self, at: usize, (drive, installs): (u8, bool), ended: Ended) {
        let id = self.tasks[at].id;
        let Work::Rebuild { left, .. } = &self.tasks[at].work else { return };
        let listed = left.is_some();
        let fine = match ended {
            Ended::Read(Ok(_)) if !listed => {
                let AnyMachine::Read(read) = &self.tasks[at].machine else { return };
                let mut versions = versions_held(read.answers());
                if self.bug == Some(Bug::InstallUnread) {
                    let one = read.answers().iter().take(1).cloned().collect::<Vec<_>>();
                    versions = versions_held(&one);
                }
                if let Work::Rebuild { left, .. } = &mut self.tasks[at].work {
                    *left = Some(versions);
                }
                true
            }
            Ended::Read(Ok(Seen::Open(head))) => {
                let drives = self.tasks[at].drives;
                let target = Target::Version(head.version);
                let resolve = Resolve::new(drives, target, Reach::Open);
                return self.replace(at, AnyMachine::Resolve(resolve));
            }
            Ended::Read(Ok(Seen::Found(None))) => true,
            Ended::Read(Ok(Seen::Found(Some(head)))) | Ended::Resolve(Ok(Some(head)))
                if installs =>
            {
                match self.install(at, drive, &head) {
                    Installed::Held => true,
                    Installed::Below => return self.rewrite(at, head.version),
                    Installed::Refused => false,
                }
            }
            Ended::Resolve(Ok(head)) => head.is_none_or(|head| head.holders.has(drive)),
            _ => false,
        };
        if fine {
            self.rebuild_next(id);
        } else {
            self.crash(id);
        }
    }

    /// Brings a settled head to the drive that is being rebuilt, at its own ballot. A rewrite has brought
    /// it already when the drive is among its holders.
    fn install(&mut self, at: usize, drive: u8, head: &Candidate) -> Installed {
        let epoch = self.tasks[at].epoch;
        let operation = head.entry.operation;
        let target = &self.drives[usize::from(drive)];
        if target.is_whole(operation) || head.holders.has(drive) {
            return Installed::Held;
        }
        if !head.is_firm(self.quorum) {
            return Installed::Below;
        }
        let up = self.drives.iter().filter(|d| d.up && d.is_whole(operation)).count();
        if up < usize::from(head.entry.data_shards()) {
            return Installed::Refused;
        }
        let (version, entry) = (head.version, head.entry.clone());
        let request = Request::Install { version, entry, holders: head.shards.with(drive) };
        let (quorum, bug) = (self.quorum, self.bug);
        match self.drives[usize::from(drive)].handle(request, epoch, quorum, bug) {
            // Something newer is there.
            Reply::Accepted(_) | Reply::Refused(Refusal::Stale { .. }) => Installed::Held,
            Reply::Refused(Refusal::Purged { .. }) => Installed::Below,
            _ => Installed::Refused,
        }
    }

    /// A task is through with stragglers: it settles what was chosen, and goes.
    pub fn finish_task(&mut self, id: u32) {
        let Some(at) = self.task(id) else { return };
        let task = self.tasks.swap_remove(at);
        if let Some(settlement) = task.machine.settlement() {
            self.send_settle(settlement, task.epoch);
        }
    }
}

/// What came of an install.
enum Installed {
    /// It is there, or something newer.
    Held,
    /// It lies below the purge floor, or may be lost yet: it has to be written anew.
    Below,
    /// Not now.
    Refused,
}

fn write_told(outcome: Result<Told, Failure>) -> Told {
    match outcome {
        Ok(told) => told,
        Err(Failure::Unknown { .. }) => Told::Open,
        Err(_) => Told::Void,
    }
}
