//! Versions that no drives together can restore any more: fewer good shards everywhere than their bytes need
//! (ADR 0022). Nothing of them is deleted; they are on record at the node that found them until they are whole, or gone.
//!
//! ```text
//! healer, rebuild: too few shards --every drive answered, fewer than k have theirs--> entered: since when, why
//!     swept with the healer, or `restore` by an operator: tried again --> whole: off the record
//!                                                                     --> overwritten, deleted, its bucket gone: off the record
//!                                                                     --> still short
//! ```
//!
//! A drive that is silent may have its shard: while one is, nothing is entered, and nothing goes off the record but what
//! became whole.

use std::collections::BTreeMap;

use bytes::Bytes;
use holdfast_register::HolderMask;
use holdfast_types::{
    BucketId, BucketPhase, BucketStamp, Keyspace, OperationId, RegisterKey, VersionId,
    view::{QuarantineRow, QuarantineView},
};
use parking_lot::Mutex;

use crate::{
    bucket_record::BucketRecord, census::Census, engine::Engine, error::StoreError, read::Question,
    set::SetHandle, workers::stamp_of,
};

/// Versions on record at one node. What is beyond it is counted, and entered when there is room: their repair records, on
/// the drives, bring the healer to them again.
const ENTRIES_MAX: usize = 1_000;

/// Characters of a reason that are kept.
const WHY_CHARS: usize = 300;

/// Times a request starts again because the bucket or the set changed under it.
const ROUNDS: u32 = 4;

const MICROS: u64 = 1_000_000;

/// What is on record at this node.
#[derive(Default)]
pub(crate) struct Quarantine(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    entries: BTreeMap<(RegisterKey, VersionId), Entry>,
    refused: u64,
    /// Raised by every change, so that whoever writes it down knows.
    changes: u64,
}

/// A version on record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub(crate) operation: OperationId,
    pub(crate) since_micros: u64,
    pub(crate) good: u8,
    pub(crate) need: u8,
    pub(crate) why: String,
}

impl Entry {
    /// A version that is short as counted.
    pub(crate) const fn new(
        operation: OperationId,
        since_micros: u64,
        census: &Census,
        why: String,
    ) -> Self {
        Self { operation, since_micros, good: census.good, need: census.need, why }
    }
}

/// What came of another try.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Retried {
    /// Every drive has its shard.
    Whole,
    /// It was overwritten or deleted, or its bucket was.
    Gone,
    /// It is still short, or drives are silent: why.
    Short(String),
}

impl Quarantine {
    /// Enters a version, or what is known of it now: since when it is short stays.
    pub(crate) fn enter(&self, key: RegisterKey, version: VersionId, mut entry: Entry) {
        if let Some((end, _)) = entry.why.char_indices().nth(WHY_CHARS) {
            entry.why.truncate(end);
        }
        let mut inner = self.0.lock();
        let place = (key, version);
        let known = inner.entries.get(&place).filter(|known| known.operation == entry.operation);
        match known {
            Some(known) => entry.since_micros = known.since_micros,
            None if inner.entries.len() >= ENTRIES_MAX && !inner.entries.contains_key(&place) => {
                inner.refused += 1;
                return;
            }
            None => {
                let (good, need, why) = (entry.good, entry.need, &entry.why);
                tracing::error!(key = ?place.0, version = %version, good, need, why, "a version cannot be restored: quarantined");
            }
        }
        if inner.entries.get(&place) != Some(&entry) {
            inner.entries.insert(place, entry);
            inner.changes += 1;
        }
    }

    fn leave(&self, key: &RegisterKey, version: VersionId, how: &Retried) {
        let mut inner = self.0.lock();
        if inner.entries.remove(&(key.clone(), version)).is_some() {
            inner.changes += 1;
            tracing::info!(?key, %version, ?how, "out of quarantine");
        }
    }

    fn all(&self) -> Vec<((RegisterKey, VersionId), Entry)> {
        let inner = self.0.lock();
        inner.entries.iter().map(|(place, entry)| (place.clone(), entry.clone())).collect()
    }
}

impl Engine {
    /// Raised by every change of what is on record.
    #[must_use]
    pub fn quarantine_changes(&self) -> u64 {
        self.quarantine.0.lock().changes
    }

    /// What is on record at this node, buckets by their ids: to be written down.
    #[must_use]
    pub fn quarantine_rows(&self) -> Vec<QuarantineRow> {
        let rows = self.quarantine.all();
        rows.iter().map(|(place, entry)| self.row(place, entry, &BTreeMap::new())).collect()
    }

