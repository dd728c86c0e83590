//! Objects on the memory double: through the engine's own methods, with faults.

mod admin;
mod conditions;
mod faults;
mod filling;
mod healing;
mod holes;
mod members;
mod objects;
mod quarantine;
mod reads;

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use holdfast_types::{DriveId, OperationId, RegisterKey};

use crate::{
    Engine, StoreError,
    api::{DeleteKey, GetObject, ObjectInfo, ObjectRead, PutObject, Wanted},
    testing::{MemoryNode, body, bucket_stamp, cluster},
};

/// Nodes, engine, and the bucket that tests below the registry use.
struct World {
    engine: Arc<Engine>,
    nodes: Vec<Arc<MemoryNode>>,
}

impl World {
    fn new(nodes: usize, drives: usize) -> Self {
        let (engine, nodes) = cluster(nodes, drives);
        Self { engine, nodes }
    }

    /// Every drive with its node.
    fn drives(&self) -> Vec<(Arc<MemoryNode>, DriveId)> {
        let each = |node: &Arc<MemoryNode>| {
            let of = |drive| (node.clone(), drive);
            node.drives().into_iter().map(of).collect::<Vec<_>>()
        };
        self.nodes.iter().flat_map(each).collect()
    }

    async fn put(&self, key: &str, bytes: &Bytes) -> Result<ObjectInfo, StoreError> {
        put(&self.engine, key, bytes).await
    }

    async fn get(&self, key: &str) -> Result<Bytes, StoreError> {
        get(&self.engine, key, Wanted::Whole).await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let delete = DeleteKey { key: key.to_owned().into(), ..DeleteKey::default() };
        let operation = self.engine.draw_operation();
        self.engine.delete_under(bucket_stamp(), &delete, operation).await.map(|_| ())
    }

    /// The operation a key's current entry was written by.
    async fn operation(&self, key: &str) -> OperationId {
        let key = register(key);
        let set = self.engine.set_for(&key);
        let read = set.read(bucket_stamp(), &key, None).await.expect("the set answers");
        read.expect("the key is there").entry.operation
    }

    /// Lets settle batches and stragglers through.
    async fn settle(&self) {
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
}

fn register(key: &str) -> RegisterKey {
    RegisterKey::object(bucket_stamp().id, key.as_bytes().to_vec())
}

async fn put(engine: &Engine, key: &str, bytes: &Bytes) -> Result<ObjectInfo, StoreError> {
    let length = Some(bytes.len() as u64);
    let put = PutObject { key: key.to_owned().into(), length, ..PutObject::default() };
    engine.put_under(bucket_stamp(), put, body(bytes.clone())).await
}

async fn open(engine: &Engine, key: &str, wanted: Wanted) -> Result<ObjectRead, StoreError> {
    let get = GetObject { key: key.to_owned().into(), wanted, ..GetObject::default() };
    engine.get_under(bucket_stamp(), &get).await
}

async fn get(engine: &Engine, key: &str, wanted: Wanted) -> Result<Bytes, StoreError> {
    let mut read = open(engine, key, wanted).await?;
    let mut bytes = BytesMut::new();
    while let Some(chunk) = read.body.next().await {
        bytes.extend_from_slice(&chunk?);
    }
    assert_eq!(bytes.len() as u64, read.range.end - read.range.start);
    Ok(bytes.freeze())
}
