//! What the gateway calls. Keys are opaque bytes; times are microseconds since the Unix epoch; entity
//! tags are without quotes.
//!
//! Guarantees of every method (DESIGN section 9): success means durable on a write quorum; answers are
//! linearizable per key from every node; a [`StoreError::Unknown`] may take effect later, never partly.

use std::{collections::HashMap, ops::Range, pin::Pin};

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;
use holdfast_types::{OperationId, VersionId};

use crate::{
    checksum::Algorithm,
    error::StoreError,
    meta::{Checksum, ListedMeta, ObjectMeta, PartMeta},
};

/// What a body turned out to be, once its last byte was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BodyDigest {
    /// MD5 in hex.
    pub etag: String,
    /// The additional checksum to store, when the client asked for one.
    pub checksum: Option<Checksum>,
}

/// A body on its way in. The implementer verifies what the client announced (Content-MD5, checksums,
/// trailers, length, chunk signatures) and ends the stream with an error when it does not match.
/// `Unpin`, so that `digest` can be called on a [`BoxBody`].
pub trait Body: Stream<Item = Result<Bytes, StoreError>> + Send + Unpin {
    /// Called once, after the stream ended without an error.
    fn digest(&mut self) -> BodyDigest;
}

/// A body of unknown kind.
pub type BoxBody = Pin<Box<dyn Body>>;

/// Bytes on their way out; every chunk was verified against its checksum.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes, StoreError>> + Send>>;

/// An entity tag in a condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EtagCondition {
    /// `*`.
    Any,
    /// One of these.
    Tags(Vec<String>),
}

impl EtagCondition {
    /// Whether an object with `etag` (`None`: no object) meets it.
    #[must_use]
    pub fn matches(&self, etag: Option<&str>) -> bool {
        match (self, etag) {
            (_, None) => false,
            (Self::Any, Some(_)) => true,
            (Self::Tags(tags), Some(etag)) => tags.iter().any(|tag| tag == etag),
        }
    }
}

/// Conditions of a request, by the header they came in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conditions {
    /// `If-Match` (or `x-amz-copy-source-if-match`).
    pub if_match: Option<EtagCondition>,
    /// `If-None-Match`.
    pub if_none_match: Option<EtagCondition>,
    /// `If-Modified-Since`.
    pub if_modified_since: Option<u64>,
    /// `If-Unmodified-Since`.
    pub if_unmodified_since: Option<u64>,
}

impl Conditions {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// An object as HEAD shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct ObjectInfo {
    /// Its version.
    pub version: VersionId,
    /// Its record.
    pub meta: ObjectMeta,
}

/// A bucket as ListBuckets shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketInfo {
    /// Its name.
    pub name: String,
    /// When it was created.
    pub created_micros: u64,
    /// The location constraint it was created with; empty for the default region.
    pub location: String,
}

/// A page of buckets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BucketPage {
    /// In order of names.
    pub buckets: Vec<BucketInfo>,
    /// Continue after this name; `None` at the end.
    pub next: Option<String>,
}

/// Headers and metadata a client gives an object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObjectAttributes {
    /// See [`ObjectMeta::headers`].
    pub headers: HashMap<String, String>,
    /// See [`ObjectMeta::user`].
    pub user: HashMap<String, String>,
}

/// PutObject.
#[derive(Debug, Clone, Default)]
pub struct PutObject {
    /// The bucket.
    pub bucket: String,
    /// The key.
    pub key: Bytes,
    /// Headers and metadata.
    pub attributes: ObjectAttributes,
    /// Conditions on the current version (`If-Match`, `If-None-Match`).
    pub conditions: Conditions,
    /// Bytes of the body, when the client announced them.
    pub length: Option<u64>,
}

/// What part of an object a GET wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Wanted {
    /// All of it.
    #[default]
    Whole,
    /// `bytes=first-last`, inclusive; to the end when `last` is `None`.
    Range {
        /// First byte.
        first: u64,
        /// Last byte, inclusive.
        last: Option<u64>,
    },
    /// `bytes=-n`: the last n bytes.
    Suffix(u64),
    /// `partNumber=`.
    Part(u16),
}

/// GetObject, HeadObject.
#[derive(Debug, Clone, Default)]
pub struct GetObject {
    /// The bucket.
    pub bucket: String,
    /// The key.
    pub key: Bytes,
    /// The version; the latest when `None`.
    pub version: Option<VersionId>,
    /// Conditions.
    pub conditions: Conditions,
    /// What part.
    pub wanted: Wanted,
}

/// A GET's answer.
pub struct ObjectRead {
    /// The object.
    pub info: ObjectInfo,
    /// The bytes that `body` carries.
    pub range: Range<u64>,
    /// The bytes. Empty for HEAD.
    pub body: ByteStream,
}

