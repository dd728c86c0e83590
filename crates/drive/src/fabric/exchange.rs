//! The client's side of an exchange: calls to one peer over one long stream, answers in any order.
//!
//! ```text
//! call --Asked--> [queue] --body polled--> pending, frame --> peer
//!                    | stream lost            | stream lost        | answer
//!                    v                        v                    v
//!                 NotSent                   Lost              reply or Refused
//! ```
//! A call that never left its queue was certainly not sent; one that did is unknown until its answer
//! comes.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use holdfast_proto::v1;
use holdfast_types::{ErrorClass, limits};
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};
use tonic::{Status, body::Body, transport::Channel};

use super::{
    auth::{Direction, FrameMac},
    fault::CallFault,
    frame::{HEADER_BYTES, MessageReader},
    sealed::{self, FrameBody, Leaving, Part, PartKind, Queued, Sealer},
    session::Signer,
    settings::{CALLS_QUEUED, EXCHANGE_MESSAGE_BYTES_MAX},
    streams::{accepted, end_of, signed},
    wire,
};

/// The method of an exchange.
pub const EXCHANGE_PATH: &str = "/holdfast.fabric.v1.Control/Exchange";

type Outcome = Result<v1::CallReply, CallFault>;

/// What tells a caller. Dropped untold, the call never left.
struct Answer(Option<oneshot::Sender<Outcome>>);

impl Answer {
    fn tell(mut self, outcome: Outcome) {
        if let Some(caller) = self.0.take() {
            // The caller may have gone.
            let _ = caller.send(outcome);
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(caller) = self.0.take() {
            let why = "the connection was lost before the call was sent";
            let _ = caller.send(Err(CallFault::NotSent(why.to_owned())));
        }
    }
}

/// A call on its way to the stream.
pub struct Asked {
    part: Part,
    number: u64,
    answer: Answer,
}

/// Calls that were sent and not answered; `None` once the stream is lost.
type Pending = Arc<Mutex<Option<HashMap<u64, Answer>>>>;

/// Notes a call as sent at the moment it leaves.
struct Sending(Pending);

impl Leaving for Sending {
    type Item = Asked;

    fn part(&mut self, asked: Asked) -> Option<Part> {
        let caller_waits = asked.answer.0.as_ref().is_some_and(|caller| !caller.is_closed());
        if !caller_waits {
            return None;
        }
        // When the stream is lost already, dropping the answer says that it was not sent.
        self.0.lock().as_mut()?.insert(asked.number, asked.answer);
        Some(asked.part)
    }
}

/// One stream of calls to a peer.
pub struct Exchange {
    queue: mpsc::Sender<Queued<Asked>>,
    pending: Pending,
    next: AtomicU64,
    reader: JoinHandle<()>,
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.reader.abort();
        lose(&self.pending, "the session was given up");
    }
}

/// Forgets a call whose caller has gone.
struct Forget<'a>(&'a Exchange, u64);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        let answer = self.0.pending.lock().as_mut().and_then(|calls| calls.remove(&self.1));
        if let Some(answer) = answer {
            answer.tell(Err(CallFault::Lost("the caller has gone".to_owned())));
        }
    }
}

impl Exchange {
    /// Opens the stream on `channel`. When it ends, `broken` is told.
    ///
    /// # Errors
    /// The peer's refusal, or what the transport said.
    pub async fn open(
        channel: Channel,
        signer: &Signer,
        broken: watch::Sender<bool>,
    ) -> Result<Self, Status> {
        // An empty message: what is to be known is in the signature.
        let opening = Bytes::from_static(&[0; HEADER_BYTES]);
        let (queue, waiting) = mpsc::channel(CALLS_QUEUED);
        let pending: Pending = Arc::new(Mutex::new(Some(HashMap::new())));
        let stamped = signer.stamp();
        let mac = |direction| FrameMac::new(signer.key(), direction, stamped.number);
        let sealer = Sealer::new(mac(Direction::Ask), signer.clock());
        let body = FrameBody::new(Some(opening), waiting, Sending(pending.clone()), sealer);
        let request = signed(signer, stamped, EXCHANGE_PATH, &[], Body::new(body));
        let messages = accepted(channel, request).await?;
        let reading = read(messages, mac(Direction::Answer), pending.clone(), broken);
        let reader = tokio::spawn(reading);
        Ok(Self { queue, pending, next: AtomicU64::new(1), reader })
    }

