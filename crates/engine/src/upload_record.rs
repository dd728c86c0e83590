//! What the register of a multipart upload holds, and the transitions of its life (PROTOCOL.md
//! section 7). Pure.
//!
//! ```text
//!               Complete: freeze the parts          object written
//!  (absent) -> Open ----------------> Completing(operation) ------> Completed --> (tombstone)
//!               | ^                       |                          answer kept for a while
//!      abort    | +-----------------------+
//!               v   mismatch, failed condition, or overdue and not written
//!          (tombstone)
//! ```
//!
//! The metadata begins with the phase, so that drives can hold a prefix against it without reading the
//! rest: a part is accepted only under `Open`, the object only under `Completing` with its operation.
//!
//! ```text
//! 1 | record          Open
//! 2 | operation 16 | record    Completing
//! 3 | record          Completed
//! ```

use std::collections::HashMap;

use bytes::Bytes;
use holdfast_drive::api::Guard;
use holdfast_register::Candidate;
use holdfast_types::{
    EntryKind, OperationId, RegisterKey,
    codec::{CodecError, Reader, Writer},
};
use prost::Message;

use crate::{
    api::{ObjectAttributes, UploadInfo},
    meta::ObjectMeta,
};

const OPEN: u8 = 1;
const COMPLETING: u8 = 2;
const COMPLETED: u8 = 3;

/// A completion writes its object within this time or not at all; see [`SETTLE_AFTER_MICROS`].
pub const COMPLETE_MICROS: u64 = 20_000_000;

/// From when on whoever meets a completion under way settles it. Beyond [`COMPLETE_MICROS`] by more
/// than the clocks may differ, so the one who began it draws no ballot for the object any more.
pub const SETTLE_AFTER_MICROS: u64 = 35_000_000;

const _: () =
    assert!(SETTLE_AFTER_MICROS > COMPLETE_MICROS + holdfast_types::limits::CLOCK_SKEW_MICROS_MAX);

/// How long the answer of a completion is kept for repeated calls: longer than clients repeat.
pub const ANSWER_MICROS: u64 = 24 * 3_600_000_000;

/// What is kept of an upload beside its phase. Never reuse a number.
#[derive(Clone, PartialEq, Message)]
pub struct UploadRecord {
    /// When it was created, microseconds since the Unix epoch.
    #[prost(uint64, tag = "1")]
    pub created_micros: u64,
    /// The additional checksum algorithm.
    #[prost(string, optional, tag = "2")]
    pub checksum_algorithm: Option<String>,
    /// Whether that checksum is composite.
    #[prost(bool, tag = "3")]
    pub checksum_composite: bool,
    /// Headers of the object to be.
    #[prost(map = "string, string", tag = "4")]
    pub headers: HashMap<String, String>,
    /// User metadata of the object to be.
    #[prost(map = "string, string", tag = "5")]
    pub user: HashMap<String, String>,
    /// Completing: from when on anybody settles it. Completed: until when the answer is kept.
    #[prost(uint64, tag = "6")]
    pub deadline_micros: u64,
    /// Completing and Completed: the SHA-256 of the parts named, so that a repeated call is known.
    #[prost(bytes = "bytes", tag = "7")]
    pub request: Bytes,
    /// Completed: what was answered.
    #[prost(message, optional, tag = "8")]
    pub answer: Option<ObjectMeta>,
    /// Completed: the operation that wrote the object.
    #[prost(bytes = "bytes", tag = "9")]
    pub operation: Bytes,
}

/// Where an upload is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UploadPhase {
    /// Takes parts.
    Open,
    /// Its parts are frozen; this operation writes the object.
    Completing(OperationId),
    /// The object was written.
    Completed,
}

/// An upload.
#[derive(Clone, PartialEq, Debug)]
pub struct UploadState {
    /// Its phase.
    pub phase: UploadPhase,
    /// The rest.
    pub record: UploadRecord,
}

impl UploadState {
    /// A fresh upload.
    #[must_use]
    pub fn open(record: UploadRecord) -> Self {
        Self { phase: UploadPhase::Open, record }
    }

    /// What an upload's register says: nothing when there is none, or it is gone.
    ///
    /// # Errors
    /// [`CodecError`] when the record is damaged.
    pub fn of(candidate: Option<&Candidate>) -> Result<Option<Self>, CodecError> {
        let live = candidate.filter(|found| found.entry.kind == EntryKind::Put);
        live.map(|found| Self::from_bytes(&found.entry.metadata)).transpose()
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// [`CodecError`] when the bytes are no such form.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut input = Reader::new(bytes);
        let phase = match input.u8()? {
            OPEN => UploadPhase::Open,
            COMPLETING => UploadPhase::Completing(OperationId::from_bytes(input.array()?)),
            COMPLETED => UploadPhase::Completed,
            _ => return Err(CodecError::Unknown("upload phase")),
        };
        let rest = input.raw(input.remaining())?;
        let record =
            UploadRecord::decode(rest).map_err(|_| CodecError::Unknown("upload record"))?;
        Ok(Self { phase, record })
    }