/// DeleteObject, and one key of DeleteObjects.
#[derive(Debug, Clone, Default)]
pub struct DeleteKey {
    /// The key.
    pub key: Bytes,
    /// The version; the latest when `None`.
    pub version: Option<VersionId>,
    /// `If-Match` on the current version.
    pub conditions: Conditions,
}

/// What a delete did. Deleting what is not there succeeds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deleted {
    /// The version removed, or of the delete marker made; `None` in unversioned buckets.
    pub version: Option<VersionId>,
    /// Whether a delete marker was made or removed.
    pub delete_marker: bool,
}

/// CopyObject.
#[derive(Debug, Clone, Default)]
pub struct CopyObject {
    /// What is copied, under its `x-amz-copy-source-if-*` conditions.
    pub source: GetObject,
    /// The target bucket.
    pub bucket: String,
    /// The target key.
    pub key: Bytes,
    /// `Some` replaces headers and metadata (`x-amz-metadata-directive: REPLACE`).
    pub replace: Option<ObjectAttributes>,
    /// Conditions on the target.
    pub conditions: Conditions,
    /// The additional checksum algorithm to compute, when the client asked for one.
    pub checksum_algorithm: Option<String>,
}

/// What LIST is asked for.
#[derive(Debug, Clone, Default)]
pub struct ListObjects {
    /// The bucket.
    pub bucket: String,
    /// Only keys that begin with it.
    pub prefix: Bytes,
    /// Keys that share the bytes up to its next occurrence behind the prefix are rolled up.
    pub delimiter: Bytes,
    /// Only keys (and rolled-up prefixes) behind it.
    pub after: Bytes,
    /// Most keys and prefixes together; 0 to 1000.
    pub limit: usize,
}

/// One key of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct ListedObject {
    /// The key.
    pub key: Bytes,
    /// Its latest version.
    pub version: VersionId,
    /// What is shown of it.
    pub meta: ListedMeta,
}

/// A page of a list. A truncated page is never empty.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ObjectPage {
    /// Keys in byte order.
    pub objects: Vec<ListedObject>,
    /// Rolled-up prefixes in byte order.
    pub prefixes: Vec<Bytes>,
    /// The last key or prefix emitted, when more follow: the next page's `after`.
    pub next: Option<Bytes>,
}

/// CreateMultipartUpload.
#[derive(Debug, Clone, Default)]
pub struct CreateUpload {
    /// The bucket.
    pub bucket: String,
    /// The key.
    pub key: Bytes,
    /// Headers and metadata of the object to be.
    pub attributes: ObjectAttributes,
    /// The additional checksum algorithm of the upload.
    pub checksum_algorithm: Option<String>,
    /// Whether its checksum is composite (`COMPOSITE`) rather than `FULL_OBJECT`.
    pub checksum_composite: bool,
}

/// An upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadInfo {
    /// The key.
    pub key: Bytes,
    /// The id.
    pub upload: OperationId,
    /// When it was created.
    pub created_micros: u64,
    /// The additional checksum algorithm.
    pub checksum_algorithm: Option<String>,
    /// Whether that checksum is composite.
    pub checksum_composite: bool,
    /// Headers and metadata.
    pub attributes: ObjectAttributes,
}

/// UploadPart.
#[derive(Debug, Clone, Default)]
pub struct PutPart {
    /// The bucket.
    pub bucket: String,
    /// The key.
    pub key: Bytes,
    /// The upload.
    pub upload: OperationId,
    /// 1 to 10,000.
    pub number: u16,
    /// Bytes of the part, when announced.
    pub length: Option<u64>,
    /// The checksum that comes with the body; the upload's, when it has one.
    pub checksum: Option<Algorithm>,
}

/// A part as ListParts shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct PartInfo {
    /// Number, size, entity tag, checksum.
    pub part: PartMeta,
    /// When it was sent.
    pub modified_micros: u64,
}

/// A page of parts.
#[derive(Debug, Clone, PartialEq)]
pub struct PartPage {
    /// The upload they are of.
    pub upload: UploadInfo,
    /// By number.
    pub parts: Vec<PartInfo>,
    /// Whether parts follow the last one.
    pub truncated: bool,
}

/// ListMultipartUploads.
#[derive(Debug, Clone, Default)]
pub struct ListUploads {
    /// The bucket.
    pub bucket: String,
    /// Only keys that begin with it.
    pub prefix: Bytes,
    /// Roll-up, as in [`ListObjects`].
    pub delimiter: Bytes,
    /// Only uploads of keys behind it, and of the key itself behind `after_upload`.
    pub after_key: Bytes,
    /// See `after_key`.
    pub after_upload: Option<OperationId>,
    /// Most uploads and prefixes together.
    pub limit: usize,
}

/// A page of uploads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UploadPage {
    /// By key, then by creation.
    pub uploads: Vec<UploadInfo>,
    /// Rolled-up prefixes.
    pub prefixes: Vec<Bytes>,
    /// Whether more follow.
    pub truncated: bool,
}

