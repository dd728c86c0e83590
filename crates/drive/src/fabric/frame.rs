//! gRPC messages as frames, without prost's copies: a message's bytes stay the `Bytes` they came in or
//! go out as (DESIGN section 6).
//!
//! ```text
//! compressed u8 = 0 | length u32 | message (protobuf)
//! ```

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use holdfast_proto::status;
use holdfast_types::ErrorClass;
use http::HeaderMap;
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use prost::{Message, encoding};
use tokio::sync::mpsc;
use tonic::Status;

use super::settings::STREAM_IDLE;

/// Bytes of the header of a frame.
pub const HEADER_BYTES: usize = 5;

/// A small message as a frame.
#[must_use]
pub fn message_frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(HEADER_BYTES + length);
    put_header(&mut frame, length);
    message.encode(&mut frame).expect("a BytesMut grows");
    frame.freeze()
}

/// The bytes before `blocks` in a frame whose message ends with `blocks` as field `field`. `target` is
/// field 2 of an UploadMessage, left out at 0 as protobuf wants.
#[must_use]
pub fn blocks_head(field: u32, target: u32, blocks: usize) -> Bytes {
    let mut message = BytesMut::with_capacity(24);
    if target != 0 {
        encoding::uint32::encode(2, &target, &mut message);
    }
    encoding::encode_key(field, encoding::WireType::LengthDelimited, &mut message);
    encoding::encode_varint(blocks as u64, &mut message);
    let mut frame = BytesMut::with_capacity(HEADER_BYTES + message.len());
    put_header(&mut frame, message.len() + blocks);
    frame.extend_from_slice(&message);
    frame.freeze()
}

/// Begins a frame whose message has `length` bytes.
pub fn put_header(frame: &mut BytesMut, length: usize) {
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).expect("messages are far below 4 GiB"));
}

/// What a stream's task hands to its body.
#[derive(Debug)]
pub enum Outgoing {
    /// A frame's head and the bytes that follow it.
    Message(Bytes, Bytes),
    /// The end, with trailers in an answer.
    End(Option<HeaderMap>),
}

/// A body that carries what its queue brings. A queue that closes without [`Outgoing::End`] resets the
/// stream, so that the other side never takes a cut stream for a whole one.
#[derive(Debug)]
pub struct QueueBody {
    queue: mpsc::Receiver<Outgoing>,
    payload: Option<Bytes>,
    ended: bool,
}

impl QueueBody {
    /// The body fed by `queue`. Bounded, so that a slow peer holds its sender back; a tokio queue takes
    /// part in tokio's budget, so that a body that is never pending does not starve its connection.
    #[must_use]
    pub const fn new(queue: mpsc::Receiver<Outgoing>) -> Self {
        Self { queue, payload: None, ended: false }
    }
}

impl Body for QueueBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(payload) = self.payload.take() {
            return Poll::Ready(Some(Ok(Frame::data(payload))));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        match ready!(self.queue.poll_recv(cx)) {
            Some(Outgoing::Message(head, payload)) => {
                self.payload = (!payload.is_empty()).then_some(payload);
                Poll::Ready(Some(Ok(Frame::data(head))))
            }
            Some(Outgoing::End(trailers)) => {
                self.ended = true;
                Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
            }
            None => {
                self.ended = true;
                Poll::Ready(Some(Err(Status::cancelled("the sender gave the stream up"))))
            }
        }
    }
}

/// Received bytes in the pieces they came in.
#[derive(Debug, Default)]
pub struct Pieces {
    pieces: VecDeque<Bytes>,
    remaining: usize,
}

impl Pieces {
    fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.remaining += piece.len();
            self.pieces.push_back(piece);
        }
    }

    /// Moves the first `len` bytes out; there must be as many.
    fn split_to(&mut self, len: usize) -> Self {
        assert!(len <= self.remaining, "the caller waited for {len} bytes");
        let mut front = Self::default();
        while front.remaining < len {
            let wanted = len - front.remaining;
            let mut piece = self.pieces.pop_front().expect("remaining counts the pieces' bytes");
            if piece.len() > wanted {
                let rest = piece.split_off(wanted);
                self.pieces.push_front(rest);
            }
            self.remaining -= piece.len();
            front.push(piece);
        }
        front
    }

    /// The bytes in one piece; a copy only when they came in several.
    #[must_use]
    pub fn into_bytes(mut self) -> Bytes {
        let len = self.remaining;
        self.copy_to_bytes(len)
    }
}

