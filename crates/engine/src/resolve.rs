//! Resolving what a writer left open: adoption (PROTOCOL.md section 4).

use std::sync::Arc;

use holdfast_register::{Candidate, Judgement, Machine, Reach, Resolve, Target, Verdict};
use holdfast_types::BucketStamp;

use crate::{
    conversation::{Conversation, Pause},
    error::StoreError,
    members::SET_CHANGES_MAX,
    set::{Route, SetShared},
};

impl SetShared {
    /// Brings an open register to a conclusion and answers its value.
    ///
    /// A part whose upload does not allow changes stays as it is ([`Route`]); who heals or rebuilds may
    /// still write again what was chosen.
    #[tracing::instrument(name = "set.resolve", target = "holdfast_trace", skip_all, fields(set = %self.index, key = ?route.key))]
    pub(crate) async fn resolve(
        self: &Arc<Self>,
        scope: BucketStamp,
        route: &Route,
        target: Target,
        reach: Reach,
    ) -> Result<Option<Candidate>, StoreError> {
        let mut changes = 0;
        loop {
            match self.resolve_once(scope, route, target, reach).await {
                Err(StoreError::SetChanged { current }) if changes < SET_CHANGES_MAX => {
                    changes += 1;
                    self.refresh(current).await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn resolve_once(
        self: &Arc<Self>,
        scope: BucketStamp,
        route: &Route,
        target: Target,
        reach: Reach,
    ) -> Result<Option<Candidate>, StoreError> {
        let route = match (route.is_guarded(), reach) {
            (false, _) | (true, Reach::Open) => route.clone(),
            (true, Reach::Sweep(_) | Reach::Rewrite(_)) => match self.judged(scope, route).await? {
                Judgement::Found(head) if head.verdict == Verdict::Settled => {
                    route.clone().excepting(head.entry.operation)
                }
                _ => route.clone(),
            },
        };
        let machine = Resolve::new(self.drives(&route), target, reach);
        let mut talk = Conversation::new(self, scope, &route, machine);
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
