//! One table from the store's errors to S3's codes.

use holdfast_engine::StoreError;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use s3s::{S3Error, S3ErrorCode};

use crate::{convert, refusals};

/// The S3 code and status of `error`.
#[must_use]
pub(crate) fn code_of(error: &StoreError) -> (&'static str, StatusCode) {
    use StatusCode as S;
    match error {
        StoreError::NoSuchBucket { .. } => ("NoSuchBucket", S::NOT_FOUND),
        StoreError::NoSuchKey { .. } => ("NoSuchKey", S::NOT_FOUND),
        StoreError::NoSuchVersion => ("NoSuchVersion", S::NOT_FOUND),
        StoreError::NoSuchUpload => ("NoSuchUpload", S::NOT_FOUND),
        StoreError::BucketExists { .. } => ("BucketAlreadyOwnedByYou", S::CONFLICT),
        StoreError::BucketNotEmpty { .. } => ("BucketNotEmpty", S::CONFLICT),
        StoreError::IsDeleteMarker => ("MethodNotAllowed", S::METHOD_NOT_ALLOWED),
        StoreError::PreconditionFailed { .. } => ("PreconditionFailed", S::PRECONDITION_FAILED),
        StoreError::NotModified { .. } => ("NotModified", S::NOT_MODIFIED),
        StoreError::ConditionalConflict => ("ConditionalRequestConflict", S::CONFLICT),
        StoreError::InvalidArgument { .. } => ("InvalidArgument", S::BAD_REQUEST),
        StoreError::InvalidRequest { .. } => ("InvalidRequest", S::BAD_REQUEST),
        StoreError::KeyTooLong => ("KeyTooLongError", S::BAD_REQUEST),
        StoreError::EntityTooLarge => ("EntityTooLarge", S::BAD_REQUEST),
        StoreError::PartTooSmall { .. } => ("EntityTooSmall", S::BAD_REQUEST),
        StoreError::InvalidPart { .. } => ("InvalidPart", S::BAD_REQUEST),
        StoreError::InvalidPartOrder => ("InvalidPartOrder", S::BAD_REQUEST),
        StoreError::InvalidRange { .. } => ("InvalidRange", S::RANGE_NOT_SATISFIABLE),
        StoreError::BodyRejected { code, .. } => (code, body_status(code)),
        StoreError::BelowQuorum { .. } | StoreError::Unknown { .. } | StoreError::Full { .. } => {
            ("ServiceUnavailable", S::SERVICE_UNAVAILABLE)
        }
        // The engine starts again by itself and never lets it out; it would be safe to repeat.
        StoreError::BucketChanged { .. }
        | StoreError::SetChanged { .. }
        | StoreError::UploadNotOpen => ("OperationAborted", S::CONFLICT),
        StoreError::Overloaded { .. } => ("SlowDown", S::SERVICE_UNAVAILABLE),
        StoreError::Unsupported { .. } => ("NotImplemented", S::NOT_IMPLEMENTED),
        StoreError::Internal { .. } => ("InternalError", S::INTERNAL_SERVER_ERROR),
    }
}

/// What a person reads: what happened, to what, and what to do next.
fn message_of(error: &StoreError) -> String {
    match error {
        StoreError::BodyRejected { message, .. }
        | StoreError::InvalidArgument { message }
        | StoreError::InvalidRequest { message } => message.clone(),
        StoreError::BelowQuorum { .. } => {
            format!("{error}; bring the missing drives back, or repeat later")
        }
        StoreError::Overloaded { .. } => format!("{error}; repeat later, with fewer at once"),
        StoreError::Unknown { .. } => {
            format!("{error}; the request may have taken effect: look, then repeat")
        }
        StoreError::Full { .. } => format!("{error}; delete objects or add drives"),
        StoreError::ConditionalConflict => format!("{error}; look at the key, then repeat"),
        StoreError::Internal { message } => {
            tracing::error!(%message, "request failed by a defect");
            "internal error; the server's log names it under this request id".to_owned()
        }
        _ => error.to_string(),
    }
}

/// The answer for `error`.
pub(crate) fn s3_error(error: StoreError) -> S3Error {
    refusals::note(&error);
    let (code, status) = code_of(&error);
    let mut answer = coded(code, status, message_of(&error));
    let mut headers = HeaderMap::new();
    match &error {
        StoreError::NoSuchKey { delete_marker: true } | StoreError::IsDeleteMarker => {
            headers.insert("x-amz-delete-marker", HeaderValue::from_static("true"));
        }
        StoreError::InvalidRange { size } => {
            insert(&mut headers, header::CONTENT_RANGE, &format!("bytes */{size}"));
        }
        StoreError::NotModified { etag, modified_micros } => {
            insert(&mut headers, header::ETAG, &format!("\"{etag}\""));
            insert(&mut headers, header::LAST_MODIFIED, &convert::http_date(*modified_micros));
        }
        StoreError::Overloaded { .. } => {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        _ => {}
    }
    if !headers.is_empty() {
        // s3s replaces its own headers by these.
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/xml"));
        answer.set_headers(headers);
    }
    answer
}

/// An error with a code that s3s may not know.
pub(crate) fn coded(code: &str, status: StatusCode, message: impl Into<String>) -> S3Error {
    let code = S3ErrorCode::from_bytes(code.as_bytes()).unwrap_or(S3ErrorCode::InternalError);
    let mut error = S3Error::with_message(code, message.into());
    error.set_status_code(status);
    error
}

/// A refusal with status 400.
pub(crate) fn invalid(code: &str, message: impl Into<String>) -> S3Error {
    coded(code, StatusCode::BAD_REQUEST, message)
}

/// The honest answer for what is not there.
pub(crate) fn not_implemented(what: &str) -> S3Error {
    coded("NotImplemented", StatusCode::NOT_IMPLEMENTED, format!("{what} is not implemented"))
}

fn body_status(code: &str) -> StatusCode {
    match code {
        "SignatureDoesNotMatch" => StatusCode::FORBIDDEN,
        "NotImplemented" => StatusCode::NOT_IMPLEMENTED,
        "InternalError" => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::BAD_REQUEST,
    }
}

fn insert(headers: &mut HeaderMap, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what a client may repeat is a 503, with the set and the drives in the message.
    #[test]
    fn below_quorum_names_set_and_drives() {
        let error = StoreError::BelowQuorum {
            set: holdfast_types::SetIndex(3),
            need: 9,
            have: 7,
            detail: "node-2 /mnt/a is down".to_owned(),
        };
        let answer = s3_error(error);
        assert_eq!(answer.status_code(), Some(StatusCode::SERVICE_UNAVAILABLE));
        let message = answer.message().unwrap();
        for word in ["set 3", "need 9", "have 7", "/mnt/a"] {
            assert!(message.contains(word), "{message}");
        }
    }

    #[test]
    fn codes_that_s3s_does_not_know_keep_their_name() {
        let error = StoreError::BodyRejected {
            code: "XAmzContentSHA256Mismatch",
            message: "differs".to_owned(),
        };
        assert_eq!(s3_error(error).code().as_str(), "XAmzContentSHA256Mismatch");
    }
}
