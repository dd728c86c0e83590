//! Rotten blocks: all are detected, none is served, all are healed.
//!
//! ```text
//! each round: a pass of every drive is under way and stands still   (what anyone finds from now on is counted)
//!          -> one drive of each node rots                           (four of sixteen: as many as there are parity shards)
//!          -> clients read from every node                          (round the rot)
//!          -> the pass goes on to its end, full width, and a pass that finds nothing
//! ```

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use tokio::task::JoinSet;

use super::{
    Args,
    home::{Home, Objects},
    victims::{self, Damage},
};
use crate::{
    admin::{FULL_RATE, Passes, STANDING_RATE},
    bench::{
        client::{Client, OpError, Target},
        content::Pieces,
    },
    fault::{Fault, bring_about},
};

/// Drives that rot in one round: one of each node.
const AT_ONCE: usize = 4;

/// Of five rotten blocks one is of a small shard, in a log.
const IN_LOG: usize = 5;

/// Bytes of a large object: a few blocks of 128 KiB on each drive.
const LARGE_BYTES: u64 = 4 << 20;

/// Bytes of a small one: its shards ride in the logs, with some whole blocks of 4 KiB each.
const SMALL_BYTES: u64 = 500_000;

/// Blocks of 4 KiB of a large object's shard on one drive, at least; most of a drive stays sound.
const LARGE_BLOCKS: usize = 80;

/// Whole blocks of a small object on three drives of four, at least.
const SMALL_BLOCKS: usize = 6;

/// Readers beside the rot: two of each node.
const READERS: usize = 8;

/// How long they read before the pass goes on.
const READ_FIRST: Duration = Duration::from_secs(4);

/// What rotted is restored within this time after it was found.
const HEALED_WITHIN: Duration = Duration::from_secs(300);

/// Passes after the first of a round until one finds nothing.
const PASSES_MAX: usize = 3;

/// What came of it.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    kind: &'static str,
    seed: u64,
    /// Rounds: each with four other drives, as far as there are.
    rounds: usize,
    /// Blocks of 4 KiB that changed.
    blocks: usize,
    damage: Damage,
    /// Shards they were of.
    shards: usize,
    /// Shards that were found rotten while passes were under way.
    found: u64,
    /// Objects.
    objects: usize,
    /// Reads of whole objects while they were rotten, compared byte by byte.
    reads: u64,
    /// Of those, reads that failed.
    failed: u64,
    /// Reads at the end: every object from every node.
    reads_after: u64,
    /// What the last pass of all drives read: nothing of it was rotten.
    last_pass: Passes,
    /// The longest time from the end of a pass to full width.
    full_width_seconds: f64,
    /// The whole run.
    seconds: f64,
    /// What must not be.
    violations: Vec<String>,
}

/// Runs it.
pub async fn run(args: &Args) -> Result<Report> {
    let begin = Instant::now();
    let mut home = Home::up(args.dir.as_deref(), args.holdfastd.clone(), "rot")?;
    let report = all(args, &mut home).await;
    home.down(report.as_ref().is_ok_and(|report| report.violations.is_empty()))?;
    Ok(Report { seconds: begin.elapsed().as_secs_f64(), ..report? })
}

/// As many objects as leave most blocks of a drive sound.
fn sizes(per_drive: usize) -> Vec<u64> {
    let log = per_drive.div_ceil(IN_LOG);
    let large = (2 * (per_drive - log)).div_ceil(LARGE_BLOCKS).max(8);
    let small = (3 * log).div_ceil(SMALL_BLOCKS).max(16);
    [vec![LARGE_BYTES; large], vec![SMALL_BYTES; small]].concat()
}

async fn all(args: &Args, home: &mut Home) -> Result<Report> {
    let per_drive = args.blocks.div_ceil(args.rounds * AT_ONCE);
    let sizes = sizes(per_drive);
    let mut report =
        Report { kind: "rot", seed: args.seed, objects: sizes.len(), ..Report::default() };
    let objects = home.fill(args.seed, sizes).await?;
    let pieces = Arc::new(Pieces::of(&objects.content));
    home.full_width(&objects, HEALED_WITHIN).await.map_err(anyhow::Error::msg)?;
    let mut random = ChaCha8Rng::seed_from_u64(args.seed);
    while report.rounds < args.rounds && report.violations.is_empty() {
        let left = args.blocks - report.damage.blocks();
        let rounds = args.rounds - report.rounds;
        let now = left.div_ceil(rounds);
        round(home, &objects, &pieces, now, &mut random, &mut report).await?;
        report.rounds += 1;
        eprintln!(
            "testbed: {} blocks of {} shards rotted, {} found, {} reads",
            report.damage.blocks(),
            report.damage.shards.len(),
            report.found,
            report.reads
        );
    }
    let (reads, wrong) = home.read_everywhere(&objects).await?;
    report.reads_after = reads;
    report.violations.extend(wrong);
    (report.blocks, report.shards) = (report.damage.blocks(), report.damage.shards.len());
    if report.found > report.shards as u64 {
        let what = format!("{} shards rotted, {} were found", report.shards, report.found);
        report.violations.push(what);
    }
    Ok(report)
}

