//! [`Conditional`]: a write that depends on what the key holds (PROTOCOL.md section 3).
//!
//! ```text
//! start -> Ballot -> Prepare, judge
//!            ^          |- head open: adopt it under the promise, then from the start
//!            |          `- Evaluate: the caller decides on the current, settled candidate
//!            |                |- Write: Accept under the promise
//!            |                |           |- A_v whole -----------------------------> Written
//!            |                |           |- all refused: from the start, higher
//!            |                |           |- no refusal, below A_v -----------------> Unknown
//!            |                |           `- mix with a refusal: from the start, with traces left
//!            |                `- Keep ----------------------------------------------> Kept
//!            |                          with traces left: seal the register first
//!            `--- higher ballot
//! With traces left, Prepare first asks whether one of the own operations took effect, or heads the
//! key and can be adopted: then it is Written.
//! again: as with traces left; an earlier shape that heads the key is replaced in its place (ADR 0011)
//! ```
//!
//! An open head is always adopted before the caller sees it, so no decision rests on what may not have
//! happened, and no operation has to remember which others it absorbed (ADR 0003).

mod accepting;
mod again;
mod driving;

use holdfast_types::{Ballot, Entry, OperationId, VersionId};

use crate::{
    adopting::{Adopting, TooFew, seal, shortage},
    command::{ATTEMPTS_MAX, Drives, Failure, Round, Step},
    finish::{Effect, effect},
    judge::{
        Basis, Candidate, Judgement, Verdict, judge, judge_latest_without, judge_without,
        newest_elsewhere,
    },
    round::{AcceptRound, Tail, ViewRound, write},
    state::HolderMask,
};

/// What the condition is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Subject {
    /// The latest version of the key, whichever it is.
    Latest,
    /// The register written, whatever the key's other versions are.
    Register,
}

/// What the caller decides on the current candidate.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub enum Decision {
    /// Write this entry. Its ballot is filled in. The operation id names the content: when a second
    /// evaluation yields other content, it needs another id.
    Write {
        /// What to write.
        entry: Entry,
        /// Drives whose shard the writer has.
        own: HolderMask,
        /// Metadata-only writes keep their version's place among the key's versions: then the order
        /// of `entry` stands, otherwise the ballot becomes it.
        keeps_order: bool,
    },
    /// Write nothing: the condition failed, or there is nothing to do.
    Keep,
}

/// How a conditional write ends well.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub enum Decided {
    /// The entry took effect.
    Written(Entry),
    /// The caller's last [`Decision::Keep`] stands, and may be answered.
    Kept,
}

/// How a conditional write ends.
pub type DecideOutcome = Result<Decided, Failure>;

/// An operation of this machine that some drive may have accepted.
#[derive(Clone, Debug, Hash)]
struct Attempt {
    entry: Entry,
    own: HolderMask,
    ballots: Vec<Ballot>,
}

/// One conditional write.
#[derive(Clone, Debug, Hash)]
pub struct Conditional {
    drives: Drives,
    version: VersionId,
    subject: Subject,
    seal: OperationId,
    /// Operations that may have left traces, oldest first; the last one may be on its way.
    attempts: Vec<Attempt>,
    /// The shape it goes on in, once it was begun again.
    shape: Option<again::Shape>,
    dirty: bool,
    first: Option<Ballot>,
    attempt: u32,
    round: Round,
    phase: Phase,
}

#[derive(Clone, Debug, Hash)]
enum Phase {
    Ballot,
    Asking {
        round: ViewRound,
        ballot: Ballot,
    },
    /// Waiting for the caller's decision on `current`.
    Deciding {
        round: ViewRound,
        ballot: Ballot,
        current: Option<Candidate>,
    },
    /// Accept of the own entry.
    Writing(AcceptRound),
    /// Accept of what is held, or of a seal, under the promise.
    Adopting {
        adopting: Adopting,
        then: Then,
    },
    Over(Tail),
}

/// What an adoption is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
enum Then {
    /// The own operation: written.
    Written,
    /// The seal, which is also the candidate that the caller kept: kept.
    Kept,
    /// Another's open head: decide again.
    Resolved,
    /// The seal: no trace of ours can come back. Decide again.
    Sealed,
}

