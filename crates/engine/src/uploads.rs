//! Multipart uploads up to their completion: creating, parts, aborting (PROTOCOL.md section 7).
//!
//! An upload and each of its parts are registers of their own in the object's set. A part is accepted
//! by a drive only while its own copy of the upload's register is open (INV-UPLOAD-1): what R drives that
//! have frozen or forgotten the upload do not show can never be acknowledged any more.

use std::time::Duration;

use bytes::Bytes;
use holdfast_register::Candidate;
use holdfast_types::{
    BucketStamp, EntryKind, Keyspace, OperationId, RegisterKey, VersionId, codec::CodecError,
    limits,
};

use crate::{
    api::{BoxBody, CreateUpload, PartInfo, PartPage, PutPart, UploadInfo},
    checksum::Algorithm,
    complete_judge::PartRecord,
    draft::{Decision, Draft, Received},
    engine::Engine,
    error::StoreError,
    list_merge::prefix_end,
    meta::PartMeta,
    scan::OpenOnes,
    set::SetHandle,
    upload_record::{UploadPhase, UploadRecord, UploadState},
};

/// How often a request that meets a completion under way looks for its outcome.
const OUTCOME_POLL: Duration = Duration::from_millis(50);

/// Parts read or freed at once.
pub(crate) const PARTS_AT_ONCE: usize = 64;

/// One upload: the names of its registers under a bucket's stamp.
#[derive(Clone, Debug)]
pub(crate) struct UploadAt {
    pub(crate) stamp: BucketStamp,
    pub(crate) key: Bytes,
    pub(crate) upload: OperationId,
}

impl UploadAt {
    pub(crate) fn new(stamp: BucketStamp, key: &[u8], upload: OperationId) -> Self {
        Self { stamp, key: Bytes::copy_from_slice(key), upload }
    }

    /// The upload's register.
    pub(crate) fn register(&self) -> RegisterKey {
        RegisterKey::upload(self.stamp.id, &self.key, self.upload)
    }

    /// A part's register.
    pub(crate) fn part(&self, number: u16) -> RegisterKey {
        RegisterKey::part(self.stamp.id, &self.key, self.upload, number)
    }

    /// The object's register.
    pub(crate) fn object(&self) -> RegisterKey {
        RegisterKey::object(self.stamp.id, self.key.clone())
    }
}

/// A part in its register.
#[derive(Clone, Debug)]
pub(crate) struct FoundPart {
    pub(crate) number: u16,
    pub(crate) record: PartRecord,
    pub(crate) candidate: Candidate,
}

impl Engine {
    /// S3: `CreateMultipartUpload`.
    pub(crate) async fn upload_create(
        &self,
        create: CreateUpload,
    ) -> Result<UploadInfo, StoreError> {
        if create.key.len() > limits::KEY_BYTES_MAX {
            return Err(StoreError::KeyTooLong);
        }
        let named = create.checksum_algorithm.as_deref();
        let algorithm = named.map(|name| Algorithm::by_name(name).ok_or(name)).transpose();
        let algorithm = algorithm.map_err(|name| invalid(format!("checksum algorithm {name}")))?;
        if let Some(algorithm) = algorithm.filter(|kind| !kind.allows(create.checksum_composite)) {
            let kind = if create.checksum_composite { "COMPOSITE" } else { "FULL_OBJECT" };
            return Err(invalid(format!("{} checksums cannot be {kind}", algorithm.name())));
        }
        let now = self.now_micros();
        let state = UploadState::open(UploadRecord {
            created_micros: now,
            checksum_algorithm: create.checksum_algorithm,
            checksum_composite: create.checksum_composite,
            headers: create.attributes.headers,
            user: create.attributes.user,
            ..UploadRecord::default()
        });
        let (upload, operation) = (self.draw_upload(now), self.draw_operation());
        let (key, draft) = (&create.key, Draft::record(operation, state.to_bytes()));
        let work = |stamp| {
            let register = UploadAt::new(stamp, key, upload).register();
            let draft = draft.clone();
            async move { self.set_for(&register).write(stamp, register, VersionId::NULL, draft).await }
        };
        self.with_bucket(&create.bucket, work).await?;
        Ok(state.info(create.key, upload))
    }

    /// An upload id: the time in its upper half, so that a key's uploads list in the order of their
    /// creation, and chance in the lower.
    fn draw_upload(&self, now_micros: u64) -> OperationId {
        OperationId(u128::from(now_micros) << 64 | u128::from(self.random.next_u64()))
    }

    /// The upload itself, as long as it takes parts or is being completed.
    pub(crate) async fn upload_info(
        &self,
        bucket: &str,
        key: &[u8],
        upload: OperationId,
    ) -> Result<UploadInfo, StoreError> {
        let work = |stamp| self.visible_upload(UploadAt::new(stamp, key, upload));
        let state = self.with_bucket(bucket, work).await?;
        Ok(state.info(Bytes::copy_from_slice(key), upload))
    }

