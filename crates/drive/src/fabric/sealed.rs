//! Frames of an exchange: whatever waits when the stream takes bytes leaves as one gRPC message under
//! one MAC (ADR 0016).
//!
//! ```text
//! 0 | length u32 | 1: time fixed64 | 2: mac 32 bytes | 3: content = parts
//!                                    part = 1: number | 2 call, 3 reply or 4 refused: its bytes
//! ```
//! A call alone leaves at once, in a frame of its own; calls that come while the connection is busy
//! share the next frame, its MAC, its system call and the wake-ups at both ends. Nobody waits for
//! others to come.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{BufMut, Bytes, BytesMut};
use holdfast_proto::v1;
use holdfast_types::seam::Clock;
use http_body::{Body, Frame};
use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint},
};
use tokio::sync::mpsc;
use tonic::Status;

use super::{
    auth::{AuthError, FrameMac, MAC_BYTES},
    fault::refusal,
    frame::{HEADER_BYTES, put_header, trailers},
    settings::EXCHANGE_FRAME_BYTES,
};

/// Fields 1 and 2 and their tags.
const SEAL_BYTES: usize = 1 + 8 + 2 + MAC_BYTES;

/// What a part carries, encoded already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartKind {
    /// A CallRequest.
    Call = 2,
    /// A CallReply.
    Reply = 3,
    /// A DriveError.
    Refused = 4,
}

/// One call or answer on its way into a frame.
#[derive(Debug)]
pub struct Part {
    number: u64,
    kind: PartKind,
    content: Vec<u8>,
}

impl Part {
    /// A message as a part.
    pub fn new(number: u64, kind: PartKind, message: &impl Message) -> Self {
        Self { number, kind, content: message.encode_to_vec() }
    }

    /// Bytes of the ExchangePart, its own tag and length left out.
    fn inner_len(&self) -> usize {
        let content = self.content.len();
        1 + encoded_len_varint(self.number) + 1 + encoded_len_varint(content as u64) + content
    }

    fn len(&self) -> usize {
        let inner = self.inner_len();
        1 + encoded_len_varint(inner as u64) + inner
    }

    fn put(&self, frame: &mut BytesMut) {
        encode_key(1, WireType::LengthDelimited, frame);
        encode_varint(self.inner_len() as u64, frame);
        encode_key(1, WireType::Varint, frame);
        encode_varint(self.number, frame);
        encode_key(self.kind as u32, WireType::LengthDelimited, frame);
        encode_varint(self.content.len() as u64, frame);
        frame.extend_from_slice(&self.content);
    }
}

/// Makes the frames of one direction of a stream.
pub struct Sealer {
    mac: FrameMac,
    clock: Arc<dyn Clock>,
}

impl Sealer {
    /// Frames under `mac`, stamped by `clock`.
    pub const fn new(mac: FrameMac, clock: Arc<dyn Clock>) -> Self {
        Self { mac, clock }
    }

    /// One frame of `parts`.
    pub fn seal(&mut self, parts: &[Part]) -> Bytes {
        let content: usize = parts.iter().map(Part::len).sum();
        let message = SEAL_BYTES + 1 + encoded_len_varint(content as u64) + content;
        let mut frame = BytesMut::with_capacity(HEADER_BYTES + message);
        put_header(&mut frame, message);
        let time_micros = self.clock.wall_micros();
        encode_key(1, WireType::SixtyFourBit, &mut frame);
        frame.put_u64_le(time_micros);
        encode_key(2, WireType::LengthDelimited, &mut frame);
        encode_varint(MAC_BYTES as u64, &mut frame);
        let mac_at = frame.len();
        frame.put_bytes(0, MAC_BYTES);
        encode_key(3, WireType::LengthDelimited, &mut frame);
        encode_varint(content as u64, &mut frame);
        let content_at = frame.len();
        parts.iter().for_each(|part| part.put(&mut frame));
        debug_assert_eq!(frame.len(), HEADER_BYTES + message);
        let code = self.mac.sign(time_micros, &frame[content_at..]);
        frame[mac_at..mac_at + MAC_BYTES].copy_from_slice(&code);
        frame.freeze()
    }
}

/// Takes a frame apart after its seal was checked; answers the sender's clock, too.
///
/// # Errors
/// [`AuthError::WrongSecret`] for a frame that is not the next of this stream's, or a status for one
/// that is malformed.
pub fn open(mac: &mut FrameMac, message: Bytes) -> Result<(u64, Vec<v1::ExchangePart>), Status> {
    let malformed = |_| refusal(holdfast_types::ErrorClass::Invalid, "decode frame of an exchange");
    let frame = v1::SealedFrame::decode(message).map_err(malformed)?;
    if !mac.verify(frame.time_micros, &frame.content, &frame.mac) {
        return Err(AuthError::WrongSecret.into());
    }
    let content = v1::ExchangeContent::decode(frame.content).map_err(malformed)?;
    Ok((frame.time_micros, content.parts))
}

/// What is queued for a body: something that becomes a part when it leaves, or the stream's end.
pub type Queued<T> = Result<T, Status>;

/// Turns what was queued into a part at the moment it leaves; `None` when it need not leave any more.
pub trait Leaving: Send + 'static {
    /// What is queued.
    type Item: Send + 'static;

    /// The part.
    fn part(&mut self, item: Self::Item) -> Option<Part>;
}

/// A body of frames, fed by a queue. A queue that closes resets the stream.
pub struct FrameBody<L: Leaving> {
    opening: Option<Bytes>,
    queue: mpsc::Receiver<Queued<L::Item>>,
    leaving: L,
    sealer: Sealer,
    end: Option<Status>,
    ended: bool,
}

