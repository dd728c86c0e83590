//! What operators see of this node and ask of it: the engine's view, and wishes about the node's drives.

use std::sync::Arc;

use async_trait::async_trait;
use holdfast_drive::supervisor::NodeHandle;
use holdfast_engine::{Engine, StoreError};
use holdfast_s3_gateway::admin::{AdminAction, AdminView};
use holdfast_types::{
    DriveId, ScrubOrder,
    view::{ClusterView, HealView, ObjectView, QuarantineView, ScrubView},
};

use crate::keeper::{Wish, Wishes};

/// The administration of a node with drives.
pub struct Operator {
    /// The sets.
    pub engine: Arc<Engine>,
    /// The node's drives.
    pub drives: NodeHandle,
    /// What is wished of them; the keeper carries it out.
    pub wishes: Arc<Wishes>,
}

impl Operator {
    fn wish(&self, drive: DriveId, wish: Wish, what: &str) -> Result<String, StoreError> {
        let seats = self.drives.seats();
        let seat = seats.iter().find(|seat| seat.drive == Some(drive));
        let unknown = || StoreError::InvalidArgument {
            message: format!("drive {drive} is not of this node"),
        };
        let seat = seat.ok_or_else(unknown)?;
        // What serves needs no putting back; an earlier wish to take it out is taken back.
        let done = wish == Wish::Online && seat.serves;
        self.wishes.set(drive, (!done).then_some(wish));
        Ok(format!("{}: {what} within seconds", seat.path))
    }
}

#[async_trait]
impl AdminView for Operator {
    async fn cluster(&self) -> ClusterView {
        self.engine.cluster_view().await
    }

    async fn locate(&self, bucket: &str, key: &[u8]) -> Result<ObjectView, StoreError> {
        self.engine.locate(bucket, key).await
    }

    async fn heal(&self) -> HealView {
        self.engine.heal_view()
    }

    async fn scrub(&self) -> ScrubView {
        self.engine.scrub(ScrubOrder::Status).await
    }

    async fn quarantine(&self) -> QuarantineView {
        self.engine.quarantine_view().await
    }

    async fn act(&self, action: AdminAction) -> Result<String, StoreError> {
        match action {
            AdminAction::DriveOffline(drive) => self.wish(drive, Wish::Offline, "taken out"),
            AdminAction::DriveOnline(drive) => self.wish(drive, Wish::Online, "put back"),
            AdminAction::DriveReplace(drive) => {
                self.wish(drive, Wish::Replace, "files set aside, a new drive in its place")
            }
            other => AdminView::act(self.engine.as_ref(), other).await,
        }
    }
}
