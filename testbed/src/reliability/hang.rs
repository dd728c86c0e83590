//! A drive that hangs, a node that is paused: what clients of the other nodes feel before, at first, and once the
//! cluster knows.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Result;
use serde::Serialize;

use super::{
    Args,
    home::{Home, Objects},
    load::{Felt, Load},
};
use crate::{
    bench::client::Target,
    fault::{Fault, bring_about},
};

/// What happens within this time of the fault counts as "at detection", later as "after" it.
const DETECTED_WITHIN: Duration = Duration::from_secs(5);

/// After the fault p99 may be this many times what it was before.
const BOUND: f64 = 2.0;

/// Sizes of objects, in turn: tiny, in the logs, in volumes.
const SIZES: [u64; 3] = [10_000, 300_000, 2_000_000];

/// How often the drives are looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Everything is at full width within this time after the fault is mended.
const FULL_WIDTH_WITHIN: Duration = Duration::from_secs(300);

/// One fault.
#[derive(Debug, Default, Serialize)]
struct Fared {
    fault: String,
    /// When the cluster showed the drive as not healthy; for a node, when it showed all its drives so.
    noticed_seconds: Option<f64>,
    before: Felt,
    at_detection: Felt,
    after: Felt,
    /// When it is mended.
    mended: Felt,
    /// Whether p99 of reads and writes after detection is within twice what it was.
    within_bound: bool,
}

/// What came of it.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    kind: &'static str,
    seed: u64,
    /// Requests a second of the load.
    rate: u32,
    faults: Vec<Fared>,
    /// Reads at the end: every object from every node, compared byte by byte.
    reads_after: u64,
    /// What must not be.
    violations: Vec<String>,
}

/// Runs it.
pub async fn run(args: &Args) -> Result<Report> {
    let mut home = Home::up(args.dir.as_deref(), args.holdfastd.clone(), "hang")?;
    let report = all(args, &mut home).await;
    home.down(report.as_ref().is_ok_and(|report| report.violations.is_empty()))?;
    report
}

async fn all(args: &Args, home: &mut Home) -> Result<Report> {
    let mut report = Report { kind: "hang", seed: args.seed, rate: args.rate, ..Report::default() };
    let sizes = SIZES.iter().copied().cycle().take(90).collect();
    let objects = home.fill(args.seed, sizes).await?;
    let drive = [Fault::HangDrive { node: 2, drive: 1 }, Fault::ResumeDrive { node: 2, drive: 1 }];
    let everyone = home.targets.clone();
    let drives = vec![home.cluster.nodes[1].drives[0].clone()];
    report
        .faults
        .push(fare(args, home, &objects, &everyone, drive, "one drive hung", drives).await?);
    let node = [Fault::PauseNode { node: 3 }, Fault::ResumeNode { node: 3 }];
    // A client of the paused node waits for it, whoever else is well.
    let others: Vec<Target> =
        everyone.iter().enumerate().filter(|(at, _)| *at != 2).map(|(_, to)| to.clone()).collect();
    let drives = home.cluster.nodes[2].drives.clone();
    report.faults.push(fare(args, home, &objects, &others, node, "one node paused", drives).await?);
    if let Err(why) = home.full_width(&objects, FULL_WIDTH_WITHIN).await {
        report.violations.push(why);
    }
    let (reads, wrong) = home.read_everywhere(&objects).await?;
    report.reads_after = reads;
    report.violations.extend(wrong);
    Ok(report)
}

async fn fare(
    args: &Args,
    home: &mut Home,
    objects: &std::sync::Arc<Objects>,
    targets: &[Target],
    [fault, mend]: [Fault; 2],
    what: &str,
    drives: Vec<PathBuf>,
) -> Result<Fared> {
    let window = Duration::from_secs(args.seconds);
    let load = Load::start(targets, objects, args.rate, args.seed);
    tokio::time::sleep(window / 4).await;
    let begun = Instant::now();
    tokio::time::sleep(window).await;
    bring(home, fault).await?;
    let at = Instant::now();
    let end = at + DETECTED_WITHIN + window;
    let noticed = notice(home, &drives, end).await;
    tokio::time::sleep_until(end.into()).await;
    bring(home, mend).await?;
    let mended = Instant::now();
    tokio::time::sleep(window).await;
    let over = Instant::now();
    let (felt, wrong) = load.stop().await?;
    anyhow::ensure!(wrong.is_empty(), "{what}: wrong bytes: {wrong:?}");
    let (before, after) = (felt.between(begun, at), felt.between(at + DETECTED_WITHIN, end));
    let held = |before: f64, after: f64| after <= BOUND * before;
    let within_bound =
        held(before.read.p99, after.read.p99) && held(before.write.p99, after.write.p99);
    Ok(Fared {
        fault: what.to_owned(),
        noticed_seconds: noticed.map(|noticed| noticed.duration_since(at).as_secs_f64()),
        before,
        at_detection: felt.between(at, at + DETECTED_WITHIN),
        after,
        mended: felt.between(mended, over),
        within_bound,
    })
}

async fn bring(home: &Home, fault: Fault) -> Result<()> {
    let dir = home.dir.clone();
    tokio::task::spawn_blocking(move || bring_about(&dir, fault)).await??;
    Ok(())
}

/// When the first node shows none of `drives` as healthy.
async fn notice(home: &mut Home, drives: &[PathBuf], end: Instant) -> Option<Instant> {
    while Instant::now() < end {
        let seen = home.admin.drives(0).await;
        let ill = |path: &PathBuf| {
            let path = path.display().to_string();
            seen.iter().any(|drive| drive["path"] == path.as_str() && drive["state"] != "healthy")
        };
        if drives.iter().all(ill) {
            return Some(Instant::now());
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    None
}
