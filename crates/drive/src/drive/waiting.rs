//! Requests that cannot be decided yet: what they look at is not in memory, or the log has no room.
//!
//! ```text
//! handle -> decide --Ok/Err------------------------------> answer (at the gate)
//!             |  ^
//!       Waits |  | decided anew, from the beginning, on a view checked anew
//!             v  |
//!          parked -- LoadJob on an I/O thread --> loaded
//!             |  ^
//!      NoRoom |  | a segment came
//!             v  |
//!          parked
//! ```
//!
//! INV-WAIT-1: a decision that lacks something has recorded nothing but what repeats harmlessly (a bucket's newer
//! stamp, a raised ceiling), so deciding again is sound; what it looks at then is the overlay as it is
//! *then* over the base as it is then. Requests for one key keep their order: while one waits, those
//! behind it wait, too.
//!
//! Bounds: [`WAITING_MAX`] requests and the log's bytes in all, [`ROUNDS_MAX`] rounds and a deadline
//! each. Who is over them is told `Overloaded`, or `TimedOut`.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use holdfast_types::{ErrorClass, RegisterKey, limits};

use crate::{
    api::{DriveError, DriveRequest, ShardRead, ShardSource},
    gate::Completion,
    loaded::{Loaded, Want},
    overlay::{Base, BaseError},
    volume::read::ShardReader,
};

use super::{Drive, Stop};

/// Requests that wait at once: as many as a drive's I/O queue takes jobs.
const WAITING_MAX: usize = 4096;

/// Times that one request asks for more: the pages of the longest scan many times over. Each round
/// brings it further, unless checkpoints end between its rounds.
const ROUNDS_MAX: u32 = 64;

/// Called with a shard's reader.
pub type ShardDone = Box<dyn FnOnce(Result<ShardReader, DriveError>) + Send>;

/// Background work that looks things up; called again when they are there.
type Work = Box<dyn FnMut(&mut Drive) -> Result<(), Stop> + Send>;

/// What waits.
pub(super) enum Task {
    Request(Box<DriveRequest>, Completion),
    Shard(Box<ShardRead>, ShardDone),
    Work(Work),
}

/// A task, and what was brought up for it.
pub(super) struct Waiting {
    task: Task,
    deadline: u64,
    loaded: Loaded,
    generation: u64,
    rounds: u32,
}

/// All that wait.
#[derive(Default)]
pub(super) struct Waits {
    next: u64,
    /// By number, and so in the order they came.
    parked: BTreeMap<u64, Waiting>,
    bytes: usize,
    /// Tasks for each key, by number; the first is at work, the others wait behind it.
    lines: HashMap<Vec<u8>, VecDeque<u64>>,
    /// Look-ups for I/O threads.
    jobs: Vec<LoadJob>,
    /// Tasks that wait for room in the log.
    for_room: VecDeque<u64>,
    /// Tasks whose turn has come.
    due: Vec<u64>,
    is_advancing: bool,
}

/// A look-up below the overlay, for an I/O thread; its outcome goes to [`Drive::loaded`].
pub struct LoadJob {
    number: u64,
    generation: u64,
    base: Arc<dyn Base>,
    want: Want,
}

/// What became of a look-up.
pub struct LoadOutcome {
    number: u64,
    generation: u64,
    result: Result<Loaded, BaseError>,
}

impl LoadJob {
    /// Who waits for it: for [`Drive::load_refused`] when no thread takes it.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// Looks up. Blocks.
    #[must_use]
    pub fn run(self) -> LoadOutcome {
        let result = Loaded::load(&*self.base, self.want);
        LoadOutcome { number: self.number, generation: self.generation, result }
    }
}

impl Waiting {
    fn new(task: Task, deadline: u64) -> Self {
        Self { task, deadline, loaded: Loaded::default(), generation: 0, rounds: 0 }
    }

    /// Bytes it holds: the shard that came with it.
    fn bytes(&self) -> usize {
        match &self.task {
            Task::Request(request, _) => match &**request {
                DriveRequest::Accept(accept) => source_bytes(&accept.source),
                DriveRequest::Install(install) => source_bytes(&install.source),
                _ => 0,
            },
            _ => 0,
        }
    }
}

const fn source_bytes(source: &ShardSource) -> usize {
    match source {
        ShardSource::Inline(bytes) => bytes.len(),
        _ => 0,
    }
}

/// The key whose order a task keeps.
fn line_of(task: &Task) -> Option<Vec<u8>> {
    let Task::Request(request, _) = task else { return None };
    request.key().map(RegisterKey::encode)
}

impl DriveRequest {
    /// The key whose registers it reads or changes; `None` when it is of no key alone, or of how drives come
    /// and go.
    #[must_use]
    pub const fn key(&self) -> Option<&RegisterKey> {
        Some(match self {
            Self::Accept(accept) => &accept.key,
            Self::Install(install) => &install.key,
            Self::Prepare(prepare) => &prepare.key,
            Self::Read(read) => &read.key,
            Self::Settle(settle) => &settle.key,
            Self::Purge(purge) => &purge.key,
            Self::Verify(verify) => &verify.key,
            _ => return None,
        })
    }
}

