//! [`IoPool`]: the few threads that wait for one drive's device. A hung drive holds its own threads and
//! nobody else's (DRIVE.md, "States").
//!
//! Three bounded queues, taken in order of [`Priority`]. A full queue refuses: callers answer
//! `Overloaded`.

use std::{
    collections::VecDeque,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread::JoinHandle,
};

use parking_lot::{Condvar, Mutex};

/// What comes first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum Priority {
    /// A client waits for it.
    Foreground = 0,
    /// Brings redundancy or room back: checkpoints, merges, healing.
    Heal = 1,
    /// Looks for rot, builds an index: whenever there is nothing else.
    Scrub = 2,
}

const PRIORITIES: usize = 3;

/// Why a job was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PoolRefusal {
    /// The queue of its priority is full.
    #[error("too much waits for the drive")]
    Full,
    /// The drive is being closed.
    #[error("the drive is being closed")]
    Closed,
}

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    queues: [VecDeque<Job>; PRIORITIES],
    closed: bool,
    /// Jobs of less than foreground priority that run now.
    background: usize,
}

struct Shared {
    state: Mutex<State>,
    woken: Condvar,
    depth: usize,
    /// At most this many threads work in the background, so that one is always free for clients.
    background_max: usize,
}

/// The pool's handle; clones show the same pool. Threads end with [`IoPool::close`].
#[derive(Clone)]
pub struct IoPool {
    shared: Arc<Shared>,
    threads: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl IoPool {
    /// A pool of `threads` threads whose queues take `depth` jobs each.
    ///
    /// # Errors
    /// When the system gives no threads.
    pub fn start(name: &str, threads: usize, depth: usize) -> io::Result<Self> {
        assert!(threads > 0 && depth > 0);
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            woken: Condvar::new(),
            depth,
            background_max: threads.saturating_sub(1).max(1),
        });
        let pool = Self { shared, threads: Arc::default() };
        for _ in 0..threads {
            let shared = Arc::clone(&pool.shared);
            let started =
                std::thread::Builder::new().name(name.to_owned()).spawn(move || shared.work());
            match started {
                Ok(thread) => pool.threads.lock().push(thread),
                Err(error) => {
                    pool.close();
                    return Err(error);
                }
            }
        }
        Ok(pool)
    }

    /// Queues a job.
    ///
    /// # Errors
    /// [`PoolRefusal`]; the job is dropped.
    pub fn submit(
        &self,
        priority: Priority,
        job: impl FnOnce() + Send + 'static,
    ) -> Result<(), PoolRefusal> {
        let mut state = self.shared.state.lock();
        if state.closed {
            return Err(PoolRefusal::Closed);
        }
        let queue = &mut state.queues[priority as usize];
        if queue.len() >= self.shared.depth {
            return Err(PoolRefusal::Full);
        }
        queue.push_back(Box::new(job));
        drop(state);
        self.shared.woken.notify_one();
        Ok(())
    }

    /// Drops what waits, takes nothing more, and lets the threads end after their job.
    pub fn close(&self) {
        let dropped = {
            let mut state = self.shared.state.lock();
            state.closed = true;
            std::mem::take(&mut state.queues)
        };
        self.shared.woken.notify_all();
        // Jobs own completions; dropping them answers, which must not happen under the lock.
        drop(dropped);
    }

    /// Closes and waits until every thread is gone: nothing touches the device any more. Blocks, for
    /// ever on a hung device.
    pub fn close_and_join(&self) {
        self.close();
        for thread in std::mem::take(&mut *self.threads.lock()) {
            // Jobs' panics are caught: a thread ends well.
            let _ = thread.join();
        }
    }

    /// Jobs waiting, over all priorities.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.shared.state.lock().queues.iter().map(VecDeque::len).sum()
    }
}

impl Shared {
    fn work(&self) {
        while let Some((job, priority)) = self.next() {
            if catch_unwind(AssertUnwindSafe(job)).is_err() {
                tracing::error!("a job on an I/O thread panicked");
            }
            if priority > 0 {
                self.state.lock().background -= 1;
                self.woken.notify_one();
            }
        }
    }

    /// Waits for the next job; `None` when the pool is closed.
    fn next(&self) -> Option<(Job, usize)> {
        let mut state = self.state.lock();
        loop {
            if state.closed {
                return None;
            }
            let room = state.background < self.background_max;
            let open = if room { PRIORITIES } else { 1 };
            let found = (0..open).find_map(|at| Some((state.queues[at].pop_front()?, at)));
            if let Some((job, priority)) = found {
                state.background += usize::from(priority > 0);
                return Some((job, priority));
            }
            self.woken.wait(&mut state);
        }
    }
}

impl std::fmt::Debug for IoPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IoPool({} waiting)", self.waiting())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{channel, sync_channel};

    use super::*;

    /// Goal: foreground before heal before scrub, and full queues refuse. Method: one thread is held
    /// while jobs queue up.
    #[test]
    fn priorities_and_bounds() {
        let pool = IoPool::start("test", 1, 2).unwrap();
        let (release, held) = sync_channel::<()>(0);
        let (started, running) = sync_channel::<()>(0);
        pool.submit(Priority::Foreground, move || {
            started.send(()).unwrap();
            held.recv().unwrap();
        })
        .unwrap();
        running.recv().unwrap();
        let (order, seen) = channel();
        for (priority, number) in [
            (Priority::Scrub, 5),
            (Priority::Heal, 3),
            (Priority::Foreground, 1),
            (Priority::Foreground, 2),
            (Priority::Heal, 4),
        ] {
            let order = order.clone();
            pool.submit(priority, move || order.send(number).unwrap()).unwrap();
        }
        assert_eq!(pool.submit(Priority::Heal, || ()), Err(PoolRefusal::Full));
        drop(order);
        release.send(()).unwrap();
        assert_eq!(seen.iter().collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
        pool.close_and_join();
        assert_eq!(pool.submit(Priority::Heal, || ()), Err(PoolRefusal::Closed));
    }

    /// Goal: background work never takes the last thread, and a panic costs no thread. Method: two
    /// threads, one held by a background job, another one queued.
    #[test]
    fn clients_find_a_thread() {
        let pool = IoPool::start("test", 2, 8).unwrap();
        let (release, held) = sync_channel::<()>(0);
        let (done, background_done) = channel();
        pool.submit(Priority::Scrub, move || held.recv().unwrap()).unwrap();
        pool.submit(Priority::Scrub, move || done.send(()).unwrap()).unwrap();
        for _ in 0..4 {
            pool.submit(Priority::Foreground, || panic!("caught")).unwrap();
        }
        let (answer, answered) = channel();
        pool.submit(Priority::Foreground, move || answer.send(7).unwrap()).unwrap();
        assert_eq!(answered.recv(), Ok(7));
        assert!(background_done.try_recv().is_err(), "the second one waits for the first");
        release.send(()).unwrap();
        background_done.recv().unwrap();
        pool.close_and_join();
    }
}
