//! [`LogWriter`]: pending batches, and the job that makes one durable.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use holdfast_types::{DriveId, codec::Writer};
use xxhash_rust::xxh3::xxh3_128;

use crate::{
    checkpoint::LogPosition,
    disk::{AlignedBuf, BLOCK, BufPool, DiskError, DiskFile},
    gate::Gate,
    log::{
        batch::{BatchHeader, HEADER_BYTES},
        record::Record,
    },
    value::Place,
};

/// Bytes of the buffer a batch starts with; a longer one grows.
const BUFFER_BYTES: usize = 256 << 10;

/// Buffers kept for the next batches.
const BUFFERS_KEPT: usize = 4;

/// A Settle, Purge or Move waits at most this long for a batch to ride on.
pub const IDLE_BATCH_MICROS: u64 = 1_000_000;

/// The log has no room: no segment is free.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogFull;

/// Where a record went.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Appended {
    /// Its batch: answers that rest on it wait for this one.
    pub batch: u64,
    /// Where its inline bytes lie; none when it has none.
    pub inline: Place,
}

/// A file of the log.
#[derive(Clone)]
pub struct Segment {
    /// The file.
    pub file: Arc<dyn DiskFile>,
    /// Its length.
    pub bytes: u64,
    /// The highest batch written or pending in it; 0 when it is free.
    pub last_batch: u64,
}

/// A batch that is filling, or waits for its turn.
struct Pending {
    number: u64,
    segment: u32,
    offset: u64,
    room: usize,
    buf: AlignedBuf,
    used: usize,
    records: u32,
    urgent: bool,
    sealed: bool,
    opened_at: u64,
}

/// What the owner of a drive appends to.
pub struct LogWriter {
    drive: DriveId,
    generation: u64,
    batch_bytes_max: usize,
    pool: Arc<BufPool>,
    segments: BTreeMap<u32, Segment>,
    free: VecDeque<u32>,
    next: LogPosition,
    pending: VecDeque<Pending>,
    /// Bytes in `pending`, for admission.
    pending_bytes: usize,
    in_flight: bool,
    chain: u128,
    /// When the last batch left, if it holds records.
    last: Option<u64>,
}

impl LogWriter {
    /// A writer that goes on behind `end` in a fresh segment of `free`, under a new generation.
    #[must_use]
    pub fn new(
        drive: DriveId,
        generation: u64,
        batch_bytes_max: usize,
        segments: BTreeMap<u32, Segment>,
        free: VecDeque<u32>,
        end: LogPosition,
    ) -> Self {
        Self {
            drive,
            generation,
            batch_bytes_max,
            pool: Arc::new(BufPool::new(BUFFER_BYTES, BUFFERS_KEPT)),
            segments,
            free,
            // An offset beyond every file: the next batch opens a segment.
            next: LogPosition { segment: 0, offset: u64::MAX, ..end },
            pending: VecDeque::new(),
            pending_bytes: 0,
            in_flight: false,
            chain: end.chain,
            last: None,
        }
    }

    /// Appends a batch without records when the log has been idle for a while behind one with
    /// records: from then on rot of that one is a gap in the chain, not its end (DRIVE.md, "Log").
    /// Rot of the empty one loses nothing.
    pub fn append_idle(&mut self, now: u64) {
        let due = self.last.is_some_and(|left| now.saturating_sub(left) >= IDLE_BATCH_MICROS);
        // Without room it waits for the next time.
        if due && self.is_idle() && self.open_batch(0, now).is_ok() {
            self.hurry();
        }
    }

    /// Appends a record to the pending batch. `urgent` records have someone waiting for them.
    ///
    /// # Errors
    /// [`LogFull`] when no segment has room.
    pub fn append(&mut self, record: &Record, urgent: bool, now: u64) -> Result<Appended, LogFull> {
        let mut head = Writer::with_capacity(512);
        let tail = record.encode_head(&mut head);
        let head = head.into_bytes();
        let bytes = head.len() + tail.len();
        self.make_room(bytes, now)?;
        let pending = self.pending.back_mut().expect("make_room leaves an open batch");
        pending.push(&self.pool, &head);
        let offset = pending.offset + pending.used as u64;
        pending.push(&self.pool, tail);
        pending.records += 1;
        pending.urgent |= urgent;
        self.pending_bytes += bytes;
        let inline = if tail.is_empty() {
            Place::None
        } else {
            Place::Inline { segment: pending.segment, offset, len: tail.len() as u32 }
        };
        Ok(Appended { batch: pending.number, inline })
    }

