//! TLS for clients and between nodes.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use holdfast_tls::{H2, HTTP_1, roots::client_config, testing::Authority};
use rustix::process::Signal;
use rustls::ClientConfig;

use crate::{
    client::{Client, PASSWORD, USER, get, get_over},
    node::{Node, free_port, holdfastd},
};

const SECRET: (&str, &str) = ("HOLDFAST_CLUSTER_SECRET", "a secret of sixteen or more");

/// A certificates folder for loopback, and a client's configuration that trusts it.
fn certificates(dir: &Path, authority: &Authority) -> (String, Arc<ClientConfig>) {
    let certs = dir.join("certs");
    let issued = authority.issue(&["127.0.0.1"], 30);
    issued.write(&certs, authority).expect("written");
    let trusting = client_config(Some(&certs.join("CAs/ca.crt")), &[HTTP_1]).expect("trusted");
    (certs.display().to_string(), trusting)
}

/// Volumes of two nodes with two drives each.
fn volumes(dir: &Path, scheme: &str, ports: [u16; 2]) -> Vec<String> {
    let drives = ports.into_iter().flat_map(|port| (0..2).map(move |drive| (port, drive)));
    let url =
        |(port, drive)| format!("{scheme}://127.0.0.1:{port}{}/{port}-{drive}", dir.display());
    drives.map(url).collect()
}

fn start(dir: &Path, scheme: &str, ports: [u16; 2], n: usize, certs: Option<&str>) -> Node {
    let volumes = volumes(dir, scheme, ports);
    let mut args = vec!["server", "--allow-root-disk"];
    args.extend(certs.iter().flat_map(|certs| ["--certs-dir", *certs]));
    args.extend(volumes.iter().map(String::as_str));
    Node::start_with_keys(dir, ports[n], &args)
}

fn log(dir: &Path, port: u16) -> String {
    fs::read_to_string(dir.join(format!("log-{port}"))).expect("a log")
}

fn wait_for_log(dir: &Path, port: u16, text: &str) {
    let started = Instant::now();
    while !log(dir, port).contains(text) {
        let all = log(dir, port);
        assert!(
            started.elapsed() < Duration::from_secs(30),
            "{text} is not said by {port}:\n{all}"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Goal: S3 and the fabric over TLS on one port, health included, by HTTP/1.1 and HTTP/2; a gateway
/// joins over it; who speaks in the clear is told; a renewed certificate is shown after SIGHUP. Method:
/// two nodes and a gateway with certificates of one authority.
#[test]
fn a_cluster_speaks_tls_with_clients_and_itself() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    let authority = Authority::new();
    let (certs, tls) = certificates(dir, &authority);
    let ports = [free_port(), free_port()];
    let mut nodes = [0, 1].map(|n| start(dir, "https", ports, n, Some(&certs)));
    for node in &mut nodes {
        node.tls = Some(tls.clone());
        node.wait_ready();
    }
    let client = |node: &Node| Client::with_tls(node.address, tls.clone());
    assert_eq!(client(&nodes[0]).request("PUT", "/first", b"").0, 200);
    let large = vec![8; 5 << 20];
    for (path, body) in [("/first/small", &large[..10_240]), ("/first/large", &large)] {
        let (status, answer) = client(&nodes[0]).request("PUT", path, body);
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&answer));
        assert!(client(&nodes[1]).request("GET", path, b"") == (200, body.to_vec()), "{path}");
    }
    let (status, answer) = get(nodes[0].address, "/_health/ready");
    let answer = String::from_utf8_lossy(&answer);
    assert!(status == 400 && answer.contains("this port speaks TLS"), "{status}: {answer}");

    let port = free_port();
    let seed = format!("https://127.0.0.1:{}", ports[1]);
    let args = ["gateway", "--certs-dir", &certs, "--nodes", &seed];
    let mut gateway = Node::start_with_keys(dir, port, &args);
    gateway.tls = Some(tls.clone());
    gateway.wait_ready();
    assert!(client(&gateway).request("GET", "/first/large", b"") == (200, large));

    // A new authority: who trusts only that one is let in when the node has read its files again.
    let other = Authority::new();
    let (_, trusting) = certificates(dir, &other);
    assert_eq!(get_over(nodes[0].address, Some(&trusting), "/_health/live").0, 0);
    nodes[0].signal(Signal::HUP);
    wait_for_log(dir, ports[0], "certificates renewed");
    assert_eq!(get_over(nodes[0].address, Some(&trusting), "/_health/live").0, 200);
    let h2 = client_config(Some(&dir.join("certs/CAs/ca.crt")), &[H2]).expect("trusted");
    assert_eq!(protocol(nodes[0].address, h2), Some(H2.to_vec()));
}

