//! Conditional writers of one key take turns at a node. Each that works at the same time as another outbids it, and has to begin
//! again; a dozen of them can outbid each other until all give up. In a line, only writers of different nodes meet.
//!
//! A line is shared by keys whose hashes agree, so that there is a bound of them. Who waits in vain wrote nothing.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use holdfast_types::RegisterKey;
use tokio::sync::{Mutex, MutexGuard};

/// Lines of a set: few enough to cost nothing, so many that strangers hardly meet.
const LINES: usize = 1024;

/// The lines of one set at one node.
pub(crate) struct Turns {
    lines: Box<[Mutex<()>]>,
    hasher: RandomState,
}

impl Default for Turns {
    fn default() -> Self {
        let lines = (0..LINES).map(|_| Mutex::default()).collect();
        Self { lines, hasher: RandomState::new() }
    }
}

impl Turns {
    /// The turn of a writer of `key`; `None` when it does not come within `patience`.
    pub(crate) async fn take(
        &self,
        key: &RegisterKey,
        patience: Duration,
    ) -> Option<MutexGuard<'_, ()>> {
        let line = self.hasher.hash_one(key) as usize % LINES;
        tokio::time::timeout(patience, self.lines[line].lock()).await.ok()
    }
}
