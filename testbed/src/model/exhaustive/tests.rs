//! The exhaustive search, small; its fingerprint; its reductions.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use holdfast_types::{Ballot, HybridTime, SetEpoch};

use super::{Node, Reductions, Search, World, scenario, search};
use crate::model::{bugs::Bug, rng::Rng};

/// Goal: within small bounds nothing is left to chance. Method: scenarios whose states can all be met in
/// a second or two, on three to five drives, to their end.
#[test]
fn small_scenarios_are_exhausted() {
    for name in ["n3-put-get-quiet", "n3-put-delete-lost", "n4-put-lost", "n5-put-restart"] {
        let result = search(name, None, Duration::from_secs(60)).unwrap();
        assert!(result.complete && result.violation.is_none(), "{result}");
        assert!(result.states > 100 && result.ends > 1, "{result}");
    }
}

/// Goal: a search that is cut says so. Method: no time at all.
#[test]
fn a_search_that_is_cut_is_not_complete() {
    let result = search("n5-put-create-lost", None, Duration::ZERO).unwrap();
    assert!(!result.complete && result.violation.is_none(), "{result}");
}

/// Goal: states that differ in what decides their future are different states. Method: change one field
/// at a time, the five among them that an earlier fingerprint left out.
#[test]
fn the_fingerprint_tells_states_apart() {
    let changes: [(&str, fn(&mut World)); 8] = [
        ("rng", |world| world.rng = Rng::new(7)),
        ("ceiling", |world| world.drives[1].ceiling = HybridTime(7)),
        ("memory since", |world| world.drives[1].facts.memory_since = HybridTime(7)),
        ("set epoch of a drive", |world| world.drives[1].facts.set_epoch = SetEpoch(7)),
        ("purge floor", |world| {
            world.drives[1].facts.purge_floor = Ballot::ceiling(1, HybridTime(7));
        }),
        ("set epoch", |world| world.epoch = SetEpoch(7)),
        ("clock", |world| world.now_micros += 1),
        ("budget", |world| world.budgets.redraws += 1),
    ];
    let config = scenario::config("n3-put-get-lost").unwrap();
    let root = Node::new(World::new(config, None, Rng::new(0)), Reductions::all(None));
    let mut prints = BTreeSet::from([root.fingerprint_anew()]);
    for (what, change) in changes {
        let mut other = root.clone();
        change(&mut other.world);
        assert!(prints.insert(other.fingerprint_anew()), "{what} is left out");
    }
}

/// Goal: fingerprints of parts are kept in step with the parts. Method: some paths; make them anew.
#[test]
fn fingerprints_are_in_step() {
    for seed in 0..200 {
        let config = scenario::config("n3-put-create-restart").unwrap();
        let reductions = Reductions::all(None);
        let mut node = Node::new(World::new(config, None, Rng::new(0)), reductions);
        let (mut rng, mut choices) = (Rng::new(seed), Vec::new());
        loop {
            assert_eq!(node.fingerprint(), node.fingerprint_anew());
            node.events(reductions, &mut choices);
            let count = choices.len() as u64;
            if count == 0 {
                break;
            }
            node = node.after(choices[rng.below(count) as usize].1);
        }
    }
}

/// Goal: the reductions pass over nothing. Method: the same scenarios with and without; what clients can
/// be told, and whether a planted bug shows, is the same.
#[test]
fn reductions_pass_over_nothing() {
    let none = Reductions { swaps: false, dead: false, order: false };
    for name in
        ["n3-put-lost", "n3-put-restart", "n3-put-crash", "n3-put-put-quiet", "n3-put-get-quiet"]
    {
        let of = |reductions| {
            let mut config = scenario::config(name).unwrap();
            config.budgets.redraws = 0;
            let mut search = Search::new(config, None, reductions);
            search.run(Instant::now() + Duration::from_secs(60));
            assert!(search.result.complete, "{name}: {}", search.result);
            let histories: BTreeSet<u128> = search.judged.keys().copied().collect();
            (search.result.states, histories)
        };
        let ((few, reduced), (many, all)) = (of(Reductions::all(None)), of(none));
        assert!(few < many, "{name}: {few} of {many}");
        assert_eq!(reduced, all, "{name}");
    }
}

/// Goal: the search finds bugs, too, and readers that skip an open head among them: that takes a write
/// acknowledged by fewer than all drives, so four of them, or two reads in a row on three. Method: plant it.
#[test]
fn planted_bugs_are_found() {
    let planted = [
        (Bug::SkipOpen, "n4-put-get-quiet"),
        (Bug::SkipOpen, "n3-put-get-get-lost"),
        (Bug::EarlyAck, "n3-put-get-get-lost"),
    ];
    for (bug, name) in planted {
        let result = search(name, Some(bug), Duration::from_secs(60)).unwrap();
        assert!(result.violation.is_some(), "{} in {result}", bug.name());
    }
}
