//! AWS Signature Version 4 in the Authorization header (S3 API, "Authenticating Requests: Using the
//! Authorization Header").

use hmac::{Hmac, Mac as _};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest as _, Sha256};

/// What a body that is not signed is signed as.
pub const UNSIGNED_PAYLOAD: &str = "UNSIGNED-PAYLOAD";

/// Characters that a query must escape: all but A-Z, a-z, 0-9, `-`, `.`, `_`, `~`.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// Characters that a path must escape.
const PATH: &AsciiSet = &QUERY.remove(b'/');

/// Who signs.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// Access key.
    pub access_key: String,
    /// Secret key.
    pub secret_key: String,
    /// Region of the scope.
    pub region: String,
}

/// What is signed.
pub struct Request<'a> {
    /// `GET` and so on.
    pub method: &'a str,
    /// Escaped by [`escape_path`].
    pub path: &'a str,
    /// Made by [`canonical_query`].
    pub query: &'a str,
    /// Names in lower case with their values, in any order; all of them are signed.
    pub headers: &'a [(&'a str, &'a str)],
    /// SHA-256 of the body in hexadecimal, or [`UNSIGNED_PAYLOAD`].
    pub payload_hash: &'a str,
    /// `20130524T000000Z`.
    pub date: &'a str,
}

impl Credentials {
    /// The value of the Authorization header.
    pub fn authorization(&self, request: &Request<'_>) -> String {
        let mut headers = request.headers.to_vec();
        headers.sort_unstable();
        let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
        let names = names.join(";");
        let lines: String =
            headers.iter().map(|(name, value)| format!("{name}:{}\n", value.trim())).collect();
        let Request { method, path, query, payload_hash, date, .. } = request;
        let canonical = format!("{method}\n{path}\n{query}\n{lines}\n{names}\n{payload_hash}");
        let day = &date[..8];
        let scope = format!("{day}/{}/s3/aws4_request", self.region);
        let hash = sha256_hex(canonical.as_bytes());
        let signed = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{hash}");
        let key = self.signing_key(day);
        let signature = hex::encode(hmac(&key, signed.as_bytes()));
        let access_key = &self.access_key;
        format!(
            "AWS4-HMAC-SHA256 Credential={access_key}/{scope},SignedHeaders={names},Signature={signature}"
        )
    }

    fn signing_key(&self, day: &str) -> [u8; 32] {
        let key = hmac(format!("AWS4{}", self.secret_key).as_bytes(), day.as_bytes());
        let key = hmac(&key, self.region.as_bytes());
        let key = hmac(&key, b"s3");
        hmac(&key, b"aws4_request")
    }
}

/// A path with what must be escaped escaped.
pub fn escape_path(path: &str) -> String {
    utf8_percent_encode(path, PATH).to_string()
}

/// Parameters escaped and in order.
pub fn canonical_query(parameters: &[(&str, &str)]) -> String {
    let escape = |text: &str| utf8_percent_encode(text, QUERY).to_string();
    let pair = |(name, value): &(&str, &str)| format!("{}={}", escape(name), escape(value));
    let mut pairs: Vec<String> = parameters.iter().map(pair).collect();
    pairs.sort_unstable();
    pairs.join("&")
}

/// SHA-256 in hexadecimal.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const WELCOME: &str = "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072";
    const HOST: (&str, &str) = ("host", "examplebucket.s3.amazonaws.com");
    const AT: &str = "20130524T000000Z";

    /// Goal: signatures are AWS's. Method: the four examples of the S3 API's page "Signature
    /// Calculations for the Authorization Header: Transferring Payload in a Single Chunk".
    #[test]
    fn the_published_examples() {
        let credentials = Credentials {
            access_key: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned(),
            region: "us-east-1".to_owned(),
        };
        let date = ("x-amz-date", AT);
        let empty = ("x-amz-content-sha256", EMPTY);
        let put: [(&str, &str); 5] = [
            HOST,
            ("date", "Fri, 24 May 2013 00:00:00 GMT"),
            date,
            ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
            ("x-amz-content-sha256", WELCOME),
        ];
        let examples: [(&str, &str, String, &[(&str, &str)], &str); 4] = [
            (
                "GET",
                "/test.txt",
                String::new(),
                &[HOST, ("range", "bytes=0-9"), empty, date],
                "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
            ),
            (
                "PUT",
                "/test$file.text",
                String::new(),
                &put,
                "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
            ),
            (
                "GET",
                "/",
                canonical_query(&[("lifecycle", "")]),
                &[HOST, empty, date],
                "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
            ),
            (
                "GET",
                "/",
                canonical_query(&[("prefix", "J"), ("max-keys", "2")]),
                &[HOST, empty, date],
                "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
            ),
        ];
        for (method, path, query, headers, signature) in examples {
            let path = escape_path(path);
            let payload_hash = if method == "PUT" { WELCOME } else { EMPTY };
            let (path, query) = (&path[..], &query[..]);
            let request = Request { method, path, query, headers, payload_hash, date: AT };
            let header = credentials.authorization(&request);
            assert!(
                header.ends_with(&format!("Signature={signature}")),
                "{method} {path} {header}"
            );
            let scope = "Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,";
            assert!(header.contains(scope), "{header}");
        }
        assert_eq!(sha256_hex(b"Welcome to Amazon S3."), WELCOME);
    }

    /// Goal: escapes are AWS's. Method: all that is special.
    #[test]
    fn escapes() {
        assert_eq!(escape_path("/b/a b+c~d-e_f.g/ü%"), "/b/a%20b%2Bc~d-e_f.g/%C3%BC%25");
        assert_eq!(canonical_query(&[("b", "x/y"), ("a", "=&")]), "a=%3D%26&b=x%2Fy");
    }
}
