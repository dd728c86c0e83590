//! Bucket epochs (PROTOCOL.md section 6): PUTs and deletes of objects race the deletion of their bucket.
//!
//! Mirrors the engine's `buckets`, `bucket_record` and `registry`, with one set that is also the first.
//! Properties: what was acknowledged and not deleted is readable at the end, or its bucket lives; a
//! bucket that is gone holds nothing that was chosen.

use std::{cell::RefCell, rc::Rc};

use bytes::Bytes;
use holdfast_register::{Answer, Basis, Candidate, Judgement, Verdict, judge_latest};
use holdfast_types::{BucketEpoch, BucketId, BucketPhase, BucketStamp, EntryKind, OperationId};

use super::{
    super::{bugs::Bug, rng::Rng},
    coordinator::Coordinator,
    drive::{Ask, Key},
    ops::{At, Draft, Fail, Ruling, is_put},
    scan::{EVERYONE, OpenOnes},
    sim::Sim,
};

/// As the engine's `STEP_MICROS`.
const STEP_MICROS: u64 = 15_000_000;
/// Rounds of meeting others' transitions.
const ROUNDS_MAX: u32 = 8;
const REGISTRY: At = At { stamp: BucketStamp::REGISTRY, key: Key::Registry, until: None };

/// The registry's record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Record {
    stamp: BucketStamp,
    deadline: u64,
}

impl Record {
    fn of(candidate: Option<&Candidate>) -> Option<Self> {
        let bytes = &candidate.filter(|found| is_put(found))?.entry.metadata;
        let id = BucketId(u128::from_be_bytes(bytes.get(..16)?.try_into().ok()?));
        let epoch = BucketEpoch(u64::from_be_bytes(bytes.get(16..24)?.try_into().ok()?));
        let deadline = u64::from_be_bytes(bytes.get(24..32)?.try_into().ok()?);
        let phase = BucketPhase::try_from(*bytes.get(32)?).ok()?;
        Some(Self { stamp: BucketStamp { id, epoch, phase }, deadline })
    }

    fn to_bytes(self) -> Bytes {
        let Self { stamp, deadline } = self;
        let mut out = stamp.id.0.to_be_bytes().to_vec();
        out.extend(stamp.epoch.0.to_be_bytes());
        out.extend(deadline.to_be_bytes());
        out.push(stamp.phase as u8);
        out.into()
    }

    fn into_phase(self, phase: BucketPhase, now: u64) -> Self {
        let epoch = BucketEpoch(self.stamp.epoch.0 + 1);
        let deadline = if phase == BucketPhase::Deleting { now + STEP_MICROS } else { 0 };
        Self { stamp: BucketStamp { epoch, phase, ..self.stamp }, deadline }
    }
}

/// What clients did, and were told.
#[derive(Debug, Default)]
struct History {
    /// Acknowledged bodies: bucket, object, operation.
    put: Vec<(u128, u8, OperationId)>,
    /// Objects whose deletion was begun.
    deleted: Vec<u8>,
    /// Buckets whose deletion was answered.
    gone: Vec<u128>,
}

type Log = Rc<RefCell<History>>;

impl Coordinator {
    async fn create_bucket(&self) -> Result<(), Fail> {
        for _ in 0..ROUNDS_MAX {
            let operation = self.operation();
            let id = BucketId(operation.0);
            let phase = BucketPhase::Creating;
            let stamp = BucketStamp { id, epoch: BucketEpoch(1), phase };
            let fresh = Record { stamp, deadline: self.now() + STEP_MICROS };
            let decide = |current: Option<&Candidate>| {
                Ok(match Record::of(current).filter(|met| met.stamp.id != id) {
                    Some(met) => Ruling::Keep(Some(met)),
                    None => Ruling::Write(Draft::record(operation, fresh.to_bytes()), None),
                })
            };
            match self.update(REGISTRY, decide).await? {
                None => return self.complete_creation(fresh).await,
                Some(met) if met.stamp.phase == BucketPhase::Creating => {
                    return self.complete_creation(met).await;
                }
                Some(met) if met.stamp.phase == BucketPhase::Live => return Err(Fail::Mismatch),
                Some(_) => {
                    self.settled_record().await?;
                }
            }
        }
        Err(Fail::Unavailable)
    }

    async fn complete_creation(&self, creating: Record) -> Result<(), Fail> {
        let live = creating.into_phase(BucketPhase::Live, self.now());
        self.install(live.stamp).await?;
        self.transition(creating, live).await.map(|_| ())
    }

    async fn install(&self, stamp: BucketStamp) -> Result<(), Fail> {
        let quorum = self.shared.borrow().quorum;
        let all = (0..quorum.n()).collect();
        // A refusal is an error like silence here: it only counts less drives.
        let have = self.ask(stamp, all, &Ask::Install).await.map_or(0, |done| done.len());
        if have >= usize::from(quorum.write()) { Ok(()) } else { Err(Fail::Unavailable) }
    }

