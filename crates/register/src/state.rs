//! What one drive holds for one key, as plain values.
//!
//! ```text
//! KeyState --- promise, memory (volatile)
//!    +-- RegisterState (one per version)
//!          +-- Held: newest entry            highest ballot
//!          +-- Held: unsettled ones below it
//!          +-- Held: the last settled entry  lowest ballot
//! ```
//!
//! A register keeps every entry from its last settled one upwards: an unsettled entry that a newer
//! one overtook may have been chosen, and judging counts its holders.

use std::collections::BTreeMap;

use holdfast_types::{Ballot, Entry, HybridTime, OperationId, VersionId};

/// Which shards of an entry are known to be held, bit i for shard index i.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
pub struct HolderMask(pub u16);

impl HolderMask {
    /// The mask of `n` shards.
    #[must_use]
    pub const fn full(n: u8) -> Self {
        Self(if n >= 16 { u16::MAX } else { (1 << n) - 1 })
    }

    /// With shard `index` added.
    #[must_use]
    pub const fn with(self, index: u8) -> Self {
        Self(self.0 | 1 << index)
    }

    /// Whether shard `index` is held.
    #[must_use]
    pub const fn has(self, index: u8) -> bool {
        self.0 & (1 << index) != 0
    }

    /// Shards held.
    #[must_use]
    pub const fn count(self) -> u8 {
        self.0.count_ones() as u8
    }

    /// Both.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in both.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Without shard `index`.
    #[must_use]
    pub const fn without(self, index: u8) -> Self {
        Self(self.0 & !(1 << index))
    }

    /// Whether no shard is held.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The shard indexes held, rising.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        (0..16).filter(move |index| self.has(*index))
    }
}

/// Whether a drive has its shard of an entry's own data.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum ShardStatus {
    /// The entry has no data of its own, and none of its parts is known to be missing here.
    NoData = 0,
    /// The shard is on stable media here.
    Present = 1,
    /// The entry was accepted without its shard, or that of a part was lost since: counts as chosen,
    /// never as acknowledged.
    Missing = 2,
}

/// One entry on one drive.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct Held {
    /// The entry as accepted.
    pub entry: Entry,
    /// Whether this drive's shard is here.
    pub shard: ShardStatus,
    /// Whether a Settle named it: it was chosen, for all time.
    pub settled: bool,
    /// Holders the Settle named; empty until then.
    pub holders: HolderMask,
}

impl Held {
    /// Whether the drive can serve its part of the entry: nothing to hold, or held.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.shard != ShardStatus::Missing
    }
}

/// One version of a key on one drive: entries by falling ballot; only the last may be settled.
#[derive(Clone, PartialEq, Eq, Debug, Default, Hash)]
pub struct RegisterState {
    /// Never empty in a [`KeyState`].
    pub entries: Vec<Held>,
}

impl RegisterState {
    /// The entry of the highest ballot.
    #[must_use]
    pub fn head(&self) -> Option<&Held> {
        self.entries.first()
    }

    /// The last settled entry.
    #[must_use]
    pub fn settled(&self) -> Option<&Held> {
        self.entries.iter().find(|held| held.settled)
    }

    /// The entry of an operation.
    #[must_use]
    pub fn of_operation(&self, operation: OperationId) -> Option<&Held> {
        self.entries.iter().find(|held| held.entry.operation == operation)
    }
}

/// That a drive accepted an operation at a ballot (volatile).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Remembered {
    /// The operation accepted.
    pub operation: OperationId,
    /// The ballot it was accepted under.
    pub ballot: Ballot,
    /// The drive's clock at that moment.
    pub at: HybridTime,
}

/// All that one drive holds for one key.
#[derive(Clone, PartialEq, Eq, Debug, Default, Hash)]
pub struct KeyState {
    /// The registers held.
    pub registers: BTreeMap<VersionId, RegisterState>,
    /// The highest ballot promised for this key in this process (volatile; the drive-wide floor
    /// stands for promises of earlier processes).
    pub promise: Ballot,
    /// Operations accepted in this process, oldest first (volatile).
    pub memory: Vec<Remembered>,
    /// The latest ballot time that `memory` no longer holds (volatile).
    pub forgot: HybridTime,
}

/// Most acceptances remembered for one key: bounds a key that is written thousands of times a second.
/// A writer whose first ballot is older than the oldest remembered one is answered "unknown".
pub const MEMORY_MAX: usize = 512;

/// Most entries one register keeps above its settled one; an Accept beyond them is refused as
/// overloaded until a Settle comes. Bounds a register under many concurrent blind writers.
pub const UNSETTLED_MAX: usize = 64;

impl KeyState {
    /// The highest ballot accepted for the key.
    #[must_use]
    pub fn highest(&self) -> Ballot {
        let held = self.registers.values().filter_map(|r| r.head()).map(|h| h.entry.ballot).max();
        held.unwrap_or(Ballot::ZERO)
    }

