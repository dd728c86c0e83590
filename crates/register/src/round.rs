//! What has come back in one round, Accept or Prepare.

use holdfast_types::{Ballot, Entry, HybridTime, OperationId, Quorum, VersionId};

use crate::{
    command::{Command, Drives, Reply, Settlement, Source},
    decide::Refusal,
    judge::{Answer, Candidate},
    state::{HolderMask, ShardStatus},
};

/// Replies to one round of Accept.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct AcceptRound {
    pub waiting: HolderMask,
    /// Accepted with their shard.
    pub whole: HolderMask,
    /// Accepted, with or without it.
    pub accepted: HolderMask,
    pub refused: HolderMask,
    pub silent: HolderMask,
    /// The highest ballot that a refusal named.
    pub winner: Ballot,
    /// A refusal that named none.
    pub refusal: Option<Refusal>,
}

impl AcceptRound {
    pub fn new(asked: HolderMask) -> Self {
        Self { waiting: asked, ..Self::default() }
    }

    /// Takes a reply; false when it was not waited for.
    pub fn note(&mut self, drive: u8, reply: &Reply) -> bool {
        if !self.waiting.has(drive) {
            return false;
        }
        self.waiting = self.waiting.without(drive);
        match reply {
            Reply::Accepted(shard) => {
                self.accepted = self.accepted.with(drive);
                if *shard != ShardStatus::Missing {
                    self.whole = self.whole.with(drive);
                }
            }
            // A lost upload counts as silence: the drive refused for now, not for good.
            Reply::Refused(Refusal::UploadLost) | Reply::Silent | Reply::View(_) => {
                self.silent = self.silent.with(drive);
            }
            Reply::Refused(refusal) => {
                self.refused = self.refused.with(drive);
                match refusal.winner() {
                    Some(winner) => self.winner = self.winner.max(winner),
                    None => self.refusal = Some(*refusal),
                }
            }
        }
        true
    }

    /// How many may yet hold the entry whole.
    pub fn possible(&self) -> u8 {
        self.whole.count() + self.waiting.count()
    }
}

/// What is left after the answer: stragglers' replies complete what may be settled.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Tail {
    round: AcceptRound,
    settlement: Option<Settlement>,
}

impl Tail {
    /// Nothing was chosen, as far as is known; stragglers are only heard.
    pub fn of(round: AcceptRound) -> Self {
        Self { round, settlement: None }
    }

    /// `operation` was chosen in `round`.
    pub fn settling(round: AcceptRound, version: VersionId, operation: OperationId) -> Self {
        let holders = round.whole;
        Self { round, settlement: Some(Settlement { version, operation, holders }) }
    }

    /// A settled candidate that `A_v` drives hold with their shards, as a Prepare showed.
    pub fn known(head: &Candidate) -> Self {
        let (version, operation, holders) = (head.version, head.entry.operation, head.shards);
        let settlement = Some(Settlement { version, operation, holders });
        Self { round: AcceptRound::default(), settlement }
    }

    /// Takes a straggler's reply; false when it was not waited for.
    pub fn note(&mut self, drive: u8, reply: &Reply) -> bool {
        let noted = self.round.note(drive, reply);
        if let Some(settlement) = &mut self.settlement {
            settlement.holders = settlement.holders.union(self.round.whole);
        }
        noted
    }

    /// What may be settled.
    pub fn settlement(&self) -> Option<Settlement> {
        self.settlement
    }

    /// Whether stragglers are out.
    pub fn is_waiting(&self) -> bool {
        !self.round.waiting.is_empty()
    }
}

/// Replies to one round of Prepare or Read.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct ViewRound {
    pub waiting: HolderMask,
    /// One for each drive of the set.
    pub answers: Vec<Answer>,
    pub winner: Ballot,
    pub refusal: Option<Refusal>,
}

impl ViewRound {
    pub fn new(quorum: Quorum, asked: HolderMask) -> Self {
        Self {
            waiting: asked,
            answers: vec![Answer::None; usize::from(quorum.n())],
            ..Self::default()
        }
    }

    /// Takes a reply; false when it was not waited for.
    pub fn note(&mut self, drive: u8, reply: Reply) -> bool {
        if !self.waiting.has(drive) {
            return false;
        }
        self.waiting = self.waiting.without(drive);
        match reply {
            Reply::View(view) => self.answers[usize::from(drive)] = Answer::View(view),
            Reply::Refused(refusal) => match refusal.winner() {
                Some(winner) => self.winner = self.winner.max(winner),
                None => self.refusal = Some(refusal),
            },
            Reply::Silent | Reply::Accepted(_) => {}
        }
        true
    }

    /// Drives whose answers count.
    pub fn counting(&self) -> u8 {
        let counts = |a: &&Answer| matches!(a, Answer::View(view) if view.counts);
        self.answers.iter().filter(counts).count() as u8
    }

    /// Drives that answered.
    pub fn answered(&self) -> HolderMask {
        let mut mask = HolderMask::default();
        for (index, answer) in self.answers.iter().enumerate() {
            if matches!(answer, Answer::View(_)) {
                mask = mask.with(index as u8);
            }
        }
        mask
    }
}

/// Prepare for every drive that is up.
pub(crate) fn prepare(drives: Drives, ballot: Ballot, since: HybridTime) -> Vec<(u8, Command)> {
    drives.up.iter().map(|drive| (drive, Command::Prepare { ballot, since })).collect()
}

/// Accept of the writer's own entry for the drives whose shard it has.
pub(crate) fn write(version: VersionId, entry: &Entry, own: HolderMask) -> Vec<(u8, Command)> {
    let source = if entry.data_shards() > 0 { Source::Own } else { Source::NoData };
    let accept = |drive| {
        let entry = entry.clone();
        (drive, Command::Accept { version, entry, source })
    };
    own.iter().map(accept).collect()
}

/// Accept of `candidate` under `ballot` for every drive of `targets`; drives of `own` get their shard
/// from the writer.
pub(crate) fn adopt(
    candidate: &Candidate,
    ballot: Ballot,
    targets: HolderMask,
    own: HolderMask,
) -> Vec<(u8, Command)> {
    let entry = candidate.entry.adopted_under(ballot);
    let accept = |drive| {
        let source = if entry.data_shards() == 0 {
            Source::NoData
        } else if candidate.shards.has(drive) {
            Source::Held
        } else if own.has(drive) {
            Source::Own
        } else {
            Source::Restore
        };
        let version = candidate.version;
        let entry = entry.clone();
        (drive, Command::Accept { version, entry, source })
    };
    targets.iter().map(accept).collect()
}