impl Conditional {
    /// A conditional write to register `version`. `seal` is a fresh operation id for the tombstone
    /// that a failed condition may have to leave there.
    #[must_use]
    pub fn new(drives: Drives, version: VersionId, subject: Subject, seal: OperationId) -> Self {
        Self {
            drives,
            version,
            subject,
            seal,
            attempts: Vec::new(),
            shape: None,
            dirty: false,
            first: None,
            attempt: 0,
            round: Round(0),
            phase: Phase::Ballot,
        }
    }

    /// As if traces of an operation that must not come up any more were left: when the caller keeps
    /// what it is shown, the register is sealed first, so that nothing below this machine's ballot can
    /// be adopted afterwards. Who rolls another's operation back needs this.
    #[must_use]
    pub fn sealing(self) -> Self {
        Self { dirty: true, ..self }
    }

    /// The caller's decision on the candidate of [`Step::Evaluate`].
    pub fn on_decision(&mut self, decision: Decision) -> Step<DecideOutcome> {
        let parked = Phase::Over(Tail::default());
        match std::mem::replace(&mut self.phase, parked) {
            Phase::Deciding { round, ballot, current } => match decision {
                Decision::Write { entry, own, keeps_order } => {
                    self.send_own(ballot, entry, own, keeps_order)
                }
                Decision::Keep => self.keep(round, ballot, current),
            },
            phase => {
                self.phase = phase;
                Step::Wait
            }
        }
    }

    fn judge(&self, round: &ViewRound, ignored: &[OperationId]) -> Judgement {
        match self.subject {
            Subject::Latest => {
                judge_latest_without(Basis::Prepare, self.drives.quorum, &round.answers, ignored)
            }
            Subject::Register => judge_without(
                Basis::Prepare,
                self.drives.quorum,
                &round.answers,
                self.version,
                ignored,
            ),
        }
    }

    fn end(&mut self, tail: Tail, outcome: DecideOutcome) -> Step<DecideOutcome> {
        self.phase = Phase::Over(tail);
        Step::Done(outcome)
    }

    fn fail(&mut self, need: u8, have: u8) -> Step<DecideOutcome> {
        let failure = if self.dirty {
            Failure::Unknown { need, have }
        } else {
            Failure::Unavailable { need, have }
        };
        self.end(Tail::default(), Err(failure))
    }

    fn ask_ballot(&mut self, above: Ballot) -> Step<DecideOutcome> {
        if self.attempt >= ATTEMPTS_MAX {
            if self.dirty {
                return self.fail(self.drives.quorum.write(), 0);
            }
            let attempts = self.attempt;
            return self.end(Tail::default(), Err(Failure::Contended { attempts }));
        }
        self.attempt += 1;
        self.phase = Phase::Ballot;
        Step::Ballot { above, attempt: self.attempt }
    }

    // ---- Prepare ---------------------------------------------------------------------------------

    fn after_ask(
        &mut self,
        round: ViewRound,
        ballot: Ballot,
        grace_over: bool,
    ) -> Step<DecideOutcome> {
        if round.winner > Ballot::ZERO {
            return self.ask_ballot(round.winner);
        }
        let (need, have) = (self.drives.quorum.read(), round.counting());
        let idle = round.waiting.is_empty();
        if have < need {
            return match round.refusal {
                _ if !idle => self.wait(round, ballot, Step::Wait),
                Some(refusal) if !self.dirty && round.answered().is_empty() => {
                    self.end(Tail::default(), Err(Failure::Refused(refusal)))
                }
                _ => self.fail(need, have),
            };
        }
        if self.dirty {
            return self.after_ask_dirty(round, ballot, grace_over);
        }
        let ignored = self.operations();
        self.after_judging(round, ballot, &ignored, grace_over)
    }

    /// None of the operations of `ignored` took effect: what else the key holds is decided on.
    fn after_judging(
        &mut self,
        round: ViewRound,
        ballot: Ballot,
        ignored: &[OperationId],
        grace_over: bool,
    ) -> Step<DecideOutcome> {
        let idle = round.waiting.is_empty();
        match self.judge(&round, ignored) {
            // More answers may settle it without an adoption. A read quorum alone never does when it is
            // smaller than the write quorum: who adopted at once would adopt, ask again and adopt
            // again, until it gave up (ADR 0005).
            Judgement::Found(head) if head.verdict == Verdict::Open && !idle && !grace_over => {
                self.wait(round, ballot, Step::Grace)
            }
            Judgement::Found(head) => self.evaluate(round, ballot, Some(head)),
            Judgement::Absent => self.evaluate(round, ballot, None),
            Judgement::Unknown { have, need } => self.fail(need, have),
        }
    }

