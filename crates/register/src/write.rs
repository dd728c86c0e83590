//! [`Blind`]: a write without conditions, in one round (PROTOCOL.md section 3).
//!
//! ```text
//! start -> Ballot -> Accept on all drives up
//!                      |- A_v whole ---------------------------------> Written
//!                      |- all refused: Ballot above the winner ------> Accept again
//!                      |- no refusal, below A_v ---------------------> Unknown
//!                      `- mix with a refusal: finish
//! finish: Ballot -> Prepare
//!                      |- heads the key: adopt, or whole already ----> Written
//!                      |- took effect, overtaken: settle the winner -> Written
//!                      |- cannot be known ---------------------------> Unknown
//!                      `- did not take effect -----------------------> Accept again, promised
//! ```

use holdfast_types::{Ballot, Entry, VersionId};

use crate::{
    command::{ATTEMPTS_MAX, Drives, Failure, Machine, Reply, Round, Settlement, Step},
    finish::{Effect, effect},
    judge::{Candidate, Judgement, Verdict, judge, judge_latest, outranked},
    round::{AcceptRound, ViewRound, adopt, prepare, write},
    state::HolderMask,
};

/// The operation took effect, under this entry unless it was adopted since.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Written {
    /// The entry that was chosen: its `order` is the version's place among the key's versions.
    pub entry: Entry,
}

/// How a blind write ends.
pub type WriteOutcome = Result<Written, Failure>;

/// One blind write.
#[derive(Clone, Debug)]
pub struct Blind {
    drives: Drives,
    version: VersionId,
    entry: Entry,
    own: HolderMask,
    /// Ballots under which this machine itself asked for acceptance.
    own_ballots: Vec<Ballot>,
    attempt: u32,
    round: Round,
    phase: Phase,
    settlement: Option<Settlement>,
}

#[derive(Clone, Debug)]
enum Phase {
    /// Waiting for a ballot; `finish` when the next round is a Prepare.
    Ballot {
        finish: bool,
    },
    /// Accept of the own entry.
    Writing(AcceptRound),
    /// Prepare, to learn whether the own entry took effect.
    Asking {
        round: ViewRound,
        ballot: Ballot,
    },
    /// Accept of what heads the register; then the write is done.
    Adopting {
        round: AcceptRound,
        candidate: Candidate,
    },
    Over(AcceptRound),
}

impl Blind {
    /// A write of `entry` (its ballot and order are filled in) to register `version`, whose shards the
    /// writer has for the drives of `own`: all that are up for small bodies and entries without data,
    /// those with a finished upload for large ones.
    #[must_use]
    pub fn new(drives: Drives, version: VersionId, entry: Entry, own: HolderMask) -> Self {
        Self {
            drives,
            version,
            entry,
            own: own.intersection(drives.up),
            own_ballots: Vec::new(),
            attempt: 0,
            round: Round(0),
            phase: Phase::Ballot { finish: false },
            settlement: None,
        }
    }

    fn needed(&self) -> u8 {
        self.drives.quorum.acknowledged(self.entry.data_shards())
    }

    fn ask_ballot(&mut self, above: Ballot, finish: bool) -> Step<WriteOutcome> {
        if self.attempt >= ATTEMPTS_MAX {
            let failure = if finish || self.own_ballots.len() > 1 {
                Failure::Unknown { need: self.needed(), have: 0 }
            } else {
                Failure::Contended { attempts: self.attempt }
            };
            return self.end(AcceptRound::default(), Err(failure));
        }
        self.attempt += 1;
        self.phase = Phase::Ballot { finish };
        let last = self.own_ballots.last().copied().unwrap_or(Ballot::ZERO);
        Step::Ballot { above: above.max(last), attempt: self.attempt }
    }

    fn end(&mut self, round: AcceptRound, outcome: WriteOutcome) -> Step<WriteOutcome> {
        self.phase = Phase::Over(round);
        Step::Done(outcome)
    }

    fn send_own(&mut self, ballot: Ballot) -> Step<WriteOutcome> {
        self.entry.ballot = ballot;
        self.entry.order = ballot;
        self.own_ballots.push(ballot);
        self.round.0 += 1;
        self.phase = Phase::Writing(AcceptRound::new(self.own));
        let commands = write(self.version, &self.entry, self.own);
        Step::Send { round: self.round, commands }
    }

    /// Whether an earlier attempt may have left traces: then no refusal is final.
    fn is_dirty(&self) -> bool {
        self.own_ballots.len() > 1
    }

