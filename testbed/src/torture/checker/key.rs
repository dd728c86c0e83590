//! One key as clients see it: a register that holds one of the values written to it, or nothing.
//!
//! Every write has a value of its own, so what a reader saw names the write it came from.

use std::collections::BTreeSet;

use super::{Event, Spec};

/// A value written to the key: its number among them.
pub type Value = u32;

/// What a conditional write was told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Told {
    /// It took effect.
    Done,
    /// S3: PreconditionFailed.
    Refused,
    /// S3: NoSuchKey, to an If-Match.
    Missing,
    /// Nothing that says.
    Unknown,
}

/// What was done to a key, with the answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyOp {
    /// A write without a condition (PutObject, CompleteMultipartUpload).
    Put(Value),
    /// DeleteObject.
    Delete,
    /// A write under `If-None-Match: *`.
    Create(Value, Told),
    /// A write under `If-Match`: of which value, and the new one.
    Replace(Value, Value, Told),
    /// GET, HEAD or a LIST that covers the key: what it holds.
    Seen(Option<Value>),
}

/// Calls all values alike that nobody saw and no condition names: to whoever looks they are the same.
pub fn anonymous(events: &[Event<KeyOp>]) -> Vec<Event<KeyOp>> {
    let named: BTreeSet<Value> = events
        .iter()
        .filter_map(|event| match event.op {
            KeyOp::Seen(seen) => seen,
            KeyOp::Replace(old, ..) => Some(old),
            _ => None,
        })
        .collect();
    let name = |value: Value| if named.contains(&value) { value } else { NAMELESS };
    let rename = |event: &Event<KeyOp>| {
        let op = match event.op {
            KeyOp::Put(value) => KeyOp::Put(name(value)),
            KeyOp::Create(value, told) => KeyOp::Create(name(value), told),
            KeyOp::Replace(old, new, told) => KeyOp::Replace(old, name(new), told),
            other => other,
        };
        Event { op, ..event.clone() }
    };
    events.iter().map(rename).collect()
}

/// Stands for every value that nobody saw.
const NAMELESS: Value = Value::MAX;

/// The rules.
pub struct Key;

impl Spec for Key {
    type State = Option<Value>;
    type Op = KeyOp;

    fn step(state: &Self::State, op: &KeyOp) -> Option<Self::State> {
        let when = |holds: bool, after: Self::State| holds.then_some(after);
        match *op {
            KeyOp::Put(value) => Some(Some(value)),
            KeyOp::Delete => Some(None),
            KeyOp::Create(value, Told::Done | Told::Unknown) => when(state.is_none(), Some(value)),
            KeyOp::Create(_, Told::Refused) => when(state.is_some(), *state),
            KeyOp::Create(_, Told::Missing) => None,
            KeyOp::Replace(old, new, Told::Done | Told::Unknown) => {
                when(*state == Some(old), Some(new))
            }
            KeyOp::Replace(old, _, Told::Refused) => {
                when(state.is_some_and(|value| value != old), *state)
            }
            KeyOp::Replace(_, _, Told::Missing) => when(state.is_none(), None),
            KeyOp::Seen(seen) => when(*state == seen, seen),
        }
    }

    fn is_read(op: &KeyOp) -> bool {
        matches!(
            op,
            KeyOp::Seen(_)
                | KeyOp::Create(_, Told::Refused | Told::Missing)
                | KeyOp::Replace(_, _, Told::Refused | Told::Missing)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Verdict, check},
        KeyOp::{Create, Delete, Put, Replace, Seen},
        Told::{Done, Missing, Refused, Unknown},
        *,
    };

    const NODES: usize = 2_000_000;

    fn at(called: u64, returned: u64, op: KeyOp) -> Event<KeyOp> {
        Event { called, returned: Some(returned), op }
    }

    fn open(called: u64, op: KeyOp) -> Event<KeyOp> {
        Event { called, returned: None, op }
    }

    fn is_explained(events: &[Event<KeyOp>]) -> bool {
        let verdict = check::<Key>(None, events, NODES);
        assert_ne!(verdict, Verdict::TooHard);
        let nameless = check::<Key>(None, &anonymous(events), NODES);
        assert_eq!(nameless == Verdict::Explained, verdict == Verdict::Explained);
        verdict == Verdict::Explained
    }

