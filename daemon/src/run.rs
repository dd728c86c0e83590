//! The life of the process: everything starts in order, serves, and ends in order.
//!
//! INV-START-ORDER: peers and clients are let at the drives only after the layout is known, this node's
//! drives are opened, and the port is ours; the port is taken before anything is formatted.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::future::BoxFuture;
use holdfast_drive::{
    fabric::{FabricService, Here, Host, HostConfig, RemoteNode, auth::Key},
    node::Node,
    supervisor::NodeHandle,
    traced::{Side, Traced},
};
use holdfast_engine::{Engine, EngineConfig, Knobs};
use holdfast_placement::{Layout, PoolSpec};
use holdfast_s3_gateway::{GatewayConfig, RootCredentials, admin::AdminView, service};
use holdfast_tls::Certs;
use holdfast_types::{
    ClusterId, NodeIndex,
    seam::{Clock, Random},
};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tokio_rustls::TlsAcceptor;

use crate::{
    config::{Config, DEFAULT_DATA, Role, RootKeys},
    drives,
    failure::Failure,
    faults::Faults,
    folders::Folders,
    forming::{Document, check_volumes},
    keeper::{Keeper, Wishes},
    keys, limits,
    listener::{self, Front},
    members::{Links, Members, Peers},
    notify::{notify, watchdog_every},
    opens::{self, Opens},
    operator::Operator,
    seams::{SystemClock, SystemRandom},
    startup::{LocalStartup, Member, Reports, check_clocks, fetch_layout, find_layout, my_index},
    tls,
    whoami::{Addresses, find_me, host_and_port},
};

/// Drives are given this long to open before the node serves without those that are not.
const OPEN_PATIENCE: Duration = Duration::from_secs(8);

/// Drives are given this long to close. With [`listener::DRAIN`] for busy connections, and none when
/// they are idle.
pub const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// How often readiness is looked at once it was there.
const READY_AGAIN: Duration = Duration::from_secs(1);

/// So many times in a row drives must be missing before the node calls itself unready.
const UNREADY_AFTER: u32 = 3;

/// How often readiness is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// A clock before this day (2025-01-01) is wrong: the software is younger.
const EARLIEST_MICROS: u64 = 1_735_689_600_000_000;

/// Tells the process to end: SIGTERM or ctrl-c.
pub type Stop = BoxFuture<'static, ()>;

/// What the process works with.
struct Process {
    config: Config,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    root: RootKeys,
    key: Key,
    certs: Option<Arc<Certs>>,
    /// Where generated credentials are kept, when they are.
    generated: Option<PathBuf>,
    notify_socket: Option<String>,
    faults: Arc<Faults>,
}

/// What runs until the end.
struct Running {
    front: Arc<Front>,
    listener: JoinHandle<()>,
    stop_listener: watch::Sender<bool>,
    drives: Option<NodeHandle>,
    members: Arc<Members>,
    engine: Arc<Engine>,
    keeper: Option<JoinHandle<()>>,
}

/// Runs until `stop`.
///
/// # Errors
/// [`Failure`] for what an operator has to see to.
pub async fn run(
    config: Config,
    env: &HashMap<String, String>,
    mut stop: Stop,
) -> Result<(), Failure> {
    let process = Process::new(config, env)?;
    // Told to end while starting: nothing that was done needs undoing.
    let running = tokio::select! {
        running = process.start() => running?,
        () = &mut stop => return Ok(()),
    };
    // A node that waits for its peers is told to go, too.
    let serve = async {
        match process.become_ready(&running).await {
            Ok(()) => process.watch_readiness(&running).await,
            Err(failure) => failure,
        }
    };
    let ended = tokio::select! {
        () = &mut stop => Ok(()),
        failure = serve => Err(failure),
        () = process.feed_watchdog(env) => Ok(()),
    };
    process.end(running).await;
    ended
}

