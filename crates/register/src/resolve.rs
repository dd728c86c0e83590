//! [`Resolve`]: makes what is open settled, by adopting it under a new ballot (PROTOCOL.md section 4).
//! Readers, the roll-forward of what stays unsettled, the healer and rebuilding drives use it.
//!
//! ```text
//! start -> Ballot -> Prepare, judge
//!                      |- settled, and nothing to do (see Reach) ---> Resolved
//!                      |- absent, and nothing to do ----------------> Resolved
//!                      |- fewer than k_v shards --------------------> Short
//!                      `- else adopt: Accept under the ballot, shards restored where missing
//!                               |- A_v whole -----------------------> Resolved
//!                               `- refused: higher ballot
//! ```

use holdfast_types::{Ballot, OperationId, VersionId};

use crate::{
    adopting::{Adopting, Progress, TooFew, seal, shortage},
    command::{ATTEMPTS_MAX, Drives, Failure, Machine, Reply, Round, Settlement, Step},
    judge::{Answer, Basis, Candidate, Judgement, Verdict, judge, judge_latest},
    read::Target,
    round::{Tail, ViewRound, prepare},
};

/// How far a resolution goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Reach {
    /// Only what is open is adopted: for readers.
    Open,
    /// Also what is settled with fewer than `A_v` holders, and what has remains of lost writes above
    /// it, is brought under the new ballot; remains over nothing are sealed by a tombstone of this
    /// fresh operation id. For the roll-forward: afterwards nothing unsettled is left.
    Sweep(OperationId),
    /// As [`Reach::Sweep`], and what is whole is rewritten, too: for the healer, when a drive cannot
    /// install an old entry at its own ballot.
    Rewrite(OperationId),
}

/// What the register holds, settled. `None` when it holds nothing.
pub type ResolveOutcome = Result<Option<Candidate>, Failure>;

/// One resolution.
#[derive(Clone, Debug, Hash)]
pub struct Resolve {
    drives: Drives,
    target: Target,
    reach: Reach,
    attempt: u32,
    round: Round,
    phase: Phase,
}

#[derive(Clone, Debug, Hash)]
enum Phase {
    Ballot,
    Asking { round: ViewRound, ballot: Ballot },
    Adopting(Adopting),
    Over(Tail),
}

impl Resolve {
    /// A resolution of `target`. [`Reach::Sweep`] and [`Reach::Rewrite`] need a [`Target::Version`].
    #[must_use]
    pub fn new(drives: Drives, target: Target, reach: Reach) -> Self {
        debug_assert!(matches!((target, reach), (Target::Version(_), _) | (_, Reach::Open)));
        Self { drives, target, reach, attempt: 0, round: Round(0), phase: Phase::Ballot }
    }

    fn end(&mut self, tail: Tail, outcome: ResolveOutcome) -> Step<ResolveOutcome> {
        self.phase = Phase::Over(tail);
        Step::Done(outcome)
    }

    /// Ends without anything to settle or to hear.
    fn fail(&mut self, failure: Failure) -> Step<ResolveOutcome> {
        self.end(Tail::default(), Err(failure))
    }

    fn ask_ballot(&mut self, above: Ballot) -> Step<ResolveOutcome> {
        if self.attempt >= ATTEMPTS_MAX {
            let attempts = self.attempt;
            return self.fail(Failure::Contended { attempts });
        }
        self.attempt += 1;
        self.phase = Phase::Ballot;
        Step::Ballot { above, attempt: self.attempt }
    }

    fn after_ask(
        &mut self,
        round: ViewRound,
        ballot: Ballot,
        grace_over: bool,
    ) -> Step<ResolveOutcome> {
        if round.winner > Ballot::ZERO {
            return self.ask_ballot(round.winner);
        }
        let quorum = self.drives.quorum;
        let (need, have) = (quorum.read(), round.counting());
        let idle = round.waiting.is_empty();
        if have < need {
            return match round.refusal {
                _ if !idle => self.wait(round, ballot, Step::Wait),
                Some(refusal) if have == 0 => self.fail(Failure::Refused(refusal)),
                _ => self.fail(Failure::Unavailable { need, have }),
            };
        }
        let judgement = match self.target {
            Target::Latest => judge_latest(Basis::Prepare, quorum, &round.answers),
            Target::Version(version) => judge(Basis::Prepare, quorum, &round.answers, version),
        };
        let patient = !idle && !grace_over;
        match judgement {
            Judgement::Found(head)
                if head.verdict == Verdict::Open || self.is_due(&round, &head) =>
            {
                if patient {
                    return self.wait(round, ballot, Step::Grace);
                }
                self.adopt(round, ballot, head)
            }
            Judgement::Found(head) => self.settled(head),
            Judgement::Absent => self.absent(round, ballot, patient),
            Judgement::Unknown { have, need } => self.fail(Failure::Unavailable { need, have }),
        }
    }

    /// Whether a settled head is to be written again.
    fn is_due(&self, round: &ViewRound, head: &Candidate) -> bool {
        let need = self.drives.quorum.acknowledged(head.entry.data_shards());
        match self.reach {
            Reach::Open => false,
            Reach::Rewrite(_) => true,
            Reach::Sweep(_) => {
                let thin = !head.flagged && head.shards.count() < need;
                let reachable = self.drives.up.count() >= need;
                (thin && reachable) || has_remains(&round.answers, head.version, Some(head))
            }
        }
    }

    fn settled(&mut self, head: Candidate) -> Step<ResolveOutcome> {
        let need = self.drives.quorum.acknowledged(head.entry.data_shards());
        let is_firm = head.shards.count() >= need;
        let tail = if is_firm { Tail::known(&head) } else { Tail::default() };
        self.end(tail, Ok(Some(head)))
    }

