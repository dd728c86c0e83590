//! `testbed reliability`: what issue after issue promised to survive, brought about and looked at, section by section;
//! and docs/reliability.md, made of what came of it.
//!
//! | module | holds |
//! |---|---|
//! | [`document`] | the document, made of reports |
//! | [`controls`] | the planted bugs, each in the test that must catch it |
//! | [`rebuild`] | drives wiped under load |
//! | [`rot`], [`victims`] | rotten blocks of live shards |
//! | [`hang`] | a drive that hangs, a node that is paused |
//! | [`load`] | a steady load and what its clients felt |
//! | [`home`] | a cluster for one section, and its objects |
//!
//! Torture and power cuts are commands of their own; here they are run as such. Each section leaves its reports in the
//! folder of the evidence and replaces those of its last run; the document is made of all that is there.

mod controls;
mod document;
mod hang;
mod home;
mod load;
mod rebuild;
mod rot;
mod victims;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value as Json;

/// Bring about what must be survived, and make docs/reliability.md of what came of it; exit status 1 on a violation,
/// or when a planted bug is not caught.
#[derive(Clone, clap::Args)]
pub struct Args {
    /// Sections to run, separated by commas; all by default.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Option<Vec<Section>>,
    /// Run nothing; print the document made of these reports, each the output of one command with --json.
    #[arg(long, num_args = 1.., conflicts_with_all = ["only", "evidence", "document"])]
    from: Vec<PathBuf>,
    /// Where the reports are kept.
    #[arg(long, default_value = "target/evidence")]
    evidence: PathBuf,
    /// Where the document goes; it is printed without.
    #[arg(long)]
    document: Option<PathBuf>,
    /// The commit that is measured; what git says by default.
    #[arg(long)]
    commit: Option<String>,
    /// Draws objects, blocks and loads.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// powercut: cuts of one drive; 0 leaves them out.
    #[arg(long, default_value_t = 200)]
    runs: u32,
    /// powercut: cuts of a whole cluster; 0 leaves them out.
    #[arg(long, default_value_t = 100)]
    cluster_runs: u32,
    /// torture: minutes of each seed.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// torture: the seeds, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "1,2,3,4,5,6")]
    seeds: Vec<u64>,
    /// rot: blocks of 4 KiB.
    #[arg(long, default_value_t = 10_000)]
    blocks: usize,
    /// rot: rounds, each with another drive of each node.
    #[arg(long, default_value_t = 4, value_parser = positive)]
    rounds: usize,
    /// rebuild: megabytes of objects.
    #[arg(long, default_value_t = 2_000)]
    megabytes: u64,
    /// rebuild: how many wipes: of one drive, of a second, of two at once.
    #[arg(long, default_value_t = 3)]
    wipes: usize,
    /// rebuild, hang: requests a second of the load.
    #[arg(long, default_value_t = 60)]
    rate: u32,
    /// rebuild, hang: seconds before and after that are measured.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// controls: which bugs, separated by commas; all by default.
    #[arg(long, value_delimiter = ',')]
    bugs: Option<Vec<String>>,
    /// Where clusters live; folders of their own that go afterwards by default.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The daemon's binary; beside this one by default.
    #[arg(long)]
    holdfastd: Option<PathBuf>,
    /// Print the reports as JSON instead of the document.
    #[arg(long)]
    json: bool,
}

fn positive(text: &str) -> Result<usize, String> {
    let number: usize = text.parse().map_err(|error| format!("{error}"))?;
    if number == 0 { Err("at least 1".to_owned()) } else { Ok(number) }
}

/// What can be run by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Section {
    /// Drives wiped under load.
    Rebuild,
    /// Power that goes, of one drive and of a whole cluster. Needs root.
    Powercut,
    /// Clients and faults, and a checker of all that was seen.
    Torture,
    /// Rotten blocks.
    Rot,
    /// A drive that hangs, a node that is paused.
    Hang,
    /// Planted bugs, each of which must be caught. Needs the binaries named *-sabotage (docs/testbed.md).
    Controls,
}

impl Section {
    const ALL: [Self; 6] =
        [Self::Rebuild, Self::Powercut, Self::Torture, Self::Rot, Self::Hang, Self::Controls];
}

