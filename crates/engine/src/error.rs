//! Errors of the store, grouped by what a client can do. The gateway gives each its S3 code.

use holdfast_types::{ErrorClass, SetIndex};

/// Why the store did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum StoreError {
    // ---- the client asked for what is not there, or may not be -------------------------------
    /// S3: NoSuchBucket.
    #[error("bucket {bucket} does not exist")]
    NoSuchBucket {
        /// The bucket asked for.
        bucket: String,
    },
    /// S3: NoSuchKey (or NoSuchVersion, when a version was asked for).
    #[error("key does not exist")]
    NoSuchKey {
        /// Whether the head of the key is a delete marker (S3 then answers
        /// `x-amz-delete-marker: true`).
        delete_marker: bool,
    },
    /// S3: NoSuchVersion.
    #[error("version does not exist")]
    NoSuchVersion,
    /// S3: NoSuchUpload.
    #[error("upload does not exist")]
    NoSuchUpload,
    /// S3: BucketAlreadyOwnedByYou.
    #[error("bucket {bucket} exists and is yours")]
    BucketExists {
        /// The bucket asked for.
        bucket: String,
    },
    /// S3: BucketNotEmpty.
    #[error("bucket {bucket} is not empty")]
    BucketNotEmpty {
        /// The bucket asked for.
        bucket: String,
    },
    /// S3: MethodNotAllowed: the version asked for is a delete marker.
    #[error("the version is a delete marker")]
    IsDeleteMarker,

    /// A drive knows a newer stamp of the bucket, or its phase does not take the request. Never
    /// leaves the engine: the request starts again under the current stamp.
    #[error("the bucket changed meanwhile")]
    BucketChanged {
        /// What the drive knows.
        current: holdfast_types::BucketStamp,
    },

    /// A drive has adopted a newer epoch of its set. Never leaves the engine: the request starts again
    /// under the newer membership.
    #[error("the set's drives changed meanwhile")]
    SetChanged {
        /// What the drive has adopted.
        current: holdfast_types::SetEpoch,
    },

    /// Drives refuse a change: their copies of the upload's register are in no phase that allows it. That is no
    /// word about whether there is such an upload (INV-UPLOAD-5). Never leaves the engine: whoever meets it
    /// looks at the upload.
    #[error("the upload is in no phase for this")]
    UploadNotOpen,

    // ---- conditions ---------------------------------------------------------------------------
    /// S3: PreconditionFailed, naming the header.
    #[error("condition {condition} failed")]
    PreconditionFailed {
        /// The header that failed, `If-Match` say.
        condition: &'static str,
    },
    /// S3: 304 Not Modified.
    #[error("not modified")]
    NotModified {
        /// Entity tag of the current version.
        etag: String,
        /// Its Last-Modified, microseconds since the epoch.
        modified_micros: u64,
    },
    /// S3: 409 ConditionalRequestConflict: another writer won meanwhile; repeat.
    #[error("another write to the key came in between")]
    ConditionalConflict,

    // ---- the request is wrong ----------------------------------------------------------------
    /// S3: InvalidArgument.
    #[error("invalid argument: {message}")]
    InvalidArgument {
        /// What is wrong, and with what.
        message: String,
    },
    /// S3: InvalidRequest: what the request says contradicts what is there.
    #[error("invalid request: {message}")]
    InvalidRequest {
        /// What contradicts what.
        message: String,
    },
    /// S3: KeyTooLongError.
    #[error("key is longer than 1024 bytes")]
    KeyTooLong,
    /// S3: EntityTooLarge.
    #[error("body is larger than S3 allows")]
    EntityTooLarge,
    /// S3: EntityTooSmall: a part other than the last is below 5 MiB.
    #[error("part {number} is smaller than 5 MiB and not the last")]
    PartTooSmall {
        /// The part.
        number: u16,
    },
    /// S3: InvalidPart.
    #[error("part {number} was not found, or its entity tag or checksum does not match")]
    InvalidPart {
        /// The part.
        number: u16,
    },
    /// S3: InvalidPartOrder.
    #[error("parts are not in ascending order")]
    InvalidPartOrder,
    /// S3: InvalidRange, with the size for `Content-Range: bytes */N`.
    #[error("range lies outside the object")]
    InvalidRange {
        /// Bytes of the object.
        size: u64,
    },
    /// The body failed on its way (digest mismatch, client gone). Carries the gateway's own code.
    #[error("body rejected: {code}: {message}")]
    BodyRejected {
        /// The S3 code the gateway chose.
        code: &'static str,
        /// For the client.
        message: String,
    },

    // ---- the cluster cannot, now -------------------------------------------------------------
    /// S3: 503 ServiceUnavailable. Names the set and what is missing.
    #[error("set {set} lacks drives: need {need}, have {have}: {detail}")]
    BelowQuorum {
        /// The set.
        set: SetIndex,
        /// Drives needed.
        need: u8,
        /// Drives there are.
        have: u8,
        /// Which drives are missing, and why.
        detail: String,
    },
    /// S3: 503 SlowDown.
    #[error("too many requests: {message}")]
    Overloaded {
        /// Which bound was hit.
        message: String,
    },
    /// S3: 503; the effect of the operation is unknown.
    #[error("outcome unknown: {message}")]
    Unknown {
        /// What happened.
        message: String,
    },
    /// S3: 507-like; answered as 503 with a clear message, writes only.
    #[error("no space: {message}")]
    Full {
        /// Which set, which drives.
        message: String,
    },
    /// S3: NotImplemented.
    #[error("not implemented: {what}")]
    Unsupported {
        /// The feature.
        what: &'static str,
    },
    /// A defect of ours: S3 InternalError.
    #[error("internal error: {message}")]
    Internal {
        /// For the log.
        message: String,
    },
}

impl StoreError {
    /// What a client can do.
    #[must_use]
    pub const fn class(&self) -> ErrorClass {
        match self {
            Self::NoSuchBucket { .. }
            | Self::NoSuchKey { .. }
            | Self::NoSuchVersion
            | Self::NoSuchUpload => ErrorClass::NotFound,
            Self::BucketExists { .. }
            | Self::BucketNotEmpty { .. }
            | Self::PreconditionFailed { .. }
            | Self::NotModified { .. }
            | Self::ConditionalConflict => ErrorClass::Conflict,
            Self::IsDeleteMarker
            | Self::InvalidArgument { .. }
            | Self::InvalidRequest { .. }
            | Self::KeyTooLong
            | Self::EntityTooLarge
            | Self::PartTooSmall { .. }
            | Self::InvalidPart { .. }
            | Self::InvalidPartOrder
            | Self::InvalidRange { .. }
            | Self::BodyRejected { .. } => ErrorClass::Invalid,
            Self::BucketChanged { .. } | Self::SetChanged { .. } | Self::UploadNotOpen => {
                ErrorClass::Outdated
            }
            Self::BelowQuorum { .. } => ErrorClass::Unavailable,
            Self::Overloaded { .. } => ErrorClass::Overloaded,
            Self::Unknown { .. } => ErrorClass::TimedOut,
            Self::Full { .. } => ErrorClass::Full,
            Self::Unsupported { .. } => ErrorClass::Unsupported,
            Self::Internal { .. } => ErrorClass::Internal,
        }
    }
}
