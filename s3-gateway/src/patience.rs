//! A body whose client falls silent. It holds a place among the requests in flight, so it is not waited
//! for without end.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::Stream;
use s3s::{
    StdError,
    stream::{ByteStream, RemainingLength},
};
use tokio::time::Sleep;

/// How long a client may send nothing in the middle of a body. S3 ends such requests with
/// `RequestTimeout`, too.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(30);

/// The text by which this is known behind s3s, which keeps errors of bodies to itself.
pub(crate) const SILENT: &str = "the client fell silent";

/// A body that ends with an error when nothing comes for [`SILENCE_MAX`]. Time counts only while somebody
/// waits for bytes: a client is not blamed for our own pace.
pub(crate) struct Patient<B> {
    inner: B,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<B> Patient<B> {
    pub(crate) const fn new(inner: B) -> Self {
        Self { inner, deadline: None }
    }
}

impl<B> Stream for Patient<B>
where
    B: Stream<Item = Result<Bytes, StdError>> + Unpin,
{
    type Item = Result<Bytes, StdError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if let Poll::Ready(item) = Pin::new(&mut this.inner).poll_next(context) {
            this.deadline = None;
            return Poll::Ready(item);
        }
        let deadline =
            this.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(SILENCE_MAX)));
        match deadline.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Some(Err(SILENT.into()))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<B> ByteStream for Patient<B>
where
    B: ByteStream<Item = Result<Bytes, StdError>> + Unpin,
{
    fn remaining_length(&self) -> RemainingLength {
        self.inner.remaining_length()
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use tokio::sync::mpsc;

    use super::*;

    /// Goal: pauses shorter than the bound are none of our business, however many; a longer one ends the body.
    /// Method: a client that pauses, with time that passes by itself.
    #[tokio::test(start_paused = true)]
    async fn a_client_may_pause_and_not_fall_silent() {
        let (client, mut sent) = mpsc::channel::<Bytes>(1);
        let stream = futures::stream::poll_fn(move |context| {
            sent.poll_recv(context).map(|bytes| bytes.map(Ok::<_, StdError>))
        });
        let mut body = Patient::new(stream);
        let writer = tokio::spawn(async move {
            for _ in 0..5 {
                tokio::time::sleep(SILENCE_MAX - Duration::from_secs(1)).await;
                client.send(Bytes::from_static(b"x")).await.expect("somebody listens");
            }
            tokio::time::sleep(10 * SILENCE_MAX).await;
        });
        for _ in 0..5 {
            assert!(body.next().await.expect("more").is_ok());
        }
        let began = tokio::time::Instant::now();
        let error = body.next().await.expect("an end").expect_err("silence");
        assert_eq!(error.to_string(), SILENT);
        assert_eq!(began.elapsed().as_secs(), SILENCE_MAX.as_secs());
        writer.abort();
    }
}
