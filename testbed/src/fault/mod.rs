//! `testbed fault`: what may happen to a node, its drives and its links, on purpose. Each returns when it
//! is in effect.
//!
//! | module | holds |
//! |---|---|
//! | [`control`] | faults that the daemon itself brings about: drives that hang, links that are cut |
//! | [`rot`] | blocks of a drive's files that change by themselves |

mod control;
mod rot;

pub use rot::Area;

use std::{
    fs::{self, OpenOptions},
    io::{Seek as _, Write as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rand::RngCore as _;
use rustix::process::Signal;

use crate::{
    cluster::Cluster,
    process::{Process, spawn, wait_until},
    up::wait_ready,
};

/// Sled's files below a drive's path. The certificate beside them is left alone: what the drive must
/// notice is an index that is certified and wrong.
const INDEX_FOLDER: &str = "index/sled";

/// How long a node may take to do as it was told.
const PATIENCE: Duration = Duration::from_secs(60);

/// Do something to a node.
#[derive(clap::Args)]
pub struct Args {
    /// The folder given to `testbed up`.
    #[arg(long)]
    dir: PathBuf,
    #[command(subcommand)]
    fault: Fault,
}

/// Nodes and drives count from 1.
#[derive(clap::Subcommand, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL; returns when the process is gone.
    KillNode {
        /// The node.
        node: usize,
    },
    /// SIGTERM; returns when the node has drained and is gone.
    StopNode {
        /// The node.
        node: usize,
    },
    /// Start a node that does not run; returns when it is ready.
    StartNode {
        /// The node.
        node: usize,
    },
    /// SIGSTOP: the node hangs with its connections open.
    PauseNode {
        /// The node.
        node: usize,
    },
    /// SIGCONT after a pause.
    ResumeNode {
        /// The node.
        node: usize,
    },
    /// Write garbage over every file of a drive's sled directory.
    ScribbleIndex {
        /// The node.
        node: usize,
        /// The drive of that node.
        drive: usize,
    },
    /// Remove everything in a drive's folder; the node may run.
    WipeDrive {
        /// The node.
        node: usize,
        /// The drive of that node.
        drive: usize,
    },
    /// Make every call to a drive's files wait; the node runs, or will find it so.
    HangDrive {
        /// The node.
        node: usize,
        /// The drive of that node.
        drive: usize,
    },
    /// Let a drive that hangs go on.
    ResumeDrive {
        /// The node.
        node: usize,
        /// The drive of that node.
        drive: usize,
    },
    /// Flip a bit of, zero, or swap with another, blocks of a drive's files that hold something.
    Rot {
        /// The node.
        node: usize,
        /// The drive of that node.
        drive: usize,
        /// Blocks of 4 KiB.
        #[arg(long, default_value_t = 1)]
        count: usize,
        /// Which files.
        #[arg(long, value_enum, default_value_t = rot::Area::All)]
        area: rot::Area,
    },
    /// Cut the link between two nodes: nothing is refused, nothing arrives.
    CutLink {
        /// One node.
        node: usize,
        /// The other.
        other: usize,
    },
    /// Mend the link between two nodes.
    MendLink {
        /// One node.
        node: usize,
        /// The other.
        other: usize,
    },
}

/// Brings the fault into effect.
pub fn run(args: &Args) -> Result<()> {
    if let Some(told) = bring_about(&args.dir, args.fault)? {
        println!("{told}");
    }
    Ok(())
}

/// Brings a fault into effect in the cluster in `dir`; what there is to tell about it.
pub fn bring_about(dir: &Path, fault: Fault) -> Result<Option<String>> {
    match fault {
        Fault::ScribbleIndex { node, drive } => {
            let path = drive_path(dir, node, drive)?;
            let files = scribble(&path.join(INDEX_FOLDER))?;
            Ok(Some(format!("scribbled over {files} files of {}", path.display())))
        }
        Fault::WipeDrive { node, drive } => {
            let path = drive_path(dir, node, drive)?;
            wipe(&path)?;
            Ok(Some(format!("wiped {}", path.display())))
        }
        Fault::Rot { node, drive, count, area } => {
            let path = drive_path(dir, node, drive)?;
            let rotten = rot::rot(&path, area, count, &mut rand::rng())?;
            Ok(Some(format!("{rotten} blocks of {} are rotten", path.display())))
        }
        Fault::HangDrive { node, drive } => control::hang(dir, node, drive, true).map(|()| None),
        Fault::ResumeDrive { node, drive } => control::hang(dir, node, drive, false).map(|()| None),
        Fault::CutLink { node, other } => control::cut(dir, node, other, true).map(|()| None),
        Fault::MendLink { node, other } => control::cut(dir, node, other, false).map(|()| None),
        of_node => to_node(dir, of_node).map(|()| None),
    }
}

/// The folder of a drive.
fn drive_path(dir: &Path, node: usize, drive: usize) -> Result<PathBuf> {
    let cluster = Cluster::load(dir)?;
    let drives = &cluster.nodes[cluster.place(node)?].drives;
    let path = drive.checked_sub(1).and_then(|place| drives.get(place));
    let path = path.with_context(|| {
        format!("drive {drive} does not exist: node {node} has drives 1 to {}", drives.len())
    })?;
    Ok(path.clone())
}

/// Removes everything in a folder. A daemon that runs may make files meanwhile: it is gone over again
/// until it is empty.
fn wipe(folder: &Path) -> Result<()> {
    const ROUNDS: usize = 100;
    for _ in 0..ROUNDS {
        let mut found = false;
        for entry in fs::read_dir(folder).with_context(|| format!("wipe {}", folder.display()))? {
            let (path, kind) = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)))?;
            found = true;
            // What vanishes or fills again meanwhile is met in the next round.
            let _ = if kind.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        }
        if !found {
            return Ok(());
        }
    }
    bail!("{} fills faster than it is emptied", folder.display())
}

