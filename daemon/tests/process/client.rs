//! Just enough S3 to put and get: one request a connection, signature version 4.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use hmac::{Hmac, Mac};
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use sha2::{Digest, Sha256};

pub const USER: &str = "operator";
pub const PASSWORD: &str = "a good password";

pub struct Client {
    pub address: SocketAddr,
    pub tls: Option<Arc<ClientConfig>>,
    pub user: String,
    pub password: String,
}

impl Client {
    pub fn new(address: SocketAddr) -> Self {
        Self { address, tls: None, user: USER.to_owned(), password: PASSWORD.to_owned() }
    }

    pub fn with_tls(address: SocketAddr, tls: Arc<ClientConfig>) -> Self {
        Self { tls: Some(tls), ..Self::new(address) }
    }

    /// Status and body of a signed request; 0 when there was no answer. A query is to be given as it is
    /// signed: names in order, everything encoded.
    pub fn request(&self, method: &str, path: &str, body: &[u8]) -> (u16, Vec<u8>) {
        self.request_with(method, path, body, "")
    }

    /// The same with more headers, which are not signed: whole lines.
    pub fn request_with(
        &self,
        method: &str,
        path: &str,
        body: &[u8],
        more: &str,
    ) -> (u16, Vec<u8>) {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let (day, time) = (date(seconds), clock(seconds));
        let stamp = format!("{day}T{time}Z");
        let (host, digest) = (self.address.to_string(), hex(&Sha256::digest(body)));
        let headers = format!("host:{host}\nx-amz-content-sha256:{digest}\nx-amz-date:{stamp}\n");
        let names = "host;x-amz-content-sha256;x-amz-date";
        let (plain, query) = path.split_once('?').unwrap_or((path, ""));
        let canonical = format!("{method}\n{plain}\n{query}\n{headers}\n{names}\n{digest}");
        let scope = format!("{day}/us-east-1/s3/aws4_request");
        let to_sign =
            format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{}", hex(&Sha256::digest(canonical)));
        let mut key = format!("AWS4{}", self.password).into_bytes();
        for part in [&day[..], "us-east-1", "s3", "aws4_request"] {
            key = mac(&key, part.as_bytes());
        }
        let signature = hex(&mac(&key, to_sign.as_bytes()));
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{more}\
             x-amz-content-sha256: {digest}\r\nx-amz-date: {stamp}\r\ncontent-length: {}\r\n\
             authorization: AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, \
             Signature={signature}\r\n\r\n",
            body.len(),
            self.user
        );
        exchange(self.address, self.tls.as_ref(), &head, body)
    }
}

/// Status and body of an unsigned GET in the clear.
pub fn get(address: SocketAddr, path: &str) -> (u16, Vec<u8>) {
    get_over(address, None, path)
}

/// Status and body of an unsigned GET.
pub fn get_over(
    address: SocketAddr,
    tls: Option<&Arc<ClientConfig>>,
    path: &str,
) -> (u16, Vec<u8>) {
    let head = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    exchange(address, tls, &head, &[])
}

fn spoken(mut stream: impl Read + Write, head: &str, body: &[u8]) -> std::io::Result<Vec<u8>> {
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    stream.flush()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

fn exchange(
    address: SocketAddr,
    tls: Option<&Arc<ClientConfig>>,
    head: &str,
    body: &[u8],
) -> (u16, Vec<u8>) {
    let answered = || -> std::io::Result<Vec<u8>> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let Some(tls) = tls else { return spoken(stream, head, body) };
        let connection = ClientConnection::new(tls.clone(), address.ip().into());
        let connection = connection.map_err(std::io::Error::other)?;
        spoken(StreamOwned::new(connection, stream), head, body)
    };
    let Ok(answer) = answered() else { return (0, Vec::new()) };
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
        return (0, Vec::new());
    };
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    let body = &answer[end + 4..];
    let body =
        if head.contains("transfer-encoding: chunked") { unchunk(body) } else { body.into() };
    (status, body)
}

fn unchunk(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = rest.windows(2).position(|two| two == b"\r\n") {
        let size = usize::from_str_radix(&String::from_utf8_lossy(&rest[..end]), 16).unwrap_or(0);
        if size == 0 {
            break;
        }
        body.extend_from_slice(&rest[end + 2..end + 2 + size]);
        rest = &rest[end + 4 + size..];
    }
    body
}

fn mac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mut code = Hmac::<Sha256>::new_from_slice(key).expect("any length");
    code.update(text);
    code.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn clock(seconds: u64) -> String {
    let of_day = seconds % 86_400;
    format!("{:02}{:02}{:02}", of_day / 3600, of_day / 60 % 60, of_day % 60)
}

/// The civil date of a day (Howard Hinnant's `civil_from_days`).
fn date(seconds: u64) -> String {
    let days = seconds / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}{month:02}{day:02}")
}

/// Tries of a request that a death or a change of members may answer by 503: stock clients repeat it.
const TRIES: usize = 12;

/// Tries a request until it is answered otherwise than by 503 or silence.
pub fn patiently(client: &Client, method: &str, path: &str, body: &[u8]) -> (u16, Vec<u8>) {
    let mut answer = (0, Vec::new());
    for _ in 0..TRIES {
        answer = client.request(method, path, body);
        if !matches!(answer.0, 0 | 503) {
            break;
        }
        std::thread::sleep(Duration::from_millis(250));
    }
    answer
}
