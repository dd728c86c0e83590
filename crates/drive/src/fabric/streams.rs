//! Shard streams, the client's side: frames written and read by hand on the bulk connections.

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};
use holdfast_proto::v1;
use holdfast_types::{DriveId, ErrorClass, limits};
use http::HeaderMap;
use http_body_util::Full;
use prost::Message;
use tokio::sync::mpsc;
use tonic::{Status, body::Body, transport::Channel};
use tower::{Service, ServiceExt};

use super::{
    auth::Stamp,
    client::{broken_stream, stream_error},
    fault::CallFault,
    frame::{MessageReader, Outgoing, QueueBody, blocks_head, message_frame},
    session::{Session, Signer, StreamPlace},
    settings::{MESSAGE_BYTES_MAX, MESSAGES_IN_FLIGHT, STREAM_IDLE},
    wire,
};
use crate::{
    api::{DriveError, ShardRead, UploadHandle, UploadTarget},
    node::{BlockStream, ShardUpload},
};

/// The method that takes shards.
pub const UPLOAD_PATH: &str = "/holdfast.fabric.v1.Bulk/Upload";
/// The method that gives a shard's blocks.
pub const READ_SHARD_PATH: &str = "/holdfast.fabric.v1.Bulk/ReadShard";

struct RemoteUpload {
    url: String,
    targets: Vec<UploadTarget>,
    queue: mpsc::Sender<Outgoing>,
    answer: MessageReader<Body>,
    /// What ended the stream early, told to every later call.
    ended: Option<DriveError>,
    _place: StreamPlace,
}

/// Opens an upload; returns when the node has let it in.
///
/// # Errors
/// The node's refusal, or why it could not be asked.
pub async fn upload(
    url: &str,
    session: &Session,
    targets: &[UploadTarget],
) -> Result<Box<dyn ShardUpload>, CallFault> {
    let open = v1::UploadMessage { open: Some(wire::open_upload(targets)), ..Default::default() };
    let first = message_frame(&open);
    let (queue, outgoing) = mpsc::channel(MESSAGES_IN_FLIGHT);
    queue
        .try_send(Outgoing::Message(first.clone(), Bytes::new()))
        .expect("a new queue has room for the opening");
    let (channel, place) = session.bulk();
    let (signer, body) = (&session.signer, Body::new(QueueBody::new(outgoing)));
    let request = signed(signer, signer.stamp(), UPLOAD_PATH, &first[5..], body);
    let answer = open_stream(channel, request, session).await?;
    let (url, targets) = (url.to_owned(), targets.to_vec());
    Ok(Box::new(RemoteUpload { url, targets, queue, answer, ended: None, _place: place }))
}

/// A request whose first message is signed and whose body is a stream.
pub(super) fn signed(
    signer: &Signer,
    stamp: Stamp,
    path: &str,
    first: &[u8],
    body: Body,
) -> http::Request<Body> {
    let mut request = http::Request::new(body);
    *request.method_mut() = http::Method::POST;
    *request.version_mut() = http::Version::HTTP_2;
    *request.uri_mut() = http::Uri::try_from(path).expect("paths here are constants");
    let headers = request.headers_mut();
    headers.insert("content-type", http::HeaderValue::from_static("application/grpc"));
    headers.insert("te", http::HeaderValue::from_static("trailers"));
    if let Some(context) = holdfast_trace::outgoing() {
        context.write(headers);
    }
    signer.sign(stamp, path, first, headers);
    request
}

/// Sends a request; returns the answer's messages once it was let in.
///
/// # Errors
/// The peer's refusal, or what the transport said.
pub(super) async fn accepted(
    mut channel: Channel,
    request: http::Request<Body>,
) -> Result<MessageReader<Body>, Status> {
    let ready = channel.ready().await.map_err(|e| Status::from_error(Box::new(e)))?;
    let response = ready.call(request).await.map_err(|e| Status::from_error(Box::new(e)))?;
    let (head, body) = response.into_parts();
    match Status::from_header_map(&head.headers) {
        Some(refused) if refused.code() != tonic::Code::Ok => Err(refused),
        _ => Ok(MessageReader::new(body)),
    }
}

/// Sends a request whose answer is a stream; a refusal in the answer's headers is an error.
async fn open_stream(
    channel: Channel,
    request: http::Request<Body>,
    session: &Session,
) -> Result<MessageReader<Body>, CallFault> {
    let asked = tokio::time::timeout(STREAM_IDLE, accepted(channel, request));
    let accepted = tokio::select! {
        accepted = asked => accepted,
        () = session.over() => return Err(CallFault::Lost("the connection was lost".to_owned())),
    };
    match accepted {
        Ok(Ok(messages)) => Ok(messages),
        Ok(Err(status)) => {
            let fault = CallFault::of(&status);
            if !matches!(fault, CallFault::Refused(_)) {
                session.give_up();
            }
            Err(fault)
        }
        Err(_) => Err(CallFault::Lost(format!("no answer within {STREAM_IDLE:?}"))),
    }
}

/// The status that ended a stream without the message that was waited for.
pub(super) fn end_of(trailers: Option<&HeaderMap>) -> Status {
    let named = trailers.and_then(Status::from_header_map);
    let named = named.filter(|status| status.code() != tonic::Code::Ok);
    named.unwrap_or_else(|| Status::unknown("the stream ended early"))
}

