//! Drives wiped under load: one, a second of the same set, then two at once. Each is rebuilt unasked, with proof.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Result;
use serde::Serialize;
use serde_json::Value as Json;

use super::{
    Args,
    home::{Home, Objects},
    load::{Felt, Load},
};
use crate::{
    admin::Passes,
    fault::{Fault, bring_about},
};

/// Which drives (node, drive) are wiped together, one group after the other.
const GROUPS: [&[(usize, usize)]; 3] = [&[(1, 1)], &[(2, 1)], &[(3, 2), (4, 3)]];

/// A wiped drive counts again within this time.
const REBUILT_WITHIN: Duration = Duration::from_secs(900);

/// Everything is at full width within this time afterwards.
const FULL_WIDTH_WITHIN: Duration = Duration::from_secs(300);

/// How often the drives are looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Sizes of objects, in turn: tiny, in the logs, in volumes.
const SIZES: [u64; 4] = [10_000, 300_000, 2_000_000, 8_000_000];

/// One rebuild, as its node tells of it.
#[derive(Debug, Default, Serialize)]
struct Rebuilt {
    path: String,
    /// From the wipe until it counted.
    seconds: f64,
    /// Of these, seconds of the rebuild itself.
    rebuild_seconds: u64,
    /// Bytes of shards brought.
    bytes: u64,
    /// Bytes a second of the rebuild.
    bytes_per_second: u64,
    /// Proof: versions counted.
    versions: u64,
    /// Those whose shards were all there.
    whole: u64,
    /// Those that lacked shards on other drives then: what was being written, or wiped.
    short: u64,
}

/// What came of it.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    kind: &'static str,
    seed: u64,
    /// Objects, and their bytes.
    objects: usize,
    object_bytes: u64,
    /// Requests a second of the load.
    rate: u32,
    rebuilds: Vec<Rebuilt>,
    /// What clients felt before the first wipe, until the last drive was rebuilt, and after that.
    before: Felt,
    during: Felt,
    after: Felt,
    /// The pass of all drives at the end.
    scrub: Passes,
    /// Reads at the end: every object from every node, compared byte by byte.
    reads_after: u64,
    /// What must not be.
    violations: Vec<String>,
}

/// Runs it.
pub async fn run(args: &Args) -> Result<Report> {
    let mut home = Home::up(args.dir.as_deref(), args.holdfastd.clone(), "rebuild")?;
    let report = all(args, &mut home).await;
    home.down(report.as_ref().is_ok_and(|report| report.violations.is_empty()))?;
    report
}

async fn all(args: &Args, home: &mut Home) -> Result<Report> {
    let round: u64 = SIZES.iter().sum();
    let count = (args.megabytes * 1_000_000).div_ceil(round) as usize * SIZES.len();
    let sizes: Vec<u64> = SIZES.iter().copied().cycle().take(count).collect();
    let mut report = Report {
        kind: "rebuild",
        seed: args.seed,
        objects: sizes.len(),
        object_bytes: sizes.iter().sum(),
        rate: args.rate,
        ..Report::default()
    };
    let objects = home.fill(args.seed, sizes).await?;
    let load = Load::start(&home.targets, &objects, args.rate, args.seed);
    let window = Duration::from_secs(args.seconds);
    // Connections are opened and caches filled before anything is measured.
    tokio::time::sleep(window / 4).await;
    let begun = Instant::now();
    tokio::time::sleep(window).await;
    let wiped = Instant::now();
    for group in GROUPS.iter().take(args.wipes) {
        match wipe(home, group).await? {
            Ok(rebuilt) => report.rebuilds.extend(rebuilt),
            Err(why) => {
                report.violations.push(why);
                break;
            }
        }
    }
    let rebuilt = Instant::now();
    tokio::time::sleep(window).await;
    let end = Instant::now();
    let (felt, wrong) = load.stop().await?;
    report.before = felt.between(begun, wiped);
    report.during = felt.between(wiped, rebuilt);
    report.after = felt.between(rebuilt, end);
    report.violations.extend(wrong);
    settle(home, &objects, &mut report).await?;
    Ok(report)
}

