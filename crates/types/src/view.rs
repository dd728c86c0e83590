//! The cluster as operators see it: what the administrative paths of the gateway answer as JSON and
//! adminctl prints.
//!
//! Names of states appear only as values of `state`, so that a script may search for them. Fields are
//! added, never renamed; readers take a missing one for its default.

use serde::{Deserialize, Serialize};

use crate::drive::DriveState;

/// The cluster, as one node knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterView {
    /// The cluster's id.
    pub cluster: String,
    /// Version of the layout document.
    pub layout_generation: u32,
    /// Nodes in layout order.
    pub nodes: Vec<NodeView>,
    /// Pools in layout order.
    pub pools: Vec<PoolView>,
    /// Erasure sets.
    pub sets: Vec<SetView>,
    /// Every drive of every node.
    pub drives: Vec<DriveView>,
}

/// A node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeView {
    /// Its index in the layout.
    pub index: u32,
    /// Its URL.
    pub node: String,
    /// Whether it answers.
    pub answers: bool,
    /// How many drives it has.
    pub drives: u32,
}

/// A pool.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PoolView {
    /// Its index in the layout.
    pub index: u32,
    /// How many sets it has.
    pub sets: u32,
    /// How many drives it has.
    pub drives: u32,
    /// Bytes of its drives that answer.
    pub capacity_bytes: u64,
    /// Bytes used of them.
    pub used_bytes: u64,
}

/// An erasure set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SetView {
    /// Its index.
    pub set: u32,
    /// Its pool.
    pub pool: u32,
    /// How many drives it has.
    pub drives: u32,
    /// How many of them serve.
    pub drives_serving: u32,
    /// How many more drives may fail while writes go on; `None` when they do not now.
    pub write_failures_left: Option<u32>,
    /// How many more drives may fail while reads go on; `None` when they do not now.
    pub read_failures_left: Option<u32>,
}

/// A drive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriveView {
    /// The URL of its node.
    pub node: String,
    /// Its id.
    pub drive: String,
    /// Its path on the node.
    pub path: String,
    /// Its state.
    pub state: DriveState,
    /// Its set.
    #[serde(default)]
    pub set: u32,
    /// Its bytes; 0 when it does not answer.
    #[serde(default)]
    pub capacity_bytes: u64,
    /// Its used bytes.
    #[serde(default)]
    pub used_bytes: u64,
    /// Why it does not serve, in words that are no state's name; empty when it does.
    #[serde(default)]
    pub detail: String,
}

/// Where an object lies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ObjectView {
    /// The bucket.
    pub bucket: String,
    /// The key.
    pub key: String,
    /// The set.
    pub set: u32,
    /// Bytes of the object.
    pub size: u64,
    /// Data shards of its geometry.
    pub data_shards: u32,
    /// Parity shards of its geometry.
    pub parity_shards: u32,
    /// Bytes of a block.
    pub block_bytes: u32,
    /// Every shard, by index. An object of several parts has the shards of each.
    pub shards: Vec<ShardView>,
}

/// A shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardView {
    /// Its index: data shards first.
    pub shard: u32,
    /// The part it belongs to; `None` when the object is not made of parts.
    #[serde(default)]
    pub part: Option<u32>,
    /// The URL of the node that should have it.
    pub node: String,
    /// The drive.
    pub drive: String,
    /// The drive's path.
    pub path: String,
    /// Where on the drive: `inline`, or volume and offset; empty when it is not there.
    #[serde(default)]
    pub place: String,
    /// Whether it is there.
    pub state: ShardState,
}

/// Whether a shard is where it should be.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ShardState {
    /// The drive holds its bytes.
    Present,
    /// The drive answers and does not hold it.
    Missing,
    /// The drive does not answer.
    Unknown,
}

impl ShardState {
    /// The name used in tables and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Present => "present",
            Self::Missing => "missing",
            Self::Unknown => "unknown",
        }
    }
}
