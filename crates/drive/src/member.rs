//! How drives come and go: what a set's members ask of each other (PROTOCOL.md section 5).
//!
//! ```text
//!            formatted for a slot          Begin: floors are in           Rebuilt: nothing is missing
//! (blank) ------------------------> Joining -----------------> Rebuilding ------------------> Counting
//!                                 serves nothing   takes writes, counts as unknown     counts
//! ```
//!
//! INV-MEMBER-1: a drive that lost its memory, or never had one, is a new drive: before it accepts
//! anything, min(W, n - 1) others have adopted the set epoch under which it is a member, refuse
//! requests of older ones from then on, and have told it the highest ballot they promised or accepted.

use bytes::Bytes;
use holdfast_register::ShardStatus;
use holdfast_types::{
    Ballot, BucketStamp, Geometry, OperationId, RegisterKey, SetEpoch, SetIndex, ShardIndex,
    VersionId, codec::CodecError,
};

use crate::{
    api::{Scope, ShardSource},
    rot::RotRange,
};

/// Lines of an index page at most.
pub const INDEX_LINES_MAX: u32 = 1024;

/// Where a drive stands in its set. The numbers are those of the log and the manifest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
#[repr(u8)]
pub enum Standing {
    /// It has what it should have: its answers count.
    #[default]
    Counting = 0,
    /// Formatted for a slot; the floors are not in yet. Serves nothing.
    Joining = 1,
    /// Accepts above its floor; what it does not show says nothing.
    Rebuilding = 2,
}

impl TryFrom<u8> for Standing {
    type Error = CodecError;

    fn try_from(byte: u8) -> Result<Self, CodecError> {
        Ok(match byte {
            0 => Self::Counting,
            1 => Self::Joining,
            2 => Self::Rebuilding,
            _ => return Err(CodecError::Unknown("standing")),
        })
    }
}

/// A membership that a drive is to adopt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Issue {
    /// The set.
    pub set: SetIndex,
    /// Its epoch under this membership.
    pub epoch: SetEpoch,
    /// The membership document (docs/format/layout.md); opaque to the drive.
    pub membership: Bytes,
}

/// What a drive tells as it adopts a set epoch.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Issued {
    /// The highest ballot it promised or accepted, for any key.
    pub floor: Ballot,
    /// Its purge floor.
    pub purge_floor: Ballot,
    /// Its bucket table.
    pub buckets: Vec<BucketStamp>,
}

impl Issued {
    /// Takes in what another drive told: the highest ballots, the newest stamps.
    pub fn absorb(&mut self, other: Self) {
        self.floor = self.floor.max(other.floor);
        self.purge_floor = self.purge_floor.max(other.purge_floor);
        for stamp in other.buckets {
            match self.buckets.iter_mut().find(|known| known.id == stamp.id) {
                Some(known) if known.epoch < stamp.epoch => *known = stamp,
                Some(_) => {}
                None => self.buckets.push(stamp),
            }
        }
    }
}

/// What a joining drive begins with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Begin {
    /// The membership it is part of.
    pub issue: Issue,
    /// What the others told.
    pub collected: Issued,
}

/// Lists what a drive holds, all keyspaces and buckets, in the order of registers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListIndex {
    /// Set and epoch; the registry's stamp, for no bucket is meant.
    pub scope: Scope,
    /// First register, encoded, inclusive; empty: from the beginning.
    pub start: Bytes,
    /// Registers at or beyond this are not listed; all are when `None`.
    pub end: Option<Bytes>,
    /// Most lines to return.
    pub limit: u32,
}

/// One register of an index.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IndexLine {
    /// The key.
    pub key: RegisterKey,
    /// The version.
    pub version: VersionId,
    /// Its entries, by falling ballot.
    pub entries: Vec<IndexEntry>,
}

