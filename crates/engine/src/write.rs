//! Blind writes: one round, whatever is there (PROTOCOL.md section 3).
//!
//! ```text
//! shape, encode --> one round --------------------------------------------------> written
//!      ^               | nothing was written, the set is narrower than thought
//!      |<--------------+
//!      |               | unknown: drives vanished, and the body is at hand
//!      `<-- a new operation when the shape is another one; ask first what was done (ADR 0011)
//! ```

use std::sync::Arc;

use holdfast_register::{Blind, Failure, Machine, Written};
use holdfast_types::{Ballot, BucketStamp, OperationId, RegisterKey, VersionId};

use crate::{
    conversation::{Conversation, Pause},
    draft::Draft,
    error::StoreError,
    members::SET_CHANGES_MAX,
    set::{Route, SetHandle, SetShared},
    staged::Staged,
    task,
};

/// Times a write whose body is at hand is begun: shaped for a set that lost drives, or finished after
/// drives vanished in its midst.
pub(crate) const BEGINNINGS_MAX: u32 = 4;

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
        let begun = task::after(set.knobs.call);
        let mut writing = Writing { set, scope, route, version, unknown: None, set_changes: 0 };
        let mut draft = draft;
        for beginning in 1.. {
            let last = beginning >= BEGINNINGS_MAX || task::until(begun).is_zero();
            match writing.begin(draft, last).await? {
                Outcome::Written(order) => return Ok(order),
                Outcome::Again(same) => draft = same,
            }
        }
        unreachable!("the last beginning ends the write")
    }
}

/// How a beginning of a write came out.
enum Outcome {
    Written(Ballot),
    /// To be begun again with this.
    Again(Draft),
}

/// One blind write over its beginnings.
struct Writing<'a> {
    set: &'a Arc<SetShared>,
    scope: BucketStamp,
    route: &'a Route,
    version: VersionId,
    /// What was begun before and may have left traces, with its shape and what a client would be told.
    unknown: Option<(Blind, Arc<Staged>, StoreError)>,
    /// Times the set's membership was learnt anew.
    set_changes: u32,
}

impl Writing<'_> {
    async fn begin(&mut self, draft: Draft, last: bool) -> Result<Outcome, StoreError> {
        let unknown = self.unknown.take();
        if let Err(below) = self.set.check_writable() {
            return Err(unknown.map_or(below, |(_, _, error)| error));
        }
        let traces = unknown.is_some();
        let staged = self.stage(draft.clone(), unknown.as_ref()).await?;
        let drives = self.set.drives(self.route);
        let own = staged.own(drives.up);
        let entry = staged.entry(Ballot::ZERO);
        let machine = match unknown {
            Some((before, ..)) => before.again(drives, entry, own),
            None => Blind::new(drives, self.version, entry, own),
        };
        let talk = Conversation::new(self.set, self.scope, self.route, machine);
        let talk = talk.staged(staged.clone());
        let mut talk = if last { talk } else { talk.leaving_stuck() };
        let first = talk.machine.start();
        let Pause::Done(outcome) = talk.run(first).await else {
            unreachable!("blind writes have no condition")
        };
        let again = !last && staged.is_reshapable() && !talk.is_hopeless();
        match outcome {
            Ok(Written { entry }) => {
                talk.settle();
                Ok(Outcome::Written(entry.order))
            }
            // Nothing was written. The set may be narrower than thought: shape the body for it.
            Err(Failure::Unavailable { .. }) if again && staged.is_misshaped(self.set) => {
                Ok(Outcome::Again(staged.draft.clone()))
            }
            Err(failure @ Failure::Unknown { .. }) if again => {
                let error = talk.explain(failure);
                tracing::debug!(set = %self.set.index, %error, "begun again");
                self.unknown = Some((talk.machine.clone(), staged.clone(), error));
                Ok(Outcome::Again(staged.draft.clone()))
            }
            Err(failure) => match talk.explain(failure) {
                // Nothing was written: again, under the set's newer membership.
                StoreError::SetChanged { current }
                    if !last && !traces && self.set_changes < SET_CHANGES_MAX =>
                {
                    self.set_changes += 1;
                    self.set.refresh(current).await;
                    Ok(Outcome::Again(draft))
                }
                error => Err(error),
            },
        }
    }

    /// The draft in a shape for the set as it stands now. What may have left traces keeps its shape, or
    /// becomes a new operation: drives hold shards of the old one, and an operation has one shape.
    async fn stage(
        &self,
        draft: Draft,
        unknown: Option<&(Blind, Arc<Staged>, StoreError)>,
    ) -> Result<Arc<Staged>, StoreError> {
        let draft = match unknown {
            Some((_, staged, _)) if !staged.is_misshaped(self.set) => return Ok(staged.clone()),
            Some(_) => {
                let operation = OperationId::draw(self.set.random.as_ref());
                Draft { operation, ..draft }
            }
            None => draft,
        };
        Ok(Arc::new(Staged::new(self.set, self.scope, self.route, draft).await?))
    }
}
