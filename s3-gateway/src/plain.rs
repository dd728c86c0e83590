//! Verifies bodies that s3s reads by itself: the XML of DeleteObjects, CompleteMultipartUpload and
//! their like; and refuses elements that s3s would pass over. s3s would turn our refusal into an
//! InternalError, so it also goes into a slot that `service` looks at.

use std::{
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures::Stream;
use holdfast_engine::StoreError;
use s3s::{StdError, dto::StreamingBlob, stream::ByteStream};

use crate::{body::UploadBody, digests::Announced, elements};

/// Where a refusal goes.
pub(crate) type Refusal = Arc<OnceLock<StoreError>>;

/// A body that is verified while s3s collects it.
pub(crate) struct VerifiedBody {
    inner: UploadBody,
    refusal: Refusal,
    length: Option<u64>,
    /// What has come of the XML, which is bounded. s3s holds it, too.
    seen: Vec<Bytes>,
}

impl VerifiedBody {
    pub(crate) fn new(body: s3s::Body, announced: Announced, refusal: Refusal) -> Self {
        let length = announced.length;
        let inner = UploadBody::new(Some(StreamingBlob::from(body)), None, announced);
        Self { inner, refusal, length, seen: Vec::new() }
    }
}

impl Stream for VerifiedBody {
    type Item = Result<Bytes, StdError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let item = match ready!(Pin::new(&mut self.inner).poll_next(context)) {
            Some(Ok(piece)) => {
                self.seen.push(piece.clone());
                Some(Ok(piece))
            }
            Some(Err(error)) => Some(Err(error)),
            None => elements::check(&std::mem::take(&mut self.seen).concat()).err().map(Err),
        };
        Poll::Ready(item.map(|piece| {
            piece.map_err(|error| {
                let _ = self.refusal.set(error.clone());
                Box::new(error) as StdError
            })
        }))
    }
}

impl ByteStream for VerifiedBody {
    fn remaining_length(&self) -> s3s::stream::RemainingLength {
        match self.length.map(usize::try_from) {
            Some(Ok(length)) => s3s::stream::RemainingLength::new_exact(length),
            _ => s3s::stream::RemainingLength::unknown(),
        }
    }
}
