//! What no drives together can restore is on record, and leaves it by itself.

use holdfast_types::{NodeIndex, OperationId, VersionId, view::QuarantineRow};

use super::{World, register};
use crate::testing::{bucket_stamp, pattern};

/// Loses the shards that `drives` have of a key.
async fn lose(world: &World, key: &str, drives: &[usize]) {
    let operation: OperationId = world.operation(key).await;
    let all = world.drives();
    for at in drives {
        let (node, drive) = &all[*at];
        assert!(node.with_drive(*drive, |drive| drive.lose_shard(operation)), "{key} {at}");
    }
}

async fn on_record(world: &World) -> Vec<QuarantineRow> {
    world.engine.quarantine_view().await.entries
}

async fn heal(world: &World) {
    world.settle().await;
    for node in 0..4 {
        world.engine.work_off(NodeIndex(node)).await;
    }
    world.settle().await;
}

/// A reader that goes over all the shards, so that each drive hears of the shard it lost.
async fn read(world: &World, key: &str) {
    let (key, operation) = (register(key), world.operation(key).await);
    let set = world.engine.set_for(&key).shared;
    let route = set.route(&key).unwrap();
    for shard in 0..4 {
        let version = VersionId::NULL;
        set.report(bucket_stamp(), &route, crate::report::Suspected { version, operation, shard });
    }
    world.settle().await;
}

/// Goal: a version with fewer than k good shards everywhere is entered with what it has, needs and why, and stays until it is
/// gone; one that can be restored never is. Method: 4 x 1, k = 2: two of four shards of one object are lost, three of others;
/// a pass of the workers; one is overwritten, one deleted, one stays.
#[tokio::test(start_paused = true)]
async fn what_nobody_can_restore_is_on_record_until_it_is_gone() {
    let world = World::new(4, 1);
    for key in ["mended", "overwritten", "deleted", "stays"] {
        world.put(key, &pattern(3, 200_000)).await.unwrap();
    }
    world.settle().await;
    lose(&world, "mended", &[0, 1]).await;
    for key in ["overwritten", "deleted", "stays"] {
        lose(&world, key, &[0, 2, 3]).await;
    }
    for key in ["mended", "overwritten", "deleted", "stays"] {
        read(&world, key).await;
    }
    heal(&world).await;
    let rows = on_record(&world).await;
    let keys: Vec<&str> = rows.iter().map(|row| row.key.as_str()).collect();
    assert_eq!(keys, ["deleted", "overwritten", "stays"]);
    assert!(rows.iter().all(|row| (row.good, row.need) == (1, 2) && row.since > 0), "{rows:?}");
    assert!(rows.iter().all(|row| row.why.contains("lacks drives")), "{rows:?}");
    assert!(world.get("mended").await.unwrap() == pattern(3, 200_000));

    let told = world.engine.restore_quarantined(&rows[2].register).await.unwrap();
    assert!(told.starts_with("still short: 1 good shards of the 2"), "{told}");
    world.put("overwritten", &pattern(4, 100)).await.unwrap();
    world.delete("deleted").await.unwrap();
    heal(&world).await;
    let left = on_record(&world).await;
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!((left[0].key.as_str(), left[0].since), ("stays", rows[2].since));
    assert!(world.engine.restore_quarantined(&rows[0].register).await.is_err(), "not on record");
}

/// Goal: while a drive is silent nobody is given up, for it may have its shard. Method: three of four shards are lost, one drive
/// is away; then it is back.
#[tokio::test(start_paused = true)]
async fn nothing_is_given_up_while_a_drive_is_silent() {
    let world = World::new(4, 1);
    world.put("k", &pattern(3, 200_000)).await.unwrap();
    world.settle().await;
    lose(&world, "k", &[0, 2]).await;
    read(&world, "k").await;
    world.nodes[1].set_all_down(true);
    heal(&world).await;
    assert_eq!(on_record(&world).await, []);
    world.nodes[1].set_all_down(false);
    tokio::time::sleep(std::time::Duration::from_secs(30)).await;
    heal(&world).await;
    assert_eq!(on_record(&world).await, []);
    assert!(world.get("k").await.unwrap() == pattern(3, 200_000));
}

/// Goal: what was written down is taken in again, and what is whole by then leaves. Method: the rows of one engine are loaded
/// by it again after the object was made whole in another way: under the operation that is there now.
#[tokio::test(start_paused = true)]
async fn what_is_whole_again_leaves_the_record() {
    let world = World::new(4, 1);
    world.put("k", &pattern(3, 200_000)).await.unwrap();
    world.settle().await;
    let operation = world.operation("k").await;
    let hex = |bytes: Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let row = QuarantineRow {
        register: hex(register("k").encode_register(VersionId::NULL)),
        operation: operation.to_string(),
        good: 1,
        need: 2,
        since: 77,
        ..QuarantineRow::default()
    };
    let broken = QuarantineRow { register: "no register".to_owned(), ..row.clone() };
    world.engine.load_quarantine(vec![broken, row.clone()]);
    let rows = world.engine.quarantine_rows();
    assert_eq!((rows.len(), rows[0].since, &rows[0].operation), (1, 77, &row.operation));
    let told = world.engine.restore_quarantined(&row.register).await.unwrap();
    assert!(told.starts_with("whole again"), "{told}");
    assert_eq!(on_record(&world).await, []);
}
