//! `testbed bench`: load with verified content, latencies to p99.99, the servers' CPU, memory and drive
//! bytes.
//!
//! | module | holds |
//! |---|---|
//! | [`content`] | what objects hold, and its verification |
//! | [`sign`], [`client`] | a small S3 client |
//! | [`prepare`] | what is there before a run |
//! | [`load`], [`mix`] | the workers, and what they do in a mixed run |
//! | [`servers`], [`timeline`] | CPU, memory and drive bytes of the servers, in all and over time |
//! | [`report`] | table and JSON |
//! | [`compare`] | two files of reports as ratios |
//! | [`index`] | one drive by hand: what object entries cost it |

use std::{
    io::IsTerminal as _,
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use holdfast_tls::{HTTP_1, roots};
use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};
use tokio_rustls::TlsConnector;

use self::{
    client::Target,
    content::Content,
    load::{Load, Objects, Operation, Progress},
    mix::Mix,
    report::Report,
    servers::Servers,
    sign::Credentials,
    timeline::Timeline,
    units::{parse_duration, parse_size, show_size},
};
use crate::cluster::Cluster;

pub mod ask;
pub mod client;
mod compare;
pub mod content;
mod index;
mod load;
mod mix;
mod prepare;
mod report;
mod servers;
pub mod sign;
#[cfg(test)]
mod tests;
mod timeline;
mod units;

/// Put load on a cluster, or compare what two loads gave.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Bench {
    #[command(subcommand)]
    other: Option<Other>,
    #[command(flatten)]
    load: Option<Args>,
}

#[derive(clap::Subcommand)]
enum Other {
    /// Compare two files of --json reports: B against A.
    Compare(compare::Args),
    /// Measure what object entries cost a drive, with sled and without.
    Index(index::Args),
}

/// Runs what was asked for.
pub fn command(bench: &Bench) -> Result<ExitCode> {
    match (&bench.other, &bench.load) {
        (Some(Other::Compare(args)), _) => compare::run(args).map(|()| ExitCode::SUCCESS),
        (Some(Other::Index(args)), _) => index::run(args),
        (None, Some(args)) => run(args),
        (None, None) => bail!("say what to do, as in `testbed bench put --dir D`"),
    }
}