    async fn visible_upload(&self, at: UploadAt) -> Result<UploadState, StoreError> {
        let state = self.upload_state(&at).await?;
        state.filter(UploadState::is_visible).ok_or(StoreError::NoSuchUpload)
    }

    /// What an upload's register says, by a linearizable read.
    pub(crate) async fn upload_state(
        &self,
        at: &UploadAt,
    ) -> Result<Option<UploadState>, StoreError> {
        let register = at.register();
        let set = self.set_for(&register);
        let found = set.read(at.stamp, &register, Some(VersionId::NULL)).await?;
        UploadState::of(found.as_ref()).map_err(|error| damaged(&register, &error))
    }

    /// As [`Self::upload_state`], once no completion is under way: its outcome is waited for, and
    /// settled when it is overdue.
    pub(crate) async fn settled_upload(
        &self,
        at: &UploadAt,
    ) -> Result<Option<UploadState>, StoreError> {
        loop {
            let state = self.upload_state(at).await?;
            let Some(UploadState { phase: UploadPhase::Completing(operation), .. }) = state else {
                return Ok(state);
            };
            if state.is_some_and(|state| state.is_overdue(self.now_micros())) {
                self.settle_completion(at, operation).await?;
            } else {
                tokio::time::sleep(OUTCOME_POLL).await;
            }
        }
    }

    /// S3: `UploadPart`.
    pub(crate) async fn part_put(
        &self,
        put: PutPart,
        body: BoxBody,
    ) -> Result<PartInfo, StoreError> {
        check_number(put.number)?;
        let operation = self.draw_operation();
        let (key, upload) = (&put.key, put.upload);
        let find = |stamp| async move {
            let at = UploadAt::new(stamp, key, upload);
            self.visible_upload(at.clone()).await.map(|state| (at, state))
        };
        let (at, state) = self.with_bucket(&put.bucket, find).await?;
        check_kind(&state.record, put.checksum)?;
        let register = at.part(put.number);
        let set = self.set_for(&register);
        let received = set.receive(at.stamp, &register, operation, body, put.length).await?;
        if received.size > limits::PART_BYTES_MAX {
            return Err(StoreError::EntityTooLarge);
        }
        let record = self.part_record(&put, &received);
        let draft = Draft::record(operation, record.to_bytes()).with_data(received.data);
        let id = at.stamp.id;
        let work = |stamp: BucketStamp| {
            let (at, draft) = (UploadAt { stamp, ..at.clone() }, draft.clone());
            // Another incarnation of the bucket never had this upload.
            async move {
                if stamp.id != id {
                    return Err(StoreError::NoSuchUpload);
                }
                self.write_part(&at, put.number, draft).await
            }
        };
        self.with_bucket(&put.bucket, work).await?;
        Ok(record.info())
    }

    fn part_record(&self, put: &PutPart, received: &Received) -> PartRecord {
        let part = PartMeta {
            number: put.number.into(),
            size: received.size,
            etag: received.digest.etag.clone(),
            checksum: received.digest.checksum.clone(),
        };
        PartRecord { part, modified_micros: self.now_micros() }
    }

    /// Writes a part's entry. Drives refuse it while a completion has the upload frozen; it may come
    /// to nothing, so its outcome is waited for.
    async fn write_part(&self, at: &UploadAt, number: u16, draft: Draft) -> Result<(), StoreError> {
        let register = at.part(number);
        let set = self.set_for(&register);
        loop {
            let (key, draft) = (register.clone(), draft.clone());
            match set.write(at.stamp, key, VersionId::NULL, draft).await {
                Err(StoreError::UploadNotOpen) => {}
                outcome => return outcome.map(|_| ()),
            }
            let state = self.settled_upload(at).await?;
            if !state.is_some_and(|state| state.phase == UploadPhase::Open) {
                return Err(StoreError::NoSuchUpload);
            }
        }
    }

    /// S3: `ListParts`.
    pub(crate) async fn parts_list(
        &self,
        bucket: &str,
        key: &[u8],
        upload: OperationId,
        after: u16,
        limit: usize,
    ) -> Result<PartPage, StoreError> {
        let limit = limit.min(limits::PAGE_KEYS_MAX);
        let work = |stamp| async move {
            let at = UploadAt::new(stamp, key, upload);
            let set = self.set_for(&at.register());
            loop {
                let state = self.visible_upload(at.clone()).await?;
                match set.found_parts(&at, after, limit + 1, &OpenOnes::Resolve).await {
                    // What is open among the parts is its to judge, as long as a completion is under way.
                    Err(StoreError::UploadNotOpen) => self.settled_upload(&at).await?,
                    found => return Ok((state, found?)),
                };
            }
        };
        let (state, mut found) = self.with_bucket(bucket, work).await?;
        let truncated = limit > 0 && found.len() > limit;
        found.truncate(limit);
        let parts = found.iter().map(|part| part.record.info()).collect();
        let upload = state.info(Bytes::copy_from_slice(key), upload);
        Ok(PartPage { upload, parts, truncated })
    }

