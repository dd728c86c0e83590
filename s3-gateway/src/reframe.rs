//! Bounds what s3s buffers of an aws-chunked body.
//!
//! s3s holds a whole chunk in memory before it passes any of it on, and takes chunks of any size. A
//! signed chunk must be held, because its signature comes out at its end: larger ones than
//! [`SIGNED_CHUNK_BYTES_MAX`] are refused. An unsigned chunk need not be: SDKs send whole gigabytes in
//! one, so it is cut into chunks as the bytes arrive, without copying them.
//!
//! ```text
//! Size --line--> Data --last byte--> DataEnd --CRLF--> Size
//!   \--"0" line--> Rest (trailers, passed on as they are)
//! ```
//!
//! A body ends in `Rest` or not at all: s3s takes the end of the connection for the end of the chunks, also
//! where the last, empty one, whose signature says that this was all, never came.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use futures::Stream;
use s3s::{StdError, stream::ByteStream};

/// The largest signed chunk. SDKs send 64 KiB to 1 MiB.
pub(crate) const SIGNED_CHUNK_BYTES_MAX: u64 = 16 << 20;

/// A chunk's first line: size, signature, CRLF. s3s allows as much.
const LINE_BYTES_MAX: usize = 1024;

/// What the client did wrong. s3s wraps it in errors of its own; [`crate::body`] knows the text.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReframeError {
    #[error("signed chunk is larger than {SIGNED_CHUNK_BYTES_MAX} bytes")]
    ChunkTooLarge,
    #[error("chunk framing is malformed")]
    Malformed,
    #[error("the body ended before its last chunk")]
    Incomplete,
}

enum State {
    Size(Vec<u8>),
    Data(u64),
    DataEnd(usize),
    Rest,
}

/// An aws-chunked body whose chunks are small.
pub(crate) struct Reframed {
    inner: s3s::Body,
    signed: bool,
    state: State,
    out: VecDeque<Bytes>,
}

impl Reframed {
    pub(crate) fn new(inner: s3s::Body, signed: bool) -> Self {
        Self { inner, signed, state: State::Size(Vec::new()), out: VecDeque::new() }
    }

    fn take_in(&mut self, mut bytes: Bytes) -> Result<(), ReframeError> {
        if self.signed {
            self.out.push_back(bytes.clone());
        }
        while !bytes.is_empty() {
            match &mut self.state {
                State::Size(line) => {
                    if let Some(size) = take_line(line, &mut bytes)? {
                        self.begin_chunk(size)?;
                    }
                }
                State::Data(left) => {
                    let count = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    let piece = bytes.split_to(count);
                    *left -= count as u64;
                    if *left == 0 {
                        self.state = State::DataEnd(0);
                    }
                    if !self.signed {
                        self.out.push_back(format!("{count:x}\r\n").into());
                        self.out.push_back(piece);
                        self.out.push_back(Bytes::from_static(b"\r\n"));
                    }
                }
                State::DataEnd(seen) => {
                    if bytes.get_u8() != b"\r\n"[*seen] {
                        return Err(ReframeError::Malformed);
                    }
                    *seen += 1;
                    if *seen == 2 {
                        self.state = State::Size(Vec::new());
                    }
                }
                State::Rest => {
                    let rest = std::mem::take(&mut bytes);
                    if !self.signed {
                        self.out.push_back(rest);
                    }
                }
            }
        }
        Ok(())
    }

    /// What the end of the bytes means, once.
    fn end(&mut self) -> Option<Result<Bytes, StdError>> {
        match std::mem::replace(&mut self.state, State::Rest) {
            State::Rest => None,
            _ => Some(Err(Box::new(ReframeError::Incomplete))),
        }
    }

    fn begin_chunk(&mut self, size: u64) -> Result<(), ReframeError> {
        if self.signed && size > SIGNED_CHUNK_BYTES_MAX {
            return Err(ReframeError::ChunkTooLarge);
        }
        self.state = if size == 0 { State::Rest } else { State::Data(size) };
        if size == 0 && !self.signed {
            self.out.push_back(Bytes::from_static(b"0\r\n"));
        }
        Ok(())
    }
}

