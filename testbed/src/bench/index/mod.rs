//! `testbed bench index`: what object entries cost a drive, with sled and without, at any number of them.
//!
//! It runs the product's own drive on real files, without network or threads of its own: the requests
//! are the ones of a node, its background jobs run in between, on the same thread. Names and operations
//! follow from a number, so that memory is the drive's and not the benchmark's.
//!
//! ```text
//! grow     format, write all entries in scattered order, make a queue of repairs and work it off   (a process)
//! restart  drop the page cache of its files, open, look up cold, warm, absent, list, delete        (another)
//! below    the runs and the index under the drive, asked for the same; the index built anew        (another)
//! ```
//!
//! Each step is a process of its own, so that what it holds in memory is what a drive holds there.
//!
//! | module | holds |
//! |---|---|
//! | [`entries`] | the object with a number |
//! | [`subject`] | the drive, and what its threads would do |
//! | [`meter`] | CPU, memory, bytes on disk, latencies |
//! | [`grow`], [`restart`], [`below`] | the steps |
//! | [`report`] | what they found, as table and JSON |

use std::{
    fs,
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use holdfast_drive::meta_index::{IndexBackend, keeper::IndexContent};
use serde::de::DeserializeOwned;

use super::units::parse_duration;
use report::{Below, Grown, Report, Restarted};

mod below;
mod entries;
mod grow;
mod meter;
mod report;
mod restart;
mod subject;
#[cfg(test)]
mod tests;

/// Measure what object entries cost a drive: insert, look up, list, restart, reindex.
#[derive(clap::Args, Clone)]
pub struct Args {
    /// Object entries.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1_000..=1_000_000_000))]
    entries: u64,
    /// Where object entries are kept.
    #[arg(long, value_enum, default_value_t = Kept::Runs)]
    index: Kept,
    /// An empty or new folder for the drive; on the file system to be measured.
    #[arg(long)]
    dir: PathBuf,
    /// Stop inserting after this time and measure what is there by then.
    #[arg(long, default_value = "20m", value_parser = parse_duration)]
    time: Duration,
    /// Look-ups of each kind.
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u64).range(100..=10_000_000))]
    lookups: u64,
    /// Repairs that are recorded and worked off, all but every hundredth.
    #[arg(long, default_value_t = 100_000)]
    repairs: u64,
    /// Leave the drive's files.
    #[arg(long)]
    keep: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// The step to run, in a process of its own.
    #[arg(long, hide = true)]
    step: Option<Step>,
}

/// What sled holds. The runs always hold everything.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kept {
    /// There is no sled at all.
    Off,
    /// What the product does: uploads, repair records and facts in sled, object entries in the runs alone.
    Runs,
    /// Object entries in sled, too.
    Sled,
}

impl Kept {
    const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Runs => "runs",
            Self::Sled => "sled",
        }
    }

    /// How the drive in `root` keeps its index then.
    fn backend(self, root: &std::path::Path) -> (IndexBackend, IndexContent) {
        // A minute: a machine that others work on, too, is no hang.
        let patience = Duration::from_secs(60);
        let sled = IndexBackend::Sled { root: root.to_owned(), patience };
        match self {
            Self::Off => (IndexBackend::Off, IndexContent::Few),
            Self::Runs => (sled, IndexContent::Few),
            Self::Sled => (sled, IndexContent::All),
        }
    }
}

#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Grow,
    Restart,
    Below,
}

/// Runs the steps, each in a process of its own, and prints what they found.
pub fn run(args: &Args) -> Result<ExitCode> {
    if let Some(step) = args.step {
        return one_step(args, step);
    }
    fs::create_dir_all(&args.dir).with_context(|| format!("make {}", args.dir.display()))?;
    if fs::read_dir(&args.dir)?.next().is_some() {
        bail!("{} is not empty: name a new folder", args.dir.display());
    }
    let grown: Grown = in_process(args, Step::Grow, args.entries)?;
    let restarted: Restarted = in_process(args, Step::Restart, grown.entries)?;
    let below: Below = in_process(args, Step::Below, grown.entries)?;
    let report = Report { index: args.index.name().to_owned(), grown, restarted, below };
    if !args.keep {
        fs::remove_dir_all(&args.dir)?;
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs one step as a process: the same command with the step named.
fn in_process<T: DeserializeOwned>(args: &Args, step: Step, entries: u64) -> Result<T> {
    let name = format!("{step:?}").to_lowercase();
    eprintln!("testbed: {name}, {entries} entries, index {}", args.index.name());
    let child = Command::new(std::env::current_exe()?)
        .args(["bench", "index", "--step", &name, "--index", args.index.name()])
        .args(["--entries", &entries.to_string(), "--lookups", &args.lookups.to_string()])
        .args(["--repairs", &args.repairs.to_string()])
        .args(["--time", &format!("{}ms", args.time.as_millis())])
        .arg("--dir")
        .arg(&args.dir)
        .stdout(Stdio::piped())
        .output()
        .with_context(|| format!("start the step {name}"))?;
    if !child.status.success() {
        bail!("the step {name} failed: {}", String::from_utf8_lossy(&child.stderr));
    }
    serde_json::from_slice(&child.stdout).with_context(|| format!("read what {name} found"))
}

fn one_step(args: &Args, step: Step) -> Result<ExitCode> {
    let found = match step {
        Step::Grow => serde_json::to_string(&grow::run(args)?),
        Step::Restart => serde_json::to_string(&restart::run(args)?),
        Step::Below => serde_json::to_string(&below::run(args)?),
    };
    println!("{}", found?);
    Ok(ExitCode::SUCCESS)
}
