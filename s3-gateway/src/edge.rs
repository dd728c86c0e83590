//! What is refused before s3s sees it, because s3s would let it through.
//!
//! - an `x-amz-*` header that the signature does not cover: whoever holds a presigned PUT could add
//!   `x-amz-copy-source` and read what the signer may read;
//! - signatures of version 2, session tokens, form uploads, signatures for other services;
//! - headers whose features are not there: ignoring them would be a fake success. Those that nobody knows,
//!   and the parameters of the query, are judged by [`crate::accepted`] once s3s has routed the request.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, request::Parts};
use percent_encoding::percent_decode_str;
use s3s::{S3Error, S3Result};

use crate::{
    digests,
    error::{coded, invalid, not_implemented},
};

/// Headers that proxies and browsers add behind the signer's back and that change nothing here;
/// the payload's hash is compared with the payload by s3s whether it is signed or not.
const MAY_BE_UNSIGNED: [&str; 3] = ["x-amz-content-sha256", "x-amz-user-agent", "x-amz-cf-id"];

/// What stands for a hash of the payload, by the S3 API's page on signatures of version 4.
const PAYLOADS: [&str; 4] = [
    "UNSIGNED-PAYLOAD",
    "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
    "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
    "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
];

/// The longest life of a presigned URL. S3: 7 days.
const PRESIGNED_SECONDS_MAX: i64 = 604_800;

/// A decoded name and value of a query.
pub(crate) type Pair<'q> = (Cow<'q, str>, Cow<'q, str>);

/// Checks a request's head, and moves what a presigned URL carries in its query to the headers.
pub(crate) fn check(parts: &mut Parts, owner: &str) -> S3Result<()> {
    let query = pairs(parts.uri.query().unwrap_or_default());
    refuse_form(parts)?;
    refuse_payload_hash(&parts.headers)?;
    let signed = signed_headers(&parts.headers, &query)?;
    refuse_unsigned(&parts.headers, &signed)?;
    refuse_unrouted(&parts.method, &query)?;
    let hoisted = hoisted(&parts.headers, &query)?;
    parts.headers.extend(hoisted);
    refuse_other_owners(&parts.headers, owner)?;
    refuse_unsupported(&parts.headers)
}

/// Decoded names and values of a query string.
pub(crate) fn pairs(query: &str) -> Vec<Pair<'_>> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name), decoded(value))
        })
        .collect()
}

fn decoded(text: &str) -> Cow<'_, str> {
    percent_decode_str(text).decode_utf8_lossy()
}

fn value<'a>(query: &'a [Pair<'_>], name: &str) -> Option<&'a str> {
    query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_ref())
}

