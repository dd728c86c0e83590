//! Workers that put the load on, and what they see.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;

use super::{
    client::{Client, OpError, Target, clients},
    content::Content,
};

/// The kinds of load.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// Write objects.
    Put,
    /// Read objects and verify every byte.
    Get,
    /// HEAD objects.
    Stat,
    /// List all objects, page by page; verify that each is there, once and in order.
    List,
    /// Delete objects.
    Delete,
}

/// The objects that a load is about.
#[derive(Clone)]
pub struct Objects {
    /// What all keys begin with.
    pub prefix: String,
    /// How many there are.
    pub count: u64,
    /// Bytes of each.
    pub size: u64,
    /// What they hold.
    pub content: Arc<Content>,
}

impl Objects {
    /// The key of object `i`: keys are in order of their numbers.
    pub fn key(&self, i: u64) -> String {
        format!("{}{i:010}", self.prefix)
    }

    /// The number of the object with this key.
    pub fn number(&self, key: &str) -> Option<u64> {
        let digits = key.strip_prefix(&self.prefix)?;
        let number = digits.parse().ok()?;
        (self.key(number) == key).then_some(number)
    }
}

/// A load.
#[derive(Clone)]
pub struct Load {
    /// What is done.
    pub operation: Operation,
    /// To what.
    pub objects: Objects,
    /// How many at a time.
    pub concurrency: usize,
    /// How long; once over all objects when `None`.
    pub duration: Option<Duration>,
    /// Keys of one delete request; 1: DeleteObject.
    pub batch: u64,
}

/// What was seen.
pub struct Seen {
    /// Microseconds of each request that succeeded.
    pub latency: Histogram<u64>,
    /// Requests that succeeded.
    pub operations: u64,
    /// Objects they were about: keys listed or deleted.
    pub objects: u64,
    /// Body bytes.
    pub bytes: u64,
    /// Requests that failed.
    pub errors: u64,
    /// Of these, answers that were wrong.
    pub corrupt: u64,
    /// Some of the errors.
    pub samples: Vec<String>,
}

impl Default for Seen {
    fn default() -> Self {
        // Three digits are enough to tell 1.00 ms from 1.01 ms. The bounds are fixed: a histogram that
        // grows as needed does not grow on `saturating_record`.
        let latency = Histogram::new_with_bounds(1, Self::MICROS_MAX, 3)
            .expect("1 to an hour in 3 significant digits is allowed");
        let (operations, objects, bytes, errors, corrupt) = (0, 0, 0, 0, 0);
        Self { latency, operations, objects, bytes, errors, corrupt, samples: Vec::new() }
    }
}

impl Seen {
    /// Errors kept for the report.
    const SAMPLES: usize = 5;

    /// The longest latency told apart: no request outlives the client's patience of a minute.
    const MICROS_MAX: u64 = 3_600_000_000;

    fn record(&mut self, took: Duration, objects: u64, bytes: u64) {
        self.latency.saturating_record(took.as_micros().try_into().unwrap_or(u64::MAX));
        self.operations += 1;
        self.objects += objects;
        self.bytes += bytes;
    }

    fn record_error(&mut self, error: &OpError) {
        self.errors += 1;
        self.corrupt += u64::from(matches!(error, OpError::Corrupt(_)));
        if self.samples.len() < Self::SAMPLES {
            self.samples.push(error.to_string());
        }
    }

    fn merge(&mut self, other: &Self) {
        self.latency.add(&other.latency).expect("both histograms have one range");
        self.operations += other.operations;
        self.objects += other.objects;
        self.bytes += other.bytes;
        self.errors += other.errors;
        self.corrupt += other.corrupt;
        let room = Self::SAMPLES - self.samples.len();
        self.samples.extend(other.samples.iter().take(room).cloned());
    }
}

/// How far a load is, for a progress bar.
#[derive(Default)]
pub struct Progress {
    /// Requests begun; also what hands out the objects.
    begun: AtomicU64,
    /// Objects done.
    pub done: AtomicU64,
}

/// Runs a load to its end.
pub async fn run(load: &Load, targets: &[Target], progress: &Arc<Progress>) -> Seen {
    let deadline = load.duration.map(|duration| Instant::now() + duration);
    let mut workers = tokio::task::JoinSet::new();
    for client in clients(targets, load.concurrency) {
        let worker = Worker {
            load: load.clone(),
            client,
            progress: Arc::clone(progress),
            deadline,
            seen: Seen::default(),
        };
        workers.spawn(worker.run());
    }
    let mut seen = Seen::default();
    while let Some(done) = workers.join_next().await {
        seen.merge(&done.expect("workers do not panic"));
    }
    seen
}

