//! Error classes: what a caller can do. gRPC and S3 codes derive from the class, so that a typed
//! error keeps its meaning across the wire.

/// What the caller of a failed request can do about it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum ErrorClass {
    /// The request is wrong; repeating it does not help.
    Invalid = 1,
    /// What was asked for is not there.
    NotFound = 2,
    /// A condition or a ballot was lost; look again, then decide.
    Conflict = 3,
    /// The caller's view (bucket epoch, set epoch, layout) is old; refresh and repeat.
    Outdated = 4,
    /// Too much is going on; repeat later. Becomes `503 SlowDown`.
    Overloaded = 5,
    /// This place cannot serve now; another may. Below quorum it becomes `503 ServiceUnavailable`.
    Unavailable = 6,
    /// No answer in time: the effect is unknown.
    TimedOut = 7,
    /// No space left.
    Full = 8,
    /// Stored bytes are missing or fail their checksum here; heal.
    Damaged = 9,
    /// Authentication failed or the peer is a stranger.
    Denied = 10,
    /// The feature is not there.
    Unsupported = 11,
    /// A defect of ours.
    Internal = 12,
}

impl ErrorClass {
    /// Every class, for tables and tests.
    pub const ALL: [Self; 12] = [
        Self::Invalid,
        Self::NotFound,
        Self::Conflict,
        Self::Outdated,
        Self::Overloaded,
        Self::Unavailable,
        Self::TimedOut,
        Self::Full,
        Self::Damaged,
        Self::Denied,
        Self::Unsupported,
        Self::Internal,
    ];

    /// Whether the same request may succeed elsewhere or later without a change.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        matches!(
            self,
            Self::Outdated | Self::Overloaded | Self::Unavailable | Self::TimedOut | Self::Conflict
        )
    }
}

impl TryFrom<u8> for ErrorClass {
    type Error = crate::codec::CodecError;

    fn try_from(byte: u8) -> Result<Self, Self::Error> {
        Self::ALL
            .into_iter()
            .find(|class| *class as u8 == byte)
            .ok_or(crate::codec::CodecError::Unknown("error class"))
    }
}
