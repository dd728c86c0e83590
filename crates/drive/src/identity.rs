//! Who a drive is: its own UUID and its cluster's, not its mount point (docs/format/identity.md).
//!
//! ```text
//! magic 8 "HFDRIVE\x01" | drive 16 | cluster 16 | set hint u16 (0xffff: none) | formatted at, us u64
//!   | XXH3-128 of all before, 16
//! ```
//!
//! Written last when a drive is formatted: a drive without it was never in use.

use holdfast_types::{
    ClusterId, DriveId, SetIndex,
    codec::{CodecError, Reader, Writer},
};
use xxhash_rust::xxh3::xxh3_128;

use crate::{
    disk::{Disk, read_file, replace_file},
    error::DriveFault,
};

/// The file, in the drive's root.
pub const IDENTITY_FILE: &str = "identity";

/// Begins the file; the last byte is the version of the whole drive format.
const MAGIC: [u8; 8] = *b"HFDRIVE\x01";

/// Bytes of the file: a longer one is not ours.
const IDENTITY_BYTES: u64 = 8 + 16 + 16 + 2 + 8 + 16;

/// Who a drive is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The drive. A wiped or replaced one gets a new id.
    pub drive: DriveId,
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// The set it was formatted for; the layout document rules.
    pub set: Option<SetIndex>,
    /// When it was formatted, in microseconds since the Unix epoch.
    pub formatted_at: u64,
}

impl Identity {
    fn encode(&self) -> Vec<u8> {
        let mut out = Writer::with_capacity(IDENTITY_BYTES as usize);
        out.raw(&MAGIC);
        out.id(self.drive.to_bytes());
        out.id(self.cluster.to_bytes());
        out.raw(&self.set.map_or(u16::MAX, |set| set.0).to_be_bytes());
        out.raw(&self.formatted_at.to_be_bytes());
        let mut bytes = out.into_bytes();
        let checksum = xxh3_128(&bytes);
        bytes.extend_from_slice(&checksum.to_be_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut input = Reader::new(bytes);
        if input.array()? != MAGIC {
            return Err(CodecError::Unknown("drive format"));
        }
        let drive = DriveId::from_bytes(input.array()?);
        let cluster = ClusterId::from_bytes(input.array()?);
        let set = u16::from_be_bytes(input.array()?);
        let formatted_at = u64::from_be_bytes(input.array()?);
        let checksum = u128::from_be_bytes(input.array()?);
        input.finish()?;
        if checksum != xxh3_128(&bytes[..bytes.len() - 16]) {
            return Err(CodecError::Unknown("identity checksum"));
        }
        let set = (set != u16::MAX).then_some(SetIndex(set));
        Ok(Self { drive, cluster, set, formatted_at })
    }

    /// The identity of the drive on `disk`, `None` when it is blank.
    ///
    /// # Errors
    /// When the device fails or the file is not an identity.
    pub fn load(disk: &dyn Disk) -> Result<Option<Self>, DriveFault> {
        let bytes = match read_file(disk, IDENTITY_FILE, IDENTITY_BYTES) {
            Err(error) if error.is_not_found() => return Ok(None),
            other => other?,
        };
        let unreadable = |cause| DriveFault::unreadable(disk.name(), "the identity", cause);
        Self::decode(&bytes).map(Some).map_err(unreadable)
    }

    /// Writes the identity, durably.
    ///
    /// # Errors
    /// When the device fails.
    pub fn store(&self, disk: &dyn Disk) -> Result<(), DriveFault> {
        Ok(replace_file(disk, IDENTITY_FILE, &self.encode())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk_sim::SimDisk;

    /// Goal: an identity survives a crash once stored, and rot of any byte is an error, never another
    /// identity. Method: store, crash, load; then flip each byte.
    #[test]
    fn an_identity_is_whole_or_an_error() {
        let disk = SimDisk::new(1 << 20);
        let identity = Identity {
            drive: DriveId(7),
            cluster: ClusterId(8),
            set: Some(SetIndex(3)),
            formatted_at: 9,
        };
        assert_eq!(Identity::load(&disk), Ok(None));
        identity.store(&disk).unwrap();
        disk.crash(&holdfast_types::seam::SeededRandom::new(1));
        assert_eq!(Identity::load(&disk), Ok(Some(identity)));
        for at in 0..IDENTITY_BYTES {
            disk.rot(IDENTITY_FILE, at, 0x10);
            assert!(Identity::load(&disk).is_err(), "byte {at}");
            disk.rot(IDENTITY_FILE, at, 0x10);
        }
    }
}
