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

/// Goal: of many writers at many nodes one is told that it won, and all others that they did not: nobody is left without an
/// answer while every drive is there. Method: four engines with 16 puts each of one key, `If-None-Match: *`, drives that take
/// their time, each another one; ten keys.
#[tokio::test(start_paused = true)]
async fn a_crowd_of_creators_hears_who_won() {
    let cluster = Cluster::new(4, 1);
    for (at, node) in cluster.nodes.iter().enumerate() {
        node.set_delay(node.drives()[0], std::time::Duration::from_millis(3 + 7 * at as u64));
    }
    let knobs = Knobs { background: false, ..Knobs::default() };
    let engines: Vec<Arc<Engine>> =
        (0..4).map(|seed| cluster.engine(None, seed + 10, knobs.clone())).collect();
    for key in 0..10 {
        let key = format!("k{key}");
        let tries = engines.iter().flat_map(|engine| {
            let put = |i| put_if(engine, &key, Bytes::from(vec![i; 100]), none_match());
            (0..16).map(put).collect::<Vec<_>>()
        });
        let outcomes = join_all(tries).await;
        assert_eq!(outcomes.iter().flatten().count(), 1, "{key}: {outcomes:?}");
        let lost =
            |outcome: &Result<_, _>| matches!(outcome, Err(StoreError::PreconditionFailed { .. }));
        assert_eq!(
            outcomes.iter().filter(|outcome| lost(outcome)).count(),
            63,
            "{key}: {outcomes:?}"
        );
    }
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
