//! The step that writes all entries.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    rc::Rc,
    sync::{Arc, Mutex},
    time::Instant,
};

use anyhow::{Result, bail};
use holdfast_drive::api::{Accept, DriveRequest, DriveResult, Settle, ShardSource};
use holdfast_register::HolderMask;
use holdfast_types::{HybridTime, OperationId, ShardIndex, VersionId};
use indicatif::{ProgressBar, ProgressStyle};

use super::{
    Args, entries,
    meter::{disk_bytes, memory_mib, process_cpu_nanos, thread_cpu_nanos},
    report::{Bytes, Grown, JobCost},
    subject::Subject,
};

/// Objects of one log batch: what a busy drive groups.
const GROUP: u64 = 1_024;

/// Drives of the set: with all of these a settled entry is everywhere.
pub const SET_SIZE: u8 = 2;

/// One in this many recorded repairs is left.
pub const REPAIRS_LEFT: u64 = 100;

type Slot = Arc<Mutex<Option<DriveResult>>>;
type JobCosts = Rc<RefCell<BTreeMap<&'static str, JobCost>>>;

/// An Accept of the entry.
pub fn accept(n: u64, entry: holdfast_types::Entry) -> DriveRequest {
    DriveRequest::Accept(Accept {
        scope: entries::scope(),
        key: entries::key(n),
        version: VersionId::NULL,
        entry,
        shard: ShardIndex(0),
        source: ShardSource::NoData,
        guard: None,
    })
}

/// A Settle that names `holders` drives.
pub fn settle(n: u64, operation: OperationId, holders: u8) -> DriveRequest {
    DriveRequest::Settle(Settle {
        scope: entries::scope(),
        key: entries::key(n),
        version: VersionId::NULL,
        operation,
        holders: HolderMask::full(holders),
        set_size: SET_SIZE,
    })
}

/// Fails when one of these was not carried out.
pub fn check(slots: Vec<Slot>) -> Result<()> {
    for slot in slots {
        match slot.lock().expect("nobody panics with it").take() {
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(error.into()),
            None => bail!("a write was not answered"),
        }
    }
    Ok(())
}

/// Formats the folder and writes the entries.
pub fn run(args: &Args) -> Result<Grown> {
    Subject::format(&args.dir, args.index)?;
    let mut subject = Subject::open(&args.dir, args.index)?;
    // The index is opened, and made, before anything is written.
    subject.settle();
    let jobs = watch(&mut subject);
    let mut grown = insert(args, &mut subject)?;
    subject.checkpoint();
    grown.jobs = jobs.borrow().iter().map(|(name, cost)| ((*name).to_owned(), *cost)).collect();
    (grown.resident_mib, grown.peak_mib) = memory_mib();
    queue(args, &mut subject, grown.entries)?;
    subject.checkpoint();
    grown.registers = subject.facts().registers;
    grown.repairs = subject.facts().repairs;
    grown.syncs = subject.facts().syncs;
    drop(subject);
    let of = |folder: &str| disk_bytes(&args.dir.join(folder));
    grown.bytes = Bytes { runs: of("runs"), index: of("index"), log: of("log") };
    Ok(grown)
}

/// Counts what background jobs cost.
fn watch(subject: &mut Subject) -> JobCosts {
    let costs = JobCosts::default();
    let kept = Rc::clone(&costs);
    subject.watch_jobs(move |name, job| {
        let (cpu, began) = (process_cpu_nanos(), Instant::now());
        job();
        let took = began.elapsed().as_secs_f64();
        let mut costs = kept.borrow_mut();
        let cost = costs.entry(name).or_default();
        cost.count += 1;
        cost.seconds += took;
        cost.longest_seconds = cost.longest_seconds.max(took);
        cost.cpu_seconds += (process_cpu_nanos() - cpu) as f64 / 1e9;
    });
    costs
}

/// Writes entries in scattered order until all are there or the time is over.
fn insert(args: &Args, subject: &mut Subject) -> Result<Grown> {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {per_sec} {eta}");
    let bar = ProgressBar::new(args.entries).with_style(style.expect("well formed"));
    let (began, cpu_began) = (Instant::now(), process_cpu_nanos());
    let (mut done, mut decide, mut log) = (0, 0, 0);
    loop {
        let group = done..(done + GROUP).min(args.entries);
        done = group.end;
        let before = thread_cpu_nanos();
        let slots = group.map(|n| put(subject, n, SET_SIZE)).collect();
        let between = thread_cpu_nanos();
        subject.flush();
        check(slots)?;
        decide += between - before;
        log += thread_cpu_nanos() - between;
        subject.tick();
        bar.set_position(done);
        if done == args.entries || began.elapsed() >= args.time {
            break;
        }
    }
    bar.finish_and_clear();
    let per = |nanos: u64| nanos as f64 / 1e3 / done as f64;
    Ok(Grown {
        asked: args.entries,
        entries: done,
        seconds: began.elapsed().as_secs_f64(),
        cpu_us: per(process_cpu_nanos() - cpu_began),
        decide_cpu_us: per(decide),
        log_cpu_us: per(log),
        ..Grown::default()
    })
}

/// Writes one object: its entry is accepted, then settled by so many holders.
fn put(subject: &mut Subject, n: u64, holders: u8) -> Slot {
    let time = HybridTime::from_micros(subject.wall_micros());
    let (slot, _) = subject.ask(accept(n, entries::entry(n, time)));
    subject.ask(settle(n, entries::operation(n), holders));
    slot
}

/// A queue of repairs comes and is worked off: a drive of the set is away while these objects are written,
/// and is filled then. What is left lies between what is done.
fn queue(args: &Args, subject: &mut Subject, entries: u64) -> Result<()> {
    let mut slots = Vec::new();
    let all = entries..entries + args.repairs.min(entries / 20);
    for n in all.clone() {
        slots.push(put(subject, n, SET_SIZE - 1));
        if slots.len() as u64 == GROUP || n + 1 == all.end {
            subject.flush();
            check(std::mem::take(&mut slots))?;
            subject.tick();
        }
    }
    subject.checkpoint();
    for n in all.filter(|n| !n.is_multiple_of(REPAIRS_LEFT)) {
        subject.ask(settle(n, entries::operation(n), SET_SIZE));
        if n.is_multiple_of(GROUP) {
            subject.flush();
            subject.tick();
        }
    }
    Ok(())
}
