//! The shards of an object's parts, brought to a drive that lacks them: one that is being rebuilt, or one
//! that found them rotten. The parts' own registers may be gone (INV-UPLOAD-4).

use std::sync::Arc;

use holdfast_drive::api::{DriveReply, DriveRequest, MemberRequest, Restock, ShardSource};
use holdfast_register::{Candidate, ShardStatus};
use holdfast_types::{BucketStamp, ErrorClass, ShardIndex};

use crate::{
    error::StoreError,
    read::check_scope,
    restore::Body,
    set::{Route, SetShared, describe},
};

/// How long an object's parts are tried one after the other though one failed.
const PATIENCE_MICROS: u64 = 30_000_000;

impl SetShared {
    /// Brings the drive of `shard`, which holds the candidate's entry, its shards of the parts. A part that cannot be
    /// restored keeps no other from it.
    ///
    /// # Errors
    /// [`StoreError`] when too few shards can be read, or the drive does not take them.
    pub(crate) async fn restock(
        self: &Arc<Self>,
        scope: BucketStamp,
        route: &Route,
        candidate: &Candidate,
        shard: u8,
    ) -> Result<(), StoreError> {
        let (begun, mut failed) = (self.clock.monotonic_micros(), None);
        // The last first: an index shows whether the first ones are there (`drive::drive::member`).
        for part in candidate.entry.parts.iter().rev().filter(|part| part.geometry.has_data()) {
            let body = Body::of_part(candidate.version, part);
            match self.restock_part((scope, route, shard), &body).await {
                Ok(()) => {}
                Err(error) if error.class() == ErrorClass::Outdated => return Err(error),
                // Drives that do not answer would hold the worker up for each of thousands of parts.
                Err(error) if self.clock.monotonic_micros() - begun > PATIENCE_MICROS => {
                    return Err(error);
                }
                Err(error) => drop(failed.get_or_insert(error)),
            }
        }
        failed.map_or(Ok(()), Err)
    }

    async fn restock_part(
        self: &Arc<Self>,
        (scope, route, shard): (BucketStamp, &Route, u8),
        body: &Body,
    ) -> Result<(), StoreError> {
        let question = (scope, route, shard);
        let held = self.restock_one(question, body, ShardSource::Held).await?;
        if held == ShardStatus::Present {
            return Ok(());
        }
        let restored = self.restore_body(scope, route, body.clone(), &[shard]).await?;
        let slot = route.slots[usize::from(shard)];
        let source = restored.source(shard).ok_or_else(|| {
            self.below_quorum(1, 0, &[(slot, "a part found no place".to_owned())])
        })?;
        self.restock_one(question, body, source).await?;
        Ok(())
    }

    async fn restock_one(
        self: &Arc<Self>,
        question: (BucketStamp, &Route, u8),
        body: &Body,
        source: ShardSource,
    ) -> Result<ShardStatus, StoreError> {
        let request = self.restock_request(question, body, source);
        match self.ask_slots(vec![request]).await.into_iter().next() {
            Some((_, Ok(DriveReply::Accepted(status)))) => Ok(status),
            Some((slot, Err(error))) => {
                check_scope(&error)?;
                Err(self.below_quorum(1, 0, &[(slot, describe(&error))]))
            }
            _ => Err(StoreError::Internal { message: "restock: unexpected reply".to_owned() }),
        }
    }

    /// A part's shard for the drive of `shard`, with its slot; with [`ShardSource::Held`] the question whether it
    /// has it.
    pub(crate) fn restock_request(
        &self,
        (scope, route, shard): (BucketStamp, &Route, u8),
        body: &Body,
        source: ShardSource,
    ) -> (usize, DriveRequest) {
        let restock = Restock {
            scope: self.scope(scope),
            key: route.key.clone(),
            version: body.version,
            operation: body.operation,
            geometry: body.geometry,
            shard: ShardIndex(shard),
            source,
        };
        (route.slots[usize::from(shard)], DriveRequest::Member(MemberRequest::Restock(restock)))
    }
}