/// The protocol that a server agrees to.
fn protocol(address: std::net::SocketAddr, config: Arc<ClientConfig>) -> Option<Vec<u8>> {
    let mut stream = std::net::TcpStream::connect(address).expect("connected");
    let mut connection =
        rustls::ClientConnection::new(config, address.ip().into()).expect("a client");
    while connection.is_handshaking() {
        connection.complete_io(&mut stream).expect("shaken");
    }
    connection.alpn_protocol().map(<[u8]>::to_vec)
}

/// Goal: a cluster that was formatted in the clear is the same cluster over TLS. Method: one object
/// written before, read after.
#[test]
fn tls_can_be_turned_on_later() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    let (certs, tls) = certificates(dir, &Authority::new());
    let ports = [free_port(), free_port()];
    let mut nodes = [0, 1].map(|n| start(dir, "http", ports, n, None));
    nodes.iter_mut().for_each(|node| {
        node.wait_ready();
    });
    let before = Client::new(nodes[0].address);
    assert_eq!(before.request("PUT", "/first", b"").0, 200);
    assert_eq!(before.request("PUT", "/first/a", b"before").0, 200);
    for node in nodes {
        node.terminate();
    }
    let mut nodes = [0, 1].map(|n| start(dir, "https", ports, n, Some(&certs)));
    for node in &mut nodes {
        node.tls = Some(tls.clone());
        node.wait_ready();
    }
    let after = Client::with_tls(nodes[1].address, tls.clone());
    assert_eq!(after.request("GET", "/first/a", b""), (200, b"before".to_vec()));
}

/// Goal: a node in the clear and one with TLS tell each other's operators. Method: one each way, and a
/// peer whose certificate is of another authority.
#[test]
fn a_peer_that_cannot_be_spoken_to_is_explained() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    let authority = Authority::new();
    let (certs, _) = certificates(dir, &authority);
    let ports = [free_port(), free_port()];
    let _secure = start(dir, "https", ports, 0, Some(&certs));
    let open = start(dir, "http", ports, 1, None);
    wait_for_log(dir, ports[1], "it speaks TLS: start this process with --certs-dir");
    wait_for_log(dir, ports[0], "answers without TLS: start it with --certs-dir");
    drop(open);
    let others = dir.join("others");
    let (foreign, _) = certificates(&others, &Authority::new());
    let _foreign = start(dir, "https", ports, 1, Some(&foreign));
    wait_for_log(dir, ports[1], "is of no authority known here: put that authority's certificate");
}

/// Goal: bad certificates are refused before anything is done, in two lines. Method: the binary with a
/// folder that is missing, expired, of other names, without authorities.
#[test]
fn bad_certificates_are_refused_at_the_start() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    let authority = Authority::new();
    let folder = |name: &str, hosts: &[&str], days: i64| -> PathBuf {
        authority.issue(hosts, days).write(&dir.join(name), &authority).expect("written");
        dir.join(name)
    };
    let alone = folder("alone", &["127.0.0.1"], 30);
    fs::remove_dir_all(alone.join("CAs")).expect("removed");
    let mismatched = folder("mismatched", &["127.0.0.1"], 30);
    fs::write(mismatched.join("private.key"), authority.issue(&["a"], 1).key).expect("written");
    let vectors = [
        (dir.join("missing"), "public.crt: No such file"),
        (folder("old", &["127.0.0.1"], -9), "expired on"),
        (mismatched, "its key is not that of"),
        (folder("named", &["node1"], 30), "the certificate is not for 127.0.0.1"),
        (alone, "no certificate of an authority"),
    ];
    let ports = [free_port(), free_port()];
    let volumes = volumes(dir, "https", ports);
    for (certs, why) in vectors {
        let address = format!("127.0.0.1:{}", ports[0]);
        let output = holdfastd(dir, &["server", "--allow-root-disk", "--address", &address])
            .arg("--certs-dir")
            .arg(&certs)
            .args(&volumes)
            .envs([("HOLDFAST_ROOT_USER", USER), ("HOLDFAST_ROOT_PASSWORD", PASSWORD), SECRET])
            .output()
            .expect("run");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{why}: {said}");
        assert_eq!(said.lines().count(), 2, "{why}: {said}");
        assert!(said.contains(why) && said.contains("  cure: "), "{why}: {said}");
    }
    assert!(!dir.join(format!("{}-0", ports[0])).exists(), "nothing was made");
}
