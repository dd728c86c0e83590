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
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::Instrument;

use crate::{
    admin,
    auth::{BucketNames, NoSecrets, Secrets, SignedOnly},
    config::GatewayConfig,
    digests::Announced,
    edge, error,
    lingering::{self, Lingering},
    patience::{Patient, SILENCE_MAX, SILENT},
    plain::{Refusal, VerifiedBody},
    reframe::Reframed,
    refusals::Refusals,
    response::{self, GatewayBody, Origin},
    s3::Gateway,
    told::{Routes, Verified},
};

/// The largest XML: DeleteObjects of 1,000 keys of 1,024 bytes, each byte an entity of six.
const XML_BYTES_MAX: usize = 8 << 20;

/// Held for a client that does not say how much is coming, before its signature is checked.
const UNMEASURED_BYTES_MAX: usize = 1 << 20;

/// So many clients may do that at a time. They are not among the requests in flight meanwhile: whoever has
/// no key must not keep those out who have one.
const UNMEASURED_MAX: usize = 64;

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
    unmeasured: Semaphore,
    lingering: Arc<Semaphore>,
    random: Arc<dyn Random>,
    refusals: Arc<Refusals>,
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
    // Without it s3s would not ask for access either.
    verified.set_auth(NoSecrets);
    verified.set_access(Verified);
    let mut builder = build(gateway);
    builder.set_auth(Secrets(config.credentials));
    builder.set_access(SignedOnly);
    let admin = admin::Route { view: config.admin };
    builder.set_route(Routes { admin, verified: verified.build() });
    let inner = Inner {
        s3: builder.build(),
        admission: Arc::new(Semaphore::new(config.requests_max)),
        unmeasured: Semaphore::new(UNMEASURED_MAX),
        lingering: Arc::new(Semaphore::new(lingering::AT_ONCE_MAX)),
        random: config.random,
        refusals: Refusals::new(config.clock),
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
        let origin = Arc::new(Origin {
            request_id: format!("{:016X}", self.inner.random.next_u64()),
            method: parts.method.clone(),
            path: parts.uri.path().to_owned(),
        });
        // Before anything is refused or waited for: that belongs to the request, too.
        let span = self.span(&parts, &origin);
        let body = self.patient(&parts, body.into());
        let answering = self.admitted(parts, body).instrument(span.clone());
        let answered = self.inner.refusals.watch(&origin, answering).await;
        let (answer, permit) = match answered {
            Ok((answer, permit)) => (answer, Some(permit)),
            Err(error) => (response::of_error(error), None),
        };
        // Signed: an unsigned number leaves for collectors as a text.
        span.record("http.response.status_code", i64::from(answer.status().as_u16()));
        response::finish(&origin, answer).map(|body| GatewayBody::new(body, permit).traced(span))
    }

    /// A body that is not waited for without end, and not cut off under a client that is still sending.
    fn patient(&self, parts: &Parts, body: s3s::Body) -> s3s::Body {
        if !has_body(&parts.method) {
            return body;
        }
        let lingering = Lingering::new(body, &parts.headers, &self.inner.lingering);
        StreamingBlob::new(Patient::new(lingering)).into()
    }

    /// The span of a request; none when it is not traced.
    fn span(&self, parts: &Parts, origin: &Origin) -> tracing::Span {
        holdfast_trace::root(
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
        )
    }

    /// What a request is answered, once it is let in.
    ///
    /// # Errors
    /// Why it is not.
    async fn admitted(
        &self,
        mut parts: Parts,
        mut body: s3s::Body,
    ) -> S3Result<(Response<s3s::Body>, OwnedSemaphorePermit)> {
        edge::check(&mut parts, &self.inner.owner)?;
        if has_no_length(&parts) {
            self.measure(&mut parts, &mut body).await?;
        }
        let permit = Arc::clone(&self.inner.admission).try_acquire_owned();
        let permit = permit.map_err(|_| overloaded("too many requests in flight on this node"))?;
        Ok((self.answer(parts, body).await, permit))
    }

    async fn answer(&self, parts: Parts, body: s3s::Body) -> Response<s3s::Body> {
        let refusal = Refusal::default();
        let body = match guarded(&parts, body, &refusal) {
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

    /// S3 wants a length; a body small enough to be held gets the one it turns out to have.
    async fn measure(&self, parts: &mut Parts, body: &mut s3s::Body) -> S3Result<()> {
        let _place =
            self.inner.unmeasured.try_acquire().map_err(|_| {
                overloaded("too many bodies without a Content-Length are on their way")
            })?;
        let whole = Limited::new(std::mem::take(body), UNMEASURED_BYTES_MAX).collect();
        let late = || {
            let message = "the body did not come in time; announce its Content-Length";
            error::coded("RequestTimeout", http::StatusCode::BAD_REQUEST, message)
        };
        let whole = tokio::time::timeout(SILENCE_MAX, whole).await.map_err(|_| late())?;
        let whole = whole.map_err(|error| {
            if error.to_string() == SILENT {
                return late();
            }
            let message = "you must provide the Content-Length header";
            error::coded("MissingContentLength", http::StatusCode::LENGTH_REQUIRED, message)
        })?;
        let bytes = whole.to_bytes();
        parts.headers.insert(header::CONTENT_LENGTH, bytes.len().into());
        *body = bytes.into();
        Ok(())
    }
}

fn overloaded(message: &str) -> s3s::S3Error {
    error::s3_error(StoreError::Overloaded { message: message.to_owned() })
}

/// Whether nothing says how much is coming: HTTP chunks without any announcement, or no body at all.
fn has_no_length(parts: &Parts) -> bool {
    !parts.headers.contains_key(header::CONTENT_LENGTH)
        && !parts.headers.contains_key("x-amz-decoded-content-length")
        && has_body(&parts.method)
}

/// Whether requests of this kind bring a body.
const fn has_body(method: &Method) -> bool {
    matches!(*method, Method::PUT | Method::POST)
}

/// The body that s3s may see.
fn guarded(parts: &Parts, body: s3s::Body, refusal: &Refusal) -> S3Result<s3s::Body> {
    let hash = parts.headers.get("x-amz-content-sha256").map(http::HeaderValue::as_bytes);
    let is_object = parts.uri.path().trim_start_matches('/').contains('/');
    let is_xml = parts.method == Method::POST || (parts.method == Method::PUT && !is_object);
    if let Some(kind) = hash.and_then(|hash| hash.strip_prefix(b"STREAMING-")) {
        if is_xml {
            // s3s reads it itself, and looks at no trailer: INV-GATE-1 would not hold.
            return Err(error::not_implemented("XML in aws-chunked framing"));
        }
        let signed = !kind.starts_with(b"UNSIGNED-");
        return Ok(StreamingBlob::new(Reframed::new(body, signed)).into());
    }
    if is_xml {
        let announced = Announced::from_headers(&without_object_checksum(parts))?;
        if announced.length.is_some_and(|length| length > XML_BYTES_MAX as u64) {
            let message = format!("the XML is longer than {XML_BYTES_MAX} bytes");
            return Err(error::invalid("MaxMessageLengthExceeded", message));
        }
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