/// Faults of a whole node.
fn to_node(dir: &Path, fault: Fault) -> Result<()> {
    match fault {
        Fault::KillNode { node } => {
            let process = running(dir, node)?;
            process.kill()?;
            record_gone(dir, node, process)
        }
        Fault::StopNode { node } => {
            let process = running(dir, node)?;
            let drained = process.terminate(PATIENCE)?;
            record_gone(dir, node, process)?;
            if !drained {
                bail!("node {node} ignored SIGTERM for {} s and was killed", PATIENCE.as_secs());
            }
            Ok(())
        }
        Fault::StartNode { node } => start(dir, node),
        Fault::PauseNode { node } => {
            let process = running(dir, node)?;
            process.signal(Signal::STOP)?;
            expect(node, "stop", wait_until(PATIENCE, || process.is_stopped()))
        }
        Fault::ResumeNode { node } => {
            let process = running(dir, node)?;
            process.signal(Signal::CONT)?;
            expect(node, "go on", wait_until(PATIENCE, || !process.is_stopped()))
        }
        _ => unreachable!("drives and links are dealt with above"),
    }
}

fn expect(node: usize, what: &str, happened: bool) -> Result<()> {
    if !happened {
        bail!("node {node} did not {what} within {} s", PATIENCE.as_secs());
    }
    Ok(())
}

/// The process of a node that runs.
fn running(dir: &Path, node: usize) -> Result<Process> {
    let cluster = Cluster::load(dir)?;
    let process = cluster.nodes[cluster.place(node)?].process();
    let alive = process.filter(Process::is_alive);
    alive.with_context(|| format!("node {node} does not run: `start-node {node}` starts it"))
}

/// Records that `process` is gone, unless the node was started anew meanwhile.
fn record_gone(dir: &Path, node: usize, process: Process) -> Result<()> {
    Cluster::update(dir, |cluster| {
        let place = cluster.place(node)?;
        if cluster.nodes[place].process() == Some(process) {
            cluster.nodes[place].set_process(None);
        }
        Ok(())
    })
}

/// Starts a node with the arguments it had, and waits until it is ready. The lock is not held while
/// waiting: nodes that need each other to be ready may be started at the same time.
fn start(dir: &Path, node: usize) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let cluster = Cluster::update(dir, |cluster| {
        let place = cluster.place(node)?;
        if cluster.nodes[place].process().is_some_and(|process| process.is_alive()) {
            bail!("node {node} runs already (if it is paused, `resume-node {node}`)");
        }
        let (_, process) = spawn(cluster, &cluster.nodes[place])?;
        cluster.nodes[place].set_process(Some(process));
        Ok(cluster.clone())
    })?;
    wait_ready(&cluster, cluster.place(node)?, deadline)
}

/// Overwrites every file below `folder` with random bytes, keeping its length; how many there were.
fn scribble(folder: &Path) -> Result<usize> {
    let entries = fs::read_dir(folder).with_context(|| {
        format!("read {}: the drive has no index there (yet)", folder.display())
    })?;
    let mut files = 0;
    for entry in entries {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            files += scribble(&entry.path())?;
        } else if kind.is_file() {
            scribble_file(&entry.path())
                .with_context(|| format!("write {}", entry.path().display()))?;
            files += 1;
        }
    }
    Ok(files)
}

