//! The thread that writes a drive's log: one batch at a time, write and fdatasync, then the answers
//! leave from right here.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc::{SyncSender, sync_channel},
    thread::JoinHandle,
};

use crate::{
    log::writer::{BatchJob, BatchOutcome},
    suspect::Call,
};

/// What the thread calls after each batch; `None` when writing it panicked.
pub type AfterBatch = Box<dyn Fn(Option<BatchOutcome>) + Send>;

enum Work {
    Batch(BatchJob, Call, AfterBatch),
}

/// A drive's log thread.
pub struct LogThread {
    work: SyncSender<Work>,
    thread: JoinHandle<()>,
}

impl LogThread {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system gives none.
    pub fn start(name: &str) -> io::Result<Self> {
        // One batch is out at a time, so sending never waits.
        let (work, queue) = sync_channel::<Work>(1);
        let body = move || {
            for Work::Batch(job, call, after) in queue {
                let outcome = catch_unwind(AssertUnwindSafe(|| job.run()));
                drop(call);
                after(outcome.ok());
            }
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(body)?;
        Ok(Self { work, thread })
    }

    /// Writes a batch; the one before it must be done.
    /// `call` is under way until it is written.
    pub fn write(&self, job: BatchJob, call: Call, after: AfterBatch) {
        if let Err(refused) = self.work.try_send(Work::Batch(job, call, after)) {
            use std::sync::mpsc::TrySendError::{Disconnected, Full};
            let (Full(Work::Batch(.., after)) | Disconnected(Work::Batch(.., after))) = refused;
            after(None);
        }
    }

    /// Ends the thread after its batch. Blocks, for ever on a hung device.
    pub fn close_and_join(self) {
        drop(self.work);
        // Panics in a batch are caught: the thread ends well.
        let _ = self.thread.join();
    }
}
