//! A node in memory, with knobs for what goes wrong.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::{FutureExt, StreamExt, stream};
use holdfast_drive::{
    api::{DriveError, DriveRequest, DriveResult, ShardRead, UploadHandle, UploadTarget},
    node::{BlockStream, Node, ShardUpload},
};
use holdfast_register::Refusal;
use holdfast_types::{DriveId, ErrorClass, HybridTime, OperationId, seam::Clock};
use parking_lot::{Mutex, RwLock};

use super::drive::MemoryDrive;
use crate::task;

/// What is wrong with one drive; all off by default.
#[derive(Debug, Default)]
pub struct Faults {
    down: AtomicBool,
    /// Microseconds before a command is carried out; it is carried out even if nobody waits any more.
    delay: AtomicU64,
    /// Answers to come that are dropped after the work was done.
    drop_answers: AtomicUsize,
    /// Microseconds each block of a shard stream takes.
    block_delay: AtomicU64,
}

struct Cell {
    faults: Faults,
    drive: Mutex<MemoryDrive>,
}

/// So many requests are answered by the nodes that share it; then some are carried out and their answers lost; then
/// no more is served, or everything again.
#[derive(Debug)]
pub struct Fuse {
    answered: AtomicUsize,
    unheard: AtomicUsize,
    mends: bool,
}

/// What becomes of a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Answered,
    Unheard,
    Cut,
}

impl Fuse {
    /// One that answers `answered` requests to drives, does `unheard` more, and then `mends` or serves no more.
    #[must_use]
    pub fn new(answered: usize, unheard: usize, mends: bool) -> Arc<Self> {
        let (answered, unheard) = (AtomicUsize::new(answered), AtomicUsize::new(unheard));
        Arc::new(Self { answered, unheard, mends })
    }

    fn next(&self) -> Fate {
        let one_less = |count: &AtomicUsize| {
            count.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok()
        };
        if one_less(&self.answered) {
            return Fate::Answered;
        }
        if one_less(&self.unheard) {
            return Fate::Unheard;
        }
        if self.mends { Fate::Answered } else { Fate::Cut }
    }

    /// Whether it came to the end of what it answers at first.
    #[must_use]
    pub fn is_burnt(&self) -> bool {
        self.answered.load(SeqCst) == 0
    }
}

/// An in-memory [`Node`] whose drives follow the register rules.
pub struct MemoryNode {
    name: String,
    clock: Arc<dyn Clock>,
    cells: RwLock<BTreeMap<DriveId, Arc<Cell>>>,
    calls: AtomicU64,
    upload_bytes: Arc<AtomicUsize>,
    blocks_read: Arc<AtomicU64>,
    streams: AtomicU64,
    fuse: RwLock<Option<Arc<Fuse>>>,
}

impl MemoryNode {
    pub(super) fn new(name: String, clock: Arc<dyn Clock>, drives: Vec<MemoryDrive>) -> Self {
        let cell = |drive: MemoryDrive| {
            let id = drive.id();
            (id, Arc::new(Cell { faults: Faults::default(), drive: Mutex::new(drive) }))
        };
        let cells = RwLock::new(drives.into_iter().map(cell).collect());
        let (calls, upload_bytes) = (AtomicU64::new(0), Arc::default());
        Self {
            name,
            clock,
            cells,
            calls,
            upload_bytes,
            blocks_read: Arc::default(),
            streams: AtomicU64::new(0),
            fuse: RwLock::default(),
        }
    }

    /// The drives' identities.
    #[must_use]
    pub fn drives(&self) -> Vec<DriveId> {
        self.cells.read().keys().copied().collect()
    }

    /// Looks at, or changes, what a drive holds.
    ///
    /// # Panics
    /// When the drive is not of this node.
    pub fn with_drive<T>(&self, drive: DriveId, look: impl FnOnce(&mut MemoryDrive) -> T) -> T {
        look(&mut self.cell(drive).drive.lock())
    }

    /// The drive does not serve: every request is answered `Unavailable`.
    pub fn set_down(&self, drive: DriveId, down: bool) {
        self.cell(drive).faults.down.store(down, SeqCst);
    }

    /// No drive of the node serves.
    pub fn set_all_down(&self, down: bool) {
        self.cells.read().values().for_each(|cell| cell.faults.down.store(down, SeqCst));
    }

    /// The node's drives serve as long as `fuse` lasts; without one, for good.
    pub fn set_fuse(&self, fuse: Option<Arc<Fuse>>) {
        *self.fuse.write() = fuse;
    }

