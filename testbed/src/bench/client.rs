//! A small S3 client: one HTTP/1.1 connection at a time, signed requests, path-style addresses.
//!
//! Small on purpose: on a machine that it shares with the servers, what the client costs is missing
//! from the measurement. It never repeats a request: an error is a result.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use base64::Engine as _;
use bytes::Bytes;
use holdfast_tls::{peer::explain, roots::server_name};
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{
    content::Window,
    sign::{self, Credentials, UNSIGNED_PAYLOAD, canonical_query, escape_path},
};

/// A request that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum OpError {
    /// The server answered with an error.
    #[error("{status} {code}")]
    Status {
        /// The HTTP status.
        status: StatusCode,
        /// The S3 code of the body, when there is one.
        code: String,
    },
    /// No answer, or half of one.
    #[error("{0}")]
    Transport(String),
    /// The answer is wrong.
    #[error("wrong answer: {0}")]
    Corrupt(String),
}

impl OpError {
    fn transport(error: impl std::fmt::Display) -> Self {
        Self::Transport(error.to_string())
    }
}

/// The body of a request.
#[derive(Clone, Debug)]
pub enum Payload {
    /// Bytes in memory.
    Whole(Option<Bytes>),
    /// An object's content.
    Object(Window),
}

impl Payload {
    /// No body.
    pub const EMPTY: Self = Self::Whole(None);

    fn next_piece(&mut self) -> Option<Bytes> {
        match self {
            Self::Whole(bytes) => bytes.take(),
            Self::Object(window) => window.next_piece(),
        }
    }

    fn len(&self) -> u64 {
        match self {
            Self::Whole(bytes) => bytes.as_ref().map_or(0, |bytes| bytes.len() as u64),
            Self::Object(window) => window.left(),
        }
    }

    fn sha256(&self) -> String {
        let (mut pieces, mut hash) = (self.clone(), Sha256::new());
        while let Some(piece) = pieces.next_piece() {
            hash.update(&piece);
        }
        hex::encode(hash.finalize())
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(self.next_piece().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.len() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.len())
    }
}

/// Where and as whom a client speaks.
#[derive(Clone)]
pub struct Target {
    /// `host:port`.
    pub authority: String,
    /// How to speak TLS with it; `None`: in the clear.
    pub tls: Option<TlsConnector>,
    /// The bucket.
    pub bucket: String,
    /// Who signs.
    pub credentials: Arc<Credentials>,
    /// Whether object bodies are hashed and signed.
    pub sign_payload: bool,
}

/// A page of a list.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Keys in the order they came.
    pub keys: Vec<String>,
    /// Where the next page begins, when there is one.
    pub next: Option<String>,
}

/// A client.
pub struct Client {
    target: Target,
    connection: Option<http1::SendRequest<Payload>>,
}

impl Client {
    /// A client that is not connected yet.
    pub const fn new(target: Target) -> Self {
        Self { target, connection: None }
    }

