//! What a node answers its peers with: its identity, its drives once they are open, its sessions, and
//! the bounds of what it takes on.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use bytes::Bytes;
use holdfast_proto::{PROTOCOL_MAX, PROTOCOL_MIN, v1, value};
use holdfast_types::{
    ClusterId, ErrorClass,
    seam::{Clock, Random},
};
use http::HeaderMap;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tonic::Status;

use super::{
    auth::{self, Key, check_clock},
    client::Here,
    fault::{malformed, refusal},
    sessions::Sessions,
    settings,
};
use crate::{api::DriveError, node::Node};

/// What a node does for its peers before there is a layout. Implemented by the daemon.
#[async_trait]
pub trait Startup: Send + Sync + 'static {
    /// What is on the drives of this node. How often the asker's drives were opened is kept durably first.
    async fn survey(&self, opens: Vec<v1::DriveOpens>) -> Result<v1::SurveyReply, DriveError>;

    /// Keeps a proposed layout on every drive of this node, durably.
    async fn propose(&self, document: Bytes) -> Result<(), DriveError>;

    /// Formats the drives of this node by a layout that was proposed, durably; repeating is harmless.
    async fn commit(&self, document: Bytes) -> Result<(), DriveError>;
}

/// The parts of a node that its fabric server works with.
pub struct HostConfig {
    /// The cluster secret's key.
    pub key: Key,
    /// What this process says of itself.
    pub here: watch::Receiver<Here>,
    /// Its work before there is a layout.
    pub startup: Arc<dyn Startup>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub random: Arc<dyn Random>,
}

/// Who was let in.
pub(super) struct Admitted {
    /// The session's key.
    pub key: Key,
    /// The call's number within the session.
    pub number: u64,
}

/// The server's state, shared by all its connections.
pub struct Host {
    config: HostConfig,
    node: OnceLock<Arc<dyn Node>>,
    sessions: Mutex<Sessions>,
    draining: watch::Sender<bool>,
    calls: Arc<Semaphore>,
    call_kib: Arc<Semaphore>,
    streams: Arc<Semaphore>,
}

impl Host {
    /// A host whose drives are not open yet.
    #[must_use]
    pub fn new(config: HostConfig) -> Arc<Self> {
        Arc::new(Self {
            config,
            node: OnceLock::new(),
            sessions: Mutex::default(),
            draining: watch::Sender::new(false),
            calls: Arc::new(Semaphore::new(settings::CALLS_MAX)),
            call_kib: Arc::new(Semaphore::new(settings::CALL_BYTES_MAX >> 10)),
            streams: Arc::new(Semaphore::new(settings::STREAMS_MAX)),
        })
    }

    /// Opens the drives to the peers. Once.
    pub fn serve(&self, node: Arc<dyn Node>) {
        let first = self.node.set(node).is_ok();
        assert!(first, "a host serves one node in its life");
    }

    /// Ends the exchanges with peers when the calls under way are answered: connections end only when
    /// their streams have. For a shutdown; peers meet a node that is away from then on.
    pub fn drain(&self) {
        self.draining.send_replace(true);
    }

    /// Whether [`Self::drain`] was called.
    pub(super) fn draining(&self) -> watch::Receiver<bool> {
        self.draining.subscribe()
    }

    /// The clock.
    pub(super) fn clock(&self) -> &Arc<dyn Clock> {
        &self.config.clock
    }

    /// The drives.
    pub(super) fn node(&self) -> Result<&Arc<dyn Node>, Status> {
        let starting = || refusal(ErrorClass::Unavailable, "the node is starting");
        self.node.get().ok_or_else(starting)
    }

    pub(super) fn startup(&self) -> &Arc<dyn Startup> {
        &self.config.startup
    }

    /// Room for one call.
    pub(super) fn admit_call(&self) -> Result<OwnedSemaphorePermit, Status> {
        let busy = |_| refusal(ErrorClass::Overloaded, "too many calls of peers at once");
        self.calls.clone().try_acquire_owned().map_err(busy)
    }

