//! The step that opens the drive again and asks it for what it holds.

use std::time::Instant;

use anyhow::{Result, bail};
use holdfast_drive::api::{
    Accept, ChoreKind, DriveError, DriveReply, DriveRequest, ListChores, Read, Scan,
};
use holdfast_types::{HybridTime, Keyspace, RegisterKey, seam::Random, seam::SeededRandom};

use super::{
    Args, entries,
    grow::{SET_SIZE, accept, check, settle},
    meter::{Timed, Timer, forget_cached, memory_mib, process_cpu_nanos},
    report::Restarted,
    subject::Subject,
};

/// Cold look-ups: each brings a block in, so that many of them warm the drive up.
const COLD_LOOKUPS: u64 = 1_000;

/// Names of a page of a list.
const PAGE: u32 = 1_000;

/// Pages listed.
const PAGES: u64 = 500;

/// Opens the drive with a cold cache and asks.
pub fn run(args: &Args) -> Result<Restarted> {
    forget_cached(&args.dir);
    let (began, cpu) = (Instant::now(), process_cpu_nanos());
    let mut subject = Subject::open(&args.dir, args.index)?;
    let mut found = Restarted {
        open_seconds: began.elapsed().as_secs_f64(),
        open_cpu_seconds: (process_cpu_nanos() - cpu) as f64 / 1e9,
        ..Restarted::default()
    };
    (found.opened_mib, _) = memory_mib();
    let (began, cpu) = (Instant::now(), process_cpu_nanos());
    subject.settle();
    found.index_seconds = began.elapsed().as_secs_f64();
    found.index_cpu_seconds = (process_cpu_nanos() - cpu) as f64 / 1e9;
    (found.index_mib, _) = memory_mib();
    let random = SeededRandom::new(args.entries);
    let any = || random.next_u64() % args.entries;
    found.cold = reads(&mut subject, COLD_LOOKUPS, || (entries::key(any()), true))?;
    found.hit = reads(&mut subject, args.lookups, || (entries::key(any()), true))?;
    found.miss = reads(&mut subject, args.lookups, || (entries::absent(any()), false))?;
    found.list = list(&mut subject)?;
    found.repairs = repairs(&mut subject)?;
    found.delete = delete(&mut subject, args.lookups.min(args.entries / 10), any)?;
    (found.resident_mib, found.peak_mib) = memory_mib();
    Ok(found)
}

/// Reads keys that are there, or are not.
fn reads(
    subject: &mut Subject,
    count: u64,
    mut next: impl FnMut() -> (RegisterKey, bool),
) -> Result<Timed> {
    let mut timer = Timer::start();
    for _ in 0..count {
        let (key, is_there) = next();
        let read = Read { scope: entries::scope(), key, version: None, inline: false };
        let (reply, waited) = timer.time(|| subject.answer(DriveRequest::Read(read)))?;
        let DriveReply::View { view, .. } = reply else { bail!("a read was answered otherwise") };
        if view.registers.is_empty() == is_there {
            bail!("a look-up was answered wrongly");
        }
        if waited {
            timer.waited();
        }
    }
    Ok(timer.end(1))
}

/// Lists names in order; CPU counts by name.
fn list(subject: &mut Subject) -> Result<Timed> {
    let (mut timer, mut names, mut start) = (Timer::start(), 0, bytes::Bytes::new());
    for _ in 0..PAGES {
        let scan = Scan {
            scope: entries::scope(),
            space: Keyspace::Object,
            start: start.clone(),
            end: None,
            limit: PAGE,
            metadata: true,
        };
        let (reply, _) = timer.time(|| subject.answer(DriveRequest::Scan(scan)))?;
        let DriveReply::Page(page) = reply else { bail!("a scan was answered otherwise") };
        let Some(last) = page.keys.last() else { break };
        start = [&last.name[..], b"\0"].concat().into();
        names += page.keys.len() as u64;
        if !page.more {
            break;
        }
    }
    let pages = timer.count();
    Ok(timer.end(names / pages.max(1)))
}

/// Lists the first repairs that are left, as a healer does.
fn repairs(subject: &mut Subject) -> Result<Timed> {
    let mut timer = Timer::start();
    for _ in 0..20 {
        let kind = ChoreKind::Repairs;
        let list = ListChores { kind, age_micros: 0, after: None, limit: 100 };
        timer.time(|| subject.answer(DriveRequest::ListChores(list)))?;
    }
    Ok(timer.end(1))
}

/// Deletes objects as a bulk delete does, a tombstone and its settling each.
fn delete(subject: &mut Subject, count: u64, mut any: impl FnMut() -> u64) -> Result<Timed> {
    let mut above = above(subject, any())?;
    let mut timer = Timer::start();
    let mut slots = Vec::new();
    for n in 0..count {
        let object = any();
        above = above.max(HybridTime::from_micros(subject.wall_micros())).tick();
        let tombstone = entries::tombstone(object, above);
        let operation = tombstone.operation;
        slots.push(timer.time(|| {
            let (slot, _) = subject.ask(accept(object, tombstone));
            subject.ask(settle(object, operation, SET_SIZE));
            slot
        }));
        if n.is_multiple_of(256) {
            subject.flush();
            check(std::mem::take(&mut slots))?;
        }
    }
    subject.flush();
    check(slots)?;
    Ok(timer.end(1))
}

/// A time above what the drive promised before it was restarted.
fn above(subject: &mut Subject, object: u64) -> Result<HybridTime> {
    let now = HybridTime::from_micros(subject.wall_micros());
    let asked = accept(object, entries::tombstone(object, now));
    debug_assert!(matches!(&asked, DriveRequest::Accept(Accept { .. })));
    let (slot, _) = subject.ask(asked);
    subject.flush();
    let answer = slot.lock().expect("nobody panics with it").take();
    match answer {
        Some(Ok(_)) => Ok(now),
        Some(Err(DriveError::Refused { refusal, .. })) => match refusal.winner() {
            Some(winner) => Ok(winner.time),
            None => bail!("a delete was refused: {refusal}"),
        },
        Some(Err(error)) => Err(error.into()),
        None => bail!("a delete was not answered"),
    }
}
