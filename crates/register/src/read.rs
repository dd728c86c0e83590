//! [`Read`]: just enough drives answer, locals first (PROTOCOL.md section 4).
//!
//! ```text
//! start -> Read on R drives
//!            |- settled or absent -----------------------------> Found
//!            `- open, or too few count: ask the remaining drives
//!                 |- settled or absent ------------------------> Found
//!                 `- still open -------------------------------> Open: wait a moment, then Resolve
//! ```

use holdfast_types::{Ballot, VersionId};

use crate::{
    command::{Command, Drives, Failure, Machine, Reply, Round, Settlement, Step},
    judge::{Answer, Basis, Candidate, Judgement, Verdict, judge, judge_latest},
    round::ViewRound,
    state::HolderMask,
};

/// Which register of a key is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Target {
    /// The live one of highest order.
    Latest,
    /// This one.
    Version(VersionId),
}

/// How a read ends well.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub enum Seen {
    /// This is settled: a version, a delete marker, a tombstone or (`None`) nothing.
    Found(Option<Candidate>),
    /// This may or may not have been chosen: resolve it before anything is answered.
    Open(Candidate),
}

/// How a read ends.
pub type ReadOutcome = Result<Seen, Failure>;

/// One read.
#[derive(Clone, Debug, Hash)]
pub struct Read {
    drives: Drives,
    target: Target,
    /// Drives in the order in which they are asked; those not asked yet.
    order: Vec<u8>,
    round: ViewRound,
    over: bool,
}

impl Read {
    /// A read that asks the drives in `order`: locals first, then the quick ones. Drives left out of it
    /// are not asked.
    #[must_use]
    pub fn new(drives: Drives, target: Target, order: &[u8]) -> Self {
        let order = order.iter().copied().filter(|drive| drives.up.has(*drive)).collect();
        let round = ViewRound::new(drives.quorum, HolderMask::default());
        Self { drives, target, order, round, over: false }
    }

    /// The answers so far, by shard index: for inline shards and for what lies below the candidate.
    #[must_use]
    pub fn answers(&self) -> &[Answer] {
        &self.round.answers
    }

    fn ask(&mut self, count: usize) -> Step<ReadOutcome> {
        let count = count.min(self.order.len());
        let asked: Vec<u8> = self.order.drain(..count).collect();
        for drive in &asked {
            self.round.waiting = self.round.waiting.with(*drive);
        }
        let commands = asked.into_iter().map(|drive| (drive, Command::Read)).collect();
        Step::Send { round: Round(0), commands }
    }

    fn end(&mut self, outcome: ReadOutcome) -> Step<ReadOutcome> {
        self.over = true;
        Step::Done(outcome)
    }

    fn conclude(&mut self) -> Step<ReadOutcome> {
        let quorum = self.drives.quorum;
        let (need, have) = (quorum.read(), self.round.counting());
        let waiting = self.round.waiting.count();
        let idle = waiting == 0 && self.order.is_empty();
        if have < need {
            let missing = (need - have).saturating_sub(waiting);
            return match self.round.refusal {
                _ if missing > 0 && !self.order.is_empty() => self.ask(missing.into()),
                _ if !idle => Step::Wait,
                Some(refusal) if have == 0 => self.end(Err(Failure::Refused(refusal))),
                _ => self.end(Err(Failure::Unavailable { need, have })),
            };
        }
        let judgement = match self.target {
            Target::Latest => judge_latest(Basis::Reads, quorum, &self.round.answers),
            Target::Version(version) => judge(Basis::Reads, quorum, &self.round.answers, version),
        };
        match judgement {
            Judgement::Found(head) if head.verdict == Verdict::Settled => {
                self.end(Ok(Seen::Found(Some(head))))
            }
            Judgement::Absent => self.end(Ok(Seen::Found(None))),
            Judgement::Found(_) if !self.order.is_empty() => self.ask(usize::MAX),
            Judgement::Found(_) if waiting > 0 => Step::Grace,
            Judgement::Found(head) => self.end(Ok(Seen::Open(head))),
            Judgement::Unknown { have, need } => self.end(Err(Failure::Unavailable { need, have })),
        }
    }
}

impl Machine for Read {
    type Outcome = ReadOutcome;

    fn start(&mut self) -> Step<ReadOutcome> {
        let (need, have) = (self.drives.quorum.read(), self.order.len() as u8);
        if have < need {
            return self.end(Err(Failure::Unavailable { need, have }));
        }
        self.ask(need.into())
    }

    /// Reads need no ballot.
    fn on_ballot(&mut self, _ballot: Ballot) -> Step<ReadOutcome> {
        Step::Wait
    }

    fn on_reply(&mut self, _round: Round, drive: u8, reply: Reply) -> Step<ReadOutcome> {
        let noted = self.round.note(drive, reply);
        if noted && !self.over { self.conclude() } else { Step::Wait }
    }

    fn on_grace(&mut self) -> Step<ReadOutcome> {
        if self.over {
            return Step::Wait;
        }
        self.round.waiting = HolderMask::default();
        self.conclude()
    }

    fn settlement(&self) -> Option<Settlement> {
        None
    }

    fn is_waiting(&self) -> bool {
        !self.round.waiting.is_empty()
    }
}
