//! What a client announced of its body: length, Content-MD5, an additional checksum by header or by
//! trailer.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use holdfast_engine::checksum::{Algorithm, Digester};
use http::HeaderMap;
use s3s::S3Result;

use crate::error::invalid;

/// Headers of a body's checksum begin so.
const CHECKSUM_PREFIX: &str = "x-amz-checksum-";

/// Headers that begin so and hold no checksum.
const NO_CHECKSUMS: [&str; 3] =
    ["x-amz-checksum-algorithm", "x-amz-checksum-mode", "x-amz-checksum-type"];

/// Where the value of the additional checksum comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ChecksumSource {
    /// A header: the value is known.
    Header(String),
    /// A trailer behind the body.
    Trailer,
    /// Nowhere: it is computed for the client.
    Computed,
}

/// The announcements of one body.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Announced {
    pub(crate) length: Option<u64>,
    /// In hex, as entity tags are.
    pub(crate) md5: Option<String>,
    pub(crate) checksum: Option<(Algorithm, ChecksumSource)>,
}

impl Announced {
    /// Reads the headers of a PUT or of a request with an XML body.
    pub(crate) fn from_headers(headers: &HeaderMap) -> S3Result<Self> {
        Ok(Self { length: length(headers)?, md5: md5(headers)?, checksum: checksum(headers)? })
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim)
}

/// The header of a checksum's value.
pub(crate) fn header_name(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::Crc32 => "x-amz-checksum-crc32",
        Algorithm::Crc32c => "x-amz-checksum-crc32c",
        Algorithm::Crc64Nvme => "x-amz-checksum-crc64nvme",
        Algorithm::Sha1 => "x-amz-checksum-sha1",
        Algorithm::Sha256 => "x-amz-checksum-sha256",
    }
}

/// Whether `name: value` is the checksum of an empty body.
pub(crate) fn is_of_nothing(name: &str, value: &str) -> bool {
    let algorithm = Algorithm::ALL.into_iter().find(|algorithm| header_name(*algorithm) == name);
    algorithm.is_some_and(|algorithm| {
        let nothing = Digester::new(Some(algorithm)).finish().checksum;
        nothing.is_some_and(|nothing| nothing.value == value)
    })
}

/// Bytes of the body itself, without aws-chunked framing.
fn length(headers: &HeaderMap) -> S3Result<Option<u64>> {
    let decoded = text(headers, "x-amz-decoded-content-length");
    let Some(length) = decoded.or_else(|| text(headers, "content-length")) else {
        return Ok(None);
    };
    let bad = |_| invalid("InvalidArgument", format!("content length {length:?} is no number"));
    length.parse().map(Some).map_err(bad)
}

fn md5(headers: &HeaderMap) -> S3Result<Option<String>> {
    let Some(value) = headers.get("content-md5") else { return Ok(None) };
    let digest = BASE64.decode(value.as_bytes()).ok().filter(|raw| raw.len() == 16);
    digest.map(|raw| Some(hex::encode(raw))).ok_or_else(|| {
        invalid("InvalidDigest", "the Content-MD5 you specified is not base64 of 16 bytes")
    })
}

/// A checksum of a kind that is not known cannot be verified: to take the bytes all the same would let
/// the client believe that it was.
fn refuse_unknown(headers: &HeaderMap) -> S3Result<()> {
    let sent = headers.keys().map(http::HeaderName::as_str);
    let announced = headers.get_all("x-amz-trailer").iter().filter_map(|names| names.to_str().ok());
    let announced = announced.flat_map(|names| names.split(',')).map(str::trim);
    for name in sent.chain(announced) {
        let Some(kind) = name.get(..CHECKSUM_PREFIX.len()) else { continue };
        let is_checksum = kind.eq_ignore_ascii_case(CHECKSUM_PREFIX);
        let of_known = Algorithm::ALL.into_iter().map(header_name);
        let known = || of_known.chain(NO_CHECKSUMS).any(|known| known.eq_ignore_ascii_case(name));
        if is_checksum && !known() {
            let message = format!("{name}: a checksum of a kind that this server does not know");
            return Err(invalid("InvalidRequest", message));
        }
    }
    Ok(())
}