    fn after_write(&mut self, round: AcceptRound, grace_over: bool) -> Step<WriteOutcome> {
        let need = self.needed();
        let have = round.whole.count();
        let idle = round.waiting.is_empty();
        let traces = self.is_dirty() || !round.accepted.union(round.silent).is_empty();
        if have >= need {
            if idle || grace_over {
                return self.succeed(round, self.entry.clone());
            }
            self.phase = Phase::Writing(round);
            return Step::Grace;
        }
        if !round.refused.is_empty() && traces && round.possible() < need {
            return self.ask_ballot(round.winner, true);
        }
        if !idle {
            self.phase = Phase::Writing(round);
            return Step::Wait;
        }
        match round.refusal {
            _ if round.refused.is_empty() => self.end(round, Err(Failure::Unknown { need, have })),
            _ if round.winner > Ballot::ZERO => {
                // Every drive asked refused for good: no trace is left of this attempt.
                self.own_ballots.clear();
                self.ask_ballot(round.winner, false)
            }
            Some(refusal) => self.end(round, Err(Failure::Refused(refusal))),
            None => self.end(round, Err(Failure::Unavailable { need, have })),
        }
    }

    fn succeed(&mut self, round: AcceptRound, entry: Entry) -> Step<WriteOutcome> {
        let (version, operation) = (self.version, self.entry.operation);
        self.settlement = Some(Settlement { version, operation, holders: round.whole });
        self.end(round, Ok(Written { entry }))
    }

    fn after_ask(&mut self, round: ViewRound, ballot: Ballot) -> Step<WriteOutcome> {
        if round.winner > Ballot::ZERO {
            return self.ask_ballot(round.winner, true);
        }
        let quorum = self.drives.quorum;
        let (need, have) = (quorum.read(), round.counting());
        let idle = round.waiting.is_empty();
        if have < need && idle {
            return self.end(AcceptRound::default(), Err(Failure::Unknown { need, have }));
        }
        if have < need {
            self.phase = Phase::Asking { round, ballot };
            return Step::Wait;
        }
        let mine = self.entry.operation;
        let effect = effect(quorum, &round.answers, mine);
        let by_us = matches!(&effect, Effect::Took(ballots) if self.is_own(ballots));
        if let Judgement::Found(head) = judge_latest(quorum, &round.answers)
            && head.entry.operation == mine
        {
            return self.confirm(round, ballot, head, by_us);
        }
        match effect {
            Effect::None => self.send_own(ballot),
            Effect::Took(_) => self.took(round, ballot, by_us),
            Effect::Unknown if idle => {
                self.end(AcceptRound::default(), Err(Failure::Unknown { need, have }))
            }
            Effect::Unknown => {
                self.phase = Phase::Asking { round, ballot };
                Step::Wait
            }
        }
    }

    /// Whether one of `ballots` is one under which this machine itself asked.
    fn is_own(&self, ballots: &[Ballot]) -> bool {
        ballots.iter().any(|ballot| self.own_ballots.contains(ballot))
    }

    /// The operation was chosen: brings whatever heads its register to `A_v` holders.
    fn took(&mut self, round: ViewRound, ballot: Ballot, by_us: bool) -> Step<WriteOutcome> {
        let quorum = self.drives.quorum;
        let answers = &round.answers;
        match judge(quorum, answers, self.version) {
            Judgement::Found(head) if head.entry.operation == self.entry.operation => {
                // An adoption keeps the order of an attempt that lost. Below another version the
                // write would appear in the past.
                if !by_us && outranked(quorum, answers, self.version, head.entry.order) {
                    let need = self.needed();
                    let failure = Failure::Unknown { need, have: head.shards.count() };
                    return self.end(AcceptRound::default(), Err(failure));
                }
                self.confirm(round, ballot, head, by_us)
            }
            Judgement::Found(head) if !head.is_firm(quorum) => self.adopt(round, ballot, head),
            _ => {
                let entry = self.entry.clone();
                self.end(AcceptRound::default(), Ok(Written { entry }))
            }
        }
    }

    /// The own operation heads its register: done when `A_v` drives have it, adopted otherwise.
    ///
    /// Unless it was chosen under a ballot of ours its order may lie below versions that others have
    /// open elsewhere. It is answered as the latest, so it becomes that: its order is the new ballot.
    fn confirm(
        &mut self,
        round: ViewRound,
        ballot: Ballot,
        mut head: Candidate,
        by_us: bool,
    ) -> Step<WriteOutcome> {
        let holders = head.shards;
        let settled = head.verdict == Verdict::Settled;
        if by_us && settled && holders.count() >= self.needed() {
            let (version, operation) = (self.version, head.entry.operation);
            self.settlement = Some(Settlement { version, operation, holders });
            return self.end(AcceptRound::default(), Ok(Written { entry: head.entry }));
        }
        if !by_us {
            head.entry.order = ballot;
            self.own_ballots.push(ballot);
        }
        self.adopt(round, ballot, head)
    }

