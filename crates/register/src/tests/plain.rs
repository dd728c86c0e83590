//! The short way to judge a key of a list.

use proptest::prelude::*;

use super::*;
use crate::judge::judge_plain;

/// An entry as one of a set of five drives may hold it: operations and ballots of few values, so that they meet.
fn some_held() -> impl Strategy<Value = Held> {
    let shards = [ShardStatus::Present, ShardStatus::Present, ShardStatus::Missing];
    let kinds = [EntryKind::Put, EntryKind::Put, EntryKind::Tombstone];
    let shards = prop::sample::select(shards.to_vec());
    let kinds = prop::sample::select(kinds.to_vec());
    let operation = prop_oneof![9 => Just(1_u128), 1 => Just(2)];
    (operation, 0_u64..2, shards, kinds, any::<bool>()).prop_map(
        |(op, later, shard, kind, settled)| {
            // What an operation writes is one thing: the kind follows from it.
            let kind = if op == 1 { EntryKind::Put } else { kind };
            let order = ballot(10);
            let entry = Entry { kind, ballot: ballot(10 + later), order, ..entry(op, order) };
            let holders = HolderMask::default();
            Held { entry, shard, settled, holders }
        },
    )
}

fn some_view() -> impl Strategy<Value = KeyView> {
    let entries = prop_oneof![
        2 => Just(Vec::new()),
        12 => prop::collection::vec(some_held(), 1),
        1 => prop::collection::vec(some_held(), 2),
    ];
    let version = prop_oneof![19 => Just(NULL), 1 => Just(VersionId(7))];
    (entries, version, prop::bool::weighted(0.9)).prop_map(|(entries, version, counts)| {
        let registers = BTreeMap::from([(version, RegisterState { entries: entries.clone() })]);
        let registers = if entries.is_empty() { BTreeMap::new() } else { registers };
        let highest = entries.iter().map(|held| held.entry.ballot).max().unwrap_or_default();
        KeyView { registers, highest, counts, ..KeyView::default() }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    /// Goal: what the short way says is what the whole judgement says. Method: random views of some drives
    /// of sets of one to five; whenever the short way says something, both are compared.
    #[test]
    fn the_short_way_judges_as_the_long_one(
        n in 1_u8..6,
        views in prop::collection::vec(prop::option::weighted(0.85, some_view()), 5),
    ) {
        let quorum = Quorum::of(n);
        let views = &views[..usize::from(n)];
        let said: Vec<(u8, KeyView)> =
            (0..n).zip(views).filter_map(|(index, view)| Some((index, view.clone()?))).collect();
        if let Some(plain) = judge_plain(quorum, &said) {
            let answers = views.iter().map(|view| view.clone().map_or(Answer::None, Answer::View));
            let answers: Vec<Answer> = answers.collect();
            prop_assert_eq!(plain, judge_latest(Basis::Reads, quorum, &answers));
        }
    }
}

/// Goal: the keys of a list that nothing is going on with take the short way. Method: all of a read quorum
/// show the one settled entry, a tombstone, or the same by as many drives as choose it.
#[test]
fn what_is_settled_takes_the_short_way() {
    let quorum = Quorum::of(4);
    let show = |held: Held| {
        let registers = BTreeMap::from([(NULL, RegisterState { entries: vec![held.clone()] })]);
        KeyView { registers, highest: held.entry.ballot, counts: true, ..KeyView::default() }
    };
    let all = |held: &Held, count: u8| -> Vec<(u8, KeyView)> {
        (0..count).map(|index| (index, show(held.clone()))).collect()
    };
    let open = held(1, ballot(10));
    let settled = Held { settled: true, ..open.clone() };
    let found = judge_plain(quorum, &all(&settled, 2));
    assert!(matches!(found, Some(Judgement::Found(c)) if c.verdict == Verdict::Settled));
    assert!(matches!(judge_plain(quorum, &all(&open, 3)), Some(Judgement::Found(_))));
    assert_eq!(judge_plain(quorum, &all(&open, 2)), None, "it may not be chosen");
    assert_eq!(judge_plain(quorum, &all(&settled, 1)), None, "fewer than R");
    let entry = Entry { kind: EntryKind::Tombstone, geometry: Geometry::EMPTY, ..settled.entry };
    let gone = Held { entry, shard: ShardStatus::NoData, ..held(1, ballot(10)) };
    let gone = Held { settled: true, ..gone };
    assert_eq!(judge_plain(quorum, &all(&gone, 2)), Some(Judgement::Absent));
}
