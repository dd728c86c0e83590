//! Hashes of many bodies at once, each in a lane of its own (`holdfast-md5`).
//!
//! ```text
//! body 1: bytes wait until there are enough --due--+
//! body 2: some wait ----------------rides along----+--> worker: lanes 1 to 16, a slice each turn
//! body 3: it ended --------------------------due---+         done: the hashes go home
//! ```
//! One body's hash is no faster in company, but sixteen cost little more than one. So bytes are let wait
//! while their body goes on, and whoever is due takes along all that waits. What an upload waits for at
//! its end is bounded by [`DUE_BYTES`].

use std::{
    collections::VecDeque,
    sync::{Arc, LazyLock},
    task::{Context, Poll, Waker},
};

use bytes::{Buf, Bytes};
use holdfast_engine::checksum::Digester;
use parking_lot::{Mutex, MutexGuard};

/// Lanes of a worker: as many as the widest registers have.
const LANES_MAX: usize = 16;

/// Bytes of each lane between two looks at who waits: about 20 us alone, 40 us with all lanes.
const SLICE_BYTES: usize = 16 << 10;

/// From so many waiting bytes on a body is due: 1.4 ms of hashing alone.
const DUE_BYTES: usize = 1 << 20;

/// What may wait for its hash; bounds the memory of one upload. `DUE_BYTES` and one batch more fit.
const BACKLOG_BYTES_MAX: usize = 4 << 20;

/// A body that ends with no more than this hashes it where it is: cheaper than waking a thread.
const LAST_BYTES: usize = 256 << 10;

/// One worker for so many processors: at 3 to 6 GB/s each they keep up with any network, and fewer
/// workers fill more lanes.
const PROCESSORS_A_WORKER: usize = 8;

const _: () = assert!(2 * DUE_BYTES <= BACKLOG_BYTES_MAX);

/// The hashing thread ended early.
#[derive(Debug)]
pub(crate) struct Lost;

/// A body's hashes and what they have not seen.
#[derive(Default)]
struct Inner {
    /// `None` while a worker has them.
    hashes: Option<Box<Digester>>,
    waiting: VecDeque<Bytes>,
    waiting_bytes: usize,
    /// Bytes that a worker has.
    away_bytes: usize,
    due: bool,
    listed: bool,
    lost: bool,
    waker: Option<Waker>,
}

impl Inner {
    /// Takes out what waits.
    fn take(&mut self) -> VecDeque<Bytes> {
        self.due = false;
        self.away_bytes = std::mem::take(&mut self.waiting_bytes);
        std::mem::take(&mut self.waiting)
    }
}

type Shared = Arc<Mutex<Inner>>;

/// One body in the pool.
pub(crate) struct PooledBody {
    inner: Shared,
    pool: &'static HashPool,
}

impl Drop for PooledBody {
    fn drop(&mut self) {
        // Nobody waits for the hash any more.
        drop(self.inner.lock().take());
    }
}

impl PooledBody {
    /// A body whose beginning was hashed already, in this process's pool.
    pub(crate) fn new(hashes: Box<Digester>) -> Self {
        Self::within(&POOL, hashes)
    }

    fn within(pool: &'static HashPool, hashes: Box<Digester>) -> Self {
        let inner = Inner { hashes: Some(hashes), ..Inner::default() };
        Self { inner: Arc::new(Mutex::new(inner)), pool }
    }

    /// Takes in bytes. They are shared, not copied.
    pub(crate) fn push(&self, bytes: &Bytes) {
        let mut inner = self.inner.lock();
        inner.waiting_bytes += bytes.len();
        inner.waiting.push_back(bytes.clone());
        inner.due |= inner.waiting_bytes >= DUE_BYTES;
        let (due, listed) = (inner.due, std::mem::replace(&mut inner.listed, true));
        drop(inner);
        if due || !listed {
            self.pool.note(&self.inner, !listed, due);
        }
    }

    /// Ready when more bytes may be pushed.
    pub(crate) fn poll_room(&self, context: &Context<'_>) -> Poll<Result<(), Lost>> {
        let inner = self.inner.lock();
        if inner.lost {
            return Poll::Ready(Err(Lost));
        }
        if inner.waiting_bytes + inner.away_bytes <= BACKLOG_BYTES_MAX {
            return Poll::Ready(Ok(()));
        }
        self.wait(inner, context);
        Poll::Pending
    }

