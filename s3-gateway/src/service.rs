//! The service that a listener calls.

use std::{convert::Infallible, sync::Arc};

use futures::future::BoxFuture;
use holdfast_engine::{ObjectStore, StoreError};
use holdfast_types::seam::Random;
use http::{Method, Request, Response, header, request::Parts};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use s3s::{
    S3Result,
    config::{S3Config, StaticConfigProvider},
    dto::StreamingBlob,
    service::{S3Service, S3ServiceBuilder},
};
use tokio::sync::Semaphore;
use tracing::Instrument;

use crate::{
    admin,
    auth::{BucketNames, Secrets, SignedOnly},
    config::GatewayConfig,
    digests::Announced,
    edge, error,
    plain::{Refusal, VerifiedBody},
    ranges::{Routes, Verified},
    reframe::Reframed,
    response::{self, GatewayBody, Origin},
    s3::Gateway,
};

/// The largest XML: DeleteObjects of 1,000 keys of 1,024 bytes, each byte an entity of six.
const XML_BYTES_MAX: usize = 8 << 20;

/// Held for a client that does not say how much is coming, before its signature is checked: times the
/// requests in flight, this must be memory that a node can spare.
const UNMEASURED_BYTES_MAX: usize = 1 << 20;

/// How far a client's clock may be off. S3: 15 minutes.
const CLOCK_SKEW_SECONDS_MAX: u32 = 900;

/// The gateway as hyper and tower see it. Cloning is cheap.
#[derive(Clone)]
pub struct GatewayService {
    inner: Arc<Inner>,
}

struct Inner {
    s3: S3Service,
    admission: Arc<Semaphore>,
    random: Arc<dyn Random>,
    owner: String,
}

/// Serves `store` as S3.
#[must_use]
pub fn service(store: Arc<dyn ObjectStore>, config: GatewayConfig) -> GatewayService {
    let mut bounds = S3Config::default();
    bounds.xml_max_body_size = XML_BYTES_MAX;
    bounds.presigned_url_max_skew_time_secs = CLOCK_SKEW_SECONDS_MAX;
    let owner = config.owner.id.clone();
    let scheme = if config.tls { "https" } else { "http" };
    let gateway = Gateway { store, region: config.region, owner: config.owner, scheme };
    let bounds: Arc<StaticConfigProvider> = Arc::new(StaticConfigProvider::new(Arc::new(bounds)));
    let build = |gateway: Gateway| {
        let mut builder = S3ServiceBuilder::new(gateway);
        builder.set_config(bounds.clone());
        builder.set_validation(BucketNames);
        builder
    };
    let mut verified = build(gateway.clone());
    verified.set_access(Verified);
    let mut builder = build(gateway);
    builder.set_auth(Secrets(config.credentials));
    builder.set_access(SignedOnly);
    let admin = admin::Route { view: config.admin };
    builder.set_route(Routes { admin, verified: verified.build() });
    let inner = Inner {
        s3: builder.build(),
        admission: Arc::new(Semaphore::new(config.requests_max)),
        random: config.random,
        owner,
    };
    GatewayService { inner: Arc::new(inner) }
}

impl GatewayService {
    /// Answers one request. Never fails: every failure is an answer.
    pub async fn handle<B>(&self, request: Request<B>) -> Response<GatewayBody>
    where
        B: Into<s3s::Body>,
    {
        let (parts, body) = request.into_parts();
        let origin = Origin {
            request_id: format!("{:016X}", self.inner.random.next_u64()),
            method: parts.method.clone(),
            path: parts.uri.path().to_owned(),
        };
        let Ok(permit) = Arc::clone(&self.inner.admission).try_acquire_owned() else {
            let message = "too many requests in flight on this node".to_owned();
            let refusal = error::s3_error(StoreError::Overloaded { message });
            let answer = response::finish(&origin, response::of_error(refusal));
            return answer.map(|body| GatewayBody::new(body, None));
        };
        let span = holdfast_trace::root(
            &parts.headers,
            || self.inner.random.next_u64(),
            || {
                holdfast_trace::span!(
                    "s3.request",
                    otel.kind = "server",
                    otel.name = %parts.method,
                    http.request.method = %parts.method,
                    url.path = parts.uri.path(),
                    http.response.status_code = tracing::field::Empty,
                    request.id = origin.request_id,
                )
            },
        );
        let answer = self.answer(parts, body.into()).instrument(span.clone()).await;
        span.record("http.response.status_code", answer.status().as_u16());
        response::finish(&origin, answer)
            .map(|body| GatewayBody::new(body, Some(permit)).traced(span))
    }

