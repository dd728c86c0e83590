//! The model checker of the register protocol (PROTOCOL.md section 10): real drives' decisions and
//! real coordinators over a simulated network, with a checker of what clients were told.
//!
//! | module | holds |
//! |---|---|
//! | [`config`] | what a run is made of |
//! | [`world`] | the state of a run and what its events do |
//! | [`drive`] | a drive: the real decisions on the real state |
//! | [`task`], [`actors`], [`coordinate`] | coordinators: the real machines, driven |
//! | [`exhaustive`] | every order of events, for small bounds |
//! | [`scopes`] | what spans keys: bucket epochs, multipart uploads |
//! | [`walk`] | random walks and the quiet end of a run |
//! | [`history`] | what clients were told, and whether it is linearizable |
//! | [`bugs`] | planted bugs |

mod actors;
mod bugs;
mod config;
mod coordinate;
mod drive;
mod exhaustive;
mod history;
mod rng;
mod scopes;
mod task;
#[cfg(test)]
mod tests;
mod walk;
mod world;

use std::time::{Duration, Instant};

use bugs::{Bug, Part};
use clap::ValueEnum as _;

/// Checks the register protocol by random walks: exit code 1 when a property does not hold.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Plant a bug by name and look whether it is found; `list` names them.
    #[arg(long)]
    bug: Option<String>,
    /// What is walked; a planted bug has its own place.
    #[arg(long, value_enum, default_value_t)]
    part: Part,
    /// How long to walk.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Walk only configurations with this in their name (`n4-versioned-steady`).
    #[arg(long, default_value = "")]
    config: String,
    /// Run this seed alone and print its trace.
    #[arg(long)]
    replay: Option<u64>,
    /// Search small scenarios exhaustively instead of walking: the time is for all of them.
    #[arg(long)]
    exhaustive: bool,
    /// Only scenarios with this in their name (`n4-put-delete-lost`).
    #[arg(long, default_value = "", requires = "exhaustive")]
    scenario: String,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command; true when nothing was violated.
pub fn command(args: &Args) -> anyhow::Result<bool> {
    if args.bug.as_deref() == Some("list") {
        for (_, name, what) in Bug::ALL {
            println!("{name:24} {what}");
        }
        return Ok(true);
    }
    let bug = match &args.bug {
        None => None,
        Some(name) => Some(Bug::named(name).ok_or_else(|| {
            anyhow::anyhow!("no planted bug is called {name}; `--bug list` names them")
        })?),
    };
    let part = bug.map_or(args.part, Bug::part);
    if let Some(seed) = args.replay {
        let report = run(part, seed, bug, true);
        for line in &report.trace {
            println!("{line}");
        }
        return Ok(report.violation.is_none());
    }
    if args.exhaustive {
        return exhaust(bug, args);
    }
    let time = Duration::from_secs(args.seconds);
    let result = search(part, bug, (args.seed, &args.config), time);
    result.print(args.json, part, bug)?;
    Ok(result.violations.is_empty())
}

/// What an exhaustive search came to.
#[derive(serde::Serialize)]
struct Exhaustion {
    /// Says what `complete` covers.
    method: &'static str,
    /// Scenarios begun.
    runs: usize,
    /// Whether every one of the scenarios was searched to its end.
    complete: bool,
    violations: Vec<String>,
    scenarios: Vec<exhaustive::Exhausted>,
}

/// Searches the scenarios until time is over; true when nothing was violated.
fn exhaust(bug: Option<Bug>, args: &Args) -> anyhow::Result<bool> {
    let end = Instant::now() + Duration::from_secs(args.seconds);
    let mut scenarios = Vec::new();
    let names = exhaustive::names();
    for name in names.iter().filter(|name| name.contains(&args.scenario)) {
        let left = end.saturating_duration_since(Instant::now());
        let Some(result) = exhaustive::search(name, bug, left) else { continue };
        if !args.json {
            println!("{result}");
        }
        scenarios.push(result);
    }
    anyhow::ensure!(!scenarios.is_empty(), "no scenario has {} in its name", args.scenario);
    let broken =
        scenarios.iter().filter_map(|s| Some(format!("{}: {}", s.scenario, s.violation.as_ref()?)));
    let result = Exhaustion {
        method: "exhaustive: every order of events within the bounds of each scenario that is complete, \
                 nothing of the others; see ADR 0007 for what the scenarios leave out",
        runs: scenarios.len(),
        complete: scenarios.iter().all(|scenario| scenario.complete),
        violations: broken.collect(),
        scenarios,
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&result)?);
    } else {
        let complete = result.scenarios.iter().filter(|scenario| scenario.complete).count();
        println!("{complete} of {} complete, {} violations", result.runs, result.violations.len());
    }
    Ok(result.violations.is_empty())
}

