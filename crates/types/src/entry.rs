//! What a register holds, and the record format that coordinators send, drives log and runs keep:
//! encoded once, stored as it came.
//!
//! ```text
//! format u8 = 1 | kind u8 | ballot 28 | order 28 | operation 16 | geometry
//!   | metadata blob | part count varint | parts: number varint, operation 16, geometry
//! ```

use bytes::Bytes;

use crate::{
    ballot::Ballot,
    codec::{CodecError, Reader, Writer},
    geometry::Geometry,
    id::OperationId,
    limits,
};

/// The version of the record format above.
const FORMAT: u8 = 1;

/// What an entry says about its version.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum EntryKind {
    /// There is a body (perhaps of no bytes).
    Put = 1,
    /// S3's delete marker: a version of its own that hides the ones below it.
    DeleteMarker = 2,
    /// The version is gone. Kept until no older write can come back (PROTOCOL.md section 4).
    Tombstone = 3,
}

impl TryFrom<u8> for EntryKind {
    type Error = CodecError;

    fn try_from(byte: u8) -> Result<Self, CodecError> {
        Ok(match byte {
            1 => Self::Put,
            2 => Self::DeleteMarker,
            3 => Self::Tombstone,
            _ => return Err(CodecError::Unknown("entry kind")),
        })
    }
}

/// One part of a completed multipart object: bytes that another operation wrote.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct PartRef {
    /// The part's number, 1 to 10,000; numbers rise within an entry and may have gaps.
    pub number: u16,
    /// The operation that wrote the part's bytes.
    pub operation: OperationId,
    /// The part's own shape.
    pub geometry: Geometry,
}

/// The content of one register under one ballot.
///
/// Immutable: adoption makes a new entry with another `ballot` and everything else the same.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct Entry {
    /// The ballot it was accepted under; the highest rules within a register.
    pub ballot: Ballot,
    /// The ballot under which its writer last wrote it; adoption keeps it. The highest rules across
    /// the registers of a key.
    pub order: Ballot,
    /// The operation that wrote it: the identity of its content.
    pub operation: OperationId,
    /// What it says.
    pub kind: EntryKind,
    /// The shape of its own data; empty when it has none or only parts.
    pub geometry: Geometry,
    /// Opaque to drives; the engine's record of the object.
    pub metadata: Bytes,
    /// The parts that make up the body, in order, when it was completed from parts.
    pub parts: Vec<PartRef>,
}

impl Entry {
    /// The same content under another ballot: what adoption writes.
    #[must_use]
    pub fn adopted_under(&self, ballot: Ballot) -> Self {
        Self { ballot, ..self.clone() }
    }

    /// Data shards needed to read this entry's own data (0 when it has none): `k_v`.
    #[must_use]
    pub const fn data_shards(&self) -> u8 {
        if self.geometry.has_data() { self.geometry.data_shards } else { 0 }
    }

    /// Data shards needed to read the whole body: of its own data, or of the part that needs most.
    #[must_use]
    pub fn body_shards(&self) -> u8 {
        let parts = self.parts.iter().filter(|part| part.geometry.has_data());
        parts.map(|part| part.geometry.data_shards).fold(self.data_shards(), u8::max)
    }

    /// Bytes of the body: its own or those of its parts.
    #[must_use]
    pub fn body_len(&self) -> u64 {
        self.geometry.size + self.parts.iter().map(|part| part.geometry.size).sum::<u64>()
    }

    /// Operations whose bytes this entry keeps alive.
    pub fn data_operations(&self) -> impl Iterator<Item = OperationId> + '_ {
        let own = self.geometry.has_data().then_some(self.operation);
        own.into_iter().chain(self.parts.iter().map(|part| part.operation))
    }

    /// Appends the record format of this module.
    pub fn encode(&self, out: &mut Writer) {
        out.u8(FORMAT);
        out.u8(self.kind as u8);
        self.ballot.encode(out);
        self.order.encode(out);
        out.id(self.operation.to_bytes());
        self.geometry.encode(out);
        out.blob(&self.metadata);
        out.varint(self.parts.len() as u64);
        for part in &self.parts {
            out.varint(part.number.into());
            out.id(part.operation.to_bytes());
            part.geometry.encode(out);
        }
    }

    /// The record as bytes of its own.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let mut out = Writer::with_capacity(112 + self.metadata.len() + self.parts.len() * 28);
        self.encode(&mut out);
        out.into_bytes().into()
    }

    /// Reads [`Self::encode`] off the front of `input`.
    ///
    /// # Errors
    /// [`CodecError`] when the bytes are not such a record, or break a limit.
    pub fn decode(input: &mut Reader<'_>) -> Result<Self, CodecError> {
        if input.u8()? != FORMAT {
            return Err(CodecError::Unknown("entry format"));
        }
        let kind = EntryKind::try_from(input.u8()?)?;
        let ballot = Ballot::decode(input)?;
        let order = Ballot::decode(input)?;
        let operation = OperationId::from_bytes(input.array()?);
        let geometry = Geometry::decode(input)?;
        let metadata = input.blob_bytes()?;
        if metadata.len() > limits::METADATA_BYTES_MAX {
            return Err(CodecError::TooLong("metadata"));
        }
        let count = input.narrow::<usize>()?;
        if count > limits::PARTS_MAX {
            return Err(CodecError::TooLong("part list"));
        }
        let mut parts = Vec::with_capacity(count);
        for _ in 0..count {
            parts.push(PartRef {
                number: input.narrow()?,
                operation: OperationId::from_bytes(input.array()?),
                geometry: Geometry::decode(input)?,
            });
        }
        Ok(Self { ballot, order, operation, kind, geometry, metadata, parts })
    }

    /// Reads a record that is the whole of `bytes`.
    ///
    /// # Errors
    /// As [`Self::decode`], and [`CodecError::Trailing`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut input = Reader::new(bytes);
        let entry = Self::decode(&mut input)?;
        input.finish()?;
        Ok(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Entry {
        Entry {
            ballot: Ballot { generation: 2, ..Ballot::ZERO },
            order: Ballot::ZERO,
            operation: OperationId(77),
            kind: EntryKind::Put,
            geometry: Geometry::EMPTY,
            metadata: Bytes::from_static(b"meta"),
            parts: vec![PartRef {
                number: 3,
                operation: OperationId(5),
                geometry: Geometry::new(12, 16, 5 << 20),
            }],
        }
    }

    #[test]
    fn records_round_trip_and_every_cut_is_an_error() {
        let entry = sample();
        let bytes = entry.to_bytes();
        assert_eq!(Entry::from_bytes(&bytes), Ok(entry.clone()));
        for cut in 0..bytes.len() {
            assert!(Entry::from_bytes(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        assert_eq!(entry.body_len(), 5 << 20);
        assert_eq!(entry.data_operations().collect::<Vec<_>>(), [OperationId(5)]);
    }
}
