//! Gathering the answers of one batch from whichever threads they come.

use std::sync::Arc;

use holdfast_types::{DriveId, ErrorClass};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::{
    api::{DriveError, DriveResult},
    gate::Completion,
};

/// The answers of one batch.
pub(super) struct Gather {
    state: Mutex<State>,
}

struct State {
    results: Vec<Option<DriveResult>>,
    /// Of each request, given back when it is answered or dropped, all when the caller goes: what a
    /// hung drive holds on to is bounded by its own share (INV-ACTOR-2).
    permits: Vec<Vec<OwnedSemaphorePermit>>,
    left: usize,
    complete: Option<oneshot::Sender<()>>,
}

impl Gather {
    /// A gathering of `count` answers, with what admits each, and what is told when all are there.
    pub fn new(
        count: usize,
        permits: Vec<Vec<OwnedSemaphorePermit>>,
    ) -> (Arc<Self>, oneshot::Receiver<()>) {
        let (complete, told) = oneshot::channel();
        let complete = if count == 0 {
            // Nobody will tell.
            let _ = complete.send(());
            None
        } else {
            Some(complete)
        };
        let results = (0..count).map(|_| None).collect();
        let state = Mutex::new(State { results, permits, left: count, complete });
        (Arc::new(Self { state }), told)
    }

    /// The place for one answer.
    pub fn reply(self: &Arc<Self>, index: usize, drive: DriveId) -> Reply {
        Reply { gather: Some(Arc::clone(self)), index, drive, under_way: None }
    }

    /// What has been answered; the rest may yet be carried out.
    pub fn take(&self, drives: &[DriveId]) -> Vec<DriveResult> {
        let mut state = self.state.lock();
        state.complete = None;
        let results = std::mem::take(&mut state.results);
        let permits = std::mem::take(&mut state.permits);
        drop(state);
        drop(permits);
        let late = |drive: &DriveId| {
            let message = "no answer within the deadline; the effect is unknown";
            Err(DriveError::failed(*drive, ErrorClass::TimedOut, message))
        };
        let answered = results.into_iter().zip(drives);
        answered.map(|(result, drive)| result.unwrap_or_else(|| late(drive))).collect()
    }

    fn put(&self, index: usize, result: DriveResult) {
        let mut state = self.state.lock();
        // After `take` there are no places: too late.
        let Some(place) = state.results.get_mut(index) else { return };
        assert!(place.replace(result).is_none(), "a request is answered once");
        state.left -= 1;
        let permits = state.permits.get_mut(index).map(std::mem::take);
        let complete = if state.left == 0 { state.complete.take() } else { None };
        drop(state);
        drop(permits);
        if let Some(complete) = complete {
            // The caller may have gone.
            let _ = complete.send(());
        }
    }
}

/// The place for one answer. Dropped without one (a drive died, a queue was full), it says so.
pub(super) struct Reply {
    gather: Option<Arc<Gather>>,
    index: usize,
    drive: DriveId,
    /// Of the drive's share: given back when this is answered or dropped.
    under_way: Option<OwnedSemaphorePermit>,
}

impl Reply {
    /// Answers.
    pub fn answer(mut self, result: DriveResult) {
        if let Some(gather) = self.gather.take() {
            gather.put(self.index, result);
        }
    }

    /// As drives take it, under way by `permit` of the drive's share.
    pub fn completion(mut self, permit: OwnedSemaphorePermit) -> Completion {
        self.under_way = Some(permit);
        Box::new(move |result| self.answer(result))
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(gather) = self.gather.take() {
            let message = "the request was dropped on its way (a late one, a full queue, or a drive that \
                           is being opened again); its effect is unknown";
            gather.put(
                self.index,
                Err(DriveError::failed(self.drive, ErrorClass::TimedOut, message)),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::DriveReply;

    /// Goal: every request has exactly one answer, whatever happens to it. Method: one answered, one
    /// dropped, one late.
    #[tokio::test]
    async fn answered_dropped_and_late() {
        let drives = [DriveId(1), DriveId(2), DriveId(3)];
        let (gather, complete) = Gather::new(3, Vec::new());
        let [first, second, third] = [0, 1, 2].map(|n| gather.reply(n, drives[n]));
        first.answer(Ok(DriveReply::Done));
        drop(second);
        assert!(tokio::time::timeout(std::time::Duration::from_millis(5), complete).await.is_err());
        let results = gather.take(&drives);
        assert_eq!(results[0], Ok(DriveReply::Done));
        for late in [&results[1], &results[2]] {
            assert_eq!(late.as_ref().unwrap_err().class(), ErrorClass::TimedOut);
        }
        third.answer(Ok(DriveReply::Done));
        let (gather, complete) = Gather::new(1, Vec::new());
        let share = Arc::new(tokio::sync::Semaphore::new(1));
        let permit = Arc::clone(&share).try_acquire_owned().unwrap();
        (gather.reply(0, drives[0]).completion(permit))(Ok(DriveReply::Done));
        assert_eq!(share.available_permits(), 1);
        complete.await.unwrap();
        assert_eq!(gather.take(&drives[..1]), [Ok(DriveReply::Done)]);
        let (gather, complete) = Gather::new(0, Vec::new());
        complete.await.unwrap();
        assert_eq!(gather.take(&[]), []);
    }
}
