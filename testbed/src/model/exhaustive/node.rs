//! A state of the search, what may happen in it, and its fingerprint.

use std::hash::{Hash, Hasher as _};

use holdfast_register::{HolderMask, Round, ShardStatus};
use holdfast_types::Quorum;
use xxhash_rust::xxh3::Xxh3;

use super::{
    super::{
        config::{Config, Plan, Settles},
        drive::{Request, SimDrive},
        world::{Event, Message, World},
    },
    Reductions,
};

/// A state, with the fingerprints of its parts: an event changes one or two of them.
#[derive(Clone)]
pub struct Node {
    pub world: World,
    drives: Vec<u128>,
    /// In step with the world's.
    net: Vec<u128>,
    tasks: Vec<(u32, u128)>,
    /// Drives that something has happened to: heard, restarted, or given up by a caller.
    touched: HolderMask,
    /// Once nobody waits: messages to drives below it have arrived, or never will.
    late_from: u8,
    /// Whether messages that can change nothing are taken away.
    dead: bool,
}

impl Node {
    /// The beginning.
    pub fn new(world: World, reductions: Reductions) -> Self {
        let drives = world.drives.iter().map(print).collect();
        Self {
            world,
            drives,
            net: Vec::new(),
            tasks: Vec::new(),
            touched: HolderMask::default(),
            late_from: 0,
            dead: reductions.dead,
        }
    }

    /// What may happen here, but for what another order or another drive stands for.
    pub fn events(&self, reductions: Reductions, out: &mut Vec<(u64, Event)>) {
        self.world.weighted_events(out);
        let idle = self.world.is_idle();
        let alike =
            if reductions.swaps { alike(&self.world.config) } else { HolderMask::default() };
        // Of drives that are alike and to which nothing has happened the first stands for all.
        let first = alike.iter().find(|drive| !self.touched.has(*drive));
        out.retain(|(weight, event)| {
            let drive = self.drive_of(*event);
            let stands = drive.is_none_or(|drive| {
                self.touched.has(drive) || !alike.has(drive) || Some(drive) == first
            });
            let late = idle && matches!(event, Event::Deliver(_));
            let passed = reductions.order && late && drive < Some(self.late_from);
            *weight > 0 && stands && !passed && !self.is_twin(*event)
        });
    }

    /// Whether a client begins that asks what an idle client before it asks: that one begins first.
    fn is_twin(&self, event: Event) -> bool {
        let Event::Start(at) = event else { return false };
        let clients = &self.world.clients;
        clients[..at].iter().any(|other| other.next == 0 && other.script == clients[at].script)
    }

    /// The drive that an event happens to, or whose silence it is.
    fn drive_of(&self, event: Event) -> Option<u8> {
        match event {
            Event::Deliver(at) => match &self.world.net[at] {
                Message::Request { drive, .. } | Message::Reply { drive, .. } => Some(*drive),
            },
            Event::Timeout(_, _, drive) | Event::Restart(drive) => Some(drive),
            _ => None,
        }
    }

    /// The state after an event.
    pub fn after(&self, event: Event) -> Self {
        let mut next = self.clone();
        let drive = self.drive_of(event);
        let mut changed = None;
        match event {
            Event::Deliver(at) => {
                next.net.swap_remove(at);
                if let Message::Reply { task, .. } = &self.world.net[at] {
                    changed = Some(*task);
                }
            }
            Event::Timeout(task, ..) | Event::Grace(task) => changed = Some(task),
            _ => {}
        }
        let idle = self.world.is_idle();
        next.world.apply(event);
        if next.world.drives[0].facts.now != self.world.drives[0].facts.now {
            // The clock of all drives has moved.
            next.drives = next.world.drives.iter().map(print).collect();
        }
        if let Some(drive) = drive {
            next.touched = next.touched.with(drive);
            next.drives[usize::from(drive)] = print(&next.world.drives[usize::from(drive)]);
            let late = idle && !matches!(event, Event::Restart(_));
            next.late_from = if late { drive } else { 0 };
        }
        next.forget(changed);
        next
    }

    /// Takes away what can change nothing any more, and brings the fingerprints up to date.
    fn forget(&mut self, changed: Option<u32>) {
        self.end_tasks();
        let Self { world, net, tasks, dead, .. } = self;
        net.extend(world.net[net.len()..].iter().map(print));
        let mut at = 0;
        while *dead && at < world.net.len() {
            let mut message = std::mem::replace(&mut world.net[at], EMPTY);
            match fate(world, &mut message) {
                Fate::Stays => {}
                Fate::Orphaned => net[at] = print(&message),
                Fate::Goes => {
                    world.net.swap_remove(at);
                    net.swap_remove(at);
                    continue;
                }
            }
            world.net[at] = message;
            at += 1;
        }
        let old = std::mem::take(tasks);
        for task in &world.tasks {
            let known = old.iter().find(|(id, _)| *id == task.id && Some(*id) != changed);
            tasks.push(known.copied().unwrap_or_else(|| (task.id, print(task))));
        }
    }

