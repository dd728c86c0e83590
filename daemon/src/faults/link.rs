//! Links that are cut: packets vanish, nothing is refused and nothing is closed.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use holdfast_drive::fabric::Dialer;
use holdfast_tls::Certs;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use super::{Faults, LOOK_AGAIN, Switch};
use crate::tls;

/// Dials over links that may be cut.
pub(super) struct CutDialer {
    faults: Arc<Faults>,
    from: String,
    /// Over TLS, with these.
    certs: Option<Arc<Certs>>,
}

impl CutDialer {
    pub(super) const fn new(faults: Arc<Faults>, from: String, certs: Option<Arc<Certs>>) -> Self {
        Self { faults, from, certs }
    }
}

impl Dialer for CutDialer {
    fn dial(&self, endpoint: &Endpoint) -> Channel {
        let peer = endpoint.uri().authority().map(ToString::to_string).unwrap_or_default();
        let cut = self.faults.switch(|| format!("cut-{}-{peer}", self.from)).unwrap_or_default();
        match self.certs.clone() {
            None => over(endpoint, cut, |uri| async move {
                let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
                let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(80))).await?;
                stream.set_nodelay(true)?;
                Ok(stream)
            }),
            Some(certs) => over(endpoint, cut, move |uri| {
                let certs = certs.clone();
                async move { tls::connect(&certs, &uri).await }
            }),
        }
    }
}

/// A channel whose connections are made by `connect`, and neither made nor used while `cut` is on.
fn over<S, F>(
    endpoint: &Endpoint,
    cut: Arc<Switch>,
    connect: impl Fn(Uri) -> F + Clone + Send + 'static,
) -> Channel
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    F: Future<Output = io::Result<S>> + Send + 'static,
{
    let connect = move |uri: Uri| {
        let (cut, connect) = (cut.clone(), connect.clone());
        async move {
            while cut.is_on() {
                sleep(LOOK_AGAIN).await;
            }
            let stream = connect(uri).await?;
            Ok::<_, io::Error>(TokioIo::new(CutStream { stream, cut, pause: None }))
        }
    };
    endpoint.connect_with_connector_lazy(service_fn(connect))
}

/// A connection that moves nothing while its link is cut.
struct CutStream<S> {
    stream: S,
    cut: Arc<Switch>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl<S> CutStream<S> {
    fn poll_whole(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.cut.is_on() {
            let pause = self.pause.get_or_insert_with(|| Box::pin(sleep(LOOK_AGAIN)));
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        Poll::Ready(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for CutStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_whole(cx));
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for CutStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_whole(cx));
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_whole(cx));
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_whole(cx));
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
