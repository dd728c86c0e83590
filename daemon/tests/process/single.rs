//! A single node.

use std::{
    fs,
    time::{Duration, Instant},
};

use crate::{
    client::{Client, get, patiently},
    node::{Node, free_port},
};

const TEN_SECONDS: Duration = Duration::from_secs(10);

/// Longer than a small drive takes to be rebuilt on a busy machine.
const REBUILT_IN: Duration = Duration::from_secs(60);

fn body(seed: u8, length: usize) -> Vec<u8> {
    (0..length).map(|n| (n as u8).wrapping_mul(31).wrapping_add(seed)).collect()
}

/// Goal: `holdfastd` without arguments is a working store whose objects survive SIGTERM and SIGKILL.
/// Method: put a small and a larger object, end it either way, start it again, get them.
#[test]
fn without_arguments_it_serves_and_keeps_what_it_acknowledged() {
    let dir = tempfile::tempdir().expect("a folder");
    let port = free_port();
    let start = || {
        let mut node = Node::start(dir.path(), port, &[], &[]);
        let took = node.wait_ready();
        (node, took)
    };
    let (node, took) = start();
    assert!(took < TEN_SECONDS, "ready after {took:?}");
    let kept = fs::read_to_string(dir.path().join("holdfast-data/credentials")).expect("kept");
    let mut lines = kept.lines().map(str::to_owned);
    let mut next = || lines.next().expect("two lines");
    let client = Client { address: node.address, tls: None, user: next(), password: next() };
    let said = fs::read_to_string(dir.path().join(format!("out-{port}"))).expect("stdout");
    assert!(said.contains(&client.user) && said.matches("aws --endpoint-url").count() == 2);

    assert_eq!(get(node.address, "/_health/live").0, 200);
    assert_eq!(get(node.address, "/").0, 403, "nobody is let in without a signature");
    let (status, answer) = client.request("PUT", "/first", b"");
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&answer));
    let objects = [("/first/small", body(1, 10_240)), ("/first/large", body(2, 3 << 20))];
    for (path, body) in &objects {
        let (status, answer) = client.request("PUT", path, body);
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&answer));
    }
    let check = |when: &str| {
        for (path, body) in &objects {
            let (status, answer) = client.request("GET", path, b"");
            assert_eq!(status, 200, "{path} {when}: {}", String::from_utf8_lossy(&answer));
            assert!(answer == *body, "{path} {when}: other bytes");
        }
    };
    check("at once");
    let (status, took) = node.terminate();
    assert!(status.success() && took < TEN_SECONDS, "{status} after {took:?}");
    let (node, _) = start();
    check("after SIGTERM");
    node.kill();
    let (_node, _) = start();
    check("after SIGKILL");
}

/// Goal: a node serves without a drive that was wiped, and takes it in again under a new identity, never
/// as what it was (PROTOCOL.md section 5). Method: remove one of four drives' folders while the node is
/// stopped; objects are read and written at once; then all drives are healthy.
#[test]
fn a_wiped_drive_is_somebody_new_and_the_node_serves() {
    let dir = tempfile::tempdir().expect("a folder");
    let port = free_port();
    let volumes = format!("{}/d{{1...4}}", dir.path().display());
    let args = ["server", "--allow-root-disk", &volumes];
    let mut node = Node::start_with_keys(dir.path(), port, &args);
    node.wait_ready();
    let client = Client::new(node.address);
    assert_eq!(client.request("PUT", "/first", b"").0, 200);
    assert_eq!(client.request("PUT", "/first/a", &body(3, 100_000)).0, 200);
    node.terminate();
    let wiped = dir.path().join("d3");
    let old = fs::read(wiped.join("identity")).expect("it was formatted");
    fs::remove_dir_all(&wiped).expect("wiped");
    let mut node = Node::start_with_keys(dir.path(), port, &args);
    node.wait_ready();
    // Its set may change its members meanwhile.
    let (status, answer) = patiently(&client, "GET", "/first/a", b"");
    assert_eq!((status, answer == body(3, 100_000)), (200, true));
    assert_eq!(patiently(&client, "PUT", "/first/b", &body(4, 100_000)).0, 200);
    let whole = || {
        let (_, drives) = client.request("GET", "/_admin/v1/drives", b"");
        String::from_utf8_lossy(&drives).matches("\"state\":\"healthy\"").count() == 4
    };
    let begun = Instant::now();
    while !whole() {
        assert!(begun.elapsed() < REBUILT_IN, "the drive is not rebuilt");
        std::thread::sleep(Duration::from_millis(100));
    }
    let new = fs::read(wiped.join("identity")).expect("it is formatted");
    assert!(new != old, "a wiped drive is never what it was");
    for (path, body) in [("/first/a", body(3, 100_000)), ("/first/b", body(4, 100_000))] {
        let (status, answer) = client.request("GET", path, b"");
        assert_eq!((status, answer == body), (200, true), "{path}");
    }
    let log = fs::read_to_string(dir.path().join(format!("log-{port}"))).expect("log");
    assert!(log.contains("blank") && log.contains("faulty"), "{log}");
}