    /// Coordinators that have answered are gone, and settle what was chosen first, or never.
    fn end_tasks(&mut self) {
        let world = &mut self.world;
        let over = |world: &World| world.tasks.iter().find(|task| task.over).map(|task| task.id);
        match world.config.settles {
            Settles::Always => {
                while let Some(id) = over(world) {
                    world.finish_task(id);
                }
            }
            Settles::Never | Settles::Drawn => world.tasks.retain(|task| !task.over),
        }
    }

    /// The state. Every field of the world is named here: what a later change adds must be weighed.
    pub fn fingerprint(&self) -> u128 {
        let World { now_micros, budgets, rng, clients, next_task, epoch, .. } = &self.world;
        let World { read, acknowledged, violation, excused, history, .. } = &self.world;
        // Constant in a search: what was asked for; and the trace, which is not kept.
        let World { config: _, bug: _, quorum: _, swarm: _, trace: _, .. } = &self.world;
        // By their own fingerprints, in step (`in_step`).
        let World { drives: _, net: _, tasks: _, .. } = &self.world;
        let clients: Vec<_> = clients.iter().map(|c| (c.next, c.busy, c.skew, c.epoch)).collect();
        let whole = (now_micros, budgets, rng, clients, next_task, epoch);
        let rest = (read, acknowledged, violation, excused, history.outline());
        let sum = |parts: &mut dyn Iterator<Item = u128>| parts.fold(0, u128::wrapping_add);
        let net = sum(&mut self.net.iter().copied());
        let tasks = sum(&mut self.tasks.iter().map(|(_, print)| *print));
        print(&(whole, rest, &self.drives, net, tasks, self.touched, self.late_from))
    }

    /// The fingerprint with those of all parts made anew.
    #[cfg(test)]
    pub fn fingerprint_anew(&self) -> u128 {
        let mut anew = self.clone();
        anew.drives = self.world.drives.iter().map(print::<SimDrive>).collect();
        anew.net = self.world.net.iter().map(print).collect();
        anew.tasks = self.world.tasks.iter().map(|task| (task.id, print(task))).collect();
        anew.fingerprint()
    }
}

/// Stands in a place of the net for a moment.
const EMPTY: Message = Message::Request {
    drive: 0,
    identity: 0,
    epoch: holdfast_types::SetEpoch(0),
    request: Request::Read,
    from: None,
};

/// What becomes of a message.
enum Fate {
    Stays,
    /// Nobody waits for its reply any more.
    Orphaned,
    /// It can change nothing.
    Goes,
}

/// What becomes of a message on its way.
fn fate(world: &World, message: &mut Message) -> Fate {
    match message {
        Message::Reply { task, generation, round, drive, .. } => {
            if is_heard(world, (*task, *generation, *round), *drive) {
                Fate::Stays
            } else {
                Fate::Goes
            }
        }
        Message::Request { from, request, drive, .. } => {
            if from.is_some_and(|from| is_heard(world, from, *drive)) {
                return Fate::Stays;
            }
            let had = from.take();
            if changes_nothing(&world.drives[usize::from(*drive)], request) {
                return Fate::Goes;
            }
            if had.is_some() { Fate::Orphaned } else { Fate::Stays }
        }
    }
}

/// Whether a reply from a drive makes a difference to its task: machines take none of a round before,
/// nor from a drive they have given up.
fn is_heard(world: &World, (id, generation, round): (u32, u32, Round), drive: u8) -> bool {
    let task = world.tasks.iter().find(|task| task.id == id);
    task.is_some_and(|task| task.generation == generation && task.calls.contains(&(round, drive)))
}

/// Whether a request whose reply nobody hears leaves the drive as it is, now and whenever it arrives:
/// what a drive accepted and promised only rises, restarts included, as long as nothing is purged.
fn changes_nothing(drive: &SimDrive, request: &Request) -> bool {
    let bar = drive.state.highest().max(drive.state.promise).max(drive.facts.floor);
    match request {
        Request::Read => true,
        Request::Prepare { ballot, .. } => *ballot <= bar,
        Request::Accept { entry, .. } => {
            let mut held = drive.state.registers.values().flat_map(|register| &register.entries);
            match held.find(|held| held.entry.ballot == entry.ballot) {
                // It may bring a shard that is missing.
                Some(held) => held.shard != ShardStatus::Missing,
                None => entry.ballot < bar,
            }
        }
        Request::Settle { .. } | Request::Install { .. } | Request::Purge { .. } => false,
    }
}

/// Drives that may be swapped while nothing has happened to them: all of them, or, when somebody
/// reads, those that a reader asks first (it asks them at once, the others later).
fn alike(config: &Config) -> HolderMask {
    let reads = config.scripts.iter().flatten().any(|plan| matches!(plan, Plan::Get));
    let quorum = Quorum::of(config.drives);
    HolderMask::full(if reads { quorum.read() } else { quorum.n() })
}

/// The fingerprint of anything, by its derived hash.
pub fn print<T: Hash>(value: &T) -> u128 {
    let mut hasher = Xxh3::new();
    value.hash(&mut hasher);
    let _ = hasher.finish();
    hasher.digest128()
}