/// A scrub, full width, and everything from every node.
async fn settle(
    home: &mut Home,
    objects: &std::sync::Arc<Objects>,
    report: &mut Report,
) -> Result<()> {
    match home.admin.scrub().await {
        Ok(passes) if passes.found == 0 => report.scrub = passes,
        Ok(passes) => report.violations.push(format!("the scrub found rot: {passes:?}")),
        Err(why) => report.violations.push(why),
    }
    if let Err(why) = home.full_width(objects, FULL_WIDTH_WITHIN).await {
        report.violations.push(why);
    }
    let (reads, wrong) = home.read_everywhere(objects).await?;
    report.reads_after = reads;
    report.violations.extend(wrong);
    Ok(())
}

/// Wipes drives, and waits until each counts again under another identity.
async fn wipe(home: &mut Home, group: &[(usize, usize)]) -> Result<Result<Vec<Rebuilt>, String>> {
    let mut gone: BTreeMap<String, String> = BTreeMap::new();
    let drives = home.admin.drives(0).await;
    let begin = Instant::now();
    for (node, drive) in group.iter().copied() {
        let path = home.cluster.nodes[node - 1].drives[drive - 1].clone();
        gone.insert(path.display().to_string(), identity(&drives, &path));
        let dir = home.dir.clone();
        let wiping = tokio::task::spawn_blocking(move || {
            bring_about(&dir, Fault::WipeDrive { node, drive })
        });
        wiping.await??;
    }
    let mut seconds: BTreeMap<String, f64> = BTreeMap::new();
    while seconds.len() < gone.len() {
        if begin.elapsed() > REBUILT_WITHIN {
            let drives = home.admin.drives(0).await;
            let left = gone.keys().filter(|path| !seconds.contains_key(*path));
            let states: Vec<&Json> =
                drives.iter().filter(|d| left.clone().any(|path| d["path"] == **path)).collect();
            let within = REBUILT_WITHIN.as_secs();
            return Ok(Err(format!("not rebuilt within {within} s: {states:?}")));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
        for drive in home.admin.drives(0).await {
            let path = drive["path"].as_str().unwrap_or_default().to_owned();
            let other = gone.get(&path).is_some_and(|old| drive["drive"] != **old);
            if other && drive["state"] == "healthy" {
                seconds.entry(path).or_insert_with(|| begin.elapsed().as_secs_f64());
            }
        }
    }
    let mut rebuilt = Vec::new();
    for (path, seconds) in seconds {
        match told(home, &path).await {
            Ok(told) => rebuilt.push(Rebuilt { path, seconds, ..told }),
            Err(why) => return Ok(Err(why)),
        }
    }
    Ok(Ok(rebuilt))
}

fn identity(drives: &[Json], path: &Path) -> String {
    let path = path.display().to_string();
    let found = drives.iter().find(|drive| drive["path"] == path.as_str());
    found.map_or_else(String::new, |drive| drive["drive"].as_str().unwrap_or_default().to_owned())
}

/// What the drive's own node tells of its rebuild; the proof must be there.
async fn told(home: &mut Home, path: &str) -> Result<Rebuilt, String> {
    for node in 0..home.targets.len() {
        let heal = home.admin.get(node, "v1/heal", &[]).await?.unwrap_or_default();
        let all = heal["rebuilds"].as_array().cloned().unwrap_or_default();
        let of_path = |view: &&Json| view["path"] == path && view["phase"] == "done";
        let Some(view) = all.iter().rev().find(of_path) else { continue };
        let number = |name: &str| view[name].as_u64().unwrap_or(0);
        let rebuilt = Rebuilt {
            rebuild_seconds: number("seconds"),
            bytes: number("bytes"),
            bytes_per_second: number("rate"),
            versions: number("versions"),
            whole: number("whole"),
            short: number("short_count"),
            ..Rebuilt::default()
        };
        if rebuilt.versions == 0 || rebuilt.whole + rebuilt.short != rebuilt.versions {
            return Err(format!("{path}: the proof does not count: {view}"));
        }
        return Ok(rebuilt);
    }
    Err(format!("{path}: no node tells of its rebuild"))
}
