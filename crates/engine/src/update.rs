//! Conditional writes: Prepare, judge, decide, Accept under the promise (PROTOCOL.md section 3).

use std::sync::Arc;

use holdfast_register::{
    Candidate, Conditional, Decided, Decision as Ruling, Failure, Machine, Subject,
};
use holdfast_types::{Ballot, BucketStamp, OperationId, RegisterKey, VersionId};

use crate::{
    conversation::{Conversation, Pause},
    draft::{Decision, Draft},
    error::StoreError,
    members::SET_CHANGES_MAX,
    set::SetHandle,
    staged::Staged,
};

impl SetHandle {
    /// Decides on the current value of a register and writes under the promise that nothing came in
    /// between. A tombstone is shown as such.
    ///
    /// `decide` is called again when another writer wins meanwhile. A draft whose content depends on
    /// what was shown needs a fresh operation id each time: the id names the content.
    ///
    /// # Errors
    /// What `decide` answers; [`StoreError::BelowQuorum`] when nothing was written,
    /// [`StoreError::Unknown`], [`StoreError::ConditionalConflict`] when others won too often.
    #[tracing::instrument(name = "set.update", target = "holdfast_trace", skip_all, fields(set = %self.index(), ?key))]
    pub async fn update<T: Send>(
        &self,
        scope: BucketStamp,
        key: RegisterKey,
        version: VersionId,
        mut decide: impl FnMut(Option<&Candidate>) -> Result<Decision<T>, StoreError> + Send,
    ) -> Result<T, StoreError> {
        let mut changes = 0;
        loop {
            match self.update_once(scope, &key, version, &mut decide).await {
                // Nothing was written: again, under the set's newer membership.
                Err(StoreError::SetChanged { current }) if changes < SET_CHANGES_MAX => {
                    changes += 1;
                    self.shared.refresh(current).await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn update_once<T: Send>(
        &self,
        scope: BucketStamp,
        key: &RegisterKey,
        version: VersionId,
        decide: &mut (impl FnMut(Option<&Candidate>) -> Result<Decision<T>, StoreError> + Send),
    ) -> Result<T, StoreError> {
        let set = &self.shared;
        set.check_writable()?;
        let route = set.route(key)?;
        let drives = set.drives(&route);
        let seal = OperationId::draw(set.random.as_ref());
        let machine = Conditional::new(drives, version, Subject::Register, seal);
        let mut talk = Conversation::new(set, scope, &route, machine);
        let mut answers: Vec<(OperationId, T)> = Vec::new();
        let mut kept = None;
        let mut step = talk.machine.start();
        let outcome = loop {
            let current = match talk.run(step).await {
                Pause::Done(outcome) => break outcome,
                Pause::Evaluate(current) => current,
            };
            let ruling = match decide(current.as_ref()) {
                Err(error) => {
                    kept = Some(Err(error));
                    Ruling::Keep
                }
                Ok(Decision::Keep(answer)) => {
                    kept = Some(Ok(answer));
                    Ruling::Keep
                }
                Ok(Decision::Write(draft, answer)) => {
                    let repeated = talk.staged.clone();
                    let repeated = repeated.filter(|s| s.draft.operation == draft.operation);
                    answers.push((draft.operation, answer));
                    // One operation has one shape: drives that took the first attempt hold its
                    // shards, and `k_v` may have changed with the drives that are up.
                    let staged = match repeated {
                        Some(staged) => staged,
                        None => self.stage(scope, &route, draft).await?,
                    };
                    let own = staged.own(drives.up);
                    let entry = staged.entry(Ballot::ZERO);
                    talk.staged = Some(staged);
                    Ruling::Write { entry, own, keeps_order: false }
                }
            };
            step = talk.machine.on_decision(ruling);
        };
        match outcome {
            Ok(Decided::Written(entry)) => {
                talk.settle();
                let written = answers.into_iter().rfind(|(id, _)| *id == entry.operation);
                Ok(written.expect("what was written is one of the drafts").1)
            }
            Ok(Decided::Kept) => {
                talk.settle();
                kept.expect("kept is answered after a decision to keep")
            }
            Err(Failure::Contended { .. }) => Err(StoreError::ConditionalConflict),
            Err(failure) => Err(talk.explain(failure)),
        }
    }

    async fn stage(
        &self,
        scope: BucketStamp,
        route: &crate::set::Route,
        draft: Draft,
    ) -> Result<Arc<Staged>, StoreError> {
        Ok(Arc::new(Staged::new(&self.shared, scope, route, draft).await?))
    }
}
