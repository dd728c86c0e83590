//! [`Overlay`]: the net state of the log's tail, above a [`Base`] that holds the rest; and [`Layers`],
//! which answers from both (DRIVE.md, "Log").

mod hidden;
mod slots;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

pub use self::slots::{Overlay, Slot};
pub use crate::base::{Base, BaseError, BasePage, EmptyBase};
use crate::{
    loaded::{Came, Loaded, Recent, Registers, Want},
    member::Gap,
    rot::{RotRange, RotRanges},
    runs::RottenRange,
    value::Value,
};

/// Records of one page asked from the base: a page of a list is a few of them.
const PAGE_RECORDS: usize = 1024;

/// A value and the batch that answers resting on it wait for.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The value, if the key is held.
    pub value: Option<Arc<Value>>,
    /// The batch.
    pub gate: u64,
}

/// Records of a range.
#[derive(Debug, Default)]
pub struct Page {
    /// Keys, strictly rising, and values.
    pub items: Vec<(Bytes, Arc<Value>)>,
    /// Highest gate of all slots in the part of the range looked at, removed keys included.
    pub gate: u64,
    /// Where the part of the range that was not looked at begins; `None` when all was.
    pub next: Option<Bytes>,
    /// Set on a page that shows nothing: all it covers is hidden by rot.
    pub gap: Option<Gap>,
}

impl Page {
    /// Shows what a newer layer holds for a key. Pages of one key have few registers.
    fn overlay(&mut self, key: &Bytes, value: Option<&Arc<Value>>) {
        let at = self.items.binary_search_by(|(held, _)| held.cmp(key));
        match (at, value) {
            (Ok(at), Some(value)) => self.items[at].1 = value.clone(),
            (Ok(at), None) => drop(self.items.remove(at)),
            (Err(at), Some(value)) => self.items.insert(at, (key.clone(), value.clone())),
            (Err(_), None) => {}
        }
    }

    /// The page that says that nothing is known from `first` up to `behind`.
    fn hidden(first: &[u8], behind: Option<Bytes>, end: Option<&[u8]>) -> Self {
        let next = behind.filter(|behind| end.is_none_or(|end| behind[..] < *end));
        let end = next.clone().or_else(|| end.map(Bytes::copy_from_slice));
        let gap = Gap { first: Bytes::copy_from_slice(first), end };
        Self { next, gap: Some(gap), ..Self::default() }
    }
}

/// Overlay above frozen overlay above base.
pub struct Layers {
    overlay: Overlay,
    frozen: Option<Arc<Overlay>>,
    base: Arc<dyn Base>,
    /// While the log is replayed every removal is kept: the index that answers afterwards may be
    /// ahead of the runs that replay reads from, and hold what was removed since.
    replaying: bool,
    /// Keys that rot hides: nothing is answered for them. Replay takes what it does not show as absent.
    rot: RotRanges,
    /// Rot met since [`Self::take_met`].
    met: Mutex<Vec<RottenRange>>,
    /// What was brought up for the decision being made.
    loaded: Loaded,
    /// What the base answered of late in this generation.
    recent: Mutex<Recent>,
    generation: u64,
}

impl Layers {
    /// An empty overlay above `base`. Until [`Self::set_base`] look-ups wait for the device; from
    /// then on they answer from memory, or [`BaseError::Waits`].
    #[must_use]
    pub fn new(base: Arc<dyn Base>) -> Self {
        Self {
            overlay: Overlay::default(),
            frozen: None,
            base,
            replaying: true,
            rot: RotRanges::default(),
            met: Mutex::default(),
            loaded: Loaded::default(),
            recent: Mutex::default(),
            generation: 0,
        }
    }

    /// What answers below the overlay, for I/O threads, and its generation.
    #[must_use]
    pub fn base(&self) -> (Arc<dyn Base>, u64) {
        (self.base.clone(), self.generation)
    }

    /// A decision begins or ends: lets it see what was brought up for it; returns what was there.
    pub fn lend(&mut self, loaded: Loaded) -> Loaded {
        self.recent.get_mut().end_decision();
        std::mem::replace(&mut self.loaded, loaded)
    }

