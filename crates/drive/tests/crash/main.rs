//! The crash test (DRIVE.md; issue "Foundation I", section 3). Goal: after any crash every
//! acknowledged record is there, nothing unacknowledged is half visible, bytes are right or an error.
//!
//! Method: random sequences of requests and background work run against the drive on a simulated disk
//! and against a reference model of plain maps. Power goes, or a call fails, at a random call. The
//! log orders all records, so what is recovered must equal the model after some prefix of the
//! requests, and the prefix must contain every acknowledged one. Then counters, chores, references and
//! blocks are audited, and the sequence goes on.
//!
//! A failure prints its seed: `HOLDFAST_SEED=<seed> cargo test -p holdfast-drive --test crash` runs
//! that sequence alone. `HOLDFAST_SEQUENCES=<number>` sets how many are run; `HOLDFAST_BASE=<number>`
//! from which seed on; `HOLDFAST_TRACE=1` prints every request and what the model expects.
//! `HOLDFAST_EVERY=<number>` sets of how many sequences every crash point is tried.

mod model;
mod recovery;
mod requests;
mod world;

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::atomic::{AtomicU64, Ordering},
};

use holdfast_drive::disk_sim::Mishap;
use recovery::{MOVED, RECOUNTED, SCRUBS, SEGMENTS_GONE, VOLUMES_GONE};
use world::{Plan, World};

/// Sequences of the run in CI, over the first and the last test.
const SEQUENCES: u64 = 20_000;

/// Sequences of which CI tries every crash point: some fifty runs each.
const EVERY_SEQUENCES: u64 = 40;

/// More changing calls than any stretch has.
const CALLS_MAX: u64 = 100_000;

fn from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Runs seeds on as many threads as CI has cores.
fn run_all(share: u64, run: impl Fn(u64) + Sync) {
    run_each(from_env("HOLDFAST_SEQUENCES").unwrap_or(SEQUENCES) * share / 100, run);
}

/// `HOLDFAST_SEED` alone when it is given.
fn run_each(count: u64, run: impl Fn(u64) + Sync) {
    if let Some(seed) = from_env("HOLDFAST_SEED") {
        return run(seed);
    }
    let base = from_env("HOLDFAST_BASE").unwrap_or(1);
    let next = AtomicU64::new(base);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= base + count {
                return;
            }
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(seed))) {
                eprintln!("failed: replay with HOLDFAST_SEED={seed}");
                next.store(u64::MAX / 2, Ordering::Relaxed);
                resume_unwind(panic);
            }
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            if let Err(panic) = thread.join() {
                resume_unwind(panic);
            }
        }
    });
}

#[test]
fn acknowledged_records_survive_any_crash() {
    run_all(90, |seed| World::new(seed, Plan::Crashes).run());
    let counts = [&MOVED, &VOLUMES_GONE, &SEGMENTS_GONE, &SCRUBS];
    let counts = counts.map(|n| n.load(Ordering::Relaxed));
    println!("moved shards, volumes and segments given back, scrubs: {counts:?}");
    let many = from_env("HOLDFAST_SEED").is_none() && from_env("HOLDFAST_SEQUENCES").is_none();
    assert!(!many || counts.iter().all(|count| *count > 100), "sequences have to meet these");
}

/// Goal: there is no call at which power must not go, or that must not fail. Method: each changing call of a
/// sequence's first stretch in turn, the requests always the same up to there.
#[test]
fn every_crash_point_of_a_sequence() {
    let points = AtomicU64::new(0);
    let run = |seed: u64| {
        for mishap in [Mishap::PowerOff, Mishap::Fail] {
            let reached = |call: &u64| World::new(seed, Plan::Crashes).run_to(*call, mishap);
            let count = (0..CALLS_MAX).take_while(reached).count() as u64;
            points.fetch_add(count, Ordering::Relaxed);
        }
    };
    run_each(from_env("HOLDFAST_EVERY").unwrap_or(EVERY_SEQUENCES), run);
    let points = points.load(Ordering::Relaxed);
    println!("crash points: {points}");
    let fewest = if from_env("HOLDFAST_SEED").is_some() { 0 } else { EVERY_SEQUENCES };
    assert!(points > fewest, "a sequence has calls that can crash");
}

/// Rot: an open drive answers right bytes or an error; a drive whose memory is incomplete does not
/// open. It never shows an older state.
#[test]
fn rot_is_an_error_never_another_answer() {
    run_all(10, |seed| World::new(seed, Plan::Rot).run());
    let recounted = RECOUNTED.load(Ordering::Relaxed);
    println!("audits after rot in a run: {recounted}");
    let many = from_env("HOLDFAST_SEED").is_none() && from_env("HOLDFAST_SEQUENCES").is_none();
    assert!(!many || recounted > 100, "sequences have to meet rot in runs");
}
