//! A steady load beside a fault, and what its clients felt, from any moment to any other.
//!
//! An open loop: request i is due at i / rate whether others are done or not, and its latency counts from then, so
//! that a stall shows in all that waited for it. Nothing is retried: a refusal counts as failed.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use tokio::task::JoinHandle;

use super::home::Objects;
use crate::bench::client::{Client, OpError, Target};

/// Clients of each node, so requests that it may keep waiting at a time; more wait for one of them, which
/// counts.
const CLIENTS: usize = 32;

/// Keys that are written over and over.
const WRITTEN: u64 = 64;

/// Of a hundred requests, how many write.
const WRITES: u32 = 30;

/// Reasons of failures that a window tells, and characters of each.
const ERRORS: usize = 3;
/// See [`ERRORS`].
const ERROR_CHARS: usize = 160;

/// Bytes of what is written: a drive's shard rides in its log.
const WRITTEN_BYTES: u64 = 100_000;

/// What one request came to.
#[derive(Clone, Debug)]
struct Sample {
    due: Instant,
    took: Duration,
    write: bool,
    failed: Option<String>,
}

/// A load that runs.
pub struct Load {
    samples: Arc<Mutex<Vec<Sample>>>,
    wrong: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

/// What clients felt between two moments. Latencies are in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Felt {
    /// Requests due.
    pub requests: usize,
    /// Those that failed.
    pub failed: usize,
    /// Some of the reasons.
    pub errors: Vec<String>,
    /// Reads that succeeded.
    pub read: Latency,
    /// Writes that succeeded.
    pub write: Latency,
}

/// Latencies in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Latency {
    /// Half took no longer.
    pub p50: f64,
    /// 99 of a hundred took no longer.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

impl Load {
    /// Starts a load of `rate` requests a second on the nodes at `targets`; reads verify every byte of `objects`.
    pub fn start(targets: &[Target], objects: &Arc<Objects>, rate: u32, seed: u64) -> Self {
        let (samples, wrong): (Arc<Mutex<Vec<Sample>>>, Arc<Mutex<Vec<String>>>) =
            Default::default();
        let stop = Arc::new(AtomicBool::new(false));
        let pool = targets.iter().cycle().take(targets.len() * CLIENTS);
        let pool = pool.cloned().map(Client::new).collect::<Vec<_>>();
        let (back, clients) = async_pool(pool);
        let (kept, bad, stopped) = (samples.clone(), wrong.clone(), stop.clone());
        let objects = objects.clone();
        let task = tokio::spawn(async move {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            let mut running = tokio::task::JoinSet::new();
            let (begin, mut number) = (Instant::now(), 0_u32);
            while !stopped.load(Ordering::Relaxed) {
                let due = begin + Duration::from_secs_f64(f64::from(number) / f64::from(rate));
                number += 1;
                tokio::time::sleep_until(due.into()).await;
                let write = random.random_range(0..100) < WRITES;
                let pick = random.random_range(0..u64::MAX);
                let (back, clients, objects) = (back.clone(), clients.clone(), objects.clone());
                let (kept, bad) = (kept.clone(), bad.clone());
                running.spawn(async move {
                    let taken = clients.lock().await.recv().await;
                    let mut client = taken.expect("whoever takes one keeps the way back open");
                    let done = one(&mut client, &objects, write, pick).await;
                    let failed = done.as_ref().err().map(|error| {
                        let what = if write { "write" } else { "read" };
                        format!("{what}: {error}").chars().take(ERROR_CHARS).collect()
                    });
                    if let Err(error @ OpError::Corrupt(_)) = done {
                        bad.lock().expect("no panic").push(error.to_string());
                    }
                    let sample = Sample { due, took: due.elapsed(), write, failed };
                    kept.lock().expect("no panic").push(sample);
                    back.send(client).expect("the pool outlives its clients");
                });
                while running.try_join_next().is_some() {}
            }
            while running.join_next().await.is_some() {}
        });
        Self { samples, wrong, stop, task }
    }