/// One entry of a register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IndexEntry {
    /// Whose.
    pub operation: OperationId,
    /// Under which ballot.
    pub ballot: Ballot,
    /// Data shards that restore its data, its own or that of the part that needs most; 0 when it has none.
    pub data_shards: u8,
    /// Whether it is settled here.
    pub settled: bool,
    /// Whether the drive's shard of its own data is here.
    pub shard: ShardStatus,
    /// Parts it is made of whose shard is not here.
    pub parts_missing: u32,
}

impl IndexEntry {
    /// Whether all is here that the drive should hold of it.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.shard != ShardStatus::Missing && self.parts_missing == 0
    }
}

/// A stretch of names, or of registers, about which a drive says nothing: rot hid what it knew of them
/// (ADR 0017). Whoever goes by what a drive does not show has to leave it out there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gap {
    /// The first in it.
    pub first: Bytes,
    /// The first behind it; `None`: it does not end.
    pub end: Option<Bytes>,
}

impl Gap {
    /// Whether it holds a name, or register.
    #[must_use]
    pub fn holds(&self, name: &[u8]) -> bool {
        name >= &self.first[..] && self.end.as_ref().is_none_or(|end| name < &end[..])
    }
}

/// A page of an index.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct IndexPage {
    /// Registers in rising order.
    pub lines: Vec<IndexLine>,
    /// Registers on its way that it does not show for rot.
    pub gaps: Vec<Gap>,
    /// Where the next page starts; `None` when the index is exhausted.
    pub next: Option<Bytes>,
}

/// Brings a drive its shard of a part whose own register is gone: the object's entry, which the drive
/// holds, names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Restock {
    /// Bucket and set.
    pub scope: Scope,
    /// The object.
    pub key: RegisterKey,
    /// Its version.
    pub version: VersionId,
    /// The part.
    pub operation: OperationId,
    /// The part's shape.
    pub geometry: Geometry,
    /// Which shard.
    pub shard: ShardIndex,
    /// Where its bytes are: inline or an upload.
    pub source: ShardSource,
}

/// The proof that ranges of rot are filled.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Filled {
    /// The epoch under which all were asked.
    pub epoch: SetEpoch,
    /// The ranges, open since when the proof began or longer.
    pub ranges: Vec<RotRange>,
}

/// What members of a set are asked beside the protocol of registers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MemberRequest {
    /// Adopt a set epoch, durably, and tell the highest ballots in the same step.
    /// -> [`MemberReply::Issued`]
    Issue(Issue),
    /// -> [`MemberReply::Membership`]; answered by joining drives, too.
    Membership,
    /// A joining drive has its floor: it accepts above it from now on. Repeating is harmless.
    /// -> `Done`
    Begin(Begin),
    /// A rebuilding drive of this membership has all it should have: it counts from now on.
    /// -> `Done`
    Rebuilt(SetEpoch),
    /// -> [`MemberReply::Ranges`]
    Ranges,
    /// Open the ranges of registers that rot hides and that were recorded under an older epoch than this one,
    /// which min(W, n - 1) others have adopted (INV-FILL-1). Repeating is harmless. `Overloaded` while an
    /// overlay is being written.
    /// -> `Done`
    Fill(Issue),
    /// Open ranges, as they stood when the proof began, have all they should have: their keys count from
    /// now on. Others that are named are passed by.
    /// -> `Done`
    Filled(Filled),
    /// -> [`MemberReply::Index`]
    ListIndex(ListIndex),
    /// -> `Accepted`
    Restock(Restock),
}

/// What they answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MemberReply {
    /// The epoch is adopted, durably.
    Issued(Issued),
    /// The membership last adopted.
    Membership {
        /// The set epoch adopted: may be newer than the document, when a request brought it.
        epoch: SetEpoch,
        /// The document; empty when none was ever issued to it.
        document: Bytes,
        /// Where the drive stands.
        standing: Standing,
        /// Ranges of registers that rot hid and that are not filled.
        unfilled: u32,
    },
    /// All ranges of rot on record, in key order.
    Ranges(Vec<RotRange>),
    /// A page of the index.
    Index(IndexPage),
}
