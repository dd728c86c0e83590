//! A server and its clients over loopback.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use holdfast_drive::{
    api::DriveError,
    fabric::{
        FabricService, Here, Host, HostConfig, RemoteConfig, RemoteNode, Startup, TcpDialer,
        auth::Key, settings,
    },
    node::Node,
};
use holdfast_proto::v1;
use holdfast_types::{
    ClusterId, DriveId, ErrorClass,
    seam::{Clock, ManualClock, Random, SeededRandom},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use parking_lot::Mutex;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use crate::double::Double;

pub const SECRET: &[u8] = b"the secret of this cluster";
pub const CLUSTER: ClusterId = ClusterId(77);
pub const SECOND: Duration = Duration::from_secs(1);
/// The clock of both sides, far from zero.
pub const NOW_MICROS: u64 = 1_700_000_000_000_000;

/// Remembers what it was asked to keep.
#[derive(Default)]
pub struct Papers(pub Mutex<Vec<Bytes>>);

#[async_trait]
impl Startup for Papers {
    async fn survey(&self, opens: Vec<v1::DriveOpens>) -> Result<v1::SurveyReply, DriveError> {
        Ok(v1::SurveyReply { node: "double".to_owned(), drives: Vec::new(), opens })
    }

    async fn propose(&self, document: Bytes) -> Result<(), DriveError> {
        self.0.lock().push(document);
        Ok(())
    }

    async fn commit(&self, _: Bytes) -> Result<(), DriveError> {
        Err(DriveError::failed(DriveId::NIL, ErrorClass::Conflict, "another layout was proposed"))
    }
}

pub struct Server {
    pub node: Arc<Double>,
    pub papers: Arc<Papers>,
    pub clock: ManualClock,
    pub address: SocketAddr,
    listener: JoinHandle<()>,
    connections: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

fn here() -> watch::Receiver<Here> {
    let here = Here { name: "here".to_owned(), cluster: Some(CLUSTER), layout_generation: 1 };
    watch::Sender::new(here).subscribe()
}

impl Server {
    pub async fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().expect("an address"), 1).await
    }

    pub async fn start_at(address: SocketAddr, seed: u64) -> Self {
        let double = Arc::new(Double::default());
        Self::start_with(address, seed, double.clone(), double).await
    }

    /// In front of `node` instead of a double.
    pub async fn start_over(node: Arc<dyn Node>) -> Self {
        let address = "127.0.0.1:0".parse().expect("an address");
        Self::start_with(address, 1, Arc::default(), node).await
    }

    async fn start_with(
        address: SocketAddr,
        seed: u64,
        double: Arc<Double>,
        node: Arc<dyn Node>,
    ) -> Self {
        let papers = Arc::new(Papers::default());
        let clock = ManualClock::at(NOW_MICROS);
        let host = Host::new(HostConfig {
            key: Key::of_secret(SECRET),
            here: here(),
            startup: papers.clone(),
            clock: Arc::new(clock.clone()),
            random: Arc::new(SeededRandom::new(seed)),
        });
        host.serve(node);
        let listener = TcpListener::bind(address).await.expect("bind loopback");
        let address = listener.local_addr().expect("bound");
        let connections = Arc::new(Mutex::new(Vec::new()));
        let service = FabricService::new(host);
        let listener = tokio::spawn(accept(listener, service, connections.clone()));
        Self { node: double, papers, clock, address, listener, connections }
    }

    /// Ends as a killed process does: every connection closes, the port is free.
    pub async fn kill(self) {
        self.listener.abort();
        let _ = self.listener.await;
        let connections = std::mem::take(&mut *self.connections.lock());
        for connection in connections {
            connection.abort();
            let _ = connection.await;
        }
    }

    pub fn client(&self) -> RemoteNode {
        client(self.address, 100, |_| {})
    }
}

async fn accept(
    listener: TcpListener,
    service: FabricService,
    connections: Arc<Mutex<Vec<JoinHandle<()>>>>,
) {
    loop {
        let (stream, _) = listener.accept().await.expect("accept");
        let service = TowerToHyperService::new(service.clone());
        let mut server = auto::Builder::new(TokioExecutor::new());
        server
            .http2()
            .initial_stream_window_size(settings::STREAM_WINDOW_BYTES)
            .initial_connection_window_size(settings::CONNECTION_WINDOW_BYTES)
            .max_frame_size(settings::FRAME_BYTES);
        let connection = tokio::spawn(async move {
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        });
        connections.lock().push(connection);
    }
}

/// A client of the server at `address`, changed by `change`.
pub fn client(
    address: SocketAddr,
    seed: u64,
    change: impl FnOnce(&mut RemoteConfig),
) -> RemoteNode {
    let mut config = RemoteConfig {
        url: format!("http://{address}"),
        key: Key::of_secret(SECRET),
        here: here(),
        clock: Arc::new(ManualClock::at(NOW_MICROS)) as Arc<dyn Clock>,
        random: Arc::new(SeededRandom::new(seed)) as Arc<dyn Random>,
        dialer: Arc::new(TcpDialer),
    };
    change(&mut config);
    RemoteNode::start(config)
}
