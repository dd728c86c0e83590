//! Completions whose drives vanish in their midst, at every message.

use std::time::Duration;

use holdfast_types::{ErrorClass, NodeIndex};

use super::{
    multipart::{completion, create, part},
    pattern, quiet, read_whole,
};
use crate::{
    StoreError,
    api::{ObjectInfo, ObjectStore},
    testing::{Cluster, Fuse},
};

/// A client asks again after this long, so often: past the deadline after which anybody settles a completion.
const ASKS_AGAIN: (Duration, u32) = (Duration::from_secs(20), 4);

/// Long enough for the first looks of the sweep.
const SWEPT: Duration = Duration::from_secs(10);

/// What goes wrong with the nodes `lost`: they answer so many requests, then do some whose answers are lost, and are
/// gone, or as before.
#[derive(Clone, Copy, Debug)]
struct Trouble {
    lost: &'static [usize],
    answered: usize,
    unheard: usize,
    mends: bool,
}

/// Completes an upload of one part in such trouble; whether it came to that, and what the client was told.
///
/// Then their power is back, and the client asks another process for the same until it is told something
/// definite: that must be the object.
async fn complete_in(trouble: Trouble) -> (bool, Result<ObjectInfo, StoreError>) {
    let cluster = Cluster::new(4, 1);
    let engine = cluster.engine(Some(NodeIndex(0)), 1, quiet());
    engine.bucket_create("b", "").await.expect("a fresh cluster takes a bucket");
    let upload = create(&engine, "k").await;
    let named = vec![part(&engine, &upload, 1, pattern(1, 64)).await.expect("it is open")];
    let fuse = Fuse::new(trouble.answered, trouble.unheard, trouble.mends);
    trouble.lost.iter().for_each(|node| cluster.nodes[*node].set_fuse(Some(fuse.clone())));
    let told = engine.complete_upload(completion(&upload, named.clone())).await;
    tokio::time::sleep(SWEPT).await;
    let was_met = fuse.is_burnt();
    for node in &cluster.nodes {
        node.set_fuse(None);
        node.drives().into_iter().for_each(|drive| node.restart(drive));
    }
    let other = cluster.engine(Some(NodeIndex(1)), 2, quiet());
    let (wait, tries) = ASKS_AGAIN;
    let mut again = Err(StoreError::ConditionalConflict);
    for _ in 0..tries {
        again = other.complete_upload(completion(&upload, named.clone())).await;
        if again.is_ok() {
            break;
        }
        assert!(is_undecided(&again), "{trouble:?}: first {told:?}, then {again:?}");
        tokio::time::sleep(wait).await;
    }
    let again = again.unwrap_or_else(|e| panic!("{trouble:?}: {told:?}, then {e}"));
    if let Ok(told) = &told {
        assert_eq!(told, &again, "{trouble:?}: the answer is kept");
    }
    assert!(read_whole(&other, "k").await == pattern(1, 64), "{trouble:?}");
    (was_met, told)
}

/// Whether a client knows as much as before, and is to ask again.
fn is_undecided(told: &Result<ObjectInfo, StoreError>) -> bool {
    let class = told.as_ref().err().map(StoreError::class);
    let asks_again = [ErrorClass::Unavailable, ErrorClass::TimedOut, ErrorClass::Overloaded];
    class.is_some_and(|class| asks_again.contains(&class))
        || *told == Err(StoreError::ConditionalConflict)
}

/// Goal: a completion that loses its drives tells no lie, and nothing of the upload is lost (INV-UPLOAD-5).
///
/// The story: the power of a whole cluster went between the freezing of an upload and the look at who had
/// frozen it. That no drive answered was taken for "the upload is gone", the outcome could not be settled
/// either, and the client was answered 404 NoSuchUpload for parts that had been acknowledged.
///
/// Method: all drives, or all but the coordinator's own, or one more than may be away, vanish for good after
/// the n-th request of the completion and of the sweep behind it, for every n, with and without a request
/// that is carried out unheard.
#[tokio::test(start_paused = true)]
async fn a_completion_cut_short_tells_no_lie() {
    for lost in [&[0, 1, 2, 3][..], &[1, 2, 3], &[2, 3]] {
        let mut undecided = 0;
        for (answered, unheard) in (0..).flat_map(|count| [(count, 0), (count, 1)]) {
            let trouble = Trouble { lost, answered, unheard, mends: false };
            let (was_met, told) = complete_in(trouble).await;
            assert!(told.is_ok() || is_undecided(&told), "{trouble:?}: {told:?}");
            undecided += u32::from(told.is_err());
            if !was_met {
                assert!(told.is_ok(), "{trouble:?}: nothing went wrong: {told:?}");
                break;
            }
        }
        assert!(undecided > 10, "{lost:?}: only {undecided} were cut short");
    }
}

/// Goal: a completion survives the loss of a drive at any moment; when answers are lost for a moment its effect does not
/// stay unknown: its freezing, its object and its mark are begun again (ADR 0011). Method: of four drives one is lost
/// for good, or two in a row do as they are told and are not heard, after the n-th request, for every n. Where it only
/// looks, that may be told, for nothing was written.
#[tokio::test(start_paused = true)]
async fn a_completion_outlives_what_may_go_wrong() {
    for (lost, unheard, mends) in [(&[3][..], 0, false), (&[0, 1, 2, 3], 2, true)] {
        for answered in 0.. {
            let trouble = Trouble { lost, answered, unheard, mends };
            let (was_met, told) = complete_in(trouble).await;
            let only_looked = mends && matches!(told, Err(StoreError::BelowQuorum { .. }));
            assert!(told.is_ok() || only_looked, "{trouble:?}: {told:?}");
            if !was_met {
                break;
            }
        }
    }
}