    fn adopt(&mut self, round: ViewRound, ballot: Ballot, head: Candidate) -> Step<WriteOutcome> {
        let mine = head.entry.operation == self.entry.operation;
        let (need, have) = (head.entry.data_shards(), head.shards.count());
        if !mine && have < need {
            if round.waiting.is_empty() {
                return self.end(AcceptRound::default(), Err(Failure::Unknown { need, have }));
            }
            self.phase = Phase::Asking { round, ballot };
            return Step::Wait;
        }
        let own = if mine { self.own } else { HolderMask::default() };
        let targets = self.drives.up;
        let commands = adopt(&head, ballot, targets, own);
        let candidate = Candidate { entry: head.entry.adopted_under(ballot), ..head };
        self.round.0 += 1;
        self.phase = Phase::Adopting { round: AcceptRound::new(targets), candidate };
        Step::Send { round: self.round, commands }
    }

    fn after_adopt(
        &mut self,
        round: AcceptRound,
        candidate: Candidate,
        grace_over: bool,
    ) -> Step<WriteOutcome> {
        let need = self.drives.quorum.acknowledged(candidate.entry.data_shards());
        let (have, idle) = (round.whole.count(), round.waiting.is_empty());
        if have >= need && (idle || grace_over) {
            let (version, operation) = (candidate.version, candidate.entry.operation);
            self.settlement = Some(Settlement { version, operation, holders: round.whole });
            let mine = operation == self.entry.operation;
            let entry = if mine { candidate.entry } else { self.entry.clone() };
            return self.end(round, Ok(Written { entry }));
        }
        if round.possible() < need && round.winner > Ballot::ZERO {
            return self.ask_ballot(round.winner, true);
        }
        if idle && have < need {
            return self.end(round, Err(Failure::Unknown { need, have }));
        }
        let step = if have >= need { Step::Grace } else { Step::Wait };
        self.phase = Phase::Adopting { round, candidate };
        step
    }

    fn advance(&mut self, grace_over: bool) -> Step<WriteOutcome> {
        let parked = Phase::Over(AcceptRound::default());
        match std::mem::replace(&mut self.phase, parked) {
            Phase::Writing(round) => self.after_write(round, grace_over),
            Phase::Asking { round, ballot } => self.after_ask(round, ballot),
            Phase::Adopting { round, candidate } => self.after_adopt(round, candidate, grace_over),
            phase @ (Phase::Ballot { .. } | Phase::Over(_)) => {
                self.phase = phase;
                Step::Wait
            }
        }
    }
}

impl Machine for Blind {
    type Outcome = WriteOutcome;

    fn start(&mut self) -> Step<WriteOutcome> {
        let (need, have) = (self.needed(), self.own.count());
        if have < need {
            return self.end(AcceptRound::default(), Err(Failure::Unavailable { need, have }));
        }
        self.ask_ballot(Ballot::ZERO, false)
    }

    fn on_ballot(&mut self, ballot: Ballot) -> Step<WriteOutcome> {
        let Phase::Ballot { finish } = self.phase else { return Step::Wait };
        if !finish {
            return self.send_own(ballot);
        }
        let since = self.own_ballots.first().map_or(ballot.time, |first| first.time);
        let round = ViewRound::new(self.drives.quorum, self.drives.up);
        self.round.0 += 1;
        self.phase = Phase::Asking { round, ballot };
        Step::Send { round: self.round, commands: prepare(self.drives, ballot, since) }
    }

    fn on_reply(&mut self, round: Round, drive: u8, reply: Reply) -> Step<WriteOutcome> {
        if round != self.round {
            return Step::Wait;
        }
        let noted = match &mut self.phase {
            Phase::Writing(accepts)
            | Phase::Adopting { round: accepts, .. }
            | Phase::Over(accepts) => accepts.note(drive, &reply),
            Phase::Asking { round: views, .. } => views.note(drive, reply),
            Phase::Ballot { .. } => false,
        };
        if let (Phase::Over(accepts), Some(settlement)) = (&self.phase, &mut self.settlement) {
            settlement.holders = settlement.holders.union(accepts.whole);
        }
        if noted { self.advance(false) } else { Step::Wait }
    }

    fn on_grace(&mut self) -> Step<WriteOutcome> {
        self.advance(true)
    }

    fn settlement(&self) -> Option<Settlement> {
        self.settlement
    }

    fn is_waiting(&self) -> bool {
        match &self.phase {
            Phase::Over(round) | Phase::Writing(round) | Phase::Adopting { round, .. } => {
                !round.waiting.is_empty()
            }
            Phase::Asking { round, .. } => !round.waiting.is_empty(),
            Phase::Ballot { .. } => false,
        }
    }
}
