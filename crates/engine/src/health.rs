//! What a set knows of its drives: which are known to be down, which are slow.
//!
//! Advice only: a drive believed to be up may be silent, one believed to be down may be back. Nothing
//! that is promised rests on it but the width of new versions and how fast an answer comes.
//!
//! ```text
//!   up --unavailable, or 2 deadlines in a row--> down --an answer or a probe--> up
//! ```

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use holdfast_drive::api::{DriveError, DriveResult};
use holdfast_types::ErrorClass;
use parking_lot::Mutex;

use crate::latency::Latencies;

/// Deadlines missed in a row before a drive counts as known down. One may be a hiccup.
const MISSED_MAX: u32 = 2;

/// The health of the drives of one set, by slot.
pub(crate) struct Health {
    slots: Vec<SlotHealth>,
}

#[derive(Default)]
struct SlotHealth {
    down: AtomicBool,
    missed: AtomicU32,
    /// Its node says that it is slow against its siblings.
    slow: AtomicBool,
    /// By [`Kind`].
    latencies: [Mutex<Latencies>; 2],
}

/// Kinds of answers that readers wait for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// What is held for a key.
    Look = 0,
    /// A block of a shard.
    Block = 1,
}

impl Health {
    pub(crate) fn new(slots: usize) -> Self {
        Self { slots: (0..slots).map(|_| SlotHealth::default()).collect() }
    }

    /// Learns from an answer. True when the drive has just gone down.
    pub(crate) fn observe(&self, slot: usize, result: &DriveResult) -> bool {
        match result {
            Err(DriveError::Failed { class: ErrorClass::Unavailable, .. }) => self.mark_down(slot),
            Err(DriveError::Failed { class: ErrorClass::TimedOut, .. }) => {
                let missed = self.slots[slot].missed.fetch_add(1, Relaxed) + 1;
                missed >= MISSED_MAX && self.mark_down(slot)
            }
            _ => {
                self.mark_up(slot);
                false
            }
        }
    }

    /// True when it was believed to be up.
    pub(crate) fn mark_down(&self, slot: usize) -> bool {
        !self.slots[slot].down.swap(true, Relaxed)
    }

    /// True when it was believed to be down.
    pub(crate) fn mark_up(&self, slot: usize) -> bool {
        self.slots[slot].missed.store(0, Relaxed);
        self.slots[slot].down.load(Relaxed) && self.slots[slot].down.swap(false, Relaxed)
    }

    pub(crate) fn is_down(&self, slot: usize) -> bool {
        self.slots[slot].down.load(Relaxed)
    }

    /// Missed its last deadline, or is slow against its siblings: it gets a message of its own, so
    /// that it holds up no sibling, and readers prefer others.
    pub(crate) fn is_suspect(&self, slot: usize) -> bool {
        let slot = &self.slots[slot];
        slot.missed.load(Relaxed) > 0 || slot.slow.load(Relaxed)
    }

    /// Takes note of what the drive's node says.
    pub(crate) fn set_slow(&self, slot: usize, slow: bool) {
        self.slots[slot].slow.store(slow, Relaxed);
    }

    pub(crate) fn down_count(&self) -> u8 {
        self.slots.iter().filter(|slot| slot.down.load(Relaxed)).count() as u8
    }

    /// When an answer of `kind` is late among drives `slots`: the median of what is late for each of
    /// them, which a slow one cannot raise. `None` while too little was seen.
    pub(crate) fn late(&self, kind: Kind, slots: impl Iterator<Item = usize>) -> Option<Duration> {
        let seen = slots.filter_map(|slot| self.slots[slot].latencies[kind as usize].lock().late());
        let mut seen: Vec<Duration> = seen.collect();
        seen.sort_unstable();
        seen.get(seen.len() / 2).copied()
    }

    /// Learns how long an answer took.
    pub(crate) fn sample(&self, slot: usize, kind: Kind, took: Duration) {
        self.slots[slot].latencies[kind as usize].lock().sample(took);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_drive::api::DriveReply;
    use holdfast_types::DriveId;

    /// Goal: the table of the module's drawing. Method: feed answers of each kind.
    #[test]
    fn a_drive_goes_down_by_refusal_to_serve_or_repeated_silence_and_comes_back_by_an_answer() {
        let failed = |class| Err(DriveError::failed(DriveId(1), class, "test"));
        let health = Health::new(2);
        assert!(!health.observe(0, &failed(ErrorClass::TimedOut)));
        assert!(health.is_suspect(0) && !health.is_down(0));
        assert!(health.observe(0, &failed(ErrorClass::TimedOut)));
        assert!(health.is_down(0));
        assert!(health.observe(1, &failed(ErrorClass::Unavailable)));
        assert!(!health.observe(1, &failed(ErrorClass::Unavailable)), "down only once");
        assert_eq!(health.down_count(), 2);
        health.observe(1, &Ok(DriveReply::Done));
        health.observe(0, &failed(ErrorClass::Full));
        assert_eq!(health.down_count(), 0);
    }
}
