//! Conditional writes.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;

use super::World;
use crate::{
    Engine, Knobs, StoreError,
    api::{Conditions, EtagCondition, ObjectInfo, PutObject},
    testing::{Cluster, body, bucket_stamp},
};

async fn put_if(
    engine: &Engine,
    key: &str,
    bytes: Bytes,
    conditions: Conditions,
) -> Result<ObjectInfo, StoreError> {
    let put = PutObject { key: key.to_owned().into(), conditions, ..PutObject::default() };
    engine.put_under(bucket_stamp(), put, body(bytes)).await
}

fn none_match() -> Conditions {
    Conditions { if_none_match: Some(EtagCondition::Any), ..Conditions::default() }
}

fn if_match(etag: &str) -> Conditions {
    let tags = Some(EtagCondition::Tags(vec![etag.to_owned()]));
    Conditions { if_match: tags, ..Conditions::default() }
}

/// Goal: of concurrent creations exactly one wins, from several engines at once. Method: three engines
/// with 8 puts each, `If-None-Match: *`.
#[tokio::test(start_paused = true)]
async fn of_concurrent_creations_exactly_one_wins() {
    let cluster = Cluster::new(4, 1);
    let knobs = Knobs { background: false, ..Knobs::default() };
    let engines: Vec<Arc<Engine>> =
        (0..3).map(|seed| cluster.engine(None, seed + 10, knobs.clone())).collect();
    let tries = engines.iter().flat_map(|engine| {
        (0..8)
            .map(|i| put_if(engine, "k", Bytes::from(vec![i; 100 + usize::from(i)]), none_match()))
    });
    let outcomes = join_all(tries).await;
    let won: Vec<_> = outcomes.iter().flatten().collect();
    assert_eq!(won.len(), 1, "{outcomes:?}");
    for outcome in outcomes.iter().filter_map(|o| o.as_ref().err()) {
        let lost = matches!(
            outcome,
            StoreError::PreconditionFailed { .. } | StoreError::ConditionalConflict
        );
        assert!(lost, "{outcome:?}");
    }
    let read = super::get(&engines[0], "k", crate::api::Wanted::Whole).await.unwrap();
    assert_eq!(read.len() as u64, won[0].meta.size);
}

/// Goal: a chain of compare-and-swaps loses no update. Method: ten writers each add one byte until
/// they succeed; the length counts them.
#[tokio::test(start_paused = true)]
async fn compare_and_swap_loses_no_update() {
    let world = World::new(4, 1);
    world.put("k", &Bytes::from_static(b"x")).await.unwrap();
    let add = || async {
        for _ in 0..200 {
            let current = world.get("k").await.unwrap();
            // The double's entity tag is the length.
            let etag = format!("{:032x}", current.len());
            let grown = Bytes::from(vec![7; current.len() + 1]);
            match put_if(&world.engine, "k", grown, if_match(&etag)).await {
                Ok(_) => return,
                Err(StoreError::PreconditionFailed { .. } | StoreError::ConditionalConflict) => {}
                Err(error) => panic!("{error}"),
            }
        }
        panic!("never won");
    };
    join_all((0..10).map(|_| add())).await;
    assert_eq!(world.get("k").await.unwrap().len(), 11);
}

/// Goal: conditions see what is there, and a delete frees the name. Method: in turn.
#[tokio::test(start_paused = true)]
async fn conditions_see_what_is_there() {
    let world = World::new(4, 1);
    let bytes = Bytes::from_static(b"abc");
    let missing = put_if(&world.engine, "k", bytes.clone(), if_match("e")).await;
    assert_eq!(missing.err(), Some(StoreError::NoSuchKey { delete_marker: false }));
    let made = put_if(&world.engine, "k", bytes.clone(), none_match()).await.unwrap();
    let again = put_if(&world.engine, "k", bytes.clone(), none_match()).await;
    assert!(matches!(again, Err(StoreError::PreconditionFailed { .. })));
    put_if(&world.engine, "k", bytes.clone(), if_match(&made.meta.etag)).await.unwrap();
    world.delete("k").await.unwrap();
    put_if(&world.engine, "k", bytes, none_match()).await.unwrap();
}