    /// The drive refuses every Accept with `refusal`.
    pub fn set_refuse(&self, drive: DriveId, refusal: Option<Refusal>) {
        self.cell(drive).drive.lock().refuse_writes = refusal;
    }

    /// Commands take this long; one whose caller gave up is carried out all the same.
    pub fn set_delay(&self, drive: DriveId, delay: Duration) {
        self.cell(drive).faults.delay.store(delay.as_micros() as u64, SeqCst);
    }

    /// Each block of a shard stream takes this long.
    pub fn set_block_delay(&self, drive: DriveId, delay: Duration) {
        self.cell(drive).faults.block_delay.store(delay.as_micros() as u64, SeqCst);
    }

    /// The next `count` answers are lost after the work was done.
    pub fn drop_answers(&self, drive: DriveId, count: usize) {
        self.cell(drive).faults.drop_answers.store(count, SeqCst);
    }

    /// The drive is being rebuilt: its answers do not count.
    pub fn set_counts(&self, drive: DriveId, counts: bool) {
        self.cell(drive).drive.lock().counts = counts;
    }

    /// No space for new entries.
    pub fn set_full(&self, drive: DriveId, full: bool) {
        self.cell(drive).drive.lock().full = full;
    }

    /// The drive's process is killed and starts again.
    pub fn restart(&self, drive: DriveId) {
        let now = self.now();
        self.cell(drive).drive.lock().restart(now);
    }

    /// A byte of the operation's shard rots. False when it is not here.
    pub fn rot(&self, drive: DriveId, operation: OperationId) -> bool {
        self.cell(drive).drive.lock().rot(operation)
    }

    /// The drive is replaced by a blank one, `fresh`, which joins: its former identity is gone.
    pub fn wipe(&self, drive: DriveId, fresh: DriveId) {
        let now = self.now();
        let blank = self.cell(drive).drive.lock().wiped(fresh, now);
        let cell = Cell { faults: Faults::default(), drive: Mutex::new(blank) };
        let mut cells = self.cells.write();
        cells.remove(&drive);
        cells.insert(fresh, Arc::new(cell));
    }

    /// Messages received.
    pub fn calls(&self) -> u64 {
        self.calls.load(SeqCst)
    }

    /// Streams of blocks opened.
    pub fn streams(&self) -> u64 {
        self.streams.load(SeqCst)
    }

    /// Blocks sent to readers.
    pub fn blocks_read(&self) -> u64 {
        self.blocks_read.load(SeqCst)
    }

    fn now(&self) -> HybridTime {
        HybridTime::from_micros(self.clock.wall_micros())
    }

    fn cell(&self, drive: DriveId) -> Arc<Cell> {
        self.cells.read().get(&drive).expect("a drive of this node").clone()
    }

    fn serving(&self, drive: DriveId) -> Result<Arc<Cell>, DriveError> {
        let missing = || DriveError::failed(drive, ErrorClass::Unavailable, "no such drive");
        let cell = self.cells.read().get(&drive).cloned().ok_or_else(missing)?;
        if cell.faults.down.load(SeqCst) {
            return Err(DriveError::failed(drive, ErrorClass::Unavailable, "connection refused"));
        }
        Ok(cell)
    }

    /// The drive, and whether its answers are heard.
    fn serving_call(&self, drive: DriveId) -> Result<(Arc<Cell>, bool), DriveError> {
        match self.fuse.read().as_ref().map_or(Fate::Answered, |fuse| fuse.next()) {
            Fate::Cut => Err(DriveError::failed(drive, ErrorClass::Unavailable, "no power")),
            fate => Ok((self.serving(drive)?, fate == Fate::Answered)),
        }
    }

    /// Carries one drive's requests out in order.
    async fn run(
        cell: Arc<Cell>,
        clock: Arc<dyn Clock>,
        requests: Vec<(usize, DriveRequest)>,
        is_heard: bool,
    ) -> Vec<(usize, DriveResult)> {
        let delay = cell.faults.delay.load(SeqCst);
        if delay > 0 {
            tokio::time::sleep(Duration::from_micros(delay)).await;
        }
        let mut results = Vec::with_capacity(requests.len());
        for (at, request) in requests {
            let mut drive = cell.drive.lock();
            let now = HybridTime::from_micros(clock.wall_micros());
            let result = drive.handle(now, request);
            let lost = |left: usize| left.checked_sub(1);
            let lost = cell.faults.drop_answers.fetch_update(SeqCst, SeqCst, lost).is_ok();
            let lost = lost || !is_heard;
            let dropped = || Err(DriveError::failed(drive.id(), ErrorClass::TimedOut, "no answer"));
            results.push((at, if lost { dropped() } else { result }));
        }
        results
    }
}