    /// S3: `AbortMultipartUpload`. Only an open upload is aborted: a completion under way is waited
    /// for.
    pub(crate) async fn upload_abort(
        &self,
        bucket: &str,
        key: &[u8],
        upload: OperationId,
    ) -> Result<(), StoreError> {
        let work = |stamp| self.abort_under(UploadAt::new(stamp, key, upload));
        self.with_bucket(bucket, work).await
    }

    async fn abort_under(&self, at: UploadAt) -> Result<(), StoreError> {
        let register = at.register();
        let set = self.set_for(&register);
        let draft = Draft::tombstone(self.draw_operation());
        loop {
            let decide = |current: Option<&Candidate>| {
                if current.is_some_and(|found| found.entry.operation == draft.operation) {
                    return Ok(Decision::Keep(true));
                }
                let state = UploadState::of(current).map_err(|e| damaged(&register, &e))?;
                match state.map(|state| state.phase) {
                    Some(UploadPhase::Open) => Ok(Decision::Write(draft.clone(), true)),
                    Some(UploadPhase::Completing(_)) => Ok(Decision::Keep(false)),
                    Some(UploadPhase::Completed) | None => Err(StoreError::NoSuchUpload),
                }
            };
            if set.update(at.stamp, register.clone(), VersionId::NULL, decide).await? {
                break;
            }
            self.settled_upload(&at).await?;
        }
        let numbers = set.numbers_held(&at).await?;
        set.free_parts(&at, numbers).await;
        Ok(())
    }
}

impl SetHandle {
    /// The first `limit` parts with numbers above `after`.
    pub(crate) async fn found_parts(
        &self,
        at: &UploadAt,
        after: u16,
        limit: usize,
        open: &OpenOnes,
    ) -> Result<Vec<FoundPart>, StoreError> {
        let entries = self.part_registers(at, after, limit, open).await?;
        let puts = entries.into_iter().filter(|(_, found)| found.entry.kind == EntryKind::Put);
        puts.map(|(register, candidate)| found_part(&register, candidate)).collect()
    }

    /// The numbers of all parts of which anything is left, resolved or not: for who frees them.
    pub(crate) async fn numbers_held(&self, at: &UploadAt) -> Result<Vec<u16>, StoreError> {
        let left = self.part_registers(at, 0, limits::PARTS_MAX, &OpenOnes::Leave).await?;
        left.iter().map(|(register, _)| number_of(register)).collect()
    }

    async fn part_registers(
        &self,
        at: &UploadAt,
        after: u16,
        limit: usize,
        open: &OpenOnes,
    ) -> Result<Vec<(RegisterKey, Candidate)>, StoreError> {
        let first = at.part(after.saturating_add(1)).name;
        let end = prefix_end(&at.register().name).map(Bytes::from);
        let mut start = Some(first);
        let mut parts = Vec::new();
        while let Some(from) = start.take().filter(|_| parts.len() < limit) {
            let wanted = (limit - parts.len()).min(limits::PAGE_KEYS_MAX);
            let (names, open) = ((from, end.clone()), open.clone());
            let page = self.scan_with(at.stamp, Keyspace::Part, names, wanted, open).await?;
            parts.extend(page.entries);
            start = page.next;
        }
        Ok(parts)
    }
}

fn found_part(register: &RegisterKey, candidate: Candidate) -> Result<FoundPart, StoreError> {
    let number = number_of(register)?;
    let record =
        PartRecord::from_bytes(&candidate.entry.metadata).map_err(|e| damaged(register, &e))?;
    Ok(FoundPart { number, record, candidate })
}

fn number_of(register: &RegisterKey) -> Result<u16, StoreError> {
    let (_, _, number) = register.upload_parts().map_err(|e| damaged(register, &e))?;
    number.ok_or_else(|| damaged(register, &CodecError::Unknown("part number")))
}

/// S3: part numbers are 1 to 10,000.
pub(crate) fn check_number(number: u16) -> Result<(), StoreError> {
    if (1..=limits::PARTS_MAX).contains(&usize::from(number)) {
        return Ok(());
    }
    Err(invalid(format!("part number {number}; 1 to {}", limits::PARTS_MAX)))
}

/// A part whose checksum is of another kind than the upload's could not become part of the whole's: said
/// here rather than when all parts are there. An upload without a kind takes parts of any.
fn check_kind(upload: &UploadRecord, sent: Option<Algorithm>) -> Result<(), StoreError> {
    match (upload.checksum_algorithm.as_deref(), sent) {
        (Some(expected), Some(sent)) if sent.name() != expected => {
            let sent = sent.name();
            let message = format!(
                "the upload was created with checksum {expected}, the part came with {sent}"
            );
            Err(StoreError::InvalidRequest { message })
        }
        _ => Ok(()),
    }
}

fn invalid(message: String) -> StoreError {
    StoreError::InvalidArgument { message }
}

/// A damaged record of an upload or part.
pub(crate) fn damaged(register: &RegisterKey, error: &CodecError) -> StoreError {
    StoreError::Internal { message: format!("read {register:?}: {error}") }
}
