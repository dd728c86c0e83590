//! Where keys go: uniformly, minimally moved, and the same for ever.

use std::collections::HashMap;

use holdfast_placement::{DriveSlot, Layout, NodeSpec, Pool, SetLayout};
use holdfast_types::{
    BucketId, ClusterId, DriveId, NodeIndex, OperationId, RegisterKey, SetEpoch, SetIndex,
};

/// A layout of pools given as (weight, sets), four drives a set.
fn layout(pools: &[(u64, usize)]) -> Layout {
    let mut index = 0_u16;
    let mut set = || {
        let slot = |slot: u16| DriveSlot {
            drive: DriveId(1 + u128::from(index * 4 + slot)),
            node: NodeIndex(slot),
            path: format!("/set{index}"),
            rebuilding: false,
        };
        let drives = (0..4).map(slot).collect();
        let made = SetLayout { index: SetIndex(index), epoch: SetEpoch(0), drives };
        index += 1;
        made
    };
    let pools = pools
        .iter()
        .map(|(weight, sets)| Pool { weight: *weight, sets: (0..*sets).map(|_| set()).collect() })
        .collect();
    let nodes = (0..4).map(|i| NodeSpec { url: format!("http://n{i}:9000") }).collect();
    let layout = Layout { cluster: ClusterId(7), generation: 1, nodes, pools };
    Layout::from_bytes(&layout.to_bytes()).expect("the layout is valid")
}

fn key(i: u32) -> RegisterKey {
    RegisterKey::object(BucketId(3), format!("images/{i:06}.jpg"))
}

fn counts(layout: &Layout, keys: u32) -> HashMap<u16, u32> {
    let mut counts = HashMap::new();
    for i in 0..keys {
        *counts.entry(layout.set_of(&key(i)).expect("object keys place").index.0).or_default() += 1;
    }
    counts
}

/// Goal: keys spread evenly over the sets of a pool. Method: 40,000 keys on 20 sets; every count is
/// within 5 sigma (about 11 %) of 2,000.
#[test]
fn sets_of_a_pool_get_equal_shares() {
    let counts = counts(&layout(&[(1, 20)]), 40_000);
    assert_eq!(counts.len(), 20);
    assert!(counts.values().all(|count| (1780..=2220).contains(count)), "{counts:?}");
}

/// Goal: pools get keys in proportion to their weights, whatever the unit. Method: weights 1:3:4 in
/// units of one and of a terabyte, one set each, 40,000 keys; counts within 5 %.
#[test]
fn pools_get_shares_by_weight() {
    for unit in [1, 1 << 40, u64::MAX / 4] {
        let counts = counts(&layout(&[(unit, 1), (3 * unit, 1), (4 * unit, 1)]), 40_000);
        for (set, expected) in [(0, 5_000_u32), (1, 15_000), (2, 20_000)] {
            assert!(counts[&set].abs_diff(expected) < expected / 20, "{unit} {counts:?}");
        }
    }
}

/// Goal: INV-PLACE-2. Method: place 20,000 keys before and after a pool is added; each stays or goes
/// to the new pool, and the new pool gets its share. Setting a pool's weight to 0 moves only its keys.
#[test]
fn adding_a_pool_moves_keys_only_into_it() {
    let before = layout(&[(2, 3), (2, 2)]);
    let after = layout(&[(2, 3), (2, 2), (4, 5)]);
    let drained = layout(&[(2, 3), (0, 2), (4, 5)]);
    let mut moved = 0;
    for i in 0..20_000 {
        let place = |layout: &Layout| layout.set_of(&key(i)).expect("object keys place").index.0;
        if place(&before) != place(&after) {
            assert!(place(&after) >= 5, "key {i} moved between old pools");
            moved += 1;
        }
        let left = 3..5;
        assert!(!left.contains(&place(&drained)), "a drained pool gets no keys");
        if !left.contains(&place(&after)) {
            assert_eq!(place(&after), place(&drained), "key {i} moved without need");
        }
    }
    assert!((9_500..=10_500).contains(&moved), "{moved}");
}

/// Goal: an object, its uploads and their parts share set and order; registries live in the first
/// set; other buckets and clusters place otherwise. Method: compare.
#[test]
fn what_belongs_together_is_placed_together() {
    let layout = layout(&[(1, 8), (1, 8)]);
    let mut other_bucket = 0;
    for i in 0..200 {
        let object = key(i);
        let upload = RegisterKey::upload(object.bucket, &object.name, OperationId(9));
        let part = RegisterKey::part(object.bucket, &object.name, OperationId(9), 77);
        let set = layout.set_of(&object).expect("object");
        for sibling in [upload, part] {
            assert_eq!(layout.set_of(&sibling).expect("sibling"), set);
            assert_eq!(layout.order(set, &sibling), layout.order(set, &object));
        }
        let elsewhere = RegisterKey::object(BucketId(4), object.name.clone());
        other_bucket += u32::from(layout.set_of(&elsewhere).expect("object") != set);
        let registry = RegisterKey::bucket(&format!("bucket-{i}"));
        assert_eq!(layout.set_of(&registry).expect("registry"), layout.first_set());
    }
    assert!(other_bucket > 150, "{other_bucket}");
    let mut broken = RegisterKey::upload(BucketId(3), b"k", OperationId(9));
    broken.name = broken.name.slice(..1);
    assert!(layout.set_of(&broken).is_err());
}

/// Goal: INV-PLACE-1: the meaning of a layout on disk never changes. Method: pinned results; if this
/// test fails, a cluster formatted before the change would not find its objects after it.
#[test]
fn places_are_pinned() {
    let layout = layout(&[(3, 5), (2, 7)]);
    let names: [&[u8]; 5] = [b"", b"a", b"a/b", "\u{fc}ber".as_bytes(), &[0xff; 1024]];
    let places: Vec<(u16, Vec<usize>)> = names
        .iter()
        .map(|name| {
            let key = RegisterKey::object(BucketId(0xabc), name.to_vec());
            let set = layout.set_of(&key).expect("object keys place");
            (set.index.0, layout.order(set, &key).expect("object keys place"))
        })
        .collect();
    let expected = PINNED;
    let got: Vec<(u16, &[usize])> = places.iter().map(|(set, o)| (*set, &o[..])).collect();
    assert_eq!(got, expected);
}

/// What [`places_are_pinned`] expects.
const PINNED: [(u16, &[usize]); 5] = [
    (10, &[0, 2, 1, 3]),
    (4, &[3, 1, 2, 0]),
    (2, &[0, 2, 1, 3]),
    (10, &[0, 1, 3, 2]),
    (10, &[3, 1, 2, 0]),
];
