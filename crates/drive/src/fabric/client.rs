//! [`RemoteNode`]: the drives of another node, over the fabric.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use holdfast_proto::v1::{self, startup_client::StartupClient};
use holdfast_types::{
    ClusterId, DriveId, ErrorClass, limits,
    seam::{Clock, Random},
};
use tokio::sync::watch;
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

use super::{
    auth::Key,
    fault::CallFault,
    link::Link,
    session::{PeerInfo, Session},
    settings, streams, wire,
};
use crate::{
    api::{
        DriveError, DriveRequest, DriveResult, MemberRequest, ShardRead, ShardSource, UploadTarget,
    },
    node::{BlockStream, Node, ShardUpload},
};

/// What this process says of itself in handshakes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Here {
    /// Its name, for messages to people.
    pub name: String,
    /// Its cluster, once it knows one. Peers of other clusters refuse it.
    pub cluster: Option<ClusterId>,
    /// The generation of its layout.
    pub layout_generation: u32,
}

/// Makes connections: the network's seam on the client's side.
pub trait Dialer: Send + Sync + 'static {
    /// A channel to `endpoint` that connects when it is first used.
    fn dial(&self, endpoint: &Endpoint) -> Channel;
}

/// Connections over TCP.
#[derive(Debug, Clone, Copy, Default)]
pub struct TcpDialer;

impl Dialer for TcpDialer {
    fn dial(&self, endpoint: &Endpoint) -> Channel {
        endpoint.connect_lazy()
    }
}

/// How to reach a node.
pub struct RemoteConfig {
    /// `http://host:port`.
    pub url: String,
    /// The cluster secret's key.
    pub key: Key,
    /// What this process says of itself; read at each handshake.
    pub here: watch::Receiver<Here>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance: nonces need to be unique, not secret.
    pub random: Arc<dyn Random>,
    /// The network.
    pub dialer: Arc<dyn Dialer>,
}

/// The drives of another node.
pub struct RemoteNode {
    config: Arc<RemoteConfig>,
    link: Link,
}

impl RemoteNode {
    /// Starts to connect, on the current tokio runtime.
    #[must_use]
    pub fn start(config: RemoteConfig) -> Self {
        let config = Arc::new(config);
        Self { link: Link::start(config.clone()), config }
    }

    /// Whether the node is connected now. A lost one is noticed within
    /// [`super::link::NOTICE_MAX`] without traffic, at once with it.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.link.is_up()
    }

    /// Why the node is away; `None` when it is not known to be.
    #[must_use]
    pub fn why_down(&self) -> Option<String> {
        self.link.why_down()
    }

    /// What the node said of itself when it was connected.
    ///
    /// # Errors
    /// When it is away.
    pub async fn peer(&self) -> Result<PeerInfo, DriveError> {
        let session = self.link.session().await;
        session.map(|session| session.peer.clone()).map_err(|fault| self.failed(&fault))
    }

    /// What is on the node's drives, before there is a layout; `opens` tells how often the caller's own drives
    /// were opened, which the node keeps before it answers.
    ///
    /// # Errors
    /// When the node cannot be asked, or could not keep it.
    pub async fn survey(&self, opens: Vec<v1::DriveOpens>) -> Result<v1::SurveyReply, DriveError> {
        let request = v1::SurveyRequest { opens };
        self.startup(|mut client| async move { client.survey(request).await }).await
    }

    /// Asks the node to keep a proposed layout on all its drives: step one of formatting.
    ///
    /// # Errors
    /// When the node did not, or may not have.
    pub async fn propose(&self, document: Bytes) -> Result<(), DriveError> {
        let document = v1::LayoutDocument { document };
        self.startup(|mut client| async move { client.propose(document).await }).await.map(drop)
    }

    /// Asks the node to format its drives by a layout that all nodes keep: step two.
    ///
    /// # Errors
    /// When the node did not, or may not have.
    pub async fn commit(&self, document: Bytes) -> Result<(), DriveError> {
        let document = v1::LayoutDocument { document };
        self.startup(|mut client| async move { client.commit(document).await }).await.map(drop)
    }

    async fn startup<T, F>(
        &self,
        ask: impl FnOnce(StartupClient<super::session::SignedChannel>) -> F,
    ) -> Result<T, DriveError>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let session = self.link.session().await.map_err(|fault| self.failed(&fault))?;
        let client = StartupClient::new(session.control())
            .max_decoding_message_size(limits::CONTROL_MESSAGE_BYTES_MAX);
        let deadline = Duration::from_micros(limits::CALL_MICROS);
        let outcome = within(&session, deadline, ask(client)).await;
        outcome.map_err(|fault| self.failed(&fault))
    }

    fn failed(&self, fault: &CallFault) -> DriveError {
        fault.error(&self.config.url, DriveId::NIL)
    }

    /// One message to the node; the caller keeps the deadline.
    async fn exchange(
        &self,
        deadline: Duration,
        batch: &[(DriveId, DriveRequest)],
    ) -> Result<Vec<DriveResult>, CallFault> {
        let call = |session: Arc<Session>| async move {
            let mut message = wire::call(deadline, batch);
            if let Some(context) = holdfast_trace::outgoing() {
                (message.traceparent, message.tracestate) = (context.parent, context.state);
            }
            session.exchange(is_large(batch)).call(&message).await
        };
        read_reply(self.renewing(call).await?, batch.len())
    }

    /// Asks under the open session. A session that the node does not know any more (it was restarted)
    /// is renewed once: what was refused for that was not carried out.
    async fn renewing<T, F>(&self, ask: impl Fn(Arc<Session>) -> F) -> Result<T, CallFault>
    where
        F: Future<Output = Result<T, CallFault>>,
    {
        let session = self.link.session().await?;
        match ask(session.clone()).await {
            Err(fault) if fault.is_denied() => ask(self.link.session_after(&session).await?).await,
            outcome => outcome,
        }
    }
}