#[async_trait]
impl Node for MemoryNode {
    fn name(&self) -> &str {
        &self.name
    }

    async fn call(
        &self,
        deadline: Duration,
        batch: Vec<(DriveId, DriveRequest)>,
    ) -> Vec<DriveResult> {
        self.calls.fetch_add(1, SeqCst);
        let timed_out = |drive: &DriveId| {
            Err(DriveError::failed(*drive, ErrorClass::TimedOut, "deadline passed"))
        };
        let mut results: Vec<DriveResult> = batch.iter().map(|(d, _)| timed_out(d)).collect();
        let mut groups: BTreeMap<DriveId, Vec<(usize, DriveRequest)>> = BTreeMap::new();
        for (at, (drive, request)) in batch.into_iter().enumerate() {
            groups.entry(drive).or_default().push((at, request));
        }
        let mut waits = Vec::new();
        for (drive, requests) in groups {
            match self.serving_call(drive) {
                Err(error) => requests.iter().for_each(|(at, _)| results[*at] = Err(error.clone())),
                Ok((cell, is_heard)) => {
                    let slow = cell.faults.delay.load(SeqCst) > 0;
                    let (sender, receiver) = tokio::sync::oneshot::channel();
                    let run = Self::run(cell, self.clock.clone(), requests, is_heard);
                    let work = run.map(|done| drop(sender.send(done)));
                    if slow {
                        task::detach(work);
                    } else {
                        work.await;
                    }
                    waits.push(receiver);
                }
            }
        }
        let wait = async {
            for receiver in waits {
                for (at, result) in receiver.await.unwrap_or_default() {
                    results[at] = result;
                }
            }
        };
        let _ = tokio::time::timeout(deadline, wait).await;
        results
    }

    async fn upload(&self, targets: Vec<UploadTarget>) -> Result<Box<dyn ShardUpload>, DriveError> {
        self.calls.fetch_add(1, SeqCst);
        let cells = targets.iter().map(|target| self.serving(target.drive)).collect();
        let buffers = targets.iter().map(|_| BytesMut::new()).collect();
        let bytes = self.upload_bytes.clone();
        Ok(Box::new(MemoryUpload { targets, cells, buffers, bytes }))
    }

    async fn read_shard(&self, read: ShardRead) -> Result<BlockStream, DriveError> {
        self.streams.fetch_add(1, SeqCst);
        let cell = self.serving(read.drive)?;
        let blocks = cell.drive.lock().blocks(&read)?;
        let counter = self.blocks_read.clone();
        let stream = stream::iter(blocks).then(move |block| {
            let (cell, counter) = (cell.clone(), counter.clone());
            async move {
                let delay = cell.faults.block_delay.load(SeqCst);
                if delay > 0 {
                    tokio::time::sleep(Duration::from_micros(delay)).await;
                }
                if cell.faults.down.load(SeqCst) {
                    let drive = cell.drive.lock().id();
                    return Err(DriveError::failed(drive, ErrorClass::Unavailable, "node is lost"));
                }
                counter.fetch_add(1, SeqCst);
                Ok(block)
            }
        });
        Ok(stream.boxed())
    }
}

struct MemoryUpload {
    targets: Vec<UploadTarget>,
    cells: Vec<Result<Arc<Cell>, DriveError>>,
    buffers: Vec<BytesMut>,
    bytes: Arc<AtomicUsize>,
}

#[async_trait]
impl ShardUpload for MemoryUpload {
    async fn send(&mut self, target: usize, blocks: Bytes) -> Result<(), DriveError> {
        self.bytes.fetch_add(blocks.len(), SeqCst);
        self.buffers[target].extend_from_slice(&blocks);
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Vec<Result<UploadHandle, DriveError>> {
        let Self { targets, cells, buffers, .. } = *self;
        let each = targets.iter().zip(cells).zip(buffers);
        each.map(|((target, cell), buffer)| {
            let cell = cell?;
            if cell.faults.down.load(SeqCst) {
                let lost = "connection lost";
                return Err(DriveError::failed(target.drive, ErrorClass::Unavailable, lost));
            }
            cell.drive.lock().uploaded(target, buffer.freeze())
        })
        .collect()
    }
}
