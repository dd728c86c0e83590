//! Completing an upload (PROTOCOL.md section 7).
//!
//! Steps, and what a crash after each leaves: 1 freeze the upload for this operation: parts are refused
//! until it is overdue, then whoever meets it reopens it; 2 judge the frozen parts: as after 1; 3 write
//! the object, which drives accept only while their copy of the upload is frozen for this operation
//! (INV-UPLOAD-2): whoever meets the upload finds the object and completes it; 4 keep the answer.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use holdfast_register::{
    Candidate, Conditional, Decided, Decision as Ruling, HolderMask, Judgement, Machine, Subject,
};
use holdfast_types::{BucketStamp, EntryKind, OperationId, RegisterKey, VersionId, limits};

use crate::{
    api::{CompleteUpload, ObjectInfo},
    bulk::live_meta,
    complete_judge::{Assembled, FrozenPart, assemble, check_request, request_digest},
    conditions::check_write,
    conversation::{Conversation, Pause},
    draft::{Decision, Draft},
    engine::Engine,
    error::StoreError,
    meta::ObjectMeta,
    scan::OpenOnes,
    set::{Frozen, SetHandle},
    upload_record::{COMPLETE_MICROS, SETTLE_AFTER_MICROS, UploadPhase, UploadState, guard},
    uploads::{UploadAt, damaged},
};

/// Times a completion starts again for another one was in its way.
const ROUNDS_MAX: u32 = 4;

/// What freezing an upload met.
enum Freeze {
    /// It is frozen for this operation.
    Frozen(UploadState),
    /// The same parts were completed before: this was the answer.
    Answered(ObjectMeta),
    /// Another completion is under way.
    Busy,
}

impl Engine {
    /// S3: `CompleteMultipartUpload`.
    pub(crate) async fn upload_complete(
        &self,
        complete: CompleteUpload,
    ) -> Result<ObjectInfo, StoreError> {
        let operation = self.draw_operation();
        let request = request_digest(&complete.parts);
        let work = |stamp| {
            let at = UploadAt::new(stamp, &complete.key, complete.upload);
            self.complete_under(at, &complete, operation, request.clone())
        };
        let meta = self.with_bucket(&complete.bucket, work).await?;
        Ok(ObjectInfo { version: VersionId::NULL, meta })
    }

    pub(crate) async fn complete_under(
        &self,
        at: UploadAt,
        complete: &CompleteUpload,
        operation: OperationId,
        request: Bytes,
    ) -> Result<ObjectMeta, StoreError> {
        for _ in 0..ROUNDS_MAX {
            match self.freeze(&at, operation, &request).await? {
                Freeze::Frozen(state) => {
                    return self.complete_frozen(&at, complete, &state, operation).await;
                }
                Freeze::Answered(meta) => return Ok(meta),
                Freeze::Busy => {
                    self.settled_upload(&at).await?;
                }
            }
        }
        Err(StoreError::ConditionalConflict)
    }

    /// Step 1: drives refuse the upload's parts from now on.
    async fn freeze(
        &self,
        at: &UploadAt,
        operation: OperationId,
        request: &Bytes,
    ) -> Result<Freeze, StoreError> {
        let register = at.register();
        let now = self.now_micros();
        let decide = |current: Option<&Candidate>| {
            let state = UploadState::of(current).map_err(|e| damaged(&register, &e))?;
            let state = state.ok_or(StoreError::NoSuchUpload)?;
            Ok(match state.phase {
                UploadPhase::Open => {
                    let frozen = state.completing(operation, request.clone(), now);
                    // What is written depends on what is shown: each writing is its own operation.
                    let draft = Draft::record(self.draw_operation(), frozen.to_bytes());
                    Decision::Write(draft, Freeze::Frozen(frozen))
                }
                UploadPhase::Completing(other) if other == operation => {
                    Decision::Keep(Freeze::Frozen(state))
                }
                UploadPhase::Completing(_) => Decision::Keep(Freeze::Busy),
                UploadPhase::Completed if state.record.request == *request => {
                    Decision::Keep(Freeze::Answered(state.record.answer.unwrap_or_default()))
                }
                UploadPhase::Completed => return Err(StoreError::NoSuchUpload),
            })
        };
        let set = self.set_for(&register);
        set.update(at.stamp, register.clone(), VersionId::NULL, decide).await
    }

