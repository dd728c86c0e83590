//! [`Node`]: how drives are reached. One message carries the requests for all drives of a node, so
//! that a request costs one hop a node (DESIGN section 5).
//!
//! Carriers: the local supervisor actor, the gRPC client, and the in-memory double of tests. Deadlines,
//! metrics and faults are added by wrapping; wrappers implement every method.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use holdfast_types::DriveId;

use crate::api::{DriveError, DriveRequest, DriveResult, ShardRead, UploadHandle, UploadTarget};

/// Blocks of one shard, in order: whole blocks with their checksums.
pub type BlockStream = BoxStream<'static, Result<Bytes, DriveError>>;

/// The drives of one node.
#[async_trait]
pub trait Node: Send + Sync + 'static {
    /// Where it is, for messages to people: `http://storage-node1:9000`.
    fn name(&self) -> &str;

    /// Sends each drive its requests and gathers the answers, in the order of `batch`. Requests to one
    /// drive are taken in order; different drives work at the same time.
    ///
    /// Always returns one result a request: when the node cannot be reached, each of them is an error
    /// of class `Unavailable` or, if it may have been carried out, `TimedOut`. Never waits beyond
    /// `deadline`.
    async fn call(
        &self,
        deadline: Duration,
        batch: Vec<(DriveId, DriveRequest)>,
    ) -> Vec<DriveResult>;

    /// Opens one stream that carries the shards for several drives of the node.
    ///
    /// # Errors
    /// When the stream cannot be opened. A single drive that refuses shows in
    /// [`ShardUpload::finish`] and does not disturb the others.
    async fn upload(&self, targets: Vec<UploadTarget>) -> Result<Box<dyn ShardUpload>, DriveError>;

    /// Opens a stream of blocks of one shard.
    ///
    /// # Errors
    /// When the shard is not there or the drive does not serve; later errors come in the stream.
    async fn read_shard(&self, read: ShardRead) -> Result<BlockStream, DriveError>;
}

/// Shards on their way to the drives of one node. Dropped unfinished, it leaves nothing behind.
#[async_trait]
pub trait ShardUpload: Send {
    /// Sends the next bytes of the shard of `targets[target]`: whole blocks. Waits when the node is
    /// behind (bounded memory).
    ///
    /// # Errors
    /// When the node is lost; all its targets are lost with it.
    async fn send(&mut self, target: usize, blocks: Bytes) -> Result<(), DriveError>;

    /// Ends all shards; returns, for each target in order, the handle under which the shard is on
    /// stable media, or why it is not.
    async fn finish(self: Box<Self>) -> Vec<Result<UploadHandle, DriveError>>;
}