impl Process {
    fn new(config: Config, env: &HashMap<String, String>) -> Result<Self, Failure> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        if clock.wall_micros() < EARLIEST_MICROS {
            return Err(Failure::new(
                "read the clock: it shows a day before this software was made",
                "set the clock by NTP, then start again",
            ));
        }
        let defaults = matches!(config.role, Role::Server { defaults: true, .. });
        let data = Path::new(DEFAULT_DATA);
        let generated = (config.root.is_none() && defaults).then(|| data.join("credentials"));
        let root = match &config.root {
            Some(root) => root.clone(),
            None => keys::root_keys(data)?,
        };
        let secret = match &config.secret {
            Some(secret) => secret.clone(),
            None if defaults => keys::cluster_secret(data)?,
            None => keys::passing_secret()?,
        };
        Ok(Self {
            certs: config.certs_dir.as_deref().map(Certs::open).transpose()?,
            key: Key::of_secret(secret.0.as_bytes()),
            clock,
            random: Arc::new(SystemRandom),
            root,
            generated,
            notify_socket: env.get("NOTIFY_SOCKET").cloned(),
            faults: Faults::from_env(env),
            config,
        })
    }

    async fn start(&self) -> Result<Running, Failure> {
        tokio::spawn(tls::renew(self.certs.clone()));
        match &self.config.role {
            Role::Server { pools, allow_root_disk, .. } => {
                self.start_server(pools, *allow_root_disk).await
            }
            Role::Gateway { nodes } => self.start_gateway(nodes).await,
        }
    }

    async fn start_server(
        &self,
        pools: &[PoolSpec],
        allow_root_disk: bool,
    ) -> Result<Running, Failure> {
        let urls = self.config.node_urls();
        let me = self.find_me(&urls).await?;
        let scheme = self.config.scheme().name();
        let single = format!("{scheme}://127.0.0.1:{}", self.config.listen.port);
        let url = urls.get(me).cloned().unwrap_or(single);
        self.check_certs(urls.get(me).filter(|_| urls.len() > 1))?;
        let cluster = ClusterId::draw(self.random.as_ref());
        let fresh = Layout::plan(cluster, pools, &url, self.random.as_ref())?;
        let listener = listener::bind(self.config.listen).await?;
        let folders = Folders::prepare(my_paths(pools, &url), allow_root_disk, self.clock.clone())?;
        let opens = Opens::load(folders.paths());
        let folders = Arc::new(folders);
        let startup = Arc::new(LocalStartup { url: url.clone(), folders, opens: opens.clone() });
        let here = watch::Sender::new(Here { name: url.clone(), ..Here::default() });
        let host = Host::new(HostConfig {
            key: self.key.clone(),
            here: here.subscribe(),
            startup: startup.clone(),
            clock: self.clock.clone(),
            random: self.random.clone(),
        });
        let front = Front::new(Some(FabricService::new(host.clone())));
        let (listener, stop_listener) = self.listen(listener, &front);
        let mut peers = self.peers(&url, here.subscribe());
        let member = |(n, url): (usize, &String)| match n == me {
            true => Member::Me(startup.clone()),
            false => Member::Peer(peers.reach(url)),
        };
        let mut nodes: Vec<Member> = urls.iter().enumerate().map(member).collect();
        if nodes.is_empty() {
            nodes.push(Member::Me(startup.clone()));
        }
        let document = find_layout(me, &nodes, &fresh, self.clock.as_ref()).await?;
        check_volumes(&fresh, &document.layout)?;
        let my_index = my_index(&document.layout, &url)?;
        here.send_replace(here_in(&url, &document));
        let others = peers.others(&urls, me);
        let drives = self.open_drives(&startup, &document, my_index, &others).await?;
        let local: Arc<dyn Node> = Traced::new(drives.node(), Side::Local);
        host.serve(local.clone());
        let members = Members::new(document.layout.clone(), Some((my_index, local)), &mut peers);
        let members = Arc::new(members);
        let engine = self.engine(&document, &members, Some(my_index));
        let wishes = Arc::new(Wishes::default());
        let operator =
            Operator { engine: engine.clone(), drives: drives.clone(), wishes: wishes.clone() };
        self.open_s3(&front, &engine, Arc::new(operator));
        let keeper = Keeper {
            folders: startup.folders.clone(),
            drives: drives.clone(),
            engine: engine.clone(),
            me: my_index,
            random: self.random.clone(),
            wishes,
            opens,
            peers: others,
            is_ready: Box::new({
                let members = members.clone();
                move || members.missing().is_none()
            }),
        };
        let keeper = Some(tokio::spawn(keeper.run()));
        let drives = Some(drives);
        Ok(Running { front, listener, stop_listener, drives, members, engine, keeper })
    }

    async fn start_gateway(&self, urls: &[String]) -> Result<Running, Failure> {
        self.certs.as_ref().map(|certs| certs.client_config()).transpose()?;
        let name = format!("gateway at port {}", self.config.listen.port);
        let here = watch::Sender::new(Here { name: name.clone(), ..Here::default() });
        let listener = listener::bind(self.config.listen).await?;
        let front = Front::new(None);
        let (listener, stop_listener) = self.listen(listener, &front);
        let mut peers = self.peers(&name, here.subscribe());
        let nodes: Vec<_> = urls.iter().map(|url| peers.reach(url)).collect();
        let document = fetch_layout(&nodes, self.clock.as_ref()).await?;
        here.send_replace(here_in(&name, &document));
        let members = Arc::new(Members::new(document.layout.clone(), None, &mut peers));
        let engine = self.engine(&document, &members, None);
        self.open_s3(&front, &engine, engine.clone());
        let (drives, keeper) = (None, None);
        Ok(Running { front, listener, stop_listener, drives, members, engine, keeper })
    }

    /// The place of this node among `urls`; 0 when there are none to choose from.
    async fn find_me(&self, urls: &[String]) -> Result<usize, Failure> {
        if urls.is_empty() {
            return Ok(0);
        }
        let mut known = Addresses::default();
        for url in urls {
            let (host, port) = host_and_port(url)?;
            let found = tokio::net::lookup_host((host.as_str(), port)).await;
            // A name that does not resolve (yet) is not ours.
            let addresses: Vec<_> = found.into_iter().flatten().map(|at| at.ip()).collect();
            for address in &addresses {
                // An address is this machine's when a socket can be bound to it.
                if tokio::net::UdpSocket::bind((*address, 0)).await.is_ok() {
                    known.own.push(*address);
                }
            }
            known.of_host.insert(host, addresses);
        }
        find_me(urls, self.config.listen, &known)
    }

    fn peers(&self, name: &str, here: watch::Receiver<Here>) -> Peers {
        Peers::new(Links {
            key: self.key.clone(),
            here,
            clock: self.clock.clone(),
            random: self.random.clone(),
            scheme: self.config.scheme(),
            dialer: self.faults.dialer(name, self.certs.clone()),
        })
    }

    /// Whether peers will take this node, at `url`, for what it is, and it them.
    fn check_certs(&self, url: Option<&String>) -> Result<(), Failure> {
        if let (Some(certs), Some(url)) = (&self.certs, url) {
            certs.client_config()?;
            certs.check_name(&host_and_port(url)?.0)?;
        }
        Ok(())
    }

    fn listen(
        &self,
        listener: TcpListener,
        front: &Arc<Front>,
    ) -> (JoinHandle<()>, watch::Sender<bool>) {
        let stop = watch::Sender::new(false);
        let acceptor = self.certs.as_ref().map(|certs| TlsAcceptor::from(certs.server_config()));
        let serving = listener::serve(
            listener,
            front.clone(),
            acceptor,
            limits::take_all(),
            stop.subscribe(),
        );
        (tokio::spawn(serving), stop)
    }

    /// Completes what a formatting left to do here, and opens what can be opened and is not older than the peers
    /// remember.
    async fn open_drives(
        &self,
        startup: &LocalStartup,
        document: &Document,
        me: NodeIndex,
        peers: &[Arc<RemoteNode>],
    ) -> Result<NodeHandle, Failure> {
        opens::exchange(&startup.opens, peers, &[], opens::PATIENCE).await;
        let (folders, wanted) = (startup.folders.clone(), document.clone());
        let look = move || {
            if let Err(why) = folders.commit(&wanted, me) {
                tracing::warn!("format drives: {why}");
            }
            folders.survey()
        };
        let surveyed = tokio::task::spawn_blocking(look).await;
        let surveyed = surveyed.expect("looking at folders does not panic");
        let (layout, clock) = (&document.layout, self.clock.clone());
        let (arbiters, opens) = (self.config.arbiters, &startup.opens);
        let drives = drives::open(layout, me, &surveyed, arbiters, clock, &self.faults, opens)?;
        if !drives.opened(OPEN_PATIENCE).await {
            tracing::warn!("some drives are still being opened; they join when they are");
        }
        startup.folders.release();
        for facts in drives.drives(OPEN_PATIENCE).await {
            if !facts.state.serves() {
                tracing::error!(path = facts.path, state = facts.state.name(), "{}", facts.reason);
            }
        }
        self.tell_opens(startup, &drives, peers).await;
        Ok(drives)
    }

    /// Before a drive serves, whoever is there keeps how often it was opened (INV-MEMBER-3).
    async fn tell_opens(
        &self,
        startup: &LocalStartup,
        drives: &NodeHandle,
        peers: &[Arc<RemoteNode>],
    ) {
        let own = opens::of_facts(&drives.drives(OPEN_PATIENCE).await);
        startup.opens.learn(own.iter().copied());
        let (known, folders) = (startup.opens.clone(), startup.folders.clone());
        let kept = tokio::task::spawn_blocking(move || known.keep(&folders)).await;
        if let Err(why) = kept.expect("keeping a file does not panic") {
            tracing::warn!("{why}");
        }
        opens::exchange(&startup.opens, peers, &own, opens::PATIENCE).await;
    }

    fn engine(
        &self,
        document: &Document,
        members: &Members,
        local: Option<NodeIndex>,
    ) -> Arc<Engine> {
        Engine::new(EngineConfig {
            layout: document.layout.clone(),
            nodes: members.nodes(),
            local,
            clock: self.clock.clone(),
            random: self.random.clone(),
            knobs: Knobs::default(),
        })
    }

    fn open_s3(&self, front: &Front, engine: &Arc<Engine>, admin: Arc<dyn AdminView>) {
        let root = RootCredentials::new(self.root.user.as_str(), self.root.password.as_str());
        let mut config = GatewayConfig::new(root, self.clock.clone(), self.random.clone());
        config.tls = self.certs.is_some();
        config.admin = Some(admin);
        front.install(service(engine.clone(), config));
    }

    /// Waits until the cluster takes writes, then says so: to the log, to systemd, to health checks.
    ///
    /// # Errors
    /// [`Failure`] when waiting does not help: this node's clock is off.
    async fn become_ready(&self, running: &Running) -> Result<(), Failure> {
        let mut reports = Reports::new(self.clock.as_ref());
        // A link that is up is not enough: the first request must not be refused.
        let missing = async || match running.members.missing() {
            Some(why) => Some(why),
            None => running.engine.short_set().await,
        };
        while let Some(why) = missing().await {
            check_clocks(&running.members.reached())?;
            reports.waiting(&why);
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        running.front.set_ready(true);
        self.tell("READY=1");
        let port = self.config.listen.port;
        let ip = self.config.listen.ip.map_or("127.0.0.1".to_owned(), |ip| match ip {
            std::net::IpAddr::V4(v4) => v4.to_string(),
            std::net::IpAddr::V6(v6) => format!("[{v6}]"),
        });
        let endpoint = format!("{}://{ip}:{port}", self.config.scheme().name());
        tracing::info!(endpoint, "ready");
        if let Some(file) = &self.generated {
            println!("{}", keys::greeting(&endpoint, &self.root, file));
        }
        Ok(())
    }

    /// Keeps what health checks hear true: who cannot reach the drives that writes need is to get no more clients. Never returns.
    async fn watch_readiness(&self, running: &Running) -> Failure {
        let (mut ready, mut strikes) = (true, 0);
        loop {
            tokio::time::sleep(READY_AGAIN).await;
            let missing = running.members.missing();
            // A link that is made anew is not worth a balancer's while.
            strikes = if missing.is_some() { strikes + 1 } else { 0 };
            let now = if ready { strikes < UNREADY_AFTER } else { missing.is_none() };
            if now != ready {
                ready = now;
                running.front.set_ready(ready);
                match missing {
                    Some(why) => tracing::warn!("not ready: {why}"),
                    None => tracing::info!("ready again"),
                }
            }
        }
    }

    /// Tells systemd that the runtime is alive, for as long as it is. Never returns.
    async fn feed_watchdog(&self, env: &HashMap<String, String>) {
        let set = |name: &str| env.get(name).map(String::as_str);
        let (usec, pid) = (set("WATCHDOG_USEC"), set("WATCHDOG_PID"));
        let Some(every) = watchdog_every(usec, pid, std::process::id()) else {
            return std::future::pending().await;
        };
        loop {
            self.tell("WATCHDOG=1");
            tokio::time::sleep(every).await;
        }
    }

    /// Ends in the order in which nothing is cut that can end by itself: health, connections, drives.
    async fn end(&self, running: Running) {
        tracing::info!("draining");
        running.front.set_ready(false);
        self.tell("STOPPING=1");
        running.stop_listener.send_replace(true);
        if let Err(error) = running.listener.await {
            tracing::warn!("end listener: {error}");
        }
        if let Some(keeper) = running.keeper {
            keeper.abort();
        }
        if let Some(drives) = running.drives
            && !drives.shutdown(CLOSE_PATIENCE).await
        {
            tracing::warn!("some drives did not close in time; what they acknowledged is safe");
        }
        tracing::info!("stopped");
    }

    fn tell(&self, state: &str) {
        if let Err(error) = notify(self.notify_socket.as_deref(), state) {
            tracing::warn!("tell systemd {state}: {error}");
        }
    }
}

fn my_paths(pools: &[PoolSpec], url: &str) -> Vec<String> {
    let all = pools.iter().flat_map(|pool| &pool.endpoints);
    let mine = all.filter(|endpoint| endpoint.node.as_deref().is_none_or(|node| node == url));
    mine.map(|endpoint| endpoint.path.clone()).collect()
}

fn here_in(name: &str, document: &Document) -> Here {
    Here {
        name: name.to_owned(),
        cluster: Some(document.layout.cluster),
        layout_generation: document.layout.generation,
    }
}
