//! A client for the gateway's tests: HTTP/1 over a pipe in memory, signed by a small SigV4 signer of its
//! own (written from S3's "Authenticating Requests", not from s3s), so that the two check each other.

// Every test binary compiles this and none uses all of it.
#![allow(dead_code)]

pub mod sign;

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use holdfast_s3_gateway::{
    GatewayConfig, GatewayService, RootCredentials, service, testing::MemoryStore,
};
use holdfast_types::seam::{Clock, ManualClock, SeededRandom};
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;

pub const ACCESS_KEY: &str = "root-user";
pub const SECRET_KEY: &str = "root-password";

/// Seconds since the epoch: s3s compares signatures with the machine's own clock.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A gateway over an empty in-memory store.
pub struct Harness {
    pub service: GatewayService,
}

impl Harness {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut GatewayConfig)) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(now() * 1_000_000));
        let random = Arc::new(SeededRandom::new(7));
        let store = Arc::new(MemoryStore::new(Arc::clone(&clock), random.clone()));
        let root = RootCredentials::new(ACCESS_KEY, SECRET_KEY);
        let mut config = GatewayConfig::new(root, clock, random);
        change(&mut config);
        Self { service: service(store, config) }
    }

    /// A gateway with bucket `bkt`.
    pub async fn with_bucket() -> Self {
        let harness = Self::new();
        let made = Call::new("PUT", "/bkt").send(&harness).await;
        assert_eq!(made.status, 200, "{made:?}");
        harness
    }

    /// Sends over a connection of its own.
    pub async fn exchange(&self, request: Request<Full<Bytes>>) -> Answer {
        let (ours, theirs) = tokio::io::duplex(256 << 10);
        let service = self.service.clone();
        let server = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(theirs), service);
        tokio::spawn(server);
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(ours)).await.unwrap();
        tokio::spawn(connection);
        let answer = sender.send_request(request).await.unwrap();
        let (parts, body) = answer.into_parts();
        let body = body.collect().await.map(http_body_util::Collected::to_bytes);
        Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: body.unwrap_or_default(),
        }
    }
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The first element of that name.
    pub fn tag(&self, name: &str) -> String {
        self.tags(name).into_iter().next().unwrap_or_default()
    }

    /// Every element of that name, undecoded.
    pub fn tags(&self, name: &str) -> Vec<String> {
        let text = self.text();
        let (open, close) = (format!("<{name}>"), format!("</{name}>"));
        let pieces = text.split(&open).skip(1);
        pieces.filter_map(|piece| Some(piece.split_once(&close)?.0.to_owned())).collect()
    }

    /// Asserts an error.
    #[track_caller]
    pub fn refused(&self, status: u16, code: &str) {
        assert_eq!((self.status, self.tag("Code").as_str()), (status, code), "{}", self.text());
    }

    #[track_caller]
    pub fn ok(&self) -> &Self {
        assert!((200..300).contains(&self.status), "{} {}", self.status, self.text());
        self
    }
}

/// What `x-amz-content-sha256` says.
#[derive(Clone)]
pub enum Payload {
    Hash,
    Literal(&'static str),
}

/// A request to be signed.
#[derive(Clone)]
pub struct Call {
    pub method: String,
    /// Percent-encoded already.
    pub path: String,
    pub query: Vec<(String, String)>,
    /// Signed.
    pub headers: Vec<(String, String)>,
    /// Added behind the signer's back.
    pub smuggled: Vec<(String, String)>,
    pub body: Bytes,
    pub payload: Payload,
    pub at: u64,
    pub access_key: String,
    pub secret_key: String,
}

impl Call {
    pub fn new(method: &str, path: &str) -> Self {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let query = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (name.to_owned(), value.to_owned())
        });
        Self {
            method: method.to_owned(),
            path: path.to_owned(),
            query: query.collect(),
            headers: Vec::new(),
            smuggled: Vec::new(),
            body: Bytes::new(),
            payload: Payload::Hash,
            at: now(),
            access_key: ACCESS_KEY.to_owned(),
            secret_key: SECRET_KEY.to_owned(),
        }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn smuggle(mut self, name: &str, value: &str) -> Self {
        self.smuggled.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    pub fn payload(mut self, literal: &'static str) -> Self {
        self.payload = Payload::Literal(literal);
        self
    }

    pub fn at(mut self, seconds: u64) -> Self {
        self.at = seconds;
        self
    }

    pub async fn send(self, harness: &Harness) -> Answer {
        harness.exchange(sign::signed(self).request).await
    }

    pub async fn send_presigned(self, harness: &Harness, expires: i64) -> Answer {
        harness.exchange(sign::presigned(self, expires)).await
    }
}

/// Sends a signed call and returns the answer.
pub async fn get(harness: &Harness, path: &str) -> Answer {
    Call::new("GET", path).send(harness).await
}

pub async fn put(harness: &Harness, path: &str, body: &'static [u8]) -> Answer {
    Call::new("PUT", path).body(body).send(harness).await
}
