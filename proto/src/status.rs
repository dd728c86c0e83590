//! [`ErrorClass`] as a gRPC status and back. Each class has a code of its own, so that any gRPC
//! client sees what it can do, and the class survives the wire (INV-FAB-1).
//!
//! A status of ours also names its class in the header [`CLASS_HEADER`]: a status without it was made
//! by the transport underneath, and says nothing about what the peer did.

use bytes::Bytes;
use holdfast_types::ErrorClass;
use tonic::{Code, Status, metadata::MetadataMap};

/// The header (or trailer) in which a status names its class.
pub const CLASS_HEADER: &str = "holdfast-class";

/// The code of a class.
#[must_use]
pub const fn code_of(class: ErrorClass) -> Code {
    match class {
        ErrorClass::Invalid => Code::InvalidArgument,
        ErrorClass::NotFound => Code::NotFound,
        ErrorClass::Conflict => Code::Aborted,
        ErrorClass::Outdated => Code::FailedPrecondition,
        ErrorClass::Overloaded => Code::ResourceExhausted,
        ErrorClass::Unavailable => Code::Unavailable,
        ErrorClass::TimedOut => Code::DeadlineExceeded,
        ErrorClass::Full => Code::OutOfRange,
        ErrorClass::Damaged => Code::DataLoss,
        ErrorClass::Denied => Code::PermissionDenied,
        ErrorClass::Unsupported => Code::Unimplemented,
        ErrorClass::Internal => Code::Internal,
    }
}

/// The class of a code; `None` for the codes that we never send.
#[must_use]
pub fn class_of(code: Code) -> Option<ErrorClass> {
    ErrorClass::ALL.into_iter().find(|class| code_of(*class) == code)
}

/// A status of `class` that carries `details`.
#[must_use]
pub fn status(class: ErrorClass, message: impl Into<String>, details: Bytes) -> Status {
    let mut metadata = MetadataMap::new();
    metadata.insert(CLASS_HEADER, u16::from(class as u8).into());
    Status::with_details_and_metadata(code_of(class), message, details, metadata)
}

/// The class that the peer gave `status`; `None` when the transport made it, so that nothing is
/// known about what the peer did.
#[must_use]
pub fn class_named(status: &Status) -> Option<ErrorClass> {
    let named = status.metadata().get(CLASS_HEADER)?.to_str().ok()?;
    ErrorClass::try_from(named.parse::<u8>().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the table loses nothing. Method: every class through its code, its header and a whole
    /// set of HTTP headers; the codes we never send name no class.
    #[test]
    fn every_class_survives_the_wire_and_no_foreign_code_passes_for_one() {
        for class in ErrorClass::ALL {
            assert_eq!(class_of(code_of(class)), Some(class));
            let sent = status(class, "why", Bytes::from_static(b"details"));
            let mut headers = http_headers(&sent);
            let received = Status::from_header_map(&headers).expect("it has a grpc-status");
            assert_eq!(class_named(&received), Some(class));
            assert_eq!((received.message(), received.details()), ("why", &b"details"[..]));
            headers.remove(CLASS_HEADER);
            let bare = Status::from_header_map(&headers).expect("it has a grpc-status");
            assert_eq!(class_named(&bare), None);
        }
        for code in [Code::Ok, Code::Cancelled, Code::Unknown, Code::AlreadyExists] {
            assert_eq!(class_of(code), None);
        }
        assert_eq!(class_of(Code::Unauthenticated), None);
    }

    fn http_headers(status: &Status) -> tonic::codegen::http::HeaderMap {
        status.clone().into_http::<()>().headers().clone()
    }
}
