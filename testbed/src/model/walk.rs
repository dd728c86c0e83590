//! Random walks: which events may happen, which one does, and the quiet end of a run.

use std::collections::HashSet;

use holdfast_register::{HolderMask, Target};

use super::{
    bugs::{Bug, Part},
    config::{self, Config},
    drive::Stage,
    history::{Ask, Id, Told},
    rng::Rng,
    task::{AnyMachine, Work},
    world::{Event, Message, World},
};

/// Events of one run before its end begins.
const EVENTS_MAX: u32 = 900;

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Report {
    pub events: u32,
    pub violation: Option<String>,
    /// Whether more was lost than is promised, so that the run was not judged.
    pub excused: bool,
    pub trace: Vec<String>,
}

/// The run of a seed. The configuration is the seed's, too.
pub fn run(part: Part, seed: u64, bug: Option<Bug>, traced: bool) -> Report {
    let mut rng = Rng::new(seed);
    let config = Config::draw(config_of(part, seed), &mut rng);
    let mut world = World::new(config, bug, rng);
    world.trace = traced.then(Vec::new);
    let mut events = 0;
    let mut choices = Vec::new();
    while events < EVENTS_MAX && !world.is_idle() && world.violation.is_none() {
        world.weighted_events(&mut choices);
        let total: u64 = choices.iter().map(|(weight, _)| weight).sum();
        if total == 0 {
            break;
        }
        let mut pick = world.rng.below(total);
        let chosen = choices.iter().find(|(weight, _)| {
            let here = pick < *weight;
            pick = pick.saturating_sub(*weight);
            here
        });
        let Some((_, event)) = chosen else { break };
        world.apply(*event);
        events += 1;
    }
    if world.violation.is_none() {
        world.finale();
    }
    let World { violation, excused, trace, .. } = world;
    Report { events, violation, excused, trace: trace.unwrap_or_default() }
}

/// The configuration that a seed's run has.
pub fn config_of(part: Part, seed: u64) -> u64 {
    match part {
        Part::Rot => config::COUNT + seed % config::ROTTEN,
        _ => seed % config::COUNT,
    }
}

impl World {
    /// All that may happen now, with weights.
    pub fn weighted_events(&self, out: &mut Vec<(u64, Event)>) {
        out.clear();
        self.client_events(out);
        self.message_events(out);
        self.task_events(out);
        self.drive_events(out);
        self.background_events(out);
    }

    fn client_events(&self, out: &mut Vec<(u64, Event)>) {
        for (index, client) in self.clients.iter().enumerate() {
            if !client.busy && client.next < client.script.len() {
                out.push((40, Event::Start(index)));
            }
        }
    }

    fn message_events(&self, out: &mut Vec<(u64, Event)>) {
        for (index, message) in self.net.iter().enumerate() {
            let slow = match message {
                Message::Request { drive, from, .. } => {
                    self.swarm.is_slow(from.map_or(0, |(task, ..)| task), *drive)
                }
                Message::Reply { task, drive, .. } => self.swarm.is_slow(*task, *drive),
            };
            out.push((if slow { 3 } else { 100 }, Event::Deliver(index)));
            if self.budgets.drops > 0 {
                out.push((4, Event::Drop(index)));
            }
            if self.budgets.doubles > 0 {
                out.push((2, Event::Double(index)));
            }
        }
    }

    fn task_events(&self, out: &mut Vec<(u64, Event)>) {
        let mut alive = HashSet::new();
        for message in &self.net {
            match message {
                Message::Request {
                    drive, identity, from: Some((task, generation, round)), ..
                } => {
                    let target = &self.drives[usize::from(*drive)];
                    if target.up && target.identity == *identity {
                        alive.insert((*task, *generation, *round, *drive));
                    }
                }
                Message::Reply { task, generation, round, drive, .. } => {
                    alive.insert((*task, *generation, *round, *drive));
                }
                Message::Request { .. } => {}
            }
        }
        for task in &self.tasks {
            for (round, drive) in &task.calls {
                let waits = alive.contains(&(task.id, task.generation, *round, *drive));
                let weight = if !waits {
                    60
                } else {
                    12 * self.swarm.timeouts * u64::from(self.budgets.timeouts > 0)
                };
                out.push((weight, Event::Timeout(task.id, *round, *drive)));
            }
            if task.grace {
                out.push((80, Event::Grace(task.id)));
            }
            if task.over {
                out.push((60, Event::Finish(task.id)));
            } else if self.budgets.crashes > 0 {
                out.push((4, Event::Crash(task.id)));
            }
        }
    }

    fn drive_events(&self, out: &mut Vec<(u64, Event)>) {
        let wiped = self.drives.iter().any(|drive| drive.stage != Stage::Counting);
        let down = self.drives.iter().filter(|drive| !drive.up).count();
        let may_fall = down == 0 && !wiped && self.quorum.away() > 0;
        for (index, drive) in self.drives.iter().enumerate() {
            let at = index as u8;
            if drive.up && self.budgets.restarts > 0 {
                out.push((6 * self.swarm.restarts, Event::Restart(at)));
            }
            if drive.up && may_fall && self.budgets.outages > 0 {
                out.push((10, Event::Down(at)));
            }
            if !drive.up {
                out.push((12, Event::Up(at)));
            }
            if self.budgets.wipes > 0 && down == 0 && self.may_wipe(at) {
                out.push((6 * self.swarm.wipes, Event::Wipe(at)));
            }
            if self.budgets.rots > 0 && down == 0 && !wiped && self.may_wipe(at) {
                out.push((6, Event::Rot(at)));
            }
            if drive.stage == Stage::Hidden {
                out.push((8, Event::Unhide(at)));
            }
            if let Stage::Collecting(given) = drive.stage {
                let others = (0..self.quorum.n()).filter(|from| *from != at && !given.has(*from));
                out.extend(others.map(|from| (60, Event::Collect(at, from))));
            }
            let busy = self.tasks.iter().any(|t| matches!(t.work, Work::Rebuild { .. }));
            if drive.stage == Stage::Rebuilding && !busy {
                out.push((60, Event::Rebuild(at)));
            }
        }
    }

