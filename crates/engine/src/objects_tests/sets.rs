//! Everything that goes over several sets.

use std::collections::BTreeSet;

use bytes::Bytes;
use holdfast_types::RegisterKey;

use super::{put, quiet};
use crate::{
    StoreError,
    api::{CreateUpload, DeleteKey, ListObjects, ListUploads, ObjectStore},
    testing::Cluster,
};

/// Goal: a bucket over several sets is one list, is emptied with one message a node, and is deleted
/// only when every set is empty. Method: 4 nodes, 3 sets, keys on each of them.
#[tokio::test(start_paused = true)]
async fn a_bucket_goes_over_all_sets() {
    let cluster = Cluster::with_sets(4, 3, 3);
    let engine = cluster.engine(None, 1, quiet());
    engine.create_bucket("b", "").await.unwrap();
    let stamp = engine.bucket_scope("b").await.unwrap();
    let mut keys = BTreeSet::new();
    let mut used = BTreeSet::new();
    for at in 0..60 {
        let key = format!("d{}/{at:02}", at % 7);
        put(&engine, "b", &key, b"x").await.unwrap();
        let register = RegisterKey::object(stamp.id, key.clone().into_bytes());
        used.insert(engine.set_for(&register).index());
        let create =
            CreateUpload { bucket: "b".to_owned(), key: key.clone().into(), ..Default::default() };
        engine.create_upload(create).await.unwrap();
        keys.insert(key);
    }
    assert_eq!(used.len(), 3, "the keys lie on every set");
    for limit in [1, 7, 100] {
        let mut list = ListObjects { bucket: "b".to_owned(), limit, ..ListObjects::default() };
        let mut seen = Vec::new();
        loop {
            let page = engine.list_objects(list.clone()).await.unwrap();
            seen.extend(page.objects.into_iter().map(|object| object.key));
            let Some(next) = page.next else { break };
            list.after = next;
        }
        assert!(seen.iter().eq(keys.iter().map(String::as_bytes)), "limit {limit}");
        list = ListObjects { delimiter: Bytes::from_static(b"/"), after: Bytes::new(), ..list };
        let page = engine.list_objects(list).await.unwrap();
        assert_eq!(page.prefixes.len(), limit.min(7));
    }
    let uploads = ListUploads { bucket: "b".to_owned(), limit: 100, ..ListUploads::default() };
    assert_eq!(engine.list_uploads(uploads).await.unwrap().uploads.len(), 60);
    let not_empty = Err(StoreError::BucketNotEmpty { bucket: "b".to_owned() });
    assert_eq!(engine.delete_bucket("b").await, not_empty);

    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let before: Vec<u64> = cluster.nodes.iter().map(|node| node.calls()).collect();
    let last = keys.pop_last().unwrap();
    let delete = |key: &String| DeleteKey { key: key.clone().into(), ..DeleteKey::default() };
    let deleted = engine.delete_objects("b", keys.iter().map(delete).collect()).await.unwrap();
    assert!(deleted.iter().all(Result::is_ok));
    for (node, before) in cluster.nodes.iter().zip(before) {
        assert_eq!(node.calls() - before, 1, "one message a node, whatever the number of sets");
    }
    assert_eq!(engine.delete_bucket("b").await, not_empty);
    engine.delete_object("b", delete(&last)).await.unwrap();
    assert_eq!(engine.delete_bucket("b").await, Ok(()), "uploads do not count");
}
