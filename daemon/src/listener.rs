//! One listener for S3 and the fabric: connections in, requests to whom they belong.

use std::{
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use holdfast_drive::fabric::{FabricService, server::PATH_PREFIX, settings};
use holdfast_s3_gateway::{GatewayBody, GatewayService};
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{Either, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{
        conn::auto,
        graceful::{GracefulShutdown, Watcher},
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
};
use tokio_rustls::TlsAcceptor;
use tower::Service;

use crate::{
    config::Listen,
    failure::Failure,
    patience::{Heard, Listening},
    tls,
};

/// A client has this long for its first bytes, and for a request's headers, so that silent connections do
/// not pile up.
const HEADER_TIMEOUT: Duration = Duration::from_secs(60);

/// Connections have this long to end what they do when the process is told to go.
pub const DRAIN: Duration = Duration::from_secs(8);

/// A pause after `accept` failed (no descriptors left, say), so that it is not asked in a spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

type Body = Either<GatewayBody, Either<tonic::body::Body, Full<Bytes>>>;

/// Who answers requests. S3 joins when the drives are open.
pub struct Front {
    fabric: Option<FabricService>,
    gateway: OnceLock<GatewayService>,
    ready: AtomicBool,
}

impl Front {
    /// A front that answers health checks, and peers when there are drives.
    #[must_use]
    pub fn new(fabric: Option<FabricService>) -> Arc<Self> {
        Arc::new(Self { fabric, gateway: OnceLock::new(), ready: AtomicBool::new(false) })
    }

    /// Opens S3. Once.
    pub fn install(&self, gateway: GatewayService) {
        assert!(self.gateway.set(gateway).is_ok(), "S3 is opened once");
    }

    /// What `/_health/ready` says from now on.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::SeqCst);
    }

    /// Ends the long streams of peers, which their connections would wait for.
    fn drain(&self) {
        if let Some(fabric) = &self.fabric {
            fabric.drain();
        }
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Infallible> {
        if let Some(fabric) = self.fabric.as_ref().filter(|_| is_fabric(&request)) {
            let answer = fabric.clone().call(request).await?;
            return Ok(answer.map(|body| Either::Right(Either::Left(body))));
        }
        let ready = self.ready.load(Ordering::SeqCst);
        let answer = match request.uri().path() {
            "/_health/live" => plain(StatusCode::OK, "live\n"),
            "/_health/ready" if ready => plain(StatusCode::OK, "ready\n"),
            "/_health/ready" => plain(StatusCode::SERVICE_UNAVAILABLE, "starting or draining\n"),
            _ => match self.gateway.get() {
                Some(gateway) => return Ok(gateway.handle(request).await.map(Either::Left)),
                None => starting(),
            },
        };
        Ok(answer.map(|body| Either::Right(Either::Right(body))))
    }
}

/// gRPC on our paths. A bucket may be named like the path, but no S3 client sends this content type to
/// a key of that form.
fn is_fabric(request: &Request<Incoming>) -> bool {
    let grpc = |value: &HeaderValue| value.as_bytes().starts_with(b"application/grpc");
    request.uri().path().starts_with(PATH_PREFIX)
        && request.headers().get(header::CONTENT_TYPE).is_some_and(grpc)
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// What S3 clients are told before the drives are open: they try again.
fn starting() -> Response<Full<Bytes>> {
    const XML: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>ServiceUnavailable\
                       </Code><Message>The node is starting; try again.</Message></Error>\n";
    let mut answer = plain(StatusCode::SERVICE_UNAVAILABLE, XML);
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    answer
}

/// Takes the port.
///
/// # Errors
/// [`Failure`] when it is in use, or the address is not this machine's.
pub async fn bind(listen: Listen) -> Result<TcpListener, Failure> {
    let wanted = |ip: IpAddr| TcpListener::bind(SocketAddr::new(ip, listen.port));
    let bound = match listen.ip {
        Some(ip) => wanted(ip).await,
        // All addresses of both families, or of the older one where there is only that.
        None => match wanted(Ipv6Addr::UNSPECIFIED.into()).await {
            Err(error) if error.kind() != std::io::ErrorKind::AddrInUse => {
                wanted(Ipv4Addr::UNSPECIFIED.into()).await
            }
            outcome => outcome,
        },
    };
    bound.map_err(|error| {
        let cure = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                "stop what listens there (`ss -ltnp` shows it), or choose another --address"
            }
            std::io::ErrorKind::AddrNotAvailable => "choose an address of this machine",
            _ => "choose another --address, or check the permissions of this user",
        };
        Failure::new(format!("listen at {listen}: {error}"), cure)
    })
}

/// Serves connections until `stop` says so; then none is accepted any more, and those there have
/// [`DRAIN`] to end what they do. With an acceptor all of them speak TLS. More than `connections` at one
/// time are closed at once.
pub async fn serve(
    listener: TcpListener,
    front: Arc<Front>,
    acceptor: Option<TlsAcceptor>,
    connections: usize,
    mut stop: watch::Receiver<bool>,
) {
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(connections));
    let door = Door { server: Arc::new(server()), front: front.clone(), acceptor };
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("accept connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        let connection = door.clone().open(stream, graceful.watcher(), stop.clone());
        tokio::spawn(async move {
            connection.await;
            drop(place);
        });
    }
    drop(listener);
    door.front.drain();
    let drained = tokio::time::timeout(DRAIN, graceful.shutdown()).await;
    if drained.is_err() {
        tracing::warn!("some connections did not end within {DRAIN:?}; they are cut");
    }
}