    async fn answer(&self, mut parts: Parts, mut body: s3s::Body) -> Response<s3s::Body> {
        let refusal = Refusal::default();
        if has_no_length(&parts)
            && let Err(error) = measure(&mut parts, &mut body).await
        {
            return response::of_error(error);
        }
        let body = match edge::check(&mut parts, &self.inner.owner)
            .and_then(|()| guarded(&parts, body, &refusal))
        {
            Ok(body) => body,
            Err(error) => return response::of_error(error),
        };
        let answer = self.inner.s3.call(Request::from_parts(parts, body)).await;
        match (refusal.get(), answer) {
            (Some(error), _) => response::of_error(error::s3_error(error.clone())),
            (None, Ok(answer)) => answer,
            (None, Err(error)) => {
                let message = format!("answer request: {error:?}");
                response::of_error(error::s3_error(StoreError::Internal { message }))
            }
        }
    }
}

/// Whether nothing says how much is coming: HTTP chunks without any announcement, or no body at all.
fn has_no_length(parts: &Parts) -> bool {
    !parts.headers.contains_key(header::CONTENT_LENGTH)
        && !parts.headers.contains_key("x-amz-decoded-content-length")
        && matches!(parts.method, Method::PUT | Method::POST)
}

/// S3 wants a length; a body small enough to be held gets the one it turns out to have.
async fn measure(parts: &mut Parts, body: &mut s3s::Body) -> S3Result<()> {
    let whole = Limited::new(std::mem::take(body), UNMEASURED_BYTES_MAX).collect().await;
    let whole = whole.map_err(|_| {
        let message = "you must provide the Content-Length header";
        error::coded("MissingContentLength", http::StatusCode::LENGTH_REQUIRED, message)
    })?;
    let bytes = whole.to_bytes();
    parts.headers.insert(header::CONTENT_LENGTH, bytes.len().into());
    *body = bytes.into();
    Ok(())
}

/// The body that s3s may see.
fn guarded(parts: &Parts, body: s3s::Body, refusal: &Refusal) -> S3Result<s3s::Body> {
    let hash = parts.headers.get("x-amz-content-sha256").map(http::HeaderValue::as_bytes);
    if let Some(kind) = hash.and_then(|hash| hash.strip_prefix(b"STREAMING-")) {
        let signed = !kind.starts_with(b"UNSIGNED-");
        return Ok(StreamingBlob::new(Reframed::new(body, signed)).into());
    }
    let is_object = parts.uri.path().trim_start_matches('/').contains('/');
    if parts.method == Method::POST || (parts.method == Method::PUT && !is_object) {
        let announced = Announced::from_headers(&without_object_checksum(parts))?;
        let verified = VerifiedBody::new(body, announced, Arc::clone(refusal));
        return Ok(StreamingBlob::new(verified).into());
    }
    Ok(body)
}

/// On an object's POST (CompleteMultipartUpload, CreateMultipartUpload) the checksum headers speak of
/// the object, not of the XML.
fn without_object_checksum(parts: &Parts) -> http::HeaderMap {
    let mut headers = parts.headers.clone();
    if parts.uri.path().trim_start_matches('/').contains('/') {
        for algorithm in holdfast_engine::checksum::Algorithm::ALL {
            headers.remove(crate::digests::header_name(algorithm));
        }
        headers.remove("x-amz-checksum-algorithm");
        headers.remove("x-amz-sdk-checksum-algorithm");
    }
    headers
}

impl hyper::service::Service<Request<Incoming>> for GatewayService {
    type Response = Response<GatewayBody>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move { Ok(service.handle(request).await) })
    }
}

impl tower::Service<Request<Incoming>> for GatewayService {
    type Response = Response<GatewayBody>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        hyper::service::Service::call(self, request)
    }
}
