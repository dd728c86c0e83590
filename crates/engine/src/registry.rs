//! Stamps of buckets: which incarnation and epoch a name stands for.

use holdfast_types::BucketStamp;

use crate::{engine::Engine, error::StoreError};

/// What this process remembers of buckets.
#[derive(Default)]
pub(crate) struct Registry {}

impl Engine {
    /// The stamp under which requests to a bucket go out.
    pub(crate) async fn bucket_scope(&self, name: &str) -> Result<BucketStamp, StoreError> {
        Err(StoreError::NoSuchBucket { bucket: name.to_owned() })
    }

    /// A drive refused `stamp` for it knows `current`: learn it, wait out a deletion under way.
    pub(crate) async fn bucket_changed(
        &self,
        name: &str,
        stamp: BucketStamp,
        current: BucketStamp,
    ) -> Result<(), StoreError> {
        let _ = (stamp, current, &self.registry);
        Err(StoreError::NoSuchBucket { bucket: name.to_owned() })
    }
}
