//! The server adapter: a tower service that lets peers at the drives of this node. Handshakes and
//! startup calls go to tonic's generated servers after they were authenticated; exchanges and shard
//! streams are read and written by hand.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use holdfast_proto::v1::{
    self,
    control_server::{Control, ControlServer},
    startup_server::StartupServer,
};
use holdfast_types::{ErrorClass, limits};
use http_body::Body as HttpBody;
use http_body_util::{BodyExt, Full};
use tokio::sync::OwnedSemaphorePermit;
use tonic::{Request, Response, Status, body::Body};
use tower::{Service, ServiceExt};
use tracing::Instrument;

/// The first message of a stream comes before authentication: keys and sixteen targets fit many times.
const STREAM_OPENING_BYTES_MAX: usize = 64 << 10;

use super::{
    exchange::EXCHANGE_PATH,
    fault::{refusal, status_of},
    frame::MessageReader,
    host::Host,
    serve_exchange, serve_streams,
    settings::STREAM_IDLE,
    streams::{READ_SHARD_PATH, UPLOAD_PATH},
};

/// Paths of the fabric begin so; everything else on the listener is S3.
pub const PATH_PREFIX: &str = "/holdfast.fabric.v1.";

const HANDSHAKE_PATH: &str = "/holdfast.fabric.v1.Control/Handshake";
const STARTUP_PREFIX: &str = "/holdfast.fabric.v1.Startup/";

/// A handshake's message: ids, numbers and a name.
const HANDSHAKE_BYTES_MAX: usize = 64 << 10;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The fabric's side of a listener. Cheap to clone, one for each connection.
#[derive(Clone)]
pub struct FabricService {
    host: Arc<Host>,
    control: ControlServer<Adapter>,
    startup: StartupServer<Adapter>,
}

impl FabricService {
    /// Serves `host` to its peers.
    #[must_use]
    pub fn new(host: Arc<Host>) -> Self {
        let most = limits::CONTROL_MESSAGE_BYTES_MAX;
        let control = ControlServer::new(Adapter(host.clone()));
        let startup = StartupServer::new(Adapter(host.clone()));
        Self {
            host,
            control: control.max_decoding_message_size(most).max_encoding_message_size(most),
            startup: startup.max_decoding_message_size(most).max_encoding_message_size(most),
        }
    }

    /// Ends the exchanges with peers when the calls under way are answered ([`Host::drain`]).
    pub fn drain(&self) {
        self.host.drain();
    }

    async fn handle<B>(self, request: http::Request<B>) -> Result<http::Response<Body>, Status>
    where
        B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path();
        if [UPLOAD_PATH, READ_SHARD_PATH, EXCHANGE_PATH].contains(&path) {
            let mut reader = MessageReader::new(body);
            let first = reader.next(STREAM_OPENING_BYTES_MAX).await?;
            let first = first.ok_or_else(|| refusal(ErrorClass::Invalid, "an empty stream"))?;
            let first = first.into_bytes();
            let admitted = self.host.authenticate(path, &parts.headers, &first)?;
            // The calls of an exchange are traced one by one.
            if path == EXCHANGE_PATH {
                return serve_exchange::exchange(&self.host, &admitted, reader);
            }
            let method = path.rsplit('/').next();
            let span = || holdfast_trace::span!("fabric.serve", otel.kind = "server", method);
            let span = holdfast_trace::incoming(&holdfast_trace::Context::of(&parts.headers), span);
            return match path {
                UPLOAD_PATH => {
                    serve_streams::upload(&self.host, &first, reader).instrument(span).await
                }
                _ => serve_streams::read_shard(&self.host, &first).instrument(span).await,
            };
        }
        let _call = self.host.admit_call()?;
        let handshake = path == HANDSHAKE_PATH;
        let most = if handshake { HANDSHAKE_BYTES_MAX } else { limits::CONTROL_MESSAGE_BYTES_MAX };
        let (frame, _permits) = collect(&self.host, body, most + 5).await?;
        let message = frame.get(5..).unwrap_or_default();
        if handshake {
            self.host.authenticate_handshake(path, &parts.headers, message)?;
        } else {
            self.host.authenticate(path, &parts.headers, message)?;
        }
        let startup = path.starts_with(STARTUP_PREFIX);
        let request = http::Request::from_parts(parts, Full::new(frame));
        let response = if startup {
            self.startup.oneshot(request).await
        } else {
            self.control.oneshot(request).await
        };
        Ok(response.unwrap_or_else(|never| match never {}))
    }
}

/// A call's whole body, and the room it takes.
async fn collect<B>(
    host: &Host,
    mut body: B,
    bytes_max: usize,
) -> Result<(Bytes, Vec<OwnedSemaphorePermit>), Status>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    let (mut whole, mut permits) = (BytesMut::new(), Vec::new());
    loop {
        let frame = tokio::time::timeout(STREAM_IDLE, body.frame())
            .await
            .map_err(|_| refusal(ErrorClass::TimedOut, "the call's message makes no progress"))?;
        let Some(frame) = frame else { return Ok((whole.freeze(), permits)) };
        let frame = frame.map_err(|broken| Status::from_error(broken.into()))?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > bytes_max {
            return Err(refusal(ErrorClass::Invalid, "the call's message is beyond its limit"));
        }
        permits.push(host.admit_bytes(data.len())?);
        whole.extend_from_slice(&data);
    }
}

impl<B> Service<http::Request<B>> for FabricService
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let handled = self.clone().handle(request);
        Box::pin(async move { Ok(handled.await.unwrap_or_else(Status::into_http)) })
    }
}

/// The generated services' methods.
#[derive(Clone)]
struct Adapter(Arc<Host>);

#[tonic::async_trait]
impl Control for Adapter {
    async fn handshake(
        &self,
        request: Request<v1::HandshakeRequest>,
    ) -> Result<Response<v1::HandshakeReply>, Status> {
        self.0.shake_hands(request.get_ref()).map(Response::new)
    }

    type ExchangeStream = futures::stream::Empty<Result<v1::SealedFrame, Status>>;

    async fn exchange(
        &self,
        _: Request<tonic::Streaming<v1::SealedFrame>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        Err(refusal(ErrorClass::Internal, "exchanges are served before they come here"))
    }
}

#[tonic::async_trait]
impl v1::startup_server::Startup for Adapter {
    async fn survey(
        &self,
        request: Request<v1::SurveyRequest>,
    ) -> Result<Response<v1::SurveyReply>, Status> {
        let surveyed = self.0.startup().survey(request.into_inner().opens).await;
        surveyed.map(Response::new).map_err(|error| status_of(&error))
    }

    async fn propose(
        &self,
        request: Request<v1::LayoutDocument>,
    ) -> Result<Response<v1::LayoutKept>, Status> {
        let kept = self.0.startup().propose(request.into_inner().document).await;
        kept.map(|()| Response::new(v1::LayoutKept {})).map_err(|error| status_of(&error))
    }

    async fn commit(
        &self,
        request: Request<v1::LayoutDocument>,
    ) -> Result<Response<v1::LayoutKept>, Status> {
        let kept = self.0.startup().commit(request.into_inner().document).await;
        kept.map(|()| Response::new(v1::LayoutKept {})).map_err(|error| status_of(&error))
    }
}
