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
    /// How many of them are being rebuilt: they take writes and do not count yet.
    pub drives_rebuilding: u32,
    /// Its epoch: raised by every change of its drives.
    pub epoch: u64,
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

/// The rebuild of one drive.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RebuildView {
    /// Its set.
    pub set: u32,
    /// The drive.
    pub drive: String,
    /// The URL of its node.
    pub node: String,
    /// Its path there.
    pub path: String,
    /// `starting`, `urgent`, `all`, `proof` or `done`.
    pub phase: String,
    /// Registers compared in this phase.
    pub seen: u64,
    /// Registers there are, about.
    pub registers: u64,
    /// Versions brought to the drive.
    pub restored: u64,
    /// Bytes of shards brought.
    pub bytes: u64,
    /// Bytes a second, over the whole rebuild.
    pub rate: u64,
    /// Seconds since it began.
    pub seconds: u64,
    /// Seconds left in this phase, as far as can be told.
    pub seconds_left: Option<u64>,
    /// Proof: versions counted.
    pub versions: u64,
    /// Proof: those whose shards are all there.
    pub whole: u64,
    /// Proof: those that lack shards on other drives.
    pub short_count: u64,
    /// The first of those, with the reason.
    pub short: Vec<ShortView>,
    /// Why it did not come to its end last time; empty when nothing was in the way.
    pub error: String,
    /// On its node's monotonic clock: when it began, and when this phase did.
    #[serde(skip)]
    pub began_micros: u64,
    /// See `began_micros`.
    #[serde(skip)]
    pub phase_micros: u64,
}

impl RebuildView {
    /// Brings times and rates up to `now` on the monotonic clock.
    pub fn progressed(&mut self, now: u64) {
        if self.began_micros == 0 {
            self.began_micros = now;
        }
        if self.seen == 0 {
            self.phase_micros = now;
        }
        if self.phase == "done" {
            self.seconds_left = Some(0);
            return;
        }
        let micros = now.saturating_sub(self.began_micros);
        self.seconds = micros / 1_000_000;
        self.rate = (u128::from(self.bytes) * 1_000_000 / u128::from(micros.max(1))) as u64;
        let spent = u128::from(now.saturating_sub(self.phase_micros));
        let left = u128::from(self.registers.saturating_sub(self.seen));
        let known = self.seen > 0;
        self.seconds_left =
            known.then(|| (spent * left / u128::from(self.seen.max(1)) / 1_000_000) as u64);
    }
}

/// What brings a node's drives back to full width.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HealView {
    /// The node's URL.
    pub node: String,
    /// Whether rebuilding is held.
    pub paused: bool,
    /// Bytes a second that rebuilding may bring; 0: as fast as it goes.
    pub bytes_per_second: u64,
    /// Rebuilds of its drives since it was started.
    pub rebuilds: Vec<RebuildView>,
    /// Its background workers.
    pub workers: Vec<WorkerView>,
    /// Why the node said nothing; empty when it did.
    pub error: String,
}

/// A background worker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkerView {
    /// `resolver`, `healer` or `purger`.
    pub name: String,
    /// `busy`, `throttled` or `idle`.
    pub doing: String,
    /// Items worked off since the start.
    pub done: u64,
    /// Items left for later in the last pass.
    pub left: u64,
    /// The last error; empty when the last pass had none.
    pub error: String,
}

/// The scrub of every drive.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ScrubView {
    /// The drives.
    pub drives: Vec<ScrubRow>,
}

/// The scrub of a drive: every live byte is read again, at a set rate.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ScrubRow {
    /// The URL of its node.
    pub node: String,
    /// Its path.
    pub path: String,
    /// The drive.
    pub drive: String,
    /// `idle`, `shards` or `runs`, which it reads, or `paused`; empty when the drive says nothing.
    pub state: String,
    /// Bytes a second at most.
    pub bytes_per_second: u64,
    /// The pass under way, or the last; 0: there was none.
    pub pass: u64,
    /// When it began, in seconds since 1970.
    pub started_at: u64,
    /// Shards read in it.
    pub shards_read: u64,
    /// Bytes read in it.
    pub bytes_read: u64,
    /// Live shards that it has not read yet.
    pub shards_left: u64,
    /// Live bytes that it has not read yet.
    pub bytes_left: u64,
    /// Shards it found rotten.
    pub found: u64,
    /// Seconds left at this rate, while it runs.
    pub seconds_left: Option<u64>,
    /// The last pass that came to its end.
    pub last: Option<ScrubPassView>,
    /// The last one that read every live byte.
    pub last_complete: Option<ScrubPassView>,
    /// Why the drive says nothing; empty when it does.
    pub error: String,
}

/// A pass of the scrub that came to its end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ScrubPassView {
    /// Its number.
    pub pass: u64,
    /// When it began, in seconds since 1970.
    pub started_at: u64,
    /// When it ended.
    pub finished_at: u64,
    /// Whether it read every byte that was live when it began and still was when it came by.
    pub complete: bool,
    /// Shards read.
    pub shards: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of runs read.
    pub run_bytes: u64,
    /// Shards found rotten.
    pub found: u64,
    /// Live shards that were not read.
    pub shards_missed: u64,
    /// Live bytes that were not read, or are not what was written.
    pub bytes_missed: u64,
}

/// Versions that a node knows to be short of good shards everywhere.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct QuarantineView {
    /// The node's URL.
    pub node: String,
    /// Those on record.
    pub entries: Vec<QuarantineRow>,
    /// How often one was not entered since the start, for the record was full.
    pub refused: u64,
    /// Why the node said nothing; empty when it did.
    pub error: String,
}

/// A version that all drives together cannot restore.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct QuarantineRow {
    /// Names it in requests: its register, in hexadecimal digits.
    pub register: String,
    /// Its bucket; the bucket's id when the name is not known.
    pub bucket: String,
    /// Its key.
    pub key: String,
    /// The part, of an upload that is not completed.
    pub part: Option<u32>,
    /// Its version; `null` in unversioned buckets.
    pub version: String,
    /// The operation that wrote it.
    pub operation: String,
    /// Its set.
    pub set: u32,
    /// Good shards that all drives together have.
    pub good: u32,
    /// Shards that its bytes need.
    pub need: u32,
    /// Since when that is known, in seconds since 1970.
    pub since: u64,
    /// What the last try failed on.
    pub why: String,
}

/// A version that lacks shards.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ShortView {
    /// Its key.
    pub key: String,
    /// Good shards it has.
    pub good: u32,
    /// Where the others should be, and why they are not.
    pub why: String,
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
