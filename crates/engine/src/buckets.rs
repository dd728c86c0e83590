//! Creating, deleting and listing buckets (PROTOCOL.md section 6). The registry entry is a register of
//! the first set; its transitions are conditional writes, and what they mean to the drives is installed
//! on at least W drives of every set before a client hears of it.

use std::future::ready;

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use holdfast_register::{Candidate, Verdict};
use holdfast_types::{
    BucketId, BucketPhase, BucketStamp, EntryKind, Keyspace, RegisterKey, VersionId, limits,
};

use crate::{
    api::{BucketInfo, BucketPage},
    bucket_record::BucketRecord,
    draft::{Decision, Draft},
    engine::Engine,
    error::StoreError,
    list_merge::prefix_end,
    registry::damaged,
};

/// Rounds of meeting another creator's or deleter's transition before a request gives up.
const ROUNDS_MAX: u32 = 8;

/// Names scanned at once while looking whether a bucket is empty.
const EMPTY_SCAN_NAMES: usize = 1_000;

/// Fresh tombstones looked at again at once.
const GONE_CHECKS: usize = 32;

/// How a deletion ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Deletion {
    /// The bucket is gone.
    Done,
    /// Something was in it; it lives on.
    Reverted,
}

impl Engine {
    /// S3: CreateBucket.
    pub(crate) async fn bucket_create(
        &self,
        name: &str,
        location: &str,
    ) -> Result<BucketInfo, StoreError> {
        let exists = || StoreError::BucketExists { bucket: name.to_owned() };
        for _ in 0..ROUNDS_MAX {
            let id = BucketId::draw(self.random.as_ref());
            let fresh = BucketRecord::creating(id, location, self.now_micros());
            let met = self.claim_name(name, &fresh).await?;
            match met.as_ref().map(BucketRecord::phase) {
                None => {
                    self.complete_creation(name, &fresh).await?;
                    return Ok(fresh.info(name));
                }
                // Completing another's creation is idempotent, so there is no need to wait for it.
                Some(BucketPhase::Creating) => {
                    let met = met.expect("it has a phase");
                    self.complete_creation(name, &met).await?;
                    return Err(exists());
                }
                Some(BucketPhase::Live) => return Err(exists()),
                Some(BucketPhase::Deleting | BucketPhase::Deleted) => {
                    self.settled_record(name).await?;
                }
            }
        }
        Err(StoreError::ConditionalConflict)
    }

    /// Writes `fresh` where no bucket is, or answers the record in its way.
    async fn claim_name(
        &self,
        name: &str,
        fresh: &BucketRecord,
    ) -> Result<Option<BucketRecord>, StoreError> {
        let key = RegisterKey::bucket(name);
        let operation = self.draw_operation();
        let decide = |current: Option<&Candidate>| {
            let met = BucketRecord::of(current).map_err(|error| damaged(name, error))?;
            // What this very operation wrote in an earlier round is no obstacle to it.
            Ok(match met.filter(|met| met.id != fresh.id) {
                Some(met) => Decision::Keep(Some(met)),
                None => Decision::Write(Draft::record(operation, fresh.to_bytes()), None),
            })
        };
        self.first_set().update(BucketStamp::REGISTRY, key, VersionId::NULL, decide).await
    }

    /// Carries a creation through: the live stamp on W drives of every set, then the registry. A crash
    /// between the two leaves stamps of an incarnation that nobody has heard of.
    pub(crate) async fn complete_creation(
        &self,
        name: &str,
        creating: &BucketRecord,
    ) -> Result<(), StoreError> {
        let live = creating
            .into_phase(BucketPhase::Live, self.now_micros())
            .expect("a bucket being created may become live");
        self.install_stamp(live.stamp()).await?;
        self.transition(name, creating, &live).await.map(|_| ())
    }

