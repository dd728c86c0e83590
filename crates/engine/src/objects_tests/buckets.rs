//! The life of buckets.

use holdfast_types::{BucketId, BucketPhase, BucketStamp, RegisterKey, VersionId};

use super::{down, exists, put, quiet, remove, two_engines, with_bucket};
use crate::{
    Decision, Draft, Engine, StoreError, api::BucketInfo, bucket_record::BucketRecord,
    testing::Cluster,
};

fn no_such_bucket<T>() -> Result<T, StoreError> {
    Err(StoreError::NoSuchBucket { bucket: "b".to_owned() })
}

fn not_empty<T>() -> Result<T, StoreError> {
    Err(StoreError::BucketNotEmpty { bucket: "b".to_owned() })
}

/// Writes a registry record as a process would that then died.
async fn leave_record(engine: &Engine, record: &BucketRecord) {
    let draft = Draft::record(engine.draw_operation(), record.to_bytes());
    let decide = |_: Option<&_>| Ok(Decision::Write(draft.clone(), ()));
    let (key, scope) = (RegisterKey::bucket("b"), BucketStamp::REGISTRY);
    engine.first_set().update(scope, key, VersionId::NULL, decide).await.expect("all drives up");
}

/// Goal: a bucket is created once, seen by every node, and gone once deleted. Method: its whole life
/// through two engines.
#[tokio::test(start_paused = true)]
async fn a_bucket_lives_once_and_every_node_sees_it() {
    let cluster = Cluster::new(4, 1);
    let [one, two] = [1, 2].map(|seed| cluster.engine(None, seed, quiet()));
    assert_eq!(one.bucket_head("b").await, no_such_bucket());
    assert_eq!(put(&one, "b", "k", b"x").await, no_such_bucket());
    let made = one.bucket_create("b", "eu").await.unwrap();
    assert_eq!((made.name.as_str(), made.location.as_str()), ("b", "eu"));
    assert_eq!(two.bucket_head("b").await, Ok(made));
    let exists_already = Err(StoreError::BucketExists { bucket: "b".to_owned() });
    assert_eq!(two.bucket_create("b", "").await, exists_already);
    put(&two, "b", "k", b"x").await.unwrap();
    assert_eq!(one.bucket_delete("b").await, not_empty());
    remove(&one, "b", "k").await.unwrap();
    assert_eq!(two.bucket_delete("b").await, Ok(()));
    assert_eq!(one.bucket_delete("b").await, no_such_bucket());
    // The other engine still remembers the stamp; the drives do not let it through.
    assert_eq!(put(&one, "b", "k", b"x").await, no_such_bucket());
    one.bucket_create("b", "").await.unwrap();
    assert!(!exists(&two, "b", "k").await);
}

/// Goal: of many creations at once exactly one succeeds. Method: two engines, ten each.
#[tokio::test(start_paused = true)]
async fn of_concurrent_creations_one_wins() {
    let cluster = Cluster::new(4, 1);
    let engines = [1, 2].map(|seed| cluster.engine(None, seed, quiet()));
    let tries = (0..20).map(|at| engines[at % 2].bucket_create("b", ""));
    let outcomes: Vec<Result<BucketInfo, StoreError>> = futures::future::join_all(tries).await;
    let won = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    assert_eq!(won, 1, "{outcomes:?}");
}

/// Goal: a stamp is on W drives of the set before the creation is answered. Method: look into the
/// drives; with more than f nodes down there is no answer but an error, and a later creation is
/// not in its way.
#[tokio::test(start_paused = true)]
async fn creation_needs_a_write_quorum_of_every_set() {
    let cluster = Cluster::new(4, 1);
    let engine = cluster.engine(None, 1, quiet());
    down(&cluster.nodes[3], true);
    engine.bucket_create("a", "").await.expect("one of four may be away");
    down(&cluster.nodes[2], true);
    let refused = engine.bucket_create("b", "").await;
    let quorum_is_short =
        matches!(refused, Err(StoreError::BelowQuorum { .. } | StoreError::Unknown { .. }));
    assert!(quorum_is_short, "{refused:?}");
    for node in &cluster.nodes {
        down(node, false);
    }
    tokio::time::sleep(std::time::Duration::from_secs(30)).await;
    let retried = engine.bucket_create("b", "").await;
    let there = matches!(retried, Ok(_) | Err(StoreError::BucketExists { .. }));
    assert!(there, "{retried:?}");
    put(&engine, "b", "k", b"x").await.expect("the bucket is live");
}

