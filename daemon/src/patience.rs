//! A connection that says too little to be answered or turned away.
//!
//! hyper's own timer for headers begins when it knows which HTTP is spoken, which the first bytes tell. A
//! client that sends none of them, or stops in the middle of HTTP/2's preface, would stay for ever.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that tell which HTTP is spoken: the length of HTTP/2's preface (RFC 9113, 3.4).
const TELLING_BYTES: usize = 24;

/// How much a connection has said.
#[derive(Clone, Default)]
pub struct Heard(Arc<AtomicUsize>);

impl Heard {
    /// Whether what was said tells which HTTP is spoken.
    #[must_use]
    pub fn is_enough(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= TELLING_BYTES
    }

    /// A request came, however short.
    pub fn request(&self) {
        self.0.store(TELLING_BYTES, Ordering::Relaxed);
    }
}

/// A connection whose first bytes are counted.
pub struct Listening<S> {
    stream: S,
    heard: Heard,
}

impl<S> Listening<S> {
    /// Counts into `heard`.
    pub const fn new(stream: S, heard: Heard) -> Self {
        Self { stream, heard }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Listening<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buf);
        if !self.heard.is_enough() {
            self.heard.0.fetch_add(buf.filled().len() - before, Ordering::Relaxed);
        }
        outcome
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Listening<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