fn refuse_form(parts: &Parts) -> S3Result<()> {
    let kind = parts.headers.get(http::header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let form = kind.is_some_and(|kind| {
        kind.get(..19).is_some_and(|kind| kind.eq_ignore_ascii_case(b"multipart/form-data"))
    });
    if parts.method == Method::POST && form {
        return Err(not_implemented("uploading by HTML form"));
    }
    Ok(())
}

/// s3s takes a hash that is none for a wrong signature, and sends users to their keys.
fn refuse_payload_hash(headers: &HeaderMap) -> S3Result<()> {
    let Some(hash) = headers.get("x-amz-content-sha256").map(HeaderValue::as_bytes) else {
        return Ok(());
    };
    let is_hash = hash.len() == 64 && hash.iter().all(u8::is_ascii_hexdigit);
    if is_hash || PAYLOADS.iter().any(|payload| payload.as_bytes() == hash) {
        return Ok(());
    }
    let message =
        format!("x-amz-content-sha256 must be a SHA-256 in hex, or one of {}", PAYLOADS.join(", "));
    Err(invalid("InvalidArgument", message))
}

/// The names that the request's one signature covers, lower-case.
fn signed_headers(headers: &HeaderMap, query: &[Pair<'_>]) -> S3Result<Vec<String>> {
    let authorization =
        headers.get(http::header::AUTHORIZATION).map(|value| value.to_str().unwrap_or_default());
    let presigned = value(query, "X-Amz-Signature").is_some();
    if headers.contains_key("x-amz-security-token")
        || value(query, "X-Amz-Security-Token").is_some()
    {
        return Err(invalid(
            "InvalidToken",
            "session tokens are not given out here: sign with the long-lived keys alone",
        ));
    }
    let version_2 = authorization.is_some_and(|text| text.starts_with("AWS "));
    if version_2 || value(query, "Signature").is_some() {
        return Err(invalid(
            "InvalidRequest",
            "signatures of version 2 are not supported: use AWS4-HMAC-SHA256; for presigned URLs of boto3 \
             and aws-cli in us-east-1 set signature_version = s3v4",
        ));
    }
    let (credential, names) = match (authorization, presigned) {
        (Some(_), true) => {
            return Err(invalid(
                "InvalidArgument",
                "only one of Authorization header and X-Amz-Signature is allowed",
            ));
        }
        (Some(text), false) => (field(text, "Credential="), field(text, "SignedHeaders=")),
        (None, true) => {
            check_presigned(query)?;
            (value(query, "X-Amz-Credential"), value(query, "X-Amz-SignedHeaders"))
        }
        (None, false) => {
            let message = "anonymous access is off: sign the request";
            return Err(coded("AccessDenied", StatusCode::FORBIDDEN, message));
        }
    };
    check_service(credential)?;
    // What has no such field is malformed; s3s says how.
    Ok(names.unwrap_or_default().split(';').map(str::to_ascii_lowercase).collect())
}

fn field<'a>(authorization: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = authorization.split_once(name)?;
    Some(rest.split([',', ' ']).next().unwrap_or(rest))
}

/// `key/date/region/service/aws4_request`, from the right because keys may hold slashes.
fn check_service(credential: Option<&str>) -> S3Result<()> {
    let service = credential.and_then(|text| text.rsplit('/').nth(1));
    match service {
        None | Some("s3") => Ok(()),
        Some(_) => Err(invalid(
            "AuthorizationHeaderMalformed",
            "the credential is scoped to another service: sign for s3",
        )),
    }
}

/// s3s takes what lacks for a bad request, and another algorithm for a feature.
fn check_presigned(query: &[Pair<'_>]) -> S3Result<()> {
    let bad = |message: String| invalid("AuthorizationQueryParametersError", message);
    let fields = ["Algorithm", "Credential", "Date", "Expires", "SignedHeaders", "Signature"];
    for field in fields {
        let name = format!("X-Amz-{field}");
        if value(query, &name).is_none_or(str::is_empty) {
            return Err(bad(format!("a presigned URL has six parameters, and {name} is missing")));
        }
    }
    if value(query, "X-Amz-Algorithm") != Some("AWS4-HMAC-SHA256") {
        return Err(bad("X-Amz-Algorithm only supports AWS4-HMAC-SHA256".to_owned()));
    }
    check_expiry(value(query, "X-Amz-Expires"))
}

fn check_expiry(expires: Option<&str>) -> S3Result<()> {
    let seconds = expires.and_then(|text| text.parse::<i64>().ok());
    if seconds.is_some_and(|seconds| (1..=PRESIGNED_SECONDS_MAX).contains(&seconds)) {
        return Ok(());
    }
    if seconds.is_some_and(|seconds| seconds < 1) {
        return Err(coded("AccessDenied", StatusCode::FORBIDDEN, "the request has expired"));
    }
    let message = format!("X-Amz-Expires must be between 1 and {PRESIGNED_SECONDS_MAX} seconds");
    Err(invalid("AuthorizationQueryParametersError", message))
}

/// INV-GATE-2.
fn refuse_unsigned(headers: &HeaderMap, signed: &[String]) -> S3Result<()> {
    let covered = |name: &str| signed.iter().any(|known| known == name);
    let unsigned = headers.keys().map(HeaderName::as_str).find(|name| {
        name.starts_with("x-amz-") && !covered(name) && !MAY_BE_UNSIGNED.contains(name)
    });
    match unsigned {
        None if covered("host") => Ok(()),
        None => {
            Err(coded("AccessDenied", StatusCode::FORBIDDEN, "the signature must cover the host"))
        }
        Some(name) => Err(coded(
            "AccessDenied",
            StatusCode::FORBIDDEN,
            format!("header {name} is not covered by the signature: sign it, or leave it out"),
        )),
    }
}

fn refuse_unrouted(method: &Method, query: &[Pair<'_>]) -> S3Result<()> {
    if *method == Method::OPTIONS {
        return Err(not_implemented("cross-origin resource sharing"));
    }
    // Ceph's extension; listing in order obeys it, but nothing rolls up without order.
    if value(query, "allow-unordered") == Some("true") && value(query, "delimiter").is_some() {
        let message = "allow-unordered and delimiter cannot be used together";
        return Err(invalid("InvalidArgument", message));
    }
    Ok(())
}

/// A client that names the owner it expects wants to be refused when there is another one.
fn refuse_other_owners(headers: &HeaderMap, owner: &str) -> S3Result<()> {
    let names = ["x-amz-expected-bucket-owner", "x-amz-source-expected-bucket-owner"];
    let expected = names.iter().filter_map(|name| headers.get(*name));
    if expected.into_iter().all(|expected| expected.as_bytes() == owner.as_bytes()) {
        return Ok(());
    }
    let message = format!("the bucket's owner is not the expected one: here it is {owner}");
    Err(coded("AccessDenied", StatusCode::FORBIDDEN, message))
}

/// SDKs hoist `x-amz-*` headers into the query of a presigned URL, where the signature covers them.
/// Checksums of nothing are left out: SDKs hoist them when there is no body yet, and mean nothing by it.
fn hoisted(headers: &HeaderMap, query: &[Pair<'_>]) -> S3Result<HeaderMap> {
    let mut found = HeaderMap::new();
    for (name, value) in query {
        let name = name.to_ascii_lowercase();
        let meaning = name.strip_prefix("x-amz-").is_some_and(|rest| {
            !matches!(
                rest,
                "algorithm" | "credential" | "date" | "expires" | "signedheaders" | "signature"
            ) && !rest.starts_with("sdk-")
                && !rest.starts_with("content-sha256")
                && !digests::is_of_nothing(&name, value)
        });
        if !meaning || headers.contains_key(&name) {
            continue;
        }
        let bad = |_| invalid("InvalidArgument", format!("query parameter {name} is no header"));
        let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad(()))?;
        found.insert(header, HeaderValue::from_str(value).map_err(|_| bad(()))?);
    }
    Ok(found)
}

fn refuse_unsupported(headers: &HeaderMap) -> S3Result<()> {
    for (name, value) in headers {
        let Some(rest) = name.as_str().strip_prefix("x-amz-") else { continue };
        if let Some(refusal) = unsupported(rest, value.to_str().unwrap_or_default()) {
            return Err(refusal);
        }
    }
    Ok(())
}

/// Why `x-amz-{name}: {value}` cannot be obeyed.
fn unsupported(name: &str, value: &str) -> Option<S3Error> {
    let no_acl = || {
        let message = "access control lists are off (bucket owner enforced): leave the header out";
        Some(invalid("AccessControlListNotSupported", message))
    };
    match name {
        "acl" if !matches!(value, "private" | "bucket-owner-full-control") => no_acl(),
        _ if name.starts_with("grant-") => no_acl(),
        _ if name.starts_with("server-side-encryption")
            || name.starts_with("copy-source-server-side-encryption") =>
        {
            Some(not_implemented("server-side encryption"))
        }
        _ if name.starts_with("object-lock-") => Some(not_implemented("object lock")),
        "bucket-object-lock-enabled" if !value.eq_ignore_ascii_case("false") => {
            Some(not_implemented("object lock"))
        }
        "object-ownership" if value != "BucketOwnerEnforced" => {
            Some(not_implemented("object ownership other than BucketOwnerEnforced"))
        }
        "tagging" if !value.is_empty() => Some(not_implemented("object tagging")),
        "write-offset-bytes" => Some(not_implemented("appending to objects")),
        "mfa" => Some(not_implemented("multi-factor delete")),
        "storage-class" if value != "STANDARD" => Some(invalid(
            "InvalidStorageClass",
            format!("storage class {value} is not available: STANDARD is"),
        )),
        _ => None,
    }
}
