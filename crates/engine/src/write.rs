//! Blind writes: one round, whatever is there (PROTOCOL.md section 3).

use std::sync::Arc;

use holdfast_register::{Blind, Failure, Machine};
use holdfast_types::{Ballot, BucketStamp, RegisterKey, VersionId};

use crate::{
    conversation::{Conversation, Pause},
    draft::Draft,
    error::StoreError,
    members::SET_CHANGES_MAX,
    set::{Route, SetHandle},
    staged::Staged,
};

/// Times a body that is in memory is shaped anew, for a set that lost drives before anything was
/// written.
const SHAPES_MAX: usize = 3;

impl SetHandle {
    /// Writes an entry, whatever is there. Answers the order it took: its place among the key's
    /// versions.
    ///
    /// # Errors
    /// [`StoreError::BelowQuorum`] when too few drives are there and nothing was written,
    /// [`StoreError::Unknown`] when the outcome cannot be known.
    #[tracing::instrument(name = "set.write", target = "holdfast_trace", skip_all, fields(set = %self.index(), ?key))]
    pub async fn write(
        &self,
        scope: BucketStamp,
        key: RegisterKey,
        version: VersionId,
        draft: Draft,
    ) -> Result<Ballot, StoreError> {
        let route = self.shared.route(&key)?;
        self.write_on(scope, &route, version, draft).await
    }

    /// As [`Self::write`], on a route that the caller knows.
    pub(crate) async fn write_on(
        &self,
        scope: BucketStamp,
        route: &Route,
        version: VersionId,
        draft: Draft,
    ) -> Result<Ballot, StoreError> {
        let set = &self.shared;
        let (mut shapes, mut changes) = (0, 0);
        loop {
            set.check_writable()?;
            shapes += 1;
            let staged = Arc::new(Staged::new(set, scope, route, draft.clone()).await?);
            let drives = set.drives(route);
            let own = staged.own(drives.up);
            let machine = Blind::new(drives, version, staged.entry(Ballot::ZERO), own);
            let talk = Conversation::new(set, scope, route, machine);
            let mut talk = talk.staged(staged.clone());
            let first = talk.machine.start();
            let Pause::Done(outcome) = talk.run(first).await else {
                unreachable!("blind writes have no condition")
            };
            match outcome {
                Ok(written) => {
                    talk.settle();
                    return Ok(written.entry.order);
                }
                // Nothing was written. The set may be narrower than thought: shape the body for it.
                Err(Failure::Unavailable { .. })
                    if shapes < SHAPES_MAX
                        && staged.is_reshapable()
                        && set.width(staged.geometry.size) != staged.geometry.data_shards => {}
                Err(failure) => match talk.explain(failure) {
                    // Nothing was written: again, under the set's newer membership.
                    StoreError::SetChanged { current } if changes < SET_CHANGES_MAX => {
                        changes += 1;
                        set.refresh(current).await;
                    }
                    error => return Err(error),
                },
            }
        }
    }
}
