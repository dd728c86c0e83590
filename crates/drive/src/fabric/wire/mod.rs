//! Commands, replies and errors as protocol messages and back, without loss (INV-FAB-2).

mod error;
mod member;
mod reply;
mod request;
mod scrub;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use bytes::Bytes;
use holdfast_proto::{WireError, v1, value};
use holdfast_types::{Ballot, Entry, OperationId, RegisterKey, SetEpoch, SetIndex};

pub use error::{drive_error, read_drive_error};
pub use reply::{read_result, result};
pub use request::{
    CallParts, call, open_upload, read_call, read_open_upload, read_shard_read, shard_read,
};

use crate::api::{Scope, UploadHandle};

/// Collects the keys and entries of one message, each once.
#[derive(Default)]
pub(super) struct Tables<'a> {
    keys: Vec<Bytes>,
    key_index: HashMap<&'a RegisterKey, u32>,
    entries: Vec<Bytes>,
    /// Candidates by ballot and operation; the entry itself decides, so that two contents under one
    /// ballot (a defect elsewhere) are not made one here.
    entry_index: HashMap<(Ballot, OperationId), Vec<(&'a Entry, u32)>>,
}

impl<'a> Tables<'a> {
    fn key(&mut self, key: &'a RegisterKey) -> u32 {
        *self.key_index.entry(key).or_insert_with(|| {
            self.keys.push(value::key(key));
            index_of_last(&self.keys)
        })
    }

    fn entry(&mut self, entry: &'a Entry) -> u32 {
        let known = self.entry_index.entry((entry.ballot, entry.operation)).or_default();
        if let Some((_, index)) = known.iter().find(|(same, _)| *same == entry) {
            return *index;
        }
        self.entries.push(entry.to_bytes());
        let index = index_of_last(&self.entries);
        known.push((entry, index));
        index
    }
}

fn index_of_last(items: &[Bytes]) -> u32 {
    u32::try_from(items.len() - 1).expect("a message holds fewer than 2^32 records")
}

/// The element that a message names by index.
fn at<'a, T>(items: &'a [T], index: u32, field: &'static str) -> Result<&'a T, WireError> {
    items.get(index as usize).ok_or(WireError::Malformed(field))
}

fn scope(scope: &Scope) -> v1::Scope {
    v1::Scope {
        bucket: value::stamp(&scope.bucket),
        set: scope.set.0.into(),
        set_epoch: scope.set_epoch.0,
    }
}

fn read_scope(message: Option<&v1::Scope>) -> Result<Scope, WireError> {
    let message = message.ok_or(WireError::Missing("scope"))?;
    Ok(Scope {
        bucket: value::read_stamp(&message.bucket)?,
        set: SetIndex(value::narrow(message.set, "set")?),
        set_epoch: SetEpoch(message.set_epoch),
    })
}

fn handle(handle: UploadHandle) -> v1::UploadHandle {
    v1::UploadHandle { open: handle.open, upload: handle.upload }
}

const fn read_handle(message: v1::UploadHandle) -> UploadHandle {
    UploadHandle { open: message.open, upload: message.upload }
}

/// What an upload ended with, target by target.
pub fn upload_result(outcome: &Result<UploadHandle, crate::api::DriveError>) -> v1::UploadResult {
    use v1::upload_result::Result as Kind;
    let kind = match outcome {
        Ok(done) => Kind::Handle(handle(*done)),
        Err(error) => Kind::Error(drive_error(error)),
    };
    v1::UploadResult { result: Some(kind) }
}

/// The inverse of [`upload_result`].
///
/// # Errors
/// [`WireError`] when the message is malformed.
pub fn read_upload_result(
    message: v1::UploadResult,
) -> Result<Result<UploadHandle, crate::api::DriveError>, WireError> {
    use v1::upload_result::Result as Kind;
    match message.result.ok_or(WireError::Missing("upload result"))? {
        Kind::Handle(done) => Ok(Ok(read_handle(done))),
        Kind::Error(error) => Ok(Err(read_drive_error(&error)?)),
    }
}