/// A seed that broke a property.
#[derive(serde::Serialize)]
struct Violation {
    seed: u64,
    config: String,
    property: String,
}

/// What a search came to.
#[derive(serde::Serialize)]
struct SearchResult {
    /// Says what the figures are worth.
    method: &'static str,
    runs: u64,
    events: u64,
    /// Runs that lost more than is promised and were not judged.
    excused: u64,
    seconds: f64,
    violations: Vec<Violation>,
    configs: std::collections::BTreeMap<String, u64>,
}

/// The run of a seed.
fn run(part: Part, seed: u64, bug: Option<Bug>, traced: bool) -> walk::Report {
    match part {
        Part::Register | Part::Rot => walk::run(part, seed, bug, traced),
        Part::Buckets | Part::Uploads => scopes::run(part, seed, bug, traced),
    }
}

/// The name of the configuration that a seed's run has.
fn config_name(part: Part, seed: u64) -> String {
    match part {
        Part::Register | Part::Rot => config::name(walk::config_of(part, seed)),
        Part::Buckets => format!("n{}-buckets", scopes::drives(seed)),
        Part::Uploads => format!("n{}-uploads", scopes::drives(seed)),
    }
}

/// Walks from `seed` on, through the configurations with `named` in their name, until time is over or a run
/// breaks a property.
fn search(
    part: Part,
    bug: Option<Bug>,
    (seed, named): (u64, &str),
    time: Duration,
) -> SearchResult {
    let start = Instant::now();
    let mut result = SearchResult {
        method: "random walks: nothing is exhausted, see --exhaustive",
        runs: 0,
        events: 0,
        excused: 0,
        seconds: 0.0,
        violations: Vec::new(),
        configs: std::collections::BTreeMap::new(),
    };
    let needs = bug.and_then(Bug::needs);
    let fits = |seed: u64| {
        needs.is_none_or(|faults| config::has(walk::config_of(part, seed), faults))
            && config_name(part, seed).contains(named)
    };
    for seed in (seed..).filter(|seed| fits(*seed)) {
        let report = run(part, seed, bug, false);
        result.runs += 1;
        result.events += u64::from(report.events);
        result.excused += u64::from(report.excused);
        *result.configs.entry(config_name(part, seed)).or_default() += 1;
        if let Some(property) = report.violation {
            let config = config_name(part, seed);
            result.violations.push(Violation { seed, config, property });
            break;
        }
        if start.elapsed() >= time {
            break;
        }
    }
    result.seconds = start.elapsed().as_secs_f64();
    result
}

impl SearchResult {
    fn print(&self, json: bool, part: Part, bug: Option<Bug>) -> anyhow::Result<()> {
        if json {
            println!("{}", serde_json::to_string_pretty(self)?);
            return Ok(());
        }
        let planted = bug.map_or(String::new(), |bug| format!(" with {} planted", bug.name()));
        println!(
            "{} runs, {} events in {:.1} s{planted}: {} violations",
            self.runs,
            self.events,
            self.seconds,
            self.violations.len()
        );
        for violation in &self.violations {
            println!("seed {} ({}): {}", violation.seed, violation.config, violation.property);
            let with = match (bug, part.to_possible_value()) {
                (Some(bug), _) => format!(" --bug {}", bug.name()),
                (None, Some(part)) => format!(" --part {}", part.get_name()),
                (None, None) => String::new(),
            };
            println!("replay: testbed model{with} --replay {}", violation.seed);
        }
        Ok(())
    }
}
