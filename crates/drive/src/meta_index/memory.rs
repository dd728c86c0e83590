//! The in-memory twin of the sled index, for simulations and property tests: same records, same
//! certificate, same refusals. Its [`MemoryMedium`] stands for the disk: it outlives the index, and
//! tests crash, wipe and scribble it.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;

use super::{
    IndexError, IndexPage, Lookup, Lsn, MetaIndex, SCAN_PAGE_MAX,
    record::{self, Certificate, Digest},
};

/// What a [`MemoryIndex`] is stored on.
#[derive(Clone, Debug, Default)]
pub struct MemoryMedium(Arc<Mutex<Content>>);

#[derive(Debug, Default)]
struct Content {
    records: BTreeMap<Vec<u8>, Vec<u8>>,
    certificate: Option<Vec<u8>>,
    /// Changes since the certificate, with what was there before: what a crash may take back.
    unsynced: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Content {
    fn set(&mut self, key: &[u8], record: Option<Vec<u8>>) {
        let old = match record {
            Some(record) => self.records.insert(key.to_vec(), record),
            None => self.records.remove(key),
        };
        self.unsynced.push((key.to_vec(), old));
    }
}

impl MemoryMedium {
    /// A blank medium.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Power loss: of each change since the last certificate `keep` tells whether it survives.
    pub fn crash(&self, mut keep: impl FnMut() -> bool) {
        let mut content = self.lock();
        let unsynced = std::mem::take(&mut content.unsynced);
        for (key, old) in unsynced.into_iter().rev() {
            if keep() {
                continue;
            }
            match old {
                Some(record) => content.records.insert(key, record),
                None => content.records.remove(&key),
            };
        }
    }

    /// The directory is deleted.
    pub fn wipe(&self) {
        *self.lock() = Content::default();
    }

