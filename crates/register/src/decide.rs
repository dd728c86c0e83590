//! What a drive answers: pure decisions on a [`KeyState`] and the drive's own facts.

use holdfast_types::{
    Ballot, Entry, EntryKind, HybridTime, OperationId, Quorum, SetEpoch, VersionId,
    bucket::{BucketEpoch, BucketPhase, BucketStamp},
    limits,
    sabotage::{Bug, planted},
};

use crate::state::{Held, HolderMask, KeyState, ShardStatus, UNSETTLED_MAX};

/// Drive-wide facts that decisions rest on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct DriveView {
    /// The drive's clock.
    pub now: HybridTime,
    /// Every key is promised at least at this ballot: the ceiling of the last process, or the floor
    /// of a rebuilt drive.
    pub floor: Ballot,
    /// Ballots up to here are refused: what stood above them may have been purged.
    pub purge_floor: Ballot,
    /// The set epoch the drive has adopted.
    pub set_epoch: SetEpoch,
    /// Since when the drive's memory is complete.
    pub memory_since: HybridTime,
}

/// Why a drive refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error, Hash)]
pub enum Refusal {
    /// A ballot at or above the request's was accepted for the key.
    #[error("a newer ballot was accepted")]
    Stale {
        /// The winning ballot.
        highest: Ballot,
    },
    /// A ballot above the request's was promised for the key.
    #[error("a newer ballot was promised")]
    Promised {
        /// The winning ballot.
        promise: Ballot,
    },
    /// The same ballot came with another operation: two writers share an id. Alarm.
    #[error("the ballot was used by another operation")]
    BallotReused,
    /// The ballot lies further in the future than the skew bound allows.
    #[error("the ballot is ahead of the drive's clock by more than the skew bound")]
    TooFarAhead {
        /// The drive's clock.
        now: HybridTime,
    },
    /// The ballot is at or below the purge floor: what it stands below may have been purged.
    #[error("the ballot is at or below the purge floor")]
    Purged {
        /// The purge floor.
        floor: Ballot,
    },
    /// The request's bucket epoch is older than the drive's.
    #[error("the bucket has a newer epoch")]
    BucketOutdated {
        /// What the drive knows.
        current: BucketStamp,
    },
    /// The bucket does not take this request in its phase.
    #[error("the bucket is not live")]
    BucketNotLive {
        /// What the drive knows.
        current: BucketStamp,
    },
    /// The request's set epoch is older than the drive's.
    #[error("the set has a newer epoch")]
    SetOutdated {
        /// What the drive has adopted.
        current: SetEpoch,
    },
    /// The upload handle is not of this open, expired, or not wholly synced; or the shard that the
    /// sender believed held is gone. Counts as silence.
    #[error("the upload is lost")]
    UploadLost,
    /// The upload register is not in the phase that the request needs (PROTOCOL.md section 7).
    #[error("the multipart upload is not open for this")]
    UploadNotOpen,
    /// Too many unsettled entries in the register.
    #[error("the register has too many unsettled entries")]
    Crowded,
    /// What a Purge names is not a settled tombstone.
    #[error("the register is not a settled tombstone")]
    NotPurgeable,
}

impl Refusal {
    /// The ballot that won, when one did.
    #[must_use]
    pub const fn winner(&self) -> Option<Ballot> {
        match self {
            Self::Stale { highest } => Some(*highest),
            Self::Promised { promise } => Some(*promise),
            Self::Purged { floor } => Some(*floor),
            _ => None,
        }
    }
}

/// What an accepted Accept means for the drive.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum AcceptVerdict {
    /// New: record it.
    Record,
    /// Held already under this ballot; record it only to add the shard, or the parts, that were missing.
    AddShard,
    /// Held, or accepted and overtaken since: nothing to record.
    Already,
}

/// What a Settle means for the drive.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum SettleVerdict {
    /// Mark it; `drop_below` when the entries under it may go.
    Mark {
        /// The Settle names `A_v` holders, so older entries and their bytes are not needed.
        drop_below: bool,
    },
    /// The operation is not held, or nothing would change.
    Ignore,
}

