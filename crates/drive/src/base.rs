//! [`Base`]: what lies under the overlay: runs, and the index that answers for them.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    loaded::Want,
    meta_index::keeper::IndexKeeper,
    rot::RotRanges,
    runs::{Patience, RottenRange, RunContent, RunError, RunItem, RunStore, set},
};

/// Why the base does not answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BaseError {
    /// It cannot be known.
    #[error("look up record: {cause}")]
    Failed {
        /// What was found.
        cause: String,
    },
    /// The run block that knew is rotten, or was (INV-RUN-1).
    #[error("look up record: rot hid what is known of it")]
    Rotten(RottenRange),
    /// Nothing is wrong, but the answer is not in memory: an I/O thread has to bring this up first.
    #[error("look up record: it is not in memory")]
    Waits(Want),
}

/// A page of raw records.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BasePage {
    /// Keys, strictly rising, and values.
    pub items: Vec<(Bytes, Bytes)>,
    /// Whether keys of the range may follow.
    pub more: bool,
}

/// What lies under the overlay: runs, and the index that answers for them.
pub trait Base: Send + Sync {
    /// The value of a key.
    ///
    /// # Errors
    /// When it cannot be known.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, BaseError>;

    /// Records from `start` (inclusive) to `end` (exclusive), at most `limit`.
    ///
    /// # Errors
    /// When they cannot be known.
    fn scan(&self, start: &[u8], end: Option<&[u8]>, limit: usize) -> Result<BasePage, BaseError>;

    /// All registers of the key that encodes as `prefix`.
    ///
    /// # Errors
    /// When they cannot be known.
    fn key(&self, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, BaseError>;

    /// As [`Self::get`], from memory alone: `None` when it would have to wait for the device.
    ///
    /// # Errors
    /// As [`Self::get`].
    fn try_get(&self, key: &[u8]) -> Result<Option<Option<Bytes>>, BaseError>;

    /// As [`Self::key`], from memory alone: `None` when it would have to wait for the device.
    ///
    /// # Errors
    /// As [`Self::key`].
    fn try_key(&self, prefix: &[u8]) -> Result<Option<Vec<(Bytes, Bytes)>>, BaseError>;

    /// Whether it holds nothing at all.
    fn is_empty(&self) -> bool;

    /// What rot hides, or makes void, from now on: it answers with nothing that is void (INV-FILL-1). A base
    /// without runs holds nothing that could be.
    fn pass_by(&self, _rot: &RotRanges) {}
}

/// A base that holds nothing: a drive all of whose state is in its log.
#[derive(Debug, Clone, Copy, Default)]
pub struct EmptyBase;

impl Base for EmptyBase {
    fn get(&self, _: &[u8]) -> Result<Option<Bytes>, BaseError> {
        Ok(None)
    }

    fn scan(&self, _: &[u8], _: Option<&[u8]>, _: usize) -> Result<BasePage, BaseError> {
        Ok(BasePage::default())
    }

    fn key(&self, _: &[u8]) -> Result<Vec<(Bytes, Bytes)>, BaseError> {
        Ok(Vec::new())
    }

    fn try_get(&self, _: &[u8]) -> Result<Option<Option<Bytes>>, BaseError> {
        Ok(Some(None))
    }

    fn try_key(&self, _: &[u8]) -> Result<Option<Vec<(Bytes, Bytes)>>, BaseError> {
        Ok(Some(Vec::new()))
    }

    fn is_empty(&self) -> bool {
        true
    }
}

impl From<RunError> for BaseError {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Rotten(met) => Self::Rotten(met),
            other => Self::Failed { cause: other.to_string() },
        }
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

    fn pass_by(&self, rot: &RotRanges) {
        self.runs.pass_by(rot);
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

    fn pass_by(&self, rot: &RotRanges) {
        self.runs.pass_by(rot);
    }
}