#[async_trait]
impl ShardUpload for RemoteUpload {
    async fn send(&mut self, target: usize, blocks: Bytes) -> Result<(), DriveError> {
        assert!(target < self.targets.len(), "target {target} of {}", self.targets.len());
        if let Some(error) = &self.ended {
            return Err(error.clone());
        }
        let block_bytes = self.targets[target].geometry.block_bytes.max(1) as usize;
        let step = (limits::CHUNK_BYTES / block_bytes).max(1) * block_bytes;
        let index = u32::try_from(target).expect("a set has at most 16 drives");
        let mut rest = blocks;
        while !rest.is_empty() {
            let piece = rest.split_to(step.min(rest.len()));
            let head = blocks_head(4, index, piece.len());
            self.push(Outgoing::Message(head, piece)).await?;
        }
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Vec<Result<UploadHandle, DriveError>> {
        let last = message_frame(&v1::UploadMessage { finish: true, ..Default::default() });
        let sent = match self.push(Outgoing::Message(last, Bytes::new())).await {
            Ok(()) => self.push(Outgoing::End(None)).await,
            Err(error) => Err(error),
        };
        if let Err(error) = sent {
            return self.all(&error);
        }
        let results = self.results().await;
        results.unwrap_or_else(|error| self.all(&error))
    }
}

impl RemoteUpload {
    /// Queues bytes. When the node has given the stream up, its reason is the error.
    async fn push(&mut self, outgoing: Outgoing) -> Result<(), DriveError> {
        let sent = tokio::time::timeout(STREAM_IDLE, self.queue.send(outgoing)).await;
        let error = match sent {
            Ok(Ok(())) => return Ok(()),
            Err(_) => self.late(),
            Ok(Err(_)) => self.results().await.err().unwrap_or_else(|| {
                broken_stream(&self.url, DriveId::NIL, "the node closed it early")
            }),
        };
        self.ended = Some(error.clone());
        Err(error)
    }

    /// The node's answer. The drives may be at their fsync: no byte moves, so the deadline of progress
    /// covers it all.
    async fn results(&mut self) -> Result<Vec<Result<UploadHandle, DriveError>>, DriveError> {
        let failed = |status: &Status| stream_error(&self.url, status, DriveId::NIL);
        match self.answer.next(MESSAGE_BYTES_MAX).await {
            Ok(Some(message)) => match v1::UploadReply::decode(message) {
                Ok(reply) => self.read(reply),
                Err(_) => Err(broken_stream(&self.url, DriveId::NIL, "its answer is malformed")),
            },
            Ok(None) => Err(failed(&end_of(self.answer.trailers()))),
            Err(status) => Err(failed(&status)),
        }
    }

    fn late(&self) -> DriveError {
        let why = format!("stream to {}: no progress within {STREAM_IDLE:?}", self.url);
        DriveError::failed(DriveId::NIL, ErrorClass::TimedOut, why)
    }

    fn read(
        &self,
        reply: v1::UploadReply,
    ) -> Result<Vec<Result<UploadHandle, DriveError>>, DriveError> {
        let results: Result<Vec<_>, _> =
            reply.results.into_iter().map(wire::read_upload_result).collect();
        match results {
            Ok(results) if results.len() == self.targets.len() => Ok(results),
            _ => Err(broken_stream(&self.url, DriveId::NIL, "its answer is malformed")),
        }
    }

    /// The same error for every target, in its own name.
    fn all(&self, error: &DriveError) -> Vec<Result<UploadHandle, DriveError>> {
        let of = |target: &UploadTarget| match error.clone() {
            DriveError::Failed { drive: DriveId::NIL, class, message } => {
                Err(DriveError::Failed { drive: target.drive, class, message })
            }
            named => Err(named),
        };
        self.targets.iter().map(of).collect()
    }
}

/// Opens a stream of blocks.
///
/// # Errors
/// What the drive answered, or why the node could not be asked.
pub async fn read_shard(
    url: &str,
    session: &Session,
    read: &ShardRead,
) -> Result<BlockStream, CallFault> {
    let drive = read.drive;
    let frame = message_frame(&wire::shard_read(read));
    let body = Body::new(Full::new(frame.clone()));
    let signer = &session.signer;
    let request = signed(signer, signer.stamp(), READ_SHARD_PATH, &frame[5..], body);
    let (channel, place) = session.bulk();
    let reader = open_stream(channel, request, session).await?;
    let state = Some((reader, place, url.to_owned()));
    let blocks = stream::unfold(state, move |state| async move {
        let (mut reader, place, url) = state?;
        match next_blocks(&mut reader).await {
            Ok(Some(blocks)) => Some((Ok(blocks), Some((reader, place, url)))),
            Ok(None) => None,
            Err(status) => Some((Err(stream_error(&url, &status, drive)), None)),
        }
    });
    Ok(blocks.boxed())
}

async fn next_blocks(reader: &mut MessageReader<Body>) -> Result<Option<Bytes>, Status> {
    let Some(message) = reader.next(MESSAGE_BYTES_MAX).await? else {
        // A whole stream ends with a status; without one it was cut.
        let status = reader.trailers().and_then(Status::from_header_map);
        return match status {
            Some(status) if status.code() == tonic::Code::Ok => Ok(None),
            Some(status) => Err(status),
            None => Err(Status::unknown("the stream was cut")),
        };
    };
    let blocks = v1::Blocks::decode(message)
        .map_err(|error| Status::internal(format!("decode blocks: {error}")))?;
    Ok(Some(blocks.blocks))
}
