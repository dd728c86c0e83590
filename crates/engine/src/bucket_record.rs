//! What the registry knows of a bucket, and the transitions of its life. Pure.
//!
//! ```text
//!            create            complete            mark              list again: empty
//!  (absent) -------> Creating ---------> Live <===========> Deleting ----------------> (tombstone)
//!                    epoch 1             +1     +1    +1 revert                        +1, Deleted
//! ```
//!
//! INV-BUCKET-1: every transition raises the epoch by one and names the epoch it starts from, so of two
//! that meet the same state exactly one is carried out.

use bytes::Bytes;
use holdfast_register::Candidate;
use holdfast_types::{
    BucketEpoch, BucketId, BucketPhase, BucketStamp, EntryKind, codec::CodecError,
};
use prost::Message;

use crate::api::BucketInfo;

/// How long a creation or deletion under way is left to who began it; then whoever meets it completes
/// it. Longer than the clock skew bound and the calls of either, shorter than a client's patience.
pub const STEP_MICROS: u64 = 15_000_000;

/// The registry's record of a bucket, the metadata of its registry entry. Never reuse a number.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct BucketRecord {
    /// The incarnation, 16 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub id: Bytes,
    /// The epoch of the phase below.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// A [`BucketPhase`].
    #[prost(uint32, tag = "3")]
    pub phase: u32,
    /// When it was created, microseconds since the Unix epoch.
    #[prost(uint64, tag = "4")]
    pub created_micros: u64,
    /// The location constraint it was created with.
    #[prost(string, tag = "5")]
    pub location: String,
    /// While creating or deleting: from when on anybody completes it.
    #[prost(uint64, tag = "6")]
    pub deadline_micros: u64,
}

impl BucketRecord {
    /// A bucket about to be.
    #[must_use]
    pub fn creating(id: BucketId, location: &str, now_micros: u64) -> Self {
        Self {
            id: Bytes::copy_from_slice(&id.to_bytes()),
            epoch: 1,
            phase: BucketPhase::Creating as u32,
            created_micros: now_micros,
            location: location.to_owned(),
            deadline_micros: now_micros + STEP_MICROS,
        }
    }

    /// What a registry entry says: nothing when there is none, or it is gone.
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
    /// [`CodecError`] when the bytes are no such record.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError> {
        let record = Self::decode(bytes).map_err(|_| CodecError::Unknown("bucket record"))?;
        let phase = u8::try_from(record.phase).map_err(|_| CodecError::Unknown("bucket phase"))?;
        BucketPhase::try_from(phase)?;
        if record.id.len() != 16 {
            return Err(CodecError::Unknown("bucket id"));
        }
        Ok(record)
    }

    /// The stored form.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        self.encode_to_vec().into()
    }

    /// Where it is in its life.
    #[must_use]
    pub fn phase(&self) -> BucketPhase {
        let byte = u8::try_from(self.phase).expect("checked when it was read");
        BucketPhase::try_from(byte).expect("checked when it was read")
    }

    /// What requests to it carry.
    #[must_use]
    pub fn stamp(&self) -> BucketStamp {
        let id: [u8; 16] = self.id.as_ref().try_into().expect("checked when it was read");
        BucketStamp {
            id: BucketId::from_bytes(id),
            epoch: BucketEpoch(self.epoch),
            phase: self.phase(),
        }
    }

    /// What a client sees of it.
    #[must_use]
    pub fn info(&self, name: &str) -> BucketInfo {
        BucketInfo {
            name: name.to_owned(),
            created_micros: self.created_micros,
            location: self.location.clone(),
        }
    }

    /// Whether clients see it: its creation was completed and its deletion was not.
    #[must_use]
    pub fn is_visible(&self) -> bool {
        matches!(self.phase(), BucketPhase::Live | BucketPhase::Deleting)
    }

    /// Whether anybody may complete what is under way.
    #[must_use]
    pub const fn is_overdue(&self, now_micros: u64) -> bool {
        now_micros > self.deadline_micros
    }

    /// The next state, when the transition is legal.
    #[must_use]
    pub fn into_phase(&self, phase: BucketPhase, now_micros: u64) -> Option<Self> {
        use BucketPhase::{Creating, Deleted, Deleting, Live};
        let legal = matches!(
            (self.phase(), phase),
            (Creating | Deleting, Live) | (Live, Deleting) | (Deleting, Deleted)
        );
        let deadline_micros = if phase == Deleting { now_micros + STEP_MICROS } else { 0 };
        let next =
            Self { epoch: self.epoch + 1, phase: phase as u32, deadline_micros, ..self.clone() };
        legal.then_some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the table of legal transitions is the drawing above. Method: the whole matrix.
    #[test]
    fn the_matrix_of_transitions() {
        use BucketPhase::{Creating, Deleted, Deleting, Live};
        let all = [Creating, Live, Deleting, Deleted];
        let mut legal = Vec::new();
        for from in all {
            let record = BucketRecord {
                phase: from as u32,
                ..BucketRecord::creating(BucketId(7), "eu", 10)
            };
            for to in all {
                if let Some(next) = record.into_phase(to, 20) {
                    assert_eq!((next.epoch, next.phase()), (2, to));
                    assert!(next.is_overdue(20 + STEP_MICROS + 1));
                    legal.push((from, to));
                }
            }
        }
        let drawn = [(Creating, Live), (Live, Deleting), (Deleting, Live), (Deleting, Deleted)];
        assert_eq!(legal, drawn);
    }

    /// Goal: a damaged record is an error, never a panic. Method: every cut of a record that carries
    /// the id, and fields out of range.
    #[test]
    fn damaged_records_are_errors() {
        let record = BucketRecord::creating(BucketId(7), "eu", 10);
        assert_eq!(BucketRecord::from_bytes(&record.to_bytes()), Ok(record.clone()));
        for bad in [
            BucketRecord { id: Bytes::from_static(b"short"), ..record.clone() },
            BucketRecord { phase: 9, ..record.clone() },
            BucketRecord { phase: 256 + 2, ..record },
        ] {
            assert!(BucketRecord::from_bytes(&bad.to_bytes()).is_err(), "{bad:?}");
        }
    }
}