    /// One bit flips somewhere in records or certificate, chosen by `seed`. Nothing on a blank medium.
    pub fn flip_bit(&self, seed: u64) {
        let mut content = self.lock();
        let count = content.records.len() as u64;
        let at = seed.checked_rem(count + 1).unwrap_or(0) as usize;
        let Content { records, certificate, .. } = &mut *content;
        let target = records.values_mut().nth(at).or(certificate.as_mut());
        if let Some(bytes) = target.filter(|bytes| !bytes.is_empty()) {
            let bit = (seed >> 17) as usize % (bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    /// The last `count` records (in key order) vanish: a cut tail.
    pub fn cut_tail(&self, count: usize) {
        let mut content = self.lock();
        for _ in 0..count {
            content.records.pop_last();
        }
    }

    /// One record, chosen by `seed`, becomes another one that is as sound: what a stale leaf shows. Its key,
    /// unless the medium is blank.
    pub fn falsify(&self, seed: u64) -> Option<Vec<u8>> {
        let mut content = self.lock();
        let at = seed.checked_rem(content.records.len() as u64)? as usize;
        let (key, stored) = content.records.iter_mut().nth(at)?;
        let lsn = record::open(key, stored).ok()?.lsn()?;
        *stored = record::seal(key, Lsn(lsn.0.saturating_sub(1)), b"what was held before");
        Some(key.clone())
    }

    /// Records there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().records.len()
    }
}

/// The twin. One at a time may be open on a medium.
#[derive(Debug)]
pub struct MemoryIndex {
    medium: MemoryMedium,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    digest: Digest,
    certified: Option<Lsn>,
}

impl MemoryIndex {
    /// An empty index on `medium`; what was there is gone.
    #[must_use]
    pub fn create(medium: &MemoryMedium) -> Self {
        medium.wipe();
        Self { medium: medium.clone(), state: Mutex::default() }
    }

    /// Opens what is on `medium`.
    ///
    /// # Errors
    /// [`IndexError`] when certificate and content disagree: build it anew with [`Self::create`].
    pub fn open(medium: &MemoryMedium) -> Result<Self, IndexError> {
        let content = medium.lock();
        let bytes = content.certificate.as_ref();
        let absent = || IndexError::Mismatch { what: "there is no certificate".to_owned() };
        let certificate = Certificate::from_bytes(bytes.ok_or_else(absent)?)?;
        let mut digest = Digest::default();
        for (key, stored) in &content.records {
            record::open(key, stored)?;
            digest.add(stored);
        }
        if digest != certificate.digest {
            let what = format!("certified {:?}, found {digest:?}", certificate.digest);
            return Err(IndexError::Mismatch { what });
        }
        drop(content);
        let state = State { digest, certified: Some(certificate.lsn) };
        Ok(Self { medium: medium.clone(), state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the record of `key` unless a newer one is held.
    fn change(&self, key: &[u8], lsn: Lsn, record: Option<Vec<u8>>) -> Result<(), IndexError> {
        let mut state = self.state();
        let mut content = self.medium.lock();
        let held = content.records.get(key);
        if let Some(held) = held {
            if record::open(key, held)?.lsn() > Some(lsn) {
                return Ok(());
            }
            state.digest.subtract(held);
        } else if record.is_none() {
            return Ok(());
        }
        if let Some(record) = &record {
            state.digest.add(record);
        }
        content.set(key, record);
        Ok(())
    }
}

impl MetaIndex for MemoryIndex {
    fn get(&self, key: &[u8]) -> Result<Lookup, IndexError> {
        match self.medium.lock().records.get(key) {
            Some(held) => record::open(key, held),
            None => Ok(Lookup::Absent),
        }
    }

    fn put(&self, key: &[u8], lsn: Lsn, value: &[u8]) -> Result<(), IndexError> {
        self.change(key, lsn, Some(record::seal(key, lsn, value)))
    }

    fn remove(&self, key: &[u8], lsn: Lsn) -> Result<(), IndexError> {
        self.change(key, lsn, None)
    }

    fn scan(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        limit: usize,
    ) -> Result<IndexPage, IndexError> {
        let content = self.medium.lock();
        if end.is_some_and(|end| end <= start) {
            return Ok(IndexPage::default());
        }
        let range = (Bound::Included(start), end.map_or(Bound::Unbounded, Bound::Excluded));
        let mut records = content.records.range::<[u8], _>(range);
        let mut items = Vec::new();
        for (key, held) in records.by_ref().take(limit.min(SCAN_PAGE_MAX)) {
            items.push((Bytes::copy_from_slice(key), record::open(key, held)?));
        }
        Ok(IndexPage { items, more: records.next().is_some() })
    }

    fn certify(&self, lsn: Lsn) -> Result<(), IndexError> {
        let mut state = self.state();
        let mut content = self.medium.lock();
        content.certificate = Some(Certificate { lsn, digest: state.digest }.to_bytes());
        content.unsynced.clear();
        state.certified = Some(lsn);
        Ok(())
    }

    fn certified(&self) -> Option<Lsn> {
        self.state().certified
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(medium: &MemoryMedium) -> MemoryIndex {
        let index = MemoryIndex::create(medium);
        for n in 0..50_u64 {
            index.put(&n.to_be_bytes(), Lsn(n), b"value").unwrap();
        }
        index.certify(Lsn(50)).unwrap();
        index
    }

    /// Goal: replay is idempotent and never goes back. Method: old puts and removes over newer ones.
    #[test]
    fn the_higher_position_wins() {
        let index = filled(&MemoryMedium::new());
        index.put(b"k", Lsn(9), b"new").unwrap();
        index.put(b"k", Lsn(8), b"old").unwrap();
        index.remove(b"k", Lsn(8)).unwrap();
        let held = Lookup::Value { lsn: Lsn(9), bytes: Bytes::from_static(b"new") };
        assert_eq!(index.get(b"k"), Ok(held));
        index.remove(b"k", Lsn(10)).unwrap();
        assert_eq!(index.get(b"k"), Ok(Lookup::Absent));
    }

    /// Goal: INV-INDEX-1 at opening. Method: crash with changes half kept, cut, flip, wipe; each is
    /// refused; a crash that keeps nothing, or a clean end, is not.
    #[test]
    fn an_index_that_is_not_the_certified_one_is_refused() {
        let medium = MemoryMedium::new();
        drop(filled(&medium));
        let index = MemoryIndex::open(&medium).unwrap();
        assert_eq!(index.certified(), Some(Lsn(50)));
        index.put(b"a", Lsn(51), b"x").unwrap();
        index.remove(&7_u64.to_be_bytes(), Lsn(52)).unwrap();
        medium.crash(|| false);
        let index = MemoryIndex::open(&medium).unwrap();
        index.put(b"a", Lsn(51), b"x").unwrap();
        medium.crash(|| true);
        assert!(MemoryIndex::open(&medium).is_err(), "kept changes behind the certificate");
        let faults: [fn(&MemoryMedium); 3] =
            [|m| m.cut_tail(1), |m| m.wipe(), |m| m.flip_bit(0x1234_5678_9abc)];
        for fault in faults {
            drop(filled(&medium));
            fault(&medium);
            assert!(MemoryIndex::open(&medium).is_err());
        }
    }
}
