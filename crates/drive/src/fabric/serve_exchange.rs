//! The server's side of an exchange: one task a stream reads the calls, lets the drives work on all of
//! them at once, and sends each answer when it is there.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use holdfast_proto::v1;
use holdfast_types::{DriveId, ErrorClass, limits};
use http_body::Body as HttpBody;
use prost::Message;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tonic::{Status, body::Body};
use tracing::Instrument;

use super::{
    auth::{Direction, FrameMac, check_clock},
    exchange::refused,
    fault::malformed,
    frame::MessageReader,
    host::{Admitted, Host},
    sealed::{self, FrameBody, Leaving, Part, PartKind, Queued, Sealer},
    serve_streams::grpc_answer,
    settings::{CALLS_QUEUED, EXCHANGE_MESSAGE_BYTES_MAX},
    wire,
};
use crate::api::{DriveError, DriveResult};

/// Answers are parts already.
struct Answering;

impl Leaving for Answering {
    type Item = Part;

    fn part(&mut self, part: Part) -> Option<Part> {
        Some(part)
    }
}

/// Opens an exchange that was authenticated. The answer's headers leave at once.
pub fn exchange<B>(
    host: &Arc<Host>,
    admitted: &Admitted,
    messages: MessageReader<B>,
) -> Result<http::Response<Body>, Status>
where
    B: HttpBody<Data = bytes::Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let permit = host.admit_stream()?;
    let (queue, outgoing) = mpsc::channel(CALLS_QUEUED);
    let mac = |direction| FrameMac::new(&admitted.key, direction, admitted.number);
    let sealer = Sealer::new(mac(Direction::Answer), host.clock().clone());
    let serving = Serving { host: host.clone(), queue, mac: mac(Direction::Ask), _permit: permit };
    tokio::spawn(serving.run(messages));
    Ok(grpc_answer(Body::new(FrameBody::new(None, outgoing, Answering, sealer))))
}

/// One stream being served.
struct Serving {
    host: Arc<Host>,
    queue: mpsc::Sender<Queued<Part>>,
    mac: FrameMac,
    _permit: OwnedSemaphorePermit,
}

impl Serving {
    async fn run<B>(mut self, mut messages: MessageReader<B>)
    where
        B: HttpBody<Data = bytes::Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut calls: FuturesUnordered<BoxFuture<'static, Part>> = FuturesUnordered::new();
        let mut drain = self.host.draining();
        let draining = async {
            // The host lives as long as this task: waiting ends by the value alone.
            let _ = drain.wait_for(|draining| *draining).await;
        };
        tokio::pin!(draining);
        let mut open = true;
        while open || !calls.is_empty() {
            tokio::select! {
                Some(answer) = calls.next() => {
                    if self.queue.send(Ok(answer)).await.is_err() {
                        return;
                    }
                }
                message = messages.next_whenever(EXCHANGE_MESSAGE_BYTES_MAX), if open => {
                    // A caller that is gone needs no answers; what the drives were asked goes on.
                    let Ok(Some(message)) = message else { return };
                    match self.take(message.into_bytes()) {
                        Ok(more) => calls.extend(more),
                        Err(status) => {
                            tracing::warn!("end exchange: {}", status.message());
                            let _ = self.queue.send(Err(status)).await;
                            return;
                        }
                    }
                }
                _ = &mut draining, if open => open = false,
            }
        }
        let _ = self.queue.send(Err(Status::ok("the node is shutting down"))).await;
    }

    /// The calls of a frame, begun.
    fn take(&mut self, message: bytes::Bytes) -> Result<Vec<BoxFuture<'static, Part>>, Status> {
        let bytes = message.len();
        let (time, parts) = sealed::open(&mut self.mac, message)?;
        let clock = check_clock(self.host.clock().wall_micros(), time).map_err(Status::from);
        // Held until the last call of the frame is answered: their bytes are one piece of memory.
        let room = clock.and_then(|()| self.host.admit_bytes(bytes)).map(Arc::new);
        let begin = |part: v1::ExchangePart| {
            let number = part.number;
            let begun = room.clone().and_then(|room| self.begin(part, room));
            begun.unwrap_or_else(|status| {
                let refused = refused(number, &status);
                Box::pin(std::future::ready(refused))
            })
        };
        Ok(parts.into_iter().map(begin).collect())
    }

    fn begin(
        &self,
        part: v1::ExchangePart,
        room: Arc<OwnedSemaphorePermit>,
    ) -> Result<BoxFuture<'static, Part>, Status> {
        let Some(v1::exchange_part::Content::Call(mut call)) = part.content else {
            return Err(malformed(&holdfast_proto::WireError::Missing("call")));
        };
        let context = holdfast_trace::Context {
            parent: std::mem::take(&mut call.traceparent),
            state: std::mem::take(&mut call.tracestate),
        };
        let permit = self.host.admit_call()?;
        let (deadline, batch) = wire::read_call(call).map_err(|error| malformed(&error))?;
        let number = part.number;
        if batch.is_empty() {
            // A probe: the session is known and somebody is at home.
            let answer = Part::new(number, PartKind::Reply, &v1::CallReply::default());
            return Ok(Box::pin(std::future::ready(answer)));
        }
        let node = self.host.node()?.clone();
        let deadline = deadline.min(Duration::from_micros(limits::CALL_MICROS));
        let span = || holdfast_trace::span!("fabric.serve", otel.kind = "server", method = "call");
        let span = holdfast_trace::incoming(&context, span);
        let answered = async move {
            let asked = batch.len();
            let results = node.call(deadline, batch).await;
            assert_eq!(results.len(), asked, "a node answers every request");
            drop((room, permit));
            Part::new(number, PartKind::Reply, &reply(&results))
        };
        Ok(Box::pin(answered.instrument(span)))
    }
}

/// Results as a message within its limit: what does not fit is answered as too much.
fn reply(results: &[DriveResult]) -> v1::CallReply {
    /// Tag and length of a result, and room for the error that takes its place.
    const OVERHEAD_BYTES: usize = 256;
    let mut left = limits::CONTROL_MESSAGE_BYTES_MAX;
    let fitting = results.iter().map(|result| {
        let message = wire::result(result);
        let bytes = message.encoded_len() + OVERHEAD_BYTES;
        match left.checked_sub(bytes) {
            Some(rest) => {
                left = rest;
                message
            }
            None => wire::result(&Err(DriveError::failed(
                DriveId::NIL,
                ErrorClass::Overloaded,
                "the answer is beyond the limit of a message; ask for less at once",
            ))),
        }
    });
    v1::CallReply { results: fitting.collect() }
}
