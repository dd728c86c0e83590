//! Reads, writes, conditional writes and seals as the engine composes them from the machines
//! (its `conversation`, `write`, `update`, `read`), mirrored step by step.

use bytes::Bytes;
use holdfast_register::{
    Blind, Candidate, Command, Conditional, Decided, Decision, Drives, Failure, HolderMask,
    Machine, Read, Refusal, Reply, Resolve, Round, Seen, Source, Step, Subject, Target,
    resolve::Reach,
};
use holdfast_types::{
    Ballot, BucketStamp, Entry, EntryKind, Geometry, OperationId, PartRef, VersionId,
};

use super::{
    super::{bugs::Bug, drive::Request},
    coordinator::Coordinator,
    drive::{Answered, Ask, Guard, Key},
    scan::EVERYONE,
    sim::Inbox,
};

/// As the engine's.
const BEGINNINGS_MAX: u32 = 4;

/// Why something was not done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fail {
    /// A drive knows a newer stamp; nothing was written.
    Changed,
    /// The upload is in no phase for this; nothing was written.
    UploadNotOpen,
    /// There is no such bucket or upload.
    Gone,
    /// What the request names does not fit; nothing was written.
    Mismatch,
    /// Nothing was written.
    Unavailable,
    /// Perhaps it takes effect.
    Unknown,
}

/// What is to be written.
#[derive(Clone, Debug)]
pub struct Draft {
    pub operation: OperationId,
    pub kind: EntryKind,
    pub metadata: Bytes,
    pub parts: Vec<PartRef>,
    /// Whether it has data of its own.
    pub data: bool,
    pub guard: Option<Guard>,
}

impl Draft {
    /// An entry of metadata alone.
    pub fn record(operation: OperationId, metadata: Bytes) -> Self {
        let kind = EntryKind::Put;
        Self { operation, kind, metadata, parts: Vec::new(), data: false, guard: None }
    }

    /// A body.
    pub fn body(operation: OperationId) -> Self {
        Self { data: true, ..Self::record(operation, Bytes::new()) }
    }

    /// The end of a register.
    pub fn tombstone(operation: OperationId) -> Self {
        Self { kind: EntryKind::Tombstone, ..Self::record(operation, Bytes::new()) }
    }

    fn entry(&self, drives: Drives) -> Entry {
        let n = drives.quorum.n();
        let k = drives.quorum.data_shards(n - drives.up.count());
        Entry {
            ballot: Ballot::ZERO,
            order: Ballot::ZERO,
            operation: self.operation,
            kind: self.kind,
            geometry: if self.data { Geometry::new(k, n, 1) } else { Geometry::EMPTY },
            metadata: self.metadata.clone(),
            parts: self.parts.clone(),
        }
    }
}

/// What a condition comes to.
pub enum Ruling<T> {
    Write(Draft, T),
    Keep(T),
}

enum Pause<O> {
    Evaluate(Option<Candidate>),
    Done(O),
    /// The time of the whole is over: whatever is on its way stays so.
    Late,
}

/// Whether an entry is there at all.
pub fn is_put(candidate: &Candidate) -> bool {
    candidate.entry.kind == EntryKind::Put
}

/// One machine and its exchange with the drives.
struct Talk<'a, M: Machine> {
    of: &'a Coordinator,
    at: At,
    machine: M,
    guard: Option<Guard>,
    exchange: u32,
    changed: Option<BucketStamp>,
    /// Whether it has asked what there is: a blind write adopts, or writes again, only then.
    prepared: bool,
}

/// Which key, under which stamp, and until when ballots are drawn.
#[derive(Clone, Copy, Debug)]
pub struct At {
    pub stamp: BucketStamp,
    pub key: Key,
    pub until: Option<u64>,
}

