//! What names a register: keyspace, bucket, name, version.
//!
//! Encoded form, order-preserving (byte order of the encoding = order of the tuple):
//!
//! ```text
//! keyspace u8 | bucket id 16 | name, 0x00 escaped as 0x00 0xff | 0x00 0x01 | version 16
//! ```
//!
//! S3 lists keys by their UTF-8 bytes; the escape keeps that order for every byte string.

use std::fmt;

use bytes::Bytes;

use crate::{
    codec::{CodecError, Reader, Writer},
    id::{BucketId, OperationId},
};

/// What kind of thing a register holds. Each kind is a key order of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Keyspace {
    /// Objects: name is the object key.
    Object = 1,
    /// Multipart uploads: name is [`RegisterKey::upload_name`].
    Upload = 2,
    /// Parts of uploads: name is [`RegisterKey::part_name`].
    Part = 3,
    /// The bucket registry (first set only): bucket id nil, name is the bucket's name.
    Bucket = 4,
    /// Cluster documents (first set only): bucket id nil, name is the document's name, `layout` say.
    Document = 5,
}

impl TryFrom<u8> for Keyspace {
    type Error = CodecError;

    fn try_from(byte: u8) -> Result<Self, CodecError> {
        Ok(match byte {
            1 => Self::Object,
            2 => Self::Upload,
            3 => Self::Part,
            4 => Self::Bucket,
            5 => Self::Document,
            _ => return Err(CodecError::Unknown("keyspace")),
        })
    }
}

/// A version of an object. Unversioned buckets have one, `null`; others are drawn at random.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct VersionId(pub u128);

impl VersionId {
    /// The version of unversioned buckets, which S3 calls `null`.
    pub const NULL: Self = Self(0);
}

impl fmt::Display for VersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::NULL { f.write_str("null") } else { write!(f, "{:032x}", self.0) }
    }
}

impl fmt::Debug for VersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VersionId({self})")
    }
}

impl std::str::FromStr for VersionId {
    type Err = crate::id::ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "null" {
            return Ok(Self::NULL);
        }
        text.parse::<OperationId>().map(|id| Self(id.0))
    }
}

/// A key for ballots: what accepts, promises and judgements are about. One register per version
/// lives below it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegisterKey {
    /// The kind of register.
    pub space: Keyspace,
    /// The bucket's incarnation; nil in the registries.
    pub bucket: BucketId,
    /// Opaque bytes; their meaning depends on the keyspace.
    pub name: Bytes,
}

impl RegisterKey {
    /// The key of an object.
    #[must_use]
    pub fn object(bucket: BucketId, key: impl Into<Bytes>) -> Self {
        Self { space: Keyspace::Object, bucket, name: key.into() }
    }

    /// The key of a bucket's registry entry.
    #[must_use]
    pub fn bucket(name: &str) -> Self {
        let name = Bytes::copy_from_slice(name.as_bytes());
        Self { space: Keyspace::Bucket, bucket: BucketId::NIL, name }
    }

    /// The key of a cluster document.
    #[must_use]
    pub fn document(name: &str) -> Self {
        let name = Bytes::copy_from_slice(name.as_bytes());
        Self { space: Keyspace::Document, bucket: BucketId::NIL, name }
    }

    /// The key of a multipart upload of object `key`.
    #[must_use]
    pub fn upload(bucket: BucketId, key: &[u8], upload: OperationId) -> Self {
        Self { space: Keyspace::Upload, bucket, name: Self::upload_name(key, upload) }
    }

    /// The key of a part of a multipart upload of object `key`.
    #[must_use]
    pub fn part(bucket: BucketId, key: &[u8], upload: OperationId, number: u16) -> Self {
        Self { space: Keyspace::Part, bucket, name: Self::part_name(key, upload, number) }
    }

    /// `escaped key | 0x00 0x01 | upload id`: uploads list by key, then by id.
    #[must_use]
    pub fn upload_name(key: &[u8], upload: OperationId) -> Bytes {
        let mut out = Writer::with_capacity(key.len() + 20);
        escape(key, &mut out);
        out.raw(&upload.to_bytes());
        out.into_bytes().into()
    }

    /// `escaped key | 0x00 0x01 | upload id | part number u16`: parts list by number.
    #[must_use]
    pub fn part_name(key: &[u8], upload: OperationId, number: u16) -> Bytes {
        let mut out = Writer::with_capacity(key.len() + 22);
        escape(key, &mut out);
        out.raw(&upload.to_bytes());
        out.raw(&number.to_be_bytes());
        out.into_bytes().into()
    }

    /// The object key that places this register: a set is chosen, and drives are ordered, by it. An
    /// upload and its parts live where their object lives.
    ///
    /// # Errors
    /// [`CodecError`] when an upload's or part's name is malformed.
    pub fn placing_name(&self) -> Result<Bytes, CodecError> {
        match self.space {
            Keyspace::Object | Keyspace::Bucket | Keyspace::Document => Ok(self.name.clone()),
            Keyspace::Upload | Keyspace::Part => {
                let mut input = Reader::new(&self.name);
                unescape(&mut input).map(Bytes::from)
            }
        }
    }