/// What one request was about.
struct Done {
    objects: u64,
    bytes: u64,
}

struct Worker {
    load: Load,
    client: Client,
    progress: Arc<Progress>,
    deadline: Option<Instant>,
    seen: Seen,
}

impl Worker {
    async fn run(mut self) -> Seen {
        let mut listing = Listing::default();
        while self.deadline.is_none_or(|deadline| Instant::now() < deadline) {
            let number = self.progress.begun.fetch_add(1, Ordering::Relaxed);
            let begin = Instant::now();
            let done = match self.load.operation {
                Operation::List => Some(self.list(&mut listing).await),
                Operation::Delete => self.delete(number).await,
                _ => self.one(number).await,
            };
            match done {
                None => break,
                Some(Ok(done)) => {
                    self.seen.record(begin.elapsed(), done.objects, done.bytes);
                    self.progress.done.fetch_add(done.objects, Ordering::Relaxed);
                }
                Some(Err(error)) => {
                    self.seen.record_error(&error);
                    // A dead or overloaded server is not helped by a busy loop.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
            if listing.finished && self.deadline.is_none() {
                break;
            }
        }
        self.seen
    }

    /// PUT, GET or HEAD number `number`: each object once, or, for a duration, PUTs in turn and the
    /// others at random.
    async fn one(&mut self, number: u64) -> Option<Result<Done, OpError>> {
        let Objects { count, size, content, .. } = &self.load.objects;
        let (count, size) = (*count, *size);
        let i = match (self.deadline, self.load.operation) {
            (None, _) if number >= count => return None,
            (None, _) => number,
            (Some(_), Operation::Put) => number % count,
            (Some(_), _) => scatter(number) % count,
        };
        let key = self.load.objects.key(i);
        let done = match self.load.operation {
            Operation::Put => self.client.put(&key, content.of(&key, size)).await,
            Operation::Get => self.client.get(&key, content.of(&key, size)).await,
            _ => self.client.head(&key, size).await,
        };
        let moves = self.load.operation != Operation::Stat;
        Some(done.map(|()| Done { objects: 1, bytes: if moves { size } else { 0 } }))
    }

    /// Deletes batch `number`; `None` when all objects are gone.
    async fn delete(&mut self, number: u64) -> Option<Result<Done, OpError>> {
        let Load { objects, batch, .. } = &self.load;
        let first = number.saturating_mul(*batch);
        let last = first.saturating_add(*batch).min(objects.count);
        if first >= last {
            return None;
        }
        let keys: Vec<String> = (first..last).map(|i| objects.key(i)).collect();
        let done = match &keys[..] {
            [key] => self.client.delete(key).await,
            _ => self.client.delete_many(&keys).await,
        };
        Some(done.map(|()| Done { objects: keys.len() as u64, bytes: 0 }))
    }

    /// One page of a listing.
    async fn list(&mut self, listing: &mut Listing) -> Result<Done, OpError> {
        let objects = &self.load.objects;
        listing.finished = false;
        let page = self.client.list(&objects.prefix, listing.token.as_deref()).await;
        let page = page.and_then(|page| listing.check(&page.keys, page.next, objects));
        if page.is_err() {
            // A listing that went wrong begins anew; without a duration it has had its one try.
            *listing = Listing { finished: true, ..Listing::default() };
        }
        page
    }
}

/// How far a worker's listing is.
#[derive(Default)]
struct Listing {
    token: Option<String>,
    next_number: u64,
    finished: bool,
}

impl Listing {
    /// Takes in a page: its keys must be the next objects, and at the end there must be as many as
    /// there are.
    fn check(
        &mut self,
        keys: &[String],
        token: Option<String>,
        objects: &Objects,
    ) -> Result<Done, OpError> {
        for key in keys {
            let expected = objects.key(self.next_number);
            if *key != expected {
                return Err(OpError::Corrupt(format!("listed {key}, expected {expected}")));
            }
            self.next_number += 1;
        }
        if token.is_some() && keys.is_empty() {
            return Err(OpError::Corrupt("a truncated page is empty".to_owned()));
        }
        if token.is_none() && self.next_number != objects.count {
            let (have, need) = (self.next_number, objects.count);
            return Err(OpError::Corrupt(format!("listed {have} objects of {need}")));
        }
        if token.is_none() {
            *self = Self { finished: true, ..Self::default() };
        }
        self.token = token;
        Ok(Done { objects: keys.len() as u64, bytes: 0 })
    }
}

/// A number that looks random (the finalizer of `SplitMix64`): the same for every run.
const fn scatter(number: u64) -> u64 {
    let z = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Makes the bucket and, for everything but PUT, the objects that are not there yet. Gives how many
/// objects there are under the prefix, and an error when that fails.
pub async fn prepare(load: &Load, targets: &[Target]) -> Result<u64, OpError> {
    let mut client = Client::new(targets[0].clone());
    client.create_bucket().await?;
    let objects = &load.objects;
    if load.operation == Operation::Put {
        return Ok(objects.count);
    }
    let mut there = std::collections::BTreeSet::new();
    let mut token = None;
    loop {
        let page = client.list(&objects.prefix, token.as_deref()).await?;
        there.extend(page.keys.iter().filter_map(|key| objects.number(key)));
        token = page.next;
        if token.is_none() {
            break;
        }
    }
    let last = there.last().map_or(0, |number| number + 1).max(objects.count);
    let missing: Vec<u64> = (0..last).filter(|number| !there.contains(number)).collect();
    fill(load, targets, missing).await?;
    Ok(last)
}

/// Writes the objects with these numbers.
async fn fill(load: &Load, targets: &[Target], missing: Vec<u64>) -> Result<(), OpError> {
    let missing = Arc::new(std::sync::Mutex::new(missing));
    let mut workers = tokio::task::JoinSet::new();
    for mut client in clients(targets, load.concurrency) {
        let (missing, objects) = (Arc::clone(&missing), load.objects.clone());
        workers.spawn(async move {
            while let Some(number) = take(&missing) {
                let key = objects.key(number);
                client.put(&key, objects.content.of(&key, objects.size)).await?;
            }
            Ok(())
        });
    }
    while let Some(done) = workers.join_next().await {
        done.expect("workers do not panic")?;
    }
    Ok(())
}

/// Takes one number off the list.
fn take(numbers: &std::sync::Mutex<Vec<u64>>) -> Option<u64> {
    numbers.lock().expect("no worker panics while it holds the lock").pop()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects(count: u64) -> Objects {
        Objects { prefix: "1/10B/".to_owned(), count, size: 10, content: Content::new(1) }
    }

    /// Goal: latencies of any length are kept, over several workers. A run against a real server showed
    /// none above 2 ms: the histogram did not grow. Method: microseconds to a minute, merged.
    #[test]
    fn latencies_are_kept() {
        let mut all = Seen::default();
        for millis in [1_u64, 20, 60_000] {
            let mut one = Seen::default();
            one.record(Duration::from_millis(millis), 1, 10);
            all.merge(&one);
        }
        let near = |quantile, millis: u64| {
            let micros = all.latency.value_at_quantile(quantile);
            micros.abs_diff(millis * 1_000) <= millis
        };
        assert!(near(0.3, 1) && near(0.5, 20) && near(1.0, 60_000), "{:?}", all.latency.max());
        assert_eq!((all.operations, all.objects, all.bytes), (3, 3, 30));
    }

    /// Goal: keys and numbers map to each other, foreign keys to none. Method: examples.
    #[test]
    fn keys_have_numbers() {
        let objects = objects(3);
        assert_eq!(objects.key(7), "1/10B/0000000007");
        assert_eq!(objects.number("1/10B/0000000007"), Some(7));
        for foreign in ["1/10B/7", "2/10B/0000000007", "1/10B/x", "1/10B/00000000007"] {
            assert_eq!(objects.number(foreign), None, "{foreign}");
        }
    }

    /// Goal: a listing that misses, repeats, swaps or invents a key is wrong. Method: pages of three
    /// objects, right and wrong.
    #[test]
    fn listings_are_verified() {
        let objects = objects(3);
        let page = |numbers: &[u64]| numbers.iter().map(|n| objects.key(*n)).collect::<Vec<_>>();
        let token = || Some("t".to_owned());
        let mut listing = Listing::default();
        assert!(listing.check(&page(&[0, 1]), token(), &objects).is_ok());
        assert!(!listing.finished && listing.token.is_some());
        assert!(listing.check(&page(&[2]), None, &objects).is_ok());
        assert!(listing.finished && listing.token.is_none());
        for wrong in [&[0, 1][..], &[0, 2, 1], &[0, 0, 1, 2], &[1, 2], &[0, 1, 2, 3]] {
            assert!(Listing::default().check(&page(wrong), None, &objects).is_err(), "{wrong:?}");
        }
        assert!(Listing::default().check(&[], token(), &objects).is_err());
    }
}
