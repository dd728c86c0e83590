//! SigV4: headers, presigned URLs, signed chunks.

use bytes::Bytes;
use hmac::{Hmac, Mac};
use http::Request;
use http_body_util::Full;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use sha2::{Digest, Sha256};
use time::{OffsetDateTime, macros::format_description};

use super::{Call, Payload};

const HOST: &str = "gateway.test";
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
const PATH: &AsciiSet = &QUERY.remove(b'/');

/// A signed request, and what signs its chunks.
pub struct Signed {
    pub request: Request<Full<Bytes>>,
    pub chunks: ChunkSigner,
}

pub struct ChunkSigner {
    date: String,
    scope: String,
    key: Vec<u8>,
    previous: String,
}

fn hash(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn dates(at: u64) -> (String, String) {
    let time = OffsetDateTime::from_unix_timestamp(at as i64).unwrap();
    let long = format_description!("[year][month][day]T[hour][minute][second]Z");
    let short = format_description!("[year][month][day]");
    (time.format(&long).unwrap(), time.format(&short).unwrap())
}

fn key(secret: &str, day: &str) -> Vec<u8> {
    let day = mac(format!("AWS4{secret}").as_bytes(), day);
    mac(&mac(&mac(&day, "us-east-1"), "s3"), "aws4_request")
}

fn canonical_query(query: &[(String, String)]) -> String {
    let encode = |text: &str| utf8_percent_encode(text, QUERY).to_string();
    let mut pairs: Vec<(String, String)> =
        query.iter().map(|(name, value)| (encode(name), encode(value))).collect();
    pairs.sort();
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

fn canonical_path(path: &str) -> String {
    let decoded = percent_decode_str(path).decode_utf8_lossy();
    utf8_percent_encode(&decoded, PATH).to_string()
}

/// Method, path, query, headers, names of headers, hash of the payload: the canonical request.
fn canonical(
    call: &Call,
    query: &str,
    headers: &[(String, String)],
    payload: &str,
) -> (String, String) {
    let mut headers = headers.to_vec();
    headers.sort();
    // Spaces in a row count as one.
    let folded = |value: &str| {
        value.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
    };
    let lines: String =
        headers.iter().map(|(name, value)| format!("{name}:{}\n", folded(value))).collect();
    let names = headers.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(";");
    let path = canonical_path(&call.path);
    let text = format!("{}\n{path}\n{query}\n{lines}\n{names}\n{payload}", call.method);
    (text, names)
}

fn signature(call: &Call, canonical: &str, date: &str, day: &str) -> String {
    let scope = format!("{day}/us-east-1/s3/aws4_request");
    let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hash(canonical.as_bytes()));
    hex::encode(mac(&key(&call.secret_key, day), &text))
}

fn build(call: Call, query: &str, headers: &[(String, String)]) -> Request<Full<Bytes>> {
    let uri = if query.is_empty() { call.path.clone() } else { format!("{}?{query}", call.path) };
    let mut request = Request::builder().method(call.method.as_str()).uri(uri);
    for (name, value) in headers.iter().chain(&call.smuggled) {
        request = request.header(name, value.as_str());
    }
    request.body(Full::new(call.body)).unwrap()
}

pub fn signed(call: Call) -> Signed {
    let (date, day) = dates(call.at);
    let payload = match call.payload {
        Payload::Hash => hash(&call.body),
        Payload::Literal(text) => text.to_owned(),
    };
    let mut headers: Vec<(String, String)> =
        call.headers.iter().map(|(name, value)| (name.to_lowercase(), value.clone())).collect();
    headers.push(("host".to_owned(), HOST.to_owned()));
    headers.push(("x-amz-date".to_owned(), date.clone()));
    headers.push(("x-amz-content-sha256".to_owned(), payload.clone()));
    let query = canonical_query(&call.query);
    let (text, names) = canonical(&call, &query, &headers, &payload);
    let signature = signature(&call, &text, &date, &day);
    let scope = format!("{day}/us-east-1/s3/aws4_request");
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}",
        call.access_key
    );
    let chunks = ChunkSigner { date, scope, key: key(&call.secret_key, &day), previous: signature };
    headers.push(("authorization".to_owned(), authorization));
    Signed { request: build(call, &query, &headers), chunks }
}

pub fn presigned(mut call: Call, expires: i64) -> Request<Full<Bytes>> {
    let (date, day) = dates(call.at);
    let mut headers: Vec<(String, String)> =
        call.headers.iter().map(|(name, value)| (name.to_lowercase(), value.clone())).collect();
    headers.push(("host".to_owned(), HOST.to_owned()));
    let mut names: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    let fields = [
        ("X-Amz-Algorithm", "AWS4-HMAC-SHA256".to_owned()),
        ("X-Amz-Credential", format!("{}/{day}/us-east-1/s3/aws4_request", call.access_key)),
        ("X-Amz-Date", date.clone()),
        ("X-Amz-Expires", expires.to_string()),
        ("X-Amz-SignedHeaders", names.join(";")),
    ];
    call.query.extend(fields.map(|(name, value)| (name.to_owned(), value)));
    let query = canonical_query(&call.query);
    let (text, _) = canonical(&call, &query, &headers, "UNSIGNED-PAYLOAD");
    let signature = signature(&call, &text, &date, &day);
    let query = format!("{query}&X-Amz-Signature={signature}");
    build(call, &query, &headers)
}

impl ChunkSigner {
    /// One chunk with its signature.
    pub fn chunk(&mut self, data: &[u8]) -> Vec<u8> {
        let text = format!(
            "AWS4-HMAC-SHA256-PAYLOAD\n{}\n{}\n{}\n{}\n{}",
            self.date,
            self.scope,
            self.previous,
            hash(b""),
            hash(data)
        );
        self.previous = hex::encode(mac(&self.key, &text));
        let mut out =
            format!("{:x};chunk-signature={}\r\n", data.len(), self.previous).into_bytes();
        out.extend_from_slice(data);
        out.extend_from_slice(b"\r\n");
        out
    }
}
