//! A cluster in memory for tests: nodes whose drives follow the register rules for real, with faults
//! at will, and an engine over them.

mod drive;
mod node;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{Stream, stream};
use holdfast_placement::{DriveSlot, Layout, NodeSpec, Pool, SetLayout};
use holdfast_types::{
    BucketEpoch, BucketId, BucketPhase, BucketStamp, ClusterId, DriveId, NodeIndex, SetEpoch,
    SetIndex,
    seam::{Clock, SeededRandom},
};

pub use drive::MemoryDrive;
pub use node::{Fuse, MemoryNode};

use crate::{
    api::{Body, BodyDigest, BoxBody},
    engine::{Engine, EngineConfig},
    error::StoreError,
    knobs::Knobs,
    task,
};

/// A clock that follows tokio's, paused or not, from a fixed date on.
pub struct TokioClock {
    start: tokio::time::Instant,
}

/// 2026-01-01, microseconds since the Unix epoch.
const EPOCH_MICROS: u64 = 1_767_225_600_000_000;

impl Default for TokioClock {
    fn default() -> Self {
        Self { start: task::after(Duration::ZERO) }
    }
}

impl Clock for TokioClock {
    fn wall_micros(&self) -> u64 {
        EPOCH_MICROS + self.monotonic_micros()
    }

    fn monotonic_micros(&self) -> u64 {
        // A minute ahead, so that memories begun at zero are complete.
        60_000_000 + self.start.elapsed().as_micros() as u64
    }
}

/// `nodes` nodes of `drives` drives each in one set, and an engine that is part of node 0. Background
/// workers are off; times are those of the product.
///
/// # Panics
/// When `nodes * drives` is not 1 to 16.
#[must_use]
pub fn cluster(nodes: usize, drives: usize) -> (Arc<Engine>, Vec<Arc<MemoryNode>>) {
    cluster_with(nodes, drives, Knobs { background: false, ..Knobs::default() })
}

/// As [`cluster`], with knobs.
///
/// # Panics
/// When `nodes * drives` is not 1 to 16.
#[must_use]
pub fn cluster_with(
    nodes: usize,
    drives: usize,
    knobs: Knobs,
) -> (Arc<Engine>, Vec<Arc<MemoryNode>>) {
    let cluster = Cluster::new(nodes, drives);
    let engine = cluster.engine(Some(NodeIndex(0)), 1, knobs);
    (engine, cluster.nodes)
}

/// Nodes that several engines may share.
pub struct Cluster {
    /// The nodes, in layout order.
    pub nodes: Vec<Arc<MemoryNode>>,
    /// Their layout: one pool.
    pub layout: Arc<Layout>,
    /// Their clock.
    pub clock: Arc<dyn Clock>,
}

impl Cluster {
    /// `nodes` nodes of `drives` drives each in one set.
    ///
    /// # Panics
    /// When `nodes * drives` is not 1 to 16.
    #[must_use]
    pub fn new(nodes: usize, drives: usize) -> Self {
        Self::with_sets(nodes, drives, 1)
    }

    /// `nodes` nodes of `drives` drives each in `sets` sets, which every node has as many drives of.
    ///
    /// # Panics
    /// When the sets do not divide the drives of a node, or have more than 16.
    #[must_use]
    pub fn with_sets(nodes: usize, drives: usize, sets: usize) -> Self {
        assert_eq!(drives % sets, 0, "every node has as many drives of each set");
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::default());
        let per_set = drives / sets;
        let size = (nodes * per_set) as u8;
        let id = |node: usize, at: usize| DriveId(((node + 1) * 100 + at + 1) as u128);
        let path = |at: usize| format!("/mnt/drive{}", at + 1);
        let memory = |node: usize| {
            let make = |at| MemoryDrive::new(id(node, at), path(at), size, SetEpoch(1));
            let name = format!("http://node{}:9000", node + 1);
            Arc::new(MemoryNode::new(name, clock.clone(), (0..drives).map(make).collect()))
        };
        // Hosts vary fastest, as in real layouts.
        let slots = |set: usize| {
            let drives = set * per_set..(set + 1) * per_set;
            drives.flat_map(|at| (0..nodes).map(move |node| (node, at)))
        };
        let slot = |(node, at): (usize, usize)| DriveSlot {
            drive: id(node, at),
            node: NodeIndex(node as u16),
            path: path(at),
            rebuilding: false,
        };
        let set = |index: usize| SetLayout {
            index: SetIndex(index as u16),
            epoch: SetEpoch(1),
            drives: slots(index).map(slot).collect(),
        };
        let layout = Layout {
            cluster: ClusterId(1),
            generation: 1,
            nodes: (0..nodes)
                .map(|node| NodeSpec { url: format!("http://node{}:9000", node + 1) })
                .collect(),
            pools: vec![Pool { weight: 1, sets: (0..sets).map(set).collect() }],
        };
        Self { nodes: (0..nodes).map(memory).collect(), layout: Arc::new(layout), clock }
    }

    /// An engine of its own over the nodes; engines of one cluster need different seeds.
    #[must_use]
    pub fn engine(&self, local: Option<NodeIndex>, seed: u64, knobs: Knobs) -> Arc<Engine> {
        Engine::new(EngineConfig {
            layout: self.layout.clone(),
            nodes: self.nodes.iter().map(|node| node.clone() as _).collect(),
            local,
            clock: self.clock.clone(),
            random: Arc::new(SeededRandom::new(seed)),
            knobs,
        })
    }
}

/// The stamp of a live bucket that no registry knows: for tests below the buckets.
#[must_use]
pub const fn bucket_stamp() -> BucketStamp {
    BucketStamp { id: BucketId(0xb0c4), epoch: BucketEpoch(1), phase: BucketPhase::Live }
}

/// A body of these chunks, its digest a plain hash of its length.
#[must_use]
pub fn body_of(chunks: Vec<Bytes>) -> BoxBody {
    body_from(stream::iter(chunks.into_iter().map(Ok)))
}

/// A body of these bytes.
#[must_use]
pub fn body(bytes: impl Into<Bytes>) -> BoxBody {
    body_of(vec![bytes.into()])
}

/// A body from a stream.
#[must_use]
pub fn body_from(
    chunks: impl Stream<Item = Result<Bytes, StoreError>> + Send + 'static,
) -> BoxBody {
    Box::pin(TestBody { chunks: Box::pin(chunks), seen: 0 })
}

struct TestBody {
    chunks: std::pin::Pin<Box<dyn Stream<Item = Result<Bytes, StoreError>> + Send>>,
    seen: u64,
}

impl Stream for TestBody {
    type Item = Result<Bytes, StoreError>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        let polled = self.chunks.as_mut().poll_next(cx);
        if let std::task::Poll::Ready(Some(Ok(chunk))) = &polled {
            self.seen += chunk.len() as u64;
        }
        polled
    }
}

impl Body for TestBody {
    fn digest(&mut self) -> BodyDigest {
        BodyDigest { etag: format!("{:032x}", self.seen), checksum: None }
    }
}

/// Reproducible bytes that do not compress.
#[must_use]
pub fn pattern(seed: u64, len: usize) -> Bytes {
    use holdfast_types::seam::Random;
    let random = SeededRandom::new(seed);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&random.next_u64().to_le_bytes());
    }
    bytes.truncate(len);
    bytes.into()
}
