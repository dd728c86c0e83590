//! Resolving what a writer left open: adoption (PROTOCOL.md section 4).

use std::sync::Arc;

use holdfast_register::{Candidate, Machine, Reach, Resolve, Target};
use holdfast_types::BucketStamp;

use crate::{
    conversation::{Conversation, Pause},
    error::StoreError,
    set::{Route, SetShared},
};

impl SetShared {
    /// Brings an open register to a conclusion and answers its value.
    #[tracing::instrument(name = "set.resolve", target = "holdfast_trace", skip_all, fields(set = %self.index, key = ?route.key))]
    pub(crate) async fn resolve(
        self: &Arc<Self>,
        scope: BucketStamp,
        route: &Route,
        target: Target,
        reach: Reach,
    ) -> Result<Option<Candidate>, StoreError> {
        let machine = Resolve::new(self.drives(route), target, reach);
        let mut talk = Conversation::new(self, scope, route, machine);
        let first = talk.machine.start();
        let Pause::Done(outcome) = talk.run(first).await else {
            unreachable!("resolutions have no condition")
        };
        match outcome {
            Ok(candidate) => {
                talk.settle();
                Ok(candidate)
            }
            Err(failure) => Err(talk.explain(failure)),
        }
    }
}