impl<M: Machine> Talk<'_, M> {
    async fn run(&mut self, mut step: Step<M::Outcome>) -> Pause<M::Outcome> {
        loop {
            let grace = matches!(step, Step::Grace);
            step = match step {
                Step::Ballot { above, .. } => {
                    if self.is_late() {
                        return Pause::Late;
                    }
                    let ballot = self.of.draw(above);
                    self.machine.on_ballot(ballot)
                }
                Step::Send { round, commands } => {
                    self.send(round, commands);
                    Step::Wait
                }
                Step::Wait | Step::Grace => {
                    let came = self.of.next(grace).await;
                    if self.is_late() {
                        return Pause::Late;
                    }
                    self.take(came)
                }
                Step::Evaluate(current) => return Pause::Evaluate(current),
                Step::Done(outcome) => return Pause::Done(outcome),
            };
        }
    }

    fn is_late(&self) -> bool {
        self.at.until.is_some_and(|until| self.of.now() > until)
    }

    fn send(&mut self, round: Round, commands: Vec<(u8, Command)>) {
        if let Some(changed) = self.changed {
            self.at.stamp = changed;
        }
        for (drive, command) in commands {
            let call = (self.exchange, round, drive);
            let mut guard = None;
            let request = match command {
                Command::Prepare { ballot, since } => {
                    self.prepared = true;
                    Request::Prepare { ballot, since }
                }
                Command::Read => Request::Read,
                Command::Accept { version, entry, source } => {
                    let have = self.of.shared.borrow().holders(entry.operation);
                    if source == Source::Restore && have < entry.data_shards() {
                        self.of.silence(call);
                        continue;
                    }
                    let bound = !self.prepared || !self.of.has(Bug::AdoptionUnguarded);
                    guard = self.guard.clone().filter(|_| bound);
                    Request::Accept { version, entry, source }
                }
            };
            let ask = Ask::Of { key: self.at.key, request, guard };
            self.of.call(call, self.at.stamp, ask);
        }
    }

    fn take(&mut self, came: Inbox) -> Step<M::Outcome> {
        match came {
            Inbox::Grace => self.machine.on_grace(),
            Inbox::Answer((exchange, round, drive), Answered::Reply(reply))
                if exchange == self.exchange =>
            {
                if let Reply::Refused(
                    Refusal::BucketOutdated { current } | Refusal::BucketNotLive { current },
                ) = reply
                {
                    self.changed = Some(current);
                }
                self.machine.on_reply(round, drive, reply)
            }
            Inbox::Answer(..) | Inbox::Woken => Step::Wait,
        }
    }

    fn explain(&self, failure: Failure) -> Fail {
        match failure {
            Failure::Unavailable { .. } | Failure::Refused(_) | Failure::Contended { .. }
                if self.changed.is_some() =>
            {
                Fail::Changed
            }
            Failure::Refused(Refusal::UploadNotOpen) => Fail::UploadNotOpen,
            Failure::Unknown { .. } => Fail::Unknown,
            _ => Fail::Unavailable,
        }
    }

    fn settle(&self) {
        if let Some(settled) = self.machine.settlement() {
            let (version, operation) = (settled.version, settled.operation);
            let request = Request::Settle { version, operation, holders: settled.holders };
            self.of.tell_all(self.at.stamp, &Ask::Of { key: self.at.key, request, guard: None });
        }
    }
}