/// Whether the bucket and set a request names are current on this drive.
///
/// `known` is the drive's stamp of the bucket, `None` when it has none (then the caller installs the
/// request's stamp first). `write` marks requests that need a live bucket.
///
/// # Errors
/// [`Refusal`] with what the drive knows.
pub fn admit(
    drive: &DriveView,
    known: Option<BucketStamp>,
    asked: BucketStamp,
    asked_set: SetEpoch,
    write: bool,
) -> Result<(), Refusal> {
    if asked_set < drive.set_epoch && !planted(Bug::SetEpochIgnored) {
        return Err(Refusal::SetOutdated { current: drive.set_epoch });
    }
    let ignored = planted(Bug::BucketEpochIgnored);
    let current = known.filter(|k| k.epoch > asked.epoch && !ignored);
    if let Some(current) = current {
        return Err(Refusal::BucketOutdated { current });
    }
    let refused = match asked.phase {
        BucketPhase::Live => false,
        BucketPhase::Creating | BucketPhase::Deleting => write,
        BucketPhase::Deleted => true,
    };
    if refused { Err(Refusal::BucketNotLive { current: asked }) } else { Ok(()) }
}

/// The epoch that a drive should hold after meeting `asked`: `Some` when it must install it first.
#[must_use]
pub fn newer_stamp(known: Option<BucketStamp>, asked: BucketStamp) -> Option<BucketStamp> {
    let known_epoch = known.map(|k| k.epoch);
    let registry = asked.epoch == BucketEpoch(0);
    (!registry && known_epoch < Some(asked.epoch)).then_some(asked)
}

/// Whether the drive accepts `entry` for a register (PROTOCOL.md section 2).
///
/// # Errors
/// [`Refusal`]; see its variants.
pub fn decide_accept(
    state: &KeyState,
    drive: &DriveView,
    version: VersionId,
    entry: &Entry,
    shard: ShardStatus,
) -> Result<AcceptVerdict, Refusal> {
    let register = state.registers.get(&version);
    let promise = state.promise.max(drive.floor);
    let same = register.and_then(|r| r.of_operation(entry.operation));
    if let Some(held) = same.filter(|held| held.entry.ballot == entry.ballot) {
        // A late repetition may not bring back what the owner of a promise has taken for lost.
        let adds = held.shard == ShardStatus::Missing
            && shard != ShardStatus::Missing
            && entry.ballot >= promise;
        return Ok(if adds { AcceptVerdict::AddShard } else { AcceptVerdict::Already });
    }
    if remembers(state, entry) {
        return Ok(AcceptVerdict::Already);
    }
    let highest = state.highest();
    if entry.ballot == highest {
        return Err(Refusal::BallotReused);
    }
    if entry.ballot < highest {
        return Err(Refusal::Stale { highest });
    }
    if entry.ballot < promise {
        return Err(Refusal::Promised { promise });
    }
    // Whether the register is held or not: another register of the key may have been the one whose
    // purge made `highest` fall.
    if entry.ballot <= drive.purge_floor {
        return Err(Refusal::Purged { floor: drive.purge_floor });
    }
    let bound = HybridTime::from_micros(drive.now.micros() + limits::CLOCK_SKEW_MICROS_MAX);
    if entry.ballot.time > bound.max(highest.time.tick()).max(promise.time.tick()) {
        return Err(Refusal::TooFarAhead { now: drive.now });
    }
    if register.is_some_and(|r| r.entries.len() > UNSETTLED_MAX) {
        return Err(Refusal::Crowded);
    }
    Ok(AcceptVerdict::Record)
}

/// Whether the drive takes over a *settled* entry at its own ballot: state transfer by the healer,
/// which promises do not bind (the entry was chosen before, or the promise could not have been
/// given), see ADR 0002.
///
/// # Errors
/// [`Refusal`]; on [`Refusal::Stale`] the drive holds something newer, and there is nothing to heal.
pub fn decide_install(
    state: &KeyState,
    drive: &DriveView,
    version: VersionId,
    entry: &Entry,
    shard: ShardStatus,
) -> Result<AcceptVerdict, Refusal> {
    let register = state.registers.get(&version);
    if let Some(held) = register.and_then(|r| r.of_operation(entry.operation)) {
        let adds = held.shard == ShardStatus::Missing && shard != ShardStatus::Missing;
        return Ok(if adds { AcceptVerdict::AddShard } else { AcceptVerdict::Already });
    }
    // Whether the register is held or not: a late healer may bring what was deleted and purged since,
    // and something newer, still open, may stand there by now.
    if entry.ballot <= drive.purge_floor {
        return Err(Refusal::Purged { floor: drive.purge_floor });
    }
    let Some(register) = register else { return Ok(AcceptVerdict::Record) };
    let settled = register.settled().map_or(Ballot::ZERO, |held| held.entry.ballot);
    if entry.ballot < settled {
        return Err(Refusal::Stale { highest: settled });
    }
    if register.entries.iter().any(|held| held.entry.ballot == entry.ballot) {
        return Err(Refusal::BallotReused);
    }
    Ok(AcceptVerdict::Record)
}

