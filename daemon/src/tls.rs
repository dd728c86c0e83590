//! TLS at the listener, towards peers, and the renewal of certificates.

use std::{
    io,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::future::BoxFuture;
use holdfast_drive::fabric::{Dialer, link::TLS_MARK};
use holdfast_tls::{Certs, TlsError, peer::explain, roots::server_name};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    signal::unix::{SignalKind, signal},
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};
use tonic::transport::{Channel, Endpoint};
use tower::Service;

use crate::failure::Failure;

/// A client has this long for its handshake, so that silent connections do not pile up.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Who spoke in the clear has this long to hear why that was wrong.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

/// How often the certificates' files are looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// How often a certificate near its end is spoken of.
const REMIND: Duration = Duration::from_secs(86_400);

/// A certificate with less to live is near its end.
const NEAR_ITS_END: Duration = Duration::from_secs(14 * 86_400);

/// The first byte of a TLS connection: a handshake record (RFC 8446, section 5.1).
const HANDSHAKE_RECORD: u8 = 0x16;

impl From<TlsError> for Failure {
    fn from(error: TlsError) -> Self {
        Self::new(error.to_string(), error.cure())
    }
}

/// Shakes hands with a client. One that speaks in the clear is told so.
///
/// # Errors
/// When there is no TLS connection: the client's doing, of no interest to anybody else.
pub async fn accept(
    acceptor: &TlsAcceptor,
    mut stream: TcpStream,
) -> io::Result<server::TlsStream<TcpStream>> {
    let shaken = async {
        let mut first = [0];
        if stream.peek(&mut first).await? > 0 && first[0] != HANDSHAKE_RECORD {
            let _ = tokio::time::timeout(FAREWELL_TIMEOUT, turn_away(&mut stream)).await;
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it speaks without TLS"));
        }
        acceptor.accept(stream).await
    };
    let late = |_| Err(io::Error::new(io::ErrorKind::TimedOut, "no TLS handshake in time"));
    tokio::time::timeout(HANDSHAKE_TIMEOUT, shaken).await.unwrap_or_else(late)
}

/// Answers a request in the clear in the protocol it came in, and takes in what else was sent: a reset
/// would overtake the answer.
async fn turn_away(stream: &mut TcpStream) -> io::Result<()> {
    let mut request = [0; 1024];
    let length = stream.read(&mut request).await?;
    let http_2 = request[..length].starts_with(b"PRI");
    let answer = if http_2 { go_away() } else { bad_request() };
    stream.write_all(&answer).await?;
    stream.shutdown().await?;
    while stream.read(&mut request).await? > 0 {}
    Ok(())
}

/// An S3 error for a client of HTTP/1.1.
fn bad_request() -> Vec<u8> {
    let xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>InvalidRequest</Code><Message>\
         {TLS_MARK}: use https://</Message></Error>\n"
    );
    format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: application/xml\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{xml}",
        xml.len()
    )
    .into_bytes()
}

/// Settings and a GOAWAY with the reason, for a client of HTTP/2 (RFC 9113, sections 6.5 and 6.8).
fn go_away() -> Vec<u8> {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const INADEQUATE_SECURITY: u32 = 0xc;
    let mut payload = vec![0; 4];
    payload.extend(INADEQUATE_SECURITY.to_be_bytes());
    payload.extend(TLS_MARK.as_bytes());
    let length = u8::try_from(payload.len()).expect("a short reason");
    let mut frames = SETTINGS.to_vec();
    frames.extend([0, 0, length, 7, 0, 0, 0, 0, 0]);
    frames.extend(payload);
    frames
}

/// Connections to peers over TLS, their certificates checked against the folder's authorities.
pub struct TlsDialer(pub Arc<Certs>);

impl Dialer for TlsDialer {
    fn dial(&self, endpoint: &Endpoint) -> Channel {
        endpoint.connect_with_connector_lazy(Connector(self.0.clone()))
    }
}

#[derive(Clone)]
struct Connector(Arc<Certs>);

impl Service<http::Uri> for Connector {
    type Response = TokioIo<client::TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: http::Uri) -> Self::Future {
        let certs = self.0.clone();
        Box::pin(async move { connect(&certs, &uri).await.map(TokioIo::new) })
    }
}

/// A connection to a peer over TLS.
///
/// # Errors
/// With the cure where TLS knows one.
pub(crate) async fn connect(
    certs: &Certs,
    uri: &http::Uri,
) -> io::Result<client::TlsStream<TcpStream>> {
    let wrong = |error: TlsError| io::Error::other(format!("{error}: {}", error.cure()));
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let config = certs.client_config().map_err(wrong)?;
    let name = server_name(authority).map_err(wrong)?;
    let stream = TcpStream::connect(authority).await?;
    stream.set_nodelay(true)?;
    let connected = TlsConnector::from(config).connect(name, stream).await;
    let authorities = certs.dir().join(holdfast_tls::certs::AUTHORITIES);
    connected.map_err(|error| {
        let url = format!("https://{authority}");
        io::Error::other(explain(&error, &url, &authorities.display().to_string()))
    })
}

/// Takes renewed certificates over, when their files change or SIGHUP asks for it, and speaks of those
/// near their end. Runs without certificates, too: SIGHUP must not end the process.
pub async fn renew(certs: Option<Arc<Certs>>) {
    let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
    let mut remind = tokio::time::interval(REMIND);
    let mut said = String::new();
    loop {
        let asked = tokio::select! {
            _ = hangup.recv() => true,
            () = tokio::time::sleep(LOOK_AGAIN), if certs.is_some() => false,
            _ = remind.tick(), if certs.is_some() => {
                certs.iter().for_each(|certs| remind_of(certs));
                continue;
            }
        };
        let Some(certs) = certs.clone() else {
            tracing::info!("nothing to reload: no certificates are in use");
            continue;
        };
        let reloading = tokio::task::spawn_blocking(move || (certs.reload(), certs)).await;
        let (outcome, certs) = reloading.expect("reading certificates does not panic");
        match outcome {
            Ok(true) => {
                tracing::info!("certificates renewed");
                remind_of(&certs);
                said.clear();
            }
            Ok(false) if asked => tracing::info!("certificates are the same as before"),
            Ok(false) => said.clear(),
            Err(error) => {
                let text = format!("reload certificates: {error}; {}", error.cure());
                if asked || text != said {
                    tracing::warn!("{text}; the ones from before stay in use");
                }
                said = text;
            }
        }
    }
}

fn remind_of(certs: &Certs) {
    if let Some(day) = certs.expires_within(NEAR_ITS_END) {
        tracing::warn!(expires = day, "the certificate is near its end: renew it");
    }
}
