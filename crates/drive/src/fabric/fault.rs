//! Statuses as drive errors and back.

use bytes::Bytes;
use holdfast_proto::{WireError, status, v1};
use holdfast_types::{DriveId, ErrorClass};
use prost::Message;
use tonic::Status;

use super::{auth::AuthError, wire};
use crate::api::DriveError;

/// A call that failed as a whole, seen by its caller.
#[derive(Debug, Clone)]
pub enum CallFault {
    /// The peer refused it; it was not carried out.
    Refused(DriveError),
    /// Certainly never sent.
    NotSent(String),
    /// Sent, perhaps: it may have been carried out.
    Lost(String),
}

impl CallFault {
    /// What a status says about a call that was handed to a connection.
    #[must_use]
    pub fn of(status: &Status) -> Self {
        match status::class_named(status) {
            Some(class) => Self::Refused(error_of(status, class)),
            None if never_connected(status) => Self::NotSent(status.message().to_owned()),
            None => Self::Lost(describe(status)),
        }
    }

    /// The error that each request of the call gets.
    #[must_use]
    pub fn error(&self, node: &str, drive: DriveId) -> DriveError {
        let (class, message) = match self {
            Self::Refused(DriveError::Failed { drive: DriveId::NIL, class, message }) => {
                (*class, message)
            }
            Self::Refused(refused) => return refused.clone(),
            Self::NotSent(why) => (ErrorClass::Unavailable, why),
            Self::Lost(why) => (ErrorClass::TimedOut, why),
        };
        DriveError::failed(drive, class, format!("call {node}: {message}"))
    }

    /// Whether the peer refused for want of a session it knows.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        let by_the_fabric = DriveId::NIL;
        match self {
            Self::Refused(DriveError::Failed { drive, class, .. }) => {
                *drive == by_the_fabric && *class == ErrorClass::Denied
            }
            _ => false,
        }
    }
}

fn error_of(status: &Status, class: ErrorClass) -> DriveError {
    let details = v1::DriveError::decode(status.details()).ok();
    let details = details.filter(|_| !status.details().is_empty());
    details
        .and_then(|message| wire::read_drive_error(&message).ok())
        .unwrap_or_else(|| DriveError::failed(DriveId::NIL, class, status.message()))
}

/// Whether the connection could not even be made.
fn never_connected(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(cause) = source {
        if cause.is::<tonic::ConnectError>() {
            return true;
        }
        source = cause.source();
    }
    false
}

/// A status made by the transport, with the causes that its own message leaves out.
pub(super) fn describe(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// An error of a drive as the status of a whole call or stream.
#[must_use]
pub fn status_of(error: &DriveError) -> Status {
    let details = Bytes::from(wire::drive_error(error).encode_to_vec());
    status::status(error.class(), error.to_string(), details)
}

/// A refusal by the fabric itself.
#[must_use]
pub fn refusal(class: ErrorClass, message: impl Into<String>) -> Status {
    status::status(class, message, Bytes::new())
}

impl From<AuthError> for Status {
    fn from(error: AuthError) -> Self {
        refusal(ErrorClass::Denied, error.to_string())
    }
}

/// A malformed message as a status.
#[must_use]
pub fn malformed(error: &WireError) -> Status {
    refusal(ErrorClass::Invalid, error.to_string())
}
