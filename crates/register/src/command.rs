//! What machines and their callers say to each other: commands to drives, replies, steps, failures.
//!
//! ```text
//!            start()                on_ballot / on_reply / on_grace / on_decision
//! caller ---------------> machine <------------------------------------------------ caller
//!        <--------------- Step: Ballot | Send | Wait | Grace | Evaluate | Done
//! ```

use holdfast_types::{Ballot, Entry, HybridTime, OperationId, Quorum, VersionId};

use crate::{
    decide::Refusal,
    judge::Candidate,
    state::{HolderMask, KeyView, ShardStatus},
};

/// The set as a coordinator knows it. Drives are named by shard index: the place in the key's drive
/// order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Drives {
    /// The quorums of the set.
    pub quorum: Quorum,
    /// Drives not known to be down; no other drive is asked.
    pub up: HolderMask,
}

impl Drives {
    /// A set of `n` drives, none known to be down.
    #[must_use]
    pub const fn all_up(n: u8) -> Self {
        Self { quorum: Quorum::of(n), up: HolderMask::full(n) }
    }
}

/// Numbers the rounds of one machine, so that late replies to an earlier round are told apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
pub struct Round(pub u32);

/// Where the shard comes from that a drive shall hold with an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Source {
    /// The entry has no data of its own.
    NoData,
    /// The writer has it: inline, or uploaded to this drive before.
    Own,
    /// The drive holds it already.
    Held,
    /// It must first be restored from `k_v` shards of the candidate. If that fails the caller does
    /// not send the command and replies [`Reply::Silent`].
    Restore,
}

/// A command to one drive.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub enum Command {
    /// Accept an entry.
    Accept {
        /// The register.
        version: VersionId,
        /// The entry under this round's ballot.
        entry: Entry,
        /// Where the drive's shard comes from.
        source: Source,
    },
    /// Promise a ballot; the answer names all registers, and what is remembered since then.
    Prepare {
        /// The ballot.
        ballot: Ballot,
        /// The time of the asker's first ballot.
        since: HybridTime,
    },
    /// Read what is held, all registers or the one the machine was made for.
    Read,
}

/// What came of a command. Every command sent gets exactly one reply.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub enum Reply {
    /// To Accept: durable, the shard in this state.
    Accepted(ShardStatus),
    /// To Prepare and Read.
    View(KeyView),
    /// Refused by the rules.
    Refused(Refusal),
    /// No answer in time, or a failure that does not say whether it was carried out.
    Silent,
}

/// What the caller does next.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub enum Step<O> {
    /// Draw a ballot above this one and call `on_ballot`. When `attempt` is above 1, others write to
    /// the key: wait a little, at random.
    Ballot {
        /// What the ballot must exceed.
        above: Ballot,
        /// Counts the ballots of this machine, from 1.
        attempt: u32,
    },
    /// Send each drive its command; then wait for replies. All commands of a round carry one scope
    /// (bucket stamp and set epoch): the one that was current when the round's ballot was drawn.
    Send {
        /// To be named with each reply.
        round: Round,
        /// Drive (by shard index) and command.
        commands: Vec<(u8, Command)>,
    },
    /// Wait for the next reply.
    Wait,
    /// The machine could conclude, but drives are still out: wait for the next reply, and call
    /// `on_grace` when the grace time has passed since this step was first returned.
    Grace,
    /// Decide what to do with the current, settled candidate (`None`: the key has none) and call
    /// `on_decision`. It may be a tombstone or a delete marker. Only [`crate::Conditional`].
    Evaluate(Option<Candidate>),
    /// Over. Replies may still be given to the machine: they complete [`Machine::settlement`].
    Done(O),
}

/// What a Settle may name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Settlement {
    /// The register.
    pub version: VersionId,
    /// The operation that was chosen.
    pub operation: OperationId,
    /// Drives known to hold it with their shard; at least `A_v`.
    pub holders: HolderMask,
}

/// Why a machine did not do what it was for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error, Hash)]
pub enum Failure {
    /// Too few drives; nothing was written.
    #[error("need {need} drives, have {have}; nothing was written")]
    Unavailable {
        /// Drives needed.
        need: u8,
        /// Drives there are.
        have: u8,
    },
    /// Whether the operation takes effect is not known, and may not be decided yet.
    #[error("effect unknown: need {need} drives, have {have}")]
    Unknown {
        /// Drives needed.
        need: u8,
        /// Drives that did.
        have: u8,
    },
    /// Every drive refused for a reason that a higher ballot does not cure; nothing was written.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// Other writers won too often; nothing was written.
    #[error("other writers won {attempts} times")]
    Contended {
        /// Ballots tried.
        attempts: u32,
    },
    /// An open version must be resolved first, and too few of its shards can be reached.
    #[error("operation {operation} needs {need} shards, {have} can be reached")]
    Short {
        /// The operation whose shards are missing.
        operation: OperationId,
        /// Shards needed, `k_v`.
        need: u8,
        /// Shards there are.
        have: u8,
    },
}

/// A coordinator as a state machine. It does no I/O: the caller carries out its steps.
pub trait Machine {
    /// How it ends.
    type Outcome;

    /// The first step. Called once.
    fn start(&mut self) -> Step<Self::Outcome>;

    /// The ballot asked for by [`Step::Ballot`].
    fn on_ballot(&mut self, ballot: Ballot) -> Step<Self::Outcome>;

    /// The reply of a drive to its command of `round`.
    fn on_reply(&mut self, round: Round, drive: u8, reply: Reply) -> Step<Self::Outcome>;

    /// The grace time has passed.
    fn on_grace(&mut self) -> Step<Self::Outcome>;

    /// What may be settled now, holders of late replies included. `None` when nothing was chosen or
    /// fewer than `A_v` drives are known to hold it.
    fn settlement(&self) -> Option<Settlement>;

    /// Whether replies to the last round are still out.
    fn is_waiting(&self) -> bool;
}

/// Most ballots one machine draws before it gives up as contended. Each lost attempt means that
/// another coordinator made progress.
pub const ATTEMPTS_MAX: u32 = 24;
