//! Runs, and the index that answers for them, as what lies under the overlay.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    meta_index::keeper::IndexKeeper,
    overlay::{Base, BaseError, BasePage},
    runs::{Patience, RunContent, RunError, RunItem, RunStore, set},
};

impl From<RunError> for BaseError {
    fn from(error: RunError) -> Self {
        Self::Failed { cause: error.to_string() }
    }
}

/// The runs alone: exactly the state up to the manifest's position. Replay reads from these, for an
/// index may be ahead of the manifest, and records must not be applied twice.
pub struct RunsBase {
    runs: Arc<RunStore>,
}

impl RunsBase {
    /// The runs of a store, as they are at each call.
    #[must_use]
    pub const fn new(runs: Arc<RunStore>) -> Self {
        Self { runs }
    }
}

impl Base for RunsBase {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, BaseError> {
        Ok(self.runs.set().get(key, Patience::Waits)?.and_then(value_of))
    }

    fn scan(&self, start: &[u8], end: Option<&[u8]>, limit: usize) -> Result<BasePage, BaseError> {
        let mut items = self.runs.set().iter(start, end);
        let (items, more) = set::page(&mut items, limit)?;
        Ok(BasePage { items: items.into_iter().filter_map(pair).collect(), more })
    }

    fn key(&self, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, BaseError> {
        let found = self.runs.set().get_key(prefix, Patience::Waits)?;
        Ok(found.into_iter().filter_map(pair).collect())
    }

    fn try_get(&self, key: &[u8]) -> Result<Option<Option<Bytes>>, BaseError> {
        try_get(&self.runs, key)
    }

    fn try_key(&self, prefix: &[u8]) -> Result<Option<Vec<(Bytes, Bytes)>>, BaseError> {
        try_key(&self.runs, prefix)
    }

    fn is_empty(&self) -> bool {
        self.runs.set().runs().is_empty()
    }
}

/// From filters and blocks in memory.
fn try_get(runs: &RunStore, key: &[u8]) -> Result<Option<Option<Bytes>>, BaseError> {
    match runs.set().get(key, Patience::InMemory) {
        Ok(item) => Ok(Some(item.and_then(value_of))),
        Err(RunError::NotInMemory) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// From filters and blocks in memory.
fn try_key(runs: &RunStore, prefix: &[u8]) -> Result<Option<Vec<(Bytes, Bytes)>>, BaseError> {
    match runs.set().get_key(prefix, Patience::InMemory) {
        Ok(items) => Ok(Some(items.into_iter().filter_map(pair).collect())),
        Err(RunError::NotInMemory) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn pair(item: RunItem) -> Option<(Bytes, Bytes)> {
    Some((item.key.clone(), value_of(item)?))
}

fn value_of(item: RunItem) -> Option<Bytes> {
    match item.content {
        RunContent::Value { bytes, .. } => Some(bytes),
        RunContent::Removed => None,
    }
}

/// The index where it is trusted, the runs where it is not. From memory the runs alone answer, which
/// hold the same: their filters tell of most keys that are not held, and nobody can tell whether sled
/// is going to wait for the device.
pub struct IndexedBase {
    runs: Arc<RunStore>,
    keeper: Arc<IndexKeeper>,
}

impl IndexedBase {
    /// Runs and their index.
    #[must_use]
    pub const fn new(runs: Arc<RunStore>, keeper: Arc<IndexKeeper>) -> Self {
        Self { runs, keeper }
    }
}

impl Base for IndexedBase {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, BaseError> {
        Ok(self.keeper.get(&self.runs.set(), key)?)
    }

    fn scan(&self, start: &[u8], end: Option<&[u8]>, limit: usize) -> Result<BasePage, BaseError> {
        let (items, more) = self.keeper.scan(&self.runs.set(), start, end, limit)?;
        Ok(BasePage { items, more })
    }

    fn key(&self, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, BaseError> {
        Ok(self.keeper.get_key(&self.runs.set(), prefix)?)
    }

    fn try_get(&self, key: &[u8]) -> Result<Option<Option<Bytes>>, BaseError> {
        try_get(&self.runs, key)
    }

    fn try_key(&self, prefix: &[u8]) -> Result<Option<Vec<(Bytes, Bytes)>>, BaseError> {
        try_key(&self.runs, prefix)
    }

    fn is_empty(&self) -> bool {
        self.runs.set().runs().is_empty()
    }
}