    /// An earlier Accept may have left traces: whether one of ours took effect comes first.
    fn after_ask_dirty(
        &mut self,
        round: ViewRound,
        ballot: Ballot,
        grace_over: bool,
    ) -> Step<DecideOutcome> {
        let idle = round.waiting.is_empty();
        let mine = self.operations();
        let head = self.judge(&round, &[]);
        let mut unknown = false;
        for index in 0..self.attempts.len() {
            let operation = self.attempts[index].entry.operation;
            let effect = effect(self.drives.quorum, &round.answers, operation);
            let by_us = matches!(&effect, Effect::Took(ballots) if self.is_own(index, ballots));
            let holds = by_us || self.still_holds(&round, index);
            match (&head, effect) {
                (Judgement::Found(head), _) if head.entry.operation == operation && holds => {
                    return self.confirm(round, ballot, head.clone(), index, by_us);
                }
                (_, Effect::Took(_)) if holds => return self.took(round, ballot, index, by_us),
                (_, Effect::Took(_) | Effect::Unknown) => unknown = true,
                (_, Effect::None) => {}
            }
        }
        match (unknown, idle) {
            (true, true) => self.fail(self.drives.quorum.read(), round.counting()),
            (true, false) => self.wait(round, ballot, Step::Wait),
            (false, _) => self.after_judging(round, ballot, &mine, grace_over),
        }
    }

    /// Whether one of `ballots` is one under which this machine itself asked for an attempt.
    fn is_own(&self, index: usize, ballots: &[Ballot]) -> bool {
        ballots.iter().any(|ballot| self.attempts[index].ballots.contains(ballot))
    }

    /// Whether nothing that an attempt was decided on can have changed since: no other register of the
    /// key may hold anything of a higher ballot. (Its own register is guarded by judging.)
    fn still_holds(&self, round: &ViewRound, index: usize) -> bool {
        let decided = self.attempts[index].ballots.iter().max().copied();
        let newest =
            newest_elsewhere(Basis::Prepare, self.drives.quorum, &round.answers, self.version);
        self.subject == Subject::Register || decided >= Some(newest)
    }

    /// An own operation was chosen but does not head the key any more.
    fn took(
        &mut self,
        round: ViewRound,
        ballot: Ballot,
        index: usize,
        by_us: bool,
    ) -> Step<DecideOutcome> {
        let attempt = self.attempts[index].clone();
        match judge(Basis::Prepare, self.drives.quorum, &round.answers, self.version) {
            // In another shape it has a place among the key's versions that a new one would not have.
            Judgement::Found(head) if self.is_reshaped(head.entry.operation) => {
                self.fail(head.entry.data_shards(), head.shards.count())
            }
            Judgement::Found(head) if head.entry.operation == attempt.entry.operation => {
                self.confirm(round, ballot, head, index, by_us)
            }
            Judgement::Found(head) if !head.is_firm(self.drives.quorum) => {
                self.attempts[index..].rotate_left(1);
                self.adopt(round, ballot, head, Then::Written)
            }
            _ => self.end(Tail::default(), Ok(Decided::Written(attempt.entry))),
        }
    }

    /// An own operation heads its register: done when `A_v` drives have it, adopted otherwise. It keeps
    /// its place among the key's versions (INV-REG-5).
    fn confirm(
        &mut self,
        round: ViewRound,
        ballot: Ballot,
        head: Candidate,
        index: usize,
        by_us: bool,
    ) -> Step<DecideOutcome> {
        let need = self.drives.quorum.acknowledged(head.entry.data_shards());
        if by_us && head.verdict == Verdict::Settled && head.shards.count() >= need {
            return self.end(Tail::known(&head), Ok(Decided::Written(head.entry)));
        }
        if let Some(step) = self.take_place(ballot, &head) {
            return step;
        }
        if !by_us {
            self.attempts[index].ballots.push(ballot);
        }
        self.adopt(round, ballot, head, Then::Written)
    }

    fn evaluate(
        &mut self,
        round: ViewRound,
        ballot: Ballot,
        current: Option<Candidate>,
    ) -> Step<DecideOutcome> {
        if let Some(head) = current.clone().filter(|head| head.verdict == Verdict::Open) {
            return self.adopt(round, ballot, head, Then::Resolved);
        }
        self.phase = Phase::Deciding { round, ballot, current: current.clone() };
        Step::Evaluate(current)
    }

