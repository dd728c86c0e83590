//! Shards on their way to this process's drives: chunks queue for each target, its drive's I/O threads
//! write them in order.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use holdfast_types::{DriveId, ErrorClass, limits};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::{
    api::{DriveError, UploadHandle, UploadTarget},
    io_pool::Priority,
    node::ShardUpload,
    supervisor::{Bulk, NodeShared},
    volume::upload::Upload,
};

/// Bytes of one target on their way: enough to keep its drive busy while the next chunk comes.
const WINDOW_BYTES: usize = 4 * limits::CHUNK_BYTES;

/// A drive that takes no byte for this long is lost to the upload.
const PROGRESS: Duration = Duration::from_micros(limits::STREAM_IDLE_MICROS);

type Ended = Result<UploadHandle, DriveError>;

/// An upload to some drives of this process.
pub(super) struct LocalUpload {
    targets: Vec<Target>,
}

struct Target {
    drive: DriveId,
    lane: Result<Arc<Lane>, DriveError>,
    window: Arc<Semaphore>,
    share: Arc<Semaphore>,
    bulk: Arc<Semaphore>,
}

/// The chunks of one shard, in order, and who writes them.
struct Lane {
    drive: DriveId,
    bulk: Bulk,
    state: Mutex<LaneState>,
}

struct LaneState {
    queue: VecDeque<Step>,
    /// Taken by the I/O thread that is at work; gone after the end or an error.
    upload: Option<Box<Upload>>,
    is_running: bool,
    failed: Option<DriveError>,
}

enum Step {
    Write { blocks: Bytes, _permits: [OwnedSemaphorePermit; 3], span: tracing::Span },
    Finish(oneshot::Sender<Ended>),
}

impl LocalUpload {
    /// Opens all targets; one that refuses is lost alone.
    pub fn begin(shared: &NodeShared, targets: Vec<UploadTarget>) -> Self {
        let routes = shared.routes();
        let open = |target: UploadTarget| {
            let lane = routes.route_to(target.drive).and_then(|route| {
                let upload = Box::new(route.bulk.uploads.begin(&target)?);
                let state = LaneState {
                    queue: VecDeque::new(),
                    upload: Some(upload),
                    is_running: false,
                    failed: None,
                };
                let bulk = route.bulk.clone();
                Ok(Arc::new(Lane { drive: target.drive, bulk, state: Mutex::new(state) }))
            });
            let idle = || Arc::new(Semaphore::new(0));
            let share = lane.as_ref().map_or_else(|_| idle(), |lane| lane.bulk.bytes.clone());
            Target {
                drive: target.drive,
                lane,
                window: Arc::new(Semaphore::new(WINDOW_BYTES)),
                share,
                bulk: Arc::clone(&shared.bulk_bytes),
            }
        };
        Self { targets: targets.into_iter().map(open).collect() }
    }
}

impl Target {
    /// Waits for room and queues a chunk; a target that fails or makes no progress is lost from here
    /// on, and the others go on.
    async fn send(&mut self, mut blocks: Bytes) {
        while !blocks.is_empty() {
            let Ok(lane) = &self.lane else { return };
            if lane.state.lock().failed.is_some() {
                return;
            }
            let chunk = blocks.split_to(blocks.len().min(limits::CHUNK_BYTES));
            let lane = Arc::clone(lane);
            if let Err(error) = self.queue(&lane, chunk).await {
                lane.fail(&error);
                self.lane = Err(error);
            }
        }
    }

    async fn queue(&self, lane: &Arc<Lane>, chunk: Bytes) -> Result<(), DriveError> {
        let count = u32::try_from(chunk.len()).expect("a chunk is short");
        // The node's last: who waits for a drive that hangs holds nothing that others need.
        let all = async {
            let window = Arc::clone(&self.window).acquire_many_owned(count).await?;
            let share = Arc::clone(&self.share).acquire_many_owned(count).await?;
            let bulk = Arc::clone(&self.bulk).acquire_many_owned(count).await?;
            Ok::<_, tokio::sync::AcquireError>([window, share, bulk])
        };
        let permits = tokio::time::timeout(PROGRESS, all).await.map_err(|_| self.stalled())?;
        let permits = permits.map_err(|_| {
            DriveError::failed(self.drive, ErrorClass::Unavailable, "the node is shutting down")
        })?;
        let span = holdfast_trace::span!("shard.write", drive = %self.drive, bytes = count);
        lane.push(Step::Write { blocks: chunk, _permits: permits, span })
    }