/// One part named by CompleteMultipartUpload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompletedPart {
    /// Its number.
    pub number: u16,
    /// Its entity tag, without quotes.
    pub etag: String,
    /// Its checksum, when the client sent one.
    pub checksum: Option<NamedChecksum>,
}

/// A checksum as a client names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedChecksum {
    /// Its kind.
    pub algorithm: Algorithm,
    /// Base64; of a composite one perhaps with `-N` behind it.
    pub value: String,
}

/// What a client announced of the object that its parts make. Each is held against what it turns out to
/// be; what cannot be compared is refused.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AnnouncedObject {
    /// The checksum of the whole.
    pub checksum: Option<NamedChecksum>,
    /// Whether that checksum is composite.
    pub composite: Option<bool>,
    /// Bytes of the object.
    pub size: Option<u64>,
}

/// CompleteMultipartUpload.
#[derive(Debug, Clone, Default)]
pub struct CompleteUpload {
    /// The bucket.
    pub bucket: String,
    /// The key.
    pub key: Bytes,
    /// The upload.
    pub upload: OperationId,
    /// In ascending order.
    pub parts: Vec<CompletedPart>,
    /// Conditions on the current version.
    pub conditions: Conditions,
    /// What the client thinks it makes.
    pub announced: AnnouncedObject,
}

/// The store.
#[async_trait]
pub trait ObjectStore: Send + Sync + 'static {
    /// Creates a bucket. S3: CreateBucket; answers [`StoreError::BucketExists`] when it is there.
    async fn create_bucket(&self, name: &str, location: &str) -> Result<BucketInfo, StoreError>;

    /// S3: HeadBucket, GetBucketLocation.
    async fn bucket(&self, name: &str) -> Result<BucketInfo, StoreError>;

    /// S3: DeleteBucket. Anything but tombstones in it: [`StoreError::BucketNotEmpty`].
    async fn delete_bucket(&self, name: &str) -> Result<(), StoreError>;

    /// S3: ListBuckets, names that begin with `prefix` and lie behind `after`.
    async fn list_buckets(
        &self,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<BucketPage, StoreError>;

    /// S3: PutObject.
    async fn put_object(&self, put: PutObject, body: BoxBody) -> Result<ObjectInfo, StoreError>;

    /// S3: HeadObject, GetObjectAttributes. `wanted` is resolved to a range as GET would.
    async fn head_object(&self, get: GetObject) -> Result<ObjectRead, StoreError>;

    /// S3: GetObject.
    async fn get_object(&self, get: GetObject) -> Result<ObjectRead, StoreError>;

    /// S3: DeleteObject.
    async fn delete_object(&self, bucket: &str, key: DeleteKey) -> Result<Deleted, StoreError>;

    /// S3: DeleteObjects: at most 1,000 keys, one result a key, in order. The outer error is for the
    /// bucket.
    async fn delete_objects(
        &self,
        bucket: &str,
        keys: Vec<DeleteKey>,
    ) -> Result<Vec<Result<Deleted, StoreError>>, StoreError>;

    /// S3: CopyObject.
    async fn copy_object(&self, copy: CopyObject) -> Result<ObjectInfo, StoreError>;

    /// S3: ListObjects, ListObjectsV2, ListObjectVersions of an unversioned bucket.
    async fn list_objects(&self, list: ListObjects) -> Result<ObjectPage, StoreError>;

    /// S3: CreateMultipartUpload.
    async fn create_upload(&self, create: CreateUpload) -> Result<UploadInfo, StoreError>;

    /// The upload itself: what UploadPart's gateway needs to know of it.
    async fn upload(
        &self,
        bucket: &str,
        key: &[u8],
        upload: OperationId,
    ) -> Result<UploadInfo, StoreError>;

    /// S3: UploadPart.
    async fn put_part(&self, put: PutPart, body: BoxBody) -> Result<PartInfo, StoreError>;

    /// S3: UploadPartCopy.
    async fn copy_part(&self, source: GetObject, put: PutPart) -> Result<PartInfo, StoreError>;

    /// S3: ListParts, numbers above `after`.
    async fn list_parts(
        &self,
        bucket: &str,
        key: &[u8],
        upload: OperationId,
        after: u16,
        limit: usize,
    ) -> Result<PartPage, StoreError>;

    /// S3: ListMultipartUploads.
    async fn list_uploads(&self, list: ListUploads) -> Result<UploadPage, StoreError>;

    /// S3: CompleteMultipartUpload.
    async fn complete_upload(&self, complete: CompleteUpload) -> Result<ObjectInfo, StoreError>;

    /// S3: AbortMultipartUpload.
    async fn abort_upload(
        &self,
        bucket: &str,
        key: &[u8],
        upload: OperationId,
    ) -> Result<(), StoreError>;
}
