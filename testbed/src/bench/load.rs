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
    mix::Mix,
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
    /// PUT, GET and HEAD at random, in the shares of --mix.
    Mixed,
}

impl Operation {
    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::Stat => "stat",
            Self::List => "list",
            Self::Delete => "delete",
            Self::Mixed => "mixed",
        }
    }
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
    /// Requests a second, each with a time at which it is due whether others are done or not (an open
    /// loop); as fast as the workers can when `None`.
    pub rate: Option<u32>,
    /// Of a mixed run.
    pub mix: Mix,
}

impl Load {
    /// What request `number` does.
    fn operation_of(&self, number: u64) -> Operation {
        match self.operation {
            Operation::Mixed => self.mix.of(number),
            one => one,
        }
    }

    /// When request `number` is due, from the beginning of the run.
    fn due(&self, number: u64) -> Option<Duration> {
        self.rate.map(|rate| Duration::from_secs_f64(number as f64 / f64::from(rate)))
    }
}

/// What was seen.
pub struct Seen {
    /// Microseconds of each request that succeeded, from when it was due in an open loop.
    pub latency: Histogram<u64>,
    /// The same from when it was sent.
    pub service: Histogram<u64>,
    /// The operations of a mixed run, each by itself.
    pub kinds: Vec<(Operation, Self)>,
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
        let (service, kinds, samples) = (latency.clone(), Vec::new(), Vec::new());
        Self { latency, service, kinds, operations, objects, bytes, errors, corrupt, samples }
    }
}

impl Seen {
    /// Errors kept for the report.
    const SAMPLES: usize = 5;

    /// The longest latency told apart: no request outlives the client's patience of a minute.
    const MICROS_MAX: u64 = 3_600_000_000;

    /// A request that was due `late` before it was sent and then `took` so long.
    fn record(&mut self, late: Duration, took: Duration, done: Done) {
        let micros = |time: Duration| time.as_micros().try_into().unwrap_or(u64::MAX);
        self.latency.saturating_record(micros(late + took));
        self.service.saturating_record(micros(took));
        self.operations += 1;
        self.objects += done.objects;
        self.bytes += done.bytes;
    }

    /// What was seen of one kind of a mixed run.
    fn kind(&mut self, operation: Operation) -> &mut Self {
        let place = self.kinds.iter().position(|(kind, _)| *kind == operation);
        let place = place.unwrap_or_else(|| {
            self.kinds.push((operation, Self::default()));
            self.kinds.len() - 1
        });
        &mut self.kinds[place].1
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
        self.service.add(&other.service).expect("both histograms have one range");
        for (operation, seen) in &other.kinds {
            self.kind(*operation).merge(seen);
        }
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
    let begin = Instant::now();
    let deadline = load.duration.map(|duration| begin + duration);
    let mut workers = tokio::task::JoinSet::new();
    for client in clients(targets, load.concurrency) {
        let worker = Worker {
            load: load.clone(),
            client,
            progress: Arc::clone(progress),
            begin,
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
#[derive(Clone, Copy)]
struct Done {
    objects: u64,
    bytes: u64,
}

struct Worker {
    load: Load,
    client: Client,
    progress: Arc<Progress>,
    begin: Instant,
    deadline: Option<Instant>,
    seen: Seen,
}

impl Worker {
    async fn run(mut self) -> Seen {
        let mut listing = Listing::default();
        while self.deadline.is_none_or(|deadline| Instant::now() < deadline) {
            let number = self.progress.begun.fetch_add(1, Ordering::Relaxed);
            let due = self.load.due(number).map(|after| self.begin + after);
            if due.is_some_and(|due| self.deadline.is_some_and(|deadline| due >= deadline)) {
                break;
            }
            if let Some(due) = due {
                tokio::time::sleep_until(due.into()).await;
            }
            let sent = Instant::now();
            let operation = self.load.operation_of(number);
            let done = match operation {
                Operation::List => Some(self.list(&mut listing).await),
                Operation::Delete => self.delete(number).await,
                _ => self.one(number, operation).await,
            };
            let late = due.map_or(Duration::ZERO, |due| sent.saturating_duration_since(due));
            match done {
                None => break,
                Some(done) => self.take(operation, late, sent.elapsed(), done).await,
            }
            if listing.finished && self.deadline.is_none() {
                break;
            }
        }
        self.seen
    }

    /// Keeps what became of a request.
    async fn take(
        &mut self,
        operation: Operation,
        late: Duration,
        took: Duration,
        done: Result<Done, OpError>,
    ) {
        let mixed = self.load.operation == Operation::Mixed;
        match done {
            Ok(done) => {
                self.seen.record(late, took, done);
                if mixed {
                    self.seen.kind(operation).record(late, took, done);
                }
                self.progress.done.fetch_add(done.objects, Ordering::Relaxed);
            }
            Err(error) => {
                self.seen.record_error(&error);
                if mixed {
                    self.seen.kind(operation).record_error(&error);
                }
                // A dead or overloaded server is not helped by a busy loop.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }

    /// PUT, GET or HEAD number `number`: each object once, or, for a duration, PUTs in turn and the
    /// others at random.
    async fn one(&mut self, number: u64, operation: Operation) -> Option<Result<Done, OpError>> {
        let Objects { count, size, content, .. } = &self.load.objects;
        let (count, size) = (*count, *size);
        let i = match (self.deadline, self.load.operation) {
            (None, _) if number >= count => return None,
            (None, _) => number,
            // Only a run of nothing but PUTs goes over all objects in turn.
            (Some(_), Operation::Put) => number % count,
            (Some(_), _) => scatter(number) % count,
        };
        let key = self.load.objects.key(i);
        let done = match operation {
            Operation::Put => self.client.put(&key, content.of(&key, size)).await,
            Operation::Get => self.client.get(&key, content.of(&key, size)).await,
            _ => self.client.head(&key, size).await,
        };
        let moves = operation != Operation::Stat;
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
pub const fn scatter(number: u64) -> u64 {
    let z = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
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
            let half = Duration::from_micros(millis * 500);
            one.record(half, half, Done { objects: 1, bytes: 10 });
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
