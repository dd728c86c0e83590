//! The unit for systemd, and what it hears from the process.

use std::{
    fs,
    os::unix::net::UnixDatagram,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use holdfast_daemon::{
    limits::{CLIENTS_SHARE, CONNECTIONS_MAX},
    listener::DRAIN,
    run::CLOSE_PATIENCE,
    telemetry::FLUSH_PATIENCE,
};
use rustix::process::Signal;

use crate::{
    client::get,
    node::{Node, free_port},
};

const UNIT: &str = include_str!("../../../packaging/systemd/holdfast.service");
const DEFAULTS: &str = include_str!("../../../packaging/systemd/holdfast.default");

fn setting(name: &str) -> &'static str {
    let line = UNIT.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    line.unwrap_or_else(|| panic!("the unit says nothing of {name}"))
}

/// Goal: the unit gives the process what it needs by its own constants. Method: compare them.
#[test]
fn the_unit_fits_the_process() {
    assert_eq!(setting("Type"), "notify");
    let stop = Duration::from_secs(setting("TimeoutStopSec").parse().expect("seconds"));
    assert!(stop >= DRAIN + CLOSE_PATIENCE + FLUSH_PATIENCE + Duration::from_secs(5), "{stop:?}");
    let files: usize = setting("LimitNOFILE").parse().expect("a number");
    assert!(files >= CLIENTS_SHARE * CONNECTIONS_MAX);
    let file = setting("EnvironmentFile");
    assert!(UNIT.contains(&format!("AssertFileNotEmpty={file}")) && DEFAULTS.contains(file));
}

/// Goal: systemd finds nothing wrong with the unit. Method: `systemd-analyze verify` over it, the binary's
/// path replaced by the one that was built; not looked at where the tool is not installed.
#[test]
fn systemd_verifies_the_unit() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("systemd-analyze is not installed: the unit is not verified here");
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("holdfast.service");
    let unit = UNIT.replace("/usr/local/bin/holdfastd", env!("CARGO_BIN_EXE_holdfastd"));
    fs::write(&path, unit).expect("written");
    let output = Command::new("systemd-analyze").arg("verify").arg(&path).output().expect("run");
    let said = String::from_utf8_lossy(&output.stderr);
    let ours: Vec<_> = said.lines().filter(|line| line.contains("holdfast.service")).collect();
    assert!(output.status.success() && ours.is_empty(), "{said}");
}

/// Goal: the variables of the defaults file are ones that the process reads. Method: each name stands in
/// the product's own sources.
#[test]
fn every_default_is_a_setting() {
    let sources = ["config.rs", "telemetry.rs"].map(|name| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(name);
        fs::read_to_string(path).expect("a source")
    });
    let names = DEFAULTS.lines().filter_map(|line| {
        let name = line.trim_start_matches('#').split_once('=')?.0;
        name.chars().all(|c| c.is_ascii_uppercase() || c == '_').then_some(name)
    });
    let names: Vec<_> = names.collect();
    assert!(names.len() >= 8, "{names:?}");
    for name in names {
        let known = name == "HOLDFAST_LOG" || sources.iter().any(|text| text.contains(name));
        assert!(known, "{name} is read nowhere");
    }
}

/// Goal: systemd hears READY=1 when the node serves and not before, WATCHDOG=1 while it lives, and
/// STOPPING=1 when it is told to go. Method: a socket in systemd's place.
#[test]
fn systemd_is_told_how_it_is() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("bound");
    socket.set_read_timeout(Some(Duration::from_secs(30))).expect("set");
    let hear = || {
        let mut buffer = [0; 128];
        let length = socket.recv(&mut buffer).expect("it is told");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    let port = free_port();
    let env = [("NOTIFY_SOCKET", path.to_str().expect("text")), ("WATCHDOG_USEC", "200000")];
    let node = Node::start(dir.path(), port, &[], &env);
    let mut heard = vec![hear()];
    while heard.last().is_some_and(|state| state != "READY=1") {
        assert_eq!(heard.last().map(String::as_str), Some("WATCHDOG=1"), "{heard:?}");
        heard.push(hear());
    }
    assert_eq!(get(node.address, "/_health/ready").0, 200);
    let since = Instant::now();
    let fed = (0..5).map(|_| hear()).filter(|state| state == "WATCHDOG=1").count();
    assert!(fed == 5 && since.elapsed() < Duration::from_secs(5), "{fed} in {:?}", since.elapsed());
    node.signal(Signal::TERM);
    let told = std::iter::repeat_with(hear).find(|state| state != "WATCHDOG=1");
    assert_eq!(told.as_deref(), Some("STOPPING=1"));
    assert!(node.terminate().0.success());
}
