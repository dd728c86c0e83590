//! [`Adopting`]: Accept of what heads a register under a new ballot (PROTOCOL.md sections 3 and 4).
//! Writes that finish, conditional writes, seals and resolutions all do it alike.
//!
//! ```text
//! begin -> Accept on every drive up, shards restored where they are missing
//!            |- A_v whole, all heard or the grace over ----> Chosen
//!            |- A_v cannot be reached, a ballot won -------> Refused: ask for a higher one
//!            `- all heard, below A_v ----------------------> Short
//! ```

use holdfast_types::{Ballot, Entry, EntryKind, Geometry, OperationId, VersionId};

use crate::{
    command::{Command, Drives, Reply},
    decide::Refusal,
    judge::Candidate,
    round::{AcceptRound, Tail, adopt},
    state::HolderMask,
};

/// One adoption under way.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Adopting {
    round: AcceptRound,
    /// What is adopted, under the new ballot.
    candidate: Candidate,
    /// `A_v` of it.
    need: u8,
}

/// Fewer shards than wanted.
#[derive(Clone, Copy, Debug, Hash)]
pub(crate) struct TooFew {
    pub need: u8,
    pub have: u8,
}

/// How far an adoption has come.
#[derive(Clone, Copy, Debug, Hash)]
pub(crate) enum Progress {
    /// Replies are to come that matter.
    Wait,
    /// It is chosen, and more drives may yet hold it.
    Grace,
    /// `A_v` drives hold it.
    Chosen,
    /// It cannot come to `A_v` drives under its ballot: this one won.
    Refused(Ballot),
    /// Every drive was heard, and too few hold it.
    Short(TooFew),
}

impl Adopting {
    /// Adopts `head` under `ballot` on every drive that is up. `own` are the drives whose shard the
    /// caller has, `None` when the operation is another's: then `k_v` shards must be held.
    pub fn begin(
        drives: Drives,
        head: Candidate,
        ballot: Ballot,
        own: Option<HolderMask>,
    ) -> (Self, Vec<(u8, Command)>) {
        debug_assert!(own.is_some() || shortage(&head).is_none(), "who adopts has looked");
        let commands = adopt(&head, ballot, drives.up, own.unwrap_or_default());
        let need = drives.quorum.acknowledged(head.entry.data_shards());
        let candidate = Candidate { entry: head.entry.adopted_under(ballot), ..head };
        (Self { round: AcceptRound::new(drives.up), candidate, need }, commands)
    }

    /// Takes a reply; false when it was not waited for.
    pub fn note(&mut self, drive: u8, reply: &Reply) -> bool {
        self.round.note(drive, reply)
    }

    /// How far it has come; `grace_over` when the grace time for more holders has passed.
    pub fn progress(&self, grace_over: bool) -> Progress {
        let Self { round, need, .. } = self;
        let (have, idle) = (round.whole.count(), round.waiting.is_empty());
        if have >= *need {
            return if idle || grace_over { Progress::Chosen } else { Progress::Grace };
        }
        if round.possible() < *need && round.winner > Ballot::ZERO {
            return Progress::Refused(round.winner.max(self.candidate.entry.ballot));
        }
        if idle { Progress::Short(TooFew { need: *need, have }) } else { Progress::Wait }
    }

    /// What is adopted, under the new ballot.
    pub fn candidate(&self) -> &Candidate {
        &self.candidate
    }

    /// Drives that accepted, with or without their shard, and those that have it.
    pub fn holders(&self) -> (HolderMask, HolderMask) {
        (self.round.accepted, self.round.whole)
    }

    /// Why nobody accepted, when that is no ballot's doing.
    pub fn refusal(&self) -> Option<Refusal> {
        self.round.refusal.filter(|_| self.round.accepted.is_empty())
    }

    /// Whether replies are still out.
    pub fn is_waiting(&self) -> bool {
        !self.round.waiting.is_empty()
    }

    /// It was chosen: what is left is to hear the stragglers, and then to settle it.
    pub fn chosen(self) -> Tail {
        let Self { round, candidate, .. } = self;
        Tail::settling(round, candidate.version, candidate.entry.operation)
    }

    /// It was given up: nothing may be settled.
    pub fn given_up(self) -> Tail {
        Tail::of(self.round)
    }
}

/// The shards that another's operation lacks before it can be adopted, if any.
pub(crate) fn shortage(head: &Candidate) -> Option<TooFew> {
    let (need, have) = (head.entry.data_shards(), head.shards.count());
    (have < need).then_some(TooFew { need, have })
}

/// A tombstone about to be written as a seal: nothing below its ballot can come up in the register
/// any more.
pub(crate) fn seal(version: VersionId, operation: OperationId, ballot: Ballot) -> Candidate {
    let entry = Entry {
        ballot,
        order: ballot,
        operation,
        kind: EntryKind::Tombstone,
        geometry: Geometry::EMPTY,
        metadata: bytes::Bytes::new(),
        parts: Vec::new(),
    };
    Candidate::new(version, entry)
}