    /// Room for `bytes` more of a call.
    pub(super) fn admit_bytes(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Status> {
        let busy = |_| refusal(ErrorClass::Overloaded, "too many bytes of peers' calls at once");
        let kib = u32::try_from(bytes.div_ceil(1 << 10)).unwrap_or(u32::MAX);
        self.call_kib.clone().try_acquire_many_owned(kib).map_err(busy)
    }

    /// Room for one stream.
    pub(super) fn admit_stream(&self) -> Result<OwnedSemaphorePermit, Status> {
        let busy = |_| refusal(ErrorClass::Overloaded, "too many streams of peers at once");
        self.streams.clone().try_acquire_owned().map_err(busy)
    }

    /// Lets a call or stream of a session in, once.
    pub(super) fn authenticate(
        &self,
        path: &str,
        headers: &HeaderMap,
        first_message: &[u8],
    ) -> Result<Admitted, Status> {
        let stamp = auth::stamp_of(headers)?;
        let key = self.sessions.lock().key(stamp.session)?;
        auth::verify(&key, path, headers, first_message)?;
        check_clock(self.config.clock.wall_micros(), stamp.time_micros)?;
        self.sessions.lock().admit_call(stamp.session, stamp.number)?;
        Ok(Admitted { key, number: stamp.number })
    }

    /// Lets a handshake in by the cluster secret; its nonce is looked at by [`Self::shake_hands`].
    pub(super) fn authenticate_handshake(
        &self,
        path: &str,
        headers: &HeaderMap,
        message: &[u8],
    ) -> Result<(), Status> {
        Ok(auth::verify(&self.config.key, path, headers, message)?)
    }

    /// Answers a handshake: the peer knows the secret; do clocks, versions and clusters agree?
    pub(super) fn shake_hands(
        &self,
        asked: &v1::HandshakeRequest,
    ) -> Result<v1::HandshakeReply, Status> {
        let nonce = value::read_id(&asked.nonce, "nonce").map_err(|e| malformed(&e))?;
        let now = self.config.clock.wall_micros();
        let admitted = self.sessions.lock().admit_handshake(now, asked.wall_micros, nonce);
        admitted.inspect_err(|error| {
            tracing::warn!(peer = asked.name, "refuse handshake: {error}");
        })?;
        let here = self.config.here.borrow().clone();
        let protocol = agree(asked)?;
        check_cluster(here.cluster, asked)?;
        let answer = self.config.random.next_u128().to_be_bytes();
        let session = self.config.random.next_u128();
        let key = self.config.key.of_session(&nonce, &answer);
        self.sessions.lock().open(session, key);
        Ok(v1::HandshakeReply {
            protocol,
            cluster: here.cluster.map_or_else(Bytes::new, |id| value::id(id.to_bytes())),
            layout_generation: here.layout_generation,
            wall_micros: now,
            session: value::id(session.to_be_bytes()),
            nonce: value::id(answer),
            name: here.name,
            serving: self.node.get().is_some(),
            proof: Bytes::copy_from_slice(&self.config.key.proof(&nonce, &answer)),
        })
    }
}

/// The newest protocol version both speak.
fn agree(asked: &v1::HandshakeRequest) -> Result<u32, Status> {
    let newest = asked.protocol_max.min(PROTOCOL_MAX);
    if newest >= asked.protocol_min.max(PROTOCOL_MIN) {
        return Ok(newest);
    }
    let message = format!(
        "shake hands with {}: it speaks fabric protocol {} to {}, this node {PROTOCOL_MIN} to \
         {PROTOCOL_MAX}; bring both to neighbouring releases",
        asked.name, asked.protocol_min, asked.protocol_max
    );
    Err(refusal(ErrorClass::Unsupported, message))
}

/// Strangers of another cluster are refused; who has no cluster yet is not a stranger.
fn check_cluster(ours: Option<ClusterId>, asked: &v1::HandshakeRequest) -> Result<(), Status> {
    let Some(ours) = ours.filter(|_| !asked.cluster.is_empty()) else { return Ok(()) };
    let theirs = value::read_id(&asked.cluster, "cluster").map_err(|e| malformed(&e))?;
    let theirs = ClusterId::from_bytes(theirs);
    if theirs == ours {
        return Ok(());
    }
    let message = format!(
        "shake hands with {}: it belongs to cluster {theirs}, this node to {ours}; check the volumes \
         and addresses both were started with",
        asked.name
    );
    Err(refusal(ErrorClass::Denied, message))
}