    /// Steps 2 to 4, and the way back.
    async fn complete_frozen(
        &self,
        at: &UploadAt,
        complete: &CompleteUpload,
        state: &UploadState,
        operation: OperationId,
    ) -> Result<ObjectMeta, StoreError> {
        // INV-UPLOAD-3: no ballot is drawn for the object later than this, so whoever settles the
        // overdue upload seals the object's key against all of them.
        let begun = state.record.deadline_micros - SETTLE_AFTER_MICROS;
        let left = (begun + COMPLETE_MICROS).saturating_sub(self.now_micros());
        let writing = self.write_completed(at, complete, state, operation);
        let written = match tokio::time::timeout(Duration::from_micros(left), writing).await {
            Ok(written) => written,
            Err(_) => {
                Err(StoreError::Unknown { message: "the completion took too long".to_owned() })
            }
        };
        match written {
            Ok(made) => {
                let meta = made.meta;
                let marked = self.mark_completed(at, operation, Some(state), &meta).await;
                if let Err(error) = marked {
                    // The object is there; whoever meets the upload finds it and does the rest.
                    tracing::warn!(upload = %at.upload, %error, "completed upload is not marked yet");
                }
                self.set_for(&at.register()).sweep_soon(at.clone());
                Ok(meta)
            }
            Err(error @ StoreError::BucketChanged { .. }) => Err(error),
            Err(error) if wrote_nothing(&error) => {
                self.reopen(at, operation).await?;
                Err(error)
            }
            // Somebody took it for overdue, or the drives that have it frozen are not heard any more: nothing
            // was written. That there is no such upload would be a guess (INV-UPLOAD-5).
            Err(StoreError::UploadNotOpen) => {
                let settled = self.settle_completion(at, operation).await?;
                settled.ok_or(StoreError::ConditionalConflict)
            }
            Err(error) => match self.settle_completion(at, operation).await {
                Ok(Some(meta)) => Ok(meta),
                _ => Err(error),
            },
        }
    }

    /// Steps 2 and 3.
    async fn write_completed(
        &self,
        at: &UploadAt,
        complete: &CompleteUpload,
        state: &UploadState,
        operation: OperationId,
    ) -> Result<Assembled, StoreError> {
        check_request(&complete.parts)?;
        let set = self.set_for(&at.register());
        // What is open among the frozen parts is this completion's to resolve, and nobody else's.
        let frozen = set.frozen(at, operation).await?;
        let found =
            set.found_parts(at, 0, limits::PARTS_MAX, &OpenOnes::Frozen(frozen.clone())).await?;
        let parts: BTreeMap<u16, FrozenPart> = found
            .into_iter()
            .map(|part| {
                let entry = part.candidate.entry;
                let (operation, geometry) = (entry.operation, entry.geometry);
                (part.number, FrozenPart { record: part.record, operation, geometry })
            })
            .collect();
        let mut made = assemble(&state.record, &parts, &complete.parts, &complete.announced)?;
        made.meta.modified_micros = self.now_micros();
        let draft = Draft::record(operation, made.meta.to_bytes())
            .with_parts(made.parts.clone())
            .with_guard(frozen.guard);
        let object = at.object();
        if complete.conditions.is_empty() {
            set.write(at.stamp, object, VersionId::NULL, draft).await?;
            return Ok(made);
        }
        let decide = |current: Option<&Candidate>| {
            if current.is_some_and(|found| found.entry.operation == operation) {
                return Ok(Decision::Keep(()));
            }
            let meta = live_meta(current).map_err(|e| damaged(&object, &e))?;
            check_write(&complete.conditions, meta.as_ref())?;
            Ok(Decision::Write(draft.clone(), ()))
        };
        set.update(at.stamp, object.clone(), VersionId::NULL, decide).await?;
        Ok(made)
    }

    /// Step 4. `frozen` is the upload as this operation knows it, when it does.
    async fn mark_completed(
        &self,
        at: &UploadAt,
        operation: OperationId,
        frozen: Option<&UploadState>,
        answer: &ObjectMeta,
    ) -> Result<(), StoreError> {
        let register = at.register();
        let now = self.now_micros();
        let decide = |current: Option<&Candidate>| {
            let state = UploadState::of(current).map_err(|e| damaged(&register, &e))?;
            // Another may have taken the completion for lost while its object was being written, and
            // reopened the upload: the object is there, so the upload is over all the same.
            let over = |state: &UploadState| match state.phase {
                UploadPhase::Completing(other) => other == operation,
                UploadPhase::Open => frozen.is_some(),
                UploadPhase::Completed => false,
            };
            let Some(state) = state.filter(over) else { return Ok(Decision::Keep(())) };
            let request = frozen.unwrap_or(&state).record.request.clone();
            let completed = state.completed(operation, request, answer.clone(), now);
            let draft = Draft::record(self.draw_operation(), completed.to_bytes());
            Ok(Decision::Write(draft, ()))
        };
        let set = self.set_for(&register);
        set.update(at.stamp, register.clone(), VersionId::NULL, decide).await
    }

    /// Undoes step 1, when it is still this operation's.
    async fn reopen(&self, at: &UploadAt, operation: OperationId) -> Result<(), StoreError> {
        let register = at.register();
        let decide = |current: Option<&Candidate>| {
            let state = UploadState::of(current).map_err(|e| damaged(&register, &e))?;
            let ours = |state: &UploadState| state.phase == UploadPhase::Completing(operation);
            let Some(state) = state.filter(ours) else { return Ok(Decision::Keep(())) };
            let draft = Draft::record(self.draw_operation(), state.reopened().to_bytes());
            Ok(Decision::Write(draft, ()))
        };
        let set = self.set_for(&register);
        set.update(at.stamp, register.clone(), VersionId::NULL, decide).await
    }

