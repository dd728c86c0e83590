//! Between s3s's values and the store's.

use holdfast_engine::{StoreError, api::NamedChecksum, checksum::Algorithm, meta::Checksum};
use holdfast_types::{OperationId, VersionId};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::{
    S3Result,
    dto::{ChecksumType, ETag, Timestamp, TimestampFormat},
};
use time::OffsetDateTime;

use crate::error::invalid;

const MICROS: i64 = 1_000_000;

/// Last-Modified has whole seconds in HTTP; lists show the same ones.
pub(crate) fn timestamp(micros: u64) -> Timestamp {
    let seconds = i64::try_from(micros).unwrap_or(i64::MAX) / MICROS;
    OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH).into()
}

pub(crate) fn http_date(micros: u64) -> String {
    let mut text = Vec::new();
    let formatted = timestamp(micros).format(TimestampFormat::HttpDate, &mut text);
    formatted.ok().and_then(|()| String::from_utf8(text).ok()).unwrap_or_default()
}

pub(crate) fn etag(tag: &str) -> ETag {
    ETag::Strong(tag.to_owned())
}

pub(crate) fn version(id: Option<&str>) -> S3Result<Option<VersionId>> {
    let Some(id) = id.filter(|id| !id.is_empty()) else { return Ok(None) };
    let version = id.parse().map_err(|_| invalid("InvalidArgument", "invalid version id"))?;
    Ok(Some(version))
}

/// What `x-amz-version-id` says: nothing in an unversioned bucket unless a version was asked for.
pub(crate) fn version_header(version: VersionId, asked: bool) -> Option<String> {
    (asked || version != VersionId::NULL).then(|| version.to_string())
}

/// An id we never gave out names no upload.
pub(crate) fn upload_id(id: &str) -> S3Result<OperationId> {
    id.parse().map_err(|_| crate::error::s3_error(StoreError::NoSuchUpload))
}

pub(crate) fn part_number(number: i32) -> S3Result<u16> {
    let parts_max = holdfast_types::limits::PARTS_MAX;
    u16::try_from(number)
        .ok()
        .filter(|number| (1..=parts_max).contains(&usize::from(*number)))
        .ok_or_else(|| {
            let message = format!("part number must be between 1 and {parts_max}, inclusive");
            invalid("InvalidArgument", message)
        })
}

pub(crate) fn checksum_type(composite: bool) -> ChecksumType {
    let name = if composite { ChecksumType::COMPOSITE } else { ChecksumType::FULL_OBJECT };
    ChecksumType::from_static(name)
}

/// The value of `checksum` when it is of that algorithm.
pub(crate) fn value_of(checksum: &Checksum, algorithm: &str) -> Option<String> {
    (checksum.algorithm == algorithm).then(|| checksum.value.clone())
}

/// Fills the five checksum fields that so many of S3's answers have.
macro_rules! set_checksum {
    ($target:expr, $checksum:expr) => {
        if let Some(checksum) = $checksum {
            $target.checksum_crc32 = $crate::convert::value_of(checksum, "CRC32");
            $target.checksum_crc32c = $crate::convert::value_of(checksum, "CRC32C");
            $target.checksum_crc64nvme = $crate::convert::value_of(checksum, "CRC64NVME");
            $target.checksum_sha1 = $crate::convert::value_of(checksum, "SHA1");
            $target.checksum_sha256 = $crate::convert::value_of(checksum, "SHA256");
        }
    };
}
pub(crate) use set_checksum;

/// The one checksum among the five fields of a request's element.
macro_rules! any_checksum {
    ($source:expr) => {
        $crate::convert::named_checksum([
            (Algorithm::Crc32, $source.checksum_crc32),
            (Algorithm::Crc32c, $source.checksum_crc32c),
            (Algorithm::Crc64Nvme, $source.checksum_crc64nvme),
            (Algorithm::Sha1, $source.checksum_sha1),
            (Algorithm::Sha256, $source.checksum_sha256),
        ])?
    };
}
pub(crate) use any_checksum;

/// More than one could not all be compared with the one that is stored.
pub(crate) fn named_checksum(
    fields: [(Algorithm, Option<String>); 5],
) -> S3Result<Option<NamedChecksum>> {
    let mut given = fields.into_iter().filter_map(|(algorithm, value)| {
        let value = value?;
        Some(NamedChecksum { algorithm, value })
    });
    match (given.next(), given.next()) {
        (first, None) => Ok(first),
        _ => Err(invalid("InvalidRequest", "one checksum is expected, several are given")),
    }
}

/// Everything but unreserved characters and the slash, which S3 leaves readable.
const URL: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');

/// How keys appear in a list: as they are, or percent-encoded under `encoding-type=url`.
#[derive(Clone, Copy)]
pub(crate) struct KeyText {
    url: bool,
}

impl KeyText {
    pub(crate) fn new(encoding: Option<&str>) -> S3Result<Self> {
        match encoding {
            None | Some("") => Ok(Self { url: false }),
            Some("url") => Ok(Self { url: true }),
            Some(_) => Err(invalid("InvalidArgument", "encoding-type can only be url")),
        }
    }

    pub(crate) fn text(self, key: &str) -> String {
        if self.url { utf8_percent_encode(key, URL).to_string() } else { key.to_owned() }
    }

    /// Keys come in as UTF-8; the store keeps bytes.
    pub(crate) fn bytes(self, key: &[u8]) -> String {
        self.text(&String::from_utf8_lossy(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_whole_seconds() {
        assert_eq!(http_date(1_700_000_000_999_999), "Tue, 14 Nov 2023 22:13:20 GMT");
    }

    #[test]
    fn url_encoding_leaves_slashes_and_encodes_plus_and_space() {
        let url = KeyText::new(Some("url")).unwrap();
        assert_eq!(url.text("a b+c/\u{e9}%"), "a%20b%2Bc/%C3%A9%25");
        assert!(KeyText::new(Some("rot13")).is_err());
    }
}