    /// Ends it when what is under way has its answers; wrong bytes that were served, if any.
    pub async fn stop(self) -> Result<(Felts, Vec<String>)> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.context("the load")?;
        let samples = std::mem::take(&mut *self.samples.lock().expect("no panic"));
        let wrong = std::mem::take(&mut *self.wrong.lock().expect("no panic"));
        Ok((Felts(samples), wrong))
    }
}

/// All that was felt.
pub struct Felts(Vec<Sample>);

impl Felts {
    /// Of the requests that were due from `from` until `to`.
    pub fn between(&self, from: Instant, to: Instant) -> Felt {
        let due: Vec<&Sample> =
            self.0.iter().filter(|sample| (from..to).contains(&sample.due)).collect();
        let latency = |write: bool| {
            let fits = due.iter().filter(|sample| sample.write == write && sample.failed.is_none());
            Latency::of(fits.map(|sample| sample.took).collect())
        };
        Felt {
            requests: due.len(),
            failed: due.iter().filter(|sample| sample.failed.is_some()).count(),
            errors: due.iter().filter_map(|sample| sample.failed.clone()).take(ERRORS).collect(),
            read: latency(false),
            write: latency(true),
        }
    }
}

impl Latency {
    fn of(mut took: Vec<Duration>) -> Self {
        took.sort_unstable();
        // The smallest that the wanted share does not exceed.
        let at = |percent: usize| {
            let place = (took.len() * percent).div_ceil(100).saturating_sub(1);
            took.get(place).map_or(0.0, |took| took.as_secs_f64() * 1e3)
        };
        Self { p50: at(50), p99: at(99), max: at(100) }
    }
}

type Pool = (
    tokio::sync::mpsc::UnboundedSender<Client>,
    Arc<tokio::sync::Mutex<tokio::sync::mpsc::UnboundedReceiver<Client>>>,
);

/// Clients are taken in turn. As many as there are, so the channel is bounded by them.
fn async_pool(clients: Vec<Client>) -> Pool {
    let (back, taken) = tokio::sync::mpsc::unbounded_channel();
    for client in clients {
        back.send(client).expect("the other end is here");
    }
    (back, Arc::new(tokio::sync::Mutex::new(taken)))
}

async fn one(
    client: &mut Client,
    objects: &Objects,
    write: bool,
    pick: u64,
) -> Result<(), OpError> {
    if write {
        let key = format!("load/{}", pick % WRITTEN);
        return client.put(&key, objects.content.of(&key, WRITTEN_BYTES)).await;
    }
    let (key, size) = &objects.all[(pick % objects.all.len() as u64) as usize];
    client.get(key, objects.content.of(key, *size)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a window holds what was due in it, failures are counted and no latency of theirs. Method: samples
    /// around two moments.
    #[test]
    fn a_window_holds_what_was_due_in_it() {
        let begin = Instant::now();
        let at = |ms: u64| begin + Duration::from_millis(ms);
        let sample = |ms: u64, took: u64, write: bool, failed: bool| Sample {
            due: at(ms),
            took: Duration::from_millis(took),
            write,
            failed: failed.then(|| "refused".to_owned()),
        };
        let mut all: Vec<Sample> = (1..=100).map(|n| sample(n, n, false, false)).collect();
        all.extend([sample(50, 7, true, false), sample(51, 900, true, true)]);
        all.push(sample(200, 5_000, false, false));
        let felt = Felts(all).between(at(0), at(200));
        assert_eq!(
            (felt.requests, felt.failed, felt.errors.clone()),
            (102, 1, vec!["refused".to_owned()])
        );
        assert_eq!((felt.read.p50, felt.read.p99, felt.read.max), (50.0, 99.0, 100.0));
        assert_eq!((felt.write.p50, felt.write.max), (7.0, 7.0));
        assert_eq!(Latency::of(Vec::new()), Latency::default());
    }
}