/// Put load on a cluster. Exits with 1 when a request failed or an answer was wrong.
#[derive(clap::Args)]
pub struct Args {
    /// What to do.
    #[arg(value_enum)]
    operation: Operation,
    /// S3 endpoints, separated by commas; all of --dir's by default.
    #[arg(long, value_delimiter = ',')]
    endpoint: Vec<String>,
    /// A cluster of `testbed up`: endpoints, credentials and the servers' pids.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The authority (PEM) of https:// endpoints; --dir's by default, else those of the operating system.
    #[arg(long, env = "HOLDFAST_CA")]
    ca: Option<PathBuf>,
    /// Access key; --dir's by default.
    #[arg(long, env = "HOLDFAST_ROOT_USER")]
    access_key: Option<String>,
    /// Secret key; --dir's by default.
    #[arg(long, env = "HOLDFAST_ROOT_PASSWORD", hide_env_values = true)]
    secret_key: Option<String>,
    /// Region to sign for.
    #[arg(long, default_value = "us-east-1")]
    region: String,
    /// The servers' pids, separated by commas; --dir's by default.
    #[arg(long, value_delimiter = ',')]
    pids: Vec<u32>,
    /// Bytes of an object.
    #[arg(long, default_value = "10KiB", value_parser = parse_size)]
    size: u64,
    /// Objects. All but `put` write those that are missing before they begin.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    objects: u64,
    /// Requests at a time.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=4096))]
    concurrency: u16,
    /// Requests a second, each due at its time whether others are done or not (an open loop): latencies
    /// count from then. As fast as --concurrency allows when not given.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    rate: Option<u32>,
    /// Shares of a mixed run.
    #[arg(long, default_value = "get=70,put=25,stat=5")]
    mix: Mix,
    /// How often the servers are looked at during the run.
    #[arg(long, default_value = "1s", value_parser = parse_duration)]
    interval: Duration,
    /// How long; once over all objects (for `list`: once by each worker) when not given.
    #[arg(long, value_parser = parse_duration)]
    duration: Option<Duration>,
    /// Keys of one delete request; 1 is DeleteObject.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1000))]
    batch: u64,
    /// The bucket, made if it is not there.
    #[arg(long, default_value = "testbed")]
    bucket: String,
    /// Names the objects and their content.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Hash and sign bodies of PUTs, too.
    #[arg(long)]
    sign_payload: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the load and prints the report.
fn run(args: &Args) -> Result<ExitCode> {
    let runtime = tokio::runtime::Runtime::new()?;
    let report = runtime.block_on(measure(args))?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prepares, runs and measures.
async fn measure(args: &Args) -> Result<Report> {
    let cluster = args.dir.as_deref().map(Cluster::load).transpose()?;
    let targets = targets(args, cluster.as_ref())?;
    let mut load = load_of(args);
    let count = prepare::prepare(&load, &targets).await;
    load.objects.count = count.context("prepare the bucket")?;
    let servers = Arc::new(Servers::new(&pids(args, cluster.as_ref())));
    let progress = Arc::new(Progress::default());
    let bar = bar_of(&load, &progress);
    let timeline = Timeline::default();
    let every = args.interval.max(Duration::from_millis(10));
    let follow = (!servers.is_empty())
        .then(|| timeline.follow(Arc::clone(&servers), Arc::clone(&progress), every));
    let (before, begin) = (servers.usage(), Instant::now());
    let seen = load::run(&load, &targets, &progress).await;
    let (took, after) = (begin.elapsed(), servers.usage());
    bar.abort();
    follow.inspect(tokio::task::AbortHandle::abort);
    let cost = (!servers.is_empty()).then(|| servers.cost(before, after));
    Ok(Report::new(&load, seen, took, cost, timeline.points()))
}

fn load_of(args: &Args) -> Load {
    Load {
        operation: args.operation,
        objects: Objects {
            prefix: format!("{}/{}/", args.seed, show_size(args.size)),
            count: args.objects,
            size: args.size,
            content: Content::new(args.seed),
        },
        concurrency: args.concurrency.into(),
        duration: args.duration,
        batch: args.batch,
        rate: args.rate,
        mix: args.mix.clone(),
    }
}

/// The endpoints with the credentials for them.
fn targets(args: &Args, cluster: Option<&Cluster>) -> Result<Vec<Target>> {
    let of_cluster = || cluster.map(|cluster| cluster.endpoints.clone()).unwrap_or_default();
    let endpoints = if args.endpoint.is_empty() { of_cluster() } else { args.endpoint.clone() };
    if endpoints.is_empty() {
        bail!("no endpoint: give --endpoint http://HOST:PORT or --dir of a cluster");
    }
    let tls = match endpoints.iter().any(|endpoint| endpoint.starts_with("https://")) {
        true => Some(tls_of(args, cluster)?),
        false => None,
    };
    let key = |given: &Option<String>, of: fn(&Cluster) -> &String| {
        // What is given explicitly, the environment included, goes with explicit endpoints.
        let ours = cluster.map(of).cloned();
        if args.endpoint.is_empty() { ours } else { given.clone().or(ours) }
    };
    let missing = "no credentials: give --access-key and --secret-key or --dir of a cluster";
    let credentials = Arc::new(Credentials {
        access_key: key(&args.access_key, |cluster| &cluster.access_key).context(missing)?,
        secret_key: key(&args.secret_key, |cluster| &cluster.secret_key).context(missing)?,
        region: args.region.clone(),
    });
    let target = |endpoint: &String| {
        let split =
            endpoint.split_once("://").map(|(scheme, rest)| (scheme, rest.trim_end_matches('/')));
        let (scheme, authority) = split
            .filter(|(scheme, rest)| matches!(*scheme, "http" | "https") && !rest.contains('/'))
            .with_context(|| format!("{endpoint} is not http(s)://HOST:PORT"))?;
        Ok(Target {
            authority: authority.to_owned(),
            tls: tls.clone().filter(|_| scheme == "https"),
            bucket: args.bucket.clone(),
            credentials: Arc::clone(&credentials),
            sign_payload: args.sign_payload,
        })
    };
    endpoints.iter().map(target).collect()
}

/// TLS that trusts what was named, or what the cluster's certificates are of.
fn tls_of(args: &Args, cluster: Option<&Cluster>) -> Result<TlsConnector> {
    let of_cluster = cluster.and_then(|cluster| cluster.ca.as_deref());
    let ca = args.ca.as_deref().filter(|_| !args.endpoint.is_empty()).or(of_cluster);
    Ok(TlsConnector::from(roots::client_config(ca, &[HTTP_1])?))
}

fn pids(args: &Args, cluster: Option<&Cluster>) -> Vec<u32> {
    let of_cluster =
        || cluster.into_iter().flat_map(|cluster| cluster.nodes.iter().filter_map(|node| node.pid));
    if args.pids.is_empty() { of_cluster().collect() } else { args.pids.clone() }
}

/// A progress bar on a terminal, nothing elsewhere.
fn bar_of(load: &Load, progress: &Arc<Progress>) -> tokio::task::AbortHandle {
    const EVERY: Duration = Duration::from_millis(200);
    let (progress, begin) = (Arc::clone(progress), Instant::now());
    let duration = load.duration.map(|duration| duration.as_secs());
    let once = if load.operation == Operation::List { load.concurrency as u64 } else { 1 };
    let total = duration.unwrap_or(load.objects.count * once);
    let task = async move {
        if !std::io::stderr().is_terminal() {
            return;
        }
        let bar = ProgressBar::new(total).with_finish(ProgressFinish::AndClear);
        let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {msg}");
        bar.set_style(style.expect("the template is well formed"));
        loop {
            tokio::time::sleep(EVERY).await;
            let (done, seconds) = (progress.done.load(Ordering::Relaxed), begin.elapsed());
            bar.set_position(if duration.is_some() { seconds.as_secs() } else { done });
            bar.set_message(format!("{:.0} objects/s", done as f64 / seconds.as_secs_f64()));
        }
    };
    tokio::spawn(task).abort_handle()
}
