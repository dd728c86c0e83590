//! One key as clients see it: a register that holds one of the values written to it, or nothing.
//!
//! Every write has a value of its own, so what a reader saw names the write it came from.

use super::Spec;

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
        super::{Event, Verdict, check},
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
        verdict == Verdict::Explained
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
