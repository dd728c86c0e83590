//! Commands to a drive, its replies and its errors: plain values that travel unchanged to a local
//! actor or, through `holdfast-proto`, to a remote one.
//!
//! No reply leaves a drive before every record it rests on is durable (DRIVE.md, "Log").

use bytes::Bytes;
use holdfast_register::{HolderMask, KeyView, Refusal, ShardStatus};
use holdfast_types::{
    Ballot, BucketStamp, DriveId, DriveState, Entry, ErrorClass, Geometry, HybridTime, Keyspace,
    OperationId, RegisterKey, ScrubOrder, SetEpoch, SetIndex, ShardIndex, VersionId,
};

use crate::scrub::ScrubStatus;

pub use crate::member::{
    Begin, Filled, Gap, IndexEntry, IndexLine, IndexPage, Issue, Issued, ListIndex, MemberReply,
    MemberRequest, Restock, Standing,
};
pub use crate::rot::{RotRange, RotStanding};

/// What every request carries, reads too: the caller's view of bucket and set. A drive with a newer
/// one refuses and names it; a drive with an older bucket stamp installs the request's first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scope {
    /// The bucket, [`BucketStamp::REGISTRY`] for the registries.
    pub bucket: BucketStamp,
    /// The set the drive is believed to be in.
    pub set: SetIndex,
    /// The set's membership epoch as the caller knows it.
    pub set_epoch: SetEpoch,
}

/// Names data that was streamed to a drive and fsynced there in this open. Volatile: after a restart
/// of the drive the handle means nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct UploadHandle {
    /// The drive's open count when the upload was made.
    pub open: u64,
    /// The upload within that open.
    pub upload: u64,
}

/// Where the drive finds its shard of the entry it is asked to accept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ShardSource {
    /// The entry has no data of its own.
    NoData,
    /// The shard itself: at most [`holdfast_types::limits::INLINE_SHARD_BYTES_MAX`] payload, as
    /// blocks with their checksums.
    Inline(Bytes),
    /// Streamed before.
    Upload(UploadHandle),
    /// The drive is believed to hold the operation's shard already (adoption). If it does not, it
    /// refuses as [`Refusal::UploadLost`].
    Held,
    /// The sender does not have the shard: record it as missing.
    Missing,
}

/// A condition on another register of the same drive: its head's metadata must begin with `prefix`.
/// Parts and completions are tied to their upload's phase by it (PROTOCOL.md section 7).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Guard {
    /// The register (version null) looked at.
    pub key: RegisterKey,
    /// What its head's metadata must begin with.
    pub prefix: Bytes,
}

/// Accept an entry (PROTOCOL.md section 2).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Accept {
    /// Bucket and set.
    pub scope: Scope,
    /// The key.
    pub key: RegisterKey,
    /// The register.
    pub version: VersionId,
    /// What to accept.
    pub entry: Entry,
    /// Which shard this drive holds.
    pub shard: ShardIndex,
    /// Where its bytes are.
    pub source: ShardSource,
    /// A condition on another register; refused as [`Refusal::UploadNotOpen`] when it fails.
    pub guard: Option<Guard>,
}

/// Take over a settled entry at its own ballot, with its shard (the healer's command).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Install {
    /// Bucket and set.
    pub scope: Scope,
    /// The key.
    pub key: RegisterKey,
    /// The register.
    pub version: VersionId,
    /// The settled entry.
    pub entry: Entry,
    /// Which shard this drive holds.
    pub shard: ShardIndex,
    /// Where its bytes are.
    pub source: ShardSource,
    /// Holders known to the healer, this drive included.
    pub holders: HolderMask,
}

/// Promise to refuse lower ballots for a key, and answer what is held and remembered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Prepare {
    /// Bucket and set.
    pub scope: Scope,
    /// The key.
    pub key: RegisterKey,
    /// The ballot to promise.
    pub ballot: Ballot,
    /// Since when the memory is asked for: the first ballot of the asker's operation.
    pub since: HybridTime,
    /// Also send inline shards.
    pub inline: bool,
}

/// Read what is held for a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Read {
    /// Bucket and set.
    pub scope: Scope,
    /// The key.
    pub key: RegisterKey,
    /// Only this register; all when `None`.
    pub version: Option<VersionId>,
    /// Also send inline shards.
    pub inline: bool,
}

/// A shard that rides in the log, sent along with a view.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InlineShard {
    /// Whose bytes.
    pub operation: OperationId,
    /// Which shard.
    pub shard: ShardIndex,
    /// Blocks with their checksums.
    pub bytes: Bytes,
}

/// Record that an operation was chosen, and who holds it. Repeats what is already safe: the reply
/// does not wait for the disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settle {
    /// Bucket and set.
    pub scope: Scope,
    /// The key.
    pub key: RegisterKey,
    /// The register.
    pub version: VersionId,
    /// The operation chosen.
    pub operation: OperationId,
    /// Drives known to hold their shards, by shard index. A repair record is kept for the others.
    pub holders: HolderMask,
    /// Drives of the set: how wide `holders` ought to be.
    pub set_size: u8,
}

