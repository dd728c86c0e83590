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
    set::{Route, SetHandle, SetShared},
    staged::Staged,
    task,
    write::BEGINNINGS_MAX,
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
    /// [`StoreError::Unknown`], [`StoreError::ConditionalConflict`] when others won too often, or were before it for too long.
    #[tracing::instrument(name = "set.update", target = "holdfast_trace", skip_all, fields(set = %self.index(), ?key))]
    pub async fn update<T: Send>(
        &self,
        scope: BucketStamp,
        key: RegisterKey,
        version: VersionId,
        mut decide: impl FnMut(Option<&Candidate>) -> Result<Decision<T>, StoreError> + Send,
    ) -> Result<T, StoreError> {
        let turn = self.shared.turns.take(&key, self.shared.knobs.call).await;
        let _turn = turn.ok_or(StoreError::ConditionalConflict)?;
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
        let begun = task::after(set.knobs.call);
        let route = set.route(key)?;
        let mut drives = set.drives(&route);
        let seal = OperationId::draw(set.random.as_ref());
        let machine = Conditional::new(drives, version, Subject::Register, seal);
        let mut talk = Conversation::new(set, scope, &route, machine);
        let mut drafts = Drafts::default();
        let mut beginning = 1;
        let mut step = talk.machine.start();
        let outcome = loop {
            let current = match talk.run(step).await {
                Pause::Done(Err(failure @ Failure::Unknown { .. })) => {
                    let last = beginning >= BEGINNINGS_MAX || task::until(begun).is_zero();
                    let error = talk.explain(failure);
                    if last || talk.is_hopeless() || set.check_writable().is_err() {
                        return Err(error);
                    }
                    let Some(staged) = drafts.reshaped(set, scope, &route).await else {
                        return Err(error);
                    };
                    tracing::debug!(set = %set.index, %error, "begun again");
                    beginning += 1;
                    drives = set.drives(&route);
                    let (entry, own) = (staged.entry(Ballot::ZERO), staged.own(drives.up));
                    let machine = talk.machine.clone().again(drives, entry, own);
                    talk = Conversation::new(set, scope, &route, machine);
                    talk.stage(staged, beginning < BEGINNINGS_MAX);
                    step = talk.machine.start();
                    continue;
                }
                Pause::Done(outcome) => break outcome,
                Pause::Evaluate(current) => current,
            };
            let ruling = match decide(current.as_ref()) {
                Err(error) => drafts.keep(Err(error)),
                Ok(Decision::Keep(answer)) => drafts.keep(Ok(answer)),
                Ok(Decision::Write(draft, answer)) => {
                    let staged = drafts.stage(set, scope, &route, draft, answer).await?;
                    let (entry, own) = (staged.entry(Ballot::ZERO), staged.own(drives.up));
                    talk.stage(staged, beginning < BEGINNINGS_MAX);
                    Ruling::Write { entry, own, keeps_order: false }
                }
            };
            step = talk.machine.on_decision(ruling);
        };
        match outcome {
            Ok(Decided::Written(entry)) => {
                talk.settle();
                Ok(drafts.answer(entry.operation))
            }
            Ok(Decided::Kept) => {
                talk.settle();
                drafts.kept.expect("kept is answered after a decision to keep")
            }
            Err(Failure::Contended { .. }) => Err(StoreError::ConditionalConflict),
            Err(failure) => Err(talk.explain(failure)),
        }
    }
}

/// What was decided so far, with what a caller is told of it.
struct Drafts<T> {
    /// Each with the operations of its shapes, in the order in which they were decided.
    written: Vec<(Vec<OperationId>, T)>,
    kept: Option<Result<T, StoreError>>,
    /// The last one to write, in its last shape.
    staged: Option<Arc<Staged>>,
}

impl<T> Default for Drafts<T> {
    fn default() -> Self {
        Self { written: Vec::new(), kept: None, staged: None }
    }
}

impl<T> Drafts<T> {
    fn keep(&mut self, answer: Result<T, StoreError>) -> Ruling {
        self.kept = Some(answer);
        Ruling::Keep
    }

    /// What to write, ready for its drives. One operation has one shape: drives that took the first attempt
    /// hold its shards, and `k_v` may have changed with the drives that are up. So what is decided once more
    /// is written in the shape that it has come to.
    async fn stage(
        &mut self,
        set: &Arc<SetShared>,
        scope: BucketStamp,
        route: &Route,
        draft: Draft,
        answer: T,
    ) -> Result<Arc<Staged>, StoreError> {
        let last = self.written.last_mut().filter(|(shapes, _)| shapes.contains(&draft.operation));
        if let (Some((_, told)), Some(staged)) = (last, &self.staged) {
            *told = answer;
            return Ok(staged.clone());
        }
        self.written.push((vec![draft.operation], answer));
        let staged = Arc::new(Staged::new(set, scope, route, draft).await?);
        self.staged = Some(staged.clone());
        Ok(staged)
    }

    /// What was written last, in a shape for the set as it stands now: the same one while it fits, a new
    /// operation otherwise (ADR 0011). `None` when nothing was, or it cannot be had: its bytes are not at hand
    /// any more, or another register names its operation (INV-UPLOAD-2).
    async fn reshaped(
        &mut self,
        set: &Arc<SetShared>,
        scope: BucketStamp,
        route: &Route,
    ) -> Option<Arc<Staged>> {
        let staged = self.staged.clone().filter(|staged| staged.is_reshapable())?;
        if !staged.is_misshaped(set) {
            return Some(staged);
        }
        if staged.draft.guard.is_some() {
            return None;
        }
        let operation = OperationId::draw(set.random.as_ref());
        let draft = Draft { operation, ..staged.draft.clone() };
        let staged = Arc::new(Staged::new(set, scope, route, draft).await.ok()?);
        if let Some((shapes, _)) = self.written.last_mut() {
            shapes.push(operation);
        }
        self.staged = Some(staged.clone());
        Some(staged)
    }

    /// What the caller is told when `operation` was written.
    fn answer(self, operation: OperationId) -> T {
        let written = self.written.into_iter().rfind(|(shapes, _)| shapes.contains(&operation));
        written.expect("what was written is one of the drafts").1
    }
}
