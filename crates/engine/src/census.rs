//! What all drives of a set together have of one version: whether its bytes can still be restored.
//!
//! The bytes of an object that was sent in parts are those of its parts, and each part is restored from its own shards:
//! drives that lack different parts may restore them for each other. So each part is counted by itself.

use std::sync::Arc;

use futures::{StreamExt, stream};
use holdfast_drive::api::{DriveReply, ShardSource};
use holdfast_register::{HolderMask, ShardStatus};
use holdfast_types::{BucketStamp, Entry, OperationId, RegisterKey, VersionId};

use crate::{
    error::StoreError,
    read::{Question, check_scope},
    restore::Body,
    set::{Route, SetHandle, SetShared},
};

/// Parts asked after at once: a message to each drive for every one of them.
const PARTS_AT_ONCE: usize = 16;

/// What all drives of a set say of a version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Census {
    /// Shards of drives that hold all they should of it.
    pub(crate) whole: HolderMask,
    /// Drives that hold its entry.
    pub(crate) held: u8,
    /// Drives that did not say all they could: they may have what is lacking.
    pub(crate) silent: u8,
    /// Good shards of its own bytes, or of the part that has fewest beyond its need.
    pub(crate) good: u8,
    /// Shards that those bytes need.
    pub(crate) need: u8,
}

impl Census {
    /// Whether all drives together cannot restore it: each has answered.
    pub(crate) const fn is_lost(&self) -> bool {
        self.held > 0 && self.silent == 0 && self.good < self.need
    }

    /// Counts one of the bodies it is made of: what is true of the worst is true of all.
    fn count(&mut self, whole: HolderMask, need: u8) {
        let margin = |good: u8, need: u8| i16::from(good) - i16::from(need);
        if self.need == 0 || margin(whole.count(), need) < margin(self.good, self.need) {
            (self.good, self.need) = (whole.count(), need);
        }
        self.whole = self.whole.intersection(whole);
    }
}

impl SetHandle {
    /// Asks every drive of the set what it has of the version that `operation` wrote.
    ///
    /// # Errors
    /// [`StoreError::BucketChanged`] and [`StoreError::SetChanged`]: to be asked again.
    pub(crate) async fn census(
        &self,
        scope: BucketStamp,
        key: &RegisterKey,
        version: VersionId,
        operation: OperationId,
    ) -> Result<Census, StoreError> {
        let set = &self.shared;
        let route = set.route(key)?;
        let question =
            Question { scope, route: route.clone(), version: Some(version), inline: false };
        let views = set.views(&question).await?;
        let silent = set.n() - views.len() as u8;
        let (mut holders, mut whole) = (HolderMask::default(), HolderMask::default());
        let mut entry = None;
        for (shard, view) in &views {
            let register = view.registers.get(&version);
            let Some(held) = register.and_then(|r| r.of_operation(operation)) else { continue };
            holders = holders.with(*shard);
            if held.is_whole() {
                whole = whole.with(*shard);
            }
            entry.get_or_insert_with(|| held.entry.clone());
        }
        let full = HolderMask::full(set.n());
        let mut census = Census { whole: full, held: holders.count(), silent, good: 0, need: 0 };
        let Some(entry) = entry else {
            return Ok(Census { whole: HolderMask::default(), ..census });
        };
        if !is_of_parts(&entry) {
            census.count(whole, entry.data_shards());
            return Ok(census);
        }
        set.count_parts((scope, &route, version), &entry, holders, &mut census).await?;
        Ok(census)
    }
}

impl SetShared {
    /// Counts the shards of each part. Only who holds the entry tells which parts it has.
    async fn count_parts(
        self: &Arc<Self>,
        (scope, route, version): (BucketStamp, &Route, VersionId),
        entry: &Entry,
        holders: HolderMask,
        census: &mut Census,
    ) -> Result<(), StoreError> {
        let parts = entry.parts.iter().filter(|part| part.geometry.has_data());
        let questions: Vec<_> = parts
            .map(|part| {
                let body = Body::of_part(version, part);
                let request =
                    |shard| self.restock_request((scope, route, shard), &body, ShardSource::Held);
                (part.geometry.data_shards, holders.iter().map(request).collect::<Vec<_>>())
            })
            .collect();
        let asked = stream::iter(questions).map(|(need, requests)| {
            let set = self.clone();
            async move { (need, set.ask_slots(requests).await) }
        });
        let mut asked = std::pin::pin!(asked.buffer_unordered(PARTS_AT_ONCE));
        let mut told = holders;
        while let Some((need, answers)) = asked.next().await {
            let mut whole = HolderMask::default();
            for (slot, result) in answers {
                let shard = route.shard_of(slot);
                match result {
                    Ok(DriveReply::Accepted(ShardStatus::Present)) => whole = whole.with(shard),
                    Ok(DriveReply::Accepted(_)) => {}
                    Ok(_) => told = told.without(shard),
                    Err(error) => {
                        check_scope(&error)?;
                        told = told.without(shard);
                    }
                }
            }
            census.count(whole, need);
        }
        census.silent = self.n() - told.count();
        Ok(())
    }
}

fn is_of_parts(entry: &Entry) -> bool {
    entry.parts.iter().any(|part| part.geometry.has_data())
}