    /// Takes in what was written down. Rows that are not understood are left out.
    pub fn load_quarantine(&self, rows: Vec<QuarantineRow>) {
        for row in rows {
            let bytes = unhex(&row.register);
            let Some(Ok((key, version))) = bytes.map(|bytes| RegisterKey::decode_register(&bytes))
            else {
                continue;
            };
            let Ok(operation) = row.operation.parse() else { continue };
            let entry = Entry {
                operation,
                since_micros: row.since * MICROS,
                good: row.good.try_into().unwrap_or(u8::MAX),
                need: row.need.try_into().unwrap_or(u8::MAX),
                why: row.why,
            };
            self.quarantine.enter(key, version, entry);
        }
    }

    /// What is on record at this node, as an operator sees it.
    pub async fn quarantine_view(&self) -> QuarantineView {
        let all = self.quarantine.all();
        // Without the registry buckets are told by their ids.
        let names = if all.is_empty() { BTreeMap::new() } else { self.bucket_names().await };
        let local = self.local.and_then(|node| self.nodes.get(node.get()));
        QuarantineView {
            node: local.map_or_else(String::new, |node| node.name().to_owned()),
            entries: all.iter().map(|(place, entry)| self.row(place, entry, &names)).collect(),
            refused: self.quarantine.0.lock().refused,
            error: String::new(),
        }
    }

    fn row(
        &self,
        (key, version): &(RegisterKey, VersionId),
        entry: &Entry,
        names: &BTreeMap<BucketId, String>,
    ) -> QuarantineRow {
        let (name, part) = match key.upload_parts() {
            Ok((name, _, part)) => (name, part),
            Err(_) => (key.name.clone(), None),
        };
        let bucket = names.get(&key.bucket).cloned();
        QuarantineRow {
            register: hex(&key.encode_register(*version)),
            bucket: bucket.unwrap_or_else(|| key.bucket.to_string()),
            key: String::from_utf8_lossy(&name).into_owned(),
            part: part.map(u32::from),
            version: version.to_string(),
            operation: entry.operation.to_string(),
            set: self.set_for(key).index().0.into(),
            good: entry.good.into(),
            need: entry.need.into(),
            since: entry.since_micros / MICROS,
            why: entry.why.clone(),
        }
    }

    async fn bucket_names(&self) -> BTreeMap<BucketId, String> {
        let (mut names, mut start) = (BTreeMap::new(), Some(Bytes::new()));
        while let Some(from) = start.take() {
            let limit = holdfast_types::limits::PAGE_KEYS_MAX;
            let scan =
                self.first_set().scan(BucketStamp::REGISTRY, Keyspace::Bucket, from, None, limit);
            let Ok(page) = scan.await else { return names };
            for (key, candidate) in page.entries {
                if let Ok(Some(record)) = BucketRecord::of(Some(&candidate)) {
                    let name = String::from_utf8_lossy(&key.name).into_owned();
                    names.insert(record.stamp().id, name);
                }
            }
            start = page.next;
        }
        names
    }

    /// The healer could not restore a version: enters it when every drive answers and too few have their shards.
    pub(crate) async fn suspect_lost(
        &self,
        set: &SetHandle,
        scope: BucketStamp,
        (key, version): (&RegisterKey, VersionId),
        operation: OperationId,
        error: &StoreError,
    ) {
        let counted = set.census(scope, key, version, operation).await;
        let Ok(census) = counted else { return };
        if census.is_lost() {
            let now = self.clock.wall_micros();
            let entry = Entry::new(operation, now, &census, error.to_string());
            self.quarantine.enter(key.clone(), version, entry);
        }
    }

    /// Tries each version on record again.
    pub(crate) async fn sweep_quarantine(&self) {
        for ((key, version), entry) in self.quarantine.all() {
            self.retry(&key, version, entry).await;
        }
    }

    /// Tries at once to restore what is on record under `register` (of a [`QuarantineRow`]); one line on what came of it.
    ///
    /// # Errors
    /// [`StoreError::InvalidArgument`] when this node has no such record.
    pub async fn restore_quarantined(&self, register: &str) -> Result<String, StoreError> {
        let place = unhex(register).and_then(|bytes| RegisterKey::decode_register(&bytes).ok());
        let entry =
            place.as_ref().and_then(|place| self.quarantine.0.lock().entries.get(place).cloned());
        let (Some((key, version)), Some(entry)) = (place, entry) else {
            let message = "this node has no such version on record".to_owned();
            return Err(StoreError::InvalidArgument { message });
        };
        Ok(match self.retry(&key, version, entry).await {
            Retried::Whole => "whole again: every drive has its shard".to_owned(),
            Retried::Gone => "gone: it was overwritten or deleted meanwhile".to_owned(),
            Retried::Short(why) => format!("still short: {why}"),
        })
    }

