//! The one place where the engine starts tasks.

use std::{future::Future, time::Duration};

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::time::Instant;
use tracing::Instrument;

/// The time `wait` from now, on the runtime's clock.
pub(crate) fn after(wait: Duration) -> Instant {
    tokio::time::sleep(wait).deadline()
}

/// How long until `at`; nothing when it has passed.
pub(crate) fn until(at: Instant) -> Duration {
    at.saturating_duration_since(after(Duration::ZERO))
}

/// Runs `future` on the runtime, its outcome unheeded.
pub(crate) fn detach(future: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(future.in_current_span());
}

/// Runs CPU-bound `work` off the runtime's workers.
pub(crate) async fn heavy<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(failed) => std::panic::resume_unwind(failed.into_panic()),
    }
}

/// Lets calls that are under way run to their end, their answers unheeded: a call once sent is never
/// cancelled half-way by a client that hangs up.
pub(crate) fn drain<F>(mut calls: FuturesUnordered<F>)
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    if !calls.is_empty() && tokio::runtime::Handle::try_current().is_ok() {
        detach(async move { while calls.next().await.is_some() {} });
    }
}
