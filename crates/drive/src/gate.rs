//! [`Gate`]: no answer leaves before the log batch it rests on is durable (INV-DRIVE-GATE).
//!
//! Shared by the drive, which enters answers, and by the thread that completes batches, which lets
//! them out without another thread hop.

use std::collections::BTreeMap;

use holdfast_types::{DriveId, ErrorClass};
use parking_lot::Mutex;

use crate::api::{DriveError, DriveResult};

/// Called once with the answer, from whichever thread completes the batch.
pub type Completion = Box<dyn FnOnce(DriveResult) + Send>;

/// Runs once when the batch is durable, or with the reason why it never will be.
type Waiter = Box<dyn FnOnce(Result<(), DriveError>) + Send>;

#[derive(Default)]
struct Inner {
    durable: u64,
    fenced: Option<String>,
    waiting: BTreeMap<u64, Vec<Waiter>>,
}

/// Answers waiting for their batches.
pub struct Gate {
    drive: DriveId,
    inner: Mutex<Inner>,
}

impl Gate {
    /// A gate where everything up to batch `durable` is.
    #[must_use]
    pub fn new(drive: DriveId, durable: u64) -> Self {
        Self { drive, inner: Mutex::new(Inner { durable, ..Inner::default() }) }
    }

    /// The last durable batch.
    #[must_use]
    pub fn durable(&self) -> u64 {
        self.inner.lock().durable
    }

    /// Why the drive is fenced, when it is.
    #[must_use]
    pub fn fenced(&self) -> Option<String> {
        self.inner.lock().fenced.clone()
    }

    /// Lets `result` out once `batch` is durable.
    pub fn answer(&self, batch: u64, done: Completion, result: DriveResult) {
        let append = self.append_span(batch);
        self.when(
            batch,
            Box::new(move |durable| {
                drop(append);
                done(durable.and(result));
            }),
        );
    }

    /// The span of waiting for a batch of the log to be written and synced; none for one that is.
    fn append_span(&self, batch: u64) -> tracing::Span {
        if holdfast_trace::is_active() && batch > self.durable() {
            holdfast_trace::span!("log.append", batch)
        } else {
            tracing::Span::none()
        }
    }

    /// Runs `waiter` once `batch` is durable, or the drive is fenced.
    pub fn when(&self, batch: u64, waiter: Waiter) {
        let verdict = {
            let mut inner = self.inner.lock();
            if let Some(cause) = &inner.fenced {
                Err(self.fence_error(cause))
            } else if batch <= inner.durable {
                Ok(())
            } else {
                inner.waiting.entry(batch).or_default().push(waiter);
                return;
            }
        };
        waiter(verdict);
    }

    /// Everything up to `batch` is durable.
    pub fn release(&self, batch: u64) {
        let mut inner = self.inner.lock();
        inner.durable = inner.durable.max(batch);
        let later = inner.waiting.split_off(&(batch + 1));
        let ready = std::mem::replace(&mut inner.waiting, later);
        drop(inner);
        for waiter in ready.into_values().flatten() {
            waiter(Ok(()));
        }
    }

    /// Nothing more will ever be known to be durable (INV-DRIVE-FENCE).
    pub fn fence(&self, cause: &str) {
        let mut inner = self.inner.lock();
        inner.fenced.get_or_insert_with(|| cause.to_owned());
        let waiting = std::mem::take(&mut inner.waiting);
        drop(inner);
        for waiter in waiting.into_values().flatten() {
            waiter(Err(self.fence_error(cause)));
        }
    }

    /// The error a fenced drive answers.
    #[must_use]
    pub fn fence_error(&self, cause: &str) -> DriveError {
        let message = format!("fenced after a failed write or sync: {cause}");
        DriveError::failed(self.drive, ErrorClass::Unavailable, message)
    }
}
