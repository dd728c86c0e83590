//! Verifies bodies that s3s reads by itself: the XML of DeleteObjects, CompleteMultipartUpload and
//! their like. s3s would turn our refusal into an InternalError, so it also goes into a slot that
//! `service` looks at.

use std::{
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures::Stream;
use holdfast_engine::StoreError;
use s3s::{StdError, dto::StreamingBlob, stream::ByteStream};

use crate::{body::UploadBody, digests::Announced};

/// Where a refusal goes.
pub(crate) type Refusal = Arc<OnceLock<StoreError>>;

/// A body that is verified while s3s collects it.
pub(crate) struct VerifiedBody {
    inner: UploadBody,
    refusal: Refusal,
    length: Option<u64>,
}

impl VerifiedBody {
    pub(crate) fn new(body: s3s::Body, announced: Announced, refusal: Refusal) -> Self {
        let length = announced.length;
        let inner = UploadBody::new(Some(StreamingBlob::from(body)), None, announced);
        Self { inner, refusal, length }
    }
}

impl Stream for VerifiedBody {
    type Item = Result<Bytes, StdError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let item = ready!(Pin::new(&mut self.inner).poll_next(context));
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
