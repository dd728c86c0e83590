//! What operators see.

use holdfast_types::DriveState;

use super::World;
use crate::testing::{body, pattern};

/// Goal: the view of a cluster counts what is away, and an object's shards are found where they lie.
/// Method: 4 x 1, one node away, one shard lost with its entry.
#[tokio::test(start_paused = true)]
async fn the_view_says_what_is_away_and_where_an_object_lies() {
    let world = World::new(4, 1);
    world.engine.bucket_create("b", "").await.unwrap();
    let put = crate::api::PutObject {
        bucket: "b".to_owned(),
        key: bytes::Bytes::from_static(b"k"),
        ..Default::default()
    };
    world.engine.object_put(put, body(pattern(1, 300_000))).await.unwrap();
    world.settle().await;
    let whole = world.engine.cluster_view().await;
    let set = &whole.pools[0].sets[0];
    assert_eq!((set.survives_for_reads, set.survives_for_writes), (2, 1));
    assert!(whole.drives.iter().all(|drive| drive.state == DriveState::Healthy));
    world.nodes[2].set_all_down(true);
    let view = world.engine.cluster_view().await;
    let set = &view.pools[0].sets[0];
    assert_eq!((set.survives_for_reads, set.survives_for_writes, set.serving), (1, 0, 3));
    let online: Vec<bool> = view.nodes.iter().map(|node| node.online).collect();
    assert_eq!(online, [true, true, false, true]);
    let offline: Vec<_> =
        view.drives.iter().filter(|drive| drive.state == DriveState::Offline).collect();
    assert!(offline.len() == 1 && offline[0].node == "http://node3:9000");
    let located = world.engine.locate("b", b"k").await.unwrap();
    assert_eq!((located.size, located.data_shards, located.total_shards), (300_000, 2, 4));
    for shard in &located.shards {
        let expected = if shard.node == "http://node3:9000" { "unreachable" } else { "present" };
        assert_eq!(shard.state, expected, "{shard:?}");
    }
}