/// Random bytes over one file, on stable media when this returns.
fn scribble_file(path: &Path) -> Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    let mut left = file.metadata()?.len();
    file.rewind()?;
    let mut garbage = vec![0; 1 << 16];
    while left > 0 {
        rand::rng().fill_bytes(&mut garbage);
        let now = left.min(garbage.len() as u64);
        file.write_all(&garbage[..now as usize])?;
        left -= now;
    }
    file.sync_all()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::tests::example;

    /// A cluster whose "daemon" is a process that sleeps; it is never ready.
    fn sleeping(dir: &Path) -> Cluster {
        let mut cluster = example(dir);
        cluster.holdfastd = "/bin/sleep".into();
        for node in &mut cluster.nodes {
            node.args = vec!["60".to_owned()];
            fs::create_dir_all(&node.dir).expect("create");
        }
        cluster
    }

    fn fault(dir: &Path, fault: Fault) -> Result<()> {
        run(&Args { dir: dir.to_owned(), fault })
    }

    /// Goal: each fault does what it says and the file follows. Method: real processes; node 1 is
    /// paused, resumed, killed; node 2 is stopped while it is paused; faults on a node that does not
    /// run, or does not exist, are refused.
    #[test]
    fn faults_take_effect() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let dir = folder.path();
        let mut cluster = sleeping(dir);
        let mut children = Vec::new();
        for place in 0..2 {
            let (child, process) = spawn(&cluster, &cluster.nodes[place]).expect("sleep starts");
            cluster.nodes[place].set_process(Some(process));
            children.push(child);
        }
        cluster.store(dir).expect("store");
        let first = cluster.nodes[0].process().expect("started");
        fault(dir, Fault::PauseNode { node: 1 }).expect("pause");
        assert!(first.is_stopped());
        assert!(fault(dir, Fault::StartNode { node: 1 }).is_err(), "it runs");
        fault(dir, Fault::ResumeNode { node: 1 }).expect("resume");
        assert!(first.is_alive() && !first.is_stopped());
        fault(dir, Fault::KillNode { node: 1 }).expect("kill");
        assert!(!first.is_alive());
        assert_eq!(Cluster::load(dir).expect("load").nodes[0].pid, None);
        fault(dir, Fault::PauseNode { node: 2 }).expect("pause");
        fault(dir, Fault::StopNode { node: 2 }).expect("stop");
        assert_eq!(Cluster::load(dir).expect("load").nodes[1].pid, None);
        for gone in [Fault::KillNode { node: 1 }, Fault::ResumeNode { node: 2 }] {
            let error = fault(dir, gone).expect_err("nothing runs");
            assert!(error.to_string().contains("does not run"), "{error}");
        }
        assert!(fault(dir, Fault::KillNode { node: 3 }).is_err());
        for mut child in children {
            child.wait().expect("reap");
        }
    }

    /// Goal: `down` stops what runs, twice is no error. Method: one sleeping node.
    #[test]
    fn down_stops_what_runs() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let dir = folder.path();
        let mut cluster = sleeping(dir);
        let (mut child, process) = spawn(&cluster, &cluster.nodes[1]).expect("sleep starts");
        cluster.nodes[1].set_process(Some(process));
        cluster.store(dir).expect("store");
        for _ in 0..2 {
            crate::down::take_down(dir).expect("down");
            assert!(!process.is_alive());
            assert_eq!(Cluster::load(dir).expect("load").nodes[1].pid, None);
        }
        child.wait().expect("reap");
    }

    /// Goal: every byte of the index is garbage afterwards, nothing else is touched, and a missing
    /// index is an error. Method: a folder with files of several sizes, one in a folder below.
    #[test]
    fn scribbling_ruins_the_index_only() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let dir = folder.path();
        let cluster = example(dir);
        cluster.store(dir).expect("store");
        let drive = &cluster.nodes[1].drives[0];
        let error = fault(dir, Fault::ScribbleIndex { node: 2, drive: 1 }).expect_err("no index");
        assert!(format!("{error:#}").contains("no index"), "{error:#}");
        fs::create_dir_all(drive.join("index/sled/blobs")).expect("create");
        let files = [
            ("index/sled/db", 100_000),
            ("index/sled/blobs/1", 300),
            ("index/sled/conf", 0),
            ("index/certificate", 50),
        ];
        for (name, len) in files {
            fs::write(drive.join(name), vec![7; len]).expect("write");
        }
        fault(dir, Fault::ScribbleIndex { node: 2, drive: 1 }).expect("scribble");
        for (name, len) in files {
            let bytes = fs::read(drive.join(name)).expect("read");
            assert_eq!(bytes.len(), len);
            let kept = bytes.iter().filter(|byte| **byte == 7).count();
            let garbage = name.starts_with("index/sled");
            assert!(if garbage { kept <= len / 50 } else { kept == len }, "{name}: {kept} kept");
        }
        assert!(fault(dir, Fault::ScribbleIndex { node: 2, drive: 3 }).is_err());
        assert!(fault(dir, Fault::ScribbleIndex { node: 2, drive: 0 }).is_err());
    }
}
