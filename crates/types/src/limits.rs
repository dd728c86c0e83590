//! Every limit in one place, each with its reason. Limits of S3 cite the user guide's page
//! "Amazon S3 multipart upload limits" or "Naming Amazon S3 objects".

/// Bytes of an object key. S3: "The object key name ... up to 1,024 bytes long".
pub const KEY_BYTES_MAX: usize = 1024;

/// Parts of one multipart object. S3: 10,000.
pub const PARTS_MAX: usize = 10_000;

/// Bytes of one object. S3: 50 TB since December 2025; ours is bounded by parts times part size.
pub const OBJECT_BYTES_MAX: u64 = 50 << 40;

/// Bytes of one part or of a single PUT. S3: 5 GiB.
pub const PART_BYTES_MAX: u64 = 5 << 30;

/// Bytes of every part but the last. S3: 5 MiB.
pub const PART_BYTES_MIN: u64 = 5 << 20;

/// Keys of one LIST page and of one DeleteObjects. S3: 1,000.
pub const PAGE_KEYS_MAX: usize = 1_000;

/// User metadata of one object. S3: 2 KB of names and values.
pub const USER_METADATA_BYTES_MAX: usize = 2 * 1024;

/// An entry's metadata record: keys, headers, checksums of 10,000 parts at most.
pub const METADATA_BYTES_MAX: usize = 1 << 20;

/// A block on the media, checksum included: small enough that a range read wastes little, large
/// enough that the checksum and the per-block work vanish beside the copy (DRIVE.md).
pub const BLOCK_BYTES: u32 = 128 << 10;

/// A block of a large object: fewer, longer reads.
pub const BLOCK_BYTES_LARGE: u32 = 1 << 20;

/// The largest block that any format may name; bounds the buffer a reader allocates.
pub const BLOCK_BYTES_MAX: u32 = 4 << 20;

/// From this size on a body is cut into [`BLOCK_BYTES_LARGE`].
pub const LARGE_OBJECT_BYTES: u64 = 256 << 20;

/// Bodies up to this size use few enough data shards that a read quorum restores them.
pub const TINY_OBJECT_BYTES: u64 = 16 << 10;

/// Shards up to this size ride in the drive's log (DRIVE.md: beyond it a second fdatasync inside a
/// volume costs less than writing the bytes twice).
pub const INLINE_SHARD_BYTES_MAX: u64 = 64 << 10;

/// Clocks of a cluster may differ by this much; a ballot further ahead is refused.
pub const CLOCK_SKEW_MICROS_MAX: u64 = 10_000_000;

/// How long a drive remembers which operations it accepted (PROTOCOL.md section 2). Longer than any
/// request lives: `MEMORY_MICROS > REQUEST_MICROS_MAX`.
pub const MEMORY_MICROS: u64 = 300_000_000;

/// No S3 request's metadata phase outlives this.
pub const REQUEST_MICROS_MAX: u64 = 60_000_000;

/// Deadline of one control call to a node. `CALL_MICROS * 4 < REQUEST_MICROS_MAX`, so a request can
/// go through Prepare, Accept and finish.
pub const CALL_MICROS: u64 = 10_000_000;

/// A bulk stream that moves no byte for this long is dead.
pub const STREAM_IDLE_MICROS: u64 = 15_000_000;

/// After the write quorum is there the answer waits this long for the other drives, so that an
/// acknowledged write is normally at full width (PROTOCOL.md section 1).
pub const ACK_GRACE_MICROS: u64 = 10_000;

/// Settle messages leave within this time of the choice, in batches.
pub const SETTLE_MICROS: u64 = 100_000;

/// What a drive has held unsettled for this long, its node resolves.
pub const RESOLVE_AFTER_MICROS: u64 = 5_000_000;

/// A tombstone older than this cannot meet a write of an older ballot any more: beyond the skew
/// bound and the life of every request.
pub const TOMBSTONE_MICROS: u64 = 2 * (CLOCK_SKEW_MICROS_MAX + REQUEST_MICROS_MAX);

/// Requests of one batch message: one DeleteObjects of 1,000 keys on 16 drives of one node.
pub const BATCH_REQUESTS_MAX: usize = 16_384;

/// Bytes of one control message, inline shards included.
pub const CONTROL_MESSAGE_BYTES_MAX: usize = 32 << 20;

/// Bytes of one chunk on a bulk stream (DESIGN section 6).
pub const CHUNK_BYTES: usize = 512 << 10;

const _: () = assert!(MEMORY_MICROS > REQUEST_MICROS_MAX);
const _: () = assert!(CALL_MICROS * 4 < REQUEST_MICROS_MAX);
const _: () = assert!(BLOCK_BYTES_LARGE <= BLOCK_BYTES_MAX);
const _: () = assert!(RESOLVE_AFTER_MICROS > SETTLE_MICROS);
