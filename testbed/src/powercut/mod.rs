//! `testbed powercut`: power that goes while writers are at work, on real XFS, and everything that was
//! acknowledged looked for when it is back.
//!
//! | module | holds |
//! |---|---|
//! | [`rig`] | drives under a write cache that forgets, and the cut |
//! | [`ledger`] | what was acknowledged, and what must therefore be shown |
//! | [`drive`], [`writer`] | the product's drive in a process of its own that dies with the power |
//! | [`disk`] | builds that are wrong on purpose |
//! | [`cluster`] | the same for a cluster of real daemons, cut at once |

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use holdfast_types::sabotage::Bug;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use self::{
    disk::Skipped,
    ledger::{Ledger, Shown, Step},
    rig::Rig,
};

mod cluster;
mod disk;
mod drive;
mod ledger;
mod rig;
pub mod writer;

/// Cut the power of a drive, or of a whole cluster, under load; exit status 1 on a violation.
#[derive(clap::Args)]
pub struct Args {
    /// Cuts.
    #[arg(long, default_value_t = 10)]
    runs: u32,
    /// Draws operations and moments.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A 4 x 4 cluster of real daemons, all drives cut at once.
    #[arg(long)]
    cluster: bool,
    /// With --cluster: so many of 100 operations are small multipart uploads, besides those of the usual mix.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100))]
    uploads: u32,
    /// The daemon's binary, for --cluster; beside this one by default.
    #[arg(long)]
    holdfastd: Option<PathBuf>,
    /// A bug to plant, or `list`. The runs end when it is caught.
    #[arg(long)]
    sabotage: Option<String>,
    /// Where images and folders lie; a folder of its own that goes afterwards by default.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What the cuts came to.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// `powercut` or `powercut-cluster`.
    pub kind: &'static str,
    /// The seed.
    pub seed: u64,
    /// Cuts.
    pub runs: u32,
    /// Acknowledged records looked for after cuts (for a cluster: events of the histories checked).
    pub checked: u64,
    /// Entries read back with all their bytes (for a cluster: requests).
    pub read: u64,
    /// The planted bug, if any.
    pub sabotage: Option<String>,
    /// Why nothing was run, if nothing was.
    pub skipped: Option<String>,
    /// What must not be.
    pub violations: Vec<String>,
}

/// A positive control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// A sync is left out, at the device seam.
    Skips(Skipped),
    /// A bug compiled into the product by the feature `sabotage`.
    Planted(Bug),
}

/// All controls of a single drive.
const CONTROLS: [(&str, Control, &str); 3] = [
    ("skip-log-sync", Control::Skips(Skipped::Log), "no fdatasync of the log"),
    ("skip-volume-sync", Control::Skips(Skipped::Volumes), "no fdatasync of the volumes"),
    (
        "extent-reused-early",
        Control::Planted(Bug::ExtentReusedEarly),
        "an extent is reused before the record that dropped it is durable",
    ),
];

impl Control {
    /// The control called `name`.
    pub fn named(name: &str) -> Result<Self> {
        let found = CONTROLS.iter().find(|(known, ..)| *known == name);
        let found =
            found.with_context(|| format!("no bug is called {name}: see --sabotage list"))?;
        Ok(found.1)
    }

    /// Plants it in this process; which syncs are to be left out.
    pub fn plant(self) -> Result<Option<Skipped>> {
        match self {
            Self::Skips(skipped) => Ok(Some(skipped)),
            Self::Planted(bug) => {
                plant(bug)?;
                Ok(None)
            }
        }
    }
}

#[cfg(feature = "sabotage")]
#[allow(clippy::unnecessary_wraps)]
fn plant(bug: Bug) -> Result<()> {
    holdfast_types::sabotage::plant(bug);
    Ok(())
}

#[cfg(not(feature = "sabotage"))]
fn plant(bug: Bug) -> Result<()> {
    bail!("{bug:?} needs a build with `--features sabotage`")
}

