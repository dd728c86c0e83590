//! What the daemon refuses to start with: exit 1, one line of cause, one of cure.

use std::{net::TcpListener, path::Path};

use crate::{
    client::{PASSWORD, USER},
    node::{Node, free_port, holdfastd},
};

fn refusal(folder: &Path, args: &[&str], env: &[(&str, &str)]) -> String {
    let output = holdfastd(folder, args).envs(env.iter().copied()).output().expect("run");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
    let lines: Vec<_> = said.lines().filter(|line| !line.contains("INFO")).collect();
    assert_eq!(lines.len(), 2, "{args:?}: {said}");
    assert!(lines[0].starts_with("holdfastd: ") && lines[1].starts_with("  cure: "), "{said}");
    said
}

#[test]
fn refusals_are_two_lines_and_exit_1() {
    let dir = tempfile::tempdir().expect("a folder");
    let keys = [("HOLDFAST_ROOT_USER", USER), ("HOLDFAST_ROOT_PASSWORD", PASSWORD)];
    let taken = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = taken.local_addr().expect("bound").to_string();
    let said = refusal(dir.path(), &["--address", &address], &[]);
    assert!(said.contains("listen at") && said.contains(&address), "{said}");
    assert!(!dir.path().join("holdfast-data/drive1").exists(), "nothing was made");
    assert!(refusal(dir.path(), &["/d{1..4}"], &keys).contains("three dots"));
    let short = [("HOLDFAST_ROOT_USER", USER), ("HOLDFAST_ROOT_PASSWORD", "1234567")];
    assert!(refusal(dir.path(), &[], &short).contains("at least 8"));
    let on_root = ["--address", "127.0.0.1:0", "/holdfast-not-there/d1"];
    assert!(refusal(dir.path(), &on_root, &keys).contains("IP:PORT"));
    let free = crate::node::free_port().to_string();
    let on_root = ["--address", &format!(":{free}")[..], "/holdfast-not-there/d1"];
    assert!(refusal(dir.path(), &on_root, &keys).contains("--allow-root-disk"));
    let cluster = ["http://127.0.0.1:1/a", "http://127.0.0.1:2/b"];
    assert!(refusal(dir.path(), &cluster, &keys).contains("HOLDFAST_CLUSTER_SECRET"));
    let secret = ("HOLDFAST_CLUSTER_SECRET", "a secret of sixteen or more");
    let said = refusal(dir.path(), &cluster, &[keys[0], keys[1], secret]);
    assert!(said.contains("find this node"), "{said}");
}

/// Goal: two processes never write to the same folders (INV-DISK-1), and the folders are free when one
/// of them ended, however. Method: a second daemon while the first serves; then kill, and start again.
#[test]
fn folders_in_use_are_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let keys = [("HOLDFAST_ROOT_USER", USER), ("HOLDFAST_ROOT_PASSWORD", PASSWORD)];
    let volumes = format!("{}/d{{1...2}}", dir.path().display());
    let args = ["server", "--allow-root-disk", &volumes];
    let mut first = Node::start_with_keys(dir.path(), free_port(), &args);
    first.wait_ready();
    let address = format!("127.0.0.1:{}", free_port());
    let second = ["server", "--allow-root-disk", "--address", &address, &volumes];
    let said = refusal(dir.path(), &second, &keys);
    assert!(said.contains("another process uses it") && said.contains("/d1"), "{said}");
    first.kill();
    Node::start_with_keys(dir.path(), free_port(), &args).wait_ready();
}