/// Goal: what a dead process left half-way is completed by whoever meets it once it is overdue, and
/// not before. Method: plant records as a process leaves them that dies between its steps.
#[tokio::test(start_paused = true)]
async fn overdue_transitions_are_completed_by_whoever_meets_them() {
    let cluster = Cluster::new(4, 1);
    let engine = cluster.engine(None, 1, quiet());
    let creating = BucketRecord::creating(BucketId(7), "eu", engine.now_micros());
    leave_record(&engine, &creating).await;
    assert_eq!(put(&engine, "b", "k", b"x").await, no_such_bucket());
    tokio::time::sleep(std::time::Duration::from_secs(16)).await;
    put(&engine, "b", "k", b"x").await.expect("the creation was completed");

    let live = engine.bucket_record("b").await.unwrap().unwrap();
    let now = engine.now_micros();
    let deleting = live.into_phase(BucketPhase::Deleting, now).unwrap();
    leave_record(&engine, &deleting).await;
    engine.install_stamp(deleting.stamp()).await.unwrap();
    let begun = crate::task::after(std::time::Duration::ZERO);
    put(&engine, "b", "k2", b"x").await.expect("the deletion was reverted: there is a key");
    assert!(begun.elapsed().as_secs() >= 14, "the mark was left to who set it until overdue");

    for key in ["k", "k2"] {
        remove(&engine, "b", key).await.unwrap();
    }
    let live = engine.bucket_record("b").await.unwrap().unwrap();
    let deleting = live.into_phase(BucketPhase::Deleting, engine.now_micros()).unwrap();
    leave_record(&engine, &deleting).await;
    engine.install_stamp(deleting.stamp()).await.unwrap();
    assert_eq!(put(&engine, "b", "k", b"x").await, no_such_bucket());
}

/// Goal: a deletion never loses an acknowledged put, and a put never lands in a bucket that is gone.
/// Method: both at once, many times, at every offset; then look.
#[tokio::test(start_paused = true)]
async fn a_deletion_against_puts_loses_nothing() {
    for round in 0..40_u64 {
        let (one, two, cluster) = two_engines().await;
        for (at, node) in cluster.nodes.iter().enumerate() {
            for drive in node.drives() {
                let micros = (round * 7919 + at as u64 * 104_729) % 4_000;
                node.set_delay(drive, std::time::Duration::from_micros(micros));
            }
        }
        let putter = async {
            tokio::time::sleep(std::time::Duration::from_micros(round * 300)).await;
            put(&two, "b", "k", b"x").await
        };
        let (deleted, stored) = tokio::join!(one.bucket_delete("b"), putter);
        match (&deleted, &stored) {
            (Ok(()), Err(StoreError::NoSuchBucket { .. })) => {
                assert_eq!(two.bucket_head("b").await, no_such_bucket());
            }
            (Err(StoreError::BucketNotEmpty { .. }), Ok(())) => {
                assert!(exists(&one, "b", "k").await, "round {round}");
            }
            other => panic!("round {round}: {other:?}"),
        }
    }
}

/// Goal: buckets are listed by name in pages, half-made ones left out. Method: small pages.
#[tokio::test(start_paused = true)]
async fn buckets_are_listed_in_pages() {
    let (engine, _nodes) = with_bucket().await;
    for name in ["a1", "a2", "a3", "z"] {
        engine.bucket_create(name, "").await.unwrap();
    }
    engine.bucket_delete("a2").await.unwrap();
    let half = BucketRecord::creating(BucketId(9), "", engine.now_micros());
    let draft = Draft::record(engine.draw_operation(), half.to_bytes());
    let (key, scope) = (RegisterKey::bucket("half"), BucketStamp::REGISTRY);
    engine.first_set().write(scope, key, VersionId::NULL, draft).await.unwrap();

    let (mut after, mut names) = (String::new(), Vec::new());
    loop {
        let page = engine.buckets_list("", &after, 2).await.unwrap();
        assert!(page.buckets.len() <= 2);
        names.extend(page.buckets.into_iter().map(|bucket| bucket.name));
        let Some(next) = page.next else { break };
        after = next;
    }
    assert_eq!(names, ["a1", "a3", "b", "z"]);
    let page = engine.buckets_list("a", "a1", 10).await.unwrap();
    assert_eq!((page.buckets.len(), page.next), (1, None));
}

