//! Buckets as drives see them: an incarnation, an epoch and a phase.

use crate::{
    codec::{CodecError, Reader, Writer},
    id::BucketId,
};

/// Raised by every transition and every change of a bucket's configuration.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct BucketEpoch(pub u64);

/// Where a bucket is in its life.
///
/// ```text
/// Creating -> Live <-> Deleting -> Deleted
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum BucketPhase {
    /// Being installed on the sets; not yet answered.
    Creating = 1,
    /// Serves.
    Live = 2,
    /// Being listed a second time; writes wait for the outcome.
    Deleting = 3,
    /// Gone for good; a bucket of the same name gets a new incarnation.
    Deleted = 4,
}

impl TryFrom<u8> for BucketPhase {
    type Error = CodecError;

    fn try_from(byte: u8) -> Result<Self, CodecError> {
        Ok(match byte {
            1 => Self::Creating,
            2 => Self::Live,
            3 => Self::Deleting,
            4 => Self::Deleted,
            _ => return Err(CodecError::Unknown("bucket phase")),
        })
    }
}

/// What a drive remembers of a bucket, and what every request carries of it. A newer epoch always
/// replaces an older one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct BucketStamp {
    /// The incarnation.
    pub id: BucketId,
    /// The epoch of the phase below.
    pub epoch: BucketEpoch,
    /// The phase at that epoch.
    pub phase: BucketPhase,
}

impl BucketStamp {
    /// The stamp of the registries, which are always live.
    pub const REGISTRY: Self =
        Self { id: BucketId::NIL, epoch: BucketEpoch(0), phase: BucketPhase::Live };

    /// The stamp of an incarnation that the registry does not know any more: nothing comes after it.
    #[must_use]
    pub const fn gone(id: BucketId) -> Self {
        Self { id, epoch: BucketEpoch(u64::MAX), phase: BucketPhase::Deleted }
    }

    /// Appends: id 16, epoch varint, phase u8.
    pub fn encode(&self, out: &mut Writer) {
        out.id(self.id.to_bytes());
        out.varint(self.epoch.0);
        out.u8(self.phase as u8);
    }

    /// The inverse of [`Self::encode`].
    ///
    /// # Errors
    /// [`CodecError`] when the bytes are not such a form.
    pub fn decode(input: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self {
            id: BucketId::from_bytes(input.array()?),
            epoch: BucketEpoch(input.varint()?),
            phase: BucketPhase::try_from(input.u8()?)?,
        })
    }
}
