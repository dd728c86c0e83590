//! What a conditional write makes of the replies to its Accepts.

use holdfast_types::Ballot;

use super::{Conditional, DecideOutcome, Decided, Phase, Then};
use crate::{
    adopting::{Adopting, Progress, TooFew},
    command::{Failure, Step},
    round::{AcceptRound, Tail},
};

impl Conditional {
    pub(super) fn after_write(
        &mut self,
        round: AcceptRound,
        grace_over: bool,
    ) -> Step<DecideOutcome> {
        let entry = self.attempts.last().map(|attempt| attempt.entry.clone());
        let entry = entry.expect("an Accept of ours is on its way only after it was noted");
        let need = self.drives.quorum.acknowledged(entry.data_shards());
        let (have, idle) = (round.whole.count(), round.waiting.is_empty());
        if have >= need {
            if idle || grace_over {
                let tail = Tail::settling(round, self.version, entry.operation);
                return self.end(tail, Ok(Decided::Written(entry)));
            }
            self.phase = Phase::Writing(round);
            return Step::Grace;
        }
        let traces = self.dirty || !round.accepted.union(round.silent).is_empty();
        if !round.refused.is_empty() && traces && round.possible() < need {
            self.dirty = true;
            return self.ask_ballot(round.winner.max(entry.ballot));
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
                self.attempts.clear();
                self.ask_ballot(round.winner.max(entry.ballot))
            }
            Some(refusal) => self.end(Tail::of(round), Err(Failure::Refused(refusal))),
            None => self.end(Tail::of(round), Err(Failure::Unknown { need, have })),
        }
    }

    pub(super) fn after_adopt(
        &mut self,
        adopting: Adopting,
        then: Then,
        grace_over: bool,
    ) -> Step<DecideOutcome> {
        match adopting.progress(grace_over) {
            Progress::Chosen => self.adopted(adopting, then),
            Progress::Refused(winner) => self.ask_ballot(winner),
            Progress::Short(TooFew { need, have }) => self.fail(need, have),
            Progress::Wait => self.go_on(adopting, then, Step::Wait),
            Progress::Grace => self.go_on(adopting, then, Step::Grace),
        }
    }

    fn go_on(
        &mut self,
        adopting: Adopting,
        then: Then,
        step: Step<DecideOutcome>,
    ) -> Step<DecideOutcome> {
        self.phase = Phase::Adopting { adopting, then };
        step
    }

    /// What was adopted is chosen.
    fn adopted(&mut self, adopting: Adopting, then: Then) -> Step<DecideOutcome> {
        let ballot = adopting.candidate().entry.ballot;
        match then {
            Then::Kept => self.end(adopting.chosen(), Ok(Decided::Kept)),
            Then::Written => self.written(adopting),
            Then::Resolved => self.ask_ballot(ballot),
            Then::Sealed => {
                self.dirty = false;
                self.attempts.clear();
                self.ask_ballot(ballot)
            }
        }
    }

    fn written(&mut self, adopting: Adopting) -> Step<DecideOutcome> {
        let adopted = adopting.candidate().entry.clone();
        let mine = self.operations().contains(&adopted.operation);
        let last = self.attempts.last().map(|attempt| attempt.entry.clone());
        let entry = if mine { adopted } else { last.unwrap_or(adopted) };
        self.end(adopting.chosen(), Ok(Decided::Written(entry)))
    }
}
