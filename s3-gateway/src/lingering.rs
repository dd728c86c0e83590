//! The rest of a body whose request is answered already.
//!
//! A client that sends its body without waiting for `100 Continue` is still sending when it is refused, and reads the
//! answer only afterwards. Were the connection closed under it, it would see a reset instead of the answer, and try
//! again at once. So what it sends is read for a while, and thrown away (RFC 9112, 9.6).

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use http::{HeaderMap, header};
use s3s::{
    StdError,
    dto::StreamingBlob,
    stream::{ByteStream, RemainingLength},
};
use tokio::{runtime::Handle, sync::Semaphore};

/// How long the rest of one body is read at most.
const TIME_MAX: Duration = Duration::from_secs(5);

/// And how much of it.
const BYTES_MAX: usize = 64 << 20;

/// Bodies whose rest is read at a time; of more, the connection is closed.
pub(crate) const AT_ONCE_MAX: usize = 256;

/// A body that is read on when nobody wants it any more.
pub(crate) struct Lingering {
    /// `None` when it has ended.
    inner: Option<StreamingBlob>,
    places: Arc<Semaphore>,
    /// Whether the client sends by itself: who waits for `100 Continue` and got an answer instead sends no body.
    sends: bool,
}

impl Lingering {
    pub(crate) fn new(body: s3s::Body, headers: &HeaderMap, places: &Arc<Semaphore>) -> Self {
        let sends = !headers.contains_key(header::EXPECT);
        Self { inner: Some(body.into()), places: Arc::clone(places), sends }
    }
}

impl Stream for Lingering {
    type Item = Result<Bytes, StdError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // Whoever asks for bytes has the listener say `100 Continue`.
        self.sends = true;
        let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
        let polled = Pin::new(inner).poll_next(context);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.inner = None;
        }
        polled
    }
}

impl ByteStream for Lingering {
    fn remaining_length(&self) -> RemainingLength {
        self.inner
            .as_ref()
            .map_or_else(|| RemainingLength::new_exact(0), ByteStream::remaining_length)
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        let Some(rest) = self.inner.take().filter(|_| self.sends) else { return };
        if rest.remaining_length().exact() == Some(0) {
            return;
        }
        let Ok(runtime) = Handle::try_current() else { return };
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else { return };
        runtime.spawn(async move {
            let _ = tokio::time::timeout(TIME_MAX, read_away(rest)).await;
            drop(place);
        });
    }
}

async fn read_away(mut rest: StreamingBlob) {
    let mut bytes = 0;
    while let Some(Ok(chunk)) = rest.next().await {
        bytes += chunk.len();
        if bytes > BYTES_MAX {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::stream;

    use super::*;

    /// A body of pieces of 1 MiB that counts those taken from it; after them it ends, or falls silent.
    fn body(pieces: usize, ends: bool, taken: &Arc<AtomicUsize>) -> s3s::Body {
        let taken = Arc::clone(taken);
        let pieces = stream::iter(0..pieces).map(move |_| {
            taken.fetch_add(1, Ordering::SeqCst);
            Ok::<_, std::io::Error>(Bytes::from_static(&[0; 1 << 20]))
        });
        let last: Pin<Box<dyn Stream<Item = _> + Send + Sync>> =
            if ends { Box::pin(stream::empty()) } else { Box::pin(stream::pending()) };
        StreamingBlob::wrap(pieces.chain(last)).into()
    }

    /// Goal: the rest is read to its end, to the bound, for as long as the time goes, and not of a client that waits to be asked;
    /// places come back. Method: bodies that count what is taken from them, dropped after one piece or unread.
    #[tokio::test(start_paused = true)]
    async fn the_rest_is_read_within_bounds() {
        let places = Arc::new(Semaphore::new(1));
        let mut waits = HeaderMap::new();
        waits.insert(header::EXPECT, "100-continue".parse().unwrap());
        let plain = HeaderMap::new();
        let bound = BYTES_MAX / (1 << 20) + 1;
        for (headers, asked, pieces, ends, expected) in [
            (&plain, 0, 20, true, 20),
            (&plain, 1, 20, true, 20),
            (&plain, 0, 1_000, true, bound),
            (&plain, 0, 3, false, 3),
            (&waits, 0, 20, true, 0),
            (&waits, 1, 20, true, 20),
        ] {
            let taken = Arc::new(AtomicUsize::new(0));
            let mut lingering = Lingering::new(body(pieces, ends, &taken), headers, &places);
            for _ in 0..asked {
                assert!(lingering.next().await.is_some());
            }
            drop(lingering);
            tokio::time::sleep(2 * TIME_MAX).await;
            assert_eq!(taken.load(Ordering::SeqCst), expected, "{asked} {pieces} {ends}");
            assert_eq!(places.available_permits(), 1);
        }
        let _held = places.acquire().await.unwrap();
        let taken = Arc::new(AtomicUsize::new(0));
        drop(Lingering::new(body(3, true, &taken), &plain, &places));
        tokio::time::sleep(TIME_MAX).await;
        assert_eq!(taken.load(Ordering::SeqCst), 0, "no place is left");
    }
}