    fn absent(&mut self, round: ViewRound, ballot: Ballot, patient: bool) -> Step<ResolveOutcome> {
        let (Target::Version(version), Reach::Sweep(fresh) | Reach::Rewrite(fresh)) =
            (self.target, self.reach)
        else {
            return self.end(Tail::default(), Ok(None));
        };
        if !has_remains(&round.answers, version, None) {
            return self.end(Tail::default(), Ok(None));
        }
        if patient {
            return self.wait(round, ballot, Step::Grace);
        }
        self.adopt(round, ballot, seal(version, fresh, ballot))
    }

    fn wait(
        &mut self,
        round: ViewRound,
        ballot: Ballot,
        step: Step<ResolveOutcome>,
    ) -> Step<ResolveOutcome> {
        self.phase = Phase::Asking { round, ballot };
        step
    }

    fn adopt(&mut self, round: ViewRound, ballot: Ballot, head: Candidate) -> Step<ResolveOutcome> {
        if let Some(TooFew { need, have }) = shortage(&head) {
            if !round.waiting.is_empty() {
                return self.wait(round, ballot, Step::Wait);
            }
            return self.fail(Failure::Short { operation: head.entry.operation, need, have });
        }
        let (adopting, commands) = Adopting::begin(self.drives, head, ballot, None);
        self.round.0 += 1;
        self.phase = Phase::Adopting(adopting);
        Step::Send { round: self.round, commands }
    }

    fn after_adopt(&mut self, adopting: Adopting, grace_over: bool) -> Step<ResolveOutcome> {
        match adopting.progress(grace_over) {
            Progress::Chosen => {
                let (holders, shards) = adopting.holders();
                let verdict = Verdict::Settled;
                let adopted = adopting.candidate().clone();
                let head = Candidate { holders, shards, verdict, ..adopted };
                self.end(adopting.chosen(), Ok(Some(head)))
            }
            Progress::Refused(winner) => self.ask_ballot(winner),
            Progress::Short(TooFew { need, have }) => {
                let failure = match adopting.refusal() {
                    Some(refusal) => Failure::Refused(refusal),
                    None => Failure::Unavailable { need, have },
                };
                self.end(adopting.given_up(), Err(failure))
            }
            Progress::Wait => self.go_on(adopting, Step::Wait),
            Progress::Grace => self.go_on(adopting, Step::Grace),
        }
    }

    fn go_on(&mut self, adopting: Adopting, step: Step<ResolveOutcome>) -> Step<ResolveOutcome> {
        self.phase = Phase::Adopting(adopting);
        step
    }

    fn advance(&mut self, grace_over: bool) -> Step<ResolveOutcome> {
        let parked = Phase::Over(Tail::default());
        match std::mem::replace(&mut self.phase, parked) {
            Phase::Asking { round, ballot } => self.after_ask(round, ballot, grace_over),
            Phase::Adopting(adopting) => self.after_adopt(adopting, grace_over),
            phase @ (Phase::Ballot | Phase::Over(_)) => {
                self.phase = phase;
                Step::Wait
            }
        }
    }
}

/// Whether a drive holds entries of the register above `head` (any at all without one).
fn has_remains(answers: &[Answer], version: VersionId, head: Option<&Candidate>) -> bool {
    let above = head.map_or(Ballot::ZERO, |head| head.entry.ballot);
    answers.iter().any(|answer| {
        let Answer::View(view) = answer else { return false };
        let register = view.registers.get(&version);
        register.and_then(|r| r.head()).is_some_and(|held| held.entry.ballot > above)
    })
}

impl Machine for Resolve {
    type Outcome = ResolveOutcome;

    fn start(&mut self) -> Step<ResolveOutcome> {
        let (need, have) = (self.drives.quorum.read(), self.drives.up.count());
        if have < need {
            let failure = Failure::Unavailable { need, have };
            return self.fail(failure);
        }
        self.ask_ballot(Ballot::ZERO)
    }

    fn on_ballot(&mut self, ballot: Ballot) -> Step<ResolveOutcome> {
        if !matches!(self.phase, Phase::Ballot) {
            return Step::Wait;
        }
        let round = ViewRound::new(self.drives.quorum, self.drives.up);
        self.round.0 += 1;
        self.phase = Phase::Asking { round, ballot };
        Step::Send { round: self.round, commands: prepare(self.drives, ballot, ballot.time) }
    }

    fn on_reply(&mut self, round: Round, drive: u8, reply: Reply) -> Step<ResolveOutcome> {
        if round != self.round {
            return Step::Wait;
        }
        let noted = match &mut self.phase {
            Phase::Adopting(adopting) => adopting.note(drive, &reply),
            Phase::Over(tail) => tail.note(drive, &reply),
            Phase::Asking { round: views, .. } => views.note(drive, reply),
            Phase::Ballot => false,
        };
        if noted { self.advance(false) } else { Step::Wait }
    }

    fn on_grace(&mut self) -> Step<ResolveOutcome> {
        self.advance(true)
    }

    fn settlement(&self) -> Option<Settlement> {
        if let Phase::Over(tail) = &self.phase { tail.settlement() } else { None }
    }

    fn is_waiting(&self) -> bool {
        match &self.phase {
            Phase::Adopting(adopting) => adopting.is_waiting(),
            Phase::Over(tail) => tail.is_waiting(),
            Phase::Asking { round, .. } => !round.waiting.is_empty(),
            Phase::Ballot => false,
        }
    }
}
