//! `testbed torture`: clients of every kind on a cluster of real daemons while faults come and go, and
//! a checker of everything they saw.
//!
//! | module | holds |
//! |---|---|
//! | [`plan`] | which faults, drawn from the seed |
//! | [`faults`] | brings them into effect |
//! | [`wiping`] | waits for what a wiped drive needs before and after |
//! | [`client`] | clients of objects |
//! | [`uploads`] | their multipart uploads, completed in the end |
//! | [`life`] | clients of buckets that come and go |
//! | [`book`] | what the clients did and saw |
//! | [`checker`] | whether one copy of the data could have answered so |
//! | [`settle`] | the end: full width, the same from every node, the check |

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use holdfast_types::{Quorum, sabotage};
use serde::Serialize;

pub use self::{
    book::key_name,
    client::{Shared, Worker},
    faults::start_all,
};

use self::plan::{Episode, Kind, Shape};
use crate::{
    bench::{client::Client, client::Target, sign::Credentials},
    cluster::Cluster,
    down, up,
};

mod book;
mod checker;
mod client;
mod faults;
mod life;
mod plan;
pub mod settle;
mod uploads;
mod wiping;

/// The bucket of the objects.
const BUCKET: &str = "torture";

/// Torture a 4 x 4 cluster of real daemons; exit status 1 on a violation.
#[derive(clap::Args)]
pub struct Args {
    /// How long clients work.
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// Draws faults and operations.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Clients of objects.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=256))]
    clients: u64,
    /// Kinds of faults, separated by commas; all by default.
    #[arg(long, value_enum, value_delimiter = ',')]
    faults: Option<Vec<Kind>>,
    /// Where the cluster lives; a folder of its own that goes afterwards by default.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The daemon's binary; beside this one by default.
    #[arg(long)]
    holdfastd: Option<PathBuf>,
    /// A bug to plant, or `list`. Needs `holdfastd-sabotage` beside this binary: a copy of the daemon
    /// built with `--features sabotage`.
    #[arg(long)]
    sabotage: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What a run came to.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Always `torture`.
    pub kind: &'static str,
    /// The seed.
    pub seed: u64,
    /// How long clients worked.
    pub minutes: f64,
    /// The planted bug, if any.
    pub sabotage: Option<String>,
    /// Requests that reached a server, or may have.
    pub operations: u64,
    /// Those whose answer says what happened; each is in a history that was checked.
    pub checked: u64,
    /// Those refused with 503 by a server that says why; checked as if they might still take effect.
    pub refused: u64,
    /// Those whose outcome nobody knows; checked as if they might still take effect.
    pub unknown: u64,
    /// `unknown` in percent of `operations`.
    pub unknown_percent: f64,
    /// Events of the histories: a list is one for each key it covers.
    pub events: usize,
    /// Keys.
    pub keys: usize,
    /// Buckets that came and went.
    pub bucket_lives: usize,
    /// Faults brought about, by kind.
    pub faults: faults::Done,
    /// Seconds from the last fault to full width: after the scrubs.
    pub full_width_seconds: f64,
    /// The scrubs of all drives at the end.
    pub scrub: settle::Scrubbed,
    /// Why there was no answer that says what happened: how often.
    pub causes: std::collections::BTreeMap<String, u64>,
    /// What must not be.
    pub violations: Vec<String>,
}

