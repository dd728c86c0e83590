//! Drives that are wiped: four nodes with two drives each, one set of eight.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use crate::{
    client::{Client, patiently},
    node::{Node, free_port},
};

const NODES: usize = 4;

/// Longer than a rebuild takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

struct Cluster {
    dir: tempfile::TempDir,
    ports: Vec<u16>,
    nodes: Vec<Option<Node>>,
}

impl Cluster {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let ports: Vec<u16> = (0..NODES).map(|_| free_port()).collect();
        let mut cluster = Self { dir, ports, nodes: Vec::new() };
        cluster.nodes = (0..NODES).map(|n| Some(cluster.node(n))).collect();
        cluster.nodes.iter_mut().flatten().for_each(|node| {
            node.wait_ready();
        });
        cluster
    }

    fn node(&self, n: usize) -> Node {
        let place = |(n, port): (usize, &u16)| {
            let root = self.dir.path().display().to_string();
            (0..2).map(move |d| format!("http://127.0.0.1:{}{root}/n{n}/d{d}", *port)).collect()
        };
        let volumes: Vec<Vec<String>> = self.ports.iter().enumerate().map(place).collect();
        let mut args = vec!["server", "--allow-root-disk"];
        args.extend(volumes.iter().flatten().map(String::as_str));
        Node::start_with_keys(self.dir.path(), self.ports[n], &args)
    }

    fn client(&self, n: usize) -> Client {
        Client::new(self.nodes[n].as_ref().expect("it runs").address)
    }

    fn drive(&self, n: usize, d: usize) -> PathBuf {
        self.dir.path().join(format!("n{n}/d{d}"))
    }

    /// Waits until a drive has another identity than `old` and every drive of the cluster is healthy.
    fn wait_rebuilt(&self, drive: &Path, old: &[u8]) {
        let begun = Instant::now();
        let mut last = String::new();
        while begun.elapsed() < PATIENCE {
            let fresh = fs::read(drive.join("identity")).is_ok_and(|identity| identity != old);
            let (_, drives) = self.client(0).request("GET", "/_admin/v1/drives", b"");
            last = String::from_utf8_lossy(&drives).into_owned();
            if fresh && last.matches("\"state\":\"healthy\"").count() == 2 * NODES {
                return;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        panic!("{} is not rebuilt: {last}", drive.display());
    }
}

fn wipe(drive: &Path) {
    for entry in fs::read_dir(drive).expect("a folder").flatten() {
        let path = entry.path();
        let gone = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        gone.expect("removed");
    }
}

fn body(n: usize) -> Vec<u8> {
    let len = if n.is_multiple_of(8) { 700_000 + n } else { 9_000 + n };
    (0..len).map(|at| (at * 31 + n * 7 + at / 251) as u8).collect()
}

/// Puts objects through the first node until told to stop; how many were acknowledged, each in turn.
fn write(client: &Client, stop: &AtomicBool) -> usize {
    let mut count = 0;
    while !stop.load(Ordering::SeqCst) || count < 40 {
        let (status, answer) = patiently(client, "PUT", &format!("/wiped/o{count}"), &body(count));
        assert_eq!(status, 200, "o{count}: {}", String::from_utf8_lossy(&answer));
        count += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    count
}

/// Goal: a drive that was wiped is taken in again by itself, under load, and so is a second one of the
/// same set: every object whole from every node, every shard there. Method: one is wiped while its node is
/// stopped, the other under a running node; a writer all the while.
#[test]
fn two_wiped_drives_of_a_set_are_rebuilt_under_load() {
    let mut cluster = Cluster::start();
    assert_eq!(patiently(&cluster.client(0), "PUT", "/wiped", b"").0, 200);
    let (writer, stop) = (cluster.client(0), AtomicBool::new(false));
    let written = std::thread::scope(|scope| {
        let writing = scope.spawn(|| write(&writer, &stop));
        std::thread::sleep(Duration::from_secs(2));
        let first = cluster.drive(1, 0);
        let old = fs::read(first.join("identity")).expect("formatted");
        cluster.nodes[1].take().expect("it runs").kill();
        wipe(&first);
        let mut again = cluster.node(1);
        again.wait_ready();
        cluster.nodes[1] = Some(again);
        cluster.wait_rebuilt(&first, &old);

        let second = cluster.drive(2, 1);
        let old = fs::read(second.join("identity")).expect("formatted");
        wipe(&second);
        cluster.wait_rebuilt(&second, &old);
        stop.store(true, Ordering::SeqCst);
        writing.join().expect("the writer ends well")
    });
    for n in 0..NODES {
        for object in 0..written {
            let got = patiently(&cluster.client(n), "GET", &format!("/wiped/o{object}"), b"");
            assert!(got == (200, body(object)), "node {n}, o{object}: {}", got.0);
        }
    }
    for object in 0..written {
        full_width(&cluster, &format!("/_admin/v1/object?bucket=wiped&key=o{object}"));
    }
    let (_, second) = (cluster.drive(1, 0), cluster.drive(2, 1));
    let layout = fs::read_to_string(second.join("layout")).expect("every drive has the layout");
    assert!(!layout.contains("\"rebuilding\": true"), "{layout}");
}

/// Waits until an object's shards are all there: what was written while a drive was away is healed.
fn full_width(cluster: &Cluster, path: &str) {
    let begun = Instant::now();
    loop {
        let (status, view) = cluster.client(3).request("GET", path, b"");
        let view = String::from_utf8_lossy(&view).into_owned();
        if status == 200 && view.matches("\"state\":\"present\"").count() == 2 * NODES {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{path}: {status} {view}");
        std::thread::sleep(Duration::from_millis(200));
    }
}
