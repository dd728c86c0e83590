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
//! again: as finish, in another shape if need be (ADR 0011)
//!                      `- an earlier shape heads the key -----------> Accept again, promised, in its place
//! ```

use holdfast_types::{Ballot, Entry, EntryKind, OperationId, VersionId};

use crate::{
    adopting::{Adopting, Progress, TooFew, shortage},
    command::{ATTEMPTS_MAX, Drives, Failure, Machine, Reply, Round, Settlement, Step},
    finish::{Effect, effect},
    judge::{Basis, Candidate, Judgement, Verdict, judge, judge_latest, outranked},
    round::{AcceptRound, Tail, ViewRound, prepare, write},
    state::HolderMask,
};

/// The operation took effect, under this entry unless it was adopted since.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct Written {
    /// The entry that was chosen: its `order` is the version's place among the key's versions.
    pub entry: Entry,
}

/// How a blind write ends.
pub type WriteOutcome = Result<Written, Failure>;

/// One blind write.
#[derive(Clone, Debug, Hash)]
pub struct Blind {
    drives: Drives,
    version: VersionId,
    entry: Entry,
    own: HolderMask,
    /// Operations under which the same write was tried in other shapes. What one of them did, this
    /// write did.
    earlier: Vec<OperationId>,
    /// Ballots under which this machine itself asked for acceptance.
    own_ballots: Vec<Ballot>,
    attempt: u32,
    round: Round,
    phase: Phase,
}

