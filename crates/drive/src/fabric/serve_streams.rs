//! Shard streams, the server's side.

use bytes::Bytes;
use futures::StreamExt;
use holdfast_proto::v1;
use holdfast_types::ErrorClass;
use http_body::Body as HttpBody;
use prost::Message;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tonic::{Status, body::Body};
use tracing::Instrument;

use super::{
    fault::{malformed, refusal, status_of},
    frame::{MessageReader, Outgoing, QueueBody, blocks_head, message_frame, trailers},
    host::Host,
    settings::{MESSAGE_BYTES_MAX, MESSAGES_IN_FLIGHT, STREAM_IDLE, UPLOAD_SILENCE},
    wire,
};
use crate::node::{BlockStream, ShardUpload};

/// Takes the shards of an upload. The answer's headers leave at once, so that the sender knows that it
/// was let in.
pub async fn upload<B>(
    host: &Host,
    first: &Bytes,
    messages: MessageReader<B>,
) -> Result<http::Response<Body>, Status>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let permit = host.admit_stream()?;
    let open = read::<v1::UploadMessage>(first.clone())?.open;
    let open = open.ok_or_else(|| refusal(ErrorClass::Invalid, "an upload without targets"))?;
    let targets = wire::read_open_upload(&open).map_err(|error| malformed(&error))?;
    let count = targets.len();
    let upload = host.node()?.upload(targets).await.map_err(|error| status_of(&error))?;
    let (queue, outgoing) = mpsc::channel(MESSAGES_IN_FLIGHT);
    let taking = async move {
        let reply = take(upload, count, messages).await;
        drop(permit);
        let status = match reply {
            Ok(reply) => {
                let reply = message_frame(&reply);
                let _ = queue.send(Outgoing::Message(reply, Bytes::new())).await;
                Status::ok("")
            }
            Err(status) => status,
        };
        // A peer that is gone needs no answer.
        let _ = queue.send(Outgoing::End(Some(trailers(&status)))).await;
    };
    tokio::spawn(taking.in_current_span());
    Ok(streaming(outgoing))
}

/// Feeds an upload until it is finished. An upload that is dropped leaves nothing behind.
async fn take<B>(
    mut upload: Box<dyn ShardUpload>,
    targets: usize,
    mut messages: MessageReader<B>,
) -> Result<v1::UploadReply, Status>
where
    B: HttpBody<Data = Bytes> + Send + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    loop {
        let Some(message) = messages.next_after(MESSAGE_BYTES_MAX, UPLOAD_SILENCE).await? else {
            return Err(refusal(ErrorClass::Invalid, "the upload ended before it was finished"));
        };
        let message = read::<v1::UploadMessage>(message)?;
        if message.finish {
            let results = upload.finish().await;
            let results = results.iter().map(wire::upload_result).collect();
            return Ok(v1::UploadReply { results });
        }
        let target = message.target as usize;
        if target >= targets {
            return Err(refusal(ErrorClass::Invalid, "an upload's message names no target"));
        }
        upload.send(target, message.blocks).await.map_err(|error| status_of(&error))?;
    }
}

/// Gives the blocks of a shard.
pub async fn read_shard(host: &Host, first: &Bytes) -> Result<http::Response<Body>, Status> {
    let permit = host.admit_stream()?;
    let asked = read::<v1::ShardRead>(first.clone())?;
    let asked = wire::read_shard_read(&asked).map_err(|error| malformed(&error))?;
    let blocks = host.node()?.read_shard(asked).await.map_err(|error| status_of(&error))?;
    let (queue, outgoing) = mpsc::channel(MESSAGES_IN_FLIGHT);
    tokio::spawn(give(blocks, queue, permit).in_current_span());
    Ok(streaming(outgoing))
}

/// Sends blocks until they end or the reader goes.
async fn give(
    mut blocks: BlockStream,
    queue: mpsc::Sender<Outgoing>,
    _permit: OwnedSemaphorePermit,
) {
    let status = loop {
        match blocks.next().await {
            None => break Status::ok(""),
            Some(Err(error)) => break status_of(&error),
            Some(Ok(bytes)) => {
                let message = Outgoing::Message(blocks_head(1, 0, bytes.len()), bytes);
                let sent = tokio::time::timeout(STREAM_IDLE, queue.send(message)).await;
                if !matches!(sent, Ok(Ok(()))) {
                    // The reader is gone or takes nothing: closing the queue resets the stream.
                    return;
                }
            }
        }
    };
    let _ = queue.send(Outgoing::End(Some(trailers(&status)))).await;
}

fn read<M: Message + Default>(message: impl bytes::Buf) -> Result<M, Status> {
    let wrong = |error| refusal(ErrorClass::Invalid, format!("decode message: {error}"));
    M::decode(message).map_err(wrong)
}

fn streaming(outgoing: mpsc::Receiver<Outgoing>) -> http::Response<Body> {
    grpc_answer(Body::new(QueueBody::new(outgoing)))
}

/// An answer whose body is a stream.
pub fn grpc_answer(body: Body) -> http::Response<Body> {
    let mut response = http::Response::new(body);
    let grpc = http::HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(http::header::CONTENT_TYPE, grpc);
    response
}