    /// S3: CreateBucket; a bucket that is there is ours.
    pub async fn create_bucket(&mut self) -> Result<(), OpError> {
        let done = self.whole(Method::PUT, "", &[], &[], Payload::EMPTY).await;
        match done {
            Err(OpError::Status { status: StatusCode::CONFLICT, .. }) | Ok(_) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// S3: PutObject.
    pub async fn put(&mut self, key: &str, content: Window) -> Result<(), OpError> {
        self.whole(Method::PUT, key, &[], &[], Payload::Object(content)).await.map(drop)
    }

    /// S3: GetObject; every byte is compared with `content`.
    pub async fn get(&mut self, key: &str, mut content: Window) -> Result<(), OpError> {
        let limit = timeout(PATIENCE, async {
            let mut response = self.send(Method::GET, key, &[], &[], Payload::EMPTY).await?;
            while let Some(frame) = response.body_mut().frame().await {
                let frame = frame.map_err(OpError::transport)?;
                let Some(bytes) = frame.data_ref() else { continue };
                if !content.matches(bytes) {
                    let left = content.left();
                    return Err(OpError::Corrupt(format!("{key}: differs, {left} bytes to go")));
                }
            }
            Ok(())
        });
        let done = limit.await.unwrap_or_else(|_| Err(OpError::transport("timed out")));
        let done = done.and_then(|()| match content.left() {
            0 => Ok(()),
            left => Err(OpError::Corrupt(format!("{key}: {left} bytes are missing"))),
        });
        self.forget_broken(done)
    }

    /// S3: HeadObject; the size is compared.
    pub async fn head(&mut self, key: &str, size: u64) -> Result<(), OpError> {
        let limit = timeout(PATIENCE, self.send(Method::HEAD, key, &[], &[], Payload::EMPTY));
        let done = limit.await.unwrap_or_else(|_| Err(OpError::transport("timed out")));
        let response = self.forget_broken(done)?;
        let length = response.headers().get(http::header::CONTENT_LENGTH);
        let length = length.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if length != Some(size) {
            return Err(OpError::Corrupt(format!("{key}: size {length:?}, expected {size}")));
        }
        Ok(())
    }

    /// S3: DeleteObject.
    pub async fn delete(&mut self, key: &str) -> Result<(), OpError> {
        self.whole(Method::DELETE, key, &[], &[], Payload::EMPTY).await.map(drop)
    }

    /// S3: DeleteObjects in quiet mode; any key that was not deleted is an error.
    pub async fn delete_many(&mut self, keys: &[String]) -> Result<(), OpError> {
        let objects: String =
            keys.iter().map(|key| format!("<Object><Key>{key}</Key></Object>")).collect();
        let xml = format!("<Delete><Quiet>true</Quiet>{objects}</Delete>");
        let digest = base64::engine::general_purpose::STANDARD.encode(Sha256::digest(&xml));
        let headers = [("x-amz-checksum-sha256", digest)];
        let payload = Payload::Whole(Some(xml.into()));
        let body = self.whole(Method::POST, "", &[("delete", "")], &headers, payload).await?;
        match texts(&body, "Code").first() {
            Some(code) => Err(OpError::Corrupt(format!("a key was not deleted: {code}"))),
            None => Ok(()),
        }
    }

    /// S3: ListObjectsV2, one page of at most 1,000 keys.
    pub async fn list(&mut self, prefix: &str, token: Option<&str>) -> Result<Page, OpError> {
        let mut query = vec![("list-type", "2"), ("prefix", prefix), ("max-keys", "1000")];
        query.extend(token.map(|token| ("continuation-token", token)));
        let body = self.whole(Method::GET, "", &query, &[], Payload::EMPTY).await?;
        let truncated = texts(&body, "IsTruncated").first().is_some_and(|text| text == "true");
        let next = texts(&body, "NextContinuationToken").into_iter().next();
        if truncated != next.is_some() {
            return Err(OpError::Corrupt("IsTruncated and token contradict".to_owned()));
        }
        Ok(Page { keys: texts(&body, "Key"), next })
    }

    /// A signed request to this client's server.
    pub(super) fn request(
        &self,
        method: Method,
        key: &str,
        query: &[(&str, &str)],
        headers: &[(&str, String)],
        payload: Payload,
    ) -> Result<Request<Payload>, OpError> {
        self.target.request(method, key, query, headers, payload)
    }

    /// Gives up the connection: its state is unknown.
    pub(super) fn disconnect(&mut self) {
        self.connection = None;
    }

    /// Sends a request and reads the whole answer.
    async fn whole(
        &mut self,
        method: Method,
        key: &str,
        query: &[(&str, &str)],
        headers: &[(&str, String)],
        payload: Payload,
    ) -> Result<String, OpError> {
        let limit = timeout(PATIENCE, async {
            let response = self.send(method, key, query, headers, payload).await?;
            let body = response.into_body().collect().await.map_err(OpError::transport)?;
            Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned())
        });
        let done = limit.await.unwrap_or_else(|_| Err(OpError::transport("timed out")));
        self.forget_broken(done)
    }

    /// Gives up the connection after an error that leaves its state unknown.
    fn forget_broken<T>(&mut self, done: Result<T, OpError>) -> Result<T, OpError> {
        if matches!(done, Err(OpError::Transport(_) | OpError::Corrupt(_))) {
            self.connection = None;
        }
        done
    }

    /// Signs and sends a request; an answer that is not 2xx is an error.
    async fn send(
        &mut self,
        method: Method,
        key: &str,
        query: &[(&str, &str)],
        headers: &[(&str, String)],
        payload: Payload,
    ) -> Result<Response<Incoming>, OpError> {
        let request = self.target.request(method, key, query, headers, payload)?;
        let connection = self.connect().await?;
        let mut response = connection.send_request(request).await.map_err(OpError::transport)?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.body_mut().collect().await.map_err(OpError::transport)?;
        let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        let code = texts(&body, "Code").into_iter().next().unwrap_or_default();
        Err(OpError::Status { status, code })
    }

    /// The connection, made anew when there is none that can take a request.
    pub(super) async fn connect(&mut self) -> Result<&mut http1::SendRequest<Payload>, OpError> {
        let usable = match &mut self.connection {
            Some(connection) => connection.ready().await.is_ok(),
            None => false,
        };
        if !usable {
            let stream =
                TcpStream::connect(&self.target.authority).await.map_err(OpError::transport)?;
            stream.set_nodelay(true).map_err(OpError::transport)?;
            self.connection = Some(self.target.talk(stream).await?);
        }
        Ok(self.connection.as_mut().expect("just made or found usable"))
    }
}

async fn talk<S>(stream: S) -> Result<http1::SendRequest<Payload>, OpError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(OpError::transport)?;
    // Ends with the connection; its errors reach us through the sender.
    tokio::spawn(connection);
    Ok(sender)
}