    /// Makes sure that the last pending batch is open and has room for `bytes`.
    fn make_room(&mut self, bytes: usize, now: u64) -> Result<(), LogFull> {
        if let Some(last) = self.pending.back_mut() {
            let fits = last.used + bytes <= last.room.min(self.batch_bytes_max.max(bytes));
            if !last.sealed && fits {
                return Ok(());
            }
        }
        self.open_batch(bytes, now)
    }

    /// Begins a batch with room for `bytes`: behind the last one, or in a fresh segment.
    fn open_batch(&mut self, bytes: usize, now: u64) -> Result<(), LogFull> {
        let needed = HEADER_BYTES + bytes;
        let mut next = self.next_position();
        let room_at = |segments: &BTreeMap<u32, Segment>, at: &LogPosition| {
            segments.get(&at.segment).map_or(0, |s| s.bytes.saturating_sub(at.offset))
        };
        let mut room = room_at(&self.segments, &next);
        if room < needed as u64 {
            let fits = |id: &u32| self.segments[id].bytes >= needed as u64;
            let at = self.free.iter().position(fits).ok_or(LogFull)?;
            next.segment = self.free.remove(at).expect("the position was just found");
            next.offset = 0;
            room = room_at(&self.segments, &next);
        }
        if let Some(last) = self.pending.back_mut() {
            last.sealed = true;
        }
        let mut buf = self.pool.take(BUFFER_BYTES.max(needed));
        buf[..HEADER_BYTES].fill(0);
        self.segments.get_mut(&next.segment).expect("positions name segments").last_batch =
            next.batch;
        self.pending.push_back(Pending {
            number: next.batch,
            segment: next.segment,
            offset: next.offset,
            room: room as usize,
            buf,
            used: HEADER_BYTES,
            records: 0,
            urgent: false,
            sealed: false,
            opened_at: now,
        });
        Ok(())
    }

    /// Where the next batch would begin if it fits there.
    fn next_position(&self) -> LogPosition {
        self.pending.back().map_or(self.next, |last| LogPosition {
            segment: last.segment,
            offset: last.offset + (last.used.next_multiple_of(BLOCK)) as u64,
            batch: last.number + 1,
            chain: 0,
        })
    }

    /// The number that the next record's batch has, when it opens one.
    #[must_use]
    pub fn next_batch(&self) -> u64 {
        self.next_position().batch
    }

    /// Bytes waiting to be written.
    #[must_use]
    pub const fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }

    /// Closes the pending batch, so that a record appended from now on goes to a later one. Returns
    /// the position of that one but for its chain value, which is known when the closed one is done.
    pub fn seal(&mut self) -> LogPosition {
        let next = self.next_position();
        if let Some(last) = self.pending.back_mut() {
            last.sealed = true;
        }
        LogPosition { chain: self.chain, ..next }
    }

    /// Lets the pending batch leave at once, if there is one.
    pub fn hurry(&mut self) {
        if let Some(last) = self.pending.back_mut() {
            last.urgent = true;
        }
    }

    /// Whether a batch is being written.
    #[must_use]
    pub const fn is_in_flight(&self) -> bool {
        self.in_flight
    }

    /// Whether nothing waits and nothing is being written.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        !self.in_flight && self.pending.is_empty()
    }

    /// The chain value of the last durable batch.
    #[must_use]
    pub const fn chain(&self) -> u128 {
        self.chain
    }

    /// The segments.
    #[must_use]
    pub const fn segments(&self) -> &BTreeMap<u32, Segment> {
        &self.segments
    }

    /// Segments ready for use.
    #[must_use]
    pub fn free_segments(&self) -> usize {
        self.free.len()
    }

    /// The segment that the next batch goes to.
    #[must_use]
    pub fn current_segment(&self) -> u32 {
        self.next_position().segment
    }

    /// Takes a new segment in.
    pub fn add_segment(&mut self, id: u32, file: Arc<dyn DiskFile>, bytes: u64) {
        self.segments.insert(id, Segment { file, bytes, last_batch: 0 });
        self.free.push_back(id);
    }

    /// Forgets the free segment that would be used last; its file is the caller's to remove.
    pub fn take_free(&mut self) -> Option<u32> {
        let id = self.free.pop_back()?;
        let segment = self.segments.remove(&id);
        debug_assert!(segment.is_some_and(|segment| segment.last_batch == 0), "it is free");
        Some(id)
    }

    /// Frees a segment for use again.
    pub fn recycle(&mut self, id: u32) {
        let segment = self.segments.get_mut(&id).expect("only known segments are recycled");
        segment.last_batch = 0;
        debug_assert!(!self.free.contains(&id));
        self.free.push_back(id);
    }

    /// The next batch to write, if its time has come.
    pub fn take(&mut self, now: u64, gate: &Arc<Gate>, syncs: &Arc<AtomicU64>) -> Option<BatchJob> {
        let front = self.pending.front()?;
        let due = front.urgent
            || self.pending.len() > 1
            || now.saturating_sub(front.opened_at) >= IDLE_BATCH_MICROS;
        if self.in_flight || !due {
            return None;
        }
        if self.pending.len() == 1 {
            self.next = self.next_position();
        }
        let pending = self.pending.pop_front().expect("a front was just seen");
        self.pending_bytes -= pending.used - HEADER_BYTES;
        self.in_flight = true;
        self.last = (pending.records > 0).then_some(now);
        Some(BatchJob {
            file: self.segments[&pending.segment].file.clone(),
            drive: self.drive,
            generation: self.generation,
            previous: self.chain,
            gate: gate.clone(),
            syncs: syncs.clone(),
            pool: self.pool.clone(),
            pending,
        })
    }

    /// Takes note of a written batch.
    pub fn done(&mut self, outcome: &BatchOutcome) {
        self.in_flight = false;
        if let Ok(chain) = outcome.chain {
            self.chain = chain;
        }
    }
}