/// What every connection is served with.
#[derive(Clone)]
struct Door {
    server: Arc<auto::Builder<TokioExecutor>>,
    front: Arc<Front>,
    acceptor: Option<TlsAcceptor>,
}

impl Door {
    async fn open(self, stream: TcpStream, watcher: Watcher, mut stop: watch::Receiver<bool>) {
        // Small answers leave at once; a socket that does not know the option works without.
        let _ = stream.set_nodelay(true);
        let Some(acceptor) = &self.acceptor else { return self.converse(stream, watcher).await };
        let shaken = tokio::select! {
            shaken = tls::accept(acceptor, stream) => shaken,
            // Nothing was asked yet that would have to be answered.
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match shaken {
            Ok(stream) => self.converse(stream, watcher).await,
            Err(error) => tracing::debug!("shake hands: {error}"),
        }
    }

    async fn converse<S>(self, stream: S, watcher: Watcher)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (front, heard) = (self.front, Heard::default());
        let asked = heard.clone();
        let service = service_fn(move |request| {
            asked.request();
            front.clone().answer(request)
        });
        let stream = TokioIo::new(Listening::new(stream, heard.clone()));
        let connection = self.server.serve_connection(stream, service).into_owned();
        let mut connection = pin!(watcher.watch(connection));
        let first = tokio::time::timeout(HEADER_TIMEOUT, &mut connection).await;
        let ended = match first {
            Ok(ended) => ended,
            Err(_) if heard.is_enough() => connection.await,
            Err(_) => return tracing::debug!("a connection said nothing in {HEADER_TIMEOUT:?}"),
        };
        if let Err(error) = ended {
            tracing::debug!("connection ended: {error}");
        }
    }
}

fn server() -> auto::Builder<TokioExecutor> {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    server
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(settings::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(settings::CONNECTION_WINDOW_BYTES)
        .max_frame_size(settings::FRAME_BYTES)
        .max_concurrent_streams(settings::STREAMS_PER_CONNECTION_MAX)
        .adaptive_window(false)
        .keep_alive_interval(settings::KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(settings::KEEP_ALIVE_TIMEOUT);
    server
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Goal: a connection that says nothing, or too little to tell which HTTP it speaks, is closed. Method: such
    /// connections, with time that passes by itself when nobody has anything to do.
    #[tokio::test(start_paused = true)]
    async fn who_says_too_little_is_not_waited_for() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (stop, stopped) = watch::channel(false);
        let serving = tokio::spawn(serve(listener, Front::new(None), None, 8, stopped));
        for said in [&b""[..], b"P", b"PRI * HTTP/2.0\r\n"] {
            let began = tokio::time::Instant::now();
            let mut stream = TcpStream::connect(address).await.expect("connected");
            stream.write_all(said).await.expect("sent");
            let mut answer = Vec::new();
            let read = stream.read_to_end(&mut answer);
            let read = tokio::time::timeout(10 * HEADER_TIMEOUT, read).await;
            assert!(read.expect("closed in time").is_ok_and(|n| n == 0), "{said:?}: {answer:?}");
            assert!(began.elapsed() >= HEADER_TIMEOUT, "{said:?}: {:?}", began.elapsed());
        }
        stop.send_replace(true);
        serving.await.expect("ended");
    }
}