    /// The stored form.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let mut out = Writer::new();
        out.raw(&phase_prefix(self.phase));
        out.raw(&self.record.encode_to_vec());
        out.into_bytes().into()
    }

    /// The upload frozen for `operation`, which was asked to make an object of `request`.
    #[must_use]
    pub fn completing(&self, operation: OperationId, request: Bytes, now_micros: u64) -> Self {
        let deadline_micros = now_micros + SETTLE_AFTER_MICROS;
        let record = UploadRecord { deadline_micros, request, ..self.record.clone() };
        Self { phase: UploadPhase::Completing(operation), record }
    }

    /// The upload as it was before it was frozen.
    #[must_use]
    pub fn reopened(&self) -> Self {
        let record =
            UploadRecord { deadline_micros: 0, request: Bytes::new(), ..self.record.clone() };
        Self::open(record)
    }

    /// The upload whose object was written by `operation`.
    #[must_use]
    pub fn completed(
        &self,
        operation: OperationId,
        request: Bytes,
        answer: ObjectMeta,
        now_micros: u64,
    ) -> Self {
        let record = UploadRecord {
            deadline_micros: now_micros + ANSWER_MICROS,
            request,
            answer: Some(answer),
            operation: Bytes::copy_from_slice(&operation.to_bytes()),
            ..self.record.clone()
        };
        Self { phase: UploadPhase::Completed, record }
    }

    /// Whether clients may still do something with it.
    #[must_use]
    pub const fn is_visible(&self) -> bool {
        !matches!(self.phase, UploadPhase::Completed)
    }

    /// Whether its deadline has passed.
    #[must_use]
    pub const fn is_overdue(&self, now_micros: u64) -> bool {
        now_micros > self.record.deadline_micros
    }

    /// What a client sees of it.
    #[must_use]
    pub fn info(&self, key: Bytes, upload: OperationId) -> UploadInfo {
        let record = &self.record;
        UploadInfo {
            key,
            upload,
            created_micros: record.created_micros,
            checksum_algorithm: record.checksum_algorithm.clone(),
            checksum_composite: record.checksum_composite,
            attributes: ObjectAttributes {
                headers: record.headers.clone(),
                user: record.user.clone(),
            },
        }
    }
}

/// A condition for drives: the upload at `key` is in `phase`.
#[must_use]
pub fn guard(key: RegisterKey, phase: UploadPhase) -> Guard {
    Guard { key, prefix: phase_prefix(phase) }
}

fn phase_prefix(phase: UploadPhase) -> Bytes {
    match phase {
        UploadPhase::Open => Bytes::from_static(&[OPEN]),
        UploadPhase::Completing(operation) => {
            [&[COMPLETING][..], &operation.to_bytes()].concat().into()
        }
        UploadPhase::Completed => Bytes::from_static(&[COMPLETED]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> UploadState {
        UploadState::open(UploadRecord {
            created_micros: 5,
            checksum_algorithm: Some("CRC32".to_owned()),
            ..UploadRecord::default()
        })
    }

    /// Goal: drives tell the phases apart by prefix alone, and completions of different operations
    /// from each other. Method: hold every guard against every state.
    #[test]
    fn guards_match_their_phase_alone() {
        let (one, two) = (OperationId(1), OperationId(2));
        let open = sample();
        let states = [
            open.clone(),
            open.completing(one, Bytes::new(), 0),
            open.completing(two, Bytes::new(), 0),
            open.completed(one, Bytes::new(), ObjectMeta::default(), 0),
        ];
        let key = RegisterKey::upload(holdfast_types::BucketId(1), b"k", one);
        for (at, state) in states.iter().enumerate() {
            assert_eq!(UploadState::from_bytes(&state.to_bytes()).as_ref(), Ok(state));
            for (other, against) in states.iter().enumerate() {
                let guard = guard(key.clone(), state.phase);
                assert_eq!(against.to_bytes().starts_with(&guard.prefix), at == other);
            }
        }
    }

    /// Goal: freezing and reopening loses nothing of the upload. Method: there and back.
    #[test]
    fn reopening_restores_the_upload() {
        let open = sample();
        let frozen = open.completing(OperationId(1), Bytes::from_static(b"parts"), 7);
        assert!(!frozen.is_overdue(7 + SETTLE_AFTER_MICROS));
        assert!(frozen.is_overdue(8 + SETTLE_AFTER_MICROS));
        assert_eq!(frozen.reopened(), open);
        assert!(UploadState::from_bytes(&[]).is_err());
        assert!(UploadState::from_bytes(&[COMPLETING, 1]).is_err());
        assert!(UploadState::from_bytes(&[9]).is_err());
    }
}