    /// Calls that wait to be sent.
    pub fn waiting(&self) -> usize {
        CALLS_QUEUED - self.queue.capacity()
    }

    /// Calls the peer. Waits as long as the caller does.
    pub async fn call(&self, call: &v1::CallRequest) -> Outcome {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let part = Part::new(number, PartKind::Call, call);
        let (told, answer) = oneshot::channel();
        let forget = Forget(self, number);
        // A closed queue drops what is sent to it, which answers the call as not sent.
        let _ = self.queue.send(Ok(Asked { part, number, answer: Answer(Some(told)) })).await;
        let outcome = answer.await;
        std::mem::forget(forget);
        outcome.unwrap_or_else(|_| Err(CallFault::Lost("the connection was lost".to_owned())))
    }
}

/// Answers all that were sent as unknown, and none is sent from now on.
fn lose(pending: &Pending, why: &str) {
    let lost = pending.lock().take();
    for answer in lost.into_iter().flatten().map(|(_, answer)| answer) {
        answer.tell(Err(CallFault::Lost(why.to_owned())));
    }
}

/// Hands out answers until the stream ends or the session is given up.
async fn read(
    mut messages: MessageReader<Body>,
    mut mac: FrameMac,
    pending: Pending,
    broken: watch::Sender<bool>,
) {
    let mut watched = broken.subscribe();
    let over = async {
        // This task holds a sender: waiting ends by the value alone.
        let _ = watched.wait_for(|over| *over).await;
    };
    tokio::pin!(over);
    let why = loop {
        let message = tokio::select! {
            message = messages.next_whenever(EXCHANGE_MESSAGE_BYTES_MAX) => message,
            _ = &mut over => break "the connection was lost".to_owned(),
        };
        let message = match message {
            Ok(Some(message)) => message.into_bytes(),
            Ok(None) => break end_of(messages.trailers()).message().to_owned(),
            Err(status) => break super::fault::describe(&status),
        };
        match sealed::open(&mut mac, message) {
            Ok((_, parts)) => parts.into_iter().for_each(|part| deliver(&pending, part)),
            Err(status) => break status.message().to_owned(),
        }
    };
    lose(&pending, &why);
    broken.send_replace(true);
}

fn deliver(pending: &Pending, part: v1::ExchangePart) {
    use v1::exchange_part::Content;
    let answer = pending.lock().as_mut().and_then(|calls| calls.remove(&part.number));
    // An answer that came after its deadline.
    let Some(answer) = answer else { return };
    answer.tell(match part.content {
        Some(Content::Reply(reply)) => Ok(reply),
        Some(Content::Refused(error)) => match wire::read_drive_error(&error) {
            Ok(error) => Err(CallFault::Refused(error)),
            Err(error) => Err(CallFault::Lost(error.to_string())),
        },
        _ => Err(CallFault::Lost("the answer is none".to_owned())),
    });
}

const _: () = assert!(EXCHANGE_MESSAGE_BYTES_MAX > limits::CONTROL_MESSAGE_BYTES_MAX);

/// A refusal as an answer's part.
pub fn refused(number: u64, status: &Status) -> Part {
    let class = holdfast_proto::status::class_named(status).unwrap_or(ErrorClass::Internal);
    let error = crate::api::DriveError::failed(
        holdfast_types::DriveId::NIL,
        class,
        status.message().to_owned(),
    );
    Part::new(number, PartKind::Refused, &wire::drive_error(&error))
}
