//! PutObject, GetObject, HeadObject, DeleteObject of an unversioned bucket.

use std::ops::Range;

use bytes::Bytes;
use futures::{StreamExt, stream};
use holdfast_register::Candidate;
use holdfast_types::{BucketStamp, EntryKind, RegisterKey, VersionId, limits};

use crate::{
    api::{BoxBody, ByteStream, DeleteKey, Deleted, GetObject, ObjectInfo, ObjectRead, PutObject},
    bulk::{damaged, live_meta},
    conditions::{check_read, check_write},
    draft::{Decision, Draft, Received},
    engine::Engine,
    error::StoreError,
    meta::ObjectMeta,
    range::resolve_range,
    read::{Found, Question},
};

/// Times a GET looks again, because the entry it found was overwritten before its first byte came.
const LOOKS_MAX: u32 = 4;

/// Whether a GET's bytes are wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Want {
    Bytes,
    Head,
}

impl Engine {
    /// S3: PutObject. The condition is decided, and the ballot drawn, after the last byte came.
    pub(crate) async fn object_put(
        &self,
        put: PutObject,
        body: BoxBody,
    ) -> Result<ObjectInfo, StoreError> {
        check_key(&put.key)?;
        let _permit = self.admit().await?;
        let stamp = self.bucket_scope(&put.bucket).await?;
        self.put_under(stamp, put, body).await
    }

    /// As [`Self::object_put`], beginning under a stamp.
    pub(crate) async fn put_under(
        &self,
        stamp: BucketStamp,
        put: PutObject,
        body: BoxBody,
    ) -> Result<ObjectInfo, StoreError> {
        let operation = self.draw_operation();
        let key = RegisterKey::object(stamp.id, put.key.clone());
        let set = self.set_for(&key);
        let received = set.receive(stamp, &key, operation, body, put.length).await?;
        let Received { data, size, digest, permit } = received;
        let meta = ObjectMeta {
            size,
            etag: digest.etag,
            modified_micros: self.now_micros(),
            headers: put.attributes.headers,
            user: put.attributes.user,
            checksum: digest.checksum,
            parts: Vec::new(),
        };
        let draft = Draft::record(operation, meta.to_bytes()).with_data(data);
        let conditions = &put.conditions;
        let write = |current: BucketStamp| {
            let (set, key, draft) = (set.clone(), key.clone(), draft.clone());
            async move {
                if current.id != stamp.id {
                    let message = "the bucket was deleted and made anew meanwhile".to_owned();
                    return Err(StoreError::Overloaded { message });
                }
                if conditions.is_empty() {
                    return set.write(current, key, VersionId::NULL, draft).await.map(|_| ());
                }
                let decide = |held: Option<&Candidate>| {
                    let held = live_meta(held).map_err(|e| damaged(&e))?;
                    check_write(conditions, held.as_ref())?;
                    Ok(Decision::Write(draft.clone(), ()))
                };
                set.update(current, key, VersionId::NULL, decide).await
            }
        };
        // The stamp is remembered: this costs nothing when it still holds.
        match write(stamp).await {
            Err(StoreError::BucketChanged { .. }) => self.with_bucket(&put.bucket, write).await?,
            outcome => outcome?,
        }
        drop(permit);
        Ok(ObjectInfo { version: VersionId::NULL, meta })
    }

    /// S3: HeadObject.
    pub(crate) async fn object_head(&self, get: &GetObject) -> Result<ObjectRead, StoreError> {
        let _permit = self.admit().await?;
        self.with_bucket(&get.bucket, |stamp| self.read_under(stamp, get, Want::Head)).await
    }

    /// S3: GetObject. The first bytes are there, verified, when this answers.
    pub(crate) async fn object_get(&self, get: &GetObject) -> Result<ObjectRead, StoreError> {
        let _permit = self.admit().await?;
        self.with_bucket(&get.bucket, |stamp| self.get_under(stamp, get)).await
    }

    /// As [`Self::object_get`], under a stamp.
    pub(crate) async fn get_under(
        &self,
        stamp: BucketStamp,
        get: &GetObject,
    ) -> Result<ObjectRead, StoreError> {
        self.read_under(stamp, get, Want::Bytes).await
    }

