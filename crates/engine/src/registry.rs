//! Stamps of buckets: which incarnation and epoch a name stands for (PROTOCOL.md section 6).
//!
//! A remembered stamp may be old; drives that know better say so, and the request starts again under
//! what the registry says. INV-BUCKET-2: that a bucket does not exist is said by the registry's
//! register alone, never by what this process remembers.

use std::{collections::HashMap, time::Duration};

use holdfast_drive::api::DriveRequest;
use holdfast_register::{Judgement, Verdict};
use holdfast_types::{
    BucketPhase, BucketStamp, EntryKind, RegisterKey, VersionId, codec::CodecError,
};
use parking_lot::RwLock;

use crate::{bucket_record::BucketRecord, engine::Engine, error::StoreError, set::SetHandle};

/// Stamps remembered at most; beyond it all are forgotten, which costs a registry read each.
const STAMPS_MAX: usize = 65_536;

/// How often a request that waits for the outcome of a deletion looks for it.
const OUTCOME_POLL: Duration = Duration::from_millis(25);

/// What this process remembers of buckets.
#[derive(Default)]
pub(crate) struct Registry {
    stamps: RwLock<HashMap<String, BucketStamp>>,
}

impl Registry {
    fn get(&self, name: &str) -> Option<BucketStamp> {
        self.stamps.read().get(name).copied()
    }

    fn put(&self, name: &str, stamp: BucketStamp) {
        let mut stamps = self.stamps.write();
        if stamps.len() >= STAMPS_MAX {
            stamps.clear();
        }
        stamps.insert(name.to_owned(), stamp);
    }

    /// Forgets `stamp`, unless something else was learnt meanwhile.
    pub(crate) fn forget(&self, name: &str, stamp: BucketStamp) {
        let mut stamps = self.stamps.write();
        if stamps.get(name) == Some(&stamp) {
            stamps.remove(name);
        }
    }
}

/// A damaged registry record.
pub(crate) fn damaged(name: &str, error: CodecError) -> StoreError {
    StoreError::Internal { message: format!("read registry entry of bucket {name}: {error}") }
}

impl Engine {
    /// The stamp under which requests to a bucket go out. Waits for the outcome of a deletion under
    /// way, and completes what is overdue.
    pub(crate) async fn bucket_scope(&self, name: &str) -> Result<BucketStamp, StoreError> {
        if let Some(stamp) = self.registry.get(name) {
            return Ok(stamp);
        }
        let record = self.settled_record(name).await?;
        let live = record.filter(|record| record.phase() == BucketPhase::Live);
        let record = live.ok_or_else(|| StoreError::NoSuchBucket { bucket: name.to_owned() })?;
        self.registry.put(name, record.stamp());
        Ok(record.stamp())
    }

    /// A drive refused `stamp` for it knows `current`: the registry is asked anew.
    pub(crate) async fn bucket_changed(
        &self,
        name: &str,
        stamp: BucketStamp,
        current: BucketStamp,
    ) -> Result<(), StoreError> {
        tracing::debug!(bucket = name, ?stamp, ?current, "bucket changed");
        self.registry.forget(name, stamp);
        Ok(())
    }

    /// What the registry says of a bucket, by a linearizable read.
    pub(crate) async fn bucket_record(
        &self,
        name: &str,
    ) -> Result<Option<BucketRecord>, StoreError> {
        let key = RegisterKey::bucket(name);
        let found =
            self.first_set().read(BucketStamp::REGISTRY, &key, Some(VersionId::NULL)).await?;
        BucketRecord::of(found.as_ref()).map_err(|error| damaged(name, error))
    }

    /// As [`Self::bucket_record`], once nothing is under way that another request would have to wait
    /// for: never `Deleting`; `Creating` only while its creator may yet complete it.
    pub(crate) async fn settled_record(
        &self,
        name: &str,
    ) -> Result<Option<BucketRecord>, StoreError> {
        loop {
            let Some(record) = self.bucket_record(name).await? else { return Ok(None) };
            let overdue = record.is_overdue(self.now_micros());
            match record.phase() {
                BucketPhase::Live => return Ok(Some(record)),
                BucketPhase::Deleted => return Ok(None),
                BucketPhase::Creating if !overdue => return Ok(Some(record)),
                BucketPhase::Creating => self.complete_creation(name, &record).await?,
                BucketPhase::Deleting if overdue => {
                    self.settle_deletion(name, &record).await?;
                }
                BucketPhase::Deleting => tokio::time::sleep(OUTCOME_POLL).await,
            }
        }
    }

    /// Installs a stamp on at least W drives of every set, durably.
    pub(crate) async fn install_stamp(&self, stamp: BucketStamp) -> Result<(), StoreError> {
        let installs = self.sets().iter().map(|set| set.install_stamp(stamp));
        futures::future::try_join_all(installs).await.map(|_| ())
    }
}

impl SetHandle {
    /// Whether what is open by the word of R drives is a settled tombstone, or nothing, by the word
    /// of all. Resolves nothing: under a deletion's mark nothing may be written.
    ///
    /// # Errors
    /// When it is open by the word of all, too: somebody's write is under way, or was given up. To say that
    /// something is there would be as wrong as to say that nothing is.
    pub(crate) async fn is_gone(
        &self,
        scope: BucketStamp,
        key: RegisterKey,
    ) -> Result<bool, StoreError> {
        match self.judged_by_all(scope, &key).await? {
            Judgement::Absent => Ok(true),
            Judgement::Found(found) if found.verdict == Verdict::Settled => {
                Ok(found.entry.kind == EntryKind::Tombstone)
            }
            Judgement::Found(_) => Err(StoreError::Overloaded {
                message: "whether the bucket is empty cannot be told while it is written to"
                    .to_owned(),
            }),
            Judgement::Unknown { have, need } => Err(self.shared.below_quorum(need, have, &[])),
        }
    }

    /// What all drives together say of a key, nothing resolved: who holds it is known exactly.
    pub(crate) async fn judged_by_all(
        &self,
        scope: BucketStamp,
        key: &RegisterKey,
    ) -> Result<Judgement, StoreError> {
        let route = self.shared.route(key)?;
        self.shared.judged(scope, &route).await
    }

    /// Installs a stamp on at least W drives of the set.
    async fn install_stamp(&self, stamp: BucketStamp) -> Result<(), StoreError> {
        let shared = &self.shared;
        let request = DriveRequest::InstallBucket(shared.scope(stamp));
        let requests = (0..usize::from(shared.n())).map(|slot| (slot, request.clone())).collect();
        let mut have = 0;
        let mut missing = Vec::new();
        for (slot, result) in shared.ask_slots(requests).await {
            match result {
                Ok(_) => have += 1,
                Err(error) => missing.push((slot, crate::set::describe(&error))),
            }
        }
        let need = shared.quorum.write();
        if have >= need { Ok(()) } else { Err(shared.below_quorum(need, have, &missing)) }
    }
}
