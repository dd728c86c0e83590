//! Telling drives about shards that could not be read, so that rot is recorded and healed. The drive
//! looks for itself (`Verify`); a report that is lost costs nothing, for the next reader tells again.

use std::{sync::Arc, time::Duration};

use holdfast_drive::api::{DriveError, DriveReply, DriveRequest, Verify};
use holdfast_register::ShardStatus;
use holdfast_types::{BucketStamp, ErrorClass, OperationId, ShardIndex, VersionId};

use crate::{
    set::{Route, SetShared},
    task,
};

/// Reports under way of one set. A drive full of rot is told shard by shard as it answers.
pub(crate) const REPORTS_MAX: usize = 64;

/// Which shard it is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Suspected {
    pub(crate) version: VersionId,
    pub(crate) operation: OperationId,
    pub(crate) shard: u8,
}

/// Whether a failure to read a shard says something of the shard, rather than of its drive.
pub(crate) fn tells_of_rot(error: &DriveError) -> bool {
    matches!(error.class(), ErrorClass::Damaged | ErrorClass::NotFound)
}

impl SetShared {
    /// Tells a drive that its shard could not be read. Does not wait; beyond [`REPORTS_MAX`] under way
    /// nothing is told.
    pub(crate) fn report(
        self: &Arc<Self>,
        scope: BucketStamp,
        route: &Route,
        suspected: Suspected,
    ) {
        let Ok(permit) = self.reports.clone().try_acquire_owned() else { return };
        let Suspected { version, operation, shard } = suspected;
        let slot = route.slots[usize::from(shard)];
        let verify = Verify {
            scope: self.scope(scope),
            key: route.key.clone(),
            version,
            operation,
            shard: ShardIndex(shard),
        };
        let set = self.clone();
        task::detach(async move {
            // Past the drive's own queue: a look at a shard takes its time, and is no sign of illness.
            let call = set
                .node_of(slot)
                .call(set.knobs.call, vec![(set.slot(slot).drive, DriveRequest::Verify(verify))]);
            let wait: Duration = set.knobs.call * 2;
            let answers = tokio::time::timeout(wait, call).await.unwrap_or_default();
            let found = answers.into_iter().next();
            let drive = set.place(slot);
            if let Some(Ok(DriveReply::Accepted(ShardStatus::Missing))) = &found {
                tracing::warn!(set = %set.index, drive, %operation, shard, "its shard is missing");
            } else {
                tracing::debug!(set = %set.index, drive, %operation, shard, ?found, "reported");
            }
            drop(permit);
        });
    }
}
