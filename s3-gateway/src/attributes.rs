//! Headers and user metadata of an object, in and out.

use std::collections::HashMap;

use holdfast_engine::{api::ObjectAttributes, meta::ObjectMeta};
use holdfast_types::limits::USER_METADATA_BYTES_MAX;
use http::{HeaderMap, HeaderValue};
use s3s::{S3Result, dto::Metadata};

use crate::{error::invalid, told::Told};

/// Kept as sent. `content-encoding` loses the `aws-chunked` that was only about the way here.
pub(crate) const KEPT: [&str; 7] = [
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
    "expires",
    "x-amz-website-redirect-location",
];

/// S3's content type of objects sent without one.
pub(crate) const DEFAULT_CONTENT_TYPE: &str = "binary/octet-stream";

/// Reads what a PUT, a multipart upload or a replacing copy gives its object.
pub(crate) fn from_request(
    told: &Told<'_>,
    metadata: Option<Metadata>,
) -> S3Result<ObjectAttributes> {
    let mut kept = HashMap::new();
    for name in KEPT {
        let Some(value) = told.get(name) else { continue };
        let value = std::str::from_utf8(value.as_bytes())
            .map_err(|_| invalid("InvalidArgument", format!("header {name} is not UTF-8")))?;
        let value = if name == "content-encoding" { own_encodings(value) } else { value.into() };
        if !value.is_empty() {
            kept.insert(name.to_owned(), value);
        }
    }
    let user: HashMap<String, String> = metadata.unwrap_or_default().into_iter().collect();
    let bytes: usize = user.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > USER_METADATA_BYTES_MAX {
        let message = format!(
            "user metadata has {bytes} bytes of names and values, {USER_METADATA_BYTES_MAX} are allowed"
        );
        return Err(invalid("MetadataTooLarge", message));
    }
    Ok(ObjectAttributes { headers: kept, user })
}

fn own_encodings(value: &str) -> String {
    if !value.to_ascii_lowercase().contains("aws-chunked") {
        return value.to_owned();
    }
    let own: Vec<&str> = value
        .split(',')
        .map(str::trim)
        .filter(|encoding| !encoding.eq_ignore_ascii_case("aws-chunked") && !encoding.is_empty())
        .collect();
    own.join(", ")
}

/// The stored header of that name.
pub(crate) fn header(meta: &ObjectMeta, name: &str) -> Option<String> {
    meta.headers.get(name).cloned()
}

/// The content type that GET and HEAD show.
pub(crate) fn content_type(meta: &ObjectMeta) -> String {
    header(meta, "content-type").unwrap_or_else(|| DEFAULT_CONTENT_TYPE.to_owned())
}

/// User metadata that GET and HEAD show.
pub(crate) fn user(meta: &ObjectMeta) -> Option<Metadata> {
    (!meta.user.is_empty())
        .then(|| meta.user.iter().map(|(name, value)| (name.clone(), value.clone())).collect())
}

/// `Expires` as it was sent: s3s would only pass on a date.
pub(crate) fn expires(meta: &ObjectMeta) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let value = meta.headers.get("expires").and_then(|value| HeaderValue::from_str(value).ok());
    if let Some(value) = value {
        headers.insert(http::header::EXPIRES, value);
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aws_chunked_is_not_the_objects_encoding() {
        for (sent, kept) in [("aws-chunked", ""), ("gzip, aws-chunked", "gzip"), ("a,b", "a,b")] {
            assert_eq!(own_encodings(sent), kept);
        }
    }

    #[test]
    fn metadata_is_bounded() {
        let (headers, extensions) = (HeaderMap::new(), http::Extensions::new());
        let told = Told::new(&headers, &extensions);
        let of = |bytes: usize| Metadata::from_iter([("k".to_owned(), "v".repeat(bytes - 1))]);
        assert!(from_request(&told, Some(of(USER_METADATA_BYTES_MAX))).is_ok());
        let error = from_request(&told, Some(of(USER_METADATA_BYTES_MAX + 1))).unwrap_err();
        assert_eq!(error.code().as_str(), "MetadataTooLarge");
    }
}