    /// Replaces `from` by `to` in the registry. `false` when something else is there: another's
    /// transition came first.
    async fn transition(
        &self,
        name: &str,
        from: &BucketRecord,
        to: &BucketRecord,
    ) -> Result<bool, StoreError> {
        let key = RegisterKey::bucket(name);
        let operation = self.draw_operation();
        let gone = to.phase() == BucketPhase::Deleted;
        let kind = if gone { EntryKind::Tombstone } else { EntryKind::Put };
        let draft = Draft { kind, ..Draft::record(operation, to.to_bytes()) };
        let decide = |current: Option<&Candidate>| {
            if current.is_some_and(|found| found.entry.operation == operation) {
                return Ok(Decision::Keep(true));
            }
            let met = BucketRecord::of(current).map_err(|error| damaged(name, error))?;
            let expected = met.as_ref() == Some(from);
            Ok(if expected {
                Decision::Write(draft.clone(), true)
            } else {
                // The same step taken by another who completed it is as good as ours.
                Decision::Keep(met.as_ref() == Some(to))
            })
        };
        self.first_set().update(BucketStamp::REGISTRY, key, VersionId::NULL, decide).await
    }

    /// S3: DeleteBucket.
    pub(crate) async fn bucket_delete(&self, name: &str) -> Result<(), StoreError> {
        let not_empty = || StoreError::BucketNotEmpty { bucket: name.to_owned() };
        for _ in 0..ROUNDS_MAX {
            let record = self.settled_record(name).await?;
            let live = record.filter(|record| record.phase() == BucketPhase::Live);
            let live = live.ok_or_else(|| StoreError::NoSuchBucket { bucket: name.to_owned() })?;
            match self.is_empty(live.stamp()).await {
                Ok(true) => {}
                Ok(false) => return Err(not_empty()),
                Err(StoreError::BucketChanged { .. }) => continue,
                Err(error) => return Err(error),
            }
            let deleting = live
                .into_phase(BucketPhase::Deleting, self.now_micros())
                .expect("a live bucket may be marked");
            if !self.transition(name, &live, &deleting).await? {
                continue;
            }
            self.registry.forget(name, live.stamp());
            return match self.settle_deletion(name, &deleting).await? {
                Deletion::Done => Ok(()),
                Deletion::Reverted => Err(not_empty()),
            };
        }
        Err(StoreError::ConditionalConflict)
    }

    /// Carries a deletion through, or reverts it. Idempotent: whoever meets an overdue one does this.
    ///
    /// Steps, and what a crash after each leaves: 1 mark W drives of every set: writes wait until the
    /// mark is overdue; 2 list again under the mark, which marks the drives that are asked, too, so
    /// nothing that the list did not show can still be chosen (INV-BUCKET-3); 3 the registry: the
    /// outcome stands; 4 install it: drives that are behind learn it from the next request.
    pub(crate) async fn settle_deletion(
        &self,
        name: &str,
        deleting: &BucketRecord,
    ) -> Result<Deletion, StoreError> {
        let checked = match self.install_stamp(deleting.stamp()).await {
            Ok(()) => self.is_empty(deleting.stamp()).await,
            Err(error) => Err(error),
        };
        let phase =
            if matches!(checked, Ok(true)) { BucketPhase::Deleted } else { BucketPhase::Live };
        let outcome = deleting
            .into_phase(phase, self.now_micros())
            .expect("a bucket being deleted may live on or be gone");
        let ours = self.transition(name, deleting, &outcome).await?;
        if let Err(error) = checked {
            let moved = matches!(error, StoreError::BucketChanged { .. });
            if !moved {
                return Err(error);
            }
        }
        if !ours {
            return self.deletion_outcome(name, deleting).await;
        }
        match phase {
            BucketPhase::Deleted => {
                // The mark alone keeps requests of the old epoch out; this only spares them the wait.
                if let Err(error) = self.install_stamp(outcome.stamp()).await {
                    tracing::info!(bucket = name, %error, "deleted bucket is still marked as deleting");
                }
                Ok(Deletion::Done)
            }
            _ => {
                self.install_stamp(outcome.stamp()).await?;
                Ok(Deletion::Reverted)
            }
        }
    }

