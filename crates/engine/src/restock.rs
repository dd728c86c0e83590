//! The shards of an object's parts, brought to a drive that lacks them: one that is being rebuilt, or one
//! that found them rotten. The parts' own registers may be gone (INV-UPLOAD-4).

use std::sync::Arc;

use holdfast_drive::api::{DriveReply, DriveRequest, MemberRequest, Restock, ShardSource};
use holdfast_register::{Candidate, ShardStatus};
use holdfast_types::{BucketStamp, ShardIndex};

use crate::{
    error::StoreError,
    read::check_scope,
    restore::Body,
    set::{Route, SetShared, describe},
};

impl SetShared {
    /// Brings the drive of `shard`, which holds the candidate's entry, its shards of the parts.
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
        // The last first: an index shows whether the first ones are there (`drive::drive::member`).
        for part in candidate.entry.parts.iter().rev().filter(|part| part.geometry.has_data()) {
            let version = candidate.version;
            let body = Body { version, operation: part.operation, geometry: part.geometry };
            let question = (scope, route, shard);
            let held = self.restock_one(question, &body, ShardSource::Held).await?;
            if held == ShardStatus::Present {
                continue;
            }
            let restored = self.restore_body(scope, route, body.clone(), &[shard]).await?;
            let slot = route.slots[usize::from(shard)];
            let source = restored.source(shard).ok_or_else(|| {
                self.below_quorum(1, 0, &[(slot, "a part found no place".to_owned())])
            })?;
            self.restock_one(question, &body, source).await?;
        }
        Ok(())
    }

    async fn restock_one(
        self: &Arc<Self>,
        (scope, route, shard): (BucketStamp, &Route, u8),
        body: &Body,
        source: ShardSource,
    ) -> Result<ShardStatus, StoreError> {
        let restock = Restock {
            scope: self.scope(scope),
            key: route.key.clone(),
            version: body.version,
            operation: body.operation,
            geometry: body.geometry,
            shard: ShardIndex(shard),
            source,
        };
        let request = DriveRequest::Member(MemberRequest::Restock(restock));
        let slot = route.slots[usize::from(shard)];
        match self.ask_slots(vec![(slot, request)]).await.into_iter().next() {
            Some((_, Ok(DriveReply::Accepted(status)))) => Ok(status),
            Some((slot, Err(error))) => {
                check_scope(&error)?;
                Err(self.below_quorum(1, 0, &[(slot, describe(&error))]))
            }
            _ => Err(StoreError::Internal { message: "restock: unexpected reply".to_owned() }),
        }
    }
}