impl Buf for Pieces {
    fn remaining(&self) -> usize {
        self.remaining
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.front().map_or(&[], |piece| piece)
    }

    fn advance(&mut self, count: usize) {
        drop(self.split_to(count));
    }

    fn copy_to_bytes(&mut self, len: usize) -> Bytes {
        let mut front = self.split_to(len);
        if front.pieces.len() <= 1 {
            return front.pieces.pop_front().unwrap_or_default();
        }
        let mut whole = BytesMut::with_capacity(len);
        front.pieces.iter().for_each(|piece| whole.extend_from_slice(piece));
        whole.freeze()
    }
}

/// Takes the messages of a body apart.
pub struct MessageReader<B> {
    body: B,
    received: Pieces,
    /// The length of the message whose header has been read.
    expected: Option<usize>,
    trailers: Option<HeaderMap>,
}

impl<B> MessageReader<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// The messages of `body`.
    pub fn new(body: B) -> Self {
        Self { body, received: Pieces::default(), expected: None, trailers: None }
    }

    /// The next message, `None` at the end. Each piece of it has to come within the progress deadline.
    ///
    /// # Errors
    /// A status without a class when the stream broke, with one when the peer does not keep to the
    /// format.
    pub async fn next(&mut self, bytes_max: usize) -> Result<Option<Pieces>, Status> {
        self.next_within(bytes_max, Some(STREAM_IDLE)).await
    }

    /// As [`Self::next`], of a stream that may be silent for `silence` between messages.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub async fn next_after(
        &mut self,
        bytes_max: usize,
        silence: Duration,
    ) -> Result<Option<Pieces>, Status> {
        self.next_within(bytes_max, Some(silence)).await
    }

    /// As [`Self::next`], of a stream that may be silent for as long as it likes between messages. May
    /// be dropped and called again: what came is kept.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub async fn next_whenever(&mut self, bytes_max: usize) -> Result<Option<Pieces>, Status> {
        self.next_within(bytes_max, None).await
    }

    async fn next_within(
        &mut self,
        bytes_max: usize,
        silence: Option<Duration>,
    ) -> Result<Option<Pieces>, Status> {
        let length = match self.expected {
            Some(length) => length,
            None => {
                if !self.fill(HEADER_BYTES, silence).await? {
                    let whole = self.received.remaining == 0;
                    let cut = || Err(malformed("the stream ends in a header"));
                    return if whole { Ok(None) } else { cut() };
                }
                self.header(bytes_max)?
            }
        };
        self.expected = Some(length);
        if !self.fill(length, Some(STREAM_IDLE)).await? {
            return Err(malformed("the stream ends in a message"));
        }
        self.expected = None;
        Ok(Some(self.received.split_to(length)))
    }

    /// Takes a header, which has come, out of what was received.
    fn header(&mut self, bytes_max: usize) -> Result<usize, Status> {
        let mut header = self.received.split_to(HEADER_BYTES);
        if header.get_u8() != 0 {
            return Err(malformed("compressed messages are not spoken here"));
        }
        let length = header.get_u32() as usize;
        if length > bytes_max {
            return Err(malformed("a message is beyond its limit"));
        }
        Ok(length)
    }

    /// The trailers, once [`Self::next`] has returned `None`.
    pub const fn trailers(&self) -> Option<&HeaderMap> {
        self.trailers.as_ref()
    }

    /// Waits for `wanted` bytes, `silence` at most for each piece; false when the stream ends before.
    async fn fill(&mut self, wanted: usize, silence: Option<Duration>) -> Result<bool, Status> {
        while self.received.remaining < wanted {
            let frame = match silence {
                Some(silence) => tokio::time::timeout(silence, self.body.frame())
                    .await
                    .map_err(|_| Status::deadline_exceeded("the stream makes no progress"))?,
                None => self.body.frame().await,
            };
            match frame {
                None => return Ok(false),
                Some(Err(broken)) => return Err(Status::from_error(broken.into())),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.received.push(data),
                    Err(other) => self.trailers = other.into_trailers().ok(),
                },
            }
        }
        Ok(true)
    }
}

/// A status as the trailers of an answer.
#[must_use]
pub fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if status.add_header(&mut trailers).is_err() {
        // Only metadata that is no header text fails, and ours is made of digits.
        trailers.insert("grpc-status", http::HeaderValue::from_static("13"));
    }
    trailers
}