    fn wait(
        &mut self,
        round: ViewRound,
        ballot: Ballot,
        step: Step<DecideOutcome>,
    ) -> Step<DecideOutcome> {
        self.phase = Phase::Asking { round, ballot };
        step
    }

    // ---- the decision ----------------------------------------------------------------------------

    fn send_own(
        &mut self,
        ballot: Ballot,
        entry: Entry,
        own: HolderMask,
        keeps_order: bool,
    ) -> Step<DecideOutcome> {
        let own = own.intersection(self.drives.up);
        let need = self.drives.quorum.acknowledged(entry.data_shards());
        if own.count() < need {
            return self.fail(need, own.count());
        }
        let order = if keeps_order { entry.order } else { ballot };
        let entry = Entry { ballot, order, ..entry };
        let mut ballots = vec![ballot];
        let same = |a: &Attempt| a.entry.operation == entry.operation;
        if let Some(at) = self.attempts.iter().position(same) {
            ballots.extend(self.attempts.remove(at).ballots);
        }
        self.attempts.push(Attempt { entry: entry.clone(), own, ballots });
        self.round.0 += 1;
        self.phase = Phase::Writing(AcceptRound::new(own));
        Step::Send { round: self.round, commands: write(self.version, &entry, own) }
    }

    fn keep(
        &mut self,
        round: ViewRound,
        ballot: Ballot,
        current: Option<Candidate>,
    ) -> Step<DecideOutcome> {
        if self.dirty {
            return self.send_seal(round, ballot, current);
        }
        self.end(Tail::default(), Ok(Decided::Kept))
    }

    /// Brings what the written register holds besides ours under the new ballot, a tombstone when it
    /// holds nothing, so that no trace of ours can be adopted any more.
    fn send_seal(
        &mut self,
        round: ViewRound,
        ballot: Ballot,
        current: Option<Candidate>,
    ) -> Step<DecideOutcome> {
        let mine = self.operations();
        let below =
            judge_without(Basis::Prepare, self.drives.quorum, &round.answers, self.version, &mine);
        let Judgement::Found(below) = below else {
            let tombstone = seal(self.version, self.seal, ballot);
            return self.adopt(round, ballot, tombstone, Then::Sealed);
        };
        let is_current = current.is_some_and(|c| c.entry.operation == below.entry.operation);
        let then = if is_current { Then::Kept } else { Then::Sealed };
        self.adopt(round, ballot, below, then)
    }

    fn adopt(
        &mut self,
        round: ViewRound,
        ballot: Ballot,
        candidate: Candidate,
        then: Then,
    ) -> Step<DecideOutcome> {
        let operation = candidate.entry.operation;
        let attempt = self.attempts.iter().find(|a| a.entry.operation == operation);
        let own = attempt.map(|a| a.own);
        if let (None, Some(TooFew { need, have })) = (own, shortage(&candidate)) {
            if !round.waiting.is_empty() {
                return self.wait(round, ballot, Step::Wait);
            }
            let failure = Failure::Short { operation, need, have };
            let failure = if self.dirty { Failure::Unknown { need, have } } else { failure };
            return self.end(Tail::default(), Err(failure));
        }
        let (adopting, commands) = Adopting::begin(self.drives, candidate, ballot, own);
        self.round.0 += 1;
        self.phase = Phase::Adopting { adopting, then };
        Step::Send { round: self.round, commands }
    }

    fn operations(&self) -> Vec<OperationId> {
        self.attempts.iter().map(|attempt| attempt.entry.operation).collect()
    }

    fn advance(&mut self, grace_over: bool) -> Step<DecideOutcome> {
        let parked = Phase::Over(Tail::default());
        match std::mem::replace(&mut self.phase, parked) {
            Phase::Asking { round, ballot } => self.after_ask(round, ballot, grace_over),
            Phase::Writing(round) => self.after_write(round, grace_over),
            Phase::Adopting { adopting, then } => self.after_adopt(adopting, then, grace_over),
            phase @ (Phase::Ballot | Phase::Deciding { .. } | Phase::Over(_)) => {
                self.phase = phase;
                Step::Wait
            }
        }
    }
}