impl Drive {
    /// Decides a request, now or when what it looks at is in memory. `done` is called with the answer
    /// when it may leave: at once, or by the thread that completes the batch it rests on, or by a
    /// [`super::ReadJob`].
    pub fn handle(&mut self, request: DriveRequest, done: Completion) {
        let deadline = self.clock.monotonic_micros().saturating_add(limits::CALL_MICROS);
        self.handle_by(request, deadline, done);
    }

    /// As [`Self::handle`]; a request that still waits at `deadline` on the monotonic clock is not
    /// carried out.
    pub fn handle_by(&mut self, request: DriveRequest, deadline: u64, done: Completion) {
        self.begin(Task::Request(Box::new(request), done), deadline);
    }

    /// Opens a shard for reading blocks on an I/O thread. `done` is called once what it rests on is
    /// durable; while the reader lives the shard's bytes stay.
    pub fn open_shard(&mut self, read: &ShardRead, done: ShardDone) {
        let deadline = self.clock.monotonic_micros().saturating_add(limits::STREAM_IDLE_MICROS);
        self.begin(Task::Shard(Box::new(read.clone()), done), deadline);
    }

    /// Does work that may have to look things up, now or when they are there.
    pub(super) fn work(
        &mut self,
        work: impl FnMut(&mut Self) -> Result<(), Stop> + Send + 'static,
    ) {
        self.begin(Task::Work(Box::new(work)), u64::MAX);
    }

