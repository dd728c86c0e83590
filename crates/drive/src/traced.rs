//! [`Traced`]: a node whose calls and streams are spans of the request that makes them.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;
use holdfast_trace::span;
use holdfast_types::DriveId;
use tracing::{Instrument, Span};

use crate::{
    api::{DriveError, DriveRequest, DriveResult, ShardRead, UploadHandle, UploadTarget},
    node::{BlockStream, Node, ShardUpload},
};

/// Where the wrapped node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// In this process.
    Local,
    /// Behind the fabric.
    Remote,
}

/// A carrier with spans around it.
pub struct Traced {
    node: Arc<dyn Node>,
    side: Side,
}

impl Traced {
    /// Wraps a carrier.
    #[must_use]
    pub fn new(node: Arc<dyn Node>, side: Side) -> Arc<Self> {
        Arc::new(Self { node, side })
    }

    /// The span of one method. Static names are what callsites have: one for each side.
    fn span(&self, method: &'static str, requests: usize) -> Span {
        let node = self.node.name();
        match self.side {
            Side::Local => span!("node.call", node, method, requests),
            Side::Remote => {
                span!("fabric.call", otel.kind = "client", node, method, requests)
            }
        }
    }
}

#[async_trait]
impl Node for Traced {
    fn name(&self) -> &str {
        self.node.name()
    }

    async fn call(
        &self,
        deadline: Duration,
        batch: Vec<(DriveId, DriveRequest)>,
    ) -> Vec<DriveResult> {
        let span = self.span("call", batch.len());
        self.node.call(deadline, batch).instrument(span).await
    }

    async fn upload(&self, targets: Vec<UploadTarget>) -> Result<Box<dyn ShardUpload>, DriveError> {
        let span = self.span("upload", targets.len());
        let upload = self.node.upload(targets).instrument(span.clone()).await?;
        Ok(if span.is_none() { upload } else { Box::new(TracedUpload { upload, span }) })
    }

    async fn read_shard(&self, read: ShardRead) -> Result<BlockStream, DriveError> {
        let span = self.span("read_shard", 1);
        let blocks = self.node.read_shard(read).instrument(span.clone()).await?;
        Ok(if span.is_none() { blocks } else { Box::pin(TracedBlocks { blocks, span }) })
    }
}

struct TracedUpload {
    upload: Box<dyn ShardUpload>,
    span: Span,
}

#[async_trait]
impl ShardUpload for TracedUpload {
    async fn send(&mut self, target: usize, blocks: Bytes) -> Result<(), DriveError> {
        self.upload.send(target, blocks).instrument(self.span.clone()).await
    }

    async fn finish(self: Box<Self>) -> Vec<Result<UploadHandle, DriveError>> {
        let Self { upload, span } = *self;
        upload.finish().instrument(span).await
    }
}

struct TracedBlocks {
    blocks: BlockStream,
    span: Span,
}

impl Stream for TracedBlocks {
    type Item = Result<Bytes, DriveError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        this.span.in_scope(|| this.blocks.as_mut().poll_next(context))
    }
}
