//! Drives that rot keeps from saying what they hold of some keys (ADR 0017): others answer for them.

use std::sync::Arc;

use bytes::Bytes;
use holdfast_types::{DriveId, Keyspace};

use super::{World, register};
use crate::{
    StoreError,
    testing::{MemoryNode, bucket_stamp, pattern},
};

fn name(at: usize) -> String {
    format!("k{at:02}")
}

/// Hides the keys from `first` up to `end` on a drive.
fn hide((node, drive): &(Arc<MemoryNode>, DriveId), first: usize, end: usize) {
    node.with_drive(*drive, |d| d.hide(register(&name(first)), register(&name(end))));
}

/// All keys of the set's scan, in pages of `limit`.
async fn scanned(world: &World, limit: usize) -> Result<Vec<String>, StoreError> {
    let (set, mut start, mut names) = (&world.engine.sets()[0], Bytes::new(), Vec::new());
    loop {
        let page = set.scan(bucket_stamp(), Keyspace::Object, start, None, limit).await?;
        let shown = page.entries.iter();
        names.extend(shown.map(|(key, _)| String::from_utf8_lossy(&key.name).into_owned()));
        match page.next {
            Some(next) => start = next,
            None => return Ok(names),
        }
    }
}

/// Goal: what a drive does not show in a gap is no proof that nothing is there (INV-LIST-1): lists are whole
/// while R drives show each name, and fail, not shorten, when fewer do. Method: 4 drives (R = 2), keys
/// deleted and overwritten; different gaps on two drives, then the same on two, then a third; pages of
/// every size.
#[tokio::test(start_paused = true)]
async fn lists_are_whole_beside_gaps() {
    let world = World::new(4, 1);
    for at in 0..30 {
        world.put(&name(at), &pattern(1, 100)).await.unwrap();
        if at % 3 == 0 {
            world.delete(&name(at)).await.unwrap();
        }
    }
    world.settle().await;
    let expected: Vec<String> = (0..30).filter(|at| at % 3 != 0).map(name).collect();
    let drives = world.drives();
    let gaps = [(0, 3, 9), (1, 12, 20), (2, 10, 14)];
    for (at, first, end) in gaps {
        hide(&drives[at], first, end);
        for limit in [1, 2, 5, 7, 100] {
            assert_eq!(scanned(&world, limit).await.unwrap(), expected, "{at} {limit}");
        }
    }
    hide(&drives[3], 13, 14);
    for limit in [1, 7, 100] {
        let short = scanned(&world, limit).await.unwrap_err();
        assert!(matches!(&short, StoreError::BelowQuorum { need: 2, have: 1, .. }), "{short}");
        assert!(short.to_string().contains("rot"), "{short}");
    }
}
