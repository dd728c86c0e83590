//! One session with one peer: its connections, its key, its calls' numbers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::future::BoxFuture;
use holdfast_proto::{PROTOCOL_MAX, PROTOCOL_MIN, v1, v1::control_client::ControlClient};
use holdfast_types::{ClusterId, ErrorClass, seam::Clock};
use http_body_util::{BodyExt, Full};
use tokio::sync::watch;
use tonic::{
    Status,
    body::Body,
    transport::{Channel, Endpoint},
};
use tower::{Service, ServiceExt};

use super::{
    RemoteConfig,
    auth::{self, Key, Stamp, check_clock},
    exchange::Exchange,
    fault::refusal,
    settings,
};

/// What signs the calls of one session (or the handshake that opens it).
#[derive(Clone)]
pub struct Signer {
    key: Key,
    session: u128,
    next: Arc<AtomicU64>,
    config: Arc<RemoteConfig>,
}

impl Signer {
    /// What the next call or stream is signed with; no two are alike.
    pub fn stamp(&self) -> Stamp {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let time_micros = self.config.clock.wall_micros();
        Stamp { time_micros, session: self.session, number }
    }

    /// Adds a call's signature.
    pub fn sign(
        &self,
        stamp: Stamp,
        path: &str,
        first_message: &[u8],
        headers: &mut http::HeaderMap,
    ) {
        auth::sign(&self.key, path, stamp, first_message, headers);
    }

    /// The session's key.
    pub const fn key(&self) -> &Key {
        &self.key
    }

    /// The clock that stamps.
    pub fn clock(&self) -> Arc<dyn Clock> {
        self.config.clock.clone()
    }
}

/// A channel that signs what it carries. For calls of one message.
#[derive(Clone)]
pub struct SignedChannel {
    channel: Channel,
    signer: Signer,
}

impl Service<http::Request<Body>> for SignedChannel {
    type Response = http::Response<Body>;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let Self { mut channel, signer } = self.clone();
        Box::pin(async move {
            let (mut parts, body) = request.into_parts();
            let frame = body.collect().await?.to_bytes();
            let message = frame.get(5..).unwrap_or_default();
            signer.sign(signer.stamp(), parts.uri.path(), message, &mut parts.headers);
            let request = http::Request::from_parts(parts, Body::new(Full::new(frame)));
            Ok(channel.ready().await?.call(request).await?)
        })
    }
}

/// A bulk connection and how many streams are on it.
struct BulkConnection {
    channel: Channel,
    streams: Arc<AtomicUsize>,
}

/// A stream's place on its connection, given back when dropped.
pub struct StreamPlace(Arc<AtomicUsize>);

impl Drop for StreamPlace {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the peer said of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerInfo {
    /// Its name for itself.
    pub name: String,
    /// Its cluster; nil while it knows none.
    pub cluster: ClusterId,
    /// The generation of its layout.
    pub layout_generation: u32,
    /// Whether its drives can be called.
    pub serving: bool,
}

/// An open session.
pub struct Session {
    control: SignedChannel,
    exchanges: Vec<Exchange>,
    bulk: Vec<BulkConnection>,
    broken: watch::Sender<bool>,
    /// What signs its streams.
    pub signer: Signer,
    /// The peer.
    pub peer: PeerInfo,
}

impl Session {
    /// Connects and shakes hands.
    ///
    /// # Errors
    /// The peer's refusal, or what the transport said.
    pub async fn open(config: Arc<RemoteConfig>) -> Result<Self, Status> {
        let endpoint = endpoint(&config.url)?;
        let control = config.dialer.dial(&endpoint);
        let (peer, signer) = shake_hands(control.clone(), &config).await?;
        let broken = watch::Sender::new(false);
        let more = (1..settings::CONTROL_CONNECTIONS).map(|_| config.dialer.dial(&endpoint));
        let channels = std::iter::once(control.clone()).chain(more);
        let open = |channel| Exchange::open(channel, &signer, broken.clone());
        let exchanges = futures::future::try_join_all(channels.map(open)).await?;
        let bulk = (0..settings::BULK_CONNECTIONS).map(|_| BulkConnection {
            channel: config.dialer.dial(&endpoint),
            streams: Arc::default(),
        });
        Ok(Self {
            control: SignedChannel { channel: control, signer: signer.clone() },
            exchanges,
            bulk: bulk.collect(),
            broken,
            signer,
            peer,
        })
    }