impl<L: Leaving> FrameBody<L> {
    /// The body of `queue`, after `opening`.
    pub const fn new(
        opening: Option<Bytes>,
        queue: mpsc::Receiver<Queued<L::Item>>,
        leaving: L,
        sealer: Sealer,
    ) -> Self {
        Self { opening, queue, leaving, sealer, end: None, ended: false }
    }

    /// What waits, up to a frame's size; pending when nothing does. An end that follows is kept.
    fn poll_parts(&mut self, cx: &mut Context<'_>) -> Poll<Vec<Part>> {
        let (mut parts, mut bytes) = (Vec::new(), 0);
        while bytes < EXCHANGE_FRAME_BYTES && self.end.is_none() {
            match self.queue.poll_recv(cx) {
                Poll::Ready(Some(Ok(item))) => {
                    let Some(part) = self.leaving.part(item) else { continue };
                    bytes += part.len();
                    parts.push(part);
                }
                Poll::Ready(Some(Err(end))) => self.end = Some(end),
                Poll::Ready(None) => {
                    self.end = Some(Status::cancelled("the sender gave the stream up"));
                }
                Poll::Pending if parts.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready(parts)
    }
}

impl<L: Leaving + Unpin> Body for FrameBody<L> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(opening) = self.opening.take() {
            return Poll::Ready(Some(Ok(Frame::data(opening))));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        let parts = ready!(self.poll_parts(cx));
        if !parts.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(self.sealer.seal(&parts)))));
        }
        self.ended = true;
        let end = self.end.take().expect("no parts and not pending: the end was met");
        Poll::Ready(Some(match end.code() {
            tonic::Code::Cancelled => Err(end),
            _ => Ok(Frame::trailers(trailers(&end))),
        }))
    }
}

#[cfg(test)]
mod tests {
    use holdfast_types::seam::ManualClock;

    use super::*;
    use crate::fabric::auth::{Direction, Key};

    fn macs() -> (FrameMac, FrameMac) {
        let key = Key::of_secret(b"the secret of this cluster");
        let mac = || FrameMac::new(&key, Direction::Ask, 7);
        (mac(), mac())
    }

    fn call(number: u64) -> (Part, v1::ExchangePart) {
        let call = v1::CallRequest { deadline_micros: number * 1000, ..Default::default() };
        let part = Part::new(number, PartKind::Call, &call);
        let content = Some(v1::exchange_part::Content::Call(call));
        (part, v1::ExchangePart { number, content })
    }

    /// Goal: frames written by hand are what prost reads, in order, and nothing else verifies: not a
    /// changed bit, not a frame again, not one left out, not one of the other direction or stream.
    /// Method: seal three frames, open them whole, scribbled, again and out of order.
    #[test]
    fn frames_open_once_in_order_and_unchanged() {
        let (mac, mut theirs) = macs();
        let mut sealer = Sealer::new(mac, Arc::new(ManualClock::at(5)));
        let frames: Vec<Bytes> = (1..4)
            .map(|n| sealer.seal(&[call(n).0, call(300 * n).0]).slice(HEADER_BYTES..))
            .collect();
        let skipped = open(&mut macs().1, frames[1].clone());
        assert!(skipped.is_err(), "a frame was left out");
        for at in 0..frames[0].len() {
            let mut scribbled = frames[0].to_vec();
            scribbled[at] ^= 1;
            assert!(open(&mut macs().1, scribbled.into()).is_err(), "byte {at}");
        }
        for (n, frame) in (1..4).zip(&frames) {
            let parts = vec![call(n).1, call(300 * n).1];
            assert_eq!(open(&mut theirs, frame.clone()).expect("whole"), (5, parts));
        }
        let mut again = macs().1;
        assert!(open(&mut again, frames[0].clone()).is_ok());
        assert!(open(&mut again, frames[0].clone()).is_err(), "it was opened before");
        let key = Key::of_secret(b"the secret of this cluster");
        for mut other in
            [FrameMac::new(&key, Direction::Answer, 7), FrameMac::new(&key, Direction::Ask, 8)]
        {
            assert!(open(&mut other, frames[0].clone()).is_err());
        }
    }

    struct Plain;

    impl Leaving for Plain {
        type Item = u64;

        fn part(&mut self, number: u64) -> Option<Part> {
            (number != 0).then(|| call(number).0)
        }
    }

    /// Goal: what waits shares a frame, what comes alone leaves alone, and an end comes after what
    /// was queued before it. Method: a body polled by hand.
    #[tokio::test]
    async fn what_waits_together_leaves_together() {
        use http_body_util::BodyExt;
        let (mac, mut theirs) = macs();
        let sealer = Sealer::new(mac, Arc::new(ManualClock::at(5)));
        let (sender, queue) = mpsc::channel(16);
        let mut body = FrameBody::new(None, queue, Plain, sealer);
        for batch in [vec![1], vec![2, 0, 3, 4], vec![5]] {
            for n in &batch {
                sender.try_send(Ok(*n)).expect("room");
            }
            let frame =
                body.frame().await.expect("one").expect("sealed").into_data().expect("data");
            let (_, parts) = open(&mut theirs, frame.slice(HEADER_BYTES..)).expect("whole");
            let numbers: Vec<u64> = parts.iter().map(|part| part.number).collect();
            let sent: Vec<u64> = batch.into_iter().filter(|n| *n != 0).collect();
            assert_eq!(numbers, sent);
        }
        sender.try_send(Ok(6)).expect("room");
        sender.try_send(Err(Status::ok(""))).expect("room");
        assert!(body.frame().await.expect("one").expect("sealed").is_data());
        assert!(body.frame().await.expect("one").expect("trailers").is_trailers());
        assert!(body.frame().await.is_none());
    }
}