    async fn retry(&self, key: &RegisterKey, version: VersionId, entry: Entry) -> Retried {
        let set = self.set_for(key);
        let mut stamps = BTreeMap::new();
        let mut retried = Err(StoreError::Internal { message: "not tried".to_owned() });
        for _ in 0..ROUNDS {
            let stamp = stamp_of(&stamps, key);
            if stamp.phase == BucketPhase::Deleted {
                retried = Ok(Retried::Gone);
                break;
            }
            retried = self.retry_under(&set, stamp, (key, version), &entry).await;
            match &retried {
                Err(StoreError::BucketChanged { current }) => {
                    stamps.insert(current.id, *current);
                }
                Err(StoreError::SetChanged { .. }) => {}
                _ => break,
            }
        }
        let retried = retried.unwrap_or_else(|error| Retried::Short(error.to_string()));
        if matches!(retried, Retried::Whole | Retried::Gone) {
            self.quarantine.leave(key, version, &retried);
        }
        retried
    }

    async fn retry_under(
        &self,
        set: &SetHandle,
        scope: BucketStamp,
        (key, version): (&RegisterKey, VersionId),
        entry: &Entry,
    ) -> Result<Retried, StoreError> {
        let census = set.census(scope, key, version, entry.operation).await?;
        let full = HolderMask::full(set.shared.n());
        if census.whole == full {
            return Ok(Retried::Whole);
        }
        if census.held == 0 && census.silent == 0 {
            return Ok(Retried::Gone);
        }
        let route = set.shared.route(key)?;
        let question =
            Question { scope, route: route.clone(), version: Some(version), inline: false };
        let Some(found) = set.shared.look(&question).await? else { return Ok(Retried::Gone) };
        if found.candidate.entry.operation != entry.operation {
            return Ok(Retried::Gone);
        }
        let up = set.shared.up(&route).into_iter();
        let lacking: Vec<u8> = up.filter(|shard| !census.whole.has(*shard)).collect();
        let candidate = &found.candidate;
        let mut brought = self.bring(set, scope, &route, candidate, census.whole, &lacking).await;
        for shard in lacking {
            let restocked = set.shared.restock(scope, &route, candidate, shard).await;
            brought = brought.and_then(|brought| restocked.map(|()| brought));
        }
        let after = set.census(scope, key, version, entry.operation).await?;
        if after.whole == full {
            return Ok(Retried::Whole);
        }
        let Census { good, need, silent, .. } = after;
        let why = brought.err().map_or_else(String::new, |error| format!("; {error}"));
        let why = format!("{good} good shards of the {need} it needs, {silent} drives silent{why}");
        let now = Entry::new(entry.operation, entry.since_micros, &after, why.clone());
        self.quarantine.enter(key.clone(), version, now);
        Ok(Retried::Short(why))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|digit| digit.to_digit(16).map(|value| value as u8)).collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2))?;
    Some(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(operation: u128, since_micros: u64, why: &str) -> Entry {
        let operation = OperationId(operation);
        Entry { operation, since_micros, good: 3, need: 12, why: why.to_owned() }
    }

    /// Goal: what is known longest stays so, another write of the key begins anew, and there is a bound. Method: enter
    /// the same, another operation, and too many.
    #[test]
    fn the_record_is_bounded_and_remembers_since_when() {
        let quarantine = Quarantine::default();
        let key = |n: usize| RegisterKey::object(BucketId(1), format!("k{n}").into_bytes());
        quarantine.enter(key(0), VersionId::NULL, entry(1, 50, "first"));
        quarantine.enter(key(0), VersionId::NULL, entry(1, 90, "again"));
        let all = quarantine.all();
        assert_eq!((all[0].1.since_micros, all[0].1.why.as_str()), (50, "again"));
        quarantine.enter(key(0), VersionId::NULL, entry(2, 95, "another"));
        assert_eq!(quarantine.all()[0].1.since_micros, 95);
        for n in 1..ENTRIES_MAX + 5 {
            quarantine.enter(key(n), VersionId::NULL, entry(3, 1, "more"));
        }
        let before = {
            let inner = quarantine.0.lock();
            assert_eq!((inner.entries.len(), inner.refused), (ENTRIES_MAX, 5));
            inner.changes
        };
        quarantine.leave(&key(0), VersionId::NULL, &Retried::Whole);
        quarantine.leave(&key(0), VersionId::NULL, &Retried::Whole);
        assert_eq!(quarantine.0.lock().changes, before + 1);
    }

    #[test]
    fn registers_survive_their_text() {
        let bytes =
            RegisterKey::object(BucketId(7), &b"a\0//\xff"[..]).encode_register(VersionId(5));
        assert_eq!(unhex(&hex(&bytes)).as_deref(), Some(&bytes[..]));
        assert_eq!((unhex("abc"), unhex("zz")), (None, None));
    }
}