impl Pending {
    fn push(&mut self, pool: &BufPool, bytes: &[u8]) {
        let end = self.used + bytes.len();
        if end > self.buf.capacity() {
            let mut larger = AlignedBuf::zeroed((end * 2).next_multiple_of(BLOCK));
            larger[..self.used].copy_from_slice(&self.buf[..self.used]);
            pool.give(std::mem::replace(&mut self.buf, larger));
        }
        let capacity = self.buf.capacity();
        self.buf.set_len(capacity);
        self.buf[self.used..end].copy_from_slice(bytes);
        self.used = end;
    }
}

/// One batch on its way to the media. Runs on the log's thread.
pub struct BatchJob {
    file: Arc<dyn DiskFile>,
    drive: DriveId,
    generation: u64,
    previous: u128,
    gate: Arc<Gate>,
    syncs: Arc<AtomicU64>,
    pool: Arc<BufPool>,
    pending: Pending,
}

/// What became of a batch.
#[derive(Debug)]
pub struct BatchOutcome {
    /// Its number.
    pub number: u64,
    /// Its chain value, or why it failed.
    pub chain: Result<u128, DiskError>,
}

impl BatchJob {
    /// Its number.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.pending.number
    }

    /// Writes the batch and lets out the answers that waited for it.
    ///
    /// 1. Write past the page cache: a crash leaves some blocks, the checksums tell.
    /// 2. fdatasync: the batch is part of the log for ever.
    /// 3. Answers leave.
    ///
    /// A failure fences the drive (INV-DRIVE-FENCE).
    #[must_use]
    pub fn run(mut self) -> BatchOutcome {
        let number = self.pending.number;
        let chain = self.write();
        match &chain {
            Ok(_) => self.gate.release(number),
            Err(error) => self.gate.fence(&error.to_string()),
        }
        self.pool.give(self.pending.buf);
        BatchOutcome { number, chain }
    }

    fn write(&mut self) -> Result<u128, DiskError> {
        let pending = &mut self.pending;
        let total = pending.used.next_multiple_of(BLOCK);
        if total > pending.buf.capacity() {
            let used = pending.used;
            let mut larger = AlignedBuf::zeroed(total);
            larger[..used].copy_from_slice(&pending.buf[..used]);
            pending.buf = larger;
        }
        pending.buf.set_len(total);
        pending.buf[pending.used..].fill(0);
        let header = BatchHeader {
            drive: self.drive,
            generation: self.generation,
            number: pending.number,
            length: (pending.used - HEADER_BYTES) as u32,
            records: pending.records,
            previous: self.previous,
            body: xxh3_128(&pending.buf[HEADER_BYTES..pending.used]),
        };
        let (bytes, chain) = header.encode();
        pending.buf[..HEADER_BYTES].copy_from_slice(&bytes);
        self.file.write_at(pending.offset, &pending.buf)?;
        self.file.sync()?;
        self.syncs.fetch_add(1, Ordering::Relaxed);
        Ok(chain)
    }
}