impl Coordinator {
    fn talk<M: Machine>(&self, at: At, guard: Option<Guard>, machine: M) -> Talk<'_, M> {
        let exchange = self.exchange();
        Talk { of: self, at, machine, guard, exchange, changed: None, prepared: false }
    }

    /// The set as it knows it: a drive that is down is mostly known to be.
    fn drives(&self) -> Drives {
        let mut state = self.shared.borrow_mut();
        let quorum = state.quorum;
        let mut up = HolderMask::full(quorum.n());
        if state.quiet {
            return Drives { quorum, up };
        }
        for drive in 0..quorum.n() {
            let guess = if state.drives[usize::from(drive)].down { 60 } else { 3 };
            if up.count() > quorum.n() - quorum.away() && state.rng.chance(guess) {
                up = up.without(drive);
            }
        }
        Drives { quorum, up }
    }

    /// A blind write.
    pub async fn write(&self, at: At, draft: Draft) -> Result<(), Fail> {
        let drives = self.drives();
        let machine = Blind::new(drives, VersionId::NULL, draft.entry(drives), drives.up);
        let mut talk = self.talk(at, draft.guard, machine);
        let first = talk.machine.start();
        match talk.run(first).await {
            Pause::Done(Ok(_)) => {
                talk.settle();
                Ok(())
            }
            Pause::Done(Err(failure)) => Err(talk.explain(failure)),
            Pause::Late | Pause::Evaluate(_) => Err(Fail::Unknown),
        }
    }

    /// A conditional write. One of unknown effect is begun again most often (ADR 0011): what uploads decide on has
    /// no data, so in the same shape.
    pub async fn update<T>(
        &self,
        at: At,
        mut decide: impl FnMut(Option<&Candidate>) -> Result<Ruling<T>, Fail>,
    ) -> Result<T, Fail> {
        let (mut drives, seal) = (self.drives(), self.operation());
        let machine = Conditional::new(drives, VersionId::NULL, Subject::Register, seal);
        let mut talk = self.talk(at, None, machine);
        let mut answers: Vec<(OperationId, T)> = Vec::new();
        let mut kept = Err(Fail::Unknown);
        let mut last: Option<Draft> = None;
        let mut beginnings = 1;
        let mut step = talk.machine.start();
        let outcome = loop {
            let current = match talk.run(step).await {
                Pause::Done(Err(Failure::Unknown { .. }))
                    if last.is_some() && self.begins_again(beginnings) =>
                {
                    let draft = last.clone().expect("just seen");
                    beginnings += 1;
                    drives = self.drives();
                    let machine = talk.machine.clone();
                    let machine = machine.again(drives, draft.entry(drives), drives.up);
                    self.say(|| format!("{:?} of {:?} begun again", draft.operation, at.key));
                    talk = self.talk(at, draft.guard, machine);
                    step = talk.machine.start();
                    continue;
                }
                Pause::Done(outcome) => break outcome,
                Pause::Evaluate(current) => current,
                Pause::Late => return Err(Fail::Unknown),
            };
            let decision = match decide(current.as_ref()) {
                Ok(Ruling::Write(draft, answer)) => {
                    answers.push((draft.operation, answer));
                    talk.guard.clone_from(&draft.guard);
                    last = Some(draft.clone());
                    let entry = draft.entry(drives);
                    Decision::Write { entry, own: drives.up, keeps_order: false }
                }
                Ok(Ruling::Keep(answer)) => {
                    kept = Ok(answer);
                    Decision::Keep
                }
                Err(error) => {
                    kept = Err(error);
                    Decision::Keep
                }
            };
            step = talk.machine.on_decision(decision);
        };
        match outcome {
            Ok(Decided::Written(entry)) => {
                talk.settle();
                let written = answers.into_iter().rfind(|(id, _)| *id == entry.operation);
                written.map(|(_, answer)| answer).ok_or(Fail::Unknown)
            }
            Ok(Decided::Kept) => {
                talk.settle();
                kept
            }
            Err(failure) => Err(talk.explain(failure)),
        }
    }

    /// Whether a write of unknown effect is begun again: as the engine does, but now and then it has no time left.
    fn begins_again(&self, beginnings: u32) -> bool {
        beginnings < BEGINNINGS_MAX && self.shared.borrow_mut().rng.chance(67)
    }

    /// The settled value, brought under a fresh ballot.
    pub async fn seal(&self, at: At) -> Result<Option<Candidate>, Fail> {
        let (drives, seal) = (self.drives(), self.operation());
        let machine = Conditional::new(drives, VersionId::NULL, Subject::Register, seal).sealing();
        let mut talk = self.talk(at, None, machine);
        let mut shown = None;
        let mut step = talk.machine.start();
        loop {
            match talk.run(step).await {
                Pause::Done(Ok(_)) => {
                    talk.settle();
                    return Ok(shown);
                }
                Pause::Done(Err(failure)) => return Err(talk.explain(failure)),
                Pause::Evaluate(current) => shown = current,
                Pause::Late => return Err(Fail::Unknown),
            }
            step = talk.machine.on_decision(Decision::Keep);
        }
    }

    /// A linearizable read.
    pub async fn read(&self, at: At) -> Result<Option<Candidate>, Fail> {
        self.read_under(at, None, EVERYONE).await
    }

    /// As [`Self::read`]; what is open is adopted only while `guard` is met, and only some drives are
    /// heard.
    pub async fn read_under(
        &self,
        at: At,
        guard: Option<Guard>,
        heard: HolderMask,
    ) -> Result<Option<Candidate>, Fail> {
        let mut drives = self.drives();
        drives.up = drives.up.intersection(heard);
        if drives.up.is_empty() {
            return Err(Fail::Unavailable);
        }
        let mut order: Vec<u8> = drives.up.iter().collect();
        let by = self.shared.borrow_mut().rng.below(order.len() as u64) as usize;
        order.rotate_left(by);
        let target = Target::Version(VersionId::NULL);
        let mut talk = self.talk(at, None, Read::new(drives, target, &order));
        let first = talk.machine.start();
        match talk.run(first).await {
            Pause::Done(Ok(Seen::Found(found))) => return Ok(found),
            Pause::Done(Ok(Seen::Open(_))) => {}
            Pause::Done(Err(failure)) => return Err(talk.explain(failure)),
            Pause::Late | Pause::Evaluate(_) => return Err(Fail::Unknown),
        }
        let mut talk = self.talk(at, guard, Resolve::new(drives, target, Reach::Open));
        let first = talk.machine.start();
        match talk.run(first).await {
            Pause::Done(Ok(found)) => {
                talk.settle();
                Ok(found)
            }
            Pause::Done(Err(failure)) => Err(talk.explain(failure)),
            Pause::Late | Pause::Evaluate(_) => Err(Fail::Unknown),
        }
    }

    /// What a node does about a key that its drives hold unsettled for some seconds.
    pub async fn roll_forward(&self, at: At) -> Result<(), Fail> {
        let (drives, seal) = (self.drives(), self.operation());
        let target = Target::Version(VersionId::NULL);
        let mut talk = self.talk(at, None, Resolve::new(drives, target, Reach::Sweep(seal)));
        let first = talk.machine.start();
        match talk.run(first).await {
            Pause::Done(Ok(_)) => {
                talk.settle();
                Ok(())
            }
            Pause::Done(Err(failure)) => Err(talk.explain(failure)),
            Pause::Late | Pause::Evaluate(_) => Err(Fail::Unknown),
        }
    }
}
