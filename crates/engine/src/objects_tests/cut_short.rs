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

/// Completes an upload of one part while the nodes `lost` answer so many more requests, perhaps do one that they do
/// not answer, and are gone; whether it came to that, and what the client was told.
///
/// Then their power is back, and the client asks another process for the same until it is told something
/// definite: that must be the object.
async fn cut_after(lost: &[usize], cut: (usize, bool)) -> (bool, Result<ObjectInfo, StoreError>) {
    let cluster = Cluster::new(4, 1);
    let engine = cluster.engine(Some(NodeIndex(0)), 1, quiet());
    engine.bucket_create("b", "").await.expect("a fresh cluster takes a bucket");
    let upload = create(&engine, "k").await;
    let named = vec![part(&engine, &upload, 1, pattern(1, 64)).await.expect("it is open")];
    let fuse = Fuse::new(cut.0, cut.1);
    lost.iter().for_each(|node| cluster.nodes[*node].set_fuse(Some(fuse.clone())));
    let told = engine.complete_upload(completion(&upload, named.clone())).await;
    tokio::time::sleep(SWEPT).await;
    let was_cut = fuse.is_burnt();
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
        assert!(is_undecided(&again), "{lost:?} after {cut:?}: first {told:?}, then {again:?}");
        tokio::time::sleep(wait).await;
    }
    let again = again.unwrap_or_else(|e| panic!("{lost:?} after {cut:?}: {told:?}, then {e}"));
    if let Ok(told) = &told {
        assert_eq!(told, &again, "{lost:?} after {cut:?}: the answer is kept");
    }
    assert!(read_whole(&other, "k").await == pattern(1, 64), "{lost:?} after {cut:?}");
    (was_cut, told)
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
        for cut in (0..).flat_map(|count| [(count, false), (count, true)]) {
            let (was_cut, told) = cut_after(lost, cut).await;
            assert!(told.is_ok() || is_undecided(&told), "{lost:?} after {cut:?}: {told:?}");
            undecided += u32::from(told.is_err());
            if !was_cut {
                assert!(told.is_ok(), "{lost:?}: nothing went wrong: {told:?}");
                break;
            }
        }
        assert!(undecided > 10, "{lost:?}: only {undecided} were cut short");
    }
}

/// Goal: a completion survives the loss of as many drives as may be away, at any moment: its freezing, its
/// object and its mark are begun again (ADR 0011). Method: one of four drives vanishes after the n-th request.
#[tokio::test(start_paused = true)]
async fn a_completion_outlives_a_drive() {
    for lost in 0..4 {
        for cut in (0..).flat_map(|count| [(count, false), (count, true)]) {
            let (was_cut, told) = cut_after(&[lost], cut).await;
            assert!(told.is_ok(), "drive {lost} after {cut:?}: {told:?}");
            if !was_cut {
                break;
            }
        }
    }
}