/// Remove a settled tombstone that every drive of the set holds settled.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Purge {
    /// Bucket and set.
    pub scope: Scope,
    /// The key.
    pub key: RegisterKey,
    /// The register.
    pub version: VersionId,
    /// Everything of the register up to here goes.
    pub ballot: Ballot,
}

/// Read keys in order. Tombstones are returned, too; nothing is skipped but by `start` and `end`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scan {
    /// Bucket and set.
    pub scope: Scope,
    /// The keyspace; the bucket is the scope's.
    pub space: Keyspace,
    /// First name, inclusive.
    pub start: Bytes,
    /// Names at or beyond this are not returned; unbounded when `None`.
    pub end: Option<Bytes>,
    /// Most keys to return.
    pub limit: u32,
    /// Whether entries carry their metadata. Part lists are never carried.
    pub metadata: bool,
}

/// One key of a scan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScannedKey {
    /// Its name.
    pub name: Bytes,
    /// What is held, part lists left out, no memory.
    pub view: KeyView,
}

/// A page of a scan.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ScanPage {
    /// Keys in rising order; none in a gap.
    pub keys: Vec<ScannedKey>,
    /// Names on its way about which the drive says nothing, for rot hid what it knew (ADR 0017).
    pub gaps: Vec<Gap>,
    /// Whether keys follow the last one (false: the range is exhausted).
    pub more: bool,
    /// Whether the drive counts (PROTOCOL.md section 5).
    pub counts: bool,
}

/// A reader could not read a shard that the drive says it holds. The drive takes nobody's word: it
/// reads the shard itself, and records it as missing only when it does not verify, so that it is
/// restored from the others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verify {
    /// Bucket and set.
    pub scope: Scope,
    /// The key.
    pub key: RegisterKey,
    /// The register.
    pub version: VersionId,
    /// Whose bytes: the operation of an entry of the register, or of a part that one names.
    pub operation: OperationId,
    /// Which shard.
    pub shard: ShardIndex,
}

/// What background workers ask a drive for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChoreKind {
    /// Registers whose settled entry is known not to be held by all drives.
    Repairs,
    /// Registers with an unsettled entry older than the age asked for.
    Unsettled,
    /// Settled tombstones older than the age asked for.
    Tombstones,
    /// Buckets that the drive does not know to be deleted, whatever their age: the key of an item has
    /// the bucket's id and no name.
    Buckets,
}

/// List work of one kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListChores {
    /// What kind.
    pub kind: ChoreKind,
    /// Only what is at least this old.
    pub age_micros: u64,
    /// Continue behind this cursor; from the beginning when `None`.
    pub after: Option<Bytes>,
    /// Most items to return.
    pub limit: u32,
}

/// One piece of work.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chore {
    /// Continue behind this item with it.
    pub cursor: Bytes,
    /// The key.
    pub key: RegisterKey,
    /// The register.
    pub version: VersionId,
    /// The operation it is about.
    pub operation: OperationId,
    /// Its ballot.
    pub ballot: Ballot,
    /// Shards that are missing, by shard index ([`ChoreKind::Repairs`]).
    pub missing: HolderMask,
}

/// Keep an operation's bytes while a client reads them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pin {
    /// The operations.
    pub operations: Vec<OperationId>,
    /// The lease, drawn by the reader; repeating it renews.
    pub lease: OperationId,
    /// How long from now; 0 gives the lease back.
    pub ttl_micros: u64,
}

/// A command to one drive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DriveRequest {
    /// -> [`DriveReply::Accepted`]
    Accept(Accept),
    /// -> [`DriveReply::Accepted`]
    Install(Install),
    /// -> [`DriveReply::View`]
    Prepare(Prepare),
    /// -> [`DriveReply::View`]
    Read(Read),
    /// -> [`DriveReply::Done`]
    Settle(Settle),
    /// -> [`DriveReply::Done`]
    Purge(Purge),
    /// -> [`DriveReply::Page`]
    Scan(Scan),
    /// -> [`DriveReply::Chores`]
    ListChores(ListChores),
    /// -> [`DriveReply::Done`]; installs the stamp of its scope, durably.
    InstallBucket(Scope),
    /// -> [`DriveReply::Done`]
    Pin(Pin),
    /// -> [`DriveReply::Facts`]
    Facts,
    /// -> [`DriveReply::Accepted`] with what is known of the shard now, durably; [`DriveReply::Done`]
    /// when nothing here names the operation any more.
    Verify(Verify),
    /// -> [`DriveReply::Scrub`]
    Scrub(ScrubOrder),
    /// How drives come and go; see [`crate::member`].
    Member(MemberRequest),
}