    /// Sees to it that what waits is hashed, and that the caller is woken then.
    fn wait(&self, mut inner: MutexGuard<'_, Inner>, context: &Context<'_>) {
        inner.waker = Some(context.waker().clone());
        inner.due = inner.waiting_bytes > 0;
        let due = inner.due;
        let listed = !due || std::mem::replace(&mut inner.listed, true);
        drop(inner);
        self.pool.note(&self.inner, !listed, due);
    }

    /// The hashes of everything pushed. Must not be called again once it was ready.
    pub(crate) fn poll_finish(&self, context: &Context<'_>) -> Poll<Result<Box<Digester>, Lost>> {
        let mut inner = self.inner.lock();
        if inner.lost {
            return Poll::Ready(Err(Lost));
        }
        if inner.waiting_bytes <= LAST_BYTES
            && let Some(mut hashes) = inner.hashes.take()
        {
            let last = inner.take();
            drop(inner);
            last.iter().for_each(|bytes| hashes.update(bytes));
            return Poll::Ready(Ok(hashes));
        }
        self.wait(inner, context);
        Poll::Pending
    }
}

/// Bodies with bytes that wait, in the order in which they came.
#[derive(Default)]
struct Queue {
    listed: VecDeque<Shared>,
    workers: usize,
}

/// All bodies of this process share it: the more of them, the fuller the lanes.
struct HashPool {
    queue: Mutex<Queue>,
    workers_max: usize,
}

/// The pool of this process.
static POOL: LazyLock<HashPool> = LazyLock::new(|| {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    HashPool::new(processors.div_ceil(PROCESSORS_A_WORKER))
});

impl HashPool {
    fn new(workers_max: usize) -> Self {
        Self { queue: Mutex::default(), workers_max }
    }

    /// Lists a body that has bytes now, and sees to it that a worker comes for one that is due.
    fn note(&'static self, body: &Shared, list: bool, due: bool) {
        let mut queue = self.queue.lock();
        if list {
            queue.listed.push_back(body.clone());
        }
        if due && queue.workers < self.workers_max {
            queue.workers += 1;
            drop(queue);
            // A worker that panics says of the bodies in its lanes that they are lost.
            drop(tokio::task::spawn_blocking(move || Worker { pool: self, counted: true }.run()));
        }
    }
}

/// A body in a worker's hands.
struct Lane {
    body: Shared,
    hashes: Option<Box<Digester>>,
    bytes: VecDeque<Bytes>,
}

