//! `testbed up`: real daemons on free loopback ports.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Child,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rand::Rng as _;

use crate::{
    certs,
    cluster::{Cluster, FAULTS_FOLDER, Node},
    down, health, ports,
    process::{log_tail, spawn},
};

/// Start a cluster.
#[derive(clap::Args)]
pub struct Args {
    /// Nodes.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    nodes: u16,
    /// Drives of each node: plain folders.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    drives: u16,
    /// Where the cluster lives: `cluster.json`, and `nodeN/` with log and drives.
    #[arg(long)]
    dir: PathBuf,
    /// Return when all nodes are ready instead of waiting for ctrl-c.
    #[arg(long)]
    detach: bool,
    /// Start it with TLS: a folder as `holdfastd --certs-dir` takes it, made when it is not there.
    #[arg(long)]
    certs_dir: Option<PathBuf>,
    /// The daemon's binary; beside this one by default.
    #[arg(long)]
    pub holdfastd: Option<PathBuf>,
    /// NAME=VALUE for the daemons' environment; may be repeated.
    #[arg(long = "env", value_parser = parse_env)]
    pub env: Vec<(String, String)>,
    /// Seconds to wait for all nodes to be ready.
    #[arg(long, default_value_t = 60)]
    timeout: u64,
}

impl Args {
    /// A cluster of 4 x 4 in `dir` that stays when the command returns.
    pub fn detached(dir: &Path, holdfastd: Option<PathBuf>) -> Self {
        let dir = dir.to_owned();
        Self {
            nodes: 4,
            drives: 4,
            dir,
            detach: true,
            holdfastd,
            env: Vec::new(),
            certs_dir: None,
            timeout: 120,
        }
    }
}

/// Starts a cluster; returns when all its nodes are ready or, in the foreground, when it was taken
/// down again.
pub fn run(args: &Args) -> Result<()> {
    let (cluster, dir, mut children) = bring_up(args)?;
    for endpoint in &cluster.endpoints {
        println!("{endpoint}");
    }
    println!("credentials in {}", Cluster::file(&dir).display());
    if args.detach {
        return Ok(());
    }
    println!("ctrl-c takes the cluster down");
    wait_for_signal(&mut children)?;
    down::take_down(&dir)
}

/// Starts a new cluster and waits until all its nodes are ready; its facts, its folder, its daemons.
pub fn bring_up(args: &Args) -> Result<(Cluster, PathBuf, Vec<Child>)> {
    let cluster = plan(args)?;
    let dir = fs::canonicalize(&args.dir)?;
    cluster.store(&dir)?;
    match start(&dir, Duration::from_secs(args.timeout)) {
        Ok(children) => Ok((cluster, dir, children)),
        Err(error) => {
            down::take_down(&dir)?;
            Err(error)
        }
    }
}

/// Lays out a new cluster: folders, ports, credentials, arguments.
pub fn plan(args: &Args) -> Result<Cluster> {
    fs::create_dir_all(&args.dir).with_context(|| format!("create {}", args.dir.display()))?;
    let dir = fs::canonicalize(&args.dir)?;
    if Cluster::file(&dir).exists() {
        bail!("{} has a cluster: `testbed down` it and remove it first", dir.display());
    }
    let certs_dir = args.certs_dir.as_deref().map(certs::ensure).transpose()?;
    let ca = certs_dir.as_deref().map(|certs| certs::bundle(certs, &dir)).transpose()?;
    let urls = urls(&ports::free(args.nodes.into())?, certs_dir.is_some());
    let cluster = Cluster {
        endpoints: urls.clone(),
        ca,
        access_key: format!("testbed{}", secret(4)),
        secret_key: secret(20),
        holdfastd: daemon_binary(args.holdfastd.as_deref())?,
        env: BTreeMap::new(),
        nodes: nodes(&dir, &urls, args.drives, certs_dir.as_deref()),
    };
    for drive in cluster.nodes.iter().flat_map(|node| &node.drives) {
        fs::create_dir_all(drive).with_context(|| format!("create {}", drive.display()))?;
    }
    fs::create_dir_all(dir.join(FAULTS_FOLDER)).context("create the folder of faults")?;
    Ok(with_env(cluster, &dir, &args.env))
}

/// The nodes' URLs: of S3 and of the fabric.
fn urls(ports: &[u16], tls: bool) -> Vec<String> {
    let scheme = if tls { "https" } else { "http" };
    ports.iter().map(|port| format!("{scheme}://127.0.0.1:{port}")).collect()
}