    /// Goal: many unknown outcomes do not make a history too hard, explained or not. Method: 40 open
    /// writes of all kinds beside 40 returned ones, each read; then one value read that was overwritten.
    #[test]
    fn many_unknown_outcomes_are_searched() {
        let mut events = Vec::new();
        for n in 0..40 {
            let op = match n % 4 {
                0 => Put(100 + n),
                1 => Delete,
                2 => Create(100 + n, Unknown),
                _ => Replace(1, 100 + n, Unknown),
            };
            let time = 100 * u64::from(n);
            events.push(open(time, op));
            events.push(at(time + 10, time + 15, Put(n)));
            events.push(at(time + 20, time + 25, Seen(Some(n))));
            events.push(at(time + 30, time + 35, Create(200, Refused)));
        }
        let verdict = |events: &[Event<KeyOp>]| check::<Key>(None, &anonymous(events), 300_000);
        assert_eq!(verdict(&events), Verdict::Explained);
        events.push(at(9_000, 9_001, Seen(Some(2))));
        assert!(matches!(verdict(&events), Verdict::Impossible(_)), "{:?}", verdict(&events));
    }

    /// Whether any order explains `events`, by trying all.
    fn by_trying(state: Option<Value>, left: &[Event<KeyOp>]) -> bool {
        let first = left.iter().filter_map(|event| event.returned).min();
        let Some(first) = first else { return true };
        (0..left.len()).filter(|place| left[*place].called <= first).any(|place| {
            let mut rest = left.to_vec();
            let event = rest.remove(place);
            Key::step(&state, &event.op).is_some_and(|state| by_trying(state, &rest))
        })
    }

    /// Goal: the search's short cuts pass over nothing. Method: many short random histories, right and
    /// wrong ones, against trying all orders.
    #[test]
    fn short_cuts_pass_over_nothing() {
        use rand::{Rng as _, SeedableRng as _};
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(5);
        let mut explained = 0;
        for _ in 0..20_000 {
            let mut events = Vec::new();
            for _ in 0..7 {
                let called = random.random_range(0..30);
                let value = random.random_range(0..3);
                let told = [Done, Refused, Missing, Unknown][random.random_range(0..4)];
                let op = match random.random_range(0..6) {
                    0 | 1 => Put(value),
                    2 => Delete,
                    3 if told != Missing => Create(value, told),
                    4 => Replace(value, random.random_range(0..3), told),
                    _ => Seen([None, Some(value)][random.random_range(0..2)]),
                };
                let unknown = matches!(op, Create(_, Unknown) | Replace(_, _, Unknown))
                    || (matches!(op, Put(_) | Delete) && random.random_range(0..2) == 0);
                let returned = (!unknown).then(|| called + random.random_range(1..12));
                events.push(Event { called, returned, op });
            }
            let right = by_trying(None, &events);
            assert_eq!(is_explained(&events), right, "{events:?}");
            explained += usize::from(right);
        }
        assert!((2_000..18_000).contains(&explained), "{explained}");
    }

    /// Goal: what one copy can do is explained. Method: histories in a row, overlapping, with
    /// conditions, with operations left open.
    #[test]
    fn what_one_copy_can_do_is_explained() {
        assert!(is_explained(&[]));
        assert!(is_explained(&[
            at(0, 1, Put(1)),
            at(2, 3, Seen(Some(1))),
            at(4, 5, Delete),
            at(6, 7, Seen(None))
        ]));
        // Overlapping writes in either order; a reader in between may see either.
        assert!(is_explained(&[
            at(0, 9, Put(1)),
            at(0, 9, Put(2)),
            at(1, 8, Seen(Some(2))),
            at(10, 11, Seen(Some(1)))
        ]));
        // A delete that found nothing may also have come later.
        assert!(is_explained(&[at(0, 9, Delete), at(0, 9, Put(1)), at(10, 11, Seen(None))]));
        // Conditions, done and refused.
        assert!(is_explained(&[
            at(0, 1, Create(1, Done)),
            at(2, 3, Create(2, Refused)),
            at(4, 5, Replace(1, 3, Done)),
            at(6, 7, Replace(1, 4, Refused)),
            at(8, 9, Delete),
            at(10, 11, Replace(3, 5, Missing)),
        ]));
    }