#[derive(Clone, Debug, Hash)]
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
    Adopting(Adopting),
    Over(Tail),
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
            earlier: Vec::new(),
            own_ballots: Vec::new(),
            attempt: 0,
            round: Round(0),
            phase: Phase::Ballot { finish: false },
        }
    }

    /// The same write once more, after it ended as [`Failure::Unknown`]: with the drives that are up by
    /// now, and in a shape that they can hold. It begins by asking what the earlier attempts did, so
    /// that it takes effect once.
    ///
    /// `entry` says the same. It has an operation of its own when its shape is another one: an operation
    /// has one shape.
    #[must_use]
    pub fn again(self, drives: Drives, entry: Entry, own: HolderMask) -> Self {
        let mut earlier = self.earlier;
        if self.entry.operation != entry.operation {
            earlier.push(self.entry.operation);
        }
        let (own_ballots, attempt, round) = (self.own_ballots, self.attempt, self.round);
        let machine = Self::new(drives, self.version, entry, own);
        Self { earlier, own_ballots, attempt, round, ..machine }
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
            return self.fail(failure);
        }
        self.attempt += 1;
        self.phase = Phase::Ballot { finish };
        let last = self.own_ballots.last().copied().unwrap_or(Ballot::ZERO);
        Step::Ballot { above: above.max(last), attempt: self.attempt }
    }

    fn end(&mut self, tail: Tail, outcome: WriteOutcome) -> Step<WriteOutcome> {
        self.phase = Phase::Over(tail);
        Step::Done(outcome)
    }

    /// Ends without anything to settle or to hear.
    fn fail(&mut self, failure: Failure) -> Step<WriteOutcome> {
        self.end(Tail::default(), Err(failure))
    }

    /// Accept of the own entry. Its place among the key's versions is `order`: the ballot, unless it takes
    /// the place of what may have been chosen already.
    fn send_own(&mut self, ballot: Ballot, order: Ballot) -> Step<WriteOutcome> {
        self.entry.ballot = ballot;
        self.entry.order = order;
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
            _ if round.refused.is_empty() => {
                self.end(Tail::of(round), Err(Failure::Unknown { need, have }))
            }
            _ if round.winner > Ballot::ZERO => {
                // Every drive asked refused for good: no trace is left of this attempt.
                self.own_ballots.clear();
                self.ask_ballot(round.winner, false)
            }
            Some(refusal) => self.end(Tail::of(round), Err(Failure::Refused(refusal))),
            None => self.end(Tail::of(round), Err(Failure::Unavailable { need, have })),
        }
    }

    fn succeed(&mut self, round: AcceptRound, entry: Entry) -> Step<WriteOutcome> {
        let tail = Tail::settling(round, self.version, self.entry.operation);
        self.end(tail, Ok(Written { entry }))
    }

    fn after_ask(&mut self, round: ViewRound, ballot: Ballot) -> Step<WriteOutcome> {
        if round.winner > Ballot::ZERO {
            return self.ask_ballot(round.winner, true);
        }
        let quorum = self.drives.quorum;
        let (need, have) = (quorum.read(), round.counting());
        let idle = round.waiting.is_empty();
        if have < need && idle {
            return self.fail(Failure::Unknown { need, have });
        }
        if have < need {
            self.phase = Phase::Asking { round, ballot };
            return Step::Wait;
        }
        let effect = self.effect(&round);
        let by_us = matches!(&effect, Effect::Took(ballots) if self.is_own(ballots));
        if let Judgement::Found(head) = judge_latest(Basis::Prepare, quorum, &round.answers)
            && self.is_mine(head.entry.operation)
        {
            let hidden = !by_us && effect != Effect::None && self.was_outranked(&round, &head);
            return match (hidden, idle) {
                (false, _) => self.confirm(round, ballot, head, by_us),
                (true, true) => {
                    self.fail(Failure::Unknown { need: self.needed(), have: head.shards.count() })
                }
                (true, false) => {
                    self.phase = Phase::Asking { round, ballot };
                    Step::Wait
                }
            };
        }
        match effect {
            Effect::None => self.send_own(ballot, ballot),
            Effect::Took(_) => self.took(round, ballot, by_us),
            Effect::Unknown if idle => self.fail(Failure::Unknown { need, have }),
            Effect::Unknown => {
                self.phase = Phase::Asking { round, ballot };
                Step::Wait
            }
        }
    }

    /// Whether an operation is this write, in this shape or an earlier one.
    fn is_mine(&self, operation: OperationId) -> bool {
        operation == self.entry.operation || self.earlier.contains(&operation)
    }

    /// What this write did, in whatever shape.
    fn effect(&self, round: &ViewRound) -> Effect {
        let quorum = self.drives.quorum;
        let shapes = self.earlier.iter().chain([&self.entry.operation]);
        let mut took = Vec::new();
        let mut unknown = false;
        for operation in shapes {
            match effect(quorum, &round.answers, *operation) {
                Effect::Took(ballots) => took.extend(ballots),
                Effect::Unknown => unknown = true,
                Effect::None => {}
            }
        }
        match (took.is_empty(), unknown) {
            (false, _) => Effect::Took(took),
            (true, true) => Effect::Unknown,
            (true, false) => Effect::None,
        }
    }

    /// Whether one of `ballots` is one under which this machine itself asked.
    fn is_own(&self, ballots: &[Ballot]) -> bool {
        ballots.iter().any(|ballot| self.own_ballots.contains(ballot))
    }

    /// Whether clients may have read the own version, adopted by another, below one of higher order: an
    /// adoption keeps the order of an attempt that lost. That it is the latest *now*, because what
    /// stood above it is gone, does not make it the latest at a moment of this write (ADR 0006).
    /// Tombstones have no place among the versions.
    fn was_outranked(&self, round: &ViewRound, head: &Candidate) -> bool {
        self.entry.kind != EntryKind::Tombstone
            && outranked(
                Basis::Prepare,
                self.drives.quorum,
                &round.answers,
                self.version,
                head.entry.order,
            )
    }

    /// The operation was chosen: brings whatever heads its register to `A_v` holders.
    fn took(&mut self, round: ViewRound, ballot: Ballot, by_us: bool) -> Step<WriteOutcome> {
        let quorum = self.drives.quorum;
        match judge(Basis::Prepare, quorum, &round.answers, self.version) {
            Judgement::Found(head) if head.entry.operation == self.entry.operation => {
                if !by_us && self.was_outranked(&round, &head) {
                    let need = self.needed();
                    let failure = Failure::Unknown { need, have: head.shards.count() };
                    return self.fail(failure);
                }
                self.confirm(round, ballot, head, by_us)
            }
            // In another shape it has a place among the key's versions that a new one would not have.
            Judgement::Found(head) if self.is_mine(head.entry.operation) => {
                let (need, have) = (self.needed(), head.shards.count());
                self.fail(Failure::Unknown { need, have })
            }
            Judgement::Found(head) if !head.is_firm(quorum) => self.adopt(round, ballot, head),
            // Overtaken, for drives that lost what they had accepted do not vouch for it (INV-REG-4): too
            // much of it was left ever since for anybody to have taken it for lost.
            _ => {
                let entry = self.entry.clone();
                self.end(Tail::default(), Ok(Written { entry }))
            }
        }
    }

    /// The own operation heads its register: done when `A_v` drives have it, adopted otherwise.
    ///
    /// It keeps its place among the key's versions, whoever gave it the ballot under which it was chosen:
    /// clients may have read it there (INV-REG-5, ADR 0021).
    fn confirm(
        &mut self,
        round: ViewRound,
        ballot: Ballot,
        head: Candidate,
        by_us: bool,
    ) -> Step<WriteOutcome> {
        let settled = head.verdict == Verdict::Settled;
        let need = self.drives.quorum.acknowledged(head.entry.data_shards());
        if by_us && settled && head.shards.count() >= need {
            return self.end(Tail::known(&head), Ok(Written { entry: head.entry }));
        }
        if head.entry.operation != self.entry.operation {
            // Chosen or not, its drives cannot give it the holders it needs. Nothing came in between
            // that anybody can have seen, or it would head the key: the same value takes its place.
            return self.send_own(ballot, head.entry.order);
        }
        if !by_us {
            self.own_ballots.push(ballot);
        }
        self.adopt(round, ballot, head)
    }

    fn adopt(&mut self, round: ViewRound, ballot: Ballot, head: Candidate) -> Step<WriteOutcome> {
        let mine = head.entry.operation == self.entry.operation;
        if let (false, Some(TooFew { need, have })) = (mine, shortage(&head)) {
            if round.waiting.is_empty() {
                return self.fail(Failure::Unknown { need, have });
            }
            self.phase = Phase::Asking { round, ballot };
            return Step::Wait;
        }
        let (adopting, commands) =
            Adopting::begin(self.drives, head, ballot, mine.then_some(self.own));
        self.round.0 += 1;
        self.phase = Phase::Adopting(adopting);
        Step::Send { round: self.round, commands }
    }

    fn after_adopt(&mut self, adopting: Adopting, grace_over: bool) -> Step<WriteOutcome> {
        match adopting.progress(grace_over) {
            Progress::Chosen => {
                let adopted = &adopting.candidate().entry;
                let mine = adopted.operation == self.entry.operation;
                let entry = if mine { adopted.clone() } else { self.entry.clone() };
                self.end(adopting.chosen(), Ok(Written { entry }))
            }
            Progress::Refused(winner) => self.ask_ballot(winner, true),
            Progress::Short(TooFew { need, have }) => {
                self.end(adopting.given_up(), Err(Failure::Unknown { need, have }))
            }
            Progress::Wait => self.go_on(adopting, Step::Wait),
            Progress::Grace => self.go_on(adopting, Step::Grace),
        }
    }

    fn go_on(&mut self, adopting: Adopting, step: Step<WriteOutcome>) -> Step<WriteOutcome> {
        self.phase = Phase::Adopting(adopting);
        step
    }

    fn advance(&mut self, grace_over: bool) -> Step<WriteOutcome> {
        let parked = Phase::Over(Tail::default());
        match std::mem::replace(&mut self.phase, parked) {
            Phase::Writing(round) => self.after_write(round, grace_over),
            Phase::Asking { round, ballot } => self.after_ask(round, ballot),
            Phase::Adopting(adopting) => self.after_adopt(adopting, grace_over),
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
        // Begun again: what was tried may have left traces.
        let traces = !self.own_ballots.is_empty();
        match (have < need, traces) {
            (false, _) => self.ask_ballot(Ballot::ZERO, traces),
            (true, false) => self.fail(Failure::Unavailable { need, have }),
            (true, true) => self.fail(Failure::Unknown { need, have }),
        }
    }

    fn on_ballot(&mut self, ballot: Ballot) -> Step<WriteOutcome> {
        let Phase::Ballot { finish } = self.phase else { return Step::Wait };
        if !finish {
            return self.send_own(ballot, ballot);
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
            Phase::Writing(accepts) => accepts.note(drive, &reply),
            Phase::Adopting(adopting) => adopting.note(drive, &reply),
            Phase::Over(tail) => tail.note(drive, &reply),
            Phase::Asking { round: views, .. } => views.note(drive, reply),
            Phase::Ballot { .. } => false,
        };
        if noted { self.advance(false) } else { Step::Wait }
    }

    fn on_grace(&mut self) -> Step<WriteOutcome> {
        self.advance(true)
    }

    fn settlement(&self) -> Option<Settlement> {
        if let Phase::Over(tail) = &self.phase { tail.settlement() } else { None }
    }

    fn is_waiting(&self) -> bool {
        match &self.phase {
            Phase::Writing(round) => !round.waiting.is_empty(),
            Phase::Adopting(adopting) => adopting.is_waiting(),
            Phase::Over(tail) => tail.is_waiting(),
            Phase::Asking { round, .. } => !round.waiting.is_empty(),
            Phase::Ballot { .. } => false,
        }
    }
}