/// The nodes' folders and arguments: every node gets all nodes' drives as plain arguments.
fn nodes(dir: &Path, urls: &[String], drives: u16, certs_dir: Option<&Path>) -> Vec<Node> {
    let folder = |n: usize| dir.join(format!("node{}", n + 1));
    let paths = |n: usize| -> Vec<PathBuf> {
        (1..=drives).map(|drive| folder(n).join(format!("drive{drive}"))).collect()
    };
    let volume = |url: &str, path: &Path| format!("{url}{}", path.display());
    let volumes: Vec<String> = urls
        .iter()
        .enumerate()
        .flat_map(|(n, url)| paths(n).into_iter().map(move |path| volume(url, &path)))
        .collect();
    let node = |(n, url): (usize, &String)| {
        let address = url.split_once("://").map_or("", |(_, address)| address);
        let mut args =
            ["server", "--address", address, "--allow-root-disk"].map(str::to_owned).to_vec();
        if let Some(certs_dir) = certs_dir {
            args.extend(["--certs-dir".to_owned(), certs_dir.display().to_string()]);
        }
        args.extend(volumes.iter().cloned());
        Node { pid: None, started: None, dir: folder(n), drives: paths(n), args }
    };
    urls.iter().enumerate().map(node).collect()
}

/// Adds the daemons' environment: the cluster's secrets, where faults are told, and what the caller gave.
fn with_env(mut cluster: Cluster, dir: &Path, extra: &[(String, String)]) -> Cluster {
    let own = [
        ("HOLDFAST_ROOT_USER", cluster.access_key.clone()),
        ("HOLDFAST_ROOT_PASSWORD", cluster.secret_key.clone()),
        ("HOLDFAST_CLUSTER_SECRET", secret(32)),
        ("HOLDFAST_FAULTS", dir.join(FAULTS_FOLDER).display().to_string()),
    ];
    cluster.env = own.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    cluster.env.extend(extra.iter().cloned());
    cluster
}

/// The daemon's binary: as given, or beside our own.
fn daemon_binary(given: Option<&Path>) -> Result<PathBuf> {
    let beside = || Ok(std::env::current_exe()?.with_file_name("holdfastd"));
    let path = given.map_or_else(beside, |path| Ok::<_, std::io::Error>(path.to_owned()))?;
    fs::canonicalize(&path)
        .with_context(|| format!("find {}: `cargo build --bin holdfastd` makes it", path.display()))
}

/// Starts all nodes and waits until they are ready.
fn start(dir: &Path, patience: Duration) -> Result<Vec<Child>> {
    let deadline = Instant::now() + patience;
    let mut children = Vec::new();
    let cluster = Cluster::update(dir, |cluster| {
        for place in 0..cluster.nodes.len() {
            let (child, process) = spawn(cluster, &cluster.nodes[place])?;
            cluster.nodes[place].set_process(Some(process));
            // Each process is recorded at once: whatever fails next, `down` finds it.
            cluster.store(dir)?;
            children.push(child);
        }
        Ok(cluster.clone())
    })?;
    for place in 0..cluster.nodes.len() {
        wait_ready(&cluster, place, deadline)
            .map_err(|error| first_gone(&cluster).unwrap_or(error))?;
    }
    Ok(children)
}

/// A node that ended by itself: the others wait for it in vain, and its log says more than theirs.
fn first_gone(cluster: &Cluster) -> Option<anyhow::Error> {
    let gone = |node: &Node| node.process().is_none_or(|process| !process.is_alive());
    let place = cluster.nodes.iter().position(gone)?;
    let log = cluster.nodes[place].log();
    let (number, end) = (place + 1, log_tail(&log));
    Some(anyhow::anyhow!(
        "node {number} exited before it was ready; end of {}:\n{end}",
        log.display()
    ))
}

/// Waits until a node that was just started is ready.
pub fn wait_ready(cluster: &Cluster, place: usize, deadline: Instant) -> Result<()> {
    let (node, endpoint) = (&cluster.nodes[place], &cluster.endpoints[place]);
    let process = node.process().context("the node was not started")?;
    let tail = || format!("end of {}:\n{}", node.log().display(), log_tail(&node.log()));
    while !health::is_ready(endpoint, cluster.ca.as_deref()) {
        if !process.is_alive() {
            bail!("node {} exited before it was ready; {}", place + 1, tail());
        }
        if Instant::now() >= deadline {
            bail!("node {} ({endpoint}) was not ready in time; {}", place + 1, tail());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Waits for ctrl-c or SIGTERM, and reaps daemons that are killed meanwhile.
fn wait_for_signal(children: &mut [Child]) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        let mut tick = tokio::time::interval(Duration::from_millis(200));
        loop {
            tokio::select! {
                done = tokio::signal::ctrl_c() => return Ok(done?),
                _ = term.recv() => return Ok(()),
                _ = tick.tick() => for child in children.iter_mut() {
                    child.try_wait()?;
                },
            }
        }
    })
}