    /// Goal: an unknown outcome may have come, may come late, may never come. Method: one open write,
    /// seen at once, seen late, never seen; an open condition that must have held when it is seen.
    #[test]
    fn open_operations_may_come_late_or_never() {
        let write = open(0, Put(1));
        assert!(is_explained(&[write.clone(), at(5, 6, Seen(Some(1)))]));
        assert!(is_explained(&[
            write.clone(),
            at(5, 6, Seen(None)),
            at(7, 8, Put(2)),
            at(9, 10, Seen(Some(1)))
        ]));
        assert!(is_explained(&[write.clone(), at(5, 6, Seen(None))]));
        assert!(
            !is_explained(&[write, at(5, 6, Seen(Some(1))), at(7, 8, Seen(None))]),
            "it comes once"
        );
        let create = [at(0, 1, Put(1)), open(2, Create(2, Unknown)), at(3, 4, Seen(Some(2)))];
        assert!(!is_explained(&create), "there was something");
        let freed = [
            at(0, 1, Put(1)),
            open(2, Create(2, Unknown)),
            at(3, 4, Delete),
            at(5, 6, Seen(Some(2))),
        ];
        assert!(is_explained(&freed));
        // Never seen itself, but another's refusal shows that something was there.
        assert!(is_explained(&[open(0, Put(1)), at(2, 3, Create(2, Refused))]));
    }

    /// Goal: what no copy can do is found, and the event is named. Method: a lost write, a stale read,
    /// a value from nowhere, two creations, a delete that came back, a read of the future.
    #[test]
    fn what_no_copy_can_do_is_found() {
        let lost = [at(0, 1, Put(1)), at(2, 3, Seen(None))];
        assert_eq!(check::<Key>(None, &lost, NODES), Verdict::Impossible(vec![1]));
        assert!(!is_explained(&[at(0, 1, Put(1)), at(2, 3, Put(2)), at(4, 5, Seen(Some(1)))]));
        assert!(!is_explained(&[at(0, 1, Seen(Some(7)))]));
        assert!(!is_explained(&[at(0, 9, Create(1, Done)), at(0, 9, Create(2, Done))]));
        assert!(!is_explained(&[at(0, 1, Put(1)), at(2, 3, Delete), at(4, 5, Seen(Some(1)))]));
        assert!(!is_explained(&[at(0, 1, Seen(Some(1))), at(2, 3, Put(1))]));
        // Readers that disagree about the order of two writes.
        assert!(!is_explained(&[
            at(0, 20, Put(1)),
            at(0, 20, Put(2)),
            at(1, 2, Seen(Some(1))),
            at(3, 4, Seen(Some(2))),
            at(5, 6, Seen(Some(1))),
        ]));
        assert!(!is_explained(&[at(0, 1, Put(1)), at(2, 3, Replace(2, 3, Done))]));
        assert!(!is_explained(&[at(0, 1, Put(1)), at(2, 3, Replace(1, 2, Refused))]));
    }

    /// Goal: long histories with many unknown outcomes are checked in little time, right and wrong ones.
    /// Method: 200 operations of 8 clients on one true copy, one write in 20 open; then one read is
    /// made wrong.
    #[test]
    fn long_histories_are_checked() {
        use rand::{Rng as _, SeedableRng as _};
        for seed in 0..20 {
            let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
            let (mut state, mut events) = (None, Vec::new());
            for n in 0..200_u32 {
                // Takes effect at 100 n; eight operations overlap.
                let effect = u64::from(n + 10) * 100;
                let (called, returned) =
                    (effect - random.random_range(1..400), effect + random.random_range(1..400));
                let op = match random.random_range(0..10) {
                    0 => Delete,
                    1 if state.is_none() => Create(n, Done),
                    1 => Create(n, Refused),
                    2..5 => Put(n),
                    _ => Seen(state),
                };
                state = Key::step(&state, &op).expect("it is what the copy does");
                let unknown = !Key::is_read(&op) && random.random_range(0..20) == 0;
                let op =
                    if let (true, Create(n, _)) = (unknown, op) { Create(n, Unknown) } else { op };
                events.push(Event { called, returned: (!unknown).then_some(returned), op });
            }
            assert!(is_explained(&events), "seed {seed}");
            let last = events.iter().rposition(|event| matches!(event.op, Seen(_))).expect("reads");
            // A value that was overwritten long before.
            let old = events[..60].iter().find_map(|event| match event.op {
                Put(value) if event.returned.is_some() => Some(value),
                _ => None,
            });
            events[last].op = Seen(old);
            assert!(!is_explained(&events), "seed {seed}");
        }
    }
}
