//! `cluster.json`: what the commands know of a cluster, and all that is needed to start a node again.
//!
//! Commands may run at the same time (faults on several nodes, say): every change is made under a lock
//! on `cluster.lock` and becomes visible by a rename, so that readers never see half a file.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::process::Process;

/// Where a cluster's daemons look for faults that they are to bring about (docs/testbed.md).
pub const FAULTS_FOLDER: &str = "faults";

/// A cluster on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// S3 URLs in node order: `endpoints[0]` is node 1.
    pub endpoints: Vec<String>,
    /// The authorities (PEM) that the endpoints' certificates are of; `null` without TLS.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// Root credentials.
    pub access_key: String,
    /// Root credentials.
    pub secret_key: String,
    /// The daemon's binary.
    pub holdfastd: PathBuf,
    /// The daemons' environment beside what `testbed` was started with: credentials, cluster secret,
    /// and what `--env` gave.
    pub env: BTreeMap<String, String>,
    /// Nodes in order.
    pub nodes: Vec<Node>,
}

/// A node of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its process, `null` when it is not running.
    pub pid: Option<u32>,
    /// When that process started, in the kernel's ticks since boot: tells it from a later process that
    /// got the same pid.
    pub started: Option<u64>,
    /// Its folder: log and drives.
    pub dir: PathBuf,
    /// Its drives' paths: `drives[0]` is drive 1.
    pub drives: Vec<PathBuf>,
    /// The daemon's arguments.
    pub args: Vec<String>,
}

impl Node {
    /// Its process, if it was running when the file was written.
    pub fn process(&self) -> Option<Process> {
        Some(Process { pid: self.pid?, started: self.started? })
    }

    /// Records that it runs as `process`, or not at all.
    pub fn set_process(&mut self, process: Option<Process>) {
        self.pid = process.map(|process| process.pid);
        self.started = process.map(|process| process.started);
    }

    /// Where its daemon writes.
    pub fn log(&self) -> PathBuf {
        self.dir.join("log")
    }
}

impl Cluster {
    /// Where a cluster's facts are.
    pub fn file(dir: &Path) -> PathBuf {
        dir.join("cluster.json")
    }

    /// Reads the facts of the cluster in `dir`.
    pub fn load(dir: &Path) -> Result<Self> {
        let file = Self::file(dir);
        let bytes = fs::read(&file).with_context(|| {
            format!("read {}: no cluster here? `testbed up --dir` makes one", file.display())
        })?;
        serde_json::from_slice(&bytes).with_context(|| format!("read {}", file.display()))
    }

    /// Writes the facts: new file (readable by its owner only, for it holds secrets), then rename.
    pub fn store(&self, dir: &Path) -> Result<()> {
        let (file, new) = (Self::file(dir), dir.join("cluster.json.new"));
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut out = options.open(&new).with_context(|| format!("write {}", new.display()))?;
        serde_json::to_writer_pretty(&mut out, self)?;
        out.write_all(b"\n")?;
        fs::rename(&new, &file).with_context(|| format!("write {}", file.display()))
    }

    /// Reads, changes and writes the facts under the lock.
    pub fn update<T>(dir: &Path, change: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let _lock = lock(dir)?;
        let mut cluster = Self::load(dir)?;
        let result = change(&mut cluster)?;
        cluster.store(dir)?;
        Ok(result)
    }

    /// The place of node `number`, which counts from 1.
    pub fn place(&self, number: usize) -> Result<usize> {
        let count = self.nodes.len();
        if number == 0 || number > count {
            bail!("node {number} does not exist: nodes are 1 to {count}");
        }
        Ok(number - 1)
    }
}

/// Takes the lock of the cluster in `dir`; given back when the file is closed.
fn lock(dir: &Path) -> Result<File> {
    let path = dir.join("cluster.lock");
    let mut options = OpenOptions::new();
    let file = options.create(true).truncate(false).write(true).open(&path);
    let file = file.with_context(|| format!("lock {}", path.display()))?;
    flock(&file, FlockOperation::LockExclusive).context("lock cluster.lock")?;
    Ok(file)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A cluster of two nodes with two drives each, none running.
    pub(crate) fn example(dir: &Path) -> Cluster {
        let node = |n: usize| Node {
            pid: None,
            started: None,
            dir: dir.join(format!("node{n}")),
            drives: (1..=2).map(|m| dir.join(format!("node{n}/drive{m}"))).collect(),
            args: vec!["server".to_owned()],
        };
        Cluster {
            endpoints: vec!["http://127.0.0.1:1".to_owned(), "http://127.0.0.1:2".to_owned()],
            ca: None,
            access_key: "access".to_owned(),
            secret_key: "secret".to_owned(),
            holdfastd: "/bin/false".into(),
            env: BTreeMap::new(),
            nodes: vec![node(1), node(2)],
        }
    }

    /// Goal: the file has the fields that issue 3 promises to scripts. Method: look at the JSON.
    #[test]
    fn the_file_is_what_scripts_expect() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let mut cluster = example(dir.path());
        cluster.nodes[1].set_process(Some(Process { pid: 77, started: 1 }));
        cluster.store(dir.path()).expect("store");
        assert_eq!(Cluster::load(dir.path()).expect("load"), cluster);
        let text = fs::read_to_string(Cluster::file(dir.path())).expect("read");
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(json["endpoints"][1], "http://127.0.0.1:2");
        assert_eq!(
            (&json["access_key"], &json["secret_key"]),
            (&"access".into(), &"secret".into())
        );
        assert_eq!((&json["nodes"][0]["pid"], &json["nodes"][1]["pid"]), (&().into(), &77.into()));
        assert!(json["nodes"][1]["drives"][1].as_str().expect("path").ends_with("node2/drive2"));
    }

    /// Goal: changes made at the same time are all kept. Method: 8 threads, 20 changes each.
    #[test]
    fn simultaneous_changes_are_all_kept() {
        let dir = tempfile::tempdir().expect("temporary folder");
        example(dir.path()).store(dir.path()).expect("store");
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let dir = dir.path();
                scope.spawn(move || {
                    for i in 0..20 {
                        Cluster::update(dir, |cluster| {
                            cluster.env.insert(format!("{thread}-{i}"), String::new());
                            Ok(())
                        })
                        .expect("update");
                    }
                });
            }
        });
        assert_eq!(Cluster::load(dir.path()).expect("load").env.len(), 160);
    }

    /// Goal: nodes count from 1. Method: the edges.
    #[test]
    fn nodes_count_from_one() {
        let cluster = example(Path::new("/d"));
        assert_eq!(cluster.place(1).expect("first"), 0);
        assert_eq!(cluster.place(2).expect("last"), 1);
        assert!(cluster.place(0).is_err() && cluster.place(3).is_err());
    }
}