/// `bytes` random bytes in hexadecimal.
fn secret(bytes: usize) -> String {
    let mut random = rand::rng();
    (0..bytes).map(|_| format!("{:02x}", random.random::<u8>())).collect()
}

fn parse_env(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(name, _)| !name.is_empty());
    let (name, value) = pair.ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: each node gets its own address and all nodes' drives, in the form that placement reads as
    /// one pool. Method: plan 4 x 4 and give the arguments to placement.
    #[test]
    fn nodes_are_planned_for_one_pool() {
        let nodes = nodes(Path::new("/D"), &urls(&[11, 12, 13, 14], false), 4, None);
        for (node, port) in nodes.iter().zip([11, 12, 13, 14]) {
            let address = format!("127.0.0.1:{port}");
            assert_eq!(node.args[..4], ["server", "--address", &address, "--allow-root-disk"]);
            let pools = holdfast_placement::parse_volumes(&node.args[4..]).expect("valid");
            assert_eq!(pools.len(), 1);
            assert_eq!(pools[0].by_node().len(), 4);
            assert_eq!(holdfast_placement::plan_sets(&pools[0]).expect("1x16")[0].len(), 16);
        }
        assert_eq!(nodes[1].drives[2], Path::new("/D/node2/drive3"));
        assert!(nodes[0].args.contains(&"http://127.0.0.1:12/D/node2/drive3".to_owned()));
    }

    /// Goal: with TLS everything is https and every node knows its certificates. Method: plan one.
    #[test]
    fn with_certificates_the_cluster_speaks_tls() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let args = Args {
            nodes: 2,
            drives: 2,
            dir: dir.path().join("c"),
            detach: true,
            holdfastd: Some("/bin/true".into()),
            certs_dir: Some(dir.path().join("certs")),
            env: Vec::new(),
            timeout: 1,
        };
        let cluster = plan(&args).expect("plan");
        assert!(cluster.endpoints.iter().all(|url| url.starts_with("https://")), "{cluster:?}");
        let flags: Vec<_> = cluster.nodes[1].args.iter().skip(4).take(2).collect();
        assert!(flags[0] == "--certs-dir" && flags[1].ends_with("/certs"), "{flags:?}");
        assert!(cluster.nodes[1].args[6].starts_with("https://"), "{:?}", cluster.nodes[1].args);
        let ca = fs::read_to_string(cluster.ca.expect("authorities")).expect("a file");
        assert_eq!(ca.matches("BEGIN CERTIFICATE").count(), 1);
    }

    /// Goal: no two clusters share secrets, and what the caller gives wins. Method: plan twice.
    #[test]
    fn secrets_are_fresh() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let args = |name: &str| Args {
            nodes: 1,
            drives: 2,
            dir: dir.path().join(name),
            detach: true,
            holdfastd: Some("/bin/true".into()),
            certs_dir: None,
            env: vec![("A".to_owned(), "b".to_owned())],
            timeout: 1,
        };
        let (one, two) = (plan(&args("1")).expect("plan"), plan(&args("2")).expect("plan"));
        assert!(one.secret_key != two.secret_key && one.secret_key.len() >= 8);
        assert_ne!(one.env["HOLDFAST_CLUSTER_SECRET"], two.env["HOLDFAST_CLUSTER_SECRET"]);
        assert_eq!((&one.env["HOLDFAST_ROOT_PASSWORD"], &one.env["A"][..]), (&one.secret_key, "b"));
        assert!(one.nodes[0].drives.iter().all(|drive| drive.is_dir()));
        assert_eq!(parse_env("A=b=c"), Ok(("A".to_owned(), "b=c".to_owned())));
        assert!(parse_env("A").is_err() && parse_env("=b").is_err());
    }

    /// Goal: a daemon that exits at once is reported, not waited for, and leaves no process behind.
    /// Method: a "daemon" that writes a line and fails.
    #[test]
    fn a_daemon_that_exits_is_reported() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let cluster = Cluster { holdfastd: "/bin/ls".into(), ..plan_one(dir.path()) };
        cluster.store(dir.path()).expect("store");
        let error = start(dir.path(), Duration::from_secs(30)).expect_err("ls is no daemon");
        let text = format!("{error:#}");
        assert!(text.contains("node 1 exited before it was ready"), "{text}");
        assert!(text.contains("server"), "the log's end is shown: {text}");
    }

    fn plan_one(dir: &Path) -> Cluster {
        let mut cluster = crate::cluster::tests::example(dir);
        cluster.nodes.truncate(1);
        fs::create_dir_all(&cluster.nodes[0].dir).expect("create");
        cluster
    }
}
