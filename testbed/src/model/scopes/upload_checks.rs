//! Clients of one upload, and what must hold of what they are told: an acknowledged object stays
//! readable with the shards of all its parts, no part that was acknowledged is missing from it, an
//! aborted upload never appears, reads are not stale, and an upload is gone for nobody before somebody ended it
//! (INV-UPLOAD-5).

use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

use holdfast_register::Candidate;
use holdfast_types::{OperationId, PartRef};

use super::{
    super::rng::Rng,
    coordinator::Coordinator,
    ops::{Fail, is_put},
    sim::Sim,
    uploads::{OBJECT, SETTLE_AFTER_MICROS},
};

/// A write: when it began, and when it was acknowledged.
#[derive(Clone, Copy, Debug)]
struct Span {
    start: u64,
    end: Option<u64>,
}

#[derive(Debug, Default)]
struct History {
    /// By operation.
    parts: BTreeMap<OperationId, (u8, Span)>,
    objects: BTreeMap<OperationId, Span>,
    /// Completions, with what they are made of once acknowledged.
    completions: BTreeMap<OperationId, Option<Vec<PartRef>>>,
    /// An abort was asked for, and may take effect at any time since.
    aborting: bool,
    aborted: bool,
}

impl History {
    /// What was told of an upload that is there.
    fn judge_gone<T>(&self, of: &Coordinator, told: &Result<T, Fail>, by_others: bool) {
        if matches!(told, Err(Fail::Gone)) && !by_others {
            violate(of, "the upload is gone, and nobody has ended it".to_owned());
        }
    }
}

type Log = Rc<RefCell<History>>;

/// What a client does.
#[derive(Clone, Copy, Debug)]
enum Plan {
    Part(u8),
    Complete {
        if_absent: bool,
    },
    Abort,
    Put,
    Get,
    Settle,
    Sweep,
    /// What nodes do about what stays unsettled.
    Forward,
}

/// The model's own clock, which orders what clients see.
fn time(of: &Coordinator) -> u64 {
    of.shared.borrow().now
}

fn violate(of: &Coordinator, what: String) {
    of.shared.borrow_mut().violate(what);
}

async fn client(of: Coordinator, log: Log, plans: Vec<Plan>) {
    for plan in plans {
        of.pause().await;
        let operation = of.operation();
        of.say(|| format!("{plan:?} as {operation:?}"));
        let start = time(&of);
        let begun = Span { start, end: None };
        match plan {
            Plan::Part(number) => {
                log.borrow_mut().parts.insert(operation, (number, begun));
                let told = of.put_part(number, operation).await;
                let is_ended = log.borrow().aborting || !log.borrow().completions.is_empty();
                log.borrow().judge_gone(&of, &told, is_ended);
                if told.is_ok() {
                    of.say(|| format!("part {operation:?} is acknowledged"));
                    let span = Span { start, end: Some(time(&of)) };
                    log.borrow_mut().parts.insert(operation, (number, span));
                }
            }
            Plan::Complete { if_absent } => {
                log.borrow_mut().objects.insert(operation, begun);
                log.borrow_mut().completions.insert(operation, None);
                let told = of.complete(operation, if_absent).await;
                of.say(|| format!("complete {operation:?}: {told:?}"));
                // A completion is answered as another was.
                log.borrow().judge_gone(&of, &told, log.borrow().aborting);
                // An empty answer repeats that of another.
                if let Some(parts) = told.ok().filter(|parts| !parts.is_empty()) {
                    let span = Span { start, end: Some(time(&of)) };
                    log.borrow_mut().objects.insert(operation, span);
                    log.borrow_mut().completions.insert(operation, Some(parts));
                }
            }
            Plan::Abort => abort(&of, &log).await,
            Plan::Put => {
                log.borrow_mut().objects.insert(operation, begun);
                if of.put(operation).await.is_ok() {
                    of.say(|| format!("object {operation:?} is acknowledged"));
                    let span = Span { start, end: Some(time(&of)) };
                    log.borrow_mut().objects.insert(operation, span);
                }
            }
            Plan::Get => {
                if let Ok(found) = of.read(OBJECT).await {
                    judge_read(&of, &log.borrow(), start, found.as_ref());
                }
            }
            Plan::Settle => {
                let phase = of.settled_upload().await;
                of.say(|| format!("settled: {phase:?}"));
            }
            Plan::Forward => {
                let forward = of.roll_forward(OBJECT).await;
                of.say(|| format!("rolled forward: {forward:?}"));
            }
            Plan::Sweep => {
                let swept = of.sweep().await;
                of.say(|| format!("swept: {swept:?}"));
            }
        }
    }
}

async fn abort(of: &Coordinator, log: &Log) {
    let others = std::mem::replace(&mut log.borrow_mut().aborting, true);
    let told = of.abort().await;
    of.say(|| format!("abort: {told:?}"));
    let is_ended = others || !log.borrow().completions.is_empty();
    log.borrow().judge_gone(of, &told, is_ended);
    if told.is_ok() {
        log.borrow_mut().aborted = true;
        of.free_all().await;
    }
}