    /// Splits an upload's name into object key and upload id, a part's also into its number.
    ///
    /// # Errors
    /// [`CodecError`] when the name is malformed or the keyspace has no uploads.
    pub fn upload_parts(&self) -> Result<(Bytes, OperationId, Option<u16>), CodecError> {
        let mut input = Reader::new(&self.name);
        let key = unescape(&mut input)?;
        let upload = OperationId::from_bytes(input.array()?);
        let number = match self.space {
            Keyspace::Upload => None,
            Keyspace::Part => Some(u16::from_be_bytes(input.array()?)),
            _ => return Err(CodecError::Unknown("keyspace")),
        };
        input.finish()?;
        Ok((key.into(), upload, number))
    }

    /// The encoded form without a version: the common prefix of the key's registers.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::with_capacity(self.name.len() + 36);
        self.encode_to(&mut out);
        out.into_bytes()
    }

    /// The encoded form of one register.
    #[must_use]
    pub fn encode_register(&self, version: VersionId) -> Vec<u8> {
        let mut out = Writer::with_capacity(self.name.len() + 36);
        self.encode_to(&mut out);
        out.raw(&version.0.to_be_bytes());
        out.into_bytes()
    }

    fn encode_to(&self, out: &mut Writer) {
        out.u8(self.space as u8);
        out.id(self.bucket.to_bytes());
        escape(&self.name, out);
    }

    /// Reads [`Self::encode`] off the front of `input`.
    ///
    /// # Errors
    /// [`CodecError`] when the bytes are not such a form.
    pub fn decode(input: &mut Reader<'_>) -> Result<Self, CodecError> {
        let space = Keyspace::try_from(input.u8()?)?;
        let bucket = BucketId::from_bytes(input.array()?);
        let name = unescape(input)?.into();
        Ok(Self { space, bucket, name })
    }

    /// Reads [`Self::encode_register`], which must be the whole of `bytes`.
    ///
    /// # Errors
    /// [`CodecError`] when the bytes are not such a form.
    pub fn decode_register(bytes: &[u8]) -> Result<(Self, VersionId), CodecError> {
        let mut input = Reader::new(bytes);
        let key = Self::decode(&mut input)?;
        let version = VersionId(u128::from_be_bytes(input.array()?));
        input.finish()?;
        Ok((key, version))
    }
}

impl fmt::Debug for RegisterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}/{}/{}", self.space, self.bucket, self.name.escape_ascii())
    }
}

/// Appends `name` escaped and terminated.
fn escape(name: &[u8], out: &mut Writer) {
    for piece in name.split_inclusive(|byte| *byte == 0) {
        out.raw(piece);
        if piece.ends_with(&[0]) {
            out.u8(0xff);
        }
    }
    out.raw(&[0, 1]);
}

/// Reads an escaped name and its terminator.
fn unescape(input: &mut Reader<'_>) -> Result<Vec<u8>, CodecError> {
    let mut name = Vec::new();
    loop {
        let piece = input.until(0)?;
        // Most names are one piece, and need no room beyond it.
        name.reserve_exact(piece.len());
        name.extend_from_slice(piece);
        match input.u8()? {
            0xff => name.push(0),
            1 => return Ok(name),
            _ => return Err(CodecError::Unknown("escape")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &[u8]) -> RegisterKey {
        RegisterKey::object(BucketId(9), name.to_vec())
    }

    #[test]
    fn encoded_order_is_key_order() {
        let names: [&[u8]; 9] =
            [b"", b"\0", b"\0\0", b"\0a", b"a", b"a\0", b"a\0b", b"a/b", b"\xff\xff"];
        for pair in names.windows(2) {
            assert!(pair[0] < pair[1]);
            assert!(object(pair[0]).encode() < object(pair[1]).encode(), "{pair:?}");
            let low = object(pair[0]).encode_register(VersionId(u128::MAX));
            assert!(low < object(pair[1]).encode_register(VersionId::NULL), "{pair:?}");
        }
    }

    #[test]
    fn keys_round_trip() {
        for name in [&b""[..], b"a//..\0\xff", b"\0\x01"] {
            let key = object(name);
            let bytes = key.encode_register(VersionId(5));
            assert_eq!(RegisterKey::decode_register(&bytes), Ok((key, VersionId(5))));
            let part = RegisterKey::part(BucketId(1), name, OperationId(3), 7);
            let split = (Bytes::copy_from_slice(name), OperationId(3), Some(7));
            assert_eq!(part.upload_parts(), Ok(split));
            assert_eq!(part.placing_name(), Ok(Bytes::copy_from_slice(name)));
        }
        assert!(RegisterKey::decode_register(&[1, 2, 3]).is_err());
    }
}
