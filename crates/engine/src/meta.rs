//! The engine's record of an object: what HEAD answers. Stored as an entry's metadata, a protobuf
//! message whose unknown fields are kept out of harm's way by their numbers; never reuse a number.

use std::collections::HashMap;

use holdfast_types::codec::CodecError;
use prost::Message;

/// A checksum of S3's additional kinds, as stored and echoed.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Checksum {
    /// `CRC32`, `CRC32C`, `CRC64NVME`, `SHA1` or `SHA256`.
    #[prost(string, tag = "1")]
    pub algorithm: String,
    /// Base64, with `-N` behind it for composite checksums of N parts.
    #[prost(string, tag = "2")]
    pub value: String,
    /// Whether it is `COMPOSITE` (else `FULL_OBJECT`).
    #[prost(bool, tag = "3")]
    pub composite: bool,
}

/// One part of an object completed from parts.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PartMeta {
    /// 1 to 10,000.
    #[prost(uint32, tag = "1")]
    pub number: u32,
    /// Bytes.
    #[prost(uint64, tag = "2")]
    pub size: u64,
    /// Entity tag without quotes.
    #[prost(string, tag = "3")]
    pub etag: String,
    /// Its checksum, when it was sent with one.
    #[prost(message, optional, tag = "4")]
    pub checksum: Option<Checksum>,
}

/// What is known of an object beside its bytes.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ObjectMeta {
    /// Bytes of the body.
    #[prost(uint64, tag = "1")]
    pub size: u64,
    /// Entity tag without quotes: MD5 in hex, `MD5-N` for multipart objects.
    #[prost(string, tag = "2")]
    pub etag: String,
    /// Last-Modified: the writer's clock, microseconds since the Unix epoch. Survives adoption.
    #[prost(uint64, tag = "3")]
    pub modified_micros: u64,
    /// Standard headers by lower-case name: `content-type`, `cache-control`, `content-disposition`,
    /// `content-encoding`, `content-language`, `expires`, `x-amz-website-redirect-location`,
    /// `x-amz-storage-class`.
    #[prost(map = "string, string", tag = "4")]
    pub headers: HashMap<String, String>,
    /// User metadata by lower-case name without `x-amz-meta-`.
    #[prost(map = "string, string", tag = "5")]
    pub user: HashMap<String, String>,
    /// The checksum the object was sent or completed with.
    #[prost(message, optional, tag = "6")]
    pub checksum: Option<Checksum>,
    /// Parts of a multipart object, by number; empty for a single PUT.
    #[prost(message, repeated, tag = "7")]
    pub parts: Vec<PartMeta>,
}

/// What a list shows of an object: an [`ObjectMeta`] read without what it does not show.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ListedMeta {
    /// As [`ObjectMeta::size`].
    #[prost(uint64, tag = "1")]
    pub size: u64,
    /// As [`ObjectMeta::etag`].
    #[prost(string, tag = "2")]
    pub etag: String,
    /// As [`ObjectMeta::modified_micros`].
    #[prost(uint64, tag = "3")]
    pub modified_micros: u64,
    /// As [`ObjectMeta::checksum`].
    #[prost(message, optional, tag = "6")]
    pub checksum: Option<Checksum>,
}

impl ListedMeta {
    /// Reads the stored form of an [`ObjectMeta`].
    ///
    /// # Errors
    /// [`CodecError::Unknown`] when the bytes are no such message.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError> {
        Self::decode(bytes).map_err(|_| CodecError::Unknown("object metadata"))
    }
}

impl From<ObjectMeta> for ListedMeta {
    fn from(meta: ObjectMeta) -> Self {
        let ObjectMeta { size, etag, modified_micros, checksum, .. } = meta;
        Self { size, etag, modified_micros, checksum }
    }
}

impl ObjectMeta {
    /// The stored form.
    #[must_use]
    pub fn to_bytes(&self) -> bytes::Bytes {
        self.encode_to_vec().into()
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// [`CodecError::Unknown`] when the bytes are no such message.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError> {
        Self::decode(bytes).map_err(|_| CodecError::Unknown("object metadata"))
    }
}
