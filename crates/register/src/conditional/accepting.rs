//! What a conditional write makes of the replies to its Accepts.

use holdfast_types::Ballot;

use super::{Conditional, DecideOutcome, Decided, Phase, Then};
use crate::{
    command::{Failure, Settlement, Step},
    judge::Candidate,
    round::AcceptRound,
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
                let (version, operation) = (self.version, entry.operation);
                self.settlement = Some(Settlement { version, operation, holders: round.whole });
                return self.end(round, Ok(Decided::Written(entry)));
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
            _ if round.refused.is_empty() => self.end(round, Err(Failure::Unknown { need, have })),
            _ if round.winner > Ballot::ZERO => {
                self.attempts.clear();
                self.ask_ballot(round.winner.max(entry.ballot))
            }
            Some(refusal) => self.end(round, Err(Failure::Refused(refusal))),
            None => self.end(round, Err(Failure::Unknown { need, have })),
        }
    }

    pub(super) fn after_adopt(
        &mut self,
        round: AcceptRound,
        candidate: Candidate,
        then: Then,
        grace_over: bool,
    ) -> Step<DecideOutcome> {
        let need = self.drives.quorum.acknowledged(candidate.entry.data_shards());
        let (have, idle) = (round.whole.count(), round.waiting.is_empty());
        if have >= need && (idle || grace_over) {
            let (version, operation) = (candidate.version, candidate.entry.operation);
            self.settlement = Some(Settlement { version, operation, holders: round.whole });
            return match then {
                Then::Kept => self.end(round, Ok(Decided::Kept)),
                Then::Written => self.written(round, candidate),
                Then::Resolved => self.ask_ballot(candidate.entry.ballot),
                Then::Sealed => {
                    self.dirty = false;
                    self.attempts.clear();
                    self.ask_ballot(candidate.entry.ballot)
                }
            };
        }
        if round.possible() < need && round.winner > Ballot::ZERO {
            return self.ask_ballot(round.winner.max(candidate.entry.ballot));
        }
        if idle && have < need {
            return self.fail(need, have);
        }
        let step = if have >= need { Step::Grace } else { Step::Wait };
        self.phase = Phase::Adopting { round, candidate, then };
        step
    }

    fn written(&mut self, round: AcceptRound, candidate: Candidate) -> Step<DecideOutcome> {
        let operation = candidate.entry.operation;
        let mine = self.operations().contains(&operation);
        let last = self.attempts.last().map(|attempt| attempt.entry.clone());
        let entry = if mine { candidate.entry } else { last.unwrap_or(candidate.entry) };
        self.end(round, Ok(Decided::Written(entry)))
    }
}