/// Whether the drive promises `ballot` for the key.
///
/// # Errors
/// [`Refusal::Stale`], [`Refusal::Promised`] or [`Refusal::TooFarAhead`].
pub fn decide_prepare(state: &KeyState, drive: &DriveView, ballot: Ballot) -> Result<(), Refusal> {
    let highest = state.highest();
    if ballot <= highest {
        return Err(Refusal::Stale { highest });
    }
    let promise = state.promise.max(drive.floor);
    if ballot < promise {
        return Err(Refusal::Promised { promise });
    }
    let bound = HybridTime::from_micros(drive.now.micros() + limits::CLOCK_SKEW_MICROS_MAX);
    if ballot.time > bound.max(highest.time.tick()).max(promise.time.tick()) {
        return Err(Refusal::TooFarAhead { now: drive.now });
    }
    Ok(())
}

/// What a Settle of (`version`, `operation`) naming `holders` changes.
#[must_use]
pub fn decide_settle(
    state: &KeyState,
    quorum: Quorum,
    version: VersionId,
    operation: OperationId,
    holders: HolderMask,
) -> SettleVerdict {
    let Some(register) = state.registers.get(&version) else { return SettleVerdict::Ignore };
    let found = register.entries.iter().position(|held| held.entry.operation == operation);
    let Some(at) = found else { return SettleVerdict::Ignore };
    let held = &register.entries[at];
    let named = held.holders.union(holders);
    let drop_below = named.count() >= quorum.acknowledged(held.entry.data_shards());
    let changes =
        !held.settled || named != held.holders || (drop_below && at + 1 < register.entries.len());
    if changes { SettleVerdict::Mark { drop_below } } else { SettleVerdict::Ignore }
}

/// Whether a register may be purged up to `ballot`: only a settled tombstone is left there.
///
/// # Errors
/// [`Refusal::NotPurgeable`].
pub fn decide_purge(state: &KeyState, version: VersionId, ballot: Ballot) -> Result<bool, Refusal> {
    let Some(register) = state.registers.get(&version) else { return Ok(false) };
    let is_tombstone = |held: &Held| {
        held.settled && held.entry.kind == EntryKind::Tombstone && held.entry.ballot <= ballot
    };
    if register.head().is_some_and(is_tombstone) { Ok(true) } else { Err(Refusal::NotPurgeable) }
}

/// Whether the drive's memory of the key is complete for operations first balloted at `since`.
///
/// Every ballot of such an operation is at or after `since`. A drive accepts no ballot further ahead
/// of its clock than the skew bound, so it accepted none of them before its memory began; the one
/// exception (a tick above a wild ballot) leaves an entry in the key that is held, not remembered.
#[must_use]
pub fn remembers_since(state: &KeyState, drive: &DriveView, since: HybridTime) -> bool {
    let began = since.micros() > drive.memory_since.micros() + limits::CLOCK_SKEW_MICROS_MAX;
    let mut held = state.registers.values().flat_map(|register| &register.entries);
    began
        && since > state.forgot
        && held.all(|h| h.entry.ballot.time < since || remembers(state, &h.entry))
}

fn remembers(state: &KeyState, entry: &Entry) -> bool {
    state.memory.iter().any(|m| m.ballot == entry.ballot && m.operation == entry.operation)
}

/// The ceiling to make durable before `promised` may be answered; `None` when it lies below the
/// present one. After a restart every key is promised at the ceiling, ownerless.
///
/// The ceiling leads the *clock* by half the skew bound, never the ballot: led by ballots, each
/// restart would push the floor further ahead, and the ballots above it with it, until they lie
/// beyond the skew bound and no drive takes them.
#[must_use]
pub fn raised_ceiling(
    now: HybridTime,
    ceiling: HybridTime,
    promised: Ballot,
) -> Option<HybridTime> {
    let lead = HybridTime::from_micros(now.micros() + limits::CLOCK_SKEW_MICROS_MAX / 2);
    (promised.time > ceiling).then(|| lead.max(promised.time))
}
