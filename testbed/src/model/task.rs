//! A coordinator of the model: one of the real machines and the calls it has out.

use holdfast_register::{
    Blind, Conditional, DecideOutcome, Decision, Drives, HolderMask, Machine, Read, ReadOutcome,
    Reply, Resolve, ResolveOutcome, Round, Settlement, Step, WriteOutcome,
};
use holdfast_types::{Ballot, OperationId, SetEpoch, VersionId};

use super::{
    actors::{id_of, is_clients},
    history::Id,
    world::Message,
};

/// One of the real machines.
#[derive(Clone, Debug, Hash)]
pub enum AnyMachine {
    Blind(Blind),
    Conditional(Conditional),
    Resolve(Resolve),
    Read(Read),
}

/// How one of them ended.
#[derive(Clone, Debug, Hash)]
pub enum Ended {
    Write(WriteOutcome),
    Decide(DecideOutcome),
    Resolve(ResolveOutcome),
    Read(ReadOutcome),
}

fn wrap<O>(step: Step<O>, ended: fn(O) -> Ended) -> Step<Ended> {
    match step {
        Step::Ballot { above, attempt } => Step::Ballot { above, attempt },
        Step::Send { round, commands } => Step::Send { round, commands },
        Step::Wait => Step::Wait,
        Step::Grace => Step::Grace,
        Step::Evaluate(current) => Step::Evaluate(current),
        Step::Done(outcome) => Step::Done(ended(outcome)),
    }
}

macro_rules! each {
    ($any:expr, $machine:ident => $call:expr) => {
        match $any {
            AnyMachine::Blind($machine) => wrap($call, Ended::Write),
            AnyMachine::Conditional($machine) => wrap($call, Ended::Decide),
            AnyMachine::Resolve($machine) => wrap($call, Ended::Resolve),
            AnyMachine::Read($machine) => wrap($call, Ended::Read),
        }
    };
}

impl AnyMachine {
    pub fn start(&mut self) -> Step<Ended> {
        each!(self, machine => machine.start())
    }

    pub fn on_ballot(&mut self, ballot: Ballot) -> Step<Ended> {
        each!(self, machine => machine.on_ballot(ballot))
    }

    pub fn on_reply(&mut self, round: Round, drive: u8, reply: Reply) -> Step<Ended> {
        each!(self, machine => machine.on_reply(round, drive, reply))
    }

    pub fn on_grace(&mut self) -> Step<Ended> {
        each!(self, machine => machine.on_grace())
    }

    pub fn on_decision(&mut self, decision: Decision) -> Step<Ended> {
        match self {
            Self::Conditional(machine) => wrap(machine.on_decision(decision), Ended::Decide),
            _ => Step::Wait,
        }
    }

    pub fn settlement(&self) -> Option<Settlement> {
        match self {
            Self::Blind(machine) => machine.settlement(),
            Self::Conditional(machine) => machine.settlement(),
            Self::Resolve(machine) => machine.settlement(),
            Self::Read(machine) => machine.settlement(),
        }
    }
}

/// What a task is for.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub enum Work {
    /// A client's operation, by its place in the history.
    Client { client: usize, id: Id },
    /// The roll-forward.
    Sweep,
    /// The healer: reads a register, then installs it where it is missing.
    Heal,
    /// The rebuild of a drive: the registers still to be resolved, `None` before they are known.
    /// It installs what was chosen, as the engine does (ADR 0014), or writes it anew.
    Rebuild { drive: u8, identity: u32, left: Option<Vec<VersionId>>, installs: bool },
}

impl Task {
    /// Whether an operation is the one that it writes for its client.
    pub fn is_own(&self, operation: OperationId) -> bool {
        matches!(self.work, Work::Client { id, .. } if id_of(operation) == id && is_clients(operation))
    }
}

/// A machine at work.
#[derive(Clone, Debug, Hash)]
pub struct Task {
    pub id: u32,
    pub work: Work,
    pub machine: AnyMachine,
    /// Counts the machines of this task: replies to an earlier one are not given to the next.
    pub generation: u32,
    pub drives: Drives,
    /// The set epoch of all commands under the current ballot.
    pub epoch: SetEpoch,
    /// The newest set epoch it was told of (clients keep their own).
    pub heard: SetEpoch,
    /// Calls without a reply: round and drive.
    pub calls: Vec<(Round, u8)>,
    pub grace: bool,
    /// Answered; stragglers may still reply.
    pub over: bool,
    /// Its clock's deviation.
    pub skew: i64,
    /// What its condition was last decided on.
    pub saw: Option<Id>,
    /// Accepts with shard in the current round (for planted bugs).
    pub whole: HolderMask,
    /// Drives that the current round of its own Accept needs; 0 in other rounds.
    pub needed: u8,
    /// Reads repeated.
    pub tries: u32,
    /// Counts the shapes a write has taken.
    pub shape: u128,
}

/// A call is answered once, by what came of it the first time (ADR 0007): repetitions that are still on their
/// way do to the drive what they do, and nobody hears of it.
pub fn answered_once(net: &mut [Message], call: Option<(u32, u32, Round)>, at: u8) {
    for message in net {
        match message {
            Message::Request { drive, from, .. } if *drive == at && *from == call => *from = None,
            _ => {}
        }
    }
}
