//! Exhaustive search for small bounds: every order of deliveries, timeouts and restarts, depth first,
//! states met before cut off by their hash.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
    time::{Duration, Instant},
};

use super::{
    bugs::Bug,
    config::{Budgets, Config, Faults, Plan},
    rng::Rng,
    world::{Event, Message, World},
};

/// What a search came to.
#[derive(serde::Serialize, Debug, Default)]
pub struct Exhausted {
    pub scenario: &'static str,
    /// Different states met.
    pub states: u64,
    /// Ends of runs judged.
    pub ends: u64,
    /// Whether every state within the bounds was met; false when time was over.
    pub complete: bool,
    pub violation: Option<String>,
}

/// The scenarios, by name.
pub const SCENARIOS: [&str; 4] =
    ["write-read", "two-writers", "write-delete-restart", "create-create"];

fn config(scenario: &str) -> Config {
    let none = Budgets {
        timeouts: 0,
        drops: 0,
        doubles: 0,
        crashes: 0,
        restarts: 0,
        outages: 0,
        wipes: 0,
        sweeps: 0,
        heals: 0,
        purges: 0,
        leaps: 0,
    };
    let (scripts, budgets) = match scenario {
        "write-read" => {
            let scripts = vec![vec![Plan::Put], vec![Plan::Get]];
            (scripts, Budgets { timeouts: 1, ..none })
        }
        "two-writers" => (vec![vec![Plan::Put], vec![Plan::Put]], none),
        "write-delete-restart" => {
            let scripts = vec![vec![Plan::Put, Plan::Delete]];
            (scripts, Budgets { timeouts: 1, restarts: 1, ..none })
        }
        _ => (vec![vec![Plan::Create], vec![Plan::Create]], none),
    };
    let faults = Faults::Restarts;
    Config { drives: 3, versioned: false, faults, scripts, budgets, drawn: false }
}

/// Searches one scenario until it is exhausted, a property breaks, or time is over.
pub fn search(scenario: &'static str, bug: Option<Bug>, time: Duration) -> Exhausted {
    let start = Instant::now();
    let mut result = Exhausted { scenario, complete: true, ..Exhausted::default() };
    let mut seen = HashSet::new();
    let mut work = vec![World::new(config(scenario), bug, Rng::new(0))];
    let mut choices = Vec::new();
    while let Some(mut world) = work.pop() {
        if start.elapsed() >= time {
            result.complete = false;
            break;
        }
        forget_replies(&mut world);
        if !seen.insert(fingerprint(&world)) {
            continue;
        }
        result.states += 1;
        world.weighted_events(&mut choices);
        choices.retain(|(weight, event)| *weight > 0 && !matches!(event, Event::Finish(_)));
        let over = choices.is_empty() || world.is_idle();
        if over {
            result.ends += 1;
        }
        let broken = world.violation.clone().or_else(|| if over { ending(&world) } else { None });
        if broken.is_some() {
            result.violation = broken;
            break;
        }
        if !over {
            work.extend(choices.iter().map(|(_, event)| {
                let mut next = world.clone();
                next.apply(*event);
                next
            }));
        }
    }
    result
}

/// Drops replies that nobody waits for: they change nothing.
fn forget_replies(world: &mut World) {
    let waiting: Vec<u32> = world.tasks.iter().filter(|t| !t.over).map(|t| t.id).collect();
    world.net.retain(|message| match message {
        Message::Reply { task, .. } => waiting.contains(task),
        Message::Request { .. } => true,
    });
}

/// The quiet end of a run from here, with no late message arriving.
fn ending(world: &World) -> Option<String> {
    let mut last = world.clone();
    last.net.clear();
    last.finale();
    last.violation
}

/// The state without its clock. Equal states have equal futures but for the time of ballots, whose
/// order among each other is part of the state.
fn fingerprint(world: &World) -> u64 {
    let mut hasher = DefaultHasher::new();
    world.history.hash(&mut hasher);
    world.budgets.hash(&mut hasher);
    for drive in &world.drives {
        format!("{:?}", (&drive.state, drive.facts.floor, drive.stage)).hash(&mut hasher);
    }
    let mut net: Vec<String> = world.net.iter().map(|message| format!("{message:?}")).collect();
    net.sort_unstable();
    net.hash(&mut hasher);
    for task in &world.tasks {
        format!("{:?}", (&task.work, &task.machine, &task.calls, task.grace, task.over))
            .hash(&mut hasher);
    }
    for client in &world.clients {
        (client.next, client.busy).hash(&mut hasher);
    }
    hasher.finish()
}
