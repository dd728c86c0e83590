//! The set primitives on the memory double.

use bytes::Bytes;
use holdfast_types::{EntryKind, Keyspace, RegisterKey, VersionId};

use crate::{
    Data, Decision, Draft, StoreError,
    testing::{bucket_stamp, cluster, pattern},
};

fn key(name: &str) -> RegisterKey {
    RegisterKey::object(bucket_stamp().id, name.as_bytes().to_vec())
}

/// Goal: a write is read back, scanned, deleted. Method: one set of 4 x 4.
#[tokio::test(start_paused = true)]
async fn what_is_written_is_read_scanned_and_gone_after_a_tombstone() {
    let (engine, _nodes) = cluster(4, 4);
    let (scope, key) = (bucket_stamp(), key("a/b"));
    let set = engine.set_for(&key);
    let operation = engine.draw_operation();
    let draft = Draft::record(operation, Bytes::from_static(b"meta"))
        .with_data(Data::Inline(pattern(1, 10_000)));
    set.write(scope, key.clone(), VersionId::NULL, draft).await.unwrap();
    let read = set.read(scope, &key, None).await.unwrap().unwrap();
    assert_eq!((read.entry.operation, read.entry.geometry.size), (operation, 10_000));
    let page = set.scan(scope, Keyspace::Object, Bytes::new(), None, 10).await.unwrap();
    assert_eq!(page.entries.len(), 1);
    assert_eq!(page.entries[0].0, key);
    assert_eq!(page.next, None);
    let gone = Draft::tombstone(engine.draw_operation());
    set.write(scope, key.clone(), VersionId::NULL, gone).await.unwrap();
    let read = set.read(scope, &key, None).await.unwrap();
    assert!(read.is_none_or(|c| c.entry.kind == EntryKind::Tombstone));
    let page = set.scan(scope, Keyspace::Object, Bytes::new(), None, 10).await.unwrap();
    assert!(page.entries.is_empty());
}

/// Goal: of many conditional creations exactly one wins. Method: twenty updates at once.
#[tokio::test(start_paused = true)]
async fn of_concurrent_conditional_writes_exactly_one_wins() {
    let (engine, _nodes) = cluster(4, 1);
    let (scope, key) = (bucket_stamp(), key("lock"));
    let set = engine.set_for(&key);
    let create = |operation| {
        let (set, key) = (set.clone(), key.clone());
        async move {
            let decide = move |current: Option<&holdfast_register::Candidate>| match current {
                Some(_) => Err(StoreError::PreconditionFailed { condition: "If-None-Match" }),
                None => Ok(Decision::Write(Draft::record(operation, Bytes::new()), ())),
            };
            set.update(scope, key, VersionId::NULL, decide).await
        }
    };
    let tries: Vec<_> = (0..20).map(|_| create(engine.draw_operation())).collect();
    let outcomes = futures::future::join_all(tries).await;
    let won = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    assert_eq!(won, 1, "{outcomes:?}");
}
