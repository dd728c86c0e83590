//! An [`ObjectStore`] in memory: the gateway's stand-in for a cluster in tests, and the reference that
//! shows what the trait means. One lock, no durability, nothing bounded.
//!
//! | module | holds |
//! |---|---|
//! | `store` | the operations |
//! | `uploads` | multipart uploads |
//! | `select` | conditions, ranges, roll-up: pure |

mod select;
mod store;
mod uploads;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use futures::StreamExt;
use holdfast_engine::{
    StoreError,
    api::{BodyDigest, BoxBody, BucketInfo, CompletedPart, ObjectInfo, UploadInfo},
    meta::{ObjectMeta, PartMeta},
};
use holdfast_types::{
    OperationId,
    seam::{Clock, Random},
};

/// A store that forgets everything with the process.
pub struct MemoryStore {
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    buckets: Mutex<BTreeMap<String, Bucket>>,
}

/// Bytes as they came.
type Chunks = Vec<Bytes>;

#[derive(Clone)]
struct Object {
    meta: ObjectMeta,
    body: Chunks,
}

struct Part {
    meta: PartMeta,
    modified_micros: u64,
    body: Chunks,
}

struct Upload {
    info: UploadInfo,
    parts: BTreeMap<u16, Part>,
}

struct Bucket {
    info: BucketInfo,
    objects: BTreeMap<Bytes, Object>,
    uploads: BTreeMap<(Bytes, OperationId), Upload>,
    /// What was answered: completing again with the same parts succeeds again.
    completed: BTreeMap<OperationId, (Vec<CompletedPart>, ObjectInfo)>,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Self {
        Self { clock, random, buckets: Mutex::default() }
    }

    fn buckets(&self) -> MutexGuard<'_, BTreeMap<String, Bucket>> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with a bucket, under the lock.
    fn with<T>(
        &self,
        name: &str,
        act: impl FnOnce(&mut Bucket) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match self.buckets().get_mut(name) {
            Some(bucket) => act(bucket),
            None => Err(StoreError::NoSuchBucket { bucket: name.to_owned() }),
        }
    }

    fn now(&self) -> u64 {
        self.clock.wall_micros()
    }
}

impl Bucket {
    fn object(&self, key: &[u8]) -> Result<&Object, StoreError> {
        self.objects.get(key).ok_or(StoreError::NoSuchKey { delete_marker: false })
    }

    fn upload(&mut self, key: &[u8], id: OperationId) -> Result<&mut Upload, StoreError> {
        let place = (Bytes::copy_from_slice(key), id);
        self.uploads.get_mut(&place).ok_or(StoreError::NoSuchUpload)
    }
}

/// A whole body, and what it turned out to be.
async fn drain(mut body: BoxBody) -> Result<(Chunks, u64, BodyDigest), StoreError> {
    let (mut chunks, mut size) = (Chunks::new(), 0);
    while let Some(bytes) = body.next().await {
        let bytes = bytes?;
        size += bytes.len() as u64;
        chunks.push(bytes);
    }
    let digest = body.digest();
    Ok((chunks, size, digest))
}