    /// For calls before there is a layout.
    pub fn control(&self) -> SignedChannel {
        self.control.clone()
    }

    /// The exchange for a call. Large ones, and those with large answers, have the last for
    /// themselves, so that they hold up nothing; small ones share the first, and with it its frames,
    /// until so many wait there that the next has something to do.
    pub fn exchange(&self, is_large: bool) -> &Exchange {
        let (last, small) = self.exchanges.split_last().expect("a session has exchanges");
        if is_large {
            return last;
        }
        let free = small.iter().find(|exchange| exchange.waiting() < settings::CALLS_SHARING);
        free.or_else(|| small.iter().min_by_key(|exchange| exchange.waiting())).unwrap_or(last)
    }

    /// The bulk connection with the fewest streams.
    pub fn bulk(&self) -> (Channel, StreamPlace) {
        let least = self.bulk.iter().min_by_key(|c| c.streams.load(Ordering::Relaxed));
        let least = least.expect("a session has bulk connections");
        least.streams.fetch_add(1, Ordering::Relaxed);
        (least.channel.clone(), StreamPlace(least.streams.clone()))
    }

    /// Declares the session over: its peer is gone, or does not know it any more.
    pub fn give_up(&self) {
        self.broken.send_replace(true);
    }

    /// Returns when the session is over.
    pub async fn over(&self) {
        let mut broken = self.broken.subscribe();
        // The sender lives in self, so waiting can only end by its value.
        let _ = broken.wait_for(|broken| *broken).await;
    }
}

fn endpoint(url: &str) -> Result<Endpoint, Status> {
    let endpoint = Endpoint::from_shared(url.to_owned())
        .map_err(|error| refusal(ErrorClass::Invalid, format!("parse node URL {url}: {error}")))?;
    Ok(endpoint
        .connect_timeout(settings::CONNECT_TIMEOUT)
        .initial_stream_window_size(settings::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(settings::CONNECTION_WINDOW_BYTES)
        .max_frame_size(settings::FRAME_BYTES)
        .http2_adaptive_window(false)
        .http2_keep_alive_interval(settings::KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(settings::KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true))
}

async fn shake_hands(
    channel: Channel,
    config: &Arc<RemoteConfig>,
) -> Result<(PeerInfo, Signer), Status> {
    let nonce = config.random.next_u128().to_be_bytes();
    let here = config.here.borrow().clone();
    let cluster =
        here.cluster.map_or_else(Bytes::new, |id| holdfast_proto::value::id(id.to_bytes()));
    let asked = v1::HandshakeRequest {
        protocol_min: PROTOCOL_MIN,
        protocol_max: PROTOCOL_MAX,
        cluster,
        layout_generation: here.layout_generation,
        wall_micros: config.clock.wall_micros(),
        nonce: Bytes::copy_from_slice(&nonce),
        name: here.name,
    };
    let next = Arc::new(AtomicU64::new(0));
    let opener = Signer { key: config.key.clone(), session: 0, next, config: config.clone() };
    let channel = SignedChannel { channel, signer: opener };
    let reply = ControlClient::new(channel).handshake(asked).await?.into_inner();
    if !config.key.proves(&nonce, &reply.nonce, &reply.proof) {
        let why = "the answer does not prove knowledge of the cluster secret; something else listens \
                   at this address";
        return Err(refusal(ErrorClass::Denied, why));
    }
    check_clock(config.clock.wall_micros(), reply.wall_micros)?;
    let known = |bytes: &[u8], field| {
        holdfast_proto::value::read_id(bytes, field)
            .map_err(|error| super::fault::malformed(&error))
    };
    let cluster = match reply.cluster.len() {
        0 => ClusterId::NIL,
        _ => ClusterId::from_bytes(known(&reply.cluster, "cluster")?),
    };
    let signer = Signer {
        key: config.key.of_session(&nonce, &reply.nonce),
        session: u128::from_be_bytes(known(&reply.session, "session")?),
        next: Arc::new(AtomicU64::new(1)),
        config: config.clone(),
    };
    let peer = PeerInfo {
        name: reply.name,
        cluster,
        layout_generation: reply.layout_generation,
        serving: reply.serving,
    };
    Ok((peer, signer))
}