async fn round(
    home: &mut Home,
    objects: &Arc<Objects>,
    pieces: &Arc<Pieces>,
    blocks: usize,
    random: &mut ChaCha8Rng,
    report: &mut Report,
) -> Result<()> {
    let begun = home.admin.begin_scrub(STANDING_RATE).await.map_err(anyhow::Error::msg)?;
    let drive = report.rounds % home.cluster.nodes[0].drives.len();
    let drives: Vec<PathBuf> =
        home.cluster.nodes.iter().map(|node| node.drives[drive].clone()).collect();
    let readers = Readers::start(&home.targets, objects, random.random());
    let (dir, pieces) = (home.dir.clone(), pieces.clone());
    let mut draw = ChaCha8Rng::seed_from_u64(random.random());
    let rotting =
        tokio::task::spawn_blocking(move || rot(&dir, &drives, &pieces, blocks, &mut draw));
    report.damage.add(rotting.await.context("rotting")??);
    tokio::time::sleep(READ_FIRST).await;
    if let Err(why) = heal(home, objects, &begun, report).await {
        report.violations.push(why);
    }
    let (reads, failed, wrong) = readers.stop().await?;
    (report.reads, report.failed) = (report.reads + reads, report.failed + failed);
    report.violations.extend(wrong);
    Ok(())
}

/// The pass to its end, full width, and passes until one finds nothing.
async fn heal(
    home: &mut Home,
    objects: &Objects,
    begun: &crate::admin::Begun,
    report: &mut Report,
) -> Result<(), String> {
    report.found += home.admin.end_scrub(begun).await?.found;
    for _ in 0..PASSES_MAX {
        let took = home.full_width(objects, HEALED_WITHIN).await?.as_secs_f64();
        report.full_width_seconds = report.full_width_seconds.max(took);
        let begun = home.admin.begin_scrub(FULL_RATE).await?;
        report.last_pass = home.admin.end_scrub(&begun).await?;
        report.found += report.last_pass.found;
        if report.last_pass.found == 0 {
            return Ok(());
        }
    }
    Err(format!("{PASSES_MAX} passes after the first, and the last one found rot"))
}

/// Damages the drives. Their nodes stand still meanwhile, so that no block changes hands between the look at it
/// and its damage.
fn rot(
    dir: &std::path::Path,
    drives: &[PathBuf],
    pieces: &Pieces,
    blocks: usize,
    random: &mut ChaCha8Rng,
) -> Result<Damage> {
    let nodes = 1..=drives.len();
    for node in nodes.clone() {
        bring_about(dir, Fault::PauseNode { node })?;
    }
    let mut damage = Damage::default();
    let mut hurt = || {
        for (place, drive) in drives.iter().enumerate() {
            let left = blocks - damage.blocks();
            let now = left.div_ceil(drives.len() - place);
            let log = now / IN_LOG;
            let small = victims::damage(victims::in_log(drive, pieces)?, log, random)?;
            damage.add(Damage { in_log: log, ..small });
            damage.add(victims::damage(victims::in_volumes(drive)?, now - log, random)?);
        }
        Ok(())
    };
    let hurt = hurt();
    for node in nodes {
        bring_about(dir, Fault::ResumeNode { node })?;
    }
    hurt.map(|()| damage)
}

/// Clients that read objects at random, from every node, until they are told to stop.
struct Readers {
    tasks: JoinSet<()>,
    stop: Arc<AtomicBool>,
    reads: Arc<AtomicU64>,
    failed: Arc<std::sync::Mutex<(u64, BTreeSet<String>)>>,
}

impl Readers {
    fn start(targets: &[Target], objects: &Arc<Objects>, seed: u64) -> Self {
        let (stop, reads) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let failed: Arc<std::sync::Mutex<(u64, BTreeSet<String>)>> = Arc::default();
        let mut tasks = JoinSet::new();
        for (number, target) in targets.iter().cycle().take(READERS).enumerate() {
            let mut client = Client::new(target.clone());
            let (objects, stop, reads, failed) =
                (objects.clone(), stop.clone(), reads.clone(), failed.clone());
            let mut random = ChaCha8Rng::seed_from_u64(seed ^ number as u64);
            tasks.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let (key, size) = &objects.all[random.random_range(0..objects.all.len())];
                    let read = client.get(key, objects.content.of(key, *size)).await;
                    reads.fetch_add(1, Ordering::Relaxed);
                    if let Err(error) = read {
                        let mut failed = failed.lock().expect("no panic");
                        failed.0 += u64::from(!matches!(error, OpError::Corrupt(_)));
                        failed.1.insert(format!("a read beside rot: {error}"));
                    }
                }
            });
        }
        Self { tasks, stop, reads, failed }
    }

    /// Reads, reads that failed, and what was wrong: nothing fails that has k good shards.
    async fn stop(mut self) -> Result<(u64, u64, Vec<String>)> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(done) = self.tasks.join_next().await {
            done.context("a reader")?;
        }
        let (failed, what) = std::mem::take(&mut *self.failed.lock().expect("no panic"));
        Ok((self.reads.load(Ordering::Relaxed), failed, what.into_iter().take(5).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: most of a drive stays sound, so that blocks are hit by chance and not all. Method: the numbers of the
    /// bounded and of the full form.
    #[test]
    fn most_of_a_drive_stays_sound() {
        for per_drive in [5, 625] {
            let sizes = sizes(per_drive);
            let large = sizes.iter().filter(|size| **size == LARGE_BYTES).count();
            let small = sizes.len() - large;
            assert!(large * LARGE_BLOCKS >= 2 * (per_drive - per_drive / IN_LOG), "{sizes:?}");
            assert!(small * SMALL_BLOCKS / 2 >= per_drive / IN_LOG, "{sizes:?}");
        }
    }
}