impl DriveRequest {
    /// Its name, for traces.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Accept(_) => "accept",
            Self::Install(_) => "install",
            Self::Prepare(_) => "prepare",
            Self::Read(_) => "read",
            Self::Settle(_) => "settle",
            Self::Purge(_) => "purge",
            Self::Scan(_) => "scan",
            Self::ListChores(_) => "list chores",
            Self::InstallBucket(_) => "install bucket",
            Self::Pin(_) => "pin",
            Self::Facts => "facts",
            Self::Verify(_) => "verify",
            Self::Scrub(_) => "scrub",
            Self::Member(_) => "member",
        }
    }
}

/// What an operator sees of a drive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DriveFacts {
    /// Its identity.
    pub drive: DriveId,
    /// Its path on its node.
    pub path: String,
    /// Its state.
    pub state: DriveState,
    /// One line of cause and one of cure when it does not serve; empty otherwise.
    pub reason: String,
    /// Bytes of the file system it is on.
    pub capacity_bytes: u64,
    /// Bytes that can still be stored.
    pub free_bytes: u64,
    /// Live bytes of shards.
    pub used_bytes: u64,
    /// Registers held.
    pub registers: u64,
    /// Repair records held.
    pub repairs: u64,
    /// How often it was opened.
    pub open_count: u64,
    /// fdatasyncs since it was opened, for the one-sync-a-write budget.
    pub syncs: u64,
    /// How often its index was set aside since it was opened: it failed, or said something else than the
    /// runs. Nothing is lost by it.
    pub index_faults: u64,
}

/// What a drive answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DriveReply {
    /// The entry is durable here, its shard in this state.
    Accepted(ShardStatus),
    /// What is held.
    View {
        /// Registers, ballots, memory.
        view: KeyView,
        /// Inline shards, when asked for.
        inline: Vec<InlineShard>,
    },
    /// A page of a scan.
    Page(ScanPage),
    /// A page of work.
    Chores(Vec<Chore>),
    /// Facts.
    Facts(DriveFacts),
    /// How the scrub stands.
    Scrub(ScrubStatus),
    /// How drives come and go.
    Member(MemberReply),
    /// Done.
    Done,
}

/// Why a drive did not do what it was asked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DriveError {
    /// By the rules of the protocol.
    #[error("drive {drive} refused: {refusal}")]
    Refused {
        /// The drive.
        drive: DriveId,
        /// The reason, with the winning ballot where there is one.
        refusal: Refusal,
    },
    /// For any other reason, classed by what the caller can do.
    #[error("drive {drive}: {message}")]
    Failed {
        /// The drive.
        drive: DriveId,
        /// What the caller can do.
        class: ErrorClass,
        /// What happened, to what, and what next.
        message: String,
    },
}

impl DriveError {
    /// What the caller can do.
    #[must_use]
    pub const fn class(&self) -> ErrorClass {
        match self {
            Self::Failed { class, .. } => *class,
            Self::Refused { refusal, .. } => match refusal {
                Refusal::BucketOutdated { .. } | Refusal::SetOutdated { .. } => {
                    ErrorClass::Outdated
                }
                Refusal::Crowded => ErrorClass::Overloaded,
                Refusal::UploadLost => ErrorClass::Unavailable,
                Refusal::BallotReused => ErrorClass::Internal,
                Refusal::NotPurgeable => ErrorClass::Invalid,
                Refusal::Stale { .. }
                | Refusal::Promised { .. }
                | Refusal::TooFarAhead { .. }
                | Refusal::Purged { .. }
                | Refusal::BucketNotLive { .. }
                | Refusal::UploadNotOpen => ErrorClass::Conflict,
            },
        }
    }

    /// A failure of `class` on `drive`.
    pub fn failed(drive: DriveId, class: ErrorClass, message: impl Into<String>) -> Self {
        Self::Failed { drive, class, message: message.into() }
    }
}

/// What one drive answers to one request.
pub type DriveResult = Result<DriveReply, DriveError>;

/// One shard to be streamed to a drive: whole blocks with their checksums, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UploadTarget {
    /// The drive.
    pub drive: DriveId,
    /// Bucket and set.
    pub scope: Scope,
    /// The key whose body it is (the object's, or the part's).
    pub key: RegisterKey,
    /// The operation that names the bytes.
    pub operation: OperationId,
    /// Which shard.
    pub shard: ShardIndex,
    /// The shape. Its `size` is what the client announced, or 0 when it did not; the drive learns
    /// the true length from the stream's end, and the entry names it.
    pub geometry: Geometry,
}

/// A range of blocks of one shard to be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ShardRead {
    /// The drive.
    pub drive: DriveId,
    /// Bucket and set.
    pub scope: Scope,
    /// Whose bytes.
    pub operation: OperationId,
    /// Which shard.
    pub shard: ShardIndex,
    /// The shape, from the entry or part reference.
    pub geometry: Geometry,
    /// First block.
    pub first_block: u64,
    /// Blocks to read.
    pub block_count: u64,
}
