//! Requests that are answered 503, in this node's log: which, and what the store said, so many lines at
//! most. A client that is told to repeat does, and nobody else would know why.

use std::sync::Arc;

use holdfast_engine::StoreError;
use holdfast_types::seam::Clock;
use http::StatusCode;
use parking_lot::Mutex;

use crate::{error::code_of, response::Origin};

/// Lines are counted over so long.
const WINDOW_MICROS: u64 = 10_000_000;

/// So many lines in that time: enough to see a pattern. When a set is down, every request would be one.
const LINES_MAX: u32 = 20;

tokio::task_local! {
    static ASKED: (Arc<Origin>, Arc<Refusals>);
}

/// What bounds the lines of one gateway.
pub(crate) struct Refusals {
    clock: Arc<dyn Clock>,
    window: Mutex<Window>,
}

#[derive(Default)]
struct Window {
    begun_micros: u64,
    lines: u32,
    left_out: u64,
}

impl Window {
    /// Whether one more line may be written at `now`, and then how many were left out since the last.
    fn admit(&mut self, now: u64) -> Option<u64> {
        if now.saturating_sub(self.begun_micros) >= WINDOW_MICROS {
            (self.begun_micros, self.lines) = (now, 0);
        }
        if self.lines >= LINES_MAX {
            self.left_out += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

impl Refusals {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self { clock, window: Mutex::default() })
    }

    /// Answers a request: what is refused meanwhile is refused to `origin`.
    pub(crate) async fn watch<T>(
        self: &Arc<Self>,
        origin: &Arc<Origin>,
        answering: impl Future<Output = T>,
    ) -> T {
        ASKED.scope((origin.clone(), self.clone()), answering).await
    }
}

/// Takes note of what a request is answered with.
pub(crate) fn note(error: &StoreError) {
    let (code, status) = code_of(error);
    if status != StatusCode::SERVICE_UNAVAILABLE {
        return;
    }
    // Outside a request nobody is refused anything.
    let _ = ASKED.try_with(|(origin, refusals)| {
        let now = refusals.clock.monotonic_micros();
        let Some(left_out) = refusals.window.lock().admit(now) else { return };
        let Origin { request_id, method, path } = &**origin;
        tracing::warn!(%method, path, request_id, code, left_out, "request refused: {error}");
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: so many lines in a window, and none of the others is forgotten. Method: thirty at once, then
    /// one in the next window, and one more.
    #[test]
    fn lines_are_bounded_and_those_left_out_are_counted() {
        let mut window = Window::default();
        let begun = 5 * WINDOW_MICROS;
        let admitted = (0..30).filter_map(|n| window.admit(begun + n)).collect::<Vec<_>>();
        assert_eq!(admitted, vec![0; LINES_MAX as usize]);
        assert_eq!(window.admit(begun + WINDOW_MICROS - 1), None);
        assert_eq!(window.admit(begun + WINDOW_MICROS), Some(11));
        assert_eq!(window.admit(begun + WINDOW_MICROS), Some(0));
    }
}
