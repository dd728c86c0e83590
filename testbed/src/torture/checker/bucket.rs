//! A bucket that comes and goes, with a few keys in it. What a bucket's end may not do: take an
//! acknowledged object with it, leave one behind for the next bucket of the name, or take a write
//! after it.

use std::collections::BTreeSet;

use super::Spec;

/// What was done, with the answer. Answers that say nothing are left open or out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BucketOp {
    /// CreateBucket: it is there afterwards, and S3 in us-east-1 says the same when it was before.
    Create,
    /// DeleteBucket that was done (or, open, may have been).
    Delete,
    /// DeleteBucket: BucketNotEmpty.
    NotEmpty,
    /// PutObject of a key.
    Put(u8),
    /// DeleteObject of a key.
    Remove(u8),
    /// HEAD or GET of a key: whether it is there.
    Seen(u8, bool),
    /// Any request: NoSuchBucket.
    NoBucket,
}

/// The rules.
pub struct Bucket;

impl Spec for Bucket {
    /// The keys, when the bucket is there.
    type State = Option<BTreeSet<u8>>;
    type Op = BucketOp;

    fn step(state: &Self::State, op: &BucketOp) -> Option<Self::State> {
        let Some(keys) = state else {
            return match op {
                BucketOp::Create => Some(Some(BTreeSet::new())),
                BucketOp::NoBucket => Some(None),
                _ => None,
            };
        };
        let same = |holds: bool| holds.then(|| state.clone());
        match op {
            BucketOp::Create => same(true),
            BucketOp::Delete => keys.is_empty().then_some(None),
            BucketOp::NotEmpty => same(!keys.is_empty()),
            BucketOp::Put(key) => Some(Some(keys.iter().copied().chain([*key]).collect())),
            BucketOp::Remove(key) => {
                Some(Some(keys.iter().copied().filter(|other| other != key).collect()))
            }
            BucketOp::Seen(key, there) => same(keys.contains(key) == *there),
            BucketOp::NoBucket => None,
        }
    }

    fn is_read(op: &BucketOp) -> bool {
        matches!(op, BucketOp::Seen(..) | BucketOp::NotEmpty | BucketOp::NoBucket)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Event, Verdict, check},
        BucketOp::{Create, Delete, NoBucket, NotEmpty, Put, Remove, Seen},
        *,
    };

    fn is_explained(ops: &[(u64, Option<u64>, BucketOp)]) -> bool {
        let event = |(called, returned, op): &(u64, Option<u64>, BucketOp)| Event {
            called: *called,
            returned: *returned,
            op: *op,
        };
        let events: Vec<_> = ops.iter().map(event).collect();
        check::<Bucket>(None, &events, 10_000) == Verdict::Explained
    }

    /// Goal: the life of a bucket is explained. Method: created twice, filled, not removable, emptied,
    /// removed, made again and empty; a write that races with the removal either way.
    #[test]
    fn a_life_is_explained() {
        let life = [Create, Create, Put(1), Seen(1, true), NotEmpty, Remove(1), Delete];
        let life = life.into_iter().chain([NoBucket, Create, Seen(1, false)]);
        let life: Vec<_> =
            (0..).map(|n| n * 10).zip(life).map(|(t, op)| (t, Some(t + 5), op)).collect();
        assert!(is_explained(&life));
        for outcome in [NotEmpty, Delete] {
            let put = if outcome == Delete { NoBucket } else { Put(1) };
            assert!(is_explained(&[
                (0, Some(1), Create),
                (2, Some(9), put),
                (3, Some(8), outcome)
            ]));
        }
    }

    /// Goal: what a removal may not do is found. Method: an acknowledged object that went with it, one
    /// that shows in the next bucket, a write after it, a removal that was refused without a reason.
    #[test]
    fn what_a_removal_may_not_do_is_found() {
        let made = (0, Some(1), Create);
        assert!(!is_explained(&[made, (2, Some(3), Put(1)), (4, Some(5), Delete)]));
        let again = (6, Some(7), Create);
        assert!(!is_explained(&[
            made,
            (2, None, Put(1)),
            (4, Some(5), Delete),
            again,
            (8, Some(9), Seen(1, true)),
            (10, Some(11), Seen(1, false))
        ]));
        assert!(!is_explained(&[made, (2, Some(3), Delete), (4, Some(5), Put(1))]));
        assert!(!is_explained(&[made, (2, Some(3), NotEmpty)]));
        // Open before the removal: it may yet appear in the next bucket of the name, for to a client
        // the name is all there is.
        assert!(is_explained(&[
            made,
            (2, None, Put(1)),
            (4, Some(5), Delete),
            again,
            (8, Some(9), Seen(1, true))
        ]));
    }
}