    async fn transition(&self, from: Record, to: Record) -> Result<bool, Fail> {
        let operation = self.operation();
        let gone = to.stamp.phase == BucketPhase::Deleted;
        let kind = if gone { EntryKind::Tombstone } else { EntryKind::Put };
        let decide = |current: Option<&Candidate>| {
            if current.is_some_and(|found| found.entry.operation == operation) {
                return Ok(Ruling::Keep(true));
            }
            let met = Record::of(current);
            Ok(if met == Some(from) {
                Ruling::Write(Draft { kind, ..Draft::record(operation, to.to_bytes()) }, true)
            } else {
                Ruling::Keep(met == Some(to))
            })
        };
        self.update(REGISTRY, decide).await
    }

    async fn settled_record(&self) -> Result<Option<Record>, Fail> {
        loop {
            let found = self.read(REGISTRY).await?;
            let Some(record) = Record::of(found.as_ref()) else { return Ok(None) };
            let overdue = self.now() > record.deadline;
            match record.stamp.phase {
                BucketPhase::Live => return Ok(Some(record)),
                BucketPhase::Deleted => return Ok(None),
                BucketPhase::Creating if !overdue => return Ok(Some(record)),
                BucketPhase::Creating => self.complete_creation(record).await?,
                BucketPhase::Deleting if overdue => {
                    self.settle_deletion(record).await?;
                }
                BucketPhase::Deleting => self.pause().await,
            }
        }
    }

    async fn delete_bucket(&self) -> Result<Option<u128>, Fail> {
        for _ in 0..ROUNDS_MAX {
            let record = self.settled_record().await?;
            let live = record.filter(|record| record.stamp.phase == BucketPhase::Live);
            let Some(live) = live else { return Err(Fail::Gone) };
            match self.is_empty(live.stamp).await {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(Fail::Changed) => continue,
                Err(error) => return Err(error),
            }
            let deleting = live.into_phase(BucketPhase::Deleting, self.now());
            if !self.transition(live, deleting).await? {
                continue;
            }
            let done = self.settle_deletion(deleting).await?;
            return Ok(done.then_some(live.stamp.id.0));
        }
        Err(Fail::Unavailable)
    }

    /// Whether the bucket is gone.
    async fn settle_deletion(&self, deleting: Record) -> Result<bool, Fail> {
        let checked = match self.install(deleting.stamp).await {
            Ok(()) if self.has(Bug::NoSecondList) => Ok(true),
            Ok(()) => self.is_empty(deleting.stamp).await,
            Err(error) => Err(error),
        };
        let empty = checked == Ok(true);
        let phase = if empty { BucketPhase::Deleted } else { BucketPhase::Live };
        let outcome = deleting.into_phase(phase, self.now());
        let ours = self.transition(deleting, outcome).await?;
        if let Err(error) = checked
            && error != Fail::Changed
        {
            return Err(error);
        }
        if !ours {
            let found = self.read(REGISTRY).await?;
            return Ok(Record::of(found.as_ref()).is_none_or(|r| r.stamp.id != deleting.stamp.id));
        }
        let installed = self.install(outcome.stamp).await;
        if !empty {
            installed?;
        }
        Ok(empty)
    }