    /// The overlay.
    #[must_use]
    pub const fn overlay(&self) -> &Overlay {
        &self.overlay
    }

    /// Puts or removes a key. `was_absent` tells that nothing was held for it.
    pub fn put(&mut self, key: Bytes, value: Option<Value>, gate: u64, was_absent: bool) {
        self.overlay.put(key, value.map(Arc::new), gate, was_absent && !self.replaying);
    }

    /// What lies above the base in a range of keys: older values of a key first.
    pub fn above_base<'a>(
        &'a self,
        start: &[u8],
        end: &[u8],
    ) -> impl Iterator<Item = (&'a Bytes, Option<&'a Value>)> {
        let layers = self.frozen.as_deref().into_iter().chain([&self.overlay]);
        let slots = layers.flat_map(|layer| layer.range(start, Some(end)).collect::<Vec<_>>());
        slots.map(|(key, slot)| (key, slot.value.as_deref()))
    }

    /// Sets the overlay aside to be written as a run; changes go to a new one from now on.
    ///
    /// # Panics
    /// When one is set aside already.
    pub fn freeze(&mut self) -> Arc<Overlay> {
        assert!(self.frozen.is_none(), "one overlay is written at a time");
        let frozen = Arc::new(std::mem::take(&mut self.overlay));
        self.frozen = Some(frozen.clone());
        frozen
    }

    /// Whether an overlay is set aside.
    #[must_use]
    pub const fn is_frozen(&self) -> bool {
        self.frozen.is_some()
    }

    /// The overlay set aside is part of the base now.
    pub fn thaw(&mut self) {
        self.frozen = None;
        self.base_changed();
    }

    fn base_changed(&mut self) {
        self.generation += 1;
        self.recent.get_mut().clear();
    }

    /// Replay is over: answers come from `base` from now on, which holds the same or, for keys in the
    /// overlay, what came later.
    pub fn set_base(&mut self, base: Arc<dyn Base>) {
        self.base = base;
        self.replaying = false;
        self.rot_changed();
    }

    /// The base's value of a key.
    fn base_get(&self, key: &[u8]) -> Result<Option<Arc<Value>>, BaseError> {
        if self.replaying {
            let held = self.replayed_get(key)?;
            return held.map(|bytes| decode(key, &bytes)).transpose();
        }
        if let Some(held) = self.recent.lock().key(key) {
            return Ok(held);
        }
        let waits = || BaseError::Waits(Want::Keys(vec![Bytes::copy_from_slice(key)]));
        let (held, came) = match self.loaded.key(key) {
            Some(held) => (held.clone(), Came::FromDevice),
            None => (self.met_in(self.base.try_get(key))?.ok_or_else(waits)?, Came::FromMemory),
        };
        let value = held.map(|bytes| decode(key, &bytes)).transpose()?;
        self.recent.lock().note(key, value.as_ref(), came);
        Ok(value)
    }

    /// The base's registers of a key.
    fn base_key(&self, prefix: &[u8]) -> Result<Registers, BaseError> {
        let decoded = |records: Vec<(Bytes, Bytes)>| {
            let decoded = |(key, bytes): (Bytes, Bytes)| decode(&key, &bytes).map(|v| (key, v));
            records.into_iter().map(decoded).collect::<Result<Registers, BaseError>>()
        };
        if self.replaying {
            return decoded(self.base.key(prefix)?);
        }
        if let Some(held) = self.recent.lock().registers(prefix) {
            return Ok(held.clone());
        }
        let waits = || BaseError::Waits(Want::Prefix(Bytes::copy_from_slice(prefix)));
        let (held, came) = match self.loaded.prefix(prefix) {
            Some(held) => (held.clone(), Came::FromDevice),
            None => (self.met_in(self.base.try_key(prefix))?.ok_or_else(waits)?, Came::FromMemory),
        };
        let registers = decoded(held)?;
        self.recent.lock().note_registers(prefix, &registers, came);
        Ok(registers)
    }

    /// The base's page of a range. Never read on the caller's thread: a page is many blocks.
    fn base_page(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        limit: usize,
    ) -> Result<BasePage, BaseError> {
        if self.replaying {
            return self.base.scan(start, end, limit);
        }
        if let Some(page) = self.loaded.page(start, end) {
            return Ok(page.clone());
        }
        if self.base.is_empty() {
            return Ok(BasePage::default());
        }
        let (start, end) = (Bytes::copy_from_slice(start), end.map(Bytes::copy_from_slice));
        Err(BaseError::Waits(Want::Page { start, end, limit }))
    }

    /// Makes sure that look-ups of all these keys will be answered.
    ///
    /// # Errors
    /// [`BaseError::Waits`] naming all that are to be brought up; others as [`Self::get`].
    pub fn ready(&self, keys: impl IntoIterator<Item = Bytes>) -> Result<(), BaseError> {
        Self::ready_by(keys, |key| self.get(key))
    }

    /// As [`Self::ready`], for [`Self::get_counted`].
    ///
    /// # Errors
    /// As [`Self::ready`].
    pub fn ready_counted(&self, keys: impl IntoIterator<Item = Bytes>) -> Result<(), BaseError> {
        Self::ready_by(keys, |key| self.get_counted(key))
    }

    fn ready_by(
        keys: impl IntoIterator<Item = Bytes>,
        get: impl Fn(&[u8]) -> Result<Found, BaseError>,
    ) -> Result<(), BaseError> {
        let mut missing = Vec::new();
        for key in keys {
            match get(&key) {
                Ok(_) => {}
                Err(BaseError::Waits(_)) => missing.push(key),
                Err(error) => return Err(error),
            }
        }
        if missing.is_empty() { Ok(()) } else { Err(BaseError::Waits(Want::Keys(missing))) }
    }

    /// What is held for a key.
    ///
    /// # Errors
    /// When the base cannot say.
    pub fn get(&self, key: &[u8]) -> Result<Found, BaseError> {
        if !self.replaying
            && let Some(range) = self.rot.of(key)
        {
            return Err(BaseError::Rotten(range.into()));
        }
        self.get_counted(key)
    }

    /// As [`Self::get`], of a range that is being counted anew, too: for the count.
    ///
    /// # Errors
    /// When the base cannot say.
    pub fn get_counted(&self, key: &[u8]) -> Result<Found, BaseError> {
        let frozen = self.frozen.as_deref();
        if let Some(slot) = self.overlay.get(key).or_else(|| frozen.and_then(|f| f.get(key))) {
            return Ok(Found { value: slot.value.clone(), gate: slot.gate });
        }
        Ok(Found { value: self.base_get(key)?, gate: 0 })
    }

    /// All registers of the key that encodes as `prefix`.
    ///
    /// # Errors
    /// When the base cannot say.
    pub fn key(&self, prefix: &[u8]) -> Result<Page, BaseError> {
        let end = prefix_end(prefix);
        self.check_shown(prefix, end.as_deref())?;
        let mut page = Page { items: self.base_key(prefix)?, ..Page::default() };
        for layer in self.frozen.as_deref().into_iter().chain([&self.overlay]) {
            for (key, slot) in layer.range(prefix, end.as_deref()) {
                page.gate = page.gate.max(slot.gate);
                page.overlay(key, slot.value.as_ref());
            }
        }
        Ok(page)
    }

    /// Records from `start` on, below `end`: some `wanted` of them. [`Page::next`] says where to go
    /// on; a page may be empty and yet not the last. What rot hides is a page of its own, which says so
    /// ([`Page::gap`]).
    ///
    /// # Errors
    /// When the base cannot say.
    pub fn scan(&self, start: &[u8], end: Option<&[u8]>, wanted: usize) -> Result<Page, BaseError> {
        self.scan_to(self.rot.first_in(start, end), start, end, wanted)
    }

    /// As [`Self::scan`], of what counts: what is open, and not filled yet, is a gap as well.
    ///
    /// # Errors
    /// When the base cannot say.
    pub fn scan_counting(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        wanted: usize,
    ) -> Result<Page, BaseError> {
        self.scan_to(self.rot.first_unfilled_in(start, end), start, end, wanted)
    }

    fn scan_to(
        &self,
        gap: Option<&RotRange>,
        start: &[u8],
        end: Option<&[u8]>,
        wanted: usize,
    ) -> Result<Page, BaseError> {
        let limit = wanted.clamp(1, PAGE_RECORDS);
        let Some(hidden) = gap.filter(|_| !self.replaying) else {
            let below = self.base_page(start, end, limit)?;
            return self.merge_page(start, end, limit, below);
        };
        if hidden.holds(start) {
            return Ok(Page::hidden(start, hidden.behind(), end));
        }
        // Up to what is hidden; who goes on from there is told.
        let end = Some(&hidden.start[..]);
        let below = self.base_page(start, end, limit)?;
        let mut page = self.merge_page(start, end, limit, below)?;
        page.next.get_or_insert_with(|| hidden.start.clone());
        Ok(page)
    }

    /// As [`Self::scan`], waiting for the device, and of all that layers hold, whatever is on record of
    /// them; a rotten block is a gap, and noted. For audits, and before a drive serves.
    ///
    /// # Errors
    /// When the base cannot say.
    pub fn scan_patiently(&self, start: &[u8], end: Option<&[u8]>) -> Result<Page, BaseError> {
        let mut until = end.map(Bytes::copy_from_slice);
        loop {
            match self.base.scan(start, until.as_deref(), PAGE_RECORDS) {
                // The walk goes up to what is rotten, then behind it. The bound falls with each turn.
                Err(BaseError::Rotten(met)) => {
                    self.meet(met.clone());
                    if met.start[..] <= *start {
                        return Ok(Page::hidden(start, met.end, end));
                    }
                    until = Some(met.start);
                }
                below => {
                    let mut page =
                        self.merge_page(start, until.as_deref(), PAGE_RECORDS, below?)?;
                    if until.as_deref() != end {
                        page.next = page.next.or(until);
                    }
                    return Ok(page);
                }
            }
        }
    }

    fn merge_page(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        limit: usize,
        below: BasePage,
    ) -> Result<Page, BaseError> {
        // Each layer is looked at up to some key; the page ends at the lowest of them.
        let mut next = below.items.last().filter(|_| below.more).map(|(key, _)| successor(key));
        let frozen = self.frozen.as_deref();
        for layer in frozen.into_iter().chain([&self.overlay]) {
            let beyond = layer.range(start, next.as_deref().or(end)).nth(limit);
            next = beyond.map(|(key, _)| key.clone()).or(next);
        }
        let until = next.as_deref().or(end);
        let mut newest = self.overlay.range(start, until).peekable();
        let mut older = frozen.into_iter().flat_map(|layer| layer.range(start, until)).peekable();
        let inside = |key: &[u8]| next.as_ref().is_none_or(|next| key < &next[..]);
        let mut oldest = below.items.into_iter().filter(|(key, _)| inside(key)).peekable();
        let mut page = Page { items: Vec::with_capacity(limit), ..Page::default() };
        loop {
            // Of each key that is there the newest layer's word.
            let slots = [newest.peek(), older.peek()].into_iter().flatten().map(|(key, _)| *key);
            let Some(key) = slots.chain(oldest.peek().map(|(key, _)| key)).min().cloned() else {
                break;
            };
            let newer = newest.next_if(|(at, _)| **at == key);
            let old = older.next_if(|(at, _)| **at == key);
            let base = oldest.next_if(|(at, _)| *at == key);
            let value = match (newer.or(old), base) {
                (Some((_, slot)), _) => {
                    page.gate = page.gate.max(slot.gate);
                    slot.value.clone()
                }
                (None, base) => base.map(|(at, bytes)| decode(&at, &bytes)).transpose()?,
            };
            page.items.extend(value.map(|value| (key, value)));
        }
        page.next.clone_from(&next);
        Ok(page)
    }
}

/// The next key there is.
fn successor(key: &[u8]) -> Bytes {
    let mut next = key.to_vec();
    next.push(0);
    next.into()
}

fn decode(key: &[u8], bytes: &[u8]) -> Result<Arc<Value>, BaseError> {
    let value = Value::decode(key, bytes);
    value.map(Arc::new).map_err(|cause| BaseError::Failed { cause: cause.to_string() })
}

/// The first key behind all that begin with `prefix`; `None` when there is none.
#[must_use]
pub fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}