/// Waits for a call on a session: not beyond the deadline, and not beyond the session.
async fn within<T>(
    session: &Session,
    deadline: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, CallFault> {
    let outcome = tokio::select! {
        outcome = tokio::time::timeout(deadline, call) => outcome,
        () = session.over() => return Err(CallFault::Lost("the connection was lost".to_owned())),
    };
    match outcome {
        Ok(Ok(reply)) => Ok(reply.into_inner()),
        Err(_) => Err(CallFault::Lost(format!("no answer within {deadline:?}"))),
        Ok(Err(status)) => {
            let fault = CallFault::of(&status);
            if !matches!(fault, CallFault::Refused(_)) {
                session.give_up();
            }
            Err(fault)
        }
    }
}

fn read_reply(reply: v1::CallReply, asked: usize) -> Result<Vec<DriveResult>, CallFault> {
    let results: Result<Vec<_>, _> = reply.results.into_iter().map(wire::read_result).collect();
    match results {
        Ok(results) if results.len() == asked => Ok(results),
        Ok(results) => {
            Err(CallFault::Lost(format!("{} results for {asked} requests", results.len())))
        }
        Err(error) => Err(CallFault::Lost(error.to_string())),
    }
}

#[async_trait]
impl Node for RemoteNode {
    fn name(&self) -> &str {
        &self.config.url
    }

    async fn call(
        &self,
        deadline: Duration,
        batch: Vec<(DriveId, DriveRequest)>,
    ) -> Vec<DriveResult> {
        let started = self.config.clock.monotonic_micros();
        let mut results = Vec::with_capacity(batch.len());
        for piece in pieces(&batch) {
            let spent = self.config.clock.monotonic_micros().saturating_sub(started);
            let left = deadline.saturating_sub(Duration::from_micros(spent));
            let outcome = tokio::time::timeout(left, self.exchange(left, piece)).await;
            let late = || CallFault::Lost(format!("no answer within {deadline:?}"));
            match outcome.unwrap_or_else(|_| Err(late())) {
                Ok(answers) => results.extend(answers),
                Err(fault) => {
                    let error = |(drive, _): &(DriveId, _)| Err(fault.error(self.name(), *drive));
                    results.extend(piece.iter().map(error));
                }
            }
        }
        debug_assert_eq!(results.len(), batch.len());
        results
    }

    async fn upload(&self, targets: Vec<UploadTarget>) -> Result<Box<dyn ShardUpload>, DriveError> {
        let targets = &targets;
        let open = |session: Arc<Session>| async move {
            streams::upload(&self.config.url, &session, targets).await
        };
        self.renewing(open).await.map_err(|fault| self.failed(&fault))
    }

    async fn read_shard(&self, read: ShardRead) -> Result<BlockStream, DriveError> {
        let wanted = &read;
        let open = |session: Arc<Session>| async move {
            streams::read_shard(&self.config.url, &session, wanted).await
        };
        self.renewing(open).await.map_err(|fault| fault.error(&self.config.url, read.drive))
    }
}

/// A batch in pieces that each fit a message, in order.
fn pieces(batch: &[(DriveId, DriveRequest)]) -> Vec<&[(DriveId, DriveRequest)]> {
    let mut pieces = Vec::new();
    let (mut from, mut bytes) = (0, 0);
    for (at, (_, request)) in batch.iter().enumerate() {
        let more = weight(request);
        let full = bytes + more > settings::CALL_BATCH_BYTES;
        if at > from && (full || at - from == limits::BATCH_REQUESTS_MAX) {
            pieces.push(&batch[from..at]);
            (from, bytes) = (at, 0);
        }
        bytes += more;
    }
    if from < batch.len() {
        pieces.push(&batch[from..]);
    }
    pieces
}

/// Whether a batch or its answer may be long beside the frames it would hold up.
fn is_large(batch: &[(DriveId, DriveRequest)]) -> bool {
    let pages = |request: &DriveRequest| {
        matches!(request, DriveRequest::Scan(_) | DriveRequest::ListChores(_))
    };
    let mut bytes = 0;
    batch.iter().any(|(_, request)| {
        bytes += weight(request);
        bytes > settings::LARGE_CALL_BYTES || pages(request)
    })
}

/// Bytes of a request on the wire, at most: an entry is counted anew though it may be shared.
fn weight(request: &DriveRequest) -> usize {
    /// Identifiers, ballots, scopes and tags.
    const FIXED_BYTES: usize = 512;
    let entry = |metadata: usize, parts: usize| metadata + parts * 48;
    let source = |source: &ShardSource| match source {
        ShardSource::Inline(bytes) => bytes.len(),
        _ => 0,
    };
    let own = match request {
        DriveRequest::Accept(a) => {
            let guard = a.guard.as_ref().map_or(0, |g| g.prefix.len() + 2 * g.key.name.len());
            let entry = entry(a.entry.metadata.len(), a.entry.parts.len());
            2 * a.key.name.len() + entry + source(&a.source) + guard
        }
        DriveRequest::Install(i) => {
            let entry = entry(i.entry.metadata.len(), i.entry.parts.len());
            2 * i.key.name.len() + entry + source(&i.source)
        }
        DriveRequest::Prepare(p) => 2 * p.key.name.len(),
        DriveRequest::Read(r) => 2 * r.key.name.len(),
        DriveRequest::Settle(s) => 2 * s.key.name.len(),
        DriveRequest::Purge(p) => 2 * p.key.name.len(),
        DriveRequest::Verify(v) => 2 * v.key.name.len(),
        DriveRequest::Scan(s) => s.start.len() + s.end.as_ref().map_or(0, Bytes::len),
        DriveRequest::Pin(p) => 18 * p.operations.len(),
        DriveRequest::ListChores(l) => l.after.as_ref().map_or(0, Bytes::len),
        DriveRequest::Member(asked) => match asked {
            MemberRequest::Issue(issue) => issue.membership.len(),
            MemberRequest::Begin(begin) => {
                begin.issue.membership.len() + 40 * begin.collected.buckets.len()
            }
            MemberRequest::ListIndex(list) => list.start.len(),
            MemberRequest::Restock(r) => 2 * r.key.name.len() + source(&r.source),
            MemberRequest::Fill(issue) => issue.membership.len(),
            MemberRequest::Filled(filled) => {
                filled.ranges.iter().map(|r| r.start.len() + r.end.len() + 80).sum()
            }
            MemberRequest::Membership | MemberRequest::Rebuilt(_) | MemberRequest::Ranges => 0,
        },
        DriveRequest::InstallBucket(_) | DriveRequest::Facts | DriveRequest::Scrub(_) => 0,
    };
    FIXED_BYTES + own
}

/// An error for all of an upload.
pub(super) fn stream_error(url: &str, status: &Status, drive: DriveId) -> DriveError {
    CallFault::of(status).error(url, drive)
}

/// An error of a stream that ended against its format.
pub(super) fn broken_stream(url: &str, drive: DriveId, what: &str) -> DriveError {
    DriveError::failed(drive, ErrorClass::Unavailable, format!("stream from {url}: {what}"))
}