fn checksum(headers: &HeaderMap) -> S3Result<Option<(Algorithm, ChecksumSource)>> {
    refuse_unknown(headers)?;
    let by_header: Vec<Algorithm> = Algorithm::ALL
        .into_iter()
        .filter(|algorithm| headers.contains_key(header_name(*algorithm)))
        .collect();
    let by_trailer = trailer(headers);
    let asked = asked(headers)?;
    let found = match (by_header.as_slice(), by_trailer) {
        ([], None) if is_lost(headers) => {
            let message = "x-amz-sdk-checksum-algorithm specified, but no corresponding \
                           x-amz-checksum-* or x-amz-trailer headers were found";
            return Err(invalid("InvalidRequest", message));
        }
        ([], None) => asked.map(|algorithm| (algorithm, ChecksumSource::Computed)),
        ([], Some(algorithm)) => Some((algorithm, ChecksumSource::Trailer)),
        ([algorithm], None) => {
            let value = text(headers, header_name(*algorithm)).unwrap_or_default();
            if algorithm.parse_value(value).is_none() {
                let name = header_name(*algorithm);
                let message = format!("value for {name} header is invalid");
                return Err(invalid("BadDigest", message));
            }
            Some((*algorithm, ChecksumSource::Header(value.to_owned())))
        }
        _ => {
            return Err(invalid(
                "InvalidRequest",
                "expecting a single x-amz-checksum- header: multiple checksums are not allowed",
            ));
        }
    };
    match (&found, asked) {
        (Some((algorithm, _)), Some(asked)) if *algorithm != asked => Err(invalid(
            "InvalidRequest",
            format!("algorithm {} was announced, {} was sent", asked.name(), algorithm.name()),
        )),
        _ => Ok(found),
    }
}

/// Whether the client says that it sends a checksum, and none came: what was to protect the body got lost.
fn is_lost(headers: &HeaderMap) -> bool {
    let said = text(headers, "x-amz-sdk-checksum-algorithm").is_some_and(|name| !name.is_empty());
    said && !headers.contains_key("content-md5")
}

fn trailer(headers: &HeaderMap) -> Option<Algorithm> {
    let names = text(headers, "x-amz-trailer")?;
    names.split(',').find_map(|name| {
        let name = name.trim();
        Algorithm::ALL
            .into_iter()
            .find(|algorithm| header_name(*algorithm).eq_ignore_ascii_case(name))
    })
}

/// `x-amz-sdk-checksum-algorithm` of uploads, `x-amz-checksum-algorithm` of copies and multipart
/// uploads.
pub(crate) fn asked(headers: &HeaderMap) -> S3Result<Option<Algorithm>> {
    let name = text(headers, "x-amz-sdk-checksum-algorithm")
        .or_else(|| text(headers, "x-amz-checksum-algorithm"));
    let Some(name) = name.filter(|name| !name.is_empty()) else { return Ok(None) };
    Algorithm::by_name(&name.to_ascii_uppercase())
        .map(Some)
        .ok_or_else(|| invalid("InvalidRequest", format!("checksum algorithm {name} is unknown")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn sources_of_a_checksum() {
        let crc = Algorithm::Crc32;
        let cases = [
            (
                &[("x-amz-checksum-crc32", "AAAAAA==")][..],
                ChecksumSource::Header("AAAAAA==".into()),
            ),
            (&[("x-amz-trailer", "x-amz-checksum-crc32")], ChecksumSource::Trailer),
            (&[("x-amz-checksum-algorithm", "crc32")], ChecksumSource::Computed),
        ];
        for (given, source) in cases {
            let found = Announced::from_headers(&headers(given)).unwrap().checksum;
            assert_eq!(found, Some((crc, source)));
        }
    }

    #[test]
    fn contradictions_are_refused() {
        let cases: [(&[(&str, &str)], &str); 8] = [
            (&[("x-amz-sdk-checksum-algorithm", "CRC32")], "InvalidRequest"),
            (&[("x-amz-checksum-md5", "abcd")], "InvalidRequest"),
            (&[("x-amz-trailer", "x-amz-checksum-xxhash64")], "InvalidRequest"),
            (&[("x-amz-checksum-crc32", "AAAA")], "BadDigest"),
            (
                &[("x-amz-checksum-crc32", "AAAAAA=="), ("x-amz-checksum-crc32c", "AAAAAA==")],
                "InvalidRequest",
            ),
            (
                &[("x-amz-checksum-crc32", "AAAAAA=="), ("x-amz-sdk-checksum-algorithm", "SHA1")],
                "InvalidRequest",
            ),
            (&[("content-md5", "rubbish")], "InvalidDigest"),
            (&[("content-md5", "AAAA")], "InvalidDigest"),
        ];
        for (given, code) in cases {
            let given: HeaderMap = given
                .iter()
                .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
                .collect::<HeaderMap>();
            let error = Announced::from_headers(&given).unwrap_err();
            assert_eq!(error.code().as_str(), code, "{given:?}");
        }
    }
}
