//! A conditional write as a [`Machine`].

use holdfast_types::Ballot;

use super::{Conditional, DecideOutcome, Phase};
use crate::{
    command::{Machine, Reply, Round, Settlement, Step},
    round::{ViewRound, prepare},
};

impl Machine for Conditional {
    type Outcome = DecideOutcome;

    fn start(&mut self) -> Step<DecideOutcome> {
        let (need, have) = (self.drives.quorum.write(), self.drives.up.count());
        if have < need {
            return self.fail(need, have);
        }
        self.ask_ballot(Ballot::ZERO)
    }

    fn on_ballot(&mut self, ballot: Ballot) -> Step<DecideOutcome> {
        if !matches!(self.phase, Phase::Ballot) {
            return Step::Wait;
        }
        let first = *self.first.get_or_insert(ballot);
        let round = ViewRound::new(self.drives.quorum, self.drives.up);
        self.round.0 += 1;
        self.phase = Phase::Asking { round, ballot };
        Step::Send { round: self.round, commands: prepare(self.drives, ballot, first.time) }
    }

    fn on_reply(&mut self, round: Round, drive: u8, reply: Reply) -> Step<DecideOutcome> {
        if round != self.round {
            return Step::Wait;
        }
        let noted = match &mut self.phase {
            Phase::Writing(accepts) => accepts.note(drive, &reply),
            Phase::Adopting { adopting, .. } => adopting.note(drive, &reply),
            Phase::Over(tail) => tail.note(drive, &reply),
            Phase::Asking { round: views, .. } => views.note(drive, reply),
            Phase::Ballot | Phase::Deciding { .. } => false,
        };
        if noted { self.advance(false) } else { Step::Wait }
    }

    fn on_grace(&mut self) -> Step<DecideOutcome> {
        self.advance(true)
    }

    fn settlement(&self) -> Option<Settlement> {
        if let Phase::Over(tail) = &self.phase { tail.settlement() } else { None }
    }

    fn is_waiting(&self) -> bool {
        match &self.phase {
            Phase::Writing(round) => !round.waiting.is_empty(),
            Phase::Adopting { adopting, .. } => adopting.is_waiting(),
            Phase::Over(tail) => tail.is_waiting(),
            Phase::Asking { round, .. } | Phase::Deciding { round, .. } => {
                !round.waiting.is_empty()
            }
            Phase::Ballot => false,
        }
    }
}