/// Moves bytes up to the line's end; the chunk's size once the line is complete.
fn take_line(line: &mut Vec<u8>, bytes: &mut Bytes) -> Result<Option<u64>, ReframeError> {
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let piece = bytes.split_to(end.map_or(bytes.len(), |end| end + 1));
    if line.len() + piece.len() > LINE_BYTES_MAX {
        return Err(ReframeError::Malformed);
    }
    line.extend_from_slice(&piece);
    if end.is_none() {
        return Ok(None);
    }
    let digits = line.split(|byte| matches!(byte, b';' | b'\r' | b'\n')).next().unwrap_or_default();
    let digits = std::str::from_utf8(digits).map_err(|_| ReframeError::Malformed)?;
    if digits.starts_with('+') {
        return Err(ReframeError::Malformed);
    }
    u64::from_str_radix(digits, 16).map(Some).map_err(|_| ReframeError::Malformed)
}

impl Stream for Reframed {
    type Item = Result<Bytes, StdError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(bytes) = self.out.pop_front() {
                return Poll::Ready(Some(Ok(bytes)));
            }
            match ready!(Pin::new(&mut self.inner).poll_next(context)) {
                None => return Poll::Ready(self.end()),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(bytes)) => {
                    if let Err(error) = self.take_in(bytes) {
                        return Poll::Ready(Some(Err(Box::new(error))));
                    }
                }
            }
        }
    }
}

/// The length is unknown: framing is added.
impl ByteStream for Reframed {}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(signed: bool, pieces: &[&[u8]]) -> Result<Vec<u8>, ReframeError> {
        let mut body = Reframed::new(s3s::Body::empty(), signed);
        for piece in pieces {
            body.take_in(Bytes::copy_from_slice(piece))?;
        }
        Ok(body.out.iter().flatten().copied().collect())
    }

    /// Goal: one unsigned chunk of any size leaves as it comes in. Method: cut the input everywhere.
    #[test]
    fn unsigned_chunks_are_cut_where_the_bytes_are() {
        let input = b"6\r\nabcdef\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n";
        for cut in 0..input.len() {
            let (left, right) = input.split_at(cut);
            let out = run(false, &[left, right]).unwrap();
            let text = String::from_utf8(out).unwrap();
            let data: String =
                text.split("0\r\nx-amz").next().unwrap().split("\r\n").skip(1).step_by(2).collect();
            assert_eq!(data, "abcdef", "cut at {cut}: {text}");
            assert!(text.ends_with("0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n"), "{text}");
        }
    }

    #[test]
    fn signed_bodies_pass_unchanged_unless_a_chunk_is_too_large() {
        let line = b"3;chunk-signature=aa\r\nabc\r\n0;chunk-signature=bb\r\n\r\n";
        assert_eq!(run(true, &[line]).unwrap(), line);
        let large = format!("{:x};chunk-signature=aa\r\n", SIGNED_CHUNK_BYTES_MAX + 1);
        assert!(matches!(run(true, &[large.as_bytes()]), Err(ReframeError::ChunkTooLarge)));
    }

    /// Goal: only the last chunk ends a body. Method: cut a signed and an unsigned one everywhere.
    #[test]
    fn bodies_end_with_their_last_chunk() {
        let signed = "3;chunk-signature=aa\r\nabc\r\n0;chunk-signature=bb\r\n";
        let plain = "3\r\nabc\r\n0\r\n";
        for (input, is_signed) in [(signed, true), (plain, false)] {
            for cut in 0..=input.len() {
                let mut body = Reframed::new(s3s::Body::empty(), is_signed);
                body.take_in(Bytes::copy_from_slice(&input.as_bytes()[..cut])).unwrap();
                assert_eq!(body.end().is_none(), cut == input.len(), "{input:?} cut at {cut}");
                assert!(body.end().is_none(), "the error is told once");
            }
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [&b"zz\r\n"[..], b"+3\r\nabc\r\n", b"3\r\nabcd\r\n", &[b'1'; 2000]] {
            assert!(matches!(run(false, &[bad]), Err(ReframeError::Malformed)), "{bad:?}");
        }
    }
}