/// Cuts and prints what came of it.
pub fn run(args: &Args) -> Result<ExitCode> {
    if args.sabotage.as_deref() == Some("list") {
        CONTROLS.iter().for_each(|(name, _, what)| println!("{name}: {what}"));
        return Ok(ExitCode::SUCCESS);
    }
    let report = match rig::missing() {
        Some(why) => Report { skipped: Some(why), ..empty(args) },
        None => {
            let passing =
                std::env::temp_dir().join(format!("holdfast-power-{}", std::process::id()));
            let dir = args.dir.clone().unwrap_or_else(|| passing.clone());
            std::fs::create_dir_all(&dir)?;
            let dir = std::fs::canonicalize(&dir)?;
            let report = if args.cluster { cluster::cuts(args, &dir) } else { cuts(args, &dir) };
            if args.dir.is_none()
                && report
                    .as_ref()
                    .is_ok_and(|report| report.violations.is_empty() || args.sabotage.is_some())
            {
                let _ = std::fs::remove_dir_all(&passing);
            }
            report?
        }
    };
    show(args, &report)?;
    Ok(if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn empty(args: &Args) -> Report {
    let kind = if args.cluster { "powercut-cluster" } else { "powercut" };
    Report { kind, seed: args.seed, sabotage: args.sabotage.clone(), ..Report::default() }
}

fn show(args: &Args, report: &Report) -> Result<()> {
    if args.json {
        println!("{}", serde_json::to_string_pretty(report)?);
    } else if let Some(why) = &report.skipped {
        println!("skipped: {why}");
    } else {
        let Report { runs, checked, read, violations, .. } = report;
        println!("{runs} cuts, {checked} checked, {read} read, {} violations", violations.len());
    }
    Ok(())
}

/// Cuts the power of one drive, again and again.
fn cuts(args: &Args, dir: &Path) -> Result<Report> {
    if let Some(name) = &args.sabotage {
        Control::named(name)?;
    }
    let mut report = empty(args);
    let mut random = ChaCha8Rng::seed_from_u64(args.seed);
    let folder = dir.join("drive");
    let mut rig = Rig::new(dir, vec![folder.clone()])?;
    let mut ledger = Ledger::default();
    for number in 0..args.runs {
        let life = Life { args, folder: &folder, seed: random.random(), look: false };
        let length = Duration::from_millis(random.random_range(150..1_500));
        let cut = || {
            std::thread::sleep(length);
            rig.cut(&mut random)
        };
        life.live(&mut ledger, &mut report, cut)?;
        report.runs = number + 1;
        rig.restore()?;
        if report.runs.is_multiple_of(10) {
            eprintln!("testbed: {} cuts, {} checked", report.runs, report.checked);
        }
        if !report.violations.is_empty() {
            return Ok(report);
        }
    }
    // What the last cut left.
    let life = Life { args, folder: &folder, seed: 0, look: true };
    life.live(&mut ledger, &mut report, || Ok(()))?;
    Ok(report)
}

/// One life of a drive, from its opening to the cut.
struct Life<'a> {
    args: &'a Args,
    folder: &'a Path,
    seed: u64,
    look: bool,
}

impl Life<'_> {
    /// The writer is ready when it has shown everything; then `cut` waits and cuts. Whatever the writer
    /// says until it is gone goes into the ledger.
    fn live(
        &self,
        ledger: &mut Ledger,
        report: &mut Report,
        cut: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let first = ledger.ops.keys().next_back().map_or(1, |last| last + 1_000);
        let mut command = Command::new(self.program()?);
        command.arg("powercut-drive").arg("--path").arg(self.folder);
        command.arg("--seed").arg(self.seed.to_string()).arg("--first").arg(first.to_string());
        if let Some(name) = &self.args.sabotage {
            command.arg("--sabotage").arg(name);
        }
        if self.look {
            command.arg("--look");
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let ready = look(&mut lines, ledger, report);
        if !ready {
            child.wait()?;
            report.violations.push(format!("after {} cuts the drive does not open", report.runs));
            return Ok(());
        }
        if self.look {
            child.wait()?;
            return Ok(());
        }
        let heard = std::thread::spawn(move || {
            let lines = lines.map_while(Result::ok);
            lines.filter_map(|line| line.parse::<Step>().ok()).collect::<Vec<_>>()
        });
        let done = cut();
        child.kill()?;
        child.wait()?;
        heard
            .join()
            .expect("listening does not panic")
            .into_iter()
            .for_each(|step| ledger.note(step));
        done
    }

    /// This program; with a bug compiled in, its sibling that has it.
    fn program(&self) -> Result<PathBuf> {
        let this = std::env::current_exe()?;
        let planted = match &self.args.sabotage {
            Some(name) => matches!(Control::named(name)?, Control::Planted(_)),
            None => false,
        };
        let sibling = this.with_file_name("testbed-sabotage");
        if planted && !cfg!(feature = "sabotage") {
            if !sibling.exists() {
                bail!("this bug needs {}: a build with `--features sabotage`", sibling.display());
            }
            return Ok(sibling);
        }
        Ok(this)
    }
}

/// Listens to what a drive shows, and compares it with the ledger. Whether it showed everything.
fn look(
    lines: &mut impl Iterator<Item = std::io::Result<String>>,
    ledger: &mut Ledger,
    report: &mut Report,
) -> bool {
    let mut shown: Vec<(u64, Shown)> = Vec::new();
    loop {
        let Some(Ok(line)) = lines.next() else { return false };
        if line == "ready" {
            break;
        }
        shown.extend(writer::read_shows(&line));
    }
    report.read += shown.len() as u64;
    for key in writer::keys() {
        let of_key: Vec<Shown> =
            shown.iter().filter(|(of, _)| *of == key).map(|(_, shown)| *shown).collect();
        match ledger.check(key, &of_key) {
            Ok(checked) => report.checked += checked as u64,
            Err(what) => {
                eprintln!("testbed: VIOLATION after {} cuts: {what}", report.runs);
                report.violations.push(what);
            }
        }
        ledger.rebase(key, &of_key);
    }
    true
}