/// What a read that began at `start` may show.
fn judge_read(of: &Coordinator, log: &History, start: u64, found: Option<&Candidate>) {
    let shown = found.filter(|found| is_put(found)).map(|found| found.entry.operation);
    of.say(|| format!("read {shown:?}"));
    let before = |span: &&Span| span.end.is_some_and(|end| end < start);
    let newest = log.objects.values().filter(before).map(|span| span.start).max();
    let Some(shown) = shown else {
        if newest.is_some() {
            violate(of, "an acknowledged object is not read".to_owned());
        }
        return;
    };
    let ended = log.objects.get(&shown).and_then(|span| span.end);
    if ended.is_some_and(|ended| newest.is_some_and(|newest| newest > ended)) {
        violate(of, format!("{shown:?} is read, something newer was acknowledged"));
    }
    if log.aborted && log.completions.contains_key(&shown) {
        violate(of, format!("{shown:?} is read, its upload was aborted"));
    }
}

/// One run; how many events it had.
pub fn run(sim: &mut Sim, mut rng: Rng) -> u32 {
    sim.spawn(false, |of| async move {
        if let Err(error) = of.begin().await {
            violate(&of, format!("cannot begin an upload: {error:?}"));
        }
    });
    sim.quietly();
    let log = Log::default();
    for plans in draw(&mut rng) {
        let log = log.clone();
        sim.spawn(true, |of| client(of, log, plans));
    }
    let events = sim.walk(2_500);
    if sim.shared.borrow().violation.is_some() {
        return events;
    }
    sim.calm();
    sim.shared.borrow_mut().now += 2 * SETTLE_AFTER_MICROS;
    sim.spawn(false, |of| async move { check(&of, &log).await });
    sim.quietly();
    events
}

fn draw(rng: &mut Rng) -> Vec<Vec<Plan>> {
    let made = vec![Plan::Part(1), Plan::Complete { if_absent: false }];
    if rng.chance(20) {
        // Nothing but what is late disturbs a roll-back.
        let after = vec![Plan::Settle, Plan::Abort, Plan::Get, Plan::Get];
        return vec![made, after, vec![Plan::Forward]];
    }
    if rng.chance(20) {
        // Nothing but a PUT disturbs the sweeps.
        return vec![made, vec![Plan::Put], vec![Plan::Sweep; 3], vec![Plan::Get]];
    }
    let mut plans = vec![vec![Plan::Part(1); 1 + rng.below(2) as usize]];
    for _ in 0..rng.below(3) {
        plans.push(vec![Plan::Part(1 + rng.below(2) as u8); 1 + rng.below(2) as usize]);
    }
    for _ in 0..1 + rng.below(2) {
        let if_absent = rng.chance(30);
        plans.push(vec![Plan::Complete { if_absent }; 1 + rng.below(2) as usize]);
    }
    if rng.chance(50) {
        plans.push(vec![Plan::Abort]);
    }
    if rng.chance(40) {
        plans.push(vec![Plan::Put]);
    }
    plans.push(vec![Plan::Settle, Plan::Settle]);
    plans.push(vec![Plan::Sweep; 1 + rng.below(3) as usize]);
    plans.push(vec![Plan::Get; 1 + rng.below(3) as usize]);
    plans
}

/// The end: the upload is settled and swept, the object read.
async fn check(of: &Coordinator, log: &Log) {
    let settled = of.settled_upload().await;
    if let Err(error) = settled {
        return violate(of, format!("the upload is not settled in quiet: {error:?}"));
    }
    of.say(|| format!("settled in quiet: {settled:?}"));
    if settled == Ok(None) && !log.borrow().aborting {
        return violate(of, "the upload is lost, and nobody has aborted it".to_owned());
    }
    for _ in 0..2 {
        let swept = of.sweep().await;
        of.say(|| format!("swept: {swept:?}"));
    }
    let start = time(of);
    let found = match of.read(OBJECT).await {
        Ok(found) => found,
        Err(error) => return violate(of, format!("the object is not read in quiet: {error:?}")),
    };
    judge_read(of, &log.borrow(), start, found.as_ref());
    for part in found.iter().flat_map(|found| &found.entry.parts) {
        let have = of.shared.borrow().holders(part.operation);
        if have < part.geometry.data_shards {
            return violate(of, format!("{part:?} has {have} shards left"));
        }
    }
    let log = log.borrow();
    if log.aborted && log.completions.values().any(Option::is_some) {
        violate(of, "a completion and the abort were both acknowledged".to_owned());
    }
    for made in log.completions.values().flatten() {
        if let Some(lost) = missing(&log, made) {
            violate(of, format!("part {lost:?} was acknowledged, and is not in {made:?}"));
        }
    }
}

/// A part that was acknowledged, though the object has none of its number or one that is older.
fn missing(log: &History, made: &[PartRef]) -> Option<OperationId> {
    let mut acknowledged = log.parts.iter().filter(|(_, (_, span))| span.end.is_some());
    let lost = acknowledged.find(|(operation, (number, span))| {
        let listed = made.iter().find(|part| part.number == u16::from(*number));
        let Some(listed) = listed else { return true };
        let ended = log.parts.get(&listed.operation).and_then(|(_, other)| other.end);
        listed.operation != **operation && ended.is_some_and(|ended| ended < span.start)
    });
    lost.map(|(operation, _)| *operation)
}
