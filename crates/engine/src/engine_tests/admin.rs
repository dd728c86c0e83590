//! What operators see.

use holdfast_types::{DriveState, view::ShardState};

use super::World;
use crate::testing::{body, pattern};

/// Goal: the view of a cluster counts what is away, and an object's shards are found where they lie.
/// Method: 4 x 1, one node away, one shard lost.
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
    let left = |view: &holdfast_types::view::ClusterView| {
        let set = &view.sets[0];
        (set.read_failures_left, set.write_failures_left, set.drives_serving)
    };
    let whole = world.engine.cluster_view().await;
    assert_eq!(left(&whole), (Some(2), Some(1), 4));
    assert!(whole.drives.iter().all(|drive| drive.state == DriveState::Healthy));
    world.nodes[2].set_all_down(true);
    let view = world.engine.cluster_view().await;
    assert_eq!(left(&view), (Some(1), Some(0), 3));
    let answers: Vec<bool> = view.nodes.iter().map(|node| node.answers).collect();
    assert_eq!(answers, [true, true, false, true]);
    let offline: Vec<_> =
        view.drives.iter().filter(|drive| drive.state == DriveState::Offline).collect();
    assert!(offline.len() == 1 && offline[0].node == "http://node3:9000");
    let located = world.engine.locate("b", b"k").await.unwrap();
    assert_eq!((located.size, located.data_shards, located.parity_shards), (300_000, 2, 2));
    for shard in &located.shards {
        let away = shard.node == "http://node3:9000";
        let expected = if away { ShardState::Unknown } else { ShardState::Present };
        assert_eq!(shard.state, expected, "{shard:?}");
    }
    world.nodes[1].set_all_down(true);
    world.nodes[0].set_all_down(true);
    assert_eq!(left(&world.engine.cluster_view().await), (None, None, 1));
}
