//! After the last fault: everything must come to full width, every node must tell the same, and every
//! history must be explained.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use http::StatusCode;
use serde_json::Value as Json;

use super::{
    book::{KeyLog, key_name},
    checker::{
        Verdict, check,
        key::{Key, anonymous},
    },
    client::{Outcome, Shared, Worker},
};

/// Everything is at full width this long after the last fault, or something is never repaired.
const FULL_WIDTH_WITHIN: Duration = Duration::from_secs(180);

/// Readers at the end.
const READERS: usize = 8;

/// Partial orders looked at for one key.
const NODES_MAX: usize = 4_000_000;

/// Waits for full width; how long it took.
pub async fn full_width(shared: &Arc<Shared>) -> Duration {
    let begin = Instant::now();
    let mut short: Vec<(usize, usize)> = shared.book.keys();
    let mut why = String::new();
    let mut worker = Worker::admin(shared.clone());
    while !short.is_empty() && begin.elapsed() < FULL_WIDTH_WITHIN {
        let mut left = Vec::new();
        for (group, key) in short {
            if let Some(cause) = lacks(&mut worker, &shared.targets[0].bucket, group, key).await {
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

/// What a key lacks at full width, as `adminctl object locate` tells; `None` when it has everything, or
/// is not there.
async fn lacks(worker: &mut Worker, bucket: &str, group: usize, key: usize) -> Option<String> {
    let name = key_name(group, key);
    let query = [("bucket", bucket), ("key", &*name)];
    let asked = worker.look("v1/object", &query).await;
    let Outcome::Answered { answer, .. } = asked else {
        return Some(format!("{name}: cannot be located"));
    };
    if answer.status == StatusCode::NOT_FOUND {
        return None;
    }
    let view: Json = serde_json::from_slice(&answer.body).unwrap_or_default();
    let shards = view["shards"].as_array().cloned().unwrap_or_default();
    let missing: Vec<String> = shards
        .iter()
        .filter(|shard| shard["state"] != "present")
        .map(|shard| format!("shard {} on {}: {}", shard["shard"], shard["path"], shard["state"]))
        .collect();
    match (shards.is_empty(), missing.is_empty()) {
        (false, true) => None,
        (true, _) => Some(format!("{name}: {} {}", answer.status, answer.message)),
        (false, false) => Some(format!("{name}: {}", missing.join(", "))),
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
