//! Buckets that come and go under clients that use them, checked life by life.

use std::{
    sync::{Arc, Mutex},
    time::Instant,
};

use bytes::Bytes;
use http::{Method, StatusCode};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::{
    checker::{
        Event, Verdict,
        bucket::{Bucket, BucketOp},
        check,
    },
    client::{Outcome, Shared, Worker},
};
use crate::bench::client::Payload;

/// Clients of one bucket.
const USERS: u64 = 3;

/// Operations of each.
const OPS: usize = 14;

/// Keys they use.
const KEYS: u8 = 3;

/// Partial orders looked at for one life.
const NODES_MAX: usize = 2_000_000;

/// Lives until `end`, one after the other; how many there were.
pub async fn live(shared: Arc<Shared>, seed: u64, end: Instant) -> usize {
    let mut lives = 0;
    while Instant::now() < end {
        let name = format!("life-{seed}-{lives}");
        let history: Arc<Mutex<Vec<Event<BucketOp>>>> = Arc::default();
        let users = (0..USERS).map(|number| {
            let user = User::new(&shared, &name, seed ^ lives as u64, number, &history);
            tokio::spawn(user.work())
        });
        for user in users.collect::<Vec<_>>() {
            // A user that panics is a defect of this program, and shows as such.
            user.await.expect("users do not panic");
        }
        let events = std::mem::take(&mut *history.lock().expect("users do not panic"));
        match check::<Bucket>(None, &events, NODES_MAX) {
            Verdict::Explained => {}
            Verdict::TooHard => shared.book.violation(format!("bucket {name}: cannot be checked")),
            Verdict::Impossible(left) => {
                let first = left.first().map(|place| &events[*place]);
                shared
                    .book
                    .violation(format!("bucket {name}: {first:?} cannot be; all: {events:?}"));
            }
        }
        lives += 1;
    }
    lives
}

struct User {
    worker: Worker,
    random: ChaCha8Rng,
    history: Arc<Mutex<Vec<Event<BucketOp>>>>,
    shared: Arc<Shared>,
}

impl User {
    fn new(
        shared: &Arc<Shared>,
        bucket: &str,
        seed: u64,
        number: u64,
        history: &Arc<Mutex<Vec<Event<BucketOp>>>>,
    ) -> Self {
        let mut targets = shared.targets.clone();
        targets.iter_mut().for_each(|target| target.bucket = bucket.to_owned());
        let random = ChaCha8Rng::seed_from_u64(seed.wrapping_mul(31).wrapping_add(number));
        let worker = Worker::to(shared.clone(), targets, seed, 1_000 + number);
        Self { worker, random, history: history.clone(), shared: shared.clone() }
    }

    async fn work(mut self) {
        for _ in 0..OPS {
            let key = self.random.random_range(0..KEYS);
            let name = format!("k{key}");
            match self.random.random_range(0..12) {
                0..3 => self.one(Method::PUT, "", None, BucketOp::Create).await,
                3..5 => self.one(Method::DELETE, "", None, BucketOp::Delete).await,
                5..8 => {
                    let body = Bytes::from_static(b"alive");
                    self.one(Method::PUT, &name, Some(body), BucketOp::Put(key)).await;
                }
                8..10 => self.one(Method::DELETE, &name, None, BucketOp::Remove(key)).await,
                _ => self.one(Method::GET, &name, None, BucketOp::Seen(key, true)).await,
            }
        }
    }

    /// One request; `op` is what it is when it succeeds.
    async fn one(&mut self, method: Method, key: &str, body: Option<Bytes>, op: BucketOp) {
        let asked = self.worker.ask(None, method, key, &[], &[], Payload::Whole(body)).await;
        let event = match asked {
            Outcome::NotSent => return,
            Outcome::Unknown { .. } if matches!(op, BucketOp::Seen(..)) => return,
            Outcome::Unknown { called, .. } => Event { called, returned: None, op },
            Outcome::Answered { called, returned, answer } => {
                let op = match (answer.status, answer.code.as_str(), op) {
                    (status, _, op) if status.is_success() => op,
                    (_, "NoSuchBucket", _) => BucketOp::NoBucket,
                    (_, "NoSuchKey", BucketOp::Seen(key, _)) => BucketOp::Seen(key, false),
                    (_, "BucketNotEmpty", _) => BucketOp::NotEmpty,
                    // Somebody else changed the bucket meanwhile: nothing was done.
                    (StatusCode::CONFLICT, "OperationAborted", _) => return,
                    (status, code, op) => {
                        let what =
                            format!("bucket: {op:?} answered {status} {code}: {}", answer.message);
                        return self.shared.book.violation(what);
                    }
                };
                Event { called, returned: Some(returned), op }
            }
        };
        self.history.lock().expect("users do not panic").push(event);
    }
}