    /// What became of a deletion that another settled.
    async fn deletion_outcome(
        &self,
        name: &str,
        deleting: &BucketRecord,
    ) -> Result<Deletion, StoreError> {
        let now = self.bucket_record(name).await?;
        let lives = now.is_some_and(|now| now.id == deleting.id);
        Ok(if lives { Deletion::Reverted } else { Deletion::Done })
    }

    /// Whether a bucket holds nothing but tombstones. Uploads do not count; they go with the bucket
    /// id.
    async fn is_empty(&self, stamp: BucketStamp) -> Result<bool, StoreError> {
        for set in self.sets() {
            let mut start = Some(Bytes::new());
            while let Some(from) = start {
                let page = set.scan(stamp, Keyspace::Object, from, None, EMPTY_SCAN_NAMES).await?;
                if page.entries.iter().any(|(_, found)| is_there(stamp, found)) {
                    return Ok(false);
                }
                let keys: Vec<RegisterKey> = page.entries.into_iter().map(|(key, _)| key).collect();
                let checks = keys.into_iter().map(|key| set.is_gone(stamp, key));
                let gone = stream::iter(checks).buffer_unordered(GONE_CHECKS);
                if !gone.try_fold(true, |all, one| ready(Ok(all && one))).await? {
                    return Ok(false);
                }
                start = page.next;
            }
        }
        Ok(true)
    }

    /// S3: HeadBucket, GetBucketLocation.
    pub(crate) async fn bucket_head(&self, name: &str) -> Result<BucketInfo, StoreError> {
        let mut record = self.bucket_record(name).await?;
        if record.as_ref().is_some_and(|record| {
            record.phase() == BucketPhase::Creating && record.is_overdue(self.now_micros())
        }) {
            record = self.settled_record(name).await?;
        }
        let visible = record.filter(BucketRecord::is_visible);
        let found = visible.map(|record| record.info(name));
        found.ok_or_else(|| StoreError::NoSuchBucket { bucket: name.to_owned() })
    }

    /// S3: ListBuckets.
    pub(crate) async fn buckets_list(
        &self,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<BucketPage, StoreError> {
        let end = prefix_end(prefix.as_bytes()).map(Bytes::from);
        let behind = if after.is_empty() { String::new() } else { format!("{after}\0") };
        let mut start = Some(Bytes::from(behind.max(prefix.to_owned()).into_bytes()));
        let mut buckets = Vec::new();
        while let Some(from) = start.take().filter(|_| buckets.len() <= limit) {
            let wanted = (limit + 1 - buckets.len()).min(limits::PAGE_KEYS_MAX);
            let scope = BucketStamp::REGISTRY;
            let page =
                self.first_set().scan(scope, Keyspace::Bucket, from, end.clone(), wanted).await?;
            for (key, candidate) in page.entries {
                let name = String::from_utf8_lossy(&key.name).into_owned();
                let record = BucketRecord::of(Some(&candidate)).map_err(|e| damaged(&name, e))?;
                buckets.extend(record.filter(BucketRecord::is_visible).map(|r| r.info(&name)));
            }
            start = page.next;
        }
        let truncated = buckets.len() > limit;
        buckets.truncate(limit);
        let next = buckets.last().filter(|_| truncated).map(|bucket| bucket.name.clone());
        Ok(BucketPage { buckets, next })
    }
}

/// Whether what a scan shows is an object for sure. What is open was resolved where that is allowed; under
/// a deletion's mark all drives have to be asked, for neither an object nor a tombstone is certain.
fn is_there(stamp: BucketStamp, found: &Candidate) -> bool {
    let certain = stamp.phase != BucketPhase::Deleting || found.verdict == Verdict::Settled;
    certain && found.entry.kind != EntryKind::Tombstone
}
