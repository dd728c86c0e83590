//! What a manifest says: the state of a drive up to a position of its log. Plain values; the byte
//! format and the files are the manifest's.
//!
//! How the pieces fit (DRIVE.md, "Runs and manifest"):
//!
//! ```text
//! 1 freeze   the overlay and the facts as of the end of batch P     (owner thread, in memory)
//! 2 run      write the frozen records as a sorted run, fsync        a crash leaves an unnamed file
//! 3 manifest name the run, P, facts, bitmaps; temp, fsync, rename   from here replay starts at P
//! 4 recycle  log segments before the OLDER of the two manifests with no live inline shard
//! ```
//!
//! Runs, index and overlay hold opaque byte keys and values, ordered by key:
//!
//! | first byte | rest of the key | value |
//! |---|---|---|
//! | 1..=5 | [`holdfast_types::RegisterKey::encode_register`] as a whole | a register's entries |
//! | 0x81 | operation id | where its shard lies, and how many entries name it |
//! | 0x82..=0x84 | chores, see `record.rs` | small |
//!
//! A removed key is kept in a run as "removed" until it merges with the oldest run. Keys have at
//! most some 2.2 KiB, values at most [`VALUE_BYTES_MAX`].

use bytes::Bytes;
use holdfast_types::{Ballot, BucketStamp, DriveId, SetEpoch};

use crate::{member::Standing, rot::RotRanges, runs::RunMeta, scrub::Book};

/// Bytes of the longest value: metadata and part list of an entry at their limits, times the entries
/// that one register may keep, is refused earlier by the log's record limit.
pub const VALUE_BYTES_MAX: usize = 64 << 20;

/// Where replay starts: the place and identity of the first batch that the runs do not cover.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LogPosition {
    /// The segment.
    pub segment: u32,
    /// Where in it the batch would begin. The batch may instead be the first of another segment.
    pub offset: u64,
    /// The batch's number.
    pub batch: u64,
    /// The checksum of the batch before it, which it names.
    pub chain: u128,
}

/// Drive-wide facts that every restart needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DurableFacts {
    /// How often the drive was opened.
    pub open_count: u64,
    /// The set epoch it has adopted.
    pub set_epoch: SetEpoch,
    /// Where it stands in its set.
    pub standing: Standing,
    /// Floor of a rebuilt drive: everything is promised at least here.
    pub floor: Ballot,
    /// No promise given lies above this; after a restart everything is promised here.
    pub ceiling: Ballot,
    /// Registers not held refuse ballots up to here.
    pub purge_floor: Ballot,
    /// Registers held.
    pub registers: u64,
    /// Repair records held.
    pub repairs: u64,
    /// Bytes of live shards.
    pub used_bytes: u64,
    /// Live shards.
    pub shards: u64,
}

/// Which blocks of a volume are taken: bit `b % 8` of byte `b / 8` is block `b`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct VolumeMap {
    /// The volume.
    pub volume: u32,
    /// Blocks of 4 KiB it has.
    pub blocks: u32,
    /// One bit a block.
    pub bitmap: Vec<u8>,
}

/// Live inline shards of a log segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SegmentUse {
    /// The segment.
    pub segment: u32,
    /// Shards in it that are live.
    pub live_shards: u64,
    /// Their bytes.
    pub live_bytes: u64,
    /// The highest batch in it that is covered by the checkpoint.
    pub last_batch: u64,
}

/// All that a manifest says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    /// Whose it is.
    pub drive: DriveId,
    /// Rises by one with every manifest; the two newest are kept.
    pub sequence: u64,
    /// Where replay starts.
    pub log: LogPosition,
    /// Facts.
    pub facts: DurableFacts,
    /// The membership document last adopted; empty when none was.
    pub membership: Bytes,
    /// The bucket table.
    pub buckets: Vec<BucketStamp>,
    /// The volumes.
    pub volumes: Vec<VolumeMap>,
    /// The log segments that hold live inline shards.
    pub segments: Vec<SegmentUse>,
    /// The runs, newest first.
    pub runs: Vec<RunMeta>,
    /// What rot hides.
    pub rot: RotRanges,
    /// How the scrub stands.
    pub scrub: Book,
}
