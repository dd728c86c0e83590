//! What deleted buckets leave behind on drives that were away when they were deleted (INV-BUCKET-4).
//!
//! ```text
//! buckets that local drives hold --not in the registry--> what do the drives of their sets know?
//!                                                           | Deleting or Deleted: tell the local ones
//!                                                           `-- else: nothing is touched
//! ```
//!
//! Two things must come together before anything is erased: the registry does not know the incarnation
//! any more, *and* drives were told of its deletion. A registry that was lost erases nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Weak,
    time::Duration,
};

use bytes::Bytes;
use holdfast_drive::api::{ChoreKind, DriveError, DriveReply, DriveRequest, ListChores, Read};
use holdfast_register::Refusal;
use holdfast_types::{
    BucketEpoch, BucketId, BucketPhase, BucketStamp, Keyspace, NodeIndex, RegisterKey, SetIndex,
};

use crate::{
    bucket_record::BucketRecord, engine::Engine, error::StoreError, set::SetHandle, task,
    uploads::damaged,
};

/// Buckets asked for in one listing or scan.
const PAGE: usize = 1_000;

/// Tells this node's drives, now and then, which buckets are gone.
pub(crate) fn start(engine: Weak<Engine>, node: NodeIndex, every: Duration) {
    task::detach(async move {
        loop {
            tokio::time::sleep(every).await;
            let Some(engine) = engine.upgrade() else { return };
            if let Err(error) = engine.sweep_buckets(node).await {
                tracing::info!(%error, "sweep of deleted buckets left for later");
            }
        }
    });
}

impl Engine {
    /// Tells the drives of `node` which of the buckets that they hold something of are gone: a drive
    /// that was away when a bucket was deleted erases what it holds of it (INV-BUCKET-4).
    ///
    /// The registry had a bucket before any drive heard of it, under a name that never changes, and has
    /// no incarnation twice. So an id that drives know, and that a scan of the registry begun after they
    /// were asked does not show, is not coming back.
    ///
    /// # Errors
    /// [`StoreError`] when the registry's set cannot answer.
    pub async fn sweep_buckets(&self, node: NodeIndex) -> Result<(), StoreError> {
        let mut known: BTreeMap<BucketId, Vec<(SetIndex, usize)>> = BTreeMap::new();
        for set in self.sets() {
            let members = set.shared.members.now();
            let slots = &members.slots;
            for slot in (0..slots.len()).filter(|slot| slots[*slot].node == node) {
                for bucket in set.known_buckets(slot).await {
                    known.entry(bucket).or_default().push((set.index(), slot));
                }
            }
        }
        if known.is_empty() {
            return Ok(());
        }
        let registered = self.registered_buckets().await?;
        known.retain(|bucket, _| !registered.contains(bucket));
        for (bucket, places) in known {
            self.erase_gone(bucket, places).await;
        }
        Ok(())
    }

    async fn erase_gone(&self, bucket: BucketId, places: Vec<(SetIndex, usize)>) {
        for (index, slot) in places {
            let set = &self.sets()[index.get()];
            if !set.is_deleted(bucket).await {
                tracing::info!(%bucket, "bucket is unknown to the registry, and was not deleted");
                return;
            }
            let shared = &set.shared;
            tracing::info!(%bucket, drive = %shared.place(slot), "drive is told of a deletion");
            let gone = DriveRequest::InstallBucket(shared.scope(BucketStamp::gone(bucket)));
            // What fails is told again by the next sweep.
            shared.ask_slots(vec![(slot, gone)]).await;
        }
    }

    /// The incarnations that the registry knows, in whatever phase. Overdue deletions and creations are
    /// completed.
    async fn registered_buckets(&self) -> Result<BTreeSet<BucketId>, StoreError> {
        let mut buckets = BTreeSet::new();
        let mut start = Some(Bytes::new());
        while let Some(from) = start {
            let (scope, space) = (BucketStamp::REGISTRY, Keyspace::Bucket);
            let page = self.first_set().scan(scope, space, from, None, PAGE).await?;
            for (key, candidate) in page.entries {
                let record = BucketRecord::of(Some(&candidate)).map_err(|e| damaged(&key, &e))?;
                let Some(record) = record else { continue };
                buckets.insert(record.stamp().id);
                let under_way = record.phase() != BucketPhase::Live;
                if under_way && record.is_overdue(self.now_micros()) {
                    self.settled_record(&String::from_utf8_lossy(&key.name)).await?;
                }
            }
            start = page.next;
        }
        Ok(buckets)
    }
}

impl SetHandle {
    /// Buckets that one drive does not know to be deleted; none when it does not answer.
    async fn known_buckets(&self, slot: usize) -> Vec<BucketId> {
        let mut buckets: Vec<BucketId> = Vec::new();
        let mut after = None;
        loop {
            let (kind, limit) = (ChoreKind::Buckets, PAGE as u32);
            let list = ListChores { kind, age_micros: 0, after: after.take(), limit };
            let asked = self.shared.ask_slots(vec![(slot, DriveRequest::ListChores(list))]).await;
            let Some((_, Ok(DriveReply::Chores(page)))) = asked.into_iter().next() else { break };
            after = page.last().map(|last| last.cursor.clone());
            buckets.extend(page.iter().map(|chore| chore.key.bucket));
            if page.len() < PAGE {
                break;
            }
        }
        buckets
    }

    /// Whether drives of the set were told that the bucket is going, or gone, and nothing newer.
    async fn is_deleted(&self, bucket: BucketId) -> bool {
        // Below every epoch: a drive that knows the bucket says what it knows.
        let epoch = BucketEpoch(0);
        let stamp = BucketStamp { id: bucket, epoch, phase: BucketPhase::Live };
        let set = &self.shared;
        let request = |slot: usize| {
            let key = RegisterKey::object(bucket, Bytes::new());
            let read = Read { scope: set.scope(stamp), key, version: None, inline: false };
            (slot, DriveRequest::Read(read))
        };
        let answers = set.ask_slots((0..usize::from(set.n())).map(request).collect()).await;
        let known = answers.into_iter().filter_map(|(_, answer)| match answer {
            Err(DriveError::Refused {
                refusal: Refusal::BucketOutdated { current } | Refusal::BucketNotLive { current },
                ..
            }) => Some(current),
            _ => None,
        });
        let newest = known.max_by_key(|stamp| stamp.epoch);
        newest.is_some_and(|stamp| {
            matches!(stamp.phase, BucketPhase::Deleting | BucketPhase::Deleted)
        })
    }
}
