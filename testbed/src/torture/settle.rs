//! After the last fault: a scrub of every drive, for what nobody reads rots unseen; then everything must come
//! to full width, every node must tell the same, and every history must be explained.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    book::{KeyLog, key_name},
    checker::{
        Verdict, check,
        key::{Key, anonymous},
    },
    client::{Shared, Worker},
};
use crate::admin::{Admin, Passes};

/// Everything is at full width this long after the last fault, or something is never repaired.
const FULL_WIDTH_WITHIN: Duration = Duration::from_secs(180);

/// Uploads can be completed this long after the last fault: those that a completion had frozen are settled after
/// 35 seconds, and a client waits 25.
const FINISHED_WITHIN: Duration = Duration::from_secs(150);

/// Scrubs at the end: the first finds what rotted, and what it found is restored before the second, which
/// finds nothing. One more is for a shard that rotted in the first one's wake.
const SCRUBS_MAX: u32 = 3;

/// Readers at the end.
const READERS: usize = 8;

/// Partial orders looked at for one key.
const NODES_MAX: usize = 4_000_000;

/// What the scrubs at the end came to.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct Scrubbed {
    /// Scrubs of all drives.
    pub scrubs: u32,
    /// Shards that the last one read.
    pub shards: u64,
    /// Their bytes, and those of runs.
    pub bytes: u64,
    /// Shards found rotten by all of them.
    pub found: u64,
    /// Seconds from the first one's order to full width after the last.
    pub seconds: f64,
}

/// Scrubs every drive and waits for full width, until a scrub finds nothing rotten: then every live byte of
/// every drive is what was written.
pub async fn scrub_to_full_width(shared: &Arc<Shared>) -> Scrubbed {
    let begin = Instant::now();
    let mut admin = Admin::new(&shared.targets);
    let mut scrubbed = Scrubbed::default();
    while scrubbed.scrubs < SCRUBS_MAX {
        let passes = match admin.scrub().await {
            Ok(passes) => passes,
            Err(why) => {
                shared.book.violation(why);
                Passes::default()
            }
        };
        scrubbed.scrubs += 1;
        (scrubbed.shards, scrubbed.bytes) = (passes.shards, passes.bytes);
        scrubbed.found += passes.found;
        full_width(shared).await;
        if passes.found == 0 {
            scrubbed.seconds = begin.elapsed().as_secs_f64();
            return scrubbed;
        }
    }
    shared.book.violation(format!("{SCRUBS_MAX} scrubs, and the last one found rot: {scrubbed:?}"));
    scrubbed
}

/// Waits for full width; how long it took.
pub async fn full_width(shared: &Arc<Shared>) -> Duration {
    let begin = Instant::now();
    let mut short: Vec<(usize, usize)> = shared.book.keys();
    let mut why = String::new();
    let mut admin = Admin::new(&shared.targets);
    while !short.is_empty() && begin.elapsed() < FULL_WIDTH_WITHIN {
        let mut left = Vec::new();
        for (group, key) in short {
            let name = key_name(group, key);
            if let Some(cause) = admin.lacks(&shared.targets[0].bucket, &name).await {
                why = cause;
                left.push((group, key));
            }
        }
        short = left;
        if !short.is_empty() {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
    if !short.is_empty() {
        let seconds = FULL_WIDTH_WITHIN.as_secs();
        let count = short.len();
        shared.book.violation(format!("{count} keys short after {seconds} s, the last: {why}"));
    }
    begin.elapsed()
}

/// Completes the uploads whose clients were told nothing definite: all can be completed, whatever happened since.
pub async fn finish_uploads(shared: &Arc<Shared>, seed: u64) {
    let end = Instant::now() + FINISHED_WITHIN;
    let finishers = (0..READERS).map(|number| {
        let worker = Worker::new(shared.clone(), seed, 5_000 + number as u64);
        tokio::spawn(worker.finish(end, true))
    });
    for finisher in finishers.collect::<Vec<_>>() {
        finisher.await.expect("finishers do not panic");
    }
    for story in shared.uploads.stories() {
        shared.book.violation(format!("cannot be completed: {story}"));
    }
}

/// Every key from every node, and every group's list.
pub async fn read_all(shared: &Arc<Shared>, seed: u64) {
    read(shared, seed, shared.book.keys()).await;
}

/// The same of the keys in use.
pub async fn read_recent(shared: &Arc<Shared>, seed: u64) {
    read(shared, seed, shared.book.recent_keys()).await;
}

async fn read(shared: &Arc<Shared>, seed: u64, keys: Vec<(usize, usize)>) {
    let groups: BTreeSet<usize> = keys.iter().map(|(group, _)| *group).collect();
    let (keys, next) = (Arc::new(keys), Arc::new(AtomicUsize::new(0)));
    let nodes = shared.targets.len();
    let readers = (0..READERS).map(|number| {
        let (keys, next) = (keys.clone(), next.clone());
        let mut worker = Worker::new(shared.clone(), seed, 3_000 + number as u64);
        tokio::spawn(async move {
            while let Some((group, key)) = keys.get(next.fetch_add(1, Ordering::Relaxed)).copied() {
                worker.get(group, key, Some((group + key) % nodes)).await;
                for node in 0..nodes {
                    worker.head(group, key, Some(node)).await;
                }
            }
        })
    });
    for reader in readers.collect::<Vec<_>>() {
        reader.await.expect("readers do not panic");
    }
    let mut worker = Worker::new(shared.clone(), seed, 4_000);
    for group in groups {
        worker.list(group).await;
    }
}

/// Checks every history; how many events there were.
pub fn check_all(shared: &Shared) -> usize {
    let (events, found) = shared.book.with_histories(|histories| {
        let all: Vec<_> = histories.iter().collect();
        let (next, found) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while let Some((place, log)) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let what = check_one(**place, log);
                        found.lock().expect("checks do not panic").extend(what);
                    }
                });
            }
        });
        let events = histories.values().map(|log| log.events.len()).sum();
        (events, found.into_inner().expect("checks do not panic"))
    });
    found.into_iter().for_each(|what| shared.book.violation(what));
    events
}

/// What is wrong with one key's history.
fn check_one((group, key): (usize, usize), log: &KeyLog) -> Option<String> {
    let name = key_name(group, key);
    match check::<Key>(None, &anonymous(&log.events), NODES_MAX) {
        Verdict::Explained => None,
        Verdict::TooHard => Some(format!("{name}: cannot be checked")),
        Verdict::Impossible(left) => {
            let mut around: Vec<_> = log.events.iter().collect();
            around.sort_by_key(|event| event.called);
            let first = left.first().map(|place| &log.events[*place]);
            let called = first.map_or(0, |event| event.called);
            let near = around.iter().position(|event| event.called >= called).unwrap_or(0);
            let near = &around[near.saturating_sub(12)..(near + 6).min(around.len())];
            let open: Vec<_> = log.events.iter().filter(|e| e.returned.is_none()).collect();
            Some(format!("{name}: {first:?} cannot be; near it: {near:?}; open: {open:?}"))
        }
    }
}