    fn background_events(&self, out: &mut Vec<(u64, Event)>) {
        let b = &self.budgets;
        if b.leaps > 0 {
            out.push((6, Event::Leap));
        }
        if b.sweeps + b.heals + b.purges == 0 {
            return;
        }
        for version in self.versions() {
            if b.sweeps > 0 {
                out.push((6, Event::Sweep(version.0)));
            }
            if b.heals > 0 {
                out.push((6, Event::Heal(version.0)));
            }
            if b.purges > 0 && self.is_purgeable(version) {
                out.push((30, Event::Purge(version.0)));
            }
        }
    }

    // ---- the end of a run ------------------------------------------------------------------------

    /// Everything calms down: a part of the late messages arrives, drives are up and rebuilt. Then
    /// every value is read once more, and the history is judged.
    pub fn finale(&mut self) {
        while !self.net.is_empty() && self.rng.chance(80) {
            let at = self.rng.below(self.net.len() as u64) as usize;
            self.apply(Event::Deliver(at));
        }
        self.net.clear();
        self.calm_down();
        self.judge();
    }

    /// The quiet end without anything late: drives are up and rebuilt, every value is read once more.
    pub fn calm_down(&mut self) {
        for id in self.tasks.iter().map(|task| task.id).collect::<Vec<_>>() {
            self.crash(id);
        }
        self.config.drawn = false;
        for index in 0..self.quorum.n() {
            if !self.drives[usize::from(index)].up {
                self.apply(Event::Up(index));
            }
            if self.drives[usize::from(index)].stage == Stage::Hidden {
                self.apply(Event::Unhide(index));
            }
        }
        self.budgets.redraws = u32::MAX;
        for client in &mut self.clients {
            client.epoch = self.epoch;
        }
        self.rebuild_all();
        self.read_all();
    }

    /// Whether some order of events explains what clients were told.
    pub fn judge(&mut self) {
        if !self.excused
            && self.violation.is_none()
            && !self.history.is_linearizable(self.config.versioned)
        {
            let lines: Vec<String> = self.history.ops.iter().map(|op| format!("{op:?}")).collect();
            self.violate(format!("not linearizable:\n{}", lines.join("\n")));
        }
    }

    fn rebuild_all(&mut self) {
        for at in 0..self.quorum.n() {
            for from in (0..self.quorum.n()).filter(|from| *from != at) {
                if matches!(self.drives[usize::from(at)].stage, Stage::Collecting(_)) {
                    self.apply(Event::Collect(at, from));
                }
            }
            for _ in 0..3 {
                if self.drives[usize::from(at)].stage == Stage::Rebuilding {
                    self.apply(Event::Rebuild(at));
                    self.run_quietly();
                }
            }
            if self.drives[usize::from(at)].stage != Stage::Counting {
                self.violate(format!("drive {at} cannot be rebuilt though all drives are up"));
            }
        }
    }

    fn read_all(&mut self) {
        let mut asks = vec![Ask::Get];
        if self.config.versioned {
            asks.extend((0..self.history.ops.len()).filter_map(|id: Id| {
                let written =
                    matches!(self.history.ops[id].ask, Ask::Put | Ask::Create | Ask::Replace(_));
                written.then_some(Ask::GetVersion(id))
            }));
        }
        for ask in asks {
            let id = self.history.ask(ask);
            let target = match ask {
                Ask::GetVersion(wanted) => Target::Version(self.version_of(wanted)),
                _ => Target::Latest,
            };
            let drives = holdfast_register::Drives {
                quorum: self.quorum,
                up: HolderMask::full(self.quorum.n()),
            };
            let machine = AnyMachine::Read(self.reader(target, drives));
            let work = Work::Client { client: 0, id };
            self.spawn(work, machine, drives, 0, self.epoch);
            self.run_quietly();
            if matches!(self.history.ops[id].told, Told::Open | Told::Void) {
                self.violate(format!("{ask:?} is not answered though all drives are up"));
            }
        }
    }

    /// Lets messages arrive in order until nothing is on its way.
    fn run_quietly(&mut self) {
        for _ in 0..2_000 {
            if !self.net.is_empty() {
                self.now_micros += 1_000;
                self.net.rotate_left(1);
                let last = self.net.len() - 1;
                self.apply(Event::Deliver(last));
                continue;
            }
            let Some(task) = self.tasks.iter().find(|t| t.over || t.grace || !t.calls.is_empty())
            else {
                return;
            };
            let event = match task.calls.first() {
                _ if task.over => Event::Finish(task.id),
                _ if task.grace => Event::Grace(task.id),
                Some((round, drive)) => Event::Timeout(task.id, *round, *drive),
                None => return,
            };
            self.apply(event);
        }
    }
}
