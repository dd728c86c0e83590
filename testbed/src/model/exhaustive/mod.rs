//! Exhaustive search for small bounds: every order of deliveries, timeouts, crashes and restarts, depth
//! first, states met before cut off by a 128-bit fingerprint (ADR 0007 has the bounds, the reductions and
//! why they pass over nothing).

mod node;
mod scenario;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    fmt,
    hash::{BuildHasherDefault, Hasher},
    time::{Duration, Instant},
};

use node::Node;

pub use scenario::names;

use super::{bugs::Bug, config::Config, rng::Rng, world::World};

/// What a search came to.
#[derive(serde::Serialize, Debug, Default)]
pub struct Exhausted {
    /// What was searched.
    pub scenario: String,
    /// Drives of the set.
    pub drives: u8,
    /// Whether the bucket is versioned.
    pub versioned: bool,
    /// What each client asks, in order.
    pub clients: Vec<String>,
    /// Messages that a caller gives up, at most.
    pub lost: u32,
    /// Restarts of drives, at most.
    pub restarts: u32,
    /// Clients that vanish, at most.
    pub crashes: u32,
    /// Ballots that coordinators draw anew, at most; whoever needs one more is gone.
    pub redraws: u32,
    /// Different states met.
    pub states: u64,
    /// Events that the longest of the paths searched has.
    pub depth: u32,
    /// States in which all clients were through, each judged with a last read.
    pub ends: u64,
    /// Different histories of what clients were told.
    pub histories: u64,
    /// How long it took.
    pub seconds: f64,
    /// Whether every state within the bounds was met; false when time or [`STATES_MAX`] was over, or a
    /// violation ended the search.
    pub complete: bool,
    /// The property that broke.
    pub violation: Option<String>,
}

impl fmt::Display for Exhausted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scenario, states, ends, histories, depth, seconds, complete, violation, .. } =
            self;
        let how = if *complete { "complete" } else { "cut" };
        write!(
            f,
            "{scenario:28} {how:8} {states:>9} states, {ends} ends, {histories} histories, "
        )?;
        write!(f, "{depth} deep, {seconds:.1} s")?;
        violation.iter().try_for_each(|broken| write!(f, ": {broken}"))
    }
}

/// Most states of one search: their fingerprints take some 20 to 40 bytes each.
const STATES_MAX: u64 = 60_000_000;

/// What the search may do to meet fewer states (ADR 0007).
#[derive(Clone, Copy, Debug)]
pub struct Reductions {
    /// One of several drives to which nothing has happened stands for all.
    pub swaps: bool,
    /// Messages that can change nothing any more are taken away.
    pub dead: bool,
    /// Late messages to different drives arrive in the order of the drives, once nobody waits.
    pub order: bool,
}

impl Reductions {
    /// All of them; with a planted bug only those that do not rest on the rule it undoes.
    pub fn all(bug: Option<Bug>) -> Self {
        let undoes = [Bug::AcceptBelowHighest, Bug::VolatilePromises, Bug::EarlyAck, Bug::ThinAck];
        let dead = bug.is_none_or(|bug| !undoes.contains(&bug));
        Self { swaps: true, dead, order: true }
    }
}

/// Searches one scenario until it is exhausted, a property breaks, or time is over. `None` when no
/// scenario has the name.
pub fn search(scenario: &str, bug: Option<Bug>, time: Duration) -> Option<Exhausted> {
    let mut search = Search::new(scenario::config(scenario)?, bug, Reductions::all(bug));
    search.run(Instant::now() + time);
    search.result.scenario = scenario.to_owned();
    Some(search.result)
}

/// A search under way.
struct Search {
    reductions: Reductions,
    /// States met.
    seen: HashSet<u128, Prints>,
    /// Histories of ends, and whether they are linearizable.
    judged: HashMap<u128, bool, Prints>,
    work: Vec<(u32, Node)>,
    result: Exhausted,
}

impl Search {
    fn new(config: Config, bug: Option<Bug>, reductions: Reductions) -> Self {
        let result = Exhausted {
            drives: config.drives,
            versioned: config.versioned,
            clients: config.scripts.iter().map(|script| format!("{script:?}")).collect(),
            lost: config.budgets.timeouts,
            restarts: config.budgets.restarts,
            crashes: config.budgets.crashes,
            redraws: config.budgets.redraws,
            ..Exhausted::default()
        };
        let root = Node::new(World::new(config, bug, Rng::new(0)), reductions);
        let mut seen = HashSet::default();
        seen.insert(root.fingerprint());
        Self { reductions, seen, judged: HashMap::default(), work: vec![(0, root)], result }
    }

    /// Goes on until all is met, a property breaks, or `end`.
    fn run(&mut self, end: Instant) {
        let start = Instant::now();
        let mut choices = Vec::new();
        self.result.complete = true;
        while let Some((depth, node)) = self.work.pop() {
            let late = self.result.states.is_multiple_of(256) && Instant::now() >= end;
            if late || self.result.states >= STATES_MAX {
                self.result.complete = false;
                break;
            }
            self.result.states += 1;
            self.result.depth = self.result.depth.max(depth);
            self.result.violation = self.broken(&node);
            if self.result.violation.is_some() {
                // What lies beyond was not looked at.
                self.result.complete = false;
                break;
            }
            node.events(self.reductions, &mut choices);
            for (_, event) in &choices {
                let next = node.after(*event);
                if self.seen.insert(next.fingerprint()) {
                    self.work.push((depth + 1, next));
                }
            }
        }
        self.result.histories = self.judged.len() as u64;
        self.result.seconds = start.elapsed().as_secs_f64();
    }

    /// The property that does not hold here, all being judged when the clients are through: then
    /// everything is read once more in a quiet set. What is late may still arrive after that, in a state
    /// of its own.
    fn broken(&mut self, node: &Node) -> Option<String> {
        if node.world.violation.is_some() || !node.world.is_idle() {
            return node.world.violation.clone();
        }
        self.result.ends += 1;
        let mut last = node.world.clone();
        last.net.clear();
        last.calm_down();
        let fine = *self
            .judged
            .entry(node::print(&last.history.outline()))
            .or_insert_with(|| last.history.is_linearizable(last.config.versioned));
        if !fine {
            last.judge();
        }
        last.violation
    }
}

/// Fingerprints are hashes already.
type Prints = BuildHasherDefault<Printed>;

/// Takes the low half of a fingerprint for its hash.
#[derive(Default)]
struct Printed(u64);

impl Hasher for Printed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, print: u128) {
        self.0 = print as u64;
    }
}