    async fn is_empty(&self, stamp: BucketStamp) -> Result<bool, Fail> {
        let (first, last) = (Key::Object(stamp.id.0, 0), Key::Object(stamp.id.0, u8::MAX));
        let marked = stamp.phase == BucketPhase::Deleting;
        let opens = if marked { OpenOnes::Leave } else { OpenOnes::Resolve(None, EVERYONE) };
        for (key, found) in self.scan(stamp, first, last, &opens).await? {
            let open = found.verdict == Verdict::Open;
            let ignored = open && self.has(Bug::OpenIsEmpty);
            let may_be_gone = open && !is_put(&found);
            if !may_be_gone && !ignored {
                return Ok(false);
            }
            let gone = match self.judged_by_all(stamp, key).await? {
                Judgement::Absent => true,
                Judgement::Found(found) => found.verdict == Verdict::Settled && !is_put(&found),
                Judgement::Unknown { .. } => false,
            };
            if !gone && !ignored {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A blind write of a client that remembers the bucket's stamp.
    async fn write_object(
        &self,
        known: &mut Option<BucketStamp>,
        object: u8,
        draft: Draft,
    ) -> Result<u128, Fail> {
        for _ in 0..ROUNDS_MAX {
            let stamp = match *known {
                Some(stamp) => stamp,
                None => {
                    let record = self.settled_record().await?;
                    let live = record.filter(|record| record.stamp.phase == BucketPhase::Live);
                    live.ok_or(Fail::Gone)?.stamp
                }
            };
            *known = Some(stamp);
            let at = At { stamp, key: Key::Object(stamp.id.0, object), until: None };
            match self.write(at, draft.clone()).await {
                Err(Fail::Changed) => *known = None,
                outcome => return outcome.map(|()| stamp.id.0),
            }
        }
        Err(Fail::Changed)
    }
}

async fn writer(of: Coordinator, log: Log, object: u8, known: Option<BucketStamp>, deletes: bool) {
    let mut known = known;
    of.pause().await;
    let operation = of.operation();
    let put = of.write_object(&mut known, object, Draft::body(operation)).await;
    of.say(|| format!("PUT {object} as {operation:?}: {put:?}"));
    if let Ok(bucket) = put {
        log.borrow_mut().put.push((bucket, object, operation));
    }
    if deletes {
        of.pause().await;
        log.borrow_mut().deleted.push(object);
        let draft = Draft::tombstone(of.operation());
        let gone = of.write_object(&mut known, object, draft).await;
        of.say(|| format!("DELETE {object}: {gone:?}"));
    }
}

async fn deleter(of: Coordinator, log: Log, again: bool) {
    of.pause().await;
    for round in 0..2 {
        let answer = of.delete_bucket().await;
        of.say(|| format!("DeleteBucket: {answer:?}"));
        if let Ok(Some(bucket)) = answer {
            log.borrow_mut().gone.push(bucket);
            if again && round == 0 {
                let created = of.create_bucket().await;
                of.say(|| format!("CreateBucket: {created:?}"));
            }
        }
        of.pause().await;
    }
}

/// One run; how many events it had.
pub fn run(sim: &mut Sim, mut rng: Rng) -> u32 {
    sim.spawn(false, |of| async move {
        if let Err(error) = of.create_bucket().await {
            of.shared.borrow_mut().violate(format!("cannot create a bucket: {error:?}"));
        }
    });
    sim.quietly();
    let log = Log::default();
    let stamps = sim.shared.borrow().drives[0].stamps.clone();
    let live = stamps.into_values().find(|stamp| stamp.phase == BucketPhase::Live);
    for object in 0..1 + rng.below(3) as u8 {
        let known = live.filter(|_| rng.chance(70));
        let deletes = rng.chance(30);
        let log = log.clone();
        sim.spawn(true, |of| writer(of, log, object, known, deletes));
    }
    for _ in 0..1 + rng.below(2) {
        let (log, again) = (log.clone(), rng.chance(30));
        sim.spawn(true, |of| deleter(of, log, again));
    }
    let events = sim.walk(1_500);
    if sim.shared.borrow().violation.is_some() {
        return events;
    }
    sim.calm();
    sim.shared.borrow_mut().now += 2 * STEP_MICROS;
    sim.spawn(false, |of| async move { check(&of, &log).await });
    sim.quietly();
    events
}

/// The end: what the registry says, and what is in the bucket.
async fn check(of: &Coordinator, log: &Log) {
    let record = match of.settled_record().await {
        Ok(record) => record,
        Err(error) => {
            return of.shared.borrow_mut().violate(format!("no answer in quiet: {error:?}"));
        }
    };
    let live = record.map(|record| record.stamp);
    if let Some(id) = live.map(|stamp| stamp.id.0)
        && log.borrow().gone.contains(&id)
    {
        of.shared.borrow_mut().violate(format!("bucket {id} lives, its deletion was answered"));
    }
    let put = log.borrow().put.clone();
    for (bucket, object, operation) in put {
        if log.borrow().deleted.contains(&object) {
            continue;
        }
        let Some(stamp) = live.filter(|stamp| stamp.id.0 == bucket) else {
            let what = format!("{operation:?} was acknowledged, its bucket {bucket} is gone");
            return of.shared.borrow_mut().violate(what);
        };
        let at = At { stamp, key: Key::Object(bucket, object), until: None };
        let found = of.read(at).await;
        let right = |c: &Candidate| c.entry.operation == operation;
        if !matches!(&found, Ok(Some(found)) if right(found)) {
            let what = format!("{operation:?} was acknowledged, {found:?} is read");
            return of.shared.borrow_mut().violate(what);
        }
    }
    let leaked = chosen_in_others(of, live.map(|stamp| stamp.id.0));
    if let Some(key) = leaked {
        of.shared.borrow_mut().violate(format!("{key:?} was chosen in a deleted bucket"));
    }
}

/// An object that was chosen in a bucket that is not the living one.
fn chosen_in_others(of: &Coordinator, live: Option<u128>) -> Option<Key> {
    let state = of.shared.borrow();
    let keys = state.drives.iter().flat_map(|drive| drive.keys.keys().copied());
    let mut dead = keys.filter(|key| matches!(key, Key::Object(id, _) if Some(*id) != live));
    dead.find(|key| {
        let views = state.drives.iter().map(|drive| {
            let view = drive.keys.get(key).map(|d| d.state.view(d.facts.floor, true, false));
            let nothing = || holdfast_register::KeyView { counts: true, ..Default::default() };
            Answer::View(view.unwrap_or_else(nothing))
        });
        let answers: Vec<Answer> = views.collect();
        let judged = judge_latest(Basis::Reads, state.quorum, &answers);
        matches!(judged, Judgement::Found(c) if c.verdict == Verdict::Settled && is_put(&c))
    })
}
