//! Deletes in bulk.

use bytes::Bytes;
use holdfast_types::VersionId;

use super::{down, exists, put, with_bucket};
use crate::{
    StoreError,
    api::{Conditions, DeleteKey, Deleted, EtagCondition},
};

fn key(name: &str) -> DeleteKey {
    DeleteKey { key: Bytes::copy_from_slice(name.as_bytes()), ..DeleteKey::default() }
}

/// Goal: a bulk delete is one message a node, whatever the number of keys, with one result a key in
/// order, repeated and absent keys included. Method: count the calls; also with a node down.
#[tokio::test(start_paused = true)]
async fn a_bulk_delete_is_one_message_a_node() {
    let (engine, nodes) = with_bucket().await;
    for node_down in [false, true] {
        for at in 0..40 {
            put(&engine, "b", &format!("k{at}"), b"x").await.unwrap();
        }
        // Settles and stragglers of the puts leave first.
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        down(&nodes[3], node_down);
        if node_down {
            // The set learns that it is down.
            for _ in 0..8 {
                put(&engine, "b", "other", b"x").await.unwrap();
            }
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
        let before: Vec<u64> = nodes.iter().map(|node| node.calls()).collect();
        let mut keys: Vec<_> = (0..40).map(|at| key(&format!("k{at}"))).collect();
        keys.extend([key("k7"), key("never there")]);
        let results = engine.objects_delete("b", keys).await.unwrap();
        assert_eq!(results.len(), 42);
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        for (node, before) in nodes[..3].iter().zip(before) {
            assert_eq!(node.calls() - before, 1);
        }
        assert!(!exists(&engine, "b", "k7").await);
        assert!(!exists(&engine, "b", "k39").await);
    }
}

/// Goal: conditions, versions and bounds hold for each key on its own. Method: one of each.
#[tokio::test(start_paused = true)]
async fn each_key_has_its_own_outcome() {
    let (engine, _nodes) = with_bucket().await;
    for name in ["a", "b", "c"] {
        put(&engine, "b", name, b"x").await.unwrap();
    }
    let wrong = EtagCondition::Tags(vec!["no".to_owned()]);
    let conditions = Conditions { if_match: Some(wrong), ..Conditions::default() };
    let keys = vec![
        DeleteKey { conditions, ..key("a") },
        DeleteKey { version: Some(VersionId(5)), ..key("b") },
        DeleteKey { version: Some(VersionId::NULL), ..key("c") },
        key(&"k".repeat(1025)),
    ];
    let results = engine.objects_delete("b", keys).await.unwrap();
    let failed = StoreError::PreconditionFailed { condition: "If-Match" };
    assert_eq!(results[0], Err(failed));
    assert_eq!(results[1], Ok(Deleted { version: Some(VersionId(5)), delete_marker: false }));
    assert!(results[2].is_ok());
    assert_eq!(results[3], Err(StoreError::KeyTooLong));
    assert!(exists(&engine, "b", "a").await && exists(&engine, "b", "b").await);
    assert!(!exists(&engine, "b", "c").await);
    let too_many = engine.objects_delete("b", vec![key("a"); 1001]).await;
    assert!(matches!(too_many, Err(StoreError::InvalidArgument { .. })));
    let no_bucket = engine.objects_delete("none", vec![key("a")]).await;
    assert!(matches!(no_bucket, Err(StoreError::NoSuchBucket { .. })));
}