    /// S3: DeleteObject.
    pub(crate) async fn object_delete(
        &self,
        bucket: &str,
        delete: &DeleteKey,
    ) -> Result<Deleted, StoreError> {
        let _permit = self.admit().await?;
        let operation = self.draw_operation();
        self.with_bucket(bucket, |stamp| self.delete_under(stamp, delete, operation)).await
    }

    async fn read_under(
        &self,
        stamp: BucketStamp,
        get: &GetObject,
        want: Want,
    ) -> Result<ObjectRead, StoreError> {
        check_key(&get.key)?;
        if get.version.is_some_and(|version| version != VersionId::NULL) {
            return Err(StoreError::NoSuchVersion);
        }
        let key = RegisterKey::object(stamp.id, get.key.clone());
        let set = self.set_for(&key);
        let route = set.shared.route(&key)?;
        let inline = want == Want::Bytes;
        let question = Question { scope: stamp, route, version: get.version, inline };
        let mut failed = None;
        for _ in 0..LOOKS_MAX {
            let found = set.shared.look(&question).await?;
            let found = live(found, get.version)?;
            let operation = found.candidate.entry.operation;
            if let Some((_, error)) = failed.take_if(|(before, _)| *before == operation) {
                // Not overwritten: it really cannot be read.
                return Err(error);
            }
            let meta = ObjectMeta::from_bytes(&found.candidate.entry.metadata);
            let meta = meta.map_err(|e| damaged(&e))?;
            check_read(&get.conditions, &meta)?;
            let range = resolve_range(get.wanted, &meta)?;
            let version = found.candidate.version;
            let body = match want {
                Want::Head => Ok(stream::empty().boxed()),
                Want::Bytes => self.open_found(&question, found, range.clone()).await,
            };
            match body {
                Ok(body) => {
                    return Ok(ObjectRead { info: ObjectInfo { version, meta }, range, body });
                }
                Err(error) => failed = Some((operation, error)),
            }
        }
        let message = "the object was overwritten again and again while it was read".to_owned();
        Err(failed.map_or(StoreError::Overloaded { message }, |(_, error)| error))
    }

    pub(crate) async fn open_found(
        &self,
        question: &Question,
        found: Found,
        range: Range<u64>,
    ) -> Result<ByteStream, StoreError> {
        let set = self.set_for(&question.route.key);
        let entry = &found.candidate.entry;
        let size = entry.body_len();
        if range.end > size {
            let message = format!("record says {} bytes, entry has {size}", range.end);
            return Err(StoreError::Internal { message });
        }
        if range.is_empty() {
            return Ok(stream::empty().boxed());
        }
        if entry.parts.is_empty() && crate::staged::rides_inline(&entry.geometry) {
            let body = set.shared.inline_body(question, &found.candidate, found.inline).await?;
            let bytes: Bytes = body.slice(range.start as usize..range.end as usize);
            return Ok(stream::once(async { Ok(bytes) }).boxed());
        }
        set.open_body(question.scope, &question.route.key, &found.candidate, range).await
    }
}

/// S3: "The object key name ... up to 1,024 bytes long".
pub(crate) fn check_key(key: &[u8]) -> Result<(), StoreError> {
    if key.len() > limits::KEY_BYTES_MAX { Err(StoreError::KeyTooLong) } else { Ok(()) }
}

/// What can be read of what was found.
fn live(found: Option<Found>, version: Option<VersionId>) -> Result<Found, StoreError> {
    let absent = || match version {
        Some(_) => StoreError::NoSuchVersion,
        None => StoreError::NoSuchKey { delete_marker: false },
    };
    let found = found.ok_or_else(absent)?;
    match (found.candidate.entry.kind, version) {
        (EntryKind::Put, _) => Ok(found),
        (EntryKind::Tombstone, _) => Err(absent()),
        (EntryKind::DeleteMarker, None) => Err(StoreError::NoSuchKey { delete_marker: true }),
        (EntryKind::DeleteMarker, Some(_)) => Err(StoreError::IsDeleteMarker),
    }
}