/// Runs the torture and prints the report.
pub fn run(args: &Args) -> Result<ExitCode> {
    if args.sabotage.as_deref() == Some("list") {
        print_bugs();
        return Ok(ExitCode::SUCCESS);
    }
    let (dir, passing) = match &args.dir {
        Some(dir) => (dir.clone(), false),
        None => {
            (std::env::temp_dir().join(format!("holdfast-torture-{}", std::process::id())), true)
        }
    };
    let (_, dir, _) = up::bring_up(&up_args(args, &dir)?)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let report = runtime.block_on(torture(args, &dir));
    down::take_down(&dir)?;
    let report = report?;
    if passing && report.violations.is_empty() {
        std::fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))?;
    } else if passing {
        eprintln!("testbed: logs and drives stay in {}", dir.display());
    }
    show(args, &report)?;
    Ok(if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print_bugs() {
    for (_, name, what) in sabotage::BUGS {
        println!("{name}: {what}");
    }
}

fn up_args(args: &Args, dir: &Path) -> Result<up::Args> {
    let mut up = up::Args::detached(dir, args.holdfastd.clone());
    if let Some(name) = &args.sabotage {
        sabotage::named(name)
            .with_context(|| format!("no bug is called {name}: see --sabotage list"))?;
        if up.holdfastd.is_none() {
            up.holdfastd = Some(std::env::current_exe()?.with_file_name("holdfastd-sabotage"));
        }
        up.env.push(("HOLDFAST_SABOTAGE".to_owned(), name.clone()));
    }
    Ok(up)
}

fn show(args: &Args, report: &Report) -> Result<()> {
    if args.json {
        println!("{}", serde_json::to_string_pretty(report)?);
        return Ok(());
    }
    let Report { operations, checked, refused, unknown, unknown_percent, events, keys, .. } =
        report;
    println!(
        "seed {}: {operations} operations, {checked} checked, {refused} refused, {unknown} unknown \
         ({unknown_percent:.2} %), {keys} keys, {events} events; faults {:?}; full width after {:.1} s",
        report.seed, report.faults, report.full_width_seconds
    );
    println!("{} violations", report.violations.len());
    Ok(())
}

/// The nodes of a cluster, for clients of the torture's bucket.
pub fn targets(cluster: &Cluster) -> Result<Vec<Target>> {
    let credentials = Arc::new(Credentials {
        access_key: cluster.access_key.clone(),
        secret_key: cluster.secret_key.clone(),
        region: "us-east-1".to_owned(),
    });
    let target = |endpoint: &String| {
        let authority = endpoint.strip_prefix("http://");
        let authority = authority.with_context(|| format!("{endpoint} is not http://HOST:PORT"))?;
        Ok(Target {
            authority: authority.to_owned(),
            tls: None,
            bucket: BUCKET.to_owned(),
            credentials: credentials.clone(),
            sign_payload: true,
        })
    };
    cluster.endpoints.iter().map(target).collect()
}

fn schedule(args: &Args, cluster: &Cluster, millis: u64) -> Result<Vec<Episode>> {
    let drives = cluster.nodes.iter().map(|node| node.drives.len()).max().unwrap_or(0);
    let nodes = cluster.nodes.len();
    let set = u8::try_from(nodes * drives).ok().filter(|n| (2..=16).contains(n));
    let Some(set) = set else { bail!("the schedule is made for one set of up to 16 drives") };
    let shape = Shape { nodes, drives, away: Quorum::of(set).away().into() };
    let kinds = args.faults.clone().unwrap_or_else(|| plan::DEFAULT.to_vec());
    Ok(plan::plan(args.seed, millis, shape, &kinds))
}

/// Creates the bucket of the objects. Nodes that have only just found each other may refuse for a moment.
pub async fn create_bucket(client: &mut Client) -> Result<()> {
    const TRIES: usize = 50;
    for _ in 1..TRIES {
        if client.create_bucket().await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    client.create_bucket().await.context("create the bucket")
}

async fn torture(args: &Args, dir: &Path) -> Result<Report> {
    let cluster = Cluster::load(dir)?;
    let targets = targets(&cluster)?;
    let mut first = Client::new(targets[0].clone());
    create_bucket(&mut first).await?;
    let shared = Arc::new(Shared::new(args.seed, targets));
    let length = Duration::from_secs_f64(args.minutes * 60.0);
    let episodes = schedule(args, &cluster, length.as_millis() as u64)?;
    let end = Instant::now() + length;
    let nodes = cluster.nodes.len();
    let faults = tokio::spawn(faults::run(dir.to_owned(), episodes, nodes, shared.clone(), end));
    let workers: Vec<_> = (0..args.clients)
        .map(|number| tokio::spawn(Worker::new(shared.clone(), args.seed, number).work(end)))
        .collect();
    let lives = tokio::spawn(life::live(shared.clone(), args.seed, end));
    for worker in workers {
        worker.await.context("a client")?;
    }
    let (faults, bucket_lives) = (faults.await?, lives.await?);
    let counts = shared.book.counts();
    settle::finish_uploads(&shared, args.seed).await;
    let scrub = settle::scrub_to_full_width(&shared).await;
    settle::read_all(&shared, args.seed).await;
    let keys = shared.book.keys().len();
    let events = settle::check_all(&shared);
    Ok(Report {
        kind: "torture",
        seed: args.seed,
        minutes: args.minutes,
        sabotage: args.sabotage.clone(),
        operations: counts.operations,
        checked: counts.checked,
        refused: counts.refused,
        unknown: counts.unknown,
        unknown_percent: 100.0 * counts.unknown as f64 / counts.operations.max(1) as f64,
        events,
        keys,
        bucket_lives,
        faults,
        full_width_seconds: scrub.seconds,
        scrub,
        causes: shared.book.causes(),
        violations: shared.book.violations(),
    })
}
