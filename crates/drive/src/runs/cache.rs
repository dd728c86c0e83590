//! Verified blocks in memory, within a byte budget shared by all runs of a drive.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use parking_lot::Mutex;

use super::RunId;

/// What a block costs beside its bytes: map and queue entries.
const ENTRY_OVERHEAD_BYTES: usize = 96;

type Key = (RunId, u64);

/// A cache that gives blocks a second chance: one asked for since it came is passed over once when
/// room is needed.
#[derive(Debug)]
pub struct BlockCache {
    budget_bytes: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    blocks: HashMap<Key, Slot>,
    queue: VecDeque<Key>,
    bytes: usize,
}

#[derive(Debug)]
struct Slot {
    block: Bytes,
    asked: bool,
}

impl BlockCache {
    /// A cache of at most `budget_bytes`.
    #[must_use]
    pub fn new(budget_bytes: usize) -> Self {
        Self { budget_bytes, state: Mutex::default() }
    }

    /// The block, when it is there.
    #[must_use]
    pub fn get(&self, run: RunId, block: u64) -> Option<Bytes> {
        let mut state = self.state.lock();
        let slot = state.blocks.get_mut(&(run, block))?;
        slot.asked = true;
        Some(slot.block.clone())
    }

    /// Adds a verified block; what is oldest and was not asked for goes.
    pub fn put(&self, run: RunId, block: u64, bytes: Bytes) {
        let cost = bytes.len() + ENTRY_OVERHEAD_BYTES;
        if cost > self.budget_bytes / 4 {
            return;
        }
        let mut state = self.state.lock();
        if state.blocks.contains_key(&(run, block)) {
            return;
        }
        state.make_room(self.budget_bytes.saturating_sub(cost));
        state.bytes += cost;
        state.queue.push_back((run, block));
        state.blocks.insert((run, block), Slot { block: bytes, asked: false });
    }

    /// Drops the blocks of a run that is gone.
    pub fn forget(&self, run: RunId) {
        let mut state = self.state.lock();
        let State { blocks, queue, bytes } = &mut *state;
        queue.retain(|key| key.0 != run);
        blocks.retain(|key, slot| {
            let keep = key.0 != run;
            if !keep {
                *bytes -= slot.block.len() + ENTRY_OVERHEAD_BYTES;
            }
            keep
        });
    }

    /// Bytes held, overhead included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.state.lock().bytes
    }
}

impl State {
    fn make_room(&mut self, bytes_max: usize) {
        while self.bytes > bytes_max {
            let Some(key) = self.queue.pop_front() else { return };
            let slot = self.blocks.get_mut(&key).expect("the queue names what is held");
            if std::mem::take(&mut slot.asked) {
                self.queue.push_back(key);
                continue;
            }
            let slot = self.blocks.remove(&key).expect("looked up just now");
            self.bytes -= slot.block.len() + ENTRY_OVERHEAD_BYTES;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the budget holds, what is used stays. Method: ten times the budget, one block asked for
    /// between all others.
    #[test]
    fn the_budget_holds_and_used_blocks_stay() {
        let cache = BlockCache::new(100_000);
        let block = Bytes::from(vec![0; 10_000]);
        cache.put(RunId(1), 0, block.clone());
        for n in 1..100 {
            assert!(cache.get(RunId(1), 0).is_some(), "after {n}");
            cache.put(RunId(1), n, block.clone());
            assert!(cache.bytes() <= 100_000);
        }
        assert!(cache.get(RunId(1), 50).is_none());
        cache.forget(RunId(1));
        assert_eq!(cache.bytes(), 0);
        cache.put(RunId(2), 0, Bytes::from(vec![0; 50_000]));
        assert!(cache.get(RunId(2), 0).is_none(), "one block must not drive all others out");
    }
}