    /// Stores an accepted entry (INV-REG-1: entries stay sorted by falling ballot). Returns what it
    /// replaced: the same operation under lower ballots.
    pub fn apply_accept(&mut self, version: VersionId, held: Held) -> Vec<Held> {
        let register = self.registers.entry(version).or_default();
        let (replaced, mut kept): (Vec<_>, Vec<_>) =
            register.entries.drain(..).partition(|old| old.entry.operation == held.entry.operation);
        let settled = held.settled || replaced.iter().any(|old| old.settled);
        let newest = replaced.iter().max_by_key(|old| old.entry.ballot);
        let mut merged = held;
        if let Some(newest) = newest.filter(|old| old.entry.ballot > merged.entry.ballot) {
            // A shard added under an older ballot of an operation adopted since: its entry stands.
            merged.entry = newest.entry.clone();
        }
        merged.settled = settled;
        for old in &replaced {
            merged.holders = merged.holders.union(old.holders);
            if old.shard == ShardStatus::Present {
                merged.shard = ShardStatus::Present;
            }
        }
        let at = kept.partition_point(|old| old.entry.ballot > merged.entry.ballot);
        kept.insert(at, merged);
        debug_assert!(kept.windows(2).all(|w| w[0].entry.ballot > w[1].entry.ballot));
        register.entries = kept;
        replaced
    }

    /// Marks an operation's entry settled and drops what lies below it, when the Settle names enough
    /// holders (`drop_below`). Returns what was dropped.
    pub fn apply_settle(
        &mut self,
        version: VersionId,
        operation: OperationId,
        holders: HolderMask,
        drop_below: bool,
    ) -> Vec<Held> {
        let Some(register) = self.registers.get_mut(&version) else { return Vec::new() };
        let found = register.entries.iter().position(|held| held.entry.operation == operation);
        let Some(at) = found else { return Vec::new() };
        register.entries[at].settled = true;
        register.entries[at].holders = register.entries[at].holders.union(holders);
        if drop_below { register.entries.split_off(at + 1) } else { Vec::new() }
    }

    /// Removes a register's entries up to `ballot`. Returns what was removed.
    pub fn apply_purge(&mut self, version: VersionId, ballot: Ballot) -> Vec<Held> {
        let Some(register) = self.registers.get_mut(&version) else { return Vec::new() };
        let (gone, kept): (Vec<_>, Vec<_>) =
            register.entries.drain(..).partition(|held| held.entry.ballot <= ballot);
        register.entries = kept;
        if register.entries.is_empty() {
            self.registers.remove(&version);
        }
        gone
    }

    /// Notes that the shard of an operation is not here any more, in whatever register it is held. True when
    /// an entry that is not settled lost it: the drive forgets that it accepted that entry, and its memory
    /// is complete from now on only (`DriveView::memory_since`), see INV-REG-4.
    ///
    /// What was settled needs no forgetting: `A_v` drives had its shard, so with one lost it can still be
    /// restored, and nobody takes it for lost.
    pub fn apply_loss(&mut self, operation: OperationId) -> bool {
        let mut open = false;
        for held in self.registers.values_mut().flat_map(|register| &mut register.entries) {
            if held.entry.operation == operation && held.shard == ShardStatus::Present {
                held.shard = ShardStatus::Missing;
                open |= !held.settled;
            }
        }
        if open {
            self.memory.retain(|remembered| remembered.operation != operation);
        }
        open
    }

    /// Remembers that `operation` was accepted at `ballot`, and forgets what is older than `horizon`.
    pub fn remember(&mut self, remembered: Remembered, horizon: HybridTime) {
        let excess = (self.memory.len() + 1).saturating_sub(MEMORY_MAX);
        let mut index = 0;
        let mut forgot = self.forgot;
        self.memory.retain(|old| {
            let keep = index >= excess && old.at >= horizon;
            index += 1;
            if !keep {
                forgot = forgot.max(old.ballot.time);
            }
            keep
        });
        self.forgot = forgot;
        self.memory.push(remembered);
    }

    /// Whether nothing is held or promised, so that the state need not be kept.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        self.registers.is_empty() && self.promise == Ballot::ZERO && self.memory.is_empty()
    }

    /// What a drive answers to a Read (no memory needed: `remembers` false) or, with
    /// [`crate::decide::remembers_since`], to a Prepare.
    #[must_use]
    pub fn view(&self, floor: Ballot, counts: bool, remembers: bool) -> KeyView {
        self.clone().into_view(floor, counts, remembers)
    }

    /// As [`Self::view`], of a copy that nobody needs any more.
    #[must_use]
    pub fn into_view(self, floor: Ballot, counts: bool, remembers: bool) -> KeyView {
        KeyView {
            highest: self.highest(),
            registers: self.registers,
            promise: self.promise.max(floor),
            memory: self.memory,
            remembers,
            counts,
        }
    }
}

/// One drive's answer about one key.
#[derive(Clone, PartialEq, Eq, Debug, Default, Hash)]
pub struct KeyView {
    /// The registers held (all, or the one asked for).
    pub registers: BTreeMap<VersionId, RegisterState>,
    /// The highest ballot accepted for the key, in any register.
    pub highest: Ballot,
    /// The highest ballot promised.
    pub promise: Ballot,
    /// Operations remembered (in answers to Prepare).
    pub memory: Vec<Remembered>,
    /// Whether `memory` is complete since the time the question named; false means "unknown".
    pub remembers: bool,
    /// Whether the drive counts for reads, promises and memory (PROTOCOL.md section 5).
    pub counts: bool,
}