fn malformed(what: &str) -> Status {
    status::status(ErrorClass::Invalid, format!("read stream: {what}"), Bytes::new())
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use holdfast_proto::v1;
    use http_body_util::StreamBody;

    use super::*;

    fn reader(
        bytes: &Bytes,
        step: usize,
    ) -> MessageReader<impl Body<Data = Bytes, Error = Status> + Unpin + use<>> {
        let pieces: Vec<_> = bytes.chunks(step).map(Bytes::copy_from_slice).collect();
        let frames = pieces.into_iter().map(|piece| Ok::<_, Status>(Frame::data(piece)));
        MessageReader::new(StreamBody::new(futures::stream::iter(frames)))
    }

    /// Goal: who waits for a client's bytes may be silent between messages, and not within one. Method: a message, a pause, and
    /// another that breaks off, with time that passes by itself.
    #[tokio::test(start_paused = true)]
    async fn silence_between_messages_is_borne_where_it_is_expected() {
        let message = message_frame(&v1::UploadMessage { target: 3, ..Default::default() });
        let pause = 4 * STREAM_IDLE;
        let pieces = |pieces: [(Duration, Bytes); 3]| {
            let sent = futures::stream::iter(pieces).then(|(pause, piece)| async move {
                tokio::time::sleep(pause).await;
                Ok::<_, Status>(Frame::data(piece))
            });
            MessageReader::new(StreamBody::new(Box::pin(sent)))
        };
        let none = Duration::ZERO;
        let (begun, rest) = (message.slice(..6), message.slice(6..));
        let sent = [(none, message.clone()), (pause, begun), (pause, rest)];
        let mut impatient = pieces(sent.clone());
        assert!(impatient.next(1 << 20).await.unwrap().is_some());
        assert!(impatient.next(1 << 20).await.is_err());
        let mut patient = pieces(sent);
        assert!(patient.next_after(1 << 20, 2 * pause).await.unwrap().is_some());
        let broken = patient.next_after(1 << 20, 2 * pause).await.unwrap_err();
        assert!(broken.message().contains("no progress"), "{broken}");
    }

    /// Goal: heads written by hand are what prost would write, and messages come out however the
    /// network cuts them. Method: hand-made frames for several targets, cut in every step, decoded
    /// by prost.
    #[tokio::test]
    async fn handmade_messages_are_protobuf_however_they_are_cut() {
        let blocks = Bytes::from(vec![9; 300]);
        let mut sent = BytesMut::new();
        for target in [0, 1, 15] {
            sent.extend_from_slice(&blocks_head(4, target, blocks.len()));
            sent.extend_from_slice(&blocks);
        }
        let last = v1::UploadMessage { finish: true, ..Default::default() };
        sent.extend_from_slice(&message_frame(&last));
        let sent = sent.freeze();
        for step in [1, 2, 7, 300, 4096] {
            let mut reader = reader(&sent, step);
            for target in [0, 1, 15] {
                let message = reader.next(1000).await.expect("whole").expect("there");
                let message = v1::UploadMessage::decode(message).expect("protobuf");
                let expected =
                    v1::UploadMessage { target, blocks: blocks.clone(), ..Default::default() };
                assert_eq!(message, expected, "step {step}");
            }
            let message = reader.next(1000).await.expect("whole").expect("there");
            assert_eq!(v1::UploadMessage::decode(message), Ok(last.clone()));
            assert!(reader.next(1000).await.expect("whole").is_none());
        }
    }

    #[tokio::test]
    async fn cut_oversized_and_compressed_messages_are_errors() {
        let frame = message_frame(&v1::Blocks { blocks: Bytes::from(vec![1; 100]) });
        for cut in 1..frame.len() {
            assert!(reader(&frame.slice(..cut), 64).next(1000).await.is_err(), "cut at {cut}");
        }
        assert!(reader(&frame, 64).next(50).await.is_err());
        let mut compressed = frame.to_vec();
        compressed[0] = 1;
        assert!(reader(&compressed.into(), 64).next(1000).await.is_err());
    }

    /// A sender that vanishes must not look like one that finished.
    #[tokio::test]
    async fn a_queue_that_closes_without_an_end_is_an_error() {
        let (sender, queue) = mpsc::channel(4);
        let mut body = QueueBody::new(queue);
        sender.try_send(Outgoing::Message(Bytes::from_static(b"h"), Bytes::new())).expect("room");
        drop(sender);
        assert!(body.frame().await.expect("a frame").is_ok());
        assert!(body.frame().await.expect("an error").is_err());
        assert!(body.frame().await.is_none());
    }
}