    fn stalled(&self) -> DriveError {
        let message = "the drive takes no bytes; its device may hang";
        DriveError::failed(self.drive, ErrorClass::TimedOut, message)
    }

    async fn finish(self) -> Ended {
        let stalled = self.stalled();
        let lane = self.lane?;
        let (ended, end) = oneshot::channel();
        lane.push(Step::Finish(ended))?;
        match tokio::time::timeout(PROGRESS, end).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(lane.lost()),
            Err(_) => {
                lane.fail(&stalled);
                Err(stalled)
            }
        }
    }
}

impl Lane {
    /// Queues a step and sees that a thread works on the lane.
    fn push(self: &Arc<Self>, step: Step) -> Result<(), DriveError> {
        let start = {
            let mut state = self.state.lock();
            if let Some(error) = &state.failed {
                return Err(error.clone());
            }
            state.queue.push_back(step);
            !std::mem::replace(&mut state.is_running, true)
        };
        if !start {
            return Ok(());
        }
        let lane = Arc::clone(self);
        self.bulk.io.submit(Priority::Foreground, move || lane.work()).map_err(|refusal| {
            let class = ErrorClass::Overloaded;
            let error = DriveError::failed(self.drive, class, refusal.to_string());
            self.fail(&error);
            error
        })
    }

    /// Writes what is queued. Runs on an I/O thread of the drive; one thread at a time.
    fn work(&self) {
        loop {
            let (step, upload) = {
                let mut state = self.state.lock();
                let step = state.queue.pop_front();
                let Some(step) = step.filter(|_| state.failed.is_none()) else {
                    state.is_running = false;
                    return;
                };
                (step, state.upload.take())
            };
            let Some(mut upload) = upload else {
                self.fail(&self.lost());
                continue;
            };
            match step {
                Step::Write { blocks, _permits, span } => {
                    let call = self.bulk.meter.begin();
                    let written = span.in_scope(|| upload.write(&blocks));
                    drop(call);
                    self.state.lock().upload = Some(upload);
                    if let Err(error) = written {
                        self.fail(&error);
                    }
                }
                Step::Finish(ended) => {
                    // Whoever waited may have gone; then the upload expires.
                    let call = self.bulk.meter.begin();
                    let finished = upload.finish();
                    drop(call);
                    let _ = ended.send(finished);
                }
            }
        }
    }

    /// The lane is lost for this reason: what waits is dropped.
    fn fail(&self, error: &DriveError) {
        let dropped = {
            let mut state = self.state.lock();
            let first = state.failed.get_or_insert_with(|| error.clone()).clone();
            let queue = std::mem::take(&mut state.queue);
            (first, queue, state.upload.take())
        };
        let (first, queue, upload) = dropped;
        for step in queue {
            if let Step::Finish(ended) = step {
                let _ = ended.send(Err(first.clone()));
            }
        }
        drop(upload);
    }

    fn lost(&self) -> DriveError {
        let failed = self.state.lock().failed.clone();
        failed.unwrap_or_else(|| {
            let message = "the upload was dropped; is the drive being opened again?";
            DriveError::failed(self.drive, ErrorClass::Unavailable, message)
        })
    }
}

#[async_trait]
impl ShardUpload for LocalUpload {
    async fn send(&mut self, target: usize, blocks: Bytes) -> Result<(), DriveError> {
        let Some(target) = self.targets.get_mut(target) else {
            let message = format!("send shard: there is no target {target}");
            return Err(DriveError::failed(DriveId::NIL, ErrorClass::Invalid, message));
        };
        target.send(blocks).await;
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Vec<Ended> {
        futures::future::join_all(self.targets.into_iter().map(Target::finish)).await
    }
}
