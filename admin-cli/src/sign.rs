//! Signature version 4 of a request without a body. Source: S3 API reference, "Authenticating requests
//! (AWS signature version 4)".

use std::fmt::Write as _;

use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use time::{OffsetDateTime, macros::format_description};

/// The hash of no bytes.
pub(crate) const EMPTY_SHA256: &str =
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Every region is right (holdfast-s3-gateway: the region is only part of what is signed).
const REGION: &str = "us-east-1";

/// What goes into a signature beside the keys.
pub(crate) struct Request<'a> {
    /// `GET` or `POST`.
    pub(crate) method: &'a str,
    /// `Host` header.
    pub(crate) host: &'a str,
    /// Path, unreserved characters and slashes only.
    pub(crate) path: &'a str,
    /// Query in canonical form: [`query`].
    pub(crate) query: &'a str,
    /// Now.
    pub(crate) at: OffsetDateTime,
}

/// `X-Amz-Date` and `Authorization`.
pub(crate) fn headers(request: &Request<'_>, user: &str, password: &str) -> (String, String) {
    let date = dated(request.at);
    let day = date.get(..8).unwrap_or_default();
    let scope = format!("{day}/{REGION}/s3/aws4_request");
    let canonical = format!(
        "{}\n{}\n{}\nhost:{}\nx-amz-content-sha256:{EMPTY_SHA256}\nx-amz-date:{date}\n\n\
         host;x-amz-content-sha256;x-amz-date\n{EMPTY_SHA256}",
        request.method, request.path, request.query, request.host
    );
    let hash = hex::encode(Sha256::digest(canonical));
    let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{hash}");
    let key = [day, REGION, "s3", "aws4_request"]
        .iter()
        .fold(format!("AWS4{password}").into_bytes(), |key, part| mac(&key, part));
    let signature = hex::encode(mac(&key, &text));
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential={user}/{scope}, \
         SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature={signature}"
    );
    (date, authorization)
}

/// Name-value pairs in canonical form; `pairs` must be sorted by name.
pub(crate) fn query(pairs: &[(&str, &str)]) -> String {
    let encoded: Vec<String> =
        pairs.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
    encoded.join("&")
}

fn encode(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
        out
    })
}

fn dated(at: OffsetDateTime) -> String {
    let form = format_description!("[year][month][day]T[hour][minute][second]Z");
    at.format(&form).expect("the description has only components that a date has")
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example "GET Bucket Lifecycle" of S3's "Signature calculations: examples".
    #[test]
    fn signs_the_documented_example() {
        let at = OffsetDateTime::from_unix_timestamp(1_369_353_600).unwrap();
        let request = Request {
            method: "GET",
            host: "examplebucket.s3.amazonaws.com",
            path: "/",
            query: &query(&[("lifecycle", "")]),
            at,
        };
        let secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
        let (date, authorization) = headers(&request, "AKIAIOSFODNN7EXAMPLE", secret);
        assert_eq!(date, "20130524T000000Z");
        let expected = "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543";
        assert!(authorization.ends_with(expected), "{authorization}");
    }

    #[test]
    fn queries_are_encoded_byte_by_byte() {
        assert_eq!(query(&[("key", "a b/\u{e9}+~")]), "key=a%20b%2F%C3%A9%2B~");
    }
}
