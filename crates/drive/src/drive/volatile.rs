//! What a restart forgets: promises and the memory of accepted operations. The promise ceiling and
//! `since` make forgetting safe.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use holdfast_register::{KeyState, Remembered};
use holdfast_types::{Ballot, HybridTime, OperationId, limits};

/// Promises kept by key; beyond them all become a floor for the whole drive. Bounds memory at some
/// 20 MB; promises that led to an Accept are not kept, so only abandoned writes count.
const PROMISES_MAX: usize = 100_000;

/// Accepts remembered; beyond them the oldest is forgotten before its time, and `since` rises. Bounds
/// memory at some 40 MB.
const REMEMBERED_MAX: usize = 200_000;

/// Promises and memory.
pub(super) struct Volatile {
    /// Everything is promised at least here.
    pub floor: Ballot,
    /// Since when the memory is complete.
    pub since: HybridTime,
    promises: HashMap<Bytes, Ballot>,
    memory: HashMap<Bytes, Vec<Remembered>>,
    /// Keys remembered, by time.
    order: VecDeque<(HybridTime, Bytes)>,
}

impl Volatile {
    pub(super) fn new(floor: Ballot, since: HybridTime) -> Self {
        Self {
            floor,
            since,
            promises: HashMap::new(),
            memory: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    /// The highest ballot promised for any key.
    pub(super) fn highest(&self) -> Ballot {
        self.promises.values().copied().max().unwrap_or_default().max(self.floor)
    }

    /// Adds what is remembered of a key to its state.
    pub(super) fn complete(&self, key: &[u8], state: &mut KeyState) {
        state.promise = self.promises.get(key).copied().unwrap_or_default();
        state.memory = self.memory.get(key).cloned().unwrap_or_default();
    }

    /// Remembers a promise.
    pub(super) fn promise(&mut self, key: Vec<u8>, ballot: Ballot) {
        if self.promises.len() >= PROMISES_MAX {
            let highest = self.promises.drain().map(|(_, promise)| promise).max();
            self.floor = self.floor.max(highest.unwrap_or_default());
        }
        self.promises.insert(key.into(), ballot);
    }

    /// Remembers an accepted operation. A promise at or below its ballot is kept by the entry.
    pub(super) fn accepted(&mut self, key: &[u8], what: Remembered) {
        if self.promises.get(key).is_some_and(|promise| *promise <= what.ballot) {
            self.promises.remove(key);
        }
        let key = Bytes::copy_from_slice(key);
        self.memory.entry(key.clone()).or_default().push(what);
        self.order.push_back((what.at, key));
    }

    /// Forgets that an operation was accepted, for its shard was lost before it was settled (INV-REG-4): from
    /// `now` on the memory is complete again.
    pub(super) fn lost(&mut self, key: &[u8], operation: OperationId, now: HybridTime) {
        self.since = self.since.max(now);
        if let Some(memory) = self.memory.get_mut(key) {
            memory.retain(|remembered| remembered.operation != operation);
        }
    }

    /// Forgets all that was accepted: from `now` on the memory is complete again.
    pub(super) fn forget_all(&mut self, now: HybridTime) {
        self.since = self.since.max(now);
        self.memory.clear();
        self.order.clear();
    }

    /// Forgets what is too old, or too much.
    pub(super) fn forget(&mut self, now: HybridTime) {
        let horizon = HybridTime::from_micros(now.micros().saturating_sub(limits::MEMORY_MICROS));
        while let Some((at, key)) = self.order.front() {
            if *at >= horizon && self.order.len() <= REMEMBERED_MAX {
                break;
            }
            self.since = self.since.max(at.tick());
            if let Some(memory) = self.memory.get_mut(key) {
                memory.retain(|remembered| remembered.at > *at);
                if memory.is_empty() {
                    self.memory.remove(key);
                }
            }
            self.order.pop_front();
        }
    }
}
