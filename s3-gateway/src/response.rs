//! What every answer gets on its way out: a request id, in the header and in the XML of errors; no
//! body where HTTP has none.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use quick_xml::escape::escape;
use s3s::{S3Error, StdError};
use tokio::sync::OwnedSemaphorePermit;
use tracing::Span;

/// An answer's body. It holds the request's admission until its last byte is gone.
pub struct GatewayBody {
    inner: s3s::Body,
    permit: Option<OwnedSemaphorePermit>,
    /// The request's: reading its bytes belongs to it.
    span: Span,
}

impl GatewayBody {
    pub(crate) fn new(inner: s3s::Body, permit: Option<OwnedSemaphorePermit>) -> Self {
        Self { inner, permit, span: Span::none() }
    }

    pub(crate) fn traced(self, span: Span) -> Self {
        Self { span, ..self }
    }
}

impl Body for GatewayBody {
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        let this = &mut *self;
        let frame = this.span.in_scope(|| Pin::new(&mut this.inner).poll_frame(context));
        let frame = ready!(frame);
        if !matches!(frame, Some(Ok(_))) {
            this.permit = None;
            this.span = Span::none();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        Body::size_hint(&self.inner)
    }
}

/// Marks the one answer whose XML has its entity tag without quotes: GetObjectAttributes.
#[derive(Clone, Copy)]
pub(crate) struct PlainEtag;

/// The request that an answer belongs to.
pub(crate) struct Origin {
    pub(crate) request_id: String,
    pub(crate) method: Method,
    pub(crate) path: String,
}

/// An error as S3 answers it.
pub(crate) fn of_error(error: S3Error) -> Response<s3s::Body> {
    error.to_http_response().unwrap_or_else(|error| {
        tracing::error!(%error, "an error could not be written as XML");
        let mut answer = Response::new(s3s::Body::empty());
        *answer.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        answer
    })
}

/// The last touches.
pub(crate) fn finish(origin: &Origin, mut answer: Response<s3s::Body>) -> Response<s3s::Body> {
    if let Ok(id) = HeaderValue::from_str(&origin.request_id) {
        answer.headers_mut().insert("x-amz-id-2", id.clone());
        answer.headers_mut().insert("x-amz-request-id", id);
    }
    let status = answer.status();
    if origin.method == Method::HEAD {
        return finish_head(answer);
    }
    if status == StatusCode::NOT_MODIFIED || status == StatusCode::NO_CONTENT {
        drop_body(&mut answer);
    } else if status.is_client_error() || status.is_server_error() {
        name_error(origin, &mut answer);
    } else if answer.extensions_mut().remove::<PlainEtag>().is_some() {
        unquote_etag(&mut answer);
    }
    escape_controls(&mut answer);
    answer
}

/// Whether XML has no place for the byte as it is, or reads another one: `\r` becomes `\n`.
const fn is_control(byte: u8) -> bool {
    byte < 0x20 && byte != b'\n' && byte != b'\t'
}

/// Keys may hold control characters. S3 writes them as references (`&#x1;`), which XML 1.0 forbids, too, but
/// most readers take; `encoding-type=url` is for all others. Only XML is there in one piece: objects stream.
fn escape_controls(answer: &mut Response<s3s::Body>) {
    let Some(body) = answer.body().bytes() else { return };
    // Piece by piece without a way out in between: so compiled, it costs next to nothing.
    let has_controls = |piece: &[u8]| piece.iter().fold(false, |has, byte| has | is_control(*byte));
    if !body.chunks(1024).any(has_controls) {
        return;
    }
    let mut escaped = Vec::with_capacity(body.len() + 64);
    for byte in &body {
        if is_control(*byte) {
            escaped.extend_from_slice(format!("&#x{byte:X};").as_bytes());
        } else {
            escaped.push(*byte);
        }
    }
    answer.headers_mut().remove(header::CONTENT_LENGTH);
    *answer.body_mut() = escaped.into();
}

/// HEAD has no body, not even in errors; s3s answers ranges with 200.
fn finish_head(mut answer: Response<s3s::Body>) -> Response<s3s::Body> {
    if answer.status().is_success() {
        if answer.headers().contains_key(header::CONTENT_RANGE) {
            *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        *answer.body_mut() = s3s::Body::empty();
    } else {
        drop_body(&mut answer);
    }
    answer
}

fn drop_body(answer: &mut Response<s3s::Body>) {
    *answer.body_mut() = s3s::Body::empty();
    answer.headers_mut().remove(header::CONTENT_TYPE);
    answer.headers_mut().remove(header::CONTENT_LENGTH);
}

/// s3s writes every entity tag with quotes.
fn unquote_etag(answer: &mut Response<s3s::Body>) {
    let Some(body) = answer.body_mut().take_bytes() else { return };
    let text = String::from_utf8_lossy(&body);
    let text = text.replace("<ETag>\"", "<ETag>").replace("\"</ETag>", "</ETag>");
    *answer.body_mut() = text.into();
}

/// s3s makes some errors of a code alone.
fn default_message(content: &[u8]) -> &'static str {
    let has = |text: &[u8]| content.windows(text.len()).any(|window| window == text);
    if has(b"<Message>") {
        ""
    } else if has(b"<Code>SignatureDoesNotMatch<") {
        "<Message>the signature does not match: check the secret key, and what was signed</Message>"
    } else if has(b"<Code>MalformedXML<") {
        "<Message>the XML is not well-formed, or not what the operation takes</Message>"
    } else if has(b"<Code>InvalidBucketName<") {
        "<Message>the bucket's name is not valid: 3 to 63 lower-case letters, digits, dots, hyphens</Message>"
    } else {
        "<Message>the request was refused by its form: see the code</Message>"
    }
}

/// Puts resource and request id behind code and message.
fn name_error(origin: &Origin, answer: &mut Response<s3s::Body>) {
    const END: &[u8] = b"</Error>";
    let Some(body) = answer.body_mut().take_bytes() else { return };
    let Some(content) = body.strip_suffix(END) else {
        *answer.body_mut() = body.into();
        return;
    };
    let mut named = Vec::with_capacity(body.len() + origin.path.len() + 128);
    named.extend_from_slice(content);
    named.extend_from_slice(default_message(content).as_bytes());
    for (tag, value) in [
        ("Resource", origin.path.as_str()),
        ("RequestId", &origin.request_id),
        ("HostId", &origin.request_id),
    ] {
        named.extend_from_slice(format!("<{tag}>{}</{tag}>", escape(value)).as_bytes());
    }
    named.extend_from_slice(END);
    answer.headers_mut().remove(header::CONTENT_LENGTH);
    *answer.body_mut() = named.into();
}