/// Goal: of a deleted bucket no register and no byte stays on any drive, also on one that was away when
/// it was deleted, or when the deleter died after the mark (INV-BUCKET-4). A bucket of the same name, and
/// one that the registry has lost, keep everything. Method: objects, an open upload with its part, and
/// an aborted one's remains; a node goes; the bucket is emptied and deleted; the node is back.
#[tokio::test(start_paused = true)]
async fn nothing_of_a_deleted_bucket_stays_on_a_drive_that_was_away() {
    use crate::{
        api::{CreateUpload, PutPart},
        testing::{body, pattern},
    };
    let cluster = Cluster::new(4, 1);
    let engine = cluster.engine(Some(holdfast_types::NodeIndex(0)), 1, quiet());
    let keep = cluster.engine(Some(holdfast_types::NodeIndex(3)), 2, quiet());
    engine.bucket_create("b", "").await.unwrap();
    engine.bucket_create("other", "").await.unwrap();
    put(&engine, "other", "k", b"stays").await.unwrap();
    put(&engine, "b", "k", &[7; 50_000]).await.unwrap();
    let create = CreateUpload { bucket: "b".into(), key: "u".into(), ..CreateUpload::default() };
    let upload = engine.upload_create(create).await.unwrap().upload;
    let part =
        PutPart { bucket: "b".into(), key: "u".into(), upload, number: 1, ..PutPart::default() };
    engine.part_put(part, body(pattern(3, 2 << 20))).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let old = engine.bucket_record("b").await.unwrap().unwrap().stamp().id;
    let held = |node: usize| {
        let node = &cluster.nodes[node];
        node.with_drive(node.drives()[0], |drive| (drive.registers_of(old), drive.shard_count()))
    };
    assert_eq!(held(3), (3, 3), "object, upload and part; their two shards, and the other's");
    down(&cluster.nodes[3], true);
    let _ = put(&engine, "other", "finds out", b"").await;
    remove(&engine, "b", "k").await.unwrap();
    engine.bucket_delete("b").await.unwrap();
    for node in 0..3 {
        assert_eq!(held(node), (0, 1), "node {node} was told");
    }
    down(&cluster.nodes[3], false);
    tokio::time::sleep(std::time::Duration::from_secs(30)).await;
    engine.bucket_create("b", "").await.unwrap();
    put(&engine, "b", "k", b"new").await.unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert_eq!(held(3), (3, 4), "nobody has told it");
    keep.sweep_buckets(holdfast_types::NodeIndex(3)).await.unwrap();
    assert_eq!(held(3), (0, 2));
    assert!(exists(&engine, "b", "k").await && exists(&engine, "other", "k").await);
    // A registry that is lost deletes nothing.
    let gone = Draft::tombstone(engine.draw_operation());
    let key = RegisterKey::bucket("other");
    let set = engine.first_set();
    set.write(BucketStamp::REGISTRY, key, VersionId::NULL, gone).await.unwrap();
    keep.sweep_buckets(holdfast_types::NodeIndex(3)).await.unwrap();
    assert_eq!(held(3).1, 2);
}

/// Goal: under a deletion's mark, what cannot be told is not called an object: an acknowledged removal of
/// which too few holders are there is no reason to say that the bucket is not empty. Method: a removal
/// that one drive missed, one of its holders away.
#[tokio::test(start_paused = true)]
async fn what_cannot_be_told_is_not_called_an_object() {
    let (cluster, engine) = {
        let cluster = Cluster::new(4, 1);
        let engine = cluster.engine(None, 1, quiet());
        (cluster, engine)
    };
    engine.bucket_create("b", "").await.unwrap();
    put(&engine, "b", "k", b"x").await.unwrap();
    let stamp = engine.bucket_scope("b").await.unwrap();
    let key = RegisterKey::object(stamp.id, b"k".to_vec());
    let set = engine.set_for(&key);
    assert_eq!(set.is_gone(stamp, key.clone()).await, Ok(false), "an object is one");
    down(&cluster.nodes[0], true);
    remove(&engine, "b", "k").await.unwrap();
    down(&cluster.nodes[0], false);
    down(&cluster.nodes[1], true);
    let undecided = set.is_gone(stamp, key.clone()).await;
    assert!(undecided.is_err(), "{undecided:?}");
    down(&cluster.nodes[1], false);
    assert_eq!(set.is_gone(stamp, key).await, Ok(true));
}
