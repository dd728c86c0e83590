//! `DeleteObjects`: one operation a distinct key, one message a node for all of them (PROTOCOL.md
//! section 8).

use std::collections::HashMap;

use bytes::Bytes;
use futures::future::join_all;
use holdfast_register::Candidate;
use holdfast_types::{
    BucketStamp, EntryKind, OperationId, RegisterKey, VersionId, codec::CodecError, limits,
};
use parking_lot::Mutex;

use crate::{
    api::{DeleteKey, Deleted},
    conditions::check_write,
    cork,
    draft::{Decision, Draft},
    engine::Engine,
    error::StoreError,
    meta::ObjectMeta,
};

/// One delete on its way: what is deleted, by which operation, and how it ended.
struct Doing {
    key: DeleteKey,
    operation: OperationId,
    outcome: Option<Result<Deleted, StoreError>>,
}

impl Engine {
    /// S3: `DeleteObjects`. One result a key, in order; keys named twice are deleted once.
    pub(crate) async fn objects_delete(
        &self,
        bucket: &str,
        keys: Vec<DeleteKey>,
    ) -> Result<Vec<Result<Deleted, StoreError>>, StoreError> {
        if keys.len() > limits::PAGE_KEYS_MAX {
            let message = format!("{} keys, at most {}", keys.len(), limits::PAGE_KEYS_MAX);
            return Err(StoreError::InvalidArgument { message });
        }
        let mut distinct: Vec<Doing> = Vec::with_capacity(keys.len());
        let mut places: HashMap<(Bytes, Option<VersionId>), usize> = HashMap::new();
        let mut order = Vec::with_capacity(keys.len());
        for key in keys {
            let place = *places.entry((key.key.clone(), key.version)).or_insert(distinct.len());
            if place == distinct.len() {
                distinct.push(Doing { key, operation: self.draw_operation(), outcome: None });
            }
            order.push(place);
        }
        // Kept over restarts: a delete that succeeded is never done again, for a put that was
        // acknowledged since would be lost by it.
        let doing = Mutex::new(distinct);
        self.with_bucket(bucket, |stamp| self.delete_batch(stamp, &doing)).await?;
        let done = doing.into_inner();
        let result = |place: usize| done[place].outcome.clone().expect("every key was done");
        Ok(order.into_iter().map(result).collect())
    }

    /// Deletes what is not done yet, all at once.
    async fn delete_batch(
        &self,
        stamp: BucketStamp,
        doing: &Mutex<Vec<Doing>>,
    ) -> Result<(), StoreError> {
        let open: Vec<(usize, DeleteKey, OperationId)> = {
            let doing = doing.lock();
            let left = doing.iter().enumerate().filter(|(_, one)| one.outcome.is_none());
            left.map(|(at, one)| (at, one.key.clone(), one.operation)).collect()
        };
        let deletes =
            open.iter().map(|(_, key, operation)| self.delete_under(stamp, key, *operation));
        let outcomes = cork::gathered(join_all(deletes)).await;
        let mut changed = None;
        let mut doing = doing.lock();
        for ((at, _, _), outcome) in open.iter().zip(outcomes) {
            match outcome {
                Err(error @ StoreError::BucketChanged { .. }) => changed = Some(error),
                outcome => doing[*at].outcome = Some(outcome),
            }
        }
        changed.map_or(Ok(()), Err)
    }

    /// Deletes one key under a stamp. What is not there is deleted, too: its tombstone keeps older
    /// writes that are still on their way from coming up.
    pub(crate) async fn delete_under(
        &self,
        stamp: BucketStamp,
        delete: &DeleteKey,
        operation: OperationId,
    ) -> Result<Deleted, StoreError> {
        if delete.key.len() > limits::KEY_BYTES_MAX {
            return Err(StoreError::KeyTooLong);
        }
        let deleted = Deleted { version: delete.version, delete_marker: false };
        if delete.version.is_some_and(|version| version != VersionId::NULL) {
            // Unversioned buckets have the version `null` alone; no other is there.
            return Ok(deleted);
        }
        let key = RegisterKey::object(stamp.id, delete.key.clone());
        let set = self.set_for(&key);
        let draft = Draft::tombstone(operation);
        if delete.conditions.is_empty() {
            set.write(stamp, key, VersionId::NULL, draft).await?;
            return Ok(deleted);
        }
        let decide = |current: Option<&Candidate>| {
            let meta = live_meta(current).map_err(|e| damaged(&e))?;
            check_write(&delete.conditions, meta.as_ref())?;
            Ok(Decision::Write(draft.clone(), deleted.clone()))
        };
        set.update(stamp, key, VersionId::NULL, decide).await
    }
}

/// The record of an object that is there.
pub(crate) fn live_meta(current: Option<&Candidate>) -> Result<Option<ObjectMeta>, CodecError> {
    let live = current.filter(|found| found.entry.kind == EntryKind::Put);
    live.map(|found| ObjectMeta::from_bytes(&found.entry.metadata)).transpose()
}

/// A damaged object record.
pub(crate) fn damaged(error: &CodecError) -> StoreError {
    StoreError::Internal { message: format!("read record of object: {error}") }
}