    /// Brings a completion to its end that was left half-way: never writes the object anew. When the
    /// object's key has it, the upload is completed; otherwise the key is sealed, so that what a few
    /// drives may hold of it can never be adopted any more (its parts may be freed from then on), and
    /// the upload is reopened. Answers the object's record when it was written.
    pub(crate) async fn settle_completion(
        &self,
        at: &UploadAt,
        operation: OperationId,
    ) -> Result<Option<ObjectMeta>, StoreError> {
        let object = at.object();
        let set = self.set_for(&object);
        let current = set.seal(at.stamp, &object, VersionId::NULL).await?;
        let written = current.filter(|found| {
            found.entry.operation == operation && found.entry.kind == EntryKind::Put
        });
        let meta = live_meta(written.as_ref()).map_err(|e| damaged(&object, &e))?;
        match &meta {
            Some(meta) => {
                self.mark_completed(at, operation, None, meta).await?;
                set.sweep_soon(at.clone());
            }
            None => self.reopen(at, operation).await?,
        }
        Ok(meta)
    }
}

/// Whether an error says that the object was not written, and never will be by this operation: what the
/// judge of the parts and the conditions answer.
const fn wrote_nothing(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::InvalidPart { .. }
            | StoreError::InvalidPartOrder
            | StoreError::PartTooSmall { .. }
            | StoreError::InvalidArgument { .. }
            | StoreError::InvalidRequest { .. }
            | StoreError::BodyRejected { .. }
            | StoreError::EntityTooLarge
            | StoreError::PreconditionFailed { .. }
            | StoreError::NoSuchKey { .. }
    )
}

impl SetHandle {
    /// Which drives have frozen the upload for a completion.
    ///
    /// # Errors
    /// [`StoreError::UploadNotOpen`] when it is not frozen for this one any more, [`StoreError::BelowQuorum`] when
    /// too few drives say.
    pub(crate) async fn frozen(
        &self,
        at: &UploadAt,
        operation: OperationId,
    ) -> Result<Frozen, StoreError> {
        let register = at.register();
        let phase = UploadPhase::Completing(operation);
        let found = match self.judged_by_all(at.stamp, &register).await? {
            Judgement::Found(found) => found,
            Judgement::Absent => return Err(StoreError::UploadNotOpen),
            // The drives vanished since: they have it, and do not say so.
            Judgement::Unknown { have, need } => {
                return Err(self.shared.below_quorum(need, have, &[]));
            }
        };
        let state = UploadState::of(Some(&found)).map_err(|e| damaged(&register, &e))?;
        if state.is_none_or(|state| state.phase != phase) {
            // Somebody took it for overdue.
            return Err(StoreError::UploadNotOpen);
        }
        let route = self.shared.route(&register)?;
        let slot = |shard: u8| route.slots[usize::from(shard)] as u8;
        let slots = found.holders.iter().map(slot).fold(HolderMask::default(), HolderMask::with);
        Ok(Frozen { guard: guard(register, phase), slots })
    }

    /// The settled value of a register, brought under a fresh ballot (a tombstone when there is none):
    /// nothing that was drawn below it can come up any more.
    async fn seal(
        &self,
        scope: BucketStamp,
        key: &RegisterKey,
        version: VersionId,
    ) -> Result<Option<Candidate>, StoreError> {
        let set = &self.shared;
        set.check_writable()?;
        let route = set.route(key)?;
        let tombstone = OperationId::draw(set.random.as_ref());
        let drives = set.drives(&route);
        let machine = Conditional::new(drives, version, Subject::Register, tombstone).sealing();
        let mut talk = Conversation::new(set, scope, &route, machine);
        let mut shown = None;
        let mut step = talk.machine.start();
        let outcome = loop {
            match talk.run(step).await {
                Pause::Done(outcome) => break outcome,
                Pause::Evaluate(current) => shown = current,
            }
            step = talk.machine.on_decision(Ruling::Keep);
        };
        match outcome {
            Ok(Decided::Kept | Decided::Written(_)) => {
                talk.settle();
                Ok(shown)
            }
            Err(failure) => Err(talk.explain(failure)),
        }
    }
}

#[cfg(test)]
impl Engine {
    /// Leaves an upload as a process does that dies after step 1, or after step 3 of `written`.
    pub(crate) async fn freeze_for_tests(
        &self,
        at: &UploadAt,
        operation: OperationId,
        request: &Bytes,
        written: Option<&CompleteUpload>,
    ) {
        let frozen = self.freeze(at, operation, request).await.expect("the upload is open");
        let Freeze::Frozen(state) = frozen else { panic!("the upload is open") };
        if let Some(complete) = written {
            let written = self.write_completed(at, complete, &state, operation).await;
            written.expect("the parts make an object");
        }
    }
}
