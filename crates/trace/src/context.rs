//! The context of a trace as it travels: `traceparent` and `tracestate` of W3C Trace Context.

use std::str::FromStr;

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// `00-<trace>-<span>-<flags>`.
const PARENT: HeaderName = HeaderName::from_static("traceparent");

/// What vendors add.
const STATE: HeaderName = HeaderName::from_static("tracestate");

/// Bytes of a `tracestate` that are passed on. W3C: at least 512 must be.
const STATE_BYTES_MAX: usize = 512;

/// The context of a span, as text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Context {
    /// `traceparent`.
    pub parent: String,
    /// `tracestate`, or nothing.
    pub state: String,
}

/// The context that calls made now carry; `None` when nothing is traced.
#[must_use]
pub fn outgoing() -> Option<Context> {
    let span = Span::current();
    if span.is_none() {
        return None;
    }
    let context = span.context();
    let span = context.span().span_context().clone();
    let (trace, id, flags) = (span.trace_id(), span.span_id(), span.trace_flags().to_u8());
    span.is_valid().then(|| Context {
        parent: format!("00-{trace}-{id}-{flags:02x}"),
        state: span.trace_state().header(),
    })
}

/// The span of work that was asked for by a peer under `context`, made by `span`; none when the peer does
/// not trace it.
pub fn incoming(context: &Context, span: impl FnOnce() -> Span) -> Span {
    match context.remote() {
        Some(remote) if remote.is_sampled() => {
            let span = span();
            adopt(&span, remote);
            span
        }
        _ => Span::none(),
    }
}

/// Makes `span` a child of one elsewhere.
pub(crate) fn adopt(span: &Span, remote: SpanContext) {
    let parent = opentelemetry::Context::new().with_remote_span_context(remote);
    // Fails for a span that nobody listens to.
    let _ = span.set_parent(parent);
}

impl Context {
    /// What a request's headers say; empty when they say nothing.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let state = text(STATE).filter(|state| state.len() <= STATE_BYTES_MAX);
        Self {
            parent: text(PARENT).unwrap_or_default().to_owned(),
            state: state.unwrap_or_default().to_owned(),
        }
    }

    /// Adds it to a request's headers.
    pub fn write(&self, headers: &mut HeaderMap) {
        for (name, text) in [(PARENT, &self.parent), (STATE, &self.state)] {
            if let (false, Ok(value)) = (text.is_empty(), HeaderValue::from_str(text)) {
                headers.insert(name, value);
            }
        }
    }

    /// The span it speaks of; `None` when it is malformed, which W3C says to take as absent.
    pub(crate) fn remote(&self) -> Option<SpanContext> {
        let mut fields = self.parent.split('-');
        let [version, trace, span, flags] = [(); 4].map(|()| fields.next().unwrap_or_default());
        let hex = |text: &str, length: usize| {
            text.len() == length
                && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        };
        // Later versions may have more fields behind these four.
        let more = fields.next().is_some();
        if !hex(version, 2) || version == "ff" || (version == "00" && more) || !hex(flags, 2) {
            return None;
        }
        if !hex(trace, 32) || !hex(span, 16) {
            return None;
        }
        let flags = u8::from_str_radix(flags, 16).ok()?;
        let context = SpanContext::new(
            TraceId::from_hex(trace).ok()?,
            SpanId::from_hex(span).ok()?,
            TraceFlags::new(flags & 1),
            true,
            TraceState::from_str(&self.state).unwrap_or_default(),
        );
        context.is_valid().then_some(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT_TEXT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    /// Goal: what W3C allows is read, everything else is no context. Method: vectors of the standard's
    /// rules.
    #[test]
    fn parents_are_read_by_the_standard() {
        let read = |parent: &str| {
            let context = Context { parent: parent.to_owned(), state: "vendor=1".to_owned() };
            context.remote().map(|span| (span.span_id().to_string(), span.is_sampled()))
        };
        assert_eq!(read(PARENT_TEXT), Some(("b7ad6b7169203331".to_owned(), true)));
        assert_eq!(read(&PARENT_TEXT.replace("-01", "-00")).map(|it| it.1), Some(false));
        assert_eq!(read(&format!("01{}-more", &PARENT_TEXT[2..])).map(|it| it.1), Some(true));
        for bad in [
            "",
            "00",
            "rubbish",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn headers_carry_both_fields() {
        let context = Context { parent: PARENT_TEXT.to_owned(), state: "vendor=1".to_owned() };
        let mut headers = HeaderMap::new();
        context.write(&mut headers);
        assert_eq!(Context::of(&headers), context);
        headers.insert(STATE, HeaderValue::from_str(&"x".repeat(600)).expect("text"));
        assert_eq!(Context::of(&headers).state, "", "a state beyond the bound is dropped whole");
        assert_eq!(Context::of(&HeaderMap::new()), Context::default());
        assert!(outgoing().is_none());
    }
}