impl Drop for Lane {
    fn drop(&mut self) {
        let mut inner = self.body.lock();
        inner.away_bytes = 0;
        inner.hashes = self.hashes.take();
        inner.lost |= inner.hashes.is_none();
        let waker = inner.waker.take();
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Lane {
    /// A listed body, if it has bytes and its hashes are home. It is not listed any more.
    fn of(body: Shared) -> Option<Self> {
        let mut inner = body.lock();
        inner.listed = false;
        if inner.waiting.is_empty() {
            return None;
        }
        let hashes = inner.hashes.take()?;
        let bytes = inner.take();
        drop(inner);
        Some(Self { body, hashes: Some(hashes), bytes })
    }

    /// The hashes, and the next bytes for them.
    fn slice(&mut self) -> (&mut Digester, &[u8]) {
        let bytes = self.bytes.front().map_or(&[][..], Bytes::as_ref);
        let hashes = self.hashes.as_mut().expect("a lane has its hashes until it is over");
        (hashes, &bytes[..bytes.len().min(SLICE_BYTES)])
    }

    /// Lets go of what was taken in. True when the lane is over: it goes on only when its body was due
    /// again meanwhile.
    fn advance(&mut self) -> bool {
        if let Some(front) = self.bytes.front_mut() {
            front.advance(front.len().min(SLICE_BYTES));
            if front.is_empty() {
                self.bytes.pop_front();
            }
        }
        if !self.bytes.is_empty() {
            return false;
        }
        let mut inner = self.body.lock();
        if inner.due {
            self.bytes = inner.take();
        }
        self.bytes.is_empty()
    }
}

struct Worker {
    pool: &'static HashPool,
    /// Whether it counts among the pool's workers; one that panics does until it is dropped.
    counted: bool,
}

impl Drop for Worker {
    fn drop(&mut self) {
        if self.counted {
            self.pool.queue.lock().workers -= 1;
        }
    }
}

impl Worker {
    /// Hashes until nobody is due.
    fn run(mut self) {
        let mut lanes: Vec<Lane> = Vec::with_capacity(LANES_MAX);
        while self.fill(&mut lanes) {
            let slices = lanes.iter_mut().map(Lane::slice);
            Digester::update_many(&mut slices.collect::<Vec<_>>());
            lanes.retain_mut(|lane| !lane.advance());
        }
    }

    /// Lets who is due into free lanes, and with them whoever has bytes. False when the worker is to
    /// go: it is not counted then, under the lock that [`HashPool::note`] looks under.
    fn fill(&mut self, lanes: &mut Vec<Lane>) -> bool {
        let mut queue = self.pool.queue.lock();
        let due = queue.listed.iter().any(|body| body.lock().due);
        if due {
            queue.listed.make_contiguous().sort_by_key(|body| !body.lock().due);
        }
        while due && lanes.len() < LANES_MAX {
            let Some(body) = queue.listed.pop_front() else { break };
            lanes.extend(Lane::of(body));
        }
        if lanes.is_empty() && !due {
            queue.workers -= 1;
            self.counted = false;
        }
        self.counted
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    fn body(len: usize, seed: usize) -> Bytes {
        (0..len).map(|at| (at * 7 + seed * 13 + at / 251) as u8).collect()
    }

    async fn upload(pool: &'static HashPool, body: Bytes) -> Box<Digester> {
        let pooled = PooledBody::within(pool, Box::new(Digester::new(None)));
        let mut rest = body;
        while !rest.is_empty() {
            poll_fn(|context| pooled.poll_room(context)).await.expect("room");
            pooled.push(&rest.split_to(rest.len().min(90_011)));
            tokio::task::yield_now().await;
        }
        poll_fn(|context| pooled.poll_finish(context)).await.expect("hashed")
    }

    /// Goal: bodies that share lanes are hashed as alone, each upload ends, and no worker is left over
    /// or missing. Method: 40 bodies around every threshold at once, in a pool of one worker and one
    /// of three, one of them given up midway; then one alone.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn every_body_comes_home_with_its_own_hash() {
        for workers in [1, 3] {
            let pool: &'static HashPool = Box::leak(Box::new(HashPool::new(workers)));
            for count in [40, 1] {
                let given_up = PooledBody::within(pool, Box::new(Digester::new(None)));
                (0..20).for_each(|n| given_up.push(&body(100_000, n)));
                let len = |n: usize| [0, 200_000, 1 << 20, 3_000_000, 5_500_000][n % 5] + n;
                let bodies: Vec<Bytes> = (0..count).map(|n| body(len(n), n)).collect();
                let uploads = bodies.iter().map(|body| tokio::spawn(upload(pool, body.clone())));
                let uploads: Vec<_> = uploads.collect();
                drop(given_up);
                for (body, upload) in bodies.iter().zip(uploads) {
                    let mut alone = Digester::new(None);
                    alone.update(body);
                    assert_eq!(upload.await.expect("it ends").finish(), alone.finish());
                }
            }
            while pool.queue.lock().workers > 0 {
                tokio::task::yield_now().await;
            }
            assert!(!pool.queue.lock().listed.iter().any(|body| body.lock().due));
        }
    }

    /// Goal: who is due takes along whoever has bytes. Method: a worker by hand, before it has begun;
    /// one body due among three that are not.
    #[tokio::test]
    async fn who_is_due_takes_the_others_along() {
        let pool: &'static HashPool = Box::leak(Box::new(HashPool::new(0)));
        let bodies: Vec<_> =
            (0..4).map(|_| PooledBody::within(pool, Box::new(Digester::new(None)))).collect();
        let mut worker = Worker { pool, counted: true };
        pool.queue.lock().workers = 1;
        let mut lanes = Vec::new();
        bodies[..3].iter().for_each(|waiting| waiting.push(&body(1000, 1)));
        bodies[3].push(&body(DUE_BYTES, 2));
        assert!(worker.fill(&mut lanes));
        assert_eq!(lanes.len(), 4);
        assert_eq!(lanes[0].bytes.front().map(Bytes::len), Some(DUE_BYTES), "the due one first");
        lanes.clear();
        bodies[..3].iter().for_each(|waiting| waiting.push(&body(1000, 3)));
        assert!(!worker.fill(&mut lanes), "nobody is due");
    }

    /// A worker that dies does not leave uploads waiting for ever.
    #[tokio::test]
    async fn a_lane_that_is_lost_says_so() {
        let pool: &'static HashPool = Box::leak(Box::new(HashPool::new(0)));
        let pooled = PooledBody::within(pool, Box::new(Digester::new(None)));
        pooled.push(&body(DUE_BYTES, 2));
        let mut lane = Lane::of(pooled.inner.clone()).expect("it has bytes");
        lane.hashes = None;
        drop(lane);
        assert!(poll_fn(|context| pooled.poll_finish(context)).await.is_err());
    }
}
