//! Traces: the spans of one request, from the S3 call through sets, nodes and drives, and how they find
//! each other over the network (W3C Trace Context).
//!
//! Owns the name that all spans share, the decision whether a request is traced, and the context's form
//! in headers. Never exports anything: the daemon does.
//!
//! ```text
//! s3.request -> set.write -> node.call ----------------------------> drive.request -> log.append
//!                         `> fabric.call ~~ network ~~> fabric.serve -> node.call -> ...
//! ```
//!
//! Cost: the spans have a target of their own, which only the exporting layer listens to. Without one
//! a span is a load and a branch. With one, a request that is not sampled has no root, and without a
//! root there are no spans below it ([`is_wanted`]).

mod context;
mod sampling;

pub use context::{Context, incoming, outgoing};
pub use sampling::{Sampling, install, root};
#[doc(hidden)]
pub use tracing;
use tracing::Metadata;

/// What all spans of a trace have as their target.
pub const TARGET: &str = "holdfast_trace";

/// The spans that begin a trace on this node.
const ROOTS: [&str; 2] = ["s3.request", "fabric.serve"];

/// A span of a trace: a name, and fields as `tracing::span!` takes them. Nothing when the request is
/// not traced.
#[macro_export]
macro_rules! span {
    ($name:literal) => {
        $crate::tracing::info_span!(target: "holdfast_trace", $name)
    };
    ($name:literal, $($fields:tt)*) => {
        $crate::tracing::info_span!(target: "holdfast_trace", $name, $($fields)*)
    };
}

/// Whether the exporting layer wants a span: one that begins a trace (who makes it has asked
/// [`root`]), or one within a traced request.
#[must_use]
pub fn is_wanted(metadata: &Metadata<'_>, within: bool) -> bool {
    metadata.is_span()
        && metadata.target() == TARGET
        && (within || ROOTS.contains(&metadata.name()))
}

/// Whether anything is traced on this thread now.
#[must_use]
pub fn is_active() -> bool {
    !tracing::Span::current().is_none()
}
