//! A whole cluster loses its power at once, under load.
//!
//! The drives of four real daemons are XFS file systems of one rig; clients and checker are the
//! torture's: what was in flight at the cut stays open, what was acknowledged must be there. Multipart uploads whose
//! parts were acknowledged are completed in a later life.
//!
//! A violation ends the run at once. What it was seen on stays: the images of the drives as they are then, the
//! daemons' logs, and `history.txt` with all that clients did and saw.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::{Args, Report, empty, rig::Rig};
use crate::{
    bench::client::Client,
    cluster::Cluster,
    down,
    fault::{Fault, bring_about},
    torture::{self, Shared, Worker},
    up,
};

/// Clients.
const CLIENTS: u64 = 8;

/// What clients go on after the cut: they meet it.
const AFTER: Duration = Duration::from_millis(200);

/// Cuts the power of a cluster, again and again.
pub(super) fn cuts(args: &Args, dir: &Path) -> Result<Report> {
    let home = dir.join("cluster");
    let plan = up::Args::detached(&home, args.holdfastd.clone());
    let cluster = up::plan(&plan)?;
    cluster.store(&home)?;
    let drives: Vec<PathBuf> = cluster.nodes.iter().flat_map(|node| node.drives.clone()).collect();
    let mut rig = Rig::new(dir, drives)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let report = runtime.block_on(cut_all(args, &home, &cluster, &mut rig));
    down::take_down(&home)?;
    drop(rig);
    report
}

async fn cut_all(args: &Args, home: &Path, cluster: &Cluster, rig: &mut Rig) -> Result<Report> {
    let mut report = empty(args);
    let mut random = ChaCha8Rng::seed_from_u64(args.seed);
    let nodes = cluster.nodes.len();
    torture::start_all(home, (1..=nodes).collect()).context("start the cluster")?;
    let shared = Shared::new(args.seed, torture::targets(cluster)?).with_uploads(args.uploads);
    let shared = Arc::new(shared);
    torture::create_bucket(&mut Client::new(shared.targets[0].clone())).await?;
    while report.runs < args.runs {
        let length = Duration::from_millis(random.random_range(400..2_500));
        let end = Instant::now() + length + AFTER;
        let seed: u64 = random.random();
        let mut clients: Vec<_> = (0..CLIENTS)
            .map(|number| tokio::spawn(Worker::new(shared.clone(), seed, number).work(end)))
            .collect();
        let finisher = Worker::new(shared.clone(), seed, CLIENTS);
        clients.push(tokio::spawn(finisher.finish(end, false)));
        tokio::time::sleep(length).await;
        let cut = rig.cut(&mut random);
        for node in 1..=nodes {
            bring_about(home, Fault::KillNode { node })?;
        }
        cut?;
        for client in clients {
            client.await.context("a client")?;
        }
        report.runs += 1;
        if keep(&shared, home, rig, report.runs)? {
            break;
        }
        rig.restore()?;
        if let Err(error) = torture::start_all(home, (1..=nodes).collect()) {
            shared.book.violation(format!("after {} cuts: {error:#}", report.runs));
            keep(&shared, home, rig, report.runs)?;
            break;
        }
        torture::settle::read_recent(&shared, seed).await;
        torture::settle::check_all(&shared);
        if report.runs.is_multiple_of(10) {
            eprintln!("testbed: {} cuts, {:?}", report.runs, shared.book.counts());
        }
        if keep(&shared, home, rig, report.runs)? {
            break;
        }
    }
    if shared.book.violations().is_empty() {
        torture::settle::finish_uploads(&shared, args.seed).await;
        torture::settle::scrub_to_full_width(&shared).await;
        torture::settle::read_all(&shared, args.seed).await;
        report.checked = torture::settle::check_all(&shared) as u64;
        keep(&shared, home, rig, report.runs)?;
    }
    report.read = shared.book.counts().operations;
    report.violations.extend(shared.book.violations());
    Ok(report)
}

/// Keeps what a violation was seen on, if there is one; whether there is.
fn keep(shared: &Shared, home: &Path, rig: &mut Rig, cuts: u32) -> Result<bool> {
    let violations = shared.book.violations();
    if violations.is_empty() {
        return Ok(false);
    }
    // A daemon that is taken down in order would write on.
    for node in 1..=Cluster::load(home)?.nodes.len() {
        let _ = bring_about(home, Fault::KillNode { node });
    }
    let history = home.join("history.txt");
    let mut told = format!("after {cuts} cuts\n{}\n", violations.join("\n"));
    told += &shared.uploads.stories().join("\n");
    shared.book.with_histories(|keys| {
        for ((group, key), log) in keys {
            told += &format!("\n{}", torture::key_name(*group, *key));
            let mut events: Vec<_> = log.events.iter().collect();
            events.sort_by_key(|event| event.called);
            events.iter().for_each(|event| told += &format!("\n  {event:?}"));
        }
    });
    std::fs::write(&history, told).with_context(|| format!("write {}", history.display()))?;
    let image = rig.keep();
    eprintln!("testbed: kept {} (drives' images) and {}", image.display(), history.display());
    Ok(true)
}