impl Target {
    /// HTTP over a new connection, within TLS where that is wanted.
    async fn talk(&self, stream: TcpStream) -> Result<http1::SendRequest<Payload>, OpError> {
        let Some(tls) = &self.tls else { return talk(stream).await };
        let name = server_name(&self.authority).map_err(OpError::transport)?;
        let stream = tls.connect(name, stream).await.map_err(|error| {
            let url = format!("https://{}", self.authority);
            OpError::Transport(explain(&error, &url, "the file that --ca names"))
        })?;
        talk(stream).await
    }

    /// A signed request.
    fn request(
        &self,
        method: Method,
        key: &str,
        query: &[(&str, &str)],
        headers: &[(&str, String)],
        payload: Payload,
    ) -> Result<Request<Payload>, OpError> {
        let slash = if key.is_empty() { "" } else { "/" };
        let path = escape_path(&format!("/{}{slash}{key}", self.bucket));
        let query = canonical_query(query);
        let hash = match payload {
            Payload::Object(_) if !self.sign_payload => UNSIGNED_PAYLOAD.to_owned(),
            _ => payload.sha256(),
        };
        let date = amz_date(time::OffsetDateTime::now_utc());
        let mut signed: Vec<(&str, &str)> =
            vec![("host", &self.authority), ("x-amz-content-sha256", &hash), ("x-amz-date", &date)];
        signed.extend(headers.iter().map(|(name, value)| (*name, value.as_str())));
        let authorization = self.credentials.authorization(&sign::Request {
            method: method.as_str(),
            path: &path,
            query: &query,
            headers: &signed,
            payload_hash: &hash,
            date: &date,
        });
        let mark = if query.is_empty() { "" } else { "?" };
        let mut request = Request::builder().method(method).uri(format!("{path}{mark}{query}"));
        for (name, value) in signed {
            request = request.header(name, value);
        }
        request.header("authorization", authorization).body(payload).map_err(OpError::transport)
    }
}

/// `20130524T000000Z`.
fn amz_date(now: time::OffsetDateTime) -> String {
    const FORMAT: &[time::format_description::BorrowedFormatItem<'_>] =
        time::macros::format_description!("[year][month][day]T[hour][minute][second]Z");
    now.format(FORMAT).expect("a date has a year, a month and so on")
}

/// The texts of all elements `name` of an S3 answer, in order. S3's answers never nest an element in
/// one of the same name, and ours carry no attributes on those we read.
pub(super) fn texts(xml: &str, name: &str) -> Vec<String> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let inside = |piece: &str| piece.split_once(&close).map(|(text, _)| unescape(text));
    xml.split(&open).skip(1).filter_map(inside).collect()
}

/// Resolves the five entities of XML.
fn unescape(text: &str) -> String {
    let entities =
        [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&amp;", "&")];
    entities.iter().fold(text.to_owned(), |text, (entity, char)| text.replace(entity, char))
}

/// Clients for `count` workers, spread over the endpoints in turn.
pub fn clients(targets: &[Target], count: usize) -> VecDeque<Client> {
    targets.iter().cycle().take(count).cloned().map(Client::new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: lists are read. Method: an answer as S3 sends it.
    #[test]
    fn answers_are_read() {
        let xml = "<?xml version=\"1.0\"?><ListBucketResult xmlns=\"http://x\"><KeyCount>2</KeyCount>\
                   <Contents><Key>a</Key></Contents><Contents><Key>b&amp;lt;</Key></Contents>\
                   </ListBucketResult>";
        assert_eq!(texts(xml, "Key"), ["a", "b&lt;"]);
        assert!(texts(xml, "Code").is_empty());
        let at = time::macros::datetime!(2013-05-24 01:02:03 UTC);
        assert_eq!(amz_date(at), "20130524T010203Z");
    }
}
