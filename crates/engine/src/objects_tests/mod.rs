//! Buckets, lists, bulk deletes, uploads and copies on the memory double.

mod beyond_repair;
mod buckets;
mod bulk;
mod copy;
mod cut_short;
mod frozen_parts;
mod list;
mod multipart;
mod sets;

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use holdfast_types::{EntryKind, RegisterKey, VersionId};

use crate::{
    Data, Draft, Engine, Knobs, ObjectMeta, StoreError,
    api::{
        Body, BodyDigest, BoxBody, GetObject, ObjectAttributes, ObjectInfo, ObjectStore, PutObject,
    },
    checksum::{Digester, hex},
    testing::{Cluster, MemoryNode, cluster, pattern},
};

/// Knobs without background workers.
fn quiet() -> Knobs {
    Knobs { background: false, ..Knobs::default() }
}

/// A cluster of 4 x 1 with a bucket `b`.
async fn with_bucket() -> (Arc<Engine>, Vec<Arc<MemoryNode>>) {
    let (engine, nodes) = cluster(4, 1);
    engine.bucket_create("b", "").await.expect("a fresh cluster takes a bucket");
    (engine, nodes)
}

/// Two engines over one cluster of 4 x 1 with a bucket `b`, which both have in their memory.
async fn two_engines() -> (Arc<Engine>, Arc<Engine>, Cluster) {
    let cluster = Cluster::new(4, 1);
    let one = cluster.engine(Some(holdfast_types::NodeIndex(0)), 1, quiet());
    let two = cluster.engine(Some(holdfast_types::NodeIndex(1)), 2, quiet());
    one.bucket_create("b", "").await.expect("a fresh cluster takes a bucket");
    for engine in [&one, &two] {
        engine.bucket_scope("b").await.expect("the bucket is live");
    }
    (one, two, cluster)
}

/// Puts a small object below the streaming path.
async fn put(engine: &Engine, bucket: &str, key: &str, body: &[u8]) -> Result<(), StoreError> {
    let meta = ObjectMeta {
        size: body.len() as u64,
        etag: hex(&[body.len() as u8; 16]),
        modified_micros: engine.now_micros(),
        ..ObjectMeta::default()
    };
    let operation = engine.draw_operation();
    let draft = Draft::record(operation, meta.to_bytes())
        .with_data(Data::Inline(Bytes::copy_from_slice(body)));
    write(engine, bucket, key, draft).await
}

/// Writes a tombstone.
async fn remove(engine: &Engine, bucket: &str, key: &str) -> Result<(), StoreError> {
    write(engine, bucket, key, Draft::tombstone(engine.draw_operation())).await
}

async fn write(engine: &Engine, bucket: &str, key: &str, draft: Draft) -> Result<(), StoreError> {
    let work = |stamp: holdfast_types::BucketStamp| {
        let key = RegisterKey::object(stamp.id, key.as_bytes().to_vec());
        let draft = draft.clone();
        async move { engine.set_for(&key).write(stamp, key, VersionId::NULL, draft).await }
    };
    engine.with_bucket(bucket, work).await.map(|_| ())
}

/// Whether an object is there.
async fn exists(engine: &Engine, bucket: &str, key: &str) -> bool {
    let work = |stamp: holdfast_types::BucketStamp| {
        let key = RegisterKey::object(stamp.id, key.as_bytes().to_vec());
        async move { engine.set_for(&key).read(stamp, &key, None).await }
    };
    let found = engine.with_bucket(bucket, work).await.expect("the set answers");
    found.is_some_and(|found| found.entry.kind == EntryKind::Put)
}

/// Makes every drive of a node unreachable, or reachable again.
fn down(node: &MemoryNode, down: bool) {
    node.set_all_down(down);
}

/// Bytes on their way in, with a digest as the gateway computes it.
struct Sent {
    bytes: Option<Bytes>,
    digester: Option<Digester>,
}

impl futures::Stream for Sent {
    type Item = Result<Bytes, StoreError>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        let chunk = self.bytes.take();
        if let (Some(chunk), Some(digester)) = (&chunk, &mut self.digester) {
            digester.update(chunk);
        }
        std::task::Poll::Ready(chunk.map(Ok))
    }
}

impl Body for Sent {
    fn digest(&mut self) -> BodyDigest {
        self.digester.take().expect("asked once").finish()
    }
}

fn body(bytes: Bytes) -> BoxBody {
    Box::pin(Sent { bytes: Some(bytes), digester: Some(Digester::new(None)) })
}

/// Puts an object the way clients do.
async fn put_object(
    engine: &Engine,
    key: &str,
    bytes: Bytes,
    attributes: Option<ObjectAttributes>,
) -> Result<ObjectInfo, StoreError> {
    let put = PutObject {
        bucket: "b".to_owned(),
        key: Bytes::copy_from_slice(key.as_bytes()),
        attributes: attributes.unwrap_or_default(),
        length: Some(bytes.len() as u64),
        ..PutObject::default()
    };
    engine.put_object(put, body(bytes)).await
}

/// All bytes of an object of bucket `b`.
async fn read_whole(engine: &Engine, key: &str) -> Vec<u8> {
    let key = Bytes::copy_from_slice(key.as_bytes());
    let get = GetObject { bucket: "b".to_owned(), key, ..GetObject::default() };
    let mut read = engine.get_object(get).await.expect("it is there");
    let mut bytes = Vec::new();
    while let Some(chunk) = read.body.next().await {
        bytes.extend_from_slice(&chunk.expect("verified"));
    }
    bytes
}