    /// Requests that wait for a look-up or for room.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waits.parked.len()
    }

    /// Look-ups to be run on I/O threads.
    pub fn take_load_jobs(&mut self) -> Vec<LoadJob> {
        std::mem::take(&mut self.waits.jobs)
    }

    fn begin(&mut self, task: Task, deadline: u64) {
        let waiting = Waiting::new(task, deadline);
        // The common case: nobody waits, and everything is in memory.
        let line = if self.waits.parked.is_empty() { None } else { line_of(&waiting.task) };
        if let Some(line) = line.filter(|line| self.waits.lines.contains_key(line)) {
            if let Some(number) = self.park(waiting) {
                self.waits.lines.entry(line).or_default().push_back(number);
            }
            return;
        }
        self.attempt(None, waiting);
    }

    /// Decides a task; parks it (again) when something is lacking. `true` when it is done with.
    fn attempt(&mut self, number: Option<u64>, mut waiting: Waiting) -> bool {
        let (_, generation) = self.table.layers.base();
        if waiting.generation != generation {
            waiting.loaded = Loaded::default();
            waiting.generation = generation;
        }
        let before = self.table.layers.lend(std::mem::take(&mut waiting.loaded));
        let (waiting, stop) = self.decide_task(waiting);
        let loaded = self.table.layers.lend(before);
        let (Some(mut waiting), Some(stop)) = (waiting, stop) else { return true };
        waiting.loaded = loaded;
        waiting.rounds += 1;
        if waiting.rounds > ROUNDS_MAX {
            self.give_up(waiting, ErrorClass::Overloaded, "the drive's state changed too often");
            return true;
        }
        let number = match number {
            Some(number) => {
                self.waits.parked.insert(number, waiting);
                number
            }
            None => match self.park_first(waiting) {
                Some(number) => number,
                None => return true,
            },
        };
        match stop {
            Stop::Waits(want) => {
                let (base, generation) = self.table.layers.base();
                self.waits.jobs.push(LoadJob { number, generation, base, want });
            }
            _ => self.waits.for_room.push_back(number),
        }
        false
    }

    /// Decides; gives the task back when it lacks something.
    fn decide_task(&mut self, waiting: Waiting) -> (Option<Waiting>, Option<Stop>) {
        let Waiting { task, deadline, loaded, generation, rounds } = waiting;
        let back = |task| Waiting { task, deadline, loaded, generation, rounds };
        match task {
            Task::Request(request, done) => match self.request(&request, done) {
                Some((done, stop)) => (Some(back(Task::Request(request, done))), Some(stop)),
                None => (None, None),
            },
            Task::Shard(read, done) => match self.shard(&read, done) {
                Some((done, stop)) => (Some(back(Task::Shard(read, done))), Some(stop)),
                None => (None, None),
            },
            Task::Work(mut work) => match work(self) {
                Err(stop @ (Stop::Waits(_) | Stop::NoRoom)) => {
                    (Some(back(Task::Work(work))), Some(stop))
                }
                _ => (None, None),
            },
        }
    }

    /// Parks a task that is the first of its key.
    fn park_first(&mut self, waiting: Waiting) -> Option<u64> {
        let line = line_of(&waiting.task);
        let number = self.park(waiting)?;
        if let Some(line) = line {
            self.waits.lines.entry(line).or_default().push_front(number);
        }
        Some(number)
    }

    /// Parks a task; `None` when there are too many, and it has been told so.
    fn park(&mut self, waiting: Waiting) -> Option<u64> {
        let bytes = waiting.bytes();
        let full = self.waits.parked.len() >= WAITING_MAX
            || self.waits.bytes + bytes > self.options.pending_bytes_max;
        // Background work is bounded by itself.
        if full && !matches!(waiting.task, Task::Work(_)) {
            self.give_up(waiting, ErrorClass::Overloaded, "too much waits for the device");
            return None;
        }
        let number = self.waits.next;
        self.waits.next += 1;
        self.waits.bytes += bytes;
        self.waits.parked.insert(number, waiting);
        Some(number)
    }

    /// Takes note of a look-up; whoever waited for it is decided anew, and those behind it.
    pub fn loaded(&mut self, outcome: LoadOutcome) {
        let LoadOutcome { number, generation, result } = outcome;
        let Some(mut waiting) = self.waits.parked.remove(&number) else { return };
        let current = self.table.layers.base().1;
        match result {
            Ok(loaded) if generation == current => {
                waiting.loaded.extend(loaded);
                self.resume(number, waiting);
            }
            // What was brought up is of an earlier generation.
            Ok(_) => self.resume(number, waiting),
            Err(error) => {
                if let BaseError::Rotten(met) = &error {
                    self.table.layers.meet(met.clone());
                }
                self.forget(number, &waiting);
                self.fail(waiting, Stop::from(error));
                self.next_in_line();
            }
        }
    }

    /// No thread took a look-up: too much waits for the device.
    pub fn load_refused(&mut self, number: u64) {
        if let Some(waiting) = self.waits.parked.remove(&number) {
            self.forget(number, &waiting);
            self.give_up(waiting, ErrorClass::Overloaded, "too much waits for the device");
            self.next_in_line();
        }
    }

    /// A segment came, or none will: who waits for room is decided anew, in order.
    pub(super) fn room_may_be(&mut self) {
        for _ in 0..self.waits.for_room.len() {
            let Some(number) = self.waits.for_room.pop_front() else { return };
            if let Some(waiting) = self.waits.parked.remove(&number) {
                self.resume(number, waiting);
            }
        }
    }

    /// Decides a parked task anew, which was taken out.
    fn resume(&mut self, number: u64, waiting: Waiting) {
        let line = line_of(&waiting.task);
        let bytes = waiting.bytes();
        if waiting.deadline < self.clock.monotonic_micros() {
            self.forget(number, &waiting);
            self.give_up(waiting, ErrorClass::TimedOut, LATE);
        } else if self.attempt(Some(number), waiting) {
            self.waits.bytes -= bytes;
            self.leave_line(number, line);
        }
        self.next_in_line();
    }

    /// A parked task that was taken out will not come back.
    fn forget(&mut self, number: u64, waiting: &Waiting) {
        self.waits.bytes -= waiting.bytes();
        self.leave_line(number, line_of(&waiting.task));
    }

    fn leave_line(&mut self, number: u64, line: Option<Vec<u8>>) {
        let Some(line) = line else { return };
        let Some(queue) = self.waits.lines.get_mut(&line) else { return };
        let was_first = queue.front() == Some(&number);
        queue.retain(|other| *other != number);
        match queue.front().copied() {
            None => {
                self.waits.lines.remove(&line);
            }
            Some(next) if was_first => self.waits.due.push(next),
            Some(_) => {}
        }
    }

    /// Decides those whose turn has come. A loop, for a line may be long and each be decided at once.
    fn next_in_line(&mut self) {
        if std::mem::replace(&mut self.waits.is_advancing, true) {
            return;
        }
        while let Some(number) = self.waits.due.pop() {
            if let Some(waiting) = self.waits.parked.remove(&number) {
                self.resume(number, waiting);
            }
        }
        self.waits.is_advancing = false;
    }

    /// Ends the wait of tasks whose deadline is over.
    pub(super) fn expire_waiting(&mut self) {
        let now = self.clock.monotonic_micros();
        let late = self.waits.parked.iter().filter(|(_, waiting)| waiting.deadline < now);
        let late: Vec<u64> = late.map(|(number, _)| *number).collect();
        for number in late {
            let Some(waiting) = self.waits.parked.remove(&number) else { continue };
            self.forget(number, &waiting);
            self.give_up(waiting, ErrorClass::TimedOut, LATE);
            self.next_in_line();
        }
        let Waits { for_room, parked, .. } = &mut self.waits;
        for_room.retain(|number| parked.contains_key(number));
    }

    fn give_up(&self, waiting: Waiting, class: ErrorClass, message: &str) {
        self.fail(waiting, Stop::Failed(class, message.to_owned()));
    }

    fn fail(&self, waiting: Waiting, stop: Stop) {
        match waiting.task {
            Task::Request(_, done) => self.answer(0, Err(stop), done),
            Task::Shard(_, done) => done(self.named(Err(stop))),
            Task::Work(_) => tracing::warn!(drive = %self.id(), "background work is given up"),
        }
    }
}

/// What a request hears whose deadline passed while it waited: it was not carried out.
const LATE: &str = "what it looks at could not be read within the deadline; its device may hang";