/// Runs the sections and makes the document.
pub fn run(args: &Args) -> Result<ExitCode> {
    if !args.from.is_empty() {
        print!("{}", document::document(&read(&args.from)?, args.commit.as_deref())?);
        return Ok(ExitCode::SUCCESS);
    }
    fs::create_dir_all(&args.evidence)
        .with_context(|| format!("create {}", args.evidence.display()))?;
    let mut reports = Vec::new();
    for section in args.only.as_deref().unwrap_or(&Section::ALL) {
        reports.extend(section.run(args)?);
    }
    let fine = reports.iter().all(document::is_fine);
    let mut files = Vec::new();
    for entry in fs::read_dir(&args.evidence)? {
        files.push(entry?.path());
    }
    files.retain(|path| path.extension().is_some_and(|end| end == "json"));
    files.sort();
    let text = document::document(&read(&files)?, None)?;
    match &args.document {
        Some(path) => {
            fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
        }
        None if !args.json => print!("{text}"),
        None => {}
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&reports)?);
    }
    Ok(if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn read(files: &[PathBuf]) -> Result<Vec<Json>> {
    let report = |file: &PathBuf| {
        let text = fs::read(file).with_context(|| format!("read {}", file.display()))?;
        serde_json::from_slice(&text)
            .with_context(|| format!("read {}: not one JSON report", file.display()))
    };
    files.iter().map(report).collect()
}

impl Section {
    /// Runs it; its reports, which are kept.
    fn run(self, args: &Args) -> Result<Vec<Json>> {
        eprintln!("testbed: {self:?}");
        let mut reports = Vec::new();
        match self {
            Self::Rebuild => reports.push(keep(args, "rebuild", inside(rebuild::run(args))?)?),
            Self::Rot => reports.push(keep(args, "rot", inside(rot::run(args))?)?),
            Self::Hang => reports.push(keep(args, "hang", inside(hang::run(args))?)?),
            Self::Powercut => {
                let seed = args.seed.to_string();
                for (runs, more) in [(args.runs, None), (args.cluster_runs, Some("--cluster"))] {
                    if runs == 0 {
                        continue;
                    }
                    let runs = runs.to_string();
                    let mut line = vec!["powercut", "--runs", &runs, "--seed", &seed];
                    line.extend(more);
                    let name = if more.is_some() { "powercut-cluster" } else { "powercut" };
                    reports.push(keep(args, name, command(args, &line)?)?);
                }
            }
            Self::Torture => {
                let minutes = args.minutes.to_string();
                for seed in &args.seeds {
                    let seed = seed.to_string();
                    let line = ["torture", "--minutes", &minutes, "--seed", &seed];
                    let report = command(args, &line)?;
                    reports.push(keep(args, &format!("torture-{seed}"), report)?);
                }
            }
            Self::Controls => reports.extend(controls::run(args)?),
        }
        Ok(reports)
    }
}

/// Runs a section of this process to its end.
fn inside<T: serde::Serialize>(section: impl Future<Output = Result<T>>) -> Result<Json> {
    let report = tokio::runtime::Runtime::new()?.block_on(section)?;
    Ok(serde_json::to_value(report)?)
}

/// Runs another command of this program; its report.
fn command(args: &Args, line: &[&str]) -> Result<Json> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(line).arg("--json").stdin(Stdio::null());
    let cluster = line.contains(&"torture") || line.contains(&"--cluster");
    if let Some(holdfastd) = args.holdfastd.as_ref().filter(|_| cluster) {
        command.arg("--holdfastd").arg(holdfastd);
    }
    if let Some(dir) = &args.dir {
        command.arg("--dir").arg(dir.join(line.join("").replace(['-', '.'], "")));
    }
    let done = command.stderr(Stdio::inherit()).output()?;
    let report = serde_json::from_slice(&done.stdout);
    report.with_context(|| format!("testbed {}: no report, {}", line.join(" "), done.status))
}

/// Keeps a report, with the commit and the day.
fn keep(args: &Args, name: &str, mut report: Json) -> Result<Json> {
    let Some(fields) = report.as_object_mut() else { bail!("{name}: no report") };
    fields.insert("commit".to_owned(), args.commit.clone().or_else(commit).into());
    let day = time::OffsetDateTime::now_utc().date().to_string();
    fields.insert("day".to_owned(), day.into());
    let build = if cfg!(debug_assertions) { "debug" } else { "release" };
    fields.insert("build".to_owned(), build.into());
    let file = args.evidence.join(format!("{name}.json"));
    write(&file, &report)?;
    Ok(report)
}

fn write(file: &Path, report: &Json) -> Result<()> {
    fs::write(file, serde_json::to_vec_pretty(report)?)
        .with_context(|| format!("write {}", file.display()))
}

/// The commit of the checkout that this is run in, as git tells; marked when it has changes.
fn commit() -> Option<String> {
    let line = ["describe", "--always", "--dirty", "--exclude=*"];
    let told = Command::new("git").args(line).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(told.stdout).ok()?.trim().to_owned();
    (told.status.success() && !text.is_empty()).then_some(text)
}
